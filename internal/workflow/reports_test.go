package workflow_test

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/approval"
	forges "github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
	"github.com/sealwright/sealwright/internal/testenv"
	"github.com/sealwright/sealwright/internal/view"
	"github.com/sealwright/sealwright/internal/workflow"
)

// reporting adds channels to a policy.
func reporting(policy string) string {
	return strings.Replace(policy, "    sign:\n", "    report: [check, status]\n    sign:\n", 1)
}

// away is the answer of a forge that is down.
func away() error { return &signing.Error{Code: signing.Unavailable, Message: "down"} }

// unreported is a service that cannot report; failures counts the reports that the
// forge did not take.
func unreported(t *testing.T, policy string) (h *office, failures *atomic.Int64) {
	t.Helper()
	failures = &atomic.Int64{}
	h = staff(t, policy, testenv.Options{Heard: func(_, outcome string) {
		if outcome == workflow.HeardReportFailed {
			failures.Add(1)
		}
	}})
	h.forge.Mute(away())
	h.s = h.e.Start(nil)
	return h, failures
}

// waits waits for something outside of the Request; the clock goes on, so that what
// is due later comes to pass.
func (h *office) waits(what string, is func() bool) {
	h.t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatalf("waited for %s in vain", what)
		}
		h.e.Clock.Add(int64(250 * time.Millisecond))
	}
}

// reported reports whether nothing is left to be reported.
func (h *office) reported() bool {
	h.t.Helper()
	left := true
	ok(h.t, h.s.Store.View(h.t.Context(), func(tx *store.Tx) (err error) {
		_, left, err = tx.NextDue("report")
		return err
	}))
	return !left
}

// TestAForgeThatIsDownDelaysReportsAndLosesNone: the Request is signed meanwhile,
// and the report survives the process.
func TestAForgeThatIsDownDelaysReportsAndLosesNone(t *testing.T) {
	h, failures := unreported(t, reporting(testenv.Policy))
	r, capability := submit(t, h.s, "k", h.e.Image(t.Name()))
	if r = finish(t, h.s, r.ID, capability); r.State != signing.Completed {
		t.Fatalf("%s: %+v", r.State, r.Failure)
	}
	h.waits("two tries", func() bool { return failures.Load() >= 2 })
	if told := h.forge.Told(); len(told) != 0 || h.reported() {
		t.Fatalf("told %v, nothing is left: %v", told, h.reported())
	}
	h.s.Kill()
	h.s = h.e.Start(nil)
	before := failures.Load()
	h.waits("a try of the next process", func() bool { return failures.Load() > before })
	h.forge.Mute(nil)
	h.waits("the report", h.reported)
	if told := h.forge.Told(); !slices.Equal(told, []string{"passed"}) {
		t.Errorf("told %v", told)
	}
}

// TestManyChangesAreOneReport: what changed while nothing could be written is told
// once, as it is now.
func TestManyChangesAreOneReport(t *testing.T) {
	h, failures := unreported(t, reporting(asking(2)))
	r := h.submit("k")
	h.waits("a try", func() bool { return failures.Load() >= 1 })
	if _, err := h.says(h.ann, approval.VerbApprove, r); err != nil {
		t.Fatal(err)
	}
	if _, err := h.says(h.bob, approval.VerbApprove, r); err != nil {
		t.Fatal(err)
	}
	if r = h.ended(r.ID); r.State != signing.Completed {
		t.Fatalf("%s: %+v", r.State, r.Failure)
	}
	h.forge.Mute(nil)
	h.waits("the report", h.reported)
	if told := h.forge.Told(); !slices.Equal(told, []string{"passed"}) {
		t.Errorf("told %v", told)
	}
}

