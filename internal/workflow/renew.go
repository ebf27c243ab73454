package workflow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/key"
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/policy"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

const (
	// DefaultRenewEvery is how often what ends is looked at. Metadata lives for weeks
	// at least, and one look asks each server for some documents.
	DefaultRenewEvery = time.Hour
	// renewDeadline is how long one renewal may take; the next look makes another.
	renewDeadline = 20 * time.Hour
	// renewLease keeps other processes from renewing at the same time. It outlasts a
	// look; one that dies is replaced with the next.
	renewLease, leaseRenewal = 10 * time.Minute, "renewal"
	// maxRenewals bounds how often the renewal of one version is tried.
	maxRenewals = 100
	// warnEnds is how long before its end a role that is not ours to renew is a
	// warning, and warnShort the same for what the server renews by itself.
	warnEnds, warnShort = 60 * 24 * time.Hour, 2 * 24 * time.Hour
	// maxUntraced bounds how many tags one message lists.
	maxUntraced = 20
)

// Ending is what is known of a part of a repository in which the service has bound
// tags, as of its last look.
type Ending struct {
	Repository signing.Repository
	Part       string
	// Ends says when each role ends that the part rests on, itself included.
	Ends []method.End
	// Untraced are tags in it that no recorded Request has bound so: the part is not
	// renewed, and a person adopts them by a list.
	Untraced []string
	// Failure says why it was not looked at, or not renewed; empty for neither.
	Failure string
}

// Endings returns what the last look found, in order.
func (w *Workflow) Endings() []Ending {
	if p := w.endings.Load(); p != nil {
		return *p
	}
	return nil
}

// renewals looks, again and again, at what ends.
func (w *Workflow) renewals(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if err := w.RenewDue(ctx); err != nil && ctx.Err() == nil {
			w.Log.Error("looking at what ends", "error", err)
		}
		timer.Reset(w.RenewEvery)
	}
}

// RenewDue looks at everything in which the service has bound tags, and makes a
// Request of its own for what ends soon. One process does so at a time; the others
// look. What it makes is durable, the same look again finds it.
func (w *Workflow) RenewDue(ctx context.Context) error {
	var kept []store.Kept
	if err := w.Store.View(ctx, func(tx *store.Tx) (err error) { kept, err = tx.Kept(); return err }); err != nil || len(kept) == 0 {
		return err
	}
	var fence int64
	err := w.Store.Update(ctx, "renewal lease", func(tx *store.Tx) (err error) {
		fence, err = tx.AcquireLease(leaseRenewal, w.Owner, renewLease)
		return err
	})
	if err != nil && !errors.Is(err, signing.Conflict) {
		return err
	}
	mine := err == nil
	out := make([]Ending, 0, len(kept))
	for _, k := range kept {
		e := Ending{Repository: k.Repository, Part: k.Part}
		if err := w.renewOne(ctx, k, &e, mine); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			e.Failure = signing.Public(err).Message
			w.Log.Warn("a role is not renewed", "repository", k.Repository, "role", k.Part, "error", err)
		}
		out = append(out, e)
	}
	w.endings.Store(&out)
	if !mine {
		return nil
	}
	return w.Store.Update(context.WithoutCancel(ctx), "renewal over", func(tx *store.Tx) error {
		return tx.ReleaseLease(leaseRenewal, w.Owner, fence)
	})
}

// renewOne looks at one part of a repository and, if mine, has it renewed when it is
// due.
func (w *Workflow) renewOne(ctx context.Context, k store.Kept, e *Ending, mine bool) error {
	var entries map[string]store.Entry
	var source *signing.Request
	err := w.Store.View(ctx, func(tx *store.Tx) (err error) {
		if entries, err = tx.Entries(k); err != nil {
			return err
		}
		last := store.Entry{}
		for _, entry := range entries {
			if entry.At.After(last.At) || entry.At.Equal(last.At) && entry.Request > last.Request {
				last = entry
			}
		}
		source, err = tx.Request(last.Request)
		return err
	})
	if err != nil {
		return err
	}
	p, step, err := w.renewalStep(source.Project, source.Policy, "", "", k.Part)
	if err != nil {
		return err
	}
	m, ok := w.Methods[step.Method].(method.Renewer)
	if !ok {
		return nil // what it signs does not end
	}
	standing, err := m.Standing(ctx, k.Repository, k.Part)
	e.Ends = standing.Ends
	if err != nil {
		return err
	}
	if e.Untraced = untraced(standing.Entries, entries); len(e.Untraced) > 0 {
		w.Log.Warn("tags that no request has signed keep a role from being renewed; adopt them by a list", "repository", k.Repository, "role", k.Part, "tags", e.Untraced)
		return nil
	}
	if !mine || !m.Due(step.Options, standing.Expires, w.Now()) {
		return nil
	}
	return w.submitRenewal(ctx, source, p, signing.Renewal{Repository: k.Repository, Part: k.Part, Method: step.Method, Key: step.Key, Source: source.ID, Expires: standing.Expires.UTC()}, standing.Version)
}

