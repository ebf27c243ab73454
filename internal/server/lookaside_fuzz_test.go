package server

import (
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/signing"
)

func FuzzLookasidePathIsOneSignatureOrNone(f *testing.F) {
	f.Add("registry.acme.dev/payments/web@sha256=d34db33fd34db33fd34db33fd34db33fd34db33fd34db33fd34db33fd34db33f/signature-1")
	f.Add("registry.acme.dev/payments/web%40sha256%3Dd34db33fd34db33fd34db33fd34db33fd34db33fd34db33fd34db33fd34db33f/signature-128")
	f.Fuzz(func(t *testing.T, escaped string) {
		path, n, err := parseLookaside(escaped)
		if err != nil {
			return
		}
		repository, hex, ok := strings.Cut(path, "@sha256=")
		a := signing.Artifact{Repository: signing.Repository(repository), Digest: signing.Digest("sha256:" + hex)}
		if !ok || a.Validate() != nil || n < 1 || strings.Contains(path, "..") || strings.Contains(path, "%") {
			t.Errorf("%q is %q, %d", escaped, path, n)
		}
	})
}
