package dct

import (
	"context"
	"fmt"
	"sync"

	"github.com/sealwright/sealwright/internal/signing"
)

// NewMemory returns a Memory that lasts as long as the process.
func NewMemory() Memory { return &processMemory{seen: map[[2]string]version{}} }

type version struct {
	number int64
	digest signing.Digest
}

type processMemory struct {
	mu   sync.Mutex
	seen map[[2]string]version // by repository and role; guarded by mu
}

func (m *processMemory) Seen(_ context.Context, gun, role string) (int64, signing.Digest, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.seen[[2]string{gun, role}]
	return v.number, v.digest, nil
}

func (m *processMemory) See(_ context.Context, gun, role string, n int64, d signing.Digest) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.seen[[2]string{gun, role}]
	if n < v.number || n == v.number && d != v.digest {
		return &signing.Error{Code: signing.Denied, Message: fmt.Sprintf("the metadata of %s of %s is older than what was seen before", role, gun), Expected: fmt.Sprintf("version %d with the digest %s, or a later one", v.number, v.digest), Found: fmt.Sprintf("version %d with the digest %s: a rollback", n, d), Fix: "find out who replays old answers"}
	}
	m.seen[[2]string{gun, role}] = version{n, d}
	return nil
}
