package workflow

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

const (
	// jobDelivery is the kind of the job that deals with one delivery.
	jobDelivery = "delivery"
	// deliveryWorkers is how many are dealt with at once. Each waits for the forge
	// most of the time, which allows a hundred requests at once to all of us.
	deliveryWorkers = 16
	// deliveryAge is for how long a delivery is tried: no Request that it could
	// name waits longer.
	deliveryAge = MaxDeadline
)

// What became of a delivery, for Options.Heard and for the answer to the forge.
const (
	HeardStored          = "stored"          // durable; a job deals with it
	HeardDuplicate       = "duplicate"       // the same signed content came before
	HeardIgnored         = "ignored"         // nothing that this service has a use for
	HeardUnauthenticated = "unauthenticated" // no valid signature
	HeardMalformed       = "malformed"       // signed, but not readable
	HeardUnknown         = "unknown_forge"   // of no configured forge
	HeardFailed          = "failed"          // could not be stored
)

// Receive takes one webhook delivery of the forge named host in: headers and raw
// body as they came. Nothing of the body is read before its signature was
// verified. When it returns HeardStored, the delivery is durable and will be dealt
// with even if the process dies; a copy of one that came before, under whatever
// id, is HeardDuplicate and does nothing. What is not authentic is counted and
// leaves no trace that strangers could fill a disk with.
//
// Errors: NotFound for a forge that is not configured; Unauthenticated; Invalid
// for what is signed and cannot be read; Unavailable where it could not be stored.
func (w *Workflow) Receive(ctx context.Context, host string, h http.Header, body []byte) (outcome string, err error) {
	f, ok := w.Forges[host]
	if !ok {
		w.Heard("", HeardUnknown)
		return "", &signing.Error{Code: signing.NotFound, Message: "no such forge", Expected: "the host of an entry of `forges`", Found: fmt.Sprintf("%.80q", host), Fix: "correct the URL of the webhook, or configure the forge"}
	}
	defer func() { w.Heard(host, heard(outcome, err)) }()
	d, err := f.Authenticate(h, body, w.Now())
	if err != nil {
		return "", err
	}
	d.Forge = host
	e, err := parse(f, d)
	if err != nil {
		return "", err
	}
	if !w.needed(e) {
		return HeardIgnored, nil
	}
	return w.keep(ctx, f, d, e)
}

// heard is the word under which the outcome of Receive is counted.
func heard(outcome string, err error) string {
	switch signing.CodeOf(err) {
	case signing.Unauthenticated:
		return HeardUnauthenticated
	case signing.Invalid:
		return HeardMalformed
	}
	if err != nil {
		return HeardFailed
	}
	return outcome
}

// parse reads an authenticated delivery. A parser that fails in a way that nobody
// thought of refuses the delivery, and no more.
func parse(f forge.Forge, d forge.Delivery) (e forge.Event, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &signing.Error{Code: signing.Invalid, Message: "the delivery cannot be read", Expected: "the JSON payload of the event that its header names", Found: "something that the parser failed on", Fix: "report this to the makers of Sealwright", Err: fmt.Errorf("panic: %v", r)}
		}
	}()
	if e, err = f.Parse(d); err != nil {
		return forge.Event{}, &signing.Error{Code: signing.Invalid, Message: "the delivery cannot be read", Expected: "the JSON payload of the event that its header names", Found: signing.Public(err).Message, Fix: "set the content type of the webhook to application/json", Err: err}
	}
	return e, nil
}

// keep stores a delivery with the job that deals with it. A free worker takes it
// in the same commit, with the event as it was just read.
func (w *Workflow) keep(ctx context.Context, f forge.Forge, d forge.Delivery, e forge.Event) (string, error) {
	row := &store.Delivery{Forge: d.Forge, Key: d.Key, ID: clip(d.ID, 64), Name: clip(d.Name, 64), Body: d.Body, Received: w.Now()}
	crew := w.hooks
	if e.Kind == forge.EventPull {
		crew = w.pulls
	}
	job := store.Job{Kind: crew.kind, Ref: deliveryRef(row)}
	mine, fresh := crew.seat(), false
	var claim *store.Claim
	err := w.Store.Update(ctx, "deliver", func(tx *store.Tx) (err error) {
		claim = nil
		if fresh, err = tx.InsertDelivery(row); err != nil || !fresh {
			return err
		}
		if mine {
			claim, err = tx.EnqueueClaimed(job, w.Owner, jobLease)
			return err
		}
		return tx.Enqueue(job)
	})
	// From here on the delivery is durable, or the error says that it is not.
	if err == nil && claim != nil {
		crew.start(claim, func(ctx context.Context) error { return w.deliver(ctx, claim, f, row, e) })
	} else if mine {
		<-crew.slots
	}
	crew.kick()
	switch {
	case err != nil:
		return "", err
	case !fresh:
		return HeardDuplicate, nil
	}
	return HeardStored, nil
}

