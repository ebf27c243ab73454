package workflow

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// TestAThousandWaitingThreadsCostAHundredReadsAMinute: what polling takes of a
// forge's limits has a bound, however many wait.
func TestAThousandWaitingThreadsCostAHundredReadsAMinute(t *testing.T) {
	for _, c := range []struct {
		threads   int
		every     time.Duration
		perMinute int
		took      time.Duration
	}{
		{1000, DefaultForgePoll, 101, 10 * time.Minute},
		{1000, time.Hour, 18, time.Hour}, // spread over the time of a round
		{3, DefaultForgePoll, 3, 3 * time.Minute},
		{1, DefaultForgePoll, 1, 0},
		{0, DefaultForgePoll, 0, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			var reads []time.Time
			err := pollRound(t.Context(), c.every, make([]waitingThread, c.threads), func(waitingThread) error {
				reads = append(reads, time.Now())
				return errors.New("one that cannot be read does not end the round")
			})
			if len(reads) != c.threads || c.threads > 0 && err == nil {
				t.Errorf("%d of %d threads were read: %v", len(reads), c.threads, err)
			}
			most := 0
			for i := range reads {
				n := i
				for n < len(reads) && reads[n].Sub(reads[i]) < time.Minute {
					n++
				}
				most = max(most, n-i)
			}
			if most > c.perMinute {
				t.Errorf("%d threads every %s: %d reads within a minute, want at most %d", c.threads, c.every, most, c.perMinute)
			}
			if took := time.Since(began); took > c.took {
				t.Errorf("%d threads every %s took %s, want at most %s", c.threads, c.every, took, c.took)
			}
		})
	}
}

func TestARoundOfPollingEndsWhereTheForgeLimitsUs(t *testing.T) {
	for what, found := range map[string]string{"primary": "HTTP 429", "secondary": "HTTP 403 a secondary limit"} {
		synctest.Test(t, func(t *testing.T) {
			limit := &signing.Error{Code: signing.RateLimited, Message: "github.test limits the requests of this service", Found: found, RetryAfter: 7 * time.Minute}
			n := 0
			err := pollRound(t.Context(), DefaultForgePoll, make([]waitingThread, 1000), func(waitingThread) error {
				if n++; n == 5 {
					return limit
				}
				return nil
			})
			if n != 5 || !errors.Is(err, signing.RateLimited) {
				t.Errorf("%s: %d threads were read: %v", what, n, err)
			}
			if got := pollPause(time.Minute, err); got != 7*time.Minute {
				t.Errorf("%s: the next round is after %s", what, got)
			}
		})
	}
}

func TestHowLongAForgeIsLeftAlone(t *testing.T) {
	limited := func(after time.Duration) error { return &signing.Error{Code: signing.RateLimited, RetryAfter: after} }
	for _, c := range []struct {
		rest time.Duration
		err  error
		want time.Duration
	}{
		{time.Minute, nil, time.Minute},
		{-time.Minute, nil, 0}, // the round took longer than it has
		{-time.Minute, limited(time.Second), time.Second},
		{time.Minute, limited(time.Second), time.Minute},
		{time.Minute, errors.Join(errors.New("x"), limited(time.Hour)), time.Hour},
		{time.Minute, limited(24 * time.Hour), pollPauseMax},
	} {
		if got := pollPause(c.rest, c.err); got != c.want {
			t.Errorf("%s, %v: %s, want %s", c.rest, c.err, got, c.want)
		}
	}
}

func TestARoundOfPollingEndsWithTheService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		n := 0
		err := pollRound(ctx, DefaultForgePoll, make([]waitingThread, 1000), func(waitingThread) error { n++; return nil })
		if !errors.Is(err, context.DeadlineExceeded) || n != 2 {
			t.Errorf("%d threads were read: %v", n, err)
		}
	})
}
