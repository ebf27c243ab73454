// Package evidence builds and verifies the evidence file of a Request: who asked,
// from which commit, what was decided and why, which key signed which bytes, where
// the signatures went, and the proof that the audit log said so at the time.
//
// A file verifies offline with the public key of the log and nothing else, in two
// layers. The whole content is signed with the log's key, so that not one byte of
// it can be changed. And nothing in it is taken from that signature alone: every
// statement is compared with an event of the Request, by value or by digest, and
// every event is proved to be in the log that a signed checkpoint commits to.
//
// It proves what the service said and logged. It cannot prove that the service
// logged everything: for that, compare with an export of the whole log.
package evidence

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
)

// Format names this version of the file.
const Format = "sealwright.dev/evidence/v1"

const (
	// MaxFile bounds a file: 4096 Tasks of 6 KiB, envelope and a certificate chain
	// included, and five events of 2 KiB for each with their proofs.
	MaxFile = 64 << 20
	// maxPath bounds an inclusion or consistency proof: a log has less than 2^63
	// entries, and a consistency proof has one hash more than its height.
	maxPath = 64
)

// Evidence is the content of a file.
type Evidence struct {
	Log     string          `json:"log"`     // name of the audit log
	Request signing.Request `json:"request"` // Version 0, without Asking and Reports
	Tasks   []signing.Task  `json:"tasks"`   // Version, Tries and Rounds 0
	// Keys are the public halves of the keys that signed.
	Keys   []signing.KeyRecord `json:"keys"`
	Events []Entry             `json:"events"` // about the Request, in the order of the log
	// Checkpoint is the signed note that the events are proved against.
	Checkpoint string `json:"checkpoint"`
	// Since, where it was asked for, proves that the log continues an older one.
	Since *Since `json:"since,omitempty"`
}

// Entry is an event in the log: Event is the leaf, Path its audit path (RFC 6962
// section 2.1.1).
type Entry struct {
	Index uint64          `json:"index"`
	Path  [][]byte        `json:"path"`
	Event json.RawMessage `json:"event"`
}

// Since is the consistency proof from the log of Size entries to the checkpoint
// (RFC 6962 section 2.1.2).
type Since struct {
	Size uint64   `json:"size"`
	Path [][]byte `json:"path"`
}

// file is the form on disk: one line of JSON, without space, and a line end.
// Signature is a signed note (C2SP) that names the digest of evidence.
type file struct {
	Format    string          `json:"format"`
	Evidence  json.RawMessage `json:"evidence"`
	Signature string          `json:"signature"`
}

// Write returns the evidence file of e, signed by the log's key through sign.
func Write(e *Evidence, sign func(what string, content signing.Digest) ([]byte, error)) ([]byte, error) {
	content, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encoding evidence: %w", err)
	}
	note, err := sign(Format, signing.DigestOf(content))
	if err != nil {
		return nil, fmt.Errorf("signing evidence: %w", err)
	}
	out, err := json.Marshal(file{Format, content, string(note)})
	if err != nil {
		return nil, fmt.Errorf("encoding evidence: %w", err)
	}
	if len(out) >= MaxFile {
		return nil, &signing.Error{Code: signing.TooLarge, Message: "the evidence of this request is too large for one file", Expected: fmt.Sprintf("at most %d bytes", MaxFile), Found: fmt.Sprint(len(out))}
	}
	return append(out, '\n'), nil
}

// normal leaves out what no event tells and nobody needs: how often a row was
// written, tries of a step, and where the service keeps what it wrote on the forge.
// Who was asked and what they said is in Approvals and in the events.
func normal(e Evidence) Evidence {
	e.Request.Version, e.Request.Asking, e.Request.Reports = 0, nil, nil
	tasks := make([]signing.Task, len(e.Tasks))
	for i, t := range e.Tasks {
		t.Version, t.Tries, t.Rounds = 0, 0, 0
		if t.State != signing.TaskFailed {
			t.Failure = nil // the last try's, which came right
		}
		tasks[i] = t
	}
	e.Tasks = tasks
	if e.Keys == nil {
		e.Keys = []signing.KeyRecord{}
	}
	return e
}

// open checks form and signature of a file, in this order: whatever it says is
// not looked at before the log's key has vouched for it.
func open(raw []byte, key *audit.Verifier) (*Evidence, error) {
	if len(raw) > MaxFile {
		return nil, refuse("the evidence file is too large", fmt.Sprintf("at most %d bytes", MaxFile), fmt.Sprintf("%d bytes", len(raw)))
	}
	var f file
	if err := exact(raw, &f); err != nil {
		return nil, err
	}
	if f.Format != Format {
		return nil, &signing.Error{Code: signing.Invalid, Message: "another format of evidence", Expected: Format, Found: fmt.Sprintf("%.80q", f.Format), Fix: "verify it with a sealwright of the version that made it"}
	}
	content, err := key.OpenStatement(Format, []byte(f.Signature))
	if err != nil {
		return nil, err
	}
	if got := signing.DigestOf(f.Evidence); got != content {
		return nil, refuse("the evidence is not what the log's key signed", string(content), string(got))
	}
	e := new(Evidence)
	if err := exact(append(f.Evidence, '\n'), e); err != nil {
		return nil, err
	}
	return e, nil
}

// exact decodes one line of JSON, which must be, byte for byte, how this version
// encodes what it says.
func exact[T any](raw []byte, v *T) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return &signing.Error{Code: signing.Invalid, Message: "not an evidence file", Expected: "a file from `sealwright evidence`", Found: "other JSON, or none", Fix: "take the file again; one of a newer service needs a newer sealwright", Err: err}
	}
	var again bytes.Buffer
	if err := json.NewEncoder(&again).Encode(v); err != nil {
		return fmt.Errorf("encoding evidence: %w", err)
	}
	if !bytes.Equal(again.Bytes(), raw) {
		return refuse("the evidence is not in its exact form", "one line of JSON as the service writes it", "the same in other bytes, or more")
	}
	return nil
}

// Read reads a file, up to its bound.
func Read(r io.Reader) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading evidence: %w", err)
	}
	if len(raw) > MaxFile {
		return nil, &signing.Error{Code: signing.TooLarge, Message: "too large for an evidence file", Expected: fmt.Sprintf("at most %d bytes", MaxFile), Found: "more"}
	}
	return raw, nil
}

// refuse is a finding: what the file says is not so.
func refuse(message, expected, found string) *signing.Error {
	return &signing.Error{Code: signing.Invalid, Message: message, Expected: clip(expected), Found: clip(found), Fix: "keep this file for examination, and take the evidence from the service again"}
}

// maxQuote is how much of a file's text an error repeats.
const maxQuote = 300

func clip(s string) string {
	if len(s) > maxQuote {
		s = s[:maxQuote] + "..."
	}
	return fmt.Sprintf("%+q", s)
}
