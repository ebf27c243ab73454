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
	"time"

	"github.com/bradleyfalzon/ghinstallation/v2"
	"github.com/google/go-github/v60/github"

	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"
)

// perPage is the most that GitHub returns at once.
const perPage = 100

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
	ask.Note(ctx, c.now(), method+" /"+u)
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
			return ask.Garbled("GET /"+path, err.Error())
		}
		if n += got; n > most {
			return ask.TooMany(path, most)
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
		return ask.Limited(c.host, "no requests left", max(limit.Rate.Reset.Sub(c.now()), time.Second))
	case errors.As(err, &abuse):
		return ask.Limited(c.host, "a secondary limit", secondaryWait)
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
		return ask.Garbled(outline, err.Error())
	}
	return &signing.Error{Code: signing.Unavailable, Message: outline + " failed", Err: err}
}

// refusals are what GitHub calls the things that it refuses.
var refusals = ask.Words{
	Holder: "this App", Credentials: "our credentials", Renew: "check the App's id and private key, and the clock of this machine",
	Grant: "give the App the permission, and have the installation accept it", Give: "the App the",
}

// answered is failure for an HTTP answer that is none of the limits.
func (c *Client) answered(resp *http.Response, message, what, need string) *signing.Error {
	if accepted := resp.Header.Get("X-Accepted-Github-Permissions"); accepted != "" && need == "" {
		need = ask.Clip(accepted)
	}
	if need != "" {
		need = "permission " + need
	}
	return refusals.Answered(resp.StatusCode, message, what, need)
}
