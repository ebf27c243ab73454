package testenv

import (
	"bytes"
	"encoding/json"
	"net/http"
	"testing"

	"github.com/sealwright/sealwright/internal/signing"
)

// Answer is what the service answered.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// JSON decodes the body.
func (a Answer) JSON(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal(a.Body, v); err != nil {
		t.Fatalf("not JSON: %v: %s", err, a.Body)
	}
}

// Post sends body with a bearer token and an idempotency key.
func (s *Service) Post(path, token, idempotency, body string) Answer {
	s.Env.T.Helper()
	req, err := http.NewRequest(http.MethodPost, s.HTTP.URL+path, bytes.NewReader([]byte(body)))
	must(s.Env.T, err)
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if idempotency != "" {
		req.Header.Set("Idempotency-Key", idempotency)
	}
	return s.do(req)
}

// Get reads a path, with a capability if it is not empty.
func (s *Service) Get(path, capability string) Answer {
	s.Env.T.Helper()
	req, err := http.NewRequest(http.MethodGet, s.HTTP.URL+path, nil)
	must(s.Env.T, err)
	if capability != "" {
		req.Header.Set("Sealwright-Capability", capability)
	}
	return s.do(req)
}

func (s *Service) do(req *http.Request) Answer {
	s.Env.T.Helper()
	resp, err := http.DefaultClient.Do(req)
	must(s.Env.T, err)
	defer func() { _ = resp.Body.Close() }() // read only
	var b bytes.Buffer
	_, err = b.ReadFrom(resp.Body)
	must(s.Env.T, err)
	return Answer{resp.StatusCode, resp.Header, b.Bytes()}
}

// Body returns the body of a submission; artifacts without a digest are tags to
// untrust.
func Body(policy string, artifacts ...signing.Artifact) string {
	type ref struct {
		Repository string `json:"repository"`
		Digest     string `json:"digest"`
		Tag        string `json:"tag,omitempty"`
	}
	refs, untrust := []ref{}, []string{}
	for _, a := range artifacts {
		if a.Digest == "" {
			untrust = append(untrust, a.String())
			continue
		}
		refs = append(refs, ref{string(a.Repository), string(a.Digest), a.Tag})
	}
	body := map[string]any{"policy": policy, "artifacts": refs}
	if len(untrust) > 0 {
		body["untrust"] = untrust
	}
	raw, err := json.Marshal(body)
	if err != nil {
		panic(err) // strings always encode
	}
	return string(raw)
}
