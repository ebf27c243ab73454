package evidence_test

import (
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/evidence"
	"github.com/sealwright/sealwright/internal/signing"
)

// asked makes the evidence of s that of a request that two people approved, each
// event as an honest service logs it, after change has made it another story.
func asked(t *testing.T, s sample, change func(e *evidence.Evidence), story edit) []byte {
	t.Helper()
	e := s.content(t)
	r := &e.Request
	r.Decision.Effect = signing.NeedsApproval
	r.Decision.Approvals = &signing.ApprovalRule{Groups: []signing.ApprovalGroup{{Required: 2, From: []string{"github.com:acme/release"}}}, Expires: time.Hour, DenyEnds: true, Ways: []string{signing.ViaComment}}
	at := r.Decision.At
	for _, id := range []string{"11", "12"} {
		by := signing.Account{Forge: "github.com", ID: id}
		r.Approvals = append(r.Approvals, signing.Approval{By: by, Person: by.Key(), Via: signing.ViaComment, At: at, BasisDigest: r.Decision.BasisDigest, Ref: "77" + id, Groups: []int{0}})
	}
	r.Approvals[1].Person = "Ann Smith"
	change(e)
	logged(t, s.signer, e, func(events []audit.Event) []audit.Event {
		var out []audit.Event
		for _, ev := range events {
			if ev.Kind != audit.RequestDecided {
				out = append(out, ev)
				continue
			}
			ev.Attrs = audit.Decided(r, 1)
			told := *r
			told.Asking = &signing.Asking{Thread: signing.Thread{Forge: r.Origin.Forge, RepositoryID: r.Origin.SourceRepositoryIdentifier, Kind: signing.ThreadPull, Number: "7"}, Round: 1, Comment: "991"}
			tell := func(kind string, attrs map[string]string) {
				out = append(out, audit.Event{Time: ev.Time, Kind: kind, Request: ev.Request, Attrs: attrs})
			}
			out = append(out, ev)
			tell(audit.RequestAsked, audit.Asked(&told, ""))
			tell(audit.CommandRefused, map[string]string{"via": signing.ViaComment, "code": "denied"})
			for _, a := range r.Approvals {
				kind := audit.RequestApproved
				if a.Deny {
					kind = audit.RequestDisagreed
				}
				tell(kind, audit.Approved(a))
				if a.Via == signing.ViaBreakGlass {
					tell(audit.BreakGlass, audit.BrokeGlass(a))
				}
			}
		}
		return story(out)
	})
	return s.resigned(t, e)
}

func same(events []audit.Event) []audit.Event { return events }

