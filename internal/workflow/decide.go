package workflow

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/facts"
	"github.com/sealwright/sealwright/internal/key"
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/policy"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

// decide holds the Facts of a pending Request against its policy. What can be
// refused from the token alone is refused before any network access.
func (d *drive) decide(ctx context.Context) error {
	r := d.request
	if r.Renewal != nil {
		return d.decideRenewal(ctx)
	}
	p, err := d.conf.policies.Find(r.Origin, r.Policy)
	if err != nil {
		return d.deny(ctx, signing.Reason{Rule: "policy", Children: []signing.Reason{refusal("policy", err)}}, signing.Public(err))
	}
	source, err := d.source(ctx)
	if err != nil {
		return err
	}
	f := signing.Facts{Identity: r.Identity, Origin: r.Origin, Policy: r.Policy, Now: r.Submitted, Source: source, List: r.List, Untrust: signing.TagNames(r.Untrust)}
	for _, a := range r.Artifacts {
		f.Images = append(f.Images, signing.Image{Artifact: a})
	}
	// Some rules ask for labels, which only the registry knows, or for what only
	// the forge knows; every other that fails now would fail then.
	if effect, reasons := p.Evaluate(f); effect == signing.Deny && failsBefore(reasons) {
		return d.deny(ctx, reasons, nil)
	}
	if reason := d.deliverable(p.Steps()); !reason.Pass {
		return d.deny(ctx, reason, nil)
	}
	f, seen, err := facts.Gather(ctx, d.reader(), r.Identity, r.Origin, r.Policy, r.Artifacts, p.NeedsManifests(), r.Submitted)
	if err != nil {
		return d.denyUnless(ctx, "artifacts", err)
	}
	asked, err := d.askForge(ctx, p, f.Artifacts())
	if err != nil {
		return d.denyUnless(ctx, "forge", err)
	}
	f.Source, f.List, f.Forge, f.Untrust = source, r.List, asked.facts, signing.TagNames(r.Untrust)
	return d.conclusion(ctx, p, f, append(seen, asked.seen...))
}

// denyUnless denies for what an outside party said, unless asking it again may
// help: then the Request waits.
func (d *drive) denyUnless(ctx context.Context, rule string, err error) error {
	if errors.Is(err, errContent) || signing.Temporary(err) || signing.CodeOf(err) == signing.Internal {
		return err
	}
	return d.deny(ctx, signing.Reason{Rule: rule, Children: []signing.Reason{refusal(rule, err)}}, signing.Public(err))
}

// conclusion decides, when everything is known.
func (d *drive) conclusion(ctx context.Context, p *policy.Policy, f signing.Facts, seen []signing.Observation) error {
	r := d.request
	effect, reasons := p.Evaluate(f)
	var rule *signing.ApprovalRule
	if effect == signing.NeedsApproval {
		rule = p.ApprovalsWith(f.Forge)
	}
	basis, err := d.w.basis(p, f.Artifacts(), f.Children(), r, p.RepositoryDigest(f.Forge))
	if err != nil {
		return err
	}
	for _, err := range []error{basis.CheckSize(), basis.CheckTogether()} {
		if err != nil {
			effect, reasons.Pass = signing.Deny, false
			reasons.Children = append(reasons.Children, refusal("sign", err))
		}
	}
	permit := d.w.permit(p, f, basis, rule, 0, false)
	if reasons.Children = append(reasons.Children, permit); !permit.Pass {
		effect, reasons.Pass = signing.Deny, false
	}
	digest, err := basis.Digest()
	if err != nil {
		return err
	}
	r.Project = p.Project()
	r.Decision = &signing.Decision{Effect: effect, Reasons: reasons, Basis: basis, BasisDigest: digest, Observations: seen, Shadow: shadows(p, f), At: d.w.Now()}
	switch effect {
	case signing.Allow:
		return d.allow(ctx)
	case signing.NeedsApproval:
		return d.needsApproval(ctx, rule, f.Forge)
	}
	return d.deny(ctx, reasons, nil)
}

// shadows records what the policies in log mode that shadow p would have said.
func shadows(p *policy.Policy, f signing.Facts) []signing.Shadow {
	var out []signing.Shadow
	for _, s := range p.Shadows() {
		effect, reasons := s.Evaluate(f)
		out = append(out, signing.Shadow{Policy: s.Name(), Effect: effect, Reasons: reasons})
	}
	return out
}

