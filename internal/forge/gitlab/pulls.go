package gitlab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	gitlab "gitlab.com/gitlab-org/api/client-go"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxCommits bounds those of one merge request: more cannot be reviewed.
	maxCommits = 1000
	// maxVersions bounds the pushes to one merge request.
	maxVersions = 500
	// maxReviews bounds the approvals of one merge request.
	maxReviews = 100
	// maxPulls bounds the merge requests of a commit that are looked at, newest first.
	maxPulls = 10
	// maxEvents bounds the pushes that are looked through for who pushed. Beyond, it
	// is not known.
	maxEvents = 3000
	// before is how long before a merge request was opened its commits may have been
	// pushed: for older ones, who pushed is not known.
	before = 90 * 24 * time.Hour
)

// graphCommit is a commit with the user whom GitLab itself takes for its author,
// by a confirmed address.
type graphCommit struct {
	SHA     string `json:"sha"`
	Message string `json:"message"`
	Author  *struct {
		ID       string `json:"id"`
		Username string `json:"username"`
		Bot      bool   `json:"bot"`
	} `json:"author"`
	AuthorEmail    string `json:"authorEmail"`
	AuthorName     string `json:"authorName"`
	CommitterEmail string `json:"committerEmail"`
	CommitterName  string `json:"committerName"`
}

const graphFields = "sha message author{id username bot} authorEmail authorName committerEmail committerName"

// graph asks a GraphQL question about the project, which its path names: the id in
// the answer has to be ours.
func (b *build) graph(ctx context.Context, q string, vars map[string]any, out any) error {
	const what = "POST /graphql"
	ask.Note(ctx, b.now(), what)
	t := b.at.token
	vars["project"] = b.at.path
	u := strings.TrimSuffix(b.api, "/v4") + "/graphql"
	var got struct {
		Data   struct{ Project *graphProject }
		Errors []struct{ Message string }
	}
	if _, err := b.send(ctx, t, http.MethodPost, u, nil, map[string]any{"query": q, "variables": vars}, &got); err != nil {
		return b.failure(ctx, err, what, "read_api, as reporter of the project")
	}
	if len(got.Errors) > 0 {
		return &signing.Error{Code: signing.Invalid, Message: what + " on " + b.host + " is refused", Found: strconv.Quote(ask.Clip(got.Errors[0].Message)), Fix: "this service needs GitLab 16 or newer"}
	}
	if got.Data.Project == nil {
		return &signing.Error{Code: signing.NotFound, Message: what + " on " + b.host + ": this token may not see the project", Found: ask.Clip(b.at.path)}
	}
	if got.Data.Project.ID != "gid://gitlab/Project/"+b.at.id {
		return ask.Garbled(what, "another project has this path now")
	}
	return got.Data.Project.into(out)
}

// graphProject holds the answers to both questions.
type graphProject struct {
	ID         string `json:"id"`
	Repository *struct {
		Tree *struct {
			LastCommit *graphCommit `json:"lastCommit"`
		} `json:"tree"`
	} `json:"repository"`
	MergeRequest *struct {
		Commits *graphCommits `json:"commits"`
	} `json:"mergeRequest"`
}

type graphCommits struct {
	Nodes    []graphCommit `json:"nodes"`
	PageInfo struct {
		HasNextPage bool   `json:"hasNextPage"`
		EndCursor   string `json:"endCursor"`
	} `json:"pageInfo"`
}

// into hands the part of the answer to its reader.
func (p *graphProject) into(out any) error {
	switch o := out.(type) {
	case *graphCommit:
		if p.Repository == nil || p.Repository.Tree == nil || p.Repository.Tree.LastCommit == nil {
			return &signing.Error{Code: signing.NotFound, Message: "the project does not have the commit"}
		}
		*o = *p.Repository.Tree.LastCommit
	case *graphCommits:
		if p.MergeRequest == nil || p.MergeRequest.Commits == nil {
			return &signing.Error{Code: signing.NotFound, Message: "the commits of the merge request cannot be seen"}
		}
		*o = *p.MergeRequest.Commits
	}
	return nil
}

