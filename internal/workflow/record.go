package workflow

import (
	"context"
	"errors"
	"reflect"
	"slices"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

// Record is everything that the service has about a Request that is over.
type Record struct {
	Snapshot
	Keys       []signing.KeyRecord // that made its envelopes
	Events     []store.LoggedEvent
	Checkpoint audit.Checkpoint
}

// RecordOf returns the record of a Request, to whoever may read it: the caller
// has checked that. Errors: Conflict for a Request that is not over; Unavailable
// while its last events have no place in the log.
func (w *Workflow) RecordOf(ctx context.Context, requestID string) (Record, error) {
	var out Record
	err := w.Store.View(ctx, func(tx *store.Tx) (err error) {
		if out.Snapshot, err = snapshot(tx, requestID); err != nil {
			return err
		}
		if !out.Request.State.Terminal() {
			return &signing.Error{Code: signing.Conflict, Message: "the request is not over", Found: string(out.Request.State), Fix: "wait for its end, then ask for its evidence"}
		}
		if out.Events, err = tx.RequestEvents(out.Request); err != nil {
			return err
		}
		out.Keys, err = keysOf(tx, out.Tasks)
		return err
	})
	if err != nil {
		return Record{}, err
	}
	if out.Snapshot.Checkpoint == "" {
		return Record{}, &signing.Error{Code: signing.Unavailable, Message: "the audit log has no checkpoint yet", Fix: "try again in a few seconds"}
	}
	out.Checkpoint, err = audit.ParseCheckpoint([]byte(out.Snapshot.Checkpoint), w.LogSigner.Verifier())
	return out, err
}

func keysOf(tx *store.Tx, tasks []*signing.Task) ([]signing.KeyRecord, error) {
	var out []signing.KeyRecord
	seen := map[[2]string]bool{}
	for _, t := range tasks {
		name := [2]string{t.Step.Key, t.Step.KeyVersion}
		if t.Envelope == nil || seen[name] {
			continue
		}
		seen[name] = true
		records, err := tx.PublicKeys(t.Step.Key, t.Step.KeyVersion)
		if err != nil {
			return nil, err
		}
		out = append(out, records...)
	}
	return out, nil
}

// rememberKeys stores the public half of every key, so that what it signs can be
// proved when the keys file has forgotten it.
func (w *Workflow) rememberKeys(tx *store.Tx) error {
	for _, info := range w.TrustedKeys() {
		k, err := info.Record()
		if err == nil {
			err = tx.PutPublicKey(k)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// CheckTask reports, offline, whether the envelope of a Task is the signature that
// its step makes.
func (w *Workflow) CheckTask(t *signing.Task, key signing.KeyInfo, origin signing.Origin) error {
	m, ok := w.Methods[t.Step.Method]
	if !ok {
		return &signing.Error{Code: signing.Denied, Message: "this service cannot verify envelopes of the method", Found: t.Step.Method}
	}
	return method.CheckTask(m, t, key, origin)
}

// SignStatement vouches with the log's key for content that was verified.
func (w *Workflow) SignStatement(what string, content signing.Digest) ([]byte, error) {
	return w.LogSigner.SignStatement(what, content)
}

// Way is one way in which images are signed, for verifiers.
type Way struct {
	Step     signing.Step // as Info depends on it
	Policies []string     // PROJECT/POLICY of those that sign so
	Info     method.Info
}

// Trust returns the ways of signing of the policies in force, in the order of
// their first policies.
func (w *Workflow) Trust() ([]Way, error) {
	var out []Way
	policies := w.Policies
	if g := w.inForce.Load(); g != nil {
		policies = g.policies
	}
	for _, p := range policies.Policies() {
		name := p.Project() + "/" + p.Name()
		for _, s := range p.Steps() {
			s.Recursive = false // which manifests are signed, not how
			i := slices.IndexFunc(out, func(w Way) bool { return reflect.DeepEqual(w.Step, s) })
			if i >= 0 {
				if !slices.Contains(out[i].Policies, name) {
					out[i].Policies = append(out[i].Policies, name)
				}
				continue
			}
			m, known := w.Methods[s.Method]
			key, have := w.Keys.Info(s.Key)
			if !known || !have {
				continue // such a policy denies
			}
			info, err := m.Info(key, s.Options)
			if err != nil {
				if errors.Is(err, signing.Invalid) {
					continue // the same
				}
				return nil, err
			}
			out = append(out, Way{Step: s, Policies: []string{name}, Info: info})
		}
	}
	return out, nil
}
