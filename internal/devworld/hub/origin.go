package hub

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// originRoutes are those about runs, refs, rules, environments and checks of a
// build.
func (h *Hub) originRoutes() {
	const base = "/repos/{owner}/{repo}"
	h.on("GET "+base+"/actions/runs/{id}/attempts/{n}", "actions:read", func(c *call) reply {
		if n := c.run(); n != nil {
			return ok(n.doc(c.base()))
		}
		return notFound()
	})
	h.on("GET "+base+"/actions/runs/{id}/attempts/{n}/jobs", "actions:read", func(c *call) reply {
		n := c.run()
		if n == nil {
			return notFound()
		}
		var out []obj
		for _, j := range n.Jobs {
			out = append(out, j.doc(n, c.base()))
		}
		return c.page(out, "jobs")
	})
	h.on("GET "+base+"/actions/runs/{id}/approvals", "actions:read", (*call).approvals)
	h.on("GET "+base+"/environments/{name}", "actions:read", (*call).environment)
	h.on("GET "+base+"/environments/{name}/deployment-branch-policies", "actions:read", func(c *call) reply {
		e := c.repo.Environments[strings.ToLower(c.r.PathValue("name"))]
		if e == nil {
			return notFound()
		}
		var out []obj
		for i, p := range e.Patterns {
			out = append(out, obj{"id": i + 1, "node_id": "", "name": p, "type": "branch"})
		}
		return c.page(out, "branch_policies")
	})
	h.on("GET "+base+"/rules/branches/{branch}", "metadata:read", (*call).branchRules)
	h.on("GET "+base+"/rulesets", "metadata:read", (*call).rulesets)
	h.on("GET "+base+"/rulesets/{id}", "metadata:read", func(c *call) reply {
		if s := c.ruleset(); s != nil {
			return ok(s.whole(c))
		}
		return notFound()
	})
	h.on("GET "+base+"/rulesets/{id}/history", "administration:write", (*call).history)
	h.on("GET "+base+"/rulesets/{id}/history/{version}", "administration:write", (*call).version)
	h.on("GET "+base+"/branches/{branch}/protection", "administration:read", (*call).protection)
	h.on("GET "+base+"/pulls/{n}/commits", "pull_requests:read", (*call).pullCommits)
	h.on("GET "+base+"/activity", "contents:read", (*call).activity)
	h.on("GET "+base+"/commits/{sha}/check-runs", "checks:read", (*call).checkRuns)
	h.on("GET "+base+"/commits/{sha}/statuses", "statuses:read", (*call).statuses)
	h.on("GET "+base+"/attestations/{digest}", "attestations:read", (*call).attestations)
	h.on("GET /search/users", anyToken, (*call).searchUsers)
	h.gitRoutes()
}

func (c *call) run() *Run {
	for _, n := range c.repo.Runs {
		if n.ID == c.number("id") && n.Attempt == c.number("n") {
			return n
		}
	}
	return nil
}

func (n *Run) doc(base string) obj {
	api := fmt.Sprintf("%s/repos/%s/actions/runs/%d", base, n.Repo.FullName(), n.ID)
	var used = []obj{}
	for _, w := range n.Referenced {
		used = append(used, obj{"path": w.Path, "sha": w.SHA, "ref": w.Ref})
	}
	var conclusion any
	if n.Status == "completed" {
		conclusion = "success"
	}
	return obj{
		"id": n.ID, "node_id": node("WorkflowRun", n.ID), "name": n.Path, "run_number": 1, "run_attempt": n.Attempt, "head_branch": n.Branch, "head_sha": n.SHA, "path": n.Path, "event": n.Event,
		"status": n.Status, "conclusion": conclusion, "workflow_id": 1, "url": api, "html_url": fmt.Sprintf("%s/%s/actions/runs/%d", n.Repo.hub.web, n.Repo.FullName(), n.ID),
		"jobs_url": api + "/jobs", "actor": n.Actor.doc(), "triggering_actor": n.Trigger.doc(), "referenced_workflows": used, "pull_requests": []obj{},
		"repository": n.Repo.doc(base), "head_repository": n.HeadRepo.doc(base), "head_commit": nil,
	}
}

func (j *Job) doc(n *Run, base string) obj {
	return obj{
		"id": j.ID, "run_id": n.ID, "run_attempt": n.Attempt, "head_sha": n.SHA, "status": j.Status, "conclusion": nil, "name": j.Name, "labels": append([]string{}, j.Labels...),
		"runner_id": j.RunnerID, "runner_name": "runner", "runner_group_id": 1, "runner_group_name": j.RunnerGroup, "steps": []obj{},
		"check_run_url": fmt.Sprintf("%s/repos/%s/check-runs/%d", base, n.Repo.FullName(), j.ID),
	}
}

