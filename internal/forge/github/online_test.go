package github

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/forge"
)

// everything is what an App should be given.
func everything() (permissions, subscribed string) {
	var ps, es []string
	for _, n := range needed {
		ps = append(ps, fmt.Sprintf("%q:%q", n.name, n.level))
	}
	for _, e := range events {
		es = append(es, fmt.Sprintf("%q", e.name))
	}
	return "{" + strings.Join(ps, ",") + "}", "[" + strings.Join(es, ",") + "]"
}

// online is a GitHub where nothing is missing.
func online(t *testing.T) (*fake, *Client) {
	f, c := world(t, func(cfg *forge.Config, o *Options) {
		cfg.Webhook.Secrets = []config.Secret{"env:HOOK_SECRET"}
		o.Env = func(string) (string, bool) { return "x", true }
	})
	ps, es := everything()
	f.set("GET /app", says(fmt.Sprintf(`{"id":5,"slug":"sealwright","permissions":%s,"events":%s}`, ps, es)))
	f.set("GET /app/hook/config", says(`{"url":"https://sign.acme.dev/hooks/github/github.com","content_type":"json","insecure_ssl":"0","secret":"********"}`))
	f.set("GET /app/hook/deliveries?per_page=1", says(`[{"id":1,"event":"ping","status_code":200}]`))
	f.set("GET /app/installations", says(fmt.Sprintf(`[{"id":77,"account":{"id":1,"login":"acme"},"repository_selection":"selected","permissions":%s,"events":%s,"suspended_at":null}]`, ps, es)))
	return f, c
}

func missing(fs []forge.Finding) (out []string) {
	for _, f := range fs {
		if !f.OK {
			out = append(out, f.What+" | "+f.Found+" | "+f.Fix)
			if f.Needed == "" || f.Fix == "" {
				out = append(out, "a finding that does not say what it is for, or how to fix it: "+f.What)
			}
		}
	}
	return out
}

func TestAnAppThatHasEverythingLacksNothing(t *testing.T) {
	_, c := online(t)
	fs := c.CheckOnline(t.Context())
	if m := missing(fs); len(m) != 0 {
		t.Errorf("missing: %q", m)
	}
	if len(fs) < 2*len(needed)+len(events) {
		t.Errorf("only %d findings", len(fs))
	}
}

func TestWhatAnAppLacksIsNamedWithItsPurpose(t *testing.T) {
	ps, es := everything()
	for name, c := range map[string]struct {
		route, answer, want string
	}{
		"a permission":                {"/app", fmt.Sprintf(`{"id":5,"permissions":%s,"events":%s}`, strings.Replace(ps, `"checks":"write"`, `"checks":"read"`, 1), es), "permission checks: write | read"},
		"an event":                    {"/app", fmt.Sprintf(`{"id":5,"permissions":%s,"events":%s}`, ps, strings.Replace(es, `"issue_comment",`, ``, 1)), "event issue_comment"},
		"another App's key":           {"/app", `{"id":6}`, "App 6"},
		"an unaccepted permission":    {"/app/installations", fmt.Sprintf(`[{"id":77,"account":{"login":"acme"},"permissions":%s}]`, strings.Replace(ps, `"administration":"read",`, ``, 1)), "installation 77 (acme): permission administration: read | none"},
		"a suspended installation":    {"/app/installations", fmt.Sprintf(`[{"id":77,"permissions":%s,"suspended_at":"2026-01-01T00:00:00Z"}]`, ps), "suspended"},
		"no installation":             {"/app/installations", `[]`, "install the App"},
		"no webhook":                  {"/app/hook/config", `{"url":"","content_type":"json","insecure_ssl":"0","secret":"***"}`, "webhook URL"},
		"a form":                      {"/app/hook/config", `{"url":"https://x/hooks/github/github.com","content_type":"form","insecure_ssl":"0","secret":"***"}`, "content type | form"},
		"TLS that is not verified":    {"/app/hook/config", `{"url":"https://x","content_type":"json","insecure_ssl":1,"secret":"***"}`, "insecure_ssl 1"},
		"a webhook for another forge": {"/app/hook/config", `{"url":"https://sign.acme.dev/hooks/github/ghe.acme.dev","content_type":"json","insecure_ssl":"0","secret":"***"}`, "webhook URL | https://sign.acme.dev/hooks/github/ghe.acme.dev | set it to URL/hooks/github/github.com"},
		"another secret":              {"/app/hook/deliveries?per_page=1", `[{"event":"issue_comment","status_code":401}]`, "newest delivery | issue_comment was answered with HTTP 401 | set the same secret"},
		"another address":             {"/app/hook/deliveries?per_page=1", `[{"event":"issue_comment","status_code":404}]`, "HTTP 404 | set the webhook URL"},
		"a service that was down":     {"/app/hook/deliveries?per_page=1", `[{"event":"issue_comment","status_code":502}]`, "HTTP 502 | see what was answered"},
		"no secret":                   {"/app/hook/config", `{"url":"https://x","content_type":"json","insecure_ssl":0}`, "webhook secret | set here only"},
	} {
		f, cl := online(t)
		f.set("GET "+c.route, says(c.answer))
		if m := strings.Join(missing(cl.CheckOnline(t.Context())), "\n"); !strings.Contains(m, c.want) {
			t.Errorf("%s: %s\nwant %q", name, m, c.want)
		}
	}
}

func TestAForgeThatDoesNotAnswerTheCheckIsAFinding(t *testing.T) {
	for route, want := range map[string]string{"/app": "App 5", "/app/hook/config": "webhook", "/app/installations": "installations"} {
		for _, status := range []int{401, 404, 500} {
			f, c := online(t)
			f.set("GET "+route, fails(status, "no"))
			if m := strings.Join(missing(c.CheckOnline(t.Context())), "\n"); !strings.Contains(m, want) || !strings.Contains(m, fmt.Sprint(status)) {
				t.Errorf("%s %d: %s", route, status, m)
			}
		}
	}
}

func TestAConfiguredInstallationThatIsNotThereIsAFinding(t *testing.T) {
	f, c := online(t)
	c.apps[0].only[88] = true
	if m := strings.Join(missing(c.CheckOnline(t.Context())), "\n"); !strings.Contains(m, "installation 88") {
		t.Error(m)
	}
	if n := f.count("POST"); n != 0 {
		t.Errorf("the check wrote %d times", n)
	}
}
