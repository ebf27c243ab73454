package testenv

import (
	"context"
	"time"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
)

// Forges puts the faults between the service and its forges: each call that asks
// or writes is a step, "forge Post".
func (f *Faults) Forges(all map[string]forge.Forge) map[string]forge.Forge {
	out := map[string]forge.Forge{}
	for host, one := range all {
		out[host] = &faultyForge{one, f}
	}
	return out
}

// faultyForge makes steps of the calls that the cycle makes. The rest is as it is.
type faultyForge struct {
	forge.Forge
	faults *Faults
}

func call[T any](f *Faults, name string, do func() (T, error)) (out T, err error) {
	err = f.step("forge "+name, func() (err error) { out, err = do(); return err })
	if err != nil {
		var none T
		return none, err
	}
	return out, nil
}

// Ask implements forge.Origin.
func (w *faultyForge) Ask(ctx context.Context, o signing.Origin, artifacts []signing.Artifact, q signing.ForgeQuestion) (*signing.ForgeFacts, error) {
	return call(w.faults, "Ask", func() (*signing.ForgeFacts, error) { return w.Forge.Ask(ctx, o, artifacts, q) })
}

// PolicyFile implements forge.Origin.
func (w *faultyForge) PolicyFile(ctx context.Context, r forge.Repository, commit string) (*signing.PolicyFileFacts, error) {
	return call(w.faults, "PolicyFile", func() (*signing.PolicyFileFacts, error) { return w.Forge.PolicyFile(ctx, r, commit) })
}

// Standing implements forge.People.
func (w *faultyForge) Standing(ctx context.Context, r forge.Repository, who signing.Account, groups []string) (forge.Standing, error) {
	return call(w.faults, "Standing", func() (forge.Standing, error) { return w.Forge.Standing(ctx, r, who, groups) })
}

// Members implements forge.People.
func (w *faultyForge) Members(ctx context.Context, r forge.Repository, groups []string) (map[string][]signing.Account, error) {
	return call(w.faults, "Members", func() (map[string][]signing.Account, error) { return w.Forge.Members(ctx, r, groups) })
}

// Find implements forge.Threads.
func (w *faultyForge) Find(ctx context.Context, r forge.Repository, commit string) (signing.Thread, error) {
	return call(w.faults, "Find", func() (signing.Thread, error) { return w.Forge.Find(ctx, r, commit) })
}

// Open implements forge.Threads.
func (w *faultyForge) Open(ctx context.Context, r forge.Repository, title, body string) (t signing.Thread, c forge.Comment, err error) {
	err = w.faults.step("forge Open", func() (err error) { t, c, err = w.Forge.Open(ctx, r, title, body); return err })
	return t, c, err
}

// Close implements forge.Threads.
func (w *faultyForge) Close(ctx context.Context, t signing.Thread) error {
	return w.faults.step("forge Close", func() error { return w.Forge.Close(ctx, t) })
}

// Comment implements forge.Threads.
func (w *faultyForge) Comment(ctx context.Context, t signing.Thread, id string) (forge.Comment, error) {
	return call(w.faults, "Comment", func() (forge.Comment, error) { return w.Forge.Comment(ctx, t, id) })
}

// Comments implements forge.Threads.
func (w *faultyForge) Comments(ctx context.Context, t signing.Thread, since time.Time) ([]forge.Comment, error) {
	return call(w.faults, "Comments", func() ([]forge.Comment, error) { return w.Forge.Comments(ctx, t, since) })
}

// Post implements forge.Writer.
func (w *faultyForge) Post(ctx context.Context, t signing.Thread, body string) (forge.Comment, error) {
	return call(w.faults, "Post", func() (forge.Comment, error) { return w.Forge.Post(ctx, t, body) })
}

// Edit implements forge.Writer.
func (w *faultyForge) Edit(ctx context.Context, t signing.Thread, id, body string) error {
	return w.faults.step("forge Edit", func() error { return w.Forge.Edit(ctx, t, id, body) })
}

// Mine implements forge.Writer.
func (w *faultyForge) Mine(ctx context.Context, t signing.Thread, marker string) ([]forge.Comment, error) {
	return call(w.faults, "Mine", func() ([]forge.Comment, error) { return w.Forge.Mine(ctx, t, marker) })
}

// Check implements forge.Reports.
func (w *faultyForge) Check(ctx context.Context, r forge.Repository, c forge.Check) (string, error) {
	return call(w.faults, "Check", func() (string, error) { return w.Forge.Check(ctx, r, c) })
}
