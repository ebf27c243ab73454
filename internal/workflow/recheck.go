package workflow

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/sealwright/sealwright/internal/approval"
	"github.com/sealwright/sealwright/internal/policy"
	"github.com/sealwright/sealwright/internal/signing"
)

// clearance authorises the use of keys for the Tasks of one Request, each
// once. Only recheck makes one; nothing in the database is one.
type clearance struct {
	request string
	basis   signing.Digest

	mu    sync.Mutex
	tasks map[string]*signing.Task // guarded by mu; what is left to be signed, as the basis says it
}

// spend takes the Task's part of the clearance. A second time, another
// artifact or another key is refused.
func (c *clearance) spend(t *signing.Task) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	want, ok := c.tasks[t.ID]
	switch {
	case t.RequestID != c.request || !ok:
		return &signing.Error{Code: signing.Denied, Message: "this task is not cleared for signing", Found: t.ID}
	case want.Artifact != t.Artifact || want.Part != t.Part || !slices.Equal(want.Changes, t.Changes):
		return &signing.Error{Code: signing.Denied, Message: "the task names another artifact than was decided", Expected: want.Artifact.String(), Found: t.Artifact.String()}
	case !reflect.DeepEqual(want.Step, t.Step):
		return &signing.Error{Code: signing.Denied, Message: "the task names another method or key than was decided", Found: t.Step.Method + " with " + t.Step.Key}
	}
	delete(c.tasks, t.ID)
	return nil
}

// refusedError is a recheck that ends the Request.
type refusedError struct{ reason signing.Reason }

func (e *refusedError) Error() string { return "recheck: " + e.reason.Rule + ": " + e.reason.Found }

func refuse(rule, wanted, found, fix string) error {
	return &refusedError{signing.Reason{Rule: "recheck." + rule, Wanted: wanted, Found: found, Fix: fix}}
}

// sameBasis derives the basis anew from the configuration in force and compares
// it with the one that was decided. What the repository's own policy says is asked
// of the forge elsewhere: here it is as it was decided.
func (d *drive) sameBasis() (*policy.Policy, signing.Basis, error) {
	r := d.request
	if r.Decision == nil || r.Decision.Effect != signing.Allow && r.Decision.Effect != signing.NeedsApproval {
		return nil, signing.Basis{}, refuse("decision", "an allowing decision", "none", "submit again")
	}
	p, ok := d.conf.policies.Policy(r.Project, r.Policy)
	if !ok {
		return nil, signing.Basis{}, refuse("policy", r.Project+"/"+r.Policy, "no such policy any more (policy_changed)", "submit again")
	}
	want := r.Decision.Basis
	now, err := d.w.basis(p, want.Artifacts, want.Children, r, want.RepositoryPolicy)
	if err != nil {
		return nil, signing.Basis{}, err
	}
	digest, err := now.Digest()
	if err != nil {
		return nil, signing.Basis{}, err
	}
	if digest != r.Decision.BasisDigest || !sameArtifacts(r.Artifacts, want.Artifacts) || !slices.Equal(r.Untrust, want.Untrust) {
		return nil, signing.Basis{}, refuse("basis", "the basis that was decided, "+string(r.Decision.BasisDigest), "policy, key or artifacts have changed since (policy_changed): "+string(digest), "submit again")
	}
	return p, now, nil
}

// recheck makes the clearance of a Request: its basis is the one that was decided,
// people have approved it where the Decision asks them, and the owners of the keys
// permit the use. It is judged when signing starts and whenever signing resumes in
// another process. The stored rows were authenticated when they were read; that
// they are genuine does not make them current.
func (d *drive) recheck(ctx context.Context) (*clearance, error) {
	r := d.request
	p, now, err := d.sameBasis()
	if err != nil {
		return nil, err
	}
	if d.late() {
		return nil, refuse("deadline", "signing by "+r.Deadline.String(), "the deadline has passed", "submit again")
	}
	tally, err := d.approved(d.w.Now())
	if err != nil {
		return nil, err
	}
	f := signing.Facts{Identity: r.Identity, Origin: r.Origin, Policy: r.Policy, Now: r.Submitted, Untrust: signing.TagNames(r.Untrust)}
	for _, a := range now.Artifacts {
		f.Images = append(f.Images, signing.Image{Artifact: a})
	}
	// Some keys demand what only the forge knows, whenever they are used.
	said, err := d.ask(ctx, d.w.Keys.Question(keyNames(now.Steps)...).Recheck(), nothing, now.Artifacts)
	if err != nil {
		return nil, err
	}
	f.Forge = said.facts
	if permit := d.w.permit(p, f, now, r.Decision.Approvals, people(tally), true); !permit.Pass {
		leaf := permit.Failures()[0]
		return nil, refuse(leaf.Rule, leaf.Wanted, leaf.Found, leaf.Fix)
	}
	tasks := now.Tasks(r.ID)
	if len(d.tasks) != len(tasks) {
		return nil, refuse("tasks", fmt.Sprint(len(tasks), " tasks"), fmt.Sprint(len(d.tasks)), "submit again")
	}
	c := &clearance{request: r.ID, basis: r.Decision.BasisDigest, tasks: map[string]*signing.Task{}}
	for i, t := range d.tasks {
		if want := tasks[i]; t.ID != want.ID || t.Artifact != want.Artifact || t.Part != want.Part || !slices.Equal(t.Changes, want.Changes) || !reflect.DeepEqual(t.Step, want.Step) {
			return nil, refuse("tasks", want.Artifact.String(), t.Artifact.String(), "submit again")
		}
		c.tasks[t.ID] = tasks[i]
	}
	return c, nil
}

