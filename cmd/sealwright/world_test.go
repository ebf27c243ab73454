package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/key/keytest"
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/method/cosign"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

// auditWorld is a service with a past, for an auditor.
type auditWorld struct {
	t *testing.T
	e *testenv.Env
	s *testenv.Service
}

// ask submits and waits for the end. It returns the id.
func (w *auditWorld) ask(key string, job devworld.GitHubJob, want signing.RequestState, a signing.Artifact) string {
	w.t.Helper()
	ans := w.s.Post(api.PathRequests, w.e.GitHub(job), key, testenv.Body("release", a))
	if ans.Status != http.StatusCreated {
		w.t.Fatalf("submitting: %d %s", ans.Status, ans.Body)
	}
	var r api.Request
	ans.JSON(w.t, &r)
	for range 300 {
		if r.State.Terminal() {
			break
		}
		time.Sleep(20 * time.Millisecond)
		w.s.Get(api.PathRequests+"/"+r.ID, ans.Header.Get(api.HeaderCapability)).JSON(w.t, &r)
	}
	if r.State != want {
		w.t.Fatalf("%s ended %s: %+v", key, r.State, r.Failure)
	}
	return r.ID
}

// sign signs with the service's own key and without the service, as somebody does
// who has stolen the key file.
func (w *auditWorld) sign(a signing.Artifact) {
	w.t.Helper()
	raw, err := os.ReadFile(filepath.Join(w.e.Dir, "release.key"))
	w.check(err)
	block, _ := pem.Decode(raw)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	w.check(err)
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		w.t.Fatalf("%T", parsed)
	}
	m := cosign.New(w.s.Registry)
	target := method.Target{Artifact: a, Key: signing.KeyInfo{ID: "release", Public: key.Public()}}
	p, err := m.Prepare(w.t.Context(), target, time.Now())
	w.check(err)
	digest := sha256.Sum256(p.Intent.Bytes)
	sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	w.check(err)
	e, err := m.Assemble(target, *p.Intent, sig)
	w.check(err)
	_, err = m.Publish(w.t.Context(), target, e)
	w.check(err)
}

// certificate returns the OpenPGP certificate of a key.
func (w *auditWorld) certificate(id string) string {
	w.t.Helper()
	info, ok := w.s.Keys.Info(id)
	if !ok {
		w.t.Fatalf("no key %s", id)
	}
	return signing.ArmorOpenPGP(info.OpenPGP)
}

func (w *auditWorld) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// lose removes an image's `.sig` tag from the registry.
func (w *auditWorld) lose(a signing.Artifact) {
	w.t.Helper()
	ref, err := name.ParseReference(string(a.Repository)+":"+cosign.Tag(a.Digest), name.Insecure)
	w.check(err)
	w.check(remote.Delete(ref))
}

// TestAuditor runs the scripts of testdata/auditor in a world with a past: images
// that were signed and asked for, signed and never asked for, refused, lost, and
// unknown.
func TestAuditor(t *testing.T) {
	every := testenv.PolicySigning("- {method: cosign, key: release, formats: [legacy, bundle]}\n", testenv.Notation, testenv.Simple)
	e := testenv.New(t, testenv.Options{Checkpoint: 50 * time.Millisecond, Policy: every})
	w := &auditWorld{t, e, e.Start(nil)}
	main := devworld.NewGitHubJob()
	feature := devworld.NewGitHubJob()
	feature.Ref = "refs/heads/feature"
	w.check(w.s.Workflow.Sequence(context.Background()))
	early := w.s.Get("/log/checkpoint", "").Body

	asked, stray, refused, lost, both := e.Image("asked"), e.Image("stray"), e.Image("refused"), e.Image("lost"), e.Image("both")
	env := map[string]string{
		"SERVER": w.s.HTTP.URL, "ASKED": asked.String(), "STRAY": stray.String(), "REFUSED": refused.String(), "LOST": lost.String(), "BOTH": both.String(),
		"UNKNOWN": e.Image("unknown").String(), "OTHER": e.ImageIn("payments/other", "", "asked").String(),
		"REQUEST":   w.ask("asked", main, signing.Completed, asked),
		"DENIED":    w.ask("refused", feature, signing.RequestDenied, refused),
		"LOSTID":    w.ask("lost", main, signing.Completed, lost),
		"SEPARATED": "-n", "LOOKASIDE": w.s.HTTP.URL + "/lookaside/HOST",
	}
	w.sign(stray)
	w.sign(both)
	env["RECOGNISED"] = w.ask("both", main, signing.Completed, both)
	w.lose(lost)
	// CI runs as root; elsewhere a user namespace gives the right to have no network.
	if exec.Command("unshare", "-n", "true").Run() != nil {
		env["SEPARATED"] = "-rn"
	}
	files := map[string]string{
		"token": e.Person(signing.Auditor), "nobody": e.Person(), "log.pub": e.LogSigner().Verifier().String(), "early": string(early),
		"trust.json": string(w.s.Get(api.PathTrust, "").Body), "release.pub": string(w.s.Get("/v1/trust/keys/release", "").Body),
		"release.asc": w.certificate("release-gpg"), "stranger.asc": signing.ArmorOpenPGP(keytest.OpenPGP(t, keytest.P256(t), time.Now().AddDate(-1, 0, 0), 0)),
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/auditor", RequireExplicitExec: true, RequireUniqueNames: true,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"exitcode": exitcode, "mkkey": mkkey, "flip": flip},
		Setup: func(s *testscript.Env) error {
			for k, v := range env {
				s.Setenv(k, v)
			}
			s.Setenv("SEALWRIGHT_SERVER", env["SERVER"])
			s.Setenv("SEALWRIGHT_TOKEN_FILE", filepath.Join(s.WorkDir, "token"))
			for n, text := range files {
				if err := os.WriteFile(filepath.Join(s.WorkDir, n), []byte(text), 0o600); err != nil {
					return err
				}
			}
			return os.Mkdir(filepath.Join(s.WorkDir, "empty"), 0o700)
		},
	})
}

