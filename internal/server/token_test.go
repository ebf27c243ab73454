package server_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/server"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

// badToken is a token that must not be taken.
type badToken struct {
	claims map[string]any // over those of a job on main; nil leaves one out
	flaw   devworld.Flaw
	// logged: the signature is good, so that the refusal is an event.
	logged bool
	words  []string
}

func at(d time.Duration) int64 { return time.Now().Add(d).Unix() }

func badTokens() map[string]badToken {
	return map[string]badToken{
		"wrong audience":                    {claims: map[string]any{"aud": "https://other.test"}, logged: true, words: []string{testenv.Audience, "https://other.test"}},
		"no audience":                       {claims: map[string]any{"aud": nil}, logged: true, words: []string{"aud"}},
		"our audience and another":          {claims: map[string]any{"aud": []string{testenv.Audience, "https://other.test"}}, logged: true, words: []string{"https://other.test"}},
		"expired":                           {claims: map[string]any{"iat": at(-6 * time.Minute), "exp": at(-time.Minute)}, logged: true, words: []string{"expired", "exp"}},
		"from the future":                   {claims: map[string]any{"iat": at(5 * time.Minute), "exp": at(10 * time.Minute)}, logged: true, words: []string{"future", "clock"}},
		"not valid yet":                     {claims: map[string]any{"nbf": at(5 * time.Minute)}, logged: true, words: []string{"nbf", "clock"}},
		"too old":                           {claims: map[string]any{"iat": at(-11 * time.Minute), "exp": at(time.Hour)}, logged: true, words: []string{"too old", "10m", "new token"}},
		"no expiry (GHSA-wxg7-w2v3-w38g)":   {claims: map[string]any{"exp": nil}, logged: true, words: []string{"exp"}},
		"no time of issue":                  {claims: map[string]any{"iat": nil}, logged: true, words: []string{"iat"}},
		"no repository id":                  {claims: map[string]any{"repository_id": nil}, logged: true, words: []string{"repository_id"}},
		"repository id that is no id":       {claims: map[string]any{"repository_id": "74,75"}, logged: true, words: []string{"repository_id"}},
		"flag that is no flag":              {claims: map[string]any{"ref_protected": "yes"}, logged: true, words: []string{"ref_protected"}},
		"no token id":                       {claims: map[string]any{"jti": nil}, logged: true, words: []string{"jti"}},
		"stranger's key under a known id":   {flaw: devworld.Flaw{Stranger: true}, words: []string{"signature"}},
		"key in the header":                 {flaw: devworld.Flaw{EmbeddedKey: true}, words: []string{"jwk"}},
		"none":                              {flaw: devworld.Flaw{Algorithm: "none"}, words: []string{"algorithm", "RS256"}},
		"HS256 with the public key":         {flaw: devworld.Flaw{Algorithm: "HS256"}, words: []string{"algorithm", "RS256"}},
		"claims changed after signing":      {flaw: devworld.Flaw{Swap: map[string]any{"ref": "refs/heads/main", "repository_id": "75"}}, words: []string{"signature"}},
		"truncated by one (CVE-2026-27840)": {flaw: devworld.Flaw{Cut: 1}, words: []string{"sign"}},
		"truncated by many":                 {flaw: devworld.Flaw{Cut: 80}, words: []string{"signature"}},
	}
}

// TestBadTokenIsRefusedAndNothingComesOfIt (aud not checked: CVE-2023-22482; exp
// not checked; key from the header: CVE-2025-24976; parse error ignored:
// CVE-2024-51744).
func TestBadTokenIsRefusedAndNothingComesOfIt(t *testing.T) {
	r := start(t, testenv.Options{})
	a := r.e.Image(t.Name())
	asked := asked(t, a)
	refusals := 0
	for name, bad := range badTokens() {
		t.Run(name, func(t *testing.T) {
			r := r.in(t)
			claims := world.GitHub.GitHubClaims(mainJob(0), testenv.Audience)
			for k, v := range bad.claims {
				claims[k] = v
			}
			token, err := world.GitHub.Mint(claims, bad.flaw)
			ok(t, err)
			r.refused(r.do(submission(token, "k", testenv.Body("release", a))), http.StatusUnauthorized, bad.words...)
			if bad.logged {
				refusals++
			}
			// It cannot be used to cancel either.
			r.refused(r.do(call{method: http.MethodPost, path: api.PathRequests + "/sr_0000000000000000/cancel", token: token}), http.StatusUnauthorized)
			if bad.logged {
				refusals++
			}
		})
	}
	r.nothing(refusals, a)
	if n := asked.Seen(); n != 1 { // the count of signatures just made
		t.Errorf("the registry was asked %d times", n)
	}
}

