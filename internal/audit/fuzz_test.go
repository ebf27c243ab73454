package audit_test

import (
	"bytes"
	"maps"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/sealwright/sealwright/internal/audit"
)

// What ParseEvent accepts is exactly what Marshal writes.
func FuzzParseEvent(f *testing.F) {
	f.Add(event(f, 0))
	f.Add([]byte(`{"time":"2026-03-01T12:00:00Z","kind":"service.started","attrs":{"version":"v1"}}`))
	f.Add([]byte(`{"time":"2026-03-01T12:00:00+00:00","kind":"request.expired","request":"sr_0123456789ABCDEF"}`))
	f.Add([]byte(`{"kind":`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := audit.ParseEvent(data)
		if err != nil {
			return
		}
		again, err := e.Marshal()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%q is accepted and becomes %q (%v)", data, again, err)
		}
		for _, c := range data {
			if c < 0x20 || c > 0x7e {
				t.Fatalf("%q is accepted", data)
			}
		}
	})
}

// What is accepted as a checkpoint says what was signed: no byte of the
// statement can change. Other signatures may be added; nobody judges them.
func FuzzParseCheckpoint(f *testing.F) {
	l := honestLog(f, 3, 1)
	for _, c := range l.checkpoints {
		f.Add(c)
	}
	f.Add([]byte("sealwright.example/log\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n— x AAAA\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := audit.ParseCheckpoint(data, l.signer.Verifier())
		if err != nil {
			return
		}
		signed := slices.ContainsFunc(l.checkpoints, func(raw []byte) bool {
			text, _, _ := bytes.Cut(raw, []byte("\n\n"))
			return bytes.HasPrefix(data, append(text, "\n\n"...))
		})
		if !signed || c.Size < 1 || c.Size > 3 {
			t.Fatalf("%q was never signed", data)
		}
	})
}

func FuzzParseTile(f *testing.F) {
	for _, s := range []string{"tile/0/000", "tile/entries/x001/x234/067.p/255", "tile/7/x000/001", "checkpoint"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		tile, err := audit.ParseTile(path)
		if err != nil {
			return
		}
		if tile.Path() != path {
			t.Fatalf("%q is accepted as %q", path, tile.Path())
		}
		if from, to := tile.Range(); from >= to || tile.Width < 1 || tile.Width > audit.TileWidth {
			t.Fatalf("%q is %+v", path, tile)
		}
	})
}

func FuzzParseBundle(f *testing.F) {
	data, err := audit.MarshalBundle([][]byte{[]byte("a"), {}, []byte("bcd")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data, 3)
	f.Add([]byte{0, 0}, 1)
	f.Add([]byte{0xff, 0xff, 0}, 1)
	f.Fuzz(func(t *testing.T, data []byte, width int) {
		if width < 0 || width > audit.TileWidth {
			return
		}
		entries, err := audit.ParseBundle(data, width)
		if err != nil {
			return
		}
		if len(entries) != width {
			t.Fatalf("%d entries of %d", len(entries), width)
		}
		again, err := audit.MarshalBundle(entries)
		// What is larger than an event is split all the same; the event's parser refuses it.
		if err == nil && !bytes.Equal(again, data) {
			t.Fatalf("%q becomes %q", data, again)
		}
	})
}

// No change of any file of an export is accepted, with the whole file under the
// fuzzer's control. The signed statement is all that may stay the same.
func FuzzVerifyExport(f *testing.F) {
	l := honestLog(f, 20, 7)
	honest := l.export()
	names := slices.Sorted(maps.Keys(honest))
	want, err := verify(l, honest)
	if err != nil {
		f.Fatal(err)
	}
	for i, name := range names {
		f.Add(uint8(i), honest[name].Data)
		f.Add(uint8(i), honest[name].Data[:len(honest[name].Data)/2])
		f.Add(uint8(i), append(bytes.Clone(honest[name].Data), 0, 0))
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		name := names[int(which)%len(names)]
		files := maps.Clone(honest)
		files[name] = &fstest.MapFile{Data: data}
		r, err := verify(l, files)
		if err != nil || bytes.Equal(data, honest[name].Data) {
			return
		}
		// The list of checkpoints may lose or repeat one that is not the newest:
		// each statement stands for itself. Entries and tiles may not change at all.
		if name != "checkpoints/000" || r.Size != want.Size || r.Root != want.Root || r.Verified != want.Verified {
			t.Fatalf("%s changed to %q and accepted: %+v", name, data, r)
		}
	})
}
