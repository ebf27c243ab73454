package store

import (
	"strconv"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// Entry is what the service has bound a tag to, in a part of a repository.
type Entry struct {
	signing.Change
	// Request is the last that did so, and At when.
	Request string
	At      time.Time
}

// Kept is a part of a repository, in which the service has bound tags.
type Kept struct {
	Repository signing.Repository
	Part       string
}

func entryFields(k Kept, e Entry) []string {
	return []string{string(k.Repository), k.Part, e.Tag, string(e.Digest), strconv.FormatInt(e.Size, 10), e.Request, strconv.FormatInt(nanos(e.At), 10)}
}

// recordEntries remembers what a Task with a Part has published. A tag that was
// removed is forgotten: who puts it back is not the service.
func (tx *Tx) recordEntries(t *signing.Task) error {
	k := Kept{t.Artifact.Repository, t.Part}
	for _, c := range t.Changes {
		if c.Remove {
			if _, err := tx.exec("DELETE FROM trust_entries WHERE gun = ? AND role = ? AND tag = ?", string(k.Repository), k.Part, c.Tag); err != nil {
				return err
			}
			continue
		}
		e := Entry{Change: c, Request: t.RequestID, At: tx.now}
		sum := tx.seal.seal(entryDomain, entryFields(k, e)...)
		_, err := tx.exec("INSERT INTO trust_entries (gun, role, tag, digest, size, request_id, at, mac_key, mac) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET digest = excluded.digest, size = excluded.size, request_id = excluded.request_id, at = excluded.at, mac_key = excluded.mac_key, mac = excluded.mac",
			string(k.Repository), k.Part, c.Tag, string(c.Digest), c.Size, e.Request, nanos(e.At), sum.key, sum.mac)
		if err != nil {
			return err
		}
	}
	return nil
}

// Kept returns every part of a repository in which the service has bound tags, in
// order.
func (tx *Tx) Kept() ([]Kept, error) {
	if err := tx.flush(); err != nil {
		return nil, err
	}
	var out []Kept
	err := tx.rows(func(scan func(...any) error) error {
		var repository, part string
		if err := scan(&repository, &part); err != nil {
			return dbError("reading what is kept", err)
		}
		out = append(out, Kept{signing.Repository(repository), part})
		return nil
	}, "SELECT DISTINCT gun, role FROM trust_entries ORDER BY gun, role")
	return out, err
}

// Entries returns what the service has bound in a part of a repository, by tag.
func (tx *Tx) Entries(k Kept) (map[string]Entry, error) {
	if err := tx.flush(); err != nil {
		return nil, err
	}
	out := map[string]Entry{}
	err := tx.rows(func(scan func(...any) error) error {
		var e Entry
		var digest string
		var at int64
		var sum seal
		if err := scan(&e.Tag, &digest, &e.Size, &e.Request, &at, &sum.key, &sum.mac); err != nil {
			return dbError("reading a bound tag", err)
		}
		e.Digest, e.At = signing.Digest(digest), fromNanos(at)
		if err := tx.seal.verify("tag "+e.Tag+" of "+k.Part+" of "+string(k.Repository), sum, entryDomain, entryFields(k, e)...); err != nil {
			return err
		}
		out[e.Tag] = e
		return nil
	}, "SELECT tag, digest, size, request_id, at, mac_key, mac FROM trust_entries WHERE gun = ? AND role = ?", string(k.Repository), k.Part)
	return out, err
}
