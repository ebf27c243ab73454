package store

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"path/filepath"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
)

// canceled gives a request its last event.
func canceled(t *testing.T, s *Store, r *signing.Request) {
	t.Helper()
	r.Ended = s.now().UTC()
	update(t, s, func(tx *Tx) error {
		return tx.Transition(Change{Request: r, To: string(signing.Canceled), Events: []audit.Event{event(r.ID, "", string(signing.Canceled))}})
	})
}

func TestEventsOfARequestAreFoundByTheirTimeWhateverTheClockDid(t *testing.T) {
	for name, step := range map[string]time.Duration{"clock that goes on": time.Hour, "clock that stands still": 0, "clock that goes back": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			c := newClock()
			s := open(t, Options{Now: c.Now})
			var all []*signing.Request
			for i := range 8 {
				all = append(all, insert(t, s, i+1))
				c.Advance(step)
			}
			for _, r := range all {
				canceled(t, s, r)
				c.Advance(step)
			}
			if _, err := s.Sequence(t.Context(), 100, nil); err != nil {
				t.Fatal(err)
			}
			for i, r := range all {
				view(t, s, func(tx *Tx) error {
					got, err := tx.RequestEvents(r)
					if err != nil {
						return err
					}
					if len(got) != 2 || got[0].Leaf != uint64(i) || got[1].Leaf != uint64(len(all)+i) {
						t.Errorf("events of request %d: %+v", i, got)
					}
					return nil
				})
			}
		})
	}
}

func TestEventWithoutAPlaceInTheLogIsNotEvidence(t *testing.T) {
	s := open(t, Options{})
	r := insert(t, s, 1)
	view(t, s, func(tx *Tx) error {
		_, err := tx.RequestEvents(r)
		wantCode(t, err, signing.Unavailable)
		return nil
	})
}

func TestPublicKeysAreRememberedAndVouchForThemselves(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, Options{Path: path})
	record := func() signing.KeyRecord {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		r, err := signing.KeyInfo{ID: "release", Public: k.Public()}.Record()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	old, present := record(), record()
	for range 2 {
		update(t, s, func(tx *Tx) error {
			if err := tx.PutPublicKey(old); err != nil {
				return err
			}
			return tx.PutPublicKey(present)
		})
	}
	read := func(version string) (got []signing.KeyRecord, err error) {
		view(t, s, func(tx *Tx) error { got, err = tx.PublicKeys("release", version); return nil })
		return got, err
	}
	if got, err := read(old.Version); err != nil || len(got) != 1 || got[0].PublicKey != old.PublicKey {
		t.Errorf("%+v, %v", got, err)
	}
	_, err := read("")
	wantCode(t, err, signing.NotFound)
	// Another key under the old version.
	rawExec(t, rawDB(t, path), "UPDATE public_keys SET document = (SELECT document FROM public_keys WHERE version = ?) WHERE version = ?", present.Version, old.Version)
	_, err = read(old.Version)
	wantTampered(t, "a key of another version", err)
}
