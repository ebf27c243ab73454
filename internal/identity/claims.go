package identity

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// MaxToken bounds a token before anything parses it. GitHub's are about
	// 1.5 KiB, GitLab's with 200 groups below 12 KiB; HTTP servers refuse larger
	// headers anyway.
	MaxToken = 16 << 10
	// maxClaims bounds the members of one JSON object in a token: some 40 claims
	// and GitHub's limit of 100 custom properties.
	maxClaims = 256
	// maxDepth bounds nesting; GitLab's user_identities has three levels.
	maxDepth = 8
	// maxValue bounds one claim that is used. A workflow reference is at most
	// owner (39), repository (100), path and ref (about 250 each).
	maxValue = 2 << 10
	// maxAudiences bounds an aud array.
	maxAudiences = 16
)

// Strict base64: without it the unused bits of the last character give one
// token several spellings.
var b64 = base64.RawURLEncoding.Strict()

// peekIssuer checks the outer form of a token and returns its iss claim, which
// nothing has verified: it may only choose from the allow-list. What it refuses
// costs no network access and no cryptography.
func peekIssuer(token string) (string, error) {
	const form = "a JWT in compact form: three parts of base64url between two dots"
	switch {
	case token == "":
		return "", refused("no token", "the OIDC token of a CI job", "nothing", fixToken)
	case len(token) > MaxToken:
		return "", refused("the token is too large", fmt.Sprintf("at most %d bytes", MaxToken), fmt.Sprintf("%d bytes", len(token)), fixToken)
	case strings.Count(token, ".") != 2:
		return "", refused("malformed token", form, fmt.Sprintf("%d dots", strings.Count(token, ".")), fixToken)
	}
	first, last := strings.IndexByte(token, '.'), strings.LastIndexByte(token, '.')
	header, err := b64.DecodeString(token[:first])
	if err != nil || len(header) == 0 {
		return "", refused("malformed token", form, "a header that is not base64url", fixToken)
	}
	if err := checkHeader(header); err != nil {
		return "", err
	}
	payload, err := b64.DecodeString(token[first+1 : last])
	if err != nil || len(payload) == 0 {
		return "", refused("malformed token", form, "a payload that is not base64url", fixToken)
	}
	if sig, err := b64.DecodeString(token[last+1:]); err != nil || len(sig) == 0 {
		return "", refused("malformed token", form, "no signature in base64url; the token may be cut off", fixToken)
	}
	if strings.ContainsAny(token, "\r\n") { // base64 decoders skip these
		return "", refused("malformed token", form, "a line break", fixToken)
	}
	c, err := parseClaims(payload)
	if err != nil {
		return "", err
	}
	return c.required("iss")
}

// checkHeader refuses what must never be decided by the token itself: its key,
// an algorithm outside the list, extensions of JWS.
func checkHeader(header []byte) error {
	h, err := parseObject(header)
	if err != nil {
		return refused("malformed token header", "one JSON object with distinct members", err.Error(), fixToken)
	}
	// RFC 7515 sections 4.1.2 to 4.1.6 and 4.1.11; RFC 7797.
	for _, name := range []string{"jwk", "jku", "x5u", "x5c", "crit", "b64", "zip"} {
		if _, ok := h[name]; ok {
			return refused("the token's header has a member that this service refuses", "keys from the issuer's key set only, and no extensions", "a member named "+name, fixToken)
		}
	}
	if typ, ok := h["typ"]; ok {
		if s, _ := typ.(string); !strings.EqualFold(s, "JWT") && !strings.EqualFold(s, "JOSE") {
			return refused("not an identity token", "typ JWT", quote(fmt.Sprint(typ)), fixToken)
		}
	}
	if kid, ok := h["kid"]; ok {
		if s, isText := kid.(string); !isText || checkText(s) != nil {
			return refused("malformed token header", "a kid of printable characters", "something else", fixToken)
		}
	}
	alg, _ := h["alg"].(string)
	if !slices.Contains(algorithms, alg) {
		return refused("the token's algorithm is not accepted", "one of "+strings.Join(algorithms, ", "), quote(alg), "sign tokens with an asymmetric algorithm; RS256 and ES256 are usual")
	}
	return nil
}

// hashToken identifies a token without revealing it. It covers header and
// payload and not the signature: who holds an ES256 token can make a second
// valid signature from the first (n-s for s) and would have a second token.
func hashToken(token string) string {
	h := sha256.Sum256([]byte(token[:strings.LastIndexByte(token, '.')]))
	return hex.EncodeToString(h[:])
}

// claims are the members of a token's payload as parseObject returns them.
type claims map[string]any

func parseClaims(payload []byte) (claims, error) {
	m, err := parseObject(payload)
	if err != nil {
		return nil, refused("malformed claims", "one JSON object with distinct members", err.Error(), fixToken)
	}
	return m, nil
}

// parseObject parses one JSON object and nothing after it. Unlike
// encoding/json it refuses repeated members, on any level, and text that is not
// UTF-8. Values are string, json.Number, bool, nil, []any and map[string]any.
func parseObject(data []byte) (map[string]any, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("text that is not UTF-8")
	}
	if !json.Valid(data) { // also refuses what follows the first value
		return nil, errors.New("not a JSON document")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	v, err := parseValue(dec, 0)
	if err != nil {
		return nil, err
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("JSON that is not an object")
	}
	return m, nil
}

