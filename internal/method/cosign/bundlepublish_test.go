package cosign

import (
	"bytes"
	"crypto"
	"encoding/json"
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"
	ggcrtypes "github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/method/methodtest"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

func TestBothFormatsStandSideBySide(t *testing.T) {
	for _, referrers := range []bool{false, true} {
		w, key := methodtest.NewWorld(t, referrers), p256(t)
		m := New(w.Client)
		legacy := method.Target{Artifact: w.Push(t, "acme/web"), Key: signing.KeyInfo{ID: "k", Public: key.Public()}}
		both := legacy
		both.Options = asBundle()
		first := signed(t, m, legacy, key)
		second := signed(t, m, both, key)
		if _, err := m.Verify(t.Context(), legacy, first); err != nil {
			t.Error(err)
		}
		if len(layers(t, legacy.Artifact)) != 1 || len(referrersOf(t, legacy.Artifact)) != 1 {
			t.Error("one of the signatures is gone")
		}
		if n, err := m.VerifyImage(t.Context(), legacy.Artifact, legacy.Key); n != 2 || err != nil {
			t.Errorf("%d signatures: %v", n, err)
		}
		// The envelope of one form is none of the other.
		if _, err := m.Attachment(legacy, second); !errors.Is(err, signing.Denied) {
			t.Errorf("got %v", err)
		}
		if _, err := m.Attachment(both, first); !errors.Is(err, signing.Denied) {
			t.Errorf("got %v", err)
		}
	}
}

// Whatever others have attached, an equal bundle is found, and what is not equal
// is none.
func TestOnlyAnEqualBundleIsRecognised(t *testing.T) {
	for _, referrers := range []bool{false, true} {
		w, key := methodtest.NewWorld(t, referrers), p256(t)
		m := New(w.Client)
		target := method.Target{Artifact: w.Push(t, "acme/web"), Key: signing.KeyInfo{ID: "k", Public: key.Public()}, Options: asBundle()}
		attach := func(a signing.Attachment) {
			t.Helper()
			a.Subject = target.Artifact
			if _, err := w.Client.Attach(t.Context(), a); err != nil {
				t.Fatal(err)
			}
		}
		bundle := func(b []byte) signing.Attachment {
			return signing.Attachment{ArtifactType: BundleType, Layers: []signing.Blob{{MediaType: BundleType, Bytes: b}}}
		}
		made := func(statement []byte, key crypto.Signer) []byte {
			t.Helper()
			raw := methodtest.Sign(t, key, signing.Intent{Bytes: encodedBytes(statement), Hash: crypto.SHA256})
			b, err := encodeBundle(signing.KeyInfo{ID: "k", Public: key.Public()}, statement, raw)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		want, err := statementFor(target)
		if err != nil {
			t.Fatal(err)
		}
		other := bytes.Replace(want, []byte("https://sigstore.dev/cosign/sign/v1"), []byte("https://slsa.dev/provenance/v1"), 1)
		forged := made(want, p256(t))
		forged = bytes.Replace(forged, []byte(mustHint(t, forged)), []byte(mustHint(t, made(want, key))), 1)
		attach(bundle([]byte("{}")))
		attach(bundle(bytes.Repeat([]byte(" "), maxBundle+1)))
		attach(bundle(made(other, key)))              // not a signature, though cosign takes it for one
		attach(bundle(made(want, p256(t))))           // by another key
		attach(bundle(forged))                        // by another key that claims to be this one
		attach(bundle(append(made(want, key), '\n'))) // in another form
		attach(signing.Attachment{ArtifactType: BundleType, Layers: []signing.Blob{{MediaType: "text/plain", Bytes: []byte("x")}}})
		attach(signing.Attachment{ArtifactType: "application/spdx+json", Layers: []signing.Blob{{MediaType: "application/spdx+json", Bytes: []byte("{}")}}})
		p, err := m.Prepare(t.Context(), target, time.Now())
		if err != nil || p.Intent == nil {
			t.Errorf("recognised: %+v, %v", p, err)
		}
		if n, err := m.VerifyImage(t.Context(), target.Artifact, target.Key); n != 1 || err != nil {
			t.Errorf("%d signatures: %v", n, err) // the one with a line break
		}
		signed(t, m, target, key)
		if p, err = m.Prepare(t.Context(), target, time.Now()); err != nil || len(p.Recognised) != 1 {
			t.Errorf("not recognised: %+v, %v", p, err)
		}
	}
}

func mustHint(t *testing.T, b []byte) string {
	t.Helper()
	var d document
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	return d.VerificationMaterial.PublicKey.Hint
}

func TestTypeThatOtherWritersForgetIsPutRight(t *testing.T) {
	w, key := methodtest.NewWorld(t, false), p256(t)
	m := New(w.Client)
	target := method.Target{Artifact: w.Push(t, "acme/web"), Key: signing.KeyInfo{ID: "k", Public: key.Public()}, Options: asBundle()}
	e := signed(t, m, target, key)
	tag := methodtest.Reference(t, target.Artifact).Context().Tag("sha256-" + target.Artifact.Digest.Hex())
	index, err := remote.Index(tag)
	if err != nil {
		t.Fatal(err)
	}
	list, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if d := list.Manifests[0]; d.ArtifactType != BundleType || !maps.Equal(d.Annotations, referrersOf(t, target.Artifact)[0].Annotations) {
		t.Errorf("the entry is %+v", d)
	}
	for wrong, complete := range map[string]bool{registry.MediaTypeEmpty: true, "": false, "application/spdx+json": false} {
		list.Manifests[0].ArtifactType = wrong
		raw, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Put(tag, rawIndex(raw)); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Verify(t.Context(), target, e); complete != (err == nil) || !complete && !errors.Is(err, method.ErrStaleBase) {
			t.Errorf("%q: %v", wrong, err)
		}
		// Publishing again puts the entry right.
		if _, err := m.Publish(t.Context(), target, e); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Verify(t.Context(), target, e); err != nil {
			t.Errorf("%q, published again: %v", wrong, err)
		}
	}
}

// rawIndex is an index in the bytes that are put.
type rawIndex []byte

func (r rawIndex) RawManifest() ([]byte, error) { return r, nil }

// MediaType is what remote.Put sends.
func (r rawIndex) MediaType() (ggcrtypes.MediaType, error) { return ggcrtypes.OCIImageIndex, nil }
