package view

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/sealwright/sealwright/internal/signing"
)

// outcome says where a Request stands that nobody is asked about any more, or
// about which nobody is asked.
func outcome(b *strings.Builder, q Asked, room limits) {
	r := q.Request
	said := headline(q)
	fmt.Fprintf(b, "### %s %s\n\n", symbol(q), strings.ToUpper(said[:1])+said[1:])
	fmt.Fprintf(b, "Policy %s, request %s\n", name(r.Project+"/"+r.Policy), code(r.ID))
	if q.Superseded != "" {
		fmt.Fprintf(b, "\nReplaced by %s, a newer request of the same branch or tag. Codes of this one do not count any more.\n", code(q.Superseded))
	}
	if d := q.Tally.Denied; d != nil {
		fmt.Fprintf(b, "\nDenied by %s", giver(*d))
		if d.Reason != "" {
			fmt.Fprintf(b, ": %s", code(clipped(d.Reason, 5*maxName)))
		}
		b.WriteString("\n")
	}
	if f := r.Failure; f != nil && q.Superseded == "" {
		b.WriteString("\n")
		single(b, short(signing.Reason{Rule: f.Message, Wanted: f.Expected, Found: f.Found, Fix: f.Fix}))
	}
	if d := r.Decision; d != nil && d.Effect == signing.Deny {
		refused(b, d.Reasons, room)
	}
	approved(b, q, room)
	if len(q.Tasks) > 0 {
		b.WriteString("\n#### Signatures\n\n")
		signatures(b, q, room)
		deliveries(b, q.Tasks)
		if r.State == signing.Completed && room.verify {
			verify(b, r, q.Tasks)
		}
	} else {
		b.WriteString("\n#### Images\n\n")
		signed(b, q, room)
	}
	b.WriteString("\n#### From where\n\n")
	from(b, q, room)
}

// refused lists the rules that failed, without a table: it would be wide.
func refused(b *strings.Builder, d signing.Reason, room limits) {
	failed := d.Failures()
	for _, f := range failed[:min(len(failed), room.people)] {
		b.WriteString("\n")
		single(b, short(f))
	}
	if n := len(failed) - room.people; n > 0 {
		fmt.Fprintf(b, "\nand %d more.\n", n)
	}
}

// short is a Reason of which each text fits a phone.
func short(r signing.Reason) signing.Reason {
	r.Rule, r.Wanted, r.Found, r.Fix = clipped(r.Rule, 2*maxName), clipped(r.Wanted, 4*maxName), clipped(r.Found, 4*maxName), clipped(r.Fix, 4*maxName)
	return r
}

// approved says who approved, in which way and when.
func approved(b *strings.Builder, q Asked, room limits) {
	counted := map[string]bool{}
	for _, g := range q.Tally.Groups {
		for _, p := range g.People {
			counted[p] = true
		}
	}
	for _, p := range q.Tally.BreakGlass {
		counted[p] = true
	}
	if len(counted) == 0 {
		return
	}
	b.WriteString("\nApproved by:\n\n")
	n := 0
	for _, a := range q.Request.Approvals {
		if a.Deny || !counted[a.Person] {
			continue
		}
		counted[a.Person] = false // once
		if n++; n <= room.people {
			fmt.Fprintf(b, "- %s, %s, %s\n", giver(a), way(a.Via), minute(a.At))
		}
	}
	if n > room.people {
		fmt.Fprintf(b, "- and %d more\n", n-room.people)
	}
}

// way says for people how somebody approved.
func way(via string) string {
	switch via {
	case signing.ViaComment:
		return "by comment"
	case signing.ViaCheckRun:
		return "by the button of the check"
	case signing.ViaReview:
		return "by review"
	case signing.ViaAPI:
		return "by `sealwright approve`"
	case signing.ViaBreakGlass:
		return "🚨 in an emergency"
	default:
		return escape(via)
	}
}

