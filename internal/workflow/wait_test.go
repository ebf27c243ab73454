package workflow_test

import (
	"database/sql"
	"net/http"
	"regexp"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

func TestAWaitTakesTheTimeItWasGivenAndSeesTheNews(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	s := e.Start(nil)
	r, capability := submit(t, s, "k", e.Image("one"))
	r = finish(t, s, r.ID, capability)
	// A request that is over is answered at once, whatever the version.
	began := time.Now()
	if a := s.Get("/v1/requests/"+r.ID+"?wait=50s&version="+itoa(r.Version), capability); a.Status != http.StatusOK {
		t.Fatalf("%d: %s", a.Status, a.Body)
	}
	if took := time.Since(began); took > 25*time.Second {
		t.Errorf("the answer took %s", took)
	}
}

// Strangers may wait for requests that do not exist; nothing may stay of them.
func TestEndlessDataWaitersAreForgotten(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	s := e.Start(nil)
	r, capability := submit(t, s, "k", e.Image("one"))
	finish(t, s, r.ID, capability)
	for range 20 {
		if a := s.Get("/v1/requests/sr_0000000000000000?wait=10ms", capability); a.Status != http.StatusNotFound {
			t.Fatalf("%d: %s", a.Status, a.Body)
		}
	}
	if n := s.Workflow.Waiters(); n != 0 {
		t.Errorf("%d waiters are remembered", n)
	}
}

func TestARequestWhoseJobWasDeletedStillComesToAnEnd(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	s := e.Start(nil)
	hold := e.World.Registry.Add(devworld.Rule{Method: http.MethodGet, Path: regexp.MustCompile("/manifests/"), Status: http.StatusServiceUnavailable})
	r, capability := submit(t, s, "k", e.Image("one"))
	for r.Failure == nil { // it is seen to wait for the registry
		s.Get("/v1/requests/"+r.ID+"?wait=100ms&version="+itoa(r.Version), capability).JSON(t, &r)
	}
	s.Stop()
	edit(t, e, "DELETE FROM jobs")
	hold.Remove()
	e.Clock.Add(int64(2 * time.Hour))
	s = e.Start(nil)
	if err := s.Workflow.Revive(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The capability died with the deadline; the log tells.
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		for _, ev := range s.VerifyLog() {
			if ev.Kind == audit.RequestExpired && ev.Request == r.ID {
				return
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("request %s did not end (capability %d bytes)", r.ID, len(capability))
}

// edit changes the database of a stopped service.
func edit(t *testing.T, e *testenv.Env, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite3", e.Database())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(statement); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// A Request that this process works on is answered from memory: the capability
// counts there as it does in the database.
func TestReplacedCapabilityOfARequestInHandIsRefused(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	a := e.Image("one")
	hold := e.World.Registry.Add(held("GET", a))
	defer hold.Remove()
	s := e.Start(nil)
	r, first := submit(t, s, "k", a)
	<-hold.Arrived()
	read := func(capability string) int {
		return s.Get("/v1/requests/"+r.ID+"?wait=10ms&version="+itoa(r.Version), capability).Status
	}
	if got := read(first); got != http.StatusOK {
		t.Errorf("the capability answered %d", got)
	}
	if got := read("sc_" + first); got != http.StatusNotFound {
		t.Errorf("a wrong capability answered %d", got)
	}
	again, second := submit(t, s, "k", a)
	if again.ID != r.ID {
		t.Fatalf("another request, %s", again.ID)
	}
	if got := read(first); got != http.StatusNotFound {
		t.Errorf("the capability that was replaced answered %d", got)
	}
	hold.Release()
	if r = finish(t, s, r.ID, second); r.State != signing.Completed {
		t.Errorf("ended %s: %+v", r.State, r.Failure)
	}
}

// What a job is told never goes back, whoever wrote last.
func TestAnswersToAJobThatWaitsNeverGoBack(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	s := e.Start(nil)
	r, capability := submit(t, s, "k", e.Image("one"), e.Image("two"))
	for !r.State.Terminal() {
		before := r.Version
		s.Get("/v1/requests/"+r.ID+"?wait=1ms&version="+itoa(r.Version), capability).JSON(t, &r)
		if r.Version < before {
			t.Fatalf("version %d after %d", r.Version, before)
		}
	}
}

// What another process writes is noticed at the next look, since nobody here tells
// of it: a row that nobody but the service may write, in this case.
func TestAChangeByAnotherProcessIsToldToWhoWaits(t *testing.T) {
	e := testenv.New(t, testenv.Options{Poll: 20 * time.Millisecond})
	a := e.Image("one")
	hold := e.World.Registry.Add(held("GET", a))
	defer hold.Remove()
	s := e.Start(nil)
	r, capability := submit(t, s, "k", a)
	<-hold.Arrived()
	told := make(chan int, 1)
	go func() {
		told <- s.Get("/v1/requests/"+r.ID+"?wait=50s&version="+itoa(r.Version), capability).Status
	}()
	time.Sleep(300 * time.Millisecond) // so that it has read the Request and waits
	edit(t, e, "UPDATE requests SET version = version + 1000")
	select {
	case status := <-told:
		if status != http.StatusForbidden {
			t.Errorf("told %d", status)
		}
	case <-time.After(25 * time.Second):
		t.Error("not told")
	}
	hold.Release()
}
