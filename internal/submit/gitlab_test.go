package submit_test

import (
	"bytes"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

// component reads a GitLab component: its inputs, and its one job.
func component(t *testing.T, name string) (inputs map[string]map[string]any, job map[string]any) {
	t.Helper()
	raw, err := os.ReadFile("../../gitlab-ci/templates/" + name + "/template.yml")
	if err != nil {
		t.Fatal(err)
	}
	d := yaml.NewDecoder(bytes.NewReader(raw))
	var head struct {
		Spec struct{ Inputs map[string]map[string]any }
	}
	var jobs map[string]map[string]any
	if err := d.Decode(&head); err != nil {
		t.Fatal(err)
	}
	if err := d.Decode(&jobs); err != nil {
		t.Fatal(err)
	}
	if len(jobs) != 1 || jobs["$[[ inputs.job ]]"] == nil {
		t.Fatalf("%s: %v", name, slices.Collect(maps.Keys(jobs)))
	}
	return head.Spec.Inputs, jobs["$[[ inputs.job ]]"]
}

func TestEveryInputOfAComponentReachesTheProgramAndNoOtherVariableDoes(t *testing.T) {
	flags := flagNames(t)
	// What the job uses itself.
	own := []string{"job", "stage", "image", "download", "sha256-amd64", "sha256-arm64"}
	for _, name := range []string{"sealwright", "sealwright-binary"} {
		inputs, job := component(t, name)
		variables, ok := job["variables"].(map[string]any)
		if !ok {
			t.Fatalf("%s has no variables", name)
		}
		text, err := yaml.Marshal(job)
		if err != nil {
			t.Fatal(err)
		}
		for input, spec := range inputs {
			if spec["description"] == nil {
				t.Errorf("%s: input %s has no description", name, input)
			}
			want := "$[[ inputs." + input + " ]]"
			if !slices.Contains(own, input) {
				if !slices.Contains(flags, input) {
					t.Errorf("%s: input %s is not a flag of the program", name, input)
				}
				if got := variables["SEALWRIGHT_"+strings.ToUpper(strings.ReplaceAll(input, "-", "_"))]; got != want {
					t.Errorf("%s: input %s goes to %v", name, input, got)
				}
			}
			if input != "job" && !strings.Contains(string(text), want) {
				t.Errorf("%s: input %s is not used", name, input)
			}
		}
		for _, m := range regexp.MustCompile(`\$\[\[ inputs\.([a-z0-9-]+) \]\]`).FindAllStringSubmatch(string(text), -1) {
			if inputs[m[1]] == nil {
				t.Errorf("%s uses input %s, which it does not have", name, m[1])
			}
		}
	}
}

func TestTheIncludeDoesWhatTheComponentsDo(t *testing.T) {
	raw, err := os.ReadFile("../../gitlab-ci/sealwright.gitlab-ci.yml")
	if err != nil {
		t.Fatal(err)
	}
	var include map[string]map[string]any
	if err := yaml.Unmarshal(raw, &include); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sealwright", "sealwright-binary"} {
		inputs, job := component(t, name)
		// An input is a variable of the include, or its default where a job overrides it.
		delete(job, "variables")
		text, err := yaml.Marshal(job)
		if err != nil {
			t.Fatal(err)
		}
		for old, now := range map[string]string{
			"$[[ inputs.server ]]": "$SEALWRIGHT_SERVER", "$[[ inputs.image ]]": "$SEALWRIGHT_IMAGE", "$[[ inputs.stage ]]": inputs["stage"]["default"].(string),
		} {
			text = bytes.ReplaceAll(text, []byte(old), []byte(now))
		}
		var want map[string]any
		if err := yaml.Unmarshal(text, &want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, include["."+name]); diff != "" {
			t.Errorf("the component (-) and .%s of the include (+):\n%s", name, diff)
		}
		for input, variable := range map[string]string{"image": "SEALWRIGHT_IMAGE", "download": "SEALWRIGHT_DOWNLOAD", "sha256-amd64": "SEALWRIGHT_SHA256_AMD64", "sha256-arm64": "SEALWRIGHT_SHA256_ARM64"} {
			if spec := inputs[input]; spec != nil && spec["default"] != include["variables"][variable] {
				t.Errorf("%s: %s is %v in the component, %s is %v in the include", name, input, spec["default"], variable, include["variables"][variable])
			}
		}
	}
}

func TestWhatGitLabDownloadsIsNotRunBeforeItsChecksumIsRight(t *testing.T) {
	_, job := component(t, "sealwright-binary")
	lines, ok := job["before_script"].([]any)
	if !ok || len(lines) != 1 {
		t.Fatalf("before_script %v", job["before_script"])
	}
	script := lines[0].(string)
	sum, run := strings.Index(script, "sha256sum -c - || exit 1"), strings.Index(script, "chmod +x")
	if sum < 0 || run < sum || !strings.Contains(script, `"${#sum}" != 64`) {
		t.Errorf("the checksum does not come before what makes it a program:\n%s", script)
	}
}
