package registry

import (
	"context"
	"errors"
	"slices"

	"github.com/sealwright/sealwright/internal/signing"
)

// Attached reports whether a is where readers look for it, as Attach wrote it:
// each layer in the image at its tag, or the referrer in the list of its subject.
// It judges no signature.
func (c *Client) Attached(ctx context.Context, a signing.Attachment) (bool, error) {
	if err := checkAttachment(a); err != nil {
		return false, err
	}
	if a.Tag == "" {
		entry, _, err := referrer(a)
		if err != nil {
			return false, err
		}
		list, err := c.Referrers(ctx, a.Subject.Repository, a.Subject.Digest, "")
		return slices.ContainsFunc(list, func(d Descriptor) bool { return d.Digest == entry.Digest }), err
	}
	_, image, err := c.manifest(ctx, a.Subject.Repository, a.Tag, push)
	if errors.Is(err, signing.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, l := range a.Layers {
		if !slices.ContainsFunc(image.Layers, func(d Descriptor) bool { return equal(d, descriptorOf(l)) }) {
			return false, nil
		}
	}
	return true, nil
}
