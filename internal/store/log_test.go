package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
)

func logSigner(t testing.TB) *audit.Signer {
	t.Helper()
	private, _, err := audit.GenerateKey(rand.Reader, "sealwright.example/log")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := audit.NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// appendEvents adds n events, all different.
func appendEvents(t testing.TB, s *Store, n int) {
	t.Helper()
	update(t, s, func(tx *Tx) error {
		for i := range n {
			e := event(requestID(i), "", string(signing.Canceled))
			e.Attrs["attempt"] = fmt.Sprint(i)
			if err := tx.Append(e); err != nil {
				return err
			}
		}
		return nil
	})
}

// checkLog recomputes the whole log and returns its size.
func checkLog(t testing.TB, s *Store) uint64 {
	t.Helper()
	var h head
	view(t, s, func(tx *Tx) (err error) { h, err = tx.head(); return err })
	src := s.LogSource()
	var leaves [][]byte
	for from := uint64(0); from < h.size; from += MaxRead {
		page, err := src.Entries(context.Background(), from, min(from+MaxRead, h.size))
		if err != nil {
			t.Fatalf("entries from %d: %v", from, err)
		}
		leaves = append(leaves, page...)
	}
	nodes, root, err := audit.Extend(0, nil, leaves)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(root, h.root) {
		t.Errorf("root %x stored, %x recomputed from %d entries", h.root, root, h.size)
	}
	for _, n := range nodes {
		got, err := src.Nodes(context.Background(), []audit.NodeID{n.ID})
		if err != nil || !bytes.Equal(got[0], n.Hash) {
			t.Errorf("node %v: stored %x, recomputed %x, %v", n.ID, got, n.Hash, err)
		}
	}
	if stored := count(t, s, "nodes"); stored != len(nodes) {
		t.Errorf("%d nodes stored, want %d", stored, len(nodes))
	}
	return h.size
}

func sequence(t testing.TB, s *Store, limit int, sign func(uint64, []byte) ([]byte, error)) int {
	t.Helper()
	n, err := s.Sequence(context.Background(), limit, sign)
	if err != nil {
		t.Fatalf("Sequence: %v", err)
	}
	return n
}

func TestSequencedLogEqualsTheTreeRecomputedFromScratch(t *testing.T) {
	s := open(t, Options{})
	if n := sequence(t, s, 100, nil); n != 0 {
		t.Errorf("sequenced %d events of an empty log", n)
	}
	total := uint64(0)
	for _, step := range []struct{ add, limit, want int }{{1, 10, 1}, {2, 1, 1}, {0, 10, 1}, {253, 300, 253}, {0, 10, 0}, {300, 299, 299}, {6, 100, 7}} {
		appendEvents(t, s, step.add)
		if n := sequence(t, s, step.limit, nil); n != step.want {
			t.Fatalf("sequenced %d of %+v", n, step)
		}
		total += uint64(step.want)
		if size := checkLog(t, s); size != total {
			t.Fatalf("log of %d entries, want %d", size, total)
		}
	}
	view(t, s, func(tx *Tx) error {
		if _, err := tx.LogEntries(total-1, total+1); !errors.Is(err, signing.NotFound) {
			t.Errorf("an entry after the last: %v", err)
		}
		if _, err := tx.LogEntries(0, MaxRead+1); !errors.Is(err, signing.Invalid) {
			t.Errorf("too many entries: %v", err)
		}
		if _, err := tx.Nodes([]audit.NodeID{{Level: 0, Index: total}}); !errors.Is(err, signing.NotFound) {
			t.Errorf("a node after the last: %v", err)
		}
		// Runs of neighbours and single nodes, in the order asked for.
		ids := []audit.NodeID{{Level: 0, Index: 5}, {Level: 0, Index: 6}, {Level: 1, Index: 1}, {Level: 0, Index: 2}}
		all, err := tx.Nodes(ids)
		if err != nil {
			return err
		}
		for i, id := range ids {
			one, err := tx.Nodes([]audit.NodeID{id})
			if err != nil || !bytes.Equal(one[0], all[i]) {
				t.Errorf("node %v: %x alone, %x among others, %v", id, one, all[i], err)
			}
		}
		return nil
	})
}

func TestConcurrentSequencersGiveEveryEventOneLeaf(t *testing.T) {
	s := open(t, Options{})
	signer := logSigner(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 10 {
				appendEvents(t, s, 5)
			}
		})
		wg.Go(func() {
			for range 15 {
				if _, err := s.Sequence(context.Background(), 7, signer.SignCheckpoint); err != nil {
					t.Errorf("Sequence: %v", err)
				}
			}
		})
	}
	wg.Wait()
	for sequence(t, s, 1000, signer.SignCheckpoint) > 0 {
	}
	if size := checkLog(t, s); size != 200 {
		t.Errorf("log of %d entries, want 200", size)
	}
	verifyExport(t, s, signer, 200)
}

