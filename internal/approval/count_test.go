package approval

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/signing"
)

var (
	noon  = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	basis = signing.DigestOf([]byte("basis"))
)

func yes(a signing.Account, groups ...int) signing.Approval {
	return signing.Approval{By: a, Person: a.Key(), Via: signing.ViaComment, At: noon.Add(-time.Hour), BasisDigest: basis, Groups: groups}
}

func no(a signing.Account) signing.Approval {
	d := yes(a, 0)
	d.Deny = true
	return d
}

func counted(rule signing.ApprovalRule, d *Directory, excluded []signing.Exclusion, approvals ...signing.Approval) signing.Tally {
	if rule.Expires == 0 {
		rule.Expires = 24 * time.Hour
	}
	if rule.Ways == nil {
		rule.Ways = []string{signing.ViaComment}
	}
	return Count(rule, approvals, excluded, d, basis, noon)
}

func two() signing.ApprovalRule {
	return rules(signing.ApprovalGroup{Required: 2, From: []string{"team"}})
}

func TestAQuorumOfDifferentPeopleIsMet(t *testing.T) {
	got := counted(two(), nil, nil, yes(gh("1", "a"), 0), yes(gh("2", "b"), 0), yes(gh("3", "c"), 0))
	if diff := cmp.Diff(signing.Tally{Met: true, Groups: []signing.GroupTally{{From: []string{"team"}, Required: 2, People: []string{"github.com:1", "github.com:2"}}}}, got); diff != "" {
		t.Error(diff)
	}
}

// TestWhatDoesNotCount: a second approval beside a good one, which must not make two.
func TestWhatDoesNotCount(t *testing.T) {
	d := directory(t)
	api := func(person string) signing.Approval {
		a := yes(signing.Account{}, 0)
		a.Person, a.Via = person, signing.ViaAPI
		return a
	}
	change := func(f func(*signing.Approval)) signing.Approval {
		a := yes(gh("3", "carol"), 0)
		f(&a)
		return a
	}
	for name, c := range map[string]struct {
		second   signing.Approval
		excluded []signing.Exclusion
		why      string // "" where it is only the same person
	}{
		"the same person twice":           {yes(gh("1", "alice"), 0), nil, ""},
		"the same person renamed":         {yes(gh("1", "alice2"), 0), nil, ""},
		"the same person on two forges":   {yes(on("gitlab.acme.dev:8443", "11", "alice"), 0), nil, ""},
		"the same person by the API":      {api("Alice Ä."), nil, ""},
		"somebody without an account":     {api("https://idp.acme.dev#zoe"), nil, "no account"},
		"nobody":                          {api(""), nil, "nobody"},
		"excluded":                        {yes(gh("3", "carol"), 0), []signing.Exclusion{{Account: gh("3", "x"), Why: "opened #1"}}, "opened #1"},
		"excluded on the other forge":     {yes(gh("2", "bob"), 0), []signing.Exclusion{{Account: gh("2", "bob"), Why: "pushed to #1"}}, "pushed to #1"},
		"excluded by the stored person":   {change(func(a *signing.Approval) { a.Person = "bob" }), []signing.Exclusion{{Account: gh("2", "bob"), Why: "opened #1"}}, "opened #1"},
		"expired":                         {change(func(a *signing.Approval) { a.At = noon.Add(-24 * time.Hour) }), nil, "expired"},
		"from the future":                 {change(func(a *signing.Approval) { a.At = noon.Add(time.Hour) }), nil, "no time"},
		"at no time":                      {change(func(a *signing.Approval) { a.At = time.Time{} }), nil, "no time"},
		"of another basis":                {change(func(a *signing.Approval) { a.BasisDigest = signing.DigestOf(nil) }), nil, "another content"},
		"of no basis":                     {change(func(a *signing.Approval) { a.BasisDigest = "" }), nil, "another content"},
		"in a way that is off":            {change(func(a *signing.Approval) { a.Via = signing.ViaReview }), nil, "a way"},
		"a program":                       {change(func(a *signing.Approval) { a.By.Bot = true }), nil, "program"},
		"in no group":                     {change(func(a *signing.Approval) { a.Groups = nil }), nil, "none of the groups"},
		"in a group that is not there":    {change(func(a *signing.Approval) { a.Groups = []int{-1, 7} }), nil, ""},
		"an emergency without permission": {change(func(a *signing.Approval) { a.Via, a.Ticket = signing.ViaBreakGlass, "OPS-1" }), nil, "a way"},
	} {
		rule := two()
		rule.Ways = []string{signing.ViaAPI, signing.ViaComment}
		got := counted(rule, d, c.excluded, yes(gh("1", "alice"), 0), c.second)
		if got.Met || len(got.Groups[0].People) != 1 {
			t.Errorf("%s: %+v", name, got)
		}
		if c.why != "" && (len(got.Ignored) != 1 || !strings.Contains(got.Ignored[0].Why, c.why)) {
			t.Errorf("%s: %+v, want %q", name, got.Ignored, c.why)
		}
	}
}

