package workflow

import (
	"strconv"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
)

// The attributes of events. Values that do not fit an attribute's grammar go
// in as hashes, so that no text of a stranger reaches the log.

func submittedAttrs(r *signing.Request) map[string]string {
	names := make([]string, 0, len(r.Artifacts))
	for _, a := range r.Artifacts {
		names = append(names, a.String())
	}
	out := map[string]string{"body": string(r.BodyDigest), "idempotency": audit.Hashed(r.IdempotencyKey)}
	audit.Put(out, "policy", r.Policy)
	audit.PutList(out, "artifacts", names)
	audit.Origin(out, r.Identity, r.Origin)
	return out
}

func decidedAttrs(r *signing.Request, generation int64) map[string]string {
	out := map[string]string{
		"effect": string(r.Decision.Effect), "basis": string(r.Decision.BasisDigest), "policy_digest": string(r.Decision.Basis.PolicyDigest),
		"generation": strconv.FormatInt(generation, 10),
	}
	audit.Put(out, "project", r.Project)
	audit.Put(out, "policy", r.Policy)
	return out
}

func deniedAttrs(r *signing.Request, leaves []signing.Reason, generation int64) map[string]string {
	rules := make([]string, 0, len(leaves))
	for _, l := range leaves {
		rules = append(rules, l.Rule)
	}
	if len(rules) == 0 {
		rules = []string{"policy"}
	}
	out := map[string]string{"generation": strconv.FormatInt(generation, 10)}
	audit.PutList(out, "rules", rules)
	audit.Put(out, "project", r.Project)
	audit.Put(out, "policy", r.Policy)
	return out
}

func artifactAttrs(t *signing.Task) map[string]string {
	out := map[string]string{}
	audit.Put(out, "repository", string(t.Artifact.Repository))
	audit.Put(out, "digest", string(t.Artifact.Digest))
	audit.Put(out, "tag", t.Artifact.Tag)
	audit.Put(out, "method", t.Step.Method)
	audit.Put(out, "key", t.Step.Key)
	return out
}

func preparedAttrs(t *signing.Task) map[string]string {
	out := artifactAttrs(t)
	audit.Put(out, "key_version", t.Step.KeyVersion)
	out["intent"] = string(signing.DigestOf(t.Intent.Bytes))
	return out
}

func attemptAttrs(t *signing.Task) map[string]string {
	out := map[string]string{"attempt": strconv.Itoa(t.Attempts + 1), "intent": string(signing.DigestOf(t.Intent.Bytes))}
	audit.Put(out, "key", t.Step.Key)
	audit.Put(out, "key_version", t.Step.KeyVersion)
	audit.Put(out, "method", t.Step.Method)
	return out
}

func signedAttrs(t *signing.Task) map[string]string {
	out := map[string]string{"envelope": string(signing.DigestOf(t.Envelope.Bytes)), "intent": string(signing.DigestOf(t.Intent.Bytes))}
	audit.Put(out, "key", t.Step.Key)
	audit.Put(out, "method", t.Step.Method)
	return out
}

func locationAttrs(t *signing.Task) map[string]string {
	out := artifactAttrs(t)
	uris := make([]string, 0, len(t.Locations))
	for _, l := range t.Locations {
		uris = append(uris, l.URI)
	}
	audit.PutList(out, "locations", uris)
	return out
}
