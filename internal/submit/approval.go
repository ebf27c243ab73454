package submit

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/ci"
	"github.com/sealwright/sealwright/internal/signing"
)

// quorum says how far people are, in brackets; nothing where that is not known.
func quorum(a *api.Approval) string {
	if a == nil || len(a.Groups) == 0 {
		return ""
	}
	var parts []string
	for _, g := range a.Groups {
		parts = append(parts, fmt.Sprintf("%d of %d from %s", g.Given, g.Required, ci.Clean(strings.Join(g.From, ", "))))
	}
	return " (" + strings.Join(parts, "; ") + ")"
}

// askedAt is where people are asked, empty before they were.
func askedAt(a *api.Approval) string {
	if a == nil {
		return ""
	}
	return ci.Clean(cmp.Or(a.Comment, a.URL))
}

// showPlace says, once, where people are asked for approval: the thread is known
// before the question in it has an address.
func (s *step) showPlace() {
	at := askedAt(s.request.Approval)
	if s.request.State != signing.AwaitingApproval || at == "" || s.place != "" {
		return
	}
	s.place = at
	s.progress.end()
	s.CI.Print("approve or deny it at " + at + "\n")
	s.CI.Annotate(ci.LevelNotice, "Sealwright asks for approval", "approve or deny it at "+at)
}

// approvalMarkdown is the part of the summary that says where people are asked.
func approvalMarkdown(r api.Request) string {
	if r.State != signing.AwaitingApproval || r.Approval == nil {
		return ""
	}
	text := "\n\nWaits for people.\n"
	if q := strings.TrimSpace(quorum(r.Approval)); q != "" {
		text = "\n\nWaits for people: `" + strings.ReplaceAll(q, "`", "'") + "`.\n"
	}
	if at := askedAt(r.Approval); strings.HasPrefix(at, "https://") && !strings.ContainsAny(at, " <>\"'`()[]\\\n") {
		text += "\nApprove or deny it [where it was asked](" + at + ").\n"
	}
	return text
}
