package methodtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/signing"
)

func (b *bench) alteredIntent() {
	in := b.prepare(b.target)
	a := b.target.Artifact
	replaced := func(old, with string) signing.Intent {
		c := in
		if b.s.Rewrite != nil {
			c = b.s.Rewrite(in, old, with)
		} else {
			c.Bytes = bytes.ReplaceAll(in.Bytes, []byte(old), []byte(with))
		}
		if bytes.Equal(c.Bytes, in.Bytes) && bytes.Equal(c.Replay, in.Replay) {
			b.Errorf("the intent does not hold %q", old)
		}
		return c
	}
	intents := map[string]signing.Intent{
		"nothing":          {},
		"another digest":   replaced(a.Digest.Hex(), signing.DigestOf([]byte("evil")).Hex()),
		"truncated":        {Bytes: in.Bytes[:len(in.Bytes)-1], Hash: in.Hash, Padding: in.Padding, Replay: in.Replay},
		"something behind": {Bytes: append(bytes.Clone(in.Bytes), '\n'), Hash: in.Hash, Padding: in.Padding, Replay: in.Replay},
	}
	if in.Replay != nil {
		// The bytes of one intent with the rest of another.
		c := replaced(a.Digest.Hex(), signing.DigestOf([]byte("evil")).Hex())
		intents["bytes of another"] = signing.Intent{Bytes: c.Bytes, Hash: in.Hash, Padding: in.Padding, Replay: in.Replay}
		intents["no replay"] = signing.Intent{Bytes: in.Bytes, Hash: in.Hash, Padding: in.Padding}
	}
	if b.s.Tags {
		intents["another repository"] = replaced(a.Repository.Path(), "acme/evil")
		intents["another tag"] = replaced(a.Tag, "latest")
		intents["no tag"] = replaced(":"+a.Tag, "")
	}
	for what, c := range intents {
		said, err := b.m.Inspect(c)
		if err == nil {
			err = said.Matches(a)
		}
		b.refuses(what, err)
	}
}

func (b *bench) otherDigest() {
	second := b.newTarget(b.w.Push(b, "acme/web"), b.target.Key.ID)
	second.Artifact.Tag = b.target.Artifact.Tag
	third := b.newTarget(b.w.Push(b, "acme/api"), b.target.Key.ID)
	in := b.prepare(b.target)
	raw := Sign(b, b.signer, in)
	e, err := b.m.Assemble(b.target, in, raw)
	if err != nil {
		b.Fatal(err)
	}
	b.publish(b.target, e)
	b.w.Wire.Reset()
	for _, t := range []method.Target{second, third} {
		_, err = b.m.Assemble(t, in, raw)
		b.refuses("Assemble", err)
		_, err = b.m.Publish(b.Context(), t, e)
		b.refuses("Publish", err)
		_, err = b.m.Verify(b.Context(), t, e)
		b.refuses("Verify", err)
		if n := b.s.Count(b, t.Artifact); n != 0 {
			b.Errorf("%s has %d signatures", t.Artifact, n)
		}
	}
	if b.w.Wire.Writes() > 0 {
		b.Errorf("a refused envelope was written: %v", b.w.Wire.Requests())
	}
}

func (b *bench) alteredEnvelope() {
	e := b.envelope(b.target)
	b.publish(b.target, e)
	b.w.Wire.Reset()
	altered := map[string]signing.Envelope{}
	for what, f := range map[string]func(*signing.Envelope){
		"another method":     func(e *signing.Envelope) { e.Method = "other" },
		"another media type": func(e *signing.Envelope) { e.MediaType = "application/json" },
		"another key":        func(e *signing.Envelope) { e.KeyID = "other" },
		"no bytes":           func(e *signing.Envelope) { e.Bytes = nil },
		"something behind":   func(e *signing.Envelope) { e.Bytes = append(bytes.Clone(e.Bytes), ' ') },
	} {
		c := e
		f(&c)
		altered[what] = c
	}
	for _, i := range places(len(e.Bytes)) {
		c := e
		c.Bytes = flip(e.Bytes, i)
		altered[fmt.Sprintf("byte %d", i)] = c
	}
	for what, c := range altered {
		_, err := b.m.Publish(b.Context(), b.target, c)
		b.refuses(what, err)
		_, err = b.m.Verify(b.Context(), b.target, c)
		b.refuses(what, err)
	}
	if b.w.Wire.Writes() > 0 {
		b.Errorf("an altered envelope was written: %v", b.w.Wire.Requests())
	}
	b.count(1)
}

