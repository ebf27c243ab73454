package server_test

import (
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/identity"
	"github.com/sealwright/sealwright/internal/server"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

// another returns a second server over the same parts, configured otherwise.
func (r *rig) another(change func(*server.Options)) *server.Server {
	r.t.Helper()
	key, err := audit.NewVerifier(strings.TrimSpace(string(r.get("/v1/trust/log", "").Body)))
	ok(r.t, err)
	ids, err := identity.New(r.t.Context(), testenv.Issuers(world), identity.Options{Client: http.DefaultClient})
	ok(r.t, err)
	o := server.Options{
		Workflow: r.s.Workflow, Store: r.s.Store, Identity: ids, LogKey: key, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Now: r.e.Now, Metrics: server.NewMetrics(func() float64 { return 0 }), PublicLog: true,
	}
	change(&o)
	return server.New(o)
}

// serve lets the rig speak to h, with the bounds of the real listener.
func (r *rig) serve(h http.Handler) {
	ts := httptest.NewUnstartedServer(h)
	ts.Config = server.HTTPServer(r.t.Context(), h, slog.New(slog.NewTextHandler(io.Discard, nil)))
	ts.Start()
	r.t.Cleanup(ts.Close)
	r.base = ts.URL
}

func TestRoutesAndDescriptionAreTheSame(t *testing.T) {
	r := start(t, testenv.Options{})
	params := regexp.MustCompile(`:(\w+)`)
	var served, described []string
	for _, route := range r.another(func(*server.Options) {}).Served() {
		route = params.ReplaceAllString(route, "{$1}")
		served = append(served, strings.Replace(route, "*", "{path}", 1))
	}
	for path, item := range r.doc.Paths.Map() {
		for method := range item.Operations() {
			described = append(described, method+" "+path)
		}
	}
	slices.Sort(served)
	slices.Sort(described)
	if d := cmp.Diff(described, served); d != "" {
		t.Errorf("openapi.yaml (-) and the routes (+) differ:\n%s", d)
	}
	if len(served) < 10 {
		t.Errorf("only %v", served)
	}
}

func TestEveryRouteAnswersAsDescribed(t *testing.T) {
	r, letters := startAsking(t)
	a := r.e.Image(t.Name())
	q, capability := r.submit(r.token(mainJob(0)), "k", testenv.Body("release", a))
	if q = r.finish(q.ID, capability); q.State != signing.Completed {
		t.Fatalf("ended %s: %+v", q.State, q.Failure)
	}
	// A second one is held in the registry, so that it can be canceled.
	b := r.e.Image(t.Name() + " canceled")
	hold := holdAt(t, "manifest", b)
	c, _ := r.submit(r.token(mainJob(1)), "k", testenv.Body("release", b))
	<-hold.Arrived()
	if ans := r.do(call{method: http.MethodPost, path: api.PathRequests + "/" + c.ID + "/cancel", token: r.token(mainJob(1))}); ans.Status != http.StatusOK {
		t.Errorf("cancel answered %d: %s", ans.Status, ans.Body)
	}
	hold.Release()
	r.publishes(2, r.e.Image(t.Name()+" by its job"))
	r.as(r.e.Person(signing.Auditor), api.PathRequests)
	r.as(r.e.Person(signing.Auditor), api.PathRequests+"/"+q.ID+"/facts")
	r.do(call{method: http.MethodPost, path: api.PathEvaluate, token: r.e.Person(signing.Admin), body: `{"request": "` + q.ID + `"}`})
	r.logged()
	if ans := r.get(api.PathRequests+"/"+q.ID+"/evidence", capability); ans.Status != http.StatusOK {
		t.Errorf("evidence answered %d: %s", ans.Status, ans.Body)
	}
	for _, path := range []string{"/v1/login", "/v1/trust", "/v1/trust/keys", "/v1/trust/keys/release", "/v1/trust/log", "/log/checkpoint", "/log/tile/0/000.p/5", "/log/tile/entries/000.p/5", "/healthz", "/readyz", "/metrics", "/openapi.yaml"} {
		if ans := r.get(path, ""); ans.Status != http.StatusOK {
			t.Errorf("%s answered %d: %s", path, ans.Status, ans.Body)
		}
	}
	for i, kind := range []string{"github", "gitlab"} {
		h, body := letters.Letter(forge.Event{Kind: forge.EventIgnored, Comment: fmt.Sprint(i)})
		if ans := r.do(call{method: http.MethodPost, path: "/hooks/" + kind + "/github.test", body: string(body), header: h}); ans.Status != http.StatusAccepted {
			t.Errorf("a delivery was answered %d: %s", ans.Status, ans.Body)
		}
	}
	r.serves("registry.acme.dev/payments/web", []byte("a signature"))
	r.decides()
	for path, item := range r.doc.Paths.Map() {
		for method, op := range item.Operations() {
			if !r.seen.visited[op.OperationID] {
				t.Errorf("%s %s was not tried with success", method, path)
			}
		}
	}
}

func TestDescriptionIsServedAsItIs(t *testing.T) {
	r := start(t, testenv.Options{})
	if got := r.get("/openapi.yaml", ""); string(got.Body) != string(server.OpenAPI) {
		t.Errorf("%.200s", got.Body)
	}
}

func TestTrustedKeysAreThoseThatSign(t *testing.T) {
	r := start(t, testenv.Options{})
	var list struct {
		Keys []struct{ ID, PublicKey string }
	}
	r.get("/v1/trust/keys", "").JSON(t, &list)
	if len(list.Keys) != 3 || list.Keys[0].ID != "release" || list.Keys[1].ID != "release-gpg" || list.Keys[2].ID != "release-x509" {
		t.Fatalf("%+v", list)
	}
	one := r.get("/v1/trust/keys/release", "")
	block, _ := pem.Decode(one.Body)
	if block == nil || string(one.Body) != list.Keys[0].PublicKey {
		t.Fatalf("%s", one.Body)
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	ok(t, err)
	info, _ := r.s.Keys.Info("release")
	if !info.Public.(interface{ Equal(crypto.PublicKey) bool }).Equal(pub) {
		t.Errorf("%v is not the key that signs", pub)
	}
}

func TestUnknownRoutesAndMethodsGetProblems(t *testing.T) {
	r := start(t, testenv.Options{})
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/", 404}, {"GET", "/v1", 404}, {"GET", "/v1/nothing", 404}, {"GET", "/v1/trust/keys/none", 404},
		{"DELETE", "/v1/requests", 404}, {"PUT", "/v1/trust/keys", 404}, {"POST", "/log/checkpoint", 404}, {"OPTIONS", "/v1/requests", 404}, {"POST", "/healthz", 404},
		{"GET", "/log/tile/x", 404}, {"GET", "/log/tile/0/../../etc/passwd", 404}, {"GET", "/log/tile/0/999", 404}, {"GET", "/log/tile/0/000.p/256", 404}, {"GET", "/log/tile/-1/000", 404},
	} {
		a := r.do(call{method: c.method, path: c.path})
		if a.Status != c.status {
			t.Errorf("%s %s answered %d, want %d: %s", c.method, c.path, a.Status, c.status, a.Body)
		}
		if p := r.problem(a); p.Fix == "" && p.Expected == "" {
			t.Errorf("%s %s: no way out: %s", c.method, c.path, a.Body)
		}
	}
	head := r.bare(http.MethodHead, "/v1/requests")
	if head.Status < 400 || len(head.Body) != 0 {
		t.Errorf("HEAD answered %d %s", head.Status, head.Body)
	}
}

// bare is for answers that have no body to be held against anything.
func (r *rig) bare(method, path string) testenv.Answer {
	r.t.Helper()
	req, err := http.NewRequest(method, r.base+path, nil)
	ok(r.t, err)
	resp, err := http.DefaultClient.Do(req)
	ok(r.t, err)
	defer func() { _ = resp.Body.Close() }() // read only
	body, err := io.ReadAll(resp.Body)
	ok(r.t, err)
	return testenv.Answer{Status: resp.StatusCode, Header: resp.Header, Body: body}
}

// TestMetricLabelCardinality (CVE-2026-49835): what strangers send never
// becomes a label.
func TestMetricLabelCardinalityIsNotForStrangers(t *testing.T) {
	r := start(t, testenv.Options{})
	for _, c := range []call{
		{method: "GET", path: "/stranger1"}, {method: "GET", path: "/v1/stranger2"}, {method: "GET", path: "/v1/requests/stranger3", capability: "stranger4stranger4"},
		{method: "DELETE", path: "/v1/requests/stranger5"}, {method: "DELETE", path: "/stranger6"}, {method: "STRANGER7", path: "/v1/requests"}, {method: "STRANGER8", path: "/stranger9"},
		{method: "GET", path: "/v1/trust/keys/stranger10"}, {method: "GET", path: "/log/tile/stranger11"}, {method: "GET", path: "/healthz/stranger12"}, {method: "PUT", path: "/healthz"},
		{method: "POST", path: "/v1/requests/stranger13/cancel", token: "stranger14"},
	} {
		r.do(c)
	}
	text := strings.ToLower(string(r.get("/metrics", "").Body))
	if strings.Contains(text, "stranger") {
		t.Errorf("%s", text)
	}
	for _, want := range []string{`sealwright_http_requests_total{method="get",route="/v1/requests/:id",status="404"} 1`, `method="other"`, `sealwright_tokens_refused_total{code="unauthenticated"} 1`} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing in\n%s", want, text)
		}
	}
}

