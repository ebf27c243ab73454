package cosign

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sigstore/cosign/v2/pkg/types"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/signing"
)

// VerifyImage returns how many signatures of the artifact the key made, in either
// form, as a verifier sees them: each must be accepted by cosign's own
// verification. Beyond what cosign compares, a legacy signature names the
// artifact's repository, and a bundle says that it is a signature. No such
// signature is a Denied error; a registry that cannot be asked is never "none".
func (m *Method) VerifyImage(ctx context.Context, a signing.Artifact, key signing.KeyInfo) (int, error) {
	v, err := verifier(key)
	if err != nil {
		return 0, err
	}
	layers, err := m.registry.Signed(ctx, a.Repository, Tag(a.Digest))
	if err != nil && !errors.Is(err, signing.NotFound) {
		return 0, fmt.Errorf("reading the signatures of %s: %w", a, err)
	}
	good, others := 0, 0
	var last error
	count := func(err error) {
		if err == nil {
			good++
			return
		}
		others, last = others+1, err
	}
	for _, l := range layers {
		b := signing.Blob{MediaType: l.MediaType, Annotations: l.Annotations, Bytes: l.Bytes}
		s, _, err := parse(b.Bytes)
		if err == nil {
			err = libraryVerify(ctx, method.Target{Artifact: a, Key: key}, v, b)
		}
		if err == nil && s.Repository != a.Repository {
			err = fmt.Errorf("the signature names %s", s.Repository)
		}
		count(err)
	}
	bundles, err := m.bundles(ctx, a)
	if err != nil {
		return 0, err
	}
	for _, d := range bundles {
		b, err := m.fetchBundle(ctx, a, d)
		switch {
		case errors.Is(err, signing.Invalid):
			continue // another referrer
		case errors.Is(err, signing.TooLarge), errors.Is(err, signing.NotFound):
		case err != nil:
			return 0, err
		default:
			err = isSignature(b)
			if err == nil {
				err = libraryVerifyBundle(ctx, a, v, b)
			}
		}
		count(err)
	}
	if good == 0 {
		return 0, &signing.Error{Code: signing.Denied, Message: "no valid signature of this key", Expected: "at least one at " + string(a.Repository) + ":" + Tag(a.Digest) + ", or a bundle", Found: fmt.Sprintf("%d others", others), Fix: "have the image signed, or verify with the key that signed it", Err: last}
	}
	return good, nil
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
