package policy

import (
	"fmt"
	"maps"
	"reflect"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

//go:generate go test -run ^TestGeneratedFilesAreThoseOfTheCode$ -count=1 . -update

// Who says a fact.
const (
	fromToken    = "token"
	fromRegistry = "registry"
	fromJob      = "job"
	fromService  = "service"
)

// factSources says of each fact who states it and what it is.
func factSources() map[string][2]string {
	const o, i, m = "facts.origin.", "facts.images[].", "facts.images[].manifests[]."
	out := map[string][2]string{
		"facts.policy":                        {fromJob, "the policy that was asked for"},
		"facts.now":                           {fromService, "when the request was submitted, UTC"},
		"facts.identity.issuer":               {fromToken, ""},
		"facts.identity.provider":             {fromService, "the name of the issuer's row"},
		"facts.identity.role":                 {fromService, "what the issuer's row says that its tokens may do: `ci`"},
		"facts.identity.roles":                {fromService, "of persons; empty for jobs"},
		"facts.identity.subject":              {fromToken, "`sub`; its form differs and can be configured"},
		"facts.identity.audience":             {fromToken, ""},
		"facts.identity.tokenID":              {fromToken, "`jti`"},
		"facts.identity.tokenHash":            {fromService, "SHA-256 of the token's header and payload"},
		"facts.identity.issuedAt":             {fromToken, ""},
		"facts.identity.accepted":             {fromService, "the end of the time in which the token is accepted"},
		"facts.identity.perJob":               {fromService, "the CI gives one token for a whole job"},
		o + "forge":                           {fromService, "host of the forge, by the issuer's row"},
		o + "kind":                            {fromService, "`github`, `gitlab`, or the kind that the issuer's row names"},
		o + "sourceRepository":                {fromToken, "OWNER/NAME"},
		o + "sourceRepositoryURI":             {fromToken, ""},
		o + "sourceRepositoryDigest":          {fromToken, "the commit"},
		o + "sourceRepositoryRef":             {fromToken, "the full ref"},
		o + "sourceRepositoryIdentifier":      {fromToken, "the forge's id"},
		o + "sourceRepositoryOwnerURI":        {fromToken, ""},
		o + "sourceRepositoryOwnerIdentifier": {fromToken, "the forge's id of the owner, on GitLab of the group directly above"},
		o + "sourceRepositoryVisibility":      {fromToken, ""},
		o + "refProtected":                    {fromToken, "false where it does not say"},
		o + "buildConfigURI":                  {fromToken, "the caller's workflow file, at its ref"},
		o + "buildConfigDigest":               {fromToken, "its commit"},
		o + "buildSignerURI":                  {fromToken, "the file that defines the job, at its ref"},
		o + "buildSignerDigest":               {fromToken, "its commit"},
		o + "buildTrigger":                    {fromToken, "the event"},
		o + "runInvocationURI":                {fromToken, ""},
		o + "runID":                           {fromToken, ""},
		o + "runAttempt":                      {fromToken, "GitHub"},
		o + "jobID":                           {fromToken, ""},
		o + "runnerEnvironment":               {fromToken, ""},
		o + "runnerID":                        {fromToken, "GitLab"},
		o + "deploymentEnvironment":           {fromToken, ""},
		o + "environmentProtected":            {fromToken, "GitLab; false where it does not say"},
		o + "actor":                           {fromToken, "weak: a re-run keeps the first actor"},
		o + "actorID":                         {fromToken, "weak, likewise"},
		i + "artifact.repository":             {fromJob, "the registry has it"},
		i + "artifact.digest":                 {fromJob, "the registry has it"},
		i + "artifact.tag":                    {fromJob, "the tag to be signed along"},
		i + "artifact.resolvedFrom":           {fromJob, "the tag that it resolved to get the digest"},
		i + "artifact.mediaType":              {fromRegistry, ""},
		i + "artifact.size":                   {fromRegistry, "bytes of the manifest"},
		i + "kind":                            {fromRegistry, "`image`, `index` or `artifact`"},
		i + "artifactType":                    {fromJob, "in the manifest: what an `artifact` is"},
		i + "labels":                          {fromJob, "in the image's configuration; an index has none"},
		i + "annotations":                     {fromJob, "in the manifest"},
		i + "platforms":                       {fromJob, "in the manifest: `linux/arm64/v8`"},
		m + "kind":                            {fromRegistry, "also `attestation` and `foreign`, see [methods](methods.md)"},
	}
	// What is below an index has the facts of an image; a tag is of an image only.
	for name, source := range maps.Clone(out) {
		below := strings.Replace(name, i, m, 1)
		if _, ok := out[below]; !ok && below != name && !strings.HasPrefix(name, m) {
			out[below] = source
		}
	}
	return out
}

// FactsTable returns the table of facts as Markdown: their names as `when` writes
// them, types, and who states them.
func FactsTable() string {
	sources := factSources()
	var b strings.Builder
	b.WriteString("| fact | type | from | |\n|---|---|---|---|\n")
	var walk func(t reflect.Type, path string)
	walk = func(t reflect.Type, path string) {
		for i := range t.NumField() {
			f := t.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			at := path + "." + name
			switch {
			case f.Type.Kind() == reflect.Struct && f.Type != reflect.TypeFor[time.Time]():
				walk(f.Type, at)
			case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct:
				walk(f.Type.Elem(), at+"[]")
			default:
				source, ok := sources[at]
				if !ok {
					source = [2]string{"?", "?"}
				}
				fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", at, factType(f.Type), source[0], source[1])
			}
		}
	}
	walk(reflect.TypeFor[signing.Facts](), "facts")
	return b.String()
}

// factType names a type as people say it.
func factType(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return "time"
	case t.Kind() == reflect.Slice:
		return "list of " + factType(t.Elem())
	case t.Kind() == reflect.Map:
		return "map of " + factType(t.Elem())
	case t.Kind() == reflect.Bool:
		return "bool"
	case t.Kind() == reflect.Int64:
		return "number"
	}
	return "text"
}
