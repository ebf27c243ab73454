package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/sealwright/sealwright/internal/config"
)

// schemaFile is where the schema is kept for editors.
const schemaFile = "../../docs/policy.schema.json"

func schema(t testing.TB) *jsonschema.Schema {
	t.Helper()
	raw, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(SchemaID, doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(SchemaID)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// fits validates YAML as an editor does, for which a date is text.
func fits(t testing.TB, s *jsonschema.Schema, text []byte) error {
	t.Helper()
	var v any
	if err := yaml.Unmarshal(text, &v); err != nil {
		return err
	}
	raw, err := json.Marshal(plainDates(v))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(doc)
}

func plainDates(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = plainDates(v[k])
		}
	case []any:
		for i := range v {
			v[i] = plainDates(v[i])
		}
	case time.Time:
		return v.Format(time.DateOnly)
	}
	return v
}

// everyPolicy returns the policy files of all test data, by name.
func everyPolicy(t testing.TB) map[string]map[string][]byte {
	t.Helper()
	out := map[string]map[string][]byte{"strict": {"strict.yaml": []byte(strict)}}
	for _, dir := range []string{"evaluate", "load"} {
		files, err := filepath.Glob("testdata/" + dir + "/*.txtar")
		if err != nil || len(files) == 0 {
			t.Fatalf("no test data: %v", err)
		}
		for _, f := range files {
			ar, err := txtar.ParseFile(f)
			if err != nil {
				t.Fatal(err)
			}
			out[f] = policies(ar)
		}
	}
	outline, err := os.ReadFile("testdata/outline.yaml")
	if err != nil {
		t.Fatal(err)
	}
	base, err := os.ReadFile("testdata/outline-base.yaml")
	if err != nil {
		t.Fatal(err)
	}
	examples, err := config.ReadTree(MaxFiles, "../../examples/policies")
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(examples, func(name string, _ []byte) bool { return IsTest(name) })
	out["examples"] = examples
	out["outline"] = map[string][]byte{"outline.yaml": outline, "outline-base.yaml": base}
	return out
}

func TestWhatLoadsFitsTheSchema(t *testing.T) {
	s, tried := schema(t), 0
	for name, files := range everyPolicy(t) {
		if _, err := Load(files); err != nil {
			continue
		}
		for file, text := range files {
			tried++
			if err := fits(t, s, text); err != nil {
				t.Errorf("%s %s: %v", name, file, err)
			}
		}
	}
	if tried < 30 {
		t.Errorf("only %d files tried", tried)
	}
}

func TestTheSchemaRefusesWhatAnEditorCanTell(t *testing.T) {
	s := schema(t)
	if err := fits(t, s, []byte(strict)); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{
		{"tags:", "tagz:"}, {"apiVersion: sealwright.dev/v1", "apiVersion: v2"}, {"project: payments", "project: Pay Ments"}, {"project: payments\n", ""}, {`id: "74"`, "id: 74"},
		{`id: "74", `, ""}, {"[push, release]", "[pull_request_target]"}, {"release.yml", "../release.yml"}, {"ref_protected: true", "ref_protected: maybe"}, {"ref_protected: true", "reruns: never"},
		{"method: cosign, key: release-ec", "method: pgp, key: release-ec"}, {"method: cosign, ", ""}, {"name: acme/payments-web", "owner: acme, name: acme/payments-web"}, {"project: payments", "project: payments\nbase: x"},
		{"    tags:", "    freeze: [christmas]\n    tags:"}, {"    tags:", "    bind: {digests: true}\n    tags:"}, {"environment: production", "custom: {github: {events: [push]}}"}, {"key: archive-ec", "key: archive-ec, formats: [new]"},
	} {
		text := strings.Replace(strict, c[0], c[1], 1)
		if text == strict {
			t.Fatalf("no %q", c[0])
		}
		if err := fits(t, s, []byte(text)); err == nil {
			t.Errorf("%s in place of %s fits", c[1], c[0])
		}
		if _, err := Load(map[string][]byte{"f": []byte(text)}); err == nil {
			t.Errorf("%s in place of %s loads", c[1], c[0])
		}
	}
}

// Each word of the form is described, and nothing is that is not a word.
func TestEveryWordOfTheSchemaIsDescribed(t *testing.T) {
	raw, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	var root map[string]any
	if err := json.Unmarshal(raw, &root); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	var walk func(s map[string]any, path string)
	walk = func(s map[string]any, path string) {
		seen[path] = true
		if forms, ok := s["anyOf"].([]any); ok {
			for _, f := range forms {
				walk(f.(map[string]any), path)
			}
		}
		properties, _ := s["properties"].(map[string]any)
		for name, p := range properties {
			at := strings.TrimPrefix(path+"."+name, ".")
			prop := p.(map[string]any)
			if prop["description"] == nil && prop["const"] == nil {
				t.Errorf("%s has no description", at)
			}
			walk(prop, at)
		}
		if items, ok := s["items"].(map[string]any); ok {
			walk(items, path+"[]")
		}
		if values, ok := s["additionalProperties"].(map[string]any); ok {
			walk(values, path)
		}
	}
	walk(root, "")
	for path := range constraints() {
		if !seen[path] {
			t.Errorf("%s is no word", path)
		}
	}
}

// TestGeneratedFilesAreThoseOfTheCode: `make generate` writes them.
func TestGeneratedFilesAreThoseOfTheCode(t *testing.T) {
	raw, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	generated(t, schemaFile, func([]byte) []byte { return raw })
	generated(t, "../../docs/policy.md", func(doc []byte) []byte {
		const begin, end = "<!-- generated: facts -->\n", "<!-- end -->\n"
		before, rest, ok := bytes.Cut(doc, []byte(begin))
		_, after, ok2 := bytes.Cut(rest, []byte(end))
		if !ok || !ok2 {
			t.Fatal("docs/policy.md has no place for the table of facts")
		}
		return slices.Concat(before, []byte(begin+FactsTable()+end), after)
	})
}

func generated(t *testing.T, file string, make func(was []byte) []byte) {
	t.Helper()
	was, err := os.ReadFile(file)
	if err != nil && !*update {
		t.Fatal(err)
	}
	want := make(was)
	if *update {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(was), string(want)); diff != "" {
		t.Errorf("%s is stale: run `make generate`\n%s", file, diff)
	}
}

func TestTheTableOfFactsHasEveryFactOnce(t *testing.T) {
	table := FactsTable()
	for name := range maps.Keys(factSources()) {
		if n := strings.Count(table, "| `"+name+"` |"); n != 1 {
			t.Errorf("%s is there %d times", name, n)
		}
	}
	if n := strings.Count(table, "\n") - 2; n != len(factSources()) {
		t.Errorf("%d rows, %d facts", n, len(factSources()))
	}
	if strings.Contains(table, "?") {
		t.Error(fmt.Errorf("a fact that nobody explains: %s", table))
	}
}
