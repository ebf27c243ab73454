package devworld

import (
	"context"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// manifests is a rule's path for reading and writing manifests.
var manifests = regexp.MustCompile(`/manifests/`)

func head(t *testing.T, w *World, image Image) error {
	t.Helper()
	ref, err := name.ParseReference(image.Reference())
	if err != nil {
		t.Fatal(err)
	}
	_, err = remote.Get(ref, remote.WithContext(t.Context()), remote.WithRetryStatusCodes(), remote.WithRetryBackoff(remote.Backoff{Steps: 1}))
	return err
}

func TestFaultsSpoilWhatTheirRulesNameAndNothingElse(t *testing.T) {
	w := start(t, Options{})
	image, err := w.Registry.PushImage(t.Context(), ImageSpec{Repository: "payments/web"})
	if err != nil {
		t.Fatal(err)
	}
	for title, c := range map[string]struct {
		rule Rule
		want func(error) bool
	}{
		"status":    {Rule{Status: 429, Header: http.Header{"Retry-After": {"7"}}}, func(err error) bool { var e *transport.Error; return errors.As(err, &e) && e.StatusCode == 429 }},
		"abort":     {Rule{Abort: true}, func(err error) bool { return err != nil }},
		"truncated": {Rule{Truncate: 20}, func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		"replaced": {Rule{Replace: http.NotFoundHandler()}, func(err error) bool {
			var e *transport.Error
			return errors.As(err, &e) && e.StatusCode == 404
		}},
		"other path": {Rule{Path: regexp.MustCompile(`/blobs/`), Abort: true}, func(err error) bool { return err == nil }},
		"skipped":    {Rule{Path: manifests, Skip: 1, Abort: true}, func(err error) bool { return err == nil }},
		"counting":   {Rule{Path: manifests}, func(err error) bool { return err == nil }},
	} {
		if c.rule.Path == nil {
			c.rule.Path = manifests
		}
		h := w.Registry.Add(c.rule)
		if err := head(t, w, image); !c.want(err) {
			t.Errorf("%s: %v", title, err)
		}
		h.Remove()
		if err := head(t, w, image); err != nil {
			t.Errorf("%s: still there after Remove: %v", title, err)
		}
	}
}

func TestAbortAfterTakesEffectAndAbortDoesNot(t *testing.T) {
	for _, after := range []bool{true, false} {
		w := start(t, Options{})
		w.Registry.Add(Rule{Method: http.MethodPut, Path: manifests, Times: 1, After: after, Abort: true})
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+w.Registry.Host+"/v2/a/b/manifests/t", strings.NewReader(`{"schemaVersion":2}`))
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := http.DefaultClient.Do(r); err == nil {
			resp.Body.Close()
			t.Fatalf("answered %d", resp.StatusCode)
		}
		resp, err := http.Get("http://" + w.Registry.Host + "/v2/a/b/manifests/t")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if happened := resp.StatusCode == http.StatusOK; happened != after {
			t.Errorf("After=%v: happened=%v", after, happened)
		}
	}
}

func TestHeldRequestGoesOnWhenReleasedAndVanishesWithItsClient(t *testing.T) {
	w := start(t, Options{})
	put := func(ctx context.Context, tag string) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+w.Registry.Host+"/v2/a/b/manifests/"+tag, strings.NewReader(`{"schemaVersion":2}`))
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(r)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	exists := func(tag string) bool {
		resp, err := http.Get("http://" + w.Registry.Host + "/v2/a/b/manifests/" + tag)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}
	done := make(chan error, 1)
	h := w.Registry.Add(Rule{Method: http.MethodPut, Hold: true})
	go func() { done <- put(t.Context(), "kept") }()
	<-h.Arrived()
	if exists("kept") || h.Held() != 1 {
		t.Errorf("before release: exists %v, held %d", exists("kept"), h.Held())
	}
	h.Remove()
	if err := <-done; err != nil || !exists("kept") {
		t.Errorf("after release: %v, exists %v", err, exists("kept"))
	}

	h = w.Registry.Add(Rule{Method: http.MethodPut, Hold: true})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- put(ctx, "gone") }()
	<-h.Arrived()
	cancel()
	<-done
	h.Drop()
	h.Remove()
	if exists("gone") {
		t.Error("a dropped request took effect")
	}
}

func TestAccessLogCountsWhatWasAsked(t *testing.T) {
	w := start(t, Options{})
	if _, err := claims(t, w.GitHub.URL(), "not a token"); err == nil {
		t.Fatal("accepted")
	}
	if n := w.CI.Count(http.MethodGet, regexp.MustCompile(`/openid-configuration$`)); n != 1 {
		t.Errorf("%d discovery requests", n)
	}
	if got := w.CI.Log()[0]; got.Status != http.StatusOK || got.Path != "/github/.well-known/openid-configuration" {
		t.Errorf("log %+v", got)
	}
}
