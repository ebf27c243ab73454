package audit_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
)

func TestRootsOfKnownTrees(t *testing.T) {
	// The test vectors of RFC 6962's reference implementation.
	leaves := [][]byte{}
	for _, h := range []string{"", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"} {
		b, err := hex.DecodeString(h)
		if err != nil {
			t.Fatal(err)
		}
		leaves = append(leaves, b)
	}
	for size, want := range map[int]string{
		0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
		2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
		3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
		5: "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
		8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
	} {
		_, root, err := audit.Extend(0, nil, leaves[:size])
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(root); got != want {
			t.Errorf("root of %d leaves is %s, want %s", size, got, want)
		}
	}
}

// slowRoot is RFC 6962 section 2.1 as it is written.
func slowRoot(leaves [][]byte) []byte {
	switch n := len(leaves); n {
	case 0:
		return rfc6962.DefaultHasher.EmptyRoot()
	case 1:
		return rfc6962.DefaultHasher.HashLeaf(leaves[0])
	default:
		k := 1
		for k*2 < n {
			k *= 2
		}
		return rfc6962.DefaultHasher.HashChildren(slowRoot(leaves[:k]), slowRoot(leaves[k:]))
	}
}

func TestTreeAndProofsAgreeWithTheDefinition(t *testing.T) {
	random := rand.New(rand.NewPCG(2026, 3))
	for range 25 {
		l := newLog(t, newSigner(t, 1))
		size := random.IntN(1200) + 1
		// In batches of any size, like a sequencer's.
		for len(l.leaves) < size {
			var batch [][]byte
			for range min(random.IntN(300), size-len(l.leaves)) {
				batch = append(batch, event(t, len(l.leaves)+len(batch)))
			}
			l.extend(batch)
		}
		if !bytes.Equal(l.root(), slowRoot(l.leaves)) {
			t.Fatalf("root of %d entries differs from RFC 6962", size)
		}
		c := audit.Checkpoint{Size: uint64(size), Root: l.root()}
		index := uint64(random.IntN(size))
		path, err := audit.InclusionProof(context.Background(), l.read, index, c.Size)
		if err != nil {
			t.Fatal(err)
		}
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, c.Size, audit.LeafHash(l.leaves[index]), path, c.Root); err != nil {
			t.Errorf("inclusion of %d in %d by the proof library: %v", index, size, err)
		}
		if err := audit.VerifyInclusion(c, index, l.leaves[index], path); err != nil {
			t.Errorf("inclusion of %d in %d: %v", index, size, err)
		}
		if err := audit.VerifyInclusion(c, index, eventBy(t, int(index), "other"), path); signing.CodeOf(err) != signing.Invalid {
			t.Errorf("another entry is included: %v", err)
		}
		old := random.IntN(size) + 1
		older := audit.Checkpoint{Size: uint64(old), Root: slowRoot(l.leaves[:old])}
		path, err = audit.ConsistencyProof(context.Background(), l.read, older.Size, c.Size)
		if err != nil {
			t.Fatal(err)
		}
		if err := proof.VerifyConsistency(rfc6962.DefaultHasher, older.Size, c.Size, path, older.Root, c.Root); err != nil {
			t.Errorf("consistency of %d and %d by the proof library: %v", old, size, err)
		}
		if err := audit.VerifyConsistency(older, c, path); err != nil {
			t.Errorf("consistency of %d and %d: %v", old, size, err)
		}
		older.Root = slowRoot([][]byte{[]byte("forged")})
		if err := audit.VerifyConsistency(older, c, path); signing.CodeOf(err) != signing.Invalid {
			t.Errorf("a forged root of %d is consistent with %d: %v", old, size, err)
		}
	}
}

// Go's own transparency log reads and writes the same tiles; it is the second opinion.
func TestTilesAgreeWithGoSumdbTlog(t *testing.T) {
	random := rand.New(rand.NewPCG(2026, 4))
	for _, size := range []int{1, 2, 255, 256, 257, 511, 512, 1000, 1 + random.IntN(3000)} {
		l := honestLog(t, size, 300)
		files := l.export()
		reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
			out := make([]tlog.Hash, len(indexes))
			for i, x := range indexes {
				level, n := tlog.SplitStoredHashIndex(x)
				h, ok := l.nodes[audit.NodeID{Level: uint(level), Index: uint64(n)}]
				if !ok {
					return nil, fmt.Errorf("no node %d/%d", level, n)
				}
				out[i] = tlog.Hash(h)
			}
			return out, nil
		})
		root, err := tlog.TreeHash(int64(size), reader)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(root[:], l.root()) {
			t.Errorf("size %d: root differs from Go's", size)
		}
		tiles := 0
		for _, tile := range tlog.NewTiles(audit.TileHeight, 0, int64(size)) {
			want, err := tlog.ReadTileData(tile, reader)
			if err != nil {
				t.Fatal(err)
			}
			// Go's NewTiles lists the partial tiles on the way, too; take the final ones.
			ours := audit.Tile{Level: tile.L, Index: uint64(tile.N), Width: tile.W}
			f := files[ours.Path()]
			if f == nil {
				if !ours.In(uint64(size)) || tile.W == audit.TileWidth {
					t.Errorf("size %d: %s is not in the export", size, ours.Path())
				}
				continue
			}
			tiles++
			if !bytes.Equal(want, f.Data) {
				t.Errorf("size %d: %s differs from Go's", size, ours.Path())
			}
		}
		want := slices.Collect(audit.Tiles(uint64(size)))
		if hashes := slices.DeleteFunc(want, func(t audit.Tile) bool { return t.Level == audit.Entries }); tiles != len(hashes) {
			t.Errorf("size %d: Go knows %d of our %d tiles", size, tiles, len(hashes))
		}
	}
}

