package identity

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
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

// FuzzClaims: what the issuer signs becomes an origin without surprises or a refusal.
func FuzzClaims(f *testing.F) {
	rows := []*row{}
	for _, file := range []string{"github-push", "gitlab-branch", "custom-buildkite", "custom-mentioned-in-the-other-branch"} {
		for _, part := range must(txtar.ParseFile("testdata/origin/" + file + ".txtar")).Files {
			if part.Name == "issuer.yaml" {
				rows = append(rows, testRow(f, part.Data))
			}
		}
	}
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
	if o.Forge != r.forge || o.Kind != r.kind {
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
	if o.Kind != "github" && o.Kind != "gitlab" {
		return
	}
	for _, id := range []string{o.SourceRepositoryIdentifier, o.SourceRepositoryOwnerIdentifier, o.RunID} {
		if !formID.pattern.MatchString(id) {
			t.Fatalf("id %q: %+v", id, o)
		}
	}
	for _, uri := range []string{o.SourceRepositoryURI, o.SourceRepositoryOwnerURI, o.RunInvocationURI} {
		if !strings.HasPrefix(uri, r.url+"/") {
			t.Fatalf("URI %q: %+v", uri, o)
		}
	}
	if !strings.HasPrefix(o.SourceRepositoryRef, "refs/") || o.BuildTrigger == "" || !formCommit.pattern.MatchString(o.SourceRepositoryDigest) {
		t.Fatalf("%+v", o)
	}
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
