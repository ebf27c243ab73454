package openpgp

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"errors"
	"io"
	"testing"
	"time"

	library "github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/sealwright/sealwright/internal/signing"
)

// made by the library, as another tool would.
func entity(t testing.TB) (*library.Entity, *Certificate) {
	t.Helper()
	e, err := library.NewEntity("a", "", "a@acme.dev", &packet.Config{Algorithm: packet.PubKeyAlgoECDSA, Curve: packet.CurveNistP256, Time: func() time.Time { return made }})
	if err != nil {
		t.Fatal(err)
	}
	e.Subkeys = nil
	var raw bytes.Buffer
	if err := e.Serialize(&raw); err != nil {
		t.Fatal(err)
	}
	c, err := ParseCertificate(raw.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return e, c
}

// theirs signs with the library's own writer of messages.
func theirs(t testing.TB, e *library.Entity, c *packet.Config) []byte {
	t.Helper()
	if c.Time == nil {
		c.Time = func() time.Time { return at }
	}
	var out bytes.Buffer
	w, err := library.Sign(&out, e, &library.FileHints{IsBinary: true}, c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func compressed(t testing.TB, m []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := packet.SerializeCompressed(unclosed{&out}, packet.CompressionZIP, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(m); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// packets returns the three packets of a message of ours.
func packets(t testing.TB, m []byte) [3][]byte {
	t.Helper()
	var out [3][]byte
	r := bytes.NewReader(m)
	for i := range out {
		before := len(m) - r.Len()
		p, err := packet.Read(r)
		if err != nil {
			t.Fatal(err)
		}
		if l, ok := p.(*packet.LiteralData); ok {
			if _, err := io.Copy(io.Discard, l.Body); err != nil {
				t.Fatal(err)
			}
		}
		out[i] = m[before : len(m)-r.Len()]
	}
	return out
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestMessagesOfOtherToolsWithTheKeyAreOpened(t *testing.T) {
	e, c := entity(t)
	for what, m := range map[string][]byte{
		"the library's":         theirs(t, e, &packet.Config{}),
		"with a salt and 512":   theirs(t, e, &packet.Config{DefaultHash: crypto.SHA512}),
		"compressed, as gpg is": compressed(t, theirs(t, e, &packet.Config{})),
	} {
		got, err := c.Open(m, at)
		if err != nil || !bytes.Equal(got.Content, content) {
			t.Errorf("%s: %+v, %v", what, got, err)
		}
	}
}

func TestMessageThatIsNotOneGoodSignatureByThePrimaryKeyIsRefused(t *testing.T) {
	k := curve(t, elliptic.P256())
	c := certify(t, k, 0)
	good := signed(t, c, k, content, at)
	p := packets(t, good)
	other := packets(t, signed(t, c, k, []byte("another"), at))
	stranger := curve(t, elliptic.P256())
	e, theirCert := entity(t)
	bomb := compressed(t, bytes.Repeat([]byte{0}, 8<<20))
	cases := map[string][]byte{
		"nothing":                       nil,
		"text":                          []byte("hello"),
		"armored":                       armored(t, good),
		"the content alone":             p[1],
		"no signature":                  join(p[0], p[1]),
		"a signature first":             join(p[2], p[1]),
		"no one-pass packet":            join(p[1], p[2]),
		"two signatures":                join(p[0], p[1], p[2], p[2]),
		"two one-pass packets":          join(p[0], p[0], p[1], p[2]),
		"nested signatures":             join(p[0], p[0], p[1], p[2], p[2]),
		"two contents":                  join(p[0], p[1], p[1], p[2]),
		"another content":               join(p[0], other[1], p[2]),
		"another signature":             join(p[0], p[1], other[2]),
		"a byte behind":                 join(good, []byte{0}),
		"a marker behind":               join(good, []byte{0xca, 3, 'P', 'G', 'P'}),
		"an unknown packet before":      join([]byte{0xc0 | 60, 1, 0}, good),
		"a second message":              join(good, good),
		"something behind a compressed": join(compressed(t, good), []byte{0xca, 3, 'P', 'G', 'P'}),
		"compressed twice":              compressed(t, compressed(t, good)),
		"a bomb":                        bomb,
		"too large":                     signed(t, c, k, bytes.Repeat([]byte{'x'}, MaxContent+1), at),
		"older than its key":            signed(t, c, k, content, made.Add(-time.Second)),
		"by another key":                signed(t, certify(t, stranger, 0), stranger, content, at),
		"by a key with its id":          by(t, c, stranger),
	}
	for what, m := range cases {
		if got, err := c.Open(m, at); !errors.Is(err, signing.Denied) {
			t.Errorf("%s: %+v, %v", what, got, err)
		}
	}
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 1
		if got, err := c.Open(b, at); err == nil && !bytes.Equal(got.Content, content) {
			t.Errorf("byte %d altered gives %q", i, got.Content)
		}
	}
	if _, err := theirCert.Open(weak(t, e), at); !errors.Is(err, signing.Denied) {
		t.Errorf("SHA-1: %v", err)
	}
	life := uint32(60)
	brief := theirs(t, e, &packet.Config{SigLifetimeSecs: life})
	if _, err := theirCert.Open(brief, at.Add(59*time.Second)); err != nil {
		t.Error(err)
	}
	if _, err := theirCert.Open(brief, at.Add(2*time.Minute)); !errors.Is(err, signing.Denied) {
		t.Errorf("a signature that has expired: %v", err)
	}
	short := certify(t, k, 24*time.Hour)
	if _, err := short.Open(good, at); !errors.Is(err, signing.Denied) {
		t.Errorf("a key that has expired: %v", err)
	}
}

// weak is a good signature with SHA-1.
func weak(t testing.TB, e *library.Entity) []byte {
	t.Helper()
	sig := &packet.Signature{Version: 4, SigType: packet.SigTypeBinary, PubKeyAlgo: e.PrivateKey.PubKeyAlgo, Hash: crypto.SHA1, CreationTime: at, IssuerKeyId: &e.PrimaryKey.KeyId}
	h := crypto.SHA1.New()
	h.Write(content)
	unsalted := false
	if err := sig.Sign(h, e.PrivateKey, &packet.Config{NonDeterministicSignaturesViaNotation: &unsalted}); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	head := &packet.OnePassSignature{Version: 3, SigType: sig.SigType, Hash: sig.Hash, PubKeyAlgo: sig.PubKeyAlgo, KeyId: e.PrimaryKey.KeyId, IsLast: true}
	if err := head.Serialize(&out); err != nil {
		t.Fatal(err)
	}
	out.Write(packets(t, theirs(t, e, &packet.Config{}))[1])
	if err := sig.Serialize(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// by signs with a stranger's key what names the certificate's.
func by(t testing.TB, c *Certificate, k crypto.Signer) []byte {
	t.Helper()
	forged := *c
	forged.Public = k.Public()
	d, err := forged.Draft(content, at)
	if err != nil {
		t.Fatal(err)
	}
	m, err := forged.Message(d, opaque(t, k, d))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func armored(t testing.TB, m []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := armor.Encode(&out, "PGP MESSAGE", nil)
	if err == nil {
		_, err = w.Write(m)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func secret(t testing.TB, passphrase string) []byte {
	t.Helper()
	e, err := library.NewEntity("a", "", "a@acme.dev", &packet.Config{Algorithm: packet.PubKeyAlgoECDSA, Curve: packet.CurveNistP384, Time: func() time.Time { return made }})
	if err != nil {
		t.Fatal(err)
	}
	if passphrase != "" {
		if err := e.EncryptPrivateKeys([]byte(passphrase), nil); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	w, err := armor.Encode(&out, library.PrivateKeyType, nil)
	if err == nil {
		err = e.SerializePrivateWithoutSigning(w, nil)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestSecretKeyFileGivesItsPrimaryKeyAndCertificate(t *testing.T) {
	for _, passphrase := range []string{"", "correct horse"} {
		raw := secret(t, passphrase)
		k, c, err := ReadSecretKey(raw, []byte(passphrase), passphrase != "")
		if err != nil {
			t.Fatal(err)
		}
		if !IsSecretKey(raw) || c.For(k.Public()) != nil {
			t.Error("the key is not that of its certificate")
		}
		if _, err := c.Open(signed(t, c, k, content, at), at); err != nil {
			t.Error(err)
		}
		if _, err := ParseCertificate(c.Raw); err != nil {
			t.Error(err)
		}
		for what, try := range map[string]func() (crypto.Signer, *Certificate, error){
			"a wrong passphrase": func() (crypto.Signer, *Certificate, error) { return ReadSecretKey(raw, []byte("wrong"), true) },
			"passphrase or none": func() (crypto.Signer, *Certificate, error) { return ReadSecretKey(raw, nil, passphrase == "") },
			"something behind": func() (crypto.Signer, *Certificate, error) {
				return ReadSecretKey(append(bytes.Clone(raw), "x"...), []byte(passphrase), passphrase != "")
			},
			"a certificate": func() (crypto.Signer, *Certificate, error) {
				return ReadSecretKey([]byte(signing.ArmorOpenPGP(c.Raw)), nil, false)
			},
		} {
			if _, _, err := try(); !errors.Is(err, signing.Invalid) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
}

func FuzzOpen(f *testing.F) {
	k := curve(f, elliptic.P256())
	c := certify(f, k, 0)
	e, theirCert := entity(f)
	f.Add(signed(f, c, k, content, at))
	f.Add(compressed(f, theirs(f, e, &packet.Config{})))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, cert := range []*Certificate{c, theirCert} {
			if m, err := cert.Open(raw, at); err == nil && !bytes.Equal(m.Content, content) {
				t.Errorf("a forged message: %q", m.Content)
			}
		}
	})
}

func FuzzCertificate(f *testing.F) {
	c := certify(f, curve(f, elliptic.P256()), time.Hour)
	f.Add(c.Raw)
	f.Add([]byte(signing.ArmorOpenPGP(c.Raw)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := ParseCertificate(raw)
		if err != nil {
			return
		}
		if again, err := ParseCertificate([]byte(signing.ArmorOpenPGP(got.Raw))); err != nil || again.Fingerprint() != got.Fingerprint() {
			t.Errorf("%x is read once only: %v", raw, err)
		}
	})
}

func FuzzSplit(f *testing.F) {
	c := certify(f, curve(f, elliptic.P256()), 0)
	d, err := c.Draft(content, at)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(d.Bytes)
	f.Fuzz(func(t *testing.T, raw []byte) {
		if got, said, err := Split(raw); err == nil && !bytes.Equal(append(bytes.Clone(got), said.bytes()...), raw) {
			t.Errorf("%x is read as something else", raw)
		}
	})
}
