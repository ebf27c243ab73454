package dct_test

import (
	"crypto"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/signing"
)

func TestTheCycleWithEveryKindOfKey(t *testing.T) {
	for name, make := range map[string]func(testing.TB) (crypto.Signer, signing.KeyInfo){
		"P-256 with a certificate": func(t testing.TB) (crypto.Signer, signing.KeyInfo) { return newKey(t, "x509", true) },
		"P-256 bare":               func(t testing.TB) (crypto.Signer, signing.KeyInfo) { return newKey(t, "bare", false) },
		"P-384":                    p384,
		"RSA-3072":                 rsaKey,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.signer, w.key = make(t)
			if err := w.owner.Delegate(t.Context(), w.client, dct.RoleReleases, w.key); err != nil {
				t.Fatal(err)
			}
			w.release("v1", "one")
			tg := w.target(change("v1", "one"), change("v2", "two"))
			in := w.prepare(tg)
			said, err := w.method.Inspect(in)
			if err != nil {
				t.Fatal(err)
			}
			want := signing.Statement{Repository: gun, Part: dct.RoleReleases, Changes: tg.Changes, Differences: []signing.Difference{{Tag: "v2", To: tg.Changes[1].Digest}}}
			if d := cmp.Diff(want, said); d != "" || !cmp.Equal(in.Differences, said.Differences) {
				t.Error(d)
			}
			w.publish(tg)
			s := w.fetch()
			r, _ := s.Role(dct.RoleReleases)
			if got, ok := s.Lookup("v2"); !ok || got.Digest != tg.Changes[1].Digest || got.Size != 3 || r.Version != 2 || len(r.SignedBy) != 1 {
				t.Errorf("got %+v, %+v", got, r)
			}
			p, err := w.method.Prepare(t.Context(), tg, w.now)
			if err != nil || len(p.Recognised) != 1 || p.Recognised[0].Digest != r.Digest {
				t.Errorf("the same again: %+v, %v", p, err)
			}
		})
	}
}

func TestKeyOrOptionThatCannotSignIsRefusedByInfo(t *testing.T) {
	_, good := newKey(t, "release", true)
	m := dct.New(nil)
	info, err := m.Info(good, map[string]string{"roles": "releases, ci"})
	if err != nil || !strings.Contains(string(info.Trust[0].Bytes), "BEGIN CERTIFICATE") || !strings.Contains(info.Snippets["docker trust"], " ci REPOSITORY") {
		t.Errorf("got %+v, %v", info, err)
	}
	_, bare := newKey(t, "bare", false)
	if info, err := m.Info(bare, nil); err != nil || !strings.Contains(string(info.Trust[0].Bytes), "BEGIN PUBLIC KEY") {
		t.Errorf("got %+v, %v", info, err)
	}
	for _, o := range []map[string]string{{"roles": ""}, {"roles": "Releases"}, {"roles": "a,a"}, {"roles": "../x"}, {"roles": "a,b,c,d,e,f,g,h,i"}, {"move": "yes"}, {"remove": ""}, {"expiry": "1h"}, {"expiry": "87601h"}, {"expiry": "three years"}, {"annotations": "x"}} {
		if _, err := m.Info(good, o); !errors.Is(err, signing.Invalid) {
			t.Errorf("%v: %v", o, err)
		}
		if _, err := m.Parts(o); !errors.Is(err, signing.Invalid) {
			t.Errorf("parts of %v: %v", o, err)
		}
	}
	if _, err := m.Info(signing.KeyInfo{ID: "none"}, nil); !errors.Is(err, signing.Invalid) {
		t.Errorf("no key: %v", err)
	}
}

func TestATagMovesOnlyWhereThePolicySaysSo(t *testing.T) {
	w := newWorld(t)
	w.release("v1", "one")
	tg := w.target(change("v1", "another"))
	_, err := w.method.Prepare(t.Context(), tg, w.now)
	e := wants(t, err, signing.Denied)
	if e.Found != string(change("v1", "one").Digest) || !strings.Contains(e.Fix, "move") {
		t.Errorf("got %+v", e)
	}
	tg.Options = map[string]string{"move": "true"}
	if in := w.prepare(tg); !cmp.Equal(in.Differences, []signing.Difference{{Tag: "v1", From: change("v1", "one").Digest, To: change("v1", "another").Digest}}) {
		t.Errorf("got %+v", in.Differences)
	}
	w.publish(tg)
}

