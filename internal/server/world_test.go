package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/server"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

// world is shared by the tests of the package, since making one takes two RSA
// keys. Every test has images and a service of its own.
var world *devworld.World

func TestMain(m *testing.M) {
	var err error
	if world, err = devworld.Start(devworld.Options{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	openapi3filter.RegisterBodyDecoder("application/x-pem-file", openapi3filter.PlainBodyDecoder)
	code := m.Run()
	if err := world.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// description is openapi.yaml, loaded and checked once.
var description = sync.OnceValues(func() (*openapi3.T, error) {
	doc, err := openapi3.NewLoader().LoadFromData(server.OpenAPI)
	if err != nil {
		return nil, err
	}
	return doc, doc.Validate(context.Background())
})

// listener remembers what the service logs, so that it can be searched.
type listener struct {
	testing.TB
	mu  sync.Mutex
	log strings.Builder // guarded by mu
}

func (l *listener) Logf(format string, args ...any) {
	l.mu.Lock()
	fmt.Fprintf(&l.log, format+"\n", args...)
	l.mu.Unlock()
	l.TB.Logf(format, args...)
}

func (l *listener) text() string { l.mu.Lock(); defer l.mu.Unlock(); return l.log.String() }

// rig is one service and its client. Every request of this package's tests goes
// through do, which holds the answer against openapi.yaml.
type rig struct {
	t     *testing.T
	e     *testenv.Env
	s     *testenv.Service
	doc   *openapi3.T
	heard *listener
	base  string // of the service's URL
	seen  *seen
}

// seen is what the requests of a test had in them.
type seen struct {
	mu      sync.Mutex
	secrets []string        // guarded by mu; what nobody may be told
	visited map[string]bool // guarded by mu; operations that answered with success
}

// in returns r for a subtest.
func (r *rig) in(t *testing.T) *rig {
	sub := *r
	sub.t = t
	return &sub
}

func start(t *testing.T, o testenv.Options) *rig {
	t.Helper()
	doc, err := description()
	ok(t, err)
	o.World = world
	r := &rig{t: t, doc: doc, heard: &listener{TB: t}, seen: &seen{visited: map[string]bool{}}}
	r.e = testenv.New(r.heard, o)
	t.Cleanup(func() { r.silent("the service's log", r.heard.text()) }) // runs when the service has stopped
	r.s = r.e.Start(nil)
	r.base = r.s.HTTP.URL
	return r
}

// call is one request.
type call struct {
	method, path                   string
	token, idempotency, capability string
	body                           string
	header                         http.Header // besides what the fields above make
}

func (r *rig) do(c call) testenv.Answer {
	r.t.Helper()
	req, err := http.NewRequest(c.method, r.base+c.path, strings.NewReader(c.body))
	ok(r.t, err)
	if c.body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for name, value := range map[string]string{"Idempotency-Key": c.idempotency, api.HeaderCapability: c.capability} {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	for name, values := range c.header {
		req.Header[name] = values
	}
	for _, v := range req.Header["Authorization"] {
		r.keepSecret(v)
	}
	resp, err := http.DefaultClient.Do(req)
	ok(r.t, err)
	defer func() { _ = resp.Body.Close() }() // read only
	body, err := io.ReadAll(resp.Body)
	ok(r.t, err)
	a := testenv.Answer{Status: resp.StatusCode, Header: resp.Header, Body: body}
	if given := a.Header.Get(api.HeaderCapability); given != "" {
		r.seen.mu.Lock()
		r.seen.secrets = append(r.seen.secrets, given)
		r.seen.mu.Unlock()
	}
	r.hold(req, c.body, a)
	said := string(body)
	for name, values := range a.Header {
		if name != api.HeaderCapability {
			said += "\n" + strings.Join(values, "\n")
		}
	}
	r.silent("the answer to "+c.method+" "+c.path, said)
	return a
}

// keepSecret remembers the parts of a header with a token that only its holder
// knows: claims and signature, or all of what is no token.
func (r *rig) keepSecret(header string) {
	_, token, _ := strings.Cut(header, " ")
	parts := strings.Split(token, ".")
	if len(parts) == 3 {
		parts = parts[1:]
	}
	r.seen.mu.Lock()
	defer r.seen.mu.Unlock()
	for _, p := range parts {
		if len(p) >= 16 {
			r.seen.secrets = append(r.seen.secrets, p)
		}
	}
}

func (r *rig) silent(where, text string) {
	r.t.Helper()
	r.seen.mu.Lock()
	defer r.seen.mu.Unlock()
	for _, s := range r.seen.secrets {
		if strings.Contains(text, s) {
			r.t.Errorf("%s holds the secret %.24s...", where, s)
		}
	}
}

// operation finds what openapi.yaml says of a request, nil for nothing.
func (r *rig) operation(method, path string) (*routers.Route, map[string]string) {
	for template, item := range r.doc.Paths.Map() {
		names := regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(template, -1)
		pattern := regexp.QuoteMeta(template)
		for _, n := range names {
			part := `([^/]+)`
			if n[1] == "path" { // the rest of a tile's path, as C2SP has it
				part = `(.+)`
			}
			pattern = strings.Replace(pattern, regexp.QuoteMeta(n[0]), part, 1)
		}
		m := regexp.MustCompile("^" + pattern + "$").FindStringSubmatch(path)
		op := item.GetOperation(method)
		if m == nil || op == nil {
			continue
		}
		params := map[string]string{}
		for i, n := range names {
			params[n[1]] = m[i+1]
		}
		return &routers.Route{Spec: r.doc, Path: template, PathItem: item, Method: method, Operation: op}, params
	}
	return nil, nil
}

// hold holds an answer against openapi.yaml, and a request that the service
// took as well: what it accepts, the description must allow.
func (r *rig) hold(req *http.Request, body string, a testenv.Answer) {
	r.t.Helper()
	if a.Status >= 400 && a.Status != http.StatusServiceUnavailable || a.Header.Get("Content-Type") == api.ContentTypeProblem {
		r.problem(a)
	}
	route, params := r.operation(req.Method, req.URL.Path)
	if route == nil {
		if a.Status < 400 {
			r.t.Errorf("%s %s is not in openapi.yaml and answered %d", req.Method, req.URL.Path, a.Status)
		}
		return
	}
	again := req.Clone(context.Background())
	again.Body = io.NopCloser(strings.NewReader(body))
	in := &openapi3filter.RequestValidationInput{
		Request: again, PathParams: params, Route: route,
		Options: &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
	}
	if a.Status < 300 {
		r.seen.mu.Lock()
		r.seen.visited[route.Operation.OperationID] = true
		r.seen.mu.Unlock()
		if err := openapi3filter.ValidateRequest(context.Background(), in); err != nil {
			r.t.Errorf("%s %s was taken, but openapi.yaml does not allow it: %v", req.Method, req.URL.Path, err)
		}
	}
	out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: a.Status, Header: a.Header, Options: in.Options}
	out.SetBodyBytes(a.Body)
	if err := openapi3filter.ValidateResponse(context.Background(), out); err != nil {
		r.t.Errorf("the answer %d to %s %s is not that of openapi.yaml: %v\n%s", a.Status, req.Method, req.URL.Path, err, a.Body)
	}
}

// problem checks what every problem document has.
func (r *rig) problem(a testenv.Answer) api.Problem {
	r.t.Helper()
	var p api.Problem
	var value any
	if err := json.Unmarshal(a.Body, &value); err != nil || a.Header.Get("Content-Type") != api.ContentTypeProblem {
		r.t.Errorf("status %d without a problem document: %s: %.200s", a.Status, a.Header.Get("Content-Type"), a.Body)
		return p
	}
	if err := r.doc.Components.Schemas["Problem"].Value.VisitJSON(value); err != nil {
		r.t.Errorf("the problem is not that of openapi.yaml: %v: %s", err, a.Body)
	}
	a.JSON(r.t, &p)
	if p.Status != a.Status || api.Status(p.Code) != a.Status || p.Detail == "" || p.Type == "" {
		r.t.Errorf("status %d with %s", a.Status, a.Body)
	}
	if retry := a.Header.Get("Retry-After"); (retry != "") != (p.RetryAfterSeconds > 0) || retry != "" && retry != strconv.Itoa(p.RetryAfterSeconds) {
		r.t.Errorf("Retry-After %q with %s", retry, a.Body)
	}
	if (p.Code == signing.RateLimited || p.Code == signing.Unavailable) && p.RetryAfterSeconds == 0 {
		r.t.Errorf("%s without Retry-After", p.Code)
	}
	if a.Header.Get("Cache-Control") != "no-store" || a.Header.Get("X-Content-Type-Options") != "nosniff" {
		r.t.Errorf("headers %v", a.Header)
	}
	if p.Code == signing.Internal {
		r.t.Errorf("internal error: %s", a.Body)
	}
	return p
}

// refused checks a refusal: its status, and that it says what was expected, what
// was found, how to fix it, and the words.
func (r *rig) refused(a testenv.Answer, status int, words ...string) api.Problem {
	r.t.Helper()
	p := r.problem(a)
	if a.Status != status {
		r.t.Fatalf("answered %d, want %d: %s", a.Status, status, a.Body)
	}
	r.says(p.Detail+"\n"+p.Expected+"\n"+p.Found+"\n"+p.Fix, words...)
	if p.Expected == "" || p.Found == "" || p.Fix == "" {
		r.t.Errorf("it does not say all of expected, found and fix: %s", a.Body)
	}
	return p
}

func (r *rig) says(text string, words ...string) {
	r.t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			r.t.Errorf("%q is not said in: %s", w, text)
		}
	}
}

// token returns a token of a job on GitHub.
func (r *rig) token(j devworld.GitHubJob) string { r.t.Helper(); return r.e.GitHub(j) }

// main is a job on the main branch, in a run of its own if n is not 0.
func mainJob(n int) devworld.GitHubJob {
	j := devworld.NewGitHubJob()
	if n != 0 {
		j.RunID = strconv.Itoa(9100 + n)
	}
	return j
}

func submission(token, idempotency, body string) call {
	return call{method: http.MethodPost, path: api.PathRequests, token: token, idempotency: idempotency, body: body}
}

// submit submits and expects it to be taken.
func (r *rig) submit(token, idempotency, body string) (api.Request, string) {
	r.t.Helper()
	a := r.do(submission(token, idempotency, body))
	if a.Status != http.StatusCreated && a.Status != http.StatusOK {
		r.t.Fatalf("the submission answered %d: %s", a.Status, a.Body)
	}
	var q api.Request
	a.JSON(r.t, &q)
	if a.Header.Get("Location") != api.PathRequests+"/"+q.ID {
		r.t.Errorf("Location %q", a.Header.Get("Location"))
	}
	return q, a.Header.Get(api.HeaderCapability)
}

func (r *rig) get(path, capability string) testenv.Answer {
	r.t.Helper()
	return r.do(call{method: http.MethodGet, path: path, capability: capability})
}

// as reads a path with a token.
func (r *rig) as(token, path string) testenv.Answer {
	r.t.Helper()
	return r.do(call{method: http.MethodGet, path: path, token: token})
}

func (r *rig) read(id, capability string) api.Request {
	r.t.Helper()
	a := r.get(api.PathRequests+"/"+id, capability)
	if a.Status != http.StatusOK {
		r.t.Fatalf("reading answered %d: %s", a.Status, a.Body)
	}
	var q api.Request
	a.JSON(r.t, &q)
	return q
}

// finish polls until the request is over.
func (r *rig) finish(id, capability string) api.Request {
	r.t.Helper()
	version := int64(0)
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		a := r.get(fmt.Sprintf("%s/%s?wait=10s&version=%d", api.PathRequests, id, version), capability)
		if a.Status != http.StatusOK {
			r.t.Fatalf("reading answered %d: %s", a.Status, a.Body)
		}
		var q api.Request
		a.JSON(r.t, &q)
		if q.State.Terminal() {
			return q
		}
		version = q.Version
	}
	r.t.Fatalf("request %s is not over in a minute", id)
	return api.Request{}
}

