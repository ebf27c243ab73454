//go:build conformance

package conformance

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/openpgp"
)

// skopeoSigner signs with GnuPG's key through skopeo. It proves the harness.
func skopeoSigner(t *testing.T, host string) hand {
	home := gnupg(t)
	env := map[string]string{"GNUPGHOME": home}
	if status, out := runWith(t, env, home, "/usr/bin/gpg", "--batch", "--passphrase", "", "--quick-generate-key", "Skopeo <skopeo@acme.test>", "rsa3072", "sign", "never"); status != 0 {
		t.Fatalf("gpg: %s", out)
	}
	_, armored := runWith(t, env, home, "/usr/bin/gpg", "--batch", "--quiet", "--armor", "--export")
	cert, err := openpgp.ParseCertificate([]byte(armored[strings.Index(armored, "-----BEGIN"):]))
	if err != nil {
		t.Fatal(err)
	}
	dir := trustOpenPGP(t, cert.Raw, "")
	return hand{func(ref string) error {
		repository, digest := splitSigned(ref)
		for _, d := range append([]string{digest}, manifestsOf(t, repository, digest)...) {
			manifest, name := filepath.Join(home, "manifest"), strings.TrimSuffix(ref, "@"+digest)
			manifestFile(t, repository+"@"+d, manifest)
			if name == repository {
				name += "@" + d
			}
			file := signaturePath(dir, repository, d, 1)
			writeFile(t, file, nil)
			if status, out := runWith(t, env, home, "/usr/bin/skopeo", "standalone-sign", manifest, name, cert.Fingerprint(), "-o", file); status != 0 {
				return fmt.Errorf("skopeo standalone-sign: %s", out)
			}
		}
		return nil
	}, dir, nil}
}

// gnupg returns a new, short home of GnuPG: its sockets have short names.
func gnupg(t *testing.T) string {
	t.Helper()
	home, err := os.MkdirTemp("", "gpg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run() // it may not have an agent
		if err := os.RemoveAll(home); err != nil {
			t.Error(err)
		}
	})
	return home
}

func manifestFile(t *testing.T, ref, file string) {
	t.Helper()
	repository, digest := splitSigned(ref)
	resp, err := http.Get("http://" + strings.Replace(repository, "/", "/v2/", 1) + "/manifests/" + digest)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, file, b)
}

// policyFor writes policy.json and registries.d for a trust folder, and returns
// the two, and a HOME where podman finds the second.
func policyFor(t *testing.T, trust, lookaside string) (policy, registries, home string) {
	t.Helper()
	home = t.TempDir()
	registries = filepath.Join(home, ".config", "containers", "registries.d")
	writeFile(t, filepath.Join(registries, "sealwright.yaml"), []byte("default-docker:\n  lookaside: "+lookaside+"\n"))
	writeFile(t, filepath.Join(home, ".config", "containers", "registries.conf"), []byte("[[registry]]\nlocation = \"127.0.0.1\"\ninsecure = true\n"))
	policy = filepath.Join(home, "policy.json")
	writeFile(t, policy, fmt.Appendf(nil, `{"default": [{"type": "reject"}], "transports": {"docker": {"": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": %q}]}}}`, filepath.Join(trust, "key.asc")))
	return policy, registries, home
}

func skopeoCopy(t *testing.T, ref, trust string) (bool, string) {
	return skopeoCopyFrom(t, ref, trust, "file://"+filepath.Join(trust, "sigs"))
}

func skopeoCopyFrom(t *testing.T, ref, trust, lookaside string) (bool, string) {
	policy, registries, home := policyFor(t, trust, lookaside)
	status, out := runWith(t, map[string]string{"GNUPGHOME": gnupg(t)}, home, "/usr/bin/skopeo", "--policy", policy, "--registries.d", registries, "copy", "--src-tls-verify=false", "docker://"+ref, "dir:"+t.TempDir())
	return status == 0, out
}

