package main

import (
	"bytes"
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/devworld"
)

// files is a configuration in a folder of its own, complete and good.
type files struct {
	t   *testing.T
	dir string
}

func configured(t *testing.T, world *devworld.World) files {
	t.Helper()
	dir := t.TempDir()
	server, err := freeAddress()
	if err == nil {
		_, err = writeDev(dir, world, server, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return files{t, dir}
}

func startWorld(t *testing.T) *devworld.World {
	t.Helper()
	world, err := devworld.Start(devworld.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := world.Close(); err != nil {
			t.Error(err)
		}
	})
	return world
}

func (f files) path(name string) string { return filepath.Join(f.dir, name) }

// edit replaces text of a file, which must be there.
func (f files) edit(name, old, text string) {
	f.t.Helper()
	raw, err := os.ReadFile(f.path(name))
	if err != nil {
		f.t.Fatal(err)
	}
	if !strings.Contains(string(raw), old) {
		f.t.Fatalf("%s has no %q", name, old)
	}
	f.write(name, strings.Replace(string(raw), old, text, 1))
}

func (f files) write(name, text string) {
	f.t.Helper()
	if err := os.WriteFile(f.path(name), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// execute runs the program as its main does.
func execute(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), args, &o, &e)
	return code, o.String(), e.String()
}

// start runs a service that is to refuse to start; one that does not is stopped.
func start(t *testing.T, path string) (code int, out, errs string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var o, e bytes.Buffer
	code = run(ctx, []string{"serve", "--config", path}, &o, &e)
	return code, o.String(), e.String()
}

func (f files) check() (code int, out, errs string) {
	f.t.Helper()
	return execute(f.t, "config", "check", "--config", f.path("sealwright.yaml"))
}

// devSteps is the sign list of the dev world's policy.
func devSteps() string {
	_, steps, _ := strings.Cut(devPolicy, "    sign:\n")
	steps, _, _ = strings.Cut(steps, "{{-")
	return steps
}

func TestGoodConfigurationIsFoundGood(t *testing.T) {
	f := configured(t, startWorld(t))
	code, out, errs := f.check()
	if code != exitOK || !strings.Contains(out, "5 keys, 2 policies, 3 issuers, 1 registries, 1 forges") || errs != "" {
		t.Errorf("%d %s %s", code, out, errs)
	}
	if _, err := os.Stat(f.path("sealwright.db")); !os.IsNotExist(err) {
		t.Errorf("config check made a database: %v", err)
	}
}

// broken is a change of a good configuration and what is said of it: file, line,
// and words.
type broken struct {
	change func(f files)
	words  []string
}

func brokenPolicies() map[string]broken {
	policy := func(old, text string, words ...string) broken {
		return broken{func(f files) { f.edit("policies/payments.yaml", old, text) }, words}
	}
	return map[string]broken{
		"a policy with an unknown word":         policy("tags:", "tagz:", "payments.yaml:9", "tagz"),
		"an unknown word in a repository":       policy("name:", "nmae:", "payments.yaml:5", "nmae"),
		"a word twice":                          policy("    tags:", "    tags: [\"x*\"]\n    tags:", "payments.yaml:10", "tags"),
		"a broken pattern":                      policy(`["v*"]`, `["v[0-9"]`, "payments.yaml:9", "pattern"),
		"a broken regular expression":           policy(`["v*"]`, `["regex:v(1"]`, "payments.yaml:9", "tags[0]"),
		"an image pattern for every host":       policy(`/payments/*"]`, `/payments/*", "**"]`, "payments.yaml:5", "images"),
		"an event that cannot be trusted":       policy("[push, release]", "[push, pull_request_target]", "payments.yaml:14", "pull_request_target"),
		"no events":                             policy("        events: [push, release]\n", "", "payments.yaml:13", "events"),
		"a key that is not there":               policy("key: release", "key: production", "production"),
		"a method that is not there":            policy("method: cosign", "method: notary", "payments.yaml:18", "unknown method"),
		"a condition that does not compile":     policy("    sign:", "    when: 'facts.nothing >'\n    sign:", "payments.yaml:17", "when"),
		"an option that cosign does not have":   policy("key: release}", "key: release, options: {expiry: 24h}}", "cosign", "no option", "expiry"),
		"an option that notation does not have": policy("expiry: 8760h", "exipry: 8760h", "notation", "no option", "exipry"),
		"an expiry that is no length of time":   policy("8760h", "1y", "expiry", "8760h for a year"),
		"an envelope of another form":           policy("expiry:", "format: pgp, expiry:", "jws or cose"),
		"user metadata that no token says":      policy("sourceRepositoryURI,", "sourceURI,", "userMetadata", "sourceURI"),
		"no steps":                              policy(devSteps(), "", "payments.yaml:17", "sign"),
		"not YAML":                              policy("policies:", "policies: [", "payments.yaml"),
		"an endless alias (billion laughs)":     policy("policies:", "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\npolicies:", "payments.yaml"),
		"two documents":                         policy("policies:", "---\npolicies:", "payments.yaml"),
		"another version of the format":         policy("sealwright.dev/v1", "sealwright.dev/v9", "payments.yaml:2", "sealwright.dev/v1"),
		"a repository without an id":            policy(`id: "74", `, "", "payments.yaml:5", "id"),
		"two policies of one name":              policy("policies:\n", "policies:\n  release: {}\n", "release"),
		"two projects claiming one image":       {secondProject(`"{{R}}/payments/web"`), []string{"orders.yaml:4", "overlaps", "project payments"}},
		"two projects with patterns that meet":  {secondProject(`"{{R}}/*/web"`), []string{"payments.yaml:5", "overlaps", "project orders"}},
		"two projects claiming one repository": {func(f files) {
			secondProject(`"{{R}}/orders/web"`)(f)
			f.edit("policies/orders.yaml", `id: "90"`, `id: "74"`)
		}, []string{"payments.yaml:5", "repository 74", "project orders"}},
		"two files for one project": {func(f files) {
			secondProject(`"{{R}}/orders/web"`)(f)
			f.edit("policies/orders.yaml", "project: orders", "project: payments")
		}, []string{"payments"}},
		"a key in a policy that its owner does not name": {func(f files) {
			secondProject(`"{{R}}/orders/web"`)(f)
		}, []string{"key release", "project orders"}},
	}
}

// secondProject writes a second project whose repository may sign an image.
func secondProject(image string) func(f files) {
	return func(f files) {
		raw, err := os.ReadFile(f.path("world.env"))
		if err != nil {
			f.t.Fatal(err)
		}
		host := regexp.MustCompile(`REGISTRY='(.*)'`).FindStringSubmatch(string(raw))[1]
		f.write("policies/orders.yaml", `apiVersion: sealwright.dev/v1
project: orders
repositories:
  - {forge: github.test, name: acme/orders, id: "90", images: [`+strings.ReplaceAll(image, "{{R}}", host)+`]}
policies:
  release:
    origin: {refs: ["refs/heads/main"], github: {events: [push], workflow: .github/workflows/release.yml}}
    sign: [{method: cosign, key: release}]
`)
	}
}

func brokenRest() map[string]broken {
	edit := func(file, old, text string, words ...string) broken {
		return broken{func(f files) { f.edit(file, old, text) }, words}
	}
	return map[string]broken{
		"an unknown word":                   edit("sealwright.yaml", "plain_http:", "plain_htpp:", "sealwright.yaml:6", "plain_htpp"),
		"an issuer over plain http":         edit("sealwright.yaml", "issuers:", "issuers:\n  - {provider: github-actions, issuer: \"http://ci.acme.example\", audience: x, forge: acme.example}", "sealwright.yaml:17", "https"),
		"a shared audience (CVE-2024-5798)": edit("sealwright.yaml", "issuers:", "issuers:\n  - {provider: github-actions, issuer: \"https://token.actions.githubusercontent.com\", audience: sigstore}", "sealwright.yaml:17", "sigstore"),
		"the same issuer twice": {func(f files) {
			raw, err := os.ReadFile(f.path("sealwright.yaml"))
			if err != nil {
				f.t.Fatal(err)
			}
			row := regexp.MustCompile(`(?m)^  - \{provider: github-actions.*\n`).FindString(string(raw))
			f.edit("sealwright.yaml", row, row+row)
		}, []string{"sealwright.yaml:18", "issuer"}},
		"plain http beyond loopback":        edit("sealwright.yaml", "listen: 127.0.0.1", "listen: 0.0.0.0", "sealwright.yaml:6", "loopback"),
		"plain http to a registry far away": edit("sealwright.yaml", "registries:", "registries:\n  - {host: registry.acme.example, insecure_http: true}", "sealwright.yaml:28", "loopback"),
		"a secret in the configuration":     edit("sealwright.yaml", "key: file:", "key: ", "sealwright.yaml:13"),
		"no state secret":                   edit("sealwright.yaml", "  state_secret:", "  #", "state_secret", "keys new"),
		"a state secret that is not there":  edit("sealwright.yaml", "/state.secret", "/no.secret", "no.secret"),
		"a key file that is not there":      {func(f files) { remove(f, "release.key") }, []string{"release.key"}},
		"no certificate for notation":       edit("keys.yaml", "    certificates: file:", "    # ", "release-x509", "a certificate chain"),
		"a certificate of another key":      {func(f files) { otherKey(f, "release-x509.key") }, []string{"release-x509", "do not belong together"}},
		"a key file that is no key":         {func(f files) { f.write("release.key", "not a key") }, []string{"release"}},
		"an unknown word in the keys file":  edit("keys.yaml", "require:", "requires:", "keys.yaml:9", "requires"),
		"a key that serves nothing":         edit("keys.yaml", "policy: release", "policy: other", "policy release"),
		"a key of another method":           edit("keys.yaml", "[cosign]", "[notation]", "cosign"),
		"a pattern for every repository":    edit("keys.yaml", "/payments/*", "/[", "keys.yaml:8"),
		"the keys file is not there":        {func(f files) { remove(f, "keys.yaml") }, []string{"keys.yaml"}},
		"no policies":                       {func(f files) { remove(f, "policies/payments.yaml"); remove(f, "policies/shop.yaml") }, []string{"polic"}},
		"several problems at once": {func(f files) {
			f.edit("sealwright.yaml", "sealwright.dev/v1", "sealwright.dev/v0")
			f.edit("keys.yaml", "require:", "requires:")
			f.edit("policies/payments.yaml", "tags:", "tagz:")
		}, []string{"sealwright.yaml:2", "keys.yaml:9", "payments.yaml:9"}},
	}
}

// otherKey puts a new key in the place of one.
func otherKey(f files, name string) {
	f.t.Helper()
	secret, _, _, err := newECDSA()
	if err != nil {
		f.t.Fatal(err)
	}
	f.write(name, string(secret))
}

func remove(f files, name string) {
	f.t.Helper()
	if err := os.Remove(f.path(name)); err != nil {
		f.t.Fatal(err)
	}
}

// TestBrokenConfigurationIsRefusedWithItsLine: by config check, and the service
// does not start with it.
func TestBrokenConfigurationIsRefusedWithItsLine(t *testing.T) {
	world := startWorld(t)
	for _, group := range []map[string]broken{brokenPolicies(), brokenRest()} {
		for name, b := range group {
			t.Run(name, func(t *testing.T) {
				f := configured(t, world)
				b.change(f)
				code, out, errs := f.check()
				if code != exitError || out != "" {
					t.Errorf("exit code %d, %s%s", code, out, errs)
				}
				for _, w := range b.words {
					if !strings.Contains(errs, w) {
						t.Errorf("%q is not said in: %s", w, errs)
					}
				}
				// Canceled already, so that a service that starts by mistake ends.
				over, cancel := context.WithCancel(t.Context())
				cancel()
				var o, e bytes.Buffer
				if code := run(over, []string{"serve", "--config", f.path("sealwright.yaml")}, &o, &e); code != exitError || o.Len() > 0 {
					t.Errorf("serve: exit code %d, %s%s", code, &o, &e)
				}
				if _, err := os.Stat(f.path("sealwright.db")); !os.IsNotExist(err) {
					t.Errorf("a database was made: %v", err)
				}
			})
		}
	}
}

// running is a service that listens.
type running struct {
	stop func() (code int, errs string)
	said func() string // to standard error so far
}

func (f files) serve() running {
	f.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, errs := &watched{heard: make(chan struct{})}, &watched{heard: make(chan struct{})}
	done := make(chan int, 1)
	go func() { done <- run(ctx, []string{"serve", "--config", f.path("sealwright.yaml")}, out, errs) }()
	stop := sync.OnceValues(func() (int, string) {
		cancel()
		return <-done, errs.String()
	})
	f.t.Cleanup(func() { _, _ = stop() })
	select {
	case <-out.heard:
	case code := <-done:
		done <- code
		f.t.Fatalf("serve ended with %d: %s", code, errs)
	case <-time.After(time.Minute):
		f.t.Fatalf("serve does not listen: %s", errs)
	}
	return running{stop, errs.String}
}

// watched is a writer that tells when something was written.
type watched struct {
	mu    sync.Mutex
	text  bytes.Buffer // guarded by mu
	heard chan struct{}
}

func (w *watched) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.text.Len() == 0 {
		close(w.heard)
	}
	return w.text.Write(b)
}

