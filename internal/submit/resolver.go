package submit

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/sealwright/sealwright/internal/ci"
	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

// RegistryOptions says how registries are spoken to: with the job's own credentials.
type RegistryOptions struct {
	Env func(string) string
	// Username and Password, where set, are for Host and no other registry.
	Host, Username, Password string
	TokenRealms              []string // further token services of Host
	Transport                http.RoundTripper
}

// passwordVariable is the name under which registry.Config refers to the
// password; it is no variable of the process.
const passwordVariable = "SEALWRIGHT_RESOLVER_PASSWORD"

// NewRegistries returns the registries of a step: each image's own, with what
// `docker login` or the CI left for exactly that host, else anonymously. Loopback
// hosts are spoken to by http, as docker does.
func NewRegistries(o RegistryOptions) *Registries {
	return &Registries{o: o, clients: map[string]*registry.Client{}}
}

// Registries are the registries of a step's images, spoken to with the job's
// own credentials. It is safe for concurrent use.
type Registries struct {
	o RegistryOptions

	mu      sync.Mutex
	clients map[string]*registry.Client // guarded by mu; by host
}

// client returns the client for the host of a repository. Nothing is sent.
func (r *Registries) client(repository signing.Repository) (*registry.Client, error) {
	host := repository.Host()
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.clients[host]; c != nil {
		return c, nil
	}
	row, password := r.o.row(host)
	env := func(name string) (string, bool) {
		if name == passwordVariable {
			return password, true
		}
		v := r.o.Env(name)
		return v, v != ""
	}
	c, err := registry.New([]registry.Config{row}, registry.Options{Transport: r.o.Transport, Env: env})
	if err != nil {
		return nil, &signing.Error{Code: signing.Invalid, Message: "the registry " + host + " cannot be used", Found: ci.Clean(err.Error()), Fix: "correct the registry inputs or the docker configuration, or give the image by digest"}
	}
	r.clients[host] = c
	return c, nil
}

// Resolve returns what a tag or digest of the repository names now.
func (r *Registries) Resolve(ctx context.Context, repository signing.Repository, tagOrDigest string) (signing.Digest, error) {
	c, err := r.client(repository)
	if err != nil {
		return "", err
	}
	d, err := c.Resolve(ctx, repository, tagOrDigest)
	return d.Digest, err
}

// Tag points a tag at a manifest of the repository, and reads it back.
func (r *Registries) Tag(ctx context.Context, repository signing.Repository, digest signing.Digest, tag string) error {
	c, err := r.client(repository)
	if err != nil {
		return err
	}
	return c.Tag(ctx, repository, digest, tag)
}

// row configures one host: credentials given for it, then those of GitLab's own
// registry, then docker's configuration.
func (o RegistryOptions) row(host string) (row registry.Config, password string) {
	row = registry.Config{Host: host, InsecureHTTP: outbound.IsLoopback(hostname(host))}
	if strings.EqualFold(host, o.Host) {
		row.TokenRealm = append(row.TokenRealm, o.TokenRealms...)
	}
	ours := strings.EqualFold(host, o.Env("CI_REGISTRY")) && o.Env("GITLAB_CI") == "true"
	if server := o.Env("CI_SERVER_URL"); ours && strings.HasPrefix(server, "https://") {
		// GitLab's registry sends its clients to the instance for a token.
		row.TokenRealm = append(row.TokenRealm, strings.TrimRight(server, "/")+"/jwt/auth")
	}
	switch {
	case o.Password != "" && strings.EqualFold(host, o.Host):
		row.Username, row.Password, password = o.Username, config.Secret("env:"+passwordVariable), o.Password
	case ours && o.Env("CI_REGISTRY_USER") != "" && o.Env("CI_REGISTRY_PASSWORD") != "":
		row.Username, row.Password = o.Env("CI_REGISTRY_USER"), "env:CI_REGISTRY_PASSWORD"
	default:
		row.DockerConfig = o.dockerConfig()
	}
	return row, password
}

func hostname(host string) string {
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		return host[:i]
	}
	return host
}

// dockerConfig returns the first configuration there is, where docker and
// podman look for theirs; "" if there is none.
func (o RegistryOptions) dockerConfig() string {
	var candidates []string
	if d := o.Env("DOCKER_CONFIG"); d != "" {
		candidates = append(candidates, filepath.Join(d, "config.json"))
	} else if h := o.Env("HOME"); h != "" {
		candidates = append(candidates, filepath.Join(h, ".docker", "config.json"))
	}
	candidates = append(candidates, o.Env("REGISTRY_AUTH_FILE"))
	if d := o.Env("XDG_RUNTIME_DIR"); d != "" {
		candidates = append(candidates, filepath.Join(d, "containers", "auth.json"))
	}
	for _, c := range candidates {
		abs, err := filepath.Abs(c)
		if c == "" || err != nil {
			continue
		}
		if info, err := os.Stat(abs); err == nil && info.Mode().IsRegular() {
			return abs
		}
	}
	return ""
}
