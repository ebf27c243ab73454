package scenario

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/method/cosign"
	"github.com/sealwright/sealwright/internal/signing"
)

// TestFromTheTokenToTheSignature is the whole way, and reads the signature back with
// cosign's own rules; the CLIs of cosign do so in package conformance.
func TestFromTheTokenToTheSignature(t *testing.T) {
	Whole(t, func(t *testing.T, i Image, signed bool) {
		n, err := cosign.New(i.r.w.s.Registry).VerifyImage(t.Context(), i.r.image, i.info())
		if signed && (err != nil || n != 1) || !signed && n != 0 {
			t.Errorf("signed %v: %d signatures verify: %v", signed, n, err)
		}
	})
}

// TestTheWaitingJobIsWokenByTheLastApproval is about order, not about time: the
// long poll of a job answers because of the approval that makes the quorum. Nothing
// is due by a timer: the service looks for due work once in an hour.
func TestTheWaitingJobIsWokenByTheLastApproval(t *testing.T) {
	both(t, options{slowTimers: true}, func(t *testing.T, w *world) {
		r := w.submit(honest())
		r.asked()
		r.quiet()
		r.approve("ann")
		r.given(1)
		r.quiet()
		answer := make(chan api.Request, 1)
		go func() { // a job: it asks again for as long as people have not decided
			for q := r.read(); ; {
				ans := w.s.Get(fmt.Sprintf("%s/%s?wait=50s&version=%d", api.PathRequests, r.id, q.Version), r.capability)
				ans.JSON(t, &q)
				if q.State != signing.AwaitingApproval {
					answer <- q
					return
				}
			}
		}()
		w.until("the job waits", func() bool { return w.s.Workflow.Waiters() > 0 })
		select {
		case q := <-answer:
			t.Fatalf("the job was answered before anybody had approved: %s", q.State)
		default:
		}
		r.approve("bob")
		select {
		case q := <-answer:
			if q.State == signing.AwaitingApproval || q.State == signing.RequestDenied {
				t.Errorf("answered %s", q.State)
			}
		case <-time.After(patience):
			t.Fatal("the job was not woken")
		}
		r.signed()
	})
}

// TestACommentWhoseWebhookIsLostIsFoundByThePoll loses every delivery.
func TestACommentWhoseWebhookIsLostIsFoundByThePoll(t *testing.T) {
	both(t, options{lose: 1000, poll: 50 * time.Millisecond}, func(t *testing.T, w *world) {
		r := w.submit(honest())
		r.approve("ann")
		r.approve("bob")
		r.signed()
		for line := range strings.Lines(string(w.s.Get("/metrics", "").Body)) {
			if strings.HasPrefix(line, "sealwright_deliveries_total{") && strings.Contains(line, `outcome="stored"`) {
				t.Errorf("a delivery came: %s", line)
			}
		}
	})
}

// TestTheLogTellsWhoApprovedBeforeTheKeyWasUsed reads the events in their order.
func TestTheLogTellsWhoApprovedBeforeTheKeyWasUsed(t *testing.T) {
	both(t, options{}, func(t *testing.T, w *world) {
		r := w.submit(honest())
		r.approve("ann")
		r.given(1)
		r.approve("bob")
		r.signed()
		var kinds []string
		for _, ev := range w.s.VerifyLog() {
			if ev.Request == r.id {
				kinds = append(kinds, ev.Kind)
			}
		}
		want := []string{audit.RequestSubmitted, audit.RequestDecided, audit.RequestAsked, audit.RequestApproved, audit.RequestApproved, audit.RequestSigning, audit.KeyAttempt, audit.RequestCompleted}
		at := 0
		for _, k := range kinds {
			if at < len(want) && k == want[at] {
				at++
			}
		}
		if at != len(want) {
			t.Errorf("the events are %v; %s is missing or in the wrong place", kinds, want[at])
		}
	})
}

func TestADenialEndsTheRequest(t *testing.T) {
	both(t, options{}, func(t *testing.T, w *world) {
		r := w.submit(honest())
		r.approve("ann")
		r.given(1)
		w.say(r.build.pull, "bob", r.command("deny", r.asked())+" the base image is of *last* year @everybody")
		q := r.reaches(signing.RequestDenied)
		if q.Failure == nil || !strings.Contains(q.Failure.Found, "bob") {
			t.Errorf("%+v", q.Failure)
		}
		w.say(r.build.pull, "cat", r.command("approve", q.Approval.Code))
		w.f.settle()
		r.unsigned()
		for _, text := range w.f.ours(r.build.pull) {
			if strings.Contains(reCode.ReplaceAllString(text, ""), "@everybody") {
				t.Errorf("a stranger's mention is passed on: %s", text)
			}
		}
		w.until("the forge shows the refusal", func() bool {
			s := w.f.status(r.build.sha)
			return s == "failed" || s == "failure"
		})
	})
}

// reCode is a piece of code in Markdown: a mention in it mentions nobody.
var reCode = regexp.MustCompile("`[^`\n]*`")

// TestANewerRequestTakesThePlaceOfOneThatWaits: with `supersede`.
func TestANewerRequestTakesThePlaceOfOneThatWaits(t *testing.T) {
	supersede := func(text string) string {
		return strings.Replace(text, "expires: 24h", "expires: 24h\n      supersede: true", 1)
	}
	both(t, options{policy: supersede}, func(t *testing.T, w *world) {
		old := w.submit(honest())
		code := old.asked()
		young := w.submit(honest())
		young.asked()
		old.reaches(signing.Canceled)
		for _, login := range []string{"ann", "bob"} {
			w.say(old.build.pull, login, old.command("approve", code))
		}
		w.f.settle()
		young.approve("ann")
		young.approve("bob")
		young.signed()
		old.unsigned()
	})
}

// TestAQuorumThatCannotBeMetIsRefusedAtOnce names those who could and who may not.
func TestAQuorumThatCannotBeMetIsRefusedAtOnce(t *testing.T) {
	both(t, options{}, func(t *testing.T, w *world) {
		w.f.leave("cat", "release")
		w.f.leave("bob", "release")
		r := w.submit(honest()) // ann is left; wanda wrote it
		q := r.reaches(signing.RequestDenied)
		if q.Failure == nil || !strings.Contains(fmt.Sprint(q.Decision.Reasons), "wanda") {
			t.Errorf("the names are missing: %+v", q.Decision)
		}
		if texts := w.f.ours(r.build.pull); len(texts) > 0 && strings.Contains(strings.Join(texts, ""), "/sealwright approve") {
			t.Errorf("people were asked all the same: %s", texts)
		}
		r.unsigned()
	})
}

func TestACanceledRequestIsNotSigned(t *testing.T) {
	both(t, options{}, func(t *testing.T, w *world) {
		r := w.submit(honest())
		code := r.asked()
		r.approve("ann")
		r.given(1)
		if ans := w.s.Post(api.PathRequests+"/"+r.id+"/cancel", r.build.token(), "", ""); ans.Status != http.StatusOK {
			t.Fatalf("%d %s", ans.Status, ans.Body)
		}
		r.reaches(signing.Canceled)
		w.say(r.build.pull, "bob", r.command("approve", code))
		w.dealt()
		r.reaches(signing.Canceled)
		r.unsigned()
	})
}
