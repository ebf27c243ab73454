//go:build conformance

package conformance

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/testenv"
)

// keyKinds are the kinds of key that `make conformance-all` signs with besides
// the default, ECDSA P-256.
var keyKinds = map[string]func() (crypto.Signer, error){
	"ecdsa-p384": func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P384(), rand.Reader) },
	"ecdsa-p521": func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P521(), rand.Reader) },
	"rsa-3072":   func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 3072) },
	"ed25519": func() (crypto.Signer, error) {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	},
}

// The ways to sign that the tables are about.
const (
	legacyStep = "{method: cosign, key: release}"
	bundleStep = "{method: cosign, key: release, formats: [bundle]}"
)

// serviceSigner signs with our service, asked by the sealwright-ci program in the
// environment of a GitHub job, under testenv's policy with step as its way to
// sign. A nil makeKey is testenv's own key.
func serviceSigner(name, step string, makeKey func() (crypto.Signer, error)) signer {
	return signer{name: name, open: func(t *testing.T, host string) hand {
		world := testenv.NewWorld(t, true)
		// Its issuers, but the registry under test.
		world.Registry = &devworld.Registry{Host: host}
		policy := strings.Replace(testenv.Policy, "{method: cosign, key: release}", step, 1)
		if policy == testenv.Policy && step != legacyStep {
			t.Fatal("the policy has no step to be replaced")
		}
		env := testenv.New(t, testenv.Options{World: world, Policy: policy})
		file := filepath.Join(env.Dir, "release.key")
		if makeKey != nil {
			writeKey(t, file, makeKey)
		}
		service := env.Start(nil)
		info, ok := service.Keys.Info("release")
		if !ok {
			t.Fatal("the service has no key release")
		}
		der, err := x509.MarshalPKIXPublicKey(info.Public)
		if err != nil {
			t.Fatal(err)
		}
		public := filepath.Join(t.TempDir(), "release.pub")
		if err := os.WriteFile(public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return hand{jobSigner(t, world, service), public, readKey(t, file)}
	}}
}

// jobSigner asks the service for signatures, each time in a job of its own.
func jobSigner(t *testing.T, world *devworld.World, service *testenv.Service) func(ref string) error {
	runs := 9000
	return func(ref string) error {
		runs++
		job := devworld.NewGitHubJob()
		job.RunID = strconv.Itoa(runs)
		args := []string{"--server", service.HTTP.URL, "--audience", testenv.Audience, "--policy", "release"}
		repository, digest, _ := strings.Cut(ref, "@")
		if i := strings.LastIndexByte(repository, ':'); i > strings.LastIndexByte(repository, '/') {
			args = append(args, "--sign-tag", repository[i+1:])
			repository = repository[:i]
		}
		status, out := runWith(t, world.GitHub.RegisterGitHubJob(job), t.TempDir(), tool(t, "ci_step"), append(args, repository+"@"+digest)...)
		if status != 0 {
			return fmt.Errorf("sealwright-ci: exit status %d: %s", status, out)
		}
		return nil
	}
}

func readKey(t *testing.T, path string) crypto.Signer {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return k.(crypto.Signer)
}

func writeKey(t *testing.T, path string, makeKey func() (crypto.Signer, error)) {
	t.Helper()
	private, err := makeKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
