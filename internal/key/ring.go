package key

import (
	"cmp"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/sealwright/sealwright/internal/openpgp"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// defaultTimeout is the time that one use of a key may take. A key in a file
	// takes milliseconds, one in an HSM or a KMS up to some seconds.
	defaultTimeout = 10 * time.Second
	// maxInFlight bounds the uses of one key at a time, so that a backend that
	// does not answer holds no more than this many goroutines.
	maxInFlight = 64
)

// Options are the surroundings of a Ring. The zero value is that of production.
type Options struct {
	Env     func(string) (string, bool) // os.LookupEnv if nil
	Now     func() time.Time            // time.Now if nil
	Rand    io.Reader                   // crypto/rand if nil
	Timeout time.Duration               // of one use of a key; 10 s if zero
	// Wrap, in tests, stands a counting or faulting signer before a key. It is
	// called once for each key, before the proof of possession, which uses the
	// signer once.
	Wrap func(id string, s crypto.Signer) crypto.Signer
	// PKCS11 opens keys of hardware security modules; nil where this program cannot.
	PKCS11 Backend
}

// Key is one opened key. It shows its public half; formatted or encoded, it
// never shows the private one.
type Key struct {
	signing.KeyInfo
	version string
	config  Config
	// signer is a function, not a value: packages that print structs cannot
	// look into it. It is Unavailable for a module that cannot be reached now.
	signer func(ctx context.Context) (crypto.Signer, error)
	// failed is told of each use that failed; nil where nothing is to be done.
	failed func()
	slots  chan struct{}
	pgp    *openpgp.Certificate // nil without one
}

// Ring is the set of opened keys. It does not change after Open, and may be
// used by many goroutines.
type Ring struct {
	keys   map[string]*Key
	off    map[string]error // keys of which nothing is known, and why
	digest signing.Digest
	o      Options
}

// Open reads the keys, checks each and proves possession: the key signs a
// nonce, and its public half, and its certificate where it has one, verify it.
// Any key that fails stops the start; the error names all that failed.
func Open(ctx context.Context, keys []Config, o Options) (*Ring, error) {
	o.Env = orDefault(o.Env == nil, os.LookupEnv, o.Env)
	o.Now = orDefault(o.Now == nil, time.Now, o.Now)
	o.Rand = orDefault(o.Rand == nil, rand.Reader, o.Rand)
	o.Timeout = cmp.Or(o.Timeout, defaultTimeout)
	if err := Check(keys).Err(); err != nil {
		return nil, fmt.Errorf("opening keys: %w", err)
	}
	r := &Ring{keys: map[string]*Key{}, off: map[string]error{}, o: o}
	var failed []string
	code := signing.Invalid
	byVersion := map[string]string{}
	for _, c := range keys {
		k, err := r.open(ctx, c)
		if err != nil && c.PKCS11 != (PKCS11{}) && signing.CodeOf(err) == signing.Unavailable {
			r.off[c.ID] = err
			continue
		}
		if err == nil && byVersion[k.version] != "" {
			// The scope of one id would not be the scope of the key.
			err = &signing.Error{Code: signing.Denied, Message: "the same key is " + byVersion[k.version] + " already", Fix: "put the scopes of one key into one entry"}
		}
		if err != nil {
			failed = append(failed, c.ID+": "+err.Error())
			code = signing.CodeOf(err)
			continue
		}
		byVersion[k.version] = k.ID
		r.keys[k.ID] = k
	}
	if len(failed) > 0 {
		return nil, &signing.Error{Code: code, Message: "keys that cannot be used: " + strings.Join(failed, "\n")}
	}
	var err error
	if r.digest, err = r.computeDigest(); err != nil {
		return nil, err
	}
	return r, nil
}

func orDefault[T any](unset bool, def, v T) T {
	if unset {
		return def
	}
	return v
}

// open reads one key and proves it.
func (r *Ring) open(ctx context.Context, c Config) (*Key, error) {
	if c.PKCS11 != (PKCS11{}) {
		return r.openToken(ctx, c)
	}
	raw, err := readPrivate(c.File, r.o.Env)
	if err != nil {
		return nil, err
	}
	defer clear(raw)
	var passphrase []byte
	if c.Passphrase != "" {
		if passphrase, err = readPrivate(c.Passphrase, r.o.Env); err != nil {
			return nil, err
		}
		defer clear(passphrase)
	}
	signer, pgp, err := readSigner(raw, passphrase, c.Passphrase != "")
	if err != nil {
		return nil, err
	}
	k := &Key{KeyInfo: signing.KeyInfo{ID: c.ID, Public: signer.Public()}, config: c, slots: make(chan struct{}, maxInFlight)}
	if k.version, err = k.Version(); err != nil {
		return nil, err
	}
	if err := r.certify(k, pgp); err != nil {
		return nil, err
	}
	if r.o.Wrap != nil {
		signer = r.o.Wrap(c.ID, signer)
	}
	k.signer = func(context.Context) (crypto.Signer, error) { return signer, nil }
	if err := r.prove(ctx, k, signer); err != nil {
		return nil, err
	}
	return k, nil
}

