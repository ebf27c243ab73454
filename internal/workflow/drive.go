package workflow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

// drive carries one Request as far as it can, under one claim of its job. It
// is used by one goroutine; only the work on Tasks fans out.
type drive struct {
	w     *Workflow
	claim *store.Claim
	log   *slog.Logger

	conf    *generation      // by which the present step is taken
	request *signing.Request // as last read from or written to the store
	tasks   []*signing.Task
	fresh   bool           // request and tasks are what this drive read or wrote last
	asked   answers        // of the forge, in this drive
	leased  []*publication // whose leases came with the envelopes, and which have not begun
	// together has the fences of the leases on repositories whose tags are signed
	// together, by name, while sign holds them.
	together map[string]int64
}

// run takes step after step until the Request is finished, must wait, or the
// process ends. What it cannot finish stays a job.
func (d *drive) run(ctx context.Context) {
	conflicts := 0
	for ctx.Err() == nil {
		err := d.step(ctx)
		if err != nil {
			// What was prepared for a write that did not happen is not what is stored.
			d.fresh = false
		}
		switch {
		case errors.Is(err, errFinished):
			return
		case errors.Is(err, errContent):
			d.rest(ctx, d.w.Now().Add(contentWait))
			return
		case errors.Is(err, errClient):
			d.rest(ctx, d.request.Deadline)
			return
		case err == nil:
			continue
		case ctx.Err() != nil:
			return // the lease runs out and another worker takes over
		case errors.Is(err, store.ErrTampered):
			d.refuseTampered(ctx, err)
			return
		case errors.Is(err, signing.Conflict) && conflicts < maxConflicts:
			// The row moved under us (a cancel), or the claim is lost; reading
			// again tells which.
			conflicts++
			if d.lost(ctx) {
				return
			}
		case d.conf != d.w.inForce.Load():
			// Other policies came into force meanwhile: again, by those.
		default:
			d.wait(ctx, err)
			return
		}
	}
}

// maxConflicts bounds how often one drive may find its rows moved. A cancel
// moves them once; what conflicts again and again must not keep a key busy.
const maxConflicts = 8

// errFinished says that nothing is left to do under this claim.
var errFinished = errors.New("finished")

// step takes the one step that the state of the Request asks for. The rows are
// read once, and again after anything failed; in between they are what this
// drive wrote. A cancel, which others write, is a Conflict of the next write that
// it must stop, or is found there (attempt).
func (d *drive) step(ctx context.Context) error {
	d.conf = d.w.inForce.Load()
	if !d.fresh {
		if err := d.load(ctx); err != nil {
			return err
		}
	}
	switch d.request.State {
	case signing.Pending:
		if d.late() {
			return d.expire(ctx)
		}
		return d.timed("decide", func() error { return d.decide(ctx) })
	case signing.AwaitingApproval:
		return d.watch(ctx)
	case signing.Ready:
		if d.late() {
			return d.expire(ctx)
		}
		return d.timed("recheck", func() error { return d.begin(ctx) })
	case signing.Signing:
		return d.sign(ctx)
	default:
		// Over.
		return d.finish(ctx)
	}
}

func (d *drive) load(ctx context.Context) error {
	err := d.w.Store.View(ctx, func(tx *store.Tx) (err error) {
		if d.request, err = tx.Request(d.claim.Ref); err != nil {
			return err
		}
		d.tasks, err = tx.Tasks(d.claim.Ref)
		return err
	})
	if errors.Is(err, signing.NotFound) {
		// The job came with the row, and rows are never deleted.
		err = store.Tampered("requests", fmt.Sprintf("request %.40q", d.claim.Ref), "no such row")
	}
	if err == nil {
		err = d.complete()
	}
	d.fresh = err == nil
	return err
}

