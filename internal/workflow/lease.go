package workflow

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

// publishLease is how long one publication may keep others from its digest:
// some ten requests to a registry, each with its own timeout and retries.
const publishLease = 2 * time.Minute

// publication is what is to be published on one digest, or of one repository whose
// tags are signed together, under one lease.
type publication struct {
	name  string // of the lease
	tasks []*signing.Task
	leave func() // ends the turn of this drive; nil without it
	fence int64  // of the lease; 0 without it
	// kept says that the drive has had turn and lease since before the bytes were
	// made, and gives them back itself.
	kept bool
}

// leaseOf names the right to publish what t signs.
func leaseOf(t *signing.Task) string {
	if t.Part != "" {
		return t.Step.Method + ":" + string(t.Artifact.Repository)
	}
	return leaseName(t.Artifact.Repository, t.Artifact.Digest)
}

// publications returns what is to be published of tasks, a digest or repository each.
func publications(tasks []*signing.Task) []*publication {
	var out []*publication
	at := map[string]*publication{}
	for _, t := range tasks {
		name := leaseOf(t)
		p := at[name]
		if p == nil {
			p = &publication{name: name}
			at[name], out = p, append(out, p)
		}
		p.tasks = append(p.tasks, t)
	}
	return out
}

// early returns the publications that can begin as soon as tasks are signed and
// whose turn it is, so that their leases come with the commit that stores the
// envelopes. A Request of many digests takes them as it gets there: a lease runs
// while it is not used.
func (d *drive) early(tasks []*signing.Task) []*publication {
	if d.request.Publish != signing.ByService || len(publications(d.tasks)) > TaskConcurrency {
		return nil
	}
	var out []*publication
	for _, p := range publications(tasks) {
		if _, held := d.together[p.name]; held {
			continue
		}
		if p.leave = d.w.tryTurn(p.name); p.leave != nil {
			out = append(out, p)
		}
	}
	d.leased = append(d.leased, out...)
	return out
}

// takeLeases takes the leases of those whose turn it is, as far as no other
// process holds them.
func (d *drive) takeLeases(tx *store.Tx, ps []*publication) error {
	for _, p := range ps {
		if p.leave == nil {
			continue
		}
		fence, err := tx.AcquireLease(p.name, d.w.Owner, publishLease)
		if errors.Is(err, signing.Conflict) {
			continue // acquire waits for it
		}
		if err != nil {
			return err
		}
		p.fence = fence
	}
	return nil
}

// take makes p the publication whose turn it is, with its lease.
func (d *drive) take(ctx context.Context, p *publication) (err error) {
	if p.kept {
		return nil
	}
	if p.leave == nil {
		if p.leave, err = d.w.turn(ctx, p.name); err != nil {
			return err
		}
	}
	if p.fence == 0 {
		p.fence, err = d.acquire(ctx, p.name)
	}
	return err
}

// giveBack ends the turns, and the leases, of publications that did not begin or
// whose end could not be stored: the next try must not wait for them to run out.
// A commit that seemed to fail may have taken a lease.
func (d *drive) giveBack(ctx context.Context, ps ...*publication) {
	for _, p := range ps {
		if p.kept {
			continue
		}
		if p.fence > 0 {
			d.releaseLease(ctx, p.name, p.fence)
			p.fence = 0
		}
		if p.leave != nil {
			p.leave()
			p.leave = nil
		}
	}
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
				fence = 0
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

// queue lets the drives of this process publish on one digest one after the
// other, so that they do not wait for each other's leases by polling.
type queue struct {
	turn chan struct{} // holds one token while somebody publishes
	n    int           // guarded by Workflow.mu; who holds or waits
}

// enter joins the queue of name. The caller leaves it, or takes its turn.
func (w *Workflow) enter(name string) (q *queue, leave func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	q, ok := w.digests[name]
	if !ok {
		q = &queue{turn: make(chan struct{}, 1)}
		w.digests[name] = q
	}
	q.n++
	return q, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if q.n--; q.n == 0 {
			delete(w.digests, name)
		}
	}
}

// turn waits until the caller may publish on name, and returns what ends it.
func (w *Workflow) turn(ctx context.Context, name string) (func(), error) {
	q, leave := w.enter(name)
	select {
	case q.turn <- struct{}{}:
		return sync.OnceFunc(func() { <-q.turn; leave() }), nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

// tryTurn is turn without waiting; nil if somebody else has it.
func (w *Workflow) tryTurn(name string) func() {
	q, leave := w.enter(name)
	select {
	case q.turn <- struct{}{}:
		return sync.OnceFunc(func() { <-q.turn; leave() })
	default:
		leave()
		return nil
	}
}
