package notation

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/sealwright/sealwright/internal/key/keytest"
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/method/methodtest"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

// The certificates of tests outlive the tests: verifiers know no other clock
// than the machine's.
var (
	from = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	to   = time.Date(2126, 1, 1, 0, 0, 0, 0, time.UTC)
)

func chainOf(t testing.TB, public crypto.PublicKey, from, to time.Time) []*x509.Certificate {
	t.Helper()
	var out []*x509.Certificate
	for rest := keytest.Chain(t, public, from, to); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return out
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
}

func ec(t testing.TB, c elliptic.Curve) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func rsaKey(t testing.TB, bits int) crypto.Signer {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// rewrite changes a text in the document and in the bytes of an intent. The
// parts of a JWS are base64.
func rewrite(in signing.Intent, old, with string) signing.Intent {
	in.Replay = bytes.ReplaceAll(in.Replay, []byte(old), []byte(with))
	if bytes.Contains(in.Bytes, []byte("Signature1")) {
		in.Bytes = bytes.ReplaceAll(in.Bytes, []byte(old), []byte(with)) // a COSE payload is plain
		return in
	}
	var parts []string
	for part := range strings.SplitSeq(string(in.Bytes), ".") {
		text, err := base64.RawURLEncoding.DecodeString(part)
		if err != nil {
			panic(err) // the test's own bytes
		}
		parts = append(parts, base64.RawURLEncoding.EncodeToString(bytes.ReplaceAll(text, []byte(old), []byte(with))))
	}
	in.Bytes = []byte(strings.Join(parts, "."))
	return in
}

// count asks with another client than ours how many signatures are listed.
func count(t testing.TB, a signing.Artifact) int {
	t.Helper()
	index, err := remote.Referrers(methodtest.Reference(t, a), remote.WithFilter("artifactType", ArtifactType))
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	return len(m.Manifests)
}

func TestContract(t *testing.T) {
	edPublic, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]crypto.Signer{
		"ec-p256": ec(t, elliptic.P256()), "ec-p384": ec(t, elliptic.P384()), "ec-p521": ec(t, elliptic.P521()),
		"rsa-2048": rsaKey(t, 2048), "rsa-3072": rsaKey(t, 3072), "rsa-4096": rsaKey(t, 4096),
	}
	chains := map[string][]*x509.Certificate{}
	for name, k := range keys {
		chains[name] = chainOf(t, k.Public(), from, to)
	}
	for _, format := range []string{formatJWS, formatCOSE} {
		t.Run(format, func(t *testing.T) {
			methodtest.Run(t, methodtest.Suite{
				New:  func(reg *registry.Client) method.Method { return New(reg) },
				Keys: keys, Chains: chains, Rewrite: rewrite, Count: count,
				Refused: map[string]crypto.PublicKey{"ed25519": edPublic, "ec-p224": ec(t, elliptic.P224()).Public(), "without a certificate": keys["ec-p256"].Public()},
				Options: map[string]string{"format": format, "expiry": fmt.Sprint(9 * 365 * 24 * time.Hour), "userMetadata": "sourceRepositoryURI,sourceRepositoryDigest"},
				Origin:  signing.Origin{SourceRepositoryURI: "https://github.com/acme/web", SourceRepositoryDigest: "0123456789abcdef0123456789abcdef01234567"},
			})
		})
	}
}