func TestATagOfTheOwnerIsNotShadowedOrBroughtBackByAccident(t *testing.T) {
	w := newWorld(t)
	if err := w.owner.Tag(t.Context(), w.client, change("v1", "the owner's")); err != nil {
		t.Fatal(err)
	}
	// docker asks targets/releases first: a new tag there would move what is pulled.
	_, err := w.method.Prepare(t.Context(), w.target(change("v1", "another")), w.now)
	wants(t, err, signing.Denied)
	w.release("v1", "the owner's")
	tg := w.target(signing.Change{Tag: "v1", Remove: true})
	tg.Options = map[string]string{"remove": "true"}
	_, err = w.method.Prepare(t.Context(), tg, w.now)
	if e := wants(t, err, signing.Denied); !strings.Contains(e.Fix, "notary remove") {
		t.Errorf("got %+v", e)
	}
}

func TestATagIsUntrustedOnlyWhereThePolicySaysSo(t *testing.T) {
	w := newWorld(t)
	w.release("v1", "one")
	w.release("v2", "two")
	tg := w.target(signing.Change{Tag: "v1", Remove: true})
	_, err := w.method.Prepare(t.Context(), tg, w.now)
	wants(t, err, signing.Denied)
	tg.Options = map[string]string{"remove": "true"}
	in := w.prepare(tg)
	if !cmp.Equal(in.Differences, []signing.Difference{{Tag: "v1", From: change("v1", "one").Digest}}) {
		t.Errorf("got %+v", in.Differences)
	}
	w.publish(tg)
	s := w.fetch()
	if _, there := s.Lookup("v1"); there {
		t.Error("the tag is still trusted")
	}
	if _, there := s.Lookup("v2"); !there {
		t.Error("another tag went with it")
	}
	if p, err := w.method.Prepare(t.Context(), tg, w.now); err != nil || p.Recognised == nil {
		t.Errorf("removing it again: %+v, %v", p, err)
	}
}

func TestATaskWithoutChangesRenewsAndChangesNothing(t *testing.T) {
	w := newWorld(t)
	w.release("v1", "one")
	tg := w.target()
	if p, err := w.method.Prepare(t.Context(), tg, w.now); err != nil || p.Recognised == nil {
		t.Fatalf("just signed: %+v, %v", p, err)
	}
	w.now = w.now.AddDate(1, 0, 0)
	if err := w.owner.Tag(t.Context(), w.client); err != nil { // a new snapshot and timestamp
		t.Fatal(err)
	}
	in := w.prepare(tg)
	if len(in.Differences) != 0 {
		t.Errorf("got %+v", in.Differences)
	}
	w.publish(tg)
	r, _ := w.fetch().Role(dct.RoleReleases)
	if r.Version != 2 || len(r.Targets) != 1 || r.Expires.Before(w.now.AddDate(2, 11, 0)) {
		t.Errorf("got %+v", r)
	}
}

func TestAKeyThatIsNotDelegatedIsToldHowToBe(t *testing.T) {
	w := newWorld(t)
	_, w.key = newKey(t, "other", true)
	mine, err := dct.KeyFor(w.key)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.method.Prepare(t.Context(), w.target(change("v1", "one")), w.now)
	if e := wants(t, err, signing.Denied); !strings.Contains(e.Expected, mine.ID) || !strings.Contains(e.Fix, "docker trust signer add") {
		t.Errorf("got %+v", e)
	}
	tg := w.target(change("v1", "one"))
	tg.Part, tg.Options = "targets/ci", map[string]string{"roles": "ci"}
	_, err = w.method.Prepare(t.Context(), tg, w.now)
	wants(t, err, signing.Denied)
}

