package submit_test

import (
	"bytes"
	"maps"
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/sealwright/sealwright/internal/submit"
)

func TestTheActionHasTheInputsAndOutputsOfTheProgram(t *testing.T) {
	raw, err := os.ReadFile("../../action.yml")
	if err != nil {
		t.Fatal(err)
	}
	var action struct {
		Inputs, Outputs map[string]struct{ Description string }
	}
	if err := yaml.Unmarshal(raw, &action); err != nil {
		t.Fatal(err)
	}
	for name, v := range action.Inputs {
		if v.Description == "" {
			t.Errorf("input %s has no description", name)
		}
	}

	// What only other CI systems have, or a shell; and the one input that is no
	// flag, since a password has no place in argv.
	not := []string{"id-token-file", "id-token-variable", "output-file", "summary-file", "version"}
	want := []string{"registry-password"}
	for _, name := range flagNames(t) {
		if !slices.Contains(not, name) {
			want = append(want, name)
		}
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(action.Inputs))); diff != "" {
		t.Errorf("inputs of the program (-) and of action.yml (+):\n%s", diff)
	}

	w := newWorld(t)
	w.check(w.main(t.Context()), submit.ExitOK)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(w.outputs())), slices.Sorted(maps.Keys(action.Outputs))); diff != "" {
		t.Errorf("outputs of the program (-) and of action.yml (+):\n%s", diff)
	}
}

// flagNames returns the flags that the program says it has.
func flagNames(t *testing.T) (names []string) {
	t.Helper()
	var help bytes.Buffer
	if code := submit.Main(t.Context(), submit.Process{Args: []string{"--help"}, Env: func(string) string { return "" }, Stdout: &help, Stderr: &help}); code != submit.ExitOK {
		t.Fatal(code)
	}
	for _, m := range regexp.MustCompile(`(?m)^  --([a-z-]+)`).FindAllStringSubmatch(help.String(), -1) {
		names = append(names, m[1])
	}
	if len(names) == 0 {
		t.Fatal("the help names no flag")
	}
	return names
}
