package policy

import (
	"slices"
	"strings"
)

// maxEnvironment bounds the name of a deployment environment: GitHub's limit.
const maxEnvironment = 255

// originWords checks what is written about where a build comes from.
func (l *loader) originWords(s scope, o origin) {
	compileList(s.at("refs"), o.Refs)
	if o.Reruns != "" && !slices.Contains(rerunsWords, o.Reruns) {
		s.add("reruns", "must be deny (the default), attach or allow")
	}
	if len(o.Environment) > maxEnvironment {
		s.add("environment", "must be a name of at most %d characters", maxEnvironment)
	}
	l.kindWords(s, o)
	l.forgeWords(s, o)
}

// originWhole checks that the rules on where a build comes from are complete.
func (l *loader) originWhole(s scope, o origin, r rules) {
	if o.lists() {
		l.listWhole(s, r)
		return
	}
	if len(o.Refs) == 0 {
		s.add("refs", `a policy lists the refs it trusts, such as refs/heads/main; "**" is every ref`)
	}
	kinds := o.kinds()
	if len(kinds) == 0 {
		s.add("", "needs rules for a kind of forge, such as github with the events that are trusted: without one no build is allowed")
	}
	for _, kind := range kinds {
		at := scope{l: s.l, doc: s.doc, path: strings.TrimSuffix(s.path, "origin") + kindPath(kind)}
		if len(o.events(kind)) == 0 {
			at.add("events", "the events that are trusted must be listed: only the event tells a push from what looks like one, such as GitHub's pull_request_target")
		}
		l.answers(s, kind, o, r)
	}
	l.forgeWhole(s, o, r)
	if o.GitHub != nil && o.GitHub.Builder != nil && o.GitHub.Builder.Path == "" {
		s.add("github.builder.path", "must be the path of a workflow file, such as .github/workflows/container.yml")
	}
}

// listWhole checks a policy for lists that people bring: it has no build that a
// rule could be about.
func (l *loader) listWhole(s scope, r rules) {
	whole := scope{l: s.l, doc: s.doc, path: strings.TrimSuffix(s.path, ".origin")}
	if r.Approvals == nil {
		s.add("human", "what people submit always needs approval: write `approvals`")
	} else if len(r.Approvals.Exclude) > 0 {
		whole.add("approvals.exclude", "there is no build that anybody made: take the words out; who submits never approves")
	}
	if r.Bind != nil && (given(r.Bind.RevisionLabel) || given(r.Bind.Attestation)) {
		whole.add("bind", "there is no build whose commit or attestation an image could have: take it out")
	}
}

// events checks an allow-list of build events; known is nil where any name may
// be an event.
func events(s scope, list, known []string) {
	if len(list) > MaxPatterns {
		s.add("", "%d events; at most %d are read", len(list), MaxPatterns)
		return
	}
	for i, e := range list {
		switch why := refused(e); {
		case why != "":
			s.index(i).add("", "%s cannot be trusted to sign: %s", e, why)
		case known != nil && !slices.Contains(known, e):
			s.index(i).add("", "not an event that may sign; those are %s", oneOf(known))
		case !reEvent.MatchString(e):
			s.index(i).add("", "an event is lower-case letters and _")
		}
	}
}

func (l *loader) github(s scope, g github) {
	events(s.at("events"), g.Events, githubEvents)
	if g.Workflow != "" && !reWorkDir.MatchString(g.Workflow) {
		s.add("workflow", "must be the path of a workflow file, such as .github/workflows/release.yml")
	}
	runnerEnvironment(s, g.RunnerEnvironment)
	b := g.Builder
	if b == nil {
		return
	}
	if b.Path != "" && !reWorkDir.MatchString(b.Path) {
		s.add("builder.path", "must be the path of a workflow file, such as .github/workflows/container.yml")
	}
	if b.Repository != "" && !validRepository(b.Repository) {
		s.add("builder.repository", "must be OWNER/NAME of the builder's repository")
	}
	if b.Repository != "" && len(b.SHA) == 0 {
		s.add("builder.sha", "the token names the builder's repository by name only, and names can be taken over: pin the commits that are trusted")
	}
	if len(b.SHA) > MaxPatterns {
		s.add("builder.sha", "%d commits; at most %d are read", len(b.SHA), MaxPatterns)
		return
	}
	for i, c := range b.SHA {
		if !reSHA.MatchString(c) {
			s.at("builder").at("sha").index(i).add("", "must be a whole commit id: 40 or 64 lower-case hexadecimal digits")
		}
	}
}

func (l *loader) gitlab(s scope, g gitlab) {
	events(s.at("events"), g.Events, gitlabEvents)
	if g.Config != "" && (!rePath.MatchString(g.Config) || !reYAML.MatchString(g.Config) || slices.Contains(pathParts(g.Config), "..")) {
		s.add("config", "must be the path of the CI configuration in the project, such as .gitlab-ci.yml")
	}
	runnerEnvironment(s, g.RunnerEnvironment)
	if len(g.RunnerIDs) > MaxPatterns {
		s.add("runner_ids", "%d runners; at most %d are read", len(g.RunnerIDs), MaxPatterns)
		return
	}
	for i, id := range g.RunnerIDs {
		if id <= 0 {
			s.at("runner_ids").index(i).add("", "must be the number of a runner")
		}
	}
}

func runnerEnvironment(s scope, name string) {
	if name != "" && !reRunner.MatchString(name) {
		s.add("runner_environment", "must be the forge's word, such as github-hosted, gitlab-hosted or self-hosted")
	}
}
