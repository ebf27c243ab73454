package registry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

// cosignSignature is an attachment of the form that the cosign method makes.
func cosignSignature(a signing.Artifact, sig string) signing.Attachment {
	return signing.Attachment{Subject: a, Tag: "sha256-" + a.Digest.Hex() + ".sig", Layers: []signing.Blob{{
		MediaType:   registry.MediaTypeSimpleSigning,
		Annotations: map[string]string{"dev.cosignproject.cosign/signature": sig},
		Bytes:       fmt.Appendf(nil, `{"critical":{"image":{"docker-manifest-digest":%q}}}`, a.Digest),
	}}}
}

func (w *world) attach(a signing.Attachment) signing.Location {
	w.Helper()
	l, err := w.client.Attach(w.Context(), a)
	if err != nil {
		w.Fatal(err)
	}
	return l
}

// signatures returns the signature annotation of every layer at the tag.
func (w *world) signatures(tag string) []string {
	w.Helper()
	layers, err := w.client.Signed(w.Context(), w.repo, tag)
	if err != nil {
		w.Fatal(err)
	}
	var out []string
	for _, l := range layers {
		out = append(out, l.Annotations["dev.cosignproject.cosign/signature"])
	}
	return out
}

func TestAFreshSignatureIsTheImageThatCosignWritesInSixRequests(t *testing.T) {
	w := newWorld(t, ggcrRegistry(), nil)
	a := w.image()
	att := cosignSignature(a, "sig")
	got := w.attach(att)
	if n := w.sent(); len(n) != 6 || n[0] != "GET /v2/acme/web/manifests/"+att.Tag || n[5] != "PUT /v2/acme/web/manifests/"+att.Tag {
		t.Errorf("sent %d requests: %q", len(n), n)
	}
	if want := (signing.Location{Kind: "tag", URI: string(w.repo) + ":" + att.Tag, Digest: got.Digest}); got != want {
		t.Errorf("location = %+v, want %+v", got, want)
	}

	// cosign's own way of making it, over go-containerregistry.
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	want, err := mutate.Append(base, mutate.Addendum{Layer: static.NewLayer(att.Layers[0].Bytes, registry.MediaTypeSimpleSigning), Annotations: att.Layers[0].Annotations})
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewTag(string(w.repo)+":"+att.Tag, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img, validate.Fast); err != nil {
		t.Error(err)
	}
	wantConfig, _ := want.RawConfigFile()
	haveConfig, err := img.RawConfigFile()
	if err != nil || !bytes.Equal(wantConfig, haveConfig) {
		t.Errorf("config = %s, %v, want %s", haveConfig, err, wantConfig)
	}
	wantManifest, _ := want.Manifest()
	have, err := img.Manifest()
	if diff := cmp.Diff(wantManifest, have); err != nil || diff != "" {
		t.Errorf("manifest differs from cosign's (-want +have), %v:\n%s", err, diff)
	}
	if d, _ := img.Digest(); d.String() != string(got.Digest) {
		t.Errorf("digest = %s, want %s", got.Digest, d)
	}

	layers, err := w.client.Signed(t.Context(), w.repo, att.Tag)
	if err != nil || len(layers) != 1 || !bytes.Equal(layers[0].Bytes, att.Layers[0].Bytes) || layers[0].Digest != signing.DigestOf(att.Layers[0].Bytes) {
		t.Errorf("read back %+v, %v", layers, err)
	}
}

func TestAnEqualLayerIsNotWrittenAgain(t *testing.T) {
	w := newWorld(t, ggcrRegistry(), nil)
	a := w.image()
	first := w.attach(cosignSignature(a, "sig"))
	w.sent()
	if again := w.attach(cosignSignature(a, "sig")); again != first {
		t.Errorf("location = %+v, want %+v", again, first)
	}
	if n := w.sent(); len(n) != 1 || !strings.HasPrefix(n[0], "GET ") {
		t.Errorf("sent %q, want one read", n)
	}
}

func TestASecondSignatureIsAppendedAndSharesThePayload(t *testing.T) {
	w := newWorld(t, ggcrRegistry(), nil)
	a := w.image()
	w.attach(cosignSignature(a, "one"))
	w.sent()
	att := cosignSignature(a, "two")
	w.attach(att)
	if n := w.sent(); len(n) != 4 {
		t.Errorf("sent %q, want one read, one upload and the manifest", n)
	}
	if got := w.signatures(att.Tag); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("signatures = %q", got)
	}
	if n := w.sent(); len(n) != 2 {
		t.Errorf("reading back sent %q, want the manifest and one payload", n)
	}
}

