package registry_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

const emptyIndex = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`

func TestATagIsPointedAtAnImageOrIndexByteForByte(t *testing.T) {
	for mediaType, manifest := range map[string]string{registry.MediaTypeImage: imageManifest, registry.MediaTypeIndex: emptyIndex} {
		w := newWorld(t, ggcrRegistry(), nil)
		d := w.put("by-digest", mediaType, []byte(manifest))
		w.put("v1", registry.MediaTypeIndex, []byte(strings.Replace(emptyIndex, "[]", "[ ]", 1)))
		for _, tag := range []string{"v1", "v2"} {
			if err := w.client.Tag(t.Context(), w.repo, d, tag); err != nil {
				t.Fatal(err)
			}
			raw, got, err := w.client.Manifest(t.Context(), w.repo, tag)
			if err != nil || got.Digest != d || got.MediaType != mediaType || string(raw) != manifest {
				t.Errorf("%s: %+v %v", tag, got, err)
			}
		}
		w.sent()
		if err := w.client.Tag(t.Context(), w.repo, d, "v1"); err != nil {
			t.Fatal(err)
		}
		if sent := w.sent(); slices.ContainsFunc(sent, func(s string) bool { return strings.HasPrefix(s, "PUT") }) {
			t.Errorf("a tag that is right is written again: %q", sent)
		}
	}
}

func TestATagThatAnotherMovesAtTheSameMomentIsAConflict(t *testing.T) {
	inner := ggcrRegistry()
	var w *world
	w = newWorld(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		inner.ServeHTTP(rw, r)
		if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/v1") && r.Header.Get("Content-Type") == registry.MediaTypeImage {
			w.put("v1", registry.MediaTypeIndex, []byte(emptyIndex))
		}
	}), nil)
	d := w.put("by-digest", registry.MediaTypeImage, []byte(imageManifest))
	err := w.client.Tag(t.Context(), w.repo, d, "v1")
	if e := asError(t, err, signing.Conflict); e.Expected != string(d) || e.Fix == "" {
		t.Errorf("%+v", e)
	}
}

func TestATagIsNotMovedToWhatIsNotThere(t *testing.T) {
	w := newWorld(t, ggcrRegistry(), nil)
	w.image()
	if err := w.client.Tag(t.Context(), w.repo, signing.DigestOf([]byte("none")), "v1"); !errors.Is(err, signing.NotFound) {
		t.Error(err)
	}
	if err := w.client.Tag(t.Context(), w.repo, signing.DigestOf([]byte(imageManifest)), "-x"); !errors.Is(err, signing.Invalid) {
		t.Error(err)
	}
	for _, s := range w.sent() {
		if strings.HasPrefix(s, "PUT") {
			t.Error(s)
		}
	}
}
