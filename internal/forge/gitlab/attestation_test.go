package gitlab_test

import (
	"bytes"
	"context"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/devworld/lab"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/ask/asktest"
	"github.com/sealwright/sealwright/internal/forge/gitlab"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
)

// attested is a build whose attestations can be verified, and what a good one says.
func attested(t *testing.T) (*built, *asktest.Sigstore, asktest.Claims) {
	b, a := build(t), asktest.New(t)
	var err error
	b.client, err = gitlab.New(forge.Config{Host: host, API: b.url, Tokens: []forge.Token{{Token: "env:TOKEN"}}}, gitlab.Options{Outbound: outbound.Options{AllowHTTP: true}, Env: b.lookup, Now: b.clock.now, Root: a})
	if err != nil {
		t.Fatal(err)
	}
	return b, a, asktest.Claims{Issuer: "https://" + host, SAN: "https://" + host + "/acme/payments//.gitlab-ci.yml@refs/heads/main", Run: b.origin.RunInvocationURI, Repository: b.origin.SourceRepositoryIdentifier, Commit: b.commit, Predicate: "https://slsa.dev/provenance/v1", Digest: image}
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
	b.holds([]byte(`{}`), a.Attest(t, good))
	want := &signing.AttestationFacts{Verified: []signing.Attestation{{Digest: image, RepositoryID: b.origin.SourceRepositoryIdentifier, Commit: b.commit, Run: b.origin.RunInvocationURI, Predicate: good.Predicate}}}
	if diff := cmp.Diff(want, b.attestations()); diff != "" {
		t.Error(diff)
	}
}

func TestAnAttestationOfAnythingElseDoesNotCount(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*asktest.Claims)
		want   string
	}{
		"another job":       {func(s *asktest.Claims) { s.Run += "0" }, "another run"},
		"another project":   {func(s *asktest.Claims) { s.Repository = "42" }, "another repository id"},
		"another commit":    {func(s *asktest.Claims) { s.Commit = strings.Repeat("a", 40) }, "another commit"},
		"another predicate": {func(s *asktest.Claims) { s.Predicate = "https://spdx.dev/Document" }, "another predicate"},
		"another digest":    {func(s *asktest.Claims) { s.Digest = signing.DigestOf([]byte("other")) }, "does not verify"},
		"another issuer":    {func(s *asktest.Claims) { s.Issuer = "https://gitlab.com" }, "does not verify"},
		"another forge":     {func(s *asktest.Claims) { s.SAN = "https://" + host + ".evil.example/x" }, "does not verify"},
	} {
		b, a, claim := attested(t)
		c.change(&claim)
		b.holds(a.Attest(t, claim))
		if got := b.attestations(); len(got.Verified) != 0 || !strings.Contains(got.Refused[image], c.want) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	b, _, good := attested(t)
	b.holds(asktest.New(t).Attest(t, good))
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
	b.holds(a.Attest(t, good))
	for _, path := range []string{"/attestations/[0-9a-f]+$", "/download$"} {
		b.lab.Heal()
		b.lab.Fail(lab.Fault{Path: regexp.MustCompile(path), Status: 500})
		f, err := b.client.Ask(t.Context(), b.origin, []signing.Artifact{{Digest: image}}, signing.ForgeQuestion{Attestation: true})
		if f != nil || !signing.Temporary(err) {
			t.Errorf("%s: %+v, %v", path, f, err)
		}
	}
}
