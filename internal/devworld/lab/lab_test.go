package lab_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/devworld/lab"
)

// world is a lab with a project, a clock that is moved by hand and a place that
// takes webhooks.
type world struct {
	t       *testing.T
	lab     *lab.Server
	url     string
	project *lab.Project
	ada     *lab.User
	token   string
	mu      sync.Mutex
	at      time.Time
	status  int // of the receiver
	hook    string
}

func start(t *testing.T, o lab.Options) *world {
	t.Helper()
	w := &world{t: t, at: time.Date(2026, 11, 27, 9, 0, 0, 0, time.UTC), status: 200}
	o.Now = func() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.at }
	w.lab = lab.New(o)
	server := httptest.NewServer(w.lab)
	receiver := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		defer w.mu.Unlock()
		rw.WriteHeader(w.status)
	}))
	t.Cleanup(func() { w.lab.Wait(); server.Close(); receiver.Close() })
	w.url, w.hook = server.URL, receiver.URL
	w.lab.SetURL(w.url)
	w.project, w.ada = w.lab.Project("acme/web"), w.lab.User("ada")
	w.project.Add(w.ada, lab.Maintainer)
	w.token = w.lab.Token(w.ada)
	return w
}

func (w *world) add(d time.Duration) { w.mu.Lock(); defer w.mu.Unlock(); w.at = w.at.Add(d) }
func (w *world) answer(status int)   { w.mu.Lock(); defer w.mu.Unlock(); w.status = status }

// ask makes a request below the API and returns status, header and body.
func (w *world) ask(token, method, path, body string) (int, http.Header, string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.url+"/api/v4"+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Private-Token", token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(raw)
}

func (w *world) below(path string) string { return "/projects/" + url.PathEscape("acme/web") + path }

func TestItRefusesWhatGitLabRefuses(t *testing.T) {
	w := start(t, lab.Options{})
	w.project.Open(lab.MR{Author: w.ada, Branch: "x"})
	guest, out := w.lab.User("gus"), w.lab.User("out")
	w.project.Add(guest, lab.Guest)
	blocked := w.lab.User("blake")
	w.project.Add(blocked, lab.Maintainer)
	blockedToken := w.lab.Token(blocked)
	w.lab.Change(func() { blocked.State = "blocked" })
	revoked := w.lab.Token(w.ada)
	w.lab.Revoke(revoked)
	head := w.project.Head("main")
	notes := w.below("/merge_requests/1/notes")
	for name, c := range map[string]struct {
		token, method, path, body string
		want                      int
	}{
		"good":                   {w.token, "GET", w.below(""), "", 200},
		"no token":               {"", "GET", w.below(""), "", 401},
		"revoked":                {revoked, "GET", w.below(""), "", 401},
		"blocked":                {blockedToken, "GET", w.below(""), "", 401},
		"outsider":               {w.lab.Token(out), "GET", w.below(""), "", 404},
		"guest sees it":          {w.lab.Token(guest), "GET", w.below(""), "", 200},
		"guest sees no code":     {w.lab.Token(guest), "GET", w.below("/repository/tree"), "", 403},
		"read only":              {w.lab.Token(w.ada, "read_api"), "POST", notes, `{"body":"x"}`, 403},
		"another scope":          {w.lab.Token(w.ada, "read_repository"), "GET", w.below(""), "", 403},
		"no body":                {w.token, "POST", notes, `{}`, 400},
		"blank":                  {w.token, "POST", notes, `{"body":" "}`, 400},
		"no json":                {w.token, "POST", notes, `{`, 400},
		"too long":               {w.token, "POST", notes, `{"body":"` + strings.Repeat("x", lab.MaxNote+1) + `"}`, 400},
		"note":                   {w.token, "POST", notes, `{"body":"x"}`, 201},
		"no such note":           {w.token, "GET", notes + "/1", "", 404},
		"no such route":          {w.token, "GET", w.below("/nothing"), "", 404},
		"premium":                {w.token, "GET", w.below("/approval_rules"), "", 404},
		"no state":               {w.token, "POST", w.below("/statuses/" + head), `{}`, 400},
		"a state that is none":   {w.token, "POST", w.below("/statuses/" + head), `{"state":"good"}`, 400},
		"a commit that is none":  {w.token, "POST", w.below("/statuses/main"), `{"state":"success"}`, 404},
		"status":                 {w.token, "POST", w.below("/statuses/" + head), `{"state":"success"}`, 201},
		"status by a guest":      {w.lab.Token(guest), "POST", w.below("/statuses/" + head), `{"state":"success"}`, 403},
		"protections by a guest": {w.lab.Token(guest), "GET", w.below("/protected_branches"), "", 403},
	} {
		if got, _, body := w.ask(c.token, c.method, c.path, c.body); got != c.want {
			t.Errorf("%s: %d %s, want %d", name, got, body, c.want)
		}
	}
	w.lab.Change(func() { w.project.Visibility = "public" })
	if got, _, _ := w.ask(w.lab.Token(out), "GET", w.below("/repository/tree"), ""); got != 200 {
		t.Errorf("an outsider gets %d for a public project", got)
	}
	if got, _, _ := w.ask(w.lab.Token(out), "GET", w.below("/protected_branches"), ""); got != 403 {
		t.Errorf("an outsider gets %d for its protections", got)
	}
}

