package evidence

import (
	"context"
	"fmt"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
)

// Source is what a service has about one Request that is over.
type Source struct {
	Log     string
	Request signing.Request
	Tasks   []signing.Task
	Keys    []signing.KeyRecord
	// Events are the leaves about the Request, by index.
	Events []Leaf
	// Checkpoint is the newest one, Raw included. Nodes reads its log.
	Checkpoint audit.Checkpoint
	Nodes      audit.NodeReader
	// Since, if not 0, is the size of an older log to prove consistency with.
	Since uint64
}

// Leaf is an event as it was logged.
type Leaf struct {
	Index uint64
	Data  []byte
}

// Build puts evidence together and adds the proofs. It judges nothing: Verify
// does, and a service verifies what it made before it gives it away. Unavailable
// says that the newest checkpoint does not cover the last event yet.
func Build(ctx context.Context, s Source) (*Evidence, error) {
	e := &Evidence{Log: s.Log, Request: s.Request, Tasks: s.Tasks, Keys: s.Keys, Checkpoint: string(s.Checkpoint.Raw)}
	for _, leaf := range s.Events {
		if leaf.Index >= s.Checkpoint.Size {
			return nil, &signing.Error{Code: signing.Unavailable, Message: "no checkpoint covers the last events of this request yet", RetryAfter: time.Second, Fix: "try again in a few seconds"}
		}
		path, err := audit.InclusionProof(ctx, s.Nodes, leaf.Index, s.Checkpoint.Size)
		if err != nil {
			return nil, fmt.Errorf("proving entry %d: %w", leaf.Index, err)
		}
		e.Events = append(e.Events, Entry{Index: leaf.Index, Path: path, Event: leaf.Data})
	}
	if s.Since > 0 {
		if s.Since > s.Checkpoint.Size {
			return nil, &signing.Error{Code: signing.Conflict, Message: "the log is smaller than the checkpoint that is known", Expected: fmt.Sprintf("at least %d entries", s.Since), Found: fmt.Sprint(s.Checkpoint.Size), Fix: "if the known checkpoint is of this log, the log was cut: keep the checkpoint as evidence"}
		}
		path, err := audit.ConsistencyProof(ctx, s.Nodes, s.Since, s.Checkpoint.Size)
		if err != nil {
			return nil, fmt.Errorf("proving consistency with %d entries: %w", s.Since, err)
		}
		e.Since = &Since{Size: s.Since, Path: path}
	}
	normal := normal(*e)
	return &normal, nil
}
