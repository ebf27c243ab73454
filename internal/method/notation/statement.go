package notation

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-core-go/signature/cose"
	"github.com/notaryproject/notation-core-go/signature/jws"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	formatJWS  = "jws"
	formatCOSE = "cose"

	payloadType = "application/vnd.cncf.notary.payload.v1+json"
	// agent is named in the envelope, unsigned. It has no version: an envelope is
	// made again, by whichever version runs, when it is published.
	agent = "sealwright"
)

// mediaTypes are the forms of envelopes.
var mediaTypes = map[string]string{formatJWS: jws.MediaTypeEnvelope, formatCOSE: cose.MediaTypeEnvelope}

// keySpecs are the keys that the specification knows, by signing.KeyInfo.Algorithm.
var keySpecs = map[string]signature.KeySpec{
	"ecdsa-p256": {Type: signature.KeyTypeEC, Size: 256},
	"ecdsa-p384": {Type: signature.KeyTypeEC, Size: 384},
	"ecdsa-p521": {Type: signature.KeyTypeEC, Size: 521},
	"rsa-2048":   {Type: signature.KeyTypeRSA, Size: 2048},
	"rsa-3072":   {Type: signature.KeyTypeRSA, Size: 3072},
	"rsa-4096":   {Type: signature.KeyTypeRSA, Size: 4096},
}

// replay is what the bytes of an intent are made from, and what they say.
type replay struct {
	// Repository and Tag are not signed; see the package's comment.
	Repository signing.Repository `json:"repository"`
	Tag        string             `json:"tag,omitempty"`

	MediaType    string            `json:"mediaType"`
	Digest       signing.Digest    `json:"digest"`
	Size         int64             `json:"size"`
	UserMetadata map[string]string `json:"userMetadata,omitempty"`
	Format       string            `json:"format"`
	Algorithm    string            `json:"algorithm"` // of the key
	Signed       time.Time         `json:"signed"`    // whole seconds, UTC
	Expires      time.Time         `json:"expires,omitzero"`
}

// replayFor returns the one document for a target at a time. It refuses a target
// that cannot be signed.
func replayFor(t method.Target, at time.Time) (replay, error) {
	a := t.Artifact
	if err := a.Validate(); err != nil {
		return replay{}, err
	}
	if a.MediaType == "" || a.Size <= 0 {
		return replay{}, &signing.Error{Code: signing.Invalid, Message: "notation signs the media type and the size of a manifest, which are not known", Expected: "an artifact as the registry serves it", Found: a.String()}
	}
	o, err := readOptions(t.Options)
	if err != nil {
		return replay{}, err
	}
	if err := checkChain(t.Key); err != nil {
		return replay{}, err
	}
	r := replay{Repository: a.Repository, Tag: a.Tag, MediaType: a.MediaType, Digest: a.Digest, Size: a.Size,
		Format: o.format, Algorithm: t.Key.Algorithm(), Signed: at.UTC().Truncate(time.Second)}
	if r.UserMetadata, err = method.SignedFields(metadataOption, t.Options, t.Origin); err != nil {
		return replay{}, err
	}
	if o.expiry > 0 {
		r.Expires = r.Signed.Add(o.expiry)
	}
	return r, nil
}

func (r replay) encode() ([]byte, error) {
	raw, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encoding what is to be signed: %w", err)
	}
	return raw, nil
}

// payload is the signed document.
func (r replay) payload() ([]byte, error) {
	raw, err := json.Marshal(struct {
		TargetArtifact ocispec.Descriptor `json:"targetArtifact"`
	}{r.descriptor()})
	if err != nil {
		return nil, fmt.Errorf("encoding the payload: %w", err)
	}
	return raw, nil
}

// descriptor is the signed part: nothing of a descriptor but these is signed,
// and its annotations are the user metadata.
func (r replay) descriptor() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: r.MediaType, Digest: digest.Digest(r.Digest), Size: r.Size, Annotations: r.UserMetadata}
}

