// Package cosign signs images in the legacy form of Sigstore's cosign: a
// "simple signing" payload that names repository and digest, its signature in an
// annotation, both in a layer of the image sha256-<hex>.sig beside the signed
// one. cosign 2 and 3, policy-controller, Kyverno and containers/image verify
// it with a public key and nothing else.
//
// Form: https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md.
// The signature is ECDSA over SHA-256 in ASN.1 DER, RSA PKCS#1 v1.5 over
// SHA-256, or pure Ed25519: what these verifiers use for a key given as a file,
// whatever its size.
//
// Certificates are left out of what is published, also for keys that have a
// chain. A certificate in the annotations adds nothing for a verifier that has
// the public key, and makes cosign refuse the signature once it has expired.
package cosign

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	libcosign "github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/cosign/v2/pkg/types"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

// Name is the method's name in policies and keys files.
const Name = "cosign"

// annotationsOption names the fields of the origin that become annotations.
const annotationsOption = "annotations"

// MaxPayload bounds the bytes to be signed. Without annotations they are some
// 300; a field of Origin comes from a claim of a token that is bounded itself.
const MaxPayload = 32 << 10

// Method is the cosign method. It keeps no state.
type Method struct{ registry *registry.Client }

// New returns the method, reading and writing through reg.
func New(reg *registry.Client) *Method { return &Method{registry: reg} }

var _ method.Attacher = (*Method)(nil)

// Tag returns the tag of the signatures of a digest, sha256-<hex>.sig.
func Tag(d signing.Digest) string { return "sha256-" + d.Hex() + ".sig" }

// Info returns the public key for verifiers. The one option is `annotations`.
func (m *Method) Info(k signing.KeyInfo, options map[string]string) (method.Info, error) {
	if err := checkOptions(options); err != nil {
		return method.Info{}, err
	}
	if _, err := verifier(k); err != nil {
		return method.Info{}, err
	}
	pub, err := cryptoutils.MarshalPublicKeyToPEM(k.Public)
	if err != nil {
		return method.Info{}, fmt.Errorf("encoding public key %s: %w", k.ID, err)
	}
	file := k.ID + ".pub"
	return method.Info{
		Trust: []method.TrustItem{{Name: file, MediaType: "application/x-pem-file", Bytes: pub}},
		Snippets: map[string]string{
			"cosign":       "cosign verify --key " + file + " --insecure-ignore-tlog=true IMAGE\n",
			"policy.json":  "{\n  \"default\": [{\"type\": \"reject\"}],\n  \"transports\": {\"docker\": {\"REPOSITORY\": [\n    {\"type\": \"sigstoreSigned\", \"keyPath\": \"/etc/pki/containers/" + file + "\", \"signedIdentity\": {\"type\": \"matchRepository\"}}\n  ]}}\n}\n",
			"registries.d": "docker:\n  REPOSITORY:\n    use-sigstore-attachments: true\n",
		},
	}, nil
}

// Prepare makes the payload and looks for an equal signature: the same bytes,
// signed by this key, and accepted by cosign's own verification.
func (m *Method) Prepare(ctx context.Context, t method.Target, now time.Time) (method.Prepared, error) {
	want, err := payloadFor(t)
	if err != nil {
		return method.Prepared{}, err
	}
	v, err := verifier(t.Key)
	if err != nil {
		return method.Prepared{}, err
	}
	if !t.Offline {
		there, at, err := m.read(ctx, t, want)
		if err != nil {
			return method.Prepared{}, err
		}
		for _, b := range there {
			if libraryVerify(ctx, t, v, b) == nil {
				return method.Prepared{Recognised: []signing.Location{at}}, nil
			}
		}
	}
	hash, padding := algorithm(t.Key.Public)
	return method.Prepared{Intent: &signing.Intent{Bytes: want, Hash: hash, Padding: padding, Created: now}}, nil
}

// Inspect parses a payload back. It must be, byte for byte, what the library
// makes of what it says: that leaves no room for another critical.type, for
// unknown, repeated or differently spelt keys, or for bytes before and after.
func (m *Method) Inspect(in signing.Intent) (signing.Statement, error) {
	s, _, err := parse(in.Bytes)
	return s, err
}

func parse(raw []byte) (signing.Statement, map[string]string, error) {
	refuse := func(found string) (signing.Statement, map[string]string, error) {
		return signing.Statement{}, nil, &signing.Error{Code: signing.Denied, Message: "the bytes to be signed are not a payload that this service makes", Expected: "a " + payload.CosignSignatureType + " in its exact form", Found: found, Fix: "the stored intent was altered: keep the database for examination and submit again"}
	}
	if len(raw) > MaxPayload {
		return refuse(fmt.Sprintf("%d bytes", len(raw)))
	}
	var p struct {
		Critical payload.Critical  `json:"critical"`
		Optional map[string]string `json:"optional"`
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return refuse("other JSON, or none")
	}
	for n, v := range p.Optional {
		if _, ok := method.OriginFields(signing.Origin{})[n]; !ok || v == "" {
			return refuse("an annotation that is none of this service's")
		}
	}
	ref, err := signing.ParseReference(p.Critical.Identity.DockerReference)
	if err != nil || ref.Digest != "" {
		return refuse("a docker-reference that is not REPOSITORY[:TAG]")
	}
	ref.Digest = signing.Digest(p.Critical.Image.DockerManifestDigest)
	if err := ref.Validate(); err != nil {
		return refuse("a docker-manifest-digest that is not one")
	}
	again, err := encode(ref, p.Optional)
	if err != nil || string(again) != string(raw) {
		return refuse("the same statement in other bytes")
	}
	return signing.Statement{Repository: ref.Repository, Digest: ref.Digest, Tag: ref.Tag}, p.Optional, nil
}

