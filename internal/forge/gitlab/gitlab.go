// Package gitlab is forge.Forge for GitLab, hosted and self-managed, with access
// tokens of bots: project, group or personal ones.
//
// Every request goes through internal/outbound, by the id of a project and never
// by its name. Limits are obeyed without sleeping: what must wait is a RateLimited
// error that says how long. No answer is cached but where a project is.
package gitlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	gitlab "gitlab.com/gitlab-org/api/client-go"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxPlaces bounds the remembered projects, each some hundred bytes. It is more
	// than one service signs for; beyond it, all are looked up anew.
	maxPlaces = 10_000
	// placeFresh is how long a project's token, path, default branch and visibility
	// are taken to be as they were. Requests go by id; it is the time of one question
	// with its many requests, not more, since the rest can change.
	placeFresh = 10 * time.Second
)

// Options are what a Client needs besides its configuration. The zero value is
// the real world.
type Options = ask.Options

// Client is one GitLab instance. It is safe for concurrent use.
type Client struct {
	host   string
	web    string // base URL of its pages, without a final slash
	api    string // base URL of its API, ending in /api/v4
	now    func() time.Time
	tokens []*token
	hooks  hookSecrets
	root   root.TrustedMaterial // nil: attestations cannot be verified

	mu     sync.Mutex
	places map[string]*place // guarded by mu; by project id
	users  map[string]known  // guarded by mu; by id
}

var (
	_ forge.Forge   = (*Client)(nil)
	_ forge.Checker = (*Client)(nil)
)

// token is one access token with the limits that GitLab counts for it.
type token struct {
	name   string   // for messages: the reference, never the secret
	groups []string // paths that it serves; empty is all
	client *gitlab.Client

	mu   sync.Mutex
	self int64 // guarded by mu; the id of its user, 0 before it was asked
}

// place is where a project is served from.
type place struct {
	id      string
	token   *token
	path    string // acme/payments
	web     string // URL of its page
	branch  string // the default branch
	private bool
	checked time.Time
}

// New returns the Client of one configured forge. It asks nobody. The error says
// what of the configuration cannot be used.
func New(cfg forge.Config, o Options) (*Client, error) {
	if cfg.Host == "" {
		return nil, errors.New("a forge without a host")
	}
	if len(cfg.Tokens) == 0 {
		return nil, fmt.Errorf("forge %s has no access token", cfg.Host)
	}
	o, err := o.For(cfg)
	if err != nil {
		return nil, err
	}
	api, web, err := addresses(cfg.Host, cfg.API)
	if err != nil {
		return nil, err
	}
	base := outbound.NewTransport(o.Outbound)
	c := &Client{host: cfg.Host, web: web, api: api, now: o.Now, places: map[string]*place{}, users: map[string]known{}, root: o.Root}
	if c.hooks, err = readHooks(cfg, o.Env); err != nil {
		return nil, err
	}
	for i, t := range cfg.Tokens {
		secret, err := t.Token.Read(o.Env)
		if err != nil {
			return nil, fmt.Errorf("forge %s: access token: %w", cfg.Host, err)
		}
		made := &token{name: t.Token.String()}
		for _, g := range t.Groups {
			made.groups = append(made.groups, strings.ToLower(strings.Trim(g, "/")))
		}
		limited := &http.Client{Transport: &transport{base: base, now: o.Now, host: cfg.Host, told: func(limit, header string) {
			o.Remaining(cfg.Host, "token "+strconv.Itoa(i+1), limit, header)
		}}, CheckRedirect: outbound.RefuseRedirects}
		made.client, err = gitlab.NewClient(string(secret), gitlab.WithBaseURL(api), gitlab.WithHTTPClient(limited),
			gitlab.WithoutRetries(), gitlab.WithCustomLimiter(unlimited{}), gitlab.WithUserAgent("sealwright"),
			gitlab.WithURLWarningLogger(slog.New(slog.NewTextHandler(io.Discard, nil))))
		if err != nil {
			return nil, fmt.Errorf("forge %s: %w", cfg.Host, err)
		}
		c.tokens = append(c.tokens, made)
	}
	return c, nil
}

