package dct

import (
	"bytes"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

const sampleTargets = `{"signed":{"_type":"Targets","delegations":{"keys":{},"roles":[]},"expires":"2029-01-01T00:00:00Z","targets":{"v1":{"hashes":{"sha256":"LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="},"length":5}},"version":1},"signatures":[{"keyid":"00","method":"ecdsa","sig":"AAAA"}]}`

func FuzzAnyDocumentIsReadOrRefused(f *testing.F) {
	f.Add("targets", []byte(sampleTargets))
	f.Add("targets/releases", []byte(sampleTargets))
	f.Add("root", NewRoot(1, time.Unix(1, 0), nil, nil, nil, nil).Bytes)
	f.Add("root", seal(NewRoot(1, time.Unix(1, 0), nil, nil, nil, nil).Bytes))
	f.Add("snapshot", []byte(`{"signed":{"_type":"Snapshot","meta":{"root":{"length":1,"hashes":{"sha256":"LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="}}},"expires":"2029-01-01T00:00:00Z","version":1},"signatures":[]}`))
	f.Fuzz(func(t *testing.T, role string, raw []byte) {
		d, err := parseDocument(role, raw)
		if err != nil {
			return
		}
		if d.version < 1 || d.expires.IsZero() && len(d.signed) == 0 {
			t.Errorf("%q was read as %+v", raw, d)
		}
		again, err := parseDocument(role, seal(d.signed, d.sigs...))
		if err != nil || !bytes.Equal(again.signed, d.signed) {
			t.Errorf("%q does not read back: %v", raw, err)
		}
		_, _ = parseRoot(d)
		_, _ = parseMeta(d)
		if r, _, err := (&walk{}).believed(anyRole(role), d); err == nil {
			for _, x := range r.Targets {
				if signing.ValidateTag(x.Tag) != nil || x.Digest.Validate() != nil {
					t.Errorf("%q has the target %+v", raw, x)
				}
			}
		}
	})
}

func anyRole(name string) role { return role{name: name, paths: []string{""}} }

func FuzzAnyIntentIsRefusedOrIsWhatWouldBeMade(f *testing.F) {
	f.Add([]byte(`{"repository":"registry.acme.dev/web","role":"targets/releases","changes":[],"expires":"2029-01-01T00:00:00Z","files":{"root":"e30="}}`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, replay, signed []byte) {
		if said, err := New(nil).Inspect(signing.Intent{Bytes: signed, Replay: replay, Created: time.Unix(1700000000, 0)}); err == nil {
			t.Errorf("%q says %+v", replay, said) // nobody can sign a root in a fuzzer
		}
	})
}

func FuzzAnyServerKeyIsReadOrRefused(f *testing.F) {
	f.Add([]byte(`{"keytype":"ecdsa","keyval":{"private":null,"public":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE"}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if k, err := parseServerKey(raw); err == nil && (k.Public == nil || len(k.ID) != 64) {
			t.Errorf("%q was read as %+v", raw, k)
		}
	})
}
