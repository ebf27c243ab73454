package github

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
)

// key is made once: making one takes long.
var key = sync.OnceValue(func() []byte {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)})
})

// fake answers by method and path, as recorded answers of a forge would. What it
// does not know is a 404 as GitHub writes it.
type fake struct {
	t  *testing.T
	mu sync.Mutex
	// answers by "GET /repos/acme/web"; a query is not part of the key unless the
	// key has one.
	answers map[string]http.HandlerFunc
	asked   []string
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	what := r.Method + " " + r.URL.EscapedPath()
	f.asked = append(f.asked, what+"?"+r.URL.RawQuery)
	h := f.answers[what+"?"+r.URL.RawQuery]
	if h == nil {
		h = f.answers[what]
	}
	f.mu.Unlock()
	if h == nil {
		w.WriteHeader(404)
		fmt.Fprint(w, `{"message":"Not Found","documentation_url":"https://docs.github.com/rest","status":"404"}`)
		return
	}
	h(w, r)
}

// count returns how many requests began with prefix.
func (f *fake) count(prefix string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.asked {
		if strings.HasPrefix(a, prefix) {
			n++
		}
	}
	return n
}

func (f *fake) set(what string, h http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[what] = h
}

// says answers with v as JSON, or as it is where it is a string.
func says(v any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		if s, ok := v.(string); ok {
			fmt.Fprint(w, s)
			return
		}
		_ = json.NewEncoder(w).Encode(v)
	}
}

// fails answers with a status, and a message as GitHub writes it.
func fails(status int, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]string{"message": message, "documentation_url": "https://docs.github.com/rest"})
	}
}

const (
	webID = "1296269"
	web   = "/repos/acme/web"
)

// standing is the repository of the tests.
var standing = forge.Repository{ID: webID, Name: "acme/web"}

// world returns a fake with one App, installed on acme/web, and its Client.
func world(t *testing.T, change ...func(*forge.Config, *Options)) (*fake, *Client) {
	t.Helper()
	f := &fake{t: t, answers: map[string]http.HandlerFunc{
		"GET " + web + "/installation": says(`{"id":77,"app_id":5,"suspended_at":null}`),
		"POST /app/installations/77/access_tokens": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(201)
			fmt.Fprintf(w, `{"token":"ghs_test","expires_at":%q}`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
		},
		"GET " + web: says(`{"id":1296269,"full_name":"acme/web","default_branch":"main","private":true,"html_url":"https://github.com/acme/web"}`),
	}}
	s := httptest.NewServer(recording(t, f))
	t.Cleanup(s.Close)
	file := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(file, key(), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := forge.Config{Host: "github.com", Kind: "github", API: s.URL, Apps: []forge.App{{ID: "5", PrivateKey: config.Secret("file:" + file)}}}
	o := Options{Outbound: outbound.Options{AllowHTTP: true, Timeout: 5 * time.Second}}
	for _, c := range change {
		c(&cfg, &o)
	}
	c, err := New(cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	return f, c
}

func wantCode(t *testing.T, err error, code signing.Code, words ...string) *signing.Error {
	t.Helper()
	var e *signing.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("error = %v, want %s", err, code)
	}
	for _, w := range words {
		if !strings.Contains(e.Error(), w) {
			t.Errorf("error = %v, want it to say %q", e, w)
		}
	}
	return e
}

func TestARepositoryIsServedByTheAppThatIsInstalledOnIt(t *testing.T) {
	f, c := world(t)
	var auth string
	inner := f.answers["GET "+web]
	f.set("GET "+web, func(w http.ResponseWriter, r *http.Request) { auth = r.Header.Get("Authorization"); inner(w, r) })
	for range 3 {
		_, owner, name, err := c.repo(t.Context(), standing)
		if err != nil || owner != "acme" || name != "web" {
			t.Fatalf("%s/%s, %v", owner, name, err)
		}
	}
	if auth != "token ghs_test" {
		t.Errorf("Authorization = %q, want the installation's token", auth)
	}
	if n := f.count("GET " + web + "/installation"); n != 1 {
		t.Errorf("the installation was looked up %d times, want once", n)
	}
}

func TestANameThatBelongsToAnotherRepositoryIsRefused(t *testing.T) {
	_, c := world(t)
	_, _, _, err := c.repo(t.Context(), forge.Repository{ID: "42", Name: "acme/web"})
	wantCode(t, err, signing.NotFound, "repository id 42", "1296269")
}

func TestANameGivenToAnotherRepositoryIsNoticedAfterItsTime(t *testing.T) {
	now := time.Now()
	f, c := world(t, func(_ *forge.Config, o *Options) { o.Now = func() time.Time { return now } })
	if _, _, _, err := c.repo(t.Context(), standing); err != nil {
		t.Fatal(err)
	}
	f.set("GET "+web, says(`{"id":42,"full_name":"acme/web","default_branch":"main"}`))
	now = now.Add(nameFresh)
	_, _, _, err := c.repo(t.Context(), standing)
	wantCode(t, err, signing.NotFound, "repository id 42")
}

func TestARenamedRepositoryIsFollowedOnItsOwnHostOnly(t *testing.T) {
	f, c := world(t)
	f.set("GET "+web, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/repositories/1296269", http.StatusMovedPermanently)
	})
	f.set("GET /repositories/1296269", says(`{"id":1296269,"full_name":"acme/shop","default_branch":"main"}`))
	if _, owner, name, err := c.repo(t.Context(), standing); err != nil || owner+"/"+name != "acme/shop" {
		t.Errorf("%s/%s, %v; want acme/shop", owner, name, err)
	}

	followed := false
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { followed = true }))
	defer other.Close()
	f, c = world(t)
	f.set("GET "+web, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL+"/", http.StatusFound) })
	_, _, _, err := c.repo(t.Context(), standing)
	wantCode(t, err, signing.Denied, "redirect")
	if followed {
		t.Error("the redirect to another host was followed")
	}
}

