package policy

import (
	"reflect"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/signing"
)

// Past is a recorded request: the Facts on which it was decided.
type Past struct {
	ID    string
	Facts signing.Facts
	// Passed says that the service's policy refused nothing then, with answers of
	// the forge that Facts may not hold any more.
	Passed bool
	// Effect is what was decided.
	Effect signing.Effect
}

// PastOf returns what is recorded of a decided Request, with its Facts.
func PastOf(r *signing.Request, f signing.Facts) Past {
	failed := r.Decision.Reasons.Failures()
	others := slices.ContainsFunc(failed, func(l signing.Reason) bool {
		return l.Rule != ruleRepository && !strings.HasPrefix(l.Rule, ruleRepository+".")
	})
	return Past{ID: r.ID, Facts: f, Effect: r.Decision.Effect, Passed: r.Decision.Effect != signing.Deny || len(failed) > 0 && !others}
}

// Change is a recorded request that would be decided otherwise.
type Change struct {
	ID, Policy    string
	Before, After signing.Effect
	// BeforeRule and AfterRule are what people are asked, nil where nobody is.
	BeforeRule, AfterRule *signing.ApprovalRule
	Reasons               signing.Reason // of the decision after the change
}

// Replay is what a change of policies means for recorded requests.
type Replay struct {
	Same      int      // decided alike
	Refused   []Change // newly refused
	Allowed   []Change // newly allowed, with or without people
	Approvals []Change // people would be asked, no more, or otherwise
	// Unknown are those of which nothing can be said: all that refuses them are
	// questions to the forge that were not asked then.
	Unknown []Change
}

// Compare decides recorded requests with two sets of policies, in their order;
// before is nil for what was decided then. Nobody is asked anything anew. What a
// forge answered then may not be recorded: where the service's policy passed, and
// both sets ask it the same, it would answer the same. A rule that asks for more is
// in Unknown, unless another rule refuses as well.
func Compare(before, after *Set, past []Past) Replay {
	var out Replay
	for _, p := range past {
		is := judge(after, p.Facts)
		if before == nil {
			was := outcome{effect: p.Effect}
			if is.effect == p.Effect {
				was.rule = is.rule // whom they asked then is not compared
			}
			out.add(p, was, is)
			continue
		}
		was := judge(before, p.Facts)
		if p.Passed && was.unanswered() {
			is, was = is.answeredAs(was), was.answeredAs(was)
		}
		out.add(p, was, is)
	}
	return out
}

// CompareRepository decides recorded requests with two versions of a repository's
// own policy; nil is no file. One that cannot be read refuses every request. Where
// the service's policy passed then, it is not asked again: only what the two
// versions say can differ, and Reasons are of the repository's own policy alone.
func CompareRepository(set *Set, before, after []byte, past []Past) Replay {
	var out Replay
	for _, p := range past {
		out.add(p, judgeOwn(set, p, before), judgeOwn(set, p, after))
	}
	return out
}

// withPolicyFile returns facts as they are if the repository has this policy.
func withPolicyFile(f signing.Facts, text []byte) signing.Facts {
	answer := signing.ForgeFacts{Forge: f.Origin.Forge}
	if f.Forge != nil {
		answer = *f.Forge
	}
	file := signing.PolicyFileFacts{Exists: text != nil, Text: text}
	if answer.PolicyFile != nil {
		file.Branch, file.Commit = answer.PolicyFile.Branch, answer.PolicyFile.Commit
	}
	if file.Exists {
		file.Digest = signing.DigestOf(text)
	}
	answer.PolicyFile, f.Forge = &file, &answer
	return f
}

// outcome is one decision about recorded facts.
type outcome struct {
	effect  signing.Effect
	rule    *signing.ApprovalRule
	asks    *signing.ApprovalRule // whom it would ask if nothing refused
	by      *Policy               // nil if none was found
	reasons signing.Reason
}

// answeredAs is o where all that refuses it are questions that was, which passed,
// asked as well and whose answers are not recorded: then they passed for o, too.
func (o outcome) answeredAs(was outcome) outcome {
	if !o.unanswered() || !sameQuestions(o.by, was.by) {
		return o
	}
	asked := was.reasons.Failures()
	for _, f := range o.reasons.Failures() {
		if !slices.ContainsFunc(asked, func(a signing.Reason) bool { return a.Rule == f.Rule && a.Wanted == f.Wanted }) {
			return o
		}
	}
	out := outcome{effect: signing.Allow, rule: o.asks, asks: o.asks, reasons: o.reasons}
	if out.rule != nil {
		out.effect = signing.NeedsApproval
	}
	return out
}

