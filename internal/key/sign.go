package key

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	_ "crypto/sha256" // links SHA-256
	_ "crypto/sha512" // links SHA-384 and SHA-512
	"fmt"

	"github.com/sealwright/sealwright/internal/signing"
)

// Sign signs the bytes of in with key id: ECDSA gives ASN.1 DER, RSA the
// padding that in names (PSS with a salt as long as the hash), Ed25519 the pure
// form of RFC 8032 over the bytes themselves. It uses the key at most once, and
// not at all once ctx is done or if in does not fit the key. The signature has
// been verified with the public half when it is returned.
//
// Sign does not ask whether the key may be used: Permit does.
//
// Errors: NotFound for an unknown id; Invalid for an intent that does not fit
// the key; Unavailable if the key did not answer or failed, in which case it may
// have been used; Internal if its signature does not verify.
func (r *Ring) Sign(ctx context.Context, id string, in signing.Intent) ([]byte, error) {
	k, ok := r.keys[id]
	if err := r.off[id]; err != nil {
		return nil, err
	}
	if !ok {
		return nil, &signing.Error{Code: signing.NotFound, Message: fmt.Sprintf("there is no key %q", id)}
	}
	return r.sign(ctx, k, in)
}

func (r *Ring) sign(ctx context.Context, k *Key, in signing.Intent) ([]byte, error) {
	opts, err := signerOpts(k.Public, in)
	if err != nil {
		return nil, err
	}
	input := in.Bytes
	if in.Hash != 0 {
		h := in.Hash.New()
		h.Write(in.Bytes)
		input = h.Sum(nil)
	}
	raw, err := r.use(ctx, k, input, opts)
	if err != nil {
		return nil, err
	}
	// A backend may ignore what it was asked for (padding, hash), and a faulty
	// one may leak the key through a wrong signature: it does not get out.
	if err := verify(k.Public, in, raw); err != nil {
		return nil, &signing.Error{Code: signing.Internal, Message: "key " + k.ID + " gave a signature that its public half does not verify", Fix: "examine the key's backend before using the key again", Err: err}
	}
	return raw, nil
}

// use calls the signer once, and waits for it no longer than ctx and the
// timeout of the ring. A crypto.Signer cannot be interrupted: an answer that
// comes later is dropped.
func (r *Ring) use(ctx context.Context, k *Key, input []byte, opts crypto.SignerOpts) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, r.o.Timeout)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return nil, &signing.Error{Code: signing.Unavailable, Message: "key " + k.ID + " was not used: the work was interrupted", Err: err}
	}
	select {
	case k.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, &signing.Error{Code: signing.Unavailable, Message: "key " + k.ID + " is busy", Found: fmt.Sprintf("%d uses of it unanswered", maxInFlight), Err: ctx.Err()}
	}
	signer, err := k.signer(ctx)
	if err != nil {
		<-k.slots
		return nil, err
	}
	type answer struct {
		raw []byte
		err error
	}
	done := make(chan answer, 1)
	go func() {
		defer func() { <-k.slots }()
		// From here on the key is used.
		raw, err := signer.Sign(r.o.Rand, input, opts)
		done <- answer{raw, err}
	}()
	select {
	case a := <-done:
		if a.err != nil {
			if k.failed != nil {
				k.failed()
			}
			return nil, &signing.Error{Code: signing.Unavailable, Message: "key " + k.ID + " failed to sign", Err: a.err}
		}
		return a.raw, nil
	case <-ctx.Done():
		return nil, &signing.Error{Code: signing.Unavailable, Message: "key " + k.ID + " did not answer in time", Expected: "an answer within " + r.o.Timeout.String(), Err: ctx.Err()}
	}
}

// signerOpts checks that an intent fits a key, and returns what crypto.Signer
// wants to be told.
func signerOpts(public crypto.PublicKey, in signing.Intent) (crypto.SignerOpts, error) {
	refuse := func(message, expected, found string) (crypto.SignerOpts, error) {
		return nil, &signing.Error{Code: signing.Invalid, Message: message, Expected: expected, Found: found}
	}
	if len(in.Bytes) == 0 {
		return refuse("nothing to sign", "bytes", "none")
	}
	if isEd25519(public) {
		if in.Hash != 0 || in.Padding != "" {
			return refuse("an Ed25519 key signs the bytes themselves", "no hash and no padding", fmt.Sprintf("hash %d, padding %q", in.Hash, in.Padding))
		}
		return crypto.Hash(0), nil
	}
	switch in.Hash {
	case crypto.SHA256, crypto.SHA384, crypto.SHA512:
	default:
		return refuse("the hash is not one that we sign", "SHA-256, SHA-384 or SHA-512", fmt.Sprintf("hash %d", in.Hash))
	}
	_, isRSA := public.(*rsa.PublicKey)
	switch {
	case isRSA && in.Padding == signing.PSS:
		return &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: in.Hash}, nil
	case isRSA && in.Padding != signing.PKCS1v15:
		return refuse("an RSA key needs to be told its padding", "pkcs1v15 or pss", fmt.Sprintf("%q", in.Padding))
	case !isRSA && in.Padding != "":
		return refuse("only RSA has a padding", "none", fmt.Sprintf("%q", in.Padding))
	}
	return in.Hash, nil
}

// verify checks a raw signature over in. It assumes that signerOpts accepted in.
func verify(public crypto.PublicKey, in signing.Intent, raw []byte) error {
	if p, ok := public.(ed25519.PublicKey); ok {
		if !ed25519.Verify(p, in.Bytes, raw) {
			return fmt.Errorf("ed25519: the signature of %d bytes is wrong", len(raw))
		}
		return nil
	}
	h := in.Hash.New()
	h.Write(in.Bytes)
	sum := h.Sum(nil)
	switch p := public.(type) {
	case *ecdsa.PublicKey:
		if !ecdsa.VerifyASN1(p, sum, raw) {
			return fmt.Errorf("ecdsa: the signature of %d bytes is wrong", len(raw))
		}
		return nil
	case *rsa.PublicKey:
		if in.Padding == signing.PSS {
			return rsa.VerifyPSS(p, in.Hash, sum, raw, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		}
		return rsa.VerifyPKCS1v15(p, in.Hash, sum, raw)
	default:
		return fmt.Errorf("no way to verify with %T", public)
	}
}

func isEd25519(public crypto.PublicKey) bool {
	_, ok := public.(ed25519.PublicKey)
	return ok
}
