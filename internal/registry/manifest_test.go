package registry_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	zero          = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
	indexManifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + zero + `","size":2,"platform":{"os":"linux","architecture":"arm","variant":"v7"}}]}`
)

func TestAManifestIsParsedByTheKindItIsServedAs(t *testing.T) {
	m, err := registry.ParseManifest([]byte(indexManifest), registry.MediaTypeIndex+"; charset=utf-8")
	if err != nil || !m.Index() || len(m.Manifests) != 1 || m.Manifests[0].Platform.String() != "linux/arm/v7" {
		t.Errorf("index: %+v, %v", m, err)
	}
	m, err = registry.ParseManifest([]byte(imageManifest), registry.MediaTypeImage)
	if err != nil || m.Index() || m.ArtifactType != registry.MediaTypeConfig || m.Config.Digest != zero {
		t.Errorf("image: %+v, %v", m, err)
	}
	// mediaType in the bytes is optional for OCI.
	m, err = registry.ParseManifest([]byte(strings.Replace(imageManifest, `"mediaType":"application/vnd.oci.image.manifest.v1+json",`, "", 1)), registry.MediaTypeImage)
	if err != nil || m.MediaType != registry.MediaTypeImage {
		t.Errorf("image without mediaType: %+v, %v", m, err)
	}
	// Annotations are free text: keys that look like fields are none.
	if _, err := registry.ParseManifest([]byte(strings.Replace(imageManifest, `"layers":[]`, `"layers":[],"annotations":{"Size":"1","size":"2","MediaType":"x"}`, 1)), registry.MediaTypeImage); err != nil {
		t.Errorf("annotations: %v", err)
	}
}

