package store

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
)

// MaxRead bounds one read of entries, nodes or checkpoints: the width of a tile,
// and of a bundle of an export.
const MaxRead = audit.TileWidth

// Append puts an event into the log, in the transaction of what it records. It
// gets its leaf from Sequence. A zero Time becomes the transaction's.
func (tx *Tx) Append(ev audit.Event) error {
	if ev.Time.IsZero() {
		ev.Time = tx.now
	}
	body, err := ev.Marshal()
	if err != nil {
		return fmt.Errorf("recording event: %w", err)
	}
	if tx.seq == 0 {
		// Not only of events: a deleted row must leave a gap, not its number.
		if _, err := tx.row([]any{&tx.seq}, "SELECT max((SELECT ifnull(max(seq), 0) FROM events), (SELECT ifnull(max(seq), 0) FROM log_head))"); err != nil {
			return err
		}
	}
	tx.seq++
	sum := tx.sealEvent(tx.seq, string(body))
	_, err = tx.exec("INSERT INTO events (seq, at, body, mac_key, mac) VALUES (?, ?, ?, ?, ?)", tx.seq, nanos(ev.Time), string(body), sum.key, sum.mac)
	return err
}

func (tx *Tx) sealEvent(seq int64, body string) seal {
	return tx.seal.seal(eventDomain, strconv.FormatInt(seq, 10), body)
}

// head is the end of the sequenced log.
type head struct {
	size uint64
	seq  int64 // last event with a leaf
	root []byte
}

func (h head) fields() []string {
	return []string{strconv.FormatUint(h.size, 10), strconv.FormatInt(h.seq, 10), string(h.root)}
}

func (tx *Tx) head() (head, error) {
	var h head
	var sum seal
	found, err := tx.row([]any{&h.size, &h.seq, &h.root, &sum.key, &sum.mac}, "SELECT size, seq, root, mac_key, mac FROM log_head WHERE id = 1")
	if err != nil {
		return head{}, err
	}
	if !found {
		h.root, err = audit.Root(0, nil)
		return h, err
	}
	return h, tx.seal.verify("the head of the audit log", sum, headDomain, h.fields()...)
}

// Sequence gives at most limit events that have no leaf yet their indices, in
// the order of their rows, and extends the Merkle tree, in one transaction. With
// sign it then stores a checkpoint of the log as it now is, unless there is one:
// sign is called when the tree is durable and may read the store. It returns the
// number of events. A row that this service did not write ends it: the backlog
// grows until the operator has looked.
func (s *Store) Sequence(ctx context.Context, limit int, sign func(size uint64, root []byte) ([]byte, error)) (int, error) {
	s.sequencing.Lock()
	defer s.sequencing.Unlock()
	waiting := 0
	err := s.View(ctx, func(tx *Tx) (err error) {
		waiting, _, err = tx.Backlog()
		return err
	})
	if err != nil {
		return 0, err
	}
	n := 0
	if waiting > 0 && limit > 0 {
		err := s.Update(ctx, "sequence", func(tx *Tx) (err error) {
			n, err = tx.sequence(limit)
			return err
		})
		// From here on the leaves have their indices for ever.
		if err != nil {
			return 0, err
		}
	}
	if sign == nil {
		return n, nil
	}
	return n, s.checkpoint(ctx, sign)
}

func (s *Store) checkpoint(ctx context.Context, sign func(uint64, []byte) ([]byte, error)) error {
	var h head
	var have uint64
	err := s.View(ctx, func(tx *Tx) (err error) {
		if h, err = tx.head(); err != nil {
			return err
		}
		_, have, err = tx.newest()
		return err
	})
	if err != nil || h.size <= have {
		return err
	}
	note, err := sign(h.size, h.root)
	if err != nil {
		return fmt.Errorf("signing checkpoint %d: %w", h.size, err)
	}
	return s.Update(ctx, "checkpoint", func(tx *Tx) error {
		_, err := tx.exec("INSERT INTO checkpoints (size, at, note) SELECT ?1, ?2, ?3 WHERE ?1 > (SELECT ifnull(max(size), 0) FROM checkpoints)", int64(h.size), nanos(tx.now), note)
		return err
	})
}

