package ci_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/ci"
	"github.com/sealwright/sealwright/internal/signing"
)

const jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJyZXBvOmEvYiJ9.c2lnbmF0dXJl"

// world is a job: its variables, its log and its files.
type world struct {
	env   map[string]string
	out   bytes.Buffer
	slept []time.Duration
	dir   string
}

func (w *world) detect(o ci.Options) *ci.Environment {
	o.Env = func(k string) string { return w.env[k] }
	o.Out = &w.out
	o.Sleep = func(ctx context.Context, d time.Duration) error {
		w.slept = append(w.slept, d)
		return ctx.Err()
	}
	return ci.Detect(o)
}

func (w *world) file(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(w.dir, name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(raw)
}

// onGitHub is a job of GitHub Actions whose token endpoint is h. The endpoint
// refuses what GitHub's refuses.
func onGitHub(t *testing.T, h http.HandlerFunc) *world {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.Header.Get("Authorization") != "bearer request-token" || r.URL.Query().Get("api-version") != "2.0" {
			t.Errorf("token request %s %s %v", r.Method, r.URL, r.Header)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h(w, r)
	}))
	t.Cleanup(s.Close)
	dir := t.TempDir()
	return &world{dir: dir, env: map[string]string{
		"GITHUB_ACTIONS": "true", "CI": "true", "GITHUB_RUN_ID": "100", "GITHUB_RUN_ATTEMPT": "1", "GITHUB_JOB": "release", "GITHUB_REPOSITORY_ID": "74",
		"ACTIONS_ID_TOKEN_REQUEST_URL": s.URL + "/token?api-version=2.0", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "request-token",
		"GITHUB_OUTPUT": filepath.Join(dir, "output"), "GITHUB_STEP_SUMMARY": filepath.Join(dir, "summary"),
	}}
}

func giveToken(w http.ResponseWriter, _ *http.Request) {
	_ = json.NewEncoder(w).Encode(map[string]any{"count": 1, "value": jwt})
}

func onGitLab(t *testing.T) *world {
	dir := t.TempDir()
	return &world{dir: dir, env: map[string]string{"GITLAB_CI": "true", "CI": "true", "CI_PIPELINE_ID": "9", "CI_JOB_ID": "11", "CI_PROJECT_ID": "412", "CI_PROJECT_DIR": dir, "SEALWRIGHT_ID_TOKEN": jwt}}
}

func TestEachCIIsRecognisedByItsOwnVariable(t *testing.T) {
	for want, env := range map[string]map[string]string{
		ci.GitHub:   {"GITHUB_ACTIONS": "true"},
		ci.GitLab:   {"GITLAB_CI": "true"},
		ci.CircleCI: {"CIRCLECI": "true"}, ci.Bitbucket: {"BITBUCKET_BUILD_NUMBER": "7"}, ci.Buildkite: {"BUILDKITE": "true"},
		ci.AzureDevOps: {"TF_BUILD": "True"}, ci.Codefresh: {"CF_BUILD_ID": "64f4"},
		ci.None: {"CI": "true", "GITHUB_ACTIONS": "false", "GITLAB_CI": "", "CIRCLECI": "false", "TF_BUILD": "False"},
	} {
		e := (&world{env: env}).detect(ci.Options{})
		if e.Name != want || e.Renews != slices.Contains([]string{ci.GitHub, ci.AzureDevOps, ci.Codefresh}, want) {
			t.Errorf("%v is %s, renews %v", env, e.Name, e.Renews)
		}
	}
}

func TestAGitHubTokenIsAskedForWithTheEscapedAudienceAndMaskedFirst(t *testing.T) {
	w := onGitHub(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("audience") != "https://sign.acme.dev/?a=b&c" {
			t.Errorf("audience %q", r.URL.Query().Get("audience"))
		}
		giveToken(w, r)
	})
	e := w.detect(ci.Options{})
	token, err := e.Token(t.Context(), "https://sign.acme.dev/?a=b&c")
	if err != nil || token != jwt {
		t.Fatalf("%q %v", token, err)
	}
	if got := w.out.String(); got != "::add-mask::"+jwt+"\n" {
		t.Errorf("log %q", got)
	}
	// From there on it is nowhere, whoever repeats it.
	e.Print("the server said " + jwt + "\n")
	e.Annotate(ci.LevelError, jwt, jwt)
	if _, err := e.Outputs([]ci.Output{{Name: "x", Value: jwt}}); err != nil {
		t.Fatal(err)
	}
	if err := e.Summary("`" + jwt + "`"); err != nil {
		t.Fatal(err)
	}
	all := strings.TrimPrefix(w.out.String(), "::add-mask::"+jwt+"\n") + w.file(t, "output") + w.file(t, "summary") + e.Redact(jwt)
	if strings.Contains(all, jwt) || strings.Count(all, "***") != 6 {
		t.Errorf("the token leaked: %s", all)
	}
}

