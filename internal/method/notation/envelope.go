package notation

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"math/big"

	"github.com/notaryproject/notation-core-go/signature"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/signing"
)

// seal makes the envelope of r around a signature that the key made before. It
// holds the chain against the specification's rules at the signing time, and does
// not verify the signature.
func (r replay) seal(k signing.KeyInfo, raw []byte) ([]byte, error) {
	e, err := r.make(&replayed{spec: keySpecs[r.Algorithm], raw: raw, chain: k.Chain})
	if err != nil {
		return nil, foreign(k, err)
	}
	if len(e) > MaxEnvelope {
		return nil, &signing.Error{Code: signing.TooLarge, Message: "the envelope is too large", Expected: fmt.Sprintf("at most %d bytes", MaxEnvelope), Found: fmt.Sprintf("%d bytes", len(e)), Fix: "sign less user metadata, or use a shorter certificate chain"}
	}
	return e, nil
}

// foreign is the refusal of a signature that the key did not make.
func foreign(k signing.KeyInfo, err error) error {
	return &signing.Error{Code: signing.Denied, Message: "the signature is not one of key " + k.ID + " over these bytes", Expected: "a signature that the key's certificate verifies", Err: err}
}

// replayed is a signer that returns what was signed before.
type replayed struct {
	spec  signature.KeySpec
	raw   []byte
	chain []*x509.Certificate
}

func (s *replayed) KeySpec() (signature.KeySpec, error) { return s.spec, nil }

func (s *replayed) Sign([]byte) ([]byte, []*x509.Certificate, error) { return s.raw, s.chain, nil }

// verifiedContent parses an envelope and verifies its signature with its own
// leaf certificate. Whose certificate that is, the caller asks.
func verifiedContent(mediaType string, e []byte) (*signature.EnvelopeContent, error) {
	if len(e) > MaxEnvelope {
		return nil, fmt.Errorf("an envelope of %d bytes; at most %d", len(e), MaxEnvelope)
	}
	env, err := signature.ParseEnvelope(mediaType, e)
	if err != nil {
		return nil, fmt.Errorf("reading the envelope: %w", err)
	}
	content, err := env.Verify()
	if err != nil {
		return nil, fmt.Errorf("verifying the envelope: %w", err)
	}
	return content, nil
}

// fixedWidth returns a raw signature in the form that JWS and COSE want: for
// ECDSA both numbers, each as wide as the curve, in place of ASN.1.
func fixedWidth(public crypto.PublicKey, raw []byte) ([]byte, error) {
	ec, ok := public.(*ecdsa.PublicKey)
	if !ok {
		return raw, nil
	}
	var n struct{ R, S *big.Int }
	rest, err := asn1.Unmarshal(raw, &n)
	size := (ec.Curve.Params().BitSize + 7) / 8
	if err != nil || len(rest) > 0 || n.R.Sign() <= 0 || n.S.Sign() <= 0 || n.R.BitLen() > 8*size || n.S.BitLen() > 8*size {
		return nil, &signing.Error{Code: signing.Denied, Message: "the signature is not one of an ECDSA key", Expected: "two numbers in ASN.1 DER", Found: fmt.Sprintf("%d bytes", len(raw)), Err: err}
	}
	out := make([]byte, 2*size)
	n.R.FillBytes(out[:size])
	n.S.FillBytes(out[size:])
	return out, nil
}

// open reads an envelope and holds it against the target: it may come from an
// altered database. It is accepted if, made again from the target with the
// signing time and the signature that it names, it is the same byte for byte.
func (m *Method) open(t method.Target, e signing.Envelope) (replay, error) {
	refuse := func(found string, err error) (replay, error) {
		return replay{}, &signing.Error{Code: signing.Denied, Message: "the envelope is not one that this method made for the key", Expected: Name + " by key " + t.Key.ID + " with its present certificates", Found: found, Fix: "if the key's certificates were renewed, submit again; if not, the stored envelope was altered: keep the database for examination", Err: err}
	}
	key, err := memoKey(t, e)
	if err != nil {
		return replay{}, err
	}
	if r, ok := m.opened.get(key); ok {
		return r, nil
	}
	o, err := readOptions(t.Options)
	if err != nil {
		return replay{}, err
	}
	if e.Method != Name || e.MediaType != mediaTypes[o.format] || e.KeyID != t.Key.ID {
		return refuse(fmt.Sprintf("%.64q of %.128q by key %.64q", e.Method, e.MediaType, e.KeyID), nil)
	}
	content, err := verifiedContent(e.MediaType, e.Bytes)
	if err != nil {
		return refuse("one that does not verify", err)
	}
	r, err := replayFor(t, content.SignerInfo.SignedAttributes.SigningTime)
	if err != nil {
		return replay{}, err
	}
	again, err := r.seal(t.Key, content.SignerInfo.Signature)
	if err != nil || !bytes.Equal(again, e.Bytes) {
		return refuse("one that says something else", err)
	}
	m.opened.put(key, r)
	return r, nil
}
