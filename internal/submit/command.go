package submit

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/ci"
	"github.com/sealwright/sealwright/internal/signing"
)

// Process is the process that the command runs in.
type Process struct {
	Args    []string // without the program's name
	Env     func(string) string
	Stdout  io.Writer
	Stderr  io.Writer
	TTY     bool // Stdout is a terminal
	Version string
	// Name is what the command is called; "" is sealwright-ci.
	Name string
	// Transport, where set, replaces the one that is made of `ca-file`; Now and
	// Sleep replace the clock.
	Transport http.RoundTripper
	Now       func() time.Time
	Sleep     func(context.Context, time.Duration) error
}

const usage = `sealwright-ci asks Sealwright for signatures on the images that this job pushed.

Usage:
  sealwright-ci --server URL --policy NAME IMAGE...

  IMAGE is REPOSITORY@sha256:... as the push reported it, or REPOSITORY:TAG,
  which is resolved once, here, and shown.

  export SEALWRIGHT_SERVER=https://sign.acme.dev
  sealwright-ci --policy release registry.acme.dev/payments/web@sha256:...

The job holds no key: on GitHub it needs "permissions: id-token: write", on
GitLab an "id_tokens:" entry named SEALWRIGHT_ID_TOKEN, elsewhere an OIDC token
in that variable or in --id-token-file.

Every flag can be given as an input of the action, INPUT_NAME, or as a variable,
SEALWRIGHT_NAME in upper case with underscores. A flag goes before both.

Flags:
`

const usageEnd = `
Outputs for later steps: request-id, state, delivered; digests, tags, signatures (JSON).
Exit codes: 0 signed, 1 error, 2 usage, 3 denied, 4 timed out, 5 verification failed.
`

const (
	// maxCA bounds a CA bundle; that of a whole system has some 300 KB.
	maxCA          = 1 << 20
	connectTimeout = 10 * time.Second
	idleTimeout    = 90 * time.Second
)

// settings are the inputs of the command as text.
type settings map[string]*string

// flags describes every input: name, what its value is called, what it does.
func flags() [][3]string {
	return [][3]string{
		{"server", "URL", "address of the Sealwright service"},
		{"policy", "NAME", "signing policy to ask for, as in release"},
		{"images", "LIST", "images, separated by space, comma or line break; as arguments, too"},
		{"digests-file", "FILE", "buildx or bake metadata, an export, or REPOSITORY@sha256:... lines"},
		{"metadata", "JSON", "the same as text: output metadata of docker/build-push-action or bake-action"},
		{"tags-after", "LIST", "tags to be moved to the images once their signatures are there"},
		{"sign-tag", "LIST", "tags to sign along with each image, or REPOSITORY:TAG[@DIGEST]; none is implied"},
		{"untrust", "LIST", "tags, REPOSITORY:TAG, whose trust is withdrawn (Docker Content Trust)"},
		{"audience", "AUD", "audience of the token (default: the server's address)"},
		{"publish", "WHO", "who writes the signatures: service (default), or client, this step"},
		{"wait", "BOOL", "wait for the signatures (default: true; --wait=false does not)"},
		{"timeout", "TIME", "how long to wait (default: 30m)"},
		{"deadline", "TIME", "how long the request may stay open at the service"},
		{"idempotency-key", "KEY", "replaces the key made of run, job and content"},
		{"ca-file", "FILE", "PEM file with further CAs that server and registries may use"},
		{"id-token-file", "FILE", "file with the OIDC token (not on GitHub)"},
		{"id-token-variable", "NAME", "variable with the OIDC token (default: SEALWRIGHT_ID_TOKEN; not on GitHub)"},
		{"registry", "HOST", "registry that the following credentials are for, to resolve tags"},
		{"registry-username", "NAME", "user at that registry; the password is read from SEALWRIGHT_REGISTRY_PASSWORD"},
		{"registry-token-realm", "LIST", "token services that the registry sends its clients to, besides itself"},
		{"result-file", "FILE", "write the whole result as JSON"},
		{"output-file", "FILE", "outputs as NAME=value lines (default on GitLab: sealwright.env)"},
		{"summary-file", "FILE", "summary as Markdown (default on GitLab: sealwright-summary.md)"},
	}
}

