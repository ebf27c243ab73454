package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"strings"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/signing"
)

// SchemaID names the JSON Schema of policy files.
const SchemaID = "https://sealwright.dev/schemas/policy-v1.json"

// Schema returns the JSON Schema (2020-12) of a policy file, for editors. It is
// derived from the form that Load decodes. What needs more than one file, or
// more than one word, only Load finds.
func Schema() ([]byte, error) {
	root := schemaOf(reflect.TypeFor[document](), "")
	root["$schema"], root["$id"] = "https://json-schema.org/draft/2020-12/schema", SchemaID
	root["title"] = "Signing policies of a Sealwright project, or a base for several"
	root["required"] = []string{"apiVersion", "policies"}
	root["oneOf"] = []any{
		map[string]any{"required": []string{"project", "repositories"}, "properties": map[string]any{"base": false}},
		map[string]any{"required": []string{"base"}, "properties": map[string]any{"project": false, "repositories": false}},
	}
	// Encoded as people read it: no escapes for the signs of HTML.
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(root); err != nil {
		return nil, fmt.Errorf("encoding the schema: %w", err)
	}
	return b.Bytes(), nil
}

// schemaOf returns the schema of a type of the form. path is the word's, with
// lists and maps left out: "policies.origin.refs".
func schemaOf(t reflect.Type, path string) map[string]any {
	out := formOf(t, path)
	for k, v := range constraints()[path] {
		out[k] = v
	}
	return out
}

// formOf is schemaOf without what is said of the word itself: that is about a map,
// and not about its values.
func formOf(t reflect.Type, path string) map[string]any {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	out := map[string]any{}
	switch {
	case t == reflect.TypeFor[config.Raw]():
		// Any value: known, not built yet.
		out["description"] = "Known and not built yet: a policy with this word denies every request."
		return out
	case reflect.PointerTo(t).Implements(reflect.TypeFor[config.Short]()):
		// One word, or the long form.
		out["anyOf"] = []any{shortOf(t), longOf(t, path)}
	case t == reflect.TypeFor[config.Duration]():
		out["type"], out["pattern"] = "string", `^[0-9][0-9.hms]*$`
	case t.Kind() == reflect.Struct:
		return longOf(t, path)
	case t.Kind() == reflect.Map:
		out["type"], out["additionalProperties"] = "object", formOf(t.Elem(), path)
	case t.Kind() == reflect.Slice:
		out["type"], out["items"], out["maxItems"] = "array", schemaOf(t.Elem(), path+"[]"), MaxPatterns
	case t.Kind() == reflect.Bool:
		out["type"] = "boolean"
	case t.Kind() == reflect.Int64:
		out["type"] = "integer"
	default:
		out["type"] = "string"
	}
	return out
}

// longOf is the schema of a struct or a list.
func longOf(t reflect.Type, path string) map[string]any {
	if t.Kind() == reflect.Slice {
		return map[string]any{"type": "array", "items": schemaOf(t.Elem(), path+"[]"), "maxItems": MaxPatterns}
	}
	properties := map[string]any{}
	var add func(t reflect.Type)
	add = func(t reflect.Type) {
		for i := range t.NumField() {
			f := t.Field(i)
			name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			switch {
			case options == "inline":
				add(f.Type)
			case name != "":
				properties[name] = schemaOf(f.Type, strings.TrimPrefix(path+"."+name, "."))
			}
		}
	}
	add(t)
	return map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
}

// shortOf is the schema of the one word.
func shortOf(t reflect.Type) map[string]any {
	switch t {
	case reflect.TypeFor[names]():
		return map[string]any{"const": "none"}
	case reflect.TypeFor[human]():
		return map[string]any{"const": true}
	}
	return map[string]any{"type": "string"}
}

// bound is what a schema says of a value beyond its type.
type bound map[string]any

