package main

import (
	"bytes"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/devworld/notary"
	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/submit"
)

const exportedGUN = signing.Repository("registry.acme.dev/payments/web")

// trusted is a notary server with a repository of two tags.
func trusted(t *testing.T) (*notary.Server, *notary.Owner, string) {
	t.Helper()
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	t.Setenv("DOCKER_CONTENT_TRUST_SERVER", "")
	n := &notary.Server{}
	srv := httptest.NewServer(n)
	t.Cleanup(srv.Close)
	owner, err := notary.NewOwner(exportedGUN)
	if err != nil {
		t.Fatal(err)
	}
	c, err := dct.Open([]dct.Config{{URL: srv.URL, Repositories: []string{"registry.acme.dev"}, TrustOnFirstUse: true}}, dct.Options{Memory: dct.NewMemory()})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []func() error{
		func() error { return owner.Init(t.Context(), c) },
		func() error {
			return owner.Tag(t.Context(), c, signing.Change{Tag: "v1", Digest: signing.DigestOf([]byte("1")), Size: 1}, signing.Change{Tag: "v2", Digest: signing.DigestOf([]byte("2")), Size: 2})
		},
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	return n, owner, srv.URL
}

func exporting(args ...string) (code int, out, errs string) {
	var o, e bytes.Buffer
	code = run(append([]string{"dct", "export"}, args...), streams{strings.NewReader(""), &o, &e})
	return code, o.String(), e.String()
}

func TestAnExportSaysWhatIsSignedFromAPinnedRoot(t *testing.T) {
	_, owner, url := trusted(t)
	code, out, errs := exporting("--notary", url, "--root-key-id", owner.Root.Key.ID, string(exportedGUN))
	if code != exitOK || errs != "" {
		t.Fatalf("exit code %d\n%s", code, errs)
	}
	list, err := submit.ReadList([]byte(out), true)
	if err != nil || len(list.Artifacts) != 2 || list.Artifacts[0].Tag != "v1" || list.Artifacts[0].Digest != string(signing.DigestOf([]byte("1"))) {
		t.Errorf("%+v %v", list, err)
	}
	file := filepath.Join(t.TempDir(), "export.json")
	if code, out, errs := exporting("--notary", url, "--root-key-id", owner.Root.Key.ID, "--output", file, string(exportedGUN)); code != exitOK || out != "" {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
	if raw, err := os.ReadFile(file); err != nil || !bytes.Contains(raw, []byte(owner.Root.Key.ID)) {
		t.Errorf("%s %v", raw, err)
	}
	code, _, errs = exporting("--notary", url, "--trust-on-first-use", string(exportedGUN))
	if code != exitOK || !strings.Contains(errs, owner.Root.Key.ID) {
		t.Errorf("on first use: exit code %d\n%s", code, errs)
	}
}

func TestNothingIsExportedThatDoesNotVerify(t *testing.T) {
	n, owner, url := trusted(t)
	pin := []string{"--notary", url, "--root-key-id", owner.Root.Key.ID}
	for what, c := range map[string]struct {
		args []string
		code int
	}{
		"another root":                {[]string{"--notary", url, "--root-key-id", strings.Repeat("0", 64), string(exportedGUN)}, exitVerified},
		"nothing to trust":            {[]string{"--notary", url, string(exportedGUN)}, exitUsage},
		"two ways":                    {append(pin, "--trust-on-first-use", string(exportedGUN)), exitUsage},
		"no repository":               {pin, exitUsage},
		"no registry in its name":     {append(pin, "web"), exitUsage},
		"half a key":                  {[]string{"--notary", url, "--root-key-id", "00", string(exportedGUN)}, exitUsage},
		"http elsewhere":              {[]string{"--notary", "http://notary.acme.dev", "--root-key-id", owner.Root.Key.ID, string(exportedGUN)}, exitUsage},
		"no trust data":               {append(pin, "registry.acme.dev/payments/db"), exitError},
		"one of two without any data": {append(pin, string(exportedGUN), "registry.acme.dev/payments/db"), exitError},
	} {
		if code, out, errs := exporting(c.args...); code != c.code || out != "" || errs == "" {
			t.Errorf("%s: exit code %d, not %d\n%s%s", what, code, c.code, out, errs)
		}
	}
	raw, _ := n.Document(string(exportedGUN), "targets")
	n.Serve(string(exportedGUN), "targets", bytes.Replace(raw, []byte("v1"), []byte("v9"), 1))
	if code, out, errs := exporting(append(pin, string(exportedGUN))...); code != exitVerified || out != "" {
		t.Errorf("altered targets: exit code %d\n%s%s", code, out, errs)
	}
}
