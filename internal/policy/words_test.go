package policy

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/signing"
)

// answered is what golden files show of one rule.
type answered struct{ allow, deny, cannot bool }

// reMissing matches what a reason says that it found where a fact is missing.
var reMissing = regexp.MustCompile(`missing|did not answer|it states none|does not say|no such|no answer|has no image|cannot`)

// goldenRules collects, over all golden files, which rules passed, refused, and
// refused because there was no answer. With a kind, only builds of it count.
func goldenRules(t *testing.T, kind string) map[string]answered {
	t.Helper()
	out := map[string]answered{}
	for _, file := range glob(t, "testdata/evaluate/*.txtar") {
		ar, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		set, err := Load(policies(ar))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range ar.Files {
			base, _, ok := strings.Cut(f.Name, ": ")
			if !ok {
				continue
			}
			facts := patched(t, base, f.Data)
			if kind != "" && facts.Origin.Kind != kind {
				continue
			}
			for _, p := range set.Policies() {
				effect, why := p.Evaluate(facts)
				var walk func(r signing.Reason)
				walk = func(r signing.Reason) {
					rule := reIndex.ReplaceAllString(r.Rule, "")
					a := out[rule]
					a.allow = a.allow || r.Pass && effect != signing.Deny
					if len(r.Children) == 0 && !r.Pass {
						missing := reMissing.MatchString(r.Found)
						a.cannot, a.deny = a.cannot || missing, a.deny || !missing
					}
					out[rule] = a
					for _, c := range r.Children {
						walk(c)
					}
				}
				walk(why)
			}
		}
	}
	return out
}

// question returns the question to the forge that a rule is part of, "" if none.
func question(rule string) string {
	parts := strings.SplitN(rule, ".", 4)
	if len(parts) < 3 || parts[0]+"."+parts[1] != ruleVerify {
		return ""
	}
	return strings.Join(parts[:3], ".")
}

// TestEachQuestionPassesRefusesAndCannotBeAskedOnEachForge: what the table of
// forges says that GitHub and GitLab answer, by golden cases of builds of each.
func TestEachQuestionPassesRefusesAndCannotBeAskedOnEachForge(t *testing.T) {
	tried := 0
	for kind, others := range map[string][]string{
		kindGitHub: {"origin.github.runner_groups", "origin.github.runner_labels", "origin.github.builder.repository_id"},
		kindGitLab: {"origin.gitlab.runner_tags", "origin.gitlab.variables"},
	} {
		seen := goldenRules(t, kind)
		for _, word := range append(others, forgeAnswers()[kind]...) {
			rule := word
			if !strings.HasPrefix(word, "origin.") && !strings.HasPrefix(word, "bind.") {
				rule = "origin." + word
			}
			a := seen[rule]
			for name, part := range seen {
				// The parts of a question are what refuses; where it is not answered there are none.
				a.deny = a.deny || strings.HasPrefix(name, rule+".") && part.deny
			}
			if q := question(rule); q != "" {
				a.cannot = a.cannot || seen[q].cannot
			}
			tried++
			if !a.allow || !a.deny || !a.cannot {
				t.Errorf("%s of %s: passes %v, refuses %v, cannot be asked %v", word, kind, a.allow, a.deny, a.cannot)
			}
			if !AsksForge(rule) {
				t.Errorf("AsksForge does not know %s", rule)
			}
		}
	}
	if tried < 20 {
		t.Errorf("only %d questions", tried)
	}
}

var reIndex = regexp.MustCompile(`\[[^\]]*\]`)

// TestEveryRuleHasGoldenCasesThatAllowDenyAndCannotTell: beside the documentation
// of each word. What is not in the token cannot be told; a few rules are about
// facts that are always there.
func TestEveryRuleHasGoldenCasesThatAllowDenyAndCannotTell(t *testing.T) {
	alwaysThere := []string{
		"tags",              // no tag is an answer
		"bind.digests_only", // so is no tag that was resolved
	}
	// What is no rule about a build: how it is signed, who is asked, and what for.
	aboutNoBuild := []string{"sign", "mode", "shadows", "approvals", "repository_policy", "report"}
	// A token that says no and one that does not say are one answer.
	oneAnswer := []string{"origin.ref_protected", "origin.gitlab.environment_protected"}
	// Words below a rule that are judged together with it, or change what it wants.
	within := map[string]string{
		"origin.github.builder.repository": "origin.github.builder.path", "origin.custom.events": "origin.custom.jenkins.events",
		"origin.verify.ref.bypass": "origin.verify.ref.no_bypass", "origin.verify.branch.of": "origin.verify.branch.contains",
		"origin.circleci": "origin.circleci.events", "origin.bitbucket": "origin.bitbucket.events",
	}
	var walk func(t reflect.Type, path string) []string
	walk = func(t reflect.Type, path string) []string {
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Map && t.Elem().Kind() == reflect.Struct {
			t = t.Elem()
		}
		if t == reflect.TypeFor[config.Raw]() {
			return nil // denies always
		}
		if t.Kind() != reflect.Struct || t.NumField() == 0 {
			return []string{strings.TrimPrefix(path, ".")}
		}
		var out []string
		for i := range t.NumField() {
			if name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ","); name != "" && !slices.Contains(aboutNoBuild, name) {
				out = append(out, walk(t.Field(i).Type, path+"."+name)...)
			}
		}
		return out
	}
	seen := goldenRules(t, "")
	for _, word := range append(walk(reflect.TypeFor[rules](), ""), "repositories.name", "repositories.owner_id", "repositories.owner", "repositories.group", "repositories.images", "extends.when") {
		rule := word
		if other, ok := within[word]; ok {
			rule = other
		}
		a := seen[rule]
		if q := question(rule); q != "" {
			// A question that is not answered has no parts; its parts are what denies.
			a.cannot = a.cannot || seen[q].cannot
			for name, part := range seen {
				a.deny = a.deny || rule == q && strings.HasPrefix(name, q+".") && part.deny
			}
		}
		if slices.Contains(alwaysThere, rule) {
			a.cannot = true
		}
		if slices.Contains(oneAnswer, rule) {
			a.deny = a.cannot
		}
		if !a.allow || !a.deny || !a.cannot {
			t.Errorf("%s: allows %v, denies %v, cannot tell %v", word, a.allow, a.deny, a.cannot)
		}
	}
	if t.Failed() {
		t.Log(slices.Sorted(maps.Keys(seen)))
	}
}

// TestGoldenFilesNameSectionsThatAreThere: those that say where their rule is
// documented.
func TestGoldenFilesNameSectionsThatAreThere(t *testing.T) {
	anchors := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(read(t, "../../docs/policy.md"), -1) {
		anchors[strings.ReplaceAll(strings.ToLower(m[1]), " ", "-")] = true
	}
	named := 0
	for _, file := range glob(t, "testdata/evaluate/*.txtar") {
		for _, m := range regexp.MustCompile(`docs/policy\.md#([a-z-]+)`).FindAllStringSubmatch(read(t, file), -1) {
			named++
			if !anchors[m[1]] {
				t.Errorf("%s names the section %s", filepath.Base(file), m[1])
			}
		}
	}
	if named == 0 {
		t.Error("no golden file names its documentation")
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
