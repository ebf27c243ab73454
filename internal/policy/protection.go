package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// wantsProtected reports whether refs have to be protected.
func (p *Policy) wantsProtected() bool {
	o := p.rules.Origin
	if p.narrow {
		return given(o.RefProtected)
	}
	return o.RefProtected == nil || *o.RefProtected
}

// targets are the branches into which a pull request has to be merged, for builds
// of a tag: those from which its commit has to be reached.
func (p *Policy) targets() []string {
	o := p.rules.Origin
	out := slices.Clone(o.Reachable)
	if b := branchOf(o.Verify); b != nil {
		out = append(out, b.Of...)
	}
	return sortedSet(out)
}

// noCommit is the reason for rules about a commit that the token does not state.
func noCommit(rule, wanted string) signing.Reason {
	return leaf(rule, false, wanted, "the token does not say which commit was built, so that nothing is known about it", "sign from a CI whose token states the commit, or take the rule out")
}

// refFacts returns what is known of one ref of `branches`.
func (a asked) refFacts(ref string) *signing.RefFacts {
	all := a.answered().Branches
	i := slices.IndexFunc(all, func(r signing.RefFacts) bool { return r.Ref == ref })
	if i < 0 {
		return nil
	}
	return &all[i]
}

// reachable wants the commit on one of the branches.
func (a asked) reachable(refs []string, protected bool) signing.Reason {
	const rule = "origin.reachable_from"
	wanted := "the commit is on " + oneOf(refs)
	if protected {
		wanted += ", which is protected"
	}
	if a.origin.SourceRepositoryDigest == "" {
		return noCommit(rule, wanted)
	}
	var was []string
	for _, ref := range refs {
		r := a.refFacts(ref)
		switch {
		case r == nil:
			was = append(was, a.silent(rule, signing.PartBranches+" "+ref, "").Found+" ("+ref+")")
		case !r.Exists:
			was = append(was, ref+" does not exist")
		case !r.Contains:
			was = append(was, "not on "+ref)
		case protected && !r.Protected:
			was = append(was, "on "+ref+", which is not protected")
		default:
			return leaf(rule, true, wanted, "on "+ref, "")
		}
	}
	return leaf(rule, false, wanted, strings.Join(was, "; "), "sign a commit that was merged into the branch")
}

// ref looks at the build's own branch or tag.
func (a asked) ref(want protection) signing.Reason {
	const rule = ruleVerify + ".ref"
	r := a.answered().Ref
	if r == nil {
		return a.silent(rule, signing.PartRef, "a protected branch or tag")
	}
	if a.origin.SourceRepositoryDigest == "" {
		return noCommit(rule, "the commit is on the branch or tag of the build")
	}
	children := []signing.Reason{
		same(rule+".name", a.origin.SourceRepositoryRef, r.Ref, "branch or tag"),
		leaf(rule+".contains", r.Exists && r.Contains, "the commit "+a.origin.SourceRepositoryDigest+" is on it", contained(*r), "the branch or tag was moved since the build: build again"),
	}
	return node(rule, append(children, want.reasons(rule, *r)...)...)
}

// branches looks at the branches that the policy names: all of them are protected
// so, and one has the commit.
func (a asked) branches(want branch) signing.Reason {
	const rule = ruleVerify + ".branch"
	var children []signing.Reason
	contains, was := false, []string(nil)
	for _, ref := range want.Of {
		r := a.refFacts(ref)
		if r == nil {
			children = append(children, a.silent(rule, signing.PartBranches+" "+ref, "how "+ref+" is protected"))
			continue
		}
		contains = contains || r.Exists && r.Contains
		was = append(was, contained(*r))
		children = append(children, want.reasons(rule, *r)...)
	}
	if a.origin.SourceRepositoryDigest == "" {
		return node(rule, append(children, noCommit(rule+".contains", "the commit is on "+oneOf(want.Of)))...)
	}
	if len(was) == 0 && len(want.Of) > 0 {
		// No branch at all was answered for: nothing was found that could be wrong.
		return node(rule, append(children, a.silent(rule+".contains", signing.PartBranches+" "+want.Of[0], "the commit is on "+oneOf(want.Of)))...)
	}
	return node(rule, append(children, leaf(rule+".contains", contains, "the commit is on "+oneOf(want.Of), strings.Join(was, "; "), "sign a commit that was merged into the branch"))...)
}

