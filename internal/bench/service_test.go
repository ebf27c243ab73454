//go:build bench

package bench

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/signing"
)

// serviceYAML is the configuration that `sealwrightd dev` writes, with the
// registries under measurement and no limit on what one address may ask.
const serviceYAML = `apiVersion: sealwright.dev/v1
server:
  listen: SERVER
  url: http://SERVER
  plain_http: true
  rate: 100000
store:
  sqlite: sealwright.db
  state_secret: ["file:DIR/state.secret"]
log:
  key: file:DIR/log.key
  checkpoint_file: checkpoint
  checkpoint_every: 1s
issuers:
  - {provider: github-actions, issuer: "GITHUB", audience: "http://SERVER", forge: github.test}
registries: [REGISTRIES]
keys: keys.yaml
policies: policies
`

// process is the real service in a process of its own.
type process struct {
	world  *devworld.World
	url    string
	pid    int
	public *ecdsa.PublicKey
	runs   atomic.Int64
}

// newProcess starts sealwrightd serve.
func newProcess(t testing.TB, hosts ...*host) *process {
	t.Helper()
	world, err := devworld.Start(devworld.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, world.Close()) })
	p := &process{world: world}
	dir, server, program := t.TempDir(), freeAddress(t), tool(t, "SEALWRIGHTD")
	p.url = "http://" + server
	p.public = writeKey(t, filepath.Join(dir, "release.key"))
	writeCertified(t, dir)
	run(t, nil, program, "keys", "new", "--type", "log", "--log-name", "bench/log", "--out", filepath.Join(dir, "log.key"))
	run(t, nil, program, "keys", "new", "--type", "state-secret", "--out", filepath.Join(dir, "state.secret"))
	var names, rows []string
	for _, h := range hosts {
		names = append(names, h.name)
		rows = append(rows, fmt.Sprintf("{host: %q, insecure_http: true}", h.name))
	}
	text := strings.NewReplacer("DIR", dir, "SERVER", server, "GITHUB", world.GitHub.URL(), "REGISTRIES", strings.Join(rows, ", "), "IMAGES", imagePatterns(names...))
	must(t, os.Mkdir(filepath.Join(dir, "policies"), 0o700))
	for name, content := range map[string]string{"sealwright.yaml": serviceYAML, "keys.yaml": keysYAML, "policies/payments.yaml": policyYAML} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text.Replace(content)), 0o600))
	}
	logFile, err := os.Create(filepath.Join(dir, "log"))
	must(t, err)
	t.Cleanup(func() {
		if said, err := os.ReadFile(logFile.Name()); t.Failed() && err == nil {
			t.Logf("sealwrightd said:\n%s", said)
		}
		_ = logFile.Close() // the process has its own descriptor
	})
	cmd := exec.Command(program, "serve", "--config", filepath.Join(dir, "sealwright.yaml"), "--log-level", "warn")
	cmd.Env, cmd.Stderr = []string{"HOME=" + dir}, logFile
	pipe, err := cmd.StdoutPipe()
	must(t, err)
	start(t, cmd, pipe, "sealwrightd listens on ")
	p.pid = cmd.Process.Pid
	return p
}

func (p *process) job() devworld.GitHubJob {
	j := devworld.NewGitHubJob()
	j.RunID = strconv.FormatInt(9000+p.runs.Add(1), 10)
	return j
}

// step runs sealwright-ci in the environment of a job of its own.
func (p *process) step(t testing.TB, images []signing.Artifact) time.Duration {
	t.Helper()
	env := p.world.GitHub.RegisterGitHubJob(p.job())
	return run(t, env, tool(t, "CI_STEP"), append([]string{"--server", p.url, "--policy", "release"}, references(images)...)...)
}

