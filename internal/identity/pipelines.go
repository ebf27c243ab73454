package identity

import (
	"fmt"
	"strings"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/signing"
)

// MaxPipelines bounds the pipelines of one issuer: an organisation has some
// thousand, and who reads the list has to know them.
const MaxPipelines = 5000

// maxPipeline bounds the id of a pipeline: a UUID, a job's URL, the mail address
// of a service account.
const maxPipeline = 512

// Pipeline says of one pipeline which repository it builds, for a CI whose tokens
// do not. The operator vouches for it: the CI's own configuration could be changed
// by whoever administers the pipeline.
type Pipeline struct {
	// Pipeline is what the token states where others state the repository: the
	// value of sourceRepositoryIdentifier, compared exactly.
	Pipeline string `yaml:"pipeline"`
	Forge    string `yaml:"forge"` // host of the repository's forge
	Name     string `yaml:"name"`  // OWNER/NAME
	ID       string `yaml:"id"`    // the forge's id of the repository
	OwnerID  string `yaml:"owner_id"`
}

// binding returns the pipelines by their ids; nil where the issuer has none, and
// the pipeline itself stands for the repository.
func (c Issuer) binding(at string, ps *config.Problems) map[string]Pipeline {
	if c.Pipelines == nil {
		return nil
	}
	_, builtIn := providers()[c.Provider]
	switch {
	case c.Role == signing.RolePeople:
		ps.Add(at+"pipelines", "are for CI systems; people have none")
		return nil
	case builtIn && c.Provider != "buildkite":
		ps.Add(at+"pipelines", "cannot be given for %s, whose tokens state the repository", c.Provider)
		return nil
	case len(c.Pipelines) == 0:
		ps.Add(at+"pipelines", "is empty, so that every token would be refused: list the pipelines that may sign, or leave the setting out")
	case len(c.Pipelines) > MaxPipelines:
		ps.Add(at+"pipelines", "has %d entries; at most %d", len(c.Pipelines), MaxPipelines)
		return nil
	}
	out := make(map[string]Pipeline, len(c.Pipelines))
	for i, p := range c.Pipelines {
		at := config.Index(at+"pipelines", i)
		if p.Pipeline == "" || len(p.Pipeline) > maxPipeline || checkText(p.Pipeline) != nil {
			ps.Add(at+".pipeline", "must be what the token states for the pipeline, at most %d printable characters", maxPipeline)
		} else if _, twice := out[p.Pipeline]; twice {
			ps.Add(at+".pipeline", "is in an earlier entry; a pipeline builds one repository")
		}
		if !reHost.MatchString(p.Forge) {
			ps.Add(at+".forge", "must be the host of the forge in lower case, without https://")
		}
		if !formPath.pattern.MatchString(p.Name) {
			ps.Add(at+".name", "must be OWNER/NAME of the repository")
		}
		if !formID.pattern.MatchString(p.ID) {
			ps.Add(at+".id", "must be the forge's number of the repository, in quotes")
		}
		if p.OwnerID != "" && !formID.pattern.MatchString(p.OwnerID) {
			ps.Add(at+".owner_id", "must be the forge's number of the owner, in quotes")
		}
		out[p.Pipeline] = p
	}
	return out
}

// bind puts the registered repository in the place of the pipeline. A pipeline
// that is not registered is refused. Runs are numbered by pipeline, of which
// several may build one repository, so that a run is named with its pipeline.
func (r *row) bind(o signing.Origin) (signing.Origin, error) {
	if r.pipelines == nil {
		return o, nil
	}
	p, ok := r.pipelines[o.SourceRepositoryIdentifier]
	if !ok || o.SourceRepositoryIdentifier == "" {
		return signing.Origin{}, refused("no repository is registered for the pipeline of this token", "one of the pipelines of the issuer's row", quote(o.SourceRepositoryIdentifier), fmt.Sprintf("ask the operator of this service to add the pipeline to `pipelines` of %s, with the repository that it builds", r.kind))
	}
	o.Pipeline = p.Pipeline
	o.Forge, o.SourceRepository, o.SourceRepositoryIdentifier, o.SourceRepositoryOwnerIdentifier = p.Forge, p.Name, p.ID, p.OwnerID
	o.SourceRepositoryURI = "https://" + p.Forge + "/" + p.Name
	o.SourceRepositoryOwnerURI = "https://" + p.Forge + "/" + p.Name[:strings.LastIndexByte(p.Name, '/')]
	if o.RunID != "" {
		o.RunID = p.Pipeline + "/" + o.RunID
	}
	return o, nil
}
