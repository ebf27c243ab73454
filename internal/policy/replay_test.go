package policy

import (
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/signing"
)

// What a forge answered is not recorded; what was decided is.
func TestReplayTakesWhatWasDecidedForAnswersThatAreNotRecorded(t *testing.T) {
	set := load(t, asking) // asks for approvals of the branch
	narrow := load(t, strings.Replace(asking, "events: [push", "events: [release, push", 1))
	f := forgeFacts(t, `{"forge": null}`)
	elsewhere := forgeFacts(t, `{"forge": null, "origin": {"sourceRepositoryRef": "refs/heads/topic", "runAttempt": "2"}}`)
	more := load(t, strings.Replace(asking, "verify: {branch:", "verify: {run: true, branch:", 1))
	stricter := load(t, strings.Replace(asking, "required_approvals: 2}", "required_approvals: 3}", 1))
	people := load(t, strings.Replace(asking, "required: 2,", "required: 3,", 1))
	passed := Past{ID: "a", Facts: f, Passed: true, Effect: signing.NeedsApproval}
	refused := Past{ID: "a", Facts: f, Effect: signing.Deny}
	for name, c := range map[string]struct {
		before, after                              *Set
		past                                       Past
		same, refused, allowed, approvals, unknown int
	}{
		"the same":                              {before: set, after: set, past: passed, same: 1},
		"a word that says nothing of it":        {before: set, after: narrow, past: passed, same: 1},
		"a rule that the facts fail":            {before: set, after: load(t, strings.Replace(asking, "{refs: [refs/heads/main], verify: {branch", "{refs: [refs/heads/next], verify: {branch", 1)), past: passed, refused: 1},
		"it asks the forge for more":            {before: set, after: more, past: passed, unknown: 1},
		"it wants another answer":               {before: set, after: stricter, past: passed, unknown: 1},
		"it asks more people":                   {before: set, after: people, past: passed, approvals: 1},
		"refused then: nothing is known":        {before: set, after: set, past: refused, same: 1},
		"refused then, and a rule that fails":   {before: set, after: load(t, strings.Replace(asking, "{refs: [refs/heads/main], verify: {branch", "{refs: [refs/heads/next], verify: {branch", 1)), past: refused, same: 1},
		"as decided":                            {after: set, past: passed, unknown: 1},
		"as decided, with a rule that fails":    {after: set, past: Past{ID: "a", Facts: elsewhere, Passed: true, Effect: signing.NeedsApproval}, refused: 1},
		"refused then, and what asks is unsure": {after: set, past: refused, same: 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := Compare(c.before, c.after, []Past{c.past})
			if r.Same != c.same || len(r.Refused) != c.refused || len(r.Allowed) != c.allowed || len(r.Approvals) != c.approvals || len(r.Unknown) != c.unknown {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestTheWordsOfARepositorysPolicyAreListedByPolicy(t *testing.T) {
	got, err := RepositoryWords([]byte(`apiVersion: sealwright.dev/v1
policies:
  release: {tags: ["v*"], origin: {refs: [refs/heads/main], ref_protected: true}}
  all: {bind: {digests_only: true}}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []RepositoryWord{{"", "bind.digests_only", "true"}, {"release", "origin.ref_protected", "true"}, {"release", "origin.refs", `["refs/heads/main"]`}, {"release", "tags", `["v*"]`}}
	if len(got) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%+v, want %+v", got[i], want[i])
		}
	}
	if _, err := RepositoryWords([]byte("apiVersion: sealwright.dev/v1\npolicies: {all: {sign: []}}\n")); err == nil {
		t.Error("a word that widens was listed")
	}
}
