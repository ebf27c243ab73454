package workflow

import (
	"crypto/subtle"
	"slices"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// live is what this process knows of a Request that it works on, or that
// somebody waits for: the newest rows that it wrote itself, so that those who
// wait need not read them back. It is kept while somebody holds it.
type live struct {
	changed    chan struct{} // closed when there is a new state to be told
	n          int           // guarded by Workflow.mu, as all of it; drives and waiters
	capability []byte        // hash; nil where only the database knows it
	newest     *Snapshot     // never changed; nil where only the database knows
}

// attend returns what is known of a Request, and what gives it up again.
func (w *Workflow) attend(requestID string) (*live, func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l, ok := w.living[requestID]
	if !ok {
		l = &live{changed: make(chan struct{})}
		w.living[requestID] = l
	}
	l.n++
	return l, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if l.n--; l.n == 0 {
			delete(w.living, requestID)
		}
	}
}

// tell wakes those who wait for the Request. s, if not nil, is what they are
// told unless something newer is known; nil makes them ask the database.
func (w *Workflow) tell(requestID string, s *Snapshot) {
	w.learn(requestID, s, nil)
	w.mu.Lock()
	defer w.mu.Unlock()
	if l, ok := w.living[requestID]; ok {
		close(l.changed)
		l.changed = make(chan struct{})
	}
}

// learn keeps what is now known of a Request, if anybody attends to it.
func (w *Workflow) learn(requestID string, s *Snapshot, capability []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l, ok := w.living[requestID]
	if !ok {
		return
	}
	if capability != nil {
		l.capability = capability
	}
	// Who committed first may come here last.
	if s == nil || l.newest == nil || s.Version() > l.newest.Version() {
		l.newest = s
	}
}

// holds reports whether hash is that of the capability, as far as this process
// knows it.
func (w *Workflow) holds(l *live, hash []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return subtle.ConstantTimeCompare(l.capability, hash) == 1
}

// known returns what this process knows of the Request, if it is no older than
// version. The caller has checked the capability.
func (w *Workflow) known(l *live, version int64) (Snapshot, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if l.newest == nil || l.newest.Version() < version {
		return Snapshot{}, false
	}
	s := *l.newest
	s.Checkpoint = w.checkpoint
	return s, true
}

// next returns the channel that is closed at the next change.
func (w *Workflow) next(l *live) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return l.changed
}

// copied returns rows that their owner goes on to change, as they are now.
func copied(r *signing.Request, tasks []*signing.Task) *Snapshot {
	request, rows := *r, make([]signing.Task, len(tasks))
	s := &Snapshot{Request: &request, Tasks: make([]*signing.Task, len(tasks))}
	for i, t := range tasks {
		rows[i] = *t
		s.Tasks[i] = &rows[i]
	}
	return s
}

// settle is how long news that ask nothing of anybody are kept back: most
// Requests are over by then, and their job is answered once instead of at every
// state on the way.
const settle = 500 * time.Millisecond

// due reports whether who knows the given version is answered now. An end is told
// at once, whatever is known; a question to people, and signatures that the job
// has to publish, at once, but once.
func (s Snapshot) due(version int64, settled bool) bool {
	r := s.Request
	toPublish := func(t *signing.Task) bool { return t.State == signing.Signed && !t.Released }
	pressing := r.State == signing.AwaitingApproval || r.Publish == signing.ByClient && slices.ContainsFunc(s.Tasks, toPublish)
	return r.State.Terminal() || s.Version() != version && (settled || pressing)
}

// Waiters returns how many Requests are being waited for.
func (w *Workflow) Waiters() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.living)
}