func verifyExport(t *testing.T, s *Store, signer *audit.Signer, want uint64) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "export")
	put, err := audit.Folder(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := audit.WriteExport(context.Background(), s.LogSource(), put); err != nil {
		t.Fatalf("WriteExport: %v", err)
	}
	report, err := audit.VerifyExport(os.DirFS(dir), signer.Verifier().String(), nil)
	if err != nil || report.Verified != want {
		t.Errorf("VerifyExport: %d entries, %v; want %d", report.Verified, err, want)
	}
}

func TestCheckpointIsSignedOnlyWhenTheLogHasGrownAndIsDurable(t *testing.T) {
	s := open(t, Options{})
	signer := logSigner(t)
	var sizes []uint64
	var last *audit.Checkpoint
	sign := func(size uint64, root []byte) ([]byte, error) {
		// The store can be read here, and has what is about to be signed.
		if err := audit.Guard(context.Background(), last, size, root, s.LogSource().Nodes); err != nil {
			return nil, err
		}
		if got := checkLog(t, s); got != size {
			t.Errorf("asked to sign %d entries while %d are durable", size, got)
		}
		sizes = append(sizes, size)
		note, err := signer.SignCheckpoint(size, root)
		last = &audit.Checkpoint{Size: size, Root: root}
		return note, err
	}
	view(t, s, func(tx *Tx) error { _, _, err := tx.Checkpoint(); wantCode(t, err, signing.NotFound); return nil })
	sequence(t, s, 10, sign)
	appendEvents(t, s, 3)
	sequence(t, s, 10, sign)
	sequence(t, s, 10, sign)
	appendEvents(t, s, 2)
	down := errors.New("signer down")
	if n, err := s.Sequence(context.Background(), 10, func(uint64, []byte) ([]byte, error) { return nil, down }); n != 2 || !errors.Is(err, down) {
		t.Errorf("sequenced %d, %v; want 2 and the signer's error", n, err)
	}
	sequence(t, s, 10, sign)
	if diff := cmp.Diff([]uint64{3, 5}, sizes); diff != "" {
		t.Errorf("signed sizes (-want +got):\n%s", diff)
	}
	view(t, s, func(tx *Tx) error {
		note, size, err := tx.Checkpoint()
		if err != nil || size != 5 {
			t.Errorf("newest checkpoint of %d, %v", size, err)
		}
		c, err := audit.ParseCheckpoint(note, signer.Verifier())
		if err != nil || c.Size != 5 {
			t.Errorf("checkpoint says %d, %v", c.Size, err)
		}
		list, err := tx.Checkpoints(3)
		if len(list) != 1 || list[0].Size != 5 {
			t.Errorf("checkpoints after 3: %+v", list)
		}
		return err
	})
	verifyExport(t, s, signer, 5)
}

func TestBacklogSaysHowManyEventsWaitAndSinceWhen(t *testing.T) {
	c := newClock()
	s := open(t, Options{Now: c.Now})
	start := c.Now()
	appendEvents(t, s, 1)
	c.Advance(time.Minute)
	appendEvents(t, s, 2)
	want := func(n int, at time.Time) {
		t.Helper()
		view(t, s, func(tx *Tx) error {
			got, oldest, err := tx.Backlog()
			if got != n || !oldest.Equal(at) {
				t.Errorf("backlog %d since %v, want %d since %v", got, oldest, n, at)
			}
			return err
		})
	}
	want(3, start)
	sequence(t, s, 2, nil)
	want(1, c.Now())
	sequence(t, s, 2, nil)
	want(0, time.Time{})
}

func TestSequencingFailsWholeAtEveryWriteAndGoesOnAfterwards(t *testing.T) {
	const before, after = "fails", "fails but happened"
	for _, at := range []string{"sequence", "checkpoint"} {
		for _, mode := range []string{before, after} {
			t.Run(at+" "+mode, func(t *testing.T) {
				fault, armed := errors.New("fault"), true
				s := open(t, Options{Interpose: func(_ context.Context, name string, commit func() error) error {
					if !armed || name != at {
						return commit()
					}
					armed = false
					if mode == before {
						return fault
					}
					return errors.Join(commit(), fault)
				}})
				signer := logSigner(t)
				appendEvents(t, s, 5)
				if _, err := s.Sequence(context.Background(), 10, signer.SignCheckpoint); !errors.Is(err, fault) {
					t.Fatalf("got %v, want the fault", err)
				}
				checkLog(t, s)
				appendEvents(t, s, 3)
				sequence(t, s, 10, signer.SignCheckpoint)
				if size := checkLog(t, s); size != 8 {
					t.Errorf("log of %d entries, want 8", size)
				}
				verifyExport(t, s, signer, 8)
			})
		}
	}
}

