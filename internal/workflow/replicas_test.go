package workflow_test

import (
	"cmp"
	"context"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/method/cosign"
	"github.com/sealwright/sealwright/internal/method/notation"
	"github.com/sealwright/sealwright/internal/policy"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
	"github.com/sealwright/sealwright/internal/workflow"
)

// replica is a second process on the database of s, as far as the workflow can
// tell. It does not run yet.
func replica(t *testing.T, s *testenv.Service, change func(*workflow.Options)) *workflow.Workflow {
	t.Helper()
	o := s.Workflow.Options
	o.Owner += "-replica"
	if change != nil {
		change(&o)
	}
	w, err := workflow.New(o)
	ok(t, err)
	ok(t, w.Load(t.Context()))
	return w
}

// runs runs w until the test ends.
func runs(t *testing.T, w *workflow.Workflow) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		ok(t, <-done)
	})
}

// extraPolicy is a set in which the policies of e are as they were, and one is new.
func extraPolicy(t *testing.T, e *testenv.Env) *policy.Set {
	t.Helper()
	text := strings.ReplaceAll(testenv.Policy, "%[1]s", e.World.Registry.Host)
	text += "  extra: {origin: {refs: [refs/heads/main], github: {events: [push]}}, sign: [{method: cosign, key: release}]}\n"
	set, err := policy.Load(map[string][]byte{"policies/payments.yaml": []byte(text)})
	ok(t, err)
	return set
}

func notReady(checks []workflow.Check) []string {
	var out []string
	for _, c := range checks {
		if !c.OK {
			out = append(out, c.Name)
		}
	}
	return out
}

func TestProcessOfAnOlderGenerationNeitherDecidesNorSigns(t *testing.T) {
	world := testenv.NewWorld(t, true)
	t.Run("decides", func(t *testing.T) {
		e := testenv.New(t, testenv.Options{World: world})
		s := e.Start(nil)
		newer := replica(t, s, func(o *workflow.Options) { o.Policies = extraPolicy(t, e) })
		older(t, e, s, newer, signing.Pending, func(a signing.Artifact) (string, string) {
			r, capability := submit(t, s, "k", a)
			return r.ID, capability
		})
	})
	t.Run("signs", func(t *testing.T) {
		e := testenv.New(t, testenv.Options{World: world})
		s := e.Start(nil)
		var newer *workflow.Workflow
		older(t, e, s, nil, signing.Signing, func(a signing.Artifact) (string, string) {
			hold := world.Registry.Add(held("GET", a))
			defer hold.Remove()
			r, capability := submit(t, s, "k", a)
			<-hold.Arrived() // decided and about to be prepared
			newer = replica(t, s, func(o *workflow.Options) { o.Policies = extraPolicy(t, e) })
			hold.Release()
			return r.ID, capability
		}, func() *workflow.Workflow { return newer })
	})
}

func older(t *testing.T, e *testenv.Env, s *testenv.Service, newer *workflow.Workflow, stays signing.RequestState, begin func(signing.Artifact) (id, capability string), late ...func() *workflow.Workflow) {
	t.Helper()
	a := e.Image(t.Name())
	id, capability := begin(a)
	eventually(t, "a request that waits for a process of the right generation", func() bool {
		r, _, err := state(t, s, id)
		return err == nil && (r.State.Terminal() || r.Failure != nil && strings.Contains(r.Failure.Message, "generation"))
	})
	if r, _, err := state(t, s, id); err != nil || r.State != stays || e.KeyUses() != 0 {
		t.Errorf("%v, %v, %d key uses", r, err, e.KeyUses())
	}
	if got := notReady(s.Workflow.Ready(t.Context())); !slices.Contains(got, "configuration") {
		t.Errorf("not ready: %v", got)
	}
	for _, f := range late {
		newer = f()
	}
	runs(t, newer)
	if r := finish(t, s, id, capability); r.State != signing.Completed || e.KeyUses() != 1 || e.Signatures(a) != 1 {
		t.Errorf("ended %s after %d key uses: %+v", r.State, e.KeyUses(), r.Failure)
	}
	quiet(t, e, s)
}

