package main

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/devworld/hub"
	"github.com/sealwright/sealwright/internal/devworld/lab"
)

// newcomer follows the set-up of a forge in a document, step by step.
type newcomer struct {
	t    *testing.T
	doc  string
	text string
	dir  string // in the place of /etc/sealwright
}

// setUp has made the keys as operations.md says, and written the document's policy.
func setUp(t *testing.T, doc string) *newcomer {
	t.Helper()
	n := &newcomer{t, doc, read(t, doc), t.TempDir()}
	for kind, args := range map[string][]string{"release": {"--type", "ecdsa-p256"}, "log": {"--type", "log", "--log-name", "sign.acme.dev/log"}, "state": {"--type", "state-secret"}} {
		if code, _, errs := execute(t, append([]string{"keys", "new", "--out", n.path(kind)}, args...)...); code != exitOK {
			t.Fatalf("a key of kind %s: %s", kind, errs)
		}
	}
	t.Setenv("LOG_KEY", n.file("log"))
	t.Setenv("STATE_SECRET", n.file("state"))
	n.write("keys.yaml", "apiVersion: sealwright.dev/v1\nkeys:\n  - id: release\n    file: file:"+n.path("release")+"\n    methods: [cosign]\n    allow:\n      - {project: payments, policy: release, repositories: [\"registry.acme.dev/payments/*\"]}\n")
	if err := os.Mkdir(n.path("policies"), 0o700); err != nil {
		t.Fatal(err)
	}
	n.write("policies/payments.yaml", n.block("yaml policy"))
	return n
}

func (n *newcomer) path(name string) string { return filepath.Join(n.dir, name) }

