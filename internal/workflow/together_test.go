package workflow_test

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
	"github.com/sealwright/sealwright/internal/workflow"
)

const frozen = "- {method: dct, key: release-dct}\n" // neither moves nor removes

// trusting is a world with a notary server that trusts two repositories.
func trusting(t *testing.T, world *devworld.World, steps ...string) *testenv.Env {
	t.Helper()
	if len(steps) == 0 {
		steps = []string{testenv.DCT}
	}
	return testenv.New(t, testenv.Options{World: world, Policy: testenv.PolicySigning(steps...), Trusted: []string{"payments/web", "payments/api"}})
}

// named pushes an image under a tag and returns it with the tag to be signed.
func named(e *testenv.Env, repository, tag, content string) signing.Artifact {
	a := e.ImageIn(repository, tag, content)
	a.Tag = tag
	return a
}

// untrust names a tag without a digest.
func untrust(a signing.Artifact) signing.Artifact {
	return signing.Artifact{Repository: a.Repository, Tag: a.Tag}
}

// completed submits and waits for the end, which must be good.
func completed(t *testing.T, s *testenv.Service, idempotency string, artifacts ...signing.Artifact) api.Request {
	t.Helper()
	r, capability := submit(t, s, idempotency, artifacts...)
	if r = finish(t, s, r.ID, capability); r.State != signing.Completed {
		t.Fatalf("ended %s: %+v", r.State, r.Failure)
	}
	return r
}

// trusted compares what the releases of a repository bind with want, and returns
// the version.
func trusted(t *testing.T, e *testenv.Env, want ...signing.Artifact) int64 {
	t.Helper()
	all := map[string]signing.Digest{}
	for _, a := range want {
		if a.Digest != "" {
			all[a.Tag] = a.Digest
		}
	}
	got, version := e.Releases(want[0].Repository)
	if !maps.Equal(got, all) {
		t.Errorf("%s trusts %v, want %v", want[0].Repository, got, all)
	}
	return version
}

func TestTagsOfOneRepositoryAreOneTaskAndOneUseOfTheKey(t *testing.T) {
	e := trusting(t, nil)
	s := e.Start(nil)
	one, two, other := named(e, "payments/web", "v1", "1"), named(e, "payments/web", "v2", "2"), named(e, "payments/api", "v1", "3")
	r := completed(t, s, "k", one, two, other)
	if len(r.Tasks) != 2 || e.KeyUses() != 2 {
		t.Errorf("%d tasks, %d key uses", len(r.Tasks), e.KeyUses())
	}
	if web := r.Tasks[0]; web.Part != dct.RoleReleases || len(web.Changes) != 2 || !slices.Equal(web.Differences, []signing.Difference{{Tag: "v1", To: one.Digest}, {Tag: "v2", To: two.Digest}}) {
		t.Errorf("%+v", web)
	}
	trusted(t, e, one, two)
	trusted(t, e, other)
	// The same again is recognised; a tag that moves and one that goes are one change.
	if r = completed(t, s, "again", one, two); !r.Tasks[0].Recognised || e.KeyUses() != 2 {
		t.Errorf("%+v, %d key uses", r.Tasks, e.KeyUses())
	}
	moved := named(e, "payments/web", "v2", "4")
	r = completed(t, s, "moved", moved, untrust(one))
	if want := []signing.Difference{{Tag: "v1", From: one.Digest}, {Tag: "v2", From: two.Digest, To: moved.Digest}}; !slices.Equal(r.Tasks[0].Differences, want) {
		t.Errorf("%+v", r.Tasks[0].Differences)
	}
	trusted(t, e, moved)
	// Nothing but trust that is withdrawn.
	if r = completed(t, s, "gone", untrust(moved)); len(r.Artifacts) != 0 || !slices.Equal(r.Untrust, []string{untrust(moved).String()}) {
		t.Errorf("%+v", r)
	}
	trusted(t, e, untrust(moved))
	logged(t, s, r.ID, moved)
	quiet(t, e, s)
}

