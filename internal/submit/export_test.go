package submit

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/signing"
)

// anExport is an export of two repositories, two of whose tags are one image.
func anExport() Export {
	made := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	tag := func(name, digest, role string) ExportedTag {
		return ExportedTag{Tag: name, Digest: digest, Size: 1000, Role: role, SignedBy: []string{strings.Repeat("a", 64)}, Expires: made.Add(time.Hour)}
	}
	return Export{Format: ExportFormat, Made: made, Repositories: []ExportedRepository{
		{Repository: "registry.acme.dev/payments/web", Server: "https://notary.acme.dev", Trusted: "pin", RootKeys: []string{strings.Repeat("b", 64)},
			Roles: []ExportedRole{{Name: "targets", Version: 3, Expires: made.Add(time.Hour), Keys: []string{strings.Repeat("c", 64)}}},
			Tags:  []ExportedTag{tag("v1", pushed1, "targets"), tag("v2", pushed2, "targets"), tag("latest", pushed2, "targets"), tag("v1", pushed1, "targets/releases")}},
		{Repository: "registry.acme.dev/payments/db", Server: "https://notary.acme.dev", Trusted: "first use", Tags: []ExportedTag{tag("v1", pushed1, "targets")}},
	}}
}

func written(t testing.TB, e Export) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := e.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestAnExportIsAListOfDigestsAndOfTags(t *testing.T) {
	raw := written(t, anExport())
	web, db := "registry.acme.dev/payments/web", "registry.acme.dev/payments/db"
	images := []api.ArtifactRef{{Repository: web, Digest: pushed1}, {Repository: web, Digest: pushed2}, {Repository: db, Digest: pushed1}}
	got, err := ReadList(raw, false)
	if err != nil || got.Tags != 5 || !got.Made.Equal(anExport().Made) || got.Digest != signing.DigestOf(raw) {
		t.Fatalf("%+v %v", got, err)
	}
	if d := cmp.Diff(images, got.Artifacts); d != "" {
		t.Error(d)
	}
	got, err = ReadList(raw, true)
	want := []api.ArtifactRef{{Repository: web, Digest: pushed1, Tag: "v1"}, {Repository: web, Digest: pushed2, Tag: "v2"}, {Repository: web, Digest: pushed2, Tag: "latest"}, {Repository: db, Digest: pushed1, Tag: "v1"}}
	if d := cmp.Diff(want, got.Artifacts); d != "" || err != nil {
		t.Error(d, err)
	}
	// A job reads the same file.
	byJob, _, err := parseDigests(raw)
	if d := cmp.Diff(images, artifacts(byJob, nil)); d != "" || err != nil {
		t.Error(d, err)
	}
	lines, err := ReadList([]byte(web+"@"+pushed1+"\n"), false)
	if err != nil || !lines.Made.IsZero() || len(lines.Artifacts) != 1 {
		t.Errorf("%+v %v", lines, err)
	}
}

func TestAnExportThatIsNotWholeIsRefused(t *testing.T) {
	for what, change := range map[string]func(*Export){
		"another version":     func(e *Export) { e.Format = "sealwright.dev/dct-export/v2" },
		"no time":             func(e *Export) { e.Made = time.Time{} },
		"no repository name":  func(e *Export) { e.Repositories[0].Repository = "" },
		"a digest that isn't": func(e *Export) { e.Repositories[0].Tags[1].Digest = "sha256:00" },
		"a tag that isn't":    func(e *Export) { e.Repositories[0].Tags[1].Tag = "../v1" },
		"a tag twice":         func(e *Export) { e.Repositories[0].Tags[1] = e.Repositories[0].Tags[0] },
		"nothing":             func(e *Export) { e.Repositories = nil },
		"too many tags": func(e *Export) {
			for i := range MaxExport + 1 {
				e.Repositories[1].Tags = append(e.Repositories[1].Tags, ExportedTag{Tag: fmt.Sprint("t", i), Digest: pushed1})
			}
		},
		"too many repositories": func(e *Export) { e.Repositories = make([]ExportedRepository, MaxExported+1) },
		"too many roles":        func(e *Export) { e.Repositories[0].Roles = make([]ExportedRole, MaxExported+1) },
	} {
		e := anExport()
		change(&e)
		_, err := ReadList(written(t, e), false)
		if _, _, other := parseDigests(written(t, e)); !errors.Is(err, signing.Invalid) || other == nil {
			t.Errorf("%s: %v, %v", what, err, other)
		}
	}
	whole := string(written(t, anExport()))
	for what, raw := range map[string]string{
		"an unknown word": strings.Replace(whole, `"made"`, `"mode"`, 1),
		"a word twice":    strings.Replace(whole, `"made"`, `"format": "sealwright.dev/dct-export/v1", "made"`, 1),
		"half of it":      whole[:len(whole)/2],
		"two of it":       whole + whole,
	} {
		if _, err := ReadList([]byte(raw), false); !errors.Is(err, signing.Invalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	two := anExport()
	two.Repositories[0].Tags[3].Digest = pushed2 // v1 of another role
	if _, err := ReadList(written(t, two), true); !errors.Is(err, signing.Invalid) {
		t.Errorf("a tag of two digests: %v", err)
	}
	if _, err := ReadList([]byte("registry.acme.dev/payments/web@"+pushed1), true); !errors.Is(err, signing.Invalid) {
		t.Errorf("tags of a list without any: %v", err)
	}
}

func FuzzExport(f *testing.F) {
	f.Add(written(f, anExport()), true)
	f.Add([]byte(`{"format": "sealwright.dev/dct-export/v1", "made": "2026-11-27T12:00:00Z", "repositories": []}`), false)
	f.Fuzz(func(t *testing.T, raw []byte, tags bool) {
		list, err := ReadList(raw, tags)
		if err != nil {
			var e *signing.Error
			if !errors.As(err, &e) {
				t.Fatalf("%v is no refusal", err)
			}
			return
		}
		for _, a := range list.Artifacts {
			if err := a.Artifact().Validate(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