func TestWhatOthersWroteAtTheTagStaysAsItIs(t *testing.T) {
	w := newWorld(t, ggcrRegistry(), nil)
	a := w.image()
	att := cosignSignature(a, "ours")
	// Written by somebody else, with everything that a manifest may hold.
	const foreign = `{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","size":2,"annotations":{"dev.cosignproject.cosign/signature":"theirs","dev.sigstore.cosign/bundle":"{\"a\":1}"},"urls":["https://example.dev/<x>"]}`
	const subject = `{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}`
	var m map[string]json.RawMessage
	_ = json.Unmarshal([]byte(imageManifest), &m)
	m["layers"], m["subject"], m["annotations"] = json.RawMessage("["+foreign+"]"), json.RawMessage(subject), json.RawMessage(`{"by":"them"}`)
	raw, _ := json.Marshal(m)
	w.put(att.Tag, registry.MediaTypeImage, raw)
	w.putBlob([]byte("{}"))
	w.attach(att)

	raw, _, err := w.client.Manifest(t.Context(), w.repo, att.Tag)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Layers               []any
		Subject, Annotations any
	}
	_ = json.Unmarshal(raw, &got)
	want := func(s string) (v any) { _ = json.Unmarshal([]byte(s), &v); return v }
	if len(got.Layers) != 2 || !cmp.Equal(got.Layers[0], want(foreign)) || !cmp.Equal(got.Subject, want(subject)) || !cmp.Equal(got.Annotations, want(`{"by":"them"}`)) {
		t.Errorf("the manifest became %s", raw)
	}
	if got := w.signatures(att.Tag); !slices.Equal(got, []string{"theirs", "ours"}) {
		t.Errorf("signatures = %q", got)
	}
}

// putBlob writes a blob past the Client.
func (w *world) putBlob(b []byte) {
	w.Helper()
	resp, err := http.Post("http://"+w.host+"/v2/acme/web/blobs/uploads/?digest="+string(signing.DigestOf(b)), "application/octet-stream", bytes.NewReader(b))
	if err != nil {
		w.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		w.Fatal(resp.Status)
	}
}

func TestATagThatHoldsSomethingElseIsAConflictAndStays(t *testing.T) {
	w := newWorld(t, ggcrRegistry(), nil)
	a := w.image()
	att := cosignSignature(a, "sig")
	index := []byte(`{"schemaVersion":2,"mediaType":"` + registry.MediaTypeIndex + `","manifests":[]}`)
	helm := []byte(strings.ReplaceAll(imageManifest, "application/vnd.oci.image.config.v1+json", "application/vnd.cncf.helm.config.v1+json"))
	for mediaType, raw := range map[string][]byte{registry.MediaTypeIndex: index, registry.MediaTypeImage: helm} {
		before := w.put(att.Tag, mediaType, raw)
		_, err := w.client.Attach(t.Context(), att)
		asError(t, err, signing.Conflict)
		if d, err := w.client.Resolve(t.Context(), w.repo, att.Tag); err != nil || d.Digest != before {
			t.Errorf("the tag became %+v, %v", d, err)
		}
	}
	ref := referrer(a, "a")
	w.put("sha256-"+a.Digest.Hex(), registry.MediaTypeImage, []byte(imageManifest))
	_, err := w.client.Attach(t.Context(), ref)
	asError(t, err, signing.Conflict)
}

// referrer is an attachment of the form that notation makes.
func referrer(a signing.Artifact, content string) signing.Attachment {
	return signing.Attachment{Subject: a, ArtifactType: "application/vnd.cncf.notary.signature",
		Config:      signing.Blob{MediaType: "application/vnd.cncf.notary.signature", Bytes: []byte("{}")},
		Layers:      []signing.Blob{{MediaType: "application/jose+json", Bytes: []byte(content)}},
		Annotations: map[string]string{"io.cncf.notary.x509chain.thumbprint#S256": "[]"}}
}

// withSubject answers as a registry of the specification 1.1 does.
func withSubject(inner http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/sha256:") {
			var body bytes.Buffer
			_, _ = body.ReadFrom(r.Body)
			var m struct{ Subject registry.Descriptor }
			if json.Unmarshal(body.Bytes(), &m) == nil && m.Subject.Digest != "" {
				w.Header().Set("OCI-Subject", string(m.Subject.Digest))
			}
			r.Body = http.NoBody
			r = r.Clone(r.Context())
			r.Body = readCloser{&body}
		}
		inner.ServeHTTP(w, r)
	})
}

type readCloser struct{ *bytes.Buffer }

func (readCloser) Close() error { return nil }

