// Package methodtest holds every signing method to the contract of
// method.Method, against registries that run in the test's own process.
package methodtest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

// World is a registry and a client for it, with the wire in between in the
// test's hands.
type World struct {
	Host   string
	Client *registry.Client
	Wire   *Wire
}

// NewWorld starts an empty registry, with or without the referrers API, for the
// length of the test.
func NewWorld(t testing.TB, referrers bool) *World {
	t.Helper()
	srv := httptest.NewServer(ggcr.New(ggcr.WithReferrersSupport(referrers), ggcr.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(srv.Close)
	w := &World{Host: strings.TrimPrefix(srv.URL, "http://"), Wire: &Wire{}}
	c, err := registry.New([]registry.Config{{Host: w.Host, InsecureHTTP: true}}, registry.Options{
		Transport: w.Wire,
		Env:       func(string) (string, bool) { return "", false },
		Sleep:     func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Client = c
	return w
}

// Push writes a random image to repository path and returns it as an artifact,
// without a tag.
func (w *World) Push(t testing.TB, path string) signing.Artifact {
	t.Helper()
	img, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	mt, err := img.MediaType()
	if err != nil {
		t.Fatal(err)
	}
	a := signing.Artifact{Repository: signing.Repository(w.Host + "/" + path), Digest: signing.DigestOf(raw), MediaType: string(mt), Size: int64(len(raw))}
	if err := remote.Write(Reference(t, a), img); err != nil {
		t.Fatal(err)
	}
	return a
}

// Descriptor is what a manifest says of content that Put pushed.
type Descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       signing.Digest    `json:"digest"`
	Size         int64             `json:"size"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Platform     map[string]string `json:"platform,omitempty"`
}

// Blob pushes content to path, and returns its descriptor.
func (w *World) Blob(t testing.TB, path, mediaType, content string) Descriptor {
	t.Helper()
	d := Descriptor{MediaType: mediaType, Digest: signing.DigestOf([]byte(content)), Size: int64(len(content))}
	w.send(t, http.MethodPost, path+"/blobs/uploads/?digest="+string(d.Digest), "application/octet-stream", []byte(content))
	return d
}

// Put pushes a manifest, any, as JSON to path by its digest, and returns it as
// an artifact, and as an entry of an index.
func (w *World) Put(t testing.TB, path, mediaType string, manifest map[string]any) (signing.Artifact, Descriptor) {
	t.Helper()
	manifest["schemaVersion"], manifest["mediaType"] = 2, mediaType
	raw, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	a := signing.Artifact{Repository: signing.Repository(w.Host + "/" + path), Digest: signing.DigestOf(raw), MediaType: mediaType, Size: int64(len(raw))}
	w.send(t, http.MethodPut, path+"/manifests/"+string(a.Digest), mediaType, raw)
	return a, Descriptor{MediaType: mediaType, Digest: a.Digest, Size: a.Size}
}

// Delete removes a manifest.
func (w *World) Delete(t testing.TB, a signing.Artifact) {
	t.Helper()
	w.send(t, http.MethodDelete, a.Repository.Path()+"/manifests/"+string(a.Digest), "", nil)
}

// send goes around the wire that tests break.
func (w *World) send(t testing.TB, method, path, mediaType string, body []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+w.Host+"/v2/"+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusMultipleChoices {
		t.Fatalf("%s %s: %s", method, path, resp.Status)
	}
}

// Reference returns the reference of an artifact by digest for
// go-containerregistry, which tests use to look behind the client's back.
func Reference(t testing.TB, a signing.Artifact) name.Digest {
	t.Helper()
	d, err := name.NewDigest(string(a.Repository) + "@" + string(a.Digest))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Wire carries the requests of a World's client, counts them and can break them.
// The zero value carries everything.
type Wire struct {
	mu      sync.Mutex
	methods []string
	answer  func(*http.Request) *http.Response
	alter   func(*http.Request, []byte) []byte
}

// Answer makes f answer requests from now on; where it returns nil the registry
// does. A nil f ends that.
func (w *Wire) Answer(f func(*http.Request) *http.Response) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = f
}

// Alter makes f change the bodies of good answers, which lose the header that
// names their digest. A nil f ends that.
func (w *Wire) Alter(f func(*http.Request, []byte) []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.alter = f
}

// Writes returns how many of the requests since Reset were neither GET nor HEAD,
// Requests how many there were.
func (w *Wire) Writes() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, m := range w.methods {
		if m != http.MethodGet && m != http.MethodHead {
			n++
		}
	}
	return n
}

// Requests returns the methods of all requests since Reset.
func (w *Wire) Requests() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.methods)
}

// Reset forgets the requests so far.
func (w *Wire) Reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.methods = nil
}

// RoundTrip implements http.RoundTripper.
func (w *Wire) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	w.methods = append(w.methods, r.Method)
	answer, alter := w.answer, w.alter
	w.mu.Unlock()
	if answer != nil {
		if resp := answer(r); resp != nil {
			return resp, nil
		}
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil || alter == nil || resp.StatusCode >= 300 {
		return resp, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	body = alter(r, body)
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	resp.Header.Del("Content-Length")
	resp.Header.Del("Docker-Content-Digest")
	return resp, nil
}

// Status is an answer with a status, an error code of the distribution
// specification, and header fields.
func Status(r *http.Request, status int, code string, header http.Header) *http.Response {
	if header == nil {
		header = http.Header{}
	}
	header.Set("Content-Type", "application/json")
	body := `{"errors":[{"code":"` + code + `"}]}`
	return &http.Response{StatusCode: status, Status: http.StatusText(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: r}
}

// Sign does what the key of the service does with an intent.
func Sign(t testing.TB, s crypto.Signer, in signing.Intent) []byte {
	t.Helper()
	input, opts := in.Bytes, crypto.SignerOpts(in.Hash)
	if in.Hash != 0 {
		h := in.Hash.New()
		h.Write(in.Bytes)
		input = h.Sum(nil)
	}
	if in.Padding == signing.PSS {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: in.Hash}
	}
	raw, err := s.Sign(rand.Reader, input, opts)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
