//go:build conformance

package conformance

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/key"
	"github.com/sealwright/sealwright/internal/key/keytest"
	"github.com/sealwright/sealwright/internal/key/pkcs11"
	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

// softhsm makes a token with keys of these types ("EC:prime256v1"), whose ids count
// from 01, and returns its module and the file with its PIN.
func softhsm(t *testing.T, types ...string) (module, pin string) {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "softhsm2.conf")
	save(t, conf, "directories.tokendir = "+dir+"\nobjectstore.backend = file\nlog.level = ERROR\n")
	t.Setenv("SOFTHSM2_CONF", conf) // the module reads it in this process
	for _, module = range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so"} {
		if _, err := os.Stat(module); err == nil {
			break
		}
	}
	pin = filepath.Join(dir, "pin")
	save(t, pin, "1234\n")
	program(t, conf, "softhsm2-util", "--init-token", "--free", "--label", "lab", "--pin", "1234", "--so-pin", "5678")
	for i, kind := range types {
		program(t, conf, "pkcs11-tool", "--module", module, "--login", "--pin", "1234", "--keypairgen", "--key-type", kind, "--id", fmt.Sprintf("%02x", i+1), "--label", fmt.Sprintf("key%d", i+1))
	}
	return module, pin
}

func program(t *testing.T, conf, name string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v: .ci/run installs softhsm2 and opensc", err)
	}
	if status, out := runWith(t, map[string]string{"SOFTHSM2_CONF": conf}, t.TempDir(), path, args...); status != 0 {
		t.Fatalf("%s: exit status %d\n%s", name, status, out)
	}
}

