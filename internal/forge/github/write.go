package github

import (
	"context"
	"net/http"
	"strconv"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"
)

// Post implements forge.Writer.
func (c *Client) Post(ctx context.Context, t signing.Thread, body string) (forge.Comment, error) {
	p, err := c.thread(ctx, t)
	if err != nil {
		return forge.Comment{}, err
	}
	if err := ask.Writable(body); err != nil {
		return forge.Comment{}, err
	}
	var m remark
	at := ask.Path("repos", p.owner, p.name, "issues", t.Number, "comments")
	if _, err := c.do(ctx, p.client, http.MethodPost, at, nil, map[string]string{"body": body}, &m, "pull_requests: write and issues: write"); err != nil {
		return forge.Comment{}, err
	}
	if m.ID <= 0 {
		return forge.Comment{}, ask.Garbled("POST /"+at, "a comment without an id")
	}
	return c.made(m, kindComment, false)
}

// own reads a comment that must be of our own App: the permission to write would
// let us change those of others.
func (c *Client) own(ctx context.Context, t signing.Thread, id string) (*place, remark, error) {
	p, err := c.thread(ctx, t)
	if err != nil {
		return nil, remark{}, err
	}
	m, kind, err := c.remark(ctx, p, t, id)
	if err != nil {
		return nil, remark{}, err
	}
	me, err := c.me(ctx, p)
	if err != nil {
		return nil, remark{}, err
	}
	if kind != kindComment || m.User == nil || m.User.ID != me.ID {
		found := "one of an account that is gone"
		if m.User != nil {
			found = "one of account " + strconv.FormatInt(m.User.ID, 10)
		}
		return nil, remark{}, &signing.Error{Code: signing.Denied, Message: "the comment is somebody else's", Expected: "one of " + me.Login, Found: found}
	}
	return p, m, nil
}

// Edit implements forge.Writer.
func (c *Client) Edit(ctx context.Context, t signing.Thread, id, body string) error {
	if err := ask.Writable(body); err != nil {
		return err
	}
	p, m, err := c.own(ctx, t, id)
	if err != nil {
		return err
	}
	if m.Body == body {
		return nil
	}
	_, err = c.do(ctx, p.client, http.MethodPatch, p.at(t, kindComment, strconv.FormatInt(m.ID, 10)), nil, map[string]string{"body": body}, nil, "pull_requests: write and issues: write")
	return err
}

// Mine implements forge.Writer. Who wrote it is what makes it ours: everybody can
// copy the marker.
func (c *Client) Mine(ctx context.Context, t signing.Thread, marker string) ([]forge.Comment, error) {
	p, err := c.thread(ctx, t)
	if err != nil {
		return nil, err
	}
	me, err := c.me(ctx, p)
	if err != nil {
		return nil, err
	}
	all, err := list[remark](ctx, c, p.client, ask.Path("repos", p.owner, p.name, "issues", t.Number, "comments"), nil, maxRemarks, "issues: read")
	if err != nil {
		return nil, err
	}
	var out []forge.Comment
	for _, m := range all {
		if m.User == nil || m.User.ID != me.ID || !ask.Marked(m.Body, marker) {
			continue
		}
		made, err := c.made(m, kindComment, false)
		if err != nil {
			return nil, err
		}
		out = append(out, made)
	}
	return out, nil
}

// Collapse implements forge.Writer.
func (c *Client) Collapse(ctx context.Context, t signing.Thread, id string) error {
	const query = `mutation($input: MinimizeCommentInput!) { minimizeComment(input: $input) { minimizedComment { isMinimized } } }`
	p, m, err := c.own(ctx, t, id)
	if err != nil {
		return err
	}
	var data struct {
		Done struct {
			Comment struct {
				Minimized bool `json:"isMinimized"`
			} `json:"minimizedComment"`
		} `json:"minimizeComment"`
	}
	in := map[string]any{"subjectId": m.Node, "classifier": "OUTDATED"}
	if err := c.graph(ctx, p.client, query, map[string]any{"input": in}, &data, "pull_requests: write and issues: write"); err != nil {
		return err
	}
	if !data.Done.Comment.Minimized {
		return ask.Garbled("hiding a comment", "it is not hidden")
	}
	return nil
}

// React implements forge.Writer. A reaction that is there already is no error.
func (c *Client) React(ctx context.Context, t signing.Thread, m forge.Comment, reaction string) error {
	const query = `mutation($input: AddReactionInput!) { addReaction(input: $input) { reaction { content } } }`
	content, known := map[string]string{"+1": "THUMBS_UP", "-1": "THUMBS_DOWN", "eyes": "EYES", "confused": "CONFUSED"}[reaction]
	if !known {
		return &signing.Error{Code: signing.Invalid, Message: "not a reaction", Expected: "+1, -1, eyes or confused", Found: strconv.Quote(ask.Clip(reaction))}
	}
	p, err := c.thread(ctx, t)
	if err != nil {
		return err
	}
	kind, number, err := c.splitID(m.ID)
	if err != nil {
		return err
	}
	if kind != kindReview {
		_, err = c.do(ctx, p.client, http.MethodPost, p.at(t, kind, number)+"/reactions", nil, map[string]string{"content": reaction}, nil, "pull_requests: write and issues: write")
		return err
	}
	// The REST API has no reactions to reviews.
	review, _, err := c.remark(ctx, p, t, m.ID)
	if err != nil {
		return err
	}
	in := map[string]any{"subjectId": review.Node, "content": content}
	return c.graph(ctx, p.client, query, map[string]any{"input": in}, nil, "pull_requests: write")
}
