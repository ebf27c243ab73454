// Package ci knows the CI system that this process runs in: where its token
// comes from, where inputs are read, and where outputs, summaries and
// annotations go. It guarantees that a value written to a CI's file defines
// exactly one output, that no text printed through it is taken for a command by
// the CI, and that a secret given to Mask appears in nothing that it writes.
//
// It does not verify tokens; that is the service's work.
package ci

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// Names of the environments.
const (
	GitHub      = "github" // and Forgejo, which speaks its protocol
	GitLab      = "gitlab"
	CircleCI    = "circleci"
	Bitbucket   = "bitbucket"
	Buildkite   = "buildkite"
	AzureDevOps = "azure-devops"
	Codefresh   = "codefresh"
	None        = "none"
)

const (
	// maxToken bounds a token: real ones are 1 to 3 KB, services refuse 16.
	maxToken = 16 << 10
	// defaultTokenVariable is where a GitLab job, and a plain one, finds its token.
	defaultTokenVariable = "SEALWRIGHT_ID_TOKEN"
)

// Output is one named value that later steps or jobs can read.
type Output struct{ Name, Value string }

// Level is the weight of an annotation.
type Level string

// The levels, in the words of GitHub's workflow commands.
const (
	LevelError   Level = "error"
	LevelWarning Level = "warning"
	LevelNotice  Level = "notice"
)

// system is what differs between CI systems.
type system interface {
	// token returns a token for the audience.
	token(ctx context.Context, audience string) (string, error)
	// run names the run, attempt and job, for the idempotency key.
	run() []string
	// command returns the line that tells the CI something, "" if it has none.
	command(name, properties, data string) string
	// outputs writes values and returns the names of those that had no room.
	outputs(kv []Output) (omitted []string, err error)
	// summary writes the job's summary.
	summary(markdown string) error
}

// Options says where an Environment reads and writes. Env is required; the
// zero values of the others are the real ones.
type Options struct {
	Env       func(string) string
	Out       io.Writer // where the log goes, os.Stdout
	Transport http.RoundTripper
	Random    io.Reader
	Sleep     func(ctx context.Context, d time.Duration) error
	// TokenFile, where set, is read for the token on every CI but GitHub.
	TokenFile string
	// TokenVariable names the variable that holds the token on every CI but
	// GitHub; "" is SEALWRIGHT_ID_TOKEN.
	TokenVariable string
	// SummaryFile and OutputFile replace the CI's own places, except GitHub's.
	SummaryFile, OutputFile string
}

// Environment is the CI system of this process. It is safe for concurrent use.
type Environment struct {
	Name string
	// Renews says that every call of Token makes a new token; elsewhere the job
	// has one.
	Renews bool

	env    func(string) string
	system system

	mu      sync.Mutex // guards out and secrets
	out     io.Writer
	secrets []string
}

