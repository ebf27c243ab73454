package github

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/golang/snappy"
	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/forge/ask/asktest"
	"github.com/sealwright/sealwright/internal/signing"
)

var (
	built       = signing.DigestOf([]byte("image"))
	askAttested = signing.ForgeQuestion{Attestation: true}
	images      = []signing.Artifact{{Repository: "registry.acme.dev/web", Digest: built}, {Repository: "registry.acme.dev/web", Digest: built, Tag: "v1"}}
)

// ours is what this very run says of the image.
func ours() asktest.Claims {
	o := origin()
	return asktest.Claims{Issuer: "https://token.actions.githubusercontent.com", SAN: o.BuildSignerURI, Run: o.RunInvocationURI, Repository: webID, Commit: sha, Predicate: ask.Provenance, Digest: built}
}

// holds makes the forge hold bundles for the image.
func holds(f *fake, bundles ...[]byte) {
	var list []any
	for _, b := range bundles {
		list = append(list, map[string]any{"repository_id": 1296269, "bundle": json.RawMessage(b)})
	}
	f.set("GET "+web+"/attestations/"+string(built), says(map[string]any{"attestations": list}))
}

func attested(t *testing.T) (*fake, *Client, *asktest.Sigstore) {
	s := asktest.New(t)
	f, c := world(t, func(_ *forge.Config, o *Options) { o.Root = s })
	return f, c, s
}

func TestAnAttestationOfThisRunIsVerified(t *testing.T) {
	f, c, s := attested(t)
	holds(f, s.Attest(t, ours()))
	facts, err := c.Ask(t.Context(), origin(), images, askAttested)
	if err != nil {
		t.Fatal(err)
	}
	want := &signing.AttestationFacts{Verified: []signing.Attestation{{Digest: built, RepositoryID: webID, Commit: sha, Run: origin().RunInvocationURI, Predicate: ask.Provenance}}}
	if d := cmp.Diff(want, facts.Attestations); d != "" {
		t.Error(d, facts.Unknown)
	}
}

