package workflow_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/approval"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
	"github.com/sealwright/sealwright/internal/testenv"
	"github.com/sealwright/sealwright/internal/workflow"
)

// TestWhoCanWriteTheDatabaseApprovesNothing: without the state secret no row that
// says that people approved, or that nobody has to, is believed.
func TestWhoCanWriteTheDatabaseApprovesNothing(t *testing.T) {
	for what, alter := range map[string]func(h *office, r *signing.Request){
		"an approval put in": func(h *office, r *signing.Request) {
			r.Approvals = []signing.Approval{{By: h.ann, Person: h.ann.Key(), Via: signing.ViaComment, At: h.e.Now(), BasisDigest: r.Decision.BasisDigest, Ref: "1", Groups: []int{0}}}
		},
		"an approval put in, and ready": func(h *office, r *signing.Request) {
			r.Approvals = []signing.Approval{{By: h.ann, Person: h.ann.Key(), Via: signing.ViaComment, At: h.e.Now(), BasisDigest: r.Decision.BasisDigest, Ref: "1", Groups: []int{0}}}
			r.State = signing.Ready
		},
		"a smaller quorum": func(_ *office, r *signing.Request) { r.Decision.Approvals.Groups[0].Required = 0 },
		"a decision that allows": func(_ *office, r *signing.Request) {
			r.Decision.Effect, r.Decision.Approvals, r.State = signing.Allow, nil, signing.Ready
		},
		"nobody excluded":           func(_ *office, r *signing.Request) { r.Decision.Excluded = nil },
		"another thread":            func(_ *office, r *signing.Request) { r.Asking.Thread.Number = "666" },
		"an older round":            func(_ *office, r *signing.Request) { r.Asking.Round = 0 },
		"another comment of theirs": func(_ *office, r *signing.Request) { r.Asking.Body = signing.DigestOf(nil) },
	} {
		t.Run(what, func(t *testing.T) {
			h := newOffice(t, asking(1))
			r := h.submit("k")
			th := steal(t, h.e)
			altered := th.request(r.ID)
			alter(h, altered)
			th.putRequest(altered, r.ID)
			_, err := h.says(h.ann, approval.VerbApprove, r)
			if !errors.Is(err, store.ErrTampered) {
				t.Errorf("an approval on top of it: %v", err)
			}
			th.enqueue(r.ID)
			detected(t, h.s, r.ID, "requests")
			h.noKey()
		})
	}
}

// TestTheLastApprovalItselfWakesWhoWaits: nothing in this service looks at a clock
// for an hour, so that only the approval can have had it signed and told.
func TestTheLastApprovalItselfWakesWhoWaits(t *testing.T) {
	h := staff(t, asking(1), testenv.Options{Poll: time.Hour})
	h.s = h.e.Start(nil)
	r := h.submit("k")
	type end struct {
		s   workflow.Snapshot
		err error
	}
	over := make(chan end, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
	defer cancel()
	started := make(chan struct{})
	go func() {
		auditor := signing.Identity{Role: signing.RolePeople, Roles: []signing.PeopleRole{signing.Auditor}}
		close(started)
		version := h.row(r.ID).Version
		for {
			s, err := h.s.Workflow.WaitAs(ctx, r.ID, auditor, version, 40*time.Second)
			if err != nil || s.Request.State.Terminal() || ctx.Err() != nil {
				over <- end{s, err}
				return
			}
			version = s.Version()
		}
	}()
	<-started
	if out, err := h.says(h.ann, approval.VerbApprove, r); err != nil || out.State != signing.Ready {
		t.Fatalf("%+v %v", out, err)
	}
	if got := <-over; got.err != nil || got.s.Request.State != signing.Completed {
		t.Errorf("%+v: %v", got.s.Request, got.err)
	}
}
