package workflow

import "context"

// Waiters returns how many Requests are being waited for.
func (w *Workflow) Waiters() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.living)
}

// Revive is what tidy does every minute.
func (w *Workflow) Revive(ctx context.Context) error { return w.revive(ctx) }
