package gitlab_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/devworld/lab"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/gitlab"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
)

// thread is the merge request of a build as a thread.
func (b *built) thread() signing.Thread {
	return signing.Thread{Forge: host, RepositoryID: id(b.project.ID), Repository: b.project.Path, Kind: signing.ThreadPull, Number: id(b.mr.IID), URL: b.url + "/acme/payments/-/merge_requests/" + id(b.mr.IID)}
}

func TestTheOpenMergeRequestIsAskedInElseTheMergedOne(t *testing.T) {
	b := build(t)
	find := func(commit string) (signing.Thread, error) { return b.client.Find(t.Context(), b.repo(), commit) }
	if got, err := find(b.commit); err != nil || got != b.thread() {
		t.Errorf("%+v, %v", got, err)
	}
	open := b.project.Open(lab.MR{Author: b.ada, Branch: "feature", Target: "main"})
	b.lab.Change(func() { open.MergeCommit = b.commit }) // holds the commit, and is open
	if got, err := find(b.commit); err != nil || got.Number != id(open.IID) {
		t.Errorf("%+v, %v", got, err)
	}
	open.Close()
	if got, err := find(b.commit); err != nil || got.Number != id(b.mr.IID) {
		t.Errorf("a closed one: %+v, %v", got, err)
	}
	_, err := find(b.project.Push(b.ada, "main", lab.Commit{Message: "alone"}))
	wantCode(t, err, signing.NotFound)
	_, err = find("main")
	wantCode(t, err, signing.Invalid)
	b.lab.Fail(lab.Fault{Path: regexp.MustCompile("merge_requests$"), Status: 500})
	_, err = find(b.commit)
	wantCode(t, err, signing.Unavailable)
}