// TestTheIssueThatWasOpenedToAskInIsClosedAtTheEnd, however the Request ends, and
// when the forge is there again if it was not.
func TestTheIssueThatWasOpenedToAskInIsClosedAtTheEnd(t *testing.T) {
	for name, end := range map[string]struct {
		do   func(h *office, r *signing.Request) error
		want signing.RequestState
	}{
		"approved": {func(h *office, r *signing.Request) error {
			_, err := h.says(h.ann, approval.VerbApprove, r)
			return err
		}, signing.Completed},
		"denied": {func(h *office, r *signing.Request) error { _, err := h.says(h.ann, approval.VerbDeny, r); return err }, signing.RequestDenied},
		"canceled": {func(h *office, r *signing.Request) error {
			_, err := h.s.Workflow.Cancel(h.t.Context(), r.ID, r.Identity, r.Origin)
			return err
		}, signing.Canceled},
		"expired": {func(h *office, _ *signing.Request) error {
			h.e.Clock.Add(int64(workflow.DefaultDeadline + time.Minute))
			return nil
		}, signing.RequestExpired},
		"canceled while the forge is down": {func(h *office, r *signing.Request) error {
			h.forge.Down(away())
			_, err := h.s.Workflow.Cancel(h.t.Context(), r.ID, r.Identity, r.Origin)
			return err
		}, signing.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			h := staff(t, asking(1, "deny: ends", "exclude: [actor]"), testenv.Options{})
			h.forge.NoPulls()
			h.s = h.e.Start(nil)
			r := h.submit("k")
			if r.Asking.Thread.Kind != signing.ThreadIssue || h.forge.Closed(r.Asking.Thread) {
				t.Fatalf("asked in %+v", r.Asking.Thread)
			}
			ok(t, end.do(h, r))
			if got := h.ended(r.ID); got.State != end.want {
				t.Fatalf("%s: %+v", got.State, got.Failure)
			}
			h.forge.Down(nil)
			h.waits("the issue to be closed", func() bool { return h.forge.Closed(r.Asking.Thread) })
			c, err := h.forge.Comment(t.Context(), r.Asking.Thread, r.Asking.Comment)
			if err != nil || strings.Contains(c.Body, "/sealwright approve") {
				t.Errorf("it still asks: %v %s", err, c.Body)
			}
		})
	}
}

// TestAPullRequestThatWasAskedInStaysOpen: it is not the service's.
func TestAPullRequestThatWasAskedInStaysOpen(t *testing.T) {
	h := newOffice(t, asking(1))
	r := h.submit("k")
	if _, err := h.says(h.ann, approval.VerbApprove, r); err != nil {
		t.Fatal(err)
	}
	h.ended(r.ID)
	h.waits("the question to say so", func() bool { return h.shows(r, "signed") })
	h.waits("the end of asking", func() bool {
		left := true
		ok(t, h.s.Store.View(t.Context(), func(tx *store.Tx) (err error) { _, left, err = tx.NextDue("ask"); return err }))
		return !left
	})
	if h.forge.Closed(r.Asking.Thread) {
		t.Error("the pull request was closed")
	}
}

// TestTheCheckShowsWhatTheQuestionShows: whoever decides by the check run, which only
// the service can write, is told as much as in the comment.
func TestTheCheckShowsWhatTheQuestionShows(t *testing.T) {
	h := newOffice(t, reporting(asking(1)))
	first := h.submit("first")
	if _, err := h.says(h.ann, approval.VerbApprove, first); err != nil {
		t.Fatal(err)
	}
	if r := h.ended(first.ID); r.State != signing.Completed {
		t.Fatalf("%s: %+v", r.State, r.Failure)
	}
	h.waits("the first report", h.reported)
	r := h.submit("second")
	h.waits("the second report", h.reported)
	mine, err := h.forge.Mine(t.Context(), r.Asking.Thread, view.QuestionMarker(r.ID, 1))
	if err != nil || len(mine) != 1 {
		t.Fatalf("the question: %v %+v", err, mine)
	}
	check, err := h.forge.ReadCheck(t.Context(), forges.Repository{}, "2")
	if err != nil || check.Key != r.ID {
		t.Fatalf("the check: %v %+v", err, check)
	}
	for what, text := range map[string]string{"question": mine[0].Body, "check": check.Summary} {
		for _, want := range []string{"\n  linux/", "- `a change`\n", "New since the last signed release", first.ID, "- the same commit", "policy: as before"} {
			if !strings.Contains(text, want) {
				t.Errorf("the %s has no %q:\n%s", what, want, text)
			}
		}
	}
}
