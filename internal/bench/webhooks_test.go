//go:build bench

package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

const (
	forgeHost = "github.test"
	// webhookRate is how many deliveries a second arrive, rounds how many there are
	// for each waiting request: the first and the last approve, those between are
	// commands that are refused.
	webhookRate   = 100
	webhookRounds = 6
	// webhookSettle is how long everything may take that the last delivery began.
	webhookSettle = 3 * time.Minute
)

const webhookPolicy = `
    approvals: {all: [{required: 2, from: ["github.test:acme/release"]}]}
    report: [summary]
    sign:
`

// silent keeps the lines of the service's log out of the test's: writing them is
// what would be measured.
type silent struct{ testing.TB }

func (silent) Log(...any)          {}
func (silent) Logf(string, ...any) {}

// crowd is a service with requests that wait for people, and their jobs.
type crowd struct {
	t     *testing.T
	e     *testenv.Env
	s     *testenv.Service
	forge *testenv.Letters
	http  *http.Client
	waits []*waiting

	heard sync.Map // outcome: *atomic.Int64
}

// waiting is one request whose job waits in a long poll.
type waiting struct {
	id, capability, code string
	thread               signing.Thread
	last                 atomic.Int64 // when its last approval was sent
	woken                atomic.Int64 // when its job was told
}

// webhooks measures 1,000 waiting jobs and 100 webhooks a second for a minute.
func webhooks(t *testing.T, tb *table) {
	n := setting(t, "WAITING", 1000)
	c := newCrowd(t, n)
	before := heap()
	var peak atomic.Uint64
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var jobs, sampling, arriving sync.WaitGroup
	for _, w := range c.waits {
		arriving.Add(1)
		jobs.Go(func() { c.wait(ctx, w, sync.OnceFunc(arriving.Done)) })
	}
	// What is measured is jobs that wait, not a thousand that begin to in one instant.
	arriving.Wait()
	time.Sleep(time.Second)
	var health []time.Duration
	sampling.Go(func() {
		for tick := time.NewTicker(20 * time.Millisecond); ctx.Err() == nil; <-tick.C {
			health = append(health, c.healthz())
			peak.Store(max(peak.Load(), heap()))
		}
	})
	var syncs []span
	sampling.Go(func() { syncs = bareSyncs(ctx, t) })
	hooks, failed := c.deliver(n)
	jobs.Wait()
	stop()
	sampling.Wait()
	c.settled(int64(n*webhookRounds), tb)
	var wakes []time.Duration
	lost := failed
	for _, w := range c.waits {
		if w.woken.Load() == 0 {
			lost++
			continue
		}
		wakes = append(wakes, time.Duration(w.woken.Load()-w.last.Load()))
	}
	p99 := func(d []time.Duration) time.Duration { return quantile(d, 0.99) }
	answers, bare := lengths(hooks), lengths(syncs)
	stalls := slices.DeleteFunc(slices.Clone(syncs), func(s span) bool { return s.took < stall })
	clear := slices.DeleteFunc(slices.Clone(hooks), func(h span) bool { return slices.ContainsFunc(stalls, h.overlaps) })
	tb.most(fmt.Sprintf("w: %d waiting jobs, %d webhooks a second, %d in all: lost", n, webhookRate, n*webhookRounds), float64(lost), "", 0)
	tb.most("w: p99 of the webhook's answer, as a multiple of that of /healthz", float64(p99(answers))/float64(p99(health)), "", 5)
	tb.most(fmt.Sprintf("w: the same, without the %d answers due while the disk stood still", len(hooks)-len(clear)), float64(p99(lengths(clear)))/float64(p99(health)), "", 5)
	tb.info("w: p50 and p99 of the webhook's answer; p99 of /healthz", ms(quantile(answers, 0.5))+", "+ms(p99(answers)), ms(p99(health)))
	tb.info(fmt.Sprintf("w: longest answer; longest of %d bare durable writes at the same time, %d of them over %s", len(syncs), len(stalls), stall), ms(slices.Max(answers)), ms(slices.Max(bare)))
	tb.info("w: p50 and p99 from the last approval to the waking of the job", ms(quantile(wakes, 0.5))+", "+ms(p99(wakes)), "")
	tb.most("w: growth of the heap (service, forge and jobs in one process)", float64(int64(peak.Load())-int64(before))/(1<<20), "MiB", 256)
	if lost > 0 {
		t.Errorf("%d were lost", lost)
	}
}