func TestListsComeInPages(t *testing.T) {
	w := start(t, lab.Options{})
	for range 45 {
		w.project.OpenIssue(w.ada, "x")
	}
	_, head, body := w.ask(w.token, "GET", w.below("/issues?per_page=20&page=3"), "")
	var got []any
	if err := json.Unmarshal([]byte(body), &got); err != nil || len(got) != 5 || head.Get("X-Next-Page") != "" || head.Get("X-Page") != "3" || head.Get("X-Total") != "45" {
		t.Errorf("%d, %v, %v", len(got), err, head)
	}
	if _, head, _ := w.ask(w.token, "GET", w.below("/issues"), ""); head.Get("X-Next-Page") != "2" || !strings.Contains(head.Get("Link"), `rel="next"`) {
		t.Errorf("%v", head)
	}
}

func TestALimitIsToldAndEnforced(t *testing.T) {
	w := start(t, lab.Options{PerMinute: 3})
	for n := range 3 {
		if got, head, _ := w.ask(w.token, "GET", "/user", ""); got != 200 || head.Get("Ratelimit-Remaining") != string(rune('2'-n)) {
			t.Errorf("%d: %d %v", n, got, head)
		}
	}
	got, head, _ := w.ask(w.token, "GET", "/user", "")
	if got != 429 || head.Get("Retry-After") == "" || head.Get("Ratelimit-Reset") == "" {
		t.Errorf("%d %v", got, head)
	}
	w.add(61 * time.Second)
	if got, _, _ := w.ask(w.token, "GET", "/user", ""); got != 200 {
		t.Errorf("%d after a minute", got)
	}
}

func TestWritingNotesHasALimitOfItsOwn(t *testing.T) {
	w := start(t, lab.Options{NotesPerMinute: 1})
	w.project.Open(lab.MR{Author: w.ada, Branch: "x"})
	notes := w.below("/merge_requests/1/notes")
	if got, _, _ := w.ask(w.token, "POST", notes, `{"body":"x"}`); got != 201 {
		t.Errorf("%d", got)
	}
	if got, _, _ := w.ask(w.token, "POST", notes, `{"body":"x"}`); got != 429 {
		t.Errorf("%d", got)
	}
	if got, _, _ := w.ask(w.token, "GET", notes, ""); got != 200 {
		t.Errorf("%d", got)
	}
}

func TestADeliveryIsSignedOverItsIdTimeAndBody(t *testing.T) {
	w := start(t, lab.Options{})
	token := lab.NewSigningToken()
	signed, plain := w.project.Hook(lab.Hook{URL: w.hook, SigningToken: token}), w.project.Hook(lab.Hook{URL: w.hook, Secret: "s"})
	mr := w.project.Open(lab.MR{Author: w.ada, Branch: "x"})
	n := mr.Comment(w.ada, "hello")
	w.lab.EditNote(mr, n, "changed")
	mr.Say(w.ada, lab.Note{Body: "hidden", Internal: true})
	mr.Say(w.ada, lab.Note{Body: "by the forge", System: true})
	w.lab.Wait()
	kinds := map[string]int{}
	for _, d := range signed.Deliveries() {
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(token, "whsec_"))
		if err != nil {
			t.Fatal(err)
		}
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(d.Header.Get("Webhook-Id") + "." + d.Header.Get("Webhook-Timestamp") + "."))
		mac.Write(d.Body)
		if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); d.Header.Get("Webhook-Signature") != want || d.Header.Get("Idempotency-Key") != d.Header.Get("Webhook-Id") {
			t.Errorf("%v", d.Header)
		}
		var p struct {
			Object struct {
				Action string
				System bool
			} `json:"object_attributes"`
		}
		if err := json.Unmarshal(d.Body, &p); err != nil {
			t.Fatal(err)
		}
		kind := d.Header.Get("X-Gitlab-Event") + " " + p.Object.Action
		if p.Object.System {
			kind += " system"
		}
		kinds[kind]++
	}
	for kind, want := range map[string]int{"Merge Request Hook open": 1, "Note Hook create": 1, "Note Hook update": 1, "Note Hook create system": 1, "Confidential Note Hook create": 0} {
		if kinds[kind] != want {
			t.Errorf("%s: %d, want %d", kind, kinds[kind], want)
		}
	}
	for _, d := range plain.Deliveries() {
		if d.Header.Get("X-Gitlab-Token") != "s" || d.Header.Get("Webhook-Signature") != "" {
			t.Errorf("%v", d.Header)
		}
	}
}

