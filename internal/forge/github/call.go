package github

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/bradleyfalzon/ghinstallation/v2"
	"github.com/google/go-github/v60/github"

	"github.com/sealwright/sealwright/internal/signing"
)

// perPage is the most that GitHub returns at once.
const perPage = 100

// path joins segments into the path of a request, each escaped: a branch may have
// a slash in its name.
func path(segments ...string) string {
	out := make([]string, len(segments))
	for i, s := range segments {
		out[i] = url.PathEscape(s)
	}
	return strings.Join(out, "/")
}

// get asks for one thing. need names the permission that it takes, "checks: read",
// for the refusal where it is missing.
func (c *Client) get(ctx context.Context, g *github.Client, path string, query url.Values, out any, need string) error {
	_, err := c.do(ctx, g, http.MethodGet, path, query, nil, out, need)
	return err
}

// do makes one request and returns the answer's header. The error is a
// *signing.Error, or the context's.
func (c *Client) do(ctx context.Context, g *github.Client, method, path string, query url.Values, in, out any, need string) (*github.Response, error) {
	u := path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	note(ctx, c.now(), method+" /"+u)
	req, err := g.NewRequest(method, u, in)
	if err != nil {
		return nil, fmt.Errorf("making a request to %s: %w", c.host, err)
	}
	resp, err := g.Do(ctx, req, out)
	if err != nil {
		return nil, c.failure(ctx, err, method+" /"+path, need)
	}
	return resp, nil
}

// pages asks for every page of a list, at most most items: more are an error,
// since what is beyond could decide. take reads one page and says how many items
// were in it.
func (c *Client) pages(ctx context.Context, g *github.Client, path string, query url.Values, most int, need string, take func(json.RawMessage) (int, error)) error {
	q := url.Values{}
	for k, v := range query {
		q[k] = v
	}
	q.Set("per_page", strconv.Itoa(perPage))
	for n := 0; ; {
		var raw json.RawMessage
		resp, err := c.do(ctx, g, http.MethodGet, path, q, nil, &raw, need)
		if err != nil {
			return err
		}
		got, err := take(raw)
		if err != nil {
			return garbled("GET /"+path, err.Error())
		}
		if n += got; n > most {
			return &signing.Error{Code: signing.TooLarge, Message: "there are more entries than this service reads: GET /" + path, Expected: fmt.Sprintf("at most %d", most)}
		}
		switch {
		case resp.NextPage != 0:
			q.Set("page", strconv.Itoa(resp.NextPage))
		case resp.After != "":
			q.Set("after", resp.After)
		default:
			return nil
		}
	}
}

// list is pages for a plain array.
func list[T any](ctx context.Context, c *Client, g *github.Client, path string, query url.Values, most int, need string) ([]T, error) {
	var out []T
	err := c.pages(ctx, g, path, query, most, need, func(raw json.RawMessage) (int, error) {
		var page []T
		if err := json.Unmarshal(raw, &page); err != nil {
			return 0, err
		}
		if page == nil { // null is not an empty list
			return 0, errors.New("it is no list")
		}
		out = append(out, page...)
		return len(page), nil
	})
	return out, err
}

// wrapped is pages for an object that holds the array under key.
func wrapped[T any](ctx context.Context, c *Client, g *github.Client, path string, query url.Values, key string, most int, need string) ([]T, error) {
	var out []T
	err := c.pages(ctx, g, path, query, most, need, func(raw json.RawMessage) (int, error) {
		var object map[string]json.RawMessage
		if err := json.Unmarshal(raw, &object); err != nil {
			return 0, err
		}
		inner, ok := object[key]
		if !ok {
			return 0, fmt.Errorf("it has no %s", key)
		}
		var page []T
		if err := json.Unmarshal(inner, &page); err != nil {
			return 0, err
		}
		if page == nil {
			return 0, fmt.Errorf("its %s are no list", key)
		}
		out = append(out, page...)
		return len(page), nil
	})
	return out, err
}