// logged looks for the change of the last request in the log.
func logged(t *testing.T, s *testenv.Service, id string, gone signing.Artifact) {
	t.Helper()
	n := 0
	for _, ev := range s.VerifyLog() {
		if ev.Request != id {
			continue
		}
		switch ev.Kind {
		case audit.RequestSubmitted:
			n++
			if ev.Attrs["untrust"] != untrust(gone).String() || ev.Attrs["artifacts"] != "" {
				t.Errorf("%s", ev)
			}
		case audit.TaskPrepared, audit.TaskPublished:
			n++
			if ev.Attrs["changes"] != gone.Tag+"="+gone.Digest.Hex()+".." || ev.Attrs["part"] != dct.RoleReleases || ev.Attrs["digest"] != "" {
				t.Errorf("%s", ev)
			}
		}
	}
	if n != 3 {
		t.Errorf("%d events", n)
	}
}

func TestWhatCannotBeSignedTogetherIsRefusedWithNothingSigned(t *testing.T) {
	world := testenv.NewWorld(t, true)
	client := func(body string) string { return strings.Replace(body, "{", `{"publish":"client",`, 1) }
	for name, c := range map[string]struct {
		steps []string
		ask   func(e *testenv.Env, a, signed signing.Artifact) []signing.Artifact
		body  func(string) string
		state signing.RequestState // empty: not even submitted
		why   string
	}{
		"image without a tag": {[]string{testenv.DCT}, func(e *testenv.Env, a, _ signing.Artifact) []signing.Artifact {
			a.Tag = ""
			return []signing.Artifact{a}
		}, nil, signing.RequestDenied, "comes without one"},
		"an image without a tag beside another method": {[]string{testenv.Cosign, testenv.DCT}, func(e *testenv.Env, a, signed signing.Artifact) []signing.Artifact {
			a.Tag = ""
			return []signing.Artifact{a, signed}
		}, nil, signing.RequestDenied, "comes without one"},
		"published by the job": {[]string{testenv.DCT}, nil, client, signing.RequestDenied, "publish.dct"},
		"a tag bound twice": {[]string{testenv.DCT}, func(e *testenv.Env, a, signed signing.Artifact) []signing.Artifact {
			a.Tag = signed.Tag
			return []signing.Artifact{a, signed}
		}, nil, "", "two digests"},
		"signed and untrusted": {[]string{testenv.DCT}, func(e *testenv.Env, a, _ signing.Artifact) []signing.Artifact {
			return []signing.Artifact{a, untrust(a)}
		}, nil, "", "to be signed as well"},
		"untrusted twice": {[]string{testenv.DCT}, func(e *testenv.Env, a, _ signing.Artifact) []signing.Artifact {
			return []signing.Artifact{untrust(a), untrust(a)}
		}, nil, "", "named twice"},
		"recursive": {[]string{strings.Replace(testenv.DCT, "key: release-dct", "key: release-dct, recursive: true", 1)}, nil, nil, signing.RequestDenied, "no tag"},
		"untrusted, where no tag is signed": {[]string{testenv.Cosign}, func(e *testenv.Env, _, signed signing.Artifact) []signing.Artifact {
			return []signing.Artifact{untrust(signed)}
		}, nil, signing.RequestDenied, "no trust in a tag"},
		"an untrusted tag of others": {[]string{testenv.DCT}, func(e *testenv.Env, a, _ signing.Artifact) []signing.Artifact {
			return []signing.Artifact{{Repository: a.Repository + "/x/y", Tag: "v1"}}
		}, nil, signing.RequestDenied, "images"},
		"an untrusted tag that the policy does not name": {[]string{testenv.DCT}, func(e *testenv.Env, a, _ signing.Artifact) []signing.Artifact {
			return []signing.Artifact{{Repository: a.Repository, Tag: "latest"}}
		}, nil, signing.RequestDenied, "tags"},
		"a tag that would move": {[]string{frozen}, func(e *testenv.Env, a, signed signing.Artifact) []signing.Artifact {
			return []signing.Artifact{a, named(e, "payments/web", signed.Tag, "moved")}
		}, nil, signing.Failed, "move"},
		"a tag that would go": {[]string{frozen}, func(e *testenv.Env, a, signed signing.Artifact) []signing.Artifact {
			return []signing.Artifact{a, untrust(signed)}
		}, nil, signing.Failed, "remove"},
		"a tag of a repository without trust, beside one with": {[]string{testenv.DCT}, func(e *testenv.Env, a, _ signing.Artifact) []signing.Artifact {
			return []signing.Artifact{a, named(e, "payments/nothing", "v1", "x")}
		}, nil, signing.Failed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			e := trusting(t, world, testenv.DCT)
			s := e.Start(nil)
			signed := named(e, "payments/web", "v1", "signed")
			completed(t, s, "before", signed)
			s.Stop()
			uses, version := e.KeyUses(), trusted(t, e, signed)
			e.Options.Policy = testenv.PolicySigning(c.steps...)
			s = e.Start(nil)
			a := named(e, "payments/web", "v2", "new")
			artifacts := []signing.Artifact{a}
			if c.ask != nil {
				artifacts = c.ask(e, a, signed)
			}
			body := testenv.Body("release", artifacts...)
			if c.body != nil {
				body = c.body(body)
			}
			ans := s.Post("/v1/requests", e.GitHub(devworld.NewGitHubJob()), "k", body)
			said := string(ans.Body)
			if c.state == "" {
				if ans.Status != http.StatusBadRequest {
					t.Errorf("answered %d", ans.Status)
				}
			} else {
				var r api.Request
				ans.JSON(t, &r)
				r = finish(t, s, r.ID, ans.Header.Get(api.HeaderCapability))
				if said = fmt.Sprintf("%+v", r.Failure); r.State != c.state || r.Failure.Fix == "" {
					t.Errorf("ended %s: %s", r.State, said)
				}
			}
			if !strings.Contains(said, c.why) {
				t.Errorf("said %s", said)
			}
			if e.KeyUses() != uses || trusted(t, e, signed) != version || e.Signatures(a) != 0 {
				t.Errorf("%d key uses more", e.KeyUses()-uses)
			}
			quiet(t, e, s)
		})
	}
}

