package store

import (
	"bytes"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/signing"
)

func testDelivery(n int, body []byte) *Delivery {
	return &Delivery{Forge: "ghe.acme.dev", Key: signing.DigestOf(fmt.Appendf(nil, "delivery %d", n)), ID: "guid", Name: "issue_comment", Body: body}
}

func insertDelivery(t *testing.T, s *Store, d *Delivery) (fresh bool) {
	t.Helper()
	update(t, s, func(tx *Tx) (err error) { fresh, err = tx.InsertDelivery(d); return err })
	return fresh
}

func deliveries(t *testing.T, s *Store, keys ...signing.Digest) (out []*Delivery) {
	t.Helper()
	view(t, s, func(tx *Tx) (err error) { out, err = tx.Deliveries("ghe.acme.dev", keys); return err })
	return out
}

func TestADeliveryIsStoredOnceWhateverItsIDIs(t *testing.T) {
	s := open(t, Options{})
	d := testDelivery(1, []byte(`{"a":1}`))
	if !insertDelivery(t, s, d) {
		t.Fatal("a new delivery is not new")
	}
	again := *d
	again.ID, again.Body = "another guid", []byte("another body")
	if insertDelivery(t, s, &again) {
		t.Error("the same key under another id is new")
	}
	other := *d
	other.Forge = "gitlab.acme.dev"
	if !insertDelivery(t, s, &other) {
		t.Error("the same key of another forge is not new")
	}
	got := deliveries(t, s, d.Key)
	if len(got) != 1 || string(got[0].Body) != `{"a":1}` || got[0].ID != "guid" || !got[0].Done.IsZero() || got[0].Received.IsZero() {
		t.Fatalf("%+v", got)
	}
	update(t, s, func(tx *Tx) error { return tx.DeliveryDone(got[0]) })
	if insertDelivery(t, s, d) {
		t.Error("one that was dealt with is new again")
	}
	if got := deliveries(t, s, d.Key); len(got) != 1 || len(got[0].Body) != 0 || got[0].Done.IsZero() {
		t.Errorf("after it was dealt with: %+v", got)
	}
}

func TestADeliveryIsForgottenLongAfterItWasDealtWith(t *testing.T) {
	c := newClock()
	s := open(t, Options{Now: c.Now})
	waiting, done := testDelivery(1, []byte("x")), testDelivery(2, nil)
	insertDelivery(t, s, waiting)
	insertDelivery(t, s, done)
	forget := func() (n int) {
		update(t, s, func(tx *Tx) (err error) { n, err = tx.ForgetDeliveries(10); return err })
		return n
	}
	c.Advance(deliveryKeep - time.Second)
	if n := forget(); n != 0 {
		t.Errorf("%d were forgotten early", n)
	}
	c.Advance(2 * time.Second)
	if n := forget(); n != 1 {
		t.Errorf("%d were forgotten, not the one that was dealt with", n)
	}
	if got := deliveries(t, s, waiting.Key, done.Key); len(got) != 1 || got[0].Key != waiting.Key {
		t.Errorf("what is left: %+v", got)
	}
	if deliveryKeep < 7*24*time.Hour {
		t.Error("a Request may wait for seven days")
	}
}

func TestDeliveriesAreReadWithinABound(t *testing.T) {
	s := open(t, Options{})
	var keys []signing.Digest
	for i := range 4 {
		d := testDelivery(i, bytes.Repeat([]byte("x"), deliveryBatch/2))
		insertDelivery(t, s, d)
		keys = append(keys, d.Key)
	}
	if got := deliveries(t, s, keys...); len(got) != 2 {
		t.Errorf("%d bodies of half the bound each together", len(got))
	}
	large := testDelivery(9, bytes.Repeat([]byte("x"), deliveryBatch+1))
	insertDelivery(t, s, large)
	if got := deliveries(t, s, large.Key); len(got) != 1 {
		t.Error("one larger than the bound can never be read")
	}
	large.Body = make([]byte, MaxDelivery+1)
	if err := s.Update(t.Context(), "test", func(tx *Tx) error { _, err := tx.InsertDelivery(large); return err }); err == nil {
		t.Error("a body beyond every bound was stored")
	}
}

