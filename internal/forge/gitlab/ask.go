package gitlab

import (
	"context"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
)

// Ask implements forge.Origin.
func (c *Client) Ask(ctx context.Context, o signing.Origin, artifacts []signing.Artifact, q signing.ForgeQuestion) (*signing.ForgeFacts, error) {
	return nil, &signing.Error{Code: signing.Unavailable, Message: "GitLab is not asked about builds yet"}
}

// Compare implements forge.Origin.
func (c *Client) Compare(ctx context.Context, r forge.Repository, from, to string) (forge.Comparison, error) {
	return forge.Comparison{}, &signing.Error{Code: signing.Unavailable, Message: "GitLab is not asked about commits yet"}
}
