package store

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/sealwright/sealwright/internal/signing"
)

// MinSecret is the least length of a state secret in bytes: the security level
// of HMAC-SHA256.
const MinSecret = 32

// ErrTampered is in the chain of every error about a row whose content this
// service did not write. The code of these errors is signing.Denied.
var ErrTampered = errors.New("altered in the database")

// Domains of the HMACs: a row of one table never passes for one of another.
const (
	requestDomain     = "sealwright request v1"
	taskDomain        = "sealwright task v1"
	attemptDomain     = "sealwright attempt v1"
	capabilityDomain  = "sealwright capability v1"
	idempotencyDomain = "sealwright idempotency v1"
	generationDomain  = "sealwright generation v1"
	eventDomain       = "sealwright event v1"
	headDomain        = "sealwright log head v1"
	deliveryDomain    = "sealwright delivery v1"
	reportsDomain     = "sealwright reports v1"
	trustDomain       = "sealwright trust version v1"
	entryDomain       = "sealwright trust entry v1"
)

// sealer makes and verifies the HMACs of rows.
type sealer struct {
	keys []sealKey // the first makes, all verify
}

type sealKey struct {
	id   string     // names the secret without revealing it
	macs *sync.Pool // of hash.Hash under the secret: making one costs as much as a row
}

// seal is the pair of columns mac_key and mac.
type seal struct {
	key string
	mac []byte
}

func newSealer(secrets [][]byte) (*sealer, error) {
	if len(secrets) == 0 {
		return nil, &signing.Error{Code: signing.Invalid, Message: "no state secret", Expected: "at least one secret that is not in the database", Fix: "make one with `sealwrightd keys new --type state-secret` and name it in store.state_secret"}
	}
	s := &sealer{}
	for i, secret := range secrets {
		if len(secret) < MinSecret {
			return nil, &signing.Error{Code: signing.Invalid, Message: fmt.Sprintf("state secret %d is too short", i+1), Expected: fmt.Sprintf("%d bytes or more", MinSecret), Found: fmt.Sprintf("%d bytes", len(secret)), Fix: "make one with `sealwrightd keys new --type state-secret`"}
		}
		secret = append([]byte(nil), secret...)
		k := sealKey{macs: &sync.Pool{New: func() any { return hmac.New(sha256.New, secret) }}}
		k.id = hex.EncodeToString(k.mac("sealwright secret id v1", nil)[:8])
		s.keys = append(s.keys, k)
	}
	return s, nil
}

// mac is HMAC-SHA256 over domain and fields, each preceded by its length in 8
// bytes, so that no two lists of fields are encoded alike.
func (k sealKey) mac(domain string, fields []string) []byte {
	h, ok := k.macs.Get().(hash.Hash)
	if !ok {
		panic("store: the pool of HMACs holds something else") // New above makes them all
	}
	defer k.macs.Put(h)
	h.Reset()
	put := func(s string) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		_, _ = io.WriteString(h, s) // a hash never fails
	}
	put(domain)
	for _, f := range fields {
		put(f)
	}
	return h.Sum(nil)
}

func (s *sealer) seal(domain string, fields ...string) seal {
	return seal{key: s.keys[0].id, mac: s.keys[0].mac(domain, fields)}
}

// verify returns ErrTampered unless one of the secrets made got for these fields.
// what names the row for people.
func (s *sealer) verify(what string, got seal, domain string, fields ...string) error {
	for _, k := range s.keys {
		if k.id != got.key {
			continue
		}
		if !hmac.Equal(k.mac(domain, fields), got.mac) {
			return Tampered(tableOf(domain), what, "another HMAC than its content has")
		}
		return nil
	}
	return Tampered(tableOf(domain), what, fmt.Sprintf("an HMAC under a secret that is not configured (%.16q)", got.key))
}

// alteration is the cause of every ErrTampered.
type alteration struct{ table string }

func (a *alteration) Error() string        { return a.table + ": " + ErrTampered.Error() }
func (a *alteration) Is(target error) bool { return target == ErrTampered }

// AlteredTable returns the table of the row that err is about, "" if err is not
// ErrTampered.
func AlteredTable(err error) string {
	var a *alteration
	if !errors.As(err, &a) {
		return ""
	}
	return a.table
}

// tableOf returns the table whose rows are sealed in domain.
func tableOf(domain string) string {
	switch domain {
	case requestDomain:
		return "requests"
	case taskDomain:
		return "tasks"
	case attemptDomain:
		return "attempts"
	case capabilityDomain:
		return "capabilities"
	case idempotencyDomain:
		return "idempotency"
	case generationDomain:
		return "generation"
	case eventDomain:
		return "events"
	case deliveryDomain:
		return "deliveries"
	case reportsDomain:
		return "reports"
	case trustDomain:
		return "trust_versions"
	case entryDomain:
		return "trust_entries"
	default:
		return "log_head"
	}
}

// Tampered is the refusal of one row, for what only its reader can see, a row
// that is gone. It is ErrTampered.
func Tampered(table, what, found string) error {
	return &signing.Error{Code: signing.Denied, Message: what + " was altered in the database",
		Expected: "the row as this service wrote it", Found: found,
		Fix: "if a state secret was just replaced, keep the old one as a later entry of state_secret; otherwise stop the service, keep the database for examination and restore a backup",
		Err: &alteration{table}}
}