// complete makes sure that no Task at the end of the list is missing: each row is
// authentic by itself, and a Request with fewer of them would be over too early.
func (d *drive) complete() error {
	if d.request.State != signing.Ready && d.request.State != signing.Signing {
		return nil
	}
	want := 0
	if decided := d.request.Decision; decided != nil {
		want = len(decided.Basis.Tasks(d.request.ID))
	}
	if want == 0 || len(d.tasks) != want {
		return store.Tampered("tasks", "the list of tasks of request "+d.request.ID, fmt.Sprintf("%d tasks where %d were made", len(d.tasks), want))
	}
	return nil
}

func (d *drive) timed(step string, f func() error) error {
	started := time.Now()
	defer func() { d.w.Steps(step, time.Since(started)) }()
	return f()
}

func (d *drive) late() bool { return !d.w.Now().Before(d.request.Deadline) }

// update is one durable step under the claim: nothing is written when another
// worker has taken over. A new state of the Request is told at once; the
// progress of its Tasks is seen by those who poll.
func (d *drive) update(ctx context.Context, name string, f func(tx *store.Tx) error) error {
	before := d.request.State
	err := d.w.Store.Update(ctx, name, func(tx *store.Tx) error {
		if err := tx.CheckClaim(d.claim); err != nil {
			return err
		}
		return f(tx)
	})
	if err == nil && d.request.State != before {
		d.w.tell(d.claim.Ref, copied(d.request, d.tasks))
	}
	return err
}

// move changes the state of the Request, with its event. Terminal states end
// the job in the same commit.
func (d *drive) move(tx *store.Tx, to signing.RequestState, ev audit.Event, tasks ...*signing.Task) error {
	ev.Time, ev.Request = tx.Now(), d.request.ID
	if to.Terminal() {
		d.request.Ended = tx.Now()
		if ev.Attrs == nil {
			ev.Attrs = map[string]string{}
		}
		audit.Failure(ev.Attrs, d.request.Failure)
	}
	if err := tx.Transition(store.Change{Request: d.request, To: string(to), Events: []audit.Event{ev}, NewTasks: tasks, Fence: d.claim}); err != nil {
		return err
	}
	if !to.Terminal() {
		return nil
	}
	if d.request.Asking != nil {
		if err := tx.Enqueue(store.Job{Kind: jobAsk, Ref: d.request.ID}); err != nil {
			return err
		}
	}
	return tx.Finish(d.claim)
}

func (d *drive) finish(ctx context.Context) error {
	if err := d.w.Store.Update(ctx, "finish", func(tx *store.Tx) error { return tx.Finish(d.claim) }); err != nil {
		return err
	}
	return errFinished
}

func (d *drive) expire(ctx context.Context) error {
	if d.request.Failure == nil && d.request.State == signing.Pending && d.request.Publish == signing.ByClient {
		d.request.Failure = &signing.Error{Code: signing.Expired, Message: "the job did not upload what is to be signed before the deadline", Expected: "manifests and image configurations by PUT .../content/DIGEST", Fix: "submit again, with a client that uploads them"}
	}
	if d.request.Failure == nil {
		d.request.Failure = &signing.Error{Code: signing.Expired, Message: "the deadline passed before the request could be signed", Expected: "a decision by " + d.request.Deadline.UTC().Format(time.RFC3339), Fix: "submit again"}
	}
	err := d.update(ctx, "expire", func(tx *store.Tx) error {
		return d.move(tx, signing.RequestExpired, audit.Event{Kind: audit.RequestExpired})
	})
	return done(err)
}

// done turns success into errFinished.
func done(err error) error {
	if err == nil {
		return errFinished
	}
	return err
}

// lost reports whether the claim is no longer ours.
func (d *drive) lost(ctx context.Context) bool {
	err := d.w.Store.View(ctx, func(tx *store.Tx) error { return tx.CheckClaim(d.claim) })
	return err != nil
}

