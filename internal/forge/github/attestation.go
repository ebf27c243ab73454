package github

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"

	"github.com/golang/snappy"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxAttestations bounds those of one digest: every run that built the same
	// bytes made one, and each is verified.
	maxAttestations = 100
	// maxBundle bounds one of them: the predicate names inputs of the build.
	maxBundle = 1 << 20
	// provenance is the predicate that says how something was built.
	provenance = "https://slsa.dev/provenance/v1"
)

// attestations asks for attestations of the artifacts and verifies them: signed
// by a certificate that was issued to this very run, over this very digest.
func (b *build) attestations(ctx context.Context) error {
	if b.root == nil {
		return &signing.Error{Code: signing.Invalid, Message: "attestations of " + b.host + " cannot be verified", Expected: "a Sigstore trusted root", Found: "none", Fix: "set attestation_root of the forge"}
	}
	if b.o.RunInvocationURI == "" || !isCommit(b.o.SourceRepositoryDigest) || b.o.SourceRepositoryIdentifier == "" {
		return lacks("its run, repository and commit")
	}
	v, err := b.verifier()
	if err != nil {
		return fmt.Errorf("setting up the verification of attestations: %w", err)
	}
	f := &signing.AttestationFacts{Refused: map[signing.Digest]string{}}
	seen := map[signing.Digest]bool{}
	for _, a := range b.arts {
		if seen[a.Digest] {
			continue
		}
		seen[a.Digest] = true
		one, why, err := b.attestation(ctx, v, a.Digest)
		switch {
		case err != nil:
			return err
		case one != nil:
			f.Verified = append(f.Verified, *one)
		default:
			f.Refused[a.Digest] = why
		}
	}
	if len(f.Refused) == 0 {
		f.Refused = nil
	}
	b.facts.Attestations = f
	return nil
}

// verifier demands what the trusted root has: a transparency log and certificate
// log where it names some, as the public one does; else a signed timestamp, as
// GitHub's own Sigstore for private repositories gives.
func (b *build) verifier() (*verify.Verifier, error) {
	var o []verify.VerifierOption
	if len(b.root.RekorLogs()) > 0 {
		o = append(o, verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1))
	} else {
		o = append(o, verify.WithSignedTimestamps(1))
	}
	if len(b.root.CTLogs()) > 0 {
		o = append(o, verify.WithSignedCertificateTimestamps(1))
	}
	return verify.NewVerifier(b.root, o...)
}

// attestation returns the first attestation of a digest that counts, or why none
// of them does.
func (b *build) attestation(ctx context.Context, v *verify.Verifier, d signing.Digest) (out *signing.Attestation, why string, err error) {
	type held struct {
		Bundle json.RawMessage `json:"bundle"`
		URL    string          `json:"bundle_url"`
	}
	all, err := wrapped[held](ctx, b.Client, b.at.client, path("repos", b.at.owner, b.at.name, "attestations", string(d)), url.Values{"predicate_type": {"provenance"}}, "attestations", maxAttestations, "attestations: read")
	switch {
	case errors.Is(err, signing.NotFound), err == nil && len(all) == 0:
		return nil, b.host + " holds no provenance attestation for it", nil
	case errors.Is(err, signing.TooLarge):
		return nil, err.Error(), nil
	case err != nil:
		return nil, "", err
	}
	for _, h := range all {
		raw := []byte(h.Bundle)
		if len(raw) == 0 || string(raw) == "null" {
			if raw, err = b.stored(ctx, h.URL); err != nil {
				if !permanent(err) {
					return nil, "", err
				}
				why = err.Error()
				continue
			}
		}
		if out, err = b.verify(v, d, raw); err == nil {
			return out, "", nil
		}
		why = clip(err.Error())
	}
	if len(all) > 1 {
		why = fmt.Sprintf("none of %d counts; the last: %s", len(all), why)
	}
	return nil, why, nil
}

// stored reads a bundle from where the forge keeps it: compressed, at a signed
// address of another host. Our credentials do not go there, and nothing is
// believed of it before it is verified.
func (b *build) stored(ctx context.Context, address string) ([]byte, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil || outbound.IsLoopback(u.Hostname()) != outbound.IsLoopback(b.api.Hostname()) {
		return nil, &signing.Error{Code: signing.Invalid, Message: "the attestation has neither a bundle nor an address of one"}
	}
	note(ctx, b.now(), "GET https://"+u.Host+u.EscapedPath()) // the query is a credential
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, &signing.Error{Code: signing.Invalid, Message: "the attestation's address cannot be asked", Err: err}
	}
	resp, err := (&http.Client{Transport: b.base, CheckRedirect: outbound.RefuseRedirects}).Do(req)
	if err != nil {
		return nil, b.failure(ctx, err, "the bundle of an attestation", "")
	}
	raw, err := outbound.ReadBody(resp, maxBundle)
	switch {
	case errors.Is(err, outbound.ErrTooLarge):
		return nil, err
	case err != nil:
		return nil, b.failure(ctx, err, "the bundle of an attestation", "")
	case resp.StatusCode != http.StatusOK:
		return nil, b.answered(resp, "", "the bundle of an attestation", "")
	}
	if n, err := snappy.DecodedLen(raw); err != nil || n > maxBundle {
		return nil, &signing.Error{Code: signing.Invalid, Message: "the bundle of an attestation is not compressed as expected, or too large"}
	}
	text, err := snappy.Decode(nil, raw)
	if err != nil {
		return nil, &signing.Error{Code: signing.Invalid, Message: "the bundle of an attestation is not compressed as expected"}
	}
	return text, nil
}

// verify returns what a bundle says if it is this run's word about d.
func (b *build) verify(v *verify.Verifier, d signing.Digest, raw []byte) (*signing.Attestation, error) {
	if len(raw) > maxBundle {
		return nil, fmt.Errorf("the bundle has more than %d bytes", maxBundle)
	}
	var it bundle.Bundle
	if err := it.UnmarshalJSON(raw); err != nil {
		return nil, fmt.Errorf("it is no Sigstore bundle: %w", err)
	}
	digest, err := hex.DecodeString(d.Hex())
	if err != nil {
		return nil, errors.New("the digest is none")
	}
	// Any workflow file of the run may have made it; the run is compared below.
	who, err := verify.NewShortCertificateIdentity("", b.issuers(), "", "^https://"+regexp.QuoteMeta(b.host)+"/")
	if err != nil {
		return nil, err
	}
	got, err := v.Verify(&it, verify.NewPolicy(verify.WithArtifactDigest("sha256", digest), verify.WithCertificateIdentity(who)))
	if err != nil {
		return nil, fmt.Errorf("it does not verify: %w", err)
	}
	if got.Statement == nil || got.Signature == nil || got.Signature.Certificate == nil {
		return nil, errors.New("it is no statement that a certificate signed")
	}
	c := got.Signature.Certificate.Extensions
	for _, x := range []struct{ what, want, found string }{
		{"run", b.o.RunInvocationURI, c.RunInvocationURI},
		{"repository id", b.o.SourceRepositoryIdentifier, c.SourceRepositoryIdentifier},
		{"commit", b.o.SourceRepositoryDigest, c.SourceRepositoryDigest},
		{"predicate", provenance, got.Statement.GetPredicateType()},
	} {
		if x.want != x.found {
			return nil, fmt.Errorf("it has another %s: expected %s, found %s", x.what, clip(x.want), clip(x.found))
		}
	}
	return &signing.Attestation{Digest: d, RepositoryID: c.SourceRepositoryIdentifier, Commit: c.SourceRepositoryDigest, Run: c.RunInvocationURI, Predicate: provenance}, nil
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