// TestWorkerThatLostItsClaimChangesNothing: a worker that was thought dead
// wakes up while another has its job.
func TestWorkerThatLostItsClaimChangesNothing(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	a := e.Image(t.Name())
	first := e.World.Registry.Add(held("GET", a))
	defer first.Remove()
	second := held("GET", a)
	s := e.Start(nil)
	r, capability := submit(t, s, "k", a)
	<-first.Arrived()
	hold := e.World.Registry.Add(second)
	defer hold.Remove()
	e.Clock.Add(int64(workflow.DefaultLease + time.Second)) // long before the next renewal
	<-hold.Arrived()
	taken := e.Now()
	first.Release()
	// The old worker has its bytes and would store them.
	eventually(t, "the old worker at its next write", func() bool { return slices.Contains(s.Faults.Steps(), "store prepare#1") })
	hold.Release()
	if r = finish(t, s, r.ID, capability); r.State != signing.Completed || e.KeyUses() != 1 || e.Signatures(a) != 1 {
		t.Errorf("ended %s after %d key uses: %+v", r.State, e.KeyUses(), r.Failure)
	}
	_, tasks, err := state(t, s, r.ID)
	ok(t, err)
	if made := tasks[0].Intent.Created; made.Before(taken.Add(-workflow.DefaultLease)) {
		t.Errorf("the bytes that were signed are of %s, from the worker that lost its claim at %s", made, taken)
	}
	if n := quiet(t, e, s)[audit.TaskPrepared]; n != 1 {
		t.Errorf("prepared %d times", n)
	}
}

// TestOneProcessAtATimePublishesOnADigest: two at once lose signatures.
func TestOneProcessAtATimePublishesOnADigest(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	e.Options.Policy, e.Options.Keys = manyPolicies(e)
	s := e.Start(nil)
	other := replica(t, s, nil)
	runs(t, other)
	a := e.Image(t.Name())
	hold := e.World.Registry.Add(held("PUT", a))
	defer hold.Remove()
	one, capability := ask(t, s, runOf(1), "k", "p1", a)
	<-hold.Arrived()
	r, _, err := state(t, s, one.ID)
	ok(t, err)
	id, origin := r.Identity, r.Origin
	id.TokenID, id.TokenHash, origin.RunID = "another", strings.Repeat("0", 64), "2"
	two, err := other.Submit(t.Context(), id, origin, workflow.Submission{Policy: "p2", IdempotencyKey: "k", Artifacts: []signing.Artifact{{Repository: a.Repository, Digest: a.Digest}}})
	ok(t, err)
	puts := func() int { return e.World.Registry.Count("PUT", regexp.MustCompile(a.Digest.Hex()+`\.sig$`)) }
	eventually(t, "the other process at the lease", func() bool {
		return puts() > 1 || slices.Contains(s.Faults.Steps(), "store lease#4")
	})
	if n := puts(); n != 1 {
		t.Errorf("%d processes publish at once", n)
	}
	hold.Release()
	if one = finish(t, s, one.ID, capability); one.State != signing.Completed {
		t.Errorf("ended %s: %+v", one.State, one.Failure)
	}
	if got := finish(t, s, two.Request.ID, two.Capability); got.State != signing.Completed {
		t.Errorf("ended %s: %+v", got.State, got.Failure)
	}
	if e.Signatures(a) != 2 || verified(t, s, "k1", a) != 1 || verified(t, s, "k2", a) != 1 {
		t.Errorf("%d signatures", e.Signatures(a))
	}
	quiet(t, e, s)
}

// faulty is the cosign method with a fault.
type faulty struct {
	method.Attacher
	artifact signing.Artifact // whose bytes are made, instead of the target's
	name     string           // of the method; "" is cosign

	mu   sync.Mutex
	lost int // guarded by mu; this many publications are lost
}

func (f *faulty) Prepare(ctx context.Context, target method.Target, now time.Time) (method.Prepared, error) {
	if f.artifact.Digest != "" {
		target.Artifact = f.artifact
	}
	return f.Attacher.Prepare(ctx, target, now)
}

