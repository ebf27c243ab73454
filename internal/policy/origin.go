package policy

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/sealwright/sealwright/internal/signing"
)

// origin holds the origin of a build against the policy's rules. A repository's own
// policy has those that it writes, and no others.
func (p *Policy) origin(a asked) []signing.Reason {
	rules, o := p.rules.Origin, a.origin
	var children []signing.Reason
	if !p.narrow || rules.Refs != nil {
		children = append(children, leaf("origin.refs", p.refs.match(o.SourceRepositoryRef), p.refs.String(), o.SourceRepositoryRef, "build from a branch or tag that the policy trusts"))
	}
	if p.wantsProtected() {
		was := "protected"
		if !o.RefProtected {
			was = "not protected, or the token does not say"
		}
		children = append(children, leaf("origin.ref_protected", o.RefProtected, "a protected branch or tag", was, "protect the branch or tag on the forge; a policy for builds of unprotected ones says `ref_protected: false`"))
	}
	if !p.narrow || rules.Reruns != "" {
		children = append(children, p.reruns(o))
	}
	if rules.Environment != "" {
		// GitHub ignores the case of environment names, GitLab does not.
		same := o.DeploymentEnvironment == rules.Environment || o.Kind == kindGitHub && fold(o.DeploymentEnvironment) == fold(rules.Environment)
		children = append(children, leaf("origin.environment", same, rules.Environment, o.DeploymentEnvironment, "run the job in this deployment environment"))
	}
	if !p.narrow || len(rules.kinds()) > 0 {
		children = append(children, p.kind(a))
	}
	if children = append(children, p.verify(a)...); len(children) == 0 {
		return nil
	}
	return []signing.Reason{node("origin", children...)}
}

// reruns denies repeated attempts of a run by default: anyone who may write can
// start one a month later, with the claims of the first.
func (p *Policy) reruns(o signing.Origin) signing.Reason {
	const rule = "origin.reruns"
	was := ""
	if o.RunAttempt != "" {
		was = "attempt " + o.RunAttempt
	}
	switch {
	case p.rules.Origin.Reruns == rerunsAllow:
		return leaf(rule, true, "any attempt", was, "")
	case o.Kind == kindGitLab && was == "":
		return leaf(rule, true, "the first attempt", "GitLab does not number attempts: a retried job is a new job", "")
	}
	if p.rules.Origin.Reruns == rerunsAttach {
		// Submit has looked for that request: here there is none.
		return leaf(rule, o.RunAttempt == "1", "the first attempt of a run, or one that asks for what an earlier attempt asked for", was, "start a new run: no earlier attempt of this run has submitted the same")
	}
	return leaf(rule, o.RunAttempt == "1", "the first attempt of a run", was, "start a new run instead of re-running this one, or write `reruns: allow`")
}

// trigger compares the event that caused the build. Only a repository's own policy
// may leave the events out: those of the service's policy hold.
func (p *Policy) trigger(rule string, o signing.Origin, events []string) []signing.Reason {
	if p.narrow && events == nil {
		return nil
	}
	fix := "start the build by one of these events"
	if why := refused(o.BuildTrigger); why != "" {
		fix = "sign in a build that is started by one of these events; " + o.BuildTrigger + " cannot be trusted: " + why
	}
	return []signing.Reason{leaf(rule, slices.Contains(events, o.BuildTrigger), oneOf(events), o.BuildTrigger, fix)}
}

func runnerLeaf(rule string, o signing.Origin, wanted string) signing.Reason {
	return leaf(rule, o.RunnerEnvironment == wanted, wanted, o.RunnerEnvironment, "run the job on a runner of this kind")
}

// github holds the rules that only GitHub answers.
//
// The caller's workflow (workflow_ref) and the file that defines the job
// (job_workflow_ref) are two rules. Without a builder they must be the same
// file: a reusable workflow, wherever it is from, signs only where the policy
// names it.
func (p *Policy) github(a asked, g github) signing.Reason {
	const path = "origin.github"
	o := a.origin
	children := append(p.trigger(path+".events", o, g.Events), workflow(path+".workflow", o, g.Workflow))
	if g.Builder != nil {
		children = append(children, a.builder(path+".builder", *g.Builder))
	} else {
		same := o.BuildSignerURI != "" && o.BuildSignerURI == o.BuildConfigURI
		children = append(children, leaf(path+".builder", same, "a job that the workflow defines itself: "+found(o.BuildConfigURI), o.BuildSignerURI, "the job is defined by a reusable workflow: name it as `builder` in the policy if it is trusted"))
	}
	if g.RunnerEnvironment != "" {
		children = append(children, runnerLeaf(path+".runner_environment", o, g.RunnerEnvironment))
	}
	if len(g.RunnerGroups) > 0 {
		children = append(children, a.runner(path+".runner_groups", "group", g.RunnerGroups, true, func(r signing.RunFacts) []string { return []string{r.RunnerGroup} }))
	}
	if len(g.RunnerLabels) > 0 {
		children = append(children, a.runner(path+".runner_labels", "label", g.RunnerLabels, false, func(r signing.RunFacts) []string { return r.RunnerLabels }))
	}
	return node(path, children...)
}

