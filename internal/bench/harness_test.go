//go:build bench

package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/sealwright/sealwright/internal/signing"
)

// commandTimeout ends a program that hangs. The slowest signs 100 images.
const commandTimeout = 5 * time.Minute

// tool returns the path of a program that .ci/bench built.
func tool(t testing.TB, name string) string {
	t.Helper()
	path := os.Getenv("SEALWRIGHT_" + name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("SEALWRIGHT_%s: %v: run `make bench`, which builds what is measured", name, err)
	}
	return path
}

// run runs a program to its end, in an environment of its own, and returns how
// long the whole process took. A program that fails ends the run.
func run(t testing.TB, env map[string]string, program string, args ...string) time.Duration {
	t.Helper()
	took, _ := output(t, env, program, args...)
	return took
}

func output(t testing.TB, env map[string]string, program string, args ...string) (time.Duration, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	home := t.TempDir()
	cmd.Dir = home
	// The proxy that is not there keeps programs from asking the internet for
	// anything; Go never uses a proxy for loopback.
	cmd.Env = []string{"HOME=" + home, "TMPDIR=" + home, "COSIGN_PASSWORD=", "HTTPS_PROXY=http://127.0.0.1:1", "HTTP_PROXY=http://127.0.0.1:1"}
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	started := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(started)
	if err != nil {
		t.Fatalf("%s: %v\n%s", filepath.Base(program), err, out)
	}
	return took, string(out)
}

// host is a registry under measurement.
type host struct {
	kind, name string
	requests   atomic.Int64 // seen by the in-memory one; the other does not count
}

// memory starts a registry in memory that listens on loopback.
func memory(t testing.TB) *host {
	t.Helper()
	h := &host{kind: "memory"}
	next := registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true)) // as crane registry serve
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.requests.Add(1)
		next.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	h.name = strings.TrimPrefix(s.URL, "http://")
	return h
}

// distribution starts a distribution registry over a folder.
func distribution(t testing.TB) *host {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	text := "version: 0.1\nlog: {level: info, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: " + filepath.Join(dir, "data") + "}}\nhttp: {addr: '127.0.0.1:0'}\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tool(t, "REGISTRY"), "serve", config)
	cmd.Env = []string{"HOME=" + dir, "OTEL_TRACES_EXPORTER=none"}
	pipe, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	line := start(t, cmd, pipe, `msg="listening on `)
	_, after, _ := strings.Cut(line, `msg="listening on `)
	name, _, _ := strings.Cut(after, `"`)
	return &host{kind: "distribution", name: name}
}

// start starts a process that ends with the test, and returns the first line of
// pipe that holds wanted.
func start(t testing.TB, cmd *exec.Cmd, pipe io.Reader, wanted string) string {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended by itself
		_ = cmd.Wait()         // killed
	})
	var seen strings.Builder
	for lines := bufio.NewScanner(pipe); lines.Scan(); {
		fmt.Fprintln(&seen, lines.Text())
		if strings.Contains(lines.Text(), wanted) {
			go func() { _, _ = io.Copy(io.Discard, pipe) }() // so that it never blocks on its log
			return lines.Text()
		}
	}
	t.Fatalf("%s ended without saying %q:\n%s", cmd.Path, wanted, seen.String())
	return ""
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // nothing was sent
	return l.Addr().String()
}