func TestTooManyRequestsOfOneAddressAreRefusedAndProbesAreNot(t *testing.T) {
	r := start(t, testenv.Options{})
	// One request, and the next in a quarter of an hour.
	r.serve(r.another(func(o *server.Options) { o.Rate = 0.001 }).Handler())
	if a := r.get("/v1/trust/keys", ""); a.Status != http.StatusOK {
		t.Fatalf("the first request answered %d: %s", a.Status, a.Body)
	}
	for _, c := range []call{
		{method: "GET", path: "/v1/trust/keys"},
		{method: "GET", path: "/nothing"}, // a flood of nonsense is a flood
		{method: "GET", path: "/v1/trust/keys", header: http.Header{"X-Forwarded-For": {"192.0.2.7"}, "X-Real-Ip": {"192.0.2.8"}, "Forwarded": {"for=192.0.2.9"}}},
		submission(r.token(mainJob(0)), "k", testenv.Body("release", r.e.Image(t.Name()))),
	} {
		a := r.do(c)
		if p := r.problem(a); a.Status != http.StatusTooManyRequests || p.Fix == "" || a.Header.Get("Retry-After") != "1" {
			t.Errorf("%s %s answered %d: %s", c.method, c.path, a.Status, a.Body)
		}
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		if a := r.get(path, ""); a.Status != http.StatusOK {
			t.Errorf("%s answered %d", path, a.Status)
		}
	}
	r.nothing(0)
}

