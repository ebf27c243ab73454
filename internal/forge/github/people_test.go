package github

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/devworld/hub"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
)

// standing asks for u's standing in every kind of group.
func (s *scene) standing(u *hub.User, groups ...string) forge.Standing {
	s.t.Helper()
	st, err := s.client.Standing(s.t.Context(), s.at(s.repo), account(u), groups)
	if err != nil {
		s.t.Fatal(err)
	}
	return st
}

var levels = []string{"github.com:permission=write", "github.com:permission=maintain", "github.com:permission=admin"}

func TestStandingByPermissionCountsWhatTheForgeSaysNow(t *testing.T) {
	s := newScene(t)
	for role, n := range map[string]int{"": 0, "read": 0, "triage": 0, "write": 1, "maintain": 2, "admin": 3} {
		s.repo.Allow(s.eve, role)
		st := s.standing(s.eve, levels...)
		if diff := cmp.Diff(levels[:n], append([]string{}, st.Groups...)); diff != "" {
			t.Errorf("as %q: %s", role, diff)
		}
		if st.Reads != (role != "") {
			t.Errorf("as %q: reads %v", role, st.Reads)
		}
	}
}

func TestAnOutsiderOfAPublicRepositoryReadsAndIsInNoGroup(t *testing.T) {
	s := newScene(t)
	s.hub.Do(func() { s.repo.Private = false })
	if st := s.standing(s.eve, levels...); !st.Reads || len(st.Groups) != 0 {
		t.Errorf("%+v, want a reader in no group", st)
	}
}

func TestStandingByTeamNeedsAnActiveMembership(t *testing.T) {
	s := newScene(t)
	release := s.org.Team("release", nil)
	eu := s.org.Team("release-eu", release)
	in := "github.com:acme/release"
	s.repo.Allow(s.eve, "read")
	if st := s.standing(s.eve, in); len(st.Groups) != 0 {
		t.Errorf("in no team: %+v", st)
	}
	release.Invite(s.eve)
	if st := s.standing(s.eve, in); len(st.Groups) != 0 {
		t.Errorf("pending: %+v", st)
	}
	eu.Add(s.eve)
	if st := s.standing(s.eve, in); len(st.Groups) != 1 {
		t.Errorf("in a team below it: %+v", st)
	}
	eu.Remove(s.eve)
	if st := s.standing(s.eve, in); len(st.Groups) != 0 {
		t.Errorf("taken out: %+v", st)
	}
	if st := s.standing(s.eve, "github.com:acme/nothing"); len(st.Groups) != 0 {
		t.Errorf("a team that is not there: %+v", st)
	}
}

func TestATeamMemberWhoCannotSeeTheRepositoryIsInNoGroup(t *testing.T) {
	s := newScene(t)
	s.org.Team("release", nil, s.eve)
	if st := s.standing(s.eve, "github.com:acme/release"); st.Reads || len(st.Groups) != 0 {
		t.Errorf("%+v, want nothing", st)
	}
}

func TestAnAccountInThePolicyIsItsIDNotItsLogin(t *testing.T) {
	s := newScene(t)
	group := fmt.Sprintf("github.com:@bob#%d", s.bob.ID)
	if st := s.standing(s.bob, group); len(st.Groups) != 1 {
		t.Errorf("%+v", st)
	}
	s.bob.Rename("robert")
	s.eve.Rename("bob") // the name is free, and taken
	s.repo.Allow(s.eve, "admin")
	if st := s.standing(s.bob, group); len(st.Groups) != 1 || st.Account.Login != "robert" {
		t.Errorf("renamed: %+v, want it in the group still", st)
	}
	if st := s.standing(s.eve, group); len(st.Groups) != 0 {
		t.Errorf("who has the login now: %+v, want it out", st)
	}
}

