package dct

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// inspectSlack is how long after their end the documents of an intent still count: it
// is inspected minutes after it was made, and a timestamp may end in between.
const inspectSlack = time.Hour

// replay is Intent.Replay: what was published when the intent was made, and what was to
// change. The bytes follow from it.
type replay struct {
	Repository signing.Repository `json:"repository"`
	Role       string             `json:"role"`
	Changes    []signing.Change   `json:"changes"`
	Expires    time.Time          `json:"expires"` // of the new document
	// Files are the documents that were read, by their names on the server.
	Files map[string][]byte `json:"files"`
}

// intent makes the bytes to be signed by key.
func (p replay) intent(s *State, key Key, now time.Time) (signing.Intent, error) {
	d, err := s.Change(p.Role, p.Changes, p.Expires)
	if err != nil {
		return signing.Intent{}, err
	}
	diffs, err := p.differences(s, d.Bytes)
	if err != nil {
		return signing.Intent{}, err
	}
	size := 0
	for _, f := range p.Files {
		size += len(f)
	}
	if size > maxReplayed {
		return signing.Intent{}, &signing.Error{Code: signing.TooLarge, Message: "the trust data of " + string(p.Repository) + " is too large to be signed with proof", Expected: fmt.Sprintf("at most %d bytes in all roles above", maxReplayed), Found: fmt.Sprintf("%d bytes", size), Fix: "remove old tags"}
	}
	raw, err := json.Marshal(p)
	if err != nil {
		return signing.Intent{}, fmt.Errorf("encoding the replay of %s: %w", p.Repository, err)
	}
	hash, padding := key.algorithm()
	return signing.Intent{Bytes: d.Bytes, Hash: hash, Padding: padding, Replay: raw, Differences: diffs, Created: now}, nil
}

// differences is what bytes, the new document of the role, change.
func (p replay) differences(old *State, next []byte) ([]signing.Difference, error) {
	before, after, err := p.turn(old, next)
	if err != nil {
		return nil, err
	}
	return differences(before.Targets, after.Targets), nil
}

// turn reads the role as it is published, and as it is in bytes, its new document.
func (p replay) turn(old *State, next []byte) (before, after Role, err error) {
	before, _ = old.Role(p.Role)
	d, err := parseDocument(p.Role, seal(next))
	if err == nil {
		after, _, err = (&walk{}).believed(role{name: p.Role, paths: before.Paths}, d)
	}
	if err != nil {
		err = altered(err.Error())
	}
	return before, after, err
}

// altered refuses an intent that this method would not have made.
func altered(found string) error {
	return &signing.Error{Code: signing.Denied, Message: "the bytes to be signed are not what this service makes of the published metadata", Expected: "the changes of the request, the next version, and nothing else", Found: found, Fix: "the stored intent was altered: keep the database for examination and submit again"}
}

// parseReplay reads a replay strictly.
func parseReplay(raw []byte) (replay, error) {
	var p replay
	if len(raw) > 2*maxReplayed {
		return p, altered(fmt.Sprintf("%d bytes beside it", len(raw)))
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return p, altered("other bytes beside it")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return p, altered("more bytes beside it")
	}
	if err := p.Repository.Validate(); err != nil || !isDelegation(p.Role) {
		return p, altered("no repository, or no delegation")
	}
	if len(p.Changes) == 0 {
		p.Changes = nil // as a Task without changes has them
	}
	return p, nil
}

