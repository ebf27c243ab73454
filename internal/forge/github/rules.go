package github

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxRules bounds the rules of a branch and the rulesets of a repository:
	// GitHub allows 75 rulesets for each repository and organisation.
	maxRules = 500
	// maxTagDepth bounds tags of tags.
	maxTagDepth = 5
)

// ref asks for a branch or tag by its exact name, and for how it is protected.
func (b *build) ref(ctx context.Context, name string) (*signing.RefFacts, error) {
	rest, ok := strings.CutPrefix(name, "refs/")
	if !ok || rest == "" || !ask.IsCommit(b.o.SourceRepositoryDigest) {
		return nil, ask.Lacks("a ref and a commit")
	}
	f := &signing.RefFacts{Ref: name}
	var r struct {
		Ref    string    `json:"ref"`
		Object gitObject `json:"object"`
	}
	// A slash in the name separates path segments here, as GitHub documents it.
	at := ask.Path("repos", b.at.owner, b.at.name, "git", "ref") + "/" + ask.Path(strings.Split(rest, "/")...)
	switch err := b.get(ctx, b.at.client, at, nil, &r, "contents: read"); {
	case errors.Is(err, signing.NotFound):
		return f, nil
	case err != nil:
		return nil, err
	case r.Ref != name:
		return nil, ask.Garbled(ask.Clip(name), "it is another ref")
	}
	commit, err := b.peel(ctx, r.Object)
	if err != nil {
		return nil, err
	}
	f.Exists, f.Commit = true, commit
	if f.Contains, err = b.contains(ctx, commit); err != nil {
		return nil, err
	}
	if err := b.protection(ctx, f); err != nil {
		return nil, err
	}
	return f, nil
}

// gitObject is what a ref or a tag points to.
type gitObject struct {
	Type string `json:"type"`
	SHA  string `json:"sha"`
}

// peel follows annotated tags to the commit.
func (b *build) peel(ctx context.Context, o gitObject) (string, error) {
	for range maxTagDepth {
		switch {
		case o.Type == "commit" && ask.IsCommit(o.SHA):
			return o.SHA, nil
		case o.Type != "tag" || !ask.IsCommit(o.SHA):
			return "", &signing.Error{Code: signing.Invalid, Message: "the ref points to no commit", Found: ask.Clip(o.Type)}
		}
		var t struct {
			Object gitObject `json:"object"`
		}
		if err := b.get(ctx, b.at.client, ask.Path("repos", b.at.owner, b.at.name, "git", "tags", o.SHA), nil, &t, "contents: read"); err != nil {
			return "", err
		}
		o = t.Object
	}
	return "", &signing.Error{Code: signing.Invalid, Message: "the tag is a tag of tags", Expected: fmt.Sprintf("at most %d levels", maxTagDepth)}
}

// contains reports whether the build's commit is head or an ancestor of it.
func (b *build) contains(ctx context.Context, head string) (bool, error) {
	commit := b.o.SourceRepositoryDigest
	if commit == head {
		return true, nil
	}
	var v comparison
	err := b.get(ctx, b.at.client, ask.Path("repos", b.at.owner, b.at.name, "compare", commit+"..."+head), url.Values{"per_page": {"1"}}, &v, "contents: read")
	switch {
	case errors.Is(err, signing.NotFound): // no common history, or no such commit
		return false, nil
	case err != nil:
		return false, err
	case v.Status == "":
		return false, ask.Garbled("the comparison", "it has no status")
	}
	return (v.Status == "ahead" || v.Status == "identical") && v.MergeBase != nil && v.MergeBase.SHA == commit, nil
}

// protection fills in how f.Ref is protected.
func (b *build) protection(ctx context.Context, f *signing.RefFacts) error {
	var rs []ruleset
	var err error
	branch, isBranch := strings.CutPrefix(f.Ref, "refs/heads/")
	switch {
	case isBranch:
		rs, err = b.branchRules(ctx, branch)
	case strings.HasPrefix(f.Ref, "refs/tags/"):
		rs, err = b.tagRules(ctx, f.Ref)
	default:
		return nil // refs/pull/N/merge: nothing protects it
	}
	if err != nil {
		return err
	}
	for _, r := range rs {
		r.apply(f)
	}
	if !isBranch {
		return b.since(ctx, f, rs)
	}
	alone := *f
	classic, err := b.classic(ctx, branch)
	switch {
	case ask.Permanent(err) && !f.Protected:
		return err // nothing is known to protect it
	case ask.Permanent(err):
		// It could only add to what the rulesets demand, so they hold without it.
		f.Rules = append(f.Rules, "branch protection (cannot be read: "+err.Error()+")")
	case err != nil:
		return err
	case classic != nil:
		classic.apply(f)
		if demands(alone) != demands(*f) {
			f.SinceUnknown = "classic branch protection has no date"
		}
	}
	return b.since(ctx, f, rs)
}