// commit asks for the commit of the build.
func (b *build) commit(ctx context.Context) error {
	sha := b.o.SourceRepositoryDigest
	if b.sha(sha) != nil {
		return ask.Lacks("its commit")
	}
	var c graphCommit
	if err := b.graph(ctx, "query($project:ID!,$sha:String!){project(fullPath:$project){id repository{tree(ref:$sha){lastCommit{"+graphFields+"}}}}}", map[string]any{"sha": sha}, &c); err != nil {
		return err
	}
	if c.SHA != sha {
		return ask.Garbled("POST /graphql", "another commit than the one that was asked for")
	}
	state, err := b.signature(ctx, sha)
	if err != nil {
		return err
	}
	subject, _, _ := strings.Cut(c.Message, "\n")
	f := &signing.CommitFacts{SHA: sha, Subject: ask.Clip(subject), Verified: state == "verified" || state == "verified_system" || state == "verified_ca"}
	if f.Authors, f.Unmapped, err = b.authors(ctx, []graphCommit{c}); err != nil {
		return err
	}
	b.facts.Commit = f
	return nil
}

// signature is GitLab's verdict on a commit's signature, "" if it has none.
func (b *build) signature(ctx context.Context, sha string) (string, error) {
	var s struct {
		Status string `json:"verification_status"`
	}
	err := b.ask(ctx, &s, nil, "read_api, as reporter of the project", "repository", "commits", sha, "signature")
	if errors.Is(err, signing.NotFound) {
		return "", nil
	}
	return s.Status, err
}

// coAuthor is a trailer of a commit message.
var coAuthor = regexp.MustCompile(`(?im)^[ \t]*co-authored-by:[ \t]*(.*?)[ \t]*<([^<>\n]*)>`)

// authors maps the authors, committers and co-authors of commits. GitLab says who
// the author is. For the others the same address is the same person, and GitLab's
// own private addresses name the id. Everybody else is unmapped.
func (b *build) authors(ctx context.Context, commits []graphCommit) (accounts []signing.Account, unmapped []string, err error) {
	byMail := map[string]signing.Account{}
	found := map[string]signing.Account{}
	for _, c := range commits {
		if c.Author == nil {
			continue
		}
		id, ok := strings.CutPrefix(c.Author.ID, "gid://gitlab/User/")
		if !ok || b.number(id, "the id of an account") != nil {
			return nil, nil, ask.Garbled("POST /graphql", "an author without an id")
		}
		a := signing.Account{Forge: b.host, ID: id, Login: c.Author.Username, Bot: c.Author.Bot}
		byMail[strings.ToLower(c.AuthorEmail)], found[id] = a, a
	}
	lost := map[string]bool{}
	other := func(name, mail string, c graphCommit, committer bool) error {
		a, ok := byMail[strings.ToLower(mail)]
		if !ok {
			if a, ok, err = b.private(ctx, mail); err != nil {
				return err
			}
		}
		if ok {
			found[a.ID] = a
			return nil
		}
		if committer {
			// A commit that GitLab made and signed itself: a merge on its page.
			state, err := b.signature(ctx, c.SHA)
			if err != nil || state == "verified_system" {
				return err
			}
		}
		lost[ask.Clip(strings.TrimSpace(name+" <"+mail+">"))] = true
		return nil
	}
	for _, c := range commits {
		if c.Author == nil {
			if err := other(c.AuthorName, c.AuthorEmail, c, false); err != nil {
				return nil, nil, err
			}
		}
		if !strings.EqualFold(c.CommitterEmail, c.AuthorEmail) {
			if err := other(c.CommitterName, c.CommitterEmail, c, true); err != nil {
				return nil, nil, err
			}
		}
		for _, m := range coAuthor.FindAllStringSubmatch(c.Message, -1) {
			if err := other(m[1], m[2], c, false); err != nil {
				return nil, nil, err
			}
		}
	}
	for _, a := range found {
		accounts = append(accounts, a)
	}
	slices.SortFunc(accounts, func(a, b signing.Account) int { return strings.Compare(a.ID, b.ID) })
	for name := range lost {
		unmapped = append(unmapped, name)
	}
	slices.Sort(unmapped)
	return accounts, unmapped, nil
}

