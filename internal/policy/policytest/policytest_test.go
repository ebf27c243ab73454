package policytest_test

import (
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/policy"
	"github.com/sealwright/sealwright/internal/policy/policytest"
)

const examples = "../../../examples/policies"

// TestExamplePoliciesDecideAsTheirCasesSay: and each of them has a build that it
// signs and one that it refuses.
func TestExamplePoliciesDecideAsTheirCasesSay(t *testing.T) {
	files, err := config.ReadTree(policy.MaxFiles, examples)
	if err != nil {
		t.Fatal(err)
	}
	policies, tests := map[string][]byte{}, map[string][]byte{}
	for name, text := range files {
		if policy.IsTest(name) {
			tests[name] = text
		} else {
			policies[name] = text
		}
	}
	set, err := policy.Load(policies)
	if err != nil {
		t.Fatal(err)
	}
	allowed, denied := map[*policy.Policy]bool{}, map[string]bool{}
	for name, text := range tests {
		f, err := policytest.Load(name, text)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range f.Run(set) {
			if !r.OK {
				t.Errorf("%s:%d: %s: wanted %s, got %s", r.File, r.Line, r.Name, r.Want, r.Got)
			}
			if r.Got == "allow" || strings.HasPrefix(r.Got, "needs_approval") {
				allowed[r.Policy] = true
			} else if r.Policy != nil {
				denied[r.Policy.Project()] = true
			}
		}
	}
	for _, p := range set.Policies() {
		if p.Log() {
			continue // no job can ask for it
		}
		if !allowed[p] || !denied[p.Project()] {
			t.Errorf("%s/%s: no case that allows, or none that denies", p.Project(), p.Name())
		}
	}
	if len(set.Policies()) < 8 {
		t.Errorf("only %d policies", len(set.Policies()))
	}
}

const good = `apiVersion: sealwright.dev/v1
builds: {main: {policy: release, origin: {runID: "1"}}}
cases: [{name: a, want: deny, fails: [repositories]}]
`

func TestMistakesInCasesAreReportedWithTheirLine(t *testing.T) {
	if _, err := policytest.Load("x", []byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ old, text, says string }{
		"another version":                {"v1\nbuilds", "v2\nbuilds", `x:1: apiVersion: must be "sealwright.dev/v1"`},
		"no build":                       {`builds: {main: {policy: release, origin: {runID: "1"}}}`, "builds: {}", "x:2: builds: needs at least one build"},
		"no case":                        {"cases: [{name: a, want: deny, fails: [repositories]}]", "cases: []", "x:3: cases: a file has 1 to 500 cases, found 0"},
		"a case without a name":          {"name: a, ", "", "cases[0].name: a case needs a name"},
		"a fact that is none":            {"runID", "run", `x:2: builds.main: not facts: json: unknown field "run"`},
		"a fact of another type":         {`"1"`, "1", "cannot unmarshal number"},
		"facts that are no mapping":      {"name: a", "name: a, facts: [x]", "x:3: cases[0].facts: must be a mapping"},
		"a case that changes to no fact": {"name: a", "name: a, facts: {when: x}", `cases[0].facts: not facts: json: unknown field "when"`},
		"another effect":                 {"want: deny", "want: maybe", "cases[0].want: must be allow, deny or needs_approval"},
		"approval by anybody":            {"want: deny, fails: [repositories]", "want: needs_approval", "cases[0].asks: must list who has to approve"},
		"denied with people":             {"fails:", "asks: [x], fails:", "cases[0].asks: nobody is asked"},
		"for any reason":                 {", fails: [repositories]", "", "cases[0].fails: must list every rule"},
		"allowed and failing":            {"want: deny", "want: allow", "cases[0].fails: nothing fails"},
		"another build":                  {"name: a", "name: a, build: dev", "cases[0].build: must be one of main"},
		"an unknown word":                {"want: deny", "want: deny, because: x", `unknown key "because"`},
		"the same name twice":            {"[repositories]}]", "[repositories]}, {name: a, want: allow}]", "cases[1].name: a case needs a name"},
	} {
		text := strings.Replace(good, c.old, c.text, 1)
		if text == good {
			t.Fatalf("%s: no %q", name, c.old)
		}
		if _, err := policytest.Load("x", []byte(text)); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCasesDoNotChangeTheBuildTheyStartFrom(t *testing.T) {
	f, err := policytest.Load("x", []byte(`apiVersion: sealwright.dev/v1
builds: {main: {policy: release, origin: {forge: github.com, sourceRepositoryIdentifier: "1"}}}
cases:
  - {name: changed, facts: {origin: {sourceRepositoryIdentifier: null}}, want: deny, fails: [repositories]}
  - {name: as it was, want: deny, fails: [policy]}
`))
	if err != nil {
		t.Fatal(err)
	}
	set, err := policy.Load(map[string][]byte{"p": []byte(`apiVersion: sealwright.dev/v1
project: p
repositories: [{forge: github.com, name: a/b, id: "1", images: [registry.acme.dev/b]}]
policies: {other: {origin: {refs: [a], github: {events: [push]}}, sign: [{method: cosign, key: k}]}}
`)})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range f.Run(set) {
		if !r.OK {
			t.Errorf("%s: wanted %s, got %s", r.Name, r.Want, r.Got)
		}
	}
}

func FuzzCases(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("apiVersion: sealwright.dev/v1\nbuilds: {a: {images: [{artifact: {repository: x}}]}}\ncases: [{name: a, facts: {origin: null}, want: allow}]\n"))
	set, err := policy.Load(map[string][]byte{"p": []byte("apiVersion: sealwright.dev/v1\nproject: p\nrepositories: [{forge: github.com, name: a/b, id: \"1\", images: [registry.acme.dev/b]}]\npolicies: {release: {origin: {refs: [a], github: {events: [push]}}, sign: [{method: cosign, key: k}]}}\n")})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := policytest.Load("x", data)
		if err != nil {
			return
		}
		for _, r := range file.Run(set) {
			if r.Got == "" || r.OK != (r.Want == r.Got) || r.Line == 0 {
				t.Fatalf("%+v", r)
			}
		}
	})
}

func TestCasesAreComparedByTheirReasons(t *testing.T) {
	f, err := policytest.Load("x", []byte(strings.Replace(good, "repositories", "origin.refs", 1)))
	if err != nil {
		t.Fatal(err)
	}
	set, err := policy.Load(map[string][]byte{"p": []byte("apiVersion: sealwright.dev/v1\nproject: p\nrepositories: [{forge: github.com, name: a/b, id: \"1\", images: [registry.acme.dev/b]}]\npolicies: {release: {origin: {refs: [a], github: {events: [push]}}, sign: [{method: cosign, key: k}]}}\n")})
	if err != nil {
		t.Fatal(err)
	}
	if r := f.Run(set)[0]; r.OK || r.Want != "deny by origin.refs" || r.Got != "deny by repositories" {
		t.Errorf("%+v", r)
	}
}
