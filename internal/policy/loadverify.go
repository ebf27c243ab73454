package policy

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Bounds of what a policy asks a forge.
const (
	// MaxBranches bounds the branches of a policy: each is a few calls for every
	// request, with those that it may be reached from.
	MaxBranches = 10
	// MaxChecks bounds the named checks.
	MaxChecks = 50
	// maxName bounds the name of a check, a runner group, a label, an input or an
	// actor: GitHub's longest is that of a check run.
	maxName = 255
	// minSourceAge and maxSourceAge bound `human.max_age`.
	minSourceAge, maxSourceAge = time.Hour, 366 * 24 * time.Hour
)

var (
	reWholeRef = regexp.MustCompile(`^refs/(?:heads|tags)/[^\s*?\[\\^~:]+$`)
	reBranch   = regexp.MustCompile(`^refs/heads/[^\s*?\[\\^~:]+$`)
	reNumber   = regexp.MustCompile(`^[1-9][0-9]{0,18}$`)
	rePrinted  = regexp.MustCompile(`^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$`)
)

// namesWords checks a list of names that a forge gives: printable, each once.
func namesWords(s scope, list []string, most int) {
	if len(list) > most {
		s.add("", "%d entries; at most %d are read", len(list), most)
		return
	}
	for i, n := range list {
		if !rePrinted.MatchString(n) || len(n) > maxName || slices.Contains(list[:i], n) {
			s.index(i).add("", "must be a name of at most %d printable characters, each once", maxName)
		}
	}
}

// empty reports a list that is written and empty: nothing could meet it.
func empty(s scope, list []string) {
	if list != nil && len(list) == 0 {
		s.add("", "is an empty list, which nothing meets: take the word out if nothing is asked")
	}
}

func refWords(s scope, list []string, re *regexp.Regexp, what string) {
	if len(list) > MaxBranches {
		s.add("", "%d refs; at most %d are read", len(list), MaxBranches)
		return
	}
	for i, ref := range list {
		if !re.MatchString(ref) || len(ref) > maxPattern || strings.Contains(ref, "..") || slices.Contains(list[:i], ref) {
			s.index(i).add("", "must be a whole %s and no pattern, each once: the forge is asked about it", what)
		}
	}
}

// forgeWords checks what is written in a policy about questions to the forge.
func (l *loader) forgeWords(s scope, o origin) {
	empty(s.at("reachable_from"), o.Reachable)
	refWords(s.at("reachable_from"), o.Reachable, reWholeRef, "ref such as refs/heads/main")
	if h := o.Human; h != nil && h.MaxAge != 0 && (h.MaxAge.Duration() < minSourceAge || h.MaxAge.Duration() > maxSourceAge) {
		s.add("human.max_age", "must be between %s and %s", minSourceAge, maxSourceAge)
	}
	if g := o.GitHub; g != nil {
		at := s.at(kindGitHub)
		empty(at.at("runner_groups"), g.RunnerGroups)
		namesWords(at.at("runner_groups"), g.RunnerGroups, MaxPatterns)
		empty(at.at("runner_labels"), g.RunnerLabels)
		namesWords(at.at("runner_labels"), g.RunnerLabels, MaxPatterns)
		if b := g.Builder; b != nil && b.RepositoryID != "" {
			if !reNumber.MatchString(b.RepositoryID) {
				at.add("builder.repository_id", "must be GitHub's number of the builder's repository, in quotes")
			}
			if len(b.SHA) == 0 {
				at.add("builder.sha", "pin the commits that are trusted: the builder's repository has branches of its own")
			}
		}
	}
	if g := o.GitLab; g != nil {
		at := s.at(kindGitLab)
		empty(at.at("runner_tags"), g.RunnerTags)
		namesWords(at.at("runner_tags"), g.RunnerTags, MaxPatterns)
		if g.Variables != nil {
			namesWords(at.at("variables"), *g.Variables, MaxPatterns)
		}
	}
	if o.Verify != nil {
		l.verifyWords(s.at("verify"), *o.Verify)
	}
}

