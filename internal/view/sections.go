package view

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxName bounds what names something: a person, a branch, a group.
	maxName = 120
	// maxSubject bounds the first line of a commit: git's own advice is 50.
	maxSubject = 100
	// maxListed bounds the platforms, keys and groups of one line.
	maxListed = 6
	// maxGroups bounds the groups that are shown; a policy has at most ten.
	maxGroups = 12
)

// name is a short text of a stranger as code: no markup, mention or link.
func name(s string) string { return code(clipped(strings.Trim(s, "/"), maxName)) }

// clipped cuts cleaned text to n characters.
func clipped(s string, n int) string {
	if r := []rune(clean(s)); len(r) > n {
		return string(r[:n]) + "…"
	}
	return clean(s)
}

// word is text of which nothing but plain characters is left, for a marker.
func word(s string) string { return reNotWord.ReplaceAllString(clipped(s, maxName), "_") }

var (
	reNotWord = regexp.MustCompile(`[^A-Za-z0-9._]`)
	// reURL has nothing that could end a link or begin markup.
	reURL   = regexp.MustCompile(`^https?://[A-Za-z0-9.:-]+(?:/[A-Za-z0-9._~/%@:+=?&#-]*)?$`)
	reLogin = regexp.MustCompile(`^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_])?$`)
)

// link is text as code, linked where the URL is plainly one of a host.
func link(text, to, host string) string {
	u, err := url.Parse(to)
	if err != nil || len(to) > maxText || !reURL.MatchString(to) || !strings.EqualFold(u.Host, host) || u.User != nil {
		return name(text)
	}
	return "[" + name(text) + "](" + to + ")"
}

// signed lists what is to be signed: every image with its digest, platforms and
// signed tag, then with which keys.
func signed(b *strings.Builder, q Asked, room limits) {
	all := q.Request.Artifacts
	for _, a := range all[:min(len(all), room.images)] {
		// A backslash is a line break in comments of both forges.
		lines := []string{code(string(a.Repository)), code(string(a.Digest))}
		if a.Tag != "" {
			lines = append(lines, "signed tag "+code(a.Tag))
		}
		if p := platforms(q.Images, a); p != "" {
			lines = append(lines, p)
		}
		b.WriteString("- " + strings.Join(lines, "\\\n  ") + "\n")
	}
	if rest := all[min(len(all), room.images):]; len(rest) > 0 {
		fmt.Fprintf(b, "\n<details><summary>and %s</summary>\n\n", plural(len(rest), "more image", "more images"))
		for _, a := range rest[:min(len(rest), room.folded)] {
			fmt.Fprintf(b, "- %s\n", code(a.String()))
		}
		if n := len(rest) - room.folded; n > 0 {
			fmt.Fprintf(b, "- %s: see `sealwright status %s`\n", plural(n, "image that is not listed here", "images that are not listed here"), q.Request.ID)
		}
		b.WriteString("\n</details>\n")
	}
	untrusted(b, q.Request, room.images)
	d := q.Request.Decision
	if d == nil {
		return
	}
	if n := len(d.Basis.Children); n > 0 {
		fmt.Fprintf(b, "\nand %s below them.\n", plural(n, "manifest", "manifests"))
	}
	var keys []string
	for _, s := range d.Basis.Steps {
		keys = append(keys, name(s.Key)+" ("+escape(clipped(method(s), maxName))+")")
	}
	if len(keys) > 0 {
		fmt.Fprintf(b, "\nWith %s.\n", listed(keys, maxListed))
	}
	together(b, *d)
}

// platforms says what an image runs on, if the registry said so.
func platforms(images []signing.Image, a signing.Artifact) string {
	for _, i := range images {
		if i.Artifact.Repository != a.Repository || i.Artifact.Digest != a.Digest {
			continue
		}
		var out []string
		for _, p := range i.Platforms {
			out = append(out, escape(clipped(p, maxName)))
		}
		if len(out) == 0 && i.Kind == signing.KindArtifact {
			return "not an image: " + name(i.ArtifactType)
		}
		return listed(out, maxListed)
	}
	return ""
}

// listed joins some and counts the rest.
func listed(items []string, most int) string {
	if n := len(items) - most; n > 0 {
		return strings.Join(items[:most], ", ") + fmt.Sprintf(" and %d more", n)
	}
	return strings.Join(items, ", ")
}

