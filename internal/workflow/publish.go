package workflow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

// outcome is how the publication of one Task went. It is made by the goroutine
// that published, which does not touch the Task; the drive records it.
type outcome struct {
	p         *publication
	task      *signing.Task
	stale     int // how often the base moved
	locations []signing.Location
	err       error
	last      bool // of its publication
}

// publish writes every signed Task's envelope to where verifiers look for it,
// and reads it back. Tasks fail or wait on their own; the error returned is one
// that is worth trying again. With the last Task the Request is concluded.
func (d *drive) publish(ctx context.Context) error {
	var signed []*signing.Task
	for _, t := range d.tasks {
		if t.State == signing.Signed {
			signed = append(signed, t)
		}
	}
	if len(signed) == 0 {
		return nil
	}
	todo := publications(signed)
	for _, p := range todo {
		if p.fence, p.kept = d.together[p.name]; p.kept {
			continue
		}
		if i := slices.IndexFunc(d.leased, func(l *publication) bool { return l.name == p.name }); i >= 0 {
			p.leave, p.fence = d.leased[i].leave, d.leased[i].fence
			d.leased = slices.Delete(d.leased, i, i+1)
		}
	}
	outcomes := make(chan outcome, TaskConcurrency)
	go d.attachEach(ctx, todo, outcomes)
	return d.record(ctx, outcomes, len(signed))
}

// attachEach publishes what is to be published, TaskConcurrency at once, and closes
// outcomes. Turns and leases are taken only of what begins at once: two Requests
// that hold what the other waits for would wait for ever.
func (d *drive) attachEach(ctx context.Context, todo []*publication, outcomes chan<- outcome) {
	defer close(outcomes)
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, TaskConcurrency)
	for len(todo) > 0 {
		slots <- struct{}{}
		free := 1
		for more := true; more && free < len(todo); {
			select {
			case slots <- struct{}{}:
				free++
			default:
				more = false
			}
		}
		d.ahead(ctx, todo[:free])
		for _, p := range todo[:free] {
			wg.Go(func() {
				defer func() { <-slots }()
				d.attachAll(ctx, p, outcomes)
			})
		}
		todo = todo[free:]
	}
}

// ahead takes the leases of publications that begin next, in one commit. It is
// only there to save commits: take finds what is missing.
func (d *drive) ahead(ctx context.Context, ps []*publication) {
	var mine []*publication
	for _, p := range ps {
		if p.leave == nil && p.fence == 0 && !p.kept {
			if p.leave = d.w.tryTurn(p.name); p.leave != nil {
				mine = append(mine, p)
			}
		}
	}
	if len(mine) == 0 {
		return
	}
	err := d.w.Store.Update(ctx, "lease", func(tx *store.Tx) error {
		if err := tx.CheckClaim(d.claim); err != nil {
			return err
		}
		return d.takeLeases(tx, mine)
	})
	if err != nil {
		d.giveBack(ctx, mine...)
	}
}

// attachAll publishes the envelopes of one digest, alone among all who do.
func (d *drive) attachAll(ctx context.Context, p *publication, outcomes chan<- outcome) {
	err := d.take(ctx, p)
	for i, t := range p.tasks {
		o := outcome{p: p, task: t, err: err, last: i == len(p.tasks)-1}
		if err == nil {
			o.locations, o.stale, o.err = d.attach(ctx, t)
		}
		outcomes <- o
	}
}

// attach publishes one envelope and verifies it through the public read path.
// Publishing again what is already there changes nothing, so a crash in between
// is made good by doing it all again.
func (d *drive) attach(ctx context.Context, t *signing.Task) (at []signing.Location, stale int, err error) {
	m, target, err := d.target(t)
	if err != nil {
		return nil, 0, err
	}
	for ; stale < maxStale; stale++ {
		if _, err = m.Publish(ctx, target, *t.Envelope); err == nil {
			at, err = m.Verify(ctx, target, *t.Envelope)
		}
		if errors.Is(err, method.ErrStaleBytes) && (t.Part == "" || t.Rounds >= maxRounds) {
			return nil, stale, &signing.Error{Code: signing.Denied, Message: "another writer keeps taking the version that was signed", Found: t.Artifact.String(), Fix: "find out who else signs in this repository, and submit again when they are done"}
		}
		if !errors.Is(err, method.ErrStaleBase) {
			return at, stale, err
		}
	}
	return nil, stale, &signing.Error{Code: signing.Unavailable, Message: "another writer keeps replacing the signatures of this digest", Found: t.Artifact.String(), Fix: "find out who else writes signatures to this repository"}
}

