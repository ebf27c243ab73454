package registry

import (
	"context"
	"net/http"
	"strings"
)

// notaryHub is the Notary server of Docker Hub, which shares its token service.
const notaryHub = "notary.docker.io"

// Notary is a client of one Notary server: it is asked for tokens as a registry is,
// and all rules of this package hold for it: bounded answers, no redirects, realms
// on its own host or configured.
type Notary struct {
	client *Client
	host   *host
}

// Access is what a request to a Notary server needs.
type Access string

// What a Notary server asks for: reading, writing metadata, and rotating the keys
// that it holds itself.
const (
	AccessPull Access = "pull"
	AccessPush Access = "pull,push"
	AccessAll  Access = "*"
)

// NotaryRequest is one request to a Notary server.
type NotaryRequest struct {
	Method string
	// Scope is the repository that the token is for, with its host, and Path the path
	// of the URL below the server, "v2/.../_trust/tuf/root.json".
	Scope, Path string
	Access      Access
	Kind        string // Content-Type of Body
	Body        []byte
	Most        int64 // bytes of the answer
	// OK lists statuses besides 200 whose answer is returned and is no error.
	OK []int
}

// NewNotary returns a client for the server that row describes, with the rules of
// New. Nothing is sent.
func NewNotary(row Config, o Options) (*Notary, error) {
	if err := Check([]Config{row}).Err(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	if strings.EqualFold(row.Host, notaryHub) {
		row.TokenRealm = append([]string{dockerHubRealm}, row.TokenRealm...)
	}
	h, err := newHost(row, o)
	if err != nil {
		return nil, err
	}
	h.notary = true
	return &Notary{client: &Client{o: o}, host: h}, nil
}

// Do sends r, with a token if one is wanted. A read that fails in a way that may
// pass is sent again, a write is not. Every status but 200 and r.OK is an error.
func (n *Notary) Do(ctx context.Context, r NotaryRequest) (status int, body []byte, err error) {
	u := *n.host.api
	u.Path = "/" + r.Path
	a, err := n.client.do(ctx, n.host, request{
		method: r.Method, path: r.Scope, at: r.Path, url: &u, access: access(r.Access),
		kind: r.Kind, body: r.Body, most: r.Most, ok: append([]int{http.StatusOK}, r.OK...),
	})
	if err != nil {
		return 0, nil, err
	}
	return a.status, a.body, nil
}
