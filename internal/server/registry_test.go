package server_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/method/notation"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

// form is a kind of signatures, with what of the cycle looks different for it.
type form struct {
	policy string // "" is legacy
	// rule is the rule for the requests of one stage of the cycle about an image.
	rule  func(stage string, a signing.Artifact) devworld.Rule
	count func(e *testenv.Env, a signing.Artifact) int
}

// forms are those that differ in where signatures are: the tag of an image, and
// referrers. The registry of these tests has the referrers API.
func forms() map[string]form {
	return map[string]form{
		"legacy": {rule: stageRule, count: (*testenv.Env).Signatures},
		"bundle": {
			policy: testenv.PolicySigning("- {method: cosign, key: release, formats: [bundle]}\n"), rule: referrerRule,
			count: func(e *testenv.Env, a signing.Artifact) int { return e.Bundles(a) },
		},
		"notation": {
			policy: testenv.PolicySigning(testenv.Notation), rule: referrerRule,
			count: func(e *testenv.Env, a signing.Artifact) int { return e.Referrers(a, notation.ArtifactType) },
		},
	}
}

// referrerRule is stageRule where the signatures are referrers. A referrer has a
// digest of its own: its repository says whose it is.
func referrerRule(stage string, a signing.Artifact) devworld.Rule {
	switch stage {
	case "signatures":
		return devworld.Rule{Method: http.MethodGet, Path: regexp.MustCompile("/referrers/sha256:" + a.Digest.Hex() + "$")}
	case "publish":
		return devworld.Rule{Method: http.MethodPut, Path: regexp.MustCompile("^/v2/" + a.Repository.Path() + "/manifests/sha256:")}
	default:
		return stageRule(stage, a)
	}
}

// stageRule is the rule for the requests of one stage of the cycle about an image.
func stageRule(stage string, a signing.Artifact) devworld.Rule {
	sig := regexp.MustCompile("/manifests/sha256-" + a.Digest.Hex() + `\.sig$`)
	switch stage {
	case "manifest": // before the decision
		return devworld.Rule{Method: http.MethodGet, Path: regexp.MustCompile("/manifests/sha256:" + a.Digest.Hex() + "$")}
	case "signatures": // before the key
		return devworld.Rule{Method: http.MethodGet, Path: sig}
	case "publish": // after it
		return devworld.Rule{Method: http.MethodPut, Path: sig}
	default:
		panic("no stage " + stage)
	}
}

// holdAt holds the requests of a stage until it is released.
func holdAt(t *testing.T, stage string, a signing.Artifact) *devworld.Fault {
	t.Helper()
	rule := stageRule(stage, a)
	rule.Hold = true
	f := world.Registry.Add(rule)
	t.Cleanup(f.Remove)
	return f
}

