package approval

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/signing"
)

func on(forge, id, login string) signing.Account {
	return signing.Account{Forge: forge, ID: id, Login: login}
}

func gh(id, login string) signing.Account { return on("github.com", id, login) }

// directory knows alice, who has accounts on two forges and an identity.
func directory(t *testing.T) *Directory {
	t.Helper()
	d, problems := NewDirectory([]Person{
		{Name: "Alice Ä.", Accounts: []string{"github.com:1", "gitlab.acme.dev:8443:11"}, Identities: []PersonIdentity{{"https://idp.acme.dev", "alice"}}},
		{Name: "bob", Accounts: []string{"github.com:2"}},
	}, "people")
	if problems != nil {
		t.Fatal(problems)
	}
	return d
}

func TestAccountsAndIdentitiesOfAPersonAreOne(t *testing.T) {
	d := directory(t)
	for got, want := range map[string]string{
		d.OfAccount(gh("1", "renamed")):                                                   "Alice Ä.",
		d.OfAccount(on("gitlab.acme.dev:8443", "11", "")):                                 "Alice Ä.",
		d.OfIdentity(signing.Identity{Issuer: "https://idp.acme.dev", Subject: "alice"}):  "Alice Ä.",
		d.OfAccount(on("gitlab.com", "1", "alice")):                                       "gitlab.com:1",
		d.OfIdentity(signing.Identity{Issuer: "https://other.example", Subject: "alice"}): "https://other.example#alice",
		(*Directory)(nil).OfAccount(gh("1", "alice")):                                     "github.com:1",
		(*Directory)(nil).OfIdentity(signing.Identity{Issuer: "https://i", Subject: "s"}): "https://i#s",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if a, ok := d.Account("Alice Ä.", "github.com"); !ok || a != (signing.Account{Forge: "github.com", ID: "1"}) {
		t.Errorf("%v, %v", a, ok)
	}
	if _, ok := d.Account("bob", "gitlab.com"); ok || len((*Directory)(nil).Accounts("bob")) != 0 {
		t.Error("an account that is not there")
	}
}

func TestADirectoryThatIsAmbiguousIsRefused(t *testing.T) {
	many := make([]Person, MaxPeople+1)
	for name, c := range map[string]struct {
		people []Person
		want   string
	}{
		"account of two":     {[]Person{{Name: "a", Accounts: []string{"github.com:1"}}, {Name: "b", Accounts: []string{"github.com:1"}}}, "people[1].accounts[0]"},
		"account twice":      {[]Person{{Name: "a", Accounts: []string{"github.com:1", "github.com:1"}}}, "people[0].accounts[1]"},
		"identity of two":    {[]Person{{Name: "a", Identities: []PersonIdentity{{"https://i", "s"}}}, {Name: "b", Identities: []PersonIdentity{{"https://i", "s"}}}}, "people[1].identities[0]"},
		"name twice":         {[]Person{{Name: "a", Accounts: []string{"github.com:1"}}, {Name: "a", Accounts: []string{"github.com:2"}}}, "people[1].name"},
		"name of an account": {[]Person{{Name: "github.com:2", Accounts: []string{"github.com:1"}}}, "people[0].name"},
		"name of identity":   {[]Person{{Name: "https://i#s", Accounts: []string{"github.com:1"}}}, "people[0].name"},
		"no name":            {[]Person{{Accounts: []string{"github.com:1"}}}, "people[0].name"},
		"hidden in name":     {[]Person{{Name: "a\u200bb", Accounts: []string{"github.com:1"}}}, "people[0].name"},
		"login":              {[]Person{{Name: "a", Accounts: []string{"github.com:alice"}}}, "people[0].accounts[0]"},
		"leading zero":       {[]Person{{Name: "a", Accounts: []string{"github.com:01"}}}, "people[0].accounts[0]"},
		"upper case":         {[]Person{{Name: "a", Accounts: []string{"GitHub.com:1"}}}, "people[0].accounts[0]"},
		"no issuer":          {[]Person{{Name: "a", Identities: []PersonIdentity{{"idp", "s"}}}}, "people[0].identities[0]"},
		"no subject":         {[]Person{{Name: "a", Identities: []PersonIdentity{{"https://i", ""}}}}, "people[0].identities[0]"},
		"nothing":            {[]Person{{Name: "a"}}, "people[0]"},
		"too many":           {many, "people"},
	} {
		d, problems := NewDirectory(c.people, "people")
		if d != nil || len(problems) == 0 || problems[0].Path != c.want {
			t.Errorf("%s: %v, want one at %s", name, problems, c.want)
		}
	}
}

var everybody = signing.ApprovalRule{Exclude: []string{signing.ExcludeActor, signing.ExcludeAuthor, signing.ExcludePusher}}

// build is what a forge says of a build in which everybody had a part.
func build() (*signing.ForgeFacts, signing.Origin) {
	return &signing.ForgeFacts{
		Pulls: &signing.PullFacts{Pulls: []signing.PullRequest{
			{Number: "12", Merged: true, Author: gh("1", "opener"), Authors: []signing.Account{gh("2", "author"), gh("3", "committer"), gh("4", "coauthor")}, Unmapped: []string{"Eve <eve@old.example>"}, Pushers: []signing.Account{gh("5", "pusher")}, Merger: gh("6", "merger")},
			{Number: "13", Author: gh("7", "second"), Pushers: []signing.Account{gh("2", "author")}},
		}},
		Commit: &signing.CommitFacts{SHA: strings.Repeat("a", 40), Authors: []signing.Account{gh("8", "squasher"), gh("2", "author")}, Unmapped: []string{"Eve <eve@old.example>"}},
		Run:    &signing.RunFacts{Actor: gh("9", "actor"), Restarter: gh("10", "restarter")},
	}, signing.Origin{Forge: "github.com", ActorID: "9", Actor: "actor"}
}

func TestEverybodyWithAPartInTheBuildIsExcludedWithTheReason(t *testing.T) {
	facts, origin := build()
	got, reason := Exclude(everybody, facts, origin)
	if !reason.Pass {
		t.Fatalf("%+v", reason)
	}
	why := map[string]string{}
	for _, e := range got {
		why[e.Account.Login+e.Unmapped] = e.Why
	}
	if diff := cmp.Diff(map[string]string{
		"opener": "opened #12", "author": "wrote commits of #12; pushed to #13; wrote commit aaaaaaaaaaaa", "committer": "wrote commits of #12", "coauthor": "wrote commits of #12",
		"Eve <eve@old.example>": "wrote commits of #12; the forge knows no such account", "pusher": "pushed to #12", "merger": "merged #12", "second": "opened #13",
		"squasher": "wrote commit aaaaaaaaaaaa", "actor": "started the run", "restarter": "started the run again",
	}, why); diff != "" {
		t.Error(diff)
	}
	if len(got) != len(why) {
		t.Errorf("%d entries for %d people", len(got), len(why))
	}
}

func TestOnlyThoseWhomThePolicyNamesAreExcluded(t *testing.T) {
	for _, c := range []struct {
		exclude, want []string
	}{
		{nil, nil},
		{[]string{signing.ExcludeAuthor}, []string{"", "author", "coauthor", "committer", "opener", "second", "squasher"}},
		{[]string{signing.ExcludePusher}, []string{"author", "merger", "pusher"}},
		{[]string{signing.ExcludeActor}, []string{"actor", "restarter"}},
	} {
		facts, origin := build()
		got, reason := Exclude(signing.ApprovalRule{Exclude: c.exclude}, facts, origin)
		var logins []string
		for _, e := range got {
			logins = append(logins, e.Account.Login)
		}
		slices.Sort(logins)
		if diff := cmp.Diff(c.want, logins); diff != "" || !reason.Pass {
			t.Errorf("%v: %+v\n%s", c.exclude, reason, diff)
		}
	}
}

func TestTheActorOfTheTokenIsExcludedBesideThatOfTheForge(t *testing.T) {
	facts, origin := build()
	origin.ActorID, origin.Actor = "99", "earlier"
	got, _ := Exclude(everybody, facts, origin)
	if !slices.ContainsFunc(got, func(e signing.Exclusion) bool { return e.Account.ID == "99" && e.Why == "started the run" }) {
		t.Errorf("%v", got)
	}
}

func TestAnAuthorWhoseAccountIsGoneNeedsOneMoreApproval(t *testing.T) {
	facts, origin := build()
	facts.Pulls.Pulls[0].Author = signing.Account{}
	got, reason := Exclude(everybody, facts, origin)
	if !reason.Pass || !slices.ContainsFunc(got, func(e signing.Exclusion) bool { return e.Unmapped == "a deleted account" }) {
		t.Errorf("%v, %+v", got, reason)
	}
}

func TestWhatIsNotKnownOfABuildIsARefusal(t *testing.T) {
	for name, c := range map[string]struct {
		rule   []string
		change func(*signing.ForgeFacts)
		found  string
	}{
		"pulls not asked":      {everybody.Exclude, func(f *signing.ForgeFacts) { f.Pulls = nil }, "not asked"},
		"pulls unknown":        {[]string{signing.ExcludePusher}, func(f *signing.ForgeFacts) { f.Unknown = map[string]string{signing.PartPulls: "no permission"} }, "no permission"},
		"no pull (author)":     {[]string{signing.ExcludeAuthor}, func(f *signing.ForgeFacts) { f.Pulls.Pulls = nil }, "no pull request"},
		"no pull (pusher)":     {[]string{signing.ExcludePusher}, func(f *signing.ForgeFacts) { f.Pulls.Pulls = nil }, "no pull request"},
		"pushers unknown":      {[]string{signing.ExcludePusher}, func(f *signing.ForgeFacts) { f.Unknown = map[string]string{signing.PartPushers: "the fork is gone"} }, "fork is gone"},
		"commit not asked":     {[]string{signing.ExcludeAuthor}, func(f *signing.ForgeFacts) { f.Commit = nil }, "not asked"},
		"commit unknown":       {[]string{signing.ExcludeAuthor}, func(f *signing.ForgeFacts) { f.Unknown = map[string]string{signing.PartCommit: "404"} }, "404"},
		"commit of nobody":     {[]string{signing.ExcludeAuthor}, func(f *signing.ForgeFacts) { f.Commit = &signing.CommitFacts{} }, "without an author"},
		"run not asked":        {[]string{signing.ExcludeActor}, func(f *signing.ForgeFacts) { f.Run = nil }, "not asked"},
		"run unknown":          {[]string{signing.ExcludeActor}, func(f *signing.ForgeFacts) { f.Unknown = map[string]string{signing.PartRun: "expired"} }, "expired"},
		"run of nobody":        {[]string{signing.ExcludeActor}, func(f *signing.ForgeFacts) { f.Run.Actor = signing.Account{} }, "does not say who started it"},
		"restarted by nobody":  {[]string{signing.ExcludeActor}, func(f *signing.ForgeFacts) { f.Run.Restarter = signing.Account{Login: "ghost"} }, "started it again"},
		"nothing at all":       {everybody.Exclude, func(f *signing.ForgeFacts) { *f = signing.ForgeFacts{} }, "not asked"},
		"a word of the future": {[]string{"reviewer"}, func(*signing.ForgeFacts) {}, "reviewer"},
	} {
		facts, origin := build()
		c.change(facts)
		got, reason := Exclude(signing.ApprovalRule{Exclude: c.rule}, facts, origin)
		if got != nil || reason.Pass || !strings.Contains(reason.Found, c.found) || reason.Wanted == "" || reason.Fix == "" || reason.Rule != RuleExclude {
			t.Errorf("%s: %v, %+v", name, got, reason)
		}
	}
	if _, reason := Exclude(everybody, nil, signing.Origin{}); reason.Pass {
		t.Error("no facts at all are enough")
	}
	facts, origin := build()
	facts.Unknown = map[string]string{signing.PartPushers: "the fork is gone"}
	if _, reason := Exclude(signing.ApprovalRule{Exclude: []string{signing.ExcludeAuthor}}, facts, origin); !reason.Pass {
		t.Errorf("pushers who are not excluded need not be known: %+v", reason)
	}
}

func rules(groups ...signing.ApprovalGroup) signing.ApprovalRule {
	return signing.ApprovalRule{Groups: groups}
}

func TestAQuorumThatCannotBeMetIsRefusedWithTheNames(t *testing.T) {
	team := []signing.Account{gh("1", "alice"), gh("2", "bob"), gh("3", "carol")}
	bot := signing.Account{Forge: "github.com", ID: "9", Login: "robot", Bot: true}
	starter := []signing.Exclusion{{Account: gh("2", "bob"), Why: "started the run"}}
	for name, c := range map[string]struct {
		rule     signing.ApprovalRule
		members  map[string][]signing.Account
		excluded []signing.Exclusion
		pass     bool
		found    []string
	}{
		"enough":                               {rules(signing.ApprovalGroup{Required: 2, From: []string{"team"}}), map[string][]signing.Account{"team": team}, starter, true, []string{"2 can approve (Alice Ä., carol)"}},
		"the starter left":                     {rules(signing.ApprovalGroup{Required: 3, From: []string{"team"}}), map[string][]signing.Account{"team": team}, starter, false, []string{"2 can approve", "excluded: bob (started the run)"}},
		"nobody":                               {rules(signing.ApprovalGroup{Required: 1, From: []string{"team"}}), nil, nil, false, []string{"0 can approve (nobody)"}},
		"no groups":                            {rules(), map[string][]signing.Account{"team": team}, nil, false, nil},
		"zero people":                          {rules(signing.ApprovalGroup{From: []string{"team"}}), map[string][]signing.Account{"team": team}, nil, false, nil},
		"programs":                             {rules(signing.ApprovalGroup{Required: 1, From: []string{"team"}}), map[string][]signing.Account{"team": {bot, {Forge: "github.com", Login: "no id"}}}, nil, false, []string{"nobody"}},
		"two accounts":                         {rules(signing.ApprovalGroup{Required: 2, From: []string{"hub", "lab"}}), map[string][]signing.Account{"hub": team[:1], "lab": {on("gitlab.acme.dev:8443", "11", "alice")}}, nil, false, []string{"1 can approve (Alice Ä.)"}},
		"one for two":                          {rules(signing.ApprovalGroup{Required: 1, From: []string{"a"}}, signing.ApprovalGroup{Required: 1, From: []string{"b"}}), map[string][]signing.Account{"a": team[:1], "b": team[:1]}, nil, false, []string{"a: 1 can", "b: 1 can"}},
		"moved over":                           {rules(signing.ApprovalGroup{Required: 1, From: []string{"a"}}, signing.ApprovalGroup{Required: 1, From: []string{"b"}}), map[string][]signing.Account{"a": team[:2], "b": team[:1]}, nil, true, nil},
		"excluded as alice on the other forge": {rules(signing.ApprovalGroup{Required: 1, From: []string{"hub"}}), map[string][]signing.Account{"hub": team[:1]}, []signing.Exclusion{{Account: on("gitlab.acme.dev:8443", "11", "al"), Why: "opened !3"}}, false, []string{"excluded: Alice Ä. (opened !3)"}},
		"an unmapped author":                   {rules(signing.ApprovalGroup{Required: 3, From: []string{"team"}}), map[string][]signing.Account{"team": team}, []signing.Exclusion{{Unmapped: "Eve"}}, false, []string{"3 can approve"}},
	} {
		r := Satisfiable(c.rule, c.members, c.excluded, directory(t))
		if r.Pass != c.pass || r.Rule != RuleQuorum || r.Wanted == "" || !c.pass && r.Fix == "" {
			t.Errorf("%s: %+v", name, r)
		}
		for _, f := range c.found {
			if !strings.Contains(r.Found, f) {
				t.Errorf("%s: %q is not in %q", name, f, r.Found)
			}
		}
	}
}

func TestARefusalNamesNotMoreThanCanBeRead(t *testing.T) {
	var crowd []signing.Account
	var excluded []signing.Exclusion
	for i := range 5000 {
		a := gh(fmt.Sprint(i+1), "member")
		crowd, excluded = append(crowd, a), append(excluded, signing.Exclusion{Account: a, Why: "wrote it"})
	}
	r := Satisfiable(rules(signing.ApprovalGroup{Required: 1, From: []string{"team"}}), map[string][]signing.Account{"team": crowd}, excluded, nil)
	if r.Pass || len(r.Found) > 2000 {
		t.Errorf("%d bytes", len(r.Found))
	}
}

func TestEveryMemberOfALargeOrganisationIsCounted(t *testing.T) {
	members := map[string][]signing.Account{}
	var groups []signing.ApprovalGroup
	for g := range 10 {
		from := string(rune('a' + g))
		groups = append(groups, signing.ApprovalGroup{Required: 20, From: []string{from}})
		for i := range 5000 {
			members[from] = append(members[from], gh(fmt.Sprint(1000+100*g+i), ""))
		}
	}
	if r := Satisfiable(rules(groups...), members, nil, nil); !r.Pass {
		t.Errorf("%.300s", r.Found)
	}
}
