package ci_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/ci"
)

// readGitHubFile reads GITHUB_OUTPUT as the runner does (FileCommandManager):
// lines ended by \n, \r\n or \r, NAME=VALUE or NAME<<DELIMITER ... DELIMITER.
func readGitHubFile(t *testing.T, text string) map[string]string {
	t.Helper()
	lines := regexp.MustCompile(`\r\n|\n|\r`).Split(text, -1)
	out := map[string]string{}
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		if line == "" {
			continue
		}
		eq, here := strings.Index(line, "="), strings.Index(line, "<<")
		if eq >= 0 && (here < 0 || eq < here) {
			out[line[:eq]] = line[eq+1:]
			continue
		}
		if here < 0 {
			t.Fatalf("the runner would refuse %q", line)
		}
		name, delimiter := line[:here], line[here+2:]
		var value []string
		for i++; ; i++ {
			if i == len(lines) {
				t.Fatalf("no end of %s", name)
			}
			if lines[i] == delimiter {
				break
			}
			value = append(value, lines[i])
		}
		out[name] = strings.Join(value, "\n")
	}
	return out
}

func TestOutputInjectionByLineBreaksIsImpossibleOnGitHub(t *testing.T) {
	hostile := []string{"a\nstate=completed", "a\r\nstate=completed", "a\rstate=completed", "a\nEOF\nstate=completed", "a\nghadelimiter_00\nstate<<x\ncompleted\nx", "state=x", "<<", "", "a\u2028state=completed"}
	for _, value := range hostile {
		w := onGitHub(t, giveToken)
		omitted, err := w.detect(ci.Options{}).Outputs([]ci.Output{{Name: "request-id", Value: value}, {Name: "digests", Value: "[]"}})
		if err != nil || len(omitted) != 0 {
			t.Fatal(err, omitted)
		}
		want := map[string]string{"request-id": strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(value), "digests": "[]"}
		if d := cmp.Diff(want, readGitHubFile(t, w.file(t, "output"))); d != "" {
			t.Errorf("%q: %s", value, d)
		}
	}
}

func TestAValueThatGuessesTheDelimiterIsRefusedWhole(t *testing.T) {
	w := onGitHub(t, giveToken)
	zero := bytes.NewReader(make([]byte, 16))
	_, err := w.detect(ci.Options{Random: zero}).Outputs([]ci.Output{{Name: "a", Value: "x\nghadelimiter_" + strings.Repeat("0", 32) + "\nb=c"}})
	if err == nil || w.file(t, "output") != "" {
		t.Errorf("%v, wrote %q", err, w.file(t, "output"))
	}
	if _, err := w.detect(ci.Options{Random: bytes.NewReader(nil)}).Outputs([]ci.Output{{Name: "a"}}); err == nil {
		t.Error("without randomness there was a delimiter")
	}
}

