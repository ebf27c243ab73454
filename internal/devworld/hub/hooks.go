package hub

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// hookBase is the API in payloads, which know no caller.
	hookBase = "https://api.github.com"
	// hookTimeout is how long GitHub waits for an answer.
	hookTimeout = 10 * time.Second
	// maxHookAnswer bounds what is read of one.
	maxHookAnswer = 64 << 10
)

// Delivery is a webhook that was sent, or lost.
type Delivery struct {
	ID            int64
	GUID          string // the same for a redelivery
	Event, Action string
	Body          []byte
	App           *App
	Redelivery    bool
	Lost          bool // never sent
	Status        int  // of the answer; 0 is none
	Answer        string
	At            time.Time
	Took          time.Duration

	installation int64
}

// postman sends deliveries, one after another. GitHub never sends one again by
// itself.
type postman struct {
	hub    *Hub
	client *http.Client
	ctx    context.Context
	stop   context.CancelFunc
	wake   *sync.Cond // over hub.mu
	done   chan struct{}

	// Guarded by hub.mu:
	queue []*Delivery
	busy  bool
	sent  []*Delivery
	lose  int // how many of the next are lost; negative is all
}

func newPostman(h *Hub) *postman {
	p := &postman{hub: h, client: &http.Client{Timeout: hookTimeout}, done: make(chan struct{})}
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.wake = sync.NewCond(&h.mu)
	go p.run()
	return p
}

func (p *postman) close() {
	p.stop()
	p.hub.mu.Lock()
	p.wake.Broadcast()
	p.hub.mu.Unlock()
	<-p.done
}

func (p *postman) run() {
	defer close(p.done)
	p.hub.mu.Lock()
	defer p.hub.mu.Unlock()
	for {
		for len(p.queue) == 0 && p.ctx.Err() == nil {
			p.wake.Wait()
		}
		if p.ctx.Err() != nil {
			return
		}
		d := p.queue[0]
		p.queue, p.busy = p.queue[1:], true
		hook := d.App.Hook
		p.hub.mu.Unlock()
		start := time.Now()
		status, answer := p.send(d, hook)
		p.hub.mu.Lock()
		d.Status, d.Answer, d.Took = status, answer, time.Since(start)
		p.busy = false
		p.wake.Broadcast()
	}
}

// Sign returns the headers of a delivery of body.
func Sign(secret, event, guid string, body []byte) http.Header {
	h := http.Header{}
	h.Set("Content-Type", "application/json")
	h.Set("User-Agent", "GitHub-Hookshot/0000000")
	h.Set("X-GitHub-Event", event)
	h.Set("X-GitHub-Delivery", guid)
	if secret == "" {
		return h
	}
	strong, weak := hmac.New(sha256.New, []byte(secret)), hmac.New(sha1.New, []byte(secret))
	strong.Write(body)
	weak.Write(body)
	h.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(strong.Sum(nil)))
	h.Set("X-Hub-Signature", "sha1="+hex.EncodeToString(weak.Sum(nil)))
	return h
}

func (p *postman) send(d *Delivery, hook Hook) (int, string) {
	if hook.URL == "" {
		return 0, "no URL"
	}
	req, err := http.NewRequestWithContext(p.ctx, http.MethodPost, hook.URL, bytes.NewReader(d.Body))
	if err != nil {
		return 0, err.Error()
	}
	req.Header = Sign(hook.Secret, d.Event, d.GUID, d.Body)
	req.Header.Set("X-GitHub-Hook-ID", strconv.FormatInt(d.App.ID, 10))
	req.Header.Set("X-GitHub-Hook-Installation-Target-ID", strconv.FormatInt(d.App.ID, 10))
	req.Header.Set("X-GitHub-Hook-Installation-Target-Type", "integration")
	resp, err := p.client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxHookAnswer)) // for people only
	return resp.StatusCode, string(answer)
}

// Settle waits until every delivery was sent, lost or refused.
func (h *Hub) Settle() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for (len(h.post.queue) > 0 || h.post.busy) && h.post.ctx.Err() == nil {
		h.post.wake.Wait()
	}
}

// Lose loses the next n deliveries; negative loses all from now on, 0 none.
func (h *Hub) Lose(n int) { h.Do(func() { h.post.lose = n }) }

// Deliveries returns what was sent or lost, oldest first.
func (h *Hub) Deliveries() []Delivery {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]Delivery, len(h.post.sent))
	for i, d := range h.post.sent {
		out[i] = *d
	}
	return out
}

// Redeliver sends a delivery again: the same GUID and body, another id. It reports
// whether there is such a delivery.
func (h *Hub) Redeliver(id int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.again(id, nil)
}

func (h *Hub) again(id int64, of *App) bool {
	at := slices.IndexFunc(h.post.sent, func(d *Delivery) bool { return d.ID == id && (of == nil || d.App == of) })
	if at < 0 {
		return false
	}
	d := *h.post.sent[at]
	d.ID, d.Redelivery, d.Lost, d.Status, d.Answer, d.At = h.id(), true, false, 0, "", h.now()
	h.enqueue(&d)
	return true
}

