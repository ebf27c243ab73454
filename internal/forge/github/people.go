package github

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/google/go-github/v60/github"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"
)

// maxMembers bounds one group: all of its people are read, and more than that are
// no approvers.
const maxMembers = 2_000

// words are how GitHub names groups of people.
func (c *Client) words() ask.GroupWords {
	return ask.GroupWords{Host: c.host, Form: "ORG/TEAM", Kind: "team", Named: func(name string) bool {
		org, team, _ := strings.Cut(name, "/")
		return org != "" && team != "" && !strings.Contains(team, "/")
	}}
}

// member is an account with what Standing and Members need of it.
type member struct {
	user
	Suspended *string `json:"suspended_at"` // Enterprise Server only
	Role      string  `json:"role_name"`
	// Permissions are what it may do in the repository, where that was asked.
	Permissions struct {
		Push     bool `json:"push"`
		Maintain bool `json:"maintain"`
		Admin    bool `json:"admin"`
	} `json:"permissions"`
}

// lookup asks for an account by its id.
func (c *Client) lookup(ctx context.Context, g *github.Client, id string) (member, error) {
	if !ask.IsNumber(id) {
		return member{}, &signing.Error{Code: signing.Invalid, Message: "not the id of an account on " + c.host, Found: strconv.Quote(ask.Clip(id))}
	}
	var u member
	if err := c.get(ctx, g, ask.Path("user", id), nil, &u, ""); err != nil {
		if errors.Is(err, signing.NotFound) {
			return member{}, &signing.Error{Code: signing.NotFound, Message: "there is no account " + id + " on " + c.host, Err: err}
		}
		return member{}, err
	}
	if strconv.FormatInt(u.ID, 10) != id || u.Login == "" {
		return member{}, ask.Garbled("account "+id, "it is another one")
	}
	return u, nil
}

// Account implements forge.People. The account is asked for by any installation
// that there is: accounts belong to no repository.
func (c *Client) Account(ctx context.Context, id string) (signing.Account, error) {
	g, err := c.anywhere(ctx)
	if err != nil {
		return signing.Account{}, err
	}
	u, err := c.lookup(ctx, g, id)
	if err != nil {
		return signing.Account{}, err
	}
	return c.account(&u.user), nil
}

// anywhere returns the client of any installation that there is.
func (c *Client) anywhere(ctx context.Context) (*github.Client, error) {
	var last error
	for _, a := range c.apps {
		all, err := list[granted](ctx, c, a.jwt, ask.Path("app", "installations"), nil, maxInstallations, "")
		if err != nil {
			last = err
			continue
		}
		for _, in := range all {
			if in.Suspended != nil || in.ID <= 0 || len(a.only) > 0 && !a.only[in.ID] {
				continue
			}
			return c.installed(a, in.ID), nil
		}
	}
	if last == nil {
		last = &signing.Error{Code: signing.Denied, Message: "no GitHub App of this service is installed anywhere on " + c.host, Fix: "install the App"}
	}
	return nil, last
}

// around is the place of r. That of the zero Repository, which is one of another
// forge, has no name: only teams and accounts can be asked for there.
func (c *Client) around(ctx context.Context, r forge.Repository, asked []ask.Group) (*place, error) {
	if r != (forge.Repository{}) {
		return c.place(ctx, r)
	}
	if err := c.words().Elsewhere(asked); err != nil {
		return nil, err
	}
	g, err := c.anywhere(ctx)
	if err != nil {
		return nil, err
	}
	return &place{client: g}, nil
}

// level is what somebody may do in a repository.
type level struct{ reads, writes, maintains, admin bool }

func (l level) has(name string) bool {
	return name == "write" && l.writes || name == "maintain" && l.maintains || name == "admin" && l.admin
}

// permission asks what u may do. The API takes a login, which may be another
// account's by now: the id in the answer is what counts.
func (c *Client) permission(ctx context.Context, p *place, u user) (level, error) {
	var got struct {
		Permission string  `json:"permission"`
		Role       string  `json:"role_name"`
		User       *member `json:"user"`
	}
	err := c.get(ctx, p.client, ask.Path("repos", p.owner, p.name, "collaborators", u.Login, "permission"), nil, &got, "metadata: read")
	switch {
	case errors.Is(err, signing.NotFound):
		return level{}, nil
	case err != nil:
		return level{}, err
	case got.User == nil || got.User.ID != u.ID:
		return level{}, nil
	}
	// Maintain is "write" in the old words, and roles of an organisation's own have
	// names of their own: what the role may do is told beside.
	l := level{admin: got.Permission == "admin", writes: got.Permission == "write" || got.Permission == "admin"}
	l.reads = l.writes || got.Permission == "read"
	l.maintains = l.admin || l.writes && (got.Role == "maintain" || got.User.Permissions.Maintain)
	return l, nil
}

