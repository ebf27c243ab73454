package store

import (
	"fmt"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// Contents sums up what was uploaded for a Request.
type Contents struct {
	N         int   // pieces
	Bytes     int64 // of all
	Artifacts int   // how many of the digests that the Request names itself
}

// PutContent keeps a piece of content for a Request. The same again changes
// nothing. It goes when the Request is decided, or ends.
func (tx *Tx) PutContent(request string, digest signing.Digest, artifact bool, content []byte) error {
	if got := signing.DigestOf(content); got != digest {
		return &signing.Error{Code: signing.Invalid, Message: "the content does not have the digest that it is sent under", Expected: string(digest), Found: string(got), Fix: "send exactly the bytes that the registry has"}
	}
	_, err := tx.exec("INSERT INTO contents (request_id, digest, artifact, content) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", request, string(digest), artifact, content)
	return err
}

// Content returns a piece of content, or NotFound. What was altered is refused:
// it has another digest.
func (tx *Tx) Content(request string, digest signing.Digest) ([]byte, error) {
	var content []byte
	found, err := tx.row([]any{&content}, "SELECT content FROM contents WHERE request_id = ? AND digest = ?", request, string(digest))
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, &signing.Error{Code: signing.NotFound, Message: "no such content", Found: string(digest)}
	}
	if got := signing.DigestOf(content); got != digest {
		return nil, Tampered("contents", "content of request "+request, fmt.Sprintf("%s where %s should be", got, digest))
	}
	return content, nil
}

// Contents returns what was uploaded for a Request so far.
func (tx *Tx) Contents(request string) (c Contents, err error) {
	_, err = tx.row([]any{&c.N, &c.Bytes, &c.Artifacts}, "SELECT count(*), coalesce(sum(length(content)), 0), coalesce(sum(artifact), 0) FROM contents WHERE request_id = ?", request)
	return c, err
}

// dropContents forgets what was uploaded for a Request that leaves pending.
func (tx *Tx) dropContents(r *signing.Request, to signing.RequestState) error {
	if r.Publish != signing.ByClient || r.State != signing.Pending || to == signing.Pending {
		return nil
	}
	_, err := tx.exec("DELETE FROM contents WHERE request_id = ?", r.ID)
	return err
}

// ClientOwner begins the owner of a lease that a job holds. It outlives a restart
// of the service: the job does not know of that, and writes on.
const ClientOwner = "client "

// HeldLease returns fence and end of a lease that owner holds now, or NotFound.
func (tx *Tx) HeldLease(name, owner string) (fence int64, until time.Time, err error) {
	var end int64
	found, err := tx.row([]any{&fence, &end}, "SELECT fence, until FROM leases WHERE name = ? AND owner = ? AND until > ?", name, owner, nanos(tx.now))
	if err == nil && !found {
		err = &signing.Error{Code: signing.NotFound, Message: "no such lease", Found: name}
	}
	return fence, fromNanos(end), err
}
