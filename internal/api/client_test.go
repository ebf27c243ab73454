package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	requestID  = "sr_0123456789ABCDEF"
	capability = "cap-0123456789abcdef0123456789"
	jwt        = "aaa.bbb.ccc"
)

var submission = api.SubmitRequest{Policy: "release", Artifacts: []api.ArtifactRef{{Repository: "registry.acme.dev/payments/web", Digest: digestA, Tag: "v1"}}}

func serve(t *testing.T, h http.HandlerFunc) *api.Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return dial(t, s.URL)
}

func dial(t *testing.T, server string) *api.Client {
	t.Helper()
	c, err := api.NewClient(api.ClientOptions{Server: server, UserAgent: "test", Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func answer(w http.ResponseWriter, status int, r api.Request) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set(api.HeaderCapability, capability)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(r)
}

func TestASubmissionCarriesTokenAndKeyInHeadersAndNothingInTheURL(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := api.ReadSubmission(r.Body)
		if d := cmp.Diff(submission, body); d != "" {
			t.Error(d)
		}
		if r.Method != "POST" || r.URL.String() != "/v1/requests" || r.Header.Get("Authorization") != "Bearer "+jwt || r.Header.Get("Idempotency-Key") != "key" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
		}
		answer(w, http.StatusCreated, api.Request{ID: requestID, State: signing.Pending, Version: 1})
	})
	r, secret, err := c.Submit(t.Context(), jwt, "key", submission)
	if err != nil || r.ID != requestID || secret != capability {
		t.Fatalf("%+v %q %v", r, secret, err)
	}
}

func TestAReadSendsTheCapabilityAndWaitsForAVersion(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/requests/"+requestID || r.Header.Get(api.HeaderCapability) != capability || r.Header.Get("Authorization") != "" {
			t.Errorf("%s %v", r.URL, r.Header)
		}
		if q := r.URL.Query(); q.Get("version") != "4" || q.Get("wait") != api.MaxWait.String() {
			t.Errorf("query %s", r.URL.RawQuery)
		}
		answer(w, http.StatusOK, api.Request{ID: requestID, State: signing.Signing, Version: 5})
	})
	r, err := c.Get(t.Context(), requestID, capability, 4, time.Hour)
	if err != nil || r.Version != 5 {
		t.Fatalf("%+v %v", r, err)
	}
}

func TestACancelIsSentWithAToken(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "POST" || r.URL.Path != "/v1/requests/"+requestID+"/cancel" || r.Header.Get("Authorization") != "Bearer "+jwt {
			t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
		}
		answer(w, http.StatusOK, api.Request{ID: requestID, State: signing.Canceled})
	})
	r, err := c.Cancel(t.Context(), jwt, requestID)
	if err != nil || r.State != signing.Canceled {
		t.Fatalf("%+v %v", r, err)
	}
}

func TestAServerMustBeHTTPSUnlessItIsThisMachine(t *testing.T) {
	for _, good := range []string{"https://sign.acme.dev", "https://sign.acme.dev:8443/seal/", " https://sign.acme.dev\n", "http://127.0.0.1:80", "http://localhost", "http://[::1]:1"} {
		if _, err := api.ParseServer(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "sign.acme.dev", "http://sign.acme.dev", "http://127.0.0.1.evil.dev", "http://localhost.evil.dev", "ftp://127.0.0.1", "https://", "https://user:hunter2@sign.acme.dev", "https://sign.acme.dev?x=1", "https://sign.acme.dev#x", "https://sign.acme.dev?", "http://10.0.0.1", "https://a b"} {
		_, err := api.ParseServer(bad)
		if signing.CodeOf(err) != signing.Invalid {
			t.Errorf("%q was accepted: %v", bad, err)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("a password is in %v", err)
		}
	}
}

func TestAPathPrefixOfTheServerIsKept(t *testing.T) {
	var path string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path = r.URL.Path
		answer(w, 200, api.Request{ID: requestID, State: signing.Pending})
	}))
	defer s.Close()
	if _, err := dial(t, s.URL+"/seal/").Get(t.Context(), requestID, capability, 0, 0); err != nil || path != "/seal/v1/requests/"+requestID {
		t.Errorf("%s %v", path, err)
	}
}

func TestCredentialsSentToAnotherHostByRedirectIsImpossible(t *testing.T) {
	reached := false
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	defer other.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, status) })
		_, _, err := c.Submit(t.Context(), jwt, "key", submission)
		if err == nil || reached || !strings.Contains(err.Error(), "redirect") || strings.Contains(err.Error(), jwt) {
			t.Errorf("%d: reached %v, %v", status, reached, err)
		}
		if _, err := c.Get(t.Context(), requestID, capability, 0, 0); err == nil || reached {
			t.Errorf("%d: reached %v, %v", status, reached, err)
		}
	}
}

