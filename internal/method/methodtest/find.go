package methodtest

import (
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/signing"
)

// find is what tells a signature that the service made from one that it did not.
func (b *bench) find() {
	m, ok := b.m.(method.Finder)
	if !ok {
		return // nobody can ask where its signatures are
	}
	list := func(k signing.KeyInfo) []method.Found {
		b.Helper()
		out, err := m.Find(b.Context(), b.target.Artifact, k)
		if err != nil {
			b.Fatal(err)
		}
		return out
	}
	if got := list(b.target.Key); len(got) != 0 {
		b.Errorf("found before anything was published: %+v", got)
	}
	e := b.envelope(b.target)
	at := b.publish(b.target, e)
	got := list(b.target.Key)
	if len(got) != 1 || got[0].Err != nil || got[0].Envelope != signing.DigestOf(e.Bytes) || got[0].Location.URI != at[0].URI {
		b.Errorf("found %+v, want %s at %+v", got, signing.DigestOf(e.Bytes), at)
	}
	second := b.other()
	if got := list(second.Key); len(got) != 1 || got[0].Err == nil || got[0].Envelope != signing.DigestOf(e.Bytes) {
		b.Errorf("found with another key: %+v", got)
	}
	other := b.envelope(second)
	b.publish(second, other)
	good, digests := 0, map[signing.Digest]bool{}
	for _, f := range list(b.target.Key) {
		if digests[f.Envelope] = true; f.Err == nil {
			good++
		}
	}
	if good != 1 || len(digests) != 2 || !digests[signing.DigestOf(other.Bytes)] {
		b.Errorf("%d are by the key, %d are different", good, len(digests))
	}
}
