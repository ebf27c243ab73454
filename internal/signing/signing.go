// Package signing is the domain of Sealwright: what is signed, who asked, where
// it came from, what was decided, and which states a Request and its Tasks may
// pass through. It depends on the standard library only and does no I/O; every
// other package speaks its words.
//
// Words follow the field: OIDC for identity, Fulcio's certificate extensions for
// the origin of a build, the OCI specifications for artifacts.
package signing

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
)

const (
	// MaxRepository bounds a repository name with its host: the OCI
	// distribution specification asks clients to stay within 255 characters.
	MaxRepository = 255
	// MaxArtifacts bounds one Request. A release of a large product has some
	// hundred images; beyond this the decision can no longer be read by a person.
	MaxArtifacts = 500
)

// The grammar of the OCI distribution specification, host made mandatory so
// that a name never means a default registry.
var (
	reHost       = regexp.MustCompile(`^(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?$`)
	reRepository = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	reTag        = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	reDigest     = regexp.MustCompile(`^sha256:[a-f0-9]{64}$`)
)

// Digest is a content address of the form "sha256:" and 64 lower-case
// hexadecimal digits, the one algorithm that all four signing methods share.
type Digest string

// DigestOf returns the digest of b.
func DigestOf(b []byte) Digest {
	h := sha256.Sum256(b)
	return Digest("sha256:" + hex.EncodeToString(h[:]))
}

// Validate reports whether d is well formed.
func (d Digest) Validate() error {
	if !reDigest.MatchString(string(d)) {
		return &Error{Code: Invalid, Message: "not a digest", Expected: "sha256: and 64 lower-case hex digits", Found: clip(string(d))}
	}
	return nil
}

// Hex returns the hexadecimal part of a valid digest.
func (d Digest) Hex() string { return strings.TrimPrefix(string(d), "sha256:") }

// Repository is a registry host and a repository path, "registry.acme.dev/payments/web".
// The host is always written out.
type Repository string

// Validate reports whether r has a host and a well-formed path.
func (r Repository) Validate() error {
	host, path, ok := strings.Cut(string(r), "/")
	// Without a dot, a port or "localhost" a first component is a path of the
	// default registry to most tools, and a host to us: refuse the ambiguity.
	hostLike := strings.ContainsAny(host, ".:") || host == "localhost"
	if !ok || len(r) > MaxRepository || !hostLike || !reHost.MatchString(host) || !reRepository.MatchString(path) {
		return &Error{Code: Invalid, Message: "not a repository", Expected: "HOST/PATH as in registry.acme.dev/payments/web, at most 255 characters", Found: clip(string(r)), Fix: "write the registry host out, lower-case the path, and leave tag and digest away"}
	}
	return nil
}

// Host returns the registry host, with its port if there is one.
func (r Repository) Host() string { h, _, _ := strings.Cut(string(r), "/"); return h }

// Path returns the repository path without the host.
func (r Repository) Path() string { _, p, _ := strings.Cut(string(r), "/"); return p }

// ValidateTag reports whether t is a tag by the OCI distribution specification.
func ValidateTag(t string) error {
	if !reTag.MatchString(t) {
		return &Error{Code: Invalid, Message: "not a tag", Expected: "1 to 128 of letters, digits, '.', '_', '-', not starting with '.' or '-'", Found: clip(t)}
	}
	return nil
}

// Artifact is one thing to be signed: a manifest in a repository, by digest.
// MediaType and Size are what the registry answered for the digest. Tag, if
// set, is signed along with it (cosign's docker-reference, a dct target); it is
// never a substitute for the digest.
type Artifact struct {
	Repository Repository `json:"repository"`
	Digest     Digest     `json:"digest"`
	MediaType  string     `json:"mediaType,omitempty"`
	Size       int64      `json:"size,omitempty"`
	Tag        string     `json:"tag,omitempty"`
	// ResolvedFrom is the tag that the client resolved to get the digest, empty
	// where it was told the digest. It is the job's own word: a fact for
	// `bind.digests_only`, no part of what is decided, compared or signed.
	ResolvedFrom string `json:"resolvedFrom,omitempty"`
}

// Validate checks repository, digest and tags; media type and size are checked
// where they are learned.
func (a Artifact) Validate() error {
	if err := a.Repository.Validate(); err != nil {
		return err
	}
	if err := a.Digest.Validate(); err != nil {
		return err
	}
	for _, t := range []string{a.Tag, a.ResolvedFrom} {
		if t == "" {
			continue
		}
		if err := ValidateTag(t); err != nil {
			return err
		}
	}
	return nil
}

// String returns REPOSITORY[:TAG][@DIGEST].
func (a Artifact) String() string {
	s := string(a.Repository)
	if a.Tag != "" {
		s += ":" + a.Tag
	}
	if a.Digest != "" {
		s += "@" + string(a.Digest)
	}
	return s
}

// ValidateUntrust checks a tag whose trust is to be withdrawn: repository and tag,
// and nothing else.
func (a Artifact) ValidateUntrust() error {
	if err := a.Repository.Validate(); err != nil {
		return err
	}
	if a != (Artifact{Repository: a.Repository, Tag: a.Tag}) {
		return &Error{Code: Invalid, Message: "more than a tag to untrust", Expected: "REPOSITORY:TAG", Found: clip(a.String()), Fix: "name the tag without a digest"}
	}
	return ValidateTag(a.Tag)
}

// ParseReference splits HOST/PATH[:TAG][@DIGEST] and checks each part that is
// there. It accepts a bare repository; the caller demands what it needs.
func ParseReference(s string) (Artifact, error) {
	if len(s) > MaxRepository+1+128+1+71 {
		return Artifact{}, &Error{Code: Invalid, Message: "reference too long", Found: fmt.Sprintf("%d characters", len(s))}
	}
	var a Artifact
	rest, digest, hasDigest := strings.Cut(s, "@")
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
		a.Tag, rest = rest[i+1:], rest[:i]
		if err := ValidateTag(a.Tag); err != nil {
			return Artifact{}, err
		}
	}
	a.Repository = Repository(rest)
	if err := a.Repository.Validate(); err != nil {
		return Artifact{}, err
	}
	if hasDigest {
		a.Digest = Digest(digest)
		if err := a.Digest.Validate(); err != nil {
			return Artifact{}, err
		}
	}
	return a, nil
}

// clip shortens text of strangers before it is quoted in an error.
func clip(s string) string {
	const most = 120
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}
