package registry

import (
	"context"
	"errors"

	"github.com/sealwright/sealwright/internal/signing"
)

// Tag points a tag at a manifest that the repository has, an image or an index,
// and reads the tag back. A tag that names it already is left alone; one that
// names another thing a moment later is a Conflict: somebody else writes it too.
func (c *Client) Tag(ctx context.Context, repo signing.Repository, digest signing.Digest, tag string) error {
	h, err := c.host(repo)
	if err != nil {
		return err
	}
	if err := signing.ValidateTag(tag); err != nil {
		return err
	}
	raw, m, err := c.manifest(ctx, repo, string(digest), push)
	if err != nil {
		return err
	}
	named := func() (signing.Digest, error) {
		now, _, err := c.manifest(ctx, repo, tag, push)
		return signing.DigestOf(now), err
	}
	if now, err := named(); err == nil && now == digest || err != nil && !errors.Is(err, signing.NotFound) {
		return err
	}
	if _, _, err := c.putManifest(ctx, h, repo, tag, m.MediaType, raw); err != nil {
		return err
	}
	now, err := named()
	if err != nil {
		return err
	}
	if now != digest {
		return &signing.Error{Code: signing.Conflict, Message: string(repo) + ":" + tag + " was moved by another writer at the same moment", Expected: string(digest), Found: string(now), Fix: "let one job move this tag; then run this step again"}
	}
	return nil
}
