package simple_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/key/keytest"
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/method/methodtest"
	"github.com/sealwright/sealwright/internal/method/simple"
	"github.com/sealwright/sealwright/internal/method/simple/simpletest"
	"github.com/sealwright/sealwright/internal/signing"
)

var (
	made = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at   = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
)

func now() time.Time { return at }

func ec(t testing.TB, c elliptic.Curve) crypto.Signer {
	t.Helper()
	if c == nil {
		c = elliptic.P256()
	}
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func rsaKey(t testing.TB, bits int) crypto.Signer {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func open(t testing.TB, rows []simple.Config, o simple.Options) *simple.Method {
	t.Helper()
	o.Now = now
	m, err := simple.New(rows, o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// replaceTail replaces text in the payload of an intent, and leaves what OpenPGP
// puts behind it.
func rewrite(in signing.Intent, old, with string) signing.Intent {
	in.Bytes = bytes.ReplaceAll(in.Bytes, []byte(old), []byte(with))
	return in
}

func TestContract(t *testing.T) {
	keys := map[string]crypto.Signer{"p256": ec(t, elliptic.P256()), "p384": ec(t, elliptic.P384()), "rsa3072": rsaKey(t, 3072)}
	certs := map[string][]byte{}
	for name, k := range keys {
		certs[name] = keytest.OpenPGP(t, k, made, 0)
	}
	edward, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	web := simpletest.NewWeb(t)
	methodtest.Run(t, methodtest.Suite{
		In: func(t testing.TB, w *methodtest.World) method.Method {
			return open(t, []simple.Config{{Prefix: w.Host, Type: simple.TypeWeb, URL: web.URL + "/" + w.Host, InsecureHTTP: true}}, simple.Options{Transport: w.Wire})
		},
		Keys: keys, OpenPGP: certs, Tags: true, Rewrite: rewrite,
		Options: map[string]string{"creator": "acme 1.0 \"<&>\"", "timestamp": "true"},
		Refused: map[string]crypto.PublicKey{"ed25519": edward, "no certificate": ec(t, elliptic.P256()).Public()},
		Count: func(_ testing.TB, a signing.Artifact) int {
			return web.Count("/"+a.Repository.Host(), a)
		},
	})
}

func key(t testing.TB, k crypto.Signer, life time.Duration) signing.KeyInfo {
	t.Helper()
	return signing.KeyInfo{ID: "release", Public: k.Public(), OpenPGP: keytest.OpenPGP(t, k, made, life)}
}

const digest = "sha256:d34db33fd34db33fd34db33fd34db33fd34db33fd34db33fd34db33fd34db33f"

func target(k signing.KeyInfo) method.Target {
	return method.Target{Artifact: signing.Artifact{Repository: "registry.acme.dev/payments/web", Digest: digest, Tag: "v1"}, Key: k}
}

func envelope(t testing.TB, m *simple.Method, tg method.Target, k crypto.Signer, when time.Time) signing.Envelope {
	t.Helper()
	tg.Offline = true
	p, err := m.Prepare(t.Context(), tg, when)
	if err != nil {
		t.Fatal(err)
	}
	e, err := m.Assemble(tg, *p.Intent, methodtest.Sign(t, k, *p.Intent))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestSignatureOfExpiredKeyIsRefusedNowAndStillCheckedAsEvidence(t *testing.T) {
	k := ec(t, elliptic.P256())
	clock := made.Add(time.Hour)
	m, err := simple.New(nil, simple.Options{Own: &simpletest.Memory{}, URL: "https://sign.acme.dev", Now: func() time.Time { return clock }})
	if err != nil {
		t.Fatal(err)
	}
	tg := target(key(t, k, 24*time.Hour))
	e := envelope(t, m, tg, k, clock)
	if _, err := m.Publish(t.Context(), tg, e); err != nil {
		t.Fatal(err)
	}
	clock = made.Add(48 * time.Hour)
	_, prepared := m.Prepare(t.Context(), tg, clock)
	_, published := m.Publish(t.Context(), tg, e)
	_, verified := m.Verify(t.Context(), tg, e)
	for what, err := range map[string]error{"Prepare": prepared, "Publish": published, "Verify": verified} {
		if !errors.Is(err, signing.Denied) {
			t.Errorf("%s with an expired key: %v", what, err)
		}
	}
	if err := m.Check(tg, e); err != nil {
		t.Errorf("evidence of when the key was good: %v", err)
	}
	found, err := m.Find(t.Context(), tg.Artifact, tg.Key)
	if err != nil || len(found) != 1 || !errors.Is(found[0].Err, signing.Denied) {
		t.Errorf("%+v, %v", found, err)
	}
}

func TestEqualSignatureIsRecognisedAtAnotherTimeAndNotWithAnotherCreator(t *testing.T) {
	k := ec(t, elliptic.P256())
	for _, options := range []map[string]string{nil, {"timestamp": "true", "creator": "acme"}} {
		m := open(t, nil, simple.Options{Own: &simpletest.Memory{}, URL: "https://sign.acme.dev"})
		tg := target(key(t, k, 0))
		tg.Options = options
		if _, err := m.Publish(t.Context(), tg, envelope(t, m, tg, k, at.Add(-time.Hour))); err != nil {
			t.Fatal(err)
		}
		p, err := m.Prepare(t.Context(), tg, at)
		if err != nil || len(p.Recognised) != 1 || p.Recognised[0].URI != "https://sign.acme.dev/lookaside/registry.acme.dev/payments/web@sha256="+strings.TrimPrefix(digest, "sha256:")+"/signature-1" {
			t.Errorf("%v: %+v, %v", options, p, err)
		}
		for what, change := range map[string]func(*method.Target){
			"creator": func(x *method.Target) { x.Options = map[string]string{"creator": "another"} },
			"tag":     func(x *method.Target) { x.Artifact.Tag = "v2" },
			"no tag":  func(x *method.Target) { x.Artifact.Tag = "" },
		} {
			other := tg
			change(&other)
			if p, err := m.Prepare(t.Context(), other, at); err != nil || p.Intent == nil {
				t.Errorf("another %s is recognised: %+v, %v", what, p, err)
			}
		}
	}
}

func TestInfoHasCertificateLookasideAndConfiguration(t *testing.T) {
	k := key(t, ec(t, elliptic.P256()), 0)
	m := open(t, []simple.Config{
		{Prefix: "quay.acme.dev/team", Type: simple.TypeFolder, Folder: t.TempDir(), ReadURL: "https://sigs.acme.dev/team"},
		{Prefix: "own.acme.dev", Type: simple.TypeOwn},
	}, simple.Options{Own: &simpletest.Memory{}, URL: "https://sign.acme.dev"})
	info, err := m.Info(k, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := "docker:\n  quay.acme.dev/team:\n    lookaside: https://sigs.acme.dev/team\n  own.acme.dev:\n    lookaside: https://sign.acme.dev/lookaside/own.acme.dev\n  REPOSITORY:\n    lookaside: https://sign.acme.dev/lookaside/HOST\n"; info.Snippets["registries.d"] != want {
		t.Errorf("registries.d: %s", info.Snippets["registries.d"])
	}
	if !strings.Contains(info.Snippets["policy.json"], `"keyPath": "/etc/pki/containers/release.asc"`) || info.Trust[0].Name != "release.asc" || !bytes.HasPrefix(info.Trust[0].Bytes, []byte("-----BEGIN PGP PUBLIC KEY BLOCK-----")) {
		t.Errorf("%+v", info)
	}
	reader, err := simple.Read(info.Trust[1].Bytes, nil, true, now)
	if err != nil || info.Trust[1].Name != simple.PlacesFile {
		t.Fatalf("%s: %v", info.Trust[1].Bytes, err)
	}
	if _, err := reader.Publish(t.Context(), target(k), signing.Envelope{}); !errors.Is(err, signing.Denied) {
		t.Errorf("a reader publishes: %v", err)
	}
}

func TestATrustItemThatIsNoneIsRefused(t *testing.T) {
	for name, text := range map[string]string{
		"not JSON": "x", "an object": "{}", "an unknown field": `[{"prefix":"","base":"https://a.test","password":"x"}]`, "something behind it": "[]x",
		"another prefix": `[{"prefix":"*","base":"https://a.test"}]`, "another scheme": `[{"prefix":"","base":"ftp://a.test"}]`, "too long": strings.Repeat(" ", 1<<20),
	} {
		if _, err := simple.Read([]byte(text), nil, false, now); !errors.Is(err, signing.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestACAFileOfALookasideThatCannotBeUsedIsNamed(t *testing.T) {
	dir := t.TempDir()
	for name, file := range map[string]string{"a folder": dir, "none": filepath.Join(dir, "none.pem")} {
		_, err := simple.Open(simple.Config{Prefix: "registry.acme.dev", Type: simple.TypeWeb, URL: "https://sigs.acme.dev", CAFile: file}, simple.Options{})
		var e *signing.Error
		if !errors.As(err, &e) || e.Code != signing.Invalid || e.Expected == "" || !strings.Contains(e.Found, file) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
