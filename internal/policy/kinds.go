package policy

import (
	"maps"
	"slices"

	"github.com/sealwright/sealwright/internal/config"
)

// The kinds of signing.Origin that have rules of their own.
const (
	kindGitHub = "github"
	kindGitLab = "gitlab"
)

// builtInKinds are the kinds that are words of `origin` themselves.
func builtInKinds() []string { return []string{kindGitHub, kindGitLab} }

// states says which facts the tokens of a kind state. A rule about another fact
// could never hold.
type states struct {
	name        string // as people write it
	protection  bool   // whether the ref is protected
	attempts    bool   // the number of the attempt
	environment bool
	commit      bool
}

// statesOf is the table of what each built-in kind can answer.
func statesOf(kind string) (states, bool) {
	s, ok := map[string]states{
		kindGitHub: {"GitHub", true, true, true, true},
		kindGitLab: {"GitLab", true, false, true, true},
	}[kind]
	return s, ok
}

// kinds lists the kinds of forge that the rules are for.
func (o origin) kinds() []string {
	var out []string
	if o.GitHub != nil {
		out = append(out, kindGitHub)
	}
	if o.GitLab != nil {
		out = append(out, kindGitLab)
	}
	out = append(out, slices.Collect(maps.Keys(o.Custom))...)
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

// answers refuses rules that the tokens of a kind cannot meet. What a kind of the
// operator's own states is not known here: there, what is missing denies.
func (l *loader) answers(s scope, kind string, o origin, r rules) {
	can, ok := statesOf(kind)
	if !ok {
		return
	}
	if !can.attempts && o.Reruns == rerunsDeny {
		s.add("reruns", "%s's token does not number attempts: leave `reruns` out (GitHub's are denied by default), or move %s to a policy of its own", can.name, kind)
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
