//go:build bench

package bench

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"golang.org/x/sync/errgroup"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/identity"
	"github.com/sealwright/sealwright/internal/key"
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/method/cosign"
	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/method/notation"
	"github.com/sealwright/sealwright/internal/method/simple"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/policy"
	ourregistry "github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
	"github.com/sealwright/sealwright/internal/testenv"
	"github.com/sealwright/sealwright/internal/workflow"
)

const (
	audience = testenv.Audience
	// inProcessHost is a registry that is reached by a function call.
	inProcessHost = "127.0.0.1:5000"
	// jobs is how many requests are in hand at once.
	jobs = workflow.DefaultWorkers
	// checkpointEvery is a tenth of the longest that a configuration may say.
	checkpointEvery = time.Second
	requestLimit    = 2 * time.Minute
)

const keysYAML = `apiVersion: sealwright.dev/v1
keys:
  - id: release
    file: file:DIR/release.key
    methods: [cosign]
    allow: [{project: payments, policy: release, repositories: [IMAGES]}]
    require: {protected_ref: true}
  - id: release-x509
    file: file:DIR/release-x509.key
    certificates: file:DIR/release-x509.crt
    methods: [notation]
    allow: [{project: payments, policy: notation, repositories: [IMAGES]}]
    require: {protected_ref: true}
  - id: release-gpg
    file: file:DIR/release-gpg.key
    openpgp: {certificate: file:DIR/release-gpg.asc}
    methods: [simple]
    allow: [{project: payments, policy: simple, repositories: [IMAGES]}]
    require: {protected_ref: true}
  - id: release-dct
    file: file:DIR/release-dct.key
    methods: [dct]
    allow: [{project: payments, policy: trusted, repositories: [IMAGES]}]
    require: {protected_ref: true}
`

// policyYAML is the policy of the tests of the service, with one more for each of the
// other methods.
var policyYAML = strings.Replace(testenv.Policy, `"%[1]s/payments/*"`, "IMAGES", 1) + `  notation:
    origin: {refs: ["refs/heads/main"], ref_protected: true, github: {events: [push], workflow: .github/workflows/release.yml}}
    sign:
      - {method: notation, key: release-x509}
  simple:
    origin: {refs: ["refs/heads/main"], ref_protected: true, github: {events: [push], workflow: .github/workflows/release.yml}}
    sign:
      - {method: simple, key: release-gpg}
  trusted:
    tags: ["v*"]
    origin: {refs: ["refs/heads/main"], ref_protected: true, github: {events: [push], workflow: .github/workflows/release.yml}}
    sign:
      - {method: dct, key: release-dct}
`

// imagePatterns returns what IMAGES stands for above.
func imagePatterns(hosts ...string) string {
	var out []string
	for _, h := range hosts {
		out = append(out, `"`+h+`/payments/*"`)
	}
	return strings.Join(out, ", ")
}

// inProcess is a transport that calls a handler.
type inProcess struct{ handler http.Handler }

func (t inProcess) RoundTrip(req *http.Request) (*http.Response, error) {
	in := req.Clone(req.Context())
	if in.Body == nil {
		in.Body = http.NoBody
	}
	in.Host, in.RequestURI = in.URL.Host, in.URL.RequestURI()
	w := httptest.NewRecorder()
	t.handler.ServeHTTP(w, in)
	resp := w.Result()
	resp.Request = req
	return resp, nil
}

// counting counts the requests that pass.
type counting struct {
	base http.RoundTripper
	n    atomic.Int64
}

func (c *counting) RoundTrip(req *http.Request) (*http.Response, error) {
	c.n.Add(1)
	return c.base.RoundTrip(req)
}

// core is the service without its HTTP interface, in this process: policy, keys,
// store, workflow and registry client, assembled as cmd/sealwrightd does.
type core struct {
	store    *store.Store
	workflow *workflow.Workflow
	signer   *audit.Signer
	public   *ecdsa.PublicKey
	trust    *ecdsa.PublicKey  // of the key for Docker Content Trust
	x509     *ecdsa.PublicKey  // of the key with a certificate, for notation
	openPGP  []byte            // the certificate of the key for simple signing
	policy   string            // that is asked for
	sent     *counting         // what the service asks of the registry
	via      http.RoundTripper // what the registry is reached by
	identity signing.Identity
	origin   signing.Origin
	n        atomic.Int64 // requests made
	reads    atomic.Int64 // answers to jobs that wait: long polls, in a real service

	mu    sync.Mutex
	steps map[string]step // guarded by mu
}

