// Package github is forge.Forge for github.com and GitHub Enterprise Server, as a
// GitHub App.
//
// Every request goes through internal/outbound. Rate limits are obeyed without
// sleeping: what must wait is a RateLimited error that says how long. Answers are
// cached only to be asked for again with their ETag, so that no cached answer is
// used without the forge confirming it.
package github

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bradleyfalzon/ghinstallation/v2"
	"github.com/google/go-github/v60/github"
	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxPlaces bounds the remembered repositories, each some hundred bytes. It is
	// more than one service signs for; beyond it, all are looked up anew.
	maxPlaces = 10_000
	// nameFresh is how long a name is taken to belong to its repository id. It is
	// the time of one question with its many requests, not more: a repository can
	// be renamed and its name given to another one.
	nameFresh = 10 * time.Second
	// maxRedirects of a read, on the same host: a renamed repository has one.
	maxRedirects = 3
)

// Options are what a Client needs besides its configuration. The zero value is
// the real world.
type Options = ask.Options

// Client is one GitHub. It is safe for concurrent use.
type Client struct {
	host    string
	api     *url.URL // ends in a slash
	graphql string
	now     func() time.Time
	apps    []*app
	root    root.TrustedMaterial // nil: attestations cannot be verified
	secrets [][]byte             // of webhooks
	base    http.RoundTripper    // outbound's
	cache   *cache
	options Options

	mu     sync.Mutex
	places map[string]*place // guarded by mu; by repository id
}

// app is one GitHub App with its installations.
type app struct {
	id      int64
	only    map[int64]bool // installations that may be used; empty: all
	key     *rsa.PrivateKey
	jwt     *github.Client // as the App itself
	mu      sync.Mutex
	clients map[int64]*github.Client // guarded by mu; by installation
	bot     user                     // guarded by mu; the App's own account, once it was asked for
}

// place is where a repository is served from.
type place struct {
	app          *app
	installation int64
	client       *github.Client
	owner, name  string
	branch       string // the default branch
	private      bool
	checked      time.Time // when the name was last seen to have the id
}

// New returns the Client of one configured forge. It asks nobody. The error says
// what of the configuration cannot be used.
func New(cfg forge.Config, o Options) (*Client, error) {
	if cfg.Host == "" {
		return nil, errors.New("a forge without a host")
	}
	if len(cfg.Apps) == 0 {
		return nil, fmt.Errorf("forge %s has no GitHub App", cfg.Host)
	}
	o, err := o.For(cfg)
	if err != nil {
		return nil, err
	}
	api, graphql, err := addresses(cfg.Host, cfg.API)
	if err != nil {
		return nil, err
	}
	c := &Client{
		host: cfg.Host, api: api, graphql: graphql, now: o.Now,
		base: outbound.NewTransport(o.Outbound), cache: newCache(), places: map[string]*place{}, root: o.Root, options: o,
	}
	for _, s := range cfg.Webhook.Secrets {
		secret, err := s.Read(o.Env)
		if err != nil {
			return nil, fmt.Errorf("forge %s: webhook secret: %w", cfg.Host, err)
		}
		c.secrets = append(c.secrets, secret)
	}
	for _, a := range cfg.Apps {
		made, err := c.newApp(a, o.Env)
		if err != nil {
			return nil, fmt.Errorf("forge %s: %w", cfg.Host, err)
		}
		c.apps = append(c.apps, made)
	}
	return c, nil
}

// addresses returns the base of the REST API, with its final slash, and the
// address of the GraphQL API.
func addresses(host, configured string) (*url.URL, string, error) {
	base := configured
	switch {
	case base != "":
	case host == "github.com":
		base = "https://api.github.com"
	case strings.HasSuffix(host, ".ghe.com"):
		base = "https://api." + host
	default:
		base = "https://" + host + "/api/v3"
	}
	u, err := url.Parse(strings.TrimRight(base, "/") + "/")
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return nil, "", fmt.Errorf("forge %s: api is no URL that can be used", host)
	}
	g := strings.TrimSuffix(strings.TrimRight(u.String(), "/"), "/v3") + "/graphql"
	return u, g, nil
}

