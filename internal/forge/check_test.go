package forge

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/config"
)

func parseForges(t *testing.T, text string) []Config {
	t.Helper()
	doc, err := config.Parse("sealwright.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var out struct {
		Forges []Config `yaml:"forges"`
	}
	if err := doc.Decode(&out); err != nil {
		t.Fatal(err)
	}
	return out.Forges
}

func TestForgesAsTheyAreMeantHaveNoProblem(t *testing.T) {
	if ps := CheckConfig(parseForges(t, `
forges:
  - host: github.com
    kind: github
    apps: [{id: "4", private_key: "file:/run/secrets/app.pem", installations: ["77"]}, {id: "5", private_key: "env:APP"}]
    webhook: {secrets: ["file:/run/secrets/hook", "file:/run/secrets/old-hook"]}
    poll: 3m
  - host: ghe.acme.dev:8443
    kind: github
    api: https://ghe.acme.dev:8443/api/v3
    apps: [{id: "1", private_key: "file:/run/secrets/ghe.pem"}]
  - host: gitlab.acme.dev
    kind: gitlab
    tokens: [{token: "file:/run/secrets/pay", groups: [acme/payments]}, {token: "file:/run/secrets/gitlab"}]
    webhook: {signing_tokens: ["file:/run/secrets/whsec"]}
`)); len(ps) > 0 {
		t.Error(ps)
	}
}

func TestEveryProblemOfForgesIsNamedAtOnce(t *testing.T) {
	ps := CheckConfig(parseForges(t, `
forges:
  - {host: "https://GitHub.com/", kind: github, poll: 1s}
  - {host: github.com, kind: svn, api: "http://github.com"}
  - host: github.com
    kind: github
    apps: [{id: app, private_key: "file:/k"}, {id: "4"}, {id: "4", private_key: "file:/k", installations: [x]}]
    tokens: [{token: "file:/t"}]
    webhook: {signing_tokens: ["file:/w"]}
  - host: gitlab.acme.dev
    kind: gitlab
    api: "https://user@gitlab.acme.dev"
    apps: [{id: "4", private_key: "file:/k"}]
    attestation_root: root.json
    poll: 2h
  - host: gitlab.example
    kind: gitlab
    tokens: [{groups: ["/acme", acme]}, {token: "file:/t"}, {token: "file:/u"}, {token: "file:/v", groups: [Acme]}]
`))
	var got []string
	for _, p := range ps {
		got = append(got, p.Path)
	}
	want := strings.Fields(`
		[0].host [0].apps [0].poll
		[1].api [1].kind
		[2].host [2].tokens [2].webhook.signing_tokens [2].apps[0].id [2].apps[1].private_key [2].apps[2].id [2].apps[2].installations[0]
		[3].api [3].apps [3].attestation_root [3].tokens [3].poll
		[4].tokens[0].token [4].tokens[0].groups[0] [4].tokens[2].groups [4].tokens[3].groups[0]`)
	for i := range got {
		got[i] = strings.ReplaceAll(strings.ReplaceAll(got[i], `["`, "."), `"]`, "")
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
