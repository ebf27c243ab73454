package devworld

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Registry is a container registry in memory, over plain HTTP on loopback.
type Registry struct {
	*Faults
	Host string // 127.0.0.1:PORT, the host part of repositories
}

// newRegistry returns a registry that will be reached at host. Without
// referrers it has no referrers API, as distribution has none.
func newRegistry(host string, referrers bool, o Options) *Registry {
	quiet := log.New(io.Discard, "", 0)
	h := registry.New(registry.WithReferrersSupport(referrers), registry.Logger(quiet))
	return &Registry{Host: host, Faults: NewFaults(h, o.Now)}
}

// ImageSpec describes an image to push.
type ImageSpec struct {
	Repository  string            `json:"repository"` // path in the registry, without the host
	Tag         string            `json:"tag"`        // empty: pushed by digest only
	Platforms   []string          `json:"platforms"`  // empty: linux/amd64 and linux/arm64
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"` // of the index
	// Content makes images differ: it is what the one file of the image says.
	Content string `json:"content"`
}

// Image is what PushImage pushed.
type Image struct {
	Repository string   // with the host
	Digest     string   // of the index
	Manifests  []string // digests of the platforms' manifests, in order
}

// Reference returns REPOSITORY@DIGEST.
func (i Image) Reference() string { return i.Repository + "@" + i.Digest }

// PushImage pushes an image to r; see the function PushImage.
func (r *Registry) PushImage(ctx context.Context, s ImageSpec) (Image, error) {
	return PushImage(ctx, r.Host, s)
}

// PushImage pushes a small multi-arch image to the registry at host: an OCI index
// of one real image (a config with labels, a layer with a file) for each
// platform. Equal specs give equal digests.
func PushImage(ctx context.Context, host string, s ImageSpec) (Image, error) {
	repo, err := name.NewRepository(host+"/"+s.Repository, name.StrictValidation)
	if err != nil {
		return Image{}, fmt.Errorf("naming the image: %w", err)
	}
	if len(s.Platforms) == 0 {
		s.Platforms = []string{"linux/amd64", "linux/arm64"}
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	out := Image{Repository: repo.Name()}
	for _, platform := range s.Platforms {
		img, p, err := s.image(platform)
		if err != nil {
			return Image{}, fmt.Errorf("building the image for %s: %w", platform, err)
		}
		d, err := img.Digest()
		if err != nil {
			return Image{}, fmt.Errorf("building the image for %s: %w", platform, err)
		}
		out.Manifests = append(out.Manifests, d.String())
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: p}})
	}
	if len(s.Annotations) > 0 {
		annotated, ok := mutate.Annotations(index, s.Annotations).(v1.ImageIndex)
		if !ok {
			return Image{}, fmt.Errorf("annotating the index: the library returned another type")
		}
		index = annotated
	}
	d, err := index.Digest()
	if err != nil {
		return Image{}, fmt.Errorf("building the index: %w", err)
	}
	out.Digest = d.String()
	var ref name.Reference = repo.Digest(out.Digest)
	if s.Tag != "" {
		ref = repo.Tag(s.Tag)
	}
	if err := remote.WriteIndex(ref, index, remote.WithContext(ctx), remote.WithTransport(http.DefaultTransport)); err != nil {
		return Image{}, fmt.Errorf("pushing %s: %w", ref, err)
	}
	return out, nil
}

func (s ImageSpec) image(platform string) (v1.Image, *v1.Platform, error) {
	p, err := v1.ParsePlatform(platform)
	if err != nil {
		return nil, nil, err
	}
	layer, err := fileLayer("hello", fmt.Sprintf("%s %s\n%s\n", s.Repository, platform, s.Content))
	if err != nil {
		return nil, nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.ConfigFile(base, &v1.ConfigFile{
		Architecture: p.Architecture, OS: p.OS, Variant: p.Variant,
		Config: v1.Config{Labels: s.Labels, Entrypoint: []string{"/hello"}},
	})
	if err != nil {
		return nil, nil, err
	}
	img, err = mutate.Append(img, mutate.Addendum{Layer: layer, MediaType: types.OCILayer})
	return img, p, err
}

// fileLayer returns a layer with one file.
func fileLayer(path, content string) (v1.Layer, error) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	if err := tw.WriteHeader(&tar.Header{Name: path, Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
		return nil, fmt.Errorf("writing a layer: %w", err)
	}
	if _, err := io.Copy(tw, strings.NewReader(content)); err != nil {
		return nil, fmt.Errorf("writing a layer: %w", err)
	}
	if err := tw.Close(); err != nil {
		return nil, fmt.Errorf("writing a layer: %w", err)
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil }, tarball.WithMediaType(types.OCILayer))
}
