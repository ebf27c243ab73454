package audit

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/transparency-dev/merkle/compact"

	"github.com/sealwright/sealwright/internal/signing"
)

// MaxKnown bounds the known checkpoints of one verification; one is enough,
// several come from several hands.
const MaxKnown = 1000

// Interval is the entries from From to before To, the sizes of two checkpoints.
type Interval struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// Report is what a verification found. Where it failed, it holds what was
// verified until then and at most one of the Bad fields.
type Report struct {
	Origin      string            `json:"origin"`
	Size        uint64            `json:"size"`        // entries of the newest checkpoint
	Root        string            `json:"root"`        // of the newest checkpoint, base64 as in its note
	Verified    uint64            `json:"verified"`    // entries that hash to the tiles
	Checkpoints uint64            `json:"checkpoints"` // that match the entries
	Kinds       map[string]uint64 `json:"kinds"`       // events by kind
	First       time.Time         `json:"first,omitzero"`
	Last        time.Time         `json:"last,omitzero"`
	// ClockBack is the largest step back in time from one event to a later one.
	// Transactions that overlap make small ones; a large one deserves a question.
	ClockBack     time.Duration `json:"clockBack"`
	ClockBackLeaf uint64        `json:"clockBackLeaf"`
	// Fresh says that a known checkpoint was given and the log continues every
	// one of them; Known is the size of the largest. Without one an older export,
	// honest in itself, looks the same as the newest.
	Fresh bool   `json:"fresh"`
	Known uint64 `json:"known"`

	// BadLeaf is the first entry that differs from the tiles, or is no event.
	BadLeaf *uint64 `json:"badLeaf,omitempty"`
	// BadTile is the path of a tile that does not belong to the tree of the entries.
	BadTile string `json:"badTile,omitempty"`
	// BadInterval is the first interval whose end does not have the root that its
	// checkpoint states: entries in it were changed after it was signed.
	BadInterval *Interval `json:"badInterval,omitempty"`
	// BadKnown is the size of the known checkpoint that this log does not continue.
	BadKnown *uint64 `json:"badKnown,omitempty"`
}

// VerifyExport verifies a whole export with the log's public key: every entry is
// an event and hashes to its tile, the tiles belong to one tree, every
// checkpoint is signed, they follow each other, and each states the root that
// the entries have at its size; nothing is missing and nothing is extra. Each
// known checkpoint must be signed by the key as well and be one that this log
// continues. It reads the files in log order, one bundle at a time, and stops at
// the first thing wrong: a *signing.Error with code Invalid. Other errors come
// from reading.
func VerifyExport(fsys fs.FS, logKey string, known [][]byte) (Report, error) {
	v, err := NewVerifier(logKey)
	if err != nil {
		return Report{}, err
	}
	w := &walk{fsys: fsys, key: v, report: Report{Origin: v.Origin(), Kinds: map[string]uint64{}}}
	err = w.run(known)
	return w.report, err
}

// walk is one verification. It goes through the log once, from left to right.
type walk struct {
	fsys   fs.FS
	key    *Verifier
	report Report

	newest Checkpoint
	known  []Checkpoint // sorted by size; those at or before the present entry are done
	signed checkpoints
	last   uint64 // size of the last checkpoint that matched

	tree *compact.Range
	// rows[L] holds the hashes of the tile of level L that is not yet compared,
	// computed from the entries; done[L] counts those that are. Level 0 is
	// compared entry by entry.
	rows [maxTileLevel + 1][]byte
	done [maxTileLevel + 1]uint64
}

