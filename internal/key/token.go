package key

import (
	"context"
	"crypto"
	"encoding/hex"
	"encoding/pem"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/signing"
)

// PKCS11 is where a key is in a hardware security module.
type PKCS11 struct {
	// Module is the library of the module's maker, an absolute path.
	Module string `yaml:"module"`
	// Token is the label of the token, and PIN what opens it.
	Token string        `yaml:"token"`
	PIN   config.Secret `yaml:"pin"`
	// Label (CKA_LABEL) or ID (CKA_ID, in hex) names the key on the token; both if one
	// alone names two.
	Label string `yaml:"label"`
	ID    string `yaml:"id"`
}

// Backend opens keys of hardware security modules.
type Backend interface {
	// Open returns the key. The error is Unavailable where the module cannot be loaded
	// or reached now, which may change; every other stops the start.
	Open(ctx context.Context, at PKCS11, pin []byte) (crypto.Signer, error)
	// Drop closes the connection of a signer that Open has returned, so that the next
	// Open connects anew. One that was closed already stays so.
	Drop(s crypto.Signer)
	Close() error
}

const (
	// maxLabel bounds labels: tokens have 32 characters, keys any number.
	maxLabel = 255
	// reopenAfter is how long a module that could not be reached is left alone. Each
	// try sends the PIN.
	reopenAfter = 10 * time.Second
)

// pkcs11 checks a key in a module.
func (c *checker) pkcs11(at string, k Config) {
	p := k.PKCS11
	if k.File != "" || k.Passphrase != "" {
		c.Add(at+".pkcs11", "stands in place of `file` and `passphrase`: take one of the two out")
	}
	if !filepath.IsAbs(p.Module) {
		c.Add(at+".pkcs11.module", "must be the absolute path of the module's library, as in /usr/lib/softhsm/libsofthsm2.so")
	}
	if p.Token == "" || len(p.Token) > maxLabel {
		c.Add(at+".pkcs11.token", "must be the label of the token")
	}
	if p.PIN == "" {
		c.Add(at+".pkcs11.pin", "is missing; refer to the PIN, as in file:/etc/sealwright/pin")
	}
	if p.Label == "" && p.ID == "" || len(p.Label) > maxLabel {
		c.Add(at+".pkcs11", "must name the key, by its `label` or its `id`")
	}
	if raw, err := hex.DecodeString(p.ID); err != nil || len(raw) > maxLabel {
		c.Add(at+".pkcs11.id", "must be the key's CKA_ID in hex, as in 01")
	}
}

// openToken reads a key of a module and proves it. It is Unavailable only if the
// module cannot be reached and the public half is not known without it.
func (r *Ring) openToken(ctx context.Context, c Config) (*Key, error) {
	if r.o.PKCS11 == nil {
		return nil, &signing.Error{Code: signing.Invalid, Message: "this program cannot use PKCS#11", Expected: "a sealwrightd that is linked with the C library", Found: "the static one, which cannot load a module", Fix: "use the image whose tag ends in -pkcs11, or the program that `make build` makes"}
	}
	known, err := r.publicHalf(c)
	if err != nil {
		return nil, err
	}
	signer, away := r.connect(ctx, c.PKCS11)
	if away != nil && (known == nil || signing.CodeOf(away) != signing.Unavailable) {
		return nil, away
	}
	if known == nil {
		known = signer.Public()
	}
	k := &Key{KeyInfo: signing.KeyInfo{ID: c.ID, Public: known}, config: c, slots: make(chan struct{}, maxInFlight)}
	if k.version, err = k.Version(); err != nil {
		return nil, err
	}
	if err := r.certify(k, nil); err != nil {
		return nil, err
	}
	t := &tokenKey{ring: r, key: k}
	k.signer, k.failed = t.signer, t.lost
	if away != nil {
		t.away(away)
		return k, nil
	}
	if err = t.accept(ctx, signer); err != nil && signing.CodeOf(err) == signing.Unavailable {
		t.away(err)
		return k, nil
	}
	return k, err
}

