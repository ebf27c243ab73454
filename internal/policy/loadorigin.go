package policy

import (
	"maps"
	"slices"
)

// maxEnvironment bounds the name of a deployment environment: GitHub's limit.
const maxEnvironment = 255

// origin checks the rules on where a build comes from, and compiles its refs.
func (l *loader) origin(s scope, o origin) patterns {
	if len(o.Refs) == 0 {
		s.add("refs", `a policy lists the refs it trusts, such as refs/heads/main; "**" is every ref`)
	}
	switch o.Reruns {
	case "", rerunsAllow, rerunsAttach:
	case rerunsDeny:
		if o.GitLab != nil {
			s.add("reruns", "GitLab's token does not number attempts: leave `reruns` out (GitHub's are denied by default), or move gitlab to a policy of its own")
		}
	default:
		s.add("reruns", "must be deny (the default), attach or allow")
	}
	if len(o.Environment) > maxEnvironment {
		s.add("environment", "must be a name of at most %d characters", maxEnvironment)
	}
	if o.GitHub == nil && o.GitLab == nil && len(o.Custom) == 0 {
		s.add("", "needs github, gitlab or custom with the events that are trusted: without one no build is allowed")
	}
	if o.GitHub != nil {
		l.github(s.at("github"), *o.GitHub)
	}
	if o.GitLab != nil {
		l.gitlab(s.at("gitlab"), *o.GitLab)
	}
	for _, kind := range slices.Sorted(maps.Keys(o.Custom)) {
		at := s.at("custom").at(kind)
		if !reKind.MatchString(kind) || kind == kindGitHub || kind == kindGitLab {
			at.add("", "must be the kind that a custom issuer's row names, other than github and gitlab")
		}
		events(at.at("events"), o.Custom[kind].Events, nil)
	}
	return compileList(s.at("refs"), o.Refs)
}

// events checks an allow-list of build events; known is nil where any name may
// be an event. There is no default: what may sign is written down.
func events(s scope, list, known []string) {
	if len(list) == 0 {
		s.add("", "the events that are trusted must be listed: only the event tells a push from what looks like one, such as GitHub's pull_request_target")
	}
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
	if !reWorkDir.MatchString(b.Path) {
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
