package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type common struct {
	Name string `yaml:"name"`
}

type server struct {
	common   `yaml:",inline"`
	Port     int               `yaml:"port"`
	Small    int8              `yaml:"small"`
	TLS      bool              `yaml:"tls"`
	Rate     float64           `yaml:"rate"`
	Timeout  Duration          `yaml:"timeout"`
	Password Secret            `yaml:"password"`
	From     time.Time         `yaml:"from"`
	Labels   map[string]string `yaml:"labels"`
	Rows     []row             `yaml:"rows"`
	Later    Raw               `yaml:"later"`
	Unread   string
}

type row struct {
	Host  string   `yaml:"host"`
	Ports []int    `yaml:"ports"`
	Limit *int     `yaml:"limit"`
	Hosts []string `yaml:"allowed_hosts"`
}

const good = `# a comment
name: web
port: 8443
tls: true
rate: 2
timeout: 1m30s
password: file:/run/secrets/p
from: 2026-01-02T03:04:05Z
labels: {a: "1", "b.c": x}
rows:
  - host: one
    ports: [1, 2]
    limit: 0
  - {host: two, allowed_hosts: ["x"]}
later: {z: [1, true], a: text}
`

func TestADocumentFillsEveryKindOfField(t *testing.T) {
	var got server
	if err := Decode("s.yaml", []byte(good), &got); err != nil {
		t.Fatal(err)
	}
	zero := 0
	want := server{
		common: common{Name: "web"}, Port: 8443, TLS: true, Rate: 2, Timeout: Duration(90 * time.Second), Password: "file:/run/secrets/p",
		From: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Labels: map[string]string{"a": "1", "b.c": "x"},
		Rows: []row{{Host: "one", Ports: []int{1, 2}, Limit: &zero}, {Host: "two", Hosts: []string{"x"}}},
	}
	later := got.Later
	got.Later = Raw{}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(server{}, Raw{})); diff != "" {
		t.Error(diff)
	}
	raw, err := later.MarshalJSON()
	if err != nil || string(raw) != `{"a":"text","z":["1","true"]}` {
		t.Errorf("Raw as JSON: %s, %v", raw, err)
	}
	if later.IsZero() || !got.Later.IsZero() {
		t.Error("Raw does not know whether it was given")
	}
}

func TestAllProblemsAreReportedAtOnceWithFileLineAndPath(t *testing.T) {
	const bad = `name: 74
prot: 1
port: "80"
small: 300
tls: yes
rate: .inf
timeout: -1s
password: hunter2
labels: {a: 1, 2: b}
rows:
  - host: one
    ports: [1, x]
  - hots: two
  - not-a-mapping
from:
utterly_unknown: 1
port: 2
`
	err := Decode("dir/s.yaml", []byte(bad), &server{})
	want := strings.TrimSpace(`
dir/s.yaml:1: name: must be text, found a number: put it in quotes
dir/s.yaml:2: unknown key "prot"; did you mean "port"?
dir/s.yaml:3: port: must be a whole number, found text
dir/s.yaml:4: small: the number is out of range
dir/s.yaml:5: tls: must be true or false, found text
dir/s.yaml:6: rate: the number is out of range
dir/s.yaml:7: timeout: must be a duration such as 30s, 10m or 24h, found "-1s"
dir/s.yaml:8: password: must be a reference, file:/absolute/path or env:NAME; the secret itself is not written into this file
dir/s.yaml:9: labels.a: must be text, found a number: put it in quotes
dir/s.yaml:9: labels.2: the key must be text: put it in quotes
dir/s.yaml:12: rows[0].ports[1]: must be a whole number, found text
dir/s.yaml:13: rows[1]: unknown key "hots"; did you mean "host"?
dir/s.yaml:14: rows[2]: must be a mapping, found text
dir/s.yaml:15: from: has no value: give it one or leave the key out
dir/s.yaml:16: unknown key "utterly_unknown"; known here: from, labels, later, name, password, port, rate, rows, small, timeout, tls
dir/s.yaml:17: port: the key is repeated; it was first given on line 3
`)
	var ps Problems
	if !errors.As(err, &ps) {
		t.Fatalf("not Problems: %v", err)
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Error(diff)
	}
}

