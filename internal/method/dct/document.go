package dct

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// The four roles of a root; all others are delegations, below targets.
const (
	roleRoot      = "root"
	roleTimestamp = "timestamp"
	roleSnapshot  = "snapshot"
	// RoleTargets is the role of the repository's owner, and RoleReleases the
	// delegation that docker trusts for pulling.
	RoleTargets  = "targets"
	RoleReleases = "targets/releases"
)

const (
	// MaxMetadata bounds one document: some 25,000 tags. Docker's own client reads
	// 100 MB.
	MaxMetadata = 4 << 20
	// maxTimestamp bounds a timestamp, which names one hash and has 1 KiB.
	maxTimestamp = 64 << 10
	// MaxTargets bounds the tags of one role.
	MaxTargets = 32 << 10
	// maxSignatures and maxKeys bound what one document makes us verify.
	maxSignatures = 64
	maxKeys       = 256
	maxRoles      = 256
	maxPaths      = 256
	// maxRoleName is what the server's database takes.
	maxRoleName = 255
	// maxVersion is what 32 bit readers take, Docker's on small machines among them.
	maxVersion = 1<<31 - 1
	// maxLength bounds what a target says of its size: no manifest is near it.
	maxLength = 1 << 50
)

var reDelegation = regexp.MustCompile(`^targets(?:/[-a-z0-9_]+)+$`)

// isDelegation reports whether name is a role below targets, by Notary's grammar.
func isDelegation(name string) bool {
	return len(name) <= maxRoleName && reDelegation.MatchString(name)
}

// parentOf returns the role that delegates to name.
func parentOf(name string) string { return name[:strings.LastIndexByte(name, '/')] }

// document is one signed document of a role, parsed and not verified.
type document struct {
	raw     []byte
	digest  signing.Digest // of raw
	signed  []byte         // canonical: what the signatures are over
	body    map[string]any
	version int64
	expires time.Time
	sigs    []signature
}

// fields of what is signed, besides _type, version and expires.
var bodyFields = map[string][]string{
	"Root":      {"keys", "roles", "consistent_snapshot"},
	"Timestamp": {"meta"},
	"Snapshot":  {"meta"},
	"Targets":   {"targets", "delegations"},
}

// kindOf is the _type of the documents of a role.
func kindOf(role string) string {
	switch role {
	case roleRoot:
		return "Root"
	case roleTimestamp:
		return "Timestamp"
	case roleSnapshot:
		return "Snapshot"
	}
	return "Targets"
}

// parseDocument reads what role has signed.
func parseDocument(role string, raw []byte) (*document, error) {
	v, err := parseJSON(raw)
	if err != nil {
		return nil, err
	}
	top := asObject("the document", v, "signed", "signatures")
	list, body := get[[]any](top, "signatures"), get[map[string]any](top, "signed")
	if top.err != nil {
		return nil, top.err
	}
	d := &document{raw: raw, digest: signing.DigestOf(raw), body: body, signed: canonical(body)}
	kind := kindOf(role)
	o := asObject("what is signed", body, append([]string{"_type", "version", "expires"}, bodyFields[kind]...)...)
	if got := get[string](o, "_type"); o.err == nil && got != kind {
		o.err = fmt.Errorf("it is of the type %.32q", got)
	}
	d.version = o.number("version", maxVersion)
	if o.err == nil && d.version < 1 {
		o.err = errors.New("its version is below 1")
	}
	expires := get[string](o, "expires")
	if o.err != nil {
		return nil, o.err
	}
	if d.expires, err = time.Parse(time.RFC3339Nano, expires); err != nil {
		return nil, errors.New("its expiry is not a time")
	}
	d.sigs, err = parseSignatures(list)
	return d, err
}

func parseSignatures(list []any) ([]signature, error) {
	if len(list) > maxSignatures {
		return nil, fmt.Errorf("it has more than %d signatures", maxSignatures)
	}
	var out []signature
	for _, v := range list {
		o := asObject("a signature", v, "keyid", "method", "sig")
		s := signature{keyID: get[string](o, "keyid"), method: strings.ToLower(get[string](o, "method"))}
		text := get[string](o, "sig")
		if o.err != nil {
			return nil, o.err
		}
		var err error
		if s.raw, err = base64.StdEncoding.Strict().DecodeString(text); err != nil {
			return nil, errors.New("a signature is not base64")
		}
		out = append(out, s)
	}
	return out, nil
}

