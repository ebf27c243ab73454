package hub

import (
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// User makes a person.
func (h *Hub) User(login string) *User {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.account(login, "User")
}

func (h *Hub) account(login, kind string) *User {
	u := &User{ID: h.id(), Login: login, Type: kind, Email: strings.ToLower(login) + "@users.test", hub: h}
	h.users = append(h.users, u)
	return u
}

// Rename gives u another login; its id stays.
func (u *User) Rename(login string) { u.hub.Do(func() { u.Login = login }) }

// Delete removes the account.
func (u *User) Delete() {
	u.hub.Do(func() { u.hub.users = slices.DeleteFunc(u.hub.users, func(o *User) bool { return o == u }) })
}

// Org makes an organisation with its owners.
func (h *Hub) Org(login string, owners ...*User) *Org {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := &Org{User: h.account(login, "Organization"), Members: map[*User]string{}}
	for _, u := range owners {
		o.Members[u] = "admin"
	}
	h.orgs = append(h.orgs, o)
	return o
}

// Team makes a team; parent may be nil. Its members become members of the
// organisation.
func (o *Org) Team(slug string, parent *Team, members ...*User) *Team {
	o.hub.mu.Lock()
	defer o.hub.mu.Unlock()
	t := &Team{ID: o.hub.id(), Slug: slug, Name: slug, Org: o, Parent: parent, Members: map[*User]string{}, Repos: map[*Repo]string{}}
	for _, u := range members {
		t.Members[u] = "active"
		if o.Members[u] == "" {
			o.Members[u] = "member"
		}
	}
	o.Teams = append(o.Teams, t)
	return t
}

// Invite makes u a pending member, Add an active one, Remove none.
func (t *Team) Invite(u *User) { t.Org.hub.Do(func() { t.Members[u] = "pending" }) }

// Add makes u an active member.
func (t *Team) Add(u *User) { t.Org.hub.Do(func() { t.Members[u] = "active" }) }

// Remove takes u out of the team.
func (t *Team) Remove(u *User) { t.Org.hub.Do(func() { delete(t.Members, u) }) }

// Grant gives the team a permission on r.
func (t *Team) Grant(r *Repo, permission string) { t.Org.hub.Do(func() { t.Repos[r] = permission }) }

// Repo makes a repository with a first commit on main. name is OWNER/NAME of an
// account that is there.
func (h *Hub) Repo(name string, private bool) *Repo {
	h.mu.Lock()
	defer h.mu.Unlock()
	owner, short, _ := strings.Cut(name, "/")
	u := h.userNamed(owner)
	if u == nil {
		panic("hub: no account " + owner)
	}
	r := &Repo{
		ID: h.id(), Owner: u, Name: short, Private: private, DefaultBranch: "main", hub: h,
		Collaborators: map[*User]string{}, Branches: map[string]string{}, Tags: map[string]string{}, Commits: map[string]*Commit{}, Issues: map[int]*Issue{},
	}
	r.Branches["main"] = r.add(&Commit{Message: "first", Author: u, Committer: u, Files: map[string]string{"README.md": "# " + short}})
	h.repos = append(h.repos, r)
	return r
}

// Number changes the id of a repository, for tests that need a certain one.
func (r *Repo) Number(id int64) *Repo { r.hub.Do(func() { r.ID = id }); return r }

// Rename gives the repository another name; the old one redirects until it is given away.
func (r *Repo) Rename(name string) {
	r.hub.Do(func() {
		r.names = append(r.names, r.FullName())
		r.Name = name
	})
}

// Delete removes the repository.
func (r *Repo) Delete() { r.hub.Do(func() { r.gone = true }) }

// Allow gives u a permission: "read", "triage", "write", "maintain", "admin"; ""
// takes it away.
func (r *Repo) Allow(u *User, permission string) {
	r.hub.Do(func() {
		r.Collaborators[u] = permission
		if permission == "" {
			delete(r.Collaborators, u)
		}
	})
}

// add keeps a commit and returns its SHA. Files are those of its first parent
// with those of c over them. It must be called with the lock held.
func (r *Repo) add(c *Commit) string {
	if c.At.IsZero() {
		c.At = r.hub.second()
	}
	if len(c.Parents) > 0 && r.Commits[c.Parents[0]] != nil {
		files := maps.Clone(r.Commits[c.Parents[0]].Files)
		maps.Copy(files, c.Files)
		c.Files = files
	}
	if c.Files == nil {
		c.Files = map[string]string{}
	}
	for _, s := range []struct {
		u           *User
		name, email *string
	}{{c.Author, &c.AuthorName, &c.AuthorEmail}, {c.Committer, &c.CommitterName, &c.CommitterEmail}} {
		if s.u != nil && *s.name == "" {
			*s.name, *s.email = s.u.Login, s.u.Email
		}
	}
	if c.SHA == "" {
		c.SHA = newSHA(c, r.hub.id())
	}
	r.Commits[c.SHA] = c
	return c.SHA
}

// Commit adds c to a branch, which is made from the default branch where it is
// not there, and returns the SHA. It counts as pushed by its author, and nobody
// hears of it.
func (r *Repo) Commit(branch string, c Commit) string {
	r.hub.mu.Lock()
	defer r.hub.mu.Unlock()
	if c.Parents == nil {
		parent := r.Branches[branch]
		if parent == "" {
			parent = r.Branches[r.DefaultBranch]
		}
		c.Parents = []string{parent}
	}
	before := r.Branches[branch]
	sha := r.add(&c)
	r.Branches[branch] = sha
	r.record(branch, before, sha, "push", c.Author)
	return sha
}

// Pull opens a pull request of branch head into base.
func (r *Repo) Pull(author *User, title, head, base string) *Pull {
	return r.PullFrom(r, author, title, head, base)
}

// PullFrom opens a pull request of a branch of another repository.
func (r *Repo) PullFrom(from *Repo, author *User, title, head, base string) *Pull {
	r.hub.mu.Lock()
	defer r.hub.mu.Unlock()
	sha := from.Branches[head]
	if sha == "" || r.Branches[base] == "" {
		panic(fmt.Sprintf("hub: no branch %s or %s", head, base))
	}
	p := &Pull{Issue: r.issue(author, title, ""), Base: base, Head: head, HeadRepo: from, HeadSHA: sha}
	p.Issue.Pull = p
	p.follow()
	r.hub.emitPull(p, "opened", author, nil)
	return p
}

// follow takes the commits of the head that the base has not.
func (p *Pull) follow() {
	r, from := p.Repo, p.HeadRepo
	p.Commits = nil
	for s := p.HeadSHA; s != ""; {
		c := from.Commits[s]
		if c == nil || r.within(s, r.Branches[p.Base]) {
			break
		}
		r.Commits[s] = c // GitHub keeps those of forks too
		p.Commits = append([]string{s}, p.Commits...)
		if s = ""; len(c.Parents) > 0 {
			s = c.Parents[0]
		}
	}
}

// Merge merges by a merge commit and returns it.
func (p *Pull) Merge(by *User) string {
	p.Repo.hub.mu.Lock()
	defer p.Repo.hub.mu.Unlock()
	r := p.Repo
	sha := r.add(&Commit{Message: fmt.Sprintf("Merge pull request #%d", p.Number), Author: by, Committer: by, Parents: []string{r.Branches[p.Base], p.HeadSHA}, Files: r.Commits[p.HeadSHA].Files})
	r.record(p.Base, r.Branches[p.Base], sha, "pr_merge", by)
	r.Branches[p.Base] = sha
	p.Merged, p.MergedBy, p.Result, p.Closed = r.hub.second(), by, sha, true
	r.hub.emitPull(p, "closed", by, nil)
	return sha
}

// Close closes without merging.
func (i *Issue) Close() { i.Repo.hub.Do(func() { i.Closed = true }) }

// Issue opens an issue.
func (r *Repo) Issue(author *User, title, body string) *Issue {
	r.hub.mu.Lock()
	defer r.hub.mu.Unlock()
	return r.issue(author, title, body)
}

// issue must be called with the lock held.
func (r *Repo) issue(author *User, title, body string) *Issue {
	r.last++
	i := &Issue{ID: r.hub.id(), Number: r.last, Repo: r, Title: title, Body: body, Author: author, Created: r.hub.second()}
	r.Issues[i.Number] = i
	return i
}

// AppSpec describes an App.
type AppSpec struct {
	Slug  string
	Owner *User
	// Permissions are read and write by name; Everything has what the service needs.
	Permissions map[string]string
	Events      []string
	Hook        Hook
	// Key is made where it is nil, which takes a moment.
	Key *rsa.PrivateKey
}

// Everything are the permissions that docs/github-app.md asks for.
func Everything() map[string]string {
	return map[string]string{
		"metadata": "read", "actions": "read", "contents": "read", "pull_requests": "write", "issues": "write", "checks": "write",
		"statuses": "write", "administration": "read", "members": "read", "attestations": "read",
	}
}

// EveryEvent are the events that docs/github-app.md asks for.
func EveryEvent() []string {
	return []string{"issue_comment", "pull_request", "pull_request_review", "pull_request_review_comment", "check_run"}
}

// App makes an App and its bot user. Its webhook gets a ping.
func (h *Hub) App(s AppSpec) *App {
	if s.Key == nil {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		s.Key = key
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.Owner == nil {
		s.Owner = h.account(s.Slug+"-owner", "User")
	}
	a := &App{ID: h.id(), Slug: s.Slug, Name: s.Slug, ClientID: "Iv1." + randomHex(8), Key: s.Key, Owner: s.Owner, Permissions: s.Permissions, Events: s.Events, Hook: s.Hook, hub: h}
	a.Bot = h.account(s.Slug+"[bot]", "Bot")
	h.apps = append(h.apps, a)
	h.emit(a, nil, "ping", obj{"zen": "Keep it logically awesome.", "hook_id": a.ID, "hook": obj{"type": "App", "id": a.ID, "app_id": a.ID, "active": true, "events": a.Events, "config": obj{"content_type": "json", "url": a.Hook.URL, "insecure_ssl": "0"}}})
	return a
}

// Install installs the App on an account, on all repositories or on some.
func (a *App) Install(on *User, repos ...*Repo) *Installation {
	a.hub.mu.Lock()
	defer a.hub.mu.Unlock()
	i := &Installation{ID: a.hub.id(), App: a, Account: on, Permissions: maps.Clone(a.Permissions), Events: a.Events, Repos: repos}
	a.Installations = append(a.Installations, i)
	return i
}

// Remove uninstalls: its tokens stop to work.
func (i *Installation) Remove() { i.App.hub.Do(func() { i.removed = true }) }

// Suspend suspends the installation, or ends that.
func (i *Installation) Suspend(yes bool) { i.App.hub.Do(func() { i.Suspended = yes }) }

// Permit sets a permission; "" takes it away. Tokens that were given out keep what
// they have.
func (i *Installation) Permit(name, level string) {
	i.App.hub.Do(func() {
		i.Permissions[name] = level
		if level == "" {
			delete(i.Permissions, name)
		}
	})
}

// SetHook changes where webhooks go, and their secret.
func (a *App) SetHook(url, secret string) {
	a.hub.Do(func() { a.Hook.URL, a.Hook.Secret = url, secret })
}

// ExpireTokens ends every installation token.
func (h *Hub) ExpireTokens() { h.Do(func() { clear(h.tokens) }) }

// SpendRate leaves an installation n requests until its hour is over.
func (i *Installation) SpendRate(n int) {
	h := i.App.hub
	h.Do(func() { h.usage[i.ID] = &usage{reset: h.now().Add(time.Hour), left: n} })
}
