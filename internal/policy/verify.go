package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/signing"
)

// AsksForge reports whether a rule of the tree of reasons rests on what the forge
// says: it fails for facts that hold no answer yet.
func AsksForge(rule string) bool {
	for _, prefix := range []string{ruleVerify, "origin.reachable_from", "bind.attestation", "origin.github.runner_groups", "origin.github.runner_labels", "origin.github.builder.repository_id",
		"origin.gitlab.runner_tags", "origin.gitlab.variables", ruleRepository, "key.require.verify_run", "key.require.attestation", "key.require.branch_approvals"} {
		if rest, ok := strings.CutPrefix(rule, prefix); ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			return true
		}
	}
	return false
}

const (
	notAsked    = "it was not asked"
	notAnswered = "there is nothing about it in the answer"

	ruleVerify     = "origin.verify"
	ruleRepository = "repository_policy"
)

// asked is what the forge was asked about a build, and answered.
type asked struct {
	origin signing.Origin
	facts  *signing.ForgeFacts
}

// silent is the reason for a part that has no answer.
func (a asked) silent(rule, part, wanted string) signing.Reason {
	const fix = "give the service what it needs on the forge (`sealwrightd config check --online` says what is missing), or take the rule out if the policy is right without it"
	why := notAsked
	switch {
	case a.facts == nil:
	case a.facts.Forge != a.origin.Forge:
		why = "there are answers of " + found(a.facts.Forge) + " only"
	case a.facts.Unknown[part] != "":
		why = a.facts.Unknown[part]
	default:
		why = notAnswered
	}
	return leaf(rule, false, wanted, "the forge did not answer: "+why, fix)
}

// answered returns the answers, none if they are of another forge than the build's.
func (a asked) answered() signing.ForgeFacts {
	if a.facts == nil || a.facts.Forge != a.origin.Forge || a.origin.Forge == "" {
		return signing.ForgeFacts{}
	}
	return *a.facts
}

// verify holds the answers of the forge against the rules on the origin.
func (p *Policy) verify(a asked) []signing.Reason {
	var out []signing.Reason
	o := p.rules.Origin
	if len(o.Reachable) > 0 {
		out = append(out, a.reachable(o.Reachable, p.wantsProtected()))
	}
	v := o.Verify
	if v == nil {
		return out
	}
	if given(v.Run) {
		out = append(out, a.run())
	}
	if v.Ref != nil {
		out = append(out, a.ref(*v.Ref))
	}
	if v.Branch != nil {
		out = append(out, a.branches(*v.Branch))
	}
	if v.PullRequest != nil {
		out = append(out, a.pullRequest(*v.PullRequest, p.targets()))
	}
	if v.Environment != nil {
		out = append(out, a.environment(*v.Environment))
	}
	if len(v.Checks) > 0 {
		out = append(out, a.checks(v.Checks))
	}
	if v.Inputs != nil {
		out = append(out, a.inputs(ruleVerify+".inputs", *v.Inputs))
	}
	if len(v.WorkflowBlobs) > 0 {
		out = append(out, a.workflowBlobs(v.WorkflowBlobs))
	}
	return out
}

// same is a leaf about a value that the token and the forge both state. What
// either does not say is a no.
func same(rule, token, forge, what string) signing.Reason {
	wanted := token
	if token == "" {
		wanted = "the " + what + " that the token states: it states none"
	}
	return leaf(rule, token != "" && token == forge, wanted, forge, "the forge knows another "+what+" than the token says: sign from the run that is meant")
}

