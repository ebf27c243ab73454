package workflow

import (
	"context"
	"errors"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

// Snapshot is a Request with its Tasks as they stood at one moment.
type Snapshot struct {
	Request *signing.Request
	Tasks   []*signing.Task
	// Checkpoint is the newest signed checkpoint of the audit log, empty
	// before the first.
	Checkpoint string
}

// Version grows with every change of the Request or one of its Tasks.
func (s Snapshot) Version() int64 {
	v := s.Request.Version
	for _, t := range s.Tasks {
		v += t.Version
	}
	return v
}

// Read returns the Request to the holder of its capability. Errors: NotFound
// for an unknown Request and for a wrong capability alike; Expired for a
// capability used long after the deadline.
func (w *Workflow) Read(ctx context.Context, requestID, capability string) (Snapshot, error) {
	var s Snapshot
	err := w.Store.View(ctx, func(tx *store.Tx) (err error) {
		if err = allowed(tx, requestID, capability); err != nil {
			return err
		}
		s, err = snapshot(tx, requestID)
		return err
	})
	if err != nil {
		return Snapshot{}, err
	}
	return s, w.outlived(s.Request)
}

// outlived refuses a capability that is used long after the deadline: the job may
// come back for the result of what it asked for; after that it is dead.
func (w *Workflow) outlived(r *signing.Request) error {
	if w.Now().After(r.Deadline.Add(capabilityGrace)) {
		return &signing.Error{Code: signing.Expired, Message: "this capability has expired", Expected: "use before " + r.Deadline.Add(capabilityGrace).UTC().Format(time.RFC3339), Fix: "ask with a token that may read requests"}
	}
	return nil
}

// ReadAs returns the Request to a person who may read every one, or who submitted
// it. Errors: Denied for any other, whether there is such a Request or not; NotFound.
func (w *Workflow) ReadAs(ctx context.Context, requestID string, who signing.Identity) (s Snapshot, err error) {
	err = w.Store.View(ctx, func(tx *store.Tx) (err error) {
		s, err = snapshot(tx, requestID)
		return err
	})
	// A row that nobody vouches for makes nobody its owner, and is not told of.
	if refusal := reader(who); refusal != nil && !signing.Temporary(err) && (err != nil || !samePerson(who, s.Request.Identity)) {
		return Snapshot{}, refusal
	}
	return s, err
}

// List returns a page of the Requests that f matches, as store.Tx.List does, to a
// person who may read every one.
func (w *Workflow) List(ctx context.Context, who signing.Identity, f store.Filter, before int64, n int) (out []*signing.Request, next int64, err error) {
	if err := reader(who); err != nil {
		return nil, 0, err
	}
	err = w.Store.View(ctx, func(tx *store.Tx) (err error) {
		out, next, err = tx.List(f, before, n)
		return err
	})
	return out, next, err
}

func reader(who signing.Identity) error {
	if who.Has(signing.Auditor, signing.Admin) {
		return nil
	}
	return &signing.Error{Code: signing.Denied, Message: "only auditors and admins may read the requests of others", Expected: "a person with the role auditor or admin", Found: "neither", Fix: "ask the operator of this service for the role"}
}

// samePerson reports whether two tokens are of one person: of one subject of one issuer
// of people.
func samePerson(a, b signing.Identity) bool {
	return a.Role == signing.RolePeople && b.Role == signing.RolePeople && a.Issuer == b.Issuer && a.Subject == b.Subject && a.Subject != ""
}

// capabilityGrace is how long after its deadline a Request can still be read
// by the job that submitted it: the last long poll, and its retries.
const capabilityGrace = 10 * time.Minute

func snapshot(tx *store.Tx, requestID string) (s Snapshot, err error) {
	if s.Request, err = tx.Request(requestID); err != nil {
		return s, err
	}
	if s.Tasks, err = tx.Tasks(requestID); err != nil {
		return s, err
	}
	note, _, err := tx.Checkpoint()
	if err != nil && !errors.Is(err, signing.NotFound) {
		return s, err
	}
	s.Checkpoint = string(note)
	return s, nil
}

// Wait returns the Request when it is over, when its version has not been the
// given one for a moment (settle; 0 is never the version, so that it is answered
// at once), or when most has passed. The capability is checked once.
func (w *Workflow) Wait(ctx context.Context, requestID, capability string, version int64, most time.Duration) (Snapshot, error) {
	hash := hashCapability(capability)
	return w.until(ctx, requestID, version, most, waiter{
		known: func(l *live) bool { return w.holds(l, hash) },
		read:  func(ctx context.Context) (Snapshot, error) { return w.Read(ctx, requestID, capability) },
		still: w.outlived,
	})
}

// WaitAs is Wait for a person who may read the Request, as ReadAs says.
func (w *Workflow) WaitAs(ctx context.Context, requestID string, who signing.Identity, version int64, most time.Duration) (Snapshot, error) {
	return w.until(ctx, requestID, version, most, waiter{
		known: func(*live) bool { return false }, // as ReadAs decides, once
		read:  func(ctx context.Context) (Snapshot, error) { return w.ReadAs(ctx, requestID, who) },
		still: func(*signing.Request) error { return nil },
	})
}

// waiter is somebody who waits for news of a Request.
type waiter struct {
	known func(*live) bool                        // may have what is in memory, before read was asked
	read  func(context.Context) (Snapshot, error) // decides, and reads
	still func(*signing.Request) error            // may go on having what is in memory
}

func (w *Workflow) until(ctx context.Context, requestID string, version int64, most time.Duration, by waiter) (Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	l, leave := w.attend(requestID)
	defer leave()
	poll := time.NewTicker(w.Poll)
	defer poll.Stop()
	settled, enough := version == 0, (<-chan time.Time)(nil)
	for ask, mine := false, by.known(l); ; {
		changed := w.next(l)
		s, have := w.known(l, version)
		var err error
		if ask || !mine || !have {
			// The answer is due even when the time is up.
			s, err = by.read(context.WithoutCancel(ctx))
		} else {
			err = by.still(s.Request)
		}
		if err != nil || s.due(version, settled) || ctx.Err() != nil {
			return s, err
		}
		if s.Version() != version && enough == nil {
			enough = time.After(settle)
		}
		ask, mine = false, true
		for again := true; again; {
			again = false
			select {
			case <-changed:
			case <-enough:
				settled = true
			case <-poll.C:
				ask = w.elsewhere(context.WithoutCancel(ctx), requestID, s.Version())
				again = !ask && by.still(s.Request) == nil
			case <-ctx.Done():
			}
		}
	}
}

// elsewhere reports whether a Request may have been changed by another process
// since the given version. It reads numbers alone, since a thousand who wait ask it
// every Poll.
func (w *Workflow) elsewhere(ctx context.Context, requestID string, version int64) bool {
	var now int64
	err := w.Store.View(ctx, func(tx *store.Tx) (err error) {
		now, err = tx.Versions(requestID)
		return err
	})
	return err != nil || now != version // whoever reads the whole says what is wrong
}

// Cancel withdraws a Request on behalf of the run that submitted it, proved by
// a fresh token, or of an admin. Before signing it is canceled at once; while it is being
// signed no further key is used and the rest fails.
//
// Errors: NotFound for a Request of another run; Conflict if it is over.
func (w *Workflow) Cancel(ctx context.Context, requestID string, id signing.Identity, origin signing.Origin) (Snapshot, error) {
	var s Snapshot
	err := w.Store.Update(ctx, "cancel", func(tx *store.Tx) (err error) {
		r, err := tx.Request(requestID)
		if err != nil && !errors.Is(err, signing.NotFound) {
			return err
		}
		admin := id.Has(signing.Admin)
		if admin && err != nil {
			return err // who may read all may know what there is not
		}
		// An unknown Request and another run's look the same.
		if err != nil || !admin && (id.Role != signing.RoleCI || scope(r.Identity, r.Origin) != scope(id, origin)) {
			return &signing.Error{Code: signing.NotFound, Message: "this run has no such request", Fix: "cancel from the run and attempt that submitted it"}
		}
		ev := audit.Event{Time: tx.Now(), Kind: audit.RequestCanceled, Request: r.ID, Attrs: map[string]string{}}
		audit.Origin(ev.Attrs, id, origin)
		switch {
		case r.State.CanBecome(signing.Canceled):
			r.Ended = tx.Now()
			r.Failure = &signing.Error{Code: signing.Denied, Message: "the run canceled this request"}
			if admin {
				r.Failure.Message = "an admin of this service canceled this request"
			}
			audit.Failure(ev.Attrs, r.Failure)
			var jobs []store.Job
			if r.Asking != nil {
				jobs = []store.Job{{Kind: jobAsk, Ref: r.ID}, {Kind: jobDrive, Ref: r.ID}}
			}
			err = tx.Transition(store.Change{Request: r, To: string(signing.Canceled), Events: []audit.Event{ev}, Jobs: jobs})
		case r.State == signing.Signing && !r.CancelRequested:
			r.CancelRequested = true
			ev.Kind = audit.CancelRequested
			if err = tx.SaveRequest(r); err == nil {
				err = tx.Append(ev)
			}
		case r.State == signing.Signing:
		default:
			return &signing.Error{Code: signing.Conflict, Message: "the request is over", Found: string(r.State), Fix: "nothing needs to be canceled"}
		}
		if err != nil {
			return err
		}
		// A job that waits for its next try learns of it at once.
		if !r.State.Terminal() {
			if err := tx.Enqueue(store.Job{Kind: jobDrive, Ref: r.ID}); err != nil {
				return err
			}
		}
		s, err = snapshot(tx, requestID)
		return err
	})
	if err != nil {
		return Snapshot{}, err
	}
	w.tell(requestID, &s)
	w.kick()
	w.asks.kick()
	return s, nil
}
