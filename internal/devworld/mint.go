package devworld

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// Flaw says what is wrong with a token. The zero value is an honest token.
type Flaw struct {
	// Algorithm is "" for RS256, "none", or "HS256": signed with the PEM text of
	// the issuer's public key as the secret, the key-confusion attack.
	Algorithm string
	// KeyID replaces the kid in the header; the issuer's own key still signs.
	KeyID string
	// Stranger signs with a key that the issuer never published, under the kid
	// of the one that it did.
	Stranger bool
	// EmbeddedKey signs with a stranger's key and puts its public half in the
	// header as `jwk`, for verifiers that believe what the token brings along.
	EmbeddedKey bool
	// Header adds to the protected header, `jku` for instance.
	Header map[string]string
	// Swap replaces claims after signing; the signature no longer fits.
	Swap map[string]any
	// Cut removes this many characters from the end of the compact token.
	Cut int
}

// Mint returns a token with exactly these claims; a claim whose value is nil is
// left out. Nothing is added: Claims of a job is where to start.
func (i *Issuer) Mint(claims map[string]any, f Flaw) (string, error) {
	payload, err := json.Marshal(present(claims))
	if err != nil {
		return "", fmt.Errorf("encoding claims: %w", err)
	}
	k := i.current()
	kid := k.id
	if f.KeyID != "" {
		kid = f.KeyID
	}
	token, err := f.sign(k, kid, payload)
	if err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	if f.Swap != nil {
		if token, err = swap(token, claims, f.Swap); err != nil {
			return "", err
		}
	}
	if f.Cut > len(token) {
		return "", fmt.Errorf("cutting %d characters off a token of %d", f.Cut, len(token))
	}
	return token[:len(token)-f.Cut], nil
}

func (f Flaw) sign(k *signingKey, kid string, payload []byte) (string, error) {
	opts := (&jose.SignerOptions{EmbedJWK: f.EmbeddedKey}).WithType("JWT").WithHeader("kid", kid)
	for name, v := range f.Header {
		opts = opts.WithHeader(jose.HeaderKey(name), v)
	}
	key := jose.SigningKey{Algorithm: jose.RS256, Key: k.private}
	switch {
	case f.Algorithm == "none":
		enc := base64.RawURLEncoding
		return enc.EncodeToString([]byte(`{"alg":"none","typ":"JWT","kid":"`+kid+`"}`)) + "." + enc.EncodeToString(payload) + ".", nil
	case f.Algorithm == "HS256":
		der, err := x509.MarshalPKIXPublicKey(k.private.Public())
		if err != nil {
			return "", fmt.Errorf("encoding the public key: %w", err)
		}
		key = jose.SigningKey{Algorithm: jose.HS256, Key: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})}
	case f.Algorithm != "":
		return "", fmt.Errorf("no flaw with algorithm %q", f.Algorithm)
	case f.Stranger || f.EmbeddedKey:
		stranger, err := rsa.GenerateKey(rand.Reader, keyBits)
		if err != nil {
			return "", fmt.Errorf("making a stranger's key: %w", err)
		}
		key.Key = stranger
	}
	s, err := jose.NewSigner(key, opts)
	if err != nil {
		return "", err
	}
	jws, err := s.Sign(payload)
	if err != nil {
		return "", err
	}
	return jws.CompactSerialize()
}

// swap replaces the payload of a signed token.
func swap(token string, claims, changes map[string]any) (string, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", fmt.Errorf("a compact token has 3 parts, this one %d", len(parts))
	}
	changed := maps.Clone(claims)
	maps.Copy(changed, changes)
	payload, err := json.Marshal(present(changed))
	if err != nil {
		return "", fmt.Errorf("encoding swapped claims: %w", err)
	}
	parts[1] = base64.RawURLEncoding.EncodeToString(payload)
	return strings.Join(parts, "."), nil
}

// present returns claims without those whose value is nil.
func present(claims map[string]any) map[string]any {
	out := maps.Clone(claims)
	maps.DeleteFunc(out, func(_ string, v any) bool { return v == nil })
	return out
}
