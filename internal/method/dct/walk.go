package dct

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxRootSteps bounds how many roots lie between the pinned and the newest one.
	// Root keys are rotated every few years.
	maxRootSteps = 64
	// maxWalked bounds all documents of one walk together.
	maxWalked = 32 << 20
	// maxReplayed bounds the documents that an intent carries.
	maxReplayed = 12 << 20
)

// source is where documents come from: a server, or the intent that carries them.
// name is the path below _trust/tuf without ".json". A document that is not there is
// signing.NotFound.
type source interface {
	get(ctx context.Context, name string, most int64) ([]byte, error)
}

// walk verifies what is published for one repository, from a trusted root down.
// The zero values of optional fields check less; all callers say what they leave out.
type walk struct {
	source source
	gun    signing.Repository
	pin    pin
	now    time.Time
	// slack is how long after their end documents still count: an intent is inspected
	// a little later than it was made.
	slack time.Duration
	// wanted says which delegations to read; nil is all of them.
	wanted func(role string) bool
	// memory holds versions against what was seen before; nil is none.
	memory Memory

	state State
	size  int
}

// refuse is a document that must not be believed.
func (w *walk) refuse(role, expected, found, fix string) error {
	return &signing.Error{Code: signing.Denied, Message: fmt.Sprintf("the trust data of %s is not to be believed: %s", w.gun, role), Expected: expected, Found: found, Fix: fix}
}

// fetch reads and parses the document name, which is of a role.
func (w *walk) fetch(ctx context.Context, role, name string, most int64) (*document, error) {
	raw, err := w.source.get(ctx, name, most)
	if err != nil {
		return nil, err
	}
	if w.size += len(raw); w.size > maxWalked || int64(len(raw)) > most {
		return nil, &signing.Error{Code: signing.TooLarge, Message: "the trust data of " + string(w.gun) + " is larger than this service reads", Expected: fmt.Sprintf("at most %d bytes of %s, %d of everything", most, role, maxWalked), Found: "more"}
	}
	w.state.files[name] = raw
	d, err := parseDocument(role, raw)
	if err != nil {
		return nil, w.refuse(role, "metadata of Notary v1", err.Error(), "have the owner of the repository publish it anew with notary or docker trust")
	}
	return d, nil
}

// check holds a document against who may sign it, the clock, and what was seen.
func (w *walk) check(ctx context.Context, r role, d *document) error {
	if err := w.current(r, d); err != nil {
		return err
	}
	return w.remember(ctx, r.name, d)
}

func (w *walk) remember(ctx context.Context, role string, d *document) error {
	if w.memory == nil {
		return nil
	}
	return w.memory.See(ctx, string(w.gun), role, d.version, d.digest)
}

// current holds a document against who may sign it and the clock.
func (w *walk) current(r role, d *document) error {
	if err := r.signedBy(d); err != nil {
		return w.refuse(r.name, "a document that its keys have signed", err.Error(), "ask the owner of the repository who changed it")
	}
	if !w.now.Before(d.expires.Add(w.slack)) {
		return w.refuse(r.name, "metadata that has not expired", "its end at "+d.expires.UTC().Format(time.RFC3339), expiredFix(r.name))
	}
	return nil
}

func expiredFix(role string) string {
	switch role {
	case roleTimestamp, roleSnapshot:
		return "the notary server renews it by itself: if it does not, its signer is down, or somebody replays an old answer"
	case roleRoot, RoleTargets:
		return "its owner signs it anew with the key of the role, for example with `sealwrightd dct init` or `notary witness`"
	}
	return "sign the role anew with its key; `sealwrightd` renews the roles of its own keys"
}

func (d *document) about(r role) Document {
	return Document{Version: d.version, Expires: d.expires, Digest: d.digest, Keys: r.keys, Threshold: r.threshold}
}

