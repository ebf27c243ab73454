package gitlab

import (
	"context"
	"net/http"
	"strconv"
	"unicode/utf8"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxDescription and maxContext are GitLab's bounds of a commit status, in characters.
	maxDescription = 255
	maxContext     = 255
	// maxStatuses bounds the statuses and jobs of one commit that are read.
	maxStatuses = 5000
)

// statusState is what GitLab calls the state of a status. It has none for neutral:
// that nothing is wrong is the nearest.
func statusState(s forge.CheckState) string {
	switch s {
	case forge.CheckRunning:
		return "running"
	case forge.CheckWaiting:
		return "pending"
	case forge.CheckPassed, forge.CheckNeutral:
		return "success"
	case forge.CheckCanceled:
		return "canceled"
	}
	return "failed"
}

// Check implements forge.Reports by a commit status with the title as its
// description: GitLab has no checks. The id is always "".
func (c *Client) Check(ctx context.Context, r forge.Repository, k forge.Check) (string, error) {
	return "", c.Status(ctx, r, forge.Status{Commit: k.Commit, Context: k.Name, State: k.State, Description: k.Title, URL: k.URL})
}

// ReadCheck implements forge.Reports: there are no checks to read.
func (c *Client) ReadCheck(context.Context, forge.Repository, string) (forge.Check, error) {
	return forge.Check{}, &signing.Error{Code: signing.NotFound, Message: c.host + " has no check runs: GitLab knows commit statuses only"}
}

// Status implements forge.Reports. Reporting the state that is there already is
// no error.
func (c *Client) Status(ctx context.Context, r forge.Repository, s forge.Status) error {
	p, err := c.place(ctx, r)
	if err != nil {
		return err
	}
	if err := c.sha(s.Commit); err != nil {
		return err
	}
	in := struct {
		State       string `json:"state"`
		Name        string `json:"name"`
		Description string `json:"description,omitempty"`
		TargetURL   string `json:"target_url,omitempty"`
		Ref         string `json:"ref,omitempty"`
		Pipeline    int64  `json:"pipeline_id,omitempty"`
	}{statusState(s.State), shorten(s.Context, maxContext), shorten(s.Description, maxDescription), s.URL, s.Ref, 0}
	if s.Pipeline != "" {
		if err := c.number(s.Pipeline, "the id of a pipeline"); err != nil {
			return err
		}
		in.Pipeline, _ = strconv.ParseInt(s.Pipeline, 10, 64)
	}
	_, err = c.do(ctx, p.token, http.MethodPost, ask.Path("projects", p.id, "statuses", s.Commit), nil, in, nil, "api, as developer of the project")
	if signing.CodeOf(err) != signing.Invalid || err == nil {
		return err
	}
	// GitLab refuses a change from a state to itself.
	there, lerr := list[commitStatus](ctx, c, p.token, ask.Path("projects", p.id, "repository", "commits", s.Commit, "statuses"), query("name", in.Name), maxStatuses, "read_api")
	if lerr != nil {
		return lerr
	}
	for _, t := range there {
		if t.Name == in.Name && t.Status == in.State {
			return nil
		}
	}
	return err
}

// commitStatus is a status of a commit. Jobs are listed among them, too.
type commitStatus struct {
	ID         int64  `json:"id"`
	SHA        string `json:"sha"`
	Ref        string `json:"ref"`
	Name       string `json:"name"`
	Status     string `json:"status"`
	TargetURL  string `json:"target_url"`
	CreatedAt  when   `json:"created_at"`
	FinishedAt when   `json:"finished_at"`
	Author     user   `json:"author"`
	PipelineID int64  `json:"pipeline_id"`
}

// sha refuses what is not the id of a commit: GitLab would take a branch there.
func (c *Client) sha(s string) error {
	if !ask.IsCommit(s) {
		return &signing.Error{Code: signing.Invalid, Message: "not the id of a commit", Found: strconv.Quote(ask.Clip(s))}
	}
	return nil
}

// shorten cuts text to most characters.
func shorten(s string, most int) string {
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most-3]) + "..."
}
