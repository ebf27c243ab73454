package submit_test

import (
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/submit"
)

// withdraws makes the request completed, with a task that changes tags so.
func withdraws(changes ...signing.Change) func(*signing.Request, []signing.Task) []signing.Task {
	return func(r *signing.Request, _ []signing.Task) []signing.Task {
		r.State = signing.Completed
		return []signing.Task{{
			ID: r.ID + ".1", State: signing.Published, Artifact: signing.Artifact{Repository: "registry.acme.dev/web"}, Step: signing.Step{Method: "dct", Key: "release-dct"},
			Part: "targets/releases", Changes: changes, Intent: &signing.Intent{Differences: []signing.Difference{{Tag: "v1", From: digestA}}},
			Locations: []signing.Location{{Kind: "notary", URI: "https://notary.acme.dev/v2/registry.acme.dev/web/_trust/tuf/targets/releases.json"}},
		}}
	}
}

func TestTrustIsWithdrawnWithoutAnyImage(t *testing.T) {
	w := newWorld(t)
	w.env["INPUT_IMAGES"], w.env["INPUT_UNTRUST"] = "", "registry.acme.dev/web:v1"
	w.steps = []func(*signing.Request, []signing.Task) []signing.Task{withdraws(signing.Change{Tag: "v1", Remove: true})}
	w.check(w.main(t.Context()), submit.ExitOK, "1 tag to untrust", "signed 1 tag of registry.acme.dev/web in targets/releases (dct, key release-dct)", "v1 removed, was sha256:aaaaaaaaaaaa")
	if b := w.bodies[0]; len(b.Artifacts) != 0 || len(b.Untrust) != 1 || b.Untrust[0] != "registry.acme.dev/web:v1" {
		t.Errorf("%+v", b)
	}
	if s := w.outputs()["signatures"]; !strings.Contains(s, `"differences":[{"tag":"v1","from":"`+digestA+`"}]`) {
		t.Errorf("signatures: %s", s)
	}
	if s := w.file("summary"); !strings.Contains(s, "v1 removed, was sha256:aaaaaaaaaaaa") {
		t.Errorf("the summary does not say it:\n%s", s)
	}
}

func TestACompletedRequestThatDidNotDoWhatWasAskedOfTagsIsNotBelieved(t *testing.T) {
	for name, c := range map[string]struct {
		args    []string
		changes []signing.Change
		code    int
	}{
		"another tag untrusted":       {[]string{"--untrust", "registry.acme.dev/web:v1"}, []signing.Change{{Tag: "v2", Remove: true}}, submit.ExitVerifier},
		"bound in place of removed":   {[]string{"--untrust", "registry.acme.dev/web:v1"}, []signing.Change{{Tag: "v1", Digest: digestA}}, submit.ExitVerifier},
		"another digest bound":        {[]string{"--sign-tag", "v1", "registry.acme.dev/web@" + digestA}, []signing.Change{{Tag: "v1", Digest: signing.DigestOf(nil)}}, submit.ExitVerifier},
		"removed in place of bound":   {[]string{"--sign-tag", "v1", "registry.acme.dev/web@" + digestA}, []signing.Change{{Tag: "v1", Remove: true}}, submit.ExitVerifier},
		"bound as it was asked":       {[]string{"--sign-tag", "v1", "registry.acme.dev/web@" + digestA}, []signing.Change{{Tag: "v1", Digest: digestA, Size: 7}}, submit.ExitOK},
		"bound and another untrusted": {[]string{"--sign-tag", "v1", "registry.acme.dev/web@" + digestA, "--untrust", "registry.acme.dev/web:v0"}, []signing.Change{{Tag: "v1", Digest: digestA, Size: 7}, {Tag: "v0", Remove: true}}, submit.ExitOK},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.env["INPUT_IMAGES"] = ""
			w.steps = []func(*signing.Request, []signing.Task) []signing.Task{withdraws(c.changes...)}
			w.check(w.main(t.Context(), c.args...), c.code)
		})
	}
}
