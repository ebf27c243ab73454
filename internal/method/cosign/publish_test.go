package cosign

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"encoding/base64"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	ggcr "github.com/google/go-containerregistry/pkg/v1/static"
	cosignmutate "github.com/sigstore/cosign/v2/pkg/oci/mutate"
	ociremote "github.com/sigstore/cosign/v2/pkg/oci/remote"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/cosign/v2/pkg/types"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/method/methodtest"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

// bench is one signed image on a registry.
type bench struct {
	w      *methodtest.World
	m      *Method
	key    *ecdsa.PrivateKey
	target method.Target
}

func newBench(t *testing.T) bench {
	w, key := methodtest.NewWorld(t, false), p256(t)
	return bench{w, New(w.Client), key, method.Target{Artifact: w.Push(t, "acme/web"), Key: signing.KeyInfo{ID: "k", Public: key.Public()}}}
}

// rewrite replaces the signatures of the image, behind the service's back.
func (b bench) rewrite(t *testing.T, adds ...mutate.Addendum) {
	t.Helper()
	img := mutate.MediaType(mutate.ConfigMediaType(empty.Image, "application/vnd.oci.image.config.v1+json"), "application/vnd.oci.image.manifest.v1+json")
	img, err := mutate.Append(img, adds...)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tagRef(t, b.target.Artifact), img); err != nil {
		t.Fatal(err)
	}
}

// layer is the layer of an envelope, with its annotations changed by f.
func (b bench) layer(t *testing.T, e signing.Envelope, f func(map[string]string)) mutate.Addendum {
	t.Helper()
	a, err := b.m.Attachment(b.target, e)
	if err != nil {
		t.Fatal(err)
	}
	annotations := maps.Clone(a.Layers[0].Annotations)
	f(annotations)
	return mutate.Addendum{Layer: ggcr.NewLayer(a.Layers[0].Bytes, types.SimpleSigningMediaType), Annotations: annotations}
}

func (b bench) layerBytes(t *testing.T, e signing.Envelope) []byte {
	t.Helper()
	a, err := b.m.Attachment(b.target, e)
	if err != nil {
		t.Fatal(err)
	}
	return a.Layers[0].Bytes
}

func TestSignatureThatSomeoneAlteredInTheRegistryIsNeitherVerifiedNorRecognised(t *testing.T) {
	b := newBench(t)
	e := signed(t, b.m, b.target, b.key)
	b.rewrite(t, b.layer(t, e, func(map[string]string) {}))
	if _, err := b.m.Verify(t.Context(), b.target, e); err != nil {
		t.Fatalf("the same layer written by someone else: %v", err)
	}
	stranger := p256(t)
	in := signing.Intent{Bytes: b.layerBytes(t, e), Hash: crypto.SHA256}
	for name, f := range map[string]func(map[string]string){
		"no signature":             func(a map[string]string) { delete(a, static.SignatureAnnotationKey) },
		"empty signature":          func(a map[string]string) { a[static.SignatureAnnotationKey] = "" },
		"no base64":                func(a map[string]string) { a[static.SignatureAnnotationKey] += "%" },
		"signature by another key": func(a map[string]string) { a[static.SignatureAnnotationKey] = b64(methodtest.Sign(t, stranger, in)) },
		"a certificate beside it":  func(a map[string]string) { a[static.CertificateAnnotationKey] = "-----BEGIN CERTIFICATE-----" },
	} {
		b.rewrite(t, b.layer(t, e, f))
		if _, err := b.m.Verify(t.Context(), b.target, e); !errors.Is(err, method.ErrStaleBase) {
			t.Errorf("%s: Verify says %v", name, err)
		}
		if p, err := b.m.Prepare(t.Context(), b.target, time.Now()); err != nil || p.Intent == nil {
			t.Errorf("%s: Prepare says %+v, %v", name, p, err)
		}
	}
	// Attaching the same envelope again makes it good, and keeps what is there.
	if _, err := b.m.Publish(t.Context(), b.target, e); err != nil {
		t.Fatal(err)
	}
	if _, err := b.m.Verify(t.Context(), b.target, e); err != nil {
		t.Error(err)
	}
	if n := len(layers(t, b.target.Artifact)); n != 2 {
		t.Errorf("the digest has %d signatures", n)
	}
}

