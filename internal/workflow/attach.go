package workflow

import (
	"errors"
	"strconv"
	"strings"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

// attempts is how a Request is found by later attempts of its run, where the
// policy lets re-runs attach.
type attempts struct{ scope, key string }

// attempts returns the key for a submission; ok is false where the policy in
// force lets nothing attach, or the token does not say which run and attempt it is.
func (w *Workflow) attempts(id signing.Identity, o signing.Origin, s Submission, body signing.Digest) (a attempts, ok bool) {
	p, err := w.inForce.Load().policies.Find(o, s.Policy)
	if err != nil || !p.Attaches() || o.RunID == "" || attempt(o) == 0 {
		return attempts{}, false
	}
	// No scope of idempotency keys starts so: those start with an issuer's URL.
	return attempts{"attempts of\n" + strings.Join([]string{id.Issuer, o.SourceRepositoryIdentifier, o.RunID}, "\n"), s.Policy + "\n" + string(body)}, true
}

// attempt returns the number of the attempt, 0 where the token does not state one.
func attempt(o signing.Origin) int {
	n, err := strconv.Atoi(o.RunAttempt)
	if err != nil || n < 1 {
		return 0
	}
	return n
}

// attach answers a later attempt with the Request of an earlier one that asked
// for the same, from the same build. The token is used up as by a submission; the
// capability is the new attempt's from here on. ok is false where there is no
// such Request: then the attempt is judged, and refused, by the policy.
func (w *Workflow) attach(tx *store.Tx, out *Receipt, a attempts, r *signing.Request, n store.NewRequest) (ok bool, err error) {
	have, err := tx.RequestByIdempotency(a.scope, a.key)
	if errors.Is(err, signing.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if have.BodyDigest != r.BodyDigest || have.Identity.Issuer != r.Identity.Issuer || !sameBuild(have.Origin, r.Origin) || attempt(have.Origin) >= attempt(r.Origin) {
		return false, nil
	}
	if err := tx.UseToken(n.ReplayKey, n.ReplayUntil); err != nil {
		return false, err
	}
	if err := tx.Alias(n.IdempotencyScope, r.IdempotencyKey, have.ID); err != nil {
		return false, err
	}
	ev := audit.Event{Time: tx.Now(), Kind: audit.RequestAttached, Request: have.ID, Attrs: map[string]string{"idempotency": audit.Hashed(r.IdempotencyKey)}}
	audit.Origin(ev.Attrs, r.Identity, r.Origin)
	if err := tx.Append(ev); err != nil {
		return false, err
	}
	return true, w.repeat(tx, out, have, r.BodyDigest, n.CapabilityHash)
}

// sameBuild reports whether two attempts of a run are of the same repository,
// run, commit, ref, event and files.
func sameBuild(a, b signing.Origin) bool {
	return a.Forge == b.Forge && a.SourceRepositoryIdentifier == b.SourceRepositoryIdentifier && a.SourceRepositoryOwnerIdentifier == b.SourceRepositoryOwnerIdentifier &&
		a.RunID == b.RunID && a.SourceRepositoryDigest == b.SourceRepositoryDigest && a.SourceRepositoryRef == b.SourceRepositoryRef && a.BuildTrigger == b.BuildTrigger &&
		a.BuildConfigURI == b.BuildConfigURI && a.BuildConfigDigest == b.BuildConfigDigest && a.BuildSignerURI == b.BuildSignerURI && a.BuildSignerDigest == b.BuildSignerDigest
}
