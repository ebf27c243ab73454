package method

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/signing"
)

// OriginFields are the fields of an origin that can be signed along with an
// image, by their JSON names. A field that the token did not say is empty.
func OriginFields(o signing.Origin) map[string]string {
	return map[string]string{
		"sourceRepositoryURI":             o.SourceRepositoryURI,
		"sourceRepositoryDigest":          o.SourceRepositoryDigest,
		"sourceRepositoryRef":             o.SourceRepositoryRef,
		"sourceRepositoryIdentifier":      o.SourceRepositoryIdentifier,
		"sourceRepositoryOwnerURI":        o.SourceRepositoryOwnerURI,
		"sourceRepositoryOwnerIdentifier": o.SourceRepositoryOwnerIdentifier,
		"sourceRepositoryVisibility":      o.SourceRepositoryVisibility,
		"buildConfigURI":                  o.BuildConfigURI,
		"buildConfigDigest":               o.BuildConfigDigest,
		"buildSignerURI":                  o.BuildSignerURI,
		"buildSignerDigest":               o.BuildSignerDigest,
		"buildTrigger":                    o.BuildTrigger,
		"runInvocationURI":                o.RunInvocationURI,
		"runnerEnvironment":               o.RunnerEnvironment,
		"deploymentEnvironment":           o.DeploymentEnvironment,
	}
}

// CheckOptions refuses an option that a method does not have.
func CheckOptions(name string, options map[string]string, known ...string) error {
	for _, o := range slices.Sorted(maps.Keys(options)) {
		if !slices.Contains(known, o) {
			return &signing.Error{Code: signing.Invalid, Message: fmt.Sprintf("the %s method has no option %q", name, o), Expected: strings.Join(known, ", "), Fix: "take the option out of the policy's sign list"}
		}
	}
	return nil
}

// FieldNames reads the option of a step that lists fields of the origin, with
// commas between. Without the option there are none.
func FieldNames(option string, options map[string]string) ([]string, error) {
	list, ok := options[option]
	if !ok {
		return nil, nil
	}
	known := OriginFields(signing.Origin{})
	var names []string
	for _, n := range strings.Split(list, ",") {
		n = strings.TrimSpace(n)
		if _, ok := known[n]; !ok || slices.Contains(names, n) {
			return nil, &signing.Error{Code: signing.Invalid, Message: "the option " + option + " lists what cannot be signed", Expected: "field names of the origin, each once, with commas between: " + strings.Join(slices.Sorted(maps.Keys(known)), ", "), Found: fmt.Sprintf("%q", n)}
		}
		names = append(names, n)
	}
	return names, nil
}

// SignedFields returns the fields of an origin that the option lists. A field
// that the token did not say refuses: an empty value would claim that it did.
func SignedFields(option string, options map[string]string, o signing.Origin) (map[string]string, error) {
	names, err := FieldNames(option, options)
	if err != nil {
		return nil, err
	}
	known, out := OriginFields(o), map[string]string{}
	for _, n := range names {
		if known[n] == "" {
			return nil, &signing.Error{Code: signing.Denied, Message: "the policy signs a field that the job's token does not say", Expected: "a value for " + n, Found: "none", Fix: "take " + n + " out of the option " + option + ", or use an issuer that says it"}
		}
		out[n] = known[n]
	}
	return out, nil
}
