package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// keysFresh is how long a key set is used without asking the issuer again,
	// and so the longest time for which a withdrawn key is accepted while the
	// issuer can be reached. Issuers do not announce rotation.
	keysFresh = time.Hour
	// keysKept is how long a key set outlives an issuer that cannot be reached.
	// Who can cut us off from the issuer must not keep a withdrawn key alive for
	// longer than an outage is likely to last.
	keysKept = 6 * time.Hour
	// keysCooldown is the least time between two fetches, so that tokens with
	// made-up key ids cannot be used to hammer the issuer.
	keysCooldown = time.Minute
	// keysRetry is the least time after a failed fetch.
	keysRetry = 10 * time.Second
	// fetchTimeout bounds one fetch, discovery and key set together.
	fetchTimeout = 15 * time.Second
	// maxKeys bounds a key set. Large issuers publish some ten keys.
	maxKeys = 64
	// minRSABits: smaller keys are breakable. go-jose refuses those above 4096.
	minRSABits = 2048
)

// algorithms are the accepted signature algorithms: asymmetric ones only, so
// that a public key can never serve as the secret of an HMAC, and never "none".
var algorithms = []string{
	oidc.RS256, oidc.RS384, oidc.RS512, oidc.PS256, oidc.PS384, oidc.PS512,
	oidc.ES256, oidc.ES384, oidc.ES512, oidc.EdDSA,
}

// source fetches the bytes of a key set. Its errors are for the service's log.
type source func(ctx context.Context) ([]byte, error)

// keyCache holds the keys of one issuer. Fetches are coalesced, rate-limited
// and run under no caller's cancellation.
type keyCache struct {
	issuer string
	fetch  source
	now    func() time.Time
	log    *slog.Logger

	mu     sync.Mutex
	keys   []jose.JSONWebKey // nil until the first success
	loaded time.Time         // of keys
	next   time.Time         // no fetch before
	err    error             // of the last fetch
	flight chan struct{}     // closed when the fetch under way ends; nil if there is none
}

// keySet is a keyCache as go-oidc wants it, for one token.
type keySet struct {
	cache *keyCache
	// What VerifySignature returned: exactly one is set once it was called.
	payload []byte
	err     error
}

// VerifySignature implements oidc.KeySet. The key comes from the issuer's key
// set only, whatever the token's header says.
func (s *keySet) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	s.payload, s.err = s.cache.verify(ctx, jwt)
	return s.payload, s.err
}

func (k *keyCache) verify(ctx context.Context, jwt string) ([]byte, error) {
	algs := make([]jose.SignatureAlgorithm, len(algorithms))
	for i, a := range algorithms {
		algs[i] = jose.SignatureAlgorithm(a)
	}
	jws, err := jose.ParseSignedCompact(jwt, algs)
	if err != nil {
		return nil, &signing.Error{Code: signing.Unauthenticated, Message: "malformed token", Expected: "a signed JWT in compact form", Fix: fixToken, Err: err}
	}
	header := jws.Signatures[0].Protected
	keys, err := k.find(ctx, header.KeyID, header.Algorithm)
	if err != nil {
		return nil, err
	}
	// More than one only where an issuer gives two keys of one kind the same id.
	// Both are its keys, so either may have signed.
	for _, key := range keys {
		if payload, err := jws.Verify(key.Key); err == nil {
			return payload, nil
		}
	}
	return nil, refused("the token's signature is wrong", "a signature by the key "+quote(header.KeyID)+" of "+k.issuer, "another one, or a token that was altered or cut off", fixToken)
}

// find returns the keys with this id that fit alg. It asks the issuer if they
// are not there or no longer fresh and the last time is long enough ago.
func (k *keyCache) find(ctx context.Context, kid, alg string) ([]jose.JSONWebKey, error) {
	k.mu.Lock()
	now := k.now()
	if found := match(k.keys, kid, alg); len(found) > 0 && now.Sub(k.loaded) < keysFresh {
		k.mu.Unlock()
		return found, nil
	}
	if k.flight == nil && !now.Before(k.next) {
		k.flight = make(chan struct{})
		k.next = now.Add(keysCooldown)
		go k.load(context.WithoutCancel(ctx), k.flight)
	}
	flight := k.flight
	k.mu.Unlock()

	if flight != nil {
		select {
		case <-flight:
		case <-ctx.Done():
			return nil, k.unavailable(keysRetry, ctx.Err())
		}
	}

	k.mu.Lock()
	defer k.mu.Unlock()
	now = k.now()
	wait := max(k.next.Sub(now), time.Second)
	if k.keys == nil || now.Sub(k.loaded) >= keysKept {
		return nil, k.unavailable(wait, k.err)
	}
	if found := match(k.keys, kid, alg); len(found) > 0 {
		return found, nil
	}
	if flight == nil || k.err != nil {
		// The issuer may have a key by this id by now, but was not asked just now.
		return nil, k.unavailable(wait, k.err)
	}
	if kid == "" {
		return nil, refused("the token does not say which key signed it", "a kid in its header, as the issuer has several keys for "+alg, "none", fixToken)
	}
	return nil, refused("the token is signed by a key that its issuer does not have", "a key from the key set of "+k.issuer+" that fits "+alg, "the key id "+quote(kid), fixToken)
}

