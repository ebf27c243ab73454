package policy

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/config"
)

// maxExtends bounds a chain of bases: an organisation, a division, a team, and
// one to spare. Who reads a policy has to read all of them.
const maxExtends = 4

// anyPolicy is the name, in a base, of the rules for every policy that the base
// does not name.
const anyPolicy = "*"

// baseline is a file without a project, which others extend.
type baseline struct {
	name     string
	scope    scope
	document document
	policies map[string]inherited // effective, once resolved
	// resolving and resolved tell a base that extends itself.
	resolving, resolved bool
	broken              bool // its problems are reported where they are
	below               int  // how many bases it extends
}

// inherited is a policy of a base, with everything that it inherits itself.
type inherited struct {
	rules rules
	// layers is where its words may be written: the base, then what it extends.
	layers []layer
}

type layer struct {
	base  string
	scope scope
}

// policy returns the rules of the base for a policy of that name.
func (b *baseline) policy(name string) (inherited, bool) {
	p, ok := b.policies[name]
	if !ok {
		p, ok = b.policies[anyPolicy]
	}
	return p, ok
}

// base returns the base that a file extends, with its own rules tightened by
// nobody; nil if there is none or it is broken.
func (l *loader) base(s scope, name string) *baseline {
	b := l.bases[name]
	switch {
	case b == nil:
		s.add("extends", "there is no base %s; there are %s", name, orElse(oneOf(slices.Sorted(maps.Keys(l.bases))), "none"))
		return nil
	case b.resolving:
		s.add("extends", "base %s extends itself", name)
		return nil
	case !b.resolved:
		b.resolving = true
		l.resolve(b)
		b.resolving, b.resolved = false, true
	}
	if b.broken {
		return nil
	}
	return b
}

// resolve checks a base and gives its policies what they inherit.
func (l *loader) resolve(b *baseline) {
	before := len(l.problems)
	var parent *baseline
	defer func() { b.broken = len(l.problems) > before || b.document.Extends != "" && parent == nil }()
	s, d := b.scope, b.document
	if len(d.Repositories) > 0 {
		s.add("repositories", "a base has no repositories: it is for every project that extends it")
	}
	if len(d.Policies) == 0 || len(d.Policies) > MaxPolicies {
		s.add("policies", "a base has 1 to %d policies, found %d", MaxPolicies, len(d.Policies))
	}
	for _, name := range slices.Sorted(maps.Keys(d.Policies)) {
		ps := s.at("policies").at(name)
		if name != anyPolicy && !reName.MatchString(name) {
			ps.add("", `the name of a policy is 1 to 63 lower-case letters, digits, - and _; "*" is every policy that the base does not name`)
		}
		l.words(ps, d.Policies[name])
	}
	names := maps.Clone(d.Policies)
	if d.Extends != "" {
		if parent = l.base(s, d.Extends); parent == nil {
			return // said here or there
		}
		if b.below = parent.below + 1; b.below == maxExtends {
			s.add("extends", "more than %d bases extend each other", maxExtends)
			return
		}
		// What the parent names is below the "*" of this base, if it has one.
		for name := range parent.policies {
			if _, own := names[name]; !own {
				names[name] = d.Policies[anyPolicy]
			}
		}
	}
	b.policies = map[string]inherited{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		at := s.at("policies").at(name)
		if _, own := d.Policies[name]; !own {
			at = s.at("policies").at(anyPolicy)
		}
		mine := inherited{names[name], []layer{{b.name, at}}}
		if parent != nil {
			mine = l.inherit(at, mine, parent, name)
		}
		b.policies[name] = mine
	}
}

// inherit tightens the base's policy of that name by the rules of a file that
// extends it.
func (l *loader) inherit(s scope, own inherited, parent *baseline, name string) inherited {
	from, ok := parent.policy(name)
	if !ok {
		s.add("", `base %s has no policy %s, and none named "*" for all others: a policy that it does not know would be without its rules`, parent.name, name)
		return own
	}
	t := tightening{s: s, layers: from.layers}
	return inherited{t.rules(own.rules, from.rules), append(slices.Clone(own.layers), from.layers...)}
}

// tightening holds the words of one policy against those of its base. Every word
// that is written must allow no more than the base does; one that is not written
// is the base's. What a base does not write has the default of that word, which
// is the strict one; only what every policy has to write (refs, the kinds of
// forges and their events, sign) it leaves open.
type tightening struct {
	s      scope
	layers []layer
}

// loosens reports a word that allows more than the base, with both lines.
func (t tightening) loosens(word, format string, args ...any) {
	where, name := t.layers[0].scope, t.layers[0].base
	plain, _, _ := strings.Cut(word, "[")
	at := where.path
	for _, l := range t.layers {
		if full := l.scope.path + "." + plain; l.scope.doc.Has(full) {
			where, name, at = l.scope, l.base, full
			break
		}
	}
	p := where.doc.Problem(at, "")
	t.s.add(word, "allows more than base %s (%s:%d): %s", name, p.File, p.Line, fmt.Sprintf(format, args...))
}

