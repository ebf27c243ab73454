package identity

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/sealwright/sealwright/internal/signing"
)

// FuzzVerify: whatever the bytes, no panic and no acceptance, as nobody but the
// issuer can sign.
func FuzzVerify(f *testing.F) {
	w := newWorld(f)
	file := filepath.Join(f.TempDir(), "jwks.json")
	if err := os.WriteFile(file, must(json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{public("rsa-1", rsaKey()), public("ec-1", ecKey())}})), 0o600); err != nil {
		f.Fatal(err)
	}
	row := w.issuer()
	row.JWKSFile = file
	row.Issuer = "https://ci.acme.dev" // not the server's address, which would differ from run to run
	v := w.offline(row)
	stranger := ecKey()
	claims := w.claims(edit{"iss": row.Issuer})
	f.Add("")
	f.Add("..")
	f.Add(sign(jose.ES256, "ec-1", stranger, claims, nil))
	f.Add(sign(jose.ES256, "", stranger, claims, nil))
	f.Add(sign(jose.ES256, "ec-1", stranger, claims, map[jose.HeaderKey]any{"jwk": public("ec-1", stranger)}))
	f.Add(sign(jose.HS256, "rsa-1", []byte("0123456789abcdef0123456789abcdef"), claims, nil))
	f.Add(plain(`{"alg":"none"}`, string(must(json.Marshal(claims))), "x"))
	f.Add(plain(`{"alg":"EdDSA","kid":"ec-1"}`, string(must(json.Marshal(claims))), strings.Repeat("x", 64)))
	f.Fuzz(func(t *testing.T, token string) {
		id, o, err := v.Verify(t.Context(), token)
		var e *signing.Error
		if !errors.As(err, &e) || !reflect.ValueOf(id).IsZero() || o != (signing.Origin{}) {
			t.Fatalf("%+v, %+v, %v", id, o, err)
		}
		if e.Code != signing.Unauthenticated && e.Code != signing.Unavailable {
			t.Fatalf("code %s", e.Code)
		}
		if len(e.Error()) > 4<<10 {
			t.Fatalf("an error of %d bytes", len(e.Error()))
		}
	})
}

// fuzzRows returns one row of every provider, as its golden files have it, and
// two of the configuration's own.
func fuzzRows(f *testing.F) []*row {
	f.Helper()
	rows := map[string]*row{}
	for _, file := range must(filepath.Glob("testdata/origin/*.txtar")) {
		for _, part := range must(txtar.ParseFile(file)).Files {
			if part.Name == "issuer.yaml" {
				r := testRow(f, part.Data)
				rows[r.kind] = r
			}
		}
	}
	for name, p := range providers() {
		if rows[p.kind] == nil {
			f.Fatalf("no golden file has an issuer of %s", name)
		}
	}
	return slices.Collect(maps.Values(rows))
}

// FuzzClaims: what the issuer signs becomes an origin without surprises or a refusal.
func FuzzClaims(f *testing.F) {
	rows := fuzzRows(f)
	for _, file := range must(filepath.Glob("testdata/origin/*.txtar")) {
		for _, part := range must(txtar.ParseFile(file)).Files {
			if part.Name == "claims.json" {
				f.Add([]byte(part.Data))
			}
		}
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		for _, r := range rows {
			is := &issuer{url: "https://ci.acme.dev", audience: ourAudience, maxAge: defaultMaxAge, row: r}
			if _, err := is.accept(payload, &signing.Identity{}, start); err != nil && signing.CodeOf(err) != signing.Unauthenticated {
				t.Fatalf("%v", err)
			}
			c, err := parseClaims(payload)
			if err != nil {
				continue
			}
			o, err := r.origin(c)
			if err != nil {
				if o != (signing.Origin{}) || signing.CodeOf(err) != signing.Unauthenticated {
					t.Fatalf("%+v, %v", o, err)
				}
				continue
			}
			checkOrigin(t, r, o)
		}
	})
}

