package gitlab_test

import (
	"net/http"
	"regexp"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sealwright/sealwright/internal/devworld/lab"
	"github.com/sealwright/sealwright/internal/signing"
)

// pulls asks for the merge requests of the build.
func (b *built) pulls() *signing.ForgeFacts {
	b.t.Helper()
	f := b.facts(signing.ForgeQuestion{Pulls: true})
	if f.Pulls == nil {
		b.t.Fatalf("no answer: %v", f.Unknown)
	}
	return f
}

func TestAReviewedAndMergedRequestIsTold(t *testing.T) {
	b := build(t)
	got := b.pulls()
	head := b.mr.Head()
	want := []signing.PullRequest{{
		Number: "1", URL: b.url + "/acme/payments/-/merge_requests/1", Merged: true, Base: "main", Head: head, Result: b.commit, Author: account(b.ada),
		Authors: []signing.Account{account(b.ada)}, Pushers: []signing.Account{account(b.ada)}, Merger: account(b.bob), Reviews: []signing.Review{{By: account(b.bob), Approved: true, Commit: head}},
	}}
	if diff := cmp.Diff(want, got.Pulls.Pulls, cmpopts.IgnoreTypes(time.Time{})); diff != "" {
		t.Error(diff)
	}
	if got.Unknown[signing.PartPushers] != "" {
		t.Error(got.Unknown)
	}
}

func TestACommitWithoutAMergeRequestIsAFact(t *testing.T) {
	b := build(t)
	b.origin.SourceRepositoryDigest = b.project.Push(b.ada, "main", lab.Commit{Message: "straight"})
	if f := b.pulls(); len(f.Pulls.Pulls) != 0 {
		t.Errorf("%+v", f.Pulls)
	}
}

func TestAnApprovalIsAtTheHeadThatWasThereWhenItWasGiven(t *testing.T) {
	b := build(t)
	b.lab.Change(func() { b.project.Approvals.ResetOnPush = false })
	first := b.project.Push(b.ada, "next", lab.Commit{Message: "one", Author: "Ada", Email: "ada@acme.dev"})
	mr := b.project.Open(lab.MR{Author: b.ada, Branch: "next"})
	mr.Approve(b.bob)
	b.origin.SourceRepositoryDigest = b.project.Push(b.ada, "next", lab.Commit{Message: "two", Author: "Ada", Email: "ada@acme.dev"})
	got := b.pulls().Pulls.Pulls
	if len(got) != 1 || !got[0].Open || got[0].Merged || len(got[0].Reviews) != 1 || got[0].Reviews[0].Commit != first || got[0].Head == first {
		t.Errorf("%+v", got)
	}
}

func TestApprovalsOfThoseWhoMayNotWriteAreLeftOut(t *testing.T) {
	b := build(t)
	outsider, gone := b.lab.User("out"), b.lab.User("gone")
	b.project.Add(outsider, lab.Reporter)
	b.mr.Approve(outsider)
	b.mr.Approve(gone)
	if r := b.pulls().Pulls.Pulls[0].Reviews; len(r) != 1 || r[0].By != account(b.bob) {
		t.Errorf("%+v", r)
	}
}

func TestAuthorsWhomGitLabDoesNotMapAreNamed(t *testing.T) {
	b := build(t)
	private := id(b.bob.ID) + "-bob@users.noreply." + host
	b.origin.SourceRepositoryDigest = b.project.Push(b.ada, "next", lab.Commit{
		Message: "one\n\nCo-authored-by: Bob <" + private + ">\nCo-authored-by: Eve <eve@evil.example>", Author: "Nobody", Email: "nobody@example.org", Committer: "Carol", CommitterEmail: "carol@example.org",
	})
	b.project.Open(lab.MR{Author: b.ada, Branch: "next"})
	pr := b.pulls().Pulls.Pulls[0]
	if diff := cmp.Diff([]signing.Account{account(b.bob)}, pr.Authors); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"Carol <carol@example.org>", "Eve <eve@evil.example>", "Nobody <nobody@example.org>"}, pr.Unmapped); diff != "" {
		t.Error(diff)
	}
	c := b.facts(signing.ForgeQuestion{Commit: true}).Commit
	if c == nil || len(c.Unmapped) != 3 || c.Verified || c.Subject != "one" {
		t.Errorf("%+v", c)
	}
}

func TestAPrivateAddressWithAnIdOfNobodyIsUnmapped(t *testing.T) {
	b := build(t)
	for _, mail := range []string{"999999-x@users.noreply." + host, "x@users.noreply." + host, "-@users.noreply." + host, id(b.bob.ID) + "-bob@users.noreply.evil.example"} {
		b.origin.SourceRepositoryDigest = b.project.Push(b.ada, "next", lab.Commit{Message: mail, Author: "X", Email: mail})
		c := b.facts(signing.ForgeQuestion{Commit: true}).Commit
		if len(c.Authors) != 0 || len(c.Unmapped) != 1 {
			t.Errorf("%s: %+v", mail, c)
		}
	}
}

