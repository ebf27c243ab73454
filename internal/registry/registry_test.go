package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

func TestAHostWithoutARowIsDeniedBeforeAnyNetworkAccess(t *testing.T) {
	w := newWorld(t, ggcrRegistry(), nil)
	repo := signing.Repository("127.0.0.1:1/acme/web")
	sub := signing.Artifact{Repository: repo, Digest: signing.DigestOf(nil)}
	calls := map[string]func() error{
		"Resolve":   func() error { _, err := w.client.Resolve(t.Context(), repo, "v1"); return err },
		"Blob":      func() error { _, err := w.client.Blob(t.Context(), repo, registry.Descriptor{}, 1); return err },
		"Referrers": func() error { _, err := w.client.Referrers(t.Context(), repo, sub.Digest, ""); return err },
		"Signed":    func() error { _, err := w.client.Signed(t.Context(), repo, "v1"); return err },
		"Attach": func() error {
			_, err := w.client.Attach(t.Context(), signing.Attachment{Subject: sub, Tag: "x", Layers: []signing.Blob{{MediaType: "a/b"}}})
			return err
		},
	}
	for name, call := range calls {
		if e := asError(t, call(), signing.Denied); !strings.Contains(e.Fix, "registries") {
			t.Errorf("%s: fix = %q", name, e.Fix)
		}
	}
	if n := w.sent(); len(n) != 0 {
		t.Errorf("sent %v", n)
	}
}

func TestResolveAnswersFromTheBytesByTagAndByDigest(t *testing.T) {
	w := newWorld(t, ggcrRegistry(), nil)
	a := w.image()
	want := registry.Descriptor{MediaType: registry.MediaTypeImage, Digest: a.Digest, Size: a.Size, ArtifactType: registry.MediaTypeConfig}
	for _, ref := range []string{"v1", string(a.Digest)} {
		got, err := w.client.Resolve(t.Context(), w.repo, ref)
		if err != nil || got.Digest != want.Digest || got.MediaType != want.MediaType || got.Size != want.Size || got.Annotations != nil {
			t.Errorf("Resolve(%s) = %+v, %v", ref, got, err)
		}
		if n := w.sent(); len(n) != 1 {
			t.Errorf("Resolve(%s) sent %v, want one request", ref, n)
		}
	}
}

func TestADigestThatTheRegistryDoesNotHaveIsNotFound(t *testing.T) {
	w := newWorld(t, ggcrRegistry(), nil)
	w.image()
	none := signing.DigestOf([]byte("none"))
	_, err := w.client.Resolve(t.Context(), w.repo, string(none))
	if e := asError(t, err, signing.NotFound); e.Fix == "" || !strings.Contains(e.Found, "MANIFEST_UNKNOWN") {
		t.Errorf("error = %v", err)
	}
	_, err = w.client.Blob(t.Context(), w.repo, registry.Descriptor{Digest: none, Size: 4}, 10)
	asError(t, err, signing.NotFound)
	_, err = w.client.Signed(t.Context(), w.repo, "sha256-"+none.Hex()+".sig")
	asError(t, err, signing.NotFound)
}

func TestBytesThatDoNotMatchTheDigestAreRefused(t *testing.T) {
	other := strings.Replace(imageManifest, `"layers":[]`, `"layers":[ ]`, 1)
	w := newWorld(t, answering(200, map[string]string{"Content-Type": registry.MediaTypeImage, "Docker-Content-Digest": string(signing.DigestOf([]byte(imageManifest)))}, other), nil)
	for _, ref := range []string{"v1", string(signing.DigestOf([]byte(imageManifest)))} {
		_, err := w.client.Resolve(t.Context(), w.repo, ref)
		if e := asError(t, err, signing.Invalid); e.Expected == "" || e.Found != string(signing.DigestOf([]byte(other))) {
			t.Errorf("%s: error = %v", ref, err)
		}
	}
	_, err := w.client.Blob(t.Context(), w.repo, registry.Descriptor{Digest: signing.DigestOf([]byte("x")), Size: int64(len(other))}, 1<<20)
	asError(t, err, signing.Invalid)
	_, err = w.client.Blob(t.Context(), w.repo, registry.Descriptor{Digest: signing.DigestOf([]byte(other)), Size: int64(len(other)) + 1}, 1<<20)
	asError(t, err, signing.Invalid)
}

