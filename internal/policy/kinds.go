package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/signing"
)

// The kinds of signing.Origin that have rules of their own.
const (
	kindGitHub    = "github"
	kindGitLab    = "gitlab"
	kindForgejo   = "forgejo"
	kindBuildkite = "buildkite"
	kindCircleCI  = "circleci"
	kindBitbucket = "bitbucket"
	kindAzure     = "azure-devops"
	kindCodefresh = "codefresh"
)

// eventUnstated is the event of builds whose token does not state one.
const eventUnstated = "unstated"

// states says which facts the tokens of a kind state. A rule about another fact
// could never hold, so that it is an error when the file is read.
type states struct {
	kind, name  string   // name is as people write it
	events      []string // that may sign; nil where the token states none
	protection  bool     // whether the ref is protected
	attempts    bool     // the number of the attempt
	rerunIsNew  bool     // a re-run is a build of its own, so that attempts need no number
	environment bool
	commit      bool
}

// builtIn is the table of what each built-in kind can answer.
func builtIn() []states {
	return []states{
		{kind: kindGitHub, name: "GitHub", events: githubEvents, protection: true, attempts: true, environment: true, commit: true},
		{kind: kindGitLab, name: "GitLab", events: gitlabEvents, protection: true, rerunIsNew: true, environment: true, commit: true},
		{kind: kindForgejo, name: "Forgejo", events: forgejoEvents, protection: true, attempts: true, commit: true},
		{kind: kindBuildkite, name: "Buildkite", events: buildkiteEvents, commit: true},
		{kind: kindCircleCI, name: "CircleCI"},
		{kind: kindBitbucket, name: "Bitbucket", environment: true},
		{kind: kindAzure, name: "Azure DevOps", commit: true},
		{kind: kindCodefresh, name: "Codefresh", events: codefreshEvents},
	}
}

func statesOf(kind string) (states, bool) {
	i := slices.IndexFunc(builtIn(), func(s states) bool { return s.kind == kind })
	if i < 0 {
		return states{}, false
	}
	return builtIn()[i], true
}

// builtInKinds are the kinds that are words of `origin` themselves.
func builtInKinds() []string {
	var out []string
	for _, s := range builtIn() {
		out = append(out, s.kind)
	}
	return out
}

// kinds lists the kinds of forge that the rules are for.
func (o origin) kinds() []string {
	var out []string
	for kind := range o.Custom {
		if _, taken := statesOf(kind); !taken { // else it was refused where it is written
			out = append(out, kind)
		}
	}
	for kind, written := range map[string]bool{
		kindGitHub: o.GitHub != nil, kindGitLab: o.GitLab != nil, kindForgejo: o.Forgejo != nil, kindBuildkite: o.Buildkite != nil,
		kindCircleCI: o.CircleCI != nil, kindBitbucket: o.Bitbucket != nil, kindAzure: o.Azure != nil, kindCodefresh: o.Codefresh != nil,
	} {
		if written {
			out = append(out, kind)
		}
	}
	slices.Sort(out)
	return out
}

// events returns the events that the rules for a kind trust.
func (o origin) events(kind string) []string {
	switch {
	case kind == kindGitHub && o.GitHub != nil:
		return o.GitHub.Events
	case kind == kindGitLab && o.GitLab != nil:
		return o.GitLab.Events
	case kind == kindForgejo && o.Forgejo != nil:
		return o.Forgejo.Events
	case kind == kindBuildkite && o.Buildkite != nil:
		return o.Buildkite.Events
	case kind == kindCodefresh && o.Codefresh != nil:
		return o.Codefresh.Events
	case slices.Contains([]string{kindCircleCI, kindBitbucket, kindAzure}, kind):
		return []string{eventUnstated}
	}
	return o.Custom[kind].Events
}

// kindPath is the path of the rules for a kind, in a policy.
func kindPath(kind string) string {
	if slices.Contains(builtInKinds(), kind) {
		return "origin." + kind
	}
	return config.Key("origin.custom", kind)
}

