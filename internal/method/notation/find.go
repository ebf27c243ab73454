package notation

import (
	"context"
	"errors"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/signing"
)

var _ method.Finder = (*Method)(nil)

// Find lists the signatures of an artifact and has notation's own verifier judge
// each, at level strict, with the root and the subject of the key's certificates.
func (m *Method) Find(ctx context.Context, a signing.Artifact, k signing.KeyInfo) ([]method.Found, error) {
	if err := checkChain(k); err != nil {
		return nil, err
	}
	list, err := m.signatures(ctx, a)
	if err != nil {
		return nil, err
	}
	var found []method.Found
	for _, d := range list {
		f := method.Found{Format: "unknown", Location: locationOf(a, d.Digest)}
		e, mediaType, err := m.fetch(ctx, a, d)
		switch {
		case errors.Is(err, signing.Invalid), errors.Is(err, signing.TooLarge):
			f.Err = err // not a signature, or none that anybody reads
			found = append(found, f)
			continue
		case err != nil:
			return nil, err
		}
		f.Envelope = signing.DigestOf(e)
		for name, is := range mediaTypes {
			if is == mediaType {
				f.Format = name
			}
		}
		_, f.Err = m.libraryVerify(ctx, method.Target{Artifact: a, Key: k}, d)
		if f.Err != nil && !errors.Is(f.Err, signing.Internal) {
			return nil, f.Err
		}
		found = append(found, f)
	}
	return found, nil
}
