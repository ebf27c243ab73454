package signing

import (
	"slices"
	"strings"
	"time"
)

// Account is a person, or a program, as one forge knows it. The forge's id is
// what is compared: logins can be renamed and taken over.
type Account struct {
	Forge string `json:"forge"` // host, "github.com"
	ID    string `json:"id"`    // the forge's number for it
	Login string `json:"login,omitempty"`
	// Bot says that a program acts: a GitHub App, a bot or service account.
	Bot bool `json:"bot,omitempty"`
}

// Key returns FORGE:ID, which names the account for good.
func (a Account) Key() string { return a.Forge + ":" + a.ID }

// Known reports whether the forge maps to an account at all.
func (a Account) Known() bool { return a.Forge != "" && a.ID != "" }

// The ways in which a person may approve or deny. Only the first is on unless
// the policy names others.
const (
	ViaComment    = "comment"     // a new comment in the thread of the Request
	ViaCheckRun   = "check_run"   // a button of the check run (GitHub)
	ViaReview     = "review"      // a review whose body carries the command
	ViaAPI        = "api"         // the API, with a token of role people
	ViaBreakGlass = "break_glass" // two people and a ticket, with an immediate alarm
)

// ApprovalRule is what a policy demands of people before a key is used.
type ApprovalRule struct {
	Groups []ApprovalGroup `json:"groups"` // every one must have its quorum; at least one
	// Exclude names who may not approve: see the Exclude constants.
	Exclude []string      `json:"exclude,omitempty"`
	Expires time.Duration `json:"expires"` // of one Approval, from when it was given
	// Supersede says that a newer Request of the same ref replaces a waiting one.
	Supersede bool `json:"supersede,omitempty"`
	// DenyEnds says that one deny ends the Request. Else it only withdraws the
	// approval of who denies.
	DenyEnds bool `json:"denyEnds"`
	// Ways are those that count, sorted; ViaComment is one unless it was left out.
	Ways []string `json:"ways"`
}

// ApprovalGroup is a quorum of one set of people.
type ApprovalGroup struct {
	Required int `json:"required"`
	// From lists groups and persons: FORGE:ORG/TEAM and FORGE:GROUP/SUBGROUP for
	// a team or group, FORGE:@LOGIN#ID for one account, FORGE:permission=write (or
	// maintain, admin) for everybody with that permission on the repository.
	From []string `json:"from"`
}

// Who a policy may exclude from approving; all three by default.
const (
	ExcludeAuthor = "author" // openers, authors, committers and co-authors of every pull request that holds the commit
	ExcludeActor  = "actor"  // who started the run, and who started it again
	ExcludePusher = "pusher" // who pushed to those pull requests, or the commit to its branch
)

// Allows reports whether the rule counts approvals of a way.
func (r ApprovalRule) Allows(way string) bool { return slices.Contains(r.Ways, way) }

// What Exclusion.Why begins with, or holds after "; ", for parts that are shown to
// people on their own.
const (
	WhyWrote     = "wrote commit " // the build's own commit
	WhyStarted   = "started the run"
	WhyRestarted = "started the run again"
)

// Exclusion is somebody who may not approve a Request, and why.
type Exclusion struct {
	Account Account `json:"account"`
	// Unmapped is how the commit names an author whom the forge does not map to an
	// account: Account is empty then, and one more approval is needed.
	Unmapped string `json:"unmapped,omitempty"`
	Why      string `json:"why"` // "wrote commit 1f0c...", "started the run"
}

// Approval is a person's consent to one basis.
type Approval struct {
	By Account `json:"by"` // zero for a person who has no account on a forge
	// Person names who it is across forges and the identity provider: the name in
	// the configured mapping, else Account.Key or ISSUER#SUBJECT. People are
	// counted by it, each once.
	Person      string    `json:"person"`
	Via         string    `json:"via"`
	At          time.Time `json:"at"`
	BasisDigest Digest    `json:"basisDigest"`
	Ref         string    `json:"ref,omitempty"` // id of the comment, review or delivery
	URL         string    `json:"url,omitempty"`
	// Groups holds the indexes of the rule's groups that the person was in when
	// the approval was given. It is asked again before the key is used.
	Groups []int  `json:"groups,omitempty"`
	Ticket string `json:"ticket,omitempty"` // ViaBreakGlass only
	// Deny says that this is a no. Reason is text of a stranger: it is shown
	// escaped, and never in the audit log.
	Deny   bool   `json:"deny,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// Thread is where a Request asked for approval: a pull request, merge request or
// issue of the Request's own repository. Commands count there only.
type Thread struct {
	Forge        string `json:"forge"`
	Installation string `json:"installation,omitempty"` // GitHub App installation id
	RepositoryID string `json:"repositoryID"`
	Repository   string `json:"repository"` // OWNER/NAME when it was found; for people and for URLs
	Kind         string `json:"kind"`       // a Thread constant
	Number       string `json:"number"`     // of the pull request or issue; iid on GitLab
	URL          string `json:"url,omitempty"`
	// Opened says that the service opened the issue, and closes it.
	Opened bool `json:"opened,omitempty"`
}

// The kinds of a Thread.
const (
	ThreadPull  = "pull" // pull request or merge request
	ThreadIssue = "issue"
)

// Same reports whether two name the same place: numbers and ids, not names.
func (t Thread) Same(o Thread) bool {
	return t.Forge == o.Forge && t.RepositoryID == o.RepositoryID && t.Kind == o.Kind && t.Number == o.Number && strings.TrimSpace(t.Number) != ""
}

// Asking is the question to people of one Request. It is part of the Request's
// sealed row: the thread it asked in is state.
type Asking struct {
	Thread Thread `json:"thread"`
	// Round counts the codes that were given out: a new one voids those before.
	// It grows when somebody else edited the comment.
	Round int `json:"round"`
	// Comment is the id of the service's own comment, Body the digest of what it
	// wrote there last: a difference means that somebody else edited it.
	Comment string `json:"comment,omitempty"`
	URL     string `json:"url,omitempty"` // of that comment; for people
	Body    Digest `json:"body,omitempty"`
	// Writing is the digest of what is being written there, from before it is sent
	// until it is known to have arrived: such a comment is the service's own as well.
	Writing Digest    `json:"writing,omitempty"`
	Asked   time.Time `json:"asked,omitzero"`
	// Reminded is when people were reminded, once; zero before.
	Reminded time.Time `json:"reminded,omitzero"`
	// Seen is up to where the comments of the thread were read by the poll that
	// finds those whose delivery never came: when the last one was made, and its id.
	Seen   time.Time `json:"seen,omitzero"`
	SeenID string    `json:"seenID,omitempty"`
	// Nth says that this is the n-th request of its run, from 1.
	Nth int `json:"nth,omitempty"`
	// Subject is the first line of the commit, where the forge was asked for it. A
	// stranger wrote it: it is shown, and decides nothing.
	Subject string `json:"subject,omitempty"`
}
