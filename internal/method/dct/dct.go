// Package dct signs tags for Docker Content Trust: it binds tags of a repository to
// digests in the metadata of Notary v1, a form of The Update Framework (TUF), which
// docker, the notary client and Connaisseur verify.
//
// What is signed is one document for each (repository, role): all tags of the role.
// So a signer that signs documents signs whatever is in them. This one is asked to
// change tags: it reads what is published, verifies it from a root that the
// configuration pins, makes exactly the changes, and before the key is used the
// bytes are derived again from what was published, carried in the intent.
//
// The service holds keys of delegations only: no root key, no targets key, and
// snapshot and timestamp belong to the server.
//
// The library of Notary is unmaintained since 2021. None of it is here: the JSON,
// the verification and the transport are our own, strict and bounded; the ecosystem's
// own programs are what the tests hold it against (docs/design/0006-dct.md).
//
// Form: https://github.com/theupdateframework/notary/tree/master/docs and
// https://theupdateframework.github.io/specification/v1.0.0/, in Notary's JSON: "_type":
// "Targets", hashes and signatures in base64, ECDSA signatures as r and s.
package dct

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/signing"
)

// Name is the method's name in policies and keys files.
const Name = "dct"

// Format is the one format of what Find finds: metadata of TUF.
const Format = "tuf"

// mediaType of an envelope, which is one signed document of a role.
const mediaType = "application/json"

// The options of a step.
const (
	rolesOption  = "roles"  // names below targets/, with commas between; releases
	moveOption   = "move"   // "true": a tag that points elsewhere may be moved
	removeOption = "remove" // "true": tags may be untrusted
	expiryOption = "expiry" // how long the metadata is valid; three years
)

const (
	// defaultExpiry is Notary's own for targets and delegations.
	defaultExpiry = 3 * 365 * 24 * time.Hour
	minExpiry     = 24 * time.Hour
	maxExpiry     = 10 * 365 * 24 * time.Hour
	// maxParts bounds the roles of one step: releases and a few signers.
	maxParts = 8
	// renewBelow is the part of the expiry below which metadata that says the right
	// thing is signed anew all the same: one third.
	renewBelow = 3
	// renewed is how old metadata may be to count as just renewed, for a Task that
	// changes nothing.
	renewed = 24 * time.Hour
)

// Method is the dct method. It keeps nothing but its client.
type Method struct{ client *Client }

// New returns the method, reading and writing through c. Without a client it can
// still inspect and check, as whoever verifies evidence does: then the root that an
// intent carries is taken for the right one, and its time of making for now.
func New(c *Client) *Method { return &Method{client: c} }

var (
	_ method.Collective = (*Method)(nil)
	_ method.Finder     = (*Method)(nil)
)

// options are the options of a step, read.
type options struct {
	parts        []string
	move, remove bool
	expiry       time.Duration
}

func readOptions(o map[string]string) (options, error) {
	out := options{expiry: defaultExpiry}
	refuse := func(option, expected string) (options, error) {
		return out, &signing.Error{Code: signing.Invalid, Message: "the option " + option + " of the dct method is wrong", Expected: expected, Found: fmt.Sprintf("%.64q", o[option])}
	}
	if err := method.CheckOptions(Name, o, rolesOption, moveOption, removeOption, expiryOption); err != nil {
		return out, err
	}
	roles, ok := o[rolesOption]
	if !ok {
		roles = strings.TrimPrefix(RoleReleases, RoleTargets+"/")
	}
	for _, r := range strings.Split(roles, ",") {
		name := RoleTargets + "/" + strings.TrimSpace(r)
		if !isDelegation(name) || slices.Contains(out.parts, name) || len(out.parts) == maxParts {
			return refuse(rolesOption, fmt.Sprintf("at most %d names of delegations below targets/, each once, with commas between: releases,ci", maxParts))
		}
		out.parts = append(out.parts, name)
	}
	for name, to := range map[string]*bool{moveOption: &out.move, removeOption: &out.remove} {
		if v, ok := o[name]; ok {
			if v != "true" && v != "false" {
				return refuse(name, "true or false")
			}
			*to = v == "true"
		}
	}
	if e, ok := o[expiryOption]; ok {
		d, err := time.ParseDuration(e)
		if err != nil || d < minExpiry || d > maxExpiry || d%time.Second != 0 {
			return refuse(expiryOption, fmt.Sprintf("whole seconds between %s and %s, as in 26280h for three years", minExpiry, maxExpiry))
		}
		out.expiry = d
	}
	return out, nil
}

