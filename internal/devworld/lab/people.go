package lab

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The access levels of GitLab.
const (
	Minimal    = 5
	Guest      = 10
	Reporter   = 20
	Developer  = 30
	Maintainer = 40
	Owner      = 50
)

// User is a person or a bot.
type User struct {
	ID    int64
	Login string
	Bot   bool
	State string // "active", "blocked", "deactivated"
	// Emails are the confirmed ones: commits by them are this user's.
	Emails []string
	// Admin may see and do everything.
	Admin bool
	// Hidden users are not found by others, as on an instance that restricts
	// profiles.
	Hidden bool
}

// Member is a membership.
type Member struct {
	User    *User
	Level   int
	Expires string // a day, "2027-01-31"; empty: never
	// Awaiting members have not been accepted yet.
	Awaiting bool
}

// invite is a group that was invited, with the most that it gives.
type invite struct {
	group *Group
	most  int
}

// Group has members of its own, those of its parents and those of invited groups.
type Group struct {
	s       *Server
	ID      int64
	Path    string // acme/payments
	Parent  *Group
	Members []*Member
	Private bool
	invited []invite
}

// User adds a person.
func (s *Server) User(login string) *User { return s.addUser(login, false) }

// Bot adds a bot, as a project or group access token has one.
func (s *Server) Bot(login string) *User { return s.addUser(login, true) }

func (s *Server) addUser(login string, bot bool) *User {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := &User{ID: s.id(), Login: login, Bot: bot, State: "active", Emails: []string{login + "@acme.dev"}}
	s.users = append(s.users, u)
	return u
}

// Group returns the group of a path, with its parents; it makes those that are not
// there. They are private.
func (s *Server) Group(path string) *Group {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.group(path)
}

func (s *Server) group(path string) *Group {
	for _, g := range s.groups {
		if strings.EqualFold(g.Path, path) {
			return g
		}
	}
	g := &Group{s: s, ID: s.id(), Path: path, Private: true}
	if at := strings.LastIndexByte(path, '/'); at > 0 {
		g.Parent = s.group(path[:at])
	}
	s.groups = append(s.groups, g)
	return g
}

// Add makes a user a member.
func (g *Group) Add(u *User, level int) *Member {
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	m := &Member{User: u, Level: level}
	g.Members = append(g.Members, m)
	return m
}

// Remove ends a membership.
func (g *Group) Remove(u *User) {
	g.s.Change(func() { g.Members = slices.DeleteFunc(g.Members, func(m *Member) bool { return m.User == u }) })
}

// Invite gives the members of another group at most a level in this one.
func (g *Group) Invite(other *Group, most int) {
	g.s.Change(func() { g.invited = append(g.invited, invite{other, most}) })
}

// all returns the memberships of a group with those of its parents and of invited
// groups, the highest of each user. Invited groups bring their direct members.
func (g *Group) all() []*Member {
	best := map[*User]*Member{}
	take := func(m *Member, most int) {
		level := min(m.Level, most)
		if b := best[m.User]; b == nil || b.Level < level {
			best[m.User] = &Member{User: m.User, Level: level, Expires: m.Expires, Awaiting: m.Awaiting}
		}
	}
	for at := g; at != nil; at = at.Parent {
		for _, m := range at.Members {
			take(m, Owner)
		}
		for _, i := range at.invited {
			for _, m := range i.group.Members {
				take(m, i.most)
			}
		}
	}
	return sorted(best, g.s.now())
}

// sorted returns the memberships that hold: GitLab removes those that are over.
func sorted(best map[*User]*Member, now time.Time) []*Member {
	var out []*Member
	for _, m := range best {
		if m.Expires == "" || now.Format(time.DateOnly) < m.Expires {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b *Member) int { return int(a.User.ID - b.User.ID) })
	return out
}

// level is what a user is among members, 0 is nothing.
func level(all []*Member, u *User) int {
	if u.Admin {
		return Owner
	}
	for _, m := range all {
		if m.User == u && !m.Awaiting && u.State == "active" {
			return m.Level
		}
	}
	return 0
}

func (s *Server) userByID(id int64) *User {
	at := slices.IndexFunc(s.users, func(u *User) bool { return u.ID == id })
	if at < 0 {
		return nil
	}
	return s.users[at]
}