// Standing implements forge.People. Nothing is remembered: each call asks.
func (c *Client) Standing(ctx context.Context, r forge.Repository, who signing.Account, groups []string) (forge.Standing, error) {
	if err := ask.OfForge(c.host, "an account", who.Forge); err != nil {
		return forge.Standing{}, err
	}
	asked, err := c.words().Parse(groups)
	if err != nil {
		return forge.Standing{}, err
	}
	p, err := c.around(ctx, r, asked)
	if err != nil {
		return forge.Standing{}, err
	}
	u, err := c.lookup(ctx, p.client, who.ID)
	if err != nil {
		return forge.Standing{}, err
	}
	out := forge.Standing{Account: c.account(&u.user)}
	if u.Suspended != nil {
		return out, nil
	}
	may := level{}
	if p.name != "" {
		if may, err = c.permission(ctx, p, u.user); err != nil {
			return forge.Standing{}, err
		}
	}
	if out.Reads = may.reads; !out.Reads && p.name != "" || out.Account.Bot {
		return out, nil
	}
	teams := false
	for _, f := range asked {
		in := f.ID == who.ID || f.Permission != "" && may.has(f.Permission)
		if f.Name != "" {
			if in, err = c.inTeam(ctx, p, f, u.Login); err != nil {
				return forge.Standing{}, err
			}
			teams = teams || in
		}
		if in {
			out.Groups = append(out.Groups, f.Text)
		}
	}
	if !teams {
		return out, nil
	}
	// Memberships are asked by login and answered without an id: the login must
	// have been this account's all the time.
	again, err := c.lookup(ctx, p.client, who.ID)
	if err != nil {
		return forge.Standing{}, err
	}
	if again.Login != u.Login {
		return forge.Standing{}, &signing.Error{Code: signing.Unavailable, Message: "account " + who.ID + " on " + c.host + " was renamed while its teams were asked for", Fix: "it is asked again"}
	}
	return out, nil
}

// inTeam reports whether a login has an active membership of a team, or of a team
// below it. A team that is not there has no members.
func (c *Client) inTeam(ctx context.Context, p *place, f ask.Group, login string) (bool, error) {
	org, team, _ := strings.Cut(f.Name, "/")
	g, err := c.organisation(ctx, p, org)
	if err != nil {
		return false, err
	}
	var m struct {
		State string `json:"state"`
	}
	err = c.get(ctx, g, ask.Path("orgs", org, "teams", team, "memberships", login), nil, &m, "members: read")
	if errors.Is(err, signing.NotFound) {
		return false, nil
	}
	return err == nil && m.State == "active", err
}

// organisation returns the client of the installation on org: that of the
// repository, where it belongs to org.
func (c *Client) organisation(ctx context.Context, p *place, org string) (*github.Client, error) {
	if strings.EqualFold(p.owner, org) {
		return p.client, nil
	}
	for _, a := range c.apps {
		var found granted
		err := c.get(ctx, a.jwt, ask.Path("orgs", org, "installation"), nil, &found, "")
		switch {
		case errors.Is(err, signing.NotFound):
		case err != nil:
			return nil, err
		case found.ID > 0 && found.Suspended == nil && (len(a.only) == 0 || a.only[found.ID]):
			return c.installed(a, found.ID), nil
		}
	}
	return nil, &signing.Error{Code: signing.Denied, Message: "the teams of " + ask.Clip(org) + " on " + c.host + " cannot be read", Found: "no GitHub App of this service is installed on that organisation", Fix: "install the App there with the permission members: read, or name a team of the repository's own organisation"}
}

// Members implements forge.People.
func (c *Client) Members(ctx context.Context, r forge.Repository, groups []string) (map[string][]signing.Account, error) {
	asked, err := c.words().Parse(groups)
	if err != nil {
		return nil, err
	}
	p, err := c.around(ctx, r, asked)
	if err != nil {
		return nil, err
	}
	out := map[string][]signing.Account{}
	for _, f := range asked {
		people, err := c.group(ctx, p, f)
		if err != nil {
			return nil, err
		}
		out[f.Text] = []signing.Account{}
		for _, u := range people {
			if a := c.account(&u.user); a.Known() && !a.Bot && u.Suspended == nil {
				out[f.Text] = append(out[f.Text], a)
			}
		}
	}
	return out, nil
}

// group lists the people of one entry.
func (c *Client) group(ctx context.Context, p *place, f ask.Group) ([]member, error) {
	switch {
	case f.ID != "":
		u, err := c.lookup(ctx, p.client, f.ID)
		return []member{u}, named(f.Text, err)
	case f.Permission != "":
		asked := f.Permission
		if asked == "write" {
			asked = "push"
		}
		all, err := list[member](ctx, c, p.client, ask.Path("repos", p.owner, p.name, "collaborators"), url.Values{"affiliation": {"all"}, "permission": {asked}}, maxMembers, "metadata: read")
		var out []member
		for _, u := range all {
			l := level{admin: u.Permissions.Admin, maintains: u.Permissions.Maintain || u.Permissions.Admin, writes: u.Permissions.Push || u.Permissions.Admin}
			if l.has(f.Permission) {
				out = append(out, u)
			}
		}
		return out, named(f.Text, err)
	}
	org, team, _ := strings.Cut(f.Name, "/")
	g, err := c.organisation(ctx, p, org)
	if err != nil {
		return nil, err
	}
	// Those of teams below it are among them; those who did not accept are not.
	all, err := list[member](ctx, c, g, ask.Path("orgs", org, "teams", team, "members"), url.Values{"role": {"all"}}, maxMembers, "members: read")
	return all, named(f.Text, err)
}

// named says which group an error is about.
func named(group string, err error) error {
	var e *signing.Error
	if !errors.As(err, &e) {
		return err
	}
	out := *e
	out.Message = fmt.Sprintf("group %s: %s", ask.Clip(group), e.Message)
	if e.Code == signing.NotFound {
		out.Fix = "correct the group in the policy; if it is there, give the App the permission members: read"
	}
	return &out
}
