package main

import (
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/openpgp"
)

func TestOpenPGPCertificateIsMadeForAKeyAndRenewedUnderItsFingerprint(t *testing.T) {
	f := configured(t, startWorld(t))
	conf := f.path("sealwright.yaml")
	parsed := func(text string) *openpgp.Certificate {
		t.Helper()
		c, err := openpgp.ParseCertificate([]byte(text))
		if err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		return c
	}
	file := f.path("release.asc")
	if code, _, errs := execute(t, "keys", "openpgp", "--config", conf, "--key", "release", "--user-id", "Acme <release@acme.dev>", "--out", file); code != exitOK || !strings.Contains(errs, "fingerprint") {
		t.Fatalf("%d %s", code, errs)
	}
	if code, _, errs := execute(t, "keys", "public", "--config", conf, "--key", "release", "--openpgp"); code == exitOK || !strings.Contains(errs, "has no OpenPGP certificate") {
		t.Errorf("before it is configured: %d %s", code, errs)
	}
	f.edit("keys.yaml", "  - id: release\n", "  - id: release\n    openpgp: {certificate: \"file:"+file+"\"}\n")
	code, public, errs := execute(t, "keys", "public", "--config", conf, "--key", "release", "--openpgp")
	if code != exitOK {
		t.Fatalf("%d %s", code, errs)
	}
	first := parsed(public)
	code, again, errs := execute(t, "keys", "openpgp", "--config", conf, "--key", "release", "--user-id", "Acme <release@acme.dev>", "--days", "30")
	if code != exitOK {
		t.Fatalf("%d %s", code, errs)
	}
	renewed := parsed(again)
	if renewed.Fingerprint() != first.Fingerprint() || renewed.Expires.IsZero() || !first.Expires.IsZero() {
		t.Errorf("%s until %v became %s until %v", first.Fingerprint(), first.Expires, renewed.Fingerprint(), renewed.Expires)
	}
	f.edit("keys.yaml", "file:"+file, "file:"+f.path("release-gpg.asc"))
	if code, _, errs := f.check(); code == exitOK || !strings.Contains(errs, "do not belong together") {
		t.Errorf("the certificate of another key: %d %s", code, errs)
	}
	for _, args := range [][]string{{"--key", "none", "--user-id", "a"}, {"--key", "release", "--user-id", ""}, {"--key", "release", "--user-id", "a\nb"}, {"--key", "release", "--user-id", "a", "--days", "-1"}} {
		if code, _, _ := execute(t, append([]string{"keys", "openpgp", "--config", conf}, args...)...); code == exitOK {
			t.Errorf("%v makes a certificate", args)
		}
	}
}
