package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

func TestReplaySaysWhatAChangedPolicyWouldDecide(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	w := &auditWorld{t, e, e.Start(nil)}
	feature := devworld.NewGitHubJob()
	feature.Ref = "refs/heads/feature"
	signed := w.ask("signed", devworld.NewGitHubJob(), signing.Completed, e.Image("signed"))
	denied := w.ask("denied", feature, signing.RequestDenied, e.Image("denied"))

	dir := t.TempDir()
	file := func(name, old, new string) string {
		t.Helper()
		text := strings.ReplaceAll(testenv.Policy, "%[1]s", e.World.Registry.Host)
		changed := strings.Replace(text, old, new, 1)
		if old != "" && changed == text {
			t.Fatalf("%s: nothing was changed", name)
		}
		path := filepath.Join(dir, name+".yaml")
		w.check(os.WriteFile(path, []byte(changed), 0o600))
		return path
	}
	same := file("same", "", "")
	narrow := file("narrow", "events: [push, release]", "events: [release]")
	wide := file("wide", `refs: ["refs/heads/main", "refs/tags/v*"]`, `refs: ["refs/heads/*", "refs/tags/v*"]`)
	token := filepath.Join(dir, "token")
	w.check(os.WriteFile(token, []byte(e.Person(signing.Auditor)), 0o600))
	replay := func(args ...string) (code int, changes []replayed, said string) {
		t.Helper()
		var out, errs strings.Builder
		code = run(append([]string{"policy", "replay", "--json", "--server", w.s.HTTP.URL, "--token-file", token}, args...), streams{nil, &out, &errs})
		for d := json.NewDecoder(strings.NewReader(out.String())); d.More(); {
			var c replayed
			w.check(d.Decode(&c))
			changes = append(changes, c)
		}
		return code, changes, errs.String()
	}
	for _, before := range [][]string{nil, {"--before", same}} {
		if code, got, said := replay(append(before, same)...); code != exitOK || len(got) != 0 || !strings.Contains(said, "2 requests looked at") {
			t.Errorf("the same policy, %v: exit code %d, %+v, %s", before, code, got, said)
		}
		code, got, said := replay(append(before, narrow)...)
		if code != exitDenied || len(got) != 1 || got[0].ID != signed || got[0].Change != "newly refused" || !strings.Contains(strings.Join(got[0].Because, " "), "events") {
			t.Errorf("a narrower policy, %v: exit code %d, %+v, %s", before, code, got, said)
		}
		code, got, said = replay(append(before, wide)...)
		if code != exitDenied || len(got) != 1 || got[0].ID != denied || got[0].Change != "newly allowed" {
			t.Errorf("a wider policy, %v: exit code %d, %+v, %s", before, code, got, said)
		}
	}
	own := filepath.Join(dir, "policy.yml")
	w.check(os.WriteFile(own, []byte("apiVersion: sealwright.dev/v1\npolicies: {all: {origin: {refs: [refs/heads/next]}}}\n"), 0o600))
	if code, got, said := replay("--repository", own, same); code != exitDenied || len(got) != 1 || got[0].ID != signed || got[0].Change != "newly refused" || !strings.Contains(strings.Join(got[0].Because, " "), "repository_policy.origin.refs") {
		t.Errorf("a repository's own policy: exit code %d, %+v, %s", code, got, said)
	}
	if code, got, said := replay("--repository", own, "--before", own, same); code != exitOK || len(got) != 0 {
		t.Errorf("the same policy of the repository: exit code %d, %+v, %s", code, got, said)
	}
	if code, _, said := replay("--repository", same, same); code != exitError || !strings.Contains(said, ".sealwright/policy.yml:") {
		t.Errorf("what is none: exit code %d, %s", code, said)
	}
	if code, got, said := replay("--source", "acme/other", narrow); code != exitOK || !strings.Contains(said, "0 requests looked at") {
		t.Errorf("of another repository: exit code %d, %+v, %s", code, got, said)
	}
	// A question to the forge that was never asked: whether it passes is not known.
	asks := file("asks", "      ref_protected: true\n", "      ref_protected: true\n      verify: {run: true}\n")
	if code, got, said := replay(asks); code != exitError || len(got) != 0 || !strings.Contains(said, signed+" cannot be told: origin.verify.run") || !strings.Contains(said, "1 that cannot be told") {
		t.Errorf("a policy that asks the forge: exit code %d, %+v, %s", code, got, said)
	}
	if code, got, said := replay("--before", asks, asks); code != exitOK || len(got) != 0 {
		t.Errorf("policies that ask the same: exit code %d, %+v, %s", code, got, said)
	}
	if code, got, said := replay("--since", "1ns", narrow); code != exitOK || !strings.Contains(said, "0 requests looked at") {
		t.Errorf("of the last nanosecond: exit code %d, %+v, %s", code, got, said)
	}
	if code, _, said := replay("--limit", "1", same); code != exitOK || !strings.Contains(said, "raise --limit") {
		t.Errorf("with a limit: exit code %d, %s", code, said)
	}
	w.check(os.WriteFile(token, []byte(e.Person(signing.Approver)), 0o600))
	if code, _, said := replay(narrow); code != exitDenied || !strings.Contains(said, "auditor or admin") {
		t.Errorf("as an approver: exit code %d, %s", code, said)
	}
}

func TestAgesAreDaysOrDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{"90d": 90 * day, "1d": day, "12h": 12 * time.Hour, "": 0, "d": 0, "-1d": 0, "0d": 0, "99999999d": 0, "1w": 0} {
		got, err := parseAge(text)
		if (err != nil) != (want == 0) || err == nil && got != want {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
}
