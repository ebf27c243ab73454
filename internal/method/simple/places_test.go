package simple_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/method/simple"
	"github.com/sealwright/sealwright/internal/method/simple/simpletest"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

// extension is a registry with OpenShift's extension: names are given once, and
// have the digest of the path.
type extension struct {
	mu    sync.Mutex
	lists map[string][]json.RawMessage // guarded by mu; by path
	names map[string]bool              // guarded by mu
}

func (e *extension) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := strings.LastIndex(r.URL.Path, "/signatures/")
	if !strings.HasPrefix(r.URL.Path, "/extensions/v2/") || i < 0 {
		http.NotFound(w, r)
		return
	}
	at := r.URL.Path[i+len("/signatures/"):]
	switch r.Method {
	case http.MethodGet:
		list := e.lists[r.URL.Path]
		if list == nil {
			list = []json.RawMessage{}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"signatures": list})
	case http.MethodPut:
		raw, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		var s struct {
			SchemaVersion int
			Name, Type    string
			Content       []byte
		}
		if err != nil || json.Unmarshal(raw, &s) != nil || s.SchemaVersion != 2 || s.Type != "atomic" || len(s.Content) == 0 || !strings.HasPrefix(s.Name, at+"@") || len(s.Name) != len(at)+33 {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if e.names[s.Name] {
			w.WriteHeader(http.StatusConflict)
			return
		}
		e.names[s.Name] = true
		e.lists[r.URL.Path] = append(e.lists[r.URL.Path], raw)
		w.WriteHeader(http.StatusCreated)
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

func openShift(t *testing.T) (simple.Target, signing.Artifact) {
	t.Helper()
	srv := httptest.NewServer(&extension{lists: map[string][]json.RawMessage{}, names: map[string]bool{}})
	t.Cleanup(srv.Close)
	return simple.NewOpenShift(registryOf(t, srv.URL)), signing.Artifact{Repository: signing.Repository(strings.TrimPrefix(srv.URL, "http://") + "/payments/web"), Digest: digest}
}

func registryOf(t *testing.T, url string) *registry.Client {
	t.Helper()
	c, err := registry.New([]registry.Config{{Host: strings.TrimPrefix(url, "http://"), InsecureHTTP: true}}, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var image = signing.Artifact{Repository: "registry.acme.dev/payments/web", Digest: digest}

func web(t *testing.T, row simple.Config) simple.Target {
	t.Helper()
	row.Prefix, row.Type, row.InsecureHTTP = "registry.acme.dev", simple.TypeWeb, true
	target, err := simple.Open(row, simple.Options{Now: now, Env: func(n string) (string, bool) { return "secret-" + n, true }})
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// targets are the places, each with an image that can have signatures there.
func targets(t *testing.T) map[string]func() (simple.Target, signing.Artifact) {
	return map[string]func() (simple.Target, signing.Artifact){
		"own": func() (simple.Target, signing.Artifact) {
			return simple.NewOwn(&simpletest.Memory{}, "https://sign.acme.dev"), image
		},
		"folder": func() (simple.Target, signing.Artifact) {
			f, err := simple.OpenFolder(t.TempDir(), "")
			if err != nil {
				t.Fatal(err)
			}
			return f, image
		},
		"http": func() (simple.Target, signing.Artifact) {
			return web(t, simple.Config{URL: simpletest.NewWeb(t).URL + "/s"}), image
		},
		"openshift": func() (simple.Target, signing.Artifact) { return openShift(t) },
	}
}

func TestWritersAtOnceLoseNothingAndEqualSignaturesMeet(t *testing.T) {
	for name, make := range targets(t) {
		target, a := make()
		if list, err := target.Read(t.Context(), a); err != nil || len(list) != 0 {
			t.Errorf("%s: %+v, %v", name, list, err)
		}
		var wait sync.WaitGroup
		for i := range 16 {
			wait.Go(func() { // each signature twice
				if _, err := target.Add(t.Context(), a, []byte{'s', byte(i / 2)}); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		wait.Wait()
		list, err := target.Read(t.Context(), a)
		if err != nil {
			t.Fatal(name, err)
		}
		seen := map[string]int{}
		for _, s := range list {
			seen[string(s.Bytes)]++
			if s.Location.Kind != simple.Kind || s.Location.Digest != signing.DigestOf(s.Bytes) {
				t.Errorf("%s: %+v", name, s.Location)
			}
		}
		if len(seen) != 8 {
			t.Errorf("%s: %d of 8 signatures are there", name, len(seen))
		}
		again, err := target.Add(t.Context(), a, list[0].Bytes)
		after, _ := target.Read(t.Context(), a)
		if err != nil || again != list[0].Location || len(after) != len(list) {
			t.Errorf("%s: an equal signature is added again: %+v, %v", name, again, err)
		}
	}
}

func TestMoreSignaturesThanVerifiersReadAreRefused(t *testing.T) {
	for name, make := range targets(t) {
		target, a := make()
		for i := range simple.MaxSignatures {
			if _, err := target.Add(t.Context(), a, fmt.Appendf(nil, "signature %d", i)); err != nil {
				t.Fatal(name, err)
			}
		}
		if _, err := target.Add(t.Context(), a, []byte("one more")); !errors.Is(err, signing.TooLarge) {
			t.Errorf("%s: %v", name, err)
		}
		if list, err := target.Read(t.Context(), a); err != nil || len(list) != simple.MaxSignatures {
			t.Errorf("%s: %d signatures, %v", name, len(list), err)
		}
	}
	w := simpletest.NewWeb(t)
	for n := 1; n <= simple.MaxSignatures+1; n++ { // somebody else filled it
		w.Set(fmt.Sprintf("/%s/signature-%d", simple.Path(image), n), []byte("x"))
	}
	if _, err := web(t, simple.Config{URL: w.URL}).Read(t.Context(), image); !errors.Is(err, signing.TooLarge) {
		t.Errorf("a list without end: %v", err)
	}
}

func TestGapEndsTheListAndIsFilled(t *testing.T) {
	dir := t.TempDir()
	folder, err := simple.OpenFolder(dir, "https://sigs.acme.dev")
	if err != nil {
		t.Fatal(err)
	}
	w := simpletest.NewWeb(t)
	behind := filepath.Join(dir, filepath.FromSlash(simple.Path(image)), "signature-2")
	if err := os.MkdirAll(filepath.Dir(behind), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(behind, []byte("behind"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.Set("/"+simple.Path(image)+"/signature-2", []byte("behind"))
	for name, target := range map[string]simple.Target{"folder": folder, "http": web(t, simple.Config{URL: w.URL})} {
		if list, err := target.Read(t.Context(), image); err != nil || len(list) != 0 {
			t.Errorf("%s: %+v, %v", name, list, err)
		}
		if _, err := target.Add(t.Context(), image, []byte("first")); err != nil {
			t.Fatal(name, err)
		}
		if list, err := target.Read(t.Context(), image); err != nil || len(list) != 2 || string(list[1].Bytes) != "behind" {
			t.Errorf("%s: %+v, %v", name, list, err)
		}
	}
}

func TestPlaceThatDoesNotAnswerAsExpectedIsNeverEmpty(t *testing.T) {
	elsewhere := simpletest.NewWeb(t)
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   signing.Code
	}{
		"403":        {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, signing.Denied},
		"401":        {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }, signing.Denied},
		"410":        {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) }, signing.Invalid},
		"429":        {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) }, signing.RateLimited},
		"500":        {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, signing.Unavailable},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) }, signing.Denied},
		"a huge answer": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(bytes.Repeat([]byte{'x'}, simple.MaxSignature+1))
		}, signing.TooLarge},
		"a broken answer": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte("x"))
		}, signing.Unavailable},
	} {
		srv := httptest.NewServer(c.answer)
		target := web(t, simple.Config{URL: srv.URL})
		_, read := target.Read(t.Context(), image)
		_, added := target.Add(t.Context(), image, []byte("s"))
		for what, err := range map[string]error{"Read": read, "Add": added} {
			if signing.CodeOf(err) != c.want {
				t.Errorf("%s: %s: %v, want %s", name, what, err, c.want)
			}
		}
		a := image
		a.Repository = signing.Repository(strings.TrimPrefix(srv.URL, "http://") + "/payments/web")
		if _, err := simple.NewOpenShift(registryOf(t, srv.URL)).Read(t.Context(), a); err == nil {
			t.Errorf("%s: an extension that answers so is empty", name)
		}
		srv.Close()
	}
	if len(elsewhere.Files()) > 0 {
		t.Error("a redirect was followed")
	}
}

