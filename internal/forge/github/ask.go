package github

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/google/go-github/v60/github"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxJobs bounds the jobs of a run: a matrix has at most 256, a workflow some.
	maxJobs = 1_000
	// maxApprovals bounds the deployment approvals of a run.
	maxApprovals = 500
)

var (
	_ forge.Origin  = (*Client)(nil)
	_ forge.Checker = (*Client)(nil)
)

// build is the question about one build, with the repository found.
type build struct {
	*Client
	at    *place
	o     signing.Origin
	q     signing.ForgeQuestion
	arts  []signing.Artifact
	facts *signing.ForgeFacts
	// pushersUnknown is written by the part of the pull requests.
	pushersUnknown string
}

// Ask implements forge.Origin. Each part is asked for by itself: what one lacks,
// a permission or the thing itself, is its Unknown. A forge that does not answer
// is the error of the whole.
func (c *Client) Ask(ctx context.Context, o signing.Origin, artifacts []signing.Artifact, q signing.ForgeQuestion) (*signing.ForgeFacts, error) {
	if err := ask.OfForge(c.host, "a build", o.Forge); err != nil {
		return nil, err
	}
	first, found := ask.Recorded(ctx)
	at, err := c.place(first, forge.Repository{ID: o.SourceRepositoryIdentifier, Name: o.SourceRepository})
	if err != nil {
		return nil, err
	}
	b := &build{Client: c, at: at, o: o, q: q, arts: artifacts, facts: &signing.ForgeFacts{Forge: c.host, At: c.now().UTC()}}
	b.facts.Asked = found.List()
	if err := ask.Answer(ctx, q, o.SourceRepositoryRef, b.facts, ask.Parts{
		Run: b.run, Ref: b.ref, Pulls: b.pulls, Commit: b.commit, Environment: b.environment, Checks: b.checks, Inputs: b.inputs,
		Attestation: b.attestations, WorkflowFile: b.workflowFiles, PolicyFile: b.policyFile, Builder: b.builder,
	}); err != nil {
		return nil, err
	}
	if err := b.stillNamed(ctx); err != nil {
		return nil, err
	}
	if b.pushersUnknown != "" {
		ask.Unknown(b.facts, signing.PartPushers, b.pushersUnknown)
	}
	return b.facts, nil
}

// stillNamed makes sure that the name belonged to the repository all the time:
// what was asked by it of another one would be another one's answers.
func (b *build) stillNamed(ctx context.Context) error {
	if b.now().Sub(b.at.checked) < nameFresh {
		return nil
	}
	p, err := b.place(ctx, forge.Repository{ID: b.o.SourceRepositoryIdentifier, Name: b.o.SourceRepository})
	if err == nil && (p.owner != b.at.owner || p.name != b.at.name) {
		err = &signing.Error{Code: signing.Unavailable, Message: "the repository was renamed while it was asked about", Fix: "it is asked again"}
	}
	return err
}

// user is an account as the API returns it; nil where the account is gone.
type user struct {
	ID    int64  `json:"id"`
	Login string `json:"login"`
	Type  string `json:"type"`
}

// account returns the zero Account for nobody.
func (c *Client) account(u *user) signing.Account {
	if u == nil || u.ID <= 0 {
		return signing.Account{}
	}
	return signing.Account{Forge: c.host, ID: strconv.FormatInt(u.ID, 10), Login: u.Login, Bot: u.Type != "User"}
}

