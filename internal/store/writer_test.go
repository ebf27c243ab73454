package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// together runs the closures as concurrent Updates of one batch.
func together(t *testing.T, s *Store, fns ...func(*Tx) error) []error {
	t.Helper()
	release := holdWriter(t, s)
	errs := make([]error, len(fns))
	var wg sync.WaitGroup
	for i, fn := range fns {
		wg.Go(func() { errs[i] = s.Update(context.Background(), fmt.Sprintf("fn%d", i), fn) })
	}
	for len(s.ops) < min(len(fns), cap(s.ops)) {
		runtime.Gosched()
	}
	release()
	wg.Wait()
	return errs
}

func inserting(n int) func(*Tx) error {
	return func(tx *Tx) error { return tx.InsertRequest(newRequest(n, tx.Now()), newRow(n, tx.Now())) }
}

func TestConcurrentUpdatesShareTransactionsAndOneFailureHurtsNobodyElse(t *testing.T) {
	s := open(t, Options{})
	before := s.Stats()
	own := errors.New("own failure")
	fns := make([]func(*Tx) error, 100)
	for i := range fns {
		fns[i] = inserting(i)
	}
	fns[13] = func(tx *Tx) error {
		if err := inserting(13)(tx); err != nil {
			return err
		}
		return own
	}
	fns[14] = func(tx *Tx) error {
		if err := inserting(14)(tx); err != nil {
			return err
		}
		panic("boom")
	}
	fns[15] = func(tx *Tx) error { _, err := tx.exec("INSERT INTO no_such_table VALUES (1)"); return err }
	for i, err := range together(t, s, fns...) {
		switch {
		case i == 13 && !errors.Is(err, own):
			t.Errorf("failing closure: got %v, want its own error", err)
		case i == 14 && (err == nil || errors.Is(err, own)):
			t.Errorf("panicking closure: got %v, want its panic", err)
		case i == 15 && err == nil:
			t.Error("closure with wrong SQL: got no error")
		case (i < 13 || i > 15) && err != nil:
			t.Errorf("closure %d: %v", i, err)
		}
	}
	if n := count(t, s, "requests"); n != 97 {
		t.Errorf("%d requests stored, want 97", n)
	}
	if n := count(t, s, "events"); n != 97 {
		t.Errorf("%d events stored, want 97", n)
	}
	after := s.Stats()
	if updates, commits := after.Updates-before.Updates, after.Commits-before.Commits; commits*10 > updates {
		t.Errorf("%d transactions for %d updates, want them shared", commits, updates)
	}
}