// run compares the run that asks, as the forge has it now, with what its token
// says. A run that is over cannot be asking.
func (a asked) run() signing.Reason {
	const rule = ruleVerify + ".run"
	r := a.answered().Run
	if r == nil {
		return a.silent(rule, signing.PartRun, "the run of the token, in progress")
	}
	o := a.origin
	ref := strings.TrimPrefix(strings.TrimPrefix(o.SourceRepositoryRef, "refs/heads/"), "refs/tags/")
	children := []signing.Reason{
		same(rule+".repository", o.SourceRepositoryIdentifier, r.RepositoryID, "repository"),
		same(rule+".id", o.RunID, r.ID, "run"),
		same(rule+".commit", o.SourceRepositoryDigest, r.Commit, "commit"),
		same(rule+".ref", ref, strings.TrimPrefix(strings.TrimPrefix(r.Ref, "refs/heads/"), "refs/tags/"), "branch or tag"),
		same(rule+".event", o.BuildTrigger, r.Event, "event"),
	}
	if o.Kind == kindGitHub {
		children = append(children,
			same(rule+".head_repository", o.SourceRepositoryIdentifier, r.HeadRepositoryID, "repository of the commit"),
			same(rule+".attempt", o.RunAttempt, r.Attempt, "attempt"),
			a.path(rule+".path", *r), a.referenced(rule+".referenced", *r))
	}
	if o.RunnerID != "" {
		children = append(children, same(rule+".runner", o.RunnerID, r.RunnerID, "runner"))
	}
	who := r.Status + ", started by " + called(r.Actor)
	if r.Restarter.Known() && r.Restarter.Key() != r.Actor.Key() {
		who += ", started again by " + called(r.Restarter)
	}
	children = append(children, leaf(rule+".running", r.Running, "a run in progress", who, "sign while the run is in progress: the token of a run that is over may have been stolen"))
	return node(rule, append(children, a.job(rule+".job", *r))...)
}

// job holds the job of the token against the one that the answer is about.
func (a asked) job(rule string, r signing.RunFacts) signing.Reason {
	if a.origin.JobID != r.JobID || r.JobID == "" {
		return same(rule, a.origin.JobID, r.JobID, "job")
	}
	was := r.JobID + ", not in progress"
	if r.JobRunning {
		was = r.JobID + ", in progress"
	}
	return leaf(rule, r.JobRunning, "job "+r.JobID+" in progress", was, "sign in a step of the job: the token of a job that is over may have been stolen")
}

// called names an account for people, by what cannot be changed too.
func called(a signing.Account) string {
	if !a.Known() {
		return "an account that the forge does not name"
	}
	return fmt.Sprintf("%s (%s)", a.Login, a.ID)
}

// path compares the workflow file of the run, which some answers give with its ref.
func (a asked) path(rule string, r signing.RunFacts) signing.Reason {
	o := a.origin
	rest, ok := inRepository(o.BuildConfigURI, o.Forge, o.SourceRepository, "/")
	file, named := strings.CutSuffix(rest, "@"+o.SourceRepositoryRef)
	wanted := file
	if !ok || !named {
		wanted = "the workflow file that the token states: " + found(o.BuildConfigURI)
	}
	return leaf(rule, ok && named && file != "" && (r.Path == file || strings.HasPrefix(r.Path, file+"@")), wanted, r.Path, "the forge knows another workflow file for this run than the token says: sign from the run that is meant")
}

// referenced looks for the reusable workflow that defines the job among those
// that the run uses, at the commit of the token.
func (a asked) referenced(rule string, r signing.RunFacts) signing.Reason {
	o := a.origin
	if o.BuildSignerURI == o.BuildConfigURI && o.BuildSignerURI != "" {
		return leaf(rule, true, "a job that the workflow defines itself", count(len(r.Referenced), "reusable workflow"), "")
	}
	signer, ok := strings.CutPrefix(o.BuildSignerURI, "https://"+o.Forge+"/")
	var uses []string
	for _, w := range r.Referenced {
		file := fileOf(w.Path)
		uses = append(uses, file+" at "+w.SHA)
		if ok && file != "" && w.SHA != "" && w.SHA == o.BuildSignerDigest && len(signer) > len(file) && fold(signer[:len(file)]) == fold(file) && signer[len(file)] == '@' {
			return leaf(rule, true, signer, file+" at "+w.SHA, "")
		}
	}
	return leaf(rule, false, fmt.Sprintf("%s at %s", found(signer), found(o.BuildSignerDigest)), orElse(oneOf(uses), "no reusable workflow"), "the forge does not know that this run uses the workflow that the token names: sign from the run that is meant")
}