// TestRegistryThatFailsKeepsTheRequestWaiting: the reason can be seen, no key is
// used before everything can be read, and it completes when the registry is back.
func TestRegistryThatFailsKeepsTheRequestWaitingUntilItIsBack(t *testing.T) {
	faults := map[string]struct {
		rule  devworld.Rule
		code  signing.Code
		words string
		only  string // at this stage only
	}{
		"answers 429":           {devworld.Rule{Status: 429, Header: http.Header{"Retry-After": {"30"}}}, signing.RateLimited, "throttling", ""},
		"answers 429 at random": {devworld.Rule{Status: 429}, signing.RateLimited, "throttling", ""},
		"answers 500":           {devworld.Rule{Status: 500, Body: "<html>password=hunter2-hunter2</html>"}, signing.Unavailable, "failed to answer", ""},
		"answers 503":           {devworld.Rule{Status: 503, Header: http.Header{"Retry-After": {"3600"}}}, signing.Unavailable, "not available at the moment", ""},
		"hangs up":              {devworld.Rule{Abort: true}, signing.Unavailable, "could not be reached", ""},
		"truncates":             {devworld.Rule{Truncate: 20}, signing.Unavailable, "broke off its answer", "manifest"},
		"never answers":         {devworld.Rule{Stall: true}, signing.Unavailable, "could not be reached", ""},
	}
	stages := map[string]struct {
		state signing.RequestState
		uses  int // of the key while the registry is down
	}{"manifest": {signing.Pending, 0}, "signatures": {signing.Signing, 0}, "publish": {signing.Signing, 1}}
	for kind, form := range forms() {
		for name, f := range faults {
			for stage, at := range stages {
				if f.only != "" && f.only != stage || kind != "legacy" && stage == "manifest" {
					continue
				}
				t.Run(kind+"/"+name+"/"+stage, func(t *testing.T) {
					t.Parallel() // each waits, and its rule is about its own image
					o := testenv.Options{Policy: form.policy}
					if f.rule.Stall {
						o.RegistryTimeout = config.Duration(2 * time.Second)
					}
					r := start(t, o)
					a := r.e.ImageIn("payments/"+strings.ReplaceAll(strings.ToLower(kind+"-"+name+"-"+stage), " ", "-"), "", t.Name())
					rule := form.rule(stage, a)
					rule.Status, rule.Header, rule.Body, rule.Abort, rule.Truncate, rule.Stall = f.rule.Status, f.rule.Header, f.rule.Body, f.rule.Abort, f.rule.Truncate, f.rule.Stall
					down := world.Registry.Add(rule)
					defer down.Remove()
					q, capability := r.submit(r.token(mainJob(0)), "k", testenv.Body("release", a))
					eventually(t, "a request that says why it waits", func() bool {
						q = r.read(q.ID, capability)
						return q.Failure != nil
					})
					if q.State != at.state || q.Failure.Code != f.code || !strings.Contains(q.Failure.Message, f.words) || q.Failure.Message == "" {
						t.Errorf("%s: %+v", q.State, q.Failure)
					}
					if strings.Contains(fmt.Sprintf("%+v", q), "hunter2") {
						t.Errorf("the registry's text is in %+v", q)
					}
					if n := r.e.KeyUses(); n != at.uses {
						t.Errorf("%d key uses while the registry is down", n)
					}
					down.Remove()
					r.e.Clock.Add(int64(2 * time.Minute)) // beyond the longest wait
					if q = r.finish(q.ID, capability); q.State != signing.Completed || q.Failure != nil {
						t.Errorf("ended %s: %+v", q.State, q.Failure)
					}
					if n := form.count(r.e, a); n != 1 || r.e.KeyUses() != 1 {
						t.Errorf("%d signatures after %d key uses", n, r.e.KeyUses())
					}
					r.logged()
				})
			}
		}
	}
}

