package notation

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"

	notationgo "github.com/notaryproject/notation-go"
	nregistry "github.com/notaryproject/notation-go/registry"
	"github.com/notaryproject/notation-go/verifier"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"github.com/notaryproject/notation-go/verifier/truststore"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

// VerifyImage returns how many signatures of the artifact verify with the root of
// the key's chain and its subject, as notation at level strict judges them. The
// repository is not part of them. No such signature is a Denied error; a registry
// that cannot be asked is never "none".
func (m *Method) VerifyImage(ctx context.Context, a signing.Artifact, key signing.KeyInfo) (int, error) {
	if err := checkChain(key); err != nil {
		return 0, err
	}
	if a.MediaType == "" || a.Size <= 0 {
		d, err := m.registry.Resolve(ctx, a.Repository, string(a.Digest))
		if err != nil {
			return 0, fmt.Errorf("reading %s: %w", a, err)
		}
		a.MediaType, a.Size = d.MediaType, d.Size
	}
	list, err := m.signatures(ctx, a)
	if err != nil {
		return 0, err
	}
	good := 0
	var last error
	for _, d := range list {
		_, err := m.libraryVerify(ctx, method.Target{Artifact: a, Key: key}, d)
		switch {
		case err == nil:
			good++
		case errors.Is(err, signing.Internal), errors.Is(err, signing.Invalid), errors.Is(err, signing.TooLarge):
			last = err // a verdict about this signature
		default:
			return 0, err
		}
	}
	if good == 0 {
		return 0, &signing.Error{Code: signing.Denied, Message: "no valid notation signature of this key", Expected: "at least one by " + identity(key), Found: fmt.Sprintf("%d others", len(list)), Fix: "have the image signed, or verify with the certificates that signed it", Err: last}
	}
	return good, nil
}

// libraryVerify has notation's own verifier fetch and verify one signature, and
// returns the envelope that it accepted. A verdict is an Internal error; what
// the registry does wrong is the registry client's own.
//
// Level strict, with the key's root as the trust store and its subject as the
// only identity. Revocation is left out: OCSP and CRL are requests to hosts that
// a certificate names, and whoever deploys asks them at that time.
func (m *Method) libraryVerify(ctx context.Context, t method.Target, d registry.Descriptor) ([]byte, error) {
	store := roots{t.Key.Chain[len(t.Key.Chain)-1]}
	v, err := verifier.New(&trustpolicy.Document{Version: "1.0", TrustPolicies: []trustpolicy.TrustPolicy{{
		Name: "read-back", RegistryScopes: []string{"*"},
		SignatureVerification: trustpolicy.SignatureVerification{
			VerificationLevel: trustpolicy.LevelStrict.Name,
			Override:          map[trustpolicy.ValidationType]trustpolicy.ValidationAction{trustpolicy.TypeRevocation: trustpolicy.ActionSkip},
		},
		TrustStores: []string{string(truststore.TypeCA) + ":" + trustStore}, TrustedIdentities: []string{identity(t.Key)},
	}}}, store, nil)
	if err != nil {
		return nil, fmt.Errorf("setting up notation's verifier: %w", err)
	}
	metadata, err := method.SignedFields(metadataOption, t.Options, t.Origin)
	if err != nil {
		return nil, err
	}
	repo := &repository{method: m, artifact: t.Artifact, signatures: []registry.Descriptor{d}}
	// notation knows no other way to name an artifact than by its repository, and
	// its grammar lacks some hosts that are legal. The policy's scope is every
	// repository, so a name that always parses changes nothing.
	_, outcomes, err := notationgo.Verify(ctx, v, repo, notationgo.VerifyOptions{
		ArtifactReference: "localhost/image@" + string(t.Artifact.Digest), MaxSignatureAttempts: 2, UserMetadata: metadata,
	})
	if repo.err != nil {
		return nil, repo.err
	}
	if err != nil || len(outcomes) != 1 || outcomes[0].Error != nil {
		return nil, &signing.Error{Code: signing.Internal, Message: "the published signature does not verify", Found: t.Artifact.String(), Err: err}
	}
	return outcomes[0].RawSignature, nil
}

const trustStore = "key"

// roots is a trust store with one certificate.
type roots struct{ root *x509.Certificate }

