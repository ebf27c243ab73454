package workflow

import (
	"context"

	"github.com/sealwright/sealwright/internal/facts"
	"github.com/sealwright/sealwright/internal/signing"
)

// Evaluation is what the policies in force would decide.
type Evaluation struct {
	Project, Policy string // empty where no policy was found
	Effect          signing.Effect
	Reasons         signing.Reason
	Generation      int64
}

// Evaluate holds facts against the policies in force and what the owners of keys
// demand, as a Request would be. It records nothing and asks nobody.
func (w *Workflow) Evaluate(f signing.Facts) (Evaluation, error) {
	g := w.inForce.Load()
	p, effect, reasons := g.policies.Judge(f)
	out := Evaluation{Effect: effect, Reasons: reasons, Generation: g.n}
	if p == nil {
		return out, nil
	}
	out.Project, out.Policy = p.Project(), p.Name()
	basis, err := w.basis(p, f.Artifacts(), f.Children(), &signing.Request{Origin: f.Origin, Untrust: f.Untrusted()}, p.RepositoryDigest(f.Forge))
	if err != nil {
		return Evaluation{}, err
	}
	checks := []signing.Reason{w.permit(p, f, basis, p.ApprovalsWith(f.Forge), 0, false)}
	for _, err := range []error{signing.CheckTags(basis.Artifacts, basis.Untrust), basis.CheckSize(), basis.CheckTogether()} {
		if err != nil {
			checks = append(checks, refusal("sign", err))
		}
	}
	for _, c := range checks {
		out.Reasons.Children = append(out.Reasons.Children, c)
		if !c.Pass {
			out.Effect, out.Reasons.Pass = signing.Deny, false
		}
	}
	return out, nil
}

// Facts returns the facts of a recorded Request, to a person who may read it. What
// the registry says of a digest it is asked again: the content of a digest does
// not change. The hash of the token is left out.
func (w *Workflow) Facts(ctx context.Context, requestID string, who signing.Identity) (signing.Facts, error) {
	s, err := w.ReadAs(ctx, requestID, who)
	if err != nil {
		return signing.Facts{}, err
	}
	r := s.Request
	f, _, err := facts.Gather(ctx, w.Registry, r.Identity, r.Origin, r.Policy, r.Artifacts, true, r.Submitted)
	f.Identity.TokenHash, f.Untrust = "", signing.TagNames(r.Untrust)
	return f, err
}
