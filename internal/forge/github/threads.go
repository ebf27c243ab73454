package github

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-github/v60/github"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxRemarks bounds the comments of a thread that are read. Beyond it, a thread
	// is not read at all: a command could be among the rest.
	maxRemarks = 5_000
	// maxPullsOfCommit bounds the pull requests of a commit.
	maxPullsOfCommit = 300
	// maxTitle is GitHub's bound of an issue's title, in characters.
	maxTitle = 256
)

// The kinds of a comment, as forge.Comment has them.
const (
	kindComment       = "comment"
	kindReviewComment = "review_comment"
	kindReview        = "review"
)

// prefixes of the ids of comments are those that GitHub uses in links. The number
// alone would not say which of three lists it is of.
var prefixes = []struct{ kind, prefix string }{
	{kindComment, "issuecomment-"},
	{kindReviewComment, "discussion_r"},
	{kindReview, "pullrequestreview-"},
}

// commentID makes the id of a forge.Comment.
func commentID(kind string, id int64) string {
	for _, p := range prefixes {
		if p.kind == kind {
			return p.prefix + strconv.FormatInt(id, 10)
		}
	}
	return ""
}

// splitID reads what commentID made.
func (c *Client) splitID(id string) (kind, number string, err error) {
	for _, p := range prefixes {
		if n, ok := strings.CutPrefix(id, p.prefix); ok && ask.IsNumber(n) {
			return p.kind, n, nil
		}
	}
	return "", "", &signing.Error{Code: signing.Invalid, Message: "not the id of a comment on " + c.host, Found: strconv.Quote(ask.Clip(id))}
}

// remark is a comment, review comment or review as the REST API has it.
type remark struct {
	ID        int64  `json:"id"`
	Node      string `json:"node_id"`
	User      *user  `json:"user"`
	Body      string `json:"body"`
	Created   string `json:"created_at"`
	Updated   string `json:"updated_at"`
	Submitted string `json:"submitted_at"` // reviews
	State     string `json:"state"`        // reviews
	URL       string `json:"html_url"`
	IssueURL  string `json:"issue_url"`        // comments
	PullURL   string `json:"pull_request_url"` // review comments and reviews
	Commit    string `json:"commit_id"`
	Via       *struct {
		ID int64 `json:"id"`
	} `json:"performed_via_github_app"`
}

// via reports whether an App wrote it in the name of a person.
func (m remark) via() bool { return m.Via != nil && m.Via.ID != 0 }

// thread returns where t is.
func (c *Client) thread(ctx context.Context, t signing.Thread) (*place, error) {
	switch {
	case t.Forge != c.host:
		return nil, &signing.Error{Code: signing.Invalid, Message: "a thread of another forge", Expected: c.host, Found: ask.Clip(t.Forge)}
	case !ask.IsNumber(t.Number) || t.Kind != signing.ThreadPull && t.Kind != signing.ThreadIssue:
		return nil, &signing.Error{Code: signing.Invalid, Message: "not a thread", Expected: "a pull request or an issue with its number", Found: strconv.Quote(ask.Clip(t.Kind + " " + t.Number))}
	}
	return c.place(ctx, forge.Repository{ID: t.RepositoryID, Name: t.Repository})
}

// Find implements forge.Threads. Of several open pull requests it takes one whose
// head is the commit, then the newest; of several merged ones, the newest.
func (c *Client) Find(ctx context.Context, r forge.Repository, commit string) (signing.Thread, error) {
	if !ask.IsCommit(commit) {
		return signing.Thread{}, &signing.Error{Code: signing.Invalid, Message: "not the id of a commit", Found: strconv.Quote(ask.Clip(commit))}
	}
	p, err := c.place(ctx, r)
	if err != nil {
		return signing.Thread{}, err
	}
	type candidate struct {
		Number int64  `json:"number"`
		State  string `json:"state"`
		Merged string `json:"merged_at"`
		URL    string `json:"html_url"`
		Head   struct {
			SHA string `json:"sha"`
		} `json:"head"`
		Base struct {
			Repo *struct {
				ID int64 `json:"id"`
			} `json:"repo"`
		} `json:"base"`
	}
	all, err := list[candidate](ctx, c, p.client, ask.Path("repos", p.owner, p.name, "commits", commit, "pulls"), nil, maxPullsOfCommit, "pull_requests: read")
	if err != nil && signing.CodeOf(err) != signing.Invalid { // 422: no such commit
		return signing.Thread{}, err
	}
	all = slices.DeleteFunc(all, func(x candidate) bool {
		return x.Number <= 0 || x.State != "open" && x.Merged == "" || x.Base.Repo == nil || strconv.FormatInt(x.Base.Repo.ID, 10) != r.ID
	})
	if len(all) == 0 {
		return signing.Thread{}, &signing.Error{Code: signing.NotFound, Message: "no open or merged pull request on " + c.host + " has commit " + commit}
	}
	rank := func(x candidate) int {
		switch {
		case x.State == "open" && x.Head.SHA == commit:
			return 0
		case x.State == "open":
			return 1
		}
		return 2
	}
	best := slices.MinFunc(all, func(a, b candidate) int {
		return cmp.Or(rank(a)-rank(b), cmp.Compare(b.Merged, a.Merged), cmp.Compare(b.Number, a.Number))
	})
	t := c.threadOf(p, r.ID, signing.ThreadPull, best.Number)
	t.URL = best.URL
	return t, nil
}