func TestEvidenceHoldsTheApprovalsOfItsDecision(t *testing.T) {
	s := signed(t)
	_, err := evidence.Verify(asked(t, s, func(*evidence.Evidence) {}, same), s.options())
	ok(t, err)

	approvals := func(change func(r *signing.Request)) func(*evidence.Evidence) {
		return func(e *evidence.Evidence) { change(&e.Request) }
	}
	for what, change := range map[string]func(*evidence.Evidence){
		"one of two approvals": approvals(func(r *signing.Request) { r.Approvals = r.Approvals[:1] }),
		"no approval":          approvals(func(r *signing.Request) { r.Approvals = nil }),
		"one person, two accounts": approvals(func(r *signing.Request) {
			r.Approvals[0].Person = r.Approvals[1].Person
		}),
		"one account twice":            approvals(func(r *signing.Request) { r.Approvals[1] = r.Approvals[0] }),
		"an approval of another basis": approvals(func(r *signing.Request) { r.Approvals[0].BasisDigest = signing.DigestOf(nil) }),
		"an approval that had expired": approvals(func(r *signing.Request) { r.Approvals[0].At = r.Approvals[0].At.Add(-2 * time.Hour) }),
		"somebody in no group":         approvals(func(r *signing.Request) { r.Approvals[0].Groups = nil }),
		"a way that does not count":    approvals(func(r *signing.Request) { r.Approvals[0].Via = signing.ViaAPI }),
		"a denial that ends it": approvals(func(r *signing.Request) {
			r.Approvals = append(r.Approvals, r.Approvals[0])
			r.Approvals[2].Deny, r.Approvals[2].By.ID, r.Approvals[2].Person = true, "13", "github.com:13"
		}),
		"somebody who is excluded": approvals(func(r *signing.Request) {
			r.Decision.Excluded = []signing.Exclusion{{Account: r.Approvals[0].By, Why: "wrote the commit"}}
		}),
		"an author without an account, who makes it three": approvals(func(r *signing.Request) {
			r.Decision.Excluded = []signing.Exclusion{{Unmapped: "x", Why: "wrote the commit"}}
		}),
		"one person going around the quorum": approvals(func(r *signing.Request) {
			r.Approvals = r.Approvals[:1]
			r.Approvals[0].Via, r.Approvals[0].Ticket, r.Decision.Approvals.Ways = signing.ViaBreakGlass, "OPS-1", []string{signing.ViaBreakGlass}
		}),
		"needs approval, by no rule":          approvals(func(r *signing.Request) { r.Decision.Approvals = nil }),
		"allowed, though approval was needed": approvals(func(r *signing.Request) { r.Decision.Effect = signing.Allow }),
	} {
		refused(t, what, asked(t, s, change, same), s.options())
	}
	_, err = evidence.Verify(asked(t, s, approvals(func(r *signing.Request) {
		r.Decision.Approvals.Ways = []string{signing.ViaBreakGlass}
		for i := range r.Approvals {
			r.Approvals[i].Via, r.Approvals[i].Ticket = signing.ViaBreakGlass, "OPS-1"
		}
	}), same), s.options())
	if err != nil {
		t.Errorf("two people who go around the quorum for one ticket: %v", err)
	}
}

func TestApprovalsAreTiedToTheLog(t *testing.T) {
	s := signed(t)
	nothing := func(*evidence.Evidence) {}
	for what, story := range map[string]edit{
		"an approval that was not logged":   without(audit.RequestApproved),
		"an approval that was logged twice": twice(audit.RequestApproved),
		"an approval after signing began":   swapped(audit.RequestApproved, audit.RequestSigning),
		"an approval before the decision":   swapped(audit.RequestDecided, audit.RequestApproved),
		"a denial that was an approval":     renamed(audit.RequestApproved, audit.RequestDisagreed),
		"another record":                    edited(audit.RequestApproved, "record", audit.Hashed("x")),
		"another basis":                     edited(audit.RequestApproved, "basis", audit.Hashed("x")),
		"another person":                    edited(audit.RequestApproved, "person", "github.com:66"),
		"an older version's approval":       edited(audit.RequestApproved, "record", audit.Hashed("")),
		"asked for another basis":           edited(audit.RequestAsked, "basis", audit.Hashed("x")),
		"asked in another repository":       edited(audit.RequestAsked, "source_id", "666"),
		"asked on another forge":            edited(audit.RequestAsked, "forge", "other.example"),
		"asked before the decision":         swapped(audit.RequestDecided, audit.RequestAsked),
	} {
		refused(t, what, asked(t, s, nothing, story), s.options())
	}
}

func TestWhatPeopleDidNotSayIsRefused(t *testing.T) {
	s := signed(t)
	// One would do, and the first of two was told.
	untold := asked(t, s, func(e *evidence.Evidence) { e.Request.Decision.Approvals.Groups[0].Required = 1 }, func(events []audit.Event) []audit.Event {
		last := at(events, audit.RequestSigning) - 1
		return append(events[:last:last], events[last+1:]...)
	})
	refused(t, "an approval beyond those that were told", untold, s.options())
	nobody := asked(t, s, func(e *evidence.Evidence) {
		e.Request.Decision.Effect, e.Request.Approvals = signing.Allow, nil
	}, func(events []audit.Event) []audit.Event {
		return without(audit.CommandRefused)(without(audit.RequestAsked)(events))
	})
	refused(t, "a decision that allowed what needs approval", nobody, s.options())
}

func renamed(kind, to string) edit {
	return func(events []audit.Event) []audit.Event { events[at(events, kind)].Kind = to; return events }
}