// fileOf takes the ref off OWNER/NAME/PATH.yml@REF.
func fileOf(path string) string {
	for _, end := range []string{".yml@", ".yaml@"} {
		if file, _, ok := strings.Cut(path, end); ok {
			return file + strings.TrimSuffix(end, "@")
		}
	}
	return path
}

// runner holds what the forge says of the runner against a list: one of it where
// any will do, else all of it.
func (a asked) runner(rule, what string, wanted []string, any bool, has func(signing.RunFacts) []string) signing.Reason {
	text := what + " " + oneOf(wanted)
	if !any {
		text = what + " " + strings.Join(wanted, " and ")
	}
	r := a.answered().Run
	if r == nil {
		return a.silent(rule, signing.PartRun, text)
	}
	if why := a.job(rule, *r); a.origin.JobID == "" || r.JobID != a.origin.JobID {
		return why // what is known is of another job's runner
	}
	list := has(*r)
	isThere := func(w string) bool { return slices.Contains(list, w) }
	ok := slices.ContainsFunc(wanted, isThere)
	if !any {
		ok = !slices.ContainsFunc(wanted, func(w string) bool { return !isThere(w) })
	}
	return leaf(rule, ok, clip(text), strings.Join(list, ", "), "run the job on a runner with this "+what)
}

// inputs compares the manual inputs or variables of the run with those that may
// be given. Values are not looked at.
func (a asked) inputs(rule string, may names) signing.Reason {
	wanted := "no manual inputs or variables"
	if len(may) > 0 {
		wanted = "no manual inputs or variables but " + oneOf(may)
	}
	i := a.answered().Inputs
	if i == nil {
		return a.silent(rule, signing.PartInputs, wanted)
	}
	var more []string
	for _, n := range i.Names {
		if !slices.Contains(may, n) {
			more = append(more, n)
		}
	}
	if len(more) > 0 {
		return leaf(rule, false, clip(wanted), strings.Join(more, ", "), "start the run without them, or list them in the policy if they cannot change what is built")
	}
	return leaf(rule, true, clip(wanted), count(len(i.Names), "input"), "")
}

// environment looks at the deployment environment that the job names.
func (a asked) environment(want environment) signing.Reason {
	const rule = ruleVerify + ".environment"
	e := a.answered().Environment
	if e == nil {
		return a.silent(rule, signing.PartEnvironment, "a protected deployment environment")
	}
	named := e.Exists && e.Name != "" && (e.Name == a.origin.DeploymentEnvironment || a.origin.Kind == kindGitHub && fold(e.Name) == fold(a.origin.DeploymentEnvironment))
	children := []signing.Reason{leaf(rule+".name", named, "the environment of the job: "+found(a.origin.DeploymentEnvironment), exists(e.Exists, e.Name), "name a deployment environment in the job that is there")}
	if n := want.RequiredReviewers; n > 0 {
		children = append(children, leaf(rule+".required_reviewers", int64(e.Required) >= n && int64(e.Reviewers) >= n, fmt.Sprintf("at least %d have to approve a deployment", n), fmt.Sprintf("%d of %d", e.Required, e.Reviewers), "set required reviewers for the environment"))
	}
	if given(want.NoSelfReview) {
		children = append(children, demanded(rule+".no_self_review", e.NoSelfReview, "nobody approves a deployment that he started himself", "prevent self-review in the settings of the environment"))
	}
	if given(want.ProtectedBranchesOnly) {
		children = append(children, demanded(rule+".protected_branches_only", e.ProtectedOnly, "only protected branches may deploy", "restrict the environment to protected branches"))
	}
	if n := want.Approved; n > 0 {
		children = append(children, a.deployed(rule+".approved", *e, n))
	}
	return node(rule, children...)
}

