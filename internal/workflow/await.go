package workflow

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealwright/sealwright/internal/approval"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

// needsApproval has people asked, if the rule can be met at all: by people who
// did not make what is to be signed.
func (d *drive) needsApproval(ctx context.Context, rule *signing.ApprovalRule, answered *signing.ForgeFacts) error {
	r := d.request
	decision := r.Decision
	decision.Approvals = rule
	if _, ok := d.w.Forges[r.Origin.Forge]; !ok {
		return d.denyUnless(ctx, "approvals", noForge(r.Origin.Forge))
	}
	excluded, why := approval.Exclude(*rule, answered, r.Origin)
	decision.Reasons.Children = append(decision.Reasons.Children, why)
	if why.Pass {
		excluded = append(excluded, d.w.submitter(r)...)
		members, err := d.w.members(ctx, r, rule)
		if err != nil {
			return d.denyUnless(ctx, "approvals.groups", err)
		}
		decision.Excluded = excluded
		why = approval.Satisfiable(*rule, members, excluded, d.w.Directory)
		decision.Reasons.Children = append(decision.Reasons.Children, why)
	}
	if !why.Pass {
		return d.deny(ctx, decision.Reasons, nil)
	}
	subject := ""
	if answered != nil && answered.Commit != nil {
		subject = answered.Commit.Subject
	}
	return d.await(ctx, subject)
}

// submitter excludes the person who submitted a Request again, with all accounts.
// One that has none counts as an author without an account.
func (w *Workflow) submitter(r *signing.Request) []signing.Exclusion {
	if r.Identity.Role != signing.RolePeople {
		return nil
	}
	const why = "submitted this request"
	person := w.Directory.OfIdentity(r.Identity)
	var out []signing.Exclusion
	for _, a := range w.Directory.Accounts(person) {
		out = append(out, signing.Exclusion{Account: a, Why: why})
	}
	if len(out) == 0 {
		out = append(out, signing.Exclusion{Unmapped: person, Why: why})
	}
	return out
}

// errRival says that another Request waits in the place of this one.
type errRival struct{ id, fix string }

func (e *errRival) Error() string { return "request " + e.id + " waits already" }

// await puts the Request into the hands of people: in one commit with the event,
// the job that asks, and the end of those that it takes the place of. subject is the first line of the commit, for the question.
func (d *drive) await(ctx context.Context, subject string) error {
	r := d.request
	r.Failure = nil
	var replaced []*signing.Request
	err := d.update(ctx, "await", func(tx *store.Tx) (err error) {
		if err := current(tx, d.conf); err != nil {
			return err
		}
		nth, rivals, err := rivals(tx, r)
		if err != nil {
			return err
		}
		for _, old := range rivals {
			if !r.Decision.Approvals.Supersede || !sameRef(old, r) {
				return &errRival{old.ID, "wait for its end, cancel it, or list everything that is to be signed in one submission"}
			}
			if old.Submitted.After(r.Submitted) {
				return &errRival{old.ID, "nothing: that one is newer"}
			}
		}
		r.Asking = &signing.Asking{Round: 1, Nth: nth, Subject: subject}
		if err := d.move(tx, signing.AwaitingApproval, audit.Event{Kind: audit.RequestDecided, Attrs: audit.Decided(r, d.conf.n)}); err != nil {
			return err
		}
		for _, old := range rivals {
			if err := supersede(tx, old, r); err != nil {
				return err
			}
		}
		replaced = rivals
		if err := tx.Enqueue(store.Job{Kind: jobAsk, Ref: r.ID}); err != nil {
			return err
		}
		// Nothing is left to be driven before people have decided.
		return tx.Release(d.claim, r.Deadline)
	})
	var rival *errRival
	if errors.As(err, &rival) {
		r.Asking = nil
		why := signing.Reason{Rule: "approvals.waiting", Wanted: "one waiting request of a run and policy", Found: "request " + rival.id + " waits for approval", Fix: rival.fix}
		r.Decision.Reasons.Children = append(r.Decision.Reasons.Children, why)
		return d.deny(ctx, r.Decision.Reasons, nil)
	}
	for _, old := range replaced {
		d.w.tell(old.ID, nil)
	}
	if err == nil {
		d.w.asks.kick()
		d.w.kick()
	}
	return done(err)
}