// Parts returns the roles of a step: releases, or what the option roles lists.
func (m *Method) Parts(o map[string]string) ([]string, error) {
	read, err := readOptions(o)
	return read.parts, err
}

// Info returns what the owner of a repository needs to delegate to the key, and what
// verifies.
func (m *Method) Info(k signing.KeyInfo, o map[string]string) (method.Info, error) {
	read, err := readOptions(o)
	if err != nil {
		return method.Info{}, err
	}
	key, err := KeyFor(k)
	if err != nil {
		return method.Info{}, err
	}
	file := k.ID + ".dct.pem"
	var add strings.Builder
	server := "NOTARY_URL"
	if m.client != nil && len(m.client.rows) == 1 {
		server = m.client.rows[0].URL
	}
	for _, p := range read.parts {
		fmt.Fprintf(&add, "notary -s %s delegation add -p REPOSITORY %s %s --all-paths\n", server, p, file)
	}
	signer := "SIGNER"
	if i := slices.IndexFunc(read.parts, func(p string) bool { return p != RoleReleases }); i >= 0 {
		signer = strings.TrimPrefix(read.parts[i], RoleTargets+"/")
	}
	items := []method.TrustItem{{Name: file, MediaType: "application/x-pem-file", Bytes: key.PEM()}}
	if m.client != nil {
		list, err := m.client.places()
		if err != nil {
			return method.Info{}, fmt.Errorf("reading the certificates of the notaries: %w", err)
		}
		items = append(items, method.TrustItem{Name: PlacesFile, MediaType: "application/json", Bytes: list})
	}
	return method.Info{
		Trust: items,
		Snippets: map[string]string{
			"notary":       add.String(),
			"docker trust": "docker trust signer add --key " + file + " " + signer + " REPOSITORY\ndocker trust inspect IMAGE\n",
		},
	}, nil
}

// Prepare reads and verifies what is published for the repository and makes the next
// version of the role, with the changes and nothing else. It refuses, with
// signing.Denied, a key that is not delegated, a tag that would move without the
// option move, and a removal without the option remove.
func (m *Method) Prepare(ctx context.Context, t method.Target, now time.Time) (method.Prepared, error) {
	o, key, err := checkTarget(t)
	if err != nil {
		return method.Prepared{}, err
	}
	if t.Offline || m.client == nil {
		return method.Prepared{}, &signing.Error{Code: signing.Denied, Message: "a job cannot publish for Docker Content Trust itself", Expected: "publish: service", Found: "publish: client", Fix: "leave `publish` out, or the method dct"}
	}
	s, err := m.client.Fetch(ctx, t.Artifact.Repository, t.Part)
	if err != nil {
		return method.Prepared{}, err
	}
	delegated, err := judge(s, t, o, key)
	if err != nil {
		return method.Prepared{}, err
	}
	r, _ := s.Role(t.Part)
	if recognised(r, t.Changes, delegated, o.expiry, now) {
		at, err := m.location(t, r.Digest)
		return method.Prepared{Recognised: []signing.Location{at}}, err
	}
	p := replay{Repository: t.Artifact.Repository, Role: t.Part, Changes: t.Changes, Expires: now.Add(o.expiry).UTC().Truncate(time.Second), Files: s.files}
	in, err := p.intent(s, delegated, now)
	if err != nil {
		return method.Prepared{}, err
	}
	return method.Prepared{Intent: &in}, nil
}

