package gitlab_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sealwright/sealwright/internal/devworld/lab"
	"github.com/sealwright/sealwright/internal/signing"
)

func (b *built) environment() *signing.EnvironmentFacts {
	b.t.Helper()
	f := b.facts(signing.ForgeQuestion{Environment: true})
	if f.Environment == nil {
		b.t.Fatalf("no answer: %v", f.Unknown)
	}
	return f.Environment
}

func TestAProtectedEnvironmentSaysWhoHasToApprove(t *testing.T) {
	b := build(t)
	b.origin.DeploymentEnvironment = "production/eu"
	if e := b.environment(); e.Exists || e.Required != 0 {
		t.Errorf("there is none: %+v", e)
	}
	env := &lab.Environment{Name: "production/eu"}
	b.lab.Change(func() { b.project.Environments = []*lab.Environment{env} })
	if e := b.environment(); !e.Exists || e.Required != 0 || e.Reviewers != 0 {
		t.Errorf("it is not protected: %+v", e)
	}
	deployment := b.project.Deploy(b.job, "production/eu")
	b.project.Deploy(b.run.Job(b.ada, "other", "running"), "production/eu")
	b.lab.Change(func() {
		env.Protected = true
		env.Rules = []lab.EnvironmentRule{{Level: lab.Maintainer, Required: 2}, {User: b.ada.ID, Required: 1}}
		deployment.Approvals = []lab.DeploymentApproval{{By: b.bob, Status: "approved", At: b.clock.at}, {By: b.ada, Status: "rejected", At: b.clock.at}}
	})
	want := &signing.EnvironmentFacts{Name: "production/eu", Exists: true, Reviewers: 2, Required: 2, NoSelfReview: true, Approved: []signing.Review{{By: account(b.bob), Approved: true}, {By: account(b.ada)}}}
	if diff := cmp.Diff(want, b.environment(), cmpopts.IgnoreTypes(time.Time{})); diff != "" {
		t.Error(diff)
	}
	b.lab.Change(func() { b.project.TriggererApproves = true })
	if e := b.environment(); e.NoSelfReview {
		t.Errorf("who started the pipeline may approve: %+v", e)
	}
	b.lab.SetPremium(false)
	if e := b.environment(); e.Required != 0 || len(e.Approved) != 0 {
		t.Errorf("the Free edition protects nothing: %+v", e)
	}
	b.origin.DeploymentEnvironment = ""
	unknown(t, b.facts(signing.ForgeQuestion{Environment: true}), signing.PartEnvironment, "does not name")
}

func (b *built) checks(names ...string) []signing.CheckResult {
	b.t.Helper()
	f := b.facts(signing.ForgeQuestion{Checks: true, CheckNames: names})
	if f.Checks == nil {
		b.t.Fatalf("no answer: %v", f.Unknown)
	}
	return f.Checks.Checks
}

func TestChecksAreJobsAndStatusesOfTheCommit(t *testing.T) {
	b := build(t)
	b.run.Job(b.bob, "scan", "failed")
	again, _ := b.project.Run(b.bob, "main", b.commit)
	again.Job(b.bob, "scan", "success")
	status := func(by *lab.User, name, state string) {
		b.lab.Change(func() {
			b.project.Statuses = append(b.project.Statuses, &lab.Status{ID: 1_000_000 + int64(len(b.project.Statuses)), SHA: b.commit, Ref: "main", Name: name, State: state, Author: by})
		})
	}
	status(b.bot, "license", "success")
	status(b.ada, "license", "failed")
	status(b.ada, "scan", "success")
	want := []signing.CheckResult{
		{Name: "license", Kind: "status", App: "ada", AppID: id(b.ada.ID), Done: true, State: "failed"},
		{Name: "license", Kind: "status", App: "project_1_bot", AppID: id(b.bot.ID), Done: true, OK: true, State: "success"},
		{Name: "scan", Kind: "job", App: "gitlab:ci", Done: true, OK: true, State: "success"},
		{Name: "scan", Kind: "status", App: "ada", AppID: id(b.ada.ID), Done: true, OK: true, State: "success"},
	}
	diff := cmp.Diff(want, b.checks("license", "scan"), cmpopts.IgnoreTypes(time.Time{}), cmpopts.IgnoreFields(signing.CheckResult{}, "URL"), cmpopts.SortSlices(func(a, b signing.CheckResult) bool { return a.Name+a.Kind+a.App < b.Name+b.Kind+b.App }))
	if diff != "" {
		t.Error(diff)
	}
}

