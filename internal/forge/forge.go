// Package forge is what the service needs of a forge: answers about a build,
// people and what they may do, threads to ask in, places to report to, and
// webhooks. GitHub and GitLab are behind it, in packages of their own.
//
// What an error means is the same for both: signing.Unavailable or RateLimited
// where asking again may help; NotFound where the forge says that there is no such
// thing, or that we may not see it; Denied where our credentials lack a
// permission, which the message names. An error is never an answer.
package forge

import (
	"context"
	"net/http"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// Forge is one configured forge. Its parts are interfaces of their own, so that
// each user asks for no more than it needs.
type Forge interface {
	Origin
	People
	Threads
	Reports
	Hooks
	// Host names the forge as signing.Origin.Forge does.
	Host() string
}

// Repository is where something is asked. The id is what counts: an
// implementation asks by it, or compares what answers to the name with it.
type Repository struct {
	ID   string
	Name string // OWNER/NAME, a path of groups on GitLab
}

// Origin answers about a build.
type Origin interface {
	// Ask asks what q wants to know of the build of o, and of its artifacts where
	// attestations are asked for. A part for which there can be no answer is in
	// Unknown of the result, with the reason; the error is that the forge could
	// not be asked, and the result nothing.
	Ask(ctx context.Context, o signing.Origin, artifacts []signing.Artifact, q signing.ForgeQuestion) (*signing.ForgeFacts, error)
	// Compare says what is new between two commits of a repository: how many
	// commits, the subjects of the newest, and a link for people.
	Compare(ctx context.Context, r Repository, from, to string) (Comparison, error)
	// PolicyFile reads the repository's own policy at a commit, or at the head of the
	// default branch where commit is empty. Exists is false only where the tree was
	// listed and it is not there; a commit that the repository does not have is
	// NotFound, and what is no plain file Invalid.
	PolicyFile(ctx context.Context, r Repository, commit string) (*signing.PolicyFileFacts, error)
}

// Comparison is what one commit has that another has not.
type Comparison struct {
	Commits int
	// Subjects are the first lines of the newest commits, at most ten. Strangers wrote them.
	Subjects []string
	URL      string
	// Diverged says that `from` is no ancestor of `to`.
	Diverged bool
}

// People answers who somebody is and what they may do, asked of the repository of
// a Request and never taken from a payload.
type People interface {
	// Standing returns which of groups (as in ApprovalGroup.From, those of this
	// forge only) the account is in now, with an active membership, and whether it
	// may see the repository at all. Ids are compared: a login that another account
	// has now is not in. The zero Repository is one of another forge, of which this
	// one can say nothing: it is asked for its teams and accounts, and refuses
	// groups that are permissions.
	Standing(ctx context.Context, r Repository, who signing.Account, groups []string) (Standing, error)
	// Members lists the people of groups, for counting whether a quorum can be met
	// and for mentioning them. A group that does not exist is an error that names it.
	Members(ctx context.Context, r Repository, groups []string) (map[string][]signing.Account, error)
	// Account looks an account up by its id.
	Account(ctx context.Context, id string) (signing.Account, error)
}

// Standing is what an account is to a repository now.
type Standing struct {
	Account signing.Account // as the forge has it now
	// Reads says that it may see the repository; an outsider on a public one may.
	Reads bool
	// Groups are those of the asked groups that it is in.
	Groups []string
}

// Comment is one comment of a thread, as the forge has it now.
type Comment struct {
	ID     string
	Kind   string // "comment", "review_comment", "review", "note"
	Author signing.Account
	Body   string
	// Edited says that the text may not be the author's first: somebody changed it
	// since, whoever that was.
	Edited bool
	// System says that the forge wrote it, or a program in somebody's name.
	System  bool
	Created time.Time
	Updated time.Time
	URL     string
	// Commit is the commit a review is about.
	Commit string
}

// Threads is where people are asked.
type Threads interface {
	// Find returns the thread to ask in: the open pull request of the commit, else
	// the merged one, else NotFound.
	Find(ctx context.Context, r Repository, commit string) (signing.Thread, error)
	// Open opens an issue, Close closes it.
	Open(ctx context.Context, r Repository, title, body string) (signing.Thread, Comment, error)
	Close(ctx context.Context, t signing.Thread) error
	// Comment reads one comment; NotFound if it is gone. Comments lists those made
	// since, oldest first, reviews and review comments too.
	Comment(ctx context.Context, t signing.Thread, id string) (Comment, error)
	Comments(ctx context.Context, t signing.Thread, since time.Time) ([]Comment, error)
	Writer
}

// Writer writes in a thread.
type Writer interface {
	// Post writes a comment, Edit replaces the text of our own one. The id that Post
	// returns works for Comment and Edit. Where a Post may have happened without
	// an answer, Mine finds it.
	Post(ctx context.Context, t signing.Thread, body string) (Comment, error)
	Edit(ctx context.Context, t signing.Thread, id, body string) error
	// Mine returns our own comments of the thread whose first line is marker.
	Mine(ctx context.Context, t signing.Thread, marker string) ([]Comment, error)
	// Collapse hides a comment of ours as outdated, where the forge can.
	Collapse(ctx context.Context, t signing.Thread, id string) error
	// React acknowledges a comment: "+1", "-1", "eyes", "confused".
	React(ctx context.Context, t signing.Thread, c Comment, reaction string) error
}

// Reports is where results go.
type Reports interface {
	// Check makes or, with an id, updates the check of a commit, and returns its
	// id. Forges without checks set a commit status instead and return "".
	Check(ctx context.Context, r Repository, c Check) (id string, err error)
	// Status sets a commit status.
	Status(ctx context.Context, r Repository, s Status) error
	// ReadCheck returns the text of our own check, which only we can write.
	ReadCheck(ctx context.Context, r Repository, id string) (Check, error)
}

// Check is a check run.
type Check struct {
	ID      string // empty for a new one
	Name    string
	Commit  string
	Key     string // external_id: the Request
	State   CheckState
	Title   string
	Summary string // Markdown, bounded by MaxSummary
	Text    string // Markdown, bounded by MaxSummary
	URL     string // details
	Buttons []Button
	Notes   []Note
}

// CheckState is what a check or status says.
type CheckState string

const (
	CheckRunning  CheckState = "running"
	CheckWaiting  CheckState = "waiting" // for people: action_required, pending
	CheckPassed   CheckState = "passed"
	CheckFailed   CheckState = "failed"
	CheckCanceled CheckState = "canceled"
	CheckNeutral  CheckState = "neutral"
)

// Button is a button of a check run: at most three, the identifier at most 20
// characters, the label at most 20, the description at most 40.
type Button struct{ Label, Description, Identifier string }

// Note is an annotation at a line of a file.
type Note struct {
	Path    string
	Line    int
	Level   string // "notice", "warning", "failure"
	Title   string
	Message string
}

// Status is a commit status.
type Status struct {
	Commit      string
	Context     string
	State       CheckState
	Description string // bounded by the implementation: 140 characters on GitHub
	URL         string
	Ref         string // GitLab wants the branch or tag
	Pipeline    string // GitLab: the pipeline it belongs to
}

// Hooks takes webhooks in.
type Hooks interface {
	// Authenticate verifies a delivery from its headers and raw body. Nothing of the
	// body is parsed before that. The error is Unauthenticated for a missing, wrong
	// or weak signature, and Invalid for what is not a delivery.
	Authenticate(h http.Header, body []byte, now time.Time) (Delivery, error)
	// Parse reads the body of an authenticated delivery. What this service has no
	// use for is an Event of kind EventIgnored; what it cannot read is an error.
	Parse(d Delivery) (Event, error)
}

// Delivery is an authenticated webhook delivery, as it is stored: without headers
// that hold secrets.
type Delivery struct {
	Forge string `json:"forge"`
	// Key identifies the signed content: a redelivery, or a replay under another
	// GUID, has the same.
	Key  signing.Digest `json:"key"`
	ID   string         `json:"id,omitempty"` // the forge's GUID: not signed, for people
	Name string         `json:"name"`         // of the event: "issue_comment", "Note Hook"
	Body []byte         `json:"body"`
}

// The kinds of an Event.
const (
	EventIgnored = "ignored"
	EventComment = "comment" // a new comment, review comment or review
	EventEdited  = "edited"  // a comment was edited or deleted
	EventButton  = "button"  // a button of a check run
	EventPull    = "pull"    // a pull request was opened or got new commits
	EventPing    = "ping"
)

// Event is what a delivery says. It is a hint where to look and authorises
// nothing: comments are read again. Button is the exception, since the forge has
// no way to read it again; the delivery's signature is what vouches for it.
type Event struct {
	Kind       string
	Why        string // of EventIgnored: "bot", "not created", "no use"
	Repository Repository
	Thread     signing.Thread // Installation included
	Comment    string         // id
	Body       string         // of the comment; what counts is read again
	Sender     signing.Account
	// Commit is the head that the payload names, where it names one.
	Commit string
	// Button is the identifier of the pressed button, Check the id of its check run.
	Button string
	Check  string
}

// Checker tells what the configuration of a forge is lacking, by asking it:
// `sealwrightd config check --online`.
type Checker interface {
	CheckOnline(ctx context.Context) []Finding
}

// Finding is one thing that CheckOnline looked at.
type Finding struct {
	What string // "permission checks: write"
	OK   bool
	// Optional says that the service can do without it: what Needed names refuses then.
	Optional bool
	// Needed says what it is for, Fix how to get it.
	Needed, Found, Fix string
}

// Bounds that hold for every forge.
const (
	// MaxComment bounds the body of a comment that we write: GitHub takes 65,536
	// characters, GitLab more.
	MaxComment = 60_000
	// MaxSummary bounds each of the texts of a check run: GitHub takes 65,535.
	MaxSummary = 60_000
	// MaxDelivery bounds a webhook body: neither forge sends more than 25 MB.
	MaxDelivery = 25 << 20
)
