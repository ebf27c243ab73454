package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/signing"
)

// asking is a project whose release asks the forge and people, beside a policy in
// log mode and one for people.
const asking = `apiVersion: sealwright.dev/v1
project: payments
repositories:
  - {forge: github.com, name: acme/payments-web, id: "74", images: ["registry.acme.dev/payments/web"]}
policies:
  release:
    origin: {refs: [refs/heads/main], verify: {branch: {of: refs/heads/main, required_approvals: 2}}, github: {events: [push]}}
    approvals: {required: 2, from: ["github.com:acme/release"], exclude: [actor], ways: [comment, api]}
    sign: [{method: cosign, key: a}]
  release-next:
    mode: log
    shadows: release
    origin: {refs: [refs/heads/main], verify: {run: true, checks: [trivy]}, github: {events: [push]}}
  plain:
    repository_policy: ignore
    origin: {refs: [refs/heads/main], github: {events: [push]}}
    report: []
    sign: [{method: cosign, key: a}]
`

func named(t testing.TB, s *Set, name string) *Policy {
	t.Helper()
	p, ok := s.Policy("payments", name)
	if !ok {
		t.Fatalf("no policy %s", name)
	}
	return p
}

func forgeFacts(t testing.TB, patch string) signing.Facts {
	t.Helper()
	return patched(t, "github-forge", []byte(patch))
}

func TestAPolicyInLogModeSaysWhatItWouldHaveSaidAndAllowsNothing(t *testing.T) {
	s := load(t, asking)
	shadows := named(t, s, "release").Shadows()
	if len(shadows) != 1 || shadows[0].Name() != "release-next" || len(named(t, s, "plain").Shadows()) != 0 {
		t.Fatalf("shadows: %v", shadows)
	}
	next := shadows[0]
	f := forgeFacts(t, `{}`)
	if effect, why := next.Evaluate(f); effect != signing.Allow {
		t.Errorf("what it would have said of a good build: %s %v", effect, why.Failures())
	}
	if effect, _ := next.Evaluate(forgeFacts(t, `{"forge": {"checks": {"checks": []}}}`)); effect != signing.Deny {
		t.Errorf("a check that is missing: %s", effect)
	}
	// A job cannot ask for it.
	f.Policy = "release-next"
	if p, err := s.Find(f.Origin, f.Policy); p != nil || err == nil {
		t.Errorf("found %v", p)
	}
	if p, effect, _ := s.Judge(f); p != nil || effect != signing.Deny {
		t.Errorf("judged %v %s", p, effect)
	}
	if effect, why := next.Evaluate(f); effect != signing.Deny {
		t.Errorf("evaluated %s %v", effect, why)
	}
	if len(next.Steps()) != 0 || !next.Log() || named(t, s, "release").Log() {
		t.Error("a policy in log mode uses keys")
	}
	// Its questions are asked with those of the policy that decides.
	if q := named(t, s, "release").Question(); !q.Run || !q.Checks || !q.PolicyFile {
		t.Errorf("question: %+v", q)
	}
}

func TestWhatIsAskedFollowsFromTheRulesOnly(t *testing.T) {
	s := load(t, asking)
	if q := named(t, s, "plain").Question(); q.Asks() {
		t.Errorf("a policy without questions asks %+v", q)
	}
	want := signing.ForgeQuestion{Branches: []string{"refs/heads/main"}, PolicyFile: true}
	if diff := cmp.Diff(want, named(t, s, "release").RecheckQuestion()); diff != "" {
		t.Error(diff)
	}
	for exclude, want := range map[string]signing.ForgeQuestion{
		"[]": {}, "[author]": {Pulls: true, Commit: true}, "[actor]": {Run: true}, "[pusher]": {Pulls: true},
	} {
		p := named(t, load(t, strings.Replace(strings.Replace(asking, "exclude: [actor]", "exclude: "+exclude, 1), "verify: {branch: {of: refs/heads/main, required_approvals: 2}}, ", "", 1)), "release")
		want.PolicyFile = true
		if diff := cmp.Diff(want, p.question()); diff != "" {
			t.Errorf("exclude: %s: %s", exclude, diff)
		}
	}
}

func TestChannelsAreQuietUnlessThePolicyNamesThem(t *testing.T) {
	s := load(t, asking)
	if diff := cmp.Diff([]string{"check", "summary"}, named(t, s, "release").Channels()); diff != "" {
		t.Error(diff)
	}
	if got := named(t, s, "plain").Channels(); len(got) != 0 {
		t.Errorf("report: [] reports to %v", got)
	}
	loud := load(t, strings.Replace(asking, "report: []", "report: [status, comment]", 1))
	if diff := cmp.Diff([]string{"comment", "status"}, named(t, loud, "plain").Channels()); diff != "" {
		t.Error(diff)
	}
}

