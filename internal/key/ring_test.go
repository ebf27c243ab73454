package key

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/key/keytest"
	"github.com/sealwright/sealwright/internal/signing"
)

// conf is a key that serves policy release of project payments.
func conf(id, file string) Config {
	return Config{ID: id, File: config.Secret(file), Methods: []string{"cosign"},
		Allow: []Allow{{Project: "payments", Policy: "release", Repositories: []string{"registry.acme.dev/payments/*"}}}}
}

func open(t *testing.T, o Options, keys ...Config) *Ring {
	t.Helper()
	r, err := Open(t.Context(), keys, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var rsa2048 = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

func TestKeysFromTheEnvironmentOpen(t *testing.T) {
	env := map[string]string{"KEY": string(cosignKey(t, "secret")), "PASS": "secret"}
	k := conf("k", "env:KEY")
	k.Passphrase = "env:PASS"
	open(t, Options{Env: func(n string) (string, bool) { v, ok := env[n]; return v, ok }}, k)
	_, err := Open(t.Context(), []Config{k}, Options{Env: func(string) (string, bool) { return "", false }})
	if !errors.Is(err, signing.Invalid) {
		t.Errorf("without the variable: %v", err)
	}
}

func TestCertificateOfAnotherKeyStopsTheStart(t *testing.T) {
	now := time.Now()
	mine, other := keytest.P256(t), keytest.P256(t)
	chain := keytest.Chain(t, mine.Public(), now.Add(-time.Hour), now.Add(time.Hour))
	k := conf("k", keytest.File(t, keytest.PEM(t, mine)))
	k.Certificates = config.Secret(keytest.File(t, chain))
	ring := open(t, Options{}, k)
	if info, _ := ring.Info("k"); len(info.Chain) != 2 || !mine.PublicKey.Equal(info.Chain[0].PublicKey) {
		t.Error("the chain is not in Info, leaf first")
	}
	block, rest := pem.Decode(chain)
	rootFirst := append(bytes.Clone(rest), pem.EncodeToMemory(block)...)
	for name, c := range map[string][]byte{
		"another key":  keytest.Chain(t, other.Public(), now.Add(-time.Hour), now.Add(time.Hour)),
		"root first":   rootFirst,
		"broken chain": append(pem.EncodeToMemory(block), keytest.Chain(t, mine.Public(), now, now.Add(time.Hour))...),
		"no PEM":       []byte("certificate"),
	} {
		k.Certificates = config.Secret(keytest.File(t, c))
		if _, err := Open(t.Context(), []Config{k}, Options{}); err == nil {
			t.Errorf("%s: the ring opened", name)
		}
	}
}

func TestSignerThatCannotProvePossessionStopsTheStart(t *testing.T) {
	file := keytest.File(t, keytest.PEM(t, keytest.P256(t)))
	for name, wrap := range map[string]func(string, crypto.Signer) crypto.Signer{
		"another public key": func(string, crypto.Signer) crypto.Signer { return keytest.P256(t) },
		"a signature by another key": func(_ string, s crypto.Signer) crypto.Signer {
			return fake{public: s.Public(), Signer: keytest.P256(t)}
		},
		"an error": func(id string, s crypto.Signer) crypto.Signer {
			var f keytest.Signers
			f.SetFault(func(string, bool) error { return errors.New("the token is locked") })
			return f.Wrap(id, s)
		},
	} {
		if _, err := Open(t.Context(), []Config{conf("k", file)}, Options{Wrap: wrap}); err == nil {
			t.Errorf("%s: the ring opened", name)
		}
	}
}

// fake shows one public key and signs with another.
type fake struct {
	crypto.Signer
	public crypto.PublicKey
}

func (f fake) Public() crypto.PublicKey { return f.public }

func TestOneKeyUnderTwoIdsIsRefused(t *testing.T) {
	p := keytest.PEM(t, keytest.P256(t))
	strict, lax := conf("strict", keytest.File(t, p)), conf("lax", keytest.File(t, p))
	strict.Require.Approvals = 2
	if _, err := Open(t.Context(), []Config{strict, lax}, Options{}); !errors.Is(err, signing.Denied) {
		t.Errorf("got %v", err)
	}
}

func TestIntentThatDoesNotFitTheKeyIsRefusedWithoutUsingIt(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var signers keytest.Signers
	ring := open(t, Options{Wrap: signers.Wrap},
		conf("ec", keytest.File(t, keytest.PEM(t, keytest.P256(t)))),
		conf("rsa", keytest.File(t, keytest.PEM(t, rsa2048()))),
		conf("ed", keytest.File(t, keytest.PEM(t, ed))))
	signers.Reset()
	b := []byte("bytes")
	for _, c := range []struct {
		id string
		in signing.Intent
	}{
		{"ec", signing.Intent{Bytes: b}},
		{"ec", signing.Intent{Bytes: b, Hash: crypto.SHA1}},
		{"ec", signing.Intent{Bytes: b, Hash: crypto.Hash(99)}},
		{"ec", signing.Intent{Bytes: b, Hash: crypto.SHA256, Padding: signing.PSS}},
		{"ec", signing.Intent{Hash: crypto.SHA256}},
		{"rsa", signing.Intent{Bytes: b, Hash: crypto.SHA256}},
		{"rsa", signing.Intent{Bytes: b, Hash: crypto.SHA256, Padding: "none"}},
		{"ed", signing.Intent{Bytes: b, Hash: crypto.SHA512}},
		{"ed", signing.Intent{Bytes: b, Padding: signing.PSS}},
	} {
		if _, err := ring.Sign(t.Context(), c.id, c.in); !errors.Is(err, signing.Invalid) {
			t.Errorf("%s %+v: %v", c.id, c.in, err)
		}
	}
	if _, err := ring.Sign(t.Context(), "nobody", signing.Intent{Bytes: b, Hash: crypto.SHA256}); !errors.Is(err, signing.NotFound) {
		t.Errorf("unknown key: %v", err)
	}
	for _, id := range ring.IDs() {
		if n := signers.Uses(id); n != 0 {
			t.Errorf("key %s was used %d times", id, n)
		}
	}
}

func TestKeyIsNotUsedOnceTheWorkIsCanceled(t *testing.T) {
	file := keytest.File(t, keytest.PEM(t, keytest.P256(t)))
	synctest.Test(t, func(t *testing.T) {
		var signers keytest.Signers
		ring, err := Open(t.Context(), []Config{conf("k", file)}, Options{Wrap: signers.Wrap})
		if err != nil {
			t.Fatal(err)
		}
		signers.Reset()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		// Often, as a choice between two open ways would be made by chance.
		for range 50 {
			if _, err := ring.Sign(ctx, "k", signing.Intent{Bytes: []byte("b"), Hash: crypto.SHA256}); !errors.Is(err, signing.Unavailable) {
				t.Fatalf("got %v", err)
			}
		}
		synctest.Wait()
		if n := signers.Uses("k"); n != 0 {
			t.Errorf("the key was used %d times", n)
		}
	})
}

func TestSignatureThatDoesNotVerifyIsNotReturned(t *testing.T) {
	private, other := keytest.P256(t), keytest.P256(t)
	lying := false
	wrap := func(_ string, s crypto.Signer) crypto.Signer {
		return switching{fake{Signer: other, public: s.Public()}, s, &lying}
	}
	ring := open(t, Options{Wrap: wrap}, conf("k", keytest.File(t, keytest.PEM(t, private))))
	lying = true
	raw, err := ring.Sign(t.Context(), "k", signing.Intent{Bytes: []byte("b"), Hash: crypto.SHA256})
	if raw != nil || !errors.Is(err, signing.Internal) {
		t.Errorf("got %x, %v", raw, err)
	}
}

// switching signs with the true signer until it is told to lie.
type switching struct {
	fake
	honest crypto.Signer
	lying  *bool
}

func (s switching) Sign(r io.Reader, d []byte, o crypto.SignerOpts) ([]byte, error) {
	if *s.lying {
		return s.fake.Sign(r, d, o)
	}
	return s.honest.Sign(r, d, o)
}

func TestFailingKeyIsUsedOnceAndReportedAsUnavailable(t *testing.T) {
	var signers keytest.Signers
	ring := open(t, Options{Wrap: signers.Wrap}, conf("k", keytest.File(t, keytest.PEM(t, keytest.P256(t)))))
	signers.Reset()
	signers.SetFault(func(_ string, before bool) error {
		if before {
			return nil
		}
		return errors.New("the answer was lost")
	})
	if _, err := ring.Sign(t.Context(), "k", signing.Intent{Bytes: []byte("b"), Hash: crypto.SHA256}); !errors.Is(err, signing.Unavailable) {
		t.Errorf("got %v", err)
	}
	if n := signers.Uses("k"); n != 1 {
		t.Errorf("the key was used %d times", n)
	}
}

func TestKeyThatDoesNotAnswerTimesOut(t *testing.T) {
	file := keytest.File(t, keytest.PEM(t, keytest.P256(t)))
	synctest.Test(t, func(t *testing.T) {
		var signers keytest.Signers
		ring, err := Open(t.Context(), []Config{conf("k", file)}, Options{Wrap: signers.Wrap, Timeout: 3 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		answer := make(chan struct{})
		signers.SetFault(func(string, bool) error { <-answer; return nil })
		in := signing.Intent{Bytes: []byte("b"), Hash: crypto.SHA256}
		began := time.Now()
		// One more than may be in flight: the last does not even reach the key.
		for range maxInFlight + 1 {
			if _, err := ring.Sign(t.Context(), "k", in); !errors.Is(err, signing.Unavailable) {
				t.Fatalf("got %v", err)
			}
		}
		if d, want := time.Since(began), (maxInFlight+1)*3*time.Second; d != want {
			t.Errorf("took %v, want %v", d, want)
		}
		close(answer)
		synctest.Wait()
		if _, err := ring.Sign(t.Context(), "k", in); err != nil {
			t.Errorf("after the key recovered: %v", err)
		}
	})
}

func TestNoKeyBytesInErrorsOrFormattedValues(t *testing.T) {
	private := keytest.P256(t)
	d, err := private.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	ring := open(t, Options{}, conf("k", keytest.File(t, keytest.PEM(t, private))))
	var texts []string
	for _, v := range []any{ring, *ring, ring.keys["k"], *ring.keys["k"]} {
		texts = append(texts, fmt.Sprintf("%v %+v %#v %s %d %x", v, v, v, v, v, v))
		if j, err := json.Marshal(v); err == nil {
			texts = append(texts, string(j))
		}
	}
	// The key written to the wrong place or damaged shows up in no message.
	whole := keytest.PEM(t, private)
	for _, p := range [][]byte{whole[:len(whole)-40], append(whole, whole...), bytes.Replace(whole, []byte("PRIVATE"), []byte("ENCRYPTED SIGSTORE PRIVATE"), 2), bytes.ReplaceAll(whole, []byte("PRIVATE"), []byte("PUBLIC"))} {
		k := conf("k", keytest.File(t, p))
		if _, err := Open(t.Context(), []Config{k}, Options{}); err == nil {
			t.Error("a damaged key opened")
		} else {
			texts = append(texts, err.Error(), fmt.Sprintf("%+v", err))
		}
	}
	number := new(big.Int).SetBytes(d).String()
	line := strings.Split(string(whole), "\n")[1] // the number begins at its 49th character
	for _, text := range texts {
		for _, secret := range []string{hex.EncodeToString(d)[:16], number[:16], line[48:64], strings.Trim(fmt.Sprint(d[:8]), "[]")} {
			if strings.Contains(text, secret) {
				t.Errorf("%q is in %q", secret, text)
			}
		}
	}
}

func TestDigestNamesScopesAndKeysButNotTheirOrderOrPlace(t *testing.T) {
	pa, pb := keytest.PEM(t, keytest.P256(t)), keytest.PEM(t, keytest.P256(t))
	a, b := conf("a", keytest.File(t, pa)), conf("b", keytest.File(t, pb))
	base := open(t, Options{}, a, b).Digest()
	moved := conf("a", keytest.File(t, pa))
	if open(t, Options{}, b, moved).Digest() != base {
		t.Error("order or place changes the digest")
	}
	stricter, wider, swapped := a, a, a
	stricter.Require.Approvals = 1
	wider.Allow = append([]Allow{}, a.Allow...)
	wider.Allow[0].Repositories = []string{"registry.acme.dev/**"}
	swapped.File = config.Secret(keytest.File(t, keytest.PEM(t, keytest.P256(t))))
	for name, c := range map[string]Config{"condition": stricter, "scope": wider, "key": swapped} {
		if open(t, Options{}, c, b).Digest() == base {
			t.Errorf("a changed %s does not change the digest", name)
		}
	}
}

func TestExpiredCertificateShowsInReadinessAndDenies(t *testing.T) {
	private := keytest.P256(t)
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	k := conf("k", keytest.File(t, keytest.PEM(t, private)))
	k.Certificates = config.Secret(keytest.File(t, keytest.Chain(t, private.Public(), now.Add(-time.Hour), now.Add(time.Hour))))
	ring := open(t, Options{Now: func() time.Time { return now }}, k)
	if err := ring.Check(t.Context())["k"]; err != nil {
		t.Errorf("valid: %v", err)
	}
	now = now.Add(2 * time.Hour)
	if err := ring.Check(t.Context())["k"]; !errors.Is(err, signing.Denied) {
		t.Errorf("expired: %v", err)
	}
	if r := ring.Permit(goodUse()); r.Pass {
		t.Error("a key whose certificate has expired is permitted")
	}
}
