package submit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/ci"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/submit"
)

const (
	requestID = "sr_0123456789ABCDEF"
	digestA   = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	imageA    = "registry.acme.dev/payments/web@" + digestA
	// tokenLife is how long the service takes a token after it was issued.
	tokenLife = 2 * time.Minute
)

// world is a job of GitHub Actions, its token endpoint, and a service that
// refuses what the real one refuses. Its clock moves only when someone sleeps.
type world struct {
	t    *testing.T
	dir  string
	env  map[string]string
	out  bytes.Buffer
	http *httptest.Server

	mu     sync.Mutex
	now    time.Time
	slept  []time.Duration
	tokens []string
	issued map[string]time.Time
	used   map[string]string // token -> idempotency key

	// before, where set, may answer a call in place of the service; one at a time.
	beforeMu sync.Mutex
	before   func(w http.ResponseWriter, r *http.Request) (done bool)
	// steps are what the request becomes, one for each read.
	steps []func(r *signing.Request, tasks []signing.Task) []signing.Task

	calls      []string // "POST key digest-of-body", "GET", "CANCEL"
	request    signing.Request
	tasks      []signing.Task
	tally      signing.Tally
	capability string
	bodies     []api.SubmitRequest
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{t: t, dir: dir, now: time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC), issued: map[string]time.Time{}, used: map[string]string{}}
	w.http = httptest.NewServer(w)
	t.Cleanup(w.http.Close)
	w.env = map[string]string{
		"GITHUB_ACTIONS": "true", "CI": "true", "GITHUB_RUN_ID": "100", "GITHUB_RUN_ATTEMPT": "1", "GITHUB_JOB": "release",
		"ACTIONS_ID_TOKEN_REQUEST_URL": w.http.URL + "/token?v=1", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "request-token",
		"GITHUB_OUTPUT": filepath.Join(dir, "output"), "GITHUB_STEP_SUMMARY": filepath.Join(dir, "summary"),
		"INPUT_SERVER": w.http.URL, "INPUT_POLICY": "release", "INPUT_IMAGES": imageA, "HOME": dir,
	}
	w.steps = []func(*signing.Request, []signing.Task) []signing.Task{becomes(signing.Signing, signing.Queued), becomes(signing.Completed, signing.Published)}
	return w
}

// becomes moves the request and all its tasks; there is one task for each artifact.
func becomes(state signing.RequestState, task signing.TaskState) func(*signing.Request, []signing.Task) []signing.Task {
	return func(r *signing.Request, tasks []signing.Task) []signing.Task {
		r.State = state
		if tasks == nil {
			for i, a := range r.Artifacts {
				tasks = append(tasks, signing.Task{ID: fmt.Sprintf("%s.%d", r.ID, i+1), RequestID: r.ID, Artifact: a, Step: signing.Step{Method: "cosign", Key: "release-ec"}})
			}
		}
		for i := range tasks {
			tasks[i].State = task
			if task == signing.Published {
				tasks[i].Locations = []signing.Location{{Kind: "tag", URI: string(tasks[i].Artifact.Repository) + ":sha256-" + tasks[i].Artifact.Digest.Hex() + ".sig"}}
			}
		}
		return tasks
	}
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) sleep(ctx context.Context, d time.Duration) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.slept = append(w.slept, d)
	w.now = w.now.Add(d)
	return ctx.Err()
}

// ServeHTTP is the token endpoint and the service.
func (w *world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/token" {
		w.token(rw, r)
		return
	}
	if w.answeredBefore(rw, r) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.service(rw, r); err != nil {
		_ = api.WriteProblem(rw, api.FromError(err))
	}
}

func (w *world) answeredBefore(rw http.ResponseWriter, r *http.Request) bool {
	w.beforeMu.Lock()
	defer w.beforeMu.Unlock()
	return w.before != nil && w.before(rw, r)
}

func (w *world) token(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.Header.Get("Authorization") != "bearer request-token" {
		rw.WriteHeader(http.StatusUnauthorized)
		return
	}
	token := fmt.Sprintf("header%d.aud-%x.signature", len(w.tokens), r.URL.Query().Get("audience"))
	w.tokens = append(w.tokens, token)
	w.issued[token] = w.now
	_ = json.NewEncoder(rw).Encode(map[string]string{"value": token})
}

