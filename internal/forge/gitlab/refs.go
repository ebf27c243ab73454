package gitlab

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxProtections bounds the protected branches, tags and approval rules of a
	// project.
	maxProtections = 1000
	// maxAudit bounds the audit events that are looked through for the last change.
	maxAudit = 5000
)

type accessLevel struct {
	Level     *int   `json:"access_level"`
	User      *int64 `json:"user_id"`
	Group     *int64 `json:"group_id"`
	DeployKey *int64 `json:"deploy_key_id"`
}

// who names those that a level lets in, "" for nobody.
func (a accessLevel) who() string {
	switch {
	case a.DeployKey != nil && *a.DeployKey > 0:
		return fmt.Sprintf("deploy key %d", *a.DeployKey)
	case a.User != nil && *a.User > 0:
		return fmt.Sprintf("user %d", *a.User)
	case a.Group != nil && *a.Group > 0:
		return fmt.Sprintf("group %d", *a.Group)
	case a.Level == nil:
		return "unknown: an access level that GitLab does not name"
	case *a.Level == 0:
		return ""
	}
	return fmt.Sprintf("access level %d", *a.Level)
}

// protection is a protected branch, by its name or a pattern.
type protection struct {
	ID         int64         `json:"id"`
	Name       string        `json:"name"`
	Push       []accessLevel `json:"push_access_levels"`
	ForcePush  *bool         `json:"allow_force_push"`
	CodeOwners bool          `json:"code_owner_approval_required"`
	Inherited  bool          `json:"inherited"`
}

type protectedTag struct {
	Name   string        `json:"name"`
	Create []accessLevel `json:"create_access_levels"`
}

type approvalRule struct {
	Name     string       `json:"name"`
	Required int          `json:"approvals_required"`
	Branches []protection `json:"protected_branches"`
	All      bool         `json:"applies_to_all_protected_branches"`
}

// approvalSettings of a project; what is not there is not set.
type approvalSettings struct {
	Reset        bool  `json:"reset_approvals_on_push"`
	NoOverride   bool  `json:"disable_overriding_approvers_per_merge_request"`
	Author       *bool `json:"merge_requests_author_approval"`
	NoCommitters bool  `json:"merge_requests_disable_committers_approval"`
}

type pushRule struct {
	Signed    bool `json:"reject_unsigned_commits"`
	Committer bool `json:"commit_committer_check"`
}

// shield is how a project is protected: what holds for all of its refs. What the
// edition lacks is missing and named.
type shield struct {
	branches []protection
	tags     []protectedTag
	rules    []approvalRule
	settings approvalSettings
	push     pushRule
	lacks    []string
	since    time.Time
	unsure   string // why since is not known
}

// shields asks for the protection of the project, once for a question.
func (b *build) shields(ctx context.Context) (*shield, error) {
	b.once.Do(func() { b.shield, b.failed = b.askShield(ctx) })
	return b.shield, b.failed
}

