package approval

import (
	"bytes"
	"regexp"
	"strings"
	"unicode"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/text"
)

// line is a line of a comment that is meant for us.
type line struct {
	text string
	lost string // why it cannot be a command: what stands before or around it
}

// What forges render beyond CommonMark, or CommonMark in more than one way. Where
// one of these stands before a command, whether and how the command is shown is
// not certain any more: it does not count.
var (
	reMultilineQuote = regexp.MustCompile(`(?m)^>{3,}[ \t]*(?:\[!.*)?$`) // GitLab
	reFrontMatter    = regexp.MustCompile(`^\s*(?:---|\+\+\+|;;;)`)      // GitLab
	reTag            = regexp.MustCompile(`<[A-Za-z/!?]`)
	reComment        = regexp.MustCompile(`^<!--(?:[^->]|-[^->])(?:[^-]|-[^-])*-->\s*$`)
)

const (
	lostHTML   = "HTML before it, which can hide what follows"
	lostQuote  = "a multi-line quote (>>>) before it"
	lostMath   = "a formula ($$) before it"
	lostFront  = "front matter before it"
	lostIndent = "space before it in its line"
	lostTitle  = "a line below that makes it a heading"
)

// addressed returns the lines of a comment that are meant for us and that the
// forge shows as text: those of top-level paragraphs, outside code, quotes, lists,
// tables, footnotes and HTML. Lines inside of those are not for us.
func addressed(body string) []line {
	// What ends a line in CommonMark, in one form: the parser knows only that one.
	body = strings.ReplaceAll(strings.ReplaceAll(body, "\r\n", "\n"), "\r", "\n")
	src := []byte(body)
	v := visible{src: src, from: len(src) + 1}
	if reFrontMatter.MatchString(body) {
		v.lose(0, lostFront)
	}
	if at := reMultilineQuote.FindStringIndex(body); at != nil {
		v.lose(at[0], lostQuote)
	}
	if at := strings.Index(body, "$$"); at >= 0 {
		v.lose(at, lostMath)
	}
	md := goldmark.New(goldmark.WithExtensions(extension.GFM, extension.Footnote))
	root := md.Parser().Parse(text.NewReader(src))
	for n := root.FirstChild(); n != nil; n = n.NextSibling() {
		v.block(n)
	}
	return v.lines
}

// visible walks the blocks of a comment.
type visible struct {
	src   []byte
	lines []line
	// from is the offset from which on nothing counts, and why.
	from int
	why  string
}

func (v *visible) lose(at int, why string) {
	if at < v.from {
		v.from, v.why = at, why
	}
}

func (v *visible) block(n ast.Node) {
	v.html(n)
	switch n.Kind() {
	case ast.KindParagraph:
		starts := map[int]bool{}
		for c := n.FirstChild(); c != nil; c = c.NextSibling() {
			if t, ok := c.(*ast.Text); ok {
				starts[t.Segment.Start] = true
			}
		}
		for _, s := range n.Lines().Sliced(0, n.Lines().Len()) {
			// A line that does not begin with text of the paragraph itself is in the
			// middle of code, emphasis, a title or a tag.
			if starts[s.Start] {
				v.line(s, "")
			}
		}
	case ast.KindHeading:
		for _, s := range n.Lines().Sliced(0, n.Lines().Len()) {
			v.line(s, lostTitle)
		}
	}
}

// line takes one line of a block, if it is meant for us.
func (v *visible) line(s text.Segment, lost string) {
	start := bytes.LastIndexByte(v.src[:s.Start], '\n') + 1
	end := len(v.src)
	if n := bytes.IndexByte(v.src[s.Start:], '\n'); n >= 0 {
		end = s.Start + n
	}
	whole := string(v.src[start:end])
	if !reOurs.MatchString(strings.TrimSpace(plain(whole))) {
		return
	}
	switch {
	case start >= v.from:
		lost = v.why
	case lost == "" && strings.TrimLeft(whole, " \t") != whole:
		lost = lostIndent
	}
	v.lines = append(v.lines, line{strings.TrimRight(whole, " \t"), lost})
}

// html finds HTML in n, at any depth. A whole comment hides itself only; all else
// can hide what follows. So can what only another parser takes for a tag.
func (v *visible) html(n ast.Node) {
	// The walker returns what its function returns: no error.
	_ = ast.Walk(n, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.HTMLBlock:
			text := string(n.Lines().Value(v.src))
			if n.HasClosure() {
				text += string(n.ClosureLine.Value(v.src))
			}
			if !reComment.MatchString(strings.TrimSpace(text)) {
				v.lose(v.start(n), lostHTML)
			}
		case *ast.RawHTML:
			if !reComment.MatchString(string(n.Segments.Value(v.src))) {
				v.lose(n.Segments.At(0).Start, lostHTML)
			}
		case *ast.Text:
			if at := reTag.FindIndex(n.Segment.Value(v.src)); at != nil {
				v.lose(n.Segment.Start+at[0], lostHTML)
			}
		}
		return ast.WalkContinue, nil
	})
}

func (v *visible) start(n *ast.HTMLBlock) int {
	if n.Lines().Len() > 0 {
		return n.Lines().At(0).Start
	}
	return n.ClosureLine.Start
}

// plain returns s with what cannot be seen removed and every space a space, so
// that a line with such characters is answered and not passed over.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r) || unicode.Is(unicode.Zs, r):
			return ' '
		case hidden(r):
			return -1
		}
		return r
	}, s)
}
