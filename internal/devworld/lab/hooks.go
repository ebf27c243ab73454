package lab

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// failing is how many failures in a row disable a hook for a while, and dead how
	// many do so for good.
	failing = 4
	dead    = 40
)

// Hook is a webhook of a project, or of all of a group's.
type Hook struct {
	s       *Server
	Project *Project // nil: every project below Group
	Group   *Group
	URL     string
	// Secret is sent as X-Gitlab-Token. SigningToken (whsec_...) signs.
	Secret, SigningToken string
	Confidential         bool // confidential notes too
	// What is taken out of the settings: the triggers, and the verification of TLS.
	NoNotes, NoMerges, Insecure bool
	// Lose drops so many deliveries that were due: they never come.
	Lose int
	// Failures counts those in a row, Until is when a disabled hook works again.
	Failures int
	Until    time.Time
	Sent     []Delivery
}

// Delivery is one request to a hook.
type Delivery struct {
	Header http.Header
	Body   []byte
	Status int // 0: no answer
}

// due is a delivery that waits to be sent.
type due struct {
	hook  *Hook
	event string
	body  []byte
}

// flight counts deliveries that are on their way. Unlike those of a WaitGroup, Add
// and Wait may meet.
type flight struct {
	mu      sync.Mutex
	n       int             // guarded by mu
	waiting []chan struct{} // guarded by mu; closed when n is 0
}

// Add counts n more, Done one less.
func (f *flight) Add(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n += n; f.n == 0 {
		for _, w := range f.waiting {
			close(w)
		}
		f.waiting = nil
	}
}

// Done counts one less.
func (f *flight) Done() { f.Add(-1) }

// Wait returns when nothing is on its way.
func (f *flight) Wait() {
	f.mu.Lock()
	if f.n == 0 {
		f.mu.Unlock()
		return
	}
	idle := make(chan struct{})
	f.waiting = append(f.waiting, idle)
	f.mu.Unlock()
	<-idle
}

// Hook adds a webhook of a project.
func (p *Project) Hook(h Hook) *Hook { h.Project = p; return p.s.addHook(&h) }

// Hook adds a webhook of all projects of a group.
func (g *Group) Hook(h Hook) *Hook { h.Group = g; return g.s.addHook(&h) }

func (s *Server) addHook(h *Hook) *Hook {
	s.Change(func() { h.s = s; s.hooks = append(s.hooks, h) })
	return h
}

// NewSigningToken makes a signing token.
func NewSigningToken() string {
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	return "whsec_" + base64.StdEncoding.EncodeToString(key)
}

// Disabled reports whether GitLab does not send to the hook now.
func (h *Hook) Disabled() (off bool) {
	h.s.Change(func() { off = h.disabled(h.s.now()) })
	return off
}

func (h *Hook) disabled(now time.Time) bool { return h.Failures >= dead || now.Before(h.Until) }

// collect makes the deliveries of an event. It must be called with the lock held.
func (s *Server) collect(p *Project, event string, confidential bool, payload any) []due {
	var out []due
	body, err := json.Marshal(payload)
	if err != nil {
		return nil
	}
	for _, h := range s.hooks {
		mine := h.Project == p || h.Group != nil && strings.HasPrefix(strings.ToLower(p.Path)+"/", strings.ToLower(h.Group.Path)+"/")
		off := event == "Note Hook" && h.NoNotes || event == "Merge Request Hook" && h.NoMerges
		if !mine || off || confidential && !h.Confidential || h.disabled(s.now()) {
			continue
		}
		if h.Lose > 0 {
			h.Lose--
			continue
		}
		out = append(out, due{h, event, body})
	}
	return out
}

// doc is a hook as the API shows it: without its tokens.
func (h *Hook) doc(now time.Time) any {
	status := "executable"
	switch {
	case h.Failures >= dead:
		status = "disabled"
	case h.disabled(now):
		status = "temporarily_disabled"
	}
	return map[string]any{
		"id": 1, "url": h.URL, "push_events": false, "note_events": !h.NoNotes, "confidential_note_events": h.Confidential,
		"merge_requests_events": !h.NoMerges, "enable_ssl_verification": !h.Insecure, "alert_status": status,
	}
}

// shownHooks are routes that list hooks: of a project to its maintainers, of a
// group to its owners.
func (s *Server) shownHooks() {
	list := func(q *request, is func(*Hook) bool) answer {
		return page(q, slices.DeleteFunc(slices.Clone(s.hooks), func(h *Hook) bool { return !is(h) }), func(h *Hook) any { return h.doc(s.now()) })
	}
	s.on("GET", "hooks", "read", role(Maintainer), func(q *request, p *Project) answer {
		return list(q, func(h *Hook) bool { return h.Project == p })
	})
	s.handle("GET /api/v4/groups/{id}/hooks", "read", func(q *request) answer {
		g := q.groupFor()
		if g == nil {
			return notFound("Group")
		}
		if level(g.all(), q.user) < Owner {
			return answer{http.StatusForbidden, map[string]any{"message": "403 Forbidden"}}
		}
		return list(q, func(h *Hook) bool { return h.Group == g })
	})
}

// queue sends after the lock is free.
func (s *Server) queue(all []due) { s.send(all) }

// send sends deliveries, each on its own.
func (s *Server) send(all []due) {
	for _, d := range all {
		s.sends.Add(1)
		go func() {
			defer s.sends.Done()
			s.deliver(d.hook, d.event, d.body)
		}()
	}
}