func podmanPull(t *testing.T, ref, trust string) (bool, string) {
	return podmanPullFrom(t, ref, trust, "file://"+filepath.Join(trust, "sigs"))
}

func podmanPullFrom(t *testing.T, ref, trust, lookaside string) (bool, string) {
	policy, _, home := policyFor(t, trust, lookaside)
	short, err := os.MkdirTemp("", "pod") // podman wants a short name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(short); err != nil {
			t.Error(err)
		}
	})
	status, out := runWith(t, map[string]string{"HOME": home, "GNUPGHOME": gnupg(t), "PATH": os.Getenv("PATH")}, home, "/usr/bin/podman", "--root", filepath.Join(short, "root"), "--runroot", filepath.Join(short, "run"), "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "pull", "--quiet", "--tls-verify=false", "--signature-policy", policy, ref)
	return status == 0, out
}

func simpleImage(t *testing.T, ref, trust string) (bool, string) {
	status, out := run(t, t.TempDir(), tool(t, "imageverify"), "-type", "signedBy", "-key", filepath.Join(trust, "key.asc"), "-lookaside", "file://"+filepath.Join(trust, "sigs"), "-identity", "matchRepoDigestOrExact", ref)
	if status > 1 {
		t.Fatalf("imageverify %s: exit status %d\n%s", ref, status, out)
	}
	return status == 0, out
}

func sealwrightSimple(t *testing.T, ref, trust string) (bool, string) {
	sigs, err := filepath.EvalSymlinks(filepath.Join(trust, "sigs"))
	if err != nil {
		t.Fatal(err)
	}
	status, out := run(t, t.TempDir(), tool(t, "person"), "verify", "--insecure-http", "--key", filepath.Join(trust, "key.asc"), "--lookaside", "file://"+sigs, ref)
	return status == 0, out
}

// each runs a program that looks at one signature on all of them, from the first
// until there is none, as those do that fetch them.
func each(t *testing.T, ref, trust string, try func(home, file, fingerprint string) (int, string)) (bool, string) {
	t.Helper()
	repository, digest := splitSigned(ref)
	home := gnupg(t)
	if status, out := runWith(t, map[string]string{"GNUPGHOME": home}, home, "/usr/bin/gpg", "--batch", "--import", filepath.Join(trust, "key.asc")); status != 0 {
		t.Fatalf("gpg --import: %s", out)
	}
	cert := certificateOf(t, trust)
	var said strings.Builder
	for n := 1; ; n++ {
		file := signaturePath(trust, repository, digest, n)
		if _, err := os.Stat(file); err != nil {
			return false, said.String() + "no more signatures"
		}
		status, out := try(home, file, cert.Fingerprint())
		if status == 0 {
			return true, out
		}
		said.WriteString(out)
	}
}

func gpgVerify(t *testing.T, ref, trust string) (bool, string) {
	return each(t, ref, trust, func(home, file, _ string) (int, string) {
		return runWith(t, map[string]string{"GNUPGHOME": home}, home, "/usr/bin/gpg", "--batch", "--trust-model", "always", "--verify", file)
	})
}

func skopeoStandalone(t *testing.T, ref, trust string) (bool, string) {
	return each(t, ref, trust, func(home, file, fingerprint string) (int, string) {
		manifest := filepath.Join(home, "manifest")
		manifestFile(t, ref, manifest)
		return runWith(t, map[string]string{"GNUPGHOME": home}, home, "/usr/bin/skopeo", "standalone-verify", manifest, ref, fingerprint, file)
	})
}

// fingerprintIn returns the first fingerprint of a list with colons.
func fingerprintIn(t *testing.T, listed string) string {
	t.Helper()
	for line := range strings.Lines(listed) {
		if f := strings.Split(line, ":"); f[0] == "fpr" && len(f) > 9 {
			return f[9]
		}
	}
	t.Fatalf("no fingerprint: %s", listed)
	return ""
}

func chmod(t *testing.T, path string) {
	t.Helper()
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
}