func parseValue(dec *json.Decoder, depth int) (any, error) {
	tok, err := dec.Token()
	if err != nil {
		return nil, errors.New("not a JSON document")
	}
	open, ok := tok.(json.Delim)
	if !ok {
		return tok, nil
	}
	if depth == maxDepth {
		return nil, fmt.Errorf("more than %d levels", maxDepth)
	}
	if open == '[' {
		list := []any{}
		for dec.More() {
			v, err := parseValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := dec.Token()
		return list, err
	}
	m := map[string]any{}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, errors.New("not a JSON document")
		}
		key, _ := name.(string) // json.Valid held, so it is one
		if _, twice := m[key]; twice {
			return nil, fmt.Errorf("the member %s twice", quote(key))
		}
		if len(m) == maxClaims {
			return nil, fmt.Errorf("more than %d members", maxClaims)
		}
		if m[key], err = parseValue(dec, depth+1); err != nil {
			return nil, err
		}
	}
	_, err = dec.Token()
	return m, err
}

// lookup returns the claim called name. "job_config.url" means the member url
// of the object job_config, unless there is a claim with the whole name. null
// counts as absent.
func (c claims) lookup(name string) (any, bool) {
	if v, ok := c[name]; ok {
		return v, v != nil
	}
	if dot := strings.LastIndexByte(name, '.'); dot > 0 {
		if m, ok := c[name[:dot]].(map[string]any); ok {
			v := m[name[dot+1:]]
			return v, v != nil
		}
	}
	return nil, false
}

var reInteger = regexp.MustCompile(`^(?:0|-?[1-9][0-9]{0,18})$`)

// text returns a claim as text: a string, a whole number or a boolean. It is
// absent if missing, null or "".
func (c claims) text(name string) (value string, present bool, err error) {
	v, ok := c.lookup(name)
	if !ok {
		return "", false, nil
	}
	switch v := v.(type) {
	case string:
		if err := checkText(v); err != nil {
			return "", false, refused("the token's claim "+name+" cannot be used", "printable text", err.Error(), "rename what the claim is taken from, such as a branch or an environment")
		}
		return v, v != "", nil
	case json.Number:
		if !reInteger.MatchString(v.String()) {
			return "", false, refused("the token's claim "+name+" cannot be used", "a whole number of at most 19 digits", "another number", "ask the operator of the CI; this is no usual token")
		}
		return v.String(), true, nil
	case bool:
		return fmt.Sprint(v), true, nil
	default:
		return "", false, refused("the token's claim "+name+" cannot be used", "a single value", "a list or an object", "ask the operator of this service to look at the issuer's claim templates")
	}
}

// required is text for a claim that must be there.
func (c claims) required(name string) (string, error) {
	v, ok, err := c.text(name)
	if err == nil && !ok {
		err = missing(name)
	}
	return v, err
}

func missing(name string) error {
	return refused("the token lacks a claim", "the claim "+name, "none, or an empty one", "use a token of a kind and version of CI that has this claim")
}

// checkText refuses what could mislead a reader of a log, a comment or a
// terminal: control characters, line and paragraph separators, and marks that
// change the direction of text. U+FFFD is what a lone surrogate decodes to, so
// that two different names would become one.
func checkText(s string) error {
	if len(s) > maxValue {
		return fmt.Errorf("more than %d bytes", maxValue)
	}
	for _, r := range s {
		if unicode.IsControl(r) || r == utf8.RuneError || unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp) {
			return fmt.Errorf("the character %U", r)
		}
	}
	return nil
}

// audiences returns the aud claim, which may be one string or a list.
func (c claims) audiences() ([]string, error) {
	list, ok := c["aud"].([]any)
	if !ok {
		list = []any{c["aud"]}
	}
	var out []string
	for _, v := range list {
		s, ok := v.(string)
		if !ok || s == "" || checkText(s) != nil || len(out) == maxAudiences {
			return nil, refused("the token's audience cannot be read", "aud as a string or a short list of strings", "something else", fixToken)
		}
		out = append(out, s)
	}
	return out, nil
}

// reTime is NumericDate of RFC 7519 as far as year 5138: no exponents and no
// sign, so that no conversion can overflow.
var reTime = regexp.MustCompile(`^([0-9]{1,11})(?:\.[0-9]{1,9})?$`)

// time returns a NumericDate cut to seconds, and the zero time if it is absent
// and may be.
func (c claims) time(name string, must bool) (time.Time, error) {
	v, ok := c[name]
	if !ok && !must {
		return time.Time{}, nil
	}
	if !ok {
		return time.Time{}, missing(name)
	}
	n, _ := v.(json.Number)
	m := reTime.FindStringSubmatch(n.String())
	if m == nil {
		return time.Time{}, &signing.Error{Code: signing.Unauthenticated, Message: "the token's claim " + name + " is no time", Expected: "seconds since 1970 as a plain number", Found: "something else", Fix: fixToken}
	}
	sec, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the claim %s: %w", name, err)
	}
	return time.Unix(sec, 0).UTC(), nil
}
