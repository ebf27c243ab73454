package policy

import (
	"errors"
	"maps"
	"regexp"
	"slices"

	"github.com/sealwright/sealwright/internal/config"
)

var (
	reName    = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?$`)
	reForge   = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?(?::[0-9]{1,5})?$`)
	reRepo    = regexp.MustCompile(`^[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)+$`)
	reGroup   = regexp.MustCompile(`^[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*$`)
	reOwner   = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,100}$`)
	reID      = regexp.MustCompile(`^[A-Za-z0-9._{}-]{1,100}$`)
	reKey     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	reSHA     = regexp.MustCompile(`^(?:[0-9a-f]{40}|[0-9a-f]{64})$`)
	rePath    = regexp.MustCompile(`^[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*$`)
	reEvent   = regexp.MustCompile(`^[a-z][a-z_]{0,63}$`)
	reRunner  = regexp.MustCompile(`^[a-z][a-z-]{0,63}$`)
	reOption  = regexp.MustCompile(`^[a-z][a-zA-Z0-9_.-]{0,63}$`)
	reKind    = reName
	reWorkDir = regexp.MustCompile(`^\.github/workflows/[A-Za-z0-9_.-]+\.ya?ml$`)
	reForgejo = regexp.MustCompile(`^\.(?:forgejo|gitea|github)/workflows/[A-Za-z0-9_.-]+\.ya?ml$`)
	reUUID    = regexp.MustCompile(`^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	reYAML    = regexp.MustCompile(`\.ya?ml$`)
)

const (
	modeEnforce = "enforce"
	modeLog     = "log"

	rerunsDeny   = "deny"
	rerunsAllow  = "allow"
	rerunsAttach = "attach"

	methodCosign   = "cosign"
	methodNotation = "notation"
	methodDCT      = "dct"
	maxOption      = 4096

	formatLegacy = "legacy"
	formatBundle = "bundle"
	optionFormat = "format" // of a compiled step, where it is not legacy
)

// rerunsWords are the words of `reruns`, the strictest first.
var rerunsWords = []string{rerunsDeny, rerunsAttach, rerunsAllow}

// cosignFormats are the words of `formats`, in the order in which they are signed.
var cosignFormats = []string{formatLegacy, formatBundle}

// methods are the words of `method`.
func methods() []string { return []string{methodCosign, methodNotation, methodDCT, "simple"} }

// Events that may be listed. Everything else is refused when the file is read,
// so that no policy can trust what its author did not know about.
var (
	githubEvents = []string{"push", "release", "workflow_dispatch", "schedule", "merge_group", "repository_dispatch", "deployment"}
	gitlabEvents = []string{"push", "web", "schedule", "api", "trigger", "pipeline", "chat"}

	forgejoEvents   = []string{"push", "release", "workflow_dispatch", "schedule"}
	buildkiteEvents = []string{"webhook", "schedule", "trigger_job", "ui", "api"}
	codefreshEvents = []string{eventUnstated, "manual"}
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
	bases      map[string]*baseline
	projects   []parsed
	claims     []claim
	rows       int
}

// parsed is the file of a project, before its bases are known.
type parsed struct {
	scope    scope
	document document
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

// file reads one file, of a project or a base.
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
	switch {
	case d.Base != "" && d.Project != "":
		s.add("base", "a file is a project or a base: take one of the two out")
	case d.Base == "":
		l.projects = append(l.projects, parsed{s, d})
	case !reName.MatchString(d.Base):
		s.add("base", "a base needs a name of 1 to 63 lower-case letters, digits, - and _")
	case l.bases[d.Base] != nil:
		s.add("base", "base %s has another file already; a base is one file", d.Base)
	default:
		l.bases[d.Base] = &baseline{name: d.Base, scope: s, document: d}
	}
}