func (t tightening) rules(c, b rules) rules {
	// A policy in log mode allows nothing, so that the word loosens no base.
	c.Mode, c.Shadows = orElse(c.Mode, b.Mode), orElse(c.Shadows, b.Shadows)
	if c.RepositoryPolicy == repositoryIgnore && b.RepositoryPolicy != repositoryIgnore {
		t.loosens("repository_policy", "the repository's own policy counts too")
	}
	c.RepositoryPolicy = orElse(c.RepositoryPolicy, b.RepositoryPolicy)
	if c.Report == nil {
		c.Report = b.Report
	}
	c.Tags = t.patterns("tags", c.Tags, b.Tags, true)
	if c.Origin == nil {
		c.Origin = &origin{}
	}
	if b.Origin == nil {
		b.Origin = &origin{}
	}
	o := t.origin(*c.Origin, *b.Origin)
	c.Origin = &o
	c.Sign = t.sign(c.Sign, b.Sign)
	c.baseWhen = slices.Clone(b.baseWhen)
	if b.When != "" {
		c.baseWhen = append(c.baseWhen, b.When)
	}
	c.Freeze = append(slices.Clone(c.Freeze), b.Freeze...)
	c.Bind = t.bind(c.Bind, b.Bind)
	c.Approvals = t.approvals(c.Approvals, b.Approvals)
	c.Publish = orRaw(c.Publish, b.Publish)
	return c
}

func (t tightening) origin(c, b origin) origin {
	c.Refs = t.patterns("origin.refs", c.Refs, b.Refs, false)
	switch {
	case c.RefProtected == nil:
		c.RefProtected = b.RefProtected
	case !*c.RefProtected && (b.RefProtected == nil || *b.RefProtected):
		t.loosens("origin.ref_protected", "the ref must be protected")
	}
	switch {
	case c.Reruns == "":
		c.Reruns = b.Reruns
	case slices.Index(rerunsWords, c.Reruns) > max(slices.Index(rerunsWords, b.Reruns), 0):
		t.loosens("origin.reruns", "re-runs: %s", orElse(b.Reruns, rerunsDeny))
	}
	c.Environment = t.same("origin.environment", c.Environment, b.Environment)
	c.Verify, c.Human = t.verify(c.Verify, b.Verify), t.human(c.Human, b.Human)
	c.Reachable = subset(t, "origin.reachable_from", c.Reachable, b.Reachable)
	return t.kinds(c, b)
}

// kinds tightens the rules for kinds of forges. A base without any leaves them to
// the project; a project without any has the base's.
func (t tightening) kinds(c, b origin) origin {
	mine, theirs := c.kinds(), b.kinds()
	switch {
	case len(theirs) == 0:
		return c
	case len(mine) == 0:
		c.GitHub, c.GitLab, c.Forgejo, c.Buildkite, c.CircleCI = b.GitHub, b.GitLab, b.Forgejo, b.Buildkite, b.CircleCI
		c.Bitbucket, c.Azure, c.Codefresh, c.Custom = b.Bitbucket, b.Azure, b.Codefresh, b.Custom
		return c
	}
	for _, kind := range mine {
		if !slices.Contains(theirs, kind) {
			t.loosens(kindPath(kind), "builds of %s only", oneOf(theirs))
		}
	}
	if c.GitHub != nil && b.GitHub != nil {
		g := t.github("origin.github.", *c.GitHub, *b.GitHub)
		c.GitHub = &g
	}
	if c.GitLab != nil && b.GitLab != nil {
		g := t.gitlab("origin.gitlab.", *c.GitLab, *b.GitLab)
		c.GitLab = &g
	}
	if c.Forgejo != nil && b.Forgejo != nil {
		c.Forgejo = &forgejo{subset(t, "origin.forgejo.events", c.Forgejo.Events, b.Forgejo.Events), t.same("origin.forgejo.workflow", c.Forgejo.Workflow, b.Forgejo.Workflow)}
	}
	if c.Buildkite != nil && b.Buildkite != nil {
		c.Buildkite = &buildkite{subset(t, "origin.buildkite.events", c.Buildkite.Events, b.Buildkite.Events), t.same("origin.buildkite.runner_environment", c.Buildkite.RunnerEnvironment, b.Buildkite.RunnerEnvironment)}
	}
	if c.CircleCI != nil && b.CircleCI != nil {
		c.CircleCI = &circleci{subset(t, "origin.circleci.pipeline_definitions", c.CircleCI.PipelineDefinitions, b.CircleCI.PipelineDefinitions)}
	}
	if c.Azure != nil && b.Azure != nil {
		c.Azure = &azureDevOps{subset(t, "origin.azure-devops.definitions", c.Azure.Definitions, b.Azure.Definitions)}
	}
	if c.Codefresh != nil && b.Codefresh != nil {
		c.Codefresh = &codefresh{subset(t, "origin.codefresh.events", c.Codefresh.Events, b.Codefresh.Events)}
	}
	customs := maps.Clone(c.Custom)
	for kind, own := range customs {
		if from, ok := b.Custom[kind]; ok {
			customs[kind] = custom{subset(t, kindPath(kind)+".events", own.Events, from.Events)}
		}
	}
	c.Custom = customs
	return c
}

