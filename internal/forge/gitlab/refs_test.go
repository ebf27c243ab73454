package gitlab_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/devworld/lab"
	"github.com/sealwright/sealwright/internal/signing"
)

func (b *built) ref() *signing.RefFacts {
	b.t.Helper()
	f := b.facts(signing.ForgeQuestion{Ref: true})
	if f.Ref == nil {
		b.t.Fatalf("no answer about the ref: %v", f.Unknown)
	}
	return f.Ref
}

func TestABranchIsProtectedByItsRulesAndSettings(t *testing.T) {
	b := build(t)
	want := &signing.RefFacts{
		Ref: "refs/heads/main", Exists: true, Commit: b.commit, Contains: true, Protected: true, RequiredApprovals: 2, DismissStale: true,
		BlockForcePush: true, BlockDeletion: true, SignedCommits: true, Bypass: []string{"push: access level 40"}, Rules: []string{"protected branch main", `approval rule "reviewers" (2)`},
	}
	if diff := cmp.Diff(want, b.ref()); diff != "" {
		t.Error(diff)
	}
	b.lab.Change(func() {
		p := b.project.ProtectedBranches[0]
		p.Push, p.CodeOwners = []int{0}, true
	})
	if r := b.ref(); len(r.Bypass) != 0 || !r.CodeOwners {
		t.Errorf("nobody pushes, code owners approve: %+v", r)
	}
}

func TestABranchThatNothingProtectsSaysSo(t *testing.T) {
	b := build(t)
	b.lab.Change(func() { b.project.ProtectedBranches = nil })
	if r := b.ref(); r.Protected || r.BlockForcePush || r.BlockDeletion || !r.Exists {
		t.Errorf("%+v", r)
	}
}

func TestOfSeveralPatternsWhatGitLabEnforcesCounts(t *testing.T) {
	b := build(t)
	b.project.Branch("release/1.0", b.commit)
	b.project.Protect("release/*")
	loose := b.project.Protect("*1.0")
	b.project.Protect("release") // no pattern, another branch
	b.lab.Change(func() { loose.Push, loose.CodeOwners = []int{lab.Developer}, true })
	b.origin.SourceRepositoryRef = "refs/heads/release/1.0"
	r := b.ref()
	if !r.Protected || !r.BlockForcePush || !r.CodeOwners || r.BlockDeletion {
		t.Errorf("%+v", r)
	}
	// A push that one of the rules allows is allowed.
	if diff := cmp.Diff([]string{"push: access level 30", "push: access level 40"}, r.Bypass); diff != "" {
		t.Error(diff)
	}
	b.lab.Change(func() { loose.AllowForcePush = true })
	if r := b.ref(); r.BlockForcePush {
		t.Error("one rule allows force pushes, and they are said to be blocked")
	}
}

func TestApprovalRulesThatMergeRequestsMayChangeHoldNobody(t *testing.T) {
	b := build(t)
	b.lab.Change(func() { b.project.Approvals.DisableOverride = false })
	if r := b.ref(); r.RequiredApprovals != 0 || !slices.ContainsFunc(r.Rules, func(s string) bool { return strings.Contains(s, "may change") }) {
		t.Errorf("%+v", r)
	}
}

func TestApprovalRulesOfOtherBranchesAreNotTheBranchs(t *testing.T) {
	b := build(t)
	other := b.project.Protect("release/*")
	b.lab.Change(func() {
		b.project.ApprovalRules[0].Branches = []*lab.Protection{other}
		b.project.Approvals.AuthorMayApprove = true
	})
	if r := b.ref(); r.RequiredApprovals != 0 || !r.AuthorMayApprove {
		t.Errorf("%+v", r)
	}
	b.lab.Change(func() { r := b.project.ApprovalRules[0]; r.Branches, r.AllProtected = nil, true })
	if r := b.ref(); r.RequiredApprovals != 2 {
		t.Errorf("%+v", r)
	}
}

func TestTheFreeEditionEnforcesNoApprovals(t *testing.T) {
	b := build(t)
	b.lab.SetPremium(false)
	f := b.facts(signing.ForgeQuestion{Ref: true, Since: true})
	r := f.Ref
	if r == nil || !r.Protected || r.RequiredApprovals != 0 || r.DismissStale || r.SignedCommits || !r.AuthorMayApprove || !r.Since.IsZero() || !strings.Contains(r.SinceUnknown, "edition") {
		t.Errorf("%+v, %v", r, f.Unknown)
	}
	if !slices.ContainsFunc(r.Rules, func(s string) bool { return strings.Contains(s, "no approval rules: this edition") }) {
		t.Errorf("what the edition lacks is not said: %v", r.Rules)
	}
}