// TestRegistryThatServesWhatCannotBeSigned: the request is denied in words.
func TestImageThatCannotBeSignedIsDenied(t *testing.T) {
	index := "application/vnd.oci.image.index.v1+json"
	serve := func(kind, body string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			_, _ = w.Write([]byte(body)) // the client may hang up
		})
	}
	image := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","manifests":[]}`
	both := `{"schemaVersion":2,"mediaType":"` + index + `","manifests":[],"config":{},"layers":[]}`
	other := `{"schemaVersion":2,"mediaType":"` + index + `","manifests":[]}`
	for name, c := range map[string]struct {
		digest  string // of the bytes that are asked for, where it is not an image's
		replace http.Handler
		words   []string
	}{
		"a digest that the registry does not have":      {digest: "nobody pushed this", words: []string{"does not have this in payments/web", "check that it was pushed"}},
		"bytes that do not match":                       {replace: serve(index, other), words: []string{"not the manifest that was asked for", "sha256:", "push the image again"}},
		"a login page":                                  {replace: serve("text/html", "<html>log in"), words: []string{"not the manifest that was asked for"}},
		"an empty answer":                               {replace: serve(index, ""), words: []string{"not the manifest that was asked for"}},
		"an ambiguous media type (GHSA-qq97-vm5h-rrhg)": {digest: image, replace: serve(index, image), words: []string{"of another kind than the registry serves it as", "OCI image specification"}},
		"an index that is an image too":                 {digest: both, replace: serve(index, both), words: []string{"fields of another kind too"}},
		"a field twice":                                 {digest: other[:len(other)-1] + `,"manifests":[]}`, replace: serve(index, other[:len(other)-1]+`,"manifests":[]}`), words: []string{"unambiguous"}},
		"not a manifest":                                {digest: "just text", replace: serve("text/plain", "just text"), words: []string{"not an image manifest or index"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, testenv.Options{})
			a := r.e.Image(t.Name())
			if c.digest != "" {
				a.Digest = signing.DigestOf([]byte(c.digest))
			}
			rule := stageRule("manifest", a)
			rule.Replace = c.replace
			defer world.Registry.Add(rule).Remove()
			q := r.denied(r.token(mainJob(0)), "release", a)
			r.says(q.Failure.Message+"\n"+q.Failure.Expected+"\n"+q.Failure.Found+"\n"+q.Failure.Fix, c.words...)
			// With many images in a request one must know which it is.
			r.says(q.Failure.Message, string(a.Digest))
			if q.Failure.Fix == "" {
				t.Errorf("%+v", q.Failure)
			}
			r.unsigned(a)
		})
	}
}

// TestEndlessManifest (endless data): what is too large is not read.
func TestManifestOf50MegabytesIsDeniedAndNotRead(t *testing.T) {
	const size = 50 << 20
	for name, announced := range map[string]bool{"announced": true, "unannounced": false} {
		t.Run(name, func(t *testing.T) {
			r := start(t, testenv.Options{})
			a := r.e.Image(t.Name())
			var sent, times atomic.Int64
			rule := stageRule("manifest", a)
			rule.Replace = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				times.Add(1)
				w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
				if announced {
					w.Header().Set("Content-Length", fmt.Sprint(size))
				}
				chunk := []byte(strings.Repeat(" ", 64<<10))
				for n := 0; n < size; n += len(chunk) {
					k, err := w.Write(chunk)
					sent.Add(int64(k))
					if err != nil {
						return
					}
				}
			})
			defer world.Registry.Add(rule).Remove()
			q := r.denied(r.token(mainJob(0)), "release", a)
			r.says(q.Failure.Message+"\n"+q.Failure.Expected, "more of payments/web than this service reads", "at most 4194304 bytes")
			if n := sent.Load(); n > size/2 || times.Load() != 1 { // buffers of sockets take some megabytes
				t.Errorf("%d bytes were read of %d answers", n, times.Load())
			}
			r.unsigned(a)
		})
	}
}

// TestRegistryThatDoesNotLetUsIn (credentials sent to an attacker's token realm:
// CVE-2026-33540, CVE-2026-24845): it is refused, nobody else is asked.
func TestRegistryThatDoesNotLetUsInDeniesTheRequest(t *testing.T) {
	var hits atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		hits.Add(1)
		_, _ = w.Write([]byte(`{"token":"elsewhere"}`)) // the client may hang up
	}))
	defer elsewhere.Close()
	for name, c := range map[string]struct {
		status    int
		challenge string
		words     []string
	}{
		"401 without a challenge":               {401, "", []string{"without a Bearer or Basic challenge"}},
		"401 that wants a password":             {401, `Basic realm="x"`, []string{"none are configured"}},
		"401 that cannot be read":               {401, `Bearer realm="x`, []string{"cannot be read"}},
		"401 with its token realm elsewhere":    {401, `Bearer realm="` + elsewhere.URL + `/token",service="x"`, []string{"token service elsewhere", "no credentials were sent", "token_realm", elsewhere.URL}},
		"401 with a token service that refuses": {401, `Bearer realm="http://` + world.Registry.Host + `/token",service="x"`, []string{"token service"}},
		"401 with a realm in a file":            {401, `Bearer realm="file:///etc/passwd"`, []string{"token service elsewhere"}},
		"403":                                   {403, "", []string{"refuses access to payments/web"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, testenv.Options{})
			a := r.e.Image(t.Name())
			rule := stageRule("manifest", a)
			rule.Status = c.status
			if c.challenge != "" {
				rule.Header = http.Header{"Www-Authenticate": {c.challenge}}
			}
			fault := world.Registry.Add(rule)
			defer fault.Remove()
			q := r.denied(r.token(mainJob(0)), "release", a)
			r.says(q.Failure.Message+"\n"+q.Failure.Expected+"\n"+q.Failure.Found+"\n"+q.Failure.Fix, c.words...)
			if q.Failure.Found == "" || q.Failure.Fix == "" || hits.Load() != 0 {
				t.Errorf("%+v; %d requests elsewhere", q.Failure, hits.Load())
			}
			r.unsigned(a)
			// Nothing of it sticks: with the right set right the job asks again.
			fault.Remove()
			r.sign(1, a)
		})
	}
}