func TestARecheckHoldsProtectionAndTheRepositorysPolicyAgain(t *testing.T) {
	p := named(t, load(t, asking), "release")
	own := "apiVersion: sealwright.dev/v1\npolicies: {all: {origin: {reachable_from: [refs/heads/main]}}}\n"
	digest := signing.DigestOf([]byte(own))
	with := func(f signing.Facts, text string) signing.Facts { return withPolicyFile(f, []byte(text)) }
	for name, c := range map[string]struct {
		facts   signing.Facts
		decided signing.Digest
		fails   []string
	}{
		"as decided":                {forgeFacts(t, `{}`), "", nil},
		"the run is over":           {forgeFacts(t, `{"forge": {"run": null, "checks": null}}`), "", nil},
		"protection was weakened":   {forgeFacts(t, `{"forge": {"branches": [{"ref": "refs/heads/main", "exists": true, "contains": true, "protected": true, "requiredApprovals": 1}]}}`), "", []string{"origin.verify.branch.required_approvals"}},
		"no answer":                 {forgeFacts(t, `{"forge": {"branches": null}}`), "", []string{"origin.verify.branch", "origin.verify.branch.contains"}},
		"a policy came":             {with(forgeFacts(t, `{}`), own), "", []string{"repository_policy"}},
		"the policy is the same":    {with(forgeFacts(t, `{}`), own), digest, nil},
		"the policy went":           {forgeFacts(t, `{}`), digest, []string{"repository_policy"}},
		"the policy is broken":      {with(forgeFacts(t, `{}`), "{"), "", []string{"repository_policy"}},
		"the policy is not told":    {forgeFacts(t, `{"forge": {"policyFile": null}}`), "", []string{"repository_policy"}},
		"a rule of the policy":      {with(forgeFacts(t, `{"forge": {"branches": [{"ref": "refs/heads/main", "exists": true, "contains": false, "protected": true, "requiredApprovals": 2}]}}`), own), digest, []string{"origin.verify.branch.contains", "repository_policy.origin.reachable_from"}},
		"nothing was asked at all":  {forgeFacts(t, `{"forge": null}`), "", []string{"origin.verify.branch", "origin.verify.branch.contains"}},
		"answered by another forge": {forgeFacts(t, `{"forge": {"forge": "ghe.acme.dev"}}`), "", []string{"origin.verify.branch", "origin.verify.branch.contains", "repository_policy"}},
	} {
		t.Run(name, func(t *testing.T) {
			why := p.Recheck(c.facts, c.decided)
			var fails []string
			for _, r := range why.Failures() {
				fails = append(fails, r.Rule)
			}
			if diff := cmp.Diff(c.fails, fails); diff != "" || why.Pass != (len(c.fails) == 0) {
				t.Error(diff, why.Pass)
			}
		})
	}
	plain := named(t, load(t, asking), "plain")
	if why := plain.Recheck(signing.Facts{}, ""); !why.Pass {
		t.Errorf("a policy that asks nothing: %v", why)
	}
}

