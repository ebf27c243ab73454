package identity

import (
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/signing"
)

// What one token stands for.
const (
	// TokenPerRequest: the CI gives as many tokens as are asked for.
	TokenPerRequest = "request"
	// TokenPerJob: the CI gives one token for a whole job, so that several
	// different Requests may come with it.
	TokenPerJob = "job"
)

// Bounds of max_age: below, honest clocks and queues refuse honest tokens;
// above, a leaked token outlives any job that should sign.
const (
	minMaxAge     = time.Minute
	maxMaxAge     = 24 * time.Hour
	defaultMaxAge = 10 * time.Minute // of rows from the configuration
	// peopleMaxAge: a person fetches a token once and works with it a while.
	peopleMaxAge = time.Hour
)

// maxAudience bounds an audience; it is a URL or a name.
const maxAudience = 255

// publicGitHub is the issuer of github.com. Enterprises may have one of their
// own below it.
const publicGitHub = "https://token.actions.githubusercontent.com"

// Issuer is one entry of `issuers` in the service's configuration.
type Issuer struct {
	// Provider is a built-in row, "github-actions" or another of providers(), or
	// the name of a row that Claims defines here.
	Provider string `yaml:"provider"`
	// Issuer is the exact iss claim; discovery starts from it.
	Issuer string `yaml:"issuer"`
	// Audience is the one aud value that tokens must have: the URL of this
	// service, never one that another service accepts.
	Audience string `yaml:"audience"`
	// AudienceException lists audiences that this issuer always sets and that
	// cannot be turned off. They may stand beside ours; if Audience itself is
	// listed, it may be one that other services accept too, whose operators can
	// then use tokens meant for them here.
	AudienceException []string     `yaml:"audience_exception"`
	Role              signing.Role `yaml:"role"` // "ci" (default) or "people"
	// Roles says which persons have which roles, with role "people" only.
	Roles []RoleRule `yaml:"roles"`
	// Scopes are what `sealwright login` asks for besides openid, so that the
	// token has the claims of Roles; with role "people" only.
	Scopes []string `yaml:"scopes"`
	// Forge is the host of the forge, and so part of every repository's name in
	// policies. Most rows know it, or take it from the issuer.
	Forge string `yaml:"forge"`
	// URL is where the forge's pages are, https://FORGE by default.
	URL string `yaml:"url"`
	// MaxAge is the most that may have passed since iat: 1m to 24h, by default
	// 10m, for people and for CIs with one token for a job 1h.
	MaxAge config.Duration `yaml:"max_age"`
	// TokenPer is "request" or "job", by default as the provider does it.
	TokenPer string `yaml:"token_per"`
	// JWKSURI replaces discovery; JWKSFile replaces the network.
	JWKSURI  string `yaml:"jwks_uri"`
	JWKSFile string `yaml:"jwks_file"`
	// CAFile is a PEM file of the roots to trust for this issuer's TLS, instead
	// of the system's.
	CAFile string `yaml:"ca_file"`
	// Require maps claims to the one value that each must have, such as the
	// organisation where an issuer serves many.
	Require map[string]string `yaml:"require"`
	// Kind, Claims and Optional define a row: fields of the origin by their names
	// in signing.Origin's JSON, from claims or templates (see expression). A
	// field of Claims must be in every token.
	Kind     string            `yaml:"kind"`
	Claims   map[string]string `yaml:"claims"`
	Optional map[string]string `yaml:"optional"`
	// Pipelines says which repository each pipeline builds, where tokens do not:
	// Buildkite, and rows of your own for Jenkins, TeamCity or Cloud Build. Where
	// it is given, every other pipeline is refused.
	Pipelines []Pipeline `yaml:"pipelines"`
}

var (
	reName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	reHost = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9.-]{0,250}[a-z0-9])?(?::[0-9]{1,5})?$`)
)

// withDefaults fills what follows from the rest.
func (c Issuer) withDefaults() Issuer {
	p, builtIn := providers()[c.Provider]
	if !builtIn {
		p = provider{kind: c.Provider, maxAge: defaultMaxAge, tokenPer: TokenPerRequest}
		if c.Role == signing.RolePeople {
			p.maxAge = peopleMaxAge
		}
	}
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set(&c.Kind, p.kind)
	set(&c.TokenPer, p.tokenPer)
	if c.Role == "" {
		c.Role = signing.RoleCI
	}
	if c.MaxAge == 0 {
		c.MaxAge = config.Duration(p.maxAge)
	}
	switch {
	case c.Provider == "github-actions" && (c.Issuer == publicGitHub || strings.HasPrefix(c.Issuer, publicGitHub+"/")):
		set(&c.Forge, "github.com")
	case c.Provider == "github-actions":
		set(&c.Forge, enterpriseHost(c.Issuer))
	case p.forgeOfIssuer:
		set(&c.Forge, host(c.Issuer))
	default:
		set(&c.Forge, p.forge)
	}
	if c.Forge == p.forge {
		set(&c.URL, p.url)
	}
	if c.Forge != "" {
		set(&c.URL, "https://"+c.Forge)
	}
	return c
}

var (
	reResidency = regexp.MustCompile(`^https://token\.actions\.([a-z0-9-]+\.ghe\.com)$`)
	reServer    = regexp.MustCompile(`^https://([a-z0-9.-]+(?::[0-9]{1,5})?)/_services/token$`)
)

