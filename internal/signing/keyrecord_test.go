package signing

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math/big"
	"strings"
	"testing"
)

func certified(t *testing.T) KeyInfo {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{}, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return KeyInfo{ID: "release", Public: k.Public(), Chain: []*x509.Certificate{cert}}
}

func TestKeyRecordIsReadBackAsItWasWrittenOnly(t *testing.T) {
	k := certified(t)
	good, err := k.Record()
	if err != nil {
		t.Fatal(err)
	}
	got, err := good.Info()
	if err != nil || !got.Chain[0].Equal(k.Chain[0]) || got.ID != k.ID {
		t.Fatalf("%+v, %v", got, err)
	}
	other, err := certified(t).Record()
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(r *KeyRecord){
		"another version":           func(r *KeyRecord) { r.Version = other.Version },
		"another algorithm":         func(r *KeyRecord) { r.Algorithm = "rsa-2048" },
		"another key":               func(r *KeyRecord) { r.PublicKey = other.PublicKey },
		"another key's certificate": func(r *KeyRecord) { r.Chain = other.Chain },
		"text before the key":       func(r *KeyRecord) { r.PublicKey = "x\n" + r.PublicKey },
		"text after the key":        func(r *KeyRecord) { r.PublicKey += "x" },
		"no key":                    func(r *KeyRecord) { r.PublicKey = "" },
		"a huge key":                func(r *KeyRecord) { r.PublicKey = strings.Repeat("x", 1<<20) },
		"no certificate":            func(r *KeyRecord) { r.Chain = []string{r.PublicKey} },
		"a long chain":              func(r *KeyRecord) { r.Chain = make([]string, 11) },
	} {
		bad := good
		change(&bad)
		if _, err := bad.Info(); !errors.Is(err, Invalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