// from says where the build came from.
func from(b *strings.Builder, q Asked, room limits) {
	o := q.Request.Origin
	if l := q.Request.List; l != nil {
		fmt.Fprintf(b, "- no build: a list that %s brought for %s, made %s (file %s)\n", name(q.Request.Identity.Subject), name(o.SourceRepository), stamp(l.Made), code(string(l.Digest)))
		return
	}
	commit := o.SourceRepositoryDigest
	fmt.Fprintf(b, "- commit %s of %s", link(abbreviated(commit), commitURL(o), o.Forge), name(o.SourceRepository))
	if o.SourceRepositoryRef != "" {
		fmt.Fprintf(b, ", %s", name(strings.TrimPrefix(strings.TrimPrefix(o.SourceRepositoryRef, "refs/heads/"), "refs/tags/")))
	}
	b.WriteString("\n")
	if s := subjectLine(q); s != "" {
		fmt.Fprintf(b, "- %s\n", code(clipped(s, maxSubject)))
	}
	if who := authors(q); len(who) > 0 {
		fmt.Fprintf(b, "- author: %s\n", listed(who, room.people))
	}
	run := "run " + o.RunID
	if o.RunID == "" {
		run = "run"
	}
	fmt.Fprintf(b, "- %s", link(run, o.RunInvocationURI, o.Forge))
	if o.BuildTrigger != "" {
		fmt.Fprintf(b, " (%s)", name(o.BuildTrigger))
	}
	actor, again := starters(q)
	if actor != "" {
		fmt.Fprintf(b, ", started by %s", actor)
	}
	if again != "" {
		fmt.Fprintf(b, ", again by %s", again)
	}
	b.WriteString("\n")
	if a := q.Request.Asking; a != nil && a.Nth > 0 {
		nth := fmt.Sprintf("%s request of this run", ordinal(a.Nth))
		if a.Nth > 1 {
			nth = "⚠️ **" + nth + "**"
		}
		fmt.Fprintf(b, "- %s\n", nth)
	}
	if q.Request.Source != "" {
		fmt.Fprintf(b, "- submitted again by a person; first as %s\n", name(q.Request.Source))
	}
}

// subjectLine is the first line of the commit: as the forge says now, or as it said
// when it was decided.
func subjectLine(q Asked) string {
	if c := commitFacts(q); c != nil {
		return c.Subject
	}
	if a := q.Request.Asking; a != nil {
		return a.Subject
	}
	return ""
}

func commitFacts(q Asked) *signing.CommitFacts {
	if q.Forge == nil {
		return nil
	}
	return q.Forge.Commit
}

// authors names who wrote the commit: as the forge says now, or as it was found
// when it was decided.
func authors(q Asked) (who []string) {
	c := commitFacts(q)
	if c == nil {
		return partIn(q.Request, signing.WhyWrote)
	}
	for _, a := range c.Authors {
		who = append(who, account(a))
	}
	for _, u := range c.Unmapped {
		who = append(who, name(u))
	}
	return who
}

// partIn names those who are excluded for a reason that begins with why.
func partIn(r signing.Request, why string) (who []string) {
	if r.Decision == nil {
		return nil
	}
	for _, e := range r.Decision.Excluded {
		if !slices.ContainsFunc(strings.Split(e.Why, "; "), func(w string) bool { return strings.HasPrefix(w, why) }) {
			continue
		}
		if e.Account.Known() {
			who = append(who, account(e.Account))
		} else {
			who = append(who, name(e.Unmapped))
		}
	}
	return who
}

// starters names who started the run, and who did so again.
func starters(q Asked) (actor, again string) {
	if q.Forge != nil && q.Forge.Run != nil && q.Forge.Run.Actor.Known() {
		run := q.Forge.Run
		if run.Restarter.Known() && run.Restarter.Key() != run.Actor.Key() {
			again = account(run.Restarter)
		}
		return account(run.Actor), again
	}
	return name(q.Request.Origin.Actor), listed(partIn(q.Request, signing.WhyRestarted), maxListed)
}

func account(a signing.Account) string {
	if a.Login == "" {
		return name(a.Key())
	}
	return name(a.Login)
}

// commitURL is where the forge shows the commit.
func commitURL(o signing.Origin) string {
	if o.SourceRepositoryURI == "" || o.SourceRepositoryDigest == "" {
		return ""
	}
	base := strings.TrimSuffix(o.SourceRepositoryURI, "/")
	if o.Kind == "gitlab" {
		base += "/-"
	}
	return base + "/commit/" + o.SourceRepositoryDigest
}

