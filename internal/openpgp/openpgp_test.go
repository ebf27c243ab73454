package openpgp

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	library "github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/sealwright/sealwright/internal/signing"
)

var (
	made    = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at      = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	content = []byte(`{"critical":{}}`)
)

func curve(t testing.TB, c elliptic.Curve) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func keys(t testing.TB) map[string]crypto.Signer {
	t.Helper()
	out := map[string]crypto.Signer{"p256": curve(t, elliptic.P256()), "p384": curve(t, elliptic.P384()), "p521": curve(t, elliptic.P521())}
	for name, bits := range map[string]int{"rsa2048": 2048, "rsa3072": 3072} {
		k, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = k
	}
	return out
}

// opaque signs a draft as the service's key does.
func opaque(t testing.TB, k crypto.Signer, d Draft) []byte {
	t.Helper()
	h := d.Hash.New()
	h.Write(d.Bytes)
	raw, err := k.Sign(rand.Reader, h.Sum(nil), d.Hash)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func certify(t testing.TB, k crypto.Signer, life time.Duration) *Certificate {
	t.Helper()
	b, err := NewBlank(k.Public(), "Acme release <release@acme.dev>", made, made, life)
	if err != nil {
		t.Fatal(err)
	}
	d, err := b.Draft()
	if err != nil {
		t.Fatal(err)
	}
	c, err := b.Certificate(opaque(t, k, d))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func signed(t testing.TB, c *Certificate, k crypto.Signer, content []byte, when time.Time) []byte {
	t.Helper()
	d, err := c.Draft(content, when)
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.Message(d, opaque(t, k, d))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMessageOfAnyKeyIsReadByTheLibraryAndByUs(t *testing.T) {
	for name, k := range keys(t) {
		c := certify(t, k, 0)
		if c.UserID != "Acme release <release@acme.dev>" || !c.Created.Equal(made) || !c.Expires.IsZero() {
			t.Errorf("%s: %+v", name, c)
		}
		d, err := c.Draft(content, at.Add(time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		got, said, err := Split(d.Bytes)
		if err != nil || !bytes.Equal(got, content) || !said.Created.Equal(at) || !bytes.Equal(said.Fingerprint, c.key.Fingerprint) {
			t.Errorf("%s: %q %+v %v", name, got, said, err)
		}
		raw := opaque(t, k, d)
		m, err := c.Message(d, raw)
		if err != nil {
			t.Fatal(name, err)
		}
		again, err := c.Message(d, raw)
		if err != nil || !bytes.Equal(m, again) {
			t.Errorf("%s: two messages of the same raw signature: %v", name, err)
		}
		opened, err := c.Open(m, at)
		if err != nil || !bytes.Equal(opened.Content, content) || !opened.Signed.Equal(at) {
			t.Errorf("%s: %+v %v", name, opened, err)
		}
		ring, err := library.ReadKeyRing(bytes.NewReader(c.Raw))
		if err != nil {
			t.Fatal(err)
		}
		details, err := library.ReadMessage(bytes.NewReader(m), ring, nil, nil)
		if err != nil {
			t.Fatal(name, err)
		}
		read, err := io.ReadAll(details.UnverifiedBody)
		if err != nil || details.SignatureError != nil || details.SignedBy == nil || !bytes.Equal(read, content) {
			t.Errorf("%s: the library says %v, %v, %q", name, err, details.SignatureError, read)
		}
	}
}

func TestCertificateIsReadArmoredAndBinaryAndNothingElse(t *testing.T) {
	k := curve(t, elliptic.P256())
	c := certify(t, k, 24*time.Hour)
	text := signing.ArmorOpenPGP(c.Raw)
	block, err := armor.Decode(strings.NewReader(text))
	if err != nil || block.Type != library.PublicKeyType {
		t.Fatalf("the library reads %v, %v", block, err)
	}
	for _, form := range [][]byte{c.Raw, []byte(text), []byte("\n" + text)} {
		again, err := ParseCertificate(form)
		if err != nil || !bytes.Equal(again.Raw, c.Raw) || again.Fingerprint() != c.Fingerprint() || !again.Expires.Equal(made.Add(24*time.Hour)) {
			t.Errorf("%.20q: %+v %v", form, again, err)
		}
	}
	other := certify(t, curve(t, elliptic.P256()), 0)
	var private bytes.Buffer
	e, err := library.NewEntity("a", "", "a@acme.dev", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.SerializePrivate(&private, nil); err != nil {
		t.Fatal(err)
	}
	altered := bytes.Clone(c.Raw)
	altered[len(altered)-1] ^= 1
	for what, b := range map[string][]byte{
		"nothing":           nil,
		"text":              []byte("hello"),
		"two certificates":  append(bytes.Clone(c.Raw), other.Raw...),
		"two armored":       []byte(text + signing.ArmorOpenPGP(other.Raw)),
		"text before":       []byte("x\n" + text),
		"text behind":       []byte(text + "x"),
		"a private key":     private.Bytes(),
		"an altered one":    altered,
		"a truncated one":   c.Raw[:len(c.Raw)-1],
		"one without names": c.Raw[:len(c.Raw)/3],
		"a huge one":        bytes.Repeat([]byte{0x99}, 1<<20),
	} {
		if _, err := ParseCertificate(b); !errors.Is(err, signing.Invalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestCertificateThatIsRevokedExpiredOrNotYetMadeIsNotValid(t *testing.T) {
	c := certify(t, curve(t, elliptic.P256()), 24*time.Hour)
	for _, when := range []time.Time{made.Add(-time.Second), made.Add(24 * time.Hour), at} {
		if err := c.Valid(when); !errors.Is(err, signing.Denied) {
			t.Errorf("%v: %v", when, err)
		}
	}
	if err := c.Valid(made.Add(24*time.Hour - time.Second)); err != nil {
		t.Error(err)
	}
	e, err := library.NewEntity("a", "", "a@acme.dev", &packet.Config{Algorithm: packet.PubKeyAlgoECDSA, Curve: packet.CurveNistP256})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.RevokeKey(packet.KeyCompromised, "", nil); err != nil {
		t.Fatal(err)
	}
	var raw bytes.Buffer
	if err := e.Serialize(&raw); err != nil {
		t.Fatal(err)
	}
	revoked, err := ParseCertificate(raw.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if err := revoked.Valid(time.Now()); !errors.Is(err, signing.Denied) {
		t.Errorf("revoked: %v", err)
	}
}

func TestUserIDIsOneLineOfText(t *testing.T) {
	for _, id := range []string{"", "a\nb", "a\x00", "a\x7f", "\xff", strings.Repeat("a", maxUserID+1)} {
		if _, err := NewBlank(curve(t, elliptic.P256()).Public(), id, made, made, 0); !errors.Is(err, signing.Invalid) {
			t.Errorf("%.10q: %v", id, err)
		}
	}
}

func TestRawSignatureThatIsNotTheKeysOverTheDraftMakesNoMessage(t *testing.T) {
	k := curve(t, elliptic.P256())
	c, other := certify(t, k, 0), certify(t, curve(t, elliptic.P256()), 0)
	d, err := c.Draft(content, at)
	if err != nil {
		t.Fatal(err)
	}
	raw := opaque(t, k, d)
	longer := d
	longer.Bytes = append(bytes.Clone(d.Bytes), 0)
	weaker := d
	weaker.Hash = crypto.SHA512
	for what, try := range map[string]func() ([]byte, error){
		"none":            func() ([]byte, error) { return c.Message(d, nil) },
		"truncated":       func() ([]byte, error) { return c.Message(d, raw[:len(raw)-1]) },
		"something more":  func() ([]byte, error) { return c.Message(d, append(bytes.Clone(raw), 0)) },
		"another key's":   func() ([]byte, error) { return other.Message(d, raw) },
		"longer bytes":    func() ([]byte, error) { return c.Message(longer, raw) },
		"another hash":    func() ([]byte, error) { return c.Message(weaker, raw) },
		"no draft at all": func() ([]byte, error) { return c.Message(Draft{Bytes: content}, raw) },
	} {
		if _, err := try(); !errors.Is(err, signing.Denied) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range d.Bytes[len(content):] {
		b := bytes.Clone(d.Bytes)
		b[len(content)+i] ^= 1
		if _, err := c.Message(Draft{b, d.Hash, d.Padding}, opaque(t, k, Draft{b, d.Hash, d.Padding})); err == nil && (i < 8 || i > 11) { // 8 to 11 are the time
			t.Errorf("byte %d of the trailer may be altered", i)
		}
	}
}
