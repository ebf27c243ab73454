package identity

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sealwright/sealwright/internal/signing"
)

func TestKeysAreFetchedOnceAndAgainAfterAnHour(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(w.issuer())
	for range 3 {
		w.accept(v, w.token(w.claims()))
	}
	w.clock.Advance(keysFresh - time.Second)
	w.accept(v, w.token(w.claims()))
	if n := w.count("/jwks"); n != 1 {
		t.Errorf("%d fetches in the first hour, want 1", n)
	}
	w.clock.Advance(time.Second)
	w.accept(v, w.token(w.claims()))
	if n := w.count("/jwks"); n != 2 {
		t.Errorf("%d fetches after an hour, want 2", n)
	}
}

func TestARotatedKeyIsPickedUpAndAWithdrawnOneRefusedWithinAnHour(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(w.issuer())
	w.accept(v, w.token(w.claims()))

	next := ecKey()
	w.set(func() { w.keys = append(w.keys, public("ec-2", next)) })
	w.clock.Advance(keysCooldown)
	w.accept(v, sign(jose.ES256, "ec-2", next, w.claims(), nil))

	w.set(func() { w.keys = w.keys[1:] })
	w.accept(v, w.token(w.claims())) // still fresh
	w.clock.Advance(keysFresh)
	w.refuse(v, w.token(w.claims()), signing.Unauthenticated, "does not have", "rsa-1")
}

func TestAFloodOfUnknownKeysAsksTheIssuerOnceAMinute(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(w.issuer())
	w.accept(v, w.token(w.claims()))
	w.clock.Advance(keysCooldown)
	own := ecKey()
	for i := range 100 {
		_, _, err := v.Verify(t.Context(), sign(jose.ES256, fmt.Sprintf("made-up-%d", i), own, w.claims(), nil))
		if err == nil {
			t.Fatal("a made-up key was accepted")
		}
	}
	if n := w.count("/jwks"); n != 2 {
		t.Errorf("%d fetches, want 2: at first use and for the first unknown key", n)
	}
	w.accept(v, w.token(w.claims())) // known keys do not suffer
	err := w.refuse(v, sign(jose.ES256, "made-up", own, w.claims(), nil), signing.Unavailable)
	if err.RetryAfter <= 0 || err.RetryAfter > keysCooldown {
		t.Errorf("RetryAfter %v", err.RetryAfter)
	}
	w.clock.Advance(keysCooldown)
	w.refuse(v, sign(jose.ES256, "made-up", own, w.claims(), nil), signing.Unauthenticated, "does not have", "made-up")
}

func TestConcurrentTokensShareOneFetch(t *testing.T) {
	w := newWorld(t)
	arrived, release := make(chan struct{}, 1), make(chan struct{})
	w.jwks = func(rw http.ResponseWriter, _ *http.Request) {
		arrived <- struct{}{}
		<-release
		_ = json.NewEncoder(rw).Encode(jose.JSONWebKeySet{Keys: w.keys})
	}
	v := w.verifier(w.issuer())
	token := w.token(w.claims())

	// Who gives up waiting must not take the fetch away from the others.
	ctx, cancel := context.WithCancel(t.Context())
	gaveUp := make(chan error)
	go func() { _, _, err := v.Verify(ctx, token); gaveUp <- err }()
	<-arrived
	cancel()
	if err := <-gaveUp; signing.CodeOf(err) != signing.Unavailable {
		t.Errorf("got %v", err)
	}

	w.clock.Advance(keysCooldown) // even a fetch that takes longer is not doubled
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, _, err := v.Verify(t.Context(), token); err != nil {
				t.Error(err)
			}
		})
	}
	close(release)
	wg.Wait()
	if n := w.count("/jwks"); n != 1 {
		t.Errorf("%d fetches, want 1", n)
	}
}

func TestAnIssuerThatIsDownIsUnavailableAndNotARefusal(t *testing.T) {
	w := newWorld(t)
	down := func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusBadGateway) }
	w.discovery = down
	v := w.verifier(w.issuer())
	token := w.token(w.claims())
	for range 5 {
		err := w.refuse(v, token, signing.Unavailable, "cannot be had")
		if err.RetryAfter <= 0 || err.RetryAfter > keysRetry {
			t.Errorf("RetryAfter %v", err.RetryAfter)
		}
	}
	if n := w.count("/.well-known/openid-configuration"); n != 1 {
		t.Errorf("an issuer that is down was asked %d times at once", n)
	}
	w.set(func() { w.discovery = nil })
	w.clock.Advance(keysRetry)
	w.accept(v, token)
}

func TestCachedKeysOutliveTheIssuerForSomeHoursOnly(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(w.issuer())
	w.accept(v, w.token(w.claims()))
	w.server.Close()
	w.clock.Advance(keysKept - time.Second)
	w.accept(v, w.token(w.claims()))
	w.refuse(v, sign(jose.ES256, "new", ecKey(), w.claims(), nil), signing.Unavailable)
	w.clock.Advance(time.Second)
	w.refuse(v, w.token(w.claims()), signing.Unavailable, "cannot be had")
}

