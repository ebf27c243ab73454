package dct

import (
	"context"
	"crypto/x509"
	"slices"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// Memory remembers the highest version that was seen of each role of a repository.
// It may be called concurrently.
type Memory interface {
	// Seen returns 0 and "" for what was never seen.
	Seen(ctx context.Context, gun, role string) (version int64, digest signing.Digest, err error)
	// See remembers a version. It refuses, with signing.Denied, a lower one than was
	// seen, and an equal one with another digest.
	See(ctx context.Context, gun, role string, version int64, digest signing.Digest) error
}

// pin is what makes a root of one repository trusted.
type pin struct {
	keys     []string // ids of root keys
	roots    *x509.CertPool
	firstUse bool
}

func (p pin) String() string {
	switch {
	case len(p.keys) > 0:
		return "a root, or one that follows from it, with the key " + strings.Join(p.keys, " or ")
	case p.roots != nil:
		return "a root whose key has a certificate by the configured authority"
	case p.firstUse:
		return "a root that follows from the one that was seen first"
	}
	return "a root key that is pinned in the configuration"
}

// trusts says whether and why a root is trusted by itself: a pinned key is among its
// keys and has signed it, or one with a certificate of a pinned authority.
func (p pin) trusts(r rooted, now time.Time) Trusted {
	for _, k := range r.role(roleRoot).keys {
		if !slices.ContainsFunc(r.doc.sigs, func(s signature) bool { return s.keyID == k.ID && k.verify(s, r.doc.signed) }) {
			continue
		}
		if slices.Contains(p.keys, k.ID) || slices.Contains(p.keys, k.bare) {
			return ByPin
		}
		if p.roots == nil {
			continue
		}
		between := x509.NewCertPool()
		for _, c := range k.Certificates[1:] {
			between.AddCert(c)
		}
		if _, err := k.Certificates[0].Verify(x509.VerifyOptions{Roots: p.roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
			return ByCA
		}
	}
	return ""
}
