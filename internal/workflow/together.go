package workflow

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

// holdTogether takes the turns and leases on all repositories whose tags this
// Request still signs together, before their bytes are made: who prepares while
// another publishes signs a version that is gone by then. The names are taken in
// order, and before any lease on a digest, so that no two Requests wait for each
// other. The context that it returns ends when a lease is lost; release gives all
// back.
func (d *drive) holdTogether(ctx context.Context) (held context.Context, release func(), err error) {
	var names []string
	for _, t := range d.tasks {
		if t.Part != "" && !t.State.Done() {
			names = append(names, leaseOf(t))
		}
	}
	if len(names) == 0 {
		return ctx, func() {}, nil
	}
	slices.Sort(names)
	names = slices.Compact(names)
	var leaves []func()
	fences := make(map[string]int64, len(names))
	back := func() {
		d.together = nil
		d.releaseAll(ctx, fences)
		for _, leave := range leaves {
			leave()
		}
	}
	for _, name := range names {
		leave, err := d.w.turn(ctx, name)
		if err != nil {
			back()
			return ctx, nil, err
		}
		leaves = append(leaves, leave)
	}
	if err := d.acquireAll(ctx, names, fences); err != nil {
		back()
		return ctx, nil, err
	}
	d.together = fences
	held, cancel := context.WithCancel(ctx)
	var renewing sync.WaitGroup
	renewing.Go(func() { d.renew(held, cancel, names, fences) })
	return held, func() {
		cancel()
		renewing.Wait()
		back()
	}, nil
}

// acquireAll takes the leases in order, as many as are free at once in one commit.
// Within this process their holder has the turns already.
func (d *drive) acquireAll(ctx context.Context, names []string, fences map[string]int64) error {
	for {
		err := d.w.Store.Update(ctx, "lease", func(tx *store.Tx) error {
			if err := tx.CheckClaim(d.claim); err != nil {
				return err
			}
			for _, name := range names {
				if fences[name] > 0 {
					continue
				}
				fence, err := tx.AcquireLease(name, d.w.Owner, d.w.Lease)
				if errors.Is(err, signing.Conflict) {
					break // those behind it wait: the order is what prevents a deadlock
				}
				if err != nil {
					return err
				}
				fences[name] = fence
			}
			return nil
		})
		if err != nil || len(fences) == len(names) {
			return err // what was taken is given back by the caller: the commit may have happened
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(d.w.Poll):
		}
		// What is held already must not run out meanwhile.
		if err := d.renewOnce(ctx, names, fences); err != nil {
			return err
		}
	}
}

// renew keeps the leases until ctx ends. cancel is called when one is lost: what
// is published after that may be out of date.
func (d *drive) renew(ctx context.Context, cancel func(), names []string, fences map[string]int64) {
	t := time.NewTicker(d.w.Lease / 3)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if err := d.renewOnce(ctx, names, fences); errors.Is(err, signing.Conflict) {
			cancel()
			return
		}
	}
}

func (d *drive) renewOnce(ctx context.Context, names []string, fences map[string]int64) error {
	if len(fences) == 0 {
		return nil
	}
	return d.w.Store.Update(ctx, "renew", func(tx *store.Tx) error {
		for _, name := range names {
			if fence := fences[name]; fence > 0 {
				if err := tx.RenewLease(name, d.w.Owner, fence, d.w.Lease); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// releaseAll is releaseLease for many, in one commit.
func (d *drive) releaseAll(ctx context.Context, fences map[string]int64) {
	if len(fences) == 0 {
		return
	}
	err := d.w.Store.Update(context.WithoutCancel(ctx), "release", func(tx *store.Tx) error {
		for name, fence := range fences {
			if err := tx.ReleaseLease(name, d.w.Owner, fence); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		d.log.Warn("releasing leases; they will run out", "error", err)
	}
}
