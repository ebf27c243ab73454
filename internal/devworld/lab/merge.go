package lab

import (
	"net/http"
	"slices"
	"strconv"
	"time"
)

// MergeRequest is a merge request into its project.
type MergeRequest struct {
	ID, IID        int64
	project        *Project // it goes into
	Source         *Project
	Author         *User
	Title          string
	Branch, Target string
	State          string // "opened", "merged", "closed"
	Created        time.Time
	Merged         time.Time
	Merger         *User
	MergeCommit    string
	SquashCommit   string
	head           string
	base           string // of the target when the head came
	versions       []version
	approved       []approval
	Notes          []*Note
}

type version struct {
	id   int64
	head string
	at   time.Time
}

type approval struct {
	by *User
	at time.Time
}

// MR is what Project.Open makes a merge request of.
type MR struct {
	Author         *User
	Branch, Target string   // Target is the default branch if empty
	Source         *Project // the project itself if nil
	Title          string
}

// Open opens a merge request into p.
func (p *Project) Open(m MR) *MergeRequest {
	p.s.mu.Lock()
	if m.Source == nil {
		m.Source = p
	}
	if m.Target == "" {
		m.Target = p.Default
	}
	made := &MergeRequest{ID: p.s.id(), IID: int64(len(p.Merges) + 1), project: p, Source: m.Source, Author: m.Author, Title: m.Title, Branch: m.Branch, Target: m.Target, State: "opened", Created: p.s.now()}
	p.Merges = append(p.Merges, made)
	made.update()
	due := p.s.mergeHooks(made, m.Author, "open", "")
	p.s.mu.Unlock()
	p.s.send(due)
	return made
}

// update takes the head of the source branch over.
func (m *MergeRequest) update() {
	m.head = m.Source.branches[m.Branch]
	for _, sha := range m.Source.ancestors(m.head) {
		if m.project.commits[sha] == nil {
			m.project.commits[sha] = m.Source.commits[sha]
		}
	}
	m.base = m.project.branches[m.Target]
	m.versions = append(m.versions, version{m.project.s.id(), m.head, m.project.s.now()})
	if m.project.Approvals.ResetOnPush {
		m.approved = nil
	}
}

// pushed updates the open merge requests of a branch.
func (p *Project) pushed(by *User, branch, sha string) []due {
	var out []due
	for _, to := range p.s.projects {
		for _, m := range to.Merges {
			if m.Source == p && m.Branch == branch && m.State == "opened" {
				old := m.head
				m.update()
				m.note(by, "added 1 commit\n\n<ul><li>"+sha[:8]+"</li></ul>", true)
				out = append(out, p.s.mergeHooks(m, by, "update", old)...)
			}
		}
	}
	return out
}

// Head returns its newest commit.
func (m *MergeRequest) Head() (sha string) {
	m.project.s.Change(func() { sha = m.head })
	return sha
}

// Approve approves it as the button does.
func (m *MergeRequest) Approve(by *User) {
	m.project.s.Change(func() { m.approved = append(m.approved, approval{by, m.project.s.now()}) })
}

// Unapprove takes an approval back.
func (m *MergeRequest) Unapprove(by *User) {
	m.project.s.Change(func() { m.approved = slices.DeleteFunc(m.approved, func(a approval) bool { return a.by == by }) })
}

// Accept merges it with a merge commit, which it returns.
func (m *MergeRequest) Accept(by *User) string {
	p := m.project
	p.s.mu.Lock()
	c := p.commit(Commit{Message: "Merge branch '" + m.Branch + "' into '" + m.Target + "'", Author: by.Login, Email: by.Emails[0]}, p.branches[m.Target], m.head)
	for path, text := range p.commits[m.head].Files {
		c.Files[path] = text
	}
	p.move(by, m.Target, c.SHA)
	m.State, m.Merged, m.Merger, m.MergeCommit = "merged", p.s.now(), by, c.SHA
	due := p.s.mergeHooks(m, by, "merge", "")
	p.s.mu.Unlock()
	p.s.send(due)
	return c.SHA
}

// Close closes it without merging.
func (m *MergeRequest) Close() { m.project.s.Change(func() { m.State = "closed" }) }

// commits are those that it brings, newest first.
func (m *MergeRequest) commits() []string { return m.project.beyond(m.base, m.head) }

