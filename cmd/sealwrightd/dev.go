package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"github.com/sealwright/sealwright/internal/devworld"
)

// worldFile holds what `sealwrightd dev job` and its kin need to know of a
// running world, as NAME='value' lines.
const worldFile = "world.env"

// cmdDev plays a whole world on loopback. With --world the service itself is
// left to `sealwrightd serve`, so that it can be killed and started again.
func cmdDev(ctx context.Context, args []string, out, errs io.Writer) error {
	f := flags("dev", errs)
	dir := f.String("dir", "sealwright-dev", "`folder` for keys, configuration and database")
	worldOnly := f.Bool("world", false, "issuer and registry only; start the service with `sealwrightd serve`")
	format := f.String("log-format", "text", "json or text")
	level := f.String("log-level", "warn", "debug, info, warn or error")
	if err := parse(f, args, 0); err != nil {
		return err
	}
	log, err := newLog(errs, *format, *level)
	if err != nil {
		return err
	}
	full, err := filepath.Abs(*dir)
	if err != nil {
		return err
	}
	world, err := devworld.Start(devworld.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = world.Close() }() // the process ends
	server, err := freeAddress()
	if err != nil {
		return err
	}
	conf, err := writeDev(full, world, server)
	if err != nil {
		return err
	}
	ready := func(string) {
		fmt.Fprintf(out, `The world is up. It keeps nothing when it ends, but for %[1]s.
  service    http://%[2]s
  registry   %[3]s
  issuers    %[4]s/github, /gitlab and /people
Next, in another terminal:
  sealwrightd dev image --dir %[5]s            push an image, print its digest
  eval "$(sealwrightd dev job --dir %[5]s)"    be a CI job on main
  sealwright-ci --server http://%[2]s --policy release IMAGE@DIGEST
  sealwrightd dev person --dir %[5]s > token   be an auditor
  sealwright requests --server http://%[2]s --token-file token
`, full, server, world.Registry.Host, world.URL, *dir) // a closed stdout stops nothing
	}
	if *worldOnly {
		ready("")
		<-ctx.Done()
		return nil
	}
	c, err := load(conf)
	if err != nil {
		return err
	}
	return serve(ctx, c, log, ready)
}

