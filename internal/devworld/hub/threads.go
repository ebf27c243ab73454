package hub

import (
	"strings"
	"time"
	"unicode/utf8"
)

const (
	readTalk  = "issues:read|pull_requests:read"
	writeTalk = "issues:write|pull_requests:write"
)

// talk returns the issue of {n}, if the token may see that kind. On GitHub, issues
// and pull requests have permissions of their own.
func (c *call) talk(level string) (*Issue, reply) {
	i := c.repo.Issues[int(c.number("n"))]
	if i == nil {
		return nil, notFound()
	}
	return i, c.kindPermitted(i, level)
}

// kindPermitted is a reply with a status where the token lacks the permission of i's
// kind. Comments of a pull request need either.
func (c *call) kindPermitted(i *Issue, level string) reply {
	if !c.token.sees(i.Repo) && level == "read" {
		return reply{}
	}
	allows := func(name string) bool {
		got := c.token.permissions[name]
		return got == "write" || got == level
	}
	if allows("issues") || i.Pull != nil && allows("pull_requests") {
		return reply{}
	}
	return failed(403, "Resource not accessible by integration")
}

// threadRoutes read issues and comments.
func (h *Hub) threadRoutes() {
	const base = "/repos/{owner}/{repo}"
	h.on("GET "+base+"/issues/{n}", readTalk, func(c *call) reply {
		i, r := c.talk("read")
		if r.status != 0 {
			return r
		}
		return ok(i.doc(c.base()))
	})
	h.on("GET "+base+"/issues", readTalk, func(c *call) reply {
		var out []obj
		state := c.r.URL.Query().Get("state")
		for n := c.repo.last; n > 0; n-- {
			if i := c.repo.Issues[n]; i != nil && (state == "all" || i.state() == state || state == "" && !i.Closed) {
				out = append(out, i.doc(c.base()))
			}
		}
		return c.page(out, "")
	})
	h.on("GET "+base+"/issues/{n}/comments", readTalk, func(c *call) reply {
		i, r := c.talk("read")
		if r.status != 0 {
			return r
		}
		return c.comments(i.Comments)
	})
	h.on("GET "+base+"/issues/comments/{id}", readTalk, func(c *call) reply {
		m, r := c.comment(false, "read")
		if r.status != 0 {
			return r
		}
		return ok(m.doc(c.base()))
	})
	h.on("GET "+base+"/pulls/{n}/comments", "pull_requests:read", func(c *call) reply {
		i := c.repo.Issues[int(c.number("n"))]
		if i == nil || i.Pull == nil {
			return notFound()
		}
		return c.comments(i.Pull.Notes)
	})
	h.on("GET "+base+"/pulls/comments/{id}", "pull_requests:read", func(c *call) reply {
		m, r := c.comment(true, "read")
		if r.status != 0 {
			return r
		}
		return ok(m.doc(c.base()))
	})
}

// comments is a page of comments, those since the time of the query.
func (c *call) comments(all []*Comment) reply {
	var since time.Time
	if s := c.r.URL.Query().Get("since"); s != "" {
		t, err := time.Parse(time.RFC3339, s)
		if err != nil {
			return failed(422, "since is no time")
		}
		since = t
	}
	var out []obj
	for _, m := range all {
		if !m.Updated.Before(since) {
			out = append(out, m.doc(c.base()))
		}
	}
	return c.page(out, "")
}

// comment finds {id} in the repository.
func (c *call) comment(review bool, level string) (*Comment, reply) {
	id := c.number("id")
	for _, i := range c.repo.Issues {
		list := i.Comments
		if review {
			list = nil
			if i.Pull != nil {
				list = i.Pull.Notes
			}
		}
		for _, m := range list {
			if m.ID == id {
				return m, c.kindPermitted(i, level)
			}
		}
	}
	return nil, notFound()
}

