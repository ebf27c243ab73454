// Package asktest is a Sigstore for tests of the forge clients.
package asktest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"

	"github.com/sealwright/sealwright/internal/signing"
)

// Sigstore is one as forges run for private repositories: certificates with
// Fulcio's extensions and signed timestamps, no logs. The timestamps are those of
// sigstore-go's virtual one. It is the root.TrustedMaterial that trusts it.
type Sigstore struct {
	*ca.VirtualSigstore
	authority *root.FulcioCertificateAuthority
	key       crypto.Signer
	// Logs demands the logs of the virtual one, in which nothing is.
	Logs bool
}

// New makes a Sigstore with keys of its own.
func New(t testing.TB) *Sigstore {
	t.Helper()
	v, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	rootCert, rootKey, err := ca.GenerateRootCa()
	if err != nil {
		t.Fatal(err)
	}
	sub, subKey, err := ca.GenerateFulcioIntermediate(rootCert, rootKey)
	if err != nil {
		t.Fatal(err)
	}
	return &Sigstore{VirtualSigstore: v, key: subKey, authority: &root.FulcioCertificateAuthority{Root: rootCert, Intermediates: []*x509.Certificate{sub}}}
}

// FulcioCertificateAuthorities implements root.TrustedMaterial.
func (s *Sigstore) FulcioCertificateAuthorities() []root.CertificateAuthority {
	return []root.CertificateAuthority{s.authority}
}

// RekorLogs implements root.TrustedMaterial.
func (s *Sigstore) RekorLogs() map[string]*root.TransparencyLog {
	if s.Logs {
		return s.VirtualSigstore.RekorLogs()
	}
	return nil
}

// CTLogs implements root.TrustedMaterial.
func (s *Sigstore) CTLogs() map[string]*root.TransparencyLog { return nil }

// Claims are what a certificate and the statement under it say.
type Claims struct {
	Issuer, SAN, Run, Repository, Commit, Predicate string
	Digest                                          signing.Digest
}

// Attest returns a bundle, as a forge would hold it.
func (s *Sigstore) Attest(t testing.TB, c Claims) []byte {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	san, err := url.Parse(c.SAN)
	must(err)
	now := time.Now()
	leaf := &x509.Certificate{SerialNumber: big.NewInt(7), URIs: []*url.URL{san}, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(9 * time.Minute), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}
	for n, v := range map[int]string{8: c.Issuer, 13: c.Commit, 15: c.Repository, 21: c.Run} {
		der, err := asn1.MarshalWithParams(v, "utf8")
		must(err)
		leaf.ExtraExtensions = append(leaf.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, n}, Value: der})
	}
	cert, err := x509.CreateCertificate(rand.Reader, leaf, s.authority.Intermediates[0], key.Public(), s.key)
	must(err)
	payload, err := json.Marshal(map[string]any{
		"_type": "https://in-toto.io/Statement/v1", "predicateType": c.Predicate, "predicate": map[string]any{"buildDefinition": map[string]any{}},
		"subject": []any{map[string]any{"name": "registry.acme.dev/web", "digest": map[string]string{"sha256": c.Digest.Hex()}}},
	})
	must(err)
	const kind = "application/vnd.in-toto+json"
	sum := sha256.Sum256(dsse.PAE(kind, payload))
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	must(err)
	stamp, err := s.TimestampResponse(sig)
	must(err)
	out, err := json.Marshal(map[string]any{
		"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
		"verificationMaterial": map[string]any{
			"certificate":               map[string]any{"rawBytes": cert},
			"timestampVerificationData": map[string]any{"rfc3161Timestamps": []any{map[string]any{"signedTimestamp": stamp}}},
		},
		"dsseEnvelope": map[string]any{"payload": payload, "payloadType": kind, "signatures": []any{map[string]any{"sig": sig}}},
	})
	must(err)
	return out
}
