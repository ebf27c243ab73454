package submit_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/submit"
	"github.com/sealwright/sealwright/internal/testenv"
)

// job is the step in a pipeline of a CI that this package does not know, with
// the real service and a real registry around it. Each call of run is a new
// process of the same job.
type job struct {
	t      *testing.T
	env    *testenv.Env
	dir    string
	faults *testenv.Faults // nil for none
	// after, where set, runs after every call of the process to the outside.
	after func()
	token string // of the one that GitHub's job gets

	mu      sync.Mutex
	service *testenv.Service // guarded by mu; the one that answers now
	out     bytes.Buffer     // guarded by mu
}

func newJob(t *testing.T, s *testenv.Service) *job {
	return &job{t: t, env: s.Env, service: s, dir: t.TempDir(), token: s.Env.GitHub(devworld.NewGitHubJob())}
}

// server is the address that jobs have of the service, wherever it runs.
const server = "http://127.0.0.1:9"

// restarted makes s the service that answers.
func (j *job) restarted(s *testenv.Service) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.service = s
}

func (j *job) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.out.Write(b)
}

func (j *job) log() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.out.String()
}

// RoundTrip carries the calls of the process.
func (j *job) RoundTrip(r *http.Request) (*http.Response, error) {
	base := http.DefaultTransport
	if j.faults != nil {
		base = j.faults.Transport(base, func(r *http.Request) string {
			if strings.HasPrefix(r.URL.Path, "/v1/") {
				return "service"
			}
			return "registry"
		})
	}
	var answering *testenv.Service
	if strings.HasPrefix(r.URL.Path, "/v1/") {
		j.mu.Lock()
		answering = j.service
		host := strings.TrimPrefix(j.service.HTTP.URL, "http://")
		j.mu.Unlock()
		r = r.Clone(r.Context())
		r.URL.Host, r.Host = host, ""
	}
	resp, err := base.RoundTrip(r)
	if answering != nil && err == nil {
		select {
		case <-answering.Faults.Died():
			_ = resp.Body.Close() // a dead process answers nothing
			resp, err = nil, io.ErrUnexpectedEOF
		default:
		}
	}
	if j.after != nil {
		j.after()
	}
	return resp, err
}

// run is one process. It returns the exit code; a process that died has none
// that counts.
func (j *job) run(args ...string) int {
	j.t.Helper()
	ctx, cancel := context.WithCancel(j.t.Context())
	defer cancel()
	if faults := j.faults; faults != nil { // j has others, or none, in its next run
		go func() {
			select {
			case <-faults.Died():
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	env := map[string]string{
		"SEALWRIGHT_SERVER": server, "SEALWRIGHT_AUDIENCE": testenv.Audience, "SEALWRIGHT_POLICY": "release", "SEALWRIGHT_ID_TOKEN": j.token,
		"SEALWRIGHT_OUTPUT_FILE": filepath.Join(j.dir, "outputs"), "SEALWRIGHT_SUMMARY_FILE": filepath.Join(j.dir, "summary"), "HOME": j.dir,
	}
	clock := &fastClock{}
	return submit.Main(ctx, submit.Process{
		Args: args, Env: func(k string) string { return env[k] }, Stdout: j, Stderr: j, Version: "test",
		Transport: j, Now: clock.now, Sleep: clock.sleep,
	})
}

func (j *job) file(name string) string {
	j.t.Helper()
	raw, err := os.ReadFile(filepath.Join(j.dir, name))
	if err != nil && !os.IsNotExist(err) {
		j.t.Fatal(err)
	}
	return string(raw)
}

// fastClock is the real one, in which sleeping takes a hundredth.
type fastClock struct {
	mu   sync.Mutex
	more time.Duration // guarded by mu
}

func (c *fastClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.more)
}

func (c *fastClock) sleep(ctx context.Context, d time.Duration) error {
	c.mu.Lock()
	c.more += d
	c.mu.Unlock()
	select {
	case <-time.After(d / 100):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// names reports which digest a tag of the registry names, "" for none.
func (j *job) names(repository signing.Repository, tag string) string {
	j.t.Helper()
	resp, err := http.Get("http://" + repository.Host() + "/v2/" + repository.Path() + "/manifests/" + tag)
	if err != nil {
		j.t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		j.t.Fatal(err)
	}
	if resp.StatusCode == http.StatusNotFound {
		return ""
	}
	if resp.StatusCode != http.StatusOK {
		j.t.Fatalf("%s:%s answers %s", repository, tag, resp.Status)
	}
	return string(signing.DigestOf(b.Bytes()))
}

// lastRequest returns the id of the request that the log names.
func (j *job) lastRequest() string {
	j.t.Helper()
	m := regexp.MustCompile(`sr_[0-9A-Z]{16}`).FindString(j.log())
	if m == "" {
		j.t.Fatalf("no request in the log:\n%s", j.log())
	}
	return m
}

// cancel withdraws a request with the job's token.
func (j *job) cancel(id string) api.Request {
	j.t.Helper()
	var r api.Request
	j.service.Post("/v1/requests/"+id+"/cancel", j.token, "", "").JSON(j.t, &r)
	return r
}

// ended reads a request with a person's token until it is over.
func (j *job) ended(id string) api.Request {
	j.t.Helper()
	c, err := api.NewClient(api.ClientOptions{Server: j.service.HTTP.URL})
	if err != nil {
		j.t.Fatal(err)
	}
	var r api.Request
	for until := time.Now().Add(20 * time.Second); time.Now().Before(until); {
		if r, err = c.GetAs(j.t.Context(), id, j.env.Person(signing.Auditor), r.Version, time.Second); err != nil {
			j.t.Fatal(err)
		}
		if r.State.Terminal() {
			return r
		}
	}
	j.t.Fatalf("request %s is %s", id, r.State)
	return r
}
