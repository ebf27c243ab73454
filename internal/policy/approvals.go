package policy

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/signing"
)

// Bounds of approvals: who is asked has to be readable in one comment.
const (
	// MaxGroups bounds the groups of a policy, with what it inherits.
	MaxGroups = 10
	// MaxFrom bounds the teams and persons of one group.
	MaxFrom = 50
	// MaxRequired bounds a quorum: more people than that never answer in time.
	MaxRequired = 20
	// minExpires and maxExpires bound how long an approval counts: below, nobody
	// can read what is asked; above, nobody remembers what it was for.
	minExpires, maxExpires = 5 * time.Minute, 30 * 24 * time.Hour
	// defaultExpires is a day.
	defaultExpires = 24 * time.Hour
)

const (
	denyEnds      = "ends"
	denyWithdraws = "withdraws"
)

// excludeWords and wayWords are the words of `exclude` and `ways`. Who is left
// out of the first may approve what he made; the second is off but for comment.
func excludeWords() []string {
	return []string{signing.ExcludeAuthor, signing.ExcludeActor, signing.ExcludePusher}
}

func wayWords() []string {
	return []string{signing.ViaComment, signing.ViaCheckRun, signing.ViaReview, signing.ViaAPI, signing.ViaBreakGlass}
}

var (
	reTeam       = reGroup
	reAccount    = regexp.MustCompile(`^@[A-Za-z0-9_.-]{1,100}#[1-9][0-9]{0,18}$`)
	rePermission = regexp.MustCompile(`^permission=(?:write|maintain|admin)$`)
)

// reference is an entry of `from`, parsed.
type reference struct {
	forge, name string
}

// parseReference reads FORGE:NAME. A host may have a port, and no name has a colon.
func parseReference(text string) (reference, error) {
	i := strings.LastIndexByte(text, ':')
	if i < 0 || !reForge.MatchString(text[:i]) {
		return reference{}, errors.New("must begin with the host of the forge, written out in lower case: github.com:acme/release-managers")
	}
	r := reference{text[:i], text[i+1:]}
	if !reTeam.MatchString(r.name) && !reAccount.MatchString(r.name) && !rePermission.MatchString(r.name) || len(r.name) > signing.MaxRepository {
		return reference{}, errors.New("must name a team or group as FORGE:ORG/TEAM, an account as FORGE:@LOGIN#ID, or FORGE:permission=write, maintain or admin")
	}
	return r, nil
}

// key identifies who is meant: an account by its id, everything else by its name,
// whose case forges ignore.
func (r reference) key() string {
	if _, id, ok := strings.Cut(r.name, "#"); ok {
		return r.forge + ":#" + id
	}
	return r.forge + ":" + fold(r.name)
}

// account reports whether r is one person.
func (r reference) account() bool { return strings.HasPrefix(r.name, "@") }

// referenceKey is key for a text that was checked.
func referenceKey(text string) string {
	r, err := parseReference(text)
	if err != nil {
		return text
	}
	return r.key()
}

// groups returns the groups of either form; at is where the first one's words are.
func (a approvals) groups() []approvalGroup {
	if len(a.All) > 0 {
		return a.All
	}
	return []approvalGroup{{a.Required, a.From}}
}

// groupPath is where the words of group i are written.
func (a approvals) groupPath(i int) string {
	if len(a.All) > 0 {
		return config.Index("all", i)
	}
	return ""
}

// approvalWords checks what is written.
func (l *loader) approvalWords(s scope, a approvals) {
	if len(a.All) > 0 && (a.Required != 0 || len(a.From) > 0) {
		s.add("all", "one form only: `all` with its groups, or `required` and `from` for a single one")
		return
	}
	if len(a.All) > MaxGroups {
		s.add("all", "%d groups; at most %d are read", len(a.All), MaxGroups)
		return
	}
	for i, g := range a.groups() {
		at := s
		if p := a.groupPath(i); p != "" {
			at = scope{l: s.l, doc: s.doc, path: s.path + "." + p}
		}
		l.groupWords(at, g)
	}
	knownWords(s.at("exclude"), a.Exclude, excludeWords())
	knownWords(s.at("ways"), a.Ways, wayWords())
	if a.Ways != nil && !slices.ContainsFunc(a.Ways, func(w string) bool { return w != signing.ViaBreakGlass }) {
		s.add("ways", "needs a way for every day, such as comment: break_glass is for emergencies")
	}
	if e := a.Expires.Duration(); e != 0 && (e < minExpires || e > maxExpires) {
		s.add("expires", "must be between %s and %s", minExpires, maxExpires)
	}
	if a.Deny != "" && a.Deny != denyEnds && a.Deny != denyWithdraws {
		s.add("deny", "must be ends (the default) or withdraws")
	}
}

func (l *loader) groupWords(s scope, g approvalGroup) {
	if g.Required < 0 || g.Required > MaxRequired {
		s.add("required", "must be 1 to %d people", MaxRequired)
	}
	if len(g.From) > MaxFrom {
		s.add("from", "%d entries; at most %d are read", len(g.From), MaxFrom)
		return
	}
	seen := map[string]bool{}
	people := true
	for i, text := range g.From {
		r, err := parseReference(text)
		switch {
		case err != nil:
			s.at("from").index(i).add("", "%v", err)
			people = false
			continue
		case seen[r.key()]:
			s.at("from").index(i).add("", "is there twice")
		}
		seen[r.key()] = true
		people = people && r.account()
	}
	if people && len(g.From) > 0 && int64(len(seen)) < g.Required {
		s.add("required", "needs %d people of %d that are named: it could never be met", g.Required, len(seen))
	}
}

