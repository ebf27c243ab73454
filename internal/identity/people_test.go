package identity

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/signing"
)

const peopleAudience = "sealwright-people"

// people returns a row for persons: groups, a subject and an address give roles.
func (w *world) people() Issuer {
	return Issuer{Provider: "acme-sso", Role: signing.RolePeople, Issuer: w.url, Audience: peopleAudience, Roles: []RoleRule{
		{Role: signing.Auditor, Claim: "groups", Values: []string{"sealwright-auditors", "sox"}},
		{Role: signing.Approver, Claim: "realm_access.roles", Values: []string{"release-manager"}},
		{Role: signing.Admin, Claim: "sub", Values: []string{"00u1AbC"}},
		{Role: signing.Submitter, Claim: "email", Values: []string{"ann@acme.dev"}},
		{Role: signing.Auditor, Claim: "department", Values: []string{"audit"}},
	}}
}

// personClaims returns those of a person of whom the row knows nothing.
func (w *world) personClaims(edits ...edit) map[string]any {
	now := w.clock.Now().Unix()
	c := map[string]any{"iss": w.url, "aud": peopleAudience, "sub": "00u1abc", "iat": now, "exp": now + 3600, "name": "Ann Example"}
	for _, e := range edits {
		for k, v := range e {
			if c[k] = v; v == nil {
				delete(c, k)
			}
		}
	}
	return c
}

func TestAPersonHasExactlyTheRolesThatTheRowGivesToTheClaims(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(w.people())
	many := func(n int) (out []string) {
		for range n {
			out = append(out, "g")
		}
		return append(out, "sox")
	}
	for name, c := range map[string]struct {
		claims edit
		want   []signing.PeopleRole
	}{
		"no claim at all":                        {nil, nil},
		"a group":                                {edit{"groups": []string{"all", "sealwright-auditors"}}, []signing.PeopleRole{signing.Auditor}},
		"one text in place of a list":            {edit{"groups": "sox"}, []signing.PeopleRole{signing.Auditor}},
		"two claims that give the same role":     {edit{"groups": "sox", "department": "audit"}, []signing.PeopleRole{signing.Auditor}},
		"several roles":                          {edit{"groups": []string{"sox"}, "sub": "00u1AbC"}, []signing.PeopleRole{signing.Admin, signing.Auditor}},
		"an empty list":                          {edit{"groups": []string{}}, nil},
		"null":                                   {edit{"groups": json.RawMessage("null")}, nil},
		"an empty text":                          {edit{"groups": ""}, nil},
		"another case":                           {edit{"groups": []string{"SOX", "Sealwright-Auditors"}}, nil},
		"a longer name":                          {edit{"groups": []string{"sox2", "xsox", "sox,sealwright-auditors", "/sox"}}, nil},
		"space around it":                        {edit{"groups": []string{" sox", "sox "}}, nil},
		"a subject in another case":              {edit{"sub": "00u1abc"}, nil},
		"a longer subject":                       {edit{"sub": "00u1AbC2"}, nil},
		"the value in another claim":             {edit{"roles": []string{"sox"}, "department": "sox"}, nil},
		"a nested claim":                         {edit{"realm_access": edit{"roles": []string{"release-manager"}}}, []signing.PeopleRole{signing.Approver}},
		"the nested claim on the top":            {edit{"roles": []string{"release-manager"}}, nil},
		"an address":                             {edit{"email": "ann@acme.dev", "email_verified": true}, []signing.PeopleRole{signing.Submitter}},
		"an address that nobody verified":        {edit{"email": "ann@acme.dev", "email_verified": false}, nil},
		"an address without email_verified":      {edit{"email": "ann@acme.dev"}, nil},
		"email_verified is the text true":        {edit{"email": "ann@acme.dev", "email_verified": "true"}, nil},
		"email_verified is the text false":       {edit{"email": "ann@acme.dev", "email_verified": "false"}, nil},
		"email_verified is 1":                    {edit{"email": "ann@acme.dev", "email_verified": 1}, nil},
		"email_verified is a list":               {edit{"email": "ann@acme.dev", "email_verified": []bool{true}}, nil},
		"an address in another case":             {edit{"email": "Ann@acme.dev", "email_verified": true}, nil},
		"roles that the token gives itself":      {edit{"role": "people", "Roles": []string{"admin"}, "roles": []string{"admin"}}, nil},
		"as many groups as are read":             {edit{"groups": many(maxGroups - 1)}, []signing.PeopleRole{signing.Auditor}},
		"claims of a build beside those of hers": {edit{"repository_id": "74", "groups": "sox"}, []signing.PeopleRole{signing.Auditor}},
	} {
		t.Run(name, func(t *testing.T) {
			id, o := (&world{t: t}).accept(v, w.token(w.personClaims(c.claims)))
			if d := cmp.Diff(c.want, id.Roles); d != "" {
				t.Error(d)
			}
			if id.Role != signing.RolePeople || o != (signing.Origin{}) {
				t.Errorf("%+v with the origin %+v", id, o)
			}
		})
	}
}