func (l *loader) verifyWords(s scope, v verify) {
	if v.Ref != nil {
		l.protectionWords(s.at("ref"), *v.Ref)
	}
	if b := v.Branch; b != nil {
		refWords(s.at("branch").at("of"), b.Of, reBranch, "branch such as refs/heads/main")
		l.protectionWords(s.at("branch"), b.protection)
	}
	if p := v.PullRequest; p != nil {
		amount(s.at("pull_request"), "required_approvals", p.RequiredApprovals)
	}
	if e := v.Environment; e != nil {
		amount(s.at("environment"), "required_reviewers", e.RequiredReviewers)
		amount(s.at("environment"), "approved", e.Approved)
		if e.RequiredReviewers == 0 && e.Approved == 0 && !given(e.NoSelfReview) && !given(e.ProtectedBranchesOnly) {
			s.add("environment", "asks nothing: write what the environment has to demand, such as required_reviewers: 1")
		}
	}
	if v.Checks != nil && len(v.Checks) == 0 {
		s.add("checks", "is an empty list, which nothing meets: take the word out if nothing is asked")
	}
	if len(v.Checks) > MaxChecks {
		s.add("checks", "%d checks; at most %d are read", len(v.Checks), MaxChecks)
		return
	}
	for i, c := range v.Checks {
		at := s.at("checks").index(i)
		if !rePrinted.MatchString(c.Name) || len(c.Name) > maxName || slices.ContainsFunc(v.Checks[:i], func(o check) bool { return o.Name == c.Name && o.App == c.App }) {
			at.add("", "must be the name of a check, of at most %d printable characters, each once", maxName)
		}
		if c.App != "" && !reSlug.MatchString(c.App) {
			at.add("app", "must be the id or the slug of a GitHub App, or on GitLab the name of the account")
		}
	}
	if v.Inputs != nil {
		namesWords(s.at("inputs"), *v.Inputs, MaxPatterns)
	}
	empty(s.at("workflow_blobs"), v.WorkflowBlobs)
	if len(v.WorkflowBlobs) > MaxPatterns {
		s.add("workflow_blobs", "%d files; at most %d are read", len(v.WorkflowBlobs), MaxPatterns)
		return
	}
	for i, id := range v.WorkflowBlobs {
		if !reSHA.MatchString(id) || slices.Contains(v.WorkflowBlobs[:i], id) {
			s.at("workflow_blobs").index(i).add("", "must be a git blob id, as `git rev-parse HEAD:.github/workflows/release.yml` prints it, each once")
		}
	}
}

