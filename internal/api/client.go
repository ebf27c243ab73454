package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxAnswer bounds what the client reads: a request of signing.MaxArtifacts
	// with four methods is 2000 tasks of about 1 KB, and its reasons.
	maxAnswer = 8 << 20
	// callTimeout bounds a call that does not wait by intent. A submission is
	// answered after one registry look-up for each artifact.
	callTimeout = 60 * time.Second
	// pollMargin is what a long poll may take beyond the wait that it asked for.
	pollMargin = 20 * time.Second
)

// Client speaks to one service. It follows no redirect, so that a token only
// ever goes to the address that was configured, and never retries by itself.
type Client struct {
	base  *url.URL
	http  *http.Client
	agent string
	now   func() time.Time
}

// ClientOptions configures a Client. Transport nil is http.DefaultTransport;
// Now nil is time.Now.
type ClientOptions struct {
	Server    string // https://sign.acme.dev; http only for a loopback address
	Transport http.RoundTripper
	UserAgent string
	Now       func() time.Time
}

// NewClient returns a client of the service at o.Server. It makes no connection.
func NewClient(o ClientOptions) (*Client, error) {
	base, err := ParseServer(o.Server)
	if err != nil {
		return nil, err
	}
	if o.Transport == nil {
		o.Transport = http.DefaultTransport
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Client{base: base, agent: o.UserAgent, now: o.Now, http: &http.Client{
		Transport:     o.Transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// ParseServer checks the address of a service: https, or http to a loopback
// address; a path prefix is allowed, user information, query and fragment are not.
func ParseServer(s string) (*url.URL, error) {
	bad := func(found, fix string) error {
		return &signing.Error{Code: signing.Invalid, Message: "not the address of a Sealwright service", Expected: "https://HOST[:PORT][/PREFIX]", Found: found, Fix: fix}
	}
	u, err := url.Parse(strings.TrimSpace(s))
	switch {
	case err != nil:
		return nil, bad(quote(s), "write the address as a URL")
	case u.User != nil:
		// Not quoted: what stands there is likely a secret.
		return nil, bad("an address with user information", "leave the user and password away")
	case u.Scheme != "https" && u.Scheme != "http", u.Hostname() == "":
		return nil, bad(quote(s), "begin with https:// and a host")
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return nil, bad(quote(s), "leave query and fragment away")
	case u.Scheme == "http" && !outbound.IsLoopback(u.Hostname()):
		return nil, bad(quote(s), "use https: the job's token travels over this connection (http is for loopback only)")
	}
	u.Path = strings.TrimRight(u.Path, "/")
	u.RawPath = ""
	return u, nil
}

// Submit asks for signatures and returns the request with the capability that
// reads it. The same key and body again are the same request.
func (c *Client) Submit(ctx context.Context, token, idempotencyKey string, r SubmitRequest) (Request, string, error) {
	if err := ValidateIdempotencyKey(idempotencyKey); err != nil {
		return Request{}, "", err
	}
	raw, err := json.Marshal(r.canonical())
	if err != nil {
		return Request{}, "", fmt.Errorf("encoding submission: %w", err)
	}
	h := http.Header{HeaderIdempotencyKey: {idempotencyKey}, "Authorization": {"Bearer " + token}}
	out, answer, err := c.call(ctx, callTimeout, http.MethodPost, PathRequests, nil, h, raw)
	if err != nil {
		return Request{}, "", fmt.Errorf("submitting: %w", err)
	}
	capability := answer.Get(HeaderCapability)
	if !ValidCapability(capability) {
		return Request{}, "", fmt.Errorf("submitting: %w", notOurs("the header "+HeaderCapability, "none or a malformed one"))
	}
	return out, capability, nil
}

// Get returns the request, after at most wait (cut to MaxWait) if its version
// is still the given one. Wait 0 answers at once.
func (c *Client) Get(ctx context.Context, id, capability string, version int64, wait time.Duration) (Request, error) {
	return c.get(ctx, id, version, wait, http.Header{HeaderCapability: {capability}})
}

// GetAs is Get for a person who may read every request, with their token.
func (c *Client) GetAs(ctx context.Context, id, token string, version int64, wait time.Duration) (Request, error) {
	return c.get(ctx, id, version, wait, http.Header{"Authorization": {"Bearer " + token}})
}

func (c *Client) get(ctx context.Context, id string, version int64, wait time.Duration, h http.Header) (Request, error) {
	if !signing.ValidRequestID(id) {
		return Request{}, &signing.Error{Code: signing.Invalid, Message: "not a request id", Expected: "sr_ and 16 characters", Found: quote(id)}
	}
	wait = min(max(wait, 0), MaxWait)
	q := url.Values{}
	if wait > 0 {
		q.Set("wait", wait.Truncate(time.Millisecond).String())
		q.Set("version", strconv.FormatInt(version, 10))
	}
	out, _, err := c.call(ctx, wait+pollMargin, http.MethodGet, PathRequests+"/"+id, q, h, nil)
	if err == nil && out.ID != id {
		err = notOurs("the request "+id, quote(out.ID))
	}
	if err != nil {
		return Request{}, fmt.Errorf("reading request %s: %w", id, err)
	}
	return out, nil
}

// Cancel withdraws the request. The token must be one of the run that submitted,
// or of an admin.
func (c *Client) Cancel(ctx context.Context, token, id string) (Request, error) {
	if !signing.ValidRequestID(id) {
		return Request{}, &signing.Error{Code: signing.Invalid, Message: "not a request id", Expected: "sr_ and 16 characters", Found: quote(id)}
	}
	h := http.Header{"Authorization": {"Bearer " + token}}
	out, _, err := c.call(ctx, callTimeout, http.MethodPost, PathRequests+"/"+id+"/cancel", nil, h, nil)
	if err != nil {
		return Request{}, fmt.Errorf("canceling request %s: %w", id, err)
	}
	return out, nil
}

// List returns a page of the requests that q asks for, with the token of a person
// who may read every request.
func (c *Client) List(ctx context.Context, token string, q Query) (Page, error) {
	h := http.Header{"Authorization": {"Bearer " + token}}
	answer, raw, err := c.send(ctx, callTimeout, http.MethodGet, PathRequests, q.values(), h, nil)
	if err != nil {
		return Page{}, fmt.Errorf("listing requests: %w", err)
	}
	media, _, _ := mime.ParseMediaType(answer.Get("Content-Type"))
	var p Page
	if media != "application/json" || json.Unmarshal(raw, &p) != nil || p.Requests == nil {
		return Page{}, fmt.Errorf("listing requests: %w", notOurs("a page of requests", "another document"))
	}
	for _, r := range p.Requests {
		if !signing.ValidRequestID(r.ID) || !r.State.Valid() {
			return Page{}, fmt.Errorf("listing requests: %w", notOurs("ids and states that this client knows", quote(r.ID+" "+string(r.State))))
		}
	}
	return p, nil
}

// Query says which requests to list; an empty field means any. Cursor is that of
// the page before.
type Query struct {
	Project, Digest, Cursor string
	State                   signing.RequestState
}

func (q Query) values() url.Values {
	v := url.Values{}
	for name, value := range map[string]string{"project": q.Project, "state": string(q.State), "digest": q.Digest, "cursor": q.Cursor} {
		if value != "" {
			v.Set(name, value)
		}
	}
	return v
}

// call sends a request whose answer is a Request.
func (c *Client) call(ctx context.Context, timeout time.Duration, method, path string, q url.Values, h http.Header, body []byte) (Request, http.Header, error) {
	answer, raw, err := c.send(ctx, timeout, method, path, q, h, body)
	if err != nil {
		return Request{}, nil, err
	}
	out, err := parseRequest(answer, raw)
	return out, answer, err
}

// send returns the header and body of a success.
func (c *Client) send(ctx context.Context, timeout time.Duration, method, path string, q url.Values, h http.Header, body []byte) (http.Header, []byte, error) {
	return c.sendMost(ctx, timeout, maxAnswer, method, path, q, h, body)
}

// sendMost is send with another bound on the answer.
func (c *Client) sendMost(ctx context.Context, timeout time.Duration, most int64, method, path string, q url.Values, h http.Header, body []byte) (http.Header, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	u := *c.base
	u.Path += path
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, nil, fmt.Errorf("making request: %w", err)
	}
	req.Header = h
	req.Header.Set("Accept", "application/json, "+ContentTypeProblem)
	req.Header.Set("User-Agent", c.agent)
	if body != nil && h.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, nil, c.unreachable(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, most+1))
	switch {
	case err != nil:
		return nil, nil, c.unreachable(err)
	case int64(len(raw)) > most:
		return nil, nil, notOurs(fmt.Sprintf("at most %d bytes", most), "more")
	case res.StatusCode >= 300 && res.StatusCode < 400:
		return nil, nil, &signing.Error{Code: signing.Invalid, Message: "the server answered with a redirect, which is not followed: a token goes only where it was meant to go", Found: fmt.Sprintf("%d to %s", res.StatusCode, quote(res.Header.Get("Location"))), Fix: "set the server to the address that Sealwright itself answers on"}
	case res.StatusCode < 200 || res.StatusCode > 299:
		return nil, nil, &Refusal{Problem: ParseProblem(res.StatusCode, res.Header, raw, c.now())}
	}
	return res.Header, raw, nil
}

// parseRequest reads a success. Unknown fields are a newer service's; unknown
// states are refused, because nothing here would know how to treat them.
func parseRequest(h http.Header, raw []byte) (Request, error) {
	media, _, _ := mime.ParseMediaType(h.Get("Content-Type"))
	var r Request
	if media != "application/json" {
		return r, notOurs("application/json", quote(media))
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return Request{}, notOurs("a request", "another document")
	}
	if !signing.ValidRequestID(r.ID) {
		return Request{}, notOurs("a request id", quote(r.ID))
	}
	if !r.State.Valid() {
		return Request{}, notOurs("a state that this client knows", quote(string(r.State)))
	}
	for _, t := range r.Tasks {
		if !t.State.Valid() {
			return Request{}, notOurs("a task state that this client knows", quote(string(t.State)))
		}
	}
	return r, nil
}

func notOurs(expected, found string) error {
	return &signing.Error{Code: signing.Internal, Message: "the server's answer is not understood", Expected: expected, Found: found, Fix: "check that the address is Sealwright's own and that client and service are of the same release"}
}

// unreachable names the host, never the URL's query or the header.
func (c *Client) unreachable(err error) error {
	var cert *tls.CertificateVerificationError
	if errors.As(err, &cert) {
		return &signing.Error{Code: signing.Internal, Message: "the certificate of " + c.base.Host + " is not trusted", Found: clipTo(cert.Err.Error(), 300), Fix: "give the CA of your organisation as `ca-file`, or correct the address", Err: err}
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return &signing.Error{Code: signing.Unavailable, Message: "no answer from " + c.base.Host, Found: clipTo(err.Error(), 300), Fix: "check the address and the network between this job and the service", Err: err}
}