func TestJobsThatTriggerOrAreBelowOtherPipelinesAreNobodysStatus(t *testing.T) {
	b := build(t)
	child, _ := b.project.Run(b.bot, "main", b.commit)
	scan := child.Job(b.bot, "scan", "success")
	b.lab.Change(func() {
		child.Source = "parent_pipeline"
		bridge := *scan
		bridge.ID, bridge.Name = scan.ID+1_000_000, "trigger"
		child.Bridges = []*lab.Job{&bridge}
	})
	for _, c := range b.checks() {
		if c.Kind != "job" || c.App != "gitlab:ci" {
			t.Errorf("%+v", c)
		}
	}
	if c := b.checks("scan"); len(c) != 1 {
		t.Errorf("%+v", c)
	}
}

func TestAChecksNewestResultCountsAndOnlyGreenIsOK(t *testing.T) {
	b := build(t)
	b.run.Job(b.bob, "scan", "success")
	for state, done := range map[string]bool{"failed": true, "canceled": true, "skipped": true, "running": false, "manual": false, "pending": false} {
		again, _ := b.project.Run(b.bob, "main", b.commit)
		again.Job(b.bob, "scan", state)
		if c := b.checks("scan"); len(c) != 1 || c[0].OK || c[0].Done != done || c[0].State != state {
			t.Errorf("%s: %+v", state, c)
		}
	}
	if c := b.checks("no such"); len(c) != 0 {
		t.Errorf("%+v", c)
	}
	// Of another commit they are nothing.
	b.origin.SourceRepositoryDigest = b.project.Push(b.bob, "main", lab.Commit{Message: "next"})
	if c := b.checks("scan"); len(c) != 0 {
		t.Errorf("%+v", c)
	}
}

func TestTheConfigurationIsItsBlobAtTheCommit(t *testing.T) {
	b := build(t)
	ask := func() *signing.ForgeFacts { return b.facts(signing.ForgeQuestion{WorkflowFile: true}) }
	want := signing.BlobFact{Path: ".gitlab-ci.yml", Commit: b.commit, Blob: lab.BlobID(jobs)}
	if w := ask().Workflow; w.Config != want || w.Signer != want {
		t.Errorf("%+v", w)
	}
	b.origin.BuildConfigURI, b.origin.BuildConfigDigest = "https://"+host+"/acme/payments//.gitlab-ci.yml@refs/heads/main", b.commit
	if w := ask().Workflow; w.Config != want {
		t.Errorf("%+v", w)
	}
	// A policy of a group defines the job: its file is another one.
	b.origin.BuildSignerURI = "https://" + host + "/acme/policies//p.yml@refs/heads/main"
	if w := ask().Workflow; w.Config != want || w.Signer.Blob != "" {
		t.Errorf("%+v", w)
	}
	for _, elsewhere := range []string{"https://" + host + "/acme/other//.gitlab-ci.yml@refs/heads/main", "https://evil.example/acme/payments//.gitlab-ci.yml@refs/heads/main", "https://" + host + "/acme/payments//.gitlab-ci.yml@refs/heads/dev", "https://" + host + "/acme/payments//@refs/heads/main"} {
		b.origin.BuildConfigURI = elsewhere
		unknown(t, ask(), signing.PartWorkflowFile, "another place")
	}
	b.origin.BuildConfigURI = "https://" + host + "/acme/payments//none.yml@refs/heads/main"
	unknown(t, ask(), signing.PartWorkflowFile, "404")
}

func TestAFileWhoseContentIsNotItsBlobIsNoAnswer(t *testing.T) {
	b := build(t)
	b.lab.Fail(lab.Fault{Path: regexp.MustCompile("/repository/files/"), Status: 200, Body: `{"file_path":".gitlab-ci.yml","encoding":"base64","content":"eA==","blob_id":"` + lab.BlobID(jobs) + `"}`})
	_, err := b.client.Ask(t.Context(), b.origin, nil, signing.ForgeQuestion{WorkflowFile: true})
	wantCode(t, err, signing.Unavailable, "blob")
}

