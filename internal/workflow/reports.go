package workflow

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sealwright/sealwright/internal/approval"
	"github.com/sealwright/sealwright/internal/policy"
	"github.com/sealwright/sealwright/internal/report"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
	"github.com/sealwright/sealwright/internal/view"
)

const (
	// jobReport is the kind of the job that reports a Request to its forge.
	jobReport = "report"
	// reportWorkers is how many Requests are reported at once. What a forge lets us
	// write is counted in tens a minute, so that more would only wait.
	reportWorkers = 4
	// reportDelay is how long a change waits for the next: most Requests are over by
	// then, and are reported once.
	reportDelay = 2 * time.Second
	// reportAge is how long after its end a Request is still reported to a forge
	// that cannot be reached.
	reportAge = 24 * time.Hour
)

// follow is asked in the transaction of every change of a Request, and returns the
// job that reports it: none where its policy reports nothing, or no forge could be
// told.
func (w *Workflow) follow(r *signing.Request) []store.Job {
	if len(w.Forges) == 0 || w.Forges[r.Origin.Forge] == nil || r.Decision == nil {
		return nil
	}
	if r.State != signing.AwaitingApproval && r.State != signing.Signing && !r.State.Terminal() {
		return nil
	}
	if len(w.channels(r)) == 0 {
		return nil
	}
	return []store.Job{{Kind: jobReport, Ref: r.ID, RunAt: w.Now().Add(reportDelay)}}
}

// channels returns where the Request is reported on its forge. A policy that is
// gone says so with a check: who waits for the result is not left alone.
func (w *Workflow) channels(r *signing.Request) []string {
	conf := w.inForce.Load()
	if conf == nil {
		return nil
	}
	p, ok := conf.policies.Policy(r.Project, r.Policy)
	if !ok {
		return []string{policy.ReportCheck}
	}
	return slices.DeleteFunc(slices.Clone(p.Channels()), func(c string) bool { return c == policy.ReportSummary }) // the step writes that
}

// loadReports reads the Requests of a batch of claims together.
func (w *Workflow) loadReports(ctx context.Context, claims []*store.Claim) (map[*store.Claim]task, error) {
	out := map[*store.Claim]task{}
	err := w.Store.View(ctx, func(tx *store.Tx) error {
		for _, c := range claims {
			s, err := snapshot(tx, c.Ref)
			if errors.Is(err, signing.NotFound) {
				err = store.Tampered("requests", "request "+clip(c.Ref, 40), "no such row")
			}
			if err != nil {
				return err
			}
			before, err := tx.Reports(c.Ref)
			if err != nil {
				return err
			}
			out[c] = func(ctx context.Context) error { return w.report(ctx, c, s, before) }
		}
		return nil
	})
	return out, err
}

// report tells the forge where the Request stands, once for what changed. What was
// written is stored even where the rest failed, so that it is edited and not
// written again.
func (w *Workflow) report(ctx context.Context, c *store.Claim, s Snapshot, before signing.Reports) error {
	r := s.Request
	over := r.State.Terminal() && w.Now().Sub(r.Ended) > reportAge
	channels := w.channels(r)
	if over || len(channels) == 0 || w.Forges[r.Origin.Forge] == nil {
		return w.Store.Update(ctx, "reported", func(tx *store.Tx) error { return tx.Finish(c) })
	}
	tally, code := w.Standing(r)
	of := report.Snapshot{Asked: view.Asked{Request: *r, Tally: tally, Code: code, Checkpoint: s.Checkpoint, Superseded: successor(r)}, Channels: channels, Sent: before}
	for _, t := range s.Tasks {
		of.Tasks = append(of.Tasks, *t)
	}
	if r.Asking != nil {
		of.Round, of.Images = r.Asking.Round, w.images(ctx, r)
		if r.State == signing.AwaitingApproval {
			of.News = w.news(ctx, r)
		}
	}
	reporter := report.Reporter{Forges: w.Forges}
	sent, failed := reporter.Post(ctx, of)
	if failed != nil {
		w.Heard(r.Origin.Forge, HeardReportFailed)
	}
	// Without the job's time limit: what the forge has must not be forgotten.
	err := w.Store.Update(context.WithoutCancel(ctx), "reported", func(tx *store.Tx) error {
		if sent != before {
			if err := tx.SaveReports(r.ID, sent); err != nil {
				return err
			}
		}
		if failed == nil || !signing.Temporary(failed) {
			return tx.Finish(c) // the next change of the Request reports again
		}
		return tx.CheckClaim(c)
	})
	if err == nil && failed != nil && !signing.Temporary(failed) {
		w.Log.Warn("a request could not be reported", "request", r.ID, "forge", r.Origin.Forge, "error", failed)
		failed = nil
	}
	return errors.Join(err, failed) // given back, to be tried again
}

// HeardReportFailed is a report that a forge did not take, for Options.Heard.
const HeardReportFailed = "report_failed"

// Answered returns the Request to a person whose command about it was accepted: who
// knows its code was shown what it is about.
func (w *Workflow) Answered(ctx context.Context, requestID string) (s Snapshot, err error) {
	err = w.Store.View(ctx, func(tx *store.Tx) (err error) {
		s, err = snapshot(tx, requestID)
		return err
	})
	return s, err
}

// Standing returns how far the question to people about r is, and the code that a
// command must repeat now, empty where none would count.
func (w *Workflow) Standing(r *signing.Request) (signing.Tally, string) {
	if r.Decision == nil || r.Decision.Approvals == nil {
		return signing.Tally{}, ""
	}
	d := r.Decision
	tally := approval.Count(*d.Approvals, r.Approvals, d.Excluded, w.Directory, d.BasisDigest, w.Now())
	if r.State != signing.AwaitingApproval || r.Asking == nil {
		return tally, ""
	}
	return tally, approval.Code(r.ID, d.BasisDigest, r.Asking.Round)
}
