package submit

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/signing"
)

const (
	pushed1 = "sha256:56c42d1be6fdbe0a1d0b0d9d6ff9f2b5a4b6a3f6e7e3cf6ad2eb1bdb3f2e7a11"
	pushed2 = "sha256:61ba426e49e207972d9ffaf6761cffec9fb3ae63dab76414cf250c9058370643"
)

func TestWhatBuildToolsWriteNamesItsImagesByDigest(t *testing.T) {
	for file, want := range map[string][]string{
		"buildx-build.json":      {"registry.acme.dev/payments/web@" + pushed1, "ghcr.io/acme/web@" + pushed1},
		"build-push-action.json": {"docker.io/acme/web@" + pushed1},
		"push-by-digest.json":    {"registry.acme.dev/payments/web@" + pushed1},
		"imagetools-create.json": {"registry.acme.dev/payments/web@" + pushed1},
		"bake.json":              {"registry.acme.dev/payments/db@" + pushed2, "docker.io/acme/webapp@" + pushed1, "registry.acme.dev/payments/webapp@" + pushed1},
		"lines.txt":              {"registry.acme.dev/payments/web@" + pushed1, "registry.acme.dev/payments/db@" + pushed2},
		"list.json":              {"registry.acme.dev/payments/web@" + pushed1, "registry.acme.dev/payments/db@" + pushed2},
	} {
		raw, err := readDigestsFile(filepath.Join("testdata", "digests", file))
		if err != nil {
			t.Fatal(err)
		}
		images, quiet, err := parseDigests(raw)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		var got []string
		for _, i := range images {
			got = append(got, string(i.repository)+"@"+string(i.digest))
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", file, d)
		}
		if want := map[string][]string{"bake.json": {"base"}}[file]; !cmp.Equal(want, quiet) {
			t.Errorf("%s: targets without an image %q, want %q", file, quiet, want)
		}
	}
}

func TestAListOfDigestsThatIsNotUnmistakableIsRefused(t *testing.T) {
	build := `"containerimage.digest":"` + pushed1 + `","image.name":"r.io/a"`
	for name, text := range map[string]string{
		"nothing":                       " \n",
		"comments only":                 "# none\n",
		"no JSON at all":                "{",
		"bytes that are not text":       "r.io/a@" + pushed1 + "\xff",
		"a NUL":                         "r.io/a@" + pushed1 + "\n\x00",
		"two documents":                 `{` + build + `}{}`,
		"a digest twice":                `{` + build + `,"containerimage.digest":"` + pushed2 + `"}`,
		"two digests that disagree":     `{` + build + `,"containerimage.descriptor":{"digest":"` + pushed2 + `"}}`,
		"a digest twice in a target":    `{"web":{` + build + `,"containerimage.digest":"` + pushed2 + `"}}`,
		"a target twice":                `{"web":{` + build + `},"web":{` + build + `}}`,
		"a build with targets":          `{` + build + `,"web":{` + build + `}}`,
		"no name":                       `{"containerimage.digest":"` + pushed1 + `"}`,
		"an empty name":                 `{"containerimage.digest":"` + pushed1 + `","image.name":""}`,
		"a name of another type":        `{"containerimage.digest":"` + pushed1 + `","image.name":["r.io/a"]}`,
		"a name with another digest":    `{"containerimage.digest":"` + pushed1 + `","image.name":"r.io/a@` + pushed2 + `"}`,
		"one bad name of two":           `{"containerimage.digest":"` + pushed1 + `","image.name":"r.io/a,R.io/A b"}`,
		"another algorithm":             `{"containerimage.digest":"sha512:` + strings.Repeat("a", 128) + `","image.name":"r.io/a"}`,
		"a digest of another type":      `{"containerimage.digest":7,"image.name":"r.io/a"}`,
		"an empty descriptor":           `{"containerimage.descriptor":{},"image.name":"r.io/a"}`,
		"metadata that pushed nothing":  `{"buildx.build.ref":"a/b/c"}`,
		"targets that pushed nothing":   `{"base":{"buildx.build.ref":"a/b/c"}}`,
		"a target that is no object":    `{"web":"` + pushed1 + `"}`,
		"a tag in a list":               "r.io/a:v1\n",
		"a bare digest":                 pushed1,
		"one bad line of two":           "r.io/a@" + pushed1 + "\nr.io/b\n",
		"two images on one line":        "r.io/a@" + pushed1 + " r.io/b@" + pushed1,
		"objects in a list":             `[{"image":"r.io/a"}]`,
		"a tag in a JSON list":          `["r.io/a:v1"]`,
		"something behind a list":       `["r.io/a@` + pushed1 + `"] x`,
		"more lines than may be signed": strings.Repeat("r.io/a@"+pushed1+"\n", maxTargets+1),
		"a list that is too long":       `["r.io/a@` + pushed1 + `"` + strings.Repeat(`,"r.io/a@`+pushed1+`"`, maxTargets) + `]`,
		"an implied registry":           "library/a@" + pushed1,
		"a file that is too large":      "#" + strings.Repeat(" ", maxDigestsFile),
	} {
		images, _, err := parseDigests([]byte(text))
		if !errors.Is(err, signing.Invalid) || len(images) > 0 {
			t.Errorf("%s: %d images, %v", name, len(images), err)
		}
		if e := signing.Public(err); err != nil && (e.Message == "" || e.Expected == "") {
			t.Errorf("%s: it does not say what was expected: %v", name, err)
		}
	}
}

func FuzzListOfDigests(f *testing.F) {
	files, err := filepath.Glob("testdata/digests/*")
	if err != nil || len(files) == 0 {
		f.Fatal(err, len(files))
	}
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		images, _, err := parseDigests(raw)
		if (err == nil) == (len(images) == 0) {
			t.Fatalf("%d images and %v", len(images), err)
		}
		for _, i := range images {
			a := signing.Artifact{Repository: i.repository, Digest: i.digest}
			if err := a.Validate(); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(raw), strings.TrimPrefix(string(i.digest), "sha256:")) && !strings.Contains(string(raw), `\u`) {
				t.Fatalf("%s was not in the file", i.digest)
			}
		}
	})
}
