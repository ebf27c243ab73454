package policy

import (
	"fmt"
	"slices"

	"github.com/sealwright/sealwright/internal/config"
)

// verify lets a policy ask more of the forge than its base, and nothing less.
func (t tightening) verify(c, b *verify) *verify {
	if c == nil || b == nil {
		if c == nil {
			c = b
		}
		return c
	}
	const at = "origin.verify."
	out := *c
	out.Run = t.demand(at+"run", c.Run, b.Run)
	switch {
	case c.Ref == nil:
		out.Ref = b.Ref
	case b.Ref != nil:
		p := t.protection(at+"ref.", *c.Ref, *b.Ref)
		out.Ref = &p
	}
	switch {
	case c.Branch == nil:
		out.Branch = b.Branch
	case b.Branch != nil:
		out.Branch = &branch{superset(t, at+"branch.of", c.Branch.Of, b.Branch.Of), t.protection(at+"branch.", c.Branch.protection, b.Branch.protection)}
		if len(out.Branch.Of) > len(b.Branch.Of) && len(b.Branch.Of) > 0 {
			// One of them has to have the commit: another one loosens that.
			t.loosens(at+"branch.of", "the commit is on %s", oneOf(b.Branch.Of))
		}
	}
	switch {
	case c.PullRequest == nil:
		out.PullRequest = b.PullRequest
	case b.PullRequest != nil:
		out.PullRequest = &pullRequest{t.least(at+"pull_request.required_approvals", c.PullRequest.RequiredApprovals, b.PullRequest.RequiredApprovals)}
	}
	switch {
	case c.Environment == nil:
		out.Environment = b.Environment
	case b.Environment != nil:
		out.Environment = &environment{
			t.least(at+"environment.required_reviewers", c.Environment.RequiredReviewers, b.Environment.RequiredReviewers),
			t.demand(at+"environment.no_self_review", c.Environment.NoSelfReview, b.Environment.NoSelfReview),
			t.demand(at+"environment.protected_branches_only", c.Environment.ProtectedBranchesOnly, b.Environment.ProtectedBranchesOnly),
			t.least(at+"environment.approved", c.Environment.Approved, b.Environment.Approved),
		}
	}
	out.Checks = t.checks(at+"checks", c.Checks, b.Checks)
	out.Inputs = t.names(at+"inputs", c.Inputs, b.Inputs)
	out.WorkflowBlobs = subset(t, at+"workflow_blobs", c.WorkflowBlobs, b.WorkflowBlobs)
	return &out
}

func (t tightening) protection(at string, c, b protection) protection {
	out := protection{
		RequiredApprovals: t.least(at+"required_approvals", c.RequiredApprovals, b.RequiredApprovals),
		CodeOwners:        t.demand(at+"code_owners", c.CodeOwners, b.CodeOwners),
		DismissStale:      t.demand(at+"dismiss_stale", c.DismissStale, b.DismissStale),
		LastPushApproval:  t.demand(at+"last_push_approval", c.LastPushApproval, b.LastPushApproval),
		BlockForcePush:    t.demand(at+"block_force_push", c.BlockForcePush, b.BlockForcePush),
		BlockDeletion:     t.demand(at+"block_deletion", c.BlockDeletion, b.BlockDeletion),
		SignedCommits:     t.demand(at+"signed_commits", c.SignedCommits, b.SignedCommits),
		NoBypass:          t.demand(at+"no_bypass", c.NoBypass, b.NoBypass),
		EnforcedFrom:      c.EnforcedFrom,
	}
	if given(b.NoBypass) && len(c.Bypass) > 0 {
		t.loosens(at+"bypass", "nobody may bypass")
	}
	out.Bypass = c.Bypass
	if !given(out.NoBypass) {
		out.Bypass = subset(t, at+"bypass", c.Bypass, b.Bypass)
	}
	switch {
	case out.EnforcedFrom == "":
		out.EnforcedFrom = b.EnforcedFrom
	case b.EnforcedFrom != "" && out.EnforcedFrom > b.EnforcedFrom: // days compare as text
		t.loosens(at+"enforced_from", "since %s", b.EnforcedFrom)
	}
	return out
}

