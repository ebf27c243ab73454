package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"github.com/sealwright/sealwright/internal/config"
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
	worldOnly := f.Bool("world", false, "issuer, forge and registry only; start the service with `sealwrightd serve`")
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
	conf, err := writeDev(full, world, server, func() (map[string]string, error) { return startDevNotary(ctx, full, world.Registry.Host) })
	if err != nil {
		return err
	}
	ready := func(string) {
		fmt.Fprintf(out, `The world is up. It keeps nothing when it ends, but for %[1]s.
  service    http://%[2]s
  registry   %[3]s
  issuers    %[4]s/github, /gitlab and /people
  forge      %[6]s, in memory: acme/shop with a pull request of wanda's
Next, in another terminal:
  sealwrightd dev image --dir %[5]s            push an image, print its digest
  eval "$(sealwrightd dev job --dir %[5]s)"    be a CI job on main
  sealwright-ci --server http://%[2]s --policy release IMAGE@DIGEST
  eval "$(sealwrightd dev merge --dir %[5]s)"  be the job of acme/shop, whose policy asks a person
  sealwrightd dev thread --dir %[5]s           read the question
  sealwrightd dev comment --dir %[5]s --json '{"by":"ann","text":"/sealwright approve REQUEST CODE"}'
  sealwrightd dev person --dir %[5]s > token   be an auditor
  sealwright requests --server http://%[2]s --token-file token
`, full, server, world.Registry.Host, world.URL, *dir, devHost) // a closed stdout stops nothing
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

// devHost is what builds of the dev world call its forge.
const devHost = "github.test"

// makeSecrets makes the keys and secrets of a world that are not there yet.
func makeSecrets(dir, server string) error {
	for _, k := range []struct{ kind, name string }{
		{"ecdsa-p256", "release.key"}, {"ecdsa-p256", "release-dct.key"}, {"ecdsa-p256", "shop.key"}, {"log", "log.key"}, {"state-secret", "state.secret"}, {"state-secret", "hook.secret"},
	} {
		public, err := newKey(k.kind, filepath.Join(dir, k.name), logName("http://"+server))
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return err
		}
		if public != "" {
			if err := os.WriteFile(filepath.Join(dir, strings.TrimSuffix(k.name, ".key")+".pub"), []byte(public), 0o644); err != nil {
				return err
			}
		}
	}
	x509 := certificateFor{path: filepath.Join(dir, "release-x509.crt"), subject: "C=US,ST=WA,O=Acme,CN=release", days: 365}
	if _, err := newCertified(filepath.Join(dir, "release-x509.key"), x509); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	err := newOpenPGP(filepath.Join(dir, "release-gpg"), "Acme release <release@acme.test>", time.Now())
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	return err
}

// startForge starts the world's forge, whose webhooks go to the service, and
// writes the key of the service's App.
func startForge(dir string, world *devworld.World, server string) (*devworld.Forge, error) {
	secret, err := config.Secret("file:" + filepath.Join(dir, "hook.secret")).Read(os.LookupEnv)
	if err != nil {
		return nil, err
	}
	f, err := world.StartForge("http://"+server+"/hooks/github/"+devHost, string(secret))
	if err != nil {
		return nil, err
	}
	return f, os.WriteFile(filepath.Join(dir, "app.pem"), f.AppKey, 0o600)
}

