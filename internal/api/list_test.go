package api_test

import (
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/signing"
)

func TestAPersonsReadSendsTheirTokenAndNoCapability(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.String() != "/v1/requests/"+requestID || r.Header.Get("Authorization") != "Bearer "+jwt || r.Header.Get(api.HeaderCapability) != "" {
			t.Errorf("%s %v", r.URL, r.Header)
		}
		answer(w, http.StatusOK, api.Request{ID: requestID, State: signing.Signing, Version: 5})
	})
	if r, err := c.GetAs(t.Context(), requestID, jwt, 0, 0); err != nil || r.ID != requestID {
		t.Fatalf("%+v %v", r, err)
	}
}

func TestAListAsksForWhatIsWantedAndGoesOnByTheCursor(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if d := cmp.Diff("cursor=a%2Bb&digest="+"sha256%3Aaa&project=p&state=denied", r.URL.RawQuery); d != "" || r.URL.Path != "/v1/requests" || r.Header.Get("Authorization") != "Bearer "+jwt {
			t.Errorf("%s %s", r.URL, d)
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"requests":[{"id":%q,"state":"denied","policy":"release","artifacts":3,"newer":1}],"cursor":"next"}`, requestID)
	})
	p, err := c.List(t.Context(), jwt, api.Query{Project: "p", State: signing.RequestDenied, Digest: "sha256:aa", Cursor: "a+b"})
	if err != nil || len(p.Requests) != 1 || p.Cursor != "next" || p.Requests[0].Domain().Policy != "release" {
		t.Fatalf("%+v %v", p, err)
	}
}

// An empty list means that there is nothing, so nothing else may look like one.
func TestWhatIsNoPageOfRequestsIsNotAnEmptyList(t *testing.T) {
	for name, c := range map[string]struct{ media, body string }{
		"another type":   {"text/html", `{"requests":[]}`},
		"an object":      {"application/json", `{}`},
		"null":           {"application/json", `{"requests":null}`},
		"not JSON":       {"application/json", `<html>`},
		"empty":          {"application/json", ``},
		"an odd id":      {"application/json", `{"requests":[{"id":"x","state":"denied"}]}`},
		"an odd state":   {"application/json", `{"requests":[{"id":"` + requestID + `","state":"signed"}]}`},
		"another object": {"application/json", `{"requests":{"id":1}}`},
	} {
		client := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", c.media)
			fmt.Fprint(w, c.body)
		})
		if p, err := client.List(t.Context(), jwt, api.Query{}); err == nil {
			t.Errorf("%s: %+v", name, p)
		}
	}
	gone := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://evil.example/", http.StatusFound)
	})
	if _, err := gone.List(t.Context(), jwt, api.Query{}); err == nil {
		t.Error("a redirect was followed")
	}
	refused := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_ = api.WriteProblem(w, api.FromError(&signing.Error{Code: signing.Denied, Message: "no", Expected: "a", Found: "b", Fix: "c"}))
	})
	_, err := refused.List(t.Context(), jwt, api.Query{})
	var r *api.Refusal
	if !errors.As(err, &r) || r.Problem.Status != http.StatusForbidden {
		t.Errorf("%v", err)
	}
}
