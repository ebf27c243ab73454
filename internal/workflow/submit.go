package workflow

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

// capabilityBytes is the size of a capability: 256 bits cannot be guessed.
const capabilityBytes = 32

var (
	reIdempotency = regexp.MustCompile(`^[!-~]{1,255}$`)
	rePolicyName  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
)

// Submission is what a job asks for.
type Submission struct {
	Policy    string
	Artifacts []signing.Artifact // repository, digest and the tag to be signed along, if any
	// Untrust lists tags, without digests, whose trust is to be withdrawn.
	Untrust        []signing.Artifact
	IdempotencyKey string
	Deadline       time.Duration // 0 means DefaultDeadline
	// Publish says who writes the signatures.
	Publish signing.Publisher
}

// Receipt is the answer to a submission that is durable.
type Receipt struct {
	Snapshot
	// Capability lets its holder read this Request until its deadline. It is
	// shown once; the service keeps a hash.
	Capability string
	// Created is false where the same submission was already there.
	Created bool
}

// validate checks everything of a submission that needs nobody else, and
// returns it in canonical form.
func (s Submission) validate() (Submission, error) {
	if !rePolicyName.MatchString(s.Policy) {
		return s, &signing.Error{Code: signing.Invalid, Message: "not the name of a policy", Expected: "1 to 128 of letters, digits, '.', '_', '-'", Found: fmt.Sprintf("%.80q", s.Policy), Fix: "name the signing policy as it is named in the service's configuration, for example release"}
	}
	if !reIdempotency.MatchString(s.IdempotencyKey) {
		return s, &signing.Error{Code: signing.Invalid, Message: "not an idempotency key", Expected: "1 to 255 printable ASCII characters without spaces", Found: fmt.Sprintf("%.140q", s.IdempotencyKey), Fix: "send an Idempotency-Key header that names this submission within the run"}
	}
	if n := len(s.Artifacts) + len(s.Untrust); n == 0 || n > signing.MaxArtifacts {
		return s, &signing.Error{Code: signing.Invalid, Message: "wrong number of artifacts and tags to untrust", Expected: fmt.Sprintf("1 to %d", signing.MaxArtifacts), Found: fmt.Sprint(n), Fix: "split the submission"}
	}
	if s.Deadline < 0 || s.Deadline > MaxDeadline {
		return s, &signing.Error{Code: signing.Invalid, Message: "deadline out of range", Expected: "at most " + MaxDeadline.String(), Found: s.Deadline.String()}
	}
	if !s.Publish.Valid() {
		return s, &signing.Error{Code: signing.Invalid, Message: "nobody is known who could publish", Expected: "service or client", Found: fmt.Sprintf("%.40q", s.Publish)}
	}
	if s.Deadline == 0 {
		s.Deadline = DefaultDeadline
	}
	seen := map[string]bool{}
	for i, a := range s.Artifacts {
		if err := a.Validate(); err != nil {
			return s, fmt.Errorf("artifact %d: %w", i+1, err)
		}
		a.MediaType, a.Size = "", 0 // only the registry says what it is
		s.Artifacts[i] = a
		if seen[a.String()] {
			return s, &signing.Error{Code: signing.Invalid, Message: "an artifact is named twice", Found: a.String(), Fix: "name each artifact once"}
		}
		seen[a.String()] = true
	}
	for i, a := range s.Untrust {
		if err := a.ValidateUntrust(); err != nil {
			return s, fmt.Errorf("tag %d to untrust: %w", i+1, err)
		}
	}
	return s, signing.CheckTags(s.Artifacts, s.Untrust)
}

// body is what makes two submissions the same one.
func (s Submission) body() (signing.Digest, error) {
	raw, err := json.Marshal(struct {
		Policy    string
		Artifacts []signing.Artifact
		Deadline  time.Duration
		Publish   signing.Publisher
		Untrust   []signing.Artifact `json:",omitempty"` // a body without it has the digest that it always had
	}{s.Policy, s.Artifacts, s.Deadline, s.Publish, s.Untrust})
	if err != nil {
		return "", fmt.Errorf("encoding submission: %w", err)
	}
	return signing.DigestOf(raw), nil
}

// scope names the run within which idempotency keys are unique.
func scope(id signing.Identity, o signing.Origin) string {
	return strings.Join([]string{id.Issuer, o.SourceRepositoryIdentifier, o.RunID, o.RunAttempt}, "\n")
}

// runScope names a run with all of its attempts. Scopes of its idempotency keys
// begin with it and a line end.
func runScope(id signing.Identity, o signing.Origin) string {
	return strings.Join([]string{id.Issuer, o.SourceRepositoryIdentifier, o.RunID}, "\n")
}

// replayKey names the one use that a token has. A token that its CI gives once
// for a whole job may submit several Requests, each once.
func replayKey(id signing.Identity, idempotency string) string {
	token := id.TokenID
	if token == "" {
		token = id.TokenHash
	}
	key := id.Issuer + "\n" + token
	if id.PerJob {
		key += "\n" + idempotency
	}
	return key
}