func TestAnAttestationOfAnythingElseDoesNotCount(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*asktest.Claims)
		want   string
	}{
		"another run":        {func(c *asktest.Claims) { c.Run = strings.Replace(c.Run, "30433642", "1", 1) }, "another run"},
		"another attempt":    {func(c *asktest.Claims) { c.Run = strings.TrimSuffix(c.Run, "1") + "2" }, "another run"},
		"another repository": {func(c *asktest.Claims) { c.Repository = "42" }, "another repository id"},
		"another commit":     {func(c *asktest.Claims) { c.Commit = head }, "another commit"},
		"another predicate":  {func(c *asktest.Claims) { c.Predicate = "https://spdx.dev/Document" }, "another predicate"},
		"another digest":     {func(c *asktest.Claims) { c.Digest = signing.DigestOf([]byte("other")) }, "does not verify"},
		"another issuer":     {func(c *asktest.Claims) { c.Issuer = "https://gitlab.com" }, "does not verify"},
		"an issuer like it":  {func(c *asktest.Claims) { c.Issuer = "https://token.actions.githubusercontent.com.evil.example" }, "does not verify"},
		"another forge":      {func(c *asktest.Claims) { c.SAN = "https://github.com.evil.example/acme/web/x.yml@main" }, "does not verify"},
	} {
		f, cl, s := attested(t)
		claim := ours()
		c.change(&claim)
		holds(f, s.Attest(t, claim))
		facts, err := cl.Ask(t.Context(), origin(), images, askAttested)
		if err != nil {
			t.Fatal(err)
		}
		if a := facts.Attestations; a == nil || len(a.Verified) != 0 || !strings.Contains(a.Refused[built], c.want) {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

func TestAnAttestationThatSomebodyElseSignedOrChangedDoesNotCount(t *testing.T) {
	f, c, s := attested(t)
	good := s.Attest(t, ours())
	other := asktest.New(t)
	other.VirtualSigstore = s.VirtualSigstore // its timestamps are good
	var torn map[string]any
	if err := json.Unmarshal(good, &torn); err != nil {
		t.Fatal(err)
	}
	torn["verificationMaterial"].(map[string]any)["timestampVerificationData"] = map[string]any{}
	untimed, _ := json.Marshal(torn)
	var first map[string]any
	_ = json.Unmarshal(good, &first)
	envelope := first["dsseEnvelope"].(map[string]any)
	payload, err := base64.StdEncoding.DecodeString(envelope["payload"].(string))
	if err != nil {
		t.Fatal(err)
	}
	envelope["payload"] = append(payload, ' ') // the same statement in other bytes
	swapped, _ := json.Marshal(first)
	for name, b := range map[string][]byte{
		"another authority": other.Attest(t, ours()), "no timestamp": untimed, "another payload": swapped,
		"no bundle": []byte(`{}`), "no object": []byte(`[]`), "too large": []byte(`"` + strings.Repeat("x", ask.MaxBundle) + `"`),
	} {
		holds(f, b)
		facts, err := c.Ask(t.Context(), origin(), images, askAttested)
		if err != nil {
			t.Fatal(err)
		}
		if a := facts.Attestations; len(a.Verified) != 0 || a.Refused[built] == "" {
			t.Errorf("%s: %+v", name, a)
		}
	}
	// One that counts among others that do not.
	holds(f, []byte(`{}`), other.Attest(t, ours()), good)
	facts, err := c.Ask(t.Context(), origin(), images, askAttested)
	if err != nil || len(facts.Attestations.Verified) != 1 {
		t.Errorf("%+v, %v", facts, err)
	}
}

func TestARootWithATransparencyLogDemandsTheLog(t *testing.T) {
	f, c, s := attested(t)
	s.Logs = true
	holds(f, s.Attest(t, ours()))
	facts, err := c.Ask(t.Context(), origin(), images, askAttested)
	if err != nil {
		t.Fatal(err)
	}
	if a := facts.Attestations; len(a.Verified) != 0 || !strings.Contains(a.Refused[built], "does not verify") {
		t.Errorf("%+v", a)
	}
}

func TestABundleIsFetchedFromWhereTheForgeKeepsIt(t *testing.T) {
	f, c, s := attested(t)
	good := s.Attest(t, ours())
	var auth string
	f.set("GET /blob/1.json.sn", func(w http.ResponseWriter, r *http.Request) {
		auth = r.Header.Get("Authorization")
		_, _ = w.Write(snappy.Encode(nil, good))
	})
	at := func(u string) {
		f.set("GET "+web+"/attestations/"+string(built), says(map[string]any{"attestations": []any{map[string]any{"bundle_url": u}}}))
	}
	base := strings.TrimRight(c.api.String(), "/")
	at(base + "/blob/1.json.sn?sig=SECRET")
	facts, err := c.Ask(t.Context(), origin(), images, askAttested)
	if err != nil || len(facts.Attestations.Verified) != 1 || auth != "" {
		t.Fatalf("%+v, %v; Authorization %q", facts.Attestations, err, auth)
	}
	for _, a := range facts.Asked {
		if strings.Contains(a.What, "SECRET") {
			t.Errorf("the record holds a credential: %s", a.What)
		}
	}
	f.set("GET /blob/bad", says("not compressed"))
	f.set("GET /blob/bomb", func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(snappy.Encode(nil, bytes.Repeat([]byte("x"), ask.MaxBundle+1)))
	})
	f.set("GET /blob/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/blob/1.json.sn", http.StatusFound) })
	for _, u := range []string{"", "ftp://x", base + "/blob/bad", base + "/blob/bomb", base + "/blob/moved", base + "/blob/gone", "https://user:pw@x/y"} {
		at(u)
		facts, err := c.Ask(t.Context(), origin(), images, askAttested)
		if err != nil || len(facts.Attestations.Verified) != 0 || facts.Attestations.Refused[built] == "" {
			t.Errorf("%s: %+v, %v", u, facts, err)
		}
	}
	f.set("GET /blob/down", fails(500, "oops"))
	at(base + "/blob/down")
	if _, err := c.Ask(t.Context(), origin(), images, askAttested); !signing.Temporary(err) {
		t.Errorf("error = %v", err)
	}
	// GitHub's own example has addresses only; of this machine's none is asked.
	f.set("GET "+web+"/attestations/"+string(built), says(recorded(t, "attestations.json")))
	facts, err = c.Ask(t.Context(), origin(), images, askAttested)
	if err != nil || len(facts.Attestations.Verified) != 0 || !strings.Contains(facts.Attestations.Refused[built], "none of 2") {
		t.Errorf("%+v, %v", facts, err)
	}
}

