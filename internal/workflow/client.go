package workflow

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

const (
	// maxRelease bounds the signatures in one answer, in bytes before encoding:
	// the client reads at most 8 MiB.
	maxRelease = 4 << 20
	// maxLocations bounds where one signature may be said to be: no method writes
	// to more than two places.
	maxLocations = 4
	// verifyTime bounds how long the service looks for what a job published,
	// while the job waits for the answer.
	verifyTime = 20 * time.Second
	// leaseRetry is when a job may ask again for a digest that somebody else
	// publishes on: most publications take less than a second.
	leaseRetry = time.Second
)

// errClient says that the job has to publish what is signed.
var errClient = errors.New("waiting for the job to publish")

var reHolder = regexp.MustCompile(`^[A-Za-z0-9_-]{16,64}$`)

// Released is a signature that a job writes to the registry.
type Released struct {
	Task       *signing.Task
	Attachment signing.Attachment
}

// Envelopes gives the job what it has to publish: the signatures of the Tasks
// that are signed and have a number above after, as many as fit into one answer.
// next is the number of the last one, 0 if there are no more. When it returns, the log
// says of each that it was given away.
func (w *Workflow) Envelopes(ctx context.Context, requestID, capability string, after int) (out []Released, next int, err error) {
	var s Snapshot
	view := func(tx *store.Tx) (err error) {
		s, err = w.clients(tx, requestID, capability)
		return err
	}
	if err := w.Store.View(ctx, view); err != nil {
		return nil, 0, err
	}
	size, news := 0, false
	for i, t := range s.Tasks {
		if i+1 <= after || t.State != signing.Signed || s.Request.State != signing.Signing {
			continue
		}
		a, err := w.attachment(s.Request, t)
		if err != nil {
			return nil, 0, err
		}
		for _, l := range append(a.Layers, a.Config) {
			size += len(l.Bytes)
		}
		if size > maxRelease && len(out) > 0 {
			next = i // the number of the Task before
			break
		}
		out = append(out, Released{t, a})
		news = news || !t.Released
	}
	if !news {
		return out, next, nil
	}
	err = w.Store.Update(ctx, "release envelopes", func(tx *store.Tx) error {
		for _, e := range out {
			t, err := tx.Task(e.Task.ID)
			if err != nil {
				return err
			}
			if t.State != signing.Signed || t.Envelope == nil || signing.DigestOf(t.Envelope.Bytes) != signing.DigestOf(e.Task.Envelope.Bytes) {
				return &signing.Error{Code: signing.Conflict, Message: "the request changed while its signatures were read", Fix: "ask again"}
			}
			if t.Released {
				continue
			}
			t.Released = true
			ev := audit.Event{Time: tx.Now(), Kind: audit.TaskReleased, Request: t.RequestID, Task: t.ID, Attrs: audit.Released(t)}
			if err := tx.SaveTask(t, nil, ev); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	// From here on the signatures are the job's.
	w.tell(requestID, nil)
	return out, next, nil
}

// attachment makes of a stored envelope what the job writes.
func (w *Workflow) attachment(r *signing.Request, t *signing.Task) (signing.Attachment, error) {
	m, target, err := w.attacher(r, t)
	if err != nil {
		return signing.Attachment{}, err
	}
	return m.Attachment(target, *t.Envelope)
}

func (w *Workflow) attacher(r *signing.Request, t *signing.Task) (method.Attacher, method.Target, error) {
	m, target, err := (&drive{w: w, request: r}).target(t)
	if err != nil {
		return nil, target, err
	}
	a, ok := m.(method.Attacher)
	if !ok || t.Envelope == nil {
		return nil, target, &signing.Error{Code: signing.Denied, Message: "this signature cannot be published by the job", Found: t.Step.Method}
	}
	return a, target, nil
}

// Place is a digest that a job publishes on. Holder is a random text of the
// process that does: asked again by the same, it is the same lease.
type Place struct {
	Repository signing.Repository
	Digest     signing.Digest
	Holder     string
}

func (p Place) validate() error {
	if err := (signing.Artifact{Repository: p.Repository, Digest: p.Digest}).Validate(); err != nil {
		return err
	}
	if !reHolder.MatchString(p.Holder) {
		return &signing.Error{Code: signing.Invalid, Message: "`holder` is missing or malformed", Expected: "16 to 64 of letters, digits, '_', '-', made at random by each process", Found: fmt.Sprintf("%.80q", p.Holder)}
	}
	return nil
}

func (p Place) owner(requestID string) string {
	return store.ClientOwner + requestID + " " + p.Holder
}

// leaseName names the right to publish on a digest, for service and jobs alike.
func leaseName(repository signing.Repository, digest signing.Digest) string {
	return "publish " + string(repository) + "@" + string(digest)
}

// LeaseDigest gives the job the right to publish on a digest until the time that it
// returns, alone among jobs and the service. It ends with Published, or runs out.
//
// Errors: as Read; Conflict, with RetryAfter, while somebody else has it, and
// without, where the job has nothing to publish on the digest.
func (w *Workflow) LeaseDigest(ctx context.Context, requestID, capability string, p Place) (until time.Time, err error) {
	if err := p.validate(); err != nil {
		return time.Time{}, err
	}
	name, owner := leaseName(p.Repository, p.Digest), p.owner(requestID)
	err = w.Store.Update(ctx, "client lease", func(tx *store.Tx) error {
		s, err := w.clients(tx, requestID, capability)
		if err != nil {
			return err
		}
		if s.Request.State != signing.Signing || !slices.ContainsFunc(s.Tasks, func(t *signing.Task) bool { return t.State == signing.Signed && p.holds(t) }) {
			return &signing.Error{Code: signing.Conflict, Message: "there is nothing to be published on this digest", Expected: "a signed task on " + string(p.Repository) + "@" + string(p.Digest), Found: "none", Fix: "read the request"}
		}
		if _, until, err = tx.HeldLease(name, owner); !errors.Is(err, signing.NotFound) {
			return err // the answer to the first time was lost
		}
		until = tx.Now().Add(publishLease)
		_, err = tx.AcquireLease(name, owner, publishLease)
		var held *signing.Error
		if errors.As(err, &held) && held.Code == signing.Conflict {
			return &signing.Error{Code: signing.Conflict, Message: "somebody else publishes on this digest", Expected: "a free lease", Found: held.Found, Fix: "ask again in a moment", RetryAfter: leaseRetry}
		}
		return err
	})
	return until, err
}

func (p Place) holds(t *signing.Task) bool {
	return t.Artifact.Repository == p.Repository && t.Artifact.Digest == p.Digest
}

// Written is what a job published of one Task, and where.
type Written struct {
	Task      string
	Locations []signing.Location
}

// Published records what the job published on a digest, and gives its lease
// back. The service reads it back if it can: then the Task is published. Where it
// cannot read the registry the Task is delivered, on the job's word. A signature
// that it can look for, and that is not there, is a Conflict. The same again
// changes nothing.
func (w *Workflow) Published(ctx context.Context, requestID, capability string, p Place, written []Written) (Snapshot, error) {
	if err := p.validate(); err != nil {
		return Snapshot{}, err
	}
	var s Snapshot
	err := w.Store.View(ctx, func(tx *store.Tx) (err error) {
		if s, err = w.clients(tx, requestID, capability); err != nil {
			return err
		}
		return w.writable(tx, s, p, written)
	})
	if err != nil {
		return Snapshot{}, err
	}
	to := make([]signing.TaskState, len(written))
	locations := make([][]signing.Location, len(written))
	g := new(errgroup.Group)
	g.SetLimit(TaskConcurrency)
	for i, one := range written {
		g.Go(func() (err error) {
			to[i], locations[i], err = w.readBack(ctx, s.Request, s.task(one.Task), one)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return Snapshot{}, err
	}
	err = w.Store.Update(ctx, "client published", func(tx *store.Tx) (err error) {
		if s, err = w.clients(tx, requestID, capability); err != nil {
			return err
		}
		if err := w.writable(tx, s, p, written); err != nil {
			return err
		}
		for i, one := range written {
			if err := deliver(tx, s.task(one.Task), to[i], locations[i]); err != nil {
				return err
			}
		}
		fence, _, err := tx.HeldLease(leaseName(p.Repository, p.Digest), p.owner(requestID))
		if err == nil {
			err = tx.ReleaseLease(leaseName(p.Repository, p.Digest), p.owner(requestID), fence)
		}
		if err != nil && !errors.Is(err, signing.NotFound) {
			return err
		}
		return tx.Enqueue(store.Job{Kind: jobDrive, Ref: requestID})
	})
	if err != nil {
		return Snapshot{}, err
	}
	w.tell(requestID, nil)
	w.kick()
	return s, nil
}

// deliver moves a Task to where readBack saw it, unless it is there.
func deliver(tx *store.Tx, t *signing.Task, to signing.TaskState, at []signing.Location) error {
	if t.State.Done() {
		return nil
	}
	t.Locations, t.Failure, t.Tries = at, nil, 0
	kind := audit.TaskDelivered
	if to == signing.Published {
		kind = audit.TaskPublished
	}
	ev := audit.Event{Time: tx.Now(), Kind: kind, Request: t.RequestID, Task: t.ID, Attrs: audit.Located(t)}
	return tx.Transition(store.Change{Task: t, To: string(to), Events: []audit.Event{ev}})
}

func (s Snapshot) task(id string) *signing.Task {
	i := slices.IndexFunc(s.Tasks, func(t *signing.Task) bool { return t.ID == id })
	if i < 0 {
		return nil
	}
	return s.Tasks[i]
}

// writable reports whether the job may say this now: Tasks of its Request on
// this digest, whose signatures it was given, under its lease. What was said
// already may be said again without one.
func (w *Workflow) writable(tx *store.Tx, s Snapshot, p Place, written []Written) error {
	if n := len(written); n == 0 || n > len(s.Tasks) {
		return &signing.Error{Code: signing.Invalid, Message: "wrong number of tasks", Expected: "at least one, and each once", Found: strconv.Itoa(n)}
	}
	seen := map[string]bool{}
	open := false
	for _, one := range written {
		t := s.task(one.Task)
		switch {
		case t == nil || !p.holds(t) || seen[one.Task]:
			return &signing.Error{Code: signing.Invalid, Message: "not a task of this request on this digest, or named twice", Found: fmt.Sprintf("%.40q", one.Task)}
		case t.State == signing.Published || t.State == signing.Delivered:
		case t.State != signing.Signed || !t.Released:
			return &signing.Error{Code: signing.Conflict, Message: "this task has no signature that the job could have published", Expected: "a signed task whose envelope was given to the job", Found: fmt.Sprintf("task %s, %s", t.ID, t.State), Fix: "read the request"}
		default:
			open = true
		}
		seen[one.Task] = true
		if err := located(t.Artifact.Repository, one.Locations); err != nil {
			return err
		}
	}
	if !open {
		return nil
	}
	if _, _, err := tx.HeldLease(leaseName(p.Repository, p.Digest), p.owner(s.Request.ID)); errors.Is(err, signing.NotFound) {
		return &signing.Error{Code: signing.Conflict, Message: "the lease on this digest is not held any more", Expected: "a lease of this holder", Found: "none", Fix: "take the lease, publish again, and read back"}
	} else if err != nil {
		return err
	}
	return nil
}

// located checks where a job says that it published: tags and digests of the
// repository.
func located(repository signing.Repository, at []signing.Location) error {
	bad := func(expected, found string) error {
		return &signing.Error{Code: signing.Invalid, Message: "not places of a signature", Expected: expected, Found: found}
	}
	if n := len(at); n == 0 || n > maxLocations {
		return bad(fmt.Sprintf("1 to %d places", maxLocations), strconv.Itoa(n))
	}
	for _, l := range at {
		a, err := signing.ParseReference(l.URI)
		if err != nil || a.Repository != repository || (a.Tag == "") == (a.Digest == "") {
			return bad("REPOSITORY:TAG or REPOSITORY@DIGEST in "+string(repository), fmt.Sprintf("%.120q", l.URI))
		}
		if want := map[bool]string{true: "tag", false: "referrer"}[a.Tag != ""]; l.Kind != want {
			return bad("kind "+want, fmt.Sprintf("%.40q", l.Kind))
		}
		if l.Digest != "" && l.Digest.Validate() != nil || a.Digest != "" && l.Digest != "" && a.Digest != l.Digest {
			return bad("the digest of what is there", fmt.Sprintf("%.80q", l.Digest))
		}
	}
	return nil
}

// readBack looks for what the job published, as far as the service can read the
// registry: published if it is there and verifies, delivered if the service
// cannot look, an error if it is not there.
func (w *Workflow) readBack(ctx context.Context, r *signing.Request, t *signing.Task, said Written) (signing.TaskState, []signing.Location, error) {
	if t.State.Done() {
		return t.State, t.Locations, nil
	}
	m, target, err := w.attacher(r, t)
	if err != nil {
		return "", nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, verifyTime)
	defer cancel()
	at, err := m.Verify(ctx, target, *t.Envelope)
	switch {
	case err == nil:
		return signing.Published, at, nil
	case !errors.Is(err, method.ErrStaleBase):
		if unreadable(ctx, err) {
			return signing.Delivered, said.Locations, nil
		}
		return "", nil, fmt.Errorf("reading back %s: %w", t.ID, err)
	}
	// Registries hide what an account may not read as if it were not there.
	if _, err := w.Registry.Resolve(ctx, t.Artifact.Repository, string(t.Artifact.Digest)); err != nil {
		return signing.Delivered, said.Locations, nil
	}
	return "", nil, &signing.Error{Code: signing.Conflict, Message: "the signature is not where verifiers look for it", Expected: "the signature of " + t.Artifact.String(), Found: "none, or another", Fix: "publish it again and read it back; if this stays, another writer replaces it, or job and service mean two registries"}
}

// unreadable reports whether the service was kept from looking.
func unreadable(ctx context.Context, err error) bool {
	code := signing.CodeOf(err)
	return ctx.Err() != nil || signing.Temporary(err) || code == signing.Denied || code == signing.Unauthenticated || code == signing.NotFound
}
