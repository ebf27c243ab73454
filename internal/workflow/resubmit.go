package workflow

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

// resubmitReplay is for how long the replay key of a person's Request is kept.
// It is the id of the Request, so that it collides with nothing.
const resubmitReplay = time.Minute

// maxResubmits bounds how often one Request is submitted again under one policy.
const maxResubmits = 100

// Resubmit makes a Request of a person: the artifacts of a recorded Request, with
// its origin as it was recorded, under a policy for people (`origin: {human: ...}`),
// which asks for approval. Nothing is inherited but what is to be signed. While a
// Request for the same waits, that one is returned.
//
// Errors: Denied for whoever is no submitter; NotFound; Conflict for a source that
// was not completed; Invalid.
func (w *Workflow) Resubmit(ctx context.Context, sourceID, policy string, deadline time.Duration, who signing.Identity) (Snapshot, error) {
	if !who.Has(signing.Submitter) {
		return Snapshot{}, &signing.Error{Code: signing.Denied, Message: "only submitters may submit a request again", Expected: "a person with the role submitter", Found: "another", Fix: "ask the operator of this service for the role"}
	}
	id, err := signing.NewRequestID(w.Rand)
	if err != nil {
		return Snapshot{}, err
	}
	_, hash, err := w.newCapability() // nobody is given it: persons read with their token
	if err != nil {
		return Snapshot{}, err
	}
	var s Snapshot
	err = w.Store.Update(ctx, "resubmit", func(tx *store.Tx) error {
		source, err := tx.Request(sourceID)
		if err != nil {
			return err
		}
		r, err := w.again(source, policy, deadline, who)
		if err != nil {
			return err
		}
		for n := 1; ; n++ {
			if n > maxResubmits {
				return &signing.Error{Code: signing.Conflict, Message: "this request was submitted again too often", Expected: fmt.Sprintf("at most %d times under one policy", maxResubmits), Found: "more", Fix: "build again and sign that"}
			}
			r.IdempotencyKey = fmt.Sprintf("resubmit:%s:%d", policy, n)
			last, err := tx.RequestByIdempotency(resubmitScope(source.ID), r.IdempotencyKey)
			if errors.Is(err, signing.NotFound) {
				break
			}
			if err != nil {
				return err
			}
			// One that is not over is the same one: its answer may have been lost.
			if !last.State.Terminal() && samePerson(last.Identity, who) {
				s, err = snapshot(tx, last.ID)
				return err
			}
		}
		r.ID = id
		n := store.NewRequest{
			IdempotencyScope: resubmitScope(source.ID), ReplayKey: "resubmit\n" + id, ReplayUntil: tx.Now().Add(resubmitReplay), CapabilityHash: hash,
			Events: []audit.Event{{Time: tx.Now(), Kind: audit.RequestSubmitted, Request: id, Attrs: audit.Submitted(r)}},
			Jobs:   []store.Job{{Kind: jobDrive, Ref: id}},
		}
		if err := tx.InsertRequest(r, n); err != nil {
			return err
		}
		s, err = snapshot(tx, id)
		return err
	})
	if err != nil {
		return Snapshot{}, err
	}
	w.kick()
	return s, nil
}

// resubmitScope is that of the idempotency keys of what is submitted again. No
// scope of a run begins so: those begin with an issuer's URL.
func resubmitScope(source string) string { return "resubmit of\n" + source }

// again returns the Request of a person for what source was for, without its id.
func (w *Workflow) again(source *signing.Request, policy string, deadline time.Duration, who signing.Identity) (*signing.Request, error) {
	if source.State != signing.Completed {
		return nil, &signing.Error{Code: signing.Conflict, Message: "only what was signed before can be submitted again", Expected: "a request that is " + string(signing.Completed), Found: string(source.State), Fix: "name the request that signed these artifacts"}
	}
	sub := Submission{Policy: policy, IdempotencyKey: "resubmit", Deadline: deadline}
	for _, a := range source.Artifacts {
		sub.Artifacts = append(sub.Artifacts, signing.Artifact{Repository: a.Repository, Digest: a.Digest, Tag: a.Tag})
	}
	sub.Untrust = source.Untrust
	sub, err := sub.validate()
	if err != nil {
		return nil, err
	}
	body, err := sub.body()
	if err != nil {
		return nil, err
	}
	now := w.Now()
	return &signing.Request{
		State: signing.Pending, Policy: policy, Artifacts: sub.Artifacts, Untrust: sub.Untrust, Identity: who, Origin: source.Origin, Source: source.ID,
		BodyDigest: body, Submitted: now, Deadline: now.Add(sub.Deadline),
	}, nil
}

// Retry makes a Request that waits to be tried again try at once, for an admin.
// It changes nothing about what is signed.
//
// Errors: Denied for anybody else; NotFound; Conflict for one that is over.
func (w *Workflow) Retry(ctx context.Context, requestID string, who signing.Identity) (Snapshot, error) {
	if !who.Has(signing.Admin) {
		return Snapshot{}, &signing.Error{Code: signing.Denied, Message: "only admins may have a request tried again", Expected: "a person with the role admin", Found: "another", Fix: "wait: it is tried again by itself until its deadline"}
	}
	var s Snapshot
	err := w.Store.Update(ctx, "retry", func(tx *store.Tx) (err error) {
		if s, err = snapshot(tx, requestID); err != nil {
			return err
		}
		if s.Request.State.Terminal() {
			return &signing.Error{Code: signing.Conflict, Message: "the request is over", Found: string(s.Request.State), Fix: "submit again"}
		}
		return tx.Enqueue(store.Job{Kind: jobDrive, Ref: requestID})
	})
	if err != nil {
		return Snapshot{}, err
	}
	w.kick()
	return s, nil
}