// deployed counts those who approved this deployment, other than who started it.
func (a asked) deployed(rule string, e signing.EnvironmentFacts, n int64) signing.Reason {
	run := a.answered().Run
	seen := map[string]bool{}
	for _, r := range e.Approved {
		starter := a.origin.ActorID != "" && r.By.ID == a.origin.ActorID || run != nil && (r.By.Key() == run.Actor.Key() || r.By.Key() == run.Restarter.Key())
		if r.Approved && r.By.Known() && !r.By.Bot && !starter {
			seen[r.By.Key()] = true
		}
	}
	return leaf(rule, int64(len(seen)) >= n, fmt.Sprintf("%d approved this deployment, other than who started it", n), count(len(seen), "person"), "let the deployment be approved by somebody else")
}

// checks wants every result of a name to be green, so that one that somebody adds
// hides none that failed.
func (a asked) checks(want []check) signing.Reason {
	const rule = ruleVerify + ".checks"
	c := a.answered().Checks
	if c == nil {
		names := make([]string, len(want))
		for i := range want {
			names[i] = want[i].String()
		}
		return a.silent(rule, signing.PartChecks, clip("green: "+strings.Join(names, ", ")))
	}
	if a.origin.SourceRepositoryDigest == "" {
		return noCommit(rule, "checks on the commit of the build")
	}
	var children []signing.Reason
	for i, w := range want {
		at := config.Index(rule, i)
		wanted, was, ok := w.String()+" is green", "no such check on the commit", false
		for _, r := range c.Checks {
			if r.Name != w.Name || w.App != "" && r.App != w.App && (r.AppID != w.App || r.AppID == "") {
				continue
			}
			was, ok = r.State, r.Done && r.OK
			if r.App != "" {
				was += ", by " + r.App
			}
			if !ok {
				break
			}
		}
		children = append(children, leaf(at, ok, wanted, was, "let the check pass on the commit of the build, before it is signed"))
	}
	return node(rule, children...)
}

// workflowBlobs compares the git blobs of the file of the run and of the one that
// defines the job.
func (a asked) workflowBlobs(want []string) signing.Reason {
	const rule = ruleVerify + ".workflow_blobs"
	w := a.answered().Workflow
	if w == nil {
		return a.silent(rule, signing.PartWorkflowFile, "a workflow file of "+oneOf(want))
	}
	o := a.origin
	one := func(what string, b signing.BlobFact, commit string) signing.Reason {
		ok := b.Blob != "" && slices.Contains(want, b.Blob) && (commit == "" || b.Commit == commit)
		return leaf(rule+"."+what, ok, oneOf(want), fmt.Sprintf("%s: %s at %s", found(b.Path), found(b.Blob), found(b.Commit)), "review the change of the file, and list its blob in the policy")
	}
	return node(rule, one("config", w.Config, o.BuildConfigDigest), one("signer", w.Signer, o.BuildSignerDigest))
}

// attestation wants an attestation for each image that says that this very run
// built it.
func (a asked) attestation(images []signing.Image) signing.Reason {
	const rule = "bind.attestation"
	o := a.origin
	wanted := "an attestation by " + found(o.RunInvocationURI)
	facts := a.answered().Attestations
	if facts == nil {
		return a.silent(rule, signing.PartAttestation, wanted)
	}
	return each(rule, images, wanted, func(i signing.Image) *signing.Reason {
		d := i.Artifact.Digest
		was := orElse(facts.Refused[d], "none that counts")
		for _, at := range facts.Verified {
			if at.Digest != d {
				continue
			}
			if at.Run != "" && at.Run == o.RunInvocationURI && at.RepositoryID == o.SourceRepositoryIdentifier && at.Commit == o.SourceRepositoryDigest && at.Commit != "" {
				return nil
			}
			was = "one by " + found(at.Run)
		}
		why := leaf("", false, wanted, string(d)+": "+was, "attest the image in this run before it is signed, as actions/attest-build-provenance does")
		return &why
	})
}

// demanded is a leaf about a setting that has to be on.
func demanded(rule string, on bool, wanted, fix string) signing.Reason {
	was := "it is not set"
	if on {
		was = "it is set"
	}
	return leaf(rule, on, wanted, was, fix)
}

func exists(is bool, name string) string {
	if !is && name != "" {
		return name + " does not exist"
	}
	return name
}
