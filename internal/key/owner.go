package key

import (
	"context"
	"crypto"
	"io"

	"github.com/sealwright/sealwright/internal/config"
)

// OwnerKey is a key that a command uses once, of a person, and that is in no keys
// file: the root of a repository, say.
type OwnerKey struct {
	File, Passphrase config.Secret
	PKCS11           PKCS11 // in place of File
}

// OpenOwner opens a key and proves possession. What it returns shows its public
// half and signs, and never shows the private one.
func OpenOwner(ctx context.Context, k OwnerKey, o Options) (crypto.Signer, error) {
	const id = "owner"
	c := Config{ID: id, File: k.File, Passphrase: k.Passphrase, PKCS11: k.PKCS11, Methods: []string{"dct"}, Allow: []Allow{{Project: id, Policy: id, Repositories: []string{"localhost/*"}}}}
	ring, err := Open(ctx, []Config{c}, o)
	if err != nil {
		return nil, err
	}
	if err := ring.off[id]; err != nil {
		return nil, err
	}
	s, err := ring.keys[id].signer(ctx)
	if err != nil {
		return nil, err
	}
	return opaque{s.Public, s.Sign}, nil
}

// opaque is a signer that a package which prints or walks values cannot look into.
type opaque struct {
	public func() crypto.PublicKey
	sign   func(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error)
}

// Public returns the public half.
func (o opaque) Public() crypto.PublicKey { return o.public() }

// Sign implements crypto.Signer.
func (o opaque) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return o.sign(rand, digest, opts)
}
