package testenv

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/key/keytest"
	"github.com/sealwright/sealwright/internal/signing"
)

// MakeCertifiedKey makes NAME.key with a certificate chain NAME.crt, valid for
// years around now, unless they are there.
func (e *Env) MakeCertifiedKey(name string) {
	e.T.Helper()
	path := filepath.Join(e.Dir, name)
	if _, err := os.Stat(path + ".crt"); err == nil {
		return
	}
	must(e.T, writeKey(path+".key"))
	chain := keytest.Chain(e.T, e.Private(name+".key").Public(), time.Now().AddDate(-1, 0, 0), time.Now().AddDate(10, 0, 0))
	must(e.T, os.WriteFile(path+".crt", chain, 0o600))
}

// MakeKey makes a P-256 key in the Env's folder unless it is there.
func (e *Env) MakeKey(name string) {
	e.T.Helper()
	path := filepath.Join(e.Dir, name)
	if _, err := os.Stat(path); err == nil {
		return
	}
	must(e.T, writeKey(path))
}

// Private returns the private half of a key in the Env's folder, for others who
// have it too.
func (e *Env) Private(name string) crypto.Signer {
	e.T.Helper()
	raw, err := os.ReadFile(filepath.Join(e.Dir, name))
	must(e.T, err)
	block, _ := pem.Decode(raw)
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	must(e.T, err)
	return k.(crypto.Signer)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// MakeOpenPGPKey makes NAME.key and its OpenPGP certificate NAME.asc, unless they
// are there.
func (e *Env) MakeOpenPGPKey(name string) {
	e.T.Helper()
	path := filepath.Join(e.Dir, name)
	if _, err := os.Stat(path + ".asc"); err == nil {
		return
	}
	must(e.T, writeKey(path+".key"))
	cert := keytest.OpenPGP(e.T, e.Private(name+".key"), time.Now().AddDate(-1, 0, 0), 0)
	must(e.T, os.WriteFile(path+".asc", []byte(signing.ArmorOpenPGP(cert)), 0o600))
}
