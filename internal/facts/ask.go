package facts

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
)

// Bounds of what a forge may answer: its text is a stranger's in part, is kept in
// the Decision and in evidence, and is held in memory for every waiting Request.
const (
	// MaxPulls bounds the pull requests of a commit, MaxPeople the accounts, reviews
	// and unmapped authors of one.
	MaxPulls  = 50
	MaxPeople = 500
	// MaxResults bounds checks, MaxNames inputs, labels and every other list.
	MaxResults = 500
	MaxNames   = 200
	// MaxPolicyFile bounds a repository's own policy.
	MaxPolicyFile = 64 << 10
	// MaxAsked bounds the observations.
	MaxAsked = 100
	// maxWord bounds one text of a forge.
	maxWord = 1024
)

// Ask asks a forge what question wants to know of a build, and returns the answers
// and what was asked. Nothing is asked, and nil returned, for the zero question.
//
// An error means that the forge could not be asked: signing.Temporary tells
// whether asking again may help. What a forge cannot answer is in Unknown of the
// answers, and so is what it answers in a form that no decision may rest on: too
// much of it, or about another forge.
func Ask(ctx context.Context, from forge.Origin, origin signing.Origin, artifacts []signing.Artifact, question signing.ForgeQuestion) (*signing.ForgeFacts, []signing.Observation, error) {
	if !question.Asks() {
		return nil, nil, nil
	}
	unknown := map[string]string{}
	question = askable(origin, question, unknown)
	answer := &signing.ForgeFacts{Forge: origin.Forge}
	if question.Asks() {
		var err error
		if answer, err = from.Ask(ctx, origin, artifacts, question); err != nil {
			return nil, nil, fmt.Errorf("asking %s about the build: %w", origin.Forge, err)
		}
		if answer == nil || answer.Forge != origin.Forge {
			return nil, nil, &signing.Error{Code: signing.Internal, Message: "another forge answered than the build is of", Expected: origin.Forge, Fix: "check the hosts under `forges` in the configuration"}
		}
	}
	out := *answer
	out.Unknown = maps.Clone(answer.Unknown)
	if out.Unknown == nil {
		out.Unknown = map[string]string{}
	}
	bound(&out)
	maps.Copy(out.Unknown, unknown)
	for part, why := range out.Unknown {
		out.Unknown[part] = cut(why)
	}
	if len(out.Unknown) == 0 {
		out.Unknown = nil
	}
	return &out, observedForge(out), nil
}

// askable takes out of a question what cannot be asked of this build, and says
// why: nothing about a commit that the token does not state, and nothing about a
// run whose CI is not the forge's own.
func askable(o signing.Origin, q signing.ForgeQuestion, unknown map[string]string) signing.ForgeQuestion {
	const noCommit = "the token does not state the commit"
	drop := func(asked *bool, part, why string) {
		if *asked {
			*asked, unknown[part] = false, why
		}
	}
	if o.SourceRepositoryDigest == "" {
		drop(&q.Pulls, signing.PartPulls, noCommit)
		drop(&q.Commit, signing.PartCommit, noCommit)
		drop(&q.Checks, signing.PartChecks, noCommit)
		drop(&q.Ref, signing.PartRef, noCommit)
		for _, b := range q.Branches {
			unknown[signing.PartBranches+" "+b] = noCommit
		}
		q.Branches, q.CheckNames, q.Since = nil, nil, false
	}
	if o.Kind != "github" && o.Kind != "gitlab" {
		const why = "the build is not one of the forge's own CI"
		drop(&q.Run, signing.PartRun, why)
		drop(&q.Environment, signing.PartEnvironment, why)
		drop(&q.Inputs, signing.PartInputs, why)
		drop(&q.Attestation, signing.PartAttestation, why)
		drop(&q.WorkflowFile, signing.PartWorkflowFile, why)
	}
	if q.BuilderRepository == signing.BuilderOfJob {
		// https://FORGE/OWNER/NAME/.github/workflows/FILE@REF
		rest, ok := strings.CutPrefix(o.BuildSignerURI, "https://"+o.Forge+"/")
		parts := strings.SplitN(rest, "/", 3)
		if q.BuilderRepository = ""; ok && len(parts) == 3 && parts[0] != "" && parts[1] != "" {
			q.BuilderRepository = parts[0] + "/" + parts[1]
		} else {
			unknown[signing.PartBuilder] = "the token does not name the repository of the builder"
		}
	}
	return q
}

