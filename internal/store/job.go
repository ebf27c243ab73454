package store

import (
	"errors"
	"fmt"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// Job is work to be done: (Kind, Ref) is unique. Jobs carry no authority: a
// worker loads and checks what Ref names.
type Job struct {
	Kind, Ref string
	RunAt     time.Time // zero for at once
}

// Claim is a leased Job. It holds until Until, unless renewed, and no longer:
// then others may claim the Job, with a greater Fence.
type Claim struct {
	Job
	Fence int64 // grows with every claim of anything
	Until time.Time
	Owner string
	Tries int // claims since the job was made or last finished, this one included
}

// Enqueue makes a job, or makes one that is there due earlier. A job that is
// being worked on is due again after its claim is finished.
func (tx *Tx) Enqueue(j Job) error {
	if j.RunAt.IsZero() {
		j.RunAt = tx.now
	}
	_, err := tx.exec(`INSERT INTO jobs (kind, ref, due) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET
		due = CASE owner WHEN '' THEN min(due, excluded.due) ELSE due END,
		again = CASE WHEN owner = '' THEN 0 WHEN again = 0 THEN excluded.due ELSE min(again, excluded.due) END`,
		j.Kind, j.Ref, nanos(j.RunAt))
	return err
}

// EnqueueClaimed makes a job that owner holds from the start. Conflict if the
// job is there already.
func (tx *Tx) EnqueueClaimed(j Job, owner string, lease time.Duration) (*Claim, error) {
	if owner == "" {
		return nil, errNoOwner()
	}
	fence, err := tx.nextFence()
	if err != nil {
		return nil, err
	}
	c := &Claim{Job: j, Fence: fence, Until: tx.now.Add(lease), Owner: owner, Tries: 1}
	n, err := tx.exec("INSERT INTO jobs (kind, ref, due, owner, fence, tries) VALUES (?, ?, ?, ?, ?, 1) ON CONFLICT DO NOTHING", j.Kind, j.Ref, nanos(c.Until), owner, fence)
	if err != nil {
		return nil, err
	}
	if n != 1 {
		return nil, conflict("there is such a job", "a new job", j.Kind+" "+j.Ref, "claim it")
	}
	return c, nil
}

// ClaimDue leases at most n jobs of a kind that are due, the longest waiting
// first, to owner.
func (tx *Tx) ClaimDue(kind, owner string, n int, lease time.Duration) ([]*Claim, error) {
	if owner == "" {
		return nil, errNoOwner()
	}
	var out []*Claim
	err := tx.rows(func(scan func(...any) error) error {
		c := &Claim{Job: Job{Kind: kind}, Owner: owner, Until: tx.now.Add(lease)}
		var due int64
		err := scan(&c.Ref, &due, &c.Tries)
		c.RunAt = fromNanos(due)
		c.Tries++
		out = append(out, c)
		return err
	}, "SELECT ref, due, tries FROM jobs WHERE kind = ? AND due <= ? ORDER BY due LIMIT ?", kind, nanos(tx.now), n)
	if err != nil {
		return nil, err
	}
	for _, c := range out {
		if c.Fence, err = tx.nextFence(); err != nil {
			return nil, err
		}
		if _, err := tx.exec("UPDATE jobs SET owner = ?, fence = ?, due = ?, tries = ? WHERE kind = ? AND ref = ?", owner, c.Fence, nanos(c.Until), c.Tries, kind, c.Ref); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func errNoOwner() error { return fmt.Errorf("claiming needs an owner") }

// nextFence returns a number greater than every one before.
func (tx *Tx) nextFence() (int64, error) {
	var n int64
	found, err := tx.row([]any{&n}, "UPDATE fences SET n = n + 1 WHERE id = 1 RETURNING n")
	if err == nil && !found {
		err = errors.New("the counter of fences is gone")
	}
	return n, err
}

// held ends the statements below that need a claim to hold.
const held = " WHERE kind = ? AND ref = ? AND owner = ? AND fence = ? AND due > ?"

func (tx *Tx) heldArgs(c *Claim, first ...any) []any {
	return append(first, c.Kind, c.Ref, c.Owner, c.Fence, nanos(tx.now))
}

// CheckClaim returns Conflict unless c still holds.
func (tx *Tx) CheckClaim(c *Claim) error {
	if c != nil && tx.held == c {
		return nil // nobody else writes before this transaction ends
	}
	var one int
	found, err := tx.row([]any{&one}, "SELECT 1 FROM jobs"+held, tx.heldArgs(c)...)
	if err != nil {
		return err
	}
	if !found {
		return lost(c)
	}
	tx.held = c
	return nil
}

func lost(c *Claim) error {
	return conflict("the claim on "+c.Kind+" "+c.Ref+" was lost", fmt.Sprintf("fence %d of %s, until %s", c.Fence, c.Owner, c.Until.UTC().Format(time.RFC3339)), "an expired lease or another owner", "leave the job to its new owner")
}

// Renew extends a claim that still holds to lease from now.
func (tx *Tx) Renew(c *Claim, lease time.Duration) error {
	until := tx.now.Add(lease)
	if err := tx.changeHeld(c, "UPDATE jobs SET due = ?"+held, nanos(until)); err != nil {
		return err
	}
	set(tx, &c.Until, until)
	return nil
}

// Release gives the job back, to run at runAt, or earlier if it was enqueued
// meanwhile.
func (tx *Tx) Release(c *Claim, runAt time.Time) error {
	at := nanos(runAt)
	return tx.changeHeld(c, "UPDATE jobs SET owner = '', due = CASE again WHEN 0 THEN ? ELSE min(again, ?) END, again = 0"+held, at, at)
}

// Finish deletes the job, or makes it due again if it was enqueued meanwhile.
func (tx *Tx) Finish(c *Claim) error {
	tx.held = nil
	n, err := tx.exec("DELETE FROM jobs"+held+" AND again = 0", tx.heldArgs(c)...)
	if err != nil || n == 1 {
		return err
	}
	return tx.changeHeld(c, "UPDATE jobs SET owner = '', due = again, again = 0, tries = 0"+held)
}

func (tx *Tx) changeHeld(c *Claim, query string, first ...any) error {
	tx.held = nil
	n, err := tx.exec(query, tx.heldArgs(c, first...)...)
	if err != nil {
		return err
	}
	if n != 1 {
		return lost(c)
	}
	return nil
}

// NextDue returns when the next job of a kind can be claimed, if there is one.
func (tx *Tx) NextDue(kind string) (time.Time, bool, error) {
	var due int64
	found, err := tx.row([]any{&due}, "SELECT due FROM jobs WHERE kind = ? ORDER BY due LIMIT 1", kind)
	return fromNanos(due), found, err
}

// AcquireLease takes the named lease for ttl, or returns Conflict, with
// RetryAfter, while anybody holds it, owner included.
func (tx *Tx) AcquireLease(name, owner string, ttl time.Duration) (fence int64, err error) {
	if owner == "" {
		return 0, errNoOwner()
	}
	if fence, err = tx.nextFence(); err != nil {
		return 0, err
	}
	n, err := tx.exec("INSERT INTO leases (name, owner, fence, until) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET owner = excluded.owner, fence = excluded.fence, until = excluded.until WHERE leases.until <= ?",
		name, owner, fence, nanos(tx.now.Add(ttl)), nanos(tx.now))
	if err != nil || n == 1 {
		return fence, err
	}
	var until int64
	if _, err := tx.row([]any{&until}, "SELECT until FROM leases WHERE name = ?", name); err != nil {
		return 0, err
	}
	return 0, &signing.Error{Code: signing.Conflict, Message: "the lease " + name + " is held", Expected: "a free lease", Found: "a holder until " + fromNanos(until).Format(time.RFC3339), Fix: "try again later", RetryAfter: fromNanos(until).Sub(tx.now)}
}

// CheckLease returns Conflict unless owner still holds the lease.
func (tx *Tx) CheckLease(name, owner string, fence int64) error {
	var one int
	found, err := tx.row([]any{&one}, "SELECT 1 FROM leases WHERE name = ? AND owner = ? AND fence = ? AND until > ?", name, owner, fence, nanos(tx.now))
	if err != nil {
		return err
	}
	if !found {
		return lostLease(name, owner, fence)
	}
	return nil
}

// RenewLease extends a lease that owner still holds to ttl from now, or returns
// Conflict.
func (tx *Tx) RenewLease(name, owner string, fence int64, ttl time.Duration) error {
	n, err := tx.exec("UPDATE leases SET until = max(until, ?) WHERE name = ? AND owner = ? AND fence = ? AND until > ?", nanos(tx.now.Add(ttl)), name, owner, fence, nanos(tx.now))
	if err == nil && n != 1 {
		err = lostLease(name, owner, fence)
	}
	return err
}

// EndLease is CheckLease and ReleaseLease in one.
func (tx *Tx) EndLease(name, owner string, fence int64) error {
	n, err := tx.exec("DELETE FROM leases WHERE name = ? AND owner = ? AND fence = ? AND until > ?", name, owner, fence, nanos(tx.now))
	if err == nil && n != 1 {
		err = lostLease(name, owner, fence)
	}
	return err
}

func lostLease(name, owner string, fence int64) error {
	return conflict("the lease "+name+" was lost", fmt.Sprintf("fence %d of %s", fence, owner), "an expired lease or another owner", "acquire it again")
}

// ReleaseLease gives a lease back; one that was lost already is left alone.
func (tx *Tx) ReleaseLease(name, owner string, fence int64) error {
	_, err := tx.exec("DELETE FROM leases WHERE name = ? AND owner = ? AND fence = ?", name, owner, fence)
	return err
}
