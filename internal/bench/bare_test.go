//go:build bench

package bench

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/method/cosign"
	"github.com/sealwright/sealwright/internal/outbound"
	ourregistry "github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
	"github.com/sealwright/sealwright/internal/workflow"
)

// bareLoop publishes ready-made `.sig` images with the eight requests that the
// service makes for each, and does nothing else: no checks but of the status and
// of the manifest read back. They are the tag as it is, two blobs of two requests
// each, the tag as it shall be, and tag and payload read back.
type bareLoop struct {
	client *http.Client
	slots  chan struct{} // as many requests in flight as the service allows itself
	items  []bareItem
	sent   atomic.Int64
}

type bareItem struct {
	base, tag         string
	manifest          []byte
	payload, config   []byte
	payloadD, configD string
}

func newBareLoop(t testing.TB, host string, images []signing.Artifact) *bareLoop {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = outbound.DefaultPerHost
	t.Cleanup(transport.CloseIdleConnections)
	l := &bareLoop{client: &http.Client{Transport: transport}, slots: make(chan struct{}, outbound.DefaultPerHost)}
	for _, a := range images {
		payload := fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, a.Repository, a.Digest)
		hash := sha256.Sum256(payload)
		signature, err := ecdsa.SignASN1(rand.Reader, k, hash[:])
		must(t, err)
		it := bareItem{base: "http://" + host + "/v2/" + a.Repository.Path(), tag: "sha256-" + a.Digest.Hex() + ".sig", payload: payload, payloadD: string(signing.DigestOf(payload))}
		it.config = fmt.Appendf(nil, `{"architecture":"","created":"0001-01-01T00:00:00Z","history":[{"created":"0001-01-01T00:00:00Z"}],"os":"","rootfs":{"type":"layers","diff_ids":[%q]},"config":{}}`, it.payloadD)
		it.configD = string(signing.DigestOf(it.config))
		it.manifest = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","digest":%q,"size":%d,"annotations":{"dev.cosignproject.cosign/signature":%q}}]}`,
			ourregistry.MediaTypeImage, ourregistry.MediaTypeConfig, it.configD, len(it.config), it.payloadD, len(it.payload), base64.StdEncoding.EncodeToString(signature))
		l.items = append(l.items, it)
	}
	return l
}

func (l *bareLoop) publish(i int) error {
	it := l.items[i]
	if _, _, err := l.do(http.MethodGet, it.base+"/manifests/"+it.tag, "", nil, http.StatusNotFound); err != nil {
		return err
	}
	g := new(errgroup.Group)
	g.Go(func() error { return l.upload(it.base, it.payloadD, it.payload) })
	g.Go(func() error { return l.upload(it.base, it.configD, it.config) })
	if err := g.Wait(); err != nil {
		return err
	}
	if _, _, err := l.do(http.MethodPut, it.base+"/manifests/"+it.tag, ourregistry.MediaTypeImage, it.manifest, http.StatusCreated); err != nil {
		return err
	}
	back, _, err := l.do(http.MethodGet, it.base+"/manifests/"+it.tag, "", nil, http.StatusOK)
	if err == nil && !bytes.Equal(back, it.manifest) {
		err = errors.New("another manifest was read back")
	}
	if err == nil {
		_, _, err = l.do(http.MethodGet, it.base+"/blobs/"+it.payloadD, "", nil, http.StatusOK)
	}
	return err
}

func (l *bareLoop) upload(base, digest string, b []byte) error {
	_, header, err := l.do(http.MethodPost, base+"/blobs/uploads/", "", nil, http.StatusAccepted)
	if err != nil {
		return err
	}
	at, err := url.Parse(base)
	if err == nil {
		at, err = at.Parse(header.Get("Location"))
	}
	if err != nil {
		return err
	}
	at.RawQuery = strings.TrimPrefix(at.RawQuery+"&digest="+url.QueryEscape(digest), "&")
	_, _, err = l.do(http.MethodPut, at.String(), "application/octet-stream", b, http.StatusCreated)
	return err
}

func (l *bareLoop) do(verb, to, kind string, body []byte, want int) ([]byte, http.Header, error) {
	l.slots <- struct{}{}
	defer func() { <-l.slots }()
	l.sent.Add(1)
	req, err := http.NewRequest(verb, to, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	req.Header.Set("Accept", ourregistry.MediaTypeImage)
	resp, err := l.client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = resp.Body.Close() }() // read only
	raw, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != want {
		err = fmt.Errorf("%s %s answered %s", verb, to, resp.Status)
	}
	return raw, resp.Header, err
}