// step is what workflow.Options.Steps reported of one step.
type step struct {
	n    int64
	took time.Duration
	sent int64 // requests to the registry when it last ended
}

// newCore starts a core that is stopped with the test. A nil via is the network.
func newCore(t testing.TB, host string, via http.RoundTripper) *core {
	t.Helper()
	return newCoreWith(t, host, via, func(m method.Method) method.Method { return m })
}

// newCoreWith is newCore with another notation method in the place of ours.
func newCoreWith(t testing.TB, host string, via http.RoundTripper, wrap func(method.Method) method.Method) *core {
	t.Helper()
	return newCoreTrusted(t, host, via, wrap, func(*ecdsa.PublicKey) []dct.Config { return nil })
}

// newCoreTrusted is newCoreWith and the Notary servers that notaries returns for the
// key that they are to trust.
func newCoreTrusted(t testing.TB, host string, via http.RoundTripper, wrap func(method.Method) method.Method, notaries func(*ecdsa.PublicKey) []dct.Config) *core {
	t.Helper()
	c := &core{via: via, policy: "release", steps: map[string]step{}}
	base := via
	if base == nil {
		plain := http.DefaultTransport.(*http.Transport).Clone() // the limits of outbound stand before it
		plain.MaxIdleConnsPerHost = outbound.DefaultPerHost
		t.Cleanup(plain.CloseIdleConnections)
		base = plain
	}
	c.sent = &counting{base: base}
	dir := t.TempDir()
	c.identify(t)
	log := slog.New(slog.DiscardHandler)
	reg, err := ourregistry.New([]ourregistry.Config{{Host: host, InsecureHTTP: true}}, ourregistry.Options{Transport: c.sent, Log: log})
	must(t, err)
	c.signer = newLogSigner(t)
	c.store = openStore(t, dir)
	text := strings.NewReplacer("DIR", dir, "IMAGES", imagePatterns(host))
	policies, err := policy.Load(map[string][]byte{"payments.yaml": []byte(text.Replace(policyYAML))})
	must(t, err)
	c.public = writeKey(t, filepath.Join(dir, "release.key"))
	c.x509 = writeCertified(t, dir)
	c.openPGP = writeOpenPGP(t, dir)
	lookaside, err := simple.New(nil, simple.Options{Own: c.store.Lookaside(), URL: "https://sign.acme.dev"})
	must(t, err)
	c.trust = writeKey(t, filepath.Join(dir, "release-dct.key"))
	trusted, err := dct.Open(notaries(c.trust), dct.Options{Memory: c.store.Trust()})
	must(t, err)
	conf, err := key.Load("keys.yaml", []byte(text.Replace(keysYAML)))
	must(t, err)
	ring, err := key.Open(t.Context(), conf, key.Options{})
	must(t, err)
	c.workflow, err = workflow.New(workflow.Options{
		Store: c.store, Policies: policies, Keys: ring, Methods: map[string]method.Method{cosign.Name: cosign.New(reg), notation.Name: wrap(notation.New(reg)), dct.Name: dct.New(trusted), simple.Name: lookaside}, Registry: reg,
		LogSigner: c.signer, CheckpointFile: filepath.Join(dir, "checkpoint"), CheckpointEvery: checkpointEvery,
		Now: time.Now, Rand: rand.Reader, Log: log, Owner: "bench", Version: "bench", Workers: jobs, Steps: c.step,
	})
	must(t, err)
	must(t, c.workflow.Load(t.Context()))
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.workflow.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c
}

// identify verifies one token as the service would; every request is then made
// with another token id.
func (c *core) identify(t testing.TB) {
	t.Helper()
	world, err := devworld.Start(devworld.Options{})
	must(t, err)
	defer func() { must(t, world.Close()) }()
	ids, err := identity.New(t.Context(), []identity.Issuer{{Provider: "github-actions", Issuer: world.GitHub.URL(), Audience: audience, Forge: "github.test"}},
		identity.Options{Client: outbound.NewClient(outbound.Options{AllowHTTP: true})})
	must(t, err)
	token, err := world.GitHub.GitHubToken(devworld.NewGitHubJob(), audience)
	must(t, err)
	c.identity, c.origin, err = ids.Verify(t.Context(), token)
	must(t, err)
}

func (c *core) step(name string, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.steps[name]
	c.steps[name] = step{s.n + 1, s.took + took, c.sent.n.Load()}
}

func (c *core) resetSteps() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.steps = map[string]step{}
}

