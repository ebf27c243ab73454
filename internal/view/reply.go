package view

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sealwright/sealwright/internal/signing"
)

// replyMarker begins what we answer with: it is ours, and no question.
const replyMarker = "<!-- sealwright reply -->\n"

// maxStatus bounds the Requests of one answer.
const maxStatus = 20

// Refusal returns the Markdown of the answer to a command that was not followed.
// What is no *signing.Error is answered without detail.
func Refusal(err error) string {
	e := signing.Public(err)
	var b strings.Builder
	b.WriteString(replyMarker)
	fmt.Fprintf(&b, "Sorry, that was not done: %s.\n", strings.TrimSuffix(escape(clipped(e.Message, 4*maxName)), "."))
	for _, l := range []struct{ name, text string }{
		{"expected", words(e.Expected)}, {"found", code(clipped(e.Found, 4*maxName))}, {"what helps", words(e.Fix)},
	} {
		if l.text != "" {
			fmt.Fprintf(&b, "\n- %s: %s", l.name, l.text)
		}
	}
	if errors.Is(err, signing.Unavailable) || errors.Is(err, signing.RateLimited) {
		b.WriteString("\n\nNothing is lost: write the command again in some minutes.")
	}
	return strings.TrimSpace(b.String())
}

// words is a sentence of the service's own, whose code spans are kept.
func words(s string) string {
	parts := strings.Split(clipped(s, 6*maxName), "`")
	if len(parts)%2 == 0 {
		return escape(strings.Join(parts, "'"))
	}
	for i, p := range parts {
		if i%2 == 1 {
			parts[i] = code(p)
			continue
		}
		parts[i] = escape(p)
		if p != strings.TrimLeft(p, " ") && i > 0 {
			parts[i] = " " + parts[i]
		}
		if p != strings.TrimRight(p, " ") && i < len(parts)-1 {
			parts[i] += " "
		}
	}
	return strings.Join(parts, "")
}

// Help returns the Markdown of the answer to `/sealwright help`.
func Help() string {
	return replyMarker + `**What I understand**, each alone on a line of a new comment:

- ` + "`/sealwright approve REQUEST CODE`" + `
- ` + "`/sealwright deny REQUEST CODE`" + `, a reason may follow
- ` + "`/sealwright status`" + `: what waits here
- ` + "`/sealwright help`" + `: this

Request and code stand in the question, ready to be copied. The code belongs to exactly what is shown there: another build, another code.

Edited comments, quotes, code blocks and programs do not count. Who wrote, pushed or started a build cannot approve it, but may deny it.`
}

// StatusReply returns the Markdown of the answer to `/sealwright status`: the
// Requests that wait in a thread.
func StatusReply(waiting []Asked) string {
	if len(waiting) == 0 {
		return replyMarker + "Nothing waits for approval here."
	}
	var b strings.Builder
	b.WriteString(replyMarker)
	shown := 0
	for _, q := range waiting[:min(len(waiting), maxStatus)] {
		r := q.Request
		var one strings.Builder
		fmt.Fprintf(&one, "**%s**, %s: %s, until %s\n\n", code(r.ID), name(r.Project+"/"+r.Policy), headline(q), minute(r.Deadline))
		q.Mentions = nil
		quorum(&one, q, limits{people: maxListed})
		if b.Len()+one.Len() > MaxComment-100 {
			break
		}
		b.WriteString(one.String() + "\n")
		shown++
	}
	if n := len(waiting) - shown; n > 0 {
		fmt.Fprintf(&b, "and %d more.\n", n)
	}
	return strings.TrimSpace(b.String())
}