var reSlug = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,100}$`)

// amount checks a number of people that may be left out.
func amount(s scope, word string, n int64) {
	if n < 0 || n > MaxRequired {
		s.add(word, "must be 1 to %d", MaxRequired)
	}
}

func (l *loader) protectionWords(s scope, p protection) {
	amount(s, "required_approvals", p.RequiredApprovals)
	namesWords(s.at("bypass"), p.Bypass, MaxPatterns)
	if given(p.NoBypass) && len(p.Bypass) > 0 {
		s.add("bypass", "nobody may bypass with no_bypass: take one of the two out")
	}
	if p.EnforcedFrom != "" {
		if _, err := time.Parse(time.DateOnly, string(p.EnforcedFrom)); err != nil {
			s.add("enforced_from", "must be a day, as in 2026-01-01")
		}
	}
}

// asks says which of the questions to the forge a policy asks, by word, in order.
func (o origin) asks(b *bind) []string {
	var out []string
	add := func(word string, asked bool) {
		if asked {
			out = append(out, word)
		}
	}
	add("reachable_from", len(o.Reachable) > 0)
	if v := o.Verify; v != nil {
		add("verify.run", given(v.Run))
		add("verify.ref", v.Ref != nil)
		add("verify.branch", v.Branch != nil)
		add("verify.pull_request", v.PullRequest != nil)
		add("verify.environment", v.Environment != nil)
		add("verify.environment.protected_branches_only", v.Environment != nil && given(v.Environment.ProtectedBranchesOnly))
		add("verify.checks", len(v.Checks) > 0)
		add("verify.inputs", v.Inputs != nil)
		add("verify.workflow_blobs", len(v.WorkflowBlobs) > 0)
	}
	add("bind.attestation", b != nil && given(b.Attestation))
	return out
}

// forgeAnswers is the table of which forge answers what, by the kind of the
// build. A kind that is not here has no forge that could be asked: the token of
// its CI names no repository of one, unless the configuration binds it.
func forgeAnswers() map[string][]string {
	source := []string{"reachable_from", "verify.ref", "verify.branch", "verify.pull_request", "verify.checks"}
	run := []string{"verify.run", "verify.environment", "verify.inputs", "verify.workflow_blobs"}
	return map[string][]string{
		kindGitHub: slices.Concat(source, run, []string{"verify.environment.protected_branches_only", "bind.attestation"}),
		kindGitLab: slices.Concat(source, run),
		// Bound to a repository by the configuration, where their token states the commit.
		kindBuildkite: source,
	}
}

// forgeWhole refuses rules that the forges of a policy cannot answer. What a kind
// of the operator's own can be asked is not known here: there, what is missing denies.
func (l *loader) forgeWhole(s scope, o origin, r rules) {
	asked := o.asks(r.Bind)
	for _, kind := range o.kinds() {
		can, builtIn := statesOf(kind)
		if !builtIn {
			continue
		}
		for _, word := range asked {
			if slices.Contains(forgeAnswers()[kind], word) {
				continue
			}
			at := s
			if strings.HasPrefix(word, "bind.") {
				at = scope{l: s.l, doc: s.doc, path: strings.TrimSuffix(s.path, ".origin")}
			}
			at.add(word, "%s cannot be asked for this about a build of %s: take the word out, or move %s to a policy of its own", can.forge(), can.name, kind)
		}
	}
	if b := branchOf(o.Verify); b != nil && len(b.Of) == 0 {
		s.add("verify.branch.of", "must name the branch whose protection is looked at, such as refs/heads/main")
	}
	if o.Human == nil {
		return
	}
	if o.Verify != nil && given(o.Verify.Run) {
		s.add("verify.run", "people submit after the run has ended, so that it never is in progress: take the word out")
	}
	if r.Approvals == nil {
		s.add("human", "what people submit always needs approval: write `approvals`")
	}
}

func branchOf(v *verify) *branch {
	if v == nil {
		return nil
	}
	return v.Branch
}

// forge names who would be asked about a build of the kind.
func (s states) forge() string {
	if s.kind == kindGitHub || s.kind == kindGitLab {
		return s.name
	}
	return "the forge"
}

// modeWords checks the words about what a decision is used for.
func (l *loader) modeWords(s scope, r rules) {
	if r.Mode != "" && r.Mode != modeEnforce && r.Mode != modeLog {
		s.add("mode", "must be enforce or log")
	}
	if r.Shadows != "" && !reName.MatchString(r.Shadows) {
		s.add("shadows", "must be the name of a policy of this project")
	}
	if r.RepositoryPolicy != "" && r.RepositoryPolicy != repositoryHonour && r.RepositoryPolicy != repositoryIgnore {
		s.add("repository_policy", "must be honour (the default) or ignore")
	}
	knownWords(s.at("report"), r.Report, reportWords())
}

// shadows checks, once the project is whole, that each policy in log mode is about
// one that decides.
func (l *loader) shadows(s scope, pr *project) {
	for _, name := range slices.Sorted(maps.Keys(pr.policies)) {
		p := pr.policies[name]
		at := s.at("policies").at(name)
		other, ok := pr.policies[p.rules.Shadows]
		switch {
		case p.rules.Mode == modeLog && p.rules.Shadows == "":
			at.add("mode", "a policy in log mode needs `shadows`, the policy that decides: alone it would allow everything or nothing")
		case p.rules.Mode != modeLog && p.rules.Shadows != "":
			at.add("shadows", "only a policy with `mode: log` shadows another")
		case p.rules.Mode != modeLog:
		case !ok || other.rules.Mode == modeLog:
			at.add("shadows", "must be a policy of this project that decides, not in log mode itself")
		case p.Human() != other.Human():
			at.add("shadows", "one of the two is for people (origin.human) and the other for jobs")
		}
	}
}
