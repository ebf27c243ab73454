package lab

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Note is a comment on a merge request or issue.
type Note struct {
	ID       int64
	Author   *User
	Body     string
	System   bool
	Internal bool
	Created  time.Time
	Updated  time.Time
	Awards   []Award
}

// Award is a reaction.
type Award struct {
	ID   int64
	Name string
	By   *User
}

// Issue is an issue of a project.
type Issue struct {
	ID, IID     int64
	project     *Project
	Author      *User
	Title       string
	Description string
	State       string // "opened", "closed"
	Created     time.Time
	Notes       []*Note
}

// noteable is a merge request or issue.
type noteable struct {
	project *Project
	merge   *MergeRequest
	issue   *Issue
}

func (n noteable) notes() *[]*Note {
	if n.merge != nil {
		return &n.merge.Notes
	}
	return &n.issue.Notes
}

func (n noteable) iid() int64 {
	if n.merge != nil {
		return n.merge.IID
	}
	return n.issue.IID
}

func (n noteable) kind() string {
	if n.merge != nil {
		return "MergeRequest"
	}
	return "Issue"
}

// quick are the quick actions that this GitLab carries out; it knows more, but
// one is enough to see that text must not begin like one.
var quick = regexp.MustCompile(`(?im)^/(close|reopen|merge|approve|unapprove|label|assign)(?: [^\n]*)?\s*?(\n|$)`)

// keep is what GitLab keeps of a body, and whether it closes what it is on.
func keep(body string) (string, bool) {
	body = strings.ReplaceAll(body, "\r", "")
	closes := false
	parts := strings.Split(body, "\n```")
	for i, part := range parts {
		if i%2 == 0 {
			closes = closes || strings.Contains(strings.ToLower("\n"+part), "\n/close")
			parts[i] = quick.ReplaceAllString(part, "")
		}
	}
	return strings.TrimRight(strings.Join(parts, "\n```"), " \t\n\v\f\x00"), closes
}

func (m *MergeRequest) note(by *User, body string, system bool) *Note {
	at := m.project.s.now()
	n := &Note{ID: m.project.s.id(), Author: by, Body: body, System: system, Created: at, Updated: at}
	m.Notes = append(m.Notes, n)
	return n
}

// Comment adds a note as a person writes it, and sends its webhook.
func (m *MergeRequest) Comment(by *User, body string) *Note {
	return m.project.s.say(noteable{m.project, m, nil}, by, &Note{Body: body})
}

// Say adds any note: a system note, an internal one.
func (m *MergeRequest) Say(by *User, n Note) *Note {
	return m.project.s.say(noteable{m.project, m, nil}, by, &n)
}

// Comment adds a note as a person writes it, and sends its webhook.
func (i *Issue) Comment(by *User, body string) *Note {
	return i.project.s.say(noteable{i.project, nil, i}, by, &Note{Body: body})
}

func (s *Server) say(on noteable, by *User, n *Note) *Note {
	s.mu.Lock()
	n.ID, n.Author, n.Created = s.id(), by, s.now()
	n.Updated = n.Created
	*on.notes() = append(*on.notes(), n)
	due := s.noteHooks(on, n, by, "create")
	s.mu.Unlock()
	s.send(due)
	return n
}

// EditNote changes the text of a note, whoever does that: GitLab shows the author
// as before, and its webhook names the author too.
func (s *Server) EditNote(m *MergeRequest, n *Note, body string) {
	s.mu.Lock()
	n.Body, n.Updated = body, s.later(n)
	due := s.noteHooks(noteable{m.project, m, nil}, n, n.Author, "update")
	s.mu.Unlock()
	s.send(due)
}

// later is now, and never the moment at which a note was made.
func (s *Server) later(n *Note) time.Time {
	if at := s.now(); at.After(n.Created) {
		return at
	}
	return n.Created.Add(time.Millisecond)
}

// OpenIssue opens an issue.
func (p *Project) OpenIssue(by *User, title string) *Issue {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	return p.openIssue(by, title, "")
}

func (p *Project) openIssue(by *User, title, description string) *Issue {
	i := &Issue{ID: p.s.id(), IID: int64(len(p.Issues) + 1), project: p, Author: by, Title: title, Description: description, State: "opened", Created: p.s.now()}
	p.Issues = append(p.Issues, i)
	return i
}

// Written returns the notes of an issue or merge request that are no system notes.
func Written(all []*Note) []*Note {
	return slices.DeleteFunc(slices.Clone(all), func(n *Note) bool { return n.System })
}

