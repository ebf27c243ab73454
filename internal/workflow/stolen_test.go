package workflow_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
	"github.com/sealwright/sealwright/internal/testenv"
)

// forge makes the bytes of a task say that another artifact is to be signed.
func forge(task *signing.Task, other signing.Artifact) {
	task.Intent.Bytes = []byte(strings.ReplaceAll(string(task.Intent.Bytes), task.Artifact.Digest.Hex(), other.Digest.Hex()))
}

func readBoth(id string, r **signing.Request, tasks *[]*signing.Task) func(*store.Tx) error {
	return func(tx *store.Tx) (err error) {
		if *r, err = tx.Request(id); err != nil {
			return err
		}
		*tasks, err = tx.Tasks(id)
		return err
	}
}

// feature is a job on a branch that the policy does not let sign.
func feature() devworld.GitHubJob {
	j := devworld.NewGitHubJob()
	j.Ref, j.RefProtected = "refs/heads/feature", false
	return j
}

// TestAStolenDatabase: whoever can write every row of the database, but has no
// state secret, cannot make a key sign what was not decided (design, section 5,
// rule 2).
func TestAStolenDatabase(t *testing.T) {
	world := testenv.NewWorld(t, true)
	for name, attack := range map[string]func(*testing.T, *testenv.Env){
		"InsertedIntentForAnotherDigestIsNotSigned":           insertedIntent,
		"AlteredIntentOfAPreparedTaskIsNotSigned":             alteredIntent,
		"CompletedRequestCopiedUnderANewIDIsNotSigned":        copiedRequest,
		"DecisionCopiedIntoADeniedRequestDoesNotAllowIt":      copiedDecision,
		"DeniedRequestSetToReadyIsNotSigned":                  func(t *testing.T, e *testenv.Env) { promoted(t, e, signing.Ready) },
		"DeniedRequestSetToSigningIsNotSigned":                func(t *testing.T, e *testenv.Env) { promoted(t, e, signing.Signing) },
		"DeniedRequestPutBackToPendingIsDeniedAgain":          rolledBackDenial,
		"AnotherDigestInRequestAndTaskIsNotSigned":            alteredArtifact,
		"AlteredPolicyGenerationStopsDecidingUntilItIsBack":   alteredGeneration,
		"AnotherKeyInATaskIsNotUsed":                          alteredKey,
		"InsertedApprovalCountsForNothing":                    insertedApproval,
		"CompletedTaskPutBackToPreparedIsNotSignedAgain":      rolledBackTask,
		"DeletedEnvelopeRecordLetsOnlyDecidedBytesBeRepeated": rolledBackEverything,
		"DeletedAttemptsAreStillInTheLog":                     deletedAttempts,
		"TaskMovedToAnotherRequestIsNotSigned":                movedTask,
		"DeletedTaskDoesNotCompleteTheRequest":                deletedTask,
		"ForgedJobsDoNothing":                                 forgedJobs,
		"RowAlteredWhileTheServiceWorksOnItIsNotSigned":       alteredAtWork,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			attack(t, testenv.New(t, testenv.Options{World: world, Keys: twoKeys}))
		})
	}
}

// twoKeys has a key that the policy under test may not use.
const twoKeys = `
  - id: release
    file: file:DIR/release.key
    methods: [cosign]
    allow: [{project: payments, policy: release, repositories: ["HOST/payments/*"]}]
    require: {protected_ref: true}
  - id: other
    file: file:DIR/other.key
    methods: [cosign]
    allow: [{project: treasury, policy: release, repositories: ["HOST/treasury/*"]}]
`

func insertedIntent(t *testing.T, e *testenv.Env) {
	a, other := e.Image(t.Name()), e.Image(t.Name()+" other")
	id, _ := diesAfter(t, e, "store prepare#1", a)
	th := steal(t, e)
	second := th.task(id)
	forge(second, other)
	second.ID, second.Artifact = id+".2", other
	th.putTask(second, 2, id)
	s := e.Start(nil)
	detected(t, s, id, "tasks")
	unharmed(t, e, s, 0, a, other)
}

func alteredIntent(t *testing.T, e *testenv.Env) {
	a, other := e.Image(t.Name()), e.Image(t.Name()+" other")
	id, _ := diesAfter(t, e, "store prepare#1", a)
	th := steal(t, e)
	task := th.task(id)
	forge(task, other)
	th.putTask(task, 1, id)
	s := e.Start(nil)
	detected(t, s, id, "tasks")
	unharmed(t, e, s, 0, a, other)
}

