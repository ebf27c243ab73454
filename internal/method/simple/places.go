package simple

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

// timeout bounds one exchange with a lookaside: some KiB.
const timeout = 15 * time.Second

// Options are what a Method needs from outside.
type Options struct {
	// Own keeps what the service serves itself, at URL. Without a URL it serves
	// nothing; without Own it is described only.
	Own Store
	URL string
	// Registry is for rows of the type openshift.
	Registry *registry.Client
	// S3 opens a row of the type s3; c is for what verifiers read.
	S3 func(row Config, o Options, c *http.Client) (Target, error)
	// Transport carries all requests below the rules of outbound; tests only.
	Transport http.RoundTripper
	Now       func() time.Time            // time.Now if nil
	Env       func(string) (string, bool) // os.LookupEnv if nil
}

// place is a row that is open.
type place struct {
	prefix string // empty: everything
	kind   string
	target Target
}

type places []place

// New returns the method with its places: rows, and for everything else the
// service's own lookaside. Secrets, folders and CA files must be readable now.
// Nothing is sent.
func New(rows []Config, o Options) (*Method, error) {
	if err := Check(rows).Err(); err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Env == nil {
		o.Env = os.LookupEnv
	}
	m := &Method{now: o.Now}
	for _, r := range rows {
		t, err := Open(r, o)
		if err != nil {
			return nil, fmt.Errorf("lookaside of %s: %w", r.Prefix, err)
		}
		m.places = append(m.places, place{r.Prefix, r.Type, t})
	}
	if o.URL != "" {
		m.places = append(m.places, place{"", TypeOwn, NewOwn(o.Own, o.URL)})
	}
	return m, nil
}

// Open returns the place of one row.
func Open(r Config, o Options) (Target, error) {
	client, err := clientFor(r, o)
	if err != nil {
		return nil, err
	}
	switch r.Type {
	case TypeOwn:
		if o.URL != "" {
			return NewOwn(o.Own, o.URL), nil
		}
	case TypeFolder:
		return OpenFolder(r.Folder, slashless(r.ReadURL))
	case TypeWeb:
		credential, err := r.credential(o.Env)
		if err != nil {
			return nil, err
		}
		read := r.ReadURL
		if read == "" {
			read = r.URL
		}
		return &Web{client: client, write: slashless(r.URL), read: slashless(read), credential: credential, singleWriter: r.SingleWriter}, nil
	case TypeS3:
		if o.S3 != nil {
			return o.S3(r, o, client)
		}
	case TypeOpenShift:
		if o.Registry != nil {
			return NewOpenShift(o.Registry), nil
		}
	}
	return nil, &signing.Error{Code: signing.Invalid, Message: "this program has no lookaside of the type " + r.Type}
}

// clientFor returns a client that follows no redirect, with the CA of the row.
func clientFor(r Config, o Options) (*http.Client, error) {
	roots, err := config.ReadCA(r.CAFile)
	if err != nil {
		return nil, &signing.Error{Code: signing.Invalid, Message: "the ca_file of a lookaside cannot be used", Expected: "certificates in PEM", Found: err.Error()}
	}
	return outbound.NewClient(outbound.Options{Timeout: timeout, MaxBody: maxAnswer, AllowHTTP: r.InsecureHTTP, RootCAs: roots, Base: o.Transport, Now: o.Now}), nil
}

// credential returns what makes the Authorization header; the secrets are read for
// each request, so that they can be rotated.
func (r Config) credential(env func(string) (string, bool)) (func() (string, error), error) {
	read := func(s config.Secret) ([]byte, error) {
		b, err := s.Read(env)
		if err != nil {
			return nil, &signing.Error{Code: signing.Invalid, Message: "a credential of a lookaside cannot be read", Found: err.Error()}
		}
		return b, nil
	}
	get := func() (string, error) {
		switch {
		case r.Token != "":
			token, err := read(r.Token)
			return "Bearer " + string(token), err
		case r.Username != "":
			user, err := read(r.Username)
			if err != nil {
				return "", err
			}
			password, err := read(r.Password)
			return basic(string(user), password), err
		}
		return "", nil
	}
	_, err := get()
	return get, err
}