// demands is what a protection demands, for comparing two of them.
func demands(f signing.RefFacts) string {
	return fmt.Sprint(f.Protected, f.RequiredApprovals, f.CodeOwners, f.DismissStale, f.LastPushApproval, f.BlockForcePush, f.BlockDeletion, f.SignedCommits)
}

// rule is one rule of a ruleset.
type rule struct {
	Type       string `json:"type"`
	Parameters struct {
		Approvals    int  `json:"required_approving_review_count"`
		DismissStale bool `json:"dismiss_stale_reviews_on_push"`
		CodeOwners   bool `json:"require_code_owner_review"`
		LastPush     bool `json:"require_last_push_approval"`
	} `json:"parameters"`
}

// ruleset is one ruleset with those of its rules that hold for a ref.
type ruleset struct {
	ID          int64  `json:"id"`
	Name        string `json:"name"`
	Target      string `json:"target"`
	Source      string `json:"source"`
	SourceType  string `json:"source_type"`
	Enforcement string `json:"enforcement"`
	Updated     string `json:"updated_at"`
	Conditions  struct {
		RefName *struct {
			Include []string `json:"include"`
			Exclude []string `json:"exclude"`
		} `json:"ref_name"`
	} `json:"conditions"`
	Rules []rule `json:"rules"`
	// Bypass is nil where the API does not show it: that is not nobody.
	Bypass *[]struct {
		ID   *int64 `json:"actor_id"`
		Type string `json:"actor_type"`
		Mode string `json:"bypass_mode"`
	} `json:"bypass_actors"`
}

// label names the ruleset in RefFacts.Rules.
func (r ruleset) label() string { return fmt.Sprintf("ruleset %d (%s)", r.ID, ask.Clip(r.Name)) }

// apply adds the ruleset's demands to f.
func (r ruleset) apply(f *signing.RefFacts) {
	counts := false
	for _, one := range r.Rules {
		p := one.Parameters
		protects := true
		switch one.Type {
		case "pull_request":
			f.RequiredApprovals = max(f.RequiredApprovals, p.Approvals)
			f.DismissStale = f.DismissStale || p.DismissStale
			f.CodeOwners = f.CodeOwners || p.CodeOwners
			f.LastPushApproval = f.LastPushApproval || p.LastPush
		case "non_fast_forward":
			f.BlockForcePush = true
		case "deletion":
			f.BlockDeletion = true
		case "required_signatures":
			f.SignedCommits = true
		case "update":
			f.BlockForcePush = true
		case "required_status_checks", "merge_queue", "workflows", "required_deployments":
		default:
			// Patterns of names and sizes of files do not guard who writes.
			protects = false
		}
		counts = counts || protects
	}
	if !counts {
		return
	}
	f.Protected = true
	f.Rules = append(f.Rules, r.label())
	if r.Bypass == nil {
		f.Bypass = append(f.Bypass, "unknown: GitHub shows the bypass list of "+r.label()+" only to an App with permission administration: write")
		return
	}
	for _, a := range *r.Bypass {
		who := bypasser(a.Type, a.ID)
		if a.Mode == "pull_request" {
			who += " (in pull requests)"
		}
		if !slices.Contains(f.Bypass, who) {
			f.Bypass = append(f.Bypass, who)
		}
	}
}

// bypasser names who may pass by a ruleset.
func bypasser(kind string, id *int64) string {
	n := "?"
	if id != nil {
		n = strconv.FormatInt(*id, 10)
	}
	switch {
	case kind == "OrganizationAdmin":
		return "organisation admins"
	case kind == "EnterpriseOwner":
		return "enterprise owners"
	case kind == "RepositoryRole" && n == "5":
		return "admins"
	case kind == "RepositoryRole" && n == "2":
		return "role maintain"
	case kind == "RepositoryRole" && n == "4":
		return "role write"
	case kind == "RepositoryRole":
		return "role " + n
	case kind == "Team":
		return "team " + n
	case kind == "Integration":
		return "app " + n
	case kind == "User":
		return "user " + n
	case kind == "DeployKey":
		return "deploy keys"
	}
	return ask.Clip(kind) + " " + n
}

// branchRules returns the rulesets in force for a branch, those of organisation
// and enterprise too, each with the rules that hold.
func (b *build) branchRules(ctx context.Context, branch string) ([]ruleset, error) {
	type active struct {
		rule
		Ruleset int64 `json:"ruleset_id"`
	}
	all, err := list[active](ctx, b.Client, b.at.client, ask.Path("repos", b.at.owner, b.at.name, "rules", "branches", branch), nil, maxRules, "metadata: read")
	if err != nil {
		return nil, err
	}
	var out []ruleset
	for _, a := range all {
		i := slices.IndexFunc(out, func(r ruleset) bool { return r.ID == a.Ruleset })
		if i < 0 {
			r, err := b.ruleset(ctx, a.Ruleset)
			if err != nil {
				return nil, err
			}
			r.Rules = nil // those that are in force come from the list
			out, i = append(out, r), len(out)
		}
		out[i].Rules = append(out[i].Rules, a.rule)
	}
	return out, nil
}

