package cosign

import (
	"context"
	"errors"
	"fmt"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/signing"
)

// VerifyImage returns how many signatures of the artifact the key made, as a
// verifier sees them: each must be accepted by cosign's own verification and
// name the artifact's repository, which cosign itself does not compare. No such
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
	good := 0
	var last error
	for _, l := range layers {
		b := signing.Blob{MediaType: l.MediaType, Annotations: l.Annotations, Bytes: l.Bytes}
		s, _, err := parse(b.Bytes)
		if err == nil {
			err = libraryVerify(ctx, method.Target{Artifact: a, Key: key}, v, b)
		}
		if err == nil && s.Repository != a.Repository {
			err = fmt.Errorf("the signature names %s", s.Repository)
		}
		if err != nil {
			last = err
			continue
		}
		good++
	}
	if good == 0 {
		return 0, &signing.Error{Code: signing.Denied, Message: "no valid signature of this key", Expected: "at least one at " + string(a.Repository) + ":" + Tag(a.Digest), Found: fmt.Sprintf("%d others", len(layers)), Fix: "have the image signed, or verify with the key that signed it", Err: last}
	}
	return good, nil
}