// encode makes the payload of an artifact. docker-reference is the repository,
// with the tag if one is signed: containers/image's matchRepoDigestOrExact
// accepts nothing else for an image that is pulled by tag.
func encode(a signing.Artifact, annotations map[string]string) ([]byte, error) {
	image, err := name.NewDigest(string(a.Repository) + "@" + string(a.Digest))
	if err != nil {
		return nil, &signing.Error{Code: signing.Invalid, Message: "cosign cannot name this image", Found: a.String(), Err: err}
	}
	// Always claimed: the library's own name would turn docker.io into
	// index.docker.io, which verifiers do not take for the same.
	p := payload.Cosign{Image: image, ClaimedIdentity: string(a.Repository)}
	if a.Tag != "" {
		p.ClaimedIdentity += ":" + a.Tag
	}
	for n, v := range annotations {
		if p.Annotations == nil {
			p.Annotations = map[string]any{}
		}
		p.Annotations[n] = v
	}
	raw, err := p.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("encoding the payload of %s: %w", a, err)
	}
	return raw, nil
}

// payloadFor returns the one payload for a target.
func payloadFor(t method.Target) ([]byte, error) {
	if err := t.Artifact.Validate(); err != nil {
		return nil, err
	}
	if err := checkOptions(t.Options); err != nil {
		return nil, err
	}
	annotations, err := method.SignedFields(annotationsOption, t.Options, t.Origin)
	if err != nil {
		return nil, err
	}
	raw, err := encode(t.Artifact, annotations)
	if err != nil {
		return nil, err
	}
	if len(raw) > MaxPayload {
		return nil, &signing.Error{Code: signing.TooLarge, Message: "the payload to be signed is too large", Expected: fmt.Sprintf("at most %d bytes", MaxPayload), Found: fmt.Sprintf("%d bytes", len(raw)), Fix: "sign fewer annotations"}
	}
	return raw, nil
}

// checkOptions reads the options of a step: `annotations` is a list of field
// names of Origin, with commas between.
func checkOptions(options map[string]string) error {
	if err := method.CheckOptions(Name, options, annotationsOption); err != nil {
		return err
	}
	_, err := method.FieldNames(annotationsOption, options)
	return err
}

// algorithm returns how the verifiers expect a key to sign.
func algorithm(public crypto.PublicKey) (crypto.Hash, signing.Padding) {
	switch public.(type) {
	case ed25519.PublicKey:
		return 0, ""
	case *rsa.PublicKey:
		return crypto.SHA256, signing.PKCS1v15
	default:
		return crypto.SHA256, ""
	}
}

// verifier returns the verifier that cosign makes of the key's public file.
func verifier(k signing.KeyInfo) (signature.Verifier, error) {
	switch k.Public.(type) {
	case *ecdsa.PublicKey, *rsa.PublicKey, ed25519.PublicKey:
	default:
		return nil, &signing.Error{Code: signing.Invalid, Message: "key " + k.ID + " cannot sign for cosign", Expected: "an ECDSA, RSA or Ed25519 key", Found: fmt.Sprintf("%T", k.Public)}
	}
	v, err := signature.LoadVerifier(k.Public, crypto.SHA256)
	if err != nil {
		return nil, &signing.Error{Code: signing.Invalid, Message: "cosign cannot verify with key " + k.ID, Err: err}
	}
	return v, nil
}

// libraryVerify holds one published signature against the target with cosign's
// own verification: signature, type and digest of the claim, annotations. It is
// offline; there is no transparency log for keys of our own.
func libraryVerify(ctx context.Context, t method.Target, v signature.Verifier, b signing.Blob) error {
	// A certificate beside the signature makes cosign judge its expiry as well.
	// Nothing that we publish has one; of others we recognise none with one.
	if _, ok := b.Annotations[static.CertificateAnnotationKey]; ok || b.MediaType != types.SimpleSigningMediaType {
		return errors.New("not in the form that this service publishes")
	}
	_, annotations, err := parse(b.Bytes)
	if err != nil {
		return err
	}
	sig, err := static.NewSignature(b.Bytes, b.Annotations[static.SignatureAnnotationKey])
	if err != nil {
		return fmt.Errorf("reading a signature: %w", err)
	}
	h, err := v1.NewHash(string(t.Artifact.Digest))
	if err != nil {
		return fmt.Errorf("reading the digest: %w", err)
	}
	want := map[string]any{}
	for n, v := range annotations {
		want[n] = v
	}
	co := &libcosign.CheckOpts{SigVerifier: v, ClaimVerifier: libcosign.SimpleClaimVerifier, Annotations: want, IgnoreTlog: true, IgnoreSCT: true, Offline: true}
	if _, err := libcosign.VerifyImageSignature(ctx, sig, h, co); err != nil {
		return fmt.Errorf("cosign refuses the signature: %w", err)
	}
	return nil
}

func b64(raw []byte) string { return base64.StdEncoding.EncodeToString(raw) }
