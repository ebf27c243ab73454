package policy

import (
	"errors"
	"time"

	"github.com/sealwright/sealwright/internal/config"
)

// approvals is what a policy demands of people. The short form names one group;
// `all` names several.
type approvals struct {
	All      []approvalGroup `yaml:"all"`
	Required int64           `yaml:"required"`
	From     []string        `yaml:"from"`

	Exclude   []string        `yaml:"exclude"` // nil is all of them, an empty list nobody
	Expires   config.Duration `yaml:"expires"`
	Supersede *bool           `yaml:"supersede"`
	Deny      string          `yaml:"deny"` // "ends" (default) or "withdraws"
	Ways      []string        `yaml:"ways"` // nil is comment
}

type approvalGroup struct {
	Required int64    `yaml:"required"`
	From     []string `yaml:"from"`
}

// verify is what the forge is asked about the origin of a build.
type verify struct {
	Run           *bool        `yaml:"run" json:"run,omitempty"`
	Ref           *protection  `yaml:"ref" json:"ref,omitempty"` // the build's own
	Branch        *branch      `yaml:"branch" json:"branch,omitempty"`
	PullRequest   *pullRequest `yaml:"pull_request" json:"pull_request,omitempty"`
	Environment   *environment `yaml:"environment" json:"environment,omitempty"`
	Checks        []check      `yaml:"checks" json:"checks,omitempty"`
	Inputs        *names       `yaml:"inputs" json:"inputs,omitempty"`
	WorkflowBlobs []string     `yaml:"workflow_blobs" json:"workflow_blobs,omitempty"`
}

// branch is the protection of one or several branches, all of them, of which one
// has the commit.
type branch struct {
	Of         oneOrMore `yaml:"of" json:"of"`
	protection `yaml:",inline"`
}

// protection is how a branch or tag has to be protected at least.
type protection struct {
	RequiredApprovals int64 `yaml:"required_approvals" json:"required_approvals,omitempty"`
	CodeOwners        *bool `yaml:"code_owners" json:"code_owners,omitempty"`
	DismissStale      *bool `yaml:"dismiss_stale" json:"dismiss_stale,omitempty"`
	LastPushApproval  *bool `yaml:"last_push_approval" json:"last_push_approval,omitempty"`
	BlockForcePush    *bool `yaml:"block_force_push" json:"block_force_push,omitempty"`
	BlockDeletion     *bool `yaml:"block_deletion" json:"block_deletion,omitempty"`
	SignedCommits     *bool `yaml:"signed_commits" json:"signed_commits,omitempty"`
	NoBypass          *bool `yaml:"no_bypass" json:"no_bypass,omitempty"`
	// Bypass lists who may bypass, as the forge's answer names them.
	Bypass       []string `yaml:"bypass" json:"bypass,omitempty"`
	EnforcedFrom interval `yaml:"enforced_from" json:"enforced_from,omitempty"` // a day
}

// pullRequest demands that the commit is what merging a pull request made, with
// that many approvals of its head by others than those who wrote it.
type pullRequest struct {
	RequiredApprovals int64 `yaml:"required_approvals" json:"required_approvals,omitempty"` // 1 if 0
}

// environment is what the deployment environment of the job has to demand.
type environment struct {
	RequiredReviewers     int64 `yaml:"required_reviewers" json:"required_reviewers,omitempty"`
	NoSelfReview          *bool `yaml:"no_self_review" json:"no_self_review,omitempty"`
	ProtectedBranchesOnly *bool `yaml:"protected_branches_only" json:"protected_branches_only,omitempty"`
	Approved              int64 `yaml:"approved" json:"approved,omitempty"` // how many others than who started the run
}

// check is a named check or commit status, in short only its name.
type check struct {
	Name string `yaml:"name" json:"name"`
	// App is who has to say so: the id or slug of a GitHub App.
	App string `yaml:"app" json:"app,omitempty"`
}

// UnmarshalText reads the short form.
func (c *check) UnmarshalText(text []byte) error { c.Name = string(text); return nil }

// ShortForm marks config.Short.
func (*check) ShortForm() {}

// names is a list, or `none`.
type names []string

// UnmarshalText reads `none`.
func (n *names) UnmarshalText(text []byte) error {
	if string(text) != "none" {
		return errors.New("must be none, or a list of names")
	}
	*n = names{}
	return nil
}

// ShortForm marks config.Short.
func (*names) ShortForm() {}

// oneOrMore is a list that may be written as its only entry.
type oneOrMore []string

// UnmarshalText reads the one entry.
func (l *oneOrMore) UnmarshalText(text []byte) error { *l = oneOrMore{string(text)}; return nil }

// ShortForm marks config.Short.
func (*oneOrMore) ShortForm() {}

// human says that people submit under this policy, and no jobs: what was signed
// before is signed anew.
type human struct {
	MaxAge config.Duration `yaml:"max_age" json:"max_age,omitempty"` // of what is submitted again
}

// UnmarshalText reads `true`.
func (h *human) UnmarshalText(text []byte) error {
	if string(text) != "true" {
		return errors.New("must be true, or {max_age: ...}; leave the word out in a policy for jobs")
	}
	return nil
}

// ShortForm marks config.Short.
func (*human) ShortForm() {}

// defaultSourceAge is how old what a person submits again may be.
const defaultSourceAge = config.Duration(30 * 24 * time.Hour)

// maxAge returns the bound that holds.
func (h human) maxAge() time.Duration {
	if h.MaxAge == 0 {
		return defaultSourceAge.Duration()
	}
	return h.MaxAge.Duration()
}
