package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"strings"

	"github.com/sealwright/sealwright/internal/signing"
)

// The media types of manifests that can be signed, and of what Attach writes.
const (
	MediaTypeImage       = "application/vnd.oci.image.manifest.v1+json"
	MediaTypeIndex       = "application/vnd.oci.image.index.v1+json"
	MediaTypeDockerImage = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerIndex = "application/vnd.docker.distribution.manifest.list.v2+json"
	MediaTypeConfig      = "application/vnd.oci.image.config.v1+json"
	MediaTypeEmpty       = "application/vnd.oci.empty.v1+json"
	// MediaTypeSimpleSigning is that of the payloads in a cosign `.sig` image.
	MediaTypeSimpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"

	mediaTypeDockerConfig = "application/vnd.docker.container.image.v1+json"
	acceptManifests       = MediaTypeImage + ", " + MediaTypeIndex + ", " + MediaTypeDockerImage + ", " + MediaTypeDockerIndex
)

// maxDepth bounds the nesting of a manifest; the formats need six levels.
const maxDepth = 32

// Descriptor points to content, as in the OCI image specification.
type Descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       signing.Digest    `json:"digest"`
	Size         int64             `json:"size"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Platform     *Platform         `json:"platform,omitempty"`
}

// Platform is what an index says a manifest runs on.
type Platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant,omitempty"`
}

// String returns os/architecture[/variant].
func (p Platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// Manifest is a parsed image manifest or index. Exactly one of Config and
// Manifests is set.
type Manifest struct {
	MediaType    string // of the manifest itself, after ParseManifest always set
	ArtifactType string // its own, or its config's media type where it has none
	Config       *Descriptor
	Layers       []Descriptor
	Manifests    []Descriptor
	Subject      *Descriptor
	Annotations  map[string]string

	fields map[string]json.RawMessage // all of them, for a writer to keep
	layers []json.RawMessage
}

// Index reports whether m lists manifests.
func (m *Manifest) Index() bool { return m.Config == nil }

// IsManifest reports whether mediaType is one that ParseManifest reads: a
// manifest that can be signed.
func IsManifest(mediaType string) bool {
	return isIndex(mediaType) || mediaType == MediaTypeImage || mediaType == MediaTypeDockerImage
}

// IsImageConfig reports whether a config of this media type is that of an image,
// which holds its labels.
func IsImageConfig(mediaType string) bool {
	return mediaType == MediaTypeConfig || mediaType == mediaTypeDockerConfig
}

func isIndex(mediaType string) bool {
	return mediaType == MediaTypeIndex || mediaType == MediaTypeDockerIndex
}

// ParseManifest parses raw, which a registry served as contentType. It refuses
// whatever two readers could take for two things: a media type in the bytes that
// is not the served one, the fields of an image and of an index in one document,
// a field that occurs twice or in two spellings (GHSA-qq97-vm5h-rrhg). The first
// generation of docker's manifests is refused, as its digest covers other bytes.
func ParseManifest(raw []byte, contentType string) (*Manifest, error) {
	if len(raw) > MaxManifest {
		return nil, &signing.Error{Code: signing.TooLarge, Message: "the manifest is too large", Expected: fmt.Sprintf("at most %d bytes", MaxManifest), Found: fmt.Sprintf("%d bytes", len(raw))}
	}
	served, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return nil, unfit("the registry does not say what kind of manifest it serves", "a Content-Type", quote(contentType))
	}
	if !IsManifest(served) {
		return nil, unfit("this is not an image manifest or index", "one of "+acceptManifests, quote(served))
	}
	if err := unambiguous(raw); err != nil {
		return nil, unfit("the manifest is not unambiguous JSON", "each field once, spelled as the specification does", err.Error())
	}
	m := &Manifest{MediaType: served}
	if err := json.Unmarshal(raw, &m.fields); err != nil || m.fields == nil {
		return nil, unfit("the manifest is not a JSON object", "", "")
	}
	var said struct{ MediaType string }
	if err := json.Unmarshal(raw, &said); err != nil {
		return nil, unfit("the manifest's mediaType is not a string", "", "")
	}
	if _, there := m.fields["mediaType"]; there && said.MediaType != served {
		return nil, unfit("the manifest is of another kind than the registry serves it as", quote(served), quote(said.MediaType))
	}
	return m, m.parse(raw, isIndex(served))
}

