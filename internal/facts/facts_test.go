package facts_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/facts"
	"github.com/sealwright/sealwright/internal/method/methodtest"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	imageType  = registry.MediaTypeImage
	indexType  = registry.MediaTypeIndex
	configType = registry.MediaTypeConfig
	layerType  = "application/vnd.oci.image.layer.v1.tar+gzip"
	intoto     = "application/vnd.in-toto+json"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// shelf is a repository to put manifests into.
type shelf struct {
	*testing.T
	*methodtest.World
}

func newShelf(t *testing.T) shelf { return shelf{t, methodtest.NewWorld(t, true)} }

func (s shelf) blob(mediaType, content string) methodtest.Descriptor {
	return s.Blob(s, "acme/web", mediaType, content)
}

func (s shelf) put(mediaType string, manifest map[string]any) (signing.Artifact, methodtest.Descriptor) {
	return s.Put(s, "acme/web", mediaType, manifest)
}

// image puts an image with a label and, where it is not empty, its platform in
// the entry of an index.
func (s shelf) image(label, platform string) (signing.Artifact, methodtest.Descriptor) {
	a, d := s.put(imageType, map[string]any{
		"config": s.blob(configType, `{"os":"linux","architecture":"amd64","config":{"Labels":{"l":"`+label+`"}}}`),
		"layers": []any{s.blob(layerType, "layer of "+label)},
	})
	return a, on(d, platform)
}

func on(d methodtest.Descriptor, platform string) methodtest.Descriptor {
	if os, arch, ok := strings.Cut(platform, "/"); ok {
		d.Platform = map[string]string{"os": os, "architecture": arch}
	}
	return d
}

// attestation puts what buildkit puts beside an image.
func (s shelf) attestation(layers ...string) methodtest.Descriptor {
	m := map[string]any{"config": s.blob(configType, `{"os":"unknown","architecture":"unknown","config":{}}`)}
	list := []any{}
	for _, l := range layers {
		list = append(list, s.blob(l, "{}"))
	}
	m["layers"] = list
	_, d := s.put(imageType, m)
	d = on(d, "unknown/unknown")
	d.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": "sha256:ab"}
	return d
}

func (s shelf) index(entries ...methodtest.Descriptor) (signing.Artifact, methodtest.Descriptor) {
	return s.put(indexType, map[string]any{"manifests": entries})
}

// serve has the registry answer an index that a careful one would not take.
func (s shelf) serve(entries ...methodtest.Descriptor) signing.Artifact {
	raw, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": entries})
	if err != nil {
		s.Fatal(err)
	}
	a := signing.Artifact{Repository: signing.Repository(s.Host + "/acme/web"), Digest: signing.DigestOf(raw)}
	s.Wire.Answer(func(r *http.Request) *http.Response {
		if !strings.HasSuffix(r.URL.Path, string(a.Digest)) {
			return nil
		}
		resp := methodtest.Status(r, http.StatusOK, "", nil)
		resp.Header.Set("Content-Type", indexType)
		resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(raw)), int64(len(raw))
		return resp
	})
	return a
}

func (s shelf) gather(below bool, artifacts ...signing.Artifact) (signing.Facts, []signing.Observation, error) {
	for i := range artifacts {
		artifacts[i].MediaType, artifacts[i].Size = "", 0 // as a job submits it
	}
	return facts.Gather(s.Context(), s.Client, signing.Identity{Issuer: "https://ci"}, signing.Origin{}, "release", artifacts, below, now)
}

// list shows what is below the first image: kind, platforms and label.
func list(f signing.Facts) string {
	var out []string
	for _, m := range f.Images[0].Manifests {
		out = append(out, strings.TrimSpace(m.Kind+" "+strings.Join(m.Platforms, ",")+" "+m.Labels["l"]))
	}
	return strings.Join(out, "; ")
}

