// Package policytest runs the cases that are kept beside policies: facts of a
// build, and the decision that they must get. A case that expects a refusal names
// every rule that refuses, so that it cannot pass for another reason.
//
// What the owner of a key demands is not looked at: the keys file is not there.
package policytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/policy"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	apiVersion = "sealwright.dev/v1"
	// MaxCases bounds one file: who reads it has to see what is missing.
	MaxCases = 500
	// maxName bounds the name of a case, which is one line of output.
	maxName = 200
)

// form is the form of a file of cases.
type form struct {
	APIVersion string                `yaml:"apiVersion"`
	Builds     map[string]config.Raw `yaml:"builds"`
	Cases      []caseForm            `yaml:"cases"`
}

type caseForm struct {
	Name  string     `yaml:"name"`
	Build string     `yaml:"build"`
	Facts config.Raw `yaml:"facts"`
	Want  string     `yaml:"want"`
	Fails []string   `yaml:"fails"`
	// Asks is who has to approve, a line for each group: "2 of FORGE:ORG/TEAM".
	Asks []string `yaml:"asks"`
}

// File is a file of cases.
type File struct {
	name  string
	cases []testCase
}

type testCase struct {
	name  string
	line  int
	facts signing.Facts
	want  signing.Effect
	fails []string
	asks  []string // nil looks at nobody
}

// Result is the outcome of one case.
type Result struct {
	File    string
	Line    int
	Name    string
	OK      bool
	Want    string
	Got     string
	Reasons signing.Reason
	Policy  *policy.Policy // nil where none was found
}

