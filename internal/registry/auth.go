package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxTokenAnswer bounds a token service's answer; tokens of registries with
	// many scopes reach 10 KiB.
	maxTokenAnswer = 64 << 10
	// tokenDefault is a token's life where its service names none (distribution's
	// token specification), and tokenMargin how much earlier we take another, so
	// that none expires on its way.
	tokenDefault = 60 * time.Second
	tokenMargin  = 10 * time.Second
	tokenLongest = time.Hour
	// maxTokens bounds the tokens kept for one host, one for each repository.
	maxTokens = 1024
)

// access is what a request needs.
type access string

const (
	pull access = "pull"
	push access = "pull,push"
)

// auth is what was learned of one host: how it wants to be asked, and its tokens.
type auth struct {
	mu     sync.Mutex        // guards below
	known  *challenge        // the last challenge, nil before the first
	tokens map[string]*token // by scope
}

// token is one bearer token. value and until are guarded by auth.mu; fetch is a
// lock of one place, which can be given up with a context, on asking for another.
type token struct {
	fetch chan struct{}
	value string
	until time.Time
}

// authorize adds credentials to req if the host is known to want some. It
// returns a function that forgets what was sent, for when it is refused.
func (h *host) authorize(ctx context.Context, c *Client, req *http.Request, path string, a access) (forget func(), err error) {
	h.auth.mu.Lock()
	known := h.auth.known
	h.auth.mu.Unlock()
	if known == nil {
		return func() {}, nil
	}
	cred, err := h.keys.get(ctx)
	if err != nil {
		return nil, err
	}
	switch {
	case cred.bearer != "":
		req.Header.Set("Authorization", "Bearer "+cred.bearer)
		return h.keys.drop, nil
	case known.scheme == "basic":
		if cred.username == "" && cred.password == "" {
			h.auth.unlearn(known)
			return nil, h.denied("it asks for a user name and a password, and none are configured")
		}
		req.SetBasicAuth(cred.username, cred.password)
		return h.keys.drop, nil
	}
	scope := "repository:" + path + ":"
	t := h.token(scope, a, c.o.Now())
	value, err := h.bearer(ctx, c, t, known, scope+string(a), cred)
	if err != nil {
		h.auth.unlearn(known)
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+value)
	return func() {
		h.keys.drop()
		h.auth.drop(t, value)
	}, nil
}

// learn takes over the challenge of a refused request.
func (h *host) learn(values []string) error {
	cs, err := parseChallenges(values)
	if err != nil {
		return h.denied("its challenge cannot be read: " + err.Error())
	}
	var best *challenge
	for i := range cs {
		if cs[i].scheme == "bearer" {
			best = &cs[i]
			break
		}
		if cs[i].scheme == "basic" && best == nil {
			best = &cs[i]
		}
	}
	if best == nil {
		return h.denied("it answers 401 without a Bearer or Basic challenge")
	}
	if best.scheme == "bearer" {
		if _, err := h.fence(best.params["realm"]); err != nil {
			return err
		}
	}
	h.auth.mu.Lock()
	defer h.auth.mu.Unlock()
	h.auth.known = best
	return nil
}

// unlearn forgets a challenge that led nowhere, so that the registry is asked
// anew how it wants to be asked: it may want nothing, or another token service.
func (a *auth) unlearn(c *challenge) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known == c {
		a.known = nil
	}
}

// fence returns the URL of the token service, if it is on the registry's own
// host or configured for it. Whoever can answer for a registry must not be able
// to name a host that gets its credentials (CVE-2026-33540, CVE-2026-24845).
func (h *host) fence(realm string) (*url.URL, error) {
	u, err := parseRealm(realm)
	if err == nil {
		if origin(u) == origin(h.api) {
			return u, nil
		}
		for _, ok := range h.realms {
			if origin(u) == origin(ok) && u.EscapedPath() == ok.EscapedPath() {
				return u, nil
			}
		}
	}
	return nil, &signing.Error{Code: signing.Denied, Message: h.title() + " sends its clients to a token service elsewhere; no credentials were sent", Expected: "a token realm on " + h.api.Host + " or one listed in token_realm", Found: quote(realm), Fix: "if this token service is its own, add its URL to token_realm in the " + h.row()}
}

func (h *host) denied(why string) error {
	return &signing.Error{Code: signing.Denied, Message: h.title() + " does not let this service in", Expected: "access with the credentials that are configured", Found: why, Fix: "configure credentials in the " + h.row()}
}

