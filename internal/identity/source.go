package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/sealwright/sealwright/internal/outbound"
)

// maxDocument bounds a discovery document and a key set. The largest in use
// have some 30 KiB.
const maxDocument = 100 << 10

// fileSource reads a key set from a file, for services that cannot reach the
// issuer. A change of the file is seen as a rotation would be.
func fileSource(path string) source {
	return func(context.Context) ([]byte, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("reading jwks_file: %w", err)
		}
		defer func() { _ = f.Close() }() // read only
		return readBounded(f, "jwks_file")
	}
}

// remote fetches an issuer's key set over HTTP.
type remote struct {
	client  *http.Client
	issuer  string
	jwksURI string // from the configuration; if empty, discovery names it
}

func newRemote(client *http.Client, issuer, jwksURI string) source {
	c := *client
	// A redirect could lead discovery to a host of someone else's choice, with
	// whatever the transport adds to its requests (CVE-2026-49478).
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.Jar = nil
	r := &remote{client: &c, issuer: issuer, jwksURI: jwksURI}
	return r.fetch
}

func (r *remote) fetch(ctx context.Context) ([]byte, error) {
	uri := r.jwksURI
	if uri == "" {
		var err error
		if uri, err = r.discover(ctx); err != nil {
			return nil, err
		}
	}
	return r.get(ctx, uri, "key set")
}

// discover returns the jwks_uri of the issuer (OpenID Connect Discovery 1.0,
// section 4). The document must name exactly this issuer, and the key set must
// be on the issuer's host: another host has to be written into the
// configuration by a person.
func (r *remote) discover(ctx context.Context) (string, error) {
	raw, err := r.get(ctx, strings.TrimSuffix(r.issuer, "/")+"/.well-known/openid-configuration", "discovery document")
	if err != nil {
		return "", err
	}
	var doc struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return "", errors.New("the discovery document is not what it should be: not a JSON object with issuer and jwks_uri as strings")
	}
	if doc.Issuer != r.issuer {
		return "", fmt.Errorf("the discovery document names the issuer %s instead of %q", quote(doc.Issuer), r.issuer)
	}
	if err := checkKeysURL(doc.JWKSURI, r.issuer); err != nil {
		return "", fmt.Errorf("the discovery document names the jwks_uri %s: %w", quote(doc.JWKSURI), err)
	}
	if host(doc.JWKSURI) != host(r.issuer) {
		return "", fmt.Errorf("the discovery document names the jwks_uri %s on another host than the issuer's; if that is right, set jwks_uri in the configuration of the issuer", quote(doc.JWKSURI))
	}
	return doc.JWKSURI, nil
}

// get fetches one document: status 200, at most maxDocument bytes.
func (r *remote) get(ctx context.Context, uri, what string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, fmt.Errorf("making the request for the %s: %w", what, err)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("fetching the %s: %w", what, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		if loc := resp.Header.Get("Location"); loc != "" {
			return nil, fmt.Errorf("fetching the %s from %s: a redirect to %s, which is not followed", what, uri, quote(loc))
		}
		return nil, fmt.Errorf("fetching the %s from %s: status %d", what, uri, resp.StatusCode)
	}
	return readBounded(resp.Body, what)
}

func readBounded(r io.Reader, what string) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("reading the %s: %w", what, err)
	}
	if len(raw) > maxDocument {
		return nil, fmt.Errorf("the %s is larger than %d bytes", what, maxDocument)
	}
	return raw, nil
}

// checkURL reports what is wrong with the URL of an issuer: https, or http on
// a loopback host for development; nothing but host and path.
func checkURL(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "":
		return errors.New("not a URL with a host")
	case u.Scheme != "https" && !(u.Scheme == "http" && outbound.IsLoopback(u.Hostname())):
		return errors.New("must begin with https:// (http:// only on a loopback host)")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(raw, "#"):
		return errors.New("must not have a user, a query or a fragment")
	}
	return nil
}

// checkKeysURL is checkURL for a key set, where http needs an issuer that
// itself is on a loopback host.
func checkKeysURL(raw, issuer string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Hostname() == "" || u.User != nil || u.Fragment != "":
		return errors.New("not a URL with a host and without user and fragment")
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && outbound.IsLoopback(u.Hostname()) && strings.HasPrefix(issuer, "http://"):
		return nil
	}
	return errors.New("must begin with https:// (http:// only on a loopback host and for an issuer there)")
}
