package github

import (
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/signing"
)

// files puts a tree of files at a commit of a repository, as git would name them,
// and returns the ids of the blobs. A key that begins with a mode makes another
// kind of entry: "120000 link".
func files(f *fake, repo, commit string, tree map[string]string) map[string]string {
	blobs := map[string]string{}
	dirs := map[string][]map[string]string{"": nil}
	for name, text := range tree {
		mode, kind := "100644", "blob"
		if m, rest, ok := strings.Cut(name, " "); ok {
			mode, name = m, rest
			if m == "160000" {
				kind = "commit"
			}
		}
		id := gitID("blob", text)
		blobs[name] = id
		f.set("GET "+repo+"/git/blobs/"+id, says(map[string]any{"sha": id, "size": len(text), "encoding": "base64", "content": base64.StdEncoding.EncodeToString([]byte(text)) + "\n"}))
		parts := strings.Split(name, "/")
		for i := range parts[:len(parts)-1] {
			dir, parent := strings.Join(parts[:i+1], "/"), strings.Join(parts[:i], "/")
			if _, ok := dirs[dir]; !ok {
				dirs[dir] = nil
				dirs[parent] = append(dirs[parent], map[string]string{"path": parts[i], "mode": "040000", "type": "tree", "sha": gitID("tree", commit+dir)})
			}
		}
		dir := strings.Join(parts[:len(parts)-1], "/")
		dirs[dir] = append(dirs[dir], map[string]string{"path": parts[len(parts)-1], "mode": mode, "type": kind, "sha": id})
	}
	for dir, entries := range dirs {
		id := commit
		if dir != "" {
			id = gitID("tree", commit+dir)
		}
		if entries == nil {
			entries = []map[string]string{}
		}
		f.set("GET "+repo+"/git/trees/"+id, says(map[string]any{"sha": id, "tree": entries, "truncated": false}))
	}
	return blobs
}

func gitID(kind, text string) string {
	h := sha1.Sum(fmt.Appendf(nil, "%s %d\x00%s", kind, len(text), text))
	return hex.EncodeToString(h[:])
}

const workflowFile = ".github/workflows/build.yml"

func TestTheWorkflowFilesAreToldByTheirBlobs(t *testing.T) {
	f, c := world(t)
	q := signing.ForgeQuestion{WorkflowFile: true}
	blobs := files(f, web, sha, map[string]string{workflowFile: "on: push\n", "README.md": "x"})
	one := signing.BlobFact{Path: workflowFile, Commit: sha, Blob: blobs[workflowFile]}
	if d := cmp.Diff(&signing.WorkflowFileFacts{Config: one, Signer: one}, question(t, c, origin(), q).Workflow); d != "" {
		t.Error(d)
	}
	// The job may be defined in another repository.
	o := origin()
	o.BuildSignerURI, o.BuildSignerDigest = "https://github.com/acme/builders/.github/workflows/image.yml@refs/tags/v1", head
	theirs := files(f, "/repos/acme/builders", head, map[string]string{".github/workflows/image.yml": "on: workflow_call\n"})
	want := &signing.WorkflowFileFacts{Config: one, Signer: signing.BlobFact{Path: ".github/workflows/image.yml", Commit: head, Blob: theirs[".github/workflows/image.yml"]}}
	if d := cmp.Diff(want, question(t, c, o, q).Workflow); d != "" {
		t.Error(d)
	}
}

func TestAWorkflowThatIsNoFileOrNotThereIsUnknown(t *testing.T) {
	for name, c := range map[string]struct {
		tree map[string]string
		want string
	}{
		"absent":         {map[string]string{"README.md": "x"}, "no file"},
		"a link":         {map[string]string{"120000 " + workflowFile: "../../x"}, "symbolic link"},
		"in a submodule": {map[string]string{"160000 .github": "x"}, "submodule"},
		"in a link":      {map[string]string{"120000 .github": "x"}, "symbolic link"},
		"a directory":    {map[string]string{workflowFile + "/x": "x"}, "directory"},
	} {
		f, cl := world(t)
		files(f, web, sha, c.tree)
		facts := question(t, cl, origin(), signing.ForgeQuestion{WorkflowFile: true})
		if facts.Workflow != nil || !strings.Contains(facts.Unknown[signing.PartWorkflowFile], c.want) {
			t.Errorf("%s: %+v", name, facts)
		}
	}
	_, c := world(t)
	for name, uri := range map[string]string{"another forge": "https://gitlab.com/acme/web/x.yml@main", "no file": "https://github.com/acme/web", "nothing": ""} {
		o := origin()
		o.BuildConfigURI = uri
		if why := question(t, c, o, signing.ForgeQuestion{WorkflowFile: true}).Unknown[signing.PartWorkflowFile]; why == "" {
			t.Errorf("%s: not unknown", name)
		}
	}
}

