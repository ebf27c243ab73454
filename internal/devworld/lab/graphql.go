package lab

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// graphql answers the two questions that the service has: the authors of a commit,
// and of the commits of a merge request. Other questions are errors, as a field
// that does not exist is one.
func (s *Server) graphql(q *request) answer {
	text := q.text("query")
	vars, _ := q.in["variables"].(map[string]any)
	str := func(name string) string { v, _ := vars[name].(string); return v }
	wrong := func(message string) answer {
		return ok(map[string]any{"errors": []any{map[string]any{"message": message}}})
	}
	for _, field := range regexp.MustCompile(`[A-Za-z_]+`).FindAllString(text, -1) {
		if !slices.Contains(known, field) {
			return wrong("Field '" + field + "' doesn't exist")
		}
	}
	p := s.find(str("project"))
	if p == nil || level(p.all(), q.user) < Guest && p.Visibility == "private" {
		return ok(map[string]any{"data": map[string]any{"project": nil}})
	}
	out := map[string]any{"id": "gid://gitlab/Project/" + itoa(p.ID)}
	switch {
	case strings.Contains(text, "lastCommit"):
		var last any
		if c := p.ref(str("sha")); c != nil {
			last = s.graphCommit(c)
		}
		out["repository"] = map[string]any{"tree": map[string]any{"lastCommit": last}}
	case strings.Contains(text, "mergeRequest"):
		var found any
		for _, m := range p.Merges {
			if itoa(m.IID) == str("iid") {
				nodes := []any{}
				for _, sha := range m.commits() {
					nodes = append(nodes, s.graphCommit(p.commits[sha]))
				}
				found = map[string]any{"iid": itoa(m.IID), "commits": map[string]any{"nodes": nodes, "pageInfo": map[string]any{"hasNextPage": false, "endCursor": nil}}}
			}
		}
		out["mergeRequest"] = found
	default:
		return wrong("nothing was asked")
	}
	return answer{http.StatusOK, map[string]any{"data": map[string]any{"project": out}}}
}

// known are the words of those questions.
var known = strings.Fields("query project sha iid after ID String fullPath id repository tree ref lastCommit message author username authorEmail authorName committerEmail committerName mergeRequest commits first nodes pageInfo hasNextPage endCursor bot")

// graphCommit is a commit with the user whose confirmed address its author has.
func (s *Server) graphCommit(c *Commit) any {
	var author any
	for _, u := range s.users {
		if slices.ContainsFunc(u.Emails, func(e string) bool { return strings.EqualFold(e, c.Email) }) {
			author = map[string]any{"id": "gid://gitlab/User/" + itoa(u.ID), "username": u.Login, "bot": u.Bot}
			break
		}
	}
	return map[string]any{"sha": c.SHA, "message": c.Message, "author": author, "authorEmail": c.Email, "authorName": c.Author, "committerEmail": c.CommitterEmail, "committerName": c.Committer}
}

// routes adds everything that this GitLab answers. What is not here is not found.
func (s *Server) routes() {
	s.peopleRoutes()
	s.repositoryRoutes()
	s.mergeRoutes()
	s.protectionRoutes()
	s.noteRoutes()
	s.ciRoutes()
	s.shownHooks()
	s.handle("POST /api/graphql", "read", s.graphql)
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.write(w, &request{Request: r, s: s}, answer{http.StatusNotFound, map[string]any{"error": "404 Not Found"}})
	})
}