// checkTarget reads the options and the key of a target.
func checkTarget(t method.Target) (options, Key, error) {
	o, err := readOptions(t.Options)
	if err != nil {
		return o, Key{}, err
	}
	if !slices.Contains(o.parts, t.Part) {
		return o, Key{}, &signing.Error{Code: signing.Denied, Message: "the role is none of the policy's", Expected: strings.Join(o.parts, ", "), Found: fmt.Sprintf("%.64q", t.Part)}
	}
	key, err := KeyFor(t.Key)
	return o, key, err
}

// judge returns the key as the role knows it, if the key alone may sign the role and
// the policy allows the changes.
func judge(s *State, t method.Target, o options, key Key) (Key, error) {
	r, ok := s.Role(t.Part)
	i := slices.IndexFunc(r.Keys, func(k Key) bool { return k.bare == key.bare })
	deny := func(message, expected, found, fix string) (Key, error) {
		return Key{}, &signing.Error{Code: signing.Denied, Message: message, Expected: expected, Found: found, Fix: fix}
	}
	switch {
	case !ok || i < 0:
		var have []string
		for _, k := range r.Keys {
			have = append(have, k.ID)
		}
		return deny("key "+t.Key.ID+" may not sign "+t.Part+" of "+string(s.Repository), "the key "+key.ID+" in the delegation", "the keys "+strings.Join(have, ", "),
			"have the owner of the repository delegate to it: GET /v1/trust has its certificate, then `sealwrightd dct delegate` or `docker trust signer add --key`")
	case r.Threshold != 1:
		return deny("one key is not enough for "+t.Part+" of "+string(s.Repository), "a threshold of 1", strconv.Itoa(r.Threshold), "sign this role by hand, or have the owner delegate with a threshold of 1")
	case r.Err != nil:
		return Key{}, r.Err
	}
	for _, c := range t.Changes {
		if err := mayChange(s, r, c, o); err != nil {
			return Key{}, err
		}
	}
	return r.Keys[i], nil
}

// mayChange holds one change against the policy. docker looks into targets/releases
// first and then into targets, so that a new tag in the one can move, and a removed
// one can bring back, what the other says. Other delegations are each a word of their
// own, and docker never pulls by them.
func mayChange(s *State, r Role, c signing.Change, o options) error {
	deny := func(message, expected, found, fix string) error {
		return &signing.Error{Code: signing.Denied, Message: message, Expected: expected, Found: found, Fix: fix}
	}
	var under Target
	below := false
	if r.Name == RoleReleases {
		if top, ok := s.Role(RoleTargets); ok {
			under, below = top.Target(c.Tag)
		}
	}
	if c.Remove {
		switch {
		case !o.remove:
			return deny("the policy does not let tag "+c.Tag+" be untrusted", "the option remove: \"true\" of the dct step", "a removal", "set it, if tags of this policy may be untrusted")
		case below:
			return deny("untrusting tag "+c.Tag+" in "+r.Name+" would leave it trusted", "a tag that only delegations have signed", "the tag in targets, where docker looks next", "have the owner of the repository remove it with the targets key: notary remove -p "+string(s.Repository)+" "+c.Tag)
		}
		return nil
	}
	have, ok := r.Target(c.Tag)
	if !ok {
		have, ok = under, below
	}
	if ok && have.Digest != c.Digest && !o.move {
		return deny("tag "+c.Tag+" of "+string(s.Repository)+" is signed for another digest already", "a tag that is new in "+r.Name+", or points to "+string(c.Digest), string(have.Digest), "sign a new tag; or set the option move: \"true\" of the dct step, if tags of this policy may be moved")
	}
	return nil
}

// recognised reports whether the role says everything already, signed by key, for long
// enough.
func recognised(r Role, changes []signing.Change, key Key, expiry time.Duration, now time.Time) bool {
	if !r.Published || !slices.ContainsFunc(r.SignedBy, func(k Key) bool { return k.bare == key.bare }) {
		return false
	}
	if len(changes) == 0 {
		return r.Expires.After(now.Add(expiry - renewed))
	}
	return holds(r, changes) && r.Expires.After(now.Add(expiry/renewBelow))
}

