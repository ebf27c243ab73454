package devworld

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"sync"
	"time"
)

const (
	// maxActedBody bounds the request bodies that a Rule reads before it acts.
	// The images of this world are a few kilobytes; this leaves room for tests
	// of size limits.
	maxActedBody = 64 << 20
	// maxAccesses bounds the access log of a world that runs for days; the older
	// half is dropped when it is reached.
	maxAccesses = 100_000
)

// Rule says what happens to the requests that it matches. A Rule without an
// action only counts. Of several rules that match and have an action, the first
// that was added acts.
type Rule struct {
	Method string         // empty is every method
	Path   *regexp.Regexp // matched against the URL's path; nil is every path
	Skip   int            // let this many matching requests pass first
	Times  int            // then act on this many; zero is on all of them

	// After lets the request take effect before the fault: "failed, but happened".
	After bool
	// Hold keeps the request until Release or Drop. Without a further action it
	// is answered truly after Release. If its client goes away while it is held,
	// it is dropped.
	Hold bool

	// At most one of these is set.
	Stall    bool         // never answer: wait until the client gives up
	Abort    bool         // close the connection without an answer
	Truncate int          // the true answer, cut off after this many bytes of body
	Status   int          // this status, with Header and Body
	Replace  http.Handler // this handler answers

	Header http.Header
	Body   string
}

func (r Rule) acts() bool {
	return r.After || r.Hold || r.Stall || r.Abort || r.Truncate > 0 || r.Status != 0 || r.Replace != nil
}

// Access is one line of an access log. Status is zero while, or if, there is no
// answer.
type Access struct {
	At     time.Time
	Method string
	Path   string
	Query  string
	Status int
}

// Faults is an http.Handler that wraps another one, logs every request, and
// spoils those that its rules name. It is safe for concurrent use.
type Faults struct {
	next http.Handler
	now  func() time.Time

	mu     sync.Mutex // guards all below
	faults []*Fault
	log    []*Access
	closed chan struct{} // closed once, by Close
}

// NewFaults returns a Faults around next, without rules.
func NewFaults(next http.Handler, now func() time.Time) *Faults {
	return &Faults{next: next, now: now, closed: make(chan struct{})}
}

// Fault is a Rule at work.
type Fault struct {
	rule Rule
	set  *Faults

	// Under set.mu:
	seen    int
	held    int
	arrived chan struct{} // closed when the first request is held
	release chan struct{} // closed by Release and Drop
	dropped bool
}

// Add puts a rule to work and returns its handle.
func (f *Faults) Add(r Rule) *Fault {
	h := &Fault{rule: r, set: f, arrived: make(chan struct{}), release: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, h)
	return h
}

// Reset removes all rules, lets every held request go on, and empties the log.
func (f *Faults) Reset() {
	f.mu.Lock()
	faults := f.faults
	f.faults, f.log = nil, nil
	f.mu.Unlock()
	for _, h := range faults {
		h.Release()
	}
}

// Close drops every held and stalled request.
func (f *Faults) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.closed:
	default:
		close(f.closed)
	}
}

// Log returns a copy of the access log, in order of arrival.
func (f *Faults) Log() []Access {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]Access, len(f.log))
	for i, a := range f.log {
		out[i] = *a
	}
	return out
}

// Count returns how many logged requests have this method (empty: any) and a
// path that matches (nil: any).
func (f *Faults) Count(method string, path *regexp.Regexp) int {
	n := 0
	for _, a := range f.Log() {
		if (method == "" || method == a.Method) && (path == nil || path.MatchString(a.Path)) {
			n++
		}
	}
	return n
}

// Seen returns how many requests matched the rule, acted on or not.
func (h *Fault) Seen() int { h.set.mu.Lock(); defer h.set.mu.Unlock(); return h.seen }

// Held returns how many requests are held at this moment.
func (h *Fault) Held() int { h.set.mu.Lock(); defer h.set.mu.Unlock(); return h.held }

// Arrived is closed when the rule holds its first request. With After, that
// request has taken effect by then.
func (h *Fault) Arrived() <-chan struct{} { return h.arrived }

// Release lets held requests go on, now and from now on.
func (h *Fault) Release() { h.let(false) }

// Drop closes the connections of held requests without an answer. Without After
// they take no effect. Requests that arrive later are dropped too.
func (h *Fault) Drop() { h.let(true) }

func (h *Fault) let(drop bool) {
	h.set.mu.Lock()
	defer h.set.mu.Unlock()
	select {
	case <-h.release:
	default:
		h.dropped = drop
		close(h.release)
	}
}

// Remove takes the rule out of work; requests that it holds are released.
func (h *Fault) Remove() {
	h.set.mu.Lock()
	for i, o := range h.set.faults {
		if o == h {
			h.set.faults = append(h.set.faults[:i:i], h.set.faults[i+1:]...)
			break
		}
	}
	h.set.mu.Unlock()
	h.Release()
}

