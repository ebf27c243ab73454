package cosign

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	libcosign "github.com/sigstore/cosign/v2/pkg/cosign"
	cbundle "github.com/sigstore/cosign/v2/pkg/cosign/bundle"
	ociremote "github.com/sigstore/cosign/v2/pkg/oci/remote"
	"github.com/sigstore/cosign/v2/pkg/types"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore/pkg/signature"
	dssesigner "github.com/sigstore/sigstore/pkg/signature/dsse"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/method/methodtest"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

// asBundle is the option that the policy's word `formats: [bundle]` becomes.
func asBundle() map[string]string { return map[string]string{"format": "bundle"} }

// referrer is what cosign makes of a signature in a registry.
type referrer struct {
	ArtifactType string            `json:"artifactType"`
	Config       v1.Descriptor     `json:"config"`
	Layers       []v1.Descriptor   `json:"layers"`
	Subject      v1.Descriptor     `json:"subject"`
	Annotations  map[string]string `json:"annotations"`
}

// referrersOf returns the referrers of a as readers find them.
func referrersOf(t testing.TB, a signing.Artifact) []referrer {
	t.Helper()
	ref := methodtest.Reference(t, a)
	index, err := remote.Referrers(ref)
	if err != nil {
		t.Fatal(err)
	}
	list, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var out []referrer
	for _, d := range list.Manifests {
		got, err := remote.Get(ref.Context().Digest(d.Digest.String()))
		if err != nil {
			t.Fatal(err)
		}
		var r referrer
		if err := json.Unmarshal(got.Manifest, &r); err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func bundleSuite(keys map[string]crypto.Signer) methodtest.Suite {
	var public *ed25519.PublicKey
	return methodtest.Suite{
		New: func(c *registry.Client) method.Method { return New(c) }, Keys: keys, Options: asBundle(),
		Refused: map[string]crypto.PublicKey{"none": nil, "a pointer": public},
		Tags:    true, Rewrite: rewriteBundle,
		Count: func(t testing.TB, a signing.Artifact) int { return len(referrersOf(t, a)) },
	}
}

// rewriteBundle changes a text in both halves of an intent, and keeps the length
// in the bytes right.
func rewriteBundle(in signing.Intent, old, with string) signing.Intent {
	parts := bytes.SplitN(in.Bytes, []byte(" "), 5)
	in.Bytes = encodedBytes(bytes.ReplaceAll(parts[4], []byte(old), []byte(with)))
	if tag, ok := strings.CutPrefix(old, ":"); ok && with == "" {
		in.Replay = bytes.ReplaceAll(in.Replay, []byte(`,"tag":"`+tag+`"`), nil)
	}
	in.Replay = bytes.ReplaceAll(in.Replay, []byte(old), []byte(with))
	return in
}

func TestBundleContract(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	methodtest.Run(t, bundleSuite(map[string]crypto.Signer{"P-256": p256(t), "P-384": p384, "RSA": r, "Ed25519": ed}))
	t.Run("with annotations", func(t *testing.T) {
		s := bundleSuite(map[string]crypto.Signer{"a": p256(t), "b": p256(t)})
		s.Options["annotations"] = "sourceRepositoryURI,sourceRepositoryDigest"
		s.Origin = signing.Origin{SourceRepositoryURI: "https://github.com/acme/<web>&", SourceRepositoryDigest: "abc"}
		methodtest.Run(t, s)
	})
}

// verifyWithLibrary is `cosign verify --key` of an image with bundles.
func verifyWithLibrary(t *testing.T, public crypto.PublicKey, a signing.Artifact) error {
	t.Helper()
	v, err := signature.LoadVerifier(public, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	co := &libcosign.CheckOpts{SigVerifier: v, ClaimVerifier: libcosign.IntotoSubjectClaimVerifier, TrustedMaterial: &root.BaseTrustedMaterial{}, IgnoreTlog: true, IgnoreSCT: true, Offline: true, NewBundleFormat: true}
	_, _, err = libcosign.VerifyImageAttestations(t.Context(), methodtest.Reference(t, a), co)
	return err
}

func TestBundleIsAcceptedByTheLibraryOfCosign(t *testing.T) {
	for _, referrers := range []bool{false, true} {
		w, key := methodtest.NewWorld(t, referrers), p256(t)
		m := New(w.Client)
		target := method.Target{Artifact: w.Push(t, "acme/web"), Key: signing.KeyInfo{ID: "k", Public: key.Public()}, Options: asBundle()}
		signed(t, m, target, key)
		if err := verifyWithLibrary(t, key.Public(), target.Artifact); err != nil {
			t.Errorf("referrers=%t: %v", referrers, err)
		}
		if verifyWithLibrary(t, p256(t).Public(), target.Artifact) == nil {
			t.Error("cosign accepts another key")
		}
		if verifyWithLibrary(t, key.Public(), w.Push(t, "acme/web")) == nil {
			t.Error("cosign accepts another image")
		}
		if n, err := m.VerifyImage(t.Context(), target.Artifact, target.Key); n != 1 || err != nil {
			t.Errorf("%d signatures: %v", n, err)
		}
	}
}

// The library writes the same bundle with the same key and statement: what is in
// the registry differs in the time of writing alone, and in spaces.
func TestBundleIsAttachedAsCosignDoesIt(t *testing.T) {
	w, key := methodtest.NewWorld(t, false), p256(t)
	m := New(w.Client)
	target := method.Target{Artifact: w.Push(t, "acme/web"), Key: signing.KeyInfo{ID: "k", Public: key.Public()}, Options: asBundle()}
	e := signed(t, m, target, key)

	twin := w.Push(t, "acme/web")
	statement, err := encodeStatement(twin.Digest, nil)
	if err != nil {
		t.Fatal(err)
	}
	sv, err := signature.LoadSignerVerifier(key, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := dssesigner.WrapSigner(sv, types.IntotoPayloadType).SignMessage(bytes.NewReader(statement))
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := cbundle.MakeNewBundle(key.Public(), nil, statement, envelope, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := ociremote.WriteAttestationNewBundleFormat(methodtest.Reference(t, twin), theirs, types.CosignSignPredicateType); err != nil {
		t.Fatal(err)
	}
	shape := func(raw []byte) (out map[string]any) {
		if err := json.Unmarshal(raw, &out); err != nil {
			t.Fatal(err)
		}
		d := out["dsseEnvelope"].(map[string]any)
		d["payload"], d["signatures"].([]any)[0].(map[string]any)["sig"] = "", ""
		return out
	}
	if diff := cmp.Diff(shape(theirs), shape(e.Bytes)); diff != "" {
		t.Errorf("another bundle: %s", diff)
	}
	a, b := referrersOf(t, target.Artifact), referrersOf(t, twin)
	if len(a) != 1 || len(b) != 1 {
		t.Fatalf("%d and %d referrers", len(a), len(b))
	}
	delete(b[0].Annotations, "org.opencontainers.image.created")
	b[0].Config.ArtifactType = "" // has no meaning there
	for _, r := range []*referrer{&a[0], &b[0]} {
		r.Subject.Digest, r.Subject.Size, r.Layers[0].Digest, r.Layers[0].Size = v1.Hash{}, 0, v1.Hash{}, 0
	}
	if diff := cmp.Diff(b[0], a[0]); diff != "" {
		t.Error(diff)
	}
	// A bundle that cosign made counts for those who verify.
	if n, err := m.VerifyImage(t.Context(), twin, target.Key); n != 1 || err != nil {
		t.Errorf("%d signatures: %v", n, err)
	}
}

func TestStatementSaysThatItIsASignatureAndNothingElse(t *testing.T) {
	digest := signing.DigestOf([]byte("manifest"))
	target := method.Target{Artifact: signing.Artifact{Repository: "registry.acme.dev/web", Digest: digest, Tag: "v1"}, Options: asBundle()}
	target.Options["annotations"] = "sourceRepositoryRef,buildTrigger"
	target.Origin = signing.Origin{SourceRepositoryRef: "refs/heads/main", BuildTrigger: "push"}
	got, err := statementFor(target)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"` + digest.Hex() + `"},"annotations":{"buildTrigger":"push","sourceRepositoryRef":"refs/heads/main"}}],"predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{}}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	target.Origin.BuildTrigger = ""
	if _, err := statementFor(target); !errors.Is(err, signing.Denied) {
		t.Errorf("an annotation without a value: %v", err)
	}
	target.Origin.BuildTrigger = strings.Repeat("x", MaxPayload)
	if _, err := statementFor(target); !errors.Is(err, signing.TooLarge) {
		t.Errorf("an endless annotation: %v", err)
	}
}

const goodStatement = `{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"d34db33fd34db33fd34db33fd34db33fd34db33fd34db33fd34db33fd34db33f"},"annotations":{"buildTrigger":"push"}}],"predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{}}`

const goodPlace = `{"repository":"registry.acme.dev/web","tag":"v1"}`

// bundleIntents are intents that say nearly what a good one says.
func bundleIntents() map[string]signing.Intent {
	swap := func(in, old, with string) string {
		if !strings.Contains(in, old) {
			panic(old)
		}
		return strings.Replace(in, old, with, 1)
	}
	out := map[string]signing.Intent{}
	for name, s := range map[string]string{
		"nothing":                 "",
		"null":                    "null",
		"another predicate":       swap(goodStatement, "sigstore.dev/cosign/sign/v1", "slsa.dev/provenance/v1"),
		"an older predicate":      swap(goodStatement, "sign/v1", "attest/v1"),
		"a predicate with words":  swap(goodStatement, `"predicate":{}`, `"predicate":{"approved":true}`),
		"no predicate":            swap(goodStatement, `,"predicate":{}`, ``),
		"an older statement":      swap(goodStatement, "Statement/v1", "Statement/v0.1"),
		"a second subject":        swap(goodStatement, `}],"predicateType`, `},{"digest":{"sha256":"0000000000000000000000000000000000000000000000000000000000000000"}}],"predicateType`),
		"no subject":              swap(goodStatement, `[{"digest":{"sha256":"d34db33fd34db33fd34db33fd34db33fd34db33fd34db33fd34db33fd34db33f"},"annotations":{"buildTrigger":"push"}}]`, `[]`),
		"a second digest":         swap(goodStatement, `"sha256":`, `"sha1":"00","sha256":`),
		"another algorithm":       swap(goodStatement, `"sha256":`, `"sha512":`),
		"digest in upper case":    swap(goodStatement, "d34db33f", "D34DB33F"),
		"digest twice":            swap(goodStatement, `"sha256":`, `"sha256":"0000000000000000000000000000000000000000000000000000000000000000","sha256":`),
		"subject twice":           swap(goodStatement, `"subject"`, `"subject":[],"subject"`),
		"a name":                  swap(goodStatement, `{"digest"`, `{"name":"web","digest"`),
		"an unknown key":          swap(goodStatement, `"predicateType"`, `"extra":1,"predicateType"`),
		"another case of a key":   swap(goodStatement, `"predicateType"`, `"PredicateType"`),
		"an unknown annotation":   swap(goodStatement, "buildTrigger", "approved"),
		"an annotation of number": swap(goodStatement, `"push"`, `1`),
		"an empty annotation":     swap(goodStatement, `"push"`, `""`),
		"no annotation, written":  swap(goodStatement, `{"buildTrigger":"push"}`, `{}`),
		"a space":                 swap(goodStatement, `:[`, `: [`),
		"something behind":        goodStatement + " ",
		"an escape":               swap(goodStatement, "push", `pus\u0068`),
		"too large":               swap(goodStatement, "push", strings.Repeat("x", MaxPayload)),
	} {
		out[name] = signing.Intent{Bytes: encodedBytes([]byte(s)), Replay: []byte(goodPlace)}
	}
	for name, b := range map[string]string{
		"another payload type":  strings.Replace(string(encodedBytes([]byte(goodStatement))), "in-toto", "in-tOtO", 1),
		"another version":       strings.Replace(string(encodedBytes([]byte(goodStatement))), "DSSEv1 28", "DSSEv1 028", 1),
		"another length":        strings.Replace(string(encodedBytes([]byte(goodStatement))), fmt.Sprint(" ", len(goodStatement), " "), fmt.Sprint(" ", len(goodStatement)+1, " "), 1),
		"bytes after the end":   string(encodedBytes([]byte(goodStatement))) + "\n",
		"the statement alone":   goodStatement,
		"nothing but the start": "DSSEv1 ",
	} {
		out[name] = signing.Intent{Bytes: []byte(b), Replay: []byte(goodPlace)}
	}
	for name, p := range map[string]string{
		"no place": "", "a place with more": `{"repository":"registry.acme.dev/web","tag":"v1","x":1}`, "a place with a space": goodPlace + " ",
		"no repository": `{"repository":""}`, "a repository without host": `{"repository":"web"}`, "a tag that is none": `{"repository":"registry.acme.dev/web","tag":"-"}`,
	} {
		out[name] = signing.Intent{Bytes: encodedBytes([]byte(goodStatement)), Replay: []byte(p)}
	}
	return out
}

func TestStatementInAnyOtherFormIsRefusedByInspect(t *testing.T) {
	m := New(nil)
	said, err := m.Inspect(signing.Intent{Bytes: encodedBytes([]byte(goodStatement)), Replay: []byte(goodPlace)})
	want := signing.Statement{Repository: "registry.acme.dev/web", Digest: "sha256:d34db33fd34db33fd34db33fd34db33fd34db33fd34db33fd34db33fd34db33f", Tag: "v1"}
	if err != nil || !reflect.DeepEqual(said, want) {
		t.Fatalf("got %+v, %v", said, err)
	}
	for name, in := range bundleIntents() {
		if said, err := m.Inspect(in); !errors.Is(err, signing.Denied) {
			t.Errorf("%s: %+v, %v", name, said, err)
		}
	}
}

func FuzzInspectAcceptsOnlyTheStatementsItWouldMake(f *testing.F) {
	f.Add(encodedBytes([]byte(goodStatement)), []byte(goodPlace))
	for _, in := range bundleIntents() {
		f.Add(in.Bytes, in.Replay)
	}
	m := New(nil)
	f.Fuzz(func(t *testing.T, signed, replay []byte) {
		said, err := m.Inspect(signing.Intent{Bytes: signed, Replay: replay})
		if err != nil {
			if !errors.Is(err, signing.Denied) {
				t.Fatalf("got %v", err)
			}
			return
		}
		if !bytes.HasPrefix(signed, []byte(encoded)) {
			return // the other form has a fuzzer of its own
		}
		// An independent reader finds the same digest, and nothing but a signature.
		_, rest, _ := bytes.Cut(signed, []byte(types.IntotoPayloadType+" "))
		_, inner, _ := bytes.Cut(rest, []byte(" "))
		var s struct {
			Subject []struct {
				Digest map[string]string
			}
			PredicateType string
			Predicate     map[string]any
		}
		if err := json.Unmarshal(inner, &s); err != nil || len(s.Subject) != 1 || "sha256:"+s.Subject[0].Digest["sha256"] != string(said.Digest) || s.PredicateType != types.CosignSignPredicateType || len(s.Predicate) > 0 {
			t.Fatalf("%q says something else than %+v", signed, said)
		}
	})
}

func FuzzBundleIsRefusedOrTheOneThatWasMade(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	m := New(nil)
	target := method.Target{Artifact: signing.Artifact{Repository: "registry.acme.dev/web", Digest: signing.DigestOf(nil)}, Key: signing.KeyInfo{ID: "k", Public: key.Public()}, Options: asBundle()}
	target.Offline = true
	p, err := m.Prepare(f.Context(), target, time.Now())
	if err != nil {
		f.Fatal(err)
	}
	e, err := m.Assemble(target, *p.Intent, methodtest.Sign(f, key, *p.Intent))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(e.Bytes)
	f.Add([]byte(`{"mediaType":"` + BundleType + `","dsseEnvelope":{}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c := e
		c.Bytes = raw
		if a, err := m.Attachment(target, c); err == nil && !bytes.Equal(a.Layers[0].Bytes, e.Bytes) {
			t.Fatalf("accepted %q", raw)
		}
	})
}

func TestBundleOptionsAreChecked(t *testing.T) {
	key := signing.KeyInfo{ID: "k", Public: p256(t).Public()}
	for _, o := range []map[string]string{{"format": "legacy"}, {"format": ""}, {"format": "bundle", "annotations": "x"}, {"format": "bundle", "x": "y"}} {
		if _, err := New(nil).Info(key, o); !errors.Is(err, signing.Invalid) {
			t.Errorf("%v: %v", o, err)
		}
	}
	info, err := New(nil).Info(key, asBundle())
	if err != nil || len(info.Trust) != 2 || !strings.Contains(info.Snippets["cosign 2"], "--trusted-root "+info.Trust[1].Name) {
		t.Errorf("%+v, %v", info, err)
	}
	if _, there := info.Snippets["policy.json"]; there {
		t.Error("containers/image is told to verify bundles, which it does not see")
	}
	if _, err := root.NewTrustedRootFromJSON(info.Trust[1].Bytes); err != nil {
		t.Error(err)
	}
}