// foreign signs a tag with the key of the service, without it, as a person would
// who was given the key too.
func foreign(t *testing.T, e *testenv.Env, gun signing.Repository, tag string) {
	c := e.TrustClient()
	s, err := c.Fetch(t.Context(), gun, dct.RoleReleases)
	ok(t, err)
	d, err := s.Change(dct.RoleReleases, []signing.Change{{Tag: tag, Digest: signing.DigestOf([]byte(tag)), Size: 7}}, e.Now().AddDate(1, 0, 0))
	ok(t, err)
	u, err := d.Seal(dct.Signer{Key: e.TrustKey(), Private: e.Private("release-dct.key")})
	ok(t, err)
	ok(t, c.Publish(t.Context(), gun, u))
}

// interrupted has a foreign writer be faster, times times.
func interrupted(t *testing.T, e *testenv.Env, gun signing.Repository, times int) {
	var mu sync.Mutex
	n, busy := 0, false
	e.Trust.Server.Before = func(_ http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		mine := r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/_trust/tuf/") && !busy && n < times
		if mine {
			n, busy = n+1, true
		}
		tag := fmt.Sprintf("foreign%d", n)
		mu.Unlock()
		if mine {
			foreign(t, e, gun, tag)
			mu.Lock()
			busy = false
			mu.Unlock()
		}
		return false
	}
}

func TestBytesThatAForeignWriterMadeOutOfDateAreMadeAnew(t *testing.T) {
	for times, want := range map[int]signing.RequestState{1: signing.Completed, 5: signing.Completed, 6: signing.Failed} {
		t.Run(fmt.Sprint(times), func(t *testing.T) {
			e := trusting(t, nil)
			s := e.Start(nil)
			a := named(e, "payments/web", "v1", "1")
			interrupted(t, e, a.Repository, times)
			r, capability := submit(t, s, "k", a)
			r = finish(t, s, r.ID, capability)
			if r.State != want {
				t.Fatalf("ended %s: %+v", r.State, r.Failure)
			}
			rounds := min(times+1, 6)
			tags, version := e.Releases(a.Repository)
			signed := 0
			if want == signing.Completed {
				signed = 1
			}
			if len(tags) != times+signed || (tags["v1"] == a.Digest) != (signed == 1) || version != int64(times+signed) || e.KeyUses() != rounds {
				t.Errorf("%v in version %d after %d key uses", tags, version, e.KeyUses())
			}
			count := map[string]int{}
			s.VerifyEvidence()
			for _, ev := range s.VerifyLog() {
				count[ev.Kind]++
			}
			if count[audit.TaskRequeued] != min(times, 5) || count[audit.TaskSigned] != rounds || count[audit.TaskPrepared] != rounds || count[audit.TaskPublished] != signed {
				t.Errorf("%v", count)
			}
		})
	}
}

