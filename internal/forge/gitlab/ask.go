package gitlab

import (
	"context"
	"errors"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxVariables bounds those of one pipeline.
	maxVariables = 1000

	branches, tags = "refs/heads/", "refs/tags/"
)

// build is the question about one build, with the project found.
type build struct {
	*Client
	at    *place
	o     signing.Origin
	q     signing.ForgeQuestion
	arts  []signing.Artifact
	facts *signing.ForgeFacts
	// pushersUnknown is written by the part of the merge requests.
	pushersUnknown string

	once   sync.Once
	shield *shield // how the project is protected: one answer for all refs
	failed error
}

// Ask implements forge.Origin. Each part is asked for by itself: what one lacks, a
// role, an edition or the thing itself, is its Unknown. A forge that does not
// answer is the error of the whole.
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
	if b.pushersUnknown != "" {
		ask.Unknown(b.facts, signing.PartPushers, b.pushersUnknown)
	}
	return b.facts, nil
}

// ask is get of something below the project.
func (b *build) ask(ctx context.Context, out any, query url.Values, need string, segments ...string) error {
	_, err := b.get(ctx, b.at.token, b.below(segments...), query, out, need)
	return err
}

// below is the path of something below the project.
func (b *build) below(segments ...string) string {
	return ask.Path(append([]string{"projects", b.at.id}, segments...)...)
}

// someone is a user of an answer with whether it is a program, which most answers
// do not say. Who cannot be looked up any more is shown as named.
func (b *build) someone(ctx context.Context, u *user) (signing.Account, error) {
	if u == nil || u.ID <= 0 {
		return signing.Account{}, nil
	}
	id := strconv.FormatInt(u.ID, 10)
	a, err := b.who(ctx, b.at.token, id)
	if errors.Is(err, signing.NotFound) {
		return signing.Account{Forge: b.host, ID: id, Login: u.Username}, nil
	}
	return a, err
}

type pipeline struct {
	ID        int64  `json:"id"`
	ProjectID int64  `json:"project_id"`
	SHA       string `json:"sha"`
	Ref       string `json:"ref"`
	Status    string `json:"status"`
	Source    string `json:"source"`
	User      *user  `json:"user"`
}

type job struct {
	ID         int64    `json:"id"`
	Name       string   `json:"name"`
	Status     string   `json:"status"`
	User       *user    `json:"user"`
	Tags       []string `json:"tag_list"`
	CreatedAt  when     `json:"created_at"`
	FinishedAt when     `json:"finished_at"`
	WebURL     string   `json:"web_url"`
	Pipeline   struct {
		ID        int64 `json:"id"`
		ProjectID int64 `json:"project_id"`
	} `json:"pipeline"`
	Runner *struct {
		ID   int64  `json:"id"`
		Type string `json:"runner_type"`
	} `json:"runner"`
}

// found asks for the pipeline of the build.
func (b *build) pipeline(ctx context.Context) (pipeline, error) {
	var r pipeline
	if err := b.number(b.o.RunID, "the id of a pipeline"); err != nil {
		return r, ask.Lacks("its pipeline")
	}
	if err := b.ask(ctx, &r, nil, "read_api, as reporter of the project", "pipelines", b.o.RunID); err != nil {
		return r, err
	}
	if strconv.FormatInt(r.ID, 10) != b.o.RunID || r.SHA == "" || r.ProjectID <= 0 {
		return r, ask.Garbled("GET /pipelines/"+b.o.RunID, "another pipeline than the one that was asked for")
	}
	return r, nil
}

// run asks for the pipeline and the job. The person who started a job again is
// the job's user, while the pipeline keeps who started it.
func (b *build) run(ctx context.Context) error {
	r, err := b.pipeline(ctx)
	if err != nil {
		return err
	}
	f := &signing.RunFacts{
		RepositoryID: strconv.FormatInt(r.ProjectID, 10), ID: strconv.FormatInt(r.ID, 10), Attempt: b.o.RunAttempt,
		Commit: r.SHA, Ref: r.Ref, Event: r.Source, Status: r.Status, Running: r.Status == "running",
	}
	if f.HeadRepositoryID, err = b.source(ctx, r); err != nil {
		return err
	}
	if f.Actor, err = b.someone(ctx, r.User); err != nil {
		return err
	}
	f.Restarter = f.Actor
	if b.o.JobID != "" {
		if err := b.job(ctx, f); err != nil {
			return err
		}
	}
	b.facts.Run = f
	return nil
}

