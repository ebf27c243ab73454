package workflow_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

const (
	killRounds  = 12
	killSeed    = 20261 // another seed kills at other moments
	killPerTurn = 3     // submissions of one round
)

// program is the real service, run as a process of its own.
type program struct {
	t      *testing.T
	env    *testenv.Env // its world, keys and folder
	binary string
	addr   string
	logKey string

	cmd *exec.Cmd
	log bytes.Buffer // of the process; read after it ended
}

// build builds sealwrightd and writes its files.
func build(t *testing.T) *program {
	t.Helper()
	e := testenv.New(t, testenv.Options{})
	p := &program{t: t, env: e, binary: filepath.Join(t.TempDir(), "sealwrightd")}
	if out, err := exec.Command("go", "build", "-o", p.binary, "../../cmd/sealwrightd").CombinedOutput(); err != nil {
		t.Fatalf("building sealwrightd: %v\n%s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	p.addr = l.Addr().String()
	ok(t, l.Close())
	private, public, err := audit.GenerateKey(rand.Reader, "sign.sealwright.test/log")
	ok(t, err)
	p.logKey = public
	secret := make([]byte, 32)
	_, err = rand.Read(secret)
	ok(t, err)
	e.MakeKey("release.key")
	for name, text := range map[string]string{
		"log.key": private, "state.secret": hex.EncodeToString(secret), "sealwright.yaml": killConfig, "keys.yaml": killKeys, "payments.yaml": testenv.Policy,
	} {
		text = strings.NewReplacer("DIR", e.Dir, "ADDR", p.addr, "HOST", e.World.Registry.Host, "%[1]s", e.World.Registry.Host, "GITHUB", e.World.GitHub.URL(), "AUDIENCE", testenv.Audience).Replace(text)
		path := filepath.Join(e.Dir, name)
		if name == "payments.yaml" {
			path = filepath.Join(e.Dir, "policies", name)
			ok(t, os.MkdirAll(filepath.Dir(path), 0o700))
		}
		ok(t, os.WriteFile(path, []byte(text), 0o600))
	}
	t.Cleanup(func() {
		if p.cmd != nil {
			p.kill()
		}
	})
	return p
}

const killConfig = `apiVersion: sealwright.dev/v1
server: {listen: "ADDR", url: "http://ADDR", plain_http: true, public_log: true, rate: 10000}
store: {sqlite: sealwright.db, state_secret: ["file:DIR/state.secret"]}
log: {key: "file:DIR/log.key", checkpoint_file: checkpoint, checkpoint_every: 50ms}
issuers:
  - {provider: github-actions, issuer: "GITHUB", audience: "AUDIENCE", forge: github.test}
registries:
  - {host: "HOST", insecure_http: true}
keys: keys.yaml
policies: policies
`

const killKeys = `apiVersion: sealwright.dev/v1
keys:
  - id: release
    file: file:DIR/release.key
    methods: [cosign]
    allow: [{project: payments, policy: release, repositories: ["HOST/payments/*"]}]
`

// start starts the service and waits until it listens.
func (p *program) start() {
	p.t.Helper()
	p.log.Reset()
	p.cmd = exec.Command(p.binary, "serve", "--config", filepath.Join(p.env.Dir, "sealwright.yaml"), "--log-format", "text")
	p.cmd.Stderr = &p.log
	out, err := p.cmd.StdoutPipe()
	ok(p.t, err)
	ok(p.t, p.cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		p.kill()
		p.t.Fatalf("the service does not start: %v\n%s", err, p.log.String())
	}
	if !strings.Contains(line, "listens on") {
		p.t.Fatalf("the service says %q", line)
	}
}

// kill ends the service with SIGKILL.
func (p *program) kill() {
	_ = p.cmd.Process.Kill() // it may be dead already
	_ = p.cmd.Wait()         // reports the signal
	p.cmd = nil
}

// wanted is what a CI job asks for, again and again until it is answered.
type wanted struct {
	job        devworld.GitHubJob
	artifact   signing.Artifact
	id         string // "" until a submission was answered
	capability string
}

// submit sends w and reports whether it was answered. A killed service answers
// nothing.
func (p *program) submit(w *wanted) error {
	req, err := http.NewRequest(http.MethodPost, "http://"+p.addr+"/v1/requests", strings.NewReader(testenv.Body("release", w.artifact)))
	if err != nil {
		return err
	}
	token, err := p.env.World.GitHub.GitHubToken(w.job, testenv.Audience)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Idempotency-Key", "k")
	status, header, body, err := exchange(req)
	if err != nil {
		return err
	}
	var r api.Request
	if status != http.StatusCreated && status != http.StatusOK || json.Unmarshal(body, &r) != nil {
		return fmt.Errorf("answered %d: %s", status, body)
	}
	if w.id != "" && w.id != r.ID {
		return fmt.Errorf("request %s became %s: %w", w.id, r.ID, errLost)
	}
	w.id, w.capability = r.ID, header.Get(api.HeaderCapability)
	return nil
}

var errLost = errors.New("an acknowledged request was lost")

func exchange(req *http.Request) (int, http.Header, []byte, error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, body, err
}

func (p *program) read(w *wanted) (r api.Request, err error) {
	req, err := http.NewRequest(http.MethodGet, "http://"+p.addr+"/v1/requests/"+w.id+"?wait=10s&version=0", nil)
	if err != nil {
		return r, err
	}
	req.Header.Set(api.HeaderCapability, w.capability)
	status, _, body, err := exchange(req)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("answered %d: %s", status, body)
	}
	if err == nil {
		err = json.Unmarshal(body, &r)
	}
	return r, err
}

// TestKill9AtAnyMomentLosesNothing kills the real service, over and over, while
// it works. Every acknowledged request ends in exactly one signature.
func TestKill9AtAnyMomentLosesNothing(t *testing.T) {
	p := build(t)
	random := mathrand.New(mathrand.NewPCG(killSeed, 0))
	var all []*wanted
	for round := range killRounds {
		p.start()
		for i := range killPerTurn {
			a := p.env.Image(fmt.Sprint(round, i))
			all = append(all, &wanted{job: runOf(len(all)), artifact: a})
		}
		var wg sync.WaitGroup
		for _, w := range all[len(all)-killPerTurn:] {
			wg.Go(func() {
				if err := p.submit(w); errors.Is(err, errLost) {
					t.Error(err)
				}
			})
		}
		// Spread over the cycle: the submissions, the key, the publication.
		time.Sleep(time.Duration(random.IntN(4+10*round)) * time.Millisecond)
		p.kill()
		wg.Wait()
	}
	acknowledged := 0
	p.start()
	for _, w := range all {
		if w.id != "" {
			acknowledged++
		}
		// What was not answered is asked for again, as a CI job does; what was
		// answered is the same request still.
		ok(t, p.submit(w))
	}
	t.Logf("%d of %d submissions were acknowledged before the service was killed", acknowledged, len(all))
	for _, w := range all {
		var r api.Request
		eventually(t, "over: "+w.id, func() (over bool) {
			var err error
			r, err = p.read(w)
			ok(t, err)
			return r.State.Terminal()
		})
		if r.State != signing.Completed {
			t.Errorf("%s ended %s: %+v", w.id, r.State, r.Failure)
		}
		if n := p.env.Signatures(w.artifact); n != 1 {
			t.Errorf("%d signatures of %s", n, w.artifact)
		}
	}
	p.audit(all)
}

// audit exports the log with the service killed, verifies it, and holds its
// events against what came out.
func (p *program) audit(all []*wanted) {
	t := p.t
	t.Helper()
	// A checkpoint over the last event, then the last kill.
	th := steal(t, p.env)
	eventually(t, "a log without a backlog", func() bool {
		return th.count("SELECT (SELECT count(*) FROM events WHERE leaf IS NULL) + (SELECT ifnull(max(leaf), -1) + 1 FROM events) - (SELECT ifnull(max(size), 0) FROM checkpoints)") == 0
	})
	p.kill()
	dir := filepath.Join(t.TempDir(), "export")
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	if out, err := exec.CommandContext(ctx, p.binary, "audit", "export", "--config", filepath.Join(p.env.Dir, "sealwright.yaml"), "--out", dir).CombinedOutput(); err != nil {
		t.Fatalf("audit export: %v\n%s", err, out)
	}
	kept, err := os.ReadFile(filepath.Join(p.env.Dir, "checkpoint"))
	ok(t, err)
	if _, err := audit.VerifyExport(os.DirFS(dir), p.logKey, [][]byte{kept}); err != nil {
		t.Errorf("the log does not verify: %v", err)
	}
	count := func(kind, id string) int {
		return th.count("SELECT count(*) FROM events WHERE body LIKE ? AND body LIKE ?", `%"`+kind+`"%`, `%"`+id+`"%`)
	}
	for _, w := range all {
		submitted, signed, completed, attempts := count(audit.RequestSubmitted, w.id), count(audit.TaskSigned, w.id), count(audit.RequestCompleted, w.id), count(audit.KeyAttempt, w.id)
		if submitted != 1 || signed != 1 || completed != 1 || attempts < 1 {
			t.Errorf("%s: submitted %d times, signed %d times, completed %d times, %d attempts", w.id, submitted, signed, completed, attempts)
		}
	}
	if n := th.count("SELECT count(*) FROM events WHERE body LIKE '%tamper.detected%'"); n != 0 {
		t.Errorf("%d alterations detected, none made", n)
	}
}
