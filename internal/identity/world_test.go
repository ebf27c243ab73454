package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sealwright/sealwright/internal/signing"
)

// start is the time at which every test begins.
var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const ourAudience = "https://sealwright.acme.dev"

// clock stands still until it is moved.
type clock struct{ nanos atomic.Int64 }

func (c *clock) Now() time.Time          { return start.Add(time.Duration(c.nanos.Load())) }
func (c *clock) Advance(d time.Duration) { c.nanos.Add(int64(d)) }

// rsaKey is made once: making one is slow.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })

func ecKey() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// world is an issuer on a loopback port, a clock, and a Verifier that knows the issuer.
type world struct {
	t      testing.TB
	clock  *clock
	server *httptest.Server
	url    string

	mu        sync.Mutex
	keys      []jose.JSONWebKey // what it publishes
	discovery http.HandlerFunc  // replaces the document
	jwks      http.HandlerFunc  // replaces the key set
	hits      map[string]int
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, clock: &clock{}, hits: map[string]int{}}
	w.keys = []jose.JSONWebKey{public("rsa-1", rsaKey())}
	w.server = httptest.NewServer(w)
	w.url = w.server.URL
	t.Cleanup(w.server.Close)
	return w
}

func public(kid string, key crypto.Signer) jose.JSONWebKey {
	return jose.JSONWebKey{Key: key.Public(), KeyID: kid, Use: "sig"}
}

func (w *world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	w.hits[r.URL.Path]++
	discovery, jwks, keys := w.discovery, w.jwks, w.keys
	w.mu.Unlock()
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		if discovery != nil {
			discovery(rw, r)
			return
		}
		_ = json.NewEncoder(rw).Encode(map[string]any{"issuer": w.url, "jwks_uri": w.url + "/jwks"})
	case "/jwks":
		if jwks != nil {
			jwks(rw, r)
			return
		}
		_ = json.NewEncoder(rw).Encode(jose.JSONWebKeySet{Keys: keys})
	default:
		http.NotFound(rw, r)
	}
}

func (w *world) set(change func()) { w.mu.Lock(); defer w.mu.Unlock(); change() }

func (w *world) count(path string) int { w.mu.Lock(); defer w.mu.Unlock(); return w.hits[path] }

// issuer returns a github-actions row for the issuer.
func (w *world) issuer() Issuer {
	return Issuer{Provider: "github-actions", Issuer: w.url, Audience: ourAudience, Forge: "ghe.acme.dev"}
}

func (w *world) gitlab() Issuer {
	return Issuer{Provider: "gitlab", Issuer: w.url, Audience: ourAudience, Forge: "gitlab.acme.dev"}
}

func (w *world) verifier(issuers ...Issuer) *Verifier {
	w.t.Helper()
	v, err := New(context.Background(), issuers, Options{Client: w.server.Client(), Now: w.clock.Now})
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

// offline returns a Verifier whose every use of the network fails the test.
func (w *world) offline(issuers ...Issuer) *Verifier {
	w.t.Helper()
	v, err := New(context.Background(), issuers, Options{Now: w.clock.Now, Client: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		w.t.Errorf("the network was used: %s", r.URL)
		return nil, errors.New("no network in this test")
	})}})
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// edit changes the claims of a token; a nil value removes a claim.
type edit map[string]any

func (w *world) times() edit {
	now := w.clock.Now().Unix()
	return edit{"iat": now, "nbf": now - 600, "exp": now + 300}
}

// claims returns those of a push to main on GitHub.
func (w *world) claims(edits ...edit) map[string]any {
	c := map[string]any{
		"iss": w.url, "aud": ourAudience, "sub": "repo:acme/payments-web:ref:refs/heads/main", "jti": "token-1",
		"ref": "refs/heads/main", "ref_protected": "true", "sha": "3f786850e387550fdab836ed7e6dc881de23001b",
		"repository": "acme/payments-web", "repository_id": "7401", "repository_owner": "acme", "repository_owner_id": "65",
		"event_name": "push", "run_id": "900100", "run_attempt": "1",
		"job_workflow_ref": "acme/payments-web/.github/workflows/release.yml@refs/heads/main",
	}
	for _, e := range append([]edit{w.times()}, edits...) {
		for k, v := range e {
			if c[k] = v; v == nil {
				delete(c, k)
			}
		}
	}
	return c
}

