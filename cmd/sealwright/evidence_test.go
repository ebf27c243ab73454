package main

import (
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/signing"
)

func TestWhoApprovedAndWhichRulesPassedAreTold(t *testing.T) {
	t.Parallel()
	reasons := signing.Reason{Rule: "policies.release", Pass: true, Children: []signing.Reason{{Rule: "origin.refs", Pass: true}, {Rule: "approvals.quorum", Pass: true}}}
	ann := signing.Approval{Person: "ann", Via: signing.ViaComment}
	no := ann
	no.Deny = true
	for name, c := range map[string]struct {
		effect    signing.Effect
		approvals []signing.Approval
		want      []string
	}{
		"approved":    {signing.NeedsApproval, []signing.Approval{ann}, []string{"needs_approval by policy release: origin.refs, approvals.quorum", "approved     by ann via comment"}},
		"denied":      {signing.NeedsApproval, []signing.Approval{no}, []string{"denied       by ann via comment"}},
		"waits":       {signing.NeedsApproval, nil, []string{"by nobody yet"}},
		"nobody asks": {signing.Allow, nil, []string{"allow by policy release: origin.refs", "did not ask for it"}},
	} {
		var b strings.Builder
		printOrigin(&b, signing.Request{Policy: "release", Decision: &signing.Decision{Effect: c.effect, Reasons: reasons}, Approvals: c.approvals})
		for _, want := range c.want {
			if !strings.Contains(b.String(), want) {
				t.Errorf("%s: no %q in\n%s", name, want, b.String())
			}
		}
		if len(c.approvals) == 1 && c.approvals[0].Deny && strings.Contains(b.String(), "approved ") {
			t.Errorf("%s: a denial is told as an approval:\n%s", name, b.String())
		}
	}
}
