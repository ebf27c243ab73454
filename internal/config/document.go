package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

const (
	// MaxDocument bounds one file in bytes. A policy with 1,200 repositories
	// takes some 200 KiB.
	MaxDocument = 1 << 20
	// MaxNodes bounds the keys and values of one file: 1 MiB can hold half a
	// million of them, and each costs some hundred bytes once parsed. 1,200
	// repositories take 15,000.
	MaxNodes = 100_000
	// MaxDepth bounds nesting; the deepest of our own forms has eight levels.
	MaxDepth = 32
	// MaxProblems bounds what is reported: beyond it the file is of another
	// kind, not mistyped.
	MaxProblems = 100
)

// Document is one parsed file. It remembers the line of every value.
type Document struct {
	file  string
	root  *yaml.Node
	lines map[string]int
	// found is wrong whatever v the document is decoded into.
	found Problems
}

// Parse reads one YAML document. The error is Problems if the file is none: bad
// syntax, too large, empty, not UTF-8, more than one document. Everything else
// (anchors, aliases, tags, repeated keys, wrong types) is reported by Decode,
// all at once.
func Parse(file string, data []byte) (*Document, error) {
	d := &Document{file: file, lines: map[string]int{}}
	if len(data) > MaxDocument {
		return nil, Problems{{File: file, Message: fmt.Sprintf("the file has %d bytes; at most %d are read", len(data), MaxDocument)}}
	}
	if i := invalidUTF8(data); i >= 0 {
		return nil, Problems{{File: file, Line: 1 + bytes.Count(data[:i], []byte("\n")), Message: "the text is not UTF-8"}}
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, Problems{{File: file, Line: 1, Message: "the file is empty"}}
	case err != nil:
		return nil, Problems{syntax(file, err)}
	}
	var second yaml.Node
	switch err := dec.Decode(&second); {
	case err == nil:
		return nil, Problems{{File: file, Line: second.Line, Message: "a second document starts here; a file holds one"}}
	case !errors.Is(err, io.EOF):
		return nil, Problems{syntax(file, err)}
	}
	if len(doc.Content) != 1 {
		return nil, Problems{{File: file, Line: 1, Message: "the file is empty"}}
	}
	d.root = doc.Content[0]
	c := checker{doc: d}
	c.check(d.root, "", 0)
	d.found = c.problems
	return d, nil
}

// Line returns the line of the value at path, or of the nearest value around
// it that is in the file.
func (d *Document) Line(path string) int {
	for path != "" {
		if n, ok := d.lines[path]; ok {
			return n
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	if d.root == nil {
		return 0
	}
	return d.root.Line
}

// Has reports whether there is a value at path.
func (d *Document) Has(path string) bool { _, ok := d.lines[path]; return ok }

// Problem returns a problem with the value at path, with its line.
func (d *Document) Problem(path, format string, args ...any) Problem {
	return Problem{File: d.file, Line: d.Line(path), Path: path, Message: fmt.Sprintf(format, args...)}
}

// Place gives problems that a value's owner found their position: prefix, the
// path of the value in this file, is put before their paths.
func (d *Document) Place(prefix string, ps Problems) Problems {
	out := make(Problems, 0, len(ps))
	for _, p := range ps {
		path := prefix
		switch {
		case prefix == "" || strings.HasPrefix(p.Path, "["):
			path += p.Path
		case p.Path != "":
			path += "." + p.Path
		}
		out = append(out, Problem{File: d.file, Line: d.Line(path), Path: path, Message: p.Message})
	}
	return out
}

// checker finds what no field's type can make right, and records lines.
type checker struct {
	doc      *Document
	problems Problems
	nodes    int
	full     bool
}

func (c *checker) add(n *yaml.Node, path, format string, args ...any) {
	if c.full {
		return
	}
	if len(c.problems) == MaxProblems {
		c.full = true
		format, args = "and more problems", nil
	}
	c.problems = append(c.problems, Problem{File: c.doc.file, Line: n.Line, Path: path, Message: fmt.Sprintf(format, args...)})
}

func (c *checker) check(n *yaml.Node, path string, depth int) {
	if c.nodes++; c.nodes > MaxNodes {
		if c.nodes == MaxNodes+1 {
			c.add(n, "", "the file has more than %d values", MaxNodes)
		}
		return
	}
	if depth > MaxDepth {
		c.add(n, path, "nested deeper than %d levels", MaxDepth)
		return
	}
	if path != "" {
		c.doc.lines[path] = n.Line
	}
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		c.add(n, path, "anchors and aliases are not accepted: write the value out")
		return
	}
	if n.Style&yaml.TaggedStyle != 0 {
		c.add(n, path, "tags are not accepted: leave %q away", clip(n.Tag))
		return
	}
	switch n.Kind {
	case yaml.SequenceNode:
		for i, e := range n.Content {
			c.check(e, Index(path, i), depth+1)
		}
	case yaml.MappingNode:
		c.checkMapping(n, path, depth)
	case yaml.ScalarNode:
		if control(n.Value) {
			c.add(n, path, "the text has control characters")
		}
	}
}

func (c *checker) checkMapping(n *yaml.Node, path string, depth int) {
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		switch {
		case k.Kind == yaml.AliasNode || k.Anchor != "" || k.Tag == "!!merge":
			c.add(k, path, "anchors, aliases and merge keys are not accepted: write the value out")
			continue
		case k.Kind != yaml.ScalarNode || k.Style&yaml.TaggedStyle != 0:
			c.add(k, path, "a key must be plain text")
			continue
		case control(k.Value):
			c.add(k, path, "a key has control characters")
			continue
		}
		p := Key(path, k.Value)
		if line, ok := first[k.Value]; ok {
			c.add(k, p, "the key is repeated; it was first given on line %d", line)
			continue
		}
		first[k.Value] = k.Line
		c.check(v, p, depth+1)
		// A problem with a mapping is best seen at its key.
		c.doc.lines[p] = k.Line
	}
}

// control reports control characters other than line feed and tab.
func control(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return (r < 0x20 && r != '\n' && r != '\t') || (r >= 0x7f && r < 0xa0) })
}

func invalidUTF8(b []byte) int {
	for i := 0; i < len(b); {
		r, size := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

var (
	reSyntaxLine = regexp.MustCompile(`^(?:line ([0-9]+): )?`)
	// reParser matches what yaml's parser, not its scanner, finds wrong: those
	// errors count lines from 0.
	reParser = regexp.MustCompile(`^did not find expected (?:node content|key|'-' indicator|',' or .*|<document start>)$`)
)

func syntax(file string, err error) Problem {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	p := Problem{File: file, Line: 1}
	if m := reSyntaxLine.FindStringSubmatch(msg); m[1] != "" {
		p.Line, _ = strconv.Atoi(m[1]) // digits by the pattern; a number too large stays at its bound
		msg = msg[len(m[0]):]
		if reParser.MatchString(msg) {
			p.Line++
		}
	}
	p.Message = "not YAML: " + clip(msg)
	return p
}