func (w *watched) String() string { w.mu.Lock(); defer w.mu.Unlock(); return w.text.String() }

func TestSecondServerOnTheDatabaseRefusesToStartAndTheFirstStays(t *testing.T) {
	f := configured(t, startWorld(t))
	first := f.serve()
	raw, err := os.ReadFile(f.path("sealwright.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	// Another address, so that it is the database that it trips over.
	other, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	f.write("second.yaml", regexp.MustCompile(`listen: \S+`).ReplaceAllString(string(raw), "listen: "+other))
	code, out, errs := start(t, f.path("second.yaml"))
	if code != exitError || out != "" || !strings.Contains(errs, "sealwright.db") {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}
	// The admin socket is still the first one's.
	if code, out, errs := execute(t, "audit", "export", "--config", f.path("sealwright.yaml"), "--out", f.path("export")); code != exitOK {
		t.Errorf("audit export: exit code %d, %s%s", code, out, errs)
	}
	if code, errs := first.stop(); code != exitOK {
		t.Errorf("the first ended with %d: %s", code, errs)
	}
	if code, errs := f.serve().stop(); code != exitOK {
		t.Errorf("after the first a server ended with %d: %s", code, errs)
	}
}

func TestDatabaseOfANewerVersionOrOfAnotherProgramIsLeftAlone(t *testing.T) {
	world := startWorld(t)
	for name, c := range map[string]struct {
		prepare string
		words   []string
	}{
		"a newer version": {"PRAGMA user_version = 9999", []string{"newer version", "9999", "restore a backup"}},
		"another program": {"PRAGMA application_id = 7", []string{"not a database of Sealwright"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := configured(t, world)
			if code, errs := f.serve().stop(); code != exitOK {
				t.Fatalf("%d %s", code, errs)
			}
			db, err := sql.Open("sqlite3", f.path("sealwright.db"))
			if err == nil {
				_, err = db.Exec(c.prepare)
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			before, err := os.ReadFile(f.path("sealwright.db"))
			if err != nil {
				t.Fatal(err)
			}
			code, out, errs := start(t, f.path("sealwright.yaml"))
			if code != exitError || out != "" {
				t.Errorf("exit code %d, %s%s", code, out, errs)
			}
			for _, w := range c.words {
				if !strings.Contains(errs, w) {
					t.Errorf("%q is not said in: %s", w, errs)
				}
			}
			after, err := os.ReadFile(f.path("sealwright.db"))
			if err != nil || !bytes.Equal(before, after) {
				t.Errorf("the file was changed: %v", err)
			}
		})
	}
}

func TestUsageErrorsExitWithTwo(t *testing.T) {
	for _, args := range [][]string{{"serv"}, {"serve", "--nothing"}, {"serve", "more"}, {"config", "check", "--config"}, {"keys", "new"}, {"serve", "--log-level", "loud"}, {"audit", "export"}} {
		if code, _, errs := execute(t, args...); code != exitUsage || errs == "" {
			t.Errorf("%v: exit code %d, %s", args, code, errs)
		}
	}
	if code, out, _ := execute(t, "help"); code != exitOK || !strings.Contains(out, "serve") {
		t.Errorf("help: %d %s", code, out)
	}
}
