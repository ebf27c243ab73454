package policy

import (
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/signing"
)

var (
	reName    = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?$`)
	reForge   = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?(?::[0-9]{1,5})?$`)
	reRepo    = regexp.MustCompile(`^[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)+$`)
	reID      = regexp.MustCompile(`^[A-Za-z0-9._{}-]{1,100}$`)
	reKey     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	reSHA     = regexp.MustCompile(`^(?:[0-9a-f]{40}|[0-9a-f]{64})$`)
	rePath    = regexp.MustCompile(`^[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*$`)
	reEvent   = regexp.MustCompile(`^[a-z][a-z_]{0,63}$`)
	reRunner  = regexp.MustCompile(`^[a-z][a-z-]{0,63}$`)
	reOption  = regexp.MustCompile(`^[a-z][a-z0-9_.-]{0,63}$`)
	reKind    = reName
	reWorkDir = regexp.MustCompile(`^\.github/workflows/[A-Za-z0-9_.-]+\.ya?ml$`)
	reYAML    = regexp.MustCompile(`\.ya?ml$`)
)

const (
	rerunsDeny   = "deny"
	rerunsAllow  = "allow"
	rerunsAttach = "attach"

	methodCosign = "cosign"
	maxOption    = 4096

	formatLegacy = "legacy"
	formatBundle = "bundle"
	optionFormat = "format" // of a compiled step, where it is not legacy
)

// cosignFormats are the words of `formats`, in the order in which they are signed.
var cosignFormats = []string{formatLegacy, formatBundle}

// methods are the words of `method`. All but cosign are not available yet.
func methods() []string { return []string{methodCosign, "notation", "dct", "simple"} }

// Events that may be listed. Everything else is refused when the file is read,
// so that no policy can trust what its author did not know about.
var (
	githubEvents = []string{"push", "release", "workflow_dispatch", "schedule", "merge_group", "repository_dispatch", "deployment"}
	gitlabEvents = []string{"push", "web", "schedule", "api", "trigger", "pipeline", "chat"}
)

// refused says why an event may not be listed, empty if there is nothing
// special about it. The names of all forges are looked at for every kind: a
// custom row may describe a forge that borrows them.
func refused(event string) string {
	switch event {
	case "pull_request_target", "issue_comment", "workflow_run", "issues", "discussion", "discussion_comment":
		return "outsiders can cause it, and every other claim of its token looks like a push to the default branch"
	case "pull_request", "pull_request_review", "pull_request_review_comment":
		return "its token does not tell a fork's pull request from one of the repository itself"
	case "merge_request_event", "external_pull_request_event":
		return "it may run a fork's code, and its token describes the source project instead of the one it runs in"
	case "parent_pipeline":
		return "it hides what started the parent pipeline, which may be a merge request"
	}
	return ""
}

type loader struct {
	set        *Set
	conditions *conditions
	problems   config.Problems
	claims     []claim
	rows       int
}

// scope reports problems below one path of one file.
type scope struct {
	l    *loader
	doc  *config.Document
	path string
}

func (s scope) add(path, format string, args ...any) {
	full := s.path
	if full != "" && path != "" && path[0] != '[' {
		full += "."
	}
	s.l.problems = append(s.l.problems, s.doc.Problem(full+path, format, args...))
}

func (s scope) at(key string) scope { s.path = config.Key(s.path, key); return s }

func (s scope) index(i int) scope { s.path = config.Index(s.path, i); return s }

func (l *loader) fail(err error) {
	var ps config.Problems
	if errors.As(err, &ps) {
		l.problems = append(l.problems, ps...)
		return
	}
	l.problems = append(l.problems, config.Problem{Message: err.Error()})
}

func (l *loader) file(name string, data []byte) {
	doc, err := config.Parse(name, data)
	if err != nil {
		l.fail(err)
		return
	}
	var d document
	if err := doc.Decode(&d); err != nil {
		// What follows would report the consequences of these.
		l.fail(err)
		return
	}
	s := scope{l: l, doc: doc}
	if d.APIVersion != apiVersion {
		s.add("apiVersion", "must be %q", apiVersion)
	}
	pr := &project{name: d.Project, doc: doc, policies: map[string]*Policy{}}
	switch {
	case !reName.MatchString(d.Project):
		s.add("project", "a project needs a name of 1 to 63 lower-case letters, digits, - and _")
	case l.set.projects[d.Project] != nil:
		s.add("project", "project %q has another file already; a project is one file", d.Project)
	default:
		l.set.projects[d.Project] = pr
	}
	if !d.Extends.IsZero() {
		pr.unavailable = append(pr.unavailable, unavailable{Path: "extends", Value: d.Extends})
	}
	if len(d.Repositories) == 0 {
		s.add("repositories", "a project needs at least one repository with the images it may sign")
	}
	for i, r := range d.Repositories {
		l.repository(s.at("repositories").index(i), pr, r)
	}
	if len(d.Policies) == 0 || len(d.Policies) > MaxPolicies {
		s.add("policies", "a project has 1 to %d policies, found %d", MaxPolicies, len(d.Policies))
		return
	}
	for _, pname := range slices.Sorted(maps.Keys(d.Policies)) {
		ps := s.at("policies").at(pname)
		if !reName.MatchString(pname) {
			ps.add("", "the name of a policy is 1 to 63 lower-case letters, digits, - and _")
			continue
		}
		pr.policies[pname] = l.policy(ps, pr, pname, d.Policies[pname])
	}
}

