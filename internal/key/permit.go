package key

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/signing"
)

// Use is one intended use of a key: for what, by which policy, and what is
// known of the request at this moment.
type Use struct {
	Key, Method     string
	Project, Policy string
	Artifacts       []signing.Artifact
	Facts           signing.Facts
	// Recheck says that the Request was decided on before, and that people have
	// approved where they had to. The run, which is over by then, and what it
	// attested are not judged again: the sealed Decision says that they were.
	Recheck bool
	// Rule is what the Decision asks of people, nil if it asks nobody.
	Rule      *signing.ApprovalRule
	Approvals int // people whose valid approval of this basis counts
	// Renewal says that nothing is added to what was signed before: the least
	// conditions were judged then, and there is no build now.
	Renewal bool
}

// Question returns what the conditions of keys want to know of the forge.
func (r *Ring) Question(keys ...string) signing.ForgeQuestion {
	var q signing.ForgeQuestion
	for _, id := range keys {
		k, ok := r.keys[id]
		if !ok {
			continue // Permit refuses it by name
		}
		req := k.config.Require
		q = q.And(signing.ForgeQuestion{Run: req.VerifyRun, Attestation: req.Attestation, Ref: req.BranchApprovals > 0})
	}
	return q
}

// Permit says whether the owner of the key lets it be used so, as a tree of
// reasons: the key is there and its certificate valid, the method, the policy
// and every repository are in its scope, and the least conditions hold. What is
// missing denies, and so does what the forge did not answer.
func (r *Ring) Permit(u Use) signing.Reason {
	root := signing.Reason{Rule: "key", Wanted: "key " + u.Key + " may be used"}
	k, ok := r.keys[u.Key]
	if !ok {
		root.Children = []signing.Reason{{Rule: "key.id", Wanted: "a key of the keys file", Found: fmt.Sprintf("%q", u.Key), Fix: "name a key that the service holds: " + strings.Join(r.IDs(), ", ")}}
		return root
	}
	root.Children = []signing.Reason{
		oneOf("key.methods", u.Method, k.config.Methods),
		k.permitCertificate(r),
		k.permitScope(u),
	}
	if !u.Renewal {
		root.Children = append(root.Children, k.config.Require.reasons(u)...)
	}
	root.Pass = !slices.ContainsFunc(root.Children, func(c signing.Reason) bool { return !c.Pass })
	return root
}

func (k *Key) permitCertificate(r *Ring) signing.Reason {
	reason := signing.Reason{Rule: "key.certificates", Pass: true, Wanted: "a certificate that is valid now, or none"}
	if err := k.expired(r.o.Now()); err != nil {
		e := signing.Public(err)
		reason.Pass, reason.Found, reason.Fix = false, e.Message+"; "+e.Expected, e.Fix
	}
	return reason
}

// permitScope asks for an entry for the policy, and for a pattern of that entry
// for each artifact.
func (k *Key) permitScope(u Use) signing.Reason {
	reason := signing.Reason{Rule: "key.allow", Wanted: "an entry for this policy and these repositories"}
	scope := k.config.scope(u.Project, u.Policy)
	if scope == nil {
		reason.Found = fmt.Sprintf("no entry for policy %s of project %s", u.Policy, u.Project)
		reason.Fix = "ask the owner of key " + k.ID + " to allow the policy in the keys file"
		return reason
	}
	if len(u.Artifacts) == 0 {
		reason.Found = "no artifact to be signed"
		return reason
	}
	reason.Pass = true
	seen := map[signing.Repository]bool{}
	for _, a := range u.Artifacts {
		if seen[a.Repository] {
			continue
		}
		seen[a.Repository] = true
		leaf := signing.Reason{Rule: "key.allow.repositories", Wanted: "one of " + strings.Join(scope.Repositories, ", "), Found: string(a.Repository)}
		leaf.Pass = slices.ContainsFunc(scope.Repositories, func(p string) bool { return matchRepository(p, string(a.Repository)) })
		if !leaf.Pass {
			leaf.Fix = "ask the owner of key " + k.ID + " to allow the repository in the keys file"
			reason.Pass = false
		}
		reason.Children = append(reason.Children, leaf)
	}
	return reason
}

// reasons holds the least conditions against u. A condition that is not set has
// no reason.
func (q Require) reasons(u Use) []signing.Reason {
	const rule = "key.require."
	var out []signing.Reason
	origin := u.Facts.Origin
	if q.ProtectedRef {
		out = append(out, signing.Reason{Rule: rule + "protected_ref", Pass: origin.RefProtected, Wanted: "a protected ref", Found: fmt.Sprintf("%s, protected: %t", origin.SourceRepositoryRef, origin.RefProtected), Fix: "run the job on a branch or tag that the forge protects"})
	}
	if q.Approvals > 0 {
		out = append(out, q.approvals(rule+"approvals", u))
	}
	if len(q.Events) > 0 {
		out = append(out, oneOf(rule+"events", origin.BuildTrigger, q.Events))
	}
	if len(q.Refs) > 0 {
		refs := oneOf(rule+"refs", origin.SourceRepositoryRef, q.Refs)
		refs.Pass = slices.ContainsFunc(q.Refs, func(p string) bool { return matchPattern(p, origin.SourceRepositoryRef) })
		out = append(out, refs)
	}
	if len(q.RunnerEnvironments) > 0 {
		out = append(out, oneOf(rule+"runner_environments", origin.RunnerEnvironment, q.RunnerEnvironments))
	}
	if q.VerifyRun && !u.Recheck {
		out = append(out, verifyRun(rule+"verify_run", u.Facts))
	}
	if q.Attestation && !u.Recheck {
		out = append(out, attested(rule+"attestation", u))
	}
	if q.BranchApprovals > 0 {
		out = append(out, branchApprovals(rule+"branch_approvals", u.Facts, q.BranchApprovals))
	}
	for i := range out {
		if out[i].Pass {
			out[i].Fix = ""
		}
	}
	return out
}

// oneOf passes if found is in list; an empty value never is.
func oneOf(rule, found string, list []string) signing.Reason {
	r := signing.Reason{Rule: rule, Pass: found != "" && slices.Contains(list, found), Wanted: "one of " + strings.Join(list, ", "), Found: found}
	if found == "" {
		r.Found = "nothing"
	}
	if !r.Pass {
		r.Fix = "use what the key allows, or ask its owner to allow this"
	}
	return r
}

// matchRepository matches a pattern that checkPattern accepted.
func matchRepository(pattern, repository string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "/**"); ok {
		// Everything below the prefix, whose own '*' stay within a component.
		n := strings.Count(prefix, "/") + 1
		parts := strings.Split(repository, "/")
		return len(parts) > n && matchPattern(prefix, strings.Join(parts[:n], "/"))
	}
	return matchPattern(pattern, repository)
}

// matchPattern matches with '*' for any characters but '/'. path.Match knows
// more signs, which a pattern of refs could hold by accident: they are quoted.
func matchPattern(pattern, s string) bool {
	ok, err := path.Match(quoted.Replace(pattern), s)
	return err == nil && ok
}

var quoted = strings.NewReplacer(`\`, `\\`, `?`, `\?`, `[`, `\[`)
