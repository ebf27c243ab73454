package testenv

import (
	"bytes"
	"log/slog"
	"testing"
	"time"
)

// polls is ForgePoll for every forge.
func (e *Env) polls() map[string]time.Duration {
	if e.Options.ForgePoll == 0 {
		return nil
	}
	out := map[string]time.Duration{}
	for host := range e.Options.Forges {
		out[host] = e.Options.ForgePoll
	}
	return out
}

func (e *Env) logger() *slog.Logger {
	if e.Options.Quiet {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(testWriter{e.T}, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// testWriter sends the service's log to the test's, which shows it if it fails.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", bytes.TrimRight(b, "\n"))
	return len(b), nil
}
