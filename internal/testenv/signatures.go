package testenv

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"testing"
	"testing/fstest"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	regerr "github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/evidence"
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/method/cosign"
	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/method/notation"
	"github.com/sealwright/sealwright/internal/method/simple"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

func writeKey(path string) error {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// Signatures counts the layers of an artifact's `.sig` image, read with another
// client than the service's.
func (e *Env) Signatures(a signing.Artifact) int {
	e.T.Helper()
	ref, err := name.ParseReference(fmt.Sprintf("%s:sha256-%s.sig", a.Repository, a.Digest.Hex()), name.Insecure)
	must(e.T, err)
	img, err := remote.Image(ref)
	var te *regerr.Error
	if errors.As(err, &te) && te.StatusCode == http.StatusNotFound {
		return 0
	}
	must(e.T, err)
	layers, err := img.Layers()
	must(e.T, err)
	return len(layers)
}

// Referrers counts the referrers of an artifact of one type, read with another
// client than the service's.
func (e *Env) Referrers(a signing.Artifact, artifactType string) int {
	e.T.Helper()
	ref, err := name.NewDigest(fmt.Sprintf("%s@%s", a.Repository, a.Digest), name.Insecure)
	must(e.T, err)
	index, err := remote.Referrers(ref, remote.WithFilter("artifactType", artifactType))
	must(e.T, err)
	m, err := index.IndexManifest()
	must(e.T, err)
	return len(m.Manifests)
}

// LogSigner has the key of the log.
func (e *Env) LogSigner() *audit.Signer { return e.log }

// CheckEnvelope verifies an envelope the way an auditor does, without a registry.
func CheckEnvelope(t *signing.Task, key signing.KeyInfo, origin signing.Origin) error {
	m, ok := map[string]method.Method{cosign.Name: cosign.New(nil), notation.Name: notation.New(nil), dct.Name: dct.New(nil), simple.Name: simple.Offline()}[t.Step.Method]
	if !ok {
		return &signing.Error{Code: signing.Invalid, Message: "no such method", Found: t.Step.Method}
	}
	return method.CheckTask(m, t, key, origin)
}

// Bundles counts the bundles of an artifact: cosign finds them by their layer.
func (e *Env) Bundles(a signing.Artifact) (n int) {
	e.T.Helper()
	ref, err := name.NewDigest(fmt.Sprintf("%s@%s", a.Repository, a.Digest), name.Insecure)
	must(e.T, err)
	index, err := remote.Referrers(ref)
	must(e.T, err)
	list, err := index.IndexManifest()
	must(e.T, err)
	for _, d := range list.Manifests {
		img, err := remote.Image(ref.Digest(d.Digest.String()))
		must(e.T, err)
		m, err := img.Manifest()
		must(e.T, err)
		if len(m.Layers) == 1 && m.Layers[0].MediaType == cosign.BundleType {
			n++
		}
	}
	return n
}

// Manifests returns what an index lists.
func (e *Env) Manifests(a signing.Artifact) (out []signing.Artifact) {
	e.T.Helper()
	ref, err := name.NewDigest(fmt.Sprintf("%s@%s", a.Repository, a.Digest), name.Insecure)
	must(e.T, err)
	index, err := remote.Index(ref)
	must(e.T, err)
	list, err := index.IndexManifest()
	must(e.T, err)
	for _, d := range list.Manifests {
		out = append(out, signing.Artifact{Repository: a.Repository, Digest: signing.Digest(d.Digest.String())})
	}
	return out
}

// VerifyLog takes every event into the log, exports it, and verifies the
// export. It returns the events.
func (s *Service) VerifyLog() []audit.Event {
	t := s.Env.T
	t.Helper()
	must(t, s.Workflow.Sequence(context.Background()))
	files := fstest.MapFS{}
	_, err := audit.WriteExport(context.Background(), s.Store.LogSource(), func(name string, data []byte) error {
		files[name] = &fstest.MapFile{Data: data}
		return nil
	})
	must(t, err)
	if _, err := audit.VerifyExport(files, s.Env.log.Verifier().String(), nil); err != nil {
		t.Fatalf("the log does not verify: %v", err)
	}
	return s.events(t)
}

// VerifyEvidence takes the evidence of every Request that is over and verifies
// it as an auditor does. It returns how many there were.
func (s *Service) VerifyEvidence() (n int) {
	t := s.Env.T
	t.Helper()
	for _, ev := range s.VerifyLog() {
		if ev.Kind != audit.RequestSubmitted {
			continue
		}
		raw, err := s.Server.EvidenceOf(context.Background(), ev.Request, 0)
		if errors.Is(err, signing.Unavailable) { // it ended meanwhile
			must(t, s.Workflow.Sequence(context.Background()))
			raw, err = s.Server.EvidenceOf(context.Background(), ev.Request, 0)
		}
		if errors.Is(err, signing.Conflict) {
			continue // not over
		}
		must(t, err)
		if _, err := evidence.Verify(raw, evidence.Options{LogKey: s.Env.log.Verifier().String(), Envelope: CheckEnvelope}); err != nil {
			t.Fatalf("the evidence of %s does not verify: %v", ev.Request, err)
		}
		n++
	}
	return n
}

func (s *Service) events(t testing.TB) []audit.Event {
	t.Helper()
	var out []audit.Event
	must(t, s.Store.View(context.Background(), func(tx *store.Tx) error {
		_, size, err := tx.Checkpoint()
		if err != nil {
			return err
		}
		for from := uint64(0); from < size; from += audit.TileWidth {
			leaves, err := tx.LogEntries(from, min(from+audit.TileWidth, size))
			if err != nil {
				return err
			}
			for _, leaf := range leaves {
				ev, err := audit.ParseEvent(leaf)
				if err != nil {
					return err
				}
				out = append(out, ev)
			}
		}
		return nil
	}))
	return out
}
