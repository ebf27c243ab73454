package openpgp

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"math/big"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/sealwright/sealwright/internal/signing"
)

// A signature is made in two passes. The first runs the library over a signer that
// signs nothing, and keeps what it hashes: these are the bytes to be signed. The
// second runs it over a signer that returns the raw signature. No salt is added:
// the bytes follow from the content, the key and the time alone.

// Draft is what a key is to sign.
type Draft struct {
	// Bytes are what is hashed and signed: the content, and behind it the hashed
	// part of the signature packet with its trailer (RFC 9580, section 5.2.4).
	Bytes   []byte
	Hash    crypto.Hash
	Padding signing.Padding
}

// recorder is a hash that keeps what it is given.
type recorder struct {
	hash.Hash
	bytes.Buffer
}

func (r *recorder) Write(b []byte) (int, error) {
	r.Buffer.Write(b)
	return r.Hash.Write(b)
}
func (r *recorder) Reset() { r.Buffer.Reset(); r.Hash.Reset() }

// replay is a signer that gives one answer.
type replay struct {
	public crypto.PublicKey
	raw    []byte
}

func (r replay) Public() crypto.PublicKey                                  { return r.public }
func (r replay) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return r.raw, nil }

// algorithm returns how a key signs. The hash is as strong as the curve: gpg
// refuses less.
func algorithm(public crypto.PublicKey) (crypto.Hash, signing.Padding) {
	switch p := public.(type) {
	case *rsa.PublicKey:
		return crypto.SHA256, signing.PKCS1v15
	case *ecdsa.PublicKey:
		switch size := p.Curve.Params().BitSize; {
		case size > 384:
			return crypto.SHA512, ""
		case size > 256:
			return crypto.SHA384, ""
		}
	}
	return crypto.SHA256, ""
}

// nothing is a raw signature that is well formed and signs nothing.
func nothing(public crypto.PublicKey) ([]byte, error) {
	if _, ok := public.(*rsa.PublicKey); ok {
		return []byte{1}, nil
	}
	return asn1.Marshal(struct{ R, S *big.Int }{big.NewInt(1), big.NewInt(1)})
}

// sign runs the library over raw: it returns the finished signature packet, and
// what a key signs for it. content is written to the hash first.
func (c *Certificate) sign(sig *packet.Signature, content func(io.Writer) error, raw []byte) (Draft, error) {
	h, padding := algorithm(c.Public)
	if raw == nil {
		var err error
		if raw, err = nothing(c.Public); err != nil {
			return Draft{}, err
		}
	}
	sig.Version, sig.PubKeyAlgo, sig.Hash, sig.IssuerKeyId = 4, c.key.PubKeyAlgo, h, &c.key.KeyId
	record := &recorder{Hash: h.New()}
	if err := content(record); err != nil {
		return Draft{}, err
	}
	unsalted := false
	key := &packet.PrivateKey{PublicKey: *c.key, PrivateKey: replay{c.Public, raw}}
	if err := sig.Sign(record, key, &packet.Config{NonDeterministicSignaturesViaNotation: &unsalted, DefaultHash: h}); err != nil {
		return Draft{}, fmt.Errorf("making an OpenPGP signature: %w", err)
	}
	return Draft{Bytes: record.Bytes(), Hash: h, Padding: padding}, nil
}

// verifyRaw verifies a signature as the key made it.
func (c *Certificate) verifyRaw(d Draft, raw []byte) error {
	h := d.Hash.New()
	h.Write(d.Bytes)
	sum, good := h.Sum(nil), false
	switch p := c.Public.(type) {
	case *rsa.PublicKey:
		good = rsa.VerifyPKCS1v15(p, d.Hash, sum, raw) == nil
	case *ecdsa.PublicKey:
		good = ecdsa.VerifyASN1(p, sum, raw)
	}
	if !good {
		return &signing.Error{Code: signing.Denied, Message: "the signature is not one of the OpenPGP key over these bytes", Expected: "a signature that the key's public half verifies", Found: fmt.Sprintf("%d bytes", len(raw))}
	}
	return nil
}

func message(at time.Time) *packet.Signature {
	return &packet.Signature{SigType: packet.SigTypeBinary, CreationTime: at}
}

func written(content []byte) func(io.Writer) error {
	return func(w io.Writer) error { _, err := w.Write(content); return err }
}

// Draft returns what the key is to sign for a message with the content, signed at
// a time, of which the seconds count.
func (c *Certificate) Draft(content []byte, at time.Time) (Draft, error) {
	return c.sign(message(at), written(content), nil)
}

