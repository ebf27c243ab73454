package view

import (
	"fmt"
	"strings"

	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxTitle bounds the title of a check and the line of a status: GitHub shows
	// 140 characters of the latter.
	maxTitle = 140
	// maxNotes bounds the annotations of a check: GitHub takes 50 at once, and
	// nobody reads more than some.
	maxNotes = 10
)

// CheckText is what a check run says. Only the service can write there: it is the
// authoritative text of a question.
type CheckText struct {
	Title   string // plain text
	Summary string // Markdown, at most MaxComment bytes
	Text    string // Markdown, at most MaxComment bytes
	Notes   []Note
}

// Note is an annotation: plain text, at a line of a file where one is named.
type Note struct {
	Title, Message string
	Line           int
}

// Check returns the texts of the check run of a Request: the question or the
// outcome, then the whole tree of reasons.
func Check(q Asked) CheckText {
	q.Mentions = nil // the comment calls people
	out := CheckText{Title: StatusLine(q), Summary: bounded("", func(room limits) string { return body(q, room, false) })}
	q.Request.Asking = nil
	out.Text = bounded("", func(room limits) string {
		var b strings.Builder
		if d := q.Request.Decision; d != nil {
			fmt.Fprintf(&b, "#### Checks\n\n")
			tree(&b, d.Reasons, max(room.reasons, 10))
			for _, s := range d.Shadow[:min(len(d.Shadow), maxListed)] {
				fmt.Fprintf(&b, "\n<details><summary>in log mode, %s would say: %s</summary>\n\n", word(s.Policy), strings.ReplaceAll(word(string(s.Effect)), "_", " "))
				tree(&b, s.Reasons, room.reasons/4)
				b.WriteString("\n</details>\n")
			}
			fmt.Fprintf(&b, "\nBasis: %s\n", code(string(d.BasisDigest)))
		}
		if q.Checkpoint != "" && room.log {
			b.WriteString("\n#### Newest checkpoint of the audit log\n\n" + fence(q.Checkpoint, ""))
		}
		return b.String()
	})
	out.Notes = notes(q.Request)
	return out
}

// StatusLine returns where a Request stands as one plain line of at most 140
// characters, without text of strangers.
func StatusLine(q Asked) string { return clipped(headline(q), maxTitle-1) }

// notes says why a Request was refused, one for each rule that failed, or why it
// failed.
func notes(r signing.Request) []Note {
	var out []Note
	add := func(reason signing.Reason) {
		var b strings.Builder
		for _, l := range []struct{ name, text string }{{"wanted", reason.Wanted}, {"found", reason.Found}, {"how to fix", reason.Fix}} {
			if l.text != "" {
				fmt.Fprintf(&b, "%s: %s\n", l.name, clean(l.text))
			}
		}
		message := strings.TrimSpace(b.String())
		if message == "" {
			message = "no more is known"
		}
		out = append(out, Note{Title: clipped(reason.Rule, maxTitle), Message: message})
	}
	d := r.Decision
	if d == nil || d.Effect != signing.Deny {
		if f := r.Failure; f != nil {
			add(signing.Reason{Rule: f.Message, Wanted: f.Expected, Found: f.Found, Fix: f.Fix})
		}
		return out
	}
	failed := d.Reasons.Failures()
	for _, f := range failed[:min(len(failed), maxNotes)] {
		add(f)
	}
	return out
}