func TestAnApprovalCountsUntilItExpires(t *testing.T) {
	a := yes(gh("1", "a"), 0)
	a.At = noon.Add(-24*time.Hour + time.Nanosecond)
	if got := counted(rules(signing.ApprovalGroup{Required: 1}), nil, nil, a); !got.Met {
		t.Errorf("%+v", got)
	}
	if got := Count(signing.ApprovalRule{Groups: []signing.ApprovalGroup{{Required: 1}}, Ways: []string{signing.ViaComment}}, []signing.Approval{yes(gh("1", "a"), 0)}, nil, nil, basis, noon); got.Met {
		t.Error("a rule without an expiry takes approvals of any age")
	}
}

func TestNobodyCountsForTwoGroups(t *testing.T) {
	rule := rules(signing.ApprovalGroup{Required: 1, From: []string{"a"}}, signing.ApprovalGroup{Required: 1, From: []string{"b"}})
	if got := counted(rule, nil, nil, yes(gh("1", "x"), 0, 1)); got.Met {
		t.Errorf("%+v", got)
	}
	// Who came first makes room in the group that only the second is in.
	got := counted(rule, nil, nil, yes(gh("1", "x"), 0, 1), yes(gh("2", "y"), 0))
	if !got.Met || !slices.Equal(got.Groups[0].People, []string{"github.com:2"}) || !slices.Equal(got.Groups[1].People, []string{"github.com:1"}) {
		t.Errorf("%+v", got)
	}
	// One person whose accounts are in one group each is one person.
	if got := counted(rule, directory(t), nil, yes(gh("1", "alice"), 0), yes(on("gitlab.acme.dev:8443", "11", "alice"), 1)); got.Met {
		t.Errorf("%+v", got)
	}
}

func TestAnAuthorWithoutAnAccountAddsOneToEveryQuorum(t *testing.T) {
	rule := rules(signing.ApprovalGroup{Required: 1, From: []string{"a"}}, signing.ApprovalGroup{Required: 1, From: []string{"b"}})
	eve := []signing.Exclusion{{Unmapped: "Eve", Why: "wrote it"}}
	list := []signing.Approval{yes(gh("1", "a"), 0), yes(gh("2", "b"), 0), yes(gh("3", "c"), 1)}
	if got := counted(rule, nil, eve, list...); got.Met || got.Groups[1].Required != 2 || got.Groups[1].Extra != 1 {
		t.Errorf("%+v", got)
	}
	if got := counted(rule, nil, eve, append(list, yes(gh("4", "d"), 1))...); !got.Met {
		t.Errorf("%+v", got)
	}
}

func TestARuleWithoutAQuorumIsNeverMet(t *testing.T) {
	for _, rule := range []signing.ApprovalRule{rules(), rules(signing.ApprovalGroup{}), rules(signing.ApprovalGroup{Required: 1}, signing.ApprovalGroup{Required: -1})} {
		if got := counted(rule, nil, nil, yes(gh("1", "a"), 0, 1), yes(gh("2", "b"), 0, 1)); got.Met {
			t.Errorf("%+v is met", rule)
		}
	}
	if got := Count(two(), []signing.Approval{{}, {}}, nil, nil, "", noon); got.Met {
		t.Error("an empty basis is approved")
	}
}