// TestRegistryThatRefusesTheSignature: it was signed and cannot be published;
// the request fails, it is said where, and the next one can succeed.
func TestRegistryThatRefusesTheSignatureFailsTheRequest(t *testing.T) {
	for kind, form := range forms() {
		t.Run(kind, func(t *testing.T) { refusedSignature(t, form) })
	}
}

func refusedSignature(t *testing.T, form form) {
	r := start(t, testenv.Options{Policy: form.policy})
	a := r.e.Image(t.Name())
	rule := form.rule("publish", a)
	rule.Status = http.StatusUnauthorized
	fault := world.Registry.Add(rule)
	defer fault.Remove()
	q, capability := r.submit(r.token(mainJob(0)), "k", testenv.Body("release", a))
	q = r.finish(q.ID, capability)
	if q.State != signing.Failed || q.Failure == nil || q.Failure.Code != signing.Denied || q.Failure.Fix == "" || len(q.Tasks) != 1 || q.Tasks[0].State != signing.TaskFailed || q.Tasks[0].Failure == nil {
		t.Errorf("ended %s: %+v %+v", q.State, q.Failure, q.Tasks)
	}
	if n := r.logged(); n[audit.RequestFailed] != 1 || n[audit.TaskPublished] != 0 || r.e.KeyUses() != 1 || form.count(r.e, a) != 0 {
		t.Errorf("%v, %d key uses", n, r.e.KeyUses())
	}
	fault.Remove()
	q, capability = r.submit(r.token(mainJob(1)), "again", testenv.Body("release", a))
	if q = r.finish(q.ID, capability); q.State != signing.Completed || form.count(r.e, a) != 1 {
		t.Errorf("a good request ended %s with %d signatures: %+v", q.State, form.count(r.e, a), q.Failure)
	}
}

// TestTagToDigestRace (CVE-2026-122321, CVE-2023-47630): a tag is signed along
// only while it stands for the digest.
func TestTagThatStandsForAnotherDigestIsDenied(t *testing.T) {
	r := start(t, testenv.Options{})
	tag := "v1-" + strings.ToLower(t.Name())
	a := r.e.ImageIn("payments/web", tag, t.Name())
	moved := r.e.ImageIn("payments/web", tag, t.Name()+" moved")
	a.Tag = tag
	q, capability := r.submit(r.token(mainJob(0)), "k", testenv.Body("release", a))
	q = r.finish(q.ID, capability)
	if q.State != signing.RequestDenied || q.Failure == nil || q.Failure.Found != string(moved.Digest) || q.Failure.Fix == "" || r.e.KeyUses() != 0 || r.e.Signatures(a) != 0 {
		t.Errorf("ended %s after %d key uses: %+v", q.State, r.e.KeyUses(), q.Failure)
	}
	r.logged()
}
