package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// Attach publishes a and says where. It writes nothing that is there already: a
// layer equal in type, digest and annotations, a referrer in its index. What
// others wrote stays. A tag that holds something else is a Conflict.
//
// Writers on one subject must be serialised by the caller, who reads back.
func (c *Client) Attach(ctx context.Context, a signing.Attachment) (signing.Location, error) {
	h, err := c.host(a.Subject.Repository)
	if err != nil {
		return signing.Location{}, err
	}
	if err := checkAttachment(a); err != nil {
		return signing.Location{}, err
	}
	if a.Tag != "" {
		return c.attachTag(ctx, h, a)
	}
	return c.attachReferrer(ctx, h, a)
}

func checkAttachment(a signing.Attachment) error {
	if err := a.Subject.Validate(); err != nil {
		return err
	}
	if len(a.Layers) == 0 || len(a.Layers) > MaxLayers {
		return invalid("an attachment has no or too many layers", fmt.Sprintf("1 to %d", MaxLayers), fmt.Sprint(len(a.Layers)))
	}
	for _, l := range append(slices.Clone(a.Layers), a.Config) {
		if len(l.Bytes) > MaxAttached {
			return &signing.Error{Code: signing.TooLarge, Message: "a blob to be attached is too large", Expected: fmt.Sprintf("at most %d bytes", MaxAttached), Found: fmt.Sprintf("%d bytes", len(l.Bytes))}
		}
	}
	for _, l := range a.Layers {
		if l.MediaType == "" || a.Tag != "" && len(l.Bytes) > MaxSignature {
			return invalid("a layer to be attached could not be read again", fmt.Sprintf("a media type and at most %d bytes", MaxSignature), fmt.Sprintf("%s, %d bytes", quote(l.MediaType), len(l.Bytes)))
		}
	}
	if a.Tag == "" {
		if a.ArtifactType == "" {
			return invalid("an attachment has neither a tag nor an artifact type", "one of them", "")
		}
		return nil
	}
	if a.Config.MediaType != "" || len(a.Config.Bytes) > 0 || a.ArtifactType != "" {
		return invalid("an attachment to a tag names a config or an artifact type", "neither: the config follows from the layers", "")
	}
	return signing.ValidateTag(a.Tag)
}

// invalid is a refusal of what a method made.
func invalid(message, expected, found string) error {
	return &signing.Error{Code: signing.Invalid, Message: message, Expected: expected, Found: found}
}

func descriptorOf(b signing.Blob) Descriptor {
	return Descriptor{MediaType: b.MediaType, Digest: signing.DigestOf(b.Bytes), Size: int64(len(b.Bytes)), Annotations: b.Annotations}
}

// equal reports whether two layers say the same.
func equal(a, b Descriptor) bool {
	return a.MediaType == b.MediaType && a.Digest == b.Digest && a.Size == b.Size && maps.Equal(a.Annotations, b.Annotations)
}

// attachTag appends the layers of a to the image at its tag, as cosign does.
func (c *Client) attachTag(ctx context.Context, h *host, a signing.Attachment) (signing.Location, error) {
	repo := a.Subject.Repository
	at := signing.Location{Kind: "tag", URI: string(repo) + ":" + a.Tag}
	raw, image, err := c.manifest(ctx, repo, a.Tag, push)
	switch {
	case errors.Is(err, signing.NotFound):
		image = &Manifest{fields: map[string]json.RawMessage{
			"schemaVersion": json.RawMessage(`2`),
			"mediaType":     json.RawMessage(`"` + MediaTypeImage + `"`),
		}, MediaType: MediaTypeImage, Config: &Descriptor{MediaType: MediaTypeConfig}}
	case err != nil:
		return at, err
	case image.Index():
		return at, notSignatures(repo, a.Tag, image.MediaType)
	case image.Config.MediaType != MediaTypeConfig && image.Config.MediaType != mediaTypeDockerConfig:
		return at, notSignatures(repo, a.Tag, image.Config.MediaType)
	}

	var upload []signing.Blob
	known := map[signing.Digest]bool{}
	for _, l := range image.Layers {
		known[l.Digest] = true
	}
	before := len(image.Layers)
	for _, b := range a.Layers {
		d := descriptorOf(b)
		if slices.ContainsFunc(image.Layers, func(l Descriptor) bool { return equal(l, d) }) {
			continue
		}
		if !known[d.Digest] { // two signatures of one payload share its blob
			known[d.Digest] = true
			upload = append(upload, b)
		}
		line, err := json.Marshal(d)
		if err != nil {
			return at, fmt.Errorf("encoding a layer: %w", err)
		}
		image.Layers, image.layers = append(image.Layers, d), append(image.layers, line)
	}
	if len(image.Layers) == before {
		at.Digest = signing.DigestOf(raw)
		return at, nil
	}
	if len(image.Layers) > MaxLayers {
		return at, tooManyLayers(repo, a.Tag, len(image.Layers))
	}
	out, config, err := image.encode()
	if err != nil {
		return at, err
	}
	if err := c.upload(ctx, h, repo, append(upload, config)); err != nil {
		return at, err
	}
	// From here on the signature is public.
	at.Digest, _, err = c.putManifest(ctx, h, repo, a.Tag, image.MediaType, out)
	return at, err
}