// stall is how long a bare durable write may take before the disk is said to stand
// still: fifty times its median.
const stall = 15 * time.Millisecond

// span is something that was waited for.
type span struct {
	began time.Time
	took  time.Duration
}

func (s span) overlaps(o span) bool {
	return s.began.Before(o.began.Add(o.took)) && o.began.Before(s.began.Add(s.took))
}

func lengths(s []span) (out []time.Duration) {
	for _, s := range s {
		out = append(out, s.took)
	}
	return out
}

// bareSyncs writes 16 KiB durably, again and again in one file, until ctx ends: as
// long as that takes waits, at least, whoever answers only when the disk has it.
func bareSyncs(ctx context.Context, t *testing.T) (all []span) {
	f, err := os.Create(filepath.Join(t.TempDir(), "bare"))
	must(t, err)
	defer func() { must(t, f.Close()) }()
	page := make([]byte, 16<<10)
	for tick := time.NewTicker(time.Second / webhookRate); ctx.Err() == nil; <-tick.C {
		began := time.Now()
		_, err := f.WriteAt(page, 0)
		must(t, err)
		must(t, f.Sync())
		all = append(all, span{began, time.Since(began)})
	}
	return all
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}

func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(d))
	return s[min(int(q*float64(len(s))), len(s)-1)]
}

// newCrowd submits n requests and waits until people were asked about each.
func newCrowd(t *testing.T, n int) *crowd {
	t.Helper()
	c := &crowd{t: t, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: n + 64}}}
	c.forge = testenv.NewLetters(forgeHost, func() time.Time { return c.e.Now() })
	for i, name := range []string{"ann", "bob"} {
		c.forge.Person(strconv.Itoa(101+i), name, forgeHost+":acme/release")
	}
	c.forge.Person("103", "carl")
	c.forge.Wrote([]string{"103"})
	policy := string(bytes.Replace([]byte(testenv.Policy), []byte("\n    sign:\n"), []byte(webhookPolicy), 1))
	c.e = testenv.New(silent{t}, testenv.Options{Policy: policy, Forges: map[string]forge.Forge{forgeHost: c.forge}, ForgePoll: time.Hour, Poll: time.Second, Batches: true, Checkpoint: checkpointEvery, Heard: func(_, outcome string) {
		v, _ := c.heard.LoadOrStore(outcome, new(atomic.Int64))
		v.(*atomic.Int64).Add(1)
	}})
	c.s = c.e.Start(nil)
	image := c.e.Image("bench")
	var g errgroup.Group
	g.SetLimit(16)
	c.waits = make([]*waiting, n)
	for i := range n {
		g.Go(func() (err error) { c.waits[i], err = c.submit(i, image); return err })
	}
	must(t, g.Wait())
	return c
}