// workflow compares the caller's workflow file: that of the policy, of the
// repository and ref of the build. The whole URI is known, so that nothing has
// to be split: a file named "release.yml.evil", or a branch with "@" in its
// name, has no way to look like another. Without a path any file will do that
// is the repository's own.
func workflow(rule string, o signing.Origin, path string) signing.Reason {
	const fix = "sign in the workflow that the policy names, on the branch or tag of the build"
	file, ref := path, o.SourceRepositoryRef
	if file == "" {
		file = ".github/workflows/*"
	}
	wanted := fmt.Sprintf("https://%s/%s/%s@%s", o.Forge, o.SourceRepository, file, cmp.Or(ref, "REF"))
	rest, ok := inRepository(o.BuildConfigURI, o.Forge, o.SourceRepository, "/")
	switch {
	case !ok || ref == "":
		ok = false
	case path != "":
		ok = rest == path+"@"+ref
	default:
		file, own := strings.CutSuffix(rest, "@"+ref)
		ok = own && reWorkDir.MatchString(file)
	}
	return leaf(rule, ok, clip(wanted), o.BuildConfigURI, fix)
}

// builder compares the reusable workflow that defines the job. The token names
// its repository; where the policy has the id, the forge says whose that name is.
func (a asked) builder(path string, b builder) signing.Reason {
	o := a.origin
	repo := b.Repository
	if repo == "" {
		repo = o.SourceRepository
	}
	var owned []signing.Reason
	if b.RepositoryID != "" {
		known := a.answered().Builder
		if known == nil {
			return node(path, a.silent(path+".repository_id", signing.PartBuilder, b.RepositoryID))
		}
		if b.Repository == "" {
			repo = known.Repository
		}
		same := fold(known.Repository) == fold(repo) && known.ID == b.RepositoryID
		owned = append(owned, leaf(path+".repository_id", same, b.RepositoryID, known.ID+", which is "+known.Repository, "the builder's name was taken over by another repository, or it was made anew: only if it is the right one, update its id"))
	}
	wanted := fmt.Sprintf("https://%s/%s/%s", o.Forge, repo, b.Path)
	rest, ok := inRepository(o.BuildSignerURI, o.Forge, repo, "/")
	ref, isFile := refOf(rest, b.Path)
	children := []signing.Reason{leaf(path+".path", ok && isFile && repo != "", clip(wanted), o.BuildSignerURI, "call the reusable workflow that the policy names")}
	children = append(children, owned...)
	if len(b.SHA) > 0 {
		return node(path, append(children, leaf(path+".sha", slices.Contains(b.SHA, o.BuildSignerDigest), oneOf(b.SHA), o.BuildSignerDigest, "call the reusable workflow at a commit that the policy trusts"))...)
	}
	// Unpinned, and so of the build's own repository: the same ref as the
	// build's, which the rules above are about.
	return node(path, append(children, leaf(path+".ref", isFile && ref == o.SourceRepositoryRef && ref != "", o.SourceRepositoryRef, ref, "call the workflow at the ref of the build (`uses: ./...`), or pin commits with `sha`"))...)
}

func (p *Policy) gitlab(a asked, g gitlab) signing.Reason {
	const path = "origin.gitlab"
	o := a.origin
	children := p.trigger(path+".events", o, g.Events)
	if g.Config != "" {
		// GitLab writes PROJECT//PATH@REF.
		rest, ok := inRepository(o.BuildConfigURI, o.Forge, o.SourceRepository, "//")
		_, isFile := refOf(rest, g.Config)
		wanted := fmt.Sprintf("https://%s/%s//%s", o.Forge, o.SourceRepository, g.Config)
		children = append(children, leaf(path+".config", ok && isFile, clip(wanted), o.BuildConfigURI, "use the CI configuration that the policy names, in the project itself"))
	}
	if len(g.RunnerIDs) > 0 {
		ids := make([]string, len(g.RunnerIDs))
		for i, id := range g.RunnerIDs {
			ids[i] = strconv.FormatInt(id, 10)
		}
		children = append(children, leaf(path+".runner_ids", slices.Contains(ids, o.RunnerID), oneOf(ids), o.RunnerID, "run the job on one of these runners"))
	}
	if g.RunnerEnvironment != "" {
		children = append(children, runnerLeaf(path+".runner_environment", o, g.RunnerEnvironment))
	}
	if given(g.EnvironmentProtected) {
		was := "protected"
		if !o.EnvironmentProtected {
			was = "not protected, or the token does not say"
		}
		children = append(children, leaf(path+".environment_protected", o.EnvironmentProtected, "a protected deployment environment", was, "protect the environment in GitLab and name it in the job"))
	}
	if len(g.RunnerTags) > 0 {
		children = append(children, a.runner(path+".runner_tags", "tag", g.RunnerTags, false, func(r signing.RunFacts) []string { return r.RunnerLabels }))
	}
	if g.Variables != nil {
		children = append(children, a.inputs(path+".variables", *g.Variables))
	}
	return node(path, children...)
}

// inRepository returns what follows https://FORGE/REPOSITORY and the separator.
// The name of the repository is compared as forges do, everything else exactly.
func inRepository(uri, forge, repo, separator string) (string, bool) {
	rest, ok := strings.CutPrefix(uri, "https://"+forge+"/")
	if !ok || forge == "" || repo == "" || len(rest) < len(repo) || fold(rest[:len(repo)]) != fold(repo) {
		return "", false
	}
	return strings.CutPrefix(rest[len(repo):], separator)
}

var reRef = regexp.MustCompile(`^(?:refs/(?:heads|tags)/.+|[0-9a-f]{40}|[0-9a-f]{64})$`)

// refOf returns the ref of FILE@REF. A file whose name goes on after an "@" is
// another one: what follows path must be a whole ref, and not have a second
// file in it.
func refOf(file, path string) (string, bool) {
	ref, ok := strings.CutPrefix(file, path+"@")
	if !ok || !reRef.MatchString(ref) || strings.Contains(ref, ".yml@") || strings.Contains(ref, ".yaml@") {
		return "", false
	}
	return ref, true
}

func pathParts(path string) []string { return strings.Split(path, "/") }