func TestBytesThatAreNotThoseOfTheRequestAreRefusedBeforeAndAfterTheKey(t *testing.T) {
	w := newWorld(t)
	w.release("v1", "one")
	tg := w.target(change("v2", "two"))
	good := w.prepare(tg)
	edit := func(f func(p map[string]any)) signing.Intent {
		var p map[string]any
		if err := json.Unmarshal(good.Replay, &p); err != nil {
			t.Fatal(err)
		}
		f(p)
		in := good
		var err error
		if in.Replay, err = json.Marshal(p); err != nil {
			t.Fatal(err)
		}
		return in
	}
	bytesOf := func(old, with string) signing.Intent {
		in := good
		in.Bytes = []byte(strings.Replace(string(good.Bytes), old, with, 1))
		return in
	}
	for name, in := range map[string]signing.Intent{
		"a tag more":        bytesOf(`"targets":{`, `"targets":{"a":{"hashes":{"sha256":"LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="},"length":5},`),
		"another tag":       bytesOf(`"v2"`, `"v3"`),
		"an older tag gone": bytesOf(`"v1"`, `"v0"`),
		"another version":   bytesOf(`"version":2`, `"version":9`),
		"another expiry":    bytesOf(`"expires":"20`, `"expires":"21`),
		"spaces":            bytesOf(`{"_type"`, `{ "_type"`),
		"a root":            bytesOf(`"_type":"Targets"`, `"_type":"Root"`),
		"another hash":      func() signing.Intent { in := good; in.Hash = crypto.SHA384; return in }(),
		"nothing beside":    func() signing.Intent { in := good; in.Replay = nil; return in }(),
		"an unknown word":   edit(func(p map[string]any) { p["more"] = 1 }),
		"a document more":   edit(func(p map[string]any) { p["files"].(map[string]any)["targets/x"] = "e30=" }),
		"a document less":   edit(func(p map[string]any) { delete(p["files"].(map[string]any), "timestamp") }),
		"other changes": edit(func(p map[string]any) {
			p["changes"] = []any{map[string]any{"tag": "v3", "remove": true}, map[string]any{"tag": "v2"}}
		}),
		"another repository":         edit(func(p map[string]any) { p["repository"] = "registry.acme.dev/payments/other" }),
		"targets in place of a role": edit(func(p map[string]any) { p["role"] = "targets" }),
	} {
		if said, err := w.method.Inspect(in); !errors.Is(err, signing.Denied) && !errors.Is(err, signing.Invalid) && !errors.Is(err, signing.NotFound) {
			t.Errorf("%s: Inspect says %+v, %v", name, said, err)
		}
		if _, err := w.method.Assemble(tg, in, sign(t, w.signer, in)); err == nil {
			t.Errorf("%s: was assembled", name)
		}
	}
	for name, other := range map[string]func(*method.Target){
		"other changes":    func(t *method.Target) { t.Changes = []signing.Change{change("v3", "two")} },
		"more changes":     func(t *method.Target) { t.Changes = append([]signing.Change{change("v3", "x")}, t.Changes...) },
		"another role":     func(t *method.Target) { t.Part, t.Options = "targets/ci", map[string]string{"roles": "ci"} },
		"other repository": func(t *method.Target) { t.Artifact.Repository = "registry.acme.dev/payments/other" },
	} {
		o := tg
		other(&o)
		if _, err := w.method.Assemble(o, good, sign(t, w.signer, good)); !errors.Is(err, signing.Denied) {
			t.Errorf("%s: %v", name, err)
		}
	}
	stranger, _ := newKey(t, "stranger", false)
	if _, err := w.method.Assemble(tg, good, sign(t, stranger, good)); !errors.Is(err, signing.Denied) {
		t.Errorf("another key: %v", err)
	}
}

func TestWhatAnIntentCarriesIsVerifiedAgainBeforeTheKey(t *testing.T) {
	w := newWorld(t)
	in := w.prepare(w.target(change("v1", "one")))
	if _, err := dct.New(w.open(nil, dct.Pin{Repository: string(gun), RootKeys: []string{strings.Repeat("0", 64)}})).Inspect(in); !errors.Is(err, signing.Denied) {
		t.Errorf("with another pin: %v", err)
	}
	if _, err := dct.New(nil).Inspect(in); err != nil {
		t.Errorf("whoever verifies evidence has no pin: %v", err)
	}
	w.now = w.now.Add(15 * 24 * time.Hour)
	if _, err := w.method.Inspect(in); !errors.Is(err, signing.Denied) {
		t.Errorf("after the timestamp has ended: %v", err)
	}
}

