package store

import (
	"fmt"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
)

// Change is one change of state. The struct that it names holds the row as it
// was loaded (State, Version) with the new content of its other fields.
type Change struct {
	Request *signing.Request // exactly one of Request and Task
	Task    *signing.Task
	To      string // the new state

	Events   []audit.Event   // at least one, about this Request or Task
	NewTasks []*signing.Task // of Request: queued, version 0
	Jobs     []Job
	// Fence, if set, must still hold: a worker that lost its claim changes nothing.
	Fence *Claim
}

// Transition changes the state of a Request or Task, and is the only function
// that does. In the transaction it writes the new content with its HMAC, if state
// and version are still those of the row, the events, new Tasks and jobs, and
// sets State and Version of the struct (and puts them back if the transaction is
// not committed). It returns Conflict if the claim was lost, or if the Task has
// another envelope for its intent; an illegal change is an error. That the row is
// not the one that was loaded any more is a Conflict, here or of the Update: rows
// are written when the closure returns, so that one that changes several times
// is written once. After an error of Transition, SaveRequest, SaveTask, Attempt
// or InsertRequest the transaction is lost.
func (tx *Tx) Transition(c Change) (err error) {
	defer tx.whole(&err)
	if (c.Request == nil) == (c.Task == nil) || c.Task != nil && len(c.NewTasks) > 0 {
		return fmt.Errorf("changing to %q: exactly one of request and task, and new tasks with a request only", c.To)
	}
	if c.Fence != nil {
		if err := tx.CheckClaim(c.Fence); err != nil {
			return err
		}
	}
	if r := c.Request; r != nil {
		to := signing.RequestState(c.To)
		if err := legal("request "+r.ID, string(r.State), c.To, r.State.CanBecome(to)); err != nil {
			return err
		}
		if err := about(c.Events, r.ID, ""); err != nil {
			return err
		}
		if err := tx.dropContents(r, to); err != nil {
			return err
		}
		if err := tx.putRequest(r, to); err != nil {
			return err
		}
		for _, t := range c.NewTasks {
			if err := tx.insertTask(r.ID, t); err != nil {
				return err
			}
		}
		if err := tx.indexTasks(r, c.NewTasks); err != nil {
			return err
		}
	}
	if t := c.Task; t != nil {
		to := signing.TaskState(c.To)
		if err := legal("task "+t.ID, string(t.State), c.To, t.State.CanBecome(to)); err != nil {
			return err
		}
		if err := about(c.Events, t.RequestID, t.ID); err != nil {
			return err
		}
		if err := tx.putTask(t, to, false); err != nil {
			return err
		}
		if to == signing.Published && t.Part != "" {
			if err := tx.recordEntries(t); err != nil {
				return err
			}
		}
	}
	return tx.follow(c.Events, c.Jobs)
}

func legal(what, from, to string, ok bool) error {
	if ok {
		return nil
	}
	return &signing.Error{Code: signing.Internal, Message: "illegal change of state of " + what, Expected: "a change of the table of states", Found: fmt.Sprintf("%s -> %.40q", from, to)}
}

// SaveRequest writes new content of a Request whose state stays, with the same
// comparison as Transition.
func (tx *Tx) SaveRequest(r *signing.Request, events ...audit.Event) (err error) {
	defer tx.whole(&err)
	if err := tx.putRequest(r, r.State); err != nil {
		return err
	}
	return tx.follow(events, nil)
}

// SaveTask is SaveRequest for a Task. The claim, if not nil, must still hold. The
// Intent cannot change: only Transition stores one.
func (tx *Tx) SaveTask(t *signing.Task, c *Claim, events ...audit.Event) (err error) {
	defer tx.whole(&err)
	if c != nil {
		if err := tx.CheckClaim(c); err != nil {
			return err
		}
	}
	if err := tx.putTask(t, t.State, true); err != nil {
		return err
	}
	return tx.follow(events, nil)
}

