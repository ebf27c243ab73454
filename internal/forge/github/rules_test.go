package github

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/signing"
)

const day = "2026-01-0%dT00:00:00Z"

// branch makes main exist at head, with sha behind it, without any protection.
func branch(f *fake) {
	f.set("GET "+web+"/git/ref/heads/main", says(fmt.Sprintf(`{"ref":"refs/heads/main","object":{"type":"commit","sha":%q}}`, head)))
	f.set("GET "+web+"/compare/"+sha+"..."+head, says(fmt.Sprintf(`{"status":"ahead","ahead_by":1,"merge_base_commit":{"sha":%q},"commits":[]}`, sha)))
	f.set("GET "+web+"/rules/branches/main", says(`[]`))
	f.set("GET "+web+"/branches/main/protection", fails(404, "Branch not protected"))
}

// ruled protects main by ruleset 12 as a careful team would.
func ruled(f *fake) {
	branch(f)
	f.set("GET "+web+"/rules/branches/main", says(`[
		{"type":"pull_request","ruleset_id":12,"ruleset_source_type":"Repository","parameters":{"required_approving_review_count":2,"dismiss_stale_reviews_on_push":true,"require_code_owner_review":true,"require_last_push_approval":true}},
		{"type":"non_fast_forward","ruleset_id":12},{"type":"deletion","ruleset_id":12},{"type":"required_signatures","ruleset_id":12}]`))
	f.set("GET "+web+"/rulesets/12", says(`{"id":12,"name":"main","target":"branch","source_type":"Repository","source":"acme/web","enforcement":"active","updated_at":"2026-01-05T00:00:00Z","bypass_actors":[]}`))
}

var askRef = signing.ForgeQuestion{Ref: true, Since: true}

