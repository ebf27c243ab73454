package github

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	sha  = "1f0c3e7d9a6b5c4d3e2f1a0b9c8d7e6f5a4b3c2d" // the build's commit
	head = "2a1b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d" // of main, later
)

// origin is a push build of acme/web at sha on main.
func origin() signing.Origin {
	return signing.Origin{
		Forge: "github.com", Kind: "github", SourceRepository: "acme/web", SourceRepositoryIdentifier: webID,
		SourceRepositoryURI: "https://github.com/acme/web", SourceRepositoryDigest: sha, SourceRepositoryRef: "refs/heads/main",
		BuildConfigURI: "https://github.com/acme/web/.github/workflows/build.yml@refs/heads/main", BuildConfigDigest: sha,
		BuildSignerURI: "https://github.com/acme/web/.github/workflows/build.yml@refs/heads/main", BuildSignerDigest: sha,
		BuildTrigger: "push", RunID: "30433642", RunAttempt: "1", JobID: "399444496", DeploymentEnvironment: "staging",
		RunInvocationURI: "https://github.com/acme/web/actions/runs/30433642/attempts/1",
	}
}

// recorded reads one of GitHub's own examples.
func recorded(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// edited is a recorded example with fields changed.
func edited(t *testing.T, name string, change func(map[string]any)) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(recorded(t, name)), &v); err != nil {
		t.Fatal(err)
	}
	change(v)
	return v
}

