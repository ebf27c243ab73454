package workflow_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/method/cosign"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

// thief has the database file and may write everything in it, but has none of
// the state secrets.
type thief struct {
	t  *testing.T
	db *sql.DB
}

func steal(t *testing.T, e *testenv.Env) *thief {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+(&url.URL{Path: e.Database()}).EscapedPath()+"?_busy_timeout=20000")
	ok(t, err)
	t.Cleanup(func() { ok(t, db.Close()) })
	return &thief{t, db}
}

// exec changes at least one row.
func (th *thief) exec(query string, args ...any) {
	th.t.Helper()
	res, err := th.db.Exec(query, args...)
	ok(th.t, err)
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		th.t.Fatalf("%s changed %d rows: %v", query, n, err)
	}
}

func (th *thief) count(query string, args ...any) (n int) {
	th.t.Helper()
	ok(th.t, th.db.QueryRow(query, args...).Scan(&n))
	return n
}

func (th *thief) document(v any, query string, args ...any) {
	th.t.Helper()
	var doc string
	ok(th.t, th.db.QueryRow(query, args...).Scan(&doc))
	ok(th.t, json.Unmarshal([]byte(doc), v))
}

func (th *thief) request(id string) *signing.Request {
	th.t.Helper()
	r := new(signing.Request)
	th.document(r, "SELECT document FROM requests WHERE id = ?", id)
	return r
}

func (th *thief) task(request string) *signing.Task {
	th.t.Helper()
	task := new(signing.Task)
	th.document(task, "SELECT document FROM tasks WHERE request_id = ? AND n = 1", request)
	return task
}

// putRequest writes r over the row of its id, or over a copy of the row of
// another request, with columns that agree. Only the HMAC cannot be right.
func (th *thief) putRequest(r *signing.Request, like string) {
	th.t.Helper()
	if like != r.ID {
		th.exec("INSERT INTO requests SELECT ?, state, version, deadline, document, mac_key, mac, project FROM requests WHERE id = ?", r.ID, like)
	}
	th.exec("UPDATE requests SET state = ?, version = ?, deadline = ?, document = ? WHERE id = ?", string(r.State), r.Version, r.Deadline.UnixNano(), text(th.t, r), r.ID)
}

// putTask is putRequest for the n-th task of a request.
func (th *thief) putTask(task *signing.Task, n int, like string) {
	th.t.Helper()
	if th.count("SELECT count(*) FROM tasks WHERE request_id = ? AND n = ?", task.RequestID, n) == 0 {
		th.exec("INSERT INTO tasks SELECT ?, ?, state, version, prepared, intent, document, mac_key, mac FROM tasks WHERE request_id = ? AND n = 1", task.RequestID, n, like)
	}
	intent, prepared := "", int64(0)
	if task.Intent != nil {
		same := *task.Intent
		same.Created = time.Time{}
		intent, prepared = string(signing.DigestOf([]byte(text(th.t, same)))), task.Intent.Created.UnixNano()
	}
	th.exec("UPDATE tasks SET state = ?, version = ?, prepared = ?, intent = ?, document = ? WHERE request_id = ? AND n = ?",
		string(task.State), task.Version, prepared, intent, text(th.t, task), task.RequestID, n)
}

// enqueue makes the service look at ref at once.
func (th *thief) enqueue(ref string) {
	th.t.Helper()
	th.exec("INSERT INTO jobs (kind, ref, due) VALUES ('drive', ?, 1) ON CONFLICT DO UPDATE SET due = 1, owner = ''", ref)
}

// row is one row of a table as the service wrote it.
type row struct {
	table   string
	columns []string
	values  []any
}

// keep copies genuine rows, to put them back later.
func (th *thief) keep(table, where string, args ...any) []row {
	th.t.Helper()
	rows, err := th.db.Query("SELECT * FROM "+table+" WHERE "+where, args...)
	ok(th.t, err)
	defer rows.Close() //nolint:errcheck // read only
	columns, err := rows.Columns()
	ok(th.t, err)
	var out []row
	for rows.Next() {
		r := row{table, columns, make([]any, len(columns))}
		into := make([]any, len(columns))
		for i := range r.values {
			into[i] = &r.values[i]
		}
		ok(th.t, rows.Scan(into...))
		out = append(out, r)
	}
	ok(th.t, rows.Err())
	if len(out) == 0 {
		th.t.Fatalf("no %s where %s", table, where)
	}
	return out
}

func (th *thief) putBack(rows ...row) {
	th.t.Helper()
	for _, r := range rows {
		marks := "?"
		for range len(r.values) - 1 {
			marks += ", ?"
		}
		// Not REPLACE: it would delete what refers to the row.
		set := ""
		for _, c := range r.columns {
			set += ", " + c + " = excluded." + c
		}
		th.exec("INSERT INTO "+r.table+" VALUES ("+marks+") ON CONFLICT DO UPDATE SET "+set[2:], r.values...)
	}
}

func text(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	ok(t, err)
	return string(raw)
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits, as long as it takes on a slow machine, until done.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if done() {
			return
		}
	}
	t.Fatalf("not in a minute: %s", what)
}