func TestEveryEditedColumnOfADeliveryAndAReportIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, Options{Path: path})
	insertDelivery(t, s, testDelivery(1, []byte("{}")))
	prepared(t, s, 1)
	update(t, s, func(tx *Tx) error { return tx.SaveReports(requestID(1), signing.Reports{CheckRun: "4"}) })
	db := rawDB(t, path)
	for table, load := range map[string]func(tx *Tx, key map[string]any) error{
		"deliveries": func(tx *Tx, key map[string]any) error {
			_, err := tx.Deliveries(fmt.Sprint(key["forge"]), []signing.Digest{signing.Digest(fmt.Sprint(key["key"]))})
			return err
		},
		"reports": func(tx *Tx, key map[string]any) error {
			_, err := tx.Reports(fmt.Sprint(key["request_id"]))
			return err
		},
	} {
		for _, col := range columns(t, db, table) {
			before := readRow(t, db, table)
			rawExec(t, db, fmt.Sprintf("UPDATE %s SET %s = %s", table, col.name, col.other()))
			view(t, s, func(tx *Tx) error {
				wantTampered(t, table+"."+col.name, load(tx, readRow(t, db, table)))
				return nil
			})
			rawExec(t, db, fmt.Sprintf("UPDATE %s SET %s = ?", table, col.name), before[col.name])
		}
		view(t, s, func(tx *Tx) error { return load(tx, readRow(t, db, table)) })
	}
}

func TestReportsAreKeptBesideTheRequest(t *testing.T) {
	s := open(t, Options{})
	prepared(t, s, 1)
	read := func() (out signing.Reports, version int64) {
		view(t, s, func(tx *Tx) error {
			r, err := tx.Request(requestID(1))
			if err != nil {
				return err
			}
			version = r.Version
			out, err = tx.Reports(r.ID)
			return err
		})
		return out, version
	}
	none, before := read()
	want := signing.Reports{CheckRun: "7", Comment: "8", Status: testDigest}
	for range 2 {
		update(t, s, func(tx *Tx) error { return tx.SaveReports(requestID(1), want) })
	}
	got, after := read()
	if d := cmp.Diff(want, got); d != "" || none != (signing.Reports{}) {
		t.Errorf("%+v at first, then %s", none, d)
	}
	if before != after {
		t.Error("a report changed the Request, which its worker holds")
	}
}

func TestRequestsThatWaitForPeopleAreListedInPages(t *testing.T) {
	s := open(t, Options{})
	var want []string
	for i := range 5 {
		r := insert(t, s, i+1)
		if i == 2 {
			continue // still pending
		}
		update(t, s, func(tx *Tx) error { return moveRequest(tx, r, signing.AwaitingApproval) })
		want = append(want, r.ID)
	}
	var got []string
	view(t, s, func(tx *Tx) error {
		if n, err := tx.CountAwaiting(); err != nil || n != len(want) {
			t.Errorf("counted %d, %v", n, err)
		}
		for after := ""; ; {
			page, err := tx.Awaiting(after, 3)
			if err != nil || len(page) == 0 {
				return err
			}
			for _, r := range page {
				got = append(got, r.ID)
			}
			after = page[len(page)-1].ID
		}
	})
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestJobsThatFollowAChangeAreWrittenWithIt(t *testing.T) {
	s := open(t, Options{})
	s.Follow(func(r *signing.Request) []Job {
		if r.State != signing.AwaitingApproval {
			return nil
		}
		return []Job{{Kind: "report", Ref: r.ID}}
	})
	due := func() (any bool) {
		view(t, s, func(tx *Tx) (err error) { _, any, err = tx.NextDue("report"); return err })
		return any
	}
	r := insert(t, s, 1)
	if due() {
		t.Error("a new Request is no change")
	}
	err := s.Update(t.Context(), "test", func(tx *Tx) error {
		if err := moveRequest(tx, r, signing.AwaitingApproval); err != nil {
			return err
		}
		return signing.Conflict // whatever comes after
	})
	if err == nil || due() {
		t.Errorf("a change that did not happen has a job: %v", err)
	}
	update(t, s, func(tx *Tx) error { return moveRequest(tx, r, signing.AwaitingApproval) })
	if !due() {
		t.Error("a change of state has no job")
	}
	update(t, s, func(tx *Tx) error {
		claims, err := tx.ClaimDue("report", "me", 1, time.Minute)
		if err != nil {
			return err
		}
		return tx.Finish(claims[0])
	})
	update(t, s, func(tx *Tx) error { return tx.SaveRequest(r) })
	if !due() {
		t.Error("an approval, which changes no state, has no job")
	}
}