func question(t *testing.T, c *Client, o signing.Origin, q signing.ForgeQuestion) *signing.ForgeFacts {
	t.Helper()
	f, err := c.Ask(t.Context(), o, nil, q)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// cannot holds what every question does where the forge cannot be asked: what
// GitHub refuses is Unknown and names the permission, what may pass is an error.
func cannot(t *testing.T, route, permission, part string, o signing.Origin, q signing.ForgeQuestion, set func(*fake)) {
	t.Helper()
	f, c := world(t)
	set(f)
	f.set(route, fails(403, "Resource not accessible by integration"))
	facts := question(t, c, o, q)
	if why := facts.Unknown[part]; !strings.Contains(why, permission) || !strings.Contains(why, "not accessible by integration") {
		t.Errorf("403 to %s: Unknown[%s] = %q, want it to name %s", route, part, why, permission)
	}
	f.set(route, fails(401, "Bad credentials"))
	if why := question(t, c, o, q).Unknown[part]; !strings.Contains(why, "credentials") {
		t.Errorf("401 to %s: %q", route, why)
	}
	for name, h := range map[string]http.HandlerFunc{
		"500":         fails(500, "oops"),
		"502":         fails(502, "<html>"),
		"no JSON":     says("<html>"),
		"nothing":     says(""),
		"half":        says(`{"id":1,`),
		"another one": says(`{}`),
		"slow":        func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	} {
		f, c := world(t, func(_ *forge.Config, o *Options) { o.Outbound.Timeout = 200 * time.Millisecond })
		set(f)
		f.set(route, h)
		if facts, err := c.Ask(t.Context(), o, nil, q); !signing.Temporary(err) || facts != nil {
			t.Errorf("%s from %s: %v, %v; want a temporary error and no facts", name, route, facts, err)
		}
	}
}

func runs(t *testing.T, f *fake) {
	f.set("GET "+web+"/actions/runs/30433642/attempts/1", says(edited(t, "run_attempt.json", func(v map[string]any) {
		v["status"], v["head_sha"] = "in_progress", sha
		v["triggering_actor"].(map[string]any)["id"] = 2
	})))
	f.set("GET "+web+"/actions/runs/30433642/attempts/1/jobs", says(strings.Replace(recorded(t, "jobs.json"), `"status": "completed",`, `"status": "in_progress",`, 1)))
}

func TestTheRunIsToldAsTheForgeHasIt(t *testing.T) {
	f, c := world(t)
	runs(t, f)
	got := question(t, c, origin(), signing.ForgeQuestion{Run: true}).Run
	want := &signing.RunFacts{
		RepositoryID: webID, HeadRepositoryID: "217723378", ID: "30433642", Attempt: "1", Commit: sha, Ref: "main", Event: "push",
		Path: ".github/workflows/build.yml", Status: "in_progress", Running: true,
		Actor: signing.Account{Forge: "github.com", ID: "1", Login: "octocat"}, Restarter: signing.Account{Forge: "github.com", ID: "2", Login: "octocat"},
		Referenced: []signing.WorkflowRef{
			{Path: "octocat/Hello-World/.github/workflows/deploy.yml", SHA: "86e8bc9ecf7d38b1ed2d2cfb8eb87ba9b35b01db", Ref: "refs/heads/main"},
			{Path: "octo-org/octo-repo/.github/workflows/report.yml", SHA: "79e9790903e1c3373b1a3e3a941d57405478a232", Ref: "refs/tags/v2"},
			{Path: "octo-org/octo-repo/.github/workflows/secure.yml", SHA: "1595d4b6de6a9e9751fb270a41019ce507d4099e"},
		},
		JobID: "399444496", JobRunning: true, RunnerID: "1", RunnerGroup: "my runner group", RunnerLabels: []string{"self-hosted", "foo", "bar"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestARunThatEndedOrAnotherJobIsNotRunning(t *testing.T) {
	f, c := world(t)
	runs(t, f)
	f.set("GET "+web+"/actions/runs/30433642/attempts/1", says(recorded(t, "run_attempt.json")))
	o := origin()
	o.JobID = "99444496" // the end of the job's id, and not it
	got := question(t, c, o, signing.ForgeQuestion{Run: true}).Run
	if got.Running || got.JobRunning || got.JobID != "" || got.RunnerGroup != "" || got.Status != "queued" || got.Commit == sha {
		t.Errorf("%+v", got)
	}
}

func TestARunThatIsNotThereIsUnknown(t *testing.T) {
	_, c := world(t)
	facts := question(t, c, origin(), signing.ForgeQuestion{Run: true})
	if facts.Run != nil || !strings.Contains(facts.Unknown[signing.PartRun], "no such thing") {
		t.Errorf("%+v", facts)
	}
}

func TestAJobBeyondTheFirstPageIsFound(t *testing.T) {
	f, c := world(t)
	runs(t, f)
	jobs := web + "/actions/runs/30433642/attempts/1/jobs"
	second := recorded(t, "jobs.json")
	f.set("GET "+jobs+"?per_page=100", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", fmt.Sprintf(`<http://%s%s?per_page=100&page=2>; rel="next"`, r.Host, jobs))
		fmt.Fprint(w, `{"total_count":2,"jobs":[{"id":1,"check_run_url":"https://api.github.com/repos/acme/web/check-runs/1"}]}`)
	})
	f.set("GET "+jobs+"?page=2&per_page=100", says(second))
	if got := question(t, c, origin(), signing.ForgeQuestion{Run: true}).Run; got.RunnerGroup != "my runner group" {
		t.Errorf("%+v", got)
	}
}

func TestAListWithoutEndIsRefused(t *testing.T) {
	f, c := world(t)
	runs(t, f)
	jobs := web + "/actions/runs/30433642/attempts/1/jobs"
	page := `{"jobs":[` + strings.Repeat(`{"id":1},`, 99) + `{"id":1}]}`
	f.set("GET "+jobs, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", fmt.Sprintf(`<http://%s%s?page=2>; rel="next"`, r.Host, jobs))
		fmt.Fprint(w, page)
	})
	if why := question(t, c, origin(), signing.ForgeQuestion{Run: true}).Unknown[signing.PartRun]; !strings.Contains(why, "at most 1000") {
		t.Errorf("Unknown = %q", why)
	}
	if n := f.count("GET " + jobs); n > 11 {
		t.Errorf("%d pages were read", n)
	}
}

func TestARunCannotBeAsked(t *testing.T) {
	set := func(f *fake) { runs(t, f) }
	cannot(t, "GET "+web+"/actions/runs/30433642/attempts/1", "actions: read", signing.PartRun, origin(), signing.ForgeQuestion{Run: true}, set)
	cannot(t, "GET "+web+"/actions/runs/30433642/attempts/1/jobs", "actions: read", signing.PartRun, origin(), signing.ForgeQuestion{Run: true}, set)
}

func environments(t *testing.T, f *fake) {
	f.set("GET "+web+"/environments/staging", says(edited(t, "environment.json", func(v map[string]any) {
		v["protection_rules"].([]any)[1].(map[string]any)["prevent_self_review"] = true
	})))
	f.set("GET "+web+"/environments/staging/deployment-branch-policies", says(`{"total_count":2,"branch_policies":[{"id":1,"name":"release/*","type":"branch"},{"id":2,"name":"v*","type":"tag"}]}`))
	f.set("GET "+web+"/actions/runs/30433642/approvals", says(recorded(t, "approvals.json")))
}

func TestTheEnvironmentIsToldWithItsReviewersAndWhoApproved(t *testing.T) {
	f, c := world(t)
	environments(t, f)
	got := question(t, c, origin(), signing.ForgeQuestion{Environment: true}).Environment
	want := &signing.EnvironmentFacts{Name: "staging", Exists: true, Reviewers: 2, Required: 1, NoSelfReview: true,
		BranchPatterns: []string{"refs/heads/release/*", "refs/tags/v*"},
		Approved:       []signing.Review{{By: signing.Account{Forge: "github.com", ID: "1", Login: "octocat"}, Approved: true}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestAnEnvironmentWithoutRulesHasNoReviewers(t *testing.T) {
	f, c := world(t)
	environments(t, f)
	f.set("GET "+web+"/environments/staging", says(`{"name":"staging","protection_rules":[],"deployment_branch_policy":null}`))
	// An approval of another environment's deployment in the same run.
	f.set("GET "+web+"/actions/runs/30433642/approvals", says(`[{"state":"approved","user":{"id":1,"login":"octocat","type":"User"},"environments":[{"name":"production"}]}]`))
	got := question(t, c, origin(), signing.ForgeQuestion{Environment: true}).Environment
	if d := cmp.Diff(&signing.EnvironmentFacts{Name: "staging", Exists: true}, got); d != "" {
		t.Error(d)
	}
	f.set("GET "+web+"/environments/staging", fails(404, "Not Found"))
	if got := question(t, c, origin(), signing.ForgeQuestion{Environment: true}).Environment; got.Exists {
		t.Errorf("%+v", got)
	}
	o := origin()
	o.DeploymentEnvironment = ""
	if why := question(t, c, o, signing.ForgeQuestion{Environment: true}).Unknown[signing.PartEnvironment]; !strings.Contains(why, "does not name an environment") {
		t.Errorf("Unknown = %q", why)
	}
}

func TestAnEnvironmentCannotBeAsked(t *testing.T) {
	set := func(f *fake) { environments(t, f) }
	q := signing.ForgeQuestion{Environment: true}
	for _, route := range []string{"/environments/staging", "/environments/staging/deployment-branch-policies", "/actions/runs/30433642/approvals"} {
		cannot(t, "GET "+web+route, "actions: read", signing.PartEnvironment, origin(), q, set)
	}
}

func TestEachPartHasItsOwnAnswer(t *testing.T) {
	f, c := world(t)
	runs(t, f)
	f.set("GET "+web+"/commits/"+sha+"/check-runs", fails(403, "Resource not accessible by integration"))
	facts := question(t, c, origin(), signing.ForgeQuestion{Run: true, Checks: true})
	if facts.Run == nil || facts.Checks != nil || !strings.Contains(facts.Unknown[signing.PartChecks], "checks: read") || len(facts.Unknown) != 1 {
		t.Errorf("%+v", facts)
	}
	var asked []string
	for _, a := range facts.Asked {
		asked = append(asked, a.What)
	}
	for _, want := range []string{"GET /repos/acme/web", "GET /repos/acme/web/actions/runs/30433642/attempts/1"} {
		if !slices.Contains(asked, want) {
			t.Errorf("asked = %q, want %q in it", asked, want)
		}
	}
}

func TestABuildOfAnotherForgeOrWithoutARepositoryIsNotAskedFor(t *testing.T) {
	_, c := world(t)
	for name, change := range map[string]func(*signing.Origin){
		"forge":      func(o *signing.Origin) { o.Forge = "ghe.acme.dev" },
		"no id":      func(o *signing.Origin) { o.SourceRepositoryIdentifier = "" },
		"a path":     func(o *signing.Origin) { o.SourceRepository = "acme/web/../../app" },
		"no name":    func(o *signing.Origin) { o.SourceRepository = "" },
		"another id": func(o *signing.Origin) { o.SourceRepositoryIdentifier = "42" },
	} {
		o := origin()
		change(&o)
		if facts, err := c.Ask(t.Context(), o, nil, signing.ForgeQuestion{Run: true}); err == nil || facts != nil {
			t.Errorf("%s: %+v, %v", name, facts, err)
		}
	}
}

func TestTheBuildersRepositoryIsToldByItsId(t *testing.T) {
	f, c := world(t)
	f.set("GET /repos/acme/builders", says(`{"id":99,"full_name":"acme/builders","default_branch":"main"}`))
	q := signing.ForgeQuestion{BuilderRepository: "acme/builders"}
	if got := question(t, c, origin(), q).Builder; got == nil || got.ID != "99" || got.Repository != "acme/builders" {
		t.Errorf("%+v", got)
	}
	// A name that leads elsewhere is no longer the builder's.
	f.set("GET /repos/acme/builders", says(`{"id":98,"full_name":"mallory/builders","default_branch":"main"}`))
	facts := question(t, c, origin(), q)
	if facts.Builder != nil || !strings.Contains(facts.Unknown[signing.PartBuilder], "no repository acme/builders") {
		t.Errorf("%+v", facts)
	}
	cannot(t, "GET /repos/acme/builders", "metadata: read", signing.PartBuilder, origin(), q, func(*fake) {})
}

func TestTwoCommitsAreCompared(t *testing.T) {
	f, c := world(t)
	at := web + "/compare/" + sha + "..." + head
	page := func(n, from, to int) {
		var cs []string
		for i := from; i <= to; i++ {
			cs = append(cs, fmt.Sprintf(`{"sha":"%040d","commit":{"message":"change %d\n\nbody"}}`, i, i))
		}
		f.set(fmt.Sprintf("GET %s?page=%d&per_page=10", at, n), says(fmt.Sprintf(`{"status":"ahead","ahead_by":23,"html_url":"https://github.com/acme/web/compare/a...b","commits":[%s]}`, strings.Join(cs, ","))))
	}
	page(1, 1, 10)
	page(2, 11, 20)
	page(3, 21, 23)
	got, err := c.Compare(t.Context(), standing, sha, head)
	if err != nil {
		t.Fatal(err)
	}
	if got.Commits != 23 || got.Diverged || len(got.Subjects) != 10 || got.Subjects[0] != "change 23" || got.Subjects[9] != "change 14" || got.URL == "" {
		t.Errorf("%+v", got)
	}
	f.set("GET "+at+"?page=1&per_page=10", says(`{"status":"diverged","ahead_by":1,"behind_by":2,"commits":[{"sha":"x","commit":{"message":"`+strings.Repeat("x", 5000)+`"}}]}`))
	if got, err := c.Compare(t.Context(), standing, sha, head); err != nil || !got.Diverged || len(got.Subjects[0]) > 200 {
		t.Errorf("%+v, %v", got, err)
	}
	f.set("GET "+at+"?page=1&per_page=10", fails(404, "Not Found"))
	if _, err := c.Compare(t.Context(), standing, sha, head); !errors.Is(err, signing.NotFound) {
		t.Errorf("error = %v", err)
	}
	if _, err := c.Compare(t.Context(), standing, "main", head); !errors.Is(err, signing.Invalid) {
		t.Errorf("error = %v", err)
	}
}

func TestARepositoryThatIsRenamedWhileItIsAskedAboutIsAskedAgain(t *testing.T) {
	f, c, k := ticking(t)
	runs(t, f)
	inner := f.answers["GET "+web+"/actions/runs/30433642/attempts/1/jobs"]
	f.set("GET "+web+"/actions/runs/30433642/attempts/1/jobs", func(w http.ResponseWriter, r *http.Request) {
		// A slow answer, in whose time the name was given to another repository.
		k.pass(nameFresh)
		f.set("GET "+web, says(`{"id":1296269,"full_name":"acme/shop","default_branch":"main"}`))
		inner(w, r)
	})
	facts, err := c.Ask(t.Context(), origin(), nil, signing.ForgeQuestion{Run: true})
	wantCode(t, err, signing.Unavailable, "renamed")
	if facts != nil {
		t.Errorf("%+v", facts)
	}
	f.set("GET "+web, says(`{"id":42,"full_name":"acme/web","default_branch":"main"}`))
	k.pass(nameFresh)
	if _, err := c.Ask(t.Context(), origin(), nil, signing.ForgeQuestion{Run: true}); !errors.Is(err, signing.NotFound) {
		t.Errorf("error = %v", err)
	}
}
