package gitlab_test

import (
	"bytes"
	"context"
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
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"

	"github.com/sealwright/sealwright/internal/devworld/lab"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/gitlab"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
)

// authority is a Sigstore with certificates as a GitLab job gets them and signed
// timestamps, without logs.
type authority struct {
	*ca.VirtualSigstore
	fulcio *root.FulcioCertificateAuthority
	key    crypto.Signer
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	v, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.GenerateRootCa()
	if err != nil {
		t.Fatal(err)
	}
	sub, subKey, err := ca.GenerateFulcioIntermediate(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{v, &root.FulcioCertificateAuthority{Root: cert, Intermediates: []*x509.Certificate{sub}}, subKey}
}

func (a *authority) FulcioCertificateAuthorities() []root.CertificateAuthority {
	return []root.CertificateAuthority{a.fulcio}
}
func (a *authority) RekorLogs() map[string]*root.TransparencyLog { return nil }
func (a *authority) CTLogs() map[string]*root.TransparencyLog    { return nil }

// says is what a certificate and the statement under it say.
type says struct {
	issuer, san, run, project, commit, predicate string
	digest                                       signing.Digest
}

// bundle is an attestation as GitLab would hold it.
func (a *authority) bundle(t *testing.T, c says) []byte {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	san, err := url.Parse(c.san)
	must(err)
	now := time.Now()
	leaf := &x509.Certificate{SerialNumber: big.NewInt(7), URIs: []*url.URL{san}, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(9 * time.Minute), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}
	for n, v := range map[int]string{8: c.issuer, 13: c.commit, 15: c.project, 21: c.run} {
		der, err := asn1.MarshalWithParams(v, "utf8")
		must(err)
		leaf.ExtraExtensions = append(leaf.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, n}, Value: der})
	}
	cert, err := x509.CreateCertificate(rand.Reader, leaf, a.fulcio.Intermediates[0], key.Public(), a.key)
	must(err)
	payload, err := json.Marshal(map[string]any{"_type": "https://in-toto.io/Statement/v1", "predicateType": c.predicate, "predicate": map[string]any{}, "subject": []any{map[string]any{"name": "image", "digest": map[string]string{"sha256": c.digest.Hex()}}}})
	must(err)
	const kind = "application/vnd.in-toto+json"
	sum := sha256.Sum256(dsse.PAE(kind, payload))
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	must(err)
	stamp, err := a.TimestampResponse(sig)
	must(err)
	out, err := json.Marshal(map[string]any{
		"mediaType":            "application/vnd.dev.sigstore.bundle.v0.3+json",
		"verificationMaterial": map[string]any{"certificate": map[string]any{"rawBytes": cert}, "timestampVerificationData": map[string]any{"rfc3161Timestamps": []any{map[string]any{"signedTimestamp": stamp}}}},
		"dsseEnvelope":         map[string]any{"payload": payload, "payloadType": kind, "signatures": []any{map[string]any{"sig": sig}}},
	})
	must(err)
	return out
}

// attested is a build whose attestations can be verified, and what a good one says.
func attested(t *testing.T) (*built, *authority, says) {
	b, a := build(t), newAuthority(t)
	var err error
	b.client, err = gitlab.New(forge.Config{Host: host, API: b.url, Tokens: []forge.Token{{Token: "env:TOKEN"}}}, gitlab.Options{Outbound: outbound.Options{AllowHTTP: true}, Env: b.lookup, Now: b.clock.now, Root: a})
	if err != nil {
		t.Fatal(err)
	}
	return b, a, says{issuer: "https://" + host, san: "https://" + host + "/acme/payments//.gitlab-ci.yml@refs/heads/main", run: b.origin.RunInvocationURI, project: b.origin.SourceRepositoryIdentifier, commit: b.commit, predicate: "https://slsa.dev/provenance/v1", digest: image}
}

var image = signing.DigestOf([]byte("image"))

