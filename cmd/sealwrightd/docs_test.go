package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
	"go.yaml.in/yaml/v3"

	"github.com/sealwright/sealwright/internal/approval"
	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/identity"
	"github.com/sealwright/sealwright/internal/key"
	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/method/simple"
	"github.com/sealwright/sealwright/internal/policy"
	"github.com/sealwright/sealwright/internal/policy/policytest"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/submit"
)

// TestMain lets the commands of the documents find the programs on PATH.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"sealwrightd": main,
		"sealwright-ci": func() {
			os.Exit(submit.Main(context.Background(), submit.Process{Args: os.Args[1:], Env: os.Getenv, Stdout: os.Stdout, Stderr: os.Stderr, Version: "test"}))
		},
	})
}

// root is the folder of the repository, seen from this package.
const root = "../.."

// block is a fenced block of a document. Its info string says how it is tried.
type block struct {
	doc        string // path below root
	line       int
	lang, mark string
	file       string // what the document calls it, where it does
	text       string
}

func (b block) String() string { return fmt.Sprintf("%s:%d", b.doc, b.line) }

// kinds lists the info strings that a block may have. There is none for "not
// looked at": a block without one is an error.
var kinds = map[string]func(*testing.T, block){
	"text":                   func(*testing.T, block) {}, // a picture, or what a program prints
	"nginx elsewhere":        func(*testing.T, block) {}, // another program's file
	"json":                   checkJSON,
	"yaml config":            checkConfig,
	"yaml keys":              checkKeys,
	"yaml forges":            checkPart,
	"yaml people":            checkPart,
	"yaml notaries":          checkPart,
	"yaml lookasides":        checkPart,
	"yaml policy":            checkPolicy,
	"yaml cases":             checkCases,
	"yaml repository-policy": checkRepositoryPolicy,
	"yaml job":               checkYAML, // run by TestCommandsOfTheDocumentsRun
	"yaml workflow":          checkWorkflow,
	"yaml gitlab":            checkGitLab,
	"yaml registries.d":      checkYAML,
	"sh tried":               checkShell, // run by TestCommandsOfTheDocumentsRun
	"sh background":          checkShell, // likewise
	"yaml kubernetes":        checkYAML,  // nothing here runs it
	"yaml ci":                checkYAML,  // of a CI system that nothing here runs
	"sh container":           checkShell, // run by .ci/doors
	"sh elsewhere":           checkShell, // run by the conformance suite, or needs what a test does not have: a cluster, a domain
	"sh builds":              checkTargets,
}

func documents(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, pattern := range []string{"README.md", "docs/*.md", "docs/design/*.md"} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(paths) == 0 {
			t.Fatalf("no documents %s: %v", pattern, err)
		}
		for _, p := range paths {
			name, err := filepath.Rel(root, p)
			if err != nil {
				t.Fatal(err)
			}
			out[filepath.ToSlash(name)] = read(t, name)
		}
	}
	return out
}

func read(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func blocks(t *testing.T, doc, text string) []block {
	t.Helper()
	var out []block
	var open *block
	n := 0
	for line := range strings.Lines(text) {
		n++
		info, fence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case fence && open == nil:
			words := append(strings.Fields(info), "", "", "")
			open = &block{doc: doc, line: n, lang: words[0], mark: words[1], file: words[2]}
		case fence:
			out = append(out, *open)
			open = nil
		case open != nil:
			open.text += line
		}
	}
	if open != nil {
		t.Errorf("%s: the block is not closed", open)
	}
	return out
}

func TestEveryBlockOfTheDocumentsIsTried(t *testing.T) {
	tried := map[string]int{}
	for doc, text := range documents(t) {
		for _, b := range blocks(t, doc, text) {
			kind := strings.TrimSpace(b.lang + " " + b.mark)
			check, ok := kinds[kind]
			if !ok {
				t.Errorf("%s: a block marked %q is not tried by anything; see kinds", b, kind)
				continue
			}
			tried[kind]++
			t.Run(b.String(), func(t *testing.T) { check(t, b) })
		}
	}
	for kind := range kinds {
		if tried[kind] == 0 {
			t.Errorf("no document has a block marked %q", kind)
		}
	}
}

func checkJSON(t *testing.T, b block) {
	if !json.Valid([]byte(b.text)) {
		t.Error("is not JSON")
	}
}

func checkYAML(t *testing.T, b block) {
	var v map[string]any
	if err := yaml.Unmarshal([]byte(b.text), &v); err != nil || len(v) == 0 {
		t.Errorf("is not YAML: %v", err)
	}
}

