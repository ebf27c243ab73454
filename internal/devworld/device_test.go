package devworld

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestTheDeviceFlowIsStrict(t *testing.T) {
	now := time.Now()
	i, err := NewIssuer("https://login.test/people", func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	post := func(path string, form url.Values) (int, map[string]any) {
		t.Helper()
		r := httptest.NewRequest(http.MethodPost, "/people"+path, strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		i.ServeHTTP(w, r)
		var got map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		return w.Code, got
	}
	begin := func() map[string]any {
		t.Helper()
		code, got := post("/device/code", url.Values{"client_id": {"c"}, "scope": {"openid groups"}})
		if code != http.StatusOK {
			t.Fatalf("%d %v", code, got)
		}
		return got
	}
	ask := func(code any, client string) string {
		t.Helper()
		status, got := post("/token", url.Values{"grant_type": {deviceGrant}, "device_code": {code.(string)}, "client_id": {client}})
		if status == http.StatusOK {
			return "token"
		}
		return got["error"].(string)
	}
	expect := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	_, got := post("/device/code", url.Values{"client_id": {"c"}, "scope": {"groups"}})
	expect("without openid", got["error"].(string), "invalid_scope")
	_, got = post("/token", url.Values{"grant_type": {"authorization_code"}})
	expect("another grant", got["error"].(string), "unsupported_grant_type")
	_, got = post("/token?client_id=c", url.Values{"grant_type": {deviceGrant}})
	expect("in the query", got["error"].(string), "invalid_request")

	d := begin()
	expect("a code that nobody was given", ask("x", "c"), "invalid_grant")
	expect("another client", ask(d["device_code"], "other"), "invalid_client")
	expect("before anybody logged in", ask(d["device_code"], "c"), "authorization_pending")
	expect("at once again", ask(d["device_code"], "c"), "slow_down")
	now = now.Add(2 * time.Second)
	expect("no slower than before", ask(d["device_code"], "c"), "slow_down")
	if err := i.Enter("WRNG-CODE", NewPerson()); err == nil {
		t.Error("a wrong code was entered")
	}
	if err := i.Enter(d["user_code"].(string), NewPerson()); err != nil {
		t.Error(err)
	}
	if err := i.Enter(d["user_code"].(string), NewPerson()); err == nil {
		t.Error("a code was entered twice")
	}
	now = now.Add(time.Minute)
	expect("after the login", ask(d["device_code"], "c"), "token")
	expect("once more", ask(d["device_code"], "c"), "invalid_grant")

	d = begin()
	if err := i.Refuse(d["user_code"].(string)); err != nil {
		t.Error(err)
	}
	expect("refused", ask(d["device_code"], "c"), "access_denied")
	d = begin()
	now = now.Add(deviceLifetime)
	expect("too late", ask(d["device_code"], "c"), "expired_token")
	if err := i.Enter(d["user_code"].(string), NewPerson()); err == nil {
		t.Error("entered too late")
	}
}
