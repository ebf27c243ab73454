package scenario

import (
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/devworld/hub"
)

// TestAChangeOfTheRepositorysPolicyIsCheckedInItsPullRequest goes over real
// webhooks, and is read back as GitHub has it.
func TestAChangeOfTheRepositorysPolicyIsCheckedInItsPullRequest(t *testing.T) {
	w := start(t, newHub, options{})
	f := w.f.(*onHub)
	r := w.submit(honest())
	r.approve("ann")
	r.approve("bob")
	r.signed()
	check := func(branch, text string) (found hub.CheckRun) {
		t.Helper()
		sha := f.repo.Commit(branch, hub.Commit{Message: branch, Author: f.users["wanda"], Committer: f.users["wanda"], Files: map[string]string{".sealwright/policy.yml": text}})
		f.repo.Pull(f.users["wanda"], branch, branch, "main")
		f.settle()
		w.until("the check of "+branch, func() bool {
			f.hub.Do(func() {
				for _, k := range f.repo.Checks {
					if k.SHA == sha && k.App == f.app && k.Name == "sealwright/policy" {
						found = *k
					}
				}
			})
			return found.ID != 0
		})
		return found
	}
	k := check("stricter", "apiVersion: sealwright.dev/v1\npolicies: {release: {tags: [\"only-this\"], origin: {refs: [refs/heads/next]}}}\n")
	if k.Conclusion != "neutral" || !strings.Contains(k.Title, "of 1 request: 1 newly refused") || !strings.Contains(k.Summary, r.id) || !strings.Contains(k.Summary, "refs/heads/next") {
		t.Errorf("%s %q:\n%s", k.Conclusion, k.Title, k.Summary)
	}
	k = check("broken", "apiVersion: sealwright.dev/v1\npolicies:\n  release: {sign: []}\n")
	if k.Conclusion != "failure" || len(k.Annotations) == 0 || k.Annotations[0].Path != ".sealwright/policy.yml" || k.Annotations[0].StartLine != 3 {
		t.Errorf("%s %q: %+v", k.Conclusion, k.Title, k.Annotations)
	}
}
