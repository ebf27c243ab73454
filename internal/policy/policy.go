// Package policy decides, from Facts alone, whether a build may have its images
// signed, and says why as a tree of reasons. It is pure: no clock, no network,
// no files.
//
// Its rules are written so that mistakes refuse. A fact that is missing denies.
// An unknown word stops the load; a known word that this version cannot
// evaluate denies every request, and says so. Repositories are compared by the
// forge's id and, because a row names both, by name. Patterns match the whole
// text. What a build event cannot be trusted to tell apart from a push cannot
// be listed.
//
// Rule names in reasons are the paths of the policy file, relative to the
// policy: "origin.refs", and "repositories[3].images" for the project's rows.
package policy

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/signing"
)

// Set is every project that the service knows. It does not change after Load
// and may be used by several goroutines.
type Set struct {
	projects map[string]*project
	rows     map[rowKey]*row
	names    map[rowKey]*row // by forge and folded name
	// owners and ownerNames are the same for rows about an owner or a group.
	owners, ownerNames map[rowKey]*row

	literals map[string][]*row
	globs    []claim
	digest   signing.Digest
}

type project struct {
	name     string
	doc      *config.Document
	rows     []*row
	policies map[string]*Policy
}

// Policy is one signing policy of a project, compiled.
type Policy struct {
	set         *Set
	project     *project
	name        string
	rules       rules
	refs        patterns
	tags        patterns
	freeze      []window
	when        []namedCondition
	unavailable []unavailable
	narrow      bool // of a repository's own policy: what is not written is not asked
	digest      signing.Digest
}

// IsTest reports whether a file of a policy folder holds cases for
// `policy test`, and no policy.
func IsTest(path string) bool {
	return strings.HasSuffix(path, ".test.yaml") || strings.HasSuffix(path, ".test.yml")
}

// Load reads policy files, path -> YAML. The error is config.Problems with
// every problem of all files: unknown words, broken patterns and conditions,
// rules that would never or always hold, a repository in two rows, an image
// that two projects claim.
func Load(files map[string][]byte) (*Set, error) {
	l := loader{bases: map[string]*baseline{}, set: &Set{projects: map[string]*project{}, rows: map[rowKey]*row{}, names: map[rowKey]*row{}, owners: map[rowKey]*row{}, ownerNames: map[rowKey]*row{}, literals: map[string][]*row{}}}
	total := 0
	for _, data := range files {
		total += len(data)
	}
	switch {
	case len(files) == 0:
		return nil, config.Problems{{Message: "there is no policy file: without one nothing can be signed"}}
	case len(files) > MaxFiles:
		return nil, config.Problems{{Message: fmt.Sprintf("%d policy files; at most %d are read", len(files), MaxFiles)}}
	case total > MaxTotal:
		return nil, config.Problems{{Message: fmt.Sprintf("the policy files have %d bytes; at most %d are read", total, MaxTotal)}}
	}
	env, err := newConditions()
	if err != nil {
		return nil, fmt.Errorf("preparing conditions: %w", err)
	}
	l.conditions = env
	for _, name := range slices.Sorted(maps.Keys(files)) {
		l.file(name, files[name])
	}
	for _, name := range slices.Sorted(maps.Keys(l.bases)) {
		l.base(l.bases[name].scope, name)
	}
	for _, p := range l.projects {
		l.project(p.scope, p.document)
	}
	l.overlaps()
	if err := l.problems.Err(); err != nil {
		return nil, err
	}
	if err := l.set.seal(); err != nil {
		return nil, err
	}
	return l.set, nil
}