func TestAnIntentFromBeforeAChangeByTheOwnerIsRefusedBeforeTheKey(t *testing.T) {
	for _, c := range []struct {
		name    string
		since   func(*world) error
		refused bool
	}{
		{"root", func(w *world) error { w.rotate(w.owner.Root); return nil }, true},
		{"targets", func(w *world) error { return w.owner.Tag(t.Context(), w.client) }, true},
		// These overtake each other without anybody's fault.
		{"the server's own roles", func(w *world) error { w.serve(nil); return nil }, false},
		{"the role itself", func(w *world) error { w.release("v3", "three"); return nil }, false},
	} {
		w := newWorld(t)
		w.release("v1", "one")
		tg := w.target(change("v2", "two"))
		in := w.prepare(tg)
		if err := c.since(w); err != nil {
			t.Fatal(err)
		}
		w.fetch()
		_, err := w.method.Inspect(in)
		_, assembled := w.method.Assemble(tg, in, sign(t, w.signer, in))
		switch {
		case !c.refused && (err != nil || assembled != nil):
			t.Errorf("%s: %v, %v", c.name, err, assembled)
		case c.refused && (!errors.Is(err, signing.Denied) || !errors.Is(assembled, signing.Denied) || !strings.Contains(err.Error(), "older metadata of "+c.name)):
			t.Errorf("%s: %v, %v", c.name, err, assembled)
		}
		if _, err := dct.New(nil).Inspect(in); err != nil {
			t.Errorf("%s: whoever verifies evidence has seen nothing: %v", c.name, err)
		}
	}
}

func TestAnotherWriterMakesBytesStaleAndNothingIsLost(t *testing.T) {
	w := newWorld(t)
	first, second := w.target(change("v1", "one")), w.target(change("v2", "two"))
	e := w.envelope(second)
	w.publish(first)
	if _, err := w.method.Publish(t.Context(), second, e); !errors.Is(err, method.ErrStaleBytes) {
		t.Fatalf("got %v, want ErrStaleBytes", err)
	}
	if _, err := w.method.Verify(t.Context(), second, e); !errors.Is(err, method.ErrStaleBytes) {
		t.Fatalf("got %v, want ErrStaleBytes", err)
	}
	w.publish(second)
	if r, _ := w.fetch().Role(dct.RoleReleases); len(r.Targets) != 2 || r.Version != 2 {
		t.Errorf("got %+v", r)
	}
}

func TestPublishingAgainChangesNothing(t *testing.T) {
	w := newWorld(t)
	tg := w.target(change("v1", "one"))
	e := w.publish(tg)
	_, before := w.server.Document(string(gun), "snapshot")
	if _, err := w.method.Publish(t.Context(), tg, e); err != nil {
		t.Fatal(err)
	}
	if _, after := w.server.Document(string(gun), "snapshot"); after != before {
		t.Errorf("snapshot %d became %d", before, after)
	}
}

