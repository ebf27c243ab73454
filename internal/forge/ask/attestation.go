package ask

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// MaxAttestations bounds those of one digest: every run that built the same
	// bytes made one, and each is verified.
	MaxAttestations = 100
	// MaxBundle bounds one of them: the predicate names inputs of the build.
	MaxBundle = 1 << 20
	// Provenance is the predicate that says how something was built.
	Provenance = "https://slsa.dev/provenance/v1"
)

// Attestations verify what a forge holds about the artifacts of one build: signed
// by a certificate that was issued to this very run, over this very digest.
type Attestations struct {
	Host string
	Root root.TrustedMaterial // nil: nothing can be verified
	// Issuer vouches for runs of this forge; IssuerLike is an expression in its place.
	Issuer, IssuerLike string
	Origin             signing.Origin
	// List returns what the forge holds of a digest, at most MaxAttestations. Each
	// element reads one bundle, at most MaxBundle of it.
	List func(ctx context.Context, d signing.Digest) ([]func(context.Context) ([]byte, error), error)
}

// Verify answers about each digest of the artifacts.
func (a Attestations) Verify(ctx context.Context, arts []signing.Artifact) (*signing.AttestationFacts, error) {
	if a.Root == nil {
		return nil, &signing.Error{Code: signing.Invalid, Message: "attestations of " + a.Host + " cannot be verified", Expected: "a Sigstore trusted root", Found: "none", Fix: "set attestation_root of the forge"}
	}
	if a.Origin.RunInvocationURI == "" || a.Origin.SourceRepositoryIdentifier == "" || !IsCommit(a.Origin.SourceRepositoryDigest) {
		return nil, Lacks("its run, repository and commit")
	}
	v, err := verifier(a.Root)
	if err != nil {
		return nil, fmt.Errorf("setting up the verification of attestations: %w", err)
	}
	f := &signing.AttestationFacts{}
	seen := map[signing.Digest]bool{}
	for _, art := range arts {
		if seen[art.Digest] {
			continue
		}
		seen[art.Digest] = true
		one, why, err := a.digest(ctx, v, art.Digest)
		switch {
		case err != nil:
			return nil, err
		case one != nil:
			f.Verified = append(f.Verified, *one)
		default:
			if f.Refused == nil {
				f.Refused = map[signing.Digest]string{}
			}
			f.Refused[art.Digest] = why
		}
	}
	return f, nil
}

// verifier demands what the trusted root has: a transparency log and certificate
// log where it names some, as the public one does; else a signed timestamp, as a
// forge's own Sigstore gives.
func verifier(r root.TrustedMaterial) (*verify.Verifier, error) {
	var o []verify.VerifierOption
	if len(r.RekorLogs()) > 0 {
		o = append(o, verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1))
	} else {
		o = append(o, verify.WithSignedTimestamps(1))
	}
	if len(r.CTLogs()) > 0 {
		o = append(o, verify.WithSignedCertificateTimestamps(1))
	}
	return verify.NewVerifier(r, o...)
}

// digest returns the first attestation of a digest that counts, or why none of
// them does.
func (a Attestations) digest(ctx context.Context, v *verify.Verifier, d signing.Digest) (out *signing.Attestation, why string, err error) {
	all, err := a.List(ctx, d)
	switch {
	case errors.Is(err, signing.NotFound), err == nil && len(all) == 0:
		return nil, a.Host + " holds no attestation of it", nil
	case errors.Is(err, signing.TooLarge):
		return nil, signing.Public(err).Error(), nil
	case err != nil:
		return nil, "", err
	}
	for _, read := range all {
		raw, err := read(ctx)
		if err != nil {
			if !Permanent(err) {
				return nil, "", err
			}
			why = signing.Public(err).Error()
			continue
		}
		if out, err = a.bundle(v, d, raw); err == nil {
			return out, "", nil
		}
		why = Clip(err.Error())
	}
	if len(all) > 1 {
		why = fmt.Sprintf("none of %d counts; the last: %s", len(all), why)
	}
	return nil, why, nil
}

// bundle returns what a bundle says if it is this run's word about d.
func (a Attestations) bundle(v *verify.Verifier, d signing.Digest, raw []byte) (*signing.Attestation, error) {
	if len(raw) > MaxBundle {
		return nil, fmt.Errorf("the bundle has more than %d bytes", MaxBundle)
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
	who, err := verify.NewShortCertificateIdentity(a.Issuer, a.IssuerLike, "", "^https://"+regexp.QuoteMeta(a.Host)+"/")
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
		{"run", a.Origin.RunInvocationURI, c.RunInvocationURI},
		{"repository id", a.Origin.SourceRepositoryIdentifier, c.SourceRepositoryIdentifier},
		{"commit", a.Origin.SourceRepositoryDigest, c.SourceRepositoryDigest},
		{"predicate", Provenance, got.Statement.GetPredicateType()},
	} {
		if x.want != x.found || x.want == "" {
			return nil, fmt.Errorf("it has another %s: expected %s, found %s", x.what, Clip(x.want), Clip(x.found))
		}
	}
	return &signing.Attestation{Digest: d, RepositoryID: c.SourceRepositoryIdentifier, Commit: c.SourceRepositoryDigest, Run: c.RunInvocationURI, Predicate: Provenance}, nil
}
