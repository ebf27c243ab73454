package policy

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/signing"
)

// TestOneGlobIsBelowAnotherOnlyIfEveryTextIs: sound for all, and exact for those
// that people write.
func TestOneGlobIsBelowAnotherOnlyIfEveryTextIs(t *testing.T) {
	texts := words("a/b", 6)
	globs := slices.DeleteFunc(words("a/*b", 3), func(g string) bool { return g == "" || strings.Contains(g, "***") })
	globs = append(globs, "a**b", "**a*", "*/**", "**/a", "a*b*", "*a*b", "a/**/b", "b**/a")
	missed := 0
	for _, wide := range globs {
		for _, narrow := range globs {
			every := !slices.ContainsFunc(texts, func(s string) bool { return oracle(narrow, s) && !oracle(wide, s) })
			switch got := contains(wide, narrow); {
			case got && !every:
				t.Fatalf("%q is not below %q", narrow, wide)
			case !got && every:
				missed++ // "a*" below "a" + "*" + "": no way of writing it that matters
			}
		}
	}
	if missed > len(globs)*len(globs)/100 {
		t.Errorf("%d of %d that are below are not seen to be", missed, len(globs)*len(globs))
	}
	for _, pair := range [][2]string{{"**", "regex:a"}, {"regex:a", "regex:a"}, {"refs/heads/*", "refs/heads/main"}, {"refs/heads/**", "refs/heads/release/*"}, {"v*", "v1.*"}} {
		if !contains(pair[0], pair[1]) {
			t.Errorf("%q is below %q", pair[1], pair[0])
		}
	}
	if contains("refs/heads/*", "regex:refs/heads/main") || contains("regex:a|b", "a") {
		t.Error("what cannot be told is taken for a yes")
	}
}

// baseOf writes text, a policy in flow style, as that of a base and of a project.
func withBase(base, own string) (map[string][]byte, map[string][]byte) {
	const project = `apiVersion: sealwright.dev/v1
project: payments
%s
repositories:
  - {forge: github.com, name: acme/payments-web, id: "74", images: ["registry.acme.dev/payments/web"]}
  - {forge: gitlab.acme.dev, name: acme/group/web, id: "20", images: ["registry.acme.dev/web"]}
policies:
  release: %s
`
	return map[string][]byte{"p": fmt.Appendf(nil, project, "extends: b", own), "b": fmt.Appendf(nil, "apiVersion: sealwright.dev/v1\nbase: b\npolicies: {release: %s}\n", base)},
		map[string][]byte{"p": fmt.Appendf(nil, project, "", base)}
}

// relation is a word of the language with a value of a base, values that allow
// less, and values that allow more.
type relation struct{ base, tighter, looser string }

