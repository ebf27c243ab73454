package view

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxRows bounds a table and maxImages a command: a summary that is longer
	// is not read, and GitHub refuses one of more than 1 MiB.
	maxRows   = 200
	maxImages = 20
	// maxCheckpoint bounds a checkpoint; one with a dozen witnesses has 2 KiB.
	maxCheckpoint = 8 << 10
)

// Markdown returns the tree of reasons: a table of the rules that failed, and
// all rules to be unfolded.
func Markdown(d signing.Reason) string {
	var b strings.Builder
	if len(d.Children) == 0 {
		single(&b, d)
		return b.String()
	}
	failed := d.Failures()
	if d.Pass {
		fmt.Fprintf(&b, "✅ %s: %s met.\n", code(d.Rule), plural(count(d), "rule is", "rules are"))
	} else {
		fmt.Fprintf(&b, "❌ %s: %s of %d not met.\n\n", code(d.Rule), plural(len(failed), "rule", "rules"), count(d))
		b.WriteString("| Rule | Wanted | Found | How to fix |\n|---|---|---|---|\n")
		for _, r := range failed[:min(len(failed), maxRows)] {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", cell(r.Rule), cell(r.Wanted), cell(r.Found), escape(r.Fix))
		}
		if len(failed) > maxRows {
			fmt.Fprintf(&b, "\nand %d more.\n", len(failed)-maxRows)
		}
	}
	b.WriteString("\n<details><summary>All rules</summary>\n\n")
	left := maxReasons
	list(&b, d, 0, &left)
	b.WriteString("\n</details>\n")
	return b.String()
}

// single is a refusal that is one rule.
func single(b *strings.Builder, r signing.Reason) {
	mark := "❌"
	if r.Pass {
		mark = "✅"
	}
	fmt.Fprintf(b, "%s **%s**\n", mark, escape(r.Rule))
	if r.Wanted != "" || r.Found != "" || r.Fix != "" {
		b.WriteString("\n")
	}
	for _, l := range []struct{ name, text string }{{"Wanted", code(r.Wanted)}, {"Found", code(r.Found)}, {"How to fix", escape(r.Fix)}} {
		if l.text != "" {
			fmt.Fprintf(b, "- %s: %s\n", l.name, l.text)
		}
	}
}

func list(b *strings.Builder, r signing.Reason, depth int, left *int) {
	if *left--; *left < 0 || depth > maxDepth {
		return
	}
	mark := "❌"
	if r.Pass {
		mark = "✅"
	}
	fmt.Fprintf(b, "%s- %s %s", strings.Repeat("  ", depth), mark, code(r.Rule))
	if len(r.Children) == 0 && r.Found != "" {
		b.WriteString(": " + code(r.Found))
	}
	b.WriteString("\n")
	for _, c := range r.Children {
		list(b, c, depth+1, left)
	}
}

// RequestMarkdown returns the summary of a Request for the job that made it:
// what was signed and where, commands that verify it, why not if it was not,
// and the newest checkpoint of the audit log, "" if there is none yet.
func RequestMarkdown(r signing.Request, tasks []signing.Task, checkpoint string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "### Sealwright: %s\n\n", heading(r.State))
	fmt.Fprintf(&b, "Request %s, policy %s", code(r.ID), code(strings.TrimPrefix(r.Project+"/"+r.Policy, "/")))
	if o := r.Origin; o.SourceRepository != "" {
		fmt.Fprintf(&b, "%s %s", map[bool]string{true: ", of a list for", false: ", built from"}[r.List != nil], code(o.SourceRepository))
		if o.SourceRepositoryRef != "" {
			fmt.Fprintf(&b, " at %s", code(o.SourceRepositoryRef))
		}
		if o.SourceRepositoryDigest != "" {
			fmt.Fprintf(&b, " (%s)", code(o.SourceRepositoryDigest))
		}
	}
	b.WriteString(".\n")
	if f := r.Failure; f != nil {
		b.WriteString("\n")
		single(&b, signing.Reason{Rule: f.Message, Wanted: f.Expected, Found: f.Found, Fix: f.Fix})
	}
	images(&b, r, tasks)
	deliveries(&b, tasks)
	verify(&b, r, tasks)
	if r.Decision != nil && r.Decision.Reasons.Rule != "" {
		b.WriteString("\n#### Decision\n\n" + Markdown(r.Decision.Reasons))
	}
	if checkpoint != "" {
		b.WriteString("\n<details><summary>Newest checkpoint of the audit log: keep it, and a rewritten log contradicts it</summary>\n\n")
		b.WriteString(fence(checkpoint, ""))
		b.WriteString("\n</details>\n")
	}
	return b.String()
}