func TestExtensionListsThatCannotBeBelievedAreRefused(t *testing.T) {
	for name, body := range map[string]string{
		"no JSON":               "hello",
		"another digest's":      `{"signatures":[{"schemaVersion":2,"type":"atomic","name":"sha256:00@a","content":"eA=="}]}`,
		"a huge signature":      `{"signatures":[{"schemaVersion":2,"type":"atomic","name":"` + digest + `@a","content":"` + strings.Repeat("eHh4", simple.MaxSignature/3+10) + `"}]}`,
		"a list without end":    `{"signatures":[` + strings.TrimSuffix(strings.Repeat(`{"schemaVersion":2,"type":"atomic","name":"`+digest+`@a","content":"eA=="},`, simple.MaxSignatures+1), ",") + `]}`,
		"more than it may have": `{"signatures":[` + strings.Repeat(" ", registry.MaxSignatureList) + `]}`,
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }))
		a := image
		a.Repository = signing.Repository(strings.TrimPrefix(srv.URL, "http://") + "/payments/web")
		if list, err := simple.NewOpenShift(registryOf(t, srv.URL)).Read(t.Context(), a); err == nil {
			t.Errorf("%s: %d signatures", name, len(list))
		}
		srv.Close()
	}
}

func TestCredentialsGoWhereTheServiceWritesAndNowhereElse(t *testing.T) {
	var mu sync.Mutex
	sent := map[string]string{}
	inner := simpletest.NewWeb(t)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		sent[strings.Split(r.URL.Path, "/")[1]] += r.Header.Get("Authorization")
		mu.Unlock()
		r.URL.Path = "/" + strings.SplitN(r.URL.Path, "/", 3)[2]
		inner.ServeHTTP(w, r)
	}))
	defer srv.Close()
	for _, row := range []simple.Config{{Username: "env:USER", Password: "env:PASSWORD"}, {Token: "env:TOKEN"}} {
		row.URL, row.ReadURL = srv.URL+"/write", srv.URL+"/read"
		target := web(t, row)
		at, err := target.Add(t.Context(), image, []byte("s"))
		if err != nil || !strings.HasPrefix(at.URI, srv.URL+"/read/payments/web@sha256=") {
			t.Fatalf("%+v, %v", at, err)
		}
		if _, err := target.Read(t.Context(), image); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(sent["write"], "Basic ") || !strings.Contains(sent["write"], "Bearer secret-TOKEN") || sent["read"] != "" {
		t.Errorf("%v", sent)
	}
	if _, err := simple.Open(simple.Config{Prefix: "registry.acme.dev", Type: simple.TypeWeb, URL: "https://sigs.acme.dev", Token: "env:NONE"}, simple.Options{Env: func(string) (string, bool) { return "", false }}); !errors.Is(err, signing.Invalid) {
		t.Errorf("without its credential: %v", err)
	}
}