// connect opens the key's token.
func (r *Ring) connect(ctx context.Context, at PKCS11) (crypto.Signer, error) {
	pin, err := readPrivate(at.PIN, r.o.Env)
	if err != nil {
		return nil, err
	}
	defer clear(pin)
	ctx, cancel := context.WithTimeout(ctx, r.o.Timeout)
	defer cancel()
	return r.o.PKCS11.Open(ctx, at, []byte(strings.TrimRight(string(pin), "\r\n")))
}

// publicHalf is what the keys file says of the public half, nil if nothing.
func (r *Ring) publicHalf(c Config) (crypto.PublicKey, error) {
	from := c.Public
	if from == "" {
		from = c.Certificates
	}
	if from == "" {
		return nil, nil
	}
	raw, err := from.Read(r.o.Env)
	if err != nil {
		return nil, unreadable(err)
	}
	if c.Public != "" {
		public, err := cryptoutils.UnmarshalPEMToPublicKey([]byte(raw))
		if err != nil {
			return nil, &signing.Error{Code: signing.Invalid, Message: "the public half of key " + c.ID + " cannot be read", Expected: "a PEM block PUBLIC KEY", Found: "something else", Err: err}
		}
		return public, nil
	}
	block, _ := pem.Decode([]byte(raw))
	if block == nil {
		return nil, &signing.Error{Code: signing.Invalid, Message: "the certificates of key " + c.ID + " cannot be read", Expected: "PEM", Found: "something else"}
	}
	chain, err := cryptoutils.UnmarshalCertificatesFromPEM(pem.EncodeToMemory(block))
	if err != nil || len(chain) != 1 {
		return nil, &signing.Error{Code: signing.Invalid, Message: "the certificates of key " + c.ID + " cannot be read", Expected: "PEM certificates", Found: "something else", Err: err}
	}
	return chain[0].PublicKey, nil
}

func unreached(id string, err error) error {
	return &signing.Error{Code: signing.Unavailable, Message: "the module of key " + id + " cannot be reached", Fix: "look at the module and its network; the key is opened again by itself", RetryAfter: reopenAfter, Err: err}
}

// tokenKey opens a key of a module again after the module was away.
type tokenKey struct {
	ring *Ring
	key  *Key

	mu    sync.Mutex
	open  crypto.Signer // nil while it is away
	raw   crypto.Signer // what the backend gave, for Drop
	tried time.Time
	err   error // of the last try
	over  bool  // err is final: a PIN that was refused once is not sent again
}

func (t *tokenKey) signer(ctx context.Context) (crypto.Signer, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.ring.o.Now()
	if t.open != nil {
		return t.open, nil
	}
	if t.over || now.Sub(t.tried) < reopenAfter {
		return nil, t.err
	}
	t.tried = now
	s, err := t.ring.connect(ctx, t.key.config.PKCS11)
	if err == nil {
		err = t.proven(ctx, s)
	}
	if err != nil {
		t.over = signing.CodeOf(err) != signing.Unavailable
		t.err = unreached(t.key.ID, err)
		return nil, t.err
	}
	return t.open, nil
}

// accept takes a signer that was just opened.
func (t *tokenKey) accept(ctx context.Context, s crypto.Signer) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.proven(ctx, s)
}

// away notes that the module cannot be reached.
func (t *tokenKey) away(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tried, t.err = t.ring.o.Now(), unreached(t.key.ID, err)
}

// proven proves possession and keeps the signer. t.mu is held.
func (t *tokenKey) proven(ctx context.Context, s crypto.Signer) error {
	raw := s
	if t.ring.o.Wrap != nil {
		s = t.ring.o.Wrap(t.key.ID, s)
	}
	if err := t.ring.prove(ctx, t.key, s); err != nil {
		t.ring.o.PKCS11.Drop(raw)
		return err
	}
	t.open, t.raw, t.err = s, raw, nil
	return nil
}

// lost closes the key after a use that failed: a session that broke does not come
// back by itself.
func (t *tokenKey) lost() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		return
	}
	t.ring.o.PKCS11.Drop(t.raw)
	t.open, t.raw, t.err, t.tried = nil, nil, unreached(t.key.ID, nil), t.ring.o.Now()
}
