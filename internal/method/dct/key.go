package dct

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"

	"github.com/sealwright/sealwright/internal/signing"
)

// The types of keys in metadata. Those with X.509 hold a PEM certificate, with its
// chain after it; the others the PKIX encoding, and Ed25519 its 32 bytes.
const (
	typeECDSA     = "ecdsa"
	typeECDSAX509 = "ecdsa-x509"
	typeRSA       = "rsa"
	typeRSAX509   = "rsa-x509"
	typeEd25519   = "ed25519"
)

// The methods of signatures, all over SHA-256 but Ed25519's.
const (
	methodECDSA  = "ecdsa" // r and s, each as wide as the curve, whatever the curve
	methodPSS    = "rsapss"
	methodPKCS1  = "rsapkcs1v15"
	methodEd     = "eddsa"
	minRSA       = 2048 // bits; Notary refuses smaller ones
	maxRSA       = 8192 // bits; verifying with larger ones is an attack on the reader
	maxPublicKey = 32 << 10
	maxKeyChain  = 8 // certificates in one key
)

// Key is a public key as metadata names it.
type Key struct {
	// ID is the hex SHA-256 of the key's canonical form: what Notary calls a key id. A
	// certificate and the bare key in it have different ones.
	ID   string
	Type string // "ecdsa", "ecdsa-x509", "rsa", "rsa-x509", "ed25519"
	// Bytes are what the metadata holds: a PEM certificate for the X.509 types.
	Bytes []byte
	// Public is the key, and Certificates its certificate and chain, leaf first, for
	// the X.509 types.
	Public       crypto.PublicKey
	Certificates []*x509.Certificate
	// bare is the ID that the same key has without a certificate. Two forms of one key
	// are one signer.
	bare string
}

// Bare is the id of the key without its certificate, which is how the file of the
// private key is called in a trust folder.
func (k Key) Bare() string { return k.bare }

// keyID is the id of a key of a type with these bytes.
func keyID(kind string, raw []byte) string {
	h := sha256.Sum256(canonical(keyValue(kind, raw)))
	return hex.EncodeToString(h[:])
}

func keyValue(kind string, raw []byte) map[string]any {
	return map[string]any{"keytype": kind, "keyval": map[string]any{"private": nil, "public": base64.StdEncoding.EncodeToString(raw)}}
}

// newKey reads the bytes of a key.
func newKey(kind string, raw []byte) (Key, error) {
	k := Key{ID: keyID(kind, raw), Type: kind, Bytes: raw}
	var err error
	switch kind {
	case typeECDSA, typeRSA:
		k.Public, err = x509.ParsePKIXPublicKey(raw)
	case typeECDSAX509, typeRSAX509:
		k.Certificates, err = parseChain(raw)
		if err == nil {
			k.Public = k.Certificates[0].PublicKey
		}
	case typeEd25519:
		if len(raw) != ed25519.PublicKeySize {
			return Key{}, errors.New("an Ed25519 key has another length")
		}
		k.Public, k.bare = ed25519.PublicKey(raw), k.ID
		return k, nil
	default:
		return Key{}, fmt.Errorf("a key of the unknown type %.32q", kind)
	}
	if err != nil {
		return Key{}, fmt.Errorf("a key of type %s that cannot be read", kind)
	}
	bare := typeECDSA
	switch p := k.Public.(type) {
	case *ecdsa.PublicKey:
		if kind != typeECDSA && kind != typeECDSAX509 {
			return Key{}, errors.New("an ECDSA key that says it is another")
		}
	case *rsa.PublicKey:
		if bare = typeRSA; kind != typeRSA && kind != typeRSAX509 || p.N.BitLen() < minRSA || p.N.BitLen() > maxRSA {
			return Key{}, errors.New("an RSA key that says it is another, or of a size that is not verified")
		}
	default:
		return Key{}, fmt.Errorf("a key of type %s that is another", kind)
	}
	der, err := x509.MarshalPKIXPublicKey(k.Public)
	if err != nil {
		return Key{}, errors.New("a key that cannot be encoded")
	}
	k.bare = keyID(bare, der)
	return k, nil
}

