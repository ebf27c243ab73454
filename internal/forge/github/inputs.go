package github

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"
)

// withoutInputs are the events that carry nothing that somebody typed in for the
// run, besides what is in the repository and its pull requests.
var withoutInputs = []string{"push", "create", "delete", "schedule", "release", "pull_request", "pull_request_target", "merge_group"}

// inputs asks what inputs the run could have been given. GitHub does not tell the
// values of a run; it takes no other inputs than the workflow file declares.
func (b *build) inputs(ctx context.Context) error {
	switch {
	case b.o.BuildTrigger == "":
		return ask.Lacks("what triggered it")
	case slices.Contains(withoutInputs, b.o.BuildTrigger):
		b.facts.Inputs = &signing.InputFacts{Names: []string{}}
		return nil
	case b.o.BuildTrigger != "workflow_dispatch":
		return &signing.Error{Code: signing.Invalid, Message: "GitHub does not tell what a run of " + ask.Clip(b.o.BuildTrigger) + " was given", Expected: "workflow_dispatch, or an event without inputs"}
	}
	f, err := b.workflow(ctx, b.o.BuildConfigURI, b.o.BuildConfigDigest)
	if err != nil {
		return err
	}
	text, err := b.content(ctx, f.client, f.owner, f.name, f.Blob)
	if err != nil {
		return err
	}
	names, err := declared(text)
	if err != nil {
		return &signing.Error{Code: signing.Invalid, Message: "the inputs of " + ask.Clip(f.Path) + " cannot be told: " + ask.Clip(err.Error()), Fix: "write the file without anchors, aliases and tags"}
	}
	b.facts.Inputs = &signing.InputFacts{Names: names}
	return nil
}

// declared returns the names of the inputs that a workflow declares for
// workflow_dispatch, sorted. What it cannot read strictly is an error.
func declared(text []byte) ([]string, error) {
	var file map[string]config.Raw
	if err := config.Decode("workflow", text, &file); err != nil {
		return nil, err
	}
	none := errors.New("it is not started by workflow_dispatch")
	names := []string{}
	switch on := file["on"].Value().(type) {
	case string:
		if on != "workflow_dispatch" {
			return nil, none
		}
	case []any:
		if !slices.Contains(on, any("workflow_dispatch")) {
			return nil, none
		}
	case map[string]any:
		dispatch, ok := on["workflow_dispatch"]
		if !ok {
			return nil, none
		}
		if dispatch == nil {
			return names, nil
		}
		m, ok := dispatch.(map[string]any)
		if !ok {
			return nil, errors.New("workflow_dispatch is no mapping")
		}
		inputs, given := m["inputs"]
		if !given || inputs == nil {
			return names, nil
		}
		all, ok := inputs.(map[string]any)
		if !ok {
			return nil, errors.New("inputs is no mapping")
		}
		names = slices.AppendSeq(names, maps.Keys(all))
		slices.Sort(names)
	default:
		return nil, none
	}
	return names, nil
}
