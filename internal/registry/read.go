package registry

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/sealwright/sealwright/internal/signing"
)

// Layer is a layer of a `.sig` image with its content.
type Layer struct {
	Descriptor
	// Bytes is nil for layers of other types than MediaTypeSimpleSigning.
	Bytes []byte
}

// Resolve returns what a tag or digest of repo stands for now, from the bytes of
// the manifest themselves. Annotations are left out: they are the manifest's
// own, and a descriptor's would be signed along by some methods.
func (c *Client) Resolve(ctx context.Context, repo signing.Repository, tagOrDigest string) (Descriptor, error) {
	_, d, err := c.Manifest(ctx, repo, tagOrDigest)
	return d, err
}

// Manifest returns the manifest that a tag or digest of repo stands for now, at
// most MaxManifest bytes, with a descriptor made from them. They have the digest
// that was asked for, and are what ParseManifest accepts.
func (c *Client) Manifest(ctx context.Context, repo signing.Repository, tagOrDigest string) ([]byte, Descriptor, error) {
	raw, m, err := c.manifest(ctx, repo, tagOrDigest, pull)
	if err != nil {
		return nil, Descriptor{}, err
	}
	return raw, m.descriptor(raw), nil
}

func (m *Manifest) descriptor(raw []byte) Descriptor {
	return Descriptor{MediaType: m.MediaType, Digest: signing.DigestOf(raw), Size: int64(len(raw)), ArtifactType: m.ArtifactType}
}

func (c *Client) manifest(ctx context.Context, repo signing.Repository, ref string, a access) ([]byte, *Manifest, error) {
	h, err := c.host(repo)
	if err != nil {
		return nil, nil, err
	}
	byDigest := strings.Contains(ref, ":")
	if byDigest {
		err = signing.Digest(ref).Validate()
	} else {
		err = signing.ValidateTag(ref)
	}
	if err != nil {
		return nil, nil, err
	}
	ans, err := c.do(ctx, h, request{
		method: http.MethodGet, path: repo.Path(), at: "manifests/" + ref, access: a,
		accept: acceptManifests, most: MaxManifest, ok: []int{http.StatusOK},
	})
	if err != nil {
		return nil, nil, err
	}
	want := ref
	if said := ans.header.Get("Docker-Content-Digest"); !byDigest && strings.HasPrefix(said, "sha256:") {
		want = said
	}
	if got := signing.DigestOf(ans.body); (byDigest || want != ref) && string(got) != want {
		return nil, nil, mismatch(h, "manifest", want, got)
	}
	m, err := ParseManifest(ans.body, ans.header.Get("Content-Type"))
	if err != nil {
		return nil, nil, err
	}
	return ans.body, m, nil
}

func mismatch(h *host, what, want string, got signing.Digest) error {
	return &signing.Error{Code: signing.Invalid, Message: h.title() + " served bytes that are not the " + what + " that was asked for", Expected: quote(want), Found: string(got), Fix: "push the image again; if this stays, the registry or something before it alters content"}
}

// Blob returns the content of d, at most most bytes, held against d's size and
// digest. The registry may send us elsewhere for it, without credentials.
func (c *Client) Blob(ctx context.Context, repo signing.Repository, d Descriptor, most int64) ([]byte, error) {
	h, err := c.host(repo)
	if err != nil {
		return nil, err
	}
	if err := d.Digest.Validate(); err != nil {
		return nil, err
	}
	if d.Size < 0 || d.Size > min(most, maxBlob) {
		return nil, &signing.Error{Code: signing.TooLarge, Message: "the content " + string(d.Digest) + " is larger than this service reads", Expected: fmt.Sprintf("at most %d bytes", min(most, maxBlob)), Found: fmt.Sprintf("%d bytes", d.Size)}
	}
	ans, err := c.do(ctx, h, request{
		method: http.MethodGet, path: repo.Path(), at: "blobs/" + string(d.Digest), access: pull,
		most: d.Size, follow: true, ok: []int{http.StatusOK},
	})
	if err != nil {
		return nil, err
	}
	if got := signing.DigestOf(ans.body); got != d.Digest || int64(len(ans.body)) != d.Size {
		return nil, mismatch(h, fmt.Sprintf("%d bytes", d.Size), string(d.Digest), got)
	}
	return ans.body, nil
}

