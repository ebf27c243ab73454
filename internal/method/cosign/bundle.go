package cosign

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
	"strings"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	libcosign "github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/cosign/v2/pkg/types"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

// BundleType is the media type of a bundle, and the artifact type of the referrer
// that holds it.
const BundleType = "application/vnd.dev.sigstore.bundle.v0.3+json"

const (
	statementType = "https://in-toto.io/Statement/v1"
	// maxBundle bounds a bundle: the statement in base64, a signature, a hint.
	maxBundle = 2*MaxPayload + 8<<10
)

// The forms below are written with encoding/json and not with the libraries'
// protojson: that one varies its spaces from build to build on purpose, and what
// one build prepared another has to read back byte for byte.

// statement is the in-toto Statement that cosign 3 signs for an image. The
// annotations are where `cosign verify -a` looks for them.
type statement struct {
	Type          string    `json:"_type"`
	Subject       []subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     struct{}  `json:"predicate"`
}

type subject struct {
	Digest      map[string]string `json:"digest"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// document is the bundle: one signature over one statement, by a key that the
// verifier has to know.
type document struct {
	MediaType            string `json:"mediaType"`
	VerificationMaterial struct {
		PublicKey struct {
			Hint string `json:"hint"`
		} `json:"publicKey"`
	} `json:"verificationMaterial"`
	DSSEEnvelope struct {
		Payload     []byte          `json:"payload"`
		PayloadType string          `json:"payloadType"`
		Signatures  []dsseSignature `json:"signatures"`
	} `json:"dsseEnvelope"`
}

type dsseSignature struct {
	Sig []byte `json:"sig"`
}

// place is the Replay of an intent. A statement names a digest and neither
// repository nor tag: whoever has the bundle can attach it to any copy of the
// image. They are kept for the comparison with what was decided.
type place struct {
	Repository signing.Repository `json:"repository"`
	Tag        string             `json:"tag,omitempty"`
}

func encodeStatement(d signing.Digest, annotations map[string]string) ([]byte, error) {
	raw, err := json.Marshal(statement{
		Type: statementType, PredicateType: types.CosignSignPredicateType,
		Subject: []subject{{Digest: map[string]string{"sha256": d.Hex()}, Annotations: annotations}},
	})
	if err != nil {
		return nil, fmt.Errorf("encoding the statement: %w", err)
	}
	return raw, nil
}

// parseStatement reads back what encodeStatement made, byte for byte.
func parseStatement(raw []byte) (signing.Digest, map[string]string, error) {
	refuse := func(found string) (signing.Digest, map[string]string, error) {
		return "", nil, notOurs("an in-toto statement of a signature, "+types.CosignSignPredicateType+", in its exact form", found)
	}
	if len(raw) > MaxPayload {
		return refuse(fmt.Sprintf("%d bytes", len(raw)))
	}
	var s statement
	if err := json.Unmarshal(raw, &s); err != nil {
		return refuse("other JSON, or none")
	}
	if len(s.Subject) != 1 {
		return refuse(fmt.Sprintf("%d subjects", len(s.Subject)))
	}
	if err := knownAnnotations(s.Subject[0].Annotations); err != nil {
		return refuse(err.Error())
	}
	d := signing.Digest("sha256:" + s.Subject[0].Digest["sha256"])
	if err := d.Validate(); err != nil {
		return refuse("a digest that is none")
	}
	if again, err := encodeStatement(d, s.Subject[0].Annotations); err != nil || !bytes.Equal(again, raw) {
		return refuse("the same statement in other bytes, or another one")
	}
	return d, s.Subject[0].Annotations, nil
}

// statementFor returns the one statement for a target.
func statementFor(t method.Target) ([]byte, error) {
	annotations, err := annotationsFor(t)
	if err != nil {
		return nil, err
	}
	raw, err := encodeStatement(t.Artifact.Digest, annotations)
	if err != nil {
		return nil, err
	}
	return raw, fits(raw)
}

// encodedBytes returns the bytes that are signed: DSSE's pre-authentication encoding.
func encodedBytes(statement []byte) []byte { return dsse.PAE(types.IntotoPayloadType, statement) }

// encoded is how they all begin. No JSON does.
const encoded = "DSSEv1 "

// inspectBundle parses the bytes of an intent back to the statement in them.
func inspectBundle(in signing.Intent) (signing.Statement, error) {
	refuse := func(found string) (signing.Statement, error) {
		return signing.Statement{}, notOurs("the encoding of an "+types.IntotoPayloadType+", with its repository beside it", found)
	}
	_, inner, _ := strings.Cut(string(in.Bytes), " "+types.IntotoPayloadType+" ")
	_, inner, _ = strings.Cut(inner, " ")
	if !bytes.Equal(encodedBytes([]byte(inner)), in.Bytes) {
		return refuse("other bytes")
	}
	digest, _, err := parseStatement([]byte(inner))
	if err != nil {
		return signing.Statement{}, err
	}
	var at place
	if err := json.Unmarshal(in.Replay, &at); err != nil {
		return refuse("no repository")
	}
	if again, err := json.Marshal(at); err != nil || !bytes.Equal(again, in.Replay) {
		return refuse("a repository in another form")
	}
	a := signing.Artifact{Repository: at.Repository, Digest: digest, Tag: at.Tag}
	if err := a.Validate(); err != nil {
		return refuse("a repository or tag that is none")
	}
	return signing.Statement{Repository: a.Repository, Digest: a.Digest, Tag: a.Tag}, nil
}

// prepareBundle is Prepare for a bundle.
func (m *Method) prepareBundle(ctx context.Context, t method.Target, now time.Time) (method.Prepared, error) {
	want, err := statementFor(t)
	if err != nil {
		return method.Prepared{}, err
	}
	v, err := verifier(t.Key)
	if err != nil {
		return method.Prepared{}, err
	}
	if !t.Offline {
		at, err := m.recogniseBundle(ctx, t, v)
		if err != nil {
			return method.Prepared{}, err
		}
		if at != nil {
			return method.Prepared{Recognised: []signing.Location{*at}}, nil
		}
	}
	replay, err := json.Marshal(place{t.Artifact.Repository, t.Artifact.Tag})
	if err != nil {
		return method.Prepared{}, fmt.Errorf("encoding the place: %w", err)
	}
	hash, padding := algorithm(t.Key.Public)
	return method.Prepared{Intent: &signing.Intent{Bytes: encodedBytes(want), Hash: hash, Padding: padding, Replay: replay, Created: now}}, nil
}

// hint is how cosign names a key in a bundle: base64 of the SHA-256 of its PKIX form.
func hint(k signing.KeyInfo) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(k.Public)
	if err != nil {
		return "", fmt.Errorf("encoding public key %s: %w", k.ID, err)
	}
	h := sha256.Sum256(der)
	return b64(h[:]), nil
}

// assembleBundle is Assemble for a bundle.
func assembleBundle(t method.Target, in signing.Intent, raw []byte) (signing.Envelope, error) {
	said, err := inspectBundle(in)
	if err != nil {
		return signing.Envelope{}, err
	}
	if err := said.Matches(t.Artifact); err != nil {
		return signing.Envelope{}, err
	}
	want, err := statementFor(t)
	if err != nil {
		return signing.Envelope{}, err
	}
	if !bytes.Equal(encodedBytes(want), in.Bytes) {
		return signing.Envelope{}, otherAnnotations()
	}
	b, err := encodeBundle(t.Key, want, raw)
	if err != nil {
		return signing.Envelope{}, err
	}
	e := signing.Envelope{Method: Name, MediaType: BundleType, KeyID: t.Key.ID, Bytes: b}
	return e, openBundle(t, e)
}

func encodeBundle(k signing.KeyInfo, statement, raw []byte) ([]byte, error) {
	h, err := hint(k)
	if err != nil {
		return nil, err
	}
	d := document{MediaType: BundleType}
	d.VerificationMaterial.PublicKey.Hint = h
	d.DSSEEnvelope.Payload, d.DSSEEnvelope.PayloadType = statement, types.IntotoPayloadType
	d.DSSEEnvelope.Signatures = []dsseSignature{{raw}}
	b, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("encoding the bundle: %w", err)
	}
	return b, nil
}

// openBundle reports whether an envelope is exactly the bundle of the target's
// statement with a signature by its key. It may come from an altered database, or
// from a registry.
func openBundle(t method.Target, e signing.Envelope) error {
	if e.Method != Name || e.MediaType != BundleType || e.KeyID != t.Key.ID || len(e.Bytes) > maxBundle {
		return otherEnvelope(t, fmt.Sprintf("%.64q of %.128q by key %.64q, %d bytes", e.Method, e.MediaType, e.KeyID, len(e.Bytes)))
	}
	var d document
	if err := json.Unmarshal(e.Bytes, &d); err != nil || len(d.DSSEEnvelope.Signatures) != 1 {
		return otherEnvelope(t, "bytes in another form")
	}
	digest, _, err := parseStatement(d.DSSEEnvelope.Payload)
	if err != nil {
		return err
	}
	if err := (signing.Statement{Repository: t.Artifact.Repository, Digest: digest, Tag: t.Artifact.Tag}).Matches(t.Artifact); err != nil {
		return err
	}
	want, err := statementFor(t)
	if err != nil {
		return err
	}
	if !bytes.Equal(want, d.DSSEEnvelope.Payload) {
		return otherAnnotations()
	}
	raw := d.DSSEEnvelope.Signatures[0].Sig
	if again, err := encodeBundle(t.Key, want, raw); err != nil || !bytes.Equal(again, e.Bytes) {
		return otherEnvelope(t, "bytes in another form, or for another key")
	}
	return verifyRaw(t.Key, raw, encodedBytes(want))
}

// bundleAttachment is what cosign 3 makes of a bundle, without the time at which
// it was written: equal envelopes are equal referrers.
func bundleAttachment(t method.Target, e signing.Envelope) (signing.Attachment, error) {
	if err := openBundle(t, e); err != nil {
		return signing.Attachment{}, err
	}
	image := t.Artifact
	image.Tag = ""
	return signing.Attachment{
		Subject: image, ArtifactType: BundleType,
		Layers: []signing.Blob{{MediaType: BundleType, Bytes: e.Bytes}},
		Annotations: map[string]string{
			"dev.sigstore.bundle.content":       "dsse-envelope",
			"dev.sigstore.bundle.predicateType": types.CosignSignPredicateType,
		},
	}, nil
}

// verifyBundle is Verify for a bundle: it finds the referrer in the list that
// verifiers read, fetches what it holds, and lets cosign's library verify that.
func (m *Method) verifyBundle(ctx context.Context, t method.Target, e signing.Envelope) ([]signing.Location, error) {
	a, err := bundleAttachment(t, e)
	if err != nil {
		return nil, err
	}
	v, err := verifier(t.Key)
	if err != nil {
		return nil, err
	}
	if a.Subject.MediaType == "" || a.Subject.Size == 0 {
		d, err := m.registry.Resolve(ctx, a.Subject.Repository, string(a.Subject.Digest))
		if err != nil {
			return nil, fmt.Errorf("reading back the signature of %s: %w", t.Artifact, err)
		}
		a.Subject.MediaType, a.Subject.Size = d.MediaType, d.Size
	}
	want, err := registry.Referrer(a)
	if err != nil {
		return nil, err
	}
	lost := fmt.Errorf("reading back the signature of %s: %w", t.Artifact, method.ErrStaleBase)
	list, err := m.bundles(ctx, t.Artifact)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list, func(d registry.Descriptor) bool { return d.Digest == want.Digest && d.ArtifactType != "" })
	if i < 0 || list[i].MediaType != want.MediaType || list[i].Size != want.Size {
		return nil, lost
	}
	got, err := m.fetchBundle(ctx, t.Artifact, list[i])
	switch {
	case errors.Is(err, signing.NotFound):
		return nil, lost // listed, and removed
	case err != nil:
		return nil, err
	case !bytes.Equal(got, e.Bytes):
		return nil, lost
	}
	if err := libraryVerifyBundle(ctx, t.Artifact, v, got); err != nil {
		return nil, &signing.Error{Code: signing.Internal, Message: "the published signature does not verify", Found: t.Artifact.String(), Err: err}
	}
	return []signing.Location{bundleAt(t.Artifact, want.Digest)}, nil
}

func bundleAt(a signing.Artifact, d signing.Digest) signing.Location {
	return signing.Location{Kind: "referrer", URI: string(a.Repository) + "@" + string(d), Digest: d}
}

// bundles lists the referrers of an image that may be bundles. The registry is
// not asked to filter: some list the type of the config instead of the
// manifest's own, and the config of bundles is empty.
func (m *Method) bundles(ctx context.Context, a signing.Artifact) ([]registry.Descriptor, error) {
	list, err := m.registry.Referrers(ctx, a.Repository, a.Digest, "")
	if err != nil {
		return nil, fmt.Errorf("reading the signatures of %s: %w", a, err)
	}
	return slices.DeleteFunc(list, func(d registry.Descriptor) bool {
		return d.ArtifactType != BundleType && d.ArtifactType != registry.MediaTypeEmpty && d.ArtifactType != ""
	}), nil
}

// fetchBundle returns the one layer of a referrer. What is no bundle, or one
// larger than any of ours, is Invalid or TooLarge.
func (m *Method) fetchBundle(ctx context.Context, a signing.Artifact, d registry.Descriptor) ([]byte, error) {
	raw, desc, err := m.registry.Manifest(ctx, a.Repository, string(d.Digest))
	if err != nil {
		return nil, fmt.Errorf("reading the signatures of %s: %w", a, err)
	}
	manifest, err := registry.ParseManifest(raw, desc.MediaType)
	if err != nil {
		return nil, fmt.Errorf("reading the signatures of %s: %w", a, err)
	}
	if len(manifest.Layers) != 1 || manifest.Layers[0].MediaType != BundleType {
		return nil, &signing.Error{Code: signing.Invalid, Message: "the referrer holds no bundle", Expected: "one layer of type " + BundleType, Found: string(d.Digest)}
	}
	b, err := m.registry.Blob(ctx, a.Repository, manifest.Layers[0], maxBundle)
	if err != nil {
		return nil, fmt.Errorf("reading the signatures of %s: %w", a, err)
	}
	return b, nil
}

// recogniseBundle returns where a bundle is that says the same by the same key,
// nil if there is none. Bundles of others are fetched and passed over.
func (m *Method) recogniseBundle(ctx context.Context, t method.Target, v signature.Verifier) (*signing.Location, error) {
	list, err := m.bundles(ctx, t.Artifact)
	if err != nil {
		return nil, err
	}
	for _, d := range list {
		b, err := m.fetchBundle(ctx, t.Artifact, d)
		if errors.Is(err, signing.Invalid) || errors.Is(err, signing.TooLarge) || errors.Is(err, signing.NotFound) {
			continue // whatever it is, it is none that this service made
		}
		if err != nil {
			return nil, err
		}
		if openBundle(t, signing.Envelope{Method: Name, MediaType: BundleType, KeyID: t.Key.ID, Bytes: b}) != nil || libraryVerifyBundle(ctx, t.Artifact, v, b) != nil {
			continue
		}
		at := bundleAt(t.Artifact, d.Digest)
		return &at, nil
	}
	return nil, nil
}

// libraryVerifyBundle holds a bundle against an image with cosign's own
// verification: the signature over the statement, and its digest. It does not
// look at what else the statement says; nor does cosign.
func libraryVerifyBundle(ctx context.Context, a signing.Artifact, v signature.Verifier, raw []byte) error {
	b := new(bundle.Bundle)
	if err := b.UnmarshalJSON(raw); err != nil {
		return fmt.Errorf("reading a bundle: %w", err)
	}
	digest, err := hex.DecodeString(a.Digest.Hex())
	if err != nil {
		return fmt.Errorf("reading the digest: %w", err)
	}
	co := &libcosign.CheckOpts{SigVerifier: v, TrustedMaterial: &root.BaseTrustedMaterial{}, IgnoreTlog: true, IgnoreSCT: true, Offline: true, NewBundleFormat: true}
	if _, err := libcosign.VerifyNewBundle(ctx, co, verify.WithArtifactDigest("sha256", digest), b); err != nil {
		return fmt.Errorf("cosign refuses the bundle: %w", err)
	}
	return nil
}
