package submit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/sealwright/sealwright/internal/ci"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// registryTries is how often one step of the work at the registry is tried
	// while the registry throttles or cannot be reached.
	registryTries = 5
	// writers is how many images are worked on at once at the registries; the
	// client bounds each host further.
	writers = 8
)

// tagMove is a tag that is to name an image once its signatures are there.
type tagMove struct {
	repository signing.Repository
	tag        string
	digest     signing.Digest // known once the images are resolved
	done       bool
}

func (m tagMove) name() string { return string(m.repository) + ":" + m.tag }

// parseTagsAfter reads TAG, which is moved in the repository of every image, and
// REPOSITORY:TAG, as docker/metadata-action puts them out.
func parseTagsAfter(list []string, images []image, signTags []signTag) ([]tagMove, error) {
	var out []tagMove
	for _, entry := range list {
		repository, tag := signing.Repository(""), entry
		if strings.Contains(entry, "/") {
			a, err := signing.ParseReference(entry)
			if err == nil && (a.Tag == "" || a.Digest != "") {
				err = &signing.Error{Code: signing.Invalid, Message: "not a tag", Expected: "TAG or REPOSITORY:TAG", Found: entry}
			}
			if err != nil {
				return nil, inTagsAfter(err)
			}
			repository, tag = a.Repository, a.Tag
		} else if err := signing.ValidateTag(tag); err != nil {
			return nil, inTagsAfter(err)
		}
		if slices.ContainsFunc(signTags, func(t signTag) bool {
			return t.tag == tag && (repository == "" || t.repository == "" || t.repository == repository)
		}) {
			return nil, &signing.Error{Code: signing.Invalid, Message: "`tags-after`: the tag is in `sign-tag` too", Expected: "a tag that is signed along, or one that is moved afterwards", Found: tag, Fix: "the service resolves a tag to be signed before it uses the key, so it must be there before: take it out of one of the two"}
		}
		known := false
		for _, i := range images {
			if repository != "" && i.repository != repository {
				continue
			}
			known = true
			if i.digest == "" && i.tag == tag {
				return nil, &signing.Error{Code: signing.Invalid, Message: "`tags-after`: the image is given by the tag that is to be moved", Expected: "an image by digest, or under another tag", Found: i.given, Fix: "push by digest or under a temporary tag, and give that"}
			}
			if m := (tagMove{repository: i.repository, tag: tag}); !slices.Contains(out, m) {
				out = append(out, m)
			}
		}
		if !known {
			return nil, &signing.Error{Code: signing.Invalid, Message: "`tags-after`: no image of this step is in that repository", Expected: "a repository of `images` or `digests-file`", Found: entry}
		}
	}
	if len(out) > signing.MaxArtifacts {
		return nil, inTagsAfter(&signing.Error{Code: signing.Invalid, Message: "too many tags", Expected: fmt.Sprintf("at most %d", signing.MaxArtifacts), Found: fmt.Sprint(len(out))})
	}
	return out, nil
}

func inTagsAfter(err error) error { return inInput("tags-after", err) }

// aim gives every move the digest of the one image in its repository.
func aim(moves []tagMove, images []image) error {
	for n := range moves {
		m := &moves[n]
		for _, i := range images {
			switch {
			case i.repository != m.repository:
			case m.digest == "":
				m.digest = i.digest
			case m.digest != i.digest:
				return usageError{&signing.Error{Code: signing.Invalid, Message: "`tags-after`: the tag cannot name two images", Expected: "one digest in " + string(m.repository), Found: string(m.digest) + " and " + string(i.digest), Fix: "sign the images in two steps, each with its tag"}}
			}
		}
	}
	return nil
}

// lookAtTags asks, before anything is submitted, what the tags name now: a
// registry that refuses this step must refuse it before a key is used. It
// returns the tags that name their image already.
func (s *step) lookAtTags(ctx context.Context) (early []string, err error) {
	var mu sync.Mutex // guards early
	err = s.each(ctx, len(s.moves), func(ctx context.Context, n int) error {
		m := s.moves[n]
		var now signing.Digest
		err := s.patiently(ctx, func() (err error) {
			now, err = s.Registries.Resolve(ctx, m.repository, m.tag)
			return err
		})
		if errors.Is(err, signing.NotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("resolving %s: %w", m.name(), err)
		}
		if now == m.digest {
			mu.Lock()
			defer mu.Unlock()
			early = append(early, m.name())
		}
		return nil
	})
	slices.Sort(early)
	return early, err
}

