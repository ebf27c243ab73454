package lab

import (
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Project is a repository with everything around it. Its exported fields may be
// changed through Server.Change.
type Project struct {
	s          *Server
	ID         int64
	Path       string // acme/payments/web
	Group      *Group // of its path; nil for a user's own project
	Visibility string // "private", "internal", "public"
	Default    string // branch
	Members    []*Member
	invited    []invite
	Fork       *Project // what it was forked from

	commits  map[string]*Commit
	branches map[string]string
	tags     map[string]string
	pushes   []push

	ProtectedBranches []*Protection
	ProtectedTags     []*Protection
	ApprovalRules     []*ApprovalRule
	Approvals         ApprovalSettings
	// RejectUnsigned is the push rule; NoPushRule says that there is none at all.
	RejectUnsigned, NoPushRule bool
	Environments               []*Environment
	Deployments                []*Deployment
	Audit                      []Audit
	Attestations               []*Attestation
	// TriggererApproves lets who started a pipeline approve its deployment.
	TriggererApproves bool
	// CIConfig is the path of the configuration; "" is .gitlab-ci.yml.
	CIConfig string

	Pipelines []*Pipeline
	Statuses  []*Status
	Merges    []*MergeRequest
	Issues    []*Issue
}

// Commit is a commit, or what Project.Push makes one of.
type Commit struct {
	SHA            string
	Parents        []string
	Message        string
	Author, Email  string
	Committer      string // the author if empty
	CommitterEmail string
	At             time.Time
	// Signature is GitLab's verdict: "verified", "verified_system", "unverified";
	// empty where the commit is not signed.
	Signature string
	// Files are those that change; in a commit that was made, the whole tree.
	Files map[string]string
}

// push is an event of the project: somebody moved a branch.
type push struct {
	by       *User
	ref      string
	from, to string
	at       time.Time
}

// Protection is a protected branch or tag, by name or pattern.
type Protection struct {
	ID             int64
	Name           string
	Push, Merge    []int // access levels; 0 is nobody
	Users          []int64
	AllowForcePush bool
	CodeOwners     bool
	Inherited      bool // from a group
}

// ApprovalRule is a rule of the project for its merge requests.
type ApprovalRule struct {
	ID       int64
	Name     string
	Type     string // "regular", "any_approver"
	Required int
	// Branches are the protections that it is for; with AllProtected it is for
	// every protected branch, without either for every branch.
	Branches     []*Protection
	AllProtected bool
}

// ApprovalSettings are the project's.
type ApprovalSettings struct {
	ResetOnPush           bool
	DisableOverride       bool
	AuthorMayApprove      bool
	CommittersMayNot      bool
	SelectiveOwnerRemoval bool
	// InheritedFrom says that a group locks the settings.
	InheritedFrom string
}

// Audit is an audit event.
type Audit struct {
	Name string
	At   time.Time
}

// Project adds a private project with a branch main and one commit. Its group is
// made if it is not there.
func (s *Server) Project(path string) *Project {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &Project{s: s, ID: s.id(), Path: path, Visibility: "private", Default: "main", commits: map[string]*Commit{}, branches: map[string]string{}, tags: map[string]string{}}
	if at := strings.LastIndexByte(path, '/'); at > 0 {
		p.Group = s.group(path[:at])
	}
	p.ApprovalRules = nil
	s.projects = append(s.projects, p)
	first := p.commit(Commit{Message: "Initial commit", Author: "GitLab", Email: "noreply@gitlab.example", Files: map[string]string{"README.md": "# " + path + "\n"}}, "")
	p.branches["main"] = first.SHA
	return p
}

// ForkFrom makes p a fork: it has the commits of the other one.
func (p *Project) ForkFrom(o *Project) {
	p.s.Change(func() {
		p.Fork = o
		maps.Copy(p.commits, o.commits)
		maps.Copy(p.branches, o.branches)
	})
}

// Add makes a user a member.
func (p *Project) Add(u *User, level int) *Member {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	m := &Member{User: u, Level: level}
	p.Members = append(p.Members, m)
	return m
}

// Remove ends a membership of the project itself.
func (p *Project) Remove(u *User) {
	p.s.Change(func() { p.Members = slices.DeleteFunc(p.Members, func(m *Member) bool { return m.User == u }) })
}

// Invite gives the members of a group at most a level in the project.
func (p *Project) Invite(g *Group, most int) {
	p.s.Change(func() { p.invited = append(p.invited, invite{g, most}) })
}

// all returns every membership that holds, the highest of each user.
func (p *Project) all() []*Member {
	best := map[*User]*Member{}
	take := func(m *Member, most int) {
		if b := best[m.User]; b == nil || b.Level < min(m.Level, most) {
			best[m.User] = &Member{User: m.User, Level: min(m.Level, most), Expires: m.Expires, Awaiting: m.Awaiting}
		}
	}
	for _, m := range p.Members {
		take(m, Owner)
	}
	for _, i := range p.invited {
		for _, m := range i.group.Members {
			take(m, i.most)
		}
	}
	if p.Group != nil {
		for _, m := range p.Group.all() {
			take(m, Owner)
		}
	}
	return sorted(best, p.s.now())
}

// Push makes a commit on a branch, which is made from the default branch if it is
// not there, and returns its id. by is who pushes.
func (p *Project) Push(by *User, branch string, c Commit) string {
	p.s.mu.Lock()
	before, there := p.branches[branch]
	if !there {
		before = p.branches[p.Default]
	}
	made := p.commit(c, before)
	p.move(by, branch, made.SHA)
	due := p.pushed(by, branch, made.SHA)
	p.s.mu.Unlock()
	p.s.send(due)
	return made.SHA
}

// Branch makes or moves a branch without an event: a state that is just there.
func (p *Project) Branch(name, sha string) { p.s.Change(func() { p.branches[name] = sha }) }

// Tag makes or moves a tag.
func (p *Project) Tag(name, sha string) { p.s.Change(func() { p.tags[name] = sha }) }

// DeleteBranch removes a branch.
func (p *Project) DeleteBranch(name string) { p.s.Change(func() { delete(p.branches, name) }) }

// Head returns the commit of a branch, "" if there is none.
func (p *Project) Head(branch string) (sha string) {
	p.s.Change(func() { sha = p.branches[branch] })
	return sha
}

func (p *Project) move(by *User, branch, sha string) {
	p.pushes = append(p.pushes, push{by, branch, p.branches[branch], sha, p.s.now()})
	p.branches[branch] = sha
}

// commit makes a commit on a parent. Its id is that of what it is, with a number
// of its own.
func (p *Project) commit(c Commit, parent string, more ...string) *Commit {
	files := map[string]string{}
	if before := p.commits[parent]; before != nil {
		maps.Copy(files, before.Files)
		c.Parents = append([]string{parent}, more...)
	}
	for path, text := range c.Files {
		if text == "" {
			delete(files, path)
			continue
		}
		files[path] = text
	}
	if c.Author == "" {
		c.Author, c.Email = "Nobody", "nobody@acme.dev"
	}
	if c.Committer == "" && c.CommitterEmail == "" {
		c.Committer, c.CommitterEmail = c.Author, c.Email
	}
	c.Files, c.At = files, p.s.now()
	sum := sha1.Sum(fmt.Appendf(nil, "%d %d %s %s", p.ID, p.s.id(), parent, c.Message))
	c.SHA = hex.EncodeToString(sum[:])
	p.commits[c.SHA] = &c
	return &c
}

// BlobID is git's id of a file's content.
func BlobID(content string) string {
	sum := sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(content), content))
	return hex.EncodeToString(sum[:])
}

