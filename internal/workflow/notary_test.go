package workflow_test

import (
	"context"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/method/simple"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

// answers makes the notary server answer so what matches, times times.
func answers(e *testenv.Env, method, name string, times int64, status int, body string) *atomic.Int64 {
	var n atomic.Int64
	e.Trust.Server.Before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != method || !strings.Contains(r.URL.Path, "/_trust/tuf/"+name) || n.Add(1) > times {
			return false
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body)) // to our own client
		return true
	}
	return &n
}

// TestANotaryServerThatFailsOrLiesGetsNoSignatureAndStopsNobody is what bad input
// gets from the other end of Docker Content Trust. What may pass is waited for;
// everything else ends the request, with the key unused unless the server is asked
// to take what was signed.
func TestANotaryServerThatFailsOrLiesGetsNoSignatureAndStopsNobody(t *testing.T) {
	world := testenv.NewWorld(t, true)
	const always = 1 << 30
	for name, c := range map[string]struct {
		method, document string
		times            int64
		status           int
		body             string
		state            signing.RequestState
		code             signing.Code
		uses             int
	}{
		"away for a moment":          {http.MethodGet, "timestamp", 3, 503, "", signing.Completed, "", 1},
		"throttles for a moment":     {http.MethodGet, "targets", 2, 429, "", signing.Completed, "", 1},
		"update fails for a moment":  {http.MethodPost, "", 2, 500, "", signing.Completed, "", 1},
		"does not let us in":         {http.MethodGet, "timestamp", always, 403, "", signing.Failed, "", 0},
		"another format":             {http.MethodGet, "timestamp", always, 200, "<html>", signing.Failed, "", 0},
		"an empty answer":            {http.MethodGet, "snapshot", always, 200, "", signing.Failed, "", 0},
		"another document":           {http.MethodGet, "targets", always, 200, `{"signed":{"_type":"Targets","version":9},"signatures":[]}`, signing.Failed, "", 0},
		"names that two readers see": {http.MethodGet, "targets", always, 200, `{"signed":{},"signed":{},"signatures":[]}`, signing.Failed, "", 0},
		"refuses the update":         {http.MethodPost, "", always, 400, `{"errors":[{"code":"INVALID_UPDATE","message":"no"}]}`, signing.Failed, "", 1},
		"may not be written":         {http.MethodPost, "", always, 403, "", signing.Failed, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			e := trusting(t, world)
			s := e.Start(nil)
			before := named(e, "payments/web", "v0", "before")
			completed(t, s, "before", before)
			e.ResetKeyUses()
			asked := answers(e, c.method, c.document, c.times, c.status, c.body)
			a := named(e, "payments/web", "v1", "1")
			r, capability := submit(t, s, "k", a)
			r = finish(t, s, r.ID, capability)
			if r.State != c.state || e.KeyUses() != c.uses || asked.Load() == 0 {
				t.Fatalf("ended %s after %d key uses: %+v", r.State, e.KeyUses(), r.Failure)
			}
			if c.state == signing.Completed {
				trusted(t, e, before, a)
				verifies(t, s)
				return
			}
			if r.Failure == nil || r.Failure.Fix == "" || r.Failure.Code == signing.Internal {
				t.Errorf("said %+v", r.Failure)
			}
			asked.Store(always + 1)
			trusted(t, e, before)
			// A server that has come to reason is signed for.
			completed(t, s, "again", a)
			trusted(t, e, before, a)
			verifies(t, s)
		})
	}
}

// verifies looks at log and evidence where more attempts than signatures are right.
func verifies(t *testing.T, s *testenv.Service) {
	t.Helper()
	if s.VerifyEvidence() == 0 {
		t.Error("nothing is over")
	}
}

// TestAnOlderOrAnotherVersionThanWasSeenIsRefusedAfterARestart: what was seen is in
// the database, and not in the memory of a process.
func TestAnOlderOrAnotherVersionThanWasSeenIsRefusedAfterARestart(t *testing.T) {
	e := trusting(t, nil)
	s := e.Start(nil)
	a := named(e, "payments/web", "v1", "1")
	completed(t, s, "one", a)
	version, digest, err := s.Store.Trust().Seen(t.Context(), string(a.Repository), dct.RoleReleases)
	ok(t, err)
	if version != 1 || digest == "" {
		t.Fatalf("version %d of %s was seen", version, digest)
	}
	// Somebody tells the service of a version that the server does not have.
	ok(t, s.Store.Trust().See(t.Context(), string(a.Repository), dct.RoleReleases, 5, signing.DigestOf(nil)))
	s.Stop()
	s = e.Start(nil)
	r, capability := submit(t, s, "two", named(e, "payments/web", "v2", "2"))
	if r = finish(t, s, r.ID, capability); r.State != signing.Failed || r.Failure.Code != signing.Denied || e.KeyUses() != 1 {
		t.Errorf("ended %s after %d key uses: %+v", r.State, e.KeyUses(), r.Failure)
	}
	trusted(t, e, a)
}

// otherTags and otherImage prepare something else than they are asked for.
type otherTags struct {
	*dct.Method
	change func(*method.Target)
}

func (o otherTags) Prepare(ctx context.Context, t method.Target, now time.Time) (method.Prepared, error) {
	o.change(&t)
	return o.Method.Prepare(ctx, t, now)
}

type otherImage struct {
	*simple.Method
	change func(*method.Target)
}

