package server_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

const someHex = "d34db33fd34db33fd34db33fd34db33fd34db33fd34db33fd34db33fd34db33f"

// serves puts a simple signature into the service's lookaside and reads it back.
func (r *rig) serves(repository string, signature []byte) testenv.Answer {
	r.t.Helper()
	path := repository + "@sha256=" + someHex
	_, err := r.s.Store.Lookaside().Put(r.t.Context(), path, signing.DigestOf(signature), signature)
	ok(r.t, err)
	ans := r.get("/lookaside/"+path+"/signature-1", "")
	if ans.Status != http.StatusOK || string(ans.Body) != string(signature) {
		r.t.Errorf("the lookaside answered %d: %q", ans.Status, ans.Body)
	}
	return ans
}

func TestLookasideServesWhatIsThereAndNothingElse(t *testing.T) {
	r := start(t, testenv.Options{})
	ans := r.serves("registry.acme.dev:5000/payments/web", []byte("a signature"))
	if got := ans.Header.Get("Cache-Control"); !strings.Contains(got, "immutable") || ans.Header.Get("ETag") == "" || ans.Header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("%v", ans.Header)
	}
	good := "/lookaside/registry.acme.dev:5000/payments/web@sha256=" + someHex + "/signature-1"
	if ans := r.bare(http.MethodGet, strings.NewReplacer("@", "%40", "=", "%3d", ":", "%3A").Replace(good)); ans.Status != http.StatusOK {
		t.Errorf("escaped as some clients do: %d", ans.Status)
	}
	for _, path := range []string{
		strings.Replace(good, "signature-1", "signature-2", 1),
		strings.Replace(good, "signature-1", "signature-0", 1),
		strings.Replace(good, "signature-1", "signature-01", 1),
		strings.Replace(good, "signature-1", "signature-+1", 1),
		strings.Replace(good, "signature-1", "signature-129", 1),
		strings.Replace(good, "signature-1", "signature-99999999999999999999", 1),
		strings.Replace(good, "signature-1", "", 1),
		strings.Replace(good, "/signature-1", "", 1),
		good + "/", good + "/signature-1",
		strings.Replace(good, "payments/web", "payments%2Fweb", 1),
		strings.Replace(good, "payments/web", "payments/../payments/web", 1),
		strings.Replace(good, "payments/web", "payments/%2e%2e/payments/web", 1),
		strings.Replace(good, "payments/web", "payments//web", 1),
		strings.Replace(good, "payments/web", "Payments/web", 1),
		strings.Replace(good, "payments/web", "payments/web%00", 1),
		strings.Replace(good, "/payments", "\\payments", 1),
		strings.Replace(good, "d34db33f", "D34DB33F", 1),
		strings.Replace(good, someHex, someHex[1:], 1),
		strings.Replace(good, "@sha256=", "@sha512=", 1),
		"/lookaside/", "/lookaside/x", "/lookaside//etc/passwd", "/lookaside/..%2f..%2fetc/passwd",
	} {
		ans := r.bare(http.MethodGet, path)
		if ans.Status != http.StatusNotFound || strings.Contains(ans.Header.Get("Cache-Control"), "public") {
			t.Errorf("%s answered %d %v", path, ans.Status, ans.Header)
		}
	}
	for _, method := range []string{http.MethodPut, http.MethodPost, http.MethodDelete} {
		if ans := r.bare(method, good); ans.Status != http.StatusNotFound && ans.Status != http.StatusMethodNotAllowed {
			t.Errorf("%s answered %d", method, ans.Status)
		}
	}
}
