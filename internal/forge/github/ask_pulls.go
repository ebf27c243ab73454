package github

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxPulls bounds the pull requests of one commit. A commit on a branch has
	// one, one that many branches build on has some.
	maxPulls = 20
	// maxPullCommits is how many commits GitHub lists of a pull request. Of a larger
	// one the authors cannot all be told.
	maxPullCommits = 250
	// maxReviews bounds the reviews of a pull request.
	maxReviews = 1_000
	// maxActivity bounds the pushes that are read to find who pushed.
	maxActivity = 1_000
)

// pull is GET /repos/{owner}/{repo}/pulls/{number}.
type pull struct {
	Number  int    `json:"number"`
	State   string `json:"state"`
	URL     string `json:"html_url"`
	Merged  bool   `json:"merged"`
	At      string `json:"merged_at"`
	Result  string `json:"merge_commit_sha"`
	User    *user  `json:"user"`
	Merger  *user  `json:"merged_by"`
	Commits int    `json:"commits"`
	Base    struct {
		Ref  string      `json:"ref"`
		Repo *repository `json:"repo"`
	} `json:"base"`
	Head struct {
		Ref  string      `json:"ref"`
		SHA  string      `json:"sha"`
		Repo *repository `json:"repo"`
	} `json:"head"`
}

// pulls asks for the pull requests that hold the build's commit.
func (b *build) pulls(ctx context.Context) error {
	if !ask.IsCommit(b.o.SourceRepositoryDigest) {
		return ask.Lacks("a commit")
	}
	found, err := list[pull](ctx, b.Client, b.at.client, ask.Path("repos", b.at.owner, b.at.name, "commits", b.o.SourceRepositoryDigest, "pulls"), nil, maxPulls, "pull_requests: read")
	if err != nil {
		return err
	}
	f := &signing.PullFacts{Pulls: []signing.PullRequest{}}
	a := &authors{build: b}
	var unknown []string
	for _, p := range found {
		if p.Base.Repo == nil || strconv.FormatInt(p.Base.Repo.ID, 10) != b.o.SourceRepositoryIdentifier {
			continue // of another repository that has the commit as well
		}
		one, why, err := b.pull(ctx, a, p.Number)
		if err != nil {
			return err
		}
		if why != "" {
			unknown = append(unknown, fmt.Sprintf("pull request %d: %s", p.Number, why))
		}
		f.Pulls = append(f.Pulls, *one)
	}
	b.pushersUnknown = strings.Join(unknown, "; ")
	b.facts.Pulls = f
	return nil
}

// pull asks for one pull request. why says, if not empty, why its pushers are not
// known.
func (b *build) pull(ctx context.Context, a *authors, number int) (out *signing.PullRequest, why string, err error) {
	base := ask.Path("repos", b.at.owner, b.at.name, "pulls", strconv.Itoa(number))
	var p pull
	if err := b.get(ctx, b.at.client, base, nil, &p, "pull_requests: read"); err != nil {
		return nil, "", err
	}
	switch {
	case p.Number != number || !ask.IsCommit(p.Head.SHA) || p.Base.Ref == "" || p.State != "open" && p.State != "closed":
		return nil, "", ask.Garbled(fmt.Sprintf("pull request %d", number), "it has no state, head or base")
	case p.Commits > maxPullCommits:
		return nil, "", &signing.Error{Code: signing.TooLarge, Message: fmt.Sprintf("pull request %d is too large for its authors to be told", number), Expected: fmt.Sprintf("at most %d commits", maxPullCommits), Found: strconv.Itoa(p.Commits)}
	}
	out = &signing.PullRequest{
		Number: strconv.Itoa(number), URL: p.URL, Open: p.State == "open", Merged: p.Merged, Base: p.Base.Ref, Head: p.Head.SHA, Author: b.account(p.User),
	}
	if p.Merged {
		// Before it is merged, this is only a trial.
		out.At, out.Result, out.Merger = stamp(p.At), p.Result, b.account(p.Merger)
	}
	commits, err := list[commit](ctx, b.Client, b.at.client, base+"/commits", nil, maxPullCommits, "pull_requests: read")
	if err != nil {
		return nil, "", err
	}
	if len(commits) != p.Commits {
		return nil, "", ask.Garbled(fmt.Sprintf("pull request %d", number), fmt.Sprintf("%d commits of %d", len(commits), p.Commits))
	}
	for _, c := range commits {
		if err := a.add(ctx, c, &out.Authors, &out.Unmapped); err != nil {
			return nil, "", err
		}
	}
	if !out.Author.Known() {
		out.Unmapped = append(out.Unmapped, "who opened the pull request: the account is gone")
	}
	if out.Reviews, err = b.reviews(ctx, base); err != nil {
		return nil, "", err
	}
	out.Pushers, why, err = b.pushers(ctx, p, commits)
	return out, why, err
}