func contained(r signing.RefFacts) string {
	switch {
	case !r.Exists:
		return r.Ref + " does not exist"
	case !r.Contains:
		return "not on " + r.Ref + ", which is at " + found(r.Commit)
	}
	return "on " + r.Ref
}

// reasons holds how a ref is protected against what is demanded.
func (p protection) reasons(rule string, r signing.RefFacts) []signing.Reason {
	by := r.Ref + ": "
	if len(r.Rules) > 0 {
		by = r.Ref + " (" + strings.Join(r.Rules, ", ") + "): "
	}
	protected := r.Exists && r.Protected
	out := []signing.Reason{leaf(rule+".protected", protected, r.Ref+" exists and is protected", by+map[bool]string{true: "protected", false: "not protected"}[protected], "protect it on the forge")}
	if n := p.RequiredApprovals; n > 0 {
		was, ok := fmt.Sprintf("%s%d", by, r.RequiredApprovals), int64(r.RequiredApprovals) >= n
		if r.AuthorMayApprove {
			was, ok = was+", and authors may approve what they wrote", false
		}
		out = append(out, leaf(rule+".required_approvals", ok, fmt.Sprintf("at least %d approvals by others before a merge", n), was, "demand the approvals in the protection of the branch, and let no author approve"))
	}
	for _, c := range []struct {
		asked       *bool
		is          bool
		word, named string
	}{
		{p.CodeOwners, r.CodeOwners, "code_owners", "code owners have to approve"},
		{p.DismissStale, r.DismissStale, "dismiss_stale", "a push dismisses approvals"},
		{p.LastPushApproval, r.LastPushApproval, "last_push_approval", "somebody else than who pushed last approves"},
		{p.BlockForcePush, r.BlockForcePush, "block_force_push", "nobody may force-push"},
		{p.BlockDeletion, r.BlockDeletion, "block_deletion", "nobody may delete it"},
		{p.SignedCommits, r.SignedCommits, "signed_commits", "commits have to be signed"},
	} {
		if given(c.asked) {
			was := by + "not demanded"
			if c.is {
				was = by + "demanded"
			}
			out = append(out, leaf(rule+"."+c.word, c.is, c.named, was, "set it in the protection of the branch or tag"))
		}
	}
	if given(p.NoBypass) || p.Bypass != nil {
		out = append(out, p.bypass(rule+".no_bypass", by, r))
	}
	if p.EnforcedFrom != "" {
		out = append(out, p.since(rule+".enforced_from", by, r))
	}
	return out
}

// bypass looks at who may pass by the rules. A list that the forge does not show
// is a no.
func (p protection) bypass(rule, by string, r signing.RefFacts) signing.Reason {
	wanted := "nobody may bypass the rules"
	if len(p.Bypass) > 0 {
		wanted = "nobody may bypass the rules but " + oneOf(p.Bypass)
	}
	var more []string
	for _, who := range r.Bypass {
		if !slices.Contains(p.Bypass, who) || strings.HasPrefix(who, "unknown") {
			more = append(more, who)
		}
	}
	was := "nobody else"
	if len(more) > 0 {
		was = strings.Join(more, ", ")
	}
	return leaf(rule, len(more) == 0, wanted, by+was, "take them off the list of who may bypass the rules, or list them in the policy")
}

