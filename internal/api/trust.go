package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/sealwright/sealwright/internal/signing"
)

// PathTrust has what verifiers need.
const PathTrust = "/v1/trust"

const (
	// MaxTrust bounds a Trust document: some hundred keys with their chains, each
	// in a few ways of signing.
	MaxTrust = 8 << 20
	// maxEvidence bounds an evidence file as the client reads it.
	maxEvidence = 64 << 20
)

// Trust is everything that verifiers need to have.
type Trust struct {
	Log     string              `json:"log"` // the audit log's key, NAME+HASH+KEY
	Keys    []signing.KeyRecord `json:"keys"`
	Methods []TrustMethod       `json:"methods"`
}

// TrustMethod is one way in which images are signed: a method, a key and
// options, and the policies (PROJECT/POLICY) that sign so.
type TrustMethod struct {
	Method   string            `json:"method"`
	Key      string            `json:"key"`
	Options  map[string]string `json:"options,omitempty"`
	Policies []string          `json:"policies"`
	Items    []TrustItem       `json:"items"`
	// Snippets are pieces of configuration and commands by the name of the tool, in
	// which IMAGE, REPOSITORY and the names of items stand for themselves.
	Snippets map[string]string `json:"snippets"`
}

// TrustItem is a file that a verifier needs.
type TrustItem struct {
	Name      string `json:"name"`
	MediaType string `json:"mediaType"`
	Content   []byte `json:"content"`
}

// Trust reads what verifiers need from the service.
func (c *Client) Trust(ctx context.Context) (Trust, error) {
	_, raw, err := c.send(ctx, callTimeout, http.MethodGet, PathTrust, nil, http.Header{}, nil)
	if err != nil {
		return Trust{}, fmt.Errorf("reading what verifiers need: %w", err)
	}
	return ParseTrust(raw)
}

// ReadTrust reads a Trust document that was kept.
func ReadTrust(r io.Reader) (Trust, error) {
	raw, err := io.ReadAll(io.LimitReader(r, MaxTrust+1))
	if err != nil {
		return Trust{}, fmt.Errorf("reading what verifiers need: %w", err)
	}
	return ParseTrust(raw)
}

// ParseTrust reads a Trust document. Every key in it is what its record says.
func ParseTrust(raw []byte) (Trust, error) {
	bad := func(found string, err error) (Trust, error) {
		return Trust{}, &signing.Error{Code: signing.Invalid, Message: "not the document of " + PathTrust, Expected: "log, keys and methods", Found: found, Fix: "take it from the service, once, by a way that you trust", Err: err}
	}
	var t Trust
	if len(raw) > MaxTrust {
		return bad(fmt.Sprintf("more than %d bytes", MaxTrust), nil)
	}
	if err := json.Unmarshal(raw, &t); err != nil || t.Log == "" || t.Keys == nil {
		return bad("another document", err)
	}
	known := map[string]bool{}
	for _, k := range t.Keys {
		if _, err := k.Info(); err != nil || known[k.ID] {
			return bad("a key that cannot be used, or is there twice: "+quote(k.ID), err)
		}
		known[k.ID] = true
	}
	for _, m := range t.Methods {
		if !known[m.Key] {
			return bad("a method with a key that is not there: "+quote(m.Key), nil)
		}
	}
	return t, nil
}

// Evidence reads the evidence file of a request that is over, as it is: it is for
// package evidence to verify. Since, if not 0, asks for a proof that the log
// continues the one of that size.
func (c *Client) Evidence(ctx context.Context, token, id string, since uint64) ([]byte, error) {
	if !signing.ValidRequestID(id) {
		return nil, &signing.Error{Code: signing.Invalid, Message: "not a request id", Expected: "sr_ and 16 characters", Found: quote(id)}
	}
	q := url.Values{}
	if since > 0 {
		q.Set("since", strconv.FormatUint(since, 10))
	}
	_, raw, err := c.sendMost(ctx, callTimeout, maxEvidence, http.MethodGet, PathRequests+"/"+id+"/evidence", q, http.Header{"Authorization": {"Bearer " + token}}, nil)
	if err != nil {
		return nil, fmt.Errorf("reading the evidence of %s: %w", id, err)
	}
	return raw, nil
}