// job adds what is known of the job. One of another pipeline stays empty and is
// not running.
func (b *build) job(ctx context.Context, f *signing.RunFacts) error {
	if err := b.number(b.o.JobID, "the id of a job"); err != nil {
		return ask.Lacks("its job")
	}
	var j job
	err := b.ask(ctx, &j, nil, "read_api, as reporter of the project", "jobs", b.o.JobID)
	if err != nil && !errors.Is(err, signing.NotFound) {
		return err
	}
	if err != nil || strconv.FormatInt(j.ID, 10) != b.o.JobID || strconv.FormatInt(j.Pipeline.ID, 10) != f.ID {
		return nil
	}
	f.JobID, f.JobRunning, f.RunnerLabels = b.o.JobID, j.Status == "running", j.Tags
	if j.Runner != nil && j.Runner.ID > 0 {
		f.RunnerID, f.RunnerGroup = strconv.FormatInt(j.Runner.ID, 10), j.Runner.Type
	}
	if j.User != nil {
		f.Restarter, err = b.someone(ctx, j.User)
		return err
	}
	return nil
}

// merging is the ref of a pipeline of a merge request.
var merging = regexp.MustCompile(`^refs/merge-requests/([1-9][0-9]*)/(head|merge|train)$`)

// source returns the id of the project that the commit of a pipeline is from: a
// pipeline of a merge request can run in the parent with the commit of a fork.
func (b *build) source(ctx context.Context, r pipeline) (string, error) {
	found := merging.FindStringSubmatch(r.Ref)
	if found == nil {
		if strings.HasPrefix(r.Ref, "refs/") || r.Source == "merge_request_event" || r.Source == "external_pull_request_event" {
			return "", nil // not told: a no where it is asked for
		}
		return strconv.FormatInt(r.ProjectID, 10), nil
	}
	var m mergeRequest
	if err := b.ask(ctx, &m, nil, "read_api, as reporter of the project", "merge_requests", found[1]); err != nil {
		if errors.Is(err, signing.NotFound) {
			return "", nil
		}
		return "", err
	}
	if m.SourceProject <= 0 {
		return "", nil // the fork is gone
	}
	return strconv.FormatInt(m.SourceProject, 10), nil
}

// header is the beginning of a configuration that declares inputs: a document of
// its own before the jobs.
var header = regexp.MustCompile(`(?m)^["']?spec["']?[ \t]*:`)

// inputs names the variables that the pipeline was given. Which inputs it was
// given GitLab does not tell: a configuration that takes some is an Unknown.
func (b *build) inputs(ctx context.Context) error {
	r, err := b.pipeline(ctx)
	if err != nil {
		return err
	}
	all, err := list[struct {
		Key string `json:"key"`
	}](ctx, b.Client, b.at.token, b.below("pipelines", b.o.RunID, "variables"), nil, maxVariables, "read_api, as maintainer of the project")
	if err != nil {
		return err
	}
	where, err := b.config(ctx)
	if err != nil {
		return err
	}
	text, _, err := b.file(ctx, where, r.SHA)
	if err != nil {
		return err
	}
	if header.Match(text) {
		return &signing.Error{Code: signing.Invalid, Message: "which inputs the pipeline was given cannot be told", Expected: "a configuration that takes none", Found: where + " has a spec", Fix: "take `spec: inputs` out of the CI configuration, or use variables"}
	}
	f := &signing.InputFacts{Names: []string{}}
	for _, v := range all {
		f.Names = append(f.Names, v.Key)
	}
	slices.Sort(f.Names)
	f.Names = slices.Compact(f.Names)
	b.facts.Inputs = f
	return nil
}

// Compare implements forge.Origin.
func (c *Client) Compare(ctx context.Context, r forge.Repository, from, to string) (forge.Comparison, error) {
	p, err := c.place(ctx, r)
	if err != nil {
		return forge.Comparison{}, err
	}
	if err := errors.Join(c.sha(from), c.sha(to)); err != nil {
		return forge.Comparison{}, err
	}
	base, err := c.base(ctx, p, from, to)
	if err != nil {
		return forge.Comparison{}, err
	}
	var got struct {
		Commits []struct {
			Title string `json:"title"`
		} `json:"commits"`
		Timeout bool `json:"compare_timeout"`
	}
	if _, err := c.get(ctx, p.token, ask.Path("projects", p.id, "repository", "compare"), query("from", from, "to", to), &got, "read_api, as reporter of the project"); err != nil {
		return forge.Comparison{}, err
	}
	const subjects = 10
	out := forge.Comparison{Commits: len(got.Commits), Diverged: base != from, URL: p.web + "/-/compare/" + from + "..." + to}
	for _, m := range slices.Backward(got.Commits) { // the newest are last
		if len(out.Subjects) < subjects {
			out.Subjects = append(out.Subjects, m.Title)
		}
	}
	return out, nil
}

// base returns the merge base of two commits, "" if they have none.
func (c *Client) base(ctx context.Context, p *place, a, b string) (string, error) {
	var m commit
	_, err := c.get(ctx, p.token, ask.Path("projects", p.id, "repository", "merge_base"), query("refs[]", a, "refs[]", b), &m, "read_api, as reporter of the project")
	if err != nil && errors.Is(err, signing.NotFound) {
		return "", nil
	}
	return m.ID, err
}
