//go:build bench

// Package bench measures the service against its peers and bounds: each figure
// is a ratio to what the same machine, in the same run and on the same registry,
// needs for the thing compared with. `make bench` builds what is measured and
// runs it; docs/benchmarks.md says what the figures mean.
//
// It consists of tests behind the build tag bench. Slowness never fails them;
// a signature that is not there does.
package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/workflow"
)

func TestBench(t *testing.T) {
	tb := new(table)
	others := watch(t)
	var profiles string
	// Each part ends its processes before the next one is measured.
	t.Run("processes", func(t *testing.T) { processes(t, tb) })
	t.Run("publishing", func(t *testing.T) { publishing(t, tb) })
	t.Run("notation", func(t *testing.T) { notations(t, tb) })
	t.Run("simple", func(t *testing.T) { simples(t, tb) })
	t.Run("trust", func(t *testing.T) { trusts(t, tb) })
	t.Run("core", func(t *testing.T) { profiles = serviceCore(t, tb) })
	t.Run("policy", func(t *testing.T) { decisions(t, tb) })
	t.Run("webhooks", func(t *testing.T) { webhooks(t, tb) })
	if t.Failed() {
		return
	}
	share := 100 * others.share(t)
	tb.note("%d CPUs, %s, %s; other processes used %.0f %% of the CPUs during this run%s", runtime.NumCPU(), runtime.Version(), time.Now().UTC().Format(time.DateOnly), share,
		map[bool]string{true: ": **a loaded machine, the absolute figures are too low**"}[share > 10])
	text := tb.String()
	fmt.Printf("\n%s\n%s", text, profiles)
	must(t, os.WriteFile(filepath.Join(outFolder(t), "table.md"), []byte(text+"\n```\n"+profiles+"```\n"), 0o644))
}

// processes measures real processes: (a), (d) and (e).
func processes(t *testing.T, tb *table) {
	rounds, n := setting(t, "ROUNDS", 3), setting(t, "IMAGES", 100)
	mem, dist := memory(t), distribution(t)
	p, c := newProcess(t, mem, dist), newCosign(t)
	idle := rssAnon(t, p.pid)
	stop := p.peak(t)
	// The first requests fetch the issuer's keys and open connections.
	for _, h := range []*host{dist, mem} {
		warm := pushImages(t, h.name, "warm", 1, nil)
		p.step(t, warm)
		mustBeSigned(t, warm, p.public, nil)
	}
	batch(t, tb, p, c, dist, rounds, n, 10)
	batch(t, tb, p, c, mem, rounds, n, 30)
	afterBatch := stop()
	single(t, tb, p, c, dist, 3*rounds)
	single(t, tb, p, c, mem, 3*rounds)
	program(t, tb)

	images := pushImages(t, mem.name, "load", setting(t, "LOAD", 600), nil)
	stop = p.peak(t)
	took := p.load(t, jobs, images)
	most := max(afterBatch, stop())
	mustBeSigned(t, images, p.public, nil)
	tb.most("e: memory of the service (RssAnon), idle after its start", float64(idle)/1e6, "MB", 40)
	tb.most("e: memory of the service (RssAnon), highest under load", float64(most)/1e6, "MB", 120)
	tb.info(fmt.Sprintf("e: the load: single-image requests over HTTP, %d jobs at once, memory", jobs), figure(float64(len(images))/took.Seconds(), "req/s"), "")
}

// publishing measures (b).
func publishing(t *testing.T, tb *table) {
	rounds, n := setting(t, "ROUNDS", 3)+2, setting(t, "IMAGES", 100)
	for _, h := range []*host{distribution(t), memory(t)} {
		c := newCore(t, h.name, nil)
		_, err := c.sign(t.Context(), pushImages(t, h.name, "warm", 1, nil)...)
		must(t, err)
		var ours, bare, alone []time.Duration
		var publish, whole, loop, reads int64
		for r := range rounds {
			images := pushImages(t, h.name, fmt.Sprintf("publish-%d", r), n, nil)
			c.resetSteps()
			before, readBefore := c.sent.n.Load(), c.reads.Load()
			_, err := c.sign(t.Context(), images...)
			must(t, err)
			whole += c.sent.n.Load() - before
			reads += c.reads.Load() - readBefore
			publish += c.steps["publish"].sent - c.steps["key"].sent
			ours = append(ours, c.steps["publish"].took)
			mustBeSigned(t, images, c.public, nil)

			others := pushImages(t, h.name, fmt.Sprintf("alone-%d", r), n, nil)
			one := publisher(t, h.name, c, others)
			alone = append(alone, timed(t, func() error { return each(workflow.TaskConcurrency, n, one) }))
			mustBeSigned(t, others, c.public, nil)

			l := newBareLoop(t, h.name, pushImages(t, h.name, fmt.Sprintf("bare-%d", r), n, nil))
			bare = append(bare, timed(t, func() error { return each(workflow.TaskConcurrency, n, l.publish) }))
			loop += l.sent.Load()
		}
		tb.ratio(fmt.Sprintf("b: publishing %d signatures with lease, read-back, verification and commits, %s", n, h.kind), median(ours), median(bare), "bare loop", 0.75)
		tb.info("b: the same without leases and commits, "+h.kind, ms(median(alone)), ms(median(bare))+" (bare loop)")
		per := float64(rounds * n)
		tb.info("b: HTTP requests per signature: publishing; whole cycle, "+h.kind, fmt.Sprintf("%.2f; %.2f", float64(publish)/per, float64(whole)/per), fmt.Sprintf("%.2f (bare loop)", float64(loop)/per))
		tb.info(fmt.Sprintf("b: answers to the job that waits for %d signatures, %s", n, h.kind), figure(float64(reads)/float64(rounds), ""), "")
	}
	tb.note("b: %d publications and at most %d HTTP requests at once, on both sides", workflow.TaskConcurrency, outbound.DefaultPerHost)
}

