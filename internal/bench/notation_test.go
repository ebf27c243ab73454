//go:build bench

package bench

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sealwright/sealwright/internal/key/keytest"
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/signing"
)

// notationAtOnce is how many images the peer signs at once.
const notationAtOnce = 8

const notationArtifactType = "application/vnd.cncf.notary.signature"

// writeCertified makes release-x509.key and release-x509.crt.
func writeCertified(t testing.TB, dir string) *ecdsa.PublicKey {
	t.Helper()
	public := writeKey(t, filepath.Join(dir, "release-x509.key"))
	chain := keytest.Chain(t, public, time.Now().AddDate(-1, 0, 0), time.Now().AddDate(1, 0, 0))
	must(t, os.WriteFile(filepath.Join(dir, "release-x509.crt"), chain, 0o600))
	return public
}

// unread is a method that believes what it wrote: the product reads every
// signature back, and has no such switch.
type unread struct{ method.Method }

func (m unread) Verify(_ context.Context, t method.Target, _ signing.Envelope) ([]signing.Location, error) {
	return []signing.Location{{Kind: "referrer", URI: string(t.Artifact.Repository) + "@" + string(t.Artifact.Digest)}}, nil
}

// notations measures one request of n images signed with notation, durable state,
// audit log and read-back included, against one process that signs and pushes as
// many with notation-go and oras.
func notations(t *testing.T, tb *table) {
	rounds, n := setting(t, "ROUNDS", 3), setting(t, "IMAGES", 100)
	for _, h := range []*host{distribution(t), memory(t)} {
		c := newCore(t, h.name, nil)
		blind := newCoreWith(t, h.name, nil, func(m method.Method) method.Method { return unread{m} })
		c.policy, blind.policy = "notation", "notation"
		dir := t.TempDir()
		peerKey := writeCertified(t, dir)
		peer := func(images []signing.Artifact) time.Duration {
			args := []string{"sign", "-key", filepath.Join(dir, "release-x509.key"), "-certificates", filepath.Join(dir, "release-x509.crt"), "-at-once", fmt.Sprint(notationAtOnce)}
			return run(t, nil, tool(t, "NOTATIONVERIFY"), append(args, references(images)...)...)
		}
		var ours, without, theirs []time.Duration
		var sent int64
		var used [3]time.Duration
		counted := func(into int, f func() time.Duration) time.Duration {
			before := cpuTime(t, syscall.RUSAGE_SELF) + cpuTime(t, syscall.RUSAGE_CHILDREN)
			took := f()
			used[into] += cpuTime(t, syscall.RUSAGE_SELF) + cpuTime(t, syscall.RUSAGE_CHILDREN) - before
			return took
		}
		for r := -1; r < rounds; r++ { // the first warms up
			one := pushImages(t, h.name, fmt.Sprintf("notation-%d", r+1), n, nil)
			before := c.sent.n.Load()
			took := counted(0, func() time.Duration {
				return timed(t, func() error { _, err := c.sign(t.Context(), one...); return err })
			})
			count := c.sent.n.Load() - before
			mustBeNotarised(t, one, c.x509)
			two := pushImages(t, h.name, fmt.Sprintf("unread-%d", r+1), n, nil)
			tookBlind := counted(1, func() time.Duration {
				return timed(t, func() error { _, err := blind.sign(t.Context(), two...); return err })
			})
			mustBeNotarised(t, two, blind.x509)
			three := pushImages(t, h.name, fmt.Sprintf("peer-%d", r+1), n, nil)
			tookPeer := counted(2, func() time.Duration { return peer(three) })
			mustBeNotarised(t, three, peerKey)
			if r >= 0 {
				ours, without, theirs, sent = append(ours, took), append(without, tookBlind), append(theirs, tookPeer), sent+count
			}
		}
		name := fmt.Sprintf("notation-go + oras, %d at a time", notationAtOnce)
		tb.ratio(fmt.Sprintf("n: one request of %d images with notation, %s", n, h.kind), median(ours), median(theirs), name, 0.7)
		tb.ratio(fmt.Sprintf("n: the same, read-back off (in the harness only), %s", h.kind), median(without), median(theirs), name, 1)
		if h.kind == "memory" { // else the registry's share is not seen
			per := func(i int) string { return fmt.Sprintf("%.2f ms", float64(used[i])/1e6/float64((rounds+1)*n)) }
			tb.info("n: CPU for each signature, the registry included; read-back off", per(0)+"; "+per(1), per(2)+" ("+name+")")
		}
		tb.info("n: HTTP requests per signature, whole cycle, "+h.kind, figure(float64(sent)/float64(rounds*n), ""), "")
	}
}

// mustBeNotarised fails unless every image has exactly one notation signature,
// and that by the key. It uses nothing of the product.
func mustBeNotarised(t testing.TB, images []signing.Artifact, key *ecdsa.PublicKey) {
	t.Helper()
	g := new(errgroup.Group)
	g.SetLimit(8)
	for _, a := range images {
		g.Go(func() error {
			if err := notarised(a, key); err != nil {
				return fmt.Errorf("%s: %w", a, err)
			}
			return nil
		})
	}
	must(t, g.Wait())
}

func notarised(a signing.Artifact, key *ecdsa.PublicKey) error {
	base, client := "http://"+a.Repository.Host()+"/v2/"+a.Repository.Path(), http.DefaultClient
	raw, err := get(client, base+"/referrers/"+string(a.Digest))
	if err != nil {
		raw, err = get(client, base+"/manifests/sha256-"+a.Digest.Hex()) // the fallback tag
	}
	if err != nil {
		return err
	}
	type descriptor struct {
		ArtifactType string `json:"artifactType"`
		Digest       string `json:"digest"`
	}
	var index struct {
		Manifests []descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		return err
	}
	if len(index.Manifests) != 1 || index.Manifests[0].ArtifactType != notationArtifactType {
		return fmt.Errorf("referrers %+v, not one signature", index.Manifests)
	}
	if raw, err = get(client, base+"/manifests/"+index.Manifests[0].Digest); err != nil {
		return err
	}
	var m struct {
		Subject descriptor   `json:"subject"`
		Layers  []descriptor `json:"layers"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return err
	}
	if m.Subject.Digest != string(a.Digest) || len(m.Layers) != 1 {
		return errors.New("a signature of something else")
	}
	if raw, err = get(client, base+"/blobs/"+m.Layers[0].Digest); err != nil {
		return err
	}
	var envelope struct{ Payload, Protected, Signature string }
	if err := json.Unmarshal(raw, &envelope); err != nil {
		return err
	}
	payload, err := base64.RawURLEncoding.DecodeString(envelope.Payload)
	if err != nil {
		return err
	}
	var said struct{ TargetArtifact descriptor }
	if err := json.Unmarshal(payload, &said); err != nil {
		return err
	}
	signature, err := base64.RawURLEncoding.DecodeString(envelope.Signature)
	hash := sha256.Sum256([]byte(envelope.Protected + "." + envelope.Payload))
	if err != nil || len(signature) != 64 || said.TargetArtifact.Digest != string(a.Digest) ||
		!ecdsa.Verify(key, hash[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])) {
		return errors.New("the signature does not verify")
	}
	return nil
}