func (c *crowd) submit(i int, image signing.Artifact) (*waiting, error) {
	j := devworld.NewGitHubJob()
	j.RunID, j.SHA = strconv.Itoa(9000+i), fmt.Sprintf("%040x", i+1)
	req, err := http.NewRequest(http.MethodPost, c.s.HTTP.URL+api.PathRequests, strings.NewReader(testenv.Body("release", image)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.e.GitHub(j))
	req.Header.Set(api.HeaderIdempotencyKey, "bench")
	req.Header.Set("Content-Type", "application/json")
	var q api.Request
	h, err := c.do(req, &q)
	if err != nil {
		return nil, err
	}
	w := &waiting{id: q.ID, capability: h.Get(api.HeaderCapability)}
	for end := time.Now().Add(webhookSettle); ; {
		if a := q.Approval; q.State == signing.AwaitingApproval && a != nil && a.Code != "" && a.Number != "" {
			w.code = a.Code
			w.thread = signing.Thread{Forge: forgeHost, RepositoryID: "74", Repository: a.Repository, Kind: signing.ThreadPull, Number: a.Number}
			return w, nil
		}
		if q.State.Terminal() || time.Now().After(end) {
			return nil, fmt.Errorf("request %s is %s: %+v", q.ID, q.State, q.Failure)
		}
		if q, err = c.read(w, q.Version, time.Second); err != nil {
			return nil, err
		}
	}
}

func (c *crowd) read(w *waiting, version int64, wait time.Duration) (q api.Request, err error) {
	req, err := http.NewRequest(http.MethodGet, fmt.Sprintf("%s%s/%s?wait=%s&version=%d", c.s.HTTP.URL, api.PathRequests, w.id, wait, version), nil)
	if err != nil {
		return q, err
	}
	req.Header.Set(api.HeaderCapability, w.capability)
	_, err = c.do(req, &q)
	return q, err
}

func (c *crowd) do(req *http.Request, into any) (http.Header, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // read only
	raw, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode > 299 {
		err = fmt.Errorf("%s answered %d: %.300s", req.URL.Path, resp.StatusCode, raw)
	}
	if err == nil && into != nil {
		err = json.Unmarshal(raw, into)
	}
	return resp.Header, err
}

// wait is the job: it polls until people have decided, and then until the end. It
// says when it has had its first answer, or will have none.
func (c *crowd) wait(ctx context.Context, w *waiting, arrived func()) {
	defer arrived()
	for version := int64(0); ctx.Err() == nil; {
		q, err := c.read(w, version, 50*time.Second)
		if err != nil {
			c.t.Errorf("a waiting job: %v", err)
			return
		}
		version = q.Version
		arrived()
		if q.State == signing.Pending || q.State == signing.AwaitingApproval {
			continue
		}
		w.woken.CompareAndSwap(0, time.Now().UnixNano())
		if q.State == signing.Completed {
			return
		}
		if q.State.Terminal() {
			c.t.Errorf("request %s ended %s: %+v", w.id, q.State, q.Failure)
			return
		}
	}
}

func (c *crowd) healthz() time.Duration {
	began := time.Now()
	req, err := http.NewRequest(http.MethodGet, c.s.HTTP.URL+"/healthz", nil)
	must(c.t, err)
	if resp, err := c.http.Do(req); err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	return time.Since(began)
}

// deliver sends every delivery at its time, and returns how long each answer took,
// and how many were not taken.
func (c *crowd) deliver(n int) (answers []span, failed int) {
	var mu sync.Mutex
	var g sync.WaitGroup
	people := []signing.Account{{Forge: forgeHost, ID: "101", Login: "ann"}, {Forge: forgeHost, ID: "102", Login: "bob"}}
	began := time.Now()
	for i := range n * webhookRounds {
		time.Sleep(time.Until(began.Add(time.Duration(i) * time.Second / webhookRate)))
		w, round := c.waits[i%n], i/n
		g.Go(func() {
			who, body := people[0], "/sealwright approve "+w.id+" "+w.code
			switch round {
			case 0:
			case webhookRounds - 1:
				who = people[1]
			default:
				body = "/sealwright approve " + w.id + " 00000000"
			}
			h, raw := c.forge.Letter(testenv.About(w.thread, c.forge.Say(w.thread, who, body)))
			req, err := http.NewRequest(http.MethodPost, c.s.HTTP.URL+"/hooks/github/"+forgeHost, bytes.NewReader(raw))
			must(c.t, err)
			req.Header = h
			if round == webhookRounds-1 {
				w.last.Store(time.Now().UnixNano())
			}
			sent := time.Now()
			var out api.Heard
			_, err = c.do(req, &out)
			mu.Lock()
			defer mu.Unlock()
			answers = append(answers, span{sent, time.Since(sent)})
			if err != nil || out.Outcome != "stored" {
				failed++
			}
		})
	}
	g.Wait()
	return answers, failed
}

// settled waits until something became of every delivery.
func (c *crowd) settled(want int64, tb *table) {
	count := func(names ...string) (n int64) {
		for _, name := range names {
			if v, ok := c.heard.Load(name); ok {
				n += v.(*atomic.Int64).Load()
			}
		}
		return n
	}
	for end := time.Now().Add(webhookSettle); count("accepted", "refused") < want; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			c.t.Errorf("something became of %d of %d deliveries", count("accepted", "refused"), want)
			break
		}
	}
	tb.note("webhooks: %d accepted, %d refused, %d of them twice", count("accepted"), count("refused"), count("duplicate"))
}

// TestWebhooks measures this part alone.
func TestWebhooks(t *testing.T) {
	tb := new(table)
	webhooks(t, tb)
	fmt.Printf("\n%s\n", tb.String())
}
