package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// The calls of a job that publishes its signatures itself (`publish: client`).
// Each takes the capability of the request and nothing else.

const (
	// MaxLease bounds the body of a lease: a repository, a digest and a holder.
	MaxLease = 4 << 10
	// MaxPublished bounds the body of what was published on one digest: a policy
	// has a few steps, each of some places.
	MaxPublished = 64 << 10
)

// Envelope is a signature that the job writes to the registry, as it is.
type Envelope struct {
	Task       string             `json:"task"`
	Attachment signing.Attachment `json:"attachment"`
}

// Envelopes is a page of signatures. Next, if it is not 0, asks for the rest.
type Envelopes struct {
	Envelopes []Envelope `json:"envelopes"`
	Next      int        `json:"next,omitempty"`
}

// LeaseRequest asks for the right to publish on a digest. Holder is a random
// text of the process; asked again by the same, it is the same lease.
type LeaseRequest struct {
	Repository string `json:"repository"`
	Digest     string `json:"digest"`
	Holder     string `json:"holder"`
}

// Lease is the right to publish on a digest, until then. Seconds is what is left
// of it: clocks of jobs differ from the service's.
type Lease struct {
	Until   time.Time `json:"until"`
	Seconds int       `json:"seconds"`
}

// PublishedRequest says what was published on a digest, and read back.
type PublishedRequest struct {
	LeaseRequest
	Tasks []PublishedTask `json:"tasks"`
}

// PublishedTask says where the signature of a task is.
type PublishedTask struct {
	ID        string             `json:"id"`
	Locations []signing.Location `json:"locations"`
}

// ReadLease and ReadPublished decode bodies, strictly.
func ReadLease(body io.Reader) (r LeaseRequest, err error) {
	err = DecodeStrict(body, MaxLease, &r)
	return r, err
}

// ReadPublished is ReadLease for what was published.
func ReadPublished(body io.Reader) (r PublishedRequest, err error) {
	err = DecodeStrict(body, MaxPublished, &r)
	return r, err
}

// PutContent uploads a manifest or an image configuration.
func (c *Client) PutContent(ctx context.Context, id, capability string, digest signing.Digest, content []byte) error {
	if err := digest.Validate(); err != nil {
		return err
	}
	_, _, err := c.ofRequest(ctx, http.MethodPut, id, "content/"+string(digest), capability, nil, content, "application/octet-stream")
	if err != nil {
		return fmt.Errorf("uploading %s: %w", digest, err)
	}
	return nil
}

// Envelopes returns the signatures of tasks with a number above after.
func (c *Client) Envelopes(ctx context.Context, id, capability string, after int) (Envelopes, error) {
	var out Envelopes
	q := url.Values{}
	if after > 0 {
		q.Set("after", strconv.Itoa(after))
	}
	answer, raw, err := c.ofRequest(ctx, http.MethodGet, id, "envelopes", capability, q, nil, "")
	if err == nil {
		err = success(answer, raw, &out, "signatures")
	}
	if err == nil && out.Next != 0 && out.Next <= after {
		err = notOurs("pages that go on", fmt.Sprintf("page %d after %d", out.Next, after))
	}
	if err != nil {
		return Envelopes{}, fmt.Errorf("reading signatures: %w", err)
	}
	return out, nil
}

// Lease takes the right to publish on a digest. It is a Conflict while somebody
// else has it.
func (c *Client) Lease(ctx context.Context, id, capability string, r LeaseRequest) (Lease, error) {
	var out Lease
	body, err := json.Marshal(r)
	if err != nil {
		return out, fmt.Errorf("encoding lease: %w", err)
	}
	answer, raw, err := c.ofRequest(ctx, http.MethodPost, id, "lease", capability, nil, body, "application/json")
	if err == nil {
		err = success(answer, raw, &out, "a lease")
	}
	if err != nil {
		return Lease{}, fmt.Errorf("taking the lease on %s@%s: %w", r.Repository, r.Digest, err)
	}
	return out, nil
}

// Published says what was published on a digest, and gives the lease back.
func (c *Client) Published(ctx context.Context, id, capability string, r PublishedRequest) (Request, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return Request{}, fmt.Errorf("encoding what was published: %w", err)
	}
	answer, raw, err := c.ofRequest(ctx, http.MethodPost, id, "published", capability, nil, body, "application/json")
	var out Request
	if err == nil {
		out, err = parseRequest(answer, raw)
	}
	if err == nil && out.ID != id {
		err = notOurs("the request "+id, quote(out.ID))
	}
	if err != nil {
		return Request{}, fmt.Errorf("recording what was published on %s@%s: %w", r.Repository, r.Digest, err)
	}
	return out, nil
}

func (c *Client) ofRequest(ctx context.Context, method, id, path, capability string, q url.Values, body []byte, contentType string) (http.Header, []byte, error) {
	if !signing.ValidRequestID(id) {
		return nil, nil, &signing.Error{Code: signing.Invalid, Message: "not a request id", Expected: "sr_ and 16 characters", Found: quote(id)}
	}
	h := http.Header{HeaderCapability: {capability}}
	if contentType != "" {
		h.Set("Content-Type", contentType)
	}
	return c.send(ctx, callTimeout, method, PathRequests+"/"+id+"/"+path, q, h, body)
}

// success decodes an answer of another form than a Request.
func success(h http.Header, raw []byte, v any, what string) error {
	if media, _, _ := mime.ParseMediaType(h.Get("Content-Type")); media != "application/json" || json.Unmarshal(raw, v) != nil {
		return notOurs(what, "another document")
	}
	return nil
}
