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
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// MaxConfig bounds an image configuration, which holds its labels: the
	// largest seen in public images are some 100 KiB.
	MaxConfig = 1 << 20
	// MaxManifests bounds what is below one index, at any depth; Docker Official
	// Images have about two dozen, half of them attestations.
	MaxManifests = 128
	// MaxNesting bounds the indexes in indexes: buildx and podman make one level,
	// an index of indexes by hand has two.
	MaxNesting = 4
	// MaxLabels and MaxLabel bound what an image may say of itself, MaxText what
	// all of a Request say together: it is the job's own text, in memory until
	// the Request is decided.
	MaxLabels = 256
	MaxLabel  = 4096
	MaxText   = 16 << 20
	// gatherers is how many artifacts, and for each how many manifests below it,
	// are looked up at once; the registry client limits each host further.
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
// artifacts of the result carry media type and size. With below, the manifests
// below an index are read as well, and one that is missing is an error. The
// observations name what was asked, and when.
//
// Errors keep the registry client's code: NotFound for a digest the registry
// does not have, Unavailable or RateLimited where asking again may help.
func Gather(ctx context.Context, from Reader, id signing.Identity, origin signing.Origin, policy string, artifacts []signing.Artifact, below bool, now time.Time) (signing.Facts, []signing.Observation, error) {
	f := signing.Facts{Identity: id, Origin: origin, Policy: policy, Now: now, Images: make([]signing.Image, len(artifacts))}
	l := &look{from: from}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(gatherers)
	for i, a := range artifacts {
		g.Go(func() error {
			one, m, err := l.manifest(ctx, a, nil)
			img := signing.Image{Artifact: one.Artifact, Kind: one.Kind, ArtifactType: one.ArtifactType, Labels: one.Labels, Annotations: one.Annotations, Platforms: one.Platforms}
			if err == nil && below && m.Index() {
				img.Manifests, err = l.below(ctx, a.Repository, m)
			}
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
	return f, observed(f), nil
}

// observed says what was asked of whom. What is below an index and left alone
// is named one by one: nobody signs it.
func observed(f signing.Facts) []signing.Observation {
	seen := []signing.Observation{{Source: "token", What: "verified for " + f.Identity.Issuer, At: f.Now}}
	for _, img := range f.Images {
		what := img.Artifact.String() + " is " + img.Artifact.MediaType
		var foreign []signing.Observation
		for _, m := range img.Manifests {
			if m.Kind == signing.KindForeign {
				foreign = append(foreign, signing.Observation{Source: "registry", What: fmt.Sprintf("%s below %s is %s, no manifest that can be signed: it is left alone", m.Artifact.Digest, img.Artifact, m.Artifact.MediaType), At: f.Now})
			}
		}
		if len(img.Manifests) > 0 {
			what += fmt.Sprintf(" with %d manifests below it", len(img.Manifests)-len(foreign))
		}
		seen = append(append(seen, signing.Observation{Source: "registry", What: what, At: f.Now}), foreign...)
	}
	return seen
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

// look reads what one Request names, within the bounds that all of it shares.
type look struct {
	from      Reader
	text      atomic.Int64 // bytes of labels and annotations so far
	manifests atomic.Int64 // below indexes, so far
}

// manifest reads one manifest. in is its entry in an index, nil for what the
// Request names.
func (l *look) manifest(ctx context.Context, a signing.Artifact, in *registry.Descriptor) (signing.Manifest, *registry.Manifest, error) {
	raw, desc, err := l.from.Manifest(ctx, a.Repository, string(a.Digest))
	if err != nil {
		return signing.Manifest{}, nil, err
	}
	if desc.Digest != a.Digest {
		return signing.Manifest{}, nil, &signing.Error{Code: signing.Invalid, Message: "the registry answered another manifest", Expected: string(a.Digest), Found: string(desc.Digest), Fix: "check the registry, or what stands between it and this service"}
	}
	m, err := registry.ParseManifest(raw, desc.MediaType)
	if err != nil {
		return signing.Manifest{}, nil, err
	}
	if in != nil && (desc.MediaType != in.MediaType || desc.Size != in.Size) {
		return signing.Manifest{}, nil, &signing.Error{Code: signing.Invalid, Message: "the index describes another manifest than the registry has", Expected: fmt.Sprintf("%s of %d bytes", in.MediaType, in.Size), Found: fmt.Sprintf("%s of %d bytes", desc.MediaType, desc.Size), Fix: "push the index again with a tool that follows the OCI image specification"}
	}
	a.MediaType, a.Size = desc.MediaType, desc.Size
	img := signing.Manifest{Artifact: a, Kind: signing.KindArtifact, Annotations: m.Annotations, ArtifactType: m.ArtifactType}
	if err := errors.Join(l.bounded(m.Annotations), l.words(m.ArtifactType)); err != nil {
		return signing.Manifest{}, nil, err
	}
	switch {
	case m.Index():
		img.Kind = signing.KindIndex
		if len(m.Manifests) > MaxManifests {
			return signing.Manifest{}, nil, tooMany("manifests in an index", MaxManifests, len(m.Manifests))
		}
		for _, c := range m.Manifests {
			if c.Platform != nil {
				img.Platforms = append(img.Platforms, c.Platform.String())
			}
		}
		// An index has no labels of its own: a policy that needs them sees
		// none, and missing is no.
	case attestation(in, m):
		img.Kind, img.Platforms = signing.KindAttestation, []string{in.Platform.String()}
	case registry.IsImageConfig(m.Config.MediaType):
		img.Kind = signing.KindImage
		if err := l.readConfig(ctx, a.Repository, *m.Config, &img); err != nil {
			return signing.Manifest{}, nil, err
		}
	}
	if err := l.words(img.Platforms...); err != nil {
		return signing.Manifest{}, nil, err
	}
	if img.Kind != signing.KindArtifact && m.Config != nil && img.ArtifactType == m.Config.MediaType {
		img.ArtifactType = "" // the manifest itself names none
	}
	return img, m, nil
}

// attestation reports whether an entry of an index is what buildkit puts beside
// an image. The annotation is the job's word, and would free an image from rules
// about labels; so nothing counts that a machine could run: it is for no
// platform, and every layer is an in-toto document.
func attestation(in *registry.Descriptor, m *registry.Manifest) bool {
	return in != nil && in.Annotations["vnd.docker.reference.type"] == "attestation-manifest" &&
		in.Platform != nil && in.Platform.OS == "unknown" && in.Platform.Architecture == "unknown" &&
		len(m.Layers) > 0 && !slices.ContainsFunc(m.Layers, func(d registry.Descriptor) bool { return d.MediaType != "application/vnd.in-toto+json" })
}

// below reads every manifest below an index, level by level, each once.
func (l *look) below(ctx context.Context, repo signing.Repository, index *registry.Manifest) ([]signing.Manifest, error) {
	var out []signing.Manifest
	seen := map[signing.Digest]bool{}
	level := []*registry.Manifest{index}
	for depth := 0; len(level) > 0; depth++ {
		if depth == MaxNesting {
			return nil, tooMany("levels of indexes", MaxNesting, depth+1)
		}
		var entries []registry.Descriptor
		for _, m := range level {
			for _, d := range m.Manifests {
				if seen[d.Digest] {
					continue
				}
				seen[d.Digest] = true
				entries = append(entries, d)
			}
		}
		if len(seen) > MaxManifests {
			return nil, tooMany("manifests below an index", MaxManifests, len(seen))
		}
		if n := l.manifests.Add(int64(len(entries))); n > signing.MaxTasks {
			return nil, tooMany("manifests below the indexes of one request", signing.MaxTasks, int(n))
		}
		images, nested, err := l.level(ctx, repo, entries)
		if err != nil {
			return nil, err
		}
		out, level = append(out, images...), nested
	}
	return out, nil
}

// level reads the entries of indexes side by side, and returns those that are
// indexes themselves for the next level.
func (l *look) level(ctx context.Context, repo signing.Repository, entries []registry.Descriptor) ([]signing.Manifest, []*registry.Manifest, error) {
	images, manifests := make([]signing.Manifest, len(entries)), make([]*registry.Manifest, len(entries))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(gatherers)
	for i, d := range entries {
		a := signing.Artifact{Repository: repo, Digest: d.Digest, MediaType: d.MediaType, Size: d.Size}
		g.Go(func() (err error) {
			if !registry.IsManifest(d.MediaType) {
				images[i] = signing.Manifest{Artifact: a, Kind: signing.KindForeign}
				return describable(d)
			}
			images[i], manifests[i], err = l.manifest(ctx, a, &d)
			if errors.Is(err, signing.NotFound) {
				return &signing.Error{Code: signing.NotFound, Message: "the registry does not have what the index lists", Expected: string(d.Digest), Fix: "push the index with everything below it, or use a policy that neither signs recursively nor asks for what is below", Err: err}
			}
			if err != nil {
				return fmt.Errorf("below it, %.100q: %w", d.Digest, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	manifests = slices.DeleteFunc(manifests, func(m *registry.Manifest) bool { return m == nil || !m.Index() })
	return images, manifests, nil
}

// describable refuses an entry that cannot be shown as what is left alone.
func describable(d registry.Descriptor) error {
	if mediaType(d.MediaType) && reDigest.MatchString(string(d.Digest)) {
		return nil
	}
	return &signing.Error{Code: signing.Invalid, Message: "an index does not say what it lists", Expected: "media type and digest for each entry", Found: fmt.Sprintf("%.100q, %.100q", d.MediaType, d.Digest), Fix: "push the index again with a tool that follows the OCI image specification"}
}

// reDigest is the grammar of digests of any algorithm.
var reDigest = regexp.MustCompile(`^[a-z0-9]+(?:[+._-][a-z0-9]+)*:[A-Za-z0-9=_-]{1,256}$`)

// mediaType reports whether s has the form of RFC 6838, which is safe to show.
func mediaType(s string) bool {
	kind, name, ok := strings.Cut(s, "/")
	bad := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("!#$&-^_.+", r)
	}
	return ok && kind != "" && name != "" && len(s) <= 255 && !strings.ContainsFunc(kind, bad) && !strings.ContainsFunc(name, bad)
}

func (l *look) readConfig(ctx context.Context, repo signing.Repository, c registry.Descriptor, img *signing.Manifest) error {
	raw, err := l.from.Blob(ctx, repo, c, MaxConfig)
	if err != nil {
		return fmt.Errorf("reading image configuration: %w", err)
	}
	var conf struct {
		registry.Platform
		Config struct {
			Labels map[string]string `json:"Labels"`
		} `json:"config"`
	}
	if err := json.Unmarshal(raw, &conf); err != nil {
		return &signing.Error{Code: signing.Invalid, Message: "the image configuration is not JSON", Found: string(c.Digest), Err: err}
	}
	if err := l.bounded(conf.Config.Labels); err != nil {
		return err
	}
	img.Labels = conf.Config.Labels
	if conf.OS != "" {
		img.Platforms = []string{conf.Platform.String()}
	}
	return nil
}

func (l *look) bounded(m map[string]string) error {
	if len(m) > MaxLabels {
		return tooMany("labels or annotations", MaxLabels, len(m))
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if err := l.words(k + m[k]); err != nil {
			return err
		}
	}
	return nil
}

// words counts what the job says of itself, and refuses too much of it.
func (l *look) words(texts ...string) error {
	for _, s := range texts {
		if len(s) > MaxLabel {
			return tooMany("bytes in one label, annotation, platform or type", MaxLabel, len(s))
		}
		if n := l.text.Add(int64(len(s))); n > MaxText {
			return tooMany("bytes in the labels and annotations of one request", MaxText, int(n))
		}
	}
	return nil
}

func tooMany(what string, most, found int) error {
	return &signing.Error{Code: signing.TooLarge, Message: "too many " + what, Expected: fmt.Sprintf("at most %d", most), Found: fmt.Sprint(found), Fix: "sign the image without them, or in a request of its own"}
}