// ruleset asks for one ruleset that applies to the repository. One that cannot be
// read is known by its id alone: its rules hold, and who may pass by is unknown.
func (b *build) ruleset(ctx context.Context, id int64) (ruleset, error) {
	var r ruleset
	err := b.get(ctx, b.at.client, ask.Path("repos", b.at.owner, b.at.name, "rulesets", strconv.FormatInt(id, 10)), url.Values{"includes_parents": {"true"}}, &r, "metadata: read")
	if ask.Permanent(err) {
		return ruleset{ID: id, Name: "cannot be read"}, nil
	}
	if err == nil && r.ID != id {
		err = ask.Garbled(fmt.Sprintf("ruleset %d", id), "it is another one")
	}
	return r, err
}

// tagRules returns the rulesets in force for a tag. GitHub has no list of the
// rules of a tag, so the conditions are held against its name here.
func (b *build) tagRules(ctx context.Context, ref string) ([]ruleset, error) {
	all, err := list[ruleset](ctx, b.Client, b.at.client, ask.Path("repos", b.at.owner, b.at.name, "rulesets"), url.Values{"includes_parents": {"true"}, "targets": {"tag"}}, maxRules, "metadata: read")
	if err != nil {
		return nil, err
	}
	var out []ruleset
	for _, r := range all {
		if r.Target != "tag" || r.Enforcement != "active" {
			continue
		}
		whole, err := b.ruleset(ctx, r.ID)
		if err != nil {
			return nil, err
		}
		if whole.Target == "tag" && whole.Enforcement == "active" && whole.Conditions.RefName != nil && matches(whole.Conditions.RefName.Include, whole.Conditions.RefName.Exclude, ref) {
			out = append(out, whole)
		}
	}
	return out, nil
}

// protection is classic branch protection.
type protection struct {
	URL     string   `json:"url"`
	Admins  *enabled `json:"enforce_admins"`
	Reviews *struct {
		Approvals    int  `json:"required_approving_review_count"`
		DismissStale bool `json:"dismiss_stale_reviews"`
		CodeOwners   bool `json:"require_code_owner_reviews"`
		LastPush     bool `json:"require_last_push_approval"`
		Bypass       *struct {
			Users []user `json:"users"`
			Teams []user `json:"teams"`
			Apps  []user `json:"apps"`
		} `json:"bypass_pull_request_allowances"`
	} `json:"required_pull_request_reviews"`
	ForcePush  *enabled `json:"allow_force_pushes"`
	Deletion   *enabled `json:"allow_deletions"`
	Signatures *enabled `json:"required_signatures"`
}

type enabled struct {
	Enabled *bool `json:"enabled"`
}

// is reports whether the setting is there and says v.
func (e *enabled) is(v bool) bool { return e != nil && e.Enabled != nil && *e.Enabled == v }

// classic returns the branch's classic protection, nil where it has none.
func (b *build) classic(ctx context.Context, branch string) (*protection, error) {
	var p protection
	err := b.get(ctx, b.at.client, ask.Path("repos", b.at.owner, b.at.name, "branches", branch, "protection"), nil, &p, "administration: read")
	var e *signing.Error
	if errors.As(err, &e) && e.Code == signing.NotFound && strings.Contains(e.Found, "Branch not protected") {
		return nil, nil
	}
	if err == nil && p.URL == "" {
		err = ask.Garbled("the protection of "+ask.Clip(branch), "it says nothing")
	}
	if err != nil {
		return nil, err
	}
	return &p, nil
}

// apply adds the protection's demands to f.
func (p *protection) apply(f *signing.RefFacts) {
	f.Protected = true
	f.Rules = append(f.Rules, "branch protection")
	f.BlockForcePush = f.BlockForcePush || p.ForcePush.is(false)
	f.BlockDeletion = f.BlockDeletion || p.Deletion.is(false)
	f.SignedCommits = f.SignedCommits || p.Signatures.is(true)
	add := func(who string) {
		if !slices.Contains(f.Bypass, who) {
			f.Bypass = append(f.Bypass, who)
		}
	}
	if !p.Admins.is(true) {
		add("admins")
	}
	r := p.Reviews
	if r == nil {
		return
	}
	f.RequiredApprovals = max(f.RequiredApprovals, r.Approvals)
	f.DismissStale = f.DismissStale || r.DismissStale
	f.CodeOwners = f.CodeOwners || r.CodeOwners
	f.LastPushApproval = f.LastPushApproval || r.LastPush
	if r.Bypass == nil {
		return
	}
	for kind, who := range map[string][]user{"user": r.Bypass.Users, "team": r.Bypass.Teams, "app": r.Bypass.Apps} {
		for _, u := range who {
			add(fmt.Sprintf("%s %d", kind, u.ID))
		}
	}
	slices.Sort(f.Bypass)
}
