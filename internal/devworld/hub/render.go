package hub

import (
	"encoding/base64"
	"fmt"
	"strings"
	"time"
)

// stamp writes a time as GitHub does; zero is null.
func stamp(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(time.RFC3339)
}

// node is the global id of a thing.
func node(kind string, id int64) string {
	return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%03d:%s%d", len(kind), kind, id))
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// doc is the account; nil is a deleted one, which GitHub writes as null.
func (u *User) doc() any {
	if u == nil {
		return nil
	}
	path := u.Login
	if u.Type == "Bot" {
		path = "apps/" + strings.TrimSuffix(u.Login, "[bot]")
	}
	return obj{
		"login": u.Login, "id": u.ID, "node_id": node(u.Type, u.ID), "type": u.Type, "site_admin": false,
		"avatar_url": u.hub.web + "/avatar", "gravatar_id": "", "url": u.hub.web + "/api/users/" + u.Login, "html_url": u.hub.web + "/" + path,
		"followers_url": "", "following_url": "", "gists_url": "", "starred_url": "", "subscriptions_url": "", "organizations_url": "", "repos_url": "", "events_url": "", "received_events_url": "",
	}
}

func (a *App) doc() any {
	if a == nil {
		return nil
	}
	return obj{
		"id": a.ID, "slug": a.Slug, "node_id": node("App", a.ID), "client_id": a.ClientID, "owner": a.Owner.doc(), "name": a.Name, "description": "", "external_url": "",
		"html_url": a.hub.web + "/apps/" + a.Slug, "permissions": a.Permissions, "events": a.Events, "created_at": stamp(time.Unix(1_700_000_000, 0)), "updated_at": stamp(time.Unix(1_700_000_000, 0)),
		"installations_count": len(a.Installations),
	}
}

func (i *Installation) doc() obj {
	d := obj{
		"id": i.ID, "app_id": i.App.ID, "app_slug": i.App.Slug, "account": i.Account.doc(), "target_id": i.Account.ID, "target_type": i.Account.Type,
		"permissions": i.Permissions, "events": i.Events, "repository_selection": i.selection(), "suspended_at": nil, "suspended_by": nil,
	}
	if i.Suspended {
		d["suspended_at"] = stamp(time.Unix(1_700_000_000, 0))
	}
	return d
}

// doc is the repository, at base as its URL.
func (r *Repo) doc(base string) obj {
	visibility := "public"
	if r.Private {
		visibility = "private"
	}
	return obj{
		"id": r.ID, "node_id": node("Repository", r.ID), "name": r.Name, "full_name": r.FullName(), "private": r.Private, "visibility": visibility, "owner": r.Owner.doc(),
		"html_url": r.hub.web + "/" + r.FullName(), "url": base + "/repos/" + r.FullName(), "description": nil, "fork": false, "archived": false, "disabled": false,
		"default_branch": r.DefaultBranch,
	}
}

func (c *call) repoDoc(r *Repo) obj { return r.doc(c.base()) }

// association is what GitHub calls the author's: on purpose no use for anything.
// A private member of the organisation is NONE here, as it often is there.
func (r *Repo) association(u *User) string {
	if u == r.Owner {
		return "OWNER"
	}
	if r.Collaborators[u] != "" {
		return "COLLABORATOR"
	}
	return "NONE"
}

func (i *Issue) page() string {
	kind := "issues"
	if i.Pull != nil {
		kind = "pull"
	}
	return fmt.Sprintf("%s/%s/%s/%d", i.Repo.hub.web, i.Repo.FullName(), kind, i.Number)
}

func (i *Issue) state() string {
	if i.Closed {
		return "closed"
	}
	return "open"
}

func (i *Issue) doc(base string) obj {
	api := base + "/repos/" + i.Repo.FullName()
	d := obj{
		"id": i.ID, "node_id": node("Issue", i.ID), "number": i.Number, "title": i.Title, "body": orNull(i.Body), "user": i.Author.doc(), "state": i.state(), "locked": i.Locked,
		"labels": []obj{}, "assignees": []obj{}, "assignee": nil, "milestone": nil, "comments": len(i.Comments), "created_at": stamp(i.Created), "updated_at": stamp(i.Created), "closed_at": nil,
		"author_association": i.Repo.association(i.Author), "active_lock_reason": nil, "html_url": i.page(), "url": fmt.Sprintf("%s/issues/%d", api, i.Number), "repository_url": api,
		"performed_via_github_app": i.App.doc(),
	}
	if p := i.Pull; p != nil {
		u := fmt.Sprintf("%s/pulls/%d", api, i.Number)
		d["pull_request"] = obj{"url": u, "html_url": i.page(), "diff_url": i.page() + ".diff", "patch_url": i.page() + ".patch", "merged_at": stamp(p.Merged)}
	}
	return d
}

func (p *Pull) doc(base string) obj {
	side := func(r *Repo, branch, sha string) obj {
		if r == nil {
			return obj{"label": "unknown:" + branch, "ref": branch, "sha": sha, "user": nil, "repo": nil}
		}
		return obj{"label": r.Owner.Login + ":" + branch, "ref": branch, "sha": sha, "user": r.Owner.doc(), "repo": r.doc(base)}
	}
	api := base + "/repos/" + p.Repo.FullName()
	return obj{
		"id": p.ID, "node_id": node("PullRequest", p.ID), "number": p.Number, "title": p.Title, "body": orNull(p.Body), "user": p.Author.doc(), "state": p.state(), "draft": p.Draft, "locked": p.Locked,
		"head": side(p.HeadRepo, p.Head, p.HeadSHA), "base": side(p.Repo, p.Base, p.Repo.Branches[p.Base]),
		"merged_at": stamp(p.Merged), "merge_commit_sha": orNull(p.Result), "created_at": stamp(p.Created), "updated_at": stamp(p.Created), "closed_at": stamp(p.Merged),
		"html_url": p.page(), "url": fmt.Sprintf("%s/pulls/%d", api, p.Number), "issue_url": fmt.Sprintf("%s/issues/%d", api, p.Number),
		"labels": []obj{}, "assignees": []obj{}, "assignee": nil, "requested_reviewers": []obj{}, "requested_teams": []obj{}, "milestone": nil, "auto_merge": nil, "active_lock_reason": nil,
		"author_association": p.Repo.association(p.Author),
	}
}

// full is the pull request as it is read alone.
func (p *Pull) full(base string) obj {
	d := p.doc(base)
	d["merged"], d["merged_by"], d["commits"], d["comments"], d["review_comments"] = !p.Merged.IsZero(), p.MergedBy.doc(), len(p.Commits), len(p.Comments), len(p.Notes)
	d["mergeable"], d["mergeable_state"], d["maintainer_can_modify"] = nil, "unknown", false
	return d
}

func (m *Comment) kind() string {
	if m.Review {
		return "PullRequestReviewComment"
	}
	return "IssueComment"
}

// Page is where people read the comment.
func (m *Comment) Page() string {
	if m.Review {
		return fmt.Sprintf("%s#discussion_r%d", m.Issue.page(), m.ID)
	}
	return fmt.Sprintf("%s#issuecomment-%d", m.Issue.page(), m.ID)
}

func (m *Comment) doc(base string) obj {
	r := m.Issue.Repo
	api := base + "/repos/" + r.FullName()
	d := obj{
		"id": m.ID, "node_id": node(m.kind(), m.ID), "user": m.Author.doc(), "body": m.Body, "created_at": stamp(m.Created), "updated_at": stamp(m.Updated),
		"author_association": r.association(m.Author), "performed_via_github_app": m.App.doc(), "reactions": reactions(m.Reactions),
	}
	if !m.Review {
		d["html_url"], d["url"] = m.Page(), fmt.Sprintf("%s/issues/comments/%d", api, m.ID)
		d["issue_url"] = fmt.Sprintf("%s/issues/%d", api, m.Issue.Number)
		return d
	}
	delete(d, "performed_via_github_app") // review comments do not have it
	d["html_url"], d["url"] = m.Page(), fmt.Sprintf("%s/pulls/comments/%d", api, m.ID)
	d["pull_request_url"] = fmt.Sprintf("%s/pulls/%d", api, m.Issue.Number)
	d["path"], d["commit_id"], d["original_commit_id"], d["diff_hunk"], d["pull_request_review_id"] = m.Path, m.Commit, m.Commit, "@@ -0,0 +1 @@", m.ID
	d["position"], d["line"], d["side"], d["_links"] = 1, 1, "RIGHT", obj{}
	return d
}

func (v *Review) doc(base string) obj {
	return obj{
		"id": v.ID, "node_id": node("PullRequestReview", v.ID), "user": v.Author.doc(), "body": v.Body, "state": v.State, "commit_id": v.Commit, "submitted_at": stamp(v.At),
		"html_url": fmt.Sprintf("%s#pullrequestreview-%d", v.Pull.page(), v.ID), "pull_request_url": fmt.Sprintf("%s/repos/%s/pulls/%d", base, v.Pull.Repo.FullName(), v.Pull.Number),
		"author_association": v.Pull.Repo.association(v.Author), "_links": obj{},
	}
}

func reactions(rs []Reaction) obj {
	d := obj{"total_count": len(rs)}
	for _, name := range []string{"+1", "-1", "laugh", "hooray", "confused", "heart", "rocket", "eyes"} {
		n := 0
		for _, r := range rs {
			if r.Content == name {
				n++
			}
		}
		d[name] = n
	}
	return d
}

func (k *CheckRun) doc(base string) obj {
	api := fmt.Sprintf("%s/repos/%s/check-runs/%d", base, k.Repo.FullName(), k.ID)
	pulls := []obj{}
	for _, i := range k.Repo.Issues {
		if p := i.Pull; p != nil && p.HeadSHA == k.SHA && !p.Closed && p.HeadRepo == k.Repo {
			pulls = append(pulls, obj{"id": p.ID, "number": p.Number, "head": obj{"ref": p.Head, "sha": p.HeadSHA}, "base": obj{"ref": p.Base, "sha": p.Repo.Branches[p.Base]}})
		}
	}
	return obj{
		"id": k.ID, "node_id": node("CheckRun", k.ID), "head_sha": k.SHA, "external_id": k.ExternalID, "name": k.Name, "status": k.Status, "conclusion": orNull(k.Conclusion),
		"details_url": orNull(k.DetailsURL), "url": api, "html_url": fmt.Sprintf("%s/%s/runs/%d", k.Repo.hub.web, k.Repo.FullName(), k.ID), "started_at": stamp(k.Started), "completed_at": stamp(k.Completed),
		"output":        obj{"title": orNull(k.Title), "summary": orNull(k.Summary), "text": orNull(k.Text), "annotations_count": len(k.Annotations), "annotations_url": api + "/annotations"},
		"check_suite":   obj{"id": k.App.ID*1000 + k.Repo.ID},
		"pull_requests": pulls, "app": k.App.doc(),
	}
}

func (s *Status) doc() obj {
	return obj{
		"id": s.ID, "node_id": node("Status", s.ID), "state": s.State, "context": s.Context, "description": orNull(s.Description), "target_url": orNull(s.TargetURL),
		"created_at": stamp(s.At), "updated_at": stamp(s.At), "creator": s.Creator.doc(), "url": "", "avatar_url": nil,
	}
}
