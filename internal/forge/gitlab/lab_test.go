package gitlab_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/devworld/lab"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/gitlab"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
)

const host = "gitlab.acme.dev"

// clock is a clock that moves by a second with each look, so that nothing happens
// at the same time as another thing.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(10 * time.Millisecond)
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// world is one GitLab with a project, its people, and a client with a bot's token.
type world struct {
	t       *testing.T
	clock   *clock
	lab     *lab.Server
	url     string
	group   *lab.Group
	project *lab.Project
	bot     *lab.User
	ada     *lab.User // writes
	bob     *lab.User // maintains
	env     map[string]string
	client  *gitlab.Client
}

// start makes a world of a Premium edition.
func start(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, clock: &clock{at: time.Date(2026, 11, 27, 9, 0, 0, 0, time.UTC)}, env: map[string]string{}}
	w.lab = lab.New(lab.Options{Premium: true, Now: w.clock.now})
	server := httptest.NewServer(w.lab)
	t.Cleanup(func() { server.Close(); w.lab.Wait() })
	w.url = server.URL
	w.lab.SetURL(w.url)
	w.group = w.lab.Group("acme")
	w.project = w.lab.Project("acme/payments")
	w.bot, w.ada, w.bob = w.lab.Bot("project_1_bot"), w.lab.User("ada"), w.lab.User("bob")
	w.project.Add(w.bot, lab.Maintainer)
	w.project.Add(w.ada, lab.Developer)
	w.project.Add(w.bob, lab.Maintainer)
	w.env["TOKEN"] = w.lab.Token(w.bot)
	w.client = w.connect(forge.Config{})
	return w
}

// connect makes a client; what cfg leaves out is the world's.
func (w *world) connect(cfg forge.Config) *gitlab.Client {
	w.t.Helper()
	if cfg.Host == "" {
		cfg.Host = host
	}
	if cfg.API == "" {
		cfg.API = w.url
	}
	if cfg.Tokens == nil {
		cfg.Tokens = []forge.Token{{Token: config.Secret("env:TOKEN")}}
	}
	c, err := gitlab.New(cfg, gitlab.Options{Outbound: outbound.Options{AllowHTTP: true, Timeout: 2 * time.Second}, Env: w.lookup, Now: w.clock.now})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) lookup(name string) (string, bool) { v, ok := w.env[name]; return v, ok }

func (w *world) repo() forge.Repository {
	return forge.Repository{ID: id(w.project.ID), Name: w.project.Path}
}

func id(n int64) string { return strconv.FormatInt(n, 10) }

func account(u *lab.User) signing.Account {
	return signing.Account{Forge: host, ID: id(u.ID), Login: u.Login, Bot: u.Bot}
}

// wantCode demands that err is a refusal of a class, in words that contain parts.
func wantCode(t *testing.T, err error, code signing.Code, parts ...string) {
	t.Helper()
	var e *signing.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("error = %v, want one of class %s", err, code)
	}
	for _, p := range parts {
		if !strings.Contains(e.Error(), p) {
			t.Errorf("error = %v, want it to say %q", err, p)
		}
	}
}

func (w *world) standing(who signing.Account, groups ...string) forge.Standing {
	w.t.Helper()
	s, err := w.client.Standing(context.Background(), w.repo(), who, groups)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// in reports whether who is in one group.
func (w *world) in(who *lab.User, group string) bool {
	w.t.Helper()
	return slices.Contains(w.standing(account(who), group).Groups, group)
}
