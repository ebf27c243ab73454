package view

import (
	"fmt"
	"strings"

	"github.com/sealwright/sealwright/internal/signing"
)

// Asked is everything that is shown of a Request where people are asked, and of
// what became of it.
type Asked struct {
	Request signing.Request
	Tasks   []signing.Task  // none before it is ready
	Images  []signing.Image // what the registry said of the artifacts, for platforms and bases; may be empty
	Round   int
	Code    string // of this round; needed while people decide only
	Tally   signing.Tally
	News    News
	// Mentions are those who can approve: in a new question, so that they hear of
	// it. They are empty when nobody is to be called.
	Mentions   []signing.Account
	Forge      *signing.ForgeFacts // may be nil
	Checkpoint string              // newest of the audit log, "" if there is none
	Superseded string              // id of the newer Request that replaced this one
}

// News is what is new since the last signed release of the images.
type News struct {
	Before       *signing.Request // the last that was completed; nil: this is the first
	BeforeImages []signing.Image  // what the registry said of its artifacts; may be empty
	Commits      int
	Subjects     []string // of the newest commits; strangers wrote them
	URL          string   // of the comparison
	Diverged     bool     // the commit before is no ancestor
	Unknown      string   // why the forge could not compare
}

// QuestionMarker is the first line of the comment that asks about a Request, by
// which it is found again.
func QuestionMarker(requestID string, round int) string {
	return fmt.Sprintf("<!-- sealwright question %s %d -->", requestID, round)
}

// ReminderMarker is the first line of the one reminder.
func ReminderMarker(requestID string) string {
	return fmt.Sprintf("<!-- sealwright reminder %s -->", requestID)
}

// QuestionTitle is the title of the issue that asks where there is no pull request.
func QuestionTitle(r signing.Request) string {
	return "Sealwright asks: sign " + plural(len(r.Artifacts), "image", "images") + " (" + r.ID + ")?"
}

// Question returns the Markdown of the comment that asks, or, once that is over,
// says what became of it.
func Question(q Asked) string {
	return QuestionMarker(q.Request.ID, q.Round) + "\n" + strings.TrimSpace(RequestMarkdown(q.Request, q.Tasks, q.Checkpoint))
}

// Reminder returns the Markdown of the comment that reminds once.
func Reminder(q Asked) string { return ReminderMarker(q.Request.ID) + "\nStill waiting." }