func nothing(*signing.ForgeFacts) signing.ForgeQuestion { return signing.ForgeQuestion{} }

// approved refuses a Request whose approvals, as they are stored, do not meet the
// quorum of its Decision. They may expire before signing begins, and not while it
// goes on: half a release helps nobody.
func (d *drive) approved(at time.Time) (*signing.Tally, error) {
	r := d.request
	if r.Decision.Approvals == nil {
		if r.Decision.Effect != signing.Allow {
			return nil, refuse("approvals", "who has to approve", "a decision that does not say", "submit again")
		}
		return nil, nil
	}
	rule := *r.Decision.Approvals
	if r.State == signing.Signing {
		rule.Expires = noExpiry
	}
	t := approval.Count(rule, r.Approvals, r.Decision.Excluded, d.w.Directory, r.Decision.BasisDigest, at)
	if !t.Met {
		return nil, unmet(&t)
	}
	return &t, nil
}

// noExpiry is longer than any Request lives.
const noExpiry = 10 * MaxDeadline

// stillHolds asks the forge again what may have changed since the decision: how
// refs are protected, the repository's own policy, who made the build, and whether
// those who approved are who they were and where they were.
func (d *drive) stillHolds(ctx context.Context) error {
	r := d.request
	p, basis, err := d.sameBasis()
	if err != nil {
		return err
	}
	question := p.RecheckQuestion()
	rule := r.Decision.Approvals
	if rule != nil {
		question = question.And(who(*rule))
	}
	said, err := d.ask(ctx, question, p.FurtherRecheck, basis.Artifacts)
	if err != nil {
		return d.refuseUnless("forge", err)
	}
	f := signing.Facts{Identity: r.Identity, Origin: r.Origin, Policy: r.Policy, Now: r.Submitted, Untrust: signing.TagNames(r.Untrust), Forge: said.facts}
	for _, leaf := range p.Recheck(f, basis.RepositoryPolicy).Failures() {
		return refuse(leaf.Rule, leaf.Wanted, leaf.Found, leaf.Fix)
	}
	if rule == nil {
		return nil
	}
	excluded, why := approval.Exclude(*rule, said.facts, r.Origin)
	if !why.Pass {
		return refuse(why.Rule, why.Wanted, why.Found, why.Fix)
	}
	excluded = append(excluded, d.w.submitter(r)...)
	now, err := d.eligible(ctx, rule)
	if err != nil {
		return d.refuseUnless("approvals", err)
	}
	if t := approval.Count(*rule, now, excluded, d.w.Directory, r.Decision.BasisDigest, d.w.Now()); !t.Met {
		return unmet(&t)
	}
	return nil
}

// refuseUnless is denyUnless for a recheck.
func (d *drive) refuseUnless(rule string, err error) error {
	if signing.Temporary(err) || signing.CodeOf(err) == signing.Internal {
		return err
	}
	leaf := refusal(rule, err)
	return refuse(leaf.Rule, leaf.Wanted, leaf.Found, leaf.Fix)
}

// who asks for those that a rule excludes.
func who(rule signing.ApprovalRule) signing.ForgeQuestion {
	author, pusher := slices.Contains(rule.Exclude, signing.ExcludeAuthor), slices.Contains(rule.Exclude, signing.ExcludePusher)
	return signing.ForgeQuestion{Pulls: author || pusher, Commit: author, Run: slices.Contains(rule.Exclude, signing.ExcludeActor)}
}

// eligible returns the approvals with the groups that those who gave them are in
// now. Emergency approvals rest on no group.
func (d *drive) eligible(ctx context.Context, rule *signing.ApprovalRule) ([]signing.Approval, error) {
	out := slices.Clone(d.request.Approvals)
	for i, a := range out {
		if a.Deny || a.Via == signing.ViaBreakGlass {
			continue
		}
		groups, err := d.w.standing(ctx, d.request, rule, a.By, a.Person)
		if err != nil {
			return nil, err
		}
		out[i].Groups = groups
	}
	return out, nil
}

// frozen refuses to start signing in a time in which the policy lets nothing be
// signed. What was begun before is finished: half a release helps nobody.
func (d *drive) frozen() *signing.Reason {
	p, ok := d.conf.policies.Policy(d.request.Project, d.request.Policy)
	if !ok {
		return nil // recheck has refused it
	}
	reason, judged := p.Freeze(d.w.Now())
	if !judged || reason.Pass {
		return nil
	}
	reason.Rule = "recheck." + reason.Rule
	return &reason
}

// sameArtifacts compares what was asked for with what was decided: the same
// repositories, digests and tags, in order.
func sameArtifacts(asked, decided []signing.Artifact) bool {
	return slices.EqualFunc(asked, decided, func(a, b signing.Artifact) bool {
		return a.Repository == b.Repository && a.Digest == b.Digest && a.Tag == b.Tag
	})
}
