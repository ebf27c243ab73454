package scenario

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/devworld/lab"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/gitlab"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/testenv"
)

// onLab is a GitLab with the project acme/payments/api.
type onLab struct {
	t       *testing.T
	e       *testenv.Env
	url     string
	lab     *lab.Server
	project *lab.Project
	robot   *lab.User
	users   map[string]*lab.User
	notes   map[string]*lab.Note
	hook    *lab.Hook
	signing string
	forge   *gitlab.Client
	commits int
}

func newLab(t *testing.T, e *testenv.Env) side {
	t.Helper()
	f := &onLab{t: t, e: e, users: map[string]*lab.User{}, notes: map[string]*lab.Note{}, signing: lab.NewSigningToken()}
	f.lab = lab.New(lab.Options{Premium: true, Now: e.Now})
	server := httptest.NewServer(f.lab)
	t.Cleanup(func() { server.Close(); f.lab.Wait() })
	f.url = server.URL
	f.lab.SetURL(f.url)
	f.project = f.lab.Project("acme/payments/api")
	f.project.Protect("main")
	f.robot = f.lab.Bot("project_20_bot")
	f.project.Add(f.robot, lab.Maintainer)
	env := map[string]string{"TOKEN": f.lab.Token(f.robot), "HOOK": f.signing, "PLAIN": hookSecret}
	c := forge.Config{Host: f.host(), Kind: "gitlab", API: server.URL, Tokens: []forge.Token{{Token: config.Secret("env:TOKEN")}}}
	c.Webhook.SigningTokens, c.Webhook.Secrets = []config.Secret{"env:HOOK"}, []config.Secret{"env:PLAIN"}
	var err error
	f.forge, err = gitlab.New(c, gitlab.Options{Outbound: outbound.Options{AllowHTTP: true, Timeout: 2 * time.Second}, Env: func(n string) (string, bool) { v, ok := env[n]; return v, ok }, Now: e.Now})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *onLab) host() string        { return "gitlab.test" }
func (f *onLab) client() forge.Forge { return f.forge }
func (f *onLab) row() string {
	return `{forge: gitlab.test, name: acme/payments/api, id: "` + number(f.project.ID) + `", owner_id: "` + number(f.project.Group.ID) + `", images: ["%[1]s/payments/*"]}`
}
func (f *onLab) word() string                 { return "gitlab: {events: [push]}" }
func (f *onLab) team(name string) string      { return "gitlab.test:acme/" + name }
func (f *onLab) accounts(login string) string { return "gitlab.test:" + number(f.users[login].ID) }
func (f *onLab) settle()                      { f.lab.Wait() }
func (f *onLab) lose(n int)                   { f.lab.Change(func() { f.hook.Lose = n }) }

func (f *onLab) address(login string) string {
	return number(f.users[login].ID) + "-" + login + "@users.noreply.gitlab.test"
}
func (f *onLab) publish()              { f.lab.Change(func() { f.project.Visibility = "public" }) }
func (f *onLab) outsider(login string) { f.users[login] = f.lab.User(login) }

func (f *onLab) open(url string) {
	f.hook = f.project.Hook(lab.Hook{URL: url + "/hooks/gitlab/gitlab.test", Secret: hookSecret, SigningToken: f.signing})
}

func (f *onLab) replay(change func(http.Header, []byte) (http.Header, []byte)) int {
	f.t.Helper()
	all := f.hook.Deliveries()
	last := all[len(all)-1]
	return send(f.t, f.hook.URL, change, last.Header, last.Body)
}

// send sends a delivery that was recorded, changed.
func send(t *testing.T, url string, change func(http.Header, []byte) (http.Header, []byte), h http.Header, body []byte) int {
	t.Helper()
	h, body = change(h.Clone(), bytes.Clone(body))
	req, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = h
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close() // only the status counts
	return resp.StatusCode
}

func (f *onLab) person(login string) {
	u := f.lab.User(login)
	f.users[login] = u
	f.project.Add(u, lab.Developer)
}

func (f *onLab) group(team string) *lab.Group {
	g := f.lab.Group("acme/" + team)
	for _, m := range g.Members {
		if m.User == f.robot {
			return g
		}
	}
	g.Add(f.robot, lab.Reporter)
	return g
}

func (f *onLab) join(login, team string)  { f.group(team).Add(f.users[login], lab.Developer) }
func (f *onLab) leave(login, team string) { f.group(team).Remove(f.users[login]) }

func (f *onLab) invite(login, team string) {
	m := f.group(team).Add(f.users[login], lab.Developer)
	f.lab.Change(func() { m.Awaiting = true })
}

func (f *onLab) rename(login, to string) {
	f.lab.Change(func() { f.users[login].Login = to })
	f.users[to] = f.users[login]
	f.users[login] = f.lab.User(login) // somebody else
	f.project.Add(f.users[login], lab.Developer)
}