func TestAnUnusableKeySetDoesNotReplaceKeysThatWork(t *testing.T) {
	for name, body := range map[string]string{"empty": `{"keys":[]}`, "not JSON": `<html>`, "truncated": `{"keys":[{"kty":"RSA"`, "nothing": ``} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			v := w.verifier(w.issuer())
			w.accept(v, w.token(w.claims()))
			w.set(func() { w.jwks = func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write([]byte(body)) } })
			w.clock.Advance(keysFresh)
			w.accept(v, w.token(w.claims()))
			if w.count("/jwks") != 2 {
				t.Error("the key set was not fetched again")
			}
		})
	}
}

// CVE-2026-49478 (redirects), CVE-2024-34079 (size), and discovery that names
// another issuer or another host.
func TestDiscoveryAndKeySetAreHeldToTheIssuer(t *testing.T) {
	evil := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		t.Errorf("another host was asked: %s", r.URL)
	}))
	defer evil.Close()
	doc := func(issuer, jwks string) http.HandlerFunc {
		return func(rw http.ResponseWriter, _ *http.Request) {
			_ = json.NewEncoder(rw).Encode(map[string]string{"issuer": issuer, "jwks_uri": jwks})
		}
	}
	redirect := func(to string) http.HandlerFunc {
		return func(rw http.ResponseWriter, r *http.Request) { http.Redirect(rw, r, to, http.StatusFound) }
	}
	large := func(rw http.ResponseWriter, _ *http.Request) {
		key := string(must(public("rsa-1", rsaKey()).MarshalJSON()))
		_, _ = rw.Write([]byte(`{"keys":[` + key + `]}` + strings.Repeat(" ", maxDocument)))
	}
	for name, set := range map[string]func(w *world){
		"discovery redirects away":       func(w *world) { w.discovery = redirect(evil.URL) },
		"discovery redirects to itself":  func(w *world) { w.discovery = redirect(w.url + "/jwks") },
		"key set redirects away":         func(w *world) { w.jwks = redirect(evil.URL) },
		"discovery names another issuer": func(w *world) { w.discovery = doc("https://evil.example", w.url+"/jwks") },
		"discovery adds a slash":         func(w *world) { w.discovery = doc(w.url+"/", w.url+"/jwks") },
		"discovery without issuer":       func(w *world) { w.discovery = doc("", w.url+"/jwks") },
		"keys on another host":           func(w *world) { w.discovery = doc(w.url, evil.URL+"/jwks") },
		"keys on a host with our name before @": func(w *world) {
			w.discovery = doc(w.url, "http://"+strings.TrimPrefix(w.url, "http://")+"@"+strings.TrimPrefix(evil.URL, "http://"))
		},
		"keys in a file":      func(w *world) { w.discovery = doc(w.url, "file:///etc/passwd") },
		"no jwks_uri":         func(w *world) { w.discovery = doc(w.url, "") },
		"discovery too large": func(w *world) { w.discovery = large },
		"discovery is a list": func(w *world) {
			w.discovery = func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write([]byte("[]")) }
		},
		"key set too large": func(w *world) { w.jwks = large },
		"key set not found": func(w *world) { w.jwks = http.NotFound },
		"key set with an error status": func(w *world) {
			w.jwks = func(rw http.ResponseWriter, _ *http.Request) {
				rw.WriteHeader(http.StatusInternalServerError)
				_ = json.NewEncoder(rw).Encode(jose.JSONWebKeySet{Keys: w.keys})
			}
		},
		"too many keys": func(w *world) {
			w.jwks = func(rw http.ResponseWriter, _ *http.Request) {
				_ = json.NewEncoder(rw).Encode(jose.JSONWebKeySet{Keys: slices.Repeat(w.keys, maxKeys+1)})
			}
		},
		"body cut off": func(w *world) {
			w.jwks = func(rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set("Content-Length", "100")
				_, _ = rw.Write([]byte(`{"keys":[`))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			set(w)
			w.refuse(w.verifier(w.issuer()), w.token(w.claims()), signing.Unavailable, "cannot be had")
		})
	}
}

func TestDiscoveryMayNotLeadToAnUnprotectedKeySet(t *testing.T) {
	const issuer = "https://ci.acme.dev/oidc"
	for _, jwks := range []string{"http://ci.acme.dev/keys", "https://user:secret@ci.acme.dev/keys", "https://ci.acme.dev/keys#x", "ftp://ci.acme.dev/keys", "//ci.acme.dev/keys", "/keys", "http://127.0.0.1/keys", "https://ci.acme.dev:444/keys", "https://"} {
		client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.URL.String() != issuer+"/.well-known/openid-configuration" {
				t.Errorf("%s was fetched", r.URL)
			}
			rec := httptest.NewRecorder()
			err := json.NewEncoder(rec).Encode(map[string]string{"issuer": issuer, "jwks_uri": jwks})
			return rec.Result(), err
		})}
		if _, err := newRemote(client, issuer, "")(t.Context()); err == nil || !strings.Contains(err.Error(), "jwks_uri") {
			t.Errorf("%s: %v", jwks, err)
		}
	}
}