func (c *Client) newApp(a forge.App, env func(string) (string, bool)) (*app, error) {
	id, err := strconv.ParseInt(a.ID, 10, 64)
	if err != nil || id <= 0 {
		return nil, fmt.Errorf("the App id %q is not a number; it is shown in the App's settings", ask.Clip(a.ID))
	}
	text, err := a.PrivateKey.Read(env)
	if err != nil {
		return nil, fmt.Errorf("the App %d: %w", id, err)
	}
	key, err := privateKey(text)
	if err != nil {
		return nil, fmt.Errorf("the App %d: %s %w", id, a.PrivateKey, err)
	}
	made := &app{id: id, key: key, only: map[int64]bool{}, clients: map[int64]*github.Client{}}
	for _, s := range a.Installations {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n <= 0 {
			return nil, fmt.Errorf("the App %d: installation id %q is not a number", id, ask.Clip(s))
		}
		made.only[n] = true
	}
	made.jwt = c.wrap(c.signer(made, newLimits(c.now), "app "+strconv.FormatInt(id, 10)))
	return made, nil
}

// privateKey reads the RSA key that GitHub gives: PKCS #1, or PKCS #8 where it was
// converted. The error does not quote the key.
func privateKey(text []byte) (*rsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("is no PEM")
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if key, ok := any.(*rsa.PrivateKey); err == nil && ok {
		return key, nil
	}
	return nil, errors.New("is no RSA private key")
}

// signer authenticates as the App itself. Each user has one of its own, since
// ghinstallation writes to it. account is whose limits are told.
func (c *Client) signer(a *app, l *limits, account string) *ghinstallation.AppsTransport {
	s := ghinstallation.NewAppsTransportFromPrivateKey(&transport{base: c.base, limits: l, told: func(limit, header string) {
		c.options.Remaining(c.host, account, limit, header)
	}}, a.id, a.key)
	s.BaseURL = strings.TrimRight(c.api.String(), "/")
	return s
}

// wrap returns a go-github client over rt with the rules of this package.
func (c *Client) wrap(rt http.RoundTripper) *github.Client {
	g := github.NewClient(&http.Client{Transport: rt, CheckRedirect: sameHost})
	g.BaseURL, g.UserAgent = c.api, "sealwright"
	return g
}

// installed returns the client of an installation, one for its lifetime: its
// limits and its token are there.
func (c *Client) installed(a *app, installation int64) *github.Client {
	a.mu.Lock()
	defer a.mu.Unlock()
	g, ok := a.clients[installation]
	if !ok {
		shared := newLimits(c.now)
		auth := &renewing{now: c.now, fresh: func() http.RoundTripper {
			t := ghinstallation.NewFromAppsTransport(c.signer(a, shared, "installation "+strconv.FormatInt(installation, 10)), installation)
			t.BaseURL = strings.TrimRight(c.api.String(), "/")
			return t
		}}
		// The cache is above the token: an entry belongs to the installation.
		g = c.wrap(&caching{base: auth, cache: c.cache, scope: fmt.Sprintf("%d/%d", a.id, installation)})
		a.clients[installation] = g
	}
	return g
}

// Host implements forge.Forge.
func (c *Client) Host() string { return c.host }

// repo returns the client of the installation that serves r, and the name that r
// has now. It is sure that the name belongs to r.ID: what is asked by the name in
// the next seconds is asked of that repository.
func (c *Client) repo(ctx context.Context, r forge.Repository) (g *github.Client, owner, name string, err error) {
	p, err := c.place(ctx, r)
	if err != nil {
		return nil, "", "", err
	}
	return p.client, p.owner, p.name, nil
}

