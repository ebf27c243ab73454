package store

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
)

// minCapabilityHash is the length of a SHA-256: less is not a hash of one.
const minCapabilityHash = 32

// NewRequest is what is stored along with a new Request.
type NewRequest struct {
	// IdempotencyScope and the Request's IdempotencyKey are unique together.
	IdempotencyScope string
	// ReplayKey is refused to others until ReplayUntil.
	ReplayKey      string
	ReplayUntil    time.Time
	CapabilityHash []byte // SHA-256 of the capability
	Events         []audit.Event
	Jobs           []Job
}

// InsertRequest stores a Request that is pending and has no version yet, and
// gives it version 1. It returns Conflict if the idempotency key was used in its
// scope (RequestByIdempotency has it) or the replay key is still kept.
func (tx *Tx) InsertRequest(r *signing.Request, n NewRequest) (err error) {
	defer tx.whole(&err)
	switch {
	case !signing.ValidRequestID(r.ID):
		return fmt.Errorf("inserting request: %.40q is not a request id", r.ID)
	case r.State != signing.Pending || r.Version != 0:
		return fmt.Errorf("inserting request %s: state %s and version %d, not pending and 0", r.ID, r.State, r.Version)
	case r.IdempotencyKey == "" || n.IdempotencyScope == "" || n.ReplayKey == "" || n.ReplayUntil.IsZero() || len(n.CapabilityHash) < minCapabilityHash:
		return fmt.Errorf("inserting request %s: idempotency scope and key, replay key and its end, and capability hash are all needed", r.ID)
	}
	if err := about(n.Events, r.ID, ""); err != nil {
		return err
	}
	if err := tx.UseToken(n.ReplayKey, n.ReplayUntil); err != nil {
		return err
	}
	next := *r
	next.Version = 1
	doc, sum, err := tx.sealRequest(&next)
	if err != nil {
		return err
	}
	inserted, err := tx.exec("INSERT INTO requests (id, state, version, deadline, document, mac_key, mac, project) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
		r.ID, string(next.State), next.Version, nanos(r.Deadline), doc, sum.key, sum.mac, r.Project)
	if err != nil {
		return err
	}
	if inserted == 0 {
		return conflict("there is a request of this id", "a new id", r.ID, "submit again")
	}
	sum = tx.seal.seal(idempotencyDomain, n.IdempotencyScope, r.IdempotencyKey, r.ID)
	inserted, err = tx.exec("INSERT INTO idempotency (scope, key, request_id, mac_key, mac) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", n.IdempotencyScope, r.IdempotencyKey, r.ID, sum.key, sum.mac)
	if err != nil {
		return err
	}
	if inserted == 0 {
		return conflict("the idempotency key was already used", "a key that is new in its run", "an earlier request", "read the earlier request, or use another Idempotency-Key")
	}
	if err := tx.SetCapability(r.ID, n.CapabilityHash); err != nil {
		return err
	}
	if err := tx.indexDigests(r.ID, r.Artifacts); err != nil {
		return err
	}
	if err := tx.follow(n.Events, n.Jobs); err != nil {
		return err
	}
	set(tx, &r.Version, next.Version)
	return nil
}

// UseToken keeps a replay key until a time, or returns Conflict if it is kept.
func (tx *Tx) UseToken(replayKey string, until time.Time) error {
	inserted, err := tx.exec("INSERT INTO replays (key, expires) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET expires = excluded.expires WHERE replays.expires <= ?", replayKey, nanos(until), nanos(tx.now))
	if err != nil {
		return err
	}
	if inserted == 0 {
		return conflict("this token was already used for a submission", "a token and idempotency key that were not used together before", "a replay", "ask the CI for a fresh token")
	}
	return nil
}

// Alias lets RequestByIdempotency find a Request by a second scope and key. A
// Request that is found there already stays.
func (tx *Tx) Alias(scope, key, requestID string) error {
	sum := tx.seal.seal(idempotencyDomain, scope, key, requestID)
	_, err := tx.exec("INSERT INTO idempotency (scope, key, request_id, mac_key, mac) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", scope, key, requestID, sum.key, sum.mac)
	return err
}

func (tx *Tx) sealRequest(r *signing.Request) (doc string, sum seal, err error) {
	raw, err := json.Marshal(r)
	if err != nil {
		return "", seal{}, fmt.Errorf("encoding request %s: %w", r.ID, err)
	}
	return string(raw), tx.seal.seal(requestDomain, r.ID, r.ID, string(r.State), strconv.FormatInt(r.Version, 10), string(raw)), nil
}

// requestColumns is the order in which openRequest scans.
const requestColumns = "SELECT id, state, version, deadline, document, mac_key, mac, project FROM requests"