func TestEndlessDataA50MBManifestIsTooLargeAndNotRead(t *testing.T) {
	for name, announced := range map[string]bool{"announced": true, "chunked": false} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			written := 0
			w := newWorld(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				rw.Header().Set("Content-Type", registry.MediaTypeImage)
				if announced {
					rw.Header().Set("Content-Length", fmt.Sprint(50<<20))
				}
				chunk := bytes.Repeat([]byte(" "), 64<<10)
				for range 50 << 20 / len(chunk) {
					n, err := rw.Write(chunk)
					mu.Lock()
					written += n
					mu.Unlock()
					if err != nil {
						return
					}
				}
			}), nil)
			_, err := w.client.Resolve(t.Context(), w.repo, "v1")
			asError(t, err, signing.TooLarge)
			mu.Lock()
			defer mu.Unlock()
			// What is beyond the bound is in the buffers of two sockets.
			if written > 30<<20 {
				t.Errorf("%d bytes were taken", written)
			}
		})
	}
	w := newWorld(t, ggcrRegistry(), nil)
	_, err := w.client.Blob(t.Context(), w.repo, registry.Descriptor{Digest: signing.DigestOf(nil), Size: 101}, 100)
	asError(t, err, signing.TooLarge)
	if n := w.sent(); len(n) != 0 {
		t.Errorf("a blob known to be too large was asked for: %v", n)
	}
}

func TestEveryFailureOfARegistryHasItsClassAndNoneReadsAsNone(t *testing.T) {
	for _, c := range []struct {
		name    string
		handler http.HandlerFunc
		code    signing.Code
		after   time.Duration
	}{
		{"401 without challenge", answering(401, nil, ""), signing.Denied, 0},
		{"401 with a challenge that means nothing", answering(401, map[string]string{"WWW-Authenticate": "Negotiate"}, ""), signing.Denied, 0},
		{"401 with a token realm that is missing", answering(401, map[string]string{"WWW-Authenticate": `Bearer service="x"`}, ""), signing.Denied, 0},
		{"403", answering(403, nil, `{"errors":[{"code":"DENIED","message":"<b>no</b>"}]}`), signing.Denied, 0},
		{"429", answering(429, map[string]string{"Retry-After": "30"}, ""), signing.RateLimited, 30 * time.Second},
		{"throttled in other words", answering(400, nil, `{"errors":[{"code":"TOOMANYREQUESTS"}]}`), signing.RateLimited, 0},
		{"500", answering(500, nil, "<html>"), signing.Unavailable, 0},
		{"503 with Retry-After", answering(503, map[string]string{"Retry-After": "9"}, ""), signing.Unavailable, 9 * time.Second},
		{"a truncated body", answering(200, map[string]string{"Content-Type": registry.MediaTypeIndex, "Content-Length": "500"}, imageManifest[:20]), signing.Unavailable, 0},
		{"a redirect of the API", answering(307, map[string]string{"Location": "/elsewhere"}, ""), signing.Denied, 0},
		{"an answer of the wrong kind", answering(204, nil, ""), signing.Unavailable, 0},
		{"a closed connection", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, signing.Unavailable, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.handler, nil)
			sub := signing.Artifact{Repository: w.repo, Digest: signing.DigestOf([]byte(imageManifest)), MediaType: registry.MediaTypeImage, Size: 1}
			check := func(what string, err error) {
				t.Helper()
				if e := asError(t, err, c.code); e.RetryAfter != c.after || strings.Contains(e.Error(), "<") {
					t.Errorf("%s: %v, retry after %v, want %v and no text of the registry", what, e, e.RetryAfter, c.after)
				}
			}
			_, err := w.client.Resolve(t.Context(), w.repo, "v1")
			check("Resolve", err)
			_, err = w.client.Signed(t.Context(), w.repo, "v1")
			check("Signed", err)
			_, err = w.client.Attach(t.Context(), cosignSignature(sub, "a"))
			check("Attach", err)
			if c.name != "an answer of the wrong kind" { // to the referrers API it means "no such API"
				_, err = w.client.Referrers(t.Context(), w.repo, sub.Digest, "")
				check("Referrers", err)
			}
		})
	}
}

