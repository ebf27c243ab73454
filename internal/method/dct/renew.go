package dct

import (
	"context"
	"time"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/signing"
)

// renewBefore is how long before its end a role is signed again, if a third of its
// life is not shorter: longer than holidays, so that somebody can still do something.
const renewBefore = 30 * 24 * time.Hour

var (
	_ method.Renewer  = (*Method)(nil)
	_ method.Recorder = (*Method)(nil)
)

// Standing reads and verifies what is published for a role, and when everything that
// it rests on ends.
func (m *Method) Standing(ctx context.Context, repository signing.Repository, part string) (method.Standing, error) {
	if m.client == nil {
		return method.Standing{}, &signing.Error{Code: signing.Unavailable, Message: "no notary server can be asked"}
	}
	s, err := m.client.Fetch(ctx, repository, part)
	if err != nil {
		return method.Standing{}, err
	}
	r, ok := s.Role(part)
	if !ok || !r.Published {
		return method.Standing{}, &signing.Error{Code: signing.NotFound, Message: part + " of " + string(repository) + " is not published", Expected: "a delegation with metadata", Found: "none", Fix: "ask the owner of the repository who took it away"}
	}
	out := method.Standing{Version: r.Version, Expires: r.Expires, Ends: []method.End{
		{Name: roleRoot, Expires: s.Root.Expires}, {Name: roleSnapshot, Expires: s.Snapshot.Expires}, {Name: roleTimestamp, Expires: s.Timestamp.Expires},
	}}
	for _, above := range s.Roles {
		if above.Published {
			out.Ends = append(out.Ends, method.End{Name: above.Name, Expires: above.Expires})
		}
	}
	out.Entries = entries(r.Targets)
	return out, r.Err
}

// Due reports whether what ends at expires is to be signed again now.
func (m *Method) Due(options map[string]string, expires, now time.Time) bool {
	o, err := readOptions(options)
	if err != nil {
		return false // decided anew, and refused there
	}
	return expires.Before(now.Add(min(renewBefore, o.expiry/renewBelow)))
}

// Entries returns every tag that the bytes of an intent bind, as Inspect found them to
// be made.
func (m *Method) Entries(in signing.Intent) ([]signing.Change, error) {
	p, old, err := m.inspect(in)
	if err != nil {
		return nil, err
	}
	_, after, err := p.turn(old, in.Bytes)
	if err != nil {
		return nil, err
	}
	return entries(after.Targets), nil
}

func entries(targets []Target) []signing.Change {
	out := make([]signing.Change, 0, len(targets))
	for _, t := range targets {
		out = append(out, signing.Change{Tag: t.Tag, Digest: t.Digest, Size: t.Size})
	}
	return out
}

// Offline returns the method without a server: intents are judged as of when they
// were made.
func (m *Method) Offline() method.Method { return New(nil) }