func TestFactsAreWhatTheRegistryAnswersForTheDigest(t *testing.T) {
	s := newShelf(t)
	image, _ := s.image("a", "")
	chart, _ := s.put(imageType, map[string]any{
		"config": s.blob("application/vnd.cncf.helm.config.v1+json", `{"name":"web","version":"1.0.0"}`),
		"layers": []any{s.blob("application/vnd.cncf.helm.chart.content.v1.tar+gzip", "chart")},
	})
	sbom, _ := s.put(imageType, map[string]any{
		"artifactType": "application/spdx+json", "annotations": map[string]string{"made": "by hand"},
		"config": s.blob(registry.MediaTypeEmpty, "{}"), "layers": []any{s.blob("application/spdx+json", "{\"spdx\":1}")},
	})
	f, seen, err := s.gather(true, image, chart, sbom)
	if err != nil {
		t.Fatal(err)
	}
	want := []signing.Image{
		{Artifact: image, Kind: "image", Labels: map[string]string{"l": "a"}, Platforms: []string{"linux/amd64"}},
		{Artifact: chart, Kind: "artifact", ArtifactType: "application/vnd.cncf.helm.config.v1+json"},
		{Artifact: sbom, Kind: "artifact", ArtifactType: "application/spdx+json", Annotations: map[string]string{"made": "by hand"}},
	}
	for i, a := range []signing.Artifact{image, chart, sbom} {
		want[i].Artifact.MediaType, want[i].Artifact.Size = imageType, f.Images[i].Artifact.Size
		if f.Images[i].Artifact.Size == 0 {
			t.Errorf("%s has no size", a)
		}
	}
	if diff := cmp.Diff(want, f.Images); diff != "" {
		t.Error(diff)
	}
	if len(seen) != 4 || seen[0].Source != "token" || !seen[3].At.Equal(now) || !strings.Contains(seen[2].What, chart.String()) {
		t.Errorf("observed: %+v", seen)
	}
}

func TestWhatIsBelowAnIndexIsReadOnceAndOnlyIfAskedFor(t *testing.T) {
	s := newShelf(t)
	_, amd := s.image("a", "linux/amd64")
	_, arm := s.image("b", "linux/arm64")
	_, inner := s.index(arm, amd)
	foreign := methodtest.Descriptor{MediaType: "application/vnd.acme.notes+json", Digest: "sha512:" + signing.Digest(strings.Repeat("ab", 64)), Size: 7}
	top, _ := s.index(amd, inner, s.attestation(intoto), foreign, amd)

	s.Wire.Reset()
	f, seen, err := s.gather(false, top)
	if err != nil || len(f.Images[0].Manifests) != 0 || len(s.Wire.Requests()) != 1 {
		t.Errorf("%d manifests in %d requests: %v", len(f.Images[0].Manifests), len(s.Wire.Requests()), err)
	}
	if diff := cmp.Diff([]string{"linux/amd64", "unknown/unknown", "linux/amd64"}, f.Images[0].Platforms); diff != "" {
		t.Error(diff)
	}
	if len(seen) != 2 {
		t.Errorf("observed: %+v", seen)
	}

	s.Wire.Reset()
	f, seen, err = s.gather(true, top)
	if err != nil {
		t.Fatal(err)
	}
	if got := list(f); got != "image linux/amd64 a; index linux/arm64,linux/amd64; attestation unknown/unknown; foreign; image linux/amd64 b" {
		t.Errorf("got %s", got)
	}
	// Five manifests, of which two have a config that is read.
	if n := len(s.Wire.Requests()); n != 7 {
		t.Errorf("%d requests: %v", n, s.Wire.Requests())
	}
	if len(seen) != 3 || !strings.HasSuffix(seen[1].What, " with 4 manifests below it") || !strings.Contains(seen[2].What, string(foreign.Digest)) || !strings.Contains(seen[2].What, "application/vnd.acme.notes+json, no manifest that can be signed: it is left alone") {
		t.Errorf("observed: %+v", seen)
	}
	if n := len(f.Children()); n != 4 {
		t.Errorf("%d manifests to be signed", n)
	}
	for _, a := range f.Children() {
		if a.Validate() != nil || a.Tag != "" || a.Size == 0 || a.MediaType == "" {
			t.Errorf("%+v", a)
		}
	}
}

