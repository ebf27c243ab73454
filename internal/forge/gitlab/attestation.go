package gitlab

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxAttestations bounds those of one digest: each is verified.
	maxAttestations = 100
	// maxBundle bounds one of them: the predicate names inputs of the build.
	maxBundle = 1 << 20
	// provenance is the predicate that says how something was built.
	provenance = "https://slsa.dev/provenance/v1"
)

// attestations asks for attestations of the artifacts and verifies them: signed by
// a certificate that was issued to this very job, over this very digest.
func (b *build) attestations(ctx context.Context) error {
	if b.root == nil {
		return &signing.Error{Code: signing.Invalid, Message: "attestations of " + b.host + " cannot be verified", Expected: "a Sigstore trusted root", Found: "none", Fix: "set attestation_root of the forge"}
	}
	if b.o.RunInvocationURI == "" || b.o.SourceRepositoryIdentifier == "" || b.sha(b.o.SourceRepositoryDigest) != nil {
		return lacks("its run, project and commit")
	}
	v, err := b.verifier()
	if err != nil {
		return fmt.Errorf("setting up the verification of attestations: %w", err)
	}
	f := &signing.AttestationFacts{}
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
			if f.Refused == nil {
				f.Refused = map[signing.Digest]string{}
			}
			f.Refused[a.Digest] = why
		}
	}
	b.facts.Attestations = f
	return nil
}

// verifier demands what the trusted root has: a transparency log where it names
// one, else a signed timestamp.
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
	const need = "read_api, as reporter of the project"
	all, err := list[struct {
		IID int64 `json:"iid"`
	}](ctx, b.Client, b.at.token, b.below("attestations", d.Hex()), nil, maxAttestations, need)
	switch {
	case errors.Is(err, signing.NotFound), err == nil && len(all) == 0:
		return nil, b.host + " holds no attestation of it", nil
	case errors.Is(err, signing.TooLarge):
		return nil, signing.Public(err).Error(), nil
	case err != nil:
		return nil, "", err
	}
	for _, h := range all {
		var raw bytes.Buffer
		if err := b.ask(ctx, &raw, nil, need, "attestations", strconv.FormatInt(h.IID, 10), "download"); err != nil {
			if !permanent(err) {
				return nil, "", err
			}
			why = signing.Public(err).Error()
			continue
		}
		if out, err = b.verify(v, d, raw.Bytes()); err == nil {
			return out, "", nil
		}
		why = clip(err.Error())
	}
	if len(all) > 1 {
		why = fmt.Sprintf("none of %d counts; the last: %s", len(all), why)
	}
	return nil, why, nil
}

// verify returns what a bundle says if it is this job's word about d.
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
	// Any configuration of the run may have made it; the run is compared below.
	who, err := verify.NewShortCertificateIdentity("https://"+b.host, "", "", "^https://"+regexp.QuoteMeta(b.host)+"/")
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
		{"project id", b.o.SourceRepositoryIdentifier, c.SourceRepositoryIdentifier},
		{"commit", b.o.SourceRepositoryDigest, c.SourceRepositoryDigest},
		{"predicate", provenance, got.Statement.GetPredicateType()},
	} {
		if x.want != x.found || x.want == "" {
			return nil, fmt.Errorf("it has another %s: expected %s, found %s", x.what, clip(x.want), clip(x.found))
		}
	}
	return &signing.Attestation{Digest: d, RepositoryID: c.SourceRepositoryIdentifier, Commit: c.SourceRepositoryDigest, Run: c.RunInvocationURI, Predicate: provenance}, nil
}