func TestARegistryThatNeverAnswersIsUnavailableAtTheDeadline(t *testing.T) {
	stop := make(chan struct{})
	w := newWorld(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-stop }), func(c *registry.Config) {
		c.Timeout = config.Duration(50 * time.Millisecond)
	})
	t.Cleanup(func() { close(stop) }) // before the server closes
	_, err := w.client.Resolve(t.Context(), w.repo, "v1")
	asError(t, err, signing.Unavailable)

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = w.client.Referrers(ctx, w.repo, signing.DigestOf(nil), "")
	asError(t, err, signing.Unavailable)
	if n := w.sent(); len(n) > 2 {
		t.Errorf("a long wait was repeated: %v", n)
	}
}

func TestAReadIsTriedAgainShortlyAndAWriteIsNot(t *testing.T) {
	var mu sync.Mutex
	failures := map[string]int{}
	inner := ggcrRegistry()
	w := newWorld(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		n := failures[r.Method]
		failures[r.Method]--
		mu.Unlock()
		if n > 0 {
			rw.WriteHeader(http.StatusBadGateway)
			return
		}
		inner.ServeHTTP(rw, r)
	}), nil)
	a := w.image()

	failures["GET"] = 2
	if _, err := w.client.Resolve(t.Context(), w.repo, "v1"); err != nil {
		t.Error(err)
	}
	if n := w.sent(); len(n) != 3 || !slices.Equal(w.naps, []time.Duration{100 * time.Millisecond, 400 * time.Millisecond}) {
		t.Errorf("sent %v with pauses %v", n, w.naps)
	}
	failures["GET"] = 3
	_, err := w.client.Resolve(t.Context(), w.repo, "v1")
	asError(t, err, signing.Unavailable)

	w.sent()
	failures["POST"] = 1
	layer := cosignSignature(a, "a")
	_, err = w.client.Attach(t.Context(), layer)
	asError(t, err, signing.Unavailable)
	for _, l := range w.sent() {
		if strings.HasPrefix(l, "PUT") && strings.Contains(l, "/manifests/") {
			t.Errorf("a manifest was written although a blob of it failed: %s", l)
		}
	}
}

func TestALongRetryAfterIsTheCallersToWait(t *testing.T) {
	w := newWorld(t, answering(429, map[string]string{"Retry-After": "3600"}, ""), nil)
	_, err := w.client.Resolve(t.Context(), w.repo, "v1")
	if e := asError(t, err, signing.RateLimited); e.RetryAfter != time.Hour || len(w.naps) != 0 || len(w.sent()) != 1 {
		t.Errorf("retry after %v, slept %v", e.RetryAfter, w.naps)
	}
}

func TestABlobMayComeFromElsewhereButCredentialsDoNotGoThere(t *testing.T) {
	blob := []byte("content")
	d := registry.Descriptor{Digest: signing.DigestOf(blob), Size: int64(len(blob))}
	var mu sync.Mutex
	var far http.Header
	cdn := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		far = r.Header.Clone()
		mu.Unlock()
		if r.URL.Path == "/401" {
			rw.Header().Set("WWW-Authenticate", `Basic realm="give me yours"`)
			rw.WriteHeader(401)
			return
		}
		rw.Write(blob)
	}))
	defer cdn.Close()
	to, near := cdn.URL+"/ok?X-Signature=hidden", ""
	w := newWorld(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if user, pass, _ := r.BasicAuth(); user != "robot" || pass != "secret" {
			rw.Header().Set("WWW-Authenticate", `Basic realm="here"`)
			rw.WriteHeader(401)
			return
		}
		mu.Lock()
		near = r.Header.Get("Authorization")
		mu.Unlock()
		http.Redirect(rw, r, to, http.StatusTemporaryRedirect)
	}), robot)

	got, err := w.client.Blob(t.Context(), w.repo, d, 100)
	if err != nil || !bytes.Equal(got, blob) {
		t.Fatalf("%q, %v", got, err)
	}
	if near == "" || far == nil || far.Get("Authorization") != "" {
		t.Errorf("credentials: registry %q, storage %q", near, far.Get("Authorization"))
	}
	// The storage host cannot ask for them either.
	to = cdn.URL + "/401"
	w.sent()
	_, err = w.client.Blob(t.Context(), w.repo, d, 100)
	asError(t, err, signing.Denied)
	if n := w.sent(); far.Get("Authorization") != "" || len(n) != 2 {
		t.Errorf("credentials sent to storage: %q, requests %q", far.Get("Authorization"), n)
	}
	// What fails there does not show the signed URL.
	to = "http://127.0.0.1:1/?X-Signature=hidden"
	_, err = w.client.Blob(t.Context(), w.repo, d, 100)
	if asError(t, err, signing.Unavailable); strings.Contains(err.Error(), "hidden") {
		t.Errorf("the error shows the signed URL: %v", err)
	}
	// Manifests are not to be had from elsewhere.
	_, err = w.client.Resolve(t.Context(), w.repo, "v1")
	asError(t, err, signing.Denied)
}