// relations names, for every word of a policy, what may follow it in a file that
// extends another. The base has every word that a policy needs.
func relations() map[string]relation {
	const gh = "origin: {refs: [refs/heads/main], github: {events: [push], "
	const gl = "origin: {refs: [refs/heads/main], gitlab: {events: [push], "
	const or = "origin: {github: {events: [push]}, refs: [refs/heads/main], "
	const bare = "origin: {refs: [refs/heads/main], ref_protected: false, reruns: allow, "
	const signs = ", sign: [{method: cosign, key: a}]"
	const people = "approvals: {required: 2, from: [\"github.com:acme/a\"]}, "
	return map[string]relation{
		"mode":                                 {"mode: enforce, " + or + "}" + signs, "mode: enforce", ""},
		"tags":                                 {`tags: ["v*"], ` + or + "}" + signs, `tags: ["v1.*"]`, `tags: ["v1", "w"]`},
		"bind.digests_only":                    {"bind: {digests_only: true}, " + or + "}" + signs, "bind: {digests_only: true}", "bind: {digests_only: false}"},
		"bind.revision_label":                  {"bind: {revision_label: true}, " + or + "}" + signs, "bind: {digests_only: true}", "bind: {revision_label: false}"},
		"bind.attestation":                     {"bind: {attestation: true}, " + or + "}" + signs, "bind: {digests_only: true}", "bind: {attestation: false}"},
		"origin.refs":                          {`origin: {github: {events: [push]}, refs: ["refs/heads/*"]}` + signs, "origin: {refs: [refs/heads/main]}", `origin: {refs: ["refs/**"]}`},
		"origin.ref_protected":                 {or + "}" + signs, "origin: {ref_protected: true}", "origin: {ref_protected: false}"},
		"origin.reruns":                        {or + "reruns: attach}" + signs, "origin: {reruns: deny}", "origin: {reruns: allow}"},
		"origin.environment":                   {or + "environment: production}" + signs, "origin: {environment: production}", "origin: {environment: staging}"},
		"origin.github.events":                 {"origin: {refs: [refs/heads/main], github: {events: [push, release]}}" + signs, "origin: {github: {events: [push]}}", "origin: {github: {events: [push, schedule]}}"},
		"origin.github.workflow":               {gh + "workflow: .github/workflows/release.yml}}" + signs, "origin: {github: {workflow: .github/workflows/release.yml}}", "origin: {github: {workflow: .github/workflows/other.yml}}"},
		"origin.github.builder.path":           {gh + "builder: {path: .github/workflows/a.yml}}}" + signs, "origin: {github: {events: [push]}}", "origin: {github: {builder: {path: .github/workflows/b.yml}}}"},
		"origin.github.builder.repository":     {gh + "builder: {path: .github/workflows/a.yml}}}" + signs, "", "origin: {github: {builder: {repository: acme/b, sha: [6dcb09b5b57875f334f61aebed695e2e4193db5e]}}}"},
		"origin.github.builder.sha":            {gh + "builder: {path: .github/workflows/a.yml}}}" + signs, "", "origin: {github: {builder: {sha: [6dcb09b5b57875f334f61aebed695e2e4193db5e]}}}"},
		"origin.github.builder.repository_id":  {gh + "builder: {path: .github/workflows/a.yml, repository_id: \"1\", sha: [6dcb09b5b57875f334f61aebed695e2e4193db5e]}}}" + signs, "origin: {github: {events: [push]}}", "origin: {github: {builder: {repository_id: \"2\"}}}"},
		"origin.github.runner_environment":     {gh + "runner_environment: github-hosted}}" + signs, "origin: {github: {runner_environment: github-hosted}}", "origin: {github: {runner_environment: self-hosted}}"},
		"origin.github.runner_groups":          {gh + "runner_groups: [a, b]}}" + signs, "origin: {github: {runner_groups: [a]}}", "origin: {github: {runner_groups: [c]}}"},
		"origin.gitlab.events":                 {"origin: {refs: [refs/heads/main], gitlab: {events: [push, web]}}" + signs, "origin: {gitlab: {events: [push]}}", "origin: {gitlab: {events: [push, schedule]}}"},
		"origin.gitlab.config":                 {gl + "config: .gitlab-ci.yml}}" + signs, "origin: {gitlab: {config: .gitlab-ci.yml}}", "origin: {gitlab: {config: other.yml}}"},
		"origin.gitlab.runner_ids":             {gl + "runner_ids: [31, 32]}}" + signs, "origin: {gitlab: {runner_ids: [31]}}", "origin: {gitlab: {runner_ids: [31, 33]}}"},
		"origin.gitlab.runner_environment":     {gl + "runner_environment: self-hosted}}" + signs, "origin: {gitlab: {runner_environment: self-hosted}}", "origin: {gitlab: {runner_environment: gitlab-hosted}}"},
		"origin.gitlab.environment_protected":  {gl + "environment_protected: true}}" + signs, "origin: {gitlab: {environment_protected: true}}", "origin: {gitlab: {environment_protected: false}}"},
		"origin.gitlab.variables":              {gl + "variables: [a]}}" + signs, "origin: {gitlab: {variables: none}}", "origin: {gitlab: {variables: [a, b]}}"},
		"origin.forgejo.events":                {"origin: {refs: [refs/heads/main], forgejo: {events: [push, release]}}" + signs, "origin: {forgejo: {events: [push]}}", "origin: {forgejo: {events: [schedule]}}"},
		"origin.forgejo.workflow":              {"origin: {refs: [refs/heads/main], forgejo: {events: [push], workflow: .forgejo/workflows/a.yml}}" + signs, "origin: {forgejo: {events: [push]}}", "origin: {forgejo: {workflow: .forgejo/workflows/b.yml}}"},
		"origin.buildkite.events":              {bare + "buildkite: {events: [webhook, schedule]}}" + signs, "origin: {buildkite: {events: [webhook]}}", "origin: {buildkite: {events: [ui]}}"},
		"origin.buildkite.runner_environment":  {bare + "buildkite: {events: [webhook], runner_environment: hosted}}" + signs, "origin: {buildkite: {events: [webhook]}}", "origin: {buildkite: {runner_environment: self-hosted}}"},
		"origin.circleci.pipeline_definitions": {bare + "circleci: {pipeline_definitions: [9a4d0a1e-2222-4333-8444-a55566667777]}}" + signs, "origin: {circleci: {}}", "origin: {circleci: {pipeline_definitions: [0a4d0a1e-2222-4333-8444-a55566667777]}}"},
		"origin.azure-devops.definitions":      {bare + "azure-devops: {definitions: [1, 2]}}" + signs, "origin: {azure-devops: {definitions: [1]}}", "origin: {azure-devops: {definitions: [3]}}"},
		"origin.codefresh.events":              {bare + "codefresh: {events: [unstated]}}" + signs, "origin: {codefresh: {events: [unstated]}}", "origin: {codefresh: {events: [manual]}}"},
		"origin.custom.events":                 {"origin: {refs: [refs/heads/main], custom: {jenkins: {events: [a, b]}}}" + signs, "origin: {custom: {jenkins: {events: [a]}}}", "origin: {custom: {jenkins: {events: [c]}}}"},
		"origin.reachable_from":                {or + "reachable_from: [refs/heads/main, refs/heads/a]}" + signs, "origin: {reachable_from: [refs/heads/a]}", "origin: {reachable_from: [refs/heads/b]}"},
		"freeze":                               {"freeze: [2026-09-01], " + or + "}" + signs, "freeze: [2026-09-02]", ""},
		"sign.method":                          {or + "}, sign: [{method: cosign, key: a}, {method: cosign, key: b}]", "sign: [{method: cosign, key: a}]", "sign: [{method: simple, key: a}]"},
		"sign.key":                             {or + "}" + signs, "sign: [{method: cosign, key: a}]", "sign: [{method: cosign, key: b}]"},
		"sign.options":                         {or + "}" + signs, "sign: [{method: cosign, key: a, options: {}}]", "sign: [{method: cosign, key: a, options: {annotations: sourceRepositoryURI}}]"},
		"sign.formats":                         {or + "}" + signs, "sign: [{method: cosign, key: a, formats: [legacy]}]", "sign: [{method: cosign, key: a, formats: [bundle]}]"},
		"sign.recursive":                       {or + "}" + signs, "sign: [{method: cosign, key: a, recursive: false}]", "sign: [{method: cosign, key: a, recursive: true}]"},
		"sign.publish":                         {or + "}, sign: [{method: cosign, key: a, publish: client}]", "", ""},
		"when":                                 {"when: 'facts.images.all(i, i.kind == \"image\")', " + or + "}" + signs, "when: 'true'", ""},

		"origin.github.runner_labels":                       {gh + "runner_labels: [linux]}}" + signs, "origin: {github: {runner_labels: [linux, prod]}}", "origin: {github: {runner_labels: [prod]}}"},
		"origin.gitlab.runner_tags":                         {gl + "runner_tags: [linux]}}" + signs, "origin: {gitlab: {runner_tags: [linux, prod]}}", "origin: {gitlab: {runner_tags: [prod]}}"},
		"origin.verify.run":                                 {or + "verify: {run: true}}" + signs, "origin: {reruns: deny}", "origin: {verify: {run: false}}"},
		"origin.verify.branch.of":                           {or + "verify: {branch: {of: refs/heads/main}}}" + signs, "origin: {verify: {branch: {of: [refs/heads/main], required_approvals: 1}}}", "origin: {verify: {branch: {of: [refs/heads/main, refs/heads/dev]}}}"},
		"origin.verify.pull_request.required_approvals":     {or + "verify: {pull_request: {required_approvals: 2}}}" + signs, "origin: {verify: {pull_request: {}}}", "origin: {verify: {pull_request: {required_approvals: 1}}}"},
		"origin.verify.environment.required_reviewers":      {or + "verify: {environment: {required_reviewers: 2}}}" + signs, "origin: {verify: {environment: {no_self_review: true}}}", "origin: {verify: {environment: {required_reviewers: 1}}}"},
		"origin.verify.environment.no_self_review":          {or + "verify: {environment: {no_self_review: true}}}" + signs, "origin: {verify: {environment: {approved: 1}}}", "origin: {verify: {environment: {no_self_review: false, approved: 1}}}"},
		"origin.verify.environment.protected_branches_only": {or + "verify: {environment: {protected_branches_only: true}}}" + signs, "origin: {verify: {environment: {approved: 1}}}", "origin: {verify: {environment: {protected_branches_only: false, approved: 1}}}"},
		"origin.verify.environment.approved":                {or + "verify: {environment: {approved: 2}}}" + signs, "origin: {verify: {environment: {approved: 3}}}", "origin: {verify: {environment: {approved: 1}}}"},
		"origin.verify.checks.name":                         {or + "verify: {checks: [test]}}" + signs, "origin: {verify: {checks: [test, trivy]}}", "origin: {verify: {checks: [trivy]}}"},
		"origin.verify.checks.app":                          {or + "verify: {checks: [{name: test, app: a}]}}" + signs, "origin: {verify: {checks: [{name: test, app: a}]}}", "origin: {verify: {checks: [{name: test, app: b}]}}"},
		"origin.verify.inputs":                              {or + "verify: {inputs: [a, b]}}" + signs, "origin: {verify: {inputs: none}}", "origin: {verify: {inputs: [c]}}"},
		"origin.verify.workflow_blobs":                      {or + "verify: {workflow_blobs: [6dcb09b5b57875f334f61aebed695e2e4193db5e, 1f0c6c2b7f0f8a4b6d1d9a5a3c2b1e0f9d8c7b6a]}}" + signs, "origin: {verify: {workflow_blobs: [6dcb09b5b57875f334f61aebed695e2e4193db5e]}}", "origin: {verify: {workflow_blobs: [557db03de997c86a4a028e1ebd3a1ceb225be238]}}"},
		"origin.human.max_age":                              {or + "human: {max_age: 48h}}, approvals: {required: 1, from: [\"github.com:acme/a\"]}" + signs, "origin: {human: {max_age: 24h}}", "origin: {human: {max_age: 72h}}"},
		"approvals.all.required":                            {"approvals: {all: [{required: 2, from: [\"github.com:acme/a\"]}]}, " + or + "}" + signs, "approvals: {required: 3}", "approvals: {all: [{required: 1}]}"},
		"approvals.all.from":                                {"approvals: {all: [{required: 1, from: [\"github.com:acme/a\", \"github.com:acme/b\"]}, {required: 1, from: [\"github.com:acme/c\"]}]}, " + or + "}" + signs, "approvals: {all: [{from: [\"github.com:acme/b\"]}, {required: 2}, {required: 1, from: [\"github.com:acme/d\"]}]}", "approvals: {all: [{from: [\"github.com:acme/c\"]}, {required: 1}]}"},
		"approvals.required":                                {people + or + "}" + signs, "approvals: {required: 3}", "approvals: {required: 1}"},
		"approvals.from":                                    {people + or + "}" + signs, "approvals: {from: [\"github.com:ACME/a\"]}", "approvals: {from: [\"github.com:acme/b\"]}"},
		"approvals.exclude":                                 {"approvals: {required: 1, from: [\"github.com:acme/a\"], exclude: [author]}, " + or + "}" + signs, "approvals: {exclude: [author, actor]}", "approvals: {exclude: [actor]}"},
		"approvals.expires":                                 {people + or + "}" + signs, "approvals: {expires: 1h}", "approvals: {expires: 25h}"},
		"approvals.supersede":                               {people + or + "}" + signs, "approvals: {supersede: true}", ""},
		"approvals.deny":                                    {people + or + "}" + signs, "approvals: {deny: ends}", "approvals: {deny: withdraws}"},
		"approvals.ways":                                    {"approvals: {required: 1, from: [\"github.com:acme/a\"], ways: [comment, api]}, " + or + "}" + signs, "approvals: {ways: [api]}", "approvals: {ways: [comment, check_run]}"},
		"repository_policy":                                 {or + "}" + signs, "repository_policy: honour", "repository_policy: ignore"},
		"report":                                            {"report: [check], " + or + "}" + signs, "report: [status]", ""},
		"publish":                                           {"publish: client, " + or + "}" + signs, "mode: enforce", ""},
	}
}