// inspect verifies an intent and returns what it says and what was published.
func (m *Method) inspect(in signing.Intent) (replay, *State, error) {
	p, err := parseReplay(in.Replay)
	if err != nil {
		return p, nil, err
	}
	w := walk{source: carried(p.Files), gun: p.Repository, slack: inspectSlack, wanted: func(role string) bool { return above(role, []string{p.Role}) }}
	since := carried(p.Files).oldest()
	w.now, w.pin, w.memory = in.Created, pin{firstUse: true}, since
	if m.client != nil {
		since.role, since.seen = p.Role, m.client.memory
		if _, w.pin, err = m.client.row(p.Repository); err != nil {
			return p, nil, err
		}
		w.now = m.client.now()
	}
	s, err := w.run(context.Background())
	if err == nil {
		err = m.remembered(s)
	}
	if err != nil {
		return p, nil, err
	}
	if life := p.Expires.Sub(in.Created); life < minExpiry-inspectSlack || life > maxExpiry+inspectSlack {
		return p, nil, altered("an expiry at " + p.Expires.Format(time.RFC3339))
	}
	d, err := s.Change(p.Role, p.Changes, p.Expires)
	if err != nil {
		return p, nil, err
	}
	if !bytes.Equal(d.Bytes, in.Bytes) {
		return p, nil, altered("other bytes")
	}
	// Documents that nothing refers to would be a place to hide things in.
	if len(s.files) != len(p.Files) {
		return p, nil, altered("documents that do not belong to it")
	}
	if r, _ := s.Role(p.Role); !slices.ContainsFunc(r.Keys, func(k Key) bool { h, pad := k.algorithm(); return h == in.Hash && pad == in.Padding }) {
		return p, nil, altered("another hash or padding than the keys of the role use")
	}
	return p, s, nil
}

// carried is an intent as the source of documents.
type carried map[string][]byte

func (c carried) get(_ context.Context, name string, _ int64) ([]byte, error) {
	raw, ok := c[name]
	if !ok {
		return nil, &signing.Error{Code: signing.NotFound, Message: "the intent does not carry " + name}
	}
	return raw, nil
}

// oldest is a memory in which the oldest root that the intent carries was seen, so that
// the walk goes back as far as it did when the intent was made.
func (c carried) oldest() *past {
	var out past
	for name, raw := range c {
		number, ok := strings.CutSuffix(name, "."+roleRoot)
		v, err := strconv.ParseInt(number, 10, 64)
		if ok && err == nil && v > 0 && (out.version == 0 || v < out.version) {
			out = past{version: v, digest: signing.DigestOf(raw)}
		}
	}
	return &out
}

// past is the memory as of when an intent was made, and what was seen since of whoever
// says who may sign its role.
type past struct {
	version int64 // of the oldest root
	digest  signing.Digest
	role    string
	seen    Memory // nil for whoever verifies evidence
}

func (p *past) Seen(_ context.Context, _, role string) (int64, signing.Digest, error) {
	if role != roleRoot {
		return 0, "", nil
	}
	return p.version, p.digest, nil
}

// See remembers nothing, and refuses a root, targets or a parent that is older than was
// seen: its owner has changed since who may sign. Others overtake each other without
// anybody's fault: every update makes a snapshot and a timestamp, and if another writer
// was faster, Publish says so and the bytes are made anew.
func (p *past) See(ctx context.Context, gun, role string, version int64, digest signing.Digest) error {
	if p.seen == nil || role == roleSnapshot || role == roleTimestamp || role == p.role {
		return nil
	}
	have, of, err := p.seen.Seen(ctx, gun, role)
	if err != nil || version > have || version == have && digest == of {
		return err
	}
	return &signing.Error{Code: signing.Denied, Message: fmt.Sprintf("the bytes to be signed were made from older metadata of %s of %s than was seen", role, gun), Expected: fmt.Sprintf("version %d with the digest %s, or a later one", have, of), Found: fmt.Sprintf("version %d with the digest %s", version, digest), Fix: "submit again; if the owner of the repository has published nothing, the stored intent was altered: keep the database for examination"}
}

// remembered holds a root that no pin speaks for against what was seen: the root that
// was seen last must be among those that the intent carries.
func (m *Method) remembered(s *State) error {
	if m.client == nil || s.Root.Trusted == ByPin || s.Root.Trusted == ByCA {
		return nil
	}
	version, digest := int64(0), signing.Digest("")
	if m.client.memory != nil {
		var err error
		if version, digest, err = m.client.memory.Seen(context.Background(), string(s.Repository), roleRoot); err != nil {
			return err
		}
	}
	for name, raw := range s.files {
		if version > 0 && (name == roleRoot || strings.HasSuffix(name, "."+roleRoot)) && signing.DigestOf(raw) == digest {
			return nil
		}
	}
	return altered("a root that does not follow from the one that was seen")
}
