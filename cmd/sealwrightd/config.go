package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/sealwright/sealwright/internal/approval"
	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/identity"
	"github.com/sealwright/sealwright/internal/key"
	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/method/simple"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/policy"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	apiVersion = "sealwright.dev/v1"
	// maxConfigFile bounds each configuration file: 1,200 repositories take
	// some hundred kilobytes.
	maxConfigFile = 4 << 20
)

// Config is the service's configuration file. Keys and policies are files of
// their own, since they have owners of their own.
type Config struct {
	APIVersion string            `yaml:"apiVersion"`
	Server     ServerConfig      `yaml:"server"`
	Store      StoreConfig       `yaml:"store"`
	Log        LogConfig         `yaml:"log"`
	Issuers    []identity.Issuer `yaml:"issuers"`
	Registries []registry.Config `yaml:"registries"`
	Forges     []forge.Config    `yaml:"forges"`
	// Notaries are the Notary servers of Docker Content Trust.
	Notaries []dct.Config `yaml:"notaries"`
	// Lookasides are where simple signatures go; without a row, to the service itself.
	Lookasides []simple.Config `yaml:"lookasides"`
	// People are those who have several accounts, or an account and an identity.
	People []approval.Person `yaml:"people"`
	// Keys is the path of the keys file, Policies that of the policy folder.
	// Relative paths in this file start at its own folder.
	Keys     string `yaml:"keys"`
	Policies string `yaml:"policies"`
	// Workers is how many requests are driven at once; 0 is the default.
	Workers int `yaml:"workers"`
}

// ServerConfig is where and how the service listens.
type ServerConfig struct {
	Listen string `yaml:"listen"` // HOST:PORT
	// URL is how jobs reach the service; it is the audience of their tokens.
	URL string `yaml:"url"`
	TLS struct {
		Certificate string `yaml:"certificate"` // PEM, leaf first; read again when it changes
		Key         string `yaml:"key"`
	} `yaml:"tls"`
	// PlainHTTP listens without TLS: on loopback, or behind a proxy that
	// terminates TLS on the same machine.
	PlainHTTP bool `yaml:"plain_http"`
	PublicLog bool `yaml:"public_log"`
	// Rate is how many requests a second one address may make.
	Rate float64 `yaml:"rate"`
	// AdminSocket is the path of the unix socket for `sealwrightd audit export`.
	AdminSocket string `yaml:"admin_socket"`
}

// StoreConfig is where the state is kept.
type StoreConfig struct {
	SQLite string `yaml:"sqlite"`
	// StateSecret authenticates rows: the first makes, all verify.
	StateSecret []config.Secret `yaml:"state_secret"`
}

// LogConfig is the audit log's own key, and where its newest checkpoint is
// kept outside the database.
type LogConfig struct {
	Key             config.Secret   `yaml:"key"`
	CheckpointFile  string          `yaml:"checkpoint_file"`
	CheckpointEvery config.Duration `yaml:"checkpoint_every"`
}

// loaded is everything that the configuration files say.
type loaded struct {
	Config
	Keys     []key.Config
	Policies *policy.Set
	People   *approval.Directory
	// policyFiles identifies the files that Policies was read from.
	policyFiles signing.Digest
}

// load reads all configuration files and reports every problem at once.
func load(path string) (*loaded, error) {
	raw, err := readBounded(path)
	if err != nil {
		return nil, err
	}
	doc, err := config.Parse(path, raw)
	if err != nil {
		return nil, err
	}
	var c Config
	if err := doc.Decode(&c); err != nil {
		return nil, err
	}
	c.resolve(filepath.Dir(path))
	var problems config.Problems
	c.check(func(at, format string, args ...any) { problems = append(problems, doc.Problem(at, format, args...)) })
	problems = append(problems, doc.Place("issuers", identity.Check(c.Issuers))...)
	problems = append(problems, doc.Place("registries", registry.Check(c.Registries))...)
	problems = append(problems, doc.Place("notaries", dct.Check(c.Notaries))...)
	problems = append(problems, doc.Place("lookasides", simple.Check(c.Lookasides))...)
	problems = append(problems, doc.Place("forges", forge.CheckConfig(c.Forges))...)
	out := &loaded{Config: c}
	directory, wrong := approval.NewDirectory(c.People, "people")
	problems = append(problems, doc.Place("", wrong)...)
	out.People = directory
	if c.Keys != "" {
		problems = collect(problems, func() (err error) { out.Keys, err = loadKeys(c.Keys); return err })
	}
	if c.Policies != "" {
		problems = collect(problems, func() (err error) { out.Policies, out.policyFiles, err = loadPolicies(c.Policies); return err })
	}
	if len(problems) > 0 {
		return nil, problems
	}
	problems = append(problems, key.CheckWanted(out.Keys, wanted(out.Policies))...)
	problems = append(problems, doc.Place("", unasked(out.Policies, out.Forges))...)
	problems = append(problems, doc.Place("", unserved(out.Policies, out.Notaries))...)
	if len(problems) > 0 {
		return nil, problems
	}
	return out, nil
}

