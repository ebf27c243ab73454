package submit

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/ci"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

// Publishing by the job (`publish: client`): it uploads what the service decides
// by, and writes what the service signed, with its own credentials. Nothing here
// knows what a signature is.

const (
	// maxConfig bounds an image configuration that is uploaded, and maxBelow the
	// manifests below one image: what the service reads at most.
	maxConfig = 1 << 20
	maxBelow  = 512
	// maxNesting bounds indexes in indexes.
	maxNesting = 4
	// maxRounds is how often one digest is published on when somebody else
	// replaces what was written, or the lease ran out.
	maxRounds = 4
	// leaseMargin is kept free at the end of a lease: a write that began in time
	// must not end after it.
	leaseMargin = 10 * time.Second
	// turnWait is the longest wait before a digest on which somebody else
	// publishes is asked for again.
	turnWait = time.Second
)

// upload gives the service every manifest and image configuration by which it
// decides. An image's own manifest comes after what is below it.
func (s *step) upload(ctx context.Context) error {
	if s.Publish != signing.ByClient || s.request.State != signing.Pending {
		return nil
	}
	var images []signing.Artifact
	for _, a := range s.body.Artifacts {
		i := signing.Artifact{Repository: signing.Repository(a.Repository), Digest: signing.Digest(a.Digest)}
		if !slices.Contains(images, i) {
			images = append(images, i)
		}
	}
	u := &uploader{s: s, seen: map[signing.Digest]bool{}}
	err := s.each(ctx, len(images), func(ctx context.Context, n int) error {
		left := maxBelow
		return u.manifest(ctx, images[n], &left, 0)
	})
	if errors.Is(err, errDecided) {
		return nil // wait tells how
	}
	return err
}

// errDecided says that the service takes no content any more.
var errDecided = errors.New("decided")

type uploader struct {
	s    *step
	mu   sync.Mutex
	seen map[signing.Digest]bool // guarded by mu
}

// manifest uploads what is below a manifest, then itself.
func (u *uploader) manifest(ctx context.Context, a signing.Artifact, left *int, depth int) error {
	if *left--; *left < 0 || depth > maxNesting {
		return localError{&signing.Error{Code: signing.TooLarge, Message: "too much is below " + a.String(), Expected: fmt.Sprintf("at most %d manifests in %d levels", maxBelow, maxNesting), Found: "more", Fix: "let the service publish, or sign a smaller index"}}
	}
	c, err := u.s.Registries.client(a.Repository)
	if err != nil {
		return localError{err}
	}
	var raw []byte
	var m *registry.Manifest
	err = u.s.patiently(ctx, func() error {
		var d registry.Descriptor
		if raw, d, err = c.Manifest(ctx, a.Repository, string(a.Digest)); err == nil {
			m, err = registry.ParseManifest(raw, d.MediaType)
		}
		return err
	})
	if depth > 0 && errors.Is(err, signing.NotFound) {
		return nil // the service says whether it is needed
	}
	if err != nil {
		return localError{fmt.Errorf("reading %s: %w", a, err)}
	}
	if m.Config != nil && registry.IsImageConfig(m.Config.MediaType) {
		var config []byte
		err := u.s.patiently(ctx, func() (err error) {
			config, err = c.Blob(ctx, a.Repository, *m.Config, maxConfig)
			return err
		})
		if err != nil {
			return localError{fmt.Errorf("reading the configuration of %s: %w", a, err)}
		}
		if err := u.put(ctx, m.Config.Digest, config); err != nil {
			return err
		}
	}
	for _, d := range m.Manifests {
		if !registry.IsManifest(d.MediaType) {
			continue // left alone by the service, too
		}
		if err := u.manifest(ctx, signing.Artifact{Repository: a.Repository, Digest: d.Digest}, left, depth+1); err != nil {
			return err
		}
	}
	return u.put(ctx, a.Digest, raw)
}

