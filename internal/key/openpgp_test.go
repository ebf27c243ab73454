package key

import (
	"bytes"
	"errors"
	"testing"
	"time"

	library "github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/key/keytest"
	"github.com/sealwright/sealwright/internal/openpgp"
	"github.com/sealwright/sealwright/internal/signing"
)

var (
	pgpMade = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	pgpNow  = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
)

func atNow() time.Time { return pgpNow }

// secretKey returns an armored OpenPGP secret key as gpg exports one, and its
// certificate.
func secretKey(t *testing.T, passphrase string, revoked bool) (file, certificate []byte) {
	t.Helper()
	e, err := library.NewEntity("Acme", "", "release@acme.dev", &packet.Config{Algorithm: packet.PubKeyAlgoECDSA, Curve: packet.CurveNistP256, Time: func() time.Time { return pgpMade }})
	if err != nil {
		t.Fatal(err)
	}
	if revoked {
		if err := e.RevokeKey(packet.KeyRetired, "", &packet.Config{Time: func() time.Time { return pgpMade }}); err != nil {
			t.Fatal(err)
		}
	}
	var public, out bytes.Buffer
	if err := e.Serialize(&public); err != nil {
		t.Fatal(err)
	}
	if passphrase != "" {
		if err := e.EncryptPrivateKeys([]byte(passphrase), nil); err != nil {
			t.Fatal(err)
		}
	}
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
	return out.Bytes(), public.Bytes()
}

func pgpConf(t *testing.T, file []byte, passphrase string, certificate []byte) Config {
	t.Helper()
	k := conf("k", keytest.File(t, file))
	if passphrase != "" {
		k.Passphrase = config.Secret(keytest.File(t, []byte(passphrase)))
	}
	if certificate != nil {
		k.OpenPGP.Certificate = config.Secret(keytest.File(t, []byte(signing.ArmorOpenPGP(certificate))))
	}
	return k
}

func TestOpenPGPKeysOpenWithTheirCertificate(t *testing.T) {
	bare := keytest.P256(t)
	cert := keytest.OpenPGP(t, bare, pgpMade, 0)
	file, own := secretKey(t, "secret", false)
	for name, k := range map[string]Config{
		"a bare key and its certificate": pgpConf(t, keytest.PEM(t, bare), "", cert),
		"an encrypted secret key":        pgpConf(t, file, "secret", nil),
		"both":                           pgpConf(t, file, "secret", own),
	} {
		ring := open(t, Options{Now: atNow}, k)
		info, _ := ring.Info("k")
		c, err := openpgp.Of(info)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		d, err := c.Draft([]byte("content"), pgpNow)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := ring.Sign(t.Context(), "k", signing.Intent{Bytes: d.Bytes, Hash: d.Hash, Padding: d.Padding})
		if err != nil {
			t.Fatal(err)
		}
		m, err := c.Message(d, raw)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Open(m, pgpNow); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if info, _ := open(t, Options{}, conf("k", keytest.File(t, keytest.PEM(t, bare)))).Info("k"); len(info.OpenPGP) > 0 {
		t.Error("a key without a certificate has one")
	}
}

func TestOpenPGPCertificateThatIsNotForTheKeyStopsTheStart(t *testing.T) {
	bare, other := keytest.P256(t), keytest.P256(t)
	file, _ := secretKey(t, "secret", false)
	_, second := secretKey(t, "", false)
	revokedFile, _ := secretKey(t, "secret", true)
	garbage := pgpConf(t, keytest.PEM(t, bare), "", nil)
	garbage.OpenPGP.Certificate = config.Secret(keytest.File(t, []byte("hello")))
	missing := garbage
	missing.OpenPGP.Certificate = "env:NOT_SET"
	for name, c := range map[string]struct {
		k    Config
		want signing.Code
	}{
		"another key's":               {pgpConf(t, keytest.PEM(t, bare), "", keytest.OpenPGP(t, other, pgpMade, 0)), signing.Denied},
		"another secret key's":        {pgpConf(t, file, "secret", second), signing.Denied},
		"made at another time":        {again(t), signing.Denied},
		"revoked":                     {pgpConf(t, revokedFile, "secret", nil), signing.Denied},
		"none":                        {garbage, signing.Invalid},
		"unreadable":                  {missing, signing.Invalid},
		"a wrong passphrase":          {pgpConf(t, file, "Secret", nil), signing.Invalid},
		"no passphrase":               {pgpConf(t, file, "", nil), signing.Invalid},
		"a passphrase of a plain key": {pgpConf(t, plainSecret(t), "secret", nil), signing.Invalid},
	} {
		if _, err := Open(t.Context(), []Config{c.k}, Options{Now: atNow, Env: func(string) (string, bool) { return "", false }}); signing.CodeOf(err) != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

func plainSecret(t *testing.T) []byte { file, _ := secretKey(t, "", false); return file }

// again is an OpenPGP secret key with a certificate for the same key that counts as
// made later: its fingerprint is another.
func again(t *testing.T) Config {
	t.Helper()
	file, _ := secretKey(t, "secret", false)
	ring := open(t, Options{Now: atNow}, pgpConf(t, file, "secret", nil))
	cert := keytest.OpenPGP(t, signerOf(t, ring), pgpMade.Add(time.Second), 0)
	return pgpConf(t, file, "secret", cert)
}

func TestExpiredOpenPGPCertificateShowsInReadinessAndDenies(t *testing.T) {
	bare := keytest.P256(t)
	now := pgpMade.Add(time.Hour)
	ring := open(t, Options{Now: func() time.Time { return now }}, pgpConf(t, keytest.PEM(t, bare), "", keytest.OpenPGP(t, bare, pgpMade, 24*time.Hour)))
	if err := ring.Check(t.Context())["k"]; err != nil {
		t.Errorf("valid: %v", err)
	}
	now = pgpMade.Add(24 * time.Hour)
	if err := ring.Check(t.Context())["k"]; !errors.Is(err, signing.Denied) {
		t.Errorf("expired: %v", err)
	}
	if r := ring.Permit(goodUse()); r.Pass {
		t.Error("a key whose OpenPGP certificate has expired is permitted")
	}
}

func TestDigestNamesTheOpenPGPCertificate(t *testing.T) {
	bare := keytest.P256(t)
	digests := map[signing.Digest]bool{}
	for _, cert := range [][]byte{nil, keytest.OpenPGP(t, bare, pgpMade, 0), keytest.OpenPGP(t, bare, pgpMade, time.Hour)} {
		digests[open(t, Options{Now: atNow}, pgpConf(t, keytest.PEM(t, bare), "", cert)).Digest()] = true
	}
	if len(digests) != 3 {
		t.Errorf("%d digests of three rings", len(digests))
	}
}
