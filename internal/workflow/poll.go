package workflow

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

const (
	// DefaultForgePoll is how often threads that wait are read: a delivery that was
	// lost costs a person minutes, not the approval.
	DefaultForgePoll = 3 * time.Minute
	// pollPace is the least time between reading two threads of one forge: three
	// requests each make 300 a minute, a third of what GitHub allows at all, and
	// most are conditional, which its hourly limit does not count. A thousand
	// threads take ten minutes.
	pollPace = 600 * time.Millisecond
	// pollPauseMax bounds how long a forge that limits us is left alone.
	pollPauseMax = time.Hour
	// pollSlack is how much earlier than the question comments are read: clocks
	// differ.
	pollSlack = time.Minute
)

// poll reads the threads in which Requests of one forge wait, again and again, and
// deals with commands whose delivery never came: GitHub sends nothing twice, and
// GitLab turns webhooks off that failed. Comments that were dealt with are known.
func (w *Workflow) poll(ctx context.Context, f forge.Forge) {
	every := w.ForgePoll[f.Host()]
	if every <= 0 {
		every = DefaultForgePoll
	}
	seen := map[string]time.Time{}
	// Soon after the start: what came while no process was there was not delivered.
	pause := w.jitter(min(every, 5*time.Second))
	for {
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		began := time.Now()
		err := w.pollOnce(ctx, f, every, seen)
		pause = pollPause(w.jitter(every)-time.Since(began), err)
		if err != nil && ctx.Err() == nil {
			w.Heard(f.Host(), HeardPollFailed)
			w.Log.Warn("reading threads that wait", "forge", f.Host(), "error", err)
		}
	}
}

// pollPause is how long a forge is left alone after a round that ended with err: the
// rest of the round's time, or longer where the forge wants that.
func pollPause(rest time.Duration, err error) time.Duration {
	var e *signing.Error
	if errors.As(err, &e) && e.RetryAfter > rest {
		return min(e.RetryAfter, pollPauseMax)
	}
	return max(rest, 0)
}

// HeardPollFailed is a round of reading threads that could not be finished, for
// Options.Heard.
const HeardPollFailed = "poll_failed"

// jitter returns d, up to a fifth more or less, so that the replicas of a service
// and its forges do not march in step.
func (w *Workflow) jitter(d time.Duration) time.Duration {
	var raw [2]byte
	if _, err := io.ReadFull(w.Rand, raw[:]); err != nil {
		return d
	}
	part := float64(binary.BigEndian.Uint16(raw[:]))/(1<<16) - 0.5
	return d + time.Duration(part*0.4*float64(d))
}

// waitingThread is a thread with what waits in it.
type waitingThread struct {
	signing.Thread
	since time.Time // when the oldest question was asked
}

// pollOnce reads every waiting thread of a forge once, spread over the time that a
// round has. seen remembers up to where each was read; the same time again makes
// the same request, which the forge can answer as unchanged.
func (w *Workflow) pollOnce(ctx context.Context, f forge.Forge, every time.Duration, seen map[string]time.Time) error {
	threads, err := w.waitingThreads(ctx, f.Host())
	if err != nil {
		return err
	}
	for key := range seen {
		if !slices.ContainsFunc(threads, func(t waitingThread) bool { return threadKey(t.Thread) == key }) {
			delete(seen, key)
		}
	}
	return pollRound(ctx, every, threads, func(t waitingThread) error {
		key := threadKey(t.Thread)
		since, ok := seen[key]
		if !ok {
			since = t.since.Add(-pollSlack)
		}
		upTo, err := w.pollThread(ctx, f, t.Thread, since)
		seen[key] = upTo
		return err
	})
}

// pollRound reads threads one after another, spread over every and never closer
// together than pollPace. A thread that cannot be read is no end of the round; a
// limit of the forge as a whole is: the rest would be no better.
func pollRound(ctx context.Context, every time.Duration, threads []waitingThread, read func(waitingThread) error) error {
	pace := max(every/time.Duration(len(threads)+1), min(pollPace, every))
	var failed error
	for i, t := range threads {
		if i > 0 {
			timer := time.NewTimer(pace)
			select {
			case <-ctx.Done():
				timer.Stop()
				return ctx.Err()
			case <-timer.C:
			}
		}
		err := read(t)
		if errors.Is(err, signing.RateLimited) {
			return err
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

func threadKey(t signing.Thread) string { return t.RepositoryID + " " + t.Kind + " " + t.Number }

// waitingThreads lists the threads of a forge in which Requests wait, each once.
func (w *Workflow) waitingThreads(ctx context.Context, host string) ([]waitingThread, error) {
	var out []waitingThread
	at := map[string]int{}
	err := w.Store.View(ctx, func(tx *store.Tx) error {
		return eachAwaiting(tx, func(r *signing.Request) {
			if r.Asking == nil || r.Asking.Asked.IsZero() || r.Asking.Thread.Forge != host || !asksIn(r, host, r.Asking.Thread) {
				return
			}
			key := threadKey(r.Asking.Thread)
			i, ok := at[key]
			if !ok {
				at[key] = len(out)
				out = append(out, waitingThread{r.Asking.Thread, r.Asking.Asked})
			} else if r.Asking.Asked.Before(out[i].since) {
				out[i].since = r.Asking.Asked
			}
		})
	})
	return out, err
}

// pollThread deals with the commands of a thread since a time, and returns up to
// when all were dealt with.
func (w *Workflow) pollThread(ctx context.Context, f forge.Forge, t signing.Thread, since time.Time) (time.Time, error) {
	comments, err := f.Comments(ctx, t, since)
	if err != nil {
		return since, err
	}
	for _, c := range comments {
		m := mention{thread: t, comment: c.ID, sender: c.Author, body: c.Body}
		if c.System || c.Author.Bot || !addressed(c.Body) {
			since = later(since, c.Created)
			continue
		}
		outcome, err := w.hear(ctx, f, m)
		if err != nil {
			return since, err
		}
		if final(outcome) {
			if err := w.Store.Update(ctx, "heard", func(tx *store.Tx) error { _, err := tx.InsertDelivery(m.handled(f.Host())); return err }); err != nil {
				return since, err
			}
			w.Heard(f.Host(), outcome)
		}
		since = later(since, c.Created)
	}
	return since, nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