func TestEveryWordHasARelationToItsBase(t *testing.T) {
	var walk func(t reflect.Type, path string) []string
	walk = func(t reflect.Type, path string) []string {
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map && t.Elem().Kind() == reflect.Struct {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct || t.PkgPath() != reflect.TypeFor[rules]().PkgPath() {
			return []string{strings.TrimPrefix(path, ".")}
		}
		var out []string
		for i := range t.NumField() {
			if name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ","); name != "" {
				out = append(out, walk(t.Field(i).Type, path+"."+name)...)
			}
		}
		return out
	}
	all := relations()
	for word, values := range map[string][3]string{
		"required_approvals": {"2", "3", "1"}, "code_owners": {"true", "true", "false"}, "dismiss_stale": {"true", "true", "false"}, "last_push_approval": {"true", "true", "false"},
		"block_force_push": {"true", "true", "false"}, "block_deletion": {"true", "true", "false"}, "signed_commits": {"true", "true", "false"}, "no_bypass": {"true", "true", "false"},
		"bypass": {"[a, b]", "[a]", "[c]"}, "enforced_from": {"2026-01-01", "2025-12-31", "2026-01-02"},
	} {
		form := func(v string) string { return "origin: {verify: {ref: {" + word + ": " + v + "}}}" }
		base := "origin: {github: {events: [push]}, refs: [refs/heads/main], verify: {ref: {" + word + ": " + values[0] + "}}}, sign: [{method: cosign, key: a}]"
		all["origin.verify.ref."+word] = relation{base, form(values[1]), form(values[2])}
	}
	for _, word := range walk(reflect.TypeFor[rules](), "") {
		if _, ok := all[word]; !ok && word != "shadows" { // it names a policy of the project
			t.Errorf("no relation for %s", word)
		}
	}
	for _, word := range slices.Sorted(maps.Keys(all)) {
		r := all[word]
		t.Run(word, func(t *testing.T) {
			for _, own := range []string{r.tighter, ""} {
				files, plain := withBase("{"+r.base+"}", "{"+own+"}")
				child, err := Load(files)
				if err != nil {
					t.Fatalf("%q on top of its base: %v", own, err)
				}
				base, err := Load(plain)
				if err != nil {
					t.Fatalf("the base as a policy: %v", err)
				}
				noWider(t, release(t, base), release(t, child))
			}
			if r.looser == "" {
				return
			}
			files, _ := withBase("{"+r.base+"}", "{"+r.looser+"}")
			if _, err := Load(files); err == nil || !strings.Contains(err.Error(), "allows more than base b (b:3)") {
				t.Errorf("%s on top of %s: %v", r.looser, r.base, err)
			}
		})
	}
}