// Request returns the Request with this id, or NotFound.
func (tx *Tx) Request(id string) (*signing.Request, error) {
	found, err := tx.requests(requestColumns+" WHERE id = ?", id)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, noRequest(id)
	}
	if found[0].ID != id {
		return nil, Tampered("requests", fmt.Sprintf("request %.40s", id), "columns that disagree with the document")
	}
	return found[0], nil
}

func noRequest(id string) error {
	return &signing.Error{Code: signing.NotFound, Message: "no such request", Found: fmt.Sprintf("%.40q", id)}
}

// Versions returns the sum of the versions that the rows of a Request and its Tasks
// bear, for a look whether there is something new: nothing vouches for it, unlike
// what Request and Tasks return. NotFound if there is no such Request.
func (tx *Tx) Versions(id string) (sum int64, err error) {
	if err := tx.flush(); err != nil {
		return 0, err
	}
	found, err := tx.row([]any{&sum}, "SELECT version + (SELECT coalesce(sum(version), 0) FROM tasks WHERE request_id = requests.id) FROM requests WHERE id = ?", id)
	if err == nil && !found {
		err = noRequest(id)
	}
	return sum, err
}

// Requests returns the Requests with these ids, those that are there, in the order
// of their ids.
func (tx *Tx) Requests(ids []string) ([]*signing.Request, error) {
	raw, err := json.Marshal(ids)
	if err != nil {
		return nil, fmt.Errorf("encoding ids: %w", err)
	}
	return tx.requests(requestColumns+" WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id", string(raw))
}

func (tx *Tx) requests(query string, args ...any) ([]*signing.Request, error) {
	if err := tx.flush(); err != nil {
		return nil, err
	}
	var out []*signing.Request
	err := tx.rows(func(scan func(...any) error) error {
		r, err := tx.openRequest(scan)
		out = append(out, r)
		return err
	}, query, args...)
	return out, err
}

func (tx *Tx) openRequest(scan func(...any) error) (*signing.Request, error) {
	var id, state, doc, project string
	var version, deadline int64
	var sum seal
	if err := scan(&id, &state, &version, &deadline, &doc, &sum.key, &sum.mac, &project); err != nil {
		return nil, dbError("reading request", err)
	}
	what := fmt.Sprintf("request %.40s", id)
	if err := tx.seal.verify(what, sum, requestDomain, id, id, state, strconv.FormatInt(version, 10), doc); err != nil {
		return nil, err
	}
	r := new(signing.Request)
	if err := json.Unmarshal([]byte(doc), r); err != nil {
		return nil, fmt.Errorf("decoding request %s: %w", id, err)
	}
	if r.ID != id || string(r.State) != state || r.Version != version || nanos(r.Deadline) != deadline || r.Project != project {
		return nil, Tampered("requests", what, "columns that disagree with the document")
	}
	return r, nil
}

// CheckRequest returns Conflict unless the row is still the version that r is. It
// reads no content: what r says is what its holder has authenticated or written.
func (tx *Tx) CheckRequest(r *signing.Request) error {
	if err := tx.flush(); err != nil {
		return err
	}
	var one int
	found, err := tx.row([]any{&one}, "SELECT 1 FROM requests WHERE id = ? AND state = ? AND version = ?", r.ID, string(r.State), r.Version)
	if err == nil && !found {
		err = moved("request "+r.ID, string(r.State), r.Version)
	}
	return err
}

// RequestByIdempotency returns the Request that was inserted with this scope
// and key, or NotFound.
func (tx *Tx) RequestByIdempotency(scope, key string) (*signing.Request, error) {
	var id string
	var sum seal
	found, err := tx.row([]any{&id, &sum.key, &sum.mac}, "SELECT request_id, mac_key, mac FROM idempotency WHERE scope = ? AND key = ?", scope, key)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, &signing.Error{Code: signing.NotFound, Message: "no request with this idempotency key"}
	}
	if err := tx.seal.verify("the idempotency key of request "+id, sum, idempotencyDomain, scope, key, id); err != nil {
		return nil, err
	}
	return tx.Request(id)
}

// SetCapability replaces the capability hash of a Request.
func (tx *Tx) SetCapability(id string, hash []byte) error {
	sum := tx.seal.seal(capabilityDomain, id, string(hash))
	_, err := tx.exec("INSERT INTO capabilities (request_id, hash, mac_key, mac) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET hash = excluded.hash, mac_key = excluded.mac_key, mac = excluded.mac", id, hash, sum.key, sum.mac)
	return err
}

