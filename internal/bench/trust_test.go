//go:build bench

package bench

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/sealwright/sealwright/internal/devworld/notary"
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/signing"
)

// trustTags is how many tags of one repository are signed in one request.
const trustTags = 50

// notaryServer starts Debian's notary-server in memory, without TLS: that spares the
// peer a handshake for each of its processes.
func notaryServer(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := l.Addr().String()
	must(t, l.Close())
	file := filepath.Join(t.TempDir(), "server.json")
	must(t, os.WriteFile(file, fmt.Appendf(nil, `{"server":{"http_addr":%q},"trust_service":{"type":"local","key_algorithm":"ecdsa"},"storage":{"backend":"memory"},"logging":{"level":"error"}}`, address), 0o600))
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "notary-server", "-config", file)
	must(t, cmd.Start())
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // killed by cancel
	})
	for range 200 {
		if c, err := net.Dial("tcp", address); err == nil {
			must(t, c.Close())
			return "http://" + address
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("notary-server does not listen")
	return ""
}

// trusts measures one request that signs the tags of a repository, durable state,
// audit log and read-back included, against as many `notary addhash -p` on the same
// server, each of which adds, signs and publishes one tag.
func trusts(t *testing.T, tb *table) {
	rounds := setting(t, "ROUNDS", 3)
	h, server := memory(t), notaryServer(t)
	owners := map[signing.Repository]*notary.Owner{}
	row := dct.Config{URL: server, Repositories: []string{h.name}}
	for r := range rounds + 1 {
		gun := signing.Repository(fmt.Sprintf("%s/payments/trust-%d", h.name, r))
		owner, err := notary.NewOwner(gun)
		must(t, err)
		owners[gun] = owner
		row.Pins = append(row.Pins, dct.Pin{Repository: string(gun), RootKeys: []string{owner.Root.Key.ID}})
	}
	c := newCoreTrusted(t, h.name, nil, func(m method.Method) method.Method { return m }, func(key *ecdsa.PublicKey) []dct.Config {
		client, err := dct.Open([]dct.Config{row}, dct.Options{})
		must(t, err)
		for _, o := range owners {
			must(t, o.Init(t.Context(), client))
			must(t, o.Delegate(t.Context(), client, dct.RoleReleases, signing.KeyInfo{ID: "release-dct", Public: key}))
		}
		return []dct.Config{row}
	})
	c.policy = "trusted"
	var ours, theirs []time.Duration
	for r := -1; r < rounds; r++ { // the first warms up
		images := tagged(t, pushImages(t, h.name, fmt.Sprintf("trust-%d", r+1), trustTags, nil))
		took := timed(t, func() error { _, err := c.sign(t.Context(), images...); return err })
		mustBeTrusted(t, server, dct.RoleReleases, images)
		peer, others := addHashes(t, server, images)
		mustBeTrusted(t, server, dct.RoleTargets, others)
		if r >= 0 {
			ours, theirs = append(ours, took), append(theirs, peer)
		}
	}
	tb.ratio(fmt.Sprintf("t: one request of %d tags of one repository with Docker Content Trust", trustTags), median(ours), median(theirs), fmt.Sprintf("notary addhash -p, %d times", trustTags), 10)
}

// tagged gives each image a tag, in the registry too.
func tagged(t *testing.T, images []signing.Artifact) []signing.Artifact {
	t.Helper()
	for i := range images {
		images[i].Tag = fmt.Sprintf("v1.0.%d", i)
		ref, err := name.NewDigest(fmt.Sprintf("%s@%s", images[i].Repository, images[i].Digest), name.Insecure)
		must(t, err)
		d, err := remote.Get(ref)
		must(t, err)
		images[i].Size = d.Size
		must(t, remote.Tag(ref.Context().Tag(images[i].Tag), d))
	}
	return images
}

// addHashes binds the same tags to the same digests in a repository that notary has
// made, one process for each, and returns how long they took together.
func addHashes(t *testing.T, server string, images []signing.Artifact) (time.Duration, []signing.Artifact) {
	t.Helper()
	gun := string(images[0].Repository) + "-peer"
	env := map[string]string{}
	for _, k := range []string{"ROOT", "TARGETS", "SNAPSHOT", "DELEGATION"} {
		env["NOTARY_"+k+"_PASSPHRASE"] = "correct horse battery staple"
	}
	common := []string{"-s", server, "-d", t.TempDir()}
	program, err := exec.LookPath("notary")
	must(t, err)
	run(t, env, program, append(common, "init", "-p", gun)...)
	run(t, env, program, append(common, "key", "rotate", gun, "snapshot", "-r")...)
	var sum time.Duration
	out := make([]signing.Artifact, len(images))
	for i, a := range images {
		sum += run(t, env, program, append(common, "addhash", "-p", gun, a.Tag, fmt.Sprint(a.Size), "--sha256", a.Digest.Hex())...)
		a.Repository = signing.Repository(gun)
		out[i] = a
	}
	return sum, out
}

// mustBeTrusted fails unless a role binds every tag to its digest. It uses nothing of
// the product; the conformance suite has the verdict of Docker's own clients.
func mustBeTrusted(t *testing.T, server, role string, images []signing.Artifact) {
	t.Helper()
	raw, err := get(http.DefaultClient, server+"/v2/"+string(images[0].Repository)+"/_trust/tuf/"+role+".json")
	must(t, err)
	var doc struct {
		Signed struct {
			Targets map[string]struct {
				Hashes map[string][]byte
				Length int64
			}
		}
	}
	must(t, json.Unmarshal(raw, &doc))
	if len(doc.Signed.Targets) != len(images) {
		t.Fatalf("%d tags in %s, not %d", len(doc.Signed.Targets), role, len(images))
	}
	for _, a := range images {
		target := doc.Signed.Targets[a.Tag]
		if fmt.Sprintf("%x", target.Hashes["sha256"]) != a.Digest.Hex() || target.Length != a.Size {
			t.Fatalf("%s is bound to %x", a, target.Hashes["sha256"])
		}
	}
}

// TestTrust measures this part alone.
func TestTrust(t *testing.T) {
	tb := new(table)
	trusts(t, tb)
	fmt.Println(tb)
}
