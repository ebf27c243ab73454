package workflow_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	forges "github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

// stingy is a forge whose threads are counted when they are read, and that limits.
type stingy struct {
	*testenv.Letters
	mu    sync.Mutex
	read  map[string]int // guarded by mu; by number
	after int            // guarded by mu; reads that it still answers, negative: all
	calls int            // guarded by mu
}

// Comments implements forge.Threads.
func (f *stingy) Comments(ctx context.Context, t signing.Thread, since time.Time) ([]forges.Comment, error) {
	f.mu.Lock()
	f.read[t.Number]++
	f.calls++
	f.after--
	limit := f.after == -1
	f.mu.Unlock()
	if limit {
		return nil, &signing.Error{Code: signing.RateLimited, Message: "the forge limits the requests of this service", Found: "HTTP 429", RetryAfter: time.Hour}
	}
	return f.Letters.Comments(ctx, t, since)
}

func (f *stingy) until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		f.mu.Lock()
		done := is()
		f.mu.Unlock()
		if done {
			return
		}
	}
	t.Fatal(what)
}

// TestEachOfAThousandWaitingThreadsIsReadUntilTheForgeLimitsUs is the poll with a
// database and a forge; its pace is tested by its own clock.
func TestEachOfAThousandWaitingThreadsIsReadUntilTheForgeLimitsUs(t *testing.T) {
	const waiting = 1000
	p := &parlour{t: t}
	f := &stingy{Letters: testenv.NewLetters(listenHost, func() time.Time { return p.e.Now() }), read: map[string]int{}, after: -2}
	p.e = testenv.New(t, testenv.Options{World: parlourWorld(t), Forges: map[string]forges.Forge{listenHost: f}, ForgePoll: time.Millisecond})
	p.s = p.e.Start(nil)
	for i := range waiting {
		p.waits(thread(strconv.Itoa(i + 1)))
	}
	f.until(t, "not every thread was read", func() bool { return len(f.read) == waiting })
	f.mu.Lock()
	f.after, f.calls = 10, 0
	f.mu.Unlock()
	f.until(t, "the limit was not reached", func() bool { return f.calls == 11 })
	time.Sleep(200 * time.Millisecond) // a hundred reads at this pace
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls != 11 {
		t.Errorf("%d reads after the forge limited the service", f.calls-11)
	}
}