func TestANoteIsReadAsItIsNow(t *testing.T) {
	b := build(t)
	n := b.mr.Comment(b.bob, "/sealwright approve sr_1 12345678")
	got, err := b.client.Comment(t.Context(), b.thread(), id(n.ID))
	if err != nil {
		t.Fatal(err)
	}
	want := forge.Comment{ID: id(n.ID), Kind: "note", Author: account(b.bob), Body: n.Body, Created: n.Created, Updated: n.Created, URL: b.thread().URL + "#note_" + id(n.ID)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAnEditedNoteSaysSoWhoeverEditedIt(t *testing.T) {
	b := build(t)
	n := b.mr.Comment(b.bob, "lgtm")
	b.lab.EditNote(b.mr, n, "/sealwright approve sr_1 12345678")
	got, err := b.client.Comment(t.Context(), b.thread(), id(n.ID))
	if err != nil || !got.Edited || got.Author.ID != id(b.bob.ID) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestNotesOfProgramsAndOfTheForgeSaySo(t *testing.T) {
	b := build(t)
	n := b.mr.Comment(b.bot, "/sealwright approve")
	if got, err := b.client.Comment(t.Context(), b.thread(), id(n.ID)); err != nil || !got.Author.Bot {
		t.Errorf("%+v, %v", got, err)
	}
	n = b.mr.Say(b.bob, lab.Note{Body: "changed the description\n\n/sealwright approve", System: true})
	if got, err := b.client.Comment(t.Context(), b.thread(), id(n.ID)); err != nil || !got.System {
		t.Errorf("%+v, %v", got, err)
	}
	hidden := b.lab.User("hidden")
	b.lab.Change(func() { hidden.Hidden = true })
	n = b.mr.Comment(hidden, "x")
	if got, err := b.client.Comment(t.Context(), b.thread(), id(n.ID)); err != nil || !got.Author.Bot {
		t.Errorf("who cannot be looked up is taken for a person: %+v, %v", got, err)
	}
}

func TestANoteOfAnotherPlaceIsNotFound(t *testing.T) {
	b := build(t)
	other := b.project.Open(lab.MR{Author: b.ada, Branch: "feature"})
	elsewhere := other.Comment(b.bob, "/sealwright approve")
	internal := b.mr.Say(b.bob, lab.Note{Body: "/sealwright approve", Internal: true})
	issue := b.project.OpenIssue(b.bob, "x").Comment(b.bob, "/sealwright approve")
	for _, n := range []*lab.Note{elsewhere, internal, issue} {
		_, err := b.client.Comment(t.Context(), b.thread(), id(n.ID))
		wantCode(t, err, signing.NotFound)
	}
	// An answer about another place is not believed either.
	n := b.mr.Comment(b.bob, "x")
	b.lab.Fail(lab.Fault{Path: regexp.MustCompile("/notes/"), Status: 200, Body: `{"id":` + id(n.ID) + `,"noteable_type":"MergeRequest","noteable_iid":` + id(other.IID) + `,"project_id":` + id(b.project.ID) + `,"author":{"id":1},"created_at":"2026-01-01T00:00:00Z","updated_at":"2026-01-01T00:00:00Z"}`})
	_, err := b.client.Comment(t.Context(), b.thread(), id(n.ID))
	wantCode(t, err, signing.NotFound, "another place")
	for _, bad := range []signing.Thread{{}, {Forge: "github.com", Kind: signing.ThreadPull, Number: "1", RepositoryID: "1"}, {Forge: host, Kind: "x", Number: "1", RepositoryID: "1"}, {Forge: host, Kind: signing.ThreadPull, Number: "1/notes", RepositoryID: "1"}} {
		_, err := b.client.Comment(t.Context(), bad, "1")
		wantCode(t, err, signing.Invalid)
	}
}

func TestNotesSinceAreReadOldestFirstOverPages(t *testing.T) {
	b := build(t)
	var all []*lab.Note
	for n := range 230 {
		all = append(all, b.mr.Comment(b.bob, "note "+id(int64(n))))
	}
	b.mr.Say(b.bob, lab.Note{Body: "internal", Internal: true})
	since := all[5].Created
	got, err := b.client.Comments(t.Context(), b.thread(), since)
	if err != nil || len(got) != 225 || got[0].ID != id(all[5].ID) || got[224].ID != id(all[229].ID) {
		t.Fatalf("%d notes, %v", len(got), err)
	}
	// Only pages that can hold newer ones are read.
	before := len(b.lab.Log())
	if got, err := b.client.Comments(t.Context(), b.thread(), all[228].Created); err != nil || len(got) != 2 {
		t.Errorf("%d, %v", len(got), err)
	}
	if n := len(b.lab.Log()) - before; n > 2 {
		t.Errorf("%d requests for two notes", n)
	}
	b.lab.Fail(lab.Fault{Path: regexp.MustCompile("/notes$"), Skip: 1, Status: 502})
	if got, err := b.client.Comments(t.Context(), b.thread(), time.Time{}); err == nil {
		t.Errorf("a page that failed was left out: %d notes", len(got))
	}
}

func TestOurOwnNotesAreFoundByMarkerAndAuthor(t *testing.T) {
	b := build(t)
	const marker = "<!-- sealwright sr_1 -->"
	mine, err := b.client.Post(t.Context(), b.thread(), marker+"\nhello\r\n\n")
	if err != nil {
		t.Fatal(err)
	}
	if mine.Body != marker+"\nhello" || mine.Edited || mine.Author.ID != id(b.bot.ID) {
		t.Errorf("%+v", mine)
	}
	b.mr.Comment(b.bob, marker+"\nforged")
	b.mr.Comment(b.bot, "text\n"+marker)
	got, err := b.client.Mine(t.Context(), b.thread(), marker)
	if err != nil || len(got) != 1 || got[0].ID != mine.ID {
		t.Errorf("%+v, %v", got, err)
	}
	if err := b.client.Edit(t.Context(), b.thread(), mine.ID, marker+"\nprogress"); err != nil {
		t.Fatal(err)
	}
	if got, err := b.client.Comment(t.Context(), b.thread(), mine.ID); err != nil || got.Body != marker+"\nprogress" || !got.Edited {
		t.Errorf("%+v, %v", got, err)
	}
	for range 2 { // collapsing twice is once
		if err := b.client.Collapse(t.Context(), b.thread(), mine.ID); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := b.client.Mine(t.Context(), b.thread(), marker); err != nil || len(got) != 1 || strings.Count(got[0].Body, "<details>") != 1 || !strings.Contains(got[0].Body, "progress") {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestNotesOfOthersAreNeverEdited(t *testing.T) {
	b := build(t)
	n := b.mr.Comment(b.bob, "mine") // the bot is a maintainer, and GitLab would let it
	wantCode(t, b.client.Edit(t.Context(), b.thread(), id(n.ID), "yours"), signing.Denied, "somebody else")
	wantCode(t, b.client.Collapse(t.Context(), b.thread(), id(n.ID)), signing.Denied)
}

func TestTextThatGitLabWouldCarryOutIsNotPosted(t *testing.T) {
	b := build(t)
	for _, body := range []string{"/close", "text\n/merge now", "```\nx\n```\n/approve", "~~~\n/close\n~~~", "  ```\n/close\n  ```", "```\nopen", "", " \n", "x\r\n/close\r\n"} {
		_, err := b.client.Post(t.Context(), b.thread(), body)
		wantCode(t, err, signing.Invalid)
	}
	_, err := b.client.Post(t.Context(), b.thread(), strings.Repeat("x", forge.MaxComment+1))
	wantCode(t, err, signing.TooLarge)
	if _, err := b.client.Post(t.Context(), b.thread(), "say\n```\n/sealwright approve sr_1 12345678\n```\nor a/b, / c, //d"); err != nil {
		t.Error(err)
	}
	if n := len(lab.Written(b.mr.Notes)); n != 1 {
		t.Errorf("%d notes were written", n)
	}
}

func TestAnIssueIsOpenedOnceAndClosed(t *testing.T) {
	b := build(t)
	const marker = "<!-- sealwright sr_1 -->"
	open := func() (signing.Thread, forge.Comment) {
		thread, c, err := b.client.Open(t.Context(), b.repo(), "Sign payments (sr_1)", marker+"\nquestion")
		if err != nil {
			t.Fatal(err)
		}
		return thread, c
	}
	thread, c := open()
	if thread.Kind != signing.ThreadIssue || !thread.Opened || thread.RepositoryID != id(b.project.ID) || c.Body != marker+"\nquestion" {
		t.Errorf("%+v %+v", thread, c)
	}
	if again, same := open(); again != thread || same.ID != c.ID || len(b.project.Issues) != 1 {
		t.Errorf("opened twice: %+v %+v", again, same)
	}
	if got, err := b.client.Comment(t.Context(), thread, c.ID); err != nil || got.Edited {
		t.Errorf("%+v, %v", got, err)
	}
	if err := b.client.Close(t.Context(), thread); err != nil || b.project.Issues[0].State != "closed" {
		t.Errorf("%v, %s", err, b.project.Issues[0].State)
	}
	theirs := signing.Thread{Forge: host, RepositoryID: id(b.project.ID), Kind: signing.ThreadIssue, Number: "1"}
	wantCode(t, b.client.Close(t.Context(), theirs), signing.Invalid)
	wantCode(t, b.client.Close(t.Context(), b.thread()), signing.Invalid)
}

func TestSomebodyElsesIssueOfTheSameTitleIsNotOurs(t *testing.T) {
	b := build(t)
	b.project.OpenIssue(b.bob, "Sign payments (sr_1)")
	thread, _, err := b.client.Open(t.Context(), b.repo(), "Sign payments (sr_1)", "question")
	if err != nil || thread.Number != "2" {
		t.Errorf("%+v, %v", thread, err)
	}
}

func TestAReactionThatIsThereAlreadyIsNoError(t *testing.T) {
	b := build(t)
	n := b.mr.Comment(b.bob, "x")
	for _, reaction := range []string{"+1", "+1", "-1", "eyes", "confused"} {
		if err := b.client.React(t.Context(), b.thread(), forge.Comment{ID: id(n.ID)}, reaction); err != nil {
			t.Errorf("%s: %v", reaction, err)
		}
	}
	if len(n.Awards) != 4 {
		t.Errorf("%+v", n.Awards)
	}
	wantCode(t, b.client.React(t.Context(), b.thread(), forge.Comment{ID: id(n.ID)}, "heart"), signing.Invalid)
	wantCode(t, b.client.React(t.Context(), b.thread(), forge.Comment{ID: "99999"}, "eyes"), signing.NotFound)
}

func TestAStatusIsSetAndSetAgain(t *testing.T) {
	b := build(t)
	set := func(s forge.CheckState, text string) *lab.Status {
		t.Helper()
		if err := b.client.Status(t.Context(), b.repo(), forge.Status{Commit: b.commit, Context: "sealwright/release", State: s, Description: text, URL: "https://x.dev/1", Ref: "main", Pipeline: id(b.run.ID)}); err != nil {
			t.Fatal(err)
		}
		return b.project.StatusOf(b.commit, "sealwright/release")
	}
	for _, c := range []struct {
		state forge.CheckState
		want  string
	}{{forge.CheckWaiting, "pending"}, {forge.CheckWaiting, "pending"}, {forge.CheckRunning, "running"}, {forge.CheckRunning, "running"}, {forge.CheckPassed, "success"}, {forge.CheckPassed, "success"}, {forge.CheckFailed, "failed"}, {forge.CheckCanceled, "canceled"}, {forge.CheckNeutral, "success"}, {"?", "failed"}} {
		if got := set(c.state, "text"); got.State != c.want || got.Pipeline != b.run.ID {
			t.Errorf("%s: %+v", c.state, got)
		}
	}
	if got := set(forge.CheckFailed, strings.Repeat("é", 400)); len([]rune(got.Description)) != 255 {
		t.Errorf("%d characters", len([]rune(got.Description)))
	}
	for _, bad := range []forge.Status{{Commit: "main", Context: "x"}, {Commit: b.commit, Context: "x", Pipeline: "x"}} {
		wantCode(t, b.client.Status(t.Context(), b.repo(), bad), signing.Invalid)
	}
}

func TestACheckIsACommitStatus(t *testing.T) {
	b := build(t)
	got, err := b.client.Check(t.Context(), b.repo(), forge.Check{Name: "sealwright", Commit: b.commit, State: forge.CheckFailed, Title: "Refused: no approval"})
	if s := b.project.StatusOf(b.commit, "sealwright"); err != nil || got != "" || s == nil || s.State != "failed" || s.Description != "Refused: no approval" {
		t.Errorf("%q, %v, %+v", got, err, s)
	}
	_, err = b.client.ReadCheck(t.Context(), b.repo(), "1")
	wantCode(t, err, signing.NotFound)
}

func TestWritingWithoutScopeOrRoleIsDeniedWithTheReason(t *testing.T) {
	b := build(t)
	b.env["TOKEN"] = b.lab.Token(b.bot, "read_api")
	b.client = b.connect(forge.Config{})
	_, err := b.client.Post(t.Context(), b.thread(), "x")
	wantCode(t, err, signing.Denied, "api")
	weak := b.lab.Bot("weak")
	b.project.Add(weak, lab.Reporter)
	b.env["TOKEN"] = b.lab.Token(weak)
	b.client = b.connect(forge.Config{})
	wantCode(t, b.client.Status(t.Context(), b.repo(), forge.Status{Commit: b.commit, Context: "x"}), signing.Denied, "developer")
}

func TestLimitsAreObeyedWithoutAsking(t *testing.T) {
	b := build(t)
	for name, c := range map[string]struct {
		header func() http.Header
		wait   time.Duration
	}{
		"retry after": {func() http.Header { return http.Header{"Retry-After": {"30"}} }, 30 * time.Second},
		"reset": {func() http.Header {
			return http.Header{"Ratelimit-Reset": {id(b.clock.now().Add(40 * time.Second).Unix())}}
		}, 40 * time.Second},
		"neither": {func() http.Header { return nil }, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			client := b.connect(forge.Config{})
			b.lab.Heal()
			b.lab.Fail(lab.Fault{Path: regexp.MustCompile("/user"), Status: 429, Header: c.header(), Body: "Retry later\n", Times: 1})
			_, err := client.Account(t.Context(), id(b.ada.ID))
			wantCode(t, err, signing.RateLimited)
			before := len(b.lab.Log())
			_, err = client.Account(t.Context(), id(b.ada.ID))
			wantCode(t, err, signing.RateLimited)
			if len(b.lab.Log()) != before {
				t.Error("it was asked within the time that GitLab named")
			}
			if e := signing.Public(err); e.RetryAfter > c.wait || e.RetryAfter < c.wait-5*time.Second {
				t.Errorf("wait %v, want about %v", e.RetryAfter, c.wait)
			}
			b.clock.add(c.wait + time.Second)
			if _, err := client.Account(t.Context(), id(b.ada.ID)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTheLastRequestOfALimitIsFollowedByNone(t *testing.T) {
	w := start(t)
	w.lab.Fail(lab.Fault{Path: regexp.MustCompile("/users/"), Status: 200, Times: 1, Header: http.Header{"Ratelimit-Remaining": {"0"}, "Ratelimit-Reset": {id(w.clock.now().Add(20 * time.Second).Unix())}}, Body: `{"id":` + id(w.ada.ID) + `,"username":"ada","state":"active","bot":false}`})
	if _, err := w.client.Account(t.Context(), id(w.ada.ID)); err != nil {
		t.Fatal(err)
	}
	_, err := w.client.Account(t.Context(), id(w.ada.ID))
	wantCode(t, err, signing.RateLimited)
}

func TestWhatIsLeftOfALimitIsToldForEachToken(t *testing.T) {
	b := build(t)
	told := map[string]int64{}
	c, err := gitlab.New(forge.Config{Host: host, API: b.url, Tokens: []forge.Token{{Token: "env:TOKEN"}}}, gitlab.Options{
		Outbound: outbound.Options{AllowHTTP: true}, Env: b.lookup, Now: b.clock.now,
		Left: func(forge, account, limit string, left int64) { told[forge+" "+account+" "+limit] = left },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, left := range []string{"599", "many", ""} {
		b.lab.Heal()
		b.lab.Fail(lab.Fault{Path: regexp.MustCompile("/users/"), Status: 200, Times: 1, Header: http.Header{"Ratelimit-Remaining": {left}}, Body: `{"id":` + id(b.ada.ID) + `,"username":"ada","state":"active","bot":false}`})
		if _, err := c.Account(t.Context(), id(b.ada.ID)); err != nil {
			t.Fatal(err)
		}
	}
	if len(told) != 1 || told[host+" token 1 core"] != 599 {
		t.Errorf("%v", told)
	}
}
