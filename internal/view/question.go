package view

import (
	"fmt"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// MaxComment bounds a comment, and each text of a check run, in bytes: the
// smallest of what forges take (forge.MaxComment), which count characters.
const MaxComment = 60_000

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

// ReportMarker is the first line of the comment that reports on the Requests of
// one policy where nobody is asked: a later Request edits that of an earlier one.
func ReportMarker(project, policy string) string {
	return fmt.Sprintf("<!-- sealwright report %s/%s -->", word(project), word(policy))
}

// QuestionTitle is the title of the issue that asks where there is no pull request.
func QuestionTitle(r signing.Request) string {
	return "Sealwright asks: " + asksFor(r) + " (" + r.ID + ")?"
}

// Question returns the Markdown of the comment that asks, or, once that is over,
// says what became of it: at most MaxComment bytes, without a line feed at the end.
func Question(q Asked) string {
	return bounded(QuestionMarker(q.Request.ID, q.Round), func(room limits) string { return body(q, room, true) })
}

// Report returns the Markdown of the comment that tells what became of a Request
// about which nobody was asked.
func Report(q Asked) string {
	q.Mentions = nil
	return bounded(ReportMarker(q.Request.Project, q.Request.Policy), func(room limits) string { return body(q, room, true) })
}

// Reminder returns the Markdown of the one comment that reminds people.
func Reminder(q Asked) string {
	r := q.Request
	var b strings.Builder
	b.WriteString(ReminderMarker(r.ID) + "\n")
	fmt.Fprintf(&b, "### Still to be decided: %s\n\n", code(r.ID))
	if m := mentions(r.Origin.Forge, q.Mentions); m != "" {
		b.WriteString(m + "\n\n")
	}
	fmt.Fprintf(&b, "%s under %s waits for people, until **%s**.\n", joined("Signing "+plural(len(r.Artifacts), "image", "images"), "Untrusting "+plural(len(r.Untrust), "tag", "tags"), r), name(r.Project+"/"+r.Policy), minute(r.Deadline))
	if a := r.Asking; a != nil && a.Comment != "" {
		b.WriteString("The question above says what is to be signed and from where.\n")
	}
	commands(&b, q)
	return strings.TrimSpace(b.String())
}

// limits is how much of what can be long is shown.
type limits struct {
	images   int // in full
	folded   int // further ones, one line each
	reasons  int // of the tree of checks; 0 leaves it away
	people   int // in each list
	subjects int
	log      bool // the checkpoint
	verify   bool // commands that verify
}

// bounded returns the fullest text that fits.
func bounded(marker string, render func(limits) string) string {
	if marker != "" {
		marker += "\n"
	}
	for _, room := range []limits{
		{images: 10, folded: 200, reasons: 400, people: 20, subjects: 5, log: true, verify: true},
		{images: 10, folded: 60, reasons: 100, people: 20, subjects: 5, log: true, verify: true},
		{images: 5, folded: 20, reasons: 0, people: 10, subjects: 3, log: true},
		{images: 3, people: 3, subjects: 1},
	} {
		if out := marker + strings.TrimSpace(render(room)); len(out) <= MaxComment {
			return out
		}
	}
	return marker + "This is too long to be shown here: see the request in Sealwright."
}

// body is the question or the outcome. whole is with what is folded away.
func body(q Asked, room limits, whole bool) string {
	var b strings.Builder
	if q.Request.State == signing.AwaitingApproval && q.Superseded == "" {
		question(&b, q, room)
	} else {
		outcome(&b, q, room)
	}
	if whole {
		folded(&b, q, room)
	}
	return b.String()
}

// question shows, in this order, what a person needs to decide.
func question(b *strings.Builder, q Asked, room limits) {
	r := q.Request
	what := asksFor(r)
	fmt.Fprintf(b, "### 🖋️ %s?\n\n", strings.ToUpper(what[:1])+what[1:])
	fmt.Fprintf(b, "Policy %s, request %s\n", name(r.Project+"/"+r.Policy), code(r.ID))
	b.WriteString("\n#### To be signed\n\n")
	signed(b, q, room)
	b.WriteString("\n#### Your answer\n\nPaste one of these as a new comment:\n")
	commands(b, q)
	b.WriteString("\n#### From where\n\n")
	from(b, q, room)
	b.WriteString("\n#### New since the last signed release\n\n")
	news(b, q, room)
	b.WriteString("\n#### Who decides\n\n")
	quorum(b, q, room)
	excluded(b, q, room)
	b.WriteString("\n#### Until when\n\n")
	fmt.Fprintf(b, "**%s**", minute(r.Deadline))
	if rule := rule(r); rule.Expires > 0 {
		fmt.Fprintf(b, "; an approval counts for %s", span(rule.Expires))
	}
	b.WriteString(".\n")
}

// commands are in blocks of their own, so that each is copied alone.
func commands(b *strings.Builder, q Asked) {
	for _, verb := range []string{"approve", "deny"} {
		b.WriteString("\n" + fence("/sealwright "+verb+" "+q.Request.ID+" "+q.Code, ""))
	}
	b.WriteString("\nA reason may follow a denial.\n")
}

// folded is what only some want to see.
func folded(b *strings.Builder, q Asked, room limits) {
	if d := q.Request.Decision; d != nil && d.Reasons.Rule != "" && room.reasons > 0 {
		failed := len(d.Reasons.Failures())
		summary := plural(count(d.Reasons), "check", "checks")
		switch {
		case d.Reasons.Pass:
			summary += ", all passed"
		default:
			summary += fmt.Sprintf(", %d failed", failed)
		}
		fmt.Fprintf(b, "\n<details><summary>%s</summary>\n\n", summary)
		tree(b, d.Reasons, room.reasons)
		b.WriteString("\n</details>\n")
	}
	if q.Checkpoint != "" && room.log {
		b.WriteString("\n<details><summary>Newest checkpoint of the audit log</summary>\n\nKeep it: a log that is rewritten contradicts it.\n\n")
		b.WriteString(fence(q.Checkpoint, ""))
		b.WriteString("\n</details>\n")
	}
}

// tree lists at most `most` reasons.
func tree(b *strings.Builder, r signing.Reason, most int) {
	left := most
	list(b, r, 0, &left)
	if left < 0 {
		b.WriteString("\nThere are more; the check run and `sealwright why` have them all.\n")
	}
}

func rule(r signing.Request) signing.ApprovalRule {
	if r.Decision == nil || r.Decision.Approvals == nil {
		return signing.ApprovalRule{}
	}
	return *r.Decision.Approvals
}

// minute is a point in time for people.
func minute(t time.Time) string {
	if t.IsZero() {
		return "no set time"
	}
	return t.UTC().Format("2006-01-02 15:04 UTC")
}

// span is a length of time for people.
func span(d time.Duration) string {
	switch {
	case d >= 48*time.Hour && d%(24*time.Hour) == 0:
		return plural(int(d/(24*time.Hour)), "day", "days")
	case d >= time.Hour && d%time.Hour == 0:
		return plural(int(d/time.Hour), "hour", "hours")
	default:
		return plural(int(d/time.Minute), "minute", "minutes")
	}
}