// authenticate wants a token of ours, young, for this service.
func (w *world) authenticate(r *http.Request) (string, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	at, known := w.issued[token]
	switch {
	case !ok || !known:
		return "", &signing.Error{Code: signing.Unauthenticated, Message: "unknown token", Fix: "send the job's token"}
	case !strings.Contains(token, fmt.Sprintf("aud-%x.", w.http.URL)):
		return "", &signing.Error{Code: signing.Unauthenticated, Message: "wrong audience", Expected: w.http.URL}
	case w.now.Sub(at) > tokenLife:
		return "", &signing.Error{Code: signing.Unauthenticated, Message: "the token has expired"}
	}
	return token, nil
}

func (w *world) service(rw http.ResponseWriter, r *http.Request) error {
	switch {
	case r.Method == "POST" && r.URL.Path == "/v1/requests":
		return w.submit(rw, r)
	case r.Method == "GET" && r.URL.Path == "/v1/requests/"+requestID:
		w.calls = append(w.calls, "GET")
		if r.Header.Get("Authorization") != "" || r.Header.Get(api.HeaderCapability) != w.capability {
			return &signing.Error{Code: signing.NotFound, Message: "no such request, or not with this capability"}
		}
		if len(w.steps) > 0 {
			w.tasks = w.steps[0](&w.request, w.tasks)
			w.request.Version++
			w.steps = w.steps[1:]
		}
		return w.answer(rw, http.StatusOK)
	case r.Method == "PUT" && strings.HasPrefix(r.URL.Path, "/v1/requests/"+requestID+"/content/"):
		rw.WriteHeader(http.StatusNoContent)
		return nil
	case r.Method == "POST" && r.URL.Path == "/v1/requests/"+requestID+"/cancel":
		token, err := w.authenticate(r)
		if err != nil {
			return err
		}
		if w.used[token] != "" {
			return &signing.Error{Code: signing.Unauthenticated, Message: "a token that was used before"}
		}
		w.calls = append(w.calls, "CANCEL")
		w.request.State = signing.Canceled
		return w.answer(rw, http.StatusOK)
	}
	return &signing.Error{Code: signing.NotFound, Message: "no such route: " + r.Method + " " + r.URL.Path}
}

func (w *world) submit(rw http.ResponseWriter, r *http.Request) error {
	token, err := w.authenticate(r)
	if err != nil {
		w.calls = append(w.calls, "POST refused")
		return err
	}
	key := r.Header.Get(api.HeaderIdempotencyKey)
	if err := api.ValidateIdempotencyKey(key); err != nil {
		return err
	}
	body, err := api.ReadSubmission(r.Body)
	if err != nil {
		return err
	}
	digest, err := body.Digest()
	if err != nil {
		return err
	}
	w.calls = append(w.calls, "POST "+key+" "+string(digest))
	w.bodies = append(w.bodies, body)
	if was := w.used[token]; was != "" && was != key {
		return &signing.Error{Code: signing.Conflict, Message: "this token was used with another idempotency key"}
	}
	w.used[token] = key
	status := http.StatusOK
	if w.request.ID == "" {
		status = http.StatusCreated
		w.request = signing.Request{ID: requestID, State: signing.Pending, Version: 1, Policy: body.Policy, IdempotencyKey: key, BodyDigest: digest, Submitted: w.now, Deadline: w.now.Add(time.Hour)}
		for _, a := range body.Artifacts {
			w.request.Artifacts = append(w.request.Artifacts, a.Artifact())
		}
	} else if w.request.IdempotencyKey != key || w.request.BodyDigest != digest {
		return &signing.Error{Code: signing.Conflict, Message: "the key was used for another body"}
	}
	w.capability = fmt.Sprintf("capability-%d-0123456789abcdef", len(w.calls))
	rw.Header().Set(api.HeaderCapability, w.capability)
	return w.answer(rw, status)
}

func (w *world) answer(rw http.ResponseWriter, status int) error {
	rw.Header().Set("Content-Type", "application/json")
	rw.WriteHeader(status)
	out := api.FromRequest(w.request, w.tasks, "sealwright.test/log\n7\nroot\n\n— signature\n")
	out.Approval = api.FromApproval(w.request, w.tally, "0a1b2c3d")
	return json.NewEncoder(rw).Encode(out)
}

// main runs the command as a process would.
func (w *world) main(ctx context.Context, args ...string) int {
	return submit.Main(ctx, submit.Process{Args: args, Env: w.getenv, Stdout: &w.out, Stderr: &w.out, Version: "v1", Now: w.clock, Sleep: w.sleep})
}

