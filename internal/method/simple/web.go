package simple

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
)

// Web is a web server that takes PUT. Verifiers read it without credentials, maybe
// at another address.
type Web struct {
	client       *http.Client
	write, read  string // URLs without a slash at the end
	credential   func() (header string, err error)
	singleWriter bool
}

// Reader reads signatures that are published at a base, as verifiers do.
type Reader struct {
	client *http.Client
	base   func(host string) string
}

// NewReader returns a Reader for one base, in which HOST stands for the host of the
// registry. c must follow no redirect.
func NewReader(base string, c *http.Client) *Reader {
	return &Reader{client: c, base: func(host string) string { return strings.ReplaceAll(slashless(base), hostMark, host) }}
}

// Base implements Target.
func (r *Reader) Base(host string) string { return r.base(host) }

// Read implements Target.
func (r *Reader) Read(ctx context.Context, a signing.Artifact) ([]Stored, error) {
	base := r.Base(a.Repository.Host())
	return ReadNumbered(ctx, a, base, func(ctx context.Context, _, path string) ([]byte, error) {
		return fetch(ctx, r.client, base+"/"+path, "")
	})
}

// Add implements Target: a Reader writes nothing.
func (r *Reader) Add(_ context.Context, a signing.Artifact, _ []byte) (signing.Location, error) {
	return signing.Location{}, &signing.Error{Code: signing.Denied, Message: "this lookaside is only read here", Found: a.String()}
}

// fetch reads one signature. 404 alone means that there is none; 403, which some
// stores answer in its place, is a refusal, for verifiers as well.
func fetch(ctx context.Context, c *http.Client, at, authorization string) ([]byte, error) {
	resp, err := send(ctx, c, http.MethodGet, at, authorization, nil, nil)
	if err != nil {
		return nil, err
	}
	body, err := outbound.ReadBody(resp, MaxSignature)
	if resp.StatusCode != http.StatusOK {
		return nil, Refused(resp.StatusCode, at)
	}
	if err != nil {
		if signing.CodeOf(err) == signing.TooLarge {
			return nil, tooLarge(at)
		}
		return nil, err
	}
	return body, nil
}

func send(ctx context.Context, c *http.Client, method, at, authorization string, header http.Header, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, at, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("composing a request to a lookaside: %w", err)
	}
	if body == nil {
		req.Body, req.GetBody, req.ContentLength = nil, nil, 0
	}
	for name, values := range header {
		req.Header[name] = values
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, unwrapped(err)
	}
	return resp, nil
}

// unwrapped takes the URL out of an error: the client quotes it.
func unwrapped(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// Refused says what a status other than 200 means, of a server or a bucket.
func Refused(s int, at string) error {
	e := &signing.Error{Found: fmt.Sprintf("HTTP %d at %s", s, at)}
	switch {
	case s == http.StatusNotFound:
		e.Code, e.Message = signing.NotFound, "no such signature"
	case s == http.StatusUnauthorized || s == http.StatusForbidden:
		e.Code, e.Message, e.Fix = signing.Denied, "the lookaside refuses access", "give the service's credentials the right to read and write there, and verifiers the right to read; a store that answers 403 for what is not there must allow to list"
	case s == http.StatusConflict || s == http.StatusPreconditionFailed:
		e.Code, e.Message, e.Fix = signing.Conflict, "the lookaside will not have this changed", "allow the service to write there"
	case s == http.StatusRequestEntityTooLarge:
		e.Code, e.Message = signing.TooLarge, "the lookaside finds this too large"
	case s >= http.StatusInternalServerError || s == http.StatusRequestTimeout || s == http.StatusTooEarly:
		e.Code, e.Message, e.Fix = signing.Unavailable, "the lookaside failed to answer", "try again later; if it stays, ask the operator of that server"
	default:
		e.Code, e.Message, e.Fix = signing.Invalid, "the lookaside does not take this", "configure a server that answers GET and PUT at these addresses"
	}
	return e
}

// Base implements Target.
func (w *Web) Base(string) string { return w.read }

// Read implements Target.
func (w *Web) Read(ctx context.Context, a signing.Artifact) ([]Stored, error) {
	return ReadNumbered(ctx, a, w.read, func(ctx context.Context, _, path string) ([]byte, error) {
		return fetch(ctx, w.client, w.read+"/"+path, "")
	})
}

// Add implements Target.
func (w *Web) Add(ctx context.Context, a signing.Artifact, signature []byte) (signing.Location, error) {
	return AddNumbered(ctx, a, w.read, w, signature)
}

// Get implements Numbered, where the service writes.
func (w *Web) Get(ctx context.Context, _, path string) ([]byte, error) {
	authorization, err := w.credential()
	if err != nil {
		return nil, err
	}
	return fetch(ctx, w.client, w.write+"/"+path, authorization)
}

// Create implements Numbered. If-None-Match: * makes the server refuse what is
// there; a server that is declared to have this one writer is not asked for it.
func (w *Web) Create(ctx context.Context, _, path string, content []byte) error {
	authorization, err := w.credential()
	if err != nil {
		return err
	}
	header := http.Header{"Content-Type": {"application/octet-stream"}}
	if !w.singleWriter {
		header.Set("If-None-Match", "*")
	}
	at := w.write + "/" + path
	resp, err := send(ctx, w.client, http.MethodPut, at, authorization, header, content)
	if err != nil {
		return err
	}
	_, err = outbound.ReadBody(resp, maxAnswer)
	switch resp.StatusCode {
	case http.StatusOK, http.StatusCreated, http.StatusNoContent:
		return err
	case http.StatusPreconditionFailed, http.StatusConflict:
		if !w.singleWriter {
			return ErrTaken
		}
	}
	return Refused(resp.StatusCode, at)
}

// maxAnswer bounds what a server says to a PUT, which nobody reads.
const maxAnswer = 64 << 10

// slashless is a URL without the slash at its end.
func slashless(u string) string { return strings.TrimRight(u, "/") }
