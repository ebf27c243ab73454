package submit

import (
	"context"
	"fmt"
	"strings"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/signing"
)

// image is one line of the input `images`.
type image struct {
	given      string
	repository signing.Repository
	tag        string // to be resolved, only where digest is empty
	digest     signing.Digest
	resolved   string // the tag that digest was resolved from
}

// resolution is a tag that was resolved, once, and what it named then.
type resolution struct {
	Image  string `json:"image"`
	Digest string `json:"digest"`
}

// Split splits an input list at white space and commas.
func Split(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' || r == '\r' })
}

// parseImages reads REPOSITORY@DIGEST, REPOSITORY:TAG and what build tools
// print, REPOSITORY:TAG@DIGEST, in which the digest counts.
func parseImages(list []string) ([]image, error) {
	var out []image
	for _, given := range list {
		a, err := signing.ParseReference(given)
		if err != nil {
			e := signing.Public(err)
			e.Message = fmt.Sprintf("image %d: %s", len(out)+1, e.Message)
			return nil, e
		}
		if a.Digest == "" && a.Tag == "" {
			return nil, &signing.Error{Code: signing.Invalid, Message: fmt.Sprintf("image %d has neither digest nor tag", len(out)+1), Expected: "REPOSITORY@sha256:... (or REPOSITORY:TAG, resolved once)", Found: given, Fix: "use the digest that the push reported, as in `" + given + "@${{ steps.build.outputs.digest }}`; `latest` is never implied"}
		}
		out = append(out, image{given: given, repository: a.Repository, tag: a.Tag, digest: a.Digest})
	}
	return out, nil
}

func noImages() error {
	return &signing.Error{Code: signing.Invalid, Message: "no images", Expected: "`images` with at least one REPOSITORY@DIGEST, or `digests-file`", Found: "an empty list", Fix: "set `images`; if it comes from an earlier step, check the name of that step's output"}
}

// artifacts returns every image with every tag to be signed along, in order and
// without repetition: two tags may name one digest.
func artifacts(images []image, tags []signTag) []api.ArtifactRef {
	var out []api.ArtifactRef
	seen := map[api.ArtifactRef]int{}
	for _, i := range images {
		for _, t := range tagsOf(i, tags) {
			a := api.ArtifactRef{Repository: string(i.repository), Digest: string(i.digest), Tag: t}
			n, twice := seen[a]
			if !twice {
				n, seen[a] = len(out), len(out)
				out = append(out, a)
			}
			// Given by digest and by tag, it was found by its tag as well.
			if out[n].ResolvedFrom == "" {
				out[n].ResolvedFrom = i.resolved
			}
		}
	}
	return out
}

// placeholders is artifacts with stand-ins for digests that are not known yet,
// so that everything else can be checked before the network is used.
func placeholders(images []image, tags []signTag) []api.ArtifactRef {
	known := make([]image, len(images))
	for n, i := range images {
		if i.digest == "" {
			i.digest = signing.DigestOf([]byte(i.given))
		}
		known[n] = i
	}
	return artifacts(known, tags)
}

// resolve turns tags into digests. Each tag is asked for once, whatever comes
// later; what it named is shown and recorded.
func (s *step) resolve(ctx context.Context, images []image) error {
	once := map[string]signing.Digest{}
	for n, i := range images {
		if i.digest != "" {
			continue
		}
		digest, known := once[i.given]
		if !known {
			var err error
			if digest, err = s.Resolve(ctx, i.repository, i.tag); err != nil {
				return fmt.Errorf("resolving %s: %w", i.given, err)
			}
			if err := digest.Validate(); err != nil {
				return fmt.Errorf("resolving %s: %w", i.given, err)
			}
			once[i.given] = digest
			s.resolved = append(s.resolved, resolution{i.given, string(digest)})
			s.CI.Print(fmt.Sprintf("resolved %s to %s\n", i.given, digest))
		}
		images[n].digest, images[n].resolved = digest, i.tag
	}
	return nil
}
