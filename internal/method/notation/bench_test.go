package notation

import (
	"crypto/elliptic"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/method/methodtest"
	"github.com/sealwright/sealwright/internal/signing"
)

// BenchmarkOneSignature is the whole way of one signature, with a registry in
// the same process.
func BenchmarkOneSignature(b *testing.B) {
	for _, format := range []string{formatJWS, formatCOSE} {
		b.Run(format, func(b *testing.B) {
			w := methodtest.NewWorld(b, true)
			m, k := New(w.Client), ec(b, elliptic.P256())
			key := signing.KeyInfo{ID: "k", Public: k.Public(), Chain: chainOf(b, k.Public(), from, to)}
			for b.Loop() {
				b.StopTimer()
				t := method.Target{Artifact: w.Push(b, "acme/web"), Key: key, Options: map[string]string{"format": format}}
				b.StartTimer()
				p, err := m.Prepare(b.Context(), t, time.Now())
				if err != nil {
					b.Fatal(err)
				}
				e, err := m.Assemble(t, *p.Intent, methodtest.Sign(b, k, *p.Intent))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := m.Publish(b.Context(), t, e); err != nil {
					b.Fatal(err)
				}
				if _, err := m.Verify(b.Context(), t, e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