// writeRoutes change issues and comments.
func (h *Hub) writeRoutes() {
	const base = "/repos/{owner}/{repo}"
	h.on("POST "+base+"/issues", "issues:write", h.postIssue)
	h.on("PATCH "+base+"/issues/{n}", writeTalk, h.patchIssue)
	h.on("POST "+base+"/issues/{n}/comments", writeTalk, h.postComment)
	h.on("PATCH "+base+"/issues/comments/{id}", writeTalk, h.patchComment)
	h.on("DELETE "+base+"/issues/comments/{id}", writeTalk, func(c *call) reply {
		m, r := c.comment(false, "write")
		if r.status != 0 {
			return r
		}
		h.removeComment(m, c.app.Bot)
		return nothing()
	})
	h.on("POST "+base+"/issues/comments/{id}/reactions", writeTalk, func(c *call) reply { return c.react(false) })
	h.on("POST "+base+"/pulls/comments/{id}/reactions", "pull_requests:write", func(c *call) reply { return c.react(true) })
}

// text checks a body: GitHub keeps no NUL and no more than 65,536 characters.
func text(resource, field, s string, empty bool) (reply, bool) {
	switch {
	case !empty && strings.TrimSpace(s) == "":
		return unprocessable(resource, field, "missing_field", field+" cannot be blank"), false
	case utf8.RuneCountInString(s) > maxText:
		return unprocessable(resource, field, "custom", field+" is too long (maximum is 65536 characters)"), false
	}
	return reply{}, true
}

func (h *Hub) postIssue(c *call) reply {
	var in struct {
		Title     string   `json:"title"`
		Body      string   `json:"body"`
		Labels    []string `json:"labels"`
		Assignees []string `json:"assignees"`
	}
	if r, fine := c.decode(&in); !fine {
		return r
	}
	if r, fine := text("Issue", "title", in.Title, false); !fine {
		return r
	}
	if utf8.RuneCountInString(in.Title) > 256 {
		return unprocessable("Issue", "title", "custom", "title is too long (maximum is 256 characters)")
	}
	if r, fine := text("Issue", "body", in.Body, true); !fine {
		return r
	}
	i := c.repo.issue(c.app.Bot, in.Title, in.Body)
	i.App = c.app
	return created(i.doc(c.base()))
}

func (h *Hub) patchIssue(c *call) reply {
	i, r := c.talk("write")
	if r.status != 0 {
		return r
	}
	var in struct {
		Title       *string `json:"title"`
		Body        *string `json:"body"`
		State       *string `json:"state"`
		StateReason *string `json:"state_reason"`
	}
	if r, fine := c.decode(&in); !fine {
		return r
	}
	if in.State != nil && *in.State != "open" && *in.State != "closed" {
		return unprocessable("Issue", "state", "invalid", "state is not included in the list")
	}
	if in.StateReason != nil && *in.StateReason != "completed" && *in.StateReason != "not_planned" && *in.StateReason != "reopened" {
		return unprocessable("Issue", "state_reason", "invalid", "state_reason is not included in the list")
	}
	if in.Body != nil {
		if r, fine := text("Issue", "body", *in.Body, true); !fine {
			return r
		}
		i.Body = *in.Body
	}
	if in.Title != nil {
		i.Title = *in.Title
	}
	if in.State != nil {
		i.Closed = *in.State == "closed"
	}
	return ok(i.doc(c.base()))
}

func (h *Hub) postComment(c *call) reply {
	i, r := c.talk("write")
	if r.status != 0 {
		return r
	}
	body, r, fine := c.bodyOnly()
	if !fine {
		return r
	}
	if i.Locked {
		return failed(403, "Unable to create comment because issue is locked.")
	}
	m := h.newComment(i, c.app.Bot, body)
	m.App = c.app
	h.emitComment(m, "created", c.app.Bot, nil)
	return created(m.doc(c.base()))
}

func (c *call) bodyOnly() (string, reply, bool) {
	var in struct {
		Body string `json:"body"`
	}
	if r, fine := c.decode(&in); !fine {
		return "", r, false
	}
	r, fine := text("IssueComment", "body", in.Body, false)
	return in.Body, r, fine
}

