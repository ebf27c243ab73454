package method

import (
	"context"

	"github.com/sealwright/sealwright/internal/signing"
)

// Found is one signature that is published on an artifact.
type Found struct {
	Format   string // of the method: "legacy", "bundle", "jws", "cose"
	Location signing.Location
	// Envelope is the digest of the bytes that an Envelope of this signature has:
	// whether this service made it, its audit log says.
	Envelope signing.Digest
	// Err says why verifiers with the key refuse it; nil means that it is valid.
	Err error
}

// Finder is a Method that can list what verifiers see on an artifact.
type Finder interface {
	Method

	// Find returns every signature of this technology on the artifact, by whomever;
	// a has the media type and size that the registry says. It judges each as verifiers do that have k. None is not an error; a registry
	// that cannot be asked is, and never "none".
	Find(ctx context.Context, a signing.Artifact, k signing.KeyInfo) ([]Found, error)
}
