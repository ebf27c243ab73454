package identity

import "time"

// unstated is the BuildTrigger of CI systems whose tokens never say what caused
// a build. A policy has to name it among its events, so that nobody relies on a
// rule that cannot be held.
const unstated = "unstated"

// providers returns the built-in rows.
func providers() map[string]provider {
	return map[string]provider{
		"github-actions": githubActions(),
		"gitlab":         gitlabCI(),
		"forgejo":        forgejoActions(),
		"buildkite":      buildkite(),
		"circleci":       circleCI(),
		"bitbucket":      bitbucketPipelines(),
		"azure-devops":   azureDevOps(),
		"codefresh":      codefresh(),
	}
}

// githubActions: github.com, enterprises' own issuers, GHE.com and GHES. Field mapping as in Fulcio's github-workflow, with ids demanded. sub has
// two forms and repository admins can change it: neither is parsed.
func githubActions() provider {
	return provider{
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
	}
}

// gitlabCI: gitlab.com and self-managed. ref_path and not ref, which a branch and a tag can share. In a
// merge-request pipeline every claim describes the source project, that
// is, a fork; only job_project_id (18.4) says where the job runs.
func gitlabCI() provider {
	return provider{
		kind: "gitlab", maxAge: time.Hour, tokenPer: TokenPerJob, forgeOfIssuer: true,
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
	}
}

// forgejoActions: claims in GitHub's form, of one instance. Ids are demanded, so
// that instances without them are refused: names can be registered anew. sub
// joins names and ids with hyphens, which names may contain.
func forgejoActions() provider {
	return provider{
		kind: "forgejo", maxAge: 10 * time.Minute, tokenPer: TokenPerRequest, forgeOfIssuer: true,
		claims: map[string]string{
			"sourceRepositoryURI":             "{{.url}}/{{.claim.repository}}",
			"sourceRepositoryDigest":          "sha",
			"sourceRepositoryRef":             "ref",
			"sourceRepositoryIdentifier":      "repository_id",
			"sourceRepositoryOwnerURI":        "{{.url}}/{{.claim.repository_owner}}",
			"sourceRepositoryOwnerIdentifier": "repository_owner_id",
			"sourceRepository":                "repository",
			"buildConfigURI":                  "{{.url}}/{{.claim.workflow_ref}}",
			"buildTrigger":                    "event_name",
			"runInvocationURI":                "{{.url}}/{{.claim.repository}}/actions/runs/{{.claim.run_number}}",
			"runID":                           "run_id",
			"runAttempt":                      "run_attempt",
		},
		optional: map[string]string{
			"refProtected": "ref_protected",
			"actor":        "actor",
			"actorID":      "actor_id",
		},
		forms: map[string]form{
			"repository": formPath, "repository_owner": formOwner, "repository_id": formID, "repository_owner_id": formID,
			"sha": formCommit, "ref": formRef, "ref_protected": formBoolean,
			"run_id": formID, "run_number": formID, "run_attempt": formID, "actor_id": formID,
		},
	}
}

// buildkite: the token names a pipeline and not the repository that it builds,
// so that the pipeline stands for it. organization_id and pipeline_id are in
// the token only if the job asks for them. Whoever may create a build by hand
// or API chooses its branch and commit: build_source tells.
func buildkite() provider {
	return provider{
		kind: "buildkite", maxAge: 10 * time.Minute, tokenPer: TokenPerRequest, forge: "buildkite.com",
		shared: []string{"organization_id"},
		claims: map[string]string{
			"sourceRepositoryDigest":          "build_commit",
			"sourceRepositoryRef":             "derived.ref",
			"sourceRepositoryIdentifier":      "pipeline_id",
			"sourceRepositoryOwnerURI":        "{{.url}}/{{.claim.organization_slug}}",
			"sourceRepositoryOwnerIdentifier": "organization_id",
			"sourceRepository":                "{{.claim.organization_slug}}/{{.claim.pipeline_slug}}",
			"buildConfigURI":                  "{{.url}}/{{.claim.organization_slug}}/{{.claim.pipeline_slug}}",
			"buildTrigger":                    "build_source",
			"runInvocationURI":                "{{.url}}/{{.claim.organization_slug}}/{{.claim.pipeline_slug}}/builds/{{.claim.build_number}}#{{.claim.job_id}}",
			"runID":                           "build_number",
			"jobID":                           "job_id",
		},
		optional: map[string]string{"runnerEnvironment": "runner_environment"},
		forms: map[string]form{
			"organization_id": formUUID, "pipeline_id": formUUID, "job_id": formUUID, "organization_slug": formSlug, "pipeline_slug": formSlug,
			"build_number": formID, "build_commit": formCommit, "build_branch": formName, "build_tag": formName,
		},
		derive: branchOrTag,
	}
}

