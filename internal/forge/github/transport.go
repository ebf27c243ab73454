package github

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// contentPerMinute and contentPerHour are GitHub's limits on requests that make
	// content, which it enforces by blocking the App.
	contentPerMinute = 80
	contentPerHour   = 500
	// secondaryWait is how long to wait after a secondary limit without
	// Retry-After: GitHub asks for at least a minute.
	secondaryWait = time.Minute
	// minRenewal is how old a token is before it is given up for a refusal, so that
	// a permission that is missing does not cost a token for each request.
	minRenewal = time.Minute

	// maxCached bounds the entries of the ETag cache, maxCachedBytes their bodies,
	// and maxCachedBody each of them: larger ones are asked for rarely.
	maxCached      = 2_000
	maxCachedBytes = 32 << 20
	maxCachedBody  = 256 << 10
)

// limits are those of one installation, or of the App itself.
type limits struct {
	now func() time.Time

	mu      sync.Mutex
	until   map[string]time.Time // guarded by mu; by resource: no request before
	content []time.Time          // guarded by mu; of the last hour, oldest first
}

func newLimits(now func() time.Time) *limits {
	return &limits{now: now, until: map[string]time.Time{}}
}

// every is the resource that stands for all of them: a secondary limit.
const every = ""

// allow reports how long a request must wait, zero if it may go. One that may go
// and makes content is counted.
func (l *limits) allow(resource string, makes bool) (wait time.Duration, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for _, r := range []string{every, resource} {
		if t := l.until[r]; t.After(now) {
			return min(t.Sub(now), outbound.MaxRetryAfter), "the limit that it answered with is not over"
		}
	}
	if !makes {
		return 0, ""
	}
	l.content = slices.DeleteFunc(l.content, func(t time.Time) bool { return now.Sub(t) >= time.Hour })
	if n := len(l.content); n >= contentPerHour {
		return l.content[n-contentPerHour].Add(time.Hour).Sub(now), fmt.Sprintf("%d requests that make content in an hour", contentPerHour)
	}
	if n := len(l.content); n >= contentPerMinute {
		if wait := l.content[n-contentPerMinute].Add(time.Minute).Sub(now); wait > 0 {
			return wait, fmt.Sprintf("%d requests that make content in a minute", contentPerMinute)
		}
	}
	l.content = append(l.content, now)
	return 0, ""
}

// hold forbids requests to resource for some time.
func (l *limits) hold(resource string, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.now().Add(wait); t.After(l.until[resource]) {
		l.until[resource] = t
	}
}

// transport obeys limits and reads every answer whole, so that a truncated one is
// an error of the exchange and no connection is held by a caller who forgets it.
type transport struct {
	base   http.RoundTripper
	limits *limits
	// told hears what an answer says is left of a limit; nil if nobody asks.
	told func(limit, header string)
}

// RoundTrip implements http.RoundTripper. A limited request is a RateLimited error.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	makes, resource := makesContent(req), resourceOf(req)
	if wait, why := t.limits.allow(resource, makes); wait > 0 {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, ask.Limited(req.URL.Host, why, wait)
	}
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if t.told != nil {
		t.told(limitOf(resp, resource), resp.Header.Get("X-Ratelimit-Remaining"))
	}
	// outbound bounds the body.
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK && len(bytes.TrimSpace(body)) == 0 && req.Method == http.MethodGet {
		// go-github takes it for an empty object, which would be an answer.
		return nil, &signing.Error{Code: signing.Unavailable, Message: req.URL.Host + " answered with nothing", Expected: "a body", Found: "none"}
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	resp.ContentLength = int64(len(body))
	if wait, of, ok := throttled(resp, body, resource, t.limits.now()); ok {
		t.limits.hold(of, wait)
		return nil, ask.Limited(req.URL.Host, strings.TrimSpace(fmt.Sprintf("HTTP %d %s", resp.StatusCode, of)), wait)
	}
	return resp, nil
}

