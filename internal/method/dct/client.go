package dct

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxAnswer bounds what the server says to an update.
	maxAnswer = 64 << 10
	// maxServerKey bounds a public key of the server's own.
	maxServerKey = 16 << 10
)

// errOldVersion is the server's "a newer version is there": somebody was faster.
var errOldVersion = errors.New("the server has this version of the role, or a later one")

// Options are what a Client needs from outside.
type Options struct {
	// Memory remembers versions. Without one nothing is trusted on first use, and a
	// rollback is seen only against what is pinned and against the clock.
	Memory Memory
	Now    func() time.Time // time.Now if nil
	// Registry are the bounds and the wire of the clients for the servers.
	Registry registry.Options
}

// Client reads and writes the Notary servers of the configuration. It keeps
// connections and tokens only, and may be used concurrently.
type Client struct {
	rows   []notary
	memory Memory
	now    func() time.Time
}

// notary is one opened row.
type notary struct {
	Config
	server *registry.Notary
	pins   []pin // of Config.Pins, in the same order
}

// Open opens the rows. Secrets and certificates must be readable now; nothing is sent.
func Open(rows []Config, o Options) (*Client, error) {
	if err := Check(rows).Err(); err != nil {
		return nil, err
	}
	c := &Client{memory: o.Memory, now: o.Now}
	if c.now == nil {
		c.now = time.Now
	}
	for _, r := range rows {
		server, err := registry.NewNotary(r.row(), o.Registry)
		if err != nil {
			return nil, fmt.Errorf("notary server %s: %w", r.URL, err)
		}
		n := notary{Config: r, server: server}
		for _, p := range r.Pins {
			roots, err := config.ReadCA(p.CAFile)
			if err != nil {
				return nil, fmt.Errorf("pin of %s: %w", p.Repository, err)
			}
			n.pins = append(n.pins, pin{keys: p.RootKeys, roots: roots})
		}
		c.rows = append(c.rows, n)
	}
	return c, nil
}

// row returns the server of a repository and what is trusted there.
func (c *Client) row(gun signing.Repository) (*notary, pin, error) {
	if err := gun.Validate(); err != nil {
		return nil, pin{}, err
	}
	var found *notary
	longest := 0
	for i := range c.rows {
		for _, p := range c.rows[i].Repositories {
			if covers(p, gun) && len(p) > longest {
				found, longest = &c.rows[i], len(p)
			}
		}
	}
	if found == nil {
		return nil, pin{}, &signing.Error{Code: signing.Denied, Message: "no notary server is configured for " + string(gun), Expected: "a row of `notaries` that lists it, or its host, under repositories", Fix: "add a row, or leave the method dct out of the policy"}
	}
	p := pin{firstUse: found.TrustOnFirstUse}
	longest = 0
	for i, q := range found.Pins {
		if covers(q.Repository, gun) && len(q.Repository) > longest {
			p, longest = found.pins[i], len(q.Repository)
		}
	}
	return found, p, nil
}

// Server returns the address of the Notary server of a repository.
func (c *Client) Server(gun signing.Repository) (string, error) {
	n, _, err := c.row(gun)
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(n.URL, "/"), nil
}

// tuf is the path of the repository's metadata on a server.
func tuf(gun signing.Repository, name string) string {
	return "v2/" + string(gun) + "/_trust/tuf/" + name
}

// remote is a server as the source of one repository's documents.
type remote struct {
	n   *notary
	gun signing.Repository
}

func (r remote) get(ctx context.Context, name string, most int64) ([]byte, error) {
	_, body, err := r.n.server.Do(ctx, registry.NotaryRequest{Method: http.MethodGet, Scope: string(r.gun), Path: tuf(r.gun, name+".json"), Access: registry.AccessPull, Most: most})
	return body, err
}

// Fetch reads and verifies what is published for a repository: the roots from a
// trusted one on, timestamp, snapshot, targets, and the delegations of these names
// and all above them; with no name, all delegations. A repository without trust data
// is signing.NotFound, and data that must not be believed signing.Denied.
func (c *Client) Fetch(ctx context.Context, gun signing.Repository, delegations ...string) (*State, error) {
	n, p, err := c.row(gun)
	if err != nil {
		return nil, err
	}
	var wanted func(string) bool
	if len(delegations) > 0 {
		wanted = func(role string) bool { return above(role, delegations) }
	}
	for again := false; ; again = true {
		w := walk{source: remote{n, gun}, gun: gun, pin: p, now: c.now(), wanted: wanted, memory: c.memory}
		s, err := w.run(ctx)
		// An update in between our reads looks like an attack, once.
		if err == nil || again || !errors.Is(err, signing.Denied) {
			return s, notInitialised(gun, n, err)
		}
	}
}

// above reports whether role is one of names, or above one.
func above(role string, names []string) bool {
	for _, n := range names {
		if n == role || strings.HasPrefix(n, role+"/") {
			return true
		}
	}
	return false
}

func notInitialised(gun signing.Repository, n *notary, err error) error {
	if !errors.Is(err, signing.NotFound) {
		return err
	}
	return &signing.Error{Code: signing.NotFound, Message: string(gun) + " has no trust data on the notary server", Expected: "a repository with a root and targets", Found: "none at " + n.URL, Fix: "have its owner initialise it, with `sealwrightd dct init`, `docker trust signer add` or `notary init -p`", Err: err}
}