func (tx *Tx) sequence(limit int) (int, error) {
	h, err := tx.head()
	if err != nil {
		return 0, err
	}
	frontier, err := tx.Nodes(audit.Frontier(h.size))
	if err != nil {
		return 0, err
	}
	// The head is sealed, so nodes that lead to its root are the ones we wrote.
	if root, err := audit.Root(h.size, frontier); err != nil || string(root) != string(h.root) {
		return 0, Tampered("nodes", "the Merkle tree of the audit log", "nodes that do not lead to the root of the log")
	}
	leaves, err := tx.unsequenced(h.seq, limit)
	if err != nil || len(leaves) == 0 {
		return 0, err
	}
	nodes, root, err := audit.Extend(h.size, frontier, leaves)
	if err != nil {
		return 0, err
	}
	last := h.seq + int64(len(leaves))
	n, err := tx.exec("UPDATE events SET leaf = ?1 + seq - ?2 WHERE seq >= ?2 AND seq <= ?3 AND leaf IS NULL", int64(h.size), h.seq+1, last)
	if err != nil {
		return 0, err
	}
	if n != int64(len(leaves)) {
		return 0, Tampered("events", fmt.Sprintf("events %d to %d", h.seq+1, last), "a leaf that was not given by the log")
	}
	for _, n := range nodes {
		if _, err := tx.exec("INSERT INTO nodes (level, idx, hash) VALUES (?, ?, ?)", int64(n.ID.Level), int64(n.ID.Index), n.Hash); err != nil {
			return 0, err
		}
	}
	next := head{size: h.size + uint64(len(leaves)), seq: last, root: root}
	sum := tx.seal.seal(headDomain, next.fields()...)
	_, err = tx.exec("INSERT INTO log_head (id, size, seq, root, mac_key, mac) VALUES (1, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET size = excluded.size, seq = excluded.seq, root = excluded.root, mac_key = excluded.mac_key, mac = excluded.mac",
		int64(next.size), next.seq, next.root, sum.key, sum.mac)
	return len(leaves), err
}

// unsequenced returns the events after seq, which must follow each other and
// be the ones that Append wrote.
func (tx *Tx) unsequenced(after int64, limit int) ([][]byte, error) {
	var leaves [][]byte
	err := tx.rows(func(scan func(...any) error) error {
		var seq int64
		var body string
		var sum seal
		if err := scan(&seq, &body, &sum.key, &sum.mac); err != nil {
			return dbError("reading event", err)
		}
		if want := after + int64(len(leaves)) + 1; seq != want {
			return Tampered("events", fmt.Sprintf("event %d", want), "no such row")
		}
		if err := tx.seal.verify(fmt.Sprintf("event %d", seq), sum, eventDomain, strconv.FormatInt(seq, 10), body); err != nil {
			return err
		}
		leaves = append(leaves, []byte(body))
		return nil
	}, "SELECT seq, body, mac_key, mac FROM events WHERE seq > ? ORDER BY seq LIMIT ?", after, limit)
	return leaves, err
}

// Backlog returns how many events have no leaf yet, and the time of the first.
func (tx *Tx) Backlog() (n int, oldest time.Time, err error) {
	var at int64
	_, err = tx.row([]any{&n, &at}, "SELECT count(*), ifnull(min(at), 0) FROM events WHERE seq > (SELECT ifnull(max(seq), 0) FROM log_head)")
	return n, fromNanos(at), err
}

// Checkpoint returns the newest checkpoint and its size, or NotFound.
func (tx *Tx) Checkpoint() ([]byte, uint64, error) {
	note, size, err := tx.newest()
	if err == nil && note == nil {
		err = &signing.Error{Code: signing.NotFound, Message: "the audit log has no checkpoint yet", Fix: "try again in a few seconds"}
	}
	return note, size, err
}

func (tx *Tx) newest() (note []byte, size uint64, err error) {
	_, err = tx.row([]any{&size, &note}, "SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT 1")
	return note, size, err
}

// Checkpoint is a signed tree head of the audit log.
type Checkpoint struct {
	Size uint64
	Note []byte
}

// Checkpoints returns at most MaxRead checkpoints of more than after entries,
// the smallest first.
func (tx *Tx) Checkpoints(after uint64) ([]Checkpoint, error) {
	var out []Checkpoint
	err := tx.rows(func(scan func(...any) error) error {
		var c Checkpoint
		err := scan(&c.Size, &c.Note)
		out = append(out, c)
		return err
	}, "SELECT size, note FROM checkpoints WHERE size > ? ORDER BY size LIMIT ?", int64(after), MaxRead)
	return out, err
}

