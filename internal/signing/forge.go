package signing

import (
	"cmp"
	"reflect"
	"slices"
	"time"
)

// ForgeQuestion is what a policy wants to know from the forge of a build. The
// zero value asks nothing.
type ForgeQuestion struct {
	Run      bool     `json:"run,omitempty"`      // the run, its job and its runner
	Ref      bool     `json:"ref,omitempty"`      // the build's own ref, and how it is protected
	Branches []string `json:"branches,omitempty"` // further refs, whole: refs/heads/main
	// Since asks for how long the protection of Ref and Branches is as it is.
	Since        bool     `json:"since,omitempty"`
	Pulls        bool     `json:"pulls,omitempty"`  // pull requests that hold the commit, with reviews, commits and pushers
	Commit       bool     `json:"commit,omitempty"` // authors, committer and co-authors of the commit
	Environment  bool     `json:"environment,omitempty"`
	Checks       bool     `json:"checks,omitempty"`       // check runs and commit statuses on the commit
	CheckNames   []string `json:"checkNames,omitempty"`   // those that are asked for
	Inputs       bool     `json:"inputs,omitempty"`       // manual inputs or variables of the run
	Attestation  bool     `json:"attestation,omitempty"`  // of this run, for each artifact
	WorkflowFile bool     `json:"workflowFile,omitempty"` // git blob ids of the caller's file and of the one that defines the job
	// PolicyFile asks for the repository's own .sealwright/policy.yml on its
	// default branch.
	PolicyFile bool `json:"policyFile,omitempty"`
	// BuilderRepository asks for the id of OWNER/NAME, that of a builder.
	BuilderRepository string `json:"builderRepository,omitempty"`
}

// BuilderOfJob, as BuilderRepository, is the repository of the file that defines
// the job, by the name in the token.
const BuilderOfJob = "*"

// Asks reports whether anything is asked at all.
func (q ForgeQuestion) Asks() bool { return !reflect.DeepEqual(q, ForgeQuestion{}) }

// Recheck returns what of q is asked again before a key is used: how refs are
// protected, and the repository's own policy. Everything else is about a run that
// may have ended since.
func (q ForgeQuestion) Recheck() ForgeQuestion {
	return ForgeQuestion{Ref: q.Ref, Branches: q.Branches, Since: q.Since && (q.Ref || len(q.Branches) > 0), PolicyFile: q.PolicyFile}
}

// And returns the question that asks what q and o ask. Where both name another
// builder's repository, that of the job is asked for.
func (q ForgeQuestion) And(o ForgeQuestion) ForgeQuestion {
	both := func(a, b []string) []string { return slices.Compact(slices.Sorted(slices.Values(slices.Concat(a, b)))) }
	if q.BuilderRepository != "" && o.BuilderRepository != "" && q.BuilderRepository != o.BuilderRepository {
		q.BuilderRepository = BuilderOfJob
	}
	return ForgeQuestion{
		Run: q.Run || o.Run, Ref: q.Ref || o.Ref, Branches: both(q.Branches, o.Branches), Since: q.Since || o.Since,
		Pulls: q.Pulls || o.Pulls, Commit: q.Commit || o.Commit, Environment: q.Environment || o.Environment,
		Checks: q.Checks || o.Checks, CheckNames: both(q.CheckNames, o.CheckNames), Inputs: q.Inputs || o.Inputs,
		Attestation: q.Attestation || o.Attestation, WorkflowFile: q.WorkflowFile || o.WorkflowFile, PolicyFile: q.PolicyFile || o.PolicyFile,
		BuilderRepository: cmp.Or(q.BuilderRepository, o.BuilderRepository),
	}
}

// The parts of ForgeFacts, as ForgeFacts.Unknown names them.
const (
	PartRun          = "run"
	PartRef          = "ref"
	PartBranches     = "branches" // PartBranches + " " + ref
	PartPulls        = "pulls"
	PartCommit       = "commit"
	PartEnvironment  = "environment"
	PartChecks       = "checks"
	PartInputs       = "inputs"
	PartAttestation  = "attestation"
	PartWorkflowFile = "workflow_file"
	PartPolicyFile   = "policy_file"
	PartBuilder      = "builder"
	// PartPushers is of the pull requests: Pulls is answered, and who pushed to them
	// is not known. Whoever excludes pushers refuses then.
	PartPushers = "pushers"
)

