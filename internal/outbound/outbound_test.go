package outbound_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
)

// serve starts a loopback server and returns its address.
func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func client(o outbound.Options) *http.Client {
	o.AllowHTTP = true
	return outbound.NewClient(o)
}

func get(t *testing.T, c *http.Client, ctx context.Context, u string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err == nil {
		t.Cleanup(func() { resp.Body.Close() })
	}
	return resp, err
}

// asError returns the *signing.Error in err, which must have the code.
func asError(t *testing.T, err error, code signing.Code) *signing.Error {
	t.Helper()
	var e *signing.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("error = %v, want one of class %s", err, code)
	}
	return e
}

func TestPlainTextIsSentToLoopbackOnlyAndOnlyWhereAllowed(t *testing.T) {
	var asked atomic.Int64
	base := roundTripper(func(r *http.Request) (*http.Response, error) {
		asked.Add(1)
		return &http.Response{StatusCode: 200, Body: http.NoBody, Header: http.Header{}}, nil
	})
	for _, c := range []struct {
		allow bool
		u     string
		ok    bool
	}{
		{false, "http://127.0.0.1/", false},
		{true, "http://127.0.0.1:5000/", true},
		{true, "http://localhost/", true},
		{true, "http://[::1]:80/", true},
		{true, "http://registry.acme.dev/", false},
		{true, "http://localhost.acme.dev/", false},
		{true, "http://169.254.169.254/latest/meta-data", false},
		{true, "ftp://127.0.0.1/", false},
		{false, "https://registry.acme.dev/", true},
	} {
		asked.Store(0)
		_, err := get(t, outbound.NewClient(outbound.Options{AllowHTTP: c.allow, Base: base}), t.Context(), c.u)
		if c.ok && err != nil {
			t.Errorf("%s, allow=%v: %v", c.u, c.allow, err)
		}
		if !c.ok {
			asError(t, err, signing.Denied)
			if asked.Load() != 0 {
				t.Errorf("%s, allow=%v: the request was sent", c.u, c.allow)
			}
		}
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestABodyBeyondTheBoundIsTooLargeAnnouncedOrNot(t *testing.T) {
	const bound = 1000
	for _, c := range []struct {
		name      string
		size      int
		announced bool
		ok        bool
	}{
		{"announced", bound + 1, true, false},
		{"endless data: chunked", 50 << 20, false, false},
		{"exactly the bound", bound, false, true},
		{"exactly the bound, announced", bound, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if c.announced {
					w.Header().Set("Content-Length", fmt.Sprint(c.size))
				}
				chunk := strings.Repeat("x", bound)
				for n := c.size; n > 0; n -= bound {
					if _, err := io.WriteString(w, chunk[:min(n, bound)]); err != nil {
						return
					}
				}
			})
			resp, err := get(t, client(outbound.Options{MaxBody: bound}), t.Context(), u)
			var data []byte
			if err == nil {
				data, err = io.ReadAll(resp.Body)
			}
			if len(data) > bound {
				t.Errorf("%d bytes were handed out, the bound is %d", len(data), bound)
			}
			if c.ok && (err != nil || len(data) != c.size) {
				t.Errorf("got %d bytes, %v", len(data), err)
			}
			if !c.ok && (!errors.Is(err, outbound.ErrTooLarge) || !errors.Is(err, signing.TooLarge)) {
				t.Errorf("error = %v, want ErrTooLarge", err)
			}
		})
	}
}

func TestReadBodyHasABoundOfItsOwn(t *testing.T) {
	u := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "0123456789") })
	for most, ok := range map[int64]bool{9: false, 10: true, 11: true} {
		resp, err := get(t, client(outbound.Options{}), t.Context(), u)
		if err != nil {
			t.Fatal(err)
		}
		data, err := outbound.ReadBody(resp, most)
		if ok != (err == nil && string(data) == "0123456789") || !ok && !errors.Is(err, outbound.ErrTooLarge) {
			t.Errorf("most %d: %q, %v", most, data, err)
		}
	}
}

func TestBodiesAreNeverDecompressed(t *testing.T) {
	u := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if ae := r.Header.Get("Accept-Encoding"); ae != "" {
			t.Errorf("Accept-Encoding %q was asked for", ae)
		}
		w.Header().Set("Content-Encoding", "gzip")
		io.WriteString(w, "\x1f\x8b not gzip at all")
	})
	resp, err := get(t, client(outbound.Options{}), t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := outbound.ReadBody(resp, 100); err != nil || string(data) != "\x1f\x8b not gzip at all" {
		t.Errorf("got %q, %v", data, err)
	}
}

