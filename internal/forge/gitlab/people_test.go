package gitlab_test

import (
	"net/http"
	"regexp"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/devworld/lab"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
)

const writers, maintainers, owners = host + ":permission=write", host + ":permission=maintain", host + ":permission=admin"

func TestPermissionsAreAccessLevelsOfTheProject(t *testing.T) {
	w := start(t)
	eve, guest, own := w.lab.User("eve"), w.lab.User("gus"), w.lab.User("olga")
	w.project.Add(eve, lab.Reporter)
	w.project.Add(guest, lab.Guest)
	w.group.Add(own, lab.Owner) // inherited
	for _, c := range []struct {
		who                    *lab.User
		write, maintain, admin bool
	}{
		{guest, false, false, false}, {eve, false, false, false}, {w.ada, true, false, false}, {w.bob, true, true, false}, {own, true, true, true}, {w.lab.User("stranger"), false, false, false},
	} {
		for group, want := range map[string]bool{writers: c.write, maintainers: c.maintain, owners: c.admin} {
			if got := w.in(c.who, group); got != want {
				t.Errorf("%s in %s: %v", c.who.Login, group, got)
			}
		}
	}
}

func TestMembersOfAGroupMayBeInheritedOrInvitedAndMustBeActive(t *testing.T) {
	w := start(t)
	team := w.lab.Group("acme/release")
	team.Add(w.bot, lab.Guest)
	other := w.lab.Group("friends")
	team.Invite(other, lab.Developer)
	direct, inherited, invited := w.lab.User("dora"), w.lab.User("ian"), w.lab.User("ivy")
	team.Add(direct, lab.Guest)
	w.group.Add(inherited, lab.Developer)
	other.Add(invited, lab.Developer)
	w.project.Add(direct, lab.Guest)
	w.project.Add(invited, lab.Guest)
	name := host + ":acme/release"
	for _, u := range []*lab.User{direct, inherited, invited} {
		if !w.in(u, name) {
			t.Errorf("%s is not in the group", u.Login)
		}
	}
	pending, over, ends, blocked, minimal := w.lab.User("pia"), w.lab.User("oto"), w.lab.User("eddy"), w.lab.User("blake"), w.lab.User("mini")
	w.project.Add(minimal, lab.Reporter)
	awaiting := team.Add(pending, lab.Developer)
	w.project.Add(pending, lab.Reporter)
	expired, today := team.Add(over, lab.Developer), team.Add(ends, lab.Developer)
	team.Add(blocked, lab.Developer)
	team.Add(minimal, lab.Minimal)
	w.lab.Change(func() {
		awaiting.Awaiting, expired.Expires, today.Expires, blocked.State = true, "2026-11-01", "2026-11-27", "blocked"
	})
	for _, u := range []*lab.User{pending, over, ends, blocked, minimal, w.bob} {
		if w.in(u, name) {
			t.Errorf("%s is in the group", u.Login)
		}
	}
	// Who may not see the repository is in none of its groups.
	stranger := w.lab.User("sam")
	team.Add(stranger, lab.Developer)
	if w.in(stranger, name) {
		t.Error("who may not see the repository is in the group")
	}
	team.Remove(direct)
	if w.in(direct, name) {
		t.Error("who was removed is still in the group")
	}
}

func TestAMembershipThatGitLabHasNotRemovedYetEndsWithItsDay(t *testing.T) {
	w := start(t)
	w.lab.Fail(lab.Fault{Path: regexp.MustCompile("/projects/.*/members/all/"), Status: 200, Body: `{"id":` + id(w.ada.ID) + `,"username":"ada","state":"active","access_level":40,"expires_at":"2026-11-27"}`})
	if w.in(w.ada, maintainers) {
		t.Error("a membership that ended today counts")
	}
}

func TestABlockedUserIsInNoGroupWhateverTheMembershipSays(t *testing.T) {
	w := start(t)
	w.lab.Fail(lab.Fault{Path: regexp.MustCompile("/members/all/"), Status: 200, Body: `{"id":` + id(w.bob.ID) + `,"username":"bob","state":"active","access_level":40}`})
	if !w.in(w.bob, maintainers) {
		t.Fatal("an active user is not in the group")
	}
	for _, state := range []string{"blocked", "deactivated", "banned"} {
		w.lab.Change(func() { w.bob.State = state })
		if got := w.standing(account(w.bob), maintainers); len(got.Groups) != 0 || got.Reads {
			t.Errorf("%s: %+v", state, got)
		}
	}
}