// writeDev starts the forge and writes the files of a world: secrets if they are
// not there yet, everything else anew, since ports change. startNotary, if not nil,
// starts a Notary server and returns what the files say of it.
func writeDev(dir string, world *devworld.World, server string, startNotary func() (map[string]string, error)) (conf string, err error) {
	if err := os.MkdirAll(filepath.Join(dir, "policies"), 0o700); err != nil {
		return "", err
	}
	if err := makeSecrets(dir, server); err != nil {
		return "", err
	}
	f, err := startForge(dir, world, server)
	if err != nil {
		return "", err
	}
	values := map[string]string{
		"Dir": dir, "Server": server, "World": world.URL, "GitHub": world.GitHub.URL(), "GitLab": world.GitLab.URL(), "People": world.People.URL(), "Registry": world.Registry.Host, "Token": world.ControlToken,
		"Forge": f.URL, "App": f.AppID, "Host": devHost, "NotaryURL": "",
	}
	if startNotary != nil {
		trust, err := startNotary()
		if err != nil {
			return "", err
		}
		maps.Copy(values, trust)
	}
	for name, text := range map[string]string{"sealwright.yaml": devConfig, "keys.yaml": devKeys, "policies/payments.yaml": devPolicy, "policies/shop.yaml": devAsking, worldFile: devEnv} {
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
  - {provider: github-actions, issuer: "{{.GitHub}}", audience: "http://{{.Server}}", forge: {{.Host}}}
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
{{- if .NotaryURL}}
notaries:                      # Docker Content Trust; the root key is pinned
  - url: {{.NotaryURL}}
    repositories: ["{{.Registry}}"]
    ca_file: {{.NotaryCA}}
    pins: [{repository: "{{.NotaryImage}}", root_keys: [{{.NotaryRoot}}]}]
{{- end}}
forges:
  - host: {{.Host}}
    kind: github
    api: {{.Forge}}
    apps: [{id: "{{.App}}", private_key: "file:{{.Dir}}/app.pem"}]
    webhook: {secrets: ["file:{{.Dir}}/hook.secret"]}
people:                        # ann is one person to the forge and the identity provider
  - {name: ann, accounts: ["{{.Host}}:22"], identities: [{issuer: "{{.People}}", subject: 00u1ann}]}
  - {name: wanda, accounts: ["{{.Host}}:21"]}
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
  - id: release-gpg            # an OpenPGP certificate, made for a key that could be anywhere
    file: file:{{.Dir}}/release-gpg.key
    openpgp: {certificate: "file:{{.Dir}}/release-gpg.asc"}
    methods: [simple]
    allow:
      - {project: payments, policy: release, repositories: ["{{.Registry}}/payments/*"]}
    require: {protected_ref: true}
  - id: release-dct
    file: file:{{.Dir}}/release-dct.key
    methods: [dct]
    allow:
      - {project: payments, policy: trusted, repositories: ["{{.Registry}}/payments/*"]}
    require: {protected_ref: true}
  - id: shop                   # its owner wants a person's word, whatever the policy says
    file: file:{{.Dir}}/shop.key
    methods: [cosign]
    allow:
      - {project: shop, policy: release, repositories: ["{{.Registry}}/shop/*"]}
    require: {protected_ref: true, verify_run: true, approvals: 1}
`

const devPolicy = `# Who may have what signed.
apiVersion: sealwright.dev/v1
project: payments
repositories:
  - {forge: {{.Host}}, name: acme/payments-web, id: "74", owner_id: "65", images: ["{{.Registry}}/payments/*"]}
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
      - {method: simple, key: release-gpg, recursive: true} # podman asks for the platform's signature too
{{- if .NotaryURL}}
  trusted:                     # Docker Content Trust binds tags to digests
    tags: ["v*"]
    origin:
      refs: ["refs/heads/main", "refs/tags/v*"]
      ref_protected: true
      github:
        events: [push, release]
        workflow: .github/workflows/release.yml
    sign:
      - {method: dct, key: release-dct}
{{- end}}
`

const devAsking = `# As payments, and one of the team must say yes, who did not make the build.
apiVersion: sealwright.dev/v1
project: shop
repositories:
  - {forge: {{.Host}}, name: acme/shop, id: "81", owner_id: "65", images: ["{{.Registry}}/shop/*"]}
policies:
  release:
    tags: ["v*"]
    origin:
      refs: ["refs/heads/main"]
      ref_protected: true
      verify: {run: true}      # asked of the forge, not believed of the token
      github:
        events: [push]
        workflow: .github/workflows/release.yml
    approvals:
      all:
        - {required: 1, from: ["{{.Host}}:acme/release-managers"]}
      expires: 24h
    report: [check, status, comment, summary]
    sign:
      - {method: cosign, key: shop}
`

const devEnv = `WORLD_URL='{{.World}}'
WORLD_TOKEN='{{.Token}}'
SERVER='http://{{.Server}}'
REGISTRY='{{.Registry}}'
NOTARY='{{.NotaryURL}}'
{{- if .NotaryURL}}
NOTARY_CA='{{.NotaryCA}}'
NOTARY_ROOT='{{.NotaryRoot}}'
{{- end}}
`

// cmdDevControl returns the command that posts to one control endpoint of the
// running world.
func cmdDevControl(name, method, path, usage string) func(ctx context.Context, args []string, out, errs io.Writer) error {
	return func(ctx context.Context, args []string, out, errs io.Writer) error {
		f := flags("dev "+name, errs)
		dir := f.String("dir", "sealwright-dev", "`folder` of the running world")
		body := f.String("json", "", usage)
		id := f.String("id", "", "what `sealwrightd dev hold` printed, or the number of a pull request")
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