// role is who may sign what, as the document above says.
type role struct {
	name      string
	threshold int
	keys      []Key
	paths     []string // delegations only
}

// signedBy returns an error unless enough different keys of r have signed d. Two
// forms of one key, and one key twice, are one.
func (r role) signedBy(d *document) error {
	good := map[string]bool{}
	for _, s := range d.sigs {
		for _, k := range r.keys {
			if k.ID == s.keyID && k.verify(s, d.signed) {
				good[k.bare] = true
			}
		}
	}
	// A threshold below 1 was refused before; here it must not count as met.
	if r.threshold < 1 || len(good) < r.threshold {
		return fmt.Errorf("%d of its keys have signed it, and the threshold is %d", len(good), r.threshold)
	}
	return nil
}

// parseKeys reads a map of keys by id.
func parseKeys(v map[string]any) (map[string]Key, error) {
	if len(v) > maxKeys {
		return nil, fmt.Errorf("it has more than %d keys", maxKeys)
	}
	out := map[string]Key{}
	for _, id := range slices.Sorted(maps.Keys(v)) {
		k, err := parseKey(v[id])
		if err != nil {
			return nil, err
		}
		if k.ID != id {
			return nil, fmt.Errorf("a key has the id of another, %.64q", id)
		}
		out[id] = k
	}
	return out, nil
}

// parseKey reads one public key.
func parseKey(v any) (Key, error) {
	o := asObject("a key", v, "keytype", "keyval")
	val := asObject("a key", get[map[string]any](o, "keyval"), "public", "private")
	kind, text := get[string](o, "keytype"), get[string](val, "public")
	if err := errors.Join(o.err, val.err); err != nil {
		return Key{}, err
	}
	if p, ok := val.fields["private"]; ok && p != nil {
		return Key{}, errors.New("a key has a private half")
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) > maxPublicKey {
		return Key{}, errors.New("a key is not base64, or too long")
	}
	return newKey(kind, raw)
}

// parseRole reads keyids and threshold of o, which is of role name.
func parseRole(o *object, name string, keys map[string]Key) (role, error) {
	r := role{name: name, threshold: int(o.number("threshold", maxKeys))}
	ids := o.texts("keyids", maxKeys) // refuses one that comes twice
	if o.err != nil {
		return r, o.err
	}
	if r.threshold < 1 {
		return r, fmt.Errorf("the role %s has a threshold of %d", name, r.threshold)
	}
	bare := map[string]bool{}
	for _, id := range ids {
		k, ok := keys[id]
		if !ok {
			return r, fmt.Errorf("the role %s names a key that is not there", name)
		}
		// The same key in two forms would let one holder look like two.
		if bare[k.bare] {
			return r, fmt.Errorf("the role %s has one key twice", name)
		}
		bare[k.bare] = true
		r.keys = append(r.keys, k)
	}
	return r, nil
}

// parseRoot returns the four roles of a root.
func parseRoot(d *document) (map[string]role, error) {
	o := &object{what: "the root", fields: d.body}
	given, rows := get[map[string]any](o, "keys"), get[map[string]any](o, "roles")
	if o.err != nil {
		return nil, o.err
	}
	keys, err := parseKeys(given)
	if err != nil {
		return nil, err
	}
	out := map[string]role{}
	for _, name := range []string{roleRoot, roleTimestamp, roleSnapshot, RoleTargets} {
		row := asObject("the role "+name, rows[name], "keyids", "threshold")
		if out[name], err = parseRole(row, name, keys); err != nil {
			return nil, err
		}
	}
	if len(rows) != len(out) {
		return nil, errors.New("the root has other roles than the four")
	}
	return out, nil
}

// file is what a document says of another: how long it is and which hashes it has.
type file struct {
	length int64
	sha256 [sha256.Size]byte
	sha512 []byte // nil if there is none
}

// digest is the SHA-256 in our form.
func (f file) digest() signing.Digest { return signing.Digest(fmt.Sprintf("sha256:%x", f.sha256)) }

// fits returns an error unless raw is what f says.
func (f file) fits(raw []byte) error {
	sum := sha256.Sum256(raw)
	long := sha512.Sum512(raw)
	if int64(len(raw)) != f.length || sum != f.sha256 || f.sha512 != nil && subtle.ConstantTimeCompare(long[:], f.sha512) != 1 {
		return errors.New("its length or hash is another than was signed for it")
	}
	return nil
}

