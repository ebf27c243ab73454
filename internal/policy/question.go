package policy

import (
	"slices"
	"time"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/signing"
)

// The channels of `report`.
const (
	ReportCheck   = "check"   // a check run; a commit status where the forge has none
	ReportStatus  = "status"  // a commit status
	ReportComment = "comment" // a comment on the pull request, edited in place
	ReportSummary = "summary" // the summary of the CI step
)

func reportWords() []string {
	return []string{ReportCheck, ReportComment, ReportStatus, ReportSummary}
}

const (
	repositoryHonour = "honour"
	repositoryIgnore = "ignore"
)

// Channels returns where the result of a request is reported, sorted: a check
// and the summary, if the policy does not say. The comment in which people are
// asked for approval is no report.
func (p *Policy) Channels() []string { return p.rules.channels() }

func (p rules) channels() []string {
	if p.Report == nil {
		return []string{ReportCheck, ReportSummary}
	}
	return sortedSet(p.Report)
}

// Log reports whether the policy only records what it would have said.
func (p *Policy) Log() bool { return p.rules.Mode == modeLog }

// Shadows returns the policies in log mode that shadow p, by name. What they say
// is recorded and decides nothing: each is evaluated with the facts of a request
// for p, and the answers to p's Question.
func (p *Policy) Shadows() []*Policy {
	var out []*Policy
	for _, other := range p.set.Policies() {
		if other.project == p.project && other.Log() && other.rules.Shadows == p.name {
			out = append(out, other)
		}
	}
	return out
}

// Human reports whether the policy is for people, who submit what was signed
// before, and not for jobs.
func (p *Policy) Human() bool { return p.rules.Origin.Human != nil }

// MaxSourceAge is how long ago what a person submits again may have ended; zero
// for policies that are for jobs.
func (p *Policy) MaxSourceAge() time.Duration {
	if !p.Human() {
		return 0
	}
	return p.rules.Origin.Human.maxAge()
}

// ReadsRepositoryPolicy reports whether the repository's own policy counts too.
func (p *Policy) ReadsRepositoryPolicy() bool {
	return p.rules.RepositoryPolicy != repositoryIgnore && !p.Log()
}

// ReadsRepository reports whether a policy of the project that has a repository
// honours the repository's own. The row of an owner is found by the name, which
// authorises nothing: it is a hint that looking is worth it.
func (s *Set) ReadsRepository(forge, id, name string) bool {
	r := s.rows[rowKey{forge, id}]
	if r == nil {
		for at, whole := range s.owners {
			if owner, _ := whole.owner(); at.forge == forge && fold(owner) == fold(above(name)) {
				r = whole
			}
		}
	}
	if r == nil {
		return false
	}
	for _, p := range r.project.policies {
		if p.ReadsRepositoryPolicy() {
			return true
		}
	}
	return false
}

// Question returns everything that the rules of the policy, of those that shadow
// it, and who may not approve ask the forge. The zero value asks nothing.
func (p *Policy) Question() signing.ForgeQuestion {
	q := p.question()
	for _, other := range p.Shadows() {
		q = q.And(other.question())
	}
	return q
}

func (p *Policy) question() signing.ForgeQuestion {
	q := p.rules.question()
	q.PolicyFile = p.ReadsRepositoryPolicy()
	return q
}

// RecheckQuestion returns what has to be asked again before a key is used, as
// section "rechecks" of the design has it: how refs are protected now, and what
// the repository's own policy says of it. The run has ended when people have
// approved, and is judged at submission only.
func (p *Policy) RecheckQuestion() signing.ForgeQuestion {
	return p.question().Recheck()
}

// FurtherRecheck is Further for a recheck.
func (p *Policy) FurtherRecheck(f *signing.ForgeFacts) signing.ForgeQuestion {
	return p.Further(f).Recheck()
}

