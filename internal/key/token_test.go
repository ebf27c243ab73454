package key

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/key/keytest"
	"github.com/sealwright/sealwright/internal/signing"
)

// module is a module in the process: one key, that is there or not.
type module struct {
	key   crypto.Signer
	err   error
	opens atomic.Int32
	drops atomic.Int32
}

func (m *module) Open(_ context.Context, at PKCS11, pin []byte) (crypto.Signer, error) {
	m.opens.Add(1)
	if string(pin) != "1234" || at.Token != "lab" {
		return nil, errors.New("another token or PIN")
	}
	if m.err != nil {
		return nil, m.err
	}
	return broken{m.key, m}, nil
}

func (m *module) Drop(crypto.Signer) { m.drops.Add(1) }
func (m *module) Close() error       { return nil }

// broken fails when its module is away.
type broken struct {
	crypto.Signer
	m *module
}

func (b broken) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	if b.m.err != nil {
		return nil, b.m.err
	}
	return b.Signer.Sign(r, digest, o)
}

// inModule is the configuration of a key of a module; public adds its public half.
func inModule(t *testing.T, public crypto.PublicKey) Config {
	t.Helper()
	dir := t.TempDir()
	pin := filepath.Join(dir, "pin")
	ok(t, os.WriteFile(pin, []byte("1234\n"), 0o600))
	c := Config{ID: "k", PKCS11: PKCS11{Module: "/usr/lib/module.so", Token: "lab", PIN: config.Secret("file:" + pin), Label: "release"}, Methods: []string{"cosign"}, Allow: []Allow{{"payments", "release", []string{"registry.acme.dev/payments/*"}}}}
	if public != nil {
		der, err := x509.MarshalPKIXPublicKey(public)
		ok(t, err)
		file := filepath.Join(dir, "public.pem")
		ok(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600))
		c.Public = config.Secret("file:" + file)
	}
	return c
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// signerOf is the signer of the key k.
func signerOf(t *testing.T, r *Ring) crypto.Signer {
	t.Helper()
	s, err := r.keys["k"].signer(t.Context())
	ok(t, err)
	return s
}

// anIntent is one to be signed with a P-256 key.
func anIntent() signing.Intent { return signing.Intent{Bytes: []byte("bytes"), Hash: crypto.SHA256} }

func TestAKeyOfAModuleSigns(t *testing.T) {
	m := &module{key: keytest.P256(t)}
	r, err := Open(t.Context(), []Config{inModule(t, nil)}, Options{PKCS11: m})
	ok(t, err)
	if _, err := r.Sign(t.Context(), "k", anIntent()); err != nil {
		t.Fatal(err)
	}
	if info, have := r.Info("k"); !have || info.Public == nil || r.Check(t.Context())["k"] != nil {
		t.Errorf("%+v %v", info, r.Check(t.Context()))
	}
}

