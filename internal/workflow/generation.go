package workflow

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/policy"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

// generation is one configuration with its number in the database. It does not
// change; a newer one takes its place.
type generation struct {
	n        int64
	policies *policy.Set
	digest   signing.Digest // of policies and keys
}

// refusedReload is what was on disk and did not become a generation.
type refusedReload struct {
	files    signing.Digest
	problems int
	since    time.Time
}

// Load records the configuration in the database: a changed one becomes the
// next generation. From here on a process that holds another generation
// neither decides nor signs. It has to be called before Run; it is separate so
// that a server can report a failure before it listens.
func (w *Workflow) Load(ctx context.Context) error {
	_, err := w.load(ctx, w.Policies, true)
	return err
}

// Reload puts other policies in force without a restart, keys as they are. As
// with Load, changed ones become the next generation, and policies that the
// database has already recorded are caught up with. Requests in hand are
// rechecked: those whose policy changed are denied. The error leaves the
// policies that were in force in force.
func (w *Workflow) Reload(ctx context.Context, policies *policy.Set) (n int64, err error) {
	return w.load(ctx, policies, false)
}

func (w *Workflow) load(ctx context.Context, policies *policy.Set, starting bool) (int64, error) {
	w.loading.Lock()
	defer w.loading.Unlock()
	next := &generation{policies: policies, digest: signing.DigestOf([]byte(string(policies.Digest()) + " " + string(w.Keys.Digest())))}
	if now := w.inForce.Load(); now != nil && now.digest == next.digest {
		w.refusedReload.Store(nil) // the files are again what is in force
		return now.n, nil
	}
	err := w.Store.Update(ctx, "load", func(tx *store.Tx) error {
		n, have, err := tx.Generation()
		if err != nil {
			return err
		}
		if starting {
			if err := w.rememberKeys(tx); err != nil {
				return err
			}
		}
		if n > 0 && have == next.digest {
			next.n = n
			if !starting {
				return nil
			}
			// Sealed anew: after a rotation the old state secret can go.
			if err := tx.SetGeneration(n, next.digest); err != nil {
				return err
			}
			return tx.Append(audit.Event{Time: tx.Now(), Kind: audit.ServiceStarted, Attrs: map[string]string{"version": w.Version}})
		}
		next.n = n + 1
		if err := tx.SetGeneration(next.n, next.digest); err != nil {
			return err
		}
		// What waits for people may not be what would be decided now.
		if err := tx.EnqueueAwaiting(jobDrive); err != nil {
			return err
		}
		return tx.Append(audit.Event{Time: tx.Now(), Kind: audit.ConfigLoaded, Attrs: map[string]string{
			"generation": fmt.Sprint(next.n), "policies": string(policies.Digest()), "keys": string(w.Keys.Digest()), "config": string(next.digest),
		}})
	})
	if err != nil {
		return 0, fmt.Errorf("recording the configuration: %w", err)
	}
	// Commit point: whoever still holds the older generation in this process
	// reads another number in its next transaction, and takes its step again.
	w.inForce.Store(next)
	w.refusedReload.Store(nil)
	w.kick()
	return next.n, nil
}

// RefuseReload records that the policy files, whose digest is files, could not
// be put in force. The same files are recorded once. Ready shows it until a
// Reload succeeds.
func (w *Workflow) RefuseReload(ctx context.Context, files signing.Digest, problems int) error {
	w.loading.Lock()
	defer w.loading.Unlock()
	if was := w.refusedReload.Load(); was != nil && was.files == files {
		return nil
	}
	w.refusedReload.Store(&refusedReload{files: files, problems: problems, since: w.Now()})
	return w.Store.Update(ctx, "refuse reload", func(tx *store.Tx) error {
		return tx.Append(audit.Event{Time: tx.Now(), Kind: audit.ConfigRefused, Attrs: map[string]string{
			"files": string(files), "generation": fmt.Sprint(w.inForce.Load().n),
		}})
	})
}

// Generation returns the number of the configuration that this process decides
// by, and whether the files on disk are another one that could not be loaded.
func (w *Workflow) Generation() (n int64, refused bool) {
	if g := w.inForce.Load(); g != nil {
		n = g.n
	}
	return n, w.refusedReload.Load() != nil
}

// catchUp adopts the number that another process gave to the very configuration
// that this one holds: it was loaded here, replaced there, and put back.
func (w *Workflow) catchUp(tx *store.Tx) error {
	g := w.inForce.Load()
	n, digest, err := tx.Generation()
	if err == nil && n > g.n && digest == g.digest {
		w.inForce.CompareAndSwap(g, &generation{n: n, policies: g.policies, digest: g.digest})
	}
	return err
}

// current refuses to go on when another generation of the configuration is in
// force than g, by which this process was about to act.
func current(tx *store.Tx, g *generation) error {
	n, _, err := tx.Generation()
	if err != nil {
		return err
	}
	if n != g.n {
		return &signing.Error{Code: signing.Unavailable, Message: "this process holds another generation of the configuration than the database", Expected: fmt.Sprintf("generation %d", n), Found: fmt.Sprintf("generation %d", g.n), Fix: "give this process the newest policies (and, with a restart, the newest keys file)"}
	}
	return nil
}

// readyConfiguration says whether this process may decide, and whether the
// files on disk wait for somebody to correct them.
func (w *Workflow) readyConfiguration(tx *store.Tx) Check {
	g := w.inForce.Load()
	if g == nil {
		return Check{Name: "configuration", Detail: "not loaded"}
	}
	err := current(tx, g)
	c := Check{Name: "configuration", OK: err == nil, Detail: fmt.Sprintf("generation %d", g.n)}
	if r := w.refusedReload.Load(); r != nil {
		// The old policies decide as they did: not a reason to take the traffic away.
		c.Detail += fmt.Sprintf("; the policy files have %d problems since %s and are not in force: see the log of the service", r.problems, r.since.UTC().Format(time.RFC3339))
	}
	return c
}

// errNotLoaded is a mistake of the program that calls.
var errNotLoaded = errors.New("workflow: Run before Load")
