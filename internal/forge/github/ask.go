package github

import (
	"sync"

	"github.com/sealwright/sealwright/internal/signing"
)

// asked collects what was asked while one question is answered.
type asked struct {
	mu   sync.Mutex
	list []signing.Observation
}

// askedKey is the context's key of *asked.
type askedKey struct{}

func (a *asked) add(o signing.Observation) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = append(a.list, o)
}
