package submit_test

import (
	"os"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/submit"
)

// asks makes the request wait for people who were asked at url.
func asks(url string) func(*signing.Request, []signing.Task) []signing.Task {
	return func(r *signing.Request, _ []signing.Task) []signing.Task {
		r.State = signing.AwaitingApproval
		r.Decision = &signing.Decision{Effect: signing.NeedsApproval, Reasons: signing.Reason{Rule: "policies.release", Pass: true}, Approvals: &signing.ApprovalRule{Groups: []signing.ApprovalGroup{{Required: 2, From: []string{"github.com:acme/release`managers"}}}}}
		r.Asking = &signing.Asking{URL: url}
		return nil
	}
}

func TestTheJobShowsWhoIsAskedAndWhere(t *testing.T) {
	const url = "https://github.com/acme/payments-web/pull/7#issuecomment-99"
	w := newWorld(t)
	w.tally.Groups = []signing.GroupTally{{Required: 3, Extra: 1, People: []string{"ann"}}}
	w.steps = []func(*signing.Request, []signing.Task) []signing.Task{asks(url)}
	w.check(w.main(t.Context(), "--timeout", "30s"), submit.ExitTimeout, "awaiting approval (1 of 3 from github.com:acme/release`managers) until", "approve or deny it at "+url)
	for _, text := range []string{"approve or deny it at " + url + "\n", "::notice title=Sealwright asks for approval::"} {
		if n := strings.Count(w.out.String(), text); n == 0 || text[0] != ':' && n != 1 && n != 2 {
			t.Errorf("%q is there %d times:\n%s", text, n, w.out.String())
		}
	}
	summary, err := os.ReadFile(w.env["GITHUB_STEP_SUMMARY"])
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Waits for people: `(1 of 3 from github.com:acme/release'managers)`", "[where it was asked](" + url + ")"} {
		if !strings.Contains(string(summary), want) {
			t.Errorf("the summary has no %q:\n%s", want, summary)
		}
	}
}

func TestAnAddressThatIsNoneIsNotMadeALink(t *testing.T) {
	for _, url := range []string{"javascript:alert(1)", "https://x.example/) [click](https://evil.example", "http://x.example/\n::error::owned"} {
		w := newWorld(t)
		w.steps = []func(*signing.Request, []signing.Task) []signing.Task{asks(url)}
		w.check(w.main(t.Context(), "--timeout", "5s"), submit.ExitTimeout)
		summary, err := os.ReadFile(w.env["GITHUB_STEP_SUMMARY"])
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(summary), "where it was asked") {
			t.Errorf("%q is a link:\n%s", url, summary)
		}
		if strings.Contains(w.out.String(), "\n::error::owned") {
			t.Errorf("%q commands the runner:\n%s", url, w.out.String())
		}
	}
}
