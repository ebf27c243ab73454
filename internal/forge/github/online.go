package github

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"
)

// maxInstallations bounds the installations that are looked at.
const maxInstallations = 1_000

// needed are the permissions of the App, each with what it is for. Least first:
// "read" is less than "write".
var needed = []struct{ name, level, why string }{
	{"metadata", "read", "the repository's id, who may write to it, its rulesets"},
	{"actions", "read", "the run, its jobs, its environment and who approved it"},
	{"contents", "read", "refs, commits, workflow files, .sealwright/policy.yml"},
	{"pull_requests", "write", "pull requests of a commit with their reviews; asking there for approval"},
	{"issues", "write", "asking for approval, and an issue where there is no pull request"},
	{"checks", "write", "the check run of a request; checks of scanners"},
	{"statuses", "write", "commit statuses"},
	{"administration", "read", "classic branch protection"},
	{"members", "read", "teams that may approve"},
	{"attestations", "read", "bind.attestation"},
}

// optional are those that not everybody needs: rulesets, if all protection is in
// them, and no attestations.
var optional = []string{"administration", "attestations"}

// events are what the App has to subscribe to.
var events = []struct{ name, why string }{
	{"issue_comment", "commands in comments"},
	{"pull_request", "new commits on a pull request, changes to .sealwright/policy.yml"},
	{"pull_request_review", "reviews whose body has a command"},
	{"pull_request_review_comment", "commands in review comments"},
	{"check_run", "buttons of the check run"},
}

// granted is an App or an installation with what it may do.
type granted struct {
	ID          int64             `json:"id"`
	Slug        string            `json:"slug"`
	Permissions map[string]string `json:"permissions"`
	Events      []string          `json:"events"`
	Suspended   *string           `json:"suspended_at"`
	Selection   string            `json:"repository_selection"`
	Account     *user             `json:"account"`
}

// CheckOnline implements forge.Checker. It asks each App who it is, and changes
// nothing.
func (c *Client) CheckOnline(ctx context.Context) []forge.Finding {
	var out []forge.Finding
	for _, a := range c.apps {
		name := fmt.Sprintf("App %d on %s", a.id, c.host)
		var self granted
		if err := c.get(ctx, a.jwt, "app", nil, &self, ""); err != nil {
			out = append(out, unanswered(name, "everything", err))
			continue
		}
		if self.ID != a.id {
			out = append(out, forge.Finding{What: name, Needed: "everything", Found: fmt.Sprintf("the key is that of App %d", self.ID), Fix: "configure the id that belongs to the key"})
			continue
		}
		out = append(out, forge.Finding{What: name, OK: true, Needed: "everything", Found: ask.Clip(self.Slug)})
		out = append(out, permissions(name, self.Permissions, "in the App's settings, Permissions")...)
		hook, hears := c.webhook(ctx, a, name)
		for _, e := range events {
			out = append(out, forge.Finding{What: name + ": event " + e.name, OK: slices.Contains(self.Events, e.name), Optional: !hears, Needed: e.why, Found: "not subscribed to", Fix: "subscribe to it in the App's settings, Permissions & events"})
		}
		out = append(out, hook...)
		out = append(out, c.installations(ctx, a, name)...)
	}
	if c.root == nil {
		out = append(out, forge.Finding{What: c.host + ": attestation_root", OK: true, Needed: "bind.attestation", Found: "not configured: policies that ask for attestations refuse", Fix: "set it where a policy asks for attestations"})
	}
	return out
}

// unanswered is the finding that something could not be asked.
func unanswered(what, needed string, err error) forge.Finding {
	f := forge.Finding{What: what, Needed: needed, Found: err.Error(), Fix: "try again when " + what + " can be reached"}
	var e *signing.Error
	if errors.As(err, &e) && e.Fix != "" {
		f.Fix = e.Fix
	}
	return f
}

// permissions compares what was given with what is needed.
func permissions(name string, has map[string]string, where string) []forge.Finding {
	rank := map[string]int{"read": 1, "write": 2, "admin": 3}
	var out []forge.Finding
	for _, n := range needed {
		found := has[n.name]
		ok := rank[found] >= rank[n.level]
		if found == "" {
			found = "none"
		}
		out = append(out, forge.Finding{What: name + ": permission " + n.name + ": " + n.level, OK: ok, Optional: slices.Contains(optional, n.name), Needed: n.why, Found: ask.Clip(found), Fix: "give it " + where})
	}
	return out
}

