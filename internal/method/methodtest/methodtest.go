package methodtest

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

// Suite is what the contract needs to know of a method.
type Suite struct {
	New func(*registry.Client) method.Method
	// In, in place of New, is for a method that publishes elsewhere than in a
	// registry: whatever it sends goes over the wire of w.
	In func(t testing.TB, w *World) method.Method
	// Keys are a key of each type that the method signs with, by name; there are
	// at least two.
	Keys map[string]crypto.Signer
	// Chains are the certificates of the keys that have some, by name.
	Chains map[string][]*x509.Certificate
	// OpenPGP are the OpenPGP certificates of the keys that have some, by name.
	OpenPGP map[string][]byte
	// Rewrite, if set, returns an intent in which the text old is with wherever
	// the method keeps it. Without, the bytes to be signed are plain text.
	Rewrite func(in signing.Intent, old, with string) signing.Intent
	// Refused are public keys that the method cannot use, by name.
	Refused map[string]crypto.PublicKey
	Options map[string]string
	Origin  signing.Origin
	// Tags says that the method signs tags along with digests.
	Tags bool
	// Count returns how many signatures a digest has, seen without the method.
	Count func(t testing.TB, a signing.Artifact) int
}

// at is the time of every Prepare.
var at = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// Run holds the method to its contract, on registries with and without the
// referrers API.
func Run(t *testing.T, s Suite) {
	if len(s.Keys) < 2 {
		t.Fatal("the contract needs two keys")
	}
	for _, referrers := range []bool{false, true} {
		t.Run(fmt.Sprintf("referrers=%t", referrers), func(t *testing.T) {
			for name := range s.Keys {
				t.Run("the cycle with "+name, func(t *testing.T) { newBench(t, s, referrers, name).cycle() })
			}
			for name, f := range map[string]func(*bench){
				"signatures of two keys are both kept":                             (*bench).twoKeys,
				"raw signature that does not fit is refused":                       (*bench).wrongRaw,
				"altered intent is refused before the key":                         (*bench).alteredIntent,
				"signature of one digest is refused for another":                   (*bench).otherDigest,
				"altered envelope is refused without writing":                      (*bench).alteredEnvelope,
				"failing registry is never taken for an empty one":                 (*bench).failingRegistry,
				"signature that was lost after writing is a stale base":            (*bench).lostSignature,
				"altered manifest or blob of the registry never verifies":          (*bench).alteredContent,
				"offline target asks nobody and recognises nothing":                (*bench).offline,
				"attachment is what Publish writes, without asking anybody":        (*bench).attachment,
				"envelope is checked without asking anybody":                       (*bench).check,
				"published signature is found with the digest of its envelope":     (*bench).find,
				"key, option or artifact that cannot be signed is refused by Info": (*bench).refused,
			} {
				t.Run(name, func(t *testing.T) { f(newBench(t, s, referrers, "")) })
			}
		})
	}
}

// bench is one method, one registry, one image.
type bench struct {
	*testing.T
	s      Suite
	w      *World
	m      method.Method
	signer crypto.Signer
	target method.Target
}

// newBench signs with the named key, or with any.
func newBench(t *testing.T, s Suite, referrers bool, name string) *bench {
	for n := range s.Keys {
		if name == "" || n < name && s.Keys[name] == nil {
			name = n
		}
	}
	w := NewWorld(t, referrers)
	b := &bench{T: t, s: s, w: w, signer: s.Keys[name]}
	if s.In != nil {
		b.m = s.In(t, w)
	} else {
		b.m = s.New(w.Client)
	}
	b.target = b.newTarget(w.Push(t, "acme/web"), name)
	if s.Tags {
		b.target.Artifact.Tag = "v1.2.3"
	}
	return b
}

func (b *bench) newTarget(a signing.Artifact, key string) method.Target {
	return method.Target{Artifact: a, Key: signing.KeyInfo{ID: key, Public: b.s.Keys[key].Public(), Chain: b.s.Chains[key], OpenPGP: b.s.OpenPGP[key]}, Options: b.s.Options, Origin: b.s.Origin}
}

// prepare returns the intent for a target.
func (b *bench) prepare(t method.Target) signing.Intent {
	b.Helper()
	p, err := b.m.Prepare(b.Context(), t, at)
	if err != nil {
		b.Fatal(err)
	}
	if p.Intent == nil || p.Recognised != nil {
		b.Fatalf("nothing is published, and Prepare says %+v", p)
	}
	return *p.Intent
}

