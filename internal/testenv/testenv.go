// Package testenv is a whole world for tests: devworld's issuers and registry,
// and the real service over a real SQLite file, which can be made to fail at
// any step, killed and started again.
package testenv

import (
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/approval"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/identity"
	"github.com/sealwright/sealwright/internal/key"
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/policy"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/server"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
	"github.com/sealwright/sealwright/internal/workflow"
)

// Audience is the audience of the service's tokens.
const Audience = "https://sign.sealwright.test"

// PeopleAudience is that of persons' tokens. Whoever is in the group of a role's
// name has the role.
const PeopleAudience = "https://sign.sealwright.test/people"

// Issuers returns the rows for the issuers of world.
func Issuers(world *devworld.World) []identity.Issuer {
	var roles []identity.RoleRule
	for _, r := range signing.PeopleRoles() {
		roles = append(roles, identity.RoleRule{Role: r, Claim: "groups", Values: []string{string(r)}})
	}
	return []identity.Issuer{
		{Provider: "github-actions", Issuer: world.GitHub.URL(), Audience: Audience, Forge: "github.test"},
		{Provider: "gitlab", Issuer: world.GitLab.URL(), Audience: Audience, Forge: "gitlab.test"},
		{Provider: "sso", Role: signing.RolePeople, Issuer: world.People.URL(), Audience: PeopleAudience, Roles: roles},
	}
}

// Policy is the policy of an Env unless another is given: %s is the registry.
const Policy = `apiVersion: sealwright.dev/v1
project: payments
repositories:
  - {forge: github.test, name: acme/payments-web, id: "74", owner_id: "65", images: ["%[1]s/payments/*"]}
policies:
  release:
    tags: ["v*"]
    origin:
      refs: ["refs/heads/main", "refs/tags/v*"]
      ref_protected: true
      github:
        events: [push, release]
        workflow: .github/workflows/release.yml
    sign:
      - {method: cosign, key: release}
`

// Notation and Simple are the sign lists of policies that sign with other methods,
// to be put in the place of Cosign in Policy.
const (
	Cosign   = "- {method: cosign, key: release}\n"
	Simple   = "- {method: simple, key: release-gpg}\n"
	Notation = "- {method: notation, key: release-x509, options: {expiry: 8760h, userMetadata: \"sourceRepositoryURI,sourceRepositoryDigest\"}}\n"
)

// PolicySigning returns Policy with another sign list: Cosign, Notation, or both
// with the indentation of the list between.
func PolicySigning(steps ...string) string {
	return strings.Replace(Policy, Cosign, strings.Join(steps, "      "), 1)
}

// Options change what an Env is made of.
type Options struct {
	// World, if set, is shared.
	World       *devworld.World
	NoReferrers bool
	// NoRegistry leaves the service without a row for the registry.
	NoRegistry bool
	Policy     string // in place of Policy
	Keys       string // YAML list below `keys:`, in place of one key `release`
	MaxPages   int    // of the database
	// Trusted are repositories, without the registry's host, that a notary server has
	// and whose releases the key release-dct signs.
	Trusted []string
	// Notaries are real servers, in place of those of Trusted.
	Notaries   []dct.Config
	Poll       time.Duration
	Lease      time.Duration
	Workers    int
	Checkpoint time.Duration // between checkpoints; 0 means only Sequence signs
	// RegistryTimeout bounds one request to the registry; 0 is the client's default.
	RegistryTimeout config.Duration
	// Forges are the forges of the service by host, ForgePoll is how often they are
	// read for comments whose delivery never came, People who is whom.
	Forges    map[string]forge.Forge
	ForgePoll time.Duration
	People    []approval.Person
	// Heard, where set, is told what became of deliveries and commands.
	Heard func(host, outcome string)
	// Modules opens keys of pkcs11 in Keys; nil is none.
	Modules key.Backend
	Quiet   bool // log nothing, for tests that would log for hours
	// Method, where set, stands in for each method of signing.
	Method func(method.Method) method.Method
	// Batches has the store commit together what queued up, as the service does: its
	// updates cannot be made to fail then (Faults).
	Batches bool
}

// Env is a world in which a service can run, again and again.
type Env struct {
	T       testing.TB
	World   *devworld.World
	Dir     string
	Options Options
	// Clock is added to the real time everywhere in the service.
	Clock atomic.Int64
	// Trust is nil unless repositories are Trusted.
	Trust *Trust

	secret  []byte
	log     *audit.Signer
	uses    atomic.Int64
	proving atomic.Bool
	n       atomic.Int64
}

// New starts a world that ends with the test.
func New(t testing.TB, o Options) *Env {
	t.Helper()
	world := o.World
	if world == nil {
		world = NewWorld(t, !o.NoReferrers)
	}
	if o.Poll == 0 {
		o.Poll = 10 * time.Millisecond
	}
	if o.Checkpoint == 0 {
		o.Checkpoint = time.Hour
	}
	e := &Env{T: t, World: world, Dir: t.TempDir(), Options: o, secret: make([]byte, 32)}
	_, err := rand.Read(e.secret)
	must(t, err)
	private, _, err := audit.GenerateKey(rand.Reader, "sign.sealwright.test/log")
	must(t, err)
	e.log, err = audit.NewSigner(private)
	must(t, err)
	if len(o.Trusted) > 0 {
		e.trust()
	}
	return e
}

