//go:build conformance

package conformance

import (
	"bytes"
	"crypto"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	cbundle "github.com/sigstore/cosign/v2/pkg/cosign/bundle"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/dsse"

	"github.com/sealwright/sealwright/internal/devworld"
)

const bundleType = "application/vnd.dev.sigstore.bundle.v0.3+json"

// bundles is the Sigstore bundle v0.3 that cosign 3 attaches as a referrer.
func bundles() format {
	return format{
		name: "bundle", title: "cosign, bundle v0.3",
		signers: []signer{cosignSigner("cosign3", "--use-signing-config=false")},
		step:    bundleStep, kinds: keyKinds,
		verifiers: []verifier{
			{"cosign3", "cosign 3.1.3, `verify --key`", cosignVerify("cosign3")},
			{"cosign2-root", "cosign 2.6.5, `verify --key --trusted-root` with an empty trusted root", withEmptyRoot()},
			{"cosign2", "cosign 2.6.5, `verify --key`, without a network", cosignVerify("cosign2")},
			{"cosign3-legacy", "cosign 3.1.3, `verify --key --new-bundle-format=false`", cosignVerify("cosign3", "--new-bundle-format=false")},
			{"image", "containers/image 5.42.0, `sigstoreSigned`, `matchRepository`", imageVerify("matchRepository")},
		},
		mutations: bundleMutations(),
	}
}

func bundleMutations() []mutation {
	both := []string{"cosign3", "cosign2-root"}
	// altered replaces the bundle of the image by one that change made of it.
	altered := func(change func(t *testing.T, s signed, b bundle)) func(*testing.T, signed) (string, string) {
		return func(t *testing.T, s signed) (string, string) {
			b := bundleOf(t, s.image)
			change(t, s, b)
			replaceBundles(t, s.image, b)
			return s.image.Reference(), s.public
		}
	}
	return []mutation{
		{name: "none", what: "the signed image itself", accepts: both, make: func(_ *testing.T, s signed) (string, string) {
			return s.image.Reference(), s.public
		}, why: "cosign 2 takes no bundle without a trusted root; the others do not see bundles"},
		{name: "other image", what: "its bundle, put on another image of the repository", make: func(t *testing.T, s signed) (string, string) {
			replaceBundles(t, s.other, bundleOf(t, s.image))
			return s.other.Reference(), s.public
		}},
		{name: "other key", what: "verified with a key that did not sign", make: func(_ *testing.T, s signed) (string, string) {
			return s.image.Reference(), s.strangerPublic
		}},
		{name: "altered payload", what: "a word added to the predicate", make: altered(func(t *testing.T, _ signed, b bundle) {
			b.setPayload(t, bytes.Replace(b.payload(t), []byte(`{}`), []byte(`{"approved":"yes"}`), 1))
		})},
		{name: "payload of the other image", what: "the statement names the other image, the signature is as it was", make: func(t *testing.T, s signed) (string, string) {
			b := bundleOf(t, s.image)
			b.setPayload(t, bytes.ReplaceAll(b.payload(t), []byte(hexOf(s.image)), []byte(hexOf(s.other))))
			replaceBundles(t, s.other, b)
			return s.other.Reference(), s.public
		}},
		{name: "altered signature", what: "one character of the signature changed", make: altered(func(t *testing.T, _ signed, b bundle) {
			sig := b.signature(t)
			sig["sig"] = alterText(sig["sig"].(string))
		})},
		{name: "no signature", what: "the list of signatures emptied", make: altered(func(_ *testing.T, _ signed, b bundle) {
			b["dsseEnvelope"].(map[string]any)["signatures"] = []any{}
		})},
		{name: "other type", what: "the payload type is not that of in-toto", make: altered(func(_ *testing.T, _ signed, b bundle) {
			b["dsseEnvelope"].(map[string]any)["payloadType"] = "text/plain"
		})},
		{name: "older version", what: "the bundle says that it is a v0.1", make: altered(func(_ *testing.T, _ signed, b bundle) {
			b["mediaType"] = "application/vnd.dev.sigstore.bundle+json;version=0.1"
		})},
		{name: "other hint", what: "the hint names another key", accepts: both, make: altered(func(_ *testing.T, _ signed, b bundle) {
			b["verificationMaterial"].(map[string]any)["publicKey"].(map[string]any)["hint"] = "c29tZWJvZHkgZWxzZQ=="
		}), why: "the hint is unsigned, and the verifier brings its own key"},
		{name: "stripped annotations", what: "the referrer without its annotations", accepts: both, make: func(t *testing.T, s signed) (string, string) {
			b := bundleOf(t, s.image)
			clearReferrers(t, s.image)
			attach(t, s.image, b, nil)
			return s.image.Reference(), s.public
		}, why: "cosign looks at the layer alone"},
		{name: "removed", what: "the referrer taken out of the list", make: func(t *testing.T, s signed) (string, string) {
			clearReferrers(t, s.image)
			return s.image.Reference(), s.public
		}},
		{name: "moved", what: "image and bundle copied to another repository", accepts: both, make: func(t *testing.T, s signed) (string, string) {
			moved := copyImage(t, s)
			replaceBundles(t, moved, bundleOf(t, s.image))
			return moved.Reference(), s.public
		}, why: "a statement names a digest and no repository"},
		{name: "bad one beside it", what: "a broken bundle beside the good one", accepts: both, make: func(t *testing.T, s signed) (string, string) {
			good, bad := bundleOf(t, s.image), bundleOf(t, s.image)
			sig := bad.signature(t)
			sig["sig"] = alterText(sig["sig"].(string))
			replaceBundles(t, s.image, bad, good)
			return s.image.Reference(), s.public
		}, why: "one good signature is enough; a broken one beside it is skipped"},
		{name: "another statement", what: "instead of a signature, a statement of the same key that says that tests failed", accepts: both, make: func(t *testing.T, s signed) (string, string) {
			replaceBundles(t, s.image, statementBy(t, s))
			return s.image.Reference(), s.public
		}, why: "cosign takes every statement of the key about the image for its signature, whatever it says: a key that signs images must sign nothing else"},
	}
}