// private reads a private commit address, ID-LOGIN@users.noreply.HOST.
func (b *build) private(ctx context.Context, mail string) (signing.Account, bool, error) {
	local, ok := strings.CutSuffix(strings.ToLower(mail), "@users.noreply."+strings.ToLower(b.host))
	id, _, dash := strings.Cut(local, "-")
	if !ok || !dash || b.number(id, "the id of an account") != nil {
		return signing.Account{}, false, nil
	}
	a, err := b.who(ctx, b.at.token, id)
	if errors.Is(err, signing.NotFound) {
		return signing.Account{}, false, nil
	}
	return a, err == nil, err
}

// pulls asks for the merge requests that hold the commit.
func (b *build) pulls(ctx context.Context) error {
	sha := b.o.SourceRepositoryDigest
	if b.sha(sha) != nil {
		return ask.Lacks("its commit")
	}
	all, err := b.merges(ctx, b.at, sha)
	if err != nil {
		return err
	}
	if len(all) > maxPulls {
		return &signing.Error{Code: signing.TooLarge, Message: "too many merge requests hold this commit", Expected: fmt.Sprintf("at most %d", maxPulls), Found: strconv.Itoa(len(all))}
	}
	f := &signing.PullFacts{Pulls: []signing.PullRequest{}}
	for _, m := range all {
		pr, err := b.pull(ctx, m)
		if err != nil {
			return err
		}
		f.Pulls = append(f.Pulls, *pr)
	}
	b.facts.Pulls = f
	return nil
}

func (b *build) pull(ctx context.Context, m mergeRequest) (*signing.PullRequest, error) {
	iid := strconv.FormatInt(m.IID, 10)
	pr := &signing.PullRequest{Number: iid, URL: m.WebURL, Open: m.State == "opened" || m.State == "locked", Merged: m.State == "merged", At: m.MergedAt.Time, Base: m.TargetBranch, Head: m.SHA}
	if pr.Merged {
		// Without a commit of its own, the merge was a fast-forward to the head.
		for _, sha := range []string{m.SHA, m.SquashCommit, m.MergeCommit} {
			if sha != "" {
				pr.Result = sha
			}
		}
	}
	var err error
	if pr.Author, err = b.someone(ctx, &m.Author); err != nil {
		return nil, err
	}
	merger := m.MergeUser
	if merger == nil {
		merger = m.MergedBy
	}
	if pr.Merger, err = b.someone(ctx, merger); err != nil {
		return nil, err
	}
	commits, err := b.commitsOf(ctx, iid)
	if err != nil {
		return nil, err
	}
	if pr.Authors, pr.Unmapped, err = b.authors(ctx, commits); err != nil {
		return nil, err
	}
	versions, err := list[diffVersion](ctx, b.Client, b.at.token, b.below("merge_requests", iid, "versions"), nil, maxVersions, "read_api, as reporter of the project")
	if err != nil {
		return nil, err
	}
	slices.SortFunc(versions, func(a, b diffVersion) int { return a.At.Time.Compare(b.At.Time) })
	if pr.Pushers, err = b.pushers(ctx, m, versions, commits); err != nil {
		return nil, err
	}
	pr.Reviews, err = b.reviews(ctx, iid, versions)
	return pr, err
}

type diffVersion struct {
	Head string `json:"head_commit_sha"`
	At   when   `json:"created_at"`
}

// commitsOf asks for the commits of a merge request.
func (b *build) commitsOf(ctx context.Context, iid string) ([]graphCommit, error) {
	var out []graphCommit
	for after := any(nil); ; {
		var page graphCommits
		if err := b.graph(ctx, "query($project:ID!,$iid:String!,$after:String){project(fullPath:$project){id mergeRequest(iid:$iid){commits(first:100,after:$after){nodes{"+graphFields+"} pageInfo{hasNextPage endCursor}}}}}", map[string]any{"iid": iid, "after": after}, &page); err != nil {
			return nil, err
		}
		out = append(out, page.Nodes...)
		switch {
		case len(out) > maxCommits:
			return nil, &signing.Error{Code: signing.TooLarge, Message: "merge request !" + iid + " has too many commits", Expected: fmt.Sprintf("at most %d", maxCommits)}
		case !page.PageInfo.HasNextPage:
			return out, nil
		case page.PageInfo.EndCursor == "" || page.PageInfo.EndCursor == after:
			return nil, ask.Garbled("POST /graphql", "pages that do not end")
		}
		after = page.PageInfo.EndCursor
	}
}

