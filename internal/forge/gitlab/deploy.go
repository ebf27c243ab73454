package gitlab

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxDeployments bounds those of one environment that are looked through for the
	// job's, newest first.
	maxDeployments = 1000
	// maxPipelines bounds the pipelines of one commit.
	maxPipelines = 50
	// maxJobs bounds the jobs of one pipeline.
	maxJobs = 2000
	// jobsApp says that a job of GitLab's own CI is the source of a check. No account
	// can have that name.
	jobsApp = "gitlab:ci"
)

// environment asks for the environment that the job names, and who approved the
// job's deployment.
func (b *build) environment(ctx context.Context) error {
	name := b.o.DeploymentEnvironment
	if name == "" {
		return ask.Lacks("an environment")
	}
	f := &signing.EnvironmentFacts{Name: name}
	there, err := list[struct {
		Name string `json:"name"`
	}](ctx, b.Client, b.at.token, b.below("environments"), query("name", name), maxDeployments, "read_api, as reporter of the project")
	if err != nil {
		return err
	}
	for _, e := range there {
		f.Exists = f.Exists || e.Name == name
	}
	if !f.Exists {
		b.facts.Environment = f
		return nil
	}
	if err := b.protected(ctx, f); err != nil {
		return err
	}
	if f.Approved, err = b.deployment(ctx, name); err != nil {
		return err
	}
	b.facts.Environment = f
	return nil
}

// protected adds how many have to approve a deployment. One person may satisfy
// several rules: the largest number is what is needed at least. GitLab restricts
// by role and not by branch.
func (b *build) protected(ctx context.Context, f *signing.EnvironmentFacts) error {
	const need = "read_api, as maintainer of the project"
	var e struct {
		Name     string `json:"name"`
		Required int    `json:"required_approval_count"`
		Rules    []struct {
			Required int `json:"required_approvals"`
		} `json:"approval_rules"`
	}
	err := b.ask(ctx, &e, nil, need, "protected_environments", f.Name)
	if errors.Is(err, signing.NotFound) {
		return nil // not protected, or an edition that protects none: nobody has to approve
	}
	if err != nil {
		return err
	}
	if e.Name != f.Name {
		return ask.Garbled("GET /protected_environments", "another environment than the one that was asked for")
	}
	f.Required = max(e.Required, 0)
	for _, r := range e.Rules {
		f.Required = max(f.Required, r.Required)
	}
	f.Reviewers = max(f.Required, len(e.Rules))
	var p struct {
		Trigger *bool `json:"allow_pipeline_trigger_approve_deployment"`
	}
	if err := b.ask(ctx, &p, nil, need); err != nil {
		return err
	}
	f.NoSelfReview = f.Required > 0 && p.Trigger != nil && !*p.Trigger
	return nil
}

// deployment finds the deployment of the job and who approved it. Approvals are in
// the answer for one deployment only.
func (b *build) deployment(ctx context.Context, environment string) ([]signing.Review, error) {
	if b.o.JobID == "" {
		return nil, nil
	}
	type deployment struct {
		ID         int64 `json:"id"`
		Deployable struct {
			ID int64 `json:"id"`
		} `json:"deployable"`
		Approvals []struct {
			User   *user  `json:"user"`
			Status string `json:"status"`
			At     when   `json:"created_at"`
		} `json:"approvals"`
	}
	is := func(d deployment) bool { return strconv.FormatInt(d.Deployable.ID, 10) == b.o.JobID }
	all, err := listWhile(ctx, b.Client, b.at.token, b.below("deployments"), query("environment", environment, "order_by", "id", "sort", "desc"), maxDeployments, "read_api, as reporter of the project", func(d deployment) bool { return !is(d) })
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(all, is)
	if at < 0 {
		return nil, nil
	}
	var d deployment
	if err := b.ask(ctx, &d, nil, "read_api, as reporter of the project", "deployments", strconv.FormatInt(all[at].ID, 10)); err != nil {
		return nil, err
	}
	if !is(d) {
		return nil, ask.Garbled("GET /deployments", "another deployment than the one that was asked for")
	}
	var out []signing.Review
	for _, a := range d.Approvals {
		by, err := b.someone(ctx, a.User)
		if err != nil {
			return nil, err
		}
		out = append(out, signing.Review{By: by, Approved: a.Status == "approved", At: a.At.Time})
	}
	return out, nil
}