func TestAPermissionOfAnotherAccountUnderTheLoginDoesNotCount(t *testing.T) {
	f, c := world(t)
	f.set("GET /user/7", says(`{"id":7,"login":"bob","type":"User"}`))
	f.set("GET "+web+"/collaborators/bob/permission", says(`{"permission":"admin","role_name":"admin","user":{"id":8,"login":"bob","type":"User"}}`))
	st, err := c.Standing(t.Context(), standing, signing.Account{Forge: "github.com", ID: "7"}, levels)
	if err != nil || st.Reads || len(st.Groups) != 0 {
		t.Errorf("%+v, %v; want nothing", st, err)
	}
	f.set("GET "+web+"/collaborators/bob/permission", says(`{"permission":"admin","role_name":"admin"}`))
	st, err = c.Standing(t.Context(), standing, signing.Account{Forge: "github.com", ID: "7"}, levels)
	if err != nil || len(st.Groups) != 0 {
		t.Errorf("without an id: %+v, %v; want nothing", st, err)
	}
	// An organisation's own role on top of maintain.
	f.set("GET "+web+"/collaborators/bob/permission", says(`{"permission":"write","role_name":"releaser","user":{"id":7,"login":"bob","permissions":{"push":true,"maintain":true}}}`))
	st, err = c.Standing(t.Context(), standing, signing.Account{Forge: "github.com", ID: "7"}, levels)
	if err != nil || len(st.Groups) != 2 {
		t.Errorf("a role of the organisation's own: %+v, %v; want write and maintain", st, err)
	}
}

func TestSomebodyRenamedWhileAskedIsAskedAgain(t *testing.T) {
	f, c := world(t)
	n := 0
	f.set("GET /user/7", func(w http.ResponseWriter, r *http.Request) {
		if n++; n == 1 {
			says(`{"id":7,"login":"bob","type":"User"}`)(w, r)
			return
		}
		says(`{"id":7,"login":"robert","type":"User"}`)(w, r)
	})
	f.set("GET "+web+"/collaborators/bob/permission", says(`{"permission":"read","user":{"id":7}}`))
	f.set("GET /orgs/acme/teams/release/memberships/bob", says(`{"state":"active"}`))
	_, err := c.Standing(t.Context(), standing, signing.Account{Forge: "github.com", ID: "7"}, []string{"github.com:acme/release"})
	wantCode(t, err, signing.Unavailable, "renamed")
}

func TestProgramsAndSuspendedAccountsAreInNoGroup(t *testing.T) {
	s := newScene(t)
	s.repo.Allow(s.app.Bot, "admin")
	if st := s.standing(s.app.Bot, levels...); len(st.Groups) != 0 || !st.Account.Bot {
		t.Errorf("a bot: %+v", st)
	}
	s.hub.Do(func() { s.bob.Suspended = true })
	if st := s.standing(s.bob, levels...); len(st.Groups) != 0 || st.Reads {
		t.Errorf("suspended: %+v", st)
	}
}

func TestAPermissionThatCannotBeAskedIsAnErrorAndNoAnswer(t *testing.T) {
	for status, code := range map[int]signing.Code{500: signing.Unavailable, 403: signing.Denied, 429: signing.RateLimited} {
		for _, path := range []string{`/user/\d+$`, `/permission$`, `/memberships/`} {
			s := newScene(t)
			s.org.Team("release", nil, s.bob)
			s.spoil("GET", path, status)
			_, err := s.client.Standing(t.Context(), s.at(s.repo), account(s.bob), append(levels, "github.com:acme/release"))
			wantCode(t, err, code)
		}
	}
	s := newScene(t)
	s.spoil("GET", `/permission$`, 404)
	if st := s.standing(s.bob, levels...); st.Reads || len(st.Groups) != 0 {
		t.Errorf("404: %+v, want nothing", st)
	}
}

