package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sealwright/sealwright/internal/facts"
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

const (
	// MaxContent bounds one piece that a job uploads: a manifest or an image
	// configuration.
	MaxContent = registry.MaxManifest
	// maxContents and maxContentBytes bound what is uploaded for one Request: some
	// manifests and configurations for each artifact, which have a few KB each.
	maxContents     = 16 * signing.MaxArtifacts
	maxContentBytes = 64 << 20
	// contentWait is when a Request that waits for its job's content is looked at
	// although the content that completes it was not seen to arrive.
	contentWait = 5 * time.Second
)

// errContent says that the job has not uploaded everything yet.
var errContent = errors.New("the job has not uploaded everything yet")

// PutContent keeps a manifest or an image configuration of a Request that its
// job publishes: the service decides by what the job uploads, held against the
// digests that were submitted. The artifacts' own manifests come last: with the
// last of them the Request is decided.
//
// Errors: NotFound as in Read; Conflict for a Request that is published by the
// service, or decided already; Invalid for bytes of another digest; TooLarge.
func (w *Workflow) PutContent(ctx context.Context, requestID, capability string, digest signing.Digest, content []byte) error {
	if err := digest.Validate(); err != nil {
		return err
	}
	if len(content) == 0 || len(content) > MaxContent {
		return &signing.Error{Code: signing.TooLarge, Message: "the content is empty or too large", Expected: fmt.Sprintf("1 to %d bytes", MaxContent), Found: fmt.Sprint(len(content))}
	}
	complete := false
	err := w.Store.Update(ctx, "content", func(tx *store.Tx) error {
		s, err := w.clients(tx, requestID, capability)
		if err != nil {
			return err
		}
		r := s.Request
		if r.State != signing.Pending {
			return &signing.Error{Code: signing.Conflict, Message: "the request takes no content any more", Expected: "a pending request", Found: string(r.State), Fix: "read the request"}
		}
		named := map[signing.Digest]bool{}
		for _, a := range r.Artifacts {
			named[a.Digest] = true
		}
		if err := tx.PutContent(r.ID, digest, named[digest], content); err != nil {
			return err
		}
		have, err := tx.Contents(r.ID)
		if err != nil {
			return err
		}
		if have.N > maxContents || have.Bytes > maxContentBytes {
			return &signing.Error{Code: signing.TooLarge, Message: "too much content for one request", Expected: fmt.Sprintf("at most %d pieces and %d bytes", maxContents, maxContentBytes), Found: fmt.Sprintf("%d pieces and %d bytes", have.N, have.Bytes), Fix: "split the submission, or let the service publish"}
		}
		complete = named[digest] && have.Artifacts == len(named)
		if complete {
			return tx.Enqueue(store.Job{Kind: jobDrive, Ref: r.ID})
		}
		return nil
	})
	if err == nil && complete {
		w.kick()
	}
	return err
}

// clients reads a Request for its job, which publishes it.
func (w *Workflow) clients(tx *store.Tx, requestID, capability string) (Snapshot, error) {
	if err := allowed(tx, requestID, capability); err != nil {
		return Snapshot{}, err
	}
	s, err := snapshot(tx, requestID)
	if err == nil {
		err = w.outlived(s.Request)
	}
	if err == nil && s.Request.Publish != signing.ByClient {
		err = &signing.Error{Code: signing.Conflict, Message: "the service publishes this request", Expected: "a request that was submitted with `publish: client`", Found: "one that was not", Fix: "wait for the service"}
	}
	return s, err
}

// deliverable reports whether the job can publish what the steps make.
func (d *drive) deliverable(steps []signing.Step) signing.Reason {
	out := signing.Reason{Rule: "publish", Pass: true}
	if d.request.Publish != signing.ByClient {
		return out
	}
	for _, s := range steps {
		m, known := d.w.Methods[s.Method]
		if _, ok := m.(method.Attacher); known && !ok {
			out.Pass = false
			out.Children = append(out.Children, signing.Reason{Rule: "publish." + s.Method, Wanted: "methods whose signatures are in the image's registry, with `publish: client`", Found: s.Method, Fix: "let the service publish, or take the method out of this policy"})
		}
	}
	return out
}

