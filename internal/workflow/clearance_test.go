package workflow

import (
	"testing"

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