// enterpriseHost returns the forge of an issuer of GHE.com or GHES, by the whole
// form of its URL; "" for every other.
func enterpriseHost(issuer string) string {
	for _, re := range []*regexp.Regexp{reResidency, reServer} {
		if m := re.FindStringSubmatch(issuer); m != nil {
			return m[1]
		}
	}
	return ""
}

// row compiles the row of an issuer that has its defaults.
func (c Issuer) row() (*row, error) {
	var ps config.Problems
	r := c.compile("", &ps)
	return r, ps.Err()
}

// compile makes the row and reports every template that cannot be used.
func (c Issuer) compile(path string, ps *config.Problems) *row {
	p, builtIn := providers()[c.Provider]
	if !builtIn {
		p = provider{kind: c.Kind, claims: c.Claims, optional: c.Optional}
	}
	for _, claim := range p.shared {
		if c.Require[claim] == "" {
			ps.Add(path+"require", "must name the one %s that is yours: this issuer serves everybody", claim)
		}
	}
	r := &row{provider: p, forge: c.Forge, url: strings.TrimSuffix(c.URL, "/"), require: c.Require, pipelines: c.binding(path, ps)}
	texts, booleans := originFields(new(signing.Origin))
	for _, group := range []struct {
		name     string
		optional bool
		from     map[string]string
	}{{"claims", false, p.claims}, {"optional", true, p.optional}} {
		for _, name := range slices.Sorted(maps.Keys(group.from)) {
			at := config.Key(path+group.name, name)
			if texts[name] == nil && booleans[name] == nil {
				ps.Add(at, "is no field of an origin; there are %s", strings.Join(fieldNames(), ", "))
				continue
			}
			if _, twice := p.claims[name]; twice && group.optional {
				ps.Add(at, "is in claims too")
				continue
			}
			e, err := compileExpression(group.from[name])
			if err != nil {
				ps.Add(at, "%v", err)
				continue
			}
			r.fields = append(r.fields, field{name: name, from: e, optional: group.optional})
		}
	}
	slices.SortFunc(r.fields, func(a, b field) int { return strings.Compare(a.name, b.name) })
	return r
}

func fieldNames() []string {
	texts, booleans := originFields(new(signing.Origin))
	return slices.Sorted(func(yield func(string) bool) {
		for n := range texts {
			if !yield(n) {
				return
			}
		}
		for n := range booleans {
			if !yield(n) {
				return
			}
		}
	})
}

// Check returns everything that is wrong with issuers, with paths relative to
// the list ("[0].audience"), for config.Document.Place. It opens no file.
func Check(issuers []Issuer) config.Problems {
	var ps config.Problems
	seen := map[string]int{}
	roles := map[string]signing.Role{}
	for i, c := range issuers {
		at := config.Index("", i) + "."
		c = c.withDefaults()
		c.check(at, &ps)
		if first, twice := seen[c.Issuer]; twice && c.Issuer != "" {
			ps.Add(at+"issuer", "is the same as that of [%d]; an issuer has one row", first)
		} else {
			seen[c.Issuer] = i
		}
		if role, known := roles[c.Audience]; known && role != c.Role && c.Audience != "" {
			ps.Add(at+"audience", "is used for the role %s too; tokens of jobs and of people need different audiences", role)
		}
		roles[c.Audience] = c.Role
	}
	return ps
}

