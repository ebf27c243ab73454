package gitlab

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	gitlab "gitlab.com/gitlab-org/api/client-go"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxMembers bounds one group: more people than that are no approvers, and all
	// of them are read and looked up.
	maxMembers = 1000
	// lookups is how many users are looked up at once.
	lookups = 8
	// programFresh is how long it is remembered whether a user is a program. A user
	// does not become one, nor cease to be one; the login is for people.
	programFresh = 10 * time.Minute
	// maxPrograms bounds what is remembered of users.
	maxPrograms = 20_000
)

// user is what this service reads of a user. Bot is a pointer, because a forge
// that does not say is no forge that said no.
type user struct {
	ID       int64  `json:"id"`
	Username string `json:"username"`
	State    string `json:"state"`
	Bot      *bool  `json:"bot"`
}

// member is a membership of a project or group, as members/all has it: inherited
// ones and those of invited groups included.
type member struct {
	ID          int64  `json:"id"`
	Username    string `json:"username"`
	State       string `json:"state"`            // of the user
	Membership  string `json:"membership_state"` // awaiting: not accepted yet; absent on older ones
	AccessLevel int    `json:"access_level"`
	Expires     string `json:"expires_at"` // a day; from its beginning on, there is no membership
}

// active reports whether the membership holds now with at least a level.
func (m member) active(now time.Time, level int) bool {
	if m.State != "active" || m.Membership != "" && m.Membership != "active" || m.AccessLevel < level {
		return false
	}
	if m.Expires == "" {
		return true
	}
	day, err := time.Parse(time.DateOnly, m.Expires)
	return err == nil && now.UTC().Before(day)
}

// level returns the access level that the name of a permission stands for, 0 for
// none. A guest, and one with minimal access, has none of them.
func level(permission string) int {
	switch permission {
	case "write":
		return int(gitlab.DeveloperPermissions)
	case "maintain":
		return int(gitlab.MaintainerPermissions)
	case "admin":
		return int(gitlab.OwnerPermissions)
	}
	return 0
}

// words are how GitLab names groups of people.
func (c *Client) words() ask.GroupWords {
	return ask.GroupWords{Host: c.host, Form: "GROUP/SUBGROUP", Kind: "group", Named: func(string) bool { return true }}
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
	u, err := c.lookup(ctx, p.token, who.ID)
	if err != nil {
		return forge.Standing{}, err
	}
	out := forge.Standing{Account: c.account(u)}
	if u.State != "active" {
		return out, nil
	}
	var mine member
	if p.id != "" {
		if mine, err = c.member(ctx, p.token, "projects", p.id, who.ID); err != nil {
			return forge.Standing{}, err
		}
		out.Reads = !p.private || mine.active(c.now(), int(gitlab.GuestPermissions))
	}
	if out.Account.Bot || !out.Reads && p.id != "" {
		return out, nil
	}
	for _, f := range asked {
		var in bool
		switch {
		case f.Permission != "":
			in = mine.active(c.now(), level(f.Permission))
		case f.ID != "":
			in = f.ID == who.ID
		default:
			m, err := c.groupMember(ctx, c.tokenFor(p, f), f, who.ID)
			if err != nil {
				return forge.Standing{}, err
			}
			in = m.active(c.now(), int(gitlab.GuestPermissions))
		}
		if in {
			out.Groups = append(out.Groups, f.Text)
		}
	}
	return out, nil
}

// around is the place of r. That of the zero Repository, which is one of another
// forge, has no id: only groups and accounts can be asked for there.
func (c *Client) around(ctx context.Context, r forge.Repository, asked []ask.Group) (*place, error) {
	if r != (forge.Repository{}) {
		return c.place(ctx, r)
	}
	if err := c.words().Elsewhere(asked); err != nil {
		return nil, err
	}
	return &place{token: c.order("")[0]}, nil
}

// tokenFor is the token that asks for a group: the project's, or where there is no
// project the one that is for the group.
func (c *Client) tokenFor(p *place, f ask.Group) *token {
	if p.id != "" {
		return p.token
	}
	return c.order(f.Name)[0]
}

// group finds a group by its path, which must be its path now.
func (c *Client) group(ctx context.Context, t *token, f ask.Group) (string, error) {
	var g struct {
		ID   int64  `json:"id"`
		Path string `json:"full_path"`
	}
	if _, err := c.get(ctx, t, ask.Path("groups", f.Name), query("with_projects", "false"), &g, "read_api, as a member of the group"); err != nil {
		if signing.CodeOf(err) == signing.NotFound {
			return "", &signing.Error{Code: signing.NotFound, Message: "there is no such group, or this token may not see it", Found: strconv.Quote(ask.Clip(f.Text)), Fix: "compare the path with GitLab; make the token's bot a member of the group", Err: err}
		}
		return "", err
	}
	if g.ID <= 0 || !strings.EqualFold(g.Path, f.Name) {
		return "", &signing.Error{Code: signing.NotFound, Message: "another group answers to this path", Expected: strconv.Quote(ask.Clip(f.Name)), Found: strconv.Quote(ask.Clip(g.Path)), Fix: "write the group's path as it is now"}
	}
	return strconv.FormatInt(g.ID, 10), nil
}

