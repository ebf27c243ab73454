package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// credentialsKept is how long credentials are used before they are asked for
	// again: rotated files and helpers with short-lived passwords (the cloud's
	// last hours) are followed, and one request does not cost one program.
	credentialsKept = 5 * time.Minute
	// helperTimeout bounds a helper program; the slow ones ask a cloud service.
	helperTimeout = 20 * time.Second
	// maxDockerConfig and maxHelperOutput bound what is parsed; a config.json of
	// a hundred registries has some 20 KiB.
	maxDockerConfig = 1 << 20
	maxHelperOutput = 64 << 10

	// helperIdentity is the user name by which helpers say that the secret is an
	// OAuth2 refresh token.
	helperIdentity = "<token>"
	dockerHubKey   = "https://index.docker.io/v1/"
)

// credential is what a registry or its token service is given. All empty is
// anonymous.
type credential struct {
	username, password string
	refresh            string // OAuth2 refresh token, for the token service only
	bearer             string // a ready token, for the registry only
}

func (c credential) anonymous() bool { return c == credential{} }

// credentials finds the credential of one row and keeps it for a while.
type credentials struct {
	row Config
	env func(string) (string, bool)
	now func() time.Time

	mu    sync.Mutex // guards below, and has one helper run at a time
	have  credential
	until time.Time
}

// check reads what can be read without running a program.
func (c *credentials) check() error {
	switch {
	case c.row.Password != "":
		_, err := c.row.Password.Read(c.env)
		return err
	case c.row.DockerConfig != "":
		_, err := readDockerConfig(c.row.DockerConfig)
		return err
	}
	return nil
}

// get returns the row's credential. Failing to find it is Unavailable, never
// anonymous access.
func (c *credentials) get(ctx context.Context) (credential, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now().Before(c.until) {
		return c.have, nil
	}
	got, err := c.find(ctx)
	if err != nil {
		return credential{}, &signing.Error{Code: signing.Unavailable, Message: "the credentials for registry " + c.row.Host + " cannot be read", Fix: "ask the operator of this service to look into its log", Err: err}
	}
	c.have, c.until = got, c.now().Add(credentialsKept)
	return got, nil
}

// drop forgets what a registry has refused.
func (c *credentials) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = time.Time{}
}

func (c *credentials) find(ctx context.Context) (credential, error) {
	switch {
	case c.row.Password != "":
		p, err := c.row.Password.Read(c.env)
		return credential{username: c.row.Username, password: string(p)}, err
	case c.row.CredentialHelper != "":
		return runHelper(ctx, c.row.CredentialHelper, c.serverKey())
	case c.row.DockerConfig != "":
		d, err := readDockerConfig(c.row.DockerConfig)
		if err != nil {
			return credential{}, err
		}
		return d.find(ctx, c.serverKey())
	}
	return credential{}, nil
}

// serverKey is the name under which docker keeps credentials of the host.
func (c *credentials) serverKey() string {
	if strings.EqualFold(c.row.Host, dockerHub) {
		return dockerHubKey
	}
	return strings.ToLower(c.row.Host)
}

// dockerConfig is the part of docker's config.json that holds credentials.
type dockerConfig struct {
	Auths map[string]struct {
		Auth          string `json:"auth"`
		Username      string `json:"username"`
		Password      string `json:"password"`
		IdentityToken string `json:"identitytoken"`
		RegistryToken string `json:"registrytoken"`
	} `json:"auths"`
	CredHelpers map[string]string `json:"credHelpers"`
	CredsStore  string            `json:"credsStore"`
}

func readDockerConfig(path string) (*dockerConfig, error) {
	raw, err := config.ReadFile(path, maxDockerConfig)
	if err != nil {
		return nil, fmt.Errorf("reading docker_config: %w", err)
	}
	d := new(dockerConfig)
	if err := json.Unmarshal(raw, d); err != nil {
		// Not the error of encoding/json: it may quote a piece of a secret.
		return nil, fmt.Errorf("docker_config %s is not a docker config.json", path)
	}
	return d, nil
}

// find follows docker's order: the host's helper, the general store, the file.
// Keys are compared as docker writes them, a host or an https URL of it.
func (d *dockerConfig) find(ctx context.Context, key string) (credential, error) {
	if k, ok := match(d.CredHelpers, key); ok {
		return runHelper(ctx, d.CredHelpers[k], k)
	}
	if d.CredsStore != "" {
		got, err := runHelper(ctx, d.CredsStore, key)
		if err != nil || !got.anonymous() {
			return got, err
		}
	}
	k, ok := match(d.Auths, key)
	if !ok {
		return credential{}, nil
	}
	a := d.Auths[k]
	got := credential{username: a.Username, password: a.Password, refresh: a.IdentityToken, bearer: a.RegistryToken}
	if a.Auth != "" {
		raw, err := base64.StdEncoding.DecodeString(a.Auth)
		user, pass, ok := strings.Cut(strings.TrimRight(string(raw), "\x00"), ":")
		if err != nil || !ok {
			return credential{}, fmt.Errorf("docker_config: `auth` of %s is not base64 of USER:PASSWORD", hostOfKey(k))
		}
		got.username, got.password = user, pass
	}
	return got, nil
}

// match returns the key of m that names the host of key: key itself, else the
// first in order.
func match[V any](m map[string]V, key string) (string, bool) {
	if _, ok := m[key]; ok {
		return key, true
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if hostOfKey(k) == hostOfKey(key) {
			return k, true
		}
	}
	return "", false
}

// hostOfKey reduces a key of config.json to its host.
func hostOfKey(k string) string {
	k = strings.TrimPrefix(strings.TrimPrefix(strings.ToLower(k), "https://"), "http://")
	h, _, _ := strings.Cut(k, "/")
	if h == "index.docker.io" {
		return dockerHub
	}
	return h
}

// runHelper asks docker-credential-NAME for server, by docker's credential helper
// protocol: `get`, the server on standard input, JSON on standard output.
func runHelper(ctx context.Context, name, server string) (credential, error) {
	if !reHelper.MatchString(name) {
		return credential{}, errors.New("the name of a credential helper has other than lower-case letters, digits, '.', '_', '-'")
	}
	program := "docker-credential-" + name
	ctx, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "get")
	cmd.Stdin = strings.NewReader(server)
	cmd.WaitDelay = time.Second
	out := &boundedBuffer{most: maxHelperOutput}
	cmd.Stdout = out
	err := cmd.Run()
	if err != nil {
		// The protocol's one way to say "none": this text and a non-zero exit.
		var exit *exec.ExitError
		if errors.As(err, &exit) && strings.TrimSpace(out.buf.String()) == "credentials not found in native keychain" {
			return credential{}, nil
		}
		return credential{}, fmt.Errorf("running %s: %w", program, err)
	}
	var got struct{ Username, Secret string }
	if err := json.Unmarshal(out.buf.Bytes(), &got); err != nil || got.Secret == "" {
		return credential{}, fmt.Errorf("%s did not answer with a user name and a secret", program)
	}
	if got.Username == helperIdentity {
		return credential{refresh: got.Secret}, nil
	}
	return credential{username: got.Username, password: got.Secret}, nil
}

// boundedBuffer refuses more than most bytes. The buffer is not embedded: its
// ReadFrom would go around the bound.
type boundedBuffer struct {
	buf  bytes.Buffer
	most int
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	if b.buf.Len()+len(p) > b.most {
		return 0, errors.New("too much output")
	}
	return b.buf.Write(p)
}
