package policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/signing"
)

// RepositoryFile is where a repository keeps a policy of its own, on its default
// branch.
const RepositoryFile = ".sealwright/policy.yml"

// MaxRepositoryFile bounds that file in bytes.
const MaxRepositoryFile = 64 << 10

// forAll names the rules of a repository's own policy that hold for every
// signing policy.
const forAll = "all"

// The form of a repository's own policy. It can only narrow: it has no words for
// who may sign what, in which way and with which key.
type repositoryDocument struct {
	APIVersion string                  `yaml:"apiVersion"`
	Policies   map[string]narrowPolicy `yaml:"policies"`
}

type narrowPolicy struct {
	Tags      []string    `yaml:"tags"`
	Bind      *narrowBind `yaml:"bind"`
	Origin    *origin     `yaml:"origin"`
	Freeze    []interval  `yaml:"freeze"`
	When      string      `yaml:"when"`
	Approvals *approvals  `yaml:"approvals"`
}

// narrowBind has no revision_label, for which every image would be read before
// the repository is asked.
type narrowBind struct {
	DigestsOnly *bool `yaml:"digests_only"`
	Attestation *bool `yaml:"attestation"`
}

// RepositoryPolicy is a repository's own policy, compiled. It may be used by
// several goroutines.
type RepositoryPolicy struct {
	policies map[string]*Policy
	digest   signing.Digest
}

// LoadRepositoryPolicy reads a repository's own policy. The error is
// config.Problems with every problem; one that cannot be read refuses.
func LoadRepositoryPolicy(text []byte) (*RepositoryPolicy, error) {
	if len(text) > MaxRepositoryFile {
		return nil, config.Problems{{File: RepositoryFile, Message: fmt.Sprintf("has %d bytes; at most %d are read", len(text), MaxRepositoryFile)}}
	}
	doc, err := config.Parse(RepositoryFile, text)
	if err != nil {
		return nil, err
	}
	var d repositoryDocument
	if err := doc.Decode(&d); err != nil {
		return nil, err
	}
	env, err := newConditions()
	if err != nil {
		return nil, fmt.Errorf("preparing conditions: %w", err)
	}
	l := &loader{conditions: env}
	s := scope{l: l, doc: doc}
	if d.APIVersion != apiVersion {
		s.add("apiVersion", "must be %q", apiVersion)
	}
	if len(d.Policies) == 0 || len(d.Policies) > MaxPolicies {
		s.add("policies", "has the rules of 1 to %d policies, found %d; `all` is every policy", MaxPolicies, len(d.Policies))
	}
	out := &RepositoryPolicy{policies: map[string]*Policy{}, digest: signing.DigestOf(text)}
	pr := &project{doc: doc}
	for _, name := range slices.Sorted(maps.Keys(d.Policies)) {
		at := s.at("policies").at(name)
		if !reName.MatchString(name) {
			at.add("", "the name of a policy is 1 to 63 lower-case letters, digits, - and _; `all` is every policy")
			continue
		}
		n := d.Policies[name]
		r := rules{Tags: n.Tags, Origin: n.Origin, Freeze: n.Freeze, When: n.When, Approvals: n.Approvals}
		if n.Bind != nil {
			r.Bind = &bind{DigestsOnly: n.Bind.DigestsOnly, Attestation: n.Bind.Attestation}
		}
		l.narrowWords(at, r)
		p := l.compile(pr, name, r)
		p.narrow = true
		out.policies[name] = p
	}
	if err := l.problems.Err(); err != nil {
		return nil, err
	}
	return out, nil
}

// RepositoryWord is one word of a repository's own policy, with what it says.
type RepositoryWord struct {
	Policy string // empty: of every policy
	Word   string // "origin.refs"
	Value  string // as JSON
}

// RepositoryWords lists what a repository's own policy says, by policy and word. The
// error is that of LoadRepositoryPolicy.
func RepositoryWords(text []byte) ([]RepositoryWord, error) {
	if _, err := LoadRepositoryPolicy(text); err != nil {
		return nil, err
	}
	var d struct {
		APIVersion string                `yaml:"apiVersion"`
		Policies   map[string]config.Raw `yaml:"policies"`
	}
	if err := config.Decode(RepositoryFile, text, &d); err != nil {
		return nil, err
	}
	var out []RepositoryWord
	for _, name := range slices.Sorted(maps.Keys(d.Policies)) {
		of := name
		if name == forAll {
			of = ""
		}
		out = append(out, listWords(of, "", d.Policies[name].Value())...)
	}
	return out, nil
}

