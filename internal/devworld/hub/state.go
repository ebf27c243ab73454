package hub

import (
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"
)

// User is an account: of a person, of an App, or of an organisation.
type User struct {
	ID        int64
	Login     string
	Type      string // "User", "Bot" or "Organization"
	Email     string
	Public    bool // its profile shows the address
	Suspended bool

	hub *Hub
}

// Org is an organisation.
type Org struct {
	*User
	Members map[*User]string // "admin" or "member"
	// Base is what every member may do in every repository: "", "read", "write", "admin".
	Base  string
	Teams []*Team
}

// Team is a team of an organisation. Its members have what its parents have.
type Team struct {
	ID         int64
	Slug, Name string
	Org        *Org
	Parent     *Team
	Members    map[*User]string // "active" or "pending"
	Repos      map[*Repo]string // permission
}

// Repo is a repository.
type Repo struct {
	ID            int64
	Owner         *User
	Name          string
	Private       bool
	DefaultBranch string
	Collaborators map[*User]string   // "read", "triage", "write", "maintain", "admin"
	Branches      map[string]string  // name to commit
	Tags          map[string]string  // name to commit
	Commits       map[string]*Commit // by SHA
	Issues        map[int]*Issue     // pull requests too
	Checks        []*CheckRun
	Statuses      []*Status
	Build         // runs, rules and what else answers about builds need

	hub   *Hub
	last  int      // number of the newest issue
	names []string // that it had before
	gone  bool
}

// Commit is a commit. Author and Committer are nil where the forge maps the e-mail
// address to nobody.
type Commit struct {
	SHA               string
	Message           string
	Author, Committer *User
	AuthorName        string // of git; of Author where empty
	AuthorEmail       string
	CommitterName     string
	CommitterEmail    string
	Parents           []string
	At                time.Time
	Verified          bool
	Files             map[string]string // path to content, the whole tree
}

// Issue is an issue, or the talk of a pull request.
type Issue struct {
	ID          int64
	Number      int
	Repo        *Repo
	Title, Body string
	Author      *User
	App         *App // that opened it
	Closed      bool
	Locked      bool
	Created     time.Time
	Comments    []*Comment
	Pull        *Pull // nil for an issue
}

// Pull is a pull request.
type Pull struct {
	*Issue
	Base, Head string // branches
	HeadRepo   *Repo  // nil where the fork was deleted
	HeadSHA    string
	Draft      bool
	Commits    []string // SHAs, oldest first
	Merged     time.Time
	MergedBy   *User
	Result     string // the commit that merging made
	Reviews    []*Review
	Notes      []*Comment // review comments
}

// Comment is a comment of an issue, or a review comment of a pull request.
type Comment struct {
	ID        int64
	Issue     *Issue
	Review    bool // a review comment
	Author    *User
	App       *App // performed_via_github_app
	Body      string
	Created   time.Time
	Updated   time.Time
	Edits     []Edit
	Minimized string // the classifier
	Reactions []Reaction
	Path      string // review comments
	Commit    string
}

// Edit is a change of a text.
type Edit struct {
	At     time.Time
	By     *User
	Before string
}

// Reaction is somebody's.
type Reaction struct {
	ID      int64
	By      *User
	Content string
}

// Review is a review of a pull request.
type Review struct {
	ID        int64
	Pull      *Pull
	Author    *User
	State     string // "APPROVED", "CHANGES_REQUESTED", "COMMENTED", "DISMISSED"
	Body      string
	Commit    string
	At        time.Time
	Edits     []Edit
	Reactions []Reaction
}

// CheckRun is a check run.
type CheckRun struct {
	ID                 int64
	Repo               *Repo
	App                *App
	Name, SHA          string
	Status, Conclusion string
	ExternalID         string
	DetailsURL         string
	Title              string
	Summary, Text      string
	Annotations        []Annotation
	Actions            []Action
	Started, Completed time.Time
}

// Annotation is a note at a line.
type Annotation struct {
	Path      string `json:"path"`
	StartLine int    `json:"start_line"`
	EndLine   int    `json:"end_line"`
	Level     string `json:"annotation_level"`
	Title     string `json:"title,omitempty"`
	Message   string `json:"message"`
}

// Action is a button.
type Action struct {
	Label       string `json:"label"`
	Description string `json:"description"`
	Identifier  string `json:"identifier"`
}

// Status is a commit status.
type Status struct {
	ID                  int64
	SHA, State, Context string
	Description         string
	TargetURL           string
	Creator             *User
	App                 *App
	At                  time.Time
}

// App is a GitHub App.
type App struct {
	ID            int64
	Slug, Name    string
	ClientID      string
	Key           *rsa.PrivateKey
	Bot           *User // SLUG[bot]
	Owner         *User
	Permissions   map[string]string
	Events        []string // that it subscribes to
	Hook          Hook
	Installations []*Installation

	hub *Hub
}

