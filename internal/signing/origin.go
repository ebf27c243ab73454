package signing

import (
	"fmt"
	"slices"
	"time"
)

// Role is what the tokens of an issuer may be used for.
type Role string

const (
	// RoleCI is the role of issuers whose tokens may submit Requests.
	RoleCI Role = "ci"
	// RoleService is the role of the service itself, which renews what it has signed.
	// No issuer can have it.
	RoleService Role = "service"
	// RolePeople is the role of issuers whose tokens stand for persons.
	RolePeople Role = "people"
)

// PeopleRole is what one person may do. A person has as many as the issuer's row
// gives; a job has none.
type PeopleRole string

const (
	// Submitter may submit the Requests that have no live build: re-signing, lists.
	Submitter PeopleRole = "submitter"
	// Approver may approve and deny.
	Approver PeopleRole = "approver"
	// Auditor may read every Request and the audit log.
	Auditor PeopleRole = "auditor"
	// Admin may read like an auditor, and cancel every Request.
	Admin PeopleRole = "admin"
)

// PeopleRoles returns every role that there is.
func PeopleRoles() []PeopleRole { return []PeopleRole{Submitter, Approver, Auditor, Admin} }

// Identity is what a verified token proved. It holds no part of the token
// itself; TokenHash identifies the token without revealing it.
type Identity struct {
	Issuer   string `json:"issuer"`
	Provider string `json:"provider"` // name of the issuer's row, "github-actions"
	Role     Role   `json:"role"`
	// Roles are a person's, sorted; always empty with RoleCI.
	Roles    []PeopleRole `json:"roles,omitempty"`
	Subject  string       `json:"subject"`
	Audience string       `json:"audience"`
	TokenID  string       `json:"tokenID,omitempty"` // jti, empty where the issuer has none
	// TokenHash is the hex SHA-256 of the token's header and payload: whoever
	// holds an ECDSA token could make a second valid signature for it.
	TokenHash string    `json:"tokenHash"`
	IssuedAt  time.Time `json:"issuedAt"`
	// Accepted is the end of the time in which this service accepts the token:
	// the earlier of exp and iat plus the issuer's maximum age, leeway included.
	// A replay key is kept until then.
	Accepted time.Time `json:"accepted"`
	// PerJob says that the CI gives one token for a whole job, so that several
	// different Requests may be submitted with it, each once.
	PerJob bool `json:"perJob,omitempty"`
}

// Has reports whether the token stands for a person with one of the roles. A
// token of a job has none, whatever Roles says.
func (id Identity) Has(roles ...PeopleRole) bool {
	return id.Role == RolePeople && slices.ContainsFunc(roles, func(r PeopleRole) bool { return slices.Contains(id.Roles, r) })
}

