package signing

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Request is one submission: artifacts to be signed under one signing policy.
// Everything but State, Version, Decision, Approvals, Asking, Reports, Failure and Ended is
// fixed when it is submitted.
type Request struct {
	ID      string       `json:"id"`
	State   RequestState `json:"state"`
	Version int64        `json:"version"` // grows by one with every change of state

	Policy    string     `json:"policy"` // asked for by the job
	Project   string     `json:"project,omitempty"`
	Artifacts []Artifact `json:"artifacts"`
	// Untrust lists tags, each without a digest, whose trust is to be withdrawn.
	Untrust        []Artifact `json:"untrust,omitempty"`
	Publish        Publisher  `json:"publish,omitempty"`
	Identity       Identity   `json:"identity"`
	Origin         Origin     `json:"origin"`
	IdempotencyKey string     `json:"idempotencyKey"`
	BodyDigest     Digest     `json:"bodyDigest"` // of the submission in canonical form
	Submitted      time.Time  `json:"submitted"`
	Deadline       time.Time  `json:"deadline"`

	Decision  *Decision  `json:"decision,omitempty"`
	Approvals []Approval `json:"approvals,omitempty"` // and denials, in the order they came
	Asking    *Asking    `json:"asking,omitempty"`    // nil before people were asked
	Reports   *Reports   `json:"reports,omitempty"`   // what was reported to the forge
	// Source is the id of the Request that a person submitted again; empty for a job's.
	Source string `json:"source,omitempty"`
	// List is what a person brought who asks for signatures on images that no build
	// of today made; nil for every other Request.
	List *List `json:"list,omitempty"`
	// Renewal is what the service itself signs again, unchanged; nil for every Request
	// of a job or a person.
	Renewal *Renewal `json:"renewal,omitempty"`
	// CancelRequested is set when a run asks to cancel while Tasks are being
	// worked on: no key is used for this Request any more.
	CancelRequested bool      `json:"cancelRequested,omitempty"`
	Failure         *Error    `json:"failure,omitempty"` // why it ended denied, failed, canceled or expired
	Ended           time.Time `json:"ended,omitzero"`
}

// Reports holds the ids of what the service wrote on the forge about a Request,
// so that it is edited and not written again.
type Reports struct {
	CheckRun string `json:"checkRun,omitempty"`
	Comment  string `json:"comment,omitempty"` // of a report; Asking has that of the question
	// What was last written in each channel: equal is not sent again.
	Check       Digest `json:"check,omitempty"`
	Status      Digest `json:"status,omitempty"`
	CommentBody Digest `json:"commentBody,omitempty"`
}

// Publisher says who writes the signatures of a Request to the registry.
type Publisher string

const (
	// ByService is the default: the service writes with its own credentials.
	ByService Publisher = ""
	// ByClient leaves the writing to the job, with its credentials: the service
	// needs no access to the registry.
	ByClient Publisher = "client"
)

// Valid reports whether p is one of the two.
func (p Publisher) Valid() bool { return p == ByService || p == ByClient }

// Change is what a Task with a Part does to one tag of its repository.
type Change struct {
	Tag string `json:"tag"`
	// Digest and Size are those of the manifest that the tag is bound to; empty with
	// Remove.
	Digest Digest `json:"digest,omitempty"`
	Size   int64  `json:"size,omitempty"`
	// Remove withdraws the trust in the tag.
	Remove bool `json:"remove,omitempty"`
}

// Difference is how the bytes of an Intent differ in one tag from what is
// published. From is empty for a tag that is new, To for one that is removed.
type Difference struct {
	Tag  string `json:"tag"`
	From Digest `json:"from,omitempty"`
	To   Digest `json:"to,omitempty"`
}

