package cosign

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/sealwright/sealwright/internal/method"
)

// maxHeld bounds what held remembers, 32 bytes each: more than the signatures
// that are between key and registry at once.
const maxHeld = 4096

// held remembers which signatures were found to be right. An envelope is held
// against its target when it is assembled, published and read back; the outcome
// follows from target, payload and signature alone, so that an equal question
// needs no second answer. Only the hash of all of them, made in this process,
// counts; nothing that is read from anywhere does. Refusals are not remembered.
type held struct {
	mu    sync.Mutex
	right map[[sha256.Size]byte]bool // guarded by mu
	order [][sha256.Size]byte        // guarded by mu; a ring of what is in right
	next  int                        // guarded by mu; the oldest of order
}

func (h *held) knows(id [sha256.Size]byte) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.right[id]
}

func (h *held) learn(id [sha256.Size]byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.right[id] {
		return
	}
	if h.right == nil {
		h.right = map[[sha256.Size]byte]bool{}
	}
	if len(h.order) < maxHeld {
		h.order = append(h.order, id)
	} else {
		delete(h.right, h.order[h.next])
		h.order[h.next] = id
		h.next = (h.next + 1) % maxHeld
	}
	h.right[id] = true
}

// question identifies everything that the answer of hold depends on.
func question(t method.Target, signed, raw []byte) (id [sha256.Size]byte, err error) {
	key, err := x509.MarshalPKIXPublicKey(t.Key.Public)
	if err != nil {
		return id, fmt.Errorf("encoding public key %s: %w", t.Key.ID, err)
	}
	target, err := json.Marshal([]any{t.Key.ID, t.Artifact, t.Options, t.Origin})
	if err != nil {
		return id, fmt.Errorf("encoding the target: %w", err)
	}
	h := sha256.New()
	for _, part := range [][]byte{key, target, signed, raw} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}
