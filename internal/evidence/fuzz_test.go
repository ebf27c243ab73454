package evidence_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/evidence"
	"github.com/sealwright/sealwright/internal/signing"
)

// small is the evidence of a denied Request, made without a service.
func small(t testing.TB) sample {
	t.Helper()
	private, _, err := audit.GenerateKey(rand.NewChaCha8([32]byte{1}), "sealwright.example/log")
	ok(t, err)
	signer, err := audit.NewSigner(private)
	ok(t, err)
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	e := &evidence.Evidence{Log: signer.Verifier().Origin(), Keys: []signing.KeyRecord{}, Tasks: []signing.Task{}, Request: signing.Request{
		ID: "sr_0123456789ABCDEF", State: signing.RequestDenied, Policy: "release", IdempotencyKey: "k", BodyDigest: signing.DigestOf(nil),
		Artifacts: []signing.Artifact{{Repository: "registry.example/app", Digest: signing.DigestOf(nil)}},
		Submitted: at, Deadline: at.Add(time.Hour), Ended: at.Add(time.Second),
		Decision: &signing.Decision{Effect: signing.Deny, Reasons: signing.Reason{Rule: "policy", Found: "none"}, At: at},
		Failure:  &signing.Error{Code: signing.Denied, Message: "no such policy"},
	}}
	denied := audit.Denied(&e.Request, 1)
	audit.Failure(denied, e.Request.Failure)
	logged(t, signer, e, func([]audit.Event) []audit.Event {
		return []audit.Event{
			{Time: at, Kind: audit.RequestSubmitted, Request: e.Request.ID, Attrs: audit.Submitted(&e.Request)},
			{Time: e.Request.Ended, Kind: audit.RequestDenied, Request: e.Request.ID, Attrs: denied},
		}
	})
	s := sample{signer: signer}
	s.raw = s.resigned(t, e)
	s.content(t)
	return s
}

// FuzzVerify tries other files. What verifies is the one file that there is.
func FuzzVerify(f *testing.F) {
	s := small(f)
	f.Add(s.raw)
	f.Add(s.raw[:len(s.raw)/2])
	f.Add([]byte(`{"format":"sealwright.dev/evidence/v1","evidence":{},"signature":""}` + "\n"))
	o := s.options()
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, err := evidence.Verify(raw, o); err == nil && !bytes.Equal(raw, s.raw) {
			t.Errorf("verified: %q", raw)
		}
	})
}

// FuzzSignedContent has the log's key sign anything: whatever it is, it is judged
// and not a crash.
func FuzzSignedContent(f *testing.F) {
	s := small(f)
	var file struct {
		Evidence json.RawMessage `json:"evidence"`
	}
	ok(f, json.Unmarshal(s.raw, &file))
	f.Add([]byte(file.Evidence))
	f.Add([]byte(`{}`))
	o := s.options()
	f.Fuzz(func(t *testing.T, content []byte) {
		var compact bytes.Buffer
		if json.Compact(&compact, content) != nil {
			return
		}
		note, err := s.signer.SignStatement(evidence.Format, signing.DigestOf(compact.Bytes()))
		ok(t, err)
		raw, err := json.Marshal(struct {
			Format    string          `json:"format"`
			Evidence  json.RawMessage `json:"evidence"`
			Signature string          `json:"signature"`
		}{evidence.Format, compact.Bytes(), string(note)})
		ok(t, err)
		if _, err := evidence.Verify(append(raw, '\n'), o); err == nil && !bytes.Equal(compact.Bytes(), file.Evidence) {
			t.Errorf("verified: %s", compact.Bytes())
		}
	})
}
