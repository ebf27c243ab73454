package ci_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/ci"
	"github.com/sealwright/sealwright/internal/signing"
)

func TestEachCIGivesTheTokenWhereItKeepsIt(t *testing.T) {
	const other = "a.b.c"
	for name, env := range map[string]map[string]string{
		"CircleCI":  {"CIRCLECI": "true", "CIRCLE_OIDC_TOKEN": other, "CIRCLE_OIDC_TOKEN_V2": jwt + "\n"},
		"Bitbucket": {"BITBUCKET_BUILD_NUMBER": "1", "BITBUCKET_STEP_OIDC_TOKEN": jwt},
		"Buildkite": {"BUILDKITE": "true", "SEALWRIGHT_ID_TOKEN": jwt},
	} {
		w := &world{env: env}
		if got, err := w.detect(ci.Options{}).Token(t.Context(), "a"); err != nil || got != jwt {
			t.Errorf("%s: %q %v", name, got, err)
		}
		// What the caller names goes before what the CI sets.
		path := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(path, []byte(other+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		e := w.detect(ci.Options{TokenFile: path})
		if got, err := e.Token(t.Context(), "a"); err != nil || got != other || e.Renews {
			t.Errorf("%s with a file: %q %v", name, got, err)
		}
	}
}

// strict plays a token endpoint that refuses what the real one refuses.
func strict(t *testing.T, method, path, query, authorization, answer string) (address string, asked *int) {
	t.Helper()
	asked = new(int)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked++
		if r.Method != method || r.URL.Path != path || r.URL.RawQuery != query || r.Header.Get("Authorization") != authorization {
			t.Errorf("%s %s %q", r.Method, r.URL, r.Header.Get("Authorization"))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, answer)
	}))
	t.Cleanup(s.Close)
	return s.URL, asked
}

func TestAzureIsAskedForThePipelinesTokenWithTheJobsAccessToken(t *testing.T) {
	const path = "/org/guid/_apis/distributedtask/hubs/build/plans/1/jobs/2/oidctoken"
	address, asked := strict(t, http.MethodPost, path, "api-version=7.1", "Bearer access", `{"oidcToken":"`+jwt+`"}`)
	w := &world{env: map[string]string{"TF_BUILD": "True", "SYSTEM_OIDCREQUESTURI": address + path, "SYSTEM_ACCESSTOKEN": "access"}}
	e := w.detect(ci.Options{})
	for range 2 {
		if got, err := e.Token(t.Context(), "https://sign.acme.dev"); err != nil || got != jwt {
			t.Fatalf("%q %v", got, err)
		}
	}
	if *asked != 2 || !e.Renews || !strings.HasPrefix(w.out.String(), "##vso[task.setsecret]"+jwt+"\n") {
		t.Errorf("asked %d times, renews %v, log %q", *asked, e.Renews, w.out.String())
	}
	e.Annotate(ci.LevelError, "denied", "50%\nof ##vso[task.setvariable variable=PATH]evil")
	if lines := strings.Split(strings.TrimSpace(w.out.String()), "\n"); len(lines) != 2 || !strings.HasPrefix(lines[1], "##vso[task.logissue type=error]50%AZP25%0Aof ##\u200bvso[") {
		t.Errorf("%q", lines)
	}
	e.Print("##vso[task.setvariable variable=PATH]evil")
	if strings.Contains(w.out.String(), "\n##vso[task.setvariable") {
		t.Errorf("a printed text is a command: %q", w.out.String())
	}
}

func TestCodefreshIsAskedForATokenOfTheAudience(t *testing.T) {
	address, _ := strict(t, http.MethodGet, "/token", "audience=https%3A%2F%2Fsign.acme.dev%2F%3Fa%26b", "request-token", `{"id_token":"`+jwt+`"}`)
	w := &world{env: map[string]string{"CF_BUILD_ID": "1", "CF_OIDC_REQUEST_URL": address + "/token", "CF_OIDC_REQUEST_TOKEN": "request-token"}}
	if got, err := w.detect(ci.Options{}).Token(t.Context(), "https://sign.acme.dev/?a&b"); err != nil || got != jwt {
		t.Fatalf("%q %v", got, err)
	}
}

