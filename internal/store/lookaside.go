package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// MaxLookaside bounds the signatures of one manifest: clients ask for one after
	// the other and stop at some number of their own, 128 in containers/image.
	MaxLookaside = 128
	// MaxSimpleSignature bounds a signature in bytes: an OpenPGP message of RSA 4096
	// over a payload of 300 bytes takes less than 2 KiB.
	MaxSimpleSignature = 16 << 10
)

// Lookaside keeps the simple signatures that the service serves, by what they are
// about, "registry.acme.dev/payments/web@sha256=<hex>". It verifies no signature:
// those who read them do.
type Lookaside struct{ store *Store }

// Lookaside returns the simple signatures of the store.
func (s *Store) Lookaside() Lookaside { return Lookaside{s} }

// Put adds a signature, whose digest is given, and returns its number: the next,
// from 1 without gaps, or the one that equal bytes have already. TooLarge says that
// there is no room for another.
func (l Lookaside) Put(ctx context.Context, path string, digest signing.Digest, signature []byte) (n int, err error) {
	if err := validLookaside(path); err != nil {
		return 0, err
	}
	if got := signing.DigestOf(signature); got != digest {
		return 0, &signing.Error{Code: signing.Invalid, Message: "the signature does not have the digest that it comes with", Expected: string(digest), Found: string(got)}
	}
	if len(signature) == 0 || len(signature) > MaxSimpleSignature {
		return 0, &signing.Error{Code: signing.TooLarge, Message: "not a simple signature", Expected: fmt.Sprintf("1 to %d bytes", MaxSimpleSignature), Found: fmt.Sprintf("%d bytes", len(signature))}
	}
	err = l.store.Update(ctx, "lookaside", func(tx *Tx) error {
		found, err := tx.row([]any{&n}, "SELECT n FROM lookaside WHERE path = ? AND digest = ?", path, string(digest))
		if err != nil {
			return err
		}
		if found {
			_, err := tx.lookaside(path, n) // it may have been altered
			return err
		}
		if _, err := tx.row([]any{&n}, "SELECT coalesce(max(n), 0) + 1 FROM lookaside WHERE path = ?", path); err != nil {
			return err
		}
		if n > MaxLookaside {
			return &signing.Error{Code: signing.TooLarge, Message: "too many signatures of one image", Expected: fmt.Sprintf("at most %d", MaxLookaside), Found: path, Fix: "build the image anew, or take old signatures out of the lookaside"}
		}
		_, err = tx.exec("INSERT INTO lookaside (path, n, digest, signature) VALUES (?, ?, ?, ?)", path, n, string(digest), signature)
		return err
	})
	return n, err
}

// Get returns the n-th signature of path, from 1, or NotFound.
func (l Lookaside) Get(ctx context.Context, path string, n int) (signature []byte, err error) {
	if err := validLookaside(path); err != nil {
		return nil, err
	}
	err = l.store.View(ctx, func(tx *Tx) error {
		signature, err = tx.lookaside(path, n)
		return err
	})
	return signature, err
}

// List returns the signatures of path in order, none if there is none.
func (l Lookaside) List(ctx context.Context, path string) (signatures [][]byte, err error) {
	if err := validLookaside(path); err != nil {
		return nil, err
	}
	err = l.store.View(ctx, func(tx *Tx) error {
		last := 0
		if _, err := tx.row([]any{&last}, "SELECT coalesce(max(n), 0) FROM lookaside WHERE path = ?", path); err != nil {
			return err
		}
		if last > MaxLookaside {
			return Tampered("lookaside", "the list of signatures of "+path, fmt.Sprintf("a signature %d", last))
		}
		for n := 1; n <= last; n++ {
			s, err := tx.lookaside(path, n)
			if errors.Is(err, signing.NotFound) {
				return Tampered("lookaside", "the list of signatures of "+path, fmt.Sprintf("no signature %d where there is one %d", n, last))
			}
			if err != nil {
				return err
			}
			signatures = append(signatures, s)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return signatures, nil
}

// lookaside returns one signature. Altered bytes have another digest; a row that is
// missing below another was deleted.
func (tx *Tx) lookaside(path string, n int) ([]byte, error) {
	var digest string
	var signature []byte
	found, err := tx.row([]any{&digest, &signature}, "SELECT digest, signature FROM lookaside WHERE path = ? AND n = ?", path, n)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, &signing.Error{Code: signing.NotFound, Message: "no such signature", Found: fmt.Sprintf("%s/signature-%d", path, n)}
	}
	if got := signing.DigestOf(signature); string(got) != digest {
		return nil, Tampered("lookaside", fmt.Sprintf("signature %d of %s", n, path), string(got)+" where "+digest+" should be")
	}
	return signature, nil
}

// validLookaside refuses what is not REPOSITORY@sha256=HEX.
func validLookaside(path string) error {
	repository, hex, ok := strings.Cut(path, "@sha256=")
	if !ok || signing.Repository(repository).Validate() != nil || signing.Digest("sha256:"+hex).Validate() != nil {
		return &signing.Error{Code: signing.Invalid, Message: "not a place of a lookaside", Expected: "HOST/PATH@sha256= and 64 lower-case hex digits", Found: fmt.Sprintf("%.140q", path)}
	}
	return nil
}