// GHSA-qq97-vm5h-rrhg and its relatives.
func TestAmbiguousManifestMediaTypeIsRefused(t *testing.T) {
	edit := func(s, old, new string) string {
		if !strings.Contains(s, old) {
			t.Fatalf("%s has no %s", s, old)
		}
		return strings.Replace(s, old, new, 1)
	}
	for name, c := range map[string][2]string{
		"served as another kind":            {indexManifest, registry.MediaTypeImage},
		"bytes of another kind":             {imageManifest, registry.MediaTypeIndex},
		"docker's type for an OCI document": {imageManifest, registry.MediaTypeDockerImage},
		"no Content-Type":                   {imageManifest, ""},
		"JSON":                              {imageManifest, "application/json"},
		"docker's first generation":         {imageManifest, "application/vnd.docker.distribution.manifest.v1+prettyjws"},
		"image and index in one":            {edit(imageManifest, `"layers":[]`, `"layers":[],"manifests":[]`), registry.MediaTypeImage},
		"index with layers":                 {edit(indexManifest, `"manifests":`, `"layers":[],"manifests":`), registry.MediaTypeIndex},
		"index with config, no mediaType":   {edit(edit(indexManifest, `"mediaType":"application/vnd.oci.image.index.v1+json",`, ""), `"manifests":`, `"config":{},"manifests":`), registry.MediaTypeIndex},
		"null of another kind":              {edit(imageManifest, `"layers":[]`, `"layers":[],"manifests":null`), registry.MediaTypeImage},
		"old fields beside":                 {edit(imageManifest, `"layers":[]`, `"layers":[],"fsLayers":[]`), registry.MediaTypeImage},
		"a field twice":                     {edit(imageManifest, `"layers":[]`, `"layers":[],"layers":[]`), registry.MediaTypeImage},
		"an escaped field twice":            {edit(imageManifest, `"layers":[]`, `"layers":[],"\u006cayers":[]`), registry.MediaTypeImage},
		"a field in two spellings":          {edit(imageManifest, `"layers":[]`, `"layers":[],"Layers":[]`), registry.MediaTypeImage},
		"a spelling that folds to a field":  {edit(imageManifest, `"layers":[]`, `"layers":[],"manifeſts":[]`), registry.MediaTypeImage},
		"mediaType in another spelling":     {edit(imageManifest, `"mediaType":"application/vnd.oci.image.manifest.v1+json"`, `"mediatype":"application/vnd.oci.image.index.v1+json"`), registry.MediaTypeImage},
		"a digest twice in a descriptor":    {edit(imageManifest, `"size":2`, `"size":2,"digest":"`+zero+`"`), registry.MediaTypeImage},
		"an annotation twice":               {edit(imageManifest, `"layers":[]`, `"layers":[],"annotations":{"a":"1","a":"2"}`), registry.MediaTypeImage},
		"a mediaType that is no string":     {edit(imageManifest, `"mediaType":"application/vnd.oci.image.manifest.v1+json"`, `"mediaType":null`), registry.MediaTypeImage},
		"two documents":                     {imageManifest + imageManifest, registry.MediaTypeImage},
		"no config":                         {`{"schemaVersion":2,"layers":[]}`, registry.MediaTypeImage},
		"a null config":                     {`{"schemaVersion":2,"config":null,"layers":[]}`, registry.MediaTypeImage},
		"no layers":                         {edit(imageManifest, `,"layers":[]`, ""), registry.MediaTypeImage},
		"schema version 1":                  {edit(imageManifest, `"schemaVersion":2`, `"schemaVersion":1`), registry.MediaTypeImage},
		"a negative size":                   {edit(imageManifest, `"size":2`, `"size":-2`), registry.MediaTypeImage},
		"a descriptor without digest":       {edit(imageManifest, `"digest":"`+zero+`",`, ""), registry.MediaTypeImage},
		"an array":                          {"[]", registry.MediaTypeImage},
		"null":                              {"null", registry.MediaTypeImage},
		"nothing":                           {"", registry.MediaTypeImage},
		"nested without end":                {`{"a":` + strings.Repeat("[", 1<<20), registry.MediaTypeImage},
	} {
		if m, err := registry.ParseManifest([]byte(c[0]), c[1]); !errors.Is(err, signing.Invalid) {
			t.Errorf("%s: %+v, %v, want Invalid", name, m, err)
		}
	}
	if _, err := registry.ParseManifest(make([]byte, registry.MaxManifest+1), registry.MediaTypeImage); !errors.Is(err, signing.TooLarge) {
		t.Errorf("too large: %v", err)
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(imageManifest), registry.MediaTypeImage)
	f.Add([]byte(indexManifest), registry.MediaTypeIndex)
	f.Add([]byte(imageManifest), registry.MediaTypeDockerImage)
	f.Add([]byte(`{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}`), registry.MediaTypeImage)
	f.Add([]byte(`{"a":[[[{"a":1,"a":2}]]]}`), registry.MediaTypeIndex+";x=y")
	f.Fuzz(func(t *testing.T, raw []byte, contentType string) {
		m, err := registry.ParseManifest(raw, contentType)
		if err != nil {
			if c := signing.CodeOf(err); c != signing.Invalid && c != signing.TooLarge {
				t.Errorf("error of class %s: %v", c, err)
			}
			return
		}
		// What is accepted, a reader that minds case sees in the same way.
		var fields map[string]any
		if err := json.Unmarshal(raw, &fields); err != nil {
			t.Fatalf("accepted what is not a JSON object: %v", err)
		}
		_, layers := fields["layers"]
		_, manifests := fields["manifests"]
		if layers == manifests || m.Index() != manifests || !strings.HasPrefix(strings.ToLower(strings.TrimSpace(contentType)), m.MediaType) {
			t.Errorf("accepted an ambiguous document as %s: %s", m.MediaType, raw)
		}
		if said, ok := fields["mediaType"]; ok && said != m.MediaType {
			t.Errorf("accepted %v as %s", said, m.MediaType)
		}
		if l, _ := fields["layers"].([]any); len(l) != len(m.Layers) {
			t.Errorf("%d layers of %d", len(m.Layers), len(l))
		}
	})
}
