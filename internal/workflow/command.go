package workflow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sealwright/sealwright/internal/approval"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

// maxApprovals bounds what is recorded of people for one Request.
const maxApprovals = 500

// Input is one command of a person. What the caller vouches for: By wrote the
// comment Ref (pressed the button, sent the review) in the thread in which the
// Request asked, as the forge showed it when it was read again; or Identity is a
// token that was verified.
type Input struct {
	Request string
	Verb    string // a Verb of package approval
	Code    string // of approve and deny
	// By is who acts on the forge. It is zero with ViaAPI and ViaBreakGlass, where
	// Identity says who.
	By       signing.Account
	Identity signing.Identity
	Via      string // a Via of package signing
	Ref      string // id of the comment, review or delivery: what was recorded once is not recorded again
	URL      string
	Reason   string // of a denial; text of a stranger
	Ticket   string // of ViaBreakGlass
	At       time.Time
}

// Outcome is what became of a command.
type Outcome struct {
	Accepted bool
	// Message is for the person, as Markdown without text of strangers; empty where
	// an acknowledgement is enough.
	Message string
	Tally   signing.Tally
	State   signing.RequestState // of the Request, after the command
}

// Command carries out one command of a person. An approval or denial that counts
// is recorded with its event in one transaction; the one that meets the quorum
// makes the Request ready in the same transaction, and those who wait for it are
// told at once. The same Ref again changes nothing.
//
// Errors: a refusal is a *signing.Error that says why, which is for the person
// (NotFound, Conflict, Denied, Expired, Invalid); signing.Temporary and Internal
// ones mean that the command could not be judged and is to be tried again.
func (w *Workflow) Command(ctx context.Context, in Input) (Outcome, error) {
	c := &command{w: w, in: in}
	var r *signing.Request
	err := w.Store.View(ctx, func(tx *store.Tx) (err error) {
		r, err = tx.Request(in.Request)
		return err
	})
	if err != nil {
		return Outcome{}, err
	}
	if in.Verb != approval.VerbApprove && in.Verb != approval.VerbDeny {
		return Outcome{State: r.State}, &signing.Error{Code: signing.Invalid, Message: "no such command", Expected: "approve or deny", Found: fmt.Sprintf("%.40q", in.Verb)}
	}
	out, err := c.run(ctx, r)
	if out.State == "" {
		out.State = r.State
	}
	return out, err
}

// command is one approval or denial on its way.
type command struct {
	w  *Workflow
	in Input
	a  signing.Approval
}

// run asks everybody who has to be asked, then records the command if the Request
// is still what it was.
func (c *command) run(ctx context.Context, r *signing.Request) (Outcome, error) {
	if out, ok := c.before(r); ok {
		return out, nil
	}
	if err := c.fits(r); err != nil {
		return Outcome{}, err
	}
	if c.in.Via == signing.ViaComment || c.in.Via == signing.ViaReview {
		if err := c.w.untouched(ctx, r); err != nil {
			return Outcome{}, err
		}
	}
	involved, err := c.who(ctx, r)
	if err != nil {
		if involved && !signing.Temporary(err) && signing.CodeOf(err) != signing.Internal {
			c.refused(ctx, r, err)
		}
		return Outcome{}, err
	}
	return c.record(ctx)
}

// before reports whether the command was recorded before.
func (c *command) before(r *signing.Request) (Outcome, bool) {
	if c.in.Ref == "" {
		return Outcome{}, false
	}
	for _, a := range r.Approvals {
		if a.Ref == c.in.Ref && a.Via == c.in.Via && a.Deny == (c.in.Verb == approval.VerbDeny) {
			out := Outcome{Accepted: true, State: r.State}
			out.Tally, _ = c.w.Standing(r)
			return out, true
		}
	}
	return Outcome{}, false
}

// fits refuses what the rows alone refuse: a Request that waits for nobody, a code
// of another question, a way that the policy does not name. It is judged again in
// the transaction that records.
func (c *command) fits(r *signing.Request) error {
	if r.State != signing.AwaitingApproval || r.Decision == nil || r.Decision.Approvals == nil || r.Asking == nil {
		return &signing.Error{Code: signing.Conflict, Message: "this request does not wait for people", Expected: string(signing.AwaitingApproval), Found: string(r.State), Fix: "nothing needs to be approved or denied"}
	}
	if !c.w.Now().Before(r.Deadline) {
		return &signing.Error{Code: signing.Expired, Message: "the deadline of this request has passed", Expected: "an answer by " + r.Deadline.UTC().Format(time.RFC3339), Fix: "submit again"}
	}
	if !approval.SameCode(c.in.Code, approval.Code(r.ID, r.Decision.BasisDigest, r.Asking.Round)) {
		return &signing.Error{Code: signing.Denied, Message: "the code is not that of the question", Expected: "the code of the newest question about " + r.ID, Found: fmt.Sprintf("%.16q", c.in.Code), Fix: "copy the command from the newest comment of this service: the code changes with what is to be signed"}
	}
	rule := r.Decision.Approvals
	if !rule.Allows(c.in.Via) {
		return &signing.Error{Code: signing.Denied, Message: "the policy does not take answers in this way", Expected: fmt.Sprintf("one of %v", rule.Ways), Found: fmt.Sprintf("%.40q", c.in.Via), Fix: "answer in one of those ways"}
	}
	if len(r.Approvals) >= maxApprovals {
		return &signing.Error{Code: signing.Conflict, Message: "too many answers to one question", Expected: fmt.Sprintf("at most %d", maxApprovals), Fix: "cancel the request and submit again"}
	}
	d := &drive{w: c.w, conf: c.w.inForce.Load(), request: r}
	if _, _, err := d.sameBasis(); err != nil {
		var refused *refusedError
		if errors.As(err, &refused) {
			return &signing.Error{Code: signing.Conflict, Message: "what was asked is not what would be signed any more", Expected: refused.reason.Wanted, Found: refused.reason.Found, Fix: "submit again"}
		}
		return err
	}
	return nil
}

