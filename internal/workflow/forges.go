package workflow

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/facts"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/policy"
	"github.com/sealwright/sealwright/internal/signing"
)

// answersHold is for how long what a forge answered about a build is taken for
// what it would answer now.
const answersHold = 5 * time.Minute

// answers is what the forge of a build answered, once for a Request and not for
// each of its Tasks.
type answers struct {
	facts    *signing.ForgeFacts
	seen     []signing.Observation
	question signing.ForgeQuestion
	at       time.Time
}

// repositoryOf names the repository that a Request was built from.
func repositoryOf(o signing.Origin) forge.Repository {
	return forge.Repository{ID: o.SourceRepositoryIdentifier, Name: o.SourceRepository}
}

// noForge is the refusal of what needs a forge that the service does not know.
func noForge(host string) error {
	return &signing.Error{Code: signing.Denied, Message: "the policy asks the forge of the build, and this service has no access to it", Expected: "an entry for " + host + " under `forges` in the configuration", Found: "none", Fix: "add it: docs/github-app.md and docs/gitlab.md say how; or use a policy that asks no forge and no people"}
}

// askForge asks what the policy, who may not approve and the owners of the keys
// want to know of the build. An error that is temporary means waiting.
func (d *drive) askForge(ctx context.Context, p *policy.Policy, artifacts []signing.Artifact) (answers, error) {
	question := p.Question().And(d.w.Keys.Question(keyNames(p.Steps())...))
	return d.ask(ctx, question, p.Further, artifacts)
}

func keyNames(steps []signing.Step) []string {
	var out []string
	for _, s := range steps {
		out = append(out, s.Key)
	}
	return out
}

// ask asks a question, and what the repository's own policy, which the answers
// hold, wants to know in addition. What was answered in the last minutes is not
// asked again.
func (d *drive) ask(ctx context.Context, question signing.ForgeQuestion, further func(*signing.ForgeFacts) signing.ForgeQuestion, artifacts []signing.Artifact) (answers, error) {
	if !question.Asks() {
		return answers{}, nil
	}
	if d.asked.facts != nil && d.w.Now().Sub(d.asked.at) < answersHold && covers(d.asked.question, question) {
		return d.asked, nil
	}
	origin := d.request.Origin
	from, ok := d.w.Forges[origin.Forge]
	if !ok {
		// A repository whose forge is not configured has no policy of its own.
		if question.PolicyFile = false; !question.Asks() {
			return answers{}, nil
		}
		return answers{}, noForge(origin.Forge)
	}
	out := answers{question: question, at: d.w.Now()}
	var err error
	if out.facts, out.seen, err = facts.Ask(ctx, from, origin, artifacts, question); err != nil {
		return answers{}, unreached(ctx, err)
	}
	if more := further(out.facts); more.Asks() {
		out.question = question.And(more)
		if out.facts, out.seen, err = facts.Ask(ctx, from, origin, artifacts, out.question); err != nil {
			return answers{}, unreached(ctx, err)
		}
	}
	d.asked = out
	return out, nil
}

// covers reports whether whoever asked a was told what b asks.
func covers(a, b signing.ForgeQuestion) bool { return reflect.DeepEqual(a.And(b), a.And(a)) }

// unreached makes what is no answer of the forge, a broken connection or a time
// that ran out, something to be tried again.
func unreached(ctx context.Context, err error) error {
	var e *signing.Error
	if errors.As(err, &e) || ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled) {
		return err
	}
	return &signing.Error{Code: signing.Unavailable, Message: "the forge could not be asked", Fix: "it is asked again until the deadline", Err: err}
}

// hostOf returns the configured forge that an entry of ApprovalGroup.From is
// about, "" for one that is not configured.
func (w *Workflow) hostOf(from string) string {
	best := ""
	for host := range w.Forges {
		if strings.HasPrefix(from, host+":") && len(host) > len(best) {
			best = host
		}
	}
	return best
}

// groupsByForge sorts the groups of a rule by the forge that knows who is in them.
func (w *Workflow) groupsByForge(rule *signing.ApprovalRule) (map[string][]string, error) {
	out := map[string][]string{}
	for _, g := range rule.Groups {
		for _, from := range g.From {
			host := w.hostOf(from)
			if host == "" {
				return nil, noForge(before(from, ":"))
			}
			if !slices.Contains(out[host], from) {
				out[host] = append(out[host], from)
			}
		}
	}
	return out, nil
}

func before(s, sep string) string { head, _, _ := strings.Cut(s, sep); return head }

// members lists who is in the groups of a rule now, by the group's name.
func (w *Workflow) members(ctx context.Context, r *signing.Request, rule *signing.ApprovalRule) (map[string][]signing.Account, error) {
	groups, err := w.groupsByForge(rule)
	if err != nil {
		return nil, err
	}
	out := map[string][]signing.Account{}
	for host, names := range groups {
		some, err := w.Forges[host].Members(ctx, w.repositoryOn(host, r), names)
		if err != nil {
			return nil, unreached(ctx, err)
		}
		for name, accounts := range some {
			out[name] = accounts
		}
	}
	return out, nil
}

// repositoryOn is the Request's repository, which only its own forge knows.
func (w *Workflow) repositoryOn(host string, r *signing.Request) forge.Repository {
	if host == r.Origin.Forge {
		return repositoryOf(r.Origin)
	}
	return forge.Repository{}
}

// standing returns the indexes of the rule's groups that a person is in now: asked
// of each forge about the account that acts, or the person's account there. What a
// forge does not confirm is no.
func (w *Workflow) standing(ctx context.Context, r *signing.Request, rule *signing.ApprovalRule, by signing.Account, person string) ([]int, error) {
	groups, err := w.groupsByForge(rule)
	if err != nil {
		return nil, err
	}
	in := map[string]bool{}
	for host, names := range groups {
		for _, who := range w.accountsOn(host, by, person) {
			st, err := w.Forges[host].Standing(ctx, w.repositoryOn(host, r), who, names)
			if errors.Is(err, signing.NotFound) {
				continue
			}
			if err != nil {
				return nil, unreached(ctx, err)
			}
			if st.Account.ID != who.ID || st.Account.Bot || host == r.Origin.Forge && !st.Reads {
				continue
			}
			for _, g := range st.Groups {
				in[g] = in[g] || slices.Contains(names, g)
			}
		}
	}
	var out []int
	for i, g := range rule.Groups {
		if slices.ContainsFunc(g.From, func(from string) bool { return in[from] }) {
			out = append(out, i)
		}
	}
	return out, nil
}

// accountsOn returns the account that acts, on its own forge, and those of the
// person on another.
func (w *Workflow) accountsOn(host string, by signing.Account, person string) []signing.Account {
	if by.Known() && by.Forge == host {
		return []signing.Account{by}
	}
	return slices.DeleteFunc(w.Directory.Accounts(person), func(a signing.Account) bool { return a.Forge != host })
}
