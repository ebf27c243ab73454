package identity

import (
	"maps"
	"regexp"
	"slices"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// provider is what is particular to one CI: a row of data. Claims and optional
// map a field of signing.Origin, by its JSON name, to a claim or template.
type provider struct {
	kind     string
	maxAge   time.Duration
	tokenPer string
	// claims are the fields without which there is no origin.
	claims map[string]string
	// optional fields stay empty where one of their claims is missing, null or
	// "". Policies that ask for an empty field deny.
	optional map[string]string
	// forms say what a claim must look like; they hold wherever it is present.
	forms map[string]form
	// present are claims that must be there though no field takes them.
	present []string
	// equal are pairs of claims of which the first, where present, must equal
	// the second.
	equal [][2]string
	// derive is for what a template cannot say: it refuses claims, or returns
	// values that templates know as the claims derived.NAME.
	derive func(claims) (map[string]string, error)
	// shared are claims of which the configuration must require one value,
	// because the issuer serves everybody's organisations.
	shared []string
	// forge and url are defaults of an issuer that is the same for everyone;
	// forgeOfIssuer says that the issuer is the forge.
	forge, url    string
	forgeOfIssuer bool
}

// form is the grammar of a claim.
type form struct {
	name    string
	pattern *regexp.Regexp
	// text demands a JSON string: both CIs write booleans as text, and a claim of
	// another type is not the claim that was meant.
	text bool
	// notEmpty says that "" is not the same as absent.
	notEmpty bool
}

var (
	formID      = form{name: "a decimal id", pattern: regexp.MustCompile(`^[1-9][0-9]{0,18}$`)}
	formCommit  = form{name: "a commit id in hexadecimal", pattern: regexp.MustCompile(`^(?:[0-9a-f]{40}|[0-9a-f]{64})$`), text: true}
	formRef     = form{name: "a full ref such as refs/heads/main", pattern: regexp.MustCompile(`^refs/[^\s/][^\s]*$`), text: true}
	formPath    = form{name: "a path such as owner/name", pattern: regexp.MustCompile(`^[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)+$`), text: true}
	formOwner   = form{name: "a path such as group/subgroup", pattern: regexp.MustCompile(`^[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*$`), text: true}
	formUUID    = form{name: "a UUID in lower case", pattern: regexp.MustCompile(`^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$`), text: true}
	formBraced  = form{name: "a UUID in braces", pattern: regexp.MustCompile(`^\{[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\}$`), text: true}
	formOpaque  = form{name: "an id of lower-case letters and digits", pattern: regexp.MustCompile(`^[0-9a-z]{12,40}$`), text: true}
	formSlug    = form{name: "a name of letters, digits and - _ .", pattern: regexp.MustCompile(`^[A-Za-z0-9_.-]{1,100}$`), text: true}
	formName    = form{name: "the name of a branch or tag", pattern: regexp.MustCompile(`^[^\s/][^\s]*$`), text: true}
	formOrigin  = form{name: "HOST/OWNER/NAME without a scheme", pattern: regexp.MustCompile(`^[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?:/[A-Za-z0-9_.-]+){2,}$`), text: true}
	formFlag    = form{name: "true or false, not as text", pattern: regexp.MustCompile(`^(?:true|false)$`), notEmpty: true}
	formBoolean = form{name: `"true" or "false"`, pattern: regexp.MustCompile(`^(?:true|false)$`), text: true, notEmpty: true}
)

// row is a provider compiled for one issuer.
type row struct {
	provider
	forge, url string
	require    map[string]string // claims that must have exactly this value
	fields     []field           // sorted by name
	pipelines  map[string]Pipeline
}

// field is one field of Origin and where its value comes from.
type field struct {
	name     string
	from     expression
	optional bool
}

// origin makes an Origin from verified claims.
func (r *row) origin(c claims) (signing.Origin, error) {
	if err := r.checkClaims(c); err != nil {
		return signing.Origin{}, err
	}
	if r.derive != nil {
		more, err := r.derive(c)
		if err != nil {
			return signing.Origin{}, err
		}
		c = c.with(more)
	}
	o := signing.Origin{Forge: r.forge, Kind: r.kind}
	texts, booleans := originFields(&o)
	for _, f := range r.fields {
		value, lacking, err := f.from.eval(c, r.forge, r.url)
		switch {
		case err != nil:
			return signing.Origin{}, err
		case lacking != "" && f.optional:
			continue
		case lacking != "":
			return signing.Origin{}, missing(lacking)
		}
		if to, ok := texts[f.name]; ok {
			*to = value
			continue
		}
		if value != "true" && value != "false" {
			return signing.Origin{}, refused("the token's claims do not give "+f.name, `"true" or "false"`, quote(value), "ask the operator of this service to look at the issuer's claim templates")
		}
		*booleans[f.name] = value == "true"
	}
	return r.bind(o)
}

// checkClaims holds claims against the row's forms and rules. Claims that have
// a form are checked even where no field takes them.
func (r *row) checkClaims(c claims) error {
	for _, name := range slices.Sorted(maps.Keys(r.forms)) {
		f := r.forms[name]
		value, present, err := c.text(name)
		if err != nil {
			return err
		}
		raw, there := c.lookup(name)
		_, isText := raw.(string)
		if there && f.notEmpty {
			present = true
		}
		if present && (!f.pattern.MatchString(value) || (f.text && !isText)) {
			return refused("the token's claim "+name+" has an unexpected form", f.name, quote(value), "use a token of the CI that this issuer's configuration names")
		}
	}
	for _, name := range r.present {
		if _, err := c.required(name); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.require)) {
		value, err := c.required(name)
		if err != nil {
			return err
		}
		if value != r.require[name] {
			return refused("the token's claim "+name+" is not the one that this service requires", quote(r.require[name]), quote(value), "use this service from the organisation that it is set up for")
		}
	}
	for _, pair := range r.equal {
		if err := checkEqual(c, pair[0], pair[1]); err != nil {
			return err
		}
	}
	return nil
}

