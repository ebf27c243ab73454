// Package config reads what operators write: one strict YAML document per file
// into a struct of the package that owns it.
//
// Strict means that nothing is ignored or guessed. An unknown or repeated key,
// a value of another type than the field's, an empty value, an alias, a tag, a
// second document: each is a problem with file, line and path, and all of them
// are reported at once. A secret is never in the file, only a reference to it.
//
// What a value means is checked by its owner, which reports in the same form:
// Document.Problem finds the line of a path.
package config

import (
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing that is wrong in a file. Path names the value as in
// "policies.release.origin.refs[1]"; it is empty for the file as a whole. Line
// counts from 1 and is 0 where no line is known.
type Problem struct {
	File    string
	Line    int
	Path    string
	Message string
}

// String returns "file:line: path: message" without the parts that are not known.
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d", p.Line)
		}
		b.WriteString(": ")
	}
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// Problems is everything that is wrong. It is an error if it is not empty.
type Problems []Problem

// Error returns one line for each problem.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Err returns ps as an error, sorted by file and line, and nil if there is no problem.
func (ps Problems) Err() error {
	if len(ps) == 0 {
		return nil
	}
	sorted := slices.Clone(ps)
	slices.SortStableFunc(sorted, func(a, b Problem) int {
		if c := strings.Compare(a.File, b.File); c != 0 {
			return c
		}
		return a.Line - b.Line
	})
	return sorted
}

// Add appends a problem that has no position yet; Document.Place gives it one.
func (ps *Problems) Add(path, format string, args ...any) {
	*ps = append(*ps, Problem{Path: path, Message: fmt.Sprintf(format, args...)})
}

// Key returns the path of a key below path: "a.b", or `a["b.c"]` for a key that
// would be read as a path itself.
func Key(path, key string) string {
	if key == "" || strings.ContainsAny(key, ".[]\"\\ \t\r\n") || strings.ToValidUTF8(key, "") != key {
		return fmt.Sprintf("%s[%q]", path, clip(key))
	}
	if path == "" {
		return clip(key)
	}
	return path + "." + clip(key)
}

// Index returns the path of the i-th element of the list at path, from 0.
func Index(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// clip shortens text before it is quoted in a message.
func clip(s string) string {
	const most = 80
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}
