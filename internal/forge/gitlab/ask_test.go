package gitlab_test

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/devworld/lab"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
)

// built is a world with a reviewed, merged and running build of main.
type built struct {
	*world
	mr     *lab.MergeRequest
	commit string
	run    *lab.Pipeline
	job    *lab.Job
	origin signing.Origin
}

const jobs = "build:\n  script: [make]\n"

func build(t *testing.T) *built {
	t.Helper()
	w := start(t)
	rule := w.project.Require("reviewers", 2)
	w.lab.Change(func() {
		w.project.Approvals = lab.ApprovalSettings{ResetOnPush: true, DisableOverride: true, CommittersMayNot: true}
		w.project.RejectUnsigned = true
		_ = rule
	})
	w.project.Protect("main")
	w.project.Push(w.ada, "feature", lab.Commit{Message: "Add a thing\n\nCo-authored-by: Ada <ada@acme.dev>", Author: "Ada", Email: "ada@acme.dev", Files: map[string]string{".gitlab-ci.yml": jobs, "a": "1"}})
	b := &built{world: w}
	b.mr = w.project.Open(lab.MR{Author: w.ada, Branch: "feature"})
	b.mr.Approve(w.bob)
	b.commit = b.mr.Accept(w.bob)
	b.run, b.job = w.project.Run(w.bob, "main", b.commit)
	b.origin = signing.Origin{
		Forge: host, Kind: "gitlab", SourceRepositoryIdentifier: id(w.project.ID), SourceRepository: "acme/payments", SourceRepositoryDigest: b.commit, SourceRepositoryRef: "refs/heads/main",
		RunID: id(b.run.ID), JobID: id(b.job.ID), BuildTrigger: "push", RunInvocationURI: "https://" + host + "/acme/payments/-/jobs/" + id(b.job.ID),
	}
	return b
}

// facts asks, and demands an answer.
func (b *built) facts(q signing.ForgeQuestion) *signing.ForgeFacts {
	b.t.Helper()
	f, err := b.client.Ask(context.Background(), b.origin, nil, q)
	if err != nil {
		b.t.Fatal(err)
	}
	if len(f.Asked) == 0 && len(f.Unknown) == 0 || f.Forge != host {
		b.t.Errorf("no record of what was asked: %+v", f)
	}
	return f
}

// unknown demands that a part has no answer, for a reason.
func unknown(t *testing.T, f *signing.ForgeFacts, part string, says ...string) {
	t.Helper()
	why, ok := f.Unknown[part]
	if !ok {
		t.Fatalf("%s is not unknown: %+v", part, f)
	}
	for _, s := range says {
		if !strings.Contains(why, s) {
			t.Errorf("%s is unknown because %q, want it to say %q", part, why, s)
		}
	}
}

// every is a question for everything, and a path that each part asks.
var every = map[string]struct {
	q    signing.ForgeQuestion
	path string
}{
	signing.PartRun:                          {signing.ForgeQuestion{Run: true}, "/pipelines/"},
	signing.PartRef:                          {signing.ForgeQuestion{Ref: true}, "/protected_branches"},
	signing.PartBranches + " refs/heads/dev": {signing.ForgeQuestion{Branches: []string{"refs/heads/dev"}}, "/branches/dev"},
	signing.PartPulls:                        {signing.ForgeQuestion{Pulls: true}, "/merge_requests"},
	signing.PartCommit:                       {signing.ForgeQuestion{Commit: true}, "/graphql"},
	signing.PartEnvironment:                  {signing.ForgeQuestion{Environment: true}, "/environments"},
	signing.PartChecks:                       {signing.ForgeQuestion{Checks: true}, "/statuses"},
	signing.PartInputs:                       {signing.ForgeQuestion{Inputs: true}, "/variables"},
	signing.PartWorkflowFile:                 {signing.ForgeQuestion{WorkflowFile: true}, "/repository/files/"},
	signing.PartPolicyFile:                   {signing.ForgeQuestion{PolicyFile: true}, "/repository/tree"},
	signing.PartBuilder:                      {signing.ForgeQuestion{BuilderRepository: "acme/builders"}, "/projects/acme/builders"},
}