// run asks for the attempt of the run, and for the job.
func (b *build) run(ctx context.Context) error {
	if b.o.RunID == "" || b.o.RunAttempt == "" {
		return ask.Lacks("the run and its attempt")
	}
	var r struct {
		ID         int64       `json:"id"`
		Attempt    int64       `json:"run_attempt"`
		SHA        string      `json:"head_sha"`
		Branch     string      `json:"head_branch"`
		Event      string      `json:"event"`
		Path       string      `json:"path"`
		Status     string      `json:"status"`
		Actor      *user       `json:"actor"`
		Restarter  *user       `json:"triggering_actor"`
		Repository *repository `json:"repository"`
		Head       *repository `json:"head_repository"`
		Referenced []struct {
			Path string `json:"path"`
			SHA  string `json:"sha"`
			Ref  string `json:"ref"`
		} `json:"referenced_workflows"`
	}
	base := []string{"repos", b.at.owner, b.at.name, "actions", "runs", b.o.RunID, "attempts", b.o.RunAttempt}
	if err := b.get(ctx, b.at.client, ask.Path(base...), nil, &r, "actions: read"); err != nil {
		return err
	}
	if r.ID <= 0 || r.Repository == nil || r.Repository.ID <= 0 || r.SHA == "" {
		return ask.Garbled("run "+b.o.RunID, "it has no id, commit or repository")
	}
	f := &signing.RunFacts{
		RepositoryID: strconv.FormatInt(r.Repository.ID, 10), ID: strconv.FormatInt(r.ID, 10), Attempt: strconv.FormatInt(r.Attempt, 10),
		Commit: r.SHA, Ref: r.Branch, Event: r.Event, Status: r.Status, Running: r.Status == "in_progress",
		Actor: b.account(r.Actor), Restarter: b.account(r.Restarter),
	}
	// "PATH@REF" for workflows that rules require of a repository.
	f.Path, _, _ = strings.Cut(r.Path, "@")
	if r.Head != nil && r.Head.ID > 0 {
		f.HeadRepositoryID = strconv.FormatInt(r.Head.ID, 10)
	}
	for _, w := range r.Referenced {
		p, _, _ := strings.Cut(w.Path, "@")
		f.Referenced = append(f.Referenced, signing.WorkflowRef{Path: p, SHA: w.SHA, Ref: w.Ref})
	}
	if b.o.JobID != "" {
		if err := b.job(ctx, ask.Path(append(base, "jobs")...), f); err != nil {
			return err
		}
	}
	b.facts.Run = f
	return nil
}

// job finds the job by the id of its check run, which is what the token names. A
// job that is not among those of the attempt stays empty and is not running.
func (b *build) job(ctx context.Context, jobs string, f *signing.RunFacts) error {
	type job struct {
		ID          int64    `json:"id"`
		Status      string   `json:"status"`
		CheckRunURL string   `json:"check_run_url"`
		RunnerID    *int64   `json:"runner_id"`
		RunnerGroup *string  `json:"runner_group_name"`
		Labels      []string `json:"labels"`
	}
	all, err := wrapped[job](ctx, b.Client, b.at.client, jobs, nil, "jobs", maxJobs, "actions: read")
	if err != nil {
		return err
	}
	for _, j := range all {
		if !strings.HasSuffix(j.CheckRunURL, "/check-runs/"+b.o.JobID) {
			continue
		}
		f.JobID, f.JobRunning, f.RunnerLabels = b.o.JobID, j.Status == "in_progress", j.Labels
		if j.RunnerID != nil && *j.RunnerID > 0 {
			f.RunnerID = strconv.FormatInt(*j.RunnerID, 10)
		}
		if j.RunnerGroup != nil {
			f.RunnerGroup = *j.RunnerGroup
		}
	}
	return nil
}

// environment asks for the environment that the job names, and who approved its
// deployment.
func (b *build) environment(ctx context.Context) error {
	if b.o.DeploymentEnvironment == "" {
		return ask.Lacks("an environment")
	}
	var e struct {
		Name  string `json:"name"`
		Rules []struct {
			Type      string `json:"type"`
			NoSelf    bool   `json:"prevent_self_review"`
			Reviewers []struct {
				Type string `json:"type"`
			} `json:"reviewers"`
		} `json:"protection_rules"`
		Policy *struct {
			Protected bool `json:"protected_branches"`
			Custom    bool `json:"custom_branch_policies"`
		} `json:"deployment_branch_policy"`
	}
	base := ask.Path("repos", b.at.owner, b.at.name, "environments", b.o.DeploymentEnvironment)
	f := &signing.EnvironmentFacts{Name: b.o.DeploymentEnvironment}
	switch err := b.get(ctx, b.at.client, base, nil, &e, "actions: read"); {
	case errors.Is(err, signing.NotFound):
		b.facts.Environment = f
		return nil
	case err != nil:
		return err
	case !strings.EqualFold(e.Name, f.Name): // GitHub's names are without case
		return ask.Garbled("environment "+ask.Clip(f.Name), "it is another one")
	}
	f.Exists = true
	for _, r := range e.Rules {
		if r.Type == "required_reviewers" && len(r.Reviewers) > 0 {
			// One of those who are listed has to approve; GitHub knows no quorum.
			f.Reviewers, f.Required = f.Reviewers+len(r.Reviewers), 1
			f.NoSelfReview = r.NoSelf
		}
	}
	if e.Policy != nil {
		f.ProtectedOnly = e.Policy.Protected
		if e.Policy.Custom {
			type policy struct {
				Name string `json:"name"`
				Type string `json:"type"`
			}
			ps, err := wrapped[policy](ctx, b.Client, b.at.client, base+"/deployment-branch-policies", nil, "branch_policies", maxApprovals, "actions: read")
			if err != nil {
				return err
			}
			for _, p := range ps {
				if p.Type == "tag" {
					f.BranchPatterns = append(f.BranchPatterns, "refs/tags/"+p.Name)
				} else {
					f.BranchPatterns = append(f.BranchPatterns, "refs/heads/"+p.Name)
				}
			}
		}
	}
	if err := b.deployments(ctx, f); err != nil {
		return err
	}
	b.facts.Environment = f
	return nil
}