func TestAPersonsTokenThatCannotBeHeldAgainstTheRulesIsRefused(t *testing.T) {
	w := newWorld(t)
	row := w.people()
	row.Require = map[string]string{"tenant": "acme"}
	v := w.verifier(row)
	now := start.Unix()
	for name, c := range map[string]struct {
		change edit
		says   string
	}{
		"groups is a number":         {edit{"groups": 7}, "claim groups"},
		"groups is true":             {edit{"groups": true}, "claim groups"},
		"groups is an object":        {edit{"groups": edit{"sox": true}}, "claim groups"},
		"a list with a number":       {edit{"groups": []any{"sox", 7}}, "claim groups"},
		"a list with a list":         {edit{"groups": []any{[]string{"sox"}}}, "claim groups"},
		"a list with null":           {edit{"groups": []any{"sox", nil}}, "claim groups"},
		"a group with a line break":  {edit{"groups": []string{"a\nb"}}, "claim groups"},
		"more groups than are read":  {edit{"groups": slices.Repeat([]string{"g"}, maxGroups+1)}, "claim groups"},
		"the subject is a number":    {edit{"sub": 7}, "claim sub"},
		"no subject":                 {edit{"sub": nil}, "sub"},
		"the audience of jobs":       {edit{"aud": ourAudience}, "not meant for this service"},
		"the audience of jobs, too":  {edit{"aud": []string{peopleAudience, ourAudience}}, "not meant for this service"},
		"expired":                    {edit{"exp": now - 31}, "has expired"},
		"older than an hour":         {edit{"iat": now - 3631, "exp": now + 60}, "too old"},
		"another tenant":             {edit{"tenant": "evil"}, "claim tenant"},
		"no tenant":                  {edit{"tenant": nil}, "tenant"},
		"no exp":                     {edit{"exp": nil}, "exp"},
		"the address is no text":     {edit{"email": []any{1}}, "claim email"},
		"the subject has a new line": {edit{"sub": "00u1AbC\n"}, "claim sub"},
	} {
		t.Run(name, func(t *testing.T) {
			err := (&world{t: t}).refuse(v, w.token(w.personClaims(edit{"tenant": "acme"}, c.change)), signing.Unauthenticated, c.says)
			var r *Refusal
			if !errors.As(err, &r) || r.Identity.Role != signing.RolePeople || len(r.Identity.Roles) > 0 && !strings.Contains(c.says, "tenant") {
				t.Errorf("%+v", r)
			}
		})
	}
}

// One issuer per role: who can choose the audience of a job's token cannot make
// it a person's.
func TestATokenIsAJobsOrAPersonsByItsIssuerAlone(t *testing.T) {
	jobs, people := newWorld(t), newWorld(t)
	v := jobs.verifier(jobs.issuer(), people.people())
	asPerson := jobs.claims(edit{"aud": peopleAudience, "groups": []string{"sox"}, "sub": "00u1AbC", "role": "people"})
	jobs.refuse(v, jobs.token(asPerson), signing.Unauthenticated, "not meant for this service")
	asJob := people.claims(edit{"groups": []string{"sox"}})
	people.refuse(v, people.token(asJob), signing.Unauthenticated, "not meant for this service")
	id, _ := jobs.accept(v, jobs.token(jobs.claims(edit{"groups": []string{"sox"}, "roles": []string{"admin"}})))
	if id.Role != signing.RoleCI || len(id.Roles) != 0 {
		t.Errorf("%+v", id)
	}
	if ps := Check([]Issuer{jobs.issuer(), {Provider: "acme-sso", Role: signing.RolePeople, Issuer: jobs.url, Audience: peopleAudience, Roles: jobs.people().Roles}}); len(ps) == 0 {
		t.Error("one issuer may be both")
	}
}

func TestAPersonsTokenIsTakenForAnHourUnlessTheRowSaysOtherwise(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(w.people())
	token := w.token(w.personClaims(edit{"exp": start.Add(8 * time.Hour).Unix()}))
	w.clock.Advance(time.Hour + Leeway)
	w.accept(v, token)
	w.clock.Advance(time.Second)
	w.refuse(v, token, signing.Unauthenticated, "too old", "log in again")
}
