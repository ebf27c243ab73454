package workflow_test

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

// stage is a place in the cycle where the registry can keep a request.
type stage struct {
	state signing.RequestState
	rule  func(a signing.Artifact) devworld.Rule
}

func manifest(ref string) devworld.Rule {
	return devworld.Rule{Path: regexp.MustCompile("/manifests/" + regexp.QuoteMeta(ref) + "$")}
}

func stages() map[string]stage {
	return map[string]stage{
		"pending": {signing.Pending, func(a signing.Artifact) devworld.Rule { return manifest(string(a.Digest)) }},
		"ready":   {signing.Ready, func(a signing.Artifact) devworld.Rule { return manifest(a.Tag) }},
		"signing": {signing.Signing, func(a signing.Artifact) devworld.Rule { return manifest("sha256-" + a.Digest.Hex() + ".sig") }},
	}
}

// tagged pushes an image under a tag of its own that is to be signed along.
func tagged(t *testing.T, e *testenv.Env) signing.Artifact {
	t.Helper()
	tag := "v1-" + strings.ToLower(regexp.MustCompile(`[^A-Za-z0-9]+`).ReplaceAllString(t.Name(), "-"))
	a := e.ImageIn("payments/web", tag, t.Name())
	a.Tag = tag
	return a
}

func untagged(t *testing.T, e *testenv.Env) signing.Artifact { return e.Image(t.Name()) }

// attempts makes sure that nothing is left behind and counts the announced uses
// of keys.
func attempts(t *testing.T, e *testenv.Env, s *testenv.Service) (n int) {
	t.Helper()
	th := steal(t, e)
	for _, table := range []string{"leases", "jobs"} {
		eventually(t, "no "+table, func() bool { return th.count("SELECT count(*) FROM "+table) == 0 })
	}
	for _, ev := range s.VerifyLog() {
		if ev.Kind == audit.KeyAttempt {
			n++
		}
	}
	return n
}

func cancel(s *testenv.Service, j devworld.GitHubJob, id string) testenv.Answer {
	return s.Post("/v1/requests/"+id+"/cancel", s.Env.GitHub(j), "", "")
}

func TestCanceledRequestIsNotSignedWhereverItIs(t *testing.T) {
	world := testenv.NewWorld(t, true)
	for name, at := range stages() {
		t.Run(name, func(t *testing.T) {
			e := testenv.New(t, testenv.Options{World: world})
			a := tagged(t, e)
			rule := at.rule(a)
			rule.Hold = true
			hold := world.Registry.Add(rule)
			defer hold.Remove()
			s := e.Start(nil)
			r, capability := submit(t, s, "k", a)
			<-hold.Arrived()
			if got, _, err := state(t, s, r.ID); err != nil || got.State != at.state {
				t.Fatalf("%v %v", got, err)
			}
			other := devworld.NewGitHubJob()
			other.RunID = "1"
			if ans := cancel(s, other, r.ID); ans.Status != http.StatusNotFound {
				t.Errorf("another run's cancel answered %d: %s", ans.Status, ans.Body)
			}
			ans := cancel(s, devworld.NewGitHubJob(), r.ID)
			if ans.Status != http.StatusOK {
				t.Fatalf("cancel answered %d: %s", ans.Status, ans.Body)
			}
			want := signing.Canceled
			if at.state == signing.Signing {
				want = signing.Failed // "canceled" is for what was not begun
			}
			hold.Release()
			if r = finish(t, s, r.ID, capability); r.State != want {
				t.Errorf("ended %s: %+v", r.State, r.Failure)
			}
			quiet(t, e, s)
			if again, _, err := state(t, s, r.ID); err != nil || again.State != want || e.KeyUses() != 0 {
				t.Errorf("%v, %v, %d key uses", again, err, e.KeyUses())
			}
			if ans := cancel(s, devworld.NewGitHubJob(), r.ID); ans.Status != http.StatusConflict {
				t.Errorf("cancel of what is over answered %d: %s", ans.Status, ans.Body)
			}
			unharmed(t, e, s, 0, a)
		})
	}
	t.Run("signed", func(t *testing.T) {
		// The key was used: what it made is published, and nothing else.
		e := testenv.New(t, testenv.Options{World: world})
		a := e.Image(t.Name())
		hold := world.Registry.Add(held("PUT", a))
		defer hold.Remove()
		s := e.Start(nil)
		r, capability := submit(t, s, "k", a)
		<-hold.Arrived()
		if ans := cancel(s, devworld.NewGitHubJob(), r.ID); ans.Status != http.StatusOK {
			t.Fatalf("cancel answered %d: %s", ans.Status, ans.Body)
		}
		hold.Release()
		if r = finish(t, s, r.ID, capability); r.State != signing.Completed || !r.CancelRequested || e.Signatures(a) != 1 {
			t.Errorf("ended %s with %d signatures", r.State, e.Signatures(a))
		}
		quiet(t, e, s)
	})
}

