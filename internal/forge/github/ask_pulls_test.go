package github

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	topic = "3c0ffee0000000000000000000000000000000a1" // the pull request's head
	old   = "3c0ffee0000000000000000000000000000000a0" // where its branch left main
)

var askPulls = signing.ForgeQuestion{Pulls: true}

// merged makes sha the squash of pull request 7, which one person wrote, another
// pushed, and a third approved.
func merged(f *fake) {
	f.set("GET "+web+"/commits/"+sha+"/pulls", says(`[{"number":7,"base":{"ref":"main","repo":{"id":1296269}}}]`))
	f.set("GET "+web+"/pulls/7", says(fmt.Sprintf(`{"number":7,"state":"closed","html_url":"https://github.com/acme/web/pull/7","merged":true,"merged_at":"2026-01-02T03:04:05Z","merge_commit_sha":%q,
		"user":{"id":11,"login":"olga","type":"User"},"merged_by":{"id":14,"login":"max","type":"User"},"commits":1,
		"base":{"ref":"main","repo":{"id":1296269,"full_name":"acme/web"}},"head":{"ref":"topic","sha":%q,"repo":{"id":1296269,"full_name":"acme/web"}}}`, sha, topic)))
	f.set("GET "+web+"/pulls/7/commits", says(`[`+person(topic, 11, "fix")+`]`))
	f.set("GET "+web+"/pulls/7/reviews", says(`[`+review(1, 13, "APPROVED", topic, 1)+`]`))
	f.set("GET "+web+"/collaborators/u13/permission", says(`{"permission":"write","user":{"id":13,"login":"u13"}}`))
	f.set("GET "+web+"/activity", says(fmt.Sprintf(`[{"before":%q,"after":%q,"ref":"refs/heads/topic","activity_type":"push","actor":{"id":12,"login":"pia","type":"User"}}]`, old, topic)))
}

// person is a commit whose author and committer is account id.
func person(sha string, id int, message string) string {
	return fmt.Sprintf(`{"sha":%q,"author":{"id":%d,"login":"u%d","type":"User"},"committer":{"id":%d,"login":"u%d","type":"User"},"commit":{"message":%q,"author":{"name":"n","email":"u%d@acme.dev"},"committer":{"name":"n","email":"u%d@acme.dev"}}}`, sha, id, id, id, id, message, id, id)
}

func review(id, by int, state, commit string, day int) string {
	return fmt.Sprintf(`{"id":%d,"user":{"id":%d,"login":"u%d","type":"User"},"state":%q,"commit_id":%q,"submitted_at":"2026-01-%02dT00:00:00Z"}`, id, by, by, state, commit, day)
}

func ids(as []signing.Account) (out []string) {
	for _, a := range as {
		out = append(out, a.ID)
	}
	return out
}

func TestAMergedPullRequestIsToldWithAuthorsReviewsAndPushers(t *testing.T) {
	f, c := world(t)
	merged(f)
	facts := question(t, c, origin(), askPulls)
	acc := func(id, login string) signing.Account {
		return signing.Account{Forge: "github.com", ID: id, Login: login}
	}
	want := []signing.PullRequest{{
		Number: "7", URL: "https://github.com/acme/web/pull/7", Merged: true, At: stamp("2026-01-02T03:04:05Z"), Base: "main", Head: topic, Result: sha,
		Author: acc("11", "olga"), Authors: []signing.Account{acc("11", "u11")}, Pushers: []signing.Account{acc("12", "pia")}, Merger: acc("14", "max"),
		Reviews: []signing.Review{{By: acc("13", "u13"), Approved: true, Commit: topic, At: stamp("2026-01-01T00:00:00Z")}},
	}}
	if d := cmp.Diff(want, facts.Pulls.Pulls); d != "" {
		t.Error(d)
	}
	if facts.Unknown != nil {
		t.Error(facts.Unknown)
	}
}

