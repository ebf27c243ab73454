package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"slices"

	"github.com/sealwright/sealwright/internal/signing"
)

// An export is a folder:
//
//	checkpoint                the newest checkpoint
//	checkpoints/<N>           every checkpoint in the order of signing, 256 in a
//	                          file, framed like entries; N as in tile paths
//	tile/entries/<N>[.p/<W>]  the entries (C2SP tlog-tiles)
//	tile/<L>/<N>[.p/<W>]      the hashes
//
// and nothing else under checkpoints and tile.
const (
	checkpointFile = "checkpoint"
	checkpointsDir = "checkpoints"
	tileDir        = "tile"
)

// MaxBundle bounds a file of the export: 256 entries of MaxEvent and their lengths.
const MaxBundle = TileWidth * (2 + MaxEvent)

// Source is where an export is copied from.
type Source struct {
	// Entries returns the leaf data of [from, to), at most 256 at a time.
	Entries func(ctx context.Context, from, to uint64) ([][]byte, error)
	Nodes   NodeReader
	// Checkpoints yields every signed checkpoint in the order of signing.
	Checkpoints iter.Seq2[[]byte, error]
}

// WriteExport copies the log up to its newest checkpoint, file by file, to put.
// It judges nothing: an altered log is exported as it is, for VerifyExport to
// name what was altered. It fails if there is no checkpoint yet, or if entries
// or nodes are missing. It returns the number of entries.
func WriteExport(ctx context.Context, src Source, put func(name string, data []byte) error) (uint64, error) {
	newest, err := writeCheckpoints(src.Checkpoints, put)
	if err != nil {
		return 0, err
	}
	size, err := unverifiedSize(newest)
	if err != nil {
		return 0, fmt.Errorf("reading the newest checkpoint: %w", err)
	}
	for t := range Tiles(size) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		data, err := src.tile(ctx, t)
		if err != nil {
			return 0, fmt.Errorf("exporting %s: %w", t.Path(), err)
		}
		if err := put(t.Path(), data); err != nil {
			return 0, err
		}
	}
	// Last, so that a folder without it is visibly an export that was cut off.
	return size, put(checkpointFile, newest)
}

// writeCheckpoints writes the files of checkpoints and returns the last one.
func writeCheckpoints(all iter.Seq2[[]byte, error], put func(string, []byte) error) ([]byte, error) {
	var batch [][]byte
	var newest []byte
	var files uint64
	flush := func() error {
		data, err := MarshalBundle(batch)
		if err != nil {
			return err
		}
		name := path.Join(checkpointsDir, indexPath(files))
		files, batch = files+1, batch[:0]
		return put(name, data)
	}
	for raw, err := range all {
		if err != nil {
			return nil, fmt.Errorf("reading checkpoints: %w", err)
		}
		newest = raw
		if batch = append(batch, raw); len(batch) == TileWidth {
			if err := flush(); err != nil {
				return nil, err
			}
		}
	}
	if newest == nil {
		return nil, &signing.Error{Code: signing.Unavailable, Message: "the log has no checkpoint yet", Fix: "wait until the service has signed one; it does so every few seconds"}
	}
	if len(batch) > 0 {
		if err := flush(); err != nil {
			return nil, err
		}
	}
	return newest, nil
}

// tile returns the bytes of one tile or bundle.
func (src Source) tile(ctx context.Context, t Tile) ([]byte, error) {
	if t.Level == Entries {
		from, to := t.Range()
		entries, err := src.Entries(ctx, from, to)
		if err != nil {
			return nil, err
		}
		if uint64(len(entries)) != to-from {
			return nil, refuse("entries are missing", fmt.Sprintf("%d entries from %d on", to-from, from), fmt.Sprint(len(entries)), "the database was altered: keep it for examination")
		}
		return MarshalBundle(entries)
	}
	hashes, err := src.Nodes(ctx, t.Nodes())
	if err != nil {
		return nil, err
	}
	if len(hashes) != t.Width || slices.ContainsFunc(hashes, func(h []byte) bool { return len(h) != HashSize }) {
		return nil, refuse("nodes are missing", fmt.Sprintf("%d hashes", t.Width), fmt.Sprint(len(hashes)), "the database was altered: keep it for examination")
	}
	return slices.Concat(hashes...), nil
}

// Folder returns a put function for WriteExport that writes below dir, which is
// made if it is not there and must be empty.
func Folder(dir string) (put func(name string, data []byte) error, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the export folder: %w", err)
	}
	there, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the export folder: %w", err)
	}
	if len(there) > 0 {
		return nil, &signing.Error{Code: signing.Conflict, Message: "the export folder is not empty", Expected: "an empty folder", Found: there[0].Name(), Fix: "export to a new folder"}
	}
	return func(name string, data []byte) error {
		if !fs.ValidPath(name) {
			return fmt.Errorf("not a path inside an export: %q", name)
		}
		file := path.Join(dir, name)
		if err := os.MkdirAll(path.Dir(file), 0o755); err != nil {
			return fmt.Errorf("writing export: %w", err)
		}
		if err := os.WriteFile(file, data, 0o644); err != nil {
			return fmt.Errorf("writing export: %w", err)
		}
		return nil
	}, nil
}

// readFile reads a regular file of at most most bytes. A file that is not there
// is a refusal: exports are complete.
func readFile(fsys fs.FS, name string, most int64) ([]byte, error) {
	// Asked before opening, which would wait for ever on a named pipe.
	info, err := fs.Stat(fsys, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &signing.Error{Code: signing.Invalid, Message: name + " is missing in the export", Fix: "take a complete export; if it was complete, somebody removed the file"}
	}
	if err != nil {
		return nil, fmt.Errorf("reading export: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, refuse(name+" is not a regular file", "", info.Mode().String(), "")
	}
	f, err := fsys.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading export: %w", err)
	}
	defer func() { _ = f.Close() }() // read only
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if int64(len(data)) > most {
		return nil, refuse(name+" is too large", fmt.Sprintf("at most %d bytes", most), "more", "")
	}
	return data, nil
}