func TestOutputsAreAppendedToWhatEarlierStepsWrote(t *testing.T) {
	w := onGitHub(t, giveToken)
	if err := os.WriteFile(w.env["GITHUB_OUTPUT"], []byte("earlier=1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := w.detect(ci.Options{}).Outputs([]ci.Output{{Name: "state", Value: "x"}}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]string{"earlier": "1", "state": "x"}, readGitHubFile(t, w.file(t, "output"))); d != "" {
		t.Error(d)
	}
}

func TestOutputNamesAreCheckedBeforeAnythingIsWritten(t *testing.T) {
	for _, name := range []string{"", "A", "a b", "a=b", "a\nb", "a<<b", "1a", strings.Repeat("a", 80)} {
		w := onGitHub(t, giveToken)
		if _, err := w.detect(ci.Options{}).Outputs([]ci.Output{{Name: "ok", Value: "1"}, {Name: name, Value: "1"}}); err == nil || w.file(t, "output") != "" {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestOutputsThatCannotBeWrittenAreAnError(t *testing.T) {
	w := onGitHub(t, giveToken)
	w.env["GITHUB_OUTPUT"] = w.dir
	if _, err := w.detect(ci.Options{}).Outputs([]ci.Output{{Name: "a"}}); err == nil {
		t.Error("no error")
	}
	w.env["GITHUB_STEP_SUMMARY"] = w.dir
	if err := w.detect(ci.Options{}).Summary("x"); err == nil {
		t.Error("no error")
	}
}

func TestOutputInjectionByLineBreaksIsImpossibleOnGitLab(t *testing.T) {
	w := onGitLab(t)
	if _, err := w.detect(ci.Options{}).Outputs([]ci.Output{{Name: "request-id", Value: "a\nSEALWRIGHT_STATE=completed\rX=y\u0085Z=1"}, {Name: "state", Value: "failed"}}); err != nil {
		t.Fatal(err)
	}
	if got := w.file(t, "sealwright.env"); got != "SEALWRIGHT_REQUEST_ID=a SEALWRIGHT_STATE=completed X=y Z=1\nSEALWRIGHT_STATE=failed\n" {
		t.Errorf("%q", got)
	}
}

func TestADotenvFileStaysWithinGitLabsBoundAndKeepsTheSmallValues(t *testing.T) {
	w := onGitLab(t)
	omitted, err := w.detect(ci.Options{}).Outputs([]ci.Output{{Name: "signatures", Value: strings.Repeat("x", 5<<10)}, {Name: "request-id", Value: "sr"}, {Name: "digests", Value: strings.Repeat("y", 5000)}})
	if err != nil {
		t.Fatal(err)
	}
	got := w.file(t, "sealwright.env")
	if len(got) > 5<<10 || !strings.HasPrefix(got, "SEALWRIGHT_REQUEST_ID=sr\nSEALWRIGHT_DIGESTS=y") || cmp.Diff([]string{"signatures"}, omitted) != "" {
		t.Errorf("%d bytes, omitted %v", len(got), omitted)
	}
	// A second run replaces the file; the job's outputs are those of the last one.
	if _, err := w.detect(ci.Options{}).Outputs([]ci.Output{{Name: "state", Value: "x"}}); err != nil || w.file(t, "sealwright.env") != "SEALWRIGHT_STATE=x\n" {
		t.Errorf("%q %v", w.file(t, "sealwright.env"), err)
	}
}

func TestAPlainTerminalWritesFilesOnlyWhereAsked(t *testing.T) {
	dir := t.TempDir()
	w := &world{dir: dir}
	t.Chdir(dir)
	e := w.detect(ci.Options{})
	_, err := e.Outputs([]ci.Output{{Name: "a", Value: "1"}})
	if err := errors.Join(err, e.Summary("x")); err != nil {
		t.Fatal(err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 0 {
		t.Errorf("wrote %v", files)
	}
	e = w.detect(ci.Options{OutputFile: filepath.Join(dir, "o"), SummaryFile: filepath.Join(dir, "s")})
	_, err = e.Outputs([]ci.Output{{Name: "a", Value: "1"}})
	if err := errors.Join(err, e.Summary("x")); err != nil {
		t.Fatal(err)
	}
	if w.file(t, "o") != "SEALWRIGHT_A=1\n" || w.file(t, "s") != "x" {
		t.Errorf("%q %q", w.file(t, "o"), w.file(t, "s"))
	}
}

func TestASummaryStaysWithinGitHubsBoundWithWhatIsThereAlready(t *testing.T) {
	w := onGitHub(t, giveToken)
	if err := os.WriteFile(w.env["GITHUB_STEP_SUMMARY"], []byte(strings.Repeat("e", 1<<19)), 0o600); err != nil {
		t.Fatal(err)
	}
	e := w.detect(ci.Options{})
	if err := e.Summary("```\n" + strings.Repeat("ä line of text\n", 1<<16)); err != nil {
		t.Fatal(err)
	}
	got := w.file(t, "summary")
	if len(got) > 1<<20 || len(got) < 1<<20-200 || !utf8.ValidString(got) || !strings.HasSuffix(got, "did not fit into the job summary)*\n") {
		t.Errorf("%d bytes, ends %q", len(got), got[len(got)-80:])
	}
	if err := e.Summary(strings.Repeat("more\n", 1000)); err != nil || len(w.file(t, "summary")) > 1<<20 {
		t.Errorf("%d bytes, %v", len(w.file(t, "summary")), err)
	}
}

func TestASummaryOnGitLabIsAFileInTheProject(t *testing.T) {
	w := onGitLab(t)
	if err := w.detect(ci.Options{}).Summary("# done\n"); err != nil || w.file(t, "sealwright-summary.md") != "# done\n" {
		t.Errorf("%q %v", w.file(t, "sealwright-summary.md"), err)
	}
}

// commands returns the lines that a GitHub runner would take for a command:
// "::" after leading space (version 2), "##[" anywhere (version 1).
func commands(log string) []string {
	var out []string
	for _, line := range regexp.MustCompile(`\r\n|\n|\r`).Split(log, -1) {
		if strings.HasPrefix(strings.TrimSpace(line), "::") || strings.Contains(line, "##[") {
			out = append(out, line)
		}
	}
	return out
}

func TestWorkflowCommandInjectionByPrintedTextIsImpossible(t *testing.T) {
	w := onGitHub(t, giveToken)
	e := w.detect(ci.Options{})
	for _, text := range []string{
		"::set-env name=PATH::/evil\n", "  ::add-mask::x\n", "\t::stop-commands::x\n", "ok\r::set-output name=a::b\n", "ok\n::error::x\n",
		"x ##[command]rm\n", "##[set-env]\n", "\u00a0::warning::x\n", "\u200b::warning::x\n", "\x1b[K::warning::x\n", "::\n", "\ufeff::debug::x\n",
	} {
		e.Print(text)
	}
	if got := commands(w.out.String()); len(got) != 0 {
		t.Errorf("the runner would obey %q", got)
	}
	if strings.Count(w.out.String(), "\n") != 13 {
		t.Errorf("lines were lost: %q", w.out.String())
	}
}

func TestGitLabSectionMarkersOfStrangersAreBroken(t *testing.T) {
	w := onGitLab(t)
	w.detect(ci.Options{}).Print("section_end:1:a\rsection_start:1:b\n")
	if strings.Contains(w.out.String(), "section_start:1") || strings.Contains(w.out.String(), "section_end:1") {
		t.Errorf("%q", w.out.String())
	}
}

func TestAnAnnotationIsOneCommandWhateverItSays(t *testing.T) {
	w := onGitHub(t, giveToken)
	w.detect(ci.Options{}).Annotate(ci.LevelError, "a,b:c%\n::debug::x", "line 1\nline 2 100%\r\n::set-env name=a::b\x1b[31m")
	want := "::error title=a%2Cb%3Ac%25 %3A%3Adebug%3A%3Ax::line 1%0Aline 2 100%25%0A::set-env name=a::b?[31m\n"
	if got := w.out.String(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got := commands(w.out.String()); len(got) != 1 {
		t.Errorf("%q", got)
	}
	for _, other := range []*world{onGitLab(t), {env: map[string]string{}}} {
		other.detect(ci.Options{}).Annotate(ci.LevelNotice, "t", "m")
		if other.out.Len() != 0 {
			t.Errorf("%q", other.out.String())
		}
	}
}

func TestCleanTextHasOneLineAndNothingInvisible(t *testing.T) {
	for in, want := range map[string]string{
		"plain ä 日本": "plain ä 日本", "a\nb\r\nc\td": "a b  c d", "\x1b[31mred\x00": "?[31mred?", "admin\u202etxt.exe": "admin?txt.exe",
		"zero\u200bwidth": "zero?width", "\xff\xfe": "??", "a\u2028b": "a b", "\u009b31m": "?31m",
	} {
		if got := ci.Clean(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

func TestShortSecretsAreNotBlottedOutOfInnocentText(t *testing.T) {
	w := onGitHub(t, giveToken)
	e := w.detect(ci.Options{})
	e.Mask("a")
	e.Print("a banana\n")
	if w.out.String() != "a banana\n" {
		t.Errorf("%q", w.out.String())
	}
}

// FuzzOutputs: each value defines exactly its own output, on both platforms.
func FuzzOutputs(f *testing.F) {
	f.Add("sr_1", "[]")
	f.Add("a\nstate=completed", "\r")
	f.Add("x\r\nghadelimiter_\r\n", "<<")
	f.Add("\u0085\u2028\xff", "=")
	f.Fuzz(func(t *testing.T, a, b string) {
		kv := []ci.Output{{Name: "request-id", Value: a}, {Name: "digests", Value: b}, {Name: "state", Value: "failed"}}
		dir := t.TempDir()
		w := &world{dir: dir, env: map[string]string{"GITHUB_ACTIONS": "true", "GITHUB_OUTPUT": filepath.Join(dir, "output")}}
		if _, err := w.detect(ci.Options{}).Outputs(kv); err != nil {
			t.Fatal(err)
		}
		got := readGitHubFile(t, w.file(t, "output"))
		if len(got) != 3 || got["state"] != "failed" {
			t.Fatalf("%q", got)
		}
		w = &world{dir: dir, env: map[string]string{"GITLAB_CI": "true", "CI_PROJECT_DIR": dir}}
		omitted, err := w.detect(ci.Options{}).Outputs(kv)
		if err != nil {
			t.Fatal(err)
		}
		text := w.file(t, "sealwright.env")
		lines := regexp.MustCompile(`\r\n|[\n\v\f\r\x{85}\x{2028}\x{2029}]`).Split(strings.TrimSuffix(text, "\n"), -1)
		if len(lines) != 3-len(omitted) || len(text) > 5<<10 || !strings.Contains(text, "SEALWRIGHT_STATE=failed\n") {
			t.Fatalf("omitted %v: %q", omitted, text)
		}
		for _, l := range lines {
			if !strings.HasPrefix(l, "SEALWRIGHT_") {
				t.Fatalf("line %q", l)
			}
		}
	})
}

// FuzzPrint: no text makes a line that a runner obeys.
func FuzzPrint(f *testing.F) {
	for _, s := range []string{"::set-env::", " \r::x", "##[group]", "\u3000::x", "a\n\n::", "#" + "#[", "\x0b::x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		w := &world{env: map[string]string{"GITHUB_ACTIONS": "true"}}
		e := w.detect(ci.Options{})
		e.Print(s)
		e.Print(ci.Clean(s))
		if got := commands(w.out.String()); len(got) != 0 {
			t.Fatalf("%q", got)
		}
	})
}
