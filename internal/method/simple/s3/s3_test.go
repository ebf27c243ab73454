package s3

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
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
	"github.com/sealwright/sealwright/internal/method/simple"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
)

// store is an object store: it verifies signatures of requests (AWS Signature
// Version 4), keeps objects, and knows If-None-Match. What is public can be read
// without a signature.
type store struct {
	t      *testing.T
	secret string
	mu     sync.Mutex
	files  map[string][]byte // guarded by mu
	answer int               // guarded by mu; instead of all others, if set
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func hash(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }

// signed verifies the Authorization header.
func (s *store) signed(r *http.Request, body []byte) bool {
	rest, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	fields := map[string]string{}
	for _, f := range strings.Split(rest, ", ") {
		k, v, _ := strings.Cut(f, "=")
		fields[k] = v
	}
	scope := strings.Split(fields["Credential"], "/")
	if !ok || len(scope) != 5 || scope[0] != "AKID" || scope[2] != "us-east-1" || r.Header.Get("X-Amz-Content-Sha256") != hash(body) {
		return false
	}
	names := strings.Split(fields["SignedHeaders"], ";")
	if !slices.Contains(names, "host") || r.Method == http.MethodPut && !slices.Contains(names, "if-none-match") {
		return false
	}
	var headers strings.Builder
	for _, n := range names {
		v := r.Header.Get(n)
		switch n {
		case "host":
			v = r.Host
		case "content-length":
			v = fmt.Sprint(r.ContentLength)
		}
		headers.WriteString(n + ":" + strings.TrimSpace(v) + "\n")
	}
	canonical := strings.Join([]string{r.Method, r.URL.EscapedPath(), r.URL.Query().Encode(), headers.String(), fields["SignedHeaders"], hash(body)}, "\n")
	text := strings.Join([]string{"AWS4-HMAC-SHA256", r.Header.Get("X-Amz-Date"), strings.Join(scope[1:], "/"), hash([]byte(canonical))}, "\n")
	key := []byte("AWS4" + s.secret)
	for _, part := range scope[1:] {
		key = mac(key, part)
	}
	return hex.EncodeToString(mac(key, text)) == fields["Signature"]
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Error(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fail := func(status int, code string) {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, "<Error><Code>%s</Code><Message>x</Message></Error>", code)
	}
	path, public := strings.CutPrefix(r.URL.Path, "/public")
	if !public && !s.signed(r, body) {
		fail(http.StatusForbidden, "SignatureDoesNotMatch")
		return
	}
	there, ok := s.files[path]
	switch {
	case s.answer != 0:
		fail(s.answer, "Answer")
	case r.Method == http.MethodGet && !ok:
		fail(http.StatusNotFound, "NoSuchKey")
	case r.Method == http.MethodGet:
		_, _ = w.Write(there)
	case r.Method != http.MethodPut || public:
		fail(http.StatusMethodNotAllowed, "MethodNotAllowed")
	case r.Header.Get("If-None-Match") != "*":
		fail(http.StatusBadRequest, "Unconditional")
	case ok:
		fail(http.StatusPreconditionFailed, "PreconditionFailed")
	default:
		s.files[path] = body
	}
}

func (s *store) set(status int) { s.mu.Lock(); defer s.mu.Unlock(); s.answer = status }

var artifact = signing.Artifact{Repository: "registry.acme.dev/payments/web", Digest: "sha256:d34db33fd34db33fd34db33fd34db33fd34db33fd34db33fd34db33fd34db33f"}

func bucket(t *testing.T, secret string) (*store, simple.Target) {
	t.Helper()
	s := &store{t: t, secret: "secret", files: map[string][]byte{}}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	env := map[string]string{"ID": "AKID", "SECRET": secret}
	row := simple.Config{Prefix: "registry.acme.dev", Type: simple.TypeS3, URL: srv.URL, ReadURL: srv.URL + "/public/signatures/a/b", Bucket: "signatures", Path: "a/b", Username: "env:ID", Password: "env:SECRET", InsecureHTTP: true}
	if err := simple.Check([]simple.Config{row}).Err(); err != nil {
		t.Fatal(err)
	}
	b, err := Open(row, simple.Options{Env: func(n string) (string, bool) { v, ok := env[n]; return v, ok }}, outbound.NewClient(outbound.Options{AllowHTTP: true, Timeout: 5 * time.Second}))
	if err != nil {
		t.Fatal(err)
	}
	return s, b
}

func TestSignaturesAreAddedAtFreeNumbersAndReadAsVerifiersDo(t *testing.T) {
	s, b := bucket(t, "secret")
	if list, err := b.Read(t.Context(), artifact); err != nil || len(list) != 0 {
		t.Fatalf("%+v, %v", list, err)
	}
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			if _, err := b.Add(t.Context(), artifact, []byte{'s', byte(i)}); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	list, err := b.Read(t.Context(), artifact)
	if err != nil || len(list) != 8 || len(s.files) != 8 {
		t.Fatalf("%d of 8 are there: %v", len(list), err)
	}
	again, err := b.Add(t.Context(), artifact, list[3].Bytes)
	if err != nil || again != list[3].Location || len(s.files) != 8 {
		t.Errorf("an equal signature is added: %+v, %v", again, err)
	}
	u, err := url.Parse(again.URI)
	if err != nil || u.Path != "/public/signatures/a/b/payments/web@sha256="+artifact.Digest.Hex()+"/signature-4" {
		t.Errorf("%s, %v", again.URI, err)
	}
}

func TestBucketThatCannotBeAskedIsNeverEmpty(t *testing.T) {
	s, b := bucket(t, "secret")
	for status, want := range map[int]signing.Code{http.StatusForbidden: signing.Denied, http.StatusInternalServerError: signing.Unavailable, http.StatusTooManyRequests: signing.RateLimited, http.StatusMovedPermanently: signing.Invalid} {
		s.set(status)
		_, err := b.Add(t.Context(), artifact, []byte("s"))
		if signing.CodeOf(err) != want {
			t.Errorf("Add at %d: %v", status, err)
		}
		if _, err := b.Read(t.Context(), artifact); signing.CodeOf(err) != want || errors.Is(err, signing.NotFound) {
			t.Errorf("Read at %d: %v", status, err)
		}
	}
	s.set(0)
	if len(s.files) > 0 {
		t.Error("something was written")
	}
	_, wrong := bucket(t, "another")
	if _, err := wrong.Add(t.Context(), artifact, []byte("s")); !errors.Is(err, signing.Denied) {
		t.Errorf("with another secret: %v", err)
	}
	if _, err := Open(simple.Config{Username: config.Secret("env:NONE"), Password: "env:NONE"}, simple.Options{Env: func(string) (string, bool) { return "", false }}, http.DefaultClient); !errors.Is(err, signing.Invalid) {
		t.Errorf("without credentials: %v", err)
	}
}
