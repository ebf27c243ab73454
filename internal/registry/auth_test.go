package registry_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

// tokenService is a strict registry with a token service: it knows one robot,
// gives tokens for the scopes it may have, and refuses everything else.
type tokenService struct {
	inner http.Handler
	realm string // empty: /token on this host

	mu      sync.Mutex
	life    int               // expires_in
	tokens  map[string]string // token -> scope
	asked   []string          // scopes asked for
	granted func(scope string) bool
}

func newTokenService() *tokenService {
	return &tokenService{inner: ggcrRegistry(), life: 300, tokens: map[string]string{}, granted: func(string) bool { return true }}
}

func (s *tokenService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/token" {
		s.give(w, r)
		return
	}
	s.mu.Lock()
	scope := s.tokens[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
	s.mu.Unlock()
	need := "pull"
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		need = "push"
	}
	_, actions, _ := strings.Cut(strings.TrimPrefix(scope, "repository:"), ":")
	if !strings.HasPrefix(scope, "repository:acme/") || !strings.Contains(actions, need) {
		realm := s.realm
		if realm == "" {
			realm = "http://" + r.Host + "/token"
		}
		// The scope that the registry suggests is not what is asked for.
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s",service="test",scope="repository:other:pull,push,delete",error="invalid_token"`, realm))
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	s.inner.ServeHTTP(w, r)
}

func (s *tokenService) give(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	scope := r.FormValue("scope")
	s.asked = append(s.asked, scope)
	user, pass, basic := r.BasicAuth()
	ok := r.Method == http.MethodGet && basic && user == "robot" && pass == "secret" ||
		r.Method == http.MethodPost && r.PostFormValue("grant_type") == "refresh_token" && r.PostFormValue("refresh_token") == "refresh"
	if !ok || r.FormValue("service") != "test" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if !s.granted(scope) {
		scope = ""
	}
	token := fmt.Sprintf("token-%d", len(s.tokens))
	s.tokens[token] = scope
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_in": s.life})
}

func (s *tokenService) scopes() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.asked
	s.asked = nil
	return out
}

func TestATokenIsAskedForOnceAndUsedUntilItsEnd(t *testing.T) {
	s := newTokenService()
	w := newWorld(t, s, robot)
	a := signing.Artifact{Repository: w.repo, Digest: signing.DigestOf(nil)}
	w.attach(cosignSignature(a, "one"))
	if n := w.sent(); len(n) != 8 { // a 401 and a token more than without
		t.Errorf("the first write sent %d requests: %q", len(n), n)
	}
	if got := s.scopes(); len(got) != 1 || got[0] != "repository:acme/web:pull,push" {
		t.Errorf("scopes asked for: %q, want just what the write needs", got)
	}
	w.attach(cosignSignature(a, "two"))
	w.signatures("sha256-" + a.Digest.Hex() + ".sig") // reading may use the same token
	if n := w.sent(); len(n) != 6 || len(s.scopes()) != 0 {
		t.Errorf("with a token at hand it sent %q", n)
	}
	w.advance(291 * time.Second)
	w.attach(cosignSignature(a, "two"))
	if got := s.scopes(); len(got) != 1 {
		t.Errorf("shortly before its end no new token was asked for: %q", got)
	}
	if n := w.sent(); len(n) != 2 {
		t.Errorf("sent %q, want the token and one read, and no 401", n)
	}
	w.repo = signing.Repository(w.host + "/acme/api")
	_, _ = w.client.Resolve(t.Context(), w.repo, "v1")
	if got := s.scopes(); len(got) != 1 || got[0] != "repository:acme/api:pull" {
		t.Errorf("scopes for another repository: %q", got)
	}
}

func TestATokenThatIsRevokedIsReplacedOnce(t *testing.T) {
	s := newTokenService()
	w := newWorld(t, s, robot)
	a := signing.Artifact{Repository: w.repo, Digest: signing.DigestOf(nil)}
	w.attach(cosignSignature(a, "one"))
	clear(s.tokens)
	w.attach(cosignSignature(a, "two"))

	s.granted = func(string) bool { return false }
	clear(s.tokens)
	w.sent()
	_, err := w.client.Attach(t.Context(), cosignSignature(a, "three"))
	if e := asError(t, err, signing.Denied); e.Fix == "" {
		t.Errorf("error = %v", err)
	}
	if n := w.sent(); len(n) != 3 {
		t.Errorf("a refusal was argued with: %q", n)
	}
}

