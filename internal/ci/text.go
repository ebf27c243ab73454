package ci

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Clean makes a stranger's text safe to print on one line of a terminal or a
// job log: control characters, line breaks and the Unicode characters that
// reorder or hide text become spaces or '?'.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\r', r == '\t', r == '\u2028', r == '\u2029', r == '\u0085':
			return ' '
		case r == utf8.RuneError, unicode.IsControl(r), unicode.Is(unicode.Cf, r):
			return '?'
		}
		return r
	}, s)
}

// cleanLines is Clean for text of several lines.
func cleanLines(s string) string {
	lines := strings.Split(strings.ReplaceAll(s, "\r\n", "\n"), "\n")
	for i, l := range lines {
		lines[i] = Clean(l)
	}
	return strings.Join(lines, "\n")
}

// guardLine changes a line that a GitHub runner would take for a command. The
// runner splits lines at \r as well as \n, takes "::" after any leading space,
// and "##[" anywhere, Azure's agent "##vso[" too. GitLab's section markers need \r and ESC[0K.
func guardLine(line string) string {
	body, end := line, ""
	if strings.HasSuffix(line, "\n") {
		body, end = line[:len(line)-1], "\n"
	}
	parts := strings.Split(body, "\r")
	for i, p := range parts {
		if rest := strings.TrimLeftFunc(p, isSpaceOrInvisible); strings.HasPrefix(rest, "::") {
			p = p[:len(p)-len(rest)] + ":\u200b" + rest[1:]
		}
		parts[i] = p
	}
	return breakMarkers(strings.Join(parts, "\r")) + end
}

// breakMarkers breaks what is a command wherever it stands in a line.
func breakMarkers(s string) string {
	return strings.NewReplacer("##[", "##\u200b[", "##vso[", "##\u200bvso[", "section_start:", "section_start\u200b:", "section_end:", "section_end\u200b:").Replace(s)
}

// isSpaceOrInvisible is wider than the runner's notion of space, to be on the
// safe side of a change there.
func isSpaceOrInvisible(r rune) bool {
	return unicode.IsSpace(r) || unicode.IsControl(r) || unicode.Is(unicode.Cf, r)
}

// truncateMarkdown cuts text to most bytes at a line break and says so.
func truncateMarkdown(s string, most int) string {
	const note = "\n\n*(cut: the rest did not fit into the job summary)*\n"
	if len(s) <= most {
		return s
	}
	if most <= len(note) {
		return ""
	}
	s = s[:most-len(note)]
	if i := strings.LastIndexByte(s, '\n'); i > 0 {
		s = s[:i]
	}
	// Inside a code fence the note would not be seen as one.
	if strings.Count(s, "\n```")%2 == 1 && len(s)+4+len(note) <= most {
		s += "\n```"
	}
	return strings.ToValidUTF8(s, "") + note
}
