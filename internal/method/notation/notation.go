// Package notation signs images with the Notary Project's signatures: an
// envelope, JWS or COSE, over the media type, digest and size of a manifest, with
// the certificate chain of the key in it, published as a referrer of the image.
// notation, Ratify and Kyverno verify it against a store of trusted certificates.
//
// Form: https://github.com/notaryproject/specifications. Algorithms follow from
// the key: ECDSA P-256, P-384 and P-521 with SHA-256, -384 and -512; RSA 2048,
// 3072 and 4096 with PSS and the same hashes.
//
// What is bound: digest, media type, size, signing time, expiry and the chosen
// fields of the origin are signed. The repository and a tag are not, by the
// technology's design: a copy of the image elsewhere verifies. They are kept
// beside the bytes, in the intent, and held against the request before the key
// is used and before anything is published.
//
// The bytes to be signed are made by notation's own library from a short
// document, which is stored with them (Intent.Replay). Reading them back is
// making them again: bytes that differ from what the document gives are
// refused, and no parser of CBOR or JWS stands between a stored intent and a key.
package notation

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

// Name is the method's name in policies and keys files.
const Name = "notation"

const (
	// ArtifactType is the artifact type of the referrers that hold signatures.
	ArtifactType = "application/vnd.cncf.notary.signature"
	// MaxEnvelope bounds one envelope, ours or read. A chain of ten RSA-4096
	// certificates in base64 takes some 25 KiB, a timestamp 10 KiB.
	MaxEnvelope = 64 << 10
	// MaxSigned bounds the bytes to be signed and what they are made from.
	// Without user metadata they are some 700; a field of Origin comes from a
	// claim of a token that is bounded itself.
	MaxSigned = 64 << 10
	// MaxSignatures bounds the signatures of one image, by whomever: notation
	// looks at the first 100 by default, so one beyond them is not found.
	MaxSignatures = 100
)

const (
	// renewBelow is the part of a policy's expiry below which a signature that
	// is there counts as about to expire, and is made anew: one third, so that a
	// release that is signed again in time never stands without a signature.
	renewBelow = 3
	// leafMargin is how long the certificates of a key must still be valid when
	// it signs. Verifiers judge them at the time of the deployment, not of the
	// signature: one that dies tomorrow is of no use to anybody.
	leafMargin = 24 * time.Hour
	// minExpiry and maxExpiry bound the option expiry. Below an hour a deployment
	// may outlive its signature; beyond ten years no certificate lives.
	minExpiry = time.Hour
	maxExpiry = 10 * 365 * 24 * time.Hour
)

// Method is the notation method. It keeps no state but what it can verify again.
type Method struct {
	registry *registry.Client
	opened   memo
}

// New returns the method, reading and writing through reg.
func New(reg *registry.Client) *Method { return &Method{registry: reg} }

var _ method.Attacher = (*Method)(nil)

// options are the options of a step, read.
type options struct {
	format string
	expiry time.Duration // 0 is none
}

const metadataOption = "userMetadata"

// readOptions reads `format`, `expiry` and `userMetadata`, a list of field names
// of Origin with commas between.
func readOptions(o map[string]string) (options, error) {
	out := options{format: formatJWS}
	if err := method.CheckOptions(Name, o, "format", "expiry", metadataOption); err != nil {
		return out, err
	}
	if f, ok := o["format"]; ok {
		if mediaTypes[f] == "" {
			return out, &signing.Error{Code: signing.Invalid, Message: "the option format names no form of envelope", Expected: formatJWS + " or " + formatCOSE, Found: fmt.Sprintf("%q", f)}
		}
		out.format = f
	}
	if e, ok := o["expiry"]; ok {
		d, err := time.ParseDuration(e)
		if err != nil || d < minExpiry || d > maxExpiry || d%time.Second != 0 {
			return out, &signing.Error{Code: signing.Invalid, Message: "the option expiry is not a length of time for which a signature can be valid", Expected: fmt.Sprintf("whole seconds between %s and %s, as in 8760h for a year", minExpiry, maxExpiry), Found: fmt.Sprintf("%q", e)}
		}
		out.expiry = d
	}
	_, err := method.FieldNames(metadataOption, o)
	return out, err
}

// Prepare makes the bytes to be signed and looks for an equal signature: of the
// same content with the same certificates, accepted by notation's own
// verification, and not about to expire.
func (m *Method) Prepare(ctx context.Context, t method.Target, now time.Time) (method.Prepared, error) {
	r, err := replayFor(t, now)
	if err != nil {
		return method.Prepared{}, err
	}
	if err := checkValidity(t.Key, now); err != nil {
		return method.Prepared{}, err
	}
	in, err := r.intent(now)
	if err != nil {
		return method.Prepared{}, err
	}
	if !t.Offline {
		at, err := m.recognise(ctx, t, r)
		if err != nil {
			return method.Prepared{}, err
		}
		if at != nil {
			return method.Prepared{Recognised: []signing.Location{*at}}, nil
		}
	}
	return method.Prepared{Intent: &in}, nil
}

// Inspect makes the bytes again from the document beside them, and returns what
// that says: repository and tag are not in the bytes, all else is.
func (m *Method) Inspect(in signing.Intent) (signing.Statement, error) {
	r, err := parse(in)
	if err != nil {
		return signing.Statement{}, err
	}
	return signing.Statement{Repository: r.Repository, Digest: r.Digest, Tag: r.Tag, MediaType: r.MediaType, Size: r.Size}, nil
}

// Assemble makes the envelope from the bytes of an intent, which must be those
// for the target, and a raw signature over them.
func (m *Method) Assemble(t method.Target, in signing.Intent, raw []byte) (signing.Envelope, error) {
	r, err := parse(in)
	if err != nil {
		return signing.Envelope{}, err
	}
	want, err := replayFor(t, r.Signed)
	if err != nil {
		return signing.Envelope{}, err
	}
	wanted, err := want.encode()
	if err != nil {
		return signing.Envelope{}, err
	}
	if !bytes.Equal(wanted, in.Replay) {
		return signing.Envelope{}, &signing.Error{Code: signing.Denied, Message: "the bytes to be signed are not those of the request", Expected: "what the request and the policy's options give", Fix: "the stored intent was altered, or the policy's options changed: submit again"}
	}
	signature, err := fixedWidth(t.Key.Public, raw)
	if err != nil {
		return signing.Envelope{}, err
	}
	e, err := r.seal(t.Key, signature)
	if err != nil {
		return signing.Envelope{}, err
	}
	if _, err := verifiedContent(mediaTypes[r.Format], e); err != nil {
		return signing.Envelope{}, foreign(t.Key, err)
	}
	out := signing.Envelope{Method: Name, MediaType: mediaTypes[r.Format], KeyID: t.Key.ID, Bytes: e}
	key, err := memoKey(t, out)
	if err != nil {
		return signing.Envelope{}, err
	}
	m.opened.put(key, r)
	return out, nil
}