// since wants the protection to be as it is since a day.
func (p protection) since(rule, by string, r signing.RefFacts) signing.Reason {
	wanted := "protected so since " + string(p.EnforcedFrom)
	day, err := time.Parse(time.DateOnly, string(p.EnforcedFrom))
	if r.Since.IsZero() || err != nil {
		return leaf(rule, false, wanted, by+"the forge did not answer: "+orElse(r.SinceUnknown, "it does not say since when"), "take the rule out, or keep a history of the rules on the forge")
	}
	return leaf(rule, !r.Since.After(day), wanted, by+"since "+r.Since.UTC().Format(time.RFC3339), "the protection was changed later: review what was pushed before, and set the day in the policy")
}

// pullRequest wants the commit to be what merging a pull request made, with
// approvals of its head by others than those who wrote or pushed it.
func (a asked) pullRequest(want pullRequest, targets []string) signing.Reason {
	const rule = ruleVerify + ".pull_request"
	needed := int(max(want.RequiredApprovals, 1))
	facts := a.answered().Pulls
	if facts == nil {
		return a.silent(rule, signing.PartPulls, "a merged and reviewed pull request")
	}
	if a.origin.SourceRepositoryDigest == "" {
		return noCommit(rule, "a merged and reviewed pull request of the commit")
	}
	if head, ok := strings.CutPrefix(a.origin.SourceRepositoryRef, "refs/heads/"); ok {
		targets = []string{"refs/heads/" + head}
	}
	wanted := "the commit is what merging a pull request made"
	if len(targets) > 0 {
		wanted += ", into " + oneOf(targets)
	}
	was := "the commit is in no pull request"
	var best *signing.Reason
	for _, pr := range facts.Pulls {
		name := "#" + pr.Number
		switch {
		case !pr.Merged:
			was = name + " is not merged"
		case pr.Result != a.origin.SourceRepositoryDigest && pr.Head != a.origin.SourceRepositoryDigest:
			was = name + " was merged as " + found(pr.Result)
		case len(targets) > 0 && !slices.Contains(targets, "refs/heads/"+pr.Base):
			was = name + " was merged into " + found(pr.Base)
		default:
			reviewed := a.reviewed(rule+".required_approvals", pr, needed)
			if best == nil || reviewed.Pass {
				best = &reviewed
			}
			was = name + " into " + pr.Base
		}
	}
	if best == nil {
		return node(rule, leaf(rule+".merged", false, clip(wanted), was, "merge the change by a pull request, and build what the merge made"))
	}
	return node(rule, leaf(rule+".merged", true, clip(wanted), was, ""), *best)
}

// reviewed counts approvals of the head of a pull request by others. An author
// whom the forge maps to no account may be any of them: each needs one more.
func (a asked) reviewed(rule string, pr signing.PullRequest, needed int) signing.Reason {
	own := map[string]bool{}
	for _, who := range slices.Concat([]signing.Account{pr.Author}, pr.Authors, pr.Pushers) {
		own[who.Key()] = true
	}
	seen := map[string]bool{}
	for _, r := range pr.Reviews {
		if r.Approved && r.Commit != "" && r.Commit == pr.Head && r.By.Known() && !r.By.Bot && !own[r.By.Key()] {
			seen[r.By.Key()] = true
		}
	}
	wanted := fmt.Sprintf("%d approvals of its head by others than those who wrote or pushed it", needed)
	if n := len(pr.Unmapped); n > 0 {
		needed += n
		wanted += fmt.Sprintf(", and %d more: the forge does not know %s by an account", n, count(n, "author"))
	}
	if why := a.answered().Unknown[signing.PartPushers]; why != "" {
		return leaf(rule, false, wanted, "the forge did not answer: "+why, "who pushed to the pull request cannot be told: let somebody review a new one")
	}
	return leaf(rule, len(seen) >= needed, wanted, fmt.Sprintf("%d of #%s", len(seen), pr.Number), "let somebody else review the newest commit of the pull request")
}