// addresses returns the base of the API and that of the pages.
func addresses(host, configured string) (api, web string, err error) {
	base := configured
	if base == "" {
		base = "https://" + host
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", "", fmt.Errorf("forge %s: api is no URL that can be used", host)
	}
	web = strings.TrimSuffix(strings.TrimRight(u.String(), "/"), "/api/v4")
	return web + "/api/v4", web, nil
}

// Host implements forge.Forge.
func (c *Client) Host() string { return c.host }

// serves reports whether the token is for a project of that path.
func (t *token) serves(path string) bool {
	path = strings.ToLower(path)
	for _, g := range t.groups {
		if path == g || strings.HasPrefix(path, g+"/") {
			return true
		}
	}
	return len(t.groups) == 0
}

// order returns the tokens, those first that serve the path by its name: the name
// may be an old one.
func (c *Client) order(name string) []*token {
	var first, then, rest []*token
	for _, t := range c.tokens {
		switch {
		case len(t.groups) > 0 && t.serves(name):
			first = append(first, t)
		case len(t.groups) == 0:
			then = append(then, t)
		default:
			rest = append(rest, t)
		}
	}
	return append(append(first, then...), rest...)
}

// place finds the token that serves a project, and where the project is now.
// The result is not changed any more.
func (c *Client) place(ctx context.Context, r forge.Repository) (*place, error) {
	if err := c.number(r.ID, "the id of a project"); err != nil {
		return nil, err
	}
	c.mu.Lock()
	known := c.places[r.ID]
	c.mu.Unlock()
	if known != nil && c.now().Sub(known.checked) < placeFresh && c.now().Sub(known.checked) >= 0 {
		return known, nil
	}
	var last error
	for _, t := range c.order(r.Name) {
		var p gitlab.Project
		if _, err := c.get(ctx, t, ask.Path("projects", r.ID), nil, &p, "read_api, as a member of the project"); err != nil {
			if code := signing.CodeOf(err); code != signing.NotFound && code != signing.Denied {
				return nil, err
			}
			last = err
			continue
		}
		if strconv.FormatInt(p.ID, 10) != r.ID || p.PathWithNamespace == "" {
			return nil, ask.Garbled("GET /projects/"+r.ID, "another project than the one that was asked for")
		}
		if !t.serves(p.PathWithNamespace) {
			continue
		}
		made := &place{id: r.ID, token: t, path: p.PathWithNamespace, web: p.WebURL, branch: p.DefaultBranch, private: p.Visibility != gitlab.PublicVisibility, checked: c.now()}
		c.mu.Lock()
		if len(c.places) >= maxPlaces {
			clear(c.places)
		}
		c.places[r.ID] = made
		c.mu.Unlock()
		return made, nil
	}
	if last != nil {
		return nil, last
	}
	return nil, &signing.Error{Code: signing.Denied, Message: "no access token of " + c.host + " serves this project", Found: "project " + r.ID + " " + strconv.Quote(ask.Clip(r.Name)), Fix: "add a token for it, or its group to `groups` of a token"}
}

// number refuses what is not a positive number.
func (c *Client) number(s, what string) error {
	if !ask.IsNumber(s) {
		return &signing.Error{Code: signing.Invalid, Message: "not " + what + " on " + c.host, Found: strconv.Quote(ask.Clip(s))}
	}
	return nil
}

// me returns the id of the token's own user.
func (c *Client) me(ctx context.Context, t *token) (int64, error) {
	t.mu.Lock()
	known := t.self
	t.mu.Unlock()
	if known != 0 {
		return known, nil
	}
	var u user
	if _, err := c.get(ctx, t, "user", nil, &u, "read_api"); err != nil {
		return 0, err
	}
	if u.ID <= 0 {
		return 0, ask.Garbled("GET /user", "no user id")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.self = u.ID
	return u.ID, nil
}
