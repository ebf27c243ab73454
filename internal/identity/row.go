package identity

import (
	"maps"
	"regexp"
	"slices"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// provider is what is particular to one CI: a row of data. Claims and optional
// map a field of signing.Origin, by its JSON name, to a claim or template.
type provider struct {
	kind     string
	maxAge   time.Duration
	tokenPer string
	// claims are the fields without which there is no origin.
	claims map[string]string
	// optional fields stay empty where one of their claims is missing, null or
	// "". Policies that ask for an empty field deny.
	optional map[string]string
	// forms say what a claim must look like; they hold wherever it is present.
	forms map[string]form
	// present are claims that must be there though no field takes them.
	present []string
	// equal are pairs of claims of which the first, where present, must equal
	// the second.
	equal [][2]string
}

// providers returns the built-in rows.
func providers() map[string]provider {
	return map[string]provider{
		// Field mapping as in Fulcio's github-workflow, with ids demanded. sub has
		// two forms and repository admins can change it: neither is parsed.
		"github-actions": {
			kind: "github", maxAge: 10 * time.Minute, tokenPer: TokenPerRequest,
			claims: map[string]string{
				"sourceRepositoryURI":             "{{.url}}/{{.claim.repository}}",
				"sourceRepositoryDigest":          "sha",
				"sourceRepositoryRef":             "ref",
				"sourceRepositoryIdentifier":      "repository_id",
				"sourceRepositoryOwnerURI":        "{{.url}}/{{.claim.repository_owner}}",
				"sourceRepositoryOwnerIdentifier": "repository_owner_id",
				"sourceRepository":                "repository",
				"buildSignerURI":                  "{{.url}}/{{.claim.job_workflow_ref}}",
				"buildTrigger":                    "event_name",
				"runInvocationURI":                "{{.url}}/{{.claim.repository}}/actions/runs/{{.claim.run_id}}/attempts/{{.claim.run_attempt}}",
				"runID":                           "run_id",
				"runAttempt":                      "run_attempt",
			},
			optional: map[string]string{
				"sourceRepositoryVisibility": "repository_visibility",
				"buildConfigURI":             "{{.url}}/{{.claim.workflow_ref}}",
				"buildConfigDigest":          "workflow_sha",
				"buildSignerDigest":          "job_workflow_sha",
				"runnerEnvironment":          "runner_environment",
				"deploymentEnvironment":      "environment",
				"refProtected":               "ref_protected",
				"jobID":                      "check_run_id",
				"actor":                      "actor",
				"actorID":                    "actor_id",
			},
			forms: map[string]form{
				"repository": formPath, "repository_owner": formOwner, "repository_id": formID, "repository_owner_id": formID,
				"sha": formCommit, "workflow_sha": formCommit, "job_workflow_sha": formCommit,
				"ref": formRef, "ref_protected": formBoolean,
				"run_id": formID, "run_attempt": formID, "check_run_id": formID, "actor_id": formID,
			},
			present: []string{"jti"},
		},
		// ref_path and not ref, which a branch and a tag can share. In a
		// merge-request pipeline every claim describes the source project, that
		// is, a fork; only job_project_id (18.4) says where the job runs.
		"gitlab": {
			kind: "gitlab", maxAge: time.Hour, tokenPer: TokenPerJob,
			claims: map[string]string{
				"sourceRepositoryURI":             "{{.url}}/{{.claim.project_path}}",
				"sourceRepositoryDigest":          "sha",
				"sourceRepositoryRef":             "ref_path",
				"sourceRepositoryIdentifier":      "project_id",
				"sourceRepositoryOwnerURI":        "{{.url}}/{{.claim.namespace_path}}",
				"sourceRepositoryOwnerIdentifier": "namespace_id",
				"sourceRepository":                "project_path",
				"buildTrigger":                    "pipeline_source",
				"runInvocationURI":                "{{.url}}/{{.claim.project_path}}/-/jobs/{{.claim.job_id}}",
				"runID":                           "pipeline_id",
				"jobID":                           "job_id",
			},
			optional: map[string]string{
				"sourceRepositoryVisibility": "project_visibility",
				"buildConfigURI":             "https://{{.claim.ci_config_ref_uri}}",
				"buildConfigDigest":          "ci_config_sha",
				// Only where a policy of the instance, and not the project's own
				// configuration, defines the job (18.9).
				"buildSignerURI":        "job_config.url",
				"buildSignerDigest":     "job_config.sha",
				"runnerEnvironment":     "runner_environment",
				"runnerID":              "runner_id",
				"deploymentEnvironment": "environment",
				"environmentProtected":  "environment_protected",
				"refProtected":          "ref_protected",
				"actor":                 "user_login",
				"actorID":               "user_id",
			},
			forms: map[string]form{
				"project_path": formPath, "namespace_path": formOwner, "project_id": formID, "namespace_id": formID, "job_project_id": formID,
				"sha": formCommit, "ci_config_sha": formCommit, "job_config.sha": formCommit,
				"ref_path": formRef, "ref_protected": formBoolean, "environment_protected": formBoolean,
				"pipeline_id": formID, "job_id": formID, "runner_id": formID, "user_id": formID,
			},
			present: []string{"jti"},
			equal:   [][2]string{{"job_project_id", "project_id"}},
		},
	}
}

// form is the grammar of a claim.
type form struct {
	name    string
	pattern *regexp.Regexp
	// text demands a JSON string: both CIs write booleans as text, and a claim of
	// another type is not the claim that was meant.
	text bool
	// notEmpty says that "" is not the same as absent.
	notEmpty bool
}

var (
	formID      = form{name: "a decimal id", pattern: regexp.MustCompile(`^[1-9][0-9]{0,18}$`)}
	formCommit  = form{name: "a commit id in hexadecimal", pattern: regexp.MustCompile(`^(?:[0-9a-f]{40}|[0-9a-f]{64})$`), text: true}
	formRef     = form{name: "a full ref such as refs/heads/main", pattern: regexp.MustCompile(`^refs/[^\s/][^\s]*$`), text: true}
	formPath    = form{name: "a path such as owner/name", pattern: regexp.MustCompile(`^[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)+$`), text: true}
	formOwner   = form{name: "a path such as group/subgroup", pattern: regexp.MustCompile(`^[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*$`), text: true}
	formBoolean = form{name: `"true" or "false"`, pattern: regexp.MustCompile(`^(?:true|false)$`), text: true, notEmpty: true}
)

// row is a provider compiled for one issuer.
type row struct {
	provider
	forge, url string
	require    map[string]string // claims that must have exactly this value
	fields     []field           // sorted by name
}

// field is one field of Origin and where its value comes from.
type field struct {
	name     string
	from     expression
	optional bool
}

// origin makes an Origin from verified claims.
func (r *row) origin(c claims) (signing.Origin, error) {
	if err := r.checkClaims(c); err != nil {
		return signing.Origin{}, err
	}
	o := signing.Origin{Forge: r.forge, Kind: r.kind}
	texts, booleans := originFields(&o)
	for _, f := range r.fields {
		value, lacking, err := f.from.eval(c, r.forge, r.url)
		switch {
		case err != nil:
			return signing.Origin{}, err
		case lacking != "" && f.optional:
			continue
		case lacking != "":
			return signing.Origin{}, missing(lacking)
		}
		if to, ok := texts[f.name]; ok {
			*to = value
			continue
		}
		if value != "true" && value != "false" {
			return signing.Origin{}, refused("the token's claims do not give "+f.name, `"true" or "false"`, quote(value), "ask the operator of this service to look at the issuer's claim templates")
		}
		*booleans[f.name] = value == "true"
	}
	return o, nil
}

// checkClaims holds claims against the row's forms and rules. Claims that have
// a form are checked even where no field takes them.
func (r *row) checkClaims(c claims) error {
	for _, name := range slices.Sorted(maps.Keys(r.forms)) {
		f := r.forms[name]
		value, present, err := c.text(name)
		if err != nil {
			return err
		}
		raw, there := c.lookup(name)
		_, isText := raw.(string)
		if there && f.notEmpty {
			present = true
		}
		if present && (!f.pattern.MatchString(value) || (f.text && !isText)) {
			return refused("the token's claim "+name+" has an unexpected form", f.name, quote(value), "use a token of the CI that this issuer's configuration names")
		}
	}
	for _, name := range r.present {
		if _, err := c.required(name); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.require)) {
		value, err := c.required(name)
		if err != nil {
			return err
		}
		if value != r.require[name] {
			return refused("the token's claim "+name+" is not the one that this service requires", quote(r.require[name]), quote(value), "use this service from the organisation that it is set up for")
		}
	}
	for _, pair := range r.equal {
		if err := checkEqual(c, pair[0], pair[1]); err != nil {
			return err
		}
	}
	return nil
}