// parse fills m from raw by its kind, and refuses the fields of the other kind.
func (m *Manifest) parse(raw []byte, index bool) error {
	own, foreign := []string{"config", "layers"}, []string{"manifests"}
	if index {
		own, foreign = foreign, own
	}
	for _, f := range own {
		if !present(m.fields[f]) {
			return unfit("the manifest lacks a field of its kind", "`"+f+"` in "+m.MediaType, "")
		}
	}
	// The first generation's fields too: old clients read those first.
	for _, f := range append(foreign, "fsLayers", "blobs") {
		if _, there := m.fields[f]; there {
			return unfit("the manifest has fields of another kind too", m.MediaType, "`"+f+"`")
		}
	}
	var doc struct {
		SchemaVersion int
		ArtifactType  string
		Config        *Descriptor
		Layers        []json.RawMessage
		Manifests     []Descriptor
		Subject       *Descriptor
		Annotations   map[string]string
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return unfit("the manifest has a field of the wrong type", "", clipError(err))
	}
	if doc.SchemaVersion != 2 {
		return unfit("the manifest has another schema version", "2", fmt.Sprint(doc.SchemaVersion))
	}
	m.ArtifactType, m.Config, m.Manifests, m.Subject, m.Annotations, m.layers = doc.ArtifactType, doc.Config, doc.Manifests, doc.Subject, doc.Annotations, doc.Layers
	if m.ArtifactType == "" && m.Config != nil {
		m.ArtifactType = m.Config.MediaType
	}
	for _, l := range doc.Layers {
		var d Descriptor
		if err := json.Unmarshal(l, &d); err != nil {
			return unfit("the manifest has a layer of the wrong type", "", clipError(err))
		}
		m.Layers = append(m.Layers, d)
	}
	all := append(append([]Descriptor{}, m.Layers...), m.Manifests...)
	for _, d := range []*Descriptor{m.Config, m.Subject} {
		if d != nil {
			all = append(all, *d)
		}
	}
	for _, d := range all {
		// Other algorithms than ours are legal; their content cannot be fetched.
		if algorithm, hex, ok := strings.Cut(string(d.Digest), ":"); !ok || algorithm == "" || hex == "" || d.Size < 0 {
			return unfit("the manifest has a descriptor without digest or size", "", quote(string(d.Digest)))
		}
	}
	return nil
}

func present(raw json.RawMessage) bool {
	return len(raw) > 0 && !bytes.Equal(bytes.TrimSpace(raw), []byte("null"))
}

// spelling maps the names that readers which ignore case, as encoding/json does,
// would take for each other to the one right spelling.
var spelling = map[string]string{
	"schemaversion": "schemaVersion", "mediatype": "mediaType", "artifacttype": "artifactType",
	"config": "config", "layers": "layers", "manifests": "manifests", "subject": "subject",
	"annotations": "annotations", "digest": "digest", "size": "size", "platform": "platform",
	"fslayers": "fsLayers", "blobs": "blobs",
}

// unambiguous reports whether every reader sees the same fields in raw.
func unambiguous(raw []byte) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if err := walk(dec, 0, false); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("something after the document")
	}
	return nil
}

// walk reads one value. Below `annotations` the keys are free, but not twice.
func walk(dec *json.Decoder, depth int, free bool) error {
	t, err := dec.Token()
	if err != nil {
		return errors.New("not JSON")
	}
	open, ok := t.(json.Delim)
	if !ok {
		return nil
	}
	if depth == maxDepth {
		return errors.New("nested too deeply")
	}
	seen := map[string]bool{}
	for dec.More() {
		below := free
		if open == '{' {
			t, err := dec.Token()
			key, ok := t.(string)
			if err != nil || !ok {
				return errors.New("not JSON")
			}
			// Upper first: some letters outside ASCII fold to ASCII only so.
			right, known := spelling[strings.ToLower(strings.ToUpper(key))]
			if seen[key] || known && !free && key != right {
				return errors.New("the field " + quote(key) + " twice or misspelled")
			}
			seen[key] = true
			below = free || key == "annotations"
		}
		if err := walk(dec, depth+1, below); err != nil {
			return err
		}
	}
	if _, err = dec.Token(); err != nil { // the closing delimiter
		return errors.New("not JSON")
	}
	return nil
}

// unfit is a refusal of what somebody pushed.
func unfit(message, expected, found string) error {
	return &signing.Error{Code: signing.Invalid, Message: message, Expected: expected, Found: found, Fix: "push it again with a tool that follows the OCI image specification"}
}

// clipError returns the text of an error of encoding/json, which may quote a
// stranger's text.
func clipError(err error) string { return quote(err.Error()) }
