package workflow

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/sealwright/sealwright/internal/approval"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

// press deals with a button of a check run. What was pressed the forge can tell
// only once: the signature of the delivery vouches for it. Which Request the check
// run is about is asked again, and must be what the service itself recorded.
func (w *Workflow) press(ctx context.Context, f forge.Forge, d *store.Delivery, e forge.Event) (string, error) {
	verb, code, ok := strings.Cut(e.Button, " ")
	if !ok || verb != approval.VerbApprove && verb != approval.VerbDeny {
		return HeardIgnored, nil
	}
	check, err := f.ReadCheck(ctx, e.Repository, e.Check)
	if errors.Is(err, signing.NotFound) {
		return HeardGone, nil
	}
	if err != nil {
		return "", fmt.Errorf("reading the check run again: %w", err)
	}
	r, outcome, err := w.checked(ctx, d.Forge, e, check)
	if r == nil || err != nil {
		return outcome, err
	}
	out, err := w.Command(ctx, Input{
		Request: r.ID, Verb: verb, Code: code, By: e.Sender,
		Via: signing.ViaCheckRun, Ref: "check " + string(d.Key), At: d.Received,
	})
	switch {
	case err != nil && (signing.Temporary(err) || signing.CodeOf(err) == signing.Internal):
		return "", err
	case err != nil || !out.Accepted:
		return HeardRefused, nil
	}
	return HeardAccepted, nil
}

// checked returns the Request of a check run: the one that it names, if it is of
// this repository and the check run is the one that was made for it.
func (w *Workflow) checked(ctx context.Context, host string, e forge.Event, check forge.Check) (*signing.Request, string, error) {
	if !signing.ValidRequestID(check.Key) {
		return nil, HeardElsewhere, nil
	}
	var found *signing.Request
	err := w.Store.View(ctx, func(tx *store.Tx) error {
		r, err := tx.Request(check.Key)
		if err != nil {
			return err
		}
		reports, err := tx.Reports(r.ID)
		if err == nil && r.Origin.Forge == host && r.Origin.SourceRepositoryIdentifier == e.Repository.ID && e.Check != "" && reports.CheckRun == e.Check {
			found = r
		}
		return err
	})
	if errors.Is(err, signing.NotFound) || err == nil && found == nil {
		return nil, HeardElsewhere, nil
	}
	return found, "", err
}
