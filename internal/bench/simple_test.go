//go:build bench

package bench

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"

	"github.com/sealwright/sealwright/internal/key/keytest"
	"github.com/sealwright/sealwright/internal/signing"
)

// writeOpenPGP makes release-gpg.key and its OpenPGP certificate release-gpg.asc.
func writeOpenPGP(t testing.TB, dir string) []byte {
	t.Helper()
	writeKey(t, filepath.Join(dir, "release-gpg.key"))
	raw, err := os.ReadFile(filepath.Join(dir, "release-gpg.key"))
	must(t, err)
	block, _ := pem.Decode(raw)
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	must(t, err)
	cert := keytest.OpenPGP(t, k.(*ecdsa.PrivateKey), time.Now().AddDate(0, -1, 0), 0)
	must(t, os.WriteFile(filepath.Join(dir, "release-gpg.asc"), []byte(signing.ArmorOpenPGP(cert)), 0o600))
	return cert
}

// simples measures one request of n images with simple signatures in the service's
// own lookaside, durable state, audit log and read-back included, against a process
// of skopeo for each image, which signs a manifest that is already there and reads
// nothing back.
func simples(t *testing.T, tb *table) {
	rounds, n := setting(t, "ROUNDS", 3), setting(t, "IMAGES", 100)
	h := memory(t) // signatures go elsewhere
	c := newCore(t, h.name, nil)
	c.policy = "simple"
	peer := newSkopeo(t)
	var ours, theirs []time.Duration
	for r := -1; r < rounds; r++ { // the first warms up
		images := pushImages(t, h.name, fmt.Sprintf("simple-%d", r+1), n, nil)
		took := timed(t, func() error { _, err := c.sign(t.Context(), images...); return err })
		for _, a := range images {
			list, err := c.store.Lookaside().List(t.Context(), string(a.Repository)+"@sha256="+a.Digest.Hex())
			must(t, err)
			if len(list) != 1 {
				t.Fatalf("%s has %d signatures", a, len(list))
			}
			mustBeSimple(t, a, list[0], c.openPGP)
		}
		tookPeer := peer.sign(t, images)
		if r >= 0 {
			ours, theirs = append(ours, took), append(theirs, tookPeer)
		}
	}
	tb.ratio(fmt.Sprintf("s: one request of %d images with simple, read back, %s", n, h.kind), median(ours), median(theirs), fmt.Sprintf("skopeo standalone-sign, %d times, nothing read back", n), 10)
}

// skopeo signs with a key of GnuPG, ECDSA P-256 as ours.
type skopeo struct {
	home, fingerprint string
	certificate       []byte
}

func newSkopeo(t testing.TB) skopeo {
	t.Helper()
	home, err := os.MkdirTemp("", "gpg") // its sockets have short names
	must(t, err)
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run() // it may not have an agent
		must(t, os.RemoveAll(home))
	})
	s := skopeo{home: home}
	env := map[string]string{"GNUPGHOME": home}
	run(t, env, "/usr/bin/gpg", "--batch", "--passphrase", "", "--quick-generate-key", "Skopeo <skopeo@acme.test>", "nistp256", "sign", "never")
	file := filepath.Join(home, "public.gpg")
	run(t, env, "/usr/bin/gpg", "--batch", "--quiet", "--output", file, "--export")
	s.certificate, err = os.ReadFile(file)
	must(t, err)
	_, listed := output(t, env, "/usr/bin/gpg", "--batch", "--with-colons", "--list-keys")
	m := regexp.MustCompile(`(?m)^fpr:+([0-9A-F]{40}):`).FindStringSubmatch(listed)
	if m == nil {
		t.Fatal(listed)
	}
	s.fingerprint = m[1]
	return s
}

// sign signs each image, one after the other, and returns how long that took; the
// manifests are fetched before.
func (s skopeo) sign(t testing.TB, images []signing.Artifact) (took time.Duration) {
	t.Helper()
	dir := t.TempDir()
	for i, a := range images {
		raw, err := get(http.DefaultClient, "http://"+a.Repository.Host()+"/v2/"+a.Repository.Path()+"/manifests/"+string(a.Digest))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), raw, 0o600))
	}
	for i, a := range images {
		took += run(t, map[string]string{"GNUPGHOME": s.home}, "/usr/bin/skopeo", "standalone-sign", filepath.Join(dir, fmt.Sprint(i)), string(a.Repository)+"@"+string(a.Digest), s.fingerprint, "-o", filepath.Join(dir, fmt.Sprintf("%d.sig", i)))
	}
	for i, a := range images {
		raw, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("%d.sig", i)))
		must(t, err)
		mustBeSimple(t, a, raw, s.certificate)
	}
	return took
}

// mustBeSimple fails unless a signature is one by the certificate's key over the
// image. It uses nothing of the product.
func mustBeSimple(t testing.TB, a signing.Artifact, signature, certificate []byte) {
	t.Helper()
	ring, err := openpgp.ReadKeyRing(bytes.NewReader(certificate))
	must(t, err)
	m, err := openpgp.ReadMessage(bytes.NewReader(signature), ring, nil, nil)
	must(t, err)
	raw, err := io.ReadAll(m.UnverifiedBody)
	must(t, err)
	var said struct {
		Critical struct {
			Identity struct {
				Reference string `json:"docker-reference"`
			}
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			}
		}
	}
	must(t, json.Unmarshal(raw, &said))
	if m.SignatureError != nil || m.SignedBy == nil || said.Critical.Image.Digest != string(a.Digest) || said.Critical.Identity.Reference != string(a.Repository)+"@"+string(a.Digest) {
		t.Fatalf("%s: %v, %s", a, m.SignatureError, raw)
	}
}
