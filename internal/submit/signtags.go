package submit

import (
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/signing"
)

// signTag is an entry of `sign-tag`: a tag to be signed along with every image,
// with those of a repository, or with one image.
type signTag struct {
	tag        string
	repository signing.Repository // empty: of every image
	digest     signing.Digest     // empty: of every image of the repository
}

// of reports whether the tag is signed along with an image.
func (t signTag) of(i image) bool {
	return (t.repository == "" || t.repository == i.repository) && (t.digest == "" || t.digest == i.digest)
}

// parseTags reads TAG, REPOSITORY:TAG and REPOSITORY:TAG@DIGEST. What names no
// image of the step is an error.
func parseTags(list []string, images []image) ([]signTag, error) {
	var out []signTag
	for _, entry := range list {
		t := signTag{tag: entry}
		if strings.Contains(entry, "/") {
			a, err := signing.ParseReference(entry)
			if err == nil && a.Tag == "" {
				err = &signing.Error{Code: signing.Invalid, Message: "not a tag", Expected: "TAG, REPOSITORY:TAG or REPOSITORY:TAG@DIGEST", Found: entry}
			}
			if err != nil {
				return nil, inInput("sign-tag", err)
			}
			t = signTag{a.Tag, a.Repository, a.Digest}
		} else if err := signing.ValidateTag(t.tag); err != nil {
			return nil, inInput("sign-tag", err)
		}
		if !slices.ContainsFunc(images, t.of) {
			return nil, inInput("sign-tag", &signing.Error{Code: signing.Invalid, Message: "no image of this step is that", Expected: "a repository, or a digest, of `images` or `digests-file`", Found: entry, Fix: "give the image as well: `images: REPOSITORY@DIGEST`"})
		}
		if !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	if len(out) > signing.MaxArtifacts {
		return nil, inInput("sign-tag", &signing.Error{Code: signing.Invalid, Message: "too many tags"})
	}
	return out, nil
}

// parseUntrust reads REPOSITORY:TAG.
func parseUntrust(list []string) ([]string, error) {
	for _, entry := range list {
		a, err := signing.ParseReference(entry)
		if err == nil {
			err = a.ValidateUntrust()
		}
		if err != nil {
			return nil, inInput("untrust", err)
		}
	}
	return list, nil
}

func inInput(name string, err error) error {
	e := signing.Public(err)
	e.Message = "`" + name + "`: " + e.Message
	return e
}

// tagsOf returns the tags to be signed along with an image, one empty tag if
// there is none.
func tagsOf(i image, tags []signTag) (out []string) {
	for _, t := range tags {
		if t.of(i) && !slices.Contains(out, t.tag) {
			out = append(out, t.tag)
		}
	}
	if len(out) == 0 {
		return []string{""}
	}
	return out
}

// covered returns what the Tasks of a completed request are about: artifacts, and
// tags to untrust by REPOSITORY:TAG.
func covered(tasks []api.Task) (artifacts map[api.ArtifactRef]bool, untrusted map[string]bool) {
	artifacts, untrusted = map[api.ArtifactRef]bool{}, map[string]bool{}
	for _, t := range tasks {
		if t.Part == "" {
			artifacts[t.Artifact] = true
			continue
		}
		for _, c := range t.Changes {
			if c.Remove {
				untrusted[t.Artifact.Repository+":"+c.Tag] = true
			} else {
				artifacts[api.ArtifactRef{Repository: t.Artifact.Repository, Digest: string(c.Digest), Tag: c.Tag}] = true
			}
		}
	}
	return artifacts, untrusted
}
