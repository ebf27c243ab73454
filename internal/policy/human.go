package policy

import (
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// human holds what is about requests of people. The origin is that of the build
// which was signed before, as it was recorded then.
func (p *Policy) human(f signing.Facts) signing.Reason {
	const rule = "origin.human"
	most := p.MaxSourceAge()
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