// sign submits and expects one verified signature.
func (r *rig) sign(n int, a signing.Artifact) {
	r.t.Helper()
	id, capability := r.submit(r.token(mainJob(n)), "sign", testenv.Body("release", a))
	if q := r.finish(id.ID, capability); q.State != signing.Completed || r.e.Signatures(a) != 1 {
		r.t.Errorf("a good request ended %s with %d signatures: %+v", q.State, r.e.Signatures(a), q.Failure)
	}
}

// logged verifies the audit log and counts the events of each kind.
func (r *rig) logged() map[string]int {
	r.t.Helper()
	count := map[string]int{}
	r.s.VerifyEvidence()
	for _, ev := range r.s.VerifyLog() {
		count[ev.Kind]++
		r.silent("the audit log", ev.String())
	}
	if n := count[audit.KeyAttempt]; n < r.e.KeyUses() {
		r.t.Errorf("%d attempts in the log, %d key uses", n, r.e.KeyUses())
	}
	return count
}

// nothing makes sure that nothing came of what was refused: no request, no use
// of a key, no signature; and that as many refusals of verified tokens are in
// the audit log.
func (r *rig) nothing(refusals int, images ...signing.Artifact) {
	r.t.Helper()
	count := r.logged()
	if count[audit.RequestSubmitted] != 0 || r.e.KeyUses() != 0 {
		r.t.Errorf("%d requests, %d key uses", count[audit.RequestSubmitted], r.e.KeyUses())
	}
	if count[audit.TokenRefused] != refusals {
		r.t.Errorf("%d token.refused in the log, want %d", count[audit.TokenRefused], refusals)
	}
	for _, a := range images {
		if n := r.e.Signatures(a); n != 0 {
			r.t.Errorf("%d signatures of %s", n, a)
		}
	}
}

// ask counts the requests about an image that reach the registry from now on.
func asked(t *testing.T, a signing.Artifact) *devworld.Fault {
	t.Helper()
	f := world.Registry.Add(devworld.Rule{Path: regexp.MustCompile(regexp.QuoteMeta(a.Digest.Hex()))})
	t.Cleanup(f.Remove)
	return f
}

// eventually waits, as long as it takes on a slow machine, until done.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if done() {
			return
		}
	}
	t.Fatalf("not in a minute: %s", what)
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// compact returns JSON without spaces.
func compact(t *testing.T, raw []byte) string {
	t.Helper()
	var b bytes.Buffer
	ok(t, json.Compact(&b, raw))
	return b.String()
}
