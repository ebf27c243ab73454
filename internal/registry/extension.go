package registry

import (
	"context"
	"net/http"
	"net/url"

	"github.com/sealwright/sealwright/internal/signing"
)

// The registry of OpenShift keeps simple signatures itself, behind an extension of
// the API, /extensions/v2/{name}/signatures/{digest}.

// MaxSignatureList bounds the list of simple signatures of one image.
const MaxSignatureList = 4 << 20

// Signatures returns the document that lists the simple signatures of a digest. A
// registry without the extension answers as if there were no such image: NotFound.
func (c *Client) Signatures(ctx context.Context, repo signing.Repository, digest signing.Digest) ([]byte, error) {
	_, body, err := c.signatures(ctx, repo, digest, request{method: http.MethodGet, access: pull, most: MaxSignatureList, ok: []int{http.StatusOK}})
	return body, err
}

// PutSignature adds one document to the simple signatures of a digest. It reports
// false if there is one of that name already.
func (c *Client) PutSignature(ctx context.Context, repo signing.Repository, digest signing.Digest, document []byte) (added bool, err error) {
	status, _, err := c.signatures(ctx, repo, digest, request{method: http.MethodPut, access: push, kind: "application/json", body: document, most: maxErrorBody, ok: []int{http.StatusOK, http.StatusCreated, http.StatusConflict}})
	return err == nil && status != http.StatusConflict, err
}

func (c *Client) signatures(ctx context.Context, repo signing.Repository, digest signing.Digest, r request) (int, []byte, error) {
	h, err := c.host(repo)
	if err != nil {
		return 0, nil, err
	}
	if err := digest.Validate(); err != nil {
		return 0, nil, err
	}
	r.path, r.at = repo.Path(), "signatures/"+string(digest)
	r.url = &url.URL{Scheme: h.api.Scheme, Host: h.api.Host, Path: "/extensions/v2/" + repo.Path() + "/signatures/" + string(digest)}
	a, err := c.do(ctx, h, r)
	if err != nil {
		return 0, nil, err
	}
	return a.status, a.body, nil
}