func (w *walk) run(known [][]byte) error {
	raw, err := readFile(w.fsys, checkpointFile, MaxCheckpoint)
	if err != nil {
		return err
	}
	if w.newest, err = ParseCheckpoint(raw, w.key); err != nil {
		return fmt.Errorf("the newest checkpoint: %w", err)
	}
	w.report.Size, w.report.Root = w.newest.Size, base64.StdEncoding.EncodeToString(w.newest.Root)
	if err := w.readKnown(known); err != nil {
		return err
	}
	w.signed = checkpoints{fsys: w.fsys, key: w.key, newest: w.newest}
	if err := w.signed.advance(); err != nil {
		return err
	}
	if w.tree, err = newRange(0, nil); err != nil {
		return err
	}
	if err := w.atCheckpoint(); err != nil {
		return err
	}
	for t := range Tiles(w.newest.Size) {
		if t.Level != Entries {
			break
		}
		if err := w.bundle(t); err != nil {
			return err
		}
	}
	for level := 1; level <= maxTileLevel; level++ {
		if err := w.row(level); err != nil {
			return err
		}
	}
	if w.signed.next != nil || !bytes.Equal(w.signed.lastRaw, w.newest.Raw) {
		return refuse("the newest checkpoint is not the last of the list", quote(w.newest.Raw), string(w.signed.lastRaw), "")
	}
	if err := w.inventory(); err != nil {
		return err
	}
	w.report.Fresh = len(known) > 0
	return nil
}

// readKnown checks what the auditor brought along.
func (w *walk) readKnown(known [][]byte) error {
	if len(known) > MaxKnown {
		return refuse("too many known checkpoints", fmt.Sprintf("at most %d", MaxKnown), fmt.Sprint(len(known)), "")
	}
	for i, raw := range known {
		c, err := ParseCheckpoint(raw, w.key)
		if err != nil {
			return fmt.Errorf("known checkpoint %d: %w", i+1, err)
		}
		w.known = append(w.known, c)
	}
	slices.SortStableFunc(w.known, func(a, b Checkpoint) int {
		switch {
		case a.Size < b.Size:
			return -1
		case a.Size > b.Size:
			return 1
		}
		return 0
	})
	if n := len(w.known); n > 0 && w.known[n-1].Size > w.newest.Size {
		size := w.known[n-1].Size
		w.report.BadKnown = &size
		return &signing.Error{Code: signing.Invalid, Message: "the export ends before a checkpoint that you know: it is old, or the log was truncated", Expected: fmt.Sprintf("at least %d entries", size), Found: fmt.Sprintf("%d entries", w.newest.Size), Fix: "take a new export; if it is as short, keep the known checkpoint: it proves that entries were removed"}
	}
	return nil
}

// bundle verifies one bundle of entries against its tile, and extends the tree.
func (w *walk) bundle(t Tile) error {
	data, err := readFile(w.fsys, t.Path(), MaxBundle)
	if err != nil {
		return err
	}
	hashTile := Tile{0, t.Index, t.Width}
	hashes, err := readFile(w.fsys, hashTile.Path(), TileWidth*HashSize)
	if err != nil {
		return err
	}
	if len(hashes) != t.Width*HashSize {
		w.report.BadTile = hashTile.Path()
		return refuse(hashTile.Path()+" has another length", fmt.Sprintf("%d bytes", t.Width*HashSize), fmt.Sprintf("%d bytes", len(hashes)), "")
	}
	from, to := t.Range()
	// A bundle that cannot be split is judged after the entries that can: the
	// first one that differs says where it was cut or stretched.
	entries, splitErr := splitBundle(data, t.Width)
	for i, entry := range entries {
		if err := w.entry(from+uint64(i), entry, hashes[i*HashSize:(i+1)*HashSize], hashTile); err != nil {
			return err
		}
	}
	if len(entries) < t.Width {
		w.badLeaf(from + uint64(len(entries)))
		return &signing.Error{Code: signing.Invalid, Message: fmt.Sprintf("entry %d is missing", from+uint64(len(entries))), Expected: fmt.Sprintf("entries %d to %d in %s", from, to-1, t.Path()), Found: fmt.Sprintf("%d entries", len(entries)), Fix: evidence, Err: splitErr}
	}
	if splitErr != nil {
		return fmt.Errorf("%s: %w", t.Path(), splitErr)
	}
	return nil
}

// evidence is the advice for every finding that only an alteration explains.
const evidence = "compare with another copy of the export, and keep this one for examination"

