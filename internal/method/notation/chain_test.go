package notation

import (
	"crypto"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/method/methodtest"
	"github.com/sealwright/sealwright/internal/signing"
)

// authority is a certificate with its key, to make others below it.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// leafTemplate is what a good leaf looks like, caTemplate what a good CA does.
func leafTemplate() *x509.Certificate {
	return &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "leaf", Organization: []string{"Acme"}, Province: []string{"WA"}, Country: []string{"US"}},
		NotBefore: from, NotAfter: to, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, BasicConstraintsValid: true}
}

func caTemplate(name string) *x509.Certificate {
	return &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name, Organization: []string{"Acme"}},
		NotBefore: from, NotAfter: to, KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true}
}

// issue makes a certificate; a nil parent makes it self-signed.
func issue(t testing.TB, template *x509.Certificate, key crypto.Signer, parent *authority) authority {
	t.Helper()
	up := authority{template, key}
	if parent != nil {
		up = *parent
	}
	der, err := x509.CreateCertificate(rand.Reader, template, up.cert, key.Public(), up.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{c, key}
}

// chainParts are a root, an intermediate below it, and a leaf below that, whose
// templates edit may change.
func chainParts(t testing.TB, key crypto.Signer, edit func(root, middle, leaf *x509.Certificate)) (root, middle, leaf *x509.Certificate) {
	t.Helper()
	r, m, l := caTemplate("root"), caTemplate("middle"), leafTemplate()
	if edit != nil {
		edit(r, m, l)
	}
	top := issue(t, r, ec(t, elliptic.P256()), nil)
	mid := issue(t, m, ec(t, elliptic.P256()), &top)
	return top.cert, mid.cert, issue(t, l, key, &mid).cert
}

func TestChainsThatVerifiersWouldRefuseAreRefusedWithTheirReason(t *testing.T) {
	m, key := New(nil), ec(t, elliptic.P256())
	info := func(public crypto.PublicKey, chain ...*x509.Certificate) error {
		_, err := m.Info(signing.KeyInfo{ID: "release", Public: public, Chain: chain}, nil)
		return err
	}
	root, middle, leaf := chainParts(t, key, nil)
	edited := func(edit func(root, middle, leaf *x509.Certificate)) []*x509.Certificate {
		r, m, l := chainParts(t, key, edit)
		return []*x509.Certificate{l, m, r}
	}
	alone := func(edit func(*x509.Certificate)) []*x509.Certificate {
		l := leafTemplate()
		edit(l)
		return []*x509.Certificate{issue(t, l, key, nil).cert}
	}
	for name, chain := range map[string][]*x509.Certificate{
		"three certificates":          {leaf, middle, root},
		"self-signed":                 alone(func(*x509.Certificate) {}),
		"no extended key usage":       edited(func(_, _, l *x509.Certificate) { l.ExtKeyUsage = nil }),
		"a subject with a locality":   edited(func(_, _, l *x509.Certificate) { l.Subject.Locality = []string{"Seattle"} }),
		"a comma in a subject's name": edited(func(_, _, l *x509.Certificate) { l.Subject.Organization = []string{`Acme, "Inc."`} }),
	} {
		if err := info(key.Public(), chain...); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	edPublic, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := info(edPublic); !errors.Is(err, signing.Invalid) || !strings.Contains(err.Error(), "ed25519") {
		t.Errorf("an Ed25519 key: %v", err)
	}
	for name, c := range map[string]struct {
		chain []*x509.Certificate
		word  string
	}{
		"none":                              {nil, "certificates:"},
		"of another key":                    {chainOf(t, ec(t, elliptic.P256()).Public(), from, to), "another key"},
		"root first":                        {[]*x509.Certificate{root, middle, leaf}, "another key"},
		"without its root":                  {[]*x509.Certificate{leaf, middle}, "not self-signed"},
		"leaf only":                         {[]*x509.Certificate{leaf}, "self-signed"},
		"without its middle":                {[]*x509.Certificate{leaf, root}, "not issued by"},
		"two roots":                         {[]*x509.Certificate{leaf, middle, root, root}, "self-signed"},
		"self-signed CA":                    {alone(func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, c.KeyUsage|x509.KeyUsageCertSign }), "CA"},
		"leaf is a CA":                      {edited(func(_, _, l *x509.Certificate) { l.IsCA = true }), "CA"},
		"leaf without key usage":            {edited(func(_, _, l *x509.Certificate) { l.KeyUsage = 0 }), "key usage"},
		"leaf for other uses":               {edited(func(_, _, l *x509.Certificate) { l.KeyUsage = x509.KeyUsageKeyEncipherment }), "key usage"},
		"leaf for TLS":                      {edited(func(_, _, l *x509.Certificate) { l.ExtKeyUsage = append(l.ExtKeyUsage, x509.ExtKeyUsageServerAuth) }), "extended key usage"},
		"CA that may not sign certificates": {edited(func(_, m, _ *x509.Certificate) { m.KeyUsage = x509.KeyUsageCRLSign }), "cannot sign this kind"},
		"CA that may not have CAs below":    {edited(func(r, _, _ *x509.Certificate) { r.MaxPathLenZero = true }), "path"},
		"subject without C":                 {edited(func(_, _, l *x509.Certificate) { l.Subject.Country = nil }), "subject has C, ST and O"},
		"subject without ST":                {edited(func(_, _, l *x509.Certificate) { l.Subject.Province = nil }), "subject has C, ST and O"},
		"subject without O":                 {edited(func(_, _, l *x509.Certificate) { l.Subject.Organization = nil }), "subject has C, ST and O"},
		"subject with two O":                {edited(func(_, _, l *x509.Certificate) { l.Subject.Organization = []string{"A", "B"} }), "nothing twice"},
		"subject with two OU":               {edited(func(_, _, l *x509.Certificate) { l.Subject.OrganizationalUnit = []string{"A", "B"} }), "nothing twice"},
		"never valid at the same time": {edited(func(_, m, l *x509.Certificate) {
			m.NotAfter, l.NotBefore = from.AddDate(1, 0, 0), from.AddDate(2, 0, 0)
		}), "while all others are"},
	} {
		err := info(key.Public(), c.chain...)
		if !errors.Is(err, signing.Invalid) || !strings.Contains(said(err), c.word) {
			t.Errorf("%s: got %q, want it to say %q", name, said(err), c.word)
		}
		// A stored request must not get further than its configuration would.
		_, err = m.Prepare(t.Context(), method.Target{Artifact: anArtifact, Key: signing.KeyInfo{ID: "release", Public: key.Public(), Chain: c.chain}, Offline: true}, from.AddDate(0, 0, 1))
		if !errors.Is(err, signing.Invalid) {
			t.Errorf("%s: Prepare says %v", name, err)
		}
	}
}

var anArtifact = signing.Artifact{Repository: "registry.acme.dev/web", Digest: signing.DigestOf([]byte("web")), MediaType: "application/vnd.oci.image.manifest.v1+json", Size: 400}

// said is everything that an error says to its reader.
func said(err error) string {
	var e *signing.Error
	if !errors.As(err, &e) {
		return ""
	}
	return e.Message + " | " + e.Expected + " | " + e.Found
}

func TestNothingIsSignedWithCertificatesThatAreNotValidOrNotForLong(t *testing.T) {
	m, key := New(nil), ec(t, elliptic.P256())
	begin, end := from.AddDate(1, 0, 0), from.AddDate(2, 0, 0)
	root, middle, leaf := chainParts(t, key, func(_, m, l *x509.Certificate) { l.NotBefore, m.NotAfter = begin, end })
	target := method.Target{Artifact: anArtifact, Key: signing.KeyInfo{ID: "release", Public: key.Public(), Chain: []*x509.Certificate{leaf, middle, root}}, Offline: true}
	for at, good := range map[time.Time]bool{
		begin.Add(-time.Second): false, begin: true,
		end.Add(-leafMargin): true, end.Add(-leafMargin + time.Second): false, end.Add(time.Second): false,
	} {
		_, err := m.Prepare(t.Context(), target, at)
		if good != (err == nil) || !good && !errors.Is(err, signing.Denied) {
			t.Errorf("at %s: %v", at, err)
		}
	}
}

func TestTrustPolicyNamesTheSignerAndVerifiesWithTheRoot(t *testing.T) {
	key := ec(t, elliptic.P256())
	chain := chainOf(t, key.Public(), from, to)
	info, err := New(nil).Info(signing.KeyInfo{ID: "release", Public: key.Public(), Chain: chain}, map[string]string{"format": "cose"})
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(pemBytes(t, info.Trust[0].Bytes))
	if err != nil || info.Trust[0].Name != "release.crt" || !root.Equal(chain[1]) {
		t.Errorf("%+v, %v", info.Trust, err)
	}
	for _, want := range []string{`"ca:release"`, `"x509.subject: CN=test leaf,O=Acme,ST=WA,C=US"`, `"strict"`, `"REPOSITORY"`} {
		if !strings.Contains(info.Snippets["trustpolicy.json"], want) {
			t.Errorf("the trust policy lacks %s:\n%s", want, info.Snippets["trustpolicy.json"])
		}
	}
}

func TestNobodyIsAskedWhetherCertificatesAreRevoked(t *testing.T) {
	w := methodtest.NewWorld(t, true)
	var asked atomic.Int64
	responder := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer responder.Close()
	key := ec(t, elliptic.P256())
	root, middle, leaf := chainParts(t, key, func(_, m, l *x509.Certificate) {
		for _, c := range []*x509.Certificate{m, l} {
			c.OCSPServer, c.CRLDistributionPoints = []string{responder.URL + "/ocsp"}, []string{responder.URL + "/crl"}
		}
	})
	b := bench{w, New(w.Client), key, method.Target{Artifact: w.Push(t, "acme/web"), Key: signing.KeyInfo{ID: "k", Public: key.Public(), Chain: []*x509.Certificate{leaf, middle, root}}}}
	e := b.signed(t)
	if _, err := b.m.Verify(t.Context(), b.target, e); err != nil {
		t.Error(err)
	}
	if n := asked.Load(); n > 0 {
		t.Errorf("the host that a certificate names was asked %d times", n)
	}
}