// deployments adds who approved the run's deployment to the environment. The
// forge keeps no dates, and no attempt: it is a fact about the run.
func (b *build) deployments(ctx context.Context, f *signing.EnvironmentFacts) error {
	if b.o.RunID == "" {
		return nil
	}
	type approval struct {
		State        string `json:"state"`
		User         *user  `json:"user"`
		Environments []struct {
			Name string `json:"name"`
		} `json:"environments"`
	}
	all, err := list[approval](ctx, b.Client, b.at.client, ask.Path("repos", b.at.owner, b.at.name, "actions", "runs", b.o.RunID, "approvals"), nil, maxApprovals, "actions: read")
	if err != nil {
		return err
	}
	for _, a := range all {
		for _, e := range a.Environments {
			if by := b.account(a.User); strings.EqualFold(e.Name, f.Name) && by.Known() && (a.State == "approved" || a.State == "rejected") {
				f.Approved = append(f.Approved, signing.Review{By: by, Approved: a.State == "approved"})
			}
		}
	}
	return nil
}

// builder asks for the id of the repository that a reusable workflow is in.
func (b *build) builder(ctx context.Context) error {
	owner, name, ok := strings.Cut(b.q.BuilderRepository, "/")
	if !ok || owner == "" || name == "" || strings.Contains(name, "/") {
		return &signing.Error{Code: signing.Invalid, Message: "not a repository on " + b.host, Expected: "OWNER/NAME", Found: ask.Clip(b.q.BuilderRepository)}
	}
	g, err := b.named(ctx, owner, name)
	if err != nil {
		return err
	}
	var r repository
	if err := b.get(ctx, g, ask.Path("repos", owner, name), nil, &r, "metadata: read"); err != nil {
		return err
	}
	if r.ID <= 0 {
		return ask.Garbled("repository "+ask.Clip(b.q.BuilderRepository), "it has no id")
	}
	if !strings.EqualFold(r.FullName, owner+"/"+name) {
		// A redirect after a rename: the name in the token is not its name now.
		return &signing.Error{Code: signing.NotFound, Message: "there is no repository " + ask.Clip(b.q.BuilderRepository) + " on " + b.host, Found: ask.Clip(r.FullName)}
	}
	b.facts.Builder = &signing.BuilderFacts{Repository: r.FullName, ID: strconv.FormatInt(r.ID, 10)}
	return nil
}

// named returns who may ask about another repository: the App where it is
// installed on it, else the build's own installation, which sees public ones.
func (b *build) named(ctx context.Context, owner, name string) (*github.Client, error) {
	if strings.EqualFold(owner, b.at.owner) && strings.EqualFold(name, b.at.name) {
		return b.at.client, nil
	}
	for _, a := range b.apps {
		var found struct {
			ID int64 `json:"id"`
		}
		err := b.get(ctx, a.jwt, ask.Path("repos", owner, name, "installation"), nil, &found, "")
		switch {
		case errors.Is(err, signing.NotFound):
			continue
		case err != nil:
			return nil, err
		case found.ID > 0 && (len(a.only) == 0 || a.only[found.ID]):
			return b.installed(a, found.ID), nil
		}
	}
	return b.at.client, nil
}
