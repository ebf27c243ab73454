package workflow

import (
	"errors"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

func TestClearanceCoversEachTaskOnceAndNothingElse(t *testing.T) {
	a := signing.Artifact{Repository: "registry.acme.dev/payments/web", Digest: signing.DigestOf([]byte("a"))}
	b := a
	b.Digest = signing.DigestOf([]byte("b"))
	step := signing.Step{Method: "cosign", Key: "release", KeyVersion: "1"}
	cleared := func() *clearance {
		c := &clearance{request: "sr_1", tasks: map[string]*signing.Task{}}
		for _, t := range (signing.Basis{Artifacts: []signing.Artifact{a, b}, Steps: []signing.Step{step}}).Tasks("sr_1") {
			c.tasks[t.ID] = t
		}
		return c
	}
	task := func(change func(*signing.Task)) *signing.Task {
		t := &signing.Task{ID: "sr_1.1", RequestID: "sr_1", Artifact: a, Step: step}
		change(t)
		return t
	}
	for what, change := range map[string]func(*signing.Task){
		"another request":       func(t *signing.Task) { t.RequestID = "sr_2" },
		"a task that is not in": func(t *signing.Task) { t.ID = "sr_1.3" },
		"another artifact":      func(t *signing.Task) { t.Artifact = b },
		"another tag":           func(t *signing.Task) { t.Artifact.Tag = "v1" },
		"another key":           func(t *signing.Task) { t.Step.Key = "other" },
		"another key version":   func(t *signing.Task) { t.Step.KeyVersion = "2" },
		"another method":        func(t *signing.Task) { t.Step.Method = "notation" },
		"recursion":             func(t *signing.Task) { t.Step.Recursive = true },
		"other options":         func(t *signing.Task) { t.Step.Options = map[string]string{"annotations": "all"} },
	} {
		c := cleared()
		if err := c.spend(task(change)); signing.CodeOf(err) != signing.Denied {
			t.Errorf("%s: %v", what, err)
		}
		if len(c.tasks) != 2 {
			t.Errorf("%s: a refusal was counted as a use", what)
		}
	}
	c := cleared()
	one := task(func(*signing.Task) {})
	if err := c.spend(one); err != nil {
		t.Errorf("first time: %v", err)
	}
	if err := c.spend(one); signing.CodeOf(err) != signing.Denied {
		t.Errorf("second time: %v", err)
	}
	if err := c.spend(task(func(t *signing.Task) { t.ID, t.Artifact = "sr_1.2", b })); err != nil {
		t.Errorf("the other task: %v", err)
	}
}

// The rows of a Request are authentic when they are read; that they are there does
// not make them enough.
func TestNoClearanceWithoutTheApprovalsOfTheDecision(t *testing.T) {
	now := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	basis := signing.DigestOf([]byte("basis"))
	ann := signing.Account{Forge: "github.test", ID: "101"}
	request := func(state signing.RequestState, change func(*signing.Request)) *drive {
		r := &signing.Request{ID: "sr_1", State: state, Decision: &signing.Decision{
			Effect: signing.NeedsApproval, BasisDigest: basis,
			Approvals: &signing.ApprovalRule{Groups: []signing.ApprovalGroup{{Required: 1, From: []string{"github.test:acme/release"}}}, Expires: time.Hour, DenyEnds: true, Ways: []string{signing.ViaComment}},
		}, Approvals: []signing.Approval{{By: ann, Person: ann.Key(), Via: signing.ViaComment, At: now.Add(-time.Minute), BasisDigest: basis, Groups: []int{0}}}}
		change(r)
		return &drive{w: &Workflow{}, request: r}
	}
	for _, state := range []signing.RequestState{signing.Ready, signing.Signing} {
		if tally, err := request(state, func(*signing.Request) {}).approved(now); err != nil || !tally.Met {
			t.Errorf("%s, approved: %v", state, err)
		}
		for what, change := range map[string]func(*signing.Request){
			"no approval":                func(r *signing.Request) { r.Approvals = nil },
			"of another basis":           func(r *signing.Request) { r.Approvals[0].BasisDigest = signing.DigestOf(nil) },
			"a denial":                   func(r *signing.Request) { r.Approvals[0].Deny = true },
			"by somebody excluded":       func(r *signing.Request) { r.Decision.Excluded = []signing.Exclusion{{Account: ann, Why: "wrote it"}} },
			"one of two":                 func(r *signing.Request) { r.Decision.Approvals.Groups[0].Required = 2 },
			"in another way":             func(r *signing.Request) { r.Approvals[0].Via = signing.ViaReview },
			"by nobody of the group":     func(r *signing.Request) { r.Approvals[0].Groups = nil },
			"no rule to hold it against": func(r *signing.Request) { r.Decision.Approvals = nil },
		} {
			var refused *refusedError
			if _, err := request(state, change).approved(now); !errors.As(err, &refused) {
				t.Errorf("%s, %s: %v", state, what, err)
			}
		}
	}
	late := now.Add(2 * time.Hour)
	if _, err := request(signing.Ready, func(*signing.Request) {}).approved(late); err == nil {
		t.Error("an expired approval begins to sign")
	}
	if _, err := request(signing.Signing, func(*signing.Request) {}).approved(late); err != nil {
		t.Errorf("what was begun is not finished: %v", err)
	}
}
