//go:build conformance && clusters

package conformance

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/method/notation"
)

// The programs below are what clusters admit images with, as far as they run
// without a cluster. Building them takes minutes: they are for `make
// conformance-all`.

// clusterVerifiers are the verifiers of each format, by its name.
func clusterVerifiers() map[string][]verifier {
	return map[string][]verifier{
		"legacy": {
			{"kyverno", "", kyverno("Cosign")},
			{"ratify", "", ratifyCosign},
			{"policy-controller", "", policyController},
		},
		"bundle":   {{"kyverno", "", kyverno("SigstoreBundle")}},
		"notation": {{"kyverno", "", kyverno("Notary")}, {"ratify", "", ratifyNotation}},
	}
}

// clusterTwins are the mutations that each of them has to refuse.
var clusterTwins = []string{"other image", "other key", "other CA", "altered payload", "payload of the other image", "altered signature", "by a stranger", "expired", "removed", "no signature"}

func TestWhatClustersRunAcceptsOurSignaturesAndRefusesTheirTamperedTwins(t *testing.T) {
	_, _, stranger := keyPair(t)
	hosts := registries(t)
	for _, f := range formats() {
		signers := notationServices()[:2] // the documented CA with JWS, a certificate of its own with COSE
		strangers := stranger
		if f.stranger != nil {
			strangers = f.stranger(t)
		} else {
			signers = []signer{serviceSigner("sealwright", f.step, nil)}
		}
		for _, kind := range slices.Sorted(maps.Keys(hosts)) {
			// Kyverno looks for bundles by the artifact type in the list of referrers,
			// for which this registry takes the config's media type.
			if f.name == "bundle" && kind == "with-referrers" {
				continue
			}
			for _, s := range signers {
				h := s.open(t, hosts[kind])
				for _, v := range clusterVerifiers()[f.name] {
					t.Run(strings.Join([]string{v.name, f.name, kind, s.name}, "/"), func(t *testing.T) {
						twins := 0
						for _, m := range f.mutations {
							if !slices.Contains(clusterTwins, m.name) {
								continue
							}
							twins++
							what := strings.Join([]string{v.name, f.name, s.name, m.name}, " ")
							x := signed{image: push(t, hosts[kind], what), other: push(t, hosts[kind], "not "+what), public: h.public, key: h.key, strangerPublic: strangers, host: hosts[kind]}
							check(t, v, x.image.Reference(), x.public, false)
							if err := h.sign(x.image.Reference()); err != nil {
								t.Fatal(err)
							}
							check(t, v, x.image.Reference(), x.public, true)
							ref, key := m.make(t, x)
							if got, said := v.verify(t, ref, key); got {
								t.Errorf("%s: accepted; it said:\n%s", m.name, said)
							}
						}
						if twins < 5 {
							t.Errorf("%d twins were tried", twins)
						}
					})
				}
			}
		}
	}
}

// indented puts a file's text below a YAML `|-`.
func indented(t *testing.T, spaces int, text []byte) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(strings.TrimSpace(string(text))) {
		b.WriteString(strings.Repeat(" ", spaces) + strings.TrimRight(line, "\n") + "\n")
	}
	return b.String()
}