func TestSeveralAppsEachServeTheirRepositories(t *testing.T) {
	f, c := world(t, func(cfg *forge.Config, _ *Options) {
		cfg.Apps = append([]forge.App{{ID: "4", PrivateKey: cfg.Apps[0].PrivateKey}}, cfg.Apps...)
	})
	first := 0
	inner := f.answers["GET "+web+"/installation"]
	f.set("GET "+web+"/installation", func(w http.ResponseWriter, r *http.Request) {
		if first++; first == 1 {
			fails(404, "Not Found")(w, r)
			return
		}
		inner(w, r)
	})
	p, err := c.place(t.Context(), standing)
	if err != nil || p.app.id != 5 || p.installation != 77 {
		t.Errorf("%+v, %v; want App 5, installation 77", p, err)
	}
}

func TestAnInstallationThatIsNotConfiguredOrSuspendedServesNothing(t *testing.T) {
	_, c := world(t, func(cfg *forge.Config, _ *Options) { cfg.Apps[0].Installations = []string{"78"} })
	_, _, _, err := c.repo(t.Context(), standing)
	wantCode(t, err, signing.NotFound, "not in the configuration")

	f, c := world(t)
	f.set("GET "+web+"/installation", says(`{"id":77,"suspended_at":"2026-01-01T00:00:00Z"}`))
	_, _, _, err = c.repo(t.Context(), standing)
	wantCode(t, err, signing.Denied, "suspended")

	f, c = world(t)
	f.set("GET "+web+"/installation", fails(404, "Not Found"))
	_, _, _, err = c.repo(t.Context(), standing)
	wantCode(t, err, signing.NotFound, "install the App")
}

func TestATokenThatIsNotGivenIsNoAnswer(t *testing.T) {
	for status, code := range map[int]signing.Code{401: signing.Denied, 403: signing.Denied, 404: signing.Denied, 500: signing.Unavailable} {
		f, c := world(t)
		f.set("POST /app/installations/77/access_tokens", fails(status, "no"))
		for range 20 { // more than the share of a host: nothing may be held
			_, _, _, err := c.repo(t.Context(), standing)
			wantCode(t, err, code)
		}
	}
}

func TestTheAddressesFollowFromTheHost(t *testing.T) {
	for _, c := range []struct{ host, api, want, graphql string }{
		{"github.com", "", "https://api.github.com/", "https://api.github.com/graphql"},
		{"ghe.acme.dev", "", "https://ghe.acme.dev/api/v3/", "https://ghe.acme.dev/api/graphql"},
		{"acme.ghe.com", "", "https://api.acme.ghe.com/", "https://api.acme.ghe.com/graphql"},
		{"ghe.acme.dev", "https://gw.acme.dev/github/api/v3", "https://gw.acme.dev/github/api/v3/", "https://gw.acme.dev/github/api/graphql"},
	} {
		u, g, err := addresses(c.host, c.api)
		if err != nil || u.String() != c.want || g != c.graphql {
			t.Errorf("%s %s: %v %s %v", c.host, c.api, u, g, err)
		}
	}
}

func TestAConfigurationThatCannotWorkIsRefusedWithoutShowingTheKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("SECRET"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]forge.Config{
		"no host":          {},
		"no App":           {Host: "github.com"},
		"a client id":      {Host: "github.com", Apps: []forge.App{{ID: "Iv1.abc", PrivateKey: config.Secret("file:" + file)}}},
		"no key":           {Host: "github.com", Apps: []forge.App{{ID: "5", PrivateKey: config.Secret("file:" + file)}}},
		"bad installation": {Host: "github.com", Apps: []forge.App{{ID: "5", PrivateKey: config.Secret("file:" + file), Installations: []string{"x"}}}},
		"bad URL":          {Host: "github.com", API: "https://user:pw@x", Apps: []forge.App{{ID: "5"}}},
	} {
		_, err := New(cfg, Options{})
		if err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: error = %v", name, err)
		}
	}
}

func TestACanceledQuestionIsNotCalledUnavailable(t *testing.T) {
	f, c := world(t)
	ctx, cancel := context.WithCancel(t.Context())
	f.set("GET "+web, func(w http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() })
	_, _, _, err := c.repo(ctx, standing)
	if !errors.Is(err, context.Canceled) || errors.Is(err, signing.Unavailable) {
		t.Errorf("error = %v, want context.Canceled alone", err)
	}
}