func abbreviated(commit string) string { return commit[:min(len(commit), 12)] }

func ordinal(n int) string {
	suffix := "th"
	if n%100 < 11 || n%100 > 13 {
		switch n % 10 {
		case 1:
			suffix = "st"
		case 2:
			suffix = "nd"
		case 3:
			suffix = "rd"
		}
	}
	return fmt.Sprintf("%d%s", n, suffix)
}

// quorum says, by group, who is needed and who has approved so far.
func quorum(b *strings.Builder, q Asked, room limits) {
	for i, g := range q.Tally.Groups[:min(len(q.Tally.Groups), maxGroups)] {
		var people []string
		for _, p := range g.People {
			people = append(people, person(q.Request, p))
		}
		fmt.Fprintf(b, "- **%d of %d** from %s", len(g.People), g.Required, groups(q.Request.Origin.Forge, g.From, room))
		if len(people) > 0 {
			fmt.Fprintf(b, ": %s", listed(people, room.people))
		}
		b.WriteString("\n")
		if g.Extra > 0 && i == 0 {
			fmt.Fprintf(b, "  (%s more than usual, for authors without an account)\n", plural(g.Extra, "person", "people"))
		}
	}
	if len(q.Tally.Groups) > 1 {
		b.WriteString("\nNobody counts for two groups.\n")
	}
	if n := len(q.Tally.BreakGlass); n > 0 {
		fmt.Fprintf(b, "\n🚨 Emergency: %s broke the glass.\n", plural(n, "person", "people"))
	}
	for _, a := range q.Tally.Ignored[:min(len(q.Tally.Ignored), maxListed)] {
		fmt.Fprintf(b, "\nDoes not count: %s, %s.\n", giver(a.Approval), escape(clipped(a.Why, maxName)))
	}
	if m := mentions(q.Request.Origin.Forge, q.Mentions); m != "" {
		b.WriteString("\n" + m + "\n")
	}
}

// groups names where the people of a quorum come from.
func groups(forge string, from []string, room limits) string {
	var out []string
	for _, f := range from {
		f = strings.TrimPrefix(f, forge+":")
		if p, ok := strings.CutPrefix(f, "permission="); ok {
			out = append(out, "everybody with permission "+name(p))
			continue
		}
		if login, _, ok := strings.Cut(f, "#"); ok && strings.HasPrefix(f, "@") {
			f = strings.TrimPrefix(login, "@")
		}
		out = append(out, name(f))
	}
	return listed(out, min(maxListed, room.people))
}

// person is a person as people know him: by login, where an approval has one.
func person(r signing.Request, p string) string {
	for _, a := range r.Approvals {
		if a.Person == p && a.By.Login != "" && a.By.Key() == p {
			return name(a.By.Login)
		}
	}
	return name(p)
}

func giver(a signing.Approval) string {
	if a.By.Login != "" {
		return name(a.By.Login)
	}
	return name(a.Person)
}

// excluded says who cannot approve and why.
func excluded(b *strings.Builder, q Asked, room limits) {
	if q.Request.Decision == nil || len(q.Request.Decision.Excluded) == 0 {
		return
	}
	b.WriteString("\nCannot approve:\n\n")
	all := q.Request.Decision.Excluded
	for _, e := range all[:min(len(all), room.people)] {
		who := name(e.Unmapped)
		if e.Account.Known() {
			who = account(e.Account)
		}
		fmt.Fprintf(b, "- %s: %s\n", who, escape(clipped(e.Why, 2*maxName)))
	}
	if n := len(all) - room.people; n > 0 {
		fmt.Fprintf(b, "- and %d more\n", n)
	}
}

// maxMentions bounds who is called: a large team would be spammed.
const maxMentions = 20

// mentions calls people of this forge. It is the one place that mentions anybody.
func mentions(forge string, people []signing.Account) string {
	var out []string
	for _, a := range people {
		at := "@" + a.Login
		if a.Forge == forge && !a.Bot && reLogin.MatchString(a.Login) && !slices.Contains(out, at) {
			out = append(out, at)
		}
	}
	switch n := len(out) - maxMentions; {
	case len(out) == 0:
		return ""
	case n > 0:
		return strings.Join(out[:maxMentions], " ") + fmt.Sprintf(" and %d more, please decide.", n)
	}
	return strings.Join(out, " ") + ", please decide."
}
