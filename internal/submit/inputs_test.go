package submit_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/submit"
)

func TestATagIsResolvedOnceShownAndNeverSignedByItself(t *testing.T) {
	w, r := newWorld(t), newRegistry(t, "")
	w.env["INPUT_IMAGES"] = r.image + "\n" + r.image
	code := w.main(t.Context())
	w.check(code, submit.ExitOK, "resolved "+r.image+" to "+r.digest)
	want := []api.ArtifactRef{{Repository: r.host + "/payments/web", Digest: r.digest, ResolvedFrom: "v1"}}
	if d := cmp.Diff(want, w.bodies[0].Artifacts); d != "" {
		t.Error(d)
	}
	if n := r.asksFor("/manifests/v1"); n != 1 {
		t.Errorf("the tag was resolved %d times: %q", n, r.asked)
	}
	if !strings.Contains(w.file("summary"), "`"+r.image+"` to `"+r.digest+"`") {
		t.Errorf("the summary does not record it:\n%s", w.file("summary"))
	}
}

func TestATagIsSignedAlongOnlyWhereTheInputSaysSo(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want []api.ArtifactRef
	}{
		"tag beside a digest":     {[]string{"registry.acme.dev/web:v1@" + digestA}, []api.ArtifactRef{{Repository: "registry.acme.dev/web", Digest: digestA}}},
		"sign-tag":                {[]string{"registry.acme.dev/web:v1@" + digestA, "--sign-tag", "v2", "--wait"}, []api.ArtifactRef{{Repository: "registry.acme.dev/web", Digest: digestA, Tag: "v2"}}},
		"a tag of its repository": {[]string{"--sign-tag", "registry.acme.dev/web:v2 v3", "registry.acme.dev/web@" + digestA, "registry.acme.dev/api@" + digestA}, []api.ArtifactRef{{Repository: "registry.acme.dev/web", Digest: digestA, Tag: "v2"}, {Repository: "registry.acme.dev/web", Digest: digestA, Tag: "v3"}, {Repository: "registry.acme.dev/api", Digest: digestA, Tag: "v3"}}},
		"a tag of its image":      {[]string{"--sign-tag", "registry.acme.dev/web:v2@" + digestA, "registry.acme.dev/web@" + digestA, "registry.acme.dev/web@sha256:" + strings.Repeat("b", 64)}, []api.ArtifactRef{{Repository: "registry.acme.dev/web", Digest: digestA, Tag: "v2"}, {Repository: "registry.acme.dev/web", Digest: "sha256:" + strings.Repeat("b", 64)}}},
		"two tags":                {[]string{"--sign-tag", "v2, v2.1", "registry.acme.dev/web@" + digestA}, []api.ArtifactRef{{Repository: "registry.acme.dev/web", Digest: digestA, Tag: "v2"}, {Repository: "registry.acme.dev/web", Digest: digestA, Tag: "v2.1"}}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.env["INPUT_IMAGES"] = ""
			w.check(w.main(t.Context(), c.args...), submit.ExitOK)
			if d := cmp.Diff(c.want, w.bodies[0].Artifacts); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestMistakesInTheInputsExitTwoBeforeTheNetworkIsUsed(t *testing.T) {
	for name, c := range map[string]struct {
		env  map[string]string
		args []string
		says string
	}{
		"no server":              {map[string]string{"INPUT_SERVER": ""}, nil, "the input `server` is missing"},
		"no policy":              {map[string]string{"INPUT_POLICY": ""}, nil, "the input `policy` is missing"},
		"no images":              {map[string]string{"INPUT_IMAGES": " \n"}, nil, "no images"},
		"plain http":             {map[string]string{"INPUT_SERVER": "http://sign.acme.dev"}, nil, "use https"},
		"neither tag nor digest": {map[string]string{"INPUT_IMAGES": "registry.acme.dev/web"}, nil, "neither digest nor tag"},
		"an implied registry":    {map[string]string{"INPUT_IMAGES": "alpine:3"}, nil, "image 1: not a repository"},
		"second image bad":       {map[string]string{"INPUT_IMAGES": imageA + "\nx@y"}, nil, "image 2: not a repository"},
		"bad tag":                {nil, []string{"--sign-tag", "-x"}, "`sign-tag`: not a tag"},
		"tag of another image":   {nil, []string{"--sign-tag", "registry.acme.dev/other:v1"}, "`sign-tag`: no image of this step is that"},
		"tag of another digest":  {nil, []string{"--sign-tag", "registry.acme.dev/payments/web:v1@sha256:" + strings.Repeat("c", 64)}, "`sign-tag`: no image of this step is that"},
		"no tag to be signed":    {nil, []string{"--sign-tag", imageA}, "`sign-tag`: not a tag"},
		"a tag for two digests":  {map[string]string{"INPUT_IMAGES": imageA + " " + strings.Replace(imageA, "aaaa", "aaab", 1)}, []string{"--sign-tag", "v1"}, "two digests"},
		"untrust a digest":       {nil, []string{"--untrust", imageA}, "`untrust`: more than a tag"},
		"untrust a bare tag":     {nil, []string{"--untrust", "v1"}, "`untrust`: not a repository"},
		"untrust what is signed": {nil, []string{"--untrust", "registry.acme.dev/payments/web:v1", "--sign-tag", "v1"}, "to be signed as well"},
		"untrust by the job":     {nil, []string{"--untrust", "registry.acme.dev/payments/web:v1", "--publish", "client"}, "`untrust` is work of the service"},
		"bad policy":             {nil, []string{"--policy", "a b"}, "not the name of a signing policy"},
		"bad wait":               {nil, []string{"--wait=perhaps"}, "not a boolean"},
		"bad timeout":            {nil, []string{"--timeout", "ten"}, "not a length of time"},
		"negative timeout":       {nil, []string{"--timeout", "-1s"}, "not a length of time"},
		"deadline of a year":     {nil, []string{"--deadline", "8760h"}, "deadlineSeconds"},
		"bad key":                {nil, []string{"--idempotency-key", "a b"}, "Idempotency-Key"},
		"unknown flag":           {nil, []string{"--polcy", "x"}, "flag provided but not defined"},
		"no CA file":             {nil, []string{"--ca-file", "/nonexistent"}, "`ca-file` cannot be used"},
		"no digests file":        {nil, []string{"--digests-file", "/nonexistent"}, "`digests-file` cannot be used"},
		"empty digests file":     {nil, []string{"--digests-file", "/dev/null"}, "`digests-file` is empty"},
		"file and text":          {nil, []string{"--digests-file", "/dev/null", "--metadata", "{}"}, "both given"},
		"metadata of no push":    {nil, []string{"--metadata", `{"buildx.build.ref":"a/b/c"}`}, "the list of digests has no image in it"},
		"bad tag after":          {nil, []string{"--tags-after", "-x"}, "`tags-after`: not a tag"},
		"tag after elsewhere":    {nil, []string{"--tags-after", "registry.acme.dev/other:v1"}, "no image of this step is in that repository"},
		"digest after":           {nil, []string{"--tags-after", imageA}, "`tags-after`: not a tag"},
		"tag signed and moved":   {nil, []string{"--tags-after", "v1", "--sign-tag", "v1"}, "the tag is in `sign-tag` too"},
		"given by the tag":       {map[string]string{"INPUT_IMAGES": "registry.acme.dev/web:v1"}, []string{"--tags-after", "v1"}, "the image is given by the tag that is to be moved"},
		"tags without waiting":   {nil, []string{"--tags-after", "v1", "--wait=false"}, "does not wait for them"},
		"one tag for two images": {map[string]string{"INPUT_IMAGES": imageA + " " + strings.Replace(imageA, "aaaa", "aaab", 1)}, []string{"--tags-after", "v1"}, "the tag cannot name two images"},
		"publish by nobody":      {nil, []string{"--publish", "both"}, "`publish` names nobody"},
		"publish, not waiting":   {nil, []string{"--publish", "client", "--wait=false"}, "needs this step to wait"},
		"half a credential":      {map[string]string{"INPUT_REGISTRY-PASSWORD": "hunter2hunter2"}, nil, "registry credentials are incomplete"},
		"too many images":        {map[string]string{"INPUT_IMAGES": many(501)}, nil, "1 to 500"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			for k, v := range c.env {
				w.env[k] = v
			}
			w.check(w.main(t.Context(), c.args...), submit.ExitUsage, c.says)
			if len(w.calls) != 0 || len(w.tokens) != 0 {
				t.Errorf("calls %q, %d tokens", w.calls, len(w.tokens))
			}
			if strings.Contains(strings.ReplaceAll(w.out.String(), "::add-mask::hunter2hunter2", ""), "hunter2") {
				t.Errorf("the password is in the log: %s", w.out.String())
			}
		})
	}
}

func many(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("registry.acme.dev/a" + strings.Repeat("b", i%7) + string(rune('a'+i%26)) + strings.Repeat("c", i/26) + "@" + digestA + "\n")
	}
	return b.String()
}

