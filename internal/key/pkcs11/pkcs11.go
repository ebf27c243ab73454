// Package pkcs11 opens keys of hardware security modules for internal/key, over
// PKCS#11. It is the one package of this module that loads code of others while it
// runs, and needs cgo and a C library that can: the static program is built without it.
//
// One connection serves all keys of a token. Nothing here decides what a key may
// serve, and nothing holds a private key: the module does.
package pkcs11

import (
	"context"
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"

	"github.com/sealwright/sealwright/internal/key"
	"github.com/sealwright/sealwright/internal/signing"
)

// maxSessions bounds the sessions with one token: a key has at most 64 uses in
// flight, and modules have some hundred sessions for all their clients.
const maxSessions = 32

// Backend connects to tokens. It may be used by many goroutines.
type Backend struct {
	mu   sync.Mutex
	open map[token]*crypto11.Context // guarded by mu
}

var _ key.Backend = (*Backend)(nil)

// token names a token of a module.
type token struct{ module, label string }

// New returns a Backend without a connection.
func New() *Backend { return &Backend{open: map[token]*crypto11.Context{}} }

// signer is a key of a token, and the connection that it was opened with.
type signer struct {
	crypto.Signer
	of   token
	with *crypto11.Context
}

// Open finds a key. Unavailable is the error where the module cannot be loaded, has
// no such token now, or does not answer. A PIN that the token refuses is Denied: it
// must not be sent again, since tokens lock themselves. A token without the key is
// NotFound.
func (b *Backend) Open(ctx context.Context, at key.PKCS11, pin []byte) (crypto.Signer, error) {
	type answer struct {
		s   crypto.Signer
		err error
	}
	done := make(chan answer, 1)
	go func() { // the module's calls cannot be interrupted
		s, err := b.find(at, string(pin))
		done <- answer{s, err}
	}()
	select {
	case a := <-done:
		return a.s, a.err
	case <-ctx.Done():
		return nil, away(at, ctx.Err())
	}
}

func (b *Backend) find(at key.PKCS11, pin string) (crypto.Signer, error) {
	of := token{at.Module, at.Token}
	c, err := b.connect(of, at, pin)
	if err != nil {
		return nil, err
	}
	var id, label []byte
	if at.ID != "" {
		if id, err = hex.DecodeString(at.ID); err != nil {
			return nil, &signing.Error{Code: signing.Invalid, Message: "not the id of a key", Expected: "hex digits", Found: at.ID}
		}
	}
	if at.Label != "" {
		label = []byte(at.Label)
	}
	all, err := c.FindKeyPairs(id, label)
	switch {
	case err != nil:
		b.Drop(signer{of: of, with: c})
		return nil, away(at, err)
	case len(all) != 1:
		return nil, &signing.Error{Code: signing.NotFound, Message: "the token does not have this key once", Expected: fmt.Sprintf("one pair of a private and a public key with label %q and id %q on token %q", at.Label, at.ID, at.Token), Found: fmt.Sprint(len(all)), Fix: "look with `pkcs11-tool --module MODULE --login --list-objects`; the public key must be there too, with the same id"}
	}
	return signer{all[0], of, c}, nil
}

// connect returns the connection to a token.
func (b *Backend) connect(of token, at key.PKCS11, pin string) (*crypto11.Context, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.open[of]; c != nil {
		return c, nil
	}
	c, err := crypto11.Configure(&crypto11.Config{Path: of.module, TokenLabel: of.label, Pin: pin, MaxSessions: maxSessions})
	var code pkcs11.Error
	switch {
	case errors.As(err, &code) && wrongPIN(code):
		return nil, &signing.Error{Code: signing.Denied, Message: "the token refuses the PIN", Expected: "the PIN of token " + of.label, Found: code.Error(), Fix: "correct the PIN and start again: it was sent once, and a token that gets wrong PINs locks itself"}
	case err != nil:
		return nil, away(at, err)
	}
	b.open[of] = c
	return c, nil
}

func wrongPIN(code pkcs11.Error) bool {
	switch code {
	case pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_LOCKED, pkcs11.CKR_PIN_EXPIRED, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE, pkcs11.CKR_USER_PIN_NOT_INITIALIZED:
		return true
	}
	return false
}

func away(at key.PKCS11, err error) error {
	return &signing.Error{Code: signing.Unavailable, Message: "a key's module cannot be reached", Expected: "module " + at.Module + " with token " + at.Token, Found: err.Error(), Fix: "check the path of the module, its configuration and its network"}
}

// Drop closes the connection of a signer, for all keys of its token.
func (b *Backend) Drop(s crypto.Signer) {
	of, ok := s.(signer)
	if !ok {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open[of.of] != of.with {
		return // closed already
	}
	delete(b.open, of.of)
	// Close waits for uses under way, which a module that hangs never ends.
	go func() { _ = of.with.Close() }() // it was broken
}

// Close closes every connection.
func (b *Backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var errs []error
	for of, c := range b.open {
		errs = append(errs, c.Close())
		delete(b.open, of)
	}
	return errors.Join(errs...)
}