func (c *Client) threadOf(p *place, id, kind string, number int64) signing.Thread {
	return signing.Thread{
		Forge: c.host, Installation: strconv.FormatInt(p.installation, 10), RepositoryID: id, Repository: p.owner + "/" + p.name,
		Kind: kind, Number: strconv.FormatInt(number, 10),
	}
}

// at is the path under which a remark of t is read.
func (p *place) at(t signing.Thread, kind, number string) string {
	switch kind {
	case kindReview:
		return ask.Path("repos", p.owner, p.name, "pulls", t.Number, "reviews", number)
	case kindReviewComment:
		return ask.Path("repos", p.owner, p.name, "pulls", "comments", number)
	}
	return ask.Path("repos", p.owner, p.name, "issues", "comments", number)
}

// remark reads one that is in t, and in no other thread of the repository.
func (c *Client) remark(ctx context.Context, p *place, t signing.Thread, id string) (m remark, kind string, err error) {
	kind, number, err := c.splitID(id)
	if err != nil {
		return m, "", err
	}
	elsewhere := &signing.Error{Code: signing.NotFound, Message: "there is no such comment in " + t.Kind + " " + t.Number + " of " + p.owner + "/" + p.name}
	if kind != kindComment && t.Kind != signing.ThreadPull {
		return m, "", elsewhere
	}
	need := "pull_requests: read"
	if kind == kindComment {
		need = "issues: read"
	}
	if err := c.get(ctx, p.client, p.at(t, kind, number), nil, &m, need); err != nil {
		return m, "", err
	}
	if commentID(kind, m.ID) != id {
		return m, "", ask.Garbled("comment "+ask.Clip(id), "it is another one")
	}
	home, want := m.PullURL, "/pulls/"+t.Number
	if kind == kindComment {
		home, want = m.IssueURL, "/issues/"+t.Number
	}
	if !strings.HasSuffix(home, want) {
		return m, "", elsewhere
	}
	return m, kind, nil
}

// made turns a remark into a forge.Comment. edited is what the GraphQL API says.
func (c *Client) made(m remark, kind string, edited bool) (forge.Comment, error) {
	out := forge.Comment{ID: commentID(kind, m.ID), Kind: kind, Author: c.account(m.User), Body: m.Body, Edited: edited, System: m.via(), Created: stamp(m.Created), Updated: stamp(m.Updated), URL: m.URL, Commit: m.Commit}
	if kind == kindReview {
		out.Created = stamp(m.Submitted)
		out.Updated = out.Created // reviews have no other time
	}
	if out.Created.IsZero() || out.Updated.IsZero() {
		return forge.Comment{}, ask.Garbled("comment "+out.ID, "it has no time")
	}
	out.Edited = out.Edited || !out.Updated.Equal(out.Created)
	return out, nil
}

// Comment implements forge.Threads.
func (c *Client) Comment(ctx context.Context, t signing.Thread, id string) (forge.Comment, error) {
	p, err := c.thread(ctx, t)
	if err != nil {
		return forge.Comment{}, err
	}
	m, kind, err := c.remark(ctx, p, t, id)
	if err != nil {
		return forge.Comment{}, err
	}
	edited, err := c.edited(ctx, p, []string{m.Node})
	if err != nil {
		return forge.Comment{}, err
	}
	return c.made(m, kind, edited[m.Node])
}

