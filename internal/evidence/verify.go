package evidence

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
)

// EnvelopeCheck reports, offline, whether the bytes of t's intent say what t does
// and its envelope is a signature by key over that, as the step has it made and
// bound to the origin where the step says so.
type EnvelopeCheck func(t *signing.Task, key signing.KeyInfo, origin signing.Origin) error

// Options are what a verification takes from elsewhere than the file.
type Options struct {
	// LogKey is the public key of the log, the one root of trust.
	LogKey string
	// Known are checkpoints that the verifier kept; the log must continue each.
	Known [][]byte
	// Envelope verifies the signatures themselves.
	Envelope EnvelopeCheck
}

// Report is what a verified file says.
type Report struct {
	Evidence   *Evidence
	Checkpoint audit.Checkpoint
	Events     []audit.Event // those of Evidence, in order
	// Fresh says that the log continues every known checkpoint, and that there
	// was one.
	Fresh bool
	// Alarms are events that no undisturbed Request has.
	Alarms []string
}

// Verify verifies an evidence file. It reads nothing but raw and o. What is
// wrong with the file is a *signing.Error with code Invalid.
//
// Verified are: form and signature of the whole file; the proof of every event;
// that these events, in this order, are a life that a Request can have, to its
// end; that identity, origin, decision, tasks, intents, envelopes, locations and
// failures are what the events say; that the decision binds what was asked for
// and the tasks follow from it; that keys were announced before they were used
// and are those that were decided; and every signature.
func Verify(raw []byte, o Options) (Report, error) {
	key, err := audit.NewVerifier(o.LogKey)
	if err != nil {
		return Report{}, err
	}
	e, err := open(raw, key)
	if err != nil {
		return Report{}, err
	}
	return check(e, key, o)
}

// Check is Verify for evidence that nobody has signed yet.
func Check(e *Evidence, o Options) (Report, error) {
	key, err := audit.NewVerifier(o.LogKey)
	if err != nil {
		return Report{}, err
	}
	return check(e, key, o)
}

func check(e *Evidence, key *audit.Verifier, o Options) (r Report, err error) {
	r.Evidence = e
	if e.Log != key.Origin() {
		return Report{}, refuse("the evidence names another log", key.Origin(), e.Log)
	}
	if r.Checkpoint, err = audit.ParseCheckpoint([]byte(e.Checkpoint), key); err != nil {
		return Report{}, err
	}
	if r.Events, err = proved(e, r.Checkpoint); err != nil {
		return Report{}, err
	}
	if err := continues(e, r.Checkpoint, key, o.Known); err != nil {
		return Report{}, err
	}
	r.Fresh = len(o.Known) > 0
	if err := consistent(e); err != nil {
		return Report{}, err
	}
	if r.Alarms, err = replay(e, r.Events); err != nil {
		return Report{}, err
	}
	return r, envelopes(e, o.Envelope)
}

// proved returns the events, each proved to be in the log of c, in its order.
func proved(e *Evidence, c audit.Checkpoint) ([]audit.Event, error) {
	out := make([]audit.Event, 0, len(e.Events))
	for i, entry := range e.Events {
		if i > 0 && entry.Index <= e.Events[i-1].Index {
			return nil, refuse("the events are not in the order of the log", fmt.Sprintf("an entry after %d", e.Events[i-1].Index), fmt.Sprint(entry.Index))
		}
		if len(entry.Path) > maxPath || slices.ContainsFunc(entry.Path, func(h []byte) bool { return len(h) != audit.HashSize }) {
			return nil, refuse(fmt.Sprintf("the proof of entry %d is not one", entry.Index), fmt.Sprintf("at most %d hashes", maxPath), fmt.Sprint(len(entry.Path)))
		}
		if err := audit.VerifyInclusion(c, entry.Index, entry.Event, entry.Path); err != nil {
			return nil, err
		}
		ev, err := audit.ParseEvent(entry.Event)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", entry.Index, err)
		}
		if ev.Request != e.Request.ID {
			return nil, refuse(fmt.Sprintf("entry %d is about another request", entry.Index), e.Request.ID, ev.Request)
		}
		out = append(out, ev)
	}
	return out, nil
}

// continues proves that the log of c continues what the verifier knows of it.
func continues(e *Evidence, c audit.Checkpoint, key *audit.Verifier, known [][]byte) error {
	if len(known) > audit.MaxKnown {
		return refuse("too many known checkpoints", fmt.Sprintf("at most %d", audit.MaxKnown), fmt.Sprint(len(known)))
	}
	if e.Since != nil && (len(e.Since.Path) > maxPath || e.Since.Size == 0 || e.Since.Size > c.Size) {
		return refuse("the consistency proof is not one", fmt.Sprintf("from at most %d entries, at most %d hashes", c.Size, maxPath), fmt.Sprintf("from %d entries, %d hashes", e.Since.Size, len(e.Since.Path)))
	}
	for i, raw := range known {
		k, err := audit.ParseCheckpoint(raw, key)
		if err != nil {
			return fmt.Errorf("known checkpoint %d: %w", i+1, err)
		}
		switch {
		case k.Size == c.Size && !bytes.Equal(k.Root, c.Root):
			return &signing.Error{Code: signing.Invalid, Message: fmt.Sprintf("the log of this evidence is not the one that you know: two roots of %d entries", c.Size), Fix: "keep both: together they are evidence that the log was rewritten"}
		case k.Size == c.Size:
		case e.Since != nil && e.Since.Size == k.Size:
			if err := audit.VerifyConsistency(k, c, e.Since.Path); err != nil {
				return err
			}
		default:
			return &signing.Error{Code: signing.Invalid, Message: "the file holds no proof that its log continues the checkpoint that you know", Expected: fmt.Sprintf("a proof from %d to %d entries", k.Size, c.Size), Found: sinceText(e.Since), Fix: "take the evidence again, giving the same --known-checkpoint; or verify an export of the log with `sealwright audit verify`"}
		}
	}
	return nil
}

