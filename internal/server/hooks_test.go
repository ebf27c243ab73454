package server_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // what must not be enough
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/server"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

// postbox is a forge that only delivers: its signatures are those of GitHub, its
// payloads as short as the tests need them. What the real adapters make of real
// payloads is tested beside them.
type postbox struct {
	forge.Forge
	parsed atomic.Int64
}

const postboxHost, postboxSecret = "ghe.acme.dev", "It's a Secret to Everybody"

func (p *postbox) Host() string { return postboxHost }

func (p *postbox) Authenticate(h http.Header, body []byte, _ time.Time) (forge.Delivery, error) {
	if !hmac.Equal([]byte(h.Get("X-Hub-Signature-256")), []byte("sha256="+mac(sha256.New, body))) {
		return forge.Delivery{}, &signing.Error{Code: signing.Unauthenticated, Message: "not signed", Expected: "X-Hub-Signature-256", Found: "another or none", Fix: "set the secret"}
	}
	return forge.Delivery{Key: signing.DigestOf(body), ID: h.Get("X-GitHub-Delivery"), Name: h.Get("X-GitHub-Event"), Body: body}, nil
}

func (p *postbox) Parse(d forge.Delivery) (e forge.Event, err error) {
	p.parsed.Add(1)
	if string(d.Body) == `"panic"` {
		panic("a parser that nobody fuzzed")
	}
	if d.Name != "issue_comment" {
		return forge.Event{Kind: forge.EventIgnored, Why: "no use"}, nil
	}
	if err := json.Unmarshal(d.Body, &e); err != nil {
		return e, errors.New("not JSON")
	}
	return e, nil
}

func mac(h func() hash.Hash, body []byte) string {
	m := hmac.New(h, []byte(postboxSecret))
	m.Write(body)
	return hex.EncodeToString(m.Sum(nil))
}

func startWithPostbox(t *testing.T) (*rig, *postbox) {
	t.Helper()
	p := &postbox{}
	return start(t, testenv.Options{Forges: map[string]forge.Forge{postboxHost: p}}), p
}

// deliver posts a delivery, well signed unless header says otherwise.
func (r *rig) deliver(body string, header http.Header) testenv.Answer {
	r.t.Helper()
	return r.deliverTo("github", body, header)
}

func (r *rig) deliverTo(kind, body string, header http.Header) testenv.Answer {
	r.t.Helper()
	h := http.Header{"X-Hub-Signature-256": {"sha256=" + mac(sha256.New, []byte(body))}, "X-Github-Event": {"issue_comment"}, "X-Github-Delivery": {"72d3162e-cc78-11e3-81ab-4c9367dc0958"}}
	for k, v := range header {
		h[k] = v
	}
	return r.do(call{method: http.MethodPost, path: "/hooks/" + kind + "/" + postboxHost, body: body, header: h})
}

func (r *rig) outcome(a testenv.Answer) string {
	r.t.Helper()
	var out api.Heard
	if a.Status != http.StatusAccepted {
		r.t.Fatalf("answered %d: %s", a.Status, a.Body)
	}
	a.JSON(r.t, &out)
	return out.Outcome
}

// comment is the payload of a comment with a command.
func comment(n int) string {
	raw, err := json.Marshal(forge.Event{Kind: forge.EventComment, Comment: fmt.Sprint(n), Body: "/sealwright approve sr_0000000000000000 0a1b2c3d", Sender: signing.Account{Forge: postboxHost, ID: "7"}})
	if err != nil {
		panic(err)
	}
	return string(raw)
}

func TestNothingOfADeliveryIsReadBeforeItsSignatureIsVerified(t *testing.T) {
	r, p := startWithPostbox(t)
	body := comment(1)
	events := len(r.logged())
	for name, h := range map[string]http.Header{
		"missing":               {"X-Hub-Signature-256": nil},
		"empty":                 {"X-Hub-Signature-256": {""}},
		"of another body":       {"X-Hub-Signature-256": {"sha256=" + mac(sha256.New, []byte(body+" "))}},
		"SHA-1 only":            {"X-Hub-Signature-256": nil, "X-Hub-Signature": {"sha1=" + mac(sha1.New, []byte(body))}},
		"SHA-1 in its place":    {"X-Hub-Signature-256": {"sha1=" + mac(sha1.New, []byte(body))}},
		"a token of GitLab's":   {"X-Hub-Signature-256": nil, "X-Gitlab-Token": {postboxSecret}},
		"the token of a person": {"X-Hub-Signature-256": nil, "Authorization": {"Bearer " + r.e.Person(signing.Admin)}},
	} {
		t.Run(name, func(t *testing.T) {
			r := r.in(t)
			r.refused(r.deliver(body, h), http.StatusUnauthorized)
		})
	}
	if n := p.parsed.Load(); n != 0 {
		t.Errorf("%d were parsed", n)
	}
	if n := len(r.logged()); n != events {
		t.Error("strangers wrote into the audit log")
	}
	if got := r.outcome(r.deliver(body, nil)); got != "stored" {
		t.Errorf("the same with its signature: %s", got)
	}
	if got := string(r.get("/metrics", "").Body); !strings.Contains(got, `sealwright_deliveries_total{forge="ghe.acme.dev",outcome="unauthenticated"} 7`) {
		t.Error("they were not counted")
	}
}