// Redeliver sends a delivery again, as its button does: with an id of its own and
// the same body.
func (h *Hook) Redeliver(d Delivery) int {
	return h.s.deliver(h, d.Header.Get("X-Gitlab-Event"), d.Body)
}

func uuid() string {
	raw := make([]byte, 16)
	_, _ = rand.Read(raw)
	t := hex.EncodeToString(raw)
	return t[:8] + "-" + t[8:12] + "-" + t[12:16] + "-" + t[16:20] + "-" + t[20:]
}

// Headers are those of a delivery with this body now.
func (h *Hook) Headers(event string, body []byte, now time.Time) http.Header {
	id := uuid()
	out := http.Header{}
	out.Set("Content-Type", "application/json")
	out.Set("User-Agent", "GitLab/19.1.0")
	out.Set("X-Gitlab-Event", event)
	out.Set("X-Gitlab-Event-Uuid", uuid())
	out.Set("X-Gitlab-Webhook-Uuid", uuid())
	out.Set("X-Gitlab-Instance", h.s.options.URL)
	out.Set("Idempotency-Key", id)
	if h.Secret != "" {
		out.Set("X-Gitlab-Token", h.Secret)
	}
	if key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(h.SigningToken, "whsec_")); h.SigningToken != "" && err == nil {
		at := strconv.FormatInt(now.Unix(), 10)
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(id + "." + at + "."))
		mac.Write(body)
		out.Set("Webhook-Id", id)
		out.Set("Webhook-Timestamp", at)
		out.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return out
}

// deliver sends one request and counts failures: everything but 2xx is one.
func (s *Server) deliver(h *Hook, event string, body []byte) int {
	s.mu.Lock()
	head, url, client := h.Headers(event, body, s.now()), h.URL, s.options.Client
	s.mu.Unlock()
	status := 0
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url, bytes.NewReader(body))
	if err == nil {
		req.Header = head
		if resp, err := client.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
			resp.Body.Close()
			status = resp.StatusCode
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	h.Sent = append(h.Sent, Delivery{head, body, status})
	if status >= 200 && status < 300 {
		h.Failures, h.Until = 0, time.Time{}
		return status
	}
	if h.Failures++; h.Failures >= failing {
		// One minute, then twice as long each time, up to a day.
		h.Until = s.now().Add(min(time.Minute<<min(h.Failures-failing, 11), 24*time.Hour))
	}
	return status
}

// Deliveries returns what was sent.
func (h *Hook) Deliveries() (out []Delivery) {
	h.s.Change(func() { out = append(out, h.Sent...) })
	return out
}

func (s *Server) hookProject(p *Project) any {
	return map[string]any{"id": p.ID, "name": p.Path, "path_with_namespace": p.Path, "web_url": s.options.URL + "/" + p.Path, "default_branch": p.Default}
}

func (s *Server) hookUser(u *User) any {
	return map[string]any{"id": u.ID, "name": u.Login, "username": u.Login, "avatar_url": nil, "email": "[REDACTED]"}
}

// hookTime is a time as webhooks write it.
func hookTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// noteHooks is the Note Hook of a note. Of an update, `user` is the author of the
// note, whoever changed it.
func (s *Server) noteHooks(on noteable, n *Note, by *User, action string) []due {
	kind, event := "note", "Note Hook"
	if n.Internal {
		kind, event = "confidential_note", "Confidential Note Hook"
	}
	o := map[string]any{"id": n.ID, "note": n.Body, "noteable_type": on.kind(), "author_id": n.Author.ID, "created_at": hookTime(n.Created), "updated_at": hookTime(n.Updated), "project_id": on.project.ID, "attachment": nil, "line_code": nil, "commit_id": "", "system": n.System, "internal": n.Internal, "action": action, "url": s.options.URL + "/note"}
	out := map[string]any{"object_kind": "note", "event_type": kind, "user": s.hookUser(by), "project_id": on.project.ID, "project": s.hookProject(on.project), "object_attributes": o}
	if m := on.merge; m != nil {
		o["noteable_id"] = m.ID
		out["merge_request"] = map[string]any{"id": m.ID, "iid": m.IID, "source_project_id": m.Source.ID, "target_project_id": m.project.ID, "source_branch": m.Branch, "target_branch": m.Target, "state": m.State, "author_id": m.Author.ID, "title": m.Title, "last_commit": map[string]any{"id": m.head}}
	} else {
		o["noteable_id"] = on.issue.ID
		out["issue"] = map[string]any{"id": on.issue.ID, "iid": on.issue.IID, "project_id": on.project.ID, "title": on.issue.Title, "state": on.issue.State, "author_id": on.issue.Author.ID}
	}
	return s.collect(on.project, event, n.Internal, out)
}

// mergeHooks is the Merge Request Hook.
func (s *Server) mergeHooks(m *MergeRequest, by *User, action, old string) []due {
	o := map[string]any{"id": m.ID, "iid": m.IID, "source_project_id": m.Source.ID, "target_project_id": m.project.ID, "source_branch": m.Branch, "target_branch": m.Target, "state": m.State, "author_id": m.Author.ID, "title": m.Title, "action": action, "last_commit": map[string]any{"id": m.head}, "url": s.options.URL + "/merge"}
	if old != "" {
		o["oldrev"] = old
	}
	return s.collect(m.project, "Merge Request Hook", false, map[string]any{"object_kind": "merge_request", "event_type": "merge_request", "user": s.hookUser(by), "project": s.hookProject(m.project), "object_attributes": o})
}
