package openpgp

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// MaxMessage bounds a signed message: a payload of some hundred bytes and a
	// signature of at most 512; containers/image reads 4 MB.
	MaxMessage = 16 << 10
	// MaxContent bounds what a message may hold, also compressed.
	MaxContent = 8 << 10
)

// Message is what a signed message says.
type Message struct {
	Content []byte
	Signed  time.Time
}

func refuse(message, expected, found string, err error) (Message, error) {
	return Message{}, &signing.Error{Code: signing.Denied, Message: message, Expected: expected, Found: found, Fix: "have the image signed anew", Err: err}
}

// Open verifies a signed message: one content, signed once by the primary key of
// the certificate, which must be valid at now. A compressed message is one too: gpg
// makes such. It accepts nothing beside it, no signature that has expired or that
// is older than the key, and no hash that is weaker than SHA-256.
func (c *Certificate) Open(raw []byte, now time.Time) (Message, error) {
	if err := c.Valid(now); err != nil {
		return Message{}, err
	}
	if len(raw) > MaxMessage {
		return refuse("the signature is too large", fmt.Sprintf("at most %d bytes", MaxMessage), fmt.Sprintf("%d bytes", len(raw)), nil)
	}
	m, err := split(raw)
	if err != nil {
		return refuse("not an OpenPGP message with one signature", "a one-pass signature, a content and the signature, and nothing else", "something else", err)
	}
	sig := m.signature
	switch {
	case sig.Version != 4 || sig.SigType != packet.SigTypeBinary:
		return refuse("not a signature over a binary content", "version 4, type 0", fmt.Sprintf("version %d, type %d", sig.Version, sig.SigType), nil)
	case !slices.Contains([]crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512}, sig.Hash):
		return refuse("the hash of the signature is weak", "SHA-256, SHA-384 or SHA-512", sig.Hash.String(), nil)
	case m.head.Hash != sig.Hash || m.head.PubKeyAlgo != sig.PubKeyAlgo || m.head.SigType != sig.SigType:
		return refuse("the message announces another signature than it has", "the same twice", "another hash, algorithm or type", nil)
	case !sig.CheckKeyIdOrFingerprint(c.key) || m.head.KeyId != c.key.KeyId:
		return refuse("the signature is by another OpenPGP key", "fingerprint "+c.Fingerprint(), fmt.Sprintf("key id %016X", m.head.KeyId), nil)
	case sig.CreationTime.Before(c.Created):
		return refuse("the signature is older than its key", c.Created.Format(time.RFC3339)+" or later", sig.CreationTime.UTC().Format(time.RFC3339), nil)
	case sig.SigLifetimeSecs != nil && *sig.SigLifetimeSecs != 0 && sig.SigExpired(now):
		return refuse("the signature has expired", "one that is valid now", "one of "+sig.CreationTime.UTC().Format(time.RFC3339), nil)
	}
	h := sig.Hash.New()
	h.Write(m.content)
	if err := c.key.VerifySignature(h, sig); err != nil {
		return refuse("the signature does not verify", "one by fingerprint "+c.Fingerprint()+" over this content", "another, or an altered content", err)
	}
	return Message{Content: m.content, Signed: sig.CreationTime.UTC()}, nil
}

// Exact opens a message that Message made: no byte may be different from what
// Message makes of the same content, time and signature. The certificate must be
// valid at now; if that is zero, at the time that the message says.
func (c *Certificate) Exact(raw []byte, now time.Time) (Message, error) {
	if len(raw) > MaxMessage {
		return refuse("the signature is too large", fmt.Sprintf("at most %d bytes", MaxMessage), fmt.Sprintf("%d bytes", len(raw)), nil)
	}
	p, err := split(raw)
	if err != nil {
		return refuse("not an OpenPGP message with one signature", "a one-pass signature, a content and the signature, and nothing else", "something else", err)
	}
	if now.IsZero() {
		now = p.signature.CreationTime
	}
	said, err := c.Open(raw, now)
	if err != nil {
		return Message{}, err
	}
	d, err := c.Draft(said.Content, said.Signed)
	if err != nil {
		return Message{}, err
	}
	signature, err := rawSignature(c.Public, p.signature)
	if err != nil {
		return refuse("the signature is not in the form that this service makes", "an RSA or ECDSA signature", "something else", err)
	}
	again, err := c.Message(d, signature)
	if err != nil {
		return Message{}, err
	}
	if !bytes.Equal(again, raw) {
		return refuse("the signature is not in the form that this service makes", "the same bytes", "others around the same signature", nil)
	}
	return said, nil
}

// rawSignature returns the signature as the key made it.
func rawSignature(public crypto.PublicKey, sig *packet.Signature) ([]byte, error) {
	switch p := public.(type) {
	case *rsa.PublicKey:
		if sig.RSASignature == nil || len(sig.RSASignature.Bytes()) > p.Size() {
			return nil, errors.New("no RSA signature")
		}
		return new(big.Int).SetBytes(sig.RSASignature.Bytes()).FillBytes(make([]byte, p.Size())), nil
	case *ecdsa.PublicKey:
		if sig.ECDSASigR == nil || sig.ECDSASigS == nil {
			return nil, errors.New("no ECDSA signature")
		}
		return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(sig.ECDSASigR.Bytes()), new(big.Int).SetBytes(sig.ECDSASigS.Bytes())})
	}
	return nil, fmt.Errorf("no signature by a %T", public)
}

// parts are the packets of a message.
type parts struct {
	head      *packet.OnePassSignature
	content   []byte
	signature *packet.Signature
}

// split reads the packets of a message. The library's own reader of messages takes
// nested and repeated signatures and skips packets that it does not know; this one
// takes three packets.
func split(raw []byte) (parts, error) {
	outer := bytes.NewReader(raw)
	var r io.Reader = outer
	p, err := packet.Read(r)
	if err != nil {
		return parts{}, err
	}
	if z, ok := p.(*packet.Compressed); ok {
		inner, err := all(z.Body, MaxMessage)
		if err != nil {
			return parts{}, err
		}
		if outer.Len() > 0 {
			return parts{}, errors.New("something behind the message")
		}
		r = bytes.NewReader(inner)
		if p, err = packet.Read(r); err != nil {
			return parts{}, err
		}
	}
	head, ok := p.(*packet.OnePassSignature)
	if !ok || !head.IsLast {
		return parts{}, fmt.Errorf("a %T first", p)
	}
	if p, err = packet.Read(r); err != nil {
		return parts{}, err
	}
	literal, ok := p.(*packet.LiteralData)
	if !ok {
		return parts{}, fmt.Errorf("a %T for a content", p)
	}
	content, err := all(literal.Body, MaxContent)
	if err != nil {
		return parts{}, err
	}
	if p, err = packet.Read(r); err != nil {
		return parts{}, err
	}
	signature, ok := p.(*packet.Signature)
	if !ok {
		return parts{}, fmt.Errorf("a %T for a signature", p)
	}
	if n, err := r.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
		return parts{}, errors.New("something behind the signature")
	}
	return parts{head: head, content: content, signature: signature}, nil
}

// all reads at most most bytes.
func all(r io.Reader, most int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > most {
		return nil, errors.New("too large")
	}
	return b, nil
}
