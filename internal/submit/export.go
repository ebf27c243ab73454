package submit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/signing"
)

// ExportFormat is the version of the form of an Export.
const ExportFormat = "sealwright.dev/dct-export/v1"

const (
	// MaxExport bounds the tags of one Export: the largest repositories have some
	// thousand, each with an entry of 300 bytes.
	MaxExport = 20_000
	// MaxExported bounds the repositories of one, and the roles and keys of each.
	MaxExported = 500
)

// Export is what was verified to be signed in Docker Content Trust, as
// `sealwright dct export` writes it and `--digests-file` reads it.
type Export struct {
	Format       string               `json:"format"`
	Made         time.Time            `json:"made"`
	Repositories []ExportedRepository `json:"repositories"`
}

// ExportedRepository is one repository (GUN), whose metadata was verified from its
// root.
type ExportedRepository struct {
	Repository string `json:"repository"`
	Server     string `json:"server"`
	// RootKeys are the ids of the keys of the root, of which Trusted says why they
	// were believed: "pin", "ca" or "first use".
	RootKeys []string       `json:"rootKeys"`
	Trusted  string         `json:"trusted"`
	Roles    []ExportedRole `json:"roles"`
	Tags     []ExportedTag  `json:"tags"`
}

// ExportedRole is a role of a repository.
type ExportedRole struct {
	Name    string    `json:"name"`
	Version int64     `json:"version"`
	Expires time.Time `json:"expires"`
	Keys    []string  `json:"keys"` // ids
}

// ExportedTag is a tag and what it is bound to, by which role.
type ExportedTag struct {
	Tag    string `json:"tag"`
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
	Role   string `json:"role"`
	// Signers are the delegations, below targets, that bind the tag to the same digest.
	Signers []string `json:"signers"`
	// SignedBy are the ids of the keys that signed the role.
	SignedBy []string  `json:"signedBy"`
	Expires  time.Time `json:"expires"` // of the role
}

// Write writes the export as JSON.
func (e Export) Write(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(e)
}

// isExport reports whether a JSON object says that it is an export, of any version.
func isExport(fields map[string]json.RawMessage) bool {
	var format string
	return json.Unmarshal(fields["format"], &format) == nil && strings.HasPrefix(format, "sealwright.dev/dct-export/")
}

// parseExport reads an Export. Everything in it is checked, also what is only for
// people.
func parseExport(raw []byte) (Export, error) {
	var e Export
	if err := api.DecodeStrict(bytes.NewReader(raw), maxDigestsFile, &e); err != nil {
		was := signing.Public(err)
		return Export{}, unreadable("an export that cannot be read", was.Expected, was.Message+": "+was.Found, "make it again, with `sealwright dct export` of this version")
	}
	if e.Format != ExportFormat || e.Made.IsZero() {
		return Export{}, unreadable("an export of another form", ExportFormat+", with the time at which it was made", fmt.Sprintf("%.80q, %s", e.Format, e.Made), "make it again, with `sealwright dct export` of this version")
	}
	if len(e.Repositories) > MaxExported {
		return Export{}, unreadable("too many repositories", fmt.Sprintf("at most %d", MaxExported), fmt.Sprint(len(e.Repositories)))
	}
	tags := 0
	for i, r := range e.Repositories {
		if tags += len(r.Tags); tags > MaxExport {
			return Export{}, unreadable("too many tags", fmt.Sprintf("at most %d", MaxExport), "more", "export fewer repositories at once")
		}
		if err := r.validate(); err != nil {
			return Export{}, place(fmt.Sprintf("repositories[%d]", i), err)
		}
	}
	return e, nil
}