// pushImages pushes n different images to payments/NAME: a config, a layer, and a
// manifest for each. A nil transport is that of the network.
func pushImages(t testing.TB, registry, repository string, n int, via http.RoundTripper) []signing.Artifact {
	t.Helper()
	repo, err := name.NewRepository(registry+"/payments/"+repository, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	options := []remote.Option{remote.WithContext(t.Context())}
	if via != nil {
		options = append(options, remote.WithTransport(via))
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	base, err = mutate.ConfigFile(base, &v1.ConfigFile{Architecture: "amd64", OS: "linux", Config: v1.Config{Labels: map[string]string{"stage": "prod"}}})
	if err == nil {
		base, err = mutate.Append(base, mutate.Addendum{Layer: static.NewLayer([]byte("a layer of "+repository), types.OCIUncompressedLayer), MediaType: types.OCIUncompressedLayer})
	}
	if err == nil {
		err = remote.Write(repo.Tag("base"), base, options...)
	}
	if err != nil {
		t.Fatal(err)
	}
	out := make([]signing.Artifact, n)
	g := new(errgroup.Group)
	g.SetLimit(8)
	for i := range n {
		g.Go(func() error {
			img, ok := mutate.Annotations(base, map[string]string{"org.opencontainers.image.version": fmt.Sprintf("1.0.%d", i)}).(v1.Image)
			if !ok {
				return errors.New("annotating an image made something else")
			}
			d, err := img.Digest()
			if err != nil {
				return err
			}
			out[i] = signing.Artifact{Repository: signing.Repository(repo.Name()), Digest: signing.Digest(d.String())}
			return remote.Put(repo.Digest(d.String()), img, options...)
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return out
}

func references(images []signing.Artifact) []string {
	var out []string
	for _, a := range images {
		out = append(out, string(a.Repository)+"@"+string(a.Digest))
	}
	return out
}

// mustBeSigned fails unless every image has exactly one signature, and that by
// the key, over its digest. It uses nothing of the product.
func mustBeSigned(t testing.TB, images []signing.Artifact, key *ecdsa.PublicKey, via http.RoundTripper) {
	t.Helper()
	client := &http.Client{Transport: via}
	if via == nil {
		client.Transport = http.DefaultTransport
	}
	g := new(errgroup.Group)
	g.SetLimit(8)
	for _, a := range images {
		g.Go(func() error {
			if err := signed(client, a, key); err != nil {
				return fmt.Errorf("%s: %w", a, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

func signed(client *http.Client, a signing.Artifact, key *ecdsa.PublicKey) error {
	base := "http://" + a.Repository.Host() + "/v2/" + a.Repository.Path()
	raw, err := get(client, base+"/manifests/sha256-"+a.Digest.Hex()+".sig")
	if err != nil {
		return err
	}
	var m struct {
		Layers []struct {
			Digest      string            `json:"digest"`
			Annotations map[string]string `json:"annotations"`
		} `json:"layers"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return err
	}
	if len(m.Layers) != 1 {
		return fmt.Errorf("%d signatures, not one", len(m.Layers))
	}
	payload, err := get(client, base+"/blobs/"+m.Layers[0].Digest)
	if err != nil {
		return err
	}
	signature, err := base64.StdEncoding.DecodeString(m.Layers[0].Annotations["dev.cosignproject.cosign/signature"])
	if err != nil {
		return err
	}
	hash := sha256.Sum256(payload)
	if !bytes.Contains(payload, []byte(a.Digest)) || !ecdsa.VerifyASN1(key, hash[:], signature) {
		return errors.New("the signature does not verify")
	}
	return nil
}

func get(client *http.Client, url string) ([]byte, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", string(types.OCIManifestSchema1)) // distribution has nothing for those who do not say it
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // read only
	raw, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answered %s", url, resp.Status)
	}
	return raw, err
}

func readPublic(t testing.TB, path string) *ecdsa.PublicKey {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		t.Fatalf("%s is not PEM", path)
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key, ok := public.(*ecdsa.PublicKey)
	if !ok {
		t.Fatalf("%s holds a %T", path, public)
	}
	return key
}

// cosignPeer is the cosign CLI with a key pair of its own.
type cosignPeer struct {
	dir    string
	public *ecdsa.PublicKey
}

func newCosign(t testing.TB) *cosignPeer {
	t.Helper()
	c := &cosignPeer{dir: t.TempDir()}
	run(t, nil, tool(t, "COSIGN2"), "generate-key-pair", "--output-key-prefix", filepath.Join(c.dir, "cosign"))
	c.public = readPublic(t, filepath.Join(c.dir, "cosign.pub"))
	return c
}

// sign signs all images in one process.
func (c *cosignPeer) sign(t testing.TB, images []signing.Artifact) time.Duration {
	t.Helper()
	args := []string{"sign", "--key", filepath.Join(c.dir, "cosign.key"), "--tlog-upload=false", "--yes"}
	return run(t, nil, tool(t, "COSIGN2"), append(args, references(images)...)...)
}

func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[len(s)/2]
}
