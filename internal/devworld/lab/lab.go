// Package lab is a strict local GitLab: the part of its API that the service and
// its jobs use, over state in memory. It refuses what GitLab refuses: tokens that
// are wrong, expired or lack a scope, roles that are too low, private projects
// (which are not found), pages and bodies beyond the limits. Knobs make it fail,
// answer slowly, hide things and lose webhooks.
//
// State is made by methods of Server, Group and Project, and changed by tests
// through Server.Change, which holds the lock that requests take.
package lab

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// MaxNote is GitLab's bound of a note in characters.
	MaxNote = 1_000_000
	// maxPage is what GitLab returns at once, whatever is asked for.
	maxPage = 100
	// maxBody bounds the request bodies that are read.
	maxBody = 4 << 20
	// maxLog bounds the log of requests; the older half is dropped.
	maxLog = 100_000
)

// Options configure a Server; the zero value is a Free edition without limits.
type Options struct {
	// URL is the address that answers name: http://127.0.0.1:1234 or
	// https://gitlab.acme.dev. It may be set later, by SetURL.
	URL string
	// Premium adds approval rules, push rules, protected environments and audit
	// events. Without, their routes are not found.
	Premium bool
	Now     func() time.Time // time.Now by default
	// PerMinute limits the requests of one token, 0 is no limit. NotesPerMinute
	// limits the notes that one user writes.
	PerMinute, NotesPerMinute int
	// Client sends webhooks; a client with a timeout of 10 seconds by default.
	Client *http.Client
}

// Server is one GitLab. It is an http.Handler, to be served at its root.
type Server struct {
	options Options
	mux     *http.ServeMux
	sends   flight

	mu       sync.Mutex // guards everything below, and all state that hangs from it
	last     int64      // id that was given out last
	users    []*User
	groups   []*Group
	projects []*Project
	tokens   map[string]*Token
	faults   []*Fault
	hooks    []*Hook
	log      []string
	used     map[string][]time.Time // requests and notes of the last minute, by who
}

// New returns a Server without anybody in it.
func New(o Options) *Server {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Client == nil {
		o.Client = &http.Client{Timeout: 10 * time.Second}
	}
	s := &Server{options: o, tokens: map[string]*Token{}, used: map[string][]time.Time{}, last: 100}
	s.mux = http.NewServeMux()
	s.routes()
	return s
}

// SetURL sets the address that answers name.
func (s *Server) SetURL(u string) { s.Change(func() { s.options.URL = strings.TrimRight(u, "/") }) }

// SetPremium changes the edition.
func (s *Server) SetPremium(on bool) { s.Change(func() { s.options.Premium = on }) }

// Change runs f while no request is served. f must not call methods that lock:
// it sets fields.
func (s *Server) Change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// Wait returns when every webhook that was due has been sent or given up.
func (s *Server) Wait() { s.sends.Wait() }

// Log returns the requests so far, "GET /api/v4/user".
func (s *Server) Log() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}

func (s *Server) now() time.Time { return s.options.Now().UTC().Truncate(time.Millisecond) }

// id gives out an id that nothing else has.
func (s *Server) id() int64 { s.last++; return s.last }

// Fault says what happens to the requests that it matches, before they take
// effect.
type Fault struct {
	Method string         // empty: every method
	Path   *regexp.Regexp // of the path; nil: every path
	Times  int            // this often; 0: always
	Skip   int            // this many pass first
	Delay  time.Duration  // before the answer
	// Status is the answer, 0 is the true one. With After, the request takes effect
	// all the same.
	Status int
	After  bool
	Header http.Header
	Body   string

	hits int
}

// Fail adds a fault. Of several that match, the first acts.
func (s *Server) Fail(f Fault) { s.Change(func() { s.faults = append(s.faults, &f) }) }

// Heal removes all faults.
func (s *Server) Heal() { s.Change(func() { s.faults = nil }) }