func TestWhatNoTypeCanMakeRightIsRefused(t *testing.T) {
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
	for name, c := range map[string]struct{ text, want string }{
		"nothing":             {"", "f:1: the file is empty"},
		"only a comment":      {"# x\n", "f:1: the file is empty"},
		"syntax":              {"name: x\nport: [1\n", "f:2: not YAML"},
		"not UTF-8":           {"name: x\nport: \xff\n", "f:2: the text is not UTF-8"},
		"too large":           {strings.Repeat("#", MaxDocument+1), "at most 1048576 are read"},
		"two documents":       {"name: x\n---\nname: y\n", "f:2: a second document starts here"},
		"bad second document": {"name: x\n---\n[\n", "not YAML"},
		"repeated key":        {"name: x\nport: 1\nname: y\n", "f:3: name: the key is repeated; it was first given on line 1"},
		"repeated deep key":   {"rows:\n- host: x\n  host: y\n", "f:3: rows[0].host: the key is repeated"},
		"alias bomb":          {bomb, "f:1: a: anchors and aliases are not accepted"},
		"merge key":           {"labels: {<<: {a: b}}\n", "merge keys are not accepted"},
		"tag":                 {"name: !!binary aGk=\n", "f:1: name: tags are not accepted"},
		"own tag":             {"name: !env HOME\n", "tags are not accepted"},
		"a list as key":       {"? [a]\n: b\n", "a key must be plain text"},
		"control character":   {"name: \"a\\0b\"\n", "f:1: name: the text has control characters"},
		"control in a key":    {"\"a\\e\": b\n", "a key has control characters"},
		"too deep":            {"later: " + strings.Repeat("[", 40) + strings.Repeat("]", 40), "nested deeper than 32 levels"},
		"too many values":     {"later: [" + strings.Repeat("1,", MaxNodes+5) + "1]", "more than 100000 values"},
		"a list":              {"- a\n", "f:1: must be a mapping, found a list"},
		"empty key":           {"labels: {\"\": x}\n", "labels: a key is empty"},
		"null list":           {"rows: ~\n", "f:1: rows: has no value"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Decode("f", []byte(c.text), &server{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
		})
	}
}

func TestTheNumberOfProblemsIsBounded(t *testing.T) {
	err := Decode("f", []byte("rows: ["+strings.Repeat("x,", 5000)+"x]"), &server{})
	var ps Problems
	if !errors.As(err, &ps) || len(ps) != MaxProblems+1 || ps[MaxProblems].Message != "and more problems" {
		t.Errorf("%d problems", len(ps))
	}
}

func TestASemanticProblemGetsTheLineOfItsPath(t *testing.T) {
	d, err := Parse("s.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"": 2, "port": 3, "rows": 10, "rows[0]": 11, "rows[0].ports": 12, "rows[0].ports[1]": 12, "rows[1].host": 14, `labels["b.c"]`: 9, "rows[0].absent.deeper": 11, "nowhere": 2} {
		if got := d.Line(path); got != want {
			t.Errorf("line of %q: got %d, want %d", path, got, want)
		}
	}
	if got, want := d.Problem("rows[1].host", "is %s", "taken").String(), "s.yaml:14: rows[1].host: is taken"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	var ps Problems
	ps.Add("host", "a")
	ps.Add("", "b")
	got := append(d.Place(Index("rows", 0), ps), d.Place("rows", Problems{{Path: "[1].host", Message: "c"}})...)
	got = append(got, d.Place("", ps)[1])
	if diff := cmp.Diff("s.yaml:2: b\ns.yaml:11: rows[0].host: a\ns.yaml:11: rows[0]: b\ns.yaml:14: rows[1].host: c", got.Err().Error()); diff != "" {
		t.Error(diff)
	}
	if (Problems{}).Err() != nil {
		t.Error("no problems are an error")
	}
}

func TestDecodingIntoWhatIsNoPointerIsAnError(t *testing.T) {
	if err := Decode("f", []byte("name: x"), server{}); err == nil {
		t.Error("decoded into a copy")
	}
	var unsupported struct {
		C chan int       `yaml:"c"`
		M map[int]string `yaml:"m"`
	}
	if err := Decode("f", []byte("c: x\nm: {a: b}"), &unsupported); err == nil || strings.Count(err.Error(), "cannot be read") != 2 {
		t.Errorf("got %v", err)
	}
}

func TestASecretIsReadFromFileOrEnvironmentWithoutItsFinalLineBreak(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) Secret {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return Secret("file:" + p)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	env := func(k string) (string, bool) {
		v, ok := map[string]string{"P": "pw\n", "EMPTY": ""}[k]
		return v, ok
	}
	for _, c := range []struct {
		ref       Secret
		want, err string
	}{
		{write("one", "pw\n"), "pw", ""},
		{write("crlf", "pw\r\n"), "pw", ""},
		{write("two", "pw\n\n"), "pw\n", ""},
		{write("most", strings.Repeat("x", MaxSecret)), strings.Repeat("x", MaxSecret), ""},
		{write("large", strings.Repeat("x", MaxSecret+1)), "", "more than 65536 bytes"},
		{write("empty", "\n"), "", "it is empty"},
		{Secret("file:" + dir), "", "not a regular file"},
		{Secret("file:" + fifo), "", "not a regular file"},
		{Secret("file:" + dir + "/none"), "", "no such file"},
		{"env:P", "pw", ""},
		{"env:EMPTY", "", "it is empty"},
		{"env:NONE", "", "not set"},
		{"file:relative", "", "must be a reference"},
		{"env:A B", "", "must be a reference"},
		{"hunter2", "", "must be a reference"},
		{"", "", "must be a reference"},
	} {
		got, err := c.ref.Read(env)
		switch {
		case c.err == "" && (err != nil || string(got) != c.want):
			t.Errorf("%s: got %q, %v", c.ref, got, err)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "hunter2")):
			t.Errorf("%s: got %v, want %q", c.ref, err, c.err)
		}
	}
}