type pushEvent struct {
	Author *user `json:"author"`
	ID     int64 `json:"author_id"`
	At     when  `json:"created_at"`
	Push   struct {
		To string `json:"commit_to"`
	} `json:"push_data"`
}

// pushers returns who pushed commits of a merge request, from the push events of
// the project that they are in. It sets pushersUnknown where a version of the
// merge request has no such event.
func (b *build) pushers(ctx context.Context, m mergeRequest, versions []diffVersion, commits []graphCommit) ([]signing.Account, error) {
	unknown := func(why string) ([]signing.Account, error) {
		b.pushersUnknown = fmt.Sprintf("who pushed to merge request !%d: %s", m.IID, why)
		return nil, nil
	}
	if m.SourceProject <= 0 {
		return unknown("the fork that it is from is gone")
	}
	from, err := b.place(ctx, forge.Repository{ID: strconv.FormatInt(m.SourceProject, 10)})
	if err != nil {
		if ask.Permanent(err) {
			return unknown("the fork that it is from cannot be asked: " + signing.Public(err).Message)
		}
		return nil, err
	}
	q := query("action", "pushed", "after", m.CreatedAt.Add(-before).UTC().Format(time.DateOnly))
	if !m.MergedAt.IsZero() {
		q["before"] = []string{m.MergedAt.UTC().AddDate(0, 0, 2).Format(time.DateOnly)}
	}
	events, err := list[pushEvent](ctx, b.Client, from.token, ask.Path("projects", from.id, "events"), q, maxEvents, "read_api, as reporter of the project")
	if err != nil {
		if ask.Permanent(err) {
			return unknown(signing.Public(err).Message)
		}
		return nil, err
	}
	need, ours := map[string]bool{}, map[string]bool{}
	for _, v := range versions {
		need[v.Head], ours[v.Head] = true, true
	}
	for _, c := range commits {
		ours[c.SHA] = true
	}
	found := map[int64]signing.Account{}
	for _, e := range events {
		if !ours[e.Push.To] {
			continue
		}
		if e.Author == nil || e.Author.ID <= 0 {
			e.Author = &user{ID: e.ID}
		}
		if found[e.Author.ID], err = b.someone(ctx, e.Author); err != nil {
			return nil, err
		}
		if found[e.Author.ID].Known() {
			delete(need, e.Push.To)
		}
	}
	if len(versions) == 0 || len(need) > 0 {
		return unknown("GitLab has no push event for each of its versions")
	}
	out := make([]signing.Account, 0, len(found))
	for _, a := range found {
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b signing.Account) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// reviews returns the approvals by those who may write now, each at the head that
// the merge request had when it was given: GitLab does not say which.
func (b *build) reviews(ctx context.Context, iid string, versions []diffVersion) ([]signing.Review, error) {
	var got struct {
		By []struct {
			User *user `json:"user"`
			At   when  `json:"approved_at"`
		} `json:"approved_by"`
	}
	if err := b.ask(ctx, &got, nil, "read_api, as reporter of the project", "merge_requests", iid, "approvals"); err != nil {
		return nil, err
	}
	if len(got.By) > maxReviews {
		return nil, &signing.Error{Code: signing.TooLarge, Message: "merge request !" + iid + " has too many approvals", Expected: fmt.Sprintf("at most %d", maxReviews)}
	}
	var out []signing.Review
	for _, a := range got.By {
		if a.User == nil {
			continue
		}
		m, err := b.member(ctx, b.at.token, "projects", b.at.id, strconv.FormatInt(a.User.ID, 10))
		if err != nil {
			return nil, err
		}
		if !m.active(b.now(), int(gitlab.DeveloperPermissions)) {
			continue
		}
		r := signing.Review{Approved: true, At: a.At.Time}
		if r.By, err = b.someone(ctx, a.User); err != nil {
			return nil, err
		}
		for _, v := range versions {
			if !a.At.IsZero() && !v.At.After(a.At.Time) {
				r.Commit = v.Head
			}
		}
		out = append(out, r)
	}
	return out, nil
}
