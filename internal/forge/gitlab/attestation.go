package gitlab

import (
	"bytes"
	"context"
	"strconv"

	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"
)

// attestations asks for attestations of the artifacts and verifies them.
func (b *build) attestations(ctx context.Context) (err error) {
	b.facts.Attestations, err = ask.Attestations{Host: b.host, Root: b.root, Issuer: "https://" + b.host, Origin: b.o, List: b.held}.Verify(ctx, b.arts)
	return err
}

// held lists the bundles that GitLab holds of a digest.
func (b *build) held(ctx context.Context, d signing.Digest) ([]func(context.Context) ([]byte, error), error) {
	const need = "read_api, as reporter of the project"
	all, err := list[struct {
		IID int64 `json:"iid"`
	}](ctx, b.Client, b.at.token, b.below("attestations", d.Hex()), nil, ask.MaxAttestations, need)
	var out []func(context.Context) ([]byte, error)
	for _, h := range all {
		out = append(out, func(ctx context.Context) ([]byte, error) {
			var raw bytes.Buffer
			err := b.ask(ctx, &raw, nil, need, "attestations", strconv.FormatInt(h.IID, 10), "download")
			return raw.Bytes(), err
		})
	}
	return out, err
}