// sign is one job: it submits and waits as the server does for sealwright-ci.
func (c *core) sign(ctx context.Context, images ...signing.Artifact) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	id, n := c.identity, c.n.Add(1)
	id.TokenID = fmt.Sprintf("%s-%d", id.TokenID, n)
	r, err := c.workflow.Submit(ctx, id, c.origin, workflow.Submission{Policy: c.policy, Artifacts: append([]signing.Artifact(nil), images...), IdempotencyKey: fmt.Sprint("job-", n)})
	for err == nil && !r.Request.State.Terminal() {
		c.reads.Add(1)
		r.Snapshot, err = c.workflow.Wait(ctx, r.Request.ID, r.Capability, r.Version(), requestLimit)
		if err == nil {
			err = ctx.Err()
		}
	}
	if err == nil && r.Request.State != signing.Completed {
		err = fmt.Errorf("request %s is %s: %w", r.Request.ID, r.Request.State, r.Request.Failure)
	}
	if err != nil {
		return "", err
	}
	return r.Request.ID, nil
}

// signEach makes a request of each image, n at once.
func (c *core) signEach(ctx context.Context, n int, images []signing.Artifact) error {
	return each(n, len(images), func(i int) error {
		_, err := c.sign(ctx, images[i])
		return err
	})
}

// each calls f with 0 to count-1 from n goroutines.
func each(n, count int, f func(i int) error) error {
	g := new(errgroup.Group)
	g.SetLimit(n)
	for i := range count {
		g.Go(func() error { return f(i) })
	}
	return g.Wait()
}

// newInProcess returns a registry that is reached by function calls.
func newInProcess() http.RoundTripper {
	return inProcess{registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
}

func openStore(t testing.TB, dir string) *store.Store {
	t.Helper()
	secret := make([]byte, store.MinSecret)
	_, err := rand.Read(secret)
	must(t, err)
	s, err := store.Open(t.Context(), store.Options{Path: filepath.Join(dir, "sealwright.db"), Secrets: [][]byte{secret}})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

func newLogSigner(t testing.TB) *audit.Signer {
	t.Helper()
	private, _, err := audit.GenerateKey(rand.Reader, "sign.sealwright.test/log")
	must(t, err)
	s, err := audit.NewSigner(private)
	must(t, err)
	return s
}

func writeKey(t testing.TB, path string) *ecdsa.PublicKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(k)
	must(t, err)
	must(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	return &k.PublicKey
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// BenchmarkCore is single-image requests through the core, registry in process.
func BenchmarkCore(b *testing.B) {
	for _, n := range []int{1, jobs} {
		b.Run(fmt.Sprintf("jobs=%d", n), func(b *testing.B) {
			defer debug.SetGCPercent(debug.SetGCPercent(400)) // as cmd/sealwrightd does
			via := newInProcess()
			c := newCore(b, inProcessHost, via)
			images := pushImages(b, inProcessHost, "core", b.N, via)
			b.ResetTimer()
			used := cpuTime(b, syscall.RUSAGE_SELF)
			must(b, c.signEach(b.Context(), n, images))
			b.StopTimer()
			reportRequests(b, cpuTime(b, syscall.RUSAGE_SELF)-used)
			mustBeSigned(b, images, c.public, via)
		})
	}
}

// reportRequests says what one request took, of the clock and of the CPUs. The
// second carries over to a loaded machine.
func reportRequests(b *testing.B, used time.Duration) {
	b.Helper()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
	b.ReportMetric(float64(used)/1e6/float64(b.N), "cpu-ms/op")
}

// BenchmarkPublish is the publishing of envelopes, cosign.Publish and Verify,
// against the same HTTP requests bare, over loopback, as many at once as in the
// service.
func BenchmarkPublish(b *testing.B) {
	b.Run("ours", func(b *testing.B) {
		h := memory(b)
		c := newCore(b, h.name, nil)
		images := pushImages(b, h.name, "publish", b.N, nil)
		publish := publisher(b, h.name, c, images)
		b.ResetTimer()
		used := cpuTime(b, syscall.RUSAGE_SELF)
		must(b, each(workflow.TaskConcurrency, b.N, publish))
		b.StopTimer()
		reportRequests(b, cpuTime(b, syscall.RUSAGE_SELF)-used)
		mustBeSigned(b, images, c.public, nil)
	})
	b.Run("bare", func(b *testing.B) {
		h := memory(b)
		loop := newBareLoop(b, h.name, pushImages(b, h.name, "publish", b.N, nil))
		b.ResetTimer()
		used := cpuTime(b, syscall.RUSAGE_SELF)
		must(b, each(workflow.TaskConcurrency, b.N, loop.publish))
		b.StopTimer()
		reportRequests(b, cpuTime(b, syscall.RUSAGE_SELF)-used)
	})
}
