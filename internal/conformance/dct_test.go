//go:build conformance

package conformance

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/devworld"
	notary1 "github.com/sealwright/sealwright/internal/devworld/notary"
	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

// trustLab is a repository on a notary-server, our service, and the clients of others.
type trustLab struct {
	*testing.T
	server  trustServer
	world   *devworld.World
	env     *testenv.Env
	service *testenv.Service
	gun     string
	home    string // of docker and notary, whose keys are in it
	trust   string // notary's trust folder
	file    string // our delegation's certificate
	runs    int
	pushed  int
}

// newTrustLab starts everything but the service, which needs a root key to pin.
func newTrustLab(t *testing.T, server trustServer, path string) *trustLab {
	t.Helper()
	l := &trustLab{T: t, server: server, world: testenv.NewWorld(t, true), home: t.TempDir(), trust: t.TempDir(), runs: 9000}
	l.env = testenv.New(t, testenv.Options{World: l.world, Policy: testenv.PolicySigning(`- {method: dct, key: release-dct, options: {roles: "releases,ci", move: "true", remove: "true"}}` + "\n")})
	l.env.MakeCertifiedKey("release-dct")
	l.gun = l.world.Registry.Host + "/payments/" + path
	k, err := dct.KeyFor(l.env.Certified("release-dct"))
	if err != nil {
		t.Fatal(err)
	}
	l.file = filepath.Join(t.TempDir(), "release.pem")
	l.write(l.file, k.PEM())
	ca, err := os.ReadFile(server.ca)
	if err != nil {
		t.Fatal(err)
	}
	l.write(filepath.Join(l.home, ".docker", "tls", server.host, "ca.crt"), ca)
	return l
}

func (l *trustLab) write(path string, raw []byte) {
	l.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = os.WriteFile(path, raw, 0o600)
	}
	if err != nil {
		l.Fatal(err)
	}
}

// start runs the service with a pinned root key.
func (l *trustLab) start(root string) {
	l.Helper()
	l.env.Options.Notaries = []dct.Config{{URL: l.server.url, Connection: registry.Connection{CAFile: l.server.ca}, Repositories: []string{l.world.Registry.Host}, Pins: []dct.Pin{{Repository: l.gun, RootKeys: []string{root}}}}}
	l.service = l.env.Start(nil)
}

// sign asks the service through sealwright-ci.
func (l *trustLab) sign(args ...string) {
	l.Helper()
	l.runs++
	job := devworld.NewGitHubJob()
	job.RunID = strconv.Itoa(l.runs)
	all := append([]string{"--server", l.service.HTTP.URL, "--audience", testenv.Audience, "--policy", "release"}, args...)
	if status, out := runWith(l.T, l.world.GitHub.RegisterGitHubJob(job), l.TempDir(), tool(l.T, "ci_step"), all...); status != 0 {
		l.Fatalf("sealwright-ci: exit status %d: %s", status, out)
	}
}

// push makes an image and returns it as REPOSITORY@DIGEST, and the digest's hex.
func (l *trustLab) push(tag string) (ref, hex string) {
	l.Helper()
	l.pushed++
	_, path, _ := strings.Cut(l.gun, "/")
	a, err := l.world.Registry.PushImage(l.Context(), devworld.ImageSpec{Repository: path, Tag: tag, Content: fmt.Sprint(tag, l.Name(), l.pushed)})
	if err != nil {
		l.Fatal(err)
	}
	return a.Reference(), strings.TrimPrefix(a.Digest, "sha256:")
}

// owner is the environment of docker and notary with the keys of the repository.
func (l *trustLab) owner() map[string]string {
	out := map[string]string{"HOME": l.home, "DOCKER_CONTENT_TRUST_SERVER": l.server.url, "PATH": os.Getenv("PATH")}
	for _, k := range []string{"NOTARY_ROOT", "NOTARY_TARGETS", "NOTARY_SNAPSHOT", "NOTARY_DELEGATION", "DOCKER_CONTENT_TRUST_ROOT", "DOCKER_CONTENT_TRUST_REPOSITORY"} {
		out[k+"_PASSPHRASE"] = "correct horse battery staple"
	}
	return out
}

// docker and notary run a command of the owner, which has to succeed.
func (l *trustLab) docker(args ...string) { l.Helper(); l.must("docker", args...) }
func (l *trustLab) notary(args ...string) {
	l.Helper()
	l.must("notary", append([]string{"-s", l.server.url, "--tlscacert", l.server.ca, "-d", l.trust}, args...)...)
}
func (l *trustLab) must(name string, args ...string) {
	l.Helper()
	if status, out := runWith(l.T, l.owner(), l.TempDir(), debian(l.T, name), args...); status != 0 {
		l.Fatalf("%s %s: exit status %d\n%s", name, strings.Join(args, " "), status, out)
	}
}