func (h *Hub) patchComment(c *call) reply {
	m, r := c.comment(false, "write")
	if r.status != 0 {
		return r
	}
	body, r, fine := c.bodyOnly()
	if !fine {
		return r
	}
	h.changeComment(m, c.app.Bot, body)
	return ok(m.doc(c.base()))
}

func (c *call) react(review bool) reply {
	m, r := c.comment(review, "write")
	if r.status != 0 {
		return r
	}
	var in struct {
		Content string `json:"content"`
	}
	if r, fine := c.decode(&in); !fine {
		return r
	}
	if !strings.Contains(" +1 -1 laugh confused heart hooray rocket eyes ", " "+in.Content+" ") || in.Content == "" {
		return unprocessable("Reaction", "content", "invalid", "content is not included in the list")
	}
	d, isNew := c.h.reaction(&m.Reactions, c.app.Bot, in.Content)
	if isNew {
		return created(d)
	}
	return ok(d)
}

// reaction adds one, once for each person.
func (h *Hub) reaction(to *[]Reaction, by *User, content string) (d obj, isNew bool) {
	for _, r := range *to {
		if r.By == by && r.Content == content {
			return obj{"id": r.ID, "node_id": node("Reaction", r.ID), "user": by.doc(), "content": content, "created_at": stamp(h.second())}, false
		}
	}
	r := Reaction{ID: h.id(), By: by, Content: content}
	*to = append(*to, r)
	return obj{"id": r.ID, "node_id": node("Reaction", r.ID), "user": by.doc(), "content": content, "created_at": stamp(h.second())}, true
}

// pullRoutes read pull requests.
func (h *Hub) pullRoutes() {
	const base = "/repos/{owner}/{repo}"
	pull := func(f func(*call, *Pull) reply) func(*call) reply {
		return func(c *call) reply {
			i := c.repo.Issues[int(c.number("n"))]
			if i == nil || i.Pull == nil {
				return notFound()
			}
			return f(c, i.Pull)
		}
	}
	h.on("GET "+base+"/pulls/{n}", "pull_requests:read", pull(func(c *call, p *Pull) reply { return ok(p.full(c.base())) }))
	h.on("GET "+base+"/pulls/{n}/reviews", "pull_requests:read", pull(func(c *call, p *Pull) reply {
		var out []obj
		for _, v := range p.Reviews {
			out = append(out, v.doc(c.base()))
		}
		return c.page(out, "")
	}))
	h.on("GET "+base+"/pulls/{n}/reviews/{id}", "pull_requests:read", pull(func(c *call, p *Pull) reply {
		for _, v := range p.Reviews {
			if v.ID == c.number("id") {
				return ok(v.doc(c.base()))
			}
		}
		return notFound()
	}))
	h.on("GET "+base+"/commits/{sha}/pulls", "pull_requests:read", func(c *call) reply {
		sha := c.r.PathValue("sha")
		if c.repo.Commits[sha] == nil {
			return failed(422, "No commit found for SHA: "+sha)
		}
		var out []obj
		// Of a commit of the default branch, only those that brought it are listed.
		there := c.repo.within(sha, c.repo.Branches[c.repo.DefaultBranch])
		for n := 1; n <= c.repo.last; n++ {
			if i := c.repo.Issues[n]; i != nil && i.Pull != nil && i.Pull.holds(sha) && (!there || !i.Pull.Merged.IsZero()) {
				out = append(out, i.Pull.doc(c.base()))
			}
		}
		return c.page(out, "")
	})
}

// holds reports whether GitHub lists p for a commit: open ones whose head has
// it, merged ones that brought it.
func (p *Pull) holds(sha string) bool {
	for _, s := range p.Commits {
		if s == sha {
			return true
		}
	}
	return p.Result == sha && p.Result != ""
}