// Capability returns the capability hash of a Request, or NotFound.
func (tx *Tx) Capability(id string) ([]byte, error) {
	var hash []byte
	var sum seal
	found, err := tx.row([]any{&hash, &sum.key, &sum.mac}, "SELECT hash, mac_key, mac FROM capabilities WHERE request_id = ?", id)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, noRequest(id)
	}
	return hash, tx.seal.verify(fmt.Sprintf("the capability of request %.40s", id), sum, capabilityDomain, id, string(hash))
}

// taskColumns is the order in which openTask scans.
const taskColumns = "SELECT request_id, n, state, version, prepared, intent, document, mac_key, mac FROM tasks"

// Task returns the Task with the id REQUEST.N, or NotFound.
func (tx *Tx) Task(id string) (*signing.Task, error) {
	request, n, ok := splitTaskID(id)
	if ok {
		tasks, err := tx.tasks(taskColumns+" WHERE request_id = ? AND n = ?", request, n)
		if err != nil {
			return nil, err
		}
		if len(tasks) == 1 && tasks[0].ID == id {
			return tasks[0], nil
		}
	}
	return nil, &signing.Error{Code: signing.NotFound, Message: "no such task", Found: fmt.Sprintf("%.40q", id)}
}

// Tasks returns the Tasks of a Request in order; none is not an error.
func (tx *Tx) Tasks(requestID string) ([]*signing.Task, error) {
	tasks, err := tx.tasks(taskColumns+" WHERE request_id = ? ORDER BY n", requestID)
	if err != nil {
		return nil, err
	}
	for i, t := range tasks {
		if t.ID != taskID(requestID, int64(i)+1) {
			return nil, Tampered("tasks", fmt.Sprintf("the list of tasks of request %.40s", requestID), fmt.Sprintf("%s where task %d should be", t.ID, i+1))
		}
	}
	return tasks, nil
}

func (tx *Tx) tasks(query string, args ...any) ([]*signing.Task, error) {
	if err := tx.flush(); err != nil {
		return nil, err
	}
	var out []*signing.Task
	err := tx.rows(func(scan func(...any) error) error {
		t, err := tx.openTask(scan)
		out = append(out, t)
		return err
	}, query, args...)
	return out, err
}

func (tx *Tx) openTask(scan func(...any) error) (*signing.Task, error) {
	var request, state, intent, doc string
	var n, version, prepared int64
	var sum seal
	if err := scan(&request, &n, &state, &version, &prepared, &intent, &doc, &sum.key, &sum.mac); err != nil {
		return nil, dbError("reading task", err)
	}
	id := taskID(request, n)
	what := fmt.Sprintf("task %.40s", id)
	if err := tx.seal.verify(what, sum, taskDomain, id, request, state, strconv.FormatInt(version, 10), doc); err != nil {
		return nil, err
	}
	t := new(signing.Task)
	if err := json.Unmarshal([]byte(doc), t); err != nil {
		return nil, fmt.Errorf("decoding task %s: %w", id, err)
	}
	digest, err := intentDigest(t.Intent)
	if err != nil {
		return nil, err
	}
	if t.ID != id || t.RequestID != request || string(t.State) != state || t.Version != version || preparedAt(t) != prepared || digest != intent {
		return nil, Tampered("tasks", what, "columns that disagree with the document")
	}
	return t, nil
}

func (tx *Tx) sealTask(t *signing.Task) (doc string, sum seal, err error) {
	raw, err := json.Marshal(t)
	if err != nil {
		return "", seal{}, fmt.Errorf("encoding task %s: %w", t.ID, err)
	}
	return string(raw), tx.seal.seal(taskDomain, t.ID, t.RequestID, string(t.State), strconv.FormatInt(t.Version, 10), string(raw)), nil
}

func taskID(request string, n int64) string { return request + "." + strconv.FormatInt(n, 10) }

func splitTaskID(id string) (request string, n int64, ok bool) {
	request, number, _ := strings.Cut(id, ".")
	n, err := strconv.ParseInt(number, 10, 32)
	return request, n, err == nil && n > 0 && taskID(request, n) == id
}

// intentDigest identifies what is to be signed and what assembles it, not when
// that was prepared; it is empty without an Intent.
func intentDigest(in *signing.Intent) (string, error) {
	if in == nil {
		return "", nil
	}
	same := *in
	same.Created = time.Time{}
	return digestOf(same)
}

func digestOf(v any) (string, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("encoding %T: %w", v, err)
	}
	return string(signing.DigestOf(raw)), nil
}

func preparedAt(t *signing.Task) int64 {
	if t.Intent == nil {
		return 0
	}
	return nanos(t.Intent.Created)
}
