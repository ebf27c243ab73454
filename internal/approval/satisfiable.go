package approval

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/signing"
)

// Satisfiable says whether the quorum of every group could be met at once by
// people who may approve: each counted once, whatever groups he is in and accounts
// he has, and no programs. members holds the accounts of each entry of the groups'
// From. A Reason that fails names who could approve and who is excluded and why.
func Satisfiable(rule signing.ApprovalRule, members map[string][]signing.Account, excluded []signing.Exclusion, dir *Directory) signing.Reason {
	why, unmapped := dir.persons(excluded)
	who := roster{dir: dir, why: why, label: map[string]string{}, at: map[string]int{}}
	places := make([]int, len(rule.Groups))
	for g, group := range rule.Groups {
		places[g] = group.Required + unmapped
		for _, from := range group.From {
			for _, a := range members[from] {
				who.add(a, g)
			}
		}
	}
	seated := match(places, who.in)
	r := signing.Reason{Rule: RuleQuorum, Pass: len(rule.Groups) > 0, Wanted: wanted(rule, unmapped)}
	var found []string
	for g, group := range rule.Groups {
		r.Pass = r.Pass && group.Required > 0 && len(seated[g]) >= places[g]
		var can []string
		for i, in := range who.in {
			if slices.Contains(in, g) {
				can = append(can, who.label[who.people[i]])
			}
		}
		found = append(found, fmt.Sprintf("%s: %d can approve (%s)", strings.Join(group.From, " or "), len(can), orNobody(join(can))))
	}
	if len(who.excluded) > 0 {
		found = append(found, "excluded: "+join(who.excluded))
	}
	r.Found = strings.Join(found, "; ")
	if !r.Pass {
		r.Fix = "let somebody else start the run, or add people to the teams who did not write, push or start this; nobody counts for two groups"
	}
	return r
}

// roster is who is in which group.
type roster struct {
	dir      *Directory
	why      map[string]string // excluded persons
	people   []string
	in       [][]int
	at       map[string]int // index in people; -1 for one who is excluded
	label    map[string]string
	excluded []string
}

func (w *roster) add(a signing.Account, group int) {
	if !a.Known() || a.Bot {
		return
	}
	person := w.dir.OfAccount(a)
	i, ok := w.at[person]
	if !ok {
		w.label[person] = person
		if person == a.Key() {
			w.label[person] = label(a)
		}
		i = len(w.people)
		if why, no := w.why[person]; no {
			i = -1
			w.excluded = append(w.excluded, w.label[person]+" ("+why+")")
		} else {
			w.people, w.in = append(w.people, person), append(w.in, nil)
		}
		w.at[person] = i
	}
	if i >= 0 && !slices.Contains(w.in[i], group) {
		w.in[i] = append(w.in[i], group)
	}
}

// wanted says what a rule asks for.
func wanted(rule signing.ApprovalRule, unmapped int) string {
	if len(rule.Groups) == 0 {
		return "at least one group that approves"
	}
	var parts []string
	for _, g := range rule.Groups {
		parts = append(parts, fmt.Sprintf("%d of %s", g.Required+unmapped, strings.Join(g.From, " or ")))
	}
	out := strings.Join(parts, " and ")
	if len(rule.Groups) > 1 {
		out += ", each a different person"
	}
	if unmapped > 0 {
		out += fmt.Sprintf(" (%d more than usual: authors without an account)", unmapped)
	}
	return out
}

func orNobody(s string) string {
	if s == "" {
		return "nobody"
	}
	return s
}
