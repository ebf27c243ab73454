package view

import (
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/signing"
)

// bySimple is a task whose signature is below a base; none without one.
func bySimple(repo, at string) signing.Task {
	t := task(repo, "release-gpg", signing.Published)
	t.Step.Method = "simple"
	t.Locations = []signing.Location{{Kind: "lookaside", URI: at + "/" + t.Artifact.Repository.Path() + "@sha256=" + hex64 + "/signature-1"}}
	return t
}

func TestLookasideThatIsNotAURLIsNotPutIntoConfiguration(t *testing.T) {
	for _, at := range []string{"https://sign.acme.dev/x\n  evil:\n    lookaside: https://evil.test", "javascript:alert(1)", "https://sign.acme.dev/`id`", "https://sign.acme.dev/x y", "https://sign.acme.dev/# "} {
		got := RequestMarkdown(request(signing.Completed), []signing.Task{bySimple("registry.acme.dev/payments/web", at)}, "")
		if strings.Contains(got, "docker:\n") {
			t.Errorf("%q: %s", at, got)
		}
	}
}