// holds makes GitLab hold bundles for the image.
func (b *built) holds(bundles ...[]byte) {
	b.lab.Change(func() {
		b.project.Attestations = nil
		for i, raw := range bundles {
			b.project.Attestations = append(b.project.Attestations, &lab.Attestation{IID: int64(i + 1), Digest: image.Hex(), Status: "success", Bundle: raw})
		}
	})
}

func (b *built) attestations() *signing.AttestationFacts {
	b.t.Helper()
	arts := []signing.Artifact{{Repository: "registry.acme.dev/web", Digest: image}, {Repository: "registry.acme.dev/web", Digest: image, Tag: "v1"}}
	f, err := b.client.Ask(context.Background(), b.origin, arts, signing.ForgeQuestion{Attestation: true})
	if err != nil {
		b.t.Fatal(err)
	}
	if f.Attestations == nil {
		b.t.Fatalf("no answer: %v", f.Unknown)
	}
	return f.Attestations
}

func TestAnAttestationOfThisJobIsVerified(t *testing.T) {
	b, a, good := attested(t)
	b.holds([]byte(`{}`), a.bundle(t, good))
	want := &signing.AttestationFacts{Verified: []signing.Attestation{{Digest: image, RepositoryID: b.origin.SourceRepositoryIdentifier, Commit: b.commit, Run: b.origin.RunInvocationURI, Predicate: good.predicate}}}
	if diff := cmp.Diff(want, b.attestations()); diff != "" {
		t.Error(diff)
	}
}

func TestAnAttestationOfAnythingElseDoesNotCount(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*says)
		want   string
	}{
		"another job":       {func(s *says) { s.run += "0" }, "another run"},
		"another project":   {func(s *says) { s.project = "42" }, "another project id"},
		"another commit":    {func(s *says) { s.commit = strings.Repeat("a", 40) }, "another commit"},
		"another predicate": {func(s *says) { s.predicate = "https://spdx.dev/Document" }, "another predicate"},
		"another digest":    {func(s *says) { s.digest = signing.DigestOf([]byte("other")) }, "does not verify"},
		"another issuer":    {func(s *says) { s.issuer = "https://gitlab.com" }, "does not verify"},
		"another forge":     {func(s *says) { s.san = "https://" + host + ".evil.example/x" }, "does not verify"},
	} {
		b, a, claim := attested(t)
		c.change(&claim)
		b.holds(a.bundle(t, claim))
		if got := b.attestations(); len(got.Verified) != 0 || !strings.Contains(got.Refused[image], c.want) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	b, _, good := attested(t)
	b.holds(newAuthority(t).bundle(t, good))
	if got := b.attestations(); len(got.Verified) != 0 || !strings.Contains(got.Refused[image], "does not verify") {
		t.Errorf("another authority: %+v", got)
	}
	b.holds(bytes.Repeat([]byte("x"), 1<<20+1))
	if got := b.attestations(); len(got.Verified) != 0 || got.Refused[image] == "" {
		t.Errorf("too large: %+v", got)
	}
	b.holds()
	if got := b.attestations(); len(got.Verified) != 0 || !strings.Contains(got.Refused[image], "holds no attestation") {
		t.Errorf("none: %+v", got)
	}
}

func TestAForgeThatCannotBeAskedForAttestationsIsAnError(t *testing.T) {
	b, a, good := attested(t)
	b.holds(a.bundle(t, good))
	for _, path := range []string{"/attestations/[0-9a-f]+$", "/download$"} {
		b.lab.Heal()
		b.lab.Fail(lab.Fault{Path: regexp.MustCompile(path), Status: 500})
		f, err := b.client.Ask(t.Context(), b.origin, []signing.Artifact{{Digest: image}}, signing.ForgeQuestion{Attestation: true})
		if f != nil || !signing.Temporary(err) {
			t.Errorf("%s: %+v, %v", path, f, err)
		}
	}
}