// holds reports whether every change is made in r.
func holds(r Role, changes []signing.Change) bool {
	for _, c := range changes {
		t, ok := r.Target(c.Tag)
		if ok == c.Remove || !c.Remove && (t.Digest != c.Digest || t.Size != c.Size) {
			return false
		}
	}
	return true
}

// Inspect derives the bytes again from what was published, which the intent carries:
// verified from the trusted root, changed as the intent says. Bytes that differ in
// anything are refused, so that nothing but the changes, the next version and the
// expiry can be in them; and so are bytes from before the owner changed who may sign.
func (m *Method) Inspect(in signing.Intent) (signing.Statement, error) {
	p, old, err := m.inspect(in)
	if err != nil {
		return signing.Statement{}, err
	}
	diffs, err := p.differences(old, in.Bytes)
	if err != nil {
		return signing.Statement{}, err
	}
	return signing.Statement{Repository: p.Repository, Part: p.Role, Changes: p.Changes, Differences: diffs}, nil
}

// Assemble makes the signed document from the bytes of an intent, which must be those
// for the target and still allowed by its options, and a raw signature over them.
func (m *Method) Assemble(t method.Target, in signing.Intent, raw []byte) (signing.Envelope, error) {
	o, key, err := checkTarget(t)
	if err != nil {
		return signing.Envelope{}, err
	}
	p, old, err := m.inspect(in)
	if err != nil {
		return signing.Envelope{}, err
	}
	if p.Repository != t.Artifact.Repository || p.Role != t.Part || !slices.Equal(p.Changes, t.Changes) {
		return signing.Envelope{}, &signing.Error{Code: signing.Denied, Message: "the bytes to be signed are not those of the request", Expected: fmt.Sprintf("%s of %s", t.Part, t.Artifact.Repository), Found: fmt.Sprintf("%s of %s, or other changes", p.Role, p.Repository), Fix: "the stored intent was altered: keep the database for examination and submit again"}
	}
	delegated, err := judge(old, t, o, key)
	if err != nil {
		return signing.Envelope{}, err
	}
	sig, err := delegated.sign(raw)
	if err != nil || !delegated.verify(sig, in.Bytes) {
		return signing.Envelope{}, &signing.Error{Code: signing.Denied, Message: "the signature is not one of key " + t.Key.ID + " over these bytes", Err: err}
	}
	e := signing.Envelope{Method: Name, MediaType: mediaType, KeyID: t.Key.ID, Bytes: seal(in.Bytes, sig)}
	return e, m.Check(t, e)
}

// Check holds an envelope against its target without asking anybody: it is a document
// of the role, signed by the key, in which every change is made. Of which repository
// it is a document cannot say; the intent and the server's snapshot do.
func (m *Method) Check(t method.Target, e signing.Envelope) error {
	_, err := opened(t, e)
	return err
}

// opened returns the document of an envelope.
func opened(t method.Target, e signing.Envelope) (*document, error) {
	refuse := func(found string) error {
		return &signing.Error{Code: signing.Denied, Message: "the envelope is not one of the request", Expected: "metadata of " + t.Part + " with the changes of the request, signed by key " + t.Key.ID, Found: found, Fix: "keep the database for examination and submit again"}
	}
	_, key, err := checkTarget(t)
	if err != nil {
		return nil, err
	}
	if e.Method != Name || e.MediaType != mediaType || e.KeyID != t.Key.ID || len(e.Bytes) > MaxMetadata+maxAnswer {
		return nil, refuse("another form, or another key")
	}
	d, err := parseDocument(t.Part, e.Bytes)
	if err != nil {
		return nil, refuse(err.Error())
	}
	if !slices.ContainsFunc(d.sigs, func(s signature) bool { return key.verify(s, d.signed) }) {
		return nil, refuse("no signature of the key")
	}
	r, _, err := (&walk{}).believed(role{name: t.Part, paths: []string{""}}, d)
	if err != nil {
		return nil, refuse(err.Error())
	}
	if !holds(r, t.Changes) {
		return nil, refuse("other tags or digests")
	}
	return d, nil
}

// errUnchanged marks a Conflict whose cause the repository does not show.
var errUnchanged = errors.New("the server names a newer version and serves an older one")