// who finds out who acts and what they may do, and makes the Approval. involved
// reports whether it is somebody of this Request, whose refusals are logged; what
// strangers write is not.
func (c *command) who(ctx context.Context, r *signing.Request) (involved bool, err error) {
	in, rule := c.in, r.Decision.Approvals
	by, person := in.By, ""
	if in.Via == signing.ViaAPI || in.Via == signing.ViaBreakGlass {
		if by.Known() || !in.Identity.Has(signing.Approver) {
			return false, &signing.Error{Code: signing.Denied, Message: "only approvers may answer", Expected: "the token of a person with the role approver", Found: "another", Fix: "ask the operator of this service for the role"}
		}
		person = c.w.Directory.OfIdentity(in.Identity)
		if by, err = c.w.accountOf(ctx, r, person, in.Via == signing.ViaBreakGlass); err != nil {
			return true, err
		}
	} else {
		if !by.Known() || by.Bot || by.Forge != r.Origin.Forge {
			return false, &signing.Error{Code: signing.Denied, Message: "only people of the forge of this request may answer here", Expected: "an account of a person on " + r.Origin.Forge, Found: "another", Fix: "answer with your own account"}
		}
		person = c.w.Directory.OfAccount(by)
	}
	c.a = signing.Approval{
		By: by, Person: person, Via: in.Via, At: in.At, BasisDigest: r.Decision.BasisDigest, Ref: in.Ref, URL: in.URL, Ticket: in.Ticket,
		Deny: in.Verb == approval.VerbDeny, Reason: in.Reason,
	}
	excluded := slices.IndexFunc(r.Decision.Excluded, func(e signing.Exclusion) bool {
		return e.Account.Known() && c.w.Directory.OfAccount(e.Account) == person
	})
	if in.Via == signing.ViaBreakGlass {
		if in.Ticket == "" || c.a.Deny {
			return true, &signing.Error{Code: signing.Invalid, Message: "an emergency approval names a ticket", Expected: "a ticket", Found: "none", Fix: "name the ticket under which the emergency is handled"}
		}
	} else if c.a.Groups, err = c.w.standing(ctx, r, rule, by, person); err != nil {
		return false, err
	}
	involved = excluded >= 0 || len(c.a.Groups) > 0 || in.Via == signing.ViaBreakGlass
	switch {
	case c.a.Deny && involved:
	case excluded >= 0:
		e := r.Decision.Excluded[excluded]
		return true, &signing.Error{Code: signing.Denied, Message: "you may not approve this", Expected: "somebody who did not make what is to be signed", Found: e.Why, Fix: "ask one of the others; you may deny it"}
	case !involved:
		return false, &signing.Error{Code: signing.Denied, Message: "you are in none of the groups that decide this", Expected: "an active member of one of the groups of the policy", Found: "none, as the forge says now", Fix: "ask one of those whom the question mentions"}
	}
	return true, nil
}

// accountOf returns the account in whose name a person answers without one: the
// one on the Request's forge that is in a group, else any there.
func (w *Workflow) accountOf(ctx context.Context, r *signing.Request, person string, emergency bool) (signing.Account, error) {
	all := w.accountsOn(r.Origin.Forge, signing.Account{}, person)
	if len(all) == 0 {
		return signing.Account{}, &signing.Error{Code: signing.Denied, Message: "this service does not know who you are on " + r.Origin.Forge, Expected: "an entry under `people` with your account there, so that nobody approves what they made", Found: "none", Fix: "ask the operator to add it, or answer in the thread"}
	}
	if emergency { // which rests on no group, and must not wait for a forge
		return all[0], nil
	}
	for _, a := range all[:len(all)-1] { // the last is taken in any case
		groups, err := w.standing(ctx, r, r.Decision.Approvals, a, person)
		if err != nil || len(groups) > 0 {
			return a, err
		}
	}
	return all[len(all)-1], nil
}