// wait gives the job back to be tried again, the later the more often it
// failed, but not after the deadline. The error is shown to those who wait.
func (d *drive) wait(ctx context.Context, cause error) {
	pause := d.w.backoff(d.claim.Tries)
	var e *signing.Error
	if errors.As(cause, &e) && e.RetryAfter > 0 {
		pause = min(max(pause, e.RetryAfter), backoffMax)
	}
	at := d.w.Now().Add(pause)
	if d.request != nil && at.After(d.request.Deadline) {
		at = d.request.Deadline
	}
	d.log.Warn("request has to wait", "error", cause, "until", at)
	if d.load(ctx) == nil && d.note(cause) {
		// The reason is for those who wait; that it could not be stored, or that
		// the Request has moved, changes nothing.
		if err := d.update(ctx, "note", func(tx *store.Tx) error { return tx.SaveRequest(d.request) }); err != nil && ctx.Err() == nil {
			d.log.Info("storing why a request waits", "error", err)
		}
	}
	err := d.w.Store.Update(ctx, "wait", func(tx *store.Tx) error { return tx.Release(d.claim, at) })
	if err != nil && ctx.Err() == nil {
		d.log.Error("giving a job back; its lease will run out", "error", err)
	}
	d.w.tell(d.claim.Ref, nil)
	// The dispatcher looks for due jobs every poll; a shorter wait than that
	// is not worth a timer of its own.
}

// note records why the Request waits, and reports whether that is news.
func (d *drive) note(cause error) bool {
	public := signing.Public(cause)
	if d.request.State.Terminal() || (d.request.Failure != nil && d.request.Failure.Message == public.Message && d.request.Failure.Found == public.Found) {
		return false
	}
	d.request.Failure = public
	return true
}

func (w *Workflow) backoff(tries int) time.Duration {
	pause := w.Poll
	for range min(tries, 10) {
		pause *= 2
	}
	return min(pause, backoffMax)
}

// refuseTampered ends the work on a Request whose rows were altered. The rows
// stay as they are for examination; without a job nothing is signed for them.
// Where what was altered belongs to no Request, all Requests wait for it to be
// put right.
func (d *drive) refuseTampered(ctx context.Context, cause error) {
	table := store.AlteredTable(cause)
	if table == "generation" {
		d.w.alarm(ctx, table, cause)
		d.wait(ctx, &signing.Error{Code: signing.Unavailable, Message: "the configuration recorded in the database was altered; nothing is decided or signed", Fix: "the operator of the service has to look at its log"})
		return
	}
	d.log.Error("rows of this request were altered in the database; it is not worked on any more", "error", cause)
	ev := audit.Event{Kind: audit.TamperDetected, Attrs: map[string]string{"table": table}}
	if signing.ValidRequestID(d.claim.Ref) { // else the job itself is a forgery
		ev.Request = d.claim.Ref
	}
	err := d.w.Store.Update(ctx, "tampered", func(tx *store.Tx) error {
		ev.Time = tx.Now()
		if err := tx.Append(ev); err != nil {
			return err
		}
		return tx.Finish(d.claim)
	})
	if err != nil && ctx.Err() == nil {
		d.log.Error("recording that rows were altered", "error", err)
	}
	d.w.tell(d.claim.Ref, nil)
}

// alarm records, once for each table and process, that a row of no Request was
// altered.
func (w *Workflow) alarm(ctx context.Context, table string, cause error) {
	w.mu.Lock()
	first := !w.alarmed[table]
	w.alarmed[table] = true
	w.mu.Unlock()
	if !first {
		return
	}
	w.Log.Error("rows were altered in the database", "table", table, "error", cause)
	err := w.Store.Update(ctx, "alarm", func(tx *store.Tx) error {
		return tx.Append(audit.Event{Time: tx.Now(), Kind: audit.TamperDetected, Attrs: map[string]string{"table": table}})
	})
	if err != nil && ctx.Err() == nil {
		w.Log.Error("recording that rows were altered", "error", err)
	}
}

// refusal shapes an error found outside the policy as a reason.
func refusal(rule string, err error) signing.Reason {
	p := signing.Public(err)
	found := p.Message
	if p.Found != "" {
		found = fmt.Sprintf("%s: %s", p.Message, p.Found)
	}
	return signing.Reason{Rule: rule, Wanted: p.Expected, Found: found, Fix: p.Fix}
}
