// Package identity turns the bearer token of a CI job into a verified
// signing.Identity and signing.Origin, and that of a person into an Identity
// with the roles that the issuer's row gives to its claims (people.go).
//
// Issuers are an allow-list matched by exact string before any network access,
// and rows of data: what differs between GitHub Actions, GitLab and a CI of the
// operator's own is a table of claim templates (row.go), not code. Signatures
// are checked by go-oidc over a key cache of this package (keys.go), which
// bounds how often strangers can make the service ask an issuer and how long a
// withdrawn key stays trusted.
//
// A token proves what its issuer says and no more. Whether an origin may sign
// is the policy's business: in particular BuildTrigger must be held against an
// allow-list there, since pull_request_target looks like the default branch in
// every other claim.
package identity

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/signing"
)

// Leeway is the difference between the issuer's clock and ours that exp, nbf,
// iat and the maximum age allow for.
const Leeway = 30 * time.Second

// Options are what a Verifier needs from its surroundings.
type Options struct {
	// Client fetches discovery documents and key sets. It is used on a copy that
	// follows no redirects. It may be nil where every issuer has a jwks_file.
	Client *http.Client
	// ClientFor returns a Client that trusts roots, for issuers with a ca_file.
	// It may be nil where none has one.
	ClientFor func(roots *x509.CertPool) *http.Client
	Now       func() time.Time // nil means time.Now
	Log       *slog.Logger     // nil means no log
}

// Verifier checks tokens. It is safe for concurrent use.
type Verifier struct {
	issuers map[string]*issuer // by exact issuer URL; never changed after New
	now     func() time.Time
}

// issuer is one configured issuer, ready for use.
type issuer struct {
	url      string
	audience string
	besides  []string // audiences that may stand beside ours, normally none
	provider string
	role     signing.Role
	roles    []RoleRule // of people
	scopes   []string   // likewise
	maxAge   time.Duration
	perJob   bool
	row      *row
	keys     *keyCache
}