// run verifies everything.
func (w *walk) run(ctx context.Context) (*State, error) {
	w.state = State{Repository: w.gun, files: map[string][]byte{}}
	roles, root, err := w.root(ctx)
	if err != nil {
		return nil, err
	}
	timestamp, err := w.fetch(ctx, roleTimestamp, roleTimestamp, maxTimestamp)
	if err != nil {
		return nil, err
	}
	if err := w.check(ctx, roles[roleTimestamp], timestamp); err != nil {
		return nil, err
	}
	w.state.Timestamp = timestamp.about(roles[roleTimestamp])
	meta, err := w.meta(timestamp, roleTimestamp, roleSnapshot)
	if err != nil {
		return nil, err
	}
	snapshot, err := w.named(ctx, roles[roleSnapshot], meta[roleSnapshot])
	if err != nil {
		return nil, err
	}
	if err := w.check(ctx, roles[roleSnapshot], snapshot); err != nil {
		return nil, err
	}
	w.state.Snapshot = snapshot.about(roles[roleSnapshot])
	if meta, err = w.meta(snapshot, roleSnapshot, roleRoot, RoleTargets); err != nil {
		return nil, err
	}
	if err := meta[roleRoot].fits(root.raw); err != nil {
		return nil, errMixed{w.refuse(roleRoot, "the root that the snapshot names", err.Error(), "try again; if it stays, the server serves pieces of different times")}
	}
	if err := w.targets(ctx, roles[RoleTargets], meta); err != nil {
		return nil, err
	}
	return &w.state, nil
}

// errMixed marks a state that an update between two of our reads can explain.
type errMixed struct{ error }

func (e errMixed) Unwrap() error { return e.error }

// meta returns what d says of other documents, of which it must name some.
func (w *walk) meta(d *document, role string, must ...string) (map[string]file, error) {
	out, err := parseMeta(d)
	for _, name := range must {
		if _, ok := out[name]; !ok && err == nil {
			err = errors.New("it does not name " + name)
		}
	}
	if err != nil {
		return nil, w.refuse(role, "the hashes of other documents", err.Error(), "have the owner of the repository publish it anew")
	}
	return out, nil
}

// named reads the document that f describes, by its hash.
func (w *walk) named(ctx context.Context, r role, f file) (*document, error) {
	if f.length > MaxMetadata {
		return nil, &signing.Error{Code: signing.TooLarge, Message: "the metadata of " + r.name + " of " + string(w.gun) + " is larger than this service reads", Expected: fmt.Sprintf("at most %d bytes", MaxMetadata), Found: fmt.Sprintf("%d bytes", f.length)}
	}
	d, err := w.fetch(ctx, r.name, r.name+"."+f.digest().Hex(), f.length)
	if errors.Is(err, signing.NotFound) {
		return nil, errMixed{w.refuse(r.name, "the document that is named by its hash", "none on the server", "try again; if it stays, the server has lost it")}
	}
	if err != nil {
		return nil, err
	}
	if err := f.fits(d.raw); err != nil {
		return nil, errMixed{w.refuse(r.name, "the document that is named by its hash", err.Error(), "try again; if it stays, the server serves pieces of different times")}
	}
	return d, nil
}

// root returns the newest root and its roles, verified from what is trusted.
func (w *walk) root(ctx context.Context) (map[string]role, *document, error) {
	newest, err := w.fetch(ctx, roleRoot, roleRoot, MaxMetadata)
	if err != nil {
		return nil, nil, err
	}
	chain, trusted, err := w.chain(ctx, newest)
	if err != nil {
		return nil, nil, err
	}
	for i, r := range chain {
		if err := r.role(roleRoot).signedBy(r.doc); err != nil {
			return nil, nil, w.refuse(roleRoot, fmt.Sprintf("version %d signed by its own keys", r.doc.version), err.Error(), "ask the owner of the repository who changed it")
		}
		if i == 0 {
			continue
		}
		if err := chain[i-1].role(roleRoot).signedBy(r.doc); err != nil {
			return nil, nil, w.refuse(roleRoot, fmt.Sprintf("version %d signed by the keys of version %d", r.doc.version, chain[i-1].doc.version), err.Error(), "ask the owner of the repository who changed it")
		}
	}
	last := chain[len(chain)-1]
	current := last.role(roleRoot)
	// docker and notary refuse a root whose certificate has ended, so that what is
	// signed below it helps nobody.
	current.keys = slices.DeleteFunc(slices.Clone(current.keys), func(k Key) bool {
		c := k.Certificates[0]
		return w.now.Before(c.NotBefore) || w.now.After(c.NotAfter.Add(w.slack))
	})
	if len(current.keys) == 0 {
		return nil, nil, w.refuse(roleRoot, "a root key whose certificate is valid", "none", "have the owner of the repository rotate the root key: notary key rotate "+string(w.gun)+" root")
	}
	if err := w.check(ctx, current, last.doc); err != nil {
		return nil, nil, err
	}
	w.state.Root = Root{Document: last.doc.about(last.role(roleRoot)), Trusted: trusted}
	return last.roles, newest, nil
}

