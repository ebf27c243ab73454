package facts

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
)

// answers is a forge that answers what it is told to, and remembers the question.
type answers struct {
	facts *signing.ForgeFacts
	err   error
	asked []signing.ForgeQuestion
}

func (a *answers) Ask(_ context.Context, _ signing.Origin, _ []signing.Artifact, q signing.ForgeQuestion) (*signing.ForgeFacts, error) {
	a.asked = append(a.asked, q)
	return a.facts, a.err
}

func (a *answers) PolicyFile(context.Context, forge.Repository, string) (*signing.PolicyFileFacts, error) {
	panic("nobody reads one file")
}

func (a *answers) Compare(context.Context, forge.Repository, string, string) (forge.Comparison, error) {
	return forge.Comparison{}, errors.New("not asked here")
}

var build = signing.Origin{Forge: "github.com", Kind: "github", SourceRepositoryDigest: "6dcb", BuildSignerURI: "https://github.com/acme/builders/.github/workflows/c.yml@refs/tags/v1"}

func everything() signing.ForgeQuestion {
	return signing.ForgeQuestion{Run: true, Ref: true, Branches: []string{"refs/heads/main"}, Since: true, Pulls: true, Commit: true, Environment: true, Checks: true, CheckNames: []string{"test"}, Inputs: true, Attestation: true, WorkflowFile: true, PolicyFile: true, BuilderRepository: signing.BuilderOfJob}
}

func TestNothingIsAskedWhereNoRuleAsks(t *testing.T) {
	a := &answers{}
	f, seen, err := Ask(t.Context(), a, build, nil, signing.ForgeQuestion{})
	if f != nil || seen != nil || err != nil || len(a.asked) != 0 {
		t.Errorf("%v, %v, %v after %d questions", f, seen, err, len(a.asked))
	}
}

func TestAnAnswerIsRecordedWithWhatWasAskedOfWhom(t *testing.T) {
	at := time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)
	a := &answers{facts: &signing.ForgeFacts{Forge: "github.com", At: at, Run: &signing.RunFacts{ID: "9"}, Unknown: map[string]string{"checks": "no permission"}, Asked: []signing.Observation{{Source: "forge", What: "GET /repositories/74", At: at}}}}
	f, seen, err := Ask(t.Context(), a, build, nil, everything())
	if err != nil {
		t.Fatal(err)
	}
	want := []signing.Observation{{Source: "forge", What: "GET /repositories/74", At: at}, {Source: "forge", What: "github.com did not answer checks: no permission", At: at}}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Error(diff)
	}
	if f.Run.ID != "9" || f.Unknown["checks"] != "no permission" {
		t.Errorf("%+v", f)
	}
	q := everything()
	q.BuilderRepository = "acme/builders" // of the file that defines the job
	if diff := cmp.Diff([]signing.ForgeQuestion{q}, a.asked); diff != "" {
		t.Error(diff)
	}
}

func TestAForgeThatCannotBeReachedIsNoAnswer(t *testing.T) {
	a := &answers{facts: &signing.ForgeFacts{Forge: "github.com"}, err: &signing.Error{Code: signing.Unavailable, Message: "502"}}
	f, seen, err := Ask(t.Context(), a, build, nil, everything())
	if f != nil || seen != nil || !signing.Temporary(err) {
		t.Errorf("%v, %v, %v", f, seen, err)
	}
}

func TestAnAnswerOfAnotherForgeIsRefused(t *testing.T) {
	for _, facts := range []*signing.ForgeFacts{nil, {Forge: "ghe.acme.dev"}} {
		if f, _, err := Ask(t.Context(), &answers{facts: facts}, build, nil, everything()); err == nil || f != nil {
			t.Errorf("%v: taken for an answer: %v", facts, f)
		}
	}
}