func copiedRequest(t *testing.T, e *testenv.Env) {
	a, other := e.Image(t.Name()), e.Image(t.Name()+" other")
	s := e.Start(nil)
	r, capability := submit(t, s, "k", a)
	finish(t, s, r.ID, capability)
	s.Stop()
	th := steal(t, e)
	copied, task := th.request(r.ID), th.task(r.ID)
	copied.ID, copied.State, copied.Artifacts[0] = "sr_0000000000000000", signing.Signing, other
	copied.Decision.Basis.Artifacts[0] = other
	forge(task, other)
	task.ID, task.RequestID, task.State, task.Artifact, task.Envelope = copied.ID+".1", copied.ID, signing.Prepared, other, nil
	th.putRequest(copied, r.ID)
	th.putTask(task, 1, r.ID)
	th.enqueue(copied.ID)
	s = e.Start(nil)
	detected(t, s, copied.ID, "requests")
	unharmed(t, e, s, 1, other)
}

// denied submits a from a branch that may not sign.
func denied(t *testing.T, e *testenv.Env, s *testenv.Service, a signing.Artifact) string {
	t.Helper()
	r, capability := ask(t, s, feature(), "denied", "release", a)
	if r = finish(t, s, r.ID, capability); r.State != signing.RequestDenied {
		t.Fatalf("ended %s: %+v", r.State, r.Failure)
	}
	return r.ID
}

func copiedDecision(t *testing.T, e *testenv.Env) {
	a, other := e.Image(t.Name()), e.Image(t.Name()+" other")
	s := e.Start(nil)
	r, capability := submit(t, s, "k", a)
	finish(t, s, r.ID, capability)
	id := denied(t, e, s, other)
	s.Stop()
	th := steal(t, e)
	forged, task := th.request(id), th.task(r.ID)
	forged.Decision, forged.Project, forged.State, forged.Failure, forged.Ended = th.request(r.ID).Decision, "payments", signing.Ready, nil, time.Time{}
	forged.Decision.Basis.Artifacts[0] = other
	*task = signing.Task{ID: id + ".1", RequestID: id, State: signing.Queued, Version: 1, Artifact: other, Step: task.Step}
	th.putRequest(forged, id)
	th.putTask(task, 1, r.ID)
	th.enqueue(id)
	s = e.Start(nil)
	detected(t, s, id, "requests")
	unharmed(t, e, s, 1, other)
}

func promoted(t *testing.T, e *testenv.Env, to signing.RequestState) {
	other := e.Image(t.Name())
	s := e.Start(nil)
	id := denied(t, e, s, other)
	// The service runs on: it must not need a restart to notice.
	th := steal(t, e)
	r := th.request(id)
	r.State = to
	th.putRequest(r, id)
	th.enqueue(id)
	detected(t, s, id, "requests")
	unharmed(t, e, s, 0, other)
}

func rolledBackDenial(t *testing.T, e *testenv.Env) {
	other := e.Image(t.Name())
	f := testenv.NewFaults("store submit#1", testenv.DiesAfter)
	s := e.Start(f)
	s.Post("/v1/requests", e.GitHub(feature()), "denied", testenv.Body("release", other))
	s.Stop()
	th := steal(t, e)
	pending := th.keep("requests", "state = 'pending'")
	s = e.Start(nil)
	id := denied(t, e, s, other)
	s.Stop()
	th.putBack(pending...)
	th.enqueue(id)
	s = e.Start(nil)
	eventually(t, "denied again", func() bool {
		r, _, err := state(t, s, id)
		return err == nil && r.State == signing.RequestDenied
	})
	unharmed(t, e, s, 0, other)
	noEvidence(t, s, id)
}

func alteredArtifact(t *testing.T, e *testenv.Env) {
	a, other := e.Image(t.Name()), e.Image(t.Name()+" other")
	id, _ := diesAfter(t, e, "store allow#1", a)
	th := steal(t, e)
	r, task := th.request(id), th.task(id)
	r.Artifacts[0].Digest, r.Decision.Basis.Artifacts[0].Digest, task.Artifact.Digest = other.Digest, other.Digest, other.Digest
	digest, err := r.Decision.Basis.Digest()
	ok(t, err)
	r.Decision.BasisDigest = digest
	th.putRequest(r, id)
	th.putTask(task, 1, id)
	s := e.Start(nil)
	detected(t, s, id, "requests")
	unharmed(t, e, s, 0, a, other)
}