// Detect returns the Environment of this process.
func Detect(o Options) *Environment {
	if o.Out == nil {
		o.Out = os.Stdout
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Transport == nil {
		o.Transport = http.DefaultTransport
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	if o.TokenVariable == "" {
		o.TokenVariable = defaultTokenVariable
	}
	e := &Environment{env: o.Env, out: o.Out}
	switch {
	case o.Env("GITHUB_ACTIONS") == "true":
		e.Name, e.Renews, e.system = GitHub, true, &github{Options: o}
	case o.Env("GITLAB_CI") == "true":
		e.Name, e.system = GitLab, &gitlab{Options: o}
	default:
		e.Name, e.system = None, &none{Options: o}
		if p, ok := elsewhere(o); ok {
			e.Name, e.Renews, e.system = p.name, p.renews(), p
		}
	}
	return e
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Input returns an input: on GitHub the variable INPUT_NAME in upper case with
// its hyphens kept, else and everywhere SEALWRIGHT_NAME with underscores. An
// empty variable is an absent one: GitHub sets them all.
func (e *Environment) Input(name string) string {
	upper := strings.ToUpper(name)
	if e.Name == GitHub {
		if v := strings.TrimSpace(e.env("INPUT_" + strings.ReplaceAll(upper, " ", "_"))); v != "" {
			return v
		}
	}
	return strings.TrimSpace(e.env("SEALWRIGHT_" + strings.NewReplacer("-", "_", " ", "_").Replace(upper)))
}

// reToken is a compact JWS: no other byte can reach a header or a command.
var reToken = regexp.MustCompile(`^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$`)

// Token returns a token for the audience, masked before it is returned: a new
// one every time if the CI gives new ones (Renews), else the job's.
func (e *Environment) Token(ctx context.Context, audience string) (string, error) {
	token, err := e.system.token(ctx, audience)
	if err != nil {
		return "", err
	}
	token = strings.TrimSpace(token)
	if len(token) > maxToken || !reToken.MatchString(token) {
		// The value is not quoted: it may be a secret of another kind.
		return "", &signing.Error{Code: signing.Unauthenticated, Message: "what the CI gave as a token is not one", Expected: fmt.Sprintf("a JWT of at most %d bytes", maxToken), Found: fmt.Sprintf("%d bytes of another form", len(token)), Fix: "give the ID token of the job, unchanged"}
	}
	e.Mask(token)
	return token, nil
}

// Mask keeps the secret out of everything that is written from here on, and
// asks the CI to do the same with what other programs print.
func (e *Environment) Mask(secret string) {
	secret = strings.TrimSpace(secret)
	if len(secret) < 8 {
		return // a short value would blot out innocent text
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.secrets {
		if s == secret {
			return
		}
	}
	// From here on the secret is replaced in every text; the command itself is
	// the one place where it stands.
	if line := e.system.command("add-mask", "", secret); line != "" {
		fmt.Fprintln(e.out, line)
	}
	e.secrets = append(e.secrets, secret)
}

// Redact returns s without the secrets given to Mask.
func (e *Environment) Redact(s string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.redact(s)
}

// redact is Redact for those who hold mu.
func (e *Environment) redact(s string) string {
	for _, secret := range e.secrets {
		s = strings.ReplaceAll(s, secret, "***")
	}
	return s
}

// Print writes whole lines to the log so that none is a command to the CI; a
// missing line break at the end is added, because two halves could make one.
// Colour codes of the caller's pass; texts of strangers go through Clean.
func (e *Environment) Print(text string) {
	if !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	var b strings.Builder
	for line := range strings.Lines(e.redact(text)) {
		b.WriteString(guardLine(line))
	}
	// An error here is a closed log: there is nowhere to say so.
	_, _ = io.WriteString(e.out, b.String())
}

// Redraw replaces the line that the cursor of a terminal is on.
func (e *Environment) Redraw(line string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, _ = io.WriteString(e.out, "\r\x1b[K"+guardLine(e.redact(Clean(line))))
}

// Annotate puts a message where the CI shows problems. Where it has no such
// place nothing is written, because the log says the same.
func (e *Environment) Annotate(level Level, title, message string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if line := e.system.command(string(level), "title="+escapeProperty(e.redact(Clean(title))), breakMarkers(e.redact(cleanLines(message)))); line != "" {
		fmt.Fprintln(e.out, line)
	}
}

// reOutput is the grammar of output names: GitHub's, without its underscores,
// so that it maps one to one to GitLab's upper-case variables.
var reOutput = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// Outputs writes values for later steps and returns the names of those that the
// CI has no room for. No value can define a second output.
func (e *Environment) Outputs(kv []Output) (omitted []string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	clean := make([]Output, len(kv))
	for i, o := range kv {
		if !reOutput.MatchString(o.Name) {
			return nil, fmt.Errorf("output name %q is not lower case with hyphens", o.Name)
		}
		clean[i] = Output{o.Name, e.redact(strings.ToValidUTF8(o.Value, "?"))}
	}
	return e.system.outputs(clean)
}

// Summary writes Markdown to the job's summary page or file, cut to what the
// CI takes.
func (e *Environment) Summary(markdown string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.system.summary(e.redact(markdown))
}

// IdempotencyKey returns a key that is the same whenever this step of this run
// asks for the same, and different for everything else.
func (e *Environment) IdempotencyKey(body signing.Digest) string {
	parts := append([]string{e.Name}, e.system.run()...)
	sum := signing.DigestOf([]byte(fmt.Sprintf("%q %s", parts, body)))
	return "ci-" + sum.Hex()[:40]
}

func appendFile(path, text string) (err error) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	_, err = f.WriteString(text)
	return err
}

func randomHex(r io.Reader) (string, error) {
	var raw [16]byte
	if _, err := io.ReadFull(r, raw[:]); err != nil {
		return "", fmt.Errorf("reading randomness: %w", err)
	}
	return hex.EncodeToString(raw[:]), nil
}
