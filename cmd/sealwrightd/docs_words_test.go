package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/key"
	"github.com/sealwright/sealwright/internal/signing"
)

// matches returns what the expression finds in files of the tree, the first
// group of each.
func matches(t *testing.T, expr string, globs ...string) []string {
	t.Helper()
	var out []string
	for _, glob := range globs {
		paths, err := filepath.Glob(filepath.Join(root, glob))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			raw, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(p, "_test.go") && !strings.HasSuffix(glob, "_test.go") {
				continue
			}
			for _, m := range regexp.MustCompile(expr).FindAllSubmatch(raw, -1) {
				out = append(out, string(m[1]))
			}
		}
	}
	if len(out) == 0 {
		t.Fatalf("%s finds nothing in %v", expr, globs)
	}
	return out
}

func TestTheDocumentsNameEverySettingWordFactMetricAndStep(t *testing.T) {
	for _, c := range []struct {
		doc, what string
		words     []string
	}{
		{"docs/operations.md", "setting of sealwright.yaml", tags(reflect.TypeFor[Config](), "yaml")},
		{"docs/operations.md", "setting of keys.yaml", tags(reflect.TypeFor[key.File](), "yaml")},
		{"docs/operations.md", "metric", matches(t, `"(sealwright_[a-z_]+)"`, "internal/server/metrics.go")},
		{"docs/policy.md", "word of a policy", matches(t, "yaml:\"([a-z_A-Z]+)\"", "internal/policy/file.go", "internal/policy/forms.go")},
		{"docs/policy.md", "fact", tags(reflect.TypeFor[signing.Facts](), "json")},
		{"docs/signing-cycle.md", "transaction", matches(t, `(?:[uU]pdate|moveTask)\((?:ctx|context\.WithoutCancel\(ctx\)), "([a-z ]+)"`, "internal/workflow/*.go", "internal/store/*.go")},
		{"docs/signing-cycle.md", "kind of event", matches(t, `= "([a-z]+\.[a-z_]+)"`, "internal/audit/event.go")},
	} {
		have := quoted(read(t, c.doc))
		for _, w := range c.words {
			if !have[w] {
				t.Errorf("%s does not have the %s `%s`", c.doc, c.what, w)
			}
		}
	}
}

func TestTestsAndLinksThatTheDocumentsNameAreThere(t *testing.T) {
	tests := "\n" + strings.Join(matches(t, `(?m)^func ((?:Test|Fuzz)\w+)`, "internal/*_test.go", "internal/*/*_test.go", "internal/*/*/*_test.go", "internal/*/*/*/*_test.go", "internal/*/*/methodtest.go", "cmd/*/*_test.go"), "\n") + "\n"
	reTest, reLink := regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w*)(\\.\\.\\.)?`"), regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	for doc, text := range documents(t) {
		for _, m := range reTest.FindAllStringSubmatch(text, -1) {
			end := "\n"
			if m[2] != "" {
				end = ""
			}
			if !strings.Contains(tests, "\n"+m[1]+end) {
				t.Errorf("%s names %s, which is not there", doc, m[1])
			}
		}
		for _, m := range reLink.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(doc), m[1])); err != nil {
				t.Errorf("%s links to %s, which is not there", doc, m[1])
			}
		}
	}
}

func TestABlockThatNobodyTriesIsNoticed(t *testing.T) {
	got := blocks(t, "x.md", "a\n```sh tried\nls\n```\n\n```yaml policy /p.yaml\nb: 1\n```\n```\nplain\n```\n")
	want := []block{{"x.md", 2, "sh", "tried", "", "ls\n"}, {"x.md", 6, "yaml", "policy", "/p.yaml", "b: 1\n"}, {"x.md", 9, "", "", "", "plain\n"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(block{})); diff != "" {
		t.Error(diff)
	}
	if kinds[""] != nil {
		t.Error("a block without a mark passes")
	}
	if bytes.Count([]byte(fmt.Sprint(tags(reflect.TypeFor[Config](), "yaml"))), []byte("jwks_file")) != 1 {
		t.Error("tags does not descend")
	}
}
