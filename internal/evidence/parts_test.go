package evidence_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/evidence"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

// relogged replaces the log of e by one that says of everything what e says: all
// that an altered service, with the log's key, could make agree.
func relogged(t testing.TB, s sample, e *evidence.Evidence) []byte {
	t.Helper()
	logged(t, s.signer, e, func(events []audit.Event) []audit.Event {
		for i, ev := range events {
			said := e.Tasks[0]
			switch ev.Kind {
			case audit.RequestSubmitted:
				events[i].Attrs = audit.Submitted(&e.Request)
			case audit.RequestDecided:
				events[i].Attrs = audit.Decided(&e.Request, 1)
			case audit.RequestSigning:
				events[i].Attrs = map[string]string{"basis": string(e.Request.Decision.BasisDigest)}
			case audit.TaskPrepared:
				said.Envelope, said.Locations = nil, nil
				events[i].Attrs = audit.Prepared(&said)
			case audit.KeyAttempt:
				events[i].Attrs = audit.Attempted(&said, 1)
			case audit.TaskSigned:
				said.Locations = nil
				events[i].Attrs = audit.Signed(&said)
			case audit.TaskPublished:
				events[i].Attrs = audit.Located(&said)
			}
		}
		return events
	})
	return s.resigned(t, e)
}

func TestPartsOfEvidenceAreHeldAgainstEachOther(t *testing.T) {
	s := signed(t)
	rebase := func(e *evidence.Evidence) {
		digest, err := e.Request.Decision.Basis.Digest()
		ok(t, err)
		e.Request.Decision.BasisDigest = digest
	}
	for what, change := range map[string]func(e *evidence.Evidence){
		"a basis of another digest": func(e *evidence.Evidence) { e.Request.Decision.BasisDigest = signing.DigestOf(nil) },
		"another policy decided":    func(e *evidence.Evidence) { e.Request.Decision.Basis.Policy = "test"; rebase(e) },
		"another project decided":   func(e *evidence.Evidence) { e.Request.Decision.Basis.Project = "shop"; rebase(e) },
		"another origin decided":    func(e *evidence.Evidence) { e.Request.Decision.Basis.Origin.RunID = "1"; rebase(e) },
		"more artifacts decided": func(e *evidence.Evidence) {
			e.Request.Artifacts = append(e.Request.Artifacts, signing.Artifact{Repository: "registry.example/app", Digest: signing.DigestOf(nil)})
		},
		"another step than was decided": func(e *evidence.Evidence) { e.Tasks[0].Step.Recursive = true },
		"an approval without an event": func(e *evidence.Evidence) {
			e.Request.Approvals = []signing.Approval{{By: signing.Account{Forge: "github.com", ID: "1"}, Person: "github.com:1"}}
		},
	} {
		e := s.content(t)
		change(e)
		refused(t, what, relogged(t, s, e), s.options())
	}
	_, err := evidence.Verify(relogged(t, s, s.content(t)), s.options())
	ok(t, err)
}

func TestSignatureThatDoesNotVerifyIsRefusedThoughItWasLogged(t *testing.T) {
	s := signed(t)
	e := s.content(t)
	var envelope struct {
		Payload   []byte `json:"payload"`
		Signature []byte `json:"signature"`
	}
	ok(t, json.Unmarshal(e.Tasks[0].Envelope.Bytes, &envelope))
	envelope.Signature[len(envelope.Signature)-1] ^= 1
	raw, err := json.Marshal(envelope)
	ok(t, err)
	e.Tasks[0].Envelope.Bytes = raw
	refused(t, "a signature with one bit changed", relogged(t, s, e), s.options())
	o := s.options()
	o.Envelope = func(*signing.Task, signing.KeyInfo, signing.Origin) error { return nil }
	if _, err := evidence.Verify(relogged(t, s, e), o); err != nil {
		t.Errorf("something else is wrong with the file: %v", err)
	}
}