// flip FILE N OUT writes FILE with its N-th byte changed; N counts from the end
// if it is negative.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	raw := []byte(ts.ReadFile(args[0]))
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	if n < 0 {
		n += len(raw)
	}
	raw[n] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), raw, 0o600))
}

// TestEveryByteOfAFileOnDiskCounts is the program's view of what package evidence
// tests: each byte of a file is changed once.
func TestEveryByteOfAFileOnDiskCounts(t *testing.T) {
	e := testenv.New(t, testenv.Options{Checkpoint: 50 * time.Millisecond})
	w := &auditWorld{t, e, e.Start(nil)}
	feature := devworld.NewGitHubJob()
	feature.Ref = "refs/heads/feature"
	id := w.ask("denied", feature, signing.RequestDenied, e.Image("refused"))
	file := filepath.Join(t.TempDir(), "evidence.json")
	token := filepath.Join(t.TempDir(), "token")
	w.check(os.WriteFile(token, []byte(e.Person(signing.Auditor)), 0o600))
	key := e.LogSigner().Verifier().String()
	quiet := streams{strings.NewReader(""), new(strings.Builder), new(strings.Builder)}
	if code := run([]string{"evidence", "--server", w.s.HTTP.URL, "--token-file", token, "--log-key", key, "-o", file, id}, quiet); code != exitOK {
		t.Fatalf("exit code %d: %s", code, quiet.err)
	}
	w.s.Stop()
	verify := func() int {
		return run([]string{"evidence", "verify", "--log-key", key, file}, streams{strings.NewReader(""), new(strings.Builder), new(strings.Builder)})
	}
	if code := verify(); code != exitOK {
		t.Fatalf("exit code %d", code)
	}
	raw, err := os.ReadFile(file)
	w.check(err)
	for i := range raw {
		raw[i] ^= 1
		w.check(os.WriteFile(file, raw, 0o600))
		if code := verify(); code != exitVerified {
			t.Errorf("byte %d of %d changed: exit code %d", i, len(raw), code)
		}
		raw[i] ^= 1
	}
}

func TestEvidenceOfAnotherRequestIsNotTheAnswer(t *testing.T) {
	e := testenv.New(t, testenv.Options{Checkpoint: 50 * time.Millisecond})
	w := &auditWorld{t, e, e.Start(nil)}
	one := w.ask("one", devworld.NewGitHubJob(), signing.Completed, e.Image("one"))
	two := w.ask("two", devworld.NewGitHubJob(), signing.Completed, e.Image("two"))
	liar := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		to, err := url.Parse(w.s.HTTP.URL)
		w.check(err)
		r.SetURL(to)
		r.Out.URL.Path = strings.Replace(r.In.URL.Path, one, two, 1)
	}})
	defer liar.Close()
	token := filepath.Join(t.TempDir(), "token")
	w.check(os.WriteFile(token, []byte(e.Person(signing.Auditor)), 0o600))
	var errs strings.Builder
	code := run([]string{"evidence", "--server", liar.URL, "--token-file", token, "--log-key", e.LogSigner().Verifier().String(), "-o", "-", one}, streams{nil, new(strings.Builder), &errs})
	if code != exitVerified || !strings.Contains(errs.String(), "another request") {
		t.Errorf("exit code %d: %s", code, errs.String())
	}
}
