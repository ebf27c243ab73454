package store

import (
	"context"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// allAtOnce takes the n-th request from pending to an attempt for its one task.
func allAtOnce(r *signing.Request, task *signing.Task, c *Claim) func(tx *Tx) error {
	return func(tx *Tx) error {
		if err := moveRequest(tx, r, signing.Ready, task); err != nil {
			return err
		}
		if err := moveRequest(tx, r, signing.Signing); err != nil {
			return err
		}
		task.Intent = testIntent("bytes", tx.Now())
		if err := moveTask(tx, task, signing.Prepared, c); err != nil {
			return err
		}
		return tx.Attempt(task, c, attemptEvent(task))
	}
}

func claimed(t *testing.T, s *Store, ref string) (c *Claim) {
	t.Helper()
	update(t, s, func(tx *Tx) (err error) {
		c, err = tx.EnqueueClaimed(Job{Kind: "drive", Ref: ref}, "worker", time.Minute)
		return err
	})
	return c
}

func TestRowThatChangesSeveralTimesIsWrittenAsItEnds(t *testing.T) {
	s := open(t, Options{})
	r := insert(t, s, 1)
	task, c := newTask(r.ID, 1), claimed(t, s, r.ID)
	before := count(t, s, "events")
	update(t, s, func(tx *Tx) error {
		if err := allAtOnce(r, task, c)(tx); err != nil {
			return err
		}
		// What is read in the same transaction is what it wrote.
		got, err := tx.Request(r.ID)
		if err != nil || got.State != signing.Signing || got.Version != 3 {
			t.Errorf("%+v, %v", got, err)
		}
		return err
	})
	view(t, s, func(tx *Tx) error {
		got, err := tx.Task(task.ID)
		if err != nil || got.State != signing.Prepared || got.Version != 3 || got.Attempts != 1 || string(got.Intent.Bytes) != "bytes" || got.Version != task.Version {
			t.Errorf("%+v, %v", got, err)
		}
		return err
	})
	if n := count(t, s, "events") - before; n != 4 {
		t.Errorf("%d events of 4 changes", n)
	}
	if n := count(t, s, "attempts"); n != 1 {
		t.Errorf("%d attempts", n)
	}
}

func TestChangesOfARowThatMovedMeanwhileLeaveNothing(t *testing.T) {
	s := open(t, Options{})
	r := insert(t, s, 1)
	task, c := newTask(r.ID, 1), claimed(t, s, r.ID)
	canceled := *r
	update(t, s, func(tx *Tx) error { return moveRequest(tx, &canceled, signing.Canceled) })
	before := count(t, s, "events")
	wantCode(t, s.Update(context.Background(), "late", allAtOnce(r, task, c)), signing.Conflict)
	if r.State != signing.Pending || r.Version != 1 || task.State != signing.Queued || task.Version != 0 || task.Attempts != 0 {
		t.Errorf("in memory: %s %d, %s %d, %d attempts", r.State, r.Version, task.State, task.Version, task.Attempts)
	}
	for table, want := range map[string]int{"events": before, "tasks": 0, "attempts": 0} {
		if n := count(t, s, table); n != want {
			t.Errorf("%d rows in %s, want %d", n, table, want)
		}
	}
}

// Two structs of one row in one transaction: the second was loaded before the
// first was changed.
func TestSecondChangeFromAnOlderRowIsAConflict(t *testing.T) {
	s := open(t, Options{})
	r := insert(t, s, 1)
	stale := *r
	wantCode(t, s.Update(context.Background(), "twice", func(tx *Tx) error {
		if err := moveRequest(tx, r, signing.Ready); err != nil {
			return err
		}
		return moveRequest(tx, &stale, signing.Canceled)
	}), signing.Conflict)
	task, c := prepared(t, s, 2)
	old := *task
	wantCode(t, s.Update(context.Background(), "twice", func(tx *Tx) error {
		if err := tx.Attempt(task, c, attemptEvent(task)); err != nil {
			return err
		}
		return tx.SaveTask(&old, c)
	}), signing.Conflict)
	task.Intent = testIntent("others", time.Now())
	wantCode(t, s.Update(context.Background(), "another intent", func(tx *Tx) error {
		if err := tx.SaveTask(&old, c); err != nil {
			return err
		}
		old.Intent = task.Intent
		return tx.Attempt(&old, c, attemptEvent(&old))
	}), signing.Conflict)
}

func TestCheckRequestSeesAnyChange(t *testing.T) {
	s := open(t, Options{})
	r := insert(t, s, 1)
	check := func(r *signing.Request) error {
		return s.Update(context.Background(), "check", func(tx *Tx) error { return tx.CheckRequest(r) })
	}
	if err := check(r); err != nil {
		t.Error(err)
	}
	stale := *r
	update(t, s, func(tx *Tx) error { return tx.SaveRequest(r) })
	wantCode(t, check(&stale), signing.Conflict)
	if err := check(r); err != nil {
		t.Error(err)
	}
}
