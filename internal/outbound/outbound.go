// Package outbound is the one way out of Sealwright: every HTTP request to a
// registry, an issuer or a forge goes through a client made here.
//
// It guarantees that a request ends (a timeout over the whole exchange, body
// included), that an answer fits in memory (a bound on body and header), that no
// host gets more than its share of concurrent requests, that nothing is sent in
// the clear except to this machine, and that no redirect is followed unless the
// caller asks for it. Answers are never decompressed: what is hashed is what was
// sent. It does not retry and knows no credentials; both are the caller's.
//
// Failures are *signing.Error: Unavailable for whatever may pass, RateLimited
// with RetryAfter for a throttled request, TooLarge, and Denied for what the
// rules above forbid. A request canceled by its caller gets the context's error.
package outbound

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// DefaultTimeout bounds one exchange where Options does not: the slowest
	// sane answer is a token endpoint that asks a directory behind it.
	DefaultTimeout = 30 * time.Second
	// DefaultMaxBody bounds one answer where Options does not: twice the largest
	// manifest that registries accept.
	DefaultMaxBody = 8 << 20
	// DefaultPerHost bounds concurrent requests to one host where Options does
	// not: enough to hide latency, below the limits of public registries.
	DefaultPerHost = 16
	// MaxRetryAfter bounds the wait that a server may ask for, so that a wrong
	// clock or a hostile server cannot park a Request for ever.
	MaxRetryAfter = time.Hour

	// maxHeader bounds the header of an answer; forges send up to 16 KiB.
	maxHeader = 64 << 10
	// drainAtMost of a refused answer is read so that its connection can be reused.
	drainAtMost = 4 << 10

	connectTimeout = 10 * time.Second
	idleTimeout    = 90 * time.Second
)

// ErrTooLarge is returned, wrapped or not, for an answer that exceeds its bound.
// Its class is signing.TooLarge.
var ErrTooLarge error = &signing.Error{Code: signing.TooLarge, Message: "the answer is larger than this service reads"}

// Options are the bounds of a client. The zero value is strict and usable.
type Options struct {
	Timeout time.Duration // of one exchange from sending to the last byte; DefaultTimeout if zero
	MaxBody int64         // bytes of one answer; DefaultMaxBody if zero
	// AllowHTTP permits plain http, to loopback hosts only.
	AllowHTTP bool
	PerHost   int            // concurrent requests to one host; DefaultPerHost if zero
	RootCAs   *x509.CertPool // the system's if nil
	UserAgent string         // "sealwright" if empty
	// Base carries the requests. Nil is a transport of our own with RootCAs;
	// tests put theirs here, and every rule of this package still holds.
	Base http.RoundTripper
	// PassThrottled returns an answer 429 as it came, for callers who read the
	// limits of their server from it.
	PassThrottled bool
	// Now is the clock that dates in Retry-After are held against.
	Now func() time.Time
}

// NewTransport returns a RoundTripper that keeps the rules of this package. An
// answer 429 (unless PassThrottled), and an answer 503 with Retry-After, is returned as an error with
// RetryAfter; every other answer is returned as it came.
func NewTransport(o Options) http.RoundTripper {
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.MaxBody <= 0 {
		o.MaxBody = DefaultMaxBody
	}
	if o.PerHost <= 0 {
		o.PerHost = DefaultPerHost
	}
	if o.UserAgent == "" {
		o.UserAgent = "sealwright"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Base == nil {
		o.Base = &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: connectTimeout, KeepAlive: 30 * time.Second}).DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: o.RootCAs, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    connectTimeout,
			ExpectContinueTimeout:  time.Second,
			IdleConnTimeout:        idleTimeout,
			MaxIdleConnsPerHost:    o.PerHost,
			MaxResponseHeaderBytes: maxHeader,
			DisableCompression:     true,
			ForceAttemptHTTP2:      true,
		}
	}
	return &transport{Options: o, gate: gate{per: o.PerHost, hosts: map[string]*slots{}}}
}

// NewClient returns a client over NewTransport that follows no redirect.
func NewClient(o Options) *http.Client {
	return &http.Client{Transport: NewTransport(o), CheckRedirect: RefuseRedirects}
}

type transport struct {
	Options
	gate gate
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.send(req)
	if err != nil && req.Body != nil {
		req.Body.Close() // the contract of RoundTripper; closing twice is harmless
	}
	return resp, err
}