func TestATokenEndpointElsewhereThatIsNoneGetsNoCredentials(t *testing.T) {
	for _, address := range []string{"http://ci.example/token", "ftp://ci.example", "https://user:secret@ci.example/", "not a url", "//ci.example"} {
		for _, env := range []map[string]string{
			{"TF_BUILD": "True", "SYSTEM_OIDCREQUESTURI": address, "SYSTEM_ACCESSTOKEN": "access"},
			{"CF_BUILD_ID": "1", "CF_OIDC_REQUEST_URL": address, "CF_OIDC_REQUEST_TOKEN": "access"},
		} {
			_, err := (&world{env: env}).detect(ci.Options{}).Token(t.Context(), "a")
			if !errors.Is(err, signing.Unauthenticated) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: %v", address, err)
			}
		}
	}
}

func TestAnAnswerOfATokenEndpointWithoutATokenIsAnError(t *testing.T) {
	for _, answer := range []string{"", "{}", `{"oidcToken":7}`, `{"oidcToken":null}`, `["oidcToken"]`, `{"oidcToken":"not a token"}`, `{"value":"` + jwt + `"}`} {
		address, _ := strict(t, http.MethodPost, "/", "api-version=7.1", "Bearer access", answer)
		w := &world{env: map[string]string{"TF_BUILD": "True", "SYSTEM_OIDCREQUESTURI": address + "/", "SYSTEM_ACCESSTOKEN": "access"}}
		if got, err := w.detect(ci.Options{}).Token(t.Context(), "a"); err == nil {
			t.Errorf("%s: %q", answer, got)
		}
	}
}

func TestAJobWithoutATokenIsToldHowToGetOneInItsCI(t *testing.T) {
	for marker, words := range map[string][]string{
		"CIRCLECI":               {"circleci run oidc get", `"aud": "https://sign.acme.dev"`},
		"BITBUCKET_BUILD_NUMBER": {"oidc:", "https://sign.acme.dev"},
		"BUILDKITE":              {"buildkite-agent oidc request-token --audience https://sign.acme.dev", "organization_id,pipeline_id"},
		"TF_BUILD":               {"SYSTEM_ACCESSTOKEN: $(System.AccessToken)"},
		"CF_BUILD_ID":            {"CF_OIDC_REQUEST_URL"},
	} {
		_, err := (&world{env: map[string]string{marker: "true"}}).detect(ci.Options{}).Token(t.Context(), "https://sign.acme.dev")
		var e *signing.Error
		if !errors.As(err, &e) || e.Code != signing.Unauthenticated {
			t.Fatalf("%s: %v", marker, err)
		}
		for _, word := range words {
			if !strings.Contains(e.Fix, word) || strings.Contains(e.Fix, "%!") {
				t.Errorf("%s: %q does not say %q", marker, e.Fix, word)
			}
		}
	}
	_, err := (&world{env: map[string]string{"GITHUB_ACTIONS": "true", "FORGEJO_ACTIONS": "true"}}).detect(ci.Options{}).Token(t.Context(), "a")
	if err == nil || !strings.Contains(err.Error(), "enable-openid-connect: true") {
		t.Errorf("%v", err)
	}
}

func TestARepeatedJobElsewhereHasAnotherKeyThanItsNeighbours(t *testing.T) {
	keys := map[string]string{}
	for _, env := range []map[string]string{
		{"CIRCLECI": "true", "CIRCLE_WORKFLOW_ID": "1", "CIRCLE_JOB": "sign"}, {"CIRCLECI": "true", "CIRCLE_WORKFLOW_ID": "1", "CIRCLE_JOB": "sign2"}, {"CIRCLECI": "true", "CIRCLE_WORKFLOW_ID": "2", "CIRCLE_JOB": "sign"},
		{"BUILDKITE": "true", "BUILDKITE_BUILD_ID": "1", "BUILDKITE_JOB_ID": "1"}, {"BUILDKITE": "true", "BUILDKITE_BUILD_ID": "1", "BUILDKITE_JOB_ID": "2"},
		{"BITBUCKET_BUILD_NUMBER": "1", "BITBUCKET_STEP_UUID": "{1}"}, {"TF_BUILD": "True", "BUILD_BUILDID": "1"}, {"TF_BUILD": "True", "BUILD_BUILDID": "1", "SYSTEM_JOBATTEMPT": "2"}, {"CF_BUILD_ID": "1"}, {"CF_BUILD_ID": "2"},
	} {
		e := (&world{env: env}).detect(ci.Options{})
		key := e.IdempotencyKey(signing.DigestOf(nil))
		if was, twice := keys[key]; twice || key != e.IdempotencyKey(signing.DigestOf(nil)) {
			t.Errorf("%v has the key of %s", env, was)
		}
		keys[key] = fmt.Sprint(env)
	}
}