// record stores what comes in, as much at once as has come while the last commit
// was made. left is how many outcomes there will be. An error that ends the work
// does not keep it from taking what the others did.
func (d *drive) record(ctx context.Context, outcomes <-chan outcome, left int) error {
	var ended, later error
	for o := range outcomes {
		batch := []outcome{o}
		for more := true; more; {
			select {
			case o, ok := <-outcomes:
				if more = ok; ok {
					batch = append(batch, o)
				}
			default:
				more = false
			}
		}
		left -= len(batch)
		for _, o := range batch {
			switch {
			case o.err == nil, outOfDate(o):
			case gone(ctx, o.err):
				ended = o.err
			case passing(o.err):
				later = fmt.Errorf("publishing %s: %w", o.task.ID, o.err)
			default:
				d.log.Error("publishing failed", "task", o.task.ID, "error", o.err)
			}
		}
		if err := d.recordBatch(ctx, batch, left == 0 && ended == nil && later == nil); err != nil {
			ended = err
		}
		for _, o := range batch {
			if o.last {
				d.giveBack(ctx, o.p)
			}
		}
	}
	if ended != nil {
		return ended
	}
	return later
}

// outOfDate reports whether the Task has to begin anew, because another writer has
// taken the version that its bytes name.
func outOfDate(o outcome) bool {
	return errors.Is(o.err, method.ErrStaleBytes) && o.task.Part != "" && o.task.Rounds < maxRounds
}

// gone reports whether err means that this drive has nothing to say of the Task.
func gone(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, signing.Conflict)
}

// passing reports whether it is worth trying again after err.
func passing(err error) bool {
	return signing.Temporary(err) || signing.CodeOf(err) == signing.Internal
}

// recordBatch stores outcomes in one commit: from here on the signatures are known
// to be where verifiers look. With all, the Request may be over.
func (d *drive) recordBatch(ctx context.Context, batch []outcome, all bool) error {
	name := "try"
	if slices.ContainsFunc(batch, func(o outcome) bool { return o.err == nil }) {
		name = "published"
	}
	batch = slices.DeleteFunc(slices.Clone(batch), func(o outcome) bool { return o.err != nil && gone(ctx, o.err) })
	if len(batch) == 0 {
		return nil
	}
	err := d.update(ctx, name, func(tx *store.Tx) error {
		for _, o := range batch {
			if err := d.recordOne(tx, o); err != nil {
				return err
			}
		}
		if all {
			return d.end(tx)
		}
		return nil
	})
	if err == nil {
		for _, o := range batch {
			if o.last && !o.p.kept {
				o.p.fence = 0 // given back in the commit
			}
		}
	}
	return err
}

func (d *drive) recordOne(tx *store.Tx, o outcome) error {
	t := o.task
	for range o.stale {
		if err := d.changeTask(tx, t, signing.Signed, audit.Event{Kind: audit.TaskStaleBase}); err != nil {
			return err
		}
	}
	if o.err != nil && o.last && !o.p.kept {
		if err := tx.ReleaseLease(o.p.name, d.w.Owner, o.p.fence); err != nil {
			return err
		}
	}
	switch {
	case outOfDate(o):
		// From here on this envelope never leaves the service, and its bytes are
		// made anew.
		t.Intent, t.Envelope, t.Failure, t.Tries = nil, nil, nil, 0
		t.Rounds++
		return d.changeTask(tx, t, signing.Queued, audit.Event{Kind: audit.TaskRequeued, Attrs: map[string]string{"why": "stale_bytes"}})
	case o.err != nil && passing(o.err):
		t.Failure = signing.Public(o.err)
		t.Tries++
		return tx.SaveTask(t, d.claim)
	case o.err != nil:
		t.Failure = signing.Public(o.err)
		return d.changeTask(tx, t, signing.TaskFailed, audit.Event{Kind: audit.TaskFailed, Attrs: audit.Failed(t)})
	}
	t.Locations, t.Failure, t.Tries = o.locations, nil, 0
	check := tx.CheckLease
	if o.last && !o.p.kept {
		check = tx.EndLease
	}
	if err := check(o.p.name, d.w.Owner, o.p.fence); err != nil {
		return err
	}
	return d.changeTask(tx, t, signing.Published, audit.Event{Kind: audit.TaskPublished, Attrs: audit.Located(t)})
}