func checkEqual(c claims, a, b string) error {
	va, present, err := c.text(a)
	if err != nil || !present {
		return err
	}
	vb, err := c.required(b)
	if err != nil {
		return err
	}
	if va != vb {
		return refused("the job runs for another project than the token describes, as a merge-request pipeline of a fork does",
			a+" equal to "+b+" "+quote(vb), a+" "+quote(va), "sign from a pipeline of the project itself, after the merge")
	}
	return nil
}

// originFields returns the fields of o that a row may fill, by JSON name. Forge
// and Kind are not among them: they are constants of the row.
func originFields(o *signing.Origin) (map[string]*string, map[string]*bool) {
	return map[string]*string{
			"sourceRepositoryURI":             &o.SourceRepositoryURI,
			"sourceRepositoryDigest":          &o.SourceRepositoryDigest,
			"sourceRepositoryRef":             &o.SourceRepositoryRef,
			"sourceRepositoryIdentifier":      &o.SourceRepositoryIdentifier,
			"sourceRepositoryOwnerURI":        &o.SourceRepositoryOwnerURI,
			"sourceRepositoryOwnerIdentifier": &o.SourceRepositoryOwnerIdentifier,
			"sourceRepositoryVisibility":      &o.SourceRepositoryVisibility,
			"buildConfigURI":                  &o.BuildConfigURI,
			"buildConfigDigest":               &o.BuildConfigDigest,
			"buildSignerURI":                  &o.BuildSignerURI,
			"buildSignerDigest":               &o.BuildSignerDigest,
			"buildTrigger":                    &o.BuildTrigger,
			"runInvocationURI":                &o.RunInvocationURI,
			"runnerEnvironment":               &o.RunnerEnvironment,
			"deploymentEnvironment":           &o.DeploymentEnvironment,
			"sourceRepository":                &o.SourceRepository,
			"runID":                           &o.RunID,
			"runAttempt":                      &o.RunAttempt,
			"jobID":                           &o.JobID,
			"runnerID":                        &o.RunnerID,
			"actorID":                         &o.ActorID,
			"actor":                           &o.Actor,
		}, map[string]*bool{
			"refProtected":         &o.RefProtected,
			"environmentProtected": &o.EnvironmentProtected,
		}
}
