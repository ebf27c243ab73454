package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/submit"
	"github.com/sealwright/sealwright/internal/testenv"
)

// listing is a service with a policy for lists, and a submitter's token in a file.
func listing(t *testing.T) (e *testenv.Env, args []string) {
	t.Helper()
	for _, v := range []string{"GITHUB_ACTIONS", "GITLAB_CI", "CI", "SEALWRIGHT_ID_TOKEN", "SEALWRIGHT_SERVER", "SEALWRIGHT_TOKEN_FILE"} {
		t.Setenv(v, "")
	}
	policy := testenv.Policy + "  lists:\n    tags: [\"v*\"]\n    origin: {human: true}\n    approvals: {required: 1, from: [\"github.test:acme/release\"]}\n    sign: [{method: cosign, key: release}]\n"
	keys := `
  - id: release
    file: file:DIR/release.key
    methods: [cosign]
    allow: [{project: payments, policy: release, repositories: ["HOST/payments/*"]}, {project: payments, policy: lists, repositories: ["HOST/payments/*"]}]
`
	f := testenv.NewMemory("github.test", time.Now)
	f.Person("101", "ann", "github.test:acme/release")
	e = testenv.New(t, testenv.Options{Policy: policy, Keys: keys, Forges: map[string]forge.Forge{"github.test": f}})
	s := e.Start(nil)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(e.Person(signing.Submitter)), 0o600); err != nil {
		t.Fatal(err)
	}
	return e, []string{"sign", "--server", s.HTTP.URL, "--token-file", token, "--policy", "lists"}
}

func TestAPersonBringsAListOfAnyForm(t *testing.T) {
	e, args := listing(t)
	one, two := e.Image("one"), e.Image("two")
	export := submit.Export{Format: submit.ExportFormat, Made: time.Now().Add(-time.Hour), Repositories: []submit.ExportedRepository{{Repository: string(one.Repository), Tags: []submit.ExportedTag{
		{Tag: "v1", Digest: string(one.Digest)}, {Tag: "v2", Digest: string(two.Digest)},
	}}}}
	var raw bytes.Buffer
	if err := export.Write(&raw); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "export.json")
	if err := os.WriteFile(file, raw.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	lines := fmt.Sprintf("%s@%s\n", two.Repository, two.Digest)
	for what, c := range map[string]struct {
		args []string
		in   string
		says string
	}{
		"an export":          {[]string{"--digests-file", file}, "", "2 tags, 2 images"},
		"an export's tags":   {[]string{"--digests-file", file, "--tags", "--json"}, "", `"tag": "v2"`},
		"lines of the input": {[]string{"--digests-file", "-"}, lines, " is pending"},
		"an image":           {[]string{fmt.Sprintf("%s@%s", one.Repository, one.Digest)}, "", " is pending"},
	} {
		var out, errs bytes.Buffer
		code := run(append(append([]string{}, args...), c.args...), streams{strings.NewReader(c.in), &out, &errs})
		if code != exitOK || !strings.Contains(out.String(), c.says) || !strings.Contains(out.String(), "sr_") {
			t.Errorf("%s: exit code %d\n%s%s", what, code, out.String(), errs.String())
		}
	}
}

func TestAListThatCannotBeSignedIsRefused(t *testing.T) {
	e, args := listing(t)
	one := e.Image("one")
	image := fmt.Sprintf("%s@%s", one.Repository, one.Digest)
	old := filepath.Join(t.TempDir(), "old.txt")
	if err := os.WriteFile(old, []byte(image), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		args []string
		code int
	}{
		"nothing":            {nil, exitUsage},
		"both":               {[]string{"--digests-file", old, image}, exitUsage},
		"no such file":       {[]string{"--digests-file", old + ".none"}, exitUsage},
		"a tag":              {[]string{"registry.acme.dev/payments/web:v1"}, exitUsage},
		"tags of lines":      {[]string{"--tags", "--digests-file", old}, exitUsage},
		"a policy for jobs":  {[]string{"--policy", "release", image}, exitDenied},
		"another's image":    {[]string{"registry.elsewhere.dev/x/y@" + string(one.Digest)}, exitDenied},
		"another repository": {[]string{"--repository", "acme/none", image}, exitDenied},
		"two from the input": {[]string{"--digests-file", "-", "--token-file", "-"}, exitUsage},
	} {
		var out, errs bytes.Buffer
		if code := run(append(append([]string{}, args...), c.args...), streams{strings.NewReader(""), &out, &errs}); code != c.code {
			t.Errorf("%s: exit code %d, not %d\n%s%s", what, code, c.code, out.String(), errs.String())
		}
	}
}