// Comments implements forge.Threads. Reviews that are not submitted are not there,
// and those without a text say nothing.
func (c *Client) Comments(ctx context.Context, t signing.Thread, since time.Time) ([]forge.Comment, error) {
	p, err := c.thread(ctx, t)
	if err != nil {
		return nil, err
	}
	// GitHub counts from the last change, which is never before the making.
	q := url.Values{}
	if !since.IsZero() {
		q.Set("since", since.UTC().Format(time.RFC3339))
	}
	sources := []struct {
		kind, path, need string
		query            url.Values
	}{{kindComment, ask.Path("repos", p.owner, p.name, "issues", t.Number, "comments"), "issues: read", q}}
	if t.Kind == signing.ThreadPull {
		sources = append(sources, []struct {
			kind, path, need string
			query            url.Values
		}{
			{kindReviewComment, ask.Path("repos", p.owner, p.name, "pulls", t.Number, "comments"), "pull_requests: read", q},
			{kindReview, ask.Path("repos", p.owner, p.name, "pulls", t.Number, "reviews"), "pull_requests: read", nil},
		}...)
	}
	var out []forge.Comment
	var nodes []string
	for _, s := range sources {
		all, err := list[remark](ctx, c, p.client, s.path, s.query, maxRemarks, s.need)
		if err != nil {
			return nil, err
		}
		for _, m := range all {
			if s.kind == kindReview && (m.State == "PENDING" || m.Body == "") {
				continue
			}
			made, err := c.made(m, s.kind, false)
			if err != nil {
				return nil, err
			}
			if made.Created.Before(since.Truncate(time.Second)) { // GitHub's times have no fractions
				continue
			}
			out, nodes = append(out, made), append(nodes, m.Node)
		}
	}
	edited, err := c.edited(ctx, p, nodes)
	if err != nil {
		return nil, err
	}
	for i := range out {
		out[i].Edited = out[i].Edited || edited[nodes[i]]
	}
	slices.SortStableFunc(out, func(a, b forge.Comment) int { return a.Created.Compare(b.Created) })
	return out, nil
}

// Open implements forge.Threads: an issue with the title, and the question as a
// comment of it, which can be found, edited and collapsed like any other. An open
// issue of ours with this title is taken instead of a second one.
func (c *Client) Open(ctx context.Context, r forge.Repository, title, body string) (signing.Thread, forge.Comment, error) {
	if title = strings.TrimSpace(title); title == "" || len([]rune(title)) > maxTitle {
		return signing.Thread{}, forge.Comment{}, &signing.Error{Code: signing.Invalid, Message: "not the title of an issue", Expected: "1 to 256 characters"}
	}
	if err := ask.Writable(body); err != nil {
		return signing.Thread{}, forge.Comment{}, err
	}
	p, err := c.place(ctx, r)
	if err != nil {
		return signing.Thread{}, forge.Comment{}, err
	}
	i, there, err := c.ownIssue(ctx, p, title)
	if err != nil {
		return signing.Thread{}, forge.Comment{}, err
	}
	if !there {
		in := map[string]string{"title": title, "body": "A build waits for approval. The question, and the answer, are below."}
		if _, err := c.do(ctx, p.client, http.MethodPost, ask.Path("repos", p.owner, p.name, "issues"), nil, in, &i, "issues: write"); err != nil {
			return signing.Thread{}, forge.Comment{}, err
		}
	}
	if i.Number <= 0 {
		return signing.Thread{}, forge.Comment{}, ask.Garbled("the new issue", "it has no number")
	}
	t := c.threadOf(p, r.ID, signing.ThreadIssue, i.Number)
	t.URL, t.Opened = i.URL, true
	if there {
		mine, err := c.Mine(ctx, t, ask.FirstLine(body))
		if err != nil {
			return signing.Thread{}, forge.Comment{}, err
		}
		if n := slices.IndexFunc(mine, func(m forge.Comment) bool { return m.Body == body }); n >= 0 {
			return t, mine[n], nil
		}
	}
	m, err := c.Post(ctx, t, body)
	return t, m, err
}

// issue is what is read of an issue.
type issue struct {
	Number int64  `json:"number"`
	Title  string `json:"title"`
	URL    string `json:"html_url"`
	User   *user  `json:"user"`
	State  string `json:"state"`
	Pull   *struct {
		URL string `json:"url"`
	} `json:"pull_request"`
}

// ownIssue finds an open issue of our own App by its title.
func (c *Client) ownIssue(ctx context.Context, p *place, title string) (issue, bool, error) {
	me, err := c.me(ctx, p)
	if err != nil {
		return issue{}, false, err
	}
	all, err := list[issue](ctx, c, p.client, ask.Path("repos", p.owner, p.name, "issues"), url.Values{"state": {"open"}, "creator": {me.Login}}, maxRemarks, "issues: read")
	if err != nil {
		return issue{}, false, err
	}
	for _, i := range all {
		if i.Title == title && i.User != nil && i.User.ID == me.ID && i.Pull == nil {
			return i, true, nil
		}
	}
	return issue{}, false, nil
}

