package server_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
	"github.com/sealwright/sealwright/internal/workflow"
)

const holder = "0123456789abcdef0123"

// clients submits a request that its job publishes.
func (r *rig) clients(n int, a ...signing.Artifact) (api.Request, string) {
	r.t.Helper()
	body := strings.Replace(testenv.Body("release", a...), "{", `{"publish":"client",`, 1)
	return r.submit(r.token(mainJob(n)), fmt.Sprint("client ", n)[:6]+fmt.Sprint(n), body)
}

func (r *rig) content(id, capability string, d signing.Digest, body string) testenv.Answer {
	r.t.Helper()
	return r.do(call{method: http.MethodPut, path: api.PathRequests + "/" + id + "/content/" + string(d), capability: capability, body: body, header: http.Header{"Content-Type": {"application/octet-stream"}}})
}

func (r *rig) post(id, what, capability, body string) testenv.Answer {
	r.t.Helper()
	return r.do(call{method: http.MethodPost, path: api.PathRequests + "/" + id + "/" + what, capability: capability, body: body})
}

// raw is the manifest of an artifact as the registry has it.
func (r *rig) raw(a signing.Artifact) string {
	r.t.Helper()
	resp, err := http.Get("http://" + a.Repository.Host() + "/v2/" + a.Repository.Path() + "/manifests/" + string(a.Digest))
	ok(r.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	ok(r.t, err)
	return string(b)
}

// signed brings a request of a job that publishes itself to where its signatures
// can be had.
func (r *rig) signed(n int, a signing.Artifact) (api.Request, string) {
	r.t.Helper()
	q, capability := r.clients(n, a)
	if ans := r.content(q.ID, capability, a.Digest, r.raw(a)); ans.Status != http.StatusNoContent {
		r.t.Fatalf("content answered %d: %s", ans.Status, ans.Body)
	}
	for until := time.Now().Add(20 * time.Second); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		if q = r.read(q.ID, capability); len(q.Tasks) > 0 && q.Tasks[0].State == signing.Signed {
			return q, capability
		}
	}
	r.t.Fatalf("not signed: %+v", q)
	return q, capability
}

func place(a signing.Artifact, more string) string {
	return fmt.Sprintf(`{"repository":%q,"digest":%q,"holder":%q%s}`, a.Repository, a.Digest, holder, more)
}

func where(q api.Request, uri string) string {
	return fmt.Sprintf(`,"tasks":[{"id":%q,"locations":[{"kind":"tag","uri":%q}]}]`, q.Tasks[0].ID, uri)
}

func TestTheCallsOfAJobThatPublishesItself(t *testing.T) {
	r := start(t, testenv.Options{})
	a := r.e.Image(t.Name())
	q, capability := r.signed(1, a)
	var page api.Envelopes
	for range 2 { // reading again gives the same, and is no second event
		r.get(api.PathRequests+"/"+q.ID+"/envelopes", capability).JSON(t, &page)
		if len(page.Envelopes) != 1 || page.Next != 0 || page.Envelopes[0].Task != q.Tasks[0].ID || len(page.Envelopes[0].Attachment.Layers) != 1 {
			t.Fatalf("%+v", page)
		}
	}
	var first, second api.Lease
	r.post(q.ID, "lease", capability, place(a, "")).JSON(t, &first)
	r.post(q.ID, "lease", capability, place(a, "")).JSON(t, &second)
	if !first.Until.Equal(second.Until) || first.Seconds < 60 {
		t.Errorf("the same holder has two leases: %v, %v", first, second)
	}
	location := string(a.Repository) + ":" + page.Envelopes[0].Attachment.Tag
	published := func() testenv.Answer { return r.post(q.ID, "published", capability, place(a, where(q, location))) }
	r.refused(published(), http.StatusConflict, "the signature is not where verifiers look for it")
	if _, err := r.s.Registry.Attach(t.Context(), page.Envelopes[0].Attachment); err != nil {
		t.Fatal(err)
	}
	for range 2 { // an answer that was lost is asked for again
		var done api.Request
		published().JSON(t, &done)
		if done.Tasks[0].State != signing.Published || done.Publish != "client" {
			t.Errorf("%+v", done)
		}
	}
	if q = r.finish(q.ID, capability); q.State != signing.Completed {
		t.Errorf("%+v", q)
	}
	r.refused(r.content(q.ID, capability, a.Digest, r.raw(a)), http.StatusConflict, "takes no content any more")
	r.refused(r.post(q.ID, "lease", capability, place(a, "")), http.StatusConflict, "nothing to be published")
	if got := r.logged(); got[audit.TaskReleased] != 1 || got[audit.TaskPublished] != 1 {
		t.Errorf("%v", got)
	}
}

