package gitlab

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	gitlab "gitlab.com/gitlab-org/api/client-go"

	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// perPage is the most that GitLab returns at once.
	perPage = 100
	// limitWait is how long to wait where GitLab limits and does not say for how
	// long: its limits are counted by the minute.
	limitWait = time.Minute
)

// unlimited is in the place of client-go's own limiter, which sleeps.
type unlimited struct{}

// Wait implements gitlab.RateLimiter.
func (unlimited) Wait(context.Context) error { return nil }

// transport obeys the limits of one token: until the time that GitLab named,
// nothing is sent. Reads and writes are apart, because writing notes has a limit
// of its own, much lower.
type transport struct {
	base http.RoundTripper
	now  func() time.Time
	host string
	// told hears what an answer says is left of a limit; nil if nobody asks.
	told func(limit, header string)

	mu    sync.Mutex
	until [2]time.Time // guarded by mu; of reads and writes
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	class := 0
	if req.Method != http.MethodGet && req.Method != http.MethodHead && !strings.HasSuffix(req.URL.Path, "/graphql") {
		class = 1
	}
	t.mu.Lock()
	wait := t.until[class].Sub(t.now())
	t.mu.Unlock()
	if wait > 0 {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, ask.Limited(t.host, "no requests left", wait)
	}
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if t.told != nil {
		t.told("core", resp.Header.Get("RateLimit-Remaining"))
	}
	resp.Header.Del("Link") // client-go panics at one that is malformed, and we count pages
	wait, stop := t.left(resp)
	if stop {
		t.mu.Lock()
		if at := t.now().Add(wait); at.After(t.until[class]) {
			t.until[class] = at
		}
		t.mu.Unlock()
	}
	if resp.StatusCode == http.StatusTooManyRequests {
		resp.Body.Close()
		return nil, ask.Limited(t.host, "HTTP 429", wait)
	}
	return resp, nil
}

// left reads the limits of an answer: whether to stop, and for how long.
func (t *transport) left(resp *http.Response) (time.Duration, bool) {
	throttled := resp.StatusCode == http.StatusTooManyRequests
	remaining := resp.Header.Get("RateLimit-Remaining")
	if !throttled && remaining != "0" {
		return 0, false
	}
	if wait, ok := outbound.RetryAfter(resp.Header, t.now()); ok {
		return max(wait, time.Second), true
	}
	if unix, err := strconv.ParseInt(resp.Header.Get("RateLimit-Reset"), 10, 64); err == nil {
		if wait := time.Unix(unix, 0).Sub(t.now()); wait > 0 {
			return min(wait, outbound.MaxRetryAfter), true
		}
		// What is over by its own clock is not obeyed, unless it says 429.
		if !throttled {
			return 0, false
		}
	}
	if !throttled {
		return 0, false
	}
	return limitWait, true
}

// get asks for one thing. need names the scope and role that it takes, for the
// refusal where they are missing.
func (c *Client) get(ctx context.Context, t *token, path string, query url.Values, out any, need string) (*gitlab.Response, error) {
	return c.do(ctx, t, http.MethodGet, path, query, nil, out, need)
}

// do makes one request. The error is a *signing.Error, or the context's. An answer
// without what was asked for is an error too.
func (c *Client) do(ctx context.Context, t *token, method, path string, query url.Values, in, out any, need string) (*gitlab.Response, error) {
	what := method + " /" + path
	seen := what
	if len(query) > 0 {
		seen += "?" + query.Encode()
	}
	ask.Note(ctx, c.now(), seen)
	resp, err := c.send(ctx, t, method, c.api+"/"+path, query, in, out)
	if err != nil {
		return nil, c.failure(ctx, err, what, need)
	}
	return resp, nil
}

// list asks for every page of a list, at most most items: more are an error, since
// what is beyond could decide.
func list[T any](ctx context.Context, c *Client, t *token, path string, query url.Values, most int, need string) ([]T, error) {
	return listWhile(ctx, c, t, path, query, most, need, func(T) bool { return true })
}

// send makes one request to an escaped address. Its error is client-go's.
func (c *Client) send(ctx context.Context, t *token, method, address string, query url.Values, in, out any) (*gitlab.Response, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	u.RawQuery = query.Encode()
	req, err := t.client.NewRequestToURL(method, u, in, []gitlab.RequestOptionFunc{gitlab.WithContext(ctx)})
	if err != nil {
		return nil, err
	}
	return t.client.Do(req, out)
}

// listWhile is list up to the page whose last item is not wanted any more.
func listWhile[T any](ctx context.Context, c *Client, t *token, path string, query url.Values, most int, need string, wanted func(T) bool) ([]T, error) {
	q := url.Values{}
	for k, v := range query {
		q[k] = v
	}
	q.Set("per_page", strconv.Itoa(perPage))
	var out []T
	for page := int64(1); ; {
		q.Set("page", strconv.FormatInt(page, 10))
		var got []T
		resp, err := c.get(ctx, t, path, q, &got, need)
		if err != nil {
			return nil, err
		}
		if got == nil {
			return nil, ask.Garbled("GET /"+path, "no list")
		}
		if out = append(out, got...); len(out) > most {
			return nil, ask.TooMany(path, most)
		}
		switch {
		case resp.CurrentPage == 0 && len(got) >= perPage:
			return nil, ask.Garbled("GET /"+path, "a full page that does not say whether another follows")
		case resp.NextPage == 0, len(got) > 0 && !wanted(got[len(got)-1]):
			return out, nil
		case resp.NextPage <= page:
			return nil, ask.Garbled("GET /"+path, "pages that do not end")
		}
		page = resp.NextPage
	}
}

// refusals are what GitLab calls the things that it refuses.
var refusals = ask.Words{
	Holder: "this token", Credentials: "our access token", Renew: "replace the token: it is wrong, revoked or expired",
	Grant: "give the token the scope and the role that it needs", Give: "the token",
}

// failure says what an error of a request means. need is what the request takes.
func (c *Client) failure(ctx context.Context, err error, what, need string) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	var (
		ours   *signing.Error
		answer *gitlab.ErrorResponse
		syntax *json.SyntaxError
		typing *json.UnmarshalTypeError
		at     *time.ParseError
	)
	what += " on " + c.host
	switch {
	case errors.As(err, &ours):
		return ours
	case errors.Is(err, gitlab.ErrNotFound):
		return refusals.Answered(http.StatusNotFound, "", what, need)
	case errors.As(err, &answer) && answer.Response != nil:
		return refusals.Answered(answer.Response.StatusCode, answer.Message, what, need)
	case errors.As(err, &syntax), errors.As(err, &typing), errors.As(err, &at), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return ask.Garbled(what, err.Error())
	}
	return &signing.Error{Code: signing.Unavailable, Message: what + " failed", Err: err}
}
