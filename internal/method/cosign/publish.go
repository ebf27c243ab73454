package cosign

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/cosign/v2/pkg/types"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

// envelope is the form of signing.Envelope.Bytes: the payload and the raw
// signature over it, both base64 as encoding/json writes bytes. It holds all that
// is published; the media type of the Envelope is that of the payload.
type envelope struct {
	Payload   []byte `json:"payload"`
	Signature []byte `json:"signature"`
}

// Assemble verifies the raw signature and puts it beside the payload, which
// must be the one for the target, annotations and all. An intent for another
// hash or padding has a signature that does not verify.
func (m *Method) Assemble(t method.Target, in signing.Intent, raw []byte) (signing.Envelope, error) {
	if bundled(t) {
		return assembleBundle(t, in, raw)
	}
	if err := m.hold(t, in.Bytes, raw); err != nil {
		return signing.Envelope{}, err
	}
	b, err := json.Marshal(envelope{Payload: in.Bytes, Signature: raw})
	if err != nil {
		return signing.Envelope{}, fmt.Errorf("encoding the envelope: %w", err)
	}
	return signing.Envelope{Method: Name, MediaType: types.SimpleSigningMediaType, KeyID: t.Key.ID, Bytes: b}, nil
}

// hold reports whether a payload is that of the target, and raw its signature
// by the target's key.
func (m *Method) hold(t method.Target, signed, raw []byte) error {
	id, err := t.Ask(signed, raw)
	if err != nil {
		return err
	}
	_, err = m.held.Ask(id, func() (struct{}, error) { return struct{}{}, m.holdAnew(t, signed, raw) })
	return err
}

func (m *Method) holdAnew(t method.Target, signed, raw []byte) error {
	said, _, err := parse(signed)
	if err != nil {
		return err
	}
	if err := said.Matches(t.Artifact); err != nil {
		return err
	}
	want, err := payloadFor(t)
	if err != nil {
		return err
	}
	if !bytes.Equal(want, signed) {
		return otherAnnotations()
	}
	return verifyRaw(t.Key, raw, signed)
}

func otherAnnotations() error {
	return &signing.Error{Code: signing.Denied, Message: "the signed annotations are not those of the request", Fix: "the stored intent was altered, or the policy's options changed: submit again"}
}

func otherEnvelope(t method.Target, found string) error {
	return &signing.Error{Code: signing.Denied, Message: "the envelope is not one that this method made for the key", Expected: Name + " by key " + t.Key.ID, Found: found, Fix: "the stored envelope was altered: keep the database for examination and submit again"}
}

// verifyRaw verifies a signature as the key made it.
func verifyRaw(k signing.KeyInfo, raw, signed []byte) error {
	v, err := verifier(k)
	if err != nil {
		return err
	}
	if err := v.VerifySignature(bytes.NewReader(raw), bytes.NewReader(signed)); err != nil {
		return &signing.Error{Code: signing.Denied, Message: "the signature is not one of key " + k.ID + " over these bytes", Expected: "a signature that the key's public half verifies", Err: err}
	}
	return nil
}

// open reads an envelope and holds it against the target: it may come from an
// altered database.
func (m *Method) open(t method.Target, e signing.Envelope) (signing.Blob, error) {
	refuse := func(found string) (signing.Blob, error) {
		return signing.Blob{}, otherEnvelope(t, found)
	}
	if e.Method != Name || e.MediaType != types.SimpleSigningMediaType || e.KeyID != t.Key.ID {
		return refuse(fmt.Sprintf("%.64q of %.128q by key %.64q", e.Method, e.MediaType, e.KeyID))
	}
	var d envelope
	if err := json.Unmarshal(e.Bytes, &d); err != nil {
		return refuse("bytes in another form")
	}
	if again, err := json.Marshal(d); err != nil || !bytes.Equal(again, e.Bytes) {
		return refuse("bytes in another form")
	}
	if err := m.hold(t, d.Payload, d.Signature); err != nil {
		return signing.Blob{}, err
	}
	return signing.Blob{MediaType: types.SimpleSigningMediaType, Annotations: map[string]string{static.SignatureAnnotationKey: b64(d.Signature)}, Bytes: d.Payload}, nil
}

