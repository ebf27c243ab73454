package submit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/sealwright/sealwright/internal/ci"
	"github.com/sealwright/sealwright/internal/signing"
)

// freshToken gets a token and remembers when.
func (s *step) freshToken(ctx context.Context) error {
	token, err := s.CI.Token(ctx, s.Audience)
	if err != nil {
		return localError{err}
	}
	s.token, s.tokenAt = token, s.Now()
	return nil
}

// submit sends the submission until there is an answer. Every try has the same
// key and body, so that an answer that got lost costs nothing.
func (s *step) submit(ctx context.Context) error {
	if err := s.freshToken(ctx); err != nil {
		return err
	}
	// A submission under way is not cut off by a signal: without its answer
	// nobody could withdraw it.
	call, stop := outlive(ctx, submitGrace)
	defer stop()
	until := s.Now().Add(min(patience, s.deadline.Sub(s.Now())))
	for wait := minBackoff; ; wait = min(2*wait, maxBackoff) {
		s.requested = true
		r, capability, err := s.client.Submit(call, s.token, s.IdempotencyKey, s.body)
		if err == nil {
			s.CI.Mask(capability)
			if s.id != "" && r.ID != s.id {
				return mismatchError{&signing.Error{Code: signing.Internal, Message: "the service took the same submission for another request", Expected: s.id, Found: ci.Clean(r.ID), Fix: "report this to the operator of the service"}}
			}
			s.mu.Lock()
			s.secret = capability
			s.mu.Unlock()
			if s.request = r; s.id == "" {
				s.id = r.ID
			}
			s.progress.end()
			s.CI.Print(fmt.Sprintf("request %s: %s, policy %s\n", r.ID, asked(s.body), s.body.Policy))
			s.progress.show(r)
			return nil
		}
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("submitting: %w", ctx.Err())
		case signing.CodeOf(err) == signing.Unauthenticated && s.CI.Renews && s.Now().Sub(s.tokenAt) >= tokenFresh:
			// It expired while the service was away. A fresh token that is refused
			// is refused.
			if err := s.freshToken(ctx); err != nil {
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
		s.CI.Print(fmt.Sprintf("%s; trying again in %s\n", summaryOf(err), pause.Round(time.Second)))
		if err := s.Sleep(ctx, pause); err != nil {
			return fmt.Errorf("submitting: %w", err)
		}
	}
}

// wait follows the request to its end.
func (s *step) wait(ctx context.Context) error {
	pause, published := minBackoff, int64(0)
	for !s.NoWait && !s.request.State.Terminal() {
		left := s.deadline.Sub(s.Now())
		if left <= 0 {
			return fmt.Errorf("%w after %s: the request is %s", errTimeout, s.Timeout, s.request.State)
		}
		// A step that is repeated may find signatures that an earlier one left.
		if s.toPublish() && published != s.request.Version {
			published = s.request.Version
			if err := s.publish(ctx); err != nil {
				return err
			}
		}
		asked, secret := s.Now(), s.capability()
		r, err := s.client.Get(ctx, s.request.ID, secret, s.request.Version, min(pollWait, left))
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("waiting for request %s: %w", s.request.ID, ctx.Err())
		case takenOver(err):
			// Another step that asked for the same took the capability over. The
			// same submission again is the same request, with a new capability.
			if err := s.renew(ctx, secret); err != nil {
				return err
			}
			continue
		case err != nil && !signing.Temporary(err):
			return localError{err}
		case err != nil:
			d := min(backoff(pause, err), max(left, 0))
			pause = min(2*pause, maxBackoff)
			s.progress.note(fmt.Sprintf("%s; trying again in %s", summaryOf(err), d.Round(time.Second)))
			if err := s.Sleep(ctx, d); err != nil {
				return fmt.Errorf("waiting for request %s: %w", s.request.ID, err)
			}
			continue
		}
		pause = minBackoff
		same := r.Version == s.request.Version
		s.request = r
		s.progress.show(r)
		s.warnWaiting()
		s.showPlace()
		// A server or proxy that does not hold the poll must not be spun on.
		if same && s.Now().Sub(asked) < minBackoff {
			if err := s.Sleep(ctx, minBackoff); err != nil {
				return fmt.Errorf("waiting for request %s: %w", s.request.ID, err)
			}
		}
	}
	return nil
}

// withdraw asks the service to cancel, after a signal. It is best effort: the
// service judges whether the key was used already.
func (s *step) withdraw() {
	if s.request.ID == "" {
		if s.requested {
			s.CI.Print("interrupted before the service answered; a request that it may have recorded ends at its deadline\n")
		}
		return
	}
	ctx, stop := context.WithTimeout(context.Background(), cancelGrace)
	defer stop()
	s.CI.Print(fmt.Sprintf("interrupted: withdrawing request %s\n", s.request.ID))
	err := s.freshToken(ctx)
	if err == nil {
		r, cancelErr := s.client.Cancel(ctx, s.token, s.request.ID)
		if err = cancelErr; err == nil {
			s.request = r
			s.CI.Print(fmt.Sprintf("request %s is %s\n", r.ID, r.State))
			return
		}
	}
	s.CI.Print(fmt.Sprintf("it could not be withdrawn: %s\n", summaryOf(err)))
}

// outlive returns a context that ends a grace after ctx does.
func outlive(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })
	return out, func() { stop(); cancel() }
}

// backoff returns wait with up to a quarter of jitter, so that the jobs of one
// push do not come back at once, and at least what the service asked for.
func backoff(wait time.Duration, err error) time.Duration {
	wait += rand.N(wait/4 + 1)
	var e *signing.Error
	if errors.As(err, &e) {
		wait = max(wait, e.RetryAfter)
	}
	return wait
}

// summaryOf is an error on one line, without how to fix it.
func summaryOf(err error) string {
	e := signing.Public(err)
	line := ci.Clean(e.Message)
	if e.Found != "" {
		line += " (" + ci.Clean(e.Found) + ")"
	}
	return line
}
