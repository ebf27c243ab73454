package audit_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
)

func TestExportGoesThroughAFolder(t *testing.T) {
	l := honestLog(t, 300, 100)
	dir := filepath.Join(t.TempDir(), "export")
	put, err := audit.Folder(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := audit.WriteExport(context.Background(), l.source(), put); err != nil {
		t.Fatal(err)
	}
	if _, err := verify(l, os.DirFS(dir)); err != nil {
		t.Error(err)
	}
	if err := put("../outside", nil); err == nil {
		t.Error("a file outside the folder is written")
	}
	if _, err := audit.Folder(dir); signing.CodeOf(err) != signing.Conflict {
		t.Errorf("an export over another: %v", err)
	}
}

func TestExportWithoutCheckpointOrWithMissingRowsFails(t *testing.T) {
	discard := func(string, []byte) error { return nil }
	l := newLog(t, newSigner(t, 1))
	if _, err := audit.WriteExport(context.Background(), l.source(), discard); signing.CodeOf(err) != signing.Unavailable {
		t.Errorf("no checkpoint: %v", err)
	}
	l = honestLog(t, 10, 10)
	l.leaves = l.leaves[:9]
	if _, err := audit.WriteExport(context.Background(), l.source(), discard); signing.CodeOf(err) != signing.Invalid {
		t.Errorf("missing entry: %v", err)
	}
	l = honestLog(t, 10, 10)
	delete(l.nodes, audit.NodeID{Level: 0, Index: 3})
	if _, err := audit.WriteExport(context.Background(), l.source(), discard); err == nil {
		t.Error("missing node: exported")
	}
	full := errors.New("disk full")
	if _, err := audit.WriteExport(context.Background(), honestLog(t, 10, 10).source(), func(string, []byte) error { return full }); !errors.Is(err, full) {
		t.Errorf("%v, want %v", err, full)
	}
}
