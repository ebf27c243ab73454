package view

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/signing"
)

// The annotations and labels in which builders record the base of an image.
const (
	baseName   = "org.opencontainers.image.base.name"
	baseDigest = "org.opencontainers.image.base.digest"
)

// news says what is new since the last signed release: commits, images, bases,
// keys, policy.
func news(b *strings.Builder, q Asked, room limits) {
	before := q.News.Before
	if before == nil && q.News.Unknown != "" {
		fmt.Fprintf(b, "⚠️ Not known: %s.\n", escape(clipped(q.News.Unknown, maxName)))
		return
	}
	if before == nil {
		b.WriteString("This is the first: nothing of these images was signed under this policy before.\n")
		return
	}
	now := q.Request
	fmt.Fprintf(b, "Last: %s, %s\n\n", name(before.ID), minute(before.Ended))
	commits(b, q, room)
	for _, line := range changes(*before, now, q.News.BeforeImages, q.Images) {
		b.WriteString("- " + line + "\n")
	}
}

func commits(b *strings.Builder, q Asked, room limits) {
	n, before, now := q.News, q.News.Before.Origin, q.Request.Origin
	switch {
	case n.Unknown != "":
		fmt.Fprintf(b, "- ⚠️ commits: not known, %s\n", escape(clipped(n.Unknown, maxName)))
		return
	case before.SourceRepositoryDigest == now.SourceRepositoryDigest && before.SourceRepositoryIdentifier == now.SourceRepositoryIdentifier:
		b.WriteString("- the same commit\n")
		return
	case before.SourceRepositoryIdentifier != now.SourceRepositoryIdentifier:
		fmt.Fprintf(b, "- ⚠️ another repository: %s before\n", name(before.SourceRepository))
		return
	}
	fmt.Fprintf(b, "- %s\n", link(plural(n.Commits, "commit", "commits"), n.URL, now.Forge))
	if n.Diverged {
		b.WriteString("- ⚠️ the commit signed last is **no ancestor** of this one\n")
	}
	for _, s := range n.Subjects[:min(len(n.Subjects), room.subjects)] {
		fmt.Fprintf(b, "  - %s\n", code(clipped(s, maxSubject)))
	}
	if more := n.Commits - min(len(n.Subjects), room.subjects); more > 0 && len(n.Subjects) > 0 {
		fmt.Fprintf(b, "  - and %d more\n", more)
	}
}

// changes says what else is new: one line each, "as before" where nothing is.
func changes(before, now signing.Request, old, fresh []signing.Image) []string {
	out := slices.Concat(repositories(before, now), bases(old, fresh))
	if before.Decision == nil || now.Decision == nil {
		return append(out, "⚠️ keys and policy: not recorded")
	}
	was, is := before.Decision.Basis, now.Decision.Basis
	keys := keyChanges(was.Steps, is.Steps)
	if len(keys) == 0 {
		keys = []string{"keys: as before"}
	}
	out = append(out, keys...)
	policy := "policy: as before"
	if was.PolicyDigest != is.PolicyDigest {
		policy = fmt.Sprintf("⚠️ policy: **changed**, %s before, now %s", digest(was.PolicyDigest), digest(is.PolicyDigest))
	}
	out = append(out, policy)
	if was.RepositoryPolicy != is.RepositoryPolicy {
		out = append(out, fmt.Sprintf("⚠️ the repository's own policy: **changed**, %s before, now %s", digest(was.RepositoryPolicy), digest(is.RepositoryPolicy)))
	}
	if a, b := file(before.Origin.BuildSignerURI), file(now.Origin.BuildSignerURI); a != b {
		out = append(out, fmt.Sprintf("⚠️ built by %s, before by %s", name(b), name(a)))
	}
	return out
}

// file is a workflow file without its ref.
func file(uri string) string {
	path, _, _ := strings.Cut(uri, "@")
	return strings.TrimPrefix(path, "https://")
}

