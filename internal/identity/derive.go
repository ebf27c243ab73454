package identity

import (
	"maps"
	"net/url"
	"regexp"
	"strings"
)

// with returns the claims and derived values. A token's own claims of such names
// are not among them.
func (c claims) with(derived map[string]string) claims {
	out := maps.Clone(c)
	maps.DeleteFunc(out, func(name string, _ any) bool { return name == "derived" || strings.HasPrefix(name, "derived.") })
	for name, value := range derived {
		out["derived."+name] = value
	}
	return out
}

// branchOrTag: a build of a tag has both claims, and is one of the tag.
func branchOrTag(c claims) (map[string]string, error) {
	tag, tagged, err := c.text("build_tag")
	if err != nil {
		return nil, err
	}
	branch, err := c.required("build_branch")
	if err != nil {
		return nil, err
	}
	if tagged {
		return map[string]string{"ref": "refs/tags/" + tag}, nil
	}
	return map[string]string{"ref": "refs/heads/" + branch}, nil
}

// circleOf refuses what somebody may have changed by hand in the running job.
func circleOf(c claims) (map[string]string, error) {
	const claim = "oidc.circleci.com/ssh-rerun"
	rerun, err := c.required(claim)
	if err != nil {
		return nil, err
	}
	if rerun != "false" {
		return nil, refused("the job was started again with SSH", claim+" false", quote(rerun), "start the workflow again without SSH: whoever was logged in may have changed what it builds")
	}
	if err := ofIssuer(c, "oidc.circleci.com/org-id"); err != nil {
		return nil, err
	}
	return map[string]string{"trigger": unstated}, nil
}

// ofIssuer holds the id of the organisation against the end of the issuer's URL.
func ofIssuer(c claims, claim string) error {
	id, err := c.required(claim)
	if err != nil {
		return err
	}
	iss, err := c.required("iss")
	if err != nil {
		return err
	}
	if !strings.HasSuffix(iss, "/"+id) {
		return refused("the token's claim "+claim+" is not the organisation of its issuer", "the last part of "+quote(iss), quote(id), "use a token of the CI that this issuer's configuration names")
	}
	return nil
}

// bitbucketOf takes the braces away, which no policy has to write then.
func bitbucketOf(c claims) (map[string]string, error) {
	out := map[string]string{"trigger": unstated}
	for name, claim := range map[string]string{"workspace": "workspaceUuid", "repository": "repositoryUuid", "pipeline": "pipelineUuid", "step": "stepUuid"} {
		v, err := c.required(claim)
		if err != nil {
			return nil, err
		}
		out[name] = strings.Trim(v, "{}")
	}
	environment, present, err := c.text("deploymentEnvironmentUuid")
	if present {
		out["environment"] = strings.Trim(environment, "{}")
	}
	return out, err
}

// reAzureSubject is p://ORGANIZATION/PROJECT/PIPELINE, and nothing else. Names
// with a slash would be ambiguous and do not fit.
var reAzureSubject = regexp.MustCompile(`^p://([A-Za-z0-9][A-Za-z0-9-]{0,49})/[^/]{1,64}/[^/]{1,260}$`)

func azureOf(c claims) (map[string]string, error) {
	sub, err := c.required("sub")
	if err != nil {
		return nil, err
	}
	m := reAzureSubject.FindStringSubmatch(sub)
	if m == nil {
		return nil, refused("not the token of a pipeline", "a sub of the form p://ORGANIZATION/PROJECT/PIPELINE", quote(sub), "ask SYSTEM_OIDCREQUESTURI for the token without serviceConnectionId: the token of a service connection (sc://) says nothing of a build")
	}
	if err := ofIssuer(c, "org_id"); err != nil {
		return nil, err
	}
	uri, err := c.required("rpo_uri")
	if err != nil {
		return nil, err
	}
	source, err := sourceOf("rpo_uri", uri)
	if err != nil {
		return nil, err
	}
	id, err := c.required("rpo_id")
	if err != nil {
		return nil, err
	}
	// Azure's own repositories have a UUID; of others rpo_id is the name, which
	// can be registered anew. The pipeline, which does not change, stands for them.
	if !formUUID.pattern.MatchString(id) {
		project, err := c.required("prj_id")
		if err != nil {
			return nil, err
		}
		definition, err := c.required("def_id")
		if err != nil {
			return nil, err
		}
		id = project + "." + definition
	}
	return map[string]string{"organization": m[1], "source": source, "repository": id, "trigger": unstated}, nil
}

// codefreshOf: which claims there are depends on what started the build.
func codefreshOf(c claims) (map[string]string, error) {
	uri, err := c.required("scm_repo_url")
	if err != nil {
		return nil, err
	}
	source, err := sourceOf("scm_repo_url", uri)
	if err != nil {
		return nil, err
	}
	// A branch may be called refs/heads/main: its bare name would pass for main.
	ref, err := c.required("scm_ref")
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(ref, "refs/") {
		return nil, refused("the token's claim scm_ref has an unexpected form", "the bare name of a branch or tag", quote(ref), "rename the branch or tag: its name looks like a full ref")
	}
	trigger := unstated
	if _, there := c.lookup("initiator"); there {
		trigger = "manual"
	}
	// Present in whatever form: a pull request never passes for anything else.
	if _, there := c.lookup("scm_pull_request_target_branch"); there {
		trigger = "pull_request"
	}
	return map[string]string{"source": source, "trigger": trigger}, nil
}

// reSource is HOST/PATH of a repository's URL. Percent signs are for Azure's
// projects with a space in their name.
var reSource = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?:/[A-Za-z0-9_.%~-]+)+$`)

// sourceOf returns HOST/PATH of the URL of a repository, as policies name it.
// It must be an https URL without anything that clients read in different ways.
func sourceOf(claim, raw string) (string, error) {
	u, err := url.Parse(raw)
	if err == nil && u.Scheme == "https" {
		if rest, ok := strings.CutPrefix(raw, "https://"); ok {
			rest = strings.TrimSuffix(strings.TrimSuffix(rest, "/"), ".git")
			dots := strings.Contains("/"+rest+"/", "/../") || strings.Contains("/"+rest+"/", "/./")
			if reSource.MatchString(rest) && !dots {
				return rest, nil
			}
		}
	}
	return "", refused("the token's claim "+claim+" has an unexpected form", "https://HOST/PATH of a repository, without user, port and query", quote(raw), "build from a repository that the CI names by its https URL")
}
