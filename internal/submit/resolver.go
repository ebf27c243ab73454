package submit

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/sealwright/sealwright/internal/ci"
	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

// RegistryOptions says how tags are resolved: with the job's own credentials.
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

// NewResolver returns a Resolver that asks the image's own registry, with what
// `docker login` or the CI left for exactly that host, else anonymously.
// Loopback hosts are spoken to by http, as docker does.
func NewResolver(o RegistryOptions) Resolver {
	clients := map[string]*registry.Client{} // by host; a step resolves in sequence
	return func(ctx context.Context, repository signing.Repository, tag string) (signing.Digest, error) {
		host := repository.Host()
		client := clients[host]
		if client == nil {
			row, password := o.row(host)
			env := func(name string) (string, bool) {
				if name == passwordVariable {
					return password, true
				}
				v := o.Env(name)
				return v, v != ""
			}
			var err error
			if client, err = registry.New([]registry.Config{row}, registry.Options{Transport: o.Transport, Env: env}); err != nil {
				return "", &signing.Error{Code: signing.Invalid, Message: "the registry " + host + " cannot be used", Found: ci.Clean(err.Error()), Fix: "correct the registry inputs or the docker configuration, or give the image by digest"}
			}
			clients[host] = client
		}
		d, err := client.Resolve(ctx, repository, tag)
		if err != nil {
			return "", err
		}
		return d.Digest, nil
	}
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
