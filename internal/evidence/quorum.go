package evidence

import (
	"fmt"
	"slices"
	"time"

	"github.com/sealwright/sealwright/internal/approval"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
)

// people handles the events about what people were asked and said.
func (l *life) people(ev audit.Event) error {
	r := &l.e.Request
	switch ev.Kind {
	case audit.RequestAsked:
		if err := l.waiting(ev); err != nil {
			return err
		}
		return agree(ev, map[string]string{
			"basis": string(r.Decision.BasisDigest), "round": ev.Attrs["round"], "thread": ev.Attrs["thread"], "comment": ev.Attrs["comment"], "why": ev.Attrs["why"],
			// Commands count in the repository of the build only.
			"forge": r.Origin.Forge, "source_id": r.Origin.SourceRepositoryIdentifier,
		}, "basis", "source_id")
	case audit.RequestReminded:
		return l.waiting(ev)
	case audit.CommandRefused:
		return nil // in whatever state it is; what was refused is in no record
	}
	if err := l.waiting(ev); err != nil {
		return err
	}
	if ev.Kind == audit.BreakGlass {
		return l.brokeGlass(ev)
	}
	n := l.said
	if n >= len(r.Approvals) {
		return refuse("an approval or denial is missing in the evidence", fmt.Sprintf("%d at least", n+1), fmt.Sprint(len(r.Approvals)))
	}
	if a := r.Approvals[n]; a.Deny != (ev.Kind == audit.RequestDisagreed) {
		return refuse("a yes for a no", ev.Kind, fmt.Sprintf("deny: %t", a.Deny))
	}
	if err := agree(ev, audit.Approved(r.Approvals[n]), "record", "basis"); err != nil {
		return err
	}
	l.said++
	return nil
}

// waiting refuses what can only happen while a decision waits for people.
func (l *life) waiting(ev audit.Event) error {
	if l.state != signing.AwaitingApproval || l.e.Request.Decision == nil {
		return refuse(ev.Kind+" of a request that waits for nobody", string(signing.AwaitingApproval), string(l.state))
	}
	return nil
}

// brokeGlass is the alarm that goes with an approval that was just told.
func (l *life) brokeGlass(ev audit.Event) error {
	if l.said == 0 || l.e.Request.Approvals[l.said-1].Via != signing.ViaBreakGlass {
		return refuse("an alarm without an emergency", signing.ViaBreakGlass, "another approval, or none")
	}
	return agree(ev, audit.BrokeGlass(l.e.Request.Approvals[l.said-1]), "record")
}

// approved makes a Request ready that waited for people. That has no event of its
// own, so that it is judged when signing begins: without the approvals of the
// decision it cannot.
func (l *life) approved(at time.Time) error {
	rule := l.e.Request.Decision.Approvals
	if l.state != signing.AwaitingApproval || rule == nil {
		return nil // become judges the state
	}
	if t := l.tally(at); !t.Met {
		return refuse("signing began without the approvals of its decision", fmt.Sprintf("the quorum of %d groups", len(rule.Groups)), fmt.Sprintf("%d approvals that count for nothing or too little", l.said))
	}
	if len(l.e.Tasks) == 0 {
		return refuse("the tasks are missing in the evidence", "one task at least", "")
	}
	return l.become(signing.Ready)
}

// tally counts what people had said by then, by the rule of the decision. Who is
// one person is what the service recorded with each approval.
func (l *life) tally(at time.Time) signing.Tally {
	r := &l.e.Request
	var people []approval.Person
	known := map[string]int{}
	for _, a := range r.Approvals[:l.said] {
		if !a.By.Known() || a.Person == a.By.Key() {
			continue
		}
		i, ok := known[a.Person]
		if !ok {
			i = len(people)
			known[a.Person] = i
			people = append(people, approval.Person{Name: a.Person})
		}
		people[i].Accounts = append(people[i].Accounts, a.By.Key())
	}
	// One account of two persons has no directory: then nobody counts by a name.
	for i := range people {
		slices.Sort(people[i].Accounts)
		people[i].Accounts = slices.Compact(people[i].Accounts)
	}
	dir, problems := approval.NewDirectory(people, "approvals")
	if len(problems) > 0 {
		return signing.Tally{}
	}
	return approval.Count(*r.Decision.Approvals, r.Approvals[:l.said], r.Decision.Excluded, dir, r.Decision.BasisDigest, at)
}