// checks asks for the jobs of the commit's pipelines and for the statuses that
// others set, the newest of each name and source.
func (b *build) checks(ctx context.Context) error {
	sha := b.o.SourceRepositoryDigest
	if b.sha(sha) != nil {
		return ask.Lacks("its commit")
	}
	const need = "read_api, as reporter of the project"
	runs, err := list[pipeline](ctx, b.Client, b.at.token, b.below("pipelines"), query("sha", sha), maxPipelines, need)
	if err != nil {
		return err
	}
	children, err := list[pipeline](ctx, b.Client, b.at.token, b.below("pipelines"), query("sha", sha, "source", "parent_pipeline"), maxPipelines, need)
	if err != nil {
		return err
	}
	found := map[string]signing.CheckResult{}
	age := map[string]int64{} // ids grow
	put := func(c signing.CheckResult, id int64) {
		key := c.Kind + "\x00" + c.Name + "\x00" + c.AppID + "\x00" + c.App
		if b.wants(c.Name) && id > age[key] {
			found[key], age[key] = c, id
		}
	}
	isJob := map[int64]bool{}
	for _, r := range append(runs, children...) {
		if r.SHA != sha || r.Source == "external" {
			continue
		}
		at := b.below("pipelines", strconv.FormatInt(r.ID, 10))
		jobs, err := list[job](ctx, b.Client, b.at.token, at+"/jobs", query("include_retried", "true"), maxJobs, need)
		if err != nil {
			return err
		}
		bridges, err := list[job](ctx, b.Client, b.at.token, at+"/bridges", nil, maxJobs, need)
		if err != nil {
			return err
		}
		for _, j := range bridges {
			isJob[j.ID] = true // listed among statuses, and nobody's word
		}
		for _, j := range jobs {
			isJob[j.ID] = true
			at := j.FinishedAt
			if at.IsZero() {
				at = j.CreatedAt
			}
			put(signing.CheckResult{Name: j.Name, Kind: "job", App: jobsApp, Done: over(j.Status), OK: j.Status == "success", State: j.Status, At: at.Time, URL: j.WebURL}, j.ID)
		}
	}
	statuses, err := list[commitStatus](ctx, b.Client, b.at.token, b.below("repository", "commits", sha, "statuses"), query("all", "true"), maxStatuses, need)
	if err != nil {
		return err
	}
	for _, s := range statuses {
		// Jobs are listed here too. All statuses are asked for: without that, GitLab
		// shows one that somebody else set with the same name in place of another.
		if isJob[s.ID] || s.SHA != sha {
			continue
		}
		at := s.FinishedAt
		if at.IsZero() {
			at = s.CreatedAt
		}
		put(signing.CheckResult{Name: s.Name, Kind: "status", App: s.Author.Username, AppID: strconv.FormatInt(s.Author.ID, 10), Done: over(s.Status), OK: s.Status == "success", State: s.Status, At: at.Time, URL: s.TargetURL}, s.ID)
	}
	f := &signing.CheckFacts{Checks: []signing.CheckResult{}}
	for _, c := range found {
		f.Checks = append(f.Checks, c)
	}
	slices.SortFunc(f.Checks, func(a, b signing.CheckResult) int {
		return strings.Compare(a.Name+"\x00"+a.Kind+"\x00"+a.AppID, b.Name+"\x00"+b.Kind+"\x00"+b.AppID)
	})
	b.facts.Checks = f
	return nil
}

// wants reports whether a check of that name is asked for.
func (b *build) wants(name string) bool {
	return len(b.q.CheckNames) == 0 || slices.Contains(b.q.CheckNames, name)
}

// over reports whether a job or status of that state has ended.
func over(status string) bool {
	return slices.Contains([]string{"success", "failed", "canceled", "skipped"}, status)
}