func TestAnAttestationOnALaterPageIsFound(t *testing.T) {
	f, c, s := attested(t)
	at := web + "/attestations/" + string(built)
	f.set("GET "+at, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", fmt.Sprintf(`<http://%s%s?after=abc>; rel="next"`, r.Host, at))
		fmt.Fprint(w, `{"attestations":[{"bundle":{}}]}`)
	})
	f.set("GET "+at+"?after=abc&per_page=100&predicate_type=provenance", says(map[string]any{"attestations": []any{map[string]any{"bundle": json.RawMessage(s.Attest(t, ours()))}}}))
	facts, err := c.Ask(t.Context(), origin(), images, askAttested)
	if err != nil || len(facts.Attestations.Verified) != 1 {
		t.Errorf("%+v, %v", facts.Attestations, err)
	}
}

func TestWithoutAnAttestationOrARootThereIsNone(t *testing.T) {
	f, c, _ := attested(t)
	for name, h := range map[string]http.HandlerFunc{"none": says(`{"attestations":[]}`), "404": fails(404, "Not Found")} {
		f.set("GET "+web+"/attestations/"+string(built), h)
		facts, err := c.Ask(t.Context(), origin(), images, askAttested)
		if err != nil || facts.Attestations == nil || !strings.Contains(facts.Attestations.Refused[built], "no attestation") {
			t.Errorf("%s: %+v, %v", name, facts, err)
		}
	}
	_, c = world(t)
	if facts := question(t, c, origin(), askAttested); facts.Attestations != nil || !strings.Contains(facts.Unknown[signing.PartAttestation], "attestation_root") {
		t.Errorf("%+v", facts)
	}
	file := filepath.Join(t.TempDir(), "root.json")
	if err := os.WriteFile(file, []byte(`{"mediaType":"x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(forge.Config{Host: "github.com", AttestationRoot: file, Apps: []forge.App{{ID: "5"}}}, Options{}); err == nil || !strings.Contains(err.Error(), "attestation_root") {
		t.Errorf("error = %v", err)
	}
}

func TestAttestationsCannotBeAsked(t *testing.T) {
	s := asktest.New(t)
	f, c := world(t, func(_ *forge.Config, o *Options) { o.Root = s })
	at := "GET " + web + "/attestations/" + string(built)
	f.set(at, fails(403, "Resource not accessible by integration"))
	facts, err := c.Ask(t.Context(), origin(), images, askAttested)
	if err != nil || facts.Attestations != nil || !strings.Contains(facts.Unknown[signing.PartAttestation], "attestations: read") {
		t.Errorf("%+v, %v", facts, err)
	}
	for name, h := range map[string]http.HandlerFunc{"500": fails(500, "oops"), "no list": says(`{}`), "null": says(`{"attestations":null}`)} {
		f.set(at, h)
		if facts, err := c.Ask(t.Context(), origin(), images, askAttested); !signing.Temporary(err) || facts != nil {
			t.Errorf("%s: %+v, %v", name, facts, err)
		}
	}
}

func TestABundleThatUnpacksToTooMuchIsNotUnpacked(t *testing.T) {
	f, c, _ := attested(t)
	f.set("GET /blob", func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(snappy.Encode(nil, bytes.Repeat([]byte("x"), ask.MaxBundle+1)))
	})
	b := &build{Client: c}
	if raw, err := b.stored(t.Context(), strings.TrimRight(c.api.String(), "/")+"/blob"); raw != nil || signing.CodeOf(err) != signing.Invalid {
		t.Errorf("%d bytes, %v", len(raw), err)
	}
}

func TestABundleIsNotFetchedFromThisMachineForAForgeElsewhere(t *testing.T) {
	f, c, _ := attested(t)
	address := strings.TrimRight(c.api.String(), "/") + "/blob"
	c.api = &url.URL{Scheme: "https", Host: "api.github.com", Path: "/"}
	if _, err := (&build{Client: c}).stored(t.Context(), address); signing.CodeOf(err) != signing.Invalid || f.count("GET /blob") != 0 {
		t.Errorf("%v after %d requests", err, f.count("GET /blob"))
	}
}