// circleCI: the project's id is the identity; vcs-origin says which repository
// the change came from and must be compared, since a fork's build is one of the
// same project. No commit and no event. A job that somebody logged into by SSH
// is refused.
func circleCI() provider {
	const c = "oidc.circleci.com/"
	return provider{
		kind: "circleci", maxAge: time.Hour, tokenPer: TokenPerJob, forge: "circleci.com", url: "https://app.circleci.com",
		claims: map[string]string{
			"sourceRepositoryURI":             `https://{{index .claim "` + c + `vcs-origin"}}`,
			"sourceRepositoryRef":             c + "vcs-ref",
			"sourceRepositoryIdentifier":      c + "project-id",
			"sourceRepositoryOwnerIdentifier": c + "org-id",
			"sourceRepository":                c + "vcs-origin",
			"buildTrigger":                    "derived.trigger",
			"runInvocationURI":                `{{.url}}/pipelines/workflows/{{index .claim "` + c + `workflow-id"}}`,
			"runID":                           c + "workflow-id",
		},
		optional: map[string]string{
			"buildConfigURI": `https://circleci.com/api/v2/projects/{{index .claim "` + c + `project-id"}}/pipeline-definitions/{{index .claim "` + c + `pipeline-definition-id"}}`,
			"jobID":          c + "job-id",
		},
		forms: map[string]form{
			c + "org-id": formUUID, c + "project-id": formUUID, c + "workflow-id": formUUID, c + "job-id": formUUID, c + "pipeline-definition-id": formUUID,
			c + "vcs-origin": formOrigin, c + "vcs-ref": formRef, c + "ssh-rerun": formFlag,
		},
		derive: circleOf,
	}
}

// bitbucketPipelines: UUIDs of workspace and repository, and a branch. The token
// has no names, no commit and no event, and does not tell a branch from the
// source branch of a pull request.
func bitbucketPipelines() provider {
	return provider{
		kind: "bitbucket", maxAge: time.Hour, tokenPer: TokenPerJob, forge: "bitbucket.org",
		claims: map[string]string{
			"sourceRepositoryURI":             "{{.url}}/{{.claim.workspaceUuid}}/{{.claim.repositoryUuid}}",
			"sourceRepositoryRef":             "refs/heads/{{.claim.branchName}}",
			"sourceRepositoryIdentifier":      "derived.repository",
			"sourceRepositoryOwnerURI":        "{{.url}}/{{.claim.workspaceUuid}}",
			"sourceRepositoryOwnerIdentifier": "derived.workspace",
			"sourceRepository":                `{{index .claim "derived.workspace"}}/{{index .claim "derived.repository"}}`,
			"buildTrigger":                    "derived.trigger",
			"runInvocationURI":                "{{.url}}/{{.claim.workspaceUuid}}/{{.claim.repositoryUuid}}/pipelines/results/{{.claim.pipelineUuid}}",
			"runID":                           "derived.pipeline",
			"jobID":                           "derived.step",
		},
		optional: map[string]string{"deploymentEnvironment": "derived.environment"},
		forms: map[string]form{
			"workspaceUuid": formBraced, "repositoryUuid": formBraced, "pipelineUuid": formBraced, "stepUuid": formBraced, "deploymentEnvironmentUuid": formBraced,
			"branchName": formName,
		},
		derive: bitbucketOf,
	}
}

// azureDevOps: tokens of pipelines only. Those of service connections come from
// the same issuer and stand for no build. The kind and the organisation's name
// are nowhere but in sub, whose grammar is exact here.
func azureDevOps() provider {
	return provider{
		kind: "azure-devops", maxAge: 10 * time.Minute, tokenPer: TokenPerRequest, forge: "dev.azure.com",
		claims: map[string]string{
			"sourceRepositoryURI":             "rpo_uri",
			"sourceRepositoryDigest":          "rpo_ver",
			"sourceRepositoryRef":             "rpo_ref",
			"sourceRepositoryIdentifier":      "derived.repository",
			"sourceRepositoryOwnerIdentifier": "org_id",
			"sourceRepository":                "derived.source",
			"buildConfigURI":                  `{{.url}}/{{index .claim "derived.organization"}}/{{.claim.prj_id}}/_build?definitionId={{.claim.def_id}}`,
			"buildTrigger":                    "derived.trigger",
			"runInvocationURI":                `{{.url}}/{{index .claim "derived.organization"}}/{{.claim.prj_id}}/_build/results?buildId={{.claim.run_id}}`,
			"runID":                           "run_id",
		},
		forms: map[string]form{
			"org_id": formUUID, "prj_id": formUUID, "def_id": formID, "run_id": formID, "rpo_ver": formCommit, "rpo_ref": formRef,
		},
		present: []string{"jti"},
		derive:  azureOf,
	}
}

// codefresh: a pipeline, and for builds from git the repository and the bare
// name of a branch or tag, which are not told apart: the ref stays unqualified,
// so that no rule about refs/heads/ takes it for a branch.
func codefresh() provider {
	return provider{
		kind: "codefresh", maxAge: 10 * time.Minute, tokenPer: TokenPerRequest, forge: "g.codefresh.io",
		shared: []string{"account_id"},
		claims: map[string]string{
			"sourceRepositoryURI":             "scm_repo_url",
			"sourceRepositoryRef":             "scm_ref",
			"sourceRepositoryIdentifier":      "pipeline_id",
			"sourceRepositoryOwnerIdentifier": "account_id",
			"sourceRepository":                "derived.source",
			"buildTrigger":                    "derived.trigger",
			"runInvocationURI":                "{{.url}}/build/{{.claim.workflow_id}}",
			"runID":                           "workflow_id",
		},
		optional: map[string]string{"actor": "scm_user_name"},
		forms: map[string]form{
			"account_id": formOpaque, "pipeline_id": formOpaque, "workflow_id": formOpaque, "scm_ref": formName,
		},
		derive: codefreshOf,
	}
}