// seal computes the digests, once everything is known to be good.
func (s *Set) seal() error {
	type entry struct {
		Project, Policy string
		Digest          signing.Digest
	}
	var all []entry
	for _, name := range slices.Sorted(maps.Keys(s.projects)) {
		pr := s.projects[name]
		rows, err := pr.canonicalRows()
		if err != nil {
			return err
		}
		for _, pname := range slices.Sorted(maps.Keys(pr.policies)) {
			p := pr.policies[pname]
			if p.digest, err = p.canonical(rows); err != nil {
				return err
			}
			all = append(all, entry{name, pname, p.digest})
		}
	}
	raw, err := json.Marshal(all)
	if err != nil {
		return fmt.Errorf("encoding policies: %w", err)
	}
	s.digest = signing.DigestOf(raw)
	return nil
}

// canonicalRows returns the project's repositories in canonical form.
func (pr *project) canonicalRows() (json.RawMessage, error) {
	out := make([]repository, 0, len(pr.rows))
	for _, r := range pr.rows {
		c := r.repository
		c.Images = sortedSet(c.Images)
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b repository) int {
		return cmp.Or(strings.Compare(a.Forge, b.Forge), strings.Compare(a.ID, b.ID), strings.Compare(a.OwnerID, b.OwnerID), strings.Compare(a.Owner, b.Owner), strings.Compare(a.Group, b.Group))
	})
	raw, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("encoding the repositories of %s: %w", pr.name, err)
	}
	return raw, nil
}

// canonical returns the digest of the policy's canonical form: the project's
// repositories and this policy's rules, with what they inherit, as JSON, lists
// without order sorted.
func (p *Policy) canonical(rows json.RawMessage) (signing.Digest, error) {
	raw, err := json.Marshal(struct {
		Format       string          `json:"format"`
		Project      string          `json:"project"`
		Policy       string          `json:"policy"`
		Repositories json.RawMessage `json:"repositories"`
		Rules        rules           `json:"rules"`
		BaseWhen     []string        `json:"base_when,omitempty"`

		Approvals   *signing.ApprovalRule `json:"approvals,omitempty"`
		Unavailable []unavailable         `json:"unavailable,omitempty"`
	}{apiVersion, p.project.name, p.name, rows, p.rules.sorted(), p.rules.baseWhen, p.Approvals(), p.unavailable})
	if err != nil {
		return "", fmt.Errorf("encoding policy %s/%s: %w", p.project.name, p.name, err)
	}
	return signing.DigestOf(raw), nil
}

// sorted returns a copy of p whose unordered lists are sorted sets. The order of
// sign is kept: it is that of the Tasks.
func (p rules) sorted() rules {
	p.Tags, p.Freeze = sortedSet(p.Tags), sortedSet(p.Freeze)
	if b := p.Bind; b != nil {
		if p.Bind = (&bind{DigestsOnly: onlyTrue(b.DigestsOnly), RevisionLabel: onlyTrue(b.RevisionLabel), Attestation: onlyTrue(b.Attestation)}); *p.Bind == (bind{}) {
			p.Bind = nil
		}
	}
	p.Sign = slices.Clone(p.Sign)
	for i := range p.Sign {
		s := &p.Sign[i]
		if s.Formats = sortedSet(s.Formats); slices.Equal(s.Formats, []string{formatLegacy}) {
			s.Formats = nil // what is signed without the word
		}
	}
	if p.Mode == modeEnforce {
		p.Mode = ""
	}
	if p.RepositoryPolicy == repositoryHonour {
		p.RepositoryPolicy = ""
	}
	p.Report = p.channels()
	o := *p.Origin
	o.Reachable = sortedSet(o.Reachable)
	if o.Human != nil {
		o.Human = &human{config.Duration(o.Human.maxAge())}
	}
	if o.Verify != nil {
		v := o.Verify.sorted()
		o.Verify = &v
	}
	o.Refs = sortedSet(o.Refs)
	protected := o.RefProtected == nil || *o.RefProtected
	o.RefProtected = &protected
	if o.Reruns == "" {
		o.Reruns = rerunsDeny
	}
	if o.GitHub != nil {
		g := *o.GitHub
		g.Events, g.RunnerGroups, g.RunnerLabels = sortedSet(g.Events), sortedSet(g.RunnerGroups), sortedSet(g.RunnerLabels)
		if g.Builder != nil {
			b := *g.Builder
			b.SHA = sortedSet(b.SHA)
			g.Builder = &b
		}
		o.GitHub = &g
	}
	if o.GitLab != nil {
		g := *o.GitLab
		g.Events = sortedSet(g.Events)
		g.RunnerIDs = slices.Compact(slices.Sorted(slices.Values(g.RunnerIDs)))
		g.EnvironmentProtected = onlyTrue(g.EnvironmentProtected)
		g.RunnerTags, g.Variables = sortedSet(g.RunnerTags), g.Variables.sorted()
		o.GitLab = &g
	}
	if f := o.Forgejo; f != nil {
		o.Forgejo = &forgejo{sortedSet(f.Events), f.Workflow}
	}
	if b := o.Buildkite; b != nil {
		o.Buildkite = &buildkite{sortedSet(b.Events), b.RunnerEnvironment}
	}
	if c := o.CircleCI; c != nil {
		o.CircleCI = &circleci{sortedSet(c.PipelineDefinitions)}
	}
	if a := o.Azure; a != nil {
		o.Azure = &azureDevOps{slices.Compact(slices.Sorted(slices.Values(a.Definitions)))}
	}
	if c := o.Codefresh; c != nil {
		o.Codefresh = &codefresh{sortedSet(c.Events)}
	}
	o.Custom = maps.Clone(o.Custom)
	for kind, c := range o.Custom {
		o.Custom[kind] = custom{Events: sortedSet(c.Events)}
	}
	p.Origin = &o
	return p
}