// freeAddress returns a loopback address on which nobody listens now.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("looking for a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// writeDev writes the files of a world: secrets if they are not there yet,
// everything else anew, since ports change.
func writeDev(dir string, world *devworld.World, server string) (conf string, err error) {
	if err := os.MkdirAll(filepath.Join(dir, "policies"), 0o700); err != nil {
		return "", err
	}
	for kind, name := range map[string]string{"ecdsa-p256": "release.key", "log": "log.key", "state-secret": "state.secret"} {
		public, err := newKey(kind, filepath.Join(dir, name), logName("http://"+server))
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		if public != "" {
			if err := os.WriteFile(filepath.Join(dir, strings.TrimSuffix(name, ".key")+".pub"), []byte(public), 0o644); err != nil {
				return "", err
			}
		}
	}
	x509 := certificateFor{path: filepath.Join(dir, "release-x509.crt"), subject: "C=US,ST=WA,O=Acme,CN=release", days: 365}
	if _, err := newCertified(filepath.Join(dir, "release-x509.key"), x509); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	values := map[string]string{
		"Dir": dir, "Server": server, "World": world.URL, "GitHub": world.GitHub.URL(), "GitLab": world.GitLab.URL(), "People": world.People.URL(), "Registry": world.Registry.Host, "Token": world.ControlToken,
	}
	for name, text := range map[string]string{"sealwright.yaml": devConfig, "keys.yaml": devKeys, "policies/payments.yaml": devPolicy, worldFile: devEnv} {
		var b bytes.Buffer
		if err := template.Must(template.New(name).Parse(text)).Execute(&b, values); err != nil {
			return "", fmt.Errorf("writing %s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b.Bytes(), 0o600); err != nil {
			return "", err
		}
	}
	return filepath.Join(dir, "sealwright.yaml"), nil
}

const devConfig = `# The service of this world. See docs/operations.md for every setting.
apiVersion: sealwright.dev/v1
server:
  listen: {{.Server}}
  url: http://{{.Server}}      # the audience of tokens; https in earnest
  plain_http: true             # loopback only
  public_log: true
  admin_socket: admin.sock
store:
  sqlite: sealwright.db
  state_secret: ["file:{{.Dir}}/state.secret"]
log:
  key: file:{{.Dir}}/log.key
  checkpoint_file: checkpoint  # in earnest on another disk, or a witness
  checkpoint_every: 1s
issuers:
  - {provider: github-actions, issuer: "{{.GitHub}}", audience: "http://{{.Server}}", forge: github.test}
  - {provider: gitlab, issuer: "{{.GitLab}}", audience: "http://{{.Server}}", forge: gitlab.test}
  - provider: people           # ` + "`sealwrightd dev person`" + ` prints such a token
    role: people
    issuer: "{{.People}}"
    audience: "http://{{.Server}}/people"
    roles:
      - {role: auditor, claim: groups, values: [auditors]}
      - {role: approver, claim: groups, values: [release-managers]}
      - {role: admin, claim: groups, values: [admins]}
registries:
  - {host: "{{.Registry}}", insecure_http: true}
keys: keys.yaml
policies: policies
`

const devKeys = `# The keys, and what their owner lets each serve.
apiVersion: sealwright.dev/v1
keys:
  - id: release
    file: file:{{.Dir}}/release.key
    methods: [cosign]
    allow:
      - {project: payments, policy: release, repositories: ["{{.Registry}}/payments/*"]}
    require: {protected_ref: true}
  - id: release-x509
    file: file:{{.Dir}}/release-x509.key
    certificates: file:{{.Dir}}/release-x509.crt
    methods: [notation]
    allow:
      - {project: payments, policy: release, repositories: ["{{.Registry}}/payments/*"]}
    require: {protected_ref: true}
`

const devPolicy = `# Who may have what signed.
apiVersion: sealwright.dev/v1
project: payments
repositories:
  - {forge: github.test, name: acme/payments-web, id: "74", owner_id: "65", images: ["{{.Registry}}/payments/*"]}
  - {forge: gitlab.test, name: acme/payments/api, id: "20", owner_id: "72", images: ["{{.Registry}}/payments/*"]}
policies:
  release:
    tags: ["v*"]
    origin:
      refs: ["refs/heads/main", "refs/tags/v*"]
      ref_protected: true
      github:
        events: [push, release]
        workflow: .github/workflows/release.yml
      gitlab: {events: [push]}
    sign:
      - {method: cosign, key: release}
      - {method: notation, key: release-x509, options: {expiry: 8760h, userMetadata: "sourceRepositoryURI,sourceRepositoryDigest"}}
`

const devEnv = `WORLD_URL='{{.World}}'
WORLD_TOKEN='{{.Token}}'
SERVER='http://{{.Server}}'
REGISTRY='{{.Registry}}'
`

// cmdDevControl returns the command that posts to one control endpoint of the
// running world.
func cmdDevControl(name, method, path, usage string) func(ctx context.Context, args []string, out, errs io.Writer) error {
	return func(ctx context.Context, args []string, out, errs io.Writer) error {
		f := flags("dev "+name, errs)
		dir := f.String("dir", "sealwright-dev", "`folder` of the running world")
		body := f.String("json", "", usage)
		id := f.String("id", "", "what `sealwrightd dev hold` printed")
		if err := parse(f, args, 0); err != nil {
			return err
		}
		env, err := readWorld(filepath.Join(*dir, worldFile))
		if err != nil {
			return err
		}
		address := env["WORLD_URL"] + strings.NewReplacer("{id}", *id, "{server}", url.QueryEscape(env["SERVER"])).Replace(path)
		ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(*body))
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+env["WORLD_TOKEN"])
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return fmt.Errorf("asking the world; is `sealwrightd dev` running? %w", err)
		}
		defer func() { _ = resp.Body.Close() }() // read only
		text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("the world answered %s: %s", resp.Status, text)
		}
		_, err = fmt.Fprintln(out, strings.TrimSpace(string(text)))
		return err
	}
}

func readWorld(path string) (map[string]string, error) {
	raw, err := readBounded(path)
	if err != nil {
		return nil, fmt.Errorf("looking for a world; start one with `sealwrightd dev`: %w", err)
	}
	out := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		out[name] = strings.Trim(value, "'")
	}
	return out, nil
}
