package workflow_test

import (
	"context"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

// submit asks for signatures over HTTP and returns the request and its capability.
func submit(t *testing.T, s *testenv.Service, idempotency string, artifacts ...signing.Artifact) (api.Request, string) {
	t.Helper()
	a := s.Post("/v1/requests", s.Env.GitHub(devworld.NewGitHubJob()), idempotency, testenv.Body("release", artifacts...))
	if a.Status != http.StatusCreated && a.Status != http.StatusOK {
		t.Fatalf("submission answered %d: %s", a.Status, a.Body)
	}
	var r api.Request
	a.JSON(t, &r)
	return r, a.Header.Get(api.HeaderCapability)
}

// finish waits until the request is over.
func finish(t *testing.T, s *testenv.Service, id, capability string) api.Request {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	version := "0"
	for ctx.Err() == nil {
		a := s.Get("/v1/requests/"+id+"?wait=10s&version="+version, capability)
		if a.Status != http.StatusOK {
			t.Fatalf("reading answered %d: %s", a.Status, a.Body)
		}
		var r api.Request
		a.JSON(t, &r)
		if r.State.Terminal() {
			return r
		}
		version = itoa(r.Version)
	}
	t.Fatalf("request %s is not over in a minute", id)
	return api.Request{}
}

func TestAJobOnMainGetsOneVerifiedSignature(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	s := e.Start(nil)
	a := e.Image("one")
	r, capability := submit(t, s, "k", a)
	r = finish(t, s, r.ID, capability)
	if r.State != signing.Completed {
		t.Fatalf("%+v", r)
	}
	if n := e.Signatures(a); n != 1 || e.KeyUses() != 1 {
		t.Errorf("%d signatures, %d key uses", n, e.KeyUses())
	}
	for _, ev := range s.VerifyLog() {
		t.Log(ev)
	}
	for _, step := range s.Faults.Steps() {
		t.Log(step)
	}
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
