package dct_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/devworld/notary"
	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/signing"
)

func TestEveryProblemOfARowIsReportedWithItsPath(t *testing.T) {
	id := strings.Repeat("a", 64)
	good := func() dct.Config {
		return dct.Config{URL: "https://notary.acme.dev:4443", Repositories: []string{"registry.acme.dev"}, Pins: []dct.Pin{{Repository: "registry.acme.dev/web", RootKeys: []string{id}}}}
	}
	if ps := dct.Check([]dct.Config{good(), {URL: "http://127.0.0.1:4443/", Repositories: []string{"localhost:5000/a"}, TrustOnFirstUse: true}}); len(ps) > 0 {
		t.Fatal(ps)
	}
	for name, c := range map[string]struct {
		edit func(*dct.Config)
		path string
	}{
		"no url":                       {func(c *dct.Config) { c.URL = "" }, "[0].url"},
		"a path":                       {func(c *dct.Config) { c.URL += "/v2" }, "[0].url"},
		"plain http":                   {func(c *dct.Config) { c.URL = "http://notary.acme.dev" }, "[0].url"},
		"a user in the url":            {func(c *dct.Config) { c.URL = "https://a:b@notary.acme.dev" }, "[0].url"},
		"a user without a password":    {func(c *dct.Config) { c.Username = "x" }, "[0].username"},
		"no repositories":              {func(c *dct.Config) { c.Repositories = nil }, "[0].repositories"},
		"a pattern":                    {func(c *dct.Config) { c.Repositories = []string{"registry.acme.dev/*"} }, "[0].repositories[0]"},
		"one twice":                    {func(c *dct.Config) { c.Repositories = []string{"registry.acme.dev", "registry.acme.dev"} }, "[0].repositories[1]"},
		"nothing is trusted":           {func(c *dct.Config) { c.Pins = nil }, "[0].pins"},
		"a pin of nothing":             {func(c *dct.Config) { c.Pins[0].RootKeys = nil }, "[0].pins[0].root_keys"},
		"a pin of both":                {func(c *dct.Config) { c.Pins[0].CAFile = "/ca.pem" }, "[0].pins[0].root_keys"},
		"a key id that is none":        {func(c *dct.Config) { c.Pins[0].RootKeys[0] = "sha256:" + id }, "[0].pins[0].root_keys[0]"},
		"a pin for no repository":      {func(c *dct.Config) { c.Pins[0].Repository = "*" }, "[0].pins[0].repository"},
		"a relative file of a pin":     {func(c *dct.Config) { c.Pins[0] = dct.Pin{Repository: "registry.acme.dev", CAFile: "ca.pem"} }, "[0].pins[0].ca_file"},
		"a relative file for TLS":      {func(c *dct.Config) { c.CAFile = "ca.pem" }, "[0].ca_file"},
		"a token realm that is no URL": {func(c *dct.Config) { c.TokenRealm = []string{"auth.acme.dev"} }, "[0].token_realm[0]"},
	} {
		row := good()
		c.edit(&row)
		ps := dct.Check([]dct.Config{row})
		if len(ps) == 0 || ps[0].Path != c.path {
			t.Errorf("%s: got %v, want one of %s", name, ps, c.path)
		}
		if _, err := dct.Open([]dct.Config{row}, dct.Options{}); err == nil {
			t.Errorf("%s: is opened", name)
		}
	}
}

func TestTheLongestBeginningOfWholeElementsDecides(t *testing.T) {
	row := func(url string, repositories ...string) dct.Config {
		return dct.Config{URL: url, Repositories: repositories, TrustOnFirstUse: true}
	}
	c, err := dct.Open([]dct.Config{row("https://one.test", "registry.acme.dev"), row("https://two.test", "registry.acme.dev/payments")}, dct.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for gun, want := range map[signing.Repository]string{
		"registry.acme.dev/web":           "https://one.test",
		"registry.acme.dev/payments":      "https://two.test",
		"registry.acme.dev/payments/web":  "https://two.test",
		"registry.acme.dev/payments2/web": "https://one.test",
	} {
		if got, err := c.Server(gun); got != want {
			t.Errorf("%s is served by %q, %v", gun, got, err)
		}
	}
	for _, gun := range []signing.Repository{"registry.acme.dev.evil.test/web", "other.test/web", "no repository"} {
		if got, err := c.Server(gun); err == nil {
			t.Errorf("%s is served by %q", gun, got)
		}
	}
}

// certify makes an authority and a root key that it has certified for cn.
func certify(t *testing.T, cn string) (ca string, root dct.Signer) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	authority := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "acme"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, authority, authority, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err = notary.NewSigner("")
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: cn}, NotBefore: authority.NotBefore, NotAfter: time.Now().AddDate(1, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature}
	der, err = x509.CreateCertificate(rand.Reader, leaf, authority, root.Private.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err == nil {
		root.Key, err = dct.KeyFor(signing.KeyInfo{ID: "root", Public: root.Private.Public(), Chain: []*x509.Certificate{c}})
	}
	if err != nil {
		t.Fatal(err)
	}
	return ca, root
}

func TestARootCertifiedByThePinnedAuthorityIsTrustedAndNoOther(t *testing.T) {
	w := newWorld(t)
	const second = signing.Repository("registry.acme.dev/shop/web")
	ca, root := certify(t, string(second))
	other, _ := certify(t, string(second))
	owner := &notary.Owner{Repository: second, Root: root, Targets: w.owner.Targets}
	c := w.open(nil, dct.Pin{Repository: "registry.acme.dev/shop", CAFile: ca})
	if err := owner.Init(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if s, err := c.Fetch(t.Context(), second); err != nil || s.Root.Trusted != dct.ByCA {
		t.Errorf("got %+v, %v", s, err)
	}
	if _, err := w.open(nil, dct.Pin{Repository: "registry.acme.dev/shop", CAFile: other}).Fetch(t.Context(), second); !errors.Is(err, signing.Denied) {
		t.Errorf("another authority: %v", err)
	}
	pinned := w.open(nil, dct.Pin{Repository: "registry.acme.dev/shop", RootKeys: []string{root.Key.ID}})
	if _, err := pinned.Fetch(t.Context(), second); err != nil {
		t.Error(err)
	}
	w.now = time.Now().AddDate(2, 0, 0) // what is signed is valid for three years
	for name, c := range map[string]*dct.Client{"authority": c, "key": pinned} {
		if _, err := c.Fetch(t.Context(), second); !errors.Is(err, signing.Denied) || strings.Contains(err.Error(), "expired") {
			t.Errorf("pinned by its %s, after the certificate has ended: %v", name, err)
		}
	}
}

func TestACertificateFileOfAPinThatCannotBeReadStopsTheStart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "none.pem")
	_, err := dct.Open([]dct.Config{{URL: "https://notary.acme.dev", Repositories: []string{"registry.acme.dev"}, Pins: []dct.Pin{{Repository: "registry.acme.dev/web", CAFile: file}}}}, dct.Options{})
	if err == nil || !strings.Contains(err.Error(), "pin of registry.acme.dev/web: reading ca_file: ") || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v, want the pin and the file", err)
	}
}
