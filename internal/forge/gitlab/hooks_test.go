package gitlab_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/devworld/lab"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/gitlab"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// vectorToken and vectorSignature belong to testdata/gitlab_note_compact.json.
	vectorToken     = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
	vectorID        = "f5e5f430-f57b-4e6e-9fac-d9128cd7232f"
	vectorSignature = "v1,vBBRrIfN8oAsGvKPGXtjSbM4Xl8036f7VM89tLsvbr4="
	vectorTime      = 1785000000
)

// receiver is a client that takes webhooks with a signing token, or with a plain
// secret where there is none.
func receiver(t testing.TB, signingTokens, secrets []string) *gitlab.Client {
	t.Helper()
	env := map[string]string{"TOKEN": "glpat-1"}
	cfg := forge.Config{Host: host, Tokens: []forge.Token{{Token: "env:TOKEN"}}}
	for i, s := range signingTokens {
		name := "S" + id(int64(i))
		env[name] = s
		cfg.Webhook.SigningTokens = append(cfg.Webhook.SigningTokens, config.Secret("env:"+name))
	}
	for i, s := range secrets {
		name := "P" + id(int64(i))
		env[name] = s
		cfg.Webhook.Secrets = append(cfg.Webhook.Secrets, config.Secret("env:"+name))
	}
	c, err := gitlab.New(cfg, gitlab.Options{Env: func(n string) (string, bool) { v, ok := env[n]; return v, ok }})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// signedHead are the headers of the vector; each pair replaces one, "" removes it.
func signedHead(pairs ...string) http.Header {
	h := http.Header{}
	h.Set("X-Gitlab-Event", "Note Hook")
	h.Set("X-Gitlab-Event-Uuid", "e1")
	h.Set("X-Gitlab-Token", "plain")
	h.Set("Webhook-Id", vectorID)
	h.Set("Webhook-Timestamp", id(vectorTime))
	h.Set("Webhook-Signature", vectorSignature)
	for i := 0; i+1 < len(pairs); i += 2 {
		if h.Set(pairs[i], pairs[i+1]); pairs[i+1] == "" {
			h.Del(pairs[i])
		}
	}
	return h
}

func TestASignedDeliveryIsAcceptedByItsSignature(t *testing.T) {
	body, at := read(t, "gitlab_note_compact.json"), time.Unix(vectorTime, 0)
	c := receiver(t, []string{lab.NewSigningToken(), vectorToken}, nil) // any of them
	d, err := c.Authenticate(signedHead("Webhook-Signature", "v2,xxxx v1,AAAA "+vectorSignature), body, at)
	if err != nil {
		t.Fatal(err)
	}
	if d.Forge != host || d.Name != "Note Hook" || d.ID != "e1" || !bytes.Equal(d.Body, body) || d.Key == "" {
		t.Errorf("%+v", d)
	}
}

func TestADeliveryWithoutAGoodSignatureIsRefused(t *testing.T) {
	body, at := read(t, "gitlab_note_compact.json"), time.Unix(vectorTime, 0)
	// The plain secret is right, and says nothing: signing is configured.
	c := receiver(t, []string{vectorToken}, []string{"plain"})
	if _, err := c.Authenticate(signedHead(), body, at); err != nil {
		t.Fatal(err)
	}
	twice := signedHead()
	twice.Add("Webhook-Id", "another")
	wrong := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for name, h := range map[string]http.Header{
		"none":            signedHead("Webhook-Signature", ""),
		"no id":           signedHead("Webhook-Id", ""),
		"another id":      signedHead("Webhook-Id", "another"),
		"two ids":         twice,
		"no time":         signedHead("Webhook-Timestamp", ""),
		"another time":    signedHead("Webhook-Timestamp", id(vectorTime+1)),
		"time with a +":   signedHead("Webhook-Timestamp", "+"+id(vectorTime)),
		"no number":       signedHead("Webhook-Timestamp", "now"),
		"wrong":           signedHead("Webhook-Signature", "v1,"+wrong),
		"empty":           signedHead("Webhook-Signature", "v1,"),
		"not base64":      signedHead("Webhook-Signature", "v1,!!"),
		"no version":      signedHead("Webhook-Signature", strings.TrimPrefix(vectorSignature, "v1,")),
		"another version": signedHead("Webhook-Signature", "v0"+strings.TrimPrefix(vectorSignature, "v1")),
		"sha1":            signedHead("Webhook-Signature", "sha1=aaaa"),
		"too many":        signedHead("Webhook-Signature", strings.Repeat("v1,"+wrong+" ", 20)+vectorSignature),
		"plain token":     {"X-Gitlab-Event": {"Note Hook"}, "X-Gitlab-Token": {"plain"}},
		"nothing":         {},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := c.Authenticate(h, body, at)
			wantCode(t, err, signing.Unauthenticated)
			if d.Body != nil {
				t.Error("a refused delivery was handed out")
			}
		})
	}
	_, err := c.Authenticate(signedHead(), append(bytes.Clone(body), ' '), at)
	wantCode(t, err, signing.Unauthenticated)
}

