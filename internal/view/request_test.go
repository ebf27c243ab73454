package view

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/signing"
)

func TestARequestAsTextSaysWhatWhereAndWhy(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	a := signing.Artifact{Repository: "registry.acme.dev/payments/web", Digest: signing.Digest("sha256:" + strings.Repeat("a", 64))}
	r := signing.Request{
		ID: "sr_0000000000000000", State: signing.RequestDenied, Policy: "release", Project: "payments", Artifacts: []signing.Artifact{a}, Submitted: at,
		Origin:   signing.Origin{Forge: "github.com", SourceRepository: "acme/payments-web", SourceRepositoryRef: "refs/heads/x\n##[error]evil\x1b[2J"},
		Decision: &signing.Decision{Reasons: signing.Reason{Rule: "release", Children: []signing.Reason{{Rule: "refs", Wanted: "main", Found: "x"}}}},
		Failure:  &signing.Error{Code: signing.Denied, Message: "the policy refuses it"},
	}
	task := signing.Task{Artifact: a, State: signing.TaskFailed, Step: signing.Step{Method: "cosign", Key: "release"}, Failure: &signing.Error{Message: "no key", Fix: "::set-output name=x"}}
	var b strings.Builder
	RequestText(&b, r, []signing.Task{task}, false)
	want := `request     sr_0000000000000000
state       denied
project     payments
policy      release
submitted   2026-03-01T12:00:00Z
repository  github.com/acme/payments-web
ref         refs/heads/x # #[error]evil?[2J
artifact    ` + a.String() + `
signature   cosign with release: failed (` + a.String() + `)
failure     no key
  to fix it  ::set-output name=x
failure     the policy refuses it
FAIL release
  FAIL refs
       wanted: main
       found:  x
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Error(d)
	}
	r.Untrust = []signing.Artifact{{Repository: a.Repository, Tag: "v0"}}
	tags := signing.Task{Artifact: signing.Artifact{Repository: a.Repository}, Part: "targets/releases", State: signing.Queued, Step: signing.Step{Method: "dct", Key: "release-dct"}, Changes: []signing.Change{{Tag: "v1", Digest: a.Digest}, {Tag: "v0", Remove: true}}}
	b.Reset()
	RequestText(&b, r, []signing.Task{tags}, false)
	for _, want := range []string{
		"untrust     registry.acme.dev/payments/web:v0\n",
		"signature   dct with release-dct: queued (registry.acme.dev/payments/web, targets/releases)\n            bind v1 to sha256:aaaaaaaaaaaa\n            remove v0\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing in\n%s", want, b.String())
		}
	}
	line := RequestLine(r, a, 3)
	if strings.ContainsAny(line, "\n\x1b") || !strings.Contains(line, "and 2 more") || !strings.Contains(line, "denied") {
		t.Errorf("%q", line)
	}
}