// encode returns the manifest with its present layers, every other field as it
// was read, and a config that fits. The config is made anew, not read: nothing
// in it but the list of layers has a meaning for signatures.
func (m *Manifest) encode() (raw []byte, config signing.Blob, err error) {
	type history struct {
		Created time.Time `json:"created"`
	}
	// The fields, their order and the zero times are those that cosign writes, so
	// that both make the same image from the same signatures.
	var doc struct {
		Architecture string    `json:"architecture"`
		Created      time.Time `json:"created"`
		History      []history `json:"history"`
		OS           string    `json:"os"`
		RootFS       struct {
			Type    string           `json:"type"`
			DiffIDs []signing.Digest `json:"diff_ids"`
		} `json:"rootfs"`
		Config struct{} `json:"config"`
	}
	doc.RootFS.Type = "layers"
	for _, l := range m.Layers {
		doc.RootFS.DiffIDs = append(doc.RootFS.DiffIDs, l.Digest) // layers of signatures are not compressed
		doc.History = append(doc.History, history{})
	}
	config.MediaType = m.Config.MediaType
	if config.Bytes, err = json.Marshal(doc); err != nil {
		return nil, config, fmt.Errorf("encoding the image config: %w", err)
	}
	d := descriptorOf(config)
	for name, v := range map[string]any{"config": d, "layers": m.layers} {
		if m.fields[name], err = json.Marshal(v); err != nil {
			return nil, config, fmt.Errorf("encoding the manifest: %w", err)
		}
	}
	if raw, err = json.Marshal(m.fields); err != nil {
		return nil, config, fmt.Errorf("encoding the manifest: %w", err)
	}
	return raw, config, nil
}

// Referrer returns the entry in the list of referrers of what Attach writes for
// a, whose subject has media type and size. Equal attachments have equal entries.
func Referrer(a signing.Attachment) (Descriptor, error) {
	d, _, err := referrer(a)
	return d, err
}

// referrer returns the manifest of a as well.
func referrer(a signing.Attachment) (entry Descriptor, raw []byte, err error) {
	doc := struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		ArtifactType  string            `json:"artifactType"`
		Config        Descriptor        `json:"config"`
		Layers        []Descriptor      `json:"layers"`
		Subject       Descriptor        `json:"subject"`
		Annotations   map[string]string `json:"annotations,omitempty"`
	}{2, MediaTypeImage, a.ArtifactType, descriptorOf(referrerConfig(a)), nil, Descriptor{MediaType: a.Subject.MediaType, Digest: a.Subject.Digest, Size: a.Subject.Size}, a.Annotations}
	for _, l := range a.Layers {
		doc.Layers = append(doc.Layers, descriptorOf(l))
	}
	if raw, err = json.Marshal(doc); err != nil {
		return Descriptor{}, nil, fmt.Errorf("encoding the referrer: %w", err)
	}
	return Descriptor{MediaType: MediaTypeImage, Digest: signing.DigestOf(raw), Size: int64(len(raw)), ArtifactType: a.ArtifactType, Annotations: a.Annotations}, raw, nil
}

