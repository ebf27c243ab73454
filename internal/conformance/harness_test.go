//go:build conformance

// Package conformance holds signatures against the verifiers of the world: the
// cosign CLIs and containers/image, each run as its users run it, on a registry
// without the referrers API and on one with it.
//
// It consists of tests behind the build tag conformance; `make conformance`
// installs the programs and runs them.
package conformance

import (
	"bufio"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/devworld"
)

// commandTimeout ends a program that hangs; each takes less than a second.
const commandTimeout = 2 * time.Minute

// tool returns the path of a program that .ci/conformance installed.
func tool(t *testing.T, name string) string {
	t.Helper()
	variable := "SEALWRIGHT_" + strings.ToUpper(name)
	path := os.Getenv(variable)
	if path == "" {
		t.Fatalf("%s is not set: run `make conformance`, which installs %s", variable, name)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return path
}

// run runs a program with a HOME of its own and nothing else of our environment,
// and returns its exit status and what it printed. A program that does not run to
// its own end is a fault of the harness, not a verdict.
func run(t *testing.T, dir, program string, args ...string) (int, string) {
	t.Helper()
	return runWith(t, nil, dir, program, args...)
}

// runWith is run with these variables besides.
func runWith(t *testing.T, env map[string]string, dir, program string, args ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	// The proxy that is not there keeps programs from asking the internet for a
	// trusted root; Go never uses a proxy for loopback.
	cmd.Env = []string{"HOME=" + t.TempDir(), "TMPDIR=" + t.TempDir(), "COSIGN_PASSWORD=", "HTTPS_PROXY=http://127.0.0.1:1", "HTTP_PROXY=http://127.0.0.1:1"}
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, string(out)
	case errors.As(err, &exit) && exit.Exited():
		return exit.ExitCode(), string(out)
	default:
		t.Fatalf("%s %s: %v\n%s", filepath.Base(program), strings.Join(args, " "), err, out)
		return 0, ""
	}
}

// mustRun is run for what has to succeed.
func mustRun(t *testing.T, dir, program string, args ...string) {
	t.Helper()
	if status, out := run(t, dir, program, args...); status != 0 {
		t.Fatalf("%s %s: exit status %d\n%s", filepath.Base(program), strings.Join(args, " "), status, out)
	}
}

// registries returns the hosts of the two kinds of registry, by name.
func registries(t *testing.T) map[string]string {
	t.Helper()
	return map[string]string{"distribution": distribution(t), "with-referrers": referring(t)}
}

// referring starts a registry with the referrers API and returns its host.
func referring(t *testing.T) string {
	t.Helper()
	w, err := devworld.Start(devworld.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w.Registry.Host
}

// distribution starts a distribution registry and returns its host. It has no
// referrers API.
func distribution(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	text := "version: 0.1\nlog: {level: info, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: " + filepath.Join(dir, "data") + "}}\nhttp: {addr: '127.0.0.1:0'}\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, tool(t, "registry"), "serve", config)
	cmd.Env = []string{"HOME=" + dir, "OTEL_TRACES_EXPORTER=none"}
	pipe, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // killed by cancel
	})
	var seen strings.Builder
	lines := bufio.NewScanner(pipe)
	for lines.Scan() {
		fmt.Fprintln(&seen, lines.Text())
		if _, after, ok := strings.Cut(lines.Text(), `msg="listening on `); ok {
			host, _, _ := strings.Cut(after, `"`)
			go func() { _, _ = io.Copy(io.Discard, pipe) }() // so that it never blocks on its log
			return host
		}
	}
	t.Fatalf("the registry ended without listening:\n%s", seen.String())
	return ""
}

// keyPair makes a key and returns it, and the paths of its two halves as cosign
// reads them.
func keyPair(t *testing.T) (key crypto.Signer, private, public string) {
	t.Helper()
	dir := t.TempDir()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	writeKey(t, filepath.Join(dir, "plain.pem"), func() (crypto.Signer, error) { return k, nil })
	mustRun(t, dir, tool(t, "cosign2"), "import-key-pair", "--key", "plain.pem", "--output-key-prefix", "cosign")
	return k, filepath.Join(dir, "cosign.key"), filepath.Join(dir, "cosign.pub")
}

// verifier is one way in which the world verifies. Its verdict is its exit status.
type verifier struct {
	name   string
	what   string // for the table in docs/conformance.md
	verify func(t *testing.T, ref, public string) (accepted bool, said string)
}

// cosignVerify is `cosign verify --key` with further flags.
func cosignVerify(program string, flags ...string) func(*testing.T, string, string) (bool, string) {
	return func(t *testing.T, ref, public string) (bool, string) {
		args := append([]string{"verify", "--key", public, "--insecure-ignore-tlog=true"}, flags...)
		status, out := run(t, t.TempDir(), tool(t, program), append(args, ref)...)
		return status == 0, out
	}
}

// withEmptyRoot is cosign 2 with a trusted root that trusts nobody.
func withEmptyRoot(flags ...string) func(*testing.T, string, string) (bool, string) {
	return func(t *testing.T, ref, public string) (bool, string) {
		file := filepath.Join(t.TempDir(), "root.json")
		mustRun(t, t.TempDir(), tool(t, "cosign3"), "trusted-root", "create", "--out", file)
		return cosignVerify("cosign2", append(flags, "--trusted-root", file)...)(t, ref, public)
	}
}

// imageVerify asks containers/image. Status 2 says that it could not be asked.
func imageVerify(identity string) func(*testing.T, string, string) (bool, string) {
	return func(t *testing.T, ref, public string) (bool, string) {
		status, out := run(t, t.TempDir(), tool(t, "imageverify"), "-key", public, "-identity", identity, ref)
		if status > 1 {
			t.Fatalf("imageverify %s: exit status %d\n%s", ref, status, out)
		}
		return status == 0, out
	}
}

// signer makes the signatures that are held against the verifiers.
type signer struct {
	name string
	// open readies the signer for images of the registry at host.
	open func(t *testing.T, host string) hand
}

// hand signs with one key.
type hand struct {
	// sign signs REPOSITORY[:TAG]@DIGEST; a tag is signed along.
	sign   func(ref string) error
	public string        // the file with the public key
	key    crypto.Signer // for what no signer would sign
}

// cosignSigner signs with a cosign CLI. It proves the harness: what it says of
// our signatures counts only if it says the right things of cosign's own.
func cosignSigner(name string, flags ...string) signer {
	return signer{name: name, open: func(t *testing.T, _ string) hand {
		key, private, public := keyPair(t)
		sign := func(ref string) error {
			args := append([]string{"sign", "--key", private, "--tlog-upload=false", "--yes"}, flags...)
			repository, digest, _ := strings.Cut(ref, "@")
			if i := strings.LastIndexByte(repository, ':'); i > strings.LastIndexByte(repository, '/') {
				args = append(args, "--sign-container-identity", repository)
				repository = repository[:i]
			}
			status, out := run(t, t.TempDir(), tool(t, name), append(args, repository+"@"+digest)...)
			if status != 0 {
				return fmt.Errorf("%s sign: exit status %d: %s", name, status, out)
			}
			return nil
		}
		return hand{sign, public, key}
	}}
}