// New returns a Verifier for issuers, which must pass Check. It reads the files
// that they name and uses no network: an issuer that is down at start delays
// only its own tokens.
func New(_ context.Context, issuers []Issuer, o Options) (*Verifier, error) {
	if p := Check(issuers); len(p) > 0 {
		return nil, p
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	v := &Verifier{issuers: make(map[string]*issuer, len(issuers)), now: o.Now}
	for _, c := range issuers {
		c = c.withDefaults()
		src, err := newSource(c, o)
		if err != nil {
			return nil, fmt.Errorf("issuer %s: %w", c.Issuer, err)
		}
		keys := &keyCache{issuer: c.Issuer, fetch: src, now: o.Now, log: o.Log}
		if c.JWKSFile != "" {
			// A configured file that cannot be used stops the start; later
			// changes of the file are picked up like a rotation.
			if err := keys.preload(); err != nil {
				return nil, fmt.Errorf("issuer %s: %w", c.Issuer, err)
			}
		}
		r, err := c.row()
		if err != nil {
			return nil, fmt.Errorf("issuer %s: %w", c.Issuer, err)
		}
		v.issuers[c.Issuer] = &issuer{
			url: c.Issuer, audience: c.Audience, besides: c.AudienceException, provider: c.Provider, role: c.Role, roles: c.Roles, scopes: c.Scopes,
			maxAge: time.Duration(c.MaxAge), perJob: c.TokenPer == TokenPerJob, row: r, keys: keys,
		}
	}
	return v, nil
}

// newSource returns the function that fetches c's key set.
func newSource(c Issuer, o Options) (source, error) {
	if c.JWKSFile != "" {
		return fileSource(c.JWKSFile), nil
	}
	client := o.Client
	if c.CAFile != "" {
		if o.ClientFor == nil {
			return nil, errors.New("ca_file is set, but this program cannot make a client for it")
		}
		roots, err := config.ReadCA(c.CAFile)
		if err != nil {
			return nil, err
		}
		client = o.ClientFor(roots)
	}
	if client == nil {
		return nil, errors.New("no HTTP client and no jwks_file")
	}
	return newRemote(client, c.Issuer, c.JWKSURI), nil
}

// Verify checks token, a JWT in compact form, and returns what it proved. Every
// refusal is a *signing.Error with code Unauthenticated, or Unavailable with
// RetryAfter where the issuer's keys cannot be had; on a refusal Identity and
// Origin are empty. No error holds any part of the token but single claims.
// Where the token's signature was good, the cause of the error is a *Refusal.
//
// Verify keeps no record of tokens: that each is used once is for the caller to
// enforce, with Identity.TokenID or TokenHash, until Identity.Accepted.
func (v *Verifier) Verify(ctx context.Context, token string) (signing.Identity, signing.Origin, error) {
	url, err := peekIssuer(token)
	if err != nil {
		return signing.Identity{}, signing.Origin{}, err
	}
	is, ok := v.issuers[url]
	if !ok {
		return signing.Identity{}, signing.Origin{}, refused("the token's issuer is not known to this service",
			"an issuer from this service's configuration, equal to the character", quote(url),
			"use this service from a CI that it knows, or ask its operator to add the issuer to `issuers`")
	}
	return is.verify(ctx, token, v.now())
}

func (is *issuer) verify(ctx context.Context, token string, now time.Time) (signing.Identity, signing.Origin, error) {
	// go-oidc flattens the errors of a key set into text, hence the detour.
	set := &keySet{cache: is.keys}
	verifier := oidc.NewVerifier(is.url, set, &oidc.Config{
		ClientID:             is.audience,
		SupportedSigningAlgs: algorithms,
		SkipExpiryCheck:      true, // ours is stricter: go-oidc's leeway for nbf is 5 minutes
		// The audience check below is stricter and has the better message; a
		// token that passes it passes go-oidc's.
		SkipClientIDCheck: true,
	})
	_, err := verifier.Verify(ctx, token)
	if set.err != nil {
		return signing.Identity{}, signing.Origin{}, set.err
	}
	unusable := func(err error) error {
		return &signing.Error{Code: signing.Unauthenticated, Message: "the token cannot be verified", Expected: "a JWT signed by its issuer", Fix: fixToken, Err: err}
	}
	if set.payload == nil {
		return signing.Identity{}, signing.Origin{}, unusable(err)
	}
	// From here on the signature is good. The claims are parsed again from the
	// verified bytes, so that nothing of the unverified peek is used, and before
	// go-oidc's own opinion of them is heard, since ours says what is wrong.
	id := signing.Identity{Issuer: is.url, Provider: is.provider, Role: is.role, TokenHash: hashToken(token), PerJob: is.perJob}
	o, refusal := is.accept(set.payload, &id, now)
	if refusal == nil && err != nil {
		refusal = unusable(err)
	}
	if refusal != nil {
		var e *signing.Error
		if errors.As(refusal, &e) {
			e.Err = &Refusal{Identity: id, Err: e.Err}
		}
		return signing.Identity{}, signing.Origin{}, refusal
	}
	return id, o, nil
}

// accept holds the claims of a token with a good signature against the rules of
// its issuer and fills id. That iss is the issuer's is go-oidc's check.
func (is *issuer) accept(payload []byte, id *signing.Identity, now time.Time) (signing.Origin, error) {
	c, err := parseClaims(payload)
	if err != nil {
		return signing.Origin{}, err
	}
	if id.Subject, err = c.required("sub"); err != nil {
		return signing.Origin{}, err
	}
	if id.TokenID, _, err = c.text("jti"); err != nil {
		return signing.Origin{}, err
	}
	if id.Audience, err = is.checkAudience(c); err != nil {
		return signing.Origin{}, err
	}
	if err := is.checkTimes(c, id, now); err != nil {
		return signing.Origin{}, err
	}
	if is.role == signing.RolePeople {
		// A person has no build: what a template would make of the claims is no origin.
		if id.Roles, err = peopleRoles(is.roles, c); err != nil {
			return signing.Origin{}, err
		}
		return signing.Origin{}, is.row.checkClaims(c)
	}
	return is.row.origin(c)
}

// checkAudience demands our audience and no other: a token that several parties
// accept can be replayed by each of them to the others.
func (is *issuer) checkAudience(c claims) (string, error) {
	fix := "ask the CI for a token with exactly this audience (GitHub Actions: the audience parameter of the token request; GitLab: id_tokens.NAME.aud)"
	if is.role == signing.RolePeople {
		fix = "log in at the identity provider as the client of this name, and send its ID token"
	}
	auds, err := c.audiences()
	if err != nil {
		return "", err
	}
	others := slices.DeleteFunc(slices.Clone(auds), func(a string) bool { return slices.Contains(is.besides, a) && a != is.audience })
	if len(others) != 1 || others[0] != is.audience {
		return "", refused("the token is not meant for this service", "the audience "+quote(is.audience)+" and no other", quote(strings.Join(auds, " ")), fix)
	}
	return is.audience, nil
}

// checkTimes checks exp, iat and nbf with Leeway, and the age of the token: a
// CI token may live as long as its job, which is too long for a thing that logs
// and caches may hold.
func (is *issuer) checkTimes(c claims, id *signing.Identity, now time.Time) error {
	exp, err := c.time("exp", true)
	if err != nil {
		return err
	}
	iat, err := c.time("iat", true)
	if err != nil {
		return err
	}
	nbf, err := c.time("nbf", false)
	if err != nil {
		return err
	}
	fixFresh := "ask the CI for a new token right before using it"
	if is.role == signing.RolePeople {
		fixFresh = "log in again for a new token"
	}
	const fixClock = "compare the clocks of this service and of the issuer"
	found := func(claim string, t time.Time) string {
		return fmt.Sprintf("%s %s, %s from now", claim, t.Format(time.RFC3339), t.Sub(now).Round(time.Second))
	}
	switch {
	case now.After(exp.Add(Leeway)):
		return refused("the token has expired", "an exp not before "+now.UTC().Format(time.RFC3339), found("exp", exp), fixFresh)
	case iat.After(now.Add(Leeway)):
		return refused("the token is from the future", "an iat not after "+now.UTC().Format(time.RFC3339), found("iat", iat), fixClock)
	case nbf.After(now.Add(Leeway)):
		return refused("the token is not valid yet", "an nbf not after "+now.UTC().Format(time.RFC3339), found("nbf", nbf), fixClock)
	case now.After(iat.Add(is.maxAge + Leeway)):
		return refused("the token is too old", "one issued at most "+is.maxAge.String()+" ago (max_age of the issuer)", found("iat", iat), fixFresh)
	}
	id.IssuedAt = iat
	id.Accepted = iat.Add(is.maxAge + Leeway)
	if end := exp.Add(Leeway); end.Before(id.Accepted) {
		id.Accepted = end
	}
	return nil
}

// Refusal is the cause of the refusal of a token whose signature was good, for
// the audit log: such refusals are events, while tokens without a good
// signature are only counted. Identity is as complete as the checks got.
type Refusal struct {
	Identity signing.Identity
	Err      error
}

// Error returns that the token was verified, and the cause if there is one.
func (r *Refusal) Error() string {
	s := "token of " + r.Identity.Issuer + " with a good signature"
	if r.Err != nil {
		s += ": " + r.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (r *Refusal) Unwrap() error { return r.Err }

const fixToken = "send the OIDC token of the running job as `Authorization: Bearer` (GitHub Actions: permissions id-token: write; GitLab: id_tokens), or a person's ID token where a person may ask"

// refused returns an Unauthenticated error.
func refused(message, expected, found, fix string) error {
	return &signing.Error{Code: signing.Unauthenticated, Message: message, Expected: expected, Found: found, Fix: fix}
}

// quote makes the text of strangers fit for an error: bounded, and without
// anything that a terminal or a log would interpret.
func quote(s string) string {
	const most = 200 // long enough for every issuer URL and workflow path seen
	if len(s) > most {
		s = s[:most] + "..."
	}
	return fmt.Sprintf("%q", s)
}
