package workflow_test

import (
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/method/cosign"
	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/method/notation"
	"github.com/sealwright/sealwright/internal/method/simple"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
	"github.com/sealwright/sealwright/internal/testenv"
)

// TestOneRequestWithSeveralImagesIsSignedByAllFourMethodsUnderOneApproval is "done
// when" 5 of the issue: one decision, one question, one approval, one audit trail
// and one evidence file for everything.
func TestOneRequestWithSeveralImagesIsSignedByAllFourMethodsUnderOneApproval(t *testing.T) {
	steps := strings.Join([]string{testenv.Cosign, testenv.Notation, testenv.Simple, testenv.DCT}, "      ")
	h := staff(t, strings.Replace(asking(1), testenv.Cosign, steps, 1), testenv.Options{Trusted: []string{"payments/web", "payments/api"}})
	h.s = h.e.Start(nil)
	images := []signing.Artifact{named(h.e, "payments/web", "v1.0.0", "web 1.0"), named(h.e, "payments/web", "v1.0.1", "web 1.0.1"), named(h.e, "payments/api", "v1.0.0", "api")}
	answer, _ := submit(t, h.s, "k", images...)
	r := h.asked(answer.ID)
	comment, err := h.forge.Comment(t.Context(), r.Asking.Thread, r.Asking.Comment)
	ok(t, err)
	question := comment.Body
	for _, want := range []string{"Sign 3 images?", "v1.0.1", "(cosign)", "(notation)", "(simple)", "(dct)", "targets/releases", "**is moved**"} {
		if !strings.Contains(question, want) {
			t.Errorf("the question does not say %q:\n%s", want, question)
		}
	}
	h.noKey()
	if _, err := h.says(h.ann, "approve", r); err != nil {
		t.Fatal(err)
	}
	if r = h.ended(r.ID); r.State != signing.Completed || len(r.Approvals) != 1 {
		t.Fatalf("ended %s: %+v", r.State, r.Failure)
	}
	// Nine signatures on images, and the releases of two repositories.
	if n := h.e.KeyUses(); n != 3*3+2 {
		t.Errorf("%d key uses", n)
	}
	for _, a := range images {
		if h.e.Signatures(a) != 1 || h.e.Referrers(a, notation.ArtifactType) != 1 || lookasides(h.e, a) != 1 {
			t.Errorf("%s: %d, %d and %d signatures", a, h.e.Signatures(a), h.e.Referrers(a, notation.ArtifactType), lookasides(h.e, a))
		}
	}
	trusted(t, h.e, images[:2]...)
	trusted(t, h.e, images[2])
	var tasks []*signing.Task
	ok(t, h.s.Store.View(t.Context(), func(tx *store.Tx) (err error) { tasks, err = tx.Tasks(r.ID); return err }))
	made := map[string]int{}
	for _, task := range tasks {
		made[task.Step.Method]++
	}
	if made[cosign.Name] != 3 || made[notation.Name] != 3 || made[simple.Name] != 3 || made[dct.Name] != 2 {
		t.Errorf("%v", made)
	}
	count := map[string]int{}
	for _, ev := range h.s.VerifyLog() {
		if ev.Request == r.ID {
			count[ev.Kind]++
		}
	}
	for kind, want := range map[string]int{
		audit.RequestSubmitted: 1, audit.RequestDecided: 1, audit.RequestAsked: 1, audit.RequestApproved: 1, audit.RequestSigning: 1, audit.RequestCompleted: 1,
		audit.TaskFailed: 0, audit.TamperDetected: 0, audit.TaskPrepared: 11, audit.KeyAttempt: 11, audit.TaskSigned: 11, audit.TaskPublished: 11,
	} {
		if count[kind] != want {
			t.Errorf("%d events %s, want %d", count[kind], kind, want)
		}
	}
	if n := h.s.VerifyEvidence(); n != 1 {
		t.Errorf("%d evidence files", n)
	}
}
