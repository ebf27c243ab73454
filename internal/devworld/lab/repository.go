package lab

import (
	"encoding/base64"
	"maps"
	"net/http"
	"slices"
	"strings"
)

func (s *Server) commit(p *Project, c *Commit) any {
	parents := c.Parents
	if parents == nil {
		parents = []string{}
	}
	title, _, _ := strings.Cut(c.Message, "\n")
	return map[string]any{
		"id": c.SHA, "short_id": c.SHA[:8], "title": title, "message": c.Message, "parent_ids": parents,
		"author_name": c.Author, "author_email": c.Email, "authored_date": stamp(c.At),
		"committer_name": c.Committer, "committer_email": c.CommitterEmail, "committed_date": stamp(c.At), "created_at": stamp(c.At),
		"web_url": s.options.URL + "/" + p.Path + "/-/commit/" + c.SHA,
	}
}

func (s *Server) repositoryRoutes() {
	read := shown(Reporter)
	s.on("GET", "", "read", shown(Guest), func(q *request, p *Project) answer { return ok(s.project(p)) })
	s.on("GET", "repository/branches/{name}", "read", read, func(q *request, p *Project) answer {
		c := p.commits[p.branches[q.PathValue("name")]]
		if c == nil {
			return notFound("Branch")
		}
		return ok(map[string]any{"name": q.PathValue("name"), "commit": s.commit(p, c), "protected": len(matching(p.ProtectedBranches, q.PathValue("name"))) > 0, "default": q.PathValue("name") == p.Default})
	})
	s.on("GET", "repository/tags/{name}", "read", read, func(q *request, p *Project) answer {
		c := p.commits[p.tags[q.PathValue("name")]]
		if c == nil {
			return notFound("Tag")
		}
		return ok(map[string]any{"name": q.PathValue("name"), "commit": s.commit(p, c), "target": c.SHA, "protected": len(matching(p.ProtectedTags, q.PathValue("name"))) > 0})
	})
	s.on("GET", "repository/commits/{sha}", "read", read, func(q *request, p *Project) answer {
		c := p.ref(q.PathValue("sha"))
		if c == nil {
			return notFound("Commit")
		}
		return ok(s.commit(p, c))
	})
	s.on("GET", "repository/commits/{sha}/signature", "read", read, func(q *request, p *Project) answer {
		c := p.ref(q.PathValue("sha"))
		if c == nil {
			return notFound("Commit")
		}
		if c.Signature == "" {
			return notFound("Signature")
		}
		return ok(map[string]any{"signature_type": "SSH", "verification_status": c.Signature})
	})
	s.on("GET", "repository/merge_base", "read", read, func(q *request, p *Project) answer {
		refs := q.URL.Query()["refs[]"]
		if len(refs) < 2 {
			return answer{http.StatusBadRequest, map[string]any{"message": "400 Bad request - Provide at least 2 refs"}}
		}
		a, b := p.ref(refs[0]), p.ref(refs[1])
		if a == nil || b == nil {
			return answer{http.StatusBadRequest, map[string]any{"message": "400 Bad request - Could not find ref"}}
		}
		have := p.ancestors(a.SHA)
		for _, sha := range p.ancestors(b.SHA) {
			if slices.Contains(have, sha) {
				return ok(s.commit(p, p.commits[sha]))
			}
		}
		return notFound("Merge Base")
	})
	s.on("GET", "repository/compare", "read", read, func(q *request, p *Project) answer {
		from, to := p.ref(q.URL.Query().Get("from")), p.ref(q.URL.Query().Get("to"))
		if from == nil || to == nil {
			return notFound("Ref")
		}
		commits := []any{}
		for _, sha := range slices.Backward(p.beyond(from.SHA, to.SHA)) {
			commits = append(commits, s.commit(p, p.commits[sha]))
		}
		return ok(map[string]any{"commits": commits, "diffs": []any{}, "compare_same_ref": from == to, "compare_timeout": false, "web_url": s.options.URL + "/" + p.Path + "/-/compare/" + from.SHA + "..." + to.SHA})
	})
	s.on("GET", "repository/tree", "read", read, s.tree)
	s.on("GET", "repository/files/{path}", "read", read, func(q *request, p *Project) answer {
		c := p.ref(q.URL.Query().Get("ref"))
		if c == nil {
			return notFound("Commit")
		}
		text, there := c.Files[q.PathValue("path")]
		if !there {
			return notFound("File")
		}
		return ok(map[string]any{"file_path": q.PathValue("path"), "size": len(text), "encoding": "base64", "content": base64.StdEncoding.EncodeToString([]byte(text)), "ref": q.URL.Query().Get("ref"), "blob_id": BlobID(text), "commit_id": c.SHA, "last_commit_id": c.SHA})
	})
	s.on("GET", "events", "read", shown(Reporter), s.events)
}