// listWords lists the words below a value.
func listWords(of, at string, value any) []RepositoryWord {
	below, ok := value.(map[string]any)
	if !ok {
		raw, err := json.Marshal(value)
		if err != nil {
			raw = []byte("?") // a value of YAML has none that JSON lacks
		}
		return []RepositoryWord{{Policy: of, Word: at, Value: string(raw)}}
	}
	var out []RepositoryWord
	for _, k := range slices.Sorted(maps.Keys(below)) {
		out = append(out, listWords(of, config.Key(at, k), below[k])...)
	}
	return out
}

func (l *loader) narrowWords(s scope, r rules) {
	l.words(s, r)
	if strings.Contains(r.When, "manifests") {
		s.add("when", "a repository's own policy knows nothing of what is below an index: ask the owner of the service's policy for this condition")
	}
	if r.Approvals != nil {
		l.approvalWhole(s.at("approvals"), *r.Approvals, nil, nil)
	}
	o := r.Origin
	if o == nil {
		return
	}
	if o.Human != nil {
		s.add("origin.human", "only the service's policy says who may submit: take the word out")
	}
	if b := o.GitHub; b != nil && b.Builder != nil && b.Builder.Path == "" {
		s.add("origin.github.builder.path", "must be the path of a workflow file, such as .github/workflows/container.yml")
	}
	if o.Human == nil {
		l.forgeWhole(s.at("origin"), *o, r)
	}
}

// Digest is that of the file.
func (r *RepositoryPolicy) Digest() signing.Digest { return r.digest }

// parts are the rules for a signing policy: those for all, and its own.
func (r *RepositoryPolicy) parts(policy string) []*Policy {
	var out []*Policy
	for _, name := range []string{forAll, policy} {
		if p := r.policies[name]; p != nil && (len(out) == 0 || out[0] != p) {
			out = append(out, p)
		}
	}
	return out
}

// Question returns what the rules for a signing policy ask the forge.
func (r *RepositoryPolicy) Question(policy string) signing.ForgeQuestion {
	var q signing.ForgeQuestion
	for _, p := range r.parts(policy) {
		q = q.And(p.rules.question())
	}
	return q
}

// Evaluate holds facts against the rules for a signing policy. The effect is Deny
// or NeedsApproval, else Allow, which says no more than that the repository does
// not object.
func (r *RepositoryPolicy) Evaluate(policy string, f signing.Facts) (signing.Effect, signing.Reason) {
	root := signing.Reason{Rule: ruleRepository, Pass: true, Wanted: "nothing that " + RepositoryFile + " refuses", Found: string(r.digest)}
	for _, p := range r.parts(policy) {
		children := p.rest(f)
		if len(children) == 0 {
			continue
		}
		one := node(config.Key("policies", p.name), children...)
		root.Pass = root.Pass && one.Pass
		root.Children = append(root.Children, below(ruleRepository, one))
	}
	switch {
	case !root.Pass:
		return signing.Deny, root
	case r.Approvals(policy) != nil:
		return signing.NeedsApproval, root
	}
	return signing.Allow, root
}

// below puts the rules of a tree under a name.
func below(name string, r signing.Reason) signing.Reason {
	r.Rule = name + "." + r.Rule
	for i := range r.Children {
		r.Children[i] = below(name, r.Children[i])
	}
	return r
}

// Approvals returns what the rules for a signing policy ask of people, nil if
// they ask nobody.
func (r *RepositoryPolicy) Approvals(policy string) *signing.ApprovalRule {
	var out *signing.ApprovalRule
	for _, p := range r.parts(policy) {
		out = p.narrowRule(out)
	}
	return out
}