func TestProgramsAreInNoGroup(t *testing.T) {
	w := start(t)
	got := w.standing(account(w.bot), maintainers)
	if !got.Account.Bot || len(got.Groups) != 0 {
		t.Errorf("%+v", got)
	}
	// The lookup decides, not what the caller believes.
	lie := account(w.bot)
	lie.Bot = false
	if got := w.standing(lie, maintainers); !got.Account.Bot || len(got.Groups) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestAnAccountIsItsIdAndNotItsLogin(t *testing.T) {
	w := start(t)
	group := host + ":@ada#" + id(w.ada.ID)
	w.lab.Change(func() { w.ada.Login = "ada-lovelace" })
	if !w.in(w.ada, group) {
		t.Error("a renamed account is not found by its id")
	}
	thief := w.lab.User("ada")
	w.project.Add(thief, lab.Developer)
	if w.in(thief, group) {
		t.Error("who took the login over is in the group")
	}
}

func TestAnOutsiderReadsAPublicProjectAndIsInNoGroup(t *testing.T) {
	w := start(t)
	out := w.lab.User("out")
	if w.standing(account(out)).Reads {
		t.Error("an outsider reads a private project")
	}
	w.lab.Change(func() { w.project.Visibility = "public" })
	w.clock.add(time.Hour)
	if got := w.standing(account(out), writers); !got.Reads || len(got.Groups) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestAnyErrorOfThePermissionApiIsANo(t *testing.T) {
	for name, c := range map[string]struct {
		fault lab.Fault
		code  signing.Code
	}{
		"500":      {lab.Fault{Status: 500}, signing.Unavailable},
		"403":      {lab.Fault{Status: 403, Body: `{"message":"403 Forbidden"}`}, signing.Denied},
		"401":      {lab.Fault{Status: 401, Body: `{"message":"401 Unauthorized"}`}, signing.Denied},
		"429":      {lab.Fault{Status: 429}, signing.RateLimited},
		"slow":     {lab.Fault{Delay: 3 * time.Second}, signing.Unavailable},
		"redirect": {lab.Fault{Status: 302, Header: http.Header{"Location": {"/x"}}}, signing.Denied},
		"no json":  {lab.Fault{Status: 200, Body: "<html>"}, signing.Unavailable},
		"nobody":   {lab.Fault{Status: 200, Body: "{}"}, signing.Unavailable},
		"another":  {lab.Fault{Status: 200, Body: `{"id":1,"state":"active","access_level":50}`}, signing.Unavailable},
		"not told": {lab.Fault{Status: 200, Body: "null"}, signing.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t)
			c.fault.Path = regexp.MustCompile("/members/all/")
			w.lab.Fail(c.fault)
			got, err := w.client.Standing(t.Context(), w.repo(), account(w.bob), []string{maintainers})
			wantCode(t, err, c.code)
			if len(got.Groups) != 0 || got.Reads {
				t.Errorf("an error came with %+v", got)
			}
		})
	}
	// 404 is an answer: no member.
	w := start(t)
	w.lab.Fail(lab.Fault{Path: regexp.MustCompile("/members/all/"), Status: 404, Body: `{"message":"404 Not found"}`})
	if got := w.standing(account(w.bob), maintainers); len(got.Groups) != 0 || got.Reads {
		t.Errorf("%+v", got)
	}
}

func TestAGroupThatDoesNotExistIsAnErrorThatNamesIt(t *testing.T) {
	w := start(t)
	_, err := w.client.Members(t.Context(), w.repo(), []string{host + ":acme/nobody"})
	wantCode(t, err, signing.NotFound, "acme/nobody")
	_, err = w.client.Standing(t.Context(), w.repo(), account(w.ada), []string{host + ":acme/nobody"})
	wantCode(t, err, signing.NotFound, "acme/nobody")
	// One that the bot may not see is the same.
	w.lab.Group("secret").Add(w.ada, lab.Developer)
	_, err = w.client.Standing(t.Context(), w.repo(), account(w.ada), []string{host + ":secret"})
	wantCode(t, err, signing.NotFound, "secret")
	for _, wrong := range []string{"github.com:acme/x", host + ":", host + ":permission=read", host + ":@ada", host + ":@ada#x", host + ":@ada#-1"} {
		_, err := w.client.Members(t.Context(), w.repo(), []string{wrong})
		wantCode(t, err, signing.Invalid)
	}
}

