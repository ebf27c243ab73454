package store

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// deliveryKeep is how long a delivery that was dealt with is remembered: twice
	// as long as a Request may wait, so that what a forgotten one names is over.
	deliveryKeep = 14 * 24 * time.Hour
	// MaxDelivery bounds the body of a delivery: neither forge sends more.
	MaxDelivery = 25 << 20
	// deliveryBatch bounds the bodies that Deliveries returns together. One may
	// be larger than that, alone.
	deliveryBatch = 4 << 20
	// maxDeliveryName bounds what a delivery says beside its body.
	maxDeliveryName = 256
)

// Delivery is an authenticated webhook delivery.
type Delivery struct {
	Forge    string         // host
	Key      signing.Digest // of what was signed: unique with Forge
	ID       string         // the forge's own; for people
	Name     string         // of the event
	Body     []byte         // none once it was dealt with
	Received time.Time
	Done     time.Time // zero until it was dealt with
}

func (d *Delivery) what() string { return fmt.Sprintf("delivery %.80s of %.80s", d.Key, d.Forge) }

func (d *Delivery) fields() []string {
	return []string{d.Forge, string(d.Key), strconv.FormatInt(nanos(d.Received), 10), strconv.FormatInt(nanos(d.Done), 10), d.Name, d.ID, string(d.Body)}
}

// InsertDelivery stores a delivery, received now, and reports whether it is new:
// what was stored under its key before, dealt with or not, stays as it is. One
// without a body was dealt with.
func (tx *Tx) InsertDelivery(d *Delivery) (bool, error) {
	if d.Forge == "" || d.Key.Validate() != nil || d.Name == "" || len(d.Name)+len(d.ID) > maxDeliveryName || len(d.Body) > MaxDelivery {
		return false, fmt.Errorf("inserting a delivery of %.80q: forge, key and name are needed, within their bounds", d.Forge)
	}
	row := *d
	row.Received, row.Done = tx.now, time.Time{}
	if d.Body == nil {
		row.Body, row.Done = []byte{}, tx.now // nothing is left to be done with it
	}
	sum := tx.seal.seal(deliveryDomain, row.fields()...)
	n, err := tx.exec("INSERT INTO deliveries (forge, key, received, done, name, guid, body, mac_key, mac) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
		row.Forge, string(row.Key), nanos(row.Received), nanos(row.Done), row.Name, row.ID, row.Body, sum.key, sum.mac)
	if err == nil && n == 1 {
		set(tx, &d.Received, row.Received)
		set(tx, &d.Done, row.Done)
	}
	return n == 1, err
}

// Deliveries returns the deliveries of a forge with these keys, those that are
// there. Where their bodies are too much to have together, the rest is missing and
// the caller asks again for it; the first that is there is always returned.
func (tx *Tx) Deliveries(forge string, keys []signing.Digest) ([]*Delivery, error) {
	raw, err := json.Marshal(keys)
	if err != nil {
		return nil, fmt.Errorf("encoding keys: %w", err)
	}
	var out []*Delivery
	size, full := 0, false
	err = tx.rows(func(scan func(...any) error) error {
		if full {
			return nil
		}
		d := new(Delivery)
		var received, done int64
		var sum seal
		if err := scan(&d.Forge, &d.Key, &received, &done, &d.Name, &d.ID, &d.Body, &sum.key, &sum.mac); err != nil {
			return dbError("reading delivery", err)
		}
		if size += len(d.Body); size > deliveryBatch && len(out) > 0 {
			full = true
			return nil
		}
		d.Received, d.Done = fromNanos(received), fromNanos(done)
		out = append(out, d)
		return tx.seal.verify(d.what(), sum, deliveryDomain, d.fields()...)
	}, "SELECT forge, key, received, done, name, guid, body, mac_key, mac FROM deliveries WHERE forge = ? AND key IN (SELECT value FROM json_each(?))", forge, string(raw))
	return out, err
}

// DeliveryDone forgets the body of a delivery and keeps its key, so that a copy of
// it does nothing. d is as it was read.
func (tx *Tx) DeliveryDone(d *Delivery) error {
	row := *d
	row.Body, row.Done = nil, tx.now
	sum := tx.seal.seal(deliveryDomain, row.fields()...)
	n, err := tx.exec("UPDATE deliveries SET body = x'', done = ?, mac_key = ?, mac = ? WHERE forge = ? AND key = ?", nanos(row.Done), sum.key, sum.mac, row.Forge, string(row.Key))
	if err == nil && n != 1 {
		err = Tampered("deliveries", d.what(), "no such row")
	}
	return err
}

// ForgetDeliveries deletes at most n deliveries that were dealt with long ago, and
// returns how many.
func (tx *Tx) ForgetDeliveries(n int) (int, error) {
	gone, err := tx.exec("DELETE FROM deliveries WHERE rowid IN (SELECT rowid FROM deliveries WHERE done > 0 AND done <= ? ORDER BY done LIMIT ?)", nanos(tx.now.Add(-deliveryKeep)), n)
	return int(gone), err
}

// Awaiting returns at most n Requests that wait for people, in the order of their
// ids, beginning after the id that is given.
func (tx *Tx) Awaiting(after string, n int) ([]*signing.Request, error) {
	ids, err := tx.ids("SELECT id FROM requests WHERE state = 'awaiting_approval' AND id > ? ORDER BY id LIMIT ?", after, n)
	if err != nil {
		return nil, err
	}
	return tx.Requests(ids)
}

// CountAwaiting returns how many Requests wait for people.
func (tx *Tx) CountAwaiting() (n int, err error) {
	_, err = tx.row([]any{&n}, "SELECT count(*) FROM requests WHERE state = 'awaiting_approval'")
	return n, err
}

// Reports returns what was written on the forge about a Request; nothing is not
// an error.
func (tx *Tx) Reports(request string) (signing.Reports, error) {
	var out signing.Reports
	var doc string
	var sum seal
	found, err := tx.row([]any{&doc, &sum.key, &sum.mac}, "SELECT document, mac_key, mac FROM reports WHERE request_id = ?", request)
	if err != nil || !found {
		return out, err
	}
	if err := tx.seal.verify("the reports of request "+request, sum, reportsDomain, request, doc); err != nil {
		return out, err
	}
	if err := json.Unmarshal([]byte(doc), &out); err != nil {
		return signing.Reports{}, fmt.Errorf("decoding the reports of request %s: %w", request, err)
	}
	return out, nil
}

// SaveReports stores what was written on the forge about a Request.
func (tx *Tx) SaveReports(request string, r signing.Reports) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding the reports of request %s: %w", request, err)
	}
	sum := tx.seal.seal(reportsDomain, request, string(raw))
	_, err = tx.exec("INSERT INTO reports (request_id, document, mac_key, mac) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET document = excluded.document, mac_key = excluded.mac_key, mac = excluded.mac", request, string(raw), sum.key, sum.mac)
	return err
}
