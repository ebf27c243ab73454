package workflow_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/approval"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

// attempt submits as attempt n of the run, changed by change.
func attempt(t *testing.T, s *testenv.Service, n, key string, change func(*devworld.GitHubJob), artifacts ...signing.Artifact) (api.Request, string, int) {
	t.Helper()
	j := devworld.NewGitHubJob()
	j.RunAttempt = n
	if change != nil {
		change(&j)
	}
	a := s.Post("/v1/requests", s.Env.GitHub(j), key, testenv.Body("release", artifacts...))
	if a.Status != http.StatusCreated && a.Status != http.StatusOK {
		t.Fatalf("submission answered %d: %s", a.Status, a.Body)
	}
	var r api.Request
	a.JSON(t, &r)
	return r, a.Header.Get(api.HeaderCapability), a.Status
}

func attaching(t *testing.T, world *devworld.World, reruns string) (*testenv.Env, *testenv.Service) {
	t.Helper()
	e := testenv.New(t, testenv.Options{World: world, Policy: strings.Replace(testenv.Policy, "      ref_protected: true\n", "      ref_protected: true\n      reruns: "+reruns+"\n", 1)})
	return e, e.Start(nil)
}

func TestReRunThatAsksForTheSameGetsTheFirstRequest(t *testing.T) {
	e, s := attaching(t, nil, "attach")
	a := e.Image(t.Name())
	first, capability, _ := attempt(t, s, "1", "one", nil, a)
	if r := finish(t, s, first.ID, capability); r.State != signing.Completed {
		t.Fatalf("%s: %+v", r.State, r.Failure)
	}
	again, newer, status := attempt(t, s, "2", "two", nil, a)
	if status != http.StatusOK || again.ID != first.ID || again.State != signing.Completed || len(again.Tasks) != 1 || len(again.Tasks[0].Locations) != 1 {
		t.Errorf("%d: %s is %s with %v", status, again.ID, again.State, again.Tasks)
	}
	// Only the newest attempt may read it.
	if was, now := s.Get("/v1/requests/"+first.ID, capability), s.Get("/v1/requests/"+first.ID, newer); was.Status != http.StatusNotFound || now.Status != http.StatusOK {
		t.Errorf("the first attempt reads %d, the second %d", was.Status, now.Status)
	}
	// Repeated, as when the answer was lost; and by the third attempt.
	if r, _, _ := attempt(t, s, "2", "two", nil, a); r.ID != first.ID {
		t.Errorf("the repetition is %s", r.ID)
	}
	if r, _, _ := attempt(t, s, "3", "three", nil, a); r.ID != first.ID {
		t.Errorf("the third attempt is %s", r.ID)
	}
	if got := quiet(t, e, s); e.KeyUses() != 1 || got[audit.RequestAttached] != 2 || got[audit.RequestSubmitted] != 1 {
		t.Errorf("%d key uses, %v", e.KeyUses(), got)
	}
}

func TestReRunThatDiffersInAnythingIsRefused(t *testing.T) {
	world := testenv.NewWorld(t, true)
	for name, c := range map[string]struct {
		reruns, n string
		change    func(*devworld.GitHubJob)
		other     bool // image
	}{
		"another image":                        {"attach", "2", nil, true},
		"another commit":                       {"attach", "2", func(j *devworld.GitHubJob) { j.SHA = "7dcb09b5b57875f334f61aebed695e2e4193db5e" }, false},
		"another ref":                          {"attach", "2", func(j *devworld.GitHubJob) { j.Ref = "refs/tags/v1" }, false},
		"another event":                        {"attach", "2", func(j *devworld.GitHubJob) { j.Event = "release" }, false},
		"another run":                          {"attach", "2", func(j *devworld.GitHubJob) { j.RunID = "9002" }, false},
		"a policy that lets no re-run attach":  {"deny", "2", nil, false},
		"an attempt whose number is no number": {"attach", "2", func(j *devworld.GitHubJob) { j.Overrides = map[string]any{"run_attempt": "9999999999999999999"} }, true},
	} {
		t.Run(name, func(t *testing.T) {
			e, s := attaching(t, world, c.reruns)
			a := e.Image(t.Name())
			first, capability, _ := attempt(t, s, "1", "one", nil, a)
			finish(t, s, first.ID, capability)
			if c.other {
				a = e.Image(t.Name() + "-other")
			}
			r, capability, _ := attempt(t, s, c.n, "two", c.change, a)
			if r = finish(t, s, r.ID, capability); r.ID == first.ID || r.State != signing.RequestDenied || !strings.Contains(r.Failure.Message, "origin.reruns") {
				t.Errorf("%s: %s, %+v", r.ID, r.State, r.Failure)
			}
			if got := quiet(t, e, s); e.KeyUses() != 1 || got[audit.RequestAttached] != 0 {
				t.Errorf("%d key uses, %v", e.KeyUses(), got)
			}
		})
	}
	t.Run("without an earlier attempt", func(t *testing.T) {
		e, s := attaching(t, world, "attach")
		r, capability, _ := attempt(t, s, "2", "two", nil, e.Image(t.Name()))
		if r = finish(t, s, r.ID, capability); r.State != signing.RequestDenied || e.KeyUses() != 0 {
			t.Errorf("%s, %d key uses", r.State, e.KeyUses())
		}
	})
	t.Run("an earlier attempt after a later one", func(t *testing.T) {
		e, s := attaching(t, world, "attach")
		a := e.Image(t.Name())
		later, capability, _ := attempt(t, s, "2", "two", nil, a)
		finish(t, s, later.ID, capability)
		r, capability, _ := attempt(t, s, "1", "one", nil, a)
		if r = finish(t, s, r.ID, capability); r.ID == later.ID || r.State != signing.Completed {
			t.Errorf("%s is %s", r.ID, r.State)
		}
	})
}