func TestAForgeThatCannotBeAskedIsAnErrorAndNeverAFact(t *testing.T) {
	for part, c := range every {
		for name, f := range map[string]lab.Fault{
			"500":     {Status: 500},
			"slow":    {Delay: 3 * time.Second},
			"429":     {Status: 429},
			"garbled": {Status: 200, Body: "{"},
		} {
			t.Run(part+" "+name, func(t *testing.T) {
				if name == "slow" && part != signing.PartRun {
					return // a time-out is one of the transport, whatever is asked
				}
				t.Parallel()
				b := build(t)
				b.origin.DeploymentEnvironment = "production"
				f.Path = regexp.MustCompile(regexp.QuoteMeta(c.path))
				b.lab.Fail(f)
				got, err := b.client.Ask(t.Context(), b.origin, nil, c.q)
				if got != nil || !signing.Temporary(err) {
					t.Errorf("%+v, %v", got, err)
				}
			})
		}
	}
}

func TestWhatTheTokenMayNotSeeIsUnknownWithTheReason(t *testing.T) {
	for part, c := range every {
		t.Run(part, func(t *testing.T) {
			b := build(t)
			b.origin.DeploymentEnvironment = "production"
			b.lab.Fail(lab.Fault{Path: regexp.MustCompile(regexp.QuoteMeta(c.path)), Status: 403, Body: `{"message":"403 Forbidden"}`})
			unknown(t, b.facts(c.q), part, "not allowed", "403")
		})
	}
}

func TestABuildOfAProjectThatCannotBeSeenIsAnError(t *testing.T) {
	b := build(t)
	b.lab.Revoke(b.env["TOKEN"])
	_, err := b.client.Ask(t.Context(), b.origin, nil, signing.ForgeQuestion{Run: true})
	wantCode(t, err, signing.Denied, "access token")
	other := b.origin
	other.Forge = "gitlab.com"
	_, err = b.client.Ask(t.Context(), other, nil, signing.ForgeQuestion{Run: true})
	wantCode(t, err, signing.Invalid, "another forge")
}

func TestTheRunIsThePipelineWithItsJob(t *testing.T) {
	b := build(t)
	b.lab.Change(func() { b.job.User = b.ada }) // who retried the job
	want := &signing.RunFacts{
		RepositoryID: id(b.project.ID), HeadRepositoryID: id(b.project.ID), ID: id(b.run.ID), Commit: b.commit, Ref: "main", Event: "push", Status: "running", Running: true,
		Actor: account(b.bob), Restarter: account(b.ada), JobID: id(b.job.ID), JobRunning: true, RunnerID: "31", RunnerGroup: "instance_type", RunnerLabels: []string{"docker"},
	}
	if diff := cmp.Diff(want, b.facts(signing.ForgeQuestion{Run: true}).Run); diff != "" {
		t.Error(diff)
	}
	// A pipeline that a program started says so.
	b.lab.Change(func() { b.run.User, b.job.User, b.run.Status, b.job.Status = b.bot, b.bot, "success", "success" })
	if r := b.facts(signing.ForgeQuestion{Run: true}).Run; r.Running || r.JobRunning || !r.Actor.Bot || !r.Restarter.Bot {
		t.Errorf("%+v", r)
	}
}

func TestAJobOfAnotherPipelineIsNotTheBuilds(t *testing.T) {
	b := build(t)
	_, other := b.project.Run(b.ada, "main", b.commit)
	b.origin.JobID = id(other.ID)
	if r := b.facts(signing.ForgeQuestion{Run: true}).Run; r.JobID != "" || r.JobRunning || r.RunnerID != "" {
		t.Errorf("%+v", r)
	}
	b.origin.JobID = "999999"
	if r := b.facts(signing.ForgeQuestion{Run: true}).Run; r.JobID != "" || r.JobRunning {
		t.Errorf("%+v", r)
	}
}

func TestAPipelineOfAnotherProjectIsUnknown(t *testing.T) {
	b := build(t)
	other := b.lab.Project("acme/other")
	other.Add(b.bot, lab.Maintainer)
	run, _ := other.Run(b.ada, "main", other.Head("main"))
	b.origin.RunID = id(run.ID)
	unknown(t, b.facts(signing.ForgeQuestion{Run: true}), signing.PartRun, "404")
	b.origin.RunID = ""
	unknown(t, b.facts(signing.ForgeQuestion{Run: true}), signing.PartRun, "does not name")
}