// What the token does not state is not asked for, and there is no answer to it.
func TestNothingIsAskedAboutACommitOrARunThatTheTokenDoesNotState(t *testing.T) {
	parts := func(f *signing.ForgeFacts) []string {
		var out []string
		for p := range f.Unknown {
			out = append(out, p)
		}
		slices.Sort(out)
		return out
	}
	a := &answers{facts: &signing.ForgeFacts{Forge: "github.com"}}
	o := build
	o.SourceRepositoryDigest = ""
	f, _, err := Ask(t.Context(), a, o, nil, everything())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"branches refs/heads/main", "checks", "commit", "pulls", "ref"}, parts(f)); diff != "" {
		t.Error(diff)
	}
	if q := a.asked[0]; q.Ref || q.Pulls || q.Commit || q.Checks || len(q.Branches)+len(q.CheckNames) > 0 || !q.Run || !q.PolicyFile {
		t.Errorf("asked %+v", q)
	}
	o = build
	o.Kind, o.BuildSignerURI = "buildkite", ""
	if f, _, err = Ask(t.Context(), a, o, nil, everything()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"attestation", "builder", "environment", "inputs", "run", "workflow_file"}, parts(f)); diff != "" {
		t.Error(diff)
	}
	// Where nothing is left to ask, nobody is bothered.
	before := len(a.asked)
	if f, _, err = Ask(t.Context(), a, o, nil, signing.ForgeQuestion{Run: true}); err != nil || len(a.asked) != before || f.Unknown["run"] == "" {
		t.Errorf("%+v, %v after %d questions more", f, err, len(a.asked)-before)
	}
}

func TestAnAnswerOfTooMuchIsNoAnswer(t *testing.T) {
	names := make([]string, 10_000)
	for i := range names {
		names[i] = fmt.Sprint(i)
	}
	people := make([]signing.Account, 10_000)
	reviews := make([]signing.Review, 10_000)
	text := []byte(strings.Repeat("#", MaxPolicyFile+1))
	a := &answers{facts: &signing.ForgeFacts{
		Forge: "github.com", Run: &signing.RunFacts{RunnerLabels: names}, Ref: &signing.RefFacts{Bypass: names},
		Branches: []signing.RefFacts{{Ref: "refs/heads/main", Rules: names}, {Ref: "refs/heads/next"}}, Pulls: &signing.PullFacts{Pulls: []signing.PullRequest{{Authors: people}}},
		Commit: &signing.CommitFacts{Unmapped: names}, Environment: &signing.EnvironmentFacts{Approved: reviews}, Checks: &signing.CheckFacts{Checks: make([]signing.CheckResult, 10_000)},
		Inputs: &signing.InputFacts{Names: names}, Attestations: &signing.AttestationFacts{Verified: make([]signing.Attestation, 10_000)},
		PolicyFile: &signing.PolicyFileFacts{Exists: true, Text: text, Digest: signing.DigestOf(text)},
		Asked:      make([]signing.Observation, 10_000), Unknown: map[string]string{"workflow_file": strings.Repeat("x", 1<<20)},
	}}
	f, seen, err := Ask(t.Context(), a, build, nil, everything())
	if err != nil {
		t.Fatal(err)
	}
	if f.Run != nil || f.Ref != nil || len(f.Branches) != 1 || f.Pulls != nil || f.Commit != nil || f.Environment != nil || f.Checks != nil || f.Inputs != nil || f.Attestations != nil || f.PolicyFile != nil {
		t.Errorf("kept: %+v", f)
	}
	for _, part := range []string{"run", "ref", "branches refs/heads/main", "pulls", "commit", "environment", "checks", "inputs", "attestation", "policy_file"} {
		if !strings.Contains(f.Unknown[part], "at most") {
			t.Errorf("%s: %q", part, f.Unknown[part])
		}
	}
	if len(f.Unknown["workflow_file"]) > 2*maxWord || len(f.Asked) > MaxAsked || len(seen) > MaxAsked+20 {
		t.Error("text is not bounded")
	}
	if a.facts.Run == nil {
		t.Error("the forge's own answer was changed, which it may have kept")
	}
}

func TestAPolicyFileThatIsNotWhatItsDigestSaysIsNoAnswer(t *testing.T) {
	a := &answers{facts: &signing.ForgeFacts{Forge: "github.com", PolicyFile: &signing.PolicyFileFacts{Exists: true, Text: []byte("a"), Digest: signing.DigestOf([]byte("b"))}}}
	f, _, err := Ask(t.Context(), a, build, nil, everything())
	if err != nil || f.PolicyFile != nil || !strings.Contains(f.Unknown["policy_file"], "another digest") {
		t.Errorf("%+v, %v", f, err)
	}
}
