package submit_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/submit"
	"github.com/sealwright/sealwright/internal/testenv"
)

func TestAJobPublishesItselfWhatTheServiceSigned(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	s := e.Start(nil)
	a := e.Image("by the client")
	j := newJob(t, s)
	if code := j.run(string(a.Repository)+"@"+string(a.Digest), "--publish", "client", "--tags-after", "v1"); code != submit.ExitOK {
		t.Fatalf("exit code %d\n%s", code, j.log())
	}
	if n := e.Signatures(a); n != 1 || e.KeyUses() != 1 {
		t.Errorf("%d signatures, %d key uses", n, e.KeyUses())
	}
	if j.names(a.Repository, "v1") != string(a.Digest) {
		t.Error("the tag was not moved")
	}
	if n := s.VerifyEvidence(); n != 1 {
		t.Errorf("evidence of %d requests", n)
	}
	count := map[string]int{}
	for _, ev := range s.VerifyLog() {
		count[ev.Kind]++
	}
	if count[audit.TaskReleased] != 1 || count[audit.TaskPublished] != 1 || count[audit.TaskDelivered] != 0 || count[audit.RequestCompleted] != 1 {
		t.Errorf("events: %v", count)
	}
	for _, step := range s.Faults.Steps() {
		if strings.HasPrefix(step, "registry PUT") || strings.HasPrefix(step, "registry POST") {
			t.Errorf("the service wrote: %s", step)
		}
	}
}

func TestWhatTheServiceCannotReadIsDeliveredAndSaidToBe(t *testing.T) {
	e := testenv.New(t, testenv.Options{NoRegistry: true})
	s := e.Start(nil)
	a := e.Image("out of reach")
	j := newJob(t, s)
	if code := j.run(string(a.Repository)+"@"+string(a.Digest), "--publish", "client"); code != submit.ExitOK {
		t.Fatalf("exit code %d\n%s", code, j.log())
	}
	if n := e.Signatures(a); n != 1 {
		t.Errorf("%d signatures", n)
	}
	for where, text := range map[string]string{"log": j.log(), "summary": j.file("summary"), "outputs": j.file("outputs")} {
		if !strings.Contains(text, "delivered") {
			t.Errorf("the %s does not say delivered:\n%s", where, text)
		}
	}
	if !strings.Contains(j.file("outputs"), "SEALWRIGHT_DELIVERED=true") || !strings.Contains(j.log(), "the service could not read it back") {
		t.Errorf("%s\n%s", j.file("outputs"), j.log())
	}
	if n := s.VerifyEvidence(); n != 1 {
		t.Errorf("evidence of %d requests", n)
	}
	count := map[string]int{}
	for _, ev := range s.VerifyLog() {
		count[ev.Kind]++
	}
	if count[audit.TaskDelivered] != 1 || count[audit.TaskPublished] != 0 {
		t.Errorf("events: %v", count)
	}
	for _, step := range s.Faults.Steps() {
		if strings.HasPrefix(step, "registry") {
			t.Errorf("the service spoke to a registry: %s", step)
		}
	}
}

func TestImagesThatTheServiceCannotReadAreNotSignedWithoutTheirContent(t *testing.T) {
	e := testenv.New(t, testenv.Options{NoRegistry: true})
	s := e.Start(nil)
	a := e.Image("out of reach")
	j := newJob(t, s)
	if code := j.run(string(a.Repository) + "@" + string(a.Digest)); code != submit.ExitDenied || e.KeyUses() != 0 {
		t.Errorf("exit code %d, %d key uses", code, e.KeyUses())
	}
}

func TestACanceledRequestOfAClientIsOverAtOnce(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	s := e.Start(nil)
	a := e.Image("canceled")
	j := newJob(t, s)
	j.faults = testenv.NewFaults("service GET request/envelopes#1", testenv.DiesBefore)
	j.run(string(a.Repository)+"@"+string(a.Digest), "--publish", "client")
	j.faults = nil
	// The process is dead and withdraws nothing; the run does.
	list := j.lastRequest()
	if r := j.cancel(list); r.State != signing.Failed && r.State != signing.Signing {
		t.Errorf("canceled: %+v", r)
	}
	if r := j.ended(list); r.State != signing.Failed || e.Signatures(a) != 0 {
		t.Errorf("%s with %d signatures", r.State, e.Signatures(a))
	}
}

func TestAWaitingApprovalIsWarnedAboutWhereOnlyTheJobCanPublish(t *testing.T) {
	for name, c := range map[string]struct {
		publish string
		step    func(*signing.Request, []signing.Task) []signing.Task
		warned  int
	}{
		"client, people are asked":       {"client", becomes(signing.AwaitingApproval, signing.Queued), 1},
		"client, the decision asks them": {"client", needsApproval, 1},
		"service, people are asked":      {"service", becomes(signing.AwaitingApproval, signing.Queued), 0},
		"client, nobody is asked":        {"client", becomes(signing.Ready, signing.Queued), 0},
	} {
		w := newWorld(t)
		w.env["INPUT_IMAGES"] = newRegistry(t, "").byDigest()
		w.steps = append([]func(*signing.Request, []signing.Task) []signing.Task{c.step, c.step}, becomes(signing.Completed, signing.Published))
		if code := w.main(t.Context(), "--publish", c.publish); code != submit.ExitOK {
			t.Errorf("%s: exit code %d\n%s", name, code, w.out.String())
		}
		for _, text := range []string{"warning: approval may come after this job has ended", "::warning title=Sealwright%3A approval may come after this job has ended::"} {
			if n := strings.Count(w.out.String(), text); n != c.warned {
				t.Errorf("%s: warned %d times, want %d:\n%s", name, n, c.warned, w.out.String())
			}
		}
	}
}

// needsApproval is a decision that waits for people, in a state of today.
func needsApproval(r *signing.Request, tasks []signing.Task) []signing.Task {
	r.Decision = &signing.Decision{Effect: signing.NeedsApproval, Reasons: signing.Reason{Rule: "policies.release", Pass: true}}
	return becomes(signing.Ready, signing.Queued)(r, tasks)
}

func TestTheJobWritesNothingThatIsNotItsImages(t *testing.T) {
	w, r := newWorld(t), newRegistry(t, "")
	w.env["INPUT_IMAGES"] = r.byDigest()
	w.steps = []func(*signing.Request, []signing.Task) []signing.Task{becomes(signing.Signing, signing.Signed)}
	w.before = func(rw http.ResponseWriter, req *http.Request) bool {
		if !strings.HasSuffix(req.URL.Path, "/envelopes") {
			return false
		}
		rw.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(rw, `{"envelopes":[{"task":"%s.1","attachment":{"subject":{"repository":"%s/payments/other","digest":%q},"tag":"latest","layers":[{"mediaType":"x/y","bytes":"e30="}]}}]}`, requestID, r.host, r.digest)
		return true
	}
	w.check(w.main(t.Context(), "--publish", "client"), submit.ExitVerifier, "wants something written that is no task of this request")
	for _, asked := range r.asked {
		if !strings.HasPrefix(asked, "GET ") {
			t.Errorf("the job sent %s", asked)
		}
	}
}

func TestAServiceThatDeliversWhatItShouldPublishIsFoundOut(t *testing.T) {
	w := newWorld(t)
	w.steps = []func(*signing.Request, []signing.Task) []signing.Task{func(r *signing.Request, tasks []signing.Task) []signing.Task {
		tasks = becomes(signing.Completed, signing.Published)(r, tasks)
		tasks[0].State = signing.Delivered
		return tasks
	}}
	w.check(w.main(t.Context()), submit.ExitVerifier, "the service says completed, but task")
}
