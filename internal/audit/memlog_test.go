package audit_test

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"testing"
	"testing/fstest"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
)

// memLog is a log kept in memory the way a store keeps it: leaves, full nodes,
// checkpoints, all through the package's own functions.
type memLog struct {
	tb     testing.TB
	signer *audit.Signer

	leaves      [][]byte
	nodes       map[audit.NodeID][]byte
	checkpoints [][]byte
}

const testOrigin = "sealwright.example/log"

// newSigner returns a signer whose key is the same for the same seed.
func newSigner(tb testing.TB, seed byte) *audit.Signer {
	tb.Helper()
	private, _, err := audit.GenerateKey(rand.NewChaCha8([32]byte{seed}), testOrigin)
	if err != nil {
		tb.Fatal(err)
	}
	s, err := audit.NewSigner(private)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func newLog(tb testing.TB, s *audit.Signer) *memLog {
	return &memLog{tb: tb, signer: s, nodes: map[audit.NodeID][]byte{}}
}

// honestLog returns a log of size entries with a checkpoint every step entries
// and one at its end.
func honestLog(tb testing.TB, size, step int) *memLog {
	tb.Helper()
	l := newLog(tb, newSigner(tb, 1))
	l.grow(size, step, event)
	return l
}

func (l *memLog) grow(size, step int, event func(tb testing.TB, i int) []byte) {
	l.tb.Helper()
	if size == 0 {
		l.extend(nil)
		l.checkpoint()
	}
	for len(l.leaves) < size {
		n := min(step, size-len(l.leaves))
		var batch [][]byte
		for i := range n {
			batch = append(batch, event(l.tb, len(l.leaves)+i))
		}
		l.extend(batch)
		l.checkpoint()
	}
}

func (l *memLog) extend(leaves [][]byte) {
	l.tb.Helper()
	frontier, err := l.read(context.Background(), audit.Frontier(uint64(len(l.leaves))))
	if err != nil {
		l.tb.Fatal(err)
	}
	nodes, _, err := audit.Extend(uint64(len(l.leaves)), frontier, leaves)
	if err != nil {
		l.tb.Fatal(err)
	}
	for _, n := range nodes {
		if _, twice := l.nodes[n.ID]; twice {
			l.tb.Fatalf("node %v written twice", n.ID)
		}
		l.nodes[n.ID] = n.Hash
	}
	l.leaves = append(l.leaves, leaves...)
}

func (l *memLog) root() []byte {
	l.tb.Helper()
	frontier, err := l.read(context.Background(), audit.Frontier(uint64(len(l.leaves))))
	if err != nil {
		l.tb.Fatal(err)
	}
	root, err := audit.Root(uint64(len(l.leaves)), frontier)
	if err != nil {
		l.tb.Fatal(err)
	}
	return root
}

func (l *memLog) checkpoint() []byte {
	l.tb.Helper()
	raw, err := l.signer.SignCheckpoint(uint64(len(l.leaves)), l.root())
	if err != nil {
		l.tb.Fatal(err)
	}
	l.checkpoints = append(l.checkpoints, raw)
	return raw
}

// read is the log's NodeReader.
func (l *memLog) read(_ context.Context, ids []audit.NodeID) ([][]byte, error) {
	out := make([][]byte, len(ids))
	for i, id := range ids {
		h, ok := l.nodes[id]
		if !ok {
			return nil, fmt.Errorf("no node %v", id)
		}
		out[i] = bytes.Clone(h)
	}
	return out, nil
}

func (l *memLog) source() audit.Source {
	return audit.Source{
		Entries: func(_ context.Context, from, to uint64) ([][]byte, error) {
			return l.leaves[from:min(to, uint64(len(l.leaves)))], nil
		},
		Nodes: l.read,
		Checkpoints: iter.Seq2[[]byte, error](func(yield func([]byte, error) bool) {
			for _, c := range l.checkpoints {
				if !yield(c, nil) {
					return
				}
			}
		}),
	}
}

// export returns the exported files.
func (l *memLog) export() fstest.MapFS {
	l.tb.Helper()
	files := fstest.MapFS{}
	size, err := audit.WriteExport(context.Background(), l.source(), func(name string, data []byte) error {
		files[name] = &fstest.MapFile{Data: bytes.Clone(data), Mode: 0o644}
		return nil
	})
	if err != nil {
		l.tb.Fatal(err)
	}
	if want := uint64(len(l.leaves)); size != want {
		l.tb.Fatalf("exported %d entries, want %d", size, want)
	}
	return files
}

// event returns the leaf data of a plausible event number i.
func event(tb testing.TB, i int) []byte { return eventBy(tb, i, "release-ec") }

func eventBy(tb testing.TB, i int, key string) []byte {
	tb.Helper()
	e := audit.Event{
		Time: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(i) * time.Second), Kind: audit.KeyAttempt,
		Request: "sr_0123456789ABCDEF", Task: fmt.Sprintf("sr_0123456789ABCDEF.%d", i%500+1),
		Attrs: map[string]string{"key": key, "attempt": fmt.Sprint(i), "intent": string(signing.DigestOf(fmt.Append(nil, i)))},
	}
	raw, err := e.Marshal()
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}