// gitlabClaims returns those of a push to main on GitLab.
func (w *world) gitlabClaims(edits ...edit) map[string]any {
	c := map[string]any{
		"iss": w.url, "aud": ourAudience, "sub": "project_path:acme/payments:ref_type:branch:ref:main", "jti": "token-2",
		"project_id": "412", "project_path": "acme/payments", "namespace_id": "72", "namespace_path": "acme",
		"job_project_id": "412", "pipeline_id": "5740", "job_id": "30201", "pipeline_source": "push",
		"ref_path": "refs/heads/main", "ref_protected": "true", "sha": "2b66fd261ee5c6cfc8de7fa466bab600bcfe4f69", "runner_id": 31,
	}
	now := w.clock.Now().Unix()
	for _, e := range append([]edit{{"iat": now, "nbf": now - 5, "exp": now + 4*3600}}, edits...) {
		maps.Copy(c, e)
	}
	return c
}

// sign makes a token. Header members are added to alg and kid.
func sign(alg jose.SignatureAlgorithm, kid string, key any, payload any, header map[jose.HeaderKey]any) string {
	opts := &jose.SignerOptions{ExtraHeaders: header}
	if kid != "" {
		opts = opts.WithHeader("kid", kid)
	}
	s := must(jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, opts.WithType("JWT")))
	raw, ok := payload.(string)
	if !ok {
		raw = string(must(json.Marshal(payload)))
	}
	return must(must(s.Sign([]byte(raw))).CompactSerialize())
}

// token signs payload, claims or the raw JSON, with the issuer's key.
func (w *world) token(payload any) string { return sign(jose.RS256, "rsa-1", rsaKey(), payload, nil) }

// plain makes a token from raw parts.
func plain(header, payload, signature string) string {
	e := base64.RawURLEncoding
	return e.EncodeToString([]byte(header)) + "." + e.EncodeToString([]byte(payload)) + "." + e.EncodeToString([]byte(signature))
}

// refuse demands that v refuses token with code, in words that contain parts.
func (w *world) refuse(v *Verifier, token string, code signing.Code, parts ...string) *signing.Error {
	w.t.Helper()
	id, o, err := v.Verify(w.t.Context(), token)
	if err == nil {
		w.t.Fatalf("accepted as %+v", id)
	}
	if !reflect.ValueOf(id).IsZero() || o != (signing.Origin{}) {
		w.t.Errorf("a refusal returned %+v and %+v", id, o)
	}
	var e *signing.Error
	if !errors.As(err, &e) {
		w.t.Fatalf("not a signing.Error: %v", err)
	}
	if e.Code != code {
		w.t.Errorf("code %s, want %s (%v)", e.Code, code, err)
	}
	if e.Message == "" || e.Expected == "" || e.Fix == "" {
		w.t.Errorf("the refusal lacks a message, what was expected or a fix: %+v", e)
	}
	shown := signing.Public(err).Error()
	for _, p := range parts {
		if !strings.Contains(shown, p) {
			w.t.Errorf("%q does not say %q", shown, p)
		}
	}
	if first, _, ok := strings.Cut(token, "."); ok && len(first) > 8 && strings.Contains(err.Error(), first) {
		w.t.Errorf("the error repeats the token: %v", err)
	}
	return e
}

func (w *world) accept(v *Verifier, token string) (signing.Identity, signing.Origin) {
	w.t.Helper()
	id, o, err := v.Verify(w.t.Context(), token)
	if err != nil {
		w.t.Fatalf("refused: %v", err)
	}
	return id, o
}