// record writes the command with its event, and what follows from it.
func (c *command) record(ctx context.Context) (Outcome, error) {
	var out Outcome
	var s Snapshot
	conf := c.w.inForce.Load()
	err := c.w.Store.Update(ctx, "command", func(tx *store.Tx) error {
		out = Outcome{}
		if err := current(tx, conf); err != nil {
			return err
		}
		r, err := tx.Request(c.in.Request)
		if err != nil {
			return err
		}
		if done, ok := c.before(r); ok {
			out = done
			s, err = snapshot(tx, r.ID)
			return err
		}
		if err := c.fits(r); err != nil {
			return err
		}
		t, err := c.counts(r, tx.Now())
		if err != nil {
			return err
		}
		if err := c.follow(tx, conf, r, t); err != nil {
			return err
		}
		out = Outcome{Accepted: true, Tally: t, State: r.State}
		s, err = snapshot(tx, r.ID)
		return err
	})
	if err != nil {
		var e *signing.Error
		if errors.As(err, &e) && (e.Code == signing.Denied || e.Code == signing.Conflict) && !errors.Is(err, store.ErrTampered) {
			c.refused(ctx, &signing.Request{ID: c.in.Request}, err)
		}
		return Outcome{}, err
	}
	// Commit point: from here on it is the person's word. Those who wait are told.
	c.w.tell(c.in.Request, &s)
	if c.a.Via == signing.ViaBreakGlass {
		c.w.Log.Error("ALARM: the glass was broken", "request", c.in.Request, "person", c.a.Person, "ticket", c.a.Ticket)
	}
	c.w.kick()
	c.w.asks.kick()
	return out, nil
}

// counts adds the Approval to r and returns what there is with it; it is refused
// if it would not count.
func (c *command) counts(r *signing.Request, now time.Time) (signing.Tally, error) {
	r.Approvals = append(slices.Clone(r.Approvals), c.a)
	t := *c.w.tally(r, now)
	for _, i := range t.Ignored {
		if i.Approval.Digest() == c.a.Digest() {
			return t, &signing.Error{Code: signing.Denied, Message: "this does not count", Expected: "an answer that the policy takes", Found: i.Why, Fix: "look at the question, which says who may approve and how"}
		}
	}
	return t, nil
}

// follow changes the Request as its people now have it: denied, ready, or waiting
// for more of them.
func (c *command) follow(tx *store.Tx, conf *generation, r *signing.Request, t signing.Tally) error {
	said := audit.Event{Time: tx.Now(), Kind: audit.RequestApproved, Request: r.ID, Attrs: audit.Approved(c.a)}
	if c.a.Deny {
		said.Kind = audit.RequestDisagreed
	}
	events := []audit.Event{said}
	if c.a.Via == signing.ViaBreakGlass {
		events = append(events, audit.Event{Time: tx.Now(), Kind: audit.BreakGlass, Request: r.ID, Attrs: audit.BrokeGlass(c.a)})
	}
	ask := store.Job{Kind: jobAsk, Ref: r.ID}
	switch {
	case t.Denied != nil:
		decision := *r.Decision
		decision.Effect, decision.Reasons.Pass = signing.Deny, false
		decision.Reasons.Children = append(slices.Clone(decision.Reasons.Children), signing.Reason{Rule: "approvals.denied", Wanted: "nobody who denies", Found: "denied by " + label(*t.Denied), Fix: "ask why, and submit again"})
		r.Decision, r.Ended = &decision, tx.Now()
		r.Failure = &signing.Error{Code: signing.Denied, Message: "a person denied this request", Expected: "approval by everybody who answers", Found: "denied by " + label(*t.Denied), Fix: "ask why, and submit again"}
		ev := audit.Event{Time: tx.Now(), Kind: audit.RequestDenied, Request: r.ID, Attrs: audit.Denied(r, conf.n)}
		audit.Failure(ev.Attrs, r.Failure)
		return tx.Transition(store.Change{Request: r, To: string(signing.RequestDenied), Events: append(events, ev), Jobs: []store.Job{ask, {Kind: jobDrive, Ref: r.ID}}})
	case t.Met:
		return tx.Transition(store.Change{
			Request: r, To: string(signing.Ready), Events: events, NewTasks: r.Decision.Basis.Tasks(r.ID),
			Jobs: []store.Job{ask, {Kind: jobDrive, Ref: r.ID}},
		})
	}
	if err := tx.SaveRequest(r, events...); err != nil {
		return err
	}
	return tx.Enqueue(ask)
}

// refused logs that the command of somebody of this Request did not count.
func (c *command) refused(ctx context.Context, r *signing.Request, why error) {
	e := signing.Public(why)
	ev := audit.Event{Kind: audit.CommandRefused, Request: r.ID, Attrs: map[string]string{"verb": c.in.Verb}}
	audit.Failure(ev.Attrs, e)
	for name, value := range audit.Approved(c.a) {
		if name != "basis" && name != "record" {
			ev.Attrs[name] = value
		}
	}
	err := c.w.Store.Update(ctx, "command refused", func(tx *store.Tx) error {
		now, err := tx.Request(r.ID)
		if err != nil || now.State != signing.AwaitingApproval {
			return err // the life of the Request is over, or goes on without people
		}
		ev.Time = tx.Now()
		return tx.Append(ev)
	})
	if err != nil && ctx.Err() == nil {
		c.w.Log.Error("recording a refused command", "request", r.ID, "error", err)
	}
}
