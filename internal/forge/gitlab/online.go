package gitlab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"

	gitlab "gitlab.com/gitlab-org/api/client-go"
)

// CheckOnline implements forge.Checker: each token, what it may do, and the groups
// or projects that it is said to serve.
func (c *Client) CheckOnline(ctx context.Context) []forge.Finding {
	var out []forge.Finding
	for _, t := range c.tokens {
		out = append(out, c.checkToken(ctx, t)...)
	}
	return append(out, c.checkHooks())
}

func (c *Client) checkToken(ctx context.Context, t *token) []forge.Finding {
	var me struct {
		ID      int64    `json:"id"`
		Active  bool     `json:"active"`
		Revoked bool     `json:"revoked"`
		Scopes  []string `json:"scopes"`
		Expires string   `json:"expires_at"`
		UserID  int64    `json:"user_id"`
	}
	token := forge.Finding{What: "access token " + t.name, Needed: "everything that is asked of " + c.host}
	if _, err := c.get(ctx, t, ask.Path("personal_access_tokens", "self"), nil, &me, ""); err != nil {
		return []forge.Finding{failed(token, err, "replace the token")}
	}
	token.OK, token.Found = me.Active && !me.Revoked, "active until "+me.Expires
	if !token.OK {
		token.Found, token.Fix = "not active", "replace the token"
	}
	scope := forge.Finding{What: "scope api of " + t.name, Needed: "reading members, pipelines and protections; writing notes and statuses", OK: slices.Contains(me.Scopes, "api"), Found: strings.Join(me.Scopes, ", ")}
	if !scope.OK {
		scope.Fix = "make a token with the scope api"
	}
	out := []forge.Finding{token, scope, c.checkBot(ctx, t)}
	for _, g := range t.groups {
		out = append(out, c.checkPlace(ctx, t, g, fmt.Sprint(me.UserID))...)
	}
	return out
}

// checkBot: a person's token works, and their approvals would be the service's.
func (c *Client) checkBot(ctx context.Context, t *token) forge.Finding {
	f := forge.Finding{What: "user of " + t.name, Needed: "a bot, so that no person writes and reads as the service"}
	var u user
	if _, err := c.get(ctx, t, "user", nil, &u, ""); err != nil {
		return failed(f, err, "replace the token")
	}
	f.OK, f.Found = u.Bot != nil && *u.Bot, u.Username
	if !f.OK {
		f.Fix = "use a project or group access token, or a service account"
	}
	return f
}

// checkPlace looks at what the token is in a group, or in a project of that path,
// and at the webhook there.
func (c *Client) checkPlace(ctx context.Context, t *token, at, me string) []forge.Finding {
	f := forge.Finding{What: "role of " + t.name + " in " + at, Needed: "maintainer: protections, approval rules and push rules are shown to maintainers"}
	var err error
	for _, kind := range []string{"groups", "projects"} {
		var place struct {
			ID int64 `json:"id"`
		}
		if _, err = c.get(ctx, t, ask.Path(kind, at), nil, &place, ""); err != nil {
			if signing.CodeOf(err) == signing.NotFound {
				continue
			}
			break
		}
		var m member
		if m, err = c.member(ctx, t, kind, fmt.Sprint(place.ID), me); err != nil {
			break
		}
		f.OK, f.Found = m.active(c.now(), int(gitlab.MaintainerPermissions)), fmt.Sprintf("access level %d", m.AccessLevel)
		if !f.OK {
			f.Fix = "make the token with the role maintainer (40) there"
		}
		return append([]forge.Finding{f}, c.checkSettings(ctx, t, kind, fmt.Sprint(place.ID), at)...)
	}
	return []forge.Finding{failed(f, err, "compare the path with GitLab, and make the bot a member there")}
}

const maxHooks = 100

// checkSettings looks at the webhook of a group or project. GitLab shows those of a
// group to its owners only, which the bot is not: that, and none where a group above
// or the projects below may have one, is said and is no fault.
func (c *Client) checkSettings(ctx context.Context, t *token, kind, id, at string) []forge.Finding {
	if len(c.hooks.keys)+len(c.hooks.plain) == 0 {
		return nil // said of the forge
	}
	name, end := "webhook of "+at, "/hooks/gitlab/"+c.host
	f := forge.Finding{What: name, Optional: true, Needed: "approvals that arrive at once", Fix: "make one with the URL SERVER" + end + ", Comments, Merge request events, SSL verification and the token that is in `webhook`, here or where it covers this"}
	all, err := list[struct {
		URL    string `json:"url"`
		Notes  bool   `json:"note_events"`
		Merges bool   `json:"merge_requests_events"`
		TLS    bool   `json:"enable_ssl_verification"`
		Status string `json:"alert_status"` // not on older ones
	}](ctx, c, t, ask.Path(kind, id, "hooks"), nil, maxHooks, "")
	switch {
	case errors.Is(err, signing.Denied), errors.Is(err, signing.NotFound):
		f.Found, f.Fix = "GitLab does not show it to this token", "compare it with docs/gitlab.md by hand"
		return []forge.Finding{f}
	case err != nil:
		return []forge.Finding{failed(f, err, "try again")}
	}
	var out []forge.Finding
	for _, h := range all {
		if !strings.HasSuffix(h.URL, end) {
			continue
		}
		on := map[bool]string{true: "on", false: "off"}
		out = append(out,
			forge.Finding{What: name + ": trigger Comments", OK: h.Notes, Needed: "commands in notes", Found: on[h.Notes], Fix: "turn on Comments in its settings"},
			forge.Finding{What: name + ": trigger Merge request events", OK: h.Merges, Needed: "changes of .sealwright/policy.yml", Found: on[h.Merges], Fix: "turn on Merge request events in its settings"},
			forge.Finding{What: name + ": SSL verification", OK: h.TLS, Needed: "nobody else may read deliveries", Found: on[h.TLS], Fix: "turn on SSL verification in its settings"},
			forge.Finding{What: name + ": enabled", OK: h.Status == "" || h.Status == "executable", Needed: "GitLab turns webhooks off that fail", Found: ask.Clip(h.Status), Fix: "compare its token with `webhook` of this forge, and send a test from its settings"})
	}
	if len(out) == 0 {
		f.Found = "none whose URL ends in " + end
		return []forge.Finding{f}
	}
	return out
}

func (c *Client) checkHooks() forge.Finding {
	f := forge.Finding{What: "webhook of " + c.host, Needed: "approvals that arrive at once; without, they are found by polling"}
	switch {
	case len(c.hooks.keys) > 0:
		f.OK, f.Found = true, "signing token"
	case len(c.hooks.plain) > 0:
		f.OK, f.Found, f.Fix = true, "plain secret: who reads one delivery can make others", "use a signing token, from GitLab 19.0 on"
	default:
		f.Found, f.Fix = "no secret", "set `webhook` of this forge"
	}
	return f
}

func failed(f forge.Finding, err error, fix string) forge.Finding {
	e := signing.Public(err)
	f.OK, f.Found, f.Fix = false, e.Error(), fix
	return f
}
