package workflow

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"

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
	case want.Artifact != t.Artifact:
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

// recheck derives the basis anew from the configuration in force and compares
// it with the one that was decided. It is judged when signing starts and
// whenever signing resumes in another process. The stored rows were
// authenticated when they were read; that they are genuine does not make them
// current.
func (d *drive) recheck(_ context.Context) (*clearance, error) {
	r := d.request
	if r.Decision == nil || r.Decision.Effect != signing.Allow {
		return nil, refuse("decision", "an allowing decision", "none", "submit again")
	}
	if d.late() {
		return nil, refuse("deadline", "signing by "+r.Deadline.String(), "the deadline has passed", "submit again")
	}
	p, ok := d.conf.policies.Policy(r.Project, r.Policy)
	if !ok {
		return nil, refuse("policy", r.Project+"/"+r.Policy, "no such policy any more (policy_changed)", "submit again")
	}
	want := r.Decision.Basis
	now, err := d.w.basis(p, want.Artifacts, want.Children, r.Origin)
	if err != nil {
		return nil, err
	}
	digest, err := now.Digest()
	if err != nil {
		return nil, err
	}
	if digest != r.Decision.BasisDigest || !sameArtifacts(r.Artifacts, want.Artifacts) {
		return nil, refuse("basis", "the basis that was decided, "+string(r.Decision.BasisDigest), "policy, key or artifacts have changed since (policy_changed): "+string(digest), "submit again")
	}
	f := signing.Facts{Identity: r.Identity, Origin: r.Origin, Policy: r.Policy, Now: r.Submitted}
	for _, a := range want.Artifacts {
		f.Images = append(f.Images, signing.Image{Artifact: a})
	}
	if permit := d.w.permit(p, f, now, len(r.Approvals)); !permit.Pass {
		leaf := permit.Failures()[0]
		return nil, refuse(leaf.Rule, leaf.Wanted, leaf.Found, leaf.Fix)
	}
	tasks := now.Tasks(r.ID)
	if len(d.tasks) != len(tasks) {
		return nil, refuse("tasks", fmt.Sprint(len(tasks), " tasks"), fmt.Sprint(len(d.tasks)), "submit again")
	}
	c := &clearance{request: r.ID, basis: digest, tasks: map[string]*signing.Task{}}
	for i, t := range d.tasks {
		if want := tasks[i]; t.ID != want.ID || t.Artifact != want.Artifact || !reflect.DeepEqual(t.Step, want.Step) {
			return nil, refuse("tasks", want.Artifact.String(), t.Artifact.String(), "submit again")
		}
		c.tasks[t.ID] = tasks[i]
	}
	return c, nil
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
