package api_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/signing"
)

var now = time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)

// codes reads every Code constant out of the domain's source, so that a new one
// cannot be forgotten here.
func codes(t *testing.T) []signing.Code {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../signing/errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []signing.Code
	ast.Inspect(file, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok {
			if id, ok := v.Type.(*ast.Ident); ok && id.Name == "Code" {
				s, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, signing.Code(s))
			}
		}
		return true
	})
	if len(out) < 10 {
		t.Fatalf("found only %v", out)
	}
	return out
}

func TestCodesAndStatusesAreABijection(t *testing.T) {
	seen := map[int]signing.Code{}
	for _, c := range codes(t) {
		status := api.Status(c)
		if was, taken := seen[status]; taken {
			t.Errorf("%s and %s share status %d", was, c, status)
		}
		seen[status] = c
		if back, ok := api.CodeOfStatus(status); !ok || back != c {
			t.Errorf("%s -> %d -> %s, %v", c, status, back, ok)
		}
	}
	for status := 400; status < 600; status++ {
		c, known := api.CodeOfStatus(status)
		if _, ours := seen[status]; ours != known {
			t.Errorf("status %d: known is %v", status, known)
		}
		if !known && status < 500 && status != http.StatusRequestTimeout && c != signing.Invalid {
			t.Errorf("status %d is %s", status, c)
		}
	}
	if api.Status("no such code") != http.StatusInternalServerError {
		t.Error("an unknown code is not Internal")
	}
}

func TestDesignNamesTheStatusOfEveryCode(t *testing.T) {
	for c, want := range map[signing.Code]int{
		signing.Invalid: 400, signing.Unauthenticated: 401, signing.Denied: 403, signing.NotFound: 404, signing.Conflict: 409,
		signing.Expired: 410, signing.TooLarge: 413, signing.RateLimited: 429, signing.Internal: 500, signing.Unavailable: 503,
	} {
		if got := api.Status(c); got != want {
			t.Errorf("%s is %d, want %d", c, got, want)
		}
	}
}

func TestAProblemComesBackAsTheErrorThatItWas(t *testing.T) {
	reasons := signing.Reason{Rule: "origin", Children: []signing.Reason{{Rule: "origin.refs", Wanted: "refs/heads/main", Found: "refs/heads/x", Fix: "merge first"}}}
	for _, c := range codes(t) {
		e := &signing.Error{Code: c, Message: "m", Expected: "e", Found: "f", Fix: "x", RetryAfter: 1500 * time.Millisecond, Err: errors.New("secret cause")}
		p := api.FromError(fmt.Errorf("wrapped: %w", e))
		p.Reasons = &reasons
		rec := httptest.NewRecorder()
		if err := api.WriteProblem(rec, p); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(rec.Body.String(), "secret cause") {
			t.Errorf("%s: the cause left the service", c)
		}
		if got := rec.Header().Get("Content-Type"); got != "application/problem+json" {
			t.Errorf("content type %q", got)
		}
		if rec.Header().Get("Retry-After") != "2" || rec.Code != api.Status(c) {
			t.Errorf("%s: status %d, Retry-After %q", c, rec.Code, rec.Header().Get("Retry-After"))
		}
		if (rec.Header().Get("WWW-Authenticate") != "") != (c == signing.Unauthenticated) {
			t.Errorf("%s: WWW-Authenticate %q", c, rec.Header().Get("WWW-Authenticate"))
		}
		got := api.ParseProblem(rec.Code, rec.Header(), rec.Body.Bytes(), now)
		if d := cmp.Diff(p, got); d != "" {
			t.Errorf("%s: %s", c, d)
		}
		want := &signing.Error{Code: c, Message: "m", Expected: "e", Found: "f", Fix: "x", RetryAfter: 2 * time.Second}
		if d := cmp.Diff(want, got.Err()); d != "" {
			t.Errorf("%s: %s", c, d)
		}
		// As an error it keeps both: the class for errors.Is, and the reasons.
		refusal := fmt.Errorf("submitting: %w", &api.Refusal{Problem: got})
		if !errors.Is(refusal, c) || signing.CodeOf(refusal) != c {
			t.Errorf("%s is lost in %v", c, refusal)
		}
		if d := cmp.Diff(got, api.FromError(refusal)); d != "" {
			t.Errorf("%s: %s", c, d)
		}
	}
}

