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
	steps   []signing.Step

	mu    sync.Mutex
	tasks map[string]signing.Artifact // guarded by mu; what is left to be signed
}

// spend takes the Task's part of the clearance. A second time, another
// artifact or another key is refused.
func (c *clearance) spend(t *signing.Task) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.tasks[t.ID]
	switch {
	case t.RequestID != c.request || !ok:
		return &signing.Error{Code: signing.Denied, Message: "this task is not cleared for signing", Found: t.ID}
	case a != t.Artifact:
		return &signing.Error{Code: signing.Denied, Message: "the task names another artifact than was decided", Expected: a.String(), Found: t.Artifact.String()}
	case !slices.ContainsFunc(c.steps, func(s signing.Step) bool { return reflect.DeepEqual(s, t.Step) }):
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
	now, err := d.w.basis(p, want.Artifacts, r.Origin)
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
	if permit := d.w.permit(p, f, now.Steps, len(r.Approvals)); !permit.Pass {
		leaf := permit.Failures()[0]
		return nil, refuse(leaf.Rule, leaf.Wanted, leaf.Found, leaf.Fix)
	}
	c := &clearance{request: r.ID, basis: digest, steps: now.Steps, tasks: map[string]signing.Artifact{}}
	if len(d.tasks) != len(want.Artifacts)*len(now.Steps) {
		return nil, refuse("tasks", fmt.Sprint(len(want.Artifacts)*len(now.Steps), " tasks"), fmt.Sprint(len(d.tasks)), "submit again")
	}
	for i, t := range d.tasks {
		// Tasks are numbered in the order of artifacts and steps.
		if a, s := want.Artifacts[i/len(now.Steps)], now.Steps[i%len(now.Steps)]; t.Artifact != a || !reflect.DeepEqual(t.Step, s) {
			return nil, refuse("tasks", a.String(), t.Artifact.String(), "submit again")
		}
		c.tasks[t.ID] = t.Artifact
	}
	return c, nil
}

// sameArtifacts compares what was asked for with what was decided: the same
// repositories, digests and tags, in order.
func sameArtifacts(asked, decided []signing.Artifact) bool {
	return slices.EqualFunc(asked, decided, func(a, b signing.Artifact) bool {
		return a.Repository == b.Repository && a.Digest == b.Digest && a.Tag == b.Tag
	})
}
