package gitlab

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"
)

// writable refuses what GitLab would not keep as it is: too much text, and lines
// that it would carry out as quick actions in the name of our bot.
func writable(body string) error {
	if err := ask.Writable(body); err != nil {
		return err
	}
	code := false // GitLab knows only this kind of fence, at the beginning of a line
	for line := range strings.Lines(body) {
		line = strings.TrimRight(strings.ReplaceAll(line, "\r", ""), " \n")
		switch {
		case code:
			code = line != "```"
		case strings.HasPrefix(line, "```"):
			code = true
		case len(line) > 1 && line[0] == '/' && (line[1] >= 'a' && line[1] <= 'z' || line[1] >= 'A' && line[1] <= 'Z'):
			return &signing.Error{Code: signing.Invalid, Message: "a line of the comment begins like a quick action", Expected: "text that GitLab does not carry out", Found: strconv.Quote(ask.Clip(line))}
		}
	}
	if code {
		return &signing.Error{Code: signing.Invalid, Message: "a fence of the comment is not closed", Expected: "a line with ``` alone"}
	}
	return nil
}

// kept is a body as GitLab keeps it: without carriage returns and final space.
func kept(body string) string {
	return strings.TrimRight(strings.ReplaceAll(body, "\r", ""), " \t\n\v\f\x00")
}

// Post implements forge.Writer. The Body that it returns is what GitLab keeps:
// without carriage returns, and without space at its end.
func (c *Client) Post(ctx context.Context, t signing.Thread, body string) (forge.Comment, error) {
	p, err := c.thread(ctx, t)
	if err != nil {
		return forge.Comment{}, err
	}
	if err := writable(body); err != nil {
		return forge.Comment{}, err
	}
	var n note
	if _, err := c.do(ctx, p.token, http.MethodPost, notesOf(p, t), nil, map[string]string{"body": kept(body)}, &n, "api, as reporter of the project"); err != nil {
		return forge.Comment{}, err
	}
	if n.ID <= 0 {
		return forge.Comment{}, ask.Garbled("POST /"+notesOf(p, t), "a note without an id")
	}
	return c.comment(ctx, p, t, n)
}

// Edit implements forge.Writer.
func (c *Client) Edit(ctx context.Context, t signing.Thread, id, body string) error {
	p, _, err := c.own(ctx, t, id)
	if err != nil {
		return err
	}
	if err := writable(body); err != nil {
		return err
	}
	_, err = c.do(ctx, p.token, http.MethodPut, notesOf(p, t, id), nil, map[string]string{"body": kept(body)}, nil, "api, as reporter of the project")
	return err
}

// own reads a note that must be of our own bot: a maintainer's token could change
// that of others.
func (c *Client) own(ctx context.Context, t signing.Thread, id string) (*place, forge.Comment, error) {
	p, err := c.thread(ctx, t)
	if err != nil {
		return nil, forge.Comment{}, err
	}
	me, err := c.me(ctx, p.token)
	if err != nil {
		return nil, forge.Comment{}, err
	}
	there, err := c.Comment(ctx, t, id)
	if err != nil {
		return nil, forge.Comment{}, err
	}
	if there.Author.ID != strconv.FormatInt(me, 10) || there.System {
		return nil, forge.Comment{}, &signing.Error{Code: signing.Denied, Message: "the note is somebody else's", Expected: "one of user " + strconv.FormatInt(me, 10), Found: "one of user " + there.Author.ID}
	}
	return p, there, nil
}

// Mine implements forge.Writer. Who wrote it is what makes it ours: everybody can
// copy the marker.
func (c *Client) Mine(ctx context.Context, t signing.Thread, marker string) ([]forge.Comment, error) {
	p, err := c.thread(ctx, t)
	if err != nil {
		return nil, err
	}
	me, err := c.me(ctx, p.token)
	if err != nil {
		return nil, err
	}
	all, err := c.notes(ctx, p, t, time.Time{})
	if err != nil {
		return nil, err
	}
	var out []forge.Comment
	for _, n := range all {
		if n.Author.ID != me || n.System || !ask.Marked(n.Body, marker) {
			continue
		}
		made, err := c.comment(ctx, p, t, n)
		if err != nil {
			return nil, err
		}
		out = append(out, made)
	}
	return out, nil
}

// Collapse implements forge.Writer: GitLab cannot hide a note, so that ours is
// folded. Its first line, the marker, stays.
func (c *Client) Collapse(ctx context.Context, t signing.Thread, id string) error {
	const folded = "<details><summary>Outdated</summary>"
	_, there, err := c.own(ctx, t, id)
	if err != nil {
		return err
	}
	first, rest, _ := strings.Cut(there.Body, "\n")
	if strings.HasPrefix(strings.TrimSpace(rest), folded) {
		return nil
	}
	if !strings.HasPrefix(first, "<!--") {
		first, rest = "", there.Body
	}
	return c.Edit(ctx, t, id, strings.TrimLeft(first+"\n"+folded+"\n\n"+rest+"\n\n</details>", "\n"))
}

// React implements forge.Writer. A reaction that is there already is no error.
func (c *Client) React(ctx context.Context, t signing.Thread, m forge.Comment, reaction string) error {
	name, ok := map[string]string{"+1": "thumbsup", "-1": "thumbsdown", "eyes": "eyes", "confused": "confused"}[reaction]
	if !ok {
		return &signing.Error{Code: signing.Invalid, Message: "not a reaction", Expected: "+1, -1, eyes or confused", Found: strconv.Quote(ask.Clip(reaction))}
	}
	p, err := c.thread(ctx, t)
	if err != nil {
		return err
	}
	if err := c.number(m.ID, "the id of a note"); err != nil {
		return err
	}
	at := notesOf(p, t, m.ID, "award_emoji")
	_, err = c.do(ctx, p.token, http.MethodPost, at, nil, map[string]string{"name": name}, nil, "api, as a member of the project")
	if signing.CodeOf(err) != signing.NotFound || err == nil {
		return err
	}
	// GitLab answers 404 where the reaction is there already.
	me, merr := c.me(ctx, p.token)
	if merr != nil {
		return merr
	}
	there, lerr := list[struct {
		Name string `json:"name"`
		User user   `json:"user"`
	}](ctx, c, p.token, at, nil, maxNotes, "read_api")
	if lerr != nil {
		return err
	}
	for _, a := range there {
		if a.Name == name && a.User.ID == me {
			return nil
		}
	}
	return err
}
