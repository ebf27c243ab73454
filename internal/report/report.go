// Package report tells the forge what became of a Request: by a check, a commit
// status, a comment. Reports are projections: they may lag or fail, and no Request
// waits for them.
package report

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/view"
)

// The channels that a policy names in `report`. The summary of the CI step is
// written by the step itself.
const (
	ChannelCheck   = "check"
	ChannelStatus  = "status"
	ChannelComment = "comment"
)

// kindGitLab is Origin.Kind of a forge that has no check runs.
const kindGitLab = "gitlab"

// Snapshot is what there is to report of a Request.
type Snapshot struct {
	view.Asked
	// Channels are the policy's words; others than the constants are left alone.
	Channels []string
	// Sent is what was reported before.
	Sent signing.Reports
	URL  string // of the Request for people; may be empty
}

// Reporter writes reports. It keeps nothing and may be used at once by many, but
// two Posts of one Request at a time can write a comment twice.
type Reporter struct {
	// Forges are the configured forges by host.
	Forges map[string]forge.Forge
}

// Post reports s in every channel whose content changed since Sent; one that
// fails does not keep another from being tried. What it returns is to be stored,
// also with an error: it names what was written. The error is signing.Temporary
// where trying again may help with any of the channels.
//
// A build of a forge that is not configured, or without a commit, is reported
// nowhere: that is no error.
func (r *Reporter) Post(ctx context.Context, s Snapshot) (signing.Reports, error) {
	o := s.Request.Origin
	f := r.Forges[o.Forge]
	if f == nil || o.SourceRepositoryIdentifier == "" || o.SourceRepositoryDigest == "" {
		return s.Sent, nil
	}
	p := poster{f: f, s: s, repo: forge.Repository{ID: o.SourceRepositoryIdentifier, Name: o.SourceRepository}, sent: s.Sent}
	has := func(channel string) bool { return slices.Contains(s.Channels, channel) }
	var errs []error
	try := func(what string, post func(context.Context) error) {
		if err := post(ctx); err != nil {
			errs = append(errs, fmt.Errorf("reporting request %s by %s: %w", s.Request.ID, what, err))
		}
	}
	checks := o.Kind != kindGitLab
	if has(ChannelCheck) && checks {
		try(ChannelCheck, p.check)
	}
	// Where there are no checks, a status stands for one; both at once are one.
	if has(ChannelStatus) || has(ChannelCheck) && !checks {
		try(ChannelStatus, p.status)
	}
	if has(ChannelComment) {
		try(ChannelComment, p.comment)
	}
	slices.SortStableFunc(errs, func(a, b error) int { return cmp.Compare(rank(a), rank(b)) })
	return p.sent, errors.Join(errs...)
}

// rank puts temporary errors first: the first of joined errors says what the
// whole is.
func rank(err error) int {
	if signing.Temporary(err) {
		return 0
	}
	return 1
}

// poster writes one snapshot.
type poster struct {
	f    forge.Forge
	s    Snapshot
	repo forge.Repository
	sent signing.Reports
}

func (p *poster) name() string { return "sealwright/" + p.s.Request.Policy }

func (p *poster) check(ctx context.Context) error {
	c := p.checkOf(p.s)
	sum := digest(p.checkOf(p.timeless()))
	if p.sent.CheckRun != "" && sum == p.sent.Check {
		return nil
	}
	c.ID = p.sent.CheckRun
	id, err := p.f.Check(ctx, p.repo, c)
	if c.ID != "" && errors.Is(err, signing.NotFound) {
		c.ID = "" // somebody deleted it
		id, err = p.f.Check(ctx, p.repo, c)
	}
	if err != nil {
		return err
	}
	p.sent.CheckRun, p.sent.Check = id, sum
	return nil
}

// timeless is the snapshot without what changes by itself: a newer checkpoint
// alone is no reason to report again.
func (p *poster) timeless() Snapshot {
	s := p.s
	s.Checkpoint = ""
	return s
}

func (p *poster) checkOf(s Snapshot) forge.Check {
	text := view.Check(s.Asked)
	return forge.Check{
		Name: p.name(), Commit: s.Request.Origin.SourceRepositoryDigest, Key: s.Request.ID, State: state(s),
		Title: text.Title, Summary: text.Summary, Text: text.Text, URL: s.URL, Buttons: buttons(s), Notes: notes(s, text.Notes),
	}
}