// Origin is where a build came from, as the token said it. Field names are
// Fulcio's (OID 1.3.6.1.4.1.57264.1.N); those without a counterpart there are
// grouped below. Numeric ids are what is compared; names are for people.
type Origin struct {
	SourceRepositoryURI             string `json:"sourceRepositoryURI,omitempty"`
	SourceRepositoryDigest          string `json:"sourceRepositoryDigest,omitempty"` // commit
	SourceRepositoryRef             string `json:"sourceRepositoryRef,omitempty"`    // refs/heads/main
	SourceRepositoryIdentifier      string `json:"sourceRepositoryIdentifier,omitempty"`
	SourceRepositoryOwnerURI        string `json:"sourceRepositoryOwnerURI,omitempty"`
	SourceRepositoryOwnerIdentifier string `json:"sourceRepositoryOwnerIdentifier,omitempty"`
	SourceRepositoryVisibility      string `json:"sourceRepositoryVisibility,omitempty"`
	BuildConfigURI                  string `json:"buildConfigURI,omitempty"` // the caller's workflow file, URI@ref
	BuildConfigDigest               string `json:"buildConfigDigest,omitempty"`
	BuildSignerURI                  string `json:"buildSignerURI,omitempty"` // the file that defines the job, URI@ref
	BuildSignerDigest               string `json:"buildSignerDigest,omitempty"`
	BuildTrigger                    string `json:"buildTrigger,omitempty"` // event_name, pipeline_source
	RunInvocationURI                string `json:"runInvocationURI,omitempty"`
	RunnerEnvironment               string `json:"runnerEnvironment,omitempty"`
	DeploymentEnvironment           string `json:"deploymentEnvironment,omitempty"`

	// Pipeline is that of a CI whose token does not state the repository: the
	// configuration of the service says which one it builds, and no forge.
	Pipeline         string `json:"pipeline,omitempty"`
	Forge            string `json:"forge"`                      // host of the forge, "github.com"
	Kind             string `json:"kind"`                       // "github", "gitlab", or the kind a custom row names
	SourceRepository string `json:"sourceRepository,omitempty"` // "acme/payments-web"
	// RefProtected is false where the token does not say: missing is no.
	RefProtected bool   `json:"refProtected"`
	RunID        string `json:"runID,omitempty"` // run_id, pipeline_id
	RunAttempt   string `json:"runAttempt,omitempty"`
	JobID        string `json:"jobID,omitempty"`
	RunnerID     string `json:"runnerID,omitempty"`
	ActorID      string `json:"actorID,omitempty"` // weak: a re-run keeps the first actor
	Actor        string `json:"actor,omitempty"`
	// EnvironmentProtected is GitLab's environment_protected; missing is no.
	EnvironmentProtected bool `json:"environmentProtected,omitempty"`
}

// The kinds of an Image.
const (
	KindImage    = "image"    // its config is that of a container image
	KindIndex    = "index"    // a list of manifests
	KindArtifact = "artifact" // any other manifest: a Helm chart, an SBOM
	// KindAttestation is a manifest in an index that buildkit put beside an
	// image: it runs nowhere, and nothing but in-toto documents is in it.
	KindAttestation = "attestation"
	// KindForeign is an entry of an index that is no manifest which can be
	// signed. It is left alone, and nothing is known of it but its descriptor.
	KindForeign = "foreign"
)

// Image is what the registry said of one artifact. Labels, annotations and
// artifact type are set by the job that built it: they may narrow a decision,
// never widen it.
type Image struct {
	Artifact     Artifact          `json:"artifact"`
	Kind         string            `json:"kind"`
	ArtifactType string            `json:"artifactType,omitempty"` // of a manifest that names one, or of its config
	Labels       map[string]string `json:"labels,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Platforms    []string          `json:"platforms,omitempty"`
	// Manifests is every manifest below an index, however deep, each once:
	// nested indexes and what is in them side by side. It is empty where no rule
	// and no recursive step asks for it.
	Manifests []Manifest `json:"manifests,omitempty"`
}

// Manifest is what the registry said of a manifest below an index, with the
// fields of Image. A type of its own, because conditions cannot be checked
// against one that contains itself.
type Manifest struct {
	Artifact     Artifact          `json:"artifact"`
	Kind         string            `json:"kind"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Platforms    []string          `json:"platforms,omitempty"`
}

// Parts returns what of i could be run or used: i itself, or for an index what
// is below it but nested indexes and attestations. A rule about labels has to
// hold for each part, and there has to be one.
func (i Image) Parts() []Manifest {
	if i.Kind != KindIndex {
		return []Manifest{{Artifact: i.Artifact, Kind: i.Kind, ArtifactType: i.ArtifactType, Labels: i.Labels, Annotations: i.Annotations, Platforms: i.Platforms}}
	}
	var out []Manifest
	for _, m := range i.Manifests {
		if m.Kind != KindIndex && m.Kind != KindAttestation {
			out = append(out, m)
		}
	}
	return out
}