// The annotation of an attestation frees it from rules about labels.
func TestNothingThatCouldRunPassesForAnAttestation(t *testing.T) {
	s := newShelf(t)
	entry := func(change func(*methodtest.Descriptor), layers ...string) methodtest.Descriptor {
		d := s.attestation(layers...)
		change(&d)
		return d
	}
	same := func(*methodtest.Descriptor) {}
	for what, c := range map[string]struct {
		entry methodtest.Descriptor
		want  string
	}{
		"as buildkit makes it":     {entry(same, intoto, intoto), "attestation"},
		"a layer with files":       {entry(same, intoto, layerType), "image"},
		"no layer":                 {entry(same), "image"},
		"a platform":               {entry(func(d *methodtest.Descriptor) { *d = on(*d, "linux/amd64") }, intoto), "image"},
		"half a platform":          {entry(func(d *methodtest.Descriptor) { *d = on(*d, "unknown/amd64") }, intoto), "image"},
		"no platform":              {entry(func(d *methodtest.Descriptor) { d.Platform = nil }, intoto), "image"},
		"no annotation":            {entry(func(d *methodtest.Descriptor) { d.Annotations = nil }, intoto), "image"},
		"another annotation":       {entry(func(d *methodtest.Descriptor) { d.Annotations["vnd.docker.reference.type"] = "x" }, intoto), "image"},
		"nothing but the platform": {on(s.attestation(layerType), "unknown/unknown"), "image"},
	} {
		top, _ := s.index(c.entry)
		f, _, err := s.gather(true, top)
		if err != nil {
			t.Fatal(err)
		}
		if m := f.Images[0].Manifests[0]; m.Kind != c.want {
			t.Errorf("%s: %s", what, m.Kind)
		}
		if parts := f.Images[0].Parts(); len(parts) == 0 != (c.want == "attestation") {
			t.Errorf("%s: %d parts", what, len(parts))
		}
	}
	// By itself, without an index that says what it is, it is an image without labels.
	d := s.attestation(intoto)
	f, _, err := s.gather(true, signing.Artifact{Repository: signing.Repository(s.Host + "/acme/web"), Digest: d.Digest})
	if err != nil || f.Images[0].Kind != "image" || len(f.Images[0].Parts()) != 1 {
		t.Errorf("%+v, %v", f.Images, err)
	}
}

