package github

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/devworld/hub"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
)

const secret = "It's a Secret to Everybody"

// hooked is a Client with two webhook secrets, the App ids given and 5.
func hooked(t testing.TB, apps ...string) *Client {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, text []byte) config.Secret {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
		return config.Secret("file:" + filepath.Join(dir, name))
	}
	pem := write("key.pem", key())
	cfg := forge.Config{Host: "github.com", Kind: "github"}
	for _, id := range append([]string{"5"}, apps...) {
		cfg.Apps = append(cfg.Apps, forge.App{ID: id, PrivateKey: pem})
	}
	cfg.Webhook.Secrets = []config.Secret{write("old", []byte("the secret before this one")), write("new", []byte(secret))}
	c, err := New(cfg, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func delivered(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "hooks", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestADeliverySignedWithAnySecretIsAccepted(t *testing.T) {
	c := hooked(t)
	body := delivered(t, "ping")
	for _, s := range []string{secret, "the secret before this one"} {
		d, err := c.Authenticate(hub.Sign(s, "ping", "72d3162e", body), body, time.Now())
		if err != nil || d.Name != "ping" || d.ID != "72d3162e" || d.Forge != "github.com" || !bytes.Equal(d.Body, body) {
			t.Errorf("%+v, %v", d, err)
		}
	}
	// GitHub's own example.
	h := http.Header{"X-Hub-Signature-256": {"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"}}
	if err := c.verify(h, []byte("Hello, World!")); err != nil {
		t.Errorf("the example of GitHub's documentation: %v", err)
	}
}

func TestADeliveryWithoutAGoodSHA256SignatureIsRefused(t *testing.T) {
	c := hooked(t)
	body := delivered(t, "issue_comment.created")
	good := func() http.Header { return hub.Sign(secret, "issue_comment", "g", body) }
	for name, change := range map[string]func(http.Header){
		"missing":    func(h http.Header) { h.Del("X-Hub-Signature-256"); h.Del("X-Hub-Signature") },
		"SHA-1 only": func(h http.Header) { h.Del("X-Hub-Signature-256") },
		"SHA-1 in the place of the other": func(h http.Header) {
			h.Set("X-Hub-Signature-256", h.Get("X-Hub-Signature"))
		},
		"of another secret": func(h http.Header) {
			h.Set("X-Hub-Signature-256", hub.Sign("guess", "", "", body).Get("X-Hub-Signature-256"))
		},
		"of another body": func(h http.Header) {
			h.Set("X-Hub-Signature-256", hub.Sign(secret, "", "", []byte("{}")).Get("X-Hub-Signature-256"))
		},
		"of the empty secret": func(h http.Header) { h.Set("X-Hub-Signature-256", "sha256="+strings.Repeat("0", 64)) },
		"shortened":           func(h http.Header) { h.Set("X-Hub-Signature-256", h.Get("X-Hub-Signature-256")[:40]) },
		"without its prefix": func(h http.Header) {
			h.Set("X-Hub-Signature-256", strings.TrimPrefix(h.Get("X-Hub-Signature-256"), "sha256="))
		},
		"twice": func(h http.Header) { h.Add("X-Hub-Signature-256", h.Get("X-Hub-Signature-256")) },
	} {
		h := good()
		change(h)
		if _, err := c.Authenticate(h, body, time.Now()); signing.CodeOf(err) != signing.Unauthenticated {
			t.Errorf("%s: %v, want unauthenticated", name, err)
		}
	}
	if _, err := c.Authenticate(good(), body, time.Now()); err != nil {
		t.Errorf("the good one: %v", err)
	}
	c.secrets = nil
	if _, err := c.Authenticate(good(), body, time.Now()); signing.CodeOf(err) != signing.Unauthenticated {
		t.Errorf("without a configured secret: %v, want unauthenticated", err)
	}
}

func TestADeliveryThatIsNoneIsInvalid(t *testing.T) {
	c := hooked(t)
	for name, body := range map[string]string{"empty": "", "no JSON": "payload=%7B%7D", "cut": `{"action":"created"`} {
		if _, err := c.Authenticate(hub.Sign(secret, "issue_comment", "g", []byte(body)), []byte(body), time.Now()); signing.CodeOf(err) != signing.Invalid {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
	body := delivered(t, "issue_comment.created")
	h := hub.Sign(secret, "issue_comment", "g", body)
	h.Del("X-GitHub-Event")
	if _, err := c.Authenticate(h, body, time.Now()); signing.CodeOf(err) != signing.Invalid {
		t.Errorf("without an event: %v, want invalid", err)
	}
	h = hub.Sign(secret, "issue_comment", "g", body)
	h.Set("Content-Type", "application/x-www-form-urlencoded")
	if _, err := c.Authenticate(h, body, time.Now()); signing.CodeOf(err) != signing.Invalid {
		t.Errorf("as a form: %v, want invalid", err)
	}
	large := make([]byte, forge.MaxDelivery+1)
	if _, err := c.Authenticate(http.Header{}, large, time.Now()); signing.CodeOf(err) != signing.TooLarge {
		t.Errorf("more than 25 MB: %v, want too large, before the signature is made", err)
	}
}

func TestARedeliveryHasTheSameKeyUnderAnyGUID(t *testing.T) {
	c := hooked(t)
	body := delivered(t, "issue_comment.created")
	one := hub.Sign(secret, "issue_comment", "one", body)
	two := hub.Sign(secret, "issue_comment", "two", body)
	two.Set("X-GitHub-Hook-ID", "99")
	a, err := c.Authenticate(one, body, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.Authenticate(two, body, time.Now().Add(72*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if a.Key != b.Key {
		t.Errorf("keys %s and %s, want the same: only the body is signed", a.Key, b.Key)
	}
	// Under another event, which nobody signed, it is another delivery: it must not
	// take the place of the true one, and is not read as that event.
	d, err := c.Authenticate(hub.Sign(secret, "check_run", "one", body), body, time.Now())
	if err != nil || d.Key == a.Key {
		t.Errorf("key %s, %v; want another one", d.Key, err)
	}
	if e, err := c.Parse(d); signing.CodeOf(err) != signing.Invalid {
		t.Errorf("%+v, %v; want invalid", e, err)
	}
}

// parsed parses a recorded payload after a change.
func parsed(t *testing.T, c *Client, event, name string, change func(map[string]any)) (forge.Event, error) {
	t.Helper()
	body := delivered(t, name)
	if change != nil {
		var doc map[string]any
		if err := json.Unmarshal(body, &doc); err != nil {
			t.Fatal(err)
		}
		change(doc)
		body, _ = json.Marshal(doc)
	}
	return c.Parse(forge.Delivery{Forge: "github.com", Name: event, Body: body})
}

func in(doc map[string]any, key string) map[string]any { return doc[key].(map[string]any) }

func TestRecordedDeliveriesAreReadAsWhatTheyAre(t *testing.T) {
	c := hooked(t, "25811")
	someone := signing.Account{Forge: "github.com", ID: "21031067", Login: "Codertocat"}
	hello := forge.Repository{ID: "186853002", Name: "Codertocat/Hello-World"}
	thread := func(kind, number, installation string) signing.Thread {
		return signing.Thread{Forge: "github.com", Installation: installation, RepositoryID: hello.ID, Repository: hello.Name, Kind: kind, Number: number}
	}
	for _, want := range []struct {
		event, name string
		is          forge.Event
	}{
		{"ping", "ping", forge.Event{Kind: forge.EventPing}},
		{"issue_comment", "issue_comment.created.with-installation", forge.Event{Kind: forge.EventComment, Repository: hello, Thread: thread("issue", "1", "1"), Comment: "issuecomment-492700400", Body: "You are totally right! I'll get this fixed right away.", Sender: someone}},
		{"issue_comment", "issue_comment.edited", forge.Event{Kind: forge.EventEdited, Repository: hello, Thread: thread("issue", "1", ""), Comment: "issuecomment-492700400", Sender: someone}},
		{"issue_comment", "issue_comment.deleted", forge.Event{Kind: forge.EventEdited, Repository: hello, Thread: thread("issue", "1", ""), Comment: "issuecomment-492700400", Sender: someone}},
		{"pull_request", "pull_request.opened", forge.Event{Kind: forge.EventPull, Commit: "ec26c3e57ca3a959ca5aad62de7213c562f8c821"}},
		{"pull_request", "pull_request.synchronize", forge.Event{Kind: forge.EventPull}},
		{"pull_request", "pull_request.closed", forge.Event{Kind: forge.EventIgnored, Why: "no new commits"}},
		{"pull_request_review", "pull_request_review.submitted.with-organization", forge.Event{Kind: forge.EventComment, Comment: "pullrequestreview-237895671", Commit: "ec26c3e57ca3a959ca5aad62de7213c562f8c821"}},
		{"pull_request_review", "pull_request_review.dismissed", forge.Event{Kind: forge.EventEdited}},
		{"pull_request_review_comment", "pull_request_review_comment.created", forge.Event{Kind: forge.EventComment}},
		{"check_run", "check_run.created", forge.Event{Kind: forge.EventIgnored, Why: "no button"}},
		{"check_run", "check_run.requested_action", forge.Event{Kind: forge.EventButton, Button: "lgtm|26764", Check: "1494503112", Commit: "5bd5f196a46b8222fb7484f05faba41a73cf34bd"}},
		{"push", "push", forge.Event{Kind: forge.EventIgnored, Why: `no use for "push"`}},
	} {
		got, err := parsed(t, c, want.event, want.name, nil)
		if err != nil {
			t.Errorf("%s: %v", want.name, err)
			continue
		}
		if want.is.Repository.ID == "" { // only what is named is compared
			want.is.Repository, want.is.Thread, want.is.Sender, want.is.Body = got.Repository, got.Thread, got.Sender, got.Body
			for _, p := range []struct{ to, from *string }{{&want.is.Comment, &got.Comment}, {&want.is.Commit, &got.Commit}} {
				if *p.to == "" {
					*p.to = *p.from
				}
			}
		}
		if diff := cmp.Diff(want.is, got); diff != "" {
			t.Errorf("%s: %s", want.name, diff)
		}
	}
	pull, err := parsed(t, c, "issue_comment", "issue_comment.created", func(d map[string]any) { in(d, "issue")["pull_request"] = map[string]any{"url": "x"} })
	if err != nil || pull.Thread.Kind != signing.ThreadPull {
		t.Errorf("a comment on a pull request: %+v, %v", pull.Thread, err)
	}
}

func TestCommentsOfProgramsAreIgnored(t *testing.T) {
	c := hooked(t)
	for why, change := range map[string]func(map[string]any){
		"bot":                                  func(d map[string]any) { in(in(d, "comment"), "user")["type"] = "Bot"; in(d, "sender")["type"] = "Bot" },
		"written by an App in somebody's name": func(d map[string]any) { in(d, "comment")["performed_via_github_app"] = map[string]any{"id": 7} },
		"its author is gone":                   func(d map[string]any) { in(d, "comment")["user"] = nil },
		"not created":                          func(d map[string]any) { d["action"] = "pinned" },
	} {
		e, err := parsed(t, c, "issue_comment", "issue_comment.created", change)
		if err != nil || e.Kind != forge.EventIgnored || e.Why != why {
			t.Errorf("%s: %+v, %v; want it ignored", why, e, err)
		}
	}
	if e, err := parsed(t, c, "issue_comment", "issue_comment.created", func(d map[string]any) { in(d, "sender")["id"] = 7 }); signing.CodeOf(err) != signing.Invalid {
		t.Errorf("a new comment of somebody else than its sender: %+v, %v; want invalid", e, err)
	}
}

func TestAnEditedOrDeletedCommentIsNoNewOne(t *testing.T) {
	c := hooked(t)
	for _, action := range []string{"edited", "deleted", "", "CREATED"} {
		e, err := parsed(t, c, "issue_comment", "issue_comment.created", func(d map[string]any) { d["action"] = action })
		if err != nil || e.Kind == forge.EventComment {
			t.Errorf("action %q: %+v, %v; want no new comment", action, e, err)
		}
	}
	e, err := parsed(t, c, "pull_request_review", "pull_request_review.submitted.with-organization", func(d map[string]any) { d["action"] = "edited" })
	if err != nil || e.Kind != forge.EventEdited {
		t.Errorf("an edited review: %+v, %v", e, err)
	}
}

func TestAButtonOfAnotherAppIsIgnored(t *testing.T) {
	ours := hooked(t, "25811")
	theirs := hooked(t)
	if e, err := parsed(t, theirs, "check_run", "check_run.requested_action", nil); err != nil || e.Kind != forge.EventIgnored {
		t.Errorf("of another App: %+v, %v; want it ignored", e, err)
	}
	if e, err := parsed(t, ours, "check_run", "check_run.requested_action", func(d map[string]any) { in(d, "sender")["type"] = "Bot" }); err != nil || e.Kind != forge.EventIgnored {
		t.Errorf("pressed by a bot: %+v, %v; want it ignored", e, err)
	}
	if e, err := parsed(t, ours, "check_run", "check_run.requested_action", func(d map[string]any) { delete(in(d, "check_run"), "app") }); err != nil || e.Kind != forge.EventIgnored {
		t.Errorf("of no App: %+v, %v; want it ignored", e, err)
	}
}

func TestDeliveriesThatContradictThemselvesAreRefused(t *testing.T) {
	c := hooked(t, "25811")
	for _, w := range []struct {
		event, name string
		change      func(map[string]any)
	}{
		{"issue_comment", "issue_comment.created", func(d map[string]any) { delete(d, "repository") }},
		{"issue_comment", "issue_comment.created", func(d map[string]any) { in(d, "repository")["id"] = 0 }},
		{"issue_comment", "issue_comment.created", func(d map[string]any) { in(d, "comment")["id"] = -1 }},
		{"issue_comment", "issue_comment.created", func(d map[string]any) { in(d, "issue")["number"] = 0 }},
		{"issue_comment", "issue_comment.created", func(d map[string]any) { in(d, "comment")["id"] = "1" }},
		{"issue_comment", "issue_comment.created", func(d map[string]any) { delete(d, "comment") }},
		{"issue_comment", "pull_request_review_comment.created", nil},
		{"pull_request", "pull_request.opened", func(d map[string]any) { d["number"] = 3 }},
		{"pull_request", "pull_request.opened", func(d map[string]any) { in(in(d, "pull_request"), "head")["sha"] = "main" }},
		{"check_run", "check_run.requested_action", func(d map[string]any) { delete(d, "requested_action") }},
		{"check_run", "check_run.requested_action", func(d map[string]any) { delete(d, "sender") }},
	} {
		if e, err := parsed(t, c, w.event, w.name, w.change); signing.CodeOf(err) != signing.Invalid {
			t.Errorf("%s: %+v, %v; want invalid", w.name, e, err)
		}
	}
}

// TestEveryRecordedPayloadIsReadOrIgnored reads those of this package, and all that
// lie beside the repository.
func TestEveryRecordedPayloadIsReadOrIgnored(t *testing.T) {
	c := hooked(t)
	useful := map[string]bool{"ping": true, "issue_comment": true, "pull_request": true, "pull_request_review": true, "pull_request_review_comment": true, "check_run": true}
	seen := 0
	each := func(event, name string, body []byte) {
		seen++
		e, err := c.Parse(forge.Delivery{Forge: "github.com", Name: event, Body: body})
		switch {
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case e.Kind == "" || !useful[event] && e.Kind != forge.EventIgnored:
			t.Errorf("%s: %+v, want it ignored", name, e)
		case e.Kind == forge.EventIgnored && e.Why == "":
			t.Errorf("%s is ignored without a reason", name)
		}
	}
	own, err := filepath.Glob("testdata/hooks/*.json")
	if err != nil || len(own) < 10 {
		t.Fatalf("%d payloads, %v", len(own), err)
	}
	for _, f := range own {
		name := strings.TrimSuffix(filepath.Base(f), ".json")
		event, _, _ := strings.Cut(name, ".")
		each(event, name, delivered(t, name))
	}
	_ = filepath.WalkDir(filepath.Join("..", "..", "..", "..", "shared", "fixtures", "github"), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(p) != ".json" {
			return nil // it need not be there
		}
		body, err := os.ReadFile(p)
		if err != nil {
			t.Error(err)
			return nil
		}
		each(filepath.Base(filepath.Dir(p)), p, body)
		return nil
	})
	t.Logf("%d payloads", seen)
}

func FuzzParse(f *testing.F) {
	own, err := filepath.Glob("testdata/hooks/*.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, p := range own {
		name := strings.TrimSuffix(filepath.Base(p), ".json")
		event, _, _ := strings.Cut(name, ".")
		// Only what is read of it: a small seed is changed where it matters.
		var p payload
		if err := json.Unmarshal(delivered(f, name), &p); err != nil {
			f.Fatal(err)
		}
		small, err := json.Marshal(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(event, small)
	}
	f.Add("issue_comment", []byte(`null`))
	f.Add("check_run", []byte(`{"check_run":{},"action":"requested_action","repository":{"id":1}}`))
	c := hooked(f, "25811")
	f.Fuzz(func(t *testing.T, event string, body []byte) {
		d, err := c.Authenticate(hub.Sign(secret, event, "g", body), body, time.Now())
		if err != nil {
			return
		}
		e, err := c.Parse(d)
		if err != nil {
			if signing.CodeOf(err) != signing.Invalid {
				t.Errorf("%v, want invalid", err)
			}
			return
		}
		switch e.Kind {
		case forge.EventComment:
			if !e.Sender.Known() || e.Sender.Bot || e.Comment == "" || e.Thread.Number == "" || e.Repository.ID == "" {
				t.Errorf("a comment that lacks what is needed: %+v", e)
			}
			if _, _, err := c.splitID(e.Comment); err != nil {
				t.Error(err)
			}
		case forge.EventButton:
			if !e.Sender.Known() || e.Sender.Bot || e.Button == "" || e.Check == "" {
				t.Errorf("a button that lacks what is needed: %+v", e)
			}
		}
	})
}