func TestSignatureMadeByCosignItselfIsRecognised(t *testing.T) {
	b := newBench(t)
	ref := methodtest.Reference(t, b.target.Artifact)
	raw, err := payload.Cosign{Image: ref}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	sv, err := signature.LoadECDSASignerVerifier(b.key, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := sv.SignMessage(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	o, err := static.NewSignature(raw, base64.StdEncoding.EncodeToString(sig))
	if err != nil {
		t.Fatal(err)
	}
	se, err := cosignmutate.AttachSignatureToEntity(ociremote.SignedUnknown(ref), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := ociremote.WriteSignatures(ref.Context(), se); err != nil {
		t.Fatal(err)
	}
	p, err := b.m.Prepare(t.Context(), b.target, time.Now())
	if err != nil || len(p.Recognised) != 1 || p.Intent != nil {
		t.Errorf("got %+v, %v", p, err)
	}
	// With a tag signed along it is another statement.
	b.target.Artifact.Tag = "v1"
	signed(t, b.m, b.target, b.key)
	if n := len(layers(t, b.target.Artifact)); n != 2 {
		t.Errorf("the digest has %d signatures", n)
	}
}

func TestSignatureCopiedFromAnotherDigestIsNotRecognised(t *testing.T) {
	b := newBench(t)
	e := signed(t, b.m, b.target, b.key)
	other := b
	other.target.Artifact = b.w.Push(t, "acme/web")
	other.rewrite(t, b.layer(t, e, func(map[string]string) {}))
	if p, err := b.m.Prepare(t.Context(), other.target, time.Now()); err != nil || p.Intent == nil {
		t.Errorf("got %+v, %v", p, err)
	}
}

func TestStrangersSignaturesDoNotStandInTheWay(t *testing.T) {
	b := newBench(t)
	junk := mutate.Addendum{Layer: ggcr.NewLayer([]byte("{}"), types.SimpleSigningMediaType), Annotations: map[string]string{static.SignatureAnnotationKey: "AAAA"}}
	b.rewrite(t, junk, junk)
	e := signed(t, b.m, b.target, b.key)
	b.w.Wire.Reset()
	if _, err := b.m.Verify(t.Context(), b.target, e); err != nil {
		t.Fatal(err)
	}
	if got := b.w.Wire.Requests(); len(got) != 2 {
		t.Errorf("Verify makes %d requests, want those for the manifest and one payload: %v", len(got), got)
	}
	if n := len(layers(t, b.target.Artifact)); n != 3 {
		t.Errorf("the digest has %d signatures", n)
	}
}

func TestEndlessSignaturesAreRefused(t *testing.T) {
	b := newBench(t)
	b.rewrite(t, slices.Repeat([]mutate.Addendum{{Layer: ggcr.NewLayer([]byte("{}"), types.SimpleSigningMediaType), Annotations: map[string]string{static.SignatureAnnotationKey: "AAAA"}}}, registry.MaxLayers+1)...)
	if _, err := b.m.Prepare(t.Context(), b.target, time.Now()); !errors.Is(err, signing.TooLarge) {
		t.Errorf("got %v", err)
	}
}

func TestListedSignatureThatTheRegistryDoesNotHaveIsNoAbsence(t *testing.T) {
	b := newBench(t)
	e := signed(t, b.m, b.target, b.key)
	b.w.Wire.Answer(func(r *http.Request) *http.Response {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return nil
		}
		return methodtest.Status(r, http.StatusNotFound, "BLOB_UNKNOWN", nil)
	})
	if p, err := b.m.Prepare(t.Context(), b.target, time.Now()); !errors.Is(err, signing.Unavailable) {
		t.Errorf("Prepare says %+v, %v", p, err)
	}
	if _, err := b.m.Verify(t.Context(), b.target, e); !errors.Is(err, signing.Unavailable) || errors.Is(err, method.ErrStaleBase) {
		t.Errorf("Verify says %v", err)
	}
}

func TestAlteredAnnotationOfAStoredIntentNeverBecomesAnEnvelope(t *testing.T) {
	b := newBench(t)
	b.target.Options = map[string]string{"annotations": "sourceRepositoryURI"}
	b.target.Origin.SourceRepositoryURI = "https://github.com/acme/web"
	p, err := b.m.Prepare(t.Context(), b.target, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	in := *p.Intent
	in.Bytes = bytes.ReplaceAll(in.Bytes, []byte("github.com/acme/web"), []byte("github.com/acme/api"))
	// Inspect sees repository, digest and tag, which are as they were.
	if said, err := b.m.Inspect(in); err != nil || said.Matches(b.target.Artifact) != nil {
		t.Fatalf("got %+v, %v", said, err)
	}
	if bytes.Equal(in.Bytes, p.Intent.Bytes) {
		t.Fatal("nothing was altered")
	}
	if _, err := b.m.Assemble(b.target, in, methodtest.Sign(t, b.key, in)); !errors.Is(err, signing.Denied) {
		t.Errorf("got %v", err)
	}
}

func TestIntentForAnotherAlgorithmIsRefused(t *testing.T) {
	b := newBench(t)
	p, err := b.m.Prepare(t.Context(), b.target, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	in := *p.Intent
	in.Hash = crypto.SHA512
	if _, err := b.m.Assemble(b.target, in, methodtest.Sign(t, b.key, in)); !errors.Is(err, signing.Denied) {
		t.Errorf("got %v", err)
	}
}
