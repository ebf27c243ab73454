package key

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/config"
)

const goodFile = `apiVersion: sealwright.dev/v1
keys:
  - id: release-ec
    file: file:/etc/sealwright/release.pem
    passphrase: env:RELEASE_PASSPHRASE
    certificates: file:/etc/sealwright/chain.pem
    methods: [cosign]
    allow:
      - {project: payments, policy: release, repositories: ["registry.acme.dev/payments/*"]}
      - {project: payments, policy: hotfix, repositories: ["registry.acme.dev/payments/web"]}
    require:
      protected_ref: true
      approvals: 2
      events: [push, release]
`

func TestKeysFileIsReadWithEveryField(t *testing.T) {
	got, err := Load("keys.yaml", []byte(goodFile))
	if err != nil {
		t.Fatal(err)
	}
	want := []Config{{
		ID: "release-ec", File: "file:/etc/sealwright/release.pem", Passphrase: "env:RELEASE_PASSPHRASE", Certificates: "file:/etc/sealwright/chain.pem",
		Methods: []string{"cosign"},
		Allow: []Allow{
			{Project: "payments", Policy: "release", Repositories: []string{"registry.acme.dev/payments/*"}},
			{Project: "payments", Policy: "hotfix", Repositories: []string{"registry.acme.dev/payments/web"}},
		},
		Require: Require{ProtectedRef: true, Approvals: 2, Events: []string{"push", "release"}},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestEveryProblemOfAKeysFileIsReportedWithItsLine(t *testing.T) {
	file := `apiVersion: sealwright.dev/v2
keys:
  - id: Release Key
    methods: [Cosign, cosign, cosign]
    allow:
      - {project: "*", policy: release, repositories: ["registry.acme.dev/payments/*"]}
  - id: b
    file: file:/b.pem
    methods: [cosign]
    allow:
      - {project: p, policy: q, repositories: ["*.acme.dev/x", "registry.acme.dev/**/x", "registry.acme.dev", "registry.acme.dev/a[b]", "registry.acme.dev/a**"]}
      - {project: p, policy: q}
    require: {approvals: -1, refs: [main], events: [""]}
  - id: b
    file: file:/b.pem
`
	_, err := Load("keys.yaml", []byte(file))
	var ps config.Problems
	if !errors.As(err, &ps) {
		t.Fatalf("got %v, want problems", err)
	}
	var got []string
	for _, p := range ps {
		if p.File != "keys.yaml" || p.Line == 0 {
			t.Errorf("problem without a position: %v", p)
		}
		got = append(got, p.Path)
	}
	want := []string{
		"apiVersion",
		"keys[0].file", "keys[0].id", "keys[0].methods[0]", "keys[0].methods[2]", "keys[0].allow[0].project",
		"keys[1].allow[0].repositories[0]", "keys[1].allow[0].repositories[1]", "keys[1].allow[0].repositories[2]", "keys[1].allow[0].repositories[3]", "keys[1].allow[0].repositories[4]",
		"keys[1].allow[1].repositories", "keys[1].allow[1]",
		"keys[1].require.approvals", "keys[1].require.events[0]", "keys[1].require.refs[0]",
		"keys[2].id", "keys[2].methods", "keys[2].allow",
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s\n%v", diff, err)
	}
}

func TestUnknownWordsOfAKeysFileAreRefused(t *testing.T) {
	for _, line := range []string{"    requires: {approvals: 2}", "    require: {aprovals: 2}", "    file: -----BEGIN PRIVATE KEY-----"} {
		file := "apiVersion: sealwright.dev/v1\nkeys:\n  - id: a\n    methods: [cosign]\n    allow: [{project: p, policy: q, repositories: [\"r.dev/a\"]}]\n" + line + "\n"
		if _, err := Load("keys.yaml", []byte(file)); err == nil {
			t.Errorf("accepted %q", line)
		}
	}
}

func TestKeyInTwoPoliciesThatDoesNotSaySoItselfIsRefused(t *testing.T) {
	keys := []Config{{ID: "k", File: "file:/k", Methods: []string{"cosign"}, Allow: []Allow{{Project: "p", Policy: "release", Repositories: []string{"r.dev/a"}}}}}
	ps := CheckWanted(keys, []Wanted{
		{Project: "p", Policy: "release", Method: "cosign", Key: "k"},
		{Project: "p", Policy: "test", Method: "cosign", Key: "k"},
		{Project: "p", Policy: "release", Method: "notation", Key: "k"},
		{Project: "p", Policy: "release", Method: "cosign", Key: "other"},
	})
	var got []string
	for _, p := range ps {
		got = append(got, p.Path)
	}
	if diff := cmp.Diff([]string{"[0].allow", "[0].methods", ""}, got); diff != "" {
		t.Errorf("%s\n%v", diff, ps)
	}
	if !strings.Contains(ps.Error(), "policy test of project p") {
		t.Errorf("the problem does not name the policy: %v", ps)
	}
}

func TestStarsOfARepositoryPatternStayWithinAComponent(t *testing.T) {
	for _, c := range []struct {
		pattern, repository string
		want                bool
	}{
		{"r.dev/payments/*", "r.dev/payments/web", true},
		{"r.dev/payments/*", "r.dev/payments/web/a", false},
		{"r.dev/payments/*", "r.dev/payments", false},
		{"r.dev/payments/web", "r.dev/payments/web", true},
		{"r.dev/payments/web", "r.dev/payments/web2", false},
		{"r.dev/payments/web", "evil.r.dev/payments/web", false},
		{"r.dev/payments/web-*", "r.dev/payments/web-a", true},
		{"r.dev/payments/**", "r.dev/payments/a/b/c", true},
		{"r.dev/payments/**", "r.dev/payments", false},
		{"r.dev/payments/**", "r.dev/payments2/a", false},
		{"r.dev/*/x/**", "r.dev/a/x/y", true},
		{"r.dev/*/x/**", "r.dev/a/b/x/y", false},
		{"r.dev/**", "r.dev/a", true},
		{"r.dev/**", "other.dev/a", false},
	} {
		if err := checkPattern(c.pattern); err != nil {
			t.Errorf("pattern %q: %v", c.pattern, err)
		}
		if got := matchRepository(c.pattern, c.repository); got != c.want {
			t.Errorf("match(%q, %q) = %t", c.pattern, c.repository, got)
		}
	}
}

func FuzzKeysFileIsReadOrRefusedWithProblems(f *testing.F) {
	f.Add([]byte(goodFile))
	f.Add([]byte("apiVersion: sealwright.dev/v1\nkeys: []\n"))
	f.Add([]byte("keys: [{id: a, allow: [{repositories: ['r.dev/**']}]}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := Load("keys.yaml", data)
		var ps config.Problems
		switch {
		case err != nil && !errors.As(err, &ps):
			t.Fatalf("an error that is no list of problems: %v", err)
		case err == nil && len(Check(keys)) > 0:
			t.Fatal("accepted keys that Check refuses")
		}
	})
}
