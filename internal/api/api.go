// Package api is the HTTP interface as bytes: the wire types, the problem
// document, strict decoding of what clients send, and the client. It guarantees
// that a Request on the wire never carries a token or its hash, a capability,
// an intent or an envelope; those types have no field for them.
//
// It serves nothing and decides nothing. The handlers are in package server.
package api

import (
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// Headers of the API beyond HTTP's own. A token travels as
// "Authorization: Bearer", never in a URL, which proxies log.
const (
	HeaderIdempotencyKey = "Idempotency-Key"
	// HeaderCapability carries the secret that lets a job read its own request:
	// from the service in the answer to a submission, to it in every read.
	HeaderCapability = "Sealwright-Capability"
)

// Paths of the API that this package's client uses.
const (
	PathRequests = "/v1/requests"
)

const (
	// MaxSubmission bounds the body of a submission: signing.MaxArtifacts
	// references of the greatest legal length are 330 KB.
	MaxSubmission = 512 << 10
	// MaxDepth bounds the nesting of what clients send; a submission needs 3.
	MaxDepth = 16
	// MaxIdempotencyKey is what the draft standard's implementations accept.
	MaxIdempotencyKey = 255
	// MaxDeadline is the longest that a request may ask to stay alive. Beyond a
	// week an approval is about something that nobody remembers.
	MaxDeadline = 7 * 24 * time.Hour
	// MaxWait is the longest long poll; proxies cut idle connections at 60 s.
	MaxWait = 50 * time.Second
)

var (
	rePolicy         = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	reIdempotencyKey = regexp.MustCompile(`^[!-~]{1,255}$`)
	reCapability     = regexp.MustCompile(`^[A-Za-z0-9._~-]{16,512}$`)
)

// SubmitRequest asks for signatures on artifacts under one signing policy.
type SubmitRequest struct {
	Policy    string        `json:"policy"`
	Artifacts []ArtifactRef `json:"artifacts,omitempty"`
	// Untrust lists tags, REPOSITORY:TAG, whose trust is to be withdrawn.
	Untrust []string `json:"untrust,omitempty"`
	// DeadlineSeconds is how long the request may wait for approvals and
	// outside parties; 0 is the service's default.
	DeadlineSeconds int64 `json:"deadlineSeconds,omitempty"`
	// Publish is "service" (the default) or "client": who writes the signatures.
	Publish string `json:"publish,omitempty"`
}

// Untrusted returns the tags to untrust as domain values; they are valid if the
// SubmitRequest is.
func (r SubmitRequest) Untrusted() []signing.Artifact {
	var out []signing.Artifact
	for _, s := range r.Untrust {
		a, _ := signing.ParseReference(s) // Validate has seen it
		out = append(out, a)
	}
	return out
}

// PublishService and PublishClient are the values of SubmitRequest.Publish.
const (
	PublishService = "service"
	PublishClient  = "client"
)

// Publisher returns who writes the signatures, as a domain value.
func (r SubmitRequest) Publisher() signing.Publisher {
	if p := strings.TrimSpace(r.Publish); p != PublishService {
		return signing.Publisher(p)
	}
	return signing.ByService
}

// ArtifactRef names an artifact by digest. Tag, if set, is signed along with
// it; it never stands for the digest. In answers it may name a repository, or a tag
// to untrust, without a digest.
type ArtifactRef struct {
	Repository string `json:"repository"`
	Digest     string `json:"digest,omitempty"`
	Tag        string `json:"tag,omitempty"`
	// ResolvedFrom is the tag that the client resolved to get the digest; a
	// client that was told the digest leaves it out.
	ResolvedFrom string `json:"resolvedFrom,omitempty"`
}

// Artifact returns the reference as a domain value; it is valid if the
// SubmitRequest that holds it is.
func (a ArtifactRef) Artifact() signing.Artifact {
	return signing.Artifact{Repository: signing.Repository(a.Repository), Digest: signing.Digest(a.Digest), Tag: a.Tag, ResolvedFrom: a.ResolvedFrom}
}

func refOf(a signing.Artifact) ArtifactRef {
	return ArtifactRef{Repository: string(a.Repository), Digest: string(a.Digest), Tag: a.Tag}
}

// ReadSubmission decodes and checks the body of a submission. What it returns
// is in canonical form: space around values is gone, the order is the sender's.
func ReadSubmission(body io.Reader) (SubmitRequest, error) {
	var r SubmitRequest
	if err := DecodeStrict(body, MaxSubmission, &r); err != nil {
		return SubmitRequest{}, err
	}
	r = r.canonical()
	if err := r.Validate(); err != nil {
		return SubmitRequest{}, err
	}
	return r, nil
}

func (r SubmitRequest) canonical() SubmitRequest {
	out := SubmitRequest{Policy: strings.TrimSpace(r.Policy), DeadlineSeconds: r.DeadlineSeconds, Publish: string(r.Publisher())}
	for _, a := range r.Artifacts {
		out.Artifacts = append(out.Artifacts, ArtifactRef{
			Repository: strings.TrimSpace(a.Repository),
			Digest:     strings.TrimSpace(a.Digest),
			Tag:        strings.TrimSpace(a.Tag),

			ResolvedFrom: strings.TrimSpace(a.ResolvedFrom),
		})
	}
	for _, s := range r.Untrust {
		out.Untrust = append(out.Untrust, strings.TrimSpace(s))
	}
	return out
}

// Digest returns the digest of the submission in canonical form: two bodies
// with the same digest ask for the same, however they were spaced or escaped.
func (r SubmitRequest) Digest() (signing.Digest, error) {
	raw, err := json.Marshal(r.canonical())
	if err != nil {
		return "", fmt.Errorf("encoding submission: %w", err)
	}
	return signing.DigestOf(raw), nil
}

// Validate checks what can be known without asking anyone: grammar, counts,
// and that nothing is listed twice. Its errors are Invalid.
func (r SubmitRequest) Validate() error {
	if !rePolicy.MatchString(r.Policy) {
		return &signing.Error{Code: signing.Invalid, Message: "not the name of a signing policy", Expected: "1 to 128 of letters, digits, '.', '_', '-'", Found: quote(r.Policy), Fix: "set `policy` to the name of a policy of your project, as in `release`"}
	}
	if !r.Publisher().Valid() {
		return &signing.Error{Code: signing.Invalid, Message: "`publish` names nobody who could publish", Expected: PublishService + " or " + PublishClient, Found: quote(r.Publish)}
	}
	if n := len(r.Artifacts) + len(r.Untrust); n == 0 || n > signing.MaxArtifacts {
		return &signing.Error{Code: signing.Invalid, Message: "wrong number of artifacts", Expected: fmt.Sprintf("1 to %d, with the tags in `untrust`", signing.MaxArtifacts), Found: fmt.Sprint(n), Fix: "split the submission, or list what is to be signed in `artifacts`"}
	}
	if most := int64(MaxDeadline / time.Second); r.DeadlineSeconds < 0 || r.DeadlineSeconds > most {
		return &signing.Error{Code: signing.Invalid, Message: "`deadlineSeconds` is out of bounds", Expected: fmt.Sprintf("0 (the default) to %d", most), Found: fmt.Sprint(r.DeadlineSeconds)}
	}
	seen := make(map[ArtifactRef]int, len(r.Artifacts))
	for i, a := range r.Artifacts {
		if err := validateRef(a); err != nil {
			return inField(fmt.Sprintf("artifacts[%d]", i), err)
		}
		a.ResolvedFrom = "" // the same image, however it was found
		if first, twice := seen[a]; twice {
			return &signing.Error{Code: signing.Invalid, Message: fmt.Sprintf("artifacts[%d] repeats artifacts[%d]", i, first), Found: quote(a.Artifact().String()), Fix: "list each artifact once"}
		}
		seen[a] = i
	}
	artifacts := make([]signing.Artifact, 0, len(r.Artifacts))
	for _, a := range r.Artifacts {
		artifacts = append(artifacts, a.Artifact())
	}
	for i, s := range r.Untrust {
		a, err := signing.ParseReference(s)
		if err == nil {
			err = a.ValidateUntrust()
		}
		if err != nil {
			return inField(fmt.Sprintf("untrust[%d]", i), err)
		}
	}
	return signing.CheckTags(artifacts, r.Untrusted())
}

func validateRef(a ArtifactRef) error {
	// The commonest mistake gets its own words: a tag where a digest belongs.
	if !strings.HasPrefix(a.Digest, "sha256:") && (a.Digest == "" || signing.ValidateTag(a.Digest) == nil) {
		found := "no digest"
		if a.Digest != "" {
			found = "the tag " + quote(a.Digest)
		} else if a.Tag != "" {
			found = "only the tag " + quote(a.Tag)
		}
		return &signing.Error{Code: signing.Invalid, Message: "artifacts are signed by digest, not by tag", Expected: "`digest`: sha256: and 64 lower-case hex digits", Found: found, Fix: "send the digest that the push reported; sealwright-ci resolves a tag for you"}
	}
	return a.Artifact().Validate()
}

// inField puts the place of a problem in front of its message.
func inField(path string, err error) error {
	e := signing.Public(err)
	e.Message = path + ": " + e.Message
	return e
}

// ValidateIdempotencyKey checks the value of the Idempotency-Key header.
func ValidateIdempotencyKey(key string) error {
	if !reIdempotencyKey.MatchString(key) {
		return &signing.Error{Code: signing.Invalid, Message: "the header " + HeaderIdempotencyKey + " is missing or malformed", Expected: fmt.Sprintf("1 to %d printable ASCII characters without spaces", MaxIdempotencyKey), Found: quote(key), Fix: "send a key that is the same whenever the same step is repeated, and different for anything else"}
	}
	return nil
}

// ValidCapability reports whether s has the form of a capability.
func ValidCapability(s string) bool { return reCapability.MatchString(s) }

// Request is a request as its own job may see it.
type Request struct {
	ID              string               `json:"id"`
	State           signing.RequestState `json:"state"`
	Version         int64                `json:"version"`
	Project         string               `json:"project,omitempty"`
	Policy          string               `json:"policy"`
	Publish         string               `json:"publish,omitempty"` // "client", or not there
	Artifacts       []Artifact           `json:"artifacts"`
	Untrust         []string             `json:"untrust,omitempty"` // REPOSITORY:TAG
	Origin          Origin               `json:"origin"`
	Decision        *Decision            `json:"decision,omitempty"`
	Approval        *Approval            `json:"approval,omitempty"`
	Source          string               `json:"source,omitempty"` // the request that a person submitted again
	List            *List                `json:"list,omitempty"`   // what a person brought in place of a build
	Tasks           []Task               `json:"tasks"`
	CancelRequested bool                 `json:"cancelRequested,omitempty"`
	Failure         *Failure             `json:"failure,omitempty"`
	Submitted       time.Time            `json:"submitted"`
	Deadline        time.Time            `json:"deadline"`
	Ended           time.Time            `json:"ended,omitzero"`
	// Checkpoint is the newest signed tree head of the audit log. Whoever keeps
	// it can later prove that the log was not rewritten.
	Checkpoint string `json:"checkpoint,omitempty"`
}

// Page is a part of a list of requests, the last submitted first. Cursor asks for
// the next part; it is empty at the end. A page may be short, or empty, and go on.
type Page struct {
	Requests []Summary `json:"requests"`
	Cursor   string    `json:"cursor,omitempty"`
}

// Summary is a request in a list.
type Summary struct {
	ID      string               `json:"id"`
	State   signing.RequestState `json:"state"`
	Project string               `json:"project,omitempty"`
	Policy  string               `json:"policy"`
	// Artifact is the first of the Artifacts, or the one that was searched for; of a
	// request that only withdraws trust, the first tag, without a digest.
	Artifact  ArtifactRef `json:"artifact"`
	Artifacts int         `json:"artifacts"` // how many there are, with tags to untrust
	Origin    Origin      `json:"origin"`
	Failure   *Failure    `json:"failure,omitempty"`
	Submitted time.Time   `json:"submitted"`
	Deadline  time.Time   `json:"deadline"`
	Ended     time.Time   `json:"ended,omitzero"`
}

// Artifact is an artifact with what the registry said of it.
type Artifact struct {
	Repository string `json:"repository"`
	Digest     string `json:"digest"`
	Tag        string `json:"tag,omitempty"`
	MediaType  string `json:"mediaType,omitempty"`
	Size       int64  `json:"size,omitempty"`
}

// Origin is the part of signing.Origin that a reader of a request needs to see
// which build it was.
type Origin struct {
	Forge        string `json:"forge"`
	Kind         string `json:"kind"`
	Repository   string `json:"repository,omitempty"`
	RepositoryID string `json:"repositoryID,omitempty"`
	Ref          string `json:"ref,omitempty"`
	RefProtected bool   `json:"refProtected"`
	Commit       string `json:"commit,omitempty"`
	Trigger      string `json:"trigger,omitempty"`
	BuildConfig  string `json:"buildConfig,omitempty"`
	BuildSigner  string `json:"buildSigner,omitempty"`
	Run          string `json:"run,omitempty"`
	RunAttempt   string `json:"runAttempt,omitempty"`
	Environment  string `json:"environment,omitempty"`
	Actor        string `json:"actor,omitempty"`
}

// Decision is what was decided, and why.
type Decision struct {
	Effect      signing.Effect `json:"effect"`
	Reasons     signing.Reason `json:"reasons"`
	BasisDigest string         `json:"basisDigest,omitempty"`
	At          time.Time      `json:"at"`
}

// Task is the work for one signature.
type Task struct {
	ID string `json:"id"`
	// Artifact has the repository alone where Part is set.
	Artifact ArtifactRef `json:"artifact"`
	// Part is what of the repository is signed by a method that signs its tags
	// together, "targets/releases"; Changes is what is asked of them, and Differences
	// how what is signed differs from what was published.
	Part        string               `json:"part,omitempty"`
	Changes     []signing.Change     `json:"changes,omitempty"`
	Differences []signing.Difference `json:"differences,omitempty"`
	// Below says that the artifact is a manifest below an index that was
	// submitted, signed because a step is recursive.
	Below  bool   `json:"below,omitempty"`
	Method string `json:"method"`
	// Format is that of the signature, where the method has several and the
	// policy names one that is not its default.
	Format     string             `json:"format,omitempty"`
	Key        string             `json:"key"`
	State      signing.TaskState  `json:"state"`
	Recognised bool               `json:"recognised,omitempty"`
	Locations  []signing.Location `json:"locations,omitempty"`
	Failure    *Failure           `json:"failure,omitempty"`
}

// Failure says why a request or a task ended without what was asked for, or
// what the last try of a task met.
type Failure struct {
	Code     signing.Code `json:"code"`
	Message  string       `json:"message"`
	Expected string       `json:"expected,omitempty"`
	Found    string       `json:"found,omitempty"`
	Fix      string       `json:"fix,omitempty"`
}

// Err returns the failure as a domain error; nil for nil.
func (f *Failure) Err() *signing.Error {
	if f == nil {
		return nil
	}
	return &signing.Error{Code: f.Code, Message: f.Message, Expected: f.Expected, Found: f.Found, Fix: f.Fix}
}

// quote quotes a stranger's text for an error, shortened.
func quote(s string) string {
	const most = 120
	if len(s) > most {
		s = s[:most] + "..."
	}
	return fmt.Sprintf("%q", s)
}
