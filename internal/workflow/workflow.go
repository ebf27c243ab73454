// Package workflow drives a Request from submission to published, verified
// signatures. It is the only caller of keys.
//
// What it guarantees (design, section 5):
//
//   - State changes only through store.Tx.Transition, together with its audit
//     events and the job that continues the work.
//   - A key is used only by sign, which takes a clearance; a clearance is made
//     only by recheck and covers each Task once.
//   - The exact bytes to be signed are durable before the key sees them, each
//     use of the key is announced by a durable attempt row, and at most one
//     envelope of an intent is ever stored, so that a crash at any point leads
//     to the same single signature.
//   - published is recorded only after the signature was read back and verified.
//
// Work is driven from leased job rows, one for each Request, so that it
// continues after a crash, in another process if need be.
package workflow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealwright/sealwright/internal/approval"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/key"
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/policy"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

const (
	// DefaultDeadline and MaxDeadline bound how long a Request may wait for the
	// registry, the forge or people before it expires.
	DefaultDeadline = time.Hour
	MaxDeadline     = 7 * 24 * time.Hour
	// DefaultLease is how long a job stays with a worker that is not heard of:
	// long enough for a slow registry between two renewals, short enough that a
	// crash is made good within a minute.
	DefaultLease = 30 * time.Second
	// DefaultWorkers is how many Requests are driven at once, TaskConcurrency
	// how many Tasks of one Request. Both wait for registries most of the time.
	DefaultWorkers  = 32
	TaskConcurrency = 16
	// DefaultPoll is how often due jobs and changes made by other processes are
	// looked for when nothing inside this process announces them. It is also
	// the first wait before a step is tried again.
	DefaultPoll = time.Second
	// requeueAfter is the age at which an intent that no key was asked to sign
	// is thrown away and made anew: what it says of the time is stale by then.
	requeueAfter = 10 * time.Minute
	// backoffMax bounds the wait before a step is tried again.
	backoffMax = time.Minute
	// maxStale bounds how often one Task may find its base moved; with the
	// lease on the digest it takes a foreign writer in a loop to get there.
	maxStale = 10
	// maxRounds bounds how often the bytes of one Task are made anew because another
	// writer took their version; with the lease on the repository that takes a
	// foreign writer, who wins every time.
	maxRounds = 5
	// expireBatch is how many expired rows one commit removes.
	expireBatch = 1000
	// jobDrive is the kind of the job that drives a Request.
	jobDrive = "drive"
)

// Options are the parts that a Workflow is built from. Store, Policies, Keys,
// Methods, Registry, Now, Rand, Log and LogSigner are required. Policies are
// those to start with: Reload replaces them.
type Options struct {
	Store    *store.Store
	Policies *policy.Set
	Keys     *key.Ring
	Methods  map[string]method.Method
	Registry *registry.Client

	// LogSigner signs checkpoints of the audit log. CheckpointFile keeps the
	// newest one outside the database; no smaller one is ever signed after it.
	LogSigner       *audit.Signer
	CheckpointFile  string
	CheckpointEvery time.Duration

	Now  func() time.Time
	Rand io.Reader
	Log  *slog.Logger
	// Owner names this process in leases. It must differ between processes.
	Owner   string
	Version string // of the software, for the log
	Workers int
	Lease   time.Duration
	Poll    time.Duration
	// Forges are the configured forges by host. ForgePoll says how often each is
	// read for comments whose delivery never came; 0 is DefaultForgePoll.
	Forges    map[string]forge.Forge
	ForgePoll map[string]time.Duration
	// Directory says which accounts and identities are one person; nil knows nobody.
	Directory *approval.Directory
	// RenewEvery is how often what ends is looked at; 0 is DefaultRenewEvery.
	RenewEvery time.Duration
	// Heard, where set, is told of each delivery and command what became of it: a
	// word of Heard's constants. The host is a configured one, or empty.
	Heard func(host, outcome string)
	// Steps, where set, is told how long each step of the cycle took.
	Steps func(step string, took time.Duration)
}

