package approval

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/signing"
)

const (
	request = "sr_7K2M7K2M7K2M7K2M"
	code    = "3f9c2a7b"
	approve = "/sealwright approve " + request + " " + code
	deny    = "/sealwright deny " + request + " " + code
)

func parse(t *testing.T, body string) []Command {
	t.Helper()
	got, err := Parse(body)
	if err != nil {
		t.Fatalf("Parse(%q): %v", body, err)
	}
	return got
}

func TestEveryVerbIsParsed(t *testing.T) {
	yes := Command{Verb: VerbApprove, Request: request, Code: code}
	no := Command{Verb: VerbDeny, Request: request, Code: code}
	for body, want := range map[string][]Command{
		approve:                                {yes},
		approve + "  \r\n":                     {yes},
		"Looks good.\r\n\r\n" + approve:        {yes},
		"Looks good.\n" + approve:              {yes}, // a line of the same paragraph
		approve + "\nThanks!":                  {yes},
		deny:                                   {no},
		deny + " wrong `tag` <b>":              {{Verb: VerbDeny, Request: request, Code: code, Reason: "wrong `tag` <b>"}},
		deny + " größer als nötig":             {{Verb: VerbDeny, Request: request, Code: code, Reason: "größer als nötig"}},
		"/sealwright status":                   {{Verb: VerbStatus}},
		"/sealwright \t help":                  {{Verb: VerbHelp}},
		approve + "\n" + deny:                  {yes, no},
		"> " + deny + "\n\n" + approve:         {yes}, // a quote reply, and the answer
		"```\n" + deny + "\n```\n" + approve:   {yes},
		"<!-- from a template -->\n" + approve: {yes},
		"~~~ sh\n" + deny + "\n~~~\n\n" + approve + "\n\n```\n" + deny: {yes},
		"- ```\n" + approve: {yes}, // the list and its fence have ended
	} {
		if diff := cmp.Diff(want, parse(t, body)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", body, diff)
		}
	}
}

func TestTextThatIsNotForUsYieldsNothing(t *testing.T) {
	for _, body := range []string{
		"", "LGTM", "please run " + approve, "see `" + approve + "`", "/sealwrightx approve", "/approve", "\\" + approve,
		"&#47;sealwright approve " + request + " " + code, "//sealwright help",
		"∕sealwright approve " + request + " " + code,  // U+2215
		"／sealwright approve " + request + " " + code,  // U+FF0F
		"/ѕealwright approve " + request + " " + code,  // Cyrillic
		"/sealwrіght approve " + request + " " + code,  // Cyrillic
		"https://sealwright.example/sealwright status", // not at the start
	} {
		if got := parse(t, body); got != nil {
			t.Errorf("%q yields %v", body, got)
		}
	}
}

// wrappings are all the ways in which a text is shown as code or a quote, or is
// not shown, each around %s.
var wrappings = []string{
	"```\n%s\n```", "```sh\n%s\n```\n", "````\n```\n%s\n```\n````", "~~~\n%s\n~~~", "~~~~ text\n~~~\n%s\n~~~\n~~~~",
	"```\n%s", "~~~\n%s", "   ```\n%s\n   ```", "text\n```\n%s\n```", "```\n\n%s\n\n```", "```\n``\n%s\n``` x\n```",
	"- ```\n  %s\n  ```", "1. ~~~\n   %s", "- a\n\n  ```\n  %s\n  ```", "> ```\n> %s\n> ```",
	"    %s", "\t%s", "text\n\n    %s", "- text\n\n      %s",
	"> %s", ">%s", "> text\n%s" /* lazy */, "> > %s", "- > %s", "> [!NOTE]\n> %s",
	"- %s", "* %s", "1. %s", "- text\n  %s", "- text\n%s" /* lazy */, "- [ ] %s",
	"# %s", "| a |\n|---|\n| %s |", "| a |\n|---|\n%s",
	"[^1]: %s\n\ntext [^1]", "[^1]: text\n%s\n\nsee [^1]", "[^1]: text\n\n    %s",
	"`text\n%s\ntext`", "``text\n%s`\ntext``", "**text\n%s\ntext**", "~~text\n%s\ntext~~", "[text\n%s\ntext](https://acme.dev)",
	"[text](https://acme.dev \"\n%s\n\")", "[ref]: https://acme.dev \"\n%s\n\"", "![alt\n%s\n](https://acme.dev/x.png)", "text <a title=\"\n%s\n\">",
}

