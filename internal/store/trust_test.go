package store

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

const testGUN = "registry.example/app"

func TestTheHighestVersionSeenIsRememberedAndNeverLowered(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, Options{Path: path})
	ctx, one, two := context.Background(), signing.DigestOf([]byte("1")), signing.DigestOf([]byte("2"))
	seen := func(want int64, of signing.Digest) {
		t.Helper()
		if v, d, err := s.Trust().Seen(ctx, testGUN, "targets"); err != nil || v != want || d != of {
			t.Fatalf("seen %d %s %v, want %d %s", v, d, err, want, of)
		}
	}
	seen(0, "")
	for _, step := range []struct {
		version int64
		digest  signing.Digest
		want    error
	}{{1, one, nil}, {1, one, nil}, {7, two, nil}, {7, two, nil}, {7, one, signing.Denied}, {6, two, signing.Denied}, {0, two, signing.Invalid}, {8, "x", signing.Invalid}} {
		if err := s.Trust().See(ctx, testGUN, "targets", step.version, step.digest); !errors.Is(err, step.want) {
			t.Errorf("version %d of %s: %v, want %v", step.version, step.digest, err, step.want)
		}
	}
	seen(7, two)
	s = reopen(t, s, Options{Path: path})
	seen(7, two)
	if v, _, err := s.Trust().Seen(ctx, testGUN, "targets/releases"); err != nil || v != 0 {
		t.Errorf("another role: %d %v", v, err)
	}
	for name, err := range map[string]error{
		"no repository":  s.Trust().See(ctx, "app", "targets", 1, one),
		"no role":        s.Trust().See(ctx, testGUN, "", 1, one),
		"role too long":  s.Trust().See(ctx, testGUN, string(make([]byte, MaxRole+1)), 1, one),
		"negative count": s.Trust().See(ctx, testGUN, "snapshot", -1, one),
	} {
		if !errors.Is(err, signing.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var wg sync.WaitGroup
	for v := range int64(40) {
		wg.Go(func() { _ = s.Trust().See(ctx, testGUN, "snapshot", 40-v, two) })
	}
	wg.Wait()
	if v, _, err := s.Trust().Seen(ctx, testGUN, "snapshot"); err != nil || v != 40 {
		t.Errorf("after many writers: %d %v", v, err)
	}
}

func TestARememberedVersionThatWasEditedIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, Options{Path: path})
	ctx := context.Background()
	if err := s.Trust().See(ctx, testGUN, "targets", 3, testDigest); err != nil {
		t.Fatal(err)
	}
	db := rawDB(t, path)
	for _, col := range columns(t, db, "trust_versions") {
		before := readRow(t, db, "trust_versions")
		rawExec(t, db, "UPDATE trust_versions SET "+col.name+" = "+col.other())
		now := readRow(t, db, "trust_versions")
		gun, _ := now["gun"].(string)
		role, _ := now["role"].(string)
		_, _, err := s.Trust().Seen(ctx, gun, role)
		wantTampered(t, col.name, err)
		wantTampered(t, col.name, s.Trust().See(ctx, gun, role, 9, testDigest))
		rawExec(t, db, "UPDATE trust_versions SET "+col.name+" = ?", before[col.name])
	}
}

func TestALookasideNumbersSignaturesWithoutGapsAndKeepsEqualOnesOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, Options{Path: path})
	ctx, l := context.Background(), s.Lookaside()
	at := testGUN + "@sha256=" + signing.Digest(testDigest).Hex()
	put := func(b []byte) (int, error) { return l.Put(ctx, at, signing.DigestOf(b), b) }
	var wg sync.WaitGroup
	for i := range MaxLookaside {
		for range 2 {
			wg.Go(func() {
				if _, err := put([]byte{byte(i)}); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	all, err := l.List(ctx, at)
	if err != nil || len(all) != MaxLookaside {
		t.Fatalf("%d signatures, %v", len(all), err)
	}
	for i, want := range all {
		if got, err := l.Get(ctx, at, i+1); err != nil || string(got) != string(want) {
			t.Errorf("signature %d: %x %v, listed %x", i+1, got, err, want)
		}
		if n, err := put(want); err != nil || n != i+1 {
			t.Errorf("again: %d %v, want %d", n, err, i+1)
		}
	}
	_, oneMore := put([]byte("one more"))
	_, long := put(make([]byte, MaxSimpleSignature+1))
	_, other := l.Put(ctx, at, testDigest, []byte("x"))
	_, zero := l.Get(ctx, at, 0)
	_, beyond := l.Get(ctx, at, MaxLookaside+1)
	for name, c := range map[string]struct{ err, want error }{
		"one too many": {oneMore, signing.TooLarge}, "too long": {long, signing.TooLarge}, "another digest": {other, signing.Invalid},
		"before the first": {zero, signing.NotFound}, "after the last": {beyond, signing.NotFound},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", name, c.err, c.want)
		}
	}
	for _, bad := range []string{"", testGUN, "app@sha256=" + signing.Digest(testDigest).Hex(), testGUN + "/../x@sha256=" + signing.Digest(testDigest).Hex(), testGUN + "@sha256=" + signing.Digest(testDigest).Hex()[1:], testGUN + "@sha512=" + signing.Digest(testDigest).Hex()} {
		_, putErr := l.Put(ctx, bad, signing.DigestOf([]byte("x")), []byte("x"))
		_, getErr := l.Get(ctx, bad, 1)
		_, listErr := l.List(ctx, bad)
		for _, err := range []error{putErr, getErr, listErr} {
			if !errors.Is(err, signing.Invalid) {
				t.Errorf("%q: %v", bad, err)
			}
		}
	}
	db := rawDB(t, path)
	rawExec(t, db, "UPDATE lookaside SET signature = x'00ff' WHERE n = 2")
	_, err = l.Get(ctx, at, 2)
	wantTampered(t, "altered", err)
	_, err = l.List(ctx, at)
	wantTampered(t, "altered", err)
	rawExec(t, db, "DELETE FROM lookaside WHERE n = 2")
	_, err = l.List(ctx, at)
	wantTampered(t, "a gap", err)
}

func TestALeaseIsRenewedByItsHolderOnlyAndWhileItHolds(t *testing.T) {
	c := newClock()
	s := open(t, Options{Now: c.Now})
	var fence int64
	update(t, s, func(tx *Tx) (err error) {
		fence, err = tx.AcquireLease("dct:"+testGUN, "host-1", time.Minute)
		return err
	})
	renew := func(owner string, fence int64) error {
		return s.Update(context.Background(), "test", func(tx *Tx) error { return tx.RenewLease("dct:"+testGUN, owner, fence, time.Minute) })
	}
	c.Advance(50 * time.Second)
	for name, err := range map[string]error{"another owner": renew("host-2", fence), "another fence": renew("host-1", fence+1)} {
		if !errors.Is(err, signing.Conflict) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := renew("host-1", fence); err != nil {
		t.Error(err)
	}
	c.Advance(50 * time.Second)
	if err := s.Update(context.Background(), "test", func(tx *Tx) error { return tx.CheckLease("dct:"+testGUN, "host-1", fence) }); err != nil {
		t.Errorf("after it was renewed: %v", err)
	}
	c.Advance(11 * time.Second)
	if err := renew("host-1", fence); !errors.Is(err, signing.Conflict) {
		t.Errorf("after its end: %v", err)
	}
}
