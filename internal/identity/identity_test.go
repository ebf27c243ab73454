package identity

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/signing"
)

func TestAGitHubTokenGivesIdentityAndOrigin(t *testing.T) {
	w := newWorld(t)
	token := w.token(w.claims())
	id, o := w.accept(w.verifier(w.issuer()), token)
	want := signing.Identity{
		Issuer: w.url, Provider: "github-actions", Role: signing.RoleCI, Subject: "repo:acme/payments-web:ref:refs/heads/main",
		Audience: ourAudience, TokenID: "token-1", TokenHash: hashToken(token), IssuedAt: start, Accepted: start.Add(5*time.Minute + Leeway),
	}
	if d := cmp.Diff(want, id); d != "" {
		t.Error(d)
	}
	if o.Forge != "ghe.acme.dev" || o.SourceRepositoryIdentifier != "7401" || o.SourceRepositoryOwnerIdentifier != "65" || !o.RefProtected {
		t.Errorf("unexpected origin %+v", o)
	}
}

func TestAGitLabTokenIsOnePerJobAndAcceptedUntilItsMaximumAge(t *testing.T) {
	w := newWorld(t)
	id, o := w.accept(w.verifier(w.gitlab()), w.token(w.gitlabClaims()))
	if !id.PerJob || !id.Accepted.Equal(start.Add(time.Hour+Leeway)) {
		t.Errorf("PerJob %v, Accepted %v", id.PerJob, id.Accepted)
	}
	if o.Kind != "gitlab" || o.RunnerID != "31" || o.SourceRepositoryRef != "refs/heads/main" {
		t.Errorf("unexpected origin %+v", o)
	}
}

func TestEachAcceptedAlgorithmIsAcceptedWithAKeyThatFits(t *testing.T) {
	w := newWorld(t)
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	ec := ecKey()
	w.keys = append(w.keys, public("ec-256", ec), public("ec-384", p384))
	v := w.verifier(w.issuer())
	for _, token := range []string{
		sign(jose.RS512, "rsa-1", rsaKey(), w.claims(), nil), sign(jose.PS256, "rsa-1", rsaKey(), w.claims(), nil),
		sign(jose.ES256, "ec-256", ec, w.claims(), nil), sign(jose.ES384, "ec-384", p384, w.claims(), nil),
	} {
		w.accept(v, token)
	}
	w.refuse(v, sign(jose.ES256, "ec-384", ec, w.claims(), nil), signing.Unavailable) // no key of that id fits ES256
}

func TestAPullRequestTargetTokenThatLooksLikeMainKeepsItsTrigger(t *testing.T) {
	w := newWorld(t)
	_, o := w.accept(w.verifier(w.issuer()), w.token(w.claims(edit{"event_name": "pull_request_target"})))
	if o.BuildTrigger != "pull_request_target" || o.SourceRepositoryRef != "refs/heads/main" || !o.RefProtected {
		t.Errorf("unexpected origin %+v", o)
	}
}

func TestAGitLabMergeRequestTokenOfAForkIsRefused(t *testing.T) {
	w := newWorld(t)
	fork := edit{"project_id": "999", "project_path": "stranger/payments", "namespace_id": "73", "namespace_path": "stranger", "pipeline_source": "merge_request_event"}
	w.refuse(w.verifier(w.gitlab()), w.token(w.gitlabClaims(fork)), signing.Unauthenticated, "another project", "999", "412")
}

