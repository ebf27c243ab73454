package server_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

// twoRepositories lets each repository sign an image of its own.
const twoRepositories = `apiVersion: sealwright.dev/v1
project: payments
repositories:
  - {forge: github.test, name: acme/payments-web, id: "74", owner_id: "65", images: ["%[1]s/payments/web"]}
  - {forge: github.test, name: acme/payments-api, id: "80", owner_id: "65", images: ["%[1]s/payments/api"]}
policies:
  release:
    tags: ["v*"]
    origin:
      refs: ["refs/heads/main"]
      ref_protected: true
      github: {events: [push], workflow: .github/workflows/release.yml}
    sign:
      - {method: cosign, key: release}
  test:
    origin:
      refs: ["**"]
      ref_protected: false
      github: {events: [push], workflow: .github/workflows/release.yml}
    sign:
      - {method: cosign, key: release}
`

// TestDenied: the request is recorded, denied, and says which rule wanted what,
// what was found, and how to fix it.
func TestDeniedRequestSaysWhatWasWantedAndFound(t *testing.T) {
	job := func(change func(*devworld.GitHubJob)) devworld.GitHubJob {
		j := mainJob(0)
		change(&j)
		return j
	}
	for name, c := range map[string]struct {
		job    devworld.GitHubJob
		policy string // release if empty
		image  string // payments/web if empty; with a host as it is
		tag    string
		keys   string
		rule   string   // the leaf that fails, as it begins
		words  []string // of the failure
		asks   bool     // it takes the registry to know
	}{
		"pull_request_target that looks like main": {
			job: mainJob(0).PullRequestTarget(), rule: "origin.github.events", words: []string{"push", "pull_request_target", "cannot be trusted"},
		},
		"pull request that looks like main": {
			job: job(func(j *devworld.GitHubJob) { j.Event = "pull_request" }), rule: "origin.github.events", words: []string{"push", "pull_request"},
		},
		"workflow_run that looks like main": {
			job: job(func(j *devworld.GitHubJob) { j.Event = "workflow_run" }), rule: "origin.github.events", words: []string{"workflow_run"},
		},
		"a feature branch": {
			job: job(func(j *devworld.GitHubJob) { j.Ref, j.RefProtected = "refs/heads/feature", false }), rule: "origin.refs", words: []string{"refs/heads/main", "refs/heads/feature"},
		},
		"a branch whose name begins with main's (unanchored match: CVE-2026-25542)": {
			job: job(func(j *devworld.GitHubJob) { j.Ref = "refs/heads/main2" }), rule: "origin.refs", words: []string{"refs/heads/main", "refs/heads/main2"},
		},
		"a tag called refs/heads/main": {
			job: job(func(j *devworld.GitHubJob) { j.Ref = "refs/tags/refs/heads/main" }), rule: "origin.refs", words: []string{"refs/tags/refs/heads/main"},
		},
		"an unprotected main": {
			job: job(func(j *devworld.GitHubJob) { j.RefProtected = false }), rule: "origin.ref_protected", words: []string{"protected branch", "not protected"},
		},
		"a main of which the token does not say that it is protected": {
			job: job(func(j *devworld.GitHubJob) { j.Overrides = map[string]any{"ref_protected": nil} }), rule: "origin.ref_protected", words: []string{"does not say"},
		},
		"another workflow": {
			job: job(func(j *devworld.GitHubJob) { j.Workflow = ".github/workflows/release.yml.evil.yml" }), rule: "origin.github.workflow", words: []string{"release.yml"},
		},
		"a reusable workflow that nobody named": {
			job: job(func(j *devworld.GitHubJob) {
				j.Builder, j.BuilderSHA = "stranger/tools/.github/workflows/release.yml@refs/heads/main", strings.Repeat("a", 40)
			}), rule: "origin.github.builder", words: []string{"stranger/tools"},
		},
		"a rerun": {
			job: job(func(j *devworld.GitHubJob) { j.RunAttempt = "2" }), rule: "origin.reruns", words: []string{"attempt 2", "new run"},
		},
		"the same name with another id": {
			job: job(func(j *devworld.GitHubJob) { j.RepositoryID = "75" }), rule: "policy", words: []string{"id 74", "another id, 75"},
		},
		"the same id with another name": {
			job: job(func(j *devworld.GitHubJob) { j.Repository = "acme/payments-web-old" }), rule: "repositories[0].name", words: []string{"acme/payments-web", "renamed"},
		},
		"the same repository with another owner": {
			job: job(func(j *devworld.GitHubJob) { j.OwnerID = "66" }), rule: "repositories[0].owner_id", words: []string{"65", "66"},
		},
		"a repository of nobody": {
			job: job(func(j *devworld.GitHubJob) { j.Repository, j.RepositoryID = "stranger/x", "666" }), rule: "policy", words: []string{"stranger/x", "666"},
		},
		"a policy that is not there (missing policy = allow)": {
			job: mainJob(0), policy: "prod", rule: "policy", words: []string{"release", "prod"},
		},
		"an image outside the policy": {
			job: mainJob(0), image: "secret/vault", rule: "repositories[0].images", words: []string{"payments/web", "secret/vault"},
		},
		"an image beside the policy's": {
			job: mainJob(0), image: "payments/web-evil", rule: "repositories[0].images", words: []string{"payments/web-evil"},
		},
		"an image below the policy's": {
			job: mainJob(0), image: "payments/web/evil", rule: "repositories[0].images", words: []string{"payments/web/evil"},
		},
		"an image of a registry that nobody configured (credentials to another host: CVE-2025-27403)": {
			job: mainJob(0), image: "registry.stranger.example/payments/web", rule: "repositories[0].images", words: []string{"registry.stranger.example"},
		},
		"an image allowed only to another repository": {
			job: mainJob(0), image: "payments/api", rule: "repositories[0].images", words: []string{"payments/web", "payments/api", "acme/payments-api only"},
		},
		"a tag that may not be signed along": {
			job: mainJob(0), tag: "latest", rule: "tags", words: []string{"v*", "latest"},
		},
		"a key that does not serve the policy": {
			job: mainJob(0), policy: "test", rule: "key.allow", words: []string{"no entry for policy test", "owner of key release"}, asks: true,
		},
		"a key that does not serve the image": {
			job: mainJob(0), keys: key("payments/api", ""), rule: "key.allow.repositories", words: []string{"payments/web", "owner of key release"}, asks: true,
		},
		"a key that demands more than the policy": {
			job: mainJob(0), keys: key("payments/*", "require: {refs: [refs/heads/stable]}"), rule: "key.require.refs", words: []string{"refs/heads/stable", "refs/heads/main"}, asks: true,
		},
		"a key that demands approvals": {
			job: mainJob(0), keys: key("payments/*", "require: {approvals: 2}"), rule: "key.require.approvals", words: []string{"at least 2", "asks for 0"}, asks: true,
		},
		"a key that demands what the forge was not asked": {
			job: mainJob(0), keys: key("payments/*", "require: {verify_run: true}"), rule: "forge", words: []string{"no access to it", "forges"}, asks: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, testenv.Options{Policy: twoRepositories, Keys: c.keys})
			a := r.image(c.image)
			a.Tag = c.tag
			asked := asked(t, a)
			if c.policy == "" {
				c.policy = "release"
			}
			q := r.denied(r.token(c.job), c.policy, a)
			if q.Failure == nil {
				t.Fatal("it does not say why")
			}
			r.says(q.Failure.Message+"\n"+q.Failure.Expected+"\n"+q.Failure.Found+"\n"+q.Failure.Fix, c.words...)
			if q.Failure.Expected == "" || q.Failure.Found == "" || q.Failure.Fix == "" {
				t.Errorf("it does not say all of expected, found and fix: %+v", q.Failure)
			}
			failed := q.Decision.Reasons.Failures()
			if len(failed) == 0 || !strings.HasPrefix(failed[0].Rule, c.rule) {
				t.Errorf("the rule that failed first is none of %s: %+v", c.rule, failed)
			}
			if (asked.Seen() > 0) != c.asks {
				t.Errorf("the registry was asked %d times", asked.Seen())
			}
			r.unsigned(a)
		})
	}
}