// narrowRule narrows a rule by the approvals of p: its groups are appended, who
// either excludes is excluded, and only ways that both name count.
func (p *Policy) narrowRule(rule *signing.ApprovalRule) *signing.ApprovalRule {
	a := p.rules.Approvals
	if a == nil {
		return rule
	}
	own := a.rule()
	if rule == nil {
		return own
	}
	out := *rule
	out.Groups = append(slices.Clone(rule.Groups), own.Groups...)
	if a.Exclude != nil {
		out.Exclude = sortedSet(append(slices.Clone(rule.Exclude), own.Exclude...))
	}
	if a.Ways != nil {
		out.Ways = slices.DeleteFunc(slices.Clone(rule.Ways), func(w string) bool { return !slices.Contains(own.Ways, w) })
	}
	if a.Expires != 0 {
		out.Expires = min(rule.Expires, own.Expires)
	}
	out.DenyEnds = rule.DenyEnds || a.Deny == denyEnds
	return &out
}

// ofRepository reads the repository's own policy from the answers of the forge,
// nil if it has none or it does not count.
func (p *Policy) ofRepository(f *signing.ForgeFacts) (*RepositoryPolicy, error) {
	if !p.ReadsRepositoryPolicy() || f == nil || f.PolicyFile == nil || !f.PolicyFile.Exists {
		return nil, nil
	}
	return LoadRepositoryPolicy(f.PolicyFile.Text)
}

// repositoryPolicy holds facts against the repository's own policy. The reason
// has no rule where there is nothing to say: the policy ignores it, or the service
// has no access to the forge at all. Where the forge was asked, and does not say
// whether there is one, it refuses.
func (p *Policy) repositoryPolicy(f signing.Facts) (*RepositoryPolicy, signing.Reason) {
	a := asked{f.Origin, f.Forge}
	wanted := "nothing that " + RepositoryFile + " refuses"
	switch {
	case !p.ReadsRepositoryPolicy() || f.Forge == nil:
		return nil, signing.Reason{}
	case a.answered().PolicyFile == nil:
		return nil, a.silent(ruleRepository, signing.PartPolicyFile, wanted)
	case !f.Forge.PolicyFile.Exists:
		return nil, leaf(ruleRepository, true, wanted, "no such file on "+f.Forge.PolicyFile.Branch, "")
	}
	r, err := LoadRepositoryPolicy(f.Forge.PolicyFile.Text)
	if err != nil {
		return nil, leaf(ruleRepository, false, "a policy that can be read", err.Error(), "correct "+RepositoryFile+" on the default branch: `sealwright policy check --repository` says the same")
	}
	rule := p.narrowed(r)
	if rule != nil && len(rule.Ways) == 0 {
		return nil, leaf(ruleRepository, false, "a way to approve that both policies name", RepositoryFile+" leaves none", "name one of the ways of the service's policy in "+RepositoryFile+", or leave `ways` out there")
	}
	_, why := r.Evaluate(p.name, f)
	return r, why
}

// narrowed returns what the policy and the repository's own ask of people.
func (p *Policy) narrowed(r *RepositoryPolicy) *signing.ApprovalRule {
	rule := p.Approvals()
	for _, part := range r.parts(p.name) {
		rule = part.narrowRule(rule)
	}
	return rule
}

// ApprovalsWith returns what the policy and the repository's own, which the forge
// answered, ask of people; nil if they ask nobody. Evaluate has said that both
// can be read.
func (p *Policy) ApprovalsWith(f *signing.ForgeFacts) *signing.ApprovalRule {
	r, err := p.ofRepository(f)
	if err != nil || r == nil {
		return p.Approvals()
	}
	return p.narrowed(r)
}

// Further returns what the repository's own policy wants to know, once the forge
// has answered what is in it. The zero value asks nothing more.
func (p *Policy) Further(f *signing.ForgeFacts) signing.ForgeQuestion {
	r, err := p.ofRepository(f)
	if err != nil || r == nil {
		return signing.ForgeQuestion{} // Evaluate refuses what cannot be read
	}
	return r.Question(p.name)
}

// RepositoryDigest is that of the repository's own policy, where it counts; empty
// where there is none. It is part of the basis.
func (p *Policy) RepositoryDigest(f *signing.ForgeFacts) signing.Digest {
	r, err := p.ofRepository(f)
	if err != nil || r == nil {
		return ""
	}
	return r.Digest()
}
