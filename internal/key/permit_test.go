package key

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/key/keytest"
	"github.com/sealwright/sealwright/internal/signing"
)

// goodUse is what conf("k") permits.
func goodUse() Use {
	return Use{Key: "k", Method: "cosign", Project: "payments", Policy: "release",
		Artifacts: []signing.Artifact{{Repository: "registry.acme.dev/payments/web", Digest: signing.DigestOf([]byte("m"))}},
		Facts: signing.Facts{
			Origin: signing.Origin{Forge: "github.com", SourceRepositoryIdentifier: "74", SourceRepositoryDigest: "6dcb", RunID: "9", RunAttempt: "1", RunInvocationURI: "https://github.com/r", SourceRepositoryRef: "refs/tags/v1", RefProtected: true, BuildTrigger: "push", RunnerEnvironment: "github-hosted"},
			Images: []signing.Image{{Artifact: signing.Artifact{Digest: signing.DigestOf([]byte("m"))}}},
			Forge: &signing.ForgeFacts{Forge: "github.com",
				Run:          &signing.RunFacts{RepositoryID: "74", ID: "9", Attempt: "1", Commit: "6dcb", Event: "push", Status: "in_progress", Running: true},
				Ref:          &signing.RefFacts{Ref: "refs/tags/v1", Exists: true, Contains: true, Protected: true, RequiredApprovals: 1},
				Attestations: &signing.AttestationFacts{Verified: []signing.Attestation{{Digest: signing.DigestOf([]byte("m")), RepositoryID: "74", Commit: "6dcb", Run: "https://github.com/r"}}}},
		},
		Rule: rule(2), Approvals: 2}
}

// rule asks groups for so many people each.
func rule(required ...int) *signing.ApprovalRule {
	r := &signing.ApprovalRule{}
	for _, n := range required {
		r.Groups = append(r.Groups, signing.ApprovalGroup{Required: n, From: []string{"github.com:acme/release"}})
	}
	return r
}