// knownWords checks a list of known words, each once.
func knownWords(s scope, list, known []string) {
	for i, w := range list {
		if !slices.Contains(known, w) || slices.Contains(list[:i], w) {
			s.index(i).add("", "must be %s, each once", oneOf(known))
		}
	}
}

// approvalWhole checks that approvals, with what is inherited, can be met. forges
// are those of the project's repositories; nil in a repository's own policy.
func (l *loader) approvalWhole(s scope, a approvals, kinds []string, forges map[string]bool) {
	for i, g := range a.groups() {
		at := s
		if p := a.groupPath(i); p != "" {
			at = scope{l: s.l, doc: s.doc, path: s.path + "." + p}
		}
		if g.Required < 1 {
			at.add("required", "must say how many people, from 1 to %d", MaxRequired)
		}
		if len(g.From) == 0 {
			at.add("from", "must list who may approve: no group is empty")
		}
		for j, text := range g.From {
			r, err := parseReference(text)
			if err == nil && rePermission.MatchString(r.name) && forges != nil && !forges[r.forge] {
				at.at("from").index(j).add("", "no repository of the project is on %s, so that nobody has a permission there", r.forge)
			}
		}
	}
	for _, way := range []string{signing.ViaCheckRun, signing.ViaReview} {
		if slices.Contains(a.Ways, way) && len(kinds) > 0 && !slices.Contains(kinds, kindGitHub) {
			s.add("ways", "only GitHub has %s, and the policy has no rules for builds of GitHub", way)
		}
	}
}

// rule compiles approvals that were checked.
func (a approvals) rule() *signing.ApprovalRule {
	r := &signing.ApprovalRule{Exclude: excludeWords(), Expires: defaultExpires, Supersede: given(a.Supersede), DenyEnds: a.Deny != denyWithdraws, Ways: []string{signing.ViaComment}}
	for _, g := range a.groups() {
		r.Groups = append(r.Groups, signing.ApprovalGroup{Required: int(g.Required), From: sortedSet(g.From)})
	}
	if a.Exclude != nil {
		r.Exclude = a.Exclude
	}
	if a.Ways != nil {
		r.Ways = a.Ways
	}
	r.Exclude, r.Ways = sortedSet(r.Exclude), sortedSet(r.Ways)
	if a.Expires != 0 {
		r.Expires = a.Expires.Duration()
	}
	return r
}

// approvals lets a policy ask more of people than its base, and never less. The
// groups are held against those of the base in their order: they are people, and
// each has to be one of the base's.
func (t tightening) approvals(c, b *approvals) *approvals {
	if c == nil || b == nil {
		if c == nil {
			c = b
		}
		return c
	}
	out := *c
	mine, theirs := c.groups(), slices.Clone(b.groups())
	if len(mine) < len(theirs) {
		t.loosens("approvals", "it has %d groups, each with its quorum", len(theirs))
		return c
	}
	groups := slices.Clone(mine)
	for i, from := range theirs {
		own, at := &groups[i], "approvals."
		if p := c.groupPath(i); p != "" {
			at += p + "."
		}
		switch {
		case own.Required == 0:
			own.Required = from.Required
		case own.Required < from.Required:
			t.loosens(at+"required", "%d people of this group", from.Required)
		}
		if own.From == nil {
			own.From = from.From
		}
		for j, text := range own.From {
			if !slices.ContainsFunc(from.From, func(f string) bool { return referenceKey(f) == referenceKey(text) }) {
				t.loosens(config.Index(at+"from", j), "%s is not one of %s", text, oneOf(from.From))
			}
		}
	}
	if len(c.All) > 0 {
		out.All = groups
	} else {
		out.Required, out.From = groups[0].Required, groups[0].From
	}
	if out.Exclude == nil {
		out.Exclude = b.Exclude
	}
	for _, who := range b.rule().Exclude {
		if !slices.Contains(out.rule().Exclude, who) {
			t.loosens("approvals.exclude", "who is %s may not approve", who)
		}
	}
	if out.Ways == nil {
		out.Ways = b.Ways
	}
	for _, way := range out.rule().Ways {
		if !slices.Contains(b.rule().Ways, way) {
			t.loosens("approvals.ways", "%s is not one of %s", way, oneOf(b.rule().Ways))
		}
	}
	if out.Expires == 0 {
		out.Expires = b.Expires
	}
	if limit := b.rule().Expires; out.rule().Expires > limit {
		t.loosens("approvals.expires", "an approval counts for %s", limit)
	}
	switch {
	case out.Deny == "":
		out.Deny = b.Deny
	case out.Deny == denyWithdraws && b.Deny != denyWithdraws:
		t.loosens("approvals.deny", "one deny ends the request")
	}
	if out.Supersede == nil {
		out.Supersede = b.Supersede
	}
	return &out
}

// Approvals returns what the policy asks of people, nil if it asks nobody. The
// caller owns the result. What the repository's own policy asks as well is in
// ApprovalsWith.
func (p *Policy) Approvals() *signing.ApprovalRule {
	if p.rules.Approvals == nil {
		return nil
	}
	return p.rules.Approvals.rule()
}

// describeRule says for people what a rule asks.
func describeRule(r *signing.ApprovalRule) string {
	var parts []string
	for _, g := range r.Groups {
		parts = append(parts, fmt.Sprintf("%d of %s", g.Required, oneOf(g.From)))
	}
	return strings.Join(parts, " and ")
}
