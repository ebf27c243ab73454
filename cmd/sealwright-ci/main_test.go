package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// maxBinary is what the step may weigh, stripped: every job downloads it.
const maxBinary = 8_500_000

// allowed are the modules outside the standard library that the step may link.
// yaml comes with package config, whose decoder the linker drops.
var allowed = []string{
	"github.com/sealwright/sealwright/", "github.com/google/go-containerregistry/", "go.yaml.in/yaml/v3",
}

func TestTheStepIsSmallStartsAndAnswers(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "sealwright-ci")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	info, err := os.Stat(bin)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", info.Size())
	if info.Size() > maxBinary {
		t.Errorf("%d bytes, more than %d", info.Size(), maxBinary)
	}
	run := func(args ...string) (string, int) {
		c := exec.CommandContext(t.Context(), bin, args...)
		c.Env = []string{"HOME=" + t.TempDir()}
		out, err := c.CombinedOutput()
		if err != nil && c.ProcessState == nil {
			t.Fatal(err)
		}
		return string(out), c.ProcessState.ExitCode()
	}
	if out, code := run("--version"); code != 0 || !strings.HasPrefix(out, "sealwright-ci ") {
		t.Errorf("%d %q", code, out)
	}
	if out, code := run("--help"); code != 0 || !strings.Contains(out, "--policy NAME") {
		t.Errorf("%d %q", code, out)
	}
	if out, code := run("--server", "https://sign.acme.dev", "--policy", "release"); code != 2 || !strings.Contains(out, "no images") {
		t.Errorf("%d %q", code, out)
	}
}

func TestTheStepLinksNoSigningLibrary(t *testing.T) {
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
next:
	for pkg := range strings.Lines(string(out)) {
		pkg = strings.TrimSpace(pkg)
		for _, a := range allowed {
			if pkg == "" || strings.HasPrefix(pkg, a) {
				continue next
			}
		}
		t.Errorf("it links %s", pkg)
	}
}
