package hub_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bradleyfalzon/ghinstallation/v2"

	"github.com/sealwright/sealwright/internal/devworld/hub"
)

// scene is an organisation with one private repository, an App on it, and people.
type scene struct {
	t    *testing.T
	hub  *hub.Hub
	url  string
	app  *hub.App
	in   *hub.Installation
	org  *hub.Org
	repo *hub.Repo
	ann  *hub.User
	now  time.Time
}

func newScene(t *testing.T, o hub.Options) *scene {
	t.Helper()
	s := &scene{t: t, now: time.Now()}
	if o.Now == nil {
		o.Now = func() time.Time { return s.now }
	}
	s.hub = hub.New(o)
	t.Cleanup(s.hub.Close)
	server := httptest.NewServer(s.hub)
	t.Cleanup(server.Close)
	s.url = server.URL
	s.ann = s.hub.User("ann")
	s.org = s.hub.Org("acme", s.ann)
	s.repo = s.hub.Repo("acme/web", true)
	s.app = s.hub.App(hub.AppSpec{Slug: "sealwright", Permissions: hub.Everything(), Events: hub.EveryEvent()})
	s.in = s.app.Install(s.org.User)
	return s
}

// ask makes a request with an installation token, and returns the answer.
func (s *scene) ask(method, path, body string, change ...func(*http.Request)) (*http.Response, map[string]any) {
	s.t.Helper()
	apps, err := ghinstallation.NewAppsTransport(http.DefaultTransport, s.app.ID, s.app.PEM())
	if err != nil {
		s.t.Fatal(err)
	}
	apps.BaseURL = s.url
	auth := ghinstallation.NewFromAppsTransport(apps, s.in.ID)
	auth.BaseURL = s.url
	token, err := auth.Token(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return s.askWith("token "+token, method, path, body, change...)
}

func (s *scene) askWith(auth, method, path, body string, change ...func(*http.Request)) (*http.Response, map[string]any) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", auth)
	for _, c := range change {
		c(req)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	var out map[string]any
	if len(text) > 0 && text[0] == '{' {
		if err := json.Unmarshal(text, &out); err != nil {
			s.t.Fatal(err)
		}
	}
	return resp, out
}

func TestOnlyAnInstallationTokenThatLivesIsAccepted(t *testing.T) {
	s := newScene(t, hub.Options{})
	if resp, _ := s.ask("GET", "/repos/acme/web", ""); resp.StatusCode != 200 {
		t.Errorf("with a token: %d", resp.StatusCode)
	}
	for _, bad := range []string{"", "token ghs_guess", "Bearer abc.def.ghi", "Basic eDp5"} {
		if resp, _ := s.askWith(bad, "GET", "/repos/acme/web", ""); resp.StatusCode != 401 {
			t.Errorf("%q: %d, want 401", bad, resp.StatusCode)
		}
	}
}

func TestAMissingPermissionIsToldFromWhatIsHidden(t *testing.T) {
	s := newScene(t, hub.Options{})
	other := s.hub.Org("other")
	s.hub.Repo("other/secret", true)
	_ = other
	if resp, _ := s.ask("GET", "/repos/other/secret", ""); resp.StatusCode != 404 {
		t.Errorf("another's private repository: %d, want 404", resp.StatusCode)
	}
	s.in.Permit("checks", "read")
	resp, doc := s.ask("POST", "/repos/acme/web/check-runs", `{"name":"x","head_sha":"`+s.repo.Branches["main"]+`"}`)
	if resp.StatusCode != 403 || doc["message"] != "Resource not accessible by integration" {
		t.Errorf("without checks: write: %d %v, want GitHub's 403", resp.StatusCode, doc)
	}
}

func TestWhatGitHubRefusesIsRefused(t *testing.T) {
	s := newScene(t, hub.Options{})
	i := s.repo.Issue(s.ann, "talk", "")
	_ = i
	sha := s.repo.Branches["main"]
	long := strings.Repeat("x", 65_537)
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/repos/acme/web/issues/1/comments", `{"body":"` + long + `"}`},
		{"POST", "/repos/acme/web/issues/1/comments", `{"body":" "}`},
		{"POST", "/repos/acme/web/issues/1/comments", `{"body":"x","extra":1}`},
		{"POST", "/repos/acme/web/statuses/" + sha, `{"state":"waiting"}`},
		{"POST", "/repos/acme/web/statuses/" + sha, `{"state":"success","description":"` + long[:141] + `"}`},
		{"POST", "/repos/acme/web/check-runs", `{"name":"x","head_sha":"` + sha + `","status":"completed"}`},
		{"POST", "/repos/acme/web/check-runs", `{"name":"x","head_sha":"` + sha + `","actions":[{"label":"a label that is too long","description":"d","identifier":"i"}]}`},
		{"POST", "/repos/acme/web/check-runs", `{"name":"x","head_sha":"0000000000000000000000000000000000000000"}`},
	} {
		if resp, doc := s.ask(c.method, c.path, c.body); resp.StatusCode != 422 {
			t.Errorf("%s %s %.60s: %d %v, want 422", c.method, c.path, c.body, resp.StatusCode, doc)
		}
	}
}

