package gitlab

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxNotes bounds what is read of one thread, newest first.
	maxNotes = 5000
	// maxMerges bounds the merge requests of one commit.
	maxMerges = 100
	// maxTitle is GitLab's bound of an issue's title, in characters.
	maxTitle = 255
	// maxOpened bounds our own open issues of one title that are looked through.
	maxOpened = 100
)

// when is a time of GitLab, zero where it is null.
type when struct{ time.Time }

// UnmarshalJSON reads RFC 3339, and the zero time from null.
func (w *when) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	return w.Time.UnmarshalJSON(b)
}

// mergeRequest is what this service reads of a merge request.
type mergeRequest struct {
	ID            int64  `json:"id"`
	IID           int64  `json:"iid"`
	State         string `json:"state"` // opened, closed, locked, merged
	TargetProject int64  `json:"target_project_id"`
	SourceProject int64  `json:"source_project_id"`
	SourceBranch  string `json:"source_branch"`
	TargetBranch  string `json:"target_branch"`
	SHA           string `json:"sha"`
	MergeCommit   string `json:"merge_commit_sha"`
	SquashCommit  string `json:"squash_commit_sha"`
	CreatedAt     when   `json:"created_at"`
	MergedAt      when   `json:"merged_at"`
	WebURL        string `json:"web_url"`
	Author        user   `json:"author"`
	MergeUser     *user  `json:"merge_user"`
	MergedBy      *user  `json:"merged_by"` // before 14.7
}

// merges lists the merge requests into the project that hold a commit, newest
// first.
func (c *Client) merges(ctx context.Context, p *place, commit string) ([]mergeRequest, error) {
	if err := c.sha(commit); err != nil {
		return nil, err
	}
	all, err := list[mergeRequest](ctx, c, p.token, ask.Path("projects", p.id, "repository", "commits", commit, "merge_requests"), nil, maxMerges, "read_api, as reporter of the project")
	if err != nil {
		return nil, err
	}
	// A fork has merge requests of its own.
	all = slices.DeleteFunc(all, func(m mergeRequest) bool { return m.IID <= 0 || strconv.FormatInt(m.TargetProject, 10) != p.id })
	slices.SortFunc(all, func(a, b mergeRequest) int { return int(b.IID - a.IID) })
	return all, nil
}

// Find implements forge.Threads.
func (c *Client) Find(ctx context.Context, r forge.Repository, commit string) (signing.Thread, error) {
	p, err := c.place(ctx, r)
	if err != nil {
		return signing.Thread{}, err
	}
	all, err := c.merges(ctx, p, commit)
	if err != nil {
		return signing.Thread{}, err
	}
	for _, state := range []string{"opened", "merged"} {
		for _, m := range all {
			if m.State == state {
				return signing.Thread{Forge: c.host, RepositoryID: p.id, Repository: p.path, Kind: signing.ThreadPull, Number: strconv.FormatInt(m.IID, 10), URL: m.WebURL}, nil
			}
		}
	}
	return signing.Thread{}, &signing.Error{Code: signing.NotFound, Message: "no open or merged merge request holds this commit", Found: commit}
}

type issue struct {
	IID    int64  `json:"iid"`
	Title  string `json:"title"`
	State  string `json:"state"`
	WebURL string `json:"web_url"`
	Author user   `json:"author"`
}

// opening is the text of an issue that we open: the question is a note below it,
// since only notes say whether they were edited.
const opening = "Sealwright asks for approval of a signature in the first comment below, and closes this issue when that is decided."

