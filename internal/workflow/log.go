package workflow

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

const (
	// sequenceBatch is how many events one commit takes into the log: enough
	// to keep up with group commit, short enough not to delay it.
	sequenceBatch = 1024
	// maxBacklog is the age at which events without a leaf make the service
	// not ready: what it answers can no longer be shown to be in the log.
	maxBacklog = 30 * time.Second
)

// sequence gives events their place in the log and signs checkpoints.
func (w *Workflow) sequence(ctx context.Context) {
	t := time.NewTicker(w.CheckpointEvery)
	defer t.Stop()
	for {
		if err := w.Sequence(ctx); err != nil && ctx.Err() == nil {
			w.Log.Error("extending the audit log", "error", err)
		}
		select {
		case <-ctx.Done():
			// Whatever was answered last shall be in the log of a service that
			// was stopped in order.
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			if err := w.Sequence(last); err != nil {
				w.Log.Error("extending the audit log before stopping", "error", err)
			}
			return
		case <-t.C:
		}
	}
}

// Sequence takes every event so far into the log, signs a checkpoint if it
// grew, and keeps that checkpoint outside the database. It never signs a
// checkpoint that is smaller than, or contradicts, the one kept.
func (w *Workflow) Sequence(ctx context.Context) error {
	err := w.extend(ctx)
	var newest []byte
	if err == nil {
		err = w.Store.View(ctx, func(tx *store.Tx) (err error) {
			if newest, _, err = tx.Checkpoint(); errors.Is(err, signing.NotFound) {
				return nil // nothing was logged yet
			}
			return err
		})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		w.checkpoint = string(newest)
	}
	w.logError = err // shown by Ready until it works again
	return err
}

func (w *Workflow) extend(ctx context.Context) error {
	sign := func(size uint64, root []byte) ([]byte, error) {
		kept, err := w.keptCheckpoint()
		if err != nil {
			return nil, err
		}
		if kept == nil && w.CheckpointFile != "" && !w.first(ctx) {
			return nil, &signing.Error{Code: signing.Conflict, Message: "the kept checkpoint is gone, though checkpoints were signed before", Expected: w.CheckpointFile, Found: "no such file", Fix: "put it back; if it is lost, write there the newest checkpoint of this log that others kept"}
		}
		if err := audit.Guard(ctx, kept, size, root, w.Store.LogSource().Nodes); err != nil {
			return nil, err
		}
		note, err := w.LogSigner.SignCheckpoint(size, root)
		if err != nil || w.CheckpointFile == "" {
			return note, err
		}
		// From here on no smaller log is ever signed for; the database, and with
		// it everybody else, learns of the checkpoint after that.
		return note, writeFile(w.CheckpointFile, note)
	}
	for {
		n, err := w.Store.Sequence(ctx, sequenceBatch, sign)
		if err != nil {
			return err
		}
		if n < sequenceBatch {
			return nil
		}
	}
}

// first reports whether no checkpoint of this log was ever stored.
func (w *Workflow) first(ctx context.Context) bool {
	err := w.Store.View(ctx, func(tx *store.Tx) error {
		_, _, err := tx.Checkpoint()
		return err
	})
	return errors.Is(err, signing.NotFound)
}

func (w *Workflow) keptCheckpoint() (*audit.Checkpoint, error) {
	if w.CheckpointFile == "" {
		return nil, nil
	}
	f, err := os.Stat(w.CheckpointFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for the kept checkpoint: %w", err)
	}
	if f.Size() > audit.MaxCheckpoint {
		return nil, &signing.Error{Code: signing.TooLarge, Message: "the kept checkpoint is not one", Found: fmt.Sprintf("%d bytes in %s", f.Size(), w.CheckpointFile)}
	}
	raw, err := os.ReadFile(w.CheckpointFile)
	if err != nil {
		return nil, fmt.Errorf("reading the kept checkpoint: %w", err)
	}
	c, err := audit.ParseCheckpoint(raw, w.LogSigner.Verifier())
	if err != nil {
		return nil, fmt.Errorf("reading the kept checkpoint %s: %w", w.CheckpointFile, err)
	}
	return &c, nil
}

// writeFile replaces path by a file that holds b, durably: the old content or
// the new one is there after a crash.
func writeFile(path string, b []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".checkpoint-*")
	if err != nil {
		return fmt.Errorf("keeping the checkpoint: %w", err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("keeping the checkpoint: %w", errors.Join(err, os.Remove(f.Name())))
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("keeping the checkpoint: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// Check is one line of the readiness report.
type Check struct {
	Name   string
	OK     bool
	Detail string
	// Warning is with OK: what goes on for now, and needs somebody.
	Warning bool
}

// Ready reports whether this process can decide, sign and log.
func (w *Workflow) Ready(ctx context.Context) []Check {
	var checks []Check
	err := w.Store.View(ctx, func(tx *store.Tx) error {
		n, oldest, err := tx.Backlog()
		if err != nil {
			return err
		}
		age := time.Duration(0)
		if n > 0 {
			age = w.Now().Sub(oldest)
		}
		c := Check{Name: "audit log", OK: age <= maxBacklog, Detail: fmt.Sprintf("%d events waiting, oldest %s", n, age.Round(time.Second))}
		w.mu.Lock()
		if w.logError != nil {
			c.OK, c.Detail = false, signing.Public(w.logError).Message
		}
		w.mu.Unlock()
		checks = append(checks, c)
		checks = append(checks, w.readyConfiguration(tx))
		return nil
	})
	checks = append(checks, Check{Name: "database", OK: err == nil})
	usable := w.Keys.Check(ctx)
	for _, id := range slices.Sorted(maps.Keys(usable)) {
		err := usable[id]
		c := Check{Name: "key " + id, OK: err == nil}
		if err != nil {
			c.Detail = signing.Public(err).Message
		}
		// A module that is away turns off its own keys, not the service.
		if signing.CodeOf(err) == signing.Unavailable && len(usable) > 1 {
			c.OK, c.Warning = true, true
		}
		checks = append(checks, c)
	}
	checks = append(checks, w.readyEndings()...)
	return checks
}

// RecordRefusedToken logs that a verified token was refused before it became a
// Request. Tokens that do not verify are counted, not logged, so that strangers
// cannot fill the log.
func (w *Workflow) RecordRefusedToken(ctx context.Context, id signing.Identity, o signing.Origin, code signing.Code) error {
	return w.Store.Update(ctx, "token refused", func(tx *store.Tx) error {
		ev := audit.Event{Time: tx.Now(), Kind: audit.TokenRefused, Attrs: map[string]string{"code": string(code)}}
		audit.Origin(ev.Attrs, id, o)
		return tx.Append(ev)
	})
}

// TrustedKeys returns the public half of every key, in the order of their ids.
func (w *Workflow) TrustedKeys() []signing.KeyInfo {
	var out []signing.KeyInfo
	for _, id := range w.Keys.IDs() {
		if info, ok := w.Keys.Info(id); ok {
			out = append(out, info)
		}
	}
	return out
}
