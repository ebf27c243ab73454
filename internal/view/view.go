// Package view shows a Decision and a Request to people: as text in terminals
// and logs, as Markdown in job summaries and comments, in the same words
// everywhere.
//
// Names of branches, files and images are text of strangers. In text they have
// no control characters and cannot start a command of a CI's log; in Markdown
// they are code or escaped, so that they are neither markup nor HTML, mention
// nobody and link nowhere.
package view

import (
	"strings"
	"unicode"

	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxText bounds one piece of text in bytes: reasons are bounded where they
	// are made, but a client shows what a server sent.
	maxText = 1024
	// maxDepth and maxReasons bound a tree for the same cause.
	maxDepth   = 16
	maxReasons = 2000
)

// clean makes text one line without control characters, and without characters
// that change the direction in which the rest is read.
func clean(s string) string {
	if len(s) > maxText {
		s = s[:maxText] + "..."
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\r' || r == '\t':
			return ' '
		case unprintable(r):
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return strings.TrimSpace(s)
}

// unprintable reports whether r is shown as nothing, or changes how others are:
// controls, what joins or turns text around, fillers.
func unprintable(r rune) bool {
	if r >= ' ' && r < 0x7f {
		return false // most text, and the tables below are slow
	}
	return r < 0xa0 || // C0, DEL, C1
		unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector) ||
		r == '\u2800' // an empty Braille cell
}

// count returns how many rules a tree has: its leaves.
func count(r signing.Reason) int {
	if len(r.Children) == 0 {
		return 1
	}
	n := 0
	for _, c := range r.Children {
		n += count(c)
	}
	return n
}
