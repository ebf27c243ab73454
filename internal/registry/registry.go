// Package registry reads and writes OCI registries (OCI distribution
// specification 1.1) for signing: it resolves what is to be signed, and it is
// the only writer of signatures, as a cosign `.sig` tag or as a referrer.
//
// What it guarantees: only hosts with a configured row are spoken to;
// credentials go to that host, over https or loopback, and to its token realm
// only; every byte that is returned was held against its digest; every answer is
// bounded; and no failure reads as absence. "Throttled" is signing.RateLimited,
// "unreachable" signing.Unavailable, "not allowed" signing.Denied; only an answer
// of the registry that the thing is not there is signing.NotFound.
//
// What it does not: two writers on one tag can still lose a signature, as the
// protocol has no compare-and-swap. Callers hold a lease on the digest and read
// back what they wrote.
package registry

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// MaxManifest bounds a manifest: the specification asks registries to accept
	// 4 MiB and most refuse more.
	MaxManifest = 4 << 20
	// MaxLayers bounds the signatures of one image, and with it what reading them
	// costs. cosign itself reads 1000; nobody signs an image that often by intent.
	MaxLayers = 256
	// MaxSignature bounds one layer of a `.sig` image. A payload has some 300
	// bytes; certificates and log proofs are annotations.
	MaxSignature = 128 << 10
	// MaxAttached bounds one blob that Attach writes: a bundle with a certificate
	// chain, a timestamp and log proofs stays below 100 KiB.
	MaxAttached = 4 << 20
	// MaxReferrers bounds a list of referrers of the wanted type, and
	// maxReferrerPages how long a registry may spread it.
	MaxReferrers     = 1024
	maxReferrerPages = 16

	// maxBlob bounds every answer, whatever a caller of Blob asks for.
	maxBlob = 32 << 20
	// maxConcurrency is beyond what any public registry lets one client do.
	maxConcurrency = 256
)

// Config is one row of `registries`: a host that may be spoken to, and how.
type Config struct {
	Host string `yaml:"host"` // with its port, as in repository names
	// InsecureHTTP speaks plain http, to loopback hosts only.
	InsecureHTTP bool `yaml:"insecure_http"`
	Connection   `yaml:",inline"`
}

// Connection is how a server is spoken to, in every row that names one: with which
// credentials, within which bounds.
type Connection struct {
	// At most one of: username and password; docker_config; credential_helper.
	Username string        `yaml:"username"`
	Password config.Secret `yaml:"password"`
	// DockerConfig is the path of a docker config.json. Helper programs that it
	// names are run.
	DockerConfig string `yaml:"docker_config"`
	// CredentialHelper is NAME of the program docker-credential-NAME on PATH.
	CredentialHelper string `yaml:"credential_helper"`
	// TokenRealm lists the URLs of token services on other hosts to which this
	// server may send us with our credentials.
	TokenRealm  []string        `yaml:"token_realm"`
	Concurrency int             `yaml:"concurrency"` // requests at a time; outbound.DefaultPerHost if zero
	Timeout     config.Duration `yaml:"timeout"`     // of one request; outbound.DefaultTimeout if zero
	CAFile      string          `yaml:"ca_file"`     // PEM; replaces the system's roots for this server
}

// Options are what a Client needs from outside. The zero value is usable.
type Options struct {
	// Transport carries all requests below the rules of outbound, in place of a
	// transport for each row with its CA. Tests count and break requests with it.
	Transport http.RoundTripper
	Now       func() time.Time
	// Sleep waits before a read is tried again; it returns ctx's error.
	Sleep func(ctx context.Context, d time.Duration) error
	Env   func(string) (string, bool) // os.LookupEnv
	Log   *slog.Logger                // one debug line for each request
}

// Client speaks to the configured registries. It keeps connections and tokens,
// and is safe for concurrent use.
type Client struct {
	hosts map[string]*host // by lower-case name; fixed after New
	o     Options
}

// host is one configured registry.
type host struct {
	name   string
	notary bool     // a Notary server, of the `notaries` rows
	api    *url.URL // scheme and host
	plain  *http.Client
	follow *http.Client // for blobs, which registries keep elsewhere
	realms []*url.URL   // allowed besides the host itself
	keys   credentials
	auth   auth
}

// dockerHub is the one registry whose name is not where its API lives.
const (
	dockerHub      = "docker.io"
	dockerHubAPI   = "registry-1.docker.io"
	dockerHubRealm = "https://auth.docker.io/token"
)

var (
	reHelper   = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
	reHostPort = regexp.MustCompile(`^(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?$`)
)