// human is a kind of policy of its own: a base for jobs has none for people. Its
// age can only be shortened.
func (t tightening) human(c, b *human) *human {
	switch {
	case c == nil:
		return b
	case b == nil:
		t.loosens("origin.human", "the policy is for jobs")
	case c.MaxAge == 0:
		return &human{b.MaxAge}
	case c.maxAge() > b.maxAge():
		t.loosens("origin.human.max_age", "what is submitted again ended at most %s ago", b.maxAge())
	}
	return c
}

func (t tightening) checks(at string, c, b []check) []check {
	if c == nil {
		return b
	}
	out := slices.Clone(c)
	for _, want := range b {
		i := slices.IndexFunc(c, func(own check) bool { return own.Name == want.Name && (want.App == "" || own.App == want.App) })
		if i < 0 {
			t.loosens(at, "the check %s is demanded", want)
		}
	}
	return out
}

// String names a check for people.
func (c check) String() string {
	if c.App == "" {
		return c.Name
	}
	return fmt.Sprintf("%s of %s", c.Name, c.App)
}

// names lets a list of inputs or variables that may be given be shorter.
func (t tightening) names(at string, c, b *names) *names {
	if c == nil || b == nil {
		if c == nil {
			c = b
		}
		return c
	}
	for i, n := range *c {
		if !slices.Contains(*b, n) {
			wanted := "none may be given"
			if len(*b) > 0 {
				wanted = n + " is not one of " + oneOf(*b)
			}
			t.loosens(config.Index(at, i), "%s", wanted)
		}
	}
	return c
}

// least lets a number of people only grow.
func (t tightening) least(at string, c, b int64) int64 {
	if c == 0 {
		return b
	}
	if c < b {
		t.loosens(at, "at least %d", b)
	}
	return c
}

// superset lets a list of demands only grow.
func superset[T ~[]string](t tightening, at string, c, b T) T {
	if c == nil {
		return b
	}
	for _, v := range b {
		if !slices.Contains(c, v) {
			t.loosens(at, "%s is demanded", v)
		}
	}
	return c
}

// sorted returns a copy of v in canonical form.
func (v verify) sorted() verify {
	v.Run = onlyTrue(v.Run)
	if v.Ref != nil {
		p := v.Ref.sorted()
		v.Ref = &p
	}
	if v.Branch != nil {
		v.Branch = &branch{sortedSet(v.Branch.Of), v.Branch.protection.sorted()}
	}
	if p := v.PullRequest; p != nil {
		v.PullRequest = &pullRequest{max(p.RequiredApprovals, 1)}
	}
	if v.Environment != nil {
		e := *v.Environment
		e.NoSelfReview, e.ProtectedBranchesOnly = onlyTrue(e.NoSelfReview), onlyTrue(e.ProtectedBranchesOnly)
		v.Environment = &e
	}
	v.Checks = slices.Clone(v.Checks)
	slices.SortFunc(v.Checks, func(a, b check) int { return slices.Compare([]string{a.Name, a.App}, []string{b.Name, b.App}) })
	v.Inputs, v.WorkflowBlobs = v.Inputs.sorted(), sortedSet(v.WorkflowBlobs)
	return v
}

func (p protection) sorted() protection {
	for _, b := range []**bool{&p.CodeOwners, &p.DismissStale, &p.LastPushApproval, &p.BlockForcePush, &p.BlockDeletion, &p.SignedCommits, &p.NoBypass} {
		*b = onlyTrue(*b)
	}
	if p.Bypass != nil && len(p.Bypass) == 0 {
		yes := true
		p.NoBypass = &yes
	}
	p.Bypass = sortedSet(p.Bypass)
	return p
}

// sorted returns the names sorted; nil, which asks nothing, stays nil.
func (n *names) sorted() *names {
	if n == nil {
		return nil
	}
	out := append(names{}, sortedSet(*n)...)
	return &out
}
