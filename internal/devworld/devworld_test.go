package devworld

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

const audience = "https://sealwright.acme.dev"

func start(t *testing.T, o Options) *World {
	t.Helper()
	w, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// claims verifies token as a relying party of issuer would and returns what it says.
func claims(t *testing.T, issuer, token string) (map[string]any, error) {
	t.Helper()
	p, err := oidc.NewProvider(t.Context(), issuer)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := p.Verifier(&oidc.Config{ClientID: audience}).Verify(t.Context(), token)
	if err != nil {
		return nil, err
	}
	var c map[string]any
	if err := tok.Claims(&c); err != nil {
		t.Fatal(err)
	}
	return c, nil
}

// requestToken asks for an ID token the way actions/toolkit does.
func requestToken(t *testing.T, env map[string]string, scheme string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, env["ACTIONS_ID_TOKEN_REQUEST_URL"]+"&audience="+url.QueryEscape(audience), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", scheme+" "+env["ACTIONS_ID_TOKEN_REQUEST_TOKEN"])
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ Value string }
	if resp.StatusCode == http.StatusOK {
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
			t.Fatal(err)
		}
	}
	return resp.StatusCode, answer.Value
}

func TestGitHubJobGetsATokenThatARelyingPartyAccepts(t *testing.T) {
	w := start(t, Options{})
	status, token := requestToken(t, w.GitHub.RegisterGitHubJob(NewGitHubJob()), "bearer")
	if status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	c, err := claims(t, w.GitHub.URL(), token)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"sub": "repo:acme/payments-web:ref:refs/heads/main", "repository_id": "74", "repository_owner_id": "65", "event_name": "push",
		"ref_protected": "true", "workflow_ref": "acme/payments-web/.github/workflows/release.yml@refs/heads/main",
	}
	for k, v := range want {
		if c[k] != v {
			t.Errorf("%s = %v, want %v", k, c[k], v)
		}
	}
	for k, v := range c {
		if _, ok := v.(string); !ok && k != "iat" && k != "nbf" && k != "exp" {
			t.Errorf("claim %s is a %T; GitHub sends strings", k, v)
		}
	}
}

func TestTokenEndpointRefusesAnotherJobsURL(t *testing.T) {
	w := start(t, Options{})
	a, b := w.GitHub.RegisterGitHubJob(NewGitHubJob()), w.GitHub.RegisterGitHubJob(NewGitHubJob())
	a["ACTIONS_ID_TOKEN_REQUEST_URL"] = b["ACTIONS_ID_TOKEN_REQUEST_URL"]
	if status, _ := requestToken(t, a, "bearer"); status != http.StatusUnauthorized {
		t.Errorf("another job's URL: status %d", status)
	}
	if status, _ := requestToken(t, b, "basic"); status != http.StatusUnauthorized {
		t.Errorf("another scheme: status %d", status)
	}
}