func (c *call) approvals() reply {
	found := false
	var out []obj
	for _, n := range c.repo.Runs {
		if n.ID != c.number("id") {
			continue
		}
		found = true
		for _, a := range n.Approvals {
			var es []obj
			for _, e := range a.Environments {
				es = append(es, obj{"id": 1, "name": e})
			}
			out = append(out, obj{"state": a.State, "comment": "", "user": a.By.doc(), "environments": es})
		}
	}
	if !found {
		return notFound()
	}
	return c.page(out, "")
}

func (c *call) environment() reply {
	e := c.repo.Environments[strings.ToLower(c.r.PathValue("name"))]
	if e == nil {
		return notFound()
	}
	rules := []obj{}
	if len(e.Reviewers) > 0 {
		var who []obj
		for _, u := range e.Reviewers {
			who = append(who, obj{"type": "User", "reviewer": u.doc()})
		}
		rules = append(rules, obj{"id": 1, "node_id": "", "type": "required_reviewers", "prevent_self_review": e.NoSelfReview, "reviewers": who})
	}
	var policy any
	if e.ProtectedOnly || e.Patterns != nil {
		policy = obj{"protected_branches": e.ProtectedOnly, "custom_branch_policies": e.Patterns != nil}
		rules = append(rules, obj{"id": 2, "node_id": "", "type": "branch_policy"})
	}
	return ok(obj{"id": 1, "name": e.Name, "protection_rules": rules, "deployment_branch_policy": policy, "can_admins_bypass": true})
}

func (c *call) ruleset() *Ruleset {
	for _, s := range c.repo.Rulesets {
		if s.ID == c.number("id") {
			return s
		}
	}
	return nil
}

func (c *call) branchRules() reply {
	var out []obj
	for _, s := range c.repo.Rulesets {
		if !s.holds(c.repo, "refs/heads/"+c.r.PathValue("branch")) {
			continue
		}
		for _, r := range s.Rules {
			d := r.doc()
			kind, source := s.source(c.repo)
			d["ruleset_id"], d["ruleset_source_type"], d["ruleset_source"] = s.ID, kind, source
			out = append(out, d)
		}
	}
	return c.page(out, "")
}

func (r Rule) doc() obj {
	d := obj{"type": r.Type}
	if r.Parameters != nil {
		d["parameters"] = r.Parameters
	}
	return d
}

func (s *Ruleset) source(r *Repo) (kind, name string) {
	if s.Organization {
		return "Organization", r.Owner.Login
	}
	return "Repository", r.FullName()
}

func (s *Ruleset) short(r *Repo) obj {
	kind, name := s.source(r)
	return obj{"id": s.ID, "node_id": "", "name": s.Name, "target": s.Target, "source_type": kind, "source": name, "enforcement": s.Enforcement, "created_at": stamp(s.Updated), "updated_at": stamp(s.Updated)}
}

// state is what a version of the ruleset demands.
func (s *Ruleset) state(r *Repo) obj {
	d := s.short(r)
	rules, bypass := []obj{}, []obj{}
	for _, one := range s.Rules {
		rules = append(rules, one.doc())
	}
	for _, b := range s.Bypass {
		var id any
		if b.ID != 0 {
			id = b.ID
		}
		bypass = append(bypass, obj{"actor_id": id, "actor_type": b.Type, "bypass_mode": b.Mode})
	}
	d["rules"], d["bypass_actors"] = rules, bypass
	d["conditions"] = obj{"ref_name": obj{"include": append([]string{}, s.Include...), "exclude": append([]string{}, s.Exclude...)}}
	return d
}

// whole shows the bypass list only to who may change it.
func (s *Ruleset) whole(c *call) obj {
	d := s.state(c.repo)
	if c.token.permissions["administration"] != "write" {
		delete(d, "bypass_actors")
	}
	return d
}

func (c *call) rulesets() reply {
	parents := c.r.URL.Query().Get("includes_parents") != "false"
	targets := c.r.URL.Query().Get("targets")
	var out []obj
	for _, s := range c.repo.Rulesets {
		if (parents || !s.Organization) && (targets == "" || slices.Contains(strings.Split(targets, ","), s.Target)) {
			out = append(out, s.short(c.repo))
		}
	}
	return c.page(out, "")
}

// versions of a ruleset, newest first; their ids are from 1.
func (s *Ruleset) versions() []*Ruleset {
	out := []*Ruleset{s}
	for i := range slices.Backward(s.Versions) {
		out = append(out, &s.Versions[i])
	}
	return out
}

func (c *call) history() reply {
	s := c.ruleset()
	if s == nil || s.Organization {
		return notFound()
	}
	var out []obj
	all := s.versions()
	for i, v := range all {
		out = append(out, obj{"version_id": len(all) - i, "actor": obj{"id": 1, "type": "User"}, "updated_at": stamp(v.Updated)})
	}
	return c.page(out, "")
}