func TestEvidenceOfATaskThatFailedBeforeTheKeyIsTiedToTheLog(t *testing.T) {
	s := signed(t)
	failed := func(change func(*signing.Task)) []byte {
		e := s.content(t)
		r, task := &e.Request, &e.Tasks[0]
		failure := &signing.Error{Code: signing.Expired, Message: "the deadline passed"}
		r.State, r.Failure, task.State, task.Failure = signing.Failed, failure, signing.TaskFailed, failure
		task.Envelope, task.Locations, task.Attempts, e.Keys = nil, nil, 0, []signing.KeyRecord{}
		logged(t, s.signer, e, func(events []audit.Event) []audit.Event {
			for _, kind := range []string{audit.KeyAttempt, audit.TaskSigned} {
				events = without(kind)(events)
			}
			attrs := map[string]string{}
			audit.Failure(attrs, failure)
			end, fail := at(events, audit.RequestCompleted), at(events, audit.TaskPublished)
			events[end].Kind, events[end].Attrs = audit.RequestFailed, attrs
			events[fail].Kind, events[fail].Attrs = audit.TaskFailed, audit.Failed(task)
			return events
		})
		change(task)
		return s.resigned(t, e)
	}
	_, err := evidence.Verify(failed(func(*signing.Task) {}), s.options())
	ok(t, err)
	for what, change := range map[string]func(*signing.Task){
		"other bytes":             func(t *signing.Task) { t.Intent.Bytes = append(slices.Clone(t.Intent.Bytes), 'x') },
		"another time":            func(t *signing.Task) { t.Intent.Created = t.Intent.Created.Add(1) },
		"no bytes":                func(t *signing.Task) { t.Intent = nil },
		"a place nobody told":     func(t *signing.Task) { t.Locations = []signing.Location{{Kind: "tag", URI: "x"}} },
		"recognised after all":    func(t *signing.Task) { t.Recognised = true },
		"another way to assemble": func(t *signing.Task) { t.Intent.Replay = []byte("x") },
	} {
		refused(t, what, failed(change), s.options())
	}
}

func TestEventsStandInTheOrderOfTheLog(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	s := e.Start(nil)
	id, capability := submit(t, e, s, devworld.NewGitHubJob(), e.Image("one"), e.Image("two"))
	two := sample{raw: take(t, s, id, capability, ""), signer: e.LogSigner()}
	content := two.content(t)
	for i, entry := range content.Events {
		ev, err := audit.ParseEvent(entry.Event)
		ok(t, err)
		if ev.Kind == audit.TaskPrepared { // and the next one is the other task's
			content.Events[i], content.Events[i+1] = content.Events[i+1], content.Events[i]
			break
		}
	}
	refused(t, "two events in another order", two.resigned(t, content), two.options())
}

func TestRequestIsGivenOnlyToLaterAttemptsOfItsRun(t *testing.T) {
	s := signed(t)
	attached := func(name, value string) []byte {
		e := s.content(t)
		logged(t, s.signer, e, func(events []audit.Event) []audit.Event {
			ev := events[len(events)-1]
			ev.Kind, ev.Attrs = audit.RequestAttached, map[string]string{}
			audit.Origin(ev.Attrs, e.Request.Identity, e.Request.Origin)
			ev.Attrs["attempt"] = "2"
			if name != "" {
				ev.Attrs[name] = value
			}
			return append(events, ev)
		})
		return s.resigned(t, e)
	}
	if _, err := evidence.Verify(attached("", ""), s.options()); err != nil {
		t.Errorf("a second attempt: %v", err)
	}
	for name, value := range map[string]string{"run": "1", "source_id": "666", "commit": "7dcb09b5b57875f334f61aebed695e2e4193db5e", "issuer": "https://other.example", "forge": "other.example"} {
		refused(t, "another "+name, attached(name, value), s.options())
	}
}