func TestLogThatIsNotPublicIsServedToAuditorsAndAdminsOnly(t *testing.T) {
	r := start(t, testenv.Options{})
	r.sign(0, r.e.Image(t.Name()))
	r.logged()
	r.serve(r.another(func(o *server.Options) { o.PublicLog = false }).Handler())
	for _, path := range []string{"/log/checkpoint", "/log/tile/0/000.p/5", "/log/tile/entries/000.p/5"} {
		r.refused(r.get(path, ""), http.StatusUnauthorized)
		r.refused(r.as(r.token(mainJob(7)), path), http.StatusForbidden, "auditor")
		r.refused(r.as(r.e.Person(signing.Approver, signing.Submitter), path), http.StatusForbidden, "auditor or admin", "approver and submitter")
		for _, role := range []signing.PeopleRole{signing.Auditor, signing.Admin} {
			if a := r.as(r.e.Person(role), path); a.Status != http.StatusOK {
				t.Errorf("%s answered %s %d: %s", path, role, a.Status, a.Body)
			}
		}
	}
	// The key to verify it with, and the newest checkpoint in answers, are not secret.
	if a := r.get("/v1/trust/log", ""); a.Status != http.StatusOK {
		t.Errorf("/v1/trust/log answered %d", a.Status)
	}
}

func TestServiceWhoseLogFallsBehindIsNotReady(t *testing.T) {
	r := start(t, testenv.Options{})
	r.sign(0, r.e.Image(t.Name()))
	ready := func(want int) {
		t.Helper()
		a := r.get("/readyz", "")
		var doc struct {
			Ready  bool
			Checks []struct {
				Name string
				OK   bool
			}
		}
		a.JSON(t, &doc)
		if a.Status != want || doc.Ready != (want == http.StatusOK) || len(doc.Checks) < 4 {
			t.Errorf("/readyz answered %d: %s", a.Status, a.Body)
		}
	}
	ready(http.StatusOK)
	r.e.Clock.Add(int64(31 * time.Second))
	ready(http.StatusServiceUnavailable)
	ok(t, r.s.Workflow.Sequence(t.Context()))
	ready(http.StatusOK)
}

// TestProblemOfABrokenServiceTellsNothing: what goes wrong inside stays inside.
func TestProblemOfABrokenServiceTellsNothing(t *testing.T) {
	r := start(t, testenv.Options{})
	r.sign(0, r.e.Image(t.Name()))
	r.serve(r.another(func(*server.Options) {}).Handler())
	r.s.Stop() // with it the database is closed
	for _, path := range []string{"/log/checkpoint", "/log/tile/0/000.p/1"} {
		a := r.bare(http.MethodGet, path)
		var p api.Problem
		if err := json.Unmarshal(a.Body, &p); err != nil || a.Status < 500 || p.Detail == "" || strings.Contains(string(a.Body), "sql") || strings.Contains(string(a.Body), r.e.Dir) {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	}
	if a := r.get("/healthz", ""); a.Status != http.StatusOK {
		t.Errorf("/healthz answered %d", a.Status)
	}
	if a := r.get("/readyz", ""); a.Status != http.StatusServiceUnavailable {
		t.Errorf("/readyz answered %d", a.Status)
	}
}