// TestTokenWithAnUnknownKeyIsRefusedAndItsIssuerAskedRarely (denial of service
// by made-up keys: CVE-2024-34079): the issuer may have a new key, so it is asked
// once a minute; until then the answer is to come back.
func TestTokenWithAnUnknownKeyIsRefusedAndItsIssuerAskedRarely(t *testing.T) {
	r := start(t, testenv.Options{})
	a := r.e.Image(t.Name())
	before := world.CI.Count("", nil)
	for minute := 1; minute <= 2; minute++ {
		for i := range 4 {
			token, err := world.GitHub.Mint(world.GitHub.GitHubClaims(mainJob(0), testenv.Audience), devworld.Flaw{KeyID: "made-up"})
			ok(t, err)
			ans := r.do(submission(token, "k", testenv.Body("release", a)))
			if i == 0 {
				r.refused(ans, http.StatusUnauthorized, "made-up", world.GitHub.URL())
			} else if p := r.problem(ans); p.Code != signing.Unavailable || p.Fix == "" {
				t.Errorf("answered %d: %s", ans.Status, ans.Body)
			}
		}
		if n := world.CI.Count("", nil) - before; n > 2*minute { // discovery and key set
			t.Errorf("the issuer was asked %d times in minute %d", n, minute)
		}
		r.e.Clock.Add(int64(61 * time.Second))
	}
	r.nothing(0, a)
	r.sign(0, a) // nobody else is kept out
}

// TestTokenOfAnUnknownIssuerMakesNoOutsideRequest (SSRF through the token's iss:
// CVE-2025-52477; meta-issuer bypass: CVE-2026-22772).
func TestTokenOfAnUnknownIssuerMakesNoOutsideRequest(t *testing.T) {
	r := start(t, testenv.Options{})
	var hits atomic.Int64
	stranger := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	defer stranger.Close()
	known := world.GitHub.URL()
	before := world.CI.Count("", nil)
	a := r.e.Image(t.Name())
	for _, iss := range []string{
		stranger.URL, stranger.URL + "/.well-known/openid-configuration?x=", known + "/", known + "/x", known[:len(known)-1], strings.ToUpper(known), known + "#", known + "?",
		known + "@" + strings.TrimPrefix(stranger.URL, "http://"), " " + known, known + "\x00", "", "file:///etc/passwd",
	} {
		claims := world.GitHub.GitHubClaims(mainJob(0), testenv.Audience)
		claims["iss"] = iss
		token, err := world.GitHub.Mint(claims, devworld.Flaw{Header: map[string]string{"jku": stranger.URL + "/jwks", "x5u": stranger.URL}})
		ok(t, err)
		r.refused(r.do(submission(token, "k", testenv.Body("release", a))), http.StatusUnauthorized)
	}
	if n := hits.Load(); n != 0 {
		t.Errorf("the stranger was asked %d times", n)
	}
	if n := world.CI.Count("", nil) - before; n != 0 {
		t.Errorf("the known issuer was asked %d times for others' tokens", n)
	}
	r.nothing(0, a)
}

func TestMissingOrMalformedTokenIsRefused(t *testing.T) {
	r := start(t, testenv.Options{})
	a := r.e.Image(t.Name())
	good := r.token(mainJob(0))
	for name, header := range map[string][]string{
		"missing":             nil,
		"two":                 {"Bearer " + good, "Bearer " + good},
		"another scheme":      {"Basic " + good},
		"no scheme":           {good},
		"empty":               {"Bearer "},
		"not a JWT":           {"Bearer not-a-token-at-all"},
		"three empty parts":   {"Bearer .."},
		"parts of nonsense":   {"Bearer aaaaaaaaaaaaaaaaaaaaaa.bbbbbbbbbbbbbbbbbbbbbbbbb.ccccccccccccccccccc"},
		"four parts":          {"Bearer " + good + ".x"},
		"with spaces":         {"Bearer  " + good},
		"two in one":          {"Bearer " + good + "," + good},
		"many dots":           {"Bearer " + strings.Repeat(".", 10000)},
		"JWE":                 {"Bearer eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ.a.b.c.d"},
		"JSON":                {`Bearer {"payload":"e30","signatures":[]}`},
		"one byte beyond all": {"Bearer " + strings.Repeat("a", 16<<10+1)},
	} {
		t.Run(name, func(t *testing.T) {
			r := r.in(t)
			c := submission("", "k", testenv.Body("release", a))
			c.header = http.Header{"Authorization": header}
			p := r.refused(r.do(c), http.StatusUnauthorized)
			r.says(p.Fix, "OIDC token of the running job")
		})
	}
	r.nothing(0, a)
}

