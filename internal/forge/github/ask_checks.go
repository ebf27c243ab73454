package github

import (
	"context"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxChecks bounds check runs of one name, and statuses of a commit: GitHub
	// keeps 1,000 for each.
	maxChecks = 1_000
	// maxCheckNames bounds the names that are asked for, each a request.
	maxCheckNames = 50
)

// checkRun is one check run.
type checkRun struct {
	ID         int64  `json:"id"`
	Name       string `json:"name"`
	SHA        string `json:"head_sha"`
	Status     string `json:"status"`
	Conclusion string `json:"conclusion"`
	URL        string `json:"html_url"`
	Started    string `json:"started_at"`
	Completed  string `json:"completed_at"`
	App        *struct {
		ID   int64  `json:"id"`
		Slug string `json:"slug"`
	} `json:"app"`
}

// checks asks for the newest check run of each name and App, and for the newest
// status of each context.
func (b *build) checks(ctx context.Context) error {
	if !ask.IsCommit(b.o.SourceRepositoryDigest) {
		return ask.Lacks("a commit")
	}
	if len(b.q.CheckNames) > maxCheckNames {
		return &signing.Error{Code: signing.TooLarge, Message: "the policy names too many checks", Expected: "at most " + strconv.Itoa(maxCheckNames)}
	}
	queries := []url.Values{{"filter": {"latest"}}}
	if len(b.q.CheckNames) > 0 {
		queries = nil
		for _, n := range b.q.CheckNames {
			queries = append(queries, url.Values{"filter": {"latest"}, "check_name": {n}})
		}
	}
	f := &signing.CheckFacts{Checks: []signing.CheckResult{}}
	base := ask.Path("repos", b.at.owner, b.at.name, "commits", b.o.SourceRepositoryDigest)
	newest := map[string]checkRun{}
	for _, q := range queries {
		runs, err := wrapped[checkRun](ctx, b.Client, b.at.client, base+"/check-runs", q, "check_runs", maxChecks, "checks: read")
		if err != nil {
			return err
		}
		for _, r := range runs {
			if r.SHA != b.o.SourceRepositoryDigest || r.App == nil || r.ID <= 0 {
				continue
			}
			key := strconv.FormatInt(r.App.ID, 10) + " " + r.Name
			if r.ID > newest[key].ID {
				newest[key] = r
			}
		}
	}
	for _, r := range newest {
		f.Checks = append(f.Checks, r.result())
	}
	slices.SortFunc(f.Checks, func(x, y signing.CheckResult) int { return strings.Compare(x.Name+" "+x.AppID, y.Name+" "+y.AppID) })
	if err := b.statuses(ctx, base, f); err != nil {
		return err
	}
	b.facts.Checks = f
	return nil
}

func (r checkRun) result() signing.CheckResult {
	out := signing.CheckResult{
		Name: r.Name, Kind: "check_run", App: r.App.Slug, AppID: strconv.FormatInt(r.App.ID, 10), Done: r.Status == "completed",
		State: r.Status, At: stamp(r.Started), URL: r.URL,
	}
	if out.Done {
		out.OK, out.State = r.Conclusion == "success", r.Conclusion
		out.At = stamp(r.Completed)
	}
	return out
}

// statuses adds the newest status of each context. Contexts are without case.
func (b *build) statuses(ctx context.Context, base string, f *signing.CheckFacts) error {
	type status struct {
		ID      int64  `json:"id"`
		State   string `json:"state"`
		Context string `json:"context"`
		URL     string `json:"target_url"`
		At      string `json:"created_at"`
		Creator *user  `json:"creator"`
	}
	all, err := list[status](ctx, b.Client, b.at.client, base+"/statuses", nil, maxChecks, "statuses: read")
	if err != nil {
		return err
	}
	newest := map[string]status{}
	var order []string
	for _, s := range all {
		key := strings.ToLower(s.Context)
		if len(b.q.CheckNames) > 0 && !slices.ContainsFunc(b.q.CheckNames, func(n string) bool { return strings.EqualFold(n, s.Context) }) {
			continue
		}
		if _, ok := newest[key]; !ok {
			order = append(order, key)
		}
		if s.ID > newest[key].ID {
			newest[key] = s
		}
	}
	slices.Sort(order)
	for _, key := range order {
		s := newest[key]
		by := b.account(s.Creator)
		f.Checks = append(f.Checks, signing.CheckResult{
			Name: s.Context, Kind: "status", App: by.Login, AppID: by.ID, Done: s.State == "success" || s.State == "failure" || s.State == "error",
			OK: s.State == "success", State: s.State, At: stamp(s.At), URL: s.URL,
		})
	}
	return nil
}
