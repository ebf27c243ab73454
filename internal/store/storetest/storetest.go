// Package storetest opens real stores for tests.
package storetest

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/sealwright/sealwright/internal/store"
)

// Secret is a state secret for tests.
func Secret() []byte { return bytes.Repeat([]byte{0x5e}, store.MinSecret) }

// Open opens a store in a folder of its own, with options changed by change if
// it is not nil, and closes it when the test ends.
func Open(t testing.TB, change func(*store.Options)) *store.Store {
	t.Helper()
	o := store.Options{Path: filepath.Join(t.TempDir(), "state.db"), Secrets: [][]byte{Secret()}}
	if change != nil {
		change(&o)
	}
	s, err := store.Open(t.Context(), o)
	if err != nil {
		t.Fatalf("opening store: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing store: %v", err)
		}
	})
	return s
}