func (s *Server) noteOf(on noteable, n *Note) any {
	id := int64(0)
	if on.merge != nil {
		id = on.merge.ID
	} else {
		id = on.issue.ID
	}
	return map[string]any{
		"id": n.ID, "type": nil, "body": n.Body, "author": s.basic(n.Author), "created_at": stamp(n.Created), "updated_at": stamp(n.Updated), "system": n.System,
		"noteable_id": id, "noteable_type": on.kind(), "project_id": on.project.ID, "noteable_iid": on.iid(), "resolvable": false, "confidential": n.Internal, "internal": n.Internal,
	}
}

// onNotes adds routes below the notes of merge requests and of issues.
func (s *Server) onNotes(method, pattern, need string, a access, h func(*request, noteable) answer) {
	for _, kind := range []string{"merge_requests", "issues"} {
		s.on(method, kind+"/{iid}/notes"+pattern, need, a, func(q *request, p *Project) answer {
			on := noteable{project: p}
			if kind == "issues" {
				at := slices.IndexFunc(p.Issues, func(i *Issue) bool { return i.IID == q.number("iid") })
				if at < 0 {
					return refuse(http.StatusNotFound, "404 Not found")
				}
				on.issue = p.Issues[at]
				return h(q, on)
			}
			return withMerge(func(q *request, m *MergeRequest) answer { on.merge = m; return h(q, on) })(q, p)
		})
	}
}

// withNote finds the note; an internal one is there for reporters only.
func withNote(h func(*request, noteable, *Note) answer) func(*request, noteable) answer {
	return func(q *request, on noteable) answer {
		for _, n := range *on.notes() {
			if n.ID == q.number("note") && (!n.Internal || level(on.project.all(), q.user) >= Reporter) {
				return h(q, on, n)
			}
		}
		return refuse(http.StatusNotFound, "404 Not found")
	}
}

func (s *Server) noteRoutes() {
	s.onNotes("GET", "", "read", shown(Guest), s.listNotes)
	s.onNotes("GET", "/{note}", "read", shown(Guest), withNote(func(q *request, on noteable, n *Note) answer { return ok(s.noteOf(on, n)) }))
	s.onNotes("POST", "", "api", shown(Guest), s.postNote)
	s.onNotes("PUT", "/{note}", "api", shown(Guest), withNote(func(q *request, on noteable, n *Note) answer {
		if n.System || n.Author != q.user && level(on.project.all(), q.user) < Maintainer {
			return forbidden()
		}
		body, bad := s.bodyOf(q)
		if bad.status != 0 {
			return bad
		}
		n.Body, n.Updated = body, s.later(n)
		s.queue(s.noteHooks(on, n, n.Author, "update"))
		return ok(s.noteOf(on, n))
	}))
	s.onNotes("GET", "/{note}/award_emoji", "read", shown(Guest), withNote(func(q *request, on noteable, n *Note) answer {
		return page(q, n.Awards, func(a Award) any {
			return map[string]any{"id": a.ID, "name": a.Name, "user": s.basic(a.By), "awardable_id": n.ID, "awardable_type": "Note"}
		})
	}))
	s.onNotes("POST", "/{note}/award_emoji", "api", shown(Guest), withNote(s.award))
	s.issueRoutes()
}

func (s *Server) listNotes(q *request, on noteable) answer {
	all := slices.DeleteFunc(slices.Clone(*on.notes()), func(n *Note) bool { return n.Internal && level(on.project.all(), q.user) < Reporter })
	if q.URL.Query().Get("sort") != "asc" {
		slices.Reverse(all) // newest first is GitLab's default
	}
	return page(q, all, func(n *Note) any { return s.noteOf(on, n) })
}

// bodyOf reads and bounds the body of a note.
func (s *Server) bodyOf(q *request) (string, answer) {
	body, there := q.in["body"].(string)
	switch {
	case !there:
		return "", answer{http.StatusBadRequest, map[string]any{"error": "body is missing"}}
	case strings.TrimSpace(body) == "":
		return "", answer{http.StatusBadRequest, map[string]any{"message": `400 Bad request - Note {:note=>["can't be blank"]}`}}
	case utf8.RuneCountInString(body) > MaxNote:
		return "", answer{http.StatusBadRequest, map[string]any{"message": "400 Bad request - Note is too long (maximum is 1000000 characters)"}}
	}
	kept, _ := keep(body)
	return kept, answer{}
}

