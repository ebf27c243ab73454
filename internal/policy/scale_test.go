package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// folder returns the policy files of an organisation with n repositories: a base,
// and a project for every twelve of them, each with a release and a test policy.
func folder(n int) map[string][]byte {
	files := map[string][]byte{"baseline.yaml": []byte(`apiVersion: sealwright.dev/v1
base: acme-baseline
policies:
  release: {tags: ["v*"], bind: {digests_only: true}, origin: {refs: [refs/heads/main, "refs/tags/v*"], reruns: attach, github: {events: [push, release]}}}
  test: {origin: {refs: ["refs/heads/**"], ref_protected: false, github: {events: [push]}}}
`)}
	for first := 0; first < n; first += 12 {
		var b strings.Builder
		fmt.Fprintf(&b, "apiVersion: sealwright.dev/v1\nproject: team%d\nextends: acme-baseline\nrepositories:\n", first/12)
		for i := first; i < min(first+12, n); i++ {
			fmt.Fprintf(&b, "  - {forge: github.com, name: acme/service%d, id: \"%d\", owner_id: \"65\", images: [\"registry.acme.dev/team%d/service%d\", \"registry.acme.dev/team%d/service%d/*\"]}\n", i, 1000+i, first/12, i, first/12, i)
		}
		fmt.Fprintf(&b, "policies:\n  release: {origin: {github: {workflow: .github/workflows/release.yml}}, sign: [{method: cosign, key: team%d}]}\n  test: {sign: [{method: cosign, key: test}]}\n", first/12)
		files[fmt.Sprintf("team%d.yaml", first/12)] = []byte(b.String())
	}
	return files
}

// build returns the facts of a release of the i-th repository.
func build(i int) signing.Facts {
	name := fmt.Sprintf("acme/service%d", i)
	workflow := "https://github.com/" + name + "/.github/workflows/release.yml@refs/heads/main"
	return signing.Facts{
		Policy: "release", Now: strictTime, Identity: signing.Identity{Role: signing.RoleCI},
		Origin: signing.Origin{
			Forge: "github.com", Kind: "github", SourceRepository: name, SourceRepositoryIdentifier: fmt.Sprint(1000 + i), SourceRepositoryOwnerIdentifier: "65",
			SourceRepositoryRef: "refs/heads/main", RefProtected: true, RunID: "1", RunAttempt: "1", BuildTrigger: "push", BuildConfigURI: workflow, BuildSignerURI: workflow,
		},
		Images: []signing.Image{{Artifact: signing.Artifact{Repository: signing.Repository(fmt.Sprintf("registry.acme.dev/team%d/service%d", i/12, i)), Digest: signing.DigestOf([]byte(name))}, Kind: "image"}},
	}
}

// decides judges one build of each repository in turn.
func decides(t testing.TB, n int) func(i int) time.Duration {
	t.Helper()
	set, err := Load(folder(n))
	if err != nil {
		t.Fatal(err)
	}
	builds := make([]signing.Facts, n)
	for i := range builds {
		builds[i] = build(i)
	}
	return func(i int) time.Duration {
		started := time.Now()
		_, effect, why := set.Judge(builds[i%n])
		took := time.Since(started)
		if effect != signing.Allow {
			t.Fatal(why.Failures())
		}
		return took
	}
}

func BenchmarkDecision(b *testing.B) {
	for _, n := range []int{12, 1200} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			decide := decides(b, n)
			for i := 0; b.Loop(); i++ {
				decide(i)
			}
		})
	}
}

func BenchmarkLoad(b *testing.B) {
	files := folder(1200)
	for b.Loop() {
		if _, err := Load(files); err != nil {
			b.Fatal(err)
		}
	}
}

// TestOverlapsOfManyProjectsAreFound ends because the search is not quadratic in
// names that begin alike.
func TestOverlapsOfManyProjectsAreFound(t *testing.T) {
	files := map[string][]byte{}
	for i := range 3000 {
		// Each name is the beginning of the next: the worst order for a search.
		name := "registry.acme.dev/" + strings.Repeat("a", i%200+1) + fmt.Sprintf("/%d", i/200)
		files[fmt.Sprintf("%d.yaml", i)] = fmt.Appendf(nil, "apiVersion: sealwright.dev/v1\nproject: p%d\nrepositories:\n  - {forge: github.com, name: acme/r%d, id: \"%d\", images: [%q]}\npolicies:\n  r: {origin: {refs: [a], github: {events: [push]}}, sign: [{method: cosign, key: k}]}\n", i, i, i+1, name)
	}
	if _, err := Load(files); err != nil {
		t.Fatal(err)
	}
	files["x.yaml"] = []byte("apiVersion: sealwright.dev/v1\nproject: x\nrepositories:\n  - {forge: github.com, name: acme/x, id: \"9999\", images: [\"registry.acme.dev/aaa/*\"]}\npolicies:\n  r: {origin: {refs: [a], github: {events: [push]}}, sign: [{method: cosign, key: k}]}\n")
	if _, err := Load(files); err == nil || !strings.Contains(err.Error(), "registry.acme.dev/aaa/") {
		t.Errorf("the overlap is not found: %.200v", err)
	}
}
