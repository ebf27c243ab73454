package audit_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
)

func verify(l *memLog, files fs.FS, known ...[]byte) (audit.Report, error) {
	return audit.VerifyExport(files, l.signer.Verifier().String(), known)
}

func TestHonestExportIsAcceptedAtEverySize(t *testing.T) {
	for _, size := range []int{0, 1, 2, 3, 255, 256, 257, 512, 1000} {
		l := honestLog(t, size, 90)
		files := l.export()
		r, err := verify(l, files)
		if err != nil {
			t.Errorf("size %d: %v", size, err)
			continue
		}
		if r.Size != uint64(size) || r.Verified != uint64(size) || r.Checkpoints != uint64(len(l.checkpoints)) || r.Kinds[audit.KeyAttempt] != uint64(size) || r.Fresh {
			t.Errorf("size %d: report %+v", size, r)
		}
		r, err = verify(l, files, l.checkpoints...)
		if err != nil || !r.Fresh || r.Known != uint64(size) {
			t.Errorf("size %d with known checkpoints: %+v, %v", size, r, err)
		}
	}
}

// A log with three levels of tiles, and more checkpoints than one file holds.
func TestLogOfThreeTileLevelsIsVerifiedToItsTop(t *testing.T) {
	// The same small event throughout: what matters here is the tree.
	start, err := (audit.Event{Time: at, Kind: audit.ServiceStarted, Attrs: map[string]string{"version": "v1"}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	l := newLog(t, newSigner(t, 1))
	l.grow(65536+300, 200, func(testing.TB, int) []byte { return start })
	files := l.export()
	if files["tile/2/000.p/1"] == nil || files["checkpoints/001"] == nil {
		t.Fatal("the export is too small for this test")
	}
	r, err := verify(l, files, l.checkpoints[3])
	if err != nil {
		t.Fatal(err)
	}
	if r.Verified != 65836 || r.Checkpoints != 330 || !r.Fresh || r.Known != 800 {
		t.Errorf("report %+v", r)
	}
}

// refused checks that the export is refused for what was done to it.
func refused(t *testing.T, r audit.Report, err error, says string) {
	t.Helper()
	if signing.CodeOf(err) != signing.Invalid {
		t.Fatalf("%v, want a refusal", err)
	}
	if !strings.Contains(err.Error(), says) {
		t.Errorf("the refusal does not say %q: %v", says, err)
	}
	if r.Fresh {
		t.Error("a refused export is fresh")
	}
}

func wantLeaf(t *testing.T, r audit.Report, leaf uint64) {
	t.Helper()
	if r.BadLeaf == nil || *r.BadLeaf != leaf {
		t.Errorf("first bad leaf is %v, want %d", r.BadLeaf, leaf)
	}
}

func wantInterval(t *testing.T, r audit.Report, from, to uint64) {
	t.Helper()
	if diff := cmp.Diff(&audit.Interval{From: from, To: to}, r.BadInterval); diff != "" {
		t.Errorf("first bad interval (-want +got):\n%s", diff)
	}
}

// edit replaces the entry in its bundle only, as somebody with write access to
// the database's leaf table would.
func edit(t *testing.T, files fstest.MapFS, bundle string, width, i int, entry []byte) {
	t.Helper()
	entries, err := audit.ParseBundle(files[bundle].Data, width)
	if err != nil {
		t.Fatal(err)
	}
	entries[i] = entry
	if files[bundle].Data, err = audit.MarshalBundle(entries); err != nil {
		t.Fatal(err)
	}
}

func TestChangedEntryIsNamed(t *testing.T) {
	l := honestLog(t, 1000, 100)
	files := l.export()
	edit(t, files, "tile/entries/002", 256, 700-512, eventBy(t, 700, "stolen-key"))
	edit(t, files, "tile/entries/003.p/232", 232, 0, eventBy(t, 768, "stolen-key"))
	r, err := verify(l, files)
	refused(t, r, err, "entry 700 differs")
	refused(t, r, err, "key=stolen-key")
	wantLeaf(t, r, 700)
}

func TestEntryThatIsNoEventIsNamed(t *testing.T) {
	l := honestLog(t, 10, 5)
	files := l.export()
	edit(t, files, "tile/entries/000.p/10", 10, 3, []byte("\x1b[2Jgone"))
	r, err := verify(l, files)
	refused(t, r, err, "entry 3 differs")
	wantLeaf(t, r, 3)
	if strings.Contains(err.Error(), "\x1b") {
		t.Error("the refusal repeats control characters of the export")
	}
}

func TestLoggedEntryThatIsNoEventIsNamed(t *testing.T) {
	// Whoever can insert rows before they get a leaf can have anything logged.
	l := newLog(t, newSigner(t, 1))
	l.grow(10, 10, func(tb testing.TB, i int) []byte {
		if i == 4 {
			return []byte(`{"kind":"nothing"}`)
		}
		return event(tb, i)
	})
	r, err := verify(l, l.export())
	refused(t, r, err, "entry 4")
	wantLeaf(t, r, 4)
}

func TestChangedEntryWithRecomputedTilesFailsAtItsCheckpointInterval(t *testing.T) {
	l := honestLog(t, 1000, 100)
	// The whole tree is recomputed; only the checkpoints cannot be.
	forged := newLog(t, l.signer)
	forged.grow(1000, 100, func(tb testing.TB, i int) []byte {
		if i == 342 {
			return eventBy(tb, i, "stolen-key")
		}
		return event(tb, i)
	})
	forged.checkpoints = l.checkpoints
	r, err := verify(l, forged.export())
	refused(t, r, err, "between checkpoint 300 and checkpoint 400")
	wantInterval(t, r, 300, 400)
	if r.Checkpoints != 3 {
		t.Errorf("%d checkpoints matched, want 3", r.Checkpoints)
	}
}

func TestChangedTilesAreRefused(t *testing.T) {
	l := honestLog(t, 600, 100)
	files := l.export()
	files["tile/0/001"].Data[7*audit.HashSize] ^= 1
	r, err := verify(l, files)
	refused(t, r, err, "entry 263 differs")
	wantLeaf(t, r, 263)

	for name, c := range map[string]struct {
		path, says string
		change     func([]byte) []byte
	}{
		"hash of level 1":     {"tile/1/000.p/2", "does not belong", func(b []byte) []byte { b[40] ^= 1; return b }},
		"level 1 cut":         {"tile/1/000.p/2", "does not belong", func(b []byte) []byte { return b[:32] }},
		"level 1 stretched":   {"tile/1/000.p/2", "does not belong", func(b []byte) []byte { return append(b, 0) }},
		"leaf hash cut off":   {"tile/0/000", "has another length", func(b []byte) []byte { return b[:255*32] }},
		"leaf hash of nobody": {"tile/0/002.p/88", "has another length", func(b []byte) []byte { return append(b, make([]byte, 32)...) }},
	} {
		files := l.export()
		files[c.path].Data = c.change(files[c.path].Data)
		r, err := verify(l, files)
		refused(t, r, err, c.says)
		if r.BadTile != c.path {
			t.Errorf("%s: bad tile is %q", name, r.BadTile)
		}
	}
}

func TestRemovedEntryIsNamed(t *testing.T) {
	l := honestLog(t, 300, 100)
	for _, c := range map[string]struct {
		bundle   string
		width, i int
		leaf     uint64
	}{
		"in the middle":       {"tile/entries/000", 256, 99, 99},
		"the last of all":     {"tile/entries/001.p/44", 44, 43, 299},
		"the last of its own": {"tile/entries/000", 256, 255, 255},
	} {
		files := l.export()
		entries, err := audit.ParseBundle(files[c.bundle].Data, c.width)
		if err != nil {
			t.Fatal(err)
		}
		files[c.bundle].Data, err = audit.MarshalBundle(slices.Delete(entries, c.i, c.i+1))
		if err != nil {
			t.Fatal(err)
		}
		r, err := verify(l, files)
		refused(t, r, err, fmt.Sprintf("entry %d ", c.leaf))
		wantLeaf(t, r, c.leaf)
	}
}

func TestReorderedEntriesAreNamed(t *testing.T) {
	l := honestLog(t, 300, 100)
	files := l.export()
	edit(t, files, "tile/entries/000", 256, 40, l.leaves[41])
	edit(t, files, "tile/entries/000", 256, 41, l.leaves[40])
	r, err := verify(l, files)
	refused(t, r, err, "entry 40 differs")
	wantLeaf(t, r, 40)

	// With their hashes as well: the first checkpoint after them does not match.
	forged := newLog(t, l.signer)
	forged.grow(300, 100, func(tb testing.TB, i int) []byte {
		switch i {
		case 140:
			return event(tb, 141)
		case 141:
			return event(tb, 140)
		}
		return event(tb, i)
	})
	forged.checkpoints = l.checkpoints
	r, err = verify(l, forged.export())
	refused(t, r, err, "between checkpoint 100 and checkpoint 200")
	wantInterval(t, r, 100, 200)
}

func TestInsertedEntryIsNamed(t *testing.T) {
	l := honestLog(t, 300, 100)
	files := l.export()
	entries, err := audit.ParseBundle(files["tile/entries/001.p/44"].Data, 44)
	if err != nil {
		t.Fatal(err)
	}
	entries = slices.Insert(entries, 10, eventBy(t, 1, "stolen-key"))
	if files["tile/entries/001.p/44"].Data, err = audit.MarshalBundle(entries); err != nil {
		t.Fatal(err)
	}
	r, err := verify(l, files)
	refused(t, r, err, "entry 266 differs")
	wantLeaf(t, r, 266)

	// At the end, where every entry before it is right.
	files = l.export()
	f := files["tile/entries/001.p/44"]
	extra := event(t, 300)
	f.Data = append(binary.BigEndian.AppendUint16(f.Data, uint16(len(extra))), extra...)
	r, err = verify(l, files)
	refused(t, r, err, "bytes after the last entry")
}

func TestEveryMissingFileIsRefused(t *testing.T) {
	l := honestLog(t, 600, 2)
	files := l.export()
	if len(files) < 9 {
		t.Fatalf("only %d files", len(files))
	}
	for name := range files {
		less := maps.Clone(files)
		delete(less, name)
		r, err := verify(l, less)
		if signing.CodeOf(err) != signing.Invalid {
			t.Errorf("without %s: %v, want a refusal", name, err)
		}
		if r.Fresh {
			t.Errorf("without %s: fresh", name)
		}
	}
}

func TestFilesThatNobodySignedAreRefused(t *testing.T) {
	l := honestLog(t, 300, 100)
	honest := l.export()
	for _, name := range []string{"tile/entries/002.p/1", "tile/entries/001.p/45", "tile/entries/001.p/43", "tile/0/002", "tile/0/000.p/3", "tile/1/001.p/1", "tile/2/000.p/1", "tile/notes.txt", "checkpoints/001", "checkpoints/000.p/3", "checkpoints/more"} {
		files := maps.Clone(honest)
		files[name] = &fstest.MapFile{Data: []byte("x")}
		r, err := verify(l, files)
		refused(t, r, err, "does not belong")
	}
	files := maps.Clone(honest)
	files["README.txt"] = &fstest.MapFile{Data: []byte("from Tuesday's audit")}
	if _, err := verify(l, files); err != nil {
		t.Errorf("a file beside the log: %v", err)
	}
}

func TestFilesThatAreTooLargeOrNotFilesAreRefused(t *testing.T) {
	l := honestLog(t, 300, 100)
	for _, name := range []string{"checkpoint", "checkpoints/000", "tile/entries/000", "tile/0/000", "tile/1/000.p/1"} {
		files := l.export()
		files[name] = &fstest.MapFile{Data: make([]byte, audit.MaxBundle+1)}
		r, err := verify(l, files)
		refused(t, r, err, "too large")
		files[name] = &fstest.MapFile{Mode: fs.ModeNamedPipe}
		r, err = verify(l, files)
		refused(t, r, err, "not a regular file")
	}
}

func TestCheckpointsReSignedWithAnotherKeyAreRefused(t *testing.T) {
	l := honestLog(t, 300, 100)
	forged := newLog(t, newSigner(t, 66))
	forged.grow(300, 100, func(tb testing.TB, i int) []byte { return eventBy(tb, i, "stolen-key") })
	r, err := verify(l, forged.export())
	refused(t, r, err, "not a checkpoint of this log")
	// Only one in the list, the newest left alone.
	for i := range 3 {
		mixed := honestLog(t, 300, 100)
		mixed.checkpoints = slices.Clone(mixed.checkpoints)
		newest := mixed.checkpoints[2]
		mixed.checkpoints[i] = forged.checkpoints[i]
		files := mixed.export()
		files["checkpoint"] = &fstest.MapFile{Data: newest}
		r, err = verify(l, files)
		refused(t, r, err, "not a checkpoint of this log")
	}
}

func TestCheckpointWithAForgedRootOrSizeIsRefused(t *testing.T) {
	l := honestLog(t, 300, 100)
	for name, c := range map[string]struct{ old, new string }{
		"size":      {testOrigin + "\n300\n", testOrigin + "\n299\n"},
		"origin":    {testOrigin + "\n300\n", "evil.example/log\n300\n"},
		"signature": {"— " + testOrigin + " ", "— " + testOrigin + " A"},
	} {
		bad := honestLog(t, 300, 100)
		raw := bytes.Replace(bad.checkpoints[2], []byte(c.old), []byte(c.new), 1)
		if bytes.Equal(raw, bad.checkpoints[2]) {
			t.Fatalf("%s: nothing changed", name)
		}
		files := l.export()
		files["checkpoint"].Data = raw
		r, err := verify(l, files)
		refused(t, r, err, "checkpoint")
	}
}

func TestForkedCheckpointInTheListIsRefused(t *testing.T) {
	// Signed by the log's own key for another history of the same size.
	l := honestLog(t, 300, 100)
	fork := newLog(t, l.signer)
	fork.grow(200, 100, func(tb testing.TB, i int) []byte { return eventBy(tb, i, "other") })
	honest := l.checkpoints
	for name, list := range map[string][][]byte{
		"instead":   {honest[0], fork.checkpoints[1], honest[2]},
		"in added":  {honest[0], honest[1], fork.checkpoints[1], honest[2]},
		"and ahead": {honest[0], fork.checkpoints[1], honest[1], honest[2]},
	} {
		l.checkpoints = list
		r, err := verify(l, l.export())
		refused(t, r, err, "checkpoint 200 was signed for other entries")
		if r.BadInterval == nil || r.BadInterval.To != 200 {
			t.Errorf("%s: interval %v", name, r.BadInterval)
		}
	}
}

func TestCheckpointsOutOfOrderAreRefused(t *testing.T) {
	l := honestLog(t, 300, 100)
	c := l.checkpoints
	for name, c := range map[string]struct {
		list [][]byte
		says string
	}{
		"swapped":            {[][]byte{c[1], c[0], c[2]}, "not in order"},
		"newest not last":    {[][]byte{c[0], c[2], c[1]}, "not in order"},
		"newest not listed":  {[][]byte{c[0], c[1]}, "not the last of the list"},
		"newest not written": {[][]byte{c[0], c[1], c[2], honestLog(t, 400, 400).checkpoints[0]}, "not in order"},
	} {
		files := honestLog(t, 300, 100).export()
		data, err := audit.MarshalBundle(c.list)
		if err != nil {
			t.Fatal(err)
		}
		files["checkpoints/000"].Data = data
		r, err := verify(l, files)
		refused(t, r, err, c.says)
		if r.Checkpoints > 3 {
			t.Errorf("%s: every checkpoint matched", name)
		}
	}
}

func TestTruncationToAnOlderCheckpointNeedsAKnownCheckpointToBeSeen(t *testing.T) {
	l := honestLog(t, 1000, 100)
	newest := l.checkpoints[9]
	old := honestLog(t, 600, 100)
	r, err := verify(l, old.export())
	if err != nil {
		t.Fatalf("an older export is honest in itself: %v", err)
	}
	if r.Fresh {
		t.Error("an older export is fresh without a known checkpoint")
	}
	r, err = verify(l, old.export(), newest)
	refused(t, r, err, "ends before a checkpoint that you know")
	if r.BadKnown == nil || *r.BadKnown != 1000 {
		t.Errorf("bad known checkpoint is %v, want 1000", r.BadKnown)
	}
}

func TestLogRewrittenWithTheStolenKeyContradictsAKnownCheckpoint(t *testing.T) {
	l := honestLog(t, 1000, 100)
	rewritten := newLog(t, l.signer)
	rewritten.grow(1200, 100, func(tb testing.TB, i int) []byte {
		if i == 450 {
			return eventBy(tb, i, "never-used")
		}
		return event(tb, i)
	})
	files := rewritten.export()
	if r, err := verify(l, files); err != nil || r.Fresh {
		t.Fatalf("the thief's log is consistent in itself: %+v, %v", r, err)
	}
	// A copy from before the change proves nothing, one from after it does, also
	// among others and at a size at which the thief signed nothing.
	odd := honestLog(t, 777, 777)
	if _, err := verify(l, files, l.checkpoints[3]); err != nil {
		t.Errorf("checkpoint 400 is in both histories: %v", err)
	}
	for _, known := range [][][]byte{{l.checkpoints[4]}, {l.checkpoints[9]}, {l.checkpoints[0], l.checkpoints[9], l.checkpoints[2]}, {odd.checkpoints[0]}} {
		r, err := verify(l, files, known...)
		refused(t, r, err, "the log forked")
		if r.BadKnown == nil {
			t.Error("no bad known checkpoint")
		}
	}
}

func TestKnownCheckpointOfAnotherKeyIsRefused(t *testing.T) {
	l := honestLog(t, 10, 10)
	other := newLog(t, newSigner(t, 7))
	other.grow(10, 10, event)
	r, err := verify(l, l.export(), other.checkpoints[0])
	refused(t, r, err, "known checkpoint 1")
	r, err = verify(l, l.export(), slices.Repeat([][]byte{l.checkpoints[0]}, audit.MaxKnown+1)...)
	refused(t, r, err, "too many known checkpoints")
}

func TestEveryFlippedByteIsRefused(t *testing.T) {
	l := honestLog(t, 3, 2)
	for name, f := range l.export() {
		for i := range f.Data {
			files := l.export()
			files[name].Data[i] ^= 1
			if _, err := verify(l, files); signing.CodeOf(err) != signing.Invalid {
				t.Errorf("%s with byte %d flipped: %v, want a refusal", name, i, err)
			}
		}
	}
}

func TestClockThatWentBackIsReportedNotRefused(t *testing.T) {
	l := newLog(t, newSigner(t, 1))
	l.grow(10, 10, func(tb testing.TB, i int) []byte {
		if i == 6 {
			return event(tb, 1)
		}
		return event(tb, i)
	})
	r, err := verify(l, l.export())
	if err != nil {
		t.Fatal(err)
	}
	if r.ClockBack.Seconds() != 4 || r.ClockBackLeaf != 6 {
		t.Errorf("clock went back %s at %d, want 4s at 6", r.ClockBack, r.ClockBackLeaf)
	}
}

func TestFolderThatIsNoExportIsRefused(t *testing.T) {
	l := honestLog(t, 0, 1)
	r, err := verify(l, fstest.MapFS{})
	refused(t, r, err, "checkpoint is missing")
	if _, err := audit.VerifyExport(l.export(), "not a key", nil); signing.CodeOf(err) != signing.Invalid {
		t.Errorf("a broken key: %v", err)
	}
}