// emptyConfig is the config of referrers that have none of their own.
const emptyConfig = "{}"

func referrerConfig(a signing.Attachment) signing.Blob {
	if a.Config.MediaType == "" {
		return signing.Blob{MediaType: MediaTypeEmpty, Bytes: []byte(emptyConfig)}
	}
	return a.Config
}

// attachReferrer pushes a manifest whose subject is the artifact, and enters it
// in the index of the fallback tag where the registry does not say that it keeps
// referrers itself.
func (c *Client) attachReferrer(ctx context.Context, h *host, a signing.Attachment) (signing.Location, error) {
	repo, at := a.Subject.Repository, signing.Location{Kind: "referrer"}
	if a.Subject.MediaType == "" || a.Subject.Size == 0 {
		d, err := c.Resolve(ctx, repo, string(a.Subject.Digest))
		if err != nil {
			return at, err
		}
		a.Subject.MediaType, a.Subject.Size = d.MediaType, d.Size
	}
	entry, raw, err := referrer(a)
	if err != nil {
		return at, err
	}
	at.Digest, at.URI = entry.Digest, string(repo)+"@"+string(entry.Digest)
	// A manifest that is there was written by a try whose answer was lost. It
	// counts once readers find it in the list.
	if c.has(ctx, h, repo, "manifests/"+string(entry.Digest)) {
		list, err := c.Referrers(ctx, repo, a.Subject.Digest, "")
		if err != nil {
			return at, err
		}
		// Some registries list the type of the config instead of the manifest's own.
		if slices.ContainsFunc(list, func(d Descriptor) bool {
			return d.Digest == entry.Digest && (d.ArtifactType == a.ArtifactType || d.ArtifactType == referrerConfig(a).MediaType)
		}) {
			return at, nil
		}
	}
	config, blobs := referrerConfig(a), slices.Clone(a.Layers)
	// An empty config is in most repositories already: asking costs one request,
	// writing it again two.
	if string(config.Bytes) != emptyConfig || !c.has(ctx, h, repo, "blobs/"+string(signing.DigestOf(config.Bytes))) {
		blobs = append(blobs, config)
	}
	if err := c.upload(ctx, h, repo, blobs); err != nil {
		return at, err
	}
	// From here on the signature is public.
	_, kept, err := c.putManifest(ctx, h, repo, string(at.Digest), MediaTypeImage, raw)
	if err != nil || kept == a.Subject.Digest {
		return at, err
	}
	return at, c.enterFallback(ctx, h, repo, a.Subject.Digest, entry)
}

// enterFallback writes entry into the index at the fallback tag of subject.
func (c *Client) enterFallback(ctx context.Context, h *host, repo signing.Repository, subject signing.Digest, entry Descriptor) error {
	tag := fallbackTag(subject)
	fields := map[string]json.RawMessage{"schemaVersion": json.RawMessage(`2`), "mediaType": json.RawMessage(`"` + MediaTypeIndex + `"`)}
	entries := []json.RawMessage{}
	_, index, err := c.manifest(ctx, repo, tag, push)
	switch {
	case errors.Is(err, signing.NotFound):
		index = &Manifest{}
	case err != nil:
		return err
	case index.MediaType != MediaTypeIndex:
		return &signing.Error{Code: signing.Conflict, Message: string(repo) + ":" + tag + " is not a list of referrers", Expected: MediaTypeIndex, Found: quote(index.MediaType), Fix: "remove the tag, or rename it if something else needs it"}
	default:
		fields = index.fields
		if err := json.Unmarshal(fields["manifests"], &entries); err != nil {
			return fmt.Errorf("reading the list of referrers: %w", err)
		}
	}
	line, err := json.Marshal(entry)
	if err != nil {
		return fmt.Errorf("encoding a referrer: %w", err)
	}
	// Some writers enter the config's media type as artifactType; ours is set right.
	if i := slices.IndexFunc(index.Manifests, func(d Descriptor) bool { return d.Digest == entry.Digest }); i >= 0 {
		if equal(index.Manifests[i], entry) && index.Manifests[i].ArtifactType == entry.ArtifactType {
			return nil
		}
		entries[i] = line
	} else {
		entries = append(entries, line)
	}
	if len(entries) > MaxReferrers {
		return tooManyReferrers()
	}
	if fields["manifests"], err = json.Marshal(entries); err != nil {
		return fmt.Errorf("encoding the list of referrers: %w", err)
	}
	raw, err := json.Marshal(fields)
	if err != nil {
		return fmt.Errorf("encoding the list of referrers: %w", err)
	}
	_, _, err = c.putManifest(ctx, h, repo, tag, MediaTypeIndex, raw)
	return err
}