func TestACommitThatIsNotOnTheBranchIsNotContained(t *testing.T) {
	b := build(t)
	old := b.commit
	b.project.Push(b.bob, "main", lab.Commit{Message: "later"})
	if r := b.ref(); !r.Contains || r.Commit == old {
		t.Errorf("an ancestor: %+v", r)
	}
	b.origin.SourceRepositoryDigest = b.project.Push(b.ada, "side", lab.Commit{Message: "aside"})
	if r := b.ref(); r.Contains {
		t.Errorf("another branch: %+v", r)
	}
	b.origin.SourceRepositoryDigest = strings.Repeat("a", 40)
	if r := b.ref(); r.Contains {
		t.Errorf("no such commit: %+v", r)
	}
	b.origin.SourceRepositoryRef = "refs/heads/gone"
	if r := b.ref(); r.Exists || r.Contains {
		t.Errorf("no such branch: %+v", r)
	}
	b.origin.SourceRepositoryRef = "refs/merge-requests/1/head"
	unknown(t, b.facts(signing.ForgeQuestion{Ref: true}), signing.PartRef, "not a branch or tag")
}

func TestProtectedTagsAreMovedByNobody(t *testing.T) {
	b := build(t)
	b.project.Tag("v1.0", b.commit)
	b.origin.SourceRepositoryRef = "refs/tags/v1.0"
	if r := b.ref(); r.Protected || r.BlockForcePush || !r.Exists || !r.Contains {
		t.Errorf("%+v", r)
	}
	b.project.ProtectTag("v*")
	r := b.ref()
	if !r.Protected || !r.BlockForcePush || r.BlockDeletion {
		t.Errorf("%+v", r)
	}
	if diff := cmp.Diff([]string{"create: access level 40"}, r.Bypass); diff != "" {
		t.Error(diff)
	}
	// A branch of the name is another ref.
	b.origin.SourceRepositoryRef = "refs/heads/v1.0"
	if r := b.ref(); r.Exists || r.Protected {
		t.Errorf("%+v", r)
	}
}

func TestSinceIsTheLastChangeInTheAuditEvents(t *testing.T) {
	b := build(t)
	changed := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	b.lab.Change(func() {
		b.project.Audit = []lab.Audit{{Name: "protected_branch_created", At: changed.AddDate(-1, 0, 0)}, {Name: "protected_branch_updated", At: changed}, {Name: "member_created", At: changed.AddDate(0, 1, 0)}}
	})
	since := func() *signing.RefFacts { return b.facts(signing.ForgeQuestion{Ref: true, Since: true}).Ref }
	if r := since(); !r.Since.Equal(changed) || r.SinceUnknown != "" {
		t.Errorf("%+v", r)
	}
	// What is not known to be harmless counts as a change.
	b.lab.Change(func() {
		b.project.Audit = append(b.project.Audit, lab.Audit{Name: "something_new", At: changed.AddDate(0, 2, 0)})
	})
	if r := since(); !r.Since.Equal(changed.AddDate(0, 2, 0)) {
		t.Errorf("%+v", r)
	}
	b.lab.Change(func() { b.project.Audit = b.project.Audit[2:3] })
	if r := since(); !r.Since.IsZero() || r.SinceUnknown == "" {
		t.Errorf("no change is named: %+v", r)
	}
	b.lab.Change(func() { b.project.ProtectedBranches[0].Inherited = true })
	if r := since(); !r.Since.IsZero() || !strings.Contains(r.SinceUnknown, "group") {
		t.Errorf("a group protects: %+v", r)
	}
	b.lab.Change(func() {
		b.project.ProtectedBranches[0].Inherited, b.project.Approvals.InheritedFrom = false, "group"
	})
	if r := since(); !r.Since.IsZero() || !strings.Contains(r.SinceUnknown, "group") {
		t.Errorf("a group decides: %+v", r)
	}
}

func TestFurtherBranchesAreAskedEach(t *testing.T) {
	b := build(t)
	f := b.facts(signing.ForgeQuestion{Branches: []string{"refs/heads/main", "main", "refs/heads/gone"}})
	if len(f.Branches) != 2 || !f.Branches[0].Protected || f.Branches[1].Exists {
		t.Errorf("%+v", f.Branches)
	}
	unknown(t, f, signing.PartBranches+" main", "not a branch")
}
