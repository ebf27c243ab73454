package approval

import (
	"slices"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// breakGlassPeople is how many people it takes to do without the quorum.
	breakGlassPeople = 2
	// clockSkew is how far a forge's clock may be ahead of ours.
	clockSkew = 5 * time.Minute
)

// Count counts approvals, in the order in which they came, against a rule.
// Approval.Groups says which groups each person is in. What does not count is
// listed with the reason: given for another basis, expired at now, in a way that
// the policy does not name, by somebody who is excluded, or withdrawn by a later
// denial of the same person. Each author in excluded who has no account makes
// every group need one person more.
func Count(rule signing.ApprovalRule, approvals []signing.Approval, excluded []signing.Exclusion, dir *Directory, basis signing.Digest, now time.Time) signing.Tally {
	why, unmapped := dir.persons(excluded)
	c := counting{rule: rule, dir: dir, why: why, basis: basis, now: now, at: map[string]int{}}
	for _, a := range approvals {
		if a.Deny {
			c.deny(a)
		}
	}
	for i, a := range approvals {
		if !a.Deny {
			c.approve(a, approvals[i+1:])
		}
	}
	t := signing.Tally{Denied: c.denied, Ignored: c.ignored, BreakGlass: c.broke()}
	places := make([]int, len(rule.Groups))
	for g, group := range rule.Groups {
		places[g] = max(0, group.Required) + unmapped
	}
	met := len(places) > 0
	for g, seated := range match(places, c.in) {
		met = met && places[g] > 0 && len(seated) >= places[g]
		group := signing.GroupTally{From: rule.Groups[g].From, Required: places[g], Extra: unmapped}
		slices.Sort(seated) // in the order in which they approved
		for _, i := range seated {
			group.People = append(group.People, c.people[i])
		}
		t.Groups = append(t.Groups, group)
	}
	t.Met = t.Denied == nil && (met || len(t.BreakGlass) >= breakGlassPeople)
	return t
}

// counting is the state of one Count.
type counting struct {
	rule    signing.ApprovalRule
	dir     *Directory
	why     map[string]string // excluded persons
	basis   signing.Digest
	now     time.Time
	people  []string // those whose approvals count, in order
	in      [][]int  // their groups
	at      map[string]int
	glass   []signing.Approval
	denied  *signing.Approval
	ignored []signing.IgnoredApproval
}

func (c *counting) ignore(a signing.Approval, why string) {
	c.ignored = append(c.ignored, signing.IgnoredApproval{Approval: a, Why: why})
}

// person is who gave an approval, by the mapping as it is now.
func (c *counting) person(a signing.Approval) string {
	if a.By.Known() {
		return c.dir.OfAccount(a.By)
	}
	return a.Person
}

// deny takes a denial. It needs no more than that it is about this basis: those
// who are excluded may say no, and a no does not expire.
func (c *counting) deny(a signing.Approval) {
	switch {
	case a.BasisDigest != c.basis:
		c.ignore(a, "given for another content")
	case c.rule.DenyEnds && c.denied == nil:
		c.denied = &a
	}
}

// approve takes an approval; later is what came after it.
func (c *counting) approve(a signing.Approval, later []signing.Approval) {
	person := c.person(a)
	excluded, no := c.why[person]
	if w, also := c.why[a.Person]; also && !no {
		excluded, no = w, true
	}
	switch {
	case person == "":
		c.ignore(a, "nobody is named")
	case a.By.Bot:
		c.ignore(a, "given by a program")
	case !a.By.Known() && len(c.dir.Accounts(person)) == 0:
		// Nobody could tell whether this is the author.
		c.ignore(a, "given by somebody with no account on a forge")
	case c.basis == "" || a.BasisDigest != c.basis:
		c.ignore(a, "given for another content")
	case !c.rule.Allows(a.Via):
		c.ignore(a, "given in a way that the policy does not name: "+a.Via)
	case no:
		c.ignore(a, "excluded: "+excluded)
	case a.At.IsZero() || a.At.After(c.now.Add(clockSkew)):
		c.ignore(a, "given at no time that can be right")
	case !c.now.Before(a.At.Add(c.rule.Expires)):
		c.ignore(a, "expired")
	case slices.ContainsFunc(later, func(d signing.Approval) bool {
		return d.Deny && d.BasisDigest == c.basis && c.person(d) == person
	}):
		c.ignore(a, "withdrawn")
	case a.Via == signing.ViaBreakGlass:
		c.breakGlass(a, person)
	case len(a.Groups) == 0:
		c.ignore(a, "given by somebody who is in none of the groups")
	default:
		c.seat(person, a.Groups)
	}
}

// seat adds a person once, with the groups of all of his approvals.
func (c *counting) seat(person string, groups []int) {
	i, ok := c.at[person]
	if !ok {
		i = len(c.people)
		c.at[person] = i
		c.people, c.in = append(c.people, person), append(c.in, nil)
	}
	for _, g := range groups {
		if !slices.Contains(c.in[i], g) {
			c.in[i] = append(c.in[i], g)
		}
	}
}

func (c *counting) breakGlass(a signing.Approval, person string) {
	if a.Ticket == "" {
		c.ignore(a, "an emergency without a ticket")
		return
	}
	a.Person = person
	c.glass = append(c.glass, a)
}

// broke returns the people of the emergency approvals that name one ticket, the
// one that most of them name: two unrelated emergencies do not add up.
func (c *counting) broke() []string {
	var most []string
	for _, first := range c.glass {
		var people []string
		for _, a := range c.glass {
			if a.Ticket == first.Ticket && !slices.Contains(people, a.Person) {
				people = append(people, a.Person)
			}
		}
		if len(people) > len(most) {
			most = people
		}
	}
	return most
}