// Load reads a file of cases. The error is config.Problems.
func Load(name string, data []byte) (*File, error) {
	doc, err := config.Parse(name, data)
	if err != nil {
		return nil, err
	}
	var in form
	if err := doc.Decode(&in); err != nil {
		return nil, err
	}
	var problems config.Problems
	add := func(path, format string, args ...any) {
		problems = append(problems, doc.Problem(path, format, args...))
	}
	if in.APIVersion != apiVersion {
		add("apiVersion", "must be %q", apiVersion)
	}
	if len(in.Builds) == 0 {
		add("builds", "needs at least one build with its facts, from which the cases start")
	}
	if len(in.Cases) == 0 || len(in.Cases) > MaxCases {
		add("cases", "a file has 1 to %d cases, found %d", MaxCases, len(in.Cases))
	}
	for build := range in.Builds {
		if _, err := factsOf(in.Builds[build], config.Raw{}); err != nil {
			add(config.Key("builds", build), "%v", err)
		}
	}
	out := &File{name: name}
	seen := map[string]bool{}
	for i, c := range in.Cases {
		at := config.Index("cases", i)
		t := testCase{name: c.Name, line: doc.Line(at), want: signing.Effect(c.Want), fails: slices.Compact(slices.Sorted(slices.Values(c.Fails))), asks: slices.Sorted(slices.Values(c.Asks))}
		switch {
		case c.Name == "" || len(c.Name) > maxName || seen[c.Name]:
			add(at+".name", "a case needs a name of at most %d characters that no other has", maxName)
		case c.Want != string(signing.Allow) && c.Want != string(signing.Deny) && c.Want != string(signing.NeedsApproval):
			add(at+".want", "must be allow, deny or needs_approval")
		case c.Want != string(signing.Deny) && len(c.Fails) > 0:
			add(at+".fails", "nothing fails where the build is allowed")
		case c.Want != string(signing.NeedsApproval) && len(c.Asks) > 0:
			add(at+".asks", "nobody is asked where the build is allowed or denied without")
		case c.Want == string(signing.NeedsApproval) && len(c.Asks) == 0:
			add(at+".asks", "must list who has to approve, a line for each group, as `sealwright policy test` prints them: \"2 of github.com:acme/release\"")
		case c.Want == string(signing.Deny) && len(c.Fails) == 0:
			add(at+".fails", "must list every rule that refuses, as `sealwright policy test` prints them: else the case passes for any reason")
		}
		seen[c.Name] = true
		build := c.Build
		if build == "" && len(in.Builds) == 1 {
			build = slices.Collect(maps.Keys(in.Builds))[0]
		}
		base, ok := in.Builds[build]
		if !ok {
			add(at+".build", "must be one of %s", strings.Join(slices.Sorted(maps.Keys(in.Builds)), ", "))
			continue
		}
		if t.facts, err = factsOf(base, c.Facts); err != nil {
			add(at+".facts", "%v", err)
		}
		out.cases = append(out.cases, t)
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	return out, nil
}

// factsOf applies a JSON merge patch (RFC 7396) to the facts of a build. Names
// and types are those of the table of facts. A job's role and an image's digest,
// which each real build has, may be left out, and so may the host of the forge
// that answers: it is the build's.
func factsOf(build, patch config.Raw) (signing.Facts, error) {
	merged := map[string]any{}
	for _, raw := range []config.Raw{build, patch} {
		if raw.IsZero() {
			continue
		}
		m, ok := raw.Value().(map[string]any)
		if !ok {
			return signing.Facts{}, fmt.Errorf("must be a mapping of facts, such as origin: {buildTrigger: push}")
		}
		merge(merged, m)
	}
	text, err := json.Marshal(merged)
	if err != nil {
		return signing.Facts{}, fmt.Errorf("not facts: %w", err)
	}
	return ReadFacts(text)
}

// ReadFacts reads facts as JSON, strictly: a name that is no fact is an error.
func ReadFacts(text []byte) (signing.Facts, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	f := signing.Facts{Identity: signing.Identity{Role: signing.RoleCI}}
	if err := dec.Decode(&f); err != nil {
		return f, fmt.Errorf("not facts: %w (ids and attempts are text, in quotes; the table of facts has the names)", err)
	}
	if f.Forge != nil && f.Forge.Forge == "" {
		f.Forge.Forge = f.Origin.Forge
	}
	for i := range f.Images {
		if a := &f.Images[i].Artifact; a.Digest == "" {
			a.Digest = signing.DigestOf([]byte(a.Repository))
		}
	}
	return f, nil
}

func merge(doc, patch map[string]any) {
	for k, v := range patch {
		inner, isMap := v.(map[string]any)
		old, wasMap := doc[k].(map[string]any)
		switch {
		case v == nil:
			delete(doc, k)
		case isMap && wasMap:
			merge(old, inner)
		default:
			doc[k] = v
		}
	}
}

// Name returns the name of the file.
func (f *File) Name() string { return f.name }

// Run holds every case against the policies.
func (f *File) Run(set *policy.Set) []Result {
	out := make([]Result, 0, len(f.cases))
	for _, c := range f.cases {
		p, effect, reasons := set.Judge(c.facts)
		var fails []string
		for _, leaf := range reasons.Failures() {
			fails = append(fails, leaf.Rule)
		}
		fails = slices.Compact(slices.Sorted(slices.Values(fails)))
		r := Result{File: f.name, Line: c.line, Name: c.name, Want: outcome(c.want, c.fails), Got: outcome(effect, fails), Reasons: reasons, Policy: p}
		if effect == signing.NeedsApproval {
			r.Got = outcome(effect, asks(p.ApprovalsWith(c.facts.Forge)))
		}
		if c.want == signing.NeedsApproval {
			r.Want = outcome(c.want, c.asks)
		}
		r.OK = r.Want == r.Got
		out = append(out, r)
	}
	return out
}

// asks says who a rule asks, a line for each group.
func asks(rule *signing.ApprovalRule) []string {
	var out []string
	for _, g := range rule.Groups {
		out = append(out, fmt.Sprintf("%d of %s", g.Required, strings.Join(g.From, ", ")))
	}
	slices.Sort(out)
	return out
}

func outcome(e signing.Effect, fails []string) string {
	if len(fails) == 0 {
		return string(e)
	}
	return string(e) + " by " + strings.Join(fails, ", ")
}
