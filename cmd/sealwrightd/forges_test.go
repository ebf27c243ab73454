package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/policy"
	"github.com/sealwright/sealwright/internal/server"
)

const askingPolicy = `apiVersion: sealwright.dev/v1
project: payments
repositories:
  - {forge: github.com, name: acme/payments-web, id: "74", owner_id: "65", images: ["registry.acme.dev/payments/web"]}
  - {forge: gitlab.acme.dev, name: acme/payments, id: "41", owner_id: "4", images: ["registry.acme.dev/payments/api"]}
policies:
  release:
    origin: {refs: ["refs/heads/main"], github: {events: [push]}, gitlab: {events: [push]}}
    approvals: {all: [{required: 1, from: ["github.com:acme/release"]}]}
    sign: [{method: cosign, key: release}]
  quiet:
    origin: {refs: ["refs/heads/main"], github: {events: [push]}, gitlab: {events: [push]}}
    sign: [{method: cosign, key: release}]
`

func TestAPolicyThatAsksAForgeThatIsNotConfiguredIsAProblem(t *testing.T) {
	set, err := policy.Load(map[string][]byte{"p.yaml": []byte(askingPolicy)})
	if err != nil {
		t.Fatal(err)
	}
	ps := unasked(set, []forge.Config{{Host: "github.com"}})
	if len(ps) != 1 || !strings.Contains(ps[0].Message, "gitlab.acme.dev, which the policy release of project payments asks") {
		t.Errorf("%v", ps)
	}
	if ps := unasked(set, []forge.Config{{Host: "github.com"}, {Host: "gitlab.acme.dev"}}); len(ps) > 0 {
		t.Errorf("%v", ps)
	}
}

func TestProblemsOfForgesAndPeopleAreReportedTogether(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sealwright.yaml")
	text := `apiVersion: sealwright.dev/v1
forges:
  - {host: github.com, kind: github}
people:
  - {name: Ann, accounts: ["github.com:ann"]}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := load(file)
	for _, want := range []string{"sealwright.yaml:3: forges[0].apps: is missing", "sealwright.yaml:5: people[0].accounts[0]: must be FORGE:ID", "issuers: lists none"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
}

// lacking is a forge on which something is missing.
type lacking struct {
	forge.Forge
	findings []forge.Finding
}

func (l lacking) CheckOnline(context.Context) []forge.Finding { return l.findings }

func TestWhatAForgeLacksIsPrintedWithWhatItIsNeededFor(t *testing.T) {
	var out strings.Builder
	good := forge.Finding{What: "permission checks: write", OK: true, Needed: "results"}
	err := checkOnline(t.Context(), map[string]forge.Forge{"github.com": lacking{findings: []forge.Finding{good, {What: "permission members: read", Needed: "to know who is in a team", Found: "none", Fix: "grant it"}}}}, &policy.Set{}, &out)
	if err == nil {
		t.Error("it is taken for good")
	}
	for _, want := range []string{"github.com  ok      permission checks: write\n", "github.com  MISSING permission members: read\n", "needed for: to know who is in a team", "found: none", "to fix it: grant it"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
	if err := checkOnline(t.Context(), map[string]forge.Forge{"github.com": lacking{findings: []forge.Finding{good}}}, &policy.Set{}, &out); err != nil {
		t.Error(err)
	}
}

func TestForgesAreBuiltFromTheConfigurationAndSecretsThatAreMissingStopTheStart(t *testing.T) {
	t.Setenv("GITLAB", "glpat-example")
	rows := []forge.Config{{Host: "gitlab.acme.dev", Kind: forge.KindGitLab, Tokens: []forge.Token{{Token: config.Secret("env:GITLAB")}}}}
	got, err := openForges(rows, nil)
	if err != nil || got["gitlab.acme.dev"] == nil || got["gitlab.acme.dev"].Host() != "gitlab.acme.dev" {
		t.Errorf("%v, %v", got, err)
	}
	rows[0].Tokens[0].Token = "env:NOT_SET"
	if _, err := openForges(rows, nil); err == nil {
		t.Error("a token that is not there was taken")
	}
	if _, err := openForges([]forge.Config{{Host: "github.com", Kind: forge.KindGitHub, Apps: []forge.App{{ID: "4", PrivateKey: "env:GITLAB"}}}}, nil); err == nil {
		t.Error("a private key that is none was taken")
	}
}

func TestWhatAForgeSaysIsLeftOfItsLimitsIsAMetric(t *testing.T) {
	gitlab := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("RateLimit-Remaining", "1999")
		_, _ = w.Write([]byte(`{"id":3,"username":"ada","state":"active","bot":false}`))
	}))
	t.Cleanup(gitlab.Close)
	t.Setenv("GITLAB", "glpat-example")
	metrics := server.NewMetrics(func() float64 { return 0 })
	forges, err := openForges([]forge.Config{{Host: "gitlab.acme.dev", Kind: forge.KindGitLab, API: gitlab.URL, Tokens: []forge.Token{{Token: config.Secret("env:GITLAB")}}}}, metrics.Left)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := forges["gitlab.acme.dev"].Account(t.Context(), "3"); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	metrics.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if want := `sealwright_forge_requests_left{account="token 1",forge="gitlab.acme.dev",limit="core"} 1999`; !strings.Contains(w.Body.String(), want) {
		t.Errorf("no %s in:\n%s", want, w.Body.String())
	}
}
