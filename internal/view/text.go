package view

import (
	"fmt"
	"io"
	"strings"

	"github.com/sealwright/sealwright/internal/signing"
)

const (
	green = "\x1b[32m"
	red   = "\x1b[1;31m"
	faint = "\x1b[2m"
	reset = "\x1b[0m"
)

// Text writes the tree of reasons. A rule that failed says what was wanted,
// what was found and how to fix it; beside failures, groups of rules that
// passed are one line. Without colour it is plain ASCII but for what the
// reasons say. Errors of w are not reported: this is for people to read.
func Text(w io.Writer, d signing.Reason, colour bool) {
	t := printer{colour: colour, whole: d.Pass}
	t.reason(d, 0)
	_, _ = io.WriteString(w, t.String())
}

type printer struct {
	strings.Builder
	colour bool
	whole  bool // every rule of a tree that passes
	lines  int
}

func (t *printer) reason(r signing.Reason, depth int) {
	if t.lines++; t.lines > maxReasons || depth > maxDepth {
		if t.lines == maxReasons+1 || depth > maxDepth {
			t.WriteString(strings.Repeat("  ", min(depth, maxDepth)) + "...\n")
		}
		return
	}
	indent := strings.Repeat("  ", depth)
	leaf := len(r.Children) == 0
	t.WriteString(indent + t.mark(r.Pass) + " " + t.line(r.Rule))
	switch {
	case r.Pass && leaf && r.Found != "":
		t.WriteString(t.paint(faint, ": "+t.line(r.Found)))
	case r.Pass && !leaf && !t.whole:
		t.WriteString(t.paint(faint, fmt.Sprintf(" (%d met)", count(r))))
	}
	t.WriteString("\n")
	if !r.Pass {
		for _, part := range []struct{ name, text string }{{"wanted", r.Wanted}, {"found", r.Found}, {"fix", r.Fix}} {
			if part.text != "" {
				t.WriteString(indent + "     " + t.paint(faint, fmt.Sprintf("%-7s", part.name+":")) + " " + t.line(part.text) + "\n")
			}
		}
	}
	if r.Pass && !t.whole {
		return
	}
	for _, c := range r.Children {
		t.reason(c, depth+1)
	}
}

func (t *printer) mark(pass bool) string {
	switch {
	case pass && t.colour:
		return t.paint(green, "✔   ")
	case t.colour:
		return t.paint(red, "✘   ")
	case pass:
		return "ok  "
	default:
		return "FAIL"
	}
}

func (t *printer) paint(code, s string) string {
	if !t.colour {
		return s
	}
	return code + s + reset
}

// line is clean text that no CI takes for a command: GitHub and Azure look for
// "##[" and "##vso[" anywhere in a line, and for "::" at its start.
func (t *printer) line(s string) string {
	s = clean(s)
	for range 2 { // the first leaves runs of at most two
		s = strings.ReplaceAll(s, "##", "# #")
	}
	if strings.HasPrefix(s, "::") {
		s = " " + s
	}
	return s
}