// noWider holds many facts against a base and a policy that extends it: what the
// base refuses the other must refuse.
func noWider(t *testing.T, base, child *Policy) {
	t.Helper()
	for _, name := range []string{"github", "gitlab", "github-forge", "gitlab-forge"} {
		for _, patch := range []string{
			`{}`, `{"origin": {"refProtected": false}}`, `{"origin": {"runAttempt": "2"}}`, `{"origin": {"sourceRepositoryRef": "refs/heads/dev"}}`, `{"origin": {"buildTrigger": "schedule"}}`,
			`{"origin": {"runnerEnvironment": "self-hosted"}}`, `{"origin": {"runnerID": "33"}}`, `{"origin": {"environmentProtected": false}}`, `{"origin": {"deploymentEnvironment": "staging"}}`,
			`{"now": "2026-09-02T00:00:00Z"}`, `{"origin": {"kind": "jenkins", "buildTrigger": "a"}}`,
			`{"forge": {"ref": {"requiredApprovals": 1}}}`, `{"forge": {"ref": {"codeOwners": false, "dismissStale": false, "lastPushApproval": false, "blockForcePush": false, "blockDeletion": false, "signedCommits": false}}}`,
			`{"forge": {"ref": {"bypass": ["a"]}}}`, `{"forge": {"ref": {"bypass": ["c"]}}}`, `{"forge": {"ref": {"since": "2026-01-01T12:00:00Z"}}}`, `{"forge": {"run": {"running": false}}}`, `{"forge": {"run": {"runnerGroup": "a", "runnerLabels": ["linux"]}}}`,
			`{"forge": {"branches": null}}`, `{"forge": {"environment": {"required": 1, "noSelfReview": false, "protectedOnly": false}}}`, `{"forge": {"checks": {"checks": []}}}`, `{"forge": {"inputs": {"names": ["a"]}}}`, `{"forge": {"inputs": {"names": ["b"]}}}`,
		} {
			f := patched(t, name, []byte(patch))
			allowed, _ := child.Evaluate(f)
			if was, why := base.Evaluate(f); allowed != signing.Deny && was == signing.Deny || allowed == signing.Allow && was == signing.NeedsApproval {
				t.Errorf("%s %s: allowed, but the base refuses: %v", name, patch, why.Failures())
			}
		}
	}
	if len(child.Steps()) > len(base.Steps()) || len(child.unavailable) < len(base.unavailable) && !strings.Contains(fmt.Sprint(base.unavailable), "notation") {
		t.Errorf("%d steps and %d words that deny, the base has %d and %d", len(child.Steps()), len(child.unavailable), len(base.Steps()), len(base.unavailable))
	}
}