// GetCertificates implements truststore.X509TrustStore.
func (r roots) GetCertificates(_ context.Context, kind truststore.Type, name string) ([]*x509.Certificate, error) {
	if kind != truststore.TypeCA || name != trustStore {
		return nil, fmt.Errorf("there is no trust store %s:%s", kind, name)
	}
	return []*x509.Certificate{r.root}, nil
}

// repository is what notation's verifier sees of an image: its descriptor, and
// some of its signatures. It keeps the first error, as notation drops its kind.
type repository struct {
	method     *Method
	artifact   signing.Artifact
	signatures []registry.Descriptor
	err        error
}

var _ nregistry.Repository = (*repository)(nil)

// Resolve implements registry.Repository. The digest is what is verified; media
// type and size are what the registry said of it when it was submitted.
func (r *repository) Resolve(_ context.Context, reference string) (ocispec.Descriptor, error) {
	if reference != string(r.artifact.Digest) {
		return ocispec.Descriptor{}, fmt.Errorf("%q is not asked for", reference)
	}
	return ocispec.Descriptor{MediaType: r.artifact.MediaType, Digest: digest.Digest(r.artifact.Digest), Size: r.artifact.Size}, nil
}

// ListSignatures implements registry.Repository.
func (r *repository) ListSignatures(_ context.Context, _ ocispec.Descriptor, fn func([]ocispec.Descriptor) error) error {
	var list []ocispec.Descriptor
	for _, d := range r.signatures {
		list = append(list, ocispec.Descriptor{MediaType: d.MediaType, Digest: digest.Digest(d.Digest), Size: d.Size, Annotations: d.Annotations})
	}
	return fn(list)
}

// FetchSignatureBlob implements registry.Repository.
func (r *repository) FetchSignatureBlob(ctx context.Context, d ocispec.Descriptor) ([]byte, ocispec.Descriptor, error) {
	e, mediaType, err := r.method.fetch(ctx, r.artifact, registry.Descriptor{MediaType: d.MediaType, Digest: signing.Digest(d.Digest), Size: d.Size})
	if err != nil {
		r.err = err
		return nil, ocispec.Descriptor{}, err
	}
	return e, ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(e), Size: int64(len(e))}, nil
}

// PushSignature implements registry.Repository, for reading only.
func (*repository) PushSignature(context.Context, string, []byte, ocispec.Descriptor, map[string]string) (blob, manifest ocispec.Descriptor, err error) {
	return blob, manifest, errors.New("this repository is read only")
}

// fetch returns the envelope of a signature and its media type. What is listed
// and missing is a fault of the registry, not an absence: verifiers stop at it.
func (m *Method) fetch(ctx context.Context, a signing.Artifact, d registry.Descriptor) ([]byte, string, error) {
	fail := func(err error) ([]byte, string, error) {
		if errors.Is(err, signing.NotFound) {
			return nil, "", &signing.Error{Code: signing.Unavailable, Message: "the registry lists a signature that it does not have", Found: string(a.Repository) + "@" + string(d.Digest), Fix: "if this stays, remove the referrer and sign anew", Err: err}
		}
		return nil, "", fmt.Errorf("reading the signatures of %s: %w", a, err)
	}
	unfit := func(why string) ([]byte, string, error) {
		return nil, "", &signing.Error{Code: signing.Invalid, Message: "a referrer is not in the form of a signature", Found: string(d.Digest) + ": " + why}
	}
	if d.MediaType != registry.MediaTypeImage {
		return unfit("it is of another media type")
	}
	raw, got, err := m.registry.Manifest(ctx, a.Repository, string(d.Digest))
	if err != nil {
		return fail(err)
	}
	image, err := registry.ParseManifest(raw, got.MediaType)
	if err != nil {
		return fail(err)
	}
	if image.Index() || len(image.Layers) != 1 {
		return unfit("it has not exactly one layer")
	}
	l := image.Layers[0]
	if l.Size > MaxEnvelope || l.Digest.Validate() != nil {
		return unfit(fmt.Sprintf("its envelope is larger than %d bytes, or has another kind of digest", MaxEnvelope))
	}
	e, err := m.registry.Blob(ctx, a.Repository, l, MaxEnvelope)
	if err != nil {
		return fail(err)
	}
	return e, l.MediaType, nil
}
