package workflow_test

import (
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	forges "github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
	"github.com/sealwright/sealwright/internal/testenv"
	"github.com/sealwright/sealwright/internal/workflow"
)

func TestAnAlteredDeliveryIsNotObeyed(t *testing.T) {
	p := newParlour(t, time.Hour)
	r := p.waits(thread("7"))
	p.forge.FailComment(&signing.Error{Code: signing.Unavailable, Message: "down"})
	c := p.forge.Say(thread("7"), p.ann, p.approves(r))
	p.receive(testenv.About(thread("7"), c))
	p.s.Kill()
	edit(t, p.e, "UPDATE deliveries SET body = CAST(replace(CAST(body AS TEXT), 'approve', 'deny') AS BLOB)")
	p.forge.FailComment(nil)
	p.s = p.e.Start(nil)
	d := p.forge.Say(thread("7"), p.ann, p.approves(r)) // one that nobody altered
	p.receive(testenv.About(thread("7"), d))
	p.next(3)
	if n := p.forge.Reads(); n > 2 {
		t.Errorf("%d reads", n)
	}
	p.untouchedByTampering()
}

// untouchedByTampering waits for the event that says what was found.
func (p *parlour) untouchedByTampering() {
	p.t.Helper()
	for range 2000 {
		for _, ev := range p.s.VerifyLog() {
			if ev.Kind == audit.TamperDetected && ev.Attrs["table"] == "deliveries" {
				return
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	p.t.Error("no event says that a delivery was altered")
}

func TestThePollFindsACommentWhoseDeliveryNeverCame(t *testing.T) {
	p := newParlour(t, 50*time.Millisecond)
	r := p.waits(thread("7"))
	p.forge.Say(thread("7"), p.ann, "what is this about?")
	p.forge.Say(thread("7"), p.ann, p.approves(r))
	got := p.next(1)
	if got[0] == workflow.HeardElsewhere || got[0] == workflow.HeardNothing {
		t.Errorf("%v", got)
	}
	// Its delivery comes late, and the poll comes again: nothing happens twice.
	reads := p.forge.Reads()
	time.Sleep(300 * time.Millisecond)
	if n := p.forge.Reads(); n != reads {
		t.Errorf("the comment was read %d times more", n-reads)
	}
}

func TestACommandThatComesBeforeItsQuestionIsStoredIsFoundByThePoll(t *testing.T) {
	p := newParlour(t, 50*time.Millisecond)
	r := p.waits(thread("8"))
	// The question is in thread 7 already; the database still says otherwise.
	c := p.forge.Say(thread("7"), p.ann, p.approves(r))
	p.becomes(testenv.About(thread("7"), c), workflow.HeardElsewhere)
	ok(t, p.s.Store.Update(t.Context(), "test", func(tx *store.Tx) error {
		r.Asking.Thread = thread("7")
		return tx.SaveRequest(r)
	}))
	if got := p.next(1); got[0] == workflow.HeardElsewhere || got[0] == workflow.HeardNothing {
		t.Errorf("%v", got)
	}
}

func TestThePollReadsOtherPeoplesCommandsOnlyAsTheyStand(t *testing.T) {
	p := newParlour(t, 50*time.Millisecond)
	r := p.waits(thread("7"))
	p.forge.Rewrite(func(c forges.Comment) forges.Comment { c.Edited = true; return c })
	p.forge.Say(thread("7"), p.ann, p.approves(r))
	if got := p.next(1); got[0] != workflow.HeardEdited {
		t.Errorf("%v", got)
	}
	p.untouched(r)
}
