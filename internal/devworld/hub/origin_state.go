package hub

import (
	"encoding/json"
	"path"
	"slices"
	"strings"
	"time"
)

// Build is what a repository has besides commits and talk: what answers about
// where a build came from are made of.
type Build struct {
	Runs         []*Run
	Rulesets     []*Ruleset
	Protections  map[string]*Protection // by branch
	Environments map[string]*Environment
	// Activity is who pushed what, oldest first.
	Activity []Activity
	// Attestations are Sigstore bundles by digest, sha256:HEX.
	Attestations map[string][]json.RawMessage
	// TagObjects are annotated tags: the commit by the id of the tag.
	TagObjects map[string]string
}

// Run is an attempt of a workflow run.
type Run struct {
	ID, Attempt    int64
	Repo, HeadRepo *Repo
	SHA, Branch    string // a tag is a branch here, as on GitHub
	Event, Path    string
	Status         string // "queued", "in_progress", "completed"
	Actor, Trigger *User
	Referenced     []Referenced
	Jobs           []*Job
	Approvals      []DeploymentApproval
}

// Referenced is a reusable workflow, OWNER/NAME/PATH@REF at a commit.
type Referenced struct{ Path, SHA, Ref string }

// Job is a job of a run. Its id is that of its check run.
type Job struct {
	ID          int64
	Name        string
	Status      string
	RunnerID    int64
	RunnerGroup string
	Labels      []string
}

// DeploymentApproval is somebody's verdict on the deployments of a run.
type DeploymentApproval struct {
	By           *User
	State        string // "approved" or "rejected"
	Environments []string
}

// Ruleset is a ruleset of the repository, or of its organisation.
type Ruleset struct {
	ID               int64
	Name             string
	Target           string // "branch" or "tag"
	Enforcement      string // "active", "evaluate", "disabled"
	Organization     bool
	Include, Exclude []string // refs/heads/main, ~ALL, ~DEFAULT_BRANCH
	Rules            []Rule
	Bypass           []Bypass
	Updated          time.Time
	// Versions are what it was before, oldest first.
	Versions []Ruleset
}

// Rule is one rule.
type Rule struct {
	Type       string
	Parameters map[string]any
}

// Bypass is who may pass by a ruleset.
type Bypass struct {
	ID   int64  // 0 is null
	Type string // "Team", "RepositoryRole", "OrganizationAdmin", "Integration", "DeployKey"
	Mode string // "always" or "pull_request"
}

// Protection is classic branch protection.
type Protection struct {
	Approvals                                  int
	Reviews                                    bool // pull requests are required
	DismissStale, CodeOwners, LastPush         bool
	Admins, ForcePushes, Deletions, Signatures bool
}

// Environment is a deployment environment.
type Environment struct {
	Name          string
	Reviewers     []*User
	NoSelfReview  bool
	ProtectedOnly bool
	Patterns      []string // branches that may deploy; nil is all
}

// Activity is a push.
type Activity struct {
	Before, After, Ref, Type string
	By                       *User
	At                       time.Time
}

// noCommit is the id before a branch was made.
var noCommit = strings.Repeat("0", 40)

// record notes that somebody pushed a branch. It must be called with the lock held.
func (r *Repo) record(branch, before, after, kind string, by *User) {
	if before == "" {
		before, kind = noCommit, "branch_creation"
	}
	if by == nil {
		by = r.Owner
	}
	r.Activity = append(r.Activity, Activity{Before: before, After: after, Ref: "refs/heads/" + branch, Type: kind, By: by, At: r.hub.second()})
}

// Run starts a run of a workflow file, with one job, which is in progress. ref is
// whole: refs/heads/main. id is the run's, chosen by who makes the token; 0 makes one.
func (r *Repo) Run(by *User, event, ref, sha, file string, id int64) *Run {
	r.hub.mu.Lock()
	defer r.hub.mu.Unlock()
	if id == 0 {
		id = r.hub.id()
	}
	branch := strings.TrimPrefix(strings.TrimPrefix(ref, "refs/heads/"), "refs/tags/")
	n := &Run{ID: id, Attempt: 1, Repo: r, HeadRepo: r, SHA: sha, Branch: branch, Event: event, Path: file, Status: "in_progress", Actor: by, Trigger: by}
	n.Jobs = []*Job{{ID: r.hub.id(), Name: "build", Status: "in_progress", RunnerID: 1, RunnerGroup: "GitHub Actions", Labels: []string{"ubuntu-latest"}}}
	r.Runs = append(r.Runs, n)
	return n
}