func (c Issuer) check(at string, ps *config.Problems) {
	_, builtIn := providers()[c.Provider]
	names := strings.Join(slices.Sorted(maps.Keys(providers())), ", ")
	switch {
	case c.Provider == "":
		ps.Add(at+"provider", "is missing: %s, or a name of your own with claims", names)
	case builtIn && (len(c.Claims) > 0 || len(c.Optional) > 0):
		ps.Add(at+"claims", "cannot change the built-in row %s; name the provider something else to define a row", c.Provider)
	case !builtIn && !reName.MatchString(c.Provider):
		ps.Add(at+"provider", "must be %s, or a name of lower-case letters, digits and hyphens", names)
	case !builtIn && len(c.Claims) == 0 && c.Role != signing.RolePeople:
		ps.Add(at+"provider", "%s is not known: use %s, or define a row with claims", quote(c.Provider), names)
	case !builtIn && c.Role != signing.RolePeople && c.Claims["sourceRepositoryIdentifier"] == "":
		ps.Add(at+"claims", "must give sourceRepositoryIdentifier: without it no policy can match")
	case builtIn && c.Role == signing.RolePeople:
		ps.Add(at+"role", "people cannot have tokens of %s", c.Provider)
	}
	if !reName.MatchString(c.Kind) && c.Provider != "" {
		ps.Add(at+"kind", "must be a name of lower-case letters, digits and hyphens")
	} else if p := providers()[c.Provider]; builtIn && c.Kind != p.kind {
		ps.Add(at+"kind", "cannot be changed for %s", c.Provider)
	}
	if c.Issuer == "" {
		ps.Add(at+"issuer", "is missing: the exact iss claim of the tokens")
	} else if err := checkURL(c.Issuer); err != nil {
		ps.Add(at+"issuer", "%v", err)
	}
	if c.Role != signing.RoleCI && c.Role != signing.RolePeople {
		ps.Add(at+"role", "must be ci or people")
	}
	if c.TokenPer != TokenPerRequest && c.TokenPer != TokenPerJob {
		ps.Add(at+"token_per", "must be request or job")
	}
	if age := time.Duration(c.MaxAge); age < minMaxAge || age > maxMaxAge {
		ps.Add(at+"max_age", "must be between %s and %s", minMaxAge, maxMaxAge)
	}
	c.checkPeople(at, ps)
	c.checkAudience(at, ps)
	c.checkPlaces(at, ps)
	for _, name := range slices.Sorted(maps.Keys(c.Require)) {
		if !reClaim.MatchString(name) || c.Require[name] == "" {
			ps.Add(config.Key(at+"require", name), "must be a claim and the value that it must have")
		}
	}
	c.compile(at, ps)
}

// checkPlaces checks hosts, URLs and files.
func (c Issuer) checkPlaces(at string, ps *config.Problems) {
	if c.Forge == "" {
		if c.Role != signing.RolePeople { // who have none
			ps.Add(at+"forge", "is missing: the host of the forge, as in policies")
		}
	} else if !reHost.MatchString(c.Forge) {
		ps.Add(at+"forge", "must be a host name in lower case, without https://")
	} else if err := checkURL(c.URL); err != nil {
		ps.Add(at+"url", "%v", err)
	}
	if c.JWKSURI != "" {
		if err := checkKeysURL(c.JWKSURI, c.Issuer); err != nil {
			ps.Add(at+"jwks_uri", "%v", err)
		}
	}
	if c.JWKSFile != "" && (c.JWKSURI != "" || c.CAFile != "") {
		ps.Add(at+"jwks_file", "means that nothing is fetched: leave jwks_uri and ca_file away")
	}
}

// checkAudience refuses audiences that other services accept too: a token given
// to one of them could be used here.
func (c Issuer) checkAudience(at string, ps *config.Problems) {
	if slices.Contains(c.AudienceException, "") {
		ps.Add(at+"audience_exception", "must not list an empty audience")
	}
	switch a := c.Audience; {
	case a == "":
		ps.Add(at+"audience", "is missing: a name of this service's own, best its URL")
	case len(a) > maxAudience || checkText(a) != nil || strings.ContainsAny(a, " \t"):
		ps.Add(at+"audience", "must be at most %d printable characters without spaces", maxAudience)
	case slices.Contains(c.AudienceException, a):
		return
	case shared(a, c):
		ps.Add(at+"audience", "%s is one that CI systems give by default, so that other services accept it too: use one of your own, best this service's URL", quote(a))
	}
}

// sharedHosts and sharedNames are default audiences of CI systems and the fixed
// ones of services that take CI tokens.
var (
	sharedHosts = []string{"github.com", "gitlab.com", "buildkite.com", "circleci.com", "bitbucket.org", "dev.azure.com", "g.codefresh.io", "app.terraform.io", "iam.googleapis.com"}
	sharedNames = []string{"sigstore", "sts.amazonaws.com", "api://AzureADTokenExchange", "pypi", "testpypi", "npm:registry.npmjs.org"}
)

func shared(audience string, c Issuer) bool {
	h := host(audience)
	if h == "" { // not a URL: perhaps a bare host with a path
		h, _, _ = strings.Cut(strings.ToLower(strings.TrimPrefix(audience, "//")), "/")
	}
	return slices.Contains(sharedNames, audience) || slices.Contains(sharedHosts, h) ||
		h == host(c.Issuer) || h == c.Forge ||
		strings.HasPrefix(audience, "ari:cloud:bitbucket::") ||
		// CircleCI: the organisation's id, with which the issuer ends.
		strings.HasSuffix(c.Issuer, "/"+audience)
}

// host returns the host of a URL, with its port, in lower case.
func host(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Host)
}
