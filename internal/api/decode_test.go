package api_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/signing"
)

const digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func body(artifact string) string {
	return `{"policy":"release","artifacts":[` + artifact + `]}`
}

const goodArtifact = `{"repository":"registry.acme.dev/payments/web","digest":"` + digestA + `"}`

func TestASubmissionIsReadWithSpaceAroundValuesTakenAway(t *testing.T) {
	got, err := api.ReadSubmission(strings.NewReader(` { "policy" : " release ", "deadlineSeconds": 60, "artifacts":[{"repository":"registry.acme.dev/payments/web ","digest":"` + digestA + `\n","tag":" v1 "}]} ` + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := api.SubmitRequest{Policy: "release", DeadlineSeconds: 60, Artifacts: []api.ArtifactRef{{Repository: "registry.acme.dev/payments/web", Digest: digestA, Tag: "v1"}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestBadSubmissionsAreRefusedWithWhatWasExpectedAndFound(t *testing.T) {
	long := strings.Repeat("a", 300)
	for name, c := range map[string]struct {
		body, says string
		code       signing.Code
	}{
		"empty":                        {"", "its end too early", signing.Invalid},
		"not JSON":                     {"policy=release", "JSON", signing.Invalid},
		"truncated":                    {body(goodArtifact)[:40], "its end too early", signing.Invalid},
		"null":                         {"null", "not the name of a signing policy", signing.Invalid},
		"an array":                     {"[]", "an object", signing.Invalid},
		"unknown field":                {`{"policy":"release","sign":true}`, "sign: ", signing.Invalid},
		"unknown field inside":         {body(`{"repository":"r.dev/a","digets":"x"}`), "artifacts[0].digets", signing.Invalid},
		"field in another case":        {`{"Policy":"release"}`, "Policy: ", signing.Invalid},
		"duplicate key":                {`{"policy":"test","policy":"release"}`, "it twice", signing.Invalid},
		"duplicate key, escaped":       {`{"policy":"test","polic\u0079":"release"}`, "it twice", signing.Invalid},
		"duplicate key inside":         {body(`{"repository":"r.dev/a","digest":"x","digest":"y"}`), "artifacts[0].digest", signing.Invalid},
		"trailing document":            {body(goodArtifact) + `{}`, "more after byte", signing.Invalid},
		"trailing garbage":             {body(goodArtifact) + `x`, "more after byte", signing.Invalid},
		"wrong type":                   {`{"policy":7}`, "a string", signing.Invalid},
		"float for an integer":         {`{"policy":"release","deadlineSeconds":1.5}`, "an integer", signing.Invalid},
		"too deep":                     {`{"policy":` + strings.Repeat("[", 100000) + strings.Repeat("]", 100000) + `}`, "levels of nesting", signing.Invalid},
		"not UTF-8":                    {"{\"policy\":\"\xff\"}", "UTF-8", signing.Invalid},
		"byte order mark":              {"\ufeff" + body(goodArtifact), "JSON", signing.Invalid},
		"too large":                    {body(goodArtifact) + strings.Repeat(" ", api.MaxSubmission), "at most", signing.TooLarge},
		"no policy":                    {`{"artifacts":[` + goodArtifact + `]}`, "`policy`", signing.Invalid},
		"policy with a path":           {`{"policy":"../x","artifacts":[` + goodArtifact + `]}`, "not the name", signing.Invalid},
		"no artifacts":                 {`{"policy":"release"}`, "1 to 500", signing.Invalid},
		"too many artifacts":           {body(strings.TrimSuffix(strings.Repeat(`{"repository":"r.dev/a","digest":"x"},`, 501), ",")), "501", signing.Invalid},
		"a tag in place of the digest": {body(`{"repository":"r.dev/a","digest":"v1.2"}`), "by digest, not by tag", signing.Invalid},
		"a tag and no digest":          {body(`{"repository":"r.dev/a","tag":"v1.2"}`), `only the tag \"v1.2\"`, signing.Invalid},
		"neither":                      {body(`{"repository":"r.dev/a"}`), "no digest", signing.Invalid},
		"digest of another algorithm":  {body(`{"repository":"r.dev/a","digest":"sha512:00"}`), "not a digest", signing.Invalid},
		"upper-case digest":            {body(`{"repository":"r.dev/a","digest":"` + strings.ToUpper(digestA[7:]) + `"}`), "sha256", signing.Invalid},
		"repository without a host":    {body(`{"repository":"payments/web","digest":"` + digestA + `"}`), "not a repository", signing.Invalid},
		"repository with a digest":     {body(`{"repository":"r.dev/a@` + digestA + `","digest":"` + digestA + `"}`), "not a repository", signing.Invalid},
		"repository too long":          {body(`{"repository":"r.dev/` + long + `","digest":"` + digestA + `"}`), "not a repository", signing.Invalid},
		"bad tag":                      {body(`{"repository":"r.dev/a","digest":"` + digestA + `","tag":"-x"}`), "artifacts[0]: not a tag", signing.Invalid},
		"resolved from no tag":         {body(`{"repository":"r.dev/a","digest":"` + digestA + `","resolvedFrom":"-x"}`), "artifacts[0]: not a tag", signing.Invalid},
		"twice, found in two ways":     {body(`{"repository":"r.dev/a","digest":"` + digestA + `","resolvedFrom":"v1"},{"repository":"r.dev/a","digest":"` + digestA + `"}`), "artifacts[1] repeats artifacts[0]", signing.Invalid},
		"twice the same":               {body(goodArtifact + "," + goodArtifact), "artifacts[1] repeats artifacts[0]", signing.Invalid},
		"one tag for two digests":      {body(`{"repository":"r.dev/a","digest":"` + digestA + `","tag":"v1"},{"repository":"r.dev/a","digest":"sha256:` + strings.Repeat("2", 64) + `","tag":"v1"}`), "two digests", signing.Invalid},
		"a digest to untrust":          {`{"policy":"release","untrust":["r.dev/a:v1@` + digestA + `"]}`, "untrust[0]: more than a tag", signing.Invalid},
		"a repository to untrust":      {`{"policy":"release","untrust":["r.dev/a"]}`, "untrust[0]: not a tag", signing.Invalid},
		"untrusted and signed":         {`{"policy":"release","artifacts":[{"repository":"r.dev/a","digest":"` + digestA + `","tag":"v1"}],"untrust":["r.dev/a:v1"]}`, "to be signed as well", signing.Invalid},
		"too many together":            {`{"policy":"release","artifacts":[` + goodArtifact + `],"untrust":[` + strings.TrimSuffix(strings.Repeat(`"r.dev/a:v1",`, 500), ",") + `]}`, "501", signing.Invalid},
		"negative deadline":            {`{"policy":"release","deadlineSeconds":-1,"artifacts":[` + goodArtifact + `]}`, "out of bounds", signing.Invalid},
		"deadline in a year":           {`{"policy":"release","deadlineSeconds":31536000,"artifacts":[` + goodArtifact + `]}`, "out of bounds", signing.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := api.ReadSubmission(strings.NewReader(c.body))
			if got := signing.CodeOf(err); got != c.code {
				t.Fatalf("code %q, want %q: %v", got, c.code, err)
			}
			p := api.FromError(err)
			if all, _ := json.Marshal(p); !strings.Contains(strings.ReplaceAll(string(all), `\\\"`, `\"`), c.says) && !strings.Contains(err.Error(), strings.ReplaceAll(c.says, `\"`, `"`)) {
				t.Errorf("the refusal does not say %q: %v", c.says, err)
			}
			if p.Expected == "" && p.Found == "" {
				t.Errorf("neither expected nor found: %v", err)
			}
			if len(err.Error()) > 2000 {
				t.Errorf("the refusal quotes too much: %d bytes", len(err.Error()))
			}
		})
	}
}

func TestABodyThatBreaksOffIsInvalidAndOneThatTheServerCutIsTooLarge(t *testing.T) {
	if _, err := api.ReadSubmission(iotest.ErrReader(io.ErrUnexpectedEOF)); signing.CodeOf(err) != signing.Invalid {
		t.Errorf("broken off: %v", err)
	}
	if _, err := api.ReadSubmission(iotest.ErrReader(&http.MaxBytesError{Limit: 1})); signing.CodeOf(err) != signing.TooLarge {
		t.Errorf("cut by the server: %v", err)
	}
}

func TestTheSameBodyIsTheSameRequestHoweverItIsWritten(t *testing.T) {
	digest := func(s string) signing.Digest {
		t.Helper()
		r, err := api.ReadSubmission(strings.NewReader(s))
		if err != nil {
			t.Fatal(err)
		}
		d, err := r.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	plain := digest(body(goodArtifact))
	for name, same := range map[string]string{
		"spaced":       strings.ReplaceAll(body(goodArtifact), ":[", " : [\n"),
		"escaped":      strings.Replace(body(goodArtifact), "release", `re\u006cease`, 1),
		"other order":  `{"artifacts":[{"digest":"` + digestA + `","repository":"registry.acme.dev/payments/web","tag":""}],"policy":"release"}`,
		"zero written": strings.Replace(body(goodArtifact), `{"policy"`, `{"deadlineSeconds":0,"policy"`, 1),
	} {
		if digest(same) != plain {
			t.Errorf("%s: another digest", name)
		}
	}
	other := `{"repository":"registry.acme.dev/payments/web","digest":"` + digestA + `","tag":"v1"}`
	seen := map[signing.Digest]string{plain: "plain"}
	for name, different := range map[string]string{
		"policy":     strings.Replace(body(goodArtifact), "release", "test", 1),
		"tag":        body(other),
		"one more":   body(goodArtifact + "," + other),
		"order":      body(other + "," + goodArtifact),
		"digest":     strings.Replace(body(goodArtifact), ":a", ":b", 1),
		"repository": strings.Replace(body(goodArtifact), "/web", "/api", 1),
		"deadline":   strings.Replace(body(goodArtifact), `{"policy"`, `{"deadlineSeconds":1,"policy"`, 1),
	} {
		d := digest(different)
		if was, taken := seen[d]; taken {
			t.Errorf("%s has the digest of %s", name, was)
		}
		seen[d] = name
	}
}

func TestIdempotencyKeysAreRefusedIfTheyCouldNotBeAHeader(t *testing.T) {
	for _, good := range []string{"a", "ci-0123", strings.Repeat("k", api.MaxIdempotencyKey)} {
		if err := api.ValidateIdempotencyKey(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", " ", "a b", "a\nb", "a\r\nX: y", "ä", "\x00", strings.Repeat("k", api.MaxIdempotencyKey+1)} {
		if err := api.ValidateIdempotencyKey(bad); signing.CodeOf(err) != signing.Invalid {
			t.Errorf("%q was accepted: %v", bad, err)
		}
	}
}

// FuzzSubmission: whatever is accepted is canonical, within bounds, and reads
// back as itself; whatever is refused is a refusal with a code.
func FuzzSubmission(f *testing.F) {
	for _, s := range []string{
		"", "null", "{}", body(goodArtifact), body(goodArtifact + "," + goodArtifact), `{"policy":"a","policy":"b"}`,
		`{"Policy":"release"}`, `{"policy":"release","artifacts":null}`, `{"artifacts":[[[[]]]]}`, body(`{"repository":"r.dev/a","digest":"latest"}`),
		`{"policy":"release","deadlineSeconds":1e3}`, "\ufeff{}", body(goodArtifact) + "{}", `{"policy":"\ud800"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := api.ReadSubmission(bytes.NewReader(data))
		if err != nil {
			var e *signing.Error
			if !errors.As(err, &e) || e.Code != signing.Invalid && e.Code != signing.TooLarge {
				t.Fatalf("refused without a code: %v", err)
			}
			return
		}
		if err := r.Validate(); err != nil {
			t.Fatalf("accepted and not valid: %v", err)
		}
		raw, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		again, err := api.ReadSubmission(bytes.NewReader(raw))
		if err != nil {
			t.Fatalf("its own encoding is refused: %v", err)
		}
		if d := cmp.Diff(r, again); d != "" {
			t.Fatal(d)
		}
		// Another parser must not see other values: the last of two keys.
		var loose map[string]any
		if err := json.Unmarshal(data, &loose); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(strings.TrimSpace(loose["policy"].(string))) != r.Policy {
			t.Fatalf("another parser reads policy %v", loose["policy"])
		}
	})
}