// certify reads both kinds of certificates of a key.
func (r *Ring) certify(k *Key, pgp *openpgp.Certificate) error {
	if k.config.Certificates != "" {
		pem, err := k.config.Certificates.Read(r.o.Env)
		if err != nil {
			return unreadable(err)
		}
		if k.Chain, err = parseChain(pem, k.Public); err != nil {
			return err
		}
	}
	return r.certifyOpenPGP(k, pgp)
}

// prove makes the key sign a nonce and verifies the signature with the public
// half that the ring will show.
func (r *Ring) prove(ctx context.Context, k *Key, signer crypto.Signer) error {
	if err := cryptoutils.EqualKeys(k.Public, signer.Public()); err != nil {
		return &signing.Error{Code: signing.Denied, Message: "the signer has another public key than the file", Err: err}
	}
	nonce := make([]byte, 32)
	if _, err := io.ReadFull(r.o.Rand, nonce); err != nil {
		return fmt.Errorf("reading randomness: %w", err)
	}
	// The words keep the bytes from being mistaken for anything that is signed
	// in earnest.
	in := signing.Intent{Bytes: append([]byte("sealwright proof of possession 1\n"), nonce...)}
	if !isEd25519(k.Public) {
		in.Hash = crypto.SHA256
	}
	if _, isRSA := k.Public.(*rsa.PublicKey); isRSA {
		in.Padding = signing.PKCS1v15
	}
	proof := *k
	proof.signer, proof.failed = func(context.Context) (crypto.Signer, error) { return signer, nil }, nil
	if _, err := r.sign(ctx, &proof, in); err != nil {
		return fmt.Errorf("proving possession: %w", err)
	}
	return nil
}

// Info returns the public half of a key.
func (r *Ring) Info(id string) (signing.KeyInfo, bool) {
	k, ok := r.keys[id]
	if !ok {
		return signing.KeyInfo{}, false
	}
	info := k.KeyInfo
	info.Chain, info.OpenPGP = slices.Clone(info.Chain), slices.Clone(info.OpenPGP)
	return info, true
}

// IDs returns the ids of all keys, sorted; not of those that Check alone knows.
func (r *Ring) IDs() []string {
	ids := make([]string, 0, len(r.keys))
	for id := range r.keys {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// Digest returns a digest of what the ring stands for: public keys, both kinds of
// certificates, scopes and least conditions. It does not depend on the order of
// the keys file, nor on where the keys lie.
func (r *Ring) Digest() signing.Digest { return r.digest }

func (r *Ring) computeDigest() (signing.Digest, error) {
	type entry struct {
		ID, Version string
		Chain       []string
		OpenPGP     string
		Methods     []string
		Allow       []Allow
		Require     Require
	}
	entries := make([]entry, 0, len(r.keys))
	for _, id := range r.IDs() {
		k := r.keys[id]
		e := entry{ID: id, Version: k.version, Methods: k.config.Methods, Allow: k.config.Allow, Require: k.config.Require, OpenPGP: hex.EncodeToString(k.OpenPGP)}
		for _, c := range k.Chain {
			e.Chain = append(e.Chain, hex.EncodeToString(c.Raw))
		}
		entries = append(entries, e)
	}
	raw, err := json.Marshal(entries)
	if err != nil {
		return "", fmt.Errorf("encoding the scopes of keys: %w", err)
	}
	return signing.DigestOf(raw), nil
}

// Check says of every key whether it can be used now; nil is yes. It uses no
// key, so that the count of uses stays that of signatures and of Open; one of a
// module that could not be reached is opened, if the module is back.
func (r *Ring) Check(ctx context.Context) map[string]error {
	out := make(map[string]error, len(r.keys)+len(r.off))
	for id, k := range r.keys {
		_, err := k.signer(ctx)
		out[id] = cmp.Or(ctx.Err(), k.expired(r.o.Now()), err)
	}
	maps.Copy(out, r.off)
	return out
}

// expired reports a certificate that is not valid at now.
func (k *Key) expired(now time.Time) error {
	if k.pgp != nil {
		if err := k.pgp.Valid(now); err != nil {
			return err
		}
	}
	if len(k.Chain) == 0 {
		return nil
	}
	leaf := k.Chain[0]
	if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return &signing.Error{Code: signing.Denied, Message: "the certificate of key " + k.ID + " is not valid now", Expected: fmt.Sprintf("a time from %s to %s", leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339)), Found: now.UTC().Format(time.RFC3339), Fix: "renew the certificate and restart the service"}
	}
	return nil
}

// String names the key and nothing else.
func (k *Key) String() string { return "key " + k.ID + " " + k.version }
