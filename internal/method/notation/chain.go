package notation

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	nx509 "github.com/notaryproject/notation-core-go/x509"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"github.com/notaryproject/notation-go/verifier/truststore"
	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/signing"
)

// Info returns the root certificate of the key for trust stores, and a trust
// policy that accepts this key's subject only. It does not judge whether the
// certificates are valid now: Prepare does.
func (m *Method) Info(k signing.KeyInfo, options map[string]string) (method.Info, error) {
	if _, err := readOptions(options); err != nil {
		return method.Info{}, err
	}
	if err := checkChain(k); err != nil {
		return method.Info{}, err
	}
	policy, err := json.MarshalIndent(trustpolicy.Document{Version: "1.0", TrustPolicies: []trustpolicy.TrustPolicy{{
		Name: k.ID, RegistryScopes: []string{"REPOSITORY"},
		SignatureVerification: trustpolicy.SignatureVerification{VerificationLevel: trustpolicy.LevelStrict.Name},
		TrustStores:           []string{string(truststore.TypeCA) + ":" + k.ID}, TrustedIdentities: []string{identity(k)},
	}}}, "", "  ")
	if err != nil {
		return method.Info{}, fmt.Errorf("encoding the trust policy of %s: %w", k.ID, err)
	}
	file := k.ID + ".crt"
	root := k.Chain[len(k.Chain)-1]
	return method.Info{
		Trust: []method.TrustItem{{Name: file, MediaType: "application/x-pem-file", Bytes: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})}},
		Snippets: map[string]string{
			"notation":         "notation cert add --type ca --store " + k.ID + " " + file + "\nnotation policy import trustpolicy.json\nnotation verify IMAGE\n",
			"trustpolicy.json": string(policy) + "\n",
		},
	}, nil
}

// checkChain holds a key and its certificates against the specification's
// requirements, and those of trust policies for the subject.
func checkChain(k signing.KeyInfo) error {
	refuse := func(expected, found string, err error) error {
		return &signing.Error{Code: signing.Invalid, Message: "key " + k.ID + " cannot sign for notation", Expected: expected, Found: found, Fix: "see the section on certificates in docs/operations.md", Err: err}
	}
	if _, ok := keySpecs[k.Algorithm()]; !ok {
		return refuse("one of "+strings.Join(slices.Sorted(maps.Keys(keySpecs)), ", "), k.Algorithm(), nil)
	}
	if len(k.Chain) == 0 {
		return refuse("a certificate chain: `certificates:` in the keys file", "none", nil)
	}
	leaf := k.Chain[0]
	if err := cryptoutils.EqualKeys(leaf.PublicKey, k.Public); err != nil {
		return refuse("a leaf certificate, first in the chain, for this key", "one for another key, subject "+leaf.Subject.String(), nil)
	}
	if err := nx509.ValidateCodeSigningCertChain(k.Chain, nil); err != nil {
		return refuse("leaf first, self-signed root last; the leaf CA:FALSE with critical keyUsage digitalSignature and extendedKeyUsage codeSigning or none; every CA with critical keyUsage keyCertSign", err.Error(), err)
	}
	// Trust policies name the signer by these three at least, and the verifier
	// cannot read a subject with anything twice.
	if s := leaf.Subject; len(s.Country) != 1 || len(s.Province) != 1 || len(s.Organization) != 1 || !distinct(s) {
		return refuse("a leaf certificate whose subject has C, ST and O, and nothing twice", "subject "+s.String(), nil)
	}
	if from, to := validity(k.Chain); !from.Before(to) {
		return refuse("certificates that are valid at the same time", "none is valid while all others are", nil)
	}
	return nil
}

// distinct reports whether a subject names each attribute once.
func distinct(s pkix.Name) bool {
	seen := map[string]bool{}
	for _, a := range s.Names {
		if seen[a.Type.String()] {
			return false
		}
		seen[a.Type.String()] = true
	}
	return true
}

// identity is the subject of the leaf as a trust policy names it.
func identity(k signing.KeyInfo) string { return "x509.subject: " + k.Chain[0].Subject.String() }

// validity returns when every certificate of a chain is valid.
func validity(chain []*x509.Certificate) (from, to time.Time) {
	from, to = chain[0].NotBefore, chain[0].NotAfter
	for _, c := range chain[1:] {
		if c.NotBefore.After(from) {
			from = c.NotBefore
		}
		if c.NotAfter.Before(to) {
			to = c.NotAfter
		}
	}
	return from, to
}

// checkValidity refuses a key whose certificates are not valid now, or not for
// much longer.
func checkValidity(k signing.KeyInfo, now time.Time) error {
	from, to := validity(k.Chain)
	if now.Before(from) || now.Add(leafMargin).After(to) {
		return &signing.Error{Code: signing.Denied, Message: "the certificates of key " + k.ID + " are not valid, or not for much longer", Expected: fmt.Sprintf("valid now and for %s more", leafMargin), Found: fmt.Sprintf("from %s to %s", from.UTC().Format(time.RFC3339), to.UTC().Format(time.RFC3339)), Fix: "have the certificate renewed, put the new chain where `certificates:` points, and reload the keys"}
	}
	return nil
}