// parseChain reads certificates in PEM, with nothing else beside them.
func parseChain(raw []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for rest := raw; len(rest) > 0; {
		var b *pem.Block
		b, rest = pem.Decode(rest)
		if b == nil || b.Type != "CERTIFICATE" || len(out) == maxKeyChain {
			return nil, errors.New("not a chain of certificates")
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, errors.New("not a certificate")
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("no certificate")
	}
	return out, nil
}

// KeyFor returns a key of ours in the form in which it is to be delegated: with its
// certificate if it has one, else bare. It refuses, with signing.Invalid, keys that
// Notary does not verify.
func KeyFor(k signing.KeyInfo) (Key, error) {
	refuse := func(found string) (Key, error) {
		return Key{}, &signing.Error{Code: signing.Invalid, Message: "key " + k.ID + " cannot sign for Docker Content Trust", Expected: "ECDSA P-256 or P-384, or RSA with 2048 to 4096 bits", Found: found, Fix: "use another key; ECDSA P-256 fits every method"}
	}
	kind := ""
	switch p := k.Public.(type) {
	case *ecdsa.PublicKey:
		if kind = typeECDSA; p.Curve.Params().BitSize != 256 && p.Curve.Params().BitSize != 384 {
			return refuse("ECDSA " + p.Curve.Params().Name)
		}
	case *rsa.PublicKey:
		if kind = typeRSA; p.N.BitLen() < minRSA || p.N.BitLen() > 4096 {
			return refuse(fmt.Sprintf("RSA with %d bits", p.N.BitLen()))
		}
	default:
		return refuse(fmt.Sprintf("%T", k.Public))
	}
	raw, err := x509.MarshalPKIXPublicKey(k.Public)
	if err != nil {
		return refuse("a key that cannot be encoded")
	}
	if len(k.Chain) > 0 {
		// The leaf alone: Notary takes a bundle for delegations as well, and Docker does not.
		kind, raw = kind+"-x509", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.Chain[0].Raw})
	}
	out, err := newKey(kind, raw)
	if err != nil {
		return refuse(err.Error())
	}
	return out, nil
}

// signature is one signature of a document.
type signature struct {
	keyID, method string
	raw           []byte
}

// verify reports whether s is a signature of k over message.
func (k Key) verify(s signature, message []byte) bool {
	sum := sha256.Sum256(message)
	switch p := k.Public.(type) {
	case *ecdsa.PublicKey:
		n := (p.Curve.Params().BitSize + 7) / 8
		if s.method != methodECDSA || len(s.raw) != 2*n {
			return false
		}
		return ecdsa.Verify(p, sum[:], new(big.Int).SetBytes(s.raw[:n]), new(big.Int).SetBytes(s.raw[n:]))
	case *rsa.PublicKey:
		switch s.method {
		case methodPSS:
			return rsa.VerifyPSS(p, crypto.SHA256, sum[:], s.raw, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		case methodPKCS1:
			return rsa.VerifyPKCS1v15(p, crypto.SHA256, sum[:], s.raw) == nil
		}
		return false
	case ed25519.PublicKey:
		return s.method == methodEd && ed25519.Verify(p, message, s.raw)
	}
	return false
}

// algorithm returns how a key signs for Notary.
func (k Key) algorithm() (hash crypto.Hash, padding signing.Padding) {
	if _, ok := k.Public.(*rsa.PublicKey); ok {
		return crypto.SHA256, signing.PSS
	}
	return crypto.SHA256, ""
}

// sign turns the raw signature of a crypto.Signer into one of Notary's.
func (k Key) sign(raw []byte) (signature, error) {
	p, ok := k.Public.(*ecdsa.PublicKey)
	if !ok {
		return signature{keyID: k.ID, method: methodPSS, raw: raw}, nil
	}
	var rs struct{ R, S *big.Int }
	rest, err := asn1.Unmarshal(raw, &rs)
	n := (p.Curve.Params().BitSize + 7) / 8
	if err != nil || len(rest) > 0 || rs.R.Sign() <= 0 || rs.S.Sign() <= 0 || rs.R.BitLen() > 8*n || rs.S.BitLen() > 8*n {
		return signature{}, errors.New("not a signature of an ECDSA key")
	}
	out := make([]byte, 2*n)
	rs.R.FillBytes(out[:n])
	rs.S.FillBytes(out[n:])
	return signature{keyID: k.ID, method: methodECDSA, raw: out}, nil
}