func (w *world) getenv(k string) string { return w.env[k] }

func (w *world) file(name string) string {
	w.t.Helper()
	raw, err := os.ReadFile(filepath.Join(w.dir, name))
	if err != nil && !os.IsNotExist(err) {
		w.t.Fatal(err)
	}
	return string(raw)
}

// outputs reads GITHUB_OUTPUT.
func (w *world) outputs() map[string]string {
	out := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z-]+)<<(ghadelimiter_[0-9a-f]+)\n((?s:.*?))\n(ghadelimiter_[0-9a-f]+)$`).FindAllStringSubmatch(w.file("output"), -1) {
		if m[2] != m[4] {
			w.t.Errorf("delimiters %s and %s", m[2], m[4])
		}
		out[m[1]] = m[3]
	}
	return out
}

// check wants an exit code, and the log and summary to hold each of the texts.
func (w *world) check(got, want int, texts ...string) {
	w.t.Helper()
	if got != want {
		w.t.Errorf("exit code %d, want %d", got, want)
	}
	for _, s := range texts {
		if !strings.Contains(w.out.String(), s) {
			w.t.Errorf("the log does not say %q", s)
		}
	}
	w.noSecrets()
	if w.t.Failed() {
		w.t.Logf("log:\n%s\ncalls: %q", w.out.String(), w.calls)
	}
}

// noSecrets scans everything that was written for tokens and capabilities.
func (w *world) noSecrets() {
	w.t.Helper()
	rest := w.out.String()
	for _, secret := range append([]string{w.capability, "request-token"}, w.tokens...) {
		if secret == "" {
			continue
		}
		rest = strings.ReplaceAll(rest, "::add-mask::"+secret+"\n", "")
		for _, where := range []string{rest, w.file("output"), w.file("summary"), w.file("result.json")} {
			if strings.Contains(where, secret) {
				w.t.Errorf("%s is written in the open:\n%s", secret, where)
			}
		}
	}
	// Commands to the runner are masks and one annotation, whoever wrote the text.
	for _, line := range regexp.MustCompile(`\r\n|\n|\r`).Split(rest, -1) {
		if t := strings.TrimSpace(line); strings.HasPrefix(t, "::") && !strings.HasPrefix(t, "::add-mask::") && !strings.HasPrefix(t, "::error title=Sealwright%3A ") && !strings.HasPrefix(t, "::warning title=Sealwright%3A ") && !strings.HasPrefix(t, "::notice title=Sealwright asks for approval::") || strings.Contains(line, "##[") {
			w.t.Errorf("the runner would obey %q", line)
		}
	}
}

// registry is a registry on this machine with one image, and what was asked of it.
type registry struct {
	host, image, digest string
	mu                  sync.Mutex
	asked               []string
	headers             []http.Header
}

func newRegistry(t *testing.T, password string) *registry {
	t.Helper()
	r := &registry{}
	inner := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.asked = append(r.asked, req.Method+" "+req.URL.Path)
		r.headers = append(r.headers, req.Header.Clone())
		r.mu.Unlock()
		if _, p, _ := req.BasicAuth(); password != "" && p != password && req.Header.Get("X-Setup") == "" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, req)
	}))
	t.Cleanup(s.Close)
	r.host = strings.TrimPrefix(s.URL, "http://")
	img, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	r.image = r.host + "/payments/web:v1"
	ref, err := name.ParseReference(r.image)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img, remote.WithTransport(setup{})); err != nil {
		t.Fatal(err)
	}
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	r.digest = d.String()
	r.asked, r.headers = nil, nil
	return r
}

// setup passes the registry's lock to put the image there.
type setup struct{}

func (setup) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Setup", "1")
	return http.DefaultTransport.RoundTrip(r)
}

// byDigest is the image by its digest.
func (r *registry) byDigest() string { return strings.TrimSuffix(r.image, ":v1") + "@" + r.digest }

func (r *registry) asksFor(path string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, a := range r.asked {
		if strings.HasSuffix(a, path) {
			n++
		}
	}
	return n
}

// environment is the CI of the world, for tests that call Run.
func (w *world) environment() *ci.Environment {
	return ci.Detect(ci.Options{Env: w.getenv, Out: &w.out, Sleep: w.sleep})
}
