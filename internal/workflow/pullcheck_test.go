package workflow_test

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	forges "github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
	"github.com/sealwright/sealwright/internal/workflow"
)

const (
	pullHead = "0123456789abcdef0123456789abcdef01234567"
	// nextOnly refuses every build of main.
	nextOnly = "apiVersion: sealwright.dev/v1\npolicies: {all: {origin: {refs: [refs/heads/next]}}}\n"
)

// pulled is the event of a pull request whose head is pullHead.
func pulled(number string) forges.Event {
	t := thread(number)
	return forges.Event{Kind: forges.EventPull, Repository: forges.Repository{ID: t.RepositoryID, Name: t.Repository}, Thread: t, Commit: pullHead}
}

// signs has an image of the repository signed, and returns its request.
func (p *parlour) signs() string {
	p.t.Helper()
	r, capability := submit(p.t, p.s, p.t.Name(), p.e.Image(p.t.Name()))
	if got := finish(p.t, p.s, r.ID, capability); got.State != signing.Completed {
		p.t.Fatalf("the request is %s: %+v", got.State, got.Failure)
	}
	return r.ID
}

// policyCheck returns the one check of the repository's policy.
func (p *parlour) policyCheck() forges.Check {
	p.t.Helper()
	var out []forges.Check
	for _, c := range p.forge.Checks() {
		if c.Name == "sealwright/policy" {
			out = append(out, c)
		}
	}
	if len(out) != 1 || out[0].Commit != pullHead || out[0].Key == "" || len(out[0].Buttons) > 0 {
		p.t.Fatalf("the checks of the policy: %+v", out)
	}
	return out[0]
}

func (p *parlour) says(c forges.Check, state forges.CheckState, title string, words ...string) {
	p.t.Helper()
	if c.State != state || c.Title != title {
		p.t.Errorf("the check is %s %q, want %s %q", c.State, c.Title, state, title)
	}
	for _, w := range words {
		if !strings.Contains(c.Summary, w) {
			p.t.Errorf("the summary lacks %q:\n%s", w, c.Summary)
		}
	}
}

func TestAPullRequestIsToldWhatItsPolicyWouldHaveRefused(t *testing.T) {
	p := newParlour(t, time.Hour)
	id := p.signs()
	p.forge.Policy(pullHead, []byte(nextOnly))
	p.becomes(pulled("7"), workflow.HeardPolicy)
	p.says(p.policyCheck(), forges.CheckNeutral, "of 1 request: 1 newly refused, 0 not refused any more, 0 with other approvals",
		"is not on the default branch yet", id, "repository_policy.origin.refs", "refs/heads/next")
	// Another delivery of the same commit writes the same check.
	p.becomes(pulled("8"), workflow.HeardPolicy)
	p.policyCheck()
	// And what goes is told as well.
	p.forge.Policy("", []byte(nextOnly))
	p.forge.Policy(pullHead, nil)
	p.becomes(pulled("9"), workflow.HeardPolicy)
	p.says(p.policyCheck(), forges.CheckNeutral, "of 1 request: 0 newly refused, 1 not refused any more, 0 with other approvals", "is not there at this commit", "can only narrow")
}

func TestAPullRequestIsToldWhomItsPolicyWouldAsk(t *testing.T) {
	p := newParlour(t, time.Hour)
	p.signs()
	p.forge.Policy("", []byte(nextOnly))
	p.forge.Policy(pullHead, []byte("apiVersion: sealwright.dev/v1\npolicies: {release: {approvals: {required: 2, from: [\"github.test:acme/owners\"]}}}\n"))
	p.becomes(pulled("7"), workflow.HeardPolicy)
	p.says(p.policyCheck(), forges.CheckNeutral, "of 1 request: 0 newly refused, 1 not refused any more, 0 with other approvals")
	p.forge.Policy("", nil)
	p.becomes(pulled("8"), workflow.HeardPolicy)
	p.says(p.policyCheck(), forges.CheckNeutral, "of 1 request: 0 newly refused, 0 not refused any more, 1 with other approvals", "then: 2 of `github.test:acme/owners`", "now: nobody is asked")
}