func TestEventsAlteredBeforeTheyHaveALeafDoNotEnterTheLog(t *testing.T) {
	for name, edit := range map[string]string{
		"body":      "UPDATE events SET body = replace(body, 'canceled', 'expired') WHERE seq = 3",
		"seq":       "UPDATE events SET seq = 9 WHERE seq = 3",
		"mac":       "UPDATE events SET mac = zeroblob(32) WHERE seq = 3",
		"mac_key":   "UPDATE events SET mac_key = 'x' WHERE seq = 3",
		"leaf":      "UPDATE events SET leaf = 77 WHERE seq = 3",
		"deleted":   "DELETE FROM events WHERE seq = 3",
		"inserted":  "INSERT INTO events (seq, at, body, mac_key, mac) SELECT 6, at, body, mac_key, mac FROM events WHERE seq = 5",
		"exchanged": "UPDATE events SET (body, mac_key, mac) = (SELECT body, mac_key, mac FROM events WHERE seq = 4) WHERE seq = 3",
		"head":      "UPDATE log_head SET size = 1, seq = 1",
		"head root": "UPDATE log_head SET root = zeroblob(32)",
		"head gone": "DELETE FROM log_head",
		"node":      "UPDATE nodes SET hash = zeroblob(32) WHERE level = 1",
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state.db")
			s := open(t, Options{Path: path})
			appendEvents(t, s, 2)
			sequence(t, s, 10, nil)
			appendEvents(t, s, 3)
			rawExec(t, rawDB(t, path), edit)
			_, err := s.Sequence(context.Background(), 10, func(uint64, []byte) ([]byte, error) {
				t.Error("asked to sign an altered log")
				return nil, errors.New("no")
			})
			wantTampered(t, name, err)
			if n := count(t, s, "nodes"); n != 3 {
				t.Errorf("%d nodes, want the 3 of the honest log", n)
			}
		})
	}
}

// Whoever can write rows can recompute the tree, but not the seal of its head.
func TestLogRewrittenInTheDatabaseIsNotSigned(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, Options{Path: path})
	appendEvents(t, s, 4)
	sequence(t, s, 10, nil)
	db := rawDB(t, path)
	rawExec(t, db, "UPDATE events SET body = replace(body, 'canceled', 'expired') WHERE leaf = 1")
	entries, err := s.LogSource().Entries(context.Background(), 0, 4)
	if err != nil {
		t.Fatal(err)
	}
	nodes, root, err := audit.Extend(0, nil, entries)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		rawExec(t, db, "UPDATE nodes SET hash = ? WHERE level = ? AND idx = ?", n.Hash, int64(n.ID.Level), int64(n.ID.Index))
	}
	rawExec(t, db, "UPDATE log_head SET root = ?", root)
	sign := func(uint64, []byte) ([]byte, error) {
		t.Error("asked to sign a rewritten log")
		return nil, errors.New("no")
	}
	_, err = s.Sequence(context.Background(), 10, sign)
	wantTampered(t, "checkpoint", err)
	appendEvents(t, s, 1)
	_, err = s.Sequence(context.Background(), 10, sign)
	wantTampered(t, "sequence", err)
}

// A sequenced row is history: it is exported as it is, and the export shows it.
func TestEventAlteredAfterItHasALeafIsNamedByVerification(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, Options{Path: path})
	signer := logSigner(t)
	appendEvents(t, s, 5)
	sequence(t, s, 10, signer.SignCheckpoint)
	rawExec(t, rawDB(t, path), "UPDATE events SET body = replace(body, 'canceled', 'expired') WHERE leaf = 3")
	dir := filepath.Join(t.TempDir(), "export")
	put, err := audit.Folder(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := audit.WriteExport(context.Background(), s.LogSource(), put); err != nil {
		t.Fatal(err)
	}
	report, err := audit.VerifyExport(os.DirFS(dir), signer.Verifier().String(), nil)
	if err == nil || report.BadLeaf == nil || *report.BadLeaf != 3 {
		t.Errorf("report %+v, %v; want leaf 3 named", report, err)
	}
}
