// Package ask is how a forge is asked, whichever it is: what GitHub's and GitLab's
// clients have in common. A question has parts, each answered by itself; what was
// asked is recorded; an error says what an answer of the forge means.
package ask

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// atOnce bounds the parts of one question that are asked at the same time. GitHub
// takes 100 requests at once from one App, and asks for fewer.
const atOnce = 4

// Record collects what was asked. It is safe for concurrent use.
type Record struct {
	mu   sync.Mutex
	list []signing.Observation
}

// recordKey is the context's key of *Record.
type recordKey struct{}

// Recorded returns a context whose requests are noted in the Record.
func Recorded(ctx context.Context) (context.Context, *Record) {
	r := &Record{}
	return context.WithValue(ctx, recordKey{}, r), r
}

// List is what was asked so far.
func (r *Record) List() []signing.Observation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.list)
}

// Note records that something was asked, where the caller collects it.
func Note(ctx context.Context, at time.Time, what string) {
	if r, ok := ctx.Value(recordKey{}).(*Record); ok {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.list = append(r.list, signing.Observation{Source: "forge", What: what, At: at.UTC()})
	}
}

// Parts answer the parts of a question. Each fills a field of its own of the
// facts, and is called only where the question wants it.
type Parts struct {
	Run, Pulls, Commit, Environment, Checks, Inputs func(context.Context) error
	Attestation, WorkflowFile, PolicyFile, Builder  func(context.Context) error
	// Ref answers about one ref: the build's own, and each of the branches.
	Ref func(ctx context.Context, name string) (*signing.RefFacts, error)
}

// part is one part of a question by its name.
type part struct {
	name string
	ask  func(context.Context) error
}

// Answer asks every part that q wants, with the build's own ref, and adds to f what
// was asked. What one part lacks, a permission, an edition or the thing itself, is
// its Unknown. A forge that does not answer is the error of the whole, and f nothing.
func Answer(ctx context.Context, q signing.ForgeQuestion, ref string, f *signing.ForgeFacts, p Parts) error {
	parts := wanted(q, ref, f, p)
	var (
		errs  = make([]error, len(parts))
		asked = make([]*Record, len(parts))
		slots = make(chan struct{}, atOnce)
		group sync.WaitGroup
	)
	for i, p := range parts {
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			var own context.Context
			own, asked[i] = Recorded(ctx)
			errs[i] = p.ask(own)
		})
	}
	group.Wait()
	for i, p := range parts {
		f.Asked = append(f.Asked, asked[i].List()...)
		switch err := errs[i]; {
		case err == nil:
		case Permanent(err):
			Unknown(f, p.name, err.Error())
		default:
			return err
		}
	}
	// A branch without an answer is no fact at all.
	f.Branches = slices.DeleteFunc(f.Branches, func(r signing.RefFacts) bool {
		_, unknown := f.Unknown[signing.PartBranches+" "+r.Ref]
		return unknown
	})
	return nil
}

// wanted lists the parts that q asks for.
func wanted(q signing.ForgeQuestion, ref string, f *signing.ForgeFacts, p Parts) []part {
	var out []part
	add := func(wanted bool, name string, ask func(context.Context) error) {
		if wanted {
			out = append(out, part{name, ask})
		}
	}
	add(q.Run, signing.PartRun, p.Run)
	add(q.Ref, signing.PartRef, func(ctx context.Context) (err error) {
		f.Ref, err = p.Ref(ctx, ref)
		return err
	})
	if len(q.Branches) > 0 {
		f.Branches = make([]signing.RefFacts, len(q.Branches))
	}
	for i, name := range q.Branches {
		f.Branches[i] = signing.RefFacts{Ref: name}
		add(true, signing.PartBranches+" "+name, func(ctx context.Context) error {
			r, err := p.Ref(ctx, name)
			if err == nil {
				f.Branches[i] = *r
			}
			return err
		})
	}
	add(q.Pulls, signing.PartPulls, p.Pulls)
	add(q.Commit, signing.PartCommit, p.Commit)
	add(q.Environment, signing.PartEnvironment, p.Environment)
	add(q.Checks, signing.PartChecks, p.Checks)
	add(q.Inputs, signing.PartInputs, p.Inputs)
	add(q.Attestation, signing.PartAttestation, p.Attestation)
	add(q.WorkflowFile, signing.PartWorkflowFile, p.WorkflowFile)
	add(q.PolicyFile, signing.PartPolicyFile, p.PolicyFile)
	add(q.BuilderRepository != "", signing.PartBuilder, p.Builder)
	return out
}

// Unknown records why a part has no answer. Parts must not call it: they are
// answered at the same time.
func Unknown(f *signing.ForgeFacts, part, why string) {
	if f.Unknown == nil {
		f.Unknown = map[string]string{}
	}
	f.Unknown[part] = why
}

// Permanent reports whether err is an answer about the part, not a failure of
// asking: what the forge refuses, does not have, or has too much of.
func Permanent(err error) bool {
	var e *signing.Error
	return errors.As(err, &e) && !signing.Temporary(err) && e.Code != signing.Internal
}

// PolicyFile reads the repository's own policy with read, at a commit, or where
// that is empty at the one that head tells of the default branch.
func PolicyFile(ctx context.Context, commit string, head func(context.Context) (*signing.PolicyFileFacts, error), read func(context.Context, *signing.PolicyFileFacts) error) (*signing.PolicyFileFacts, error) {
	f := &signing.PolicyFileFacts{Commit: commit}
	if commit == "" {
		var err error
		if f, err = head(ctx); err != nil {
			return nil, err
		}
	}
	if err := read(ctx, f); err != nil {
		return nil, err
	}
	return f, nil
}