func deliveryRef(d *store.Delivery) string { return d.Forge + " " + string(d.Key) }

// loadDeliveries reads the deliveries of a batch of claims, those of each forge
// together.
func (w *Workflow) loadDeliveries(ctx context.Context, claims []*store.Claim) (map[*store.Claim]task, error) {
	keys, byRef := map[string][]signing.Digest{}, map[string]*store.Claim{}
	out := map[*store.Claim]task{}
	for _, c := range claims {
		host, key, _ := strings.Cut(c.Ref, " ")
		keys[host] = append(keys[host], signing.Digest(key))
		byRef[c.Ref] = c
	}
	err := w.Store.View(ctx, func(tx *store.Tx) error {
		for host, some := range keys {
			rows, err := tx.Deliveries(host, some)
			if err != nil {
				return err
			}
			for _, d := range rows {
				c := byRef[deliveryRef(d)]
				out[c] = func(ctx context.Context) error { return w.redeliver(ctx, c, d) }
			}
		}
		return nil
	})
	if err == nil && len(claims) == 1 && len(out) == 0 {
		// Deliveries come with their jobs, and go long after them.
		err = store.Tampered("deliveries", "delivery "+clip(claims[0].Ref, 200), "no such row")
	}
	return out, err
}

// redeliver deals with a delivery that was read from the database.
func (w *Workflow) redeliver(ctx context.Context, c *store.Claim, d *store.Delivery) error {
	f, ok := w.Forges[d.Forge]
	if !ok || !d.Done.IsZero() || w.Now().Sub(d.Received) > deliveryAge {
		return w.delivered(ctx, c, d, HeardIgnored)
	}
	e, err := parse(f, forge.Delivery{Forge: d.Forge, Key: d.Key, ID: d.ID, Name: d.Name, Body: d.Body})
	if err != nil {
		return w.delivered(ctx, c, d, HeardMalformed) // it could be read when it came: by another release
	}
	return w.deliver(ctx, c, f, d, e)
}

// delivered ends the job of a delivery and forgets its body.
func (w *Workflow) delivered(ctx context.Context, c *store.Claim, d *store.Delivery, outcome string, handled ...*store.Delivery) error {
	err := w.Store.Update(ctx, "delivered", func(tx *store.Tx) error {
		for _, h := range handled {
			if _, err := tx.InsertDelivery(h); err != nil {
				return err
			}
		}
		if err := tx.DeliveryDone(d); err != nil {
			return err
		}
		return tx.Finish(c)
	})
	if err == nil {
		w.Heard(d.Forge, outcome)
	}
	return err
}

// clip shortens what a forge sent and nothing rests on.
func clip(s string, most int) string {
	if len(s) > most {
		return s[:most]
	}
	return s
}

// needed reports whether a job has anything to do for e. What commands nothing is
// answered and forgotten: most comments do not.
func (w *Workflow) needed(e forge.Event) bool {
	switch e.Kind {
	case forge.EventComment:
		return !e.Sender.Bot && e.Sender.Known() && e.Comment != "" && addressed(e.Body)
	case forge.EventButton:
		return !e.Sender.Bot && e.Sender.Known() && e.Button != ""
	case forge.EventPull:
		return w.concerned(e)
	default:
		return false
	}
}

// deliver deals with one delivery under its claim. What fails in a way that may
// pass is an error, and tried again until what it names is over.
func (w *Workflow) deliver(ctx context.Context, c *store.Claim, f forge.Forge, d *store.Delivery, e forge.Event) error {
	if !w.needed(e) {
		return w.delivered(ctx, c, d, HeardIgnored)
	}
	switch e.Kind {
	case forge.EventButton:
		outcome, err := w.press(ctx, f, d, e)
		if err != nil {
			return err
		}
		return w.delivered(ctx, c, d, outcome)
	case forge.EventPull:
		outcome, err := w.checkPull(ctx, f, e)
		if err != nil {
			return err
		}
		return w.delivered(ctx, c, d, outcome)
	}
	m := mention{thread: e.Thread, comment: e.Comment, sender: e.Sender, body: e.Body, again: c.Tries > 1}
	outcome, err := w.hear(ctx, f, m)
	if err != nil {
		return err
	}
	if !final(outcome) {
		return w.delivered(ctx, c, d, outcome)
	}
	return w.delivered(ctx, c, d, outcome, m.handled(d.Forge))
}