// publishes does what a job does that publishes itself.
func (r *rig) publishes(n int, a signing.Artifact) {
	r.t.Helper()
	q, capability := r.signed(n, a)
	var page api.Envelopes
	r.get(api.PathRequests+"/"+q.ID+"/envelopes", capability).JSON(r.t, &page)
	r.post(q.ID, "lease", capability, place(a, ""))
	l, err := r.s.Registry.Attach(r.t.Context(), page.Envelopes[0].Attachment)
	ok(r.t, err)
	if ans := r.post(q.ID, "published", capability, place(a, where(q, l.URI))); ans.Status != http.StatusOK {
		r.t.Errorf("published answered %d: %s", ans.Status, ans.Body)
	}
}

// TestBadInputOfAJobThatPublishesItselfIsRefused tries what a job could send that
// is not its to say.
func TestBadInputOfAJobThatPublishesItselfIsRefused(t *testing.T) {
	r := start(t, testenv.Options{})
	a, b := r.e.Image(t.Name()), r.e.Image(t.Name()+" other")
	waiting, mine := r.clients(1, a)
	for name, c := range map[string]struct {
		digest, body string
		status       int
		says         string
	}{
		"other bytes":            {string(a.Digest), "{}", 400, "does not have the digest"},
		"one byte more":          {string(a.Digest), r.raw(a) + " ", 400, "does not have the digest"},
		"no digest":              {"latest", "{}", 400, "not a digest"},
		"another algorithm":      {"sha512:" + strings.Repeat("a", 128), "{}", 400, "not a digest"},
		"nothing":                {string(a.Digest), "", 413, "empty or too large"},
		"more than a manifest":   {string(a.Digest), strings.Repeat("x", workflow.MaxContent+1), 413, "1 to 4194304 bytes"},
		"a path for a digest":    {"..%2f..%2fx", "{}", 400, "not a digest"},
		"a digest in capitals":   {strings.ToUpper(string(a.Digest)), "{}", 400, "not a digest"},
		"far more than a buffer": {string(a.Digest), strings.Repeat("x", 3*workflow.MaxContent), 413, "1 to 4194304 bytes"},
	} {
		ans := r.content(waiting.ID, mine, signing.Digest(c.digest), c.body)
		if p := r.problem(ans); ans.Status != c.status || !strings.Contains(p.Detail+p.Expected, c.says) && !strings.Contains(strings.ToLower(p.Detail), c.says) {
			t.Errorf("content, %s: %d %s", name, ans.Status, ans.Body)
		}
	}
	if q := r.read(waiting.ID, mine); q.State != signing.Pending {
		t.Errorf("the request is %s", q.State)
	}
	q, capability := r.signed(2, b)
	service, own := r.submit(r.token(mainJob(3)), "service", testenv.Body("release", a))
	service = r.finish(service.ID, own)
	uri := string(b.Repository) + ":sha256-" + b.Digest.Hex() + ".sig"
	good := place(b, where(q, uri))
	for name, c := range map[string]struct {
		what, body string
		status     int
		says       string
	}{
		"lease without a body":            {"lease", "", 400, "JSON"},
		"lease with an unknown field":     {"lease", place(b, `,"seconds":9999`), 400, "seconds"},
		"lease of a tag":                  {"lease", strings.Replace(place(b, ""), string(b.Digest), "v1", 1), 400, "digest"},
		"lease without a holder":          {"lease", strings.Replace(place(b, ""), holder, "", 1), 400, "holder"},
		"lease with a guessable holder":   {"lease", strings.Replace(place(b, ""), holder, "me", 1), 400, "holder"},
		"lease with a holder of words":    {"lease", strings.Replace(place(b, ""), holder, "a b c d e f g h i j", 1), 400, "holder"},
		"lease of another digest":         {"lease", place(a, ""), 409, "nothing to be published"},
		"lease of another repository":     {"lease", strings.Replace(place(b, ""), "/payments/web", "/payments/api", 1), 409, "nothing to be published"},
		"lease of 5 KB":                   {"lease", place(b, strings.Repeat(" ", api.MaxLease)), 413, "too large"},
		"published before it was given":   {"published", good, 409, "no signature that the job could have published"},
		"published without tasks":         {"published", place(b, `,"tasks":[]`), 400, "wrong number of tasks"},
		"published a stranger's task":     {"published", strings.Replace(good, q.Tasks[0].ID, service.Tasks[0].ID, 1), 400, "not a task of this request"},
		"published a task twice":          {"published", place(b, strings.Replace(where(q, uri), "}]}]", "}]},"+strings.TrimPrefix(where(q, uri), `,"tasks":[`), 1)), 400, "wrong number of tasks"},
		"published nowhere":               {"published", place(b, fmt.Sprintf(`,"tasks":[{"id":%q,"locations":[]}]`, q.Tasks[0].ID)), 409, "no signature"},
		"published 100 KB of places":      {"published", place(b, where(q, strings.Repeat("x", 100<<10))), 413, "too large"},
		"published with an unknown field": {"published", place(b, where(q, uri)+`,"state":"published"`), 400, "state"},
	} {
		ans := r.post(q.ID, c.what, capability, c.body)
		if p := r.problem(ans); ans.Status != c.status || !strings.Contains(p.Detail+p.Expected, c.says) {
			t.Errorf("%s: %d %s", name, ans.Status, ans.Body)
		}
	}
	r.get(api.PathRequests+"/"+q.ID+"/envelopes", capability)
	r.refused(r.post(q.ID, "published", capability, good), http.StatusConflict, "lease on this digest is not held")
	r.post(q.ID, "lease", capability, place(b, ""))
	for name, bad := range map[string]string{
		"in another repository": strings.Replace(where(q, uri), "/payments/web", "/payments/api", 1),
		"on another host":       where(q, "registry.evil.example/payments/web:v1"),
		"with markup":           where(q, "<script>"),
		"of another kind":       strings.Replace(where(q, uri), `"tag"`, `"lookaside"`, 1),
		"by the wrong kind":     strings.Replace(where(q, uri), `"tag"`, `"referrer"`, 1),
		"in the repository":     where(q, string(b.Repository)),
		"with a false digest":   strings.Replace(where(q, uri), `"uri"`, `"digest":"x","uri"`, 1),
		"in many places":        fmt.Sprintf(`,"tasks":[{"id":%q,"locations":[%s]}]`, q.Tasks[0].ID, strings.TrimSuffix(strings.Repeat(fmt.Sprintf(`{"kind":"tag","uri":%q},`, uri), 5), ",")),
	} {
		if ans := r.post(q.ID, "published", capability, place(b, bad)); ans.Status != http.StatusBadRequest || !strings.Contains(string(ans.Body), "not places of a signature") {
			t.Errorf("published %s: %d %s", name, ans.Status, ans.Body)
		}
	}
	other := strings.Replace(good, holder, strings.Repeat("f", 20), 1)
	r.refused(r.post(q.ID, "published", capability, other), http.StatusConflict, "lease on this digest is not held")
	for _, v := range []string{"x", "-1", "65536"} {
		if ans := r.get(api.PathRequests+"/"+q.ID+"/envelopes?after="+v, capability); ans.Status != http.StatusBadRequest {
			t.Errorf("?after=%s answered %d", v, ans.Status)
		}
	}
	// The capability of one request opens no other, and the service's own takes none of this.
	for _, what := range []string{"lease", "published"} {
		if ans := r.post(q.ID, what, mine, good); what == "lease" && ans.Status != http.StatusBadRequest && ans.Status != http.StatusNotFound || what == "published" && ans.Status != http.StatusNotFound {
			t.Errorf("%s with another request's capability answered %d: %s", what, ans.Status, ans.Body)
		}
	}
	if ans := r.get(api.PathRequests+"/"+q.ID+"/envelopes", mine); ans.Status != http.StatusNotFound {
		t.Errorf("envelopes with another request's capability answered %d", ans.Status)
	}
	if ans := r.get(api.PathRequests+"/"+service.ID+"/envelopes", own); ans.Status != http.StatusConflict {
		t.Errorf("envelopes of a request that the service publishes answered %d: %s", ans.Status, ans.Body)
	}
	r.refused(r.content(service.ID, own, a.Digest, r.raw(a)), http.StatusConflict, "the service publishes this request")
	if got := r.logged(); got[audit.TaskPublished] != 1 || got[audit.TaskDelivered] != 0 || got[audit.TaskReleased] != 1 {
		t.Errorf("%v", got)
	}
}

func TestAPublisherThatIsNoneIsRefused(t *testing.T) {
	r := start(t, testenv.Options{})
	a := r.e.Image(t.Name())
	for _, who := range []string{`"both"`, `7`, `"Client"`} {
		body := strings.Replace(testenv.Body("release", a), "{", `{"publish":`+who+`,`, 1)
		if ans := r.do(submission(r.token(mainJob(0)), "k", body)); ans.Status != http.StatusBadRequest || !strings.Contains(string(ans.Body), "publish") {
			t.Errorf("%s answered %d: %s", who, ans.Status, ans.Body)
		}
	}
	// Service is the default, in so many words.
	q, capability := r.submit(r.token(mainJob(0)), "k", strings.Replace(testenv.Body("release", a), "{", `{"publish":"service",`, 1))
	again, _ := r.submit(r.token(mainJob(0)), "k", testenv.Body("release", a))
	if again.ID != q.ID || q.Publish != "" {
		t.Errorf("%+v %+v", q, again)
	}
	_ = capability
}
