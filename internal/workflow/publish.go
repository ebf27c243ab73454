package workflow

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

// publishLease is how long one publication may keep others from its digest:
// some ten requests to a registry, each with its own timeout and retries.
const publishLease = 2 * time.Minute

// publish writes every signed Task's envelope to where verifiers look for it,
// and reads it back. Tasks fail or wait on their own; the error returned is one
// that is worth trying again.
func (d *drive) publish(ctx context.Context) error {
	var signed []*signing.Task
	for _, t := range d.tasks {
		if t.State == signing.Signed {
			signed = append(signed, t)
		}
	}
	errs := make([]error, len(signed))
	g := new(errgroup.Group)
	g.SetLimit(TaskConcurrency)
	for i, t := range signed {
		g.Go(func() error {
			errs[i] = d.publishTask(ctx, t)
			return nil
		})
	}
	_ = g.Wait() // the functions return nil; errors are in errs
	var later error
	for i, err := range errs {
		switch {
		case err == nil:
		case ctx.Err() != nil, errors.Is(err, signing.Conflict):
			return err
		case signing.Temporary(err) || signing.CodeOf(err) == signing.Internal:
			later = fmt.Errorf("publishing %s: %w", signed[i].ID, err)
			signed[i].Failure = signing.Public(err)
			signed[i].Tries++
			save := func(tx *store.Tx) error { return tx.SaveTask(signed[i], d.claim) }
			if err := d.update(ctx, "try", save); err != nil {
				return err
			}
		default:
			d.log.Error("publishing failed", "task", signed[i].ID, "error", err)
			if err := d.failTask(ctx, signed[i], err); err != nil {
				return err
			}
		}
	}
	return later
}

// publishTask publishes one envelope and verifies it through the public read
// path, alone among all who publish on this digest. Publishing again what is
// already there changes nothing, so a crash in between is made good by doing it
// all again.
func (d *drive) publishTask(ctx context.Context, t *signing.Task) (err error) {
	m, target, err := d.target(t)
	if err != nil {
		return err
	}
	name := leaseName(t.Artifact.Repository, t.Artifact.Digest)
	release, err := d.w.turn(ctx, name)
	if err != nil {
		return err
	}
	defer release()
	fence, err := d.acquire(ctx, name)
	if err != nil {
		return err
	}
	// Success gives the lease back in its own commit. Whatever else happened,
	// the next try must not wait for it to run out.
	defer func() {
		if err != nil {
			d.releaseLease(ctx, name, fence)
		}
	}()
	for range maxStale {
		locations, err := d.attach(ctx, m, target, t)
		if errors.Is(err, method.ErrStaleBase) {
			ev := audit.Event{Kind: audit.TaskStaleBase}
			if err := d.moveTask(ctx, "stale", t, signing.Signed, ev); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		t.Locations, t.Failure, t.Tries = locations, nil, 0
		// From here on the signature is known to be where verifiers look.
		return d.update(ctx, "published", func(tx *store.Tx) error {
			if err := tx.CheckLease(name, d.w.Owner, fence); err != nil {
				return err
			}
			if err := d.changeTask(tx, t, signing.Published, audit.Event{Kind: audit.TaskPublished, Attrs: audit.Located(t)}); err != nil {
				return err
			}
			return tx.ReleaseLease(name, d.w.Owner, fence)
		})
	}
	return &signing.Error{Code: signing.Unavailable, Message: "another writer keeps replacing the signatures of this digest", Found: t.Artifact.String(), Fix: "find out who else writes signatures to this repository"}
}

func (d *drive) attach(ctx context.Context, m method.Method, target method.Target, t *signing.Task) ([]signing.Location, error) {
	if _, err := m.Publish(ctx, target, *t.Envelope); err != nil {
		return nil, err
	}
	return m.Verify(ctx, target, *t.Envelope)
}

// acquire takes the database lease on name. Within this process its holder has
// the turn already; so a conflict is another process, or a crashed one.
func (d *drive) acquire(ctx context.Context, name string) (fence int64, err error) {
	for {
		err = d.w.Store.Update(ctx, "lease", func(tx *store.Tx) (err error) {
			if err := tx.CheckClaim(d.claim); err != nil {
				return err
			}
			fence, err = tx.AcquireLease(name, d.w.Owner, publishLease)
			return err
		})
		if !errors.Is(err, signing.Conflict) || d.lost(ctx) {
			if err != nil && fence > 0 {
				d.releaseLease(ctx, name, fence) // the commit may have happened
			}
			return fence, err
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(d.w.Poll):
		}
	}
}

// releaseLease is best effort: an unreleased lease runs out. It is given back
// although the claim was lost, for whoever has the job now.
func (d *drive) releaseLease(ctx context.Context, name string, fence int64) {
	err := d.w.Store.Update(context.WithoutCancel(ctx), "release", func(tx *store.Tx) error { return tx.ReleaseLease(name, d.w.Owner, fence) })
	if err != nil && ctx.Err() == nil {
		d.log.Warn("releasing a lease; it will run out", "lease", name, "error", err)
	}
}
