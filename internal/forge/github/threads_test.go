package github

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/devworld/hub"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
)

func (s *scene) find(commit string) (signing.Thread, error) {
	return s.client.Find(s.t.Context(), s.at(s.repo), commit)
}

// comment reads one again.
func (s *scene) comment(t signing.Thread, id string) forge.Comment {
	s.t.Helper()
	m, err := s.client.Comment(s.t.Context(), t, id)
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

func (s *scene) post(t signing.Thread, body string) forge.Comment {
	s.t.Helper()
	m, err := s.client.Post(s.t.Context(), t, body)
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

func TestTheThreadOfACommitIsItsOpenPullRequestElseTheMergedOne(t *testing.T) {
	s := newScene(t)
	head := s.pull.HeadSHA
	got, err := s.find(head)
	want := s.thread(s.pull.Issue)
	want.URL, want.Installation = "https://github.com/acme/web/pull/1", account(&hub.User{ID: s.in.ID}).ID
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("open: %v %s", err, diff)
	}
	// A second one on top of it holds the commit too; the head is what counts.
	s.repo.Commit("more", hub.Commit{Message: "more", Author: s.bob, Parents: []string{head}})
	s.repo.Pull(s.bob, "More", "more", "main")
	if got, err = s.find(head); err != nil || got.Number != "1" {
		t.Errorf("of two open ones: %+v, %v; want the one whose head it is", got, err)
	}
	merge := s.pull.Merge(s.bob)
	for _, sha := range []string{head, merge} {
		if got, err = s.find(sha); err != nil || got.Number != "1" || got.Kind != signing.ThreadPull {
			t.Errorf("merged: %+v, %v", got, err)
		}
	}
}

func TestACommitOfNoPullRequestHasNoThread(t *testing.T) {
	s := newScene(t)
	direct := s.repo.Commit("main", hub.Commit{Message: "direct", Author: s.bob})
	_, err := s.find(direct)
	wantCode(t, err, signing.NotFound)
	_, err = s.find(strings.Repeat("0", 40)) // no such commit
	wantCode(t, err, signing.NotFound)
	_, err = s.find("main")
	wantCode(t, err, signing.Invalid)
	s.pull.Close()
	_, err = s.find(s.pull.HeadSHA) // closed, not merged
	wantCode(t, err, signing.NotFound)
	s.spoil("GET", "/pulls$", 500)
	_, err = s.find(direct)
	wantCode(t, err, signing.Unavailable)
}

func TestAnEditedCommentSaysSo(t *testing.T) {
	s := newScene(t)
	th := s.thread(s.pull.Issue)
	said := s.hub.Say(s.pull.Issue, s.bob, "lgtm")
	id := commentID(kindComment, said.ID)
	if m := s.comment(th, id); m.Edited || m.System || m.Body != "lgtm" || m.Author != account(s.bob) || m.Kind != "comment" {
		t.Errorf("%+v", m)
	}
	// Somebody else edits it in the second it was made: no date shows that.
	s.hub.EditComment(said, s.ann, "/sealwright approve")
	if m := s.comment(th, id); !m.Edited || !m.Created.Equal(m.Updated) {
		t.Errorf("edited at once: %+v, want Edited without a later date", m)
	}
	s.pass(time.Minute)
	other := s.hub.Say(s.pull.Issue, s.bob, "a")
	s.pass(time.Minute)
	s.hub.EditComment(other, s.bob, "b")
	if m := s.comment(th, commentID(kindComment, other.ID)); !m.Edited {
		t.Errorf("edited later: %+v", m)
	}
	review := s.hub.Submit(s.pull, s.bob, "APPROVED", "fine")
	if m := s.comment(th, commentID(kindReview, review.ID)); m.Edited || m.Commit != s.pull.HeadSHA || m.Kind != "review" {
		t.Errorf("a review: %+v", m)
	}
	s.hub.EditReview(review, s.ann, "/sealwright approve")
	if m := s.comment(th, commentID(kindReview, review.ID)); !m.Edited {
		t.Errorf("an edited review: %+v, want Edited", m)
	}
}

func TestWhetherACommentWasEditedMustBeKnown(t *testing.T) {
	s := newScene(t)
	said := s.hub.Say(s.pull.Issue, s.bob, "lgtm")
	s.spoil("POST", "^/graphql$", 502)
	_, err := s.client.Comment(t.Context(), s.thread(s.pull.Issue), commentID(kindComment, said.ID))
	wantCode(t, err, signing.Unavailable)
}

func TestACommentOfAnotherThreadIsNotThere(t *testing.T) {
	s := newScene(t)
	other := s.repo.Issue(s.ann, "another", "")
	said := s.hub.Say(other, s.bob, "/sealwright approve")
	id := commentID(kindComment, said.ID)
	_, err := s.client.Comment(t.Context(), s.thread(s.pull.Issue), id)
	wantCode(t, err, signing.NotFound)
	if m := s.comment(s.thread(other), id); m.Body == "" {
		t.Error("in its own thread it must be there")
	}
	s.hub.DeleteComment(said, s.bob)
	_, err = s.client.Comment(t.Context(), s.thread(other), id)
	wantCode(t, err, signing.NotFound)
	for _, bad := range []string{"", "1", "issuecomment-", "issuecomment-1/../2", "issuecomment-+1", "pullrequestreview-x"} {
		_, err = s.client.Comment(t.Context(), s.thread(other), bad)
		wantCode(t, err, signing.Invalid)
	}
	foreign := s.thread(other)
	foreign.Forge = "gitlab.com"
	_, err = s.client.Comment(t.Context(), foreign, id)
	wantCode(t, err, signing.Invalid)
}

func TestWhatAnAppWritesInSomebodysNameIsOfTheSystem(t *testing.T) {
	s := newScene(t)
	said := s.hub.SayVia(s.pull.Issue, s.bob, s.app, "/sealwright approve")
	if m := s.comment(s.thread(s.pull.Issue), commentID(kindComment, said.ID)); !m.System {
		t.Errorf("%+v, want System", m)
	}
}

func TestCommentsAreAllThatWasMadeSinceInOrder(t *testing.T) {
	s := newScene(t)
	i := s.pull.Issue
	s.hub.Say(i, s.bob, "old")
	s.pass(time.Minute)
	since := s.clock()
	for range 130 { // more than one page
		s.hub.Say(i, s.bob, "many")
	}
	s.pass(time.Second)
	s.hub.Submit(s.pull, s.bob, "COMMENTED", "review")
	s.hub.Submit(s.pull, s.bob, "APPROVED", "") // without a text
	s.pass(time.Second)
	s.hub.Note(s.pull, s.bob, "main.go", "note")
	s.pass(time.Second)
	edited := s.hub.Say(i, s.bob, "last")
	s.hub.EditComment(edited, s.ann, "edited")
	got, err := s.client.Comments(t.Context(), s.thread(i), since.Add(500*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 133 {
		t.Fatalf("%d comments, want 133", len(got))
	}
	var bodies []string
	for _, m := range got[129:] {
		bodies = append(bodies, m.Kind+" "+m.Body)
	}
	if diff := cmp.Diff([]string{"comment many", "review review", "review_comment note", "comment edited"}, bodies); diff != "" {
		t.Error(diff)
	}
	if got[0].Edited || !got[132].Edited {
		t.Errorf("edited: %v and %v, want the last one only", got[0].Edited, got[132].Edited)
	}
	issue := s.repo.Issue(s.ann, "an issue", "")
	s.hub.Say(issue, s.bob, "x")
	if got, err := s.client.Comments(t.Context(), s.thread(issue), time.Time{}); err != nil || len(got) != 1 {
		t.Errorf("of an issue: %v, %v", got, err)
	}
	s.spoil("GET", "/reviews$", 500)
	_, err = s.client.Comments(t.Context(), s.thread(i), since)
	wantCode(t, err, signing.Unavailable)
}

func TestOursIsWhatOurOwnAppWrote(t *testing.T) {
	s := newScene(t)
	th := s.thread(s.pull.Issue)
	const marker = "<!-- sealwright sr_1 -->"
	mine := s.post(th, marker+"\nquestion")
	s.hub.Say(s.pull.Issue, s.eve, marker+"\ncopied by somebody")
	other := s.hub.App(hub.AppSpec{Slug: "other", Permissions: hub.Everything(), Key: rsaKey()})
	s.hub.Say(s.pull.Issue, other.Bot, marker+"\ncopied by another App")
	s.post(th, "no marker\n"+marker)
	got, err := s.client.Mine(t.Context(), th, marker)
	if err != nil || len(got) != 1 || got[0].ID != mine.ID {
		t.Errorf("%+v, %v; want only %s", got, err, mine.ID)
	}
}

func TestOnlyOurOwnCommentIsEditedOrHidden(t *testing.T) {
	s := newScene(t)
	th := s.thread(s.pull.Issue)
	mine := s.post(th, "one")
	if err := s.client.Edit(t.Context(), th, mine.ID, "two"); err != nil {
		t.Fatal(err)
	}
	if m := s.comment(th, mine.ID); m.Body != "two" {
		t.Errorf("%+v", m)
	}
	if err := s.client.Collapse(t.Context(), th, mine.ID); err != nil {
		t.Fatal(err)
	}
	s.hub.Do(func() {
		if c := s.pull.Comments[0]; c.Minimized != "OUTDATED" {
			t.Errorf("minimized %q, want OUTDATED", c.Minimized)
		}
	})
	said := s.hub.Say(s.pull.Issue, s.bob, "theirs")
	id := commentID(kindComment, said.ID)
	wantCode(t, s.client.Edit(t.Context(), th, id, "ours now"), signing.Denied, "somebody else's")
	wantCode(t, s.client.Collapse(t.Context(), th, id), signing.Denied, "somebody else's")
	if m := s.comment(th, id); m.Body != "theirs" {
		t.Errorf("%+v, want it as it was", m)
	}
}

func TestTextThatGitHubWouldNotKeepIsNotSent(t *testing.T) {
	s := newScene(t)
	th := s.thread(s.pull.Issue)
	_, err := s.client.Post(t.Context(), th, strings.Repeat("x", forge.MaxComment+1))
	wantCode(t, err, signing.TooLarge)
	_, err = s.client.Post(t.Context(), th, " \n")
	wantCode(t, err, signing.Invalid)
	if m := s.post(th, strings.Repeat("x", forge.MaxComment)); len(m.Body) != forge.MaxComment {
		t.Errorf("%d bytes kept", len(m.Body))
	}
}

func TestWithoutThePermissionToWriteTheErrorNamesIt(t *testing.T) {
	s := newScene(t)
	s.in.Permit("issues", "read")
	s.in.Permit("pull_requests", "read")
	_, err := s.client.Post(t.Context(), s.thread(s.pull.Issue), "x")
	wantCode(t, err, signing.Denied, "pull_requests: write")
}

func TestAReactionIsOnceWhateverItIsOn(t *testing.T) {
	s := newScene(t)
	th := s.thread(s.pull.Issue)
	said, note, review := s.hub.Say(s.pull.Issue, s.bob, "x"), s.hub.Note(s.pull, s.bob, "a.go", "y"), s.hub.Submit(s.pull, s.bob, "APPROVED", "z")
	for _, id := range []string{commentID(kindComment, said.ID), commentID(kindReviewComment, note.ID), commentID(kindReview, review.ID)} {
		for range 2 {
			if err := s.client.React(t.Context(), th, s.comment(th, id), "+1"); err != nil {
				t.Errorf("%s: %v", id, err)
			}
		}
		wantCode(t, s.client.React(t.Context(), th, s.comment(th, id), "rocket science"), signing.Invalid)
	}
	s.hub.Do(func() {
		for _, r := range [][]hub.Reaction{said.Reactions, note.Reactions, review.Reactions} {
			if len(r) != 1 || r[0].By != s.app.Bot || r[0].Content != "+1" {
				t.Errorf("%+v, want one of ours", r)
			}
		}
	})
}

func TestAnIssueIsOpenedOnceAndClosedByWhoOpenedIt(t *testing.T) {
	s := newScene(t)
	open := func() (signing.Thread, forge.Comment) {
		th, m, err := s.client.Open(t.Context(), s.at(s.repo), "Signing sr_1", "<!-- m -->\nquestion")
		if err != nil {
			t.Fatal(err)
		}
		return th, m
	}
	th, m := open()
	if !th.Opened || th.Kind != signing.ThreadIssue || th.URL == "" || s.comment(th, m.ID).Body != "<!-- m -->\nquestion" {
		t.Errorf("%+v %+v", th, m)
	}
	if again, n := open(); again.Number != th.Number || n.ID != m.ID {
		t.Errorf("opened twice: %+v and %+v", th, again)
	}
	s.repo.Issue(s.eve, "Signing sr_2", "") // of somebody who knew the title
	if other, _, err := s.client.Open(t.Context(), s.at(s.repo), "Signing sr_2", "q"); err != nil || !other.Opened || other.Number == "3" {
		t.Errorf("%+v, %v; want one of our own", other, err)
	}
	for range 2 { // closing what is closed is no error
		if err := s.client.Close(t.Context(), th); err != nil {
			t.Fatal(err)
		}
	}
	s.hub.Do(func() {
		if !s.repo.Issues[2].Closed {
			t.Error("the issue is open still")
		}
	})
	wantCode(t, s.client.Close(t.Context(), s.thread(s.pull.Issue)), signing.Invalid)
	foreign := s.thread(s.repo.Issue(s.eve, "hers", ""))
	foreign.Opened = true
	wantCode(t, s.client.Close(t.Context(), foreign), signing.Denied)
}

func TestAThreadIsThatOfItsRepositoryID(t *testing.T) {
	s := newScene(t)
	th := s.thread(s.pull.Issue)
	th.RepositoryID = "42" // the name is another's now
	_, err := s.client.Post(t.Context(), th, "x")
	wantCode(t, err, signing.NotFound, "repository id 42")
	th = s.thread(s.pull.Issue)
	s.post(th, "x")
	s.repo.Rename("shop")
	s.pass(time.Minute)
	s.post(th, "y") // follows the rename
}

func TestACommentThatGraphQLDoesNotKnowMayHaveBeenEdited(t *testing.T) {
	f, c := world(t)
	f.set("GET "+web+"/issues/comments/9", says(`{"id":9,"node_id":"IC_9","user":{"id":7,"login":"bob","type":"User"},"body":"x","created_at":"2026-01-01T00:00:00Z","updated_at":"2026-01-01T00:00:00Z","issue_url":"https://api.github.com/repos/acme/web/issues/3"}`))
	th := signing.Thread{Forge: "github.com", RepositoryID: webID, Repository: "acme/web", Kind: signing.ThreadPull, Number: "3"}
	for answer, want := range map[string]bool{`{"data":{"nodes":[{"id":"IC_9","lastEditedAt":null}]}}`: false, `{"data":{"nodes":[null]}}`: true, `{"data":{"nodes":[]}}`: true, `{"data":{"nodes":[{"id":"IC_8","lastEditedAt":null}]}}`: true} {
		f.set("POST /graphql", says(answer))
		m, err := c.Comment(t.Context(), th, "issuecomment-9")
		if err != nil || m.Edited != want {
			t.Errorf("%s: edited %v, %v; want %v", answer, m.Edited, err, want)
		}
	}
}
