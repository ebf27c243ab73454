package gitlab

import (
	"context"
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
		out = append(out, c.checkPlace(ctx, t, g, fmt.Sprint(me.UserID)))
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

// checkPlace looks at what the token is in a group, or in a project of that path.
func (c *Client) checkPlace(ctx context.Context, t *token, at, me string) forge.Finding {
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
		return f
	}
	return failed(f, err, "compare the path with GitLab, and make the bot a member there")
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