// robot configures static credentials.
func robot(c *registry.Config) { c.Username, c.Password = "robot", "env:PASSWORD" }

func TestReferrersAreReadByAPIOverAllPagesAndByFallbackTag(t *testing.T) {
	entry := func(n int, kind string) registry.Descriptor {
		return registry.Descriptor{MediaType: registry.MediaTypeImage, Digest: signing.DigestOf(fmt.Append(nil, n)), Size: 5, ArtifactType: kind}
	}
	index := func(ds ...registry.Descriptor) string {
		raw, _ := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": registry.MediaTypeIndex, "manifests": ds})
		return string(raw)
	}
	sub := signing.DigestOf([]byte("subject"))
	serve := func(rw http.ResponseWriter, body string) {
		rw.Header().Set("Content-Type", registry.MediaTypeIndex)
		io.WriteString(rw, body)
	}
	next := `</v2/acme/web/referrers/` + string(sub) + `?page=2>; rel="next"`
	api := newWorld(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch {
		case !strings.Contains(r.URL.Path, "/referrers/"):
			t.Errorf("asked for %s", r.URL)
		case r.URL.Query().Get("page") == "2":
			serve(rw, index(entry(3, "a"), entry(1, "a")))
		default:
			rw.Header().Set("Link", next)
			serve(rw, index(entry(1, "a"), entry(2, "b")))
		}
	}), nil)
	tag := newWorld(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/manifests/sha256-"+sub.Hex()) {
			serve(rw, index(entry(1, "a"), entry(2, "b"), entry(3, "a")))
			return
		}
		rw.WriteHeader(404)
	}), nil)
	none := newWorld(t, ggcrRegistry(), nil)
	for name, w := range map[string]*world{"api": api, "fallback tag": tag} {
		got, err := w.client.Referrers(t.Context(), w.repo, sub, "a")
		if err != nil || len(got) != 2 || got[0].Digest != entry(1, "").Digest || got[1].Digest != entry(3, "").Digest {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if got, err := w.client.Referrers(t.Context(), w.repo, sub, ""); err != nil || len(got) != 3 {
			t.Errorf("%s, every type: %v, %v", name, got, err)
		}
	}
	if got, err := none.client.Referrers(t.Context(), none.repo, sub, "a"); err != nil || len(got) != 0 {
		t.Errorf("none: %v, %v", got, err)
	}

	next = `<https://evil.example/v2/>; rel=next`
	_, err := api.client.Referrers(t.Context(), api.repo, sub, "a")
	asError(t, err, signing.Denied)
	next = `<?again>; rel="next"`
	_, err = api.client.Referrers(t.Context(), api.repo, sub, "a")
	if asError(t, err, signing.TooLarge); len(api.sent()) > 40 {
		t.Error("endless pages were followed")
	}
}

func TestEndlessSignaturesAreTooLargeNotTruncated(t *testing.T) {
	w := newWorld(t, ggcrRegistry(), nil)
	a := w.image()
	layer := func(size int64) registry.Descriptor {
		return registry.Descriptor{MediaType: registry.MediaTypeSimpleSigning, Digest: signing.DigestOf(nil), Size: size}
	}
	manifest := func(layers []registry.Descriptor) []byte {
		var m map[string]any
		_ = json.Unmarshal([]byte(imageManifest), &m)
		m["layers"] = layers
		raw, _ := json.Marshal(m)
		return raw
	}
	w.put("many", registry.MediaTypeImage, manifest(slices.Repeat([]registry.Descriptor{layer(0)}, registry.MaxLayers+1)))
	_, err := w.client.Signed(t.Context(), w.repo, "many")
	asError(t, err, signing.TooLarge)
	w.put("full", registry.MediaTypeImage, manifest(slices.Repeat([]registry.Descriptor{layer(0)}, registry.MaxLayers)))
	att := cosignSignature(a, "a")
	att.Tag = "full"
	_, err = w.client.Attach(t.Context(), att)
	asError(t, err, signing.TooLarge)
	w.put("large", registry.MediaTypeImage, manifest([]registry.Descriptor{layer(registry.MaxSignature + 1)}))
	_, err = w.client.Signed(t.Context(), w.repo, "large")
	asError(t, err, signing.TooLarge)
}