func TestARedeliveryHasTheSameBodyUnderAnotherId(t *testing.T) {
	w := start(t, lab.Options{})
	hook := w.project.Hook(lab.Hook{URL: w.hook, SigningToken: lab.NewSigningToken()})
	w.project.Open(lab.MR{Author: w.ada, Branch: "x"})
	w.lab.Wait()
	if got := hook.Redeliver(hook.Deliveries()[0]); got != 200 {
		t.Errorf("%d", got)
	}
	all := hook.Deliveries()
	if len(all) != 2 || !bytes.Equal(all[0].Body, all[1].Body) || all[0].Header.Get("Webhook-Id") == all[1].Header.Get("Webhook-Id") {
		t.Errorf("%+v", all)
	}
}

func TestAFailingHookIsDisabledForALongerTimeEachTimeAndThenForGood(t *testing.T) {
	w := start(t, lab.Options{})
	hook := w.project.Hook(lab.Hook{URL: w.hook, Secret: "s"})
	mr := w.project.Open(lab.MR{Author: w.ada, Branch: "x"})
	w.lab.Wait()
	say := func() { mr.Comment(w.ada, "x"); w.lab.Wait() }
	w.answer(401) // a wrong secret counts like everything that is not 2xx
	for range 3 {
		say()
	}
	if hook.Disabled() {
		t.Error("disabled after three")
	}
	say()
	if !hook.Disabled() {
		t.Error("not disabled after four")
	}
	sent := len(hook.Deliveries())
	say()
	if len(hook.Deliveries()) != sent {
		t.Error("a disabled hook was sent to")
	}
	w.add(61 * time.Second)
	say()
	w.add(61 * time.Second)
	if !hook.Disabled() {
		t.Error("the second time is no longer than the first")
	}
	w.add(61 * time.Second)
	w.answer(200)
	say()
	if hook.Disabled() {
		t.Error("a hook that works again is disabled")
	}
	w.answer(500)
	for range 40 {
		say()
		w.add(25 * time.Hour)
	}
	if !hook.Disabled() {
		t.Error("not disabled for good after forty")
	}
}

func TestDeliveriesCanBeLost(t *testing.T) {
	w := start(t, lab.Options{})
	hook := w.project.Hook(lab.Hook{URL: w.hook, Secret: "s", Lose: 1})
	mr := w.project.Open(lab.MR{Author: w.ada, Branch: "x"})
	w.lab.Wait()
	if n := len(hook.Deliveries()); n != 0 {
		t.Errorf("%d were sent", n)
	}
	mr.Comment(w.ada, "x")
	w.lab.Wait()
	if n := len(hook.Deliveries()); n != 1 {
		t.Errorf("%d were sent", n)
	}
}

func TestAQuickActionIsCarriedOutAndNotKept(t *testing.T) {
	w := start(t, lab.Options{})
	mr := w.project.Open(lab.MR{Author: w.ada, Branch: "x"})
	_, _, body := w.ask(w.token, "POST", w.below("/merge_requests/1/notes"), `{"body":"text\n/close\nmore\r\n\n"}`)
	if mr.State != "closed" || !strings.Contains(body, `"body":"text\nmore"`) {
		t.Errorf("%s, %s", mr.State, body)
	}
}

func TestAFaultComesBeforeOrAfterItsRequest(t *testing.T) {
	w := start(t, lab.Options{})
	w.project.Open(lab.MR{Author: w.ada, Branch: "x"})
	notes := w.below("/merge_requests/1/notes")
	w.lab.Fail(lab.Fault{Method: "POST", Status: 502, Times: 1})
	w.lab.Fail(lab.Fault{Method: "POST", Status: 503, Times: 1, After: true})
	count := func() int {
		_, head, _ := w.ask(w.token, "GET", notes, "")
		return len(head.Get("X-Total")) + int(head.Get("X-Total")[0]-'0')
	}
	before := count()
	if got, _, _ := w.ask(w.token, "POST", notes, `{"body":"x"}`); got != 502 || count() != before {
		t.Errorf("%d", got)
	}
	if got, _, _ := w.ask(w.token, "POST", notes, `{"body":"x"}`); got != 503 || count() != before+1 {
		t.Errorf("%d", got)
	}
	if got, _, _ := w.ask(w.token, "POST", notes, `{"body":"x"}`); got != 201 {
		t.Errorf("%d", got)
	}
}