func TestFolderIsNotLeftAndLeavesNothingHalfWritten(t *testing.T) {
	dir := t.TempDir()
	outside := t.TempDir()
	folder, err := simple.OpenFolder(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "payments")); err != nil {
		t.Fatal(err)
	}
	if _, err := folder.Add(t.Context(), image, []byte("s")); !errors.Is(err, signing.Unavailable) {
		t.Errorf("a link out of the folder is followed: %v", err)
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
	other := image
	other.Repository = "registry.acme.dev/shop/web"
	if _, err := folder.Add(t.Context(), other, []byte("s")); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(filepath.Join(dir, filepath.FromSlash(simple.Path(other))))
	if err != nil || len(files) != 1 || files[0].Name() != "signature-1" {
		t.Errorf("%v, %v", files, err)
	}
	if _, err := simple.OpenFolder(filepath.Join(dir, "none"), ""); !errors.Is(err, signing.Invalid) {
		t.Errorf("a folder that is not there: %v", err)
	}
}

func TestServerThatIgnoresConditionsNeedsToBeDeclared(t *testing.T) {
	w := simpletest.NewWeb(t)
	w.Unconditional = true
	if _, err := web(t, simple.Config{URL: w.URL, SingleWriter: true}).Add(t.Context(), image, []byte("s")); err != nil {
		t.Error(err)
	}
	strict := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && r.Header.Get("If-None-Match") != "*" {
			rw.WriteHeader(http.StatusPreconditionRequired)
			return
		}
		w.ServeHTTP(rw, r)
	}))
	defer strict.Close()
	if _, err := web(t, simple.Config{URL: strict.URL}).Add(t.Context(), image, []byte("t")); err != nil {
		t.Errorf("the condition is not sent: %v", err)
	}
	if _, err := web(t, simple.Config{URL: strict.URL, SingleWriter: true}).Add(t.Context(), image, []byte("u")); !errors.Is(err, signing.Invalid) {
		t.Errorf("the condition is sent to a server that is declared: %v", err)
	}
}