func TestCheckReportsEveryProblemOfTheRowsAtOnce(t *testing.T) {
	got := registry.Check([]registry.Config{
		{Host: "registry.acme.dev", Connection: registry.Connection{Username: "u", Concurrency: -1, CAFile: "ca.pem"}},
		{Host: "Registry.acme.dev"},
		{Host: "https://registry.acme.dev/x"},
		{Host: "r.acme.dev", InsecureHTTP: true, Connection: registry.Connection{CredentialHelper: "../evil", DockerConfig: "config.json", TokenRealm: []string{"https://ok.acme.dev/token", "nope"}}},
		{Host: "localhost:5000", InsecureHTTP: true},
		{Host: "[::1]:5000", InsecureHTTP: true},
	})
	want := []string{"[0].username", "[0].concurrency", "[0].ca_file", "[1].host", "[2].host", "[3].insecure_http", "[3].host", "[3].docker_config", "[3].credential_helper", "[3].token_realm[1]"}
	var paths []string
	for _, p := range got {
		paths = append(paths, p.Path)
	}
	if !slices.Equal(paths, want) {
		t.Errorf("problems at %q, want %q\n%v", paths, want, got)
	}
	if _, err := registry.New([]registry.Config{{Host: "registry.acme.dev", Connection: registry.Connection{Username: "u", Password: "env:NOT_SET_ANYWHERE"}}}, registry.Options{}); err == nil || !strings.Contains(err.Error(), "NOT_SET_ANYWHERE") {
		t.Errorf("a secret that cannot be read: %v, want it to stop the start", err)
	}
}

func TestMalformedReferencesAreRefusedBeforeAnyNetworkAccess(t *testing.T) {
	w := newWorld(t, ggcrRegistry(), nil)
	for _, ref := range []string{"", "../v1", "v1/../../x", "sha256:abc", "sha512:" + strings.Repeat("a", 128), "v1?x=y", "v1#f", "%2e%2e", ".v1", strings.Repeat("a", 129)} {
		_, err := w.client.Resolve(t.Context(), w.repo, ref)
		asError(t, err, signing.Invalid)
	}
	_, err := w.client.Resolve(t.Context(), signing.Repository(w.host+"/../secret"), "v1")
	asError(t, err, signing.Invalid)
	if n := w.sent(); len(n) != 0 {
		t.Errorf("sent %v", n)
	}
}

func FuzzAReferenceStaysWithinItsRepository(f *testing.F) {
	for _, s := range [][2]string{{"acme/web", "v1"}, {"a", "sha256:" + strings.Repeat("0", 64)}, {"a/../b", "x"}, {"a", "../../_catalog"}, {"a?b", "v1%2f"}, {"a", "v1?digest=x"}} {
		f.Add(s[0], s[1])
	}
	const host = "registry.acme.dev"
	var seen *url.URL
	c, err := registry.New([]registry.Config{{Host: host}}, registry.Options{Transport: transportFunc(func(r *http.Request) (*http.Response, error) {
		seen = r.URL
		return &http.Response{StatusCode: 404, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
	})})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, path, ref string) {
		seen = nil
		_, err := c.Resolve(t.Context(), signing.Repository(host+"/"+path), ref)
		if err == nil {
			t.Fatal("resolved what is not there")
		}
		if seen == nil {
			asError(t, err, signing.Invalid)
			return
		}
		if seen.Scheme != "https" || seen.Host != host || seen.Path != "/v2/"+path+"/manifests/"+ref || seen.RawQuery != "" || seen.Fragment != "" || strings.Contains(seen.Path, "..") && strings.Contains(seen.Path, "/../") {
			t.Errorf("%q, %q was asked for at %s", path, ref, seen)
		}
	})
}