// TestHugeTokenAllocatesNothingAndTheServiceStays (CVE-2025-66506,
// CVE-2025-30204, CVE-2025-27144).
func TestHugeTokenIsRefusedAndTheServiceStays(t *testing.T) {
	r := start(t, testenv.Options{})
	a := r.e.Image(t.Name())
	r.serve(r.another(func(*server.Options) {}).Handler())
	for _, size := range []int{40 << 10, 1 << 20} {
		token := strings.Repeat("a", size-2) + ".."
		req, err := http.NewRequest(http.MethodPost, r.base+api.PathRequests, strings.NewReader(testenv.Body("release", a)))
		ok(t, err)
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Idempotency-Key", "k")
		resp, err := http.DefaultClient.Do(req)
		// The server may hang up while a megabyte is still being sent.
		if err == nil {
			if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
				t.Errorf("%d bytes: answered %d", size, resp.StatusCode)
			}
			ok(t, resp.Body.Close())
		}
	}
	if ans := r.get("/healthz", ""); ans.Status != http.StatusOK {
		t.Errorf("/healthz answered %d", ans.Status)
	}
	r.nothing(0, a)
	r.sign(0, a)
}

// TestTheSameBodyIsTheSameRequestWithANewCapability: a job whose answer was lost
// asks again; whoever had the first answer can no longer read.
func TestTheSameBodyIsTheSameRequestWithANewCapability(t *testing.T) {
	r := start(t, testenv.Options{})
	a := r.e.Image(t.Name())
	token, body := r.token(mainJob(0)), testenv.Body("release", a)
	first := r.do(submission(token, "k", body))
	var one, two api.Request
	first.JSON(t, &one)
	old := first.Header.Get(api.HeaderCapability)
	if first.Status != http.StatusCreated || len(old) < 40 {
		t.Fatalf("answered %d with a capability of %d characters", first.Status, len(old))
	}
	// The same token, a new one of the same run, and the body in other words.
	for _, c := range []call{
		submission(token, "k", body), submission(r.token(mainJob(0)), "k", body),
		submission(token, "k", " {\n\t\"artifacts\" : "+body[strings.Index(body, "["):strings.LastIndex(body, "]")+1]+", \"policy\":\"\\u0072elease\"} "),
	} {
		ans := r.do(c)
		ans.JSON(t, &two)
		if ans.Status != http.StatusOK || two.ID != one.ID {
			t.Fatalf("answered %d: %s", ans.Status, ans.Body)
		}
		fresh := ans.Header.Get(api.HeaderCapability)
		if fresh == old {
			t.Error("the capability was not rotated")
		}
		dead := r.get(api.PathRequests+"/"+one.ID, old)
		if dead.Status != http.StatusNotFound {
			t.Errorf("the old capability answered %d", dead.Status)
		}
		old = fresh
		r.read(one.ID, fresh)
	}
	if q := r.finish(one.ID, old); q.State != signing.Completed || r.e.Signatures(a) != 1 || r.e.KeyUses() != 1 {
		t.Errorf("ended %s with %d signatures after %d key uses", q.State, r.e.Signatures(a), r.e.KeyUses())
	}
	if n := r.logged(); n[audit.RequestSubmitted] != 1 || n[audit.TokenRefused] != 0 {
		t.Errorf("%v", n)
	}
}

func TestTokenReplayedWithAnotherBodyIsRefused(t *testing.T) {
	r := start(t, testenv.Options{})
	a, b := r.e.Image(t.Name()), r.e.Image(t.Name()+" another")
	token := r.token(mainJob(0))
	q, capability := r.submit(token, "k", testenv.Body("release", a))
	for name, body := range map[string]string{
		"another image": testenv.Body("release", b), "one more image": testenv.Body("release", a, b), "another policy": testenv.Body("other", a),
		"another deadline": strings.Replace(testenv.Body("release", a), "{", `{"deadlineSeconds":60,`, 1),
	} {
		p := r.refused(r.do(submission(token, "k", body)), http.StatusConflict, q.ID, "Idempotency-Key")
		if p.Code != signing.Conflict {
			t.Errorf("%s: %s", name, p.Code)
		}
	}
	if q = r.finish(q.ID, capability); q.State != signing.Completed || r.e.KeyUses() != 1 || r.e.Signatures(a) != 1 || r.e.Signatures(b) != 0 {
		t.Errorf("ended %s after %d key uses", q.State, r.e.KeyUses())
	}
	if n := r.logged(); n[audit.RequestSubmitted] != 1 || n[audit.TokenRefused] != 4 {
		t.Errorf("%v", n)
	}
}