// rootKey returns the id of the root key that is in the owner's trust folder.
func (l *trustLab) rootKey(folder string) string {
	l.Helper()
	raw, err := os.ReadFile(filepath.Join(folder, "tuf", l.gun, "metadata", "root.json"))
	if err != nil {
		l.Fatal(err)
	}
	var doc struct {
		Signed struct {
			Roles map[string]struct{ KeyIDs []string }
		}
	}
	if err := json.Unmarshal(raw, &doc); err != nil || len(doc.Signed.Roles["root"].KeyIDs) != 1 {
		l.Fatalf("root.json of the owner: %v", err)
	}
	return doc.Signed.Roles["root"].KeyIDs[0]
}

// trusted is what each client of others says of a tag: the digest, empty if refused.
// Each starts with a home and a trust folder that have seen nothing.
func (l *trustLab) trusted(tag, root string) map[string]string {
	l.Helper()
	home := l.TempDir()
	ca, err := os.ReadFile(l.server.ca)
	if err != nil {
		l.Fatal(err)
	}
	l.write(filepath.Join(home, ".docker", "tls", l.server.host, "ca.crt"), ca)
	stranger := map[string]string{"HOME": home, "DOCKER_CONTENT_TRUST_SERVER": l.server.url, "DOCKER_HOST": "unix:///nowhere"}
	out := map[string]string{}

	status, said := runWith(l.T, stranger, l.TempDir(), debian(l.T, "docker"), "trust", "inspect", l.gun+":"+tag)
	var inspected []struct {
		SignedTags []struct{ SignedTag, Digest string }
	}
	if status == 0 && json.Unmarshal([]byte(said), &inspected) == nil && len(inspected) == 1 && len(inspected[0].SignedTags) == 1 {
		out["docker trust inspect"] = inspected[0].SignedTags[0].Digest
	} else {
		out["docker trust inspect"] = ""
	}

	pull := map[string]string{"DOCKER_CONTENT_TRUST": "1"}
	for k, v := range stranger {
		pull[k] = v
	}
	// Without an engine it says what it would pull, and fails then.
	_, said = runWith(l.T, pull, l.TempDir(), debian(l.T, "docker"), "pull", l.gun+":"+tag)
	_, after, _ := strings.Cut(said, "Pull (1 of 1): "+l.gun+":"+tag+"@sha256:")
	out["docker pull"] = after[:min(len(after), 64)]

	pin := filepath.Join(home, "pin.json")
	l.write(pin, fmt.Appendf(nil, `{"trust_pinning":{"disable_tofu":true,"certs":{%q:[%q]}}}`, l.gun, root))
	status, said = runWith(l.T, stranger, l.TempDir(), debian(l.T, "notary"), "-c", pin, "-s", l.server.url, "--tlscacert", l.server.ca, "-d", filepath.Join(home, "trust"), "lookup", l.gun, tag)
	out["notary lookup"] = ""
	if _, after, ok := strings.Cut(said, tag+" sha256:"); ok && status == 0 {
		out["notary lookup"] = after[:min(len(after), 64)]
	}
	return out
}

// want compares what all clients say of a tag with a digest; empty is a refusal.
func (l *trustLab) want(tag, root, digest string) {
	l.Helper()
	for client, got := range l.trusted(tag, root) {
		if got != digest {
			l.Errorf("%s takes %s for %q, want %q", client, tag, got, digest)
		}
	}
}

func TestTagsAreTrustedByDockerAndNotary(t *testing.T) {
	for name, open := range trustServers() {
		t.Run(name, func(t *testing.T) {
			server := open(t)
			t.Run("repository of the notary client", func(t *testing.T) { ofNotary(newTrustLab(t, server, "notary")) })
			t.Run("repository of docker trust", func(t *testing.T) { ofDocker(newTrustLab(t, server, "docker")) })
			t.Run("repository of ours", func(t *testing.T) { ofOurs(newTrustLab(t, server, "ours")) })
		})
	}
}

// life signs, moves and withdraws tags, and asks everybody each time.
func (l *trustLab) life(root string) {
	l.Helper()
	first, one := l.push("v1.0.0")
	l.want("v1.0.0", root, "") // nobody has signed it
	l.sign("--sign-tag", "v1.0.0", first)
	l.want("v1.0.0", root, one)
	l.want("v2.0.0", root, "")
	second, two := l.push("v2.0.0")
	l.sign("--sign-tag", "v2.0.0", second)
	l.want("v1.0.0", root, one)
	l.want("v2.0.0", root, two)
	moved, three := l.push("v1.0.0")
	l.sign("--sign-tag", "v1.0.0", moved) // as the policy allows
	l.want("v1.0.0", root, three)
	last, four := l.push("v3.0.0")
	l.sign("--sign-tag", "v3.0.0", "--untrust", l.gun+":v1.0.0", last)
	l.want("v1.0.0", root, "")
	l.want("v2.0.0", root, two)
	l.want("v3.0.0", root, four)
	if got := l.trusted("v3.0.0", strings.Repeat("0", 64))["notary lookup"]; got != "" {
		l.Errorf("notary with another root pinned takes it for %q", got)
	}
}