// Nothing here may use the network: the tokens are refused by their form.
func TestATokenOfBadFormIsRefusedBeforeAnyNetworkUse(t *testing.T) {
	w := newWorld(t)
	v := w.offline(w.issuer())
	good := w.token(w.claims())
	part := strings.Split(good, ".")
	body, _ := base64.RawURLEncoding.DecodeString(part[1])
	header := `{"alg":"RS256","kid":"rsa-1"}`
	raw := func(header string) string { return plain(header, string(body), "signature") }
	deep := strings.Repeat("[", 40) + strings.Repeat("]", 40)
	for name, c := range map[string]struct{ token, says string }{
		"missing":                  {"", "no token"},
		"one megabyte":             {strings.Repeat("a", 1<<20), "too large"},
		"one megabyte of dots":     {strings.Repeat(".", 1<<20), "too large"},
		"many dots":                {strings.Repeat(".", MaxToken), "malformed"},
		"one dot":                  {part[0] + "." + part[1], "malformed"},
		"JWE of five parts":        {good + ".a.b", "malformed"},
		"JSON serialization":       {`{"payload":"` + part[1] + `","protected":"` + part[0] + `","signature":"` + part[2] + `","..":1}`, "malformed"},
		"Bearer kept in front":     {"Bearer " + good, "malformed"},
		"space at the end":         {good + " ", "malformed"},
		"line break":               {part[0] + ".\n" + part[1] + "." + part[2], "malformed"},
		"unused bits set":          {good[:len(good)-1] + string(good[len(good)-1]+1), "malformed"},
		"padded":                   {part[0] + "=." + part[1] + "." + part[2], "malformed"},
		"no signature":             {part[0] + "." + part[1] + ".", "malformed"},
		"no payload":               {part[0] + ".." + part[2], "malformed"},
		"no header":                {"." + part[1] + "." + part[2], "malformed"},
		"header is a list":         {raw(`[]`), "not an object"},
		"header cut off":           {raw(`{"alg":"RS256"`), "not a JSON document"},
		"header with two algs":     {raw(`{"alg":"RS256","alg":"none"}`), "twice"},
		"alg missing":              {raw(`{}`), "algorithm is not accepted"},
		"alg none":                 {raw(`{"alg":"none"}`), "algorithm is not accepted"},
		"alg None":                 {raw(`{"alg":"None"}`), "algorithm is not accepted"},
		"alg HS256":                {raw(`{"alg":"HS256"}`), "algorithm is not accepted"},
		"alg a number":             {raw(`{"alg":256}`), "algorithm is not accepted"},
		"key by jwk":               {raw(`{"alg":"RS256","jwk":{}}`), "a member named jwk"},
		"key by jku":               {raw(`{"alg":"RS256","jku":"https://evil.example/keys"}`), "a member named jku"},
		"key by x5u":               {raw(`{"alg":"RS256","x5u":"https://evil.example/keys"}`), "a member named x5u"},
		"key by x5c":               {raw(`{"alg":"RS256","x5c":[]}`), "a member named x5c"},
		"critical extension":       {raw(`{"alg":"RS256","crit":["b64"],"b64":false}`), "refuses"},
		"compressed":               {raw(`{"alg":"RS256","zip":"DEF"}`), "refuses"},
		"a logout token":           {raw(`{"alg":"RS256","typ":"logout+jwt"}`), "not an identity token"},
		"kid is a number":          {raw(`{"alg":"RS256","kid":7}`), "kid"},
		"kid with a line break":    {raw(`{"alg":"RS256","kid":"a\nb"}`), "kid"},
		"claims cut off":           {plain(header, string(body[:len(body)-1]), "s"), "malformed claims"},
		"claims followed by more":  {plain(header, string(body)+"{}", "s"), "malformed claims"},
		"claims are text":          {plain(header, `"iss"`, "s"), "malformed claims"},
		"claims not UTF-8":         {plain(header, "{\"iss\":\"\xff\"}", "s"), "UTF-8"},
		"issuer twice":             {plain(header, `{"iss":"`+w.url+`","iss":"`+w.url+`"}`, "s"), "twice"},
		"issuer twice, escaped":    {plain(header, `{"iss":"`+w.url+`","\u0069ss":"`+w.url+`"}`, "s"), "twice"},
		"a nested member twice":    {plain(header, `{"iss":"`+w.url+`","a":[{"b":1,"b":2}]}`, "s"), "twice"},
		"too many claims":          {plain(header, manyClaims(maxClaims+1), "s"), "more than 256 members"},
		"nested too deep":          {plain(header, `{"iss":"`+w.url+`","a":`+deep+`}`, "s"), "levels"},
		"no issuer":                {plain(header, `{"sub":"x"}`, "s"), "lacks a claim"},
		"issuer is null":           {plain(header, `{"iss":null}`, "s"), "lacks a claim"},
		"issuer is a list":         {plain(header, `{"iss":["`+w.url+`"]}`, "s"), "single value"},
		"issuer with line break":   {plain(header, `{"iss":"a\nb"}`, "s"), "U+000A"},
		"issuer of 4 KiB":          {plain(header, `{"iss":"`+strings.Repeat("a", 4<<10)+`"}`, "s"), "cannot be used"},
		"issuer unknown":           {plain(header, `{"iss":"https://evil.example"}`, "s"), "not known"},
		"issuer with a slash more": {plain(header, `{"iss":"`+w.url+`/"}`, "s"), "not known"},
		"issuer in upper case":     {plain(header, `{"iss":"`+strings.ToUpper(w.url)+`"}`, "s"), "not known"},
		"issuer with prefix":       {plain(header, `{"iss":"`+w.url+`.evil.example"}`, "s"), "not known"},
	} {
		t.Run(name, func(t *testing.T) { (&world{t: t}).refuse(v, c.token, signing.Unauthenticated, c.says) })
	}
}