// Referrers lists the manifests whose subject is digest, by the referrers API or,
// where a registry has none, by the fallback tag. An empty artifactType is every
// type. No referrers is an empty list; everything else that keeps us from knowing
// is an error.
func (c *Client) Referrers(ctx context.Context, repo signing.Repository, digest signing.Digest, artifactType string) ([]Descriptor, error) {
	h, err := c.host(repo)
	if err != nil {
		return nil, err
	}
	if err := digest.Validate(); err != nil {
		return nil, err
	}
	r := request{
		method: http.MethodGet, path: repo.Path(), at: "referrers/" + string(digest), access: pull, accept: MediaTypeIndex, most: MaxManifest,
		// The ways in which registries are known to say that they lack the API.
		ok: []int{http.StatusOK, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusBadRequest},
	}
	if artifactType != "" {
		r.at += "?artifactType=" + url.QueryEscape(artifactType)
	}
	var out []Descriptor
	for range maxReferrerPages {
		ans, err := c.do(ctx, h, r)
		if err != nil {
			return nil, err
		}
		served, _, _ := mime.ParseMediaType(ans.header.Get("Content-Type"))
		if r.url == nil && (ans.status != http.StatusOK || served != MediaTypeIndex) {
			return c.fallbackReferrers(ctx, repo, digest, artifactType)
		}
		if ans.status != http.StatusOK {
			return nil, h.statusError(r.path, ans.status, ans.header, ans.body)
		}
		m, err := ParseManifest(ans.body, served)
		if err != nil {
			return nil, err
		}
		if out, err = gather(out, m.Manifests, artifactType); err != nil {
			return nil, err
		}
		next, err := h.nextPage(ans)
		if err != nil || next == nil {
			return out, err
		}
		r.url = next
	}
	return nil, tooManyReferrers()
}

