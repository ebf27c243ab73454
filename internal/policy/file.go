package policy

import (
	"maps"
	"slices"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/signing"
)

// Bounds of what is loaded. They are far above what organisations have and keep
// a mistaken or hostile file from costing memory or time.
const (
	// MaxFiles and MaxTotal bound a set; each file is bounded by config.MaxDocument.
	// A large organisation has a file for each of some thousand projects.
	MaxFiles = 5000
	MaxTotal = 16 << 20
	// MaxRepositories bounds a set: a large organisation has some thousand.
	MaxRepositories = 10_000
	// MaxImages bounds the patterns of one repository.
	MaxImages = 100
	// MaxPolicies bounds one project.
	MaxPolicies = 50
	// MaxPatterns bounds each list of a policy: a person has to read it.
	MaxPatterns = 100
	// MaxSteps bounds a sign list: four methods, with two keys each during a
	// change of keys, and as many again.
	MaxSteps = 16
	// MaxWhen bounds a condition in bytes.
	MaxWhen = 4096
)

// apiVersion is the one version of the form below.
const apiVersion = "sealwright.dev/v1"

// The form of a policy file, of a project or a base. A field of type config.Raw
// is a known word that this version cannot evaluate: it makes every evaluation
// deny.
type document struct {
	APIVersion   string           `yaml:"apiVersion"`
	Project      string           `yaml:"project"`
	Base         string           `yaml:"base"` // in place of project
	Extends      string           `yaml:"extends"`
	Repositories []repository     `yaml:"repositories"`
	Policies     map[string]rules `yaml:"policies"`
}

type repository struct {
	Forge   string `yaml:"forge" json:"forge"`
	Name    string `yaml:"name" json:"name,omitempty"`
	ID      string `yaml:"id" json:"id,omitempty"`
	OwnerID string `yaml:"owner_id" json:"owner_id,omitempty"`
	// Owner or Group, in place of Name: every repository directly below it.
	Owner  string   `yaml:"owner" json:"owner,omitempty"`
	Group  string   `yaml:"group" json:"group,omitempty"`
	Images []string `yaml:"images" json:"images"`
}

// rules is one entry below `policies:`. The json names are those of its
// canonical form.
type rules struct {
	Mode      string     `yaml:"mode" json:"mode,omitempty"`       // "enforce" (default) or "log"
	Shadows   string     `yaml:"shadows" json:"shadows,omitempty"` // with mode log: the policy that decides
	Tags      []string   `yaml:"tags" json:"tags,omitempty"`
	Bind      *bind      `yaml:"bind" json:"bind,omitempty"`
	Origin    *origin    `yaml:"origin" json:"origin"`
	Freeze    []interval `yaml:"freeze" json:"freeze,omitempty"`
	Sign      []step     `yaml:"sign" json:"sign"`
	When      string     `yaml:"when" json:"when,omitempty"`
	Approvals *approvals `yaml:"approvals" json:"-"` // the compiled rule is in the canonical form
	// RepositoryPolicy says whether a repository's own policy file counts too.
	RepositoryPolicy string     `yaml:"repository_policy" json:"repository_policy,omitempty"`
	Report           []string   `yaml:"report" json:"report"`
	Publish          config.Raw `yaml:"publish" json:"-"`

	baseWhen []string // conditions of the bases: all of them have to hold
}

// interval is FIRST-DAY/LAST-DAY or a day, which YAML takes for a date.
type interval string

// UnmarshalText keeps the text as it is; parseWindow reads it.
func (i *interval) UnmarshalText(text []byte) error { *i = interval(text); return nil }

// bind ties what is signed closer to the build that asks.
type bind struct {
	DigestsOnly   *bool `yaml:"digests_only" json:"digests_only,omitempty"`
	RevisionLabel *bool `yaml:"revision_label" json:"revision_label,omitempty"`
	Attestation   *bool `yaml:"attestation" json:"attestation,omitempty"`
}

// given is the value of a switch that is off unless it is written as true.
func given(b *bool) bool { return b != nil && *b }

type origin struct {
	Refs []string `yaml:"refs" json:"refs"`
	// RefProtected is demanded unless it is written as false.
	RefProtected *bool             `yaml:"ref_protected" json:"ref_protected,omitempty"`
	Reruns       string            `yaml:"reruns" json:"reruns,omitempty"` // "deny" (default), "attach", "allow"
	Environment  string            `yaml:"environment" json:"environment,omitempty"`
	GitHub       *github           `yaml:"github" json:"github,omitempty"`
	GitLab       *gitlab           `yaml:"gitlab" json:"gitlab,omitempty"`
	Forgejo      *forgejo          `yaml:"forgejo" json:"forgejo,omitempty"`
	Buildkite    *buildkite        `yaml:"buildkite" json:"buildkite,omitempty"`
	CircleCI     *circleci         `yaml:"circleci" json:"circleci,omitempty"`
	Bitbucket    *bitbucket        `yaml:"bitbucket" json:"bitbucket,omitempty"`
	Azure        *azureDevOps      `yaml:"azure-devops" json:"azure-devops,omitempty"`
	Codefresh    *codefresh        `yaml:"codefresh" json:"codefresh,omitempty"`
	Custom       map[string]custom `yaml:"custom" json:"custom,omitempty"` // by kind of the issuer's row
	Verify       *verify           `yaml:"verify" json:"verify,omitempty"`
	Reachable    []string          `yaml:"reachable_from" json:"reachable_from,omitempty"`
	Human        *human            `yaml:"human" json:"human,omitempty"`
}