// Workflow drives Requests. Make one with New, start it with Run.
type Workflow struct {
	Options
	inForce       atomic.Pointer[generation]
	endings       atomic.Pointer[[]Ending]      // nil before the first look
	refusedReload atomic.Pointer[refusedReload] // nil unless the policies on disk are broken
	loading       sync.Mutex                    // one configuration is loaded at a time
	slots         chan struct{}                 // one token for each Request being driven
	wake          chan struct{}                 // capacity 1: a job may be due
	full          atomic.Bool                   // due jobs may wait for a slot: who gives one back wakes the dispatcher
	drives        sync.WaitGroup
	asks          *crew // asks people
	hooks         *crew // deals with webhook deliveries
	pulls         *crew // and with those of pull requests
	reporters     *crew
	threads       keyed // one comment of a thread is dealt with at a time

	mu         sync.Mutex
	living     map[string]*live  // guarded by mu; Requests that are worked on or waited for
	digests    map[string]*queue // guarded by mu; who publishes on which digest in this process
	checkpoint string            // guarded by mu: newest of the audit log, empty before the first
	run        context.Context   // guarded by mu; nil unless Run is running
	stopped    bool              // guarded by mu: no new drive may start
	logError   error             // guarded by mu: of the last Sequence
	alarmed    map[string]bool   // guarded by mu: tables whose alteration was recorded
}

// New returns a Workflow. It does no I/O.
func New(o Options) (*Workflow, error) {
	for what, missing := range map[string]bool{
		"store": o.Store == nil, "policies": o.Policies == nil, "keys": o.Keys == nil, "registry": o.Registry == nil,
		"methods": len(o.Methods) == 0, "log signer": o.LogSigner == nil, "clock": o.Now == nil, "randomness": o.Rand == nil,
		"log": o.Log == nil, "owner": o.Owner == "", "version": o.Version == "",
	} {
		if missing {
			return nil, fmt.Errorf("workflow needs a %s", what)
		}
	}
	if o.Workers == 0 {
		o.Workers = DefaultWorkers
	}
	if o.Lease == 0 {
		o.Lease = DefaultLease
	}
	if o.Poll == 0 {
		o.Poll = DefaultPoll
	}
	if o.RenewEvery == 0 {
		o.RenewEvery = DefaultRenewEvery
	}
	if o.CheckpointEvery == 0 {
		o.CheckpointEvery = 2 * time.Second
	}
	if o.Heard == nil {
		o.Heard = func(string, string) {}
	}
	if o.Steps == nil {
		o.Steps = func(string, time.Duration) {}
	}
	w := &Workflow{
		Options: o,
		slots:   make(chan struct{}, o.Workers),
		wake:    make(chan struct{}, 1),
		living:  map[string]*live{},
		digests: map[string]*queue{},
		alarmed: map[string]bool{},
	}
	w.asks = newCrew(w, jobAsk, askWorkers, w.loadAsks)
	w.hooks = newCrew(w, jobDelivery, deliveryWorkers, w.loadDeliveries)
	w.pulls = newCrew(w, jobPull, pullWorkers, w.loadDeliveries)
	w.reporters = newCrew(w, jobReport, reportWorkers, w.loadReports)
	w.Store.Follow(w.follow)
	return w, nil
}

// Run drives Requests until ctx ends, then waits for what is in hand. Load must
// have succeeded before.
func (w *Workflow) Run(ctx context.Context) error {
	if w.inForce.Load() == nil {
		return errNotLoaded
	}
	w.mu.Lock()
	w.run, w.stopped = ctx, false
	w.mu.Unlock()
	var wg sync.WaitGroup
	loops := []func(context.Context){w.dispatch, w.sequence, w.tidy, w.renewals}
	if len(w.Forges) > 0 {
		loops = append(loops, w.asks.run, w.hooks.run, w.pulls.run, w.reporters.run)
	}
	for _, f := range w.Forges {
		loops = append(loops, func(ctx context.Context) { w.poll(ctx, f) })
	}
	for _, loop := range loops {
		wg.Go(func() { loop(ctx) })
	}
	wg.Wait()
	w.mu.Lock()
	w.stopped = true // no drive is added to the wait group from here on
	w.mu.Unlock()
	w.drives.Wait()
	return nil
}

// dispatch claims due jobs as workers become free.
func (w *Workflow) dispatch(ctx context.Context) {
	timer := time.NewTicker(w.Poll)
	defer timer.Stop()
	said := "" // a state that lasts is logged once
	for {
		err := w.claim(ctx)
		if errors.Is(err, store.ErrTampered) {
			w.alarm(ctx, store.AlteredTable(err), err)
		}
		if err != nil && ctx.Err() == nil && err.Error() != said {
			w.Log.Error("claiming jobs", "error", err)
		}
		said = fmt.Sprint(err)
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-timer.C:
		}
	}
}

