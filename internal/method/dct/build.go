package dct

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// Draft is a new document of a role, not signed yet.
type Draft struct {
	Role string
	// Bytes are canonical JSON: exactly what is signed.
	Bytes []byte
}

// Signer is a key with its private half, for the documents that people make: a root,
// targets. The service's own signatures go through the workflow instead.
type Signer struct {
	Key     Key
	Private crypto.Signer
}

// Seal signs the draft with each signer and returns the document to publish.
func (d Draft) Seal(signers ...Signer) (Update, error) {
	var sigs []signature
	for _, s := range signers {
		sum := sha256.Sum256(d.Bytes)
		var o crypto.SignerOpts = crypto.SHA256
		if _, padding := s.Key.algorithm(); padding == signing.PSS {
			o = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
		}
		raw, err := s.Private.Sign(rand.Reader, sum[:], o)
		if err != nil {
			return Update{}, fmt.Errorf("signing %s: %w", d.Role, err)
		}
		sig, err := s.Key.sign(raw)
		if err != nil || !s.Key.verify(sig, d.Bytes) {
			return Update{}, fmt.Errorf("signing %s: the key gave a signature that is not its own", d.Role)
		}
		sigs = append(sigs, sig)
	}
	return Update{Role: d.Role, Bytes: seal(d.Bytes, sigs...)}, nil
}

// NewRoot drafts the root of a repository: version, end, and the keys of the four
// roles, each with a threshold of 1. The root keys must have certificates whose
// common name is the repository.
func NewRoot(version int64, expires time.Time, root, targets, snapshot, timestamp []Key) Draft {
	keys, roles := map[string]any{}, map[string]any{}
	for name, list := range map[string][]Key{roleRoot: root, RoleTargets: targets, roleSnapshot: snapshot, roleTimestamp: timestamp} {
		roles[name] = map[string]any{"keyids": addKeys(keys, list), "threshold": number(1)}
	}
	body := newBody("Root", version, expires)
	body["keys"], body["roles"], body["consistent_snapshot"] = keys, roles, false
	return Draft{Role: roleRoot, Bytes: canonical(body)}
}

// NewTargets drafts the first, empty document of targets or of a delegation.
func NewTargets(role string, expires time.Time) Draft {
	return Draft{Role: role, Bytes: canonical(emptyTargets(1, expires))}
}

func emptyTargets(version int64, expires time.Time) map[string]any {
	body := newBody("Targets", version, expires)
	body["targets"] = map[string]any{}
	body["delegations"] = map[string]any{"keys": map[string]any{}, "roles": []any{}}
	return body
}

// Delegate drafts the next version of targets, in which the role has these keys, with
// a threshold of 1 and for tags that begin with one of paths ("" is every tag). A
// delegation that is there gets the keys in addition. Nothing else changes.
func (s *State) Delegate(name string, keys []Key, paths []string, expires time.Time) (Draft, error) {
	if !isDelegation(name) || parentOf(name) != RoleTargets {
		return Draft{}, &signing.Error{Code: signing.Invalid, Message: "not a role that targets can delegate to", Expected: "targets/NAME with lower-case letters, digits, '-' and '_'", Found: fmt.Sprintf("%.64q", name)}
	}
	return s.edit(RoleTargets, expires, func(body map[string]any) error {
		d := delegationsOf(body)
		have := d["keys"].(map[string]any)
		ids := addKeys(have, keys)
		roles := d["roles"].([]any)
		for _, r := range roles {
			r := r.(map[string]any)
			if r["name"] != name {
				continue
			}
			for _, id := range ids {
				if old := r["keyids"].([]any); !slices.Contains(old, id) {
					r["keyids"] = append(old, id)
				}
			}
			return nil
		}
		list := []any{}
		for _, p := range paths {
			list = append(list, p)
		}
		d["roles"] = append(roles, map[string]any{"name": name, "keyids": ids, "threshold": number(1), "paths": list})
		return nil
	})
}

// Change drafts the next version of targets or of a delegation, with these changes of
// tags and nothing else.
func (s *State) Change(name string, changes []signing.Change, expires time.Time) (Draft, error) {
	return s.edit(name, expires, func(body map[string]any) error { return apply(body, changes) })
}

