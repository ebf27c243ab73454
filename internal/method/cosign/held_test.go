package cosign

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"maps"
	"testing"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/signing"
)

func heldTarget(t *testing.T) (method.Target, []byte, []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	to := method.Target{
		Key:      signing.KeyInfo{ID: "release", Public: k.Public()},
		Artifact: signing.Artifact{Repository: "registry.example/app", Digest: signing.DigestOf([]byte("app"))},
		Options:  map[string]string{"annotations": "sourceRepositoryRef"},
		Origin:   signing.Origin{SourceRepositoryRef: "refs/heads/main"},
	}
	signed, err := payloadFor(to)
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.Sum256(signed)
	raw, err := ecdsa.SignASN1(rand.Reader, k, hash[:])
	if err != nil {
		t.Fatal(err)
	}
	return to, signed, raw
}

// What was found right for one target, payload and signature says nothing about
// any other.
func TestSignatureThatWasHeldOnceIsHeldAnewForAnythingElse(t *testing.T) {
	m := New(nil)
	to, signed, raw := heldTarget(t)
	other, _, otherRaw := heldTarget(t)
	for range 2 {
		if err := m.hold(to, signed, raw); err != nil {
			t.Fatal(err)
		}
	}
	for name, change := range map[string]func(*method.Target) ([]byte, []byte){
		"another key": func(to *method.Target) ([]byte, []byte) { to.Key.Public = other.Key.Public; return signed, raw },
		"another digest": func(to *method.Target) ([]byte, []byte) {
			to.Artifact.Digest = signing.DigestOf([]byte("b"))
			return signed, raw
		},
		"another repository": func(to *method.Target) ([]byte, []byte) { to.Artifact.Repository += "b"; return signed, raw },
		"a tag":              func(to *method.Target) ([]byte, []byte) { to.Artifact.Tag = "v1"; return signed, raw },
		"other options":      func(to *method.Target) ([]byte, []byte) { to.Options = nil; return signed, raw },
		"another origin": func(to *method.Target) ([]byte, []byte) {
			to.Origin.SourceRepositoryRef = "refs/heads/b"
			return signed, raw
		},
		"another signature": func(*method.Target) ([]byte, []byte) { return signed, otherRaw },
		"another payload":   func(*method.Target) ([]byte, []byte) { return append(signed[:len(signed):len(signed)], ' '), raw },
	} {
		changed := to
		changed.Options = maps.Clone(to.Options)
		payload, signature := change(&changed)
		for range 2 { // a refusal is not remembered as anything
			if m.hold(changed, payload, signature) == nil {
				t.Errorf("%s: held", name)
			}
		}
	}
}
