package workflow_test

import (
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/method/notation"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

// scenario is a way through the cycle that the failure table breaks at every
// step.
type scenario struct {
	name   string
	policy string // of the Env, "" for its own
	// referrers says that the registry has the referrers API.
	referrers bool
	// before runs in a healthy service, so that there is something to find.
	before func(t *testing.T, s *testenv.Service, a signing.Artifact)
	// tasks is the number of signatures, uses that of key uses of an undisturbed run.
	tasks, uses int
	// tag says that the image has a tag, which is signed, in a repository with a
	// notary server.
	tag bool
	// reads and writes are steps that have to be in the table.
	reads, writes []string
	// count counts the signatures of an image, without the service.
	count func(e *testenv.Env, a signing.Artifact) int
}

// signedBefore is there to be recognised.
func signedBefore(t *testing.T, s *testenv.Service, a signing.Artifact) {
	t.Helper()
	r, capability := submit(t, s, "earlier", a)
	if r = finish(t, s, r.ID, capability); r.State != signing.Completed {
		t.Fatalf("%+v", r)
	}
}

const bundleStep = "- {method: cosign, key: release, formats: [bundle]}\n"

func scenarios() []scenario {
	bundles := func(e *testenv.Env, a signing.Artifact) int { return e.Bundles(a) }
	notations := func(e *testenv.Env, a signing.Artifact) int { return e.Referrers(a, notation.ArtifactType) }
	legacy := scenario{referrers: true, tasks: 1, reads: []string{"registry GET .sig#1"}, writes: []string{"registry PUT .sig#1"}, count: (*testenv.Env).Signatures}
	listed := []string{"registry GET referrers#1"}
	// Without the API the list is the index at the fallback tag.
	bundle := scenario{policy: testenv.PolicySigning(bundleStep), tasks: 1, reads: append(listed, "registry GET tag#1"), writes: []string{"registry PUT manifest#1", "registry PUT tag#1"}, count: bundles}
	notation := scenario{policy: testenv.PolicySigning(testenv.Notation), tasks: 1, reads: bundle.reads, writes: bundle.writes, count: notations}
	// The index and the manifests of its two platforms.
	recursive := scenario{
		policy: testenv.PolicySigning(strings.Replace(bundleStep, "key: release", "key: release, recursive: true", 1)), referrers: true, tasks: 3, reads: listed, writes: []string{"registry PUT manifest#3"},
		count: func(e *testenv.Env, a signing.Artifact) (n int) {
			for _, m := range e.Manifests(a) {
				n += e.Bundles(m)
			}
			return n + e.Bundles(a)
		},
	}
	trust := scenario{
		policy: testenv.PolicySigning(testenv.DCT), referrers: true, tasks: 1, tag: true, count: bound,
		reads: []string{"notary GET timestamp#1", "notary GET targets/releases#1", "store lease#1", "store release#1"}, writes: []string{"notary POST update#1", "store trust version#1"},
	}
	simple := scenario{policy: testenv.PolicySigning(testenv.Simple), referrers: true, tasks: 1, writes: []string{"store lookaside#1"}, count: lookasides}
	all := scenario{
		policy: testenv.PolicySigning(testenv.Cosign, testenv.Notation, testenv.Simple, testenv.DCT), referrers: true, tasks: 4, tag: true,
		reads: trust.reads, writes: append(trust.writes, "registry PUT .sig#1", "registry PUT manifest#1", "store lookaside#1"),
		count: func(e *testenv.Env, a signing.Artifact) int {
			return legacy.count(e, a) + notations(e, a) + lookasides(e, a) + bound(e, a)
		},
	}
	var out []scenario
	for name, sc := range map[string]scenario{"": legacy, "bundle, ": bundle, "notation, ": notation, "dct, ": trust, "simple, ": simple} {
		fresh, again := sc, sc
		fresh.name, fresh.uses = name+"fresh signature", sc.tasks
		again.name, again.before = name+"equal signature recognised", signedBefore
		out = append(out, fresh, again)
	}
	recursive.name, recursive.uses = "bundle, index and what is below it", 3
	all.name, all.uses = "all four methods", 4
	out = append(out, recursive, all)
	slices.SortFunc(out, func(a, b scenario) int { return strings.Compare(a.name, b.name) })
	return out
}

// bound is 1 if a tag is trusted to be an image, in the version that one signature
// leads to.
func bound(e *testenv.Env, a signing.Artifact) int {
	tags, version := e.Releases(a.Repository)
	if tags[a.Tag] != a.Digest || len(tags) != 1 {
		return 0
	}
	return int(version)
}

// lookasides counts the simple signatures that the service serves.
func lookasides(e *testenv.Env, a signing.Artifact) (n int) {
	e.T.Helper()
	db, err := sql.Open("sqlite3", "file:"+(&url.URL{Path: e.Database()}).EscapedPath()+"?_busy_timeout=20000")
	if err == nil {
		err = db.QueryRow("SELECT count(*) FROM lookaside WHERE path = ?", fmt.Sprintf("%s@sha256=%s", a.Repository, a.Digest.Hex())).Scan(&n)
		err = errors.Join(err, db.Close())
	}
	if err != nil {
		e.T.Fatal(err)
	}
	return n
}

// env is a world for the scenario, with an image of the given content.
func (sc scenario) env(t *testing.T, world *devworld.World, content string) (*testenv.Env, signing.Artifact) {
	t.Helper()
	// Tests at the same time share the registry, which looks through all of a
	// repository to list referrers.
	own := signing.DigestOf([]byte(content)).Hex()[:12]
	repository := "payments/web-" + own
	o := testenv.Options{World: world, Policy: sc.policy}
	if !sc.tag {
		e := testenv.New(t, o)
		return e, e.ImageIn(repository, "", content)
	}
	o.Trusted = []string{repository}
	e := testenv.New(t, o)
	return e, named(e, repository, "v"+own, content)
}

// TestEveryStepMayFailOrBeTheLast is the failure table of the design (section
// 9), generated: an undisturbed run records every write to the database, every
// request to the registry and every use of the key; then each of them fails,
// fails although it happened, or is the last that the process did. Whatever
// goes wrong, the same request ends in one signature.
func TestEveryStepMayFailOrBeTheLast(t *testing.T) {
	worlds := map[bool]*devworld.World{true: testenv.NewWorld(t, true), false: testenv.NewWorld(t, false)}
	for _, sc := range scenarios() {
		t.Run(sc.name, func(t *testing.T) {
			world := worlds[sc.referrers]
			warm(t, world, sc)
			steps := clean(t, world, sc)
			t.Logf("%d steps: %s", len(steps), strings.Join(steps, ", "))
			mustHave := append([]string{"store submit#1", "store allow#1", "store prepare#1"}, sc.reads...)
			if sc.uses > 0 {
				mustHave = append(mustHave, "key sign#1", "store signed#1", "store published#1")
				mustHave = append(mustHave, sc.writes...)
			}
			for _, want := range mustHave {
				if !slices.Contains(steps, want) {
					t.Errorf("the table lacks %s", want)
				}
			}
			for _, step := range steps {
				if strings.HasPrefix(step, "store published#") && !strings.HasSuffix(step, "#1") {
					continue // signatures that are published at the same time share a commit
				}
				for _, mode := range modes(step) {
					t.Run(step+" "+string(mode), func(t *testing.T) {
						t.Parallel()
						broken(t, world, sc, step, mode)
					})
				}
			}
		})
	}
}

// modes are the ways in which a step can go wrong. A read whose answer is lost
// leaves the same behind as one that was never sent.
func modes(step string) []testenv.Mode {
	if strings.Contains(step, " GET ") || strings.Contains(step, " HEAD ") {
		return []testenv.Mode{testenv.Fails, testenv.DiesAfter}
	}
	return []testenv.Mode{testenv.Fails, testenv.FailsButHappened, testenv.DiesAfter}
}

// warm signs another image: the first referrer of a registry brings the empty
// config that the others share.
func warm(t *testing.T, world *devworld.World, sc scenario) {
	t.Helper()
	e, a := sc.env(t, world, t.Name()+" first")
	s := e.Start(nil)
	signedBefore(t, s, a)
	s.Stop()
}

// clean runs a scenario undisturbed and returns its steps.
func clean(t *testing.T, world *devworld.World, sc scenario) []string {
	t.Helper()
	e, a := sc.env(t, world, t.Name())
	prelude(t, e, sc, a)
	f := testenv.NewFaults("", "")
	s := e.Start(f)
	r, capability := submit(t, s, "k", a)
	if r = finish(t, s, r.ID, capability); r.State != signing.Completed {
		t.Fatalf("%+v", r)
	}
	s.VerifyLog()
	return f.Steps()
}

// prelude runs what a scenario needs to find, and makes the key uses count
// from zero again.
func prelude(t *testing.T, e *testenv.Env, sc scenario, a signing.Artifact) {
	t.Helper()
	if sc.before == nil {
		return
	}
	s := e.Start(nil)
	sc.before(t, s, a)
	s.Stop()
	e.ResetKeyUses()
}

func broken(t *testing.T, world *devworld.World, sc scenario, step string, mode testenv.Mode) {
	e, a := sc.env(t, world, t.Name())
	prelude(t, e, sc, a)
	f := testenv.NewFaults(step, mode)
	s, err := e.TryStart(f)
	if err != nil {
		// The fault was in the start: the next start has none.
		s = e.Start(nil)
	}
	r, capability, s := persist(t, e, s, f, a)
	for s.Faults == f && !r.State.Terminal() {
		select {
		case <-f.Died():
			s.Stop()
			s = e.Start(nil)
			r, capability = submit(t, s, "k", a)
		default:
			r = poll(t, s, f, r, capability)
		}
	}
	if !r.State.Terminal() {
		r = finish(t, s, r.ID, capability)
	}
	if r.State != signing.Completed {
		t.Fatalf("ended %s: %+v", r.State, r.Failure)
	}
	events := verifyLog(t, e, s, f)
	if !f.Hit() {
		t.Fatalf("the step did not come to pass; it is not the same run")
	}
	check(t, e, sc, r.ID, a, events)
}

// persist is what a CI job does: it submits under one idempotency key until it
// is answered.
func persist(t *testing.T, e *testenv.Env, s *testenv.Service, f *testenv.Faults, a signing.Artifact) (api.Request, string, *testenv.Service) {
	t.Helper()
	for range 5 {
		ans := s.Post("/v1/requests", e.GitHub(devworld.NewGitHubJob()), "k", testenv.Body("release", a))
		if ans.Status == http.StatusCreated || ans.Status == http.StatusOK {
			var r api.Request
			ans.JSON(t, &r)
			return r, ans.Header.Get(api.HeaderCapability), s
		}
		select {
		case <-f.Died():
			s.Stop()
			s = e.Start(nil)
		default:
		}
	}
	t.Fatal("the submission is not answered")
	return api.Request{}, "", nil
}

func poll(t *testing.T, s *testenv.Service, f *testenv.Faults, r api.Request, capability string) api.Request {
	t.Helper()
	ans := s.Get(fmt.Sprintf("/v1/requests/%s?wait=100ms&version=%d", r.ID, r.Version), capability)
	switch {
	case ans.Status == http.StatusOK:
	case ans.Status >= 500 && !f.Hit(): // what is injected is the service's own fault
		t.Fatalf("reading answered %d without a fault: %s", ans.Status, ans.Body)
	case ans.Status >= 500:
		return r
	default:
		t.Fatalf("reading answered %d: %s", ans.Status, ans.Body)
	}
	var out api.Request
	ans.JSON(t, &out)
	return out
}

// verifyLog takes the events into the log, which may be the step that fails.
func verifyLog(t *testing.T, e *testenv.Env, s *testenv.Service, f *testenv.Faults) []audit.Event {
	t.Helper()
	if err := s.Workflow.Sequence(t.Context()); err != nil {
		select {
		case <-f.Died():
			s.Stop()
			s = e.Start(nil)
		default:
		}
	}
	if n := s.VerifyEvidence(); n == 0 {
		t.Error("no request is over, so there is no evidence")
	}
	return s.VerifyLog()
}

// check holds the outcome against what the design promises, whatever happened.
func check(t *testing.T, e *testenv.Env, sc scenario, id string, a signing.Artifact, events []audit.Event) {
	t.Helper()
	if n := sc.count(e, a); n != sc.tasks {
		t.Errorf("%d signatures in the registry", n)
	}
	count, envelopes := map[string]int{}, map[string]map[string]bool{}
	for _, ev := range events {
		if ev.Request != id {
			continue
		}
		count[ev.Kind]++
		if ev.Kind == audit.TaskSigned {
			if envelopes[ev.Task] == nil {
				envelopes[ev.Task] = map[string]bool{}
			}
			envelopes[ev.Task][ev.Attrs["envelope"]] = true
		}
	}
	if uses, attempts := e.KeyUses(), count[audit.KeyAttempt]; uses > attempts || uses < sc.uses {
		t.Errorf("%d key uses, %d attempts", uses, attempts)
	}
	for task, list := range envelopes {
		if len(list) > 1 {
			t.Errorf("%d envelopes of %s: %v", len(list), task, list)
		}
	}
	for kind, want := range map[string]int{
		audit.RequestSubmitted: 1, audit.RequestDecided: 1, audit.RequestSigning: 1, audit.RequestCompleted: 1,
		audit.RequestFailed: 0, audit.RequestDenied: 0, audit.TaskFailed: 0, audit.TamperDetected: 0,
		audit.TaskSigned: sc.uses,
	} {
		if count[kind] != want {
			t.Errorf("%d events %s, want %d", count[kind], kind, want)
		}
	}
	if count[audit.TaskPublished]+count[audit.TaskRecognised] != sc.tasks {
		t.Errorf("published %d times, recognised %d times", count[audit.TaskPublished], count[audit.TaskRecognised])
	}
}

// TestFaultsAmongManyImagesLoseNothing: more images than are published at once,
// so that leases are taken and results stored in parts.
func TestFaultsAmongManyImagesLoseNothing(t *testing.T) {
	world := testenv.NewWorld(t, true)
	const images = 20
	for _, step := range []string{"store lease#1", "store signed#1", "store published#1", "store published#2"} {
		for _, mode := range []testenv.Mode{testenv.Fails, testenv.FailsButHappened, testenv.DiesAfter} {
			t.Run(step+" "+string(mode), func(t *testing.T) {
				t.Parallel()
				e := testenv.New(t, testenv.Options{World: world})
				var all []signing.Artifact
				for i := range images {
					all = append(all, e.Image(fmt.Sprint(t.Name(), i)))
				}
				f := testenv.NewFaults(step, mode)
				s := e.Start(f)
				r, capability := submit(t, s, "k", all...)
				for s.Faults == f && !r.State.Terminal() {
					select {
					case <-f.Died():
						s.Stop()
						s = e.Start(nil)
					default:
						r = poll(t, s, f, r, capability)
					}
				}
				if r = finish(t, s, r.ID, capability); r.State != signing.Completed || !f.Hit() {
					t.Errorf("ended %s, hit %t: %+v", r.State, f.Hit(), r.Failure)
				}
				for i, a := range all {
					if n := e.Signatures(a); n != 1 {
						t.Errorf("%d signatures of image %d", n, i)
					}
				}
				announced, count := attempts(t, e, s), map[string]int{}
				for _, ev := range s.VerifyLog() {
					count[ev.Kind]++
				}
				if count[audit.TaskPublished] != images || count[audit.TaskSigned] != images || count[audit.RequestCompleted] != 1 || e.KeyUses() > announced {
					t.Errorf("signed %d times, published %d times, completed %d times, %d key uses, %d attempts", count[audit.TaskSigned], count[audit.TaskPublished], count[audit.RequestCompleted], e.KeyUses(), announced)
				}
			})
		}
	}
}