// rivals returns the Requests that wait for people where only one of them and r
// may: of the same run and policy, and, where the rule says so, of the same ref.
// nth says how many Requests its run has made, r included.
func rivals(tx *store.Tx, r *signing.Request) (nth int, out []*signing.Request, err error) {
	add := func(o *signing.Request) {
		if o.ID == r.ID || o.State != signing.AwaitingApproval || o.Policy != r.Policy || o.Project != r.Project || o.Source != r.Source {
			return
		}
		for _, have := range out {
			if have.ID == o.ID {
				return
			}
		}
		out = append(out, o)
	}
	if r.Source == "" && r.List == nil {
		ofRun, err := tx.OfRun(runScope(r.Identity, r.Origin))
		if err != nil {
			return 0, nil, err
		}
		for _, o := range ofRun {
			if o.ID == r.ID || o.Submitted.Before(r.Submitted) {
				nth++
			}
			add(o)
		}
	}
	if r.Decision.Approvals.Supersede {
		ofRef, err := tx.AwaitingOf(r.Origin.Forge, r.Origin.SourceRepositoryIdentifier, r.Origin.SourceRepositoryRef, r.Policy)
		if err != nil {
			return 0, nil, err
		}
		for _, o := range ofRef {
			add(o)
		}
	}
	return max(nth, 1), out, nil
}

func sameRef(a, b *signing.Request) bool {
	return a.Origin.Forge == b.Origin.Forge && a.Origin.SourceRepositoryIdentifier == b.Origin.SourceRepositoryIdentifier && a.Origin.SourceRepositoryRef == b.Origin.SourceRepositoryRef && b.Origin.SourceRepositoryRef != ""
}

// supersededMessage is why a Request ended whose place a newer one took.
const supersededMessage = "a newer request of the same ref took the place of this one"

// supersede ends a waiting Request for a newer one.
func supersede(tx *store.Tx, old, by *signing.Request) error {
	old.Ended = tx.Now()
	old.Failure = &signing.Error{Code: signing.Denied, Message: supersededMessage, Found: by.ID, Fix: "look at the newer request"}
	ev := audit.Event{Time: tx.Now(), Kind: audit.RequestCanceled, Request: old.ID, Attrs: map[string]string{"superseded_by": by.ID}}
	audit.Failure(ev.Attrs, old.Failure)
	return tx.Transition(store.Change{Request: old, To: string(signing.Canceled), Events: []audit.Event{ev}, Jobs: []store.Job{{Kind: jobAsk, Ref: old.ID}, {Kind: jobDrive, Ref: old.ID}}})
}

// watch is the step of a Request that waits for people: it ends at its deadline,
// and when what was decided is not what would be decided now.
func (d *drive) watch(ctx context.Context) error {
	if d.late() {
		return d.expire(ctx)
	}
	if _, _, err := d.sameBasis(); err != nil {
		return d.denyRefused(ctx, err)
	}
	d.rest(ctx, d.request.Deadline)
	return errFinished
}

// tally counts the approvals of a Request at a time. It is nil where the Decision
// asks nobody.
func (w *Workflow) tally(r *signing.Request, at time.Time) *signing.Tally {
	if r.Decision == nil || r.Decision.Approvals == nil {
		return nil
	}
	t := approval.Count(*r.Decision.Approvals, r.Approvals, r.Decision.Excluded, w.Directory, r.Decision.BasisDigest, at)
	return &t
}

// people counts those whose approvals count, each once.
func people(t *signing.Tally) int {
	if t == nil {
		return 0
	}
	seen := map[string]bool{}
	for _, g := range t.Groups {
		for _, p := range g.People {
			seen[p] = true
		}
	}
	for _, p := range t.BreakGlass {
		seen[p] = true
	}
	return len(seen)
}

// unmet is the refusal of approvals that do not meet the quorum, with names.
func unmet(t *signing.Tally) error {
	var found string
	for i, g := range t.Groups {
		if i > 0 {
			found += "; "
		}
		found += fmt.Sprintf("%d of %d from %v", len(g.People), g.Required, g.From)
	}
	for _, i := range t.Ignored {
		if !i.Approval.Deny {
			found += fmt.Sprintf("; %s does not count: %s", label(i.Approval), i.Why)
		}
	}
	if t.Denied != nil {
		found += "; denied by " + label(*t.Denied)
	}
	return refuse("approvals", "the quorum of every group", found, "submit again, and have it approved again")
}

// label names who said something.
func label(a signing.Approval) string {
	if a.By.Login != "" {
		return a.By.Login
	}
	return a.Person
}
