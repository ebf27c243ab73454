package hub_test

import (
	"fmt"
	"net/url"
	"testing"

	"github.com/sealwright/sealwright/internal/devworld/hub"
)

func TestARefIsFoundByItsExactNameOnly(t *testing.T) {
	s := newScene(t, hub.Options{})
	sha := s.repo.Commit("release/1.x", hub.Commit{Message: "x", Author: s.ann, Committer: s.ann})
	s.repo.Tag("v1", sha, true)
	for path, want := range map[string]int{"heads/release/1.x": 200, "heads/release": 404, "heads/release/1": 404, "tags/v1": 200, "tags/v": 404, "heads/v1": 404} {
		if resp, _ := s.ask("GET", "/repos/acme/web/git/ref/"+path, ""); resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, resp.StatusCode, want)
		}
	}
	_, doc := s.ask("GET", "/repos/acme/web/git/ref/tags/v1", "")
	object := doc["object"].(map[string]any)
	if object["type"] != "tag" {
		t.Errorf("an annotated tag: %v", object)
	}
	if _, doc := s.ask("GET", "/repos/acme/web/git/tags/"+object["sha"].(string), ""); doc["object"].(map[string]any)["sha"] != sha {
		t.Errorf("the tag points to %v", doc)
	}
}

func TestABypassListAndAHistoryAreShownToAdministratorsOnly(t *testing.T) {
	s := newScene(t, hub.Options{})
	rules := s.repo.Rule(hub.Ruleset{Name: "main", Include: []string{"~ALL"}, Rules: []hub.Rule{{Type: "deletion"}}})
	at := fmt.Sprintf("/repos/acme/web/rulesets/%d", rules.ID)
	if _, doc := s.ask("GET", at, ""); doc["bypass_actors"] != nil || doc["rules"] == nil {
		t.Errorf("with administration: read: %v", doc)
	}
	if resp, _ := s.ask("GET", at+"/history", ""); resp.StatusCode != 403 {
		t.Errorf("the history: %d, want 403", resp.StatusCode)
	}
	s.in.Permit("administration", "write")
	if _, doc := s.ask("GET", at, ""); doc["bypass_actors"] == nil {
		t.Errorf("with administration: write: %v", doc)
	}
	if resp, _ := s.ask("GET", at+"/history", ""); resp.StatusCode != 200 {
		t.Errorf("the history: %d", resp.StatusCode)
	}
}

func TestABranchWithoutClassicProtectionIsSaidSoInGitHubsWords(t *testing.T) {
	s := newScene(t, hub.Options{})
	resp, doc := s.ask("GET", "/repos/acme/web/branches/main/protection", "")
	if resp.StatusCode != 404 || doc["message"] != "Branch not protected" {
		t.Errorf("%d %v", resp.StatusCode, doc)
	}
	s.repo.Protect("main", &hub.Protection{Reviews: true, Approvals: 2})
	if _, doc := s.ask("GET", "/repos/acme/web/branches/main/protection", ""); doc["required_pull_request_reviews"].(map[string]any)["required_approving_review_count"] != 2.0 {
		t.Errorf("%v", doc)
	}
}

func TestCommitsAreComparedByTheirAncestors(t *testing.T) {
	s := newScene(t, hub.Options{})
	first := s.repo.Branches["main"]
	topic := s.repo.Commit("topic", hub.Commit{Message: "a", Author: s.ann, Committer: s.ann})
	main := s.repo.Commit("main", hub.Commit{Message: "b", Author: s.ann, Committer: s.ann})
	for _, c := range []struct{ from, to, want string }{{first, topic, "ahead"}, {topic, first, "behind"}, {topic, main, "diverged"}, {main, main, "identical"}} {
		_, doc := s.ask("GET", "/repos/acme/web/compare/"+url.PathEscape(c.from+"..."+c.to), "")
		base, _ := doc["merge_base_commit"].(map[string]any)
		want := first
		if c.want == "identical" {
			want = main
		}
		if doc["status"] != c.want || base["sha"] != want {
			t.Errorf("%s: %v, merge base %v", c.want, doc["status"], base["sha"])
		}
	}
	if resp, _ := s.ask("GET", "/repos/acme/web/compare/nowhere..."+main, ""); resp.StatusCode != 404 {
		t.Errorf("an unknown commit: %d", resp.StatusCode)
	}
}