func (t *transport) send(req *http.Request) (*http.Response, error) {
	if err := t.allowed(req.URL); err != nil {
		return nil, err
	}
	leave, err := t.gate.enter(req.Context(), req.URL.Host)
	if err != nil {
		return nil, failure(req, err)
	}
	// The time in the queue above is the caller's; the exchange starts here.
	ctx, cancel := context.WithTimeout(req.Context(), t.Timeout)
	done := func() { cancel(); leave() }

	out := req.Clone(ctx) // a RoundTripper must not change its request
	if out.Header.Get("User-Agent") == "" {
		out.Header.Set("User-Agent", t.UserAgent)
	}
	resp, err := t.Base.RoundTrip(out)
	if err != nil {
		done()
		return nil, failure(req, err)
	}
	resp.Body = &body{ReadCloser: resp.Body, req: req, left: t.MaxBody, done: done}
	if err := t.refused(req, resp); err != nil {
		_, _ = io.CopyN(io.Discard, resp.Body, drainAtMost)
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// allowed holds the scheme and the host against the rules.
func (t *transport) allowed(u *url.URL) error {
	switch {
	case u.Hostname() == "":
		return &signing.Error{Code: signing.Denied, Message: "a request without a host"}
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && t.AllowHTTP && IsLoopback(u.Hostname()):
		return nil
	}
	return &signing.Error{Code: signing.Denied, Message: "plain text is not sent over a network", Expected: "https", Found: clip(u.Scheme) + " to " + clip(u.Host), Fix: "use https; plain http can be allowed for loopback hosts only"}
}

// refused returns the error that an answer stands for, if it stands for one here.
func (t *transport) refused(req *http.Request, resp *http.Response) error {
	host := req.URL.Host
	after, has := RetryAfter(resp.Header, t.Now())
	switch {
	case resp.StatusCode == http.StatusTooManyRequests && !t.PassThrottled:
		return &signing.Error{Code: signing.RateLimited, Message: host + " is throttling this service", Found: "HTTP 429", Fix: "wait, or use an account with a higher limit", RetryAfter: after}
	case resp.StatusCode == http.StatusServiceUnavailable && has:
		return &signing.Error{Code: signing.Unavailable, Message: host + " is not available at the moment", Found: "HTTP 503", RetryAfter: after}
	case resp.ContentLength > t.MaxBody && req.Method != http.MethodHead:
		return ErrTooLarge
	}
	return nil
}

// body is the bounded body of an answer. It gives the host's slot back when it
// is read to its end, fails, or is closed.
type body struct {
	io.ReadCloser
	req  *http.Request
	left int64
	done func()
}

// Read returns ErrTooLarge in place of the first byte beyond the bound.
func (b *body) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if int64(n) > b.left {
		n, err = int(b.left), ErrTooLarge
	}
	b.left -= int64(n)
	if err != nil {
		b.done()
		if err != io.EOF && !errors.Is(err, ErrTooLarge) {
			err = failure(b.req, err)
		}
	}
	return n, err
}

// Close closes the body; it may be called again.
func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.done()
	return err
}

// failure turns an error of the network into one that says which host and what
// kind, without the URL: its query may hold what a stranger should not see.
func failure(req *http.Request, err error) error {
	if errors.Is(req.Context().Err(), context.Canceled) {
		return req.Context().Err()
	}
	var already *signing.Error
	if errors.As(err, &already) {
		return err
	}
	e := &signing.Error{Code: signing.Unavailable, Message: req.URL.Host + " could not be reached", Err: err}
	var (
		dns  *net.DNSError
		cert *tls.CertificateVerificationError
		nerr net.Error
	)
	switch {
	case errors.As(err, &cert):
		e.Found, e.Fix = "a TLS certificate that is not trusted", "have a certificate issued for this host, or configure its CA (ca_file)"
	case errors.As(err, &dns):
		e.Found = "no such host name"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &nerr) && nerr.Timeout():
		e.Found = "no answer in time"
	case errors.Is(err, io.ErrUnexpectedEOF):
		e.Message, e.Found = req.URL.Host+" broke off its answer", "a truncated body"
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Found = "connection refused"
	default:
		e.Found = "a broken connection"
	}
	return e
}

// ReadBody reads the whole body of resp, at most most bytes, and closes it. A
// longer body is ErrTooLarge, without being read where its length is announced.
func ReadBody(resp *http.Response, most int64) ([]byte, error) {
	defer resp.Body.Close()
	if resp.ContentLength > most {
		return nil, ErrTooLarge
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > most {
		return nil, ErrTooLarge
	}
	return data, nil
}

// IsLoopback reports whether host, without port, names this machine: "localhost"
// or a loopback address. No name is resolved.
func IsLoopback(host string) bool {
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// clip shortens text of strangers before it is quoted in an error.
func clip(s string) string {
	const most = 120
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}
