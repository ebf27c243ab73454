//go:build conformance

package conformance

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/key"
	"github.com/sealwright/sealwright/internal/key/keytest"
	"github.com/sealwright/sealwright/internal/openpgp"
	"github.com/sealwright/sealwright/internal/signing"
)

// A key that people have had for years, exported by gpg under its passphrase, is
// opened as the keys file names it, signs, and gpg takes what it signed for its own.
func TestSecretKeyThatGnuPGExportsSignsWhatGnuPGVerifies(t *testing.T) {
	for _, kind := range []string{"rsa3072", "nistp256", "nistp384"} {
		subkey := kind == "nistp256" // one that encrypts is left aside
		home := gnupg(t)
		gpg := func(args ...string) string {
			t.Helper()
			status, out := runWith(t, map[string]string{"GNUPGHOME": home}, home, "/usr/bin/gpg", append([]string{"--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "correct horse"}, args...)...)
			if status != 0 {
				t.Fatalf("gpg %v: %s", args, out)
			}
			return out
		}
		gpg("--quick-generate-key", "Acme <release@acme.test>", kind, "sign,cert", "1y")
		secret := filepath.Join(home, "secret.asc")
		if subkey {
			_, listed := runWith(t, map[string]string{"GNUPGHOME": home}, home, "/usr/bin/gpg", "--batch", "--with-colons", "--list-keys")
			gpg("--quick-add-key", fingerprintIn(t, listed), "rsa2048", "encr", "1y")
		}
		gpg("--armor", "--output", secret, "--export-secret-keys")
		conf := key.Config{ID: "k", File: config.Secret("file:" + secret), Passphrase: config.Secret(keytest.File(t, []byte("correct horse"))), Methods: []string{"simple"},
			Allow: []key.Allow{{Project: "payments", Policy: "release", Repositories: []string{"registry.acme.dev/payments/*"}}}}
		chmod(t, secret)
		ring, err := key.Open(t.Context(), []key.Config{conf}, key.Options{})
		if err != nil {
			t.Fatalf("%s, subkey %v: %v", kind, subkey, err)
		}
		info, _ := ring.Info("k")
		c, err := openpgp.Of(info)
		if err != nil {
			t.Fatal(err)
		}
		d, err := c.Draft([]byte("content"), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		raw, err := ring.Sign(t.Context(), "k", signing.Intent{Bytes: d.Bytes, Hash: d.Hash, Padding: d.Padding})
		if err != nil {
			t.Fatal(err)
		}
		m, err := c.Message(d, raw)
		if err != nil {
			t.Fatal(err)
		}
		signed := filepath.Join(home, "signed")
		writeFile(t, signed, m)
		gpg("--verify", signed)
		m[len(m)-1] ^= 1
		writeFile(t, signed, m)
		if status, out := runWith(t, map[string]string{"GNUPGHOME": home}, home, "/usr/bin/gpg", "--batch", "--verify", signed); status == 0 {
			t.Errorf("%s: gpg accepts an altered signature: %s", kind, out)
		}
		if c.Expires.IsZero() || c.UserID != "Acme <release@acme.test>" {
			t.Errorf("%s: %+v", kind, c)
		}
	}
}