func TestARepositoryAddsItsPeopleAndTakesNobodyAway(t *testing.T) {
	set := load(t, asking)
	p := named(t, set, "release")
	own := `apiVersion: sealwright.dev/v1
policies:
  all: {approvals: {required: 1, from: ["github.com:acme/web"], exclude: [author], ways: [api], expires: 1h}}
  release: {approvals: {required: 3, from: ["github.com:acme/owners"], expires: 48h}}
  test: {approvals: {required: 9, from: ["github.com:acme/nobody"]}}
`
	f := withPolicyFile(forgeFacts(t, `{}`), []byte(own))
	want := &signing.ApprovalRule{
		Groups: []signing.ApprovalGroup{{Required: 2, From: []string{"github.com:acme/release"}}, {Required: 1, From: []string{"github.com:acme/web"}}, {Required: 3, From: []string{"github.com:acme/owners"}}},
		// Who either excludes, ways that both name, and the shorter time.
		Exclude: []string{"actor", "author"}, Ways: []string{"api"}, Expires: time.Hour, DenyEnds: true,
	}
	if diff := cmp.Diff(want, p.ApprovalsWith(f.Forge)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(signing.ForgeQuestion{Run: true, Pulls: true, Commit: true}, p.Further(f.Forge)); diff != "" {
		t.Error(diff)
	}
	if p.RepositoryDigest(f.Forge) != signing.DigestOf([]byte(own)) || p.RepositoryDigest(nil) != "" {
		t.Error("the digest is not that of the file")
	}
	// Where the service's policy asks nobody, the repository still may.
	plain := named(t, load(t, strings.Replace(asking, "repository_policy: ignore", "repository_policy: honour", 1)), "plain")
	f.Policy = "plain"
	if effect, why := plain.Evaluate(f); effect != signing.NeedsApproval || len(plain.ApprovalsWith(f.Forge).Groups) != 1 {
		t.Errorf("%s %v", effect, why.Failures())
	}
	// No way in common is no way at all.
	f = withPolicyFile(forgeFacts(t, `{}`), []byte("apiVersion: sealwright.dev/v1\npolicies: {all: {approvals: {required: 1, from: [\"github.com:acme/web\"], ways: [review]}}}\n"))
	if effect, why := p.Evaluate(f); effect != signing.Deny || why.Failures()[0].Rule != "repository_policy" {
		t.Errorf("%s %v", effect, why.Failures())
	}
}

func TestARepositoryPolicyHasNoWordsThatWiden(t *testing.T) {
	for _, rules := range []string{
		"sign: [{method: cosign, key: k}]", "repositories: []", "mode: log", "shadows: release", "report: []", "repository_policy: ignore", "publish: client", "bind: {revision_label: true}", "origin: {human: true}",
		"when: 'facts.images.all(i, i.manifests.all(m, true))'", "when: 'facts.nothing'", "origin: {refs: ['regex:(']}", "origin: {verify: {branch: {no_bypass: true}}}", "origin: {github: {builder: {repository: acme/b}}}",
		"approvals: {required: 1}", "approvals: {required: 1, from: [acme/web]}", "freeze: [soon]", "origin: {github: {events: [pull_request_target]}}", "unknown: true",
	} {
		if _, err := LoadRepositoryPolicy([]byte("apiVersion: sealwright.dev/v1\npolicies:\n  all:\n    " + rules + "\n")); err == nil || !strings.Contains(err.Error(), RepositoryFile+":") {
			t.Errorf("%s: %v", rules, err)
		}
	}
	for _, text := range []string{"", "{", "apiVersion: sealwright.dev/v1\n", "apiVersion: sealwright.dev/v1\npolicies: {}\n", "apiVersion: v2\npolicies: {all: {}}\n", "apiVersion: sealwright.dev/v1\npolicies: {'*': {}}\n", "project: x\napiVersion: sealwright.dev/v1\npolicies: {all: {}}\n", strings.Repeat("#", MaxRepositoryFile+1)} {
		if _, err := LoadRepositoryPolicy([]byte(text)); err == nil {
			t.Errorf("%.40q is read", text)
		}
	}
	many := "apiVersion: sealwright.dev/v1\npolicies:\n"
	for i := range MaxPolicies + 1 {
		many += fmt.Sprintf("  p%d: {}\n", i)
	}
	if _, err := LoadRepositoryPolicy([]byte(many)); err == nil {
		t.Error("any number of policies is read")
	}
}

// Whatever a repository writes, what the service's policy refuses is refused.
func TestARepositoryPolicyNeverAllowsWhatTheServiceRefuses(t *testing.T) {
	set := load(t, asking)
	p := named(t, set, "release")
	for _, patch := range []string{`{}`, `{"origin": {"sourceRepositoryRef": "refs/heads/dev"}}`, `{"forge": {"branches": null}}`, `{"origin": {"runAttempt": "2"}}`, `{"images": []}`} {
		f := forgeFacts(t, patch)
		before, _ := p.Evaluate(f)
		for _, rules := range []string{"{}", `{tags: ["**"]}`, `{origin: {refs: ["**"], ref_protected: false, reruns: allow, github: {events: [push, schedule]}}}`, "{origin: {ref_protected: true}}", `{approvals: {required: 1, from: ["github.com:a/b"], exclude: []}}`, "{when: 'true'}"} {
			after, why := p.Evaluate(withPolicyFile(f, []byte("apiVersion: sealwright.dev/v1\npolicies: {all: "+rules+"}\n")))
			if before == signing.Deny && after != signing.Deny || after == signing.Allow {
				t.Errorf("%s with %s: %s, was %s: %v", patch, rules, after, before, why.Failures())
			}
		}
	}
}

func TestReplaySaysWhatAChangeOfPoliciesMeans(t *testing.T) {
	before := load(t, asking)
	after := load(t, strings.NewReplacer("required_approvals: 2}", "required_approvals: 3}", "required: 2,", "required: 3,").Replace(asking))
	loose := load(t, strings.Replace(asking, "verify: {branch: {of: refs/heads/main, required_approvals: 2}}, ", "", 1))
	asksMore := load(t, strings.Replace(asking, "verify: {branch:", "verify: {run: true, branch:", 1))
	past := func(patches ...string) (out []Past) {
		for i, p := range patches {
			out = append(out, Past{ID: fmt.Sprint(i), Facts: forgeFacts(t, p)})
		}
		return out
	}
	good, weak := `{}`, `{"forge": {"branches": [{"ref": "refs/heads/main", "exists": true, "contains": true, "protected": true, "requiredApprovals": 1}]}}`
	strong := `{"forge": {"branches": [{"ref": "refs/heads/main", "exists": true, "contains": true, "protected": true, "requiredApprovals": 3}]}}`
	ids := func(changes []Change) string {
		var out []string
		for _, c := range changes {
			out = append(out, c.ID+":"+string(c.Before)+">"+string(c.After))
		}
		return strings.Join(out, " ")
	}
	for name, c := range map[string]struct {
		before, after                        *Set
		past                                 []Past
		same                                 int
		refused, allowed, approvals, unknown string
	}{
		"nothing changed":              {before, before, past(good, weak), 2, "", "", "", ""},
		"stricter":                     {before, after, past(good, weak, strong), 1, "0:needs_approval>deny", "", "2:needs_approval>needs_approval", ""},
		"looser":                       {before, loose, past(good, weak), 1, "", "1:deny>needs_approval", "", ""},
		"asks what was not asked then": {before, asksMore, past(`{"forge": {"run": null}}`, `{"origin": {"runAttempt": "2"}, "forge": {"run": null}}`), 1, "", "", "", "0:needs_approval>deny"},
		"a question that is not answered and a rule that fails": {loose, asksMore, past(`{"forge": {"run": null, "branches": [{"ref": "refs/heads/main", "exists": true, "contains": true, "protected": true, "requiredApprovals": 1}]}}`), 0, "0:needs_approval>deny", "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := Compare(c.before, c.after, c.past)
			if r.Same != c.same || ids(r.Refused) != c.refused || ids(r.Allowed) != c.allowed || ids(r.Approvals) != c.approvals || ids(r.Unknown) != c.unknown {
				t.Errorf("same %d, refused %q, allowed %q, approvals %q, unknown %q", r.Same, ids(r.Refused), ids(r.Allowed), ids(r.Approvals), ids(r.Unknown))
			}
		})
	}
}

