//go:build conformance

package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/approval"
	"github.com/sealwright/sealwright/internal/devworld"
	forges "github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/testenv"
)

// leavingTags is how many tags are signed on the notary server.
const leavingTags = 50

// notaryClient runs Debian's notary client against a server with a trust folder.
type notaryClient struct {
	t                    *testing.T
	url, ca, trust, home string
}

func (n notaryClient) run(args ...string) string {
	n.t.Helper()
	env := map[string]string{"NOTARY_ROOT_PASSPHRASE": "passphrase", "NOTARY_TARGETS_PASSPHRASE": "passphrase", "NOTARY_SNAPSHOT_PASSPHRASE": "passphrase", "NOTARY_DELEGATION_PASSPHRASE": "passphrase"}
	status, out := runWith(n.t, env, n.home, debian(n.t, "notary"), append([]string{"-s", n.url, "--tlscacert", n.ca, "-d", n.trust}, args...)...)
	if status != 0 {
		n.t.Fatalf("notary %v: exit status %d\n%s", args, status, out)
	}
	return out
}

// guide returns the blocks of the guide that have the mark.
func guide(t *testing.T, mark string) string {
	t.Helper()
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "leaving-docker-content-trust.md"))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, m := range regexp.MustCompile("(?s)```sh elsewhere "+mark+"\n(.*?)```").FindAllStringSubmatch(string(doc), -1) {
		out.WriteString(m[1])
	}
	if out.Len() == 0 {
		t.Fatalf("the guide has no commands %s", mark)
	}
	return out.String()
}

// TestTheGuideOutOfDockerContentTrustIsFollowed follows the commands of
// docs/leaving-docker-content-trust.md as they are written there: only the settings,
// the list of repositories, and who is logged in are the test's.
func TestTheGuideOutOfDockerContentTrustIsFollowed(t *testing.T) {
	world := testenv.NewWorld(t, true)
	policy := testenv.Policy + "  leaving:\n    origin: {human: {max_age: 168h}}\n    approvals: {required: 1, from: [\"github.test:acme/release\"], ways: [comment, api]}\n    sign: [{method: cosign, key: release}]\n"
	keys := "\n  - id: release\n    file: file:DIR/release.key\n    methods: [cosign]\n    allow: [{project: payments, policy: release, repositories: [\"HOST/payments/*\"]}, {project: payments, policy: leaving, repositories: [\"HOST/payments/*\"]}]\n"
	f := testenv.NewMemory("github.test", time.Now)
	f.Person("101", "ann", "github.test:acme/release")
	f.Person("102", "bob", "github.test:acme/release")
	people := []approval.Person{
		{Name: "Ann", Accounts: []string{"github.test:101"}, Identities: []approval.PersonIdentity{{Issuer: world.People.URL(), Subject: "00u1ann"}}},
		{Name: "Bob", Accounts: []string{"github.test:102"}, Identities: []approval.PersonIdentity{{Issuer: world.People.URL(), Subject: "00u2bob"}}},
	}
	env := testenv.New(t, testenv.Options{World: world, Policy: policy, Keys: keys, People: people, Forges: map[string]forges.Forge{"github.test": f}})
	service := env.Start(nil)

	// A notary server with 50 signed tags, by its own client.
	gun := world.Registry.Host + "/payments/web"
	server := memoryNotary(t)
	home := t.TempDir()
	n := notaryClient{t, server.url, server.ca, filepath.Join(home, "trust"), home}
	n.run("init", gun)
	digests := map[string]bool{}
	for i := range leavingTags {
		a := env.Image(fmt.Sprint("leaving ", i))
		digests[string(a.Digest)] = true
		n.run("addhash", gun, fmt.Sprintf("v%d", i), "1000", "--sha256", strings.TrimPrefix(string(a.Digest), "sha256:"))
	}
	n.run("publish", gun)
	root := regexp.MustCompile(`(?m)^\s*root\s+.*?([0-9a-f]{64})`).FindStringSubmatch(n.run("key", "list"))
	if root == nil {
		t.Fatalf("no root key in:\n%s", n.run("key", "list"))
	}

	dir := t.TempDir()
	token := func(subject string, roles ...string) string {
		raw, err := world.People.PersonToken(devworld.Person{Subject: subject, Groups: roles}, testenv.PeopleAudience)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, subject)
		save(t, path, raw)
		return path
	}
	bin := t.TempDir()
	for name, path := range map[string]string{"sealwright": tool(t, "person"), "cosign": tool(t, "cosign3")} {
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	save(t, filepath.Join(dir, "repositories.txt"), gun+"\n")
	settings := map[string]string{"NOTARY": n.url, "ROOT_KEYS": root[1], "SEALWRIGHT_SERVER": service.HTTP.URL, "SSL_CERT_FILE": n.ca, "PATH": bin + ":" + os.Getenv("PATH")}
	follow := func(mark, tokenFile string) {
		t.Helper()
		settings["SEALWRIGHT_TOKEN_FILE"] = tokenFile
		if status, out := runWith(t, settings, dir, "/bin/sh", "-eu", "-c", guide(t, mark)); status != 0 {
			t.Fatalf("%s: exit status %d\n%s", mark, status, out)
		}
	}
	ann, bob := token("00u1ann", "submitter", "auditor"), token("00u2bob", "approver", "auditor")
	follow("leaving", ann)
	follow("leaving-approve", bob)
	follow("leaving-wait", ann)
	follow("leaving-verify", ann)

	verified := strings.Fields(text(t, filepath.Join(dir, "verified.txt")))
	if len(verified) != leavingTags {
		t.Errorf("%d images verified, want %d", len(verified), leavingTags)
	}
	for _, image := range verified {
		if _, digest, _ := strings.Cut(image, "@"); !digests[digest] {
			t.Errorf("%s was not signed on the notary server", image)
		}
	}
	// One that was not in the list has no signature.
	other := env.Image("not in the list")
	if accepted, _ := cosignVerify("cosign3")(t, fmt.Sprintf("%s@%s", other.Repository, other.Digest), filepath.Join(dir, "release.pub")); accepted {
		t.Error("an image that is not in the list is accepted")
	}
}

func text(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
