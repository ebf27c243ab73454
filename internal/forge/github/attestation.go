package github

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"regexp"

	"github.com/golang/snappy"

	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
)

// attestations asks for attestations of the artifacts and verifies them.
func (b *build) attestations(ctx context.Context) (err error) {
	b.facts.Attestations, err = ask.Attestations{Host: b.host, Root: b.root, IssuerLike: b.issuers(), Origin: b.o, List: b.held}.Verify(ctx, b.arts)
	return err
}

// held lists what the forge holds of a digest: bundles, or where they are.
func (b *build) held(ctx context.Context, d signing.Digest) ([]func(context.Context) ([]byte, error), error) {
	type held struct {
		Bundle json.RawMessage `json:"bundle"`
		URL    string          `json:"bundle_url"`
	}
	all, err := wrapped[held](ctx, b.Client, b.at.client, ask.Path("repos", b.at.owner, b.at.name, "attestations", string(d)), url.Values{"predicate_type": {"provenance"}}, "attestations", ask.MaxAttestations, "attestations: read")
	var out []func(context.Context) ([]byte, error)
	for _, h := range all {
		out = append(out, func(ctx context.Context) ([]byte, error) {
			if len(h.Bundle) == 0 || string(h.Bundle) == "null" {
				return b.stored(ctx, h.URL)
			}
			return h.Bundle, nil
		})
	}
	return out, err
}

// stored reads a bundle from where the forge keeps it: compressed, at a signed
// address of another host. Our credentials do not go there, and nothing is
// believed of it before it is verified.
func (b *build) stored(ctx context.Context, address string) ([]byte, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil || outbound.IsLoopback(u.Hostname()) != outbound.IsLoopback(b.api.Hostname()) {
		return nil, &signing.Error{Code: signing.Invalid, Message: "the attestation has neither a bundle nor an address of one"}
	}
	ask.Note(ctx, b.now(), "GET https://"+u.Host+u.EscapedPath()) // the query is a credential
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, &signing.Error{Code: signing.Invalid, Message: "the attestation's address cannot be asked", Err: err}
	}
	resp, err := (&http.Client{Transport: b.base, CheckRedirect: outbound.RefuseRedirects}).Do(req)
	if err != nil {
		return nil, b.failure(ctx, err, "the bundle of an attestation", "")
	}
	raw, err := outbound.ReadBody(resp, ask.MaxBundle)
	switch {
	case errors.Is(err, outbound.ErrTooLarge):
		return nil, err
	case err != nil:
		return nil, b.failure(ctx, err, "the bundle of an attestation", "")
	case resp.StatusCode != http.StatusOK:
		return nil, b.answered(resp, "", "the bundle of an attestation", "")
	}
	if n, err := snappy.DecodedLen(raw); err != nil || n > ask.MaxBundle {
		return nil, &signing.Error{Code: signing.Invalid, Message: "the bundle of an attestation is not compressed as expected, or too large"}
	}
	text, err := snappy.Decode(nil, raw)
	if err != nil {
		return nil, &signing.Error{Code: signing.Invalid, Message: "the bundle of an attestation is not compressed as expected"}
	}
	return text, nil
}

// issuers is the expression of who vouches for runs of this forge. An enterprise
// can have an issuer of its own below github.com's.
func (b *build) issuers() string {
	if b.host == "github.com" {
		return `^https://token\.actions\.githubusercontent\.com(/[A-Za-z0-9-]+)?$`
	}
	h := regexp.QuoteMeta(b.host)
	return `^https://(token\.actions\.` + h + `|` + h + `/_services/token)$`
}