// ForgeFacts is what a forge answered. A part that is nil was not asked for, or
// is in Unknown with the reason why there is no answer: both are no. A forge that
// could not be reached is an error of the one who asked, never a fact.
type ForgeFacts struct {
	Forge string    `json:"forge"`
	At    time.Time `json:"at"`

	Run          *RunFacts          `json:"run,omitempty"`
	Ref          *RefFacts          `json:"ref,omitempty"`
	Branches     []RefFacts         `json:"branches,omitempty"`
	Pulls        *PullFacts         `json:"pulls,omitempty"`
	Commit       *CommitFacts       `json:"commit,omitempty"`
	Environment  *EnvironmentFacts  `json:"environment,omitempty"`
	Checks       *CheckFacts        `json:"checks,omitempty"`
	Inputs       *InputFacts        `json:"inputs,omitempty"`
	Attestations *AttestationFacts  `json:"attestations,omitempty"`
	Workflow     *WorkflowFileFacts `json:"workflow,omitempty"`
	PolicyFile   *PolicyFileFacts   `json:"policyFile,omitempty"`
	Builder      *BuilderFacts      `json:"builder,omitempty"`

	// Unknown says, by part, why the forge has no answer: a missing permission, an
	// edition without the feature, what the forge does not tell.
	Unknown map[string]string `json:"unknown,omitempty"`
	// Asked lists what was asked of whom, for the record: "GET /repos/...".
	Asked []Observation `json:"asked,omitempty"`
}

// RunFacts is a run (GitHub) or a pipeline with its job (GitLab) as the forge has
// it now.
type RunFacts struct {
	RepositoryID     string `json:"repositoryID"`
	HeadRepositoryID string `json:"headRepositoryID,omitempty"` // another one than RepositoryID is a fork
	ID               string `json:"id"`
	Attempt          string `json:"attempt,omitempty"`
	Commit           string `json:"commit"`
	Ref              string `json:"ref,omitempty"` // as the forge names it: a branch or tag without refs/
	Event            string `json:"event"`
	Path             string `json:"path,omitempty"` // of the workflow file
	Status           string `json:"status"`         // the forge's word
	Running          bool   `json:"running"`        // in progress now
	// Actor started the run, Restarter this attempt of it. They differ in a re-run.
	Actor     Account `json:"actor"`
	Restarter Account `json:"restarter"`
	// Referenced are the reusable workflows that the run uses.
	Referenced []WorkflowRef `json:"referenced,omitempty"`

	JobID        string   `json:"jobID,omitempty"`
	JobRunning   bool     `json:"jobRunning,omitempty"`
	RunnerID     string   `json:"runnerID,omitempty"`
	RunnerGroup  string   `json:"runnerGroup,omitempty"`
	RunnerLabels []string `json:"runnerLabels,omitempty"` // labels, tags on GitLab
}

// WorkflowRef is a workflow file at a commit.
type WorkflowRef struct {
	Path string `json:"path"` // OWNER/NAME/PATH
	SHA  string `json:"sha"`
	Ref  string `json:"ref,omitempty"`
}

// RefFacts is a branch or tag and how it is protected, over everything that
// protects it: the strictest of what applies to everybody who is not in Bypass.
type RefFacts struct {
	Ref      string `json:"ref"` // whole: refs/heads/main
	Exists   bool   `json:"exists"`
	Commit   string `json:"commit,omitempty"`
	Contains bool   `json:"contains"` // the build's commit is its head or an ancestor of it

	Protected         bool `json:"protected"`
	RequiredApprovals int  `json:"requiredApprovals"`
	CodeOwners        bool `json:"codeOwners"`
	DismissStale      bool `json:"dismissStale"`
	LastPushApproval  bool `json:"lastPushApproval"`
	BlockForcePush    bool `json:"blockForcePush"`
	BlockDeletion     bool `json:"blockDeletion"`
	SignedCommits     bool `json:"signedCommits"`
	// AuthorMayApprove is GitLab's setting; GitHub never lets authors approve.
	AuthorMayApprove bool `json:"authorMayApprove,omitempty"`
	// Bypass lists who may pass by the rules: "admins", "team 12", "app 34".
	Bypass []string `json:"bypass,omitempty"`
	// Rules name what protects it: "ruleset 12 (main)", "branch protection".
	Rules []string `json:"rules,omitempty"`
	// Since is from when on the protection has been at least this; zero is unknown.
	Since time.Time `json:"since,omitzero"`
	// SinceUnknown says why Since is not known.
	SinceUnknown string `json:"sinceUnknown,omitempty"`
}

// PullFacts are the pull or merge requests that hold the build's commit.
type PullFacts struct {
	Pulls []PullRequest `json:"pulls"` // none is a fact: the commit came without one
}