func TestAServerThatNeverAnswersIsUnavailable(t *testing.T) {
	stop := make(chan struct{})
	defer close(stop)
	for name, begin := range map[string]bool{"no header": false, "header but no end of the body": true} {
		u := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if begin {
				io.WriteString(w, "begin")
				w.(http.Flusher).Flush()
			}
			<-stop
		})
		resp, err := get(t, client(outbound.Options{Timeout: 50 * time.Millisecond}), t.Context(), u)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
		}
		e := asError(t, err, signing.Unavailable)
		if !errors.Is(err, context.DeadlineExceeded) || e.Found != "no answer in time" {
			t.Errorf("%s: error = %v, want it to say that no answer came in time", name, err)
		}
	}
}

func TestACanceledRequestIsNotCalledUnavailable(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	u := serve(t, func(w http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() })
	_, err := get(t, client(outbound.Options{}), ctx, u)
	if !errors.Is(err, context.Canceled) || errors.Is(err, signing.Unavailable) {
		t.Errorf("error = %v, want context.Canceled alone", err)
	}
}

func TestATruncatedBodyIsUnavailable(t *testing.T) {
	u := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "ten bytes.")
	})
	resp, err := get(t, client(outbound.Options{}), t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	_, err = outbound.ReadBody(resp, 1000)
	if e := asError(t, err, signing.Unavailable); e.Found != "a truncated body" {
		t.Errorf("error = %v, want a truncated body", err)
	}
}

func TestAnUntrustedCertificateAndAClosedPortAreUnavailableAndSayWhy(t *testing.T) {
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	_, err := get(t, client(outbound.Options{}), t.Context(), s.URL)
	if e := asError(t, err, signing.Unavailable); !strings.Contains(e.Found, "certificate") || e.Fix == "" {
		t.Errorf("error = %v, want one about the certificate", err)
	}

	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	resp, err := get(t, outbound.NewClient(outbound.Options{RootCAs: pool}), t.Context(), s.URL)
	if err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("with its CA configured: %v, %v", resp, err)
	}

	closed := httptest.NewServer(nil)
	closed.Close()
	_, err = get(t, client(outbound.Options{}), t.Context(), closed.URL)
	if e := asError(t, err, signing.Unavailable); e.Found != "connection refused" {
		t.Errorf("error = %v, want connection refused", err)
	}
}

func TestThrottlingIsAnErrorThatCarriesRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		status int
		after  string
		code   signing.Code
		want   time.Duration
	}{
		{429, "7", signing.RateLimited, 7 * time.Second},
		{429, now.Add(90 * time.Second).Format(http.TimeFormat), signing.RateLimited, 90 * time.Second},
		{429, now.Add(-time.Minute).Format(http.TimeFormat), signing.RateLimited, 0},
		{429, "", signing.RateLimited, 0},
		{429, "soon", signing.RateLimited, 0},
		{429, "-3", signing.RateLimited, 0},
		{429, "18446744073709551615", signing.RateLimited, outbound.MaxRetryAfter},
		{503, "3", signing.Unavailable, 3 * time.Second},
	} {
		u := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if c.after != "" {
				w.Header().Set("Retry-After", c.after)
			}
			w.WriteHeader(c.status)
		})
		_, err := get(t, client(outbound.Options{Now: func() time.Time { return now }}), t.Context(), u)
		if e := asError(t, err, c.code); e.RetryAfter != c.want {
			t.Errorf("%d, Retry-After %q: %v, want %v", c.status, c.after, e.RetryAfter, c.want)
		}
	}
}

func TestOneHostGetsNoMoreThanItsShareOfRequests(t *testing.T) {
	const per, all = 3, 12
	var now, most atomic.Int64
	arrived, release := make(chan struct{}, all), make(chan struct{})
	u := serve(t, func(w http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		for {
			m := most.Load()
			if n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		arrived <- struct{}{}
		<-release
		now.Add(-1)
	})
	c := client(outbound.Options{PerHost: per})
	errs := make(chan error, all)
	for range all {
		go func() {
			resp, err := c.Get(u)
			if err == nil {
				_, err = outbound.ReadBody(resp, 10)
			}
			errs <- err
		}()
	}
	for range per {
		<-arrived
	}
	// The share is used up: one more waits in the queue until its caller gives up.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := get(t, c, ctx, u); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a request beyond the share: %v, want it to wait", err)
	}
	close(release)
	for range all {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if m := most.Load(); m != per {
		t.Errorf("%d requests at a time, want %d", m, per)
	}
}

func TestNoRedirectIsFollowedUnlessAskedFor(t *testing.T) {
	var followed atomic.Bool
	target := serve(t, func(w http.ResponseWriter, r *http.Request) { followed.Store(true) })
	u := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, target+"/?sig=secret", http.StatusFound)
	})
	_, err := get(t, client(outbound.Options{}), t.Context(), u)
	e := asError(t, err, signing.Denied)
	if followed.Load() || strings.Contains(e.Error(), "sig=secret") {
		t.Errorf("followed = %v, error = %v", followed.Load(), e)
	}
}