func (f *faulty) Publish(ctx context.Context, target method.Target, e signing.Envelope) ([]signing.Location, error) {
	f.mu.Lock()
	f.lost--
	lost := f.lost >= 0
	f.mu.Unlock()
	if lost {
		return []signing.Location{{Kind: "tag", URI: string(target.Artifact.Repository) + ":lost"}}, nil
	}
	return f.Attacher.Publish(ctx, target, e)
}

// described returns what the registry says of an image.
func described(t *testing.T, a signing.Artifact) (string, int64) {
	t.Helper()
	ref, err := name.NewDigest(string(a.Repository)+"@"+string(a.Digest), name.Insecure)
	ok(t, err)
	d, err := remote.Head(ref)
	ok(t, err)
	return string(d.MediaType), d.Size
}

// withMethod starts a service whose method is f.
func withMethod(e *testenv.Env, f *faulty) *testenv.Service {
	s := e.Start(nil)
	name := cmp.Or(f.name, cosign.Name)
	attacher, ok := s.Workflow.Methods[name].(method.Attacher)
	if !ok {
		e.T.Fatal(name + " cannot attach")
	}
	f.Attacher = attacher
	changed := maps.Clone(s.Workflow.Methods)
	changed[name] = f
	maps.Copy(s.Workflow.Methods, changed) // nothing was submitted yet: nobody reads it
	return s
}

func TestBytesThatSayAnotherThanWasDecidedNeverReachTheKey(t *testing.T) {
	world := testenv.NewWorld(t, true)
	changes := map[string]func(*signing.Artifact, signing.Artifact){
		"digest":     func(a *signing.Artifact, other signing.Artifact) { a.Digest = other.Digest },
		"repository": func(a *signing.Artifact, _ signing.Artifact) { a.Repository += "-other" },
		"tag":        func(a *signing.Artifact, _ signing.Artifact) { a.Tag = "v2" },
		"media type": func(a *signing.Artifact, _ signing.Artifact) {
			a.MediaType = "application/vnd.oci.image.manifest.v1+json"
		},
		"size": func(a *signing.Artifact, _ signing.Artifact) { a.Size++ },
	}
	for _, c := range [][3]string{
		{cosign.Name, testenv.Cosign, "digest"}, {cosign.Name, testenv.Cosign, "repository"}, {cosign.Name, testenv.Cosign, "tag"},
		{notation.Name, testenv.Notation, "digest"}, {notation.Name, testenv.Notation, "repository"}, {notation.Name, testenv.Notation, "tag"},
		{notation.Name, testenv.Notation, "media type"}, {notation.Name, testenv.Notation, "size"},
	} {
		what, change := c[2], changes[c[2]]
		t.Run(c[0]+"/"+what, func(t *testing.T) {
			e := testenv.New(t, testenv.Options{World: world, Policy: testenv.PolicySigning(c[1])})
			a, other := e.Image(t.Name()), e.Image(t.Name()+" other")
			f := &faulty{artifact: a, name: c[0]}
			// What facts learn of it, and the request has.
			f.artifact.MediaType, f.artifact.Size = described(t, a)
			change(&f.artifact, other)
			s := withMethod(e, f)
			r, capability := submit(t, s, "k", a)
			if r = finish(t, s, r.ID, capability); r.State != signing.Failed || r.Failure == nil || !strings.Contains(r.Failure.Message, "another "+what) {
				t.Errorf("ended %s: %+v", r.State, r.Failure)
			}
			if n := quiet(t, e, s)[audit.KeyAttempt]; n != 0 || e.KeyUses() != 0 || e.Signatures(a)+e.Signatures(other) != 0 {
				t.Errorf("%d attempts, %d key uses", n, e.KeyUses())
			}
		})
	}
}

func TestPublishedMeansReadBack(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	a := e.Image(t.Name())
	s := withMethod(e, &faulty{lost: 2})
	r, capability := submit(t, s, "k", a)
	if r = finish(t, s, r.ID, capability); r.State != signing.Completed || e.KeyUses() != 1 || e.Signatures(a) != 1 {
		t.Errorf("ended %s after %d key uses with %d signatures: %+v", r.State, e.KeyUses(), e.Signatures(a), r.Failure)
	}
	if n := quiet(t, e, s)[audit.TaskStaleBase]; n != 2 {
		t.Errorf("%d stale bases", n)
	}
}