// hiding are those that the answer says something about: HTML, and what only one
// forge knows. They may stand long before the command.
var hiding = []string{
	"<!--\n%s\n-->", "<!--\n%s", "text <!--\n%s\n-->", "<!-- a\n\n%s\n\n-->", "<!--> -->\n%s",
	"<pre>\n%s\n</pre>", "<pre>\n\n%s", "<details>\n%s\n</details>", "<details><summary>x</summary>\n\n%s\n\n</details>", "<details>\n\ntext\n\n%s",
	"<script>\n%s\n</script>", "<style>\n%s", "<textarea>\n%s\n</textarea>", "<template>\n\n%s\n", "<div hidden>\n\n%s\n\n</div>", "<?php\n%s\n?>", "<![CDATA[\n%s\n]]>", "<!DOCTYPE\n%s",
	"text <span hidden>\n%s\n</span>", "text <ins>\n\n%s", "> <details>\n\n%s", "- <!-- x\n\n%s", "<x-y z=\"\n%s",
	"text <weird/'>\n%s",
	">>>\n%s\n>>>", ">>>\n\n%s\n\n>>>", ">>> [!note]\n%s", "$$\n%s\n$$", "text $$\n%s\n$$", "---\ntitle: x\n\n%s\n\n---", "+++\n%s\n+++", ";;;\n%s\n;;;",
}

func TestWhatIsCodeAQuoteOrHiddenIsNoCommand(t *testing.T) {
	for _, w := range append(append([]string{}, wrappings...), hiding...) {
		for _, end := range []string{"\n", "\r\n", "\r"} {
			for _, command := range []string{approve, deny, deny + " because", "/sealwright status", "/sealwright help"} {
				body := strings.ReplaceAll(fmt.Sprintf(w, command), "\n", end)
				if got, _ := Parse(body); len(got) > 0 {
					t.Errorf("%q yields %v", body, got)
				}
			}
		}
	}
}

func TestACommandBelowWhatMayHideItIsAnswered(t *testing.T) {
	for _, w := range []string{"<details>\n\n%s\n\n</details>", "text <span hidden>\n%s", ">>>\n\n%s\n\n>>>", "$$\n\n%s"} {
		_, err := Parse(fmt.Sprintf(w, approve))
		if !errors.Is(err, signing.Invalid) {
			t.Errorf("%q: %v", w, err)
		}
	}
}

func TestAMalformedCommandIsAnswered(t *testing.T) {
	for body, want := range map[string]string{
		"/sealwright":                                           "no command",
		"/sealwright approve":                                   "no command",
		"/Sealwright approve " + request:                        "no command",
		"/sealwright Approve " + request:                        "no command",
		"/sealwright approve " + request:                        "no command",
		"/sealwright approve sr_1 " + code:                      "no command",
		"/sealwright approve sr_IIIIIIIIIIIIIIII " + code:       "no command", // no letter of the alphabet
		approve + "0":                                           "no command",
		approve + " not yet":                                    "no command",
		approve + "\\":                                          "no command",
		"/sealwright approve " + request + " 3F9C2A7B":          "no command",
		"/sealwright status now":                                "no command",
		"/sealwright merge":                                     "no command",
		" " + approve:                                           "does not count",
		"text\n   " + approve:                                   "does not count",
		approve + "\n===":                                       "does not count", // shown as a heading
		approve + "\n--":                                        "does not count",
		approve + "\u200b":                                      "cannot be seen",
		"\u200b" + approve:                                      "cannot be seen",
		"/sealwright\u00a0approve " + request + " " + code:      "cannot be seen",
		"/sealwright approve " + request + " 3f9c2a7\u0431":     "cannot be seen", // Cyrillic
		"/sealwright approve \u202esr_7K2M7K2M7K2M7K2M " + code: "cannot be seen",
		"/sea\u00adlwright approve " + request + " " + code:     "cannot be seen",
		deny + " a\u202eb":                                      "cannot be seen",
		deny + " a\u2800b":                                      "cannot be seen",
		deny + " a\x00b":                                        "cannot be seen",
		strings.Repeat(approve+"\n", MaxCommands+1):             "too many",
		approve + strings.Repeat(" ", MaxBody):                  "too long",
		approve + "\n\xff":                                      "too long",
		approve + "\n/sealwright approve please":                "no command", // the first does not count either
	} {
		got, err := Parse(body)
		var e *signing.Error
		if got != nil || !errors.As(err, &e) || e.Code != signing.Invalid || !strings.Contains(e.Message, want) || e.Fix == "" || e.Expected == "" || e.Found == "" {
			t.Errorf("%.200q: %v, %v; want %q", body, got, err, want)
		}
	}
}