// tree lists one directory.
func (s *Server) tree(q *request, p *Project) answer {
	ref := q.URL.Query().Get("ref")
	if ref == "" {
		ref = p.Default
	}
	c := p.ref(ref)
	if c == nil {
		return notFound("Tree")
	}
	at := strings.Trim(q.URL.Query().Get("path"), "/")
	type entry struct{ name, kind, id string }
	there := map[string]entry{}
	for _, path := range slices.Sorted(maps.Keys(c.Files)) {
		rest := path
		if at != "" {
			var below bool
			if rest, below = strings.CutPrefix(path, at+"/"); !below {
				continue
			}
		}
		name, _, dir := strings.Cut(rest, "/")
		if dir {
			there[name] = entry{name, "tree", BlobID("tree " + name)}
		} else {
			there[name] = entry{name, "blob", BlobID(c.Files[path])}
		}
	}
	if at != "" && len(there) == 0 {
		return refuse(http.StatusNotFound, "404 invalid revision or path Not Found")
	}
	var out []entry
	for _, name := range slices.Sorted(maps.Keys(there)) {
		out = append(out, there[name])
	}
	return page(q, out, func(e entry) any {
		path := strings.TrimPrefix(at+"/"+e.name, "/")
		return map[string]any{"id": e.id, "name": e.name, "type": e.kind, "path": path, "mode": "100644"}
	})
}

// events lists pushes, newest first.
func (s *Server) events(q *request, p *Project) answer {
	if q.URL.Query().Get("action") != "pushed" {
		return page(q, []push{}, func(push) any { return nil })
	}
	after, before := q.URL.Query().Get("after"), q.URL.Query().Get("before")
	var out []push
	for _, e := range slices.Backward(p.pushes) {
		day := e.at.Format("2006-01-02")
		if (after == "" || day > after) && (before == "" || day < before) {
			out = append(out, e)
		}
	}
	return page(q, out, func(e push) any {
		action := "pushed"
		var from any = e.from
		if e.from == "" {
			action, from = "created", nil
		}
		return map[string]any{
			"id": e.at.UnixMilli(), "project_id": p.ID, "action_name": "pushed to", "author_id": e.by.ID, "author": s.basic(e.by), "author_username": e.by.Login, "created_at": stamp(e.at),
			"push_data": map[string]any{"commit_count": 1, "action": action, "ref_type": "branch", "commit_from": from, "commit_to": e.to, "ref": e.ref},
		}
	})
}

// matching returns the protections of a name: patterns have * for any text.
func matching(all []*Protection, name string) []*Protection {
	var out []*Protection
	for _, p := range all {
		parts := strings.Split(p.Name, "*")
		rest, fits := name, true
		for i, part := range parts {
			switch {
			case i == 0:
				fits = strings.HasPrefix(rest, part)
			case i == len(parts)-1:
				fits = strings.HasSuffix(rest, part)
			default:
				fits = strings.Contains(rest, part)
			}
			if !fits {
				break
			}
			if i < len(parts)-1 || i == 0 {
				rest = rest[strings.Index(rest, part)+len(part):]
			}
		}
		if fits && (len(parts) > 1 || p.Name == name) {
			out = append(out, p)
		}
	}
	return out
}