// place is repo with all that is known. The result is not changed any more.
func (c *Client) place(ctx context.Context, r forge.Repository) (*place, error) {
	if _, err := strconv.ParseUint(r.ID, 10, 63); err != nil {
		return nil, &signing.Error{Code: signing.Invalid, Message: "not the id of a repository on " + c.host, Found: ask.Clip(r.ID)}
	}
	c.mu.Lock()
	known := c.places[r.ID]
	c.mu.Unlock()
	if known != nil && c.now().Sub(known.checked) < nameFresh && c.now().Sub(known.checked) >= 0 {
		return known, nil
	}
	if known != nil {
		p, err := c.confirm(ctx, known.app, known.installation, r, known.owner, known.name)
		if err == nil || signing.Temporary(err) || errors.Is(err, context.Canceled) {
			return p, err
		}
		// Renamed beyond redirects, moved, or uninstalled: find it anew.
		c.forget(r.ID)
	}
	return c.find(ctx, r)
}

func (c *Client) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.places, id)
}

// find asks each App whether it is installed on r.
func (c *Client) find(ctx context.Context, r forge.Repository) (*place, error) {
	owner, name, ok := strings.Cut(r.Name, "/")
	if !ok || owner == "" || name == "" || strings.Contains(name, "/") {
		return nil, &signing.Error{Code: signing.Invalid, Message: "not a repository on " + c.host, Expected: "OWNER/NAME", Found: ask.Clip(r.Name)}
	}
	others := 0
	for _, a := range c.apps {
		var found struct {
			ID        int64   `json:"id"`
			Suspended *string `json:"suspended_at"`
		}
		err := c.get(ctx, a.jwt, ask.Path("repos", owner, name, "installation"), nil, &found, "")
		switch {
		case errors.Is(err, signing.NotFound):
			continue
		case err != nil:
			return nil, err
		case found.ID <= 0:
			return nil, ask.Garbled("the installation of the App on "+ask.Clip(r.Name), "it has no id")
		case len(a.only) > 0 && !a.only[found.ID]:
			others++
			continue
		case found.Suspended != nil:
			return nil, &signing.Error{Code: signing.Denied, Message: fmt.Sprintf("installation %d of App %d on %s is suspended", found.ID, a.id, c.host), Fix: "have an owner of the organisation unsuspend the App"}
		}
		return c.confirm(ctx, a, found.ID, r, owner, name)
	}
	e := &signing.Error{Code: signing.NotFound, Message: "no GitHub App of this service is installed on " + ask.Clip(r.Name) + " at " + c.host, Fix: "install the App on this repository"}
	if others > 0 {
		e.Found, e.Fix = "an installation that is not in the configuration", "add the installation's id to installations of the App, or leave that list empty"
	}
	return nil, e
}

// confirm asks what repository has the name, and remembers it if it is r.
func (c *Client) confirm(ctx context.Context, a *app, installation int64, r forge.Repository, owner, name string) (*place, error) {
	g := c.installed(a, installation)
	var now repository
	if err := c.get(ctx, g, ask.Path("repos", owner, name), nil, &now, "metadata: read"); err != nil {
		return nil, err
	}
	if id := strconv.FormatInt(now.ID, 10); id != r.ID {
		return nil, &signing.Error{Code: signing.NotFound, Message: "the name " + ask.Clip(owner+"/"+name) + " belongs to another repository", Expected: "repository id " + r.ID, Found: "repository id " + id, Fix: "names can be given to others; run the build again in the repository as it is called now"}
	}
	// After a rename the answer comes by a redirect and has the new name.
	owner, name, ok := strings.Cut(now.FullName, "/")
	if !ok || now.DefaultBranch == "" {
		return nil, ask.Garbled("repository "+r.ID, "it has no name or no default branch")
	}
	p := &place{app: a, installation: installation, client: g, owner: owner, name: name, branch: now.DefaultBranch, private: now.Private, checked: c.now()}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.places) >= maxPlaces {
		clear(c.places)
	}
	c.places[r.ID] = p
	return p, nil
}

// repository is GET /repos/{owner}/{repo}.
type repository struct {
	ID            int64  `json:"id"`
	FullName      string `json:"full_name"`
	DefaultBranch string `json:"default_branch"`
	Private       bool   `json:"private"`
	HTMLURL       string `json:"html_url"`
}

var (
	_ forge.Forge   = (*Client)(nil)
	_ forge.Checker = (*Client)(nil)
)
