package evidence_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/evidence"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// submit submits and waits for the end.
func submit(t testing.TB, e *testenv.Env, s *testenv.Service, job devworld.GitHubJob, artifacts ...signing.Artifact) (id, capability string) {
	t.Helper()
	return submitAs(t, e, s, t.Name(), job, artifacts...)
}

func submitAs(t testing.TB, e *testenv.Env, s *testenv.Service, idempotency string, job devworld.GitHubJob, artifacts ...signing.Artifact) (id, capability string) {
	t.Helper()
	a := s.Post("/v1/requests", e.GitHub(job), idempotency, testenv.Body("release", artifacts...))
	if a.Status != http.StatusCreated {
		t.Fatalf("submitting: %d %s", a.Status, a.Body)
	}
	var r struct {
		ID    string               `json:"id"`
		State signing.RequestState `json:"state"`
	}
	a.JSON(t, &r)
	capability = a.Header.Get("Sealwright-Capability")
	for r.State != "" && !r.State.Terminal() {
		s.Get("/v1/requests/"+r.ID+"?wait=200ms&version=1", capability).JSON(t, &r)
	}
	return r.ID, capability
}

// take returns the evidence file of a Request.
func take(t testing.TB, s *testenv.Service, id, capability, query string) []byte {
	t.Helper()
	ok(t, s.Workflow.Sequence(context.Background()))
	a := s.Get("/v1/requests/"+id+"/evidence"+query, capability)
	if a.Status != http.StatusOK {
		t.Fatalf("evidence: %d %s", a.Status, a.Body)
	}
	return a.Body
}

func logKey(t testing.TB, s *testenv.Service) string {
	t.Helper()
	return string(s.Get("/v1/trust/log", "").Body)
}

func TestEvidenceOfASignedRequestVerifiesOffline(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	s := e.Start(nil)
	id, capability := submit(t, e, s, devworld.NewGitHubJob(), e.Image("one"), e.Image("two"))
	raw := take(t, s, id, capability, "")
	key := logKey(t, s)
	s.Stop()
	r, err := evidence.Verify(raw, evidence.Options{LogKey: key, Envelope: testenv.CheckEnvelope})
	ok(t, err)
	t.Logf("%d bytes, %d events", len(raw), len(r.Events))
	if r.Evidence.Request.ID != id || r.Evidence.Request.State != signing.Completed || len(r.Evidence.Tasks) != 2 || len(r.Alarms) > 0 || r.Fresh {
		t.Errorf("got %+v", r)
	}
}