func TestAnEnvelopeIsCheckedWithoutAskingAnybody(t *testing.T) {
	w := newWorld(t)
	tg := w.target(change("v1", "one"))
	e := w.envelope(tg)
	m := dct.New(nil)
	if err := m.Check(tg, e); err != nil {
		t.Fatal(err)
	}
	tampered := e
	tampered.Bytes = []byte(strings.Replace(string(e.Bytes), `"v1"`, `"v2"`, 1))
	other := w.target(change("v1", "two"))
	key := tg
	_, key.Key = newKey(t, "release", false)
	for name, c := range map[string]struct {
		t method.Target
		e signing.Envelope
	}{"another tag in it": {tg, tampered}, "another digest asked for": {other, e}, "another key": {key, e}} {
		if err := m.Check(c.t, c.e); !errors.Is(err, signing.Denied) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSignedTagsOfADigestAreFound(t *testing.T) {
	w := newWorld(t)
	e := w.publish(w.target(change("v1", "one"), change("latest", "one"), change("v0", "zero")))
	found, err := w.method.Find(t.Context(), signing.Artifact{Repository: gun, Digest: change("", "one").Digest}, w.key)
	if err != nil || len(found) != 2 {
		t.Fatalf("got %+v, %v", found, err)
	}
	for _, f := range found {
		if f.Err != nil || f.Envelope != signing.DigestOf(e.Bytes) || !strings.HasPrefix(f.Location.URI, w.url) {
			t.Errorf("got %+v", f)
		}
	}
	_, stranger := newKey(t, "stranger", false)
	found, err = w.method.Find(t.Context(), signing.Artifact{Repository: gun, Digest: change("", "one").Digest, Tag: "v1"}, stranger)
	if err != nil || len(found) != 1 || found[0].Err == nil {
		t.Errorf("got %+v, %v", found, err)
	}
	found, err = w.method.Find(t.Context(), signing.Artifact{Repository: "registry.acme.dev/nothing", Digest: change("", "one").Digest}, w.key)
	if err != nil || len(found) != 0 {
		t.Errorf("a repository without trust data: %+v, %v", found, err)
	}
}

func TestAnAlteredEnvelopeIsRefusedWithoutWriting(t *testing.T) {
	w := newWorld(t)
	tg := w.target(change("v1", "one"))
	e := w.envelope(tg)
	posts := 0
	w.server.Before = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost {
			posts++
		}
		return false
	}
	for name, edit := range map[string]func(*signing.Envelope){
		"another tag": func(e *signing.Envelope) { e.Bytes = []byte(strings.Replace(string(e.Bytes), `"v1"`, `"v2"`, 1)) },
		"another signature": func(e *signing.Envelope) {
			e.Bytes = []byte(strings.Replace(string(e.Bytes), `"sig":"`, `"sig":"AAAA`, 1))
		},
		"something after it": func(e *signing.Envelope) { e.Bytes = append(append([]byte{}, e.Bytes...), "{}"...) },
		"another method":     func(e *signing.Envelope) { e.Method = "cosign" },
		"another media type": func(e *signing.Envelope) { e.MediaType = "text/plain" },
		"another key":        func(e *signing.Envelope) { e.KeyID = "other" },
	} {
		bad := e
		edit(&bad)
		if _, err := w.method.Publish(t.Context(), tg, bad); !errors.Is(err, signing.Denied) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := w.method.Verify(t.Context(), tg, bad); !errors.Is(err, signing.Denied) {
			t.Errorf("%s: verified: %v", name, err)
		}
	}
	if posts > 0 {
		t.Errorf("%d updates were sent", posts)
	}
	if _, err := w.method.Verify(t.Context(), tg, e); !errors.Is(err, method.ErrStaleBase) {
		t.Errorf("what was never published: %v", err)
	}
}

func TestAKeyThatWasTakenOutOfTheDelegationPublishesNothing(t *testing.T) {
	w := newWorld(t)
	tg := w.target(change("v1", "one"))
	e := w.envelope(tg)
	_, other := newKey(t, "other", false)
	k, err := dct.KeyFor(other)
	if err != nil {
		t.Fatal(err)
	}
	body := w.body("targets")
	body["version"] = 50
	d := body["delegations"].(map[string]any)
	d["keys"] = map[string]any{k.ID: map[string]any{"keytype": k.Type, "keyval": map[string]any{"private": nil, "public": k.Bytes}}}
	d["roles"].([]any)[0].(map[string]any)["keyids"] = []any{k.ID}
	w.serve(map[string][]byte{"targets": w.signed("targets", body, w.owner.Targets)})
	if _, err := w.method.Publish(t.Context(), tg, e); !errors.Is(err, signing.Denied) {
		t.Errorf("got %v", err)
	}
}

func TestAnOfflineTargetIsRefused(t *testing.T) {
	w := newWorld(t)
	tg := w.target(change("v1", "one"))
	tg.Offline = true
	if _, err := w.method.Prepare(t.Context(), tg, w.now); !errors.Is(err, signing.Denied) {
		t.Errorf("got %v", err)
	}
}
