package policy

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// maxPattern bounds one pattern in bytes: the longest repository name has 255,
// the longest ref that git accepts on every file system about as many.
const maxPattern = 256

// regexPrefix marks a pattern as a regular expression instead of a glob. There
// is no form without a word, so that nobody writes one by mistake.
const regexPrefix = "regex:"

// pattern matches a whole text, never a part of it.
//
// A glob is literal text in which "*" stands for any text without "/", the
// empty text too, and "**" for any text. Other characters that are special in
// some glob dialects are refused, because they would mean something else to
// their reader.
type pattern struct {
	text string
	re   *regexp.Regexp // nil for literal text
}

func (p pattern) match(s string) bool {
	if p.re == nil {
		return s == p.text
	}
	return p.re.MatchString(s)
}

type patterns []pattern

// match reports whether one of the patterns matches s. A missing text matches
// nothing, not even "**".
func (ps patterns) match(s string) bool {
	if s == "" {
		return false
	}
	for _, p := range ps {
		if p.match(s) {
			return true
		}
	}
	return false
}

func (ps patterns) String() string {
	texts := make([]string, len(ps))
	for i, p := range ps {
		texts[i] = p.text
	}
	return oneOf(texts)
}

// compilePattern reads a glob or, with its prefix, a regular expression.
func compilePattern(text string) (pattern, error) {
	expr, isRegex := strings.CutPrefix(text, regexPrefix)
	if !isRegex {
		return compileGlob(text)
	}
	if len(text) > maxPattern {
		return pattern{}, fmt.Errorf("the pattern is longer than %d characters", maxPattern)
	}
	if expr == "" {
		return pattern{}, errors.New("the regular expression is empty")
	}
	// By itself first: "a)|(?:b" is none, but would leave the group below.
	if _, err := regexp.Compile(expr); err != nil {
		return pattern{}, fmt.Errorf("not a regular expression: %w", err)
	}
	re, err := regexp.Compile(`^(?:` + expr + `)$`)
	if err != nil {
		return pattern{}, fmt.Errorf("not a regular expression: %w", err)
	}
	return pattern{text: text, re: re}, nil
}

func compileGlob(text string) (pattern, error) {
	switch {
	case text == "":
		return pattern{}, errors.New("the pattern is empty")
	case len(text) > maxPattern:
		return pattern{}, fmt.Errorf("the pattern is longer than %d characters", maxPattern)
	case strings.ContainsAny(text, `?[]{}()\^$|!`):
		return pattern{}, fmt.Errorf("a pattern knows * and ** only, not ? [ ] { } ( ) \\ ^ $ | !; write %s for a regular expression", regexPrefix)
	case strings.Contains(text, "***"):
		return pattern{}, errors.New("*** means nothing: use * or **")
	case strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }):
		return pattern{}, errors.New("a pattern is ASCII text without spaces")
	case !strings.Contains(text, "*"):
		return pattern{text: text}, nil
	}
	var b strings.Builder
	b.WriteString(`^(?:`)
	for _, t := range tokens(text) {
		switch t {
		case star:
			b.WriteString(`[^/]*`)
		case doubleStar:
			b.WriteString(`(?s:.*)`)
		default:
			b.WriteString(regexp.QuoteMeta(string(rune(t))))
		}
	}
	b.WriteString(`)$`)
	re, err := regexp.Compile(b.String())
	if err != nil {
		return pattern{}, fmt.Errorf("not a pattern: %w", err)
	}
	return pattern{text: text, re: re}, nil
}

// A token is one ASCII character of a glob, or one of the two wildcards.
type token int

const (
	star       token = 0x100
	doubleStar token = 0x101
)

func tokens(glob string) []token {
	var out []token
	for i := 0; i < len(glob); i++ {
		switch {
		case strings.HasPrefix(glob[i:], "**"):
			out = append(out, doubleStar)
			i++
		case glob[i] == '*':
			out = append(out, star)
		default:
			out = append(out, token(glob[i]))
		}
	}
	return out
}

func (t token) wild() bool { return t >= star }

// takes reports whether a wildcard may stand for the literal character c.
func (t token) takes(c token) bool { return t == doubleStar || t == star && c != '/' }

// literal returns the text before a glob's first wildcard.
func literal(glob string) string {
	before, _, _ := strings.Cut(glob, "*")
	return before
}

// overlap reports whether there is a text that both globs match. It is exact.
func overlap(globA, globB string) bool {
	a, b := tokens(globA), tokens(globB)
	// above[j] and row[j] say whether a[:i-1] and a[:i] have a text in common
	// with b[:j]. A wildcard either stands for nothing, or for one more
	// character of the other side.
	above, row := make([]bool, len(b)+1), make([]bool, len(b)+1)
	for i := 0; i <= len(a); i++ {
		for j := 0; j <= len(b); j++ {
			up, left := i > 0 && above[j], j > 0 && row[j-1]
			switch {
			case i == 0 && j == 0:
				row[j] = true
			case i > 0 && j > 0 && !a[i-1].wild() && !b[j-1].wild():
				row[j] = a[i-1] == b[j-1] && above[j-1]
			case i > 0 && j > 0 && a[i-1].wild() && b[j-1].wild():
				row[j] = up || left
			case i > 0 && a[i-1].wild():
				row[j] = up || left && a[i-1].takes(b[j-1])
			case j > 0 && b[j-1].wild():
				row[j] = left || up && b[j-1].takes(a[i-1])
			default:
				row[j] = false
			}
		}
		above, row = row, above
	}
	return above[len(b)]
}

// contains reports whether every text that narrow matches is matched by wide. A
// yes is certain; for what cannot be told, as for different regular expressions,
// the answer is no.
func contains(wide, narrow string) bool {
	switch {
	case wide == narrow, wide == "**":
		return true
	case strings.HasPrefix(wide, regexPrefix), strings.HasPrefix(narrow, regexPrefix):
		return false
	}
	// wide is matched against narrow as if its wildcards were characters: what a
	// wildcard of wide takes, it takes whatever stands there.
	a, b := tokens(wide), tokens(narrow)
	above, row := make([]bool, len(b)+1), make([]bool, len(b)+1)
	for i := 0; i <= len(a); i++ {
		for j := 0; j <= len(b); j++ {
			switch {
			case i == 0:
				row[j] = j == 0
			case a[i-1] == doubleStar:
				row[j] = above[j] || j > 0 && row[j-1]
			case a[i-1] == star:
				row[j] = above[j] || j > 0 && row[j-1] && b[j-1] != '/' && b[j-1] != doubleStar
			default:
				row[j] = j > 0 && above[j-1] && a[i-1] == b[j-1]
			}
		}
		above, row = row, above
	}
	return above[len(b)]
}