func TestAnswersThatAreNotThisAPIsAreRefused(t *testing.T) {
	good := `{"id":"` + requestID + `","state":"pending"}`
	for name, c := range map[string]struct {
		contentType, capability, body string
	}{
		"a captive portal's page":        {"text/html", capability, "<html>please log in"},
		"no content type":                {"", capability, good},
		"not JSON":                       {"application/json", capability, "{"},
		"another document":               {"application/json", capability, `{"ok":true}`},
		"an id that is a path":           {"application/json", capability, `{"id":"../../x","state":"pending"}`},
		"a state from the future":        {"application/json", capability, `{"id":"` + requestID + `","state":"sealed"}`},
		"no state":                       {"application/json", capability, `{"id":"` + requestID + `"}`},
		"a task in an unknown state":     {"application/json", capability, `{"id":"` + requestID + `","state":"pending","tasks":[{"state":"done"}]}`},
		"no capability":                  {"application/json", "", good},
		"a capability with a line break": {"application/json", "abc", good},
		"endless":                        {"application/json", capability, `{"id":"` + strings.Repeat("x", 9<<20)},
	} {
		t.Run(name, func(t *testing.T) {
			client := serve(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header()["Content-Type"] = []string{c.contentType}
				w.Header().Set(api.HeaderCapability, c.capability)
				_, _ = io.WriteString(w, c.body)
			})
			_, _, err := client.Submit(t.Context(), jwt, "key", submission)
			if err == nil || signing.Temporary(err) {
				t.Errorf("got %v", err)
			}
			if err != nil && len(err.Error()) > 1000 {
				t.Errorf("the error quotes %d bytes", len(err.Error()))
			}
		})
	}
}

func TestAnAnswerAboutAnotherRequestIsRefused(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		answer(w, 200, api.Request{ID: "sr_ZZZZZZZZZZZZZZZZ", State: signing.Completed})
	})
	if _, err := c.Get(t.Context(), requestID, capability, 0, 0); err == nil {
		t.Error("it was taken")
	}
}

func TestFieldsOfANewerServiceAreIgnored(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"id":"`+requestID+`","state":"completed","colour":"green"}`)
	})
	if _, err := c.Get(t.Context(), requestID, capability, 0, 0); err != nil {
		t.Error(err)
	}
}

func TestARefusalKeepsItsReasonsAndAnOutageIsTemporary(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		p := api.FromError(&signing.Error{Code: signing.Denied, Message: "no", Fix: "ask"})
		p.Reasons = &signing.Reason{Rule: "origin"}
		_ = api.WriteProblem(w, p)
	})
	_, _, err := c.Submit(t.Context(), jwt, "key", submission)
	var refusal *api.Refusal
	if !errors.As(err, &refusal) || refusal.Problem.Reasons == nil || !errors.Is(err, signing.Denied) {
		t.Errorf("got %v", err)
	}

	down := httptest.NewServer(nil)
	down.Close()
	if _, _, err := dial(t, down.URL).Submit(t.Context(), jwt, "key", submission); !signing.Temporary(err) || strings.Contains(err.Error(), jwt) {
		t.Errorf("a server that is down: %v", err)
	}
	broken := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "{")
	})
	if _, err := broken.Get(t.Context(), requestID, capability, 0, 0); !signing.Temporary(err) {
		t.Errorf("an answer that broke off: %v", err)
	}
}

func TestACertificateOfAStrangerIsNotRetried(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the request was sent") }))
	defer s.Close()
	s.Config.ErrorLog = nil
	_, _, err := dial(t, s.URL).Submit(t.Context(), jwt, "key", submission)
	if err == nil || signing.Temporary(err) || !strings.Contains(err.Error(), "ca-file") {
		t.Errorf("got %v", err)
	}
}

func TestACallerThatGoesAwayIsSeenAsThat(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	if _, err := c.Get(ctx, requestID, capability, 0, time.Second); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestAMalformedIdNeverReachesTheServer(t *testing.T) {
	c := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("it did") })
	for _, id := range []string{"", "sr_1", "../x", "sr_0123456789ABCDEF/cancel", "sr_0123456789ABCDEF?x"} {
		if _, err := c.Get(t.Context(), id, capability, 0, 0); signing.CodeOf(err) != signing.Invalid {
			t.Errorf("%q: %v", id, err)
		}
		if _, err := c.Cancel(t.Context(), jwt, id); signing.CodeOf(err) != signing.Invalid {
			t.Errorf("%q: %v", id, err)
		}
	}
	if _, _, err := c.Submit(t.Context(), jwt, "two\r\nHost: x", submission); signing.CodeOf(err) != signing.Invalid {
		t.Errorf("idempotency key: %v", err)
	}
}
