package dct

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/signing"
)

// Publish sends the document of the role to the server, and nothing else. For equal
// bytes that are there it changes nothing. ErrStaleBytes says that the role has reached
// the version of the envelope by another document.
func (m *Method) Publish(ctx context.Context, t method.Target, e signing.Envelope) ([]signing.Location, error) {
	d, err := opened(t, e)
	if err != nil {
		return nil, err
	}
	at, err := m.there(ctx, t, d)
	if err == nil || !errors.Is(err, method.ErrStaleBase) {
		return at, err
	}
	err = m.client.Publish(ctx, t.Artifact.Repository, Update{Role: t.Part, Bytes: e.Bytes})
	switch {
	case err == nil:
		one, err := m.location(t, d.digest)
		return []signing.Location{one}, err
	case !errors.Is(err, errOldVersion):
		return nil, err
	}
	// The server says that somebody was faster. Only what can be read decides: a server
	// that says so and serves the old version for ever must not make us sign for ever.
	at, err = m.there(ctx, t, d)
	if errors.Is(err, method.ErrStaleBase) {
		return nil, &signing.Error{Code: signing.Unavailable, Message: "the notary server takes no new version of " + t.Part + " of " + string(t.Artifact.Repository), Expected: "the version that it says it has", Found: "an older one", Fix: "wait for the caches before the server, or ask its operator", Err: errUnchanged}
	}
	return at, err
}

// Verify reads what is published, from the root down, and reports nil only if exactly
// this document is what the repository has for the role.
func (m *Method) Verify(ctx context.Context, t method.Target, e signing.Envelope) ([]signing.Location, error) {
	d, err := opened(t, e)
	if err != nil {
		return nil, err
	}
	return m.there(ctx, t, d)
}

// there is nil if d is published. ErrStaleBase says that an older document is there, or
// none; ErrStaleBytes that another of the same or a later version is.
func (m *Method) there(ctx context.Context, t method.Target, d *document) ([]signing.Location, error) {
	if m.client == nil {
		return nil, errors.New("the dct method has no client")
	}
	_, key, err := checkTarget(t)
	if err != nil {
		return nil, err
	}
	s, err := m.client.Fetch(ctx, t.Artifact.Repository, t.Part)
	if err != nil {
		return nil, err
	}
	r, ok := s.Role(t.Part)
	switch {
	case !ok || !slices.ContainsFunc(r.Keys, func(k Key) bool { return k.bare == key.bare }):
		return nil, &signing.Error{Code: signing.Denied, Message: "key " + t.Key.ID + " may no longer sign " + t.Part + " of " + string(t.Artifact.Repository), Expected: "the key " + key.ID + " in the delegation", Found: "it was taken out", Fix: "have the owner of the repository delegate to it again"}
	case r.Published && r.Digest == d.digest:
		if r.Err != nil {
			return nil, r.Err
		}
		at, err := m.location(t, d.digest)
		return []signing.Location{at}, err
	case r.Version >= d.version:
		return nil, fmt.Errorf("%s has version %d: %w", t.Part, r.Version, method.ErrStaleBytes)
	}
	return nil, fmt.Errorf("%s has version %d: %w", t.Part, r.Version, method.ErrStaleBase)
}

// location is where the document of a role is published.
func (m *Method) location(t method.Target, d signing.Digest) (signing.Location, error) {
	server, err := m.client.Server(t.Artifact.Repository)
	return signing.Location{Kind: "notary", URI: server + "/" + tuf(t.Artifact.Repository, t.Part+".json"), Digest: d}, err
}

// Find returns the roles that bind a tag to the digest of a; with a tag, that tag only.
// The error of each says whether the key has signed it.
func (m *Method) Find(ctx context.Context, a signing.Artifact, k signing.KeyInfo) ([]method.Found, error) {
	if m.client == nil {
		return nil, errors.New("the dct method has no client")
	}
	key, err := KeyFor(k)
	if err != nil {
		return nil, err
	}
	s, err := m.client.Fetch(ctx, a.Repository)
	if errors.Is(err, signing.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []method.Found
	for _, r := range s.Roles {
		for _, t := range r.Targets {
			if t.Digest != a.Digest || a.Tag != "" && t.Tag != a.Tag {
				continue
			}
			at, err := m.location(method.Target{Artifact: a, Part: r.Name}, r.Digest)
			if err != nil {
				return nil, err
			}
			at.URI += "#" + t.Tag
			f := method.Found{Format: Format, Location: at, Envelope: r.Digest}
			if !slices.ContainsFunc(r.SignedBy, func(k Key) bool { return k.bare == key.bare }) {
				f.Err = &signing.Error{Code: signing.Denied, Message: r.Name + " is not signed by key " + k.ID, Expected: key.ID, Found: "other keys"}
			}
			out = append(out, f)
		}
	}
	return out, nil
}

// PEM returns the key as docker and notary read it for a delegation.
func (k Key) PEM() []byte {
	if len(k.Certificates) > 0 {
		return bytes.Clone(k.Bytes)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.Bytes})
}