// onlyTrue makes a switch that is off the same as one that is not written.
func onlyTrue(b *bool) *bool {
	if given(b) {
		return b
	}
	return nil
}

func sortedSet[T ~string](l []T) []T { return slices.Compact(slices.Sorted(slices.Values(l))) }

// Digest identifies everything that was loaded, independent of formatting and
// of how it is spread over files.
func (s *Set) Digest() signing.Digest { return s.digest }

// Policies returns every policy, sorted by project and name.
func (s *Set) Policies() []*Policy {
	var out []*Policy
	for _, name := range slices.Sorted(maps.Keys(s.projects)) {
		pr := s.projects[name]
		for _, pname := range slices.Sorted(maps.Keys(pr.policies)) {
			out = append(out, pr.policies[pname])
		}
	}
	return out
}

// Policy returns a policy by its names.
func (s *Set) Policy(project, policy string) (*Policy, bool) {
	pr, ok := s.projects[project]
	if !ok {
		return nil, false
	}
	p, ok := pr.policies[policy]
	return p, ok
}

// Find returns the policy of that name in the project of o's repository, which
// is looked up by forge and repository id. The error is Denied if there is none.
// That a policy is found allows nothing: Evaluate decides.
func (s *Set) Find(o signing.Origin, policy string) (*Policy, error) {
	p, message, why := s.find(o, policy)
	if p == nil {
		return nil, &signing.Error{Code: signing.Denied, Message: message, Expected: why.Wanted, Found: why.Found, Fix: why.Fix}
	}
	return p, nil
}

func (s *Set) find(o signing.Origin, policy string) (p *Policy, message string, why signing.Reason) {
	r := s.row(o)
	if r == nil {
		return nil, "no project has the repository of this build", s.unknown(o)
	}
	if p, ok := r.project.policies[policy]; ok {
		if p.Log() {
			return nil, "signing policy " + policy + " is in log mode",
				leaf("policy", false, "a policy that decides", policy+", which only records what it would have said", "name the policy "+p.rules.Shadows+" in the job")
		}
		return p, "", signing.Reason{}
	}
	return nil, "project " + r.project.name + " has no such signing policy",
		leaf("policy", false, oneOf(slices.Sorted(maps.Keys(r.project.policies))), policy, "name a policy of the project in the job, or add it to the project's policy file")
}