// publisher returns what publishes image i with the cosign method, envelopes
// made before.
func publisher(t testing.TB, host string, c *core, images []signing.Artifact) func(i int) error {
	t.Helper()
	reg, err := ourregistry.New([]ourregistry.Config{{Host: host, InsecureHTTP: true}}, ourregistry.Options{})
	must(t, err)
	m := cosign.New(reg)
	info := signing.KeyInfo{ID: "release", Public: c.public}
	ring := c.workflow.Keys
	targets, envelopes := make([]method.Target, len(images)), make([]signing.Envelope, len(images))
	for i, a := range images {
		targets[i] = method.Target{Artifact: a, Key: info, Origin: c.origin}
		p, err := m.Prepare(t.Context(), targets[i], time.Now())
		must(t, err)
		raw, err := ring.Sign(t.Context(), "release", *p.Intent)
		must(t, err)
		envelopes[i], err = m.Assemble(targets[i], *p.Intent, raw)
		must(t, err)
	}
	return func(i int) error {
		if _, err := m.Publish(t.Context(), targets[i], envelopes[i]); err != nil {
			return err
		}
		_, err := m.Verify(t.Context(), targets[i], envelopes[i])
		return err
	}
}

// bareCommits repeats the Updates of one finished request on a store of its own:
// the same rows with the same content, events, jobs and leases, in the same
// order, with nothing in between.
type bareCommits struct {
	store   *store.Store
	request signing.Request
	task    signing.Task
	events  map[string]audit.Event
	n       atomic.Int64
}

// newBareCommits takes a request that c has completed as the model. The log is
// sequenced as often as the service does.
func newBareCommits(t testing.TB, c *core, id string) *bareCommits {
	t.Helper()
	b := &bareCommits{events: map[string]audit.Event{}}
	must(t, c.workflow.Sequence(t.Context()))
	must(t, c.store.View(t.Context(), func(tx *store.Tx) error {
		r, err := tx.Request(id)
		if err != nil {
			return err
		}
		tasks, err := tx.Tasks(id)
		if err != nil || len(tasks) != 1 {
			return fmt.Errorf("%d tasks: %w", len(tasks), err)
		}
		b.request, b.task = *r, *tasks[0]
		return b.learn(tx)
	}))
	b.store = openStore(t, t.TempDir())
	must(t, b.store.Update(t.Context(), "load", func(tx *store.Tx) error { return tx.SetGeneration(1, signing.DigestOf([]byte("bench"))) }))
	signer := newLogSigner(t)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.sequence(ctx, signer) }()
	t.Cleanup(func() {
		stop()
		must(t, <-done)
	})
	return b
}

// learn keeps the event of each kind that was recorded for the model.
func (b *bareCommits) learn(tx *store.Tx) error {
	_, size, err := tx.Checkpoint()
	if err != nil {
		return err
	}
	for from := uint64(0); from < size; from += store.MaxRead {
		leaves, err := tx.LogEntries(from, min(from+store.MaxRead, size))
		if err != nil {
			return err
		}
		for _, leaf := range leaves {
			ev, err := audit.ParseEvent(leaf)
			if err != nil {
				return err
			}
			if ev.Request == b.request.ID {
				b.events[ev.Kind] = ev
			}
		}
	}
	return nil
}

func (b *bareCommits) sequence(ctx context.Context, signer *audit.Signer) error {
	tick := time.NewTicker(checkpointEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for n := 1024; n == 1024; {
			var err error
			if n, err = b.store.Sequence(context.WithoutCancel(ctx), 1024, signer.SignCheckpoint); err != nil {
				return err
			}
		}
	}
}