func (c *Client) groupMember(ctx context.Context, t *token, f ask.Group, id string) (member, error) {
	group, err := c.group(ctx, t, f)
	if err != nil {
		return member{}, err
	}
	return c.member(ctx, t, "groups", group, id)
}

// member asks for one membership; the zero member is nobody. kind is projects or
// groups. The place itself was seen before: 404 means that there is no membership.
func (c *Client) member(ctx context.Context, t *token, kind, id, who string) (member, error) {
	var m member
	_, err := c.get(ctx, t, ask.Path(kind, id, "members", "all", who), nil, &m, "read_api")
	switch {
	case signing.CodeOf(err) == signing.NotFound && err != nil:
		return member{}, nil
	case err != nil:
		return member{}, err
	case strconv.FormatInt(m.ID, 10) != who:
		return member{}, ask.Garbled("GET /"+ask.Path(kind, id, "members/all", who), "another member than the one that was asked for")
	}
	return m, nil
}

// Members implements forge.People. Programs, and those whose membership does not
// hold now, are left out.
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
		var list []member
		least := max(level(f.Permission), int(gitlab.GuestPermissions))
		switch {
		case f.ID != "":
			u, err := c.lookup(ctx, p.token, f.ID)
			if err != nil {
				return nil, err
			}
			list = []member{{ID: u.ID, Username: u.Username, State: u.State, AccessLevel: least}}
		case f.Permission != "":
			list, err = members(ctx, c, p.token, ask.Path("projects", p.id, "members", "all"))
		default:
			var group string
			t := c.tokenFor(p, f)
			if group, err = c.group(ctx, t, f); err == nil {
				list, err = members(ctx, c, t, ask.Path("groups", group, "members", "all"))
			}
		}
		if err != nil {
			return nil, err
		}
		if out[f.Text], err = c.people(ctx, p.token, list, least); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func members(ctx context.Context, c *Client, t *token, path string) ([]member, error) {
	return list[member](ctx, c, t, path, nil, maxMembers, "read_api, as a member")
}

// people returns those of list that are active and no programs, each once.
func (c *Client) people(ctx context.Context, t *token, list []member, level int) ([]signing.Account, error) {
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		first error
		found = map[int64]signing.Account{}
		free  = make(chan struct{}, lookups)
	)
	for _, m := range list {
		if !m.active(c.now(), level) {
			continue
		}
		free <- struct{}{}
		group.Add(1)
		go func() {
			defer func() { <-free; group.Done() }()
			a, err := c.who(ctx, t, strconv.FormatInt(m.ID, 10))
			mu.Lock()
			defer mu.Unlock()
			if err != nil && first == nil {
				first = err
			} else if err == nil && !a.Bot {
				found[m.ID] = a
			}
		}()
	}
	group.Wait()
	if first != nil {
		return nil, first
	}
	out := make([]signing.Account, 0, len(found))
	for _, a := range found {
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b signing.Account) int { return strings.Compare(a.Login, b.Login) })
	return out, nil
}

// Account implements forge.People.
func (c *Client) Account(ctx context.Context, id string) (signing.Account, error) {
	u, err := c.lookup(ctx, c.order("")[0], id)
	if err != nil {
		return signing.Account{}, err
	}
	return c.account(u), nil
}

func (c *Client) account(u user) signing.Account {
	return signing.Account{Forge: c.host, ID: strconv.FormatInt(u.ID, 10), Login: u.Username, Bot: *u.Bot}
}

// lookup asks for one user by id.
func (c *Client) lookup(ctx context.Context, t *token, id string) (user, error) {
	if err := c.number(id, "the id of an account"); err != nil {
		return user{}, err
	}
	var u user
	if _, err := c.get(ctx, t, ask.Path("users", id), nil, &u, "read_api"); err != nil {
		return user{}, err
	}
	if strconv.FormatInt(u.ID, 10) != id || u.Username == "" || u.Bot == nil {
		return user{}, ask.Garbled("GET /users/"+id, fmt.Sprintf("no user %s, or not whether it is a bot", id))
	}
	return u, nil
}

// known is a remembered user: who, and whether it is a program. Nothing that can
// change and matters.
type known struct {
	account signing.Account
	at      time.Time
}

// who is lookup for text and for counting: it may be some minutes old.
func (c *Client) who(ctx context.Context, t *token, id string) (signing.Account, error) {
	c.mu.Lock()
	k, ok := c.users[id]
	c.mu.Unlock()
	if age := c.now().Sub(k.at); ok && age >= 0 && age < programFresh {
		return k.account, nil
	}
	u, err := c.lookup(ctx, t, id)
	if err != nil {
		return signing.Account{}, err
	}
	a := c.account(u)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.users) >= maxPrograms {
		clear(c.users)
	}
	c.users[id] = known{a, c.now()}
	return a, nil
}

// query makes a query of names and values.
func query(pairs ...string) map[string][]string {
	q := map[string][]string{}
	for i := 0; i+1 < len(pairs); i += 2 {
		q[pairs[i]] = append(q[pairs[i]], pairs[i+1])
	}
	return q
}
