package submit_test

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/submit"
)

// TestTheReferenceHasTheInputsAndOutputsOfTheProgram holds docs/ci-step.md
// against what the program takes, gives and exits with.
func TestTheReferenceHasTheInputsAndOutputsOfTheProgram(t *testing.T) {
	raw, err := os.ReadFile("../../docs/ci-step.md")
	if err != nil {
		t.Fatal(err)
	}
	// first returns the words in code of the first column of a section's table.
	first := func(section string) (words []string) {
		_, text, ok := strings.Cut(string(raw), "\n## "+section+"\n")
		if !ok {
			t.Fatalf("no section %s", section)
		}
		text, _, _ = strings.Cut(text, "\n## ")
		text, _, _ = strings.Cut(text, "\n### ")
		for _, row := range regexp.MustCompile(`(?m)^\| (`+"`"+`?[a-z0-9][^|]*) \|`).FindAllStringSubmatch(text, -1) {
			for _, w := range regexp.MustCompile("`([a-z-]+)`|^([0-9])$").FindAllStringSubmatch(row[1], -1) {
				words = append(words, w[1]+w[2])
			}
		}
		return slices.Sorted(slices.Values(words))
	}
	want := slices.DeleteFunc(flagNames(t), func(s string) bool { return s == "version" })
	slices.Sort(want)
	if diff := cmp.Diff(want, first("Inputs")); diff != "" {
		t.Errorf("inputs of the program (-) and of the reference (+):\n%s", diff)
	}
	w := newWorld(t)
	w.check(w.main(t.Context()), submit.ExitOK)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(w.outputs())), first("Outputs")); diff != "" {
		t.Errorf("outputs of the program (-) and of the reference (+):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"0", "1", "2", "3", "4", "5"}, first("Exit codes")); diff != "" {
		t.Errorf("exit codes (-) and of the reference (+):\n%s", diff)
	}
}
