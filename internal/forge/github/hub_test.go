package github

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/devworld/hub"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/ask/asktest"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
)

// release is a build of a merged pull request on the strict local GitHub: ann
// wrote it, pia pushed to it, rob approved it, max merged it.
type release struct {
	hub                *hub.Hub
	in                 *hub.Installation
	repo               *hub.Repo
	rules              *hub.Ruleset
	pull               *hub.Pull
	run                *hub.Run
	ann, pia, rob, max *hub.User
	client             *Client
	ahead              time.Duration // of the service's clock
	origin             signing.Origin
	store              *asktest.Sigstore
}

func released(t *testing.T) *release {
	t.Helper()
	h := hub.New(hub.Options{})
	t.Cleanup(h.Close)
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	r := &release{hub: h, ann: h.User("ann"), pia: h.User("pia"), rob: h.User("rob"), max: h.User("max"), store: asktest.New(t)}
	org := h.Org("acme", r.max)
	r.repo = h.Repo("acme/web", true)
	for _, u := range []*hub.User{r.ann, r.pia, r.rob} {
		r.repo.Allow(u, "write")
	}
	taken := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(taken.Close)
	app := h.App(hub.AppSpec{Slug: "sealwright", Permissions: hub.Everything(), Events: hub.EveryEvent(), Hook: hub.Hook{URL: taken.URL + "/hooks/github/github.com", Secret: "x"}})
	r.in = app.Install(org.User)
	r.rules = r.repo.Rule(hub.Ruleset{Name: "main", Include: []string{"~DEFAULT_BRANCH"}, Updated: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC), Rules: []hub.Rule{
		{Type: "pull_request", Parameters: map[string]any{"required_approving_review_count": 1, "require_last_push_approval": true}}, {Type: "non_fast_forward"}, {Type: "deletion"},
	}})
	r.repo.Environment(hub.Environment{Name: "production", Reviewers: []*hub.User{r.rob}, NoSelfReview: true, Patterns: []string{"main"}})
	r.repo.Commit("topic", hub.Commit{Message: "the door\n\nCo-authored-by: Rita <rita@users.test>", Author: r.ann, Committer: r.ann, Files: map[string]string{
		".github/workflows/build.yml": "on:\n  workflow_dispatch:\n    inputs:\n      version: {}\n", ".sealwright/policy.yml": "version: 1\n",
	}})
	rita := h.User("rita")
	h.Do(func() { rita.Public = true })
	r.pull = r.repo.Pull(r.ann, "the door", "topic", "main")
	h.Push(r.pull, r.pia, hub.Commit{Message: "and a lock", Author: r.pia, Committer: r.pia})
	h.Submit(r.pull, r.rob, "APPROVED", "")
	sha := r.pull.Merge(r.max)
	r.run = r.repo.Run(r.max, "workflow_dispatch", "refs/heads/main", sha, ".github/workflows/build.yml", 0)
	r.repo.Check(app, sha, "scan", "success")

	file := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(file, app.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := New(forge.Config{Host: "github.com", API: server.URL, Apps: []forge.App{{ID: strconv.FormatInt(app.ID, 10), PrivateKey: config.Secret("file:" + file)}}},
		Options{Outbound: outbound.Options{AllowHTTP: true, Timeout: 10 * time.Second}, Root: r.store, Now: func() time.Time { return time.Now().Add(r.ahead) }})
	if err != nil {
		t.Fatal(err)
	}
	r.client = client
	o := origin()
	o.SourceRepositoryIdentifier, o.SourceRepositoryDigest, o.BuildConfigDigest, o.BuildSignerDigest = strconv.FormatInt(r.repo.ID, 10), sha, sha, sha
	o.RunID, o.JobID, o.BuildTrigger, o.DeploymentEnvironment = strconv.FormatInt(r.run.ID, 10), strconv.FormatInt(r.run.Jobs[0].ID, 10), "workflow_dispatch", "production"
	o.RunInvocationURI = "https://github.com/acme/web/actions/runs/" + o.RunID + "/attempts/1"
	r.origin = o
	c := ours()
	c.Run, c.Repository, c.Commit = o.RunInvocationURI, o.SourceRepositoryIdentifier, sha
	r.repo.Attest(string(built), r.store.Attest(t, c))
	return r
}

