package devworld

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// ask posts to a control endpoint of w and returns status and answer.
func ask(t *testing.T, w *World, method, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, w.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.ControlToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }() // read only
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestPeopleOfTheDevWorldMergeAndTalk(t *testing.T) {
	t.Parallel()
	w, err := Start(Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() }) // the test is over
	wants := func(method, path, body string, status int, texts ...string) {
		t.Helper()
		got, text := ask(t, w, method, path, body)
		if got != status {
			t.Errorf("%s %s: %d %s", path, body, got, text)
		}
		for _, want := range texts {
			if !strings.Contains(text, want) {
				t.Errorf("%s %s: no %q in %s", path, body, want, text)
			}
		}
	}
	wants("POST", "/dev/merge", "", 400, "no forge")
	if _, err := w.StartForge("", ""); err != nil {
		t.Fatal(err)
	}
	wants("GET", "/dev/thread", "", 400, "nothing was merged")
	wants("POST", "/dev/comment", `{"text":"too early"}`, 400, "nothing was merged")
	wants("POST", "/dev/merge", `{"by":"mallory"}`, 400, "nobody is called")
	wants("POST", "/dev/merge", "", 200, "GITHUB_REPOSITORY='acme/shop'", "GITHUB_REPOSITORY_ID='81'", "GITHUB_ACTOR='octocat'")
	wants("POST", "/dev/comment", `{"text":" "}`, 400, "a comment has")
	wants("POST", "/dev/comment", `{"by":"wanda","text":"mine","pull":"9"}`, 400, "no pull request 9")
	wants("POST", "/dev/comment", `{"by":"wanda","text":"mine"}`, 200, "https://github.test/acme/shop/pull/1#issuecomment-")
	wants("POST", "/dev/comment", `{"text":"not yet","pull":"2"}`, 200, "/pull/2#")
	wants("GET", "/dev/thread", "", 200, "Price list 1 by wanda", "---- wanda at https://github.test/acme/shop/pull/1#issuecomment-", "\nmine")
	wants("POST", "/dev/merge", `{"by":"ann"}`, 200, "GITHUB_ACTOR='ann'", "GITHUB_ACTOR_ID='22'")
	wants("GET", "/dev/thread?pull=1", "", 200, "mine")
	wants("GET", "/dev/thread", "", 200, "Price list 2", "---- ann at", "not yet")
}