func TestAnIssuersOwnWordOnWhenToComeBackIsKept(t *testing.T) {
	w := newWorld(t)
	asked := 0
	client := &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
		asked++
		return nil, &signing.Error{Code: signing.RateLimited, Message: "too many requests", RetryAfter: 5 * time.Minute}
	})}
	v, err := New(t.Context(), []Issuer{w.issuer()}, Options{Client: client, Now: w.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if e := w.refuse(v, w.token(w.claims()), signing.Unavailable); e.RetryAfter > 5*time.Minute || e.RetryAfter < time.Minute {
			t.Errorf("RetryAfter %v", e.RetryAfter)
		}
		w.clock.Advance(time.Minute)
	}
	if asked != 1 {
		t.Errorf("asked %d times within five minutes", asked)
	}
}

func TestAConfiguredKeySetURLReplacesDiscovery(t *testing.T) {
	w, keys := newWorld(t), newWorld(t)
	w.keys = nil
	row := w.issuer()
	row.JWKSURI = keys.url + "/jwks"
	w.accept(w.verifier(row), w.token(w.claims()))
	if w.count("/.well-known/openid-configuration") != 0 {
		t.Error("discovery was used all the same")
	}
}

func TestATokenWithoutKeyIDNeedsAnIssuerWithOneKeyOfItsKind(t *testing.T) {
	w := newWorld(t)
	w.keys = append(w.keys, public("ec", ecKey()))
	w.accept(w.verifier(w.issuer()), sign(jose.RS256, "", rsaKey(), w.claims(), nil))

	w.set(func() { w.keys = append(w.keys, public("rsa-2", must(rsa.GenerateKey(rand.Reader, 2048)))) })
	w.refuse(w.verifier(w.issuer()), sign(jose.RS256, "", rsaKey(), w.claims(), nil), signing.Unauthenticated, "which key")
}

func TestTwoKeysWithOneIDAreBothTried(t *testing.T) {
	w := newWorld(t)
	a, b := ecKey(), ecKey()
	w.keys = []jose.JSONWebKey{public("same", a), public("same", b), public("same", rsaKey())}
	v := w.verifier(w.issuer())
	w.accept(v, sign(jose.ES256, "same", a, w.claims(), nil))
	w.accept(v, sign(jose.ES256, "same", b, w.claims(), nil))
	w.accept(v, sign(jose.RS256, "same", rsaKey(), w.claims(), nil))
	w.refuse(v, sign(jose.ES256, "same", ecKey(), w.claims(), nil), signing.Unauthenticated, "signature is wrong")
}

func TestKeysThatMustNotVerifyTokensAreLeftOut(t *testing.T) {
	ec := ecKey()
	good := public("k", ec)
	asJSON := func(k jose.JSONWebKey, more string) string {
		s := string(must(k.MarshalJSON()))
		return s[:len(s)-1] + more + "}"
	}
	encryption, otherAlg := good, good
	encryption.Use = "enc"
	otherAlg.Algorithm = "ES512"
	for name, key := range map[string]string{
		"for encryption":             asJSON(encryption, ""),
		"for signing only":           asJSON(good, `,"key_ops":["sign"]`),
		"of another algorithm":       asJSON(otherAlg, ""),
		"with its private half":      asJSON(jose.JSONWebKey{Key: ec, KeyID: "k"}, ""),
		"with one of its primes":     asJSON(public("k", rsaKey()), `,"p":"AAAA"`),
		"symmetric":                  asJSON(jose.JSONWebKey{Key: []byte("0123456789abcdef0123456789abcdef"), KeyID: "k"}, ""),
		"with a member twice":        asJSON(good, `,"kid":"l"`),
		"RSA of 1024 bits":           fmt.Sprintf(`{"kty":"RSA","kid":"k","e":"AQAB","n":"%s"}`, strings.Repeat("_", 171)),
		"RSA of 8192 bits":           fmt.Sprintf(`{"kty":"RSA","kid":"k","e":"AQAB","n":"%s"}`, strings.Repeat("_", 1366)),
		"on no curve":                `{"kty":"EC","crv":"P-256","kid":"k","x":"AAAA","y":"AAAA"}`,
		"of a type yet to come":      `{"kty":"AKP","kid":"k","alg":"ML-DSA-44","pub":"AAAA"}`,
		"with a certificate of none": asJSON(good, `,"x5c":["AAAA"]`),
		"null":                       `null`,
	} {
		t.Run(name, func(t *testing.T) {
			if keys, err := parseKeys([]byte(`{"keys":[` + key + `]}`)); err == nil && len(match(keys, "k", "ES256"))+len(match(keys, "k", "RS256")) > 0 {
				t.Error("the key would be used")
			}
			if keys, err := parseKeys([]byte(`{"keys":[` + key + "," + asJSON(good, "") + `]}`)); err != nil || len(match(keys, "k", "ES256")) != 1 {
				t.Errorf("the good key beside it would not be used alone: %v", err)
			}
		})
	}
}