func alteredGeneration(t *testing.T, e *testenv.Env) {
	a := e.Image(t.Name())
	s := e.Start(nil)
	th := steal(t, e)
	genuine := th.keep("generation", "true")
	th.exec("UPDATE generation SET n = n + 1")
	r, capability := submit(t, s, "k", a)
	detected(t, s, "", "generation")
	if got, _, err := state(t, s, r.ID); err != nil || got.State != signing.Pending || e.KeyUses() != 0 {
		t.Errorf("%v, %v, %d key uses", got, err, e.KeyUses())
	}
	s.Stop()
	if _, err := e.TryStart(nil); !isCode(err, signing.Denied) {
		t.Errorf("a service starts with an altered generation: %v", err)
	}
	th.putBack(genuine...)
	s = e.Start(nil)
	if r = finish(t, s, r.ID, capability); r.State != signing.Completed {
		t.Errorf("ended %s: %+v", r.State, r.Failure)
	}
	unharmed(t, e, s, 1)
}

func alteredKey(t *testing.T, e *testenv.Env) {
	a := e.Image(t.Name())
	id, _ := diesAfter(t, e, "store prepare#1", a)
	th := steal(t, e)
	task := th.task(id)
	task.Step.Key = "other"
	th.putTask(task, 1, id)
	s := e.Start(nil)
	detected(t, s, id, "tasks")
	unharmed(t, e, s, 0, a)
}

func insertedApproval(t *testing.T, e *testenv.Env) {
	other := e.Image(t.Name())
	s := e.Start(nil)
	id := denied(t, e, s, other)
	s.Stop()
	th := steal(t, e)
	r := th.request(id)
	r.State, r.Decision, r.Failure, r.Ended = signing.Pending, nil, nil, time.Time{}
	r.Approvals = []signing.Approval{{}}
	th.putRequest(r, id)
	th.enqueue(id)
	s = e.Start(nil)
	detected(t, s, id, "requests")
	unharmed(t, e, s, 0, other)
}

// rolledBack completes a request, then puts its rows back to what the service
// itself wrote before it used the key.
func rolledBack(t *testing.T, e *testenv.Env, a signing.Artifact) (id string, th *thief) {
	t.Helper()
	id, _ = diesAfter(t, e, "store prepare#1", a)
	th = steal(t, e)
	rows := append(th.keep("requests", "id = ?", id), th.keep("tasks", "request_id = ?", id)...)
	s := e.Start(nil)
	eventually(t, "completed", func() bool {
		r, _, err := state(t, s, id)
		return err == nil && r.State == signing.Completed
	})
	s.Stop()
	if e.KeyUses() != 1 || e.Signatures(a) != 1 {
		t.Fatalf("%d key uses, %d signatures", e.KeyUses(), e.Signatures(a))
	}
	th.putBack(rows...)
	th.enqueue(id)
	return id, th
}

func rolledBackTask(t *testing.T, e *testenv.Env) {
	a := e.Image(t.Name())
	id, th := rolledBack(t, e, a)
	s := e.Start(nil)
	detected(t, s, id, "attempts")
	unharmed(t, e, s, 1)
	s.Stop()
	// Without the attempts the key is asked once more for the bytes that were
	// decided; what it makes never leaves, for the intent has its envelope.
	th.exec("DELETE FROM attempts WHERE task = ?", id+".1")
	th.enqueue(id)
	s = e.Start(nil)
	detected(t, s, id, "envelopes")
	unharmed(t, e, s, 3)
	if n := e.Signatures(a); n != 1 {
		t.Errorf("%d signatures", n)
	}
}

// rolledBackEverything is the most that can be had: the same decided bytes are
// signed once more, and the log shows each attempt.
func rolledBackEverything(t *testing.T, e *testenv.Env) {
	a := e.Image(t.Name())
	id, th := rolledBack(t, e, a)
	th.exec("DELETE FROM attempts WHERE task = ?", id+".1")
	th.exec("DELETE FROM envelopes WHERE task = ?", id+".1")
	s := e.Start(nil)
	eventually(t, "completed again", func() bool {
		r, _, err := state(t, s, id)
		return err == nil && r.State == signing.Completed
	})
	unharmed(t, e, s, 2)
	if n := verified(t, s, "release", a); n != e.Signatures(a) {
		t.Errorf("%d of %d signatures are of the decided bytes", n, e.Signatures(a))
	}
	noEvidence(t, s, id)
}