// ofNotary is initialised by `notary init`, and signed by both.
func ofNotary(l *trustLab) {
	l.notary("init", "-p", l.gun)
	l.notary("key", "rotate", l.gun, "snapshot", "-r")
	for _, role := range []string{"targets/releases", "targets/ci"} {
		l.notary("delegation", "add", "-p", l.gun, role, l.file, "--all-paths")
	}
	root := l.rootKey(l.trust)
	l.start(root)
	l.life(root)
	// The owner goes on with notary, and we after that: nobody's tags are lost.
	_, hex := l.push("v4.0.0")
	l.notary("addhash", "-p", l.gun, "v4.0.0", "600", "--sha256", hex)
	l.want("v4.0.0", root, hex)
	l.want("v3.0.0", root, l.trusted("v3.0.0", root)["notary lookup"])
	again, five := l.push("v5.0.0")
	l.sign("--sign-tag", "v5.0.0", again)
	l.want("v5.0.0", root, five)
	l.want("v4.0.0", root, hex)
}

// ofDocker is initialised by `docker trust signer add`, which delegates to our key.
func ofDocker(l *trustLab) {
	l.docker("trust", "signer", "add", "--key", l.file, "ci", l.gun)
	root := l.rootKey(filepath.Join(l.home, ".docker", "trust"))
	l.start(root)
	l.life(root)
	status, said := runWith(l.T, l.owner(), l.TempDir(), debian(l.T, "docker"), "trust", "inspect", l.gun)
	if status != 0 || !strings.Contains(said, `"ci"`) {
		l.Errorf("docker does not name the signer: %d %s", status, said)
	}
}

// ofOurs is initialised through our own client, as `sealwrightd dct init` does, and
// signed by the notary client with a delegated key of its own besides.
func ofOurs(l *trustLab) {
	owner, err := notary1.NewOwner(signing.Repository(l.gun))
	if err != nil {
		l.Fatal(err)
	}
	root := owner.Root.Key.ID
	client, err := dct.Open([]dct.Config{{URL: l.server.url, Connection: registry.Connection{CAFile: l.server.ca}, Repositories: []string{l.gun}, Pins: []dct.Pin{{Repository: l.gun, RootKeys: []string{root}}}}}, dct.Options{})
	if err == nil {
		err = owner.Init(l.Context(), client)
	}
	for _, role := range []string{"targets/releases", "targets/ci"} {
		if err == nil {
			err = owner.Delegate(l.Context(), client, role, l.env.Certified("release-dct"))
		}
	}
	if err != nil {
		l.Fatal(err)
	}
	l.start(root)
	l.life(root)

	colleague, err := notary1.NewSigner("colleague")
	if err == nil {
		err = owner.Delegate(l.Context(), client, dct.RoleReleases, signing.KeyInfo{ID: "colleague", Public: colleague.Private.Public(), Chain: colleague.Key.Certificates})
	}
	if err != nil {
		l.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(colleague.Private.(*ecdsa.PrivateKey))
	if err != nil {
		l.Fatal(err)
	}
	file := filepath.Join(l.TempDir(), "colleague.pem")
	l.write(file, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Headers: map[string]string{"role": "colleague"}, Bytes: der}))
	l.notary("key", "import", file, "--role", "colleague")
	_, hex := l.push("v6.0.0")
	l.notary("addhash", "-p", "-r", "targets/releases", l.gun, "v6.0.0", "600", "--sha256", hex)
	l.want("v6.0.0", root, hex)
	again, seven := l.push("v7.0.0")
	l.sign("--sign-tag", "v7.0.0", again)
	l.want("v6.0.0", root, hex)
	l.want("v7.0.0", root, seven)
}

func TestATamperedTwinIsRefusedByDockerAndNotary(t *testing.T) {
	server := memoryNotary(t)
	l := newTrustLab(t, server, "twin")
	l.notary("init", "-p", l.gun)
	l.notary("key", "rotate", l.gun, "snapshot", "-r")
	for _, role := range []string{"targets/releases", "targets/ci"} {
		l.notary("delegation", "add", "-p", l.gun, role, l.file, "--all-paths")
	}
	root := l.rootKey(l.trust)
	l.start(root)
	first, one := l.push("v1.0.0")
	l.sign("--sign-tag", "v1.0.0", first)
	l.want("v1.0.0", root, one)
	l.server = altering(t, server, `"v1.0.0"`, `"v1.0.1"`)
	l.want("v1.0.0", root, "")
	l.want("v1.0.1", root, "")
	l.server = altering(t, server, "nothing that is there", "")
	l.want("v1.0.0", root, one)
}
