package github

import (
	"slices"
	"strings"
)

// maxPattern bounds a pattern and a name: matching takes time by their product.
const maxPattern = 1_000

// matches reports whether a ruleset's conditions hold for a whole ref. Where a
// pattern can be read in two ways, a ref counts as excluded in either and as
// included in the narrow one only: a doubt is no protection.
func matches(include, exclude []string, ref string) bool {
	in := slices.ContainsFunc(include, func(p string) bool { return p == "~ALL" || fnmatch(p, ref, false) })
	out := slices.ContainsFunc(exclude, func(p string) bool {
		return p == "~ALL" || fnmatch(p, ref, false) || fnmatch(p, ref, true) || len(p) > maxPattern
	})
	return in && !out
}

// fnmatch matches as Ruby's File.fnmatch with FNM_PATHNAME, which GitHub uses:
// "*", "?" and sets do not cross a slash, "**/" crosses any number of them, and a
// backslash takes the special meaning away. A dot that begins a segment is matched
// by itself only, unless dots.
func fnmatch(pattern, name string, dots bool) bool {
	if len(pattern) > maxPattern || len(name) > maxPattern {
		return false
	}
	return segments(strings.Split(pattern, "/"), strings.Split(name, "/"), dots)
}

func segments(pattern, name []string, dots bool) bool {
	// ok[i] says that pattern up to here matches name[:i].
	ok := make([]bool, len(name)+1)
	ok[0] = true
	for n, p := range pattern {
		next := make([]bool, len(name)+1)
		deep := p == "**" && n < len(pattern)-1
		for i := range next {
			switch {
			case deep:
				// As many whole segments as there are, none among them.
				next[i] = ok[i] || i > 0 && next[i-1] && (dots || !strings.HasPrefix(name[i-1], "."))
			case i > 0:
				next[i] = ok[i-1] && segment(p, name[i-1], dots)
			}
		}
		ok = next
	}
	return ok[len(name)]
}

// segment matches without slashes, in time of the product of the lengths.
func segment(pattern, name string, dots bool) bool {
	p, s := []rune(pattern), []rune(name)
	if strings.HasPrefix(name, ".") && !dots && (len(p) == 0 || strings.ContainsRune("*?[", p[0])) {
		return false
	}
	ok := make([]bool, len(s)+1) // ok[i]: the pattern so far matches s[:i]
	ok[0] = true
	for len(p) > 0 {
		one, rest := next(p)
		p = rest
		now := make([]bool, len(s)+1)
		for i := range now {
			switch {
			case one == nil: // any number of characters
				now[i] = ok[i] || i > 0 && now[i-1]
			case i > 0:
				now[i] = ok[i-1] && one(s[i-1])
			}
		}
		ok = now
	}
	return ok[len(s)]
}

// next returns what the first element of p matches, nil for a star, and what is
// after it.
func next(p []rune) (one func(rune) bool, rest []rune) {
	literal := func(c rune) func(rune) bool { return func(b rune) bool { return b == c } }
	switch {
	case p[0] == '*':
		return nil, p[1:]
	case p[0] == '?':
		return func(rune) bool { return true }, p[1:]
	case p[0] == '\\' && len(p) > 1:
		return literal(p[1]), p[2:]
	case p[0] == '[':
		if set, rest, ok := bracket(p[1:]); ok {
			return set, rest
		}
		return func(rune) bool { return false }, p[1:] // Ruby matches nothing
	}
	return literal(p[0]), p[1:]
}

// bracket reads a set behind its "[".
func bracket(p []rune) (set func(rune) bool, rest []rune, ok bool) {
	negated := len(p) > 0 && (p[0] == '!' || p[0] == '^')
	if negated {
		p = p[1:]
	}
	var ranges [][2]rune
	char := func() (rune, bool) {
		if len(p) > 1 && p[0] == '\\' {
			p = p[1:]
		}
		if len(p) == 0 {
			return 0, false
		}
		c := p[0]
		p = p[1:]
		return c, true
	}
	for len(p) > 0 && p[0] != ']' {
		lo, good := char()
		hi := lo
		if good && len(p) > 1 && p[0] == '-' && p[1] != ']' {
			p = p[1:]
			hi, good = char()
		}
		if !good {
			return nil, nil, false
		}
		ranges = append(ranges, [2]rune{lo, hi})
	}
	if len(p) == 0 {
		return nil, nil, false
	}
	return func(c rune) bool {
		in := slices.ContainsFunc(ranges, func(r [2]rune) bool { return r[0] <= c && c <= r[1] })
		return in != negated
	}, p[1:], true
}
