package approval

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/signing"
)

// Rules of the reasons that this package gives.
const (
	RuleExclude = "approvals.exclude"
	RuleQuorum  = "approvals.quorum"
)

// maxNames bounds the people that one message names.
const maxNames = 20

// Exclude returns who may not approve a build, each once with all reasons, and
// one entry for each author whom the forge does not map to an account. The Reason
// fails where that cannot be known: a part that the forge did not answer, a run
// that nobody started, a commit that came without a pull request.
func Exclude(rule signing.ApprovalRule, facts *signing.ForgeFacts, origin signing.Origin) ([]signing.Exclusion, signing.Reason) {
	x := exclusions{forge: origin.Forge, sign: "#"}
	if origin.Kind == "gitlab" {
		x.sign = "!"
	}
	authors, pushers := slices.Contains(rule.Exclude, signing.ExcludeAuthor), slices.Contains(rule.Exclude, signing.ExcludePusher)
	if len(rule.Exclude) == 0 {
		return nil, signing.Reason{Rule: RuleExclude, Pass: true, Wanted: "nobody is excluded", Found: "nobody"}
	}
	for _, word := range rule.Exclude {
		if word != signing.ExcludeAuthor && word != signing.ExcludeActor && word != signing.ExcludePusher {
			x.refuse("a word that this service knows", word, "update the service, or correct the policy")
		}
	}
	if facts == nil {
		facts = &signing.ForgeFacts{}
	}
	if authors || pushers {
		x.pulls(facts, authors, pushers)
	}
	if authors {
		x.commit(facts)
	}
	if slices.Contains(rule.Exclude, signing.ExcludeActor) {
		x.run(facts, origin)
	}
	if x.refusal != nil {
		return nil, *x.refusal
	}
	return x.list, signing.Reason{Rule: RuleExclude, Pass: true, Wanted: "who made the build is known: " + strings.Join(rule.Exclude, ", "), Found: names(x.list)}
}

// exclusions collects who may not approve.
type exclusions struct {
	forge   string
	sign    string // before the number of a pull or merge request
	list    []signing.Exclusion
	refusal *signing.Reason
}

func (x *exclusions) refuse(wanted, found, fix string) {
	if x.refusal == nil {
		x.refusal = &signing.Reason{Rule: RuleExclude, Wanted: wanted, Found: found, Fix: fix}
	}
}

// unknown refuses for a part that was not answered.
func (x *exclusions) unknown(facts *signing.ForgeFacts, part, wanted string) {
	why := facts.Unknown[part]
	if why == "" {
		why = "the forge was not asked"
	}
	x.refuse(wanted, why, "give the service the permission that is missing, or leave the word out of `exclude` in the policy")
}

// account excludes one; an account without an id is an unmapped author.
func (x *exclusions) account(a signing.Account, why string) {
	if a.Forge == "" {
		a.Forge = x.forge
	}
	if !a.Known() {
		x.unmapped(a.Login, why)
		return
	}
	for i := range x.list {
		if e := &x.list[i]; e.Account.Known() && e.Account.Key() == a.Key() {
			if !slices.Contains(strings.Split(e.Why, "; "), why) {
				e.Why += "; " + why
			}
			return
		}
	}
	x.list = append(x.list, signing.Exclusion{Account: a, Why: why})
}

// unmapped adds an author whom the forge does not know, each name once.
func (x *exclusions) unmapped(name, why string) {
	if name == "" {
		name = "a deleted account"
	}
	if slices.ContainsFunc(x.list, func(e signing.Exclusion) bool { return !e.Account.Known() && e.Unmapped == name }) {
		return
	}
	x.list = append(x.list, signing.Exclusion{Unmapped: name, Why: why})
}

func (x *exclusions) pulls(facts *signing.ForgeFacts, authors, pushers bool) {
	const wanted = "the pull requests that hold the commit, so that who wrote and pushed them cannot approve"
	if facts.Pulls == nil || facts.Unknown[signing.PartPulls] != "" {
		x.unknown(facts, signing.PartPulls, wanted)
		return
	}
	if pushers && facts.Unknown[signing.PartPushers] != "" {
		x.unknown(facts, signing.PartPushers, "who pushed to the pull requests that hold the commit")
		return
	}
	if len(facts.Pulls.Pulls) == 0 {
		x.refuse(wanted, "no pull request holds it", "let the commit come through a pull request; or, where pushing without one is meant, leave author and pusher out of `exclude`")
	}
	for _, p := range facts.Pulls.Pulls {
		name := x.sign + p.Number
		if authors {
			x.account(p.Author, "opened "+name)
			for _, a := range p.Authors {
				x.account(a, "wrote commits of "+name)
			}
			for _, u := range p.Unmapped {
				x.unmapped(u, "wrote commits of "+name+"; the forge knows no such account")
			}
		}
		if pushers {
			for _, a := range p.Pushers {
				x.account(a, "pushed to "+name)
			}
			if p.Merged || p.Merger.Known() {
				x.account(p.Merger, "merged "+name)
			}
		}
	}
}

func (x *exclusions) commit(facts *signing.ForgeFacts) {
	if facts.Commit == nil || facts.Unknown[signing.PartCommit] != "" {
		x.unknown(facts, signing.PartCommit, "the commit's authors, so that they cannot approve")
		return
	}
	if len(facts.Commit.Authors)+len(facts.Commit.Unmapped) == 0 {
		x.refuse("the commit's authors, so that they cannot approve", "a commit without an author", "ask the operator of the service to look at the forge's answer")
	}
	short := fmt.Sprintf("%.12s", facts.Commit.SHA)
	for _, a := range facts.Commit.Authors {
		x.account(a, signing.WhyWrote+short)
	}
	for _, u := range facts.Commit.Unmapped {
		x.unmapped(u, signing.WhyWrote+short+"; the forge knows no such account")
	}
}

func (x *exclusions) run(facts *signing.ForgeFacts, origin signing.Origin) {
	const wanted = "who started the run, and who started it again, so that they cannot approve"
	if facts.Run == nil || facts.Unknown[signing.PartRun] != "" {
		x.unknown(facts, signing.PartRun, wanted)
		return
	}
	if !facts.Run.Actor.Known() {
		x.refuse(wanted, "the forge does not say who started it", "start the run from an account that exists")
		return
	}
	x.account(facts.Run.Actor, signing.WhyStarted)
	if r := facts.Run.Restarter; r != (signing.Account{}) {
		if !r.Known() {
			x.refuse(wanted, "the forge does not say who started it again", "start the run from an account that exists")
			return
		}
		if r.Key() != facts.Run.Actor.Key() {
			x.account(r, signing.WhyRestarted)
		}
	}
	// The token may name another one than the forge does now.
	if origin.ActorID != "" {
		x.account(signing.Account{Forge: origin.Forge, ID: origin.ActorID, Login: origin.Actor}, signing.WhyStarted)
	}
}

// names lists who is excluded, for a Reason.
func names(list []signing.Exclusion) string {
	if len(list) == 0 {
		return "nobody"
	}
	var out []string
	for _, e := range list {
		name := e.Unmapped
		if e.Account.Known() {
			name = label(e.Account)
		}
		out = append(out, name+" ("+e.Why+")")
	}
	return join(out)
}

// label is an account for people.
func label(a signing.Account) string {
	if a.Login == "" {
		return a.Key()
	}
	return a.Login
}

// join lists some and counts the rest.
func join(list []string) string {
	if n := len(list); n > maxNames {
		return strings.Join(list[:maxNames], ", ") + fmt.Sprintf(" and %d more", n-maxNames)
	}
	return strings.Join(list, ", ")
}
