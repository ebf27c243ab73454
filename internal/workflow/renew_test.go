package workflow_test

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
	"github.com/sealwright/sealwright/internal/testenv"
)

// monthly signs metadata that ends after 30 days, and is renewed 10 days before.
const monthly = "- {method: dct, key: release-dct, options: {expiry: 720h}}\n"

// ends is when the releases of a repository end, and their version.
func ends(t *testing.T, e *testenv.Env, repository signing.Repository) (time.Time, int64) {
	t.Helper()
	s, err := e.TrustClient().Fetch(t.Context(), repository, dct.RoleReleases)
	ok(t, err)
	r, _ := s.Role(dct.RoleReleases)
	return r.Expires, r.Version
}

// renewals are the renewals that are recorded, in order.
func renewals(t *testing.T, s *testenv.Service) []*signing.Request {
	t.Helper()
	var out []*signing.Request
	ok(t, s.Store.View(t.Context(), func(tx *store.Tx) error {
		all, _, err := tx.List(store.Filter{}, 0, 100)
		for _, r := range all {
			if r.Renewal != nil {
				out = append(out, r)
			}
		}
		return err
	}))
	return out
}

// renewed waits for the end of the only renewal, or of the n-th.
func renewed(t *testing.T, s *testenv.Service, n int) *signing.Request {
	t.Helper()
	for range 1000 {
		if all := renewals(t, s); len(all) == n && !slices.ContainsFunc(all, func(r *signing.Request) bool { return !r.State.Terminal() }) {
			return all[0] // the last comes first
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("waited in vain for %d renewals: %+v", n, renewals(t, s))
	return nil
}

// stranger signs an image under a tag with the key of the service, and without the
// service.
func stranger(t *testing.T, e *testenv.Env, s *testenv.Service, a signing.Artifact) {
	t.Helper()
	image, err := s.Registry.Resolve(t.Context(), a.Repository, string(a.Digest))
	ok(t, err)
	client := e.TrustClient()
	state, err := client.Fetch(t.Context(), a.Repository, dct.RoleReleases)
	ok(t, err)
	r, _ := state.Role(dct.RoleReleases)
	d, err := state.Change(dct.RoleReleases, []signing.Change{{Tag: a.Tag, Digest: a.Digest, Size: image.Size}}, r.Expires)
	ok(t, err)
	u, err := d.Seal(dct.Signer{Key: r.Keys[0], Private: e.Private("release-dct.key")})
	ok(t, err)
	ok(t, client.Publish(t.Context(), a.Repository, u))
}

func TestMetadataIsSignedAgainBeforeItEndsAndNothingInItChanges(t *testing.T) {
	e := trusting(t, nil, monthly)
	s := e.Start(nil)
	one, two := named(e, "payments/web", "v1", "1"), named(e, "payments/web", "v2", "2")
	first := completed(t, s, "k", one)
	completed(t, s, "k2", two)
	was, version := ends(t, e, one.Repository)
	ok(t, s.Workflow.RenewDue(t.Context()))
	e.Clock.Add(int64(19 * 24 * time.Hour))
	ok(t, s.Workflow.RenewDue(t.Context()))
	if n := len(renewals(t, s)); n != 0 {
		t.Fatalf("%d renewals before anything is due", n)
	}
	e.Clock.Add(int64(2 * 24 * time.Hour))
	var looks sync.WaitGroup
	for range 3 { // of several processes, say
		looks.Go(func() { ok(t, s.Workflow.RenewDue(t.Context())) })
	}
	looks.Wait()
	r := renewed(t, s, 1)
	if r.State != signing.Completed || r.Identity.Role != signing.RoleService || r.Policy != "release" || r.Renewal.Source == first.ID {
		t.Fatalf("%s %+v %+v", r.State, r.Failure, r.Renewal)
	}
	now, next := ends(t, e, one.Repository)
	if next != version+1 || now.Sub(was) < 20*24*time.Hour {
		t.Errorf("version %d after %d, ends %s after %s", next, version, now, was)
	}
	trusted(t, e, one, two)
	ok(t, s.Workflow.RenewDue(t.Context()))
	if n := len(renewals(t, s)); n != 1 {
		t.Errorf("%d renewals of what was renewed", n)
	}
	if uses := e.KeyUses(); uses != 3 {
		t.Errorf("the key was used %d times", uses)
	}
	s.VerifyEvidence()
}

func TestWhatOthersSignedIsListedAndNotRenewedUntilSomebodyAdoptsIt(t *testing.T) {
	e := trusting(t, nil, monthly)
	s := e.Start(nil)
	one := named(e, "payments/web", "v1", "1")
	completed(t, s, "k", one)
	stray := named(e, "payments/web", "v9", "2")
	stranger(t, e, s, stray)
	e.Clock.Add(int64(21 * 24 * time.Hour))
	ok(t, s.Workflow.RenewDue(t.Context()))
	if n := len(renewals(t, s)); n != 0 || e.KeyUses() != 1 {
		t.Fatalf("%d renewals, %d key uses", n, e.KeyUses())
	}
	all := s.Workflow.Endings()
	if len(all) != 1 || !slices.Equal(all[0].Untraced, []string{"v9"}) || len(all[0].Ends) != 5 {
		t.Errorf("%+v", all)
	}
	warned := false
	for _, c := range s.Workflow.Ready(t.Context()) {
		if strings.HasPrefix(c.Name, "trust ") {
			warned = c.OK && c.Warning && strings.Contains(c.Detail, "v9")
		}
	}
	if !warned {
		t.Errorf("readiness has %+v", s.Workflow.Ready(t.Context()))
	}
}

func TestATagThatIsSignedByARequestIsAdopted(t *testing.T) {
	e := trusting(t, nil, monthly)
	s := e.Start(nil)
	one, stray := named(e, "payments/web", "v1", "1"), named(e, "payments/web", "v9", "2")
	completed(t, s, "k", one)
	stranger(t, e, s, stray)
	ok(t, s.Workflow.RenewDue(t.Context()))
	if all := s.Workflow.Endings(); len(all[0].Untraced) != 1 {
		t.Fatalf("%+v", all)
	}
	stray.Tag = "v9"
	r, capability := submit(t, s, "adopt", stray)
	if r = finish(t, s, r.ID, capability); r.State != signing.Completed {
		t.Fatalf("%+v", r.Failure)
	}
	e.Clock.Add(int64(21 * 24 * time.Hour))
	ok(t, s.Workflow.RenewDue(t.Context()))
	if all := s.Workflow.Endings(); len(all[0].Untraced) != 0 {
		t.Errorf("after it was adopted: %+v", all)
	}
	if r := renewed(t, s, 1); r.State != signing.Completed {
		t.Errorf("%+v", r.Failure)
	}
	trusted(t, e, one, stray)
}

func TestARenewalSignsNothingThatOthersPutInMeanwhile(t *testing.T) {
	e := trusting(t, nil, monthly)
	var armed atomic.Int32
	var one, stray signing.Artifact
	var s *testenv.Service
	e.Trust.Server.Before = func(_ http.ResponseWriter, r *http.Request) bool {
		// The third look, after that of the job and that of the decision, is for the bytes.
		if armed.Load() > 0 && strings.HasSuffix(r.URL.Path, "/timestamp.json") && armed.Add(-1) == 0 {
			stranger(t, e, s, stray)
		}
		return false
	}
	s = e.Start(nil)
	one, stray = named(e, "payments/web", "v1", "1"), named(e, "payments/web", "v9", "2")
	completed(t, s, "k", one)
	e.Clock.Add(int64(21 * 24 * time.Hour))
	armed.Store(3)
	ok(t, s.Workflow.RenewDue(t.Context()))
	r := renewed(t, s, 1)
	if armed.Load() != 0 || r.State != signing.Failed || !strings.Contains(r.Failure.Found, "v9") || e.KeyUses() != 1 {
		t.Errorf("%d %s %+v, %d key uses", armed.Load(), r.State, r.Failure, e.KeyUses())
	}
}

func TestAKeyThatMayNoLongerSignRenewsNothing(t *testing.T) {
	e := trusting(t, nil, monthly)
	s := e.Start(nil)
	one := named(e, "payments/web", "v1", "1")
	completed(t, s, "k", one)
	s.Stop()
	e.Options.Policy = testenv.PolicySigning("- {method: cosign, key: release}\n")
	s = e.Start(nil)
	e.Clock.Add(int64(21 * 24 * time.Hour))
	ok(t, s.Workflow.RenewDue(t.Context()))
	if all := s.Workflow.Endings(); len(all) != 1 || !strings.Contains(all[0].Failure, "does not sign") || len(renewals(t, s)) != 0 {
		t.Errorf("%+v", all)
	}
}