// Judge finds the policy that facts ask for and evaluates it. Where there is none
// the effect is Deny, the reason says why, and the policy is nil. What the owner
// of a key demands is not part of it.
func (s *Set) Judge(f signing.Facts) (*Policy, signing.Effect, signing.Reason) {
	p, _, why := s.find(f.Origin, f.Policy)
	if p == nil {
		return nil, signing.Deny, node("policy", why)
	}
	effect, reasons := p.Evaluate(f)
	return p, effect, reasons
}

// unknown says what is known about a repository that has no row.
func (s *Set) unknown(o signing.Origin) signing.Reason {
	why := signing.Reason{Rule: "repositories", Wanted: "a repository of a project", Found: describe(o), Fix: "add the repository with this id to a project's `repositories`, if it is meant to sign"}
	if o.Forge == "" || o.SourceRepositoryIdentifier == "" {
		why.Found = "the token does not say which repository"
		why.Fix = "check the claims of this issuer's row: forge and repository id are required"
		return why
	}
	if r, ok := s.names[rowKey{o.Forge, fold(o.SourceRepository)}]; ok {
		why.Wanted = fmt.Sprintf("%s with id %s", r.Name, r.ID)
		why.Found = fmt.Sprintf("the same name with another id, %s", found(o.SourceRepositoryIdentifier))
		why.Fix = "the name was taken over by another repository, or the repository was made anew: only if it is the right one, update its id in the policy file"
		return why
	}
	for name := above(o.SourceRepository); name != ""; name = above(name) {
		r, ok := s.ownerNames[rowKey{o.Forge, fold(name)}]
		if !ok {
			continue
		}
		rowName, id := r.owner()
		why.Wanted = fmt.Sprintf("a repository directly in %s with id %s", rowName, id)
		if name != above(o.SourceRepository) {
			why.Fix = "the token states the id of the group directly above the repository only: give the group " + above(o.SourceRepository) + " a row of its own"
			return why
		}
		why.Found = fmt.Sprintf("the same name with another id, %s", found(o.SourceRepositoryOwnerIdentifier))
		why.Fix = "the name was taken over, or the owner was made anew: only if it is the right one, update its id in the policy file"
		return why
	}
	return why
}

// Project returns the name of the project.
func (p *Policy) Project() string { return p.project.name }

// Name returns the name of the policy within its project.
func (p *Policy) Name() string { return p.name }

// Digest identifies the project's repositories and the rules of this policy,
// independent of formatting and of other policies.
func (p *Policy) Digest() signing.Digest { return p.digest }

// Steps returns what is to be signed with which key, in order, one step for each
// format, without key versions; nothing for a policy in log mode, which uses no
// key. The caller owns the result.
func (p *Policy) Steps() []signing.Step {
	var out []signing.Step
	if p.Log() {
		return nil
	}
	for _, s := range p.rules.Sign {
		out = append(out, s.steps()...)
	}
	return out
}

// Attaches reports whether a re-run may attach to the request of an earlier
// attempt of its run.
func (p *Policy) Attaches() bool { return p.rules.Origin.Reruns == rerunsAttach }

// NeedsManifests reports whether what is below an index has to be known: a step
// signs it, a condition mentions it, or the revision of each image is compared.
func (p *Policy) NeedsManifests() bool {
	return slices.ContainsFunc(p.rules.Sign, func(s step) bool { return s.Recursive }) ||
		slices.ContainsFunc(p.when, func(c namedCondition) bool { return strings.Contains(c.text, "manifests") }) || p.rules.Bind != nil && given(p.rules.Bind.RevisionLabel)
}

// Problem returns a problem with a rule of this policy, "sign[0].key", with its
// file and line, for those who know more than this package: whether the key exists.
func (p *Policy) Problem(rule, format string, args ...any) config.Problem {
	return p.project.doc.Problem(config.Key("policies", p.name)+"."+rule, format, args...)
}