func TestFailureThatTheClosureSwallowsIsStillReturned(t *testing.T) {
	s := open(t, Options{})
	r := insert(t, s, 1)
	stale := *r
	update(t, s, func(tx *Tx) error { return moveRequest(tx, r, signing.Ready) })
	err := s.Update(context.Background(), "swallow", func(tx *Tx) error {
		_ = moveRequest(tx, &stale, signing.Canceled) // loses the comparison
		return inserting(2)(tx)
	})
	wantCode(t, err, signing.Conflict)
	if n := count(t, s, "requests"); n != 1 {
		t.Errorf("%d requests, want 1: the closure went on after a failed change", n)
	}
	for name, last := range map[string]func(*Tx){
		"a change":    func(tx *Tx) { _ = moveRequest(tx, &stale, signing.Canceled) },
		"a statement": func(tx *Tx) { _, _ = tx.exec("INSERT INTO no_such_table VALUES (1)") },
	} {
		if err := s.Update(context.Background(), name, func(tx *Tx) error {
			if err := inserting(2)(tx); err != nil {
				return err
			}
			last(tx)
			return nil
		}); err == nil {
			t.Errorf("%s failed last, and Update returned nil", name)
		}
	}
	if n := count(t, s, "requests"); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

func TestFailedCommitFailsEveryCallerAndLeavesNothing(t *testing.T) {
	s := open(t, Options{})
	r := newRequest(1, s.now())
	errs := together(t, s,
		func(tx *Tx) error { return tx.InsertRequest(r, newRow(1, tx.Now())) },
		func(tx *Tx) error {
			// A violation that SQLite sees only at COMMIT.
			if _, err := tx.exec("PRAGMA defer_foreign_keys = ON"); err != nil {
				return err
			}
			return tx.SetCapability("no such request", make([]byte, 32))
		})
	for i, err := range errs {
		if err == nil {
			t.Errorf("caller %d was told that its change is durable", i)
		}
	}
	if r.Version != 0 {
		t.Errorf("request has version %d after a failed commit, want 0", r.Version)
	}
	for _, table := range []string{"requests", "events", "capabilities", "replays"} {
		if n := count(t, s, table); n != 0 {
			t.Errorf("%s has %d rows after a failed commit", table, n)
		}
	}
	update(t, s, func(tx *Tx) error { return tx.InsertRequest(r, newRow(1, tx.Now())) })
}

func TestUpdateWhoseContextEndedBeforeItsTurnIsNotRun(t *testing.T) {
	s := open(t, Options{})
	ctx, cancel := context.WithCancel(context.Background())
	release := holdWriter(t, s)
	ran := false
	done := make(chan error)
	go func() { done <- s.Update(ctx, "late", func(*Tx) error { ran = true; return nil }) }()
	for len(s.ops) == 0 {
		runtime.Gosched()
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	release()
	update(t, s, func(*Tx) error { return nil }) // after it, the late one has had its turn
	if ran {
		t.Error("the closure ran after its caller had gone")
	}
	if err := s.Update(ctx, "dead", func(*Tx) error { ran = true; return nil }); !errors.Is(err, context.Canceled) || ran {
		t.Errorf("got %v, ran %t with a context that had ended", err, ran)
	}
}

func TestStartedUpdateIsWaitedForEvenIfItsContextEnds(t *testing.T) {
	s := open(t, Options{})
	ctx, cancel := context.WithCancel(context.Background())
	if err := s.Update(ctx, "cancels itself", func(tx *Tx) error { cancel(); return inserting(1)(tx) }); err != nil {
		t.Fatalf("got %v for a change that was made", err)
	}
	if n := count(t, s, "requests"); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

func TestClosureThatEndsItsGoroutineDoesNotStopTheStore(t *testing.T) {
	s := open(t, Options{})
	err := s.Update(context.Background(), "goexit", func(tx *Tx) error {
		if err := inserting(1)(tx); err != nil {
			return err
		}
		runtime.Goexit()
		return nil
	})
	if err == nil {
		t.Error("got no error")
	}
	insert(t, s, 2)
	if n := count(t, s, "requests"); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

func TestCloseFinishesWhatWasAcceptedAndRefusesTheRest(t *testing.T) {
	s := open(t, Options{})
	release := holdWriter(t, s)
	accepted := make(chan error)
	go func() { accepted <- s.Update(context.Background(), "accepted", inserting(1)) }()
	for len(s.ops) == 0 {
		runtime.Gosched()
	}
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	for !s.isClosed() {
		runtime.Gosched()
	}
	wantCode(t, s.Update(context.Background(), "refused", inserting(2)), signing.Unavailable)
	release()
	if err := <-accepted; err != nil {
		t.Errorf("accepted update: %v", err)
	}
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
	wantCode(t, s.View(context.Background(), func(*Tx) error { return nil }), signing.Unavailable)
}

func TestTransactionIsUselessOutsideItsFunctionAndViewCannotWrite(t *testing.T) {
	s := open(t, Options{})
	var kept *Tx
	update(t, s, func(tx *Tx) error { kept = tx; return nil })
	if err := kept.Enqueue(Job{Kind: "k", Ref: "r"}); !errors.Is(err, errTxOver) {
		t.Errorf("writing after Update: %v", err)
	}
	view(t, s, func(tx *Tx) error {
		kept = tx
		if err := tx.Enqueue(Job{Kind: "k", Ref: "r"}); err == nil {
			t.Error("a View wrote")
		}
		return nil
	})
	if _, err := kept.Request(requestID(1)); !errors.Is(err, errTxOver) {
		t.Errorf("reading after View: %v", err)
	}
}

func TestViewSeesOneSnapshot(t *testing.T) {
	s := open(t, Options{})
	insert(t, s, 1)
	view(t, s, func(tx *Tx) error {
		if _, err := tx.Request(requestID(1)); err != nil {
			return err
		}
		insert(t, s, 2)
		_, err := tx.Request(requestID(2))
		wantCode(t, err, signing.NotFound)
		return nil
	})
}

func TestInterposerFailsAWriteOrLetsItHappenAndSeemToFail(t *testing.T) {
	const pass, before, after = "pass", "fails", "fails but happened"
	mode, fault := pass, errors.New("fault")
	var names []string
	s := open(t, Options{Interpose: func(_ context.Context, name string, commit func() error) error {
		names = append(names, name)
		switch mode {
		case before:
			return fault
		case after:
			if err := commit(); err != nil {
				return err
			}
			_ = commit() // a second call must not run the closure again
			return fault
		}
		return commit()
	}})
	for i, m := range []string{pass, before, after} {
		mode = m
		r := newRequest(i, s.now())
		err := s.Update(context.Background(), "insert", func(tx *Tx) error { return tx.InsertRequest(r, newRow(i, tx.Now())) })
		var stored error
		view(t, s, func(tx *Tx) error { _, stored = tx.Request(r.ID); return nil })
		if want := m != pass; errors.Is(err, fault) != want {
			t.Errorf("%s: Update returned %v", m, err)
		}
		if want := m != before; (stored == nil) != want {
			t.Errorf("%s: loading the request returned %v", m, stored)
		}
		if want := m == pass; (r.Version == 1) != want {
			t.Errorf("%s: version %d in memory", m, r.Version)
		}
	}
	if fmt.Sprint(names) != "[insert insert insert]" {
		t.Errorf("interposed %v", names)
	}
	mode = pass
	own := errors.New("own failure")
	if err := s.Update(context.Background(), "own", func(*Tx) error { return own }); !errors.Is(err, own) {
		t.Errorf("got %v, want the closure's error", err)
	}
}

// Far fewer pages than walPages are written: the writer itself moves none.
func TestTheWriteAheadLogIsMovedBesideTheWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, Options{Path: path})
	size := func() int64 {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	before := size()
	for n := range tidyEvery + 1 {
		insertOf(t, s, n, "payments", n)
	}
	for end := time.Now().Add(time.Minute); size() == before; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the file still has %d bytes", before)
		}
	}
}