func (b *bench) failingRegistry() {
	e := b.envelope(b.target)
	b.publish(b.target, e)
	for _, c := range []struct {
		status int
		code   string
		header http.Header
		want   signing.Code
	}{
		{http.StatusTooManyRequests, "TOOMANYREQUESTS", http.Header{"Retry-After": {"7"}}, signing.RateLimited},
		{http.StatusInternalServerError, "UNKNOWN", nil, signing.Unavailable},
		{http.StatusBadGateway, "UNKNOWN", nil, signing.Unavailable},
		{http.StatusForbidden, "DENIED", nil, signing.Denied},
	} {
		b.w.Wire.Answer(func(r *http.Request) *http.Response { return Status(r, c.status, c.code, c.header.Clone()) })
		_, prepared := b.m.Prepare(b.Context(), b.target, at)
		_, published := b.m.Publish(b.Context(), b.target, e)
		_, verified := b.m.Verify(b.Context(), b.target, e)
		for what, err := range map[string]error{"Prepare": prepared, "Publish": published, "Verify": verified} {
			var se *signing.Error
			if !errors.As(err, &se) || se.Code != c.want || errors.Is(err, method.ErrStaleBase) {
				b.Errorf("%s at %d: %v, want %s", what, c.status, err, c.want)
			} else if c.want == signing.RateLimited && se.RetryAfter != 7*time.Second {
				b.Errorf("%s at %d: retry after %v", what, c.status, se.RetryAfter)
			}
		}
	}
	b.w.Wire.Answer(nil)
	b.count(1)
}

func (b *bench) lostSignature() {
	e := b.envelope(b.target)
	// A registry that says that it wrote, and did not.
	b.w.Wire.Answer(func(r *http.Request) *http.Response {
		if r.Method != http.MethodPut {
			return nil
		}
		return Status(r, http.StatusCreated, "", nil)
	})
	b.publish(b.target, e)
	b.w.Wire.Answer(nil)
	if _, err := b.m.Verify(b.Context(), b.target, e); !errors.Is(err, method.ErrStaleBase) {
		b.Errorf("got %v, want a stale base", err)
	}
	b.publish(b.target, e)
	b.verify(b.target, e)
}

func (b *bench) alteredContent() {
	e := b.envelope(b.target)
	b.publish(b.target, e)
	// Places of every body that Verify reads are altered in turn.
	longest := 0
	b.w.Wire.Alter(func(_ *http.Request, body []byte) []byte { longest = max(longest, len(body)); return body })
	b.verify(b.target, e)
	if longest == 0 {
		b.Fatal("Verify reads nothing")
	}
	for _, i := range places(longest) {
		var before, after []byte
		var path string
		b.w.Wire.Alter(func(r *http.Request, body []byte) []byte {
			if after != nil || i >= len(body) {
				return body
			}
			before, after, path = body, flip(body, i), r.URL.Path
			return after
		})
		if _, err := b.m.Verify(b.Context(), b.target, e); err == nil && after != nil && !sameContent(before, after) {
			b.Errorf("byte %d of %s was %q, is %q, and Verify accepts it", i, path, before[i], after[i])
		}
	}
}

// sameContent reports whether two bodies are manifests that list the same
// content, or lists of the same manifests: only then may an altered body be
// accepted.
func sameContent(before, after []byte) bool {
	type descriptor struct {
		MediaType    string            `json:"mediaType"`
		Digest       string            `json:"digest"`
		Size         int64             `json:"size"`
		ArtifactType string            `json:"artifactType"`
		Annotations  map[string]string `json:"annotations"`
	}
	var x, y struct {
		Layers    []descriptor `json:"layers"`
		Manifests []descriptor `json:"manifests"`
	}
	if json.Unmarshal(before, &x) != nil || json.Unmarshal(after, &y) != nil {
		return false
	}
	// Annotations of a layer are part of a signature; those of a list's entry are
	// a copy of the manifest's, whose digest is in the entry.
	for _, list := range [][]descriptor{x.Manifests, y.Manifests} {
		for i := range list {
			list[i].Annotations = nil
		}
	}
	return len(x.Layers)+len(x.Manifests) > 0 && cmp.Equal(x, y)
}

// places returns every place of n bytes, or as many as mostPlaces, spread.
func places(n int) []int {
	step := (n + mostPlaces - 1) / mostPlaces
	var out []int
	for i := 0; i < n; i += max(step, 1) {
		out = append(out, i)
	}
	return out
}

// flip returns b with one bit of byte i changed.
func flip(b []byte, i int) []byte {
	c := bytes.Clone(b)
	c[i] ^= 1
	return c
}