// Attempt records that the key is about to be used for a prepared Task: an
// attempt row, Attempts+1, and ev. The key may be asked once after the Update
// that it is in has returned nil, so that key uses never exceed attempts.
func (tx *Tx) Attempt(t *signing.Task, c *Claim, ev audit.Event) (err error) {
	defer tx.whole(&err)
	if t.State != signing.Prepared || c == nil {
		return fmt.Errorf("attempt for task %s in state %s: needs a prepared task and a claim", t.ID, t.State)
	}
	if err := tx.CheckClaim(c); err != nil {
		return err
	}
	if err := about([]audit.Event{ev}, t.RequestID, t.ID); err != nil {
		return err
	}
	intent, err := intentDigest(t.Intent)
	if err != nil {
		return err
	}
	a := Attempt{Task: t.ID, N: t.Attempts + 1, At: tx.now, Key: t.Step.Key, Intent: intent, Fence: c.Fence}
	next := *t
	next.Attempts = a.N
	if err := tx.putTask(&next, t.State, true); err != nil {
		return err
	}
	row := tx.changed[t.ID]
	row.attempts = append(row.attempts, a)
	if err := tx.follow([]audit.Event{ev}, nil); err != nil {
		return err
	}
	set(tx, &t.Attempts, next.Attempts)
	set(tx, &t.Version, next.Version)
	// From the commit of this transaction on, one use of the key is accounted for.
	return nil
}

// oneEnvelope refuses a second envelope for an intent, whatever the way here.
func (tx *Tx) oneEnvelope(t *signing.Task, intent string) error {
	if t.Envelope == nil || intent == "" {
		return nil
	}
	envelope, err := digestOf(t.Envelope)
	if err != nil {
		return err
	}
	n, err := tx.exec("INSERT INTO envelopes (task, intent, envelope) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET envelope = excluded.envelope WHERE envelopes.envelope = excluded.envelope", t.ID, intent, envelope)
	if err != nil {
		return err
	}
	if n != 1 {
		// A Task whose row has no envelope while its intent has one was put back:
		// the key must not be asked for another, so this is ErrTampered as well.
		e := conflict("task "+t.ID+" has another envelope for this intent already", "the envelope that was stored first", envelope, "load the task again and publish the envelope that it has")
		e.Err = &alteration{"envelopes"}
		return e
	}
	return nil
}

// consistent holds a Task's content against its state.
func consistent(t *signing.Task) error {
	intent, envelope := t.Intent != nil && len(t.Intent.Bytes) > 0, t.Envelope != nil
	ok := true
	switch t.State {
	case signing.Queued:
		ok = t.Intent == nil && !envelope
	case signing.Prepared:
		ok = intent && !envelope
	case signing.Signed:
		ok = intent && envelope
	case signing.Published, signing.Delivered:
		ok = envelope || t.Recognised
	}
	if !ok {
		return fmt.Errorf("task %s cannot be %s with intent %t, envelope %t, recognised %t", t.ID, t.State, intent, envelope, t.Recognised)
	}
	return nil
}

// about makes sure that events record this change: at least one, and none
// about another Request or Task.
func about(events []audit.Event, request, task string) error {
	if len(events) == 0 {
		return fmt.Errorf("%s%s: a change without an event", request, task)
	}
	for _, e := range events {
		if e.Request != request || task != "" && e.Task != "" && e.Task != task {
			return fmt.Errorf("event %s about %q %q in a change of %s %s", e.Kind, e.Request, e.Task, request, task)
		}
	}
	return nil
}

// follow writes what goes along with a change.
func (tx *Tx) follow(events []audit.Event, jobs []Job) error {
	for _, e := range events {
		if err := tx.Append(e); err != nil {
			return err
		}
	}
	for _, j := range jobs {
		if err := tx.Enqueue(j); err != nil {
			return err
		}
	}
	return nil
}

func moved(what, state string, version int64) error {
	return conflict(what+" was changed meanwhile", fmt.Sprintf("state %s, version %d", state, version), "another row", "load it again and decide anew")
}
