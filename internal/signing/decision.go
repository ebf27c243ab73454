package signing

import (
	"encoding/json"
	"fmt"
	"time"
)

// Effect is the outcome of a Decision.
type Effect string

const (
	Allow         Effect = "allow"
	Deny          Effect = "deny"
	NeedsApproval Effect = "needs_approval"
)

// Reason is a node of the tree that explains a Decision: the rule, what it
// wanted and what was found. A node with children passes only if all of them
// do; a leaf says why it did not.
type Reason struct {
	Rule     string   `json:"rule"` // path in the policy, "origin.refs"
	Pass     bool     `json:"pass"`
	Wanted   string   `json:"wanted,omitempty"`
	Found    string   `json:"found,omitempty"`
	Fix      string   `json:"fix,omitempty"`
	Children []Reason `json:"children,omitempty"`
}

// Failures returns the leaves that did not pass, in order.
func (r Reason) Failures() []Reason {
	if len(r.Children) == 0 {
		if r.Pass {
			return nil
		}
		return []Reason{r}
	}
	var out []Reason
	for _, c := range r.Children {
		out = append(out, c.Failures()...)
	}
	if len(out) == 0 && !r.Pass {
		out = []Reason{r}
	}
	return out
}

// Step is one line of a policy's `sign` list: a method, a key, and the options
// that change what is signed or where it goes.
type Step struct {
	Method string `json:"method"`
	Key    string `json:"key"`
	// KeyVersion is the hex SHA-256 of the key's PKIX public key, so that a
	// swapped key changes the basis.
	KeyVersion string            `json:"keyVersion"`
	Options    map[string]string `json:"options,omitempty"`
	// Recursive says that the manifests below an index are signed as well.
	Recursive bool `json:"recursive,omitempty"`
	// Parts is set for a method that signs the tags of a repository together, not
	// artifacts one by one: the names of what it signs for each repository, each a
	// Task of its own. For dct these are roles, "targets/releases".
	Parts []string `json:"parts,omitempty"`
}

// Basis is the part of a Decision that must not change between the decision
// and the use of the key. Approvals name its digest.
type Basis struct {
	Format       int        `json:"format"` // BasisFormat
	Project      string     `json:"project"`
	Policy       string     `json:"policy"`
	PolicyDigest Digest     `json:"policyDigest"` // of the policy in canonical form
	Artifacts    []Artifact `json:"artifacts"`
	// Children are the manifests below the indexes among the artifacts, each
	// once and without a tag. They are there only if a step is recursive.
	Children []Artifact `json:"children,omitempty"`
	Steps    []Step     `json:"steps"`
	// Untrust lists tags, without a digest, whose trust is withdrawn. Only steps with
	// Parts know of them.
	Untrust []Artifact `json:"untrust,omitempty"`
	Origin  Origin     `json:"origin"`
	// RepositoryPolicy is the digest of the repository's own .sealwright/policy.yml
	// that was evaluated as well; empty where there is none.
	RepositoryPolicy Digest `json:"repositoryPolicy,omitempty"`
	// Source is the Request whose artifacts are signed anew, for a person's
	// Request; empty for a job's.
	Source string `json:"source,omitempty"`
	// List is the list that a person brought.
	List *List `json:"list,omitempty"`
	// Renewal is what is signed again, unchanged: then there are no Artifacts.
	Renewal *Renewal `json:"renewal,omitempty"`
}

// MaxTasks bounds the Tasks of one Request, which are in memory together and
// share commits: more than four signatures on each of MaxArtifacts images.
const MaxTasks = 4096

// Tasks lists the work for request that follows from the basis, in the order in
// which it is numbered: every step for every artifact, then the recursive steps
// for every child, then the parts of every repository whose tags are signed
// together. It is the one place that knows.
func (b Basis) Tasks(request string) []*Task {
	var out []*Task
	if n := b.Renewal; n != nil {
		for _, s := range b.Steps {
			for _, part := range s.Parts {
				out = append(out, &Task{ID: fmt.Sprintf("%s.%d", request, len(out)+1), RequestID: request, State: Queued, Artifact: Artifact{Repository: n.Repository}, Step: s, Part: part})
			}
		}
		return out
	}
	add := func(t Task) {
		t.ID, t.RequestID, t.State = fmt.Sprintf("%s.%d", request, len(out)+1), request, Queued
		out = append(out, &t)
	}
	each := func(artifacts []Artifact, fits func(Step) bool) {
		for _, a := range artifacts {
			for _, s := range b.Steps {
				if len(s.Parts) == 0 && fits(s) {
					add(Task{Artifact: a, Step: s})
				}
			}
		}
	}
	each(b.Artifacts, func(Step) bool { return true })
	each(b.Children, func(s Step) bool { return s.Recursive })
	repositories, changes := b.changes()
	for _, r := range repositories {
		for _, s := range b.Steps {
			for _, part := range s.Parts {
				add(Task{Artifact: Artifact{Repository: r}, Step: s, Part: part, Changes: changes[r]})
			}
		}
	}
	return out
}

// changes returns what happens to the tags of each repository, in the order of the
// artifacts, and the repositories in the order in which they come.
func (b Basis) changes() (repositories []Repository, of map[Repository][]Change) {
	of = map[Repository][]Change{}
	add := func(r Repository, c Change) {
		if _, ok := of[r]; !ok {
			repositories = append(repositories, r)
		}
		of[r] = append(of[r], c)
	}
	for _, a := range b.Artifacts {
		add(a.Repository, Change{Tag: a.Tag, Digest: a.Digest, Size: a.Size})
	}
	for _, a := range b.Untrust {
		add(a.Repository, Change{Tag: a.Tag, Remove: true})
	}
	return repositories, of
}

