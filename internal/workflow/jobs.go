package workflow

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

const (
	// jobLease is how long a job that speaks to a forge stays with its worker, and
	// jobTimeout what it may take: it is over, or given up, before the lease is.
	jobLease   = 2 * time.Minute
	jobTimeout = 90 * time.Second
	// forgeBackoffMax bounds the wait before such a job is tried again. A forge
	// that is down for a day is asked each quarter of an hour.
	forgeBackoffMax = 15 * time.Minute
)

// task is one job: it ends the job in its own last commit, or returns an error
// and is tried again.
type task func(ctx context.Context) error

// crew does the jobs of one kind, a bounded number at once, apart from the drives:
// a forge that is slow or down keeps nobody from signing.
type crew struct {
	w     *Workflow
	kind  string
	slots chan struct{}
	wake  chan struct{} // capacity 1
	// load reads what a batch of claims is about, together, and returns what is to
	// be done. A claim that it leaves out is given back at once.
	load func(ctx context.Context, claims []*store.Claim) (map[*store.Claim]task, error)
}

func newCrew(w *Workflow, kind string, most int, load func(context.Context, []*store.Claim) (map[*store.Claim]task, error)) *crew {
	return &crew{w: w, kind: kind, slots: make(chan struct{}, most), wake: make(chan struct{}, 1), load: load}
}

// kick tells the crew that a job may be due.
func (c *crew) kick() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// run claims due jobs as slots become free, until ctx ends.
func (c *crew) run(ctx context.Context) {
	timer := time.NewTicker(c.w.Poll)
	defer timer.Stop()
	said := ""
	for {
		err := c.claim(ctx)
		if err != nil && ctx.Err() == nil && err.Error() != said {
			c.w.Log.Error("claiming jobs", "kind", c.kind, "error", err)
		}
		said = fmt.Sprint(err)
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-timer.C:
		}
	}
}

func (c *crew) claim(ctx context.Context) error {
	for ctx.Err() == nil {
		free := cap(c.slots) - len(c.slots)
		if free == 0 {
			return nil // who finishes kicks
		}
		due := false
		err := c.w.Store.View(ctx, func(tx *store.Tx) error {
			at, ok, err := tx.NextDue(c.kind)
			due = ok && !at.After(tx.Now())
			return err
		})
		if err != nil || !due {
			return err
		}
		var claims []*store.Claim
		err = c.w.Store.Update(ctx, "claim", func(tx *store.Tx) (err error) {
			claims, err = tx.ClaimDue(c.kind, c.w.Owner, free, jobLease)
			return err
		})
		if err != nil || len(claims) == 0 {
			return err
		}
		for claim, do := range c.tasks(ctx, claims) {
			select {
			case c.slots <- struct{}{}:
				c.start(claim, do)
			case <-ctx.Done():
				return nil // the lease runs out
			}
		}
	}
	return nil
}

// tasks loads a batch. What cannot be loaded together is loaded one by one, so
// that one broken row keeps nothing else from being done.
func (c *crew) tasks(ctx context.Context, claims []*store.Claim) map[*store.Claim]task {
	loaded, err := c.load(ctx, claims)
	if err == nil {
		for _, claim := range claims {
			if loaded[claim] == nil {
				loaded[claim] = func(ctx context.Context) error { return c.giveBack(ctx, claim, c.w.Now()) }
			}
		}
		return loaded
	}
	if len(claims) == 1 {
		return map[*store.Claim]task{claims[0]: func(context.Context) error { return err }}
	}
	out := make(map[*store.Claim]task, len(claims))
	for _, claim := range claims {
		for one, do := range c.tasks(ctx, []*store.Claim{claim}) {
			out[one] = do
		}
	}
	return out
}

// seat takes a slot if one is free and the Workflow runs.
func (c *crew) seat() bool {
	c.w.mu.Lock()
	running := c.w.run != nil && !c.w.stopped
	c.w.mu.Unlock()
	if !running {
		return false
	}
	select {
	case c.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

// start does one job in the background; the caller holds its slot.
func (c *crew) start(claim *store.Claim, do task) {
	c.w.mu.Lock()
	ctx := c.w.run
	if c.w.stopped || ctx == nil {
		c.w.mu.Unlock()
		<-c.slots
		return // the lease runs out and another process takes over
	}
	c.w.drives.Add(1)
	c.w.mu.Unlock()
	go func() {
		defer c.w.drives.Done()
		defer func() {
			<-c.slots
			c.kick()
		}()
		c.do(ctx, claim, do)
	}()
}

// do runs do and gives the job back if it failed.
func (c *crew) do(ctx context.Context, claim *store.Claim, do task) {
	limited, cancel := context.WithTimeout(ctx, jobTimeout)
	defer cancel()
	err := guarded(limited, do)
	switch {
	case err == nil || ctx.Err() != nil:
		return
	case errors.Is(err, store.ErrTampered):
		table := store.AlteredTable(err)
		c.w.Log.Error("rows were altered in the database; the job is dropped", "kind", c.kind, "job", claim.Ref, "error", err)
		err = c.w.Store.Update(ctx, "tampered", func(tx *store.Tx) error {
			if err := tx.Append(audit.Event{Time: tx.Now(), Kind: audit.TamperDetected, Attrs: map[string]string{"table": table}}); err != nil {
				return err
			}
			return tx.Finish(claim)
		})
	default:
		at := c.w.Now().Add(forgePause(claim.Tries, err))
		c.w.Log.Warn("a job has to wait", "kind", c.kind, "job", claim.Ref, "tries", claim.Tries, "error", err, "until", at)
		err = c.giveBack(ctx, claim, at)
	}
	if err != nil && ctx.Err() == nil {
		c.w.Log.Error("giving a job back; its lease will run out", "kind", c.kind, "error", err)
	}
}

func (c *crew) giveBack(ctx context.Context, claim *store.Claim, at time.Time) error {
	return c.w.Store.Update(ctx, "wait", func(tx *store.Tx) error { return tx.Release(claim, at) })
}

// guarded runs do and turns a panic into its error.
func guarded(ctx context.Context, do task) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return do(ctx)
}

// forgePause is how long to wait before a job is tried again, the longer the more
// often it failed, and as long as the forge asks for.
func forgePause(tries int, cause error) time.Duration {
	pause := time.Second << min(max(tries-1, 0), 10)
	var e *signing.Error
	if errors.As(cause, &e) && e.RetryAfter > pause {
		pause = e.RetryAfter
	}
	return min(pause, forgeBackoffMax)
}