// one commits what one single-image request commits.
func (b *bareCommits) one(ctx context.Context) error {
	id, err := signing.NewRequestID(rand.Reader)
	if err != nil {
		return err
	}
	n := b.n.Add(1)
	r := b.request
	r.ID, r.State, r.Version, r.Decision, r.Project, r.Ended = id, signing.Pending, 0, nil, "", time.Time{}
	r.IdempotencyKey = fmt.Sprint("job-", n)
	t := &signing.Task{ID: id + ".1", RequestID: id, State: signing.Queued, Artifact: b.task.Artifact, Step: b.task.Step}
	var claim *store.Claim
	var fence int64
	lease := "publish " + id
	event := func(kind string) []audit.Event {
		ev := b.events[kind]
		ev.Request, ev.Time = id, time.Time{}
		if ev.Task != "" {
			ev.Task = t.ID
		}
		return []audit.Event{ev}
	}
	current := func(tx *store.Tx) error { _, _, err := tx.Generation(); return err }
	held := func(tx *store.Tx) error { return tx.CheckClaim(claim) }
	move := func(to signing.RequestState, kind string, tasks ...*signing.Task) func(*store.Tx) error {
		return func(tx *store.Tx) error {
			return tx.Transition(store.Change{Request: &r, To: string(to), Events: event(kind), NewTasks: tasks, Fence: claim})
		}
	}
	moveTask := func(to signing.TaskState, kind string) func(*store.Tx) error {
		return func(tx *store.Tx) error {
			return tx.Transition(store.Change{Task: t, To: string(to), Events: event(kind), Fence: claim})
		}
	}
	for _, u := range []struct {
		name   string
		before func()
		parts  []func(*store.Tx) error
	}{
		{"submit", nil, []func(*store.Tx) error{func(tx *store.Tx) (err error) {
			if _, err = tx.RequestByIdempotency("bench", r.IdempotencyKey); !errors.Is(err, signing.NotFound) {
				return fmt.Errorf("idempotency key %s is there: %w", r.IdempotencyKey, err)
			}
			capability := sha256.Sum256([]byte(id))
			if err = tx.InsertRequest(&r, store.NewRequest{IdempotencyScope: "bench", ReplayKey: r.IdempotencyKey, ReplayUntil: r.Deadline, CapabilityHash: capability[:], Events: event(audit.RequestSubmitted)}); err != nil {
				return err
			}
			claim, err = tx.EnqueueClaimed(store.Job{Kind: "drive", Ref: id, RunAt: tx.Now()}, "bench", workflow.DefaultLease)
			return err
		}}},
		{"allow", func() { r.Decision, r.Project = b.request.Decision, b.request.Project }, []func(*store.Tx) error{held, current,
			func(tx *store.Tx) error { return move(signing.Ready, audit.RequestDecided, t)(tx) }, func(tx *store.Tx) error { return move(signing.Signing, audit.RequestSigning)(tx) }}},
		{"prepare", func() { t.Intent = b.task.Intent }, []func(*store.Tx) error{held, current, func(tx *store.Tx) error { return tx.CheckRequest(&r) },
			func(tx *store.Tx) error { return moveTask(signing.Prepared, audit.TaskPrepared)(tx) },
			func(tx *store.Tx) error { return tx.Attempt(t, claim, event(audit.KeyAttempt)[0]) }}},
		{"signed", func() { t.Envelope = b.task.Envelope }, []func(*store.Tx) error{held,
			func(tx *store.Tx) (err error) { fence, err = tx.AcquireLease(lease, "bench", time.Minute); return err },
			func(tx *store.Tx) error { return moveTask(signing.Signed, audit.TaskSigned)(tx) }}},
		{"published", func() { t.Locations, r.Ended = b.task.Locations, time.Now() }, []func(*store.Tx) error{held, func(tx *store.Tx) error { return tx.EndLease(lease, "bench", fence) },
			func(tx *store.Tx) error { return moveTask(signing.Published, audit.TaskPublished)(tx) },
			func(tx *store.Tx) error { return move(signing.Completed, audit.RequestCompleted)(tx) }, func(tx *store.Tx) error { return tx.Finish(claim) }}},
	} {
		if u.before != nil {
			u.before()
		}
		err := b.store.Update(ctx, u.name, func(tx *store.Tx) error {
			for _, part := range u.parts {
				if err := part(tx); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", u.name, err)
		}
	}
	return nil
}

// BenchmarkBareCommits is the bound of BenchmarkCore.
func BenchmarkBareCommits(b *testing.B) {
	via := newInProcess()
	c := newCore(b, inProcessHost, via)
	id, err := c.sign(b.Context(), pushImages(b, inProcessHost, "model", 1, via)[0])
	must(b, err)
	for _, n := range []int{1, jobs} {
		b.Run(fmt.Sprintf("jobs=%d", n), func(b *testing.B) {
			bare := newBareCommits(b, c, id)
			b.ResetTimer()
			used := cpuTime(b, syscall.RUSAGE_SELF)
			must(b, each(n, b.N, func(int) error { return bare.one(b.Context()) }))
			b.StopTimer()
			reportRequests(b, cpuTime(b, syscall.RUSAGE_SELF)-used)
		})
	}
}