// bundle is one as JSON, so that any part of it can be changed.
type bundle map[string]any

func (b bundle) signature(t *testing.T) map[string]any {
	t.Helper()
	list := b["dsseEnvelope"].(map[string]any)["signatures"].([]any)
	if len(list) != 1 {
		t.Fatalf("%d signatures", len(list))
	}
	return list[0].(map[string]any)
}

func (b bundle) payload(t *testing.T) []byte {
	t.Helper()
	var out []byte
	raw, err := json.Marshal(b["dsseEnvelope"].(map[string]any)["payload"])
	if err == nil {
		err = json.Unmarshal(raw, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// setPayload changes the signed statement; it has to become another.
func (b bundle) setPayload(t *testing.T, payload []byte) {
	t.Helper()
	if bytes.Equal(payload, b.payload(t)) {
		t.Fatalf("nothing is altered in %s", payload)
	}
	b["dsseEnvelope"].(map[string]any)["payload"] = payload
}

func hexOf(image devworld.Image) string { return strings.TrimPrefix(image.Digest, "sha256:") }

func reference(t *testing.T, image devworld.Image) name.Digest {
	t.Helper()
	ref, err := name.NewDigest(image.Reference())
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// referrers lists what refers to an image.
func referrers(t *testing.T, image devworld.Image) []v1.Descriptor {
	t.Helper()
	index, err := remote.Referrers(reference(t, image), remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	return m.Manifests
}

// bundleOf returns the one bundle of an image.
func bundleOf(t *testing.T, image devworld.Image) bundle {
	t.Helper()
	list := referrers(t, image)
	if len(list) != 1 {
		t.Fatalf("%s has %d referrers", image.Reference(), len(list))
	}
	img, err := remote.Image(reference(t, image).Digest(list[0].Digest.String()), remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	var b bundle
	if err := json.Unmarshal(content(t, img), &b); err != nil {
		t.Fatal(err)
	}
	return b
}

// content returns the first layer of an image, which has one at least.
func content(t *testing.T, img v1.Image) []byte {
	t.Helper()
	layers, err := img.Layers()
	if err != nil || len(layers) < 1 {
		t.Fatalf("%d layers: %v", len(layers), err)
	}
	r, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// clearReferrers makes the list of an image's referrers empty. A registry with
// the API keeps it by itself; without, it is the index at the fallback tag.
func clearReferrers(t *testing.T, image devworld.Image) {
	t.Helper()
	for _, d := range referrers(t, image) {
		_ = remote.Delete(reference(t, image).Digest(d.Digest.String()), remote.WithContext(t.Context())) // distribution refuses
	}
	if len(referrers(t, image)) > 0 {
		tag := reference(t, image).Context().Tag(strings.Replace(image.Digest, ":", "-", 1))
		if err := remote.WriteIndex(tag, mutate.IndexMediaType(empty.Index, types.OCIImageIndex), remote.WithContext(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(referrers(t, image)); n > 0 {
		t.Fatalf("%s still has %d referrers", image.Reference(), n)
	}
}

// attach writes a bundle as a referrer.
func attach(t *testing.T, image devworld.Image, b bundle, annotations map[string]string) {
	t.Helper()
	raw, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	ref := reference(t, image)
	subject, err := remote.Head(ref, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), "application/vnd.oci.empty.v1+json")
	if img, err = mutate.Append(img, mutate.Addendum{Layer: static.NewLayer(raw, bundleType), MediaType: bundleType}); err != nil {
		t.Fatal(err)
	}
	img = mutate.Subject(mutate.Annotations(img, annotations).(v1.Image), *subject).(v1.Image)
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref.Context().Digest(d.String()), img, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// replaceBundles makes list the bundles of an image.
func replaceBundles(t *testing.T, image devworld.Image, list ...bundle) {
	t.Helper()
	clearReferrers(t, image)
	for _, b := range list {
		attach(t, image, b, map[string]string{"dev.sigstore.bundle.content": "dsse-envelope", "dev.sigstore.bundle.predicateType": "https://sigstore.dev/cosign/sign/v1"})
	}
}

// statementBy has the key of a signer say something else of its image.
func statementBy(t *testing.T, s signed) bundle {
	t.Helper()
	const payloadType = "application/vnd.in-toto+json"
	statement := []byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"` + hexOf(s.image) + `"}}],"predicateType":"https://in-toto.io/attestation/test-result/v0.1","predicate":{"result":"FAILED"}}`)
	sv, err := signature.LoadSignerVerifier(s.key, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := dsse.WrapSigner(sv, payloadType).SignMessage(bytes.NewReader(statement))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := cbundle.MakeNewBundle(s.key.Public(), nil, statement, envelope, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var b bundle
	if err := json.Unmarshal(raw, &b); err != nil {
		t.Fatal(err)
	}
	return b
}

// One bundle beside a `.sig` is what makes cosign 2 ask for a trusted root.
func TestBothFormatsBesideEachOtherAreForThoseWhoseCosign2HasATrustedRoot(t *testing.T) {
	hosts := registries(t)
	for _, kind := range slices.Sorted(maps.Keys(hosts)) {
		t.Run(kind, func(t *testing.T) {
			h := serviceSigner("sealwright", "{method: cosign, key: release, formats: [legacy, bundle]}", nil).open(t, hosts[kind])
			image := push(t, hosts[kind], "both formats")
			if err := h.sign(image.Reference()); err != nil {
				t.Fatal(err)
			}
			for _, v := range bundles().verifiers {
				check(t, v, image.Reference(), h.public, v.name != "cosign2")
			}
		})
	}
}

func TestAnnotationsOfABundleAreWhatCosignLooksFor(t *testing.T) {
	hosts := registries(t)
	for _, kind := range slices.Sorted(maps.Keys(hosts)) {
		t.Run(kind, func(t *testing.T) {
			h := serviceSigner("sealwright", `{method: cosign, key: release, formats: [legacy, bundle], options: {annotations: "sourceRepositoryRef,buildTrigger"}}`, nil).open(t, hosts[kind])
			image := push(t, hosts[kind], "annotations")
			if err := h.sign(image.Reference()); err != nil {
				t.Fatal(err)
			}
			for flag, accept := range map[string]bool{"buildTrigger=push": true, "sourceRepositoryRef=refs/heads/main": true, "buildTrigger=schedule": false, "approved=yes": false} {
				for _, v := range []verifier{
					{"cosign3", "", cosignVerify("cosign3", "-a", flag)},
					{"cosign3-legacy", "", cosignVerify("cosign3", "--new-bundle-format=false", "-a", flag)},
				} {
					check(t, v, image.Reference(), h.public, accept)
				}
				// cosign 2 does not look at the annotations of bundles.
				check(t, verifier{"cosign2-root", "", withEmptyRoot("-a", flag)}, image.Reference(), h.public, true)
			}
		})
	}
}

// everyManifest has the verifiers judge what is below an index one by one.
func TestRecursiveSigningCoversEachManifestAndEveryKindOfThem(t *testing.T) {
	hosts := registries(t)
	for _, kind := range slices.Sorted(maps.Keys(hosts)) {
		t.Run(kind, func(t *testing.T) {
			host := hosts[kind]
			for step, accepting := range map[string][]verifier{
				"{method: cosign, key: release, recursive: true}":                    legacy().verifiers,
				"{method: cosign, key: release, recursive: true, formats: [bundle]}": bundles().verifiers[:2],
				"{method: cosign, key: release}":                                     nil,
			} {
				h := serviceSigner("sealwright", step, nil).open(t, host)
				image := push(t, host, "recursive "+step)
				if err := h.sign(image.Reference()); err != nil {
					t.Fatal(err)
				}
				for _, d := range image.Manifests {
					below := devworld.Image{Repository: image.Repository, Digest: d}
					for _, v := range accepting {
						check(t, v, below.Reference(), h.public, true)
					}
					if accepting == nil {
						check(t, legacy().verifiers[0], below.Reference(), h.public, false)
					}
				}
				for what, ref := range map[string]string{"a Helm chart": chart(t, host, step), "an artifact with an empty config": artifact(t, host, step)} {
					if err := h.sign(ref); err != nil {
						t.Fatalf("%s: %v", what, err)
					}
					for _, v := range accepting {
						if v.name != "image" { // containers/image copies images
							check(t, v, ref, h.public, true)
						}
					}
				}
			}
		})
	}
}

// chart pushes what `helm push` does.
func chart(t *testing.T, host, content string) string {
	t.Helper()
	return manifest(t, host, "", static.NewLayer([]byte(`{"name":"web","version":"1.0.0","apiVersion":"v2"}`), "application/vnd.cncf.helm.config.v1+json"), static.NewLayer([]byte("chart "+content), "application/vnd.cncf.helm.chart.content.v1.tar+gzip"))
}

// artifact pushes what `oras push --artifact-type` does.
func artifact(t *testing.T, host, content string) string {
	t.Helper()
	return manifest(t, host, "application/spdx+json", static.NewLayer([]byte("{}"), "application/vnd.oci.empty.v1+json"), static.NewLayer([]byte("sbom "+content), "application/spdx+json"))
}

// rawManifest is one in the bytes that are put.
type rawManifest []byte

func (r rawManifest) RawManifest() ([]byte, error) { return r, nil }

// MediaType is what remote.Put sends.
func (r rawManifest) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

func manifest(t *testing.T, host, artifactType string, config, content v1.Layer) string {
	t.Helper()
	repo, err := name.NewRepository(host + "/payments/charts")
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]any{"schemaVersion": 2, "mediaType": types.OCIManifestSchema1}
	if artifactType != "" {
		m["artifactType"] = artifactType
	}
	describe := func(l v1.Layer) v1.Descriptor {
		if err := remote.WriteLayer(repo, l, remote.WithContext(t.Context())); err != nil {
			t.Fatal(err)
		}
		d, err1 := l.Digest()
		size, err2 := l.Size()
		mt, err3 := l.MediaType()
		if err1 != nil || err2 != nil || err3 != nil {
			t.Fatal(err1, err2, err3)
		}
		return v1.Descriptor{MediaType: mt, Digest: d, Size: size}
	}
	m["config"], m["layers"] = describe(config), []any{describe(content)}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	d, _, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	ref := repo.Digest(d.String())
	if err := remote.Put(ref, rawManifest(raw), remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(ref)
}