// together returns the evidence of a Request that moved one tag of a repository,
// bound another and withdrew the trust in a third.
func together(t testing.TB) sample {
	t.Helper()
	e := testenv.New(t, testenv.Options{Policy: testenv.PolicySigning(testenv.DCT), Trusted: []string{"payments/web"}})
	s := e.Start(nil)
	tag := func(name, content string) signing.Artifact {
		a := e.ImageIn("payments/web", name, content)
		a.Tag = name
		return a
	}
	job := devworld.NewGitHubJob()
	submit(t, e, s, job, tag("v1", "1"), tag("v2", "2"))
	job.RunID = "9101"
	id, capability := submit(t, e, s, job, tag("v1", "3"), tag("v3", "4"), signing.Artifact{Repository: tag("v2", "2").Repository, Tag: "v2"})
	return sample{raw: take(t, s, id, capability, ""), signer: e.LogSigner()}
}

func TestWhatWasChangedTogetherIsTiedToTheLog(t *testing.T) {
	s := together(t)
	if n := everyStatement(t, s, s.options()); n < 300 {
		t.Errorf("only %d changes were tried", n)
	}
}

// TestChangesOtherThanThoseOfTheBasisAreRefusedThoughTheyWereLogged: an altered
// service with the log's key may log what it wants, and the signed bytes contradict it.
func TestChangesOtherThanThoseOfTheBasisAreRefusedThoughTheyWereLogged(t *testing.T) {
	s := together(t)
	if c := s.content(t); len(c.Tasks) != 1 || len(c.Tasks[0].Changes) != 3 || len(c.Tasks[0].Intent.Differences) != 3 {
		t.Fatalf("%+v", c.Tasks)
	}
	rebase := func(e *evidence.Evidence) {
		digest, err := e.Request.Decision.Basis.Digest()
		ok(t, err)
		e.Request.Decision.BasisDigest = digest
	}
	for what, change := range map[string]func(e *evidence.Evidence, task *signing.Task){
		"another digest bound":      func(_ *evidence.Evidence, task *signing.Task) { task.Changes[0].Digest = signing.DigestOf(nil) },
		"a change less":             func(_ *evidence.Evidence, task *signing.Task) { task.Changes = task.Changes[:2] },
		"another part":              func(_ *evidence.Evidence, task *signing.Task) { task.Part = "targets/other" },
		"a tag untrusted less":      func(e *evidence.Evidence, _ *signing.Task) { e.Request.Untrust = nil },
		"another tag untrusted":     func(e *evidence.Evidence, _ *signing.Task) { e.Request.Untrust[0].Tag = "v9" },
		"differences of other tags": func(_ *evidence.Evidence, task *signing.Task) { task.Intent.Differences[0].Tag = "v9" },
		"a difference less":         func(_ *evidence.Evidence, task *signing.Task) { task.Intent.Differences = task.Intent.Differences[1:] },
		"where a tag came from": func(_ *evidence.Evidence, task *signing.Task) {
			task.Intent.Differences[0].From = signing.DigestOf(nil)
		},
		"all of it but the signature": func(e *evidence.Evidence, task *signing.Task) {
			e.Request.Untrust[0].Tag, task.Changes[2].Tag, task.Intent.Differences[1].Tag = "v9", "v9", "v9"
			e.Request.Decision.Basis.Untrust[0].Tag = "v9"
			rebase(e)
		},
	} {
		e := s.content(t)
		change(e, &e.Tasks[0])
		refused(t, what, relogged(t, s, e), s.options())
	}
	for _, kind := range []string{audit.TaskPrepared, audit.TaskPublished} {
		e := s.content(t)
		logged(t, s.signer, e, edited(kind, "changes", "v1=.."+signing.DigestOf(nil).Hex()))
		refused(t, kind+" with other changes", s.resigned(t, e), s.options())
	}
	_, err := evidence.Verify(relogged(t, s, s.content(t)), s.options())
	ok(t, err)
}