func TestHelpAndVersionAreForPeople(t *testing.T) {
	w := newWorld(t)
	if code := w.main(t.Context(), "--help"); code != 0 || !strings.Contains(w.out.String(), "Usage:") || !strings.Contains(w.out.String(), "--sign-tag LIST") || !strings.Contains(w.out.String(), "Exit codes:") {
		t.Errorf("%d\n%s", code, w.out.String())
	}
	for _, line := range strings.Split(w.out.String(), "\n") {
		if len(line) > 110 {
			t.Errorf("too wide: %q", line)
		}
	}
	w.out.Reset()
	if code := w.main(t.Context(), "-version"); code != 0 || w.out.String() != "sealwright-ci v1\n" {
		t.Errorf("%d %q", code, w.out.String())
	}
}

func TestAResolverThatFailsIsAnErrorAndNotADenial(t *testing.T) {
	for name, resolve := range map[string]submit.Resolver{
		"denied": func(context.Context, signing.Repository, string) (signing.Digest, error) {
			return "", &signing.Error{Code: signing.Denied, Message: "the registry wants a login", Fix: "log in"}
		},
		"not a digest": func(context.Context, signing.Repository, string) (signing.Digest, error) { return "latest", nil },
		"broken": func(context.Context, signing.Repository, string) (signing.Digest, error) {
			return "", errors.New("the registry wants a login")
		},
	} {
		w := newWorld(t)
		code := submit.Run(t.Context(), submit.Options{CI: w.environment(), Server: w.http.URL, Policy: "release", Images: []string{"registry.acme.dev/web:v1"}, Resolve: resolve, Now: w.clock, Sleep: w.sleep})
		w.check(code, submit.ExitError, "resolving registry.acme.dev/web:v1: ")
		if len(w.calls) != 0 {
			t.Errorf("%s: calls %q", name, w.calls)
		}
	}
}

