//go:build conformance

package conformance

import (
	"bytes"
	"crypto"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/sealwright/sealwright/internal/devworld"
)

// signatureAnnotation is where cosign keeps a signature, in base64.
const signatureAnnotation = "dev.cosignproject.cosign/signature"

// signed is a signed image with a key that accepts it, and others to mix it up with.
type signed struct {
	image  devworld.Image
	public string
	key    crypto.Signer
	// other is a further image of the repository, unsigned; strangerPublic is a
	// key that signed nothing.
	other          devworld.Image
	strangerPublic string
	host           string
}

// mutation makes a tampered twin of a signed image: what is verified then, and
// with which key. The image itself always stays what it is.
type mutation struct {
	name string
	what string
	make func(t *testing.T, s signed) (ref, public string)
	// accepts lists the verifiers that accept the twin by their own design; why
	// says what that design is. All others refuse. The first mutation is none at
	// all: what it lists accepts the signature itself.
	accepts []string
	why     string
}

// legacy is cosign's `.sig` image.
func legacy() format {
	f := format{
		name: "legacy", title: "cosign, legacy (`.sig`)",
		signers: []signer{
			cosignSigner("cosign2"),
			cosignSigner("cosign3", "--new-bundle-format=false", "--use-signing-config=false"),
		},
		step: legacyStep, kinds: keyKinds,
		verifiers: []verifier{
			{"cosign2", "cosign 2.6.5, `verify --key`", cosignVerify("cosign2")},
			{"cosign3", "cosign 3.1.3, `verify --key`", cosignVerify("cosign3")},
			{"cosign3-legacy", "cosign 3.1.3, `verify --key --new-bundle-format=false`", cosignVerify("cosign3", "--new-bundle-format=false")},
			{"image", "containers/image 5.42.0, `sigstoreSigned`, `matchRepository`", imageVerify("matchRepository")},
		},
	}
	f.mutations = legacyMutations(f.names)
	return f
}

func legacyMutations(all func() []string) []mutation {
	return []mutation{
		{name: "none", what: "the signed image itself", accepts: all(), make: func(_ *testing.T, s signed) (string, string) {
			return s.image.Reference(), s.public
		}},
		{name: "other image", what: "its signature, put on another image of the repository", make: func(t *testing.T, s signed) (string, string) {
			write(t, s.other, read(t, s.image))
			return s.other.Reference(), s.public
		}},
		{name: "other key", what: "verified with a key that did not sign", make: func(_ *testing.T, s signed) (string, string) {
			return s.image.Reference(), s.strangerPublic
		}},
		{name: "altered payload", what: "a word added to the signed bytes", make: func(t *testing.T, s signed) (string, string) {
			layers := read(t, s.image)
			layers[0].payload = alterPayload(t, layers[0].payload)
			write(t, s.image, layers)
			return s.image.Reference(), s.public
		}},
		{name: "payload of the other image", what: "the signed bytes name the other image, the signature is as it was", make: func(t *testing.T, s signed) (string, string) {
			layers := read(t, s.image)
			layers[0].payload = bytes.ReplaceAll(layers[0].payload, []byte(s.image.Digest), []byte(s.other.Digest))
			write(t, s.other, layers)
			return s.other.Reference(), s.public
		}},
		{name: "altered signature", what: "one character of the signature changed", make: func(t *testing.T, s signed) (string, string) {
			layers := read(t, s.image)
			layers[0].annotations[signatureAnnotation] = alterText(layers[0].annotations[signatureAnnotation])
			write(t, s.image, layers)
			return s.image.Reference(), s.public
		}},
		{name: "stripped annotation", what: "the annotation with the signature removed", make: func(t *testing.T, s signed) (string, string) {
			layers := read(t, s.image)
			delete(layers[0].annotations, signatureAnnotation)
			write(t, s.image, layers)
			return s.image.Reference(), s.public
		}},
		{name: "no signature", what: "the `.sig` manifest emptied", make: func(t *testing.T, s signed) (string, string) {
			write(t, s.image, nil)
			return s.image.Reference(), s.public
		}},
		{
			name: "moved", what: "image and signature copied to another repository", make: move,
			accepts: []string{"cosign2", "cosign3", "cosign3-legacy"},
			why:     "cosign compares the digest only, not `docker-reference`, so that images can be mirrored; containers/image compares the repository",
		},
		{
			name: "bad one beside it", what: "a broken signature put before the good one", accepts: all(),
			why: "one good signature is enough for all of them; a broken one beside it is skipped",
			make: func(t *testing.T, s signed) (string, string) {
				layers := read(t, s.image)
				bad := layer{payload: layers[0].payload, mediaType: layers[0].mediaType, annotations: map[string]string{signatureAnnotation: alterText(layers[0].annotations[signatureAnnotation])}}
				write(t, s.image, append([]layer{bad}, layers...))
				return s.image.Reference(), s.public
			},
		},
	}
}

// layer is one signature of a `.sig` manifest.
type layer struct {
	payload     []byte
	mediaType   types.MediaType
	annotations map[string]string
}

func signatureTag(t *testing.T, image devworld.Image) name.Tag {
	t.Helper()
	tag, err := name.NewTag(image.Repository + ":" + strings.Replace(image.Digest, ":", "-", 1) + ".sig")
	if err != nil {
		t.Fatal(err)
	}
	return tag
}

// read returns the signatures of an image; there must be one at least.
func read(t *testing.T, image devworld.Image) []layer {
	t.Helper()
	img, err := remote.Image(signatureTag(t, image), remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	var out []layer
	for _, d := range m.Layers {
		l, err := img.LayerByDigest(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		r, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, layer{payload: b, mediaType: d.MediaType, annotations: d.Annotations})
	}
	if len(out) == 0 {
		t.Fatalf("%s has no signature", image.Reference())
	}
	return out
}

// write makes layers the signatures of an image.
func write(t *testing.T, image devworld.Image, layers []layer) {
	t.Helper()
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, l := range layers {
		var err error
		img, err = mutate.Append(img, mutate.Addendum{Layer: static.NewLayer(l.payload, l.mediaType), Annotations: l.annotations, MediaType: l.mediaType})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := remote.Write(signatureTag(t, image), img, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// alterPayload adds an optional field: every word that was there stays.
func alterPayload(t *testing.T, payload []byte) []byte {
	t.Helper()
	var p map[string]any
	if err := json.Unmarshal(payload, &p); err != nil {
		t.Fatal(err)
	}
	p["optional"] = map[string]any{"approved": "yes"}
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// alterText changes one character of a base64 text, in its middle, so that it
// stays base64 and DER framing stays whole.
func alterText(s string) string {
	b := []byte(s)
	i := len(b) / 2
	if b[i] == 'A' {
		b[i] = 'B'
	} else {
		b[i] = 'A'
	}
	return string(b)
}

// move copies the image and its signature to another repository of the registry.
func move(t *testing.T, s signed) (string, string) {
	t.Helper()
	moved := copyImage(t, s)
	write(t, moved, read(t, s.image))
	return moved.Reference(), s.public
}

// copyImage copies the image alone.
func copyImage(t *testing.T, s signed) devworld.Image {
	t.Helper()
	from, err := name.NewDigest(s.image.Reference())
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(from, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	moved := devworld.Image{Repository: s.host + "/payments/moved", Digest: s.image.Digest}
	to, err := name.NewDigest(moved.Reference())
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(to, index, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	return moved
}