func (s *Server) fault(r *http.Request) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.log = append(s.log, r.Method+" "+r.URL.EscapedPath()); len(s.log) > maxLog {
		s.log = slices.Clone(s.log[maxLog/2:])
	}
	for _, f := range s.faults {
		if f.Method != "" && f.Method != r.Method || f.Path != nil && !f.Path.MatchString(r.URL.Path) {
			continue
		}
		if f.hits++; f.hits <= f.Skip || f.Times > 0 && f.hits > f.Skip+f.Times {
			continue
		}
		return f
	}
	return nil
}

// discard is an answer that nobody gets.
type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f := s.fault(r)
	if f != nil && f.Delay > 0 {
		select {
		case <-time.After(f.Delay):
		case <-r.Context().Done():
			return
		}
	}
	if f != nil && f.Status != 0 {
		if f.After {
			s.mux.ServeHTTP(discard{http.Header{}}, r)
		}
		for k, v := range f.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(f.Status)
		_, _ = w.Write([]byte(f.Body))
		return
	}
	s.mux.ServeHTTP(w, r)
}

// Token is an access token.
type Token struct {
	ID      int64
	User    *User
	Scopes  []string
	Expires string // a day, "2027-01-31"
	Revoked bool
}

// Token makes an access token of a user, with the scope api if none is named.
func (s *Server) Token(u *User, scopes ...string) string {
	if len(scopes) == 0 {
		scopes = []string{"api"}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	raw := make([]byte, 10)
	_, _ = rand.Read(raw)
	text := "glpat-" + hex.EncodeToString(raw)
	s.tokens[text] = &Token{ID: s.id(), User: u, Scopes: scopes, Expires: s.now().AddDate(1, 0, 0).Format(time.DateOnly)}
	return text
}

// Revoke revokes a token.
func (s *Server) Revoke(token string) { s.Change(func() { s.tokens[token].Revoked = true }) }

// request is one request with who makes it. Its methods run under the lock.
type request struct {
	*http.Request
	s     *Server
	user  *User
	token *Token
	in    map[string]any // the JSON or form body
	head  http.Header    // of the answer
}

// answer is what a handler returns. A nil body with 204 is no content.
type answer struct {
	status int
	body   any
}

func ok(body any) answer { return answer{http.StatusOK, body} }

// refuse is GitLab's form of an error.
func refuse(status int, message string) answer {
	return answer{status, map[string]any{"message": message}}
}

func notFound(what string) answer {
	return refuse(http.StatusNotFound, strings.TrimSpace("404 "+what+" Not Found"))
}

func forbidden() answer { return refuse(http.StatusForbidden, "403 Forbidden") }

// handle adds a route. need is the least scope: "read" is read_api or api, "api"
// is api alone.
func (s *Server) handle(pattern, need string, h func(*request) answer) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		q := &request{Request: r, s: s, head: http.Header{}, in: map[string]any{}}
		if r.Method != http.MethodGet {
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			d := json.NewDecoder(r.Body)
			d.UseNumber()
			if err := d.Decode(&q.in); err != nil && r.ContentLength != 0 {
				s.write(w, q, answer{http.StatusBadRequest, map[string]any{"error": "The request body is invalid"}})
				return
			}
		}
		s.mu.Lock()
		a := s.authenticate(q, need)
		if a.status == 0 {
			a = h(q)
		}
		s.mu.Unlock()
		s.write(w, q, a)
	})
}