// source describes the Request that a person's Request submits again, nil for a
// job's.
func (d *drive) source(ctx context.Context) (*signing.SourceRequest, error) {
	if d.request.Source == "" {
		return nil, nil
	}
	var out *signing.SourceRequest
	err := d.w.Store.View(ctx, func(tx *store.Tx) error {
		s, err := tx.Request(d.request.Source)
		if err == nil {
			out = &signing.SourceRequest{ID: s.ID, Policy: s.Policy, State: s.State, Ended: s.Ended}
		}
		return err
	})
	if errors.Is(err, signing.NotFound) {
		err = store.Tampered("requests", "request "+d.request.Source, "no such row") // rows are never deleted
	}
	return out, err
}

// failsBefore reports whether a rule fails that rests on neither registry nor forge.
func failsBefore(reasons signing.Reason) bool {
	for _, leaf := range reasons.Failures() {
		if !policy.AsksRegistry(leaf.Rule) && !policy.AsksForge(leaf.Rule) {
			return true
		}
	}
	return false
}

// basis derives what a Decision binds from the configuration in force. What is
// below the artifacts follows from their digests; it counts if a step is recursive.
// own is the digest of the repository's own policy.
func (w *Workflow) basis(p *policy.Policy, artifacts, children []signing.Artifact, r *signing.Request, own signing.Digest) (signing.Basis, error) {
	steps := p.Steps()
	if !slices.ContainsFunc(steps, func(s signing.Step) bool { return s.Recursive }) {
		children = nil
	}
	for i := range steps {
		info, ok := w.Keys.Info(steps[i].Key)
		if !ok {
			continue // permit refuses it by name
		}
		v, err := info.Version()
		if err != nil {
			return signing.Basis{}, err
		}
		steps[i].KeyVersion = v
	}
	for i, s := range steps {
		m, ok := w.Methods[s.Method].(method.Collective)
		if !ok {
			continue
		}
		parts, err := m.Parts(s.Options)
		if err != nil {
			return signing.Basis{}, err
		}
		steps[i].Parts = parts
	}
	if n := r.Renewal; n != nil {
		steps = slices.DeleteFunc(steps, func(s signing.Step) bool {
			return s.Method != n.Method || s.Key != n.Key || !slices.Contains(s.Parts, n.Part)
		})
		for i := range steps {
			steps[i].Parts, steps[i].Recursive = []string{n.Part}, false
		}
	}
	return signing.Basis{Format: signing.BasisFormat, Project: p.Project(), Policy: p.Name(), PolicyDigest: p.Digest(), Artifacts: artifacts, Children: children, Steps: steps, Untrust: r.Untrust, Origin: r.Origin, RepositoryPolicy: own, Source: r.Source, List: r.List, Renewal: r.Renewal}, nil
}

// permit holds every step against what the owner of its key demands.
func (w *Workflow) permit(p *policy.Policy, f signing.Facts, basis signing.Basis, rule *signing.ApprovalRule, approvals int, recheck bool) signing.Reason {
	if basis.Renewal != nil {
		return w.permitRenewal(basis)
	}
	out := signing.Reason{Rule: "keys", Pass: true}
	artifacts := slices.Concat(basis.Artifacts, basis.Children, basis.Untrust)
	for _, s := range basis.Steps {
		var one signing.Reason
		m, known := w.Methods[s.Method]
		info, have := w.Keys.Info(s.Key)
		switch {
		case !known:
			one = signing.Reason{Rule: "sign." + s.Method, Wanted: "a signing method of this service", Found: s.Method, Fix: "name another method"}
		case !have:
			one = signing.Reason{Rule: "keys." + s.Key, Wanted: "a key of this service", Found: "no key " + s.Key, Fix: "add it to the keys file or name another"}
		default:
			one = w.Keys.Permit(key.Use{Key: s.Key, Method: s.Method, Project: p.Project(), Policy: p.Name(), Artifacts: artifacts, Facts: f, Recheck: recheck, Rule: rule, Approvals: approvals})
			if _, err := m.Info(info, s.Options); err != nil && one.Pass {
				one = refusal("sign."+s.Method, err)
			}
		}
		out.Pass = out.Pass && one.Pass
		out.Children = append(out.Children, one)
	}
	if len(basis.Steps) == 0 {
		out.Pass, out.Wanted, out.Found = false, "at least one step under sign", "none"
	}
	return out
}

// deny ends the Request. failure is what the client is told; nil makes it from
// the first reason that failed.
func (d *drive) deny(ctx context.Context, reasons signing.Reason, failure *signing.Error) error {
	reasons.Pass = false
	decision := signing.Decision{At: d.w.Now()}
	if d.request.Decision != nil {
		decision = *d.request.Decision // a copy: others may have been told of the one that was made
	}
	decision.Effect, decision.Reasons = signing.Deny, reasons
	d.request.Decision = &decision
	leaves := reasons.Failures()
	if failure == nil {
		failure = denial(leaves)
	}
	failure.Code = signing.Denied
	d.request.Failure = failure
	err := d.update(ctx, "deny", func(tx *store.Tx) error {
		if err := current(tx, d.conf); err != nil {
			return err
		}
		return d.move(tx, signing.RequestDenied, audit.Event{Kind: audit.RequestDenied, Attrs: audit.Denied(d.request, d.conf.n)})
	})
	return done(err)
}

