package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
)

var testSecret = bytes.Repeat([]byte{7}, MinSecret)

// clock is a settable time.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// open opens a store; what o leaves out is filled in.
func open(t testing.TB, o Options) *Store {
	t.Helper()
	if o.Path == "" {
		o.Path = filepath.Join(t.TempDir(), "state.db")
	}
	if o.Secrets == nil {
		o.Secrets = [][]byte{testSecret}
	}
	s, err := Open(context.Background(), o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// reopen closes s and opens the same file.
func reopen(t testing.TB, s *Store, o Options) *Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	return open(t, o)
}

func update(t testing.TB, s *Store, fn func(*Tx) error) {
	t.Helper()
	if err := s.Update(context.Background(), "test", fn); err != nil {
		t.Fatalf("Update: %v", err)
	}
}

func view(t testing.TB, s *Store, fn func(*Tx) error) {
	t.Helper()
	if err := s.View(context.Background(), fn); err != nil {
		t.Fatalf("View: %v", err)
	}
}

func wantCode(t testing.TB, err error, code signing.Code) {
	t.Helper()
	if !errors.Is(err, code) {
		t.Fatalf("got error %v, want code %s", err, code)
	}
}

func wantTampered(t testing.TB, what string, err error) {
	t.Helper()
	if !errors.Is(err, ErrTampered) || !errors.Is(err, signing.Denied) {
		t.Errorf("%s: got error %v, want one that says it was altered in the database", what, err)
	}
}

// rawDB is what somebody with write access to the file has.
func rawDB(t testing.TB, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite3", dsn(path, "_busy_timeout=5000&_foreign_keys=off"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func rawExec(t testing.TB, db *sql.DB, query string, args ...any) {
	t.Helper()
	res, err := db.Exec(query, args...)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		t.Fatalf("%s: changed no row (%v)", query, err)
	}
}

const testDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func testArtifact() signing.Artifact {
	return signing.Artifact{Repository: "registry.example/app", Digest: testDigest}
}

// requestID returns the n-th id.
func requestID(n int) string { return fmt.Sprintf("sr_%016d", n) }

func newRequest(n int, now time.Time) *signing.Request {
	return &signing.Request{ID: requestID(n), State: signing.Pending, Policy: "release", Project: "payments", Artifacts: []signing.Artifact{testArtifact()},
		IdempotencyKey: fmt.Sprintf("key-%d", n), BodyDigest: testDigest, Submitted: now, Deadline: now.Add(time.Hour)}
}

func newRow(n int, now time.Time) NewRequest {
	return NewRequest{IdempotencyScope: "scope", ReplayKey: fmt.Sprintf("replay-%d", n), ReplayUntil: now.Add(10 * time.Minute),
		CapabilityHash: bytes.Repeat([]byte{byte(n)}, 32), Events: []audit.Event{event(requestID(n), "", string(signing.Pending))}}
}

// insert stores the n-th request.
func insert(t testing.TB, s *Store, n int) *signing.Request {
	t.Helper()
	r := newRequest(n, s.now().UTC())
	update(t, s, func(tx *Tx) error { return tx.InsertRequest(r, newRow(n, tx.Now())) })
	return r
}

// event returns one that records the change to a state.
func event(request, task, to string) audit.Event {
	e := audit.Event{Request: request, Task: task, Attrs: map[string]string{}}
	attrs := map[string]string{"policy": "release", "artifacts": testArtifact().String(), "effect": "allow", "basis": testDigest, "rules": "origin.refs", "code": "denied",
		"repository": "registry.example/app", "digest": testDigest, "method": "cosign", "key": "release-ec", "intent": testDigest, "envelope": testDigest,
		"locations": "registry.example/app:sha256-e3b0.sig", "why": "unattempted"}
	var needs []string
	if task == "" {
		switch signing.RequestState(to) {
		case signing.Pending:
			e.Kind, needs = audit.RequestSubmitted, []string{"policy", "artifacts"}
		case signing.Ready, signing.AwaitingApproval:
			e.Kind, needs = audit.RequestDecided, []string{"effect", "basis"}
		case signing.Signing:
			e.Kind, needs = audit.RequestSigning, []string{"basis"}
		case signing.Completed:
			e.Kind = audit.RequestCompleted
		case signing.Failed:
			e.Kind, needs = audit.RequestFailed, []string{"code"}
		case signing.RequestDenied:
			e.Kind, needs = audit.RequestDenied, []string{"rules"}
		case signing.Canceled:
			e.Kind = audit.RequestCanceled
		default:
			e.Kind = audit.RequestExpired
		}
	} else {
		switch signing.TaskState(to) {
		case signing.Queued:
			e.Kind, needs = audit.TaskRequeued, []string{"why"}
		case signing.Prepared:
			e.Kind, needs = audit.TaskPrepared, []string{"repository", "digest", "method", "key", "intent"}
		case signing.Signed:
			e.Kind, needs = audit.TaskSigned, []string{"key", "envelope"}
		case signing.Published, signing.Delivered:
			e.Kind, needs = audit.TaskPublished, []string{"locations"}
		default:
			e.Kind, needs = audit.TaskFailed, []string{"code"}
		}
	}
	for _, n := range needs {
		e.Attrs[n] = attrs[n]
	}
	return e
}

