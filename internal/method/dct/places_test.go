package dct_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/signing"
)

func TestWhoHasTheTrustItemsFindsTheSignedTags(t *testing.T) {
	w := newWorld(t)
	w.release("v1", "one")
	info, err := w.method.Info(w.key, nil)
	if err != nil || len(info.Trust) != 2 || info.Trust[1].Name != dct.PlacesFile {
		t.Fatalf("got %+v, %v", info, err)
	}
	m, err := dct.Read(info.Trust[1].Bytes, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	found, err := m.Find(t.Context(), signing.Artifact{Repository: gun, Digest: change("", "one").Digest}, w.key)
	if err != nil || len(found) != 1 || found[0].Err != nil || found[0].Format != dct.Format {
		t.Errorf("got %+v, %v", found, err)
	}
	other := newWorld(t)
	lying := strings.Replace(string(info.Trust[1].Bytes), w.owner.Root.Key.ID, other.owner.Root.Key.ID, 1)
	if m, err = dct.Read([]byte(lying), time.Now); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Find(t.Context(), signing.Artifact{Repository: gun, Digest: change("", "one").Digest}, w.key); !errors.Is(err, signing.Denied) {
		t.Errorf("with another root pinned: %v", err)
	}
}

func TestATrustItemThatIsNoneIsRefused(t *testing.T) {
	for name, text := range map[string]string{
		"not JSON": "x", "an object": "{}", "something behind it": "[]x", "an unknown field": `[{"url":"https://a.test","repositories":["b.test"],"pins":[],"password":"x"}]`,
		"plain http": `[{"url":"http://a.test","repositories":["b.test"],"pins":[]}]`, "no repositories": `[{"url":"https://a.test","pins":[]}]`,
		"a CA that is none": `[{"url":"https://a.test","repositories":["b.test"],"ca":"x","pins":[]}]`, "a pin that is none": `[{"url":"https://a.test","repositories":["b.test"],"pins":[{"repository":"b.test","ca":"x"}]}]`,
		"too long": strings.Repeat(" ", 2<<20),
	} {
		if _, err := dct.Read([]byte(text), time.Now); !errors.Is(err, signing.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzAnyTrustItemIsReadOrRefused(f *testing.F) {
	f.Add([]byte(`[{"url":"https://a.test","repositories":["b.test"],"pins":[{"repository":"b.test","rootKeys":["00"]}]}]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if m, err := dct.Read(raw, time.Now); err == nil && m == nil {
			t.Error("neither")
		}
	})
}
