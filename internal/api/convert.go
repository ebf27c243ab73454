package api

import (
	"cmp"
	"slices"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// optionFormat is the option of a step that names the format of its signature.
const optionFormat = "format"

// FromRequest returns r and its tasks as their own job may see them.
func FromRequest(r signing.Request, tasks []signing.Task, checkpoint string) Request {
	out := Request{
		ID: r.ID, State: r.State, Version: r.Version, Project: r.Project, Policy: r.Policy, Publish: string(r.Publish),
		Artifacts: make([]Artifact, 0, len(r.Artifacts)), Tasks: make([]Task, 0, len(tasks)),
		Origin: fromOrigin(r.Origin), CancelRequested: r.CancelRequested, Failure: fromError(r.Failure),
		Submitted: r.Submitted, Deadline: r.Deadline, Ended: r.Ended, Checkpoint: checkpoint, Source: r.Source, List: fromList(r.List),
	}
	for _, a := range r.Artifacts {
		out.Artifacts = append(out.Artifacts, Artifact{Repository: string(a.Repository), Digest: string(a.Digest), Tag: a.Tag, MediaType: a.MediaType, Size: a.Size})
	}
	for _, a := range r.Untrust {
		out.Untrust = append(out.Untrust, a.String())
	}
	if d := r.Decision; d != nil {
		out.Decision = &Decision{Effect: d.Effect, Reasons: d.Reasons, BasisDigest: string(d.BasisDigest), At: d.At}
	}
	below := map[ArtifactRef]bool{}
	if r.Decision != nil {
		for _, a := range r.Decision.Basis.Children {
			below[refOf(a)] = true
		}
	}
	for _, t := range tasks {
		ref := refOf(t.Artifact)
		one := Task{
			ID: t.ID, Artifact: ref, Part: t.Part, Changes: t.Changes, Below: below[ref], Method: t.Step.Method, Format: t.Step.Options[optionFormat], Key: t.Step.Key,
			State: t.State, Recognised: t.Recognised, Locations: t.Locations, Failure: fromError(t.Failure),
		}
		if t.Intent != nil {
			one.Differences = t.Intent.Differences
		}
		out.Tasks = append(out.Tasks, one)
	}
	return out
}

// FromApproval returns where r stands with people, nil if its policy asks nobody
// or it is not decided. code is what a command repeats, empty if none counts now.
func FromApproval(r signing.Request, t signing.Tally, code string) *Approval {
	if r.Decision == nil || r.Decision.Approvals == nil {
		return nil
	}
	rule := r.Decision.Approvals
	out := &Approval{Code: code, Groups: []ApprovalGroup{}, Ways: append([]string{}, rule.Ways...), ExpiresSeconds: int64(rule.Expires / time.Second)}
	if a := r.Asking; a != nil {
		out.Forge, out.Repository, out.Number, out.URL, out.Comment = a.Thread.Forge, a.Thread.Repository, a.Thread.Number, a.Thread.URL, a.URL
	}
	for i, g := range rule.Groups {
		one := ApprovalGroup{Required: g.Required, From: append([]string{}, g.From...)}
		if i < len(t.Groups) {
			one.Required, one.Given = t.Groups[i].Required, len(t.Groups[i].People)
		}
		out.Groups = append(out.Groups, one)
	}
	for _, a := range r.Approvals {
		out.Given = append(out.Given, GivenApproval{By: cmp.Or(a.By.Login, a.Person), Forge: a.By.Forge, Via: a.Via, At: a.At, URL: a.URL, Deny: a.Deny, Reason: a.Reason, Ticket: a.Ticket})
	}
	for _, e := range r.Decision.Excluded {
		out.Excluded = append(out.Excluded, ExcludedApprover{Who: cmp.Or(e.Account.Login, e.Account.ID, e.Unmapped), Why: e.Why})
	}
	return out
}

// Summarize returns r as a line of a list. digest, if not empty, is what was
// searched for.
func Summarize(r signing.Request, digest signing.Digest) Summary {
	out := Summary{
		ID: r.ID, State: r.State, Project: r.Project, Policy: r.Policy, Artifacts: len(r.Artifacts) + len(r.Untrust), Origin: fromOrigin(r.Origin),
		Failure: fromError(r.Failure), Submitted: r.Submitted, Deadline: r.Deadline, Ended: r.Ended,
	}
	for i, a := range slices.Concat(r.Artifacts, r.Untrust) {
		if i == 0 || digest != "" && a.Digest == digest {
			out.Artifact = refOf(a)
		}
	}
	return out
}

// Domain returns the request and its tasks as domain values, for those who
// render them. Fields that the wire does not carry are zero.
func (r Request) Domain() (signing.Request, []signing.Task) {
	out := signing.Request{
		ID: r.ID, State: r.State, Version: r.Version, Project: r.Project, Policy: r.Policy, Publish: signing.Publisher(r.Publish),
		Origin: r.Origin.domain(), CancelRequested: r.CancelRequested, Failure: r.Failure.Err(),
		Submitted: r.Submitted, Deadline: r.Deadline, Ended: r.Ended,
	}
	for _, a := range r.Artifacts {
		out.Artifacts = append(out.Artifacts, signing.Artifact{Repository: signing.Repository(a.Repository), Digest: signing.Digest(a.Digest), Tag: a.Tag, MediaType: a.MediaType, Size: a.Size})
	}
	out.Untrust = SubmitRequest{Untrust: r.Untrust}.Untrusted()
	if d := r.Decision; d != nil {
		out.Decision = &signing.Decision{Effect: d.Effect, Reasons: d.Reasons, BasisDigest: signing.Digest(d.BasisDigest), At: d.At}
	}
	var tasks []signing.Task
	for _, t := range r.Tasks {
		one := signing.Task{
			ID: t.ID, RequestID: r.ID, State: t.State, Artifact: t.Artifact.Artifact(), Part: t.Part, Changes: t.Changes,
			Step:       signing.Step{Method: t.Method, Key: t.Key, Recursive: t.Below},
			Recognised: t.Recognised, Locations: t.Locations, Failure: t.Failure.Err(),
		}
		if len(t.Differences) > 0 {
			one.Intent = &signing.Intent{Differences: t.Differences}
		}
		if t.Format != "" {
			one.Step.Options = map[string]string{optionFormat: t.Format}
		}
		if d := out.Decision; d != nil && t.Below && !slices.Contains(d.Basis.Children, one.Artifact) {
			d.Basis.Children = append(d.Basis.Children, one.Artifact)
		}
		tasks = append(tasks, one)
	}
	return out, tasks
}

// Domain returns the summary as a Request without its artifacts.
func (s Summary) Domain() signing.Request {
	return signing.Request{ID: s.ID, State: s.State, Project: s.Project, Policy: s.Policy, Origin: s.Origin.domain(), Failure: s.Failure.Err(), Submitted: s.Submitted, Deadline: s.Deadline, Ended: s.Ended}
}

func fromOrigin(o signing.Origin) Origin {
	return Origin{
		Forge: o.Forge, Kind: o.Kind, Repository: o.SourceRepository, RepositoryID: o.SourceRepositoryIdentifier,
		Ref: o.SourceRepositoryRef, RefProtected: o.RefProtected, Commit: o.SourceRepositoryDigest,
		Trigger: o.BuildTrigger, BuildConfig: o.BuildConfigURI, BuildSigner: o.BuildSignerURI,
		Run: o.RunInvocationURI, RunAttempt: o.RunAttempt, Environment: o.DeploymentEnvironment, Actor: o.Actor,
	}
}

func (o Origin) domain() signing.Origin {
	return signing.Origin{
		Forge: o.Forge, Kind: o.Kind, SourceRepository: o.Repository, SourceRepositoryIdentifier: o.RepositoryID,
		SourceRepositoryRef: o.Ref, RefProtected: o.RefProtected, SourceRepositoryDigest: o.Commit,
		BuildTrigger: o.Trigger, BuildConfigURI: o.BuildConfig, BuildSignerURI: o.BuildSigner,
		RunInvocationURI: o.Run, RunAttempt: o.RunAttempt, DeploymentEnvironment: o.Environment, Actor: o.Actor,
	}
}

// fromError drops the cause, which is for the service's own log.
func fromError(e *signing.Error) *Failure {
	if e == nil {
		return nil
	}
	return &Failure{Code: e.Code, Message: e.Message, Expected: e.Expected, Found: e.Found, Fix: e.Fix}
}
