package github

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/devworld/hub"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
)

func (s *scene) check(k forge.Check) string {
	s.t.Helper()
	id, err := s.client.Check(s.t.Context(), s.at(s.repo), k)
	if err != nil {
		s.t.Fatal(err)
	}
	return id
}

// aCheck is one that waits for people.
func (s *scene) aCheck() forge.Check {
	return forge.Check{
		Name: "sealwright/release", Commit: s.pull.HeadSHA, Key: "sr_1", State: forge.CheckWaiting, Title: "needs approval", Summary: "what is signed", Text: "reasons", URL: "https://sealwright.test/r/sr_1",
		Buttons: []forge.Button{{Label: "Approve", Description: "as the comment says", Identifier: "approve 3f9c2a7b"}},
		Notes:   []forge.Note{{Path: ".github/workflows/ci.yml", Level: "failure", Title: "refused", Message: "because"}},
	}
}

func TestACheckRunIsMadeAndThenUpdated(t *testing.T) {
	s := newScene(t)
	k := s.aCheck()
	k.ID = s.check(k)
	got, err := s.client.ReadCheck(t.Context(), s.at(s.repo), k.ID)
	want := k
	want.Buttons, want.Notes = nil, nil // they cannot be read
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	k.State, k.Title, k.Buttons = forge.CheckPassed, "signed", nil
	if id := s.check(k); id != k.ID {
		t.Errorf("id %s, want %s", id, k.ID)
	}
	s.hub.Do(func() {
		r := s.repo.Checks[0]
		if len(s.repo.Checks) != 1 || r.Status != "completed" || r.Conclusion != "success" || r.ExternalID != "sr_1" || len(r.Actions) != 0 || len(r.Annotations) != 1 {
			t.Errorf("%d, %+v; want one, with success, without buttons, with one annotation", len(s.repo.Checks), r)
		}
	})
	// And back: a run that is tried again.
	k.State = forge.CheckRunning
	s.check(k)
	if got, err := s.client.ReadCheck(t.Context(), s.at(s.repo), k.ID); err != nil || got.State != forge.CheckRunning {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestACheckRunWhoseMakingWasAnsweredToNobodyIsNotMadeTwice(t *testing.T) {
	s := newScene(t)
	f := s.hub.Fail(hub.Fault{Method: "POST", Path: reChecks, Status: 502, After: true, Times: 1})
	k := s.aCheck()
	_, err := s.client.Check(t.Context(), s.at(s.repo), k)
	wantCode(t, err, signing.Unavailable)
	s.check(k)
	s.hub.Do(func() {
		if len(s.repo.Checks) != 1 || len(s.repo.Checks[0].Annotations) != 1 {
			t.Errorf("%d check runs, want one with one annotation", len(s.repo.Checks))
		}
	})
	if f.Seen() != 1 {
		t.Errorf("the fault acted %d times", f.Seen())
	}
	k.Key = "sr_2"
	s.check(k)
	s.hub.Do(func() {
		if len(s.repo.Checks) != 2 {
			t.Errorf("%d check runs, want one for each request", len(s.repo.Checks))
		}
	})
}

func TestMoreThanFiftyAnnotationsGoInSeveralRequests(t *testing.T) {
	s := newScene(t)
	k := s.aCheck()
	k.Notes = nil
	for n := range 120 {
		k.Notes = append(k.Notes, forge.Note{Path: "a", Line: n + 1, Level: "warning", Message: fmt.Sprint(n)})
	}
	k.ID = s.check(k)
	s.check(k) // an update adds none that are there
	s.hub.Do(func() {
		a := s.repo.Checks[0].Annotations
		if len(a) != 120 || a[119].Message != "119" {
			t.Errorf("%d annotations, want 120 in order", len(a))
		}
		if s.repo.Checks[0].Text != "reasons" {
			t.Errorf("text %q was lost", s.repo.Checks[0].Text)
		}
	})
}

func TestTextsOfACheckRunAreCutAtALine(t *testing.T) {
	s := newScene(t)
	k := s.aCheck()
	k.Title = strings.Repeat("ü", 400)
	k.Text = "```\n" + strings.Repeat("a line of text with ünïcode\n", 4000)
	k.ID = s.check(k)
	got, err := s.client.ReadCheck(t.Context(), s.at(s.repo), k.ID)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Text) > forge.MaxSummary || !utf8.ValidString(got.Text) || strings.Count(got.Text, "```") != 2 || !strings.Contains(got.Text, "more bytes") {
		t.Errorf("%d bytes, %d fences, ends in %q", len(got.Text), strings.Count(got.Text, "```"), got.Text[len(got.Text)-60:])
	}
	if utf8.RuneCountInString(got.Title) != maxCheckTitle {
		t.Errorf("title of %d characters", utf8.RuneCountInString(got.Title))
	}
}

func TestWhatACheckRunCannotHoldIsRefused(t *testing.T) {
	s := newScene(t)
	for name, change := range map[string]func(*forge.Check){
		"four buttons":       func(k *forge.Check) { k.Buttons = make([]forge.Button, 4) },
		"a long label":       func(k *forge.Check) { k.Buttons[0].Label = strings.Repeat("x", 21) },
		"a long description": func(k *forge.Check) { k.Buttons[0].Description = strings.Repeat("x", 41) },
		"a long identifier":  func(k *forge.Check) { k.Buttons[0].Identifier = strings.Repeat("x", 21) },
		"no description":     func(k *forge.Check) { k.Buttons[0].Description = "" },
		"no state":           func(k *forge.Check) { k.State = "" },
		"a branch":           func(k *forge.Check) { k.Commit = "main" },
		"a note on nothing":  func(k *forge.Check) { k.Notes[0].Path = "" },
	} {
		k := s.aCheck()
		change(&k)
		if _, err := s.client.Check(t.Context(), s.at(s.repo), k); signing.CodeOf(err) != signing.Invalid {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
}

func TestTheCheckRunOfAnotherAppIsNeitherReadNorChanged(t *testing.T) {
	s := newScene(t)
	other := s.hub.App(hub.AppSpec{Slug: "other", Permissions: hub.Everything(), Key: rsaKey()})
	other.Install(s.org.User)
	var id int64 = 424242
	s.hub.Do(func() {
		s.repo.Checks = append(s.repo.Checks, &hub.CheckRun{ID: id, Repo: s.repo, App: other, Name: "sealwright/release", SHA: s.pull.HeadSHA, ExternalID: "sr_1", Status: "completed", Conclusion: "success", Summary: "forged"})
	})
	_, err := s.client.ReadCheck(t.Context(), s.at(s.repo), fmt.Sprint(id))
	wantCode(t, err, signing.Denied, "another App's")
	k := s.aCheck()
	if made := s.check(k); made == fmt.Sprint(id) {
		t.Error("the check run of another App was taken for ours")
	}
	k.ID = fmt.Sprint(id)
	_, err = s.client.Check(t.Context(), s.at(s.repo), k)
	wantCode(t, err, signing.Denied)
}

func TestAStatusSaysItInGitHubsWords(t *testing.T) {
	s := newScene(t)
	for state, want := range map[forge.CheckState]string{
		forge.CheckRunning: "pending", forge.CheckWaiting: "pending", forge.CheckPassed: "success", forge.CheckNeutral: "success", forge.CheckFailed: "failure", forge.CheckCanceled: "error",
	} {
		st := forge.Status{Commit: s.pull.HeadSHA, Context: "sealwright/release", State: state, Description: strings.Repeat("ü", 200), URL: "https://sealwright.test/"}
		if err := s.client.Status(t.Context(), s.at(s.repo), st); err != nil {
			t.Fatal(err)
		}
		s.hub.Do(func() {
			got := s.repo.Statuses[len(s.repo.Statuses)-1]
			if got.State != want || utf8.RuneCountInString(got.Description) != 140 || got.SHA != s.pull.HeadSHA || got.Creator != s.app.Bot {
				t.Errorf("%s: %+v", state, got)
			}
		})
	}
	err := s.client.Status(t.Context(), s.at(s.repo), forge.Status{Commit: s.pull.HeadSHA, Context: "x", State: "maybe"})
	wantCode(t, err, signing.Invalid)
}

func TestAFullMinuteOfReportsWaits(t *testing.T) {
	s := newScene(t)
	th := s.thread(s.pull.Issue)
	for range contentPerMinute {
		s.post(th, "x")
	}
	_, err := s.client.Post(t.Context(), th, "x")
	if e := wantCode(t, err, signing.RateLimited); e.RetryAfter <= 0 {
		t.Errorf("%+v, want to be told how long", e)
	}
	s.pass(time.Minute)
	s.post(th, "x")
}

// reChecks is where check runs are made.
var reChecks = regexp.MustCompile(`/check-runs$`)
