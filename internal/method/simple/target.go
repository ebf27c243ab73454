package simple

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/sealwright/sealwright/internal/openpgp"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// MaxSignatures bounds the signatures of one digest: containers/image reads 128
	// and then gives up on the image.
	MaxSignatures = 128
	// MaxSignature bounds one signature in bytes.
	MaxSignature = openpgp.MaxMessage
	// Kind is that of a Location.
	Kind = "lookaside"
)

// Stored is a published signature, as it was read, and where.
type Stored struct {
	Location signing.Location
	Bytes    []byte
}

// Target is a place where simple signatures are published. Its methods may be
// called concurrently, also by other processes that have the same place.
//
// A place that cannot be asked is an error, and never one without signatures: only
// the answer that there is none is that.
type Target interface {
	// Read returns every signature of an artifact that a verifier sees, in order, the
	// way verifiers read them. It is bounded by MaxSignatures and MaxSignature.
	Read(ctx context.Context, a signing.Artifact) ([]Stored, error)
	// Add puts a signature where verifiers see it, beside and never in place of
	// others. For equal bytes that are there already it changes nothing.
	Add(ctx context.Context, a signing.Artifact, signature []byte) (signing.Location, error)
	// Base returns the URL for registries.d below which the signatures of the
	// registry host are, or "" if verifiers need none.
	Base(host string) string
}

// Path returns where the signatures of an artifact are below the base of its
// registry: what containers/image appends to it.
func Path(a signing.Artifact) string {
	return a.Repository.Path() + "@sha256=" + a.Digest.Hex()
}

// file names the signature of a number, from 1.
func file(n int) string { return "signature-" + strconv.Itoa(n) }

// ErrTaken says that a signature of that number is there.
var ErrTaken = errors.New("the number is taken")

// Numbered is a place that keeps signatures as signature-1, signature-2 and so on.
type Numbered interface {
	// Get returns what is at a path below the base, signing.NotFound if nothing is.
	Get(ctx context.Context, host, path string) ([]byte, error)
	// Create writes what is not there, wholly or not at all. It returns ErrTaken if
	// something is there, also if it came at the same moment.
	Create(ctx context.Context, host, path string, content []byte) error
}

// ReadNumbered reads the signatures below base with get: from 1 until there is
// none. What is behind a gap no verifier sees.
func ReadNumbered(ctx context.Context, a signing.Artifact, base string, get func(ctx context.Context, host, path string) ([]byte, error)) ([]Stored, error) {
	var out []Stored
	for n := 1; ; n++ {
		b, err := get(ctx, a.Repository.Host(), Path(a)+"/"+file(n))
		if errors.Is(err, signing.NotFound) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if n > MaxSignatures {
			return nil, full(a)
		}
		out = append(out, Stored{Location: located(a, base, n, b), Bytes: b})
	}
}

// AddNumbered puts a signature at the first number that is free. Whoever takes that
// number meanwhile keeps it.
func AddNumbered(ctx context.Context, a signing.Artifact, base string, p Numbered, signature []byte) (signing.Location, error) {
	host := a.Repository.Host()
	for n := 1; n <= MaxSignatures; n++ {
		path := Path(a) + "/" + file(n)
		there, err := p.Get(ctx, host, path)
		if errors.Is(err, signing.NotFound) {
			if err = p.Create(ctx, host, path, signature); err == nil {
				return located(a, base, n, signature), nil
			}
			if errors.Is(err, ErrTaken) {
				there, err = p.Get(ctx, host, path)
			}
		}
		if err != nil {
			return signing.Location{}, err
		}
		if bytes.Equal(there, signature) {
			return located(a, base, n, there), nil
		}
	}
	return signing.Location{}, full(a)
}

func full(a signing.Artifact) error {
	return &signing.Error{Code: signing.TooLarge, Message: "too many signatures of one image", Expected: fmt.Sprintf("at most %d, which is what verifiers read", MaxSignatures), Found: a.String(), Fix: "find out who signs this image again and again, then remove old signatures"}
}

func located(a signing.Artifact, base string, n int, signature []byte) signing.Location {
	return signing.Location{Kind: Kind, URI: strings.TrimSuffix(base, "/") + "/" + Path(a) + "/" + file(n), Digest: signing.DigestOf(signature)}
}