// checkOrigin asserts what holds for every origin that a row returns.
func checkOrigin(t *testing.T, r *row, o signing.Origin) {
	t.Helper()
	if r.pipelines != nil {
		p, ok := r.pipelines[o.Pipeline]
		if !ok || o.Forge != p.Forge || o.SourceRepositoryIdentifier != p.ID || o.SourceRepositoryOwnerIdentifier != p.OwnerID || o.SourceRepository != p.Name || o.Kind != r.kind {
			t.Fatalf("a claim replaced what is registered: %+v", o)
		}
		return
	}
	if o.Forge != r.forge || o.Kind != r.kind || o.Pipeline != "" {
		t.Fatalf("a claim replaced a constant: %+v", o)
	}
	v := reflect.ValueOf(o)
	for i := range v.NumField() {
		if v.Field(i).Kind() == reflect.String && checkText(v.Field(i).String()) != nil {
			t.Fatalf("%s is %q", v.Type().Field(i).Name, v.Field(i).String())
		}
	}
	if o.SourceRepositoryIdentifier == "" {
		t.Fatalf("no repository id: %+v", o)
	}
	id := regexp.MustCompile(`^[0-9a-z.-]{1,60}$`)
	switch o.Kind {
	case "github", "gitlab", "forgejo":
		id = formID.pattern
		if !strings.HasPrefix(o.SourceRepositoryURI, r.url+"/") || !strings.HasPrefix(o.SourceRepositoryOwnerURI, r.url+"/") {
			t.Fatalf("URIs: %+v", o)
		}
	case "buildkite", "circleci", "bitbucket", "azure-devops":
	case "codefresh":
		if strings.HasPrefix(o.SourceRepositoryRef, "refs/") {
			t.Fatalf("a bare name that looks like a ref: %+v", o)
		}
	default:
		return // a row of the configuration's own promises no more
	}
	for _, v := range []string{o.SourceRepositoryIdentifier, o.SourceRepositoryOwnerIdentifier, o.RunID} {
		if !id.MatchString(v) {
			t.Fatalf("id %q: %+v", v, o)
		}
	}
	if o.RunInvocationURI == "" || !strings.HasPrefix(o.RunInvocationURI, r.url+"/") || o.BuildTrigger == "" || o.SourceRepository == "" {
		t.Fatalf("%+v", o)
	}
	if o.Kind != "codefresh" && !strings.HasPrefix(o.SourceRepositoryRef, "refs/") {
		t.Fatalf("ref %q: %+v", o.SourceRepositoryRef, o)
	}
	if o.SourceRepositoryDigest != "" && !formCommit.pattern.MatchString(o.SourceRepositoryDigest) {
		t.Fatalf("%+v", o)
	}
}

// FuzzRoles: whatever the claims, a person has roles that the rules know, or none.
func FuzzRoles(f *testing.F) {
	rules := []RoleRule{
		{Role: signing.Auditor, Claim: "groups", Values: []string{"sox"}}, {Role: signing.Admin, Claim: "realm.roles", Values: []string{"root"}},
		{Role: signing.Approver, Claim: "email", Values: []string{"ann@acme.dev"}},
	}
	for _, s := range []string{`{}`, `{"groups":["sox","x"]}`, `{"groups":"sox"}`, `{"groups":[["sox"]]}`, `{"realm":{"roles":["root"]}}`, `{"email":"ann@acme.dev","email_verified":true}`, `{"email":"ann@acme.dev","email_verified":"true"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		c, err := parseClaims(payload)
		if err != nil {
			return
		}
		roles, err := peopleRoles(rules, c)
		if err != nil && (roles != nil || signing.CodeOf(err) != signing.Unauthenticated) {
			t.Fatalf("%v, %v", roles, err)
		}
		for _, r := range roles {
			rule := rules[slices.IndexFunc(rules, func(x RoleRule) bool { return x.Role == r })]
			if !bytes.Contains(payload, []byte(rule.Values[0])) && !bytes.Contains(payload, []byte(`\`)) {
				t.Fatalf("%s out of nothing: %s", r, payload)
			}
			if r == signing.Approver && c["email_verified"] != true {
				t.Fatalf("an address that nobody verified: %s", payload)
			}
		}
	})
}

// FuzzKeySet: a key set gives public keys of accepted kinds or an error.
func FuzzKeySet(f *testing.F) {
	ec := ecKey()
	for _, k := range []jose.JSONWebKey{public("rsa-1", rsaKey()), public("ec", ec), {Key: ec, KeyID: "private"}, {Key: []byte("secret"), KeyID: "oct"}} {
		f.Add([]byte(`{"keys":[` + string(must(k.MarshalJSON())) + `]}`))
	}
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"ed"},null,7]}`))
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA","x5c":["AAAA"],"x5u":":"}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		keys, err := parseKeys(raw)
		if (len(keys) == 0) == (err == nil) || len(keys) > maxKeys {
			t.Fatalf("%d keys, %v", len(keys), err)
		}
		for _, k := range keys {
			if !k.IsPublic() || !k.Valid() {
				t.Fatalf("key %q is not a valid public key", k.KeyID)
			}
		}
	})
}