func TestReplayOfARepositorysPolicyNeedsNoAnswerOfTheForge(t *testing.T) {
	set := load(t, strings.Replace(asking, "repository_policy: ignore", "repository_policy: honour", 1))
	f := forgeFacts(t, `{"policy": "plain", "forge": null}`)
	own := []byte("apiVersion: sealwright.dev/v1\npolicies: {all: {origin: {refs: [refs/heads/next]}}}\n")
	past := []Past{{ID: "a", Facts: f}}
	if r := CompareRepository(set, nil, own, past); len(r.Refused) != 1 {
		t.Errorf("a policy that refuses: %+v", r)
	}
	if r := CompareRepository(set, own, nil, past); len(r.Allowed) != 1 {
		t.Errorf("a policy that goes: %+v", r)
	}
	if r := CompareRepository(set, nil, []byte("{"), past); len(r.Refused) != 1 {
		t.Errorf("a policy that cannot be read: %+v", r)
	}
	if r := CompareRepository(set, nil, nil, past); r.Same != 1 {
		t.Errorf("no policy before and after: %+v", r)
	}
}

// What the forge answered then is not recorded. That the service's policy passed is.
func TestReplayOfARepositorysPolicyTakesTheServicesPolicyAsItDecided(t *testing.T) {
	set := load(t, asking)
	f := forgeFacts(t, `{"forge": null}`) // the policy asks for approvals of the branch
	refuses := signing.Reason{Rule: "policies.release", Children: []signing.Reason{{Rule: "repository", Pass: true}, {Rule: "repository_policy.tags"}}}
	others := signing.Reason{Rule: "policies.release", Children: []signing.Reason{{Rule: "repository_policy"}, {Rule: "repository_policyx"}}}
	for name, c := range map[string]struct {
		effect  signing.Effect
		reasons signing.Reason
		passed  bool
	}{
		"allowed":                       {signing.Allow, signing.Reason{Pass: true}, true},
		"people were asked":             {signing.NeedsApproval, signing.Reason{Pass: true}, true},
		"refused by the repository":     {signing.Deny, refuses, true},
		"refused by another rule, too":  {signing.Deny, others, false},
		"refused, nobody says by which": {signing.Deny, signing.Reason{Pass: true}, false},
	} {
		if p := PastOf(&signing.Request{ID: "a", Decision: &signing.Decision{Effect: c.effect, Reasons: c.reasons}}, f); p.Passed != c.passed || p.ID != "a" {
			t.Errorf("%s: %+v", name, p.Passed)
		}
	}
	next := []byte("apiVersion: sealwright.dev/v1\npolicies: {all: {origin: {refs: [refs/heads/next]}}}\n")
	past := []Past{{ID: "a", Facts: f, Passed: true}}
	r := CompareRepository(set, nil, next, past)
	if len(r.Refused) != 1 || r.Refused[0].Before != signing.NeedsApproval || r.Refused[0].BeforeRule == nil {
		t.Fatalf("a policy that refuses: %+v", r)
	}
	if why := r.Refused[0].Reasons.Failures(); len(why) != 1 || why[0].Rule != "repository_policy.origin.refs" {
		t.Errorf("it is refused for %+v", why)
	}
	if r := CompareRepository(set, next, nil, past); len(r.Allowed) != 1 {
		t.Errorf("a policy that goes: %+v", r)
	}
	if r := CompareRepository(set, nil, []byte("apiVersion: sealwright.dev/v1\npolicies: {all: {origin: {verify: {checks: [trivy]}}}}\n"), past); len(r.Unknown) != 1 {
		t.Errorf("a policy that asks what was not asked: %+v", r)
	}
	if r := CompareRepository(set, nil, []byte("apiVersion: sealwright.dev/v1\npolicies: {all: {approvals: {required: 1, from: [\"github.com:acme/web\"]}}}\n"), past); len(r.Approvals) != 1 || len(r.Approvals[0].AfterRule.Groups) != 2 {
		t.Errorf("a policy that asks more people: %+v", r)
	}
	past[0].Passed = false
	if r := CompareRepository(set, nil, next, past); r.Same != 1 {
		t.Errorf("what the service's policy refused stays refused: %+v", r)
	}
}