func TestConcurrentRequestsShareOneToken(t *testing.T) {
	s := newTokenService()
	w := newWorld(t, s, robot)
	a := signing.Artifact{Repository: w.repo, Digest: signing.DigestOf(nil)}
	w.attach(cosignSignature(a, "one"))
	s.scopes()
	w.advance(time.Hour)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := w.client.Attach(t.Context(), cosignSignature(a, "one")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := s.scopes(); len(got) != 1 {
		t.Errorf("%d tokens were asked for, want 1", len(got))
	}
}

// CVE-2026-33540 and CVE-2026-24845.
func TestCredentialsAreNotSentToAnAttackersTokenRealm(t *testing.T) {
	asked := 0
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked++ }))
	defer evil.Close()
	for _, realm := range []string{
		evil.URL + "/token", strings.Replace(evil.URL, "http:", "https:", 1) + "/token",
		"https://registry.acme.dev.evil.example/token", "//evil.example/token", "/token", "token", "http://HOST@evil.example/token",
		"http://user:pass@HOST/token", "http://HOST:1/token", "https://HOST/token", "file:///etc/passwd", "http://HOST/token#x", "http://[::1", "https:evil.example",
	} {
		s := newTokenService()
		w := newWorld(t, s, robot)
		s.realm = strings.ReplaceAll(realm, "HOST", w.host)
		_, err := w.client.Resolve(t.Context(), w.repo, "v1")
		if e := asError(t, err, signing.Denied); !strings.Contains(e.Fix, "token_realm") || !strings.Contains(e.Expected, w.host) {
			t.Errorf("realm %q: %v", realm, err)
		}
		if n := w.sent(); len(n) != 1 || len(s.scopes()) != 0 {
			t.Errorf("realm %q: sent %q", realm, n)
		}
	}
	if asked != 0 {
		t.Errorf("the attacker's realm was asked %d times", asked)
	}
}

func TestATokenRealmOnAnotherHostWorksWhereItIsConfigured(t *testing.T) {
	s := newTokenService()
	elsewhere := httptest.NewServer(s)
	defer elsewhere.Close()
	s.realm = elsewhere.URL + "/token"
	w := newWorld(t, s, func(c *registry.Config) { robot(c); c.TokenRealm = []string{s.realm} })
	_, err := w.client.Resolve(t.Context(), w.repo, "v1")
	asError(t, err, signing.NotFound)
	if len(s.scopes()) != 1 {
		t.Error("the configured realm was not asked")
	}
	s.realm = elsewhere.URL + "/other"
	clear(s.tokens)
	_, err = w.client.Resolve(t.Context(), w.repo, "v1")
	asError(t, err, signing.Denied)
}

func TestATokenServiceThatFailsHasItsOwnClassNeverNotFound(t *testing.T) {
	for _, c := range []struct {
		answer http.HandlerFunc
		code   signing.Code
	}{
		{answering(401, nil, ""), signing.Denied},
		{answering(403, nil, ""), signing.Denied},
		{answering(404, nil, ""), signing.Denied},
		{answering(400, nil, ""), signing.Denied},
		{answering(429, map[string]string{"Retry-After": "60"}, ""), signing.RateLimited},
		{answering(500, nil, ""), signing.Unavailable},
		{answering(200, nil, "{}"), signing.Unavailable},
		{answering(200, nil, `{"token":"a\r\nb"}`), signing.Unavailable},
		{answering(200, nil, "<html>"), signing.Unavailable},
		{answering(200, nil, strings.Repeat(" ", 1<<20)), signing.TooLarge},
		{answering(302, map[string]string{"Location": "/elsewhere"}, ""), signing.Denied},
	} {
		w := newWorld(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/token" {
				c.answer(rw, r)
				return
			}
			rw.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token"`)
			rw.WriteHeader(http.StatusUnauthorized)
		}), nil)
		_, err := w.client.Resolve(t.Context(), w.repo, "v1")
		asError(t, err, c.code)
	}
}

func TestBasicCredentialsAreSentOnlyAfterTheRegistryAsksForThem(t *testing.T) {
	var got []string
	handler := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		user, pass, _ := r.BasicAuth()
		got = append(got, user+":"+pass)
		if user != "robot" || pass != "secret" {
			rw.Header().Add("WWW-Authenticate", `Negotiate`)
			rw.Header().Add("WWW-Authenticate", `Basic realm="Registry, of \"Acme\"", charset="UTF-8"`)
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		rw.WriteHeader(http.StatusNotFound)
	})
	w := newWorld(t, handler, robot)
	for range 2 {
		_, err := w.client.Resolve(t.Context(), w.repo, "v1")
		asError(t, err, signing.NotFound)
	}
	if want := []string{":", "robot:secret", "robot:secret"}; strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("credentials sent: %q, want %q", got, want)
	}
	w = newWorld(t, handler, nil)
	_, err := w.client.Resolve(t.Context(), w.repo, "v1")
	asError(t, err, signing.Denied)
}

