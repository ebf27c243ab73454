package cosign

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/cosign/v2/pkg/types"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/signing"
)

// VerifyImage returns how many signatures of the artifact the key made, in either
// form; see Find. No such signature is a Denied error.
func (m *Method) VerifyImage(ctx context.Context, a signing.Artifact, key signing.KeyInfo) (int, error) {
	found, err := m.Find(ctx, a, key)
	if err != nil {
		return 0, err
	}
	good := 0
	var last error
	for _, f := range found {
		if f.Err == nil {
			good++
		} else {
			last = f.Err
		}
	}
	if good == 0 {
		return 0, &signing.Error{Code: signing.Denied, Message: "no valid signature of this key", Expected: "at least one at " + string(a.Repository) + ":" + Tag(a.Digest) + ", or a bundle", Found: fmt.Sprintf("%d others", len(found)), Fix: "have the image signed, or verify with the key that signed it", Err: last}
	}
	return good, nil
}

// Find lists the signatures of an artifact in both forms. Each is judged by
// cosign's own verification, and beyond what cosign compares: a legacy signature
// must name the artifact's repository, and a bundle say that it is a signature.
func (m *Method) Find(ctx context.Context, a signing.Artifact, key signing.KeyInfo) ([]method.Found, error) {
	v, err := verifier(key)
	if err != nil {
		return nil, err
	}
	found, err := m.findLegacy(ctx, a, key, v)
	if err != nil {
		return nil, err
	}
	bundles, err := m.bundles(ctx, a)
	if err != nil {
		return nil, err
	}
	for _, d := range bundles {
		f := method.Found{Format: formatBundle, Location: bundleAt(a, d.Digest)}
		b, err := m.fetchBundle(ctx, a, d)
		switch {
		case errors.Is(err, signing.Invalid):
			continue // another referrer
		case errors.Is(err, signing.TooLarge), errors.Is(err, signing.NotFound):
			f.Err = err
		case err != nil:
			return nil, err
		default:
			f.Envelope = signing.DigestOf(b)
			if f.Err = isSignature(b); f.Err == nil {
				f.Err = libraryVerifyBundle(ctx, a, v, b)
			}
		}
		found = append(found, f)
	}
	return found, nil
}

func (m *Method) findLegacy(ctx context.Context, a signing.Artifact, key signing.KeyInfo, v signature.Verifier) ([]method.Found, error) {
	layers, err := m.registry.Signed(ctx, a.Repository, Tag(a.Digest))
	if err != nil && !errors.Is(err, signing.NotFound) {
		return nil, fmt.Errorf("reading the signatures of %s: %w", a, err)
	}
	var found []method.Found
	for _, l := range layers {
		b := signing.Blob{MediaType: l.MediaType, Annotations: l.Annotations, Bytes: l.Bytes}
		f := method.Found{Format: "legacy", Location: signing.Location{Kind: "tag", URI: string(a.Repository) + ":" + Tag(a.Digest)}}
		// What is no base64 is no signature either: the library says so below.
		if raw, err := base64.StdEncoding.DecodeString(l.Annotations[static.SignatureAnnotationKey]); err == nil {
			e, err := json.Marshal(envelope{Payload: l.Bytes, Signature: raw})
			if err != nil {
				return nil, fmt.Errorf("encoding the envelope: %w", err)
			}
			f.Envelope = signing.DigestOf(e)
		}
		s, _, err := parse(b.Bytes)
		if err == nil {
			err = libraryVerify(ctx, method.Target{Artifact: a, Key: key}, v, b)
		}
		if err == nil && s.Repository != a.Repository {
			err = fmt.Errorf("the signature names %s", s.Repository)
		}
		f.Err = err
		found = append(found, f)
	}
	return found, nil
}

// isSignature refuses a bundle that says anything else: cosign takes every
// statement about an image for its signature.
func isSignature(raw []byte) error {
	var d document
	if err := json.Unmarshal(raw, &d); err != nil {
		return fmt.Errorf("reading a bundle: %w", err)
	}
	var s struct {
		PredicateType string `json:"predicateType"`
	}
	if err := json.Unmarshal(d.DSSEEnvelope.Payload, &s); err != nil {
		return fmt.Errorf("reading a statement: %w", err)
	}
	if s.PredicateType != types.CosignSignPredicateType {
		return fmt.Errorf("the bundle is a statement of type %.100q", s.PredicateType)
	}
	return nil
}