// warnEarly says that a tag names an image that is not signed yet.
func (s *step) warnEarly(early []string) {
	if len(early) == 0 || s.request.State.Terminal() {
		return // a step that is repeated finds its own work
	}
	s.warn("tags named the image before it was signed", strings.Join(early, ", ")+": the build step pushed under a tag of `tags-after`, so that it names an unsigned image for a while; push by digest, or under another tag")
}

// moveTags points the tags at their images. It runs only when every signature
// of the request is there, and looks for each with the job's own eyes first:
// whatever ends this process at any moment, no tag of `tags-after` was ever
// pointed at an image by it whose signatures could not be read.
func (s *step) moveTags(ctx context.Context) error {
	if len(s.moves) == 0 {
		return nil
	}
	if err := s.seeSignatures(ctx); err != nil {
		return err
	}
	return s.each(ctx, len(s.moves), func(ctx context.Context, n int) error {
		m := &s.moves[n]
		err := s.patiently(ctx, func() error { return s.Registries.Tag(ctx, m.repository, m.digest, m.tag) })
		if err != nil {
			return localError{fmt.Errorf("moving %s: %w", m.name(), err)}
		}
		m.done = true
		return nil
	})
}

// seeSignatures reads what the service says that it published: where the job
// sees another registry than the service, a tag must not move.
func (s *step) seeSignatures(ctx context.Context) error {
	var places []signing.Artifact
	for _, t := range s.request.Tasks {
		for _, l := range t.Locations {
			if l.Kind != "tag" && l.Kind != "referrer" {
				continue // not in a registry
			}
			a, err := signing.ParseReference(l.URI)
			if err != nil || string(a.Repository) != t.Artifact.Repository || a.Tag == "" && a.Digest == "" {
				return mismatchError{&signing.Error{Code: signing.Internal, Message: "the service names a place that is none for a signature of this image", Expected: "a tag or digest in " + t.Artifact.Repository, Found: ci.Clean(l.URI), Fix: "do not ship this image; report this to the operator of the service"}}
			}
			if !slices.Contains(places, a) {
				places = append(places, a)
			}
		}
	}
	return s.each(ctx, len(places), func(ctx context.Context, n int) error {
		a := places[n]
		ref := a.Tag
		if a.Digest != "" {
			ref = string(a.Digest)
		}
		err := s.patiently(ctx, func() error {
			_, err := s.Registries.Resolve(ctx, a.Repository, ref)
			return err
		})
		if errors.Is(err, signing.NotFound) {
			return mismatchError{&signing.Error{Code: signing.Internal, Message: "a signature that the service published is not there for this job", Expected: "a manifest at " + ci.Clean(a.String()), Found: "none", Fix: "check that job and service mean the same registry; no tag was moved", Err: err}}
		}
		if err != nil {
			return localError{fmt.Errorf("reading the signatures at %s: %w", a, err)}
		}
		return nil
	})
}

// patiently tries f again while the registry throttles or cannot be reached.
// What f does must be the same if it is done twice.
func (s *step) patiently(ctx context.Context, f func() error) error {
	wait := minBackoff
	for try := 1; ; try++ {
		err := f()
		if err == nil || !signing.Temporary(err) || try == registryTries || ctx.Err() != nil {
			return err
		}
		if err := s.Sleep(ctx, min(backoff(wait, err), maxBackoff)); err != nil {
			return err
		}
		wait *= 2
	}
}

// each runs n pieces of work, some at a time, and returns the first error; the
// others are canceled then.
func (s *step) each(ctx context.Context, n int, do func(context.Context, int) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wg    sync.WaitGroup
		once  sync.Once
		first error
		place = make(chan struct{}, writers)
	)
	for i := range n {
		place <- struct{}{}
		if ctx.Err() != nil {
			<-place
			break
		}
		wg.Go(func() {
			defer func() { <-place }()
			if err := do(ctx, i); err != nil {
				once.Do(func() { first = err; cancel() })
			}
		})
	}
	wg.Wait()
	if first == nil {
		return ctx.Err()
	}
	return first
}