// project checks the file of a project and adds it to the set.
func (l *loader) project(s scope, d document) {
	pr := &project{name: d.Project, doc: s.doc, policies: map[string]*Policy{}}
	switch {
	case !reName.MatchString(d.Project):
		s.add("project", "a project needs a name of 1 to 63 lower-case letters, digits, - and _")
	case l.set.projects[d.Project] != nil:
		s.add("project", "project %q has another file already; a project is one file", d.Project)
	default:
		l.set.projects[d.Project] = pr
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
	var from *baseline
	if d.Extends != "" {
		from = l.base(s, d.Extends)
	}
	for _, pname := range slices.Sorted(maps.Keys(d.Policies)) {
		ps := s.at("policies").at(pname)
		if !reName.MatchString(pname) {
			ps.add("", "the name of a policy is 1 to 63 lower-case letters, digits, - and _")
			continue
		}
		r := d.Policies[pname]
		l.words(ps, r)
		if d.Extends != "" {
			if from == nil {
				continue // the base cannot be read: what it leaves is unknown
			}
			r = l.inherit(ps, inherited{rules: r}, from, pname).rules
		}
		l.whole(ps, r, pr)
		pr.policies[pname] = l.compile(pr, pname, r)
	}
	l.shadows(s, pr)
}

// forges are the hosts of the project's repositories.
func (pr *project) forges() map[string]bool {
	out := map[string]bool{}
	for _, r := range pr.rows {
		out[r.Forge] = true
	}
	return out
}

// compile makes a policy of rules that were checked. What does not compile was
// reported where it is written.
func (l *loader) compile(pr *project, name string, r rules) *Policy {
	p := &Policy{set: l.set, project: pr, name: name, rules: r, unavailable: r.unavailable()}
	quiet := scope{l: &loader{}, doc: pr.doc}
	if r.Origin.lists() && r.Approvals != nil {
		own := *r.Approvals
		own.Exclude = []string{} // nobody made a build; who submits is excluded always
		p.rules.Approvals = &own
	}
	p.tags = compileList(quiet, r.Tags)
	if r.Origin != nil {
		p.refs = compileList(quiet, r.Origin.Refs)
	}
	for _, text := range r.Freeze {
		if w, err := parseWindow(text); err == nil {
			p.freeze = append(p.freeze, w)
		}
	}
	for i, text := range append([]string{r.When}, r.baseWhen...) {
		if text == "" {
			continue
		}
		rule := "when"
		if i > 0 {
			rule = "extends.when"
		}
		if c, err := l.conditions.compile(text); err == nil {
			p.when = append(p.when, namedCondition{rule, text, c})
		}
	}
	return p
}

// words checks what is written in a policy of a project or a base.
func (l *loader) words(s scope, r rules) {
	l.modeWords(s, r)
	compileList(s.at("tags"), r.Tags)
	if r.Origin != nil {
		l.originWords(s.at("origin"), *r.Origin)
	}
	if r.Approvals != nil {
		l.approvalWords(s.at("approvals"), *r.Approvals)
	}
	l.sign(s.at("sign"), r.Sign)
	if len(r.Freeze) > MaxPatterns {
		s.add("freeze", "%d intervals; at most %d are read", len(r.Freeze), MaxPatterns)
	}
	for i, text := range r.Freeze[:min(len(r.Freeze), MaxPatterns)] {
		if _, err := parseWindow(text); err != nil {
			s.at("freeze").index(i).add("", "%v", err)
		}
	}
	if r.When != "" {
		if _, err := l.conditions.compile(r.When); err != nil {
			s.add("when", "%v", err)
		}
	}
}

// whole checks that a policy, with what it inherits, says everything that a
// policy has to say, and asks no forge for what it cannot tell.
func (l *loader) whole(s scope, r rules, pr *project) {
	switch {
	case r.Origin == nil:
		s.add("origin", "a policy needs the rules that a build has to meet")
	default:
		l.originWhole(s.at("origin"), *r.Origin, r)
	}
	if r.Approvals != nil && r.Origin != nil {
		l.approvalWhole(s.at("approvals"), *r.Approvals, r.Origin.kinds(), pr.forges())
	}
	if len(r.Sign) == 0 && r.Mode != modeLog {
		s.add("sign", "a policy signs in 1 to %d ways, found 0", MaxSteps)
	}
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
	if len(steps) > MaxSteps {
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
				at.add("options", "an option has a name of letters, digits, dot, - and _, beginning with a lower-case letter, and at most %d characters", maxOption)
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