func (t tightening) github(at string, c, b github) github {
	c.Events = subset(t, at+"events", c.Events, b.Events)
	c.Workflow = t.same(at+"workflow", c.Workflow, b.Workflow)
	c.RunnerEnvironment = t.same(at+"runner_environment", c.RunnerEnvironment, b.RunnerEnvironment)
	c.RunnerGroups = subset(t, at+"runner_groups", c.RunnerGroups, b.RunnerGroups)
	c.RunnerLabels = superset(t, at+"runner_labels", c.RunnerLabels, b.RunnerLabels)
	switch {
	case c.Builder == nil:
		c.Builder = b.Builder
	case b.Builder == nil:
		t.loosens(at+"builder", "the job must be defined by the workflow itself")
	default:
		own := *c.Builder
		own.Path = t.same(at+"builder.path", own.Path, b.Builder.Path)
		own.Repository = t.same(at+"builder.repository", own.Repository, b.Builder.Repository)
		if b.Builder.Repository == "" && own.Repository != "" && b.Builder.RepositoryID == "" {
			t.loosens(at+"builder.repository", "the builder is of the build's own repository")
		}
		if len(own.SHA) > 0 && len(b.Builder.SHA) == 0 {
			t.loosens(at+"builder.sha", "the builder is of the ref of the build")
		}
		own.SHA = subset(t, at+"builder.sha", own.SHA, b.Builder.SHA)
		own.RepositoryID = t.same(at+"builder.repository_id", own.RepositoryID, b.Builder.RepositoryID)
		c.Builder = &own
	}
	return c
}

func (t tightening) gitlab(at string, c, b gitlab) gitlab {
	c.Events = subset(t, at+"events", c.Events, b.Events)
	c.Config = t.same(at+"config", c.Config, b.Config)
	c.RunnerEnvironment = t.same(at+"runner_environment", c.RunnerEnvironment, b.RunnerEnvironment)
	c.EnvironmentProtected = t.demand(at+"environment_protected", c.EnvironmentProtected, b.EnvironmentProtected)
	c.RunnerTags = superset(t, at+"runner_tags", c.RunnerTags, b.RunnerTags)
	c.Variables = t.names(at+"variables", c.Variables, b.Variables)
	c.RunnerIDs = subset(t, at+"runner_ids", c.RunnerIDs, b.RunnerIDs)
	return c
}

func (t tightening) bind(c, b *bind) *bind {
	if c == nil || b == nil {
		if c == nil {
			c = b
		}
		return c
	}
	return &bind{
		DigestsOnly:   t.demand("bind.digests_only", c.DigestsOnly, b.DigestsOnly),
		RevisionLabel: t.demand("bind.revision_label", c.RevisionLabel, b.RevisionLabel),
		Attestation:   t.demand("bind.attestation", c.Attestation, b.Attestation),
	}
}

// sign lets a policy sign in fewer ways than its base, and in no other.
func (t tightening) sign(c, b []step) []step {
	if c == nil || b == nil {
		if c == nil {
			c = b
		}
		return c
	}
	for i, own := range c {
		if !slices.ContainsFunc(b, func(s step) bool { return reflect.DeepEqual(s.steps(), own.steps()) }) {
			t.loosens(config.Index("sign", i), "%s with key %s and these options is not among its ways to sign", own.Method, own.Key)
		}
	}
	return c
}

// patterns lets a list match no more than the base's. closed says that a base
// without the list has an empty one.
func (t tightening) patterns(word string, c, b []string, closed bool) []string {
	switch {
	case c == nil:
		return b
	case b == nil && !closed:
		return c
	}
	for i, text := range c {
		if !slices.ContainsFunc(b, func(wide string) bool { return contains(wide, text) }) {
			wanted := oneOf(b)
			if len(b) == 0 {
				wanted = "none"
			}
			t.loosens(config.Index(word, i), "%s is not below one of its patterns, %s", text, wanted)
		}
	}
	return c
}

// subset lets a list name no more than the base's, which may be left open.
func subset[T comparable](t tightening, word string, c, b []T) []T {
	switch {
	case c == nil:
		return b
	case b == nil:
		return c
	}
	for i, v := range c {
		if !slices.Contains(b, v) {
			names := make([]string, len(b))
			for j := range b {
				names[j] = fmt.Sprint(b[j])
			}
			t.loosens(config.Index(word, i), "%v is not one of %s", v, oneOf(names))
		}
	}
	return c
}

// same lets a word that the base gives be repeated only.
func (t tightening) same(word, c, b string) string {
	if b != "" && c != "" && c != b {
		t.loosens(word, "it must be %s", b)
	}
	return orElse(c, b)
}

// demand lets a demand of the base not be taken back.
func (t tightening) demand(word string, c, b *bool) *bool {
	if c == nil {
		return b
	}
	if b != nil && *b && !*c {
		t.loosens(word, "it is demanded")
	}
	return c
}

func orElse(c, b string) string {
	if c == "" {
		return b
	}
	return c
}

func orRaw(c, b config.Raw) config.Raw {
	if c.IsZero() {
		return b
	}
	return c
}