func (r ExportedRepository) validate() error {
	if err := signing.Repository(r.Repository).Validate(); err != nil {
		return err
	}
	if len(r.Roles) > MaxExported || len(r.RootKeys) > MaxExported {
		return unreadable("too many roles or keys", fmt.Sprintf("at most %d", MaxExported), "more")
	}
	seen := map[string]bool{}
	for i, t := range r.Tags {
		err := signing.ValidateTag(t.Tag)
		if err == nil {
			err = signing.Digest(t.Digest).Validate()
		}
		if err != nil {
			return place(fmt.Sprintf("tags[%d]", i), err)
		}
		at := t.Role + "\n" + t.Tag
		if seen[at] {
			return unreadable("a tag twice in one role", "each tag once", fmt.Sprintf("%.80q", t.Tag))
		}
		seen[at] = true
	}
	return nil
}

// images returns each digest of each repository once, in order.
func (e Export) images() (out []image) {
	seen := map[string]bool{}
	for _, r := range e.Repositories {
		for _, t := range r.Tags {
			at := r.Repository + "@" + t.Digest
			if !seen[at] {
				seen[at] = true
				out = append(out, image{given: at, repository: signing.Repository(r.Repository), digest: signing.Digest(t.Digest)})
			}
		}
	}
	return out
}

// Listed is what a list of images is, for a person who brings it.
type Listed struct {
	Artifacts []api.ArtifactRef
	// Made is when the list was made, zero where it does not say.
	Made   time.Time
	Digest signing.Digest // of the file
	// Tags says how many tags the list names, each of which is bound to one of the
	// digests; 0 for lists of digests.
	Tags int
}

// ReadList reads a list of images: an Export, or any other form that
// `--digests-file` takes. With tags, the artifacts are the tags of the export, to be
// signed along; without, each digest of each repository once.
func ReadList(raw []byte, tags bool) (Listed, error) {
	out := Listed{Digest: signing.DigestOf(raw)}
	if e, ok, err := exported(raw); err != nil {
		return Listed{}, err
	} else if ok {
		out.Made = e.Made
		for _, r := range e.Repositories {
			out.Tags += len(r.Tags)
		}
		if tags {
			out.Artifacts, err = e.tagged()
			return out, err
		}
		out.Artifacts = artifacts(e.images(), nil)
		if len(out.Artifacts) == 0 {
			return Listed{}, unreadable("no image in it", "at least one signed tag", "none")
		}
		return out, nil
	} else if tags {
		return Listed{}, unreadable("no tags", "an export of `sealwright dct export`, which says what each tag is bound to", "a list of digests", "leave the tags away, or bring an export")
	}
	images, _, err := parseDigests(raw)
	if err != nil {
		return Listed{}, err
	}
	out.Artifacts = artifacts(images, nil)
	return out, nil
}

// exported reads raw if it is an export.
func exported(raw []byte) (e Export, is bool, err error) {
	text := bytes.TrimSpace(bytes.TrimPrefix(raw, []byte("\ufeff")))
	if len(raw) > maxDigestsFile || len(text) == 0 || text[0] != '{' || !utf8.Valid(text) {
		return Export{}, false, nil // parseDigests says what is wrong
	}
	_, fields, err := object(text)
	if err != nil || !isExport(fields) {
		return Export{}, false, nil
	}
	e, err = parseExport(text)
	return e, true, err
}

// tagged returns every tag once. Where two roles bind one tag to two digests the
// reader of the list decides nothing.
func (e Export) tagged() ([]api.ArtifactRef, error) {
	var out []api.ArtifactRef
	for _, r := range e.Repositories {
		have := map[string]string{}
		for _, t := range r.Tags {
			was, twice := have[t.Tag]
			if twice && was != t.Digest {
				return nil, unreadable("a tag that two roles bind to two digests", "each tag once", r.Repository+":"+t.Tag, "take the wrong one out of the export, or sign without the tags")
			}
			if !twice {
				have[t.Tag] = t.Digest
				out = append(out, api.ArtifactRef{Repository: r.Repository, Digest: t.Digest, Tag: t.Tag})
			}
		}
	}
	if len(out) == 0 {
		return nil, unreadable("no tag", "at least one", "none")
	}
	return out, nil
}