// holds reports whether a commit came by it.
func (m *MergeRequest) holds(sha string) bool {
	return slices.Contains(m.commits(), sha) || sha == m.MergeCommit || sha == m.SquashCommit
}

func (s *Server) merge(m *MergeRequest) any {
	none := func(v string) any {
		if v == "" {
			return nil
		}
		return v
	}
	return map[string]any{
		"id": m.ID, "iid": m.IID, "project_id": m.project.ID, "title": m.Title, "state": m.State, "created_at": stamp(m.Created), "merged_at": stamp(m.Merged),
		"merge_user": s.basic(m.Merger), "merged_by": s.basic(m.Merger), "source_branch": m.Branch, "target_branch": m.Target, "author": s.basic(m.Author),
		"source_project_id": m.Source.ID, "target_project_id": m.project.ID, "sha": m.head, "merge_commit_sha": none(m.MergeCommit), "squash_commit_sha": none(m.SquashCommit),
		"web_url": s.options.URL + "/" + m.project.Path + "/-/merge_requests/" + itoa(m.IID), "draft": false,
	}
}

// withMerge is a route below a merge request.
func withMerge(h func(*request, *MergeRequest) answer) func(*request, *Project) answer {
	return func(q *request, p *Project) answer {
		for _, m := range p.Merges {
			if m.IID == q.number("iid") {
				return h(q, m)
			}
		}
		return refuse(http.StatusNotFound, "404 Not found")
	}
}

func (s *Server) mergeRoutes() {
	s.on("GET", "merge_requests/{iid}", "read", shown(Reporter), withMerge(func(q *request, m *MergeRequest) answer { return ok(s.merge(m)) }))
	s.on("GET", "repository/commits/{sha}/merge_requests", "read", shown(Reporter), func(q *request, p *Project) answer {
		if p.ref(q.PathValue("sha")) == nil {
			return notFound("Commit")
		}
		var out []*MergeRequest
		for _, m := range slices.Backward(p.Merges) {
			if m.holds(p.ref(q.PathValue("sha")).SHA) {
				out = append(out, m)
			}
		}
		return page(q, out, func(m *MergeRequest) any { return s.merge(m) })
	})
	s.on("GET", "merge_requests/{iid}/commits", "read", shown(Reporter), withMerge(func(q *request, m *MergeRequest) answer {
		return page(q, m.commits(), func(sha string) any { return s.commit(m.project, m.project.commits[sha]) })
	}))
	s.on("GET", "merge_requests/{iid}/versions", "read", shown(Reporter), withMerge(func(q *request, m *MergeRequest) answer {
		all := slices.Clone(m.versions)
		slices.Reverse(all)
		return page(q, all, func(v version) any {
			return map[string]any{"id": v.id, "head_commit_sha": v.head, "base_commit_sha": m.base, "start_commit_sha": m.base, "created_at": stamp(v.at), "merge_request_id": m.ID, "state": "collected", "real_size": "1"}
		})
	}))
	s.on("GET", "merge_requests/{iid}/approvals", "read", shown(Reporter), withMerge(func(q *request, m *MergeRequest) answer {
		by := []any{}
		for _, a := range m.approved {
			by = append(by, map[string]any{"user": s.basic(a.by), "approved_at": stamp(a.at)})
		}
		return ok(map[string]any{"iid": m.IID, "project_id": m.project.ID, "approved": len(by) > 0, "approved_by": by})
	}))
}

