package devworld

import (
	"fmt"
	"maps"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Times of tokens, as the platforms' own documentation shows them.
const (
	githubBackdate = 10 * time.Minute // nbf = iat - 600
	githubLifetime = 5 * time.Minute  // exp = iat + 300
	gitlabBackdate = 5 * time.Second
	gitlabLifetime = time.Hour // the job's timeout
)

// GitHubJob is what GitHub knows of one job and says of it in its token. Start
// from NewGitHubJob and change what matters; every claim can then be overridden
// by Claims.
type GitHubJob struct {
	Repository   string `json:"repository"` // owner/name
	RepositoryID string `json:"repository_id"`
	OwnerID      string `json:"owner_id"`
	Visibility   string `json:"visibility"`
	Ref          string `json:"ref"`
	RefProtected bool   `json:"ref_protected"`
	SHA          string `json:"sha"`
	Event        string `json:"event"`
	HeadRef      string `json:"head_ref"`
	BaseRef      string `json:"base_ref"`
	Workflow     string `json:"workflow"` // path of the file in the repository
	// Builder is the called reusable workflow, OWNER/NAME/PATH@REF; empty is the
	// job's own workflow. BuilderSHA goes with it.
	Builder     string `json:"builder"`
	BuilderSHA  string `json:"builder_sha"`
	Environment string `json:"environment"`
	Runner      string `json:"runner"`
	RunID       string `json:"run_id"`
	RunNumber   string `json:"run_number"`
	RunAttempt  string `json:"run_attempt"`
	CheckRunID  string `json:"check_run_id"`
	Job         string `json:"job"` // key of the job in the workflow file
	Actor       string `json:"actor"`
	ActorID     string `json:"actor_id"`
	// ImmutableSubject selects the id-based form of `sub`, the default for
	// repositories made after 2026-07-15.
	ImmutableSubject bool `json:"immutable_subject"`
	// Overrides replaces claims; null leaves a claim out.
	Overrides map[string]any `json:"claims"`
}

// NewGitHubJob returns a push to the protected main branch of acme/payments-web,
// built by its release workflow on a GitHub-hosted runner.
func NewGitHubJob() GitHubJob {
	return GitHubJob{
		Repository: "acme/payments-web", RepositoryID: "74", OwnerID: "65", Visibility: "private",
		Ref: "refs/heads/main", RefProtected: true, SHA: "6dcb09b5b57875f334f61aebed695e2e4193db5e", Event: "push",
		Workflow: ".github/workflows/release.yml", Runner: "github-hosted",
		RunID: "9001", RunNumber: "10", RunAttempt: "1", CheckRunID: "51001", Job: "release",
		Actor: "octocat", ActorID: "12",
	}
}

// PullRequestTarget turns j into the job of a pull request from a fork that runs
// with `pull_request_target`: since 2025-12-08 every claim but event_name is
// that of a push to the default branch.
func (j GitHubJob) PullRequestTarget() GitHubJob {
	j.Event = "pull_request_target"
	j.HeadRef, j.BaseRef = "patch-1", strings.TrimPrefix(j.Ref, "refs/heads/")
	j.Actor, j.ActorID = "stranger", "666"
	return j
}

func (j GitHubJob) owner() string { o, _, _ := strings.Cut(j.Repository, "/"); return o }

func (j GitHubJob) refType() string {
	if strings.HasPrefix(j.Ref, "refs/tags/") {
		return "tag"
	}
	return "branch"
}

// subject returns the default `sub`. ':' inside a value is written %3A.
func (j GitHubJob) subject() string {
	repository := j.Repository
	if j.ImmutableSubject {
		_, name, _ := strings.Cut(j.Repository, "/")
		repository = j.owner() + "@" + j.OwnerID + "/" + name + "@" + j.RepositoryID
	}
	colon := strings.NewReplacer(":", "%3A")
	switch {
	case j.Environment != "":
		return "repo:" + repository + ":environment:" + colon.Replace(j.Environment)
	case j.Event == "pull_request" || j.Event == "pull_request_target":
		return "repo:" + repository + ":pull_request"
	default:
		return "repo:" + repository + ":ref:" + colon.Replace(j.Ref)
	}
}

// claims returns the claims of a token issued at now. All values but the times
// are strings, as GitHub sends them.
func (j GitHubJob) claims(issuer, audience, id string, now time.Time) map[string]any {
	if audience == "" {
		audience = "https://github.com/" + j.owner()
	}
	workflowRef := j.Repository + "/" + j.Workflow + "@" + j.Ref
	builder, builderSHA := j.Builder, j.BuilderSHA
	if builder == "" {
		builder, builderSHA = workflowRef, j.SHA
	}
	c := map[string]any{
		"iss": issuer, "sub": j.subject(), "aud": audience, "jti": id,
		"iat": now.Unix(), "nbf": now.Add(-githubBackdate).Unix(), "exp": now.Add(githubLifetime).Unix(),
		"repository": j.Repository, "repository_id": j.RepositoryID,
		"repository_owner": j.owner(), "repository_owner_id": j.OwnerID, "repository_visibility": j.Visibility,
		"ref": j.Ref, "ref_type": j.refType(), "ref_protected": strconv.FormatBool(j.RefProtected), "sha": j.SHA,
		"event_name": j.Event, "head_ref": j.HeadRef, "base_ref": j.BaseRef,
		"workflow": "Release", "workflow_ref": workflowRef, "workflow_sha": j.SHA,
		"job_workflow_ref": builder, "job_workflow_sha": builderSHA,
		"runner_environment": j.Runner, "run_id": j.RunID, "run_number": j.RunNumber, "run_attempt": j.RunAttempt,
		"check_run_id": j.CheckRunID, "actor": j.Actor, "actor_id": j.ActorID,
		"enterprise": "acme-corp", "enterprise_id": "2",
	}
	if j.Environment != "" {
		c["environment"], c["environment_node_id"] = j.Environment, "EN_kwDOAAAAAc4A"
	}
	maps.Copy(c, j.Overrides)
	return c
}

// env returns the variables that a runner sets, without the two of the token.
func (j GitHubJob) env() map[string]string {
	return map[string]string{
		"CI": "true", "GITHUB_ACTIONS": "true", "GITHUB_SERVER_URL": "https://github.com", "GITHUB_API_URL": "https://api.github.com",
		"GITHUB_REPOSITORY": j.Repository, "GITHUB_REPOSITORY_ID": j.RepositoryID,
		"GITHUB_REPOSITORY_OWNER": j.owner(), "GITHUB_REPOSITORY_OWNER_ID": j.OwnerID,
		"GITHUB_REF": j.Ref, "GITHUB_REF_NAME": refName(j.Ref), "GITHUB_REF_TYPE": j.refType(), "GITHUB_REF_PROTECTED": strconv.FormatBool(j.RefProtected),
		"GITHUB_SHA": j.SHA, "GITHUB_EVENT_NAME": j.Event, "GITHUB_HEAD_REF": j.HeadRef, "GITHUB_BASE_REF": j.BaseRef,
		"GITHUB_WORKFLOW": "Release", "GITHUB_WORKFLOW_REF": j.Repository + "/" + j.Workflow + "@" + j.Ref, "GITHUB_WORKFLOW_SHA": j.SHA,
		"GITHUB_RUN_ID": j.RunID, "GITHUB_RUN_NUMBER": j.RunNumber, "GITHUB_RUN_ATTEMPT": j.RunAttempt, "GITHUB_JOB": j.Job,
		"GITHUB_ACTOR": j.Actor, "GITHUB_ACTOR_ID": j.ActorID, "GITHUB_TRIGGERING_ACTOR": j.Actor,
		"RUNNER_ENVIRONMENT": j.Runner, "RUNNER_OS": "Linux",
	}
}

// GitLabJob is what GitLab knows of one job and says of it in its ID token.
type GitLabJob struct {
	Project     string `json:"project"` // group/name: the source project
	ProjectID   string `json:"project_id"`
	NamespaceID string `json:"namespace_id"`
	// The project where the job runs; empty is the same. It differs where a
	// member runs the pipeline of a fork's merge request in the parent.
	JobProject     string `json:"job_project"`
	JobProjectID   string `json:"job_project_id"`
	JobNamespaceID string `json:"job_namespace_id"`

	Visibility           string         `json:"visibility"`
	Ref                  string         `json:"ref"` // full: refs/heads/main
	RefProtected         bool           `json:"ref_protected"`
	SHA                  string         `json:"sha"`
	Source               string         `json:"source"` // pipeline_source
	Environment          string         `json:"environment"`
	EnvironmentProtected bool           `json:"environment_protected"`
	Runner               string         `json:"runner"`
	RunnerID             int            `json:"runner_id"`
	PipelineID           string         `json:"pipeline_id"`
	JobID                string         `json:"job_id"`
	Job                  string         `json:"job"`
	User                 string         `json:"user"`
	UserID               string         `json:"user_id"`
	Overrides            map[string]any `json:"claims"`
}

// NewGitLabJob returns a push to the protected main branch of acme/payments/api
// on a self-managed runner.
func NewGitLabJob() GitLabJob {
	return GitLabJob{
		Project: "acme/payments/api", ProjectID: "20", NamespaceID: "72", Visibility: "private",
		Ref: "refs/heads/main", RefProtected: true, SHA: "714a629c0b401fdce83e847fc9589983fc6f46bc", Source: "push",
		Runner: "self-hosted", RunnerID: 31, PipelineID: "574", JobID: "302", Job: "release", User: "sample-user", UserID: "1",
	}
}

// ForkMergeRequest turns j into a fork's merge-request pipeline that a member
// runs in the parent: project claims and ref are the fork's, job_project claims
// the parent's.
func (j GitLabJob) ForkMergeRequest(fork, forkID, namespaceID string) GitLabJob {
	j.JobProject, j.JobProjectID, j.JobNamespaceID = j.Project, j.ProjectID, j.NamespaceID
	j.Project, j.ProjectID, j.NamespaceID = fork, forkID, namespaceID
	j.Source = "merge_request_event"
	return j
}

func (j GitLabJob) refType() string {
	if strings.HasPrefix(j.Ref, "refs/tags/") {
		return "tag"
	}
	return "branch"
}

// claims returns the claims of a token issued at now. Ids are strings except
// runner_id, as GitLab sends them.
func (j GitLabJob) claims(issuer, audience, id string, now time.Time) map[string]any {
	if j.JobProject == "" {
		j.JobProject, j.JobProjectID, j.JobNamespaceID = j.Project, j.ProjectID, j.NamespaceID
	}
	host := issuer
	if u, err := url.Parse(issuer); err == nil {
		host = u.Host + u.Path
	}
	c := map[string]any{
		"iss": issuer, "aud": audience, "jti": id,
		"sub": fmt.Sprintf("project_path:%s:ref_type:%s:ref:%s", j.Project, j.refType(), refName(j.Ref)),
		"iat": now.Unix(), "nbf": now.Add(-gitlabBackdate).Unix(), "exp": now.Add(gitlabLifetime).Unix(),
		"namespace_id": j.NamespaceID, "namespace_path": parent(j.Project), "project_id": j.ProjectID, "project_path": j.Project,
		"project_visibility": j.Visibility,
		"job_namespace_id":   j.JobNamespaceID, "job_namespace_path": parent(j.JobProject), "job_project_id": j.JobProjectID, "job_project_path": j.JobProject,
		"user_id": j.UserID, "user_login": j.User, "user_email": j.User + "@acme.example", "user_access_level": "maintainer",
		"pipeline_id": j.PipelineID, "pipeline_source": j.Source, "job_id": j.JobID, "job_source": j.Source,
		"ref": refName(j.Ref), "ref_type": j.refType(), "ref_path": j.Ref, "ref_protected": strconv.FormatBool(j.RefProtected),
		"runner_id": j.RunnerID, "runner_environment": j.Runner, "sha": j.SHA,
		"ci_config_ref_uri": host + "/" + j.Project + "//.gitlab-ci.yml@" + j.Ref, "ci_config_sha": j.SHA,
	}
	if j.Environment != "" {
		c["environment"], c["environment_protected"] = j.Environment, strconv.FormatBool(j.EnvironmentProtected)
		c["deployment_tier"], c["environment_action"] = "production", "start"
	}
	maps.Copy(c, j.Overrides)
	return c
}

// env returns the variables that a runner sets, without the ID token.
func (j GitLabJob) env(server string) map[string]string {
	m := map[string]string{
		"CI": "true", "GITLAB_CI": "true", "CI_SERVER_URL": server, "CI_PROJECT_PATH": j.Project, "CI_PROJECT_ID": j.ProjectID,
		"CI_PIPELINE_ID": j.PipelineID, "CI_PIPELINE_SOURCE": j.Source, "CI_JOB_ID": j.JobID, "CI_JOB_NAME": j.Job,
		"CI_JOB_URL": server + "/" + j.Project + "/-/jobs/" + j.JobID, "CI_COMMIT_SHA": j.SHA, "CI_COMMIT_REF_NAME": refName(j.Ref),
		"CI_COMMIT_REF_PROTECTED": strconv.FormatBool(j.RefProtected),
	}
	if j.refType() == "tag" {
		m["CI_COMMIT_TAG"] = refName(j.Ref)
	} else {
		m["CI_COMMIT_BRANCH"] = refName(j.Ref)
	}
	return m
}

func refName(ref string) string {
	return strings.TrimPrefix(strings.TrimPrefix(ref, "refs/heads/"), "refs/tags/")
}

func parent(path string) string {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i]
	}
	return path
}