func TestARepositoryIsReadWhereAPolicyOfItsProjectHonoursIt(t *testing.T) {
	set := load(t, asking)
	o := forgeFacts(t, `{}`).Origin
	if !set.ReadsRepository(o.Forge, o.SourceRepositoryIdentifier, "renamed/x") {
		t.Error("the repository is found by its id")
	}
	if set.ReadsRepository(o.Forge, "75000", o.SourceRepository) || set.ReadsRepository("other.test", o.SourceRepositoryIdentifier, o.SourceRepository) {
		t.Error("another repository of the same name, or another forge's, is found")
	}
	var ignores string
	for line := range strings.Lines(asking) {
		if ignores += line; strings.HasPrefix(line, "  release:") {
			ignores += "    repository_policy: ignore\n"
		}
	}
	if load(t, ignores).ReadsRepository(o.Forge, o.SourceRepositoryIdentifier, o.SourceRepository) {
		t.Error("every policy of the project ignores it")
	}
}

// Conditions see what the forge answered; what was not asked is missing.
func TestConditionsMaySpeakOfTheForge(t *testing.T) {
	text := strings.Replace(asking, "    report: []\n", "    when: 'facts.forge.run.actor.login == \"octocat\" && facts.forge.branches.all(b, b.requiredApprovals >= 2)'\n", 1)
	p := named(t, load(t, text), "plain")
	for patch, want := range map[string]signing.Effect{
		`{"policy": "plain"}`: signing.Allow,
		`{"policy": "plain", "forge": {"run": {"actor": {"login": "mallory"}}}}`:     signing.Deny,
		`{"policy": "plain", "forge": {"run": null}}`:                                signing.Deny,
		`{"policy": "plain", "forge": null}`:                                         signing.Deny,
		`{"policy": "plain", "forge": {"branches": [{"ref": "x", "exists": true}]}}`: signing.Deny,
	} {
		if effect, why := p.Evaluate(forgeFacts(t, patch)); effect != want {
			t.Errorf("%s: %s %v", patch, effect, why.Failures())
		}
	}
}