func TestAPolicyThatDoesNotLoadFailsTheCheckOfItsPullRequest(t *testing.T) {
	p := newParlour(t, time.Hour)
	p.forge.Policy(pullHead, []byte("apiVersion: sealwright.dev/v1\npolicies:\n  all:\n    keys: [release]\n"))
	p.becomes(pulled("7"), workflow.HeardPolicy)
	c := p.policyCheck()
	p.says(c, forges.CheckFailed, "the policy does not load: once merged, it refuses every request", "keys")
	if len(c.Notes) != 1 || c.Notes[0].Path != ".sealwright/policy.yml" || c.Notes[0].Line != 4 || !strings.Contains(c.Notes[0].Message, "keys") {
		t.Errorf("annotations: %+v", c.Notes)
	}
}

func TestAPullRequestThatChangesNoPolicyIsToldNothing(t *testing.T) {
	p := newParlour(t, time.Hour)
	p.forge.Policy(pullHead, nil)
	p.becomes(pulled("7"), workflow.HeardIgnored)
	p.forge.Policy("", []byte(nextOnly))
	p.forge.Policy(pullHead, []byte(nextOnly))
	p.becomes(pulled("8"), workflow.HeardIgnored)
	if c := p.forge.Checks(); len(c) > 0 {
		t.Errorf("checks: %+v", c)
	}
}

func TestAPullRequestOfARepositoryThatNoProjectHasIsNotEvenStored(t *testing.T) {
	p := newParlour(t, time.Hour)
	stranger, headless := pulled("7"), pulled("7")
	stranger.Repository.ID, headless.Commit = "75", ""
	for name, e := range map[string]forges.Event{"another repository": stranger, "no commit": headless} {
		if got := p.receive(e); got != workflow.HeardIgnored {
			t.Errorf("%s is %s", name, got)
		}
	}
}

func TestAHeadThatCannotBeReadIsSaidToBeUnknown(t *testing.T) {
	p := newParlour(t, time.Hour)
	p.becomes(pulled("7"), workflow.HeardPolicy) // Memory has no such commit
	p.says(p.policyCheck(), forges.CheckNeutral, "the policy of this commit cannot be read", "no such commit", "is not known")
}

// TestAForgeThatHangsDelaysOnlyTheChecksOfPolicies: more pull requests than there
// are workers for deliveries hang, and an approval that comes meanwhile is read.
// What failed is tried again.
func TestAForgeThatHangsDelaysOnlyTheChecksOfPolicies(t *testing.T) {
	const many = 20
	p := newParlour(t, time.Hour)
	r := p.waits(thread("7"))
	p.forge.Policy(pullHead, []byte(nextOnly))
	answers := make(chan struct{})
	p.forge.OnPolicy(func(ctx context.Context) error {
		select {
		case <-answers:
		case <-ctx.Done():
		}
		return &signing.Error{Code: signing.Unavailable, Message: "down"}
	})
	for i := range many {
		if got := p.receive(pulled(strconv.Itoa(100 + i))); got != workflow.HeardStored {
			t.Fatal(got)
		}
	}
	p.next(many)
	c := p.forge.Say(thread("7"), p.ann, "/sealwright approve "+r.ID+" 00000000")
	p.becomes(testenv.About(thread("7"), c), workflow.HeardRefused)
	if got := p.forge.Checks(); len(got) > 0 {
		t.Fatalf("checks of a forge that is down: %+v", got)
	}
	p.forge.OnPolicy(nil)
	close(answers)
	for _, got := range p.next(many) {
		if got != workflow.HeardPolicy {
			t.Errorf("it became %s", got)
		}
	}
	p.says(p.policyCheck(), forges.CheckNeutral, "the policy loads; of none of 1 request can be told what would change", "does not answer for the images")
}
