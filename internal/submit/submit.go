// Package submit is the work of the CI step: from inputs to a request, to
// signatures, to outputs that later steps read. It is shared by sealwright-ci
// and `sealwright sign`.
//
// It guarantees that an image is signed by the digest that was shown, that a
// repeated step is the same request, that every refusal is printed with what
// was expected, what was found and how to fix it, and that neither the token
// nor the capability reaches a log, a file or another host. It holds no key.
package submit

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/ci"
	"github.com/sealwright/sealwright/internal/signing"
)

// Exit codes of the step (design, section 5).
const (
	ExitOK       = 0
	ExitError    = 1
	ExitUsage    = 2
	ExitDenied   = 3 // policy or a person said no
	ExitTimeout  = 4 // no end within the time given: of this step, or of the request
	ExitVerifier = 5 // the service says done, and what it answers is not what was asked for
)

const (
	// DefaultTimeout is how long the step waits for the signatures.
	DefaultTimeout = 30 * time.Minute
	// patience is how long an unreachable service is tried before anything was
	// submitted: longer than a restart, shorter than a wrong address deserves.
	patience = 5 * time.Minute
	// pollWait is one long poll: below the 30 s at which many proxies cut.
	pollWait = 25 * time.Second
	// cancelGrace is what withdrawing may take after a signal, and submitGrace
	// what a submission under way may: GitHub sends a second signal after 7.5 s.
	cancelGrace = 4 * time.Second
	submitGrace = 2 * time.Second
	// tokenFresh is the age up to which a refused token is not worth replacing.
	tokenFresh = 30 * time.Second
	// maxRenewals is how often a capability that was taken over is asked for anew.
	maxRenewals = 3
	minBackoff  = time.Second
	maxBackoff  = 30 * time.Second
)

// Resolver turns a tag into the digest that it names now.
type Resolver func(ctx context.Context, repository signing.Repository, tag string) (signing.Digest, error)

// Options is one step. CI, Server, Policy and Images are required.
type Options struct {
	CI       *ci.Environment
	Server   string
	Audience string // "" is the server's address
	Policy   string
	Images   []string // REPOSITORY@DIGEST or REPOSITORY:TAG
	// Pushed is what a build tool wrote about what it pushed; Images add to it.
	Pushed []byte
	// TagsAfter are moved to the images when all signatures are there: TAG, or
	// REPOSITORY:TAG.
	TagsAfter []string
	// SignTags are signed along with every image, as TAG, or with some, as
	// REPOSITORY:TAG and REPOSITORY:TAG@DIGEST; a tag in Images never is.
	SignTags []string
	// Untrust are tags, REPOSITORY:TAG, whose trust is to be withdrawn.
	Untrust        []string
	IdempotencyKey string        // "" is made of run, job and body
	Deadline       time.Duration // of the request at the service; 0 is its default
	Timeout        time.Duration // of this step; 0 is DefaultTimeout
	NoWait         bool
	// Publish says who writes the signatures to the registry.
	Publish signing.Publisher

	TTY       bool   // progress in place, and colours
	Agent     string // User-Agent
	Transport http.RoundTripper
	// Registries are those of the images; Resolve, where set, finds the digests of
	// tags in their place.
	Registries *Registries
	Resolve    Resolver
	// ResultFile, where set, gets the whole result as JSON.
	ResultFile string
	Now        func() time.Time
	Sleep      func(context.Context, time.Duration) error
}

// errTimeout ends a wait that the step's own time cut off.
var errTimeout = errors.New("timed out")

// usageError is a mistake in the inputs of the step.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

// localError is an error of this side, so that a registry's "denied" is not
// taken for the policy's.
type localError struct{ error }

func (l localError) Unwrap() error { return l.error }

// mismatchError says that the service's answer is not what was asked for.
type mismatchError struct{ error }

func (m mismatchError) Unwrap() error { return m.error }