// Again is another attempt of the run, started by somebody.
func (n *Run) Again(by *User) *Run {
	h := n.Repo.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	again := *n
	again.Attempt, again.Trigger, again.Status = n.Attempt+1, by, "in_progress"
	again.Jobs = []*Job{{ID: h.id(), Name: "build", Status: "in_progress", RunnerID: 1, RunnerGroup: "GitHub Actions", Labels: []string{"ubuntu-latest"}}}
	n.Status = "completed"
	n.Repo.Runs = append(n.Repo.Runs, &again)
	return &again
}

// Finish ends the run and its jobs.
func (n *Run) Finish() {
	n.Repo.hub.Do(func() {
		n.Status = "completed"
		for _, j := range n.Jobs {
			j.Status = "completed"
		}
	})
}

// Rule adds a ruleset: active, of a branch, unless it says otherwise.
func (r *Repo) Rule(s Ruleset) *Ruleset {
	r.hub.mu.Lock()
	defer r.hub.mu.Unlock()
	s.ID = r.hub.id()
	if s.Target == "" {
		s.Target = "branch"
	}
	if s.Enforcement == "" {
		s.Enforcement = "active"
	}
	if s.Updated.IsZero() {
		s.Updated = r.hub.second()
	}
	r.Rulesets = append(r.Rulesets, &s)
	return &s
}

// Change changes a ruleset and keeps what it was in its history.
func (r *Repo) Change(s *Ruleset, f func(*Ruleset)) {
	r.hub.Do(func() {
		was := *s
		was.Versions = nil
		s.Versions = append(s.Versions, was)
		f(s)
		s.Updated = r.hub.second()
	})
}

// Protect gives a branch classic protection; nil takes it away.
func (r *Repo) Protect(branch string, p *Protection) {
	r.hub.Do(func() {
		if r.Protections == nil {
			r.Protections = map[string]*Protection{}
		}
		r.Protections[branch] = p
	})
}

// Environment makes an environment.
func (r *Repo) Environment(e Environment) *Environment {
	r.hub.mu.Lock()
	defer r.hub.mu.Unlock()
	if r.Environments == nil {
		r.Environments = map[string]*Environment{}
	}
	r.Environments[strings.ToLower(e.Name)] = &e
	return &e
}

// Tag makes a tag of a commit, annotated where it is asked for.
func (r *Repo) Tag(name, sha string, annotated bool) {
	r.hub.Do(func() {
		r.Tags[name] = sha
		if !annotated {
			return
		}
		if r.TagObjects == nil {
			r.TagObjects = map[string]string{}
		}
		id := gitID("tag", []byte(name+sha))
		r.TagObjects[id] = sha
		r.Tags[name] = id
	})
}

// Check makes a check run of another App, completed.
func (r *Repo) Check(app *App, sha, name, conclusion string) *CheckRun {
	r.hub.mu.Lock()
	defer r.hub.mu.Unlock()
	k := &CheckRun{ID: r.hub.id(), Repo: r, App: app, Name: name, SHA: sha, Status: "completed", Conclusion: conclusion, Started: r.hub.second(), Completed: r.hub.second()}
	r.Checks = append(r.Checks, k)
	return k
}

// Attest keeps a Sigstore bundle for a digest.
func (r *Repo) Attest(digest string, bundle []byte) {
	r.hub.Do(func() {
		if r.Attestations == nil {
			r.Attestations = map[string][]json.RawMessage{}
		}
		r.Attestations[digest] = append(r.Attestations[digest], bundle)
	})
}

// holds reports whether the ruleset is in force for a whole ref.
func (s *Ruleset) holds(r *Repo, ref string) bool {
	fits := func(p string) bool {
		ok, err := path.Match(p, ref)
		return p == "~ALL" || p == "~DEFAULT_BRANCH" && ref == "refs/heads/"+r.DefaultBranch || err == nil && ok
	}
	kind := "refs/heads/"
	if s.Target == "tag" {
		kind = "refs/tags/"
	}
	return s.Enforcement == "active" && strings.HasPrefix(ref, kind) && slices.ContainsFunc(s.Include, fits) && !slices.ContainsFunc(s.Exclude, fits)
}