func heading(s signing.RequestState) string {
	switch s {
	case signing.Completed:
		return "signed"
	case signing.RequestDenied:
		return "denied"
	case signing.Failed, signing.Canceled, signing.RequestExpired:
		return string(s)
	case signing.Pending, signing.AwaitingApproval, signing.Ready, signing.Signing:
		return "waiting (" + strings.ReplaceAll(string(s), "_", " ") + ")"
	default:
		return "unknown state"
	}
}

// images lists the Tasks, or the artifacts while there are no Tasks. What is
// below an index and went well is counted, not listed.
func images(b *strings.Builder, r signing.Request, tasks []signing.Task) {
	switch {
	case len(tasks) > 0:
		b.WriteString("\n| Image | Method | Key | Result | Signature |\n|---|---|---|---|---|\n")
		var parts []part
		n := 0
		row := func(image string, t signing.Task, where string) {
			if n++; n <= maxRows {
				fmt.Fprintf(b, "| %s | %s | %s | %s | %s |\n", image, cell(method(t.Step)), cell(t.Step.Key), result(t), where)
			}
		}
		for _, t := range tasks {
			if t.State == signing.Published && below(r, t.Artifact) {
				parts = counted(parts, t)
				continue
			}
			var where []string
			for _, l := range t.Locations {
				where = append(where, cell(l.URI))
			}
			image := cell(subject(t))
			lines := differences(t)
			for _, line := range lines[:min(len(lines), maxImages)] {
				image += "<br>" + cell(line)
			}
			if n := len(lines) - maxImages; n > 0 {
				image += "<br>" + fmt.Sprintf("and %d more", n)
			}
			row(image, t, strings.Join(where, "<br>"))
		}
		for _, p := range parts {
			row("+ "+plural(p.n, "manifest", "manifests")+" below, in "+cell(string(p.task.Artifact.Repository)), p.task, "")
		}
		if n > maxRows {
			fmt.Fprintf(b, "\nand %d more.\n", n-maxRows)
		}
	case len(r.Artifacts)+len(r.Untrust) > 0:
		b.WriteString("\nImages:\n\n")
		for _, a := range r.Artifacts[:min(len(r.Artifacts), maxRows)] {
			fmt.Fprintf(b, "- %s\n", code(a.String()))
		}
		if len(r.Artifacts) > maxRows {
			fmt.Fprintf(b, "- and %d more\n", len(r.Artifacts)-maxRows)
		}
		untrusted(b, r, maxRows)
	}
}

// part is how many manifests of one repository were signed in one way.
type part struct {
	n    int
	task signing.Task // one of them
}

func counted(parts []part, t signing.Task) []part {
	i := slices.IndexFunc(parts, func(p part) bool {
		q := p.task
		return q.Artifact.Repository == t.Artifact.Repository && method(q.Step) == method(t.Step) && q.Step.Key == t.Step.Key && q.Recognised == t.Recognised
	})
	if i < 0 {
		return append(parts, part{1, t})
	}
	parts[i].n++
	return parts
}

// below reports whether a is a manifest below an index that was submitted.
func below(r signing.Request, a signing.Artifact) bool {
	return r.Decision != nil && slices.ContainsFunc(r.Decision.Basis.Children, func(c signing.Artifact) bool {
		return c.Repository == a.Repository && c.Digest == a.Digest && a.Tag == ""
	})
}

// method names the method of a step, and the format of the signature where the
// policy names one.
func method(s signing.Step) string {
	if f := s.Options["format"]; f != "" {
		return s.Method + ", " + f
	}
	return s.Method
}

// deliveries says what the word means: nobody but the job has seen these.
func deliveries(b *strings.Builder, tasks []signing.Task) {
	n := 0
	for _, t := range tasks {
		if t.State == signing.Delivered {
			n++
		}
	}
	if n > 0 {
		fmt.Fprintf(b, "\n⚠️ %s **delivered**, not published: the job wrote and read back what the service signed; the service cannot read that registry.\n", plural(n, "signature is", "signatures are"))
	}
}

func result(t signing.Task) string {
	switch {
	case t.State == signing.Published && t.Recognised:
		return "already signed"
	case t.State == signing.Published:
		return "signed"
	case t.State == signing.Delivered:
		return "delivered by the job"
	case t.State == signing.TaskFailed && t.Failure != nil:
		return "failed: " + escape(t.Failure.Message)
	default:
		return escape(string(t.State))
	}
}

var reKeyID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// verify prints commands that can be pasted, for each method.
func verify(b *strings.Builder, r signing.Request, tasks []signing.Task) {
	verifyCosign(b, r, tasks)
	verifyNotation(b, r, tasks)
	verifySimple(b, r, tasks)
}

// verifiable reports whether a verifier finds the signature, and whether what
// names it is well-formed: it would reach a shell.
func verifiable(r signing.Request, t signing.Task) bool {
	return (t.State == signing.Published || t.State == signing.Delivered) && reKeyID.MatchString(t.Step.Key) && t.Artifact.Validate() == nil &&
		!below(r, t.Artifact) // the command for the index is the one that is needed
}