func (l *loader) repository(s scope, pr *project, r repository) {
	if l.rows++; l.rows > MaxRepositories {
		if l.rows == MaxRepositories+1 {
			s.add("", "more than %d repositories in all files", MaxRepositories)
		}
		return
	}
	if !r.Group.IsZero() {
		// Its name and images follow from the subtree: nothing else to check yet.
		pr.unavailable = append(pr.unavailable, unavailable{Path: s.path + ".group", Value: r.Group})
		return
	}
	row := &row{repository: r, path: s.path, project: pr}
	if !reForge.MatchString(r.Forge) {
		s.add("forge", "must be the lower-case host of a forge, such as github.com")
	}
	if !validRepository(r.Name) {
		s.add("name", "must be OWNER/NAME as the forge writes it")
	}
	if !reID.MatchString(r.ID) {
		s.add("id", "must be the forge's id of the repository, in quotes: names can be taken over, ids cannot")
	}
	if r.OwnerID != "" && !reID.MatchString(r.OwnerID) {
		s.add("owner_id", "must be the forge's id of the owner, in quotes")
	}
	if len(r.Images) == 0 || len(r.Images) > MaxImages {
		s.add("images", "a repository has 1 to %d images, found %d", MaxImages, len(r.Images))
	}
	for i, text := range r.Images[:min(len(r.Images), MaxImages)] {
		p, err := compileImage(text)
		if err != nil {
			s.at("images").index(i).add("", "%v", err)
			continue
		}
		row.images = append(row.images, p)
		l.claims = append(l.claims, claim{p, row, i})
		if p.re == nil {
			l.set.literals[p.text] = append(l.set.literals[p.text], row)
		} else {
			l.set.globs = append(l.set.globs, claim{p, row, i})
		}
	}
	id, name := rowKey{r.Forge, r.ID}, rowKey{r.Forge, fold(r.Name)}
	if other := l.set.rows[id]; other != nil {
		s.add("id", "repository %s of %s is in project %s already, as %s", r.ID, r.Forge, other.project.name, other.Name)
	} else if other := l.set.names[name]; other != nil {
		s.add("name", "%s of %s is in project %s already, with id %s", r.Name, r.Forge, other.project.name, other.ID)
	}
	l.set.rows[id], l.set.names[name] = row, row
	pr.rows = append(pr.rows, row)
}

// validRepository reports whether name is OWNER/NAME, or a GitLab path of groups.
func validRepository(name string) bool {
	return len(name) <= signing.MaxRepository && reRepo.MatchString(name)
}

// compileImage reads a repository name with its registry, in whose path globs
// may stand. The registry is written out, in one way only, because it decides
// who gets credentials and whether two projects mean the same image.
func compileImage(text string) (pattern, error) {
	if strings.HasPrefix(text, regexPrefix) {
		return pattern{}, errors.New("an image is a name or a glob: whether regular expressions of two projects overlap cannot be told")
	}
	p, err := compileGlob(text)
	if err != nil {
		return pattern{}, err
	}
	host, path, _ := strings.Cut(text, "/")
	sample := host + "/" + strings.ReplaceAll(path, "*", "x")
	switch {
	case strings.Contains(host, "*") || len(text) > signing.MaxRepository || signing.Repository(sample).Validate() != nil:
		return pattern{}, errors.New("must be REGISTRY/PATH without tag or digest, such as registry.acme.dev/payments/web or registry.acme.dev/payments/*")
	case host != fold(host) || strings.HasSuffix(host, ":443"):
		return pattern{}, errors.New("write the registry in lower case and without the default port 443")
	case host == "index.docker.io" || host == "registry-1.docker.io":
		return pattern{}, errors.New("write docker.io for Docker Hub")
	}
	return p, nil
}

