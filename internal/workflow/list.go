package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

// maxLists bounds how often one person brings one list under one policy.
const maxLists = 100

// ListSubmission is a list of images that a person brings.
type ListSubmission struct {
	Policy    string
	Artifacts []signing.Artifact
	Deadline  time.Duration // 0 means DefaultDeadline
	List      signing.List
	// Repository is that in whose threads people are asked, as in acme/web; empty for
	// the only one that may have all of the images signed.
	Repository string
}

// SubmitList makes a Request of a person for images that no build of today made, as
// those of an export, under a policy for people that says nothing of a build. It
// inherits nothing: people are asked, and the person is not one of them. While a
// Request of this person for the same waits, that one is returned.
//
// Errors: Denied for whoever is no submitter, and where no repository may have all
// of the images signed; Invalid; Conflict.
func (w *Workflow) SubmitList(ctx context.Context, in ListSubmission, who signing.Identity) (Snapshot, error) {
	r, err := w.listed(in, who)
	if err != nil {
		return Snapshot{}, err
	}
	_, hash, err := w.newCapability() // nobody is given it: persons read with their token
	if err != nil {
		return Snapshot{}, err
	}
	scope := listScope(who)
	var s Snapshot
	err = w.Store.Update(ctx, "submit list", func(tx *store.Tx) error {
		for n := 1; ; n++ {
			if n > maxLists {
				return &signing.Error{Code: signing.Conflict, Message: "this list was submitted too often", Expected: fmt.Sprintf("at most %d times", maxLists), Found: "more", Fix: "make the list again"}
			}
			r.IdempotencyKey = fmt.Sprintf("list:%s:%d", r.BodyDigest, n)
			last, err := tx.RequestByIdempotency(scope, r.IdempotencyKey)
			if errors.Is(err, signing.NotFound) {
				break
			}
			if err != nil {
				return err
			}
			if !last.State.Terminal() { // its answer may have been lost
				s, err = snapshot(tx, last.ID)
				return err
			}
		}
		n := store.NewRequest{
			IdempotencyScope: scope, ReplayKey: "list\n" + r.ID, ReplayUntil: tx.Now().Add(resubmitReplay), CapabilityHash: hash,
			Events: []audit.Event{{Time: tx.Now(), Kind: audit.RequestSubmitted, Request: r.ID, Attrs: audit.Submitted(r)}},
			Jobs:   []store.Job{{Kind: jobDrive, Ref: r.ID}},
		}
		if err := tx.InsertRequest(r, n); err != nil {
			return err
		}
		s, err = snapshot(tx, r.ID)
		return err
	})
	if err != nil {
		return Snapshot{}, err
	}
	w.kick()
	return s, nil
}

// listScope is that of the idempotency keys of a person's lists. No scope of a run
// begins so.
func listScope(who signing.Identity) string {
	return "list of\n" + who.Issuer + "\n" + who.Subject
}

// listed returns the Request of a person for a list.
func (w *Workflow) listed(in ListSubmission, who signing.Identity) (*signing.Request, error) {
	if !who.Has(signing.Submitter) {
		return nil, &signing.Error{Code: signing.Denied, Message: "only submitters may have a list signed", Expected: "a person with the role submitter", Found: "another", Fix: "ask the operator of this service for the role; a CI job submits what it built"}
	}
	if err := in.List.Validate(); err != nil {
		return nil, err
	}
	sub, err := Submission{Policy: in.Policy, Artifacts: in.Artifacts, Deadline: in.Deadline, IdempotencyKey: "list"}.validate()
	if err != nil {
		return nil, err
	}
	for i, a := range sub.Artifacts {
		if a.ResolvedFrom != "" {
			return nil, &signing.Error{Code: signing.Invalid, Message: fmt.Sprintf("artifact %d was found by its tag", i+1), Expected: "a list of digests", Found: a.ResolvedFrom, Fix: "list the digest"}
		}
	}
	origin, err := w.inForce.Load().policies.Owner(in.Policy, in.Repository, sub.Artifacts)
	if err != nil {
		return nil, err
	}
	id, err := signing.NewRequestID(w.Rand)
	if err != nil {
		return nil, err
	}
	r := &signing.Request{
		ID: id, State: signing.Pending, Policy: in.Policy, Artifacts: sub.Artifacts, Identity: who, Origin: origin,
		List: &signing.List{Digest: in.List.Digest, Made: in.List.Made.UTC()}, Submitted: w.Now(),
	}
	r.Deadline = r.Submitted.Add(sub.Deadline)
	raw, err := json.Marshal(struct {
		Policy     string
		Artifacts  []signing.Artifact
		Deadline   time.Duration
		List       *signing.List
		Repository string
	}{r.Policy, r.Artifacts, sub.Deadline, r.List, origin.Forge + "/" + origin.SourceRepositoryIdentifier})
	if err != nil {
		return nil, fmt.Errorf("encoding a list: %w", err)
	}
	r.BodyDigest = signing.DigestOf(raw)
	return r, nil
}
