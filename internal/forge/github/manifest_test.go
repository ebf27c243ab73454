package github

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTheManifestAsksForWhatIsNeededAndNothingElse holds the manifest, the tables
// of the document, and what CheckOnline wants against each other.
func TestTheManifestAsksForWhatIsNeededAndNothingElse(t *testing.T) {
	raw, err := os.ReadFile("../../../deploy/github-app-manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		Permissions map[string]string `json:"default_permissions"`
		Events      []string          `json:"default_events"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, n := range needed {
		want[n.name] = n.level
	}
	if d := cmp.Diff(want, m.Permissions); d != "" {
		t.Errorf("permissions that are needed (-) and of the manifest (+):\n%s", d)
	}
	var wanted []string
	for _, e := range events {
		wanted = append(wanted, e.name)
	}
	slices.Sort(wanted)
	slices.Sort(m.Events)
	if d := cmp.Diff(wanted, m.Events); d != "" {
		t.Errorf("events that are needed (-) and of the manifest (+):\n%s", d)
	}
	doc, err := os.ReadFile("../../../docs/github-app.md")
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (read|write) \\|").FindAllStringSubmatch(string(doc), -1) {
		told[row[1]] = row[2]
	}
	if d := cmp.Diff(want, told); d != "" {
		t.Errorf("permissions that are needed (-) and of docs/github-app.md (+):\n%s", d)
	}
	for _, e := range wanted {
		if !regexp.MustCompile("(?m)^\\| `" + e + "` \\| [^|]+ \\|$").Match(doc) {
			t.Errorf("docs/github-app.md does not have the event %s", e)
		}
	}
}