// throttled reads a limit from an answer: how long, and of which resource.
func throttled(resp *http.Response, body []byte, resource string, now time.Time) (wait time.Duration, of string, ok bool) {
	if resp.StatusCode != http.StatusForbidden && resp.StatusCode != http.StatusTooManyRequests {
		return 0, "", false
	}
	after, has := outbound.RetryAfter(resp.Header, now)
	switch {
	case has:
		return max(after, time.Second), every, true
	case resp.Header.Get("X-Ratelimit-Remaining") == "0":
		if r := resp.Header.Get("X-Ratelimit-Resource"); r != "" {
			resource = r
		}
		reset, err := strconv.ParseInt(resp.Header.Get("X-Ratelimit-Reset"), 10, 64)
		if err != nil {
			return secondaryWait, resource, true
		}
		// One second more: the reset has no fraction.
		return min(max(time.Unix(reset, 0).Sub(now)+time.Second, time.Second), outbound.MaxRetryAfter), resource, true
	case resp.StatusCode == http.StatusTooManyRequests, secondary(body):
		return secondaryWait, every, true
	}
	return 0, "", false
}

// secondary reports whether the body of a 403 speaks of a secondary limit, which
// is told from a missing permission by its text only.
func secondary(body []byte) bool {
	var e struct {
		Message string `json:"message"`
		URL     string `json:"documentation_url"`
	}
	if json.Unmarshal(body, &e) != nil {
		return false
	}
	return strings.Contains(strings.ToLower(e.Message), "secondary rate limit") || strings.Contains(e.URL, "secondary-rate-limits") || strings.HasSuffix(e.URL, "#abuse-rate-limits")
}

// resourceOf names the primary limit that a request counts for, as GitHub does in
// X-RateLimit-Resource.
func resourceOf(req *http.Request) string {
	switch p := req.URL.Path; {
	case strings.HasSuffix(p, "/graphql"):
		return "graphql"
	case strings.Contains(p, "/search/"):
		return "search"
	}
	return "core"
}

// limitOf names the limit that an answer counts for, in few words: those that this
// service asks by, and "other".
func limitOf(resp *http.Response, asked string) string {
	switch r := resp.Header.Get("X-Ratelimit-Resource"); r {
	case "":
		return asked
	case "core", "graphql", "search":
		return r
	}
	return "other"
}

// makesContent reports whether a request counts as one that makes content. A
// query in GraphQL does not, although it is a POST; a token does not.
func makesContent(req *http.Request) bool {
	switch {
	case req.Method != http.MethodPost && req.Method != http.MethodPatch && req.Method != http.MethodPut, strings.HasSuffix(req.URL.Path, "/access_tokens"):
		return false
	case !strings.HasSuffix(req.URL.Path, "/graphql"):
		return true
	case req.GetBody == nil:
		return true
	}
	b, err := req.GetBody()
	if err != nil {
		return true
	}
	defer b.Close()
	var q struct {
		Query string `json:"query"`
	}
	return json.NewDecoder(b).Decode(&q) != nil || !strings.HasPrefix(strings.TrimSpace(q.Query), "query")
}

// renewing is an installation's authentication. A token that the forge does not
// accept any more, or that is older than a permission, is given up: GitHub revokes
// tokens, and a token keeps the permissions of when it was made.
type renewing struct {
	fresh func() http.RoundTripper // without a token yet
	now   func() time.Time

	mu   sync.Mutex
	auth http.RoundTripper // guarded by mu
	made time.Time         // guarded by mu
}

// RoundTrip implements http.RoundTripper. A request that is refused as not
// authenticated is sent again with a new token, once.
func (t *renewing) RoundTrip(req *http.Request) (*http.Response, error) {
	auth := t.current(nil)
	resp, err := auth.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusForbidden {
		return resp, err
	}
	renewed := t.current(auth)
	if resp.StatusCode != http.StatusUnauthorized || renewed == auth || req.Body != nil && req.GetBody == nil {
		return resp, nil // refused for the permission: the next one has the new token
	}
	again := req.Clone(req.Context())
	if req.GetBody != nil {
		if again.Body, err = req.GetBody(); err != nil {
			return resp, nil
		}
	}
	resp.Body.Close()
	return renewed.RoundTrip(again)
}