// Attachment returns the envelope in the form in which a registry stores it.
// It has been held against the target.
func (m *Method) Attachment(t method.Target, e signing.Envelope) (signing.Attachment, error) {
	if bundled(t) {
		return bundleAttachment(t, e)
	}
	layer, err := m.open(t, e)
	if err != nil {
		return signing.Attachment{}, err
	}
	return signing.Attachment{Subject: t.Artifact, Tag: Tag(t.Artifact.Digest), Layers: []signing.Blob{layer}}, nil
}

// Publish puts the envelope beside the signatures of the digest.
func (m *Method) Publish(ctx context.Context, t method.Target, e signing.Envelope) ([]signing.Location, error) {
	a, err := m.Attachment(t, e)
	if err != nil {
		return nil, err
	}
	l, err := m.registry.Attach(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("publishing the signature of %s: %w", t.Artifact, err)
	}
	return []signing.Location{l}, nil
}

// Verify reads the signatures of the digest back, finds this one among them and
// lets cosign's library verify it as read.
func (m *Method) Verify(ctx context.Context, t method.Target, e signing.Envelope) ([]signing.Location, error) {
	if bundled(t) {
		return m.verifyBundle(ctx, t, e)
	}
	want, err := m.open(t, e)
	if err != nil {
		return nil, err
	}
	v, err := verifier(t.Key)
	if err != nil {
		return nil, err
	}
	there, at, err := m.read(ctx, t, want.Bytes)
	if err != nil {
		return nil, err
	}
	for _, b := range there {
		if !maps.Equal(b.Annotations, want.Annotations) || b.MediaType != want.MediaType || !bytes.Equal(b.Bytes, want.Bytes) {
			continue
		}
		if err := libraryVerify(ctx, t, v, b); err != nil {
			return nil, &signing.Error{Code: signing.Internal, Message: "the published signature does not verify", Found: t.Artifact.String(), Err: err}
		}
		return []signing.Location{at}, nil
	}
	return nil, fmt.Errorf("reading back the signature of %s: %w", t.Artifact, method.ErrStaleBase)
}

// read returns the published signatures over one payload. It fetches that
// payload only: what others have attached costs nothing and cannot stand in the
// way. That nothing is published is an answer of the registry about the tag;
// every other failure is an error.
func (m *Method) read(ctx context.Context, t method.Target, signed []byte) ([]signing.Blob, signing.Location, error) {
	repo, tag := t.Artifact.Repository, Tag(t.Artifact.Digest)
	at := signing.Location{Kind: "tag", URI: string(repo) + ":" + tag}
	raw, d, err := m.registry.Manifest(ctx, repo, tag)
	if errors.Is(err, signing.NotFound) {
		return nil, at, nil
	}
	if err != nil {
		return nil, at, fmt.Errorf("reading the signatures of %s: %w", t.Artifact, err)
	}
	image, err := registry.ParseManifest(raw, d.MediaType)
	if err != nil {
		return nil, at, fmt.Errorf("reading the signatures of %s: %w", t.Artifact, err)
	}
	if len(image.Layers) > registry.MaxLayers {
		return nil, at, &signing.Error{Code: signing.TooLarge, Message: at.URI + " holds too many signatures", Expected: fmt.Sprintf("at most %d", registry.MaxLayers), Found: fmt.Sprint(len(image.Layers)), Fix: "find out who signs this image again and again, then remove the tag and sign anew"}
	}
	at.Digest = d.Digest
	var there []signing.Blob
	var content []byte
	for _, l := range image.Layers {
		if l.Digest != signing.DigestOf(signed) || l.Size != int64(len(signed)) {
			continue
		}
		if content == nil {
			// Two signatures over one payload share its blob. One that is listed
			// and missing is a fault of the registry, not an absence.
			if content, err = m.registry.Blob(ctx, repo, l, MaxPayload); errors.Is(err, signing.NotFound) {
				return nil, at, &signing.Error{Code: signing.Unavailable, Message: "the registry lists a signature that it does not have", Found: at.URI, Fix: "if this stays, remove the tag and sign anew", Err: err}
			} else if err != nil {
				return nil, at, fmt.Errorf("reading the signatures of %s: %w", t.Artifact, err)
			}
		}
		there = append(there, signing.Blob{MediaType: l.MediaType, Annotations: l.Annotations, Bytes: content})
	}
	return there, at, nil
}