// envelope does everything up to Assemble.
func (b *bench) envelope(t method.Target) signing.Envelope {
	b.Helper()
	in := b.prepare(t)
	e, err := b.m.Assemble(t, in, Sign(b, b.s.Keys[t.Key.ID], in))
	if err != nil {
		b.Fatal(err)
	}
	return e
}

// offline is the Prepare of a Request that the job itself publishes.
func (b *bench) offline() {
	e := b.envelope(b.target)
	b.publish(b.target, e) // there is something that could be recognised
	b.w.Wire.Reset()
	t := b.target
	t.Offline = true
	in := b.prepare(t)
	if asked := b.w.Wire.Requests(); len(asked) > 0 {
		b.Errorf("Prepare of an offline target asks: %v", asked)
	}
	if _, err := b.m.Assemble(t, in, Sign(b, b.signer, in)); err != nil {
		b.Error(err)
	}
}

// attachment is what a job gets to write: the same as Publish, held against the
// target in the same way.
func (b *bench) attachment() {
	m, ok := b.m.(method.Attacher)
	if !ok {
		return // it does not publish to the image's registry
	}
	e := b.envelope(b.target)
	b.w.Wire.Reset()
	a, err := m.Attachment(b.target, e)
	if err != nil {
		b.Fatal(err)
	}
	if asked := b.w.Wire.Requests(); len(asked) > 0 {
		b.Errorf("Attachment asks: %v", asked)
	}
	at, err := b.w.Client.Attach(b.Context(), a)
	if err != nil {
		b.Fatal(err)
	}
	if diff := cmp.Diff([]signing.Location{at}, b.verify(b.target, e)); diff != "" {
		b.Errorf("Attach and Verify name other places: %s", diff)
	}
	b.w.Wire.Reset()
	b.publish(b.target, e)
	if n := b.w.Wire.Writes(); n > 0 {
		b.Errorf("Publish writes something else than Attach: %v", b.w.Wire.Requests())
	}
	b.count(1)
	other := b.target
	other.Artifact = b.w.Push(b, "acme/other")
	if _, err := m.Attachment(other, e); !errors.Is(err, signing.Denied) {
		b.Errorf("an attachment of another digest: %v", err)
	}
}

// check is what an auditor does with an envelope that no registry stores.
func (b *bench) check() {
	m, ok := b.m.(method.Checker)
	if !ok {
		return // Attachment is its check
	}
	e := b.envelope(b.target)
	altered, other, second := e, b.target, b.other()
	altered.Bytes = flip(e.Bytes, len(e.Bytes)/2)
	other.Artifact = b.w.Push(b, "acme/other")
	b.w.Wire.Reset()
	if err := m.Check(b.target, e); err != nil {
		b.Error(err)
	}
	b.refuses("an altered envelope", m.Check(b.target, altered))
	b.refuses("another digest", m.Check(other, e))
	b.refuses("another key", m.Check(second, e))
	if asked := b.w.Wire.Requests(); len(asked) > 0 {
		b.Errorf("Check asks: %v", asked)
	}
}

func (b *bench) publish(t method.Target, e signing.Envelope) []signing.Location {
	b.Helper()
	l, err := b.m.Publish(b.Context(), t, e)
	if err != nil {
		b.Fatal(err)
	}
	if len(l) == 0 {
		b.Fatal("published nowhere")
	}
	return l
}

func (b *bench) verify(t method.Target, e signing.Envelope) []signing.Location {
	b.Helper()
	l, err := b.m.Verify(b.Context(), t, e)
	if err != nil {
		b.Fatal(err)
	}
	return l
}

func (b *bench) count(want int) {
	b.Helper()
	if got := b.s.Count(b, b.target.Artifact); got != want {
		b.Errorf("the digest has %d signatures, want %d", got, want)
	}
}

// refuses reports an error that is missing or not one for a client.
func (b *bench) refuses(what string, err error) {
	b.Helper()
	var e *signing.Error
	if !errors.As(err, &e) {
		b.Errorf("%s: got %v, want a signing.Error", what, err)
	}
}