func TestReadsAreConditionalAndPaged(t *testing.T) {
	s := newScene(t, hub.Options{})
	i := s.repo.Issue(s.ann, "talk", "")
	for range 101 {
		s.hub.Say(i, s.ann, "hello")
	}
	resp, _ := s.ask("GET", "/repos/acme/web/issues/1/comments?per_page=100", "")
	if l := resp.Header.Get("Link"); !strings.Contains(l, `page=2`) || !strings.Contains(l, `rel="next"`) {
		t.Errorf("Link = %q, want the next page", l)
	}
	etag := resp.Header.Get("Etag")
	resp, _ = s.ask("GET", "/repos/acme/web/issues/1/comments?per_page=100", "", func(r *http.Request) { r.Header.Set("If-None-Match", etag) })
	if resp.StatusCode != 304 {
		t.Errorf("unchanged: %d, want 304", resp.StatusCode)
	}
	s.hub.EditComment(i.Comments[0], s.ann, "other")
	resp, _ = s.ask("GET", "/repos/acme/web/issues/1/comments?per_page=100", "", func(r *http.Request) { r.Header.Set("If-None-Match", etag) })
	if resp.StatusCode != 200 {
		t.Errorf("changed: %d, want 200", resp.StatusCode)
	}
}

func TestTheEightyFirstCommentOfAMinuteIsASecondaryLimit(t *testing.T) {
	s := newScene(t, hub.Options{})
	s.repo.Issue(s.ann, "talk", "")
	for n := range 81 {
		resp, doc := s.ask("POST", "/repos/acme/web/issues/1/comments", `{"body":"x"}`)
		if n < 80 && resp.StatusCode != 201 {
			t.Fatalf("comment %d: %d %v", n+1, resp.StatusCode, doc)
		}
		if n == 80 && (resp.StatusCode != 403 || resp.Header.Get("Retry-After") != "60") {
			t.Errorf("comment 81: %d, Retry-After %q; want 403 and 60", resp.StatusCode, resp.Header.Get("Retry-After"))
		}
	}
	s.in.SpendRate(0)
	if resp, _ := s.ask("GET", "/repos/acme/web", ""); resp.StatusCode != 403 || resp.Header.Get("X-Ratelimit-Remaining") != "0" {
		t.Errorf("no requests left: %d, want 403", resp.StatusCode)
	}
}

func TestTeamsHoldTheirChildTeamsAndNoPendingMembers(t *testing.T) {
	s := newScene(t, hub.Options{})
	bob, eve := s.hub.User("bob"), s.hub.User("eve")
	release := s.org.Team("release", nil)
	s.org.Team("release-eu", release, bob)
	release.Invite(eve)
	for login, want := range map[string]string{"bob": "active", "eve": "pending"} {
		if _, doc := s.ask("GET", "/orgs/acme/teams/release/memberships/"+login, ""); doc["state"] != want {
			t.Errorf("%s: %v, want %s", login, doc, want)
		}
	}
	release.Grant(s.repo, "maintain")
	_, doc := s.ask("GET", "/repos/acme/web/collaborators/bob/permission", "")
	if doc["permission"] != "write" || doc["role_name"] != "maintain" {
		t.Errorf("bob: %v, want write by the role maintain", doc)
	}
}