// Close implements forge.Threads, for issues that this service opened.
func (c *Client) Close(ctx context.Context, t signing.Thread) error {
	p, err := c.thread(ctx, t)
	if err != nil {
		return err
	}
	if t.Kind != signing.ThreadIssue || !t.Opened {
		return &signing.Error{Code: signing.Invalid, Message: "only an issue that this service opened is closed by it"}
	}
	me, err := c.me(ctx, p)
	if err != nil {
		return err
	}
	var i issue
	at := ask.Path("repos", p.owner, p.name, "issues", t.Number)
	if err := c.get(ctx, p.client, at, nil, &i, "issues: read"); err != nil {
		return err
	}
	if i.User == nil || i.User.ID != me.ID {
		return &signing.Error{Code: signing.Denied, Message: "issue " + t.Number + " is somebody else's", Expected: "one of " + me.Login}
	}
	if i.State == "closed" {
		return nil
	}
	_, err = c.do(ctx, p.client, http.MethodPatch, at, nil, map[string]string{"state": "closed", "state_reason": "completed"}, nil, "issues: write")
	return err
}

// me is the account of our own App: SLUG[bot]. Its id never changes.
func (c *Client) me(ctx context.Context, p *place) (user, error) {
	p.app.mu.Lock()
	known := p.app.bot
	p.app.mu.Unlock()
	if known.ID > 0 {
		return known, nil
	}
	var self granted
	if err := c.get(ctx, p.app.jwt, ask.Path("app"), nil, &self, ""); err != nil {
		return user{}, err
	}
	if self.ID != p.app.id || self.Slug == "" {
		return user{}, ask.Garbled("the App", "it is another one")
	}
	var bot user
	if err := c.get(ctx, p.client, ask.Path("users", self.Slug+"[bot]"), nil, &bot, ""); err != nil {
		return user{}, err
	}
	if bot.ID <= 0 || bot.Type != "Bot" {
		return user{}, ask.Garbled("the account of the App", "it is no bot")
	}
	p.app.mu.Lock()
	defer p.app.mu.Unlock()
	p.app.bot = bot
	return bot, nil
}

// graph asks the GraphQL API, whose errors come with status 200.
func (c *Client) graph(ctx context.Context, g *github.Client, query string, variables map[string]any, data any, need string) error {
	in := map[string]any{"query": query, "variables": variables}
	out := struct {
		Data   any `json:"data"`
		Errors []struct {
			Type    string `json:"type"`
			Message string `json:"message"`
		} `json:"errors"`
	}{Data: data}
	if _, err := c.do(ctx, g, http.MethodPost, c.graphql, nil, in, &out, need); err != nil {
		return err
	}
	if len(out.Errors) == 0 {
		return nil
	}
	e := &signing.Error{Code: signing.Unavailable, Message: "GraphQL on " + c.host + " answered with an error", Found: strconv.Quote(ask.Clip(out.Errors[0].Message))}
	switch out.Errors[0].Type {
	case "NOT_FOUND":
		e.Code = signing.NotFound
	case "FORBIDDEN", "INSUFFICIENT_SCOPES":
		e.Code, e.Expected = signing.Denied, "permission "+need
	case "RATE_LIMITED":
		e.Code, e.RetryAfter = signing.RateLimited, secondaryWait
	case "UNPROCESSABLE":
		e.Code = signing.Invalid
	}
	return e
}

// nodesAtOnce is GitHub's limit of ids in one query.
const nodesAtOnce = 100

// edited returns which of the texts were edited, by whomever. The REST API tells
// it by whole seconds only, and of reviews not at all.
func (c *Client) edited(ctx context.Context, p *place, ids []string) (map[string]bool, error) {
	const query = `query($ids: [ID!]!) { nodes(ids: $ids) { id ... on IssueComment { lastEditedAt } ... on PullRequestReviewComment { lastEditedAt } ... on PullRequestReview { lastEditedAt } } }`
	out := map[string]bool{}
	for part := range slices.Chunk(ids, nodesAtOnce) {
		var data struct {
			Nodes []*struct {
				ID     string  `json:"id"`
				Edited *string `json:"lastEditedAt"`
			} `json:"nodes"`
		}
		err := c.graph(ctx, p.client, query, map[string]any{"ids": part}, &data, "pull_requests: read")
		if err != nil && !errors.Is(err, signing.NotFound) {
			return nil, err
		}
		// What is not answered may have been edited.
		for _, id := range part {
			out[id] = true
		}
		for _, n := range data.Nodes {
			if n != nil && n.ID != "" {
				out[n.ID] = n.Edited != nil
			}
		}
	}
	return out, nil
}