// key returns a keys file with one key for one kind of image.
func key(images, rest string) string {
	return `
  - id: release
    file: file:DIR/release.key
    methods: [cosign]
    allow: [{project: payments, policy: release, repositories: ["HOST/` + images + `"]}]
    ` + rest + "\n"
}

// image pushes an image, or only names one that is in no registry of this world.
func (r *rig) image(repository string) signing.Artifact {
	r.t.Helper()
	switch {
	case repository == "":
		return r.e.Image(r.t.Name())
	case strings.Contains(repository, ".example/"):
		return signing.Artifact{Repository: signing.Repository(repository), Digest: signing.DigestOf([]byte(r.t.Name()))}
	}
	return r.e.ImageIn(repository, "", r.t.Name())
}

// denied submits and expects the denial.
func (r *rig) denied(token, policy string, artifacts ...signing.Artifact) api.Request {
	r.t.Helper()
	q, capability := r.submit(token, "k", testenv.Body(policy, artifacts...))
	q = r.finish(q.ID, capability)
	if q.State != signing.RequestDenied || q.Decision == nil || q.Decision.Effect != signing.Deny || q.Decision.Reasons.Pass || q.Failure == nil || q.Failure.Code != signing.Denied || len(q.Tasks) != 0 {
		r.t.Fatalf("ended %s: %+v, %+v", q.State, q.Failure, q.Decision)
	}
	return q
}