// protectionRoutes: what protects the project.
func (s *Server) protectionRoutes() {
	s.on("GET", "protected_branches", "read", role(Maintainer), func(q *request, p *Project) answer {
		return page(q, p.ProtectedBranches, func(b *Protection) any { return s.protection(b) })
	})
	s.on("GET", "protected_tags", "read", role(Maintainer), func(q *request, p *Project) answer {
		return page(q, p.ProtectedTags, func(t *Protection) any {
			return map[string]any{"name": t.Name, "create_access_levels": levels(t.Push, t.Users)}
		})
	})
	s.on("GET", "approvals", "read", role(Developer), s.premium(func(q *request, p *Project) answer {
		a := p.Approvals
		return ok(map[string]any{"approvals_before_merge": 0, "reset_approvals_on_push": a.ResetOnPush, "selective_code_owner_removals": a.SelectiveOwnerRemoval, "disable_overriding_approvers_per_merge_request": a.DisableOverride, "merge_requests_author_approval": a.AuthorMayApprove, "merge_requests_disable_committers_approval": a.CommittersMayNot})
	}))
	s.on("GET", "merge_request_approval_setting", "read", role(Maintainer), s.premium(func(q *request, p *Project) answer {
		var from any
		if p.Approvals.InheritedFrom != "" {
			from = p.Approvals.InheritedFrom
		}
		one := func(v bool) any { return map[string]any{"value": v, "locked": from != nil, "inherited_from": from} }
		a := p.Approvals
		return ok(map[string]any{"allow_author_approval": one(a.AuthorMayApprove), "allow_committer_approval": one(!a.CommittersMayNot), "retain_approvals_on_push": one(!a.ResetOnPush), "allow_overrides_to_approver_list_per_merge_request": one(!a.DisableOverride)})
	}))
	s.on("GET", "approval_rules", "read", role(Developer), s.premium(func(q *request, p *Project) answer {
		return page(q, p.ApprovalRules, func(r *ApprovalRule) any {
			branches := []any{}
			for _, b := range r.Branches {
				branches = append(branches, s.protection(b))
			}
			return map[string]any{"id": r.ID, "name": r.Name, "rule_type": r.Type, "approvals_required": r.Required, "protected_branches": branches, "applies_to_all_protected_branches": r.AllProtected, "eligible_approvers": []any{}, "users": []any{}, "groups": []any{}, "contains_hidden_groups": false}
		})
	}))
	s.on("GET", "push_rule", "read", role(Maintainer), s.premium(func(q *request, p *Project) answer {
		if p.NoPushRule {
			return ok(nil)
		}
		return ok(map[string]any{"id": 1, "project_id": p.ID, "reject_unsigned_commits": p.RejectUnsigned, "commit_committer_check": false})
	}))
	s.on("GET", "audit_events", "read", role(Maintainer), s.premium(func(q *request, p *Project) answer {
		all := slices.Clone(p.Audit)
		slices.Reverse(all)
		return page(q, all, func(e Audit) any {
			return map[string]any{"id": e.At.UnixMilli(), "author_id": 1, "entity_id": p.ID, "entity_type": "Project", "event_name": e.Name, "event_type": e.Name, "details": map[string]any{"event_name": e.Name}, "created_at": stamp(e.At)}
		})
	}))
}

func levels(all []int, users []int64) []any {
	out := []any{}
	for i, l := range all {
		out = append(out, map[string]any{"id": i + 1, "access_level": l, "access_level_description": "", "user_id": nil, "group_id": nil, "deploy_key_id": nil})
	}
	for i, u := range users {
		out = append(out, map[string]any{"id": len(all) + i + 1, "access_level": 40, "access_level_description": "", "user_id": u, "group_id": nil, "deploy_key_id": nil})
	}
	return out
}

func (s *Server) protection(b *Protection) any {
	out := map[string]any{"id": b.ID, "name": b.Name, "push_access_levels": levels(b.Push, b.Users), "merge_access_levels": levels(b.Merge, nil), "unprotect_access_levels": []any{}, "allow_force_push": b.AllowForcePush}
	if s.options.Premium {
		out["code_owner_approval_required"], out["inherited"] = b.CodeOwners, b.Inherited
	}
	return out
}

// Protect protects the branches of a name or pattern: maintainers may push and
// merge.
func (p *Project) Protect(name string) *Protection {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	b := &Protection{ID: p.s.id(), Name: name, Push: []int{Maintainer}, Merge: []int{Maintainer}}
	p.ProtectedBranches = append(p.ProtectedBranches, b)
	return b
}

// ProtectTag protects the tags of a name or pattern: maintainers may make them.
func (p *Project) ProtectTag(name string) *Protection {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	t := &Protection{ID: p.s.id(), Name: name, Push: []int{Maintainer}}
	p.ProtectedTags = append(p.ProtectedTags, t)
	return t
}

// Require adds an approval rule for every branch.
func (p *Project) Require(name string, approvals int) *ApprovalRule {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	r := &ApprovalRule{ID: p.s.id(), Name: name, Type: "regular", Required: approvals}
	p.ApprovalRules = append(p.ApprovalRules, r)
	return r
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