func TestAnIndexThatIsNotWhatItSaysIsRefused(t *testing.T) {
	s := newShelf(t)
	_, image := s.image("a", "linux/amd64")
	nest := func(levels int) methodtest.Descriptor {
		d := image
		for range levels {
			_, d = s.index(d)
		}
		return d
	}
	many := func(n int, of string) []methodtest.Descriptor {
		var out []methodtest.Descriptor
		for i := range n {
			out = append(out, methodtest.Descriptor{MediaType: of, Digest: signing.DigestOf([]byte(fmt.Sprint(of, i))), Size: 3})
		}
		return out
	}
	_, half := s.index(many(facts.MaxManifests/2, "a/b")...)
	_, other := s.index(many(facts.MaxManifests/2, "a/c")...)
	missing := image
	missing.Digest = signing.DigestOf([]byte("missing"))
	larger, renamed, nothing, line, odd := image, image, image, image, image
	larger.Size++
	renamed.MediaType = indexType
	nothing.MediaType = ""
	line.MediaType = "text/plain\nfoo"
	odd.MediaType, odd.Digest = "text/plain", "sha512:x y"
	for what, c := range map[string]struct {
		entries []methodtest.Descriptor
		code    signing.Code
		want    string
	}{
		"one is missing":         {[]methodtest.Descriptor{image, missing}, signing.NotFound, string(missing.Digest)},
		"another size":           {[]methodtest.Descriptor{larger}, signing.Invalid, "another manifest than the registry has"},
		"another kind":           {[]methodtest.Descriptor{renamed}, signing.Invalid, "another manifest than the registry has"},
		"no media type":          {[]methodtest.Descriptor{nothing}, signing.Invalid, "does not say what it lists"},
		"two lines":              {[]methodtest.Descriptor{line}, signing.Invalid, "does not say what it lists"},
		"a digest that is none":  {[]methodtest.Descriptor{odd}, signing.Invalid, "does not say what it lists"},
		"too deep":               {[]methodtest.Descriptor{nest(facts.MaxNesting)}, signing.TooLarge, "levels of indexes"},
		"too many":               {many(facts.MaxManifests+1, "a/b"), signing.TooLarge, "manifests in an index"},
		"too many, over indexes": {[]methodtest.Descriptor{half, other}, signing.TooLarge, "manifests below an index"},
	} {
		top := s.serve(c.entries...)
		_, _, err := s.gather(true, top)
		if signing.CodeOf(err) != c.code || !strings.Contains(fmt.Sprint(err), c.want) || !strings.Contains(fmt.Sprint(err), string(top.Digest)) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, entries := range map[string][]methodtest.Descriptor{
		"as deep as it may be": {nest(facts.MaxNesting - 1)}, "as many as there may be": many(facts.MaxManifests, "a/b"),
	} {
		top, _ := s.index(entries...)
		if _, _, err := s.gather(true, top); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestWhatAJobSaysOfItsImagesIsBounded(t *testing.T) {
	s := newShelf(t)
	labels := func(n, size int) map[string]string {
		m := map[string]string{}
		for i := range n {
			m[fmt.Sprintf("%03d", i)] = strings.Repeat("x", size-3)
		}
		return m
	}
	var full []signing.Artifact
	for i := range facts.MaxText/(facts.MaxLabels*facts.MaxLabel) + 1 {
		a, _ := s.put(indexType, map[string]any{"manifests": []any{}, "annotations": labels(facts.MaxLabels, facts.MaxLabel), "artifactType": fmt.Sprint("a/", i)})
		full = append(full, a)
	}
	if _, _, err := s.gather(true, full[:1]...); err != nil {
		t.Errorf("as much as one may say: %v", err)
	}
	put := func(m map[string]any) []signing.Artifact {
		if m["manifests"] == nil {
			m["manifests"] = []any{}
		}
		a, _ := s.put(indexType, m)
		return []signing.Artifact{a}
	}
	for what, artifacts := range map[string][]signing.Artifact{
		"too many annotations": put(map[string]any{"annotations": labels(facts.MaxLabels+1, 4)}),
		"a large annotation":   put(map[string]any{"annotations": labels(1, facts.MaxLabel+1)}),
		"a large type":         put(map[string]any{"artifactType": strings.Repeat("x", facts.MaxLabel+1)}),
		"a large platform":     put(map[string]any{"manifests": []any{on(methodtest.Descriptor{MediaType: "a/b", Digest: signing.DigestOf(nil)}, strings.Repeat("x", facts.MaxLabel)+"/y")}}),
		"too much together":    full,
	} {
		if _, _, err := s.gather(true, artifacts...); !errors.Is(err, signing.TooLarge) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestARegistryThatFailsIsNeverAnIndexWithoutManifests(t *testing.T) {
	s := newShelf(t)
	_, image := s.image("a", "linux/amd64")
	top, _ := s.index(image)
	for status, want := range map[int]signing.Code{http.StatusServiceUnavailable: signing.Unavailable, http.StatusTooManyRequests: signing.RateLimited, http.StatusForbidden: signing.Denied} {
		s.Wire.Answer(func(r *http.Request) *http.Response {
			if !strings.HasSuffix(r.URL.Path, string(image.Digest)) {
				return nil
			}
			return methodtest.Status(r, status, "UNKNOWN", nil)
		})
		if _, _, err := s.gather(true, top); signing.CodeOf(err) != want {
			t.Errorf("%d: %v", status, err)
		}
	}
}