func (u *uploader) put(ctx context.Context, d signing.Digest, content []byte) error {
	u.mu.Lock()
	known := u.seen[d]
	u.seen[d] = true
	u.mu.Unlock()
	if known {
		return nil
	}
	err := u.s.persist(ctx, func(secret string) error {
		return u.s.client.PutContent(ctx, u.s.id, secret, d, content)
	})
	if errors.Is(err, signing.Conflict) {
		return errDecided
	}
	return err
}

// persist calls the service until there is an answer, with the capability that
// counts now. What f asks for must be the same if it is asked twice.
func (s *step) persist(ctx context.Context, f func(secret string) error) error {
	until := s.Now().Add(min(patience, s.deadline.Sub(s.Now())))
	for wait := minBackoff; ; wait = min(2*wait, maxBackoff) {
		secret := s.capability()
		err := f(secret)
		switch {
		case err == nil || ctx.Err() != nil:
			return err
		case takenOver(err):
			if err := s.renew(ctx, secret); err != nil {
				return err
			}
			continue
		case !signing.Temporary(err):
			return err
		}
		pause := backoff(wait, err)
		if s.Now().Add(pause).After(until) {
			return err
		}
		if err := s.Sleep(ctx, pause); err != nil {
			return err
		}
	}
}

func (s *step) capability() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.secret
}

// takenOver reports whether the capability is not the newest of its request any
// more: the service answers as for a request that is not there.
func takenOver(err error) bool {
	code := signing.CodeOf(err)
	return code == signing.Unauthenticated || code == signing.NotFound
}

// renew asks for a new capability, unless somebody did since old was the newest.
func (s *step) renew(ctx context.Context, old string) error {
	s.renewing.Lock()
	defer s.renewing.Unlock()
	if s.capability() != old {
		return nil
	}
	if s.renewals >= maxRenewals {
		return localError{&signing.Error{Code: signing.Conflict, Message: "another step keeps taking this request over", Found: fmt.Sprintf("%d times", maxRenewals), Fix: "let one step at a time ask for the same images under the same policy"}}
	}
	s.renewals++
	return s.submit(ctx)
}

// toPublish reports whether the request has signatures that this job has to write.
func (s *step) toPublish() bool {
	return s.Publish == signing.ByClient && slices.ContainsFunc(s.request.Tasks, func(t api.Task) bool { return t.State == signing.Signed })
}

// publish writes every signature that the service has made, digest by digest.
func (s *step) publish(ctx context.Context) error {
	var groups [][]api.Envelope
	at := map[string]int{}
	for after := 0; ; {
		var page api.Envelopes
		err := s.persist(ctx, func(secret string) (err error) {
			page, err = s.client.Envelopes(ctx, s.id, secret, after)
			return err
		})
		if err != nil {
			return err
		}
		for _, e := range page.Envelopes {
			if err := s.ours(e); err != nil {
				return err
			}
			subject := string(e.Attachment.Subject.Repository) + "@" + string(e.Attachment.Subject.Digest)
			n, ok := at[subject]
			if !ok {
				n, at[subject] = len(groups), len(groups)
				groups = append(groups, nil)
			}
			groups[n] = append(groups[n], e)
		}
		if after = page.Next; after == 0 {
			break
		}
	}
	return s.each(ctx, len(groups), func(ctx context.Context, n int) error { return s.publishOn(ctx, groups[n]) })
}

// ours holds a signature against what the request says: the job's credentials
// write to the repositories of its tasks and nowhere else.
func (s *step) ours(e api.Envelope) error {
	subject := e.Attachment.Subject
	for _, t := range s.request.Tasks {
		if t.ID == e.Task && t.Artifact.Repository == string(subject.Repository) && t.Artifact.Digest == string(subject.Digest) {
			return nil
		}
	}
	return mismatchError{&signing.Error{Code: signing.Internal, Message: "the service wants something written that is no task of this request", Expected: "a signature of an image that was submitted", Found: ci.Clean(subject.String()), Fix: "nothing was written; report this to the operator of the service"}}
}