// Update is one new document of a role.
type Update struct {
	Role  string
	Bytes []byte
}

// Publish sends documents in one request; the server takes all or none, and makes
// snapshot and timestamp itself. It verifies nothing: a caller fetches afterwards.
// A version that is not the next is signing.Conflict. What the server finds wrong is
// signing.Denied.
func (c *Client) Publish(ctx context.Context, gun signing.Repository, updates ...Update) error {
	n, _, err := c.row(gun)
	if err != nil {
		return err
	}
	body, kind, err := form(updates)
	if err != nil {
		return err
	}
	status, answer, err := n.server.Do(ctx, registry.NotaryRequest{
		Method: http.MethodPost, Scope: string(gun), Path: tuf(gun, ""), Access: registry.AccessPush,
		Kind: kind, Body: body, Most: maxAnswer, OK: []int{http.StatusBadRequest},
	})
	if err != nil || status == http.StatusOK {
		return err
	}
	return rejection(gun, n, answer)
}

// form writes documents as the server reads them. The server takes the role from
// filename, slashes and all ("targets/releases"), so that servers built with a Go
// whose Part.FileName drops folders refuse delegations whatever a client does.
// Quotes and backslashes cannot be in a role.
func form(updates []Update) (body []byte, kind string, err error) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for _, u := range updates {
		if kindOf(u.Role) == "Targets" && u.Role != RoleTargets && !isDelegation(u.Role) {
			return nil, "", fmt.Errorf("%q is no role", u.Role)
		}
		h := textproto.MIMEHeader{}
		h.Set("Content-Disposition", `form-data; name="files"; filename="`+u.Role+`"`)
		h.Set("Content-Type", "application/octet-stream")
		p, err := w.CreatePart(h)
		if err != nil {
			return nil, "", err
		}
		if _, err := p.Write(u.Bytes); err != nil {
			return nil, "", err
		}
	}
	if err := w.Close(); err != nil {
		return nil, "", err
	}
	return b.Bytes(), w.FormDataContentType(), nil
}

// rejection says what an answer 400 of the server means. Its text is a stranger's:
// only its codes are used.
func rejection(gun signing.Repository, n *notary, answer []byte) error {
	var doc struct {
		Errors []struct {
			Code   string          `json:"code"`
			Detail json.RawMessage `json:"detail"`
		} `json:"errors"`
	}
	code, name := "", ""
	if json.Unmarshal(answer, &doc) == nil && len(doc.Errors) > 0 {
		code = doc.Errors[0].Code
		var detail struct{ Name string }
		if json.Unmarshal(doc.Errors[0].Detail, &detail) == nil {
			name = detail.Name
		}
	}
	e := &signing.Error{Code: signing.Denied, Message: "the notary server refuses the new metadata of " + string(gun), Expected: "an update that it accepts", Found: fmt.Sprintf("HTTP 400 %.64q %.64q", code, name)}
	switch {
	case code == "VERSION":
		e.Code, e.Err, e.Message = signing.Conflict, errOldVersion, "the notary server has a newer version of "+string(gun)
	case name == "ErrBadHierarchy":
		e.Found = "the snapshot key is not with the server"
		e.Fix = "have the owner of the repository hand it over: notary -s " + strings.TrimSuffix(n.URL, "/") + " key rotate " + string(gun) + " snapshot -r"
	case code == "INVALID_ROLE":
		e.Fix = "the server takes the role from the file name of the upload; one built with Go 1.17 or later drops the folder in it and knows no delegations: use Debian's build"
	case code == "INVALID_UPDATE":
		e.Fix = "see the log of the notary server; a key that is no longer delegated has to be delegated again"
	}
	return e
}

// ServerKey returns the public key that the server holds for timestamp or snapshot of
// a repository; it makes one if there is none.
func (c *Client) ServerKey(ctx context.Context, gun signing.Repository, role string) (Key, error) {
	return c.serverKey(ctx, http.MethodGet, gun, role, registry.AccessPush)
}

// RotateServerKey has the server make a new key for timestamp or snapshot. It counts
// once a root names it.
func (c *Client) RotateServerKey(ctx context.Context, gun signing.Repository, role string) (Key, error) {
	return c.serverKey(ctx, http.MethodPost, gun, role, registry.AccessAll)
}

func (c *Client) serverKey(ctx context.Context, method string, gun signing.Repository, role string, access registry.Access) (Key, error) {
	n, _, err := c.row(gun)
	if err != nil {
		return Key{}, err
	}
	if role != roleTimestamp && role != roleSnapshot {
		return Key{}, fmt.Errorf("a server holds no key of %q", role)
	}
	_, body, err := n.server.Do(ctx, registry.NotaryRequest{Method: method, Scope: string(gun), Path: tuf(gun, role+".key"), Access: access, Most: maxServerKey})
	if err != nil {
		return Key{}, err
	}
	k, err := parseServerKey(body)
	if err != nil {
		return Key{}, &signing.Error{Code: signing.Unavailable, Message: "the notary server gave no key for " + role, Err: err}
	}
	return k, nil
}

func parseServerKey(raw []byte) (Key, error) {
	v, err := parseJSON(raw)
	if err != nil {
		return Key{}, err
	}
	return parseKey(v)
}
