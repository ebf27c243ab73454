//go:build conformance

package conformance

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/notaryproject/notation-core-go/signature"

	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/method/notation"
	"github.com/sealwright/sealwright/internal/testenv"
)

const (
	jwsType  = "application/jose+json"
	coseType = "application/cose"
)

// notary is the Notary Project's signature. What is called the public key
// elsewhere is a configuration folder of notation here: trust store and policy.
func notary() format {
	return format{
		name: "notation", title: "notation (JWS and COSE)",
		signers:   append([]signer{notationSigner("jws"), notationSigner("cose")}, notationServices()...),
		stranger:  func(t *testing.T) string { return trust(t, newChain(t, ecKey(elliptic.P256)).root(), "*", "*") },
		verifiers: []verifier{{"notation", "notation-go 1.3.2, level strict, with the configuration folder of the `notation` program", notationVerify}},
		mutations: notationMutations(),
	}
}

// notationServices are our service with each format and kind of key. The first
// has the keys that docs/operations.md makes with openssl.
func notationServices() []signer {
	out := []signer{
		notationService("sealwright-jws-documented-ca", "jws", documentedChain),
		notationService("sealwright-cose-self-signed", "cose", selfSigned),
		notationService("sealwright-jws-rsa-2048", "jws", rsaChain(2048)),
		notationService("sealwright-cose-rsa-2048", "cose", rsaChain(2048)),
	}
	if os.Getenv("SEALWRIGHT_CONFORMANCE") != "all" {
		return out
	}
	for _, format := range []string{"jws", "cose"} {
		out = append(out,
			notationService("sealwright-"+format+"-ecdsa-p384", format, ecChain(elliptic.P384)), notationService("sealwright-"+format+"-ecdsa-p521", format, ecChain(elliptic.P521)),
			notationService("sealwright-"+format+"-rsa-3072", format, rsaChain(3072)), notationService("sealwright-"+format+"-rsa-4096", format, rsaChain(4096)))
	}
	return out
}

func notationVerify(t *testing.T, ref, config string) (bool, string) {
	status, out := run(t, t.TempDir(), tool(t, "notationverify"), "verify", "-config", config, ref)
	if status > 1 {
		t.Fatalf("notationverify %s: exit status %d\n%s", ref, status, out)
	}
	return status == 0, out
}

