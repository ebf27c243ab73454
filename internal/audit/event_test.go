package audit_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
)

var at = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)

const (
	reqID  = "sr_0123456789ABCDEF"
	taskID = reqID + ".1"
	digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

func attempt() audit.Event {
	return audit.Event{Time: at, Kind: audit.KeyAttempt, Request: reqID, Task: taskID, Attrs: map[string]string{"key": "release-ec", "attempt": "1", "intent": digest}}
}

func TestEventSurvivesMarshalAndParse(t *testing.T) {
	for _, e := range []audit.Event{
		attempt(),
		{Time: at, Kind: audit.ServiceStarted, Attrs: map[string]string{"version": "v0.1.0+dirty"}},
		{Time: at, Kind: audit.RequestExpired, Request: reqID},
		{Time: at, Kind: audit.TamperDetected, Request: reqID, Attrs: map[string]string{"table": "requests", "row": reqID}},
		{Time: at, Kind: audit.TaskPublished, Request: reqID, Task: taskID, Attrs: map[string]string{"locations": "registry.acme.dev/payments/web:sha256-e3b0.sig,registry.acme.dev/payments/web@" + digest}},
		{Time: at, Kind: audit.RequestSubmitted, Request: reqID, Attrs: map[string]string{"policy": "release", "untrust": "registry.acme.dev/payments/web:v1"}},
		{Time: at, Kind: audit.TaskPrepared, Request: reqID, Task: taskID, Attrs: map[string]string{"repository": "registry.acme.dev/payments/web", "part": "targets/releases", "method": "dct", "key": "release-dct", "intent": digest,
			"changes": "v1=.." + digest[7:] + ",v2=" + digest[7:] + ".." + digest[7:] + ",v.3=" + digest[7:] + ".."}},
		{Time: at, Kind: audit.TokenRefused, Attrs: map[string]string{"issuer": "https://token.actions.githubusercontent.com", "code": "denied", "rules": "origin.refs,repositories[0]"}},
	} {
		raw, err := e.Marshal()
		if err != nil {
			t.Errorf("%s: %v", e.Kind, err)
			continue
		}
		got, err := audit.ParseEvent(raw)
		if err != nil {
			t.Errorf("%s: %v", e.Kind, err)
		}
		if diff := cmp.Diff(e, got); diff != "" {
			t.Errorf("%s changed (-want +got):\n%s", e.Kind, diff)
		}
	}
}

func TestLeafDataIsStableAcrossVersions(t *testing.T) {
	// The bytes of a logged event may never change: its hash is in signed roots.
	local := attempt()
	local.Time = at.In(time.FixedZone("CET", 3600))
	raw, err := local.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"time":"2026-03-01T12:00:00.123456789Z","kind":"key.attempt","request":"sr_0123456789ABCDEF","task":"sr_0123456789ABCDEF.1","attrs":{"attempt":"1","intent":"` + digest + `","key":"release-ec"}}`
	if diff := cmp.Diff(want, string(raw)); diff != "" {
		t.Errorf("leaf data (-want +got):\n%s", diff)
	}
}

func TestEventOutsideItsGrammarIsRefused(t *testing.T) {
	for name, change := range map[string]func(e *audit.Event){
		"unknown kind":            func(e *audit.Event) { e.Kind = "key.stolen" },
		"no time":                 func(e *audit.Event) { e.Time = time.Time{} },
		"year 10000":              func(e *audit.Event) { e.Time = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"no request":              func(e *audit.Event) { e.Request = "" },
		"no task":                 func(e *audit.Event) { e.Task = "" },
		"request id of strangers": func(e *audit.Event) { e.Request, e.Task = "sr_x", "sr_x.1" },
		"task of another request": func(e *audit.Event) { e.Task = "sr_FFFFFFFFFFFFFFFF.1" },
		"task without a number":   func(e *audit.Event) { e.Task = reqID + "." },
		"request event with task": func(e *audit.Event) { e.Kind, e.Attrs = audit.RequestExpired, nil },
		"service event on request": func(e *audit.Event) {
			e.Kind, e.Attrs, e.Task = audit.ServiceStarted, map[string]string{"version": "1"}, ""
		},
		"missing attribute":        func(e *audit.Event) { delete(e.Attrs, "key") },
		"attribute of other kinds": func(e *audit.Event) { e.Attrs["rules"] = "origin.refs" },
		"unknown attribute":        func(e *audit.Event) { e.Attrs["note"] = digest },
		"empty value":              func(e *audit.Event) { e.Attrs["key"] = "" },
		"free text":                func(e *audit.Event) { e.Attrs["key"] = "please sign <b>this</b>" },
		"control character":        func(e *audit.Event) { e.Attrs["key"] = "a\x1b[2J" },
		"new line at the end":      func(e *audit.Event) { e.Attrs["key"] = "a\n" },
		"not ASCII":                func(e *audit.Event) { e.Attrs["key"] = "schlüssel" },
		"not a number":             func(e *audit.Event) { e.Attrs["attempt"] = "01" },
		"not a digest":             func(e *audit.Event) { e.Attrs["intent"] = "sha256:00" },
		"a change of nothing":      changed("v1=.."),
		"a change without a tag":   changed("=.." + digest[7:]),
		"a change of a half":       changed("v1=..abcd"),
		"a change with algorithm":  changed("v1=.." + digest),
		"a change of no tag":       changed("-v1=.." + digest[7:]),
		"a change that is more":    changed("v1=.." + digest[7:] + "x"),
		"digest to untrust": func(e *audit.Event) {
			e.Kind, e.Task, e.Attrs = audit.RequestSubmitted, "", map[string]string{"policy": "p", "untrust": "r.io/a:v1@" + digest}
		},
		"value too long": func(e *audit.Event) { e.Attrs["key"] = strings.Repeat("a", 200) },
	} {
		e := attempt()
		change(&e)
		if _, err := e.Marshal(); signing.CodeOf(err) != signing.Invalid {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
}

// changed makes an event of one that is prepared, with these changes.
func changed(changes string) func(*audit.Event) {
	return func(e *audit.Event) {
		e.Kind, e.Attrs = audit.TaskPrepared, map[string]string{"repository": "r.io/a", "method": "dct", "key": "k", "intent": digest, "changes": changes}
	}
}

func TestChangesOfATaskAreInTheLogAndBounded(t *testing.T) {
	task := &signing.Task{ID: taskID, RequestID: reqID, Artifact: signing.Artifact{Repository: "registry.acme.dev/payments/web"}, Step: signing.Step{Method: "dct", Key: "release-dct"}, Part: "targets/releases", Intent: &signing.Intent{}}
	for range signing.MaxArtifacts {
		task.Intent.Differences = append(task.Intent.Differences, signing.Difference{Tag: strings.Repeat("v", 128), From: digest, To: digest})
	}
	task.Locations = []signing.Location{{URI: "https://notary.acme.dev/v2/x/_trust/tuf/targets/releases.json"}}
	for kind, attrs := range map[string]map[string]string{audit.TaskPrepared: audit.Prepared(task), audit.TaskPublished: audit.Located(task)} {
		if got := attrs["changes"]; !strings.HasPrefix(got, strings.Repeat("v", 128)+"="+digest[7:]+".."+digest[7:]+",") || !strings.Contains(got, ",+4") || len(got) > audit.MaxList {
			t.Errorf("%s: changes of %d bytes: %.200s", kind, len(got), got)
		}
		if _, err := (audit.Event{Time: at, Kind: kind, Request: reqID, Task: taskID, Attrs: attrs}).Marshal(); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestLeafThatIsNotCanonicalIsRefused(t *testing.T) {
	raw, err := attempt().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	good := string(raw)
	for name, leaf := range map[string]string{
		"empty":              "",
		"null":               "null",
		"list":               "[]",
		"space":              strings.Replace(good, ":", ": ", 1),
		"trailing space":     good + " ",
		"second value":       good + good,
		"unknown field":      strings.Replace(good, `{"time"`, `{"note":"x","time"`, 1),
		"repeated field":     strings.Replace(good, `{"time"`, `{"kind":"key.attempt","time"`, 1),
		"repeated attribute": strings.Replace(good, `"key":"release-ec"`, `"key":"release-ec","key":"release-ec"`, 1),
		"other case":         strings.Replace(good, `"kind"`, `"Kind"`, 1),
		"other order":        strings.Replace(good, `"attempt":"1","intent":"`+digest+`",`, `"intent":"`+digest+`","attempt":"1",`, 1),
		"escaped":            strings.Replace(good, "release-ec", `\u0072elease-ec`, 1),
		"other zone":         strings.Replace(good, "12:00:00.123456789Z", "13:00:00.123456789+01:00", 1),
		"longer fraction":    strings.Replace(good, "123456789Z", "1234567890Z", 1),
		"too large":          strings.Replace(good, "release-ec", strings.Repeat("a", audit.MaxEvent), 1),
		"not JSON":           "Bearer eyJhbGciOiJSUzI1NiJ9",
	} {
		if leaf == good {
			t.Fatalf("%s changes nothing", name)
		}
		if _, err := audit.ParseEvent([]byte(leaf)); signing.CodeOf(err) != signing.Invalid {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
}

// The class of CVE-2024-8365, GHSA-prh4-vhfh-24mj and CVE-2026-46358: secrets in the audit log.
func TestSecretsAndTextOfStrangersNeverEnterTheLog(t *testing.T) {
	const jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJyZXBvOmFjbWUvd2ViIn0.c2lnbmF0dXJl"
	attrs := map[string]string{}
	audit.Origin(attrs, signing.Identity{
		Issuer: "https://token.actions.githubusercontent.com", Provider: "github-actions", Subject: "repo:acme/web:ref:refs/heads/" + jwt,
		TokenHash: strings.Repeat("ab", 32),
	}, signing.Origin{
		Forge: "github.com", SourceRepository: "acme/web", SourceRepositoryIdentifier: "74", SourceRepositoryRef: "refs/heads/" + jwt,
		SourceRepositoryDigest: strings.Repeat("0", 40), BuildTrigger: "push\n::set-output", RunID: "12345", RunAttempt: "1", ActorID: jwt, Actor: jwt,
	})
	audit.Put(attrs, "policy", "release <script>")
	audit.PutList(attrs, "artifacts", []string{"registry.acme.dev/web@" + digest, "not a reference", jwt + "," + jwt})
	raw, err := (audit.Event{Time: at, Kind: audit.RequestSubmitted, Request: reqID, Attrs: attrs}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{jwt, "eyJ", "script", "set-output", "refs/heads"} {
		if strings.Contains(string(raw), secret) {
			t.Errorf("the event holds %q: %s", secret, raw)
		}
	}
	want := map[string]string{
		"issuer": "https://token.actions.githubusercontent.com", "provider": "github-actions", "forge": "github.com", "source": "acme/web", "source_id": "74",
		"subject": audit.Hashed("repo:acme/web:ref:refs/heads/" + jwt), "token": "sha256:" + strings.Repeat("ab", 32), "ref": audit.Hashed("refs/heads/" + jwt),
		"commit": strings.Repeat("0", 40), "trigger": audit.Hashed("push\n::set-output"), "run": "12345", "attempt": "1", "actor_id": audit.Hashed(jwt),
		"policy": audit.Hashed("release <script>"), "artifacts": "registry.acme.dev/web@" + digest + "," + audit.Hashed("not a reference") + "," + audit.Hashed(jwt+","+jwt),
	}
	if diff := cmp.Diff(want, attrs); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
}

func TestLongListsAreCutWithACount(t *testing.T) {
	items := make([]string, signing.MaxArtifacts)
	for i := range items {
		items[i] = "registry.acme.dev/payments/web:v1@" + digest
	}
	attrs := map[string]string{"policy": "release"}
	audit.PutList(attrs, "artifacts", items)
	if got := attrs["artifacts"]; len(got) > audit.MaxList || !strings.Contains(got, ",+") {
		t.Errorf("list of %d bytes, ends %q", len(got), got[len(got)-20:])
	}
	if _, err := (audit.Event{Time: at, Kind: audit.RequestSubmitted, Request: reqID, Attrs: attrs}).Marshal(); err != nil {
		t.Error(err)
	}
	// An item that holds a comma must not become two.
	audit.PutList(attrs, "rules", []string{"origin.refs", "a,b"})
	if want := "origin.refs," + audit.Hashed("a,b"); attrs["rules"] != want {
		t.Errorf("rules are %s, want %s", attrs["rules"], want)
	}
	delete(attrs, "rules")
	attrs["artifacts"] = "+3"
	if _, err := (audit.Event{Time: at, Kind: audit.RequestSubmitted, Request: reqID, Attrs: attrs}).Marshal(); err == nil {
		t.Error("a list that is only a count is accepted")
	}
}