// TestManyRequestsOfTwoProcessesOnOneRepositoryLoseNoTag is "done when" 3 of the
// issue: with the lease nobody even signs in vain.
func TestManyRequestsOfTwoProcessesOnOneRepositoryLoseNoTag(t *testing.T) {
	e := trusting(t, nil)
	s := e.Start(nil)
	other := replica(t, s, nil)
	runs(t, other)
	first, capability := submit(t, s, "first", named(e, "payments/web", "v0", "0"))
	if first = finish(t, s, first.ID, capability); first.State != signing.Completed {
		t.Fatalf("ended %s: %+v", first.State, first.Failure)
	}
	r, _, err := state(t, s, first.ID)
	ok(t, err)
	_, before := e.Releases(r.Artifacts[0].Repository)
	const n = 8
	want := []signing.Artifact{r.Artifacts[0]}
	for i := range n {
		want = append(want, named(e, "payments/web", fmt.Sprintf("v%d", i+1), fmt.Sprint(i)))
	}
	receipts := make([]workflow.Receipt, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			id, origin, w := r.Identity, r.Origin, s.Workflow
			if i%2 == 1 {
				w = other
			}
			id.TokenID, id.TokenHash, origin.RunID = fmt.Sprint("token", i), fmt.Sprintf("%064d", i), fmt.Sprint(100+i)
			receipts[i], errs[i] = w.Submit(t.Context(), id, origin, workflow.Submission{Policy: "release", IdempotencyKey: "k", Artifacts: []signing.Artifact{want[i+1]}})
		})
	}
	wg.Wait()
	for i := range n {
		ok(t, errs[i])
		if got := finish(t, s, receipts[i].Request.ID, receipts[i].Capability); got.State != signing.Completed {
			t.Errorf("request %d ended %s: %+v", i, got.State, got.Failure)
		}
	}
	if version := trusted(t, e, want...); version != before+n {
		t.Errorf("version %d after %d and %d requests", version, before, n)
	}
	count := quiet(t, e, s)
	if count[audit.TaskPublished] != n+1 || count[audit.TaskRequeued] != 0 || e.KeyUses() != n+1 {
		t.Errorf("%v, %d key uses", count, e.KeyUses())
	}
}

// TestRequestsThatShareRepositoriesInAnyOrderDoNotWaitForEachOtherForEver: leases
// are taken in the order of their names.
func TestRequestsThatShareRepositoriesInAnyOrderDoNotWaitForEachOtherForEver(t *testing.T) {
	e := trusting(t, nil, testenv.Cosign, testenv.DCT)
	s := e.Start(nil)
	started := time.Now()
	const n = 6
	requests := make([][]signing.Artifact, n)
	for i := range requests {
		tag := fmt.Sprintf("v%d", i)
		requests[i] = []signing.Artifact{named(e, "payments/web", tag, "web"), named(e, "payments/api", tag, "api")}
		if i%2 == 1 {
			slices.Reverse(requests[i])
		}
	}
	atOnce(t, s, n, func(i int) testenv.Answer {
		return s.Post("/v1/requests", e.GitHub(runOf(i)), "k", testenv.Body("release", requests[i]...))
	})
	for _, a := range requests[0] {
		if tags, _ := e.Releases(a.Repository); len(tags) != n || e.Signatures(a) == 0 {
			t.Errorf("%v, %d signatures", tags, e.Signatures(a))
		}
	}
	t.Logf("%d requests in %s", n, time.Since(started))
}
