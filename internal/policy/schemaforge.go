package policy

import "maps"

// forgeConstraints adds what is said of the words about forges, people and what a
// decision is used for.
func forgeConstraints(out map[string]bound) {
	said := func(description string) bound { return bound{"description": description} }
	people := func(description string) bound {
		return bound{"minimum": 1, "maximum": MaxRequired, "description": description}
	}
	name := bound{"minLength": 1, "maxLength": maxName}
	maps.Copy(out, map[string]bound{
		"policies.shadows":           {"pattern": reName.String(), "description": "With mode: log, the policy that decides."},
		"policies.report":            {"uniqueItems": true, "description": "Where results are reported: check and summary without the word."},
		"policies.report[]":          {"enum": reportWords()},
		"policies.repository_policy": {"enum": []string{repositoryHonour, repositoryIgnore}, "description": "Whether " + RepositoryFile + " of the repository counts too: honour, the default, or ignore."},

		"policies.approvals":                {"description": "Who has to approve before anything is signed: `all` with several groups, or `required` and `from` for one."},
		"policies.approvals.all":            {"minItems": 1, "maxItems": MaxGroups, "description": "Groups: each needs its quorum, and a person fills one place of one group."},
		"policies.approvals.all[].required": people("How many people of this group."),
		"policies.approvals.all[].from":     {"minItems": 1, "maxItems": MaxFrom, "description": "FORGE:ORG/TEAM, FORGE:GROUP/SUBGROUP, FORGE:@LOGIN#ID, or FORGE:permission=write, maintain or admin."},
		"policies.approvals.required":       people("How many people."),
		"policies.approvals.from":           {"minItems": 1, "maxItems": MaxFrom, "description": "FORGE:ORG/TEAM, FORGE:GROUP/SUBGROUP, FORGE:@LOGIN#ID, or FORGE:permission=write, maintain or admin."},
		"policies.approvals.exclude":        {"uniqueItems": true, "description": "Who may not approve: author, actor and pusher without the word."},
		"policies.approvals.exclude[]":      {"enum": excludeWords()},
		"policies.approvals.expires":        said("How long an approval counts: 24h without the word."),
		"policies.approvals.supersede":      said("A newer request of the same ref replaces one that waits."),
		"policies.approvals.deny":           {"enum": []string{denyEnds, denyWithdraws}, "description": "What one deny does: it ends the request (the default), or only withdraws the approval of who denies."},
		"policies.approvals.ways":           {"minItems": 1, "uniqueItems": true, "description": "How people may approve: comment without the word."},
		"policies.approvals.ways[]":         {"enum": wayWords()},

		"policies.bind.attestation":          said("The forge holds a verified attestation by this very run for each image."),
		"policies.origin.reachable_from":     {"minItems": 1, "maxItems": MaxBranches, "description": "The commit is on one of these protected branches."},
		"policies.origin.reachable_from[]":   {"pattern": reWholeRef.String(), "maxLength": maxPattern},
		"policies.origin.human":              {"description": "The policy is for people, who submit again what was signed before or, where `origin` has no other word, lists of images; always with approvals."},
		"policies.origin.human.max_age":      said("How long ago that may have ended or been made: 720h without the word."),
		"policies.origin.verify":             said("What the forge is asked about the build. A forge that does not answer refuses."),
		"policies.origin.verify.run":         said("The forge has this run and job, with what the token says, in progress now."),
		"policies.origin.verify.ref":         said("The branch or tag of the build is there, has the commit, and is protected so."),
		"policies.origin.verify.branch":      said("These branches are protected so, and one of them has the commit."),
		"policies.origin.verify.branch.of":   {"description": "One branch, or several: refs/heads/main."},
		"policies.origin.verify.branch.of[]": {"pattern": reBranch.String(), "maxLength": maxPattern},

		"policies.origin.verify.pull_request":                        said("The commit is what merging a reviewed pull request made."),
		"policies.origin.verify.pull_request.required_approvals":     people("Approvals of its head by others than who wrote or pushed it; 1 without the word."),
		"policies.origin.verify.environment":                         said("The deployment environment of the job demands this."),
		"policies.origin.verify.environment.required_reviewers":      people("How many have to approve a deployment."),
		"policies.origin.verify.environment.no_self_review":          said("Nobody approves a deployment that he started."),
		"policies.origin.verify.environment.protected_branches_only": said("Only protected branches may deploy. GitHub."),
		"policies.origin.verify.environment.approved":                people("How many others than who started the run approved this deployment."),
		"policies.origin.verify.checks":                              {"minItems": 1, "maxItems": MaxChecks, "description": "Checks and commit statuses that are green on the commit."},
		"policies.origin.verify.checks[].name":                       {"minLength": 1, "maxLength": maxName, "description": "The name of the check, or the context of the status."},
		"policies.origin.verify.checks[].app":                        {"pattern": reSlug.String(), "description": "Who has to say so: id or slug of the GitHub App."},
		"policies.origin.verify.inputs":                              said("Manual inputs or variables that the run may have been given: none, or these."),
		"policies.origin.verify.inputs[]":                            name,
		"policies.origin.verify.workflow_blobs":                      {"minItems": 1, "description": "Git blob ids of workflow files that were reviewed."},
		"policies.origin.verify.workflow_blobs[]":                    {"pattern": reSHA.String()},

		"policies.origin.github.builder.repository_id": {"pattern": reNumber.String(), "description": "GitHub's number of the builder's repository, in quotes; the forge is asked whose the name in the token is."},
		"policies.origin.github.runner_groups":         {"minItems": 1, "description": "The job's runner is in one of these groups."},
		"policies.origin.github.runner_groups[]":       name,
		"policies.origin.github.runner_labels":         {"minItems": 1, "description": "The job's runner has all of these labels."},
		"policies.origin.github.runner_labels[]":       name,
		"policies.origin.gitlab.runner_tags":           {"minItems": 1, "description": "The job's runner has all of these tags."},
		"policies.origin.gitlab.runner_tags[]":         name,
		"policies.origin.gitlab.variables":             said("Variables that the pipeline may have been given: none, or these."),
		"policies.origin.gitlab.variables[]":           name,
	})
	for _, at := range []string{"policies.origin.verify.ref", "policies.origin.verify.branch"} {
		maps.Copy(out, map[string]bound{
			at + ".required_approvals": people("Approvals by others that a merge needs."),
			at + ".code_owners":        said("Code owners have to approve."),
			at + ".dismiss_stale":      said("A push dismisses approvals."),
			at + ".last_push_approval": said("Somebody else than who pushed last approves."),
			at + ".block_force_push":   said("Nobody may force-push."),
			at + ".block_deletion":     said("Nobody may delete it."),
			at + ".signed_commits":     said("Commits have to be signed."),
			at + ".no_bypass":          said("Nobody may bypass the rules."),
			at + ".bypass":             said("Only these may bypass the rules, as the reason of a refusal names them."),
			at + ".bypass[]":           name,
			at + ".enforced_from":      {"pattern": `^[0-9]{4}-[0-9]{2}-[0-9]{2}$`, "description": "The protection has been so since this day."},
		})
	}
}
