package dct

import (
	"slices"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// State is what is published for one repository, all of it verified from a root that
// the configuration trusts, not expired, and not older than what was seen before.
type State struct {
	// Repository is the GUN: the name of the image repository, with its host.
	Repository signing.Repository
	Root       Root
	// Timestamp and Snapshot end first; the server renews them itself.
	Timestamp, Snapshot Document
	// Roles are targets and all delegations that were asked for, parents first, in the
	// order in which docker looks.
	Roles []Role
	// files are the documents that were read, by the name of the server: what Inspect
	// verifies again.
	files map[string][]byte
}

// Document is version, end and digest of one document.
type Document struct {
	Version int64
	Expires time.Time
	Digest  signing.Digest
	// Keys may sign it; Threshold of them must.
	Keys      []Key
	Threshold int
}

// Trusted says why a root is trusted.
type Trusted string

// The reasons for which a root is trusted.
const (
	ByPin      Trusted = "pin"       // a root key that the configuration names
	ByCA       Trusted = "ca"        // a certificate by an authority of the configuration
	ByMemory   Trusted = "memory"    // follows from the root that was trusted on first use
	ByFirstUse Trusted = "first use" // trust_on_first_use, and this is the first
)

// Root is the newest root of a repository.
type Root struct {
	Document
	Trusted Trusted
}

// Role is targets or a delegation.
type Role struct {
	Name string
	Document
	// Paths are what names of targets may begin with, in this role and all above it;
	// "" is every name. The role targets has just that.
	Paths []string
	// Published says that there is a document for the role. A new delegation has none:
	// Version is 0 then.
	Published bool
	// Targets are its tags in order.
	Targets []Target
	// SignedBy are the keys of the role that have signed it.
	SignedBy []Key
	// Err says why the document must not be believed: not signed by enough keys,
	// expired, tags outside its paths. Docker leaves such a delegation out, and goes on.
	// The role targets never has one: without it there is no State.
	Err error

	doc *document
}

// Target is one signed tag.
type Target struct {
	Tag    string
	Digest signing.Digest
	Size   int64
}

// Role returns the role of a name.
func (s *State) Role(name string) (Role, bool) {
	i := slices.IndexFunc(s.Roles, func(r Role) bool { return r.Name == name })
	if i < 0 {
		return Role{}, false
	}
	return s.Roles[i], true
}

// Target returns a tag of the role.
func (r Role) Target(tag string) (Target, bool) {
	i, ok := slices.BinarySearchFunc(r.Targets, tag, func(t Target, tag string) int {
		switch {
		case t.Tag < tag:
			return -1
		case t.Tag > tag:
			return 1
		}
		return 0
	})
	if !ok {
		return Target{}, false
	}
	return r.Targets[i], true
}

// Lookup returns what docker takes a tag for: the target of targets/releases, else
// that of targets. Other delegations are never asked for a pull.
func (s *State) Lookup(tag string) (Target, bool) {
	for _, name := range []string{RoleReleases, RoleTargets} {
		if r, ok := s.Role(name); ok && r.Err == nil {
			if t, ok := r.Target(tag); ok {
				return t, true
			}
		}
	}
	return Target{}, false
}
