package view

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/signing"
)

// maxEffects bounds each list of requests that a change of a policy concerns.
const maxEffects = 20

// PolicyChange is what a change of a repository's own policy would mean for its
// recorded requests.
type PolicyChange struct {
	File string // where it is
	// Absent and New say that the file is not there after the change, or was not
	// before it.
	Absent, New bool
	// Problems say why the new text does not load, Unreadable why it could not be
	// read; where either is there nothing else is.
	Problems   []PolicyProblem
	Unreadable string
	// Unloaded says that what is on the default branch now does not load.
	Unloaded bool

	Looked, Days int // requests that were looked at, of so many days at most
	// Refused would be refused by the new text, Freed not any more, and of Approvals
	// people would be asked otherwise. Of Unknown nothing can be said.
	Refused, Freed, Approvals []PolicyEffect
	Unknown                   int
}

// PolicyProblem is one problem of a text that does not load.
type PolicyProblem struct {
	Line    int // 0 if it is not known
	Where   string
	Message string
}

// PolicyEffect is what a change means for one request.
type PolicyEffect struct {
	Request, Policy string
	Before, After   *signing.ApprovalRule // nil: nobody is asked
	Why             []signing.Reason      // rules that refuse
}

// Fails reports whether the change would refuse everything.
func (c PolicyChange) Fails() bool { return len(c.Problems) > 0 }

// Check returns the texts of the check run of a change of a repository's policy.
func (c PolicyChange) Check() CheckText {
	out := CheckText{Title: clipped(c.headline(), maxTitle-1)}
	for _, p := range c.Problems[:min(len(c.Problems), maxNotes)] {
		out.Notes = append(out.Notes, Note{Title: "policy.yml does not load", Message: orElse(strings.TrimSpace(clean(p.Where)+": "+clean(p.Message)), "no more is known"), Line: p.Line})
	}
	out.Summary = c.fitting(maxEffects)
	return out
}

func (c PolicyChange) headline() string {
	switch {
	case c.Unreadable != "":
		return "the policy of this commit cannot be read"
	case len(c.Problems) > 0:
		return "the policy does not load: once merged, it refuses every request"
	case len(c.Refused)+len(c.Freed)+len(c.Approvals) > 0:
		return fmt.Sprintf("of %s: %d newly refused, %d not refused any more, %d with other approvals", plural(c.Looked, "request", "requests"), len(c.Refused), len(c.Freed), len(c.Approvals))
	case c.Looked == 0:
		return "the policy loads; there are no recorded requests to try it on"
	case c.Unknown == c.Looked:
		return fmt.Sprintf("the policy loads; of none of %s can be told what would change", plural(c.Looked, "request", "requests"))
	}
	return fmt.Sprintf("nothing would change for %s", plural(c.Looked-c.Unknown, "recorded request", "recorded requests"))
}

// fitting returns the fullest text that fits.
func (c PolicyChange) fitting(most int) string {
	for ; most > 0; most /= 2 {
		if out := c.text(most); len(out) <= MaxComment {
			return out
		}
	}
	return "This is too long to be shown here.\n"
}

func (c PolicyChange) text(most int) string {
	var b strings.Builder
	switch {
	case c.Unreadable != "":
		fmt.Fprintf(&b, "%s could not be read at this commit: %s\n\nWhat it would change is not known.\n", code(c.File), escape(c.Unreadable))
		return b.String()
	case len(c.Problems) > 0:
		fmt.Fprintf(&b, "%s does not load. On the default branch it would refuse **every** request of this repository.\n\n", code(c.File))
		for _, p := range c.Problems[:min(len(c.Problems), 2*most)] {
			at := ""
			if p.Line > 0 {
				at = fmt.Sprintf("line %d: ", p.Line)
			}
			fmt.Fprintf(&b, "- %s%s\n", at, strings.TrimPrefix(code(p.Where)+": ", ": ")+escape(p.Message))
		}
		if n := len(c.Problems) - 2*most; n > 0 {
			fmt.Fprintf(&b, "- and %d more\n", n)
		}
		return b.String()
	}
	now := "is another one than on the default branch"
	switch {
	case c.Absent:
		now = "is not there at this commit, and is on the default branch"
	case c.New:
		now = "is not on the default branch yet"
	}
	fmt.Fprintf(&b, "%s %s. This is what it would mean there for the last requests of this repository: %d of at most %d days.\n", code(c.File), now, c.Looked, c.Days)
	if c.Unloaded {
		b.WriteString("\nThe one on the default branch does not load: it refuses every request now.\n")
	}
	c.list(&b, most, "newly refused", c.Refused)
	c.list(&b, most, "not refused by the repository any more: the service's policy decides alone", c.Freed)
	c.list(&b, most, "with other approvals", c.Approvals)
	if c.Unknown > 0 {
		fmt.Fprintf(&b, "\nOf %s it cannot be told: the new rules ask what was not asked then, or the registry does not answer for the images any more.\n", plural(c.Unknown, "request", "requests"))
	}
	b.WriteString("\nA repository's own policy can only narrow: what the service's policy refuses stays refused. If this pull request does not touch the file, its branch is behind.\n")
	return b.String()
}

// list writes the requests of one kind.
func (c PolicyChange) list(b *strings.Builder, most int, title string, all []PolicyEffect) {
	if len(all) == 0 {
		return
	}
	fmt.Fprintf(b, "\n#### %d %s\n\n", len(all), title)
	for _, e := range all[:min(len(all), most)] {
		fmt.Fprintf(b, "- request %s, policy %s\n", code(e.Request), name(e.Policy))
		for _, r := range e.Why[:min(len(e.Why), 3)] {
			fmt.Fprintf(b, "  - %s: wanted %s, found %s\n", code(r.Rule), code(orElse(r.Wanted, "-")), code(orElse(r.Found, "-")))
		}
		if n := len(e.Why) - 3; n > 0 {
			fmt.Fprintf(b, "  - and %s\n", plural(n, "more rule", "more rules"))
		}
		if len(e.Why) == 0 && (e.Before != nil || e.After != nil) {
			fmt.Fprintf(b, "  - then: %s\n  - now: %s\n", asks(e.After), asks(e.Before))
		}
	}
	if n := len(all) - most; n > 0 {
		fmt.Fprintf(b, "- and %d more\n", n)
	}
}

// asks says whom a rule asks.
func asks(r *signing.ApprovalRule) string {
	if r == nil {
		return "nobody is asked"
	}
	var groups []string
	for _, g := range r.Groups {
		var from []string
		for _, f := range g.From[:min(len(g.From), maxListed)] {
			from = append(from, name(f))
		}
		if n := len(g.From) - maxListed; n > 0 {
			from = append(from, fmt.Sprintf("%d more", n))
		}
		groups = append(groups, fmt.Sprintf("%d of %s", g.Required, strings.Join(from, " or ")))
	}
	slices.Sort(groups)
	out := strings.Join(groups, " and ")
	for _, w := range []struct {
		what  string
		words []string
	}{{"by", r.Ways}, {"without", r.Exclude}} {
		if len(w.words) > 0 {
			out += ", " + w.what + " " + code(strings.Join(w.words, ", "))
		}
	}
	if r.DenyEnds {
		out += ", one denial ends it"
	}
	if r.Supersede {
		out += ", a newer request replaces it"
	}
	return out + ", an approval counts for " + r.Expires.String()
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
