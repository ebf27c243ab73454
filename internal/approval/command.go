package approval

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// MaxBody bounds a comment with a command in bytes: the parser's time grows with
	// the square of what is nested or half-open in it, and this keeps the worst below
	// half a second. A longer text is not the place for a command.
	MaxBody = 8 << 10
	// MaxCommands bounds the commands of one comment: one for each request that
	// waits in a thread, and no flood.
	MaxCommands = 10
	// MaxReason bounds the reason of a denial in bytes; what is longer is cut.
	MaxReason = 500
)

// The verbs.
const (
	VerbApprove = "approve"
	VerbDeny    = "deny"
	VerbStatus  = "status"
	VerbHelp    = "help"
)

// Command is one line that is for this service.
type Command struct {
	Verb    string
	Request string // approve and deny: a well-formed request id
	Code    string // approve and deny: CodeLength hexadecimal digits
	Reason  string // deny: text of a stranger, one line, without invisible characters
}

const grammar = "`/sealwright approve REQUEST CODE`, `/sealwright deny REQUEST CODE [REASON]`, `/sealwright status` or `/sealwright help`, alone on a line"

var (
	// reOurs finds lines that somebody meant for us, well-formed or not.
	reOurs = regexp.MustCompile(`(?i)^/sealwright(?:[ \t]|$)`)
	// reApprove takes nothing after the code: words there could say the opposite.
	reApprove = regexp.MustCompile(`^/sealwright[ \t]+approve[ \t]+(sr_[0-9A-Z]{16})[ \t]+([0-9a-f]{8})[ \t]*$`)
	reDeny    = regexp.MustCompile(`^/sealwright[ \t]+deny[ \t]+(sr_[0-9A-Z]{16})[ \t]+([0-9a-f]{8})(?:[ \t]+(.*))?$`)
	reAsk     = regexp.MustCompile(`^/sealwright[ \t]+(status|help)[ \t]*$`)
)

// Parse returns the commands of a comment, in order. A comment counts as a whole
// or not at all: if one line is meant for us and cannot be a command, no line of
// it is, and the error, which is a *signing.Error fit to be answered with, says
// why. Text that is not for us yields neither.
func Parse(body string) ([]Command, error) {
	if !strings.Contains(strings.ToLower(plain(body)), "/sealwright") {
		return nil, nil
	}
	if len(body) > MaxBody || !utf8.ValidString(body) {
		return nil, malformed("the comment is too long for a command", fmt.Sprintf("at most %d bytes of UTF-8", MaxBody), fmt.Sprintf("%d bytes", len(body)), "put the command in a comment of its own")
	}
	lines := addressed(body)
	if len(lines) > MaxCommands {
		return nil, malformed("too many commands in one comment", fmt.Sprintf("at most %d", MaxCommands), fmt.Sprint(len(lines)), "split them over several comments")
	}
	var out []Command
	for _, l := range lines {
		if l.lost != "" {
			return nil, malformed("this command does not count", "a line of plain text that is shown as it is", l.lost, "put the command in a new comment of its own, at the start of a line")
		}
		c, err := command(l.text)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// command parses one line that is for us.
func command(line string) (Command, error) {
	if r := firstHidden(line); r >= 0 {
		return Command{}, malformed("the command holds a character that cannot be seen or looks like another", "plain characters", fmt.Sprintf("U+%04X", r), "type the command, or copy it from the code block of the question")
	}
	if m := reApprove.FindStringSubmatch(line); m != nil && signing.ValidRequestID(m[1]) {
		return Command{Verb: VerbApprove, Request: m[1], Code: m[2]}, nil
	}
	if m := reDeny.FindStringSubmatch(line); m != nil && signing.ValidRequestID(m[1]) {
		return Command{Verb: VerbDeny, Request: m[1], Code: m[2], Reason: cut(strings.TrimSpace(m[3]), MaxReason)}, nil
	}
	if m := reAsk.FindStringSubmatch(line); m != nil {
		return Command{Verb: m[1]}, nil
	}
	return Command{}, malformed("this is no command", grammar, fmt.Sprintf("%.120q", line), "copy a command from the question; nothing may follow the code of an approval, and a new comment is needed, since edited ones do not count")
}

func malformed(message, expected, found, fix string) error {
	return &signing.Error{Code: signing.Invalid, Message: message, Expected: expected, Found: found, Fix: fix}
}

// firstHidden returns the first character of a command that may not be in one,
// -1 if there is none. Only the reason of a denial may have letters beyond ASCII.
func firstHidden(line string) rune {
	head := len(line)
	if m := reDeny.FindStringSubmatchIndex(line); m != nil && m[6] >= 0 {
		head = m[6]
	}
	for i, r := range line {
		if hidden(r) || i < head && r > unicode.MaxASCII {
			return r
		}
	}
	return -1
}

// hidden reports whether r is shown as nothing, or as something else than it is.
func hidden(r rune) bool {
	return r != '\t' && r != ' ' && !unicode.IsGraphic(r) || unicode.Is(unicode.Zs, r) && r != ' ' ||
		unicode.In(r, unicode.Cf, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector) || r == utf8.RuneError || r == '\u2800' // an empty Braille cell
}

// cut returns at most n bytes of s, whole characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