func judge(s *Set, f signing.Facts) outcome {
	p, effect, reasons := s.Judge(f)
	out := outcome{effect: effect, reasons: reasons}
	if p != nil {
		out.asks, out.by = p.ApprovalsWith(f.Forge), p
	}
	if effect == signing.NeedsApproval {
		out.rule = out.asks
	}
	return out
}

// judgeOwn decides p as if the repository had this policy.
func judgeOwn(s *Set, p Past, text []byte) outcome {
	f := withPolicyFile(p.Facts, text)
	own, _, _ := s.find(f.Origin, f.Policy)
	if own == nil || !p.Passed {
		return judge(s, f)
	}
	_, why := own.repositoryPolicy(f)
	if why.Rule != "" && !why.Pass {
		return outcome{effect: signing.Deny, reasons: why}
	}
	out := outcome{effect: signing.Allow, rule: own.ApprovalsWith(f.Forge), reasons: why}
	if out.rule != nil {
		out.effect = signing.NeedsApproval
	}
	return out
}

// sameQuestions reports whether two policies want the same answers of a forge. The
// reason for a part that was not asked does not say all that is wanted of it.
func sameQuestions(a, b *Policy) bool {
	if a == nil || b == nil || a.ReadsRepositoryPolicy() != b.ReadsRepositoryPolicy() {
		return false
	}
	wants := func(p *Policy) any {
		out := []any{p.rules.Bind}
		o := p.rules.Origin
		if o == nil {
			return out
		}
		out = append(out, o.Verify, o.Reachable, p.wantsProtected())
		if g := o.GitHub; g != nil {
			out = append(out, g.Builder, g.RunnerGroups, g.RunnerLabels)
		}
		if g := o.GitLab; g != nil {
			out = append(out, g.RunnerTags, g.Variables)
		}
		return out
	}
	return reflect.DeepEqual(wants(a), wants(b))
}

// unanswered reports whether nothing but questions that were not asked refuses.
func (o outcome) unanswered() bool {
	leaves := o.reasons.Failures()
	return o.effect == signing.Deny && len(leaves) > 0 && !slices.ContainsFunc(leaves, func(r signing.Reason) bool {
		return !strings.Contains(r.Found, notAsked) && !strings.Contains(r.Found, notAnswered)
	})
}

func (r *Replay) add(p Past, before, after outcome) {
	c := Change{ID: p.ID, Policy: p.Facts.Policy, Before: before.effect, After: after.effect, BeforeRule: before.rule, AfterRule: after.rule, Reasons: after.reasons}
	switch {
	case before.effect == signing.Deny && after.effect == signing.Deny:
		r.Same++
	case after.unanswered() || before.unanswered():
		r.Unknown = append(r.Unknown, c)
	case after.effect == signing.Deny:
		r.Refused = append(r.Refused, c)
	case before.effect == signing.Deny:
		r.Allowed = append(r.Allowed, c)
	case !sameRule(before.rule, after.rule):
		r.Approvals = append(r.Approvals, c)
	default:
		r.Same++
	}
}

// sameRule reports whether people are asked alike. Both are in canonical order
// but for their groups, whose order says nothing.
func sameRule(a, b *signing.ApprovalRule) bool {
	if a == nil || b == nil {
		return a == b
	}
	key := func(r *signing.ApprovalRule) []string {
		out := []string{strings.Join(r.Exclude, ","), strings.Join(r.Ways, ","), r.Expires.String()}
		for _, on := range []bool{r.DenyEnds, r.Supersede} {
			out = append(out, map[bool]string{true: "yes", false: "no"}[on])
		}
		var groups []string
		for _, g := range r.Groups {
			groups = append(groups, describeRule(&signing.ApprovalRule{Groups: []signing.ApprovalGroup{g}}))
		}
		slices.Sort(groups)
		return append(out, groups...)
	}
	return slices.Equal(key(a), key(b))
}