// untraced returns the tags that no recorded Request has bound so, the first of many.
func untraced(have []signing.Change, recorded map[string]store.Entry) []string {
	var out []string
	for _, c := range have {
		if r, ok := recorded[c.Tag]; !ok || r.Digest != c.Digest || r.Size != c.Size {
			if len(out) == maxUntraced {
				return append(out, "and more")
			}
			out = append(out, c.Tag)
		}
	}
	return out
}

// renewalStep returns the step of a policy that signs the part; with a method and a
// key, that step only.
func (w *Workflow) renewalStep(project, name, methodName, keyID, part string) (*policy.Policy, signing.Step, error) {
	p, ok := w.inForce.Load().policies.Policy(project, name)
	if !ok {
		return nil, signing.Step{}, &signing.Error{Code: signing.Denied, Message: "the policy by which " + part + " was signed is not there any more", Expected: project + "/" + name, Found: "no such policy", Fix: "sign its tags under another policy, by a list of a person"}
	}
	for _, s := range p.Steps() {
		m, together := w.Methods[s.Method].(method.Collective)
		if !together || methodName != "" && (s.Method != methodName || s.Key != keyID) {
			continue
		}
		parts, err := m.Parts(s.Options)
		if err != nil {
			return nil, signing.Step{}, err
		}
		if slices.Contains(parts, part) {
			s.Parts = []string{part}
			return p, s, nil
		}
	}
	return nil, signing.Step{}, &signing.Error{Code: signing.Denied, Message: "the policy does not sign " + part + " any more", Expected: "a step of " + project + "/" + name + " with this role", Found: "none", Fix: "put the role back into the policy, or sign its tags under another one"}
}

// submitRenewal records the Request. For one version of what is published there is
// one at a time; one that was refused is made again with the next look.
func (w *Workflow) submitRenewal(ctx context.Context, source *signing.Request, p *policy.Policy, n signing.Renewal, version int64) error {
	id, err := signing.NewRequestID(w.Rand)
	if err != nil {
		return err
	}
	_, hash, err := w.newCapability() // nobody is given it
	if err != nil {
		return err
	}
	now := w.Now()
	scope := "renewal of\n" + string(n.Repository) + "\n" + n.Part
	r := &signing.Request{
		ID: id, State: signing.Pending, Policy: p.Name(), Renewal: &n,
		Identity:  signing.Identity{Role: signing.RoleService, Subject: "renewal"},
		Origin:    signing.Origin{Forge: source.Origin.Forge, Kind: "renewal", SourceRepository: source.Origin.SourceRepository, SourceRepositoryIdentifier: source.Origin.SourceRepositoryIdentifier},
		Submitted: now, Deadline: now.Add(renewDeadline),
		BodyDigest: signing.DigestOf(fmt.Appendf(nil, "%s\n%s\n%d", n.Repository, n.Part, version)),
	}
	made := false
	err = w.Store.Update(ctx, "renewal", func(tx *store.Tx) error {
		made = false
		for try := 1; try <= maxRenewals; try++ {
			r.IdempotencyKey = fmt.Sprintf("renewal:%d:%d", version, try)
			last, err := tx.RequestByIdempotency(scope, r.IdempotencyKey)
			if err == nil && last.State.Terminal() {
				continue
			}
			if !errors.Is(err, signing.NotFound) {
				return err // one is at work
			}
			made = true
			return tx.InsertRequest(r, store.NewRequest{
				IdempotencyScope: scope, ReplayKey: "renewal\n" + id, ReplayUntil: tx.Now().Add(resubmitReplay), CapabilityHash: hash,
				Events: []audit.Event{{Time: tx.Now(), Kind: audit.RequestSubmitted, Request: id, Attrs: audit.Submitted(r)}},
				Jobs:   []store.Job{{Kind: jobDrive, Ref: id}},
			})
		}
		return &signing.Error{Code: signing.Conflict, Message: "renewing " + n.Part + " of " + string(n.Repository) + " has failed too often", Expected: fmt.Sprintf("at most %d tries of version %d", maxRenewals, version), Found: "more", Fix: "look at why its renewals ended, and sign a tag of the repository anew"}
	})
	if err == nil && made {
		w.Log.Info("a role ends soon and is renewed", "repository", n.Repository, "role", n.Part, "ends", n.Expires, "request", id)
		w.kick()
	}
	return err
}