type github struct {
	Events            []string `yaml:"events" json:"events"`
	Workflow          string   `yaml:"workflow" json:"workflow,omitempty"`
	Builder           *builder `yaml:"builder" json:"builder,omitempty"`
	RunnerEnvironment string   `yaml:"runner_environment" json:"runner_environment,omitempty"`
	RunnerGroups      []string `yaml:"runner_groups" json:"runner_groups,omitempty"` // any of them
	RunnerLabels      []string `yaml:"runner_labels" json:"runner_labels,omitempty"` // all of them
}

// builder names the reusable workflow that defines the signing job.
type builder struct {
	// Repository is that of the builder, where it is not the job's own. The
	// token names it by name only, so that SHA must pin its content.
	Repository string   `yaml:"repository" json:"repository,omitempty"`
	Path       string   `yaml:"path" json:"path"`
	SHA        []string `yaml:"sha" json:"sha,omitempty"`
	// RepositoryID is what the forge says, by the name in the token.
	RepositoryID string `yaml:"repository_id" json:"repository_id,omitempty"`
}

type gitlab struct {
	Events               []string `yaml:"events" json:"events"`
	Config               string   `yaml:"config" json:"config,omitempty"` // path of the CI configuration
	RunnerIDs            []int64  `yaml:"runner_ids" json:"runner_ids,omitempty"`
	RunnerEnvironment    string   `yaml:"runner_environment" json:"runner_environment,omitempty"`
	RunnerTags           []string `yaml:"runner_tags" json:"runner_tags,omitempty"` // all of them
	EnvironmentProtected *bool    `yaml:"environment_protected" json:"environment_protected,omitempty"`
	Variables            *names   `yaml:"variables" json:"variables,omitempty"`
}

// The tokens of these state less. Each has the words that its token answers.
type (
	forgejo struct {
		Events   []string `yaml:"events" json:"events"`
		Workflow string   `yaml:"workflow" json:"workflow,omitempty"`
	}
	buildkite struct {
		Events            []string `yaml:"events" json:"events"`
		RunnerEnvironment string   `yaml:"runner_environment" json:"runner_environment,omitempty"`
	}
	circleci struct {
		PipelineDefinitions []string `yaml:"pipeline_definitions" json:"pipeline_definitions,omitempty"`
	}
	bitbucket   struct{}
	azureDevOps struct {
		Definitions []int64 `yaml:"definitions" json:"definitions,omitempty"`
	}
	codefresh struct {
		Events []string `yaml:"events" json:"events"`
	}
)

// custom is what the token of an issuer that the configuration describes can answer.
type custom struct {
	Events []string `yaml:"events" json:"events"`
}

type step struct {
	Method  string            `yaml:"method" json:"method"`
	Key     string            `yaml:"key" json:"key"`
	Options map[string]string `yaml:"options" json:"options,omitempty"`
	// Formats are those of cosign, legacy if empty: one signature in each.
	Formats   []string   `yaml:"formats" json:"formats,omitempty"`
	Recursive bool       `yaml:"recursive" json:"recursive,omitempty"`
	Publish   config.Raw `yaml:"publish" json:"-"`
}

// steps returns one step for each format.
func (s step) steps() []signing.Step {
	var out []signing.Step
	for _, f := range cosignFormats {
		if !slices.Contains(s.formats(), f) {
			continue
		}
		options := map[string]string{}
		maps.Copy(options, s.Options)
		if f != formatLegacy {
			options[optionFormat] = f
		}
		if len(options) == 0 {
			options = nil // as it comes back from the database
		}
		out = append(out, signing.Step{Method: s.Method, Key: s.Key, Options: options, Recursive: s.Recursive})
	}
	return out
}

// formats returns what s is signed in. A method with one format has no word for it.
func (s step) formats() []string {
	if len(s.Formats) == 0 {
		return []string{formatLegacy}
	}
	return s.Formats
}

// unavailable lists the words of a policy that this version knows and cannot
// evaluate, by path.
func (p rules) unavailable() []unavailable {
	var out []unavailable
	add := func(path string, r config.Raw) {
		if !r.IsZero() {
			out = append(out, unavailable{Path: path, Value: r})
		}
	}
	add("publish", p.Publish)
	for i, s := range p.Sign {
		add(config.Index("sign", i)+".publish", s.Publish)
	}
	return out
}

// unavailable is a known word that denies. Its value is part of the canonical
// form, so that a change of it is a change of the policy.
type unavailable struct {
	Path  string     `json:"path"`
	Value config.Raw `json:"value,omitzero"`
}
