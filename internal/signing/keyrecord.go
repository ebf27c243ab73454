package signing

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
)

const (
	// maxKeyPEM bounds a public key or certificate: an RSA-4096 key has some 800
	// bytes, a certificate of a corporate CA some thousands.
	maxKeyPEM = 64 << 10
	// maxChain bounds a certificate chain: leaf, two intermediates and root, and
	// room for a cross-signed one.
	maxChain = 10
)

// KeyRecord is a KeyInfo as text, the same for verifiers, in the database and in
// evidence. Version and Algorithm follow from PublicKey.
type KeyRecord struct {
	ID        string   `json:"id"`
	Version   string   `json:"version"`
	Algorithm string   `json:"algorithm"`
	PublicKey string   `json:"publicKey"` // PEM, PKIX
	Chain     []string `json:"certificateChain,omitempty"`
	OpenPGP   string   `json:"openPGP,omitempty"` // certificate, armored
}

// Record returns k as text.
func (k KeyInfo) Record() (KeyRecord, error) {
	der, err := x509.MarshalPKIXPublicKey(k.Public)
	if err != nil {
		return KeyRecord{}, fmt.Errorf("encoding public key %s: %w", k.ID, err)
	}
	version, err := k.Version()
	if err != nil {
		return KeyRecord{}, err
	}
	r := KeyRecord{ID: k.ID, Version: version, Algorithm: k.Algorithm(), PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}
	if len(k.OpenPGP) > 0 {
		r.OpenPGP = ArmorOpenPGP(k.OpenPGP)
	}
	for _, cert := range k.Chain {
		r.Chain = append(r.Chain, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})))
	}
	return r, nil
}

// Info parses the record back. It accepts what Record returns and nothing else:
// version and algorithm must be those of the key, and the first certificate and
// the OpenPGP certificate, if there are such, must be for it.
func (r KeyRecord) Info() (KeyInfo, error) {
	bad := func(message string, err error) (KeyInfo, error) {
		return KeyInfo{}, &Error{Code: Invalid, Message: message, Expected: "a public key as the service publishes it", Found: fmt.Sprintf("key %q", clip(r.ID)), Err: err}
	}
	if len(r.Chain) > maxChain {
		return bad("too many certificates", nil)
	}
	der, err := block(r.PublicKey, "PUBLIC KEY")
	if err != nil {
		return bad("not a public key", err)
	}
	public, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return bad("not a public key", err)
	}
	k := KeyInfo{ID: r.ID, Public: public}
	for _, text := range r.Chain {
		der, err := block(text, "CERTIFICATE")
		if err != nil {
			return bad("not a certificate", err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return bad("not a certificate", err)
		}
		k.Chain = append(k.Chain, cert)
	}
	again, err := k.Record()
	if err != nil || again.Version != r.Version || again.Algorithm != r.Algorithm || again.PublicKey != r.PublicKey {
		return bad("a public key that its record does not describe", err)
	}
	if len(k.Chain) > 0 && !samePublic(public, k.Chain[0].PublicKey) {
		return bad("a certificate that is not for the key", nil)
	}
	if r.OpenPGP == "" {
		return k, nil
	}
	if k.OpenPGP, err = dearmorOpenPGP(r.OpenPGP); err != nil {
		return bad("not an OpenPGP certificate", err)
	}
	if primary, _, err := OpenPGPKey(k.OpenPGP); err != nil || !samePublic(public, primary) {
		return bad("an OpenPGP certificate that is not for the key", err)
	}
	return k, nil
}

func samePublic(a, b crypto.PublicKey) bool {
	same, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && same.Equal(b)
}

// block returns the content of text, which must be one PEM block of that type
// and nothing else.
func block(text, kind string) ([]byte, error) {
	if len(text) > maxKeyPEM {
		return nil, fmt.Errorf("%d bytes", len(text))
	}
	b, _ := pem.Decode([]byte(text))
	if b == nil || b.Type != kind || string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b.Bytes})) != text {
		return nil, fmt.Errorf("not one PEM block %s", kind)
	}
	return b.Bytes, nil
}