// pick counts r for every rule that matches and returns the one that acts.
func (f *Faults) pick(r *http.Request) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	var act *Fault
	for _, h := range f.faults {
		q := h.rule
		if q.Method != "" && q.Method != r.Method || q.Path != nil && !q.Path.MatchString(r.URL.Path) {
			continue
		}
		h.seen++
		inTurn := h.seen > q.Skip && (q.Times == 0 || h.seen <= q.Skip+q.Times)
		if act == nil && inTurn && q.acts() {
			act = h
		}
	}
	return act
}

func (f *Faults) record(r *http.Request) *Access {
	a := &Access{At: f.now(), Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.log) >= maxAccesses {
		f.log = append([]*Access(nil), f.log[maxAccesses/2:]...)
	}
	f.log = append(f.log, a)
	return a
}

// ServeHTTP logs r and answers it, truly or as a rule says.
func (f *Faults) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w = &statusWriter{ResponseWriter: w, set: f, access: f.record(r)}
	h := f.pick(r)
	if h == nil {
		f.next.ServeHTTP(w, r)
		return
	}
	// With the body read, net/http watches the connection and ends r's context
	// when the client goes away.
	body, err := io.ReadAll(io.LimitReader(r.Body, maxActedBody+1))
	if err != nil || len(body) > maxActedBody {
		http.Error(w, fmt.Sprintf("reading the body of a request under a fault rule: %d bytes, %v", len(body), err), http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	h.act(w, r)
}

func (h *Fault) act(w http.ResponseWriter, r *http.Request) {
	q := h.rule
	var truth *answer
	if q.After {
		truth = h.set.answer(r)
	}
	if q.Hold && !h.wait(r) {
		panic(http.ErrAbortHandler)
	}
	switch {
	case q.Stall:
		select {
		case <-r.Context().Done():
		case <-h.set.closed:
		}
		panic(http.ErrAbortHandler)
	case q.Abort:
		panic(http.ErrAbortHandler)
	case q.Replace != nil:
		q.Replace.ServeHTTP(w, r)
	case q.Status != 0:
		for k, v := range q.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(q.Status)
		_, _ = io.WriteString(w, q.Body) // a client that hangs up early is what these rules are for
	default:
		if truth == nil {
			truth = h.set.answer(r)
		}
		truth.send(w, q.Truncate)
	}
}

// wait holds r and reports whether it may go on.
func (h *Fault) wait(r *http.Request) bool {
	h.set.mu.Lock()
	h.held++
	select {
	case <-h.arrived:
	default:
		close(h.arrived)
	}
	h.set.mu.Unlock()
	gone := false
	select {
	case <-h.release:
	case <-r.Context().Done():
		gone = true
	case <-h.set.closed:
		gone = true
	}
	h.set.mu.Lock()
	defer h.set.mu.Unlock()
	h.held--
	// A client that is gone by the time of Release counts as gone.
	return !gone && !h.dropped && r.Context().Err() == nil
}

// answer is a true answer, kept to be sent later, in part or not at all.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// answer runs the wrapped handler to its end, whatever becomes of the client.
func (f *Faults) answer(r *http.Request) *answer {
	a := &answer{header: http.Header{}}
	f.next.ServeHTTP(a, r)
	if a.status == 0 {
		a.status = http.StatusOK
	}
	return a
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(b)
}

// send writes the answer. With cut > 0 it announces the whole body, sends cut
// bytes of it and closes the connection.
func (a *answer) send(w http.ResponseWriter, cut int) {
	for k, v := range a.header {
		w.Header()[k] = v
	}
	cutting := cut > 0 && cut < a.body.Len()
	if cutting {
		w.Header().Set("Content-Length", fmt.Sprint(a.body.Len()))
	}
	w.WriteHeader(a.status)
	b := a.body.Bytes()
	if cutting {
		b = b[:cut]
	}
	_, err := w.Write(b)
	if cutting || err != nil {
		_ = http.NewResponseController(w).Flush() // the connection is closed next
		panic(http.ErrAbortHandler)
	}
}

// statusWriter notes the status in the access log before the client can see it.
type statusWriter struct {
	http.ResponseWriter
	set    *Faults
	access *Access
}

func (s *statusWriter) WriteHeader(status int) {
	s.note(status)
	s.ResponseWriter.WriteHeader(status)
}

func (s *statusWriter) Write(b []byte) (int, error) {
	s.note(http.StatusOK)
	return s.ResponseWriter.Write(b)
}

// Unwrap serves http.ResponseController.
func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (s *statusWriter) note(status int) {
	s.set.mu.Lock()
	defer s.set.mu.Unlock()
	if s.access.Status == 0 {
		s.access.Status = status
	}
}
