package audit

import (
	"encoding/binary"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// TileHeight and TileWidth are those of C2SP tlog-tiles: a tile holds up to
	// 256 hashes, the bottom row of a subtree of height 8.
	TileHeight = 8
	TileWidth  = 1 << TileHeight
	// Entries as a Tile's Level means an entry bundle instead of hashes.
	Entries = -1
	// maxTileLevel is what a tree of MaxSize leaves reaches.
	maxTileLevel = 7
)

// Tile names a tile or an entry bundle. Tile (L, N) holds the nodes of level 8L
// from N*256 on, Width of them; a bundle holds the entries from N*256 on.
type Tile struct {
	Level int    // Entries, or 0 to 7
	Index uint64 // N
	Width int    // 1 to TileWidth; less than TileWidth is a partial tile
}

// Path returns the tile's path by C2SP tlog-tiles: tile/<L>/<N>[.p/<W>], N in
// groups of three digits, all but the last with an x ("x001/x234/067").
func (t Tile) Path() string {
	level := "entries"
	if t.Level != Entries {
		level = strconv.Itoa(t.Level)
	}
	p := "tile/" + level + "/" + indexPath(t.Index)
	if t.Width < TileWidth {
		p += ".p/" + strconv.Itoa(t.Width)
	}
	return p
}

func indexPath(n uint64) string {
	p := fmt.Sprintf("%03d", n%1000)
	for n >= 1000 {
		n /= 1000
		p = fmt.Sprintf("x%03d/%s", n%1000, p)
	}
	return p
}

// ParseTile parses what Path returns and nothing else.
func ParseTile(path string) (Tile, error) {
	bad := func() (Tile, error) {
		return Tile{}, &signing.Error{Code: signing.NotFound, Message: "not a tile", Expected: "tile/<L>/<N>[.p/<W>] or tile/entries/<N>[.p/<W>] (C2SP tlog-tiles)", Found: quote([]byte(path))}
	}
	// The longest index has seven groups.
	if len(path) > 64 {
		return bad()
	}
	t := Tile{Width: TileWidth}
	rest, ok := strings.CutPrefix(path, "tile/")
	level, rest, ok2 := strings.Cut(rest, "/")
	if !ok || !ok2 {
		return bad()
	}
	t.Level = Entries
	if level != "entries" {
		n, err := strconv.Atoi(level)
		if err != nil || n < 0 || n > maxTileLevel {
			return bad()
		}
		t.Level = n
	}
	if index, width, partial := strings.Cut(rest, ".p/"); partial {
		n, err := strconv.Atoi(width)
		if err != nil || n < 1 || n >= TileWidth {
			return bad()
		}
		rest, t.Width = index, n
	}
	index, err := strconv.ParseUint(strings.NewReplacer("x", "", "/", "").Replace(rest), 10, 64)
	if err != nil || index > MaxSize/TileWidth {
		return bad()
	}
	t.Index = index
	// Every other spelling of the same tile ends here.
	if t.Path() != path {
		return bad()
	}
	return t, nil
}

// In reports whether a log of the given size has the tile.
func (t Tile) In(size uint64) bool {
	level := max(t.Level, 0)
	have := size >> (TileHeight * level)
	return t.Index <= have/TileWidth && t.Index*TileWidth+uint64(t.Width) <= have
}

// whole reports whether a log of the given size has the tile at just this width.
func (t Tile) whole(size uint64) bool {
	return t.In(size) && (t.Width == TileWidth || !Tile{t.Level, t.Index, t.Width + 1}.In(size))
}

// Range returns the first entry of a bundle and the one after its last.
func (t Tile) Range() (from, to uint64) {
	return t.Index * TileWidth, t.Index*TileWidth + uint64(t.Width)
}

// Nodes returns the ids of the nodes that a tile of hashes consists of: its
// bytes are their hashes, one after the other.
func (t Tile) Nodes() []NodeID {
	ids := make([]NodeID, t.Width)
	for i := range ids {
		ids[i] = NodeID{Level: uint(t.Level) * TileHeight, Index: t.Index*TileWidth + uint64(i)}
	}
	return ids
}

// Tiles yields the entry bundles and then the tiles of every level that a log
// of the given size consists of, each at its full present width.
func Tiles(size uint64) iter.Seq[Tile] {
	return func(yield func(Tile) bool) {
		for level := Entries; level <= maxTileLevel; level++ {
			have := size >> (TileHeight * max(level, 0))
			for n := uint64(0); n*TileWidth < have; n++ {
				if !yield(Tile{level, n, int(min(have-n*TileWidth, TileWidth))}) {
					return
				}
			}
		}
	}
}

// MarshalBundle returns entries as C2SP tlog-tiles has them: each after its
// length as two bytes, big-endian.
func MarshalBundle(entries [][]byte) ([]byte, error) {
	if len(entries) > TileWidth {
		return nil, refuse("too many entries for one bundle", "at most 256", strconv.Itoa(len(entries)), "")
	}
	var out []byte
	for i, e := range entries {
		if len(e) > MaxEvent {
			return nil, refuse(fmt.Sprintf("entry %d of the bundle is too large", i), fmt.Sprintf("at most %d bytes", MaxEvent), strconv.Itoa(len(e)), "")
		}
		out = binary.BigEndian.AppendUint16(out, uint16(len(e)))
		out = append(out, e...)
	}
	return out, nil
}

// ParseBundle splits a bundle of exactly width entries. The entries share data's memory.
func ParseBundle(data []byte, width int) ([][]byte, error) {
	entries, err := splitBundle(data, width)
	if err != nil {
		return nil, err
	}
	if len(entries) != width {
		return nil, refuse("entries missing in a bundle", fmt.Sprintf("%d entries", width), fmt.Sprint(len(entries)), "")
	}
	return entries, nil
}

// splitBundle splits a bundle of at most the given number of entries. With an
// error it returns the entries that are whole.
func splitBundle(data []byte, most int) ([][]byte, error) {
	var entries [][]byte
	for rest := data; len(rest) > 0; {
		if len(entries) == most {
			return entries, refuse("bytes after the last entry of a bundle", fmt.Sprintf("%d entries", most), fmt.Sprintf("%d bytes more", len(rest)), "")
		}
		if len(rest) < 2 || len(rest)-2 < int(binary.BigEndian.Uint16(rest)) {
			return entries, refuse(fmt.Sprintf("entry %d of a bundle is cut off", len(entries)), "", fmt.Sprintf("%d bytes left", len(rest)), "")
		}
		end := 2 + int(binary.BigEndian.Uint16(rest))
		entries, rest = append(entries, rest[2:end:end]), rest[end:]
	}
	return entries, nil
}
