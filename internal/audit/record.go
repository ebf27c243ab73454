package audit

import (
	"strconv"

	"github.com/sealwright/sealwright/internal/signing"
)

// The functions in this file return the attributes of the events of a Request
// and its Tasks, as they are when the event is made. Values that do not fit an
// attribute's grammar go in as hashes, so that no text of a stranger reaches the
// log. Beside what people look for, each has a digest of the whole record, so
// that evidence made later is held against the log to the last byte.

// Submitted returns the attributes of RequestSubmitted.
func Submitted(r *signing.Request) map[string]string {
	out := map[string]string{"body": string(r.BodyDigest), "idempotency": Hashed(r.IdempotencyKey), "submission": string(r.SubmissionDigest())}
	Put(out, "policy", r.Policy)
	Put(out, "source_request", r.Source)
	if r.List != nil {
		Put(out, "list", string(r.List.Digest))
		Put(out, "list_made", strconv.FormatInt(r.List.Made.Unix(), 10))
	}
	PutList(out, "artifacts", names(r.Artifacts))
	PutList(out, "untrust", names(r.Untrust))
	Origin(out, r.Identity, r.Origin)
	return out
}

func names(artifacts []signing.Artifact) []string {
	out := make([]string, 0, len(artifacts))
	for _, a := range artifacts {
		out = append(out, a.String())
	}
	return out
}

// Decided returns the attributes of RequestDecided.
func Decided(r *signing.Request, generation int64) map[string]string {
	out := map[string]string{
		"effect": string(r.Decision.Effect), "basis": string(r.Decision.BasisDigest), "policy_digest": string(r.Decision.Basis.PolicyDigest),
		"decision": string(r.Decision.Digest()), "generation": strconv.FormatInt(generation, 10),
	}
	Put(out, "project", r.Project)
	Put(out, "policy", r.Policy)
	return out
}

// Denied returns the attributes of RequestDenied.
func Denied(r *signing.Request, generation int64) map[string]string {
	leaves := r.Decision.Reasons.Failures()
	rules := make([]string, 0, len(leaves))
	for _, l := range leaves {
		rules = append(rules, l.Rule)
	}
	if len(rules) == 0 {
		rules = []string{"policy"}
	}
	out := map[string]string{"decision": string(r.Decision.Digest()), "generation": strconv.FormatInt(generation, 10)}
	PutList(out, "rules", rules)
	Put(out, "project", r.Project)
	Put(out, "policy", r.Policy)
	return out
}

// Asked returns the attributes of RequestAsked, for the question as it stands. why
// says what made a further round necessary: "edited", "gone"; empty for the first.
func Asked(r *signing.Request, why string) map[string]string {
	out := map[string]string{"basis": string(r.Decision.BasisDigest), "round": strconv.Itoa(r.Asking.Round)}
	Put(out, "forge", r.Asking.Thread.Forge)
	Put(out, "source_id", r.Asking.Thread.RepositoryID)
	Put(out, "thread", r.Asking.Thread.Number)
	Put(out, "comment", r.Asking.Comment)
	Put(out, "why", why)
	return out
}

// Approved returns the attributes of RequestApproved and RequestDisagreed.
func Approved(a signing.Approval) map[string]string {
	out := map[string]string{"basis": string(a.BasisDigest), "record": string(a.Digest())}
	Put(out, "person", a.Person)
	Put(out, "via", a.Via)
	Put(out, "forge", a.By.Forge)
	Put(out, "account", a.By.ID)
	Put(out, "comment", a.Ref)
	return out
}

// BrokeGlass returns the attributes of BreakGlass.
func BrokeGlass(a signing.Approval) map[string]string {
	out := Approved(a)
	delete(out, "via")
	out["ticket"] = Hashed(a.Ticket)
	return out
}

// Failure adds the code and the digest of why a Request or Task ended, if
// something says why.
func Failure(attrs map[string]string, e *signing.Error) {
	if e != nil {
		attrs["code"], attrs["failure"] = string(e.Code), string(e.Digest())
	}
}

// Changes returns how the bytes of a Task with a Part differ from what was
// published, a tag each: TAG=FROM..TO with the digests in hexadecimal.
func Changes(t *signing.Task) []string {
	if t.Intent == nil {
		return nil
	}
	out := make([]string, 0, len(t.Intent.Differences))
	for _, d := range t.Intent.Differences {
		out = append(out, d.Tag+"="+d.From.Hex()+".."+d.To.Hex())
	}
	return out
}

func ofTask(t *signing.Task) map[string]string {
	out := map[string]string{"record": string(t.RecordDigest())}
	Put(out, "repository", string(t.Artifact.Repository))
	Put(out, "digest", string(t.Artifact.Digest))
	Put(out, "tag", t.Artifact.Tag)
	Put(out, "part", t.Part)
	Put(out, "method", t.Step.Method)
	Put(out, "key", t.Step.Key)
	return out
}

// Prepared returns the attributes of TaskPrepared.
func Prepared(t *signing.Task) map[string]string {
	out := ofTask(t)
	PutList(out, "changes", Changes(t))
	Put(out, "key_version", t.Step.KeyVersion)
	out["intent"] = string(signing.DigestOf(t.Intent.Bytes))
	return out
}

// Attempted returns the attributes of KeyAttempt, of the n-th attempt.
func Attempted(t *signing.Task, n int) map[string]string {
	out := map[string]string{"attempt": strconv.Itoa(n), "intent": string(signing.DigestOf(t.Intent.Bytes))}
	Put(out, "key", t.Step.Key)
	Put(out, "key_version", t.Step.KeyVersion)
	Put(out, "method", t.Step.Method)
	return out
}

// Signed returns the attributes of TaskSigned.
func Signed(t *signing.Task) map[string]string {
	out := map[string]string{"envelope": string(signing.DigestOf(t.Envelope.Bytes)), "intent": string(signing.DigestOf(t.Intent.Bytes)), "record": string(t.RecordDigest())}
	Put(out, "key", t.Step.Key)
	Put(out, "method", t.Step.Method)
	return out
}

// Released returns the attributes of TaskReleased.
func Released(t *signing.Task) map[string]string {
	out := ofTask(t)
	out["envelope"] = string(signing.DigestOf(t.Envelope.Bytes))
	return out
}

// Located returns the attributes of TaskPublished, TaskDelivered and
// TaskRecognised.
func Located(t *signing.Task) map[string]string {
	out := ofTask(t)
	PutList(out, "changes", Changes(t))
	uris := make([]string, 0, len(t.Locations))
	for _, l := range t.Locations {
		uris = append(uris, l.URI)
	}
	PutList(out, "locations", uris)
	return out
}

// Failed returns the attributes of TaskFailed.
func Failed(t *signing.Task) map[string]string {
	out := map[string]string{}
	Failure(out, t.Failure)
	return out
}