// intent returns the bytes to be signed, and how.
func (r replay) intent(created time.Time) (signing.Intent, error) {
	spec, ok := keySpecs[r.Algorithm]
	if !ok {
		return signing.Intent{}, fmt.Errorf("no algorithm for a key of type %q", r.Algorithm)
	}
	c := &capture{spec: spec}
	if _, err := r.make(c); c.bytes == nil {
		return signing.Intent{}, fmt.Errorf("making the bytes to be signed: %w", err)
	}
	doc, err := r.encode()
	if err != nil {
		return signing.Intent{}, err
	}
	if len(c.bytes) > MaxSigned || len(doc) > MaxSigned {
		return signing.Intent{}, &signing.Error{Code: signing.TooLarge, Message: "what is to be signed is too large", Expected: fmt.Sprintf("at most %d bytes", MaxSigned), Found: fmt.Sprintf("%d bytes", max(len(c.bytes), len(doc))), Fix: "sign less user metadata"}
	}
	in := signing.Intent{Bytes: c.bytes, Hash: spec.SignatureAlgorithm().Hash(), Replay: doc, Created: created}
	if spec.Type == signature.KeyTypeRSA {
		in.Padding = signing.PSS
	}
	return in, nil
}

// make runs the library's signing with a signer of ours.
func (r replay) make(s signature.Signer) ([]byte, error) {
	content, err := r.payload()
	if err != nil {
		return nil, err
	}
	env, err := signature.NewEnvelope(mediaTypes[r.Format])
	if err != nil {
		return nil, fmt.Errorf("making an envelope: %w", err)
	}
	raw, err := env.Sign(&signature.SignRequest{
		Payload: signature.Payload{ContentType: payloadType, Content: content}, Signer: s,
		SigningTime: r.Signed, Expiry: r.Expires, SigningScheme: signature.SigningSchemeX509, SigningAgent: agent,
	})
	if err != nil {
		return nil, fmt.Errorf("making an envelope: %w", err)
	}
	return raw, nil
}

// capture is a signer that keeps what it was asked to sign, and does not sign.
type capture struct {
	spec  signature.KeySpec
	bytes []byte
}

var errCaptured = errors.New("captured")

func (c *capture) KeySpec() (signature.KeySpec, error) { return c.spec, nil }

func (c *capture) Sign(b []byte) ([]byte, []*x509.Certificate, error) {
	c.bytes = bytes.Clone(b)
	return nil, nil, errCaptured
}

// parse reads the document of an intent, strictly, and holds bytes, hash and
// padding against what it gives.
func parse(in signing.Intent) (replay, error) {
	refuse := func(found string) (replay, error) {
		return replay{}, &signing.Error{Code: signing.Denied, Message: "the bytes to be signed are not what this service makes", Expected: "a " + payloadType + " in its exact form", Found: found, Fix: "the stored intent was altered: keep the database for examination and submit again"}
	}
	if len(in.Bytes) > MaxSigned || len(in.Replay) > MaxSigned {
		return refuse(fmt.Sprintf("%d and %d bytes", len(in.Bytes), len(in.Replay)))
	}
	var r replay
	if err := json.Unmarshal(in.Replay, &r); err != nil {
		return refuse("no document beside them")
	}
	if again, err := r.encode(); err != nil || !bytes.Equal(again, in.Replay) {
		return refuse("the same document in another form")
	}
	if err := r.check(); err != nil {
		return refuse(err.Error())
	}
	want, err := r.intent(in.Created)
	if err != nil || !bytes.Equal(want.Bytes, in.Bytes) || want.Hash != in.Hash || want.Padding != in.Padding {
		return refuse("bytes, hash or padding that differ from what the document beside them gives")
	}
	return r, nil
}

// check reports what replayFor would not have made.
func (r replay) check() error {
	a := signing.Artifact{Repository: r.Repository, Digest: r.Digest, Tag: r.Tag}
	if err := a.Validate(); err != nil {
		return errors.New("a document that names no artifact")
	}
	known := method.OriginFields(signing.Origin{})
	for n, v := range r.UserMetadata {
		if _, ok := known[n]; !ok || v == "" {
			return errors.New("user metadata that is none of this service's")
		}
	}
	_, algorithm := keySpecs[r.Algorithm]
	life := r.Expires.Sub(r.Signed)
	switch {
	case r.MediaType == "" || r.Size <= 0:
		return errors.New("a document without media type or size")
	case mediaTypes[r.Format] == "" || !algorithm:
		return errors.New("a form or an algorithm that there is not")
	case r.Signed.IsZero() || !r.Signed.Equal(r.Signed.Truncate(time.Second)):
		return errors.New("a signing time that is not whole seconds")
	case !r.Expires.IsZero() && (life < minExpiry || life > maxExpiry || life%time.Second != 0):
		return errors.New("an expiry that no policy can ask for")
	}
	return nil
}
