package devworld

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/sealwright/sealwright/internal/devworld/hub"
)

// Forge is the strict GitHub of a world, under the name github.test. Its
// repository acme/shop has a pull request of wanda's open. wanda and ann are the
// team acme/release-managers; octocat merges and starts runs.
// acme/payments-web is there too, as NewGitHubJob has it.
type Forge struct {
	// URL is the base of its API, AppID the service's GitHub App, AppKey the App's
	// private key in PEM.
	URL, AppID string
	AppKey     []byte

	hub   *hub.Hub
	app   *hub.App
	shop  *hub.Repo
	wanda *hub.User
	users map[string]*hub.User
	pulls []*hub.Pull // oldest first; the last is open. Guarded by World.mu
}

const (
	shopRepository = "acme/shop"
	shopID         = 81
	wandaID        = 21
	annID          = 22
	// maxSaid bounds a comment: GitHub's own limit.
	maxSaid = 65_536
)

// StartForge starts the world's GitHub. Its webhooks go to hook, signed with
// secret. Called again it only sends them elsewhere.
func (w *World) StartForge(hook, secret string) (*Forge, error) {
	if f, unlock, err := w.lockForge(); err == nil {
		defer unlock()
		f.app.SetHook(hook, secret)
		return f, nil
	}
	l, err := listen("")
	if err != nil {
		return nil, err
	}
	h := hub.New(hub.Options{Now: w.options.Now, Web: "https://github.test"})
	f := &Forge{URL: "http://" + l.Addr().String() + "/api/v3/", hub: h, users: map[string]*hub.User{}}
	job := NewGitHubJob()
	org := h.Org("acme", h.User("owner"))
	owner, repository, actor := job.numbers()
	for login, id := range map[string]int64{"wanda": wandaID, "ann": annID, job.Actor: actor} {
		u := h.User(login)
		h.Do(func() { u.ID = id })
		f.users[login] = u
	}
	f.wanda = f.users["wanda"]
	h.Do(func() { org.ID = owner })
	web := h.Repo(job.Repository, true).Number(repository)
	web.Commit("main", hub.Commit{SHA: job.SHA, Message: "web", Author: f.users[job.Actor], Committer: f.users[job.Actor]})
	f.shop = h.Repo(shopRepository, true).Number(shopID)
	team := org.Team("release-managers", nil, f.wanda, f.users["ann"])
	for _, r := range []*hub.Repo{web, f.shop} {
		team.Grant(r, "write")
		r.Allow(f.users[job.Actor], "write")
	}
	f.app = h.App(hub.AppSpec{Slug: "sealwright", Owner: org.User, Permissions: hub.Everything(), Events: hub.EveryEvent()})
	f.app.Install(org.User)
	f.app.SetHook(hook, secret)
	f.AppID, f.AppKey = strconv.FormatInt(f.app.ID, 10), f.app.PEM()
	f.open()
	w.mu.Lock()
	w.forge = f
	w.mu.Unlock()
	w.serve(l, h)
	return f, nil
}

// numbers are the ids of owner, repository and actor.
func (j GitHubJob) numbers() (owner, repository, actor int64) {
	for text, n := range map[string]*int64{j.OwnerID: &owner, j.RepositoryID: &repository, j.ActorID: &actor} {
		*n, _ = strconv.ParseInt(text, 10, 64) // 0 is nobody
	}
	return owner, repository, actor
}

// open has wanda open the next pull request.
func (f *Forge) open() {
	n := len(f.pulls) + 1
	branch := fmt.Sprintf("change-%d", n)
	f.shop.Commit(branch, hub.Commit{Message: fmt.Sprintf("Price list %d", n), Author: f.wanda, Committer: f.wanda, Files: map[string]string{"prices": branch}})
	f.pulls = append(f.pulls, f.shop.Pull(f.wanda, fmt.Sprintf("Price list %d", n), branch, "main"))
}

// lockForge locks w and returns its forge; the error says that there is none.
func (w *World) lockForge() (f *Forge, unlock func(), err error) {
	w.mu.Lock()
	if w.forge == nil {
		w.mu.Unlock()
		return nil, nil, errors.New("this world has no forge")
	}
	return w.forge, w.mu.Unlock, nil
}

func (f *Forge) user(login string) (*hub.User, error) {
	if u := f.users[login]; u != nil {
		return u, nil
	}
	return nil, fmt.Errorf("nobody is called %q; there are wanda, who writes, ann, who may approve, and octocat, who merges", login)
}

// devMerge merges the open pull request and starts the run of its commit.
func (w *World) devMerge(r *http.Request) (string, error) {
	in := struct {
		By string `json:"by"`
	}{By: NewGitHubJob().Actor}
	if err := decode(r, &in); err != nil {
		return "", err
	}
	f, unlock, err := w.lockForge()
	if err != nil {
		return "", err
	}
	defer unlock()
	by, err := f.user(in.By)
	if err != nil {
		return "", err
	}
	j := NewGitHubJob()
	j.Repository, j.RepositoryID = shopRepository, strconv.Itoa(shopID)
	j.Actor, j.ActorID = by.Login, strconv.FormatInt(by.ID, 10)
	j.SHA = f.pulls[len(f.pulls)-1].Merge(by)
	run := f.shop.Run(by, j.Event, j.Ref, j.SHA, j.Workflow, 0)
	j.RunID, j.CheckRunID = strconv.FormatInt(run.ID, 10), strconv.FormatInt(run.Jobs[0].ID, 10)
	f.open()
	return shellLines(w.GitHub.RegisterGitHubJob(j)), nil
}

// pull returns the pull request with a number; without one, that which was merged last.
func (f *Forge) pull(number string) (*hub.Pull, error) {
	if number == "" && len(f.pulls) > 1 {
		return f.pulls[len(f.pulls)-2], nil
	}
	for _, p := range f.pulls {
		if strconv.Itoa(p.Number) == number {
			return p, nil
		}
	}
	if number == "" {
		return nil, errors.New("nothing was merged; `sealwrightd dev merge` does it")
	}
	return nil, fmt.Errorf("there is no pull request %s", number)
}

// devComment has somebody say something below a pull request, as on the web.
func (w *World) devComment(r *http.Request) (string, error) {
	in := struct {
		By   string `json:"by"`
		Text string `json:"text"`
		Pull string `json:"pull"`
	}{By: "ann"}
	if err := decode(r, &in); err != nil {
		return "", err
	}
	if strings.TrimSpace(in.Text) == "" || len(in.Text) > maxSaid {
		return "", fmt.Errorf("a comment has 1 to %d bytes in text", maxSaid)
	}
	f, unlock, err := w.lockForge()
	if err != nil {
		return "", err
	}
	defer unlock()
	by, err := f.user(in.By)
	if err != nil {
		return "", err
	}
	p, err := f.pull(in.Pull)
	if err != nil {
		return "", err
	}
	return f.hub.Say(p.Issue, by, in.Text).Page() + "\n", nil
}

// devThread returns the comments below a pull request, oldest first.
func (w *World) devThread(r *http.Request) (string, error) {
	f, unlock, err := w.lockForge()
	if err != nil {
		return "", err
	}
	defer unlock()
	p, err := f.pull(r.URL.Query().Get("pull"))
	if err != nil {
		return "", err
	}
	var b strings.Builder
	f.hub.Do(func() {
		fmt.Fprintf(&b, "%s by %s\n", p.Title, p.Author.Login)
		for _, m := range p.Comments {
			fmt.Fprintf(&b, "\n---- %s at %s\n%s\n", m.Author.Login, m.Page(), m.Body)
		}
	})
	return b.String(), nil
}