func (f *onLab) build(c change) build {
	f.t.Helper()
	f.commits++
	branch := "change-" + strconv.Itoa(f.commits)
	if len(c.authors) == 0 {
		c.authors = []string{c.by}
	}
	if c.pusher == "" {
		c.pusher = c.by
	}
	if c.restarts == "" {
		c.restarts = c.starts
	}
	push := func(author, address string) {
		f.project.Push(f.users[c.pusher], branch, lab.Commit{Message: branch + "\n" + c.trailers(), Author: author, Email: address, Files: map[string]string{branch + author: author}})
	}
	for _, a := range c.authors {
		push(a, a+"@acme.dev")
	}
	if c.stranger != "" {
		push("Stranger", c.stranger)
	}
	m := f.project.Open(lab.MR{Author: f.users[c.by], Branch: branch, Title: branch})
	sha := m.Accept(f.users[c.merger])
	run, job := f.project.Run(f.users[c.starts], "main", sha)
	if c.restarts != c.starts {
		f.lab.Change(func() { job.User = f.users[c.restarts] })
	}
	j := devworld.NewGitLabJob()
	j.Project, j.ProjectID, j.NamespaceID = f.project.Path, number(f.project.ID), number(f.project.Group.ID)
	j.SHA, j.PipelineID, j.JobID, j.User, j.UserID = sha, number(run.ID), number(job.ID), c.starts, number(f.users[c.restarts].ID)
	return build{pull: int(m.IID), sha: sha, run: j.PipelineID, token: func() string {
		f.t.Helper()
		token, err := f.e.World.GitLab.GitLabToken(j, testenv.Audience)
		if err != nil {
			f.t.Fatal(err)
		}
		return token
	}}
}

func (f *onLab) merge(pull int) *lab.MergeRequest { return f.project.Merges[pull-1] }

func (f *onLab) kept(pull int, n *lab.Note) said {
	c := said{pull, number(n.ID)}
	f.notes[c.id] = n
	return c
}

func (f *onLab) say(pull int, login, text string) said {
	if f.users[login] == nil {
		f.outsider(login)
	}
	f.t.Helper()
	return f.kept(pull, f.merge(pull).Comment(f.users[login], text))
}

func (f *onLab) bot(pull int, text string) said {
	b := f.lab.Bot("project_20_bot_" + strconv.Itoa(len(f.notes)))
	f.project.Add(b, lab.Maintainer)
	f.group("release").Add(b, lab.Developer)
	return f.kept(pull, f.merge(pull).Comment(b, text))
}

func (f *onLab) elsewhere(pull int, text string, logins ...string) {
	f.t.Helper()
	p := f.lab.Project("acme/payments/garden")
	p.Add(f.robot, lab.Maintainer)
	p.Hook(lab.Hook{URL: f.hook.URL, Secret: hookSecret, SigningToken: f.signing})
	for _, login := range logins {
		p.Add(f.users[login], lab.Owner)
	}
	for n := range pull {
		branch, first := "change-"+strconv.Itoa(n), f.users[logins[0]]
		p.Push(first, branch, lab.Commit{Message: branch, Author: first.Login, Email: first.Login + "@acme.dev", Files: map[string]string{branch: text}})
		m := p.Open(lab.MR{Author: first, Branch: branch, Title: branch})
		for _, login := range logins {
			if int(m.IID) == pull {
				m.Comment(f.users[login], text)
			}
		}
	}
}

func (f *onLab) edit(c said, _, text string) { f.lab.EditNote(f.merge(c.pull), f.notes[c.id], text) }

func (f *onLab) mine(pull int) (out []*lab.Note) {
	m := f.merge(pull)
	f.lab.Change(func() {
		for _, n := range m.Notes {
			if n.Author == f.robot && !n.System {
				out = append(out, n)
			}
		}
	})
	return out
}

func (f *onLab) ours(pull int) (out []string) {
	for _, n := range f.mine(pull) {
		f.lab.Change(func() { out = append(out, n.Body) })
	}
	return out
}

func (f *onLab) vandalise(pull int, _, text string) {
	f.t.Helper()
	for _, n := range f.mine(pull) {
		if strings.Contains(n.Body, "/sealwright approve") {
			f.lab.EditNote(f.merge(pull), n, text)
			return
		}
	}
	f.t.Fatal("there is no question")
}

func (f *onLab) status(sha string) string {
	if s := f.project.StatusOf(sha, "sealwright/release"); s != nil {
		return s.State
	}
	return ""
}

// check: GitLab has none, a status stands for it.
func (f *onLab) check(sha string) (state, title string) {
	s := f.project.StatusOf(sha, "sealwright/release")
	if s == nil {
		return "", ""
	}
	return s.State, s.Description
}

func (f *onLab) fault(status int, delay time.Duration) func() {
	f.lab.Fail(lab.Fault{Path: regexp.MustCompile(`/members/|/users/`), Status: status, Delay: delay})
	return f.lab.Heal
}

func number(n int64) string { return strconv.FormatInt(n, 10) }
