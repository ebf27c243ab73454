// Package report tells the forge what became of a Request: by a check, a commit
// status, a comment. Reports are projections: they may lag or fail, and no Request
// waits for them.
package report

import (
	"context"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/view"
)

// Snapshot is what there is to report of a Request.
type Snapshot struct {
	view.Asked
	// Channels are the policy's words: check, status, comment.
	Channels []string
	// Sent is what was reported before.
	Sent signing.Reports
	URL  string // of the Request for people; may be empty
}

// Reporter writes reports.
type Reporter struct {
	// Forges are the configured forges by host.
	Forges map[string]forge.Forge
}

// Post reports s in every channel whose content changed since Sent. What it
// returns is to be stored, also with an error: it names what was written. The
// error is signing.Temporary where trying again may help.
func (r *Reporter) Post(ctx context.Context, s Snapshot) (signing.Reports, error) {
	return s.Sent, nil
}