func (c *Client) fallbackReferrers(ctx context.Context, repo signing.Repository, digest signing.Digest, artifactType string) ([]Descriptor, error) {
	_, m, err := c.manifest(ctx, repo, fallbackTag(digest), pull)
	if errors.Is(err, signing.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return gather(nil, m.Manifests, artifactType)
}

// fallbackTag is the referrers tag schema of the distribution specification.
func fallbackTag(d signing.Digest) string { return "sha256-" + d.Hex() }

func gather(out, more []Descriptor, artifactType string) ([]Descriptor, error) {
	for _, d := range more {
		if artifactType != "" && d.ArtifactType != artifactType || slices.ContainsFunc(out, func(o Descriptor) bool { return o.Digest == d.Digest }) {
			continue
		}
		if len(out) == MaxReferrers {
			return nil, tooManyReferrers()
		}
		out = append(out, d)
	}
	return out, nil
}

func tooManyReferrers() error {
	return &signing.Error{Code: signing.TooLarge, Message: "the image has more referrers than this service reads", Expected: fmt.Sprintf("at most %d of one type on %d pages", MaxReferrers, maxReferrerPages), Fix: "remove the referrers that nobody needs"}
}

// nextPage reads the Link header (RFC 8288) of a list. It stays on the host.
func (h *host) nextPage(a *answer) (*url.URL, error) {
	for _, link := range a.header.Values("Link") {
		target, params, ok := strings.Cut(link, ">")
		target, opened := strings.CutPrefix(strings.TrimSpace(target), "<")
		if !ok || !opened || !strings.Contains(strings.ReplaceAll(params, `"`, ""), "rel=next") {
			continue
		}
		return h.sameHost(a.url, target)
	}
	return nil, nil
}

// sameHost resolves a reference that a registry gave. Requests with credentials
// follow it, so it must not lead to another host.
func (h *host) sameHost(base *url.URL, ref string) (*url.URL, error) {
	u, err := base.Parse(ref)
	if err != nil || !strings.EqualFold(u.Host, h.api.Host) || u.User != nil {
		return nil, &signing.Error{Code: signing.Denied, Message: h.title() + " sends a request that carries credentials elsewhere", Expected: "an address on " + h.api.Host, Found: quote(ref), Fix: "if a proxy is in front of the registry, have it pass the Host header on"}
	}
	// Behind a proxy that ends TLS registries think that they speak http.
	u.Scheme, u.Fragment = h.api.Scheme, ""
	return u, nil
}

// Signed reads the `.sig` image at tag: every layer in order, payloads with their
// bytes. A missing image is NotFound. At
// most MaxLayers layers of MaxSignature bytes are read; beyond that it is
// TooLarge, as an endless list of signatures must not read as a short one.
func (c *Client) Signed(ctx context.Context, repo signing.Repository, tag string) ([]Layer, error) {
	_, m, err := c.manifest(ctx, repo, tag, pull)
	if err != nil {
		return nil, err
	}
	if m.Index() {
		return nil, notSignatures(repo, tag, m.MediaType)
	}
	if len(m.Layers) > MaxLayers {
		return nil, tooManyLayers(repo, tag, len(m.Layers))
	}
	out := make([]Layer, len(m.Layers))
	first := map[signing.Digest]int{} // signatures of one payload share a blob
	var jobs []func(context.Context) error
	for i, d := range m.Layers {
		out[i].Descriptor = d
		if d.MediaType != MediaTypeSimpleSigning {
			continue
		}
		if _, ok := first[d.Digest]; ok {
			continue
		}
		first[d.Digest] = i
		jobs = append(jobs, func(ctx context.Context) (err error) {
			out[i].Bytes, err = c.Blob(ctx, repo, d, MaxSignature)
			return err
		})
	}
	if err := each(ctx, jobs); err != nil {
		return nil, err
	}
	for i := range out {
		if j, ok := first[out[i].Digest]; ok && j != i && out[i].MediaType == out[j].MediaType {
			if out[i].Size != out[j].Size {
				return nil, unfit("two layers of one digest have two sizes", "", string(out[i].Digest))
			}
			out[i].Bytes = out[j].Bytes
		}
	}
	return out, nil
}

func notSignatures(repo signing.Repository, tag, found string) error {
	return &signing.Error{Code: signing.Conflict, Message: string(repo) + ":" + tag + " is not an image of signatures", Expected: MediaTypeImage + " with an image config", Found: quote(found), Fix: "remove the tag, or rename it if something else needs it"}
}

func tooManyLayers(repo signing.Repository, tag string, n int) error {
	return &signing.Error{Code: signing.TooLarge, Message: string(repo) + ":" + tag + " holds too many signatures", Expected: fmt.Sprintf("at most %d", MaxLayers), Found: fmt.Sprint(n), Fix: "find out who signs this image again and again, then remove the tag and sign anew"}
}

// each runs jobs side by side, some at a time, and returns the first error. The
// others are canceled then.
func each(ctx context.Context, jobs []func(context.Context) error) error {
	const atOnce = 8 // below the share of one host, so that others get their turn
	if len(jobs) == 1 {
		return jobs[0](ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wg    sync.WaitGroup
		once  sync.Once
		first error
		place = make(chan struct{}, atOnce)
	)
	for _, job := range jobs {
		place <- struct{}{}
		wg.Go(func() {
			defer func() { <-place }()
			if err := job(ctx); err != nil {
				once.Do(func() { first = err; cancel() })
			}
		})
	}
	wg.Wait()
	return first
}