func TestADeliveryOfAnotherTimeIsRefused(t *testing.T) {
	body := read(t, "gitlab_note_compact.json")
	c := receiver(t, []string{vectorToken}, nil)
	for away, ok := range map[time.Duration]bool{0: true, 5 * time.Minute: true, -5 * time.Minute: true, 5*time.Minute + time.Second: false, -5*time.Minute - time.Second: false, 24 * time.Hour: false} {
		_, err := c.Authenticate(signedHead(), body, time.Unix(vectorTime, 0).Add(away))
		if ok && err != nil {
			t.Errorf("%v away: %v", away, err)
		}
		if !ok {
			wantCode(t, err, signing.Unauthenticated, "another time")
		}
	}
}

func TestThePlainTokenCountsOnlyWithoutASigningToken(t *testing.T) {
	body := read(t, "gitlab_note_compact.json")
	c := receiver(t, nil, []string{"old secret", "new secret"})
	head := func(tokens ...string) http.Header {
		return http.Header{"X-Gitlab-Event": {"Note Hook"}, "X-Gitlab-Token": tokens}
	}
	for _, good := range []string{"old secret", "new secret"} {
		if _, err := c.Authenticate(head(good), body, time.Now()); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []http.Header{head("old"), head(""), head(), head("old secret", "old secret"), signedHead("X-Gitlab-Token", "")} {
		_, err := c.Authenticate(bad, body, time.Now())
		wantCode(t, err, signing.Unauthenticated)
	}
	_, err := receiver(t, nil, nil).Authenticate(head(""), body, time.Now())
	wantCode(t, err, signing.Unauthenticated, "no webhook secret")
}

func TestARedeliveryUnderAnotherIdHasTheSameKey(t *testing.T) {
	w := start(t)
	hook := w.project.Hook(lab.Hook{URL: "http://127.0.0.1:1/", SigningToken: vectorToken})
	c := receiver(t, []string{vectorToken}, nil)
	body := read(t, "gitlab_note_compact.json")
	now := time.Now()
	a, err := c.Authenticate(hook.Headers("Note Hook", body, now), body, now)
	if err != nil {
		t.Fatal(err)
	}
	later := now.Add(time.Hour)
	b, err := c.Authenticate(hook.Headers("Renamed Hook", body, later), body, later)
	if err != nil {
		t.Fatal(err)
	}
	if a.Key != b.Key || a.ID == b.ID {
		t.Errorf("keys %s and %s, ids %s and %s", a.Key, b.Key, a.ID, b.ID)
	}
	other := bytes.Replace(body, []byte("1244"), []byte("1245"), 1)
	o, err := c.Authenticate(hook.Headers("Note Hook", other, now), other, now)
	if err != nil || o.Key == a.Key {
		t.Errorf("another body: %v, %v", o.Key, err)
	}
}

func TestABodyThatIsTooLargeOrNoJsonIsRefused(t *testing.T) {
	w := start(t)
	hook := w.project.Hook(lab.Hook{URL: "http://127.0.0.1:1/", SigningToken: vectorToken})
	c := receiver(t, []string{vectorToken}, nil)
	now := time.Now()
	large := make([]byte, forge.MaxDelivery+1)
	_, err := c.Authenticate(hook.Headers("Note Hook", large, now), large, now)
	wantCode(t, err, signing.TooLarge)
	for _, body := range []string{"", "x", "{", "{}}"} {
		_, err := c.Authenticate(hook.Headers("Note Hook", []byte(body), now), []byte(body), now)
		wantCode(t, err, signing.Invalid)
	}
}

func TestASigningTokenThatIsNoneStopsTheStart(t *testing.T) {
	for _, bad := range []string{"secret", "whsec_", "whsec_AAAA", "whsec_!!!", strings.TrimPrefix(vectorToken, "whsec_")} {
		cfg := forge.Config{Host: host, Tokens: []forge.Token{{Token: "env:T"}}}
		cfg.Webhook.SigningTokens = []config.Secret{"env:S"}
		_, err := gitlab.New(cfg, gitlab.Options{Env: func(n string) (string, bool) { return map[string]string{"T": "x", "S": bad}[n], true }})
		if err == nil || !strings.Contains(err.Error(), "no signing token") || strings.Contains(err.Error(), bad+" ") && len(bad) > len("whsec_") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// parsed reads a body as if it had been authenticated.
func parsed(t testing.TB, body []byte) (forge.Event, error) {
	return receiver(t, nil, []string{"x"}).Parse(forge.Delivery{Forge: host, Name: "whatever the header says", Body: body})
}

func TestEveryRecordedPayloadIsReadOrIgnoredAsIntended(t *testing.T) {
	wanted := map[string]string{ // kind, or why
		"webhook_note_merge_request": forge.EventComment, "webhook_note_issue": forge.EventComment,
		"webhook_note_commit": "not on a merge request or issue", "webhook_note_snippet": "not on a merge request or issue",
		"webhook_merge_request": "error: contradict", // the example's project is not its target
		"webhook_push":          `no use for "push"`, "webhook_tag_push": `no use for "tag_push"`, "webhook_pipeline": `no use for "pipeline"`, "webhook_job": `no use for "build"`,
		"webhook_deployment": `no use for "deployment"`, "webhook_release": `no use for "release"`, "webhook_member": `no use for ""`,
	}
	dirs := []string{"testdata/payloads"}
	if shared := "../../../../shared/fixtures/gitlab"; exists(shared) {
		dirs = append(dirs, shared)
	}
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "webhook_*.json"))
		if err != nil || len(files) < len(wanted) {
			t.Fatalf("%s: %d files, %v", dir, len(files), err)
		}
		for _, f := range files {
			body, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			name := strings.TrimSuffix(filepath.Base(f), ".json")
			e, err := parsed(t, body)
			got := e.Kind
			if e.Kind == forge.EventIgnored {
				got = e.Why
			}
			if why, isError := strings.CutPrefix(wanted[name], "error: "); isError {
				wantCode(t, err, signing.Invalid, why)
			} else if err != nil || got != wanted[name] {
				t.Errorf("%s: %q, %v; want %q", name, got, err, wanted[name])
			}
		}
	}
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

func TestANoteOnAMergeRequestSaysWhereToLook(t *testing.T) {
	got, err := parsed(t, read(t, "payloads/webhook_note_merge_request.json"))
	if err != nil {
		t.Fatal(err)
	}
	want := forge.Event{
		Kind: forge.EventComment, Repository: forge.Repository{ID: "5", Name: "gitlab-org/gitlab-test"}, Comment: "1244", Body: "This MR needs work.", Commit: "562e173be03b8ff2efb05345d12df18815438a4b",
		Thread: signing.Thread{Forge: host, RepositoryID: "5", Repository: "gitlab-org/gitlab-test", Kind: signing.ThreadPull, Number: "1"}, Sender: signing.Account{Forge: host, ID: "1", Login: "root"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// altered is the recorded note with members of object_attributes changed, and of
// the whole where the name begins with a slash; nil removes.
func altered(t testing.TB, changes map[string]any) []byte {
	t.Helper()
	var p map[string]any
	if err := json.Unmarshal(read(t, "payloads/webhook_note_merge_request.json"), &p); err != nil {
		t.Fatal(err)
	}
	for k, v := range changes {
		in := p["object_attributes"].(map[string]any)
		if rest, whole := strings.CutPrefix(k, "/"); whole {
			in, k = p, rest
		}
		if in[k] = v; v == nil {
			delete(in, k)
		}
	}
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestOnlyNewNotesOfPeopleAreComments(t *testing.T) {
	for name, c := range map[string]struct {
		change map[string]any
		kind   string
		why    string
	}{
		"update":           {map[string]any{"action": "update"}, forge.EventEdited, ""},
		"no action":        {map[string]any{"action": nil}, forge.EventIgnored, "not created"},
		"another action":   {map[string]any{"action": "delete"}, forge.EventIgnored, "not created"},
		"system":           {map[string]any{"system": true}, forge.EventIgnored, "system note"},
		"internal":         {map[string]any{"internal": true}, forge.EventIgnored, "confidential"},
		"confidential":     {map[string]any{"/event_type": "confidential_note"}, forge.EventIgnored, "confidential"},
		"no event type":    {map[string]any{"/event_type": nil}, forge.EventIgnored, "confidential"},
		"a design":         {map[string]any{"noteable_type": "DesignManagement::Design"}, forge.EventIgnored, "not on a merge request or issue"},
		"internal, edited": {map[string]any{"internal": true, "action": "update"}, forge.EventIgnored, "confidential"},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := parsed(t, altered(t, c.change))
			if err != nil || e.Kind != c.kind || e.Why != c.why {
				t.Errorf("%+v, %v", e, err)
			}
			// Who changed a note GitLab does not tell: it names the author.
			if e.Sender.Known() || e.Body != "" {
				t.Errorf("it names %+v and %q", e.Sender, e.Body)
			}
		})
	}
}

func TestADeliveryThatContradictsItselfIsRefused(t *testing.T) {
	for name, change := range map[string]map[string]any{
		"another project of the note": {"project_id": 6},
		"no project":                  {"/project": map[string]any{}},
		"no merge request":            {"/merge_request": nil},
		"into another project":        {"/merge_request": map[string]any{"iid": 1, "target_project_id": 6}},
		"no number":                   {"/merge_request": map[string]any{"target_project_id": 5}},
		"an issue without one":        {"noteable_type": "Issue"},
		"no id":                       {"id": 0},
		"no author":                   {"author_id": nil},
		"an id that is text":          {"id": "12"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parsed(t, altered(t, change))
			wantCode(t, err, signing.Invalid)
		})
	}
	for _, body := range []string{`[]`, `"note"`, `{"object_kind":1}`, `{"object_kind":"note","object_attributes":[]}`} {
		_, err := parsed(t, []byte(body))
		wantCode(t, err, signing.Invalid)
	}
}

func TestNewCommitsOfAMergeRequestAreAnEvent(t *testing.T) {
	merge := func(action, oldrev string) []byte {
		raw, err := json.Marshal(map[string]any{"object_kind": "merge_request", "user": map[string]any{"id": 7, "username": "ada"}, "project": map[string]any{"id": 5, "path_with_namespace": "a/b"}, "object_attributes": map[string]any{"iid": 3, "target_project_id": 5, "action": action, "oldrev": oldrev, "last_commit": map[string]any{"id": "abc"}}})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	for _, c := range []struct{ action, old, kind string }{{"open", "", forge.EventPull}, {"reopen", "", forge.EventPull}, {"update", "def", forge.EventPull}, {"update", "", forge.EventIgnored}, {"merge", "", forge.EventIgnored}, {"approved", "", forge.EventIgnored}} {
		e, err := parsed(t, merge(c.action, c.old))
		if err != nil || e.Kind != c.kind || c.kind == forge.EventPull && (e.Thread.Number != "3" || e.Commit != "abc" || e.Sender.ID != "7") {
			t.Errorf("%s: %+v, %v", c.action, e, err)
		}
	}
}

// FuzzParse: nothing that arrives panics, and what is read names its place.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/payloads/webhook_*.json")
	if err != nil || len(files) == 0 {
		f.Fatal(err, len(files))
	}
	for _, name := range files {
		body, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
		f.Add(body[:len(body)/2])
	}
	f.Add(altered(f, map[string]any{"action": "update"}))
	c := receiver(f, nil, []string{"x"})
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := c.Parse(forge.Delivery{Forge: host, Body: body})
		if err != nil {
			if signing.CodeOf(err) != signing.Invalid || e.Kind != "" {
				t.Errorf("%v with %+v", err, e)
			}
			return
		}
		switch e.Kind {
		case forge.EventIgnored:
		case forge.EventComment, forge.EventEdited, forge.EventPull:
			if e.Thread.Forge != host || e.Thread.RepositoryID == "" || e.Thread.Number == "" || e.Thread.RepositoryID != e.Repository.ID {
				t.Errorf("%+v", e)
			}
			if e.Kind == forge.EventComment && (e.Comment == "" || !e.Sender.Known()) {
				t.Errorf("%+v", e)
			}
		default:
			t.Errorf("kind %q", e.Kind)
		}
	})
}