// token returns the place where the token for scope and access is kept. One that
// may push serves for pulling too.
func (h *host) token(scope string, a access, now time.Time) *token {
	h.auth.mu.Lock()
	defer h.auth.mu.Unlock()
	if t, ok := h.auth.tokens[scope+string(push)]; ok && a == pull && now.Before(t.until) {
		return t
	}
	t, ok := h.auth.tokens[scope+string(a)]
	if !ok {
		if len(h.auth.tokens) >= maxTokens {
			clear(h.auth.tokens) // costs one more request for each repository in use
		}
		t = &token{fetch: make(chan struct{}, 1)}
		h.auth.tokens[scope+string(a)] = t
	}
	return t
}

// current returns the value of t if it can be used without asking for another.
func (a *auth) current(t *token, now time.Time) (string, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return t.value, now.Before(t.until)
}

// drop forgets t if it still is value.
func (a *auth) drop(t *token, value string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t.value == value {
		t.until = time.Time{}
	}
}

// bearer returns the token of t, fetched first if it is missing or about to end.
// Concurrent callers wait for one fetch.
func (h *host) bearer(ctx context.Context, c *Client, t *token, known *challenge, scope string, cred credential) (string, error) {
	if v, ok := h.auth.current(t, c.o.Now()); ok {
		return v, nil
	}
	select {
	case t.fetch <- struct{}{}:
		defer func() { <-t.fetch }()
	case <-ctx.Done():
		return "", h.gaveUp(ctx.Err())
	}
	if v, ok := h.auth.current(t, c.o.Now()); ok {
		return v, nil
	}
	value, life, err := h.fetchToken(ctx, known, scope, cred)
	if err != nil {
		return "", err
	}
	h.auth.mu.Lock()
	defer h.auth.mu.Unlock()
	t.value, t.until = value, c.o.Now().Add(life-tokenMargin)
	return value, nil
}

// fetchToken asks the token service: with GET and Basic authentication
// (distribution's token specification), or with a refresh token by OAuth2.
func (h *host) fetchToken(ctx context.Context, known *challenge, scope string, cred credential) (string, time.Duration, error) {
	u, err := h.fence(known.params["realm"])
	if err != nil {
		return "", 0, err
	}
	q := url.Values{"scope": {scope}}
	if s := known.params["service"]; s != "" {
		q.Set("service", s)
	}
	var req *http.Request
	if cred.refresh != "" {
		q.Set("grant_type", "refresh_token")
		q.Set("refresh_token", cred.refresh)
		q.Set("client_id", "sealwright")
		req, err = http.NewRequestWithContext(ctx, http.MethodPost, u.String(), strings.NewReader(q.Encode()))
		if err == nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
	} else {
		full := *u
		all := full.Query()
		for k, v := range q {
			all[k] = v
		}
		full.RawQuery = all.Encode()
		req, err = http.NewRequestWithContext(ctx, http.MethodGet, full.String(), nil)
		if err == nil && cred.username != "" {
			req.SetBasicAuth(cred.username, cred.password)
		}
	}
	if err != nil {
		return "", 0, fmt.Errorf("asking for a token: %w", err)
	}
	resp, err := h.plain.Do(req)
	if err != nil {
		return "", 0, h.gaveUp(err)
	}
	body, err := outbound.ReadBody(resp, maxTokenAnswer)
	if err != nil {
		return "", 0, h.gaveUp(err)
	}
	if resp.StatusCode != http.StatusOK {
		e := h.statusError("its token service", resp.StatusCode, resp.Header, body)
		if e.Code == signing.NotFound || e.Code == signing.Invalid {
			e.Code = signing.Denied // 404 and 400 of a token service are not the registry's "no such thing"
		}
		return "", 0, e
	}
	return h.parseToken(body)
}

// parseToken reads the answer of a token service.
func (h *host) parseToken(body []byte) (string, time.Duration, error) {
	var a struct {
		Token       string  `json:"token"`
		AccessToken string  `json:"access_token"`
		ExpiresIn   float64 `json:"expires_in"`
	}
	err := json.Unmarshal(body, &a)
	if a.Token == "" {
		a.Token = a.AccessToken
	}
	if err != nil || a.Token == "" || strings.ContainsFunc(a.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", 0, &signing.Error{Code: signing.Unavailable, Message: "the token service of " + h.title() + " gave no token"}
	}
	life := tokenDefault
	if a.ExpiresIn > 0 {
		life = time.Duration(min(a.ExpiresIn, tokenLongest.Seconds()) * float64(time.Second))
	}
	return a.Token, life, nil
}
