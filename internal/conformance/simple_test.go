//go:build conformance

package conformance

import (
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/key/keytest"
	"github.com/sealwright/sealwright/internal/openpgp"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

const simpleStep = "{method: simple, key: release-gpg, recursive: true}"

// simpleFormat is GPG simple signing. What is called the public key elsewhere is a
// folder with an OpenPGP certificate, key.asc, and a lookaside, sigs, which
// mutations alter.
func simpleFormat() format {
	return format{
		name: "simple", title: "simple signing (GPG)", elsewhere: true,
		signers:  []signer{{"skopeo", skopeoSigner}, simpleService("sealwright", ecKey(elliptic.P256))},
		stranger: func(t *testing.T) string { return trustOpenPGP(t, keytest.OpenPGP(t, newKey(t), simpleMade(), 0), "") },
		verifiers: []verifier{
			{"skopeo", "Debian's skopeo 1.9.3: `skopeo --policy POLICY --registries.d DIR copy`, default reject, `signedBy` and nothing else", skopeoCopy},
			{"standalone", "Debian's skopeo 1.9.3: `skopeo standalone-verify MANIFEST IMAGE FINGERPRINT SIGNATURE`", skopeoStandalone},
			{"podman", "Debian's podman 4.3.1: `podman pull --signature-policy POLICY`, the same policy", podmanPull},
			{"image", "containers/image 5.42.0 with its OpenPGP in Go, `signedBy`, identity `matchRepoDigestOrExact`", simpleImage},
			{"gpg", "GnuPG 2.2.40: `gpg --verify SIGNATURE`, which does not look at the content", gpgVerify},
			{"sealwright", "`sealwright verify --key KEY.asc --lookaside URL`", sealwrightSimple},
		},
		mutations: simpleMutations(),
	}
}

func simpleMade() time.Time { return time.Now().AddDate(0, -1, 0) }

// simpleKinds are the kinds of key besides ECDSA P-256.
func simpleKinds() map[string]func() (crypto.Signer, error) {
	rsaKey := func(bits int) func() (crypto.Signer, error) {
		return func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, bits) }
	}
	return map[string]func() (crypto.Signer, error){"p384": ecKey(elliptic.P384), "p521": ecKey(elliptic.P521), "rsa-2048": rsaKey(2048), "rsa-3072": rsaKey(3072), "rsa-4096": rsaKey(4096)}
}