func TestFrontierThatIsNotOfTheSizeIsRefused(t *testing.T) {
	h := audit.LeafHash([]byte("x"))
	for name, frontier := range map[string][][]byte{"too short": {h}, "too long": {h, h, h}, "not hashes": {h, h[:31]}, "nil hash": {h, nil}} {
		if _, _, err := audit.Extend(3, frontier, nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := audit.Root(1<<63, nil); err == nil {
		t.Error("a size beyond int64 is accepted")
	}
}

func TestExtendLeavesItsFrontierAlone(t *testing.T) {
	l := honestLog(t, 7, 7)
	frontier, err := l.read(context.Background(), audit.Frontier(7))
	if err != nil {
		t.Fatal(err)
	}
	before := slices.Clone(frontier)
	if _, _, err := audit.Extend(7, frontier[:len(frontier):cap(frontier)], [][]byte{event(t, 7), event(t, 8)}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, frontier); diff != "" {
		t.Errorf("frontier changed:\n%s", diff)
	}
}

func TestTilePathsFollowTheSpecification(t *testing.T) {
	for path, want := range map[string]audit.Tile{
		"tile/0/000":                     {Level: 0, Index: 0, Width: 256},
		"tile/0/x001/x234/067":           {Level: 0, Index: 1234067, Width: 256},
		"tile/2/000.p/1":                 {Level: 2, Index: 0, Width: 1},
		"tile/entries/273.p/112":         {Level: audit.Entries, Index: 273, Width: 112},
		"tile/entries/x001/000":          {Level: audit.Entries, Index: 1000, Width: 256},
		"tile/7/x999/x999/x999/999.p/99": {Level: 7, Index: 999999999999, Width: 99},
	} {
		if got := want.Path(); got != path {
			t.Errorf("%+v is %s, want %s", want, got, path)
		}
		if got, err := audit.ParseTile(path); err != nil || got != want {
			t.Errorf("%s is %+v (%v), want %+v", path, got, err, want)
		}
	}
	for _, path := range []string{
		"", "tile", "tile/0", "tile/0/", "tile/00/000", "tile/8/000", "tile/-1/000", "tile/+0/000", "tile/0/0", "tile/0/0000", "tile/0/x000/000", "tile/0/x1/000",
		"tile/0/001/000", "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/01", "tile/0/000.p/", "tile/0/000/..", "tile/0/../0/000", "/tile/0/000",
		"tile/entries/000.p/1/x", "tile/0/000\n", "tile/data/000", "tile/0/x999/x999/x999/x999/x999/x999/x999/999", "tile/0/99999999999999999999",
	} {
		if got, err := audit.ParseTile(path); signing.CodeOf(err) != signing.NotFound {
			t.Errorf("%q is %+v (%v), want a refusal", path, got, err)
		}
	}
}

func TestTilesOfTheSpecificationsExample(t *testing.T) {
	// "a tree of size 70,000 will be represented by 273 full level 0 tiles, one
	// partial level 0 tile of width 112, one full level 1 tile, one partial level 1
	// tile of width 17, and one partial level 2 tile of width 1."
	type kind struct {
		level int
		full  bool
		width int
	}
	got := map[kind]int{}
	for tile := range audit.Tiles(70000) {
		got[kind{tile.Level, tile.Width == 256, tile.Width}]++
		if !tile.In(70000) {
			t.Errorf("%s is not in the log that consists of it", tile.Path())
		}
	}
	want := map[kind]int{
		{audit.Entries, true, 256}: 273, {audit.Entries, false, 112}: 1,
		{0, true, 256}: 273, {0, false, 112}: 1, {1, true, 256}: 1, {1, false, 17}: 1, {2, false, 1}: 1,
	}
	if len(got) != len(want) {
		t.Errorf("tiles: %v, want %v", got, want)
	}
	for k, n := range want {
		if got[k] != n {
			t.Errorf("%+v: %d tiles, want %d", k, got[k], n)
		}
	}
	if (audit.Tile{Level: 0, Index: 273, Width: 113}).In(70000) || (audit.Tile{Level: 3, Index: 0, Width: 1}).In(70000) {
		t.Error("a tile beyond the tree is in it")
	}
}

func TestBundlesSurviveAndRefuseWhatIsCutOrStretched(t *testing.T) {
	entries := [][]byte{[]byte("a"), {}, bytes.Repeat([]byte("b"), audit.MaxEvent)}
	data, err := audit.MarshalBundle(entries)
	if err != nil {
		t.Fatal(err)
	}
	got, err := audit.ParseBundle(data, 3)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(entries, got); diff != "" {
		t.Error(diff)
	}
	for name, bad := range map[string][]byte{"cut": data[:len(data)-1], "stretched": append(bytes.Clone(data), 0), "one more": append(bytes.Clone(data), 0, 0), "empty": {}} {
		if _, err := audit.ParseBundle(bad, 3); signing.CodeOf(err) != signing.Invalid {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
	if _, err := audit.MarshalBundle([][]byte{make([]byte, audit.MaxEvent+1)}); err == nil {
		t.Error("an entry that is too large is written")
	}
	if _, err := audit.MarshalBundle(make([][]byte, 257)); err == nil {
		t.Error("257 entries are written")
	}
}