// current returns the authentication to use instead of bad, which stays in use
// where it is young: a new one would be refused as well.
func (t *renewing) current(bad http.RoundTripper) http.RoundTripper {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.now().Sub(t.made) >= minRenewal
	if t.auth == nil || bad == t.auth && old {
		t.auth, t.made = t.fresh(), t.now()
	}
	return t.auth
}

// sameHost follows few redirects of reads within the API's own host.
func sameHost(req *http.Request, via []*http.Request) error {
	first := via[0]
	if req.URL.Host != first.URL.Host || req.URL.Scheme != first.URL.Scheme || len(via) > maxRedirects || req.Method != http.MethodGet {
		return outbound.RefuseRedirects(req, via)
	}
	return nil
}

// cache holds answers with their ETags. It is bounded; the least recently
// used entries go first.
type cache struct {
	mu      sync.Mutex
	entries map[string]*entry // guarded by mu
	bytes   int               // guarded by mu
	tick    uint64            // guarded by mu
}

type entry struct {
	etag string
	head http.Header
	body []byte
	used uint64
}

func newCache() *cache { return &cache{entries: map[string]*entry{}} }

func (c *cache) get(key string) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[key]
	if e != nil {
		c.tick++
		e.used = c.tick
	}
	return e
}

func (c *cache) put(key string, e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(key)
	for len(c.entries) >= maxCached || c.bytes+len(e.body) > maxCachedBytes {
		oldest := ""
		for k, v := range c.entries {
			if oldest == "" || v.used < c.entries[oldest].used {
				oldest = k
			}
		}
		c.drop(oldest)
	}
	c.tick++
	e.used = c.tick
	c.entries[key] = e
	c.bytes += len(e.body)
}

// drop must be called with the lock held.
func (c *cache) drop(key string) {
	if e, ok := c.entries[key]; ok {
		c.bytes -= len(e.body)
		delete(c.entries, key)
	}
}

// caching makes reads conditional. It never answers by itself: each answer is
// the forge's, or one that the forge just said is unchanged.
type caching struct {
	base  http.RoundTripper
	cache *cache
	scope string // entries of one installation are not for another
}

// RoundTrip implements http.RoundTripper.
func (t *caching) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method != http.MethodGet || req.Header.Get("If-None-Match") != "" {
		return t.base.RoundTrip(req)
	}
	key := t.scope + " " + req.Header.Get("Accept") + " " + req.URL.String()
	known := t.cache.get(key)
	if known != nil {
		req = req.Clone(req.Context())
		req.Header.Set("If-None-Match", known.etag)
	}
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if known != nil && resp.StatusCode == http.StatusNotModified {
		resp.Body.Close()
		head := known.head.Clone()
		for k, v := range resp.Header {
			if strings.HasPrefix(k, "X-Ratelimit-") || k == "Date" {
				head[k] = v
			}
		}
		return &http.Response{Status: "200 OK", StatusCode: http.StatusOK, Proto: resp.Proto, ProtoMajor: resp.ProtoMajor, ProtoMinor: resp.ProtoMinor, Header: head, Body: io.NopCloser(bytes.NewReader(known.body)), ContentLength: int64(len(known.body)), Request: req}, nil
	}
	if etag := resp.Header.Get("Etag"); resp.StatusCode == http.StatusOK && etag != "" {
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return nil, err
		}
		resp.Body = io.NopCloser(bytes.NewReader(body))
		if len(body) <= maxCachedBody {
			t.cache.put(key, &entry{etag: etag, head: resp.Header.Clone(), body: body})
		}
	}
	return resp, nil
}
