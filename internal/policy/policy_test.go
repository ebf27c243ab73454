package policy

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/sealwright/sealwright/internal/signing"
)

var strictTime = time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC)

var update = flag.Bool("update", false, "rewrite the golden files under testdata")

// Each archive has policy files and cases. A case is a JSON merge patch (RFC
// 7396) of testdata/BASE.json, named "BASE: what it is", and the tree it gets.
func TestEvaluateGivesTheDecisionsOfTheGoldenFiles(t *testing.T) {
	for _, file := range glob(t, "testdata/evaluate/*.txtar") {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			set, err := Load(policies(ar))
			if err != nil {
				t.Fatal(err)
			}
			for i, f := range ar.Files {
				base, name, ok := strings.Cut(f.Name, ": ")
				if !ok {
					continue
				}
				t.Run(name, func(t *testing.T) {
					got := evaluate(t, set, patched(t, base, f.Data), name == "allowed")
					if *update {
						ar.Files[i+1].Data = []byte(got)
					} else if diff := cmp.Diff(string(ar.Files[i+1].Data), got); diff != "" {
						t.Error(diff)
					}
				})
			}
			if *update {
				write(t, file, ar)
			}
		})
	}
}

func TestLoadReportsTheProblemsOfTheGoldenFiles(t *testing.T) {
	for _, file := range glob(t, "testdata/load/*.txtar") {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Load(policies(ar))
			if err == nil {
				t.Fatal("loaded")
			}
			last := &ar.Files[len(ar.Files)-1]
			if *update {
				last.Data = []byte(err.Error() + "\n")
				write(t, file, ar)
			} else if diff := cmp.Diff(string(last.Data), err.Error()+"\n"); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// evaluate prints the effect and what failed, or the whole tree.
func evaluate(t *testing.T, set *Set, f signing.Facts, whole bool) string {
	t.Helper()
	p, ok := set.Policies()[0], false
	found, err := set.Find(f.Origin, "release")
	for _, q := range set.Policies() {
		if q.Project() == "payments" || q.Project() == "web" {
			p, ok = q, true
		}
	}
	if !ok {
		t.Fatal("no policy")
	}
	effect, why := p.Evaluate(f)
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", effect)
	if err != nil {
		fmt.Fprintf(&b, "find: %v\n", err)
		if effect != signing.Deny {
			t.Error("allowed, but there is no policy to be found")
		}
	} else if found != p && effect != signing.Deny {
		t.Error("allowed by the policy of another project")
	}
	if whole {
		tree(&b, why, 0)
	} else {
		for _, r := range why.Failures() {
			tree(&b, r, 0)
			if r.Fix == "" || r.Wanted == "" || r.Found == "" {
				t.Errorf("a refusal without what was wanted, found and how to fix it: %+v", r)
			}
		}
	}
	if effect != signing.Deny != why.Pass || effect == signing.NeedsApproval && p.ApprovalsWith(f.Forge) == nil || effect == signing.Deny && len(why.Failures()) == 0 {
		t.Errorf("effect %s, but the tree says %v", effect, why.Pass)
	}
	return b.String()
}

func tree(b *strings.Builder, r signing.Reason, depth int) {
	mark := "no "
	if r.Pass {
		mark = "ok "
	}
	fmt.Fprintf(b, "%s%s%s", strings.Repeat("  ", depth), mark, r.Rule)
	for _, part := range []struct{ name, text string }{{"wanted", r.Wanted}, {"found", r.Found}, {"fix", r.Fix}} {
		if part.text != "" {
			fmt.Fprintf(b, "\n%s   %s: %s", strings.Repeat("  ", depth), part.name, part.text)
		}
	}
	b.WriteString("\n")
	for _, c := range r.Children {
		tree(b, c, depth+1)
	}
}

func policies(ar *txtar.Archive) map[string][]byte {
	out := map[string][]byte{}
	for _, f := range ar.Files {
		if strings.HasSuffix(f.Name, ".yaml") {
			out[f.Name] = f.Data
		}
	}
	return out
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no files %s: %v", pattern, err)
	}
	return files
}

func write(t *testing.T, file string, ar *txtar.Archive) {
	t.Helper()
	if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
		t.Fatal(err)
	}
}

// patched returns the facts of testdata/BASE.json with a merge patch applied.
func patched(t testing.TB, base string, patch []byte) signing.Facts {
	t.Helper()
	raw, err := os.ReadFile("testdata/" + base + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var doc, p map[string]any
	for into, data := range map[*map[string]any][]byte{&doc: raw, &p: patch} {
		if err := json.Unmarshal(data, into); err != nil {
			t.Fatal(err)
		}
	}
	merge(doc, p)
	if raw, err = json.Marshal(doc); err != nil {
		t.Fatal(err)
	}
	var f signing.Facts
	if err := json.Unmarshal(raw, &f); err != nil {
		t.Fatal(err)
	}
	return f
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
