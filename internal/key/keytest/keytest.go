// Package keytest makes keys, certificates and signers for tests.
package keytest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/openpgp"
)

// P256 returns a new ECDSA P-256 key.
func P256(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// PEM returns the unencrypted PKCS#8 form of a private key.
func PEM(t testing.TB, private crypto.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// File writes data to a new file with mode 0600 and returns a reference to it,
// "file:/path".
func File(t testing.TB, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret.pem")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return "file:" + path
}

// Chain returns a leaf certificate for public and its root, in PEM, both valid
// from from to to.
func Chain(t testing.TB, public crypto.PublicKey, from, to time.Time) []byte {
	t.Helper()
	root := P256(t)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: subject("test root"), NotBefore: from, NotAfter: to, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: subject("test leaf"), NotBefore: from, NotAfter: to, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, BasicConstraintsValid: true}
	var out []byte
	for _, c := range []struct {
		template *x509.Certificate
		public   crypto.PublicKey
	}{{leaf, public}, {ca, root.Public()}} {
		der, err := x509.CreateCertificate(rand.Reader, c.template, ca, c.public, root)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

// OpenPGP returns the OpenPGP certificate of a key, which counts as made at a time
// and is valid for life, zero for ever.
func OpenPGP(t testing.TB, k crypto.Signer, made time.Time, life time.Duration) []byte {
	t.Helper()
	b, err := openpgp.NewBlank(k.Public(), "Acme release <release@acme.dev>", made, made, life)
	if err != nil {
		t.Fatal(err)
	}
	d, err := b.Draft()
	if err != nil {
		t.Fatal(err)
	}
	h := d.Hash.New()
	h.Write(d.Bytes)
	raw, err := k.Sign(rand.Reader, h.Sum(nil), d.Hash)
	if err != nil {
		t.Fatal(err)
	}
	c, err := b.Certificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return c.Raw
}

// subject has what trust policies of the Notary Project ask of one.
func subject(name string) pkix.Name {
	return pkix.Name{CommonName: name, Organization: []string{"Acme"}, Province: []string{"WA"}, Country: []string{"US"}}
}

// Signers counts the uses of keys and can make them fail; its Wrap goes into
// key.Options. Opening a ring uses each key once: Reset forgets that.
type Signers struct {
	mu    sync.Mutex
	fault func(id string, before bool) error
	uses  map[string]int
}

// SetFault sets what decides about each use from now on, before it happens
// (before = true) and after it did: an error is what the caller of the key sees
// instead of a signature. It may block, to stand for a key that does not answer.
func (s *Signers) SetFault(f func(id string, before bool) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// Wrap stands the counter before a signer.
func (s *Signers) Wrap(id string, inner crypto.Signer) crypto.Signer {
	return &signer{Signer: inner, all: s, id: id}
}

// Uses returns how often key id has signed, whether or not its answer arrived.
func (s *Signers) Uses(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.uses[id]
}

// Reset forgets all uses.
func (s *Signers) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uses = nil
}

// count adds n uses of a key and returns the fault of the moment.
func (s *Signers) count(id string, n int) func(string, bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.uses == nil {
		s.uses = map[string]int{}
	}
	s.uses[id] += n
	if s.fault == nil {
		return func(string, bool) error { return nil }
	}
	return s.fault
}

type signer struct {
	crypto.Signer
	all *Signers
	id  string
}

func (s *signer) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := s.all.count(s.id, 0)(s.id, true); err != nil {
		return nil, err
	}
	raw, err := s.Signer.Sign(random, digest, opts)
	if err != nil {
		return nil, err
	}
	if err := s.all.count(s.id, 1)(s.id, false); err != nil {
		return nil, err
	}
	return raw, nil
}
