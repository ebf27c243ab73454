package workflow

import "context"

// Revive is what tidy does every minute.
func (w *Workflow) Revive(ctx context.Context) error { return w.revive(ctx) }
