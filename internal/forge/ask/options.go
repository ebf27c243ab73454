package ask

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/outbound"
)

// Options are what a client needs besides its configuration. The zero value is
// the real world.
type Options struct {
	// Outbound bounds the requests. Its MaxBody bounds one answer.
	Outbound outbound.Options
	// Env is os.LookupEnv, for secrets that are env:NAME.
	Env func(string) (string, bool)
	// Now is the clock; time.Now if nil.
	Now func() time.Time
	// Root is what attestations are verified against; it takes the place of the
	// file that forge.Config names.
	Root root.TrustedMaterial
	// Left, if set, is told after an answer how many requests the forge says are left
	// of a limit, for metrics. Its words are few: limits are "core", "graphql", "search"
	// or "other", accounts come from the configuration or are installations.
	Left func(forge, account, limit string, left int64)
}

// Remaining tells o.Left what a header of an answer says. What is no number, or
// not there, is told to nobody.
func (o Options) Remaining(forge, account, limit, header string) {
	if n, err := strconv.ParseInt(header, 10, 64); err == nil && n >= 0 && o.Left != nil {
		o.Left(forge, account, limit, n)
	}
}

// For fills in what is missing for one configured forge. The error is that its
// trusted root cannot be read.
func (o Options) For(cfg forge.Config) (Options, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Env == nil {
		o.Env = os.LookupEnv
	}
	// The limits of a forge are read from its answers, a 429 among them.
	o.Outbound.PassThrottled = true
	if o.Outbound.Now == nil {
		o.Outbound.Now = o.Now
	}
	if o.Root == nil && cfg.AttestationRoot != "" {
		r, err := root.NewTrustedRootFromPath(cfg.AttestationRoot)
		if err != nil {
			return o, fmt.Errorf("forge %s: attestation_root: %w", cfg.Host, err)
		}
		o.Root = r
	}
	return o, nil
}