func (h *Hub) enqueue(d *Delivery) {
	if len(h.post.sent) >= maxLog {
		h.post.sent = append([]*Delivery(nil), h.post.sent[maxLog/2:]...)
	}
	h.post.sent = append(h.post.sent, d)
	if h.post.lose != 0 {
		if h.post.lose > 0 {
			h.post.lose--
		}
		d.Lost = true
		return
	}
	h.post.queue = append(h.post.queue, d)
	h.post.wake.Broadcast()
}

// emit sends an event to an App. r is nil for what is about no repository. It
// must be called with the lock held.
func (h *Hub) emit(a *App, r *Repo, event string, payload obj) {
	if a.Hook.URL == "" {
		return
	}
	d := &Delivery{ID: h.id(), GUID: guid(), Event: event, App: a, At: h.now()}
	d.Action, _ = payload["action"].(string)
	if r != nil {
		at := slices.IndexFunc(a.Installations, func(i *Installation) bool { return i.on(r) && !i.Suspended })
		if at < 0 || !slices.Contains(a.Installations[at].Events, event) {
			return
		}
		d.installation = a.Installations[at].ID
		payload = maps.Clone(payload)
		payload["repository"], payload["installation"] = r.doc(hookBase), obj{"id": d.installation, "node_id": node("Integration", d.installation)}
		if r.Owner.Type == "Organization" {
			payload["organization"] = obj{"login": r.Owner.Login, "id": r.Owner.ID}
		}
	}
	body, err := json.Marshal(payload)
	if err != nil {
		panic(err) // our own maps
	}
	d.Body = body
	h.enqueue(d)
}

func (h *Hub) emitAll(r *Repo, event string, payload obj) {
	for _, a := range h.apps {
		h.emit(a, r, event, payload)
	}
}

func (h *Hub) emitComment(m *Comment, action string, by *User, changes obj) {
	p := obj{"action": action, "comment": m.doc(hookBase), "sender": by.doc()}
	if changes != nil {
		p["changes"] = changes
	}
	if m.Review {
		p["pull_request"] = m.Issue.Pull.doc(hookBase)
		h.emitAll(m.Issue.Repo, "pull_request_review_comment", p)
		return
	}
	p["issue"] = m.Issue.doc(hookBase)
	h.emitAll(m.Issue.Repo, "issue_comment", p)
}

func (h *Hub) emitReview(v *Review, action string, by *User, changes obj) {
	d := v.doc(hookBase)
	d["state"] = strings.ToLower(v.State) // in webhooks only
	d["body"] = orNull(v.Body)
	p := obj{"action": action, "review": d, "pull_request": v.Pull.doc(hookBase), "sender": by.doc()}
	if changes != nil {
		p["changes"] = changes
	}
	h.emitAll(v.Pull.Repo, "pull_request_review", p)
}

func (h *Hub) emitPull(p *Pull, action string, by *User, more obj) {
	d := obj{"action": action, "number": p.Number, "pull_request": p.full(hookBase), "sender": by.doc()}
	maps.Copy(d, more)
	h.emitAll(p.Repo, "pull_request", d)
}

func guid() string {
	s := randomHex(16)
	return fmt.Sprintf("%s-%s-%s-%s-%s", s[:8], s[8:12], s[12:16], s[16:20], s[20:])
}

func (d *Delivery) doc() obj {
	status := "OK"
	if d.Status < 200 || d.Status > 299 {
		status = "Invalid HTTP Response: " + strconv.Itoa(d.Status)
	}
	return obj{
		"id": d.ID, "guid": d.GUID, "delivered_at": stamp(d.At), "redelivery": d.Redelivery, "duration": d.Took.Seconds(), "status": status, "status_code": d.Status,
		"event": d.Event, "action": orNull(d.Action), "installation_id": d.installation, "repository_id": nil, "throttled_at": nil,
	}
}

// listDeliveries lists newest first, all on one page: of a lost one GitHub knows too.
func (h *Hub) listDeliveries(c *call) reply {
	var out []obj
	for _, d := range slices.Backward(h.post.sent) {
		if d.App == c.app {
			out = append(out, d.doc())
		}
	}
	return c.page(out, "")
}

func (h *Hub) oneDelivery(c *call) reply {
	for _, d := range h.post.sent {
		if d.ID == c.number("id") && d.App == c.app {
			doc := d.doc()
			doc["request"] = obj{"headers": obj{"X-GitHub-Event": d.Event, "X-GitHub-Delivery": d.GUID}, "payload": json.RawMessage(d.Body)}
			doc["response"] = obj{"headers": obj{}, "payload": d.Answer}
			return ok(doc)
		}
	}
	return notFound()
}

func (h *Hub) attempt(c *call) reply {
	if !h.again(c.number("id"), c.app) {
		return notFound()
	}
	return reply{status: 202, body: obj{}}
}