func (p *poster) status(ctx context.Context) error {
	o := p.s.Request.Origin
	s := forge.Status{Commit: o.SourceRepositoryDigest, Context: p.name(), State: state(p.s), Description: view.StatusLine(p.s.Asked), URL: p.s.URL}
	if o.Kind == kindGitLab {
		s.Ref, s.Pipeline = strings.TrimPrefix(strings.TrimPrefix(o.SourceRepositoryRef, "refs/heads/"), "refs/tags/"), o.RunID
	}
	sum := digest(s)
	if sum == p.sent.Status {
		return nil
	}
	if err := p.f.Status(ctx, p.repo, s); err != nil {
		return err
	}
	p.sent.Status = sum
	return nil
}

// comment tells the end of a Request about which nobody was asked: the comment
// with the question, where there is one, tells its own end. There is one comment
// for each policy in a thread, and none where there is no thread.
func (p *poster) comment(ctx context.Context) error {
	r := p.s.Request
	if r.Asking != nil || !r.State.Terminal() {
		return nil
	}
	body := view.Report(p.s.Asked)
	sum := signing.DigestOf([]byte(view.Report(p.timeless().Asked)))
	if p.sent.Comment != "" && sum == p.sent.CommentBody {
		return nil
	}
	thread, err := p.f.Find(ctx, p.repo, r.Origin.SourceRepositoryDigest)
	if errors.Is(err, signing.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	id := p.sent.Comment
	if id == "" {
		// That of an earlier Request, or one that was written without an answer.
		mine, err := p.f.Mine(ctx, thread, view.ReportMarker(r.Project, r.Policy))
		if err != nil {
			return err
		}
		if len(mine) > 0 {
			id = mine[len(mine)-1].ID
		}
	}
	if id != "" {
		err = p.f.Edit(ctx, thread, id, body)
	}
	if id == "" || errors.Is(err, signing.NotFound) {
		var c forge.Comment
		c, err = p.f.Post(ctx, thread, body)
		id = c.ID
	}
	if err != nil {
		return err
	}
	p.sent.Comment, p.sent.CommentBody = id, sum
	return nil
}

// state is what a check or status says of a Request.
func state(s Snapshot) forge.CheckState {
	switch s.Request.State {
	case signing.AwaitingApproval:
		return forge.CheckWaiting
	case signing.Completed:
		return forge.CheckPassed
	case signing.Failed, signing.RequestDenied, signing.RequestExpired:
		return forge.CheckFailed
	case signing.Canceled:
		return forge.CheckCanceled
	default:
		return forge.CheckRunning
	}
}

// The identifiers of the buttons, before the code: "approve 3f9c2a7b".
const (
	ButtonApprove = "approve"
	ButtonDeny    = "deny"
)

// buttons are there only while people decide, and only where the policy counts
// what is given by them.
func buttons(s Snapshot) []forge.Button {
	d := s.Request.Decision
	if s.Request.State != signing.AwaitingApproval || s.Code == "" || d == nil || d.Approvals == nil || !d.Approvals.Allows(signing.ViaCheckRun) {
		return nil
	}
	return []forge.Button{
		{Label: "Approve", Description: "Sign what this check shows", Identifier: ButtonApprove + " " + s.Code},
		{Label: "Deny", Description: "Do not sign it", Identifier: ButtonDeny + " " + s.Code},
	}
}

// notes annotates the workflow file that ran. There is no note where it is in
// another repository, or not known.
func notes(s Snapshot, list []view.Note) []forge.Note {
	o := s.Request.Origin
	uri, _, _ := strings.Cut(o.BuildConfigURI, "@")
	path, ok := strings.CutPrefix(uri, o.SourceRepositoryURI+"/")
	if !ok || path == "" || o.SourceRepositoryURI == "" {
		return nil
	}
	var out []forge.Note
	for _, n := range list {
		out = append(out, forge.Note{Path: path, Line: 1, Level: "failure", Title: n.Title, Message: n.Message})
	}
	return out
}

// digest is of everything that is sent.
func digest(v any) signing.Digest {
	raw, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return signing.DigestOf(raw)
}
