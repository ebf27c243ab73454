//go:build bench

package policy

import (
	"slices"
	"testing"
	"time"
)

// TestDecisionWith1200RepositoriesBesideOneWith12 prints, for `make bench`, the
// medians of many decisions, the two taken in turn so that both meet the same
// machine. It fails only if a decision is wrong.
func TestDecisionWith1200RepositoriesBesideOneWith12(t *testing.T) {
	small, large := decides(t, 12), decides(t, 1200)
	var few, many []time.Duration
	for i := range 12000 {
		few, many = append(few, small(i)), append(many, large(i))
	}
	p50 := func(d []time.Duration) float64 {
		slices.Sort(d)
		return float64(d[len(d)/2])
	}
	a, b := p50(few), p50(many)
	t.Logf("p50 of a decision: %.1f us with 12 repositories, %.1f us with 1200, %.2f times", a/1e3, b/1e3, b/a)
}
