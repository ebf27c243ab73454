package workflow_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/approval"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
	"github.com/sealwright/sealwright/internal/workflow"
)

// run submits an image from a job.
func (h *office) run(key string, job devworld.GitHubJob) api.Request {
	h.t.Helper()
	a := h.s.Post("/v1/requests", h.e.GitHub(job), key, testenv.Body("release", h.e.Image(h.t.Name()+key)))
	if a.Status != http.StatusCreated {
		h.t.Fatalf("submission answered %d: %s", a.Status, a.Body)
	}
	var r api.Request
	a.JSON(h.t, &r)
	return r
}

func TestOneRequestOfARunAndPolicyWaits(t *testing.T) {
	h := newOffice(t, asking(1))
	first := h.submit("one")
	second := h.ended(h.run("two", devworld.NewGitHubJob()).ID)
	if second.State != signing.RequestDenied || !strings.Contains(fmt.Sprint(second.Decision.Reasons), first.ID) {
		t.Fatalf("%s: %+v", second.State, second.Failure)
	}
	if first = h.row(first.ID); first.State != signing.AwaitingApproval {
		t.Errorf("the first is %s", first.State)
	}
	if _, err := h.says(h.ann, approval.VerbApprove, first); err != nil {
		t.Fatal(err)
	}
	h.ended(first.ID)
	third := h.asked(h.run("three", devworld.NewGitHubJob()).ID)
	if third.Asking.Nth != 3 {
		t.Errorf("the third request of the run is number %d", third.Asking.Nth)
	}
}

func TestANewerRequestOfTheRefTakesThePlaceOfOneThatWaits(t *testing.T) {
	h := newOffice(t, asking(1, "supersede: true"))
	old := h.submit("one")
	job := devworld.NewGitHubJob()
	job.RunID = "9002"
	next := h.asked(h.run("two", job).ID)
	old = h.ended(old.ID)
	if old.State != signing.Canceled || old.Failure.Found != next.ID {
		t.Fatalf("%s: %+v", old.State, old.Failure)
	}
	_, err := h.says(h.ann, approval.VerbApprove, old)
	h.refuses("an approval of the old one", err, signing.Conflict)
	h.until(old.ID, "the old question to be hidden", func(r *signing.Request) bool { return h.forge.Collapsed(r.Asking.Thread, r.Asking.Comment) })
	other := devworld.NewGitHubJob()
	other.RunID, other.Ref = "9003", "refs/tags/v1.0.0"
	h.asked(h.run("three", other).ID)
	if now := h.row(next.ID); now.State != signing.AwaitingApproval {
		t.Errorf("a request of another ref made it %s", now.State)
	}
	found := false
	for _, ev := range h.s.VerifyLog() {
		found = found || ev.Kind == audit.RequestCanceled && ev.Attrs["superseded_by"] == next.ID
	}
	if !found {
		t.Error("no event says so")
	}
	h.noKey()
	h.s.VerifyEvidence()
}

// people maps ann and bob to their accounts.
func mapped() []approval.Person {
	return []approval.Person{
		{Name: "Ann", Accounts: []string{"github.test:101", "github.test:109"}, Identities: []approval.PersonIdentity{{Issuer: "https://login.test", Subject: "ann"}}},
		{Name: "Bob", Accounts: []string{"github.test:102"}, Identities: []approval.PersonIdentity{{Issuer: "https://login.test", Subject: "bob"}}},
		{Name: "Author", Accounts: []string{"github.test:103", "github.test:104"}, Identities: []approval.PersonIdentity{{Issuer: "https://login.test", Subject: "author"}}},
	}
}

func person(subject string, roles ...signing.PeopleRole) signing.Identity {
	return signing.Identity{Issuer: "https://login.test", Role: signing.RolePeople, Subject: subject, Roles: roles}
}

func officeOf(t *testing.T, policy string) *office {
	t.Helper()
	h := staff(t, policy, testenv.Options{People: mapped()})
	h.s = h.e.Start(nil)
	return h
}

func TestAPersonWithTwoAccountsCountsOnce(t *testing.T) {
	h := officeOf(t, asking(2))
	second := h.forge.Person("109", "ann-too", releaseTeam)
	r := h.submit("k")
	if _, err := h.says(h.ann, approval.VerbApprove, r); err != nil {
		t.Fatal(err)
	}
	if out, _ := h.says(second, approval.VerbApprove, r); out.Tally.Met || out.State == signing.Ready {
		t.Errorf("%+v", out)
	}
	h.noKey()
}

func TestTheOtherAccountOfTheAuthorIsTheAuthor(t *testing.T) {
	h := officeOf(t, asking(1))
	other := h.forge.Person("104", "author-too", releaseTeam)
	r := h.submit("k")
	_, err := h.says(other, approval.VerbApprove, r)
	h.refuses("the author's other account", err, signing.Denied, "wrote")
	h.noKey()
}