func TestTheReasonOfADenialIsBounded(t *testing.T) {
	got := parse(t, deny+" "+strings.Repeat("ä", MaxReason))
	if n := len(got[0].Reason); n != MaxReason {
		t.Errorf("%d bytes", n)
	}
}

// TestACommentCannotTakeLong: the worst that CommonMark parsers know.
func TestACommentCannotTakeLong(t *testing.T) {
	for _, unit := range []string{">", "> ", "- ", "[", "![", "*a ", "_a ", "`", "<", "<!--", "[a](", "|a", "a\n", "\\\n", "[^a]: ", "$$", "~~", "``` \n", "* - ", "> a\n", "&", "(", "<a ", "<?", "[a]:", strings.Repeat("> ", 200) + "\n", strings.Repeat("- ", 200) + "\n", "a|\n-|\n", "**", "*_"} {
		body := strings.Repeat(unit, (MaxBody-len(approve)-2)/len(unit)) + "\n\n" + approve
		start := time.Now()
		_, _ = Parse(body)
		if d := time.Since(start); d > 20*time.Second { // some hundred milliseconds on a quiet machine
			t.Errorf("%q takes %s", unit, d)
		}
	}
}

func TestACodeIsOfOneRequestBasisAndRound(t *testing.T) {
	basis, other := signing.DigestOf([]byte("a")), signing.DigestOf([]byte("b"))
	first := Code(request, basis, 1)
	for _, c := range []string{Code(request, basis, 2), Code(request, other, 1), Code("sr_7K2M7K2M7K2M7K2N", basis, 1)} {
		if SameCode(first, c) {
			t.Errorf("%s is given out twice", c)
		}
	}
	if _, err := Parse("/sealwright approve " + request + " " + first); err != nil || !SameCode(first, Code(request, basis, 1)) {
		t.Errorf("%s is no code: %v", first, err)
	}
	if SameCode("", "") || SameCode(first, first[:7]) {
		t.Error("less than a code counts as one")
	}
}

// FuzzParse holds that whatever a stranger writes, what is parsed is a line of the
// comment, and that the same text within any wrapping yields nothing.
func FuzzParse(f *testing.F) {
	f.Add(approve)
	f.Add("x\r\n" + deny + " no\r\n```\r\n" + approve)
	for _, w := range append(append([]string{}, wrappings...), hiding...) {
		f.Add(fmt.Sprintf(w, approve) + "\n\n" + deny)
	}
	f.Fuzz(func(t *testing.T, body string) {
		got, err := Parse(body)
		if err != nil && got != nil {
			t.Errorf("%q counts in part", body)
		}
		lines := strings.FieldsFunc(body, func(r rune) bool { return r == '\n' || r == '\r' })
		for _, c := range got {
			found := false
			for _, l := range lines {
				found = found || strings.HasPrefix(l, "/sealwright") && strings.Contains(l, c.Verb) && strings.Contains(l, c.Request) && strings.Contains(l, c.Code)
			}
			if !found {
				t.Errorf("%q yields %+v, which is no line of it", body, c)
			}
		}
		for name, wrapped := range fenced(body) {
			if got, _ := Parse(wrapped); len(got) > 0 {
				t.Errorf("in %s, %q yields %v", name, wrapped, got)
			}
		}
	})
}

// fenced returns text in a fence longer than any in it, in one that is not closed,
// as indented code and in a quote.
func fenced(text string) map[string]string {
	out := map[string]string{}
	for _, c := range []string{"`", "~"} {
		fence := strings.Repeat(c, max(3, run(text, c[0])+1))
		out["a fence of "+c] = fence + "\n" + text + "\n" + fence
		out["an open fence of "+c] = fence + "\n" + text
	}
	lines := strings.Split(strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\r", "\n"), "\n")
	out["a quote"] = "> " + strings.Join(lines, "\n> ")
	out["indented code"] = "    " + strings.Join(lines, "\n    ")
	return out
}

func run(s string, c byte) int {
	most, n := 0, 0
	for i := range len(s) {
		if s[i] != c {
			n = 0
			continue
		}
		n++
		most = max(most, n)
	}
	return most
}