func (n *newcomer) write(name, text string) {
	n.t.Helper()
	if err := os.WriteFile(n.path(name), []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

func (n *newcomer) file(name string) string {
	n.t.Helper()
	raw, err := os.ReadFile(n.path(name))
	if err != nil {
		n.t.Fatal(err)
	}
	return strings.TrimSpace(string(raw))
}

// block is the first block of the document that is marked so.
func (n *newcomer) block(kind string) string {
	n.t.Helper()
	for _, b := range blocks(n.t, n.doc, n.text) {
		if b.lang+" "+b.mark == kind {
			return b.text
		}
	}
	n.t.Fatalf("%s has no block %q", n.doc, kind)
	return ""
}

// configure writes the document's configuration with replacements, each of which it
// must have.
func (n *newcomer) configure(pairs ...string) {
	n.t.Helper()
	text := strings.ReplaceAll(n.block("yaml config"), "/etc/sealwright/", n.dir+"/")
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			n.t.Fatalf("the configuration of %s has no %q", n.doc, pairs[i])
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	n.write("sealwright.yaml", text)
}

func (n *newcomer) check() (code int, out string) {
	n.t.Helper()
	code, out, errs := execute(n.t, "config", "check", "--online", "--config", n.path("sealwright.yaml"))
	return code, out + errs
}

// passes wants that nothing is missing; what is left out on purpose is listed.
func (n *newcomer) passes(without ...string) {
	n.t.Helper()
	code, out := n.check()
	if code != exitOK || strings.Contains(out, "MISSING") || strings.Count(out, "  without ") != len(without) {
		n.t.Errorf("exit code %d:\n%s", code, out)
	}
	for _, w := range without {
		if !strings.Contains(out, "  without "+w+"\n") {
			n.t.Errorf("%q is not said to be left out:\n%s", w, out)
		}
	}
}

// misses wants that something is named, with what it is for and how to fix it. An
// optional one is named and passes.
func (n *newcomer) misses(what string, optional bool) {
	n.t.Helper()
	mark, want := "MISSING ", exitError
	if optional {
		mark, want = "without ", exitOK
	}
	code, out := n.check()
	named := regexp.MustCompile(`(?m)^\S+  ` + mark + `.*` + regexp.QuoteMeta(what) + `\n    found: .+\n    needed for: .+\n    to fix it: .+$`)
	if code != want || !named.MatchString(out) {
		n.t.Errorf("exit code %d, want %d and %s%s:\n%s", code, want, mark, what, out)
	}
}

// rows are the first cells of a table of the document, those with code in them.
func (n *newcomer) rows(pattern string) [][]string {
	n.t.Helper()
	out := regexp.MustCompile(pattern).FindAllStringSubmatch(n.text, -1)
	if len(out) == 0 {
		n.t.Fatalf("%s has no row %s", n.doc, pattern)
	}
	return out
}

// TestTheSetUpOfTheGitHubAppIsFollowedByTheLetter makes the App from the manifest,
// installs and configures it as docs/github-app.md says. That passes; leaving out
// each permission, event and setting of the webhook that it lists is reported.
func TestTheSetUpOfTheGitHubAppIsFollowedByTheLetter(t *testing.T) {
	n := setUp(t, "docs/github-app.md")
	status := http.StatusAccepted
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	t.Cleanup(service.Close)
	var manifest struct {
		Hook        struct{ URL string } `json:"hook_attributes"`
		Permissions map[string]string    `json:"default_permissions"`
		Events      []string             `json:"default_events"`
	}
	// 1. Make the App.
	if err := json.Unmarshal([]byte(strings.ReplaceAll(read(t, "deploy/github-app-manifest.json"), "https://sign.acme.dev", service.URL)), &manifest); err != nil {
		t.Fatal(err)
	}
	h := hub.New(hub.Options{})
	github := httptest.NewServer(h)
	t.Cleanup(func() { h.Close(); github.Close() })
	org := h.Org("acme", h.User("owner"))
	org.Team("release-managers", nil, h.User("ann"), h.User("bob"))
	eve := h.User("eve")
	security := org.Team("security", nil, eve)
	hook := hub.Hook{URL: manifest.Hook.URL, Secret: "a secret of 32 random bytes"}
	app := h.App(hub.AppSpec{Slug: "sealwright", Owner: org.User, Permissions: manifest.Permissions, Events: manifest.Events, Hook: hook})
	n.write("github-app.pem", string(app.PEM()))
	n.write("github-hook.secret", hook.Secret)
	configure := func(pairs ...string) {
		n.configure(append([]string{`id: "123456"`, `id: "` + strconv.FormatInt(app.ID, 10) + `"`, "kind: github\n", "kind: github\n    api: " + github.URL + "/api/v3\n"}, pairs...)...)
	}
	configure()
	n.misses("installations", false)
	// 2. Install it.
	in := app.Install(org.User)
	n.passes()

	// What the App may do, and why.
	set := func(permissions map[string]string, events []string, k hub.Hook) {
		h.Do(func() {
			app.Permissions, app.Events, app.Hook, in.Permissions = permissions, events, k, maps.Clone(permissions)
		})
	}
	told := map[string]string{}
	for _, row := range n.rows("(?m)^\\| `([a-z_]+)` \\| (read|write) \\| (optional: )?") {
		name, level, optional := row[1], row[2], row[3] != ""
		told[name] = level
		less := maps.Clone(manifest.Permissions)
		delete(less, name)
		set(less, manifest.Events, hook)
		n.misses("permission "+name+": "+level, optional)
		if level == "write" {
			less[name] = "read"
			set(less, manifest.Events, hook)
			n.misses("permission "+name+": "+level, optional)
		}
	}
	if !maps.Equal(told, manifest.Permissions) {
		t.Errorf("the table has %v, the manifest %v", told, manifest.Permissions)
	}
	for _, row := range n.rows("(?m)^\\| `([a-z_]+)` \\| [^|]+ \\|$") {
		set(manifest.Permissions, slices.DeleteFunc(slices.Clone(manifest.Events), func(e string) bool { return e == row[1] }), hook)
		n.misses("event "+row[1], false)
	}
	// An owner who has not accepted what the App asked for later.
	set(manifest.Permissions, manifest.Events, hook)
	in.Permit("checks", "")
	n.misses("(acme): permission checks: write", false)

	for what, change := range map[string]func(*hub.Hook){
		"webhook URL":          func(k *hub.Hook) { k.URL = service.URL + "/hooks/github/ghe.acme.dev" },
		"webhook content type": func(k *hub.Hook) { k.Form = true },
		"webhook verifies TLS": func(k *hub.Hook) { k.Insecure = true },
		"webhook secret":       func(k *hub.Hook) { k.Secret = "" },
	} {
		other := hook
		change(&other)
		set(manifest.Permissions, manifest.Events, other)
		n.misses(what, false)
	}
	set(manifest.Permissions, manifest.Events, hook)
	configure("    webhook: {secrets: [\"file:"+n.dir+"/github-hook.secret\"]}\n", "")
	n.misses("webhook secret", false)
	set(manifest.Permissions, nil, hub.Hook{})
	n.misses("webhook", true) // "leave the webhook out"
	configure()
	set(manifest.Permissions, manifest.Events, hook)
	// A secret that differs is seen in what the service answers.
	for _, status = range []int{http.StatusUnauthorized, http.StatusNotFound, http.StatusAccepted} {
		repo := h.Repo("acme/web-"+strconv.Itoa(status), true)
		repo.Commit("main", hub.Commit{Message: "a", Author: org.User, Committer: org.User, Files: map[string]string{"a": "b"}})
		repo.Commit("topic", hub.Commit{Message: "a", Author: org.User, Committer: org.User, Files: map[string]string{"a": "c"}})
		repo.Pull(h.User("ann"), "t", "topic", "main")
		h.Settle()
		if status != http.StatusAccepted {
			n.misses("newest delivery", false)
		}
	}
	n.passes()
	in.Permit("attestations", "")
	n.passes("App " + strconv.FormatInt(app.ID, 10) + " on github.com: installation " + strconv.FormatInt(in.ID, 10) + " (acme): permission attestations: read")
	security.Remove(eve)
	n.misses("approvers github.com:acme/security", false)
	n.write("policies/payments.yaml", strings.ReplaceAll(n.block("yaml policy"), "acme/security", "acme/securty"))
	n.misses("approvers github.com:acme/securty", false)
}

// TestTheSetUpOfGitLabIsFollowedByTheLetter makes bots, hooks and configuration as
// docs/gitlab.md says. That passes; leaving out each of scope, role, memberships and
// settings of the hook is reported.
func TestTheSetUpOfGitLabIsFollowedByTheLetter(t *testing.T) {
	n := setUp(t, "docs/gitlab.md")
	l := lab.New(lab.Options{Premium: true})
	gitlab := httptest.NewServer(l)
	t.Cleanup(func() { gitlab.Close(); l.Wait() })
	l.SetURL(gitlab.URL)
	acme, release, tools := l.Group("acme"), l.Group("acme/release"), l.Project("platform/tools")
	release.Add(l.User("ada"), lab.Developer)
	bots := map[string]*lab.User{"acme": l.Bot("group_1_bot"), "tools": l.Bot("project_2_bot")}
	acme.Add(bots["acme"], lab.Maintainer)
	tools.Add(bots["tools"], lab.Maintainer)
	for name, bot := range bots {
		n.write("gitlab-"+name+".token", l.Token(bot))
	}
	secret := lab.NewSigningToken()
	n.write("gitlab-hook.whsec", secret)
	hook := tools.Hook(lab.Hook{URL: "https://sign.acme.dev/hooks/gitlab/gitlab.acme.dev", SigningToken: secret})
	configure := func(pairs ...string) {
		n.configure(append([]string{"kind: gitlab\n", "kind: gitlab\n    api: " + gitlab.URL + "\n"}, pairs...)...)
	}
	configure()
	n.passes("webhook of acme") // of a group: shown to owners only
	for _, word := range []string{"scope `api`", "role Maintainer", "member of the groups in `approvals`", "*Comments*", "*Merge request events*", "SSL verification", "*signing token*"} {
		if !strings.Contains(n.text, word) {
			t.Errorf("%s does not ask for %q any more", n.doc, word)
		}
	}

	token := "file:" + n.path("gitlab-acme.token")
	n.write("gitlab-acme.token", l.Token(bots["acme"], "read_api"))
	n.misses("scope api of "+token, false)
	person := l.User("bob")
	acme.Add(person, lab.Maintainer)
	n.write("gitlab-acme.token", l.Token(person))
	n.misses("user of "+token, false)
	n.write("gitlab-acme.token", "glpat-of-yesterday")
	n.misses("access token "+token, false)
	n.write("gitlab-acme.token", l.Token(bots["acme"]))

	acme.Remove(bots["acme"])
	acme.Add(bots["acme"], lab.Developer)
	n.misses("role of "+token+" in acme", false)
	acme.Remove(bots["acme"])
	n.misses("role of "+token+" in acme", false)
	n.misses("approvers gitlab.acme.dev:acme/release", false)
	acme.Add(bots["acme"], lab.Maintainer)
	n.passes("webhook of acme")

	at := "webhook of platform/tools"
	for what, change := range map[string]func(){
		at + ": trigger Comments":             func() { hook.NoNotes = true },
		at + ": trigger Merge request events": func() { hook.NoMerges = true },
		at + ": SSL verification":             func() { hook.Insecure = true },
		at + ": enabled":                      func() { hook.Failures = 40 },
	} {
		l.Change(change)
		n.misses(what, false)
		l.Change(func() { hook.NoNotes, hook.NoMerges, hook.Insecure, hook.Failures = false, false, false, 0 })
	}
	l.Change(func() { hook.URL = "https://sign.acme.dev/hooks/gitlab/gitlab.com" })
	n.misses(at, true) // there may be one of the group above
	l.Change(func() { hook.URL = "https://sign.acme.dev/hooks/gitlab/gitlab.acme.dev" })
	configure("    webhook: {signing_tokens: [\"file:"+n.dir+"/gitlab-hook.whsec\"]}\n", "")
	n.misses("webhook of gitlab.acme.dev", false)
}