func TestAKeyAsksTheForgeForWhatItsConditionsNeed(t *testing.T) {
	plain, strict := conf("plain", keytest.File(t, keytest.PEM(t, keytest.P256(t)))), conf("strict", keytest.File(t, keytest.PEM(t, keytest.P256(t))))
	strict.Require = Require{VerifyRun: true, Attestation: true, BranchApprovals: 1}
	r := open(t, Options{}, plain, strict)
	if q := r.Question("plain", "gone"); q.Asks() {
		t.Errorf("a key without conditions asks %+v", q)
	}
	if diff := cmp.Diff(signing.ForgeQuestion{Run: true, Attestation: true, Ref: true}, r.Question("plain", "strict")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(signing.ForgeQuestion{Ref: true}, r.Question("strict").Recheck()); diff != "" {
		t.Error(diff)
	}
}

func TestPermitAllowsExactlyWhatTheOwnerOfTheKeyListed(t *testing.T) {
	for _, c := range []struct {
		name string
		mod  func(k *Config, u *Use)
		want []string // rules that fail
	}{
		{"all as listed", func(*Config, *Use) {}, nil},
		{"unknown key", func(_ *Config, u *Use) { u.Key = "other" }, []string{"key.id"}},
		{"another method", func(_ *Config, u *Use) { u.Method = "notation" }, []string{"key.methods"}},
		{"no method", func(_ *Config, u *Use) { u.Method = "" }, []string{"key.methods"}},
		{"another policy", func(_ *Config, u *Use) { u.Policy = "test" }, []string{"key.allow"}},
		{"another project", func(_ *Config, u *Use) { u.Project = "web" }, []string{"key.allow"}},
		{"no artifact", func(_ *Config, u *Use) { u.Artifacts = nil }, []string{"key.allow"}},
		{"one repository of two", func(_ *Config, u *Use) {
			u.Artifacts = append(u.Artifacts, signing.Artifact{Repository: "registry.acme.dev/other/web"})
		}, []string{"key.allow.repositories"}},
		{"repository below the pattern", func(_ *Config, u *Use) { u.Artifacts[0].Repository = "registry.acme.dev/payments/web/a" }, []string{"key.allow.repositories"}},
		{"all conditions met", func(k *Config, _ *Use) {
			k.Require = Require{ProtectedRef: true, Approvals: 2, Events: []string{"push"}, Refs: []string{"refs/heads/main", "refs/tags/v*"}, RunnerEnvironments: []string{"github-hosted"}}
		}, nil},
		{"ref not protected", func(k *Config, u *Use) { k.Require.ProtectedRef, u.Facts.Origin.RefProtected = true, false }, []string{"key.require.protected_ref"}},
		{"too few approvals", func(k *Config, u *Use) { k.Require.Approvals, u.Approvals, u.Recheck = 2, 1, true }, []string{"key.require.approvals"}},
		{"another event", func(k *Config, u *Use) {
			k.Require.Events, u.Facts.Origin.BuildTrigger = []string{"push"}, "pull_request_target"
		}, []string{"key.require.events"}},
		{"no event", func(k *Config, u *Use) { k.Require.Events, u.Facts.Origin.BuildTrigger = []string{"push"}, "" }, []string{"key.require.events"}},
		{"another ref", func(k *Config, u *Use) {
			k.Require.Refs, u.Facts.Origin.SourceRepositoryRef = []string{"refs/tags/v*"}, "refs/heads/v1"
		}, []string{"key.require.refs"}},
		{"ref with a slash more", func(k *Config, u *Use) {
			k.Require.Refs, u.Facts.Origin.SourceRepositoryRef = []string{"refs/tags/v*"}, "refs/tags/v1/x"
		}, []string{"key.require.refs"}},
		{"signs of path.Match mean themselves", func(k *Config, u *Use) {
			k.Require.Refs, u.Facts.Origin.SourceRepositoryRef = []string{"refs/heads/[a-z]?"}, "refs/heads/bc"
		}, []string{"key.require.refs"}},
		{"another runner", func(k *Config, u *Use) {
			k.Require.RunnerEnvironments, u.Facts.Origin.RunnerEnvironment = []string{"github-hosted"}, "self-hosted"
		}, []string{"key.require.runner_environments"}},
		{"a policy that asks fewer people", func(k *Config, u *Use) { k.Require.Approvals, u.Rule = 3, rule(2) }, []string{"key.require.approvals"}},
		{"a policy that asks fewer people, though more approved", func(k *Config, u *Use) {
			k.Require.Approvals, u.Rule, u.Approvals, u.Recheck = 3, rule(2), 3, true
		}, []string{"key.require.approvals"}},
		{"a policy that asks nobody", func(k *Config, u *Use) { k.Require.Approvals, u.Rule = 1, nil }, []string{"key.require.approvals"}},
		{"groups add up", func(k *Config, u *Use) { k.Require.Approvals, u.Rule, u.Approvals = 3, rule(2, 1), 0 }, nil},
		{"deciding before anybody approved", func(k *Config, u *Use) { k.Require.Approvals, u.Rule, u.Approvals = 2, rule(2), 0 }, nil},
		{"run as the forge has it", func(k *Config, u *Use) { k.Require.VerifyRun = true }, nil},
		{"run that is over", func(k *Config, u *Use) {
			k.Require.VerifyRun, u.Facts.Forge.Run.Running = true, false
		}, []string{"key.require.verify_run"}},
		{"run of another repository", func(k *Config, u *Use) {
			k.Require.VerifyRun, u.Facts.Forge.Run.RepositoryID = true, "75"
		}, []string{"key.require.verify_run"}},
		{"another attempt", func(k *Config, u *Use) {
			k.Require.VerifyRun, u.Facts.Forge.Run.Attempt = true, "2"
		}, []string{"key.require.verify_run"}},
		{"token without a commit", func(k *Config, u *Use) {
			k.Require.VerifyRun = true
			u.Facts.Origin.SourceRepositoryDigest, u.Facts.Forge.Run.Commit = "", ""
		}, []string{"key.require.verify_run"}},
		{"run that nobody asked about", func(k *Config, u *Use) { k.Require.VerifyRun, u.Facts.Forge = true, nil }, []string{"key.require.verify_run"}},
		{"run on another forge", func(k *Config, u *Use) {
			k.Require.VerifyRun, u.Facts.Forge.Forge = true, "ghe.acme.dev"
		}, []string{"key.require.verify_run"}},
		{"run is judged at the decision", func(k *Config, u *Use) {
			k.Require.VerifyRun, k.Require.Attestation, u.Facts.Forge, u.Recheck = true, true, nil, true
		}, nil},
		{"attested", func(k *Config, u *Use) { k.Require.Attestation = true }, nil},
		{"attested by another run", func(k *Config, u *Use) {
			k.Require.Attestation, u.Facts.Forge.Attestations.Verified[0].Run = true, "x"
		}, []string{"key.require.attestation"}},
		{"one of two attested", func(k *Config, u *Use) {
			k.Require.Attestation = true
			u.Facts.Images = append(u.Facts.Images, signing.Image{Artifact: signing.Artifact{Digest: signing.DigestOf(nil)}})
		}, []string{"key.require.attestation"}},
		{"no answer about attestations", func(k *Config, u *Use) {
			k.Require.Attestation, u.Facts.Forge.Attestations = true, nil
		}, []string{"key.require.attestation"}},
		{"branch that demands reviews", func(k *Config, _ *Use) { k.Require.BranchApprovals = 1 }, nil},
		{"branch that demands fewer reviews", func(k *Config, _ *Use) { k.Require.BranchApprovals = 2 }, []string{"key.require.branch_approvals"}},
		{"branch on which authors approve", func(k *Config, u *Use) {
			k.Require.BranchApprovals, u.Facts.Forge.Ref.AuthorMayApprove = 1, true
		}, []string{"key.require.branch_approvals"}},
		{"branch without the commit", func(k *Config, u *Use) { k.Require.BranchApprovals, u.Facts.Forge.Ref.Contains = 1, false }, []string{"key.require.branch_approvals"}},
		{"branch that is not protected", func(k *Config, u *Use) { k.Require.BranchApprovals, u.Facts.Forge.Ref.Protected = 1, false }, []string{"key.require.branch_approvals"}},
		{"another branch", func(k *Config, u *Use) {
			k.Require.BranchApprovals, u.Facts.Forge.Ref.Ref = 1, "refs/heads/x"
		}, []string{"key.require.branch_approvals"}},
		{"no answer about the branch", func(k *Config, u *Use) {
			k.Require.BranchApprovals, u.Facts.Forge.Ref = 1, nil
		}, []string{"key.require.branch_approvals"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, u := conf("k", keytest.File(t, keytest.PEM(t, keytest.P256(t)))), goodUse()
			c.mod(&k, &u)
			reason := open(t, Options{}, k).Permit(u)
			var failed []string
			for _, f := range reason.Failures() {
				failed = append(failed, f.Rule)
				if f.Wanted == "" || f.Found == "" {
					t.Errorf("a refusal that does not say what was wanted and found: %+v", f)
				}
			}
			if diff := cmp.Diff(c.want, failed); diff != "" {
				t.Error(diff)
			}
			if reason.Pass != (len(c.want) == 0) {
				t.Errorf("pass is %t", reason.Pass)
			}
		})
	}
}