// Hook is where an App's webhooks go.
type Hook struct {
	URL, Secret string
	Form        bool // sends forms; what the settings say, and not what this hub does
	Insecure    bool // does not verify TLS, likewise
}

// Installation is an App on an account.
type Installation struct {
	ID          int64
	App         *App
	Account     *User
	Permissions map[string]string
	Events      []string
	Repos       []*Repo // nil is all
	Suspended   bool

	removed bool
}

// on reports whether the installation has r.
func (i *Installation) on(r *Repo) bool {
	return !i.removed && r.Owner == i.Account && (i.Repos == nil || slices.Contains(i.Repos, r))
}

func (i *Installation) selection() string {
	if i.Repos == nil {
		return "all"
	}
	return "selected"
}

func (a *App) installation(id int64) *Installation {
	for _, i := range a.Installations {
		if i.ID == id && !i.removed {
			return i
		}
	}
	return nil
}

// PEM returns the App's private key as GitHub gives it.
func (a *App) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(a.Key)})
}

// FullName is OWNER/NAME.
func (r *Repo) FullName() string { return r.Owner.Login + "/" + r.Name }

func (r *Repo) wasCalled(name string) bool {
	return slices.ContainsFunc(r.names, func(n string) bool { return strings.EqualFold(n, name) })
}

// repoNamed finds a repository by a name that it has, or had and nobody else has.
func (h *Hub) repoNamed(owner, name string) *Repo {
	full := owner + "/" + name
	for _, r := range h.repos {
		if !r.gone && strings.EqualFold(r.FullName(), full) {
			return r
		}
	}
	for _, r := range h.repos {
		if !r.gone && r.wasCalled(full) {
			return r
		}
	}
	return nil
}

func (h *Hub) repoID(id int64) *Repo {
	for _, r := range h.repos {
		if r.ID == id && !r.gone {
			return r
		}
	}
	return nil
}

func (h *Hub) orgNamed(login string) *Org {
	for _, o := range h.orgs {
		if strings.EqualFold(o.Login, login) {
			return o
		}
	}
	return nil
}

func (h *Hub) userNamed(login string) *User {
	for _, u := range h.users {
		if strings.EqualFold(u.Login, login) {
			return u
		}
	}
	return nil
}

// ranks orders what a person may do.
var ranks = []string{"none", "read", "triage", "write", "maintain", "admin"}

func rank(permission string) int { return slices.Index(ranks, permission) }

// Permission is what u may do in r; everybody reads a public one.
func (r *Repo) Permission(u *User) string {
	if p := r.given(u); p != "none" || r.Private {
		return p
	}
	return "read"
}

// given is the most of what u was given, its teams and their parents were given,
// and the organisation gives to all.
func (r *Repo) given(u *User) string {
	best := "none"
	raise := func(p string) {
		if rank(p) > rank(best) {
			best = p
		}
	}
	if u == r.Owner {
		raise("admin")
	}
	raise(r.Collaborators[u])
	org := r.hub.orgNamed(r.Owner.Login)
	if org == nil {
		return best
	}
	switch org.Members[u] {
	case "admin":
		raise("admin")
	case "member":
		raise(org.Base)
	}
	for _, t := range org.Teams {
		if t.Members[u] != "active" {
			continue
		}
		for p := t; p != nil; p = p.Parent {
			raise(p.Repos[r])
		}
	}
	return best
}

// state of u in t: "active" in it or in a team below it, else "pending", else "".
func (t *Team) state(u *User) string {
	state := ""
	for _, o := range t.Org.Teams {
		below := false
		for p := o; p != nil; p = p.Parent {
			below = below || p == t
		}
		if !below {
			continue
		}
		switch o.Members[u] {
		case "active":
			return "active"
		case "pending":
			if o == t {
				state = "pending"
			}
		}
	}
	return state
}

func (o *Org) team(slug string) *Team {
	for _, t := range o.Teams {
		if strings.EqualFold(t.Slug, slug) {
			return t
		}
	}
	return nil
}

// within reports whether commit a is b or an ancestor of b.
func (r *Repo) within(a, b string) bool {
	seen := map[string]bool{}
	for todo := []string{b}; len(todo) > 0; {
		s := todo[0]
		todo = todo[1:]
		if s == a {
			return r.Commits[a] != nil
		}
		if c := r.Commits[s]; c != nil && !seen[s] {
			seen[s] = true
			todo = append(todo, c.Parents...)
		}
	}
	return false
}

// newSHA names a commit by all that it says.
func newSHA(c *Commit, n int64) string {
	sum := sha1.Sum(fmt.Appendf(nil, "%d\x00%v\x00%s\x00%s\x00%v", n, c.Parents, c.Message, c.AuthorEmail, c.Files)) // git's hash
	return hex.EncodeToString(sum[:])
}