func (k *keyCache) unavailable(after time.Duration, err error) error {
	return &signing.Error{Code: signing.Unavailable, Message: "the keys of the token's issuer cannot be had at the moment", Expected: "the key set of " + k.issuer, Fix: "try again later; if it stays so, ask the operator of this service whether it can reach the issuer", RetryAfter: after, Err: err}
}

// load fetches the key set once and ends the flight.
func (k *keyCache) load(ctx context.Context, flight chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	keys, err := k.get(ctx)

	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err = err; err != nil {
		after := keysRetry
		var e *signing.Error
		if errors.As(err, &e) { // the issuer may have said when to come back
			after = min(max(after, e.RetryAfter), keysFresh)
		}
		k.next = k.now().Add(after)
		if k.keys != nil { // else the caller gets the error
			k.log.Warn("issuer keys could not be refreshed", "issuer", k.issuer, "keys_from", k.loaded, "error", err)
		}
	} else {
		// From here on a key that the issuer no longer lists is not accepted.
		k.keys, k.loaded = keys, k.now()
	}
	k.flight = nil
	close(flight)
}

func (k *keyCache) get(ctx context.Context) ([]jose.JSONWebKey, error) {
	raw, err := k.fetch(ctx)
	if err != nil {
		return nil, err
	}
	return parseKeys(raw)
}

// preload loads the keys when the service starts.
func (k *keyCache) preload() error {
	keys, err := k.get(context.Background())
	if err != nil {
		return err
	}
	k.keys, k.loaded = keys, k.now()
	return nil
}

// match returns the keys with the id kid that can have made a signature with
// alg. Without an id there must be one such key only.
func match(keys []jose.JSONWebKey, kid, alg string) []jose.JSONWebKey {
	var out []jose.JSONWebKey
	for _, k := range keys {
		if (kid == "" || k.KeyID == kid) && fits(k, alg) {
			out = append(out, k)
		}
	}
	if kid == "" && len(out) > 1 {
		return nil
	}
	return out
}

// fits reports whether the type of k belongs to alg (RFC 7518 section 3.1).
func fits(k jose.JSONWebKey, alg string) bool {
	if k.Algorithm != "" && k.Algorithm != alg {
		return false
	}
	switch pub := k.Key.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(alg, "RS") || strings.HasPrefix(alg, "PS")
	case *ecdsa.PublicKey:
		return map[string]string{"P-256": oidc.ES256, "P-384": oidc.ES384, "P-521": oidc.ES512}[pub.Params().Name] == alg
	case ed25519.PublicKey:
		return alg == oidc.EdDSA
	default:
		return false
	}
}

// parseKeys reads a JWK Set (RFC 7517). Keys that cannot verify tokens are left
// out, as the RFC asks: unknown types, other uses, symmetric and weak ones, and
// those whose private half is published along. A set of which nothing remains
// is an error, so that it does not replace keys that work.
func parseKeys(raw []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(raw, &set); err != nil {
		return nil, errors.New("the key set is not a JSON document with a list of keys")
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("the key set has %d keys, more than %d", len(set.Keys), maxKeys)
	}
	var out []jose.JSONWebKey
	for _, one := range set.Keys {
		if k, ok := parseKey(one); ok {
			out = append(out, k)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("none of the %d keys of the key set can verify tokens", len(set.Keys))
	}
	return out, nil
}

func parseKey(raw []byte) (k jose.JSONWebKey, ok bool) {
	members, err := parseObject(raw)
	if err != nil {
		return k, false
	}
	for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "k", "priv"} {
		if _, there := members[private]; there {
			return k, false
		}
	}
	if ops, there := members["key_ops"].([]any); there && !slices.Contains(ops, any("verify")) {
		return k, false
	}
	if err := k.UnmarshalJSON(raw); err != nil || !k.Valid() || !k.IsPublic() || (k.Use != "" && k.Use != "sig") {
		return k, false
	}
	if pub, isRSA := k.Key.(*rsa.PublicKey); isRSA && pub.N.BitLen() < minRSABits {
		return k, false
	}
	return k, slices.ContainsFunc(algorithms, func(a string) bool { return fits(k, a) })
}
