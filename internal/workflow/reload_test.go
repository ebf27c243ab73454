package workflow_test

import (
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/policy"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

// strictPolicy is the policy of e with one rule more.
func strictPolicy(t *testing.T, e *testenv.Env) *policy.Set {
	t.Helper()
	text := strings.ReplaceAll(testenv.Policy, "%[1]s", e.World.Registry.Host)
	set, err := policy.Load(map[string][]byte{"policies/payments.yaml": []byte(strings.Replace(text, "events: [push, release]", "events: [release]", 1))})
	ok(t, err)
	return set
}

func TestReloadedPoliciesDecideFromTheNextRequestOn(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	s := e.Start(nil)
	r, capability := submit(t, s, "before", e.Image("before"))
	if r = finish(t, s, r.ID, capability); r.State != signing.Completed {
		t.Fatalf("before: %s, %+v", r.State, r.Failure)
	}
	n, err := s.Workflow.Reload(t.Context(), strictPolicy(t, e))
	if ok(t, err); n != 2 {
		t.Errorf("generation %d", n)
	}
	r, capability = submit(t, s, "after", e.Image("after"))
	if r = finish(t, s, r.ID, capability); r.State != signing.RequestDenied || e.KeyUses() != 1 {
		t.Errorf("after: %s, %d key uses", r.State, e.KeyUses())
	}
	// The same again is no generation of its own.
	if n, err = s.Workflow.Reload(t.Context(), strictPolicy(t, e)); err != nil || n != 2 {
		t.Errorf("again: generation %d, %v", n, err)
	}
	if got := quiet(t, e, s); got[audit.ConfigLoaded] != 2 {
		t.Errorf("%d events of a configuration", got[audit.ConfigLoaded])
	}
}

// TestRequestInHandIsRecheckedAgainstReloadedPolicies: between its decision and
// the key.
func TestRequestInHandIsRecheckedAgainstReloadedPolicies(t *testing.T) {
	world := testenv.NewWorld(t, true)
	for name, c := range map[string]struct {
		policies func(*testing.T, *testenv.Env) *policy.Set
		state    signing.RequestState
		uses     int
	}{
		"changed":   {strictPolicy, signing.Failed, 0},
		"unchanged": {extraPolicy, signing.Completed, 1},
	} {
		t.Run(name, func(t *testing.T) {
			e := testenv.New(t, testenv.Options{World: world})
			s := e.Start(nil)
			a := e.Image(t.Name())
			hold := world.Registry.Add(held("GET", a))
			defer hold.Remove()
			r, capability := submit(t, s, "k", a)
			<-hold.Arrived() // decided and about to be prepared
			if _, err := s.Workflow.Reload(t.Context(), c.policies(t, e)); err != nil {
				t.Fatal(err)
			}
			hold.Release()
			r = finish(t, s, r.ID, capability)
			if r.State != c.state || e.KeyUses() != c.uses {
				t.Errorf("%s, %d key uses: %+v", r.State, e.KeyUses(), r.Failure)
			}
			if c.uses == 0 && !strings.Contains(r.Tasks[0].Failure.Found, "policy_changed") {
				t.Errorf("%+v", r.Tasks[0].Failure)
			}
		})
	}
}

// TestReplicaCatchesUpWhenItsOwnFilesChange: without a restart, and without a
// generation of its own.
func TestReplicaCatchesUpWhenItsOwnFilesChange(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	s := e.Start(nil)
	other := replica(t, s, nil)
	if _, err := s.Workflow.Reload(t.Context(), extraPolicy(t, e)); err != nil {
		t.Fatal(err)
	}
	if got := notReady(other.Ready(t.Context())); len(got) != 1 || got[0] != "configuration" {
		t.Errorf("the replica with the old files is not ready for %v", got)
	}
	n, err := other.Reload(t.Context(), extraPolicy(t, e))
	if err != nil || n != 2 || len(notReady(other.Ready(t.Context()))) > 0 {
		t.Errorf("generation %d, %v, not ready: %v", n, err, notReady(other.Ready(t.Context())))
	}
	// Files that go to and fro elsewhere leave the replica with an old number
	// of the very configuration that is in force: it adopts the new one.
	for _, set := range []*policy.Set{strictPolicy(t, e), extraPolicy(t, e)} {
		if _, err := s.Workflow.Reload(t.Context(), set); err != nil {
			t.Fatal(err)
		}
	}
	runs(t, other)
	eventually(t, "a replica that adopts the number", func() bool { n, _ := other.Generation(); return n == 4 })
}

func TestRefusedPoliciesLeaveTheOldOnesInForceAndAreShown(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	s := e.Start(nil)
	files := signing.DigestOf([]byte("broken"))
	for range 2 { // the same files are recorded once
		ok(t, s.Workflow.RefuseReload(t.Context(), files, 3))
	}
	detail := func() string {
		for _, c := range s.Workflow.Ready(t.Context()) {
			if c.Name == "configuration" && c.OK {
				return c.Detail
			}
		}
		return "not ready"
	}
	if n, refused := s.Workflow.Generation(); n != 1 || !refused || !strings.Contains(detail(), "3 problems") {
		t.Errorf("generation %d, refused %v, %s", n, refused, detail())
	}
	r, capability := submit(t, s, "k", e.Image(t.Name()))
	if r = finish(t, s, r.ID, capability); r.State != signing.Completed {
		t.Errorf("%s, %+v", r.State, r.Failure)
	}
	// Put right by going back to what is in force.
	if _, err := s.Workflow.Reload(t.Context(), s.Workflow.Policies); err != nil {
		t.Fatal(err)
	}
	if _, refused := s.Workflow.Generation(); refused || strings.Contains(detail(), "problems") {
		t.Errorf("still refused: %s", detail())
	}
	if got := quiet(t, e, s); got[audit.ConfigRefused] != 1 || got[audit.ConfigLoaded] != 1 {
		t.Errorf("%v", got)
	}
}