// Main is the command: it reads flags and inputs, runs the step, and returns
// the exit code.
func Main(ctx context.Context, p Process) int {
	if p.Name == "" {
		p.Name = "sealwright-ci"
	}
	set := flag.NewFlagSet(p.Name, flag.ContinueOnError)
	set.SetOutput(io.Discard) // errors are printed below, once
	values := settings{}
	for _, f := range flags() {
		if f[1] == "BOOL" {
			v := new(string)
			values[f[0]] = v
			set.BoolFunc(f[0], f[2], func(s string) error { *v = s; return nil })
			continue
		}
		values[f[0]] = set.String(f[0], "", f[2])
	}
	version := set.Bool("version", false, "print the version")
	images, err := parse(set, p.Args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(p.Stdout, strings.ReplaceAll(help(), "sealwright-ci", p.Name))
		return ExitOK
	case err != nil:
		fmt.Fprintf(p.Stderr, "%[1]s: %[2]s\n%[1]s --help lists the flags.\n", p.Name, ci.Clean(err.Error()))
		return ExitUsage
	case *version:
		fmt.Fprintf(p.Stdout, "%s %s\n", p.Name, p.Version)
		return ExitOK
	}
	values.fill(set, ci.Detect(ci.Options{Env: p.Env}))
	var caErr error
	if p.Transport == nil {
		p.Transport, caErr = transport(values.get("ca-file"))
	}
	env := ci.Detect(ci.Options{
		Env: p.Env, Out: p.Stdout, Transport: p.Transport, Sleep: p.Sleep,
		TokenFile: values.get("id-token-file"), TokenVariable: values.get("id-token-variable"),
		OutputFile: values.get("output-file"), SummaryFile: values.get("summary-file"),
	})
	o, err := values.options(p, env, images)
	if err = errors.Join(caErr, err); err != nil {
		refused := &step{Options: Options{CI: env, TTY: p.TTY}}
		return refused.report(usageError{err})
	}
	return Run(ctx, o)
}

// parse takes flags before, between and after the images.
func parse(set *flag.FlagSet, args []string) (images []string, err error) {
	for {
		if err := set.Parse(args); err != nil || set.NArg() == 0 {
			return images, err
		}
		images, args = append(images, set.Arg(0)), set.Args()[1:]
	}
}

func help() string {
	var b strings.Builder
	b.WriteString(usage)
	for _, f := range append(flags(), [3]string{"version", "", "print the version"}) {
		fmt.Fprintf(&b, "  %-28s %s\n", flagName(f), f[2])
	}
	return b.String() + usageEnd
}

func flagName(f [3]string) string {
	switch f[1] {
	case "":
		return "--" + f[0]
	case "BOOL":
		return "--" + f[0] + "=" + f[1]
	default:
		return "--" + f[0] + " " + f[1]
	}
}

// fill takes inputs for flags that were not given.
func (v settings) fill(set *flag.FlagSet, env *ci.Environment) {
	given := map[string]bool{}
	set.Visit(func(f *flag.Flag) { given[f.Name] = true })
	for name, value := range v {
		if !given[name] {
			*value = env.Input(name)
		}
	}
}

func (v settings) get(name string) string { return strings.TrimSpace(*v[name]) }

func (v settings) options(p Process, env *ci.Environment, args []string) (Options, error) {
	o := Options{
		CI: env, Server: v.get("server"), Audience: v.get("audience"), Policy: v.get("policy"),
		Images: append(Split(v.get("images")), args...), SignTags: Split(v.get("sign-tag")), Untrust: Split(v.get("untrust")), TagsAfter: Split(v.get("tags-after")),
		IdempotencyKey: v.get("idempotency-key"), ResultFile: v.get("result-file"),
		TTY: p.TTY, Agent: "sealwright-ci/" + p.Version, Transport: p.Transport,
		Now: p.Now, Sleep: p.Sleep,
	}
	for _, required := range []struct{ name, example string }{{"server", "https://sign.acme.dev"}, {"policy", "release"}} {
		if v.get(required.name) == "" {
			return o, &signing.Error{Code: signing.Invalid, Message: "the input `" + required.name + "` is missing", Expected: "as in " + required.example, Fix: fmt.Sprintf("set it in the step's `with:`, as --%s, or in SEALWRIGHT_%s", required.name, strings.ToUpper(required.name))}
		}
	}
	var err error
	if o.Pushed, err = v.pushed(); err != nil {
		return o, err
	}
	switch who := v.get("publish"); who {
	case "", api.PublishService:
	case api.PublishClient:
		o.Publish = signing.ByClient
	default:
		return o, &signing.Error{Code: signing.Invalid, Message: "the input `publish` names nobody who could publish", Expected: "service or client", Found: fmt.Sprintf("%.40q", who)}
	}
	if o.NoWait, err = v.no("wait"); err != nil {
		return o, err
	}
	if o.Timeout, err = v.duration("timeout"); err != nil {
		return o, err
	}
	if o.Deadline, err = v.duration("deadline"); err != nil {
		return o, err
	}
	password := env.Input("registry-password")
	env.Mask(password)
	if (password != "") != (v.get("registry-username") != "") || password != "" && v.get("registry") == "" {
		return o, &signing.Error{Code: signing.Invalid, Message: "registry credentials are incomplete", Expected: "`registry`, `registry-username` and `registry-password` together", Found: "only some of them", Fix: "name the registry that they are for: they are sent to no other"}
	}
	o.Registries = NewRegistries(RegistryOptions{
		Env: p.Env, Host: v.get("registry"), Username: v.get("registry-username"), Password: password,
		TokenRealms: Split(v.get("registry-token-realm")), Transport: o.Transport,
	})
	return o, nil
}