func TestThePipelineOfAMergeRequestFromAForkNamesTheFork(t *testing.T) {
	b := build(t)
	fork := b.lab.Project("eve/payments")
	fork.ForkFrom(b.project)
	eve := b.lab.User("eve")
	fork.Add(eve, lab.Owner)
	sha := fork.Push(eve, "evil", lab.Commit{Message: "x"})
	mr := b.project.Open(lab.MR{Author: eve, Branch: "evil", Source: fork})
	run, job := b.project.Run(b.bob, "refs/merge-requests/"+id(mr.IID)+"/head", sha)
	b.lab.Change(func() { run.Source = "merge_request_event" })
	b.origin.RunID, b.origin.JobID = id(run.ID), id(job.ID)
	r := b.facts(signing.ForgeQuestion{Run: true}).Run
	if r.HeadRepositoryID != id(fork.ID) || r.RepositoryID != id(b.project.ID) || r.Event != "merge_request_event" {
		t.Errorf("%+v", r)
	}
	b.lab.Change(func() { run.Ref = "evil" })
	if r := b.facts(signing.ForgeQuestion{Run: true}).Run; r.HeadRepositoryID != "" {
		t.Errorf("a source that is not told is said to be %s", r.HeadRepositoryID)
	}
}

func TestVariablesOfThePipelineAreNamed(t *testing.T) {
	b := build(t)
	if f := b.facts(signing.ForgeQuestion{Inputs: true}); f.Inputs == nil || len(f.Inputs.Names) != 0 {
		t.Errorf("none: %+v", f)
	}
	b.lab.Change(func() { b.run.Variables = []string{"RELEASE", "DEBUG"} })
	if diff := cmp.Diff([]string{"DEBUG", "RELEASE"}, b.facts(signing.ForgeQuestion{Inputs: true}).Inputs.Names); diff != "" {
		t.Error(diff)
	}
}

func TestInputsThatGitLabDoesNotTellAreUnknown(t *testing.T) {
	b := build(t)
	sha := b.project.Push(b.bob, "main", lab.Commit{Message: "x", Files: map[string]string{".gitlab-ci.yml": "spec:\n  inputs:\n    target: {}\n---\n" + jobs}})
	run, job := b.project.Run(b.bob, "main", sha)
	b.origin.RunID, b.origin.JobID, b.origin.SourceRepositoryDigest = id(run.ID), id(job.ID), sha
	unknown(t, b.facts(signing.ForgeQuestion{Inputs: true}), signing.PartInputs, "inputs")
	b.lab.Change(func() { b.project.CIConfig = "ci.yml@acme/central" })
	unknown(t, b.facts(signing.ForgeQuestion{Inputs: true}), signing.PartInputs, "another place")
}

func TestVariablesAreShownToMaintainersOnly(t *testing.T) {
	b := build(t)
	reader := b.lab.Bot("reader")
	b.project.Add(reader, lab.Developer)
	b.env["TOKEN"] = b.lab.Token(reader, "read_api")
	b.client = b.connect(forge.Config{})
	unknown(t, b.facts(signing.ForgeQuestion{Inputs: true}), signing.PartInputs, "maintainer")
	unknown(t, b.facts(signing.ForgeQuestion{Ref: true}), signing.PartRef, "maintainer")
}

func TestCompareSaysWhatIsNew(t *testing.T) {
	b := build(t)
	from := b.commit
	var last string
	for n := range 12 {
		last = b.project.Push(b.ada, "main", lab.Commit{Message: "change " + id(int64(n)) + "\n\nbody"})
	}
	got, err := b.client.Compare(t.Context(), b.repo(), from, last)
	if err != nil {
		t.Fatal(err)
	}
	if got.Commits != 12 || len(got.Subjects) != 10 || got.Subjects[0] != "change 11" || got.Diverged || !strings.Contains(got.URL, from+"..."+last) {
		t.Errorf("%+v", got)
	}
	back, err := b.client.Compare(t.Context(), b.repo(), last, from)
	if err != nil || !back.Diverged {
		t.Errorf("%+v, %v", back, err)
	}
	_, err = b.client.Compare(t.Context(), b.repo(), "main", from)
	wantCode(t, err, signing.Invalid)
}
