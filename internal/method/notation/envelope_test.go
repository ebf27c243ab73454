package notation

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/notaryproject/notation-core-go/signature"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/method/methodtest"
	"github.com/sealwright/sealwright/internal/signing"
)

// intent returns what is signed for the bench's target.
func (b bench) intent(t *testing.T) signing.Intent {
	t.Helper()
	p, err := b.m.Prepare(t.Context(), b.target, time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	return *p.Intent
}

func TestSignedAreMediaTypeDigestSizeTimesAndMetadataAndNothingElse(t *testing.T) {
	b := newBench(t)
	a := b.target.Artifact
	b.target.Artifact.Tag = "v1"
	b.target.Options = map[string]string{"expiry": "24h", "userMetadata": "sourceRepositoryURI, buildTrigger"}
	b.target.Origin = signing.Origin{SourceRepositoryURI: "https://github.com/acme/web", BuildTrigger: "push", RunnerEnvironment: "github-hosted"}
	for format, mediaType := range mediaTypes {
		b.target.Options["format"] = format
		in := b.intent(t)
		e, err := b.m.Assemble(b.target, in, methodtest.Sign(t, b.key, in))
		if err != nil {
			t.Fatal(err)
		}
		c, err := verifiedContent(mediaType, e.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(map[string]any{"targetArtifact": map[string]any{"mediaType": a.MediaType, "digest": a.Digest, "size": a.Size, "annotations": map[string]string{"sourceRepositoryURI": "https://github.com/acme/web", "buildTrigger": "push"}}})
		if err != nil {
			t.Fatal(err)
		}
		if !sameJSON(text, c.Payload.Content) {
			t.Errorf("%s: the payload is %s, want %s", format, c.Payload.Content, text)
		}
		s := c.SignerInfo.SignedAttributes
		if at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC); !s.SigningTime.Equal(at) || !s.Expiry.Equal(at.Add(24*time.Hour)) || s.SigningScheme != signature.SigningSchemeX509 || len(s.ExtendedAttributes) > 0 {
			t.Errorf("%s: signed attributes %+v", format, s)
		}
		if c.Payload.ContentType != payloadType || len(c.SignerInfo.UnsignedAttributes.TimestampSignature) > 0 {
			t.Errorf("%s: %+v", format, c)
		}
	}
}

func TestRepositoryAndTagAreHeldAgainstTheRequestThoughTheyAreNotSigned(t *testing.T) {
	b := newBench(t)
	b.target.Artifact.Tag = "v1"
	in := b.intent(t)
	said, err := b.m.Inspect(in)
	if err != nil {
		t.Fatal(err)
	}
	if err := said.Matches(b.target.Artifact); err != nil {
		t.Fatal(err)
	}
	for what, edit := range map[string]func(*signing.Artifact){
		"repository": func(a *signing.Artifact) { a.Repository += "2" },
		"tag":        func(a *signing.Artifact) { a.Tag = "v2" },
		"no tag":     func(a *signing.Artifact) { a.Tag = "" },
		"media type": func(a *signing.Artifact) { a.MediaType = "application/vnd.oci.image.index.v1+json" },
		"size":       func(a *signing.Artifact) { a.Size++ },
	} {
		t2 := b.target
		edit(&t2.Artifact)
		if err := said.Matches(t2.Artifact); !errors.Is(err, signing.Denied) {
			t.Errorf("another %s: Matches says %v", what, err)
		}
		if _, err := b.m.Assemble(t2, in, methodtest.Sign(t, b.key, in)); !errors.Is(err, signing.Denied) {
			t.Errorf("another %s: Assemble says %v", what, err)
		}
	}
}

func TestStoredIntentThatThisServiceWouldNotMakeIsRefused(t *testing.T) {
	b := newBench(t)
	b.target.Options = map[string]string{"expiry": "24h", "userMetadata": "buildTrigger"}
	b.target.Origin.BuildTrigger = "push"
	in := b.intent(t)
	if _, err := b.m.Inspect(in); err != nil {
		t.Fatal(err)
	}
	edited := func(f func(*replay)) signing.Intent {
		var r replay
		if err := json.Unmarshal(in.Replay, &r); err != nil {
			t.Fatal(err)
		}
		f(&r)
		out, err := r.intent(in.Created)
		if err != nil {
			doc, _ := r.encode() // as much of it as there can be
			return signing.Intent{Bytes: in.Bytes, Hash: in.Hash, Replay: doc}
		}
		return out
	}
	with := func(f func(*signing.Intent)) signing.Intent {
		c := in
		f(&c)
		return c
	}
	for what, c := range map[string]signing.Intent{
		"another hash":   with(func(c *signing.Intent) { c.Hash = crypto.SHA384 }),
		"a padding":      with(func(c *signing.Intent) { c.Padding = signing.PSS }),
		"too many bytes": with(func(c *signing.Intent) { c.Bytes = make([]byte, MaxSigned+1) }),
		"a document too large": with(func(c *signing.Intent) {
			c.Replay = append(make([]byte, 0, MaxSigned+1), strings.Repeat(" ", MaxSigned+1)...)
		}),
		"no document":               with(func(c *signing.Intent) { c.Replay = nil }),
		"an unknown field":          with(func(c *signing.Intent) { c.Replay = bytes.Replace(c.Replay, []byte("{"), []byte(`{"x":1,`), 1) }),
		"a field twice":             with(func(c *signing.Intent) { c.Replay = bytes.Replace(c.Replay, []byte("{"), []byte(`{"tag":"v1",`), 1) }),
		"something behind":          with(func(c *signing.Intent) { c.Replay = append(bytes.Clone(c.Replay), ' ') }),
		"a repository that is none": edited(func(r *replay) { r.Repository = "web" }),
		"a digest that is none":     edited(func(r *replay) { r.Digest = "latest" }),
		"a tag that is none":        edited(func(r *replay) { r.Tag = "a/b" }),
		"no media type":             edited(func(r *replay) { r.MediaType = "" }),
		"no size":                   edited(func(r *replay) { r.Size = 0 }),
		"foreign metadata":          edited(func(r *replay) { r.UserMetadata = map[string]string{"approvedBy": "everybody"} }),
		"empty metadata":            edited(func(r *replay) { r.UserMetadata = map[string]string{"buildTrigger": ""} }),
		"another format":            edited(func(r *replay) { r.Format = "pgp" }),
		"another algorithm":         edited(func(r *replay) { r.Algorithm = "ed25519" }),
		"no signing time":           edited(func(r *replay) { r.Signed = time.Time{} }),
		"parts of a second":         edited(func(r *replay) { r.Signed = r.Signed.Add(time.Millisecond) }),
		"expired when signed":       edited(func(r *replay) { r.Expires = r.Signed.Add(-time.Hour) }),
		"an endless expiry":         edited(func(r *replay) { r.Expires = r.Signed.Add(maxExpiry + time.Second) }),
	} {
		if said, err := b.m.Inspect(c); !errors.Is(err, signing.Denied) {
			t.Errorf("%s: Inspect says %+v, %v", what, said, err)
		}
	}
	// What another request could have made is for Assemble to refuse.
	for what, f := range map[string]func(*replay){
		"another expiry": func(r *replay) { r.Expires = r.Expires.Add(time.Hour) },
		"no expiry":      func(r *replay) { r.Expires = time.Time{} },
		"other metadata": func(r *replay) { r.UserMetadata["buildTrigger"] = "schedule" },
		"less metadata":  func(r *replay) { r.UserMetadata = nil },
		"another format": func(r *replay) { r.Format = formatCOSE },
	} {
		c := edited(f)
		if _, err := b.m.Inspect(c); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := b.m.Assemble(b.target, c, methodtest.Sign(t, b.key, c)); !errors.Is(err, signing.Denied) {
			t.Errorf("%s: Assemble says %v", what, err)
		}
	}
}

func TestEnvelopeOfRenewedCertificatesIsRefusedAndSaysWhy(t *testing.T) {
	b := newBench(t)
	e := b.made(t, time.Now())
	b.target.Key.Chain = chainOf(t, b.key.Public(), from, to)
	_, err := b.m.Publish(t.Context(), b.target, e)
	var se *signing.Error
	if !errors.As(err, &se) || se.Code != signing.Denied || !strings.Contains(se.Fix, "renewed") {
		t.Errorf("got %v", err)
	}
}

func TestUserMetadataThatTheTokenDoesNotSayRefuses(t *testing.T) {
	b := newBench(t)
	b.target.Options = map[string]string{"userMetadata": "buildTrigger"}
	if _, err := b.m.Prepare(t.Context(), b.target, time.Now()); !errors.Is(err, signing.Denied) {
		t.Errorf("got %v", err)
	}
	b.target.Origin.BuildTrigger = strings.Repeat("x", MaxSigned)
	if _, err := b.m.Prepare(t.Context(), b.target, time.Now()); !errors.Is(err, signing.TooLarge) {
		t.Errorf("got %v", err)
	}
}

func TestWrongOptionsAreRefused(t *testing.T) {
	for _, o := range []map[string]string{
		{"format": "pgp"}, {"format": ""}, {"format": "JWS"}, {"expiry": ""}, {"expiry": "1y"}, {"expiry": "59m59s"}, {"expiry": "87601h"}, {"expiry": "-24h"},
		{"expiry": "24h0m0.5s"}, {"userMetadata": ""}, {"userMetadata": "subject"}, {"userMetadata": "buildTrigger,buildTrigger"}, {"annotations": "buildTrigger"},
	} {
		if _, err := readOptions(o); !errors.Is(err, signing.Invalid) {
			t.Errorf("%v: got %v", o, err)
		}
	}
	got, err := readOptions(map[string]string{"format": "cose", "expiry": "8760h", "userMetadata": "buildTrigger , runnerEnvironment"})
	if err != nil || got != (options{formatCOSE, 8760 * time.Hour}) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := readOptions(nil); err != nil || got != (options{format: formatJWS}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestArtifactOfUnknownTypeOrSizeIsNotSigned(t *testing.T) {
	b := newBench(t)
	for _, edit := range []func(*signing.Artifact){func(a *signing.Artifact) { a.MediaType = "" }, func(a *signing.Artifact) { a.Size = 0 }, func(a *signing.Artifact) { a.Size = -1 }} {
		c := b.target
		edit(&c.Artifact)
		if _, err := b.m.Prepare(t.Context(), c, time.Now()); !errors.Is(err, signing.Invalid) {
			t.Errorf("%+v: %v", c.Artifact, err)
		}
	}
}

// FuzzInspect feeds what an altered database could hold. Whatever is accepted is
// what the method itself makes.
func FuzzInspect(f *testing.F) {
	m := New(nil)
	for _, format := range []string{formatJWS, formatCOSE} {
		r := replay{Repository: "registry.acme.dev/web", MediaType: "application/vnd.oci.image.manifest.v1+json", Digest: signing.DigestOf(nil), Size: 7, Format: format, Algorithm: "ecdsa-p256", Signed: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
		in, err := r.intent(time.Time{})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(in.Bytes, in.Replay, uint(in.Hash), string(in.Padding))
		r.Algorithm, r.Expires, r.UserMetadata, r.Tag = "rsa-4096", r.Signed.Add(time.Hour), map[string]string{"buildTrigger": "push"}, "v1"
		if in, err = r.intent(time.Time{}); err != nil {
			f.Fatal(err)
		}
		f.Add(in.Bytes, in.Replay, uint(in.Hash), string(in.Padding))
	}
	f.Fuzz(func(t *testing.T, b, doc []byte, hash uint, padding string) {
		in := signing.Intent{Bytes: b, Replay: doc, Hash: crypto.Hash(hash), Padding: signing.Padding(padding)}
		said, err := m.Inspect(in)
		if err != nil {
			if !errors.Is(err, signing.Denied) {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		if a := (signing.Artifact{Repository: said.Repository, Digest: said.Digest, Tag: said.Tag}); a.Validate() != nil {
			t.Fatalf("accepted %+v", said)
		}
		if format, ok := strings.CutPrefix(string(b), "eyJ"); ok && !strings.Contains(format, ".") {
			t.Fatal("accepted a JWS without its dot")
		}
	})
}

// FuzzEnvelope feeds envelopes that an altered database or a stranger's referrer
// could hold. Whatever is accepted is the one envelope that was made.
func FuzzEnvelope(f *testing.F) {
	key := ec(f, elliptic.P256())
	target := method.Target{Artifact: anArtifact, Key: signing.KeyInfo{ID: "k", Public: key.Public(), Chain: chainOf(f, key.Public(), from, to)}, Offline: true}
	m, made := New(nil), map[string][]byte{}
	for format, mediaType := range mediaTypes {
		target.Options = map[string]string{"format": format}
		p, err := m.Prepare(f.Context(), target, from.AddDate(0, 1, 0))
		if err != nil {
			f.Fatal(err)
		}
		e, err := m.Assemble(target, *p.Intent, methodtest.Sign(f, key, *p.Intent))
		if err != nil {
			f.Fatal(err)
		}
		made[mediaType] = e.Bytes
		f.Add(format == formatJWS, e.Bytes)
		f.Add(format != formatJWS, e.Bytes)
		f.Add(format == formatJWS, e.Bytes[:len(e.Bytes)/2])
	}
	f.Add(true, []byte(`{"payload":"","protected":"","header":{"x5c":[]},"signature":""}`))
	f.Fuzz(func(t *testing.T, isJWS bool, raw []byte) {
		format := formatCOSE
		if isJWS {
			format = formatJWS
		}
		c := target
		c.Options = map[string]string{"format": format}
		_, err := m.open(c, signing.Envelope{Method: Name, MediaType: mediaTypes[format], KeyID: "k", Bytes: raw})
		if err == nil && !bytes.Equal(raw, made[mediaTypes[format]]) {
			t.Fatal("accepted an envelope that was not made")
		}
		if err != nil && !errors.Is(err, signing.Denied) && !errors.Is(err, signing.Invalid) && !errors.Is(err, signing.TooLarge) {
			t.Fatalf("refused with %v", err)
		}
	})
}

func TestEnvelopeThatIsTooLargeIsRefused(t *testing.T) {
	b := newBench(t)
	e := b.made(t, time.Now())
	e.Bytes = append(e.Bytes, bytes.Repeat([]byte(" "), MaxEnvelope)...) // JSON still
	if _, err := verifiedContent(e.MediaType, e.Bytes); err == nil {
		t.Error("an envelope of any size is read")
	}
}

// What is remembered of one target says nothing about another, and is no more
// than the memo holds.
func TestWhatIsRememberedOfAnEnvelopeIsTheSameAsVerifyingIt(t *testing.T) {
	b := newBench(t)
	e := b.made(t, time.Now())
	tb, afresh := t, New(b.w.Client)
	for what, m := range map[string]*Method{"remembered": b.m, "verified": afresh} {
		if _, err := m.open(b.target, e); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for edited, f := range map[string]func(*method.Target, *signing.Envelope){
			"digest":     func(t *method.Target, _ *signing.Envelope) { t.Artifact.Digest = signing.DigestOf(nil) },
			"size":       func(t *method.Target, _ *signing.Envelope) { t.Artifact.Size++ },
			"key id":     func(t *method.Target, _ *signing.Envelope) { t.Key.ID = "other" },
			"public key": func(t *method.Target, _ *signing.Envelope) { t.Key.Public = ec(tb, elliptic.P256()).Public() },
			"chain":      func(t *method.Target, _ *signing.Envelope) { t.Key.Chain = chainOf(tb, b.key.Public(), from, to) },
			"no chain":   func(t *method.Target, _ *signing.Envelope) { t.Key.Chain = nil },
			"options":    func(t *method.Target, _ *signing.Envelope) { t.Options = map[string]string{"expiry": "721h"} },
			"method":     func(_ *method.Target, e *signing.Envelope) { e.Method = "cosign" },
			"media type": func(_ *method.Target, e *signing.Envelope) { e.MediaType = mediaTypes[formatCOSE] },
			"bytes":      func(_ *method.Target, e *signing.Envelope) { e.Bytes = append(bytes.Clone(e.Bytes), ' ') },
		} {
			t2, e2 := b.target, e
			f(&t2, &e2)
			if _, err := m.open(t2, e2); err == nil {
				t.Errorf("%s: another %s is accepted", what, edited)
			}
		}
	}
	var m memo
	for i := range 3 * maxRemembered {
		m.put([32]byte{byte(i), byte(i >> 8)}, replay{})
		if len(m.good) > maxRemembered {
			t.Fatalf("it remembers %d", len(m.good))
		}
	}
}
