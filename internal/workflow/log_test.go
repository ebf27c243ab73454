package workflow_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
	"github.com/sealwright/sealwright/internal/testenv"
)

func TestTheLogRefusesACheckpointWhenTheKeptOneIsGone(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	s := e.Start(nil)
	s.VerifyLog()
	kept := filepath.Join(e.Dir, "checkpoint")
	if err := os.Rename(kept, kept+".away"); err != nil {
		t.Fatal(err)
	}
	note(t, s, 1)
	if err := s.Workflow.Sequence(t.Context()); !errors.Is(err, signing.Conflict) {
		t.Fatalf("got %v, want a conflict", err)
	}
	if err := os.Rename(kept+".away", kept); err != nil {
		t.Fatal(err)
	}
	if err := s.Workflow.Sequence(t.Context()); err != nil {
		t.Fatalf("with the kept checkpoint back: %v", err)
	}
}

func TestABacklogOfManyBatchesEndsInOneLog(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	s := e.Start(nil)
	const events = 2500
	note(t, s, events)
	if got := len(s.VerifyLog()); got < events {
		t.Errorf("%d events in the log, want at least %d", got, events)
	}
}

// note appends n events to the log.
func note(t *testing.T, s *testenv.Service, n int) {
	t.Helper()
	err := s.Store.Update(t.Context(), "note", func(tx *store.Tx) error {
		for i := range n {
			ev := audit.Event{Time: tx.Now(), Kind: audit.ServiceStarted, Attrs: map[string]string{"version": fmt.Sprint("v", i)}}
			if err := tx.Append(ev); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
