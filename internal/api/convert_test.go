package api_test

import (
	"crypto"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/signing"
)

// full returns a request and a task in which every field that the wire may
// carry is set, and every one that it may not says "secret".
func full() (signing.Request, []signing.Task) {
	artifact := signing.Artifact{Repository: "registry.acme.dev/payments/web", Digest: digestA, MediaType: "application/vnd.oci.image.index.v1+json", Size: 12, Tag: "v1"}
	below := signing.Artifact{Repository: artifact.Repository, Digest: signing.DigestOf([]byte("below")), MediaType: "application/vnd.oci.image.manifest.v1+json", Size: 7}
	failure := &signing.Error{Code: signing.Unavailable, Message: "m", Expected: "e", Found: "f", Fix: "x", Err: errors.New("secret cause")}
	r := signing.Request{
		ID: requestID, State: signing.Signing, Version: 7, Policy: "release", Project: "payments", Artifacts: []signing.Artifact{artifact},
		Identity: signing.Identity{Issuer: "https://issuer", Subject: "secret", TokenID: "secret", TokenHash: "secret"},
		Origin: signing.Origin{Forge: "github.com", Kind: "github", SourceRepository: "acme/web", SourceRepositoryIdentifier: "74", SourceRepositoryRef: "refs/heads/main", RefProtected: true,
			SourceRepositoryDigest: "c0ffee", BuildTrigger: "push", BuildConfigURI: "https://b", BuildSignerURI: "https://s", RunInvocationURI: "https://r", RunAttempt: "2", DeploymentEnvironment: "prod", Actor: "mona"},
		IdempotencyKey: "secret", BodyDigest: "secret", Submitted: now, Deadline: now.Add(time.Hour), Ended: now.Add(time.Minute), CancelRequested: true, Failure: failure,
		Decision: &signing.Decision{Effect: signing.Allow, At: now, BasisDigest: digestA, Reasons: signing.Reason{Rule: "release", Pass: true, Children: []signing.Reason{{Rule: "origin", Pass: true, Wanted: "a", Found: "a"}}},
			Basis: signing.Basis{Project: "secret", Children: []signing.Artifact{below}}, Observations: []signing.Observation{{Source: "token", What: "secret"}}},
	}
	task := signing.Task{
		ID: requestID + ".1", RequestID: requestID, State: signing.Published, Artifact: artifact, Step: signing.Step{Method: "cosign", Key: "release-ec", KeyVersion: "secret", Options: map[string]string{"x": "secret"}},
		Intent:   &signing.Intent{Bytes: []byte("secret"), Hash: crypto.SHA256, Replay: []byte("secret")},
		Envelope: &signing.Envelope{Method: "cosign", Bytes: []byte("secret")}, Recognised: true, Failure: failure,
		Locations: []signing.Location{{Kind: "tag", URI: "registry.acme.dev/payments/web:sha256-a.sig", Digest: digestA}},
	}
	part := signing.Task{ID: requestID + ".2", RequestID: requestID, State: signing.Published, Artifact: below, Step: signing.Step{Method: "cosign", Key: "release-ec", KeyVersion: "secret", Options: map[string]string{"format": "bundle"}, Recursive: true}}
	return r, []signing.Task{task, part}
}

func TestSecretsInAnswersAreImpossible(t *testing.T) {
	r, tasks := full()
	raw, err := json.Marshal(api.FromRequest(r, tasks, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	// "c2VjcmV0" is how encoding/json writes the bytes "secret".
	if s := string(raw); strings.Contains(s, "secret") || strings.Contains(s, "c2VjcmV0") {
		t.Errorf("it carries one: %s", s)
	}
}

func TestARequestSurvivesTheWire(t *testing.T) {
	r, tasks := full()
	raw, err := json.Marshal(api.FromRequest(r, tasks, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	var wire api.Request
	if err := json.Unmarshal(raw, &wire); err != nil {
		t.Fatal(err)
	}
	if wire.Checkpoint != "checkpoint" {
		t.Errorf("checkpoint %q", wire.Checkpoint)
	}
	gotR, gotT := wire.Domain()
	// What remains is the request without what the wire does not carry.
	r.Identity, r.IdempotencyKey, r.BodyDigest = signing.Identity{}, "", ""
	r.Decision.Basis.Project, r.Decision.Observations = "", nil
	r.Decision.Basis.Children[0].MediaType, r.Decision.Basis.Children[0].Size = "", 0
	tasks[0].Step = signing.Step{Method: "cosign", Key: "release-ec"}
	tasks[0].Intent, tasks[0].Envelope = nil, nil
	tasks[1].Step.KeyVersion = ""
	for i := range tasks {
		tasks[i].Artifact.MediaType, tasks[i].Artifact.Size = "", 0
	}
	ignoreCause := cmpopts.IgnoreFields(signing.Error{}, "Err")
	if d := cmp.Diff(r, gotR, ignoreCause); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(tasks, gotT, ignoreCause); d != "" {
		t.Error(d)
	}
}

func TestAnEmptyRequestHasListsAndNoNulls(t *testing.T) {
	raw, err := json.Marshal(api.FromRequest(signing.Request{ID: requestID, State: signing.Pending}, nil, ""))
	if err != nil {
		t.Fatal(err)
	}
	if s := string(raw); strings.Contains(s, "null") || !strings.Contains(s, `"tasks":[]`) || strings.Contains(s, `"ended"`) {
		t.Error(s)
	}
}
