package identity

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxRoleRules and maxRoleValues bound what a reader of the configuration can
	// still overlook; groups, and not persons, are what is meant to be listed.
	maxRoleRules  = 64
	maxRoleValues = 256
	// maxGroups bounds the list of one claim: identity providers cut theirs at
	// some 200, and a token of MaxToken bytes cannot hold many more.
	maxGroups = 2048
	// maxScopes is more than any identity provider needs for its groups.
	maxScopes = 16
)

// reScope is scope-token of RFC 6749, 3.3, within reason.
var reScope = regexp.MustCompile(`^[!#-\[\]-~]{1,128}$`)

// RoleRule gives a role to the persons in whose token a claim has one of the
// values, or lists one. Values are compared exactly: no case, no pattern, no
// prefix. A claim that is missing gives nothing.
type RoleRule struct {
	Role signing.PeopleRole `yaml:"role"` // submitter, approver, auditor or admin
	// Claim holds a text or a list of texts: groups, roles, sub. email counts only
	// beside an email_verified that is the JSON value true.
	Claim  string   `yaml:"claim"`
	Values []string `yaml:"values"`
}

// checkPeople checks what belongs to one kind of issuer only.
func (c Issuer) checkPeople(at string, ps *config.Problems) {
	if c.Role != signing.RolePeople {
		if len(c.Roles) > 0 {
			ps.Add(at+"roles", "are for an issuer of role people; a job has no role but ci")
		}
		if len(c.Scopes) > 0 {
			ps.Add(at+"scopes", "are for an issuer of role people; a job does not log in")
		}
		return
	}
	if len(c.Claims) > 0 || len(c.Optional) > 0 {
		ps.Add(at+"claims", "describe a build, which a person's token has not; write roles")
	}
	switch n := len(c.Roles); {
	case n == 0:
		ps.Add(at+"roles", "is missing: which claim gives whom which role; without it nobody may do anything")
	case n > maxRoleRules:
		ps.Add(at+"roles", "has %d rules; at most %d", n, maxRoleRules)
	}
	for i, r := range c.Roles {
		r.check(config.Index(at+"roles", i)+".", ps)
	}
	if len(c.Scopes) > maxScopes {
		ps.Add(at+"scopes", "has %d; at most %d", len(c.Scopes), maxScopes)
	}
	for i, s := range c.Scopes {
		switch {
		case !reScope.MatchString(s):
			ps.Add(config.Index(at+"scopes", i), "must be a scope, as in groups")
		case s == "offline_access":
			ps.Add(config.Index(at+"scopes", i), "would give programs a token that outlives the person's session; leave it away")
		}
	}
}

// Login is where the persons of an issuer log in.
type Login struct {
	Issuer, Audience string
	Scopes           []string
}

// Logins returns the issuers of persons, sorted.
func (v *Verifier) Logins() []Login {
	out := []Login{}
	for _, is := range v.issuers {
		if is.role == signing.RolePeople {
			out = append(out, Login{Issuer: is.url, Audience: is.audience, Scopes: is.scopes})
		}
	}
	slices.SortFunc(out, func(a, b Login) int { return strings.Compare(a.Issuer, b.Issuer) })
	return out
}

func (r RoleRule) check(at string, ps *config.Problems) {
	if !slices.Contains(signing.PeopleRoles(), r.Role) {
		ps.Add(at+"role", "must be one of %s", roleNames(signing.PeopleRoles()))
	}
	if !reClaim.MatchString(r.Claim) {
		ps.Add(at+"claim", "must be the name of a claim, as in groups")
	}
	if n := len(r.Values); n == 0 || n > maxRoleValues {
		ps.Add(at+"values", "must list 1 to %d values", maxRoleValues)
	}
	for i, v := range r.Values {
		if v == "" || strings.TrimSpace(v) != v || checkText(v) != nil {
			ps.Add(config.Index(at+"values", i), "must be the value of the claim, character for character, without space around it")
		}
	}
}

// peopleRoles returns the roles that rules give to the person of verified
// claims, sorted. It refuses a token whose claims are of a form that no rule can
// be held against, rather than to guess at what was meant.
func peopleRoles(rules []RoleRule, c claims) ([]signing.PeopleRole, error) {
	var out []signing.PeopleRole
	for _, r := range rules {
		has, err := c.values(r.Claim)
		if err != nil {
			return nil, err
		}
		// "true" as text, 1, and an absent claim are what other relying parties
		// took for a verified address.
		if verified, isBoolean := c["email_verified"].(bool); r.Claim == "email" && !(isBoolean && verified) {
			continue
		}
		if slices.ContainsFunc(has, func(v string) bool { return slices.Contains(r.Values, v) }) {
			out = append(out, r.Role)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// values returns a claim that is a text or a list of texts, nil if it is absent.
func (c claims) values(name string) ([]string, error) {
	v, ok := c.lookup(name)
	if !ok {
		return nil, nil
	}
	list, isList := v.([]any)
	if !isList {
		list = []any{v}
	}
	refuse := func(found string) error {
		return refused("the token's claim "+name+" cannot give a role", "a text or a list of texts", found, "ask the operator of the identity provider which claim holds the groups")
	}
	if len(list) > maxGroups {
		return nil, refuse(fmt.Sprintf("a list of more than %d", maxGroups))
	}
	var out []string
	for _, v := range list {
		s, isText := v.(string)
		if !isText || checkText(s) != nil {
			return nil, refuse("something else")
		}
		out = append(out, s)
	}
	return out, nil
}

func roleNames(roles []signing.PeopleRole) string {
	var names []string
	for _, r := range roles {
		names = append(names, string(r))
	}
	return strings.Join(names, ", ")
}
