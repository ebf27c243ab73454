package submit_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/submit"
	"github.com/sealwright/sealwright/internal/testenv"
)

// byClient is a way in which a job publishes itself.
type byClient struct {
	name    string
	options testenv.Options
	ends    string // the kind of event with which its Task ends
}

// TestEveryCallOfClientPublishingMayFailOrBeTheLast is the failure table for jobs
// that publish themselves. An undisturbed run records what the job sends to
// service and registry, and what the service does; then each of them fails, fails
// although it happened, or is the last thing that its process does. A job that
// died runs again, as jobs do. Whatever goes wrong, the request ends in one
// signature.
func TestEveryCallOfClientPublishingMayFailOrBeTheLast(t *testing.T) {
	world := testenv.NewWorld(t, true)
	for _, sc := range []byClient{
		{"published", testenv.Options{World: world, Lease: 2 * time.Second}, audit.TaskPublished},
		{"delivered", testenv.Options{World: world, NoRegistry: true, Lease: 2 * time.Second}, audit.TaskDelivered},
	} {
		t.Run(sc.name, func(t *testing.T) {
			var job, service []string
			t.Run("undisturbed", func(t *testing.T) { job, service = sc.run(t, "", "", "") })
			t.Logf("job: %s\nservice: %s", strings.Join(job, ", "), strings.Join(service, ", "))
			for _, want := range []string{"service PUT request/content#1", "service GET request/envelopes#1", "service POST request/lease#1", "service POST request/published#1", "registry PUT .sig#1"} {
				if !slices.Contains(job, want) {
					t.Errorf("the job's table lacks %s", want)
				}
			}
			for _, want := range []string{"store submit#1", "store content#1", "store signed#1", "store rest#1", "store release envelopes#1", "store client lease#1", "store client published#1", "store conclude#1", "key sign#1"} {
				if !slices.Contains(service, want) {
					t.Errorf("the service's table lacks %s", want)
				}
			}
			modes := []testenv.Mode{testenv.Fails, testenv.FailsButHappened, testenv.DiesAfter}
			for _, step := range job {
				if polls(step) {
					continue
				}
				for _, mode := range append(modes, testenv.DiesBefore) {
					t.Run("job: "+step+" "+string(mode), func(t *testing.T) {
						t.Parallel()
						sc.run(t, step, "", mode)
					})
				}
			}
			for _, step := range service {
				for _, mode := range modes {
					t.Run("service: "+step+" "+string(mode), func(t *testing.T) {
						t.Parallel()
						sc.run(t, "", step, mode)
					})
				}
			}
		})
	}
}

// polls reports whether a step is one of those that come as often as chance wants.
func polls(step string) bool {
	return strings.HasPrefix(step, "service GET request#") && !strings.HasSuffix(step, "#1")
}

// rests are steps whose number depends on who is faster.
func rests(step string) bool {
	return strings.HasPrefix(step, "store rest#") || strings.HasPrefix(step, "store claim#") || polls(step)
}

