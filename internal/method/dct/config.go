package dct

import (
	"encoding/hex"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

// Config is one row of `notaries`: a Notary server, for which repositories it is
// asked, and which roots are trusted there.
type Config struct {
	URL string `yaml:"url"` // https://HOST[:PORT]; http for loopback hosts
	// Repositories are the beginnings of repository names, whole path elements:
	// "registry.acme.dev", "registry.acme.dev/payments". The longest decides.
	Repositories []string `yaml:"repositories"`
	// Pins say which roots are trusted; the longest Repository decides.
	Pins []Pin `yaml:"pins"`
	// TrustOnFirstUse trusts the root of a repository without a pin when it is first
	// seen, and from then on only what follows from it.
	TrustOnFirstUse     bool `yaml:"trust_on_first_use"`
	registry.Connection `yaml:",inline"`
}

// Pin is the trusted root of all repositories that begin with Repository: keys or
// an authority, one of the two.
type Pin struct {
	Repository string `yaml:"repository"`
	// RootKeys are ids of root keys, 64 hex digits, as `notary key list` and
	// `docker trust inspect` print them.
	RootKeys []string `yaml:"root_keys"`
	// CAFile is a PEM file with the authority that certifies root keys.
	CAFile string `yaml:"ca_file"`
}

// row is c as the client for registries understands it.
func (c Config) row() registry.Config {
	r := registry.Config{Connection: c.Connection}
	if u, err := url.Parse(c.URL); err == nil {
		r.Host, r.InsecureHTTP = u.Host, u.Scheme == "http"
	}
	return r
}

// Check returns every problem of the rows that can be seen without using them.
// Paths are relative to the rows: "[0].url".
func Check(rows []Config) config.Problems {
	var ps config.Problems
	served := map[string]int{}
	for i, c := range rows {
		at := func(key string) string { return config.Key(config.Index("", i), key) }
		u, err := url.Parse(c.URL)
		switch {
		case err != nil || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
			ps.Add(at("url"), "must be the address of a notary server without a path, as in https://notary.acme.dev:4443")
		case u.Scheme != "https" && !(u.Scheme == "http" && outbound.IsLoopback(u.Hostname())):
			ps.Add(at("url"), "must be https")
		default:
			for _, p := range registry.Check([]registry.Config{c.row()}) {
				// The same words, but for the host.
				ps.Add(config.Index("", i)+strings.Replace(strings.TrimPrefix(p.Path, "[0]"), ".host", ".url", 1), "%s", p.Message)
			}
		}
		if len(c.Repositories) == 0 {
			ps.Add(at("repositories"), "lists none; write the registry host whose images this server knows, as in registry.acme.dev")
		}
		for j, r := range c.Repositories {
			if !isPrefix(r) {
				ps.Add(config.Index(at("repositories"), j), "must be a registry host, or a host and whole path elements")
			} else if k, twice := served[r]; twice {
				ps.Add(config.Index(at("repositories"), j), "is in row %d already", k+1)
			}
			served[r] = i
		}
		c.checkPins(at("pins"), &ps)
	}
	return ps
}

func (c Config) checkPins(at string, ps *config.Problems) {
	seen := map[string]bool{}
	for j, p := range c.Pins {
		at := func(key string) string { return config.Key(config.Index(at, j), key) }
		if !isPrefix(p.Repository) || seen[p.Repository] {
			ps.Add(at("repository"), "must be a registry host, or a host and whole path elements, each once")
		}
		seen[p.Repository] = true
		if (len(p.RootKeys) == 0) == (p.CAFile == "") {
			ps.Add(at("root_keys"), "give either root_keys or ca_file")
		}
		for k, id := range p.RootKeys {
			if raw, err := hex.DecodeString(id); err != nil || len(raw) != 32 || id != strings.ToLower(id) {
				ps.Add(config.Index(at("root_keys"), k), "must be the id of a root key: 64 lower-case hex digits")
			}
		}
		if p.CAFile != "" && !filepath.IsAbs(p.CAFile) {
			ps.Add(at("ca_file"), "must be an absolute path")
		}
	}
	if len(c.Pins) == 0 && !c.TrustOnFirstUse {
		ps.Add(at, "lists none, so that no root is trusted; pin the root key, or set trust_on_first_use")
	}
}

// isPrefix reports whether s is a host, or a repository.
func isPrefix(s string) bool {
	return signing.Repository(s).Validate() == nil || !strings.Contains(s, "/") && signing.Repository(s+"/x").Validate() == nil
}

// covers reports whether a repository begins with prefix, by whole path elements.
func covers(prefix string, r signing.Repository) bool {
	return string(r) == prefix || strings.HasPrefix(string(r), prefix+"/")
}
