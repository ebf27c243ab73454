package workflow

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/facts"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/policy"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
	"github.com/sealwright/sealwright/internal/view"
)

const (
	// jobPull is the kind of the job that deals with one delivery about a pull
	// request. It is apart from the other deliveries: an approval waits for none.
	jobPull = "pull"
	// pullWorkers is how many are dealt with at once: nobody waits for them, and
	// each may ask the registry for some hundred images.
	pullWorkers = 2
	// pullCheck is the name of the check run, and what it is found again by.
	pullCheck = "sealwright/policy"
	// pullPast and pullDays bound the recorded requests that a change is tried on.
	pullPast = 100
	pullDays = 90
	// pullGather bounds the time for reading their images, and pullReaders how many
	// requests are read at once. What is not read by then is told to be unknown.
	pullGather  = 45 * time.Second
	pullReaders = 4
)

// HeardPolicy is a pull request whose change of the repository's policy got a check
// run, for Options.Heard.
const HeardPolicy = "policy_checked"

// concerned reports whether e is about a repository whose own policy counts.
func (w *Workflow) concerned(e forge.Event) bool {
	conf := w.inForce.Load()
	return conf != nil && e.Commit != "" && e.Repository.ID != "" && conf.policies.ReadsRepository(e.Thread.Forge, e.Repository.ID, e.Repository.Name)
}

// checkPull says on the head of a pull request what its change of the repository's
// own policy would mean. Nothing is said where it changes nothing. Only what the
// forge answers counts: the event names the commit, whoever pushed it.
func (w *Workflow) checkPull(ctx context.Context, f forge.Forge, e forge.Event) (string, error) {
	before, err := f.PolicyFile(ctx, e.Repository, "")
	if err != nil {
		return w.givenUp(e, "reading the policy of the default branch", err)
	}
	change := view.PolicyChange{File: policy.RepositoryFile, Days: pullDays}
	after, err := f.PolicyFile(ctx, e.Repository, e.Commit)
	switch {
	case err != nil && !lasting(err):
		return "", err
	case err != nil:
		change.Unreadable = signing.Public(err).Message
	case before.Exists == after.Exists && bytes.Equal(before.Text, after.Text):
		return HeardIgnored, nil
	default:
		if err := w.foresee(ctx, f.Host(), e.Repository, before, after, &change); err != nil {
			return "", err
		}
	}
	if _, err := f.Check(ctx, e.Repository, checkOf(e.Commit, change)); err != nil {
		return w.givenUp(e, "writing the check run "+pullCheck, err)
	}
	return HeardPolicy, nil
}

// lasting reports whether err is an answer of the forge, which asking again would
// not change.
func lasting(err error) bool {
	var e *signing.Error
	return errors.As(err, &e) && !signing.Temporary(err) && e.Code != signing.Internal
}

// givenUp ends what the forge refuses; the rest is tried again.
func (w *Workflow) givenUp(e forge.Event, what string, err error) (string, error) {
	if !lasting(err) {
		return "", err
	}
	w.Log.Warn("a pull request is not told what its change of the policy means", "forge", e.Thread.Forge, "repository", e.Repository.ID, "commit", e.Commit, "what", what, "error", err)
	return HeardReportFailed, nil
}

// checkOf makes the check run. It is no gate: that of a text which would refuse
// everything alone fails.
func checkOf(commit string, change view.PolicyChange) forge.Check {
	text := change.Check()
	c := forge.Check{Name: pullCheck, Key: pullCheck, Commit: commit, State: forge.CheckNeutral, Title: text.Title, Summary: text.Summary}
	if change.Fails() {
		c.State = forge.CheckFailed
	}
	for _, n := range text.Notes {
		c.Notes = append(c.Notes, forge.Note{Path: policy.RepositoryFile, Line: max(n.Line, 1), Level: "failure", Title: n.Title, Message: n.Message})
	}
	return c
}

// foresee completes change: why the new text does not load, or what it would have
// meant for the last requests of the repository.
func (w *Workflow) foresee(ctx context.Context, host string, at forge.Repository, before, after *signing.PolicyFileFacts, change *view.PolicyChange) error {
	change.Absent, change.New = !after.Exists, !before.Exists
	if after.Exists {
		if _, err := policy.LoadRepositoryPolicy(after.Text); err != nil {
			change.Problems = problemsOf(err)
			return nil
		}
	}
	if before.Exists {
		_, err := policy.LoadRepositoryPolicy(before.Text)
		change.Unloaded = err != nil
	}
	var rows []*signing.Request
	err := w.Store.View(ctx, func(tx *store.Tx) (err error) {
		rows, err = tx.OfRepository(host, at.ID, w.Now().AddDate(0, 0, -pullDays), pullPast)
		return err
	})
	if err != nil {
		return err
	}
	past := w.past(ctx, rows)
	if err := ctx.Err(); err != nil {
		return err
	}
	replay := policy.CompareRepository(w.inForce.Load().policies, content(before), content(after), past)
	change.Looked, change.Unknown = len(rows), len(rows)-len(past)+len(replay.Unknown)
	change.Refused, change.Freed, change.Approvals = effects(replay.Refused), effects(replay.Allowed), effects(replay.Approvals)
	return nil
}

// content is the text of a file, nil for none.
func content(f *signing.PolicyFileFacts) []byte {
	if !f.Exists {
		return nil
	}
	return append([]byte{}, f.Text...) // an empty file is one
}

// past reads the facts of Requests again, as Facts does. What the registry does
// not answer, or not in time, is left out.
func (w *Workflow) past(ctx context.Context, rows []*signing.Request) []policy.Past {
	limited, cancel := context.WithTimeout(ctx, pullGather)
	defer cancel()
	read := make([]*policy.Past, len(rows))
	var g errgroup.Group
	g.SetLimit(pullReaders)
	for i, r := range rows {
		g.Go(func() error {
			// A repository's own policy knows nothing of what is below an index.
			f, _, err := facts.Gather(limited, w.Registry, r.Identity, r.Origin, r.Policy, r.Artifacts, false, r.Submitted)
			if err == nil {
				one := policy.PastOf(r, f)
				read[i] = &one
			}
			return nil
		})
	}
	_ = g.Wait() // nothing fails the whole
	var out []policy.Past
	for _, p := range read {
		if p != nil {
			out = append(out, *p)
		}
	}
	return out
}

func effects(all []policy.Change) []view.PolicyEffect {
	var out []view.PolicyEffect
	for _, c := range all {
		e := view.PolicyEffect{Request: c.ID, Policy: c.Policy, Before: c.BeforeRule, After: c.AfterRule}
		if c.After == signing.Deny {
			e.Why = c.Reasons.Failures()
		}
		out = append(out, e)
	}
	return out
}

func problemsOf(err error) []view.PolicyProblem {
	var ps config.Problems
	if !errors.As(err, &ps) {
		return []view.PolicyProblem{{Message: err.Error()}}
	}
	var out []view.PolicyProblem
	for _, p := range ps {
		out = append(out, view.PolicyProblem{Line: p.Line, Where: strings.TrimSpace(p.Path), Message: p.Message})
	}
	return out
}