// Task is the work for one signature: (Artifact x Method x Key), or, with a Part,
// (Repository x Part x Key).
type Task struct {
	ID        string    `json:"id"` // REQUEST.N, N counting from 1
	RequestID string    `json:"requestID"`
	State     TaskState `json:"state"`
	Version   int64     `json:"version"`

	Artifact Artifact `json:"artifact"`
	Step     Step     `json:"step"`
	// Part is one of the step's; Artifact is then the repository alone, and Changes
	// is what happens to its tags. No change at all renews what is there.
	Part    string   `json:"part,omitempty"`
	Changes []Change `json:"changes,omitempty"`

	// Intent is durable from Prepared on: the exact bytes to be signed.
	Intent *Intent `json:"intent,omitempty"`
	// Envelope is durable from Signed on, and the only one of its intent that
	// ever leaves the service.
	Envelope   *Envelope  `json:"envelope,omitempty"`
	Locations  []Location `json:"locations,omitempty"`
	Recognised bool       `json:"recognised,omitempty"` // an equal signature was already there
	// Released says that the envelope was given to the job, which publishes it.
	Released bool `json:"released,omitempty"`
	// Rounds is how often its signed bytes were out of date before they could be
	// published, so that it began anew.
	Rounds   int    `json:"rounds,omitempty"`
	Attempts int    `json:"attempts"`          // committed key attempts; key uses never exceed them
	Tries    int    `json:"tries"`             // of the present step since it last succeeded
	Failure  *Error `json:"failure,omitempty"` // the last error, final in TaskFailed
}

// Padding names an RSA signature scheme. It is empty for ECDSA and Ed25519.
type Padding string

const (
	PKCS1v15 Padding = "pkcs1v15"
	PSS      Padding = "pss"
)

// Intent is what a key will be asked to sign. Bytes are exact; whoever has the
// Intent, the raw signature and the public half of the key can make the
// Envelope without anything else.
type Intent struct {
	Bytes   []byte      `json:"bytes"`
	Hash    crypto.Hash `json:"hash"` // crypto.SHA256 or stronger; zero for Ed25519
	Padding Padding     `json:"padding,omitempty"`
	// Replay is what the method needs to assemble the envelope again from the
	// same bytes: a signing time, a salt. Its form is the method's own.
	Replay []byte `json:"replay,omitempty"`
	// Differences is what the bytes change in what is published, for a Task with a
	// Part. It is told to people and to the log; Inspect finds it anew.
	Differences []Difference `json:"differences,omitempty"`
	Created     time.Time    `json:"created"`
}

// Statement is what the bytes of an Intent say when parsed back. Before a key
// is used it must equal the Task's artifact: nothing read from the database
// authorises by itself.
//
// MediaType and Size are empty for methods that do not sign them.
type Statement struct {
	Repository Repository
	Digest     Digest
	Tag        string
	MediaType  string
	Size       int64
	// Part, Changes and Differences are those of bytes that bind tags; Digest and Tag
	// are empty then.
	Part        string
	Changes     []Change
	Differences []Difference
}

// MatchesTask returns an error that names the first difference between s and what
// t is about.
func (s Statement) MatchesTask(t *Task) error {
	if err := s.Matches(t.Artifact); err != nil {
		return err
	}
	var differences []Difference
	if t.Intent != nil {
		differences = t.Intent.Differences
	}
	for _, c := range []struct {
		what string
		same bool
	}{
		{"part", s.Part == t.Part},
		{"changes", slices.Equal(s.Changes, t.Changes)},
		{"differences", slices.Equal(s.Differences, differences)},
	} {
		if !c.same {
			return &Error{Code: Denied, Message: "the bytes to be signed have another " + c.what + " than the request", Expected: fmt.Sprintf("%s %v", t.Part, t.Changes), Found: fmt.Sprintf("%.400s", fmt.Sprintf("%s %v %v", s.Part, s.Changes, s.Differences)), Fix: "the stored intent was altered: keep the database for examination and submit again"}
		}
	}
	return nil
}