func TestACommitWithoutAPullRequestIsAFact(t *testing.T) {
	f, c := world(t)
	f.set("GET "+web+"/commits/"+sha+"/pulls", says(`[]`))
	if got := question(t, c, origin(), askPulls).Pulls; got == nil || got.Pulls == nil || len(got.Pulls) != 0 {
		t.Errorf("%+v", got)
	}
	// One of a fork's own is no pull request of this repository.
	f.set("GET "+web+"/commits/"+sha+"/pulls", says(`[{"number":7,"base":{"ref":"main","repo":{"id":42}}},{"number":8,"base":{"ref":"main","repo":null}}]`))
	if got := question(t, c, origin(), askPulls).Pulls; len(got.Pulls) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestTheTrialMergeOfAnOpenPullRequestIsNotItsResult(t *testing.T) {
	f, c := world(t)
	merged(f)
	f.set("GET "+web+"/pulls/7", says(fmt.Sprintf(`{"number":7,"state":"open","merged":false,"merge_commit_sha":%q,"user":{"id":11,"login":"olga","type":"User"},"commits":1,
		"base":{"ref":"main","repo":{"id":1296269}},"head":{"ref":"topic","sha":%q,"repo":{"id":1296269,"full_name":"acme/web"}}}`, sha, topic)))
	got := question(t, c, origin(), askPulls).Pulls.Pulls[0]
	if !got.Open || got.Merged || got.Result != "" || got.Merger.Known() {
		t.Errorf("%+v", got)
	}
}

func TestTheNewestVerdictOfEachReviewerCounts(t *testing.T) {
	for _, c := range []struct {
		name, reviews string
		want          []string // ID and verdict
	}{
		{"changes asked for later", review(1, 13, "APPROVED", topic, 1) + "," + review(2, 13, "CHANGES_REQUESTED", topic, 2), []string{"13 false"}},
		{"approved later, listed first", review(2, 13, "APPROVED", topic, 2) + "," + review(1, 13, "CHANGES_REQUESTED", topic, 1), []string{"13 true"}},
		{"a comment changes nothing", review(1, 13, "APPROVED", topic, 1) + "," + review(2, 13, "COMMENTED", topic, 2), []string{"13 true"}},
		{"dismissed", review(1, 13, "DISMISSED", topic, 1), nil},
		{"not submitted", review(1, 13, "PENDING", topic, 1), nil},
		{"the account is gone", `{"id":1,"user":null,"state":"APPROVED"}`, nil},
	} {
		f, cl := world(t)
		merged(f)
		f.set("GET "+web+"/pulls/7/reviews", says("["+c.reviews+"]"))
		var got []string
		for _, r := range question(t, cl, origin(), askPulls).Pulls.Pulls[0].Reviews {
			got = append(got, fmt.Sprint(r.By.ID, " ", r.Approved))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	// GitHub's own example.
	f, c := world(t)
	merged(f)
	f.set("GET "+web+"/pulls/7/reviews", says(recorded(t, "reviews.json")))
	f.set("GET "+web+"/collaborators/octocat/permission", says(`{"permission":"admin","user":{"id":1,"login":"octocat"}}`))
	if got := question(t, c, origin(), askPulls).Pulls.Pulls[0].Reviews; len(got) != 1 || got[0].Commit != "ecdd80bb57125d7ba9641ffaa4d7d2c19d3f3091" {
		t.Errorf("%+v", got)
	}
}

func TestAReviewByWhoMayNotWriteSaysNothing(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"an outsider":              says(`{"permission":"read","user":{"id":13}}`),
		"nobody":                   says(`{"permission":"none","user":{"id":13}}`),
		"not found":                fails(404, "Not Found"),
		"the login is another's":   says(`{"permission":"admin","user":{"id":99}}`),
		"an answer without a user": says(`{"permission":"admin"}`),
	} {
		f, c := world(t)
		merged(f)
		f.set("GET "+web+"/collaborators/u13/permission", h)
		if got := question(t, c, origin(), askPulls).Pulls.Pulls[0].Reviews; len(got) != 0 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestAuthorsCommittersAndCoAuthorsAreAllFound(t *testing.T) {
	const noreply = "41+anyname@users.noreply.github.com"
	f, c := world(t)
	merged(f)
	msg := "fix\n\nCo-authored-by: Ann <" + noreply + ">\nco-authored-BY: Carl <Carl@acme.dev>\nCo-authored-by: Old <old@users.noreply.github.com>\nCo-authored-by: Nobody <nobody@example.org>\nCo-authored-by: broken\n"
	f.set("GET "+web+"/pulls/7/commits", says(fmt.Sprintf(`[{"sha":%q,"author":{"id":11,"login":"u11","type":"User"},"committer":{"id":21,"login":"dave","type":"User"},"commit":{"message":%q,"author":{"email":"a@b"},"committer":{"email":"c@d"}}}]`, topic, msg)))
	f.set("GET /user/41", says(`{"id":41,"login":"ann","type":"User"}`))
	f.set("GET /search/users?per_page=2&q=carl%40acme.dev+in%3Aemail", says(`{"total_count":1,"incomplete_results":false,"items":[{"id":43,"login":"carl","type":"User"}]}`))
	f.set("GET /search/users?per_page=2&q=nobody%40example.org+in%3Aemail", says(`{"total_count":0,"incomplete_results":false,"items":[]}`))
	f.set("GET /users/carl", says(`{"id":43,"login":"carl","type":"User","email":"carl@acme.dev"}`))
	p := question(t, c, origin(), askPulls).Pulls.Pulls[0]
	if got := ids(p.Authors); !slices.Equal(got, []string{"11", "21", "41", "43"}) {
		t.Errorf("authors = %q", got)
	}
	want := []string{"Old <old@users.noreply.github.com>", "Nobody <nobody@example.org>", "the co-author of commit " + topic}
	if d := cmp.Diff(want, p.Unmapped); d != "" {
		t.Error(d)
	}
}

func TestAnAddressThatIsNotCertainlyOneAccountsIsUnmapped(t *testing.T) {
	one := `{"total_count":1,"incomplete_results":false,"items":[{"id":43,"login":"carl","type":"User"}]}`
	for name, set := range map[string]func(*fake){
		"two accounts": func(f *fake) { f.set("GET /search/users", says(strings.Replace(one, `count":1`, `count":2`, 1))) },
		"incomplete":   func(f *fake) { f.set("GET /search/users", says(strings.Replace(one, "false", "true", 1))) },
		"another address": func(f *fake) {
			f.set("GET /search/users", says(one))
			f.set("GET /users/carl", says(`{"id":43,"login":"carl","email":"carl@acme.dev.example"}`))
		},
		"no address": func(f *fake) {
			f.set("GET /search/users", says(one))
			f.set("GET /users/carl", says(`{"id":43,"login":"carl","email":null}`))
		},
		"another id": func(f *fake) {
			f.set("GET /search/users", says(one))
			f.set("GET /users/carl", says(`{"id":44,"login":"carl","email":"carl@acme.dev"}`))
		},
		"gone":                func(f *fake) { f.set("GET /search/users", says(one)) },
		"may not be searched": func(f *fake) { f.set("GET /search/users", fails(403, "no")) },
	} {
		f, c := world(t)
		merged(f)
		set(f)
		f.set("GET "+web+"/pulls/7/commits", says(fmt.Sprintf(`[{"sha":%q,"author":null,"committer":{"id":21,"login":"dave","type":"User"},"commit":{"message":"x","author":{"name":"Carl","email":"carl@acme.dev"},"committer":{"email":"c@d"}}}]`, topic)))
		p := question(t, c, origin(), askPulls).Pulls.Pulls[0]
		if !slices.Equal(p.Unmapped, []string{"Carl <carl@acme.dev>"}) || !slices.Equal(ids(p.Authors), []string{"21"}) {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

func TestGitHubsPagesAreNoPersonAndWhoClaimsToBeThemIsOneWhoIsNotKnown(t *testing.T) {
	pages := `{"sha":%q,"author":{"id":11,"login":"u11","type":"User"},"committer":{"id":19864447,"login":"web-flow","type":"User"},"commit":{"message":"x","author":{},"committer":{"name":"GitHub","email":"noreply@github.com"},"verification":{"verified":%v}}}`
	f, c := world(t)
	merged(f)
	f.set("GET "+web+"/pulls/7/commits", says("["+fmt.Sprintf(pages, topic, true)+"]"))
	if got := ids(question(t, c, origin(), askPulls).Pulls.Pulls[0].Authors); !slices.Equal(got, []string{"11"}) {
		t.Errorf("authors = %q", got)
	}
	f.set("GET "+web+"/pulls/7/commits", says("["+fmt.Sprintf(pages, topic, false)+"]"))
	if got := ids(question(t, c, origin(), askPulls).Pulls.Pulls[0].Authors); !slices.Equal(got, []string{"11", "19864447"}) {
		t.Errorf("without GitHub's signature: authors = %q", got)
	}
}

func TestPushersAreFollowedBackToWhereTheBranchBegan(t *testing.T) {
	const first, replaced = "3c0ffee0000000000000000000000000000000b1", "3c0ffee0000000000000000000000000000000b2"
	act := func(before, after, kind string, id int) string {
		return fmt.Sprintf(`{"before":%q,"after":%q,"ref":"refs/heads/topic","activity_type":%q,"actor":{"id":%d,"login":"u%d","type":"User"}}`, before, after, kind, id, id)
	}
	zero := strings.Repeat("0", 40)
	for _, c := range []struct {
		name, activity string
		want           []string // empty: unknown
	}{
		{"two pushes", act(topic, zero, "branch_deletion", 9) + "," + act(first, topic, "push", 12) + "," + act(old, first, "push", 13), []string{"12", "13"}},
		{"made by its first push", act(zero, topic, "branch_creation", 12), []string{"12"}},
		{"a forced push", act(replaced, topic, "force_push", 12) + "," + act(zero, replaced, "branch_creation", 15), []string{"12", "15"}},
		{"an older branch of that name", act(old, topic, "push", 12) + "," + act(zero, old, "branch_creation", 16), []string{"12"}},
		{"a gap", act(first, topic, "push", 12), nil},
		{"what a forced push replaced is gone", act(replaced, topic, "force_push", 12), nil},
		{"nothing of the head", act(zero, first, "branch_creation", 12), nil},
		{"the account is gone", strings.Replace(act(old, topic, "push", 12), `{"id":12,"login":"u12","type":"User"}`, "null", 1), nil},
		{"another branch", strings.Replace(act(old, topic, "push", 12), "heads/topic", "heads/other", 1), nil},
	} {
		f, cl := world(t)
		merged(f)
		f.set("GET "+web+"/pulls/7", says(strings.Replace(pullText(topic), `"commits":1`, `"commits":2`, 1)))
		f.set("GET "+web+"/pulls/7/commits", says(`[`+person(first, 11, "a")+`,`+person(topic, 11, "b")+`]`))
		f.set("GET "+web+"/activity", says("["+c.activity+"]"))
		facts := question(t, cl, origin(), askPulls)
		got := ids(facts.Pulls.Pulls[0].Pushers)
		why := facts.Unknown[signing.PartPushers]
		if !slices.Equal(got, c.want) || (why == "") != (c.want != nil) {
			t.Errorf("%s: pushers %q, unknown %q; want %q", c.name, got, why, c.want)
		}
	}
}

// pullText is pull request 7 with one commit.
func pullText(head string) string {
	return fmt.Sprintf(`{"number":7,"state":"open","merged":false,"user":{"id":11,"login":"olga","type":"User"},"commits":1,"base":{"ref":"main","repo":{"id":1296269}},"head":{"ref":"topic","sha":%q,"repo":{"id":1296269,"full_name":"acme/web"}}}`, head)
}

func TestPushersOfAForkThatIsGoneAreUnknownAndTheRestIsTold(t *testing.T) {
	f, c := world(t)
	merged(f)
	f.set("GET "+web+"/pulls/7", says(strings.Replace(pullText(topic), `"repo":{"id":1296269,"full_name":"acme/web"}`, `"repo":null`, 1)))
	facts := question(t, c, origin(), askPulls)
	if len(facts.Pulls.Pulls) != 1 || len(facts.Pulls.Pulls[0].Reviews) != 1 || !strings.Contains(facts.Unknown[signing.PartPushers], "gone") {
		t.Errorf("%+v", facts)
	}
	merged(f)
	f.set("GET "+web+"/activity", fails(403, "Resource not accessible by integration"))
	facts = question(t, c, origin(), askPulls)
	if len(facts.Pulls.Pulls) != 1 || !strings.Contains(facts.Unknown[signing.PartPushers], "contents: read") {
		t.Errorf("%+v", facts)
	}
	f.set("GET "+web+"/activity", fails(503, "oops"))
	if _, err := c.Ask(t.Context(), origin(), nil, askPulls); !signing.Temporary(err) {
		t.Errorf("error = %v", err)
	}
}

func TestAPullRequestWhoseAuthorsCannotAllBeToldIsUnknown(t *testing.T) {
	f, c := world(t)
	merged(f)
	f.set("GET "+web+"/pulls/7", says(strings.Replace(pullText(topic), `"commits":1`, `"commits":251`, 1)))
	if facts := question(t, c, origin(), askPulls); facts.Pulls != nil || !strings.Contains(facts.Unknown[signing.PartPulls], "251") {
		t.Errorf("%+v", facts)
	}
	f.set("GET "+web+"/pulls/7", says(strings.Replace(pullText(topic), `"commits":1`, `"commits":2`, 1)))
	if _, err := c.Ask(t.Context(), origin(), nil, askPulls); !signing.Temporary(err) {
		t.Errorf("a commit is missing from the list: %v", err)
	}
	f.set("GET "+web+"/pulls/7", says(strings.Replace(pullText(topic), `{"id":11,"login":"olga","type":"User"}`, "null", 1)))
	if p := question(t, c, origin(), askPulls).Pulls.Pulls[0]; len(p.Unmapped) != 1 {
		t.Errorf("an opener who is gone: %+v", p)
	}
}

func TestPullRequestsCannotBeAsked(t *testing.T) {
	for _, route := range []string{"/commits/" + sha + "/pulls", "/pulls/7", "/pulls/7/commits", "/pulls/7/reviews"} {
		cannot(t, "GET "+web+route, "pull_requests: read", signing.PartPulls, origin(), askPulls, merged)
	}
}

func TestTheCommitIsToldWithItsPeople(t *testing.T) {
	f, c := world(t)
	q := signing.ForgeQuestion{Commit: true}
	at := "GET " + web + "/commits/" + sha
	f.set(at, says(strings.Replace(person(sha, 11, "fix the door\n\nbody"), `"commit":{`, `"commit":{"verification":{"verified":true},`, 1)))
	got := question(t, c, origin(), q).Commit
	if got.SHA != sha || !got.Verified || got.Subject != "fix the door" || !slices.Equal(ids(got.Authors), []string{"11"}) || got.Unmapped != nil {
		t.Errorf("%+v", got)
	}
	f.set(at, says(fmt.Sprintf(`{"sha":%q,"author":null,"committer":null,"commit":{"message":"x","author":null,"committer":{"name":"N","email":"not an address"}}}`, sha)))
	got = question(t, c, origin(), q).Commit
	if got.Verified || len(got.Authors) != 0 || len(got.Unmapped) != 2 {
		t.Errorf("%+v", got)
	}
	f.set(at, says(person(head, 11, "x")))
	if _, err := c.Ask(t.Context(), origin(), nil, q); !signing.Temporary(err) {
		t.Errorf("another commit: %v", err)
	}
	cannot(t, at, "contents: read", signing.PartCommit, origin(), q, func(*fake) {})
	f.set(at, fails(404, "Not Found"))
	if why := question(t, c, origin(), q).Unknown[signing.PartCommit]; why == "" {
		t.Error("a commit that is not there is no fact")
	}
}

func TestAServersPagesAndAddressesAreItsOwn(t *testing.T) {
	f, c := world(t, func(cfg *forge.Config, _ *Options) { cfg.Host = "ghe.acme.dev" })
	o := origin()
	o.Forge = "ghe.acme.dev"
	f.set("GET "+web+"/commits/"+sha, says(fmt.Sprintf(`{"sha":%q,"author":null,"committer":{"id":4,"login":"web-flow","type":"User"},"commit":{"message":"x","author":{"email":"41+x@users.noreply.ghe.acme.dev"},"committer":{}}}`, sha)))
	f.set("GET /user/41", says(`{"id":41,"login":"ann","type":"User"}`))
	got := question(t, c, o, signing.ForgeQuestion{Commit: true}).Commit
	if len(got.Authors) != 1 || got.Authors[0].Key() != "ghe.acme.dev:41" {
		t.Errorf("%+v", got)
	}
}

func TestADismissalTakesTheVerdictAway(t *testing.T) {
	f, c := world(t)
	merged(f)
	f.set("GET "+web+"/pulls/7/reviews", says("["+review(1, 13, "APPROVED", topic, 1)+","+review(2, 13, "DISMISSED", topic, 2)+"]"))
	if got := question(t, c, origin(), askPulls).Pulls.Pulls[0].Reviews; len(got) != 0 {
		t.Errorf("%+v", got)
	}
}
