package workflow_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/approval"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
	"github.com/sealwright/sealwright/internal/testenv"
	"github.com/sealwright/sealwright/internal/view"
	"github.com/sealwright/sealwright/internal/workflow"
)

// TestEveryStepWithApprovalMayFailOrBeTheLast is the failure table for a Request
// that people approve: every transaction, every call of the forge, the registry
// and the key. Whatever goes wrong, people are asked in one comment, one approval
// is recorded, and there is one signature.
func TestEveryStepWithApprovalMayFailOrBeTheLast(t *testing.T) {
	world := testenv.NewWorld(t, true)
	h := staff(t, asking(1), testenv.Options{World: world})
	f := testenv.NewFaults("", "")
	approvedOnce(t, h, f)
	steps := f.Steps()
	for _, want := range []string{
		"forge Ask#1", "forge Members#1", "store await#1", "forge Find#1", "store ask#1", "forge Mine#1", "store ask#2", "forge Post#1", "store asked question#1",
		"forge Comment#1", "forge Standing#1", "store command#1", "forge Ask#2", "forge Standing#2", "store begin#1", "store prepare#1", "key sign#1", "store signed#1",
	} {
		if !slices.Contains(steps, want) {
			t.Fatalf("the table lacks %s: %s", want, strings.Join(steps, ", "))
		}
	}
	t.Logf("%d steps: %s", len(steps), strings.Join(steps, ", "))
	for _, step := range steps {
		if strings.HasPrefix(step, "registry ") {
			continue // the table without approval has them
		}
		for _, mode := range []testenv.Mode{testenv.Fails, testenv.FailsButHappened, testenv.DiesAfter} {
			t.Run(step+" "+string(mode), func(t *testing.T) {
				t.Parallel()
				f := testenv.NewFaults(step, mode)
				approvedOnce(t, staff(t, asking(1), testenv.Options{World: world}), f)
				if !f.Hit() && certain(step) {
					t.Error("the step did not come to pass; it is not the same run")
				}
			})
		}
	}
}

// certain says of a step that it comes to pass in every run: what is claimed
// together, and how often a question is edited after its end, differs.
func certain(step string) bool {
	name, _, _ := strings.Cut(step, "#")
	switch name {
	case "store claim", "store asked", "store reported", "store sequence", "store finish", "store wait", "store heard", "forge Edit", "forge Check", "forge Comments":
		return false
	case "forge Mine", "forge Comment", "store ask", "forge Members":
		return strings.HasSuffix(step, "#1")
	}
	return !strings.HasPrefix(name, "registry GET")
}

// approvedOnce submits, approves when people were asked, and holds the outcome
// against what is promised. The job submits again, and the person repeats the
// command, until they are answered.
func approvedOnce(t *testing.T, h *office, f *testenv.Faults) {
	t.Helper()
	h.t = t
	a := h.e.Image(t.Name())
	s, err := h.e.TryStart(f)
	if err != nil {
		s = h.e.Start(nil)
	}
	r, capability, s := persist(t, h.e, s, f, a)
	h.s = s
	code, quiet := "", 0
	for !r.State.Terminal() {
		select {
		case <-f.Died():
			if h.s.Faults == f {
				h.s.Stop()
				h.s = h.e.Start(nil)
				r, capability = again(t, h.s, a)
			}
		default:
		}
		if row := stored(h.s, r.ID); row != nil && row.State == signing.AwaitingApproval && !row.Asking.Asked.IsZero() {
			code = codeOf(row)
			_, _ = h.s.Workflow.Command(t.Context(), workflow.Input{Request: row.ID, Verb: approval.VerbApprove, Code: code, By: h.ann, Via: signing.ViaComment, Ref: "the comment", At: h.e.Now()})
		}
		ans := h.s.Get(fmt.Sprintf("/v1/requests/%s?wait=100ms&version=%d", r.ID, r.Version), capability)
		before := r.Version
		if ans.Status == http.StatusOK {
			ans.JSON(t, &r)
		}
		if quiet++; r.Version != before {
			quiet = 0
		}
		if quiet == 20 && f.LostClaim() {
			h.e.Clock.Add(int64(3 * time.Minute)) // all leases of jobs run out
		}
	}
	if r.State != signing.Completed {
		t.Fatalf("ended %s: %+v", r.State, r.Failure)
	}
	if n := h.e.Signatures(a); n != 1 {
		t.Errorf("%d signatures", n)
	}
	count := map[string]int{}
	for _, ev := range verifyLog(t, h.e, h.s, f) {
		if ev.Request == r.ID {
			count[ev.Kind]++
		}
	}
	for kind, want := range map[string]int{
		audit.RequestSubmitted: 1, audit.RequestDecided: 1, audit.RequestAsked: 1, audit.RequestApproved: 1, audit.RequestSigning: 1, audit.RequestCompleted: 1,
		audit.RequestDenied: 0, audit.RequestFailed: 0, audit.TamperDetected: 0, audit.TaskSigned: 1, audit.CommandRefused: 0,
	} {
		if count[kind] != want {
			t.Errorf("%d events %s, want %d", count[kind], kind, want)
		}
	}
	row := stored(h.s, r.ID)
	if row == nil {
		return // the log of a dead process was verified by another
	}
	mine, err := h.forge.Mine(t.Context(), row.Asking.Thread, view.QuestionMarker(r.ID, 1))
	if err != nil || len(mine) != 1 || row.Asking.Round != 1 {
		t.Errorf("%d questions, round %d: %v", len(mine), row.Asking.Round, err)
	}
}

// again is the job that submits once more after its service died.
func again(t *testing.T, s *testenv.Service, a signing.Artifact) (r api.Request, capability string) {
	t.Helper()
	ans := s.Post("/v1/requests", s.Env.GitHub(devworld.NewGitHubJob()), "k", testenv.Body("release", a))
	if ans.Status != http.StatusCreated && ans.Status != http.StatusOK {
		t.Fatalf("submission answered %d: %s", ans.Status, ans.Body)
	}
	ans.JSON(t, &r)
	return r, ans.Header.Get(api.HeaderCapability)
}

// stored is the Request as it is stored, nil where it cannot be read.
func stored(s *testenv.Service, id string) (r *signing.Request) {
	_ = s.Store.View(s.Env.T.Context(), func(tx *store.Tx) (err error) { r, err = tx.Request(id); return err })
	return r
}

// TestAQuestionWhoseAnswerWasLostIsFoundAndNotAskedTwice is one line of the table.
func TestAQuestionWhoseAnswerWasLostIsFoundAndNotAskedTwice(t *testing.T) {
	f := testenv.NewFaults("forge Post#1", testenv.FailsButHappened)
	approvedOnce(t, staff(t, asking(1), testenv.Options{World: testenv.NewWorld(t, true)}), f)
	if !f.Hit() {
		t.Error("no answer was lost")
	}
}
