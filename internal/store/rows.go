package store

import (
	"fmt"

	"github.com/sealwright/sealwright/internal/signing"
)

// A row that changes more than once in a transaction is encoded and written once:
// its changes are checked as they come, against the row as it then is in memory,
// and what they lead to is written when the closure has returned, or before rows
// are read. The comparison with what is in the database is made there.

// rowChange is a row of requests or tasks that is to be written.
type rowChange struct {
	request *signing.Request // exactly one of request and task: the new content
	task    *signing.Task
	insert  bool
	state   string // of the row in the database, if it is there
	version int64
	// intent is the digest of the new Intent; free allows it to differ from the
	// one in the database.
	intent   string
	free     bool
	attempts []Attempt // of task, written after it: a row that moved is a Conflict first
}

// putRequest has the Request written in state to, if the row in the database is
// the one that r was loaded from, or that it was made to be in this transaction.
// Only Transition gives another state than that of r.
func (tx *Tx) putRequest(r *signing.Request, to signing.RequestState) error {
	next := *r
	next.State, next.Version = to, r.Version+1
	if have := tx.changed[r.ID]; have != nil {
		if have.request == nil || have.request.State != r.State || have.request.Version != r.Version {
			return moved("request "+r.ID, string(r.State), r.Version)
		}
		have.request = &next
	} else {
		tx.add(r.ID, &rowChange{request: &next, state: string(r.State), version: r.Version})
	}
	set(tx, &r.State, to)
	set(tx, &r.Version, next.Version)
	if tx.follows == nil {
		return nil
	}
	return tx.follow(nil, tx.follows(r))
}

// putTask is putRequest for a Task. An Intent comes with a queued Task and goes
// with the way back there; in between it stays what was durable before the key
// was used.
func (tx *Tx) putTask(t *signing.Task, to signing.TaskState, save bool) error {
	request, _, ok := splitTaskID(t.ID)
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
	free := !save && (t.State == signing.Queued || to == signing.Queued || next.Intent == nil)
	have := tx.changed[t.ID]
	switch {
	case have == nil:
		have = tx.add(t.ID, &rowChange{state: string(t.State), version: t.Version, free: free})
	case have.task == nil || have.task.State != t.State || have.task.Version != t.Version || !free && have.intent != intent:
		return moved("task "+t.ID, string(t.State), t.Version)
	default:
		have.free = have.free || free
	}
	if err := tx.oneEnvelope(&next, intent); err != nil {
		return err
	}
	have.task, have.intent = &next, intent
	set(tx, &t.State, to)
	set(tx, &t.Version, next.Version)
	return nil
}

// insertTask has a Task of request stored that is queued and has no version yet.
func (tx *Tx) insertTask(request string, t *signing.Task) error {
	of, _, ok := splitTaskID(t.ID)
	if !ok || of != request || t.RequestID != request || t.State != signing.Queued || t.Version != 0 {
		return fmt.Errorf("inserting task %.40q of request %s: not a new, queued task of it", t.ID, request)
	}
	next := *t
	next.Version = 1
	if err := consistent(&next); err != nil {
		return err
	}
	if tx.changed[t.ID] != nil {
		return conflict("there is a task of this id", "a new id", t.ID, "")
	}
	tx.add(t.ID, &rowChange{task: &next, insert: true})
	set(tx, &t.Version, next.Version)
	return nil
}

// add remembers a row that is to be written.
func (tx *Tx) add(id string, c *rowChange) *rowChange {
	if tx.changed == nil {
		tx.changed = map[string]*rowChange{}
	}
	tx.changes, tx.changed[id] = append(tx.changes, c), c
	return c
}

// flush writes the rows that were changed. After an error the transaction is lost.
func (tx *Tx) flush() (err error) {
	defer tx.whole(&err)
	changes := tx.changes
	tx.changes, tx.changed = nil, nil
	for _, c := range changes {
		if c.request != nil {
			err = tx.writeRequest(c)
		} else {
			err = tx.writeTask(c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (tx *Tx) writeRequest(c *rowChange) error {
	r := c.request
	doc, sum, err := tx.sealRequest(r)
	if err != nil {
		return err
	}
	n, err := tx.exec("UPDATE requests SET state = ?, version = ?, document = ?, mac_key = ?, mac = ?, project = ? WHERE id = ? AND state = ? AND version = ? AND deadline = ?",
		string(r.State), r.Version, doc, sum.key, sum.mac, r.Project, r.ID, c.state, c.version, nanos(r.Deadline))
	if err != nil {
		return err
	}
	if n != 1 {
		return moved("request "+r.ID, c.state, c.version)
	}
	return nil
}

func (tx *Tx) writeTask(c *rowChange) error {
	t := c.task
	doc, sum, err := tx.sealTask(t)
	if err != nil {
		return err
	}
	request, number, _ := splitTaskID(t.ID)
	if c.insert {
		n, err := tx.exec("INSERT INTO tasks (request_id, n, state, version, prepared, intent, document, mac_key, mac) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
			request, number, string(t.State), t.Version, preparedAt(t), c.intent, doc, sum.key, sum.mac)
		if err != nil {
			return err
		}
		if n != 1 {
			return conflict("there is a task of this id", "a new id", t.ID, "")
		}
		return tx.writeAttempts(c)
	}
	n, err := tx.exec("UPDATE tasks SET state = ?1, version = ?2, prepared = ?3, intent = ?4, document = ?5, mac_key = ?6, mac = ?7 WHERE request_id = ?8 AND n = ?9 AND state = ?10 AND version = ?11 AND (?12 OR intent = ?4)",
		string(t.State), t.Version, preparedAt(t), c.intent, doc, sum.key, sum.mac, request, number, c.state, c.version, c.free)
	if err != nil {
		return err
	}
	if n != 1 {
		return moved("task "+t.ID, c.state, c.version)
	}
	return tx.writeAttempts(c)
}

func (tx *Tx) writeAttempts(c *rowChange) error {
	for _, a := range c.attempts {
		sum := tx.seal.seal(attemptDomain, a.fields()...)
		n, err := tx.exec("INSERT INTO attempts (task, n, at, key, intent, fence, mac_key, mac) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
			a.Task, a.N, nanos(a.At), a.Key, a.Intent, a.Fence, sum.key, sum.mac)
		if err != nil {
			return err
		}
		if n != 1 {
			return Tampered("attempts", "the list of attempts of task "+a.Task, fmt.Sprintf("an attempt %d that the task does not know", a.N))
		}
	}
	return nil
}
