package notation

import (
	"bytes"
	"context"
	"crypto"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"
	notationgo "github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/signer"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/method/methodtest"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

// bench is one image on a registry and a key to sign it.
type bench struct {
	w      *methodtest.World
	m      *Method
	key    crypto.Signer
	target method.Target
}

func newBench(t *testing.T) bench {
	w, key := methodtest.NewWorld(t, false), ec(t, elliptic.P256())
	return bench{w, New(w.Client), key, method.Target{
		Artifact: w.Push(t, "acme/web"), Key: signing.KeyInfo{ID: "k", Public: key.Public(), Chain: chainOf(t, key.Public(), from, to)}, Options: map[string]string{"expiry": "720h"},
	}}
}

// made returns the envelope of a target, signed at a time.
func (b bench) made(t *testing.T, at time.Time) signing.Envelope {
	t.Helper()
	offline := b.target
	offline.Offline = true
	p, err := b.m.Prepare(t.Context(), offline, at)
	if err != nil {
		t.Fatal(err)
	}
	e, err := b.m.Assemble(b.target, *p.Intent, methodtest.Sign(t, b.key, *p.Intent))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (b bench) signedAt(t *testing.T, at time.Time) signing.Envelope {
	t.Helper()
	e := b.made(t, at)
	if _, err := b.m.Publish(t.Context(), b.target, e); err != nil {
		t.Fatal(err)
	}
	return e
}

func (b bench) signed(t *testing.T) signing.Envelope { return b.signedAt(t, time.Now()) }

// recognised reports whether Prepare makes nothing new.
func (b bench) recognised(t *testing.T, at time.Time) bool {
	t.Helper()
	p, err := b.m.Prepare(t.Context(), b.target, at)
	if err != nil {
		t.Fatal(err)
	}
	return p.Intent == nil && len(p.Recognised) == 1
}

// attach publishes an envelope's attachment, changed by f, behind the method's back.
func (b bench) attach(t *testing.T, e signing.Envelope, f func(*signing.Attachment)) {
	t.Helper()
	a, err := b.m.Attachment(b.target, e)
	if err != nil {
		t.Fatal(err)
	}
	a.Annotations = maps.Clone(a.Annotations)
	f(&a)
	if _, err := b.w.Client.Attach(t.Context(), a); err != nil {
		t.Fatal(err)
	}
}

func TestSignatureThatSaysTheSameForLongEnoughIsNotMadeAgain(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		edit func(b *bench)
		at   time.Time
		want bool
	}{
		"the same":                             {func(*bench) {}, now, true},
		"with more than a third of its life":   {func(*bench) {}, now.Add(479 * time.Hour), true},
		"with less than a third":               {func(*bench) {}, now.Add(481 * time.Hour), false},
		"valid longer than the policy wants":   {func(b *bench) { b.target.Options = map[string]string{"expiry": "24h"} }, now, false},
		"valid less than a third of the asked": {func(b *bench) { b.target.Options = map[string]string{"expiry": "2161h"} }, now, false},
		"expires, and none is asked":           {func(b *bench) { b.target.Options = nil }, now, false},
		"in the other format":                  {func(b *bench) { b.target.Options["format"] = "cose" }, now, false},
		"without the metadata that is asked": {func(b *bench) {
			b.target.Options["userMetadata"] = "buildTrigger"
			b.target.Origin.BuildTrigger = "push"
		}, now, false},
		"by the same key with renewed certificates": {func(b *bench) { b.target.Key.Chain = chainOf(t, b.key.Public(), from, to) }, now, false},
		"on another image":                          {func(b *bench) { b.target.Artifact = b.w.Push(t, "acme/web") }, now, false},
		"the repository's tag is no part of it":     {func(b *bench) { b.target.Artifact.Tag = "v1" }, now, true},
	} {
		b := newBench(t)
		b.signedAt(t, now)
		c.edit(&b)
		if got := b.recognised(t, c.at); got != c.want {
			t.Errorf("%s: recognised %t, want %t", name, got, c.want)
		}
	}
	b := newBench(t)
	b.target.Options = nil
	b.signedAt(t, now)
	b.target.Options = map[string]string{"expiry": "24h"}
	if b.recognised(t, now) {
		t.Error("a signature without expiry is taken for one with")
	}
	b = newBench(t)
	b.target.Options["userMetadata"], b.target.Origin.BuildTrigger = "buildTrigger", "push"
	b.signedAt(t, now)
	b.target.Options = map[string]string{"expiry": "720h"}
	if b.recognised(t, now) {
		t.Error("a signature that says more than is asked is taken for the asked one")
	}
}

func TestStrippedThumbprintChangesNothing(t *testing.T) {
	b := newBench(t)
	b.attach(t, b.made(t, time.Now()), func(a *signing.Attachment) { delete(a.Annotations, thumbprints) })
	if !b.recognised(t, time.Now()) {
		t.Error("verifiers accept it, and it is made again")
	}
}

func TestRenewedCertificatesWithoutThumbprintsAreAnotherSignature(t *testing.T) {
	b, root := newBench(t), issue(t, caTemplate("root"), ec(t, elliptic.P256()), nil)
	// The same root and subject: notation itself would take one for the other.
	b.target.Key.Chain = []*x509.Certificate{issue(t, leafTemplate(), b.key, &root).cert, root.cert}
	b.attach(t, b.made(t, time.Now()), func(a *signing.Attachment) { delete(a.Annotations, thumbprints) })
	b.target.Key.Chain = []*x509.Certificate{issue(t, leafTemplate(), b.key, &root).cert, root.cert}
	if b.recognised(t, time.Now()) {
		t.Error("a signature by older certificates is taken for one by the present")
	}
}

func TestSignatureThatSomeoneAlteredInTheRegistryIsNeitherVerifiedNorRecognised(t *testing.T) {
	other := ec(t, elliptic.P256())
	for name, f := range map[string]func(b bench, e *[]byte){
		"an altered signature": func(_ bench, e *[]byte) {
			i := bytes.Index(*e, []byte(`"signature":"`)) + 20
			(*e)[i] ^= 3
		},
		"an altered payload": func(_ bench, e *[]byte) {
			i := bytes.Index(*e, []byte(`"payload":"`)) + 60
			(*e)[i] ^= 3
		},
		"other certificates": func(b bench, e *[]byte) {
			b.target.Key = signing.KeyInfo{ID: "k", Public: other.Public(), Chain: chainOf(t, other.Public(), from, to)}
			b.key = other
			*e = b.made(t, time.Now()).Bytes
		},
		"nothing": func(_ bench, e *[]byte) { *e = []byte("{}") },
	} {
		b := newBench(t)
		e := b.made(t, time.Now())
		altered := bytes.Clone(e.Bytes)
		f(b, &altered)
		if bytes.Equal(altered, e.Bytes) {
			t.Fatalf("%s: nothing was altered", name)
		}
		b.attach(t, e, func(a *signing.Attachment) { a.Layers[0].Bytes = altered })
		if b.recognised(t, time.Now()) {
			t.Errorf("%s: recognised", name)
		}
		if _, err := b.m.Verify(t.Context(), b.target, e); !errors.Is(err, method.ErrStaleBase) {
			t.Errorf("%s: Verify says %v", name, err)
		}
		// Publishing makes it good, and keeps what is there.
		if _, err := b.m.Publish(t.Context(), b.target, e); err != nil {
			t.Fatal(err)
		}
		if _, err := b.m.Verify(t.Context(), b.target, e); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if n := count(t, b.target.Artifact); n != 2 {
			t.Errorf("%s: the digest has %d signatures", name, n)
		}
	}
}

func TestSignatureCopiedFromAnotherDigestIsNotRecognised(t *testing.T) {
	b := newBench(t)
	e := b.made(t, time.Now())
	other := b.w.Push(t, "acme/web")
	b.attach(t, e, func(a *signing.Attachment) { a.Subject = other })
	b.target.Artifact = other
	if b.recognised(t, time.Now()) {
		t.Error("a signature of another image is taken for one of this")
	}
}

func TestSignatureMadeByNotationItselfIsRecognised(t *testing.T) {
	b := newBench(t)
	b.target.Options = map[string]string{"expiry": "720h", "format": "jws"}
	s, err := signer.NewGenericSigner(b.key, b.target.Key.Chain)
	if err != nil {
		t.Fatal(err)
	}
	a := b.target.Artifact
	raw, _, err := s.Sign(context.Background(), ocispec.Descriptor{MediaType: a.MediaType, Digest: digest.Digest(a.Digest), Size: a.Size}, notationgo.SignerSignOptions{SignatureMediaType: mediaTypes["jws"], ExpiryDuration: 720 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	prints, err := thumbprintsOf(b.target.Key.Chain)
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.w.Client.Attach(t.Context(), signing.Attachment{Subject: a, ArtifactType: ArtifactType, Config: signing.Blob{MediaType: ArtifactType, Bytes: []byte("{}")},
		Layers: []signing.Blob{{MediaType: mediaTypes["jws"], Bytes: raw}}, Annotations: map[string]string{thumbprints: prints}})
	if err != nil {
		t.Fatal(err)
	}
	if !b.recognised(t, time.Now().Add(time.Second)) {
		t.Error("not recognised")
	}
}

func TestStrangersSignaturesDoNotStandInTheWay(t *testing.T) {
	b := newBench(t)
	e := b.made(t, time.Now())
	for _, f := range []func(*signing.Attachment){
		func(a *signing.Attachment) { a.Layers[0].Bytes = []byte("junk") },
		func(a *signing.Attachment) { a.Layers[0].Bytes = make([]byte, MaxEnvelope+1) },
		func(a *signing.Attachment) {
			a.Layers = append(a.Layers, signing.Blob{MediaType: "x/y", Bytes: []byte("two")})
		},
		func(a *signing.Attachment) { a.Layers[0].MediaType = "application/cose" },
		func(a *signing.Attachment) {
			a.Annotations[thumbprints] = `["00"]`
			a.Layers[0].Bytes = []byte("theirs")
		},
	} {
		b.attach(t, e, f)
	}
	if b.recognised(t, time.Now()) {
		t.Fatal("junk is recognised")
	}
	if _, err := b.m.Publish(t.Context(), b.target, e); err != nil {
		t.Fatal(err)
	}
	b.w.Wire.Reset()
	if _, err := b.m.Verify(t.Context(), b.target, e); err != nil {
		t.Fatal(err)
	}
	if got := b.w.Wire.Requests(); len(got) != 4 {
		t.Errorf("Verify makes %d requests, want those for the list (two where there is no API), the manifest and the envelope: %v", len(got), got)
	}
	if !b.recognised(t, time.Now()) {
		t.Error("the good one is not recognised beside junk")
	}
}

func TestEndlessSignaturesAreRefused(t *testing.T) {
	b := newBench(t)
	e := b.made(t, time.Now())
	for i := range MaxSignatures + 1 {
		b.attach(t, e, func(a *signing.Attachment) { a.Annotations["n"] = strings.Repeat("x", i) })
		if i+1 == MaxSignatures && !b.recognised(t, time.Now()) {
			t.Error("as many as notation looks at are too many")
		}
	}
	if _, err := b.m.Prepare(t.Context(), b.target, time.Now()); !errors.Is(err, signing.TooLarge) {
		t.Errorf("Prepare says %v", err)
	}
	if _, err := b.m.Verify(t.Context(), b.target, e); !errors.Is(err, signing.TooLarge) {
		t.Errorf("Verify says %v", err)
	}
}

func TestListedSignatureThatTheRegistryDoesNotHaveIsNoAbsence(t *testing.T) {
	b := newBench(t)
	e := b.signed(t)
	for _, what := range []string{"/manifests/sha256:", "/blobs/"} {
		b.w.Wire.Answer(func(r *http.Request) *http.Response {
			if !strings.Contains(r.URL.Path, what) {
				return nil
			}
			return methodtest.Status(r, http.StatusNotFound, "BLOB_UNKNOWN", nil)
		})
		if p, err := b.m.Prepare(t.Context(), b.target, time.Now()); !errors.Is(err, signing.Unavailable) {
			t.Errorf("%s: Prepare says %+v, %v", what, p, err)
		}
		if _, err := b.m.Verify(t.Context(), b.target, e); !errors.Is(err, signing.Unavailable) || errors.Is(err, method.ErrStaleBase) {
			t.Errorf("%s: Verify says %v", what, err)
		}
	}
}

func TestImageIsVerifiedByTheRootAndTheSubjectOfTheKey(t *testing.T) {
	b := newBench(t)
	verify := func(a signing.Artifact, k signing.KeyInfo) (int, error) { return b.m.VerifyImage(t.Context(), a, k) }
	bare := signing.Artifact{Repository: b.target.Artifact.Repository, Digest: b.target.Artifact.Digest}
	if n, err := verify(bare, b.target.Key); n != 0 || !errors.Is(err, signing.Denied) {
		t.Errorf("unsigned: %d, %v", n, err)
	}
	e := b.signedAt(t, time.Now().Add(-time.Hour))
	b.attach(t, e, func(a *signing.Attachment) { a.Layers[0].Bytes = []byte("junk") })
	b.target.Options = map[string]string{"format": "cose"}
	b.signed(t)
	if n, err := verify(bare, b.target.Key); n != 2 || err != nil {
		t.Errorf("signed twice: %d, %v", n, err)
	}
	other := ec(t, elliptic.P256())
	root, middle, leaf := chainParts(t, other, nil)
	for what, k := range map[string]signing.KeyInfo{
		"another root": {ID: "k", Public: b.key.Public(), Chain: chainOf(t, b.key.Public(), from, to)},
		"another key":  {ID: "k", Public: other.Public(), Chain: []*x509.Certificate{leaf, middle, root}},
	} {
		if n, err := verify(bare, k); n != 0 || !errors.Is(err, signing.Denied) {
			t.Errorf("%s: %d, %v", what, n, err)
		}
	}
	if n, err := verify(bare, signing.KeyInfo{ID: "k", Public: b.key.Public()}); n != 0 || !errors.Is(err, signing.Invalid) {
		t.Errorf("no certificates: %d, %v", n, err)
	}
	b.w.Wire.Answer(func(r *http.Request) *http.Response {
		return methodtest.Status(r, http.StatusBadGateway, "UNKNOWN", nil)
	})
	if n, err := verify(b.target.Artifact, b.target.Key); n != 0 || !errors.Is(err, signing.Unavailable) {
		t.Errorf("a registry that is down: %d, %v", n, err)
	}
}

func TestPublishedReferrerIsInTheFormThatNotationWrites(t *testing.T) {
	b := newBench(t)
	at := time.Date(2026, 11, 23, 12, 0, 0, 5, time.UTC)
	e := b.signedAt(t, at)
	index, err := remote.Referrers(methodtest.Reference(t, b.target.Artifact))
	if err != nil {
		t.Fatal(err)
	}
	list, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	d := list.Manifests[0]
	raw, got, err := b.w.Client.Manifest(t.Context(), b.target.Artifact.Repository, d.Digest.String())
	if err != nil {
		t.Fatal(err)
	}
	m, err := registry.ParseManifest(raw, got.MediaType)
	if err != nil {
		t.Fatal(err)
	}
	prints, err := thumbprintsOf(b.target.Key.Chain)
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case d.ArtifactType != ArtifactType || m.ArtifactType != ArtifactType || m.Config.MediaType != ArtifactType || m.Config.Size != 2:
		t.Errorf("types: %s, %s, %+v", d.ArtifactType, m.ArtifactType, m.Config)
	case m.Subject.Digest != b.target.Artifact.Digest || m.Subject.MediaType != b.target.Artifact.MediaType || m.Subject.Size != b.target.Artifact.Size:
		t.Errorf("subject %+v", m.Subject)
	case m.Annotations[thumbprints] != prints || m.Annotations[ocispec.AnnotationCreated] != "2026-11-23T12:00:00Z" || len(m.Annotations) != 2:
		t.Errorf("annotations %v", m.Annotations)
	case len(m.Layers) != 1 || m.Layers[0].MediaType != "application/jose+json" || m.Layers[0].Size != int64(len(e.Bytes)):
		t.Errorf("layers %+v", m.Layers)
	}
}

func pemBytes(t *testing.T, raw []byte) []byte {
	t.Helper()
	block, rest := pem.Decode(raw)
	if block == nil || len(rest) > 0 {
		t.Fatalf("not one PEM block: %s", raw)
	}
	return block.Bytes
}