func (w *Workflow) claim(ctx context.Context) error {
	for ctx.Err() == nil {
		w.full.Store(true)
		free := cap(w.slots) - len(w.slots)
		if free == 0 {
			return nil // a finishing drive wakes the dispatcher
		}
		w.full.Store(false)
		// A read first: an idle service does not write, and one that may not
		// decide leaves the jobs to those that may.
		var due bool
		err := w.Store.View(ctx, func(tx *store.Tx) error {
			if err := w.catchUp(tx); err != nil {
				return err
			}
			if err := current(tx, w.inForce.Load()); err != nil {
				return err
			}
			at, ok, err := tx.NextDue(jobDrive)
			due = ok && !at.After(tx.Now())
			return err
		})
		if err != nil || !due {
			return err
		}
		var claims []*store.Claim
		err = w.Store.Update(ctx, "claim", func(tx *store.Tx) (err error) {
			claims, err = tx.ClaimDue(jobDrive, w.Owner, free, w.Lease)
			return err
		})
		if err != nil || len(claims) == 0 {
			return err
		}
		for _, c := range claims {
			select {
			case w.slots <- struct{}{}:
				w.start(c, nil)
			case <-ctx.Done():
				return nil // the lease runs out and another worker takes over
			}
		}
	}
	return nil
}

// start drives the Request of c, whose slot the caller holds, in the background.
// r, if not nil, is the Request as the caller has just written it.
func (w *Workflow) start(c *store.Claim, r *signing.Request) {
	w.mu.Lock()
	ctx := w.run
	if w.stopped || ctx == nil {
		w.mu.Unlock()
		<-w.slots
		return // the lease runs out and another worker takes over
	}
	w.drives.Add(1)
	w.mu.Unlock()
	_, leave := w.attend(c.Ref)
	go func() {
		defer w.drives.Done()
		defer leave()
		over := w.hold(ctx, c, r)
		<-w.slots
		// Whose Request is over has left no job that is due.
		if !over || w.full.Load() {
			w.kick()
		}
	}()
}

// kick tells the dispatcher that a job may be due.
func (w *Workflow) kick() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// hold keeps the lease of c alive while drive works, and gives the job back. It
// reports whether the Request is over.
func (w *Workflow) hold(ctx context.Context, c *store.Claim, r *signing.Request) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	renewed := make(chan struct{})
	go func() {
		defer close(renewed)
		t := time.NewTicker(w.Lease / 3)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
			err := w.Store.Update(ctx, "renew", func(tx *store.Tx) error { return tx.Renew(c, w.Lease) })
			if errors.Is(err, signing.Conflict) {
				cancel() // another worker has it: stop at once
				return
			}
		}
	}()
	d := &drive{w: w, claim: c, log: w.Log.With("request", c.Ref), request: r, fresh: r != nil}
	d.run(ctx)
	cancel()
	<-renewed
	return d.request != nil && d.request.State.Terminal()
}

// tidy forgets what is kept for a time only.
func (w *Workflow) tidy(ctx context.Context) {
	t := time.NewTicker(time.Minute)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if err := errors.Join(w.forget(ctx), w.revive(ctx)); err != nil && ctx.Err() == nil {
			w.Log.Error("tidying up", "error", err)
		}
	}
}

// revive makes sure that what must still come to an end has a job: Requests
// past their deadline and intents that nobody attempted. Jobs are written with
// the states that need them, so this finds only what somebody deleted.
func (w *Workflow) revive(ctx context.Context) error {
	var ids []string
	err := w.Store.View(ctx, func(tx *store.Tx) (err error) {
		if ids, err = tx.Overdue(expireBatch); err != nil {
			return err
		}
		tasks, err := tx.Unattempted(requeueAfter, expireBatch)
		for _, t := range tasks {
			request, _, _ := strings.Cut(t, ".")
			ids = append(ids, request)
		}
		return err
	})
	if err != nil || len(ids) == 0 {
		return err
	}
	err = w.Store.Update(ctx, "revive", func(tx *store.Tx) error {
		for _, id := range ids {
			if err := tx.Enqueue(store.Job{Kind: jobDrive, Ref: id}); err != nil {
				return err
			}
		}
		return nil
	})
	w.kick()
	return err
}

// forget removes expired replay keys and old deliveries, a batch to a commit.
func (w *Workflow) forget(ctx context.Context) error {
	for {
		n := 0
		err := w.Store.Update(ctx, "tidy", func(tx *store.Tx) error {
			keys, err := tx.Expire(expireBatch)
			if err != nil {
				return err
			}
			old, err := tx.ForgetDeliveries(expireBatch)
			n = max(keys, old)
			return err
		})
		if err != nil || n < expireBatch {
			return err
		}
	}
}