func (s *Server) write(w http.ResponseWriter, q *request, a answer) {
	for k, v := range q.head {
		w.Header()[k] = v
	}
	if raw, ok := a.body.(string); ok {
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(a.status)
		_, _ = w.Write([]byte(raw))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(a.status)
	if a.body != nil && a.status != http.StatusNoContent {
		_ = json.NewEncoder(w).Encode(a.body)
	}
}

// authenticate finds out who asks, and holds token and limits against the request.
func (s *Server) authenticate(q *request, need string) answer {
	text := q.Header.Get("Private-Token")
	if bearer, ok := strings.CutPrefix(q.Header.Get("Authorization"), "Bearer "); ok && text == "" {
		text = bearer
	}
	t := s.tokens[text]
	if t == nil || t.Revoked || t.User.State != "active" || t.Expires != "" && s.now().Format(time.DateOnly) >= t.Expires {
		return refuse(http.StatusUnauthorized, "401 Unauthorized")
	}
	q.token, q.user = t, t.User
	has := slices.Contains(t.Scopes, "api") || need == "read" && slices.Contains(t.Scopes, "read_api")
	if need != "" && !has {
		return answer{http.StatusForbidden, map[string]any{"error": "insufficient_scope", "error_description": "The request requires higher privileges than provided by the access token.", "scope": "api read_api"}}
	}
	if limit := s.options.PerMinute; limit > 0 {
		used, reset := s.use("token "+strconv.FormatInt(t.ID, 10), limit)
		q.head.Set("RateLimit-Limit", strconv.Itoa(limit))
		q.head.Set("RateLimit-Observed", strconv.Itoa(used))
		q.head.Set("RateLimit-Remaining", strconv.Itoa(max(limit-used, 0)))
		q.head.Set("RateLimit-Reset", strconv.FormatInt(reset.Unix(), 10))
		if used > limit {
			q.head.Set("Retry-After", strconv.Itoa(int(reset.Sub(s.now())/time.Second)+1))
			return answer{http.StatusTooManyRequests, "Retry later\n"}
		}
	}
	return answer{}
}

// use counts one use of the last minute, and says when the oldest is over.
func (s *Server) use(who string, limit int) (int, time.Time) {
	now := s.now()
	kept := slices.DeleteFunc(s.used[who], func(t time.Time) bool { return now.Sub(t) >= time.Minute })
	if len(kept) <= limit {
		kept = append(kept, now)
	}
	s.used[who] = kept
	return len(kept), kept[0].Add(time.Minute)
}

// text returns a member of the body or query.
func (q *request) text(name string) string {
	switch v := q.in[name].(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	}
	return q.URL.Query().Get(name)
}

// number returns a path value as an id; 0 for anything else.
func (q *request) number(name string) int64 {
	n, _ := strconv.ParseInt(q.PathValue(name), 10, 64)
	return n
}

// page returns one page of a list, with GitLab's headers.
func page[T any](q *request, all []T, show func(T) any) answer {
	size, at := 20, 1
	if n, err := strconv.Atoi(q.URL.Query().Get("per_page")); err == nil && n > 0 {
		size = min(n, maxPage)
	}
	if n, err := strconv.Atoi(q.URL.Query().Get("page")); err == nil && n > 0 {
		at = n
	}
	from := min((at-1)*size, len(all))
	to := min(from+size, len(all))
	out := []any{}
	for _, v := range all[from:to] {
		out = append(out, show(v))
	}
	pages := max((len(all)+size-1)/size, 1)
	next, prev := "", ""
	links := []string{}
	link := func(n int, rel string) {
		u := url.URL{Path: q.URL.Path, RawQuery: q.URL.RawQuery}
		v := u.Query()
		v.Set("page", strconv.Itoa(n))
		v.Set("per_page", strconv.Itoa(size))
		u.RawQuery = v.Encode()
		links = append(links, "<"+q.s.options.URL+u.String()+`>; rel="`+rel+`"`)
	}
	if at > 1 {
		prev = strconv.Itoa(at - 1)
		link(at-1, "prev")
	}
	if to < len(all) {
		next = strconv.Itoa(at + 1)
		link(at+1, "next")
	}
	link(1, "first")
	link(pages, "last")
	for k, v := range map[string]string{"X-Page": strconv.Itoa(at), "X-Per-Page": strconv.Itoa(size), "X-Next-Page": next, "X-Prev-Page": prev, "X-Total": strconv.Itoa(len(all)), "X-Total-Pages": strconv.Itoa(pages), "Link": strings.Join(links, ", ")} {
		q.head.Set(k, v)
	}
	return ok(out)
}

// stamp is a time as GitLab writes it; null for none.
func stamp(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}
