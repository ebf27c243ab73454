package signing

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"strings"
	"testing"
	"time"
)

var keyMade = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestOpenPGPKeyPacketIsReadBackAsTheSameKey(t *testing.T) {
	var publics []crypto.PublicKey
	for _, c := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		publics = append(publics, k.Public())
	}
	for _, bits := range []int{2048, 3072} {
		k, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		publics = append(publics, k.Public())
	}
	for _, p := range publics {
		raw, err := OpenPGPKeyPacket(p, keyMade)
		if err != nil {
			t.Fatal(err)
		}
		got, made, err := OpenPGPKey(append(raw, 0xcd, 1, 'x'))
		if err != nil || !samePublic(p, got) || !made.Equal(keyMade) {
			t.Errorf("%T: %v, %v, %v", p, got, made, err)
		}
		for i := range raw {
			if _, _, err := OpenPGPKey(raw[:i]); err == nil {
				t.Errorf("%T: %d bytes are a key", p, i)
			}
		}
	}
	edward, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenPGPKeyPacket(edward, keyMade); !errors.Is(err, Invalid) {
		t.Errorf("ed25519: %v", err)
	}
	for _, when := range []time.Time{{}, time.Unix(0, 0), time.Unix(1<<32, 0)} {
		if _, err := OpenPGPKeyPacket(publics[0], when); !errors.Is(err, Invalid) {
			t.Errorf("made at %v: %v", when, err)
		}
	}
}

func TestKeyRecordCarriesTheOpenPGPCertificateOfItsKeyOnly(t *testing.T) {
	k, other := certified(t), certified(t)
	var err error
	if k.OpenPGP, err = OpenPGPKeyPacket(k.Public, keyMade); err != nil {
		t.Fatal(err)
	}
	if other.OpenPGP, err = OpenPGPKeyPacket(other.Public, keyMade); err != nil {
		t.Fatal(err)
	}
	good, err := k.Record()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := good.Info(); err != nil || !bytes.Equal(got.OpenPGP, k.OpenPGP) {
		t.Fatalf("%x, %v", got.OpenPGP, err)
	}
	for what, text := range map[string]string{
		"another key's":     ArmorOpenPGP(other.OpenPGP),
		"something before":  "x" + good.OpenPGP,
		"something behind":  good.OpenPGP + "x",
		"another line":      strings.Replace(good.OpenPGP, "\n\n", "\n\n\n", 1),
		"a wrong checksum":  strings.Replace(good.OpenPGP, "\n=", "\n=A", 1),
		"no armor":          string(k.OpenPGP),
		"a huge one":        strings.Repeat("x", 1<<20),
		"an altered packet": ArmorOpenPGP(append([]byte{0xcd}, k.OpenPGP[1:]...)),
	} {
		r := good
		r.OpenPGP = text
		if _, err := r.Info(); !errors.Is(err, Invalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzOpenPGPKey(f *testing.F) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	raw, err := OpenPGPKeyPacket(k.Public(), keyMade)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		public, made, err := OpenPGPKey(raw)
		if err != nil {
			return
		}
		if n := (KeyInfo{Public: public}).Algorithm(); n == "unknown" || made.Before(time.Unix(0, 0)) {
			t.Errorf("%x is read as %s of %v", raw, n, made)
		}
	})
}