// collect appends the problems of one file to those of the others.
func collect(problems config.Problems, load func() error) config.Problems {
	err := load()
	var more config.Problems
	switch {
	case err == nil:
	case errors.As(err, &more):
		problems = append(problems, more...)
	default:
		problems = append(problems, config.Problem{Message: err.Error()})
	}
	return problems
}

// resolve has relative paths start at dir.
func (c *Config) resolve(dir string) {
	paths := []*string{&c.Keys, &c.Policies, &c.Store.SQLite, &c.Log.CheckpointFile, &c.Server.TLS.Certificate, &c.Server.TLS.Key, &c.Server.AdminSocket}
	for i := range c.Forges {
		paths = append(paths, &c.Forges[i].AttestationRoot)
	}
	for i := range c.Notaries {
		n := &c.Notaries[i]
		paths = append(paths, &n.CAFile, &n.DockerConfig)
		for j := range n.Pins {
			paths = append(paths, &n.Pins[j].CAFile)
		}
	}
	for i := range c.Lookasides {
		paths = append(paths, &c.Lookasides[i].Folder, &c.Lookasides[i].CAFile)
	}
	for i := range c.Issuers {
		paths = append(paths, &c.Issuers[i].JWKSFile, &c.Issuers[i].CAFile)
	}
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
}

func (c *Config) check(problem func(at, format string, args ...any)) {
	if c.APIVersion != apiVersion {
		problem("apiVersion", "is %q; write %s", c.APIVersion, apiVersion)
	}
	host, _, err := net.SplitHostPort(c.Server.Listen)
	if err != nil {
		problem("server.listen", "must be HOST:PORT, as in 0.0.0.0:8443")
	}
	u, err := url.Parse(c.Server.URL)
	switch {
	case err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || u.RawQuery != "" || u.Fragment != "":
		problem("server.url", "must be the URL at which jobs reach the service, as in https://sign.acme.dev")
	case u.Scheme == "http" && !outbound.IsLoopback(u.Hostname()):
		problem("server.url", "must be https: tokens are sent to it")
	}
	tls := c.Server.TLS
	switch {
	case (tls.Certificate == "") != (tls.Key == ""):
		problem("server.tls", "needs both certificate and key")
	case tls.Certificate == "" && !c.Server.PlainHTTP:
		problem("server.tls", "is missing; set it, or plain_http behind a proxy on the same machine")
	case tls.Certificate != "" && c.Server.PlainHTTP:
		problem("server.plain_http", "contradicts tls; remove one")
	case c.Server.PlainHTTP && host != "" && !outbound.IsLoopback(host):
		problem("server.plain_http", "is for loopback addresses only; listen on 127.0.0.1 or set tls")
	}
	if c.Server.Rate < 0 {
		problem("server.rate", "must not be negative")
	}
	if c.Store.SQLite == "" {
		problem("store.sqlite", "is missing: the path of the database file")
	}
	if len(c.Store.StateSecret) == 0 {
		problem("store.state_secret", "is missing: a list of references to secrets; make one with `sealwrightd keys new --type state-secret`")
	}
	if c.Log.Key == "" {
		problem("log.key", "is missing: a reference to the key of the audit log; make one with `sealwrightd keys new --type log`")
	}
	if c.Log.CheckpointFile == "" {
		problem("log.checkpoint_file", "is missing: a path outside the database's disk where the newest checkpoint is kept; without it a restored backup could rewrite the log")
	}
	if d := c.Log.CheckpointEvery.Duration(); d < 0 || d > 30*time.Second {
		problem("log.checkpoint_every", "must be between 0 (the default) and 30s")
	}
	if len(c.Issuers) == 0 {
		problem("issuers", "lists none; without one no token can be accepted")
	}
	if len(c.Registries) == 0 {
		problem("registries", "lists none; without one no image can be signed")
	}
	if c.Keys == "" {
		problem("keys", "is missing: the path of the keys file")
	}
	if c.Policies == "" {
		problem("policies", "is missing: the path of the folder of policies")
	}
	if c.Workers < 0 || c.Workers > 1024 {
		problem("workers", "must be between 0 (the default) and 1024")
	}
}

func loadKeys(path string) ([]key.Config, error) {
	raw, err := readBounded(path)
	if err != nil {
		return nil, err
	}
	return key.Load(path, raw)
}

func loadPolicies(dir string) (*policy.Set, signing.Digest, error) {
	files, err := readPolicies(dir)
	if err != nil {
		return nil, "", err
	}
	set, err := policy.Load(files)
	return set, policyDigest(files), err
}

// wanted lists which policies ask for which keys.
func wanted(set *policy.Set) []key.Wanted {
	var out []key.Wanted
	for _, p := range set.Policies() {
		for _, s := range p.Steps() {
			out = append(out, key.Wanted{Project: p.Project(), Policy: p.Name(), Method: s.Method, Key: s.Key})
		}
	}
	return out
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > maxConfigFile {
		return nil, fmt.Errorf("%s has %d bytes; at most %d are read", path, info.Size(), maxConfigFile)
	}
	return os.ReadFile(path)
}