// dockerConfig writes a config.json and returns what configures it.
func dockerConfig(t *testing.T, content string) func(*registry.Config) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.json")
	return func(c *registry.Config) {
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(content, "HOST", c.Host)), 0o600); err != nil {
			t.Fatal(err)
		}
		c.DockerConfig = path
	}
}

// helper puts docker-credential-NAME on PATH.
func helper(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
}

func TestCredentialsComeFromDockersConfigAndItsHelpers(t *testing.T) {
	const robotBase64 = "cm9ib3Q6c2VjcmV0" // robot:secret
	helper(t, "acme-test", `read server; case "$1 $server" in
"get 127.0.0.1:"*) echo '{"Username":"robot","Secret":"secret"}';;
*) echo "credentials not found in native keychain"; exit 1;; esac`)
	helper(t, "refresh-test", `echo '{"Username":"<token>","Secret":"refresh"}'`)
	helper(t, "none-test", `echo "credentials not found in native keychain"; exit 1`)
	helper(t, "broken-test", `echo boom >&2; exit 1`)
	helper(t, "endless-test", `exec yes`)
	t.Chdir(t.TempDir()) // where the program docker-credential-by/path could be run
	if err := errors.Join(os.Mkdir("docker-credential-by", 0o700), os.WriteFile("docker-credential-by/path", []byte("#!/bin/sh\necho '{\"Username\":\"robot\",\"Secret\":\"secret\"}'\n"), 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		edit func(*registry.Config)
		code signing.Code // NotFound is the registry's answer behind the door
	}{
		{"auths", dockerConfig(t, `{"auths":{"other.example":{"auth":"b3RoZXI6b3RoZXI="},"HOST":{"auth":"`+robotBase64+`"}}}`), signing.NotFound},
		{"auths with a URL as key", dockerConfig(t, `{"auths":{"https://HOST/v2/":{"username":"robot","password":"secret"}}}`), signing.NotFound},
		{"identity token", dockerConfig(t, `{"auths":{"HOST":{"identitytoken":"refresh"}}}`), signing.NotFound},
		{"no credentials for this host go to it", dockerConfig(t, `{"auths":{"other.example":{"auth":"`+robotBase64+`"}}}`), signing.Denied},
		{"a host that only begins alike", dockerConfig(t, `{"auths":{"HOST0":{"auth":"`+robotBase64+`"},"HOST.evil.example":{"auth":"`+robotBase64+`"}}}`), signing.Denied},
		{"credHelpers", dockerConfig(t, `{"credHelpers":{"HOST":"acme-test"}}`), signing.NotFound},
		{"credsStore", dockerConfig(t, `{"credsStore":"acme-test"}`), signing.NotFound},
		{"credsStore without this host, then auths", dockerConfig(t, `{"credsStore":"none-test","auths":{"HOST":{"auth":"`+robotBase64+`"}}}`), signing.NotFound},
		{"credential_helper", func(c *registry.Config) { c.CredentialHelper = "acme-test" }, signing.NotFound},
		{"a refresh token of a helper", func(c *registry.Config) { c.CredentialHelper = "refresh-test" }, signing.NotFound},
		{"a helper that fails", func(c *registry.Config) { c.CredentialHelper = "broken-test" }, signing.Unavailable},
		{"a helper without end", func(c *registry.Config) { c.CredentialHelper = "endless-test" }, signing.Unavailable},
		{"a helper that is not there", func(c *registry.Config) { c.CredentialHelper = "missing-test" }, signing.Unavailable},
		{"a helper by path", dockerConfig(t, `{"credsStore":"by/path"}`), signing.Unavailable},
		{"auth that is not base64", dockerConfig(t, `{"auths":{"HOST":{"auth":"%%%"}}}`), signing.Unavailable},
	} {
		w := newWorld(t, newTokenService(), c.edit)
		_, err := w.client.Resolve(t.Context(), w.repo, "v1")
		if e := asError(t, err, c.code); strings.Contains(e.Error(), "secret") && c.code != signing.Denied {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestAHelperRunsOnceForManyRequests(t *testing.T) {
	count := filepath.Join(t.TempDir(), "count")
	helper(t, "counting-test", `echo x >> `+count+`; echo '{"Username":"robot","Secret":"secret"}'`)
	s := newTokenService()
	w := newWorld(t, s, func(c *registry.Config) { c.CredentialHelper = "counting-test" })
	runs := func() int { b, _ := os.ReadFile(count); return strings.Count(string(b), "x") }
	for i := range 5 {
		_, _ = w.client.Resolve(t.Context(), signing.Repository(fmt.Sprintf("%s/acme/r%d", w.host, i)), "v1")
	}
	if n := runs(); n != 1 {
		t.Errorf("the helper ran %d times, want once", n)
	}
	w.advance(time.Hour)
	_, _ = w.client.Resolve(t.Context(), w.repo, "v1")
	if n := runs(); n != 2 {
		t.Errorf("after an hour the helper ran %d times, want twice", n)
	}
}

func TestAConfigurationThatCannotBeReadStopsTheStart(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte("secret, but neither JSON nor PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]registry.Connection{
		"no docker config":  {DockerConfig: bad + "-missing"},
		"bad docker config": {DockerConfig: bad},
		"bad CA":            {CAFile: bad},
		"a folder as CA":    {CAFile: filepath.Dir(bad)},
		"no secret":         {Username: "u", Password: "file:/nonexistent/secret"},
	} {
		if _, err := registry.New([]registry.Config{{Host: "registry.acme.dev", Connection: c}}, registry.Options{}); err == nil || strings.Contains(err.Error(), "neither") {
			t.Errorf("%s: %v, want an error without the content", name, err)
		}
	}
}

func TestTheCAOfARowIsTrustedForItsHost(t *testing.T) {
	s := httptest.NewTLSServer(ggcrRegistry())
	defer s.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pemOf(s.Certificate().Raw), 0o600); err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(s.URL, "https://")
	for file, code := range map[string]signing.Code{ca: signing.NotFound, "": signing.Unavailable} {
		c, err := registry.New([]registry.Config{{Host: host, Connection: registry.Connection{CAFile: file}}}, registry.Options{Sleep: noSleep})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Resolve(t.Context(), signing.Repository(host+"/acme/web"), "v1")
		asError(t, err, code)
	}
}

func TestDockerHubIsReachedWhereItsAPILives(t *testing.T) {
	var seen []string
	c, err := registry.New([]registry.Config{{Host: "docker.io"}}, registry.Options{Transport: transportFunc(func(r *http.Request) (*http.Response, error) {
		seen = append(seen, r.URL.Scheme+"://"+r.URL.Host+r.URL.Path)
		h := http.Header{"Www-Authenticate": {`Bearer realm="https://auth.docker.io/token",service="registry.docker.io"`}}
		return &http.Response{StatusCode: 401, Header: h, Body: http.NoBody, Request: r}, nil
	})})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Resolve(t.Context(), "docker.io/acme/web", "v1")
	asError(t, err, signing.Denied)
	want := "https://registry-1.docker.io/v2/acme/web/manifests/v1 https://auth.docker.io/token"
	if got := strings.Join(seen, " "); got != want {
		t.Errorf("asked %s, want %s", got, want)
	}
}

func TestATokenForPushingIsNotUsedWhereMoreIsAskedFor(t *testing.T) {
	var scopes []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			scopes = append(scopes, r.URL.Query().Get("scope"))
			_, _ = w.Write([]byte(`{"token":"` + strings.ReplaceAll(r.URL.Query().Get("scope"), "*", "all") + `"}`))
			return
		}
		if r.Header.Get("Authorization") == "" {
			w.Header().Set("Www-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="notary"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer srv.Close()
	n, err := registry.NewNotary(registry.Config{Host: strings.TrimPrefix(srv.URL, "http://"), InsecureHTTP: true}, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []registry.Access{registry.AccessPush, registry.AccessPull, registry.AccessAll, registry.AccessPush} {
		if _, _, err := n.Do(t.Context(), registry.NotaryRequest{Method: http.MethodGet, Scope: "registry.acme.dev/web", Path: "v2/x", Access: a, Most: 10}); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"repository:registry.acme.dev/web:pull,push", "repository:registry.acme.dev/web:*"}; !slices.Equal(scopes, want) {
		t.Errorf("asked for %q, want %q", scopes, want)
	}
}
