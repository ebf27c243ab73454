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
	fromForge    = "forge"
	fromPerson   = "person"
)

// factSources says of each fact who states it and what it is.
func factSources() map[string][2]string {
	out := forgeSources()
	const o, i, m = "facts.origin.", "facts.images[].", "facts.images[].manifests[]."
	maps.Copy(out, map[string][2]string{
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
		o + "pipeline":                        {fromToken, "where the configuration of the service, and no token, says which repository a pipeline builds"},
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
		"facts.untrust[].repository":          {fromJob, "of a tag whose trust is to be withdrawn"},
		"facts.untrust[].tag":                 {fromJob, "the tag"},
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
	})
	// What is below an index has the facts of an image; a tag is of an image only.
	for name, source := range maps.Clone(out) {
		below := strings.Replace(name, i, m, 1)
		if _, ok := out[below]; !ok && below != name && !strings.HasPrefix(name, m) {
			out[below] = source
		}
	}
	return out
}

// forgeSources says what the forge states. Everything there is its answer; those
// that do not speak for themselves are explained.
func forgeSources() map[string][2]string {
	const f = "facts.forge."
	out := map[string][2]string{}
	walkFacts(reflect.TypeFor[signing.ForgeFacts](), "facts.forge", func(path string, _ reflect.Type) { out[path] = [2]string{fromForge, ""} })
	for name, what := range map[string]string{
		"forge": "its host", "at": "when it answered", "unknown": "by part: why there is no answer", "run.running": "in progress when it was asked",
		"run.headRepositoryID": "another one than the build's is a fork", "run.restarter.id": "who started this attempt", "run.runnerLabels": "tags on GitLab",
		"ref.contains": "the build's commit is on it", "ref.since": "from when on the protection is as it is", "ref.bypass": "who may pass by the rules",
		"checks.checks[].ok": "neutral and skipped are not", "inputs.names": "values are not recorded", "pulls.pulls[].result": "the commit that merging made",
		"environment.protectedOnly": "only protected branches may deploy", "attestations.verified[].run": "of images: verified, not only listed",
	} {
		out[f+name] = [2]string{fromForge, what}
	}
	for name, what := range map[string]string{
		"id": "the request that a person submits again", "policy": "under which it was signed", "state": "how it ended", "ended": "when",
	} {
		out["facts.source."+name] = [2]string{fromService, what}
	}
	out["facts.list.digest"] = [2]string{fromPerson, "of the list of images that a person brings"}
	out["facts.list.made"] = [2]string{fromPerson, "when it was made"}
	return out
}

// FactsTable returns the table of facts as Markdown: their names as `when` writes
// them, types, and who states them.
func FactsTable() string {
	sources := factSources()
	var b strings.Builder
	b.WriteString("| fact | type | from | |\n|---|---|---|---|\n")
	walkFacts(reflect.TypeFor[signing.Facts](), "facts", func(at string, t reflect.Type) {
		source, ok := sources[at]
		if !ok {
			source = [2]string{"?", "?"}
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", at, factType(t), source[0], source[1])
	})
	return b.String()
}

// walkFacts visits every fact below a struct, in order.
func walkFacts(t reflect.Type, path string, visit func(path string, t reflect.Type)) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		at, ft := path+"."+name, f.Type
		if ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		switch {
		case ft.Kind() == reflect.Struct && ft != reflect.TypeFor[time.Time]():
			walkFacts(ft, at, visit)
		case ft.Kind() == reflect.Slice && ft.Elem().Kind() == reflect.Struct:
			walkFacts(ft.Elem(), at+"[]", visit)
		default:
			visit(at, ft)
		}
	}
}

// factType names a type as people say it.
func factType(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return "time"
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8:
		return "bytes"
	case t.Kind() == reflect.Slice:
		return "list of " + factType(t.Elem())
	case t.Kind() == reflect.Map:
		return "map of " + factType(t.Elem())
	case t.Kind() == reflect.Bool:
		return "bool"
	case t.Kind() == reflect.Int64, t.Kind() == reflect.Int:
		return "number"
	}
	return "text"
}