// LogEntries returns the leaf data of [from, to), at most MaxRead, as the
// database has them: whether they are what was logged, the tiles and
// checkpoints show. A missing entry is NotFound.
func (tx *Tx) LogEntries(from, to uint64) ([][]byte, error) {
	if from > to || to-from > MaxRead || to > audit.MaxSize {
		return nil, &signing.Error{Code: signing.Invalid, Message: "not a range of entries", Expected: fmt.Sprintf("at most %d", MaxRead), Found: fmt.Sprintf("%d to %d", from, to)}
	}
	out := make([][]byte, 0, to-from)
	err := tx.rows(func(scan func(...any) error) error {
		var leaf uint64
		var body []byte
		if err := scan(&leaf, &body); err != nil {
			return dbError("reading entry", err)
		}
		if leaf != from+uint64(len(out)) {
			return missing("entry", from+uint64(len(out)))
		}
		out = append(out, body)
		return nil
	}, "SELECT leaf, body FROM events WHERE leaf >= ? AND leaf < ? ORDER BY leaf", int64(from), int64(to))
	if err == nil && uint64(len(out)) != to-from {
		err = missing("entry", from+uint64(len(out)))
	}
	return out, err
}

func missing(what string, i uint64) error {
	return &signing.Error{Code: signing.NotFound, Message: fmt.Sprintf("%s %d is not in the audit log", what, i)}
}

// Nodes returns the hashes of the nodes of the Merkle tree, in the order of
// ids, at most MaxRead. A missing node is NotFound.
func (tx *Tx) Nodes(ids []audit.NodeID) ([][]byte, error) {
	if len(ids) > MaxRead {
		return nil, &signing.Error{Code: signing.Invalid, Message: "too many nodes", Expected: fmt.Sprintf("at most %d", MaxRead), Found: strconv.Itoa(len(ids))}
	}
	out := make([][]byte, 0, len(ids))
	for len(ids) > 0 {
		// One query for neighbours: a tile is one row of them.
		run := 1
		for run < len(ids) && ids[run].Level == ids[0].Level && ids[run].Index == ids[0].Index+uint64(run) {
			run++
		}
		hashes, err := tx.neighbours(ids[0], run)
		if err != nil {
			return nil, err
		}
		out, ids = slices.Concat(out, hashes), ids[run:]
	}
	return out, nil
}

func (tx *Tx) neighbours(first audit.NodeID, n int) ([][]byte, error) {
	out := make([][]byte, 0, n)
	err := tx.rows(func(scan func(...any) error) error {
		var hash []byte
		err := scan(&hash)
		out = append(out, hash)
		return err
	}, "SELECT hash FROM nodes WHERE level = ? AND idx >= ? AND idx < ? ORDER BY idx", int64(first.Level), int64(first.Index), int64(first.Index)+int64(n))
	if err == nil && len(out) != n {
		err = &signing.Error{Code: signing.NotFound, Message: fmt.Sprintf("nodes of level %d from %d on are not all in the audit log", first.Level, first.Index)}
	}
	return out, err
}

// LogSource returns the log for audit.WriteExport and for proofs. Every read is
// a snapshot of its own: what is in the log does not change.
func (s *Store) LogSource() audit.Source {
	return audit.Source{
		Entries: func(ctx context.Context, from, to uint64) (out [][]byte, err error) {
			err = s.View(ctx, func(tx *Tx) (err error) { out, err = tx.LogEntries(from, to); return err })
			return out, err
		},
		Nodes: func(ctx context.Context, ids []audit.NodeID) (out [][]byte, err error) {
			err = s.View(ctx, func(tx *Tx) (err error) { out, err = tx.Nodes(ids); return err })
			return out, err
		},
		Checkpoints: s.checkpoints(),
	}
}

func (s *Store) checkpoints() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for after := uint64(0); ; {
			var page []Checkpoint
			err := s.View(context.Background(), func(tx *Tx) (err error) { page, err = tx.Checkpoints(after); return err })
			if err != nil {
				yield(nil, err)
				return
			}
			for _, c := range page {
				if !yield(c.Note, nil) {
					return
				}
				after = c.Size
			}
			if len(page) == 0 {
				return
			}
		}
	}
}
