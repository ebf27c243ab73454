package hub

import (
	"strings"
)

// peopleRoutes are those about accounts, repositories as such, and who may what.
func (h *Hub) peopleRoutes() {
	h.on("GET /users/{login}", anyToken, func(c *call) reply { return userReply(h.userNamed(c.r.PathValue("login"))) })
	h.on("GET /user/{id}", anyToken, func(c *call) reply {
		for _, u := range h.users {
			if u.ID == c.number("id") {
				return userReply(u)
			}
		}
		return notFound()
	})
	h.on("GET /repos/{owner}/{repo}", "metadata:read", func(c *call) reply { return ok(c.repoDoc(c.repo)) })
	h.on("GET /repositories/{id}", anyToken, h.repositoryByID)
	h.on("GET /repos/{owner}/{repo}/collaborators/{login}/permission", "metadata:read", h.permissionOf)
	h.on("GET /repos/{owner}/{repo}/collaborators", "metadata:read", h.collaborators)
	h.on("GET /orgs/{org}/teams/{slug}", "members:read", func(c *call) reply {
		t := c.org.team(c.r.PathValue("slug"))
		if t == nil {
			return notFound()
		}
		return ok(t.doc())
	})
	h.on("GET /orgs/{org}/teams/{slug}/members", "members:read", h.teamMembers)
	h.on("GET /orgs/{org}/teams/{slug}/memberships/{login}", "members:read", h.membership)
}

func userReply(u *User) reply {
	if u == nil {
		return notFound()
	}
	d := u.doc().(obj)
	d["name"], d["email"], d["created_at"], d["updated_at"] = u.Login, nil, "2020-01-01T00:00:00Z", "2020-01-01T00:00:00Z"
	if u.Public {
		d["email"] = u.Email
	}
	if u.Suspended {
		d["suspended_at"] = "2024-01-01T00:00:00Z" // Enterprise Server only
	}
	return ok(d)
}

func (t *Team) doc() obj {
	d := obj{
		"id": t.ID, "node_id": node("Team", t.ID), "name": t.Name, "slug": t.Slug, "privacy": "closed", "permission": "pull", "parent": nil,
		"html_url": t.Org.hub.web + "/orgs/" + t.Org.Login + "/teams/" + t.Slug, "organization": t.Org.doc(),
	}
	if t.Parent != nil {
		d["parent"] = obj{"id": t.Parent.ID, "slug": t.Parent.Slug, "name": t.Parent.Name}
	}
	return d
}

func (h *Hub) repositoryByID(c *call) reply {
	r := h.repoID(c.number("id"))
	if r == nil || r.Private && !c.token.sees(r) {
		return notFound()
	}
	return ok(c.repoDoc(r))
}

// permissionOf answers with GitHub's four old words, and the role's name beside.
func (h *Hub) permissionOf(c *call) reply {
	u := h.userNamed(c.r.PathValue("login"))
	if u == nil || u.Type == "Organization" {
		return notFound()
	}
	if !c.token.sees(c.repo) {
		return failed(403, "Resource not accessible by integration")
	}
	role := c.repo.Permission(u)
	old := map[string]string{"maintain": "write", "triage": "read"}[role]
	if old == "" {
		old = role
	}
	who := u.doc().(obj)
	who["permissions"], who["role_name"] = permissions(role), role
	return ok(obj{"permission": old, "role_name": role, "user": who})
}

func permissions(role string) obj {
	at := rank(role)
	return obj{"pull": at >= rank("read"), "triage": at >= rank("triage"), "push": at >= rank("write"), "maintain": at >= rank("maintain"), "admin": at >= rank("admin")}
}

// collaborators are all who were given more than everybody has, as in affiliation=all.
func (h *Hub) collaborators(c *call) reply {
	if !c.token.sees(c.repo) {
		return failed(403, "Resource not accessible by integration")
	}
	q := c.r.URL.Query()
	if a := q.Get("affiliation"); a != "" && a != "all" {
		return failed(422, "this hub knows affiliation=all only")
	}
	least := ""
	if p := q.Get("permission"); p != "" {
		least = map[string]string{"pull": "read", "triage": "triage", "push": "write", "maintain": "maintain", "admin": "admin"}[p]
		if least == "" {
			return unprocessable("Repository", "permission", "invalid", "permission is not included in the list")
		}
	}
	var out []obj
	for _, u := range h.users {
		role := c.repo.given(u)
		if u.Type == "Organization" || rank(role) < rank("read") || rank(role) < rank(least) {
			continue
		}
		d := u.doc().(obj)
		d["permissions"], d["role_name"] = permissions(role), role
		out = append(out, d)
	}
	return c.page(out, "")
}

func (h *Hub) teamMembers(c *call) reply {
	t := c.org.team(c.r.PathValue("slug"))
	if t == nil {
		return notFound()
	}
	if role := c.r.URL.Query().Get("role"); role != "" && role != "all" {
		return failed(422, "this hub knows role=all only")
	}
	var out []obj
	for _, u := range h.users {
		if t.state(u) == "active" {
			out = append(out, u.doc().(obj))
		}
	}
	return c.page(out, "")
}

func (h *Hub) membership(c *call) reply {
	t, u := c.org.team(c.r.PathValue("slug")), h.userNamed(c.r.PathValue("login"))
	if t == nil || u == nil {
		return notFound()
	}
	state := t.state(u)
	if state == "" {
		return notFound()
	}
	role := "member"
	if strings.EqualFold(c.org.Members[u], "admin") {
		role = "maintainer"
	}
	return ok(obj{"url": c.base() + c.r.URL.Path, "state": state, "role": role})
}
