package gitlab_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/devworld/lab"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
)

// findings runs the check, and returns what is not in order.
func (w *world) findings(cfg forge.Config) map[string]forge.Finding {
	out := map[string]forge.Finding{}
	for _, f := range w.connect(cfg).CheckOnline(w.t.Context()) {
		if f.Needed == "" {
			w.t.Errorf("%s does not say what it is for", f.What)
		}
		if !f.OK && !f.Optional {
			if f.Fix == "" || f.Found == "" {
				w.t.Errorf("%+v", f)
			}
			out[f.What] = f
		}
	}
	return out
}

func TestTheOnlineCheckSaysWhatIsMissing(t *testing.T) {
	w := start(t)
	w.group.Add(w.bot, lab.Maintainer)
	w.env["HOOK"] = lab.NewSigningToken()
	cfg := forge.Config{Tokens: []forge.Token{{Token: "env:TOKEN", Groups: []string{"acme", "acme/payments"}}}}
	cfg.Webhook.SigningTokens = append(cfg.Webhook.SigningTokens, "env:HOOK")
	if got := w.findings(cfg); len(got) != 0 {
		t.Errorf("all is there: %+v", got)
	}
	weak := w.lab.User("weak")
	w.group.Add(weak, lab.Developer)
	w.env["TOKEN"] = w.lab.Token(weak, "read_api")
	got := w.findings(forge.Config{Tokens: []forge.Token{{Token: "env:TOKEN", Groups: []string{"acme", "nowhere"}}}})
	for _, what := range []string{"scope api of env:TOKEN", "user of env:TOKEN", "role of env:TOKEN in acme", "role of env:TOKEN in nowhere", "webhook of " + host} {
		if _, ok := got[what]; !ok {
			t.Errorf("%s is not missed: %+v", what, got)
		}
	}
	w.lab.Revoke(w.env["TOKEN"])
	if got := w.findings(forge.Config{}); !strings.Contains(got["access token env:TOKEN"].Found, "401") {
		t.Errorf("%+v", got)
	}
}

func TestATokenServesItsGroupsOnly(t *testing.T) {
	w := start(t)
	other := w.lab.Bot("other")
	w.project.Add(other, lab.Maintainer)
	w.env["OTHER"] = w.lab.Token(other)
	both := []forge.Token{{Token: "env:OTHER", Groups: []string{"elsewhere"}}, {Token: "env:TOKEN", Groups: []string{"ACME/"}}}
	b := w.connect(forge.Config{Tokens: both})
	made, err := b.Post(t.Context(), w.issue(), "hello")
	if err != nil || made.Author.ID != id(w.bot.ID) {
		t.Errorf("%+v, %v", made, err)
	}
	_, err = w.connect(forge.Config{Tokens: both[:1]}).Post(t.Context(), w.issue(), "hello")
	wantCode(t, err, signing.Denied, "no access token", "acme/payments")
}

// issue is a thread of the project.
func (w *world) issue() signing.Thread {
	i := w.project.OpenIssue(w.bob, "x")
	return signing.Thread{Forge: host, RepositoryID: id(w.project.ID), Repository: w.project.Path, Kind: signing.ThreadIssue, Number: id(i.IID)}
}

func TestEveryRecordedAnswerIsReadOrRefusedAsIntended(t *testing.T) {
	dir := "testdata/payloads"
	if shared := "../../../../shared/fixtures/gitlab"; exists(shared) {
		dir = shared
	}
	for name, c := range map[string]struct {
		path string
		ask  func(*built) error
		code signing.Code // empty: it is read
	}{
		"rest_get_user": {"/users/1$", func(b *built) error { _, err := b.client.Account(b.t.Context(), "1"); return err }, ""},
		"rest_get_branch": {"/branches/master$", func(b *built) error {
			b.origin.SourceRepositoryRef = "refs/heads/master"
			return b.known(signing.ForgeQuestion{Ref: true})
		}, ""},
		"rest_list_branches": {"/branches/master$", func(b *built) error {
			b.origin.SourceRepositoryRef = "refs/heads/master"
			return b.known(signing.ForgeQuestion{Ref: true})
		}, signing.Unavailable},
		"rest_protected_branches": {"/protected_branches$", func(b *built) error {
			f := b.facts(signing.ForgeQuestion{Branches: []string{"refs/heads/master"}})
			if r := f.Branches[0]; !r.Protected || r.BlockForcePush || len(r.Bypass) != 3 { // the example does not say that force pushes are blocked
				b.t.Errorf("%+v", r)
			}
			return nil
		}, ""},
		"rest_project_approvals": {"/approvals$", func(b *built) error {
			if r := b.ref(); !r.AuthorMayApprove || r.DismissStale || r.RequiredApprovals != 0 {
				b.t.Errorf("%+v", r)
			}
			return nil
		}, ""},
		"rest_project_member_all": {"/members/all/", func(b *built) error {
			s, err := b.client.Standing(b.t.Context(), b.repo(), signing.Account{Forge: host, ID: "1"}, []string{writers, maintainers})
			if err == nil && (len(s.Groups) != 1 || s.Groups[0] != writers) {
				b.t.Errorf("%+v", s)
			}
			return err
		}, ""},
		"rest_pipeline_minimal":   {"/pipelines/", func(b *built) error { return b.known(signing.ForgeQuestion{Run: true}) }, signing.Unavailable},
		"rest_get_merge_request":  {"/merge_requests$", func(b *built) error { return b.known(signing.ForgeQuestion{Pulls: true}) }, signing.Unavailable}, // one, no list
		"rest_mr_approval_state":  {"/merge_requests/1/approvals$", func(b *built) error { return b.known(signing.ForgeQuestion{Pulls: true}) }, ""},      // names no approvals
		"rest_project_approvals2": {"/approval_rules$", func(b *built) error { return b.known(signing.ForgeQuestion{Ref: true}) }, signing.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			body, err := os.ReadFile(filepath.Join(dir, strings.TrimSuffix(name, "2")+".json"))
			if err != nil {
				t.Fatal(err)
			}
			b := build(t)
			if name == "rest_project_member_all" {
				b.lab.Fail(lab.Fault{Path: regexp.MustCompile("/users/1$"), Status: 200, Body: `{"id":1,"username":"x","state":"active","bot":false}`})
			}
			b.lab.Fail(lab.Fault{Path: regexp.MustCompile(c.path), Status: 200, Body: string(body)})
			err = c.ask(b)
			if c.code == "" && err != nil {
				t.Error(err)
			}
			if c.code != "" {
				wantCode(t, err, c.code)
			}
		})
	}
}

// known asks, and returns why there is no answer.
func (b *built) known(q signing.ForgeQuestion) error {
	f, err := b.client.Ask(b.t.Context(), b.origin, nil, q)
	if err == nil && len(f.Unknown) > 0 {
		b.t.Errorf("%v", f.Unknown)
	}
	return err
}