// Recheck holds what the forge answered to RecheckQuestion against the policy. The
// repository's own policy has to be the one that was decided on, whose digest is
// in the basis; its rules on refs are held too.
func (p *Policy) Recheck(f signing.Facts, decided signing.Digest) signing.Reason {
	a := asked{f.Origin, f.Forge}
	children := p.recheck(a)
	if p.ReadsRepositoryPolicy() && f.Forge != nil {
		wanted := orElse(string(decided), "no "+RepositoryFile)
		if a.answered().PolicyFile == nil {
			children = append(children, a.silent(ruleRepository, signing.PartPolicyFile, wanted))
		} else {
			now := p.RepositoryDigest(f.Forge)
			if f.Forge.PolicyFile.Exists && now == "" {
				now = "a policy that cannot be read"
			}
			children = append(children, leaf(ruleRepository, now == decided, wanted, orElse(string(now), "no such file"), "the repository's own policy has changed since the decision: submit again"))
		}
		if own, err := p.ofRepository(f.Forge); err == nil && own != nil {
			for _, part := range own.parts(p.name) {
				if more := part.recheck(a); len(more) > 0 {
					children = append(children, below(ruleRepository, node(config.Key("policies", part.name), more...)))
				}
			}
		}
	}
	if len(children) == 0 {
		return leaf("recheck", true, "nothing that the forge has to confirm again", "nothing was asked", "")
	}
	return node("recheck", children...)
}

// recheck holds the rules on refs.
func (p *Policy) recheck(a asked) []signing.Reason {
	o := p.rules.Origin
	if o == nil {
		return nil
	}
	var out []signing.Reason
	if len(o.Reachable) > 0 {
		out = append(out, a.reachable(o.Reachable, p.wantsProtected()))
	}
	if v := o.Verify; v != nil && v.Ref != nil {
		out = append(out, a.ref(*v.Ref))
	}
	if b := branchOf(o.Verify); b != nil {
		out = append(out, a.branches(*b))
	}
	return out
}

// question returns what the rules ask of the forge.
func (p rules) question() signing.ForgeQuestion {
	var q signing.ForgeQuestion
	q.Attestation = p.Bind != nil && given(p.Bind.Attestation)
	if p.Approvals != nil {
		exclude := p.Approvals.rule().Exclude
		wrote := slices.Contains(exclude, signing.ExcludeAuthor)
		q.Pulls, q.Commit = wrote || slices.Contains(exclude, signing.ExcludePusher), wrote
		q.Run = slices.Contains(exclude, signing.ExcludeActor)
	}
	o := p.Origin
	if o == nil {
		return q
	}
	q.Branches = append(q.Branches, o.Reachable...)
	if g := o.GitHub; g != nil {
		q.Run = q.Run || len(g.RunnerGroups) > 0 || len(g.RunnerLabels) > 0
		if g.Builder != nil && g.Builder.RepositoryID != "" {
			q.BuilderRepository = signing.BuilderOfJob
		}
	}
	if g := o.GitLab; g != nil {
		q.Run = q.Run || len(g.RunnerTags) > 0
		q.Inputs = g.Variables != nil
	}
	if o.Verify != nil {
		o.Verify.ask(&q)
	}
	q.Branches = sortedSet(q.Branches)
	return q
}

// ask adds what v asks.
func (v verify) ask(q *signing.ForgeQuestion) {
	q.Run = q.Run || given(v.Run)
	if v.Ref != nil {
		q.Ref, q.Since = true, q.Since || v.Ref.EnforcedFrom != ""
	}
	if v.Branch != nil {
		q.Branches = append(q.Branches, v.Branch.Of...)
		q.Since = q.Since || v.Branch.EnforcedFrom != ""
	}
	q.Pulls = q.Pulls || v.PullRequest != nil
	q.Environment = q.Environment || v.Environment != nil
	for _, c := range v.Checks {
		q.Checks, q.CheckNames = true, append(q.CheckNames, c.Name)
	}
	q.CheckNames = sortedSet(q.CheckNames)
	q.Inputs = q.Inputs || v.Inputs != nil
	q.WorkflowFile = q.WorkflowFile || len(v.WorkflowBlobs) > 0
}

// AsksForges returns the hosts of the forges that decisions by the policy need:
// those of its project's repositories, sorted, if it asks a forge or people
// anything; none else. The repository's own policy alone needs no forge: without
// one there is none.
func (p *Policy) AsksForges() []string {
	q := p.Question()
	q.PolicyFile = false
	if p.Log() || !q.Asks() && p.Approvals() == nil {
		return nil
	}
	var out []string
	for _, rows := range []map[rowKey]*row{p.set.rows, p.set.owners} {
		for at, r := range rows {
			if r.project == p.project {
				out = append(out, at.forge)
			}
		}
	}
	return sortedSet(out)
}