// rooted is one root with its roles.
type rooted struct {
	doc   *document
	roles map[string]role
}

func (r rooted) role(name string) role { return r.roles[name] }

func (w *walk) rooted(d *document) (rooted, error) {
	roles, err := parseRoot(d)
	if err == nil {
		// A root does not say of which repository it is, but its certificates do. Without
		// this, a root of the same owner's other repository would pass.
		r := roles[roleRoot]
		r.keys = slices.DeleteFunc(slices.Clone(r.keys), func(k Key) bool { return !names(k, w.gun) })
		if roles[roleRoot] = r; len(r.keys) == 0 {
			err = errors.New("no root key has a certificate whose common name is the repository")
		}
	}
	if err != nil {
		return rooted{}, w.refuse(roleRoot, "a root of this repository", err.Error(), "ask the owner of the repository who changed it")
	}
	return rooted{d, roles}, nil
}

// names reports whether the certificate of k is for a repository. Notary also takes
// a name that ends in "*" for all that begin like it.
func names(k Key, gun signing.Repository) bool {
	if len(k.Certificates) == 0 {
		return false
	}
	cn := k.Certificates[0].Subject.CommonName
	if prefix, ok := strings.CutSuffix(cn, "*"); ok {
		return strings.HasPrefix(string(gun), prefix)
	}
	return cn == string(gun)
}

// chain returns the roots from the first trusted one to the newest, and why the first
// is trusted. It goes back as far as the root that was seen last, too, so that a
// key that was rotated out does not come back.
func (w *walk) chain(ctx context.Context, newest *document) ([]rooted, Trusted, error) {
	var seen int64
	var digest signing.Digest
	if w.memory != nil {
		var err error
		if seen, digest, err = w.memory.Seen(ctx, string(w.gun), roleRoot); err != nil {
			return nil, "", err
		}
	}
	if newest.version < seen {
		return nil, "", w.refuse(roleRoot, fmt.Sprintf("version %d or later, which was seen before", seen), fmt.Sprintf("version %d: a rollback", newest.version), "find out who replays old answers")
	}
	r, err := w.rooted(newest)
	if err != nil {
		return nil, "", err
	}
	out := []rooted{r}
	trusted := w.pin.trusts(r, w.now)
	if trusted == "" && w.pin.firstUse {
		switch {
		case seen == 0 && w.memory != nil:
			trusted = ByFirstUse
		case seen > 0:
			trusted = ByMemory // the loop below ends at what was seen
		}
	}
	for {
		v := out[0].doc.version
		if v == seen && out[0].doc.digest != digest {
			return nil, "", w.refuse(roleRoot, fmt.Sprintf("version %d with the digest %s, which was seen before", seen, digest), string(out[0].doc.digest), "find out who made two roots of one version")
		}
		if trusted == "" {
			trusted = w.pin.trusts(out[0], w.now)
		}
		if trusted != "" && (seen == 0 || v <= seen) {
			return out, trusted, nil
		}
		if v == 1 || len(out) > maxRootSteps {
			return nil, "", w.untrusted(r)
		}
		d, err := w.fetch(ctx, roleRoot, strconv.FormatInt(v-1, 10)+"."+roleRoot, MaxMetadata)
		if err != nil {
			if errors.Is(err, signing.NotFound) {
				return nil, "", w.untrusted(r)
			}
			return nil, "", err
		}
		if d.version != v-1 {
			return nil, "", w.refuse(roleRoot, fmt.Sprintf("version %d under its number", v-1), fmt.Sprintf("version %d", d.version), "ask the operator of the notary server")
		}
		older, err := w.rooted(d)
		if err != nil {
			return nil, "", err
		}
		out = append([]rooted{older}, out...)
	}
}