// signatures lists the Tasks by artifact, without a table. What is below an index
// and went well is counted, not listed; where signatures are is folded away.
func signatures(b *strings.Builder, q Asked, room limits) {
	var parts []part
	var order []string
	rows, heads, where := map[string][]string{}, map[string]string{}, []string{}
	for _, t := range q.Tasks {
		if t.State == signing.Published && below(q.Request, t.Artifact) {
			parts = counted(parts, t)
			continue
		}
		id := subject(t)
		if heads[id] == "" {
			order = append(order, id)
			heads[id] = "- " + code(string(t.Artifact.Repository)) + "\\\n  " + code(cmp.Or(string(t.Artifact.Digest), t.Part))
			if t.Artifact.Tag != "" {
				heads[id] += "\\\n  signed tag " + code(t.Artifact.Tag)
			}
			heads[id] += "\n"
		}
		rows[id] = append(rows[id], fmt.Sprintf("  - %s, %s: **%s**\n", escape(clipped(method(t.Step), maxName)), name(t.Step.Key), clippedResult(t)))
		for _, line := range differences(t) {
			rows[id] = append(rows[id], "    - "+code(line)+"\n")
		}
		for _, l := range t.Locations {
			where = append(where, "- "+code(l.URI)+"\n")
		}
	}
	var list []string
	for _, id := range order {
		list = append(list, heads[id]+some(rows[id], maxListed, "  - and %d more\n"))
	}
	for _, p := range parts {
		list = append(list, fmt.Sprintf("- and %s below, in %s\n", plural(p.n, "manifest", "manifests"), name(string(p.task.Artifact.Repository))))
	}
	b.WriteString(strings.Join(list[:min(len(list), room.images)], ""))
	if rest := list[min(len(list), room.images):]; len(rest) > 0 {
		fmt.Fprintf(b, "\n<details><summary>and %s</summary>\n\n%s\n</details>\n", plural(len(rest), "more image", "more images"), some(rest, room.folded, "- and %d more\n"))
	}
	if len(where) > 0 && room.folded > 0 {
		fmt.Fprintf(b, "\n<details><summary>Where the signatures are</summary>\n\n%s\n</details>\n", some(where, room.folded, "- and %d more\n"))
	}
}

// some joins at most `most` lines and counts the rest.
func some(lines []string, most int, more string) string {
	if n := len(lines) - most; n > 0 {
		return strings.Join(lines[:most], "") + fmt.Sprintf(more, n)
	}
	return strings.Join(lines, "")
}

func clippedResult(t signing.Task) string {
	if t.Failure == nil {
		return result(t)
	}
	f := *t.Failure
	f.Message = clipped(f.Message, 2*maxName)
	t.Failure = &f
	return result(t)
}

// headline says in a few plain words where a Request stands. It holds no text of
// strangers.
func headline(q Asked) string {
	r := q.Request
	images := things(r)
	if q.Superseded != "" {
		return "superseded: " + images + " not signed"
	}
	switch r.State {
	case signing.AwaitingApproval:
		have, need := 0, 0
		for _, g := range q.Tally.Groups {
			have, need = have+len(g.People), need+g.Required
		}
		return fmt.Sprintf("waiting for approval of %s: %d of %d", images, have, need)
	case signing.Completed:
		if len(r.Untrust) > 0 {
			return "done: " + asksFor(r)
		}
		return "signed " + images
	case signing.RequestDenied:
		if q.Tally.Denied != nil {
			return "denied by a person: " + images + " not signed"
		}
		return "denied: " + images + " not signed"
	case signing.Failed:
		return fmt.Sprintf("failed: %d of %d signatures made", made(q.Tasks), len(q.Tasks))
	case signing.Canceled:
		return "canceled: " + images + " not signed"
	case signing.RequestExpired:
		return "expired: " + images + " not signed in time"
	case signing.Ready, signing.Signing:
		if r.CancelRequested {
			return "canceling: no key is used any more"
		}
		if len(q.Tasks) > 0 {
			return fmt.Sprintf("signing %s: %d of %d signatures made", images, made(q.Tasks), len(q.Tasks))
		}
		return "signing " + images
	case signing.Pending:
		return "deciding about " + images
	default:
		return "in a state that is not known"
	}
}

func symbol(q Asked) string {
	if q.Superseded != "" {
		return "⏭️"
	}
	switch q.Request.State {
	case signing.Completed:
		return "✅"
	case signing.AwaitingApproval:
		return "🖋️"
	case signing.RequestDenied, signing.Failed, signing.RequestExpired:
		return "❌"
	case signing.Canceled:
		return "🚫"
	default:
		return "⏳"
	}
}

func made(tasks []signing.Task) (n int) {
	for _, t := range tasks {
		if t.State == signing.Published || t.State == signing.Delivered {
			n++
		}
	}
	return n
}
