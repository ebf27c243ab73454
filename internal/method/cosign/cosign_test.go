package cosign

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	libcosign "github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/method/methodtest"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

func p256(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// tagRef is the tag of the signatures of a.
func tagRef(t testing.TB, a signing.Artifact) name.Tag {
	t.Helper()
	return methodtest.Reference(t, a).Context().Tag(Tag(a.Digest))
}

// layers returns the layers of a's signatures as the registry has them.
func layers(t testing.TB, a signing.Artifact) []v1.Descriptor {
	t.Helper()
	img, err := remote.Image(tagRef(t, a))
	var te *transport.Error
	if errors.As(err, &te) && te.StatusCode == http.StatusNotFound {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	return m.Layers
}

func TestContract(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	edPublic, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	methodtest.Run(t, methodtest.Suite{
		New:     func(c *registry.Client) method.Method { return New(c) },
		Keys:    map[string]crypto.Signer{"P-256": p256(t), "P-384": p384, "P-521": p521, "RSA": r, "Ed25519": ed},
		Refused: map[string]crypto.PublicKey{"none": nil, "a pointer": &edPublic, "a value": p256(t).PublicKey},
		Tags:    true,
		Count:   func(t testing.TB, a signing.Artifact) int { return len(layers(t, a)) },
	})
	t.Run("with annotations", func(t *testing.T) {
		methodtest.Run(t, methodtest.Suite{
			New:     func(c *registry.Client) method.Method { return New(c) },
			Keys:    map[string]crypto.Signer{"a": p256(t), "b": p256(t)},
			Options: map[string]string{"annotations": "sourceRepositoryURI, sourceRepositoryDigest"},
			Origin:  signing.Origin{SourceRepositoryURI: "https://github.com/acme/web", SourceRepositoryDigest: "abc"},
			Tags:    true,
			Count:   func(t testing.TB, a signing.Artifact) int { return len(layers(t, a)) },
		})
	})
}

// signed publishes a signature of a by key, and returns what was published.
func signed(t *testing.T, m *Method, target method.Target, key crypto.Signer) signing.Envelope {
	t.Helper()
	p, err := m.Prepare(t.Context(), target, time.Now())
	if err != nil || p.Intent == nil {
		t.Fatalf("got %+v, %v", p, err)
	}
	e, err := m.Assemble(target, *p.Intent, methodtest.Sign(t, key, *p.Intent))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Publish(t.Context(), target, e); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Verify(t.Context(), target, e); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestPushedImageIsAcceptedByTheLibraryOfCosign(t *testing.T) {
	for _, referrers := range []bool{false, true} {
		w, key, m := methodtest.NewWorld(t, referrers), p256(t), (*Method)(nil)
		m = New(w.Client)
		target := method.Target{
			Artifact: w.Push(t, "acme/web"), Key: signing.KeyInfo{ID: "k", Public: key.Public()},
			Options: map[string]string{"annotations": "sourceRepositoryRef,buildTrigger"},
			Origin:  signing.Origin{SourceRepositoryRef: "refs/heads/<main>&", BuildTrigger: "push"},
		}
		target.Artifact.Tag = "v1"
		signed(t, m, target, key)

		info, err := m.Info(target.Key, target.Options)
		if err != nil {
			t.Fatal(err)
		}
		public, err := cryptoutils.UnmarshalPEMToPublicKey(info.Trust[0].Bytes)
		if err != nil {
			t.Fatal(err)
		}
		check := func(public crypto.PublicKey, a signing.Artifact, annotations map[string]any) error {
			v, err := signature.LoadVerifier(public, crypto.SHA256)
			if err != nil {
				t.Fatal(err)
			}
			co := &libcosign.CheckOpts{SigVerifier: v, ClaimVerifier: libcosign.SimpleClaimVerifier, Annotations: annotations, IgnoreTlog: true, IgnoreSCT: true, Offline: true}
			sigs, _, err := libcosign.VerifyImageSignatures(t.Context(), methodtest.Reference(t, a), co)
			if err == nil && len(sigs) != 1 {
				t.Errorf("cosign accepts %d signatures", len(sigs))
			}
			return err
		}
		if err := check(public, target.Artifact, map[string]any{"sourceRepositoryRef": "refs/heads/<main>&", "buildTrigger": "push"}); err != nil {
			t.Errorf("referrers=%t: %v", referrers, err)
		}
		if check(public, target.Artifact, map[string]any{"buildTrigger": "schedule"}) == nil {
			t.Error("cosign accepts another annotation")
		}
		if check(p256(t).Public(), target.Artifact, nil) == nil {
			t.Error("cosign accepts another key")
		}
		if check(public, w.Push(t, "acme/web"), nil) == nil {
			t.Error("cosign accepts another image")
		}
	}
}

func TestPayloadIsTheOneThatCosignAndContainersImageExpect(t *testing.T) {
	digest := signing.DigestOf([]byte("manifest"))
	for _, c := range []struct {
		artifact signing.Artifact
		options  map[string]string
		want     string
	}{
		{signing.Artifact{Repository: "registry.acme.dev/web", Digest: digest}, nil,
			`{"critical":{"identity":{"docker-reference":"registry.acme.dev/web"},"image":{"docker-manifest-digest":"DIGEST"},"type":"cosign container image signature"},"optional":null}`},
		{signing.Artifact{Repository: "registry.acme.dev:5000/web", Digest: digest, Tag: "v1"}, map[string]string{"annotations": "sourceRepositoryRef"},
			`{"critical":{"identity":{"docker-reference":"registry.acme.dev:5000/web:v1"},"image":{"docker-manifest-digest":"DIGEST"},"type":"cosign container image signature"},"optional":{"sourceRepositoryRef":"refs/heads/main"}}`},
		{signing.Artifact{Repository: "docker.io/library/web", Digest: digest}, nil,
			`{"critical":{"identity":{"docker-reference":"docker.io/library/web"},"image":{"docker-manifest-digest":"DIGEST"},"type":"cosign container image signature"},"optional":null}`},
	} {
		got, err := payloadFor(method.Target{Artifact: c.artifact, Options: c.options, Origin: signing.Origin{SourceRepositoryRef: "refs/heads/main"}})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(strings.ReplaceAll(c.want, "DIGEST", string(digest)), string(got)); diff != "" {
			t.Error(diff)
		}
	}
}

func TestAnnotationsAreFieldsOfTheOriginByTheirJSONNames(t *testing.T) {
	// An origin whose every text field holds its own JSON name.
	names := map[string]any{}
	for n := range method.OriginFields(signing.Origin{}) {
		names[n] = n
	}
	raw, err := json.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	var o signing.Origin
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&o); err != nil {
		t.Fatal(err)
	}
	for n, v := range method.OriginFields(o) {
		if n != v {
			t.Errorf("annotation %s is the field %s", n, v)
		}
	}
}

func TestOptionsThatCannotBeSignedAreRefused(t *testing.T) {
	key := signing.KeyInfo{ID: "k", Public: p256(t).Public()}
	for _, o := range []map[string]string{
		{"annotations": ""}, {"annotations": "actor"}, {"annotations": "sourceRepositoryURI,sourceRepositoryURI"},
		{"annotations": "sourceRepositoryURI,"}, {"annotations": "SourceRepositoryURI"}, {"formats": "bundle"},
	} {
		if _, err := New(nil).Info(key, o); !errors.Is(err, signing.Invalid) {
			t.Errorf("%v: %v", o, err)
		}
	}
	_, err := payloadFor(method.Target{Artifact: signing.Artifact{Repository: "registry.acme.dev/web", Digest: signing.DigestOf(nil)}, Options: map[string]string{"annotations": "deploymentEnvironment"}})
	if !errors.Is(err, signing.Denied) {
		t.Errorf("an annotation without a value: %v", err)
	}
	_, err = payloadFor(method.Target{Artifact: signing.Artifact{Repository: "registry.acme.dev/web", Digest: signing.DigestOf(nil)}, Options: map[string]string{"annotations": "buildTrigger"}, Origin: signing.Origin{BuildTrigger: strings.Repeat("x", MaxPayload)}})
	if !errors.Is(err, signing.TooLarge) {
		t.Errorf("an endless annotation: %v", err)
	}
}

const goodPayload = `{"critical":{"identity":{"docker-reference":"registry.acme.dev/web:v1"},"image":{"docker-manifest-digest":"sha256:d34db33fd34db33fd34db33fd34db33fd34db33fd34db33fd34db33fd34db33f"},"type":"cosign container image signature"},"optional":{"buildTrigger":"push"}}`

// mutations are payloads that say nearly what goodPayload says.
func mutations() map[string]string {
	r := func(old, with string) string {
		if !strings.Contains(goodPayload, old) {
			panic(old)
		}
		return strings.Replace(goodPayload, old, with, 1)
	}
	return map[string]string{
		"nothing":                "",
		"null":                   "null",
		"unknown key":            r(`"optional"`, `"extra":1,"optional"`),
		"unknown key inside":     r(`"type"`, `"extra":1,"type"`),
		"repeated digest":        r(`"image":{`, `"image":{"docker-manifest-digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000",`),
		"repeated critical":      r(`"optional"`, `"critical":{},"optional"`),
		"other case of a key":    r(`"type"`, `"Type"`),
		"second case of a key":   r(`"type"`, `"Type":"atomic container signature","type"`),
		"atomic type":            r("cosign container image signature", "atomic container signature"),
		"type with a space":      r("signature\"}", "signature \"}"),
		"no type":                r(`,"type":"cosign container image signature"`, ``),
		"white space":            r(`:{"identity"`, `: {"identity"`),
		"line break at the end":  goodPayload + "\n",
		"second document":        goodPayload + goodPayload,
		"escape":                 r("registry", `\u0072egistry`),
		"another algorithm":      r("sha256:", "sha512:"),
		"upper-case digest":      r("d34db33f", "D34DB33F"),
		"digest in reference":    r(`web:v1`, `web@sha256:d34db33fd34db33fd34db33fd34db33fd34db33fd34db33fd34db33fd34db33f`),
		"reference without host": r(`registry.acme.dev/web`, `web`),
		"unknown annotation":     r("buildTrigger", "approved"),
		"annotation of a number": r(`"push"`, `1`),
		"annotation of nothing":  r(`"push"`, `""`),
		"optional is a list":     r(`{"buildTrigger":"push"}`, `[]`),
		"optional is empty":      r(`{"buildTrigger":"push"}`, `{}`),
		"optional is missing":    r(`,"optional":{"buildTrigger":"push"}`, ``),
		"too large":              r("push", strings.Repeat("x", MaxPayload)),
	}
}

func TestPayloadInAnyOtherFormIsRefusedByInspect(t *testing.T) {
	m := New(nil)
	said, err := m.Inspect(signing.Intent{Bytes: []byte(goodPayload)})
	want := signing.Statement{Repository: "registry.acme.dev/web", Digest: "sha256:d34db33fd34db33fd34db33fd34db33fd34db33fd34db33fd34db33fd34db33f", Tag: "v1"}
	if err != nil || !reflect.DeepEqual(said, want) {
		t.Fatalf("got %+v, %v", said, err)
	}
	for name, p := range mutations() {
		if _, err := m.Inspect(signing.Intent{Bytes: []byte(p)}); !errors.Is(err, signing.Denied) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzInspectAcceptsOnlyWhatItWouldWrite(f *testing.F) {
	f.Add([]byte(goodPayload))
	for _, p := range mutations() {
		f.Add([]byte(p))
	}
	m := New(nil)
	f.Fuzz(func(t *testing.T, raw []byte) {
		said, err := m.Inspect(signing.Intent{Bytes: raw})
		if err != nil {
			if !errors.Is(err, signing.Denied) {
				t.Fatalf("got %v", err)
			}
			return
		}
		a := signing.Artifact{Repository: said.Repository, Digest: said.Digest, Tag: said.Tag}
		if err := a.Validate(); err != nil {
			t.Fatalf("accepted %q: %v", raw, err)
		}
		// An independent reader finds the same statement.
		var p payload.SimpleContainerImage
		if err := json.Unmarshal(raw, &p); err != nil {
			t.Fatal(err)
		}
		ref := string(a.Repository)
		if a.Tag != "" {
			ref += ":" + a.Tag
		}
		if p.Critical.Identity.DockerReference != ref || p.Critical.Image.DockerManifestDigest != string(a.Digest) {
			t.Fatalf("%q says something else than %+v", raw, said)
		}
	})
}

func FuzzEnvelopeIsRefusedOrTheOneThatWasMade(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	m := New(nil)
	target := method.Target{Artifact: signing.Artifact{Repository: "registry.acme.dev/web", Digest: signing.DigestOf(nil)}, Key: signing.KeyInfo{ID: "k", Public: key.Public()}}
	p, err := payloadFor(target)
	if err != nil {
		f.Fatal(err)
	}
	in := signing.Intent{Bytes: p, Hash: crypto.SHA256}
	e, err := m.Assemble(target, in, methodtest.Sign(f, key, in))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(e.Bytes)
	f.Add([]byte(`{"payload":"","signature":""}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c := e
		c.Bytes = raw
		a, err := m.Attachment(target, c)
		if err == nil && !bytes.Equal(a.Layers[0].Bytes, p) {
			t.Fatalf("accepted %q", raw)
		}
	})
}