func TestWebhooksAreSignedAndSentAgainOnlyWhenAsked(t *testing.T) {
	type got struct {
		head http.Header
		body []byte
	}
	arrived := make(chan got, 10)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		arrived <- got{r.Header, b}
		w.WriteHeader(500)
	}))
	defer receiver.Close()
	s := newScene(t, hub.Options{})
	s.app.SetHook(receiver.URL, "It's a Secret to Everybody")
	i := s.repo.Issue(s.ann, "talk", "")
	s.hub.Say(i, s.ann, "hello")
	s.hub.Settle()
	first := <-arrived
	if want := hub.Sign("It's a Secret to Everybody", "issue_comment", "", first.body).Get("X-Hub-Signature-256"); first.head.Get("X-Hub-Signature-256") != want {
		t.Errorf("signature %q, want %q", first.head.Get("X-Hub-Signature-256"), want)
	}
	if len(arrived) != 0 {
		t.Error("it was sent again by itself after a 500")
	}
	s.hub.Redeliver(s.hub.Deliveries()[0].ID)
	s.hub.Settle()
	if second := <-arrived; second.head.Get("X-GitHub-Delivery") != first.head.Get("X-GitHub-Delivery") || string(second.body) != string(first.body) {
		t.Error("a redelivery must have the same GUID and body")
	}
	s.hub.Lose(1)
	s.hub.Say(i, s.ann, "lost")
	s.hub.Settle()
	if len(arrived) != 0 || !s.hub.Deliveries()[2].Lost {
		t.Error("the delivery was to be lost")
	}
	if sig := hub.Sign("It's a Secret to Everybody", "ping", "", []byte("Hello, World!")).Get("X-Hub-Signature-256"); sig != "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17" {
		t.Errorf("GitHub's own test vector: %s", sig)
	}
}

func TestFaultsSpoilWhatTheyName(t *testing.T) {
	s := newScene(t, hub.Options{})
	s.repo.Issue(s.ann, "talk", "")
	f := s.hub.Fail(hub.Fault{Method: "POST", Status: 502, After: true, Path: nil, Times: 1})
	// The token is the first POST; it is carried out, and its answer is lost.
	req, _ := http.NewRequestWithContext(t.Context(), "POST", s.url+"/app/installations/1/access_tokens", nil)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 502 || f.Seen() != 1 {
		t.Errorf("%d after %d, want 502 after 1", resp.StatusCode, f.Seen())
	}
	if resp, _ := s.ask("GET", "/repos/acme/web", ""); resp.StatusCode != 200 {
		t.Errorf("after its times: %d", resp.StatusCode)
	}
}

func TestGraphQLKnowsItsFieldsAndNoOthers(t *testing.T) {
	s := newScene(t, hub.Options{})
	i := s.repo.Issue(s.ann, "talk", "")
	m := s.hub.Say(i, s.ann, "hello")
	_, doc := s.ask("GET", "/repos/acme/web/issues/1/comments?per_page=1", "")
	_ = doc
	_, one := s.ask("GET", "/repos/acme/web/issues/comments/"+strconv.FormatInt(m.ID, 10), "")
	id := one["node_id"].(string)
	query := func(q string) map[string]any {
		b, _ := json.Marshal(map[string]any{"query": q, "variables": map[string]any{"ids": []string{id}}})
		_, doc := s.ask("POST", "/graphql", string(b))
		return doc
	}
	got := query(`query($ids: [ID!]!) { nodes(ids: $ids) { id ... on IssueComment { lastEditedAt } } }`)
	b, _ := json.Marshal(got["data"])
	if want := `{"nodes":[{"id":"` + id + `","lastEditedAt":null}]}`; string(b) != want {
		t.Errorf("%s, want %s", b, want)
	}
	if got := query(`query($ids: [ID!]!) { nodes(ids: $ids) { nonsense } }`); got["errors"] == nil {
		t.Errorf("an unknown field: %v, want an error", got)
	}
}