// run carries a request to its end with one fault on one side, and holds the
// outcome against what is promised. It returns what job and service did.
func (sc byClient) run(t *testing.T, ofJob, ofService string, mode testenv.Mode) (job, service []string) {
	e := testenv.New(t, sc.options)
	a := e.ImageIn("payments/"+pathOf(t), "", t.Name())
	faulty := testenv.NewFaults(ofService, mode)
	s, err := e.TryStart(faulty)
	if err != nil {
		s = e.Start(nil) // the fault was in the start
	}
	j := newJob(t, s)
	j.faults = testenv.NewFaults(ofJob, mode)
	first := j.faults
	// Whoever keeps the service running starts it again.
	over, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-faulty.Died():
			s.Stop()
			s = e.Start(nil)
			j.restarted(s)
		case <-over:
		}
	}()
	args := []string{string(a.Repository) + "@" + string(a.Digest), "--publish", "client"}
	code := submit.ExitError
	for try := 0; try < 4 && code != submit.ExitOK; try++ {
		if try > 0 {
			j.faults = nil
			if try == 1 {
				e.Clock.Add(int64(3 * time.Minute)) // a lease of a process that died runs out
			}
			j.token = e.GitHub(devworld.NewGitHubJob())
		}
		code = j.run(args...)
	}
	close(over)
	<-watched
	if code != submit.ExitOK {
		t.Fatalf("exit code %d\n%s", code, j.log())
	}
	if step := ofJob + ofService; step != "" && !first.Hit() && !faulty.Hit() && !rests(step) {
		t.Fatalf("%s did not come to pass; it is not the same run", step)
	}
	job, service = first.Steps(), faulty.Steps()
	if n := e.Signatures(a); n != 1 {
		t.Errorf("%d signatures in the registry", n)
	}
	id := j.lastRequest()
	count, envelopes := map[string]int{}, map[string]bool{}
	for _, ev := range s.VerifyLog() {
		if ev.Request != id {
			continue
		}
		count[ev.Kind]++
		if ev.Kind == audit.TaskSigned || ev.Kind == audit.TaskReleased {
			envelopes[ev.Attrs["envelope"]] = true
		}
	}
	if uses, attempts := e.KeyUses(), count[audit.KeyAttempt]; uses > attempts || uses < 1 {
		t.Errorf("%d key uses, %d attempts", uses, attempts)
	}
	if len(envelopes) != 1 {
		t.Errorf("%d envelopes: %v", len(envelopes), envelopes)
	}
	want := map[string]int{
		audit.RequestSubmitted: 1, audit.RequestDecided: 1, audit.RequestSigning: 1, audit.RequestCompleted: 1, audit.TaskSigned: 1, audit.TaskReleased: 1,
		audit.RequestFailed: 0, audit.RequestDenied: 0, audit.TaskFailed: 0, audit.TamperDetected: 0, audit.TaskPublished: 0, audit.TaskDelivered: 0,
	}
	want[sc.ends] = 1
	if strings.HasPrefix(ofService, "registry ") && count[audit.TaskDelivered] == 1 {
		want[audit.TaskDelivered], want[audit.TaskPublished] = 1, 0 // the service could not look at that moment
	}
	for kind, n := range want {
		if count[kind] != n {
			t.Errorf("%d events %s, want %d", count[kind], kind, n)
		}
	}
	if t.Failed() {
		t.Logf("%s", j.log())
	}
	return job, service
}

// TestManyJobsThatPublishOnOneDigestLoseNothing lets 16 jobs, half of which
// publish themselves, sign one digest at the same time.
func TestManyJobsThatPublishOnOneDigestLoseNothing(t *testing.T) {
	const writers = 16
	keys, steps := "", ""
	for n := range writers {
		keys += fmt.Sprintf("\n  - id: key-%d\n    file: file:DIR/key-%d.key\n    methods: [cosign]\n    allow: [{project: payments, policy: p%d, repositories: [\"HOST/payments/*\"]}]", n, n, n)
		steps += fmt.Sprintf("  p%d:\n    origin: {refs: [\"refs/heads/main\"], github: {events: [push], workflow: .github/workflows/release.yml}}\n    sign: [{method: cosign, key: key-%d}]\n", n, n)
	}
	head, _, _ := strings.Cut(testenv.Policy, "policies:\n")
	e := testenv.New(t, testenv.Options{Policy: head + "policies:\n" + steps, Keys: keys + "\n"})
	for n := range writers {
		e.MakeKey(fmt.Sprintf("key-%d.key", n))
	}
	s := e.Start(nil)
	a := e.Image("many writers")
	done := make(chan string, writers)
	for n := range writers {
		j := newJob(t, s)
		run := devworld.NewGitHubJob()
		run.RunID = fmt.Sprint(7000 + n)
		j.token = e.GitHub(run)
		who := []string{"client", "service"}[n%4/3] // three of four publish themselves
		go func() {
			if code := j.run(string(a.Repository)+"@"+string(a.Digest), "--policy", fmt.Sprintf("p%d", n), "--publish", who); code != submit.ExitOK {
				done <- fmt.Sprintf("writer %d: exit code %d\n%s", n, code, j.log())
				return
			}
			done <- ""
		}()
	}
	for range writers {
		if text := <-done; text != "" {
			t.Error(text)
		}
	}
	if n := e.Signatures(a); n != writers {
		t.Errorf("%d signatures of %d", n, writers)
	}
	count := map[string]int{}
	for _, ev := range s.VerifyLog() {
		count[ev.Kind]++
	}
	if count[audit.TaskPublished] != writers || count[audit.TaskDelivered] != 0 || count[audit.TaskReleased] != writers*3/4 {
		t.Errorf("events: %v", count)
	}
}