// bound takes out every part that holds more than its bound: a part of it would
// be another answer.
func bound(f *signing.ForgeFacts) {
	tooMuch := func(part string, n, most int) bool {
		if n > most {
			f.Unknown[part] = fmt.Sprintf("there are %d entries in the answer; at most %d are looked at", n, most)
		}
		return n > most
	}
	if r := f.Run; r != nil && tooMuch(signing.PartRun, max(len(r.Referenced), len(r.RunnerLabels)), MaxNames) {
		f.Run = nil
	}
	if r := f.Ref; r != nil && tooMuch(signing.PartRef, max(len(r.Bypass), len(r.Rules)), MaxNames) {
		f.Ref = nil
	}
	f.Branches = slices.DeleteFunc(slices.Clone(f.Branches), func(r signing.RefFacts) bool {
		return tooMuch(signing.PartBranches+" "+r.Ref, max(len(r.Bypass), len(r.Rules)), MaxNames)
	})
	if p := f.Pulls; p != nil {
		people := 0
		for _, pr := range p.Pulls {
			people = max(people, len(pr.Authors), len(pr.Unmapped), len(pr.Pushers), len(pr.Reviews))
		}
		if tooMuch(signing.PartPulls, len(p.Pulls), MaxPulls) || tooMuch(signing.PartPulls, people, MaxPeople) {
			f.Pulls = nil
		}
	}
	if c := f.Commit; c != nil && tooMuch(signing.PartCommit, max(len(c.Authors), len(c.Unmapped)), MaxPeople) {
		f.Commit = nil
	}
	if e := f.Environment; e != nil && tooMuch(signing.PartEnvironment, max(len(e.Approved), len(e.BranchPatterns)), MaxPeople) {
		f.Environment = nil
	}
	if c := f.Checks; c != nil && tooMuch(signing.PartChecks, len(c.Checks), MaxResults) {
		f.Checks = nil
	}
	if i := f.Inputs; i != nil && tooMuch(signing.PartInputs, len(i.Names), MaxNames) {
		f.Inputs = nil
	}
	if a := f.Attestations; a != nil && tooMuch(signing.PartAttestation, len(a.Verified), 10*signing.MaxArtifacts) {
		f.Attestations = nil
	}
	if p := f.PolicyFile; p != nil {
		switch {
		case len(p.Text) > MaxPolicyFile:
			f.PolicyFile, f.Unknown[signing.PartPolicyFile] = nil, fmt.Sprintf("the file has %d bytes; at most %d are read", len(p.Text), MaxPolicyFile)
		case p.Exists && signing.DigestOf(p.Text) != p.Digest:
			f.PolicyFile, f.Unknown[signing.PartPolicyFile] = nil, "the file has another digest than the answer says"
		}
	}
	if len(f.Asked) > MaxAsked {
		f.Asked = f.Asked[:MaxAsked]
	}
}

func cut(s string) string {
	if len(s) > maxWord {
		return strings.ToValidUTF8(s[:maxWord], "") + "..."
	}
	return s
}

// observedForge says what was asked of the forge, and what it could not answer.
func observedForge(f signing.ForgeFacts) []signing.Observation {
	var out []signing.Observation
	for _, o := range f.Asked {
		out = append(out, signing.Observation{Source: "forge", What: cut(o.What), At: o.At})
	}
	for _, part := range slices.Sorted(maps.Keys(f.Unknown)) {
		out = append(out, signing.Observation{Source: "forge", What: cut(f.Forge + " did not answer " + part + ": " + f.Unknown[part]), At: f.At})
	}
	return out
}