func TestOnlyApproversAnswerThroughTheAPI(t *testing.T) {
	h := officeOf(t, asking(1, "ways: [comment, api]"))
	r := h.submit("k")
	give := func(who signing.Identity, by signing.Account) (workflow.Outcome, error) {
		return h.s.Workflow.Command(t.Context(), workflow.Input{Request: r.ID, Verb: approval.VerbApprove, Code: codeOf(r), By: by, Identity: who, Via: signing.ViaAPI, At: h.e.Now()})
	}
	ci := r.Identity
	ci.Roles = []signing.PeopleRole{signing.Approver}
	for what, who := range map[string]signing.Identity{
		"the job": ci, "nobody": {}, "an auditor": person("bob", signing.Auditor, signing.Admin), "the author": person("author", signing.Approver), "somebody without an account": person("eve", signing.Approver),
	} {
		_, err := give(who, signing.Account{})
		h.refuses(what, err, signing.Denied)
	}
	_, err := give(person("bob", signing.Approver), h.ann)
	h.refuses("somebody in another's name", err, signing.Denied)
	if out, err := give(person("bob", signing.Approver), signing.Account{}); err != nil || !out.Tally.Met {
		t.Fatalf("%+v %v", out, err)
	}
	if r = h.ended(r.ID); r.State != signing.Completed || r.Approvals[0].By.ID != "102" || r.Approvals[0].Person != "Bob" {
		t.Errorf("%s %+v", r.State, r.Approvals)
	}
	h.s.VerifyEvidence()
}

func TestBreakingTheGlassTakesTwoPeopleAndATicket(t *testing.T) {
	h := officeOf(t, asking(1, "ways: [comment, break_glass]"))
	r := h.submit("k")
	give := func(who, ticket string) (workflow.Outcome, error) {
		return h.s.Workflow.Command(t.Context(), workflow.Input{Request: r.ID, Verb: approval.VerbApprove, Code: codeOf(r), Identity: person(who, signing.Approver), Via: signing.ViaBreakGlass, Ticket: ticket, At: h.e.Now()})
	}
	_, err := give("ann", "")
	h.refuses("without a ticket", err, signing.Invalid)
	_, err = give("author", "T-1")
	h.refuses("the author", err, signing.Denied)
	for _, ticket := range []string{"T-1", "T-1"} {
		if out, err := give("ann", ticket); err == nil && out.Tally.Met {
			t.Fatalf("one person is enough: %+v", out)
		}
	}
	h.noKey()
	if out, err := give("bob", "T-2"); err != nil || out.Tally.Met {
		t.Fatalf("two emergencies are one: %+v %v", out, err)
	}
	if out, err := give("bob", "T-1"); err != nil || !out.Tally.Met {
		t.Fatalf("%+v %v", out, err)
	}
	if r = h.ended(r.ID); r.State != signing.Completed {
		t.Errorf("%+v", r.Failure)
	}
	alarms := 0
	for _, ev := range h.s.VerifyLog() {
		if ev.Kind == audit.BreakGlass {
			alarms++
		}
	}
	if alarms < 3 {
		t.Errorf("%d alarms", alarms)
	}
	h.s.VerifyEvidence()
}

