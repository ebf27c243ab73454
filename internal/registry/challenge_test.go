package registry

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestChallengesAreReadAsTheSpecificationWritesThem(t *testing.T) {
	type m = map[string]string
	for _, c := range []struct {
		in   []string
		want []challenge
	}{
		{[]string{`Bearer realm="https://a/token",service="a",scope="repository:x:pull,push"`}, []challenge{{"bearer", m{"realm": "https://a/token", "service": "a", "scope": "repository:x:pull,push"}}}},
		{[]string{`Basic realm="say \"hi\"" , charset=UTF-8`}, []challenge{{"basic", m{"realm": `say "hi"`, "charset": "UTF-8"}}}},
		{[]string{`Negotiate, Basic realm=x`, `BEARER Realm = "y"`}, []challenge{{"negotiate", m{}}, {"basic", m{"realm": "x"}}, {"bearer", m{"realm": "y"}}}},
		{[]string{`Bearer realm=https://a/token?b=c`}, []challenge{{"bearer", m{"realm": "https://a/token?b=c"}}}},
		{[]string{` , `}, nil},
		{nil, nil},
	} {
		got, err := parseChallenges(c.in)
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(challenge{})); err != nil || diff != "" {
			t.Errorf("%q: %v\n%s", c.in, err, diff)
		}
	}
	for _, in := range []string{`Bearer realm="open`, `Bearer realm="a\`, `="x"`, `Bearer realm="a",realm="b"`, `Bearer @`, strings.Repeat("a", maxChallenge+1)} {
		if got, err := parseChallenges([]string{in}); err == nil {
			t.Errorf("%.40q was read as %v", in, got)
		}
	}
}

func FuzzParseChallenges(f *testing.F) {
	for _, s := range []string{`Bearer realm="https://a/token",service="a"`, `Basic`, `Negotiate abc==, Basic realm=x`, `Bearer realm="`, `, ,=`, "Bearer realm=\"a\\"} {
		f.Add(s)
	}
	h := &host{name: "registry.acme.dev"}
	h.api, _ = parseRealm("https://registry.acme.dev")
	f.Fuzz(func(t *testing.T, s string) {
		cs, err := parseChallenges([]string{s})
		if err != nil {
			return
		}
		for _, c := range cs {
			if c.scheme == "" || len(c.params) > maxChallengeParams {
				t.Errorf("%q: %v", s, c)
			}
			// No challenge gets credentials anywhere but to the registry's host.
			if u, err := h.fence(c.params["realm"]); err == nil && (u.Scheme != "https" || !strings.EqualFold(u.Hostname(), "registry.acme.dev")) {
				t.Errorf("%q leads to %s", s, u)
			}
		}
	})
}