func TestTokenThatAttachedIsUsedUp(t *testing.T) {
	e, s := attaching(t, nil, "attach")
	a := e.Image(t.Name())
	first, capability, _ := attempt(t, s, "1", "one", nil, a)
	finish(t, s, first.ID, capability)
	j := devworld.NewGitHubJob()
	j.RunAttempt = "2"
	token := e.GitHub(j)
	if got := s.Post("/v1/requests", token, "two", testenv.Body("release", a)); got.Status != http.StatusOK {
		t.Fatalf("%d: %s", got.Status, got.Body)
	}
	for _, image := range []signing.Artifact{a, e.Image("other")} {
		if got := s.Post("/v1/requests", token, "three", testenv.Body("release", image)); got.Status != http.StatusConflict {
			t.Errorf("used again: %d: %s", got.Status, got.Body)
		}
	}
}

// TestRowThatLetsReRunsAttachIsAuthentic: whoever can write rows cannot hand out
// another run's request.
func TestRowThatLetsReRunsAttachIsAuthentic(t *testing.T) {
	e, s := attaching(t, nil, "attach")
	a := e.Image(t.Name())
	first, capability, _ := attempt(t, s, "1", "one", nil, a)
	finish(t, s, first.ID, capability)
	other, capability, _ := attempt(t, s, "1", "other", nil, e.Image("other"))
	finish(t, s, other.ID, capability)
	steal(t, e).exec("UPDATE idempotency SET request_id = ? WHERE scope LIKE 'attempts of%' AND request_id = ?", other.ID, first.ID)
	j := devworld.NewGitHubJob()
	j.RunAttempt = "2"
	if got := s.Post("/v1/requests", e.GitHub(j), "two", testenv.Body("release", a)); got.Status < http.StatusBadRequest {
		t.Errorf("%d: %s", got.Status, got.Body)
	}
}

// TestReRunAttachesToARequestThatWaitsForApproval: people are asked once, what they
// said before the re-run stands, and the newest attempt is who hears of the end.
func TestReRunAttachesToARequestThatWaitsForApproval(t *testing.T) {
	h := newOffice(t, strings.Replace(asking(2), "      ref_protected: true\n", "      ref_protected: true\n      reruns: attach\n", 1))
	a := h.e.Image(t.Name())
	first, older, _ := attempt(t, h.s, "1", "one", nil, a)
	r := h.asked(first.ID)
	if _, err := h.says(h.ann, approval.VerbApprove, r); err != nil {
		t.Fatal(err)
	}
	again, newer, status := attempt(t, h.s, "2", "two", nil, a)
	if status != http.StatusOK || again.ID != first.ID || again.State != signing.AwaitingApproval {
		t.Fatalf("%d: %s is %s", status, again.ID, again.State)
	}
	if was, now := h.s.Get("/v1/requests/"+first.ID, older), h.s.Get("/v1/requests/"+first.ID, newer); was.Status != http.StatusNotFound || now.Status != http.StatusOK {
		t.Errorf("the first attempt reads %d, the second %d", was.Status, now.Status)
	}
	h.noKey()
	// What was asked is what it was: its code still counts, and nobody is asked anew.
	if got := h.row(first.ID); got.Asking.Round != r.Asking.Round || got.Asking.Comment != r.Asking.Comment {
		t.Errorf("the question is another one: %+v", got.Asking)
	}
	if out, err := h.says(h.bob, approval.VerbApprove, r); err != nil || !out.Tally.Met {
		t.Fatalf("the last approval: %+v %v", out, err)
	}
	if r := finish(t, h.s, first.ID, newer); r.State != signing.Completed || h.e.Signatures(a) != 1 {
		t.Fatalf("%s: %+v", r.State, r.Failure)
	}
	if got := quiet(t, h.e, h.s); h.e.KeyUses() != 1 || got[audit.RequestAttached] != 1 || got[audit.RequestAsked] != 1 || got[audit.RequestApproved] != 2 {
		t.Errorf("%d key uses, %v", h.e.KeyUses(), got)
	}
}
