package report

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/devworld/hub"
	"github.com/sealwright/sealwright/internal/devworld/lab"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/github"
	"github.com/sealwright/sealwright/internal/forge/gitlab"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
)

// onHub is the strict local GitHub with an open pull request, and a Reporter.
func onHub(t *testing.T, commitOnly bool) (*Reporter, *hub.Hub, *hub.Repo, *hub.Pull, func(Snapshot) Snapshot) {
	t.Helper()
	h := hub.New(hub.Options{})
	t.Cleanup(h.Close)
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	ann := h.User("ann")
	org := h.Org("acme", ann)
	repo := h.Repo("acme/payments-web", true)
	app := h.App(hub.AppSpec{Slug: "sealwright", Permissions: hub.Everything(), Events: hub.EveryEvent()})
	app.Install(org.User)
	commit := repo.Commit("feature", hub.Commit{Message: "a change", Author: ann, Committer: ann})
	var pull *hub.Pull
	if !commitOnly {
		pull = repo.Pull(ann, "A change", "feature", "main")
	}
	file := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(file, app.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := github.New(forge.Config{Host: "github.com", Kind: "github", API: server.URL, Apps: []forge.App{{ID: strconv.FormatInt(app.ID, 10), PrivateKey: config.Secret("file:" + file)}}}, github.Options{Outbound: outbound.Options{AllowHTTP: true, Timeout: 5 * time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	place := func(s Snapshot) Snapshot {
		s.Request.Origin.SourceRepositoryIdentifier, s.Request.Origin.SourceRepositoryDigest = strconv.FormatInt(repo.ID, 10), commit
		return s
	}
	return &Reporter{Forges: map[string]forge.Forge{"github.com": c}}, h, repo, pull, place
}

func send(t *testing.T, r *Reporter, s Snapshot) signing.Reports {
	t.Helper()
	sent, err := r.Post(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return sent
}

func TestGitHubTakesEveryReportOfARequest(t *testing.T) {
	r, h, repo, pull, place := onHub(t, false)
	s := place(snapshot(signing.AwaitingApproval))
	s.Request.Decision.Approvals.Ways = []string{signing.ViaCheckRun}
	s.Sent = send(t, r, s)
	h.Do(func() {
		k := repo.Checks[0]
		if len(repo.Checks) != 1 || k.Name != "sealwright/release" || k.ExternalID != s.Request.ID || k.Conclusion != "action_required" || len(k.Actions) != 2 || k.Actions[0].Identifier != "approve 3f9c2a7b" || !strings.Contains(k.Summary, "/sealwright approve "+s.Request.ID+" 3f9c2a7b") {
			t.Errorf("%+v", k)
		}
		if len(repo.Statuses) != 1 || repo.Statuses[0].State != "pending" || repo.Statuses[0].Context != "sealwright/release" {
			t.Errorf("%+v", repo.Statuses)
		}
		if len(pull.Comments) != 0 {
			t.Error("the question is not ours to write")
		}
	})
	for _, state := range []signing.RequestState{signing.Signing, signing.Completed} {
		next := place(snapshot(state))
		next.Sent = s.Sent
		s.Sent = send(t, r, next)
	}
	h.Do(func() {
		k := repo.Checks[0]
		if len(repo.Checks) != 1 || k.Status != "completed" || k.Conclusion != "success" || len(k.Actions) != 0 || !strings.Contains(k.Summary, "cosign verify") {
			t.Errorf("%d checks; %+v", len(repo.Checks), k)
		}
		if last := repo.Statuses[len(repo.Statuses)-1]; last.State != "success" {
			t.Errorf("%+v", last)
		}
	})
}

func TestARefusalOnGitHubIsAnnotatedAndCommentedOnce(t *testing.T) {
	r, h, repo, pull, place := onHub(t, false)
	for range 2 { // two requests, one comment
		send(t, r, place(unasked(signing.RequestDenied)))
	}
	h.Do(func() {
		if k := repo.Checks[0]; k.Conclusion != "failure" || len(k.Annotations) != 1 || k.Annotations[0].Path != ".github/workflows/release.yml" || !strings.Contains(k.Annotations[0].Message, "wanted: refs/heads/main") {
			t.Errorf("%+v", k)
		}
		if len(pull.Comments) != 1 || !strings.HasPrefix(pull.Comments[0].Body, "<!-- sealwright report payments/release -->\n") || !strings.Contains(pull.Comments[0].Body, "build from main") {
			t.Errorf("%+v", pull.Comments)
		}
	})
}

func TestWithoutAPullRequestThereIsNoComment(t *testing.T) {
	r, h, repo, _, place := onHub(t, true)
	sent := send(t, r, place(unasked(signing.Completed)))
	h.Do(func() {
		if sent.Comment != "" || len(repo.Issues) != 0 || len(repo.Checks) != 1 {
			t.Errorf("%+v, %d issues", sent, len(repo.Issues))
		}
	})
}

func TestWhileGitHubFailsNothingIsLostOrWrittenTwice(t *testing.T) {
	r, h, repo, pull, place := onHub(t, false)
	h.Fail(hub.Fault{Method: "POST", Path: regexp.MustCompile("/(check-runs|statuses)"), Status: 502, Times: 2})
	// A comment that was made although no answer came.
	h.Fail(hub.Fault{Method: "POST", Path: regexp.MustCompile("/comments$"), Status: 502, After: true, Times: 1})
	s := place(unasked(signing.Completed))
	sent, err := r.Post(t.Context(), s)
	if !signing.Temporary(err) || sent != (signing.Reports{}) {
		t.Fatalf("%v, %+v", err, sent)
	}
	s.Sent = sent
	s.Sent = send(t, r, s)
	h.Do(func() {
		if len(repo.Checks) != 1 || len(repo.Statuses) != 1 || len(pull.Comments) != 1 || s.Sent.Comment == "" {
			t.Errorf("%d checks, %d statuses, %d comments, %+v", len(repo.Checks), len(repo.Statuses), len(pull.Comments), s.Sent)
		}
	})
}

func TestGitHubTakesTheLongestReport(t *testing.T) {
	r, _, _, _, place := onHub(t, false)
	s := place(unasked(signing.RequestDenied))
	for i := range signing.MaxArtifacts {
		s.Request.Artifacts = append(s.Request.Artifacts, signing.Artifact{Repository: signing.Repository("registry.acme.dev/payments/" + strconv.Itoa(i)), Digest: signing.DigestOf([]byte{byte(i)})})
		s.Request.Decision.Reasons.Children = append(s.Request.Decision.Reasons.Children, signing.Reason{Rule: strings.Repeat("ä", 900), Wanted: strings.Repeat("`", 900), Found: strings.Repeat("<@", 900), Fix: strings.Repeat("&", 900)})
	}
	send(t, r, s)
}

func TestGitLabHasAStatusOfThePipelineAndANote(t *testing.T) {
	l := lab.New(lab.Options{Premium: true, Now: time.Now})
	server := httptest.NewServer(l)
	t.Cleanup(func() { server.Close(); l.Wait() })
	l.SetURL(server.URL)
	l.Group("acme")
	p := l.Project("acme/payments")
	bot, ada := l.Bot("project_1_bot"), l.User("ada")
	p.Add(bot, lab.Maintainer)
	p.Add(ada, lab.Developer)
	commit := p.Push(ada, "feature", lab.Commit{Message: "a change", Author: "Ada", Email: "ada@acme.dev", Files: map[string]string{"a": "b"}})
	merge := p.Open(lab.MR{Author: ada, Branch: "feature", Target: "main", Title: "A change"})
	token := l.Token(bot)
	c, err := gitlab.New(forge.Config{Host: "gitlab.acme.dev", Kind: "gitlab", API: server.URL, Tokens: []forge.Token{{Token: config.Secret("env:TOKEN")}}}, gitlab.Options{
		Outbound: outbound.Options{AllowHTTP: true, Timeout: 5 * time.Second}, Env: func(string) (string, bool) { return token, true },
	})
	if err != nil {
		t.Fatal(err)
	}
	r := &Reporter{Forges: map[string]forge.Forge{"gitlab.acme.dev": c}}
	s := unasked(signing.Signing)
	o := &s.Request.Origin
	o.Forge, o.Kind, o.SourceRepositoryIdentifier, o.SourceRepository, o.SourceRepositoryRef, o.SourceRepositoryDigest, o.RunID = "gitlab.acme.dev", "gitlab", strconv.FormatInt(p.ID, 10), "acme/payments", "refs/heads/feature", commit, ""
	s.Sent = send(t, r, s)
	done := unasked(signing.Completed)
	done.Request.Origin, done.Sent = s.Request.Origin, s.Sent
	sent := send(t, r, done)
	l.Change(func() {
		if len(p.Statuses) != 1 || p.Statuses[0].State != "success" || p.Statuses[0].Name != "sealwright/release" || p.Statuses[0].Description != "signed 1 image" {
			t.Errorf("%+v", p.Statuses)
		}
		written := lab.Written(merge.Notes)
		if len(written) != 1 || !strings.HasPrefix(written[0].Body, "<!-- sealwright report payments/release -->\n") || sent.Comment == "" {
			t.Errorf("%+v, %+v", written, sent)
		}
	})
}