func TestThePolicyFileIsAbsentOnlyWhereTheTreeWasListed(t *testing.T) {
	b := build(t)
	ask := func() *signing.ForgeFacts { return b.facts(signing.ForgeQuestion{PolicyFile: true}) }
	f := ask().PolicyFile
	if f == nil || f.Exists || f.Branch != "main" || f.Commit != b.commit {
		t.Errorf("%+v", f)
	}
	b.project.Push(b.bob, "main", lab.Commit{Message: "dir", Files: map[string]string{".sealwright/other": "x"}})
	if f := ask().PolicyFile; f == nil || f.Exists {
		t.Errorf("%+v", f)
	}
	const text = "version: 1\n"
	head := b.project.Push(b.bob, "main", lab.Commit{Message: "policy", Files: map[string]string{".sealwright/policy.yml": text}})
	if f := ask().PolicyFile; f == nil || !f.Exists || string(f.Text) != text || f.Digest != signing.DigestOf([]byte(text)) || f.Commit != head {
		t.Errorf("%+v", f)
	}
	b.lab.Fail(lab.Fault{Path: regexp.MustCompile("/repository/tree"), Status: 404, Body: `{"message":"404 Tree Not Found"}`})
	unknown(t, ask(), signing.PartPolicyFile, "404")
	b.lab.Heal()
	b.lab.Fail(lab.Fault{Path: regexp.MustCompile("/repository/files/"), Status: 404, Body: `{"message":"404 File Not Found"}`})
	unknown(t, ask(), signing.PartPolicyFile, "404")
}

func TestThePolicyOfACommitIsRead(t *testing.T) {
	b := build(t)
	old := b.commit
	head := b.project.Push(b.bob, "topic", lab.Commit{Message: "policy", Files: map[string]string{".sealwright/policy.yml": "version: 1\n"}})
	for commit, exists := range map[string]bool{"": false, old: false, head: true} {
		f, err := b.client.PolicyFile(t.Context(), b.repo(), commit)
		if err != nil || f.Exists != exists || (f.Branch == "main") != (commit == "") || commit != "" && f.Commit != commit {
			t.Errorf("%q: %+v, %v", commit, f, err)
		}
	}
	_, err := b.client.PolicyFile(t.Context(), b.repo(), strings.Repeat("0", 40))
	wantCode(t, err, signing.NotFound)
	_, err = b.client.PolicyFile(t.Context(), b.repo(), "main")
	wantCode(t, err, signing.Invalid)
}

func TestAPolicyFileThatIsALinkIsUnknown(t *testing.T) {
	b := build(t)
	b.project.Push(b.bob, "main", lab.Commit{Message: "policy", Files: map[string]string{".sealwright/policy.yml": "../a"}})
	b.lab.Fail(lab.Fault{Path: regexp.MustCompile("/repository/tree"), Skip: 1, Status: 200, Body: `[{"id":"` + lab.BlobID("../a") + `","name":"policy.yml","type":"blob","mode":"120000"}]`})
	unknown(t, b.facts(signing.ForgeQuestion{PolicyFile: true}), signing.PartPolicyFile, "no plain file", "120000")
}

func TestAListThatIsNoneIsNoAnswer(t *testing.T) {
	for _, part := range []string{signing.PartRef, signing.PartPulls, signing.PartChecks, signing.PartInputs, signing.PartPolicyFile} {
		b := build(t)
		b.lab.Fail(lab.Fault{Path: regexp.MustCompile(regexp.QuoteMeta(every[part].path)), Status: 200, Body: "null"})
		got, err := b.client.Ask(t.Context(), b.origin, nil, every[part].q)
		if got != nil || !signing.Temporary(err) {
			t.Errorf("%s: %+v, %v", part, got, err)
		}
	}
}

func TestABuildersProjectIsTheOneOfTheNameNow(t *testing.T) {
	b := build(t)
	builders := b.lab.Project("acme/builders")
	builders.Add(b.bot, lab.Reporter)
	ask := func(name string) *signing.ForgeFacts { return b.facts(signing.ForgeQuestion{BuilderRepository: name}) }
	if f := ask("acme/builders").Builder; f == nil || f.ID != id(builders.ID) {
		t.Errorf("%+v", f)
	}
	unknown(t, ask("acme/nothing"), signing.PartBuilder, "404")
	unknown(t, ask(id(builders.ID)), signing.PartBuilder, "not the path")
	b.origin.BuildConfigURI = "https://" + host + "/acme/builders//a.yml@refs/heads/main"
	if f := ask(signing.BuilderOfJob).Builder; f == nil || f.ID != id(builders.ID) {
		t.Errorf("%+v", f)
	}
	b.origin.BuildConfigURI = ""
	unknown(t, ask(signing.BuilderOfJob), signing.PartBuilder, "does not name")
}

func TestAttestationsWithoutATrustedRootAreUnknown(t *testing.T) {
	b := build(t)
	f := b.facts(signing.ForgeQuestion{Attestation: true})
	unknown(t, f, signing.PartAttestation, "attestation_root")
	if strings.Contains(f.Unknown[signing.PartAttestation], "404") {
		t.Error("it was asked")
	}
}
