package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

// clock is a clock that waiting moves.
type clock struct {
	mu    sync.Mutex
	t     time.Time
	waits []time.Duration
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.t }

func (c *clock) wait(ctx context.Context, d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
	c.waits = append(c.waits, d)
	return ctx.Err()
}

// provider is the strict identity provider of the dev world, and a client of it.
func provider(t *testing.T) (*clock, *devworld.World, device) {
	t.Helper()
	c := &clock{t: time.Now()}
	world, err := devworld.Start(devworld.Options{Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = world.Close() }) // the test is over
	return c, world, device{
		http: outbound.NewClient(outbound.Options{AllowHTTP: true, MaxBody: maxDiscovery}), now: c.now, wait: c.wait,
		issuer: api.LoginIssuer{Issuer: world.People.URL(), ClientID: testenv.PeopleAudience, Scopes: []string{"groups"}},
		show:   func(verification) error { return nil },
	}
}

func TestALoginEndsWithTheTokenOfThePerson(t *testing.T) {
	c, world, d := provider(t)
	polls := 0
	d.wait = func(ctx context.Context, w time.Duration) error {
		if polls++; polls == 3 {
			if err := world.People.Enter(world.People.Waiting()[0], devworld.NewPerson()); err != nil {
				t.Error(err)
			}
		}
		return c.wait(ctx, w)
	}
	got, err := d.login(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.subject != "00u1ann" || got.issuer != world.People.URL() || !got.expires.After(c.now()) || polls != 3 {
		t.Errorf("%+v after %d polls", got, polls)
	}
	for _, w := range c.waits {
		if w != time.Second {
			t.Errorf("waited %s, the provider asked for 1s", w)
		}
	}
}

func TestALoginThatIsRefusedOrForgottenEnds(t *testing.T) {
	c, world, d := provider(t)
	d.show = func(v verification) error { return world.People.Refuse(v.UserCode) }
	if _, err := d.login(t.Context()); !errors.Is(err, signing.Denied) {
		t.Errorf("refused: %v", err)
	}
	d.show = func(verification) error { return nil }
	began := c.now()
	if _, err := d.login(t.Context()); !errors.Is(err, signing.Expired) {
		t.Errorf("forgotten: %v", err)
	}
	if took := c.now().Sub(began); took < 10*time.Minute || took > 11*time.Minute {
		t.Errorf("gave up after %s", took)
	}
}

func TestALoginSlowsDownWhenItIsTold(t *testing.T) {
	c, _, d := provider(t)
	var stopped []time.Duration
	d.wait = func(ctx context.Context, w time.Duration) error {
		stopped = append(stopped, w)
		if len(stopped) == 4 {
			return errors.New("enough")
		}
		if len(stopped) == 2 {
			return nil // no time has passed: too early
		}
		return c.wait(ctx, w)
	}
	_, _ = d.login(t.Context())
	if want := []time.Duration{time.Second, time.Second, 6 * time.Second, 6 * time.Second}; fmt.Sprint(stopped) != fmt.Sprint(want) {
		t.Errorf("waited %v, want %v", stopped, want)
	}
}

func TestALoginTrustsAProviderOnlyAsFarAsItMust(t *testing.T) {
	_, world, _ := provider(t)
	person := devworld.NewPerson()
	mint := func(change map[string]any) string {
		t.Helper()
		claims := world.People.PersonClaims(person, testenv.PeopleAudience)
		for k, v := range change {
			claims[k] = v
		}
		token, err := world.People.Mint(claims, devworld.Flaw{})
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	for name, change := range map[string]func(discovery, code, token map[string]any){
		"another issuer in discovery": func(d, _, _ map[string]any) { d["issuer"] = "https://login.evil.example" },
		"a plain device endpoint":     func(d, _, _ map[string]any) { d["device_authorization_endpoint"] = "http://login.evil.example/code" },
		"a plain token endpoint":      func(d, _, _ map[string]any) { d["token_endpoint"] = "http://login.evil.example/token" },
		"no device flow":              func(d, _, _ map[string]any) { delete(d, "device_authorization_endpoint") },
		"a page without TLS":          func(_, c, _ map[string]any) { c["verification_uri"] = "http://login.evil.example/device" },
		"a page that is a script":     func(_, c, _ map[string]any) { c["verification_uri_complete"] = "javascript:alert(1)" },
		"a page with an escape":       func(_, c, _ map[string]any) { c["verification_uri"] = "https://login.example/\x1b[2J" },
		"no code":                     func(_, c, _ map[string]any) { delete(c, "user_code") },
		"no time":                     func(_, c, _ map[string]any) { delete(c, "expires_in") },
		"no ID token":                 func(_, _, k map[string]any) { delete(k, "id_token") },
		"another issuer's token": func(_, _, k map[string]any) {
			k["id_token"] = mint(map[string]any{"iss": "https://login.evil.example"})
		},
		"another client's token": func(d, _, k map[string]any) {
			k["id_token"] = mint(map[string]any{"iss": d["issuer"], "aud": "another"})
		},
		"an expired token":         func(d, _, k map[string]any) { k["id_token"] = mint(map[string]any{"iss": d["issuer"], "exp": 1}) },
		"a token that is too long": func(_, _, k map[string]any) { k["id_token"] = strings.Repeat("a", maxToken) + ".b.c" },
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := lying(t, mint, change).login(t.Context()); !errors.Is(err, signing.Invalid) {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := lying(t, mint, func(_, _, _ map[string]any) {}).login(t.Context()); err != nil {
		t.Errorf("and without a lie: %v", err)
	}
}

// lying returns a client of a provider whose three answers are changed.
func lying(t *testing.T, mint func(map[string]any) string, change func(discovery, code, answer map[string]any)) device {
	mux := http.NewServeMux()
	ts := httptest.NewServer(mux)
	t.Cleanup(ts.Close)
	discovery := map[string]any{"issuer": ts.URL, "device_authorization_endpoint": ts.URL + "/code", "token_endpoint": ts.URL + "/token"}
	code := map[string]any{"device_code": "d", "user_code": "ABCD-EFGH", "verification_uri": ts.URL + "/device", "expires_in": 60, "interval": 1}
	answer := map[string]any{"id_token": mint(map[string]any{"iss": ts.URL})}
	change(discovery, code, answer)
	for path, v := range map[string]any{"/.well-known/openid-configuration": discovery, "/code": code, "/token": answer} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(v)
		})
	}
	c := &clock{t: time.Now()}
	return device{
		http: outbound.NewClient(outbound.Options{AllowHTTP: true, MaxBody: maxDiscovery}), now: c.now, wait: c.wait,
		issuer: api.LoginIssuer{Issuer: ts.URL, ClientID: testenv.PeopleAudience}, show: func(verification) error { return nil },
	}
}

func TestAKeptTokenIsOfItsOwnerAlone(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(t.TempDir(), "config"))
	_, world, _ := provider(t)
	token, err := world.People.PersonToken(devworld.NewPerson(), testenv.PeopleAudience)
	if err != nil {
		t.Fatal(err)
	}
	const server = "https://sign.acme.dev"
	path, err := tokenPath(server)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeToken(path, token); err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): os.ModeDir | 0o700} {
		if info, err := os.Stat(p); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v; want %v", p, info.Mode(), err, want)
		}
	}
	if got, err := keptToken(server+"/", time.Now()); err != nil || got != token {
		t.Errorf("reading it back: %v", err)
	}
	if _, err := keptToken("https://other.acme.dev", time.Now()); !errors.Is(err, signing.Invalid) {
		t.Errorf("for another service: %v", err)
	}
	if _, err := keptToken(server, time.Now().Add(2*time.Hour)); !errors.Is(err, signing.Invalid) {
		t.Errorf("when it is over: %v", err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := keptToken(server, time.Now()); !errors.Is(err, signing.Invalid) || !strings.Contains(err.Error(), "no token") {
		t.Errorf("readable by a group: %v", err)
	}
}

// TestLoginIsEnoughForTheCommandsOfPeople logs in at a real service, whose answer
// says where, and lists requests with nothing but that.
func TestLoginIsEnoughForTheCommandsOfPeople(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(t.TempDir(), "config"))
	t.Setenv("SEALWRIGHT_TOKEN_FILE", "")
	e := testenv.New(t, testenv.Options{})
	s := e.Start(nil)
	t.Setenv("SEALWRIGHT_SERVER", s.HTTP.URL)
	person := devworld.NewPerson()
	person.Groups = []string{string(signing.Auditor)}
	var said strings.Builder
	entered := &entering{w: &said, enter: func(code string) error { return e.World.People.Enter(code, person) }}
	if code := run([]string{"login"}, streams{nil, new(strings.Builder), entered}); code != exitOK {
		t.Fatalf("exit code %d: %s", code, said.String())
	}
	if !strings.Contains(said.String(), "Logged in as 00u1ann until ") || strings.Contains(said.String(), "eyJ") {
		t.Errorf("said %s", said.String())
	}
	var out, errs strings.Builder
	if code := run([]string{"requests"}, streams{nil, &out, &errs}); code != exitOK {
		t.Errorf("requests: exit code %d: %s", code, errs.String())
	}
	if code := run([]string{"logout"}, streams{nil, &out, &errs}); code != exitOK {
		t.Errorf("logout: exit code %d: %s", code, errs.String())
	}
	errs.Reset()
	if code := run([]string{"requests"}, streams{nil, &out, &errs}); code != exitUsage || !strings.Contains(errs.String(), "sealwright login") {
		t.Errorf("after logout: exit code %d: %s", code, errs.String())
	}
}

// entering is a person who enters the code as soon as it is shown.
type entering struct {
	w     *strings.Builder
	enter func(code string) error
}

func (e *entering) Write(b []byte) (int, error) {
	if _, rest, ok := strings.Cut(string(b), "user_code="); ok {
		code, err := url.QueryUnescape(rest[:9])
		if err != nil {
			return 0, err
		}
		if err := e.enter(code); err != nil {
			return 0, err
		}
	}
	return e.w.Write(b)
}
