package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxRedirects of a blob: registries hand over to storage, that to a CDN.
	maxRedirects = 3
	// maxErrorBody bounds what is read of an error; only its codes are used.
	maxErrorBody = 16 << 10
	// readTries is how often a read is sent before its failure is the caller's.
	readTries = 3
	// retryPause is the first pause between reads; each next one is four times
	// longer. retryLongest is the longest Retry-After that is waited for in place:
	// a longer one is for the caller's own schedule.
	retryPause   = 100 * time.Millisecond
	retryLongest = 2 * time.Second
)

// request is one request to a registry's API.
type request struct {
	method string
	path   string // repository path, for the token's scope
	at     string // below /v2/PATH/, with its query
	url    *url.URL
	access access
	accept string
	kind   string // Content-Type of body
	body   []byte
	most   int64 // bytes of the answer
	follow bool  // redirects
	ok     []int // statuses that are not errors
}

// answer is a whole answer, read and bounded.
type answer struct {
	status int
	header http.Header
	body   []byte
	url    *url.URL
}

// do sends r. A read that fails in a way that may pass is sent again, shortly
// after; a write is not, because it may have happened.
func (c *Client) do(ctx context.Context, h *host, r request) (*answer, error) {
	pause := retryPause
	for try := 1; ; try++ {
		start := c.o.Now()
		a, err := c.authorized(ctx, h, r)
		c.o.Log.DebugContext(ctx, "registry request", "host", h.name, "method", r.method, "path", r.path, "at", r.at, "duration", c.o.Now().Sub(start), "error", err)
		if err == nil || try == readTries || r.method != http.MethodGet && r.method != http.MethodHead || !signing.Temporary(err) || timedOut(err) {
			return a, err
		}
		wait := pause
		var e *signing.Error
		if errors.As(err, &e) && e.RetryAfter > 0 {
			wait = e.RetryAfter
		}
		if wait > retryLongest || c.o.Sleep(ctx, wait) != nil {
			return nil, err
		}
		pause *= 4
	}
}

// timedOut reports whether err is a wait that was long already.
func timedOut(err error) bool {
	var n net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &n) && n.Timeout()
}

// authorized sends r, and once more with fresh credentials if they are asked for.
func (c *Client) authorized(ctx context.Context, h *host, r request) (*answer, error) {
	for again := false; ; again = true {
		req, err := h.newRequest(ctx, r)
		if err != nil {
			return nil, err
		}
		forget, err := h.authorize(ctx, c, req, r.path, r.access)
		if err != nil {
			return nil, err
		}
		a, err := h.send(req, r)
		if err != nil {
			return nil, err
		}
		if slices.Contains(r.ok, a.status) {
			return a, nil
		}
		// Only the registry itself can ask for its credentials, not a storage
		// host that it redirected to.
		if a.status != http.StatusUnauthorized || origin(a.url) != origin(h.api) || again {
			return nil, h.statusError(r.path, a.status, a.header, a.body)
		}
		forget()
		if err := h.learn(a.header.Values("Www-Authenticate")); err != nil {
			return nil, err
		}
	}
}

func (h *host) newRequest(ctx context.Context, r request) (*http.Request, error) {
	u := r.url
	if u == nil {
		var err error
		if u, err = url.Parse(h.api.String() + "/v2/" + r.path + "/" + r.at); err != nil {
			return nil, fmt.Errorf("composing a request to %s: %w", h.name, err)
		}
	}
	var body io.Reader
	if r.body != nil {
		body = bytes.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("composing a request to %s: %w", h.name, err)
	}
	if r.accept != "" {
		req.Header.Set("Accept", r.accept)
	}
	if r.kind != "" {
		req.Header.Set("Content-Type", r.kind)
	}
	return req, nil
}

// send sends one request and reads the whole answer.
func (h *host) send(req *http.Request, r request) (*answer, error) {
	client := h.plain
	if r.follow {
		client = h.follow
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, h.unread(r, err)
	}
	a := &answer{status: resp.StatusCode, header: resp.Header, url: req.URL}
	if resp.Request != nil {
		a.url = resp.Request.URL // the last of the redirects
	}
	if !slices.Contains(r.ok, a.status) {
		// Only codes are taken from it, so a broken or endless one does no harm.
		defer resp.Body.Close()
		a.body, _ = io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
		return a, nil
	}
	if a.body, err = outbound.ReadBody(resp, max(r.most, maxErrorBody)); err != nil {
		return nil, h.unread(r, err)
	}
	return a, nil
}

