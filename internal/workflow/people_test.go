package workflow_test

import (
	"errors"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
	"github.com/sealwright/sealwright/internal/testenv"
	"github.com/sealwright/sealwright/internal/workflow"
)

// The server asks for roles first; the workflow does not rely on it.
func TestOnlyPersonsWithTheRoleReadAndCancelTheRequestsOfOthers(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	s := e.Start(nil)
	r, capability := submit(t, s, "k", e.Image(t.Name()))
	finish(t, s, r.ID, capability)
	w, ctx := s.Workflow, t.Context()
	person := func(roles ...signing.PeopleRole) signing.Identity {
		return signing.Identity{Issuer: "https://login.test", Role: signing.RolePeople, Subject: "x", Roles: roles}
	}
	for name, who := range map[string]signing.Identity{
		"nobody": {}, "a person": person(), "an approver": person(signing.Approver, signing.Submitter),
		"a job that says it is an auditor": {Role: signing.RoleCI, Roles: signing.PeopleRoles()},
		"another role":                     {Role: "owner", Roles: signing.PeopleRoles()},
	} {
		_, one := w.ReadAs(ctx, r.ID, who)
		_, wait := w.WaitAs(ctx, r.ID, who, 0, time.Second)
		_, _, list := w.List(ctx, who, store.Filter{}, 0, 10)
		for what, err := range map[string]error{"read": one, "wait": wait, "list": list} {
			if !errors.Is(err, signing.Denied) {
				t.Errorf("%s may %s: %v", name, what, err)
			}
		}
		if _, err := w.Cancel(ctx, r.ID, who, signing.Origin{}); !errors.Is(err, signing.NotFound) {
			t.Errorf("%s may cancel: %v", name, err)
		}
		if _, err := w.Submit(ctx, who, signing.Origin{}, workflow.Submission{}); who.Role != signing.RoleCI && !errors.Is(err, signing.Denied) {
			t.Errorf("%s may submit: %v", name, err)
		}
	}
	for _, role := range []signing.PeopleRole{signing.Auditor, signing.Admin} {
		if got, err := w.ReadAs(ctx, r.ID, person(role)); err != nil || got.Request.ID != r.ID {
			t.Errorf("%s: %v", role, err)
		}
		if got, _, err := w.List(ctx, person(role), store.Filter{}, 0, 10); err != nil || len(got) != 1 {
			t.Errorf("%s: %v", role, err)
		}
	}
	if _, err := w.Cancel(ctx, r.ID, person(signing.Auditor), signing.Origin{}); !errors.Is(err, signing.NotFound) {
		t.Errorf("an auditor: %v", err)
	}
	if _, err := w.Cancel(ctx, r.ID, person(signing.Admin), signing.Origin{}); !errors.Is(err, signing.Conflict) { // it is over
		t.Errorf("an admin: %v", err)
	}
}