// everyQuestion asks for all that there is.
var everyQuestion = signing.ForgeQuestion{
	Run: true, Ref: true, Branches: []string{"refs/heads/main", "refs/heads/topic"}, Since: true, Pulls: true, Commit: true, Environment: true, Checks: true,
	Inputs: true, Attestation: true, WorkflowFile: true, PolicyFile: true, BuilderRepository: "acme/web",
}

func (r *release) question(t *testing.T) *signing.ForgeFacts {
	t.Helper()
	f, err := r.client.Ask(t.Context(), r.origin, images, everyQuestion)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (r *release) id(u *hub.User) string { return strconv.FormatInt(u.ID, 10) }

func TestEveryQuestionIsAnsweredByTheStrictForge(t *testing.T) {
	r := released(t)
	f := r.question(t)
	if f.Unknown != nil {
		t.Fatalf("unknown: %v", f.Unknown)
	}
	if n := f.Run; !n.Running || !n.JobRunning || n.RepositoryID != r.origin.SourceRepositoryIdentifier || n.HeadRepositoryID != n.RepositoryID || n.Commit != r.origin.SourceRepositoryDigest || n.Path != workflowFile || n.RunnerGroup != "GitHub Actions" {
		t.Errorf("run: %+v", n)
	}
	if p := f.Ref; !p.Contains || !p.Protected || p.RequiredApprovals != 1 || !p.LastPushApproval || !p.BlockForcePush || !p.BlockDeletion || p.Since.Day() != 2 || len(p.Bypass) != 1 || !strings.HasPrefix(p.Bypass[0], "unknown") {
		t.Errorf("ref: %+v", p)
	}
	if b := f.Branches; len(b) != 2 || !b[0].Contains || b[1].Contains || b[1].Protected || !b[1].Exists {
		t.Errorf("branches: %+v", b)
	}
	if len(f.Pulls.Pulls) != 1 {
		t.Fatalf("pulls: %+v", f.Pulls)
	}
	p := f.Pulls.Pulls[0]
	rita := r.client.account(&user{ID: mustAccount(t, r, "rita")})
	if !p.Merged || p.Result != r.origin.SourceRepositoryDigest || p.Author.ID != r.id(r.ann) || p.Merger.ID != r.id(r.max) || !slices.Equal(ids(p.Authors), []string{r.id(r.ann), rita.ID, r.id(r.pia)}) ||
		!slices.Equal(ids(p.Pushers), []string{r.id(r.pia), r.id(r.ann)}) || len(p.Reviews) != 1 || p.Reviews[0].By.ID != r.id(r.rob) || p.Reviews[0].Commit != p.Head || p.Unmapped != nil {
		t.Errorf("pull request: %+v", p)
	}
	if c := f.Commit; c.SHA != r.origin.SourceRepositoryDigest || !slices.Equal(ids(c.Authors), []string{r.id(r.max)}) {
		t.Errorf("commit: %+v", c)
	}
	if e := f.Environment; !e.Exists || e.Reviewers != 1 || e.Required != 1 || !e.NoSelfReview || !slices.Equal(e.BranchPatterns, []string{"refs/heads/main"}) {
		t.Errorf("environment: %+v", e)
	}
	if k := f.Checks.Checks; len(k) != 1 || !k[0].OK || k[0].App != "sealwright" {
		t.Errorf("checks: %+v", k)
	}
	if !slices.Equal(f.Inputs.Names, []string{"version"}) || len(f.Attestations.Verified) != 1 || f.Workflow.Config.Blob == "" || f.Builder.ID != r.origin.SourceRepositoryIdentifier {
		t.Errorf("%+v %+v %+v %+v", f.Inputs, f.Attestations, f.Workflow, f.Builder)
	}
	if !f.PolicyFile.Exists || string(f.PolicyFile.Text) != "version: 1\n" {
		t.Errorf("policy: %+v", f.PolicyFile)
	}
	cmp, err := r.client.Compare(t.Context(), forge.Repository{ID: r.origin.SourceRepositoryIdentifier, Name: "acme/web"}, r.repo.Commits[r.origin.SourceRepositoryDigest].Parents[0], r.origin.SourceRepositoryDigest)
	if err != nil || cmp.Commits != 3 || cmp.Diverged || len(cmp.Subjects) != 3 || !strings.HasPrefix(cmp.Subjects[0], "Merge") {
		t.Errorf("%+v, %v", cmp, err)
	}
}

func TestThePolicyOfACommitIsReadWhereverItWasPushed(t *testing.T) {
	r := released(t)
	at := forge.Repository{ID: r.origin.SourceRepositoryIdentifier, Name: "acme/web"}
	read := func(commit string) *signing.PolicyFileFacts {
		f, err := r.client.PolicyFile(t.Context(), at, commit)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	if f := read(""); f.Branch != "main" || string(f.Text) != "version: 1\n" {
		t.Errorf("the default branch: %+v", f)
	}
	fork := r.hub.Repo("pia/web", false)
	head := fork.Commit("topic", hub.Commit{Message: "x", Author: r.pia, Committer: r.pia, Files: map[string]string{".sealwright/policy.yml": "version: 2\n"}})
	if _, err := r.client.PolicyFile(t.Context(), at, head); !errors.Is(err, signing.NotFound) {
		t.Errorf("a commit of another repository: %v", err)
	}
	r.repo.PullFrom(fork, r.pia, "x", "topic", "main")
	if f := read(head); f.Branch != "" || f.Commit != head || !f.Exists || string(f.Text) != "version: 2\n" || f.Digest != signing.DigestOf(f.Text) {
		t.Errorf("a fork's: %+v", f)
	}
	if _, err := r.client.PolicyFile(t.Context(), at, "main"); !errors.Is(err, signing.Invalid) {
		t.Errorf("a branch is no commit: %v", err)
	}
}

func mustAccount(t *testing.T, r *release, login string) (id int64) {
	t.Helper()
	var u user
	g, _, _, err := r.client.repo(t.Context(), forge.Repository{ID: r.origin.SourceRepositoryIdentifier, Name: "acme/web"})
	if err == nil {
		err = r.client.get(t.Context(), g, "users/"+login, nil, &u, "")
	}
	if err != nil {
		t.Fatal(err)
	}
	return u.ID
}

func TestWhatChangedOnTheForgeIsSeenAtOnce(t *testing.T) {
	r := released(t)
	before := r.question(t)
	r.repo.Change(r.rules, func(s *hub.Ruleset) { s.Rules = s.Rules[1:] })
	r.run.Again(r.pia)
	r.repo.Allow(r.rob, "")
	r.repo.Commit("main", hub.Commit{Message: "next", Author: r.ann, Committer: r.ann, Files: map[string]string{".sealwright/policy.yml": "version: 2\n"}})
	after := r.question(t)
	if before.Ref.RequiredApprovals != 1 || after.Ref.RequiredApprovals != 0 || !after.Ref.Since.After(before.Ref.Since) || !after.Ref.Contains || after.Ref.Commit == before.Ref.Commit {
		t.Errorf("ref: %+v", after.Ref)
	}
	if after.Run.Running || len(after.Pulls.Pulls[0].Reviews) != 0 || after.PolicyFile.Digest == before.PolicyFile.Digest {
		t.Errorf("%+v %+v %+v", after.Run, after.Pulls, after.PolicyFile)
	}
	r.origin.RunAttempt = "2"
	if n := r.question(t).Run; !n.Running || n.Actor.ID != r.id(r.max) || n.Restarter.ID != r.id(r.pia) || n.JobID != "" {
		t.Errorf("the second attempt: %+v", n)
	}
}

func TestThePermissionThatIsMissingIsNamed(t *testing.T) {
	r := released(t)
	for permission, parts := range map[string][]string{
		"actions": {signing.PartRun, signing.PartEnvironment}, "contents": {signing.PartRef, signing.PartCommit, signing.PartInputs, signing.PartWorkflowFile, signing.PartPolicyFile},
		"pull_requests": {signing.PartPulls}, "checks": {signing.PartChecks}, "statuses": {signing.PartChecks}, "attestations": {signing.PartAttestation}, "administration": {signing.PartBranches + " refs/heads/topic"},
	} {
		r.in.Permit(permission, "")
		r.hub.ExpireTokens()
		r.ahead += minRenewal
		f := r.question(t)
		for _, p := range parts {
			if !strings.Contains(f.Unknown[p], permission) {
				t.Errorf("without %s: Unknown[%s] = %q", permission, p, f.Unknown[p])
			}
		}
		r.in.Permit(permission, hub.Everything()[permission])
		r.hub.ExpireTokens()
		r.ahead += minRenewal
	}
	if f := r.question(t); f.Unknown != nil {
		t.Errorf("with all of them: %v", f.Unknown)
	}
}

func TestAForgeThatFailsOrIsSlowIsNoAnswer(t *testing.T) {
	r := released(t)
	for _, path := range []string{"/actions/runs/", "/git/ref/", "/compare/", "/rules/branches/", "/protection$", "/pulls$", "/reviews$", "/activity$", "/environments/", "/check-runs$", "/statuses$", "/attestations/", "/git/trees/", "/git/blobs/"} {
		fault := r.hub.Fail(hub.Fault{Path: regexp.MustCompile(path), Status: 500})
		f, err := r.client.Ask(t.Context(), r.origin, images, everyQuestion)
		if !signing.Temporary(err) || f != nil || fault.Seen() == 0 {
			t.Errorf("%s: %v, %v after %d faults", path, f, err, fault.Seen())
		}
		fault.Heal()
	}
	r.in.SpendRate(3)
	if _, err := r.client.Ask(t.Context(), r.origin, images, everyQuestion); signing.CodeOf(err) != signing.RateLimited {
		t.Errorf("without requests left: %v", err)
	}
}

func TestTheOnlineCheckFindsWhatTheInstallationLacks(t *testing.T) {
	r := released(t)
	r.client.secrets = [][]byte{[]byte("x")}
	if m := missing(r.client.CheckOnline(t.Context())); len(m) != 0 {
		t.Errorf("missing: %q", m)
	}
	r.in.Permit("checks", "read")
	r.in.Permit("members", "")
	if m := missing(r.client.CheckOnline(t.Context())); len(m) != 2 || !strings.Contains(m[0]+m[1], "checks: write") || !strings.Contains(m[0]+m[1], "members: read") {
		t.Errorf("missing: %q", m)
	}
}

func TestATokenThatTheForgeRevokedOrThatIsOlderThanAPermissionIsRenewed(t *testing.T) {
	r := released(t)
	r.question(t)
	r.hub.ExpireTokens()
	if f := r.question(t); len(f.Unknown) == 0 {
		t.Error("a young token was given up at once")
	}
	r.ahead += minRenewal
	if f := r.question(t); f.Unknown != nil {
		t.Errorf("a revoked token was kept: %v", f.Unknown)
	}
	// A permission that was just given is not in the token yet.
	r.in.Permit("checks", "")
	r.ahead += minRenewal
	r.hub.ExpireTokens()
	if f := r.question(t); f.Unknown[signing.PartChecks] == "" {
		t.Errorf("checks were told without the permission")
	}
	r.in.Permit("checks", "write")
	r.ahead += minRenewal
	r.question(t) // is refused, and gives the token up
	if f := r.question(t); f.Unknown != nil {
		t.Errorf("the new permission is not used: %v", f.Unknown)
	}
	r.hub.Do(func() { r.in.Suspended = true })
	r.ahead += minRenewal
	if _, err := r.client.Ask(t.Context(), r.origin, images, everyQuestion); signing.CodeOf(err) != signing.Denied {
		t.Errorf("of a suspended installation: %v", err)
	}
}