func TestACommitThatGitLabSignedItselfHasNoOtherCommitter(t *testing.T) {
	b := build(t)
	push := func(signature string) *signing.CommitFacts {
		b.origin.SourceRepositoryDigest = b.project.Push(b.ada, "next", lab.Commit{Message: "web", Author: "Ada", Email: "ada@acme.dev", Committer: "GitLab", CommitterEmail: "noreply@" + host, Signature: signature})
		return b.facts(signing.ForgeQuestion{Commit: true}).Commit
	}
	if c := push("verified_system"); len(c.Unmapped) != 0 || !c.Verified || len(c.Authors) != 1 {
		t.Errorf("%+v", c)
	}
	if c := push(""); len(c.Unmapped) != 1 || c.Verified {
		t.Errorf("%+v", c)
	}
	if c := push("unverified_key"); len(c.Unmapped) != 1 || c.Verified {
		t.Errorf("%+v", c)
	}
}

func TestEverybodyWhoPushedIsAPusher(t *testing.T) {
	b := build(t)
	b.project.Push(b.ada, "next", lab.Commit{Message: "one", Author: "Ada", Email: "ada@acme.dev"})
	b.project.Open(lab.MR{Author: b.ada, Branch: "next"})
	b.origin.SourceRepositoryDigest = b.project.Push(b.bob, "next", lab.Commit{Message: "two", Author: "Ada", Email: "ada@acme.dev"})
	got := b.pulls()
	if diff := cmp.Diff([]signing.Account{account(b.ada), account(b.bob)}, got.Pulls.Pulls[0].Pushers); diff != "" || got.Unknown[signing.PartPushers] != "" {
		t.Error(diff, got.Unknown)
	}
}

func TestPushersWithoutAnEventAreUnknown(t *testing.T) {
	b := build(t)
	sha := b.project.Push(b.ada, "other", lab.Commit{Message: "one", Author: "Ada", Email: "ada@acme.dev"})
	head := b.project.Push(b.ada, "other", lab.Commit{Message: "two", Author: "Ada", Email: "ada@acme.dev"})
	_ = sha
	b.project.Branch("quiet", head)
	b.clock.add(200 * 24 * time.Hour) // beyond what is looked through
	b.project.Open(lab.MR{Author: b.ada, Branch: "quiet"})
	b.origin.SourceRepositoryDigest = head
	got := b.pulls()
	unknown(t, got, signing.PartPushers, "push event")
	if got.Pulls.Pulls[0].Pushers != nil {
		t.Errorf("%+v", got.Pulls.Pulls[0].Pushers)
	}
	b = build(t)
	b.lab.Fail(lab.Fault{Path: regexp.MustCompile("/events$"), Status: http.StatusForbidden})
	unknown(t, b.pulls(), signing.PartPushers, "who pushed")
}

func TestPushersOfAForkThatCannotBeSeenAreUnknown(t *testing.T) {
	b := build(t)
	fork := b.lab.Project("eve/payments")
	fork.ForkFrom(b.project)
	eve := b.lab.User("eve")
	fork.Add(eve, lab.Owner)
	b.origin.SourceRepositoryDigest = fork.Push(eve, "patch", lab.Commit{Message: "x", Author: "Eve", Email: "eve@acme.dev"})
	b.project.Open(lab.MR{Author: eve, Branch: "patch", Source: fork})
	unknown(t, b.pulls(), signing.PartPushers, "fork")
	b.lab.Change(func() { fork.Visibility = "public" })
	b.clock.add(time.Hour)
	if got := b.pulls(); len(got.Pulls.Pulls[0].Pushers) != 1 || got.Unknown[signing.PartPushers] != "" {
		t.Errorf("%+v", got)
	}
}

func TestMergeRequestsOfForksAreNotOurs(t *testing.T) {
	b := build(t)
	fork := b.lab.Project("acme/fork")
	fork.ForkFrom(b.project)
	fork.Add(b.bot, lab.Maintainer)
	b.lab.Fail(lab.Fault{Path: regexp.MustCompile("/commits/.*/merge_requests$"), Status: 200, Header: http.Header{"X-Page": {"1"}}, Body: `[{"iid":7,"state":"merged","target_project_id":` + id(fork.ID) + `}]`})
	if f := b.pulls(); len(f.Pulls.Pulls) != 0 {
		t.Errorf("%+v", f.Pulls)
	}
}

func TestCommitsOfARenamedPathAreOfNobody(t *testing.T) {
	b := build(t)
	b.facts(signing.ForgeQuestion{Run: true}) // the path is known now
	thief := b.lab.Project("acme/other")
	thief.Add(b.bot, lab.Maintainer)
	b.lab.Change(func() { b.project.Path, thief.Path = "acme/moved", "acme/payments" })
	_, err := b.client.Ask(t.Context(), b.origin, nil, signing.ForgeQuestion{Commit: true})
	wantCode(t, err, signing.Unavailable, "another project")
}