// reader is where the facts of the Request are read.
func (d *drive) reader() facts.Reader {
	if d.request.Publish == signing.ByClient {
		return &uploaded{w: d.w, request: d.request}
	}
	return d.w.Registry
}

// uploaded reads what the job uploaded. It asks no registry.
type uploaded struct {
	w       *Workflow
	request *signing.Request
}

// Manifest returns an uploaded manifest. Its media type is the one that it names
// itself; without one it is OCI's by its fields, never what the job says.
func (u *uploaded) Manifest(ctx context.Context, repo signing.Repository, digest string) ([]byte, registry.Descriptor, error) {
	raw, err := u.read(ctx, repo, signing.Digest(digest))
	if err != nil {
		return nil, registry.Descriptor{}, err
	}
	var said struct {
		MediaType string          `json:"mediaType"`
		Manifests json.RawMessage `json:"manifests"`
	}
	// What is no JSON object is refused below, with the right words.
	_ = json.Unmarshal(raw, &said)
	switch {
	case said.MediaType != "":
	case said.Manifests != nil:
		said.MediaType = registry.MediaTypeIndex
	default:
		said.MediaType = registry.MediaTypeImage
	}
	m, err := registry.ParseManifest(raw, said.MediaType)
	if err != nil {
		return nil, registry.Descriptor{}, err
	}
	return raw, registry.Descriptor{MediaType: m.MediaType, Digest: signing.Digest(digest), Size: int64(len(raw)), ArtifactType: m.ArtifactType}, nil
}

// Blob returns an uploaded image configuration.
func (u *uploaded) Blob(ctx context.Context, repo signing.Repository, d registry.Descriptor, most int64) ([]byte, error) {
	if d.Size < 0 || d.Size > min(most, MaxContent) {
		return nil, &signing.Error{Code: signing.TooLarge, Message: "the content " + string(d.Digest) + " is larger than this service reads", Expected: fmt.Sprintf("at most %d bytes", min(most, MaxContent)), Found: fmt.Sprintf("%d bytes", d.Size)}
	}
	raw, err := u.read(ctx, repo, d.Digest)
	if err == nil && int64(len(raw)) != d.Size {
		err = &signing.Error{Code: signing.Invalid, Message: "the manifest names another size than the content has", Expected: fmt.Sprint(d.Size), Found: fmt.Sprint(len(raw)), Fix: "push the image again"}
	}
	return raw, err
}

// read returns content of the Request, in one of its repositories. What is not
// there yet is awaited.
func (u *uploaded) read(ctx context.Context, repo signing.Repository, digest signing.Digest) (raw []byte, err error) {
	if !slices.ContainsFunc(u.request.Artifacts, func(a signing.Artifact) bool { return a.Repository == repo }) {
		return nil, &signing.Error{Code: signing.NotFound, Message: "no such repository in this request", Found: string(repo)}
	}
	if err := digest.Validate(); err != nil {
		return nil, err
	}
	err = u.w.Store.View(ctx, func(tx *store.Tx) (err error) {
		raw, err = tx.Content(u.request.ID, digest)
		return err
	})
	if errors.Is(err, signing.NotFound) {
		err = &signing.Error{Code: signing.Unavailable, Message: "the job has not uploaded " + string(digest), Err: errContent}
	}
	return raw, err
}

// rest gives the job back until something happens, or the time is there.
func (d *drive) rest(ctx context.Context, until time.Time) {
	if until.After(d.request.Deadline) {
		until = d.request.Deadline
	}
	err := d.w.Store.Update(ctx, "rest", func(tx *store.Tx) error { return tx.Release(d.claim, until) })
	if err != nil && ctx.Err() == nil {
		d.log.Error("giving a job back; its lease will run out", "error", err)
	}
	d.w.tell(d.claim.Ref, nil)
}
