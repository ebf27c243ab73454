package main

import (
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/devworld/notary"
)

const aGUN = "registry.acme.dev/payments/web"

// owning is a configuration with a notary server, and the keys of an owner.
func owning(t *testing.T) (f files, dctCommand func(verb string, args ...string) (int, string, string)) {
	t.Helper()
	f = configured(t, startWorld(t))
	srv := httptest.NewServer(&notary.Server{})
	t.Cleanup(srv.Close)
	raw, err := os.ReadFile(f.path("sealwright.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	f.write("sealwright.yaml", string(raw)+fmt.Sprintf("\nnotaries:\n  - {url: %q, repositories: [registry.acme.dev], trust_on_first_use: true}\n", srv.URL))
	for _, name := range []string{"root.key", "targets.key", "other.key"} {
		if code, out, errs := execute(t, "keys", "new", "--out", f.path(name)); code != exitOK {
			t.Fatalf("%s%s", out, errs)
		}
	}
	return f, func(verb string, args ...string) (int, string, string) {
		return execute(t, append([]string{"dct", verb, "--config", f.path("sealwright.yaml")}, args...)...)
	}
}

func TestARepositoryIsInitialisedAndDelegatedWithoutKeepingAnOwnersKey(t *testing.T) {
	f, dct := owning(t)
	root, targets := "file:"+f.path("root.key"), "file:"+f.path("targets.key")
	code, out, errs := dct("init", "--root-key", root, "--targets-key", targets, aGUN)
	if code != exitOK || !strings.Contains(out, "root_keys: [") {
		t.Fatalf("exit code %d\n%s%s", code, out, errs)
	}
	if code, _, errs = dct("init", "--root-key", root, "--targets-key", targets, aGUN); code != exitError || !strings.Contains(errs, "already") {
		t.Errorf("a second time: exit code %d\n%s", code, errs)
	}
	// Without the targets key, what its owner needs.
	code, out, errs = dct("delegate", "--key", "release", "--roles", "releases,ci", aGUN)
	if code != exitOK || !strings.Contains(out, "-----BEGIN ") || !strings.Contains(out, "delegation add -p "+aGUN+" targets/ci release.pem") {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
	if code, out, errs = dct("delegate", "--key", "release", "--roles", "releases,ci", "--targets-key", targets, aGUN); code != exitOK || strings.Count(out, "may sign") != 2 {
		t.Fatalf("exit code %d\n%s%s", code, out, errs)
	}
	code, out, errs = dct("status", aGUN)
	if code != exitOK || strings.Count(out, "key release of this service") != 2 || !strings.Contains(out, "targets/ci") || !strings.Contains(out, "root ") || !strings.Contains(out, "renewal: ") {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
}

func TestWhatAnOwnerGetsWrongIsRefused(t *testing.T) {
	f, dct := owning(t)
	root, targets, other := "file:"+f.path("root.key"), "file:"+f.path("targets.key"), "file:"+f.path("other.key")
	for what, c := range map[string]struct {
		args []string
		code int
	}{
		"no root key":        {[]string{"init", "--targets-key", targets, aGUN}, exitUsage},
		"no targets key":     {[]string{"init", "--root-key", root, aGUN}, exitUsage},
		"one key for both":   {[]string{"init", "--root-key", root, "--targets-key", root, aGUN}, exitUsage},
		"no such file":       {[]string{"init", "--root-key", root + "x", "--targets-key", targets, aGUN}, exitError},
		"no module":          {[]string{"init", "--root-key", "pkcs11:module=/nowhere.so;token=lab;pin=" + root + ";id=01", "--targets-key", targets, aGUN}, exitError},
		"half a module":      {[]string{"init", "--root-key", "pkcs11:slot=1", "--targets-key", targets, aGUN}, exitUsage},
		"no repository":      {[]string{"init", "--root-key", root, "--targets-key", targets}, exitUsage},
		"another registry":   {[]string{"init", "--root-key", root, "--targets-key", targets, "registry.elsewhere.dev/x/y"}, exitError},
		"nothing there yet":  {[]string{"status", aGUN}, exitError},
		"an unknown key":     {[]string{"delegate", "--key", "nobody", aGUN}, exitUsage},
		"a role that isn't":  {[]string{"delegate", "--key", "release", "--roles", "../x", aGUN}, exitUsage},
		"not initialised":    {[]string{"delegate", "--key", "release", "--targets-key", targets, aGUN}, exitError},
		"no word what to do": {[]string{"rotate", aGUN}, exitUsage},
	} {
		if code, out, errs := dct(c.args[0], c.args[1:]...); code != c.code {
			t.Errorf("%s: exit code %d, not %d\n%s%s", what, code, c.code, out, errs)
		}
	}
	if code, _, errs := dct("init", "--root-key", root, "--targets-key", targets, aGUN); code != exitOK {
		t.Fatal(errs)
	}
	if code, _, errs := dct("delegate", "--key", "release", "--targets-key", other, aGUN); code != exitError || !strings.Contains(errs, "not the targets key") {
		t.Errorf("another targets key: exit code %d\n%s", code, errs)
	}
}