func TestAReferrerIsFoundByAPIAndNeedsNoFallbackTag(t *testing.T) {
	w := newWorld(t, withSubject(ggcrRegistry(ggcr.WithReferrersSupport(true))), nil)
	a := w.image()
	got := w.attach(referrer(a, "one"))
	if n := w.sent(); len(n) != 7 { // HEAD twice, POST and PUT twice, the manifest
		t.Errorf("sent %d requests: %q", len(n), n)
	}
	w.attach(referrer(a, "two"))
	if n := w.sent(); len(n) != 5 { // the empty config is there
		t.Errorf("the second referrer sent %d requests: %q", len(n), n)
	}
	if want := (signing.Location{Kind: "referrer", URI: string(w.repo) + "@" + string(got.Digest), Digest: got.Digest}); got != want {
		t.Errorf("location = %+v", got)
	}
	list, err := w.client.Referrers(t.Context(), w.repo, a.Digest, "application/vnd.cncf.notary.signature")
	if err != nil || len(list) != 2 {
		t.Errorf("referrers = %+v, %v", list, err)
	}
	if _, err := w.client.Resolve(t.Context(), w.repo, "sha256-"+a.Digest.Hex()); !errors.Is(err, signing.NotFound) {
		t.Errorf("a fallback tag was written: %v", err)
	}
}

func TestTheFallbackIndexKeepsOthersAndHasTheRightArtifactType(t *testing.T) {
	w := newWorld(t, ggcrRegistry(), nil)
	a := w.image()
	one := w.attach(referrer(a, "one"))
	// As a careless writer leaves it: the config's media type as artifactType.
	tag := "sha256-" + a.Digest.Hex()
	raw, _, err := w.client.Manifest(t.Context(), w.repo, tag)
	if err != nil {
		t.Fatal(err)
	}
	w.put(tag, registry.MediaTypeIndex, bytes.ReplaceAll(raw, []byte(`"artifactType":"application/vnd.cncf.notary.signature"`), []byte(`"artifactType":"application/wrong","x-other":1`)))

	two := w.attach(referrer(a, "two"))
	w.attach(referrer(a, "one")) // sets its entry right
	list, err := w.client.Referrers(t.Context(), w.repo, a.Digest, "application/vnd.cncf.notary.signature")
	if err != nil || len(list) != 2 || list[0].Digest != one.Digest || list[1].Digest != two.Digest || list[0].Annotations == nil || list[0].MediaType != registry.MediaTypeImage {
		t.Errorf("referrers = %+v, %v", list, err)
	}
	w.sent()
	w.attach(referrer(a, "one"))
	for _, l := range w.sent() {
		if !strings.HasPrefix(l, "GET ") && !strings.HasPrefix(l, "HEAD ") {
			t.Errorf("what is there already was written again: %s", l)
		}
	}
	// Another implementation sees them too.
	d, _ := name.NewDigest(string(w.repo)+"@"+string(a.Digest), name.Insecure)
	idx, err := remote.Referrers(d, remote.WithFilter("artifactType", "application/vnd.cncf.notary.signature"))
	if err != nil {
		t.Fatal(err)
	}
	if m, err := idx.IndexManifest(); err != nil || len(m.Manifests) != 2 {
		t.Errorf("go-containerregistry sees %+v, %v", m, err)
	}
}