// Submit records a Request. When it returns without error the Request is
// durable and will be decided even if the process dies. Submitting the same
// body under the same idempotency key in the same run again is the same
// Request; its capability is rotated. So is, where the policy says so, a later
// attempt of the run that asks for the same as an earlier one.
//
// Errors: Invalid; Denied for an identity that may not submit; Conflict for a
// used token or an idempotency key that stands for another body; Unavailable.
func (w *Workflow) Submit(ctx context.Context, id signing.Identity, origin signing.Origin, s Submission) (Receipt, error) {
	started := w.Now()
	if id.Role != signing.RoleCI {
		return Receipt{}, &signing.Error{Code: signing.Denied, Message: "this token may not submit requests", Expected: "a token of an issuer with role ci", Found: "role " + string(id.Role), Fix: "submit from a CI job"}
	}
	s, err := s.validate()
	if err != nil {
		return Receipt{}, err
	}
	body, err := s.body()
	if err != nil {
		return Receipt{}, err
	}
	requestID, err := signing.NewRequestID(w.Rand)
	if err != nil {
		return Receipt{}, err
	}
	capability, hash, err := w.newCapability()
	if err != nil {
		return Receipt{}, err
	}

	r := &signing.Request{
		ID: requestID, State: signing.Pending, Policy: s.Policy, Artifacts: s.Artifacts, Untrust: s.Untrust, Publish: s.Publish, Identity: id, Origin: origin,
		IdempotencyKey: s.IdempotencyKey, BodyDigest: body, Submitted: started, Deadline: started.Add(s.Deadline),
	}
	first, attaches := w.attempts(id, origin, s, body)
	// A free worker takes the job in the same commit; else it waits its turn.
	mine := w.takeSlot()
	var claim *store.Claim
	out := Receipt{Capability: capability}
	err = w.Store.Update(ctx, "submit", func(tx *store.Tx) error {
		claim, out.Created = nil, false
		have, err := tx.RequestByIdempotency(scope(id, origin), s.IdempotencyKey)
		if err == nil {
			return w.repeat(tx, &out, have, body, hash)
		}
		if !errors.Is(err, signing.NotFound) {
			return err
		}
		n := store.NewRequest{
			IdempotencyScope: scope(id, origin), ReplayKey: replayKey(id, s.IdempotencyKey), ReplayUntil: id.Accepted, CapabilityHash: hash,
			Events: []audit.Event{{Time: tx.Now(), Kind: audit.RequestSubmitted, Request: r.ID, Attrs: audit.Submitted(r)}},
		}
		if attaches {
			if attached, err := w.attach(tx, &out, first, r, n); attached || err != nil {
				return err
			}
		}
		if err := tx.InsertRequest(r, n); err != nil {
			return err
		}
		if attaches {
			if err := tx.Alias(first.scope, first.key, r.ID); err != nil {
				return err
			}
		}
		out.Created, out.Snapshot = true, Snapshot{Request: r}
		if mine {
			claim, err = tx.EnqueueClaimed(store.Job{Kind: jobDrive, Ref: r.ID, RunAt: tx.Now()}, w.Owner, w.Lease)
			return err
		}
		return tx.Enqueue(store.Job{Kind: jobDrive, Ref: r.ID, RunAt: tx.Now()})
	})
	// From here on the Request is durable, or the error says that it is not.
	switch {
	case err == nil && claim != nil:
		// The drive changes the Request it was given: hand out a copy.
		out.Snapshot = *copied(r, nil)
		_, leave := w.attend(r.ID)
		w.learn(r.ID, &out.Snapshot, hash)
		w.start(claim, r)
		leave()
	case mine:
		<-w.slots
		if claim != nil {
			// The commit may have happened: its job must not wait for a worker
			// that does not know of it. If it did not, there is nothing to release.
			_ = w.Store.Update(context.WithoutCancel(ctx), "release", func(tx *store.Tx) error { return tx.Release(claim, tx.Now()) })
		}
		w.kick()
	default:
		w.kick()
	}
	if err != nil {
		return Receipt{}, err
	}
	if !out.Created {
		w.learn(out.Request.ID, nil, hash) // its capability was replaced
	}
	w.Steps("submit", w.Now().Sub(started))
	return out, nil
}

// takeSlot reports whether a worker was free for the caller, without waiting.
func (w *Workflow) takeSlot() bool {
	w.mu.Lock()
	running := w.run != nil && !w.stopped
	w.mu.Unlock()
	if !running {
		return false
	}
	select {
	case w.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

// repeat answers a submission that is already there.
func (w *Workflow) repeat(tx *store.Tx, out *Receipt, have *signing.Request, body signing.Digest, hash []byte) error {
	if have.BodyDigest != body {
		return &signing.Error{Code: signing.Conflict, Message: "this idempotency key stands for another submission of this run", Expected: "the body of request " + have.ID, Found: "another policy, deadline or list of artifacts", Fix: "use another Idempotency-Key for another submission"}
	}
	if err := tx.SetCapability(have.ID, hash); err != nil {
		return err
	}
	tasks, err := tx.Tasks(have.ID)
	if err != nil {
		return err
	}
	out.Snapshot = Snapshot{Request: have, Tasks: tasks}
	return nil
}

func (w *Workflow) newCapability() (text string, hash []byte, err error) {
	raw := make([]byte, capabilityBytes)
	if _, err := io.ReadFull(w.Rand, raw); err != nil {
		return "", nil, fmt.Errorf("reading randomness: %w", err)
	}
	text = "sc_" + base64.RawURLEncoding.EncodeToString(raw)
	return text, hashCapability(text), nil
}

func hashCapability(c string) []byte {
	h := sha256.Sum256([]byte(c))
	return h[:]
}

// allowed checks a capability. A wrong one and an unknown Request look the same.
func allowed(tx *store.Tx, requestID, capability string) error {
	hidden := &signing.Error{Code: signing.NotFound, Message: "no such request, or not with this capability", Fix: "send the Sealwright-Capability header of the newest answer to the submission"}
	if !signing.ValidRequestID(requestID) {
		return hidden
	}
	want, err := tx.Capability(requestID)
	if errors.Is(err, signing.NotFound) {
		return hidden
	}
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(want, hashCapability(capability)) != 1 {
		return hidden
	}
	return nil
}