// reviews returns the newest verdict of each reviewer who may write to the
// repository, as GitHub counts them. Anybody who can read a public repository can
// approve there, which says nothing.
func (b *build) reviews(ctx context.Context, base string) ([]signing.Review, error) {
	type review struct {
		ID     int64  `json:"id"`
		User   *user  `json:"user"`
		State  string `json:"state"`
		Commit string `json:"commit_id"`
		At     string `json:"submitted_at"`
	}
	all, err := list[review](ctx, b.Client, b.at.client, base+"/reviews", nil, maxReviews, "pull_requests: read")
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(all, func(x, y review) int {
		if d := stamp(x.At).Compare(stamp(y.At)); d != 0 {
			return d
		}
		return int(min(max(x.ID-y.ID, -1), 1))
	})
	newest := map[string]review{}
	var order []string
	for _, r := range all {
		// A comment leaves a verdict as it is; a dismissal takes it away.
		who := b.account(r.User)
		if !who.Known() || r.State != "APPROVED" && r.State != "CHANGES_REQUESTED" && r.State != "DISMISSED" {
			continue
		}
		if _, ok := newest[who.ID]; !ok {
			order = append(order, who.ID)
		}
		newest[who.ID] = r
	}
	var out []signing.Review
	for _, id := range order {
		r := newest[id]
		if r.State == "DISMISSED" {
			continue
		}
		writes, err := b.writes(ctx, r.User)
		if err != nil {
			return nil, err
		}
		if writes {
			out = append(out, signing.Review{By: b.account(r.User), Approved: r.State == "APPROVED", Commit: r.Commit, At: stamp(r.At)})
		}
	}
	return out, nil
}

// writes reports whether u may write to the repository now. The answer is held
// against the id: the login may be another account's by now.
func (b *build) writes(ctx context.Context, u *user) (bool, error) {
	var p struct {
		Permission string `json:"permission"`
		User       *user  `json:"user"`
	}
	err := b.get(ctx, b.at.client, ask.Path("repos", b.at.owner, b.at.name, "collaborators", u.Login, "permission"), nil, &p, "metadata: read")
	switch {
	case errors.Is(err, signing.NotFound):
		return false, nil
	case err != nil:
		return false, err
	}
	// Maintain is write here, and triage is read.
	return p.User != nil && p.User.ID == u.ID && (p.Permission == "write" || p.Permission == "admin"), nil
}

// pushers returns who pushed what is in the pull request now, and what it held
// before by force. It follows the pushes of the head branch backwards from the
// head to where the branch left its base. why is set where the chain has a gap.
func (b *build) pushers(ctx context.Context, p pull, commits []commit) (out []signing.Account, why string, err error) {
	if p.Head.Repo == nil || p.Head.Repo.ID <= 0 {
		return nil, "the repository it came from is gone", nil
	}
	owner, name, ok := strings.Cut(p.Head.Repo.FullName, "/")
	if !ok {
		return nil, "the repository it came from has no name", nil
	}
	held := map[string]bool{}
	for _, c := range commits {
		held[c.SHA] = true
	}
	type activity struct {
		Before string `json:"before"`
		After  string `json:"after"`
		Ref    string `json:"ref"`
		Type   string `json:"activity_type"`
		Actor  *user  `json:"actor"`
	}
	all, err := list[activity](ctx, b.Client, b.at.client, ask.Path("repos", owner, name, "activity"), url.Values{"ref": {"refs/heads/" + p.Head.Ref}}, maxActivity, "contents: read")
	if ask.Permanent(err) {
		return nil, "its pushes cannot be read: " + err.Error(), nil
	}
	if err != nil {
		return nil, "", err
	}
	at := p.Head.SHA
	for _, a := range all { // the newest is first
		if a.Ref != "refs/heads/"+p.Head.Ref || a.After != at {
			continue
		}
		who := b.account(a.Actor)
		if !who.Known() {
			return nil, "somebody pushed to it whose account is gone", nil
		}
		if !slices.ContainsFunc(out, func(o signing.Account) bool { return o.ID == who.ID }) {
			out = append(out, who)
		}
		at = a.Before
		// What a forced push replaced was somebody's too, so the chain goes on.
		if strings.Trim(at, "0") == "" || !held[at] && a.Type != "force_push" {
			return out, "", nil
		}
	}
	return nil, "GitHub does not tell who pushed " + ask.Clip(at) + " to " + ask.Clip(p.Head.Ref), nil
}