func TestDeadlineEndsARequestWhereverItWaits(t *testing.T) {
	world := testenv.NewWorld(t, true)
	for name, at := range stages() {
		t.Run(name, func(t *testing.T) {
			e := testenv.New(t, testenv.Options{World: world})
			a := tagged(t, e)
			rule := at.rule(a)
			rule.Status = http.StatusServiceUnavailable
			down := world.Registry.Add(rule)
			defer down.Remove()
			s := e.Start(nil)
			r, capability := submit(t, s, "k", a)
			eventually(t, "a request that says why it waits", func() bool {
				got, _, err := state(t, s, r.ID)
				return err == nil && got.State == at.state && got.Failure != nil
			})
			e.Clock.Add(int64(61 * time.Minute))
			want, code := signing.RequestExpired, signing.Unavailable // what kept it from being decided
			if at.state == signing.Signing {
				want, code = signing.Failed, signing.Expired
			}
			if r = finish(t, s, r.ID, capability); r.State != want || r.Failure == nil || r.Failure.Code != code {
				t.Errorf("ended %s: %+v", r.State, r.Failure)
			}
			quiet(t, e, s)
			if n := e.KeyUses(); n != 0 {
				t.Errorf("%d key uses", n)
			}
		})
	}
	t.Run("between preparation and key", func(t *testing.T) {
		e := testenv.New(t, testenv.Options{World: world})
		a := e.Image(t.Name())
		id, capability := diesAfter(t, e, "store prepare#1", a)
		e.Clock.Add(int64(61 * time.Minute))
		s := e.Start(nil)
		if r := finish(t, s, id, capability); r.State != signing.Failed || r.Failure == nil || r.Failure.Code != signing.Expired || e.KeyUses() != 0 {
			t.Errorf("ended %s after %d key uses: %+v", r.State, e.KeyUses(), r.Failure)
		}
	})
	t.Run("between key and publication", func(t *testing.T) {
		e := testenv.New(t, testenv.Options{World: world})
		a := e.Image(t.Name())
		id, capability := diesAfter(t, e, "store signed#1", a)
		e.Clock.Add(int64(61 * time.Minute))
		s := e.Start(nil)
		if r := finish(t, s, id, capability); r.State != signing.Completed || e.KeyUses() != 1 || e.Signatures(a) != 1 {
			t.Errorf("ended %s after %d key uses: %+v", r.State, e.KeyUses(), r.Failure)
		}
	})
}

func TestIntentThatNoKeyWasAskedForIsMadeAnewAfterTenMinutes(t *testing.T) {
	world := testenv.NewWorld(t, true)
	// The first commit announces the use of the key for 64 of them.
	const images = 65
	for _, c := range []struct {
		after    time.Duration
		requeued int
	}{{9 * time.Minute, 0}, {11 * time.Minute, 1}} {
		e := testenv.New(t, testenv.Options{World: world})
		var all []signing.Artifact
		for i := range images {
			all = append(all, e.Image(t.Name()+c.after.String()+itoa(int64(i))))
		}
		id, capability := diesAfter(t, e, "store prepare#1", all...)
		e.Clock.Add(int64(c.after))
		s := e.Start(nil)
		if r := finish(t, s, id, capability); r.State != signing.Completed {
			t.Errorf("ended %s: %+v", r.State, r.Failure)
		}
		_, tasks, err := state(t, s, id)
		ok(t, err)
		for i, task := range tasks {
			fresh := e.Now().Sub(task.Intent.Created) < c.after
			if fresh != (i == images-1 && c.requeued == 1) {
				t.Errorf("after %s: the intent of task %d is of %s", c.after, i+1, task.Intent.Created)
			}
			if n := e.Signatures(all[i]); n != 1 {
				t.Errorf("%d signatures of image %d", n, i)
			}
		}
		count := map[string]int{}
		for _, ev := range s.VerifyLog() {
			count[ev.Kind]++
		}
		if count[audit.TaskRequeued] != c.requeued || e.KeyUses() != images || count[audit.KeyAttempt] != images+signBatch {
			t.Errorf("after %s: requeued %d times, %d key uses, %d attempts", c.after, count[audit.TaskRequeued], e.KeyUses(), count[audit.KeyAttempt])
		}
	}
}