// basic is a user as other things show them: not whether it is a bot.
func (s *Server) basic(u *User) any {
	if u == nil {
		return nil
	}
	return map[string]any{"id": u.ID, "username": u.Login, "name": strings.ToUpper(u.Login[:1]) + u.Login[1:], "state": u.State, "locked": false, "avatar_url": nil, "web_url": s.options.URL + "/" + u.Login}
}

func (s *Server) full(u *User) map[string]any {
	m := s.basic(u).(map[string]any)
	m["bot"], m["public_email"], m["created_at"] = u.Bot, nil, "2020-01-01T00:00:00.000Z"
	return m
}

func (s *Server) member(m *Member) any {
	out := s.basic(m.User).(map[string]any)
	out["access_level"], out["expires_at"], out["membership_state"], out["created_at"] = m.Level, nil, "active", "2020-01-01T00:00:00.000Z"
	if m.Expires != "" {
		out["expires_at"] = m.Expires
	}
	if m.Awaiting {
		out["membership_state"] = "awaiting"
	}
	return out
}

// groupFor returns the group that a path value names, if the user may see it.
func (q *request) groupFor() *Group {
	name := q.PathValue("id")
	id, _ := strconv.ParseInt(name, 10, 64)
	for _, g := range q.s.groups {
		if g.ID == id || strings.EqualFold(g.Path, name) {
			if g.Private && level(g.all(), q.user) == 0 {
				return nil
			}
			return g
		}
	}
	return nil
}

func (s *Server) peopleRoutes() {
	s.handle("GET /api/v4/user", "read", func(q *request) answer { return ok(s.full(q.user)) })
	s.handle("GET /api/v4/users/{user}", "read", func(q *request) answer {
		u := s.userByID(q.number("user"))
		if u == nil || u.Hidden {
			return notFound("User")
		}
		return ok(s.full(u))
	})
	s.handle("GET /api/v4/users", "read", func(q *request) answer {
		var out []*User
		for _, u := range s.users {
			if strings.EqualFold(u.Login, q.URL.Query().Get("username")) && !u.Hidden {
				out = append(out, u)
			}
		}
		return page(q, out, func(u *User) any { return s.basic(u) })
	})
	s.handle("GET /api/v4/personal_access_tokens/self", "", func(q *request) answer {
		t := q.token
		return ok(map[string]any{"id": t.ID, "name": "sealwright", "revoked": t.Revoked, "active": !t.Revoked, "scopes": t.Scopes, "user_id": t.User.ID, "expires_at": t.Expires, "created_at": "2026-01-01T00:00:00.000Z"})
	})
	s.handle("GET /api/v4/metadata", "read", func(q *request) answer {
		return ok(map[string]any{"version": "19.1.0", "revision": "0", "enterprise": s.options.Premium})
	})
	s.handle("GET /api/v4/groups/{id}", "read", func(q *request) answer {
		g := q.groupFor()
		if g == nil {
			return notFound("Group")
		}
		return ok(map[string]any{"id": g.ID, "full_path": g.Path, "path": g.Path[strings.LastIndexByte(g.Path, '/')+1:], "web_url": s.options.URL + "/groups/" + g.Path})
	})
	s.handle("GET /api/v4/groups/{id}/members/all", "read", func(q *request) answer {
		g := q.groupFor()
		if g == nil {
			return notFound("Group")
		}
		return page(q, g.all(), s.member)
	})
	s.handle("GET /api/v4/groups/{id}/members/all/{user}", "read", func(q *request) answer {
		g := q.groupFor()
		if g == nil {
			return notFound("Group")
		}
		return s.oneMember(q, g.all())
	})
	s.on("GET", "members/all", "read", shown(Guest), func(q *request, p *Project) answer { return page(q, p.all(), s.member) })
	s.on("GET", "members/all/{user}", "read", shown(Guest), func(q *request, p *Project) answer { return s.oneMember(q, p.all()) })
}

func (s *Server) oneMember(q *request, all []*Member) answer {
	for _, m := range all {
		if m.User.ID == q.number("user") {
			return ok(s.member(m))
		}
	}
	return refuse(http.StatusNotFound, "404 Not found")
}