func (b *build) askShield(ctx context.Context) (*shield, error) {
	const need = "read_api, as maintainer of the project"
	s := &shield{}
	var err error
	if s.branches, err = list[protection](ctx, b.Client, b.at.token, b.below("protected_branches"), nil, maxProtections, need); err != nil {
		return nil, err
	}
	if s.tags, err = list[protectedTag](ctx, b.Client, b.at.token, b.below("protected_tags"), nil, maxProtections, need); err != nil {
		return nil, err
	}
	// Premium: not found in the Free edition, where nothing of this is enforced.
	missing := func(what string, err error) error {
		if errors.Is(err, signing.NotFound) {
			s.lacks = append(s.lacks, what)
			return nil
		}
		return err
	}
	rules, err := list[approvalRule](ctx, b.Client, b.at.token, b.below("approval_rules"), nil, maxProtections, need)
	if err = missing("approval rules", err); err != nil {
		return nil, err
	}
	s.rules = rules
	if err := missing("approval settings", b.ask(ctx, &s.settings, nil, need, "approvals")); err != nil {
		return nil, err
	}
	var push *pushRule // null where there is none
	if err := missing("push rules", b.ask(ctx, &push, nil, need, "push_rule")); err != nil {
		return nil, err
	}
	if push != nil {
		s.push = *push
	}
	if b.q.Since {
		if err := b.since(ctx, s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// ref asks whether a branch or tag is there, has the commit, and how it is
// protected.
func (b *build) ref(ctx context.Context, ref string) (*signing.RefFacts, error) {
	name, isBranch := strings.CutPrefix(ref, branches)
	if !isBranch {
		var isTag bool
		if name, isTag = strings.CutPrefix(ref, tags); !isTag {
			return nil, &signing.Error{Code: signing.Invalid, Message: "not a branch or tag", Expected: branches + "NAME or " + tags + "NAME", Found: strconv.Quote(ask.Clip(ref))}
		}
	}
	if name == "" {
		return nil, ask.Lacks("a branch or tag")
	}
	f := &signing.RefFacts{Ref: ref}
	if err := b.head(ctx, f, name, isBranch); err != nil {
		return nil, err
	}
	s, err := b.shields(ctx)
	if err != nil {
		return nil, err
	}
	if isBranch {
		s.branch(f, name, name == b.at.branch)
	} else {
		s.tag(f, name)
	}
	if b.q.Since && f.Protected {
		f.Since, f.SinceUnknown = s.since, s.unsure
	}
	return f, nil
}

// head fills in what the ref is at, and whether the build's commit is on it.
func (b *build) head(ctx context.Context, f *signing.RefFacts, name string, isBranch bool) error {
	kind := "tags"
	if isBranch {
		kind = "branches"
	}
	var there struct {
		Name   string `json:"name"`
		Commit commit `json:"commit"`
	}
	err := b.ask(ctx, &there, nil, "read_api, as reporter of the project", "repository", kind, name)
	if errors.Is(err, signing.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if there.Name != name || b.sha(there.Commit.ID) != nil {
		return ask.Garbled("GET /repository/"+kind, "another ref than the one that was asked for")
	}
	f.Exists, f.Commit = true, there.Commit.ID
	if b.sha(b.o.SourceRepositoryDigest) != nil {
		return nil
	}
	if f.Contains = f.Commit == b.o.SourceRepositoryDigest; f.Contains {
		return nil
	}
	base, err := b.base(ctx, b.at, b.o.SourceRepositoryDigest, f.Commit)
	if signing.CodeOf(err) == signing.Invalid && err != nil {
		return nil // the project does not have the commit
	}
	f.Contains = err == nil && base == b.o.SourceRepositoryDigest
	return err
}

// matches reports whether a name is the protection's or fits its pattern, in which
// * is any text.
func matches(pattern, name string) bool {
	if !strings.Contains(pattern, "*") {
		return pattern == name
	}
	parts := strings.Split(pattern, "*")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	re, err := regexp.Compile(`(?s)^` + strings.Join(parts, ".*") + `$`)
	return err == nil && re.MatchString(name)
}

// branch adds how a branch is protected. Where several rules match, GitLab allows
// a push that one of them allows, and demands code owners where one does: what is
// reported is what is enforced. GitLab shows the branch's protection to no one who
// pushes directly, so they are in Bypass.
func (s *shield) branch(f *signing.RefFacts, name string, isDefault bool) {
	f.BlockForcePush, f.AuthorMayApprove = true, true
	for _, p := range s.branches {
		if !matches(p.Name, name) {
			continue
		}
		f.Protected = true
		f.Rules = append(f.Rules, fmt.Sprintf("protected branch %s", p.Name))
		f.CodeOwners = f.CodeOwners || p.CodeOwners
		f.BlockForcePush = f.BlockForcePush && p.ForcePush != nil && !*p.ForcePush
		for _, a := range p.Push {
			f.Bypass = append(f.Bypass, pushes(a)...)
		}
	}
	f.BlockForcePush = f.BlockForcePush && f.Protected
	// Maintainers can delete every other branch on its page, protected or not.
	f.BlockDeletion = isDefault && f.Protected
	f.SignedCommits = s.push.Signed
	f.Bypass = sortedSet(f.Bypass)
	s.approvals(f, name)
	for _, what := range s.lacks {
		f.Rules = append(f.Rules, "no "+what+": this edition of GitLab does not have them")
	}
}

func pushes(a accessLevel) []string {
	switch who := a.who(); {
	case who == "":
		return nil
	case strings.HasPrefix(who, "unknown"):
		return []string{who}
	default:
		return []string{"push: " + who}
	}
}

// approvals adds what merge requests into a branch need. One person can satisfy
// several rules, so that the largest number is what is needed at least. Rules that
// each merge request may change hold nobody.
func (s *shield) approvals(f *signing.RefFacts, name string) {
	f.DismissStale = s.settings.Reset
	if s.settings.Author != nil {
		f.AuthorMayApprove = *s.settings.Author
	}
	// Who committed may not approve, and who pushed is who committed.
	f.LastPushApproval = s.settings.NoCommitters && s.push.Committer && !f.AuthorMayApprove
	for _, r := range s.rules {
		applies := len(r.Branches) == 0 && !r.All || r.All && f.Protected
		for _, p := range r.Branches {
			applies = applies || matches(p.Name, name)
		}
		if !applies || r.Required <= 0 {
			continue
		}
		if !s.settings.NoOverride {
			f.Rules = append(f.Rules, fmt.Sprintf("approval rule %q, which each merge request may change", ask.Clip(r.Name)))
			continue
		}
		f.Rules = append(f.Rules, fmt.Sprintf("approval rule %q (%d)", ask.Clip(r.Name), r.Required))
		f.RequiredApprovals = max(f.RequiredApprovals, r.Required)
	}
}

// tag adds how a tag is protected: nobody moves it, and who may make such tags is
// in Bypass. Maintainers can delete it on its page.
func (s *shield) tag(f *signing.RefFacts, name string) {
	f.AuthorMayApprove = true
	for _, p := range s.tags {
		if !matches(p.Name, name) {
			continue
		}
		f.Protected, f.BlockForcePush = true, true
		f.Rules = append(f.Rules, "protected tag "+p.Name)
		for _, a := range p.Create {
			if who := a.who(); who != "" && !strings.HasPrefix(who, "unknown") {
				f.Bypass = append(f.Bypass, "create: "+who)
			} else if who != "" {
				f.Bypass = append(f.Bypass, who)
			}
		}
	}
	f.SignedCommits = s.push.Signed
	f.Bypass = sortedSet(f.Bypass)
}

func sortedSet(list []string) []string { return slices.Compact(slices.Sorted(slices.Values(list))) }

// harmless are audit events of a project that change no protection. Every other
// one counts as a change: names of events come and go.
var harmless = regexp.MustCompile(`^(add_|remove_|member_|user_|project_access_token|personal_access_token|deploy_token|ci_variable|runner|registry|repository_download|repository_git_operation|project_archived|project_unarchived|package_|release_|webhook_)`)

// since finds the last change of the protection in the audit events. Where the
// project has none, or a group decides a part of it, that is not known.
func (b *build) since(ctx context.Context, s *shield) error {
	for _, p := range s.branches {
		if p.Inherited {
			s.unsure = "the protection of " + p.Name + " is a group's, whose audit events are not read"
			return nil
		}
	}
	var settings map[string]struct {
		From *string `json:"inherited_from"`
	}
	err := b.ask(ctx, &settings, nil, "read_api, as maintainer of the project", "merge_request_approval_setting")
	if errors.Is(err, signing.NotFound) {
		s.unsure = "this edition of GitLab has no audit events"
		return nil
	}
	if err != nil {
		return err
	}
	if len(settings) == 0 {
		s.unsure = "GitLab does not tell who decides the approval settings"
		return nil
	}
	for _, v := range settings {
		if v.From != nil && *v.From != "" {
			s.unsure = "a group or the instance decides approval settings, and its audit events are not read"
			return nil
		}
	}
	events, err := listWhile(ctx, b.Client, b.at.token, b.below("audit_events"), nil, maxAudit, "read_api, as maintainer of the project", func(e auditEvent) bool { return harmless.MatchString(e.name()) })
	switch {
	case errors.Is(err, signing.NotFound), errors.Is(err, signing.Denied), errors.Is(err, signing.TooLarge):
		s.unsure = "its audit events cannot be read: " + signing.Public(err).Error()
		return nil
	case err != nil:
		return err
	}
	for _, e := range events {
		if !harmless.MatchString(e.name()) && e.At.Time.After(s.since) {
			s.since = e.At.Time.UTC()
		}
	}
	if s.since.IsZero() {
		s.unsure = "its audit events name no change of the protection: it may be older than what GitLab keeps"
	}
	return nil
}

type auditEvent struct {
	Name    string `json:"event_name"`
	Details struct {
		Name string `json:"event_name"`
	} `json:"details"`
	At when `json:"created_at"`
}

func (e auditEvent) name() string {
	if e.Name != "" {
		return e.Name
	}
	return e.Details.Name
}