func TestABranchIsToldWithItsRulesets(t *testing.T) {
	f, c := world(t)
	ruled(f)
	got := question(t, c, origin(), askRef).Ref
	want := &signing.RefFacts{
		Ref: "refs/heads/main", Exists: true, Commit: head, Contains: true, Protected: true, RequiredApprovals: 2, CodeOwners: true, DismissStale: true,
		LastPushApproval: true, BlockForcePush: true, BlockDeletion: true, SignedCommits: true, Rules: []string{"ruleset 12 (main)"},
		Since: time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC),
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestABranchWithoutProtectionOrThatIsNotThereIsSaidSo(t *testing.T) {
	f, c := world(t)
	branch(f)
	got := question(t, c, origin(), askRef).Ref
	if d := cmp.Diff(&signing.RefFacts{Ref: "refs/heads/main", Exists: true, Commit: head, Contains: true}, got); d != "" {
		t.Error(d)
	}
	f.set("GET "+web+"/git/ref/heads/main", fails(404, "Not Found"))
	if got := question(t, c, origin(), askRef).Ref; got.Exists || got.Contains {
		t.Errorf("%+v", got)
	}
}

func TestABranchThatDoesNotHoldTheCommitIsSaidSo(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"diverged":         says(`{"status":"diverged","merge_base_commit":{"sha":"` + strings.Repeat("0", 40) + `"}}`),
		"behind":           says(fmt.Sprintf(`{"status":"behind","merge_base_commit":{"sha":%q}}`, head)),
		"another base":     says(fmt.Sprintf(`{"status":"ahead","merge_base_commit":{"sha":%q}}`, head)),
		"a contradiction":  says(fmt.Sprintf(`{"status":"diverged","merge_base_commit":{"sha":%q}}`, sha)),
		"no merge base":    says(`{"status":"ahead"}`),
		"no common commit": fails(404, "Not Found"),
	} {
		f, c := world(t)
		branch(f)
		f.set("GET "+web+"/compare/"+sha+"..."+head, h)
		if got := question(t, c, origin(), askRef).Ref; !got.Exists || got.Contains {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestABranchNameWithASlashIsAskedForAsItIs(t *testing.T) {
	f, c := world(t)
	f.set("GET "+web+"/git/ref/heads/release/1.x", says(fmt.Sprintf(`{"ref":"refs/heads/release/1.x","object":{"type":"commit","sha":%q}}`, sha)))
	f.set("GET "+web+"/rules/branches/release%2F1.x", says(`[{"type":"deletion","ruleset_id":12}]`))
	f.set("GET "+web+"/rulesets/12", says(`{"id":12,"name":"r","bypass_actors":[],"updated_at":"2026-01-05T00:00:00Z"}`))
	f.set("GET "+web+"/branches/release%2F1.x/protection", fails(404, "Branch not protected"))
	facts := question(t, c, origin(), signing.ForgeQuestion{Branches: []string{"refs/heads/release/1.x", "refs/heads/gone"}})
	if len(facts.Branches) != 2 || !facts.Branches[0].Contains || !facts.Branches[0].BlockDeletion || facts.Branches[1].Exists {
		t.Errorf("%+v %v", facts.Branches, facts.Unknown)
	}
	// A prefix must not be taken for the name.
	f.set("GET "+web+"/git/ref/heads/release/1.x", says(fmt.Sprintf(`{"ref":"refs/heads/release/1.x.y","object":{"type":"commit","sha":%q}}`, sha)))
	if _, err := c.Ask(t.Context(), origin(), nil, signing.ForgeQuestion{Branches: []string{"refs/heads/release/1.x"}}); !signing.Temporary(err) {
		t.Errorf("error = %v, want one about another ref", err)
	}
}

func TestTagsAreFollowedToTheirCommit(t *testing.T) {
	f, c := world(t)
	o := origin()
	o.SourceRepositoryRef = "refs/tags/v1.0.0"
	f.set("GET "+web+"/rulesets", says(`[]`))
	at := "GET " + web + "/git/ref/tags/v1.0.0"
	f.set(at, says(fmt.Sprintf(`{"ref":"refs/tags/v1.0.0","object":{"type":"commit","sha":%q}}`, sha)))
	if got := question(t, c, o, askRef).Ref; !got.Contains || got.Protected {
		t.Errorf("a light tag: %+v", got)
	}
	tag := strings.Repeat("a", 40)
	f.set(at, says(fmt.Sprintf(`{"ref":"refs/tags/v1.0.0","object":{"type":"tag","sha":%q}}`, tag)))
	f.set("GET "+web+"/git/tags/"+tag, says(fmt.Sprintf(`{"object":{"type":"commit","sha":%q}}`, sha)))
	if got := question(t, c, o, askRef).Ref; !got.Contains || got.Commit != sha {
		t.Errorf("an annotated tag: %+v", got)
	}
	f.set("GET "+web+"/git/tags/"+tag, says(fmt.Sprintf(`{"object":{"type":"tag","sha":%q}}`, tag)))
	if why := question(t, c, o, askRef).Unknown[signing.PartRef]; !strings.Contains(why, "levels") {
		t.Errorf("a tag of itself: %q", why)
	}
	f.set("GET "+web+"/git/tags/"+tag, says(fmt.Sprintf(`{"object":{"type":"tree","sha":%q}}`, tag)))
	if why := question(t, c, o, askRef).Unknown[signing.PartRef]; !strings.Contains(why, "no commit") {
		t.Errorf("a tag of a tree: %q", why)
	}
}

func TestATagIsProtectedByTheRulesetsWhoseConditionsItMeets(t *testing.T) {
	f, c := world(t)
	o := origin()
	o.SourceRepositoryRef = "refs/tags/v1.0.0"
	f.set("GET "+web+"/git/ref/tags/v1.0.0", says(fmt.Sprintf(`{"ref":"refs/tags/v1.0.0","object":{"type":"commit","sha":%q}}`, sha)))
	f.set("GET "+web+"/rulesets", says(`[{"id":1,"target":"tag","enforcement":"active"},{"id":2,"target":"tag","enforcement":"evaluate"},{"id":3,"target":"branch","enforcement":"active"},{"id":4,"target":"tag","enforcement":"active"}]`))
	set := func(id int, include, exclude, enforcement string) {
		f.set(fmt.Sprintf("GET %s/rulesets/%d", web, id), says(fmt.Sprintf(`{"id":%d,"name":"tags","target":"tag","source_type":"Organization","enforcement":%q,"updated_at":"2026-01-03T00:00:00Z","bypass_actors":[{"actor_id":5,"actor_type":"RepositoryRole","bypass_mode":"always"}],
			"conditions":{"ref_name":{"include":[%s],"exclude":[%s]}},"rules":[{"type":"update"},{"type":"deletion"}]}`, id, enforcement, include, exclude)))
	}
	set(1, `"refs/tags/v*"`, ``, "active")
	set(2, `"~ALL"`, ``, "evaluate")
	set(3, `"~ALL"`, ``, "active")
	set(4, `"refs/tags/w*"`, ``, "active")
	got := question(t, c, o, askRef).Ref
	if !got.Protected || !got.BlockForcePush || !got.BlockDeletion || !slices.Equal(got.Rules, []string{"ruleset 1 (tags)"}) || !slices.Equal(got.Bypass, []string{"admins"}) || got.Since.Day() != 3 {
		t.Errorf("%+v", got)
	}
	set(1, `"refs/tags/v*"`, `"refs/tags/v1.*"`, "active")
	if got := question(t, c, o, askRef).Ref; got.Protected {
		t.Errorf("an excluded tag: %+v", got)
	}
	set(1, `"refs/tags/v*"`, ``, "disabled") // since it was listed
	if got := question(t, c, o, askRef).Ref; got.Protected {
		t.Errorf("a disabled ruleset: %+v", got)
	}
	cannot(t, "GET "+web+"/rulesets", "metadata: read", signing.PartRef, o, askRef, func(n *fake) { maps.Copy(n.answers, f.answers) })
}

func TestRulesThatGuardNoWriterProtectNothing(t *testing.T) {
	f, c := world(t)
	branch(f)
	// GitHub's own example has patterns for messages and addresses only.
	f.set("GET "+web+"/rules/branches/main", says(recorded(t, "rules.json")))
	for _, id := range []string{"42", "73"} {
		f.set("GET "+web+"/rulesets/"+id, says(`{"id":`+id+`,"name":"x","bypass_actors":[]}`))
	}
	if got := question(t, c, origin(), askRef).Ref; got.Protected || len(got.Rules) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestWhoMayBypassIsListedAndUnknownIsSaid(t *testing.T) {
	f, c := world(t)
	ruled(f)
	f.set("GET "+web+"/rulesets/12", says(`{"id":12,"name":"main","updated_at":"2026-01-05T00:00:00Z","bypass_actors":[
		{"actor_id":null,"actor_type":"OrganizationAdmin","bypass_mode":"always"},{"actor_id":7,"actor_type":"Team","bypass_mode":"pull_request"},
		{"actor_id":34,"actor_type":"Integration","bypass_mode":"always"},{"actor_id":null,"actor_type":"DeployKey","bypass_mode":"always"},{"actor_id":4,"actor_type":"RepositoryRole","bypass_mode":"exempt"}]}`))
	want := []string{"organisation admins", "team 7 (in pull requests)", "app 34", "deploy keys", "role write"}
	if got := question(t, c, origin(), askRef).Ref.Bypass; !slices.Equal(got, want) {
		t.Errorf("bypass = %q, want %q", got, want)
	}
	for name, h := range map[string]http.HandlerFunc{
		"not shown":      says(`{"id":12,"name":"main","updated_at":"2026-01-05T00:00:00Z"}`),
		"null":           says(`{"id":12,"name":"main","updated_at":"2026-01-05T00:00:00Z","bypass_actors":null}`),
		"not to be read": fails(404, "Not Found"),
	} {
		f.set("GET "+web+"/rulesets/12", h)
		got := question(t, c, origin(), askRef).Ref
		if !got.Protected || len(got.Bypass) != 1 || !strings.HasPrefix(got.Bypass[0], "unknown: ") || !strings.Contains(got.Bypass[0], "administration: write") {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestClassicProtectionAddsToTheRulesets(t *testing.T) {
	f, c := world(t)
	ruled(f)
	f.set("GET "+web+"/rules/branches/main", says(`[{"type":"deletion","ruleset_id":12}]`))
	// GitHub's own example demands two reviews and allows force pushes and deletions.
	f.set("GET "+web+"/branches/main/protection", says(recorded(t, "protection.json")))
	got := question(t, c, origin(), askRef).Ref
	want := &signing.RefFacts{
		Ref: "refs/heads/main", Exists: true, Commit: head, Contains: true, Protected: true, RequiredApprovals: 2, CodeOwners: true, DismissStale: true,
		LastPushApproval: true, BlockDeletion: true, Rules: []string{"ruleset 12 (main)", "branch protection"}, SinceUnknown: "classic branch protection has no date",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestClassicProtectionTellsWhoPassesBy(t *testing.T) {
	f, c := world(t)
	branch(f)
	f.set("GET "+web+"/branches/main/protection", says(`{"url":"x","enforce_admins":{"enabled":false},"allow_force_pushes":{"enabled":false},"allow_deletions":{"enabled":false},"required_signatures":{"enabled":true},
		"required_pull_request_reviews":{"required_approving_review_count":1,"bypass_pull_request_allowances":{"users":[{"id":3,"login":"x"}],"teams":[{"id":4}],"apps":[{"id":5}]}}}`))
	got := question(t, c, origin(), askRef).Ref
	if !slices.Equal(got.Bypass, []string{"admins", "app 5", "team 4", "user 3"}) || !got.BlockForcePush || !got.BlockDeletion || !got.SignedCommits || got.RequiredApprovals != 1 || got.SinceUnknown == "" {
		t.Errorf("%+v", got)
	}
	// What is not said is not demanded, and nobody is known to be held to it.
	f.set("GET "+web+"/branches/main/protection", says(`{"url":"x"}`))
	got = question(t, c, origin(), askRef).Ref
	if got.BlockForcePush || got.BlockDeletion || got.SignedCommits || got.RequiredApprovals != 0 || !slices.Equal(got.Bypass, []string{"admins"}) {
		t.Errorf("%+v", got)
	}
}

func TestClassicProtectionThatCannotBeReadLeavesWhatRulesetsDemand(t *testing.T) {
	f, c := world(t)
	ruled(f)
	f.set("GET "+web+"/branches/main/protection", fails(403, "Resource not accessible by integration"))
	got := question(t, c, origin(), askRef).Ref
	if got.RequiredApprovals != 2 || len(got.Rules) != 2 || !strings.Contains(got.Rules[1], "administration: read") {
		t.Errorf("%+v", got)
	}
	// 404 without GitHub's word that the branch is not protected is no such word.
	f.set("GET "+web+"/rules/branches/main", says(`[]`))
	f.set("GET "+web+"/branches/main/protection", fails(404, "Not Found"))
	if facts := question(t, c, origin(), askRef); facts.Ref != nil || facts.Unknown[signing.PartRef] == "" {
		t.Errorf("%+v", facts.Ref)
	}
}

func TestARefCannotBeAsked(t *testing.T) {
	for _, c := range []struct{ route, permission string }{
		{"/git/ref/heads/main", "contents: read"}, {"/compare/" + sha + "..." + head, "contents: read"},
		{"/rules/branches/main", "metadata: read"},
	} {
		cannot(t, "GET "+web+c.route, c.permission, signing.PartRef, origin(), askRef, ruled)
	}
	cannot(t, "GET "+web+"/rules/branches/main", "metadata: read", signing.PartBranches+" refs/heads/main", origin(), signing.ForgeQuestion{Branches: []string{"refs/heads/main"}}, ruled)
	f, c := world(t)
	branch(f)
	f.set("GET "+web+"/branches/main/protection", fails(403, "Resource not accessible by integration"))
	if why := question(t, c, origin(), askRef).Unknown[signing.PartRef]; !strings.Contains(why, "administration: read") {
		t.Errorf("Unknown = %q", why)
	}
	f.set("GET "+web+"/branches/main/protection", says(`{}`))
	if _, err := c.Ask(t.Context(), origin(), nil, askRef); !signing.Temporary(err) {
		t.Errorf("error = %v", err)
	}
	f.set("GET "+web+"/branches/main/protection", fails(500, "oops"))
	if _, err := c.Ask(t.Context(), origin(), nil, askRef); !signing.Temporary(err) {
		t.Errorf("error = %v", err)
	}
}

// history gives ruleset 12 the versions, newest first; each is its state.
func history(f *fake, states ...string) {
	var list []string
	for i, s := range states {
		id := len(states) - i
		list = append(list, fmt.Sprintf(`{"version_id":%d,"updated_at":%q}`, id, fmt.Sprintf(day, id)))
		f.set(fmt.Sprintf("GET %s/rulesets/12/history/%d", web, id), says(fmt.Sprintf(`{"version_id":%d,"updated_at":%q,"state":%s}`, id, fmt.Sprintf(day, id), s)))
	}
	f.set("GET "+web+"/rulesets/12/history", says("["+strings.Join(list, ",")+"]"))
}

func TestTheHistoryTellsSinceWhenTheRulesAreAsTheyAre(t *testing.T) {
	const strict = `{"name":"%s","enforcement":"active","target":"branch","bypass_actors":[],"conditions":{},"rules":[{"type":"deletion"}]}`
	const evaluated = `{"name":"c","enforcement":"evaluate","target":"branch","bypass_actors":[],"conditions":{},"rules":[{"type":"deletion"}]}`
	const bypassed = `{"name":"c","enforcement":"active","target":"branch","bypass_actors":[{"actor_id":5}],"conditions":{},"rules":[{"type":"deletion"}]}`
	s := func(name string) string { return fmt.Sprintf(strict, name) }
	for _, c := range []struct {
		name   string
		states []string // five versions; the newest is of day 5
		want   int
	}{
		{"only renamed", []string{s("e"), s("d"), s("c"), s("b"), s("a")}, 1},
		{"was evaluated only", []string{s("e"), s("d"), evaluated, s("b"), s("a")}, 4},
		{"had a bypass", []string{s("e"), bypassed, s("c"), s("b"), s("a")}, 5},
		{"a state that cannot be read", []string{s("e"), s("d"), `"?"`, s("b"), s("a")}, 4},
	} {
		f, cl := world(t)
		ruled(f)
		history(f, c.states...)
		if got := question(t, cl, origin(), askRef).Ref; got.Since.Day() != c.want {
			t.Errorf("%s: since %v, want day %d", c.name, got.Since, c.want)
		}
	}
	// A history that ends before the ruleset's last change is not whole.
	f, c := world(t)
	ruled(f)
	history(f, s("d"), s("c"), s("b"), s("a"))
	if got := question(t, c, origin(), askRef).Ref; got.Since.Day() != 5 {
		t.Errorf("since %v, want the last change", got.Since)
	}
	f.set("GET "+web+"/rulesets/12/history", fails(403, "Resource not accessible by integration"))
	if got := question(t, c, origin(), askRef).Ref; got.Since.Day() != 5 {
		t.Errorf("since %v, want the last change", got.Since)
	}
	f.set("GET "+web+"/rulesets/12/history", fails(500, "oops"))
	if _, err := c.Ask(t.Context(), origin(), nil, askRef); !signing.Temporary(err) {
		t.Errorf("error = %v", err)
	}
}

func TestARulesetWithoutADateIsUnknown(t *testing.T) {
	f, c := world(t)
	ruled(f)
	f.set("GET "+web+"/rulesets/12", says(`{"id":12,"name":"main","bypass_actors":[]}`))
	if got := question(t, c, origin(), askRef).Ref; !got.Since.IsZero() || got.SinceUnknown == "" {
		t.Errorf("%+v", got)
	}
}

func TestTheYoungestRulesetTellsSince(t *testing.T) {
	f, c := world(t)
	ruled(f)
	f.set("GET "+web+"/rules/branches/main", says(`[{"type":"deletion","ruleset_id":12},{"type":"non_fast_forward","ruleset_id":13},{"type":"commit_message_pattern","ruleset_id":14}]`))
	f.set("GET "+web+"/rulesets/13", says(`{"id":13,"name":"new","source_type":"Organization","updated_at":"2026-01-07T00:00:00Z","bypass_actors":[]}`))
	f.set("GET "+web+"/rulesets/14", says(`{"id":14,"name":"words","source_type":"Organization","updated_at":"2026-01-09T00:00:00Z","bypass_actors":[]}`))
	if got := question(t, c, origin(), askRef).Ref; got.Since.Day() != 7 || got.SinceUnknown != "" {
		t.Errorf("since %v, %s", got.Since, got.SinceUnknown)
	}
	if got := question(t, c, origin(), signing.ForgeQuestion{Ref: true}).Ref; !got.Since.IsZero() {
		t.Error("since was told without being asked for")
	}
}

func TestPatternsOfRulesetsMatchAsGitHubDoes(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"refs/tags/v*", "refs/tags/v1.0.0", true},
		{"refs/tags/v*", "refs/tags/w1", false},
		{"refs/tags/*", "refs/tags/a/b", false},
		{"refs/tags/**/*", "refs/tags/a/b", true},
		{"refs/tags/**/*", "refs/tags/a", true},
		{"refs/tags/**", "refs/tags/a/b", false}, // "**" without a slash is "*"
		{"refs/**/v1", "refs/v1", true},
		{"refs/tags/v?", "refs/tags/v1", true},
		{"refs/tags/v?", "refs/tags/v", false},
		{"refs/tags/v?", "refs/tags/vä", true},
		{"refs/tags/v[0-9]", "refs/tags/v5", true},
		{"refs/tags/v[!0-9]", "refs/tags/v5", false},
		{"refs/tags/v[^0-9]", "refs/tags/vx", true},
		{"refs/tags/v[0-9", "refs/tags/v5", false},
		{`refs/tags/v\*`, "refs/tags/v*", true},
		{`refs/tags/v\*`, "refs/tags/v1", false},
		{"refs/tags/*", "refs/tags/.hidden", false},
		{"refs/tags/{a,b}", "refs/tags/a", false},
		{"refs/tags/*a*a*a*a*a*a*a*a*b", "refs/tags/" + strings.Repeat("a", 500), false},
		{"v1", "refs/tags/v1", false},
		{"refs/tags/" + strings.Repeat("*", 2000), "refs/tags/v1", false},
	} {
		if got := fnmatch(c.pattern, c.name, false); got != c.want {
			t.Errorf("fnmatch(%q, %q) = %v", c.pattern, c.name, got)
		}
	}
	// A doubt excludes.
	if matches([]string{"refs/tags/.x"}, []string{"refs/tags/*"}, "refs/tags/.x") || matches([]string{"~ALL"}, []string{strings.Repeat("*", 2000)}, "refs/tags/v1") {
		t.Error("a ref that may be excluded counts as protected")
	}
	if !matches([]string{"~ALL"}, nil, "refs/tags/v1") || matches(nil, nil, "refs/tags/v1") {
		t.Error("~ALL is all, and nothing is none")
	}
}
