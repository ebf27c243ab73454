package store

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
)

func TestContentIsKeptByItsDigestUntilTheRequestIsDecided(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, Options{Path: path})
	r := newRequest(1, time.Now())
	r.Publish = signing.ByClient
	update(t, s, func(tx *Tx) error {
		return tx.InsertRequest(r, NewRequest{IdempotencyScope: "s", ReplayKey: "r", ReplayUntil: tx.Now().Add(time.Hour), CapabilityHash: make([]byte, 32), Events: []audit.Event{event(r.ID, "", string(signing.Pending))}})
	})
	manifest, config := []byte("manifest"), []byte("config")
	for range 2 { // again changes nothing
		update(t, s, func(tx *Tx) error {
			return errors.Join(tx.PutContent(r.ID, signing.DigestOf(manifest), true, manifest), tx.PutContent(r.ID, signing.DigestOf(config), false, config))
		})
	}
	err := s.Update(context.Background(), "test", func(tx *Tx) error { return tx.PutContent(r.ID, signing.DigestOf(manifest), true, config) })
	if !errors.Is(err, signing.Invalid) {
		t.Errorf("other bytes under a digest: %v", err)
	}
	view := func() (raw []byte, c Contents, err error) {
		err = s.View(context.Background(), func(tx *Tx) (err error) {
			if c, err = tx.Contents(r.ID); err != nil {
				return err
			}
			raw, err = tx.Content(r.ID, signing.DigestOf(manifest))
			return err
		})
		return raw, c, err
	}
	if raw, c, err := view(); err != nil || string(raw) != "manifest" || c != (Contents{N: 2, Bytes: 14, Artifacts: 1}) {
		t.Errorf("%q %+v %v", raw, c, err)
	}
	if _, err := rawDB(t, path).Exec("UPDATE contents SET content = x'00' WHERE artifact = 1"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := view(); !errors.Is(err, ErrTampered) {
		t.Errorf("altered content: %v", err)
	}
	update(t, s, func(tx *Tx) error {
		return tx.Transition(Change{Request: r, To: string(signing.RequestDenied), Events: []audit.Event{event(r.ID, "", string(signing.RequestDenied))}})
	})
	if _, c, err := view(); !errors.Is(err, signing.NotFound) || c.N != 0 {
		t.Errorf("after the decision: %+v %v", c, err)
	}
}

func TestALeaseOfAJobOutlivesARestartAndEndsAtItsTime(t *testing.T) {
	path, c := filepath.Join(t.TempDir(), "state.db"), newClock()
	s := open(t, Options{Path: path, Now: c.Now})
	job := ClientOwner + "sr_1 x"
	update(t, s, func(tx *Tx) error {
		_, err := tx.AcquireLease("by the job", job, time.Minute)
		_, other := tx.AcquireLease("by the service", "host-1", time.Minute)
		return errors.Join(err, other)
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, Options{Path: path, Now: c.Now})
	take := func(name string) error {
		return s.Update(context.Background(), "test", func(tx *Tx) error { _, err := tx.AcquireLease(name, "host-2", time.Minute); return err })
	}
	if err := take("by the service"); err != nil {
		t.Errorf("the lease of a dead service: %v", err)
	}
	if err := take("by the job"); !errors.Is(err, signing.Conflict) {
		t.Errorf("the lease of a job that runs elsewhere: %v", err)
	}
	held := func(owner string) error {
		return s.View(context.Background(), func(tx *Tx) error { _, _, err := tx.HeldLease("by the job", owner); return err })
	}
	if err := held(job); err != nil {
		t.Error(err)
	}
	if err := held(ClientOwner + "sr_1 y"); !errors.Is(err, signing.NotFound) {
		t.Errorf("another holder: %v", err)
	}
	c.Advance(time.Minute)
	if err := held(job); !errors.Is(err, signing.NotFound) {
		t.Errorf("after its end: %v", err)
	}
	if err := take("by the job"); err != nil {
		t.Errorf("after its end: %v", err)
	}
}