func parseFile(what string, v any, known ...string) (file, error) {
	o := asObject(what, v, append([]string{"length", "hashes"}, known...)...)
	f := file{length: o.number("length", maxLength)}
	h := asObject("the hashes of "+what, get[map[string]any](o, "hashes"), "sha256", "sha512")
	text := get[string](h, "sha256")
	if err := errors.Join(o.err, h.err); err != nil {
		return f, err
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) != sha256.Size {
		return f, fmt.Errorf("%s has a sha256 that is none", what)
	}
	f.sha256 = [sha256.Size]byte(raw)
	if _, ok := h.fields["sha512"]; ok {
		text := get[string](h, "sha512")
		f.sha512, err = base64.StdEncoding.Strict().DecodeString(text)
		if h.err != nil || err != nil || len(f.sha512) != sha512.Size {
			return f, fmt.Errorf("%s has a sha512 that is none", what)
		}
	}
	return f, nil
}

// parseMeta returns what a snapshot or a timestamp says of other documents.
func parseMeta(d *document) (map[string]file, error) {
	o := &object{what: "the document", fields: d.body}
	rows := get[map[string]any](o, "meta")
	if o.err != nil || len(rows) > maxRoles+4 {
		return nil, errors.Join(o.err, fmt.Errorf("it names %d documents", len(rows)))
	}
	out := map[string]file{}
	for name, v := range rows {
		f, err := parseFile("the entry of a document", v, "custom")
		if err != nil {
			return nil, err
		}
		out[name] = f
	}
	return out, nil
}

// delegation is a role that a targets document delegates to.
func parseDelegations(d *document, parent string) ([]role, error) {
	v, ok := d.body["delegations"]
	if !ok || v == nil {
		return nil, nil
	}
	o := asObject("the delegations", v, "keys", "roles")
	given, rows := get[map[string]any](o, "keys"), get[[]any](o, "roles")
	if o.err != nil {
		return nil, o.err
	}
	if len(rows) > maxRoles {
		return nil, fmt.Errorf("it delegates to more than %d roles", maxRoles)
	}
	keys, err := parseKeys(given)
	if err != nil {
		return nil, err
	}
	var out []role
	for _, v := range rows {
		o := asObject("a delegation", v, "name", "keyids", "threshold", "paths")
		name := get[string](o, "name")
		if o.err == nil && (!isDelegation(name) || parentOf(name) != parent || slices.ContainsFunc(out, func(r role) bool { return r.name == name })) {
			return nil, fmt.Errorf("it delegates to %.64q, which is not a role below it, or comes twice", name)
		}
		r, err := parseRole(o, name, keys)
		if err != nil {
			return nil, err
		}
		if _, ok := o.fields["paths"]; ok {
			r.paths = o.texts("paths", maxPaths)
		}
		if o.err != nil {
			return nil, o.err
		}
		out = append(out, r)
	}
	return out, nil
}

// parseTargets returns the tags of a targets document. Names are tags: one with a
// slash or with ".." is refused with everything beside it.
func parseTargets(d *document) (map[string]file, error) {
	o := &object{what: "the document", fields: d.body}
	rows := get[map[string]any](o, "targets")
	if o.err != nil {
		return nil, o.err
	}
	if len(rows) > MaxTargets {
		return nil, fmt.Errorf("it has more than %d targets", MaxTargets)
	}
	out := make(map[string]file, len(rows))
	for name, v := range rows {
		if signing.ValidateTag(name) != nil {
			return nil, fmt.Errorf("it has a target %.64q, which is no tag", name)
		}
		f, err := parseFile("a target", v, "custom")
		if err != nil {
			return nil, err
		}
		out[name] = f
	}
	return out, nil
}

// seal makes the document of a body and signatures. The body stays as it was signed,
// byte for byte.
func seal(signed []byte, sigs ...signature) []byte {
	list := []any{}
	for _, s := range sigs {
		list = append(list, map[string]any{"keyid": s.keyID, "method": s.method, "sig": base64.StdEncoding.EncodeToString(s.raw)})
	}
	b := append([]byte(`{"signed":`), signed...)
	b = append(b, `,"signatures":`...)
	return append(appendCanonical(b, list), '}')
}
