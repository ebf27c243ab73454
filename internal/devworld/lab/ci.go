package lab

import (
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Pipeline is a run.
type Pipeline struct {
	ID        int64
	project   *Project
	SHA, Ref  string
	Tag       bool
	Source    string // "push", "web", "schedule", "api", "trigger", "merge_request_event"
	Status    string
	User      *User
	Variables []string // names
	Jobs      []*Job
	Bridges   []*Job // that trigger other pipelines
}

// Job is a job of a pipeline.
type Job struct {
	ID         int64
	pipeline   *Pipeline
	Name       string
	Status     string // "running", "success", "failed", "canceled", "manual"
	User       *User
	RunnerID   int64
	RunnerType string // "instance_type", "group_type", "project_type"
	Tags       []string
	Created    time.Time
	Finished   time.Time
	// AllowFailure jobs do not fail their pipeline.
	AllowFailure bool
}

// Status is a commit status that somebody set.
type Status struct {
	ID          int64
	SHA, Ref    string
	Name        string
	State       string
	Description string
	TargetURL   string
	Author      *User
	Pipeline    int64
	Created     time.Time
	Finished    time.Time
}

// Environment is a deployment environment, protected or not.
type Environment struct {
	Name      string
	Protected bool
	Deployers []int // access levels that may deploy
	Rules     []EnvironmentRule
	Required  int // before there were rules
}

// EnvironmentRule says how many of whom must approve a deployment.
type EnvironmentRule struct {
	Level    int
	User     int64
	Group    int64
	Required int
}

// Deployment is one of a job to an environment.
type Deployment struct {
	ID          int64
	Environment string
	Job         *Job
	Status      string
	Approvals   []DeploymentApproval
}

// DeploymentApproval is somebody's verdict on a deployment.
type DeploymentApproval struct {
	By     *User
	Status string // "approved", "rejected"
	At     time.Time
}

// Attestation is one that GitLab holds.
type Attestation struct {
	IID     int64
	Digest  string // hex
	BuildID int64
	Status  string // "success"
	Bundle  []byte
}

// Run starts a pipeline of a commit with one running job.
func (p *Project) Run(by *User, ref, sha string) (*Pipeline, *Job) {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	_, tag := p.tags[ref]
	made := &Pipeline{ID: p.s.id(), project: p, SHA: sha, Ref: ref, Tag: tag, Source: "push", Status: "running", User: by}
	p.Pipelines = append(p.Pipelines, made)
	return made, made.add(by, "sign")
}

func (r *Pipeline) add(by *User, name string) *Job {
	s := r.project.s
	j := &Job{ID: s.id(), pipeline: r, Name: name, Status: "running", User: by, RunnerID: 31, RunnerType: "instance_type", Tags: []string{"docker"}, Created: s.now()}
	r.Jobs = append(r.Jobs, j)
	return j
}

// Job adds a job in a status.
func (r *Pipeline) Job(by *User, name, status string) *Job {
	r.project.s.mu.Lock()
	defer r.project.s.mu.Unlock()
	j := r.add(by, name)
	if j.Status = status; status != "running" {
		j.Finished = r.project.s.now()
	}
	return j
}

func (s *Server) pipeline(r *Pipeline) any {
	return map[string]any{"id": r.ID, "iid": r.ID, "project_id": r.project.ID, "sha": r.SHA, "ref": r.Ref, "status": r.Status, "source": r.Source, "tag": r.Tag, "user": s.basic(r.User), "web_url": s.options.URL + "/" + r.project.Path + "/-/pipelines/" + itoa(r.ID)}
}

func (s *Server) job(j *Job) any {
	r := j.pipeline
	var runner any
	if j.RunnerID != 0 {
		runner = map[string]any{"id": j.RunnerID, "description": "", "active": true, "is_shared": j.RunnerType == "instance_type", "runner_type": j.RunnerType}
	}
	return map[string]any{"id": j.ID, "name": j.Name, "status": j.Status, "stage": "test", "ref": r.Ref, "tag": r.Tag, "allow_failure": j.AllowFailure, "created_at": stamp(j.Created), "started_at": stamp(j.Created), "finished_at": stamp(j.Finished), "user": s.full(j.User), "commit": s.commit(r.project, r.project.commits[r.SHA]), "pipeline": map[string]any{"id": r.ID, "project_id": r.project.ID, "ref": r.Ref, "sha": r.SHA, "status": r.Status}, "web_url": s.options.URL + "/" + r.project.Path + "/-/jobs/" + itoa(j.ID), "project": map[string]any{"ci_job_token_scope_enabled": false}, "tag_list": j.Tags, "runner": runner}
}

func withPipeline(h func(*request, *Pipeline) answer) func(*request, *Project) answer {
	return func(q *request, p *Project) answer {
		for _, r := range p.Pipelines {
			if r.ID == q.number("pipeline") {
				return h(q, r)
			}
		}
		return refuse(http.StatusNotFound, "404 Not found")
	}
}

func (s *Server) ciRoutes() {
	s.on("GET", "pipelines", "read", shown(Reporter), func(q *request, p *Project) answer {
		var out []*Pipeline
		for _, r := range slices.Backward(p.Pipelines) {
			// Child pipelines are listed only where they are asked for.
			sha, child := q.URL.Query().Get("sha"), q.URL.Query().Get("source") == "parent_pipeline"
			if (sha == "" || sha == r.SHA) && child == (r.Source == "parent_pipeline") {
				out = append(out, r)
			}
		}
		return page(q, out, func(r *Pipeline) any { return s.pipeline(r) })
	})
	s.on("GET", "pipelines/{pipeline}", "read", shown(Reporter), withPipeline(func(q *request, r *Pipeline) answer { return ok(s.pipeline(r)) }))
	s.on("GET", "pipelines/{pipeline}/jobs", "read", shown(Reporter), withPipeline(func(q *request, r *Pipeline) answer {
		jobs := r.Jobs
		if q.URL.Query().Get("include_retried") != "true" {
			jobs = slices.DeleteFunc(slices.Clone(jobs), func(j *Job) bool {
				return slices.ContainsFunc(r.Jobs, func(k *Job) bool { return k.Name == j.Name && k.ID > j.ID })
			})
		}
		return page(q, jobs, func(j *Job) any { return s.job(j) })
	}))
	s.on("GET", "pipelines/{pipeline}/bridges", "read", shown(Reporter), withPipeline(func(q *request, r *Pipeline) answer {
		return page(q, r.Bridges, func(j *Job) any { return s.job(j) })
	}))
	s.on("GET", "pipelines/{pipeline}/variables", "read", role(Maintainer), withPipeline(func(q *request, r *Pipeline) answer {
		return page(q, r.Variables, func(name string) any {
			return map[string]any{"key": name, "value": "x", "variable_type": "env_var", "raw": false}
		})
	}))
	s.on("GET", "jobs/{job}", "read", shown(Reporter), func(q *request, p *Project) answer {
		for _, r := range p.Pipelines {
			for _, j := range r.Jobs {
				if j.ID == q.number("job") {
					return ok(s.job(j))
				}
			}
		}
		return refuse(http.StatusNotFound, "404 Not found")
	})
	s.on("GET", "repository/commits/{sha}/statuses", "read", shown(Reporter), s.listStatuses)
	s.on("POST", "statuses/{sha}", "api", role(Developer), s.postStatus)
	s.deployRoutes()
}

// listStatuses lists statuses and jobs, as GitLab does: only the newest of a name
// and ref, unless all are asked for.
func (s *Server) listStatuses(q *request, p *Project) answer {
	c := p.ref(q.PathValue("sha"))
	if c == nil {
		return notFound("Commit")
	}
	name, all := q.URL.Query().Get("name"), q.URL.Query().Get("all") == "true"
	out := map[string]any{}
	var order []string
	put := func(key string, v any) {
		if _, there := out[key]; !there {
			order = append(order, key)
		} else if all {
			key += itoa(int64(len(order)))
			order = append(order, key)
		}
		out[key] = v
	}
	for _, r := range p.Pipelines {
		for _, j := range slices.Concat(r.Jobs, r.Bridges) {
			if r.SHA == c.SHA && (name == "" || j.Name == name) {
				put("job "+itoa(r.ID)+j.Name, map[string]any{"id": j.ID, "sha": r.SHA, "ref": r.Ref, "status": j.Status, "name": j.Name, "target_url": s.options.URL + "/" + p.Path + "/-/jobs/" + itoa(j.ID), "description": nil, "created_at": stamp(j.Created), "started_at": stamp(j.Created), "finished_at": stamp(j.Finished), "allow_failure": j.AllowFailure, "pipeline_id": r.ID, "author": s.basic(j.User)})
			}
		}
	}
	for _, t := range p.Statuses {
		if t.SHA == c.SHA && (name == "" || t.Name == name) {
			put("status "+t.Ref+t.Name, s.status(t))
		}
	}
	return page(q, order, func(k string) any { return out[k] })
}

func (s *Server) status(t *Status) any {
	return map[string]any{"id": t.ID, "sha": t.SHA, "ref": t.Ref, "status": t.State, "name": t.Name, "target_url": t.TargetURL, "description": t.Description, "created_at": stamp(t.Created), "started_at": nil, "finished_at": stamp(t.Finished), "allow_failure": false, "pipeline_id": t.Pipeline, "author": s.basic(t.Author)}
}

// postStatus sets a status. A running or pending one of the name is changed, and
// not to the state that it has.
func (s *Server) postStatus(q *request, p *Project) answer {
	c := p.commits[q.PathValue("sha")]
	if c == nil {
		return notFound("Commit")
	}
	state := q.text("state")
	if state == "" {
		return answer{http.StatusBadRequest, map[string]any{"error": "state is missing"}}
	}
	if !slices.Contains([]string{"pending", "running", "success", "failed", "canceled", "skipped"}, state) {
		return answer{http.StatusBadRequest, map[string]any{"error": "state does not have a valid value"}}
	}
	name := q.text("name")
	if name == "" {
		name = q.text("context")
	}
	if name == "" {
		name = "default"
	}
	if utf8.RuneCountInString(q.text("description")) > 255 || utf8.RuneCountInString(name) > 255 {
		return answer{http.StatusBadRequest, map[string]any{"message": map[string]any{"description": []string{"is too long (maximum is 255 characters)"}}}}
	}
	var run int64
	if want := q.text("pipeline_id"); want != "" {
		at := slices.IndexFunc(p.Pipelines, func(r *Pipeline) bool { return itoa(r.ID) == want && r.SHA == c.SHA })
		if at < 0 {
			return notFound("Pipeline")
		}
		run = p.Pipelines[at].ID
	}
	ref := q.text("ref")
	for branch := range p.branches {
		if ref == "" && slices.Contains(p.ancestors(p.branches[branch]), c.SHA) {
			ref = branch
		}
	}
	if ref == "" {
		return notFound("References for commit")
	}
	for _, t := range p.Statuses {
		if t.SHA != c.SHA || t.Name != name || t.State != "pending" && t.State != "running" {
			continue
		}
		if t.State == state || state == "pending" {
			return answer{http.StatusBadRequest, map[string]any{"message": `Cannot transition status via :` + map[string]string{"pending": "enqueue", "running": "run"}[state] + ` from :` + t.State + ` (Reason(s): Status cannot transition)`}}
		}
		t.State, t.Description, t.TargetURL = state, q.text("description"), q.text("target_url")
		if state != "running" {
			t.Finished = s.now()
		}
		return answer{http.StatusCreated, s.status(t)}
	}
	t := &Status{ID: s.id(), SHA: c.SHA, Ref: ref, Name: name, State: state, Description: q.text("description"), TargetURL: q.text("target_url"), Author: q.user, Pipeline: run, Created: s.now()}
	if state != "running" && state != "pending" {
		t.Finished = s.now()
	}
	p.Statuses = append(p.Statuses, t)
	return answer{http.StatusCreated, s.status(t)}
}

// StatusOf returns the newest status of a name on a commit, nil if there is none.
func (p *Project) StatusOf(sha, name string) (found *Status) {
	p.s.Change(func() {
		for _, t := range p.Statuses {
			if t.SHA == sha && t.Name == name {
				copied := *t
				found = &copied
			}
		}
	})
	return found
}

func (s *Server) deployRoutes() {
	s.on("GET", "environments", "read", shown(Reporter), func(q *request, p *Project) answer {
		var out []*Environment
		for _, e := range p.Environments {
			if name := q.URL.Query().Get("name"); name == "" || name == e.Name {
				out = append(out, e)
			}
		}
		return page(q, out, func(e *Environment) any { return map[string]any{"id": 1, "name": e.Name, "state": "available"} })
	})
	s.on("GET", "protected_environments/{name}", "read", role(Maintainer), s.premium(func(q *request, p *Project) answer {
		for _, e := range p.Environments {
			if e.Name != q.PathValue("name") || !e.Protected {
				continue
			}
			rules := []any{}
			for i, r := range e.Rules {
				var user, group, lvl any
				if r.User != 0 {
					user = r.User
				} else if r.Group != 0 {
					group = r.Group
				} else {
					lvl = r.Level
				}
				rules = append(rules, map[string]any{"id": i + 1, "user_id": user, "group_id": group, "access_level": lvl, "required_approvals": r.Required, "group_inheritance_type": 0})
			}
			return ok(map[string]any{"name": e.Name, "deploy_access_levels": levels(e.Deployers, nil), "required_approval_count": e.Required, "approval_rules": rules})
		}
		return refuse(http.StatusNotFound, "404 Not found")
	}))
	s.on("GET", "deployments", "read", shown(Reporter), func(q *request, p *Project) answer {
		var out []*Deployment
		for _, d := range slices.Backward(p.Deployments) {
			if name := q.URL.Query().Get("environment"); name == "" || name == d.Environment {
				out = append(out, d)
			}
		}
		return page(q, out, func(d *Deployment) any { return s.deployment(d, false) })
	})
	s.on("GET", "deployments/{deployment}", "read", shown(Reporter), func(q *request, p *Project) answer {
		for _, d := range p.Deployments {
			if d.ID == q.number("deployment") {
				return ok(s.deployment(d, s.options.Premium))
			}
		}
		return refuse(http.StatusNotFound, "404 Not found")
	})
	s.on("GET", "attestations/{digest}", "read", shown(Reporter), func(q *request, p *Project) answer {
		var out []*Attestation
		for _, a := range p.Attestations {
			if a.Digest == strings.TrimPrefix(q.PathValue("digest"), "sha256:") {
				out = append(out, a)
			}
		}
		return page(q, out, func(a *Attestation) any {
			return map[string]any{"id": a.IID, "iid": a.IID, "project_id": p.ID, "build_id": a.BuildID, "status": a.Status, "predicate_kind": "provenance", "predicate_type": "https://slsa.dev/provenance/v1", "subject_digest": a.Digest, "download_url": s.options.URL + "/api/v4/projects/" + itoa(p.ID) + "/attestations/" + itoa(a.IID) + "/download"}
		})
	})
	s.on("GET", "attestations/{iid}/download", "read", shown(Reporter), func(q *request, p *Project) answer {
		for _, a := range p.Attestations {
			if a.IID == q.number("iid") {
				return ok(string(a.Bundle))
			}
		}
		return refuse(http.StatusNotFound, "404 Not found")
	})
}

func (s *Server) deployment(d *Deployment, approvals bool) any {
	out := map[string]any{"id": d.ID, "iid": d.ID, "status": d.Status, "environment": map[string]any{"id": 1, "name": d.Environment}, "deployable": map[string]any{"id": d.Job.ID, "name": d.Job.Name, "status": d.Job.Status}, "user": s.basic(d.Job.User)}
	if approvals {
		all := []any{}
		for _, a := range d.Approvals {
			all = append(all, map[string]any{"user": s.basic(a.By), "status": a.Status, "created_at": stamp(a.At), "comment": ""})
		}
		out["approvals"], out["pending_approval_count"] = all, 0
	}
	return out
}

// Deploy records that a job deploys to an environment.
func (p *Project) Deploy(j *Job, environment string) *Deployment {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	d := &Deployment{ID: p.s.id(), Environment: environment, Job: j, Status: "running"}
	p.Deployments = append(p.Deployments, d)
	return d
}
