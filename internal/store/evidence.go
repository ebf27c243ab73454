package store

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
)

// MaxRequestEvents bounds the events of one Request that are read at once:
// signing.MaxTasks of some five events, and twice as many for what was tried again.
const MaxRequestEvents = 10 * signing.MaxTasks

// clockSlack is how far the clocks of transactions may be apart, or step back,
// before the events of a Request have to be looked for in the whole log.
const clockSlack = time.Minute

// LoggedEvent is an event with its place in the log.
type LoggedEvent struct {
	Leaf uint64
	Body []byte // the data of the leaf
}

// RequestEvents returns every event about r, in the order of the log, as the
// database has them: whether they are what was logged, their proofs show.
// Unavailable says that one of them has no leaf yet. Events are not indexed by
// request, which every submission would pay for: they are found by their time.
func (tx *Tx) RequestEvents(r *signing.Request) ([]LoggedEvent, error) {
	until := tx.now
	if !r.Ended.IsZero() {
		until = r.Ended
	}
	from, err := tx.firstEventAt(r.Submitted.Add(-clockSlack))
	if err != nil {
		return nil, err
	}
	to, err := tx.firstEventAt(until.Add(clockSlack))
	if err != nil {
		return nil, err
	}
	out, err := tx.eventsAbout(r.ID, from, to)
	if err != nil || complete(out) {
		return out, err
	}
	// The clock was put back meanwhile.
	return tx.eventsAbout(r.ID, 0, audit.MaxSize)
}

// complete reports whether the first event of a life is there, and the last.
func complete(events []LoggedEvent) bool {
	if len(events) == 0 {
		return false
	}
	first, err := audit.ParseEvent(events[0].Body)
	if err != nil || first.Kind != audit.RequestSubmitted {
		return false
	}
	last, err := audit.ParseEvent(events[len(events)-1].Body)
	return err == nil && last.Task == ""
}

// firstEventAt returns a row before which every event is older than at, as far
// as clocks only go forward.
func (tx *Tx) firstEventAt(at time.Time) (int64, error) {
	var low, high int64
	if _, err := tx.row([]any{&high}, "SELECT ifnull(max(seq), 0) + 1 FROM events"); err != nil {
		return 0, err
	}
	for low < high {
		middle := low + (high-low)/2
		var found int64
		// The next row that there is: a deleted one must not hide those after it.
		have, err := tx.row([]any{&found}, "SELECT at FROM events WHERE seq >= ? ORDER BY seq LIMIT 1", middle)
		if err != nil {
			return 0, err
		}
		if have && found < nanos(at) {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low, nil
}

func (tx *Tx) eventsAbout(id string, from, to int64) ([]LoggedEvent, error) {
	// Canonical events quote nothing but their own values, so the text is there
	// in events about the Request and in no other.
	var out []LoggedEvent
	err := tx.rows(func(scan func(...any) error) error {
		var leaf *uint64
		var body []byte
		if err := scan(&leaf, &body); err != nil {
			return dbError("reading event", err)
		}
		if leaf == nil {
			return &signing.Error{Code: signing.Unavailable, Message: "the last events of this request are not in the audit log yet", RetryAfter: time.Second, Fix: "try again in a few seconds"}
		}
		out = append(out, LoggedEvent{Leaf: *leaf, Body: body})
		return nil
	}, "SELECT leaf, body FROM events WHERE seq >= ? AND seq < ? AND instr(body, ?) > 0 ORDER BY seq LIMIT ?", from, to, `"request":"`+id+`"`, MaxRequestEvents+1)
	if err == nil && len(out) > MaxRequestEvents {
		err = &signing.Error{Code: signing.TooLarge, Message: "too many events for one request", Expected: fmt.Sprintf("at most %d", MaxRequestEvents), Found: "more"}
	}
	return out, err
}

// PutPublicKey remembers the public half of a key, and its certificates.
func (tx *Tx) PutPublicKey(k signing.KeyRecord) error {
	doc, err := json.Marshal(k)
	if err != nil {
		return fmt.Errorf("encoding public key %s: %w", k.ID, err)
	}
	_, err = tx.exec("INSERT INTO public_keys (id, version, digest, document) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", k.ID, k.Version, string(signing.DigestOf(doc)), string(doc))
	return err
}

// PublicKeys returns what PutPublicKey remembered of a key: once, or once for
// each certificate that it had. None is NotFound. That they are the key of this
// version has been checked.
func (tx *Tx) PublicKeys(id, version string) ([]signing.KeyRecord, error) {
	var out []signing.KeyRecord
	err := tx.rows(func(scan func(...any) error) error {
		var doc []byte
		if err := scan(&doc); err != nil {
			return dbError("reading public key", err)
		}
		var k signing.KeyRecord
		err := json.Unmarshal(doc, &k)
		if err == nil {
			_, err = k.Info()
		}
		if err != nil || k.ID != id || k.Version != version {
			return Tampered("public_keys", "key "+id, fmt.Sprintf("a document that is not of this key (%v)", err))
		}
		out = append(out, k)
		return nil
	}, "SELECT document FROM public_keys WHERE id = ? AND version = ? ORDER BY digest LIMIT ?", id, version, MaxRead)
	if err == nil && len(out) == 0 {
		err = &signing.Error{Code: signing.NotFound, Message: "the public key is not known any more", Found: fmt.Sprintf("%.64s, version %.64s", id, version)}
	}
	return out, err
}
