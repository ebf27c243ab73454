package github

import (
	"crypto/rsa"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/devworld/hub"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
)

// rsaKey is the key of every App of the tests.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := privateKey(key())
	if err != nil {
		panic(err)
	}
	return k
})

// scene is the strict local GitHub with an organisation, a private repository, an
// open pull request of ann's, an App on it, and its Client.
type scene struct {
	t      *testing.T
	hub    *hub.Hub
	client *Client
	org    *hub.Org
	repo   *hub.Repo
	app    *hub.App
	in     *hub.Installation
	pull   *hub.Pull
	// ann wrote the pull request, bob is a maintainer, eve has no access.
	ann, bob, eve *hub.User

	mu  sync.Mutex
	now time.Time
}

func (s *scene) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// pass lets time pass.
func (s *scene) pass(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{t: t, now: time.Now().Truncate(time.Second)}
	s.hub = hub.New(hub.Options{Now: s.clock})
	t.Cleanup(s.hub.Close)
	server := httptest.NewServer(recording(t, s.hub))
	t.Cleanup(server.Close)
	s.ann, s.bob, s.eve = s.hub.User("ann"), s.hub.User("bob"), s.hub.User("eve")
	s.org = s.hub.Org("acme", s.hub.User("owner"))
	s.repo = s.hub.Repo("acme/web", true)
	s.repo.Allow(s.ann, "write")
	s.repo.Allow(s.bob, "maintain")
	s.app = s.hub.App(hub.AppSpec{Slug: "sealwright", Permissions: hub.Everything(), Events: hub.EveryEvent(), Key: rsaKey()})
	s.in = s.app.Install(s.org.User)
	s.repo.Commit("feature", hub.Commit{Message: "a change", Author: s.ann, Committer: s.ann})
	s.pull = s.repo.Pull(s.ann, "A change", "feature", "main")
	s.client = s.newClient(server.URL)
	return s
}

func (s *scene) newClient(api string) *Client {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "key.pem")
	if err := os.WriteFile(file, s.app.PEM(), 0o600); err != nil {
		s.t.Fatal(err)
	}
	cfg := forge.Config{Host: "github.com", Kind: "github", API: api, Apps: []forge.App{{ID: strconv.FormatInt(s.app.ID, 10), PrivateKey: config.Secret("file:" + file)}}}
	c, err := New(cfg, Options{Outbound: outbound.Options{AllowHTTP: true, Timeout: 5 * time.Second}, Now: s.clock})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *scene) at(r *hub.Repo) forge.Repository {
	return forge.Repository{ID: strconv.FormatInt(r.ID, 10), Name: r.FullName()}
}

func account(u *hub.User) signing.Account {
	return signing.Account{Forge: "github.com", ID: strconv.FormatInt(u.ID, 10), Login: u.Login, Bot: u.Type == "Bot"}
}

// thread is where the pull request or an issue of the repository is.
func (s *scene) thread(i *hub.Issue) signing.Thread {
	t := signing.Thread{Forge: "github.com", RepositoryID: strconv.FormatInt(s.repo.ID, 10), Repository: s.repo.FullName(), Kind: signing.ThreadIssue, Number: strconv.Itoa(i.Number)}
	if i.Pull != nil {
		t.Kind = signing.ThreadPull
	}
	return t
}

// spoil makes matching requests fail.
func (s *scene) spoil(method, path string, status int) *hub.Fault {
	return s.hub.Fail(hub.Fault{Method: method, Path: regexp.MustCompile(path), Status: status})
}