func newKey(t *testing.T) crypto.Signer {
	t.Helper()
	k, err := ecKey(elliptic.P256)()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// trustOpenPGP makes the folder that verifiers need. sigs is the lookaside of
// another folder, or "" for an empty one.
func trustOpenPGP(t *testing.T, certificate []byte, sigs string) string {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "key.asc"), []byte(signing.ArmorOpenPGP(certificate)))
	if sigs == "" {
		if err := os.Mkdir(filepath.Join(dir, "sigs"), 0o755); err != nil {
			t.Fatal(err)
		}
	} else if err := os.Symlink(sigs, filepath.Join(dir, "sigs")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func writeFile(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// signaturePath is where a signature of a digest is in a lookaside.
func signaturePath(dir, repository, digest string, n int) string {
	_, path, _ := strings.Cut(repository, "/")
	return filepath.Join(dir, "sigs", filepath.FromSlash(path)+"@"+strings.Replace(digest, ":", "=", 1), fmt.Sprintf("signature-%d", n))
}

// simpleService is our service, whose lookaside is copied, signature by signature,
// as it serves them, so that tampered twins can be made.
func simpleService(name string, makeKey func() (crypto.Signer, error)) signer {
	return signer{name: name, open: func(t *testing.T, host string) hand {
		w := newSimpleWorld(t, host, makeKey)
		dir := trustOpenPGP(t, w.info.OpenPGP, "")
		return hand{func(ref string) error {
			if err := w.sign(ref); err != nil {
				return err
			}
			repository, digest := splitSigned(ref)
			for _, d := range append([]string{digest}, manifestsOf(t, repository, digest)...) {
				b, err := fetchSignature(w.service.HTTP.URL, repository, d)
				if err != nil {
					return err
				}
				writeFile(t, signaturePath(dir, repository, d, 1), b)
			}
			return nil
		}, dir, w.key}
	}}
}

// splitSigned returns repository and digest of REPOSITORY[:TAG]@DIGEST.
func splitSigned(ref string) (repository, digest string) {
	repository, digest, _ = strings.Cut(ref, "@")
	if i := strings.LastIndexByte(repository, ':'); i > strings.LastIndexByte(repository, '/') {
		repository = repository[:i]
	}
	return repository, digest
}

func fetchSignature(server, repository, digest string) ([]byte, error) {
	resp, err := http.Get(server + "/lookaside/" + repository + "@" + strings.Replace(digest, ":", "=", 1) + "/signature-1")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the lookaside answered %d for %s", resp.StatusCode, digest)
	}
	return io.ReadAll(resp.Body)
}

// manifestsOf lists what an index holds.
func manifestsOf(t *testing.T, repository, digest string) []string {
	t.Helper()
	resp, err := http.Get("http://" + strings.Replace(repository, "/", "/v2/", 1) + "/manifests/" + digest)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var index struct {
		Manifests []struct{ Digest string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&index); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range index.Manifests {
		out = append(out, m.Digest)
	}
	return out
}

// simpleWorld is our service with a key of a kind.
type simpleWorld struct {
	service *testenv.Service
	info    signing.KeyInfo
	key     crypto.Signer
	sign    func(ref string) error
}

func newSimpleWorld(t *testing.T, host string, makeKey func() (crypto.Signer, error)) simpleWorld {
	t.Helper()
	world := testenv.NewWorld(t, true)
	world.Registry = &devworld.Registry{Host: host}
	env := testenv.New(t, testenv.Options{World: world, Policy: strings.Replace(testenv.Policy, "{method: cosign, key: release}", simpleStep, 1)})
	file := filepath.Join(env.Dir, "release-gpg.key")
	writeKey(t, file, makeKey)
	key := readKey(t, file)
	writeFile(t, filepath.Join(env.Dir, "release-gpg.asc"), []byte(signing.ArmorOpenPGP(keytest.OpenPGP(t, key, simpleMade(), 0))))
	service := env.Start(nil)
	info, ok := service.Keys.Info("release-gpg")
	if !ok {
		t.Fatal("the service has no key release-gpg")
	}
	return simpleWorld{service, info, key, jobSigner(t, world, service)}
}

func simpleMutations() []mutation {
	every := []string{"skopeo", "standalone", "podman", "image", "gpg", "sealwright"}
	index := []string{"standalone", "image", "gpg", "sealwright"} // what is asked about the index
	// eachOne does something with the signature of the index and of each manifest.
	eachOne := func(do func(t *testing.T, s signed, digest string, n int, file func(n int) string)) func(*testing.T, signed) (string, string) {
		return func(t *testing.T, s signed) (string, string) {
			for i, d := range digestsOf(s.image) {
				do(t, s, d, i, func(n int) string { return signaturePath(s.public, s.image.Repository, d, n) })
			}
			return s.image.Reference(), s.public
		}
	}
	// broken is a signature with one byte changed, within the number that it ends with.
	// GnuPG compresses: its very last byte may be no more than the mark of the end, which
	// not every reader looks at.
	broken := func(t *testing.T, file string) []byte {
		b := readFile(t, file)
		b[len(b)-10] ^= 1
		return b
	}
	remove := func(t *testing.T, file string) {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	const blind = "gpg does not know what is signed"
	return []mutation{
		{name: "none", what: "the signed image itself", accepts: every, make: func(_ *testing.T, s signed) (string, string) { return s.image.Reference(), s.public }},
		{name: "other image", what: "its signatures, put on another image of the repository", accepts: []string{"gpg"}, make: func(t *testing.T, s signed) (string, string) {
			for i, d := range digestsOf(s.other) {
				writeFile(t, signaturePath(s.public, s.other.Repository, d, 1), readFile(t, signaturePath(s.public, s.image.Repository, digestsOf(s.image)[i], 1)))
			}
			return s.other.Reference(), s.public
		}, why: blind},
		{name: "moved", what: "image and signatures copied to another repository", accepts: []string{"gpg"}, make: func(t *testing.T, s signed) (string, string) {
			moved := copyImage(t, s)
			for _, d := range digestsOf(s.image) {
				writeFile(t, signaturePath(s.public, moved.Repository, d, 1), readFile(t, signaturePath(s.public, s.image.Repository, d, 1)))
			}
			return moved.Reference(), s.public
		}, why: blind},
		{name: "other key", what: "verified with the certificate of another key", make: func(t *testing.T, s signed) (string, string) {
			return s.image.Reference(), trustOpenPGP(t, certificateOf(t, s.strangerPublic).Raw, filepath.Join(s.public, "sigs"))
		}},
		{name: "altered signature", what: "one byte of each signature changed", make: eachOne(func(t *testing.T, _ signed, _ string, _ int, file func(int) string) {
			writeFile(t, file(1), broken(t, file(1)))
		})},
		{name: "by a stranger", what: "the same payloads, signed by another key", make: eachOne(func(t *testing.T, s signed, d string, _ int, file func(int) string) {
			k := newKey(t)
			c, err := openpgp.ParseCertificate(keytest.OpenPGP(t, k, simpleMade(), 0))
			if err != nil {
				t.Fatal(err)
			}
			writeFile(t, file(1), forgeSimple(t, c, k, payloadOf(s.image.Repository+"@"+d, d)))
		})},
		{name: "removed", what: "the signatures taken out of the lookaside", make: eachOne(func(t *testing.T, _ signed, _ string, _ int, file func(int) string) {
			remove(t, file(1))
		})},
		{name: "behind a gap", what: "each signature is number 2, and there is no number 1", make: eachOne(func(t *testing.T, _ signed, _ string, _ int, file func(int) string) {
			if err := os.Rename(file(1), file(2)); err != nil {
				t.Fatal(err)
			}
		})},
		{name: "bad one before it", what: "a broken signature is number 1, the good one number 2", accepts: every, make: eachOne(func(t *testing.T, _ signed, _ string, _ int, file func(int) string) {
			writeFile(t, file(2), readFile(t, file(1)))
			writeFile(t, file(1), broken(t, file(1)))
		}), why: "one good signature is enough; a broken one beside it is skipped"},
		{name: "only the index signed", what: "the index is signed, the manifests of the platforms are not", accepts: index, make: eachOne(func(t *testing.T, _ signed, _ string, n int, file func(int) string) {
			if n > 0 {
				remove(t, file(1))
			}
		}), why: "they are asked about the index; who runs a platform's image verifies that one, which is what `recursive` is for"},
		{name: "only manifests signed", what: "the manifests of the platforms are signed, the index is not", accepts: []string{"skopeo", "podman"}, make: eachOne(func(t *testing.T, _ signed, _ string, n int, file func(int) string) {
			if n == 0 {
				remove(t, file(1))
			}
		}), why: "these two versions look at the manifest of the platform that they pull, and at nothing else"},
	}
}

// digestsOf is the index, and then its manifests.
func digestsOf(image devworld.Image) []string {
	return append([]string{image.Digest}, image.Manifests...)
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func certificateOf(t *testing.T, trust string) *openpgp.Certificate {
	t.Helper()
	c, err := openpgp.ParseCertificate(readFile(t, filepath.Join(trust, "key.asc")))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func payloadOf(reference, digest string) []byte {
	return fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"atomic container signature"},"optional":{}}`, reference, digest)
}

func forgeSimple(t *testing.T, c *openpgp.Certificate, k crypto.Signer, payload []byte) []byte {
	t.Helper()
	d, err := c.Draft(payload, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	h := d.Hash.New()
	h.Write(d.Bytes)
	raw, err := k.Sign(rand.Reader, h.Sum(nil), d.Hash)
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.Message(d, raw)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestEveryKindOfOpenPGPKeyIsAcceptedAndItsAlteredTwinRefused(t *testing.T) {
	host := referring(t)
	f := simpleFormat()
	for name, kind := range simpleKinds() {
		t.Run(name, func(t *testing.T) {
			h := simpleService(name, kind).open(t, host)
			image := push(t, host, "kind "+name)
			if err := h.sign(image.Reference()); err != nil {
				t.Fatal(err)
			}
			for _, v := range f.verifiers {
				check(t, v, image.Reference(), h.public, true)
			}
			for _, d := range digestsOf(image) {
				file := signaturePath(h.public, image.Repository, d, 1)
				b := readFile(t, file)
				b[len(b)-1] ^= 1
				writeFile(t, file, b)
			}
			for _, v := range f.verifiers {
				check(t, v, image.Reference(), h.public, false)
			}
		})
	}
}

// The service's own lookaside is what the programs read in production; and the
// default identity of containers/image wants the signed tag.
func TestOwnLookasideServesThoseWhoPull(t *testing.T) {
	host := referring(t)
	w := newSimpleWorld(t, host, ecKey(elliptic.P256))
	trust := trustOpenPGP(t, w.info.OpenPGP, "")
	lookaside := w.service.HTTP.URL + "/lookaside/" + host
	image, unsigned := push(t, host, "own lookaside"), push(t, host, "not signed")
	if err := w.sign(image.Reference()); err != nil {
		t.Fatal(err)
	}
	for name, pull := range map[string]func(*testing.T, string, string, string) (bool, string){"skopeo": skopeoCopyFrom, "podman": podmanPullFrom} {
		if ok, said := pull(t, image.Reference(), trust, lookaside); !ok {
			t.Errorf("%s refuses: %s", name, said)
		}
		if ok, said := pull(t, unsigned.Reference(), trust, lookaside); ok {
			t.Errorf("%s accepts what is not signed: %s", name, said)
		}
	}
	for tag, accept := range map[string]bool{"v1.0.0": true, "": false} {
		tagged, err := devworld.PushImage(t.Context(), host, devworld.ImageSpec{Repository: "payments/app", Tag: "v1.0.0", Content: "own tag " + tag})
		if err != nil {
			t.Fatal(err)
		}
		ref := tagged.Repository
		if tag != "" {
			ref += ":" + tag
		}
		if err := w.sign(ref + "@" + tagged.Digest); err != nil {
			t.Fatal(err)
		}
		status, out := run(t, t.TempDir(), tool(t, "imageverify"), "-type", "signedBy", "-key", filepath.Join(trust, "key.asc"), "-lookaside", lookaside, "-identity", "matchRepoDigestOrExact", tagged.Repository+":v1.0.0")
		if (status == 0) != accept || status > 1 {
			t.Errorf("signed with the tag %q and pulled by v1.0.0: %d %s", tag, status, out)
		}
	}
}