func TestATokenEndpointThatFallsOverIsAskedAgainUpToABound(t *testing.T) {
	calls := 0
	w := onGitHub(t, func(w http.ResponseWriter, r *http.Request) {
		switch calls++; calls {
		case 1:
			w.WriteHeader(http.StatusInternalServerError)
		case 2:
			w.Header().Set("Retry-After", "9")
			w.WriteHeader(http.StatusTooManyRequests)
		case 3:
			w.Header().Set("Content-Length", "500") // and breaks off
			fmt.Fprint(w, "{")
		default:
			giveToken(w, r)
		}
	})
	if _, err := w.detect(ci.Options{}).Token(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]time.Duration{time.Second, 9 * time.Second, 4 * time.Second}, w.slept); d != "" {
		t.Error(d)
	}

	calls = 0
	w = onGitHub(t, func(w http.ResponseWriter, r *http.Request) { calls++; w.WriteHeader(http.StatusBadGateway) })
	_, err := w.detect(ci.Options{}).Token(t.Context(), "a")
	if calls != 6 || len(w.slept) != 5 || !errors.Is(err, signing.Unavailable) {
		t.Errorf("%d calls, %v, %v", calls, w.slept, err)
	}
}

func TestARefusalOfTheTokenEndpointIsFinalAndSaysWhatToDo(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"forbidden":           func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusForbidden) },
		"no value":            func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{}`) },
		"a page":              func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `<html>`) },
		"endless":             func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, strings.Repeat("x", 1<<20)) },
		"a token of 1 MB":     func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, `{"value":"a.%0*d.c"}`, 20<<10, 7) },
		"not a token":         func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"value":"hunter2"}`) },
		"a token and a line":  func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"value":"a.b.c\n::set-env name=x::y"}`) },
		"a token in a header": func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"value":"a.b.c\r\nX-Evil: 1"}`) },
	} {
		t.Run(name, func(t *testing.T) {
			calls := 0
			w := onGitHub(t, func(w http.ResponseWriter, r *http.Request) { calls++; h(w, r) })
			_, err := w.detect(ci.Options{}).Token(t.Context(), "a")
			if err == nil || calls != 1 || signing.Public(err).Fix == "" || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%d calls, %v", calls, err)
			}
			if w.out.Len() != 0 {
				t.Errorf("log %q", w.out.String())
			}
		})
	}
}