func TestAnErrorWithoutACodeTellsTheClientNothing(t *testing.T) {
	p := api.FromError(errors.New("dial tcp 10.1.2.3: password=hunter2"))
	raw, _ := json.Marshal(p)
	if p.Status != 500 || p.Code != signing.Internal || strings.Contains(string(raw), "hunter2") || strings.Contains(string(raw), "10.1") {
		t.Errorf("%s", raw)
	}
}

func TestAnAnswerWithoutAProblemDocumentIsJudgedByItsStatus(t *testing.T) {
	problem := http.Header{"Content-Type": {api.ContentTypeProblem}}
	for name, c := range map[string]struct {
		status int
		header http.Header
		body   string
		code   signing.Code
		retry  int
	}{
		"a proxy's page":              {502, http.Header{"Content-Type": {"text/html"}}, "<html>bad gateway", signing.Unavailable, 0},
		"gateway timeout":             {504, nil, "", signing.Unavailable, 0},
		"proxy asks for credentials":  {407, nil, "", signing.Invalid, 0},
		"throttled with seconds":      {429, http.Header{"Retry-After": {"7"}}, "", signing.RateLimited, 7},
		"throttled with a date":       {429, http.Header{"Retry-After": {now.Add(9 * time.Second).Format(http.TimeFormat)}}, "", signing.RateLimited, 9},
		"retry in the past":           {503, http.Header{"Retry-After": {now.Add(-time.Hour).Format(http.TimeFormat)}}, "", signing.Unavailable, 0},
		"retry in ten years":          {503, http.Header{"Retry-After": {"315360000"}}, "", signing.Unavailable, 3600},
		"nonsense to retry":           {503, http.Header{"Retry-After": {"-5"}}, "", signing.Unavailable, 0},
		"teapot":                      {418, nil, "", signing.Invalid, 0},
		"odd server error":            {599, nil, "", signing.Internal, 0},
		"a body that is not JSON":     {403, problem, "{", signing.Denied, 0},
		"a code that its status lies": {500, problem, `{"code":"denied","detail":"x"}`, signing.Internal, 0},
		"a code nobody knows":         {403, problem, `{"code":"maybe","detail":"x"}`, signing.Denied, 0},
		"allowed, in an error":        {403, problem, `{"status":200,"code":"","detail":"x"}`, signing.Denied, 0},
		"negative wait":               {429, problem, `{"code":"rate_limited","retryAfterSeconds":-9}`, signing.RateLimited, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if c.header == nil {
				c.header = http.Header{}
			}
			p := api.ParseProblem(c.status, c.header, []byte(c.body), now)
			if p.Code != c.code || p.Status != c.status || p.RetryAfterSeconds != c.retry {
				t.Errorf("got %+v", p)
			}
			if p.Err().Message == "" {
				t.Error("no message")
			}
		})
	}
}

// FuzzProblem: any answer becomes a problem with a known code, a message and
// texts within bounds.
func FuzzProblem(f *testing.F) {
	f.Add(403, "application/problem+json", "", []byte(`{"code":"denied","detail":"no","reasons":{"rule":"origin","children":[{"rule":"x"}]}}`))
	f.Add(502, "text/html", "7", []byte("<html>"))
	f.Add(429, "application/problem+json; charset=utf-8", "Thu, 01 Oct 2026 12:00:09 GMT", []byte(`{"retryAfterSeconds":1e9}`))
	f.Add(200, "application/problem+json", "", []byte(`{"code":"\u0000"}`))
	f.Add(400, ";;;", "99999999999999999999", []byte(strings.Repeat("[", 20000)))
	f.Fuzz(func(t *testing.T, status int, contentType, retry string, data []byte) {
		p := api.ParseProblem(status, http.Header{"Content-Type": {contentType}, "Retry-After": {retry}}, data, now)
		if known, _ := api.CodeOfStatus(status); p.Code != known {
			t.Fatalf("code %q of status %d", p.Code, status)
		}
		if p.Err().Message == "" || len(p.Detail) > 9<<10 || p.RetryAfterSeconds < 0 || p.RetryAfterSeconds > 3600 {
			t.Fatalf("%+v", p)
		}
	})
}