// noEvidence checks that rows that were put back are found by whoever asks for
// evidence: its events are no life that a Request can have.
func noEvidence(t *testing.T, s *testenv.Service, id string) {
	t.Helper()
	s.VerifyLog()
	if _, err := s.Server.EvidenceOf(t.Context(), id, 0); !errors.Is(err, signing.Invalid) {
		t.Errorf("evidence of a request that was put back: %v", err)
	}
}

func deletedAttempts(t *testing.T, e *testenv.Env) {
	a := e.Image(t.Name())
	id, capability := diesAfter(t, e, "key sign#1", a)
	th := steal(t, e)
	th.exec("DELETE FROM attempts")
	s := e.Start(nil)
	if r := finish(t, s, id, capability); r.State != signing.Completed {
		t.Errorf("ended %s: %+v", r.State, r.Failure)
	}
	unharmed(t, e, s, 2) // which counts the attempts in the log
	if n := e.Signatures(a); n != 1 {
		t.Errorf("%d signatures", n)
	}
}

func movedTask(t *testing.T, e *testenv.Env) {
	a, other := e.Image(t.Name()), e.Image(t.Name()+" other")
	s := e.Start(nil)
	id := denied(t, e, s, other)
	s.Stop()
	from, _ := diesAfter(t, e, "store prepare#1", a)
	th := steal(t, e)
	th.exec("UPDATE tasks SET request_id = ? WHERE request_id = ?", id, from)
	th.enqueue(id)
	s = e.Start(nil)
	detected(t, s, id, "tasks")   // one that it never had
	detected(t, s, from, "tasks") // and one that is gone
	unharmed(t, e, s, 0, a, other)
}

func deletedTask(t *testing.T, e *testenv.Env) {
	a, b := e.Image(t.Name()), e.Image(t.Name()+" b")
	id, _ := diesAfter(t, e, "store signed#1", a, b)
	uses := e.KeyUses()
	th := steal(t, e)
	th.exec("DELETE FROM tasks WHERE request_id = ? AND n = 2", id)
	s := e.Start(nil)
	detected(t, s, id, "tasks")
	if r, _, err := state(t, s, id); err != nil || r.State != signing.Signing {
		t.Errorf("%v %v", r, err)
	}
	unharmed(t, e, s, uses)
}

func forgedJobs(t *testing.T, e *testenv.Env) {
	a, other := e.Image(t.Name()), e.Image(t.Name()+" other")
	s := e.Start(nil)
	r, capability := submit(t, s, "k", a)
	finish(t, s, r.ID, capability)
	id := denied(t, e, s, other)
	th := steal(t, e)
	for _, ref := range []string{r.ID, r.ID + ".1", id, "sr_0000000000000000", "", "'; DROP TABLE jobs; --", strings.Repeat("x", 1<<16), string(other.Digest)} {
		th.enqueue(ref)
	}
	th.exec("INSERT INTO jobs (kind, ref, due) VALUES ('sign', ?, 1)", id)
	eventually(t, "nothing left to do", func() bool { return th.count("SELECT count(*) FROM jobs WHERE kind = 'drive'") == 0 })
	detected(t, s, "sr_0000000000000000", "requests")
	detected(t, s, "", "requests")
	unharmed(t, e, s, 1, other)
	if n := e.Signatures(a); n != 1 {
		t.Errorf("%d signatures", n)
	}
}

func alteredAtWork(t *testing.T, e *testenv.Env) {
	a, other := e.Image(t.Name()), e.Image(t.Name()+" other")
	hold := e.World.Registry.Add(held("GET", a))
	defer hold.Remove()
	s := e.Start(nil)
	r, _ := submit(t, s, "k", a)
	<-hold.Arrived() // signing has begun, and the task is being prepared
	th := steal(t, e)
	task := th.task(r.ID)
	task.Artifact = other
	task.Version++
	th.putTask(task, 1, r.ID)
	hold.Release()
	detected(t, s, r.ID, "tasks")
	unharmed(t, e, s, 0, a, other)
}