// Matches returns an error that names the first difference between s and a.
func (s Statement) Matches(a Artifact) error {
	for _, c := range []struct{ what, said, want string }{
		{"digest", string(s.Digest), string(a.Digest)},
		{"repository", string(s.Repository), string(a.Repository)},
		{"tag", s.Tag, a.Tag},
		{"media type", cmp.Or(s.MediaType, a.MediaType), a.MediaType},
		{"size", fmt.Sprint(cmp.Or(s.Size, a.Size)), fmt.Sprint(a.Size)},
	} {
		if c.said != c.want {
			return &Error{Code: Denied, Message: "the bytes to be signed name another " + c.what + " than the request", Expected: fmt.Sprintf("%q", c.want), Found: fmt.Sprintf("%q", clip(c.said)), Fix: "the stored intent was altered: keep the database for examination and submit again"}
		}
	}
	return nil
}

// Envelope is a finished signature as its method publishes it.
type Envelope struct {
	Method    string `json:"method"`
	MediaType string `json:"mediaType"`
	KeyID     string `json:"keyID"`
	Bytes     []byte `json:"bytes"`
}

// Location is where a signature was published.
type Location struct {
	Kind   string `json:"kind"` // "tag", "referrer", "lookaside", "notary"
	URI    string `json:"uri"`  // registry.acme.dev/payments/web:sha256-<hex>.sig
	Digest Digest `json:"digest,omitempty"`
}

// KeyInfo is the public half of a key: what a method, a verifier or an auditor
// may know of it.
type KeyInfo struct {
	ID     string
	Public crypto.PublicKey
	// Chain is the certificate chain, leaf first, where the key has one.
	Chain []*x509.Certificate
	// OpenPGP is the OpenPGP certificate of the key, a transferable public key in
	// binary form (RFC 9580, section 10.1), where the key has one.
	OpenPGP []byte
}

// Version returns the hex SHA-256 of the PKIX encoding of the public key.
func (k KeyInfo) Version() (string, error) {
	der, err := x509.MarshalPKIXPublicKey(k.Public)
	if err != nil {
		return "", fmt.Errorf("encoding public key %s: %w", k.ID, err)
	}
	h := sha256.Sum256(der)
	return hex.EncodeToString(h[:]), nil
}

// Algorithm names the type and size of the key: "ecdsa-p256", "rsa-3072",
// "ed25519"; "unknown" for any other.
func (k KeyInfo) Algorithm() string {
	switch pub := k.Public.(type) {
	case *ecdsa.PublicKey:
		return fmt.Sprintf("ecdsa-p%d", pub.Curve.Params().BitSize)
	case *rsa.PublicKey:
		return fmt.Sprintf("rsa-%d", pub.N.BitLen())
	case ed25519.PublicKey:
		return "ed25519"
	default:
		return "unknown"
	}
}

// Blob is content with its media type and the annotations of its descriptor.
type Blob struct {
	MediaType   string            `json:"mediaType"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Bytes       []byte            `json:"bytes"`
}

// Attachment is a signature in the form in which a registry stores it, ready
// for registry.Attach: no signing code is needed to write it.
type Attachment struct {
	Subject Artifact `json:"subject"`
	// Tag, where set, names the manifest to which the layers are appended
	// (cosign's sha256-<hex>.sig); the manifest is made if it is not there.
	Tag string `json:"tag,omitempty"`
	// ArtifactType, where Tag is empty, is that of a referrer of Subject.
	ArtifactType string            `json:"artifactType,omitempty"`
	Config       Blob              `json:"config,omitzero"`
	Layers       []Blob            `json:"layers"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

// idAlphabet is Crockford's base32: no letter that is read as another.
const idAlphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

var reRequestID = regexp.MustCompile(`^sr_[0-9A-HJKMNP-TV-Z]{16}$`)

// NewRequestID returns "sr_" and 16 characters, 80 bits, read from random.
func NewRequestID(random io.Reader) (string, error) {
	var raw [16]byte
	if _, err := io.ReadFull(random, raw[:]); err != nil {
		return "", fmt.Errorf("reading randomness: %w", err)
	}
	var b strings.Builder
	b.WriteString("sr_")
	for _, c := range raw {
		b.WriteByte(idAlphabet[c&31])
	}
	return b.String(), nil
}

// ValidRequestID reports whether s has the form of a request id.
func ValidRequestID(s string) bool { return reRequestID.MatchString(s) }
