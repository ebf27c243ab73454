//go:build conformance

package conformance

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func (c certified) root() *x509.Certificate { return c.certs[len(c.certs)-1] }

func ecKey(curve func() elliptic.Curve) func() (crypto.Signer, error) {
	return func() (crypto.Signer, error) { return ecdsa.GenerateKey(curve(), rand.Reader) }
}

func ecChain(curve func() elliptic.Curve) func(*testing.T) certified {
	return func(t *testing.T) certified { return newChain(t, ecKey(curve)) }
}

func rsaChain(bits int) func(*testing.T) certified {
	return func(t *testing.T) certified {
		return newChain(t, func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, bits) })
	}
}

func newChain(t *testing.T, makeKey func() (crypto.Signer, error)) certified {
	t.Helper()
	return newChainOf(t, makeKey, time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0))
}

func newChainOf(t *testing.T, makeKey func() (crypto.Signer, error), from, to time.Time) certified {
	t.Helper()
	key, err := makeKey()
	if err != nil {
		t.Fatal(err)
	}
	ca, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: subject("root"), NotBefore: from, NotAfter: to, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := leafTemplate(from, to)
	return certified{key, []*x509.Certificate{issue(t, leaf, root, key.Public(), ca), issue(t, root, root, ca.Public(), ca)}}
}

// selfSigned is a certificate that is its own trust root.
func selfSigned(t *testing.T) certified {
	t.Helper()
	key, err := ecKey(elliptic.P256)()
	if err != nil {
		t.Fatal(err)
	}
	leaf := leafTemplate(time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0))
	return certified{key, []*x509.Certificate{issue(t, leaf, leaf, key.Public(), key)}}
}

func leafTemplate(from, to time.Time) *x509.Certificate {
	return &x509.Certificate{SerialNumber: big.NewInt(2), Subject: subject("release"), NotBefore: from, NotAfter: to, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}
}

func subject(cn string) pkix.Name {
	return pkix.Name{CommonName: cn, Organization: []string{"Acme"}, Province: []string{"WA"}, Country: []string{"US"}}
}

func issue(t *testing.T, template, parent *x509.Certificate, public crypto.PublicKey, by crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, by)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// documentedChain runs the openssl commands of docs/operations.md.
func documentedChain(t *testing.T) certified {
	t.Helper()
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(doc), "```sh elsewhere ca\n")
	commands, _, ok2 := strings.Cut(rest, "```")
	if !ok || !ok2 {
		t.Fatal("docs/operations.md does not say how to make a CA")
	}
	dir := t.TempDir()
	if status, out := runWith(t, map[string]string{"PATH": os.Getenv("PATH")}, dir, "/bin/sh", "-ec", commands); status != 0 {
		t.Fatalf("the commands of docs/operations.md: exit status %d\n%s", status, out)
	}
	return certified{readKey(t, filepath.Join(dir, "release-x509.key")), readChain(t, filepath.Join(dir, "release-x509.crt"))}
}

func readChain(t *testing.T, path string) []*x509.Certificate {
	t.Helper()
	rest, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return out
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
}

// files writes NAME.key and NAME.crt to a folder.
func (c certified) files(t *testing.T, dir, name string) (key, crt string) {
	t.Helper()
	key, crt = filepath.Join(dir, name+".key"), filepath.Join(dir, name+".crt")
	writeKey(t, key, func() (crypto.Signer, error) { return c.key, nil })
	var chain []byte
	for _, cert := range c.certs {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	if err := os.WriteFile(crt, chain, 0o600); err != nil {
		t.Fatal(err)
	}
	return key, crt
}
