package signing

import (
	"encoding/json"
	"time"
)

// The digests in this file tie what the database holds to the audit log: events
// carry them, and whoever has the record can compute them again. Each is over
// encoding/json's encoding (field order fixed, map keys sorted) and empty, which
// no event accepts, for what cannot be encoded.

// SubmissionDigest returns the digest of everything that is fixed when a Request
// is submitted.
func (r Request) SubmissionDigest() Digest {
	r.State, r.Version, r.Project, r.Decision, r.Approvals, r.Asking, r.Reports = "", 0, "", nil, nil, nil, nil
	r.CancelRequested, r.Failure, r.Ended = false, nil, time.Time{}
	return encodedDigest(r)
}

// Digest returns the digest of the whole Decision: effect, reasons, basis and
// observations.
func (d Decision) Digest() Digest { return encodedDigest(d) }

// Digest returns the digest of the whole Approval.
func (a Approval) Digest() Digest { return encodedDigest(a) }

// RecordDigest returns the digest of what a Task is and has: artifact, step,
// intent, envelope, locations. Its state and how often something was tried are
// told by the order of its events.
func (t Task) RecordDigest() Digest {
	t.State, t.Version, t.Attempts, t.Tries, t.Rounds, t.Released, t.Failure = "", 0, 0, 0, 0, false, nil
	return encodedDigest(t)
}

// Digest returns the digest of what a client is told of an error.
func (e Error) Digest() Digest { return encodedDigest(e) }

func encodedDigest(v any) Digest {
	raw, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return DigestOf(raw)
}
