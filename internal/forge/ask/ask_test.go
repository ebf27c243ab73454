package ask_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"
)

var noon = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// silent answers every part with err, and notes its name.
func silent(name string, err error) func(context.Context) error {
	return func(ctx context.Context) error {
		ask.Note(ctx, noon, name)
		return err
	}
}

func TestEachPartThatIsWantedIsAskedAndRecordedInOrder(t *testing.T) {
	denied := &signing.Error{Code: signing.Denied, Message: "not allowed"}
	f := &signing.ForgeFacts{}
	q := signing.ForgeQuestion{Run: true, Ref: true, Branches: []string{"refs/heads/main", "refs/heads/next"}, Checks: true}
	err := ask.Answer(t.Context(), q, "refs/tags/v1", f, ask.Parts{
		Run: silent("run", nil), Checks: silent("checks", denied), Pulls: silent("pulls", errors.New("nobody asked")),
		Ref: func(ctx context.Context, name string) (*signing.RefFacts, error) {
			ask.Note(ctx, noon, name)
			if name == "refs/heads/next" {
				return nil, denied
			}
			return &signing.RefFacts{Ref: name, Exists: true}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	var asked []string
	for _, o := range f.Asked {
		asked = append(asked, o.What)
	}
	want := &signing.ForgeFacts{
		Ref: &signing.RefFacts{Ref: "refs/tags/v1", Exists: true}, Branches: []signing.RefFacts{{Ref: "refs/heads/main", Exists: true}}, Asked: f.Asked,
		Unknown: map[string]string{signing.PartChecks: denied.Error(), signing.PartBranches + " refs/heads/next": denied.Error()},
	}
	if d := cmp.Diff(want, f); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"run", "refs/tags/v1", "refs/heads/main", "refs/heads/next", "checks"}, asked); d != "" {
		t.Error(d)
	}
}

func TestAForgeThatDoesNotAnswerIsTheErrorOfTheWhole(t *testing.T) {
	for name, err := range map[string]error{
		"unavailable": &signing.Error{Code: signing.Unavailable}, "limited": &signing.Error{Code: signing.RateLimited}, "a mistake of ours": &signing.Error{Code: signing.Internal},
		"no error of ours": errors.New("x"), "the end": context.Canceled,
	} {
		if got := ask.Answer(t.Context(), signing.ForgeQuestion{Run: true}, "", &signing.ForgeFacts{}, ask.Parts{Run: silent("run", err)}); !errors.Is(got, err) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestFewPartsAreAskedAtOnce(t *testing.T) {
	var now, most atomic.Int64
	slow := func(context.Context) error {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		time.Sleep(5 * time.Millisecond)
		now.Add(-1)
		return nil
	}
	q := signing.ForgeQuestion{Run: true, Pulls: true, Commit: true, Environment: true, Checks: true, Inputs: true, Attestation: true, WorkflowFile: true, PolicyFile: true, BuilderRepository: "a/b"}
	if err := ask.Answer(t.Context(), q, "", &signing.ForgeFacts{}, ask.Parts{Run: slow, Pulls: slow, Commit: slow, Environment: slow, Checks: slow, Inputs: slow, Attestation: slow, WorkflowFile: slow, PolicyFile: slow, Builder: slow}); err != nil {
		t.Fatal(err)
	}
	if n := most.Load(); n > 4 {
		t.Errorf("%d at once", n)
	}
}

func TestAnAnswerMeansTheSameOnEveryForge(t *testing.T) {
	w := ask.Words{Holder: "this App", Credentials: "our credentials", Renew: "renew", Grant: "grant", Give: "the App the"}
	for status, want := range map[int]signing.Code{
		301: signing.Unavailable, 400: signing.Invalid, 401: signing.Denied, 403: signing.Denied, 404: signing.NotFound, 409: signing.Conflict, 410: signing.NotFound, 422: signing.Invalid, 429: signing.Unavailable, 500: signing.Unavailable, 503: signing.Unavailable,
	} {
		e := w.Answered(status, strings.Repeat("x", 1000), "GET /x", "checks: read")
		if e.Code != want || len(e.Found) > 200 {
			t.Errorf("%d: %+v", status, e)
		}
		if named := strings.Contains(e.Expected+e.Fix, "checks: read"); named != (status == 403 || want == signing.NotFound) {
			t.Errorf("%d names what is needed: %v", status, named)
		}
	}
}

func TestGroupsOfPeopleHaveOneForm(t *testing.T) {
	w := ask.GroupWords{Host: "forge.test", Form: "ORG/TEAM", Kind: "team", Named: func(name string) bool { return strings.Contains(name, "/") }}
	got, err := w.Parse([]string{"forge.test:acme/release", "forge.test:@ann#101", "forge.test:permission=maintain"})
	if err != nil {
		t.Fatal(err)
	}
	want := []ask.Group{{Text: "forge.test:acme/release", Name: "acme/release"}, {Text: "forge.test:@ann#101", ID: "101"}, {Text: "forge.test:permission=maintain", Permission: "maintain"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for _, bad := range []string{"", "forge.test:", "other.test:acme/release", "forge.test:acme", "forge.test:@ann", "forge.test:@ann#", "forge.test:@ann#01", "forge.test:@ann#-1", "forge.test:permission=read", "forge.test:permission=", "xforge.test:a/b"} {
		if _, err := w.Parse([]string{bad}); !errors.Is(err, signing.Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := w.Elsewhere(got); !errors.Is(err, signing.Invalid) {
		t.Errorf("a permission in a repository of another forge: %v", err)
	}
	if err := w.Elsewhere(got[:2]); err != nil {
		t.Error(err)
	}
}

func TestIDsOfCommitsAndAccountsHaveOneForm(t *testing.T) {
	for s, want := range map[string]bool{strings.Repeat("a", 40): true, strings.Repeat("0", 64): true, strings.Repeat("a", 39): false, strings.Repeat("A", 40): false, strings.Repeat("g", 40): false, "main": false, "": false} {
		if ask.IsCommit(s) != want {
			t.Errorf("commit %q", s)
		}
	}
	for s, want := range map[string]bool{"1": true, "9223372036854775807": true, "9223372036854775808": false, "0": false, "-1": false, "01": false, "+1": false, "1 ": false, "": false} {
		if ask.IsNumber(s) != want {
			t.Errorf("number %q", s)
		}
	}
}
