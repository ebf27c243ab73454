// Package simple signs images in the form that podman, skopeo, CRI-O and OpenShift
// verify with GPG keys, called simple signing: a JSON payload that names repository
// and digest, in an OpenPGP message, in a folder, on a web server or in a registry
// beside the image's. It is specified in
// https://github.com/containers/image/blob/main/docs/containers-signature.5.md.
//
// Where signatures go is the service's configuration, not the policy's: a Target
// for each part of the repositories.
package simple

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/openpgp"
	"github.com/sealwright/sealwright/internal/signing"
)

// Name is the method's name in policies and keys files.
const Name = "simple"

// MediaType is that of an envelope, whose bytes are the file that is published.
const MediaType = "application/vnd.sealwright.simple-signature.v1"

// Format is the one format of this method's signatures.
const Format = "gpg"

// Method is the simple signing method. It keeps no state but what it found right
// before.
type Method struct {
	places places
	now    func() time.Time
	certs  method.Memo[*openpgp.Certificate]
	held   method.Memo[struct{}]
}

var (
	_ method.Checker = (*Method)(nil)
	_ method.Finder  = (*Method)(nil)
)

// Offline returns the method without places: it inspects and checks.
func Offline() *Method { return &Method{now: time.Now} }

// Info returns the OpenPGP certificate and the lookasides for verifiers.
func (m *Method) Info(k signing.KeyInfo, options map[string]string) (method.Info, error) {
	if err := checkOptions(options); err != nil {
		return method.Info{}, err
	}
	c, err := m.certificate(k)
	if err != nil {
		return method.Info{}, err
	}
	file := k.ID + ".asc"
	out := method.Info{
		Trust: []method.TrustItem{{Name: file, MediaType: "application/pgp-keys", Bytes: []byte(signing.ArmorOpenPGP(c.Raw))}},
		Snippets: map[string]string{
			"policy.json": "{\n  \"default\": [{\"type\": \"reject\"}],\n  \"transports\": {\"docker\": {\"REPOSITORY\": [\n    {\"type\": \"signedBy\", \"keyType\": \"GPGKeys\", \"keyPath\": \"/etc/pki/containers/" + file + "\"}\n  ]}}\n}\n",
			"skopeo":      "skopeo standalone-verify MANIFEST IMAGE " + c.Fingerprint() + " SIGNATURE\n",
			"gpg":         "gpg --import " + file + " && gpg --verify SIGNATURE\n",
		},
	}
	list, err := m.places.list()
	if err != nil {
		return method.Info{}, err
	}
	if list != nil {
		out.Trust = append(out.Trust, method.TrustItem{Name: PlacesFile, MediaType: "application/json", Bytes: list})
	}
	if text := m.places.registries(); text != "" {
		out.Snippets["registries.d"] = text
	}
	return out, nil
}

// certificate returns the key's OpenPGP certificate, which must not be revoked.
func (m *Method) certificate(k signing.KeyInfo) (*openpgp.Certificate, error) {
	id, err := method.Target{Key: signing.KeyInfo{ID: k.ID, Public: k.Public, OpenPGP: k.OpenPGP}}.Ask()
	if err != nil {
		return nil, err
	}
	c, err := m.certs.Ask(id, func() (*openpgp.Certificate, error) { return openpgp.Of(k) })
	if err != nil {
		return nil, err
	}
	if c.Revoked {
		return nil, c.Valid(c.Created)
	}
	return c, nil
}