// ancestors returns sha and everything below it, newest first.
func (p *Project) ancestors(sha string) []string {
	var out []string
	seen := map[string]bool{}
	for todo := []string{sha}; len(todo) > 0; todo = todo[1:] {
		if c := p.commits[todo[0]]; c != nil && !seen[c.SHA] {
			seen[c.SHA] = true
			out = append(out, c.SHA)
			todo = append(todo, c.Parents...)
		}
	}
	return out
}

// beyond returns what `to` has that `from` has not, newest first.
func (p *Project) beyond(from, to string) []string {
	have := p.ancestors(from)
	return slices.DeleteFunc(p.ancestors(to), func(s string) bool { return slices.Contains(have, s) })
}

// ref resolves a branch, tag or commit.
func (p *Project) ref(name string) *Commit {
	for _, m := range []map[string]string{p.branches, p.tags} {
		if c := p.commits[m[name]]; c != nil {
			return c
		}
	}
	return p.commits[name]
}

// access is what a route demands: a level, which nobody needs for a public project
// where public is set.
type access struct {
	level  int
	public bool
}

// shown is for what everybody sees of a public project; role is for what members
// only may see or do.
func shown(level int) access { return access{level, true} }
func role(level int) access  { return access{level, false} }

// on adds a route below a project. Who may not see the project is told that there
// is none.
func (s *Server) on(method, pattern, need string, a access, h func(*request, *Project) answer) {
	full := method + " /api/v4/projects/{id}"
	if pattern != "" {
		full += "/" + pattern
	}
	s.handle(full, need, func(q *request) answer {
		p := s.find(q.PathValue("id"))
		if p == nil {
			return notFound("Project")
		}
		have := level(p.all(), q.user)
		open := p.Visibility == "public" || p.Visibility == "internal"
		switch {
		case have < Guest && !open:
			return notFound("Project")
		case have < a.level && !(a.public && open):
			return forbidden()
		}
		return h(q, p)
	})
}

func (s *Server) find(name string) *Project {
	id, _ := strconv.ParseInt(name, 10, 64)
	for _, p := range s.projects {
		if p.ID == id || strings.EqualFold(p.Path, name) {
			return p
		}
	}
	return nil
}

func (s *Server) project(p *Project) any {
	out := map[string]any{"id": p.ID, "path_with_namespace": p.Path, "name": p.Path[strings.LastIndexByte(p.Path, '/')+1:], "web_url": s.options.URL + "/" + p.Path, "default_branch": p.Default, "visibility": p.Visibility, "ci_config_path": p.CIConfig}
	if p.Group != nil {
		out["namespace"] = map[string]any{"id": p.Group.ID, "full_path": p.Group.Path, "kind": "group"}
	}
	if s.options.Premium {
		out["allow_pipeline_trigger_approve_deployment"] = p.TriggererApproves
	}
	if p.Fork != nil {
		out["forked_from_project"] = map[string]any{"id": p.Fork.ID, "path_with_namespace": p.Fork.Path}
	}
	return out
}

// premium hides a route from the Free edition.
func (s *Server) premium(h func(*request, *Project) answer) func(*request, *Project) answer {
	return func(q *request, p *Project) answer {
		if !s.options.Premium {
			return refuse(http.StatusNotFound, "404 Not Found")
		}
		return h(q, p)
	}
}
