package identity

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/sealwright/sealwright/internal/policy"
	"github.com/sealwright/sealwright/internal/signing"
)

// The rows of every CI are of use to a policy, and what looks like the build
// that it trusts is not. The policy is the one of docs/issuers.md.
func TestThePolicyOfTheDocumentsTellsGoodBuildsOfEveryCIFromLookAlikes(t *testing.T) {
	doc := string(must(os.ReadFile("../../docs/issuers.md")))
	_, text, _ := strings.Cut(doc, "```yaml policy\n")
	text, _, _ = strings.Cut(text, "```")
	set, err := policy.Load(map[string][]byte{"issuers.yaml": []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	// The image each may sign, or the rule that must deny.
	cases := map[string]string{
		"forgejo-push": "forgejo", "forgejo-numbers": "forgejo", "forgejo-pull-request-target": "no events", "forgejo-same-name-other-id": "no row",
		"buildkite-branch": "buildkite", "buildkite-subject-claim": "buildkite", "buildkite-derived-claims": "buildkite",
		"buildkite-tag": "no refs", "buildkite-by-hand": "no events", "buildkite-fork": "no refs",
		"circleci-push": "circleci", "circleci-fork": "no name",
		"bitbucket-branch": "bitbucket", "bitbucket-deployment": "bitbucket", "bitbucket-derived-claims": "bitbucket",
		"azure-repos": "azure", "azure-github": "azure-github", "azure-pull-request": "no refs",
		"codefresh-push": "codefresh", "codefresh-pull-request": "no events", "codefresh-pull-request-odd": "no events", "codefresh-manual": "no events",
	}
	for _, file := range must(filepath.Glob("testdata/origin/*.txtar")) {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		kind, _, _ := strings.Cut(name, "-")
		var want []byte
		for _, f := range must(txtar.ParseFile(file)).Files {
			if f.Name == "want.json" {
				want = f.Data
			}
		}
		if want == nil || kind == "github" || kind == "gitlab" || kind == "custom" {
			continue
		}
		expected, listed := cases[name]
		delete(cases, name)
		if !listed {
			t.Errorf("%s is not decided by this test", name)
			continue
		}
		var o signing.Origin
		if err := json.Unmarshal(want, &o); err != nil {
			t.Fatal(err)
		}
		p, err := set.Find(o, "release")
		rule, deny := strings.CutPrefix(expected, "no ")
		if err != nil {
			if !deny || rule != "row" {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		image := expected
		if deny {
			image = kind
		}
		a := signing.Artifact{Repository: signing.Repository("registry.acme.dev/payments/" + image), Digest: signing.DigestOf(nil), MediaType: "application/vnd.oci.image.manifest.v1+json"}
		effect, reasons := p.Evaluate(signing.Facts{
			Identity: signing.Identity{Role: signing.RoleCI}, Origin: o, Policy: "release", Now: start,
			Images: []signing.Image{{Artifact: a, Kind: "image"}},
		})
		if (effect == signing.Allow) == deny {
			t.Errorf("%s: %s: %+v", name, effect, reasons.Failures())
		}
		for _, leaf := range reasons.Failures() {
			if !strings.HasSuffix(leaf.Rule, "."+rule) {
				t.Errorf("%s: denied by %s too", name, leaf.Rule)
			}
		}
	}
	for name := range cases {
		t.Errorf("there is no golden file %s", name)
	}
}
