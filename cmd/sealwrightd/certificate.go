package main

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"strings"
	"time"
)

// maxDays bounds the life of a self-signed certificate: ten years, beyond which
// no key should be in use.
const maxDays = 3650

// certificateFor are the flags of `keys new` for a key with a certificate.
type certificateFor struct {
	path    string
	subject string
	days    int
}

// newCertified makes an ECDSA P-256 key and a self-signed certificate for it, of
// the kind that notation wants: not a CA, for signing code and nothing else.
func newCertified(path string, c certificateFor) (public string, err error) {
	subject, err := parseSubject(c.subject)
	if err != nil {
		return "", err
	}
	if c.days < 2 || c.days > maxDays {
		return "", &usageError{fmt.Sprintf("--days: 2 to %d", maxDays)}
	}
	for _, p := range []string{path, c.path} {
		if _, err := os.Stat(p); err == nil {
			return "", fmt.Errorf("%s: %w", p, os.ErrExist)
		}
	}
	secret, public, key, err := newECDSA()
	if err != nil {
		return "", err
	}
	serial := make([]byte, 16)
	if _, err := rand.Read(serial); err != nil {
		return "", fmt.Errorf("making a certificate: %w", err)
	}
	serial[0] &= 0x7f // positive, as RFC 5280 wants it
	now := time.Now().UTC().Truncate(time.Second)
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: subject, NotBefore: now, NotAfter: now.AddDate(0, 0, c.days),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return "", fmt.Errorf("making a certificate: %w", err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return public, errors.Join(writeNew(path, secret, 0o600), writeNew(c.path, certificate, 0o644))
}

// parseSubject reads "C=US,ST=WA,O=Acme,CN=release": these names, each once.
func parseSubject(text string) (pkix.Name, error) {
	bad := func(why string) (pkix.Name, error) {
		return pkix.Name{}, &usageError{"--subject: " + why + `; write it as "C=US,ST=WA,O=Acme,CN=release"`}
	}
	found := map[string]string{}
	for _, part := range strings.Split(text, ",") {
		name, value, ok := strings.Cut(part, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || value == "" || strings.ContainsAny(value, `=+"\<>;#`) || found[name] != "" {
			return bad(fmt.Sprintf("%q is not NAME=VALUE, or is there twice", part))
		}
		found[name] = value
	}
	for _, name := range []string{"C", "ST", "O", "CN"} {
		if found[name] == "" {
			return bad(name + " is missing")
		}
	}
	if len(found) != 4 || len(found["C"]) != 2 {
		return bad("C (two letters), ST, O and CN are known, and nothing else")
	}
	return pkix.Name{Country: []string{found["C"]}, Province: []string{found["ST"]}, Organization: []string{found["O"]}, CommonName: found["CN"]}, nil
}