// issuerKeys are those of all worlds of a process: they take longer than the rest.
var issuerKeys = sync.OnceValues(devworld.NewIssuerKeys)

// NewWorld starts issuers and a registry that end with the test.
func NewWorld(t testing.TB, referrers bool) *devworld.World {
	t.Helper()
	return StartWorld(t, devworld.Options{NoReferrers: !referrers})
}

// StartWorld is NewWorld with options, except for keys.
func StartWorld(t testing.TB, o devworld.Options) *devworld.World {
	t.Helper()
	var err error
	o.Keys, err = issuerKeys()
	must(t, err)
	world, err := devworld.Start(o)
	must(t, err)
	t.Cleanup(func() { must(t, world.Close()) })
	return world
}

// Now is the service's clock.
func (e *Env) Now() time.Time { return time.Now().Add(time.Duration(e.Clock.Load())) }

// KeyUses returns how often a key was asked, without the proofs of possession.
func (e *Env) KeyUses() int { return int(e.uses.Load()) }

// ResetKeyUses counts from zero again.
func (e *Env) ResetKeyUses() { e.uses.Store(0) }

// Database returns the path of the database.
func (e *Env) Database() string { return filepath.Join(e.Dir, "sealwright.db") }

// Service is one run of the service.
type Service struct {
	Env      *Env
	Faults   *Faults
	Store    *store.Store
	Keys     *key.Ring
	Workflow *workflow.Workflow
	Registry *registry.Client
	Server   *server.Server
	HTTP     *httptest.Server

	// base carries all calls of this service, and ends with it.
	base *http.Transport
	stop context.CancelFunc
	done chan error
}

// Start runs the service, with faults if not nil. It is stopped with the test
// if nobody stopped it before.
func (e *Env) Start(f *Faults) *Service {
	e.T.Helper()
	s, err := e.TryStart(f)
	must(e.T, err)
	return s
}