func (o otherImage) Prepare(ctx context.Context, t method.Target, now time.Time) (method.Prepared, error) {
	o.change(&t)
	return o.Method.Prepare(ctx, t, now)
}

func TestBytesThatChangeAnythingElseNeverReachTheKey(t *testing.T) {
	world := testenv.NewWorld(t, true)
	bind := func(tag, digest string) signing.Change {
		return signing.Change{Tag: tag, Digest: signing.Digest(digest), Size: 7}
	}
	other := string(signing.DigestOf([]byte("other")))
	for name, c := range map[string]struct {
		steps  string
		change func(*method.Target)
		what   string
	}{
		"dct, a tag more":          {testenv.DCT, func(t *method.Target) { t.Changes = append(t.Changes, bind("v9", other)) }, "another changes"},
		"dct, another digest":      {testenv.DCT, func(t *method.Target) { t.Changes = []signing.Change{bind(t.Changes[0].Tag, other)} }, "another changes"},
		"dct, another tag":         {testenv.DCT, func(t *method.Target) { t.Changes = []signing.Change{bind("v9", string(t.Changes[0].Digest))} }, "another changes"},
		"dct, another repository":  {testenv.DCT, func(t *method.Target) { t.Artifact.Repository = replaced(t.Artifact.Repository, "web", "api") }, "another repository"},
		"simple, another digest":   {testenv.Simple, func(t *method.Target) { t.Artifact.Digest = signing.Digest(other) }, "another digest"},
		"simple, another image":    {testenv.Simple, func(t *method.Target) { t.Artifact.Repository = replaced(t.Artifact.Repository, "web", "api") }, "another repository"},
		"simple, another tag":      {testenv.Simple, func(t *method.Target) { t.Artifact.Tag = "v9" }, "another tag"},
		"simple, without the tag":  {testenv.Simple, func(t *method.Target) { t.Artifact.Tag = "" }, "another tag"},
		"dct, what is asked for":   {testenv.DCT, func(*method.Target) {}, ""},
		"simple, what it is asked": {testenv.Simple, func(*method.Target) {}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			e := trusting(t, world, c.steps)
			s := e.Start(nil)
			changed := maps.Clone(s.Workflow.Methods)
			d, okD := changed[dct.Name].(*dct.Method)
			g, okG := changed[simple.Name].(*simple.Method)
			if !okD || !okG {
				t.Fatal("the methods are of other types")
			}
			changed[dct.Name], changed[simple.Name] = otherTags{d, c.change}, otherImage{g, c.change}
			maps.Copy(s.Workflow.Methods, changed) // nothing was submitted yet: nobody reads it
			a := named(e, "payments/web", "v1", "1")
			r, capability := submit(t, s, "k", a)
			r = finish(t, s, r.ID, capability)
			if c.what == "" {
				if r.State != signing.Completed || e.KeyUses() != 1 {
					t.Errorf("ended %s: %+v", r.State, r.Failure)
				}
				return
			}
			if r.State != signing.Failed || !strings.Contains(r.Failure.Message, c.what) {
				t.Errorf("ended %s: %+v", r.State, r.Failure)
			}
			if n := quiet(t, e, s)[audit.KeyAttempt]; n != 0 || e.KeyUses() != 0 {
				t.Errorf("%d attempts, %d key uses", n, e.KeyUses())
			}
		})
	}
}

func replaced(r signing.Repository, old, with string) signing.Repository {
	return signing.Repository(strings.Replace(string(r), old, with, 1))
}

// TestALostLeaseEndsTheWorkUnderItAndTheSameEnvelopeIsPublishedLater: who has lost
// the repository does not go on as if nobody else could write there.
func TestALostLeaseEndsTheWorkUnderItAndTheSameEnvelopeIsPublishedLater(t *testing.T) {
	e := trusting(t, nil)
	e.Options.Lease = 600 * time.Millisecond // renewed every 200 ms
	s := e.Start(nil)
	a := named(e, "payments/web", "v1", "1")
	arrived, gone := make(chan struct{}), make(chan struct{})
	var first atomic.Bool
	e.Trust.Server.Before = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost || !first.CompareAndSwap(false, true) {
			return false
		}
		_, _ = io.Copy(io.Discard, r.Body) // else nobody notices that the client has gone
		close(arrived)
		select {
		case <-r.Context().Done(): // the service hung up
		case <-time.After(20 * time.Second):
			t.Error("the update went on without its lease")
		}
		close(gone)
		return true
	}
	r, capability := submit(t, s, "k", a)
	<-arrived
	th := steal(t, e)
	if n := th.count("SELECT count(*) FROM leases WHERE name = ?", "dct:"+string(a.Repository)); n != 1 {
		t.Errorf("%d leases on the repository while it is signed", n)
	}
	th.exec("UPDATE leases SET owner = 'another', fence = fence + 1000, until = until + 600000000000 WHERE name = ?", "dct:"+string(a.Repository))
	<-gone
	th.exec("DELETE FROM leases WHERE owner = 'another'")
	if r = finish(t, s, r.ID, capability); r.State != signing.Completed || e.KeyUses() != 1 {
		t.Errorf("ended %s after %d key uses: %+v", r.State, e.KeyUses(), r.Failure)
	}
	if version := trusted(t, e, a); version != 1 {
		t.Errorf("version %d", version)
	}
	quiet(t, e, s)
}