func save(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// backend is one connection to modules that ends with the test.
func backend(t *testing.T) *pkcs11.Backend {
	b := pkcs11.New()
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func TestCosignVerifiesWhatAKeyOfAModuleSigned(t *testing.T) {
	module, pin := softhsm(t, "EC:prime256v1")
	keys := fmt.Sprintf(`
  - id: release
    pkcs11: {module: %s, token: lab, pin: "file:%s", id: "01"}
    methods: [cosign]
    allow: [{project: payments, policy: release, repositories: ["HOST/payments/*"]}]
`, module, pin)
	world := testenv.NewWorld(t, true)
	env := testenv.New(t, testenv.Options{World: world, Keys: keys, Modules: backend(t)})
	service := env.Start(nil)
	info, _ := service.Keys.Info("release")
	der, err := x509.MarshalPKIXPublicKey(info.Public)
	if err != nil {
		t.Fatal(err)
	}
	public := filepath.Join(t.TempDir(), "release.pub")
	save(t, public, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	image := env.Image(t.Name()).String()
	cosign := cosignVerify("cosign3")
	if accepted, said := cosign(t, image, public); accepted {
		t.Errorf("accepted before it was signed: %s", said)
	}
	if err := jobSigner(t, world, service)(image); err != nil {
		t.Fatal(err)
	}
	if accepted, said := cosign(t, image, public); !accepted {
		t.Error(said)
	}
}

func TestOneKeyOfAModuleSignsWithEveryMethod(t *testing.T) {
	module, pin := softhsm(t, "EC:prime256v1")
	b := backend(t)
	signer, err := key.OpenOwner(t.Context(), key.OwnerKey{PKCS11: key.PKCS11{Module: module, Token: "lab", PIN: config.Secret("file:" + pin), ID: "01"}}, key.Options{PKCS11: b})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	chain, pgp := filepath.Join(dir, "chain.pem"), filepath.Join(dir, "pgp.asc")
	save(t, chain, string(keytest.Chain(t, signer.Public(), time.Now().AddDate(-1, 0, 0), time.Now().AddDate(10, 0, 0))))
	save(t, pgp, signing.ArmorOpenPGP(keytest.OpenPGP(t, signer, time.Now().Add(-time.Hour), 0)))
	keys := fmt.Sprintf(`
  - id: release
    pkcs11: {module: %s, token: lab, pin: "file:%s", id: "01"}
    certificates: file:%s
    openpgp: {certificate: "file:%s"}
    methods: [cosign, notation, dct, simple]
    allow: [{project: payments, policy: release, repositories: ["HOST/payments/*"]}]
`, module, pin, chain, pgp)
	world := testenv.NewWorld(t, true)
	policy := testenv.PolicySigning("- {method: cosign, key: release}\n", "- {method: notation, key: release}\n", "- {method: dct, key: release}\n", "- {method: simple, key: release}\n")
	env := testenv.New(t, testenv.Options{World: world, Policy: policy, Keys: keys, Modules: b, Trusted: []string{"payments/web"}})
	service := env.Start(nil)
	info, _ := service.Keys.Info("release")
	image := env.ImageIn("payments/web", "v1", t.Name())
	if err := env.Trust.Owners[image.Repository].Delegate(t.Context(), env.TrustClient(), dct.RoleReleases, info); err != nil {
		t.Fatal(err)
	}
	// The step ends well only if each method's own verification accepts what is read back.
	if err := jobSigner(t, world, service)(fmt.Sprintf("%s:v1@%s", image.Repository, image.Digest)); err != nil {
		t.Fatal(err)
	}
	if tags, _ := env.Releases(image.Repository); tags["v1"] != image.Digest {
		t.Errorf("the releases have %v", tags)
	}
	der, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	public := filepath.Join(dir, "release.pub")
	save(t, public, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	if accepted, said := cosignVerify("cosign3")(t, fmt.Sprintf("%s@%s", image.Repository, image.Digest), public); !accepted {
		t.Error(said)
	}
}

func TestEveryKindOfKeyOfAModuleSignsAndWhatIsWrongStopsTheStart(t *testing.T) {
	module, pin := softhsm(t, "EC:prime256v1", "EC:secp384r1", "rsa:3072")
	entry := func(id string, change func(*key.Config)) key.Config {
		c := key.Config{ID: "k" + id, PKCS11: key.PKCS11{Module: module, Token: "lab", PIN: config.Secret("file:" + pin), ID: id}, Methods: []string{"cosign"}, Allow: []key.Allow{{Project: "p", Policy: "r", Repositories: []string{"h/x"}}}}
		if change != nil {
			change(&c)
		}
		return c
	}
	b := backend(t)
	ring, err := key.Open(t.Context(), []key.Config{entry("01", nil), entry("02", nil), entry("03", nil)}, key.Options{PKCS11: b})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		id      string
		padding signing.Padding
	}{{"k01", ""}, {"k02", ""}, {"k03", signing.PKCS1v15}, {"k03", signing.PSS}} {
		if _, err := ring.Sign(t.Context(), c.id, signing.Intent{Bytes: []byte("bytes"), Hash: crypto.SHA256, Padding: c.padding}); err != nil {
			t.Errorf("%s %s: %v", c.id, c.padding, err)
		}
	}
	wrong := filepath.Join(t.TempDir(), "pin")
	save(t, wrong, "4321")
	for what, c := range map[string]struct {
		entry key.Config
		code  signing.Code
	}{
		"a key that is not there": {entry("09", nil), signing.NotFound},
		"a wrong PIN":             {entry("01", func(c *key.Config) { c.PKCS11.PIN = config.Secret("file:" + wrong) }), signing.Denied},
	} {
		// Another connection: a token that is open asks for no PIN.
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := key.Open(t.Context(), []key.Config{c.entry}, key.Options{PKCS11: b}); signing.CodeOf(err) != c.code {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, c := range map[string]key.Config{
		"another token":            entry("01", func(c *key.Config) { c.PKCS11.Token = "elsewhere" }),
		"a module that is not one": entry("01", func(c *key.Config) { c.PKCS11.Module = "/etc/hostname" }),
		"no module":                entry("01", func(c *key.Config) { c.PKCS11.Module = "/nowhere/module.so" }),
	} {
		ring, err := key.Open(t.Context(), []key.Config{c}, key.Options{PKCS11: b})
		if err != nil {
			t.Errorf("%s stops the start: %v", what, err)
			continue
		}
		if err := ring.Check(t.Context())["k01"]; signing.CodeOf(err) != signing.Unavailable {
			t.Errorf("%s: %v", what, err)
		}
	}
}
