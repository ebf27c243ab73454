package simple_test

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/key/keytest"
	"github.com/sealwright/sealwright/internal/method/methodtest"
	"github.com/sealwright/sealwright/internal/method/simple"
	"github.com/sealwright/sealwright/internal/method/simple/simpletest"
	"github.com/sealwright/sealwright/internal/openpgp"
	"github.com/sealwright/sealwright/internal/signing"
)

const goodPayload = `{"critical":{"identity":{"docker-reference":"registry.acme.dev/payments/web:v1"},"image":{"docker-manifest-digest":"` + digest + `"},"type":"atomic container signature"},"optional":{}}`

// signedBy is a message with any content by a key.
func signedBy(t testing.TB, k crypto.Signer, content string, when time.Time) []byte {
	t.Helper()
	c, err := openpgp.ParseCertificate(keytest.OpenPGP(t, k, made, 0))
	if err != nil {
		t.Fatal(err)
	}
	d, err := c.Draft([]byte(content), when)
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.Message(d, methodtest.Sign(t, k, signing.Intent{Bytes: d.Bytes, Hash: d.Hash, Padding: d.Padding}))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// payloads are contents that no verifier may take for a signature of the image.
func payloads() map[string]string {
	swap := func(old, with string) string { return strings.Replace(goodPayload, old, with, 1) }
	return map[string]string{
		"nothing":                      "",
		"text":                         "hello",
		"another digest":               strings.ReplaceAll(goodPayload, "d34db33f", "deadbeef"),
		"another repository":           swap("payments/web", "payments/api"),
		"another registry":             swap("registry.acme.dev", "registry.evil.dev"),
		"another type":                 swap("atomic container signature", "cosign container image signature"),
		"no type":                      swap(`,"type":"atomic container signature"`, ""),
		"no optional":                  swap(`,"optional":{}`, ""),
		"optional that is null":        swap(`"optional":{}`, `"optional":null`),
		"two digests":                  swap(`"type"`, `"image":{"docker-manifest-digest":"`+strings.ReplaceAll(digest, "d34db33f", "deadbeef")+`"},"type"`),
		"a digest in another case":     swap(`"type"`, `"Image":{"docker-manifest-digest":"`+strings.ReplaceAll(digest, "d34db33f", "deadbeef")+`"},"type"`),
		"another digest first":         swap(`"identity"`, `"image":{"docker-manifest-digest":"`+strings.ReplaceAll(digest, "d34db33f", "deadbeef")+`"},"identity"`),
		"another case first":           swap(`"identity"`, `"Image":{"docker-manifest-digest":"`+strings.ReplaceAll(digest, "d34db33f", "deadbeef")+`"},"identity"`),
		"another critical first":       swap(`{"critical"`, `{"critical":{"type":"x"},"critical"`),
		"another critical":             swap(`"optional"`, `"critical":{},"optional"`),
		"a further critical member":    swap(`"type"`, `"more":1,"type"`),
		"a further member":             swap(`"optional"`, `"more":1,"optional"`),
		"something behind":             goodPayload + "{}",
		"a second document":            goodPayload + goodPayload,
		"deep nesting":                 swap(`"optional":{}`, `"optional":{"x":`+strings.Repeat("[", 100)+strings.Repeat("]", 100)+`}`),
		"a timestamp that is text":     swap(`"optional":{}`, `"optional":{"timestamp":"1"}`),
		"a timestamp that is broken":   swap(`"optional":{}`, `"optional":{"timestamp":1.5}`),
		"a creator that is none":       swap(`"optional":{}`, `"optional":{"creator":{}}`),
		"a reference that is none":     swap("registry.acme.dev/payments/web:v1", "../../etc/passwd"),
		"a reference with two digests": swap("web:v1", "web@"+strings.ReplaceAll(digest, "d34db33f", "deadbeef")),
		"a digest that is none":        swap(`"docker-manifest-digest":"sha256:`, `"docker-manifest-digest":"md5:`),
	}
}

func TestSignatureThatIsNotTheKeysOverThisImageIsFoundInvalid(t *testing.T) {
	k, stranger := ec(t, elliptic.P256()), ec(t, elliptic.P256())
	good := signedBy(t, k, goodPayload, at)
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	cases := map[string][]byte{
		"by another key":       signedBy(t, stranger, goodPayload, at),
		"altered":              flipped,
		"with something more":  append(bytes.Clone(good), 0xca, 3, 'P', 'G', 'P'),
		"two messages":         append(bytes.Clone(good), good...),
		"older than its key":   signedBy(t, k, goodPayload, made.Add(-time.Hour)),
		"the payload unsigned": []byte(goodPayload),
	}
	for what, p := range payloads() {
		cases[what] = signedBy(t, k, p, at)
	}
	for what, s := range cases {
		store := &simpletest.Memory{}
		m := open(t, nil, simple.Options{Own: store, URL: "https://sign.acme.dev"})
		tg := target(key(t, k, 0))
		if _, err := store.Put(t.Context(), string(tg.Artifact.Repository)+"@sha256="+tg.Artifact.Digest.Hex(), "", s); err != nil {
			t.Fatal(err)
		}
		found, err := m.Find(t.Context(), tg.Artifact, tg.Key)
		if err != nil || len(found) != 1 || !errors.Is(found[0].Err, signing.Denied) {
			t.Errorf("%s: %+v, %v", what, found, err)
		}
		if p, err := m.Prepare(t.Context(), tg, at); err != nil || p.Intent == nil {
			t.Errorf("%s is recognised: %+v, %v", what, p, err)
		}
	}
}

func TestSignaturesOfOtherToolsAreFoundValid(t *testing.T) {
	k := ec(t, elliptic.P256())
	for what, p := range map[string]string{
		"ours":                  goodPayload,
		"another order":         `{"optional":{"creator":"atomic 1.0","timestamp":1700000000,"x":[1]},"critical":{"type":"atomic container signature","image":{"docker-manifest-digest":"` + digest + `"},"identity":{"docker-reference":"registry.acme.dev/payments/web:v9"}}}`,
		"a bare repository":     strings.Replace(goodPayload, "web:v1", "web", 1),
		"a reference by digest": strings.Replace(goodPayload, "web:v1", "web@"+digest, 1),
	} {
		store := &simpletest.Memory{}
		m := open(t, nil, simple.Options{Own: store, URL: "https://sign.acme.dev"})
		tg := target(key(t, k, 0))
		if _, err := store.Put(t.Context(), string(tg.Artifact.Repository)+"@sha256="+tg.Artifact.Digest.Hex(), "", signedBy(t, k, p, at)); err != nil {
			t.Fatal(err)
		}
		found, err := m.Find(t.Context(), tg.Artifact, tg.Key)
		if err != nil || len(found) != 1 || found[0].Err != nil {
			t.Errorf("%s: %+v, %v", what, found, err)
		}
	}
}

func TestPayloadInAnyOtherFormIsRefusedByInspect(t *testing.T) {
	k := ec(t, elliptic.P256())
	c, err := openpgp.ParseCertificate(keytest.OpenPGP(t, k, made, 0))
	if err != nil {
		t.Fatal(err)
	}
	m := simple.Offline()
	intent := func(content string) signing.Intent {
		d, err := c.Draft([]byte(content), at)
		if err != nil {
			t.Fatal(err)
		}
		return signing.Intent{Bytes: d.Bytes, Hash: d.Hash, Padding: d.Padding}
	}
	said, err := m.Inspect(intent(goodPayload))
	if err != nil || said.Tag != "v1" || said.Digest != digest || said.Repository != "registry.acme.dev/payments/web" {
		t.Fatalf("%+v, %v", said, err)
	}
	refused := map[string]signing.Intent{}
	for what, p := range payloads() {
		if strings.HasPrefix(what, "another re") || what == "another digest" {
			continue // a statement, about something else
		}
		refused[what] = intent(p)
	}
	for what, p := range map[string]string{
		"a space":                      " " + goodPayload,
		"a bare repository":            strings.Replace(goodPayload, "web:v1", "web", 1),
		"an escape":                    strings.Replace(goodPayload, "payments", `p\u0061yments`, 1),
		"a further optional member":    strings.Replace(goodPayload, `"optional":{}`, `"optional":{"x":1}`, 1),
		"a creator with a line":        strings.Replace(goodPayload, `"optional":{}`, `"optional":{"creator":"a\nb"}`, 1),
		"a timestamp of another time":  strings.Replace(goodPayload, `"optional":{}`, fmt.Sprintf(`"optional":{"timestamp":%d}`, at.Unix()+1), 1),
		"a timestamp of ages ago":      strings.Replace(goodPayload, `"optional":{}`, `"optional":{"timestamp":-1}`, 1),
		"an empty creator, written so": strings.Replace(goodPayload, `"optional":{}`, `"optional":{"creator":""}`, 1),
	} {
		refused[what] = intent(p)
	}
	weaker, padded, replayed := intent(goodPayload), intent(goodPayload), intent(goodPayload)
	weaker.Hash, padded.Padding, replayed.Replay = crypto.SHA512, signing.PKCS1v15, []byte("x")
	refused["another hash"], refused["a padding"], refused["a replay"] = weaker, padded, replayed
	for what, in := range refused {
		if said, err := m.Inspect(in); !errors.Is(err, signing.Denied) {
			t.Errorf("%s: %+v, %v", what, said, err)
		}
	}
}

func TestCreatorAndTimestampAreTextOfThePolicyAndCannotSayMore(t *testing.T) {
	k := ec(t, elliptic.P256())
	m := open(t, nil, simple.Options{Own: &simpletest.Memory{}, URL: "https://sign.acme.dev"})
	tg := target(key(t, k, 0))
	for _, options := range []map[string]string{
		{"creator": ""}, {"creator": "a\nb"}, {"creator": "a\x00"}, {"creator": "é"}, {"creator": strings.Repeat("a", 129)},
		{"timestamp": ""}, {"timestamp": "1700000000"}, {"timestamp": "TRUE"}, {"reference": "x"}, {"critical": "x"},
	} {
		tg.Options = options
		_, info := m.Info(tg.Key, options)
		_, prepared := m.Prepare(t.Context(), tg, at)
		if !errors.Is(info, signing.Invalid) || !errors.Is(prepared, signing.Invalid) {
			t.Errorf("%v: %v, %v", options, info, prepared)
		}
	}
	tg.Options = map[string]string{"creator": `","timestamp":1},"critical":{"x":"`}
	e := envelope(t, m, tg, k, at)
	if err := m.Check(tg, e); err != nil {
		t.Error(err)
	}
	other := tg
	other.Options = map[string]string{"creator": "acme"}
	if err := m.Check(other, e); !errors.Is(err, signing.Denied) {
		t.Errorf("another creator: %v", err)
	}
}

func FuzzPayload(f *testing.F) {
	k := ec(f, elliptic.P256())
	c, err := openpgp.ParseCertificate(keytest.OpenPGP(f, k, made, 0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(goodPayload))
	f.Add([]byte(`{"optional":{"creator":"a","timestamp":1},"critical":{"type":"atomic container signature","image":{},"identity":{}}}`))
	m := simple.Offline()
	f.Fuzz(func(t *testing.T, content []byte) {
		d, err := c.Draft(content, at)
		if err != nil {
			return
		}
		said, err := m.Inspect(signing.Intent{Bytes: d.Bytes, Hash: d.Hash, Padding: d.Padding})
		if err != nil {
			return
		}
		a := signing.Artifact{Repository: said.Repository, Digest: said.Digest, Tag: said.Tag}
		if a.Validate() != nil || !bytes.Contains(content, []byte(said.Digest)) || !bytes.Contains(content, []byte(said.Repository)) {
			t.Errorf("%q says %+v", content, said)
		}
	})
}

func FuzzPlaces(f *testing.F) {
	f.Add([]byte(`[{"prefix":"","base":"https://sign.acme.dev/lookaside/HOST"},{"prefix":"a.acme.dev","type":"openshift"}]`))
	f.Fuzz(func(t *testing.T, document []byte) {
		m, err := simple.Read(document, nil, false, now)
		if (m == nil) == (err == nil) {
			t.Errorf("%q: %v, %v", document, m, err)
		}
	})
}