// diesAfter submits a and lets the process die after step. It returns the id of
// the request, which is durable, and its capability.
func diesAfter(t *testing.T, e *testenv.Env, step string, a ...signing.Artifact) (id, capability string) {
	t.Helper()
	f := testenv.NewFaults(step, testenv.DiesAfter)
	s := e.Start(f)
	ans := s.Post("/v1/requests", e.GitHub(devworld.NewGitHubJob()), "k", testenv.Body("release", a...))
	select {
	case <-f.Died():
	case <-time.After(time.Minute):
		t.Fatalf("%s did not come to pass", step)
	}
	s.Stop()
	if ans.Status == http.StatusCreated {
		var r api.Request
		ans.JSON(t, &r)
		return r.ID, ans.Header.Get(api.HeaderCapability)
	}
	th := steal(t, e)
	ok(t, th.db.QueryRow("SELECT id FROM requests").Scan(&id))
	return id, ""
}

// detected waits until the alteration of a row of table is recorded, about the
// request, or about none. When no job is left there is nothing to wait for.
func detected(t *testing.T, s *testenv.Service, request, table string) {
	t.Helper()
	th := steal(t, s.Env)
	const query = `SELECT (SELECT count(*) FROM events WHERE body LIKE '%"tamper.detected"%' AND body LIKE ?1
		AND CASE ?2 WHEN '' THEN body NOT LIKE '%"sr\_%' ESCAPE '\' ELSE body LIKE '%"' || ?2 || '"%' END),
		(SELECT count(*) FROM jobs WHERE kind = 'drive' AND (?2 = '' OR ref = ?2))`
	events, jobs := 0, 0
	eventually(t, "tamper.detected "+request+" in "+table, func() bool {
		ok(t, th.db.QueryRow(query, `%"table":"`+table+`"%`, request).Scan(&events, &jobs))
		return events > 0 || jobs == 0
	})
	if events == 0 {
		t.Errorf("an altered row of %s was not detected; request %s", table, request)
	}
}

// unharmed makes sure that keys were used uses times in all, that nothing was
// signed for forged, and that the service still does its work.
func unharmed(t *testing.T, e *testenv.Env, s *testenv.Service, uses int, forged ...signing.Artifact) {
	t.Helper()
	name := fmt.Sprintf("honest-%d", uses)
	honest := e.ImageIn("payments/honest", "", t.Name()+name)
	r, capability := submit(t, s, name, honest)
	if r = finish(t, s, r.ID, capability); r.State != signing.Completed {
		t.Errorf("an honest request ended %s: %+v", r.State, r.Failure)
	}
	if n := e.Signatures(honest); n != 1 {
		t.Errorf("%d signatures for an honest request", n)
	}
	if n := e.KeyUses(); n != uses+1 {
		t.Errorf("%d key uses, want %d and the honest one", n, uses)
	}
	for _, a := range forged {
		if n := e.Signatures(a); n != 0 {
			t.Errorf("%d signatures of %s, which nobody decided to sign", n, a)
		}
	}
	attempts := 0
	for _, ev := range s.VerifyLog() {
		if ev.Kind == audit.KeyAttempt {
			attempts++
		}
	}
	if e.KeyUses() > attempts {
		t.Errorf("%d key uses, %d attempts in the log", e.KeyUses(), attempts)
	}
}

// ask submits for any job and policy.
func ask(t *testing.T, s *testenv.Service, j devworld.GitHubJob, idempotency, policy string, artifacts ...signing.Artifact) (api.Request, string) {
	t.Helper()
	ans := s.Post("/v1/requests", s.Env.GitHub(j), idempotency, testenv.Body(policy, artifacts...))
	if ans.Status != http.StatusCreated && ans.Status != http.StatusOK {
		t.Fatalf("submission answered %d: %s", ans.Status, ans.Body)
	}
	var r api.Request
	ans.JSON(t, &r)
	return r, ans.Header.Get(api.HeaderCapability)
}

// held holds the first request of a kind for the signatures of a: GET is the
// preparation, PUT the publication.
func held(httpMethod string, a signing.Artifact) devworld.Rule {
	return devworld.Rule{Method: httpMethod, Path: regexp.MustCompile("/manifests/sha256-" + a.Digest.Hex() + `\.sig$`), Times: 1, Hold: true}
}

// verified returns how many signatures of a by a key cosign accepts.
func verified(t *testing.T, s *testenv.Service, keyID string, a signing.Artifact) int {
	t.Helper()
	info, have := s.Keys.Info(keyID)
	if !have {
		t.Fatalf("no key %s", keyID)
	}
	n, err := cosign.New(s.Registry).VerifyImage(context.Background(), a, info)
	ok(t, err)
	return n
}

// state reads the state of a request as the service itself would.
func state(t *testing.T, s *testenv.Service, id string) (r *signing.Request, tasks []*signing.Task, err error) {
	t.Helper()
	err = s.Store.View(context.Background(), readBoth(id, &r, &tasks))
	return r, tasks, err
}

func isCode(err error, c signing.Code) bool { return errors.Is(err, c) }