// Message makes the signed message of a Draft from the raw signature of the key:
// a one-pass signature, the content, and the signature. The same arguments give
// the same message. It verifies raw, and refuses bytes that Draft did not make.
func (c *Certificate) Message(d Draft, raw []byte) ([]byte, error) {
	content, said, err := Split(d.Bytes)
	if err != nil {
		return nil, err
	}
	again, err := c.Draft(content, said.Created)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again.Bytes, d.Bytes) || again.Hash != d.Hash || again.Padding != d.Padding {
		return nil, &signing.Error{Code: signing.Denied, Message: "the bytes to be signed are not for this OpenPGP key", Expected: "fingerprint " + c.Fingerprint(), Found: "fingerprint " + fmt.Sprintf("%X", said.Fingerprint)}
	}
	if err := c.verifyRaw(d, raw); err != nil {
		return nil, err
	}
	sig := message(said.Created)
	if _, err := c.sign(sig, written(content), raw); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	head := &packet.OnePassSignature{Version: 3, SigType: sig.SigType, Hash: sig.Hash, PubKeyAlgo: sig.PubKeyAlgo, KeyId: c.key.KeyId, IsLast: true}
	if err := head.Serialize(&out); err != nil {
		return nil, fmt.Errorf("making an OpenPGP message: %w", err)
	}
	// Neither a file name nor its time: they are not signed.
	literal, err := packet.SerializeLiteral(unclosed{&out}, true, "", 0)
	if err == nil {
		_, err = literal.Write(content)
	}
	if err == nil {
		err = literal.Close()
	}
	if err == nil {
		err = sig.Serialize(&out)
	}
	if err != nil {
		return nil, fmt.Errorf("making an OpenPGP message: %w", err)
	}
	return out.Bytes(), nil
}

type unclosed struct{ io.Writer }

func (unclosed) Close() error { return nil }

// Trailer is what the bytes of a Draft say behind the content.
type Trailer struct {
	Algorithm   byte // RFC 9580, section 9.1
	Hash        crypto.Hash
	Created     time.Time // of the signature
	Fingerprint []byte
}

// Padding returns the padding of the key's kind.
func (t Trailer) Padding() signing.Padding {
	if packet.PublicKeyAlgorithm(t.Algorithm) == packet.PubKeyAlgoRSA {
		return signing.PKCS1v15
	}
	return ""
}

// trailerLength is that of what Draft puts behind the content: four bytes and the
// length of the subpackets; time, issuer's key id and issuer's fingerprint; and
// six bytes that repeat version and length.
const trailerLength = 6 + (2 + 4) + (2 + 8) + (2 + 1 + fingerprintLength) + 6

// fingerprintLength is that of a key of version 4.
const fingerprintLength = 20

// The identifiers of RFC 9580: section 5.2.3.7 for subpackets, 9.5 for hashes.
const (
	subCreated, subIssuer, subFingerprint = 2, 16, 33
	critical                              = 0x80
)

// bytes is the exact form of a trailer.
func (t Trailer) bytes() []byte {
	id := map[crypto.Hash]byte{crypto.SHA256: 8, crypto.SHA384: 9, crypto.SHA512: 10}[t.Hash]
	var sub []byte
	sub = binary.BigEndian.AppendUint32(append(sub, 5, subCreated|critical), uint32(t.Created.Unix()))
	sub = append(append(sub, 9, subIssuer), t.Fingerprint[fingerprintLength-8:]...)
	sub = append(append(sub, 2+fingerprintLength, subFingerprint, 4), t.Fingerprint...)
	out := []byte{4, byte(packet.SigTypeBinary), t.Algorithm, id, 0, byte(len(sub))}
	out = append(out, sub...)
	return binary.BigEndian.AppendUint32(append(out, 4, 0xff), uint32(6+len(sub)))
}

// Split parses the bytes of a Draft back. Only bytes that Draft makes, for any key
// that it signs with, are accepted.
func Split(signed []byte) (content []byte, t Trailer, err error) {
	refuse := &signing.Error{Code: signing.Denied, Message: "the bytes to be signed are not an OpenPGP signature that this service makes", Expected: "a binary signature of version 4 with time and issuer", Found: "something else", Fix: "the stored intent was altered: keep the database for examination and submit again"}
	n := len(signed) - trailerLength
	if n < 0 {
		return nil, t, refuse
	}
	end := signed[n:]
	t = Trailer{
		Algorithm:   end[2],
		Hash:        map[byte]crypto.Hash{8: crypto.SHA256, 9: crypto.SHA384, 10: crypto.SHA512}[end[3]],
		Created:     time.Unix(int64(binary.BigEndian.Uint32(end[8:12])), 0).UTC(),
		Fingerprint: bytes.Clone(end[trailerLength-6-fingerprintLength : trailerLength-6]),
	}
	algorithm := packet.PublicKeyAlgorithm(t.Algorithm)
	if t.Hash == 0 || algorithm != packet.PubKeyAlgoRSA && algorithm != packet.PubKeyAlgoECDSA || !bytes.Equal(t.bytes(), end) {
		return nil, t, refuse
	}
	return signed[:n], t, nil
}
