package store

import (
	"fmt"
	"strconv"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// Attempt is a committed intention to use a key once.
type Attempt struct {
	Task   string
	N      int // counts from 1 for each Task
	At     time.Time
	Key    string
	Intent string // digest of the Intent
	Fence  int64  // of the claim under which it was made
}

func (a Attempt) fields() []string {
	return []string{a.Task, strconv.Itoa(a.N), strconv.FormatInt(nanos(a.At), 10), a.Key, a.Intent, strconv.FormatInt(a.Fence, 10)}
}

// Attempts returns the attempts of a Task in order.
func (tx *Tx) Attempts(task string) ([]Attempt, error) {
	if err := tx.flush(); err != nil {
		return nil, err
	}
	var out []Attempt
	err := tx.rows(func(scan func(...any) error) error {
		var a Attempt
		var at int64
		var sum seal
		if err := scan(&a.Task, &a.N, &at, &a.Key, &a.Intent, &a.Fence, &sum.key, &sum.mac); err != nil {
			return dbError("reading attempt", err)
		}
		a.At = fromNanos(at)
		out = append(out, a)
		return tx.seal.verify(fmt.Sprintf("attempt %d of task %.40s", a.N, a.Task), sum, attemptDomain, a.fields()...)
	}, "SELECT task, n, at, key, intent, fence, mac_key, mac FROM attempts WHERE task = ? ORDER BY n", task)
	return out, err
}

// Generation returns the number and digest of the policy generation that
// decides, 0 and "" before the first.
func (tx *Tx) Generation() (n int64, digest signing.Digest, err error) {
	var sum seal
	found, err := tx.row([]any{&n, &digest, &sum.key, &sum.mac}, "SELECT n, digest, mac_key, mac FROM generation WHERE id = 1")
	if err != nil || !found {
		return 0, "", err
	}
	if err := tx.seal.verify("the policy generation", sum, generationDomain, strconv.FormatInt(n, 10), string(digest)); err != nil {
		return 0, "", err
	}
	return n, digest, nil
}

// SetGeneration makes n the policy generation; it only grows (Conflict). The
// same n and digest once more seal the row anew, under the first secret.
func (tx *Tx) SetGeneration(n int64, digest signing.Digest) error {
	sum := tx.seal.seal(generationDomain, strconv.FormatInt(n, 10), string(digest))
	changed, err := tx.exec("INSERT INTO generation (id, n, digest, mac_key, mac) VALUES (1, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET n = excluded.n, digest = excluded.digest, mac_key = excluded.mac_key, mac = excluded.mac WHERE generation.n < excluded.n OR (generation.n = excluded.n AND generation.digest = excluded.digest)",
		n, string(digest), sum.key, sum.mac)
	if err != nil {
		return err
	}
	if changed != 1 {
		return conflict("the policy generation was changed meanwhile", "a generation before "+strconv.FormatInt(n, 10), "the same or a later one", "load it again")
	}
	return nil
}

// Expire deletes what nobody needs any more: at most n replay keys whose time
// is over, and leases that were not given back. It returns how many replay keys.
func (tx *Tx) Expire(n int) (int, error) {
	if _, err := tx.exec("DELETE FROM leases WHERE until <= ?", nanos(tx.now)); err != nil {
		return 0, err
	}
	gone, err := tx.exec("DELETE FROM replays WHERE key IN (SELECT key FROM replays WHERE expires <= ? ORDER BY expires LIMIT ?)", nanos(tx.now), n)
	return int(gone), err
}

// Overdue returns the ids of at most n Requests that are not over and past
// their deadline, the oldest first.
func (tx *Tx) Overdue(n int) ([]string, error) {
	return tx.ids("SELECT id FROM requests WHERE state IN ('pending', 'awaiting_approval', 'ready', 'signing') AND deadline <= ? ORDER BY deadline LIMIT ?", nanos(tx.now), n)
}

// Unattempted returns the ids of at most n Tasks whose Intent is older than age
// and was never attempted, the oldest first.
func (tx *Tx) Unattempted(age time.Duration, n int) ([]string, error) {
	return tx.ids(`SELECT request_id || '.' || n FROM tasks WHERE state = 'prepared' AND prepared <= ? AND NOT EXISTS
		(SELECT 1 FROM attempts WHERE task = tasks.request_id || '.' || tasks.n AND intent = tasks.intent) ORDER BY prepared LIMIT ?`, nanos(tx.now.Add(-age)), n)
}

func (tx *Tx) ids(query string, args ...any) ([]string, error) {
	if err := tx.flush(); err != nil {
		return nil, err
	}
	var out []string
	err := tx.rows(func(scan func(...any) error) error {
		var id string
		err := scan(&id)
		out = append(out, id)
		return err
	}, query, args...)
	return out, err
}
