package store

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
)

func digestNo(n int) signing.Digest { return signing.Digest(fmt.Sprintf("sha256:%064x", n)) }

// insertOf stores the n-th request, of project, for artifacts with these digests.
func insertOf(t testing.TB, s *Store, n int, project string, digests ...int) *signing.Request {
	t.Helper()
	r := newRequest(n, time.Now())
	r.Project, r.Artifacts = project, nil
	for _, d := range digests {
		r.Artifacts = append(r.Artifacts, signing.Artifact{Repository: "registry.example/app", Digest: digestNo(d)})
	}
	update(t, s, func(tx *Tx) error { return tx.InsertRequest(r, newRow(n, time.Now())) })
	return r
}

// pages lists everything that f matches, n a page.
func pages(t testing.TB, s *Store, f Filter, n int) (ids []string, count int) {
	t.Helper()
	for before := int64(0); ; count++ {
		var next int64
		view(t, s, func(tx *Tx) error {
			page, more, err := tx.List(f, before, n)
			if len(page) > n {
				t.Errorf("a page of %d", len(page))
			}
			for _, r := range page {
				ids = append(ids, r.ID)
			}
			next = more
			return err
		})
		if next == 0 {
			return ids, count + 1
		}
		if before != 0 && next >= before {
			t.Fatalf("went on from %d to %d", before, next)
		}
		before = next
	}
}

func TestListsHaveWhatTheFilterMatchesNewestFirstOnceEach(t *testing.T) {
	s := open(t, Options{})
	for n := 1; n <= 7; n++ {
		insertOf(t, s, n, []string{"payments", "shop"}[n%2], n, 100)
	}
	canceled := insertOf(t, s, 8, "shop", 8)
	update(t, s, func(tx *Tx) error {
		return tx.Transition(Change{Request: canceled, To: string(signing.Canceled), Events: []audit.Event{event(canceled.ID, "", string(signing.Canceled))}})
	})
	ids := func(numbers ...int) (out []string) {
		for _, n := range numbers {
			out = append(out, requestID(n))
		}
		return out
	}
	for name, c := range map[string]struct {
		f    Filter
		want []string
	}{
		"everything":           {Filter{}, ids(8, 7, 6, 5, 4, 3, 2, 1)},
		"a project":            {Filter{Project: "shop"}, ids(8, 7, 5, 3, 1)},
		"a state":              {Filter{State: signing.Canceled}, ids(8)},
		"a project's state":    {Filter{Project: "shop", State: signing.Pending}, ids(7, 5, 3, 1)},
		"a digest":             {Filter{Digest: digestNo(3)}, ids(3)},
		"a digest of many":     {Filter{Digest: digestNo(100)}, ids(7, 6, 5, 4, 3, 2, 1)},
		"a digest in a state":  {Filter{Digest: digestNo(8), State: signing.Pending}, nil},
		"a project's digest":   {Filter{Digest: digestNo(100), Project: "payments"}, ids(6, 4, 2)},
		"nothing has it":       {Filter{Digest: digestNo(9)}, nil},
		"a project in capital": {Filter{Project: "Shop"}, nil},
		"a part of a project":  {Filter{Project: "sho"}, nil},
	} {
		for _, n := range []int{1, 2, 3, 7, 8, 50} {
			got, _ := pages(t, s, c.f, n)
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("%s, %d a page: %s", name, n, d)
			}
		}
	}
}

func TestWhatIsSubmittedWhileAListIsReadDoesNotDisturbIt(t *testing.T) {
	s := open(t, Options{})
	for n := 1; n <= 4; n++ {
		insertOf(t, s, n, "payments", n)
	}
	view(t, s, func(tx *Tx) error {
		_, next, err := tx.List(Filter{}, 0, 2)
		if err != nil || next == 0 {
			t.Fatal(next, err)
		}
		insertOf(t, s, 5, "payments", 5)
		rest, next, err := tx.List(Filter{}, next, 2)
		if len(rest) != 2 || rest[0].ID != requestID(2) || next != 0 {
			t.Errorf("%d, next %d", len(rest), next)
		}
		return err
	})
}

// A filter that matches nothing costs a bounded amount for each page.
func TestAPageLooksAtABoundedNumberOfRows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, Options{Path: path})
	insertOf(t, s, 1, "rare", 1)
	rawExec(t, rawDB(t, path), `WITH RECURSIVE c(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM c WHERE n < ?1)
		INSERT INTO requests SELECT printf('sr_%016d', n), state, version, deadline, '{}', '', x'', 'common' FROM c, requests`, 2*maxScan+2)
	got, n := pages(t, s, Filter{Project: "rare"}, 10)
	if len(got) != 1 || n != 3 {
		t.Errorf("%v on %d pages", got, n)
	}
}

