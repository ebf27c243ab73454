// Package simpletest has servers for tests of places where simple signatures are
// published: as strict as real ones, in memory, on loopback.
package simpletest

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/sealwright/sealwright/internal/method/simple"
	"github.com/sealwright/sealwright/internal/signing"
)

// Web is a web server that takes PUT under conditions.
type Web struct {
	URL string
	// Authorization, if set, must come with every PUT and with no GET below Public.
	Authorization string
	// Unconditional refuses conditional requests, as old servers do by ignoring them.
	Unconditional bool

	mu    sync.Mutex
	files map[string][]byte // guarded by mu
}

// NewWeb starts an empty server for the length of the test.
func NewWeb(t testing.TB) *Web {
	t.Helper()
	w := &Web{files: map[string][]byte{}}
	srv := httptest.NewServer(w)
	t.Cleanup(srv.Close)
	w.URL = srv.URL
	return w
}

// ServeHTTP implements http.Handler.
func (w *Web) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch r.Method {
	case http.MethodGet:
		b, ok := w.files[r.URL.Path]
		if !ok {
			http.NotFound(rw, r)
			return
		}
		_, _ = rw.Write(b)
	case http.MethodPut:
		if w.Authorization != "" && r.Header.Get("Authorization") != w.Authorization {
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		if _, there := w.files[r.URL.Path]; there && r.Header.Get("If-None-Match") == "*" && !w.Unconditional {
			rw.WriteHeader(http.StatusPreconditionFailed)
			return
		}
		b, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err != nil {
			rw.WriteHeader(http.StatusBadRequest)
			return
		}
		w.files[r.URL.Path] = b
		rw.WriteHeader(http.StatusCreated)
	default:
		rw.WriteHeader(http.StatusMethodNotAllowed)
	}
}

// Files returns what is there, by path.
func (w *Web) Files() map[string][]byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[string][]byte{}
	for p, b := range w.files {
		out[p] = b
	}
	return out
}

// Set puts a file there, whatever is there.
func (w *Web) Set(path string, content []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.files[path] = content
}

// Count returns how many signatures of an artifact are below a path.
func (w *Web) Count(below string, a signing.Artifact) (n int) {
	for p := range w.Files() {
		if strings.HasPrefix(p, below+"/"+simple.Path(a)+"/signature-") {
			n++
		}
	}
	return n
}

// Memory is a simple.Store.
type Memory struct {
	mu    sync.Mutex
	files map[string][][]byte // guarded by mu
}

// Put implements simple.Store.
func (m *Memory) Put(_ context.Context, path string, _ signing.Digest, signature []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files == nil {
		m.files = map[string][][]byte{}
	}
	for i, b := range m.files[path] {
		if bytes.Equal(b, signature) {
			return i + 1, nil
		}
	}
	if len(m.files[path]) >= simple.MaxSignatures {
		return 0, &signing.Error{Code: signing.TooLarge, Message: "too many " + strconv.Itoa(len(m.files[path]))}
	}
	m.files[path] = append(m.files[path], signature)
	return len(m.files[path]), nil
}

// List implements simple.Store.
func (m *Memory) List(_ context.Context, path string) ([][]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([][]byte(nil), m.files[path]...), nil
}