func moveRequest(tx *Tx, r *signing.Request, to signing.RequestState, tasks ...*signing.Task) error {
	return tx.Transition(Change{Request: r, To: string(to), NewTasks: tasks, Events: []audit.Event{event(r.ID, "", string(to))}})
}

func moveTask(tx *Tx, t *signing.Task, to signing.TaskState, c *Claim) error {
	return tx.Transition(Change{Task: t, To: string(to), Events: []audit.Event{event(t.RequestID, t.ID, string(to))}, Fence: c})
}

func attemptEvent(t *signing.Task) audit.Event {
	return audit.Event{Kind: audit.KeyAttempt, Request: t.RequestID, Task: t.ID, Attrs: map[string]string{"key": "release-ec", "attempt": fmt.Sprint(t.Attempts + 1), "intent": testDigest}}
}

func newTask(request string, n int64) *signing.Task {
	return &signing.Task{ID: taskID(request, n), RequestID: request, State: signing.Queued, Artifact: testArtifact(), Step: signing.Step{Method: "cosign", Key: "release-ec"}}
}

func testIntent(s string, now time.Time) *signing.Intent {
	return &signing.Intent{Bytes: []byte(s), Hash: 5, Created: now}
}

func testEnvelope(s string) *signing.Envelope {
	return &signing.Envelope{Method: "cosign", MediaType: "application/vnd.dev.cosign.simplesigning.v1+json", KeyID: "release-ec", Bytes: []byte(s)}
}

// insertReady stores the n-th request, ready, with tasks.
func insertReady(t testing.TB, s *Store, n, tasks int) (*signing.Request, []*signing.Task) {
	t.Helper()
	r := insert(t, s, n)
	var list []*signing.Task
	for i := range tasks {
		list = append(list, newTask(r.ID, int64(i)+1))
	}
	update(t, s, func(tx *Tx) error { return moveRequest(tx, r, signing.Ready, list...) })
	return r, list
}

// prepared brings the first task of the n-th request to prepared, under a claim.
func prepared(t testing.TB, s *Store, n int) (*signing.Task, *Claim) {
	t.Helper()
	_, tasks := insertReady(t, s, n, 1)
	var c *Claim
	update(t, s, func(tx *Tx) (err error) {
		if c, err = tx.EnqueueClaimed(Job{Kind: "task", Ref: tasks[0].ID}, "worker", time.Minute); err != nil {
			return err
		}
		tasks[0].Intent = testIntent("bytes", tx.Now())
		return moveTask(tx, tasks[0], signing.Prepared, c)
	})
	return tasks[0], c
}

func count(t testing.TB, s *Store, table string) (n int) {
	t.Helper()
	view(t, s, func(tx *Tx) error {
		_, err := tx.row([]any{&n}, "SELECT count(*) FROM "+table)
		return err
	})
	return n
}

// holdWriter keeps the writer busy until release is called, so that what is
// sent meanwhile comes into one batch.
func holdWriter(t testing.TB, s *Store) (release func()) {
	t.Helper()
	in, out, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Update(context.Background(), "hold", func(*Tx) error { close(in); <-out; return nil })
	}()
	<-in
	return func() { close(out); <-done }
}