// PullRequest is one pull or merge request.
type PullRequest struct {
	Number string    `json:"number"` // iid on GitLab
	URL    string    `json:"url,omitempty"`
	Open   bool      `json:"open"`
	Merged bool      `json:"merged"`
	At     time.Time `json:"at,omitzero"` // merged
	Base   string    `json:"base"`        // the branch it goes to, without refs/heads/
	Head   string    `json:"head"`        // its newest commit
	// Result is the commit that merging made: a merge, squash or rebase commit.
	Result  string    `json:"result,omitempty"`
	Author  Account   `json:"author"`
	Authors []Account `json:"authors,omitempty"` // of its commits: authors, committers, co-authors
	// Unmapped names authors whom the forge does not map to an account.
	Unmapped []string  `json:"unmapped,omitempty"`
	Pushers  []Account `json:"pushers,omitempty"`
	Merger   Account   `json:"merger,omitzero"`
	Reviews  []Review  `json:"reviews,omitempty"` // the newest of each reviewer
}

// Review is somebody's verdict on a pull request.
type Review struct {
	By       Account   `json:"by"`
	Approved bool      `json:"approved"` // else changes are asked for
	Commit   string    `json:"commit,omitempty"`
	At       time.Time `json:"at,omitzero"`
}

// CommitFacts is the build's commit.
type CommitFacts struct {
	SHA      string    `json:"sha"`
	Authors  []Account `json:"authors,omitempty"` // author, committer, co-authors
	Unmapped []string  `json:"unmapped,omitempty"`
	Verified bool      `json:"verified"` // the forge verified its signature
	Subject  string    `json:"subject,omitempty"`
}

// EnvironmentFacts is the deployment environment that the job names.
type EnvironmentFacts struct {
	Name      string `json:"name"`
	Exists    bool   `json:"exists"`
	Reviewers int    `json:"reviewers"` // how many, persons and teams, may approve a deployment
	// Required is how many have to.
	Required       int      `json:"required"`
	NoSelfReview   bool     `json:"noSelfReview"`
	ProtectedOnly  bool     `json:"protectedOnly"`      // protected branches may deploy, others not
	BranchPatterns []string `json:"patterns,omitempty"` // where set, refs that may deploy
	// Approved are those who approved this deployment: facts, never Approvals.
	Approved []Review `json:"approved,omitempty"`
}

// CheckFacts are the newest checks of each name on the build's commit.
type CheckFacts struct {
	Checks []CheckResult `json:"checks"`
}

// CheckResult is a check run or commit status.
type CheckResult struct {
	Name string `json:"name"`
	Kind string `json:"kind"` // "check_run", "status", "job"
	// App is who says so: the slug of the App (GitHub), the account otherwise.
	App   string `json:"app,omitempty"`
	AppID string `json:"appID,omitempty"`
	// Done and OK: neutral and skipped are not OK.
	Done  bool      `json:"done"`
	OK    bool      `json:"ok"`
	State string    `json:"state"` // the forge's word
	At    time.Time `json:"at,omitzero"`
	URL   string    `json:"url,omitempty"`
}

// InputFacts names the manual inputs or variables that a run could have been
// given. Values are not recorded: they may be secrets.
type InputFacts struct {
	Names []string `json:"names"` // none is a fact
}

// AttestationFacts are attestations that were verified, not only listed.
type AttestationFacts struct {
	Verified []Attestation `json:"verified,omitempty"`
	// Refused says, by digest, why those that the forge has do not count.
	Refused map[Digest]string `json:"refused,omitempty"`
}

// Attestation says that a run built a digest.
type Attestation struct {
	Digest       Digest `json:"digest"`
	RepositoryID string `json:"repositoryID"`
	Commit       string `json:"commit"`
	Run          string `json:"run"` // RunInvocationURI
	Predicate    string `json:"predicate"`
}

// WorkflowFileFacts are the git blob ids of the build's files at their commits.
type WorkflowFileFacts struct {
	Config BlobFact `json:"config"` // the caller's workflow file or the CI configuration
	Signer BlobFact `json:"signer"` // the file that defines the job; the same where there is one
}

// BlobFact is a file at a commit.
type BlobFact struct {
	Path   string `json:"path"`
	Commit string `json:"commit"`
	Blob   string `json:"blob"` // git's object id
}

// PolicyFileFacts is the repository's own policy at a commit: the head of Branch,
// the default branch, where that is named.
type PolicyFileFacts struct {
	Branch string `json:"branch"`
	Commit string `json:"commit"`
	Exists bool   `json:"exists"` // false only if the tree was listed and it is not there
	Digest Digest `json:"digest,omitempty"`
	Text   []byte `json:"text,omitempty"`
}

// BuilderFacts is the repository of a reusable workflow.
type BuilderFacts struct {
	Repository string `json:"repository"`
	ID         string `json:"id"`
}