func TestWhatAListShowsIsWhatWasSealed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, Options{Path: path})
	insertOf(t, s, 1, "payments", 1)
	insertOf(t, s, 2, "payments", 2)
	db := rawDB(t, path)
	list := func(f Filter) (err error) {
		view(t, s, func(tx *Tx) error { _, _, err = tx.List(f, 0, 10); return nil })
		return err
	}
	rawExec(t, db, "INSERT INTO request_digests VALUES (?, ?)", string(digestNo(7)), requestID(1))
	wantTampered(t, "a digest that nobody submitted", list(Filter{Digest: digestNo(7)}))
	if AlteredTable(list(Filter{Digest: digestNo(7)})) != "request_digests" {
		t.Error("another table is named")
	}
	rawExec(t, db, "UPDATE requests SET project = 'shop' WHERE id = ?", requestID(1))
	wantTampered(t, "another project", list(Filter{Project: "shop"}))
	rawExec(t, db, "UPDATE requests SET project = 'payments', document = replace(document, '/app', '/evil')")
	wantTampered(t, "another document", list(Filter{}))
}

// A manifest that is signed because it is below an index is found by its digest.
func TestRequestsAreFoundByTheDigestsOfTheirTasks(t *testing.T) {
	s := open(t, Options{})
	r := insertOf(t, s, 1, "payments", 1)
	child := &signing.Task{ID: r.ID + ".2", RequestID: r.ID, State: signing.Queued, Artifact: signing.Artifact{Repository: "registry.example/app", Digest: digestNo(2)}}
	top := &signing.Task{ID: r.ID + ".1", RequestID: r.ID, State: signing.Queued, Artifact: r.Artifacts[0]}
	update(t, s, func(tx *Tx) error {
		return tx.Transition(Change{Request: r, To: string(signing.Ready), NewTasks: []*signing.Task{top, child}, Events: []audit.Event{event(r.ID, "", string(signing.Ready))}})
	})
	for d, want := range map[int]int{1: 1, 2: 1, 3: 0} {
		if got, _ := pages(t, s, Filter{Digest: digestNo(d)}, 10); len(got) != want {
			t.Errorf("digest %d: %v", d, got)
		}
	}
}

func TestVersionsAreThoseOfARequestAndItsTasks(t *testing.T) {
	s := open(t, Options{})
	r := insertOf(t, s, 1, "payments", 1)
	one := &signing.Task{ID: r.ID + ".1", RequestID: r.ID, State: signing.Queued, Artifact: r.Artifacts[0]}
	update(t, s, func(tx *Tx) error {
		return tx.Transition(Change{Request: r, To: string(signing.Ready), NewTasks: []*signing.Task{one}, Events: []audit.Event{event(r.ID, "", string(signing.Ready))}})
	})
	err := s.View(t.Context(), func(tx *Tx) error {
		sum, err := tx.Versions(r.ID)
		if err == nil && sum != r.Version+one.Version {
			t.Errorf("%d is not %d and %d", sum, r.Version, one.Version)
		}
		_, unknown := tx.Versions("sr_unknown")
		if !errors.Is(unknown, signing.NotFound) {
			t.Errorf("an unknown request: %v", unknown)
		}
		return err
	})
	if err != nil || one.Version == 0 {
		t.Errorf("task version %d: %v", one.Version, err)
	}
}

func TestRequestsOfTheFirstSchemaAreListedAfterTheMigration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, Options{Path: path})
	insertOf(t, s, 1, "payments", 1, 2)
	insertOf(t, s, 2, "shop", 2)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db := rawDB(t, path)
	for _, step := range []string{"DROP TABLE trust_entries", "DROP TABLE trust_versions", "DROP TABLE lookaside", "DROP TABLE contents", "DROP TABLE public_keys", "DROP TABLE deliveries", "DROP TABLE reports", "DROP INDEX requests_awaiting", "DROP INDEX requests_completed", "DROP TABLE request_digests", "ALTER TABLE requests DROP COLUMN project", "PRAGMA user_version = 1"} {
		if _, err := db.Exec(step); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, Options{Path: path})
	for want, f := range map[string]Filter{
		requestID(2): {Project: "shop"}, requestID(1): {Digest: digestNo(1)},
	} {
		if got, _ := pages(t, s, f, 10); len(got) != 1 || got[0] != want {
			t.Errorf("%+v: %v", f, got)
		}
	}
	if got, _ := pages(t, s, Filter{Digest: digestNo(2)}, 10); len(got) != 2 {
		t.Errorf("%v", got)
	}
}