// Open implements forge.Threads. Our own open issue with this title is taken where
// there is one: the answer to an earlier attempt may have been lost.
func (c *Client) Open(ctx context.Context, r forge.Repository, title, body string) (signing.Thread, forge.Comment, error) {
	none := func(err error) (signing.Thread, forge.Comment, error) { return signing.Thread{}, forge.Comment{}, err }
	p, err := c.place(ctx, r)
	if err != nil {
		return none(err)
	}
	if err := writable(body); err != nil {
		return none(err)
	}
	me, err := c.me(ctx, p.token)
	if err != nil {
		return none(err)
	}
	title = shorten(strings.Join(strings.Fields(title), " "), maxTitle)
	mine, err := list[issue](ctx, c, p.token, ask.Path("projects", p.id, "issues"), query("state", "opened", "author_id", strconv.FormatInt(me, 10), "search", title, "in", "title"), maxOpened, "read_api")
	if err != nil {
		return none(err)
	}
	at := slices.IndexFunc(mine, func(i issue) bool { return i.Title == title && i.Author.ID == me && i.State == "opened" })
	var found issue
	if at >= 0 {
		found = mine[at]
	} else {
		in := map[string]string{"title": title, "description": opening}
		if _, err := c.do(ctx, p.token, http.MethodPost, ask.Path("projects", p.id, "issues"), nil, in, &found, "api, as reporter of the project"); err != nil {
			return none(err)
		}
	}
	if found.IID <= 0 {
		return none(ask.Garbled("POST /projects/"+p.id+"/issues", "an issue without a number"))
	}
	t := signing.Thread{Forge: c.host, RepositoryID: p.id, Repository: p.path, Kind: signing.ThreadIssue, Number: strconv.FormatInt(found.IID, 10), URL: found.WebURL, Opened: true}
	before, err := c.Mine(ctx, t, ask.FirstLine(body))
	if err != nil {
		return none(err)
	}
	if len(before) > 0 {
		return t, before[len(before)-1], nil
	}
	posted, err := c.Post(ctx, t, body)
	return t, posted, err
}

// Close implements forge.Threads: an issue that we opened, and nothing else.
func (c *Client) Close(ctx context.Context, t signing.Thread) error {
	if t.Kind != signing.ThreadIssue || !t.Opened {
		return &signing.Error{Code: signing.Invalid, Message: "only an issue that this service opened is closed by it", Found: ask.Clip(t.Kind) + " " + ask.Clip(t.Number)}
	}
	p, err := c.thread(ctx, t)
	if err != nil {
		return err
	}
	_, err = c.do(ctx, p.token, http.MethodPut, ask.Path("projects", p.id, "issues", t.Number), nil, map[string]string{"state_event": "close"}, nil, "api, as reporter of the project")
	return err
}

// thread returns the place of a thread of this forge.
func (c *Client) thread(ctx context.Context, t signing.Thread) (*place, error) {
	if t.Forge != c.host || t.Kind != signing.ThreadPull && t.Kind != signing.ThreadIssue {
		return nil, &signing.Error{Code: signing.Invalid, Message: "not a thread of " + c.host, Found: ask.Clip(t.Forge) + " " + ask.Clip(t.Kind)}
	}
	if err := c.number(t.Number, "the number of a thread"); err != nil {
		return nil, err
	}
	return c.place(ctx, forge.Repository{ID: t.RepositoryID, Name: t.Repository})
}

// notesOf is the path of a thread's notes.
func notesOf(p *place, t signing.Thread, more ...string) string {
	kind := "issues"
	if t.Kind == signing.ThreadPull {
		kind = "merge_requests"
	}
	return ask.Path(append([]string{"projects", p.id, kind, t.Number, "notes"}, more...)...)
}

type note struct {
	ID        int64  `json:"id"`
	Body      string `json:"body"`
	Author    user   `json:"author"`
	System    bool   `json:"system"`
	Internal  bool   `json:"internal"`
	Hidden    bool   `json:"confidential"` // what internal was before 15.3
	CreatedAt when   `json:"created_at"`
	UpdatedAt when   `json:"updated_at"`
	Kind      string `json:"noteable_type"`
	IID       int64  `json:"noteable_iid"`
	ProjectID int64  `json:"project_id"`
}

// is reports whether the note is of the thread.
func (n note) is(p *place, t signing.Thread) bool {
	kind := "Issue"
	if t.Kind == signing.ThreadPull {
		kind = "MergeRequest"
	}
	return n.ID > 0 && n.Kind == kind && strconv.FormatInt(n.IID, 10) == t.Number && strconv.FormatInt(n.ProjectID, 10) == p.id
}

