package workflow_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/approval"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
	"github.com/sealwright/sealwright/internal/testenv"
	"github.com/sealwright/sealwright/internal/workflow"
)

// lists is a policy for lists of images beside one for jobs.
func lists() string {
	return testenv.Policy + fmt.Sprintf("  by-hand:\n    origin: {human: {max_age: 720h}}\n    approvals: {required: 1, from: [%q]}\n    sign:\n      - {method: cosign, key: release}\n", releaseTeam)
}

func TestAPersonHasAListSignedThatNoBuildMadeAndAnotherApproves(t *testing.T) {
	h := staff(t, lists(), testenv.Options{People: mapped(), Keys: byHandKeys})
	h.s = h.e.Start(nil)
	w, ctx := h.s.Workflow, t.Context()
	ann := person("ann", signing.Submitter, signing.Approver)
	made := h.e.Now().Add(-24 * time.Hour)
	in := func() workflow.ListSubmission {
		return workflow.ListSubmission{Policy: "by-hand", Artifacts: []signing.Artifact{h.e.Image(t.Name()), h.e.Image(t.Name() + " 2")}, List: signing.List{Digest: signing.DigestOf([]byte("the file")), Made: made}}
	}
	for what, who := range map[string]signing.Identity{"a job": {Role: signing.RoleCI, Roles: []signing.PeopleRole{signing.Submitter}}, "an approver": person("ann", signing.Approver, signing.Admin), "nobody": {}} {
		if _, err := w.SubmitList(ctx, in(), who); !errors.Is(err, signing.Denied) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, change := range map[string]func(*workflow.ListSubmission){
		"a policy for jobs":     func(s *workflow.ListSubmission) { s.Policy = "release" },
		"an unknown policy":     func(s *workflow.ListSubmission) { s.Policy = "none" },
		"another repository":    func(s *workflow.ListSubmission) { s.Repository = "acme/other" },
		"an image of elsewhere": func(s *workflow.ListSubmission) { s.Artifacts[1].Repository = "registry.elsewhere.dev/x/y" },
		"no time":               func(s *workflow.ListSubmission) { s.List.Made = time.Time{} },
		"no digest":             func(s *workflow.ListSubmission) { s.List.Digest = "" },
		"a resolved tag":        func(s *workflow.ListSubmission) { s.Artifacts[0].ResolvedFrom = "v1" },
	} {
		bad := in()
		change(&bad)
		if _, err := w.SubmitList(ctx, bad, ann); !errors.Is(err, signing.Denied) && !errors.Is(err, signing.Invalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	s, err := w.SubmitList(ctx, in(), ann)
	ok(t, err)
	again, err := w.SubmitList(ctx, in(), ann)
	if err != nil || again.Request.ID != s.Request.ID {
		t.Errorf("the same again is another request: %v", err)
	}
	own := person("ann", signing.Submitter)
	elsewhere := own
	elsewhere.Issuer = "https://login.elsewhere.dev"
	job := own
	job.Role = signing.RoleCI
	for who, id := range map[string]signing.Identity{"who submitted it": own, "a colleague": person("bob", signing.Submitter), "the same name elsewhere": elsewhere, "a job": job} {
		_, err := w.ReadAs(ctx, s.Request.ID, id)
		_, wait := w.WaitAs(ctx, s.Request.ID, id, 0, time.Second)
		_, unknown := w.ReadAs(ctx, "sr_0000000000000000", id)
		if mine := who == "who submitted it"; (err == nil) != mine || (wait == nil) != mine || !mine && signing.CodeOf(err) != signing.Denied || !errors.Is(unknown, signing.Denied) {
			t.Errorf("%s reads it: %v, %v; an unknown one: %v", who, err, wait, unknown)
		}
	}
	r := h.asked(s.Request.ID)
	if b := r.Decision.Basis; b.List == nil || !b.List.Made.Equal(made) || b.Origin.SourceRepositoryDigest != "" || r.Asking.Thread.Kind != signing.ThreadIssue {
		t.Errorf("the basis has %+v of %+v, asked in %+v", b.List, b.Origin, r.Asking.Thread)
	}
	_, err = h.says(h.ann, approval.VerbApprove, r)
	h.refuses("who submitted it", err, signing.Denied, "submitted")
	if out, err := h.says(h.bob, approval.VerbApprove, r); err != nil || !out.Tally.Met {
		t.Fatalf("%+v %v", out, err)
	}
	if r = h.ended(r.ID); r.State != signing.Completed {
		t.Errorf("%+v", r.Failure)
	}
	// What was approved is not approved for the next, nor is an old list.
	s, err = w.SubmitList(ctx, in(), ann)
	ok(t, err)
	if r = h.asked(s.Request.ID); len(r.Approvals) != 0 {
		t.Errorf("it inherits %+v", r.Approvals)
	}
	h.e.Clock.Add(int64(31 * 24 * time.Hour))
	old := in()
	old.List.Digest = signing.DigestOf([]byte("another file"))
	s, err = w.SubmitList(ctx, old, ann)
	ok(t, err)
	if r := h.ended(s.Request.ID); r.State != signing.RequestDenied {
		t.Errorf("a list that is too old: %s", r.State)
	}
	h.s.VerifyEvidence()
	edit(t, h.e, "UPDATE requests SET version = version + 1000")
	if _, err := w.ReadAs(ctx, r.ID, own); !errors.Is(err, signing.Denied) || errors.Is(err, store.ErrTampered) {
		t.Errorf("a row that nobody vouches for, to who says it is theirs: %v", err)
	}
}
