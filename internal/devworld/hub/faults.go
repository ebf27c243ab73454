package hub

import (
	"net/http"
	"regexp"
	"time"
)

// Fault is how requests that match are spoiled.
type Fault struct {
	Method string         // empty is every one
	Path   *regexp.Regexp // of the path under the API's root; nil is every one
	Status int            // answered instead, with GitHub's error document
	Delay  time.Duration  // before the answer, or before Status
	Header http.Header
	// After carries the request out first: its effect is there, its answer is not.
	After bool
	Times int // 0: until Heal

	hub  *Hub
	seen int // guarded by hub.mu
}

// Fail spoils matching requests. The first Fault that matches acts.
func (h *Hub) Fail(f Fault) *Fault {
	h.mu.Lock()
	defer h.mu.Unlock()
	f.hub = h
	h.faults = append(h.faults, &f)
	return &f
}

// Heal ends the fault.
func (f *Fault) Heal() {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	for i, o := range f.hub.faults {
		if o == f {
			f.hub.faults = append(f.hub.faults[:i:i], f.hub.faults[i+1:]...)
			return
		}
	}
}

// Seen returns how many requests the fault spoiled.
func (f *Fault) Seen() int {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	return f.seen
}

// misbehave applies the fault of r, and reports whether it answered.
func (h *Hub) misbehave(w http.ResponseWriter, r *http.Request, raw []byte) bool {
	if r.Header.Get(innerHeader) != "" {
		return false
	}
	h.mu.Lock()
	var act *Fault
	for _, f := range h.faults {
		if (f.Method == "" || f.Method == r.Method) && (f.Path == nil || f.Path.MatchString(r.URL.Path)) && (f.Times == 0 || f.seen < f.Times) {
			f.seen++
			act = f
			break
		}
	}
	h.mu.Unlock()
	if act == nil {
		return false
	}
	if act.After {
		h.carryOut(r, raw)
	}
	if act.Delay > 0 {
		t := time.NewTimer(act.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
	if act.Status == 0 {
		if act.After {
			panic(http.ErrAbortHandler)
		}
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	a := failed(act.Status, http.StatusText(act.Status))
	a.header = act.Header.Clone()
	h.send(w, r, nil, raw, a)
	return true
}
