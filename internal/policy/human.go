package policy

import (
	"reflect"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// maxAhead is how far the clock of who made a list may be ahead.
const maxAhead = time.Minute

// Lists reports whether the policy is for lists of images that people bring. It is
// one for people that says nothing of a build: there is none that it could be
// about.
func (p *Policy) Lists() bool { return p.rules.Origin.lists() }

func (o *origin) lists() bool {
	return o != nil && o.Human != nil && reflect.DeepEqual(*o, origin{Human: o.Human})
}

// list holds the rules about a list that a person brings.
func (p *Policy) list(f signing.Facts) signing.Reason {
	const rule = "origin.human"
	if f.List == nil || f.Source != nil {
		was := "a build"
		if f.Source != nil {
			was = "request " + f.Source.ID + ", submitted again"
		}
		return node(rule, leaf(rule+".list", false, "a list of images", was, "bring a list with `sealwright sign --digests-file`; a policy for what was signed before says which builds it trusts"))
	}
	err := f.List.Validate()
	children := []signing.Reason{leaf(rule+".list", err == nil, "a list with its digest and time", string(f.List.Digest), "bring the list with `sealwright sign --digests-file`")}
	age := f.Now.Sub(f.List.Made)
	known := err == nil && !f.Now.IsZero() && age >= -maxAhead
	was := ""
	switch {
	case known:
		was = "made " + max(age, 0).Truncate(time.Minute).String() + " before"
	case age < 0:
		was = "made later than now"
	}
	return node(rule, append(children, leaf(rule+".max_age", known && age <= p.MaxSourceAge(), "made at most "+p.MaxSourceAge().String()+" before", was, "make the list again"))...)
}

// human holds what is about requests of people. The origin is that of the build
// which was signed before, as it was recorded then.
func (p *Policy) human(f signing.Facts) signing.Reason {
	const rule = "origin.human"
	if p.Lists() {
		return p.list(f)
	}
	most := p.MaxSourceAge()
	if f.List != nil {
		return node(rule, leaf(rule+".source", false, "a request that is submitted again", "a list of images", "bring it under a policy whose `origin` is `{human: true}` and nothing else"))
	}
	if f.Source == nil {
		return node(rule, leaf(rule+".source", false, "a request that is submitted again", "", "submit with `sealwright resubmit` what was signed before"))
	}
	done := f.Source.State == signing.Completed
	children := []signing.Reason{leaf(rule+".source", done, "a request that was completed", f.Source.ID+": "+string(f.Source.State), "submit again what was signed before, and nothing that was refused")}
	age := f.Now.Sub(f.Source.Ended)
	ended := !f.Source.Ended.IsZero() && !f.Now.IsZero() && age >= 0
	was := ""
	if ended {
		was = "ended " + age.Truncate(time.Minute).String() + " before"
	}
	return node(rule, append(children, leaf(rule+".max_age", ended && age <= most, "ended at most "+most.String()+" before", was, "build again and sign that"))...)
}

// describeRoles says what a token stands for.
func describeRoles(id signing.Identity) string {
	if id.Role != signing.RolePeople {
		return "a token of role " + string(id.Role)
	}
	roles := make([]string, len(id.Roles))
	for i, r := range id.Roles {
		roles[i] = string(r)
	}
	return "a person with the roles " + orElse(strings.Join(roles, ", "), "none")
}