// putManifest writes a manifest and returns its digest, and the subject under
// which the registry says that it keeps it (OCI-Subject), if it does.
func (c *Client) putManifest(ctx context.Context, h *host, repo signing.Repository, ref, mediaType string, raw []byte) (digest, subject signing.Digest, err error) {
	digest = signing.DigestOf(raw)
	if len(raw) > MaxManifest {
		return digest, "", &signing.Error{Code: signing.TooLarge, Message: "the manifest at " + string(repo) + ":" + ref + " would become too large", Expected: fmt.Sprintf("at most %d bytes", MaxManifest), Found: fmt.Sprintf("%d bytes", len(raw))}
	}
	ans, err := c.do(ctx, h, request{
		method: http.MethodPut, path: repo.Path(), at: "manifests/" + ref, access: push, kind: mediaType, body: raw,
		ok: []int{http.StatusCreated, http.StatusAccepted, http.StatusOK},
	})
	if err != nil {
		return digest, "", err
	}
	if said := ans.header.Get("Docker-Content-Digest"); said != "" && said != string(digest) {
		return digest, "", mismatch(h, "manifest", string(digest), signing.Digest(quote(said)))
	}
	return digest, signing.Digest(ans.header.Get("OCI-Subject")), nil
}

// has reports whether the repository has a blob or manifest. When in doubt it
// says no, which costs an upload.
func (c *Client) has(ctx context.Context, h *host, repo signing.Repository, at string) bool {
	_, err := c.do(ctx, h, request{method: http.MethodHead, path: repo.Path(), at: at, accept: acceptManifests, access: push, follow: true, ok: []int{http.StatusOK}})
	return err == nil
}

// upload pushes blobs side by side, each in two requests (POST, then PUT of the
// whole). It does not ask first whether they are there: signatures are new.
func (c *Client) upload(ctx context.Context, h *host, repo signing.Repository, blobs []signing.Blob) error {
	var jobs []func(context.Context) error
	for _, b := range blobs {
		jobs = append(jobs, func(ctx context.Context) error { return c.uploadOne(ctx, h, repo, b) })
	}
	return each(ctx, jobs)
}

func (c *Client) uploadOne(ctx context.Context, h *host, repo signing.Repository, b signing.Blob) error {
	ans, err := c.do(ctx, h, request{method: http.MethodPost, path: repo.Path(), at: "blobs/uploads/", access: push, ok: []int{http.StatusAccepted}})
	if err != nil {
		return err
	}
	location := ans.header.Get("Location")
	if location == "" {
		return &signing.Error{Code: signing.Unavailable, Message: h.title() + " does not say where to upload to", Expected: "a Location header"}
	}
	to, err := h.sameHost(ans.url, location)
	if err != nil {
		return err
	}
	// The registry's own query is kept as it is: its order and escapes may be signed.
	query := "digest=" + url.QueryEscape(string(signing.DigestOf(b.Bytes)))
	if to.RawQuery != "" {
		query = to.RawQuery + "&" + query
	}
	to.RawQuery = query
	body := b.Bytes
	if body == nil {
		body = []byte{}
	}
	_, err = c.do(ctx, h, request{
		method: http.MethodPut, path: repo.Path(), at: "blobs/uploads/...", url: to, access: push,
		kind: "application/octet-stream", body: body, ok: []int{http.StatusCreated, http.StatusNoContent},
	})
	return err
}