// decisions asks the package for what it measures of itself.
func decisions(t *testing.T, tb *table) {
	out, err := exec.Command("go", "test", "-tags", "bench", "-count=1", "-v", "-run", "^TestDecisionWith1200RepositoriesBesideOneWith12$", "../policy").CombinedOutput()
	said := regexp.MustCompile(`p50 of a decision: ([0-9.]+) us with 12 repositories, ([0-9.]+) us with 1200, ([0-9.]+) times`).FindAllStringSubmatch(string(out), -1)
	if err != nil || len(said) == 0 {
		t.Fatalf("measuring decisions: %v\n%s", err, out)
	}
	last := said[len(said)-1]
	times, err := strconv.ParseFloat(last[3], 64)
	must(t, err)
	tb.rows = append(tb.rows, row{"p: p50 of a decision, 1,200 repositories in one policy folder", last[2] + " us", last[1] + " us (12 repositories)", last[3], "<= 1.5", times <= 1.5})
}

func timed(t testing.TB, f func() error) time.Duration {
	t.Helper()
	started := time.Now()
	must(t, f())
	return time.Since(started)
}

// serviceCore measures (c) and returns its profile.
func serviceCore(t *testing.T, tb *table) string {
	rounds, n := setting(t, "ROUNDS", 3), setting(t, "REQUESTS", 1000)
	via := newInProcess()
	c := newCore(t, inProcessHost, via)
	id, err := c.sign(t.Context(), pushImages(t, inProcessHost, "warm", 1, via)...)
	must(t, err)
	bare := newBareCommits(t, c, id)
	var ours, bound []time.Duration
	var usedOurs, usedBare time.Duration
	images := make([][]signing.Artifact, rounds)
	for r := range rounds {
		images[r] = pushImages(t, inProcessHost, fmt.Sprintf("core-%d", r), n, via)
	}
	c.resetSteps()
	s, b, reads := c.store.Stats(), bare.store.Stats(), c.reads.Load()
	// As cmd/sealwrightd does; for both sides.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	profile := profiled(t, "core.prof", func() {
		for r := range rounds {
			before := cpuTime(t, syscall.RUSAGE_SELF)
			ours = append(ours, timed(t, func() error { return c.signEach(t.Context(), jobs, images[r]) }))
			usedOurs += cpuTime(t, syscall.RUSAGE_SELF) - before
		}
	})
	bareProfile := profiled(t, "bare.prof", func() {
		for range rounds {
			before := cpuTime(t, syscall.RUSAGE_SELF)
			bound = append(bound, timed(t, func() error { return each(jobs, n, func(int) error { return bare.one(t.Context()) }) }))
			usedBare += cpuTime(t, syscall.RUSAGE_SELF) - before
		}
	})
	s2, b2 := c.store.Stats(), bare.store.Stats()
	for r := range rounds {
		mustBeSigned(t, images[r], c.public, via)
	}
	tb.ratio(fmt.Sprintf("c: service core, %d single-image requests, %d jobs at once", n, jobs), median(ours), median(bound), "the same commits bare", 0.6)
	tb.least("c: service core", float64(n)/median(ours).Seconds(), "req/s", 500)
	all := float64(rounds * n)
	perRequest := func(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d)/1e6/all) }
	tb.info("c: CPU for each request, the registry included", perRequest(usedOurs), perRequest(usedBare)+" (bare)")
	tb.info("c: updates for each request; updates to a commit", fmt.Sprintf("%.2f; %.1f", float64(s2.Updates-s.Updates)/all, float64(s2.Updates-s.Updates)/float64(s2.Commits-s.Commits)),
		fmt.Sprintf("%.2f; %.1f (bare)", float64(b2.Updates-b.Updates)/all, float64(b2.Updates-b.Updates)/float64(b2.Commits-b.Commits)))
	tb.info("c: answers to the job that waits, for each request", figure(float64(c.reads.Load()-reads)/all, ""), "")
	var steps strings.Builder
	for _, name := range []string{"submit", "decide", "recheck", "prepare", "key", "publish"} {
		if st := c.steps[name]; st.n > 0 {
			fmt.Fprintf(&steps, "%s %.2f, ", name, float64(st.took)/1e6/float64(st.n))
		}
	}
	tb.note("c: time of each step under this load, ms: %s", strings.TrimSuffix(steps.String(), ", "))
	return printProfile(t, profile, rounds*n) + "\n" + printProfile(t, bareProfile, rounds*n)
}