func manyClaims(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"c%d":1`, i)
	}
	return "{" + b.String()[1:] + "}"
}

func TestTokenFromUnknownIssuerIsRefusedBeforeAnyNetworkUse(t *testing.T) {
	w := newWorld(t)
	w.refuse(w.offline(w.issuer()), w.token(w.claims(edit{"iss": "https://evil.example"})), signing.Unauthenticated, "not known", "evil.example")
}

func TestAVerifiedTokenMustMeetEveryRuleOfItsIssuer(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(w.issuer())
	now := start.Unix()
	for name, c := range map[string]struct {
		change edit
		says   string
	}{
		"wrong audience":              {edit{"aud": "https://other.acme.dev"}, "not meant for this service"},
		"audience in other case":      {edit{"aud": strings.ToUpper(ourAudience)}, "not meant for this service"},
		"default audience":            {edit{"aud": "https://github.com/acme"}, "not meant for this service"},
		"a second audience":           {edit{"aud": []string{ourAudience, "https://other.acme.dev"}}, "not meant for this service"},
		"our audience twice":          {edit{"aud": []string{ourAudience, ourAudience}}, "not meant for this service"},
		"no audience":                 {edit{"aud": nil}, "audience"},
		"empty audience list":         {edit{"aud": []string{}}, "not meant for this service"},
		"audience is a number":        {edit{"aud": 7}, "audience"},
		"audience list with a list":   {edit{"aud": []any{[]string{ourAudience}}}, "audience"},
		"expired":                     {edit{"exp": now - 31}, "has expired"},
		"expired long ago, no iat":    {edit{"exp": 1, "iat": nil}, "iat"},
		"from the future":             {edit{"iat": now + 31}, "from the future"},
		"not valid yet":               {edit{"nbf": now + 31}, "not valid yet"},
		"too old though not expired":  {edit{"iat": now - 631, "exp": now + 300}, "too old"},
		"issued in 1970":              {edit{"iat": 0}, "too old"},
		"no exp":                      {edit{"exp": nil}, "exp"},
		"exp is text":                 {edit{"exp": fmt.Sprint(now + 300)}, "exp is no time"},
		"exp is null":                 {edit{"exp": json.RawMessage("null")}, "exp is no time"},
		"exp beyond all numbers":      {edit{"exp": json.RawMessage("1e400")}, "exp is no time"},
		"exp with an exponent":        {edit{"exp": json.RawMessage("1767225900e0")}, "exp is no time"},
		"exp of 30 digits":            {edit{"exp": json.RawMessage(strings.Repeat("9", 30))}, "exp is no time"},
		"iat is negative":             {edit{"iat": -5}, "iat is no time"},
		"nbf is an object":            {edit{"nbf": edit{}}, "nbf is no time"},
		"no sub":                      {edit{"sub": nil}, "sub"},
		"no repository id":            {edit{"repository_id": nil}, "repository_id"},
		"repository id is a name":     {edit{"repository_id": "payments-web"}, "repository_id"},
		"no jti":                      {edit{"jti": nil}, "jti"},
		"line break in the job's ref": {edit{"ref": "refs/heads/a\nb"}, "claim ref cannot be used"},
		"a ref of 4 KiB":              {edit{"ref": "refs/heads/" + strings.Repeat("a", 4<<10)}, "claim ref cannot be used"},
		"a lone surrogate":            {edit{"environment": json.RawMessage(`"\ud800"`)}, "claim environment cannot be used"},
	} {
		t.Run(name, func(t *testing.T) {
			err := (&world{t: t}).refuse(v, w.token(w.claims(c.change)), signing.Unauthenticated, c.says)
			var r *Refusal
			if !errors.As(err, &r) || r.Identity.Issuer != w.url || r.Identity.TokenHash == "" {
				t.Errorf("a token with a good signature was refused without a Refusal for the audit log: %+v", r)
			}
		})
	}
}

func TestTimesAreCheckedWithThirtySecondsOfLeewayAndNoMore(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(w.issuer())
	now := start.Unix()
	for name, c := range map[string]edit{
		"expired 30 s ago":     {"exp": now - 30},
		"issued 30 s from now": {"iat": now + 30, "nbf": nil},
		"valid 30 s from now":  {"nbf": now + 30},
		"as old as it may be":  {"iat": now - 630, "exp": now + 300},
		"an array of one":      {"aud": []string{ourAudience}},
		"fractions of seconds": {"iat": json.RawMessage(fmt.Sprintf("%d.75", now)), "exp": json.RawMessage(fmt.Sprintf("%d.5", now+300))},
		"no nbf":               {"nbf": nil},
	} {
		t.Run(name, func(t *testing.T) { (&world{t: t}).accept(v, w.token(w.claims(c))) })
	}
}

func TestAMaximumAgeOfTheConfigurationReplacesTheProviders(t *testing.T) {
	w := newWorld(t)
	row := w.gitlab()
	row.MaxAge = config.Duration(2 * time.Minute)
	v := w.verifier(row)
	token := w.token(w.gitlabClaims())
	w.clock.Advance(2*time.Minute + Leeway)
	id, _ := w.accept(v, token)
	if !id.Accepted.Equal(w.clock.Now()) {
		t.Errorf("accepted until %v, want %v", id.Accepted, w.clock.Now())
	}
	w.clock.Advance(time.Second)
	w.refuse(v, token, signing.Unauthenticated, "too old", "2m0s")
}

func TestAnAudienceExceptionMayStandBesideOursButNotAlone(t *testing.T) {
	w := newWorld(t)
	row := w.issuer()
	row.AudienceException = []string{"ari:cloud:bitbucket::workspace/1"}
	v := w.verifier(row)
	w.accept(v, w.token(w.claims(edit{"aud": []string{"ari:cloud:bitbucket::workspace/1", ourAudience}})))
	w.accept(v, w.token(w.claims()))
	fixed := row
	fixed.AudienceException = append(fixed.AudienceException, ourAudience)
	w.accept(w.verifier(fixed), w.token(w.claims()))
	w.refuse(v, w.token(w.claims(edit{"aud": []string{"ari:cloud:bitbucket::workspace/1"}})), signing.Unauthenticated)
	w.refuse(v, w.token(w.claims(edit{"aud": []string{"https://other", ourAudience}})), signing.Unauthenticated)
}

// CVE-2015-9235 and its heirs: the RSA public key is no secret.
func TestThePublicKeyUsedAsHMACSecretIsRefused(t *testing.T) {
	w := newWorld(t)
	v := w.offline(w.issuer())
	der := must(x509.MarshalPKIXPublicKey(rsaKey().Public()))
	for _, secret := range [][]byte{der, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), must(json.Marshal(public("rsa-1", rsaKey())))} {
		for _, alg := range []jose.SignatureAlgorithm{jose.HS256, jose.HS384, jose.HS512} {
			w.refuse(v, sign(alg, "rsa-1", secret, w.claims(), nil), signing.Unauthenticated, "algorithm is not accepted", string(alg))
		}
	}
}

// CVE-2025-24976: a key in the token's own header.
func TestAKeyInTheTokensHeaderIsNeverUsed(t *testing.T) {
	w := newWorld(t)
	own := ecKey()
	for _, kid := range []string{"rsa-1", "mine", ""} {
		token := sign(jose.ES256, kid, own, w.claims(), map[jose.HeaderKey]any{"jwk": public(kid, own)})
		w.refuse(w.offline(w.issuer()), token, signing.Unauthenticated, "jwk")
	}
	// Without the check of the header the key would still come from the issuer.
	cache := w.verifier(w.issuer()).issuers[w.url].keys
	token := sign(jose.ES256, "mine", own, w.claims(), map[jose.HeaderKey]any{"jwk": public("mine", own)})
	if _, err := cache.verify(t.Context(), token); !errors.Is(err, signing.Unauthenticated) {
		t.Errorf("got %v", err)
	}
}

// CVE-2026-27840.
func TestATruncatedOrAlteredTokenIsRefused(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(w.issuer())
	token := w.token(w.claims())
	w.accept(v, token)
	part := strings.Split(token, ".")
	for n := len(part[0]) + len(part[1]) + 2; n < len(token); n += 7 {
		w.refuse(v, token[:n], signing.Unauthenticated)
	}
	w.refuse(v, token+"AAAA", signing.Unauthenticated, "signature is wrong")
	other := strings.Split(w.token(w.claims(edit{"repository_id": "1"})), ".")
	w.refuse(v, part[0]+"."+other[1]+"."+part[2], signing.Unauthenticated, "signature is wrong")
	if w.count("/jwks") != 1 {
		t.Errorf("bad signatures made the service fetch the keys %d times", w.count("/jwks"))
	}
}

func TestASecondSpellingOfATokenHasTheSameHash(t *testing.T) {
	w := newWorld(t)
	key := ecKey()
	w.keys = []jose.JSONWebKey{public("ec", key)}
	v := w.verifier(w.issuer())
	token := sign(jose.ES256, "ec", key, w.claims(), nil)
	first, _ := w.accept(v, token)

	dot := strings.LastIndexByte(token, '.')
	sig := must(base64.RawURLEncoding.DecodeString(token[dot+1:]))
	n := elliptic.P256().Params().N
	s := new(big.Int).Sub(n, new(big.Int).SetBytes(sig[32:]))
	s.FillBytes(sig[32:])
	twin := token[:dot+1] + base64.RawURLEncoding.EncodeToString(sig)
	second, _ := w.accept(v, twin)
	if twin == token || first.TokenHash != second.TokenHash {
		t.Errorf("the twin of a token passes as a second one: %s, %s", first.TokenHash, second.TokenHash)
	}
}

func TestTokensOfOneIssuerDoNotVerifyForAnother(t *testing.T) {
	a, b := newWorld(t), newWorld(t)
	b.keys = []jose.JSONWebKey{public("rsa-1", ecKey())}
	rowB := b.gitlab()
	v := a.verifier(a.issuer(), rowB)
	a.accept(v, a.token(a.claims()))
	a.refuse(v, a.token(a.claims(edit{"iss": b.url})), signing.Unauthenticated, "key that its issuer does not have")
}

func TestKeysFromAFileNeedNoNetworkAndFollowTheFile(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "jwks.json")
	write := func(keys ...jose.JSONWebKey) {
		if err := os.WriteFile(file, must(json.Marshal(jose.JSONWebKeySet{Keys: keys})), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(public("rsa-1", rsaKey()))
	row := w.issuer()
	row.JWKSFile = file
	v := w.offline(row)
	w.accept(v, w.token(w.claims()))

	next := ecKey()
	write(public("ec-2", next))
	w.accept(v, sign(jose.ES256, "ec-2", next, w.claims(), nil))
	w.refuse(v, w.token(w.claims()), signing.Unavailable) // withdrawn; the file was read just now
	w.clock.Advance(keysCooldown)
	w.refuse(v, w.token(w.claims()), signing.Unauthenticated, "does not have")
}

func TestAKeyFileThatCannotBeUsedStopsTheStart(t *testing.T) {
	for name, content := range map[string]string{"empty": "", "no keys": `{"keys":[]}`, "only a secret": `{"keys":[{"kty":"oct","k":"c2VjcmV0","kid":"a"}]}`, "too large": `{"keys":[],"x":"` + strings.Repeat("a", maxDocument) + `"}`} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			row := w.issuer()
			row.JWKSFile = filepath.Join(t.TempDir(), "jwks.json")
			if _, err := New(context.Background(), []Issuer{row}, Options{}); err == nil {
				t.Error("a missing file did not stop the start")
			}
			if err := os.WriteFile(row.JWKSFile, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := New(context.Background(), []Issuer{row}, Options{}); err == nil {
				t.Error("the file did not stop the start")
			}
		})
	}
}

func TestAnIssuerBehindItsOwnCertificateAuthority(t *testing.T) {
	w := newWorld(t)
	srv := httptest.NewTLSServer(w)
	t.Cleanup(srv.Close)
	w.url = srv.URL
	row := w.issuer()
	row.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(row.CAFile, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	clientFor := func(roots *x509.CertPool) *http.Client {
		tr := http.DefaultTransport.(*http.Transport).Clone()
		tr.TLSClientConfig = &tls.Config{RootCAs: roots}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr}
	}
	v, err := New(t.Context(), []Issuer{row}, Options{ClientFor: clientFor, Now: w.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	w.accept(v, w.token(w.claims()))

	if _, err := New(t.Context(), []Issuer{row}, Options{Client: srv.Client()}); err == nil {
		t.Error("ca_file was ignored where nobody can use it")
	}
	if err := os.WriteFile(row.CAFile, bytes.ToLower(ca), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(t.Context(), []Issuer{row}, Options{ClientFor: clientFor}); err == nil {
		t.Error("a ca_file without certificates was accepted")
	}
}
