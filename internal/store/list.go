package store

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"

	"github.com/sealwright/sealwright/internal/signing"
)

// maxScan is how many rows one page of a filtered list looks at: some
// milliseconds, so that a filter that matches nothing cannot occupy a reader.
const maxScan = 5000

// Filter says which Requests to list; an empty field means any.
type Filter struct {
	Project string
	State   signing.RequestState
	// Digest is that of an artifact that was submitted, or signed below one.
	Digest signing.Digest
}

// List returns the Requests that f matches, the last submitted first: at most n
// of those before the place before, 0 for the newest. next is the place to go on
// from, 0 at the end. A page may have fewer than n, or none, and go on: one call
// looks at a bounded number of rows.
//
// Every Request is opened as Request does. A Request that was made to disappear
// from the index is not noticed here: the audit log is what proves absence.
func (tx *Tx) List(f Filter, before int64, n int) (out []*signing.Request, next int64, err error) {
	if err := tx.flush(); err != nil {
		return nil, 0, err
	}
	if before <= 0 {
		before = math.MaxInt64
	}
	query, args := "SELECT id, rowid, state, project FROM requests WHERE rowid < ? ORDER BY rowid DESC LIMIT ?", []any{before, maxScan}
	if f.Digest != "" {
		query = "SELECT r.id, r.rowid, r.state, r.project FROM request_digests d JOIN requests r ON r.id = d.request_id WHERE d.digest = ? AND r.rowid < ? ORDER BY r.rowid DESC LIMIT ?"
		args = []any{string(f.Digest), before, maxScan}
	}
	if f.Project == "" && f.State == "" {
		args[len(args)-1] = n + 1
	}
	var ids []string
	var looked, last int64
	err = tx.rows(func(scan func(...any) error) error {
		var id, state, project string
		var at int64
		if err := scan(&id, &at, &state, &project); err != nil {
			return dbError("listing requests", err)
		}
		looked++
		matches := (f.State == "" || string(f.State) == state) && (f.Project == "" || f.Project == project)
		switch {
		case len(ids) < n:
			last = at
			if matches {
				ids = append(ids, id)
			}
		case next == 0:
			next = last // there is at least one more row
		}
		return nil
	}, query, args...)
	if err != nil {
		return nil, 0, err
	}
	if looked == maxScan && next == 0 {
		next = last
	}
	for _, id := range ids {
		r, err := tx.Request(id)
		if err != nil {
			return nil, 0, err
		}
		if f.Digest != "" {
			if err := tx.concerns(r, f.Digest); err != nil {
				return nil, 0, err
			}
		}
		out = append(out, r)
	}
	return out, next, nil
}

// concerns holds a row of the index against the sealed documents.
func (tx *Tx) concerns(r *signing.Request, digest signing.Digest) error {
	of := func(a signing.Artifact) bool { return a.Digest == digest }
	if slices.ContainsFunc(r.Artifacts, of) {
		return nil
	}
	tasks, err := tx.Tasks(r.ID)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(tasks, func(t *signing.Task) bool { return t.Part == "" && of(t.Artifact) }) {
		return nil
	}
	return Tampered("request_digests", "the index of request "+r.ID, "a digest that the request does not have")
}

// indexDigests makes a Request known by the digests of artifacts.
func (tx *Tx) indexDigests(id string, artifacts []signing.Artifact) error {
	digests := make([]string, 0, len(artifacts))
	for _, a := range artifacts {
		digests = append(digests, string(a.Digest))
	}
	raw, err := json.Marshal(digests)
	if err != nil {
		return fmt.Errorf("encoding digests: %w", err)
	}
	_, err = tx.exec("INSERT INTO request_digests (digest, request_id) SELECT value, ? FROM json_each(?) WHERE true ON CONFLICT DO NOTHING", id, string(raw))
	return err
}

// indexTasks does so for artifacts that were not submitted by themselves: the
// manifests below an index.
func (tx *Tx) indexTasks(r *signing.Request, tasks []*signing.Task) error {
	known := make(map[signing.Digest]bool, len(r.Artifacts))
	for _, a := range r.Artifacts {
		known[a.Digest] = true
	}
	var more []signing.Artifact
	for _, t := range tasks {
		if t.Part == "" && !known[t.Artifact.Digest] {
			known[t.Artifact.Digest] = true
			more = append(more, t.Artifact)
		}
	}
	if len(more) == 0 {
		return nil
	}
	return tx.indexDigests(r.ID, more)
}