// entry verifies one entry and every checkpoint that ends with it.
func (w *walk) entry(index uint64, leaf, want []byte, tile Tile) error {
	got := LeafHash(leaf)
	event, err := ParseEvent(leaf)
	if !bytes.Equal(got, want) {
		w.badLeaf(index)
		says := quote(leaf)
		if err == nil {
			says = event.String()
		}
		return &signing.Error{Code: signing.Invalid, Message: fmt.Sprintf("entry %d differs from the tree: it was changed after it was logged", index), Expected: "an entry with the hash " + hex.EncodeToString(want) + " of " + tile.Path(), Found: hex.EncodeToString(got) + ", the hash of: " + says, Fix: evidence}
	}
	if err != nil {
		w.badLeaf(index)
		return fmt.Errorf("entry %d: %w", index, err)
	}
	w.count(index, event)
	if err := w.tree.Append(got, w.full); err != nil {
		return fmt.Errorf("hashing entry %d: %w", index, err)
	}
	for level := 1; level <= maxTileLevel && len(w.rows[level]) == TileWidth*HashSize; level++ {
		if err := w.row(level); err != nil {
			return err
		}
	}
	return w.atCheckpoint()
}

func (w *walk) badLeaf(index uint64) { w.report.BadLeaf = &index }

// full collects the nodes that the tiles above level 0 consist of.
func (w *walk) full(id NodeID, hash []byte) {
	if id.Level > 0 && id.Level%TileHeight == 0 {
		w.rows[id.Level/TileHeight] = append(w.rows[id.Level/TileHeight], hash...)
	}
}

// row compares the tile that the row of a level makes, if there is one, and starts the next.
func (w *walk) row(level int) error {
	row := w.rows[level]
	if len(row) == 0 {
		return nil
	}
	t := Tile{level, w.done[level], len(row) / HashSize}
	data, err := readFile(w.fsys, t.Path(), TileWidth*HashSize)
	if err != nil {
		return err
	}
	if !bytes.Equal(data, row) {
		w.report.BadTile = t.Path()
		return &signing.Error{Code: signing.Invalid, Message: t.Path() + " does not belong to the tree of the entries", Expected: "the hashes of " + hashOf(row), Found: "the hashes of " + hashOf(data), Fix: evidence}
	}
	w.rows[level], w.done[level] = row[:0], w.done[level]+1
	return nil
}

// hashOf names the bytes of a tile in an error.
func hashOf(tile []byte) string {
	return fmt.Sprintf("a tile of %d bytes, %s", len(tile), signing.DigestOf(tile))
}

// count adds a verified event to the report.
func (w *walk) count(index uint64, e Event) {
	r := &w.report
	r.Verified = index + 1
	r.Kinds[e.Kind]++
	if r.First.IsZero() || e.Time.Before(r.First) {
		r.First = e.Time
	}
	if back := r.Last.Sub(e.Time); !r.Last.IsZero() && back > r.ClockBack {
		r.ClockBack, r.ClockBackLeaf = back, index
	}
	if e.Time.After(r.Last) {
		r.Last = e.Time
	}
}