func TestAnAccountThatIsGoneIsNotFound(t *testing.T) {
	s := newScene(t)
	s.bob.Delete()
	_, err := s.client.Standing(t.Context(), s.at(s.repo), account(s.bob), levels)
	wantCode(t, err, signing.NotFound)
	_, err = s.client.Account(t.Context(), account(s.bob).ID)
	wantCode(t, err, signing.NotFound)
	if a, err := s.client.Account(t.Context(), account(s.ann).ID); err != nil || a != account(s.ann) {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestOnlyGroupsOfThisForgeAreAsked(t *testing.T) {
	s := newScene(t)
	for _, g := range []string{"gitlab.com:acme/release", "github.com:permission=read", "github.com:permission=", "github.com:@bob", "github.com:@bob#0x1", "github.com:acme", "github.com:acme/a/b", "acme/release", ""} {
		_, err := s.client.Standing(t.Context(), s.at(s.repo), account(s.bob), []string{g})
		wantCode(t, err, signing.Invalid)
	}
	_, err := s.client.Standing(t.Context(), s.at(s.repo), signing.Account{Forge: "gitlab.com", ID: account(s.bob).ID}, levels)
	wantCode(t, err, signing.Invalid, "another forge")
}

func TestMembersAreThePeopleOfEachGroup(t *testing.T) {
	s := newScene(t)
	release := s.org.Team("release", nil, s.eve)
	s.org.Team("release-eu", release, s.bob)
	release.Invite(s.ann)
	s.repo.Allow(s.app.Bot, "admin")
	own := fmt.Sprintf("github.com:@eve#%d", s.eve.ID)
	got, err := s.client.Members(t.Context(), s.at(s.repo), []string{"github.com:acme/release", levels[0], levels[1], own})
	if err != nil {
		t.Fatal(err)
	}
	logins := map[string][]string{}
	for g, list := range got {
		for _, a := range list {
			logins[g] = append(logins[g], a.Login)
		}
	}
	want := map[string][]string{"github.com:acme/release": {"bob", "eve"}, levels[0]: {"ann", "bob", "owner"}, levels[1]: {"bob", "owner"}, own: {"eve"}}
	if diff := cmp.Diff(want, logins); diff != "" {
		t.Error(diff)
	}
	_, err = s.client.Members(t.Context(), s.at(s.repo), []string{"github.com:acme/gone"})
	wantCode(t, err, signing.NotFound, "github.com:acme/gone")
}

func TestATeamOfAnotherOrganisationNeedsTheAppThere(t *testing.T) {
	s := newScene(t)
	other := s.hub.Org("partner")
	other.Team("release", nil, s.bob)
	_, err := s.client.Standing(t.Context(), s.at(s.repo), account(s.bob), []string{"github.com:partner/release"})
	wantCode(t, err, signing.Denied, "install the App there")
	s.app.Install(other.User)
	if st := s.standing(s.bob, "github.com:partner/release"); len(st.Groups) != 1 {
		t.Errorf("%+v", st)
	}
}

func TestAPermissionThatIsAnsweredTooLateIsNoAnswer(t *testing.T) {
	s := newScene(t)
	s.standing(s.bob) // the token and the repository are known
	s.hub.Fail(hub.Fault{Method: "GET", Path: regexp.MustCompile(`/permission$`), Delay: time.Minute})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := s.client.Standing(ctx, s.at(s.repo), account(s.bob), levels)
	wantCode(t, err, signing.Unavailable)
}

// TestATeamCanDecideAboutARepositoryOfAnotherForge asks without a repository.
func TestATeamCanDecideAboutARepositoryOfAnotherForge(t *testing.T) {
	s := newScene(t)
	release, in := s.org.Team("release", nil), "github.com:acme/release"
	in2 := "github.com:@eve#" + account(s.eve).ID
	ask := func() []string {
		st, err := s.client.Standing(t.Context(), forge.Repository{}, account(s.eve), []string{in, in2})
		if err != nil || st.Reads || st.Account.ID != account(s.eve).ID {
			t.Errorf("%+v, %v", st, err)
		}
		return st.Groups
	}
	if got := ask(); !cmp.Equal(got, []string{in2}) {
		t.Errorf("in no team: %v", got)
	}
	release.Invite(s.eve)
	if got := ask(); !cmp.Equal(got, []string{in2}) {
		t.Errorf("invited: %v", got)
	}
	release.Add(s.eve)
	if got := ask(); !cmp.Equal(got, []string{in, in2}) {
		t.Errorf("in the team: %v", got)
	}
	m, err := s.client.Members(t.Context(), forge.Repository{}, []string{in, in2})
	if err != nil || len(m[in]) != 1 || len(m[in2]) != 1 || m[in][0].ID != account(s.eve).ID {
		t.Errorf("%v, %v", m, err)
	}
	if _, err := s.client.Standing(t.Context(), forge.Repository{}, account(s.eve), levels); signing.CodeOf(err) != signing.Invalid {
		t.Errorf("a permission in no repository: %v", err)
	}
	if _, err := s.client.Members(t.Context(), forge.Repository{}, levels); signing.CodeOf(err) != signing.Invalid {
		t.Errorf("those with a permission in no repository: %v", err)
	}
}