func written(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func contents(t *testing.T, path string) []byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// kyverno asks Kyverno's CLI to admit a pod under a ClusterPolicy. It exits with 1
// if the policy refuses.
func kyverno(kind string) func(*testing.T, string, string) (bool, string) {
	return func(t *testing.T, ref, public string) (bool, string) {
		attestor := "- keys:\n                    publicKeys: |-\n"
		trusted := ""
		if kind == "Notary" {
			attestor = "- certificates:\n                    cert: |-\n"
			trusted = indented(t, 22, contents(t, filepath.Join(public, trustStore)))
		} else {
			trusted = indented(t, 22, contents(t, public)) + "                    rekor: {ignoreTlog: true, url: \"http://127.0.0.1:1\"}\n                    ctlog: {ignoreSCT: true}\n"
		}
		dir := t.TempDir()
		policy := written(t, dir, "policy.yaml", `apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata: {name: signed}
spec:
  validationFailureAction: Enforce
  background: false
  rules:
    - name: signed
      match: {any: [{resources: {kinds: [Pod]}}]}
      verifyImages:
        - type: `+kind+`
          imageReferences: ["*"]
          mutateDigest: false
          attestors:
            - entries:
                `+attestor+trusted)
		pod := written(t, dir, "pod.yaml", fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: app, namespace: default}\nspec: {containers: [{name: app, image: %q}]}\n", ref))
		status, out := run(t, dir, tool(t, "kyverno"), "apply", policy, "--resource", pod, "--registry", "--detailed-results", "--remove-color")
		// What was never judged counts as neither.
		if admitted := strings.Contains(out, "pass: 2, fail: 0, warn: 0, error: 0, skip: 0"); status > 1 || (status == 0) != admitted {
			t.Fatalf("kyverno: exit status %d\n%s", status, out)
		}
		return status == 0, out
	}
}

func ratifyCosign(t *testing.T, ref, public string) (bool, string) {
	return ratify(t, ref, "application/vnd.dev.cosign.artifact.sig.v1+json", map[string]any{"name": "cosign", "key": public})
}

func ratifyNotation(t *testing.T, ref, config string) (bool, string) {
	var policy any
	if err := json.Unmarshal(contents(t, filepath.Join(config, "trustpolicy.json")), &policy); err != nil {
		t.Fatal(err)
	}
	// Ratify has one store of certificates by the name of "certs".
	policy.(map[string]any)["trustPolicies"].([]any)[0].(map[string]any)["trustStores"] = []string{"ca:certs"}
	store := t.TempDir()
	written(t, store, "root.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootOf(t, config).Raw})))
	return ratify(t, ref, notation.ArtifactType, map[string]any{"name": "notation", "verificationCerts": []string{store}, "trustPolicyDoc": policy})
}

// ratify asks the CLI of Ratify, whose exit status is 0 in any case: its verdict
// is the document that it prints.
func ratify(t *testing.T, ref, artifactType string, plugin map[string]any) (bool, string) {
	t.Helper()
	plugin["artifactTypes"] = artifactType
	config, err := json.Marshal(map[string]any{
		"executor": map[string]any{},
		"store":    map[string]any{"version": "1.0.0", "plugins": []any{map[string]any{"name": "oras", "cosignEnabled": true, "useHttp": true}}},
		"policy":   map[string]any{"version": "1.0.0", "plugin": map[string]any{"name": "configPolicy", "artifactVerificationPolicies": map[string]string{artifactType: "any"}}},
		"verifier": map[string]any{"version": "1.0.0", "plugins": []any{plugin}},
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	status, out := run(t, dir, tool(t, "ratify"), "verify", "-c", written(t, dir, "config.json", string(config)), "-s", ref)
	var verdict struct {
		IsSuccess       bool             `json:"isSuccess"`
		VerifierReports []map[string]any `json:"verifierReports"`
	}
	_, document, found := strings.Cut(out, "\n{\n")
	if err := json.NewDecoder(strings.NewReader("{" + document)).Decode(&verdict); status != 0 || !found || err != nil || len(verdict.VerifierReports) == 0 {
		t.Fatalf("ratify: exit status %d, %v\n%s", status, err, out)
	}
	return verdict.IsSuccess, out
}

// policyController asks the tester of Sigstore's policy-controller.
func policyController(t *testing.T, ref, public string) (bool, string) {
	dir := t.TempDir()
	policy := written(t, dir, "policy.yaml", `apiVersion: policy.sigstore.dev/v1beta1
kind: ClusterImagePolicy
metadata: {name: signed}
spec:
  images: [{glob: "**"}]
  authorities:
    - name: release
      key:
        hashAlgorithm: sha256
        data: |
`+indented(t, 10, contents(t, public)))
	status, out := run(t, dir, tool(t, "policytester"), "-policy", policy, "-image", ref)
	if accepted := strings.Contains(out, "Verification was successful"); status > 1 || (status == 0) != accepted {
		t.Fatalf("policy-controller: exit status %d\n%s", status, out)
	}
	return status == 0, out
}