// Facts is everything that a policy may look at.
type Facts struct {
	Identity Identity `json:"identity"`
	Origin   Origin   `json:"origin"`
	Images   []Image  `json:"images"`
	// Untrust lists tags, without a digest, whose trust is to be withdrawn.
	Untrust []TagName `json:"untrust,omitempty"`
	Policy  string    `json:"policy"` // the signing policy that the job asked for, "release"
	Now     time.Time `json:"now"`
	// Forge is what the forge answered; nil where no rule asked it.
	Forge *ForgeFacts `json:"forge,omitempty"`
	// Source describes the Request that a person asks to sign again, nil for a job's.
	Source *SourceRequest `json:"source,omitempty"`
	// List is the list that a person brought, nil for every other Request.
	List *List `json:"list,omitempty"`
}

// Renewal is a part of a repository that the service signs again before it ends,
// without changing anything in it, by the key and policy of the Request that last
// changed it.
type Renewal struct {
	Repository Repository `json:"repository"`
	Part       string     `json:"part"`
	Method     string     `json:"method"`
	Key        string     `json:"key"`
	// Source is the Request that last changed it, and Expires when what is published
	// now ends.
	Source  string    `json:"source"`
	Expires time.Time `json:"expires"`
}

// List describes a list of images that a person brought, such as an export of what
// another system had signed. The person says both: that is why people are always
// asked.
type List struct {
	// Digest is that of the file as it was read.
	Digest Digest `json:"digest"`
	// Made is when the list was made.
	Made time.Time `json:"made"`
}

// Validate refuses a List without a digest or a time.
func (l List) Validate() error {
	if l.Digest.Validate() != nil {
		return &Error{Code: Invalid, Message: "the list has no digest", Expected: "sha256: and 64 hex digits of the file", Found: fmt.Sprintf("%.80q", l.Digest), Fix: "send the digest of the file that was read"}
	}
	if l.Made.IsZero() {
		return &Error{Code: Invalid, Message: "the list does not say when it was made", Expected: "a time", Found: "none", Fix: "make the list again, with `sealwright dct export`"}
	}
	return nil
}

// TagName is a tag of a repository, whatever it points to.
type TagName struct {
	Repository Repository `json:"repository"`
	Tag        string     `json:"tag"`
}

// TagNames returns the names of tags to untrust, as Facts have them.
func TagNames(untrust []Artifact) []TagName {
	var out []TagName
	for _, a := range untrust {
		out = append(out, TagName{a.Repository, a.Tag})
	}
	return out
}

// Untrusted returns the tags to untrust as a Request has them.
func (f Facts) Untrusted() []Artifact {
	var out []Artifact
	for _, t := range f.Untrust {
		out = append(out, Artifact{Repository: t.Repository, Tag: t.Tag})
	}
	return out
}

// SourceRequest is the recorded Request whose artifacts a person submits again.
type SourceRequest struct {
	ID     string       `json:"id"`
	Policy string       `json:"policy"`
	State  RequestState `json:"state"`
	Ended  time.Time    `json:"ended"`
}

// Artifacts returns the artifacts of the images, in order, as they are decided
// on and signed: without what the job says of how it got their digests.
func (f Facts) Artifacts() []Artifact {
	out := make([]Artifact, 0, len(f.Images))
	for _, i := range f.Images {
		i.Artifact.ResolvedFrom = ""
		out = append(out, i.Artifact)
	}
	return slices.Clip(out)
}

// Children returns the manifests below the images that can be signed, each once.
// One that is an artifact of its own, without a tag, is not repeated.
func (f Facts) Children() []Artifact {
	type place struct {
		repository Repository
		digest     Digest
	}
	seen := map[place]bool{}
	for _, i := range f.Images {
		if i.Artifact.Tag == "" {
			seen[place{i.Artifact.Repository, i.Artifact.Digest}] = true
		}
	}
	var out []Artifact
	for _, i := range f.Images {
		for _, m := range i.Manifests {
			at := place{m.Artifact.Repository, m.Artifact.Digest}
			if m.Kind == KindForeign || seen[at] {
				continue
			}
			seen[at] = true
			out = append(out, m.Artifact)
		}
	}
	return out
}