func TestOneDenialEndsOrWithdraws(t *testing.T) {
	rule := rules(signing.ApprovalGroup{Required: 1, From: []string{"team"}})
	alice, excluded := gh("1", "alice"), []signing.Exclusion{{Account: gh("2", "bob"), Why: "opened #1"}}
	again := yes(alice, 0)

	if got := counted(rule, nil, excluded, yes(alice, 0), no(alice)); got.Met || got.Denied != nil || got.Ignored[0].Why != "withdrawn" {
		t.Errorf("withdrawn: %+v", got)
	}
	if got := counted(rule, nil, excluded, yes(alice, 0), no(alice), again); !got.Met {
		t.Errorf("given again: %+v", got)
	}
	if got := counted(rule, nil, excluded, yes(alice, 0), no(gh("2", "bob"))); !got.Met {
		t.Errorf("somebody else's denial: %+v", got)
	}
	// On the other forge it is the same person.
	if got := counted(rule, directory(t), nil, yes(alice, 0), no(on("gitlab.acme.dev:8443", "11", "alice"))); got.Met {
		t.Errorf("withdrawn elsewhere: %+v", got)
	}
	rule.DenyEnds = true
	for name, list := range map[string][]signing.Approval{
		"after":            {yes(alice, 0), no(alice)},
		"before":           {no(alice), yes(alice, 0)},
		"by the excluded":  {yes(alice, 0), no(gh("2", "bob"))},
		"and given again":  {no(alice), yes(alice, 0), again, yes(gh("3", "c"), 0)},
		"which is expired": {yes(alice, 0), func() signing.Approval { d := no(alice); d.At = noon.Add(-100 * time.Hour); return d }()},
	} {
		if got := counted(rule, nil, excluded, list...); got.Met || got.Denied == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
	other := no(alice)
	other.BasisDigest = signing.DigestOf([]byte("older"))
	if got := counted(rule, nil, nil, yes(alice, 0), other); !got.Met || got.Denied != nil || len(got.Ignored) != 1 {
		t.Errorf("a denial of something else: %+v", got)
	}
}

func TestTwoPeopleWithOneTicketBreakTheGlass(t *testing.T) {
	rule := rules(signing.ApprovalGroup{Required: 3, From: []string{"team"}})
	rule.Ways = []string{signing.ViaBreakGlass, signing.ViaComment}
	glass := func(a signing.Account, ticket string) signing.Approval {
		g := yes(a)
		g.Via, g.Ticket = signing.ViaBreakGlass, ticket
		return g
	}
	if got := counted(rule, nil, nil, glass(gh("1", "a"), "OPS-1"), glass(gh("2", "b"), "OPS-1")); !got.Met || len(got.BreakGlass) != 2 || len(got.Groups[0].People) != 0 {
		t.Errorf("%+v", got)
	}
	for name, list := range map[string][]signing.Approval{
		"one person":           {glass(gh("1", "alice"), "OPS-1"), glass(gh("1", "alice"), "OPS-1")},
		"one on two forges":    {glass(gh("1", "alice"), "OPS-1"), glass(on("gitlab.acme.dev:8443", "11", "alice"), "OPS-1")},
		"two tickets":          {glass(gh("1", "alice"), "OPS-1"), glass(gh("3", "c"), "OPS-2")},
		"no ticket":            {glass(gh("1", "alice"), ""), glass(gh("3", "c"), "")},
		"one and a comment":    {glass(gh("1", "alice"), "OPS-1"), yes(gh("3", "c"), 0)},
		"one of them excluded": {glass(gh("1", "alice"), "OPS-1"), glass(gh("2", "bob"), "OPS-1")},
		"withdrawn":            {glass(gh("1", "alice"), "OPS-1"), glass(gh("3", "c"), "OPS-1"), no(gh("3", "c"))},
	} {
		if got := counted(rule, directory(t), []signing.Exclusion{{Account: gh("2", "bob"), Why: "opened #1"}}, list...); got.Met {
			t.Errorf("%s: %+v", name, got)
		}
	}
	rule.DenyEnds = true
	if got := counted(rule, nil, nil, glass(gh("1", "a"), "OPS-1"), glass(gh("2", "b"), "OPS-1"), no(gh("3", "c"))); got.Met {
		t.Errorf("denied: %+v", got)
	}
}

// satisfiable tries every way to give people to places.
func satisfiable(places []int, in [][]int) bool {
	if len(in) == 0 {
		return !slices.ContainsFunc(places, func(n int) bool { return n > 0 })
	}
	if satisfiable(places, in[1:]) {
		return true
	}
	for _, g := range in[0] {
		if places[g] > 0 {
			places[g]--
			ok := satisfiable(places, in[1:])
			places[g]++
			if ok {
				return true
			}
		}
	}
	return false
}

// TestCountingAgreesWithTryingEverything: random groups, people with several
// accounts, exclusions and unmapped authors.
func TestCountingAgreesWithTryingEverything(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 7))
	met := 0
	for round := range 3000 {
		rule := signing.ApprovalRule{Expires: time.Hour, Ways: []string{signing.ViaComment}}
		members := map[string][]signing.Account{}
		for g := range 1 + random.IntN(3) {
			rule.Groups = append(rule.Groups, signing.ApprovalGroup{Required: 1 + random.IntN(2), From: []string{fmt.Sprint("team", g)}})
		}
		var people []Person
		var excluded []signing.Exclusion
		var approvals []signing.Approval
		var in [][]int // of those who are not excluded, by trying
		for p := range 1 + random.IntN(6) {
			person := Person{Name: fmt.Sprint("p", p)}
			mine := map[int]bool{}
			out := random.IntN(4) == 0
			for a := range 1 + random.IntN(2) {
				account := on([]string{"github.com", "gitlab.com"}[a], fmt.Sprint(p+1), person.Name)
				person.Accounts = append(person.Accounts, account.Key())
				approval := signing.Approval{By: account, Person: person.Name, Via: signing.ViaComment, At: noon, BasisDigest: basis}
				for g := range rule.Groups {
					if random.IntN(2) == 0 {
						mine[g] = true
						approval.Groups = append(approval.Groups, g)
						members[rule.Groups[g].From[0]] = append(members[rule.Groups[g].From[0]], account)
					}
				}
				approvals = append(approvals, approval)
				if out && a == 0 {
					excluded = append(excluded, signing.Exclusion{Account: account, Why: "opened #1"})
				}
			}
			people = append(people, person)
			if !out {
				var groups []int
				for g := range mine {
					groups = append(groups, g)
				}
				in = append(in, groups)
			}
		}
		unmapped := 0
		if random.IntN(5) == 0 {
			unmapped = 1
			excluded = append(excluded, signing.Exclusion{Unmapped: "Eve"})
		}
		places := make([]int, len(rule.Groups))
		for g, group := range rule.Groups {
			places[g] = group.Required + unmapped
		}
		want := satisfiable(places, in)
		d, problems := NewDirectory(people, "people")
		if problems != nil {
			t.Fatal(problems)
		}
		random.Shuffle(len(approvals), func(i, j int) { approvals[i], approvals[j] = approvals[j], approvals[i] })
		tally := Count(rule, approvals, excluded, d, basis, noon)
		if got := Satisfiable(rule, members, excluded, d); got.Pass != want || tally.Met != want {
			t.Fatalf("round %d: satisfiable %v, met %v, want %v\n%+v\n%+v", round, got.Pass, tally.Met, want, rule, approvals)
		}
		seen := map[string]bool{}
		for g, group := range tally.Groups {
			for _, p := range group.People {
				if seen[p] || len(group.People) > places[g] {
					t.Fatalf("round %d: %s counts twice, or %+v is too full", round, p, group)
				}
				seen[p] = true
			}
		}
		if want {
			met++
		}
	}
	if met < 300 || met > 2700 {
		t.Errorf("%d of 3000 are met: the cases say little", met)
	}
}