// checkConfig loads everything that a configuration says itself; what it points
// to is tried where a document has it all.
func checkConfig(t *testing.T, b block) {
	doc, err := config.Parse(b.String(), []byte(b.text))
	if err != nil {
		t.Fatal(err)
	}
	var c Config
	if err := doc.Decode(&c); err != nil {
		t.Fatal(err)
	}
	var problems config.Problems
	c.check(func(at, format string, args ...any) { problems = append(problems, doc.Problem(at, format, args...)) })
	problems = append(problems, doc.Place("issuers", identity.Check(c.Issuers))...)
	problems = append(problems, doc.Place("registries", registry.Check(c.Registries))...)
	problems = append(problems, doc.Place("forges", forge.CheckConfig(c.Forges))...)
	problems = append(problems, doc.Place("notaries", dct.Check(c.Notaries))...)
	if err := problems.Err(); err != nil {
		t.Error(err)
	}
}

// checkPart checks forges, people and notaries, which have nothing else in their block.
func checkPart(t *testing.T, b block) {
	doc, err := config.Parse(b.String(), []byte(b.text))
	if err != nil {
		t.Fatal(err)
	}
	var c Config
	if err := doc.Decode(&c); err != nil {
		t.Fatal(err)
	}
	_, problems := approval.NewDirectory(c.People, "people")
	problems = append(problems, forge.CheckConfig(c.Forges)...)
	problems = append(problems, simple.Check(c.Lookasides)...)
	problems = append(problems, dct.Check(c.Notaries)...)
	if len(problems) > 0 || len(c.Forges)+len(c.People)+len(c.Lookasides)+len(c.Notaries) == 0 {
		t.Error(problems)
	}
}

func checkKeys(t *testing.T, b block) {
	if _, err := key.Load(b.String(), []byte(b.text)); err != nil {
		t.Error(err)
	}
}

var reUnavailable = regexp.MustCompile(`cannot evaluate (.+) yet`)

