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
// that does. It compares state and version with the row, writes the new content
// with its HMAC, the events, new Tasks and jobs in the transaction, and then sets
// State and Version of the struct (and puts them back if the transaction is not
// committed). It returns Conflict if the row is not the one that was loaded any
// more, if the claim was lost, or if the Task has another envelope for its
// intent; an illegal change is an error. As after every error of Transition,
// SaveRequest, SaveTask, Attempt and InsertRequest, the transaction is then lost.
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
	const (
		moveRequest = "UPDATE requests SET state = ?1, version = ?2, document = ?3, mac_key = ?4, mac = ?5, project = ?10 WHERE id = ?6 AND state = ?7 AND version = ?8 AND deadline = ?9"
		moveTask    = "UPDATE tasks SET state = ?1, version = ?2, prepared = ?3, intent = ?4, document = ?5, mac_key = ?6, mac = ?7 WHERE request_id = ?8 AND n = ?9 AND state = ?10 AND version = ?11 AND (?12 OR intent = ?4)"
	)
	if r := c.Request; r != nil {
		to := signing.RequestState(c.To)
		if err := legal("request "+r.ID, string(r.State), c.To, r.State.CanBecome(to)); err != nil {
			return err
		}
		if err := about(c.Events, r.ID, ""); err != nil {
			return err
		}
		if err := tx.putRequest(moveRequest, r, to); err != nil {
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
		if err := tx.putTask(moveTask, t, to); err != nil {
			return err
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
	const save = "UPDATE requests SET version = ?2, document = ?3, mac_key = ?4, mac = ?5, project = ?10 WHERE id = ?6 AND state = ?7 AND state = ?1 AND version = ?8 AND deadline = ?9"
	if err := tx.putRequest(save, r, r.State); err != nil {
		return err
	}
	return tx.follow(events, nil)
}

// saveTask keeps the state. Its Intent cannot change: only Transition stores one.
const saveTask = "UPDATE tasks SET version = ?2, prepared = ?3, intent = ?4, document = ?5, mac_key = ?6, mac = ?7 WHERE request_id = ?8 AND n = ?9 AND state = ?10 AND state = ?1 AND version = ?11 AND intent = ?4"

// SaveTask is SaveRequest for a Task. The claim, if not nil, must still hold.
func (tx *Tx) SaveTask(t *signing.Task, c *Claim, events ...audit.Event) (err error) {
	defer tx.whole(&err)
	if c != nil {
		if err := tx.CheckClaim(c); err != nil {
			return err
		}
	}
	if err := tx.putTask(saveTask, t, t.State); err != nil {
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
	if err := tx.putTask(saveTask, &next, t.State); err != nil {
		return err
	}
	sum := tx.seal.seal(attemptDomain, a.fields()...)
	inserted, err := tx.exec("INSERT INTO attempts (task, n, at, key, intent, fence, mac_key, mac) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
		a.Task, a.N, nanos(a.At), a.Key, a.Intent, a.Fence, sum.key, sum.mac)
	if err != nil {
		return err
	}
	if inserted == 0 {
		return Tampered("attempts", "the list of attempts of task "+t.ID, fmt.Sprintf("an attempt %d that the task does not know", a.N))
	}
	if err := tx.follow([]audit.Event{ev}, nil); err != nil {
		return err
	}
	set(tx, &t.Attempts, next.Attempts)
	set(tx, &t.Version, next.Version)
	// From the commit of this transaction on, one use of the key is accounted for.
	return nil
}

func (tx *Tx) putRequest(query string, r *signing.Request, to signing.RequestState) error {
	next := *r
	next.State, next.Version = to, r.Version+1
	doc, sum, err := tx.sealRequest(&next)
	if err != nil {
		return err
	}
	n, err := tx.exec(query, string(to), next.Version, doc, sum.key, sum.mac, r.ID, string(r.State), r.Version, nanos(r.Deadline), r.Project)
	if err != nil {
		return err
	}
	if n != 1 {
		return moved("request "+r.ID, string(r.State), r.Version)
	}
	set(tx, &r.State, to)
	set(tx, &r.Version, next.Version)
	return nil
}

func (tx *Tx) putTask(query string, t *signing.Task, to signing.TaskState) error {
	request, number, ok := splitTaskID(t.ID)
	if !ok || request != t.RequestID {
		return fmt.Errorf("%.40q is not the id of a task of %s", t.ID, t.RequestID)
	}
	next := *t
	next.State, next.Version = to, t.Version+1
	if err := consistent(&next); err != nil {
		return err
	}
	intent, err := intentDigest(next.Intent)
	if err != nil {
		return err
	}
	if err := tx.oneEnvelope(&next, intent); err != nil {
		return err
	}
	doc, sum, err := tx.sealTask(&next)
	if err != nil {
		return err
	}
	args := []any{string(to), next.Version, preparedAt(&next), intent, doc, sum.key, sum.mac, request, number, string(t.State), t.Version}
	if query != saveTask {
		// An Intent comes with a queued Task and goes with the way back there; in
		// between it stays what was durable before the key was used.
		args = append(args, t.State == signing.Queued || to == signing.Queued || next.Intent == nil)
	}
	n, err := tx.exec(query, args...)
	if err != nil {
		return err
	}
	if n != 1 {
		return moved("task "+t.ID, string(t.State), t.Version)
	}
	set(tx, &t.State, to)
	set(tx, &t.Version, next.Version)
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