func TestMembersAreThePeopleWhoCouldApprove(t *testing.T) {
	w := start(t)
	blocked := w.lab.User("blake")
	w.project.Add(blocked, lab.Maintainer)
	w.lab.Change(func() { blocked.State = "blocked" })
	team := w.lab.Group("acme/release")
	team.Add(w.bot, lab.Developer)
	for n := range 150 { // more than one page
		team.Add(w.lab.User("u"+id(int64(1000+n))), lab.Developer)
	}
	one := host + ":@bob#" + id(w.bob.ID)
	got, err := w.client.Members(t.Context(), w.repo(), []string{maintainers, writers, one, host + ":acme/release"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]signing.Account{maintainers: {account(w.bob)}, writers: {account(w.ada), account(w.bob)}, one: {account(w.bob)}}
	if n := len(got[host+":acme/release"]); n != 150 {
		t.Errorf("%d people in the group, want 150", n)
	}
	delete(got, host+":acme/release")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAProjectThatTheTokenMayNotSeeIsNotFound(t *testing.T) {
	w := start(t)
	secret := w.lab.Project("other/secret")
	_, err := w.client.Standing(t.Context(), forge.Repository{ID: id(secret.ID), Name: "other/secret"}, account(w.ada), nil)
	wantCode(t, err, signing.NotFound)
	// Nor is what the name says taken for what the id says.
	_, err = w.client.Standing(t.Context(), forge.Repository{ID: id(secret.ID), Name: w.project.Path}, account(w.ada), nil)
	wantCode(t, err, signing.NotFound)
	_, err = w.client.Standing(t.Context(), forge.Repository{ID: "acme/payments", Name: w.project.Path}, account(w.ada), nil)
	wantCode(t, err, signing.Invalid)
	_, err = w.client.Standing(t.Context(), w.repo(), signing.Account{Forge: "github.com", ID: id(w.bob.ID)}, nil)
	wantCode(t, err, signing.Invalid, "another forge")
}

// TestAGroupCanDecideAboutAProjectOfAnotherForge asks without a project.
func TestAGroupCanDecideAboutAProjectOfAnotherForge(t *testing.T) {
	w := start(t)
	eve, group := w.lab.User("eve"), w.lab.Group("acme/release")
	group.Add(w.bot, lab.Reporter)
	in, in2 := host+":acme/release", host+":@eve#"+account(eve).ID
	ask := func() []string {
		st, err := w.client.Standing(t.Context(), forge.Repository{}, account(eve), []string{in, in2})
		if err != nil || st.Reads || st.Account.ID != account(eve).ID {
			t.Errorf("%+v, %v", st, err)
		}
		return st.Groups
	}
	if got := ask(); !cmp.Equal(got, []string{in2}) {
		t.Errorf("in no group: %v", got)
	}
	member := group.Add(eve, lab.Developer)
	if got := ask(); !cmp.Equal(got, []string{in, in2}) {
		t.Errorf("in the group: %v", got)
	}
	m, err := w.client.Members(t.Context(), forge.Repository{}, []string{in, in2})
	if err != nil || len(m[in]) != 1 || len(m[in2]) != 1 || m[in][0].ID != account(eve).ID {
		t.Errorf("%v, %v", m, err)
	}
	w.lab.Change(func() { member.Awaiting = true })
	if got := ask(); !cmp.Equal(got, []string{in2}) {
		t.Errorf("not accepted yet: %v", got)
	}
	_, err = w.client.Standing(t.Context(), forge.Repository{}, account(eve), []string{writers})
	wantCode(t, err, signing.Invalid)
	_, err = w.client.Members(t.Context(), forge.Repository{}, []string{writers})
	wantCode(t, err, signing.Invalid)
}