// unsigned makes sure that one request ended without the use of a key, and that
// the log says so.
func (r *rig) unsigned(images ...signing.Artifact) {
	r.t.Helper()
	n := r.logged()
	if n[audit.RequestSubmitted] != 1 || n[audit.RequestDenied] != 1 || n[audit.RequestDecided] != 0 || n[audit.KeyAttempt] != 0 || r.e.KeyUses() != 0 {
		r.t.Errorf("%v, %d key uses", n, r.e.KeyUses())
	}
	for _, a := range images {
		if !strings.HasPrefix(string(a.Repository), world.Registry.Host+"/") {
			continue
		}
		if n := r.e.Signatures(a); n != 0 {
			r.t.Errorf("%d signatures of %s", n, a)
		}
	}
}

// TestOneBadImageOfManyRefusesAll: all or nothing at the decision.
func TestOneImageOfManyThatIsNotAllowedRefusesAll(t *testing.T) {
	r := start(t, testenv.Options{Policy: twoRepositories})
	good, bad := r.image(""), r.image("payments/api")
	q := r.denied(r.token(mainJob(0)), "release", good, bad)
	r.says(q.Failure.Found, "payments/api")
	r.unsigned(good, bad)
}

// TestStrangersTextInADenialIsPlain: what a token says goes to logs, terminals
// and comments.
func TestStrangersTextInADenialIsBoundedAndPlain(t *testing.T) {
	r := start(t, testenv.Options{})
	j := mainJob(0)
	j.Ref = "refs/heads/" + strings.Repeat("x", 900)
	a := r.image("")
	ans := r.do(submission(r.token(j), "k", testenv.Body("release", a)))
	if ans.Status == http.StatusCreated {
		var q api.Request
		ans.JSON(t, &q)
		q = r.finish(q.ID, ans.Header.Get(api.HeaderCapability))
		if q.State != signing.RequestDenied || len(q.Failure.Found) > 400 {
			t.Errorf("ended %s: %d characters", q.State, len(q.Failure.Found))
		}
		r.unsigned(a)
		return
	}
	r.refused(ans, http.StatusUnauthorized, "ref")
	r.nothing(1, a)
}