func TestSubjectHasBothOfGitHubsForms(t *testing.T) {
	plain := NewGitHubJob()
	immutable := plain
	immutable.ImmutableSubject = true
	environment := plain
	environment.Environment = "prod:eu"
	for want, j := range map[string]GitHubJob{
		"repo:acme/payments-web:ref:refs/heads/main":       plain,
		"repo:acme@65/payments-web@74:ref:refs/heads/main": immutable,
		"repo:acme/payments-web:environment:prod%3Aeu":     environment,
		"repo:acme/payments-web:pull_request":              plain.PullRequestTarget(),
	} {
		if got := j.subject(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestPullRequestTargetDiffersFromAPushInItsEventOnly(t *testing.T) {
	now := time.Unix(1_790_000_000, 0)
	push := NewGitHubJob()
	a, b := push.claims("i", audience, "id", now), push.PullRequestTarget().claims("i", audience, "id", now)
	var differ []string
	for k := range a {
		if !cmp.Equal(a[k], b[k]) {
			differ = append(differ, k)
		}
	}
	for _, k := range differ {
		switch k {
		case "event_name", "head_ref", "base_ref", "actor", "actor_id", "sub":
		default:
			t.Errorf("claim %s tells a pull_request_target from a push; on the platform it does not", k)
		}
	}
}

func TestGitLabTokenHasTheTypesOfThePlatform(t *testing.T) {
	w := start(t, Options{})
	token, err := w.GitLab.GitLabToken(NewGitLabJob().ForkMergeRequest("stranger/api", "99", "7"), audience)
	if err != nil {
		t.Fatal(err)
	}
	c, err := claims(t, w.GitLab.URL(), token)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range map[string]any{
		"project_id": "99", "job_project_id": "20", "pipeline_source": "merge_request_event", "runner_id": float64(31),
		"ref_path": "refs/heads/main", "sub": "project_path:stranger/api:ref_type:branch:ref:main",
	} {
		if c[k] != v {
			t.Errorf("%s = %v, want %v", k, c[k], v)
		}
	}
}

func TestEveryFlawMakesARelyingPartyRefuse(t *testing.T) {
	w := start(t, Options{})
	c := w.GitHub.GitHubClaims(NewGitHubJob(), audience)
	old := w.GitHub.GitHubClaims(NewGitHubJob(), audience)
	old["exp"] = time.Now().Add(-time.Minute).Unix()
	for title, bad := range map[string]struct {
		claims map[string]any
		flaw   Flaw
	}{
		"alg none":       {c, Flaw{Algorithm: "none"}},
		"key confusion":  {c, Flaw{Algorithm: "HS256"}},
		"unknown kid":    {c, Flaw{KeyID: "nobody"}},
		"stranger's key": {c, Flaw{Stranger: true}},
		"embedded key":   {c, Flaw{EmbeddedKey: true}},
		"swapped claims": {c, Flaw{Swap: map[string]any{"repository_id": "1"}}},
		"truncated":      {c, Flaw{Cut: 4}},
		"expired":        {old, Flaw{}},
	} {
		token, err := w.GitHub.Mint(bad.claims, bad.flaw)
		if err != nil {
			t.Fatalf("%s: %v", title, err)
		}
		if _, err := claims(t, w.GitHub.URL(), token); err == nil {
			t.Errorf("%s: accepted", title)
		}
	}
	token, err := w.GitHub.Mint(c, Flaw{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := claims(t, w.GitHub.URL(), token); err != nil {
		t.Errorf("the honest twin is refused: %v", err)
	}
}

func TestRotationKeepsOrForgetsTheOldKey(t *testing.T) {
	w := start(t, Options{})
	token, err := w.GitHub.GitHubToken(NewGitHubJob(), audience)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.GitHub.Rotate(true); err != nil {
		t.Fatal(err)
	}
	if _, err := claims(t, w.GitHub.URL(), token); err != nil {
		t.Errorf("a token of a kept key is refused: %v", err)
	}
	if err := w.GitHub.Rotate(false); err != nil {
		t.Fatal(err)
	}
	if _, err := claims(t, w.GitHub.URL(), token); err == nil {
		t.Error("a token of a forgotten key is accepted")
	}
}

func TestPushedImageIsAnIndexOfRealImagesWithLabels(t *testing.T) {
	for _, noReferrers := range []bool{false, true} {
		w := start(t, Options{NoReferrers: noReferrers})
		spec := ImageSpec{Repository: "payments/web", Tag: "v1", Labels: map[string]string{"stage": "prod"}, Annotations: map[string]string{"a": "b"}}
		image, err := w.Registry.PushImage(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		again, err := w.Registry.PushImage(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(image, again); diff != "" {
			t.Errorf("equal specs differ: %s", diff)
		}
		ref, err := name.ParseReference(image.Reference())
		if err != nil {
			t.Fatal(err)
		}
		index, err := remote.Index(ref)
		if err != nil {
			t.Fatal(err)
		}
		m, err := index.IndexManifest()
		if err != nil || len(m.Manifests) != 2 || m.Annotations["a"] != "b" {
			t.Fatalf("index %+v, %v", m, err)
		}
		for _, d := range m.Manifests {
			img, err := index.Image(d.Digest)
			if err != nil {
				t.Fatal(err)
			}
			config, err := img.ConfigFile()
			if err != nil || config.Config.Labels["stage"] != "prod" || config.Architecture != d.Platform.Architecture {
				t.Errorf("config %+v, %v", config, err)
			}
		}
		referrers := w.Registry.Host + "/v2/payments/web/referrers/" + image.Digest
		resp, err := http.Get("http://" + referrers)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if has := resp.StatusCode == http.StatusOK; has == noReferrers {
			t.Errorf("NoReferrers=%v: referrers API answers %d", noReferrers, resp.StatusCode)
		}
	}
}

func TestWorldListensOnLoopbackOnly(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0", "localhost"} {
		if w, err := Start(Options{Addr: addr}); err == nil {
			t.Errorf("%s: started at %s", addr, w.URL)
			_ = w.Close()
		}
	}
	w := start(t, Options{})
	for _, at := range []string{strings.TrimPrefix(w.URL, "http://"), w.Registry.Host} {
		host, _, err := net.SplitHostPort(at)
		if err != nil || !net.ParseIP(host).IsLoopback() {
			t.Errorf("listens at %s", at)
		}
	}
}

func control(t *testing.T, w *World, method, path, token, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, w.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestControlEndpointsWantTheControlToken(t *testing.T) {
	w := start(t, Options{})
	for _, path := range []string{"/dev/job/github", "/dev/job/gitlab", "/dev/image", "/dev/hold", "/dev/release/1"} {
		if status, _ := control(t, w, http.MethodPost, path, "guess", "{}"); status != http.StatusUnauthorized {
			t.Errorf("%s: status %d", path, status)
		}
	}
	if status, text := control(t, w, http.MethodPost, "/dev/job/github", w.ControlToken, `{"reff":"x"}`); status != http.StatusBadRequest || !strings.Contains(text, "reff") {
		t.Errorf("unknown field: %d %s", status, text)
	}
}

func TestJobLinesAreReadBackByAShell(t *testing.T) {
	w := start(t, Options{})
	status, lines := control(t, w, http.MethodPost, "/dev/job/github", w.ControlToken, `{"ref":"refs/heads/it's $(here)"}`)
	if status != http.StatusOK {
		t.Fatalf("%d %s", status, lines)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", lines+`printf '%s|%s' "$GITHUB_REF" "$ACTIONS_ID_TOKEN_REQUEST_URL"`)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(out.String(), "refs/heads/it's $(here)|"+w.URL+"/github/idtoken/") {
		t.Errorf("read back %q", out.String())
	}
	status, lines = control(t, w, http.MethodPost, "/dev/job/gitlab?variable=SIGN_TOKEN&audience="+url.QueryEscape(audience), w.ControlToken, "")
	if status != http.StatusOK || !strings.Contains(lines, "export SIGN_TOKEN='ey") {
		t.Errorf("%d %s", status, lines)
	}
}

func TestScriptHoldsAndReleasesAPublication(t *testing.T) {
	w := start(t, Options{})
	status, id := control(t, w, http.MethodPost, "/dev/hold", w.ControlToken, `{"method":"PUT","path":"/manifests/v1$"}`)
	if status != http.StatusOK {
		t.Fatalf("%d %s", status, id)
	}
	id = strings.TrimSpace(id)
	pushed := make(chan string, 1)
	go func() {
		_, text := control(t, w, http.MethodPost, "/dev/image", w.ControlToken, `{"repository":"payments/web","tag":"v1"}`)
		pushed <- text
	}()
	if status, text := control(t, w, http.MethodGet, "/dev/held/"+id+"?wait=2m", w.ControlToken, ""); status != http.StatusOK {
		t.Fatalf("%d %s", status, text)
	}
	select {
	case text := <-pushed:
		t.Fatalf("pushed while held: %s", text)
	default:
	}
	if status, seen := control(t, w, http.MethodPost, "/dev/release/"+id, w.ControlToken, ""); status != http.StatusOK || strings.TrimSpace(seen) != "1" {
		t.Errorf("release: %d %s", status, seen)
	}
	if text := <-pushed; !strings.HasPrefix(text, w.Registry.Host+"/payments/web@sha256:") {
		t.Errorf("pushed %q", text)
	}
	if status, _ := control(t, w, http.MethodGet, "/dev/held/77", w.ControlToken, ""); status != http.StatusNotFound {
		t.Errorf("unknown hold: %d", status)
	}
}
