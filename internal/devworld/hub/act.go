package hub

import (
	"fmt"
	"slices"
)

// Say posts a comment of a person on an issue or pull request, as typed on the web.
func (h *Hub) Say(i *Issue, by *User, body string) *Comment {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.newComment(i, by, body)
	h.emitComment(m, "created", by, nil)
	return m
}

// SayVia posts a comment that an App writes in a person's name.
func (h *Hub) SayVia(i *Issue, by *User, app *App, body string) *Comment {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.newComment(i, by, body)
	m.App = app
	h.emitComment(m, "created", by, nil)
	return m
}

// newComment must be called with the lock held, as all below that begin lower case.
func (h *Hub) newComment(i *Issue, by *User, body string) *Comment {
	at := h.second()
	m := &Comment{ID: h.id(), Issue: i, Author: by, Body: body, Created: at, Updated: at}
	i.Comments = append(i.Comments, m)
	return m
}

// Note posts a review comment on the head of a pull request.
func (h *Hub) Note(p *Pull, by *User, path, body string) *Comment {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := h.second()
	m := &Comment{ID: h.id(), Issue: p.Issue, Review: true, Author: by, Body: body, Created: at, Updated: at, Path: path, Commit: p.HeadSHA}
	p.Notes = append(p.Notes, m)
	h.emitComment(m, "created", by, nil)
	return m
}

// EditComment changes a comment as by, who need not be its author.
func (h *Hub) EditComment(m *Comment, by *User, body string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changeComment(m, by, body)
}

func (h *Hub) changeComment(m *Comment, by *User, body string) {
	before := m.Body
	at := h.second()
	m.Edits = append(m.Edits, Edit{At: at, By: by, Before: before})
	m.Body, m.Updated = body, at
	h.emitComment(m, "edited", by, obj{"body": obj{"from": before}})
}

// DeleteComment removes a comment.
func (h *Hub) DeleteComment(m *Comment, by *User) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.removeComment(m, by)
}

func (h *Hub) removeComment(m *Comment, by *User) {
	gone := func(o *Comment) bool { return o == m }
	m.Issue.Comments = slices.DeleteFunc(m.Issue.Comments, gone)
	if p := m.Issue.Pull; p != nil {
		p.Notes = slices.DeleteFunc(p.Notes, gone)
	}
	h.emitComment(m, "deleted", by, nil)
}

// Submit submits a review of the head: state is "APPROVED", "CHANGES_REQUESTED" or
// "COMMENTED".
func (h *Hub) Submit(p *Pull, by *User, state, body string) *Review {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := &Review{ID: h.id(), Pull: p, Author: by, State: state, Body: body, Commit: p.HeadSHA, At: h.second()}
	p.Reviews = append(p.Reviews, v)
	h.emitReview(v, "submitted", by, nil)
	return v
}

// EditReview changes the text of a review.
func (h *Hub) EditReview(v *Review, by *User, body string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := v.Body
	v.Edits = append(v.Edits, Edit{At: h.second(), By: by, Before: before})
	v.Body = body
	h.emitReview(v, "edited", by, obj{"body": obj{"from": before}})
}

// Press presses a button of a check run. The error says that it has none such:
// GitHub shows no other.
func (h *Hub) Press(k *CheckRun, by *User, identifier string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.ContainsFunc(k.Actions, func(a Action) bool { return a.Identifier == identifier }) {
		return fmt.Errorf("check run %d has no button %q", k.ID, identifier)
	}
	if rank(k.Repo.Permission(by)) < rank("write") {
		return fmt.Errorf("%s may not write to %s and sees no buttons", by.Login, k.Repo.FullName())
	}
	// Only the App of the run hears of it.
	h.emit(k.App, k.Repo, "check_run", obj{"action": "requested_action", "check_run": k.doc(hookBase), "requested_action": obj{"identifier": identifier}, "sender": by.doc()})
	return nil
}

// Push adds a commit to the branch of a pull request.
func (h *Hub) Push(p *Pull, by *User, c Commit) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	from := p.HeadRepo
	before := p.HeadSHA
	if c.Parents == nil {
		c.Parents = []string{before}
	}
	sha := from.add(&c)
	from.Branches[p.Head], p.HeadSHA = sha, sha
	from.record(p.Head, before, sha, "push", by)
	p.follow()
	h.emitPull(p, "synchronize", by, obj{"before": before, "after": sha})
	return sha
}
