package store

import (
	"context"
	"sync/atomic"
	"testing"
)

// BenchmarkUpdateGroupCommit is what the workflow does: concurrent Updates.
func BenchmarkUpdateGroupCommit(b *testing.B) {
	s := open(b, Options{})
	insertReady(b, s, 0, 1)
	before := s.Stats()
	var n atomic.Int64
	b.SetParallelism(16)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := s.Update(context.Background(), "insert", inserting(int(n.Add(1)))); err != nil {
				b.Error(err)
			}
		}
	})
	b.StopTimer()
	after := s.Stats()
	b.ReportMetric(float64(after.Updates-before.Updates)/float64(after.Commits-before.Commits), "updates/commit")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "updates/s")
}

// BenchmarkUpdateBareCommit is the same with a commit for each: one caller.
func BenchmarkUpdateBareCommit(b *testing.B) {
	s := open(b, Options{})
	b.ResetTimer()
	for n := range b.N {
		if err := s.Update(context.Background(), "insert", inserting(n+1)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "updates/s")
}

// BenchmarkTaskStep is the commonest Update: a change of a task's row with its event.
func BenchmarkTaskStep(b *testing.B) {
	s := open(b, Options{})
	b.SetParallelism(16)
	var n atomic.Int64
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		task, c := prepared(b, s, int(n.Add(1)))
		for pb.Next() {
			if err := s.Update(context.Background(), "attempt", func(tx *Tx) error { return tx.Attempt(task, c, attemptEvent(task)) }); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "updates/s")
}