func (s *Server) postNote(q *request, on noteable) answer {
	body, bad := s.bodyOf(q)
	if bad.status != 0 {
		return bad
	}
	if limit := s.options.NotesPerMinute; limit > 0 {
		if used, reset := s.use("notes "+q.user.Login, limit); used > limit {
			q.head.Set("Retry-After", itoa(int64(reset.Sub(s.now())/time.Second)+1))
			return answer{http.StatusTooManyRequests, map[string]any{"message": map[string]any{"error": "This endpoint has been requested too many times. Try again later."}}}
		}
	}
	if _, closes := keep(q.text("body")); closes && on.merge != nil {
		on.merge.State = "closed"
	}
	at := s.now()
	n := &Note{ID: s.id(), Author: q.user, Body: body, Created: at, Updated: at, Internal: q.text("internal") == "true"}
	*on.notes() = append(*on.notes(), n)
	s.queue(s.noteHooks(on, n, q.user, "create"))
	return answer{http.StatusCreated, s.noteOf(on, n)}
}

// award reacts. GitLab moves updated_at of the note, and says 404 where the
// reaction is there already.
func (s *Server) award(q *request, on noteable, n *Note) answer {
	name := q.text("name")
	if name == "" {
		return answer{http.StatusBadRequest, map[string]any{"error": "name is missing"}}
	}
	if !slices.Contains([]string{"thumbsup", "thumbsdown", "eyes", "confused", "rocket", "tada"}, name) {
		return refuse(http.StatusNotFound, "404 Award Emoji Name is not a valid emoji name Not Found")
	}
	if slices.ContainsFunc(n.Awards, func(a Award) bool { return a.Name == name && a.By == q.user }) {
		return refuse(http.StatusNotFound, "404 Award Emoji Name has already been taken Not Found")
	}
	a := Award{s.id(), name, q.user}
	n.Awards = append(n.Awards, a)
	n.Updated = s.later(n)
	return answer{http.StatusCreated, map[string]any{"id": a.ID, "name": name, "user": s.basic(q.user), "awardable_id": n.ID, "awardable_type": "Note"}}
}

func (s *Server) issue(i *Issue) any {
	return map[string]any{"id": i.ID, "iid": i.IID, "project_id": i.project.ID, "title": i.Title, "description": i.Description, "state": i.State, "author": s.basic(i.Author), "created_at": stamp(i.Created), "confidential": false, "web_url": s.options.URL + "/" + i.project.Path + "/-/issues/" + itoa(i.IID)}
}

func (s *Server) issueRoutes() {
	s.on("GET", "issues", "read", shown(Guest), func(q *request, p *Project) answer {
		v := q.URL.Query()
		var out []*Issue
		for _, i := range slices.Backward(p.Issues) {
			if (v.Get("state") == "" || v.Get("state") == i.State) && (v.Get("author_id") == "" || v.Get("author_id") == itoa(i.Author.ID)) && strings.Contains(strings.ToLower(i.Title), strings.ToLower(v.Get("search"))) {
				out = append(out, i)
			}
		}
		return page(q, out, func(i *Issue) any { return s.issue(i) })
	})
	s.on("POST", "issues", "api", shown(Guest), func(q *request, p *Project) answer {
		title := q.text("title")
		if title == "" {
			return answer{http.StatusBadRequest, map[string]any{"error": "title is missing"}}
		}
		if utf8.RuneCountInString(title) > 255 {
			return answer{http.StatusBadRequest, map[string]any{"message": map[string]any{"title": []string{"is too long (maximum is 255 characters)"}}}}
		}
		return answer{http.StatusCreated, s.issue(p.openIssue(q.user, title, q.text("description")))}
	})
	withIssue := func(h func(*request, *Issue) answer) func(*request, *Project) answer {
		return func(q *request, p *Project) answer {
			for _, i := range p.Issues {
				if i.IID == q.number("iid") {
					return h(q, i)
				}
			}
			return refuse(http.StatusNotFound, "404 Not found")
		}
	}
	s.on("GET", "issues/{iid}", "read", shown(Guest), withIssue(func(q *request, i *Issue) answer { return ok(s.issue(i)) }))
	s.on("PUT", "issues/{iid}", "api", shown(Guest), withIssue(func(q *request, i *Issue) answer {
		if i.Author != q.user && level(i.project.all(), q.user) < Reporter {
			return forbidden()
		}
		switch q.text("state_event") {
		case "close":
			i.State = "closed"
		case "reopen":
			i.State = "opened"
		case "":
		default:
			return answer{http.StatusBadRequest, map[string]any{"error": "state_event does not have a valid value"}}
		}
		return ok(s.issue(i))
	}))
}
