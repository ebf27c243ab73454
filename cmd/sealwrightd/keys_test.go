package main

import (
	"strings"
	"testing"
)

func TestAKeyWhoseModuleIsAwayIsNotSaidToHaveSigned(t *testing.T) {
	f := configured(t, startWorld(t))
	test := func() (int, string, string) {
		return execute(t, "keys", "test", "--config", f.path("sealwright.yaml"))
	}
	if code, out, errs := test(); code != exitOK || strings.Count(out, "signed a nonce") != 5 || errs != "" {
		t.Fatalf("%d %s %s", code, out, errs)
	}
	f.write("pin", "1234")
	inFile := "    file: file:" + f.path("release.key")
	inModule := "    pkcs11: {module: " + f.path("none.so") + ", token: signing, pin: \"file:" + f.path("pin") + "\", id: \"01\"}"
	for what, public := range map[string]string{"": "", " and public half known": "\n    public: file:" + f.path("release.pub")} {
		f.edit("keys.yaml", inFile, inModule+public)
		if code, out, errs := test(); code != exitError || strings.Contains(out, "release signed") || strings.Count(out, "signed a nonce") != 4 || !strings.Contains(errs, "key release: ") || !strings.Contains(errs, "none.so") {
			t.Errorf("module away%s: %d %s %s", what, code, out, errs)
		}
		f.edit("keys.yaml", inModule+public, inFile)
	}
}