// untrusted says which root key was found, so that a person can compare and pin it.
func (w *walk) untrusted(r rooted) error {
	var ids []string
	for _, k := range r.role(roleRoot).keys {
		ids = append(ids, k.ID)
	}
	return w.refuse(roleRoot, w.pin.String(), "root key "+strings.Join(ids, ", "), "compare the key id with its owner (`notary key list`, `docker trust inspect`), then add it to root_keys of a pin for this repository in `notaries`")
}

// targets reads the role targets and what it delegates to, parents first.
func (w *walk) targets(ctx context.Context, top role, meta map[string]file) error {
	top.paths = []string{""}
	d, err := w.named(ctx, top, meta[RoleTargets])
	if err != nil {
		return err
	}
	if err := w.check(ctx, top, d); err != nil {
		return err
	}
	r, below, err := w.believed(top, d)
	if err != nil {
		return w.refuse(RoleTargets, "tags and delegations", err.Error(), "have the owner of the repository repair it")
	}
	w.state.Roles = append(w.state.Roles, r)
	for len(below) > 0 {
		next := below[0]
		below = below[1:]
		if w.wanted != nil && !w.wanted(next.name) {
			continue
		}
		r, more, err := w.delegated(ctx, next, meta)
		if err != nil {
			return err
		}
		if w.state.Roles = append(w.state.Roles, r); len(w.state.Roles) > maxRoles {
			return w.refuse(RoleTargets, fmt.Sprintf("at most %d roles", maxRoles), "more", "remove delegations")
		}
		below = append(more, below...)
	}
	return nil
}

// delegated reads one delegation. What is wrong with its document is in the Role;
// what keeps us from reading on, and a rollback, is an error.
func (w *walk) delegated(ctx context.Context, r role, meta map[string]file) (Role, []role, error) {
	f, ok := meta[r.name]
	if !ok {
		out := Role{Name: r.name, Document: Document{Keys: r.keys, Threshold: r.threshold}, Paths: r.paths}
		if w.memory != nil {
			// A delegation that has had a document and has none any more.
			if v, _, err := w.memory.Seen(ctx, string(w.gun), r.name); err != nil || v > 0 {
				return out, nil, errors.Join(err, w.refuse(r.name, fmt.Sprintf("version %d or later, which was seen before", v), "no document: a rollback", "if the owner removed and delegated the role anew, ask the operator of this service to forget it"))
			}
		}
		return out, nil, nil
	}
	d, err := w.named(ctx, r, f)
	if err != nil {
		return Role{}, nil, err
	}
	out := Role{Name: r.name, Document: d.about(r), Paths: r.paths, Published: true}
	var more []role
	if out.Err = w.current(r, d); out.Err == nil {
		if err := w.remember(ctx, r.name, d); err != nil {
			return out, nil, err
		}
		var believed Role
		if believed, more, out.Err = w.believed(r, d); out.Err == nil {
			out = believed
		} else {
			out.Err = w.refuse(r.name, "tags and delegations within its paths", out.Err.Error(), "have the owner of the repository repair it")
		}
	}
	return out, more, nil
}

// believed returns what a verified document says, and its delegations, whose paths
// cannot reach further than its own.
func (w *walk) believed(r role, d *document) (Role, []role, error) {
	out := Role{Name: r.name, Document: d.about(r), Paths: r.paths, Published: true, doc: d}
	files, err := parseTargets(d)
	if err != nil {
		return out, nil, err
	}
	for _, tag := range slices.Sorted(maps.Keys(files)) {
		if !within(tag, r.paths) {
			return out, nil, fmt.Errorf("the target %.64q is outside its paths", tag)
		}
		out.Targets = append(out.Targets, Target{Tag: tag, Digest: files[tag].digest(), Size: files[tag].length})
	}
	for _, k := range r.keys {
		if slices.ContainsFunc(d.sigs, func(s signature) bool { return s.keyID == k.ID && k.verify(s, d.signed) }) {
			out.SignedBy = append(out.SignedBy, k)
		}
	}
	below, err := parseDelegations(d, r.name)
	if err != nil {
		return out, nil, err
	}
	for i := range below {
		below[i].paths = slices.DeleteFunc(below[i].paths, func(p string) bool { return !within(p, r.paths) })
	}
	return out, below, nil
}

// within reports whether name begins with one of paths.
func within(name string, paths []string) bool {
	return slices.ContainsFunc(paths, func(p string) bool { return strings.HasPrefix(name, p) })
}