// publishOn writes the signatures of one digest, alone among all who publish on
// it, reads them back, and tells the service.
func (s *step) publishOn(ctx context.Context, group []api.Envelope) error {
	subject := group[0].Attachment.Subject
	place := api.LeaseRequest{Repository: string(subject.Repository), Digest: string(subject.Digest), Holder: s.holder}
	var last error
	for range maxRounds {
		left, err := s.lease(ctx, place)
		if err != nil || left <= 0 {
			return err // none is needed any more
		}
		written, err := s.write(ctx, group, left)
		if err == nil {
			err = s.persist(ctx, func(secret string) error {
				_, err := s.client.Published(ctx, s.id, secret, api.PublishedRequest{LeaseRequest: place, Tasks: written})
				return err
			})
		}
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil, !errors.Is(err, signing.Conflict) && !errors.Is(err, errLeaseOver):
			return err
		}
		last = err
	}
	return localError{last}
}

// errLeaseOver says that the time of a lease was not enough.
var errLeaseOver = errors.New("the lease ran out")

// lease takes the right to publish on a digest and returns how long it holds; 0
// if there is nothing left to be published.
func (s *step) lease(ctx context.Context, place api.LeaseRequest) (time.Duration, error) {
	for {
		var l api.Lease
		err := s.persist(ctx, func(secret string) (err error) {
			l, err = s.client.Lease(ctx, s.id, secret, place)
			return err
		})
		var held *signing.Error
		switch {
		case err == nil:
			return time.Duration(l.Seconds) * time.Second, nil
		case !errors.As(err, &held) || held.Code != signing.Conflict:
			return 0, err
		case held.RetryAfter == 0:
			return 0, nil
		case s.deadline.Before(s.Now()):
			return 0, fmt.Errorf("%w: somebody else publishes on %s@%s", errTimeout, place.Repository, place.Digest)
		}
		if err := s.Sleep(ctx, turnWait/4+mrand.N(turnWait/2)); err != nil {
			return 0, err
		}
	}
}

// write puts signatures into the registry and reads each back, within the lease.
func (s *step) write(ctx context.Context, group []api.Envelope, left time.Duration) ([]api.PublishedTask, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, left-leaseMargin, errLeaseOver)
	defer cancel()
	var out []api.PublishedTask
	for _, e := range group {
		at, err := s.attach(ctx, e.Attachment)
		if cause := context.Cause(ctx); err != nil && errors.Is(cause, errLeaseOver) {
			return nil, fmt.Errorf("writing the signature of %s: %w", e.Attachment.Subject, errLeaseOver)
		}
		if err != nil {
			return nil, localError{fmt.Errorf("writing the signature of %s: %w", e.Attachment.Subject, err)}
		}
		out = append(out, api.PublishedTask{ID: e.Task, Locations: []signing.Location{at}})
	}
	return out, nil
}

// attach writes one signature and reads it back; what another writer replaced
// meanwhile is written again, which changes nothing else.
func (s *step) attach(ctx context.Context, a signing.Attachment) (at signing.Location, err error) {
	c, err := s.Registries.client(a.Subject.Repository)
	if err != nil {
		return at, err
	}
	for range maxRounds {
		there := false
		err := s.patiently(ctx, func() (err error) {
			if at, err = c.Attach(ctx, a); err == nil {
				there, err = c.Attached(ctx, a)
			}
			return err
		})
		if err != nil || there {
			return at, err
		}
	}
	return at, &signing.Error{Code: signing.Unavailable, Message: "another writer keeps replacing the signatures of this digest", Found: a.Subject.String(), Fix: "find out who else writes signatures to this repository"}
}

// newHolder names this process in leases.
func newHolder() string {
	var raw [16]byte
	rand.Read(raw[:]) // it does not fail
	return hex.EncodeToString(raw[:])
}