// signBatch is that of the workflow.
const signBatch = 64

// TestChangedBasisIsNeverSigned: policy or key change while a request is
// between its decision and the use of the key.
func TestChangedBasisIsNeverSigned(t *testing.T) {
	world := testenv.NewWorld(t, true)
	changes := map[string]func(*testing.T, *testenv.Env){
		"policy": func(_ *testing.T, e *testenv.Env) {
			// The request would still be allowed; but not by what was decided.
			e.Options.Policy = strings.Replace(testenv.Policy, "events: [push, release]", "events: [push]", 1)
		},
		"policy gone": func(_ *testing.T, e *testenv.Env) {
			e.Options.Policy = strings.Replace(testenv.Policy, "  release:", "  stable:", 1)
		},
		"key": func(t *testing.T, e *testenv.Env) { ok(t, os.Remove(filepath.Join(e.Dir, "release.key"))) },
		// Not in the basis: the owner of the key may withdraw it at any time.
		"scope of the key": func(_ *testing.T, e *testenv.Env) {
			e.Options.Keys = strings.Replace(twoKeys, "require: {protected_ref: true}", "require: {approvals: 1}", 1)
		},
	}
	for name, change := range changes {
		for _, at := range []struct {
			step     string
			image    func(*testing.T, *testenv.Env) signing.Artifact
			want     signing.RequestState
			attempts int // committed before the change, for keys that are not asked
		}{
			{"store allow#1", tagged, signing.RequestDenied, 0}, {"store begin#1", tagged, signing.Failed, 0},
			{"store allow#1", untagged, signing.Failed, 0}, {"store prepare#1", untagged, signing.Failed, 1},
		} {
			t.Run(name+" after "+at.step, func(t *testing.T) {
				t.Parallel()
				e := testenv.New(t, testenv.Options{World: world})
				a, want := at.image(t, e), at.want
				id, capability := diesAfter(t, e, at.step, a)
				change(t, e)
				s := e.Start(nil)
				r := finish(t, s, id, capability)
				if r.State != want || r.Failure == nil || name != "scope of the key" && !strings.Contains(r.Failure.Found, "policy_changed") {
					t.Errorf("ended %s: %+v", r.State, r.Failure)
				}
				if n := attempts(t, e, s); n != at.attempts || e.KeyUses() != 0 || e.Signatures(a) != 0 {
					t.Errorf("%d attempts, %d key uses, %d signatures", n, e.KeyUses(), e.Signatures(a))
				}
			})
		}
	}
	t.Run("pending requests are decided by the new policy", func(t *testing.T) {
		e := testenv.New(t, testenv.Options{World: world})
		a := e.Image(t.Name())
		id, _ := diesAfter(t, e, "store submit#1", a)
		e.Options.Policy = strings.Replace(testenv.Policy, "events: [push, release]", "events: [release]", 1)
		s := e.Start(nil)
		eventually(t, "denied", func() bool {
			r, _, err := state(t, s, id)
			return err == nil && r.State == signing.RequestDenied
		})
		quiet(t, e, s)
	})
}

func TestSignedTagThatMovesBeforeTheKeyIsRefused(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	a := tagged(t, e)
	id, capability := diesAfter(t, e, "store allow#1", a)
	moved := e.ImageIn("payments/web", a.Tag, "moved")
	s := e.Start(nil)
	r := finish(t, s, id, capability)
	if r.State != signing.RequestDenied || r.Failure == nil || r.Failure.Found != string(moved.Digest) {
		t.Errorf("ended %s: %+v", r.State, r.Failure)
	}
	unharmed(t, e, s, 0, a, moved)
	// A tag that still says the same is signed along.
	again := e.ImageIn("payments/web", a.Tag, t.Name())
	again.Tag = a.Tag
	r, capability = submit(t, s, "again", again)
	if r = finish(t, s, r.ID, capability); r.State != signing.Completed || verified(t, s, "release", again) != 1 {
		t.Errorf("ended %s: %+v", r.State, r.Failure)
	}
}
