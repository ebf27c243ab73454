package workflow_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/method/notation"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

// many is how many at once the issue asks for.
const many = 16

// manyPolicies returns a policy and a key for each of many signers.
func manyPolicies(e *testenv.Env) (policy, keys string) {
	policy = testenv.Policy
	keys = `
  - id: release
    file: file:DIR/release.key
    methods: [cosign]
    allow: [{project: payments, policy: release, repositories: ["HOST/payments/*"]}]
`
	for i := range many {
		policy += fmt.Sprintf("  p%d: {origin: {refs: [refs/heads/main], ref_protected: true, github: {events: [push], workflow: .github/workflows/release.yml}}, sign: [{method: cosign, key: k%d}]}\n", i, i)
		keys += fmt.Sprintf("  - {id: k%d, file: \"file:DIR/k%d.key\", methods: [cosign], allow: [{project: payments, policy: p%d, repositories: [\"HOST/payments/*\"]}]}\n", i, i, i)
		e.MakeKey(fmt.Sprintf("k%d.key", i))
	}
	return policy, keys
}

// runOf is a job of a run of its own.
func runOf(i int) devworld.GitHubJob {
	j := devworld.NewGitHubJob()
	j.RunID = fmt.Sprint(9100 + i)
	return j
}

// atOnce sends n submissions at the same time and waits until all are over.
func atOnce(t *testing.T, s *testenv.Service, n int, post func(i int) testenv.Answer) []api.Request {
	t.Helper()
	answers := make([]testenv.Answer, n)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			answers[i] = post(i)
		})
	}
	close(start)
	wg.Wait()
	out := make([]api.Request, n)
	for i, ans := range answers {
		if ans.Status != http.StatusCreated {
			t.Fatalf("submission %d answered %d: %s", i, ans.Status, ans.Body)
		}
		ans.JSON(t, &out[i])
		out[i] = finish(t, s, out[i].ID, ans.Header.Get(api.HeaderCapability))
		if out[i].State != signing.Completed {
			t.Errorf("request %d ended %s: %+v", i, out[i].State, out[i].Failure)
		}
	}
	return out
}

// quiet makes sure that nothing is left behind: no lease, no job, no attempt
// that the log does not have. It returns how often each kind of event is there.
func quiet(t *testing.T, e *testenv.Env, s *testenv.Service) map[string]int {
	t.Helper()
	th := steal(t, e)
	for _, table := range []string{"leases", "jobs"} {
		eventually(t, "no "+table, func() bool { return th.count("SELECT count(*) FROM "+table) == 0 })
	}
	count := map[string]int{}
	s.VerifyEvidence()
	for _, ev := range s.VerifyLog() {
		count[ev.Kind]++
	}
	if uses := e.KeyUses(); uses != count[audit.KeyAttempt] || uses != count[audit.TaskSigned] {
		t.Errorf("%d key uses, %d attempts, %d signed", uses, count[audit.KeyAttempt], count[audit.TaskSigned])
	}
	return count
}

// TestManyRequestsAtOnceLoseNothing is run on a registry with the referrers API
// and on one without.
func TestManyRequestsAtOnceLoseNothing(t *testing.T) {
	for _, referrers := range []bool{true, false} {
		world := testenv.NewWorld(t, referrers)
		name := "WithReferrers"
		if !referrers {
			name = "WithoutReferrers"
		}
		for test, run := range map[string]func(*testing.T, *testenv.Env){
			"OneDigestManyKeys": oneDigest, "OneDigestManyKeysEveryFormat": everyFormat, "OneRepositoryManyImages": oneRepository,
			"EqualSubmissionsOfManyRuns": equalRuns, "TheSameSubmissionTwiceAtOnce": sameSubmission,
		} {
			t.Run(name+"/"+test, func(t *testing.T) { run(t, testenv.New(t, testenv.Options{World: world})) })
		}
	}
}

func oneDigest(t *testing.T, e *testenv.Env) {
	e.Options.Policy, e.Options.Keys = manyPolicies(e)
	s := e.Start(nil)
	a := e.Image(t.Name())
	atOnce(t, s, many, func(i int) testenv.Answer {
		return s.Post("/v1/requests", e.GitHub(runOf(i)), "k", testenv.Body(fmt.Sprintf("p%d", i), a))
	})
	if n := e.Signatures(a); n != many {
		t.Errorf("%d signatures in the registry", n)
	}
	for i := range many {
		if n := verified(t, s, fmt.Sprintf("k%d", i), a); n != 1 {
			t.Errorf("%d signatures by key %d", n, i)
		}
	}
	if n := quiet(t, e, s)[audit.TaskPublished]; n != many {
		t.Errorf("%d published", n)
	}
}