func digest(d signing.Digest) string {
	if d == "" {
		return "none"
	}
	return code(d.Hex()[:min(len(d.Hex()), 12)])
}

// repositories names images that are new, or no longer there.
func repositories(before, now signing.Request) []string {
	names := func(r signing.Request) (out []string) {
		for _, a := range r.Artifacts {
			if !slices.Contains(out, string(a.Repository)) {
				out = append(out, string(a.Repository))
			}
		}
		return out
	}
	was, is := names(before), names(now)
	var out []string
	for _, d := range []struct {
		what    string
		of, not []string
	}{{"new image", is, was}, {"no longer there", was, is}} {
		var only []string
		for _, n := range d.of {
			if !slices.Contains(d.not, n) {
				only = append(only, name(n))
			}
		}
		if len(only) > 0 {
			out = append(out, d.what+": "+listed(only, maxListed))
		}
	}
	return out
}

// bases says which images stand on another base than before.
func bases(old, fresh []signing.Image) []string {
	was := map[signing.Repository]string{}
	for _, i := range old {
		was[i.Artifact.Repository] = base(i)
	}
	var out []string
	same, unknown := 0, 0
	for _, i := range fresh {
		before, there := was[i.Artifact.Repository]
		switch now := base(i); {
		case !there:
		case now == "" || before == "":
			unknown++
		case now == before:
			same++
		default:
			out = append(out, fmt.Sprintf("base of %s: now %s, before %s", name(string(i.Artifact.Repository)), name(now), name(before)))
		}
	}
	if n := len(out) - maxListed; n > 0 {
		out = append(out[:maxListed], plural(n, "more image stands", "more images stand")+" on another base")
	}
	switch {
	case len(out) > 0:
	case len(fresh) == 0 || len(old) == 0 || unknown > 0 && same == 0:
		out = append(out, "base image: not recorded by the build")
	case same > 0 && unknown == 0:
		out = append(out, "base image: as before")
	case same > 0:
		out = append(out, fmt.Sprintf("base image: as before; of %d not recorded", unknown))
	}
	return out
}

// base is the base image as the builder recorded it: of an index, that of its
// parts where they agree.
func base(i signing.Image) string {
	found := recordedBase(i.Annotations, i.Labels)
	for _, m := range i.Manifests {
		b := recordedBase(m.Annotations, m.Labels)
		switch {
		case b == "" || b == found:
		case found == "":
			found = b
		default:
			return found + " and others"
		}
	}
	return found
}

func recordedBase(places ...map[string]string) string {
	for _, p := range places {
		if n, d := p[baseName], p[baseDigest]; n != "" || d != "" {
			return strings.Trim(n+"@"+signing.Digest(d).Hex()[:min(12, len(signing.Digest(d).Hex()))], "@")
		}
	}
	return ""
}

// keyChanges compares by key and method.
func keyChanges(was, is []signing.Step) []string {
	same := func(a signing.Step) func(signing.Step) bool {
		return func(b signing.Step) bool { return a.Key == b.Key && a.Method == b.Method }
	}
	var out []string
	for _, s := range is {
		i := slices.IndexFunc(was, same(s))
		switch {
		case i < 0:
			out = append(out, fmt.Sprintf("⚠️ key %s (%s): **new**", name(s.Key), escape(s.Method)))
		case was[i].KeyVersion != s.KeyVersion:
			out = append(out, fmt.Sprintf("⚠️ key %s (%s): **another version**", name(s.Key), escape(s.Method)))
		}
	}
	for _, s := range was {
		if !slices.ContainsFunc(is, same(s)) {
			out = append(out, fmt.Sprintf("⚠️ key %s (%s): no longer used", name(s.Key), escape(s.Method)))
		}
	}
	if n := len(out) - 2*maxListed; n > 0 {
		out = append(out[:2*maxListed], fmt.Sprintf("⚠️ %d more changes of keys", n))
	}
	return out
}