// TryStart is Start for services that may not start.
func (e *Env) TryStart(f *Faults) (*Service, error) {
	if f == nil {
		f = NewFaults("", "")
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Service{Env: e, Faults: f, base: http.DefaultTransport.(*http.Transport).Clone(), stop: cancel, done: make(chan error, 1)}
	if err := s.open(ctx); err != nil {
		cancel()
		s.base.CloseIdleConnections()
		return nil, err
	}
	go func() { s.done <- s.Workflow.Run(ctx) }()
	go func() {
		select {
		case <-f.Died():
			cancel()
		case <-ctx.Done():
		}
	}()
	e.T.Cleanup(s.Stop)
	return s, nil
}

func (s *Service) open(ctx context.Context) (err error) {
	e := s.Env
	log := e.logger()
	if s.Keys, err = e.ring(ctx, s.Faults); err != nil {
		return err
	}
	policies, err := e.policies()
	if err != nil {
		return err
	}
	host := e.World.Registry.Host
	if e.Options.NoRegistry {
		host = "127.0.0.1:9" // nobody is there
	}
	s.Registry, err = registry.New([]registry.Config{{Host: host, InsecureHTTP: true, Connection: registry.Connection{Timeout: e.Options.RegistryTimeout}}}, registry.Options{Transport: s.Faults.Transport(s.base, Registry), Log: log})
	if err != nil {
		return err
	}
	ids, err := identity.New(ctx, Issuers(e.World), identity.Options{Client: outbound.NewClient(outbound.Options{AllowHTTP: true, Base: s.base}), Now: e.Now, Log: log})
	if err != nil {
		return err
	}
	database := store.Options{Path: e.Database(), Secrets: [][]byte{e.secret}, Now: e.Now, Log: log, MaxPages: e.Options.MaxPages, Interpose: s.Faults.Interpose}
	if e.Options.Batches {
		database.Interpose = nil
	}
	if s.Store, err = store.Open(ctx, database); err != nil {
		return err
	}
	directory, problems := approval.NewDirectory(e.Options.People, "people")
	if err := problems.Err(); err != nil {
		return errors.Join(err, s.Store.Close())
	}
	s.HTTP = httptest.NewUnstartedServer(nil)
	metrics := server.NewMetrics(func() float64 { return 0 })
	methods, err := s.methods()
	if err != nil {
		return errors.Join(err, s.Store.Close())
	}
	if e.Options.Method != nil {
		for name, m := range methods {
			methods[name] = e.Options.Method(m)
		}
	}
	s.Workflow, err = workflow.New(workflow.Options{
		Store: s.Store, Policies: policies, Keys: s.Keys, Methods: methods, Registry: s.Registry,
		LogSigner: e.log, CheckpointFile: filepath.Join(e.Dir, "checkpoint"), CheckpointEvery: e.Options.Checkpoint,
		Now: e.Now, Rand: rand.Reader, Log: log, Owner: fmt.Sprintf("test-%d", e.n.Add(1)), Version: "test",
		Poll: e.Options.Poll, Lease: e.Options.Lease, Workers: e.Options.Workers, Steps: metrics.Step,
		Forges: s.Faults.Forges(e.Options.Forges), ForgePoll: e.polls(), Directory: directory, Heard: e.heard(metrics.Heard),
	})
	if err == nil {
		err = s.Workflow.Load(ctx)
	}
	if err != nil {
		return errors.Join(err, s.Store.Close())
	}
	s.Server = server.New(server.Options{
		Workflow: s.Workflow, Store: s.Store, Identity: ids, LogKey: e.log.Verifier(), Log: log, Now: e.Now, Metrics: metrics, Rate: 10000, PublicLog: true,
	})
	s.HTTP.Config.Handler = s.Server.Handler()
	s.HTTP.Start()
	return nil
}

// ring opens the keys, which are made the first time.
func (e *Env) ring(ctx context.Context, f *Faults) (*key.Ring, error) {
	list := e.Options.Keys
	if list == "" {
		list = `
  - id: release
    file: file:DIR/release.key
    methods: [cosign]
    allow: [{project: payments, policy: release, repositories: ["HOST/payments/*"]}]
    require: {protected_ref: true}
  - id: release-x509
    file: file:DIR/release-x509.key
    certificates: file:DIR/release-x509.crt
    methods: [notation]
    allow: [{project: payments, policy: release, repositories: ["HOST/payments/*"]}]
    require: {protected_ref: true}
  - id: release-gpg
    file: file:DIR/release-gpg.key
    openpgp: {certificate: "file:DIR/release-gpg.asc"}
    methods: [simple]
    allow: [{project: payments, policy: release, repositories: ["HOST/payments/*"]}]
    require: {protected_ref: true}
`
		if e.Trust != nil || len(e.Options.Notaries) > 0 {
			list += dctKey
		}
	}
	for _, name := range []string{"release.key", "other.key"} {
		e.MakeKey(name)
	}
	e.MakeCertifiedKey("release-x509")
	e.MakeOpenPGPKey("release-gpg")
	list = strings.NewReplacer("DIR", e.Dir, "HOST", e.World.Registry.Host).Replace(list)
	conf, err := key.Load("keys.yaml", []byte("apiVersion: sealwright.dev/v1\nkeys:"+list))
	if err != nil {
		return nil, err
	}
	e.proving.Store(true)
	defer e.proving.Store(false)
	return key.Open(ctx, conf, key.Options{Now: e.Now, PKCS11: e.Options.Modules, Wrap: func(_ string, k crypto.Signer) crypto.Signer { return &signer{k, e, f} }})
}

func (e *Env) policies() (*policy.Set, error) {
	text := e.Options.Policy
	if text == "" {
		text = Policy
	}
	return policy.Load(map[string][]byte{"policies/payments.yaml": []byte(strings.ReplaceAll(text, "%[1]s", e.World.Registry.Host))})
}

// Stop stops the service in order, and waits.
func (s *Service) Stop() {
	s.stop()
	if s.done == nil {
		return
	}
	must(s.Env.T, <-s.done)
	s.done = nil
	s.HTTP.CloseClientConnections()
	s.HTTP.Close()
	s.base.CloseIdleConnections()
	must(s.Env.T, s.Store.Close())
}

// Kill ends the service as the death of its process would: nothing that it
// would have done happens any more.
func (s *Service) Kill() {
	s.Faults.Kill()
	s.Stop()
}

// GitHub returns a token of j for this service.
func (e *Env) GitHub(j devworld.GitHubJob) string {
	e.T.Helper()
	token, err := e.World.GitHub.GitHubToken(j, Audience)
	must(e.T, err)
	return token
}

// Person returns the token of a person with the roles.
func (e *Env) Person(roles ...signing.PeopleRole) string {
	e.T.Helper()
	p := devworld.NewPerson()
	p.Groups = nil
	for _, r := range roles {
		p.Groups = append(p.Groups, string(r))
	}
	token, err := e.World.People.PersonToken(p, PeopleAudience)
	must(e.T, err)
	return token
}

// Image pushes an image to payments/web and returns it as an artifact.
func (e *Env) Image(content string) signing.Artifact {
	e.T.Helper()
	return e.ImageIn("payments/web", "", content)
}

// ImageIn is Image for another repository and with a tag.
func (e *Env) ImageIn(repository, tag, content string) signing.Artifact {
	e.T.Helper()
	img, err := e.World.Registry.PushImage(context.Background(), devworld.ImageSpec{Repository: repository, Tag: tag, Content: content})
	must(e.T, err)
	return signing.Artifact{Repository: signing.Repository(img.Repository), Digest: signing.Digest(img.Digest)}
}