// Prepare makes the payload and looks for an equal signature: one of this key, valid
// now, over the same payload, at whatever time it was signed.
func (m *Method) Prepare(ctx context.Context, t method.Target, now time.Time) (method.Prepared, error) {
	want, err := payloadFor(t, now)
	if err != nil {
		return method.Prepared{}, err
	}
	c, err := m.certificate(t.Key)
	if err != nil {
		return method.Prepared{}, err
	}
	if err := c.Valid(now); err != nil {
		return method.Prepared{}, err
	}
	if !t.Offline {
		there, err := m.published(ctx, t.Artifact)
		if err != nil {
			return method.Prepared{}, err
		}
		for _, s := range there {
			if m.equal(t, c, s.Bytes, now) {
				return method.Prepared{Recognised: []signing.Location{s.Location}}, nil
			}
		}
	}
	d, err := c.Draft(want, now)
	if err != nil {
		return method.Prepared{}, err
	}
	return method.Prepared{Intent: &signing.Intent{Bytes: d.Bytes, Hash: d.Hash, Padding: d.Padding, Created: now}}, nil
}

// equal reports whether a published signature is one that this service would make
// for the target, but for its time.
func (m *Method) equal(t method.Target, c *openpgp.Certificate, signature []byte, now time.Time) bool {
	said, err := c.Exact(signature, now)
	if err != nil {
		return false
	}
	want, err := payloadFor(t, said.Signed)
	return err == nil && bytes.Equal(want, said.Content)
}

// Inspect parses the bytes of an intent back: a payload of this service, and behind
// it what OpenPGP signs along. The time of the payload, where it has one, is that
// of the signature.
func (m *Method) Inspect(in signing.Intent) (signing.Statement, error) {
	content, said, err := openpgp.Split(in.Bytes)
	if err != nil {
		return signing.Statement{}, err
	}
	c, err := parse(content)
	if err != nil {
		return signing.Statement{}, err
	}
	if in.Hash != said.Hash || in.Padding != said.Padding() || len(in.Replay) > 0 || c.optional.Timestamp != 0 && c.optional.Timestamp != said.Created.Unix() {
		return signing.Statement{}, notOurs(nil)
	}
	return statement(c), nil
}

func statement(c claims) signing.Statement {
	return signing.Statement{Repository: c.artifact.Repository, Digest: c.artifact.Digest, Tag: c.artifact.Tag}
}

// Assemble verifies the raw signature and makes the OpenPGP message, which is the
// file that is published.
func (m *Method) Assemble(t method.Target, in signing.Intent, raw []byte) (signing.Envelope, error) {
	said, err := m.Inspect(in)
	if err != nil {
		return signing.Envelope{}, err
	}
	if err := said.Matches(t.Artifact); err != nil {
		return signing.Envelope{}, err
	}
	c, err := m.certificate(t.Key)
	if err != nil {
		return signing.Envelope{}, err
	}
	message, err := c.Message(openpgp.Draft{Bytes: in.Bytes, Hash: in.Hash, Padding: in.Padding}, raw)
	if err != nil {
		return signing.Envelope{}, err
	}
	e := signing.Envelope{Method: Name, MediaType: MediaType, KeyID: t.Key.ID, Bytes: message}
	return e, m.Check(t, e)
}

// Check verifies an envelope offline: it is, byte for byte, one that this method
// makes for the target, with a signature by its key, valid when it was signed.
func (m *Method) Check(t method.Target, e signing.Envelope) error { return m.hold(t, e, time.Time{}) }

// hold checks an envelope with a key that must be valid at a time: when it was
// signed, if that is zero.
func (m *Method) hold(t method.Target, e signing.Envelope, at time.Time) error {
	if e.Method != Name || e.MediaType != MediaType || e.KeyID != t.Key.ID {
		return &signing.Error{Code: signing.Denied, Message: "the envelope is not one that this method made for the key", Expected: Name + " by key " + t.Key.ID, Found: fmt.Sprintf("%.64q of %.128q by key %.64q", e.Method, e.MediaType, e.KeyID), Fix: "the stored envelope was altered: keep the database for examination and submit again"}
	}
	c, err := m.certificate(t.Key)
	if err != nil {
		return err
	}
	if !at.IsZero() {
		if err := c.Valid(at); err != nil {
			return err
		}
	}
	id, err := t.Ask(e.Bytes)
	if err != nil {
		return err
	}
	_, err = m.held.Ask(id, func() (struct{}, error) { return struct{}{}, holdAnew(t, c, e.Bytes) })
	return err
}