// unavailable returns the words for which the policies of b deny, as the
// documents write them.
func unavailable(t *testing.T, b block) []string {
	t.Helper()
	set, err := policy.Load(map[string][]byte{b.String(): []byte(b.text)})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, p := range set.Policies() {
		_, reasons := p.Evaluate(signing.Facts{})
		for _, leaf := range reasons.Failures() {
			if m := reUnavailable.FindStringSubmatch(leaf.Found); m != nil {
				word := m[1]
				if !strings.Contains(word, ":") {
					word = word[strings.LastIndexByte(word, '.')+1:]
				}
				out = append(out, word)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// checkPolicy loads a policy file. One that denies names every word that does.
func checkPolicy(t *testing.T, b block) {
	words := unavailable(t, b)
	if b.file != "denies" {
		if len(words) > 0 {
			t.Errorf("denies because of %v", words)
		}
		return
	}
	_, section, _ := strings.Cut(read(t, "docs/policy.md"), "## Words that deny")
	section, _, _ = strings.Cut(section, "```")
	var told []string
	for row := range strings.Lines(section) {
		if cell, ok := strings.CutPrefix(row, "| `"); ok {
			cell, _, _ = strings.Cut(cell, " | ")
			told = append(told, strings.Split(strings.TrimSuffix(cell, "`"), "`, `")...)
		}
	}
	slices.Sort(told)
	if diff := cmp.Diff(slices.Compact(told), words); diff != "" {
		t.Errorf("the table (-) and what the example denies for (+) differ:\n%s", diff)
	}
}

func checkRepositoryPolicy(t *testing.T, b block) {
	if _, err := policy.LoadRepositoryPolicy([]byte(b.text)); err != nil {
		t.Error(err)
	}
}

// checkCases runs cases against the first policy of the same document.
func checkCases(t *testing.T, b block) {
	for _, other := range blocks(t, b.doc, read(t, b.doc)) {
		if other.lang+" "+other.mark != "yaml policy" {
			continue
		}
		set, err := policy.Load(map[string][]byte{other.String(): []byte(other.text)})
		if err != nil {
			t.Fatal(err)
		}
		cases, err := policytest.Load(b.String(), []byte(b.text))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range cases.Run(set) {
			if !r.OK {
				t.Errorf("%s: wanted %s, got %s", r.Name, r.Want, r.Got)
			}
		}
		return
	}
	t.Error("there is no policy")
}

func checkShell(t *testing.T, b block) {
	cmd := exec.CommandContext(t.Context(), "bash", "-n")
	cmd.Stdin = strings.NewReader(b.text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("bash cannot read it: %v\n%s", err, out)
	}
}

func checkTargets(t *testing.T, b block) {
	makefile := read(t, "Makefile")
	found := regexp.MustCompile(`(?m)^make ([a-z-]+)`).FindAllStringSubmatch(b.text, -1)
	if len(found) != strings.Count(b.text, "\n") {
		t.Errorf("a line is not `make TARGET`")
	}
	for _, m := range found {
		if !strings.Contains(makefile, "\n"+m[1]+":") {
			t.Errorf("the Makefile has no target %s", m[1])
		}
	}
}

// TestCommandsOfTheDocumentsRun runs the commands of operations.md in order, in
// one shell and one folder, and then the job without containers of
// github-actions.md.
func TestCommandsOfTheDocumentsRun(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "docs") // short: it holds a unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // a folder below TMPDIR that stays is no failure
	local := strings.NewReplacer("/etc/sealwright", dir+"/etc/sealwright", "/var/lib/sealwright", dir+"/var")
	script := "set -euo pipefail\ncd " + dir + "\ntrap 'echo \"failed: $at\" >&2' ERR\ntrap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n"
	for _, b := range append(blocks(t, "docs/operations.md", read(t, "docs/operations.md")), documentedJob(t)) {
		text := local.Replace(b.text)
		switch {
		case b.lang == "yaml" && strings.HasPrefix(b.file, "/"):
			path := local.Replace(b.file)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		case b.lang == "sh" && b.mark == "background":
			script += fmt.Sprintf("at=%s\n%s > %[3]d.out 2>&1 &\nuntil [ -s %[3]d.out ]; do kill -0 $!; sleep 0.1; done\n", b, strings.TrimSpace(text), b.line)
		case b.lang == "sh" && b.mark == "tried":
			script += fmt.Sprintf("at=%s\n%s\n", b, text)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	// A file and not standard input, which the commands could read from.
	if err := os.WriteFile(filepath.Join(dir, "commands"), []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, "bash", filepath.Join(dir, "commands"))
	// Nothing of a CI job that this test may run in. Programs with the race
	// detector would sleep a second before they end.
	cmd.Env = []string{"PATH=" + sealwright(t) + string(os.PathListSeparator) + os.Getenv("PATH"), "HOME=" + dir, "GORACE=atexit_sleep_ms=0"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		"release.pub  valid", "is good: 1 keys, 1 policies, 2 issuers, 1 registries, 0 forges", "is good: 2 keys, 1 policies", "x509.subject: CN=release,O=Acme,ST=WA,C=US", "BEGIN PUBLIC KEY", "\nverified\n", "request.completed",
		"state       completed", "ok   policies.release", "an approver may not: exit code 3", "nothing would be decided otherwise",
		"Sorry, that was not done: you may not approve this.", "by ann via comment",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the commands did not print %q:\n%s", want, out)
		}
	}
}

// documentedJob is the signing step of github-actions.md as a job of the dev world that
// operations.md has started would run it.
func documentedJob(t *testing.T) block {
	t.Helper()
	for _, b := range blocks(t, "docs/github-actions.md", read(t, "docs/github-actions.md")) {
		if b.mark != "job" {
			continue
		}
		var job struct {
			Steps []struct{ Run string }
		}
		if err := yaml.Unmarshal([]byte(b.text), &job); err != nil || len(job.Steps) != 1 {
			t.Fatalf("%s: %d steps, %v", b, len(job.Steps), err)
		}
		run := strings.Replace(job.Steps[0].Run, "https://sign.acme.dev", `"$SERVER"`, 1)
		b.lang, b.mark = "sh", "tried"
		b.text = "eval \"$(sealwrightd dev job --dir world --json '{\"run_id\":\"9100\"}')\"\nIMAGE=$(sealwrightd dev image --dir world --json '{\"repository\":\"payments/documented\"}')\nDIGEST=${IMAGE#*@} IMAGE=${IMAGE%@*}\n" + run + "\n"
		return b
	}
	t.Fatal("docs/github-actions.md has no job")
	return block{}
}

// sealwright builds the third program with the flags of this test, so that all
// but its own package is built already, and returns its folder.
func sealwright(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	args := []string{"build", "-ldflags=-s -w", "-o", dir}
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		args = append(args, "-race")
	}
	cmd := exec.CommandContext(t.Context(), "go", append(args, "../sealwright")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building sealwright: %v\n%s", err, out)
	}
	return dir
}

// quoted returns every word between backquotes, without what comes before its
// last dot.
func quoted(text string) map[string]bool {
	out := map[string]bool{}
	for _, m := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(text, -1) {
		out[m[1]] = true
		out[m[1][strings.LastIndexByte(m[1], '.')+1:]] = true
	}
	return out
}

// tags returns the names of the values that a type has in YAML or JSON, at any
// depth.
func tags(t reflect.Type, tag string) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var out []string
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get(tag), ",")
		below := tags(t.Field(i).Type, tag)
		if name != "" && name != "-" && len(below) == 0 {
			out = append(out, name)
		}
		out = append(out, below...)
	}
	return out
}
