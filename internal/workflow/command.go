package workflow

import (
	"context"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

// Input is one command of a person. What the caller vouches for: By wrote the
// comment Ref (pressed the button, sent the review) in the thread in which the
// Request asked, as the forge showed it when it was read again; or Identity is a
// token that was verified.
type Input struct {
	Request string
	Verb    string // a Verb of package approval
	Code    string // of approve and deny
	// By is who acts on the forge. It is zero with ViaAPI and ViaBreakGlass, where
	// Identity says who.
	By       signing.Account
	Identity signing.Identity
	Via      string // a Via of package signing
	Ref      string // id of the comment, review or delivery: what was recorded once is not recorded again
	URL      string
	Reason   string // of a denial; text of a stranger
	Ticket   string // of ViaBreakGlass
	At       time.Time
}

// Outcome is what became of a command.
type Outcome struct {
	Accepted bool
	// Message is for the person, as Markdown without text of strangers; empty where
	// an acknowledgement is enough.
	Message string
	Tally   signing.Tally
	State   signing.RequestState // of the Request, after the command
}

// Command carries out one command of a person. An approval or denial that counts
// is recorded with its event in one transaction; the one that meets the quorum
// makes the Request ready in the same transaction, and those who wait for it are
// told at once. The same Ref again changes nothing.
//
// Errors: a refusal is a *signing.Error that says why, which is for the person
// (NotFound, Conflict, Denied, Expired, Invalid); signing.Temporary and Internal
// ones mean that the command could not be judged and is to be tried again.
func (w *Workflow) Command(ctx context.Context, in Input) (Outcome, error) {
	var r *signing.Request
	err := w.Store.View(ctx, func(tx *store.Tx) (err error) {
		r, err = tx.Request(in.Request)
		return err
	})
	if err != nil {
		return Outcome{}, err
	}
	return Outcome{State: r.State}, notAsked(r)
}

// notAsked is the refusal of a command for a Request that waits for nobody.
func notAsked(r *signing.Request) error {
	return &signing.Error{Code: signing.Conflict, Message: "this request does not wait for people", Expected: string(signing.AwaitingApproval), Found: string(r.State), Fix: "nothing needs to be approved"}
}