func TestRowsThatMakeNoSenseAreRefused(t *testing.T) {
	good := simple.Config{Prefix: "registry.acme.dev/payments", Type: simple.TypeWeb, URL: "https://sigs.acme.dev/p"}
	s3 := simple.Config{Prefix: "registry.acme.dev", Type: simple.TypeS3, URL: "https://s3.acme.dev", ReadURL: "https://b.s3.acme.dev", Bucket: "bucket", Username: "env:A", Password: "env:B"}
	if err := simple.Check([]simple.Config{good, s3, {Prefix: "quay.acme.dev:8443", Type: simple.TypeOwn}, {Prefix: "os.acme.dev", Type: simple.TypeOpenShift}, {Prefix: "f.acme.dev", Type: simple.TypeFolder, Folder: "/srv/sigs"}}).Err(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*simple.Config){
		"[0].prefix":        func(c *simple.Config) { c.Prefix = "*.acme.dev" },
		"[0].prefix: must":  func(c *simple.Config) { c.Prefix = "registry.acme.dev/../x" },
		"[0].type":          func(c *simple.Config) { c.Type = "ftp" },
		"[0].url: is miss":  func(c *simple.Config) { c.URL = "" },
		"[0].url: must":     func(c *simple.Config) { c.URL = "https://user:secret@sigs.acme.dev" },
		"[0].url: plain":    func(c *simple.Config) { c.URL, c.InsecureHTTP = "http://sigs.acme.dev", true },
		"[0].read_url":      func(c *simple.Config) { c.ReadURL = "https://sigs.acme.dev/?a=b" },
		"[0].bucket":        func(c *simple.Config) { c.Bucket = "b" },
		"[0].username":      func(c *simple.Config) { c.Username = "env:A" },
		"[0].token":         func(c *simple.Config) { c.Token, c.Username, c.Password = "env:A", "env:A", "env:B" },
		"[0].ca_file":       func(c *simple.Config) { c.CAFile = "ca.pem" },
		"[0].url: is the":   func(c *simple.Config) { *c = s3; c.URL += "/bucket" },
		"[0].path":          func(c *simple.Config) { *c = s3; c.Path = "a/../b" },
		"[0].password":      func(c *simple.Config) { *c = s3; c.Password = "" },
		"[0].bucket: is no": func(c *simple.Config) { *c = s3; c.Bucket = "../b" },
	} {
		c := good
		change(&c)
		if err := simple.Check([]simple.Config{c}).Err(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	mixed := good
	mixed.Prefix = "quay.acme.dev"
	if err := simple.Check([]simple.Config{good, mixed}).Err(); err == nil || !strings.Contains(err.Error(), "another registry") {
		t.Errorf("two registries in one place: %v", err)
	}
	if err := simple.Check([]simple.Config{good, good}).Err(); err == nil || !strings.Contains(err.Error(), "row already") {
		t.Errorf("one prefix twice: %v", err)
	}
	var c struct {
		Lookasides []simple.Config `yaml:"lookasides"`
	}
	if err := config.Decode("f", []byte("lookasides:\n  - {prefix: a.dev, type: http, password: plain}\n"), &c); err == nil {
		t.Error("a password that is written out is taken")
	}
}

func TestTheLongestPrefixByWholeComponentsDecides(t *testing.T) {
	a, b := simpletest.NewWeb(t), simpletest.NewWeb(t)
	m := open(t, []simple.Config{
		{Prefix: "registry.acme.dev", Type: simple.TypeWeb, URL: a.URL, InsecureHTTP: true},
		{Prefix: "Registry.acme.dev/payments", Type: simple.TypeWeb, URL: b.URL, InsecureHTTP: true},
	}, simple.Options{Own: &simpletest.Memory{}, URL: "https://sign.acme.dev"})
	k := ec(t, nil)
	for repository, want := range map[signing.Repository]string{
		"registry.acme.dev/payments/web": b.URL, "registry.acme.dev/payments": b.URL, "registry.acme.dev/paymentsx/web": a.URL, "registry.acme.dev/shop": a.URL, "other.acme.dev/payments/web": "https://sign.acme.dev/lookaside/other.acme.dev",
	} {
		tg := target(key(t, k, 0))
		tg.Artifact.Repository = repository
		at, err := m.Publish(t.Context(), tg, envelope(t, m, tg, k, at))
		if err != nil || !strings.HasPrefix(at[0].URI, want+"/") {
			t.Errorf("%s: %+v, %v", repository, at, err)
		}
	}
	if _, err := simple.Offline().Find(t.Context(), image, key(t, k, 0)); !errors.Is(err, signing.Invalid) {
		t.Errorf("without a place: %v", err)
	}
}
