package notation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

// thumbprints is the annotation by which readers find signatures of a chain
// without fetching them: SHA-256 of each certificate, leaf first.
const thumbprints = "io.cncf.notary.x509chain.thumbprint#S256"

func thumbprintsOf(chain []*x509.Certificate) (string, error) {
	var all []string
	for _, c := range chain {
		h := sha256.Sum256(c.Raw)
		all = append(all, hex.EncodeToString(h[:]))
	}
	raw, err := json.Marshal(all)
	if err != nil {
		return "", fmt.Errorf("encoding thumbprints: %w", err)
	}
	return string(raw), nil
}

// Attachment returns the envelope in the form in which a registry stores it.
// It has been held against the target.
func (m *Method) Attachment(t method.Target, e signing.Envelope) (signing.Attachment, error) {
	r, err := m.open(t, e)
	if err != nil {
		return signing.Attachment{}, err
	}
	prints, err := thumbprintsOf(t.Key.Chain)
	if err != nil {
		return signing.Attachment{}, err
	}
	subject := t.Artifact
	subject.Tag = ""
	return signing.Attachment{
		Subject: subject, ArtifactType: ArtifactType,
		// notation marks the config as well, and some registries list nothing else.
		Config:      signing.Blob{MediaType: ArtifactType, Bytes: []byte("{}")},
		Layers:      []signing.Blob{{MediaType: e.MediaType, Bytes: e.Bytes}},
		Annotations: map[string]string{thumbprints: prints, ocispec.AnnotationCreated: r.Signed.Format(time.RFC3339)},
	}, nil
}

// Publish attaches the envelope to its image as a referrer.
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

// Verify finds the envelope among the referrers of the image as verifiers list
// them, and has notation's own verifier fetch and verify it.
func (m *Method) Verify(ctx context.Context, t method.Target, e signing.Envelope) ([]signing.Location, error) {
	a, err := m.Attachment(t, e)
	if err != nil {
		return nil, err
	}
	want, err := registry.Referrer(a)
	if err != nil {
		return nil, err
	}
	list, err := m.signatures(ctx, t.Artifact)
	if err != nil {
		return nil, err
	}
	// A referrer is its digest: an entry that differs otherwise leads elsewhere.
	i := slices.IndexFunc(list, func(d registry.Descriptor) bool { return d.Digest == want.Digest })
	if i < 0 || list[i].MediaType != want.MediaType || list[i].Size != want.Size {
		return nil, fmt.Errorf("reading back the signature of %s: %w", t.Artifact, method.ErrStaleBase)
	}
	got, err := m.libraryVerify(ctx, t, list[i])
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(got, e.Bytes) {
		return nil, fmt.Errorf("reading back the signature of %s: %w", t.Artifact, method.ErrStaleBase)
	}
	return []signing.Location{locationOf(t.Artifact, want.Digest)}, nil
}

func locationOf(a signing.Artifact, d signing.Digest) signing.Location {
	return signing.Location{Kind: "referrer", URI: string(a.Repository) + "@" + string(d), Digest: d}
}

// signatures lists the signatures of an image, by whomever. Too many are an
// error: a verifier would stop before it reaches ours.
func (m *Method) signatures(ctx context.Context, a signing.Artifact) ([]registry.Descriptor, error) {
	list, err := m.registry.Referrers(ctx, a.Repository, a.Digest, ArtifactType)
	if err != nil {
		return nil, fmt.Errorf("reading the signatures of %s: %w", a, err)
	}
	if len(list) > MaxSignatures {
		return nil, &signing.Error{Code: signing.TooLarge, Message: a.String() + " has too many signatures", Expected: fmt.Sprintf("at most %d, which is how many notation looks at", MaxSignatures), Found: fmt.Sprint(len(list)), Fix: "find out who signs this image again and again, and remove the referrers that nobody needs"}
	}
	return list, nil
}

// recognise returns where an equal signature is: by the certificates of the
// target's key, over what r says, and valid for long enough. It fetches what the
// annotation does not rule out; what others have attached costs little.
func (m *Method) recognise(ctx context.Context, t method.Target, r replay) (*signing.Location, error) {
	list, err := m.signatures(ctx, t.Artifact)
	if err != nil {
		return nil, err
	}
	prints, err := thumbprintsOf(t.Key.Chain)
	if err != nil {
		return nil, err
	}
	for _, d := range list {
		if said, ok := d.Annotations[thumbprints]; ok && said != prints {
			continue
		}
		e, mediaType, err := m.fetch(ctx, t.Artifact, d)
		if errors.Is(err, signing.Invalid) || errors.Is(err, signing.TooLarge) {
			continue // whatever it is, it is none that this service made
		}
		if err != nil {
			return nil, err
		}
		if mediaType != mediaTypes[r.Format] || !r.equal(t.Key, mediaType, e) {
			continue
		}
		if _, err := m.libraryVerify(ctx, t, d); err != nil {
			if errors.Is(err, signing.Internal) {
				continue // notation refuses it
			}
			return nil, err
		}
		at := locationOf(t.Artifact, d.Digest)
		return &at, nil
	}
	return nil, nil
}

// equal reports whether an envelope by the key's certificates says what r says,
// and is valid as long as r would be, or nearly.
func (r replay) equal(k signing.KeyInfo, mediaType string, e []byte) bool {
	content, err := verifiedContent(mediaType, e)
	if err != nil {
		return false
	}
	if !slices.EqualFunc(content.SignerInfo.CertificateChain, k.Chain, (*x509.Certificate).Equal) {
		return false
	}
	want, err := r.payload()
	if err != nil || content.Payload.ContentType != payloadType || !sameJSON(want, content.Payload.Content) {
		return false
	}
	// What is left is counted from the time at which r would be signed.
	there := content.SignerInfo.SignedAttributes.Expiry
	if r.Expires.IsZero() || there.IsZero() {
		return r.Expires.IsZero() == there.IsZero()
	}
	return !there.After(r.Expires) && there.Sub(r.Signed) >= r.Expires.Sub(r.Signed)/renewBelow
}

// sameJSON compares two documents; the formats order the fields differently.
func sameJSON(a, b []byte) bool {
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	ax, errA := json.Marshal(x)
	by, errB := json.Marshal(y)
	return errA == nil && errB == nil && bytes.Equal(ax, by)
}