// decideRenewal allows the renewal if everything in it traces to recorded Requests,
// and the owner of the key still lets the policy use it.
func (d *drive) decideRenewal(ctx context.Context) error {
	r := d.request
	n := *r.Renewal
	source, p, err := d.renewalOf(ctx)
	if err != nil {
		return d.denyUnless(ctx, "renewal", err)
	}
	m, ok := d.w.Methods[n.Method].(method.Renewer)
	if !ok {
		return d.denyUnless(ctx, "renewal", &signing.Error{Code: signing.Denied, Message: "the method does not renew", Found: n.Method})
	}
	standing, err := m.Standing(ctx, n.Repository, n.Part)
	if err != nil {
		return d.denyUnless(ctx, "renewal", err)
	}
	traced, err := d.traced(ctx, standing.Entries)
	if err != nil {
		return err
	}
	basis, err := d.w.basis(p, nil, nil, r, "")
	if err != nil {
		return d.denyUnless(ctx, "renewal", err)
	}
	due := signing.Reason{Rule: "renewal.due", Pass: standing.Expires.Equal(n.Expires), Wanted: "what ends at " + n.Expires.Format(time.RFC3339), Found: standing.Expires.UTC().Format(time.RFC3339), Fix: "nothing: it was signed meanwhile"}
	reasons := signing.Reason{Rule: "renewal", Children: []signing.Reason{due, traced, d.w.permitRenewal(basis)}}
	reasons.Pass = due.Pass && traced.Pass && reasons.Children[2].Pass
	digest, err := basis.Digest()
	if err != nil {
		return err
	}
	r.Project = source.Project
	r.Decision = &signing.Decision{Effect: signing.Allow, Reasons: reasons, Basis: basis, BasisDigest: digest, At: d.w.Now()}
	if !reasons.Pass {
		return d.deny(ctx, reasons, nil)
	}
	return d.allow(ctx)
}

// renewalOf returns the Request whose policy renews, and that policy.
func (d *drive) renewalOf(ctx context.Context) (source *signing.Request, p *policy.Policy, err error) {
	n := d.request.Renewal
	err = d.w.Store.View(ctx, func(tx *store.Tx) error { source, err = tx.Request(n.Source); return err })
	if errors.Is(err, signing.NotFound) {
		err = store.Tampered("requests", "request "+n.Source, "no such row") // rows are never deleted
	}
	if err != nil {
		return nil, nil, err
	}
	p, _, err = d.w.renewalStep(source.Project, d.request.Policy, n.Method, n.Key, n.Part)
	return source, p, err
}

// traced says whether recorded Requests have bound all of these tags so.
func (d *drive) traced(ctx context.Context, have []signing.Change) (signing.Reason, error) {
	n := d.request.Renewal
	var entries map[string]store.Entry
	err := d.w.Store.View(ctx, func(tx *store.Tx) (err error) {
		entries, err = tx.Entries(store.Kept{Repository: n.Repository, Part: n.Part})
		return err
	})
	out := signing.Reason{Rule: "renewal.entries", Pass: true, Wanted: "every tag bound by a recorded request", Found: fmt.Sprintf("%d tags", len(have))}
	if foreign := untraced(have, entries); len(foreign) > 0 {
		out.Pass, out.Found, out.Fix = false, "of others: "+strings.Join(foreign, ", "), "find out who signed them; adopt them by a list of a person (`sealwright sign --tags`), or untrust them"
	}
	return out, err
}

// tracedIntent refuses bytes that bind a tag which no recorded Request has bound so:
// somebody else may have signed since it was decided.
func (d *drive) tracedIntent(ctx context.Context, m method.Method, in signing.Intent) error {
	r, ok := m.(method.Renewer)
	if !ok {
		return &signing.Error{Code: signing.Denied, Message: "the method does not renew"}
	}
	bound, err := r.Entries(in)
	if err != nil {
		return err
	}
	reason, err := d.traced(ctx, bound)
	if err == nil && !reason.Pass {
		err = &signing.Error{Code: signing.Denied, Message: "what is to be renewed binds tags that no request has signed", Expected: reason.Wanted, Found: reason.Found, Fix: reason.Fix}
	}
	return err
}

// permitRenewal holds the step against the scope of its key. What the owner of the
// key demands of a build was judged for every tag when it was signed: nothing is
// added.
func (w *Workflow) permitRenewal(basis signing.Basis) signing.Reason {
	out := signing.Reason{Rule: "keys", Pass: len(basis.Steps) == 1}
	for _, s := range basis.Steps {
		one := w.Keys.Permit(key.Use{Key: s.Key, Method: s.Method, Project: basis.Project, Policy: basis.Policy, Artifacts: []signing.Artifact{{Repository: basis.Renewal.Repository}}, Renewal: true})
		out.Pass = out.Pass && one.Pass
		out.Children = append(out.Children, one)
	}
	return out
}

// readyEndings warns of what ends, and of what keeps it from being renewed.
func (w *Workflow) readyEndings() []Check {
	var out []Check
	now := w.Now()
	for _, e := range w.Endings() {
		c := Check{Name: "trust " + string(e.Repository) + " " + e.Part, OK: true}
		var said []string
		for _, end := range e.Ends {
			warn := warnEnds
			switch {
			case end.Name == "timestamp" || end.Name == "snapshot":
				warn = warnShort
			case end.Name == e.Part:
				warn = warnShort // the service has tried for weeks
			}
			if end.Expires.Before(now.Add(warn)) {
				said = append(said, end.Name+" ends at "+end.Expires.UTC().Format(time.RFC3339))
			}
		}
		if len(e.Untraced) > 0 {
			said = append(said, "not renewed: nobody was asked for "+strings.Join(e.Untraced, ", "))
		}
		if e.Failure != "" {
			said = append(said, e.Failure)
		}
		if c.Detail = strings.Join(said, "; "); c.Detail != "" {
			c.Warning = true
			out = append(out, c)
		}
	}
	return out
}