// verifyNotation prints one command for each image.
func verifyNotation(b *strings.Builder, r signing.Request, tasks []signing.Task) {
	var images []string
	for _, t := range tasks {
		image := string(t.Artifact.Repository) + "@" + string(t.Artifact.Digest)
		if t.Step.Method == "notation" && verifiable(r, t) && !slices.Contains(images, image) {
			images = append(images, image)
		}
	}
	if len(images) == 0 {
		return
	}
	b.WriteString("\n#### Verify with notation\n\nOnce the certificate and the trust policy that `/v1/trust` has for the key are in place (`notation cert add`, `notation policy import`):\n\n")
	lines := make([]string, 0, len(images))
	for _, image := range images[:min(len(images), maxImages)] {
		lines = append(lines, "notation verify "+image)
	}
	if len(images) > maxImages {
		lines = append(lines, fmt.Sprintf("# and %d more images", len(images)-maxImages))
	}
	b.WriteString(fence(strings.Join(lines, "\n"), "sh"))
}

// verifyCosign prints one command for each key.
func verifyCosign(b *strings.Builder, r signing.Request, tasks []signing.Task) {
	byKey := map[string][]string{}
	var keys []string
	bundles := false
	for _, t := range tasks {
		if t.Step.Method != "cosign" || !verifiable(r, t) {
			continue
		}
		image := string(t.Artifact.Repository) + "@" + string(t.Artifact.Digest)
		bundles = bundles || t.Step.Options["format"] == "bundle"
		if !slices.Contains(keys, t.Step.Key) {
			keys = append(keys, t.Step.Key)
		}
		if !slices.Contains(byKey[t.Step.Key], image) {
			byKey[t.Step.Key] = append(byKey[t.Step.Key], image)
		}
	}
	if len(keys) == 0 {
		return
	}
	b.WriteString("\n#### Verify\n\nWith the service's public keys, each saved from `/v1/trust/keys/KEY` as `KEY.pub`; no account and no transparency log:\n\n")
	var lines []string
	for _, k := range keys {
		images := byKey[k]
		command := fmt.Sprintf("cosign verify --key %s.pub --insecure-ignore-tlog=true", k)
		for _, image := range images[:min(len(images), maxImages)] {
			command += " \\\n  " + image
		}
		lines = append(lines, command)
		if len(images) > maxImages {
			lines = append(lines, fmt.Sprintf("# and %d more images", len(images)-maxImages))
		}
	}
	if bundles {
		lines = append(lines, "# cosign 2 also needs --trusted-root FILE, as made by cosign 3: cosign trusted-root create --out FILE")
	}
	b.WriteString(fence(strings.Join(lines, "\n"), "sh"))
}

// code returns text as a code span: nothing in it is markup, a mention or a
// link. It is "" for no text.
func code(s string) string {
	s = clean(s)
	if s == "" {
		return ""
	}
	ticks := strings.Repeat("`", longest(s)+1)
	if strings.HasPrefix(s, "`") || strings.HasSuffix(s, "`") {
		s = " " + s + " "
	}
	return ticks + s + ticks
}

// cell is code within a table, where a pipe ends the cell even in code, and a
// backslash before an escaped one would undo the escape.
func cell(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(code(s), `\|`, `\¦`), "|", `\|`)
}

// escape returns text in which nothing is markup. Mentions and links are made
// from the rendered text, so that a backslash does not stop them: a zero-width
// space does.
func escape(s string) string {
	var b strings.Builder
	for _, r := range strings.ReplaceAll(clean(s), "://", ":\u200b//") {
		switch {
		case r == '&':
			b.WriteString("&amp;")
		case r == '<':
			b.WriteString("&lt;")
		case r == '>':
			b.WriteString("&gt;")
		case r == '@' || r == '#':
			b.WriteString(`\` + string(r) + "\u200b")
		case strings.ContainsRune("\\`*_{}[]()!|~^$+-=", r):
			b.WriteString(`\` + string(r))
		default:
			b.WriteRune(r)
		}
	}
	return strings.ReplaceAll(b.String(), "www.", "www\u200b.")
}

// fence returns text as a code block, lines kept.
func fence(s, language string) string {
	if len(s) > maxCheckpoint {
		s = s[:maxCheckpoint] + "\n..."
	}
	s = strings.Map(func(r rune) rune {
		if r != '\n' && unprintable(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	ticks := strings.Repeat("`", max(3, longest(s)+1))
	return ticks + language + "\n" + strings.TrimRight(s, "\n") + "\n" + ticks + "\n"
}

// longest returns the length of the longest run of backticks.
func longest(s string) int {
	most, run := 0, 0
	for _, r := range s {
		if r != '`' {
			run = 0
			continue
		}
		run++
		most = max(most, run)
	}
	return most
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
