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
		Facts:     signing.Facts{Origin: signing.Origin{SourceRepositoryRef: "refs/tags/v1", RefProtected: true, BuildTrigger: "push", RunnerEnvironment: "github-hosted"}},
		Approvals: 2}
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
		{"too few approvals", func(k *Config, u *Use) { k.Require.Approvals, u.Approvals = 2, 1 }, []string{"key.require.approvals"}},
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
		{"condition that this version cannot check: run", func(k *Config, _ *Use) { k.Require.VerifyRun = true }, []string{"key.require.verify_run"}},
		{"condition that this version cannot check: attestation", func(k *Config, _ *Use) { k.Require.Attestation = true }, []string{"key.require.attestation"}},
		{"condition that this version cannot check: branch", func(k *Config, _ *Use) { k.Require.BranchApprovals = 1 }, []string{"key.require.branch_approvals"}},
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