// webhook checks where deliveries go, that they can be authenticated, and what
// became of the newest. hears is false where there is none on either side, which is
// a choice: threads are read instead.
func (c *Client) webhook(ctx context.Context, a *app, name string) (out []forge.Finding, hears bool) {
	const needed = "hearing of comments at once; without it they are polled"
	var h struct {
		URL         string `json:"url"`
		ContentType string `json:"content_type"`
		Insecure    any    `json:"insecure_ssl"` // "0", or 0
		Secret      string `json:"secret"`       // masked
	}
	if err := c.get(ctx, a.jwt, "app/hook/config", nil, &h, ""); err != nil {
		return []forge.Finding{unanswered(name+": webhook", needed, err)}, true
	}
	if h.URL == "" && len(c.secrets) == 0 {
		return []forge.Finding{{What: name + ": webhook", Optional: true, Needed: needed, Found: "none, here and there", Fix: "set it to URL/hooks/github/" + c.host + ", URL being server.url, with a secret that is in webhook.secrets"}}, false
	}
	insecure := fmt.Sprint(h.Insecure)
	return append([]forge.Finding{
		{What: name + ": webhook URL", OK: strings.HasSuffix(h.URL, "/hooks/github/"+c.host), Needed: needed, Found: ask.Clip(orNone(h.URL)), Fix: "set it to URL/hooks/github/" + c.host + ", URL being server.url"},
		{What: name + ": webhook content type", OK: h.ContentType == "json", Needed: "deliveries are read as JSON only", Found: ask.Clip(h.ContentType), Fix: "set it to application/json"},
		{What: name + ": webhook verifies TLS", OK: insecure == "0", Needed: "nobody else may read deliveries", Found: ask.Clip("insecure_ssl " + insecure), Fix: "enable SSL verification"},
		{What: name + ": webhook secret", OK: h.Secret != "" && len(c.secrets) > 0, Needed: "a delivery without a signature is refused", Found: secretFound(h.Secret != "", len(c.secrets) > 0), Fix: sameSecret},
	}, c.delivered(ctx, a, name)), true
}

const sameSecret = "set the same secret in the App's settings and in webhook.secrets"

// delivered says what became of the newest delivery: whether the secrets are the
// same is seen there only. One that a service which was down did not take is no
// fault of the settings.
func (c *Client) delivered(ctx context.Context, a *app, name string) forge.Finding {
	f := forge.Finding{What: name + ": newest delivery", OK: true, Needed: "deliveries that arrive are taken", Found: "none yet"}
	var sent []struct {
		Status int    `json:"status_code"`
		Event  string `json:"event"`
	}
	if err := c.get(ctx, a.jwt, "app/hook/deliveries", url.Values{"per_page": {"1"}}, &sent, ""); err != nil {
		return unanswered(f.What, f.Needed, err)
	}
	if len(sent) == 0 {
		return f
	}
	status := sent[0].Status
	f.Found, f.OK = fmt.Sprintf("%s was answered with HTTP %d", ask.Clip(sent[0].Event), status), status >= 200 && status < 300
	switch status {
	case http.StatusUnauthorized:
		f.Fix = sameSecret
	case http.StatusNotFound:
		f.Fix = "set the webhook URL to URL/hooks/github/" + c.host + ", and let the way in end at this service"
	default:
		f.Optional = !f.OK
		f.Fix = "see what was answered: the App's settings, Advanced, Recent deliveries"
	}
	return f
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func secretFound(there, here bool) string {
	switch {
	case there && here:
		return "set on both sides"
	case there:
		return "set on the forge only"
	case here:
		return "set here only"
	}
	return "set nowhere"
}

// installations checks each installation that is used: an organisation has to
// accept permissions that the App asked for later.
func (c *Client) installations(ctx context.Context, a *app, name string) []forge.Finding {
	all, err := list[granted](ctx, c, a.jwt, "app/installations", nil, maxInstallations, "")
	if err != nil {
		return []forge.Finding{unanswered(name+": installations", "everything", err)}
	}
	var out []forge.Finding
	seen := map[int64]bool{}
	for _, i := range all {
		if len(a.only) > 0 && !a.only[i.ID] {
			continue
		}
		seen[i.ID] = true
		where := fmt.Sprintf("%s: installation %d", name, i.ID)
		if i.Account != nil {
			where += " (" + ask.Clip(i.Account.Login) + ")"
		}
		if i.Suspended != nil {
			out = append(out, forge.Finding{What: where, Needed: "everything", Found: "suspended", Fix: "have an owner of the organisation unsuspend the App"})
			continue
		}
		out = append(out, forge.Finding{What: where, OK: true, Needed: "everything", Found: "repositories: " + ask.Clip(i.Selection)})
		out = append(out, permissions(where, i.Permissions, "by accepting the App's new permissions in the organisation's settings")...)
	}
	for id := range a.only {
		if !seen[id] {
			out = append(out, forge.Finding{What: name + ": installation " + strconv.FormatInt(id, 10), Needed: "everything", Found: "there is no such installation", Fix: "correct installations of the App, or install it again"})
		}
	}
	if len(all) == 0 {
		out = append(out, forge.Finding{What: name + ": installations", Needed: "everything", Found: "none", Fix: "install the App on an organisation"})
	}
	return out
}