// atCheckpoint compares the tree with every checkpoint of its present size.
func (w *walk) atCheckpoint() error {
	size := w.tree.End()
	due := func(c *Checkpoint) bool { return c != nil && c.Size == size }
	if !due(w.signed.next) && (len(w.known) == 0 || !due(&w.known[0])) {
		return nil
	}
	root, err := rootOf(w.tree)
	if err != nil {
		return err
	}
	for due(w.signed.next) {
		c := w.signed.next
		if !bytes.Equal(c.Root, root) {
			w.report.BadInterval = &Interval{w.last, size}
			return &signing.Error{Code: signing.Invalid, Message: fmt.Sprintf("checkpoint %d was signed for other entries: the log differs between checkpoint %d and checkpoint %d", size, w.last, size), Expected: "root " + hex.EncodeToString(c.Root) + " as signed", Found: "root " + hex.EncodeToString(root) + " of the entries", Fix: evidence}
		}
		w.last, w.report.Checkpoints = size, w.report.Checkpoints+1
		if err := w.signed.advance(); err != nil {
			return err
		}
	}
	for len(w.known) > 0 && due(&w.known[0]) {
		if c := w.known[0]; !bytes.Equal(c.Root, root) {
			w.report.BadKnown = &size
			return &signing.Error{Code: signing.Invalid, Message: fmt.Sprintf("the log forked: it does not continue the checkpoint of %d entries that you know", size), Expected: "root " + hex.EncodeToString(c.Root) + " as you know it", Found: "root " + hex.EncodeToString(root) + " of the entries", Fix: "keep the known checkpoint and this export: together they prove that the log's key signed two histories"}
		}
		w.known, w.report.Known = w.known[1:], size
	}
	return nil
}

// checkpoints reads the export's checkpoints in order, one file at a time.
type checkpoints struct {
	fsys   fs.FS
	key    *Verifier
	newest Checkpoint

	files   uint64 // read so far
	batch   [][]byte
	more    bool // the last file was full: there may be another
	next    *Checkpoint
	lastRaw []byte
}

// advance moves next to the next checkpoint, nil at the end.
func (c *checkpoints) advance() error {
	if len(c.batch) == 0 {
		if err := c.read(); err != nil {
			return err
		}
		if len(c.batch) == 0 {
			c.next = nil
			return nil
		}
	}
	raw := c.batch[0]
	c.batch = c.batch[1:]
	got, err := ParseCheckpoint(raw, c.key)
	if err != nil {
		return fmt.Errorf("checkpoints/: %w", err)
	}
	var before uint64
	if c.next != nil {
		before = c.next.Size
	}
	if got.Size < before || got.Size > c.newest.Size {
		return refuse("the checkpoints are not in order", fmt.Sprintf("a size from %d to %d", before, c.newest.Size), string(raw), "")
	}
	c.next, c.lastRaw = &got, raw
	return nil
}

// read reads the next file of checkpoints, if there is one.
func (c *checkpoints) read() error {
	if c.files > 0 && !c.more {
		return nil
	}
	name := path.Join(checkpointsDir, indexPath(c.files))
	if c.files > 0 {
		// After a full file there is another or none; a file that was removed
		// is noticed because the newest checkpoint is then not the last.
		if _, err := fs.Stat(c.fsys, name); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	data, err := readFile(c.fsys, name, MaxBundle)
	if err != nil {
		return err
	}
	if c.batch, err = splitBundle(data, TileWidth); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if len(c.batch) == 0 {
		return refuse(name+" is empty", "at least one checkpoint", "", "")
	}
	c.files, c.more = c.files+1, len(c.batch) == TileWidth
	return nil
}

// inventory refuses files that the log of this size does not consist of: what
// nobody signed must not travel along as if it were part of the log. Files that
// are missing were found when they were read.
func (w *walk) inventory() error {
	for _, dir := range []string{tileDir, checkpointsDir} {
		err := fs.WalkDir(w.fsys, dir, func(name string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) && name == dir {
				return fs.SkipAll // an empty log has no tiles
			}
			if err != nil {
				return fmt.Errorf("listing the export: %w", err)
			}
			if d.IsDir() || w.belongs(name) {
				return nil
			}
			return refuse("a file that does not belong to a log of this size", fmt.Sprintf("the tiles, entries and checkpoints of %d entries", w.newest.Size), name, "if it is not yours, "+evidence)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// belongs reports whether name is a file that was verified.
func (w *walk) belongs(name string) bool {
	if n, ok := strings.CutPrefix(name, checkpointsDir+"/"); ok {
		// The index has the form that tiles have.
		t, err := ParseTile(tileDir + "/0/" + n)
		return err == nil && t.Width == TileWidth && t.Index < w.signed.files
	}
	t, err := ParseTile(name)
	return err == nil && t.whole(w.newest.Size)
}
