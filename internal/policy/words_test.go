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
var reMissing = regexp.MustCompile(`missing|does not say|no such|no answer|has no image|cannot`)

// goldenRules collects, over all golden files, which rules passed, refused, and
// refused because there was no answer.
func goldenRules(t *testing.T) map[string]answered {
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
			for _, p := range set.Policies() {
				effect, why := p.Evaluate(facts)
				var walk func(r signing.Reason)
				walk = func(r signing.Reason) {
					rule := reIndex.ReplaceAllString(r.Rule, "")
					a := out[rule]
					a.allow = a.allow || r.Pass && effect == signing.Allow
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

var reIndex = regexp.MustCompile(`\[[^\]]*\]`)

// TestEveryRuleHasGoldenCasesThatAllowDenyAndCannotTell: beside the documentation
// of each word. What is not in the token cannot be told; a few rules are about
// facts that are always there.
func TestEveryRuleHasGoldenCasesThatAllowDenyAndCannotTell(t *testing.T) {
	alwaysThere := []string{
		"tags",              // no tag is an answer
		"bind.digests_only", // so is no tag that was resolved
	}
	// A token that says no and one that does not say are one answer.
	oneAnswer := []string{"origin.ref_protected", "origin.gitlab.environment_protected"}
	// Words below a rule that are judged together with it, or change what it wants.
	within := map[string]string{
		"origin.github.builder.repository": "origin.github.builder.path", "origin.custom.events": "origin.custom.jenkins.events",
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
			if name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ","); name != "" && name != "sign" && name != "mode" {
				out = append(out, walk(t.Field(i).Type, path+"."+name)...)
			}
		}
		return out
	}
	seen := goldenRules(t)
	for _, word := range append(walk(reflect.TypeFor[rules](), ""), "repositories.name", "repositories.owner_id", "repositories.owner", "repositories.group", "repositories.images", "extends.when") {
		rule := word
		if other, ok := within[word]; ok {
			rule = other
		}
		a := seen[rule]
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