// holdAnew checks the bytes, with the key as it was when they were signed.
func holdAnew(t method.Target, c *openpgp.Certificate, message []byte) error {
	said, err := c.Exact(message, time.Time{})
	if err != nil {
		return err
	}
	parsed, err := parse(said.Content)
	if err != nil {
		return err
	}
	if err := statement(parsed).Matches(t.Artifact); err != nil {
		return err
	}
	want, err := payloadFor(t, said.Signed)
	if err != nil {
		return err
	}
	if !bytes.Equal(want, said.Content) {
		return &signing.Error{Code: signing.Denied, Message: "the signed creator or timestamp is not that of the request", Fix: "the stored intent was altered, or the policy's options changed: submit again"}
	}
	return nil
}

// Publish puts the signature beside those that the digest has.
func (m *Method) Publish(ctx context.Context, t method.Target, e signing.Envelope) ([]signing.Location, error) {
	if err := m.hold(t, e, m.now()); err != nil {
		return nil, err
	}
	at, err := m.places.of(t.Artifact.Repository)
	if err != nil {
		return nil, err
	}
	l, err := at.Add(ctx, t.Artifact, e.Bytes)
	if err != nil {
		return nil, fmt.Errorf("publishing the signature of %s: %w", t.Artifact, err)
	}
	return []signing.Location{l}, nil
}

// Verify reads the signatures of the digest as verifiers do, one after the other,
// finds this one among them, and verifies it as read.
func (m *Method) Verify(ctx context.Context, t method.Target, e signing.Envelope) ([]signing.Location, error) {
	if err := m.hold(t, e, m.now()); err != nil {
		return nil, err
	}
	there, err := m.published(ctx, t.Artifact)
	if err != nil {
		return nil, err
	}
	for _, s := range there {
		if !bytes.Equal(s.Bytes, e.Bytes) {
			continue
		}
		if err := m.hold(t, signing.Envelope{Method: Name, MediaType: MediaType, KeyID: t.Key.ID, Bytes: s.Bytes}, m.now()); err != nil {
			return nil, err
		}
		return []signing.Location{s.Location}, nil
	}
	return nil, fmt.Errorf("reading back the signature of %s: %w", t.Artifact, method.ErrStaleBase)
}

// Find lists the signatures of an artifact, by whomever, and judges each as
// containers/image does that has the key and takes any tag of the repository.
func (m *Method) Find(ctx context.Context, a signing.Artifact, k signing.KeyInfo) ([]method.Found, error) {
	there, err := m.published(ctx, a)
	if err != nil {
		return nil, err
	}
	out := make([]method.Found, 0, len(there))
	for _, s := range there {
		out = append(out, method.Found{Format: Format, Location: s.Location, Envelope: signing.DigestOf(s.Bytes), Err: m.judge(a, k, s.Bytes)})
	}
	return out, nil
}

func (m *Method) judge(a signing.Artifact, k signing.KeyInfo, signature []byte) error {
	c, err := m.certificate(k)
	if err != nil {
		return err
	}
	said, err := c.Open(signature, m.now())
	if err != nil {
		return err
	}
	p, err := read(said.Content)
	if err != nil {
		return err
	}
	a.Tag = p.artifact.Tag
	return statement(p).Matches(signing.Artifact{Repository: a.Repository, Digest: a.Digest, Tag: a.Tag})
}

// published reads the signatures of an artifact where verifiers do.
func (m *Method) published(ctx context.Context, a signing.Artifact) ([]Stored, error) {
	at, err := m.places.of(a.Repository)
	if err != nil {
		return nil, err
	}
	there, err := at.Read(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("reading the signatures of %s: %w", a, err)
	}
	return there, nil
}
