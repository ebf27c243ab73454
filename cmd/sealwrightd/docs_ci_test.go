package main

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// action is what the documents' workflows may say to action.yml.
type action struct {
	Inputs, Outputs map[string]any
}

// checkWorkflow holds a workflow against action.yml. actionlint, in .ci/doors,
// holds it against GitHub.
func checkWorkflow(t *testing.T, b block) {
	var a action
	if err := yaml.Unmarshal([]byte(read(t, "action.yml")), &a); err != nil {
		t.Fatal(err)
	}
	type permissions map[string]string
	var w struct {
		Permissions permissions
		Jobs        map[string]struct {
			Permissions permissions
			Steps       []struct {
				Uses, Run string
				With      map[string]any
			}
		}
	}
	if err := yaml.Unmarshal([]byte(b.text), &w); err != nil || len(w.Jobs) == 0 {
		t.Fatalf("no workflow: %v", err)
	}
	anySigns := false
	for name, j := range w.Jobs {
		signs := false
		for _, s := range j.Steps {
			signs = signs || strings.HasPrefix(s.Uses, "sealwright/") || strings.Contains(s.Run, "sealwright-ci")
		}
		if p := j.Permissions; signs && p["id-token"] != "write" && (p != nil || w.Permissions["id-token"] != "write") {
			t.Errorf("job %s may not have an ID token", name)
		}
		anySigns = anySigns || signs
		for _, s := range j.Steps {
			if s.Uses != "" && !strings.HasPrefix(s.Uses, "sealwright/sealwright@v") && !rePinned.MatchString(s.Uses) {
				t.Errorf("%s is not pinned to a commit", s.Uses)
			}
			if !strings.HasPrefix(s.Uses, "sealwright/") {
				continue
			}
			for input := range s.With {
				if a.Inputs[input] == nil {
					t.Errorf("action.yml has no input %s", input)
				}
			}
			for _, input := range []string{"server", "policy"} {
				if s.With[input] == nil {
					t.Errorf("input %s is missing", input)
				}
			}
		}
	}
	if !anySigns {
		t.Error("no job signs")
	}
}

var rePinned = regexp.MustCompile(`^[\w.-]+/[\w.-]+@[0-9a-f]{40}$`)

// checkGitLab holds what is given to a component against its inputs.
// gitlab-ci-local, in .ci/doors, holds the whole against GitLab's schema.
func checkGitLab(t *testing.T, b block) {
	var c struct {
		Include []struct {
			Component string
			Inputs    map[string]any
		}
	}
	if err := yaml.Unmarshal([]byte(b.text), &c); err != nil {
		t.Fatal(err)
	}
	for _, i := range c.Include {
		if i.Component == "" {
			continue
		}
		name := i.Component[strings.LastIndexByte(i.Component, '/')+1:]
		name, _, _ = strings.Cut(name, "@")
		inputs := componentInputs(t, name)
		for input := range i.Inputs {
			if inputs[input] == nil {
				t.Errorf("component %s has no input %s", name, input)
			}
		}
		if i.Inputs["server"] == nil {
			t.Error("input server is missing")
		}
	}
}

func componentInputs(t *testing.T, name string) map[string]any {
	t.Helper()
	var head struct {
		Spec struct{ Inputs map[string]any }
	}
	if err := yaml.NewDecoder(bytes.NewReader([]byte(read(t, "gitlab-ci/templates/"+name+"/template.yml")))).Decode(&head); err != nil {
		t.Fatal(err)
	}
	return head.Spec.Inputs
}

func TestTheExamplesForBothForgesFitActionAndComponent(t *testing.T) {
	for folder, check := range map[string]func(*testing.T, block){"examples/github": checkWorkflow, "examples/gitlab": checkGitLab} {
		paths, err := filepath.Glob(filepath.Join(root, folder, "*.yml"))
		if err != nil || len(paths) < 2 {
			t.Fatalf("%s: %v, %v", folder, paths, err)
		}
		for _, p := range paths {
			t.Run(filepath.Base(p), func(t *testing.T) {
				check(t, block{doc: p, text: read(t, folder+"/"+filepath.Base(p))})
			})
		}
	}
}

func TestTheDocumentsOfTheDoorsNameEveryInputAndOutput(t *testing.T) {
	var a action
	if err := yaml.Unmarshal([]byte(read(t, "action.yml")), &a); err != nil {
		t.Fatal(err)
	}
	for doc, names := range map[string][]map[string]any{
		"docs/github-actions.md": {a.Inputs, a.Outputs},
		"docs/gitlab.md":         {componentInputs(t, "sealwright"), componentInputs(t, "sealwright-binary")},
	} {
		have := quoted(read(t, doc))
		for _, list := range names {
			for name := range list {
				if !have[name] {
					t.Errorf("%s does not name `%s`", doc, name)
				}
			}
		}
	}
}

// The tables of refusals help only whoever finds there what the log says.
func TestTheRefusalsThatTheDocumentsExplainCanBeSaid(t *testing.T) {
	grep := exec.CommandContext(t.Context(), "grep", "-rhE", `Message: |return nil, "|^\+? *(ok|no) +[a-z_.]+$|(ok|no) [a-z]+\.[a-z_.]+`, "internal", "--include=*.go", "--include=*.txtar", "--include=*.txt")
	grep.Dir = root
	said, err := grep.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range []string{"docs/github-actions.md", "docs/gitlab.md"} {
		_, table, ok := strings.Cut(read(t, doc), "\n## When it is refused\n")
		n := 0
		for row := range strings.Lines(table) {
			cells := strings.Split(row, " | ")
			if !ok || len(cells) != 3 || !strings.HasPrefix(row, "| `") {
				continue
			}
			for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[0], -1) {
				n++
				if !bytes.Contains(said, []byte(m[1])) {
					t.Errorf("%s explains %q, which nothing says", doc, m[1])
				}
			}
		}
		if n < 8 {
			t.Errorf("%s explains %d refusals", doc, n)
		}
	}
}