// everyFormat signs one digest with many keys in every format that writes to the
// image's registry: a tag, and the list of referrers twice for each.
func everyFormat(t *testing.T, e *testenv.Env) {
	policy, keys := manyPolicies(e)
	for i := range many {
		step := fmt.Sprintf("{method: cosign, key: k%d}", i)
		policy = strings.Replace(policy, step, fmt.Sprintf("{method: cosign, key: k%d, formats: [legacy, bundle]}, {method: notation, key: x%d}", i, i), 1)
		keys += fmt.Sprintf("  - {id: x%d, file: \"file:DIR/x%d.key\", certificates: \"file:DIR/x%d.crt\", methods: [notation], allow: [{project: payments, policy: p%d, repositories: [\"HOST/payments/*\"]}]}\n", i, i, i, i)
		e.MakeCertifiedKey(fmt.Sprintf("x%d", i))
	}
	e.Options.Policy, e.Options.Keys = policy, keys
	s := e.Start(nil)
	a := e.Image(t.Name())
	atOnce(t, s, many, func(i int) testenv.Answer {
		return s.Post("/v1/requests", e.GitHub(runOf(i)), "k", testenv.Body(fmt.Sprintf("p%d", i), a))
	})
	if tags, referrers := e.Signatures(a), e.Referrers(a, notation.ArtifactType); tags != many || referrers != many {
		t.Errorf("%d signatures at the tag, %d of notation", tags, referrers)
	}
	for i := range many {
		if n := verified(t, s, fmt.Sprintf("k%d", i), a); n != 2 { // legacy and bundle
			t.Errorf("%d signatures by key k%d", n, i)
		}
		x, _ := s.Keys.Info(fmt.Sprintf("x%d", i))
		if n, err := notation.New(s.Registry).VerifyImage(t.Context(), a, x); n != 1 || err != nil {
			t.Errorf("%d signatures by key x%d: %v", n, i, err)
		}
	}
	if n := quiet(t, e, s)[audit.TaskPublished]; n != 3*many {
		t.Errorf("%d published", n)
	}
}

func oneRepository(t *testing.T, e *testenv.Env) {
	s := e.Start(nil)
	images := make([]signing.Artifact, many)
	for i := range images {
		images[i] = e.Image(fmt.Sprint(t.Name(), i))
	}
	atOnce(t, s, many, func(i int) testenv.Answer {
		return s.Post("/v1/requests", e.GitHub(runOf(i)), "k", testenv.Body("release", images[i]))
	})
	for i, a := range images {
		if n := e.Signatures(a); n != 1 || verified(t, s, "release", a) != 1 {
			t.Errorf("%d signatures of image %d", n, i)
		}
	}
	if n := quiet(t, e, s)[audit.TaskPublished]; n != many {
		t.Errorf("%d published", n)
	}
}

// equalRuns: some may find the signature of another there and recognise it; who
// signed finds the own one there.
func equalRuns(t *testing.T, e *testenv.Env) {
	s := e.Start(nil)
	a := e.Image(t.Name())
	atOnce(t, s, many, func(i int) testenv.Answer {
		return s.Post("/v1/requests", e.GitHub(runOf(i)), "k", testenv.Body("release", a))
	})
	uses := e.KeyUses()
	if n := e.Signatures(a); n != uses || n < 1 || verified(t, s, "release", a) != n {
		t.Errorf("%d signatures in the registry, %d key uses", n, uses)
	}
	count := quiet(t, e, s)
	if count[audit.TaskRecognised]+count[audit.TaskPublished] != many || count[audit.TaskPublished] != uses {
		t.Errorf("%v", count)
	}
	// Whoever comes later makes no further one.
	r, capability := ask(t, s, runOf(many), "k", "release", a)
	if r = finish(t, s, r.ID, capability); r.State != signing.Completed || e.KeyUses() != uses {
		t.Errorf("ended %s after %d key uses", r.State, e.KeyUses())
	}
}

func sameSubmission(t *testing.T, e *testenv.Env) {
	s := e.Start(nil)
	a := e.Image(t.Name())
	token, body := e.GitHub(devworld.NewGitHubJob()), testenv.Body("release", a)
	answers := make([]testenv.Answer, many)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() {
			if i%2 == 1 {
				// The same run, asking with another token.
				answers[i] = s.Post("/v1/requests", e.GitHub(devworld.NewGitHubJob()), "k", body)
				return
			}
			answers[i] = s.Post("/v1/requests", token, "k", body)
		})
	}
	wg.Wait()
	created, ids, capabilities := 0, map[string]bool{}, map[string]bool{}
	for _, ans := range answers {
		if ans.Status == http.StatusCreated {
			created++
		} else if ans.Status != http.StatusOK {
			t.Errorf("answered %d: %s", ans.Status, ans.Body)
		}
		var r api.Request
		ans.JSON(t, &r)
		ids[r.ID] = true
		capabilities[ans.Header.Get(api.HeaderCapability)] = true
	}
	if created != 1 || len(ids) != 1 || len(capabilities) != many {
		t.Fatalf("%d created, ids %v, %d capabilities", created, ids, len(capabilities))
	}
	for id := range ids {
		eventually(t, "completed", func() bool {
			r, _, err := state(t, s, id)
			return err == nil && r.State == signing.Completed
		})
	}
	if n := e.Signatures(a); n != 1 || e.KeyUses() != 1 {
		t.Errorf("%d signatures, %d key uses", n, e.KeyUses())
	}
	if n := quiet(t, e, s)[audit.RequestSubmitted]; n != 1 {
		t.Errorf("submitted %d times", n)
	}
}