func TestWorkflowFilesCannotBeAsked(t *testing.T) {
	set := func(f *fake) { files(f, web, sha, map[string]string{workflowFile: "on: push\n"}) }
	cannot(t, "GET "+web+"/git/trees/"+sha, "contents: read", signing.PartWorkflowFile, origin(), signing.ForgeQuestion{WorkflowFile: true}, set)
}

func policies(f *fake, tree map[string]string) map[string]string {
	f.set("GET "+web+"/git/ref/heads/main", says(fmt.Sprintf(`{"ref":"refs/heads/main","object":{"type":"commit","sha":%q}}`, head)))
	return files(f, web, head, tree)
}

var askPolicy = signing.ForgeQuestion{PolicyFile: true}

func TestTheRepositorysPolicyIsReadFromItsDefaultBranch(t *testing.T) {
	f, c := world(t)
	policies(f, map[string]string{policyPath: "version: 1\n"})
	got := question(t, c, origin(), askPolicy).PolicyFile
	want := &signing.PolicyFileFacts{Branch: "main", Commit: head, Exists: true, Text: []byte("version: 1\n"), Digest: signing.DigestOf([]byte("version: 1\n"))}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestAPolicyIsAbsentOnlyWhereTheTreeWasListedWhole(t *testing.T) {
	for name, tree := range map[string]map[string]string{
		"no directory": {"README.md": "x"}, "another file": {".sealwright/other.yml": "x"}, "another case": {".Sealwright/policy.yml": "x"},
	} {
		f, c := world(t)
		policies(f, tree)
		if got := question(t, c, origin(), askPolicy).PolicyFile; got == nil || got.Exists || got.Commit != head {
			t.Errorf("%s: %+v", name, got)
		}
	}
	f, c := world(t)
	policies(f, map[string]string{"README.md": "x"})
	tree := "GET " + web + "/git/trees/" + head
	f.set(tree, says(`{"tree":[],"truncated":true}`))
	if facts := question(t, c, origin(), askPolicy); facts.PolicyFile != nil || !strings.Contains(facts.Unknown[signing.PartPolicyFile], "too large") {
		t.Errorf("a tree that is not whole: %+v", facts)
	}
	f.set(tree, fails(404, "Not Found"))
	if facts := question(t, c, origin(), askPolicy); facts.PolicyFile != nil || facts.Unknown[signing.PartPolicyFile] == "" {
		t.Errorf("a tree that is not found: %+v", facts)
	}
	for name, body := range map[string]string{"no list": `{"truncated":false}`, "does not say": `{"tree":[]}`} {
		f.set(tree, says(body))
		if _, err := c.Ask(t.Context(), origin(), nil, askPolicy); !signing.Temporary(err) {
			t.Errorf("%s: error = %v", name, err)
		}
	}
}

func TestAPolicyThatIsALinkASubmoduleOrTooLargeIsAnError(t *testing.T) {
	for name, c := range map[string]struct {
		tree map[string]string
		want string
	}{
		"a link":              {map[string]string{"120000 " + policyPath: "../x"}, "symbolic link"},
		"a linked directory":  {map[string]string{"120000 .sealwright": "x"}, "symbolic link"},
		"a submodule":         {map[string]string{"160000 .sealwright": "x"}, "submodule"},
		"a file in its place": {map[string]string{".sealwright": "x"}, "a file"},
		"too large":           {map[string]string{policyPath: strings.Repeat("#", maxFile+1)}, "larger"},
	} {
		f, cl := world(t)
		policies(f, c.tree)
		facts := question(t, cl, origin(), askPolicy)
		if facts.PolicyFile != nil || !strings.Contains(facts.Unknown[signing.PartPolicyFile], c.want) {
			t.Errorf("%s: %+v", name, facts)
		}
	}
	f, c := world(t)
	blobs := policies(f, map[string]string{policyPath: "version: 1\n"})
	f.set("GET "+web+"/git/blobs/"+blobs[policyPath], says(map[string]any{"encoding": "base64", "content": "bWluZQ=="}))
	if _, err := c.Ask(t.Context(), origin(), nil, askPolicy); !signing.Temporary(err) {
		t.Errorf("content that does not have the id: %v", err)
	}
}

func TestAPolicyCannotBeAsked(t *testing.T) {
	set := func(f *fake) { policies(f, map[string]string{policyPath: "version: 1\n"}) }
	blob := gitID("blob", "version: 1\n")
	for _, route := range []string{"/git/ref/heads/main", "/git/trees/" + head, "/git/blobs/" + blob} {
		cannot(t, "GET "+web+route, "contents: read", signing.PartPolicyFile, origin(), askPolicy, set)
	}
	f, c := world(t)
	f.set("GET "+web+"/git/ref/heads/main", fails(409, "Git Repository is empty."))
	if why := question(t, c, origin(), askPolicy).Unknown[signing.PartPolicyFile]; !strings.Contains(why, "empty") {
		t.Errorf("an empty repository: %q", why)
	}
}

var askInputs = signing.ForgeQuestion{Inputs: true}

func TestInputsAreThoseThatTheWorkflowDeclares(t *testing.T) {
	for name, c := range map[string]struct {
		event, file string
		want        []string
		unknown     string
	}{
		"push":                   {"push", "", []string{}, ""},
		"a pull request":         {"pull_request", "", []string{}, ""},
		"dispatch with two":      {"workflow_dispatch", "on:\n  push:\n  workflow_dispatch:\n    inputs:\n      version: {type: string}\n      dry-run: {type: boolean}\njobs: {}\n", []string{"dry-run", "version"}, ""},
		"dispatch, no inputs":    {"workflow_dispatch", "on:\n  workflow_dispatch:\njobs: {}\n", []string{}, ""},
		"dispatch, a list":       {"workflow_dispatch", "on: [push, workflow_dispatch]\n", []string{}, ""},
		"dispatch, a word":       {"workflow_dispatch", "on: workflow_dispatch\n", []string{}, ""},
		"not declared":           {"workflow_dispatch", "on: push\n", nil, "not started by workflow_dispatch"},
		"not in the list":        {"workflow_dispatch", "on: [push]\n", nil, "not started by workflow_dispatch"},
		"not in the mapping":     {"workflow_dispatch", "on: {push: }\n", nil, "not started by workflow_dispatch"},
		"inputs of another kind": {"workflow_dispatch", "on: {workflow_dispatch: {inputs: [a]}}\n", nil, "no mapping"},
		"twice":                  {"workflow_dispatch", "on: workflow_dispatch\non: push\n", nil, "cannot be told"},
		"an alias":               {"workflow_dispatch", "x: &a {y: 1}\non: {workflow_dispatch: {inputs: *a}}\n", nil, "cannot be told"},
		"two documents":          {"workflow_dispatch", "on: workflow_dispatch\n---\non: push\n", nil, "cannot be told"},
		"no YAML":                {"workflow_dispatch", "{", nil, "cannot be told"},
		"repository_dispatch":    {"repository_dispatch", "", nil, "repository_dispatch"},
		"a comment":              {"issue_comment", "", nil, "issue_comment"},
		"nothing":                {"", "", nil, "does not name"},
	} {
		f, cl := world(t)
		files(f, web, sha, map[string]string{workflowFile: c.file})
		o := origin()
		o.BuildTrigger = c.event
		facts := question(t, cl, o, askInputs)
		if c.unknown != "" {
			if facts.Inputs != nil || !strings.Contains(facts.Unknown[signing.PartInputs], c.unknown) {
				t.Errorf("%s: %+v, want unknown: %s", name, facts, c.unknown)
			}
		} else if facts.Inputs == nil || facts.Inputs.Names == nil || !slices.Equal(facts.Inputs.Names, c.want) {
			t.Errorf("%s: %+v %v, want %q", name, facts.Inputs, facts.Unknown, c.want)
		}
	}
}

func TestInputsCannotBeAsked(t *testing.T) {
	o := origin()
	o.BuildTrigger = "workflow_dispatch"
	text := "on: workflow_dispatch\n"
	set := func(f *fake) { files(f, web, sha, map[string]string{workflowFile: text}) }
	for _, route := range []string{"/git/trees/" + sha, "/git/blobs/" + gitID("blob", text)} {
		cannot(t, "GET "+web+route, "contents: read", signing.PartInputs, o, askInputs, set)
	}
}

func checksOf(f *fake, runs, statuses string) {
	f.set("GET "+web+"/commits/"+sha+"/check-runs", says(`{"total_count":1,"check_runs":[`+runs+`]}`))
	f.set("GET "+web+"/commits/"+sha+"/statuses", says(`[`+statuses+`]`))
}

func run(id int, name, app, status, conclusion string) string {
	c, _ := json.Marshal(conclusion)
	if conclusion == "" {
		c = []byte("null")
	}
	return fmt.Sprintf(`{"id":%d,"name":%q,"head_sha":%q,"status":%q,"conclusion":%s,"started_at":"2026-01-01T00:00:00Z","completed_at":"2026-01-02T00:00:00Z","app":{"id":%d,"slug":%q}}`, id, name, sha, status, c, len(app), app)
}

func TestTheNewestCheckOfEachNameAndAppIsTold(t *testing.T) {
	f, c := world(t)
	checksOf(f, strings.Join([]string{
		run(1, "scan", "trivy", "completed", "success"), run(3, "scan", "trivy", "completed", "failure"), run(2, "scan", "trivy", "completed", "success"),
		run(4, "scan", "github-actions", "completed", "success"), run(5, "test", "github-actions", "in_progress", ""),
		run(6, "lint", "github-actions", "completed", "neutral"), run(7, "docs", "github-actions", "completed", "skipped"),
	}, ","), `{"id":9,"state":"success","context":"CI/Build","created_at":"2026-01-03T00:00:00Z","creator":{"id":8,"login":"ci[bot]","type":"Bot"}},{"id":8,"state":"failure","context":"ci/build","creator":{"id":8,"login":"ci[bot]","type":"Bot"}},{"id":10,"state":"pending","context":"deploy","creator":null}`)
	got := map[string]string{}
	for _, r := range question(t, c, origin(), signing.ForgeQuestion{Checks: true}).Checks.Checks {
		got[r.Kind+" "+r.Name+" "+r.App] = fmt.Sprint(r.Done, r.OK, r.State, r.AppID)
	}
	want := map[string]string{
		"check_run scan trivy": "true falsefailure5", "check_run scan github-actions": "true truesuccess14", "check_run test github-actions": "false falsein_progress14",
		"check_run lint github-actions": "true falseneutral14", "check_run docs github-actions": "true falseskipped14",
		"status CI/Build ci[bot]": "true truesuccess8", "status deploy ": "false falsepending",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestNamedChecksAreAskedForByName(t *testing.T) {
	f, c := world(t)
	checksOf(f, run(5, "other", "x", "completed", "success"), `{"id":1,"state":"success","context":"other"},{"id":2,"state":"success","context":"Scan"}`)
	f.set("GET "+web+"/commits/"+sha+"/check-runs?check_name=scan&filter=latest&per_page=100", says(`{"check_runs":[`+run(1, "scan", "trivy", "completed", "success")+`]}`))
	got := question(t, c, origin(), signing.ForgeQuestion{Checks: true, CheckNames: []string{"scan"}}).Checks.Checks
	if len(got) != 2 || got[0].Name != "scan" || !got[0].OK || got[1].Name != "Scan" || got[1].Kind != "status" {
		t.Errorf("%+v", got)
	}
	checksOf(f, "", "")
	f.set("GET "+web+"/commits/"+sha+"/check-runs?check_name=scan&filter=latest&per_page=100", says(`{"check_runs":[]}`))
	if got := question(t, c, origin(), signing.ForgeQuestion{Checks: true, CheckNames: []string{"scan"}}).Checks; got.Checks == nil || len(got.Checks) != 0 {
		t.Errorf("no check is a fact: %+v", got)
	}
}

func TestACheckOfAnotherCommitOrOfNoAppIsNone(t *testing.T) {
	f, c := world(t)
	checksOf(f, strings.Replace(run(1, "scan", "x", "completed", "success"), sha, head, 1)+","+strings.Replace(run(2, "scan", "x", "completed", "success"), `{"id":1,"slug":"x"}`, "null", 1), "")
	if got := question(t, c, origin(), signing.ForgeQuestion{Checks: true}).Checks; len(got.Checks) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestChecksCannotBeAsked(t *testing.T) {
	set := func(f *fake) { checksOf(f, run(1, "scan", "x", "completed", "success"), "") }
	q := signing.ForgeQuestion{Checks: true}
	cannot(t, "GET "+web+"/commits/"+sha+"/check-runs", "checks: read", signing.PartChecks, origin(), q, set)
	cannot(t, "GET "+web+"/commits/"+sha+"/statuses", "statuses: read", signing.PartChecks, origin(), q, set)
	f, c := world(t)
	f.set("GET "+web+"/commits/"+sha+"/check-runs", http.NotFound)
	if why := question(t, c, origin(), q).Unknown[signing.PartChecks]; why == "" {
		t.Error("a commit that is not there has no checks")
	}
}
