package notation

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/signing"
)

// maxRemembered bounds a memo: some requests of hundreds of images at once.
const maxRemembered = 1024

// memo remembers which envelopes were held against which targets and found good.
// What open says follows from its arguments alone, and publishing and reading
// back ask the same within a second of Assemble: verifying a chain three times
// costs more than all else. It is empty after a start, so that nothing from the
// database is believed before it was verified here.
type memo struct {
	mu   sync.Mutex
	good map[[sha256.Size]byte]replay // guarded by mu
}

// memoKey covers everything that open looks at.
func memoKey(t method.Target, e signing.Envelope) ([sha256.Size]byte, error) {
	version, err := t.Key.Version()
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	var chain [][]byte
	for _, c := range t.Key.Chain {
		chain = append(chain, c.Raw)
	}
	raw, err := json.Marshal(struct {
		Artifact signing.Artifact
		KeyID    string
		Version  string
		Chain    [][]byte
		Options  map[string]string
		Origin   signing.Origin
		Envelope signing.Envelope
	}{t.Artifact, t.Key.ID, version, chain, t.Options, t.Origin, e})
	if err != nil {
		return [sha256.Size]byte{}, fmt.Errorf("encoding an envelope and its target: %w", err)
	}
	return sha256.Sum256(raw), nil
}

func (m *memo) get(key [sha256.Size]byte) (replay, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.good[key]
	return r, ok
}

func (m *memo) put(key [sha256.Size]byte, r replay) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.good == nil || len(m.good) >= maxRemembered {
		m.good = map[[sha256.Size]byte]replay{}
	}
	m.good[key] = r
}