// of returns the place for a repository: that with the longest prefix.
func (ps places) of(r signing.Repository) (Target, error) {
	best := -1
	for i, p := range ps {
		if (p.prefix == "" || covers(p.prefix, r)) && (best < 0 || len(p.prefix) > len(ps[best].prefix)) {
			best = i
		}
	}
	if best < 0 {
		return nil, &signing.Error{Code: signing.Invalid, Message: "no lookaside is known for this repository", Found: string(r), Fix: "name one: lookasides: in the configuration of the service, --lookaside for sealwright verify"}
	}
	return ps[best].target, nil
}

// hostMark stands for the registry's host in a base that depends on it.
const hostMark = "HOST"

// base returns the place's base for registries.d.
func (p place) base() string {
	if p.prefix == "" {
		return p.target.Base(hostMark)
	}
	return p.target.Base(host(p.prefix))
}

// registries is the piece of registries.d for all places, in which REPOSITORY and
// HOST stand for themselves.
func (ps places) registries() string {
	var out strings.Builder
	for _, p := range ps {
		if base := p.base(); base != "" {
			name := p.prefix
			if name == "" {
				name = "REPOSITORY"
			}
			fmt.Fprintf(&out, "  %s:\n    lookaside: %s\n", name, base)
		}
	}
	if out.Len() == 0 {
		return ""
	}
	return "docker:\n" + out.String()
}

// PlacesFile is the trust item that says where signatures are.
const PlacesFile = "lookasides.json"

// published is a place as verifiers are told of it.
type published struct {
	Prefix string `json:"prefix"`         // empty: every other repository
	Base   string `json:"base,omitempty"` // HOST stands for the registry's host
	Type   string `json:"type,omitempty"` // openshift, without a base
}

// maxPlaces bounds the document.
const maxPlaces = 256 << 10

func (ps places) list() ([]byte, error) {
	var list []published
	for _, p := range ps {
		item := published{Prefix: p.prefix, Base: p.base()}
		if p.kind == TypeOpenShift {
			item.Type = TypeOpenShift
		}
		list = append(list, item)
	}
	if list == nil {
		return nil, nil
	}
	return json.MarshalIndent(list, "", "  ")
}

// Lookaside returns the document for one base, for all repositories.
func Lookaside(base string) ([]byte, error) {
	return json.Marshal([]published{{Base: base}})
}

// Read returns a method that reads and verifies signatures at the places of a trust
// item, and publishes none. reg is asked for repositories of the type openshift;
// insecure lets it speak plain http to loopback hosts.
func Read(document []byte, reg *registry.Client, insecure bool, now func() time.Time) (*Method, error) {
	bad := func(found string) (*Method, error) {
		return nil, &signing.Error{Code: signing.Invalid, Message: "not a list of lookasides", Expected: "the trust item " + PlacesFile + " of the service", Found: found}
	}
	list, err := method.Rows[published](document, maxPlaces, MaxRows+1)
	if err != nil {
		return bad(err.Error())
	}
	client := outbound.NewClient(outbound.Options{Timeout: timeout, MaxBody: maxAnswer, AllowHTTP: insecure, Now: now})
	m := &Method{now: now}
	for _, p := range list {
		if p.Prefix != "" && !rePrefix.MatchString(p.Prefix) {
			return bad("another prefix")
		}
		if p.Type == TypeOpenShift && p.Base == "" {
			m.places = append(m.places, place{p.Prefix, TypeOpenShift, NewOpenShift(reg)})
			continue
		}
		t, err := reader(p.Base, client)
		if err != nil {
			return nil, err
		}
		m.places = append(m.places, place{p.Prefix, TypeWeb, t})
	}
	return m, nil
}

// reader reads below a base: a URL, or a folder of this machine.
func reader(base string, client *http.Client) (Target, error) {
	if dir, ok := strings.CutPrefix(base, "file://"); ok {
		return OpenFolder(dir, base)
	}
	if !strings.HasPrefix(base, "https://") && !strings.HasPrefix(base, "http://") {
		return nil, &signing.Error{Code: signing.Invalid, Message: "not the base of a lookaside", Expected: "an https URL", Found: fmt.Sprintf("%.200q", base)}
	}
	return NewReader(base, client), nil
}
