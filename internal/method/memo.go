package method

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"sync"
)

// MaxMemo bounds what a Memo remembers: more than the signatures that are between
// key and registry at once.
const MaxMemo = 2048

// Memo remembers answers of a check that follow from its question alone: an
// envelope is held against its target when it is assembled, published and read
// back, and an equal question needs no second answer. Only answers of this
// process are in it, under the hash of everything that they depend on; nothing
// that is read from anywhere is believed. Refusals are not remembered. The zero
// value is ready.
type Memo[V any] struct {
	mu    sync.Mutex
	right map[Question]V // guarded by mu
	order []Question     // guarded by mu; a ring of what is in right
	next  int            // guarded by mu; the oldest of order
}

// Question is the hash of everything that an answer depends on.
type Question [sha256.Size]byte

// Ask returns the answer to id, from check unless it was given before. What is
// returned is shared: it must not be changed.
func (m *Memo[V]) Ask(id Question, check func() (V, error)) (V, error) {
	m.mu.Lock()
	v, ok := m.right[id]
	m.mu.Unlock()
	if ok {
		return v, nil
	}
	v, err := check()
	if err == nil {
		m.Learn(id, v)
	}
	return v, err
}

// Learn remembers what was found right.
func (m *Memo[V]) Learn(id Question, v V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.right[id]; ok {
		return
	}
	if m.right == nil {
		m.right = map[Question]V{}
	}
	if len(m.order) < MaxMemo {
		m.order = append(m.order, id)
	} else {
		delete(m.right, m.order[m.next])
		m.order[m.next] = id
		m.next = (m.next + 1) % MaxMemo
	}
	m.right[id] = v
}

// Len returns how many answers are remembered.
func (m *Memo[V]) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.right)
}

// Ask is the question about a target, all of it with the certificates of its key,
// and bytes.
func (t Target) Ask(parts ...[]byte) (id Question, err error) {
	key, err := x509.MarshalPKIXPublicKey(t.Key.Public)
	if err != nil {
		return id, fmt.Errorf("encoding public key %s: %w", t.Key.ID, err)
	}
	target, err := json.Marshal([]any{t.Key.ID, t.Artifact, t.Options, t.Origin, t.Offline})
	if err != nil {
		return id, fmt.Errorf("encoding the target: %w", err)
	}
	h := sha256.New()
	put := func(part []byte) {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	put(key)
	put(target)
	put(binary.BigEndian.AppendUint64(nil, uint64(len(t.Key.Chain))))
	for _, c := range t.Key.Chain {
		put(c.Raw)
	}
	put(t.Key.OpenPGP)
	for _, p := range parts {
		put(p)
	}
	return Question(h.Sum(nil)), nil
}