func TestADenialMayOnlyWithdraw(t *testing.T) {
	h := newOffice(t, asking(2, "deny: withdraws"))
	r := h.submit("k")
	for _, verb := range []string{approval.VerbApprove, approval.VerbDeny} {
		if _, err := h.says(h.ann, verb, r); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := h.says(h.bob, approval.VerbApprove, r); err != nil || out.Tally.Met {
		t.Fatalf("%+v %v", out, err)
	}
	h.forge.Person("666", "stranger")
	_, err := h.says(signing.Account{Forge: "github.test", ID: "666"}, approval.VerbDeny, r)
	h.refuses("a stranger's denial", err, signing.Denied)
	if out, err := h.says(h.ann, approval.VerbApprove, r); err != nil || !out.Tally.Met {
		t.Fatalf("%+v %v", out, err)
	}
	if r = h.ended(r.ID); r.State != signing.Completed {
		t.Errorf("%+v", r.Failure)
	}
	h.s.VerifyEvidence()
}

// byHand is a policy for people beside one for jobs.
func byHand() string {
	return testenv.Policy + fmt.Sprintf("  by-hand:\n    tags: [\"v*\"]\n    origin:\n      human: true\n      refs: [\"refs/heads/main\"]\n      github: {events: [push], workflow: .github/workflows/release.yml}\n    approvals:\n      required: 1\n      from: [%q]\n      exclude: [author]\n    sign:\n      - {method: cosign, key: release}\n", releaseTeam)
}

const byHandKeys = `
  - id: release
    file: file:DIR/release.key
    methods: [cosign]
    allow: [{project: payments, policy: release, repositories: ["HOST/payments/*"]}, {project: payments, policy: by-hand, repositories: ["HOST/payments/*"]}]
`

func TestAPersonSubmitsAgainWhatWasSignedAndAnotherApproves(t *testing.T) {
	h := staff(t, byHand(), testenv.Options{People: mapped(), Keys: byHandKeys})
	h.s = h.e.Start(nil)
	first, capability := submit(t, h.s, "k", h.e.Image(t.Name()))
	if first = finish(t, h.s, first.ID, capability); first.State != signing.Completed {
		t.Fatalf("%+v", first.Failure)
	}
	w, ctx := h.s.Workflow, t.Context()
	for what, who := range map[string]signing.Identity{"a job": h.row(first.ID).Identity, "an approver": person("ann", signing.Approver, signing.Admin), "nobody": {}} {
		if _, err := w.Resubmit(ctx, first.ID, "by-hand", 0, who); !errors.Is(err, signing.Denied) {
			t.Errorf("%s: %v", what, err)
		}
	}
	ann := person("ann", signing.Submitter, signing.Approver)
	if _, err := w.Resubmit(ctx, "sr_0000000000000000", "by-hand", 0, ann); !errors.Is(err, signing.NotFound) {
		t.Errorf("an unknown source: %v", err)
	}
	s, err := w.Resubmit(ctx, first.ID, "by-hand", 0, ann)
	ok(t, err)
	again, err := w.Resubmit(ctx, first.ID, "by-hand", 0, ann)
	if err != nil || again.Request.ID != s.Request.ID {
		t.Errorf("the same again is another request: %v", err)
	}
	r := h.asked(s.Request.ID)
	if r.Source != first.ID || r.Decision.Basis.Source != first.ID {
		t.Errorf("source %q, in the basis %q", r.Source, r.Decision.Basis.Source)
	}
	_, err = h.says(h.ann, approval.VerbApprove, r)
	h.refuses("who submitted it", err, signing.Denied, "submitted")
	if out, err := h.says(h.bob, approval.VerbApprove, r); err != nil || !out.Tally.Met {
		t.Fatalf("%+v %v", out, err)
	}
	if r = h.ended(r.ID); r.State != signing.Completed {
		t.Errorf("%+v", r.Failure)
	}
	// A policy for jobs is not for people, and what was never signed is nothing to sign again.
	s, err = w.Resubmit(ctx, first.ID, "release", 0, ann)
	ok(t, err)
	denied := h.ended(s.Request.ID)
	if denied.State != signing.RequestDenied {
		t.Errorf("under a policy for jobs: %s", denied.State)
	}
	if _, err := w.Resubmit(ctx, denied.ID, "by-hand", 0, ann); !errors.Is(err, signing.Conflict) {
		t.Errorf("of a denied request: %v", err)
	}
	h.e.Clock.Add(int64(31 * 24 * time.Hour))
	s, err = w.Resubmit(ctx, first.ID, "by-hand", 0, ann)
	ok(t, err)
	if old := h.ended(s.Request.ID); old.State != signing.RequestDenied {
		t.Errorf("of a request that is too old: %s", old.State)
	}
	h.s.VerifyEvidence()
}

func TestPeopleAreRemindedOnceHalfway(t *testing.T) {
	h := newOffice(t, asking(1))
	r := h.submit("k")
	reminders := func() int {
		all, err := h.forge.Comments(t.Context(), r.Asking.Thread, time.Time{})
		ok(t, err)
		n := 0
		for _, c := range all {
			if strings.HasPrefix(c.Body, "<!-- sealwright reminder "+r.ID) {
				n++
			}
		}
		return n
	}
	if reminders() != 0 {
		t.Error("reminded at once")
	}
	h.e.Clock.Add(int64(31 * time.Minute))
	h.until(r.ID, "a reminder", func(r *signing.Request) bool { return !r.Asking.Reminded.IsZero() })
	if _, err := h.says(h.author, approval.VerbApprove, r); err == nil { // has the question looked at again
		t.Error("the author approved")
	}
	h.e.Clock.Add(int64(10 * time.Minute))
	if out, err := h.says(h.ann, approval.VerbApprove, r); err != nil || !out.Tally.Met {
		t.Fatalf("%+v %v", out, err)
	}
	h.ended(r.ID)
	if n := reminders(); n != 1 {
		t.Errorf("%d reminders", n)
	}
	h.s.VerifyEvidence()
}