func TestAReferrerOfAnArtifactOfUnknownSizeResolvesItFirst(t *testing.T) {
	w := newWorld(t, withSubject(ggcrRegistry()), nil)
	a := w.image()
	size := a.Size
	a.MediaType, a.Size = "", 0
	got := w.attach(referrer(a, "one"))
	raw, _, err := w.client.Manifest(t.Context(), w.repo, string(got.Digest))
	if err != nil {
		t.Fatal(err)
	}
	m, err := registry.ParseManifest(raw, registry.MediaTypeImage)
	if err != nil || m.Subject == nil || m.Subject.Size != size || m.Subject.MediaType != registry.MediaTypeImage || m.ArtifactType != "application/vnd.cncf.notary.signature" {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestAttachmentsThatCouldNotBeReadBackAreRefusedBeforeAnyNetworkAccess(t *testing.T) {
	w := newWorld(t, ggcrRegistry(), nil)
	a := signing.Artifact{Repository: w.repo, Digest: signing.DigestOf(nil)}
	for name, c := range map[string]struct {
		edit func(*signing.Attachment)
		code signing.Code
	}{
		"no layer":                 {func(a *signing.Attachment) { a.Layers = nil }, signing.Invalid},
		"no media type":            {func(a *signing.Attachment) { a.Layers[0].MediaType = "" }, signing.Invalid},
		"a large payload":          {func(a *signing.Attachment) { a.Layers[0].Bytes = make([]byte, registry.MaxSignature+1) }, signing.Invalid},
		"a larger one":             {func(a *signing.Attachment) { a.Layers[0].Bytes = make([]byte, registry.MaxAttached+1) }, signing.TooLarge},
		"a malformed tag":          {func(a *signing.Attachment) { a.Tag = "a/../b" }, signing.Invalid},
		"neither tag nor type":     {func(a *signing.Attachment) { a.Tag = "" }, signing.Invalid},
		"both tag and type":        {func(a *signing.Attachment) { a.ArtifactType = "x/y" }, signing.Invalid},
		"a malformed digest":       {func(a *signing.Attachment) { a.Subject.Digest = "sha256:x" }, signing.Invalid},
		"a tag and its own config": {func(a *signing.Attachment) { a.Config.Bytes = []byte("{}") }, signing.Invalid},
	} {
		att := cosignSignature(a, "sig")
		c.edit(&att)
		_, err := w.client.Attach(t.Context(), att)
		if !errors.Is(err, c.code) {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	if n := w.sent(); len(n) != 0 {
		t.Errorf("sent %v", n)
	}
}

func TestAnUploadThatLeavesTheHostIsDenied(t *testing.T) {
	for _, location := range []string{"https://evil.example/upload", "//evil.example/upload", "http://u:p@HOST/upload", ""} {
		var mu sync.Mutex
		puts := 0
		w := newWorld(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			switch r.Method {
			case http.MethodPost:
				if location != "" {
					rw.Header().Set("Location", strings.Replace(location, "HOST", r.Host, 1))
				}
				rw.WriteHeader(http.StatusAccepted)
			case http.MethodPut:
				mu.Lock()
				puts++
				mu.Unlock()
			default:
				rw.WriteHeader(http.StatusNotFound)
			}
		}), nil)
		_, err := w.client.Attach(t.Context(), cosignSignature(signing.Artifact{Repository: w.repo, Digest: signing.DigestOf(nil)}, "s"))
		if want := map[bool]signing.Code{true: signing.Unavailable, false: signing.Denied}[location == ""]; !errors.Is(err, want) || puts != 0 {
			t.Errorf("Location %q: %v, %d PUTs", location, err, puts)
		}
	}
}

func TestAnUploadKeepsTheQueryOfItsLocationAndTheSchemeOfTheRow(t *testing.T) {
	inner := ggcrRegistry()
	var mu sync.Mutex
	var queries []string
	w := newWorld(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/uploads/") {
			mu.Lock()
			queries = append(queries, r.URL.RawQuery)
			mu.Unlock()
		}
		if r.Method == http.MethodPost {
			rec := &locationWriter{ResponseWriter: rw, host: r.Host}
			rw = rec
		}
		inner.ServeHTTP(rw, r)
	}), nil)
	w.attach(cosignSignature(w.image(), "sig"))
	if len(queries) != 2 || !strings.HasPrefix(queries[0], "_state=b%2Fc&a&digest=sha256") {
		t.Errorf("queries = %q", queries)
	}
}

// locationWriter gives uploads an absolute https address with a state, as a
// registry behind a proxy does.
type locationWriter struct {
	http.ResponseWriter
	host string
}

func (l *locationWriter) WriteHeader(status int) {
	if at := l.Header().Get("Location"); at != "" {
		l.Header().Set("Location", "https://"+l.host+at+"?_state=b%2Fc&a")
	}
	l.ResponseWriter.WriteHeader(status)
}

func TestARegistryThatStoresOtherBytesIsFoundOut(t *testing.T) {
	inner := ggcrRegistry()
	w := newWorld(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, ".sig") {
			rw.Header().Set("Docker-Content-Digest", string(signing.DigestOf([]byte("other"))))
			rw.WriteHeader(http.StatusCreated)
			return
		}
		inner.ServeHTTP(rw, r)
	}), nil)
	_, err := w.client.Attach(t.Context(), cosignSignature(w.image(), "sig"))
	asError(t, err, signing.Invalid)
}

func TestAnImmutableTagIsAConflictThatSaysWhatToDo(t *testing.T) {
	inner := ggcrRegistry()
	w := newWorld(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, ".sig") {
			rw.WriteHeader(http.StatusPreconditionFailed)
			return
		}
		inner.ServeHTTP(rw, r)
	}), nil)
	_, err := w.client.Attach(t.Context(), cosignSignature(w.image(), "sig"))
	if e := asError(t, err, signing.Conflict); !strings.Contains(e.Fix, "immutability") {
		t.Errorf("error = %v", err)
	}
}

func TestManySubjectsAreWrittenAtTheSameTime(t *testing.T) {
	w := newWorld(t, ggcrRegistry(), nil)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			a := signing.Artifact{Repository: w.repo, Digest: signing.DigestOf(fmt.Append(nil, i))}
			if _, err := w.client.Attach(t.Context(), cosignSignature(a, fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
			if got, err := w.client.Signed(t.Context(), w.repo, "sha256-"+a.Digest.Hex()+".sig"); err != nil || len(got) != 1 {
				t.Errorf("%d: %v, %v", i, got, err)
			}
		})
	}
	wg.Wait()
}
