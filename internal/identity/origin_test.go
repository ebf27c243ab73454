package identity

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/signing"
)

// Each file has issuer.yaml and claims.json, and either want.json, the origin,
// or refused: lines that the refusal must contain.
func TestClaimsGiveTheOriginOfTheGoldenFiles(t *testing.T) {
	files := must(filepath.Glob("testdata/origin/*.txtar"))
	if len(files) < 20 {
		t.Fatalf("%d files", len(files))
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			part := map[string][]byte{}
			for _, f := range must(txtar.ParseFile(file)).Files {
				part[f.Name] = f.Data
			}
			r := testRow(t, part["issuer.yaml"])
			c, err := parseClaims(part["claims.json"])
			if err != nil {
				t.Fatal(err)
			}
			got, err := r.origin(c)
			if want, ok := part["refused"]; ok {
				if signing.CodeOf(err) != signing.Unauthenticated {
					t.Fatalf("got %v", err)
				}
				for line := range strings.Lines(string(want)) {
					if line = strings.TrimSpace(line); !strings.Contains(strings.ReplaceAll(err.Error(), `\"`, `"`), line) {
						t.Errorf("%q does not say %q", err, line)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var want signing.Origin
			dec := json.NewDecoder(bytes.NewReader(part["want.json"]))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&want); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func testRow(t testing.TB, yaml []byte) *row {
	t.Helper()
	var c Issuer
	if err := config.Decode("issuer.yaml", yaml, &c); err != nil {
		t.Fatal(err)
	}
	if ps := Check([]Issuer{c}); len(ps) > 0 {
		t.Fatal(ps)
	}
	return must(c.withDefaults().row())
}

// A field added to signing.Origin must be added to the table.
func TestEveryFieldOfAnOriginCanBeFilledButTheRowsConstants(t *testing.T) {
	var want []string
	typ := reflect.TypeFor[signing.Origin]()
	for i := range typ.NumField() {
		name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		if name != "forge" && name != "kind" && name != "pipeline" {
			want = append(want, name)
		}
	}
	slices.Sort(want)
	if d := cmp.Diff(want, fieldNames()); d != "" {
		t.Error(d)
	}
	var o signing.Origin
	texts, booleans := originFields(&o)
	for name, p := range texts {
		*p = name
	}
	for _, p := range booleans {
		*p = true
	}
	raw := map[string]any{}
	if err := json.Unmarshal(must(json.Marshal(o)), &raw); err != nil {
		t.Fatal(err)
	}
	for name := range texts {
		if raw[name] != name {
			t.Errorf("%s fills another field: %v", name, raw)
		}
	}
}

func TestTemplatesMayUseClaimsConstantsAndPlainConditionsOnly(t *testing.T) {
	for _, good := range []string{
		"repository_id", "oidc.circleci.com/vcs-ref", "https://example.com/claim",
		"{{.url}}/{{.claim.a}}", "{{.forge}}:{{.claim.a}}", `{{index .claim "a/b"}}`, `{{if eq .claim.a "x" "y"}}1{{else if ne .claim.b .forge}}2{{end}}`,
		`{{if eq (index .claim "a/b") "x"}}1{{end}}{{/* why */}}`,
	} {
		if _, err := compileExpression(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "a b", "two\nlines", "{{", "{{.claim.a", "{{}}", "{{.url}}", "{{.claim}}", "{{.}}", "{{$}}", "{{.other.a}}", "{{.claim.a.b}}",
		`{{or .claim.a "x"}}`, `{{index .claim "a" | printf "%s"}}`, `{{printf "%s" .claim.a}}`, `{{range .claim}}{{.}}{{end}}`, `{{with .claim.a}}{{.}}{{end}}`,
		`{{$x := .claim.a}}{{$x}}`, `{{define "a"}}{{end}}{{template "a"}}{{.claim.a}}`, `{{block "a" .}}{{end}}{{.claim.a}}`, `{{call .claim.a}}`, `{{index .claim .claim.a}}`,
		`{{index .claim}}`, `{{html .claim.a}}`, `{{len .claim.a}}`, `{{.claim.a}}{{index .url 0}}`, `{{nosuch .claim.a}}`, `{{"x"}}{{.claim.a}}`,
		"{{.claim.a}}" + strings.Repeat("x", maxTemplate),
	} {
		if _, err := compileExpression(bad); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func TestEveryProblemOfTheConfigurationIsReportedWithItsLine(t *testing.T) {
	const file = `issuers:
  - provider: github-actions
    issuer: http://token.acme.dev
    audience: https://github.com/acme
    max_age: 30h
    token_per: run
    role: owner
  - provider: github-actions
    issuer: https://ghe.acme.dev/_services/token
    claims: {runID: run_id}
    kind: gitlab
    forge: https://ghe.acme.dev
    jwks_file: keys.json
    jwks_uri: http://ghe.acme.dev/keys
  - provider: gitlab
    issuer: https://ghe.acme.dev/_services/token
    audience: https://ghe.acme.dev
    url: "ftp://x"
    require: {"a b": "1"}
  - provider: jenkins
    issuer: https://ci.acme.dev/oidc?x=1
    audience: sigstore
    audience_exception: [ok]
    forge: ci.acme.dev
    claims:
      sourceRepositoryURI: "{{.claim.repo"
      forge: repo
      runID: run
    optional:
      runID: run
  - provider: Unknown
    issuer: https://x.acme.dev
    audience: shared-name
    forge: x
  - provider: logins
    role: people
    issuer: https://sso.acme.dev
    audience: shared-name
    forge: x
  - provider: gitlab
    role: people
    issuer: https://gitlab.acme.dev
    audience: "has space"
    roles:
      - {role: auditor, claim: groups, values: [sealwright-auditors]}
  - provider: our-sso
    role: people
    issuer: https://login.acme.dev
    audience: people-of-acme
    claims: {runID: run}
    roles:
      - {role: root, claim: groups, values: [wheel]}
      - {role: admin, claim: "a claim", values: [wheel]}
      - {role: admin, claim: groups}
      - {role: admin, claim: groups, values: [""]}
      - {role: admin, claim: groups, values: [" wheel"]}
  - provider: github-actions
    issuer: https://token.actions.githubusercontent.com
    audience: https://sign.acme.dev
    roles:
      - {role: admin, claim: actor, values: [octocat]}
`
	var v struct {
		Issuers []Issuer `yaml:"issuers"`
	}
	doc := must(config.Parse("sealwright.yaml", []byte(file)))
	if err := doc.Decode(&v); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range doc.Place("issuers", Check(v.Issuers)) {
		if p.Line < 2 {
			t.Errorf("no line: %v", p)
		}
		got = append(got, strings.TrimPrefix(p.Path, "issuers"))
	}
	slices.Sort(got)
	want := []string{
		"[0].audience", "[0].forge", "[0].issuer", "[0].max_age", "[0].role", "[0].token_per",
		"[1].audience", "[1].claims", "[1].forge", "[1].jwks_file", "[1].jwks_uri", "[1].kind",
		"[2].audience", "[2].issuer", `[2].require["a b"]`, "[2].url",
		"[3].audience", "[3].claims", "[3].claims.forge", "[3].claims.sourceRepositoryURI", "[3].issuer", "[3].optional.runID",
		"[4].kind", "[4].provider",
		"[5].audience", "[5].roles",
		"[6].audience", "[6].role",
		"[7].claims", "[7].roles[0].role", "[7].roles[1].claim", "[7].roles[2].values", "[7].roles[3].values[0]", "[7].roles[4].values[0]",
		"[8].roles",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if _, err := New(t.Context(), v.Issuers, Options{}); err == nil {
		t.Error("New accepted what Check refuses")
	}
}

func TestAudiencesThatOthersAcceptAreRefused(t *testing.T) {
	for _, c := range []struct {
		audience, issuer string
		ok               bool
	}{
		{"https://github.com/acme", publicGitHub, false},
		{"https://GitHub.com/acme", publicGitHub, false},
		{publicGitHub, publicGitHub, false},
		{"https://gitlab.acme.dev", "https://gitlab.acme.dev", false},
		{"https://gitlab.acme.dev/x", "https://gitlab.acme.dev", false},
		{"gitlab.com/acme", "https://gitlab.com", false},
		{"sigstore", publicGitHub, false},
		{"sts.amazonaws.com", publicGitHub, false},
		{"api://AzureADTokenExchange", "https://vstoken.dev.azure.com/1", false},
		{"3ccf6a0b", "https://oidc.circleci.com/org/3ccf6a0b", false},
		{"ari:cloud:bitbucket::workspace/1", "https://api.bitbucket.org/x", false},
		{"https://g.codefresh.io", "https://oidc.codefresh.io", false},
		{"https://sealwright.acme.dev", publicGitHub, true},
		{"sealwright", "https://gitlab.acme.dev", true},
	} {
		row := Issuer{Provider: "gitlab", Issuer: c.issuer, Audience: c.audience}
		if ps := Check([]Issuer{row}); (len(ps) == 0) != c.ok {
			t.Errorf("%s at %s: %v", c.audience, c.issuer, ps)
		}
		row.AudienceException = []string{c.audience}
		if ps := Check([]Issuer{row}); len(ps) > 0 {
			t.Errorf("%s at %s with an exception: %v", c.audience, c.issuer, ps)
		}
	}
}

func TestDefaultsFollowFromTheProvider(t *testing.T) {
	for _, c := range []struct{ in, want Issuer }{
		{
			Issuer{Provider: "github-actions", Issuer: publicGitHub + "/acme-corp"},
			Issuer{Forge: "github.com", URL: "https://github.com", MaxAge: config.Duration(10 * time.Minute), TokenPer: TokenPerRequest, Kind: "github"},
		},
		{
			Issuer{Provider: "github-actions", Issuer: publicGitHub + ".evil.example"},
			Issuer{MaxAge: config.Duration(10 * time.Minute), TokenPer: TokenPerRequest, Kind: "github"},
		},
		{
			Issuer{Provider: "github-actions", Issuer: "https://token.actions.acme.ghe.com"},
			Issuer{Forge: "acme.ghe.com", URL: "https://acme.ghe.com", MaxAge: config.Duration(10 * time.Minute), TokenPer: TokenPerRequest, Kind: "github"},
		},
		{
			Issuer{Provider: "github-actions", Issuer: "https://ghe.acme.dev:8443/_services/token"},
			Issuer{Forge: "ghe.acme.dev:8443", URL: "https://ghe.acme.dev:8443", MaxAge: config.Duration(10 * time.Minute), TokenPer: TokenPerRequest, Kind: "github"},
		},
		{
			Issuer{Provider: "github-actions", Issuer: "https://token.actions.acme.ghe.com.evil.example"},
			Issuer{MaxAge: config.Duration(10 * time.Minute), TokenPer: TokenPerRequest, Kind: "github"},
		},
		{
			Issuer{Provider: "forgejo", Issuer: "https://forge.acme.dev/api/actions"},
			Issuer{Forge: "forge.acme.dev", URL: "https://forge.acme.dev", MaxAge: config.Duration(10 * time.Minute), TokenPer: TokenPerRequest, Kind: "forgejo"},
		},
		{
			Issuer{Provider: "buildkite", Issuer: "https://agent.buildkite.com"},
			Issuer{Forge: "buildkite.com", URL: "https://buildkite.com", MaxAge: config.Duration(10 * time.Minute), TokenPer: TokenPerRequest, Kind: "buildkite"},
		},
		{
			Issuer{Provider: "circleci", Issuer: "https://oidc.circleci.com/org/1"},
			Issuer{Forge: "circleci.com", URL: "https://app.circleci.com", MaxAge: config.Duration(time.Hour), TokenPer: TokenPerJob, Kind: "circleci"},
		},
		{
			Issuer{Provider: "bitbucket", Issuer: "https://api.bitbucket.org/2.0/workspaces/acme/pipelines-config/identity/oidc"},
			Issuer{Forge: "bitbucket.org", URL: "https://bitbucket.org", MaxAge: config.Duration(time.Hour), TokenPer: TokenPerJob, Kind: "bitbucket"},
		},
		{
			Issuer{Provider: "azure-devops", Issuer: "https://vstoken.dev.azure.com/1"},
			Issuer{Forge: "dev.azure.com", URL: "https://dev.azure.com", MaxAge: config.Duration(10 * time.Minute), TokenPer: TokenPerRequest, Kind: "azure-devops"},
		},
		{
			Issuer{Provider: "codefresh", Issuer: "https://oidc.codefresh.io"},
			Issuer{Forge: "g.codefresh.io", URL: "https://g.codefresh.io", MaxAge: config.Duration(10 * time.Minute), TokenPer: TokenPerRequest, Kind: "codefresh"},
		},
		{
			Issuer{Provider: "gitlab", Issuer: "https://gitlab.acme.dev"},
			Issuer{Forge: "gitlab.acme.dev", URL: "https://gitlab.acme.dev", MaxAge: config.Duration(time.Hour), TokenPer: TokenPerJob, Kind: "gitlab"},
		},
		{
			Issuer{Provider: "ours", Issuer: "https://ci.acme.dev", TokenPer: TokenPerJob},
			Issuer{MaxAge: config.Duration(10 * time.Minute), TokenPer: TokenPerJob, Kind: "ours"},
		},
	} {
		c.want.Provider, c.want.Issuer, c.want.Role = c.in.Provider, c.in.Issuer, signing.RoleCI
		if d := cmp.Diff(c.want, c.in.withDefaults()); d != "" {
			t.Errorf("%s: %s", c.in.Issuer, d)
		}
	}
}

func TestABuiltInRowPassesItsOwnCheck(t *testing.T) {
	for name, p := range providers() {
		row := Issuer{Provider: name, Issuer: "https://ci.acme.dev", Audience: ourAudience, Forge: "forge.acme.dev", Require: map[string]string{}}
		// An issuer that serves everybody needs the one organisation that is ours.
		if ps := Check([]Issuer{row}); len(ps) != len(p.shared) {
			t.Errorf("%s: %v", name, ps)
		}
		for _, claim := range p.shared {
			row.Require[claim] = "ours"
		}
		if ps := Check([]Issuer{row}); len(ps) > 0 {
			t.Errorf("%s: %v", name, ps)
		}
	}
}

func TestEveryProblemOfRegisteredPipelinesIsReported(t *testing.T) {
	row := func(provider string, pipelines ...Pipeline) Issuer {
		c := Issuer{Provider: provider, Issuer: "https://ci.acme.dev", Audience: "https://sealwright.acme.dev", Forge: "ci.acme.dev", Require: map[string]string{"organization_id": "1"}, Pipelines: pipelines}
		if provider == "jenkins" {
			c.Claims = map[string]string{"sourceRepositoryIdentifier": "sub"}
		}
		return c
	}
	good := Pipeline{Pipeline: "p", Forge: "github.com", Name: "acme/web", ID: "74"}
	with := func(change func(*Pipeline)) Pipeline {
		p := good
		change(&p)
		return p
	}
	people := row("jenkins", good)
	people.Role, people.Claims = signing.RolePeople, nil
	for name, c := range map[string]struct {
		issuer Issuer
		path   string // "" is good
	}{
		"good":                       {row("jenkins", good, with(func(p *Pipeline) { p.Pipeline, p.OwnerID = "q", "65" })), ""},
		"Buildkite":                  {row("buildkite", good), ""},
		"GitHub states its own":      {row("github-actions", good), "[0].pipelines"},
		"none":                       {row("jenkins"), ""},
		"an empty list":              {func() Issuer { c := row("jenkins"); c.Pipelines = []Pipeline{}; return c }(), "[0].pipelines"},
		"people":                     {people, "[0].pipelines"},
		"too many":                   {row("jenkins", make([]Pipeline, MaxPipelines+1)...), "[0].pipelines"},
		"no pipeline":                {row("jenkins", with(func(p *Pipeline) { p.Pipeline = "" })), "[0].pipelines[0].pipeline"},
		"a long one":                 {row("jenkins", with(func(p *Pipeline) { p.Pipeline = strings.Repeat("x", 1000) })), "[0].pipelines[0].pipeline"},
		"twice":                      {row("jenkins", good, good), "[0].pipelines[1].pipeline"},
		"a forge with a scheme":      {row("jenkins", with(func(p *Pipeline) { p.Forge = "https://github.com" })), "[0].pipelines[0].forge"},
		"a name without its owner":   {row("jenkins", with(func(p *Pipeline) { p.Name = "web" })), "[0].pipelines[0].name"},
		"a name in place of the id":  {row("jenkins", with(func(p *Pipeline) { p.ID = "acme" })), "[0].pipelines[0].id"},
		"a name in place of owner's": {row("jenkins", with(func(p *Pipeline) { p.OwnerID = "acme" })), "[0].pipelines[0].owner_id"},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, p := range Check([]Issuer{c.issuer}) {
				if strings.Contains(p.Path, "pipelines") {
					got = append(got, p.Path)
				}
			}
			if c.path == "" && len(got) > 0 || c.path != "" && !slices.Contains(got, c.path) {
				t.Errorf("wanted %q, got %q", c.path, got)
			}
		})
	}
}
