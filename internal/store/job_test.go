package store

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/signing"
)

func claim(t *testing.T, s *Store, owner string, n int) (out []*Claim) {
	t.Helper()
	update(t, s, func(tx *Tx) (err error) { out, err = tx.ClaimDue("task", owner, n, time.Minute); return err })
	return out
}

func enqueue(t *testing.T, s *Store, ref string, at time.Time) {
	t.Helper()
	update(t, s, func(tx *Tx) error { return tx.Enqueue(Job{Kind: "task", Ref: ref, RunAt: at}) })
}

func refs(claims []*Claim) []string {
	out := []string{}
	for _, c := range claims {
		out = append(out, c.Ref)
	}
	return out
}

func nextDue(t *testing.T, s *Store) (at time.Time) {
	t.Helper()
	view(t, s, func(tx *Tx) (err error) { at, _, err = tx.NextDue("task"); return err })
	return at
}

func TestJobsAreClaimedOnceInOrderOfTheirTimeAndOnlyWhenDue(t *testing.T) {
	c := newClock()
	s := open(t, Options{Now: c.Now})
	start := c.Now()
	enqueue(t, s, "third", time.Time{})
	enqueue(t, s, "later", start.Add(time.Hour))
	enqueue(t, s, "first", start.Add(-2*time.Minute))
	enqueue(t, s, "second", start.Add(-time.Minute))
	update(t, s, func(tx *Tx) error { return tx.Enqueue(Job{Kind: "other", Ref: "other"}) })
	if diff := cmp.Diff([]string{"first", "second"}, refs(claim(t, s, "a", 2))); diff != "" {
		t.Errorf("first claims (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"third"}, refs(claim(t, s, "b", 10))); diff != "" {
		t.Errorf("second claims (-want +got):\n%s", diff)
	}
	if got := claim(t, s, "b", 10); len(got) != 0 {
		t.Errorf("claimed %v, want nothing: all are held or not due", refs(got))
	}
	if got := nextDue(t, s); !got.Equal(start.Add(time.Minute)) {
		t.Errorf("next due %v, want the end of the leases", got)
	}
	c.Advance(time.Hour)
	if diff := cmp.Diff([]string{"first", "second", "third", "later"}, refs(claim(t, s, "c", 10))); diff != "" {
		t.Errorf("claims after the leases expired (-want +got):\n%s", diff)
	}
}

func TestFenceOnlyGrowsEvenWhenTheJobIsMadeAgain(t *testing.T) {
	c := newClock()
	s := open(t, Options{Now: c.Now})
	last := int64(0)
	grow := func(what string, fence int64) {
		t.Helper()
		if fence <= last {
			t.Errorf("%s: fence %d after %d", what, fence, last)
		}
		last = fence
	}
	for range 3 {
		enqueue(t, s, "j", time.Time{})
		got := claim(t, s, "a", 1)
		grow("claim", got[0].Fence)
		update(t, s, func(tx *Tx) error { return tx.Finish(got[0]) })
		var born *Claim
		update(t, s, func(tx *Tx) (err error) {
			born, err = tx.EnqueueClaimed(Job{Kind: "task", Ref: "j"}, "a", time.Minute)
			return err
		})
		grow("born claimed", born.Fence)
		c.Advance(time.Minute)
		got = claim(t, s, "b", 1)
		grow("taken over", got[0].Fence)
		wantCode(t, s.Update(context.Background(), "old", func(tx *Tx) error { return tx.Finish(born) }), signing.Conflict)
		update(t, s, func(tx *Tx) error { return tx.Finish(got[0]) })
		var fence int64
		update(t, s, func(tx *Tx) (err error) { fence, err = tx.AcquireLease("l", "a", time.Minute); return err })
		grow("lease", fence)
		update(t, s, func(tx *Tx) error { return tx.ReleaseLease("l", "a", fence) })
	}
}

func TestJobEnqueuedWhileItIsWorkedOnRunsOnceMore(t *testing.T) {
	c := newClock()
	s := open(t, Options{Now: c.Now})
	enqueue(t, s, "j", time.Time{})
	held := claim(t, s, "a", 1)[0]
	enqueue(t, s, "j", c.Now().Add(30*time.Second))
	enqueue(t, s, "j", c.Now().Add(10*time.Second))
	enqueue(t, s, "j", c.Now().Add(20*time.Second))
	if got := claim(t, s, "b", 1); len(got) != 0 {
		t.Fatal("a held job was claimed")
	}
	update(t, s, func(tx *Tx) error { return tx.Finish(held) })
	if got := nextDue(t, s); !got.Equal(c.Now().Add(10 * time.Second)) {
		t.Errorf("due again at %v, want the earliest time asked for", got)
	}
	c.Advance(10 * time.Second)
	again := claim(t, s, "a", 1)
	if len(again) != 1 || again[0].Tries != 1 {
		t.Fatalf("claimed %+v, want the job with its tries counted from new", again)
	}
	update(t, s, func(tx *Tx) error { return tx.Finish(again[0]) })
	if n := count(t, s, "jobs"); n != 0 {
		t.Errorf("%d jobs left, want 0", n)
	}
}

func TestReleasedJobKeepsItsTriesAndRunsAtItsTime(t *testing.T) {
	c := newClock()
	s := open(t, Options{Now: c.Now})
	enqueue(t, s, "j", time.Time{})
	for want := 1; want <= 3; want++ {
		got := claim(t, s, "a", 1)
		if len(got) != 1 || got[0].Tries != want {
			t.Fatalf("claimed %+v, want try %d", got, want)
		}
		update(t, s, func(tx *Tx) error { return tx.Release(got[0], c.Now().Add(time.Second)) })
		if early := claim(t, s, "a", 1); len(early) != 0 {
			t.Fatal("claimed before its time")
		}
		c.Advance(time.Second)
	}
	// Enqueueing makes a waiting job due earlier, never later.
	got := claim(t, s, "a", 1)[0]
	update(t, s, func(tx *Tx) error { return tx.Release(got, c.Now().Add(time.Hour)) })
	enqueue(t, s, "j", c.Now().Add(time.Minute))
	enqueue(t, s, "j", c.Now().Add(2*time.Minute))
	if at := nextDue(t, s); !at.Equal(c.Now().Add(time.Minute)) {
		t.Errorf("due at %v, want in a minute", at)
	}
}

func TestRenewedClaimHoldsLongerAndAnExpiredOneCannotBeRenewed(t *testing.T) {
	c := newClock()
	s := open(t, Options{Now: c.Now})
	enqueue(t, s, "j", time.Time{})
	got := claim(t, s, "a", 1)[0]
	c.Advance(50 * time.Second)
	update(t, s, func(tx *Tx) error { return tx.Renew(got, time.Minute) })
	c.Advance(50 * time.Second)
	update(t, s, func(tx *Tx) error { return tx.CheckClaim(got) })
	if !got.Until.Equal(c.Now().Add(10 * time.Second)) {
		t.Errorf("until %v in memory", got.Until)
	}
	c.Advance(10 * time.Second)
	wantCode(t, s.Update(context.Background(), "renew", func(tx *Tx) error { return tx.Renew(got, time.Minute) }), signing.Conflict)
}

func TestJobThatIsThereIsNotBornAgain(t *testing.T) {
	s := open(t, Options{})
	enqueue(t, s, "j", time.Time{})
	wantCode(t, s.Update(context.Background(), "born", func(tx *Tx) error {
		_, err := tx.EnqueueClaimed(Job{Kind: "task", Ref: "j"}, "a", time.Minute)
		return err
	}), signing.Conflict)
}

func TestLeaseHasOneHolderUntilItIsGivenBackOrExpires(t *testing.T) {
	c := newClock()
	s := open(t, Options{Now: c.Now})
	acquire := func(owner string) (fence int64, err error) {
		err = s.Update(context.Background(), "acquire", func(tx *Tx) (err error) { fence, err = tx.AcquireLease("digest", owner, time.Minute); return err })
		return fence, err
	}
	check := func(owner string, fence int64) error {
		return s.View(context.Background(), func(tx *Tx) error { return tx.CheckLease("digest", owner, fence) })
	}
	a, err := acquire("a")
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{"b", "a"} {
		_, err := acquire(other)
		wantCode(t, err, signing.Conflict)
		if e := signing.Public(err); e.RetryAfter != time.Minute {
			t.Errorf("retry after %v, want a minute", e.RetryAfter)
		}
	}
	if err := check("a", a); err != nil {
		t.Error(err)
	}
	wantCode(t, check("b", a), signing.Conflict)
	c.Advance(time.Minute)
	wantCode(t, check("a", a), signing.Conflict)
	b, err := acquire("b")
	if err != nil || b <= a {
		t.Fatalf("fence %d after %d, %v", b, a, err)
	}
	// The old holder's release must not free the new one's lease.
	update(t, s, func(tx *Tx) error { return tx.ReleaseLease("digest", "a", a) })
	if err := check("b", b); err != nil {
		t.Error(err)
	}
	update(t, s, func(tx *Tx) error { return tx.ReleaseLease("digest", "b", b) })
	if _, err := acquire("a"); err != nil {
		t.Errorf("free lease: %v", err)
	}
}

func TestClaimsOfADeadProcessAreFreeAfterOpening(t *testing.T) {
	c, path := newClock(), t.TempDir()+"/state.db"
	s := open(t, Options{Now: c.Now, Path: path})
	enqueue(t, s, "j", time.Time{})
	old := claim(t, s, "a", 1)[0]
	update(t, s, func(tx *Tx) error { _, err := tx.AcquireLease("l", "a", time.Hour); return err })
	s = reopen(t, s, Options{Now: c.Now, Path: path})
	got := claim(t, s, "b", 1)
	if len(got) != 1 || got[0].Fence <= old.Fence || got[0].Tries != 2 {
		t.Errorf("claimed %+v after %+v", got, old)
	}
	wantCode(t, s.Update(context.Background(), "old", func(tx *Tx) error { return tx.CheckClaim(old) }), signing.Conflict)
	update(t, s, func(tx *Tx) error { _, err := tx.AcquireLease("l", "b", time.Hour); return err })
}

func TestJanitorFindsOverdueRequestsAndUnattemptedIntents(t *testing.T) {
	c := newClock()
	s := open(t, Options{Now: c.Now})
	insert(t, s, 1) // stays pending
	canceled := insert(t, s, 2)
	update(t, s, func(tx *Tx) error { return moveRequest(tx, canceled, signing.Canceled) })
	idle, _ := prepared(t, s, 3)
	attempted, claim := prepared(t, s, 4)
	update(t, s, func(tx *Tx) error { return tx.Attempt(attempted, claim, attemptEvent(attempted)) })
	c.Advance(5 * time.Minute)
	prepared(t, s, 5) // too young
	c.Advance(5 * time.Minute)
	want := func(overdue, unattempted []string) {
		t.Helper()
		view(t, s, func(tx *Tx) error {
			got, err := tx.Overdue(10)
			if diff := cmp.Diff(overdue, got); diff != "" || err != nil {
				t.Errorf("overdue (-want +got):\n%s%v", diff, err)
			}
			got, err = tx.Unattempted(10*time.Minute, 10)
			if diff := cmp.Diff(unattempted, got); diff != "" || err != nil {
				t.Errorf("unattempted (-want +got):\n%s%v", diff, err)
			}
			return nil
		})
	}
	want(nil, []string{idle.ID})
	// Prepared again with other bytes, the attempted one counts from new.
	update(t, s, func(tx *Tx) error {
		attempted.Intent = nil
		if err := moveTask(tx, attempted, signing.Queued, nil); err != nil {
			return err
		}
		attempted.Intent = testIntent("new bytes", tx.Now())
		return moveTask(tx, attempted, signing.Prepared, nil)
	})
	c.Advance(50 * time.Minute)
	want([]string{requestID(1), requestID(3), requestID(4)}, []string{idle.ID, requestID(5) + ".1", attempted.ID})
}

func TestPolicyGenerationOnlyGrows(t *testing.T) {
	s := open(t, Options{})
	get := func() (n int64, d signing.Digest) {
		view(t, s, func(tx *Tx) (err error) { n, d, err = tx.Generation(); return err })
		return n, d
	}
	if n, d := get(); n != 0 || d != "" {
		t.Errorf("generation %d %q in a new database", n, d)
	}
	put := func(n int64) error {
		return s.Update(context.Background(), "generation", func(tx *Tx) error { return tx.SetGeneration(n, testDigest) })
	}
	if err := put(2); err != nil {
		t.Fatal(err)
	}
	if err := put(2); err != nil { // the same again seals it anew
		t.Fatal(err)
	}
	other := func(tx *Tx) error { return tx.SetGeneration(2, signing.DigestOf([]byte("another"))) }
	wantCode(t, s.Update(context.Background(), "generation", other), signing.Conflict)
	wantCode(t, put(1), signing.Conflict)
	if err := put(3); err != nil {
		t.Fatal(err)
	}
	if n, d := get(); n != 3 || d != testDigest {
		t.Errorf("generation %d %q, want 3", n, d)
	}
}
