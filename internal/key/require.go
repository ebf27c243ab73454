package key

import (
	"fmt"

	"github.com/sealwright/sealwright/internal/signing"
)

// approvals holds the people that the policy asks, and once they were asked those
// who approved, against the number that the key demands. A person fills one place
// of one group, so that the groups of a policy add up.
func (q Require) approvals(rule string, u Use) signing.Reason {
	asked := 0
	if u.Rule != nil {
		for _, g := range u.Rule.Groups {
			asked += g.Required
		}
	}
	r := signing.Reason{Rule: rule, Wanted: fmt.Sprintf("at least %d", q.Approvals), Fix: "use a policy with as many approvals as the key demands"}
	switch {
	case asked < q.Approvals:
		r.Found = fmt.Sprintf("the policy asks for %d", asked)
	case !u.Recheck:
		r.Pass, r.Found = true, fmt.Sprintf("the policy asks for %d", asked)
	default:
		r.Pass, r.Found, r.Fix = u.Approvals >= q.Approvals, fmt.Sprint(u.Approvals), "let as many people approve as the key demands"
	}
	return r
}

// answers returns what the forge of the build said, and why there is nothing.
func answers(f signing.Facts, part string) (signing.ForgeFacts, string) {
	switch a := f.Forge; {
	case a == nil || f.Origin.Forge == "":
		return signing.ForgeFacts{}, "the forge did not answer: it was not asked"
	case a.Forge != f.Origin.Forge:
		return signing.ForgeFacts{}, fmt.Sprintf("the forge did not answer: there are answers of %q only", a.Forge)
	case a.Unknown[part] != "":
		return *a, "the forge did not answer: " + a.Unknown[part]
	default:
		return *a, "the forge did not answer"
	}
}

const fixForge = "give the service what it needs on the forge (`sealwrightd config check --online` says what is missing), or ask the owner of the key to drop the condition"

// verifyRun wants the forge to have the run of the token, in progress.
func verifyRun(rule string, f signing.Facts) signing.Reason {
	a, why := answers(f, signing.PartRun)
	r := signing.Reason{Rule: rule, Wanted: "the forge has this run, in progress", Found: why, Fix: fixForge}
	if a.Run == nil {
		return r
	}
	o := f.Origin
	r.Fix = "sign from the run that is meant, while it is in progress"
	for _, c := range []struct{ what, token, forge string }{
		{"repository", o.SourceRepositoryIdentifier, a.Run.RepositoryID},
		{"run", o.RunID, a.Run.ID},
		{"commit", o.SourceRepositoryDigest, a.Run.Commit},
		{"event", o.BuildTrigger, a.Run.Event},
	} {
		if c.token == "" || c.token != c.forge {
			r.Found = fmt.Sprintf("another %s: %q, and %q in the token", c.what, c.forge, c.token)
			return r
		}
	}
	if o.RunAttempt != "" && o.RunAttempt != a.Run.Attempt {
		r.Found = fmt.Sprintf("another attempt: %q, and %q in the token", a.Run.Attempt, o.RunAttempt)
		return r
	}
	r.Pass, r.Found = a.Run.Running, a.Run.Status
	if r.Found == "" {
		r.Found = "no state"
	}
	return r
}

// attested wants an attestation by this very run for each artifact.
func attested(rule string, u Use) signing.Reason {
	a, why := answers(u.Facts, signing.PartAttestation)
	o := u.Facts.Origin
	r := signing.Reason{Rule: rule, Wanted: "an attestation by this run for each artifact", Found: why, Fix: fixForge}
	if a.Attestations == nil {
		return r
	}
	known := map[signing.Digest]bool{}
	for _, at := range a.Attestations.Verified {
		if at.Run != "" && at.Run == o.RunInvocationURI && at.RepositoryID == o.SourceRepositoryIdentifier && at.Commit == o.SourceRepositoryDigest {
			known[at.Digest] = true
		}
	}
	// What is below an index is attested with it: the forge is asked about what
	// the job named.
	for _, image := range u.Facts.Images {
		if d := image.Artifact.Digest; !known[d] {
			r.Found, r.Fix = "none for "+string(d), "attest the image in this run before it is signed"
			return r
		}
	}
	r.Pass, r.Found = len(u.Facts.Images) > 0, fmt.Sprintf("%d attested", len(u.Facts.Images))
	return r
}

// branchApprovals wants the branch of the build to demand that many reviews.
func branchApprovals(rule string, f signing.Facts, n int) signing.Reason {
	a, why := answers(f, signing.PartRef)
	r := signing.Reason{Rule: rule, Wanted: fmt.Sprintf("a branch that demands %d approvals by others before a merge", n), Found: why, Fix: fixForge}
	if a.Ref == nil {
		return r
	}
	ref := *a.Ref
	r.Fix = "demand the approvals in the protection of the branch, and let no author approve"
	r.Found = fmt.Sprintf("%s demands %d", ref.Ref, ref.RequiredApprovals)
	switch {
	case ref.Ref != f.Origin.SourceRepositoryRef:
		r.Found = fmt.Sprintf("an answer about %q", ref.Ref)
	case !ref.Exists || !ref.Contains:
		r.Found = ref.Ref + " does not have the commit"
	case !ref.Protected:
		r.Found = ref.Ref + " is not protected"
	case ref.AuthorMayApprove:
		r.Found += ", and authors may approve what they wrote"
	default:
		r.Pass = ref.RequiredApprovals >= n
	}
	return r
}
