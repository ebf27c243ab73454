package testenv

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/sealwright/sealwright/internal/signing"
)

// Mode is how a step goes wrong.
type Mode string

const (
	Fails            Mode = "fails"                     // it does not happen
	FailsButHappened Mode = "fails but happened"        // it happens and seems not to
	DiesAfter        Mode = "the process dies after it" // it happens and nothing else does
	DiesBefore       Mode = "the process dies before"   // neither it nor anything else happens
)

// ErrInjected is what a failing step returns; errDead what a dead process's
// steps would, if anybody were left to look.
var (
	ErrInjected = &signing.Error{Code: signing.Unavailable, Message: "injected fault"}
	errDead     = errors.New("this process is dead")
)

// Faults stands between one instance of the service and everything it writes
// to or calls: the database, the registry, the key. It records each step by
// name and occurrence, and makes at most one of them go wrong.
type Faults struct {
	mu    sync.Mutex
	seen  map[string]int // guarded by mu
	steps []string       // guarded by mu; in order, "store submit#1"
	at    string         // the step to go wrong, "" for none
	mode  Mode
	hit   bool // guarded by mu
	dead  bool // guarded by mu
	died  chan struct{}
}

// NewFaults returns Faults that make the step at go wrong in the given way;
// an empty step records only.
func NewFaults(at string, mode Mode) *Faults {
	return &Faults{seen: map[string]int{}, at: at, mode: mode, died: make(chan struct{})}
}

// Steps returns what was recorded, in order.
func (f *Faults) Steps() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.steps...)
}

// Hit reports whether the step came to pass.
func (f *Faults) Hit() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.hit }

// LostClaim reports whether jobs were claimed and nobody was told: until their
// claim runs out, they stay where they are.
func (f *Faults) LostClaim() bool {
	return f.mode == FailsButHappened && strings.HasPrefix(f.at, "store claim#") && f.Hit()
}

// Died is closed when the process is dead.
func (f *Faults) Died() <-chan struct{} { return f.died }

// Kill makes every further step fail without happening.
func (f *Faults) Kill() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.dead {
		f.dead = true
		close(f.died)
	}
}

func (f *Faults) step(name string, do func() error) error {
	f.mu.Lock()
	if f.dead {
		f.mu.Unlock()
		return errDead
	}
	f.seen[name]++
	id := fmt.Sprintf("%s#%d", name, f.seen[name])
	f.steps = append(f.steps, id)
	mine := id == f.at && !f.hit
	f.hit = f.hit || mine
	f.mu.Unlock()
	if !mine {
		return do()
	}
	switch f.mode {
	case Fails:
		return ErrInjected
	case DiesBefore:
		f.Kill()
		return errDead
	case FailsButHappened:
		if err := do(); err != nil {
			return err
		}
		return ErrInjected
	default:
		err := do()
		f.Kill()
		return errors.Join(err, errDead)
	}
}

// Interpose is for store.Options.
func (f *Faults) Interpose(_ context.Context, name string, commit func() error) error {
	return f.step("store "+name, commit)
}

// Transport interposes on the calls of a process, each named by where it goes:
// "registry PUT tag", "service GET /v1/requests/ID". It is for the service's own
// calls of the registry and for those of a job.
func (f *Faults) Transport(base http.RoundTripper, where func(*http.Request) string) http.RoundTripper {
	return &transport{faults: f, base: base, where: where}
}

// Registry names every call "registry". It is for Transport.
func Registry(*http.Request) string { return "registry" }

// Notary names every call "notary". It is for Transport.
func Notary(*http.Request) string { return "notary" }

// transport interposes on requests. Digests and ids are left out of the names,
// so that they are the same in every run.
type transport struct {
	faults *Faults
	base   http.RoundTripper
	where  func(*http.Request) string
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	var resp *http.Response
	err := t.faults.step(t.where(req)+" "+req.Method+" "+route(req.URL.Path), func() (err error) {
		resp, err = t.base.RoundTrip(req)
		return err
	})
	if err != nil && resp != nil {
		_ = resp.Body.Close() // the answer is lost
		return nil, err
	}
	return resp, err
}

func route(path string) string {
	if rest, ok := strings.CutPrefix(path, "/v1/requests/"); ok {
		_, what, _ := strings.Cut(rest, "/")
		what, _, _ = strings.Cut(what, "/sha256:")
		return strings.TrimSuffix("request/"+what, "/")
	}
	if name, ok := trustRoute(path); ok {
		return name
	}
	switch {
	case strings.Contains(path, "/blobs/uploads"):
		return "upload"
	case strings.Contains(path, "/blobs/"):
		return "blob"
	case strings.HasSuffix(path, ".sig"):
		return ".sig"
	case strings.Contains(path, "/referrers/"):
		return "referrers"
	case strings.Contains(path, "/manifests/sha256:"):
		return "manifest"
	case strings.Contains(path, "/manifests/"):
		return "tag"
	default:
		return path
	}
}

// signer counts and interposes on uses of a key.
type signer struct {
	crypto.Signer
	env    *Env
	faults *Faults
}

func (s *signer) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) (raw []byte, err error) {
	if s.env.proving.Load() { // the proof of possession when the ring is opened
		return s.Signer.Sign(rand, digest, opts)
	}
	err = s.faults.step("key sign", func() error {
		s.env.uses.Add(1)
		raw, err = s.Signer.Sign(rand, digest, opts)
		return err
	})
	if err != nil {
		return nil, err
	}
	return raw, nil
}