func TestADeliveryForAnotherForgeIsRefused(t *testing.T) {
	r, p := startWithPostbox(t)
	body := comment(1)
	a := r.do(call{method: http.MethodPost, path: "/hooks/github/github.com", body: body, header: http.Header{"X-Hub-Signature-256": {"sha256=" + mac(sha256.New, []byte(body))}}})
	r.refused(a, http.StatusNotFound, "forges")
	if p.parsed.Load() != 0 {
		t.Error("it was parsed by another forge")
	}
}

func TestACopyOfADeliveryIsAnsweredAndDoesNothing(t *testing.T) {
	r, _ := startWithPostbox(t)
	body := comment(1)
	for i, want := range []string{"stored", "duplicate", "duplicate"} {
		h := http.Header{}
		if i == 2 {
			h.Set("X-GitHub-Delivery", "another GUID, which nobody signed")
		}
		if got := r.outcome(r.deliver(body, h)); got != want {
			t.Errorf("delivery %d: %s, want %s", i+1, got, want)
		}
	}
	if got := r.outcome(r.deliver(comment(2), nil)); got != "stored" {
		t.Errorf("another delivery under the same GUID: %s", got)
	}
}

func TestWhatThereIsNoUseForIsAnsweredWithSuccess(t *testing.T) {
	r, _ := startWithPostbox(t)
	for name, h := range map[string]http.Header{"push": {"X-Github-Event": {"push"}}, "unknown": {"X-Github-Event": {"brand_new_event"}}, "none": {"X-Github-Event": nil}} {
		if got := r.outcome(r.deliver(`{"a":1}`, h)); got != "ignored" {
			t.Errorf("%s: %s", name, got)
		}
	}
	bot, err := json.Marshal(forge.Event{Kind: forge.EventComment, Comment: "1", Body: "/sealwright help", Sender: signing.Account{Forge: postboxHost, ID: "9", Bot: true}})
	ok(t, err)
	if got := r.outcome(r.deliver(string(bot), nil)); got != "ignored" {
		t.Errorf("a bot: %s", got)
	}
}

func TestMalformedDeliveriesAreRefusedAfterTheirSignature(t *testing.T) {
	r, p := startWithPostbox(t)
	for _, body := range []string{"", "{", "null null", `{"a":`, strings.Repeat("[", 100_000), "\xff\xfe", `"panic"`} {
		if a := r.deliver(body, nil); a.Status != http.StatusBadRequest && (a.Status != http.StatusAccepted || r.outcome(a) != "ignored") {
			t.Errorf("%.20q answered %d: %s", body, a.Status, a.Body)
		}
	}
	if p.parsed.Load() == 0 {
		t.Error("none was parsed")
	}
	r.refused(r.deliver(`"panic"`, nil), http.StatusBadRequest)
	if got := r.outcome(r.deliver(comment(1), nil)); got != "stored" {
		t.Errorf("after them: %s", got)
	}
}

func TestABodyBeyond25MiBIsRefusedWhileItIsRead(t *testing.T) {
	r, p := startWithPostbox(t)
	post := func(body io.Reader, length int64) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.base+"/hooks/github/"+postboxHost, body)
		ok(t, err)
		req.ContentLength = length
		req.Header.Set("X-Hub-Signature-256", "sha256=00")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }() // read only
		return resp.StatusCode
	}
	// endless never ends: whoever reads it whole never answers.
	endless := &countingReader{}
	if got := post(endless, -1); got != http.StatusRequestEntityTooLarge {
		t.Errorf("an endless body answered %d", got)
	}
	if n := endless.n.Load(); n > forge.MaxDelivery+8<<20 {
		t.Errorf("%d bytes were taken", n)
	}
	if got := post(bytes.NewReader(make([]byte, forge.MaxDelivery+1)), forge.MaxDelivery+1); got != http.StatusRequestEntityTooLarge {
		t.Errorf("one byte too many answered %d", got)
	}
	if got := post(bytes.NewReader(make([]byte, forge.MaxDelivery)), -1); got != http.StatusUnauthorized {
		t.Errorf("the largest that is allowed answered %d", got)
	}
	if p.parsed.Load() != 0 {
		t.Error("it was parsed")
	}
}

type countingReader struct{ n atomic.Int64 }

func (c *countingReader) Read(b []byte) (int, error) { c.n.Add(int64(len(b))); return len(b), nil }

func TestDeliveriesAndJobsHaveLimitsOfTheirOwn(t *testing.T) {
	r, _ := startWithPostbox(t)
	r.serve(r.another(func(o *server.Options) { o.Rate, o.HookRate = 1, 2 }).Handler())
	status := func(c call) int { return r.do(c).Status }
	jobs, hooks := call{method: http.MethodGet, path: api.PathTrust}, call{method: http.MethodPost, path: "/hooks/github/" + postboxHost, body: "{}"}
	limited := false
	for range 20 {
		limited = limited || status(jobs) == http.StatusTooManyRequests
	}
	if !limited {
		t.Fatal("jobs were not limited")
	}
	if got := status(hooks); got != http.StatusUnauthorized {
		t.Errorf("a delivery was answered %d when jobs were too many", got)
	}
	limited = false
	for range 100 {
		if limited = status(hooks) == http.StatusTooManyRequests; limited {
			break
		}
	}
	if !limited {
		t.Error("100 deliveries of one address at once were not limited")
	}
	time.Sleep(1100 * time.Millisecond) // one token of the jobs' limit
	if got := status(jobs); got != http.StatusOK {
		t.Errorf("a job was answered %d when deliveries were too many", got)
	}
}