func TestAModuleThatIsAwayTurnsItsKeysOffAndNoOther(t *testing.T) {
	away := &signing.Error{Code: signing.Unavailable, Message: "away"}
	m := &module{key: keytest.P256(t), err: away}
	now := time.Now()
	o := Options{PKCS11: m, Now: func() time.Time { return now }}
	// Without its public half nothing is known of the key.
	r, err := Open(t.Context(), []Config{inModule(t, nil)}, o)
	ok(t, err)
	if _, have := r.Info("k"); have || !errors.Is(r.Check(t.Context())["k"], signing.Unavailable) {
		t.Errorf("%v", r.Check(t.Context()))
	}
	if _, err := r.Sign(t.Context(), "k", anIntent()); !errors.Is(err, signing.Unavailable) {
		t.Error(err)
	}
	// With it the key is known, waits, and is opened when the module is back.
	r, err = Open(t.Context(), []Config{inModule(t, m.key.Public())}, o)
	ok(t, err)
	if _, have := r.Info("k"); !have || !errors.Is(r.Check(t.Context())["k"], signing.Unavailable) || !errors.Is(r.Check(t.Context())["k"], away) {
		t.Errorf("%v", r.Check(t.Context()))
	}
	digest := r.Digest()
	tries := m.opens.Load()
	m.err = nil
	if _, err := r.Sign(t.Context(), "k", anIntent()); !errors.Is(err, signing.Unavailable) || m.opens.Load() != tries {
		t.Errorf("tried again at once: %v", err)
	}
	now = now.Add(reopenAfter)
	if _, err := r.Sign(t.Context(), "k", anIntent()); err != nil {
		t.Error(err)
	}
	if err := r.Check(t.Context())["k"]; err != nil || r.Digest() != digest {
		t.Errorf("%v; digest %s, was %s", err, r.Digest(), digest)
	}
	// A session that breaks is closed, and opened anew.
	m.err = away
	if _, err := r.Sign(t.Context(), "k", anIntent()); !errors.Is(err, signing.Unavailable) || m.drops.Load() != 1 {
		t.Errorf("%v, %d sessions closed", err, m.drops.Load())
	}
	m.err, now = nil, now.Add(reopenAfter)
	if err := r.Check(t.Context())["k"]; err != nil {
		t.Error(err)
	}
}

func TestAKeyOfAModuleThatIsAnotherStopsTheStart(t *testing.T) {
	m := &module{key: keytest.P256(t)}
	other := keytest.P256(t)
	if _, err := Open(t.Context(), []Config{inModule(t, other.Public())}, Options{PKCS11: m}); !errors.Is(err, signing.Denied) {
		t.Errorf("another public half: %v", err)
	}
	if m.drops.Load() == 0 {
		t.Error("the session stays open")
	}
	m.err = &signing.Error{Code: signing.Denied, Message: "the token refuses the PIN"}
	if _, err := Open(t.Context(), []Config{inModule(t, m.key.Public())}, Options{PKCS11: m}); !errors.Is(err, signing.Denied) {
		t.Errorf("a PIN that is refused: %v", err)
	}
	if _, err := Open(t.Context(), []Config{inModule(t, nil)}, Options{}); !errors.Is(err, signing.Invalid) {
		t.Errorf("a program without PKCS#11: %v", err)
	}
}

func TestAPINThatIsRefusedIsNotSentAgain(t *testing.T) {
	m := &module{key: keytest.P256(t), err: &signing.Error{Code: signing.Unavailable, Message: "away"}}
	now := time.Now()
	r, err := Open(t.Context(), []Config{inModule(t, m.key.Public())}, Options{PKCS11: m, Now: func() time.Time { return now }})
	ok(t, err)
	m.err = &signing.Error{Code: signing.Denied, Message: "the token refuses the PIN"}
	for range 3 {
		now = now.Add(reopenAfter)
		if r.Check(t.Context())["k"] == nil {
			t.Fatal("the key counts as open")
		}
	}
	if n := m.opens.Load(); n != 2 {
		t.Errorf("the PIN was sent %d times", n)
	}
}

func TestAKeyIsInAFileOrInAModule(t *testing.T) {
	good := inModule(t, nil)
	if ps := Check([]Config{good}); ps.Err() != nil {
		t.Fatal(ps)
	}
	for what, change := range map[string]func(*Config){
		"both":              func(c *Config) { c.File = "file:/x" },
		"a relative module": func(c *Config) { c.PKCS11.Module = "libsofthsm2.so" },
		"no token":          func(c *Config) { c.PKCS11.Token = "" },
		"no PIN":            func(c *Config) { c.PKCS11.PIN = "" },
		"no name":           func(c *Config) { c.PKCS11.Label = "" },
		"an id that isn't":  func(c *Config) { c.PKCS11.ID = "xyz" },
		"public of a file":  func(c *Config) { c.PKCS11, c.File, c.Public = PKCS11{}, "file:/x", "file:/y" },
	} {
		c := good
		change(&c)
		if Check([]Config{c}).Err() == nil {
			t.Errorf("%s is taken", what)
		}
	}
}
