package testenv

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/sealwright/sealwright/internal/devworld/notary"
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/method/cosign"
	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/method/notation"
	"github.com/sealwright/sealwright/internal/method/simple"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

// DCT is the sign list of a policy that signs tags with Docker Content Trust, as
// Cosign is for cosign.
const DCT = "- {method: dct, key: release-dct, options: {move: \"true\", remove: \"true\"}}\n"

// dctKey is the entry of the keys file for it.
const dctKey = `
  - id: release-dct
    file: file:DIR/release-dct.key
    certificates: file:DIR/release-dct.crt
    methods: [dct]
    allow: [{project: payments, policy: release, repositories: ["HOST/payments/*"]}]
    require: {protected_ref: true}
`

// Trust is a notary server with repositories whose releases are delegated to the
// key release-dct.
type Trust struct {
	Server *notary.Server
	URL    string
	Owners map[signing.Repository]*notary.Owner
}

// trust starts a notary server and initialises the repositories of the options.
func (e *Env) trust() {
	e.T.Helper()
	e.Trust = &Trust{Server: &notary.Server{Now: e.Now}, Owners: map[signing.Repository]*notary.Owner{}}
	srv := httptest.NewServer(e.Trust.Server)
	e.T.Cleanup(srv.Close)
	e.Trust.URL = srv.URL
	e.MakeCertifiedKey("release-dct")
	for _, path := range e.Options.Trusted {
		gun := signing.Repository(e.World.Registry.Host + "/" + path)
		owner, err := notary.NewOwner(gun)
		must(e.T, err)
		e.Trust.Owners[gun] = owner
		client := e.TrustClient()
		must(e.T, owner.Init(context.Background(), client))
		must(e.T, owner.Delegate(context.Background(), client, dct.RoleReleases, e.Certified("release-dct")))
	}
}

// methods returns the signing methods, those that the Env has the other side of.
func (s *Service) methods() (map[string]method.Method, error) {
	lookasides, err := simple.New(nil, simple.Options{Own: s.Store.Lookaside(), URL: "http://" + s.HTTP.Listener.Addr().String(), Now: s.Env.Now})
	if err != nil {
		return nil, err
	}
	out := map[string]method.Method{cosign.Name: cosign.New(s.Registry), notation.Name: notation.New(s.Registry), simple.Name: lookasides}
	if rows := s.Env.Options.Notaries; len(rows) > 0 {
		client, err := dct.Open(rows, dct.Options{Memory: s.Store.Trust(), Now: s.Env.Now})
		out[dct.Name] = dct.New(client)
		return out, err
	}
	if s.Env.Trust == nil {
		return out, nil
	}
	client, err := s.Env.notaries(s.Faults.Transport(s.base, Notary), s.Store.Trust())
	if err != nil {
		return nil, err
	}
	out[dct.Name] = dct.New(client)
	return out, nil
}

// Certified returns the public half of a key made by MakeCertifiedKey.
func (e *Env) Certified(id string) signing.KeyInfo {
	e.T.Helper()
	raw, err := os.ReadFile(filepath.Join(e.Dir, id+".crt"))
	must(e.T, err)
	info := signing.KeyInfo{ID: id}
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		must(e.T, err)
		info.Chain = append(info.Chain, c)
	}
	info.Public = info.Chain[0].PublicKey
	return info
}

// notaries returns a client of the notary server, through transport, that remembers
// in memory.
func (e *Env) notaries(transport http.RoundTripper, memory dct.Memory) (*dct.Client, error) {
	row := dct.Config{URL: e.Trust.URL, Repositories: []string{e.World.Registry.Host}}
	for gun, owner := range e.Trust.Owners {
		row.Pins = append(row.Pins, dct.Pin{Repository: string(gun), RootKeys: []string{owner.Root.Key.ID}})
	}
	return dct.Open([]dct.Config{row}, dct.Options{Memory: memory, Now: e.Now, Registry: registry.Options{Transport: transport, Env: func(string) (string, bool) { return "", false }}})
}

// TrustClient returns a client of its own that remembers nothing of the service's.
func (e *Env) TrustClient() *dct.Client {
	e.T.Helper()
	c, err := e.notaries(http.DefaultTransport, dct.NewMemory())
	must(e.T, err)
	return c
}

// Releases returns the tags that are trusted in the releases of a repository, and
// the version of their document.
func (e *Env) Releases(repository signing.Repository) (tags map[string]signing.Digest, version int64) {
	e.T.Helper()
	s, err := e.TrustClient().Fetch(context.Background(), repository, dct.RoleReleases)
	must(e.T, err)
	role, ok := s.Role(dct.RoleReleases)
	if !ok || role.Err != nil {
		e.T.Fatalf("no releases of %s: %v", repository, role.Err)
	}
	tags = map[string]signing.Digest{}
	for _, t := range role.Targets {
		tags[t.Tag] = t.Digest
	}
	return tags, role.Version
}

// reHash is the hash in the name of a document, which differs from run to run.
var reHash = regexp.MustCompile(`\.[0-9a-f]{64}\.json$|\.json$`)

// trustRoute names a path of the notary server, "notary:targets/releases".
func trustRoute(path string) (string, bool) {
	_, name, ok := strings.Cut(path, "/_trust/tuf/")
	if !ok {
		return "", false
	}
	if name == "" {
		name = "update"
	}
	return reHash.ReplaceAllString(name, ""), true
}

// TrustKey is the key release-dct as trust metadata names it.
func (e *Env) TrustKey() dct.Key {
	e.T.Helper()
	k, err := dct.KeyFor(e.Certified("release-dct"))
	must(e.T, err)
	return k
}
