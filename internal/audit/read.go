package audit

import (
	"fmt"
	"io/fs"
)

// ReadEntries hands the entries of an export to each, in order, as they are:
// it verifies nothing. It reads one bundle at a time and ends at the first
// error of each.
func ReadEntries(fsys fs.FS, each func(index uint64, leaf []byte) error) error {
	raw, err := readFile(fsys, checkpointFile, MaxCheckpoint)
	if err != nil {
		return err
	}
	size, err := unverifiedSize(raw)
	if err != nil {
		return fmt.Errorf("reading the newest checkpoint: %w", err)
	}
	for t := range Tiles(size) {
		if t.Level != Entries {
			return nil
		}
		data, err := readFile(fsys, t.Path(), MaxBundle)
		if err != nil {
			return err
		}
		entries, err := ParseBundle(data, t.Width)
		if err != nil {
			return fmt.Errorf("%s: %w", t.Path(), err)
		}
		from, _ := t.Range()
		for i, leaf := range entries {
			if err := each(from+uint64(i), leaf); err != nil {
				return err
			}
		}
	}
	return nil
}