// Check returns every problem of the rows that can be seen without using them.
// Paths are relative to the rows: "[0].host".
func Check(rows []Config) config.Problems {
	var ps config.Problems
	seen := map[string]int{}
	for i, r := range rows {
		at := func(key string) string { return config.Key(config.Index("", i), key) }
		name := strings.ToLower(r.Host)
		if !reHostPort.MatchString(r.Host) {
			ps.Add(at("host"), "must be a registry host such as registry.acme.dev:5000, without scheme and path")
		} else if j, ok := seen[name]; ok {
			ps.Add(at("host"), "%s has a row already, number %d", r.Host, j+1)
		} else {
			seen[name] = i
		}
		if u, err := url.Parse("//" + r.Host); r.InsecureHTTP && (err != nil || !outbound.IsLoopback(u.Hostname())) {
			ps.Add(at("insecure_http"), "plain http is for loopback hosts only; give %s a certificate and set ca_file", r.Host)
		}
		r.checkCredentials(at, &ps)
		for j, realm := range r.TokenRealm {
			if _, err := parseRealm(realm); err != nil {
				ps.Add(config.Index(at("token_realm"), j), "must be the https URL of a token service without query: %v", err)
			}
		}
		if r.Concurrency < 0 || r.Concurrency > maxConcurrency {
			ps.Add(at("concurrency"), "must be between 1 and %d", maxConcurrency)
		}
		if r.CAFile != "" && !filepath.IsAbs(r.CAFile) {
			ps.Add(at("ca_file"), "must be an absolute path")
		}
	}
	return ps
}

func (r Config) checkCredentials(at func(string) string, ps *config.Problems) {
	sources := 0
	for _, set := range []bool{r.Username != "" || r.Password != "", r.DockerConfig != "", r.CredentialHelper != ""} {
		if set {
			sources++
		}
	}
	if sources > 1 {
		ps.Add(at("host"), "has more than one source of credentials; keep one of username and password, docker_config, credential_helper")
	}
	if (r.Username == "") != (r.Password == "") {
		ps.Add(at("username"), "username and password come together")
	}
	if r.DockerConfig != "" && !filepath.IsAbs(r.DockerConfig) {
		ps.Add(at("docker_config"), "must be an absolute path")
	}
	if r.CredentialHelper != "" && !reHelper.MatchString(r.CredentialHelper) {
		ps.Add(at("credential_helper"), "must be NAME of a program docker-credential-NAME, without path")
	}
}

// New returns a Client for the rows. Secrets, docker configurations and CA files
// must be readable now; they are read again when they are used, so that they can
// be rotated. Nothing is sent.
func New(rows []Config, o Options) (*Client, error) {
	if err := Check(rows).Err(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	c := &Client{hosts: make(map[string]*host, len(rows)), o: o}
	for _, r := range rows {
		h, err := newHost(r, o)
		if err != nil {
			return nil, fmt.Errorf("registry %s: %w", r.Host, err)
		}
		c.hosts[h.name] = h
	}
	return c, nil
}

func (o Options) withDefaults() Options {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Env == nil {
		o.Env = os.LookupEnv
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// title and row name the host in errors, and where it is configured.
func (h *host) title() string {
	if h.notary {
		return "notary server " + h.name
	}
	return "registry " + h.name
}

func (h *host) row() string {
	if h.notary {
		return "notaries row of " + h.name
	}
	return "registries row of " + h.name
}

func newHost(r Config, o Options) (*host, error) {
	h := &host{name: strings.ToLower(r.Host), keys: credentials{row: r, env: o.Env, now: o.Now}, auth: auth{tokens: map[string]*token{}}}
	h.api = &url.URL{Scheme: "https", Host: h.name}
	if r.InsecureHTTP {
		h.api.Scheme = "http"
	}
	realms := r.TokenRealm
	if h.name == dockerHub {
		h.api.Host = dockerHubAPI
		realms = append([]string{dockerHubRealm}, realms...)
	}
	for _, s := range realms {
		u, err := parseRealm(s)
		if err != nil {
			return nil, err
		}
		h.realms = append(h.realms, u)
	}
	if err := h.keys.check(); err != nil {
		return nil, err
	}
	roots, err := config.ReadCA(r.CAFile)
	if err != nil {
		return nil, err
	}
	t := outbound.NewTransport(outbound.Options{
		Timeout: r.Timeout.Duration(), MaxBody: maxBlob, AllowHTTP: r.InsecureHTTP, PerHost: r.Concurrency,
		RootCAs: roots, Base: o.Transport, Now: o.Now,
	})
	h.plain = &http.Client{Transport: t, CheckRedirect: outbound.RefuseRedirects}
	h.follow = &http.Client{Transport: t, CheckRedirect: outbound.FollowRedirects(maxRedirects)}
	return h, nil
}

// host returns the row for repo, before anything is sent anywhere.
func (c *Client) host(repo signing.Repository) (*host, error) {
	if err := repo.Validate(); err != nil {
		return nil, err
	}
	h, ok := c.hosts[strings.ToLower(repo.Host())]
	if !ok {
		return nil, &signing.Error{Code: signing.Denied, Message: "this service does not talk to registry " + repo.Host(), Expected: "a registry that is configured", Found: repo.Host(), Fix: "add a row for it under `registries`, or use an image of a configured registry"}
	}
	return h, nil
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