func notationMutations() []mutation {
	yes := []string{"notation"}
	altered := func(f func(t *testing.T, s signed, e envelope) envelope) func(*testing.T, signed) (string, string) {
		return func(t *testing.T, s signed) (string, string) {
			e := envelopeOf(t, s.image)
			changed := f(t, s, e)
			if bytes.Equal(changed.raw, e.raw) && changed.mediaType == e.mediaType {
				t.Fatal("nothing was altered")
			}
			replaceEnvelopes(t, s.image, changed)
			return s.image.Reference(), s.public
		}
	}
	return []mutation{
		{name: "none", what: "the signed image itself", accepts: yes, make: func(_ *testing.T, s signed) (string, string) { return s.image.Reference(), s.public }},
		{name: "other image", what: "its signature, put on another image of the repository", make: func(t *testing.T, s signed) (string, string) {
			replaceEnvelopes(t, s.other, envelopeOf(t, s.image))
			return s.other.Reference(), s.public
		}},
		{name: "other CA", what: "verified with the trust store of another CA", make: func(_ *testing.T, s signed) (string, string) {
			return s.image.Reference(), s.strangerPublic
		}},
		{name: "other identity", what: "verified with a trust policy that trusts another subject below the same CA", make: func(t *testing.T, s signed) (string, string) {
			return s.image.Reference(), trust(t, rootOf(t, s.public), "*", "x509.subject: C=US, ST=WA, O=Other")
		}},
		{name: "altered payload", what: "one word of the signed payload in upper case", make: altered(func(t *testing.T, _ signed, e envelope) envelope {
			return e.payload(t, `"digest"`, `"Digest"`)
		})},
		{name: "payload of the other image", what: "the payload names the other image, the signature is as it was", make: func(t *testing.T, s signed) (string, string) {
			replaceEnvelopes(t, s.other, envelopeOf(t, s.image).payload(t, hexOf(s.image), hexOf(s.other)))
			return s.other.Reference(), s.public
		}},
		{name: "altered signature", what: "one byte of the signature changed", make: altered(func(t *testing.T, _ signed, e envelope) envelope { return e.signature(t) })},
		{name: "altered chain", what: "one byte of the leaf certificate changed", make: altered(func(t *testing.T, _ signed, e envelope) envelope { return e.certificate(t) })},
		{name: "by a stranger", what: "signed by a key of another CA, under the thumbprints of the right one", make: altered(func(t *testing.T, s signed, e envelope) envelope {
			c := newChain(t, ecKey(elliptic.P256))
			e.raw = forge(t, s.image, e.mediaType, c.key, c.certs, time.Now(), 0)
			return e
		})},
		{name: "expired", what: "signed two hours ago, valid for one", make: func(t *testing.T, s signed) (string, string) {
			return s.image.Reference(), signedAgo(t, s, time.Hour)
		}},
		{name: "not expired", what: "signed two hours ago, valid for three", accepts: yes, make: func(t *testing.T, s signed) (string, string) {
			return s.image.Reference(), signedAgo(t, s, 3*time.Hour)
		}, why: "its expiry is ahead"},
		{name: "certificate expired", what: "signed while the certificate was valid, which it is not any more", make: func(t *testing.T, s signed) (string, string) {
			e, c := envelopeOf(t, s.image), newChainOf(t, ecKey(elliptic.P256), time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour))
			e.raw = forge(t, s.image, e.mediaType, c.key, c.certs, time.Now().Add(-36*time.Hour), 0)
			replaceEnvelopes(t, s.image, e)
			return s.image.Reference(), trust(t, c.root(), "*", "*")
		}},
		{name: "other format", what: "the layer says that it is the other kind of envelope", make: altered(func(_ *testing.T, _ signed, e envelope) envelope {
			e.mediaType = map[string]string{jwsType: coseType, coseType: jwsType}[e.mediaType]
			return e
		})},
		{name: "other type", what: "the referrer is not of the type of signatures", make: func(t *testing.T, s signed) (string, string) {
			e := envelopeOf(t, s.image)
			clearReferrers(t, s.image)
			attachEnvelopes(t, s.image, "application/vnd.example.signature", e.annotations, e)
			return s.image.Reference(), s.public
		}},
		{name: "two in one", what: "one referrer with the envelope twice", make: func(t *testing.T, s signed) (string, string) {
			e := envelopeOf(t, s.image)
			clearReferrers(t, s.image)
			attachEnvelopes(t, s.image, notation.ArtifactType, e.annotations, e, e)
			return s.image.Reference(), s.public
		}},
		{name: "removed", what: "the referrer taken out of the list", make: func(t *testing.T, s signed) (string, string) {
			clearReferrers(t, s.image)
			return s.image.Reference(), s.public
		}},
		{name: "stripped annotations", what: "the referrer without thumbprints and time", accepts: yes, make: func(t *testing.T, s signed) (string, string) {
			e := envelopeOf(t, s.image)
			clearReferrers(t, s.image)
			attachEnvelopes(t, s.image, notation.ArtifactType, nil, e)
			return s.image.Reference(), s.public
		}, why: "the annotations only help to find a signature; the chain is in the envelope"},
		{name: "moved", what: "image and signature copied to another repository", accepts: yes, make: func(t *testing.T, s signed) (string, string) {
			moved := copyImage(t, s)
			replaceEnvelopes(t, moved, envelopeOf(t, s.image))
			return moved.Reference(), s.public
		}, why: "the repository is not signed, so that images can be mirrored; a trust policy says by `registryScopes` where it counts"},
		{name: "moved out of scope", what: "the same, with a trust policy for the first repository", make: func(t *testing.T, s signed) (string, string) {
			moved := copyImage(t, s)
			replaceEnvelopes(t, moved, envelopeOf(t, s.image))
			return moved.Reference(), trust(t, rootOf(t, s.public), s.image.Repository, "*")
		}},
		{name: "bad one beside it", what: "a broken signature beside the good one", accepts: yes, make: func(t *testing.T, s signed) (string, string) {
			e := envelopeOf(t, s.image)
			replaceEnvelopes(t, s.image, e.signature(t), e)
			return s.image.Reference(), s.public
		}, why: "one good signature is enough; a broken one beside it is skipped"},
	}
}