// kindWords checks what is written in the rules for kinds.
func (l *loader) kindWords(s scope, o origin) {
	if o.GitHub != nil {
		l.github(s.at(kindGitHub), *o.GitHub)
	}
	if o.GitLab != nil {
		l.gitlab(s.at(kindGitLab), *o.GitLab)
	}
	if f := o.Forgejo; f != nil {
		events(s.at(kindForgejo).at("events"), f.Events, forgejoEvents)
		if f.Workflow != "" && !reForgejo.MatchString(f.Workflow) {
			s.at(kindForgejo).add("workflow", "must be the path of a workflow file, such as .forgejo/workflows/release.yml")
		}
	}
	if b := o.Buildkite; b != nil {
		events(s.at(kindBuildkite).at("events"), b.Events, buildkiteEvents)
		runnerEnvironment(s.at(kindBuildkite), b.RunnerEnvironment)
	}
	if c := o.CircleCI; c != nil {
		for i, id := range bounded(s.at(kindCircleCI).at("pipeline_definitions"), c.PipelineDefinitions) {
			if !reUUID.MatchString(id) {
				s.at(kindCircleCI).at("pipeline_definitions").index(i).add("", "must be the id of a pipeline definition: a UUID in lower case")
			}
		}
	}
	if a := o.Azure; a != nil {
		for i, id := range bounded(s.at(kindAzure).at("definitions"), a.Definitions) {
			if id <= 0 {
				s.at(kindAzure).at("definitions").index(i).add("", "must be the number of a build definition")
			}
		}
	}
	if c := o.Codefresh; c != nil {
		events(s.at(kindCodefresh).at("events"), c.Events, codefreshEvents)
	}
	for _, kind := range slices.Sorted(maps.Keys(o.Custom)) {
		at := s.at("custom").at(kind)
		if !reKind.MatchString(kind) || slices.Contains(builtInKinds(), kind) {
			at.add("", "must be the kind that a custom issuer's row names, other than %s", oneOf(builtInKinds()))
		}
		events(at.at("events"), o.Custom[kind].Events, nil)
	}
}

// bounded returns a list that is not longer than a person reads, or reports it.
func bounded[T any](s scope, list []T) []T {
	if len(list) > MaxPatterns {
		s.add("", "%d entries; at most %d are read", len(list), MaxPatterns)
		return nil
	}
	return list
}

// answers refuses rules that the tokens of a kind cannot meet. What a kind of the
// operator's own states is not known here: there, what is missing denies.
func (l *loader) answers(s scope, kind string, o origin, r rules) {
	can, ok := statesOf(kind)
	if !ok {
		return
	}
	switch {
	case can.attempts || can.rerunIsNew && o.Reruns != rerunsDeny:
	case can.rerunIsNew:
		s.add("reruns", "%s's token does not number attempts: leave `reruns` out (GitHub's are denied by default), or move %s to a policy of its own", can.name, kind)
	case o.Reruns != rerunsAllow:
		s.add("reruns", "%s's token does not number attempts, so that re-runs cannot be told: write `reruns: allow`, or move %s to a policy of its own", can.name, kind)
	}
	for _, c := range []struct {
		asked, can bool
		word, what string
	}{
		{o.RefProtected == nil || *o.RefProtected, can.protection, "ref_protected", "whether the ref is protected: write `ref_protected: false`"},
		{o.Environment != "", can.environment, "environment", "the deployment environment: take `environment` out"},
		{r.Bind != nil && given(r.Bind.RevisionLabel), can.commit, "", "the commit, with which `bind.revision_label` compares the label: take it out"},
	} {
		if c.asked && !c.can {
			s.add(c.word, "%s's token does not state %s, or move %s to a policy of its own", can.name, c.what, kind)
		}
	}
}

// kind holds the rules that only one kind of forge answers.
func (p *Policy) kind(a asked) signing.Reason {
	rules, o := p.rules.Origin, a.origin
	if o.Kind == "" || !slices.Contains(rules.kinds(), o.Kind) {
		rule := "origin.kind"
		if o.Kind != "" {
			rule = kindPath(o.Kind)
		}
		return leaf(rule, false, "a build of "+oneOf(rules.kinds()), o.Kind, "add the rules for this kind of forge to the policy: without them nothing is trusted")
	}
	path := kindPath(o.Kind)
	var more []signing.Reason
	switch o.Kind {
	case kindGitHub:
		return p.github(a, *rules.GitHub)
	case kindGitLab:
		return p.gitlab(a, *rules.GitLab)
	case kindForgejo:
		if w := rules.Forgejo.Workflow; w != "" {
			more = append(more, workflow(path+".workflow", o, w))
		}
	case kindBuildkite:
		if e := rules.Buildkite.RunnerEnvironment; e != "" {
			more = append(more, runnerLeaf(path+".runner_environment", o, e))
		}
	case kindCircleCI:
		if ids := rules.CircleCI.PipelineDefinitions; len(ids) > 0 {
			more = append(more, definition(path+".pipeline_definitions", o, "/pipeline-definitions/", ids))
		}
	case kindAzure:
		if numbers := rules.Azure.Definitions; len(numbers) > 0 {
			ids := make([]string, len(numbers))
			for i, n := range numbers {
				ids[i] = fmt.Sprint(n)
			}
			more = append(more, definition(path+".definitions", o, "/_build?definitionId=", ids))
		}
	}
	return node(path, append(p.trigger(path+".events", o, rules.events(o.Kind)), more...)...)
}

// definition compares the id at the end of the URI of a build's definition.
func definition(rule string, o signing.Origin, before string, ids []string) signing.Reason {
	was := ""
	if i := strings.LastIndex(o.BuildConfigURI, before); i >= 0 {
		was = o.BuildConfigURI[i+len(before):]
	}
	return leaf(rule, was != "" && slices.Contains(ids, was), oneOf(ids), was, "run the build by one of these definitions")
}
