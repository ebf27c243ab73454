// Package cosign signs images in the two forms of Sigstore's cosign.
//
// The legacy form is the default: a "simple signing" payload that names
// repository and digest, its signature in an annotation, both in a layer of the
// image sha256-<hex>.sig beside the signed one. cosign 2 and 3,
// policy-controller, Kyverno and containers/image verify it with a public key and
// nothing else. It is specified in
// https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md.
//
// The bundle is what cosign 3 makes: an in-toto Statement in a DSSE envelope in a
// Sigstore bundle v0.3, attached as a referrer. Nothing but the predicate of a
// signature is ever made here: cosign takes any statement by the key for one.
//
// The signature is ECDSA over SHA-256 in ASN.1 DER, RSA PKCS#1 v1.5 over
// SHA-256, or pure Ed25519: what these verifiers use for a key given as a file,
// whatever its size.
//
// Certificates are left out of what is published, also for keys that have a
// chain. A certificate in the annotations adds nothing for a verifier that has
// the public key, and makes cosign refuse the signature once it has expired.
package cosign

import (
	"bytes"
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

// The options of a step: annotations names the fields of the origin that become
// annotations; format is that of the signature, without it the legacy one.
const (
	annotationsOption = "annotations"
	formatOption      = "format"
	formatBundle      = "bundle"
)

// MaxPayload bounds the bytes to be signed. Without annotations they are some
// 300; a field of Origin comes from a claim of a token that is bounded itself.
const MaxPayload = 32 << 10

// Method is the cosign method. It keeps no state but what it found right before.
type Method struct {
	registry *registry.Client
	held     method.Memo[struct{}]
}

// New returns the method, reading and writing through reg.
func New(reg *registry.Client) *Method { return &Method{registry: reg} }

var (
	_ method.Attacher = (*Method)(nil)
	_ method.Finder   = (*Method)(nil)
)

// Tag returns the tag of the signatures of a digest, sha256-<hex>.sig.
func Tag(d signing.Digest) string { return "sha256-" + d.Hex() + ".sig" }

// Info returns the public key for verifiers.
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
	out := method.Info{
		Trust:    []method.TrustItem{{Name: file, MediaType: "application/x-pem-file", Bytes: pub}},
		Snippets: map[string]string{"cosign": "cosign verify --key " + file + " --insecure-ignore-tlog=true IMAGE\n"},
	}
	if options[formatOption] == formatBundle {
		// cosign 2 asks for a trusted root as soon as an image has a bundle.
		out.Trust = append(out.Trust, method.TrustItem{Name: emptyRootFile, MediaType: "application/json", Bytes: []byte(emptyRoot)})
		out.Snippets["cosign 2"] = "cosign verify --key " + file + " --insecure-ignore-tlog=true --trusted-root " + emptyRootFile + " IMAGE\n"
		return out, nil
	}
	out.Snippets["policy.json"] = "{\n  \"default\": [{\"type\": \"reject\"}],\n  \"transports\": {\"docker\": {\"REPOSITORY\": [\n    {\"type\": \"sigstoreSigned\", \"keyPath\": \"/etc/pki/containers/" + file + "\", \"signedIdentity\": {\"type\": \"matchRepository\"}}\n  ]}}\n}\n"
	out.Snippets["registries.d"] = "docker:\n  REPOSITORY:\n    use-sigstore-attachments: true\n"
	return out, nil
}

// emptyRoot is a trusted root that trusts nobody, which is all that cosign 2 needs
// beside a key: what `cosign trusted-root create` writes.
const (
	emptyRootFile = "trusted-root.json"
	emptyRoot     = `{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}` + "\n"
)

// Prepare makes the payload and looks for an equal signature: the same bytes,
// signed by this key, and accepted by cosign's own verification.
func (m *Method) Prepare(ctx context.Context, t method.Target, now time.Time) (method.Prepared, error) {
	if bundled(t) {
		return m.prepareBundle(ctx, t, now)
	}
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

// bundled reports whether the signature is to be a bundle.
func bundled(t method.Target) bool { return t.Options[formatOption] == formatBundle }

// Inspect parses a payload back. It must be, byte for byte, what the library
// makes of what it says: that leaves no room for another critical.type, for
// unknown, repeated or differently spelt keys, or for bytes before and after.
func (m *Method) Inspect(in signing.Intent) (signing.Statement, error) {
	if bytes.HasPrefix(in.Bytes, []byte(encoded)) {
		return inspectBundle(in)
	}
	s, _, err := parse(in.Bytes)
	return s, err
}

func parse(raw []byte) (signing.Statement, map[string]string, error) {
	refuse := func(found string) (signing.Statement, map[string]string, error) {
		return signing.Statement{}, nil, notOurs("a "+payload.CosignSignatureType+" in its exact form", found)
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
	annotations, err := annotationsFor(t)
	if err != nil {
		return nil, err
	}
	raw, err := encode(t.Artifact, annotations)
	if err != nil {
		return nil, err
	}
	return raw, fits(raw)
}

// annotationsFor checks a target, and returns what is signed along with it.
func annotationsFor(t method.Target) (map[string]string, error) {
	if err := t.Artifact.Validate(); err != nil {
		return nil, err
	}
	if err := checkOptions(t.Options); err != nil {
		return nil, err
	}
	return method.SignedFields(annotationsOption, t.Options, t.Origin)
}

func fits(payload []byte) error {
	if len(payload) <= MaxPayload {
		return nil
	}
	return &signing.Error{Code: signing.TooLarge, Message: "the payload to be signed is too large", Expected: fmt.Sprintf("at most %d bytes", MaxPayload), Found: fmt.Sprintf("%d bytes", len(payload)), Fix: "sign fewer annotations"}
}

// knownAnnotations refuses annotations that this service never signs.
func knownAnnotations(annotations map[string]string) error {
	known := method.OriginFields(signing.Origin{})
	for n, v := range annotations {
		if _, ok := known[n]; !ok || v == "" {
			return errors.New("an annotation that is none of this service's")
		}
	}
	return nil
}

// notOurs refuses bytes of an intent that this method would not have made.
func notOurs(expected, found string) error {
	return &signing.Error{Code: signing.Denied, Message: "the bytes to be signed are not a payload that this service makes", Expected: expected, Found: found, Fix: "the stored intent was altered: keep the database for examination and submit again"}
}

func checkOptions(options map[string]string) error {
	if err := method.CheckOptions(Name, options, annotationsOption, formatOption); err != nil {
		return err
	}
	if f, ok := options[formatOption]; ok && f != formatBundle {
		return &signing.Error{Code: signing.Invalid, Message: "the cosign method has no such format", Expected: formatBundle + ", or no word for the legacy one", Found: fmt.Sprintf("%.64q", f)}
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