// edit copies the document of a role, changes the copy, counts its version up, and
// reads the result back.
func (s *State) edit(name string, expires time.Time, change func(map[string]any) error) (Draft, error) {
	r, ok := s.Role(name)
	if !ok {
		return Draft{}, &signing.Error{Code: signing.Denied, Message: string(s.Repository) + " has no role " + name, Expected: "a role of the repository", Found: "none", Fix: "have the owner of the repository delegate it"}
	}
	if r.Err != nil {
		return Draft{}, r.Err
	}
	body := emptyTargets(r.Version+1, expires)
	if r.doc != nil {
		v, err := parseJSON(r.doc.signed) // a copy
		if err != nil {
			return Draft{}, err
		}
		body = v.(map[string]any)
		body["version"], body["expires"] = number(r.Version+1), expires.UTC().Format(time.RFC3339)
	}
	if err := change(body); err != nil {
		return Draft{}, err
	}
	d := Draft{Role: name, Bytes: canonical(body)}
	doc, err := parseDocument(name, seal(d.Bytes))
	if err == nil {
		_, _, err = (&walk{}).believed(role{name: name, paths: r.Paths}, doc)
	}
	if err != nil {
		return Draft{}, &signing.Error{Code: signing.Denied, Message: "the new metadata of " + name + " would be wrong", Expected: "tags within the paths of the role", Found: err.Error(), Fix: "have the owner of the repository widen the paths of the delegation"}
	}
	if len(d.Bytes) > MaxMetadata {
		return Draft{}, &signing.Error{Code: signing.TooLarge, Message: "the metadata of " + name + " would be larger than this service reads", Expected: fmt.Sprintf("at most %d bytes", MaxMetadata), Found: fmt.Sprintf("%d bytes", len(d.Bytes)), Fix: "untrust old tags"}
	}
	return d, nil
}

// apply changes the tags of a body. What a target has besides length and hashes goes
// with its old value.
func apply(body map[string]any, changes []signing.Change) error {
	targets, ok := body["targets"].(map[string]any)
	if !ok {
		return fmt.Errorf("the document has no targets")
	}
	seen := map[string]bool{}
	for _, c := range changes {
		if err := checkChange(c); err != nil {
			return err
		}
		if seen[c.Tag] {
			return &signing.Error{Code: signing.Denied, Message: "one tag is to be changed twice", Expected: "one digest for each tag", Found: c.Tag, Fix: "ask for each tag once"}
		}
		seen[c.Tag] = true
		if c.Remove {
			delete(targets, c.Tag)
			continue
		}
		if t, ok := targetOf(targets[c.Tag]); ok && t.digest() == c.Digest && t.length == c.Size {
			continue // what it has beside stays
		}
		targets[c.Tag] = map[string]any{"length": number(c.Size), "hashes": map[string]any{"sha256": base64Of(c.Digest)}}
	}
	return nil
}

func targetOf(v any) (file, bool) {
	if v == nil {
		return file{}, false
	}
	f, err := parseFile("a target", v, "custom")
	return f, err == nil
}

func checkChange(c signing.Change) error {
	if err := signing.ValidateTag(c.Tag); err != nil {
		return err
	}
	if c.Remove {
		if c.Digest != "" || c.Size != 0 {
			return &signing.Error{Code: signing.Denied, Message: "a tag that is removed has no digest", Found: c.Tag}
		}
		return nil
	}
	if err := c.Digest.Validate(); err != nil {
		return err
	}
	if c.Size < 1 || c.Size > maxLength {
		return &signing.Error{Code: signing.Invalid, Message: "the size of the manifest is not known", Expected: "the number of its bytes, which is signed along", Found: strconv.FormatInt(c.Size, 10), Fix: "ask for an image that the registry answers for"}
	}
	return nil
}

func newBody(kind string, version int64, expires time.Time) map[string]any {
	return map[string]any{"_type": kind, "version": number(version), "expires": expires.UTC().Format(time.RFC3339)}
}

// delegationsOf returns the delegations of a body in full, made if there are none.
func delegationsOf(body map[string]any) map[string]any {
	d, ok := body["delegations"].(map[string]any)
	if !ok {
		d = map[string]any{"keys": map[string]any{}, "roles": []any{}}
		body["delegations"] = d
	}
	return d
}

// addKeys puts keys into a map by id and returns the ids.
func addKeys(into map[string]any, keys []Key) []any {
	ids := []any{}
	for _, k := range slices.SortedFunc(slices.Values(keys), func(a, b Key) int { return strings.Compare(a.ID, b.ID) }) {
		into[k.ID] = keyValue(k.Type, k.Bytes)
		ids = append(ids, k.ID)
	}
	return ids
}

func number(n int64) json.Number { return json.Number(strconv.FormatInt(n, 10)) }

func base64Of(d signing.Digest) string {
	raw, _ := hex.DecodeString(d.Hex()) // d was validated
	return base64.StdEncoding.EncodeToString(raw)
}

// differences compares two lists of targets, tag by tag.
func differences(old, new []Target) []signing.Difference {
	from, to := map[string]Target{}, map[string]Target{}
	tags := map[string]bool{}
	for _, t := range old {
		from[t.Tag], tags[t.Tag] = t, true
	}
	for _, t := range new {
		to[t.Tag], tags[t.Tag] = t, true
	}
	var out []signing.Difference
	for _, tag := range slices.Sorted(maps.Keys(tags)) {
		if from[tag] != to[tag] {
			out = append(out, signing.Difference{Tag: tag, From: from[tag].Digest, To: to[tag].Digest})
		}
	}
	return out
}