// pushed returns what the build tool wrote, from the file or the text.
func (v settings) pushed() ([]byte, error) {
	file, text := v.get("digests-file"), v.get("metadata")
	switch {
	case file != "" && text != "":
		return nil, &signing.Error{Code: signing.Invalid, Message: "`digests-file` and `metadata` are both given", Expected: "one of them", Found: "both", Fix: "leave one of them away"}
	case file != "":
		raw, err := readDigestsFile(file)
		if err == nil && len(strings.TrimSpace(string(raw))) == 0 {
			err = &signing.Error{Code: signing.Invalid, Message: "`digests-file` is empty", Expected: "what the build step pushed", Found: "nothing", Fix: "check that the build step before it pushed, and wrote this file"}
		}
		return raw, err
	default:
		return []byte(text), nil
	}
}

// no reports whether a setting that is true by default is switched off.
func (v settings) no(name string) (bool, error) {
	s := v.get(name)
	if s == "" {
		return false, nil
	}
	on, err := strconv.ParseBool(s)
	if err != nil {
		return false, &signing.Error{Code: signing.Invalid, Message: "the input `" + name + "` is not a boolean", Expected: "true or false", Found: fmt.Sprintf("%.40q", s)}
	}
	return !on, nil
}

func (v settings) duration(name string) (time.Duration, error) {
	s := v.get(name)
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, &signing.Error{Code: signing.Invalid, Message: "the input `" + name + "` is not a length of time", Expected: "as in 90s, 10m or 2h", Found: fmt.Sprintf("%.40q", s)}
	}
	return d, nil
}

// transport trusts the system's CAs and those of the file, if one is named.
func transport(caFile string) (http.RoundTripper, error) {
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, DisableCompression: true,
		TLSHandshakeTimeout: connectTimeout, IdleConnTimeout: idleTimeout,
		DialContext: (&net.Dialer{Timeout: connectTimeout}).DialContext,
	}
	if caFile == "" {
		return t, nil
	}
	bad := func(found string) error {
		return &signing.Error{Code: signing.Invalid, Message: "`ca-file` cannot be used", Expected: "a PEM file with CA certificates", Found: found, Fix: "check the path as seen from this step"}
	}
	f, err := os.Open(caFile)
	if err != nil {
		return nil, bad("no readable file")
	}
	defer func() { _ = f.Close() }() // read only
	raw, err := io.ReadAll(io.LimitReader(f, maxCA))
	if err != nil {
		return nil, bad("no readable file")
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(raw) {
		return nil, bad("no certificate in it")
	}
	t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return t, nil
}

// InJob reports whether the command runs where a job's token is: in a CI that is
// known, or with a token in the variable or file that is named for it. Elsewhere
// `sealwright sign` is for a person.
func InJob(args []string, env func(string) string) bool {
	for _, a := range args {
		name, _, _ := strings.Cut(strings.TrimLeft(a, "-"), "=")
		if strings.HasPrefix(a, "-") && (name == "id-token-file" || name == "id-token-variable" || name == "version") {
			return true
		}
	}
	e := ci.Detect(ci.Options{Env: env, Out: io.Discard})
	return e.Name != ci.None || env("SEALWRIGHT_ID_TOKEN") != "" || e.Input("id-token-file") != "" || e.Input("id-token-variable") != ""
}