// maxComparisons bounds the search for overlaps: it is reached only by
// thousands of globs that differ after their first wildcard alone.
const maxComparisons = 1_000_000

// overlaps reports image patterns that two projects share. Sorted by the text
// before the first wildcard, every pattern whose text goes on from a's comes
// directly after a.
func (l *loader) overlaps() {
	type key struct {
		project *project
		text    string
	}
	seen := map[key]bool{}
	claims := slices.DeleteFunc(l.claims, func(c claim) bool {
		k := key{c.row.project, c.pattern.text}
		was := seen[k]
		seen[k] = true
		return was
	})
	slices.SortStableFunc(claims, func(a, b claim) int {
		return strings.Compare(literal(a.pattern.text), literal(b.pattern.text))
	})
	compared := 0
	for i, a := range claims {
		prefix := literal(a.pattern.text)
		for _, b := range claims[i+1:] {
			if !strings.HasPrefix(literal(b.pattern.text), prefix) {
				break
			}
			if compared++; compared > maxComparisons || len(l.problems) > config.MaxProblems {
				l.problems = append(l.problems, a.row.project.doc.Problem(a.path(), "too many image patterns like %s to tell whether projects overlap: write more text before the first *", a.pattern.text))
				return
			}
			if a.row.project != b.row.project && overlap(a.pattern.text, b.pattern.text) {
				l.problems = append(l.problems, b.row.project.doc.Problem(b.path(), "%s overlaps with %s of project %s: an image belongs to one project", b.pattern.text, a.pattern.text, a.row.project.name))
			}
		}
	}
}

func (l *loader) policy(s scope, pr *project, name string, r rules) *Policy {
	p := &Policy{set: l.set, project: pr, name: name, rules: r}
	if r.Mode != "" && r.Mode != "enforce" && r.Mode != "log" {
		s.add("mode", "must be enforce or log")
	}
	p.tags = compileList(s.at("tags"), r.Tags)
	if r.Origin == nil {
		s.add("origin", "a policy needs the rules that a build has to meet")
	} else {
		p.refs = l.origin(s.at("origin"), *r.Origin)
	}
	l.sign(s.at("sign"), r.Sign)
	if r.When != "" {
		var err error
		if p.when, err = l.conditions.compile(r.When); err != nil {
			s.add("when", "%v", err)
		}
	}
	// The project's own words: they deny all its policies.
	p.unavailable = append(r.unavailable(), pr.unavailable...)
	return p
}

func compileList(s scope, texts []string) patterns {
	if len(texts) > MaxPatterns {
		s.add("", "%d patterns; at most %d are read", len(texts), MaxPatterns)
		return nil
	}
	var out patterns
	for i, text := range texts {
		p, err := compilePattern(text)
		if err != nil {
			s.index(i).add("", "%v", err)
			continue
		}
		out = append(out, p)
	}
	return out
}

func (l *loader) sign(s scope, steps []step) {
	if len(steps) == 0 || len(steps) > MaxSteps {
		s.add("", "a policy signs in 1 to %d ways, found %d", MaxSteps, len(steps))
		return
	}
	seen := map[string]int{}
	for i, st := range steps {
		at := s.index(i)
		if !slices.Contains(methods(), st.Method) {
			at.add("method", "unknown method; known are %s", oneOf(methods()))
		}
		if !reKey.MatchString(st.Key) {
			at.add("key", "must be the id of a key: letters, digits, dot, - and _, at most 64")
		}
		for k, v := range st.Options {
			if !reOption.MatchString(k) || len(v) > maxOption {
				at.add("options", "an option has a name of lower-case letters, digits, dot, - and _, and at most %d characters", maxOption)
			}
		}
		l.formats(at.at("formats"), st)
		id := st.Method + "\x00" + st.Key
		if first, ok := seen[id]; ok {
			at.add("", "the same method and key as %s", config.Index("sign", first))
		}
		seen[id] = i
	}
}

// formats checks the formats of a step. Below cosign the word `format` is kept
// for them, so that nothing is signed in a way that the step does not show.
func (l *loader) formats(s scope, st step) {
	_, hidden := st.Options[optionFormat]
	switch {
	case st.Method != methodCosign:
		if len(st.Formats) > 0 {
			s.add("", "%s has no formats to choose from here; take the word out", st.Method)
		}
	case hidden:
		s.add("", "write the format of a cosign signature here, and take it out of the options")
	default:
		for i, f := range st.Formats {
			if !slices.Contains(cosignFormats, f) || slices.Contains(st.Formats[:i], f) {
				s.index(i).add("", "must be %s, each once", oneOf(cosignFormats))
			}
		}
	}
}