// load makes a request of each image over HTTP, n jobs at once, and returns how
// long that took. The tokens are made before.
func (p *process) load(t testing.TB, n int, images []signing.Artifact) time.Duration {
	t.Helper()
	client, err := api.NewClient(api.ClientOptions{Server: p.url})
	must(t, err)
	tokens := make([]string, len(images))
	must(t, each(n, len(images), func(i int) (err error) {
		tokens[i], err = p.world.GitHub.GitHubToken(p.job(), p.url)
		return err
	}))
	started := time.Now()
	must(t, each(n, len(images), func(i int) error {
		ctx, cancel := context.WithTimeout(t.Context(), requestLimit)
		defer cancel()
		ref := api.ArtifactRef{Repository: string(images[i].Repository), Digest: string(images[i].Digest)}
		r, capability, err := client.Submit(ctx, tokens[i], fmt.Sprint("load-", i), api.SubmitRequest{Policy: "release", Artifacts: []api.ArtifactRef{ref}})
		for err == nil && !r.State.Terminal() {
			r, err = client.Get(ctx, r.ID, capability, r.Version, 25*time.Second)
		}
		if err == nil && r.State != signing.Completed {
			err = fmt.Errorf("request %s is %s: %w", r.ID, r.State, r.Failure.Err())
		}
		return err
	}))
	return time.Since(started)
}

// peak watches the anonymous memory of the process until stop is called, which
// returns the highest value seen.
func (p *process) peak(t testing.TB) (stop func() int64) {
	t.Helper()
	done, most := make(chan struct{}), make(chan int64)
	go func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		highest := int64(0)
		for {
			select {
			case <-done:
				most <- highest
				return
			case <-tick.C:
				highest = max(highest, rssOrZero(p.pid))
			}
		}
	}()
	return func() int64 { close(done); return <-most }
}

// rssOrZero is rssAnon for other goroutines than the test's own.
func rssOrZero(pid int) int64 {
	n, err := readRSS(pid)
	if err != nil {
		return 0
	}
	return n
}

// batch is (a): one request of n images against `cosign sign` of n others like
// them, on one registry, in turns.
func batch(t *testing.T, tb *table, p *process, c *cosignPeer, h *host, rounds, n int, least float64) {
	t.Helper()
	var ours, peer []time.Duration
	var oursSent, peerSent int64
	for r := range rounds {
		a := pushImages(t, h.name, fmt.Sprintf("batch-ours-%d", r), n, nil)
		b := pushImages(t, h.name, fmt.Sprintf("batch-peer-%d", r), n, nil)
		before := h.requests.Load()
		ours = append(ours, p.step(t, a))
		oursSent += h.requests.Load() - before
		before = h.requests.Load()
		peer = append(peer, c.sign(t, b))
		peerSent += h.requests.Load() - before
		mustBeSigned(t, a, p.public, nil)
		mustBeSigned(t, b, c.public, nil)
	}
	tb.ratio(fmt.Sprintf("a: one request of %d images, %s", n, h.kind), median(ours), median(peer), "cosign sign", least)
	if oursSent > 0 {
		per := float64(rounds * n)
		tb.info("a: registry requests per signature, whole cycle, "+h.kind, figure(float64(oursSent)/per, ""), figure(float64(peerSent)/per, "")+"(cosign sign)")
	}
}

// single is (d): sealwright-ci for one image against `cosign sign` of one other.
func single(t *testing.T, tb *table, p *process, c *cosignPeer, h *host, rounds int) {
	t.Helper()
	a := pushImages(t, h.name, "single-ours", rounds, nil)
	b := pushImages(t, h.name, "single-peer", rounds, nil)
	var ours, peer []time.Duration
	for i := range rounds {
		ours = append(ours, p.step(t, a[i:i+1]))
		peer = append(peer, c.sign(t, b[i:i+1]))
	}
	mustBeSigned(t, a, p.public, nil)
	mustBeSigned(t, b, c.public, nil)
	tb.ratio("d: sealwright-ci for one image, whole process, "+h.kind, median(ours), median(peer), "cosign sign", 4)
}

// program is the rest of (d): what every job downloads and starts.
func program(t *testing.T, tb *table) {
	t.Helper()
	step := tool(t, "CI_STEP")
	info, err := os.Stat(step)
	must(t, err)
	tb.most("d: sealwright-ci, stripped", float64(info.Size())/1e6, "MB", 8)
	var took []time.Duration
	for range 21 {
		d, said := output(t, nil, step, "--version")
		if !strings.HasPrefix(said, "sealwright-ci ") {
			t.Fatal(errors.New("--version says " + said))
		}
		took = append(took, d)
	}
	tb.most("d: sealwright-ci --version, whole process", float64(median(took))/1e6, "ms", 10)
}
