package view

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// RequestText writes a Request and its Tasks: what was asked for, from where,
// what was decided and why, and where the signatures are.
func RequestText(w io.Writer, r signing.Request, tasks []signing.Task, colour bool) {
	t := &printer{colour: colour}
	row := func(name, text string) {
		if text != "" {
			fmt.Fprintf(t, "%-11s %s\n", name, t.line(text))
		}
	}
	row("request", r.ID)
	row("state", strings.ReplaceAll(string(r.State), "_", " "))
	if r.CancelRequested && !r.State.Terminal() {
		row("canceling", "no key is used for it any more")
	}
	row("project", r.Project)
	row("policy", r.Policy)
	row("submitted", stamp(r.Submitted))
	row("deadline", stamp(r.Deadline))
	row("ended", stamp(r.Ended))
	o := r.Origin
	row("repository", strings.TrimPrefix(o.Forge+"/"+o.SourceRepository, "/"))
	row("ref", o.SourceRepositoryRef)
	row("commit", o.SourceRepositoryDigest)
	row("trigger", o.BuildTrigger)
	row("run", o.RunInvocationURI)
	if r.List != nil {
		row("list", fmt.Sprintf("made %s, file %s", stamp(r.List.Made), r.List.Digest))
	}
	if n := r.Renewal; n != nil {
		row("renewal", fmt.Sprintf("of %s in %s, which ends %s", n.Part, n.Repository, stamp(n.Expires)))
	}
	row("source", r.Source)
	for _, a := range r.Artifacts {
		row("artifact", a.String())
	}
	for _, a := range r.Untrust {
		row("untrust", a.String())
	}
	for _, k := range tasks {
		row("signature", fmt.Sprintf("%s with %s: %s (%s)", k.Step.Method, k.Step.Key, k.State, subject(k)))
		for _, line := range differences(k) {
			row("", line)
		}
		for _, l := range k.Locations {
			row("", l.URI)
		}
		t.failure(k.Failure)
	}
	t.failure(r.Failure)
	_, _ = io.WriteString(w, t.String()) // for people: a closed terminal is no failure
	if r.Decision != nil {
		Text(w, r.Decision.Reasons, colour)
	}
}

// RequestLine returns a Request as one line of a list. artifact stands for all n.
func RequestLine(r signing.Request, artifact signing.Artifact, n int) string {
	t := &printer{}
	what := artifact.String()
	if n > 1 {
		what += fmt.Sprintf(" and %d more", n-1)
	}
	project := r.Project
	if project == "" {
		project = "-"
	}
	return t.line(fmt.Sprintf("%s  %s  %-17s %s/%s  %s %s  %s", r.ID, stamp(r.Submitted), r.State, project, r.Policy, r.Origin.SourceRepository, r.Origin.SourceRepositoryRef, what))
}

func (t *printer) failure(e *signing.Error) {
	if e == nil {
		return
	}
	for _, part := range []struct{ name, text string }{{"failure", e.Message}, {"  expected", e.Expected}, {"  found", e.Found}, {"  to fix it", e.Fix}} {
		if part.text != "" {
			fmt.Fprintf(t, "%-11s %s\n", part.name, t.line(part.text))
		}
	}
}

func stamp(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return at.UTC().Format(time.RFC3339)
}