// step is one run of Run.
type step struct {
	Options
	client   *api.Client
	deadline time.Time

	body      api.SubmitRequest
	resolved  []resolution
	moves     []tagMove
	token     string
	tokenAt   time.Time
	requested bool // a submission was sent, whether or not an answer came
	request   api.Request
	id        string // of the request, from the first answer on
	holder    string // of leases

	renewing sync.Mutex // held while a capability is asked for anew
	renewals int        // guarded by renewing
	mu       sync.Mutex
	secret   string // guarded by mu; the capability
	progress progress
	warned   bool   // that an approval is waited for
	place    string // where people are asked, once it was said
}

// Run does the step and returns its exit code. When ctx ends, a request that
// was submitted is withdrawn, as far as that is possible in a few seconds.
func Run(ctx context.Context, o Options) int {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Resolve == nil {
		o.Resolve = o.Registries.Resolve
	}
	if o.Audience == "" {
		o.Audience = o.Server
	}
	s := &step{Options: o, deadline: o.Now().Add(o.Timeout), holder: newHolder()}
	s.progress = progress{env: o.CI, tty: o.TTY}
	err := s.run(ctx)
	s.progress.end()
	if ctx.Err() != nil && !(s.request.State.Valid() && s.request.State.Terminal()) {
		s.withdraw()
		err = localError{errors.New("interrupted by a signal")}
	}
	return s.report(err)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func (s *step) run(ctx context.Context) error {
	client, err := api.NewClient(api.ClientOptions{Server: s.Server, Transport: s.Transport, UserAgent: s.Agent, Now: s.Now})
	if err != nil {
		return usageError{err}
	}
	s.client = client
	images, tags, err := s.inputs()
	if err != nil {
		return usageError{err}
	}
	// What can be known to be wrong without a network is said before using one.
	probe := api.SubmitRequest{Policy: s.Policy, Publish: string(s.Publish), DeadlineSeconds: int64(s.Deadline / time.Second), Artifacts: placeholders(images, tags), Untrust: s.Untrust}
	if err := probe.Validate(); err != nil {
		return usageError{err}
	}
	if s.IdempotencyKey != "" {
		if err := api.ValidateIdempotencyKey(s.IdempotencyKey); err != nil {
			return usageError{err}
		}
	}
	if err := s.resolve(ctx, images); err != nil {
		return localError{err}
	}
	if err := aim(s.moves, images); err != nil {
		return err
	}
	early, err := s.lookAtTags(ctx)
	if err != nil {
		return localError{err}
	}
	s.body = api.SubmitRequest{Policy: probe.Policy, Publish: probe.Publish, DeadlineSeconds: probe.DeadlineSeconds, Artifacts: artifacts(images, tags), Untrust: s.Untrust}
	if s.IdempotencyKey == "" {
		digest, err := s.body.Digest()
		if err != nil {
			return err
		}
		s.IdempotencyKey = s.CI.IdempotencyKey(digest)
	}
	if err := s.submit(ctx); err != nil {
		return err
	}
	s.warnEarly(early)
	if err := s.upload(ctx); err != nil {
		return err
	}
	if err := s.wait(ctx); err != nil {
		return err
	}
	if err := s.outcome(); err != nil {
		return err
	}
	return s.moveTags(ctx)
}

// inputs reads what needs no network.
func (s *step) inputs() (images []image, tags []signTag, err error) {
	if len(s.Pushed) > 0 {
		var quiet []string
		if images, quiet, err = parseDigests(s.Pushed); err != nil {
			return nil, nil, err
		}
		for _, target := range quiet {
			s.CI.Print(fmt.Sprintf("target %s pushed no image; nothing is signed for it\n", ci.Clean(target)))
		}
	}
	more, err := parseImages(s.Images)
	if err != nil {
		return nil, nil, err
	}
	if images = append(images, more...); len(images) == 0 && len(s.Untrust) == 0 {
		return nil, nil, noImages()
	}
	if s.Untrust, err = parseUntrust(s.Untrust); err != nil {
		return nil, nil, err
	}
	if tags, err = parseTags(s.SignTags, images); err != nil {
		return nil, nil, err
	}
	if s.moves, err = parseTagsAfter(s.TagsAfter, images, tags); err != nil {
		return nil, nil, err
	}
	if s.NoWait && len(s.moves) > 0 {
		return nil, nil, &signing.Error{Code: signing.Invalid, Message: "`tags-after` needs the signatures, and this step does not wait for them", Expected: "`wait: true` with `tags-after`", Found: "`wait: false`", Fix: "wait, or move the tags in a step that does"}
	}
	if s.Publish == signing.ByClient && len(s.Untrust) > 0 {
		return nil, nil, &signing.Error{Code: signing.Invalid, Message: "`untrust` is work of the service, and this step publishes", Expected: "`publish: service` with `untrust`", Found: "`publish: client`", Fix: "let the service publish"}
	}
	if s.NoWait && s.Publish == signing.ByClient {
		return nil, nil, &signing.Error{Code: signing.Invalid, Message: "`publish: client` needs this step to wait: it publishes", Expected: "`wait: true` with `publish: client`", Found: "`wait: false`", Fix: "wait, or let the service publish"}
	}
	return images, tags, nil
}

// outcome returns nil if the request is what was asked for.
func (s *step) outcome() error {
	r := s.request
	switch r.State {
	case signing.Completed:
		return checkCompleted(s.body, r, s.Publish)
	case signing.RequestDenied:
		return &signing.Error{Code: signing.Denied, Message: "the policy or a person said no", Fix: "ask the operator of the service for the decision on this request"}
	case signing.RequestExpired:
		return fmt.Errorf("%w: the request expired at the service before it could be signed", errTimeout)
	case signing.Failed, signing.Canceled:
		e := r.Failure.Err()
		if e == nil {
			e = &signing.Error{Code: signing.Internal, Message: "the request ended " + string(r.State)}
		}
		return localError{e}
	default: // not waited for
		return nil
	}
}

// checkCompleted holds the service's answer against what was submitted: every
// artifact must have a signature with a place where it can be found.
func checkCompleted(body api.SubmitRequest, r api.Request, publish signing.Publisher) error {
	for _, t := range r.Tasks {
		if (t.State != signing.Published && (t.State != signing.Delivered || publish != signing.ByClient)) || len(t.Locations) == 0 {
			return mismatchError{&signing.Error{Code: signing.Internal, Message: "the service says completed, but task " + ci.Clean(t.ID) + " is not", Expected: "published, with a location", Found: string(t.State), Fix: "do not ship these images; report this to the operator of the service"}}
		}
	}
	done, untrusted := covered(r.Tasks)
	for _, name := range body.Untrust {
		if !untrusted[name] {
			return mismatchError{&signing.Error{Code: signing.Internal, Message: "the service says completed, but did not withdraw the trust in a tag", Expected: name, Found: fmt.Sprintf("%d others", len(untrusted)), Fix: "report this to the operator of the service"}}
		}
	}
	for _, a := range body.Artifacts {
		a.ResolvedFrom = "" // a task is about what is signed
		if !done[a] {
			return mismatchError{&signing.Error{Code: signing.Internal, Message: "the service says completed, but names no signature for an image that was submitted", Expected: a.Artifact().String(), Found: fmt.Sprintf("signatures for %d others", len(done)), Fix: "do not ship this image; report this to the operator of the service"}}
		}
	}
	return nil
}

func exitCode(err error) int {
	var usage usageError
	var local localError
	var mismatch mismatchError
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &usage):
		return ExitUsage
	case errors.Is(err, errTimeout):
		return ExitTimeout
	case errors.As(err, &mismatch):
		return ExitVerifier
	case errors.As(err, &local):
		return ExitError
	case signing.CodeOf(err) == signing.Denied:
		return ExitDenied
	default:
		return ExitError
	}
}
