package server

import (
	"net/url"
	"testing"

	"github.com/sealwright/sealwright/internal/signing"
)

// FuzzListQuery: a query is a filter with values in their grammar, or is refused
// in a few words.
func FuzzListQuery(f *testing.F) {
	for _, q := range []string{"", "state=denied", "state=x", "digest=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "cursor=" + cursor(7), "cursor=AAAAAAAAAAA", "project=a&project=b", "x=1", "%zz"} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		q, err := url.ParseQuery(raw)
		if err != nil {
			return
		}
		filter, before, err := filterOf(q)
		if err != nil {
			if signing.CodeOf(err) != signing.Invalid || len(err.Error()) > 1000 {
				t.Fatalf("%v", err)
			}
			return
		}
		if filter.State != "" && !filter.State.Valid() || filter.Digest != "" && filter.Digest.Validate() != nil || before < 0 {
			t.Fatalf("%+v, %d", filter, before)
		}
		if c := q.Get("cursor"); c != "" && cursor(before) != c {
			t.Fatalf("two spellings of a cursor: %q and %q", c, cursor(before))
		}
	})
}
