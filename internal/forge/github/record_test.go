package github

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"sync"
	"testing"
)

// recordTo names the file into which the tests write every request that the
// Client sends, a line of JSON for each. internal/conformance holds them against the
// API that GitHub publishes.
const recordTo = "SEALWRIGHT_RECORD_REQUESTS"

// recording is h, with what it is asked written down where that is wanted.
func recording(t *testing.T, h http.Handler) http.Handler {
	t.Helper()
	name := os.Getenv(recordTo)
	if name == "" {
		return h
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	var mu sync.Mutex
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		mu.Lock()
		err = json.NewEncoder(f).Encode(map[string]string{"method": r.Method, "url": r.URL.RequestURI(), "accept": r.Header.Get("Accept"), "type": r.Header.Get("Content-Type"), "body": string(body)})
		mu.Unlock()
		if err != nil {
			t.Error(err)
		}
		h.ServeHTTP(w, r)
	})
}