func TestCredentialsSentToAnotherHostByTheTokenEndpointAreImpossible(t *testing.T) {
	reached := false
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	defer other.Close()
	w := onGitHub(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, http.StatusFound) })
	if _, err := w.detect(ci.Options{}).Token(t.Context(), "a"); err == nil || reached {
		t.Errorf("reached %v, %v", reached, err)
	}
	for _, address := range []string{"http://token.example.com/?x", "https://u:p@token.example.com/?x", "file:///etc/passwd", "::", "/relative"} {
		w.env["ACTIONS_ID_TOKEN_REQUEST_URL"] = address
		if _, err := w.detect(ci.Options{}).Token(t.Context(), "a"); !errors.Is(err, signing.Unauthenticated) {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestAJobWithoutPermissionIsToldWhichOneItNeeds(t *testing.T) {
	w := onGitHub(t, giveToken)
	delete(w.env, "ACTIONS_ID_TOKEN_REQUEST_TOKEN")
	_, err := w.detect(ci.Options{}).Token(t.Context(), "a")
	if !errors.Is(err, signing.Unauthenticated) || !strings.Contains(signing.Public(err).Fix, "permissions: id-token: write") {
		t.Errorf("github: %v", err)
	}
	w = onGitLab(t)
	w.env["SEALWRIGHT_ID_TOKEN"] = ""
	_, err = w.detect(ci.Options{}).Token(t.Context(), "https://sign.acme.dev")
	if !errors.Is(err, signing.Unauthenticated) || !strings.Contains(signing.Public(err).Fix, `id_tokens: {SEALWRIGHT_ID_TOKEN: {aud: "https://sign.acme.dev"}}`) {
		t.Errorf("gitlab: %v", err)
	}
	w = &world{env: map[string]string{}}
	_, err = w.detect(ci.Options{}).Token(t.Context(), "a")
	if !errors.Is(err, signing.Unauthenticated) || !strings.Contains(signing.Public(err).Fix, "--id-token-file") {
		t.Errorf("none: %v", err)
	}
}

func TestElsewhereTheTokenComesFromTheNamedVariableOrFile(t *testing.T) {
	w := onGitLab(t)
	w.env["OTHER"] = " a.b.c\n"
	for name, c := range map[string]struct {
		o    ci.Options
		want string
	}{
		"default variable": {ci.Options{}, jwt},
		"named variable":   {ci.Options{TokenVariable: "OTHER"}, "a.b.c"},
	} {
		if got, err := w.detect(c.o).Token(t.Context(), "a"); err != nil || got != c.want {
			t.Errorf("%s: %q %v", name, got, err)
		}
	}
	path := filepath.Join(t.TempDir(), "token")
	for content, ok := range map[string]bool{jwt + "\n": true, "a." + strings.Repeat("b", 17<<10) + ".c": false, "": false, "no token": false} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := (&world{}).detect(ci.Options{TokenFile: path}).Token(t.Context(), "a")
		if (err == nil) != ok || ok && got != jwt {
			t.Errorf("file of %d bytes: %q %v", len(content), got, err)
		}
	}
	if _, err := w.detect(ci.Options{TokenFile: path + "x"}).Token(t.Context(), "a"); !errors.Is(err, signing.Unauthenticated) {
		t.Errorf("no file: %v", err)
	}
}

func TestInputsKeepTheirHyphensOnGitHubAndLoseThemElsewhere(t *testing.T) {
	w := onGitHub(t, giveToken)
	w.env["INPUT_SIGN-TAG"], w.env["SEALWRIGHT_SIGN_TAG"], w.env["SEALWRIGHT_POLICY"], w.env["INPUT_POLICY"] = " v1 ", "v2", "release", ""
	e := w.detect(ci.Options{})
	if e.Input("sign-tag") != "v1" || e.Input("policy") != "release" || e.Input("server") != "" {
		t.Errorf("%q %q %q", e.Input("sign-tag"), e.Input("policy"), e.Input("server"))
	}
	w.env["GITHUB_ACTIONS"] = ""
	if e := w.detect(ci.Options{}); e.Input("sign-tag") != "v2" {
		t.Errorf("%q", e.Input("sign-tag"))
	}
}

func TestARepeatedStepHasTheSameKeyAndEverythingElseAnother(t *testing.T) {
	body := signing.DigestOf([]byte("a"))
	seen := map[string]string{}
	for name, change := range map[string]func(map[string]string){
		"as it is": func(map[string]string) {},
		"run":      func(e map[string]string) { e["GITHUB_RUN_ID"] = "101" },
		"attempt":  func(e map[string]string) { e["GITHUB_RUN_ATTEMPT"] = "2" },
		"job":      func(e map[string]string) { e["GITHUB_JOB"] = "other" },
		"shifted":  func(e map[string]string) { e["GITHUB_RUN_ID"], e["GITHUB_RUN_ATTEMPT"] = "1001", "" },
		"gitlab":   func(e map[string]string) { e["GITHUB_ACTIONS"], e["GITLAB_CI"] = "", "true" },
	} {
		w := onGitHub(t, giveToken)
		change(w.env)
		key := w.detect(ci.Options{}).IdempotencyKey(body)
		if again := w.detect(ci.Options{}).IdempotencyKey(body); again != key {
			t.Errorf("%s: %q and %q", name, key, again)
		}
		if was, taken := seen[key]; taken {
			t.Errorf("%s has the key of %s", name, was)
		}
		seen[key] = name
		if other := w.detect(ci.Options{}).IdempotencyKey(signing.DigestOf([]byte("b"))); other == key {
			t.Errorf("%s: another body has the same key", name)
		}
	}
}
