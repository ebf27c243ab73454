package scenario

import (
	"crypto/rand"
	"crypto/rsa"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/devworld/hub"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/github"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/testenv"
)

// hookSecret signs the deliveries of the local GitHub.
const hookSecret = "a secret of this test"

// onHub is a GitHub with the repository acme/payments-web.
type onHub struct {
	t        *testing.T
	e        *testenv.Env
	hub      *hub.Hub
	org      *hub.Org
	repo     *hub.Repo
	app      *hub.App
	users    map[string]*hub.User
	teams    map[string]*hub.Team
	pulls    map[int]*hub.Pull
	comments map[string]*hub.Comment
	url      string
	forge    *github.Client
	n        int
}

// appKey is that of every App: making one takes longer than most tests.
var appKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

func newHub(t *testing.T, e *testenv.Env) side {
	t.Helper()
	f := &onHub{t: t, e: e, users: map[string]*hub.User{}, teams: map[string]*hub.Team{}, pulls: map[int]*hub.Pull{}, comments: map[string]*hub.Comment{}}
	f.hub = hub.New(hub.Options{Now: e.Now, Web: "https://github.test"})
	server := httptest.NewServer(f.hub)
	t.Cleanup(func() { f.hub.Close(); server.Close() })
	f.org = f.hub.Org("acme", f.hub.User("owner"))
	f.repo = f.hub.Repo("acme/payments-web", true)
	private, err := appKey()
	if err != nil {
		t.Fatal(err)
	}
	f.app = f.hub.App(hub.AppSpec{Slug: "sealwright", Key: private, Owner: f.org.User, Permissions: hub.Everything(), Events: hub.EveryEvent()})
	f.app.Install(f.org.User)
	key := filepath.Join(t.TempDir(), "app.pem")
	if err := os.WriteFile(key, f.app.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	c := forge.Config{Host: f.host(), Kind: "github", API: server.URL + "/api/v3/", Apps: []forge.App{{ID: number(f.app.ID), PrivateKey: config.Secret("file:" + key)}}}
	c.Webhook.Secrets = []config.Secret{"env:HOOK"}
	f.forge, err = github.New(c, github.Options{Outbound: outbound.Options{AllowHTTP: true, Timeout: 2 * time.Second}, Env: func(n string) (string, bool) { return hookSecret, n == "HOOK" }, Now: e.Now})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *onHub) host() string        { return "github.test" }
func (f *onHub) client() forge.Forge { return f.forge }
func (f *onHub) row() string {
	return `{forge: github.test, name: acme/payments-web, id: "` + number(f.repo.ID) + `", owner_id: "` + number(f.org.ID) + `", images: ["%[1]s/payments/*"]}`
}

func (f *onHub) word() string {
	return "github: {events: [push], workflow: .github/workflows/release.yml}"
}
func (f *onHub) team(name string) string      { return "github.test:acme/" + name }
func (f *onHub) accounts(login string) string { return "github.test:" + number(f.users[login].ID) }
func (f *onHub) settle()                      { f.hub.Settle() }
func (f *onHub) lose(n int)                   { f.hub.Lose(n) }

func (f *onHub) address(login string) string { return f.users[login].Email }
func (f *onHub) publish()                    { f.hub.Do(func() { f.repo.Private = false }) }
func (f *onHub) outsider(login string)       { f.users[login] = f.hub.User(login) }

func (f *onHub) open(url string) {
	f.url = url + "/hooks/github/github.test"
	f.app.SetHook(f.url, hookSecret)
}

func (f *onHub) replay(change func(http.Header, []byte) (http.Header, []byte)) int {
	f.t.Helper()
	all := f.hub.Deliveries()
	last := all[len(all)-1]
	return send(f.t, f.url, change, hub.Sign(hookSecret, last.Event, last.GUID, last.Body), last.Body)
}

func (f *onHub) person(login string) {
	u := f.hub.User(login)
	f.hub.Do(func() { u.Public = true })
	f.users[login] = u
	f.repo.Allow(u, "write")
}

func (f *onHub) group(team string) *hub.Team {
	if f.teams[team] == nil {
		f.teams[team] = f.org.Team(team, nil)
	}
	return f.teams[team]
}

func (f *onHub) join(login, team string) {
	f.group(team).Add(f.users[login])
	f.hub.Do(func() {
		if f.org.Members[f.users[login]] == "" {
			f.org.Members[f.users[login]] = "member"
		}
	})
}
func (f *onHub) leave(login, team string)  { f.group(team).Remove(f.users[login]) }
func (f *onHub) invite(login, team string) { f.group(team).Invite(f.users[login]) }

func (f *onHub) rename(login, to string) {
	u := f.users[login]
	u.Rename(to)
	f.users[to] = u
	f.users[login] = f.hub.User(login) // somebody else
	f.repo.Allow(f.users[login], "write")
}

func (f *onHub) build(c change) build {
	f.t.Helper()
	f.n++
	branch := "change-" + strconv.Itoa(f.n)
	if len(c.authors) == 0 {
		c.authors = []string{c.by}
	}
	for _, a := range c.authors {
		f.repo.Commit(branch, hub.Commit{Message: branch + "\n" + c.trailers(), Author: f.users[a], Committer: f.users[a], Files: map[string]string{branch: a}})
	}
	if c.stranger != "" {
		f.repo.Commit(branch, hub.Commit{Message: branch, AuthorName: "Stranger", AuthorEmail: c.stranger, Committer: f.users[c.authors[0]], Files: map[string]string{branch: "s"}})
	}
	p := f.repo.Pull(f.users[c.by], branch, branch, "main")
	f.pulls[p.Number] = p
	if c.pusher != "" && c.pusher != c.by {
		f.hub.Push(p, f.users[c.pusher], hub.Commit{Message: branch, Author: f.users[c.authors[0]], Committer: f.users[c.authors[0]], Files: map[string]string{branch: "p"}})
	}
	sha := p.Merge(f.users[c.merger])
	j := devworld.NewGitHubJob()
	j.Repository, j.RepositoryID, j.OwnerID = "acme/payments-web", number(f.repo.ID), number(f.org.ID)
	j.SHA, j.Actor, j.ActorID = sha, c.starts, number(f.users[c.starts].ID)
	run := f.repo.Run(f.users[c.starts], "push", "refs/heads/main", sha, j.Workflow, 0)
	if c.restarts != "" && c.restarts != c.starts {
		run = run.Again(f.users[c.restarts])
	}
	j.RunID, j.RunAttempt, j.CheckRunID = number(run.ID), number(run.Attempt), number(run.Jobs[0].ID)
	return build{pull: p.Number, sha: sha, run: j.RunID, token: func() string { return f.e.GitHub(j) }}
}

func (f *onHub) kept(pull int, m *hub.Comment) said {
	c := said{pull, number(m.ID)}
	f.comments[c.id] = m
	return c
}

func (f *onHub) say(pull int, login, text string) said {
	if f.users[login] == nil {
		f.outsider(login)
	}
	f.t.Helper()
	return f.kept(pull, f.hub.Say(f.pulls[pull].Issue, f.users[login], text))
}

func (f *onHub) bot(pull int, text string) said {
	return f.kept(pull, f.hub.SayVia(f.pulls[pull].Issue, f.users["ann"], f.app, text))
}

func (f *onHub) elsewhere(pull int, text string, logins ...string) {
	f.t.Helper()
	r := f.hub.Repo("acme/garden", true)
	for n := range pull {
		branch := "change-" + strconv.Itoa(n)
		r.Commit(branch, hub.Commit{Message: branch, Author: f.org.User, Committer: f.org.User, Files: map[string]string{branch: text}})
		p := r.Pull(f.users[logins[0]], branch, branch, "main")
		for _, login := range logins {
			if p.Number == pull {
				r.Allow(f.users[login], "admin")
				f.hub.Say(p.Issue, f.users[login], text)
			}
		}
	}
}

func (f *onHub) edit(c said, login, text string) {
	f.hub.EditComment(f.comments[c.id], f.users[login], text)
}

func (f *onHub) mine(pull int) (out []*hub.Comment) {
	f.hub.Do(func() {
		for _, m := range f.pulls[pull].Comments {
			if m.Author == f.app.Bot {
				out = append(out, m)
			}
		}
	})
	return out
}

func (f *onHub) ours(pull int) (out []string) {
	for _, m := range f.mine(pull) {
		f.hub.Do(func() { out = append(out, m.Body) })
	}
	return out
}

func (f *onHub) vandalise(pull int, login, text string) {
	f.t.Helper()
	for _, m := range f.mine(pull) {
		if strings.Contains(m.Body, "/sealwright approve") {
			f.hub.EditComment(m, f.users[login], text)
			return
		}
	}
	f.t.Fatal("there is no question")
}

func (f *onHub) status(sha string) (state string) {
	f.hub.Do(func() {
		for _, s := range f.repo.Statuses {
			if s.SHA == sha && s.App == f.app {
				state = s.State
			}
		}
	})
	return state
}

func (f *onHub) check(sha string) (state, title string) {
	f.hub.Do(func() {
		for _, k := range f.repo.Checks {
			if k.SHA == sha && k.App == f.app {
				state, title = k.Status+" "+k.Conclusion, k.Title
			}
		}
	})
	return strings.TrimSpace(state), title
}

func (f *onHub) fault(status int, delay time.Duration) func() {
	x := f.hub.Fail(hub.Fault{Path: regexp.MustCompile(`/collaborators/|/memberships/|/user/`), Status: status, Delay: delay})
	return x.Heal
}
