package view

import (
	"fmt"
	"strings"

	"github.com/sealwright/sealwright/internal/signing"
)

// Difference is what happened to one tag, in words, with digests shortened.
func Difference(d signing.Difference) string {
	switch {
	case d.To == "":
		return fmt.Sprintf("%s removed, was %s", d.Tag, abridged(d.From))
	case d.From == "":
		return fmt.Sprintf("%s bound to %s", d.Tag, abridged(d.To))
	default:
		return fmt.Sprintf("%s moved from %s to %s", d.Tag, abridged(d.From), abridged(d.To))
	}
}

// abridged is a digest as people compare it.
func abridged(d signing.Digest) string {
	return string(d[:min(len(d), len("sha256:")+12)])
}

// subject names what a Task is about.
func subject(t signing.Task) string {
	if t.Part == "" {
		return t.Artifact.String()
	}
	return string(t.Artifact.Repository) + ", " + t.Part
}

// differences says what the signed bytes of a Task change, one line each; before
// they are made, what was asked for.
func differences(t signing.Task) (lines []string) {
	if t.Intent != nil {
		for _, d := range t.Intent.Differences {
			lines = append(lines, Difference(d))
		}
		if len(lines) == 0 && t.Part != "" {
			lines = []string{"no tag changes"}
		}
		return lines
	}
	for _, c := range t.Changes {
		if c.Remove {
			lines = append(lines, "remove "+c.Tag)
		} else {
			lines = append(lines, fmt.Sprintf("bind %s to %s", c.Tag, abridged(c.Digest)))
		}
	}
	return lines
}

// asksFor says what a Request asks for, "sign 2 images and untrust 1 tag".
func asksFor(r signing.Request) string {
	return joined("sign "+plural(len(r.Artifacts), "image", "images"), "untrust "+plural(len(r.Untrust), "tag", "tags"), r)
}

// things names what a Request is about, "2 images and 1 tag to untrust".
func things(r signing.Request) string {
	return joined(plural(len(r.Artifacts), "image", "images"), plural(len(r.Untrust), "tag", "tags")+" to untrust", r)
}

func joined(images, tags string, r signing.Request) string {
	switch {
	case len(r.Untrust) == 0:
		return images
	case len(r.Artifacts) == 0:
		return tags
	default:
		return images + " and " + tags
	}
}

// untrusted lists the tags whose trust is to be withdrawn.
func untrusted(b *strings.Builder, r signing.Request, most int) {
	if len(r.Untrust) == 0 {
		return
	}
	b.WriteString("\n**Trust is withdrawn** from:\n\n")
	for _, a := range r.Untrust[:min(len(r.Untrust), most)] {
		fmt.Fprintf(b, "- %s\n", code(a.String()))
	}
	if n := len(r.Untrust) - most; n > 0 {
		fmt.Fprintf(b, "- and %s\n", plural(n, "more tag", "more tags"))
	}
}

// together says what the steps do that sign the tags of a repository together.
func together(b *strings.Builder, d signing.Decision) {
	for _, s := range d.Basis.Steps {
		if len(s.Parts) == 0 {
			continue
		}
		var parts []string
		for _, p := range s.Parts {
			parts = append(parts, name(p))
		}
		moves := "is refused"
		if s.Options["move"] == "true" {
			moves = "**is moved**"
		}
		fmt.Fprintf(b, "\nTags are signed in %s of each repository; a tag that is bound to another image there %s.\n", listed(parts, maxListed), moves)
	}
}