func (c *call) version() reply {
	s := c.ruleset()
	if s == nil || s.Organization {
		return notFound()
	}
	all := s.versions()
	n := len(all) - int(c.number("version"))
	if n < 0 || n >= len(all) {
		return notFound()
	}
	return ok(obj{"version_id": c.number("version"), "actor": obj{"id": 1, "type": "User"}, "updated_at": stamp(all[n].Updated), "state": all[n].state(c.repo)})
}

func (c *call) protection() reply {
	branch := c.r.PathValue("branch")
	p := c.repo.Protections[branch]
	switch {
	case c.repo.Branches[branch] == "":
		return failed(404, "Branch not found")
	case p == nil:
		return failed(404, "Branch not protected")
	}
	on := func(v bool) obj { return obj{"enabled": v} }
	d := obj{
		"url":            fmt.Sprintf("%s/repos/%s/branches/%s/protection", c.base(), c.repo.FullName(), url.PathEscape(branch)),
		"enforce_admins": on(p.Admins), "allow_force_pushes": on(p.ForcePushes), "allow_deletions": on(p.Deletions), "required_signatures": on(p.Signatures),
		"required_linear_history": on(false), "lock_branch": on(false),
	}
	if p.Reviews {
		d["required_pull_request_reviews"] = obj{"required_approving_review_count": p.Approvals, "dismiss_stale_reviews": p.DismissStale, "require_code_owner_reviews": p.CodeOwners, "require_last_push_approval": p.LastPush}
	}
	return ok(d)
}

func (c *call) pullCommits() reply {
	i := c.repo.Issues[int(c.number("n"))]
	if i == nil || i.Pull == nil {
		return notFound()
	}
	var out []obj
	for _, s := range i.Pull.Commits {
		if k := c.repo.Commits[s]; k != nil && len(out) < 250 { // GitHub lists no more
			out = append(out, k.doc(c))
		}
	}
	return c.page(out, "")
}

// activity is newest first, in pages by cursor.
func (c *call) activity() reply {
	q := c.r.URL.Query()
	var out []obj
	for i, a := range slices.Backward(c.repo.Activity) {
		if ref := q.Get("ref"); ref == "" || ref == a.Ref || "refs/heads/"+ref == a.Ref {
			out = append(out, obj{"id": i + 1, "node_id": "", "before": a.Before, "after": a.After, "ref": a.Ref, "timestamp": stamp(a.At), "activity_type": a.Type, "actor": a.By.doc()})
		}
	}
	size, from := 30, 0
	if n, err := strconv.Atoi(q.Get("per_page")); err == nil && n > 0 {
		size = min(n, 100)
	}
	if n, err := strconv.Atoi(q.Get("after")); err == nil && n > 0 {
		from = min(n, len(out))
	}
	to := min(from+size, len(out))
	a := ok(append([]obj{}, out[from:to]...))
	if to < len(out) {
		q.Set("after", strconv.Itoa(to))
		a.link = fmt.Sprintf(`<%s%s?%s>; rel="next"`, c.base(), c.r.URL.EscapedPath(), q.Encode())
	}
	return a
}

func (c *call) checkRuns() reply {
	sha := c.r.PathValue("sha")
	if c.repo.Commits[sha] == nil {
		return failed(422, "No commit found for SHA: "+sha)
	}
	var out []obj
	for _, k := range slices.Backward(c.repo.Checks) {
		if name := c.r.URL.Query().Get("check_name"); k.SHA == sha && (name == "" || name == k.Name) {
			out = append(out, k.doc(c.base()))
		}
	}
	return c.page(out, "check_runs")
}

func (c *call) statuses() reply {
	var out []obj
	for _, s := range slices.Backward(c.repo.Statuses) {
		if s.SHA == c.r.PathValue("sha") {
			out = append(out, obj{"id": s.ID, "node_id": "", "state": s.State, "context": s.Context, "description": orNull(s.Description), "target_url": orNull(s.TargetURL), "created_at": stamp(s.At), "updated_at": stamp(s.At), "creator": s.Creator.doc()})
		}
	}
	return c.page(out, "")
}

func (c *call) attestations() reply {
	all := c.repo.Attestations[c.r.PathValue("digest")]
	if len(all) == 0 {
		return notFound()
	}
	var out []obj
	for _, b := range all {
		out = append(out, obj{"repository_id": c.repo.ID, "bundle": b, "bundle_url": "", "initiator": "user"})
	}
	a := c.page(out, "attestations")
	delete(a.body.(obj), "total_count")
	return a
}

// searchUsers finds accounts by their public address only.
func (c *call) searchUsers() reply {
	q := c.r.URL.Query().Get("q")
	if q == "" {
		return reply{status: http.StatusUnprocessableEntity, body: obj{"message": "Validation Failed"}}
	}
	address, byMail := strings.CutSuffix(q, " in:email")
	var out []obj
	for _, u := range c.h.users {
		if byMail && u.Public && strings.EqualFold(u.Email, address) {
			out = append(out, u.doc().(obj))
		}
	}
	a := c.page(out, "items")
	a.body.(obj)["incomplete_results"] = false
	return a
}