func TestTokenForOneRequestServesNoSecond(t *testing.T) {
	r := start(t, testenv.Options{})
	a, b := r.e.Image(t.Name()), r.e.Image(t.Name()+" another")
	token := r.token(mainJob(0))
	q, capability := r.submit(token, "k", testenv.Body("release", a))
	for _, c := range []call{submission(token, "k2", testenv.Body("release", b)), submission(token, "k2", testenv.Body("release", a))} {
		r.refused(r.do(c), http.StatusConflict, "token")
	}
	r.finish(q.ID, capability)
	if n := r.logged(); n[audit.RequestSubmitted] != 1 || n[audit.TokenRefused] != 2 || r.e.KeyUses() != 1 || r.e.Signatures(b) != 0 {
		t.Errorf("%v, %d key uses", n, r.e.KeyUses())
	}
	// The run asks again with a token of its own for the second.
	q, capability = r.submit(r.token(mainJob(0)), "k2", testenv.Body("release", b))
	if q = r.finish(q.ID, capability); q.State != signing.Completed {
		t.Errorf("ended %s: %+v", q.State, q.Failure)
	}
}

// gitlabPolicy lets acme/payments/api on GitLab sign besides.
const gitlabPolicy = `apiVersion: sealwright.dev/v1
project: payments
repositories:
  - {forge: github.test, name: acme/payments-web, id: "74", owner_id: "65", images: ["%[1]s/payments/*"]}
  - {forge: gitlab.test, name: acme/payments/api, id: "20", owner_id: "72", images: ["%[1]s/payments/api"]}
policies:
  release:
    origin:
      refs: ["refs/heads/main"]
      ref_protected: true
      github: {events: [push], workflow: .github/workflows/release.yml}
      gitlab: {events: [push]}
    sign:
      - {method: cosign, key: release}
`

func TestTokenOfAGitLabJobServesSeveralRequestsEachOnce(t *testing.T) {
	r := start(t, testenv.Options{Policy: gitlabPolicy})
	a, b := r.e.ImageIn("payments/api", "", t.Name()), r.e.ImageIn("payments/api", "", t.Name()+" another")
	token, err := world.GitLab.GitLabToken(devworld.NewGitLabJob(), testenv.Audience)
	ok(t, err)
	for key, image := range map[string]signing.Artifact{"one": a, "two": b} {
		q, capability := r.submit(token, key, testenv.Body("release", image))
		if q = r.finish(q.ID, capability); q.State != signing.Completed || r.e.Signatures(image) != 1 {
			t.Errorf("ended %s: %+v", q.State, q.Failure)
		}
	}
	r.refused(r.do(submission(token, "one", testenv.Body("release", b))), http.StatusConflict)
	if n := r.logged(); n[audit.RequestSubmitted] != 2 || n[audit.TokenRefused] != 1 || r.e.KeyUses() != 2 {
		t.Errorf("%v", n)
	}
}

// TestMergeRequestOfAFork: every claim but job_project_id describes the fork, or,
// for whoever forged the name of the parent, the parent.
func TestTokenOfAForksMergeRequestIsRefused(t *testing.T) {
	r := start(t, testenv.Options{Policy: gitlabPolicy})
	a := r.e.ImageIn("payments/api", "", t.Name())
	for name, j := range map[string]devworld.GitLabJob{
		"a fork's":                     devworld.NewGitLabJob().ForkMergeRequest("stranger/api", "666", "667"),
		"the parent's, run for a fork": {Project: "acme/payments/api", ProjectID: "20", NamespaceID: "72", JobProject: "stranger/api", JobProjectID: "666", JobNamespaceID: "667", Ref: "refs/heads/main", RefProtected: true, SHA: devworld.NewGitLabJob().SHA, Source: "push", RunnerID: 31, PipelineID: "574", JobID: "302", User: "s", UserID: "1"},
	} {
		token, err := world.GitLab.GitLabToken(j, testenv.Audience)
		ok(t, err)
		p := r.refused(r.do(submission(token, "k", testenv.Body("release", a))), http.StatusUnauthorized, "job_project_id")
		t.Log(name, p.Detail, p.Expected, p.Found, p.Fix)
	}
	r.nothing(2, a)
}