// CheckSize refuses a basis that asks for more Tasks than one Request may have.
func (b Basis) CheckSize() error {
	recursive, whole, parts := 0, 0, 0
	for _, s := range b.Steps {
		if s.Recursive {
			recursive++
		}
		if parts += len(s.Parts); len(s.Parts) == 0 {
			whole++
		}
	}
	repositories, _ := b.changes()
	n := len(b.Artifacts)*whole + len(b.Children)*recursive + len(repositories)*parts
	if n <= MaxTasks {
		return nil
	}
	return &Error{Code: TooLarge, Message: "the request asks for too many signatures at once", Expected: fmt.Sprintf("at most %d", MaxTasks), Found: fmt.Sprintf("%d: %d artifacts in %d ways, and %d manifests below them in %d", n, len(b.Artifacts), len(b.Steps), len(b.Children), recursive), Fix: "split the submission into several"}
}

// CheckTogether refuses a basis that the steps with Parts cannot carry out, and one
// that withdraws trust without such a step.
func (b Basis) CheckTogether() error {
	together := Step{}
	roles := map[string]bool{}
	for _, s := range b.Steps {
		if len(s.Parts) == 0 {
			continue
		}
		together = s
		if s.Recursive {
			return &Error{Code: Denied, Message: "what is below an index has no tag that " + s.Method + " could sign", Expected: "no `recursive` in the step", Found: "recursive: true", Fix: "take `recursive` out of the step"}
		}
		for _, part := range s.Parts {
			if roles[s.Method+" "+part] {
				return &Error{Code: Denied, Message: "two steps sign the same role of a repository", Expected: "each role once", Found: s.Method + " " + part, Fix: "give each step roles of its own"}
			}
			roles[s.Method+" "+part] = true
		}
	}
	if together.Method == "" {
		if len(b.Untrust) > 0 {
			return &Error{Code: Denied, Message: "no step of the policy signs tags, so that there is no trust in a tag to withdraw", Expected: "a step with method dct", Found: b.Untrust[0].String(), Fix: "ask for a policy that signs tags, or leave `untrust` away"}
		}
		return nil
	}
	for _, a := range b.Artifacts {
		if a.Tag == "" {
			return &Error{Code: Denied, Message: together.Method + " signs tags, and an image comes without one", Expected: "REPOSITORY:TAG@DIGEST for each image", Found: a.String(), Fix: "name the tag that is to be signed with each image, or ask for a policy without " + together.Method}
		}
	}
	return nil
}

// CheckTags refuses a tag of a repository that stands for two things at once.
func CheckTags(artifacts, untrust []Artifact) error {
	at := map[string]Artifact{}
	for _, a := range artifacts {
		if a.Tag == "" {
			continue
		}
		name := Artifact{Repository: a.Repository, Tag: a.Tag}.String()
		if have, ok := at[name]; ok && have.Digest != a.Digest {
			return &Error{Code: Invalid, Message: "one tag is to be bound to two digests", Expected: "one digest for " + name, Found: string(have.Digest) + " and " + string(a.Digest), Fix: "submit the digest that the tag has"}
		}
		at[name] = a
	}
	for _, a := range untrust {
		if have, ok := at[a.String()]; ok {
			found := "named twice"
			if have.Digest != "" {
				found = "to be signed as well"
			}
			return &Error{Code: Invalid, Message: "a tag to untrust stands for something else too", Expected: a.String() + " once", Found: found, Fix: "name each tag once: either to be signed or to be untrusted"}
		}
		at[a.String()] = a
	}
	return nil
}

// BasisFormat is the version of Basis's canonical form.
const BasisFormat = 1

// Digest returns the digest of the basis's canonical form, encoding/json's
// encoding of this struct (field order fixed, map keys sorted).
func (b Basis) Digest() (Digest, error) {
	raw, err := json.Marshal(b)
	if err != nil {
		return "", fmt.Errorf("encoding basis: %w", err)
	}
	return DigestOf(raw), nil
}

// Observation is what an outside party said, and when.
type Observation struct {
	Source string    `json:"source"` // "token", "registry", "forge"
	What   string    `json:"what"`
	At     time.Time `json:"at"`
}

// Decision is the outcome of holding Facts against a policy. Reasons explains
// it; Basis is what it binds; Observations is what it was seen to rest on.
type Decision struct {
	Effect       Effect        `json:"effect"`
	Reasons      Reason        `json:"reasons"`
	Basis        Basis         `json:"basis"`
	BasisDigest  Digest        `json:"basisDigest"`
	Observations []Observation `json:"observations,omitempty"`
	// Approvals is what people must consent to, nil where the policy asks nobody.
	Approvals *ApprovalRule `json:"approvals,omitempty"`
	// Excluded are those who may not approve, as found when it was decided.
	Excluded []Exclusion `json:"excluded,omitempty"`
	// Shadow is what policies in log mode would have said, by name. It decides nothing.
	Shadow []Shadow  `json:"shadow,omitempty"`
	At     time.Time `json:"at"`
}

// Shadow is the outcome of a policy that only records what it would have said.
type Shadow struct {
	Policy  string `json:"policy"`
	Effect  Effect `json:"effect"`
	Reasons Reason `json:"reasons"`
}