// note records that something was asked, where the caller collects it.
func note(ctx context.Context, at time.Time, what string) {
	if l, ok := ctx.Value(askedKey{}).(*asked); ok {
		l.add(signing.Observation{Source: "forge", What: what, At: at.UTC()})
	}
}

// failure says what an error of a request means. need is the permission that the
// request takes.
func (c *Client) failure(ctx context.Context, err error, what, need string) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	var (
		ours    *signing.Error
		limit   *github.RateLimitError
		abuse   *github.AbuseRateLimitError
		answer  *github.ErrorResponse
		later   *github.AcceptedError
		token   *ghinstallation.HTTPError
		syntax  *json.SyntaxError
		typing  *json.UnmarshalTypeError
		outline = what + " on " + c.host
	)
	switch {
	case errors.As(err, &ours):
		return ours
	case errors.As(err, &limit):
		return limited(c.host, "no requests left", max(limit.Rate.Reset.Sub(c.now()), time.Second))
	case errors.As(err, &abuse):
		return limited(c.host, "a secondary limit", secondaryWait)
	case errors.As(err, &later):
		return &signing.Error{Code: signing.Unavailable, Message: outline + " is not ready", Found: "HTTP 202", RetryAfter: time.Second}
	case errors.As(err, &token) && token.Response != nil:
		e := c.answered(token.Response, "", "the access token of installation "+strconv.FormatInt(token.InstallationID, 10)+" on "+c.host, "")
		if e.Code == signing.NotFound || e.Code == signing.Invalid {
			// 404: the App is not installed there any more.
			e.Code, e.Fix = signing.Denied, "install the App again, and check its id and private key"
		}
		return e
	case errors.As(err, &answer) && answer.Response != nil:
		return c.answered(answer.Response, answer.Message, outline, need)
	case errors.As(err, &syntax), errors.As(err, &typing), errors.Is(err, io.ErrUnexpectedEOF):
		return garbled(outline, err.Error())
	}
	return &signing.Error{Code: signing.Unavailable, Message: outline + " failed", Err: err}
}

// answered is failure for an HTTP answer that is none of the limits.
func (c *Client) answered(resp *http.Response, message, what, need string) *signing.Error {
	found := fmt.Sprintf("HTTP %d", resp.StatusCode)
	if message != "" {
		found += " " + strconv.Quote(clip(message))
	}
	if accepted := resp.Header.Get("X-Accepted-Github-Permissions"); accepted != "" && need == "" {
		need = clip(accepted)
	}
	switch s := resp.StatusCode; {
	case s == http.StatusUnauthorized:
		return &signing.Error{Code: signing.Denied, Message: what + " does not accept our credentials", Found: found, Fix: "check the App's id and private key, and the clock of this machine"}
	case s == http.StatusForbidden:
		e := &signing.Error{Code: signing.Denied, Message: what + " is not allowed to this App", Found: found, Fix: "give the App the permission, and have the installation accept it"}
		if need != "" {
			e.Expected = "permission " + need
		}
		return e
	case s == http.StatusNotFound, s == http.StatusGone:
		e := &signing.Error{Code: signing.NotFound, Message: what + ": there is no such thing, or this App may not see it", Found: found}
		if need != "" {
			e.Fix = "if it is there, give the App the permission " + need
		}
		return e
	case s == http.StatusConflict:
		return &signing.Error{Code: signing.Conflict, Message: what + " is refused", Found: found}
	case s >= 300 && s < 400, s >= 500:
		return &signing.Error{Code: signing.Unavailable, Message: what + " failed", Found: found}
	}
	return &signing.Error{Code: signing.Invalid, Message: what + " is refused", Found: found}
}

// garbled is for an answer that says 200 and is not what was asked for. It may be
// a proxy's: asking again may help, and it is never an answer.
func garbled(what, why string) error {
	return &signing.Error{Code: signing.Unavailable, Message: what + ": the answer cannot be read", Found: clip(why)}
}

// clip shortens text of strangers before it is quoted in an error.
func clip(s string) string {
	const most = 120
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}