// comment turns a note into what callers see. Its times differ as soon as anybody
// changed the text; a reaction moves them too, and then the author writes anew.
func (c *Client) comment(ctx context.Context, p *place, t signing.Thread, n note) (forge.Comment, error) {
	if n.CreatedAt.IsZero() || n.UpdatedAt.IsZero() || n.Author.ID <= 0 {
		return forge.Comment{}, ask.Garbled("GET /"+notesOf(p, t), "a note without author or times")
	}
	id := strconv.FormatInt(n.ID, 10)
	out := forge.Comment{
		ID: id, Kind: "note", Body: n.Body, System: n.System, Created: n.CreatedAt.Time, Updated: n.UpdatedAt.Time,
		Edited: !n.UpdatedAt.Equal(n.CreatedAt.Time), Author: signing.Account{Forge: c.host, ID: strconv.FormatInt(n.Author.ID, 10), Login: n.Author.Username},
	}
	if t.URL != "" {
		out.URL = t.URL + "#note_" + id
	}
	if n.System {
		return out, nil
	}
	var err error
	out.Author, err = c.who(ctx, p.token, out.Author.ID)
	if signing.CodeOf(err) == signing.NotFound && err != nil {
		// Somebody whom we may not look up is nobody who can be trusted to be human.
		out.Author, err = signing.Account{Forge: c.host, ID: strconv.FormatInt(n.Author.ID, 10), Login: n.Author.Username, Bot: true}, nil
	}
	return out, err
}

// Comment implements forge.Threads. An internal note is none.
func (c *Client) Comment(ctx context.Context, t signing.Thread, id string) (forge.Comment, error) {
	p, err := c.thread(ctx, t)
	if err != nil {
		return forge.Comment{}, err
	}
	if err := c.number(id, "the id of a note"); err != nil {
		return forge.Comment{}, err
	}
	var n note
	if _, err := c.get(ctx, p.token, notesOf(p, t, id), nil, &n, "read_api, as reporter of the project"); err != nil {
		return forge.Comment{}, err
	}
	if n.Internal || n.Hidden {
		return forge.Comment{}, &signing.Error{Code: signing.NotFound, Message: "an internal note is no comment that counts", Found: "note " + id}
	}
	if strconv.FormatInt(n.ID, 10) != id || !n.is(p, t) {
		return forge.Comment{}, &signing.Error{Code: signing.NotFound, Message: "the note is in another place", Expected: t.Kind + " " + t.Number, Found: "note " + id}
	}
	return c.comment(ctx, p, t, n)
}

// notes reads those made since, oldest first.
func (c *Client) notes(ctx context.Context, p *place, t signing.Thread, since time.Time) ([]note, error) {
	all, err := listWhile(ctx, c, p.token, notesOf(p, t), query("order_by", "created_at", "sort", "desc"), maxNotes, "read_api, as reporter of the project", func(n note) bool { return !n.CreatedAt.Before(since) })
	if err != nil {
		return nil, err
	}
	seen := map[int64]bool{}
	var out []note
	for _, n := range slices.Backward(all) {
		// A note made while pages are read moves others to the next page.
		if !n.CreatedAt.Before(since) && n.is(p, t) && !n.Internal && !n.Hidden && !seen[n.ID] {
			seen[n.ID] = true
			out = append(out, n)
		}
	}
	return out, nil
}

// Comments implements forge.Threads. Internal notes are left out.
func (c *Client) Comments(ctx context.Context, t signing.Thread, since time.Time) ([]forge.Comment, error) {
	p, err := c.thread(ctx, t)
	if err != nil {
		return nil, err
	}
	all, err := c.notes(ctx, p, t, since)
	if err != nil {
		return nil, err
	}
	out := make([]forge.Comment, 0, len(all))
	for _, n := range all {
		made, err := c.comment(ctx, p, t, n)
		if err != nil {
			return nil, err
		}
		out = append(out, made)
	}
	return out, nil
}
