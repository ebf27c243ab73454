package github

import (
	"context"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"
)

// Compare implements forge.Origin.
func (c *Client) Compare(ctx context.Context, r forge.Repository, from, to string) (forge.Comparison, error) {
	if !ask.IsCommit(from) || !ask.IsCommit(to) {
		return forge.Comparison{}, &signing.Error{Code: signing.Invalid, Message: "only commits can be compared", Expected: "two whole commit ids"}
	}
	p, err := c.place(ctx, r)
	if err != nil {
		return forge.Comparison{}, err
	}
	const shown = 10
	page := func(n, size int) (comparison, error) {
		var v comparison
		err := c.get(ctx, p.client, ask.Path("repos", p.owner, p.name, "compare", from+"..."+to), url.Values{"per_page": {strconv.Itoa(size)}, "page": {strconv.Itoa(n)}}, &v, "contents: read")
		if err == nil && v.Status == "" {
			err = ask.Garbled("the comparison", "it has no status")
		}
		return v, err
	}
	first, err := page(1, shown)
	if err != nil {
		return forge.Comparison{}, err
	}
	out := forge.Comparison{Commits: first.Ahead, URL: first.URL, Diverged: first.Status != "ahead" && first.Status != "identical"}
	// Commits come oldest first: the newest are on the last page, and on the one
	// before it where the last is not full.
	commits := first.Commits
	if last := (first.Ahead + shown - 1) / shown; last > 1 {
		commits = nil
		for n := max(last-1, 1); n <= last; n++ {
			v, err := page(n, shown)
			if err != nil {
				return forge.Comparison{}, err
			}
			commits = append(commits, v.Commits...)
		}
	}
	for _, x := range slices.Backward(commits) {
		if len(out.Subjects) == shown {
			break
		}
		out.Subjects = append(out.Subjects, subject(x.Commit.Message))
	}
	return out, nil
}

// comparison is GET /repos/{owner}/{repo}/compare/{base}...{head}.
type comparison struct {
	Status    string `json:"status"`
	Ahead     int    `json:"ahead_by"`
	URL       string `json:"html_url"`
	MergeBase *struct {
		SHA string `json:"sha"`
	} `json:"merge_base_commit"`
	Commits []struct {
		SHA    string `json:"sha"`
		Commit struct {
			Message string `json:"message"`
		} `json:"commit"`
	} `json:"commits"`
}

// subject is the first line of a message, shortened.
func subject(message string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(message), "\n")
	return ask.Clip(strings.TrimSpace(line))
}

// stamp reads a time of the API; what is none is the zero time.
func stamp(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}
