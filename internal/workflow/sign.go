package workflow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

// signBatch is how many Tasks share the commits around the use of the key. One
// commit announces their attempts, one stores their envelopes.
const signBatch = 64

// sign works on the Tasks of a Request in state signing: it prepares all of
// them before the first key is used, then signs, then publishes. It returns an
// error when something has to be tried again later.
func (d *drive) sign(ctx context.Context) error {
	if d.over() {
		return d.conclude(ctx)
	}
	ctx, release, err := d.holdTogether(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := d.requeue(ctx); err != nil {
		return err
	}
	defer func() { d.giveBack(ctx, d.leased...); d.leased = nil }()
	var found map[string]method.Prepared
	err = d.timed("prepare", func() (err error) { found, err = d.capture(ctx); return err })
	if err != nil {
		return err
	}
	var later error // a key that cannot be reached does not hold up what is signed
	if len(found) > 0 || d.has(signing.Prepared) {
		later = d.timed("key", func() error { return d.useKeys(ctx, found) })
		if later != nil && !signing.Temporary(later) {
			return later
		}
	}
	if d.request.Publish == signing.ByService {
		if err := d.timed("publish", func() error { return d.publish(ctx) }); err != nil {
			return err
		}
	}
	if later != nil {
		return later
	}
	if d.request.Publish == signing.ByClient && d.has(signing.Signed) {
		return errClient
	}
	return d.conclude(ctx)
}

func (d *drive) has(s signing.TaskState) bool {
	return slices.ContainsFunc(d.tasks, func(t *signing.Task) bool { return t.State == s })
}

// over reports whether no Task is left to be worked on.
func (d *drive) over() bool {
	return !slices.ContainsFunc(d.tasks, func(t *signing.Task) bool { return !t.State.Done() })
}

// stopped says why no key may be used for this Request any more, nil if it may.
func (d *drive) stopped() *signing.Error {
	switch {
	case d.request.CancelRequested:
		return &signing.Error{Code: signing.Denied, Message: "the request was canceled while it was being signed", Fix: "submit again"}
	case d.late():
		return &signing.Error{Code: signing.Expired, Message: "the deadline passed while the request was being signed", Expected: "published by " + d.request.Deadline.UTC().Format(time.RFC3339), Fix: "submit again when the registry can be reached"}
	}
	return nil
}

// requeue throws away intents that no key was asked to sign for a long time,
// and fails what may not be signed any more.
func (d *drive) requeue(ctx context.Context) error {
	stop := d.stopped()
	for _, t := range d.tasks {
		var err error
		switch {
		// What is signed is published even after the deadline was reached
		// once; a canceled or late Task without an envelope ends here.
		case stop != nil && (t.State == signing.Queued || t.State == signing.Prepared):
			err = d.failTask(ctx, t, stop)
		case stop != nil && t.State == signing.Signed && stop.Code == signing.Expired && t.Tries > 0:
			err = d.failTask(ctx, t, stop)
		case stop != nil && t.State == signing.Signed && d.request.Publish == signing.ByClient:
			// Nobody is left who would publish it.
			err = d.failTask(ctx, t, stop)
		case t.State == signing.Prepared && t.Attempts == 0 && d.w.Now().Sub(t.Intent.Created) > requeueAfter:
			t.Intent = nil
			err = d.moveTask(ctx, "requeue", t, signing.Queued, audit.Event{Kind: audit.TaskRequeued, Attrs: map[string]string{"why": "unattempted"}})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *drive) moveTask(ctx context.Context, name string, t *signing.Task, to signing.TaskState, ev audit.Event) error {
	return d.update(ctx, name, func(tx *store.Tx) error { return d.changeTask(tx, t, to, ev) })
}

func (d *drive) changeTask(tx *store.Tx, t *signing.Task, to signing.TaskState, ev audit.Event) error {
	ev.Time, ev.Request, ev.Task = tx.Now(), t.RequestID, t.ID
	return tx.Transition(store.Change{Task: t, To: string(to), Events: []audit.Event{ev}, Fence: d.claim})
}

func (d *drive) failTask(ctx context.Context, t *signing.Task, cause error) error {
	t.Failure = signing.Public(cause)
	return d.moveTask(ctx, "fail task", t, signing.TaskFailed, audit.Event{Kind: audit.TaskFailed, Attrs: audit.Failed(t)})
}

func (d *drive) target(t *signing.Task) (method.Method, method.Target, error) {
	m, ok := d.w.Methods[t.Step.Method]
	info, have := d.w.Keys.Info(t.Step.Key)
	if !ok || !have {
		return nil, method.Target{}, &signing.Error{Code: signing.Denied, Message: "method or key are not configured any more", Found: t.Step.Method + " with " + t.Step.Key}
	}
	return m, method.Target{Artifact: t.Artifact, Key: info, Options: t.Step.Options, Origin: d.request.Origin, Offline: d.request.Publish == signing.ByClient, Part: t.Part, Changes: t.Changes}, nil
}

// capture takes the exact bytes of every queued Task, by its id. What only Prepare
// can see refuses the whole Request: nothing is signed before everything is
// prepared.
func (d *drive) capture(ctx context.Context) (map[string]method.Prepared, error) {
	var queued []*signing.Task
	for _, t := range d.tasks {
		if t.State == signing.Queued {
			queued = append(queued, t)
		}
	}
	found := make([]method.Prepared, len(queued))
	errs := make([]error, len(queued))
	g := new(errgroup.Group)
	g.SetLimit(TaskConcurrency)
	for i, t := range queued {
		g.Go(func() error {
			m, target, err := d.target(t)
			if err == nil {
				found[i], err = m.Prepare(ctx, target, d.w.Now())
			}
			errs[i] = err
			return nil
		})
	}
	_ = g.Wait() // the functions return nil; errors are in errs
	for i, err := range errs {
		if err == nil {
			continue
		}
		err = fmt.Errorf("preparing %s: %w", queued[i].ID, err)
		if signing.Temporary(err) || signing.CodeOf(err) == signing.Internal {
			return nil, err
		}
		return nil, d.failAll(ctx, err)
	}
	out := make(map[string]method.Prepared, len(queued))
	for i, t := range queued {
		out[t.ID] = found[i]
	}
	return out, nil
}

// keep stores what was captured: from the commit on, the bytes that the key will
// be asked to sign are durable.
func (d *drive) keep(tx *store.Tx, found map[string]method.Prepared) error {
	if len(found) == 0 {
		return nil
	}
	for _, t := range d.tasks {
		p, ok := found[t.ID]
		if !ok {
			continue
		}
		to, ev := signing.Prepared, audit.Event{Kind: audit.TaskPrepared}
		if len(p.Recognised) > 0 {
			t.Recognised, t.Locations = true, p.Recognised
			to, ev = signing.Published, audit.Event{Kind: audit.TaskRecognised, Attrs: audit.Located(t)}
		} else {
			t.Intent, t.Failure, t.Tries = p.Intent, nil, 0
			ev.Attrs = audit.Prepared(t)
		}
		if err := d.changeTask(tx, t, to, ev); err != nil {
			return err
		}
	}
	return nil
}

// failAll ends every Task that is not yet signed.
func (d *drive) failAll(ctx context.Context, cause error) error {
	err := d.update(ctx, "refuse", func(tx *store.Tx) error {
		for _, t := range d.tasks {
			if t.State != signing.Queued && t.State != signing.Prepared {
				continue
			}
			if t.State == signing.Queued {
				t.Intent = nil // captured and never kept: no event tells of it
			}
			t.Failure = signing.Public(cause)
			if err := d.changeTask(tx, t, signing.TaskFailed, audit.Event{Kind: audit.TaskFailed, Attrs: audit.Failed(t)}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	d.log.Warn("no key is used for this request", "error", cause)
	return nil
}

// useKeys signs what is prepared, and what was found to be signed. It is the only
// way to a key.
func (d *drive) useKeys(ctx context.Context, found map[string]method.Prepared) error {
	c, err := d.recheck(ctx)
	var refused *refusedError
	if errors.As(err, &refused) {
		return d.failAll(ctx, denial([]signing.Reason{refused.reason}))
	}
	if err != nil {
		return err
	}
	var todo []*signing.Task
	for _, t := range d.tasks {
		if p := found[t.ID]; p.Intent != nil {
			t.Intent = p.Intent
			todo = append(todo, t)
		} else if t.State == signing.Prepared {
			todo = append(todo, t)
		}
	}
	if len(todo) == 0 { // all were recognised
		return d.update(ctx, "prepare", func(tx *store.Tx) error {
			if err := d.keep(tx, found); err != nil {
				return err
			}
			return d.end(tx)
		})
	}
	var later error
	for batch := range slices.Chunk(todo, signBatch) {
		if err := d.signTasks(ctx, c, batch, found); err != nil {
			if !signing.Temporary(err) {
				return err
			}
			later = err
		}
		found = nil // it is durable now, or an error has ended this
	}
	return later
}

// signTasks uses keys for Tasks that c clears.
func (d *drive) signTasks(ctx context.Context, c *clearance, tasks []*signing.Task, found map[string]method.Prepared) error {
	for _, t := range tasks {
		err := d.clear(ctx, c, t)
		if signing.Temporary(err) {
			return err // what a method remembers could not be read: no answer is not a no
		}
		if err != nil {
			return d.failAll(ctx, err)
		}
	}
	name := "attempt"
	if len(found) > 0 {
		name = "prepare"
	}
	// Commit point: the exact bytes of all Tasks are durable, and from here on each
	// key may have been used once more than its result is known. A cancel that is
	// committed first wins.
	err := d.update(ctx, name, func(tx *store.Tx) error {
		if err := current(tx, d.conf); err != nil {
			return err
		}
		if err := tx.CheckRequest(d.request); err != nil {
			return err
		}
		if err := d.keep(tx, found); err != nil {
			return err
		}
		for _, t := range tasks {
			ev := audit.Event{Time: tx.Now(), Kind: audit.KeyAttempt, Request: t.RequestID, Task: t.ID, Attrs: audit.Attempted(t, t.Attempts+1)}
			if err := tx.Attempt(t, d.claim, ev); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	envelopes := make([]*signing.Envelope, len(tasks))
	errs := make([]error, len(tasks))
	g := new(errgroup.Group)
	g.SetLimit(TaskConcurrency)
	for i, t := range tasks {
		g.Go(func() error {
			envelopes[i], errs[i] = d.envelope(ctx, t)
			return nil
		})
	}
	_ = g.Wait() // the functions return nil; errors are in errs
	early := d.early(tasks)
	// Commit point: from here on these are the envelopes of their intents, and
	// no other leaves the service. Who can publish at once has the lease already.
	err = d.update(ctx, "signed", func(tx *store.Tx) error {
		if err := d.takeLeases(tx, early); err != nil {
			return err
		}
		for i, t := range tasks {
			if errs[i] != nil {
				continue
			}
			t.Envelope, t.Failure, t.Tries = envelopes[i], nil, 0
			if err := d.changeTask(tx, t, signing.Signed, audit.Event{Kind: audit.TaskSigned, Attrs: audit.Signed(t)}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, e := range errs {
		if e == nil {
			continue
		}
		if signing.Temporary(e) {
			return fmt.Errorf("signing %s: %w", tasks[i].ID, e)
		}
		if err := d.failTask(ctx, tasks[i], e); err != nil {
			return err
		}
	}
	return nil
}

// clear takes the Task's part of the clearance, and reads the stored bytes
// back: they must say exactly what was decided.
func (d *drive) clear(ctx context.Context, c *clearance, t *signing.Task) error {
	if err := c.spend(t); err != nil {
		return err
	}
	m, _, err := d.target(t)
	if err != nil {
		return err
	}
	if t.Intent == nil {
		return &signing.Error{Code: signing.Denied, Message: "the task has no bytes to be signed", Found: t.ID}
	}
	said, err := m.Inspect(*t.Intent)
	if err != nil {
		return err
	}
	if err := said.MatchesTask(t); err != nil || d.request.Renewal == nil {
		return err
	}
	return d.tracedIntent(ctx, m, *t.Intent)
}

// envelope asks the key, once, and assembles what it returns.
func (d *drive) envelope(ctx context.Context, t *signing.Task) (*signing.Envelope, error) {
	m, target, err := d.target(t)
	if err != nil {
		return nil, err
	}
	raw, err := d.w.Keys.Sign(ctx, t.Step.Key, *t.Intent)
	if err != nil {
		if ctx.Err() != nil || signing.CodeOf(err) == signing.Internal {
			return nil, &signing.Error{Code: signing.Unavailable, Message: "the key could not be used", Found: t.Step.Key, Err: err}
		}
		return nil, err
	}
	e, err := m.Assemble(target, *t.Intent, raw)
	if err != nil {
		return nil, err
	}
	return &e, nil
}

// conclude ends the Request when every Task is done.
func (d *drive) conclude(ctx context.Context) error {
	if d.request.State.Terminal() {
		return errFinished // with the last of its Tasks
	}
	if !d.over() {
		return nil // run steps again
	}
	return done(d.update(ctx, "conclude", d.end))
}

// end ends the Request in the commit of what was left to do, if nothing is.
func (d *drive) end(tx *store.Tx) error {
	if !d.over() {
		return nil
	}
	to, ev := signing.Completed, audit.Event{Kind: audit.RequestCompleted}
	for _, t := range d.tasks {
		if t.State == signing.TaskFailed {
			to, ev.Kind = signing.Failed, audit.RequestFailed
			if d.request.Failure = t.Failure; t.Failure == nil {
				d.request.Failure = &signing.Error{Code: signing.Internal, Message: "a task failed"}
			}
			break
		}
	}
	if to == signing.Completed {
		d.request.Failure = nil
	}
	return d.move(tx, to, ev)
}
