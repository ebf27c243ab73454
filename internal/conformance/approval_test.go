//go:build conformance

package conformance

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/scenario"
)

// TestCosignVerifiesWhatPeopleApprovedAndNothingBefore is the whole way on the
// strict local GitHub and GitLab, from the CI's token through comments and webhooks
// to the registry, with the cosign CLIs looking at every stage of it.
func TestCosignVerifiesWhatPeopleApprovedAndNothingBefore(t *testing.T) {
	looked := map[bool]int{}
	scenario.Whole(t, func(t *testing.T, image scenario.Image, signed bool) {
		der, err := x509.MarshalPKIXPublicKey(image.Public())
		if err != nil {
			t.Fatal(err)
		}
		public := filepath.Join(t.TempDir(), "release.pub")
		if err := os.WriteFile(public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, stranger := keyPair(t)
		for _, v := range []verifier{{"cosign2", "", cosignVerify("cosign2")}, {"cosign3", "", cosignVerify("cosign3")}} {
			accepted, said := v.verify(t, image.Reference(), public)
			if accepted != signed || !signed && !strings.Contains(strings.ToLower(said), "no signatures found") {
				t.Errorf("%s: signed %v, accepted %v; it said:\n%s", v.name, signed, accepted, said)
			}
			check(t, v, image.Reference(), stranger, false)
		}
		looked[signed]++
	})
	if looked[false] != 4 || looked[true] != 2 {
		t.Errorf("looked at %d images before their approval and %d after it, want 4 and 2", looked[false], looked[true])
	}
}
