package dct_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/devworld/notary"
	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/signing"
)

func TestARepositoryWithoutTrustDataSaysHowToGetSome(t *testing.T) {
	w := newWorld(t)
	c := w.open(nil, dct.Pin{Repository: "registry.acme.dev", RootKeys: []string{w.owner.Root.Key.ID}})
	_, err := c.Fetch(t.Context(), "registry.acme.dev/nothing")
	if e := wants(t, err, signing.NotFound); !strings.Contains(e.Fix, "dct init") {
		t.Errorf("got %+v", e)
	}
}

func TestAFailingServerIsNeverTakenForOneWithoutTrustData(t *testing.T) {
	w := newWorld(t)
	w.release("v1", "one")
	for name, status := range map[string]int{"500": http.StatusInternalServerError, "403": http.StatusForbidden, "301": http.StatusMovedPermanently} {
		w.server.Before = func(rw http.ResponseWriter, _ *http.Request) bool {
			rw.Header().Set("Location", "https://elsewhere.test/")
			rw.WriteHeader(status)
			return true
		}
		_, err := w.client.Fetch(t.Context(), gun)
		if err == nil || errors.Is(err, signing.NotFound) {
			t.Errorf("%s: %v", name, err)
		}
		if p, err := w.method.Prepare(t.Context(), w.target(change("v1", "one")), w.now); err == nil {
			t.Errorf("%s: prepared %+v", name, p)
		}
	}
}

func TestWhatTheServerRefusesSaysWhatToDo(t *testing.T) {
	w := newWorld(t)
	answer := ""
	w.server.Before = func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost {
			rw.WriteHeader(http.StatusBadRequest)
			_, _ = rw.Write([]byte(answer))
		}
		return r.Method == http.MethodPost
	}
	for text, c := range map[string]struct {
		code signing.Code
		fix  string
	}{
		`{"errors":[{"code":"VERSION"}]}`:                                                        {signing.Conflict, ""},
		`{"errors":[{"code":"INVALID_ROLE","detail":"releases"}]}`:                               {signing.Denied, "Debian"},
		`{"errors":[{"code":"INVALID_UPDATE","detail":{"Name":"ErrBadHierarchy","Error":{}}}]}`:  {signing.Denied, "key rotate " + string(gun) + " snapshot -r"},
		`{"errors":[{"code":"INVALID_UPDATE","detail":{"Name":"ErrBadTargets","Error":{}}}]}`:    {signing.Denied, "log of the notary server"},
		`{"errors":[{"code":"INVALID_UPDATE","detail":{"Name":"<script>","Error":"a secret"}}]}`: {signing.Denied, ""},
		`not JSON`: {signing.Denied, ""},
	} {
		answer = text
		err := w.client.Publish(t.Context(), gun, dct.Update{Role: dct.RoleReleases, Bytes: []byte("{}")})
		if e := wants(t, err, c.code); !strings.Contains(e.Fix, c.fix) || strings.Contains(err.Error(), "a secret") {
			t.Errorf("%s: got %+v", text, e)
		}
	}
}

func TestASnapshotKeyOnSomebodysDiskIsRefusedWithTheCommandThatHandsItOver(t *testing.T) {
	w := newWorld(t)
	snapshot, err := notary.NewSigner("")
	if err != nil {
		t.Fatal(err)
	}
	s := w.fetch()
	targets, _ := s.Role(dct.RoleTargets)
	u, err := dct.NewRoot(2, w.now.AddDate(1, 0, 0), s.Root.Keys, targets.Keys, []dct.Key{snapshot.Key}, s.Timestamp.Keys).Seal(w.owner.Root)
	if err != nil {
		t.Fatal(err)
	}
	body := w.body("snapshot")
	body["version"] = 50
	body["meta"].(map[string]any)["root"] = notary.Describe(u.Bytes)
	if err := w.client.Publish(t.Context(), gun, u, dct.Update{Role: "snapshot", Bytes: w.signed("snapshot", body, snapshot)}); err != nil {
		t.Fatal(err)
	}
	tg := w.target(change("v1", "one"))
	_, err = w.method.Publish(t.Context(), tg, w.envelope(tg))
	if e := wants(t, err, signing.Denied); !strings.Contains(e.Fix, "snapshot -r") {
		t.Errorf("got %+v", e)
	}
}

func TestAnUpdateIsWrittenAsTheServerReadsItAndForRolesOnly(t *testing.T) {
	w := newWorld(t)
	for _, role := range []string{"", "targets/", "targets/../root", `targets/a"; filename="root`, "targets/A", "other"} {
		if err := w.client.Publish(t.Context(), gun, dct.Update{Role: role, Bytes: []byte("{}")}); err == nil {
			t.Errorf("%q was sent", role)
		}
	}
}

func TestTheServersOwnKeysAreReadAndRotated(t *testing.T) {
	w := newWorld(t)
	first, err := w.client.ServerKey(t.Context(), gun, "snapshot")
	if err != nil {
		t.Fatal(err)
	}
	next, err := w.client.RotateServerKey(t.Context(), gun, "snapshot")
	if err != nil || next.ID == first.ID {
		t.Errorf("got %v, %v", next.ID, err)
	}
	again, err := w.client.ServerKey(t.Context(), gun, "snapshot")
	if err != nil || again.ID != next.ID {
		t.Errorf("got %v, %v", again.ID, err)
	}
	if _, err := w.client.ServerKey(t.Context(), gun, "root"); err == nil {
		t.Error("a root key of the server")
	}
	w.server.Before = func(rw http.ResponseWriter, _ *http.Request) bool {
		_, _ = rw.Write([]byte(`{"keytype":"ecdsa","keyval":{"private":"AAAA","public":"AAAA"}}`))
		return true
	}
	if _, err := w.client.ServerKey(t.Context(), gun, "snapshot"); !errors.Is(err, signing.Unavailable) {
		t.Errorf("got %v", err)
	}
}

func TestOnlyTheRolesThatAreAskedForAreRead(t *testing.T) {
	w := newWorld(t)
	if err := w.owner.Delegate(t.Context(), w.client, "targets/ci", w.key); err != nil {
		t.Fatal(err)
	}
	w.release("v1", "one")
	s, err := w.client.Fetch(t.Context(), gun, "targets/ci")
	if err != nil {
		t.Fatal(err)
	}
	if _, read := s.Role(dct.RoleReleases); read || len(s.Roles) != 2 {
		t.Errorf("got %+v", s.Roles)
	}
	if s := w.fetch(); len(s.Roles) != 3 {
		t.Errorf("got %+v", s.Roles)
	}
}

func TestAKeyIsDelegatedOnceAndBesideOthers(t *testing.T) {
	w := newWorld(t)
	if err := w.owner.Delegate(t.Context(), w.client, dct.RoleReleases, w.key); err != nil {
		t.Fatal(err)
	}
	_, other := newKey(t, "second", false)
	if err := w.owner.Delegate(t.Context(), w.client, dct.RoleReleases, other); err != nil {
		t.Fatal(err)
	}
	r, _ := w.fetch().Role(dct.RoleReleases)
	if len(r.Keys) != 2 || r.Threshold != 1 {
		t.Errorf("got %+v", r)
	}
	for _, name := range []string{"targets", "root", "targets/Upper", "targets/a/b", ""} {
		if _, err := w.fetch().Delegate(name, r.Keys, nil, w.now); !errors.Is(err, signing.Invalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
}