// signedAgo puts a signature of two hours ago in the place of that of an image,
// and returns what verifiers need to trust its CA.
func signedAgo(t *testing.T, s signed, valid time.Duration) string {
	t.Helper()
	e, c := envelopeOf(t, s.image), newChainOf(t, ecKey(elliptic.P256), time.Now().Add(-48*time.Hour), time.Now().AddDate(1, 0, 0))
	e.raw = forge(t, s.image, e.mediaType, c.key, c.certs, time.Now().Add(-2*time.Hour), valid)
	replaceEnvelopes(t, s.image, e)
	return trust(t, c.root(), "*", "*")
}

// envelope is a signature as a referrer holds it.
type envelope struct {
	mediaType   string
	raw         []byte
	annotations map[string]string
}

// envelopeOf returns the one signature of an image.
func envelopeOf(t *testing.T, image devworld.Image) envelope {
	t.Helper()
	list := referrers(t, image)
	if len(list) != 1 {
		t.Fatalf("%s has %d referrers", image.Reference(), len(list))
	}
	img, err := remote.Image(reference(t, image).Digest(list[0].Digest.String()), remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	m, err := img.Manifest()
	if err != nil || len(m.Layers) != 1 {
		t.Fatalf("%+v: %v", m, err)
	}
	return envelope{string(m.Layers[0].MediaType), content(t, img), m.Annotations}
}

func (e envelope) chain(t *testing.T) []*x509.Certificate {
	t.Helper()
	env, err := signature.ParseEnvelope(e.mediaType, e.raw)
	if err != nil {
		t.Fatal(err)
	}
	c, err := env.Content()
	if err != nil {
		t.Fatal(err)
	}
	return c.SignerInfo.CertificateChain
}

// edit changes one part of a JWS, or bytes of a COSE message in their place.
func (e envelope) edit(t *testing.T, part string, decoded bool, old, with []byte) envelope {
	t.Helper()
	if e.mediaType == coseType {
		e.raw = bytes.Replace(e.raw, old, with, 1)
		return e
	}
	var doc map[string]any
	if err := json.Unmarshal(e.raw, &doc); err != nil {
		t.Fatal(err)
	}
	text, ok := doc[part].(string)
	if !ok {
		t.Fatalf("the envelope has no %s", part)
	}
	if decoded {
		b, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		doc[part] = base64.RawURLEncoding.EncodeToString(bytes.Replace(b, old, with, 1))
	} else {
		doc[part] = alterText(text)
	}
	var err error
	if e.raw, err = json.Marshal(doc); err != nil {
		t.Fatal(err)
	}
	return e
}

// payload changes a text of the signed payload to another of the same length.
func (e envelope) payload(t *testing.T, old, with string) envelope {
	t.Helper()
	return e.edit(t, "payload", true, []byte(old), []byte(with))
}

func (e envelope) signature(t *testing.T) envelope {
	t.Helper()
	if e.mediaType == coseType { // the signature is its end
		tail := e.raw[len(e.raw)-16:]
		return e.edit(t, "", false, tail, flipped(tail, 5))
	}
	return e.edit(t, "signature", false, nil, nil)
}

func (e envelope) certificate(t *testing.T) envelope {
	t.Helper()
	leaf := e.chain(t)[0].Raw
	changed := flipped(leaf, len(leaf)-10) // in its signature: it still parses
	if e.mediaType == coseType {
		return e.edit(t, "", false, leaf, changed)
	}
	e.raw = bytes.Replace(e.raw, []byte(base64.StdEncoding.EncodeToString(leaf)), []byte(base64.StdEncoding.EncodeToString(changed)), 1)
	return e
}

func flipped(b []byte, i int) []byte {
	c := bytes.Clone(b)
	c[i] ^= 1
	return c
}

// replaceEnvelopes makes list the signatures of an image, each a referrer.
func replaceEnvelopes(t *testing.T, image devworld.Image, list ...envelope) {
	t.Helper()
	clearReferrers(t, image)
	for _, e := range list {
		attachEnvelopes(t, image, notation.ArtifactType, e.annotations, e)
	}
}

// attachEnvelopes writes one referrer.
func attachEnvelopes(t *testing.T, image devworld.Image, artifactType string, annotations map[string]string, list ...envelope) {
	t.Helper()
	ref := reference(t, image)
	subject, err := remote.Head(ref, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.MediaType(artifactType))
	for _, e := range list {
		if img, err = mutate.Append(img, mutate.Addendum{Layer: static.NewLayer(e.raw, types.MediaType(e.mediaType)), MediaType: types.MediaType(e.mediaType)}); err != nil {
			t.Fatal(err)
		}
	}
	img = mutate.Subject(mutate.Annotations(img, annotations).(v1.Image), *subject).(v1.Image)
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref.Context().Digest(d.String()), img, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// forge signs an image with any key, at any time.
func forge(t *testing.T, image devworld.Image, mediaType string, key crypto.Signer, chain []*x509.Certificate, at time.Time, expiry time.Duration) []byte {
	t.Helper()
	d, err := remote.Head(reference(t, image), remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(map[string]any{"targetArtifact": map[string]any{"mediaType": d.MediaType, "digest": d.Digest.String(), "size": d.Size}})
	if err != nil {
		t.Fatal(err)
	}
	s, err := signature.NewLocalSigner(chain, key)
	if err != nil {
		t.Fatal(err)
	}
	env, err := signature.NewEnvelope(mediaType)
	if err != nil {
		t.Fatal(err)
	}
	req := &signature.SignRequest{Payload: signature.Payload{ContentType: "application/vnd.cncf.notary.payload.v1+json", Content: payload}, Signer: s, SigningTime: at, SigningScheme: signature.SigningSchemeX509}
	if expiry > 0 {
		req.Expiry = at.Add(expiry)
	}
	raw, err := env.Sign(req)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// certified is a key with its certificates.
type certified struct {
	key   crypto.Signer
	certs []*x509.Certificate // leaf first
}

// trustStore is where a configuration folder keeps its root.
const trustStore = "truststore/x509/ca/release-x509/root.crt"

// trust makes a configuration folder of notation.
func trust(t *testing.T, root *x509.Certificate, scope, identity string) string {
	t.Helper()
	policy := fmt.Sprintf(`{"version": "1.0", "trustPolicies": [{"name": "release", "registryScopes": [%q], "signatureVerification": {"level": "strict"}, "trustStores": ["ca:release-x509"], "trustedIdentities": [%q]}]}`, scope, identity)
	return trustFolder(t, root, policy)
}

func trustFolder(t *testing.T, root *x509.Certificate, policy string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(trustStore)), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{trustStore: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}), "trustpolicy.json": []byte(policy)} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func rootOf(t *testing.T, config string) *x509.Certificate {
	t.Helper()
	return readChain(t, filepath.Join(config, trustStore))[0]
}

// notationSigner signs with notation's own library.
func notationSigner(form string) signer {
	return signer{name: "notation-" + form, open: func(t *testing.T, _ string) hand {
		c := newChain(t, ecKey(elliptic.P256))
		key, crt := c.files(t, t.TempDir(), "signer")
		sign := func(ref string) error {
			status, out := run(t, t.TempDir(), tool(t, "notationverify"), "sign", "-key", key, "-certificates", crt, "-format", form, "-expiry", "24h", ref)
			if status != 0 {
				return fmt.Errorf("notationverify sign: exit status %d: %s", status, out)
			}
			return nil
		}
		return hand{sign, trust(t, c.root(), "*", "x509.subject: C=US, ST=WA, O=Acme"), c.key}
	}}
}

// notationService is our service with a key and its certificates. Verifiers get
// the trust policy that the service itself writes for them.
func notationService(name, form string, chain func(*testing.T) certified) signer {
	return signer{name: name, open: func(t *testing.T, host string) hand {
		world := testenv.NewWorld(t, true)
		world.Registry = &devworld.Registry{Host: host} // its issuers, but the registry under test
		step := strings.Replace(testenv.Notation, "options: {", "options: {format: "+form+", ", 1)
		env := testenv.New(t, testenv.Options{World: world, Policy: testenv.PolicySigning(step)})
		c := chain(t)
		c.files(t, env.Dir, "release-x509")
		service := env.Start(nil)
		k, ok := service.Keys.Info("release-x509")
		if !ok {
			t.Fatal("the service has no key release-x509")
		}
		info, err := notation.New(nil).Info(k, nil)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(info.Trust[0].Bytes)
		root, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return hand{jobSigner(t, world, service), trustFolder(t, root, strings.ReplaceAll(info.Snippets["trustpolicy.json"], "REPOSITORY", "*")), c.key}
	}}
}