// constraints says what the values of each word may be, and what the word means.
// They are the loader's own expressions and lists.
func constraints() map[string]bound {
	text := func(re *regexp.Regexp, description string) bound {
		return bound{"pattern": re.String(), "description": description}
	}
	said := func(description string) bound { return bound{"description": description} }
	one := func(words []string, description string) bound {
		return bound{"enum": words, "description": description}
	}
	pattern := func() bound { return bound{"minLength": 1, "maxLength": maxPattern} }
	words := map[string]bound{}
	forgeConstraints(words)
	name, policyName := reName.String(), "^(?:\\*|"+strings.TrimSuffix(strings.TrimPrefix(reName.String(), "^"), "$")+")$"
	maps.Copy(words, map[string]bound{
		"apiVersion":   {"const": apiVersion},
		"project":      text(reName, "The name of the project: one file each."),
		"base":         {"pattern": name, "description": "In place of project: rules for every project that extends this name."},
		"extends":      {"pattern": name, "description": "The base whose rules hold as well; it can only be tightened."},
		"repositories": {"minItems": 1, "maxItems": MaxRepositories, "description": "The repositories of the project, each with the images that it may sign."},
		"repositories[]": {
			"required": []string{"forge", "images"},
			"oneOf": []any{
				map[string]any{"required": []string{"name", "id"}, "properties": map[string]any{"owner": false, "group": false}},
				map[string]any{"required": []string{"owner", "owner_id"}, "properties": map[string]any{"name": false, "id": false, "group": false}},
				map[string]any{"required": []string{"group", "id"}, "properties": map[string]any{"name": false, "owner": false, "owner_id": false}},
			},
		},
		"repositories[].forge":    text(reForge, "The host of the forge in lower case."),
		"repositories[].name":     {"pattern": reRepo.String(), "maxLength": signing.MaxRepository, "description": "OWNER/NAME as the forge writes it."},
		"repositories[].id":       text(reID, "The forge's id of the repository or group, in quotes."),
		"repositories[].owner":    text(reOwner, "Every repository of this user or organisation."),
		"repositories[].owner_id": text(reID, "The forge's id of the owner, in quotes."),
		"repositories[].group":    text(reGroup, "Every project directly in this GitLab group."),
		"repositories[].images":   {"minItems": 1, "maxItems": MaxImages, "description": "REGISTRY/PATH or globs; with {repository} in a row about an owner or a group."},
		"repositories[].images[]": {"minLength": 1, "maxLength": maxPattern, "not": map[string]any{"pattern": "^" + regexPrefix}},

		"policies":                            {"minProperties": 1, "maxProperties": MaxPolicies, "propertyNames": map[string]any{"pattern": policyName}, "description": `Signing policies by name; "*" in a base is every other name.`},
		"policies.mode":                       one([]string{modeEnforce, modeLog}, "enforce, the default, or log: the policy records what it would have said about requests of the one that it shadows."),
		"policies.tags":                       said("Patterns of tags that may be signed along; none without it."),
		"policies.tags[]":                     pattern(),
		"policies.bind":                       said("Ties the images closer to the build."),
		"policies.bind.digests_only":          said("Images must be named by the digest that the push reported."),
		"policies.bind.revision_label":        said("The label " + labelRevision + " of every image is the commit of the build."),
		"policies.origin":                     said("Where a build must come from."),
		"policies.origin.refs":                said(`Patterns of full refs; "**" is every ref.`),
		"policies.origin.refs[]":              pattern(),
		"policies.origin.ref_protected":       said("The token must say that the ref is protected. True unless written as false."),
		"policies.origin.reruns":              one(rerunsWords, "Repeated attempts of a run: deny, the default; attach; allow."),
		"policies.origin.environment":         {"maxLength": maxEnvironment, "description": "The deployment environment of the job."},
		"policies.origin.github":              said("Rules for builds of GitHub."),
		"policies.origin.github.events":       said("The events that may start the build."),
		"policies.origin.github.events[]":     {"enum": githubEvents},
		"policies.origin.github.workflow":     text(reWorkDir, "The path of the caller's workflow file."),
		"policies.origin.github.builder":      said("The reusable workflow that defines the job."),
		"policies.origin.github.builder.path": text(reWorkDir, "The path of the builder's workflow file."),
		"policies.origin.github.builder.repository": {
			"pattern": reRepo.String(), "maxLength": signing.MaxRepository, "description": "The builder's repository, if it is not the build's own; then sha is needed."},
		"policies.origin.github.builder.sha":              said("The whole commit ids that are trusted."),
		"policies.origin.github.builder.sha[]":            {"pattern": reSHA.String()},
		"policies.origin.github.runner_environment":       text(reRunner, "github-hosted or self-hosted."),
		"policies.origin.gitlab":                          said("Rules for builds of GitLab."),
		"policies.origin.gitlab.events":                   said("The pipeline sources that may start the build."),
		"policies.origin.gitlab.events[]":                 {"enum": gitlabEvents},
		"policies.origin.gitlab.config":                   text(rePath, "The path of the CI configuration in the project itself."),
		"policies.origin.gitlab.runner_ids":               said("Numbers of runners."),
		"policies.origin.gitlab.runner_ids[]":             {"minimum": 1},
		"policies.origin.gitlab.runner_environment":       text(reRunner, "gitlab-hosted or self-hosted."),
		"policies.origin.gitlab.environment_protected":    said("The token must say that the environment is protected."),
		"policies.origin.forgejo":                         said("Rules for builds of Forgejo."),
		"policies.origin.forgejo.events":                  said("The events that may start the build."),
		"policies.origin.forgejo.events[]":                {"enum": forgejoEvents},
		"policies.origin.forgejo.workflow":                text(reForgejo, "The path of the workflow file."),
		"policies.origin.buildkite":                       said("Rules for builds of Buildkite."),
		"policies.origin.buildkite.events":                said("The sources that may start the build; with ui and api whoever starts it chooses the commit."),
		"policies.origin.buildkite.events[]":              {"enum": buildkiteEvents},
		"policies.origin.buildkite.runner_environment":    text(reRunner, "hosted or self-hosted."),
		"policies.origin.circleci":                        said("Rules for builds of CircleCI, whose token states no event and no commit."),
		"policies.origin.circleci.pipeline_definitions":   said("Ids of pipeline definitions."),
		"policies.origin.circleci.pipeline_definitions[]": {"pattern": reUUID.String()},
		"policies.origin.bitbucket":                       said("Rules for builds of Bitbucket, whose token states no event and no commit."),
		"policies.origin.azure-devops":                    said("Rules for builds of Azure DevOps, whose token states no event."),
		"policies.origin.azure-devops.definitions":        said("Numbers of build definitions."),
		"policies.origin.azure-devops.definitions[]":      {"minimum": 1},
		"policies.origin.codefresh":                       said("Rules for builds of Codefresh, whose token states no commit."),
		"policies.origin.codefresh.events":                said("unstated for builds that git started, manual for those that a person did."),
		"policies.origin.codefresh.events[]":              {"enum": codefreshEvents},
		"policies.origin.custom":                          {"propertyNames": map[string]any{"pattern": reKind.String(), "not": map[string]any{"enum": builtInKinds()}}, "description": "Rules by the kind of an issuer's row of your own."},
		"policies.origin.custom.events":                   said("The events that may start the build."),
		"policies.origin.custom.events[]":                 {"pattern": reEvent.String()},
		"policies.freeze":                                 said("Days on which nothing is signed, UTC."),
		"policies.freeze[]":                               {"pattern": `^[0-9]{4}-[0-9]{2}-[0-9]{2}(?:/[0-9]{4}-[0-9]{2}-[0-9]{2})?$`, "description": "A day, or FIRST-DAY/LAST-DAY, both of them included."},
		"policies.sign":                                   {"maxItems": MaxSteps, "description": "Ways to sign, each once."},
		"policies.sign[]":                                 {"required": []string{"method", "key"}},
		"policies.sign[].method":                          one(methods(), "How to sign."),
		"policies.sign[].key":                             text(reKey, "The id of a key whose owner allows this policy."),
		"policies.sign[].options":                         {"propertyNames": map[string]any{"pattern": reOption.String()}, "additionalProperties": map[string]any{"type": "string", "maxLength": maxOption}, "description": "Options of the method."},
		"policies.sign[].formats":                         said("Of cosign: legacy, the default, bundle, or both."),
		"policies.sign[].formats[]":                       {"enum": cosignFormats},
		"policies.sign[].recursive":                       said("The manifests below an index are signed as well."),
		"policies.when":                                   {"maxLength": MaxWhen, "description": "A condition in CEL over facts; it can only narrow."},
	})
	return words
}