func sinceText(s *Since) string {
	if s == nil {
		return "none"
	}
	return fmt.Sprintf("one from %d entries", s.Size)
}

// consistent holds the parts of the evidence against each other.
func consistent(e *Evidence) error {
	r := &e.Request
	again := normal(*e)
	if r.Version != 0 || r.Asking != nil || r.Reports != nil || !reflect.DeepEqual(again.Tasks, e.Tasks) {
		return refuse("the evidence says what no event can tell", "no version, no state of comments, no tries, no failure of a task that did not fail", "one of them")
	}
	if !r.State.Terminal() {
		return refuse("the request is not over", "a request in its last state", string(r.State))
	}
	if d := r.Decision; d != nil && d.BasisDigest != "" {
		if err := bound(r, d); err != nil {
			return err
		}
	} else if r.Project != "" {
		return refuse("a project that no decision names", "none", r.Project)
	}
	return tasksOf(e)
}

// bound checks that the basis is the one of its digest and about this Request.
func bound(r *signing.Request, d *signing.Decision) error {
	digest, err := d.Basis.Digest()
	if err != nil {
		return err
	}
	if digest != d.BasisDigest {
		return refuse("the basis of the decision is not the one of its digest", string(d.BasisDigest), string(digest))
	}
	same := slices.EqualFunc(r.Artifacts, d.Basis.Artifacts, func(a, b signing.Artifact) bool {
		return a.Repository == b.Repository && a.Digest == b.Digest && a.Tag == b.Tag
	})
	same = same && slices.Equal(r.Untrust, d.Basis.Untrust)
	if !same || d.Basis.Policy != r.Policy || d.Basis.Project != r.Project || !reflect.DeepEqual(d.Basis.Origin, r.Origin) {
		return refuse("what was decided is not what was asked for", "the artifacts, policy and origin of the request", "others")
	}
	return nil
}

// tasksOf checks that the Tasks are those that follow from the basis.
func tasksOf(e *Evidence) error {
	if len(e.Tasks) == 0 {
		return nil // whether there must be some, the events say
	}
	if e.Request.Decision == nil {
		return refuse("tasks without a decision", "", e.Tasks[0].ID)
	}
	if err := e.Request.Decision.Basis.CheckSize(); err != nil {
		return refuse("more tasks than a request can have", fmt.Sprint(signing.MaxTasks), "more")
	}
	want := e.Request.Decision.Basis.Tasks(e.Request.ID)
	if len(e.Tasks) != len(want) {
		return refuse("the tasks are not those that were decided", fmt.Sprint(len(want)), fmt.Sprint(len(e.Tasks)))
	}
	for i, t := range e.Tasks {
		if w := want[i]; t.ID != w.ID || t.RequestID != w.RequestID || !reflect.DeepEqual(t.Artifact, w.Artifact) || !reflect.DeepEqual(t.Step, w.Step) || t.Part != w.Part || !slices.Equal(t.Changes, w.Changes) {
			return refuse("a task is not one that was decided", fmt.Sprintf("%s: %s with %s and %s", w.ID, w.Artifact, w.Step.Method, w.Step.Key), fmt.Sprintf("%s: %s with %s and %s", t.ID, t.Artifact, t.Step.Method, t.Step.Key))
		}
	}
	return nil
}

// envelopes verifies every signature with the key that was decided.
func envelopes(e *Evidence, verify EnvelopeCheck) error {
	// A key whose certificate was renewed is there once for each.
	keys := map[string][]signing.KeyInfo{}
	for i, record := range e.Keys {
		if slices.ContainsFunc(e.Keys[:i], func(k signing.KeyRecord) bool { return reflect.DeepEqual(k, record) }) {
			return refuse("a key is there twice", "", keyName(record.ID, record.Version))
		}
		info, err := record.Info()
		if err != nil {
			return err
		}
		name := keyName(record.ID, record.Version)
		keys[name] = append(keys[name], info)
	}
	used := map[string]bool{}
	for _, t := range e.Tasks {
		if t.Envelope == nil {
			continue
		}
		name := keyName(t.Step.Key, t.Step.KeyVersion)
		if len(keys[name]) == 0 {
			return refuse("the key of "+t.ID+" is not in the evidence", name, "")
		}
		used[name] = true
		if t.Envelope.Method != t.Step.Method || t.Envelope.KeyID != t.Step.Key {
			return refuse("the envelope of "+t.ID+" is by another method or key", t.Step.Method+" with "+t.Step.Key, t.Envelope.Method+" with "+t.Envelope.KeyID)
		}
		var err error
		for _, info := range keys[name] {
			if err = verify(&t, info, e.Request.Origin); err == nil {
				break
			}
		}
		if err != nil {
			return &signing.Error{Code: signing.Invalid, Message: "the signature of " + t.ID + " does not verify", Expected: "a signature of " + t.Artifact.String() + " by " + name, Fix: "keep this file for examination", Err: err}
		}
	}
	if len(used) != len(keys) {
		return refuse("a key is there that signed nothing", fmt.Sprint(len(used)), fmt.Sprint(len(keys)))
	}
	return nil
}

func keyName(id, version string) string { return id + " (" + version + ")" }