func denial(leaves []signing.Reason) *signing.Error {
	e := &signing.Error{Code: signing.Denied, Message: "the signing policy refuses this request"}
	if len(leaves) > 0 {
		e.Message = fmt.Sprintf("the signing policy refuses this request: %s", leaves[0].Rule)
		e.Expected, e.Found, e.Fix = leaves[0].Wanted, leaves[0].Found, leaves[0].Fix
	}
	return e
}

// allow makes the Tasks of the Request. From here on it will be signed unless a
// recheck refuses or it is canceled. Where the recheck needs nobody else, signing
// begins in the same commit; a tag that is signed along is first resolved again.
func (d *drive) allow(ctx context.Context) error {
	r := d.request
	r.Failure = nil
	d.tasks = r.Decision.Basis.Tasks(r.ID)
	var c *clearance
	if !slices.ContainsFunc(r.Artifacts, func(a signing.Artifact) bool { return a.Tag != "" }) {
		var err error
		if c, err = d.recheck(ctx); err != nil {
			c = nil // begin finds the same, and says it
		}
	}
	return d.update(ctx, "allow", func(tx *store.Tx) error {
		if err := current(tx, d.conf); err != nil {
			return err
		}
		err := d.move(tx, signing.Ready, audit.Event{Kind: audit.RequestDecided, Attrs: audit.Decided(r, d.conf.n)}, d.tasks...)
		if err != nil || c == nil {
			return err
		}
		return d.moveToSigning(tx, c)
	})
}

func (d *drive) moveToSigning(tx *store.Tx, c *clearance) error {
	return d.move(tx, signing.Signing, audit.Event{Kind: audit.RequestSigning, Attrs: map[string]string{"basis": string(c.basis)}})
}

// begin rechecks what may have changed since the decision and starts signing.
func (d *drive) begin(ctx context.Context) error {
	c, err := d.recheck(ctx)
	if err == nil && d.request.Renewal == nil { // nothing that a forge or people would know of
		err = d.stillHolds(ctx)
	}
	if err != nil {
		return d.denyRefused(ctx, err)
	}
	if err := d.checkTags(ctx); err != nil {
		if signing.Temporary(err) || signing.CodeOf(err) == signing.Internal {
			return err
		}
		return d.deny(ctx, signing.Reason{Rule: "recheck", Children: []signing.Reason{refusal("recheck.tags", err)}}, signing.Public(err))
	}
	// A freeze is for what is new: an end that passes in it would take trust away.
	if reason := d.frozen(); reason != nil && d.request.Renewal == nil {
		return d.deny(ctx, signing.Reason{Rule: "recheck", Children: []signing.Reason{*reason}}, nil)
	}
	d.request.Failure = nil
	err = d.update(ctx, "begin", func(tx *store.Tx) error {
		if err := current(tx, d.conf); err != nil {
			return err
		}
		if _, err := d.approved(tx.Now()); err != nil {
			return err // the last of their time ran out meanwhile
		}
		return d.moveToSigning(tx, c)
	})
	return d.denyRefused(ctx, err)
}

// denyRefused ends the Request for what a recheck refused, and returns any other
// error.
func (d *drive) denyRefused(ctx context.Context, err error) error {
	var refused *refusedError
	if errors.As(err, &refused) {
		return d.deny(ctx, signing.Reason{Rule: "recheck", Children: []signing.Reason{refused.reason}}, nil)
	}
	return err
}

// checkTags resolves every signed tag again: what is signed under a name must
// still be what that name means.
func (d *drive) checkTags(ctx context.Context) error {
	for _, a := range d.request.Artifacts {
		if a.Tag == "" {
			continue
		}
		desc, err := d.w.Registry.Resolve(ctx, a.Repository, a.Tag)
		if err != nil {
			return fmt.Errorf("resolving the signed tag %s:%s: %w", a.Repository, a.Tag, err)
		}
		if desc.Digest != a.Digest {
			return &signing.Error{Code: signing.Denied, Message: "the tag to be signed points elsewhere", Expected: fmt.Sprintf("%s:%s to be %s", a.Repository, a.Tag, a.Digest), Found: string(desc.Digest), Fix: "submit the digest that the tag has now, or leave the tag away"}
		}
	}
	return nil
}
