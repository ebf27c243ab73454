package registry_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

// world is a registry on loopback, a Client for it, and what went between them.
type world struct {
	*testing.T
	client *registry.Client
	host   string
	repo   signing.Repository

	mu    sync.Mutex
	lines []string        // "GET /v2/..." of every request sent
	naps  []time.Duration // of the retries
	now   time.Time
}

// RoundTrip counts what really leaves.
func (w *world) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	w.lines = append(w.lines, r.Method+" "+r.URL.Path)
	w.mu.Unlock()
	return http.DefaultTransport.RoundTrip(r)
}

// sent returns the requests since the last call.
func (w *world) sent() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.lines
	w.lines = nil
	return out
}

func (w *world) clock() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now }

func (w *world) advance(d time.Duration) { w.mu.Lock(); defer w.mu.Unlock(); w.now = w.now.Add(d) }

// newWorld starts handler and a Client whose row for it is changed by edit.
func newWorld(t *testing.T, handler http.Handler, edit func(*registry.Config)) *world {
	t.Helper()
	w := &world{T: t, now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	w.host = strings.TrimPrefix(s.URL, "http://")
	w.repo = signing.Repository(w.host + "/acme/web")
	row := registry.Config{Host: w.host, InsecureHTTP: true}
	if edit != nil {
		edit(&row)
	}
	var err error
	w.client, err = registry.New([]registry.Config{row}, registry.Options{
		Transport: w, Now: w.clock,
		Sleep: func(ctx context.Context, d time.Duration) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.naps = append(w.naps, d)
			return ctx.Err()
		},
		Env: func(k string) (string, bool) { return "secret", k == "PASSWORD" },
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// ggcrRegistry is go-containerregistry's registry.
func ggcrRegistry(opts ...ggcr.Option) http.Handler {
	return ggcr.New(append(opts, ggcr.Logger(log.New(io.Discard, "", 0)))...)
}

// put writes a manifest past the Client.
func (w *world) put(ref, mediaType string, raw []byte) signing.Digest {
	w.Helper()
	req, _ := http.NewRequest(http.MethodPut, "http://"+w.host+"/v2/acme/web/manifests/"+ref, bytes.NewReader(raw))
	req.Header.Set("Content-Type", mediaType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		w.Fatalf("PUT %s: %s", ref, resp.Status)
	}
	return signing.DigestOf(raw)
}

const imageManifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}`

// image pushes a minimal image at tag v1 and returns it as an artifact.
func (w *world) image() signing.Artifact {
	w.Helper()
	d := w.put("v1", registry.MediaTypeImage, []byte(imageManifest))
	return signing.Artifact{Repository: w.repo, Digest: d, MediaType: registry.MediaTypeImage, Size: int64(len(imageManifest))}
}

// asError returns the *signing.Error in err, which must have the code.
func asError(t *testing.T, err error, code signing.Code) *signing.Error {
	t.Helper()
	var e *signing.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("error = %v, want one of class %s", err, code)
	}
	return e
}

// answering answers every request for a manifest, blob or referrers alike.
func answering(status int, header map[string]string, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for k, v := range header {
			w.Header().Set(k, v)
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func noSleep(ctx context.Context, _ time.Duration) error { return ctx.Err() }

func pemOf(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