// unread says why there is no answer to r.
func (h *host) unread(r request, err error) error {
	if errors.Is(err, signing.TooLarge) {
		fix := "push it again, smaller; it is no manifest or signature of a usual size"
		if h.notary {
			fix = "find out who serves it: trust data of this size is not made by signing"
		}
		return &signing.Error{Code: signing.TooLarge, Message: h.title() + " sent more of " + r.path + " than this service reads", Expected: fmt.Sprintf("at most %d bytes", r.most), Found: "a larger answer", Fix: fix, Err: err}
	}
	return h.gaveUp(err)
}

// gaveUp turns an error of the client into one of ours, without the URL that
// net/http puts in front: the queries of storage hosts hold signatures.
func (h *host) gaveUp(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var e *signing.Error
	switch {
	case errors.As(err, &e), errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", h.title(), err)
	case errors.Is(err, context.DeadlineExceeded):
		return &signing.Error{Code: signing.Unavailable, Message: h.title() + " did not answer in time", Err: err}
	}
	return &signing.Error{Code: signing.Unavailable, Message: h.title() + " could not be reached", Err: err}
}

var reErrorCode = regexp.MustCompile(`^[A-Za-z_]{1,64}$`)

// errorCodes returns the codes of an error document of the specification. The
// messages beside them are a stranger's text and are left out.
func errorCodes(body []byte) []string {
	var doc struct {
		Errors []struct {
			Code string `json:"code"`
		} `json:"errors"`
	}
	if json.Unmarshal(body, &doc) != nil {
		return nil
	}
	var out []string
	for _, e := range doc.Errors {
		if reErrorCode.MatchString(e.Code) && len(out) < 4 {
			out = append(out, strings.ToUpper(e.Code))
		}
	}
	return out
}

// statusError is the one place that says what a status of a registry means.
func (h *host) statusError(what string, status int, header http.Header, body []byte) *signing.Error {
	codes := errorCodes(body)
	e := &signing.Error{Message: h.title(), Found: strings.TrimSpace(fmt.Sprintf("HTTP %d %s", status, strings.Join(codes, " ")))}
	say := func(code signing.Code, message, fix string) {
		e.Code, e.Message, e.Fix = code, e.Message+" "+message, fix
	}
	switch {
	case status == http.StatusTooManyRequests || slices.Contains(codes, "TOOMANYREQUESTS"):
		say(signing.RateLimited, "is throttling this service", "wait, or use an account with a higher limit")
		e.RetryAfter, _ = outbound.RetryAfter(header, h.keys.now())
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		say(signing.Denied, "refuses access to "+what, "give the credentials in the "+h.row()+" the right to pull and push there")
	case status == http.StatusNotFound && !slices.Contains(codes, "BLOB_UPLOAD_UNKNOWN") && !slices.Contains(codes, "MANIFEST_BLOB_UNKNOWN"):
		say(signing.NotFound, "does not have this in "+what, "check that it was pushed to this repository, and that the name is right")
	case status == http.StatusRequestEntityTooLarge:
		say(signing.TooLarge, "finds this too large for "+what, "")
	case status == http.StatusConflict || status == http.StatusPreconditionFailed:
		say(signing.Conflict, "will not have this changed in "+what, "exempt signature tags (sha256-*) from tag immutability")
	case status >= 500 || status == http.StatusRequestTimeout || status == http.StatusTooEarly || status < 400,
		slices.Contains(codes, "BLOB_UPLOAD_UNKNOWN"), slices.Contains(codes, "MANIFEST_BLOB_UNKNOWN"):
		// An upload that was lost on their side is done anew by trying again.
		say(signing.Unavailable, "failed to answer for "+what, "try again later; if it stays, ask the operator of the registry")
	default:
		say(signing.Invalid, "refuses this for "+what, "")
	}
	return e
}

// quote shortens text of strangers and shows what is in it.
func quote(s string) string {
	const most = 120
	if len(s) > most {
		s = s[:most] + "..."
	}
	return fmt.Sprintf("%q", s)
}