func (b *bench) cycle() {
	if _, err := b.m.Info(b.target.Key, b.target.Options); err != nil {
		b.Fatal(err)
	}
	b.w.Wire.Reset()
	in := b.prepare(b.target)
	if n := b.w.Wire.Writes(); n > 0 {
		b.Errorf("Prepare writes: %v", b.w.Wire.Requests())
	}
	if !in.Created.Equal(at) {
		b.Errorf("the intent was created at %v", in.Created)
	}
	said, err := b.m.Inspect(in)
	if err != nil {
		b.Fatal(err)
	}
	if err := said.Matches(b.target.Artifact); err != nil {
		b.Error(err)
	}
	raw := Sign(b, b.signer, in)
	e, err := b.m.Assemble(b.target, in, raw)
	if err != nil {
		b.Fatal(err)
	}
	again, err := b.m.Assemble(b.target, in, raw)
	if err != nil {
		b.Fatal(err)
	}
	if diff := cmp.Diff(e, again); diff != "" {
		b.Errorf("Assemble gives two envelopes for the same arguments: %s", diff)
	}
	if _, err := b.m.Verify(b.Context(), b.target, e); !errors.Is(err, method.ErrStaleBase) {
		b.Errorf("verified before it was published: %v", err)
	}
	published := b.publish(b.target, e)
	if diff := cmp.Diff(published, b.verify(b.target, e)); diff != "" {
		b.Errorf("Publish and Verify name other places: %s", diff)
	}
	b.count(1)

	b.w.Wire.Reset()
	b.publish(b.target, e)
	if n := b.w.Wire.Writes(); n > 0 {
		b.Errorf("publishing an equal envelope writes: %v", b.w.Wire.Requests())
	}
	b.count(1)

	b.w.Wire.Reset()
	p, err := b.m.Prepare(b.Context(), b.target, at)
	if err != nil {
		b.Fatal(err)
	}
	if p.Intent != nil || cmp.Diff(published, p.Recognised) != "" {
		b.Errorf("an equal signature is not recognised: %+v", p)
	}
	if n := b.w.Wire.Writes(); n > 0 {
		b.Errorf("recognising writes: %v", b.w.Wire.Requests())
	}
}

// other returns a target for the same artifact with another key.
func (b *bench) other() method.Target {
	for n := range b.s.Keys {
		if n != b.target.Key.ID {
			return b.newTarget(b.target.Artifact, n)
		}
	}
	panic("Run demands two keys")
}

func (b *bench) twoKeys() {
	second := b.other()
	e1 := b.envelope(b.target)
	b.publish(b.target, e1)
	// The signature by the first key is not one by the second.
	e2 := b.envelope(second)
	b.publish(second, e2)
	b.count(2)
	b.verify(b.target, e1)
	b.verify(second, e2)
	b.publish(b.target, e1)
	b.count(2)
}

func (b *bench) wrongRaw() {
	in, second := b.prepare(b.target), b.other()
	raw := Sign(b, b.signer, in)
	changed := in
	changed.Bytes = append(bytes.Clone(in.Bytes), ' ')
	for what, c := range map[string]struct {
		in  signing.Intent
		raw []byte
	}{
		"nothing":          {in, nil},
		"truncated":        {in, raw[:len(raw)-1]},
		"altered":          {in, flip(raw, len(raw)-1)},
		"by another key":   {in, Sign(b, b.s.Keys[second.Key.ID], b.prepare(second))},
		"over other bytes": {in, Sign(b, b.signer, changed)},
		"other bytes":      {changed, Sign(b, b.signer, changed)},
	} {
		_, err := b.m.Assemble(b.target, c.in, c.raw)
		b.refuses(what, err)
	}
}

func (b *bench) refused() {
	for name, public := range b.s.Refused {
		_, err := b.m.Info(signing.KeyInfo{ID: name, Public: public}, b.s.Options)
		b.refuses("key "+name, err)
		t := b.target
		t.Key = signing.KeyInfo{ID: name, Public: public}
		_, err = b.m.Prepare(b.Context(), t, at)
		b.refuses("key "+name, err)
	}
	t := b.target
	t.Options = map[string]string{"no such option": "x"}
	_, err := b.m.Info(t.Key, t.Options)
	b.refuses("unknown option", err)
	_, err = b.m.Prepare(b.Context(), t, at)
	b.refuses("unknown option", err)
	t = b.target
	t.Artifact.Digest = "latest"
	_, err = b.m.Prepare(b.Context(), t, at)
	b.refuses("tag for a digest", err)
}

// mostPlaces keeps the suite short for envelopes that carry certificates: their
// bytes are alike in long stretches, and each place costs verifications.
const mostPlaces = 512