func TestALiteralSecretIsNeverPrinted(t *testing.T) {
	s := Secret("hunter2")
	text, _ := s.MarshalText()
	for _, got := range []string{s.String(), string(text), fmt.Sprintf("%v %s %q %#v", s, s, s, struct{ S Secret }{s})} {
		if strings.Contains(got, "hunter2") {
			t.Errorf("printed: %s", got)
		}
	}
	for _, form := range []string{"hunter2", "12345678", "[hunter2]", "{hunter2: x}", "!hunter2 x", "file:hunter2", "env:hunter-2"} {
		if err := Decode("f", []byte("password: "+form), &server{}); err == nil || strings.Contains(err.Error(), "hunter") || strings.Contains(err.Error(), "1234") {
			if form == "!hunter2 x" && err != nil {
				continue // a tag is syntax, and is named
			}
			t.Errorf("%s: %v", form, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{good, "a: &a [*a]\n", "? [a]\n: b\n", "---\n...\n---\n", "\"\\0\": x", "{a: {a: {a", "a: !!binary x", "<<: [a]\n", "\xef\xbb\xbfname: x"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var a, b server
		errA, errB := Decode("f", data, &a), Decode("f", data, &b)
		if (errA == nil) != (errB == nil) || errA != nil && errA.Error() != errB.Error() {
			t.Fatalf("not the same twice: %v, %v", errA, errB)
		}
		var ps Problems
		if errA != nil && (!errors.As(errA, &ps) || len(ps) == 0) {
			t.Fatalf("not Problems: %v", errA)
		}
		for _, p := range ps {
			if p.File != "f" || p.Line < 0 || p.Line > 2+strings.Count(string(data), "\n")+strings.Count(string(data), "\r") || strings.ContainsAny(p.Path, "\n\x00") {
				t.Fatalf("bad position: %#v", p)
			}
		}
		if errA == nil && !reflect.DeepEqual(a.Rows, b.Rows) {
			t.Fatal("not the same value twice")
		}
	})
}