func TestCredentialsStayWithTheirHostWhenARedirectIsFollowed(t *testing.T) {
	var far, back http.Header
	var near *httptest.Server
	other := serve(t, func(w http.ResponseWriter, r *http.Request) {
		far = r.Header.Clone()
		http.Redirect(w, r, near.URL+"/back", http.StatusTemporaryRedirect)
	})
	near = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/back" {
			back = r.Header.Clone()
			return
		}
		http.Redirect(w, r, other, http.StatusTemporaryRedirect)
	}))
	defer near.Close()
	c := &http.Client{Transport: outbound.NewTransport(outbound.Options{AllowHTTP: true}), CheckRedirect: outbound.FollowRedirects(3)}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, near.URL, nil)
	req.Header.Set("Authorization", "Bearer secret")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if far == nil || back == nil {
		t.Fatal("the redirects were not followed")
	}
	if far.Get("Authorization") != "" || back.Get("Authorization") != "" {
		t.Errorf("credentials left their host: other %q, and back again %q", far.Get("Authorization"), back.Get("Authorization"))
	}
}

func TestCredentialsDoNotFollowARedirectToASubdomain(t *testing.T) {
	check := outbound.FollowRedirects(3)
	first := &http.Request{Method: "GET", URL: parse(t, "https://acme.dev/blob"), Header: http.Header{}}
	next := &http.Request{Method: "GET", URL: parse(t, "https://user:pass@cdn.acme.dev/blob"), Header: http.Header{"Authorization": {"Bearer secret"}}}
	if err := check(next, []*http.Request{first}); err != nil {
		t.Fatal(err)
	}
	if next.Header.Get("Authorization") != "" || next.URL.User != nil {
		t.Errorf("sent to the subdomain: %v %v", next.Header, next.URL)
	}
}

func TestRedirectsThatLeaveTheRulesAreRefused(t *testing.T) {
	for _, c := range []struct{ name, method, from, to string }{
		{"https to plain text", "GET", "https://registry.acme.dev/", "http://cdn.acme.dev/"},
		{"SSRF: another machine to loopback", "GET", "https://registry.acme.dev/", "https://127.0.0.1:8443/"},
		{"a write", "POST", "https://registry.acme.dev/", "https://cdn.acme.dev/"},
	} {
		req := &http.Request{Method: c.method, URL: parse(t, c.to), Header: http.Header{}}
		first := &http.Request{Method: c.method, URL: parse(t, c.from), Header: http.Header{}}
		if err := outbound.FollowRedirects(3)(req, []*http.Request{first}); !errors.Is(err, signing.Denied) {
			t.Errorf("%s: error = %v, want Denied", c.name, err)
		}
	}
	var n atomic.Int64
	u := serve(t, func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		http.Redirect(w, r, "/again", http.StatusFound)
	})
	c := &http.Client{Transport: outbound.NewTransport(outbound.Options{AllowHTTP: true}), CheckRedirect: outbound.FollowRedirects(3)}
	if _, err := c.Get(u); !errors.Is(err, signing.Denied) || n.Load() != 4 {
		t.Errorf("a loop of redirects: %v after %d requests, want Denied after 4", err, n.Load())
	}
}

func parse(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func FuzzRetryAfterIsWithinItsBound(f *testing.F) {
	for _, s := range []string{"", "0", "120", "-1", "1e9", "99999999999999999999", "Mon, 23 Nov 2026 12:00:00 GMT", " 5 "} {
		f.Add(s)
	}
	now := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		if d, ok := outbound.RetryAfter(http.Header{"Retry-After": {s}}, now); d < 0 || d > outbound.MaxRetryAfter || !ok && d != 0 {
			t.Errorf("%q: %v, %v", s, d, ok)
		}
	})
}
