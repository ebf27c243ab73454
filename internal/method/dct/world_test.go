package dct_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/devworld/notary"
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

const gun = signing.Repository("registry.acme.dev/payments/web")

// world is a repository on a server, delegated to a key of ours.
type world struct {
	testing.TB
	server *notary.Server
	url    string
	owner  *notary.Owner
	client *dct.Client
	method *dct.Method
	memory dct.Memory
	now    time.Time
	made   int64 // documents of serve
	signer crypto.Signer
	key    signing.KeyInfo
}

// newWorld starts a server, and a repository that delegates releases to our key.
func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{TB: t, server: &notary.Server{}, memory: dct.NewMemory(), now: time.Now()}
	w.server.Now = func() time.Time { return w.now }
	srv := httptest.NewServer(w.server)
	t.Cleanup(srv.Close)
	w.url = srv.URL
	w.signer, w.key = newKey(t, "release", true)
	var err error
	if w.owner, err = notary.NewOwner(gun); err != nil {
		t.Fatal(err)
	}
	w.client = w.open(w.memory, dct.Pin{Repository: string(gun), RootKeys: []string{w.owner.Root.Key.ID}})
	w.method = dct.New(w.client)
	if err := w.owner.Init(t.Context(), w.client); err != nil {
		t.Fatal(err)
	}
	if err := w.owner.Delegate(t.Context(), w.client, dct.RoleReleases, w.key); err != nil {
		t.Fatal(err)
	}
	return w
}

// open returns another client of the server.
func (w *world) open(m dct.Memory, pins ...dct.Pin) *dct.Client {
	w.Helper()
	c, err := dct.Open([]dct.Config{{URL: w.url, Repositories: []string{"registry.acme.dev"}, Pins: pins, TrustOnFirstUse: len(pins) == 0}},
		dct.Options{Memory: m, Now: func() time.Time { return w.now }, Registry: registry.Options{Env: func(string) (string, bool) { return "", false }}})
	if err != nil {
		w.Fatal(err)
	}
	return c
}

// newKey makes a P-256 key, with a certificate or without.
func newKey(t testing.TB, id string, certified bool) (crypto.Signer, signing.KeyInfo) {
	t.Helper()
	cn := ""
	if certified {
		cn = id
	}
	s, err := notary.NewSigner(cn)
	if err != nil {
		t.Fatal(err)
	}
	return s.Private, signing.KeyInfo{ID: id, Public: s.Private.Public(), Chain: s.Key.Certificates}
}

// change binds a tag to the digest of text.
func change(tag, text string) signing.Change {
	return signing.Change{Tag: tag, Digest: signing.DigestOf([]byte(text)), Size: int64(len(text))}
}

func (w *world) target(changes ...signing.Change) method.Target {
	return method.Target{Artifact: signing.Artifact{Repository: gun}, Key: w.key, Part: dct.RoleReleases, Changes: changes}
}

// prepare returns the intent for a target.
func (w *world) prepare(t method.Target) signing.Intent {
	w.Helper()
	p, err := w.method.Prepare(w.Context(), t, w.now)
	if err != nil {
		w.Fatal(err)
	}
	if p.Intent == nil {
		w.Fatalf("recognised at %v", p.Recognised)
	}
	return *p.Intent
}

// sign is the key.
func sign(t testing.TB, s crypto.Signer, in signing.Intent) []byte {
	t.Helper()
	h := in.Hash.New()
	h.Write(in.Bytes)
	var o crypto.SignerOpts = in.Hash
	if in.Padding == signing.PSS {
		o = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: in.Hash}
	}
	raw, err := s.Sign(rand.Reader, h.Sum(nil), o)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// envelope does everything up to Assemble.
func (w *world) envelope(t method.Target) signing.Envelope {
	w.Helper()
	in := w.prepare(t)
	e, err := w.method.Assemble(t, in, sign(w, w.signer, in))
	if err != nil {
		w.Fatal(err)
	}
	return e
}

// publish signs a target.
func (w *world) publish(t method.Target) signing.Envelope {
	w.Helper()
	e := w.envelope(t)
	if _, err := w.method.Publish(w.Context(), t, e); err != nil {
		w.Fatal(err)
	}
	if _, err := w.method.Verify(w.Context(), t, e); err != nil {
		w.Fatal(err)
	}
	return e
}

// release signs one tag.
func (w *world) release(tag, text string) { w.Helper(); w.publish(w.target(change(tag, text))) }

// fetch reads everything.
func (w *world) fetch() *dct.State {
	w.Helper()
	s, err := w.client.Fetch(w.Context(), gun)
	if err != nil {
		w.Fatal(err)
	}
	return s
}

// wants fails unless err is of the class.
func wants(t testing.TB, err error, code signing.Code) *signing.Error {
	t.Helper()
	var e *signing.Error
	if !errors.As(err, &e) || !errors.Is(err, code) {
		t.Fatalf("got %v, want an error of class %s", err, code)
	}
	return e
}

func rsaKey(t testing.TB) (crypto.Signer, signing.KeyInfo) {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	return k, signing.KeyInfo{ID: "rsa", Public: k.Public()}
}

func p384(t testing.TB) (crypto.Signer, signing.KeyInfo) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x509.MarshalPKIXPublicKey(k.Public()); err != nil {
		t.Fatal(err)
	}
	return k, signing.KeyInfo{ID: "p384", Public: k.Public()}
}