func checkEqual(c claims, a, b string) error {
	va, present, err := c.text(a)
	if err != nil || !present {
		return err
	}
	vb, err := c.required(b)
	if err != nil {
		return err
	}
	if va != vb {
		return refused("the job runs for another project than the token describes, as a merge-request pipeline of a fork does",
			a+" equal to "+b+" "+quote(vb), a+" "+quote(va), "sign from a pipeline of the project itself, after the merge")
	}
	return nil
}

// originFields returns the fields of o that a row may fill, by JSON name. Forge
// and Kind are not among them: they are constants of the row.
func originFields(o *signing.Origin) (map[string]*string, map[string]*bool) {
	return map[string]*string{
			"sourceRepositoryURI":             &o.SourceRepositoryURI,
			"sourceRepositoryDigest":          &o.SourceRepositoryDigest,
			"sourceRepositoryRef":             &o.SourceRepositoryRef,
			"sourceRepositoryIdentifier":      &o.SourceRepositoryIdentifier,
			"sourceRepositoryOwnerURI":        &o.SourceRepositoryOwnerURI,
			"sourceRepositoryOwnerIdentifier": &o.SourceRepositoryOwnerIdentifier,
			"sourceRepositoryVisibility":      &o.SourceRepositoryVisibility,
			"buildConfigURI":                  &o.BuildConfigURI,
			"buildConfigDigest":               &o.BuildConfigDigest,
			"buildSignerURI":                  &o.BuildSignerURI,
			"buildSignerDigest":               &o.BuildSignerDigest,
			"buildTrigger":                    &o.BuildTrigger,
			"runInvocationURI":                &o.RunInvocationURI,
			"runnerEnvironment":               &o.RunnerEnvironment,
			"deploymentEnvironment":           &o.DeploymentEnvironment,
			"sourceRepository":                &o.SourceRepository,
			"runID":                           &o.RunID,
			"runAttempt":                      &o.RunAttempt,
			"jobID":                           &o.JobID,
			"runnerID":                        &o.RunnerID,
			"actorID":                         &o.ActorID,
			"actor":                           &o.Actor,
		}, map[string]*bool{
			"refProtected":         &o.RefProtected,
			"environmentProtected": &o.EnvironmentProtected,
		}
}