func TestTheJobsDockerLoginResolvesTagsOfItsOwnRegistryOnly(t *testing.T) {
	private, other := newRegistry(t, "hunter2hunter2"), newRegistry(t, "")
	config := func(w *world, host string) {
		dir := filepath.Join(w.dir, ".docker")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		// "ci:hunter2hunter2"
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"auths":{"`+host+`":{"auth":"Y2k6aHVudGVyMmh1bnRlcjI="}}}`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w := newWorld(t)
	config(w, private.host)
	w.env["INPUT_IMAGES"] = private.image + " " + other.image
	w.check(w.main(t.Context()), submit.ExitOK, "resolved "+private.image, "resolved "+other.image)
	for _, h := range other.headers {
		if h.Get("Authorization") != "" {
			t.Errorf("credentials of another registry were sent: %v", h)
		}
	}
	// Without a login the step ends with an error that is not the policy's denial.
	w = newWorld(t)
	w.env["INPUT_IMAGES"] = private.image
	w.check(w.main(t.Context()), submit.ExitError, "resolving "+private.image)
	// Inputs do what a login does, and are never printed.
	w = newWorld(t)
	w.env["INPUT_IMAGES"], w.env["INPUT_REGISTRY"], w.env["INPUT_REGISTRY-USERNAME"], w.env["INPUT_REGISTRY-PASSWORD"] = private.image+" "+other.image, private.host, "ci", "hunter2hunter2"
	other.headers = nil
	w.check(w.main(t.Context()), submit.ExitOK)
	if strings.Contains(strings.ReplaceAll(w.out.String(), "::add-mask::hunter2hunter2", ""), "hunter2") {
		t.Error("the password is in the log")
	}
	for _, h := range other.headers {
		if h.Get("Authorization") != "" {
			t.Errorf("credentials of another registry were sent: %v", h)
		}
	}
}

func TestCredentialsSentToAnotherRegistryThatAsksForThemAreImpossible(t *testing.T) {
	greedy := newRegistry(t, "anything")
	for name, set := range map[string]func(*world){
		"inputs": func(w *world) {
			w.env["INPUT_REGISTRY"], w.env["INPUT_REGISTRY-USERNAME"], w.env["INPUT_REGISTRY-PASSWORD"] = "registry.acme.dev", "ci", "hunter2hunter2"
		},
		"docker login": func(w *world) {
			w.env["DOCKER_CONFIG"] = w.dir
			if err := os.WriteFile(filepath.Join(w.dir, "config.json"), []byte(`{"auths":{"registry.acme.dev":{"auth":"Y2k6aHVudGVyMmh1bnRlcjI="}}}`), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"GitLab's registry": func(w *world) {
			w.env["GITLAB_CI"], w.env["CI_REGISTRY"], w.env["CI_REGISTRY_USER"], w.env["CI_REGISTRY_PASSWORD"] = "true", "registry.acme.dev", "ci", "hunter2hunter2"
		},
	} {
		w := newWorld(t)
		set(w)
		w.env["INPUT_IMAGES"] = greedy.image
		w.check(w.main(t.Context()), submit.ExitError, "resolving "+greedy.image)
		if len(greedy.headers) == 0 {
			t.Errorf("%s: the registry was not asked", name)
		}
		for _, h := range greedy.headers {
			if h.Get("Authorization") != "" {
				t.Errorf("%s: credentials were sent: %v", name, h)
			}
		}
	}
}

func TestOnGitLabTheJobsOwnRegistryNeedsNoLogin(t *testing.T) {
	r := newRegistry(t, "hunter2hunter2")
	resolve := submit.NewRegistries(submit.RegistryOptions{Env: func(k string) string {
		return map[string]string{"GITLAB_CI": "true", "CI_REGISTRY": r.host, "CI_REGISTRY_USER": "gitlab-ci-token", "CI_REGISTRY_PASSWORD": "hunter2hunter2", "CI_SERVER_URL": "https://gitlab.acme.dev"}[k]
	}}).Resolve
	d, err := resolve(t.Context(), signing.Repository(r.host+"/payments/web"), "v1")
	if err != nil || string(d) != r.digest {
		t.Errorf("%s %v", d, err)
	}
	if _, err := resolve(t.Context(), signing.Repository(r.host+"/payments/web"), "v2"); !errors.Is(err, signing.NotFound) {
		t.Errorf("a tag that is not there: %v", err)
	}
}
