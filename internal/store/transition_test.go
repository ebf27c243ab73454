package store

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
)

// race runs both at the same time and returns how many succeeded.
func race(t *testing.T, s *Store, one, two func(*Tx) error) (won int, errs [2]error) {
	t.Helper()
	var wg sync.WaitGroup
	for i, fn := range []func(*Tx) error{one, two} {
		wg.Go(func() { errs[i] = s.Update(context.Background(), "race", fn) })
	}
	wg.Wait()
	for _, err := range errs {
		if err == nil {
			won++
		}
	}
	return won, errs
}

func TestRandomWalksOfTwoWritersFollowTheTableOfRequestStates(t *testing.T) {
	s := open(t, Options{})
	rnd := rand.New(rand.NewPCG(1, 2))
	for n := range 25 {
		insert(t, s, n)
		state, version := signing.Pending, int64(1)
		for step := 0; step < 12 && !state.Terminal(); step++ {
			var rows [2]*signing.Request
			var to [2]signing.RequestState
			for i := range rows {
				view(t, s, func(tx *Tx) (err error) { rows[i], err = tx.Request(requestID(n)); return err })
				to[i] = signing.RequestStates()[rnd.IntN(len(signing.RequestStates()))]
			}
			won, errs := race(t, s, func(tx *Tx) error { return moveRequest(tx, rows[0], to[0]) }, func(tx *Tx) error { return moveRequest(tx, rows[1], to[1]) })
			legal := [2]bool{state.CanBecome(to[0]), state.CanBecome(to[1])}
			if want := min(1, btoi(legal[0])+btoi(legal[1])); won != want {
				t.Fatalf("%s -> %v: %d writers won, want %d (%v)", state, to, won, want, errs)
			}
			for i, err := range errs {
				switch {
				case err == nil:
					if !legal[i] {
						t.Fatalf("%s -> %s was made and is illegal", state, to[i])
					}
					if rows[i].State != to[i] || rows[i].Version != version+1 {
						t.Fatalf("in memory: %s %d after %s -> %s from version %d", rows[i].State, rows[i].Version, state, to[i], version)
					}
				case legal[i]:
					wantCode(t, err, signing.Conflict)
					fallthrough
				default:
					if rows[i].State != state || rows[i].Version != version {
						t.Fatalf("in memory: %s %d after a change that was refused", rows[i].State, rows[i].Version)
					}
				}
			}
			if won == 1 {
				version++
				state = to[0]
				if errs[0] != nil {
					state = to[1]
				}
			}
			view(t, s, func(tx *Tx) error {
				r, err := tx.Request(requestID(n))
				if err == nil && (r.State != state || r.Version != version) {
					t.Fatalf("stored: %s %d, model: %s %d", r.State, r.Version, state, version)
				}
				return err
			})
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// content gives a task what its next state needs.
func content(t *signing.Task, to signing.TaskState, salt string, now time.Time) {
	switch to {
	case signing.Queued:
		t.Intent, t.Envelope = nil, nil
	case signing.Prepared:
		t.Intent, t.Envelope = testIntent("bytes "+salt, now), nil
	case signing.Signed:
		if t.Envelope == nil {
			t.Envelope = testEnvelope("envelope " + salt)
		}
	case signing.Published:
		t.Recognised = t.Envelope == nil
	}
}

func TestRandomWalksOfTwoWritersFollowTheTableOfTaskStates(t *testing.T) {
	s := open(t, Options{})
	rnd := rand.New(rand.NewPCG(3, 4))
	for n := range 25 {
		_, tasks := insertReady(t, s, n, 1)
		id, state, version := tasks[0].ID, signing.Queued, int64(1)
		for step := range 15 {
			var rows [2]*signing.Task
			var to [2]signing.TaskState
			for i := range rows {
				view(t, s, func(tx *Tx) (err error) { rows[i], err = tx.Task(id); return err })
				to[i] = signing.TaskStates()[rnd.IntN(len(signing.TaskStates()))]
				content(rows[i], to[i], strconv.Itoa(step), s.now())
			}
			won, errs := race(t, s, func(tx *Tx) error { return moveTask(tx, rows[0], to[0], nil) }, func(tx *Tx) error { return moveTask(tx, rows[1], to[1], nil) })
			if want := min(1, btoi(state.CanBecome(to[0]))+btoi(state.CanBecome(to[1]))); won != want {
				t.Fatalf("%s -> %v: %d writers won, want %d (%v)", state, to, won, want, errs)
			}
			for i, err := range errs {
				if err == nil {
					state, version = to[i], version+1
				}
			}
			view(t, s, func(tx *Tx) error {
				row, err := tx.Task(id)
				if err == nil && (row.State != state || row.Version != version) {
					t.Fatalf("stored: %s %d, model: %s %d", row.State, row.Version, state, version)
				}
				return err
			})
		}
	}
}

func TestTransitionStoresDocumentEventsTasksAndJobsTogether(t *testing.T) {
	c := newClock()
	s := open(t, Options{Now: c.Now})
	r := insert(t, s, 1)
	r.Decision = &signing.Decision{Effect: signing.Allow, BasisDigest: testDigest, At: c.Now()}
	tasks := []*signing.Task{newTask(r.ID, 1), newTask(r.ID, 2)}
	update(t, s, func(tx *Tx) error {
		return tx.Transition(Change{Request: r, To: string(signing.Ready), NewTasks: tasks, Jobs: []Job{{Kind: "request", Ref: r.ID}},
			Events: []audit.Event{event(r.ID, "", string(signing.Ready))}})
	})
	view(t, s, func(tx *Tx) error {
		got, err := tx.Request(r.ID)
		if err != nil {
			return err
		}
		if diff := cmp.Diff(r, got); diff != "" {
			t.Errorf("request (-memory +stored):\n%s", diff)
		}
		list, err := tx.Tasks(r.ID)
		if diff := cmp.Diff(tasks, list); diff != "" {
			t.Errorf("tasks (-memory +stored):\n%s", diff)
		}
		if _, due, _ := tx.NextDue("request"); !due {
			t.Error("no job")
		}
		return err
	})
	if n := count(t, s, "events"); n != 2 {
		t.Errorf("%d events, want 2", n)
	}
	// The second task's id is taken: nothing of the change may stay.
	err := s.Update(context.Background(), "half", func(tx *Tx) error { return moveRequest(tx, r, signing.Signing, newTask(r.ID, 3), newTask(r.ID, 2)) })
	wantCode(t, err, signing.Conflict)
	if r.State != signing.Ready || r.Version != 2 {
		t.Errorf("in memory: %s %d after a failed change", r.State, r.Version)
	}
	if n := count(t, s, "tasks"); n != 2 {
		t.Errorf("%d tasks, want 2", n)
	}
}

func TestChangeWithoutItsOwnEventIsRefused(t *testing.T) {
	s := open(t, Options{})
	r := insert(t, s, 1)
	for name, events := range map[string][]audit.Event{"none": nil, "another request's": {event(requestID(2), "", string(signing.Ready))}, "none of the log's": {{Kind: "made.up", Request: r.ID}}} {
		if err := s.Update(context.Background(), name, func(tx *Tx) error {
			return tx.Transition(Change{Request: r, To: string(signing.Ready), Events: events})
		}); err == nil {
			t.Errorf("%s: the change was made", name)
		}
	}
}

func TestIllegalChangeIsRefusedAndSaysWhich(t *testing.T) {
	s := open(t, Options{})
	r := insert(t, s, 1)
	err := s.Update(context.Background(), "illegal", func(tx *Tx) error { return moveRequest(tx, r, signing.Completed) })
	wantCode(t, err, signing.Internal)
	if !strings.Contains(err.Error(), `pending -> "completed"`) {
		t.Errorf("the error does not name the change: %v", err)
	}
}

func TestSaveKeepsTheStateAndLosesAgainstAnyOtherChange(t *testing.T) {
	s := open(t, Options{})
	r, tasks := insertReady(t, s, 1, 1)
	stale, staleTask := *r, *tasks[0]
	r.CancelRequested, tasks[0].Tries = true, 3
	update(t, s, func(tx *Tx) error { return errors.Join(tx.SaveRequest(r), tx.SaveTask(tasks[0], nil)) })
	view(t, s, func(tx *Tx) error {
		got, err := tx.Request(r.ID)
		if err != nil || !got.CancelRequested || got.State != signing.Ready || got.Version != 3 {
			t.Errorf("request: %+v, %v", got, err)
		}
		task, err := tx.Task(tasks[0].ID)
		if err != nil || task.Tries != 3 || task.State != signing.Queued || task.Version != 2 {
			t.Errorf("task: %+v, %v", task, err)
		}
		return nil
	})
	wantCode(t, s.Update(context.Background(), "stale", func(tx *Tx) error { return tx.SaveRequest(&stale) }), signing.Conflict)
	wantCode(t, s.Update(context.Background(), "stale", func(tx *Tx) error { return tx.SaveTask(&staleTask, nil) }), signing.Conflict)
}

func TestIntentNeverChangesOnceItIsDurable(t *testing.T) {
	s := open(t, Options{})
	task, c := prepared(t, s, 1)
	for name, write := range map[string]func(*Tx, *signing.Task) error{
		"save":    func(tx *Tx, other *signing.Task) error { return tx.SaveTask(other, c) },
		"attempt": func(tx *Tx, other *signing.Task) error { return tx.Attempt(other, c, attemptEvent(other)) },
		"transition": func(tx *Tx, other *signing.Task) error {
			other.Envelope = testEnvelope("e")
			return moveTask(tx, other, signing.Signed, c)
		},
	} {
		other := *task
		other.Intent = testIntent("other bytes", s.now())
		wantCode(t, s.Update(context.Background(), name, func(tx *Tx) error { return write(tx, &other) }), signing.Conflict)
	}
}

func TestIntentNeverGetsASecondEnvelope(t *testing.T) {
	s := open(t, Options{})
	task, c := prepared(t, s, 1)
	intent := task.Intent
	task.Envelope = testEnvelope("first")
	update(t, s, func(tx *Tx) error { return moveTask(tx, task, signing.Signed, c) })
	attempt := func(name string, fn func(*Tx, *signing.Task) error) {
		t.Helper()
		other := *task
		wantCode(t, s.Update(context.Background(), name, func(tx *Tx) error { return fn(tx, &other) }), signing.Conflict)
	}
	attempt("attached again with another", func(tx *Tx, o *signing.Task) error {
		o.Envelope = testEnvelope("second")
		return moveTask(tx, o, signing.Signed, c)
	})
	attempt("published with another", func(tx *Tx, o *signing.Task) error {
		o.Envelope = testEnvelope("second")
		return moveTask(tx, o, signing.Published, c)
	})
	attempt("saved with another", func(tx *Tx, o *signing.Task) error { o.Envelope = testEnvelope("second"); return tx.SaveTask(o, c) })
	// All the way round: stale bytes, and prepared with the same bytes again.
	update(t, s, func(tx *Tx) error {
		task.Intent, task.Envelope = nil, nil
		if err := moveTask(tx, task, signing.Queued, c); err != nil {
			return err
		}
		task.Intent = intent
		return moveTask(tx, task, signing.Prepared, c)
	})
	attempt("signed again after stale bytes", func(tx *Tx, o *signing.Task) error {
		o.Envelope = testEnvelope("second")
		return moveTask(tx, o, signing.Signed, c)
	})
	task.Envelope = testEnvelope("first")
	update(t, s, func(tx *Tx) error { return moveTask(tx, task, signing.Signed, c) })
}

func TestTaskMustHoldWhatItsStateSays(t *testing.T) {
	s := open(t, Options{})
	_, tasks := insertReady(t, s, 1, 1)
	for name, change := range map[string]struct {
		to   signing.TaskState
		edit func(*signing.Task)
	}{
		"prepared without bytes":        {signing.Prepared, func(t *signing.Task) { t.Intent = &signing.Intent{} }},
		"prepared with an envelope":     {signing.Prepared, func(t *signing.Task) { t.Intent, t.Envelope = testIntent("b", time.Now()), testEnvelope("e") }},
		"published without a signature": {signing.Published, func(*signing.Task) {}},
	} {
		task := *tasks[0]
		change.edit(&task)
		if err := s.Update(context.Background(), name, func(tx *Tx) error { return moveTask(tx, &task, change.to, nil) }); err == nil {
			t.Errorf("%s was stored", name)
		}
	}
}

func TestAttemptIsCountedBeforeTheKeyAndNeverTwice(t *testing.T) {
	c := newClock()
	s := open(t, Options{Now: c.Now})
	task, claim := prepared(t, s, 1)
	stale := *task
	update(t, s, func(tx *Tx) error { return tx.Attempt(task, claim, attemptEvent(task)) })
	wantCode(t, s.Update(context.Background(), "again", func(tx *Tx) error { return tx.Attempt(&stale, claim, attemptEvent(&stale)) }), signing.Conflict)
	if task.Attempts != 1 || stale.Attempts != 0 {
		t.Errorf("attempts in memory: %d and %d, want 1 and 0", task.Attempts, stale.Attempts)
	}
	update(t, s, func(tx *Tx) error { return tx.Attempt(task, claim, attemptEvent(task)) })
	view(t, s, func(tx *Tx) error {
		got, err := tx.Task(task.ID)
		if err != nil || got.Attempts != 2 {
			t.Errorf("stored task: %+v, %v", got, err)
		}
		intent, _ := intentDigest(task.Intent)
		want := []Attempt{{task.ID, 1, c.Now(), "release-ec", intent, claim.Fence}, {task.ID, 2, c.Now(), "release-ec", intent, claim.Fence}}
		rows, err := tx.Attempts(task.ID)
		if diff := cmp.Diff(want, rows); diff != "" {
			t.Errorf("attempts (-want +got):\n%s", diff)
		}
		return err
	})
	c.Advance(time.Hour)
	wantCode(t, s.Update(context.Background(), "late", func(tx *Tx) error { return tx.Attempt(task, claim, attemptEvent(task)) }), signing.Conflict)
	queued := newTask(requestID(1), 1)
	if err := s.Update(context.Background(), "queued", func(tx *Tx) error { return tx.Attempt(queued, claim, attemptEvent(queued)) }); err == nil {
		t.Error("an attempt for a queued task")
	}
}

func TestWriterWhoseLeaseWasTakenOverChangesNothing(t *testing.T) {
	c := newClock()
	s := open(t, Options{Now: c.Now})
	task, old := prepared(t, s, 1)
	c.Advance(2 * time.Minute)
	var now []*Claim
	// By a worker of the same name: it is the fence that tells them apart.
	update(t, s, func(tx *Tx) (err error) { now, err = tx.ClaimDue("task", "worker", 10, time.Minute); return err })
	if len(now) != 1 || now[0].Fence <= old.Fence || now[0].Tries != 2 {
		t.Fatalf("claimed %+v after %+v", now, old)
	}
	for name, write := range map[string]func(*Tx, *signing.Task) error{
		"transition": func(tx *Tx, o *signing.Task) error {
			o.Envelope = testEnvelope("e")
			return moveTask(tx, o, signing.Signed, old)
		},
		"attempt": func(tx *Tx, o *signing.Task) error { return tx.Attempt(o, old, attemptEvent(o)) },
		"save":    func(tx *Tx, o *signing.Task) error { return tx.SaveTask(o, old) },
		"renew":   func(tx *Tx, _ *signing.Task) error { return tx.Renew(old, time.Hour) },
		"release": func(tx *Tx, _ *signing.Task) error { return tx.Release(old, tx.Now()) },
		"finish":  func(tx *Tx, _ *signing.Task) error { return tx.Finish(old) },
		"check":   func(tx *Tx, _ *signing.Task) error { return tx.CheckClaim(old) },
	} {
		o := *task
		if err := s.Update(context.Background(), name, func(tx *Tx) error { return write(tx, &o) }); !errors.Is(err, signing.Conflict) {
			t.Errorf("%s under the lost claim: %v, want a conflict", name, err)
		}
	}
	task.Envelope = testEnvelope("e")
	update(t, s, func(tx *Tx) error { return moveTask(tx, task, signing.Signed, now[0]) })
}

func TestSubmissionIsUniqueByIdempotencyKeyAndTokenIsNotReplayed(t *testing.T) {
	c := newClock()
	s := open(t, Options{Now: c.Now})
	r := insert(t, s, 1)
	submit := func(n int, change func(*signing.Request, *NewRequest)) error {
		other, row := newRequest(n, c.Now()), newRow(n, c.Now())
		change(other, &row)
		return s.Update(context.Background(), "submit", func(tx *Tx) error { return tx.InsertRequest(other, row) })
	}
	wantCode(t, submit(2, func(_ *signing.Request, n *NewRequest) { n.ReplayKey = "replay-1" }), signing.Conflict)
	wantCode(t, submit(2, func(r *signing.Request, _ *NewRequest) { r.IdempotencyKey = "key-1" }), signing.Conflict)
	wantCode(t, submit(1, func(r *signing.Request, n *NewRequest) {
		r.IdempotencyKey, n.ReplayKey = "key-2", "replay-2"
	}), signing.Conflict)
	view(t, s, func(tx *Tx) error {
		got, err := tx.RequestByIdempotency("scope", "key-1")
		if diff := cmp.Diff(r, got); diff != "" {
			t.Errorf("request (-want +got):\n%s", diff)
		}
		_, missing := tx.RequestByIdempotency("other scope", "key-1")
		wantCode(t, missing, signing.NotFound)
		_, missing = tx.Request(requestID(2))
		wantCode(t, missing, signing.NotFound)
		return err
	})
	c.Advance(10 * time.Minute) // the token is not accepted any more, so its key may come again
	if err := submit(3, func(_ *signing.Request, n *NewRequest) { n.ReplayKey = "replay-1" }); err != nil {
		t.Errorf("replay key after its time: %v", err)
	}
	insert(t, s, 4)
	c.Advance(time.Minute)
	update(t, s, func(tx *Tx) error {
		tx.now = tx.now.Add(9 * time.Minute)
		n, err := tx.Expire(1)
		wantExpired(t, n, 1)
		return err
	})
	update(t, s, func(tx *Tx) error {
		tx.now = tx.now.Add(9 * time.Minute)
		n, err := tx.Expire(10)
		wantExpired(t, n, 1)
		return err
	})
	if n := count(t, s, "replays"); n != 0 {
		t.Errorf("%d replay keys left, want 0", n)
	}
}

func wantExpired(t *testing.T, n, want int) {
	t.Helper()
	if n != want {
		t.Errorf("expired %d replay keys, want %d", n, want)
	}
}

// Whoever adds SQL that writes a state has to come through rows.go, where only
// Transition and InsertRequest give another state than the row has.
func TestNoOtherSQLWritesAState(t *testing.T) {
	writes := regexp.MustCompile(`(?is)\b(update|replace\s+into|insert\s+or\s+\w+\s+into)\s+"?(requests|tasks)\b`)
	state := regexp.MustCompile(`(?is)\bset\b.*?\bstate\s*=`)
	where := regexp.MustCompile(`(?is)\bwhere\b.*`)
	inserts := regexp.MustCompile(`(?is)\b(insert)\s+into\s+"?(requests|tasks)\b`)
	found := map[string][]string{}
	files, err := fs.Glob(os.DirFS("."), "*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("listing sources: %v, %v", files, err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			in := name
			if fn, ok := d.(*ast.FuncDecl); ok {
				in = fn.Name.Name
			}
			ast.Inspect(d, func(n ast.Node) bool {
				lit, ok := n.(*ast.BasicLit)
				if !ok || lit.Kind != token.STRING {
					return true
				}
				text, err := strconv.Unquote(lit.Value)
				if err != nil {
					t.Fatal(err)
				}
				switch {
				case inserts.MatchString(text):
					found["insert"] = append(found["insert"], in)
				case writes.MatchString(text) && state.MatchString(where.ReplaceAllString(text, "")):
					found["update"] = append(found["update"], in)
				}
				return true
			})
		}
	}
	slices.Sort(found["insert"])
	want := map[string][]string{"update": {"writeRequest", "writeTask"}, "insert": {"InsertRequest", "writeTask"}}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Errorf("functions with SQL that writes a state (-want +got):\n%s", diff)
	}
}
