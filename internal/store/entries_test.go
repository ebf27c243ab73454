package store

import (
	"path/filepath"
	"testing"

	"github.com/sealwright/sealwright/internal/signing"
)

// bind records what a Task of a Request has published in the releases of a repository.
func bind(t *testing.T, s *Store, n int, changes ...signing.Change) {
	t.Helper()
	update(t, s, func(tx *Tx) error {
		return tx.recordEntries(&signing.Task{RequestID: requestID(n), Artifact: signing.Artifact{Repository: testGUN}, Part: "targets/releases", Changes: changes})
	})
}

func entriesOf(t *testing.T, s *Store) (map[string]Entry, error) {
	t.Helper()
	var out map[string]Entry
	err := s.View(t.Context(), func(tx *Tx) (err error) {
		out, err = tx.Entries(Kept{testGUN, "targets/releases"})
		return err
	})
	return out, err
}

func TestTheLastThatBoundATagIsRememberedAndARemovedOneForgotten(t *testing.T) {
	s := open(t, Options{})
	insertOf(t, s, 1, "payments", 1)
	insertOf(t, s, 2, "payments", 2)
	bind(t, s, 1, signing.Change{Tag: "v1", Digest: digestNo(1), Size: 1}, signing.Change{Tag: "v2", Digest: digestNo(1), Size: 1})
	bind(t, s, 2, signing.Change{Tag: "v1", Digest: digestNo(2), Size: 2}, signing.Change{Tag: "v2", Remove: true})
	got, err := entriesOf(t, s)
	if err != nil || len(got) != 1 || got["v1"].Digest != digestNo(2) || got["v1"].Size != 2 || got["v1"].Request != requestID(2) {
		t.Errorf("%+v %v", got, err)
	}
	var kept []Kept
	if err := s.View(t.Context(), func(tx *Tx) (err error) { kept, err = tx.Kept(); return err }); err != nil || len(kept) != 1 || kept[0] != (Kept{testGUN, "targets/releases"}) {
		t.Errorf("%v %v", kept, err)
	}
}

func TestAnEditedEntryIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, Options{Path: path})
	insertOf(t, s, 1, "payments", 1)
	bind(t, s, 1, signing.Change{Tag: "v1", Digest: digestNo(1), Size: 1})
	db := rawDB(t, path)
	for _, col := range columns(t, db, "trust_entries") {
		before := readRow(t, db, "trust_entries")
		rawExec(t, db, "UPDATE trust_entries SET "+col.name+" = "+col.other())
		now := readRow(t, db, "trust_entries")
		gun, _ := now["gun"].(string)
		role, _ := now["role"].(string)
		wantTampered(t, col.name, s.View(t.Context(), func(tx *Tx) error {
			_, err := tx.Entries(Kept{signing.Repository(gun), role})
			return err
		}))
		rawExec(t, db, "UPDATE trust_entries SET "+col.name+" = ?", before[col.name])
	}
}
