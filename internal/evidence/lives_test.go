package evidence_test

import (
	"context"
	"net/http"
	"regexp"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/evidence"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

// TestEvidenceOfEveryEndVerifies has a Request come to each of its ends.
func TestEvidenceOfEveryEndVerifies(t *testing.T) {
	world := testenv.NewWorld(t, true)
	for name, life := range map[string]struct {
		run  func(t *testing.T, e *testenv.Env) (*testenv.Service, string, string)
		want signing.RequestState
	}{
		"denied by a rule": {func(t *testing.T, e *testenv.Env) (*testenv.Service, string, string) {
			job := devworld.NewGitHubJob()
			job.Ref = "refs/heads/feature"
			s := e.Start(nil)
			id, capability := submit(t, e, s, job, e.Image("one"))
			return s, id, capability
		}, signing.RequestDenied},
		"denied before any rule": {func(t *testing.T, e *testenv.Env) (*testenv.Service, string, string) {
			job := devworld.NewGitHubJob()
			job.RepositoryID = "75"
			s := e.Start(nil)
			id, capability := submit(t, e, s, job, e.Image("one"))
			return s, id, capability
		}, signing.RequestDenied},
		"canceled": {func(t *testing.T, e *testenv.Env) (*testenv.Service, string, string) {
			return kept(t, e, func(s *testenv.Service, id string) {
				if a := s.Post("/v1/requests/"+id+"/cancel", e.GitHub(devworld.NewGitHubJob()), "", ""); a.Status != http.StatusOK {
					t.Fatalf("cancel: %d %s", a.Status, a.Body)
				}
			})
		}, signing.Canceled},
		"expired": {func(t *testing.T, e *testenv.Env) (*testenv.Service, string, string) {
			return kept(t, e, func(*testenv.Service, string) { e.Clock.Add(int64(61 * time.Minute)) })
		}, signing.RequestExpired},
		"recognised": {func(t *testing.T, e *testenv.Env) (*testenv.Service, string, string) {
			s := e.Start(nil)
			a := e.Image("one")
			submit(t, e, s, devworld.NewGitHubJob(), a)
			id, capability := submitAs(t, e, s, "again", devworld.NewGitHubJob(), a)
			return s, id, capability
		}, signing.Completed},
		"signed by the second attempt of the key": {func(t *testing.T, e *testenv.Env) (*testenv.Service, string, string) {
			s := e.Start(testenv.NewFaults("key sign#1", testenv.Fails))
			id, capability := submit(t, e, s, devworld.NewGitHubJob(), e.Image("one"))
			if e.KeyUses() != 1 {
				t.Errorf("%d key uses", e.KeyUses())
			}
			return s, id, capability
		}, signing.Completed},
		"failed with one image signed and one not": {func(t *testing.T, e *testenv.Env) (*testenv.Service, string, string) {
			one, two := e.Image("one"), e.Image("two")
			rule := world.Registry.Add(devworld.Rule{Method: http.MethodPut, Path: regexp.MustCompile("/manifests/sha256-" + two.Digest.Hex() + ".sig$"), Status: http.StatusForbidden})
			t.Cleanup(rule.Remove)
			s := e.Start(nil)
			id, capability := submit(t, e, s, devworld.NewGitHubJob(), one, two)
			return s, id, capability
		}, signing.Failed},
	} {
		t.Run(name, func(t *testing.T) {
			e := testenv.New(t, testenv.Options{World: world})
			s, id, capability := life.run(t, e)
			sample := sample{raw: take(t, s, id, capability, ""), signer: e.LogSigner()}
			got := sample.content(t).Request
			if got.State != life.want {
				t.Errorf("ended %s: %+v", got.State, got.Failure)
			}
			everyStatement(t, sample, sample.options())
		})
	}
}

// kept submits, does something while the registry does not answer, and waits for
// the end.
func kept(t *testing.T, e *testenv.Env, do func(s *testenv.Service, id string)) (*testenv.Service, string, string) {
	t.Helper()
	a := e.Image(t.Name())
	rule := e.World.Registry.Add(devworld.Rule{Path: regexp.MustCompile("/manifests/" + string(a.Digest) + "$"), Status: http.StatusServiceUnavailable})
	t.Cleanup(rule.Remove)
	s := e.Start(nil)
	answer := s.Post("/v1/requests", e.GitHub(devworld.NewGitHubJob()), "k", testenv.Body("release", a))
	var r struct {
		ID    string               `json:"id"`
		State signing.RequestState `json:"state"`
	}
	answer.JSON(t, &r)
	capability := answer.Header.Get("Sealwright-Capability")
	do(s, r.ID)
	for i := 0; !r.State.Terminal() && i < 1000; i++ {
		time.Sleep(10 * time.Millisecond)
		s.Get("/v1/requests/"+r.ID, capability).JSON(t, &r)
	}
	return s, r.ID, capability
}

func TestEvidenceIsForTheHolderOfTheCapabilityOfWhatIsOver(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	a := e.Image("one")
	hold := e.World.Registry.Add(devworld.Rule{Path: regexp.MustCompile("/manifests/" + string(a.Digest) + "$"), Hold: true})
	s := e.Start(nil)
	answer := s.Post("/v1/requests", e.GitHub(devworld.NewGitHubJob()), "k", testenv.Body("release", a))
	var r struct {
		ID    string               `json:"id"`
		State signing.RequestState `json:"state"`
	}
	answer.JSON(t, &r)
	capability := answer.Header.Get("Sealwright-Capability")
	<-hold.Arrived()
	path := "/v1/requests/" + r.ID + "/evidence"
	wants := func(what string, status int, path, capability string) {
		t.Helper()
		if a := s.Get(path, capability); a.Status != status {
			t.Errorf("%s: %d %s", what, a.Status, a.Body)
		}
	}
	wants("before the end", http.StatusConflict, path, capability)
	hold.Release()
	for i := 0; !r.State.Terminal() && i < 1000; i++ {
		time.Sleep(10 * time.Millisecond)
		s.Get("/v1/requests/"+r.ID, capability).JSON(t, &r)
	}
	wants("before a checkpoint covers the end", http.StatusServiceUnavailable, path, capability)
	ok(t, s.Workflow.Sequence(context.Background()))
	wants("nobody", http.StatusUnauthorized, path, "")
	wants("the wrong capability", http.StatusNotFound, path, capability[:len(capability)-2]+"xx")
	wants("another size than a number", http.StatusBadRequest, path+"?since=-1", capability)
	wants("the holder", http.StatusOK, path, capability)
}

func TestAlarmsAreReported(t *testing.T) {
	s := signed(t)
	e := s.content(t)
	logged(t, s.signer, e, func(events []audit.Event) []audit.Event {
		i := at(events, audit.RequestCompleted)
		return append(events[:i:i], audit.Event{Time: events[i].Time, Kind: audit.TamperDetected, Request: e.Request.ID, Attrs: map[string]string{"table": "tasks"}}, events[i])
	})
	r, err := evidence.Verify(s.resigned(t, e), s.options())
	ok(t, err)
	if len(r.Alarms) != 1 {
		t.Errorf("alarms: %v", r.Alarms)
	}
}
