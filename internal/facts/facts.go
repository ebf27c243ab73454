// Package facts gathers what a policy may look at from the parties that know
// it: the verified token, the registry and, for the rules that ask for it, the
// forge. It decides nothing. A party that cannot be reached is an error, never
// an empty fact.
package facts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// MaxConfig bounds an image configuration, which holds its labels: the
	// largest seen in public images are some 100 KiB.
	MaxConfig = 1 << 20
	// MaxPlatforms bounds the children of an index that are listed as
	// platforms; Docker Official Images have about a dozen.
	MaxPlatforms = 128
	// MaxLabels and MaxLabel bound what an image may say of itself: labels are
	// the job's own text and end up in Decisions.
	MaxLabels = 256
	MaxLabel  = 4096
	// gatherers is how many artifacts are looked up at once; the registry
	// client limits each host further.
	gatherers = 8
)

// Reader is where manifests and image configurations are read: the registry, or
// what a job that publishes itself has uploaded. What it returns has the digest
// that was asked for.
type Reader interface {
	Manifest(ctx context.Context, repo signing.Repository, tagOrDigest string) ([]byte, registry.Descriptor, error)
	Blob(ctx context.Context, repo signing.Repository, d registry.Descriptor, most int64) ([]byte, error)
}

// Gather returns the Facts of a Request: identity and origin as the token gave
// them, and for each artifact what the registry answers for its digest. The
// artifacts of the result carry media type and size. The observations name
// what was asked, and when.
//
// Errors keep the registry client's code: NotFound for a digest the registry
// does not have, Unavailable or RateLimited where asking again may help.
func Gather(ctx context.Context, from Reader, id signing.Identity, origin signing.Origin, policy string, artifacts []signing.Artifact, now time.Time) (signing.Facts, []signing.Observation, error) {
	f := signing.Facts{Identity: id, Origin: origin, Policy: policy, Now: now, Images: make([]signing.Image, len(artifacts))}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(gatherers)
	for i, a := range artifacts {
		g.Go(func() error {
			img, err := image(ctx, from, a)
			if err != nil {
				return named(a, err)
			}
			f.Images[i] = img
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return signing.Facts{}, nil, err
	}
	seen := []signing.Observation{{Source: "token", What: "verified for " + id.Issuer, At: now}}
	for _, img := range f.Images {
		seen = append(seen, signing.Observation{Source: "registry", What: img.Artifact.String() + " is " + img.Artifact.MediaType, At: now})
	}
	return f, seen, nil
}

// named puts the artifact into what the client is told: a Request may have
// hundreds.
func named(a signing.Artifact, err error) error {
	var e *signing.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("looking up %s: %w", a, err)
	}
	said := *e
	said.Message = "looking up " + a.String() + ": " + e.Message
	return &said
}

// document is the part of a manifest or index that becomes facts.
type document struct {
	ArtifactType string            `json:"artifactType"`
	Annotations  map[string]string `json:"annotations"`
	Config       *child            `json:"config"`
	Manifests    []child           `json:"manifests"`
}

type child struct {
	MediaType string         `json:"mediaType"`
	Digest    signing.Digest `json:"digest"`
	Size      int64          `json:"size"`
	Platform  *platform      `json:"platform"`
}

type platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant"`
}

func (p platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

func image(ctx context.Context, from Reader, a signing.Artifact) (signing.Image, error) {
	raw, desc, err := from.Manifest(ctx, a.Repository, string(a.Digest))
	if err != nil {
		return signing.Image{}, err
	}
	if desc.Digest != a.Digest {
		return signing.Image{}, &signing.Error{Code: signing.Invalid, Message: "the registry answered another manifest", Expected: string(a.Digest), Found: string(desc.Digest), Fix: "check the registry, or what stands between it and this service"}
	}
	a.MediaType, a.Size = desc.MediaType, int64(len(raw))
	var d document
	if err := json.Unmarshal(raw, &d); err != nil {
		return signing.Image{}, &signing.Error{Code: signing.Invalid, Message: "the manifest is not JSON", Expected: "an OCI or Docker manifest", Found: a.String(), Fix: "sign a manifest or index, not another blob", Err: err}
	}
	if err := bounded(d.Annotations); err != nil {
		return signing.Image{}, err
	}
	img := signing.Image{Artifact: a, Kind: "artifact", Annotations: d.Annotations}
	switch {
	case isIndex(desc.MediaType):
		img.Kind = "index"
		if len(d.Manifests) > MaxPlatforms {
			return signing.Image{}, tooMany("children of an index", MaxPlatforms, len(d.Manifests))
		}
		for _, m := range d.Manifests {
			if m.Platform != nil {
				img.Platforms = append(img.Platforms, m.Platform.String())
			}
		}
		// An index has no labels of its own: a policy that needs them sees
		// none, and missing is no.
	case d.Config != nil && isImageConfig(d.Config.MediaType):
		img.Kind = "image"
		if err := readConfig(ctx, from, a.Repository, *d.Config, &img); err != nil {
			return signing.Image{}, err
		}
	}
	return img, nil
}

func readConfig(ctx context.Context, from Reader, repo signing.Repository, c child, img *signing.Image) error {
	raw, err := from.Blob(ctx, repo, registry.Descriptor{MediaType: c.MediaType, Digest: c.Digest, Size: c.Size}, MaxConfig)
	if err != nil {
		return fmt.Errorf("reading image configuration: %w", err)
	}
	var conf struct {
		platform
		Config struct {
			Labels map[string]string `json:"Labels"`
		} `json:"config"`
	}
	if err := json.Unmarshal(raw, &conf); err != nil {
		return &signing.Error{Code: signing.Invalid, Message: "the image configuration is not JSON", Found: string(c.Digest), Err: err}
	}
	if err := bounded(conf.Config.Labels); err != nil {
		return err
	}
	img.Labels = conf.Config.Labels
	if conf.OS != "" {
		img.Platforms = []string{conf.platform.String()}
	}
	return nil
}

func isIndex(mediaType string) bool {
	return mediaType == "application/vnd.oci.image.index.v1+json" || mediaType == "application/vnd.docker.distribution.manifest.list.v2+json"
}

func isImageConfig(mediaType string) bool {
	return mediaType == "application/vnd.oci.image.config.v1+json" || mediaType == "application/vnd.docker.container.image.v1+json"
}

func bounded(m map[string]string) error {
	if len(m) > MaxLabels {
		return tooMany("labels or annotations", MaxLabels, len(m))
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if len(k)+len(m[k]) > MaxLabel {
			return tooMany("bytes in one label or annotation", MaxLabel, len(k)+len(m[k]))
		}
	}
	return nil
}

func tooMany(what string, most, found int) error {
	return &signing.Error{Code: signing.TooLarge, Message: "too many " + what, Expected: fmt.Sprintf("at most %d", most), Found: fmt.Sprint(found), Fix: "sign the image without them"}
}
